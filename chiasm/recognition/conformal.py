"""Conformal prediction: how strange an item may be before it is called so, with a rate that holds for any model.

This module knows how the scores of held-out items bound those of new ones, and makes of that sets of classes that hold
the true class as often as asked. Probabilities are the caller's; `chiasm.recognition.calibration` makes them better,
which makes the sets smaller and no more right. Everything here is plain numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.calibration import checked_codes, checked_probabilities, damaged
from chiasm.vectors import Unchecked

ConformalMethod: TypeAlias = Literal["lac", "aps"]

_MOST_SCORES = 10_000
_FEW_OF_CLASS = 20


@dataclass(frozen=True, eq=False)
class ConformalScores:
    """Scores of held-out items, against which those of new items are set.

    If a new item is exchangeable with the held-out ones, its score is at most `quantile(level)` with a probability of at
    least `level` and, without ties, at most `level + 1 / (count + 1)` (Vovk et al. 2005; Lei et al. 2018). That is an
    average over draws of the held-out items: one draw of n has a coverage with a standard deviation of about
    `sqrt(level * (1 - level) / n)` around it.
    """

    kept: Float64[np.ndarray, " kept"]
    """In rising order. Of more than 10,000, those at evenly spaced ranks, the largest among them."""
    count: int
    """How many there were."""

    @classmethod
    def of(cls, scores: Float[np.ndarray, " items"] | Unchecked, *, what: str = "held-out scores") -> ConformalScores:
        """Sort scores and keep at most 10,000.

        Raises:
            ChiasmError: not one number an item, or NaN or infinite.
            LabelError: there are none.
        """
        checked = checked_scores(scores, what)
        if not len(checked):
            raise LabelError(f"there are no {what}: hold out items of known classes that the model does not learn from")
        ordered = np.sort(checked)
        number = min(len(ordered), _MOST_SCORES)
        return cls(ordered[_ranks(np.arange(1, number + 1), len(ordered), number) - 1], len(ordered))

    def has_enough_for(self, level: float) -> bool:
        """Whether any finite score can hold the level: `count >= level / (1 - level)`."""
        return _rank_of(level, self.count) <= self.count

    def quantile(self, level: float) -> float:
        """The score of rank `ceil((count + 1) * level)`; infinite where that is more than `count`.

        Of thinned scores, the next above it that was kept.
        """
        rank = _rank_of(level, self.count)
        if rank > self.count:
            return math.inf
        return float(self.kept[(rank - 1) * len(self.kept) // self.count])

    def p_values(self, scores: Float[np.ndarray, " items"] | Unchecked) -> Float64[np.ndarray, " items"]:
        """The share of held-out scores, the item itself counted in, that are as large: small is strange.

        `(1 + number of held-out scores >= score) / (count + 1)`, which is below any `a` with probability at most `a` for
        exchangeable items. Of thinned scores, an upper bound.

        Raises:
            ChiasmError: not one number an item, or NaN or infinite.
        """
        below = np.searchsorted(self.kept, checked_scores(scores), side="left")
        smaller = _ranks(below, self.count, len(self.kept))
        values: Float64[np.ndarray, " items"] = (1 + self.count - smaller) / (self.count + 1)
        return values

    @classmethod
    def from_kept(cls, kept: Shaped[np.ndarray, "..."], count: int) -> ConformalScores:
        """What `kept` and `count` were.

        Raises:
            ValueError: they do not fit together.
        """
        if kept.ndim != 1 or kept.dtype != np.float64 or not np.isfinite(kept).all() or (np.diff(kept) < 0).any():
            raise ValueError(f"scores should be finite, rising float64; got {kept.dtype} {kept.shape}")
        if not 1 <= len(kept) == min(count, _MOST_SCORES):
            raise ValueError(f"{len(kept)} scores are kept of {count}")
        return cls(kept, count)


@dataclass(frozen=True, eq=False)
class ConformalSets:
    """Sets of classes that hold the true class of a new item with the probability asked for; by `fit_conformal_sets`.

    The promise is for items exchangeable with the held-out ones, on average over them (`lac`, `aps`), or for the items
    of each class that had enough held-out items (`by_class`), and it needs probabilities that are made in the same way
    at both times.
    """

    method: ConformalMethod
    classes: int
    seed: int
    marginal: ConformalScores
    by_class: dict[int, ConformalScores]
    """Scores of the classes that have their own; empty where the promise is not for each class."""

    def falls_back(self, *, level: float = 0.9) -> Bool[np.ndarray, " classes"]:
        """The classes that are judged by the scores of all: they have none of their own, or too few for the level."""
        _check_level(level)
        own = [k for k, scores in self.by_class.items() if scores.has_enough_for(level)]
        fallen = np.ones(self.classes, dtype=bool)
        fallen[own] = False
        return fallen

    def sets(
        self,
        probabilities: Float[np.ndarray, "items classes"] | Unchecked,
        *,
        level: float = 0.9,
        allow_empty: bool = False,
    ) -> Bool[np.ndarray, "items classes"]:
        """Which classes are in the set of each item.

        Where fewer than `level / (1 - level)` items were held out (9 for 0.9), all classes are in every set. The sets of
        `aps` depend on a draw for each item, the same in every call for the same row.

        Args:
            probabilities: rows sum to 1.
            level: how often the set is to hold the true class, between 0 and 1.
            allow_empty: a set may be empty, which says that no class fits. Otherwise the most probable class is in every
                set; then the coverage is above the level where that class alone is right more often than that.

        Raises:
            ChiasmError: `level` is not between 0 and 1, or the probabilities are none or of other classes.
        """
        fallen = self.falls_back(level=level)
        checked = checked_probabilities(probabilities, self.classes)
        limits = np.full(self.classes, self.marginal.quantile(level))
        for k in np.flatnonzero(~fallen):
            limits[k] = self.by_class[int(k)].quantile(level)
        inside: Bool[np.ndarray, "items classes"] = _nonconformity(checked, self.method, [self.seed, 1]) <= limits
        if not allow_empty:
            inside[np.arange(len(checked)), checked.argmax(axis=1)] = True
        return inside

    def as_fields(self) -> dict[str, Any]:
        """What JSON can hold of it; with `as_arrays` all that `from_arrays` needs."""
        return {
            "method": self.method,
            "classes": self.classes,
            "seed": self.seed,
            "items": self.marginal.count,
            "class_items": {str(k): scores.count for k, scores in self.by_class.items()},
        }

    def as_arrays(self) -> dict[str, Float64[np.ndarray, " kept"]]:
        """The scores that were kept, of all items and of classes by number."""
        return {"all": self.marginal.kept} | {str(k): scores.kept for k, scores in self.by_class.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]], fields: Mapping[str, Any]) -> ConformalSets:
        """What `as_arrays` and `as_fields` gave.

        Raises:
            ChiasmError: they do not make conformal sets.
        """
        try:
            method, classes, seed = fields["method"], int(fields["classes"]), int(fields["seed"])
            own = {
                int(k): ConformalScores.from_kept(arrays[k], int(count)) for k, count in fields["class_items"].items()
            }
            if (
                method not in get_args(ConformalMethod)
                or classes < 2
                or seed < 0
                or not all(0 <= k < classes for k in own)
            ):
                raise ValueError(
                    f"method {method!r} of {classes} classes, seed {seed}, scores of classes {sorted(own)}"
                )
            return cls(method, classes, seed, ConformalScores.from_kept(arrays["all"], int(fields["items"])), own)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise damaged("conformal sets", error) from error


def fit_conformal_sets(
    probabilities: Float[np.ndarray, "items classes"] | Unchecked,
    codes: Int[np.ndarray, " items"] | Unchecked,
    *,
    method: ConformalMethod = "lac",
    by_class: bool = False,
    seed: int = 0,
) -> ConformalSets:
    """Learn from held-out predictions how large a set of classes has to be. The level is asked for later.

    - `lac`: classes above one probability, the smallest sets on average (Sadinle, Lei & Wasserman 2019).
    - `aps`: the most probable classes until their sum is large enough, randomised at the last one (Romano, Sesia &
      Candès 2020); larger sets, whose size follows how hard an item is.

    Args:
        probabilities: of items that the model did not see, rows sum to 1.
        codes: the true class of each item, by number.
        method: see above.
        by_class: promise the level for the items of each class ("Mondrian", Vovk et al. 2005). Classes with fewer than
            20 held-out items, or too few for the level, are judged by the scores of all, without a promise of their own;
            `ConformalSets.falls_back` tells which.
        seed: of the draws of `aps`.

    Raises:
        ChiasmError: the probabilities are none, there is no such method, or the seed is negative.
        LabelError: there are no held-out items, one class only, or codes do not fit.
    """
    if method not in get_args(ConformalMethod):
        raise ChiasmError(f"there are no conformal sets {method!r}: take {' or '.join(get_args(ConformalMethod))}")
    if seed < 0:
        raise ChiasmError(f"the seed must not be negative; got {seed}")
    checked = checked_probabilities(probabilities)
    items, classes = checked.shape
    if classes < 2:
        raise LabelError("sets of one class only say nothing: at least 2 classes are needed")
    true = checked_codes(codes, items, classes)
    scores = _nonconformity(checked, method, [seed, 0])[np.arange(items), true]
    number = np.bincount(true, minlength=classes)
    own = [int(k) for k in np.flatnonzero(number >= _FEW_OF_CLASS)] if by_class else []
    return ConformalSets(
        method,
        classes,
        seed,
        ConformalScores.of(scores, what="held-out items"),
        {k: ConformalScores.of(scores[true == k]) for k in own},
    )


def _nonconformity(
    probabilities: Float64[np.ndarray, "items classes"], method: ConformalMethod, seed: list[int]
) -> Float64[np.ndarray, "items classes"]:
    """How badly each class fits each item."""
    if method == "lac":
        return 1 - probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    part = np.random.default_rng(seed).random((len(probabilities), 1))
    scores = np.empty_like(probabilities)
    np.put_along_axis(scores, order, np.cumsum(ranked, axis=1) - (1 - part) * ranked, axis=1)
    return scores


def _rank_of(level: float, count: int) -> int:
    # Rounded first: (count + 1) * 0.9 may come out a hair above a whole number.
    return math.ceil(round((count + 1) * level, 9))


def _ranks(kept: Int[np.ndarray, " _"], count: int, number: int) -> Int[np.ndarray, " _"]:
    """The rank among `count` scores of the first, second, ... of `number` kept ones, rounded up; 0 stays 0."""
    ranks: Int[np.ndarray, " _"] = -(-kept * count // number)
    return ranks


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ChiasmError(f"the level must be between 0 and 1, such as 0.9; got {level}")


def checked_scores(
    scores: Float[np.ndarray, " items"] | Unchecked, what: str = "scores"
) -> Float64[np.ndarray, " items"]:
    """Scores as float64, after making sure that there is a finite one for each item.

    Raises:
        ChiasmError: there is not.
    """
    checked = np.asarray(scores)
    if checked.ndim != 1 or checked.dtype.kind not in "fiu":
        raise ChiasmError(f"{what} must be one number an item; got {checked.dtype} {checked.shape}")
    bad = np.flatnonzero(~np.isfinite(checked))
    if len(bad):
        raise ChiasmError(f"{len(bad)} of {len(checked)} {what} are NaN or infinite, first of item {bad[0]}")
    return checked.astype(np.float64)
