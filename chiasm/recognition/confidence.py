"""Confidence: calibrated probabilities, and sets of classes that hold the true one as often as asked.

Both are fitted on predictions for items that the model did not see. Making those is left to whoever fits the model;
items of no known class, to `chiasm.recognition.unknown`. Applying what was fitted needs NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.splits import Labels, deal, group_codes
from chiasm.vectors import Unchecked, check_matrix, expected_calibration_error, log_softmax, softmax

FEWEST_HELD_OUT = 20
"""Held-out items below which nothing is promised: it would be noise."""

_COLDEST, _HOTTEST = 0.05, 20.0
_MOST_SCORES = 10_000
_ROW_SUM_TOLERANCE = 1e-3  # float32 softmax over a thousand classes is off by 1e-4


# --------------------------------------------------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Calibration:
    """One temperature by which log-probabilities are divided; by `fit_calibration`.

    Calibration errors were measured by cross-fitting: on each fold of the held-out items with the temperature that was
    fitted on the others.

    Example:
        >>> logs = np.log(np.full((8, 2), [0.99, 0.01]))  # sure of the first class, and right three times in four
        >>> calibration = fit_calibration(logs, np.array([0, 0, 0, 1, 0, 0, 0, 1]))
        >>> calibration.temperature > 2
        True
        >>> calibration.apply(logs[:1]).round(1).tolist()
        [[0.8, 0.2]]
    """

    temperature: float
    """1 where no other temperature was better."""
    classes: int
    ece_before: float
    ece_after: float
    """Expected calibration errors, 15 bins, see `chiasm.vectors.expected_calibration_error`."""

    def apply(
        self, log_probabilities: Float[np.ndarray, "items classes"] | Unchecked
    ) -> Float64[np.ndarray, "items classes"]:
        """Return calibrated probabilities: rows sum to 1, and classes at minus infinity have 0.

        Raises:
            ChiasmError: not a matrix of so many classes, NaN or plus infinity, or an item without any possible class.
        """
        return softmax(_check_logs(log_probabilities, self.classes) / self.temperature)

    def as_fields(self) -> dict[str, Any]:
        """Return all of it for JSON; `from_fields` reads it."""
        return asdict(self)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Return the calibration whose `as_fields` these are.

        Raises:
            ChiasmError: they do not make a calibration.
        """
        try:
            calibration = cls(**fields)
            if not _COLDEST <= calibration.temperature <= _HOTTEST or calibration.classes < 2:
                raise ValueError(f"temperature {calibration.temperature} of {calibration.classes} classes")
        except (TypeError, ValueError) as error:
            raise damaged("calibration", error) from error
        return calibration


def fit_calibration(
    log_probabilities: Float[np.ndarray, "items classes"] | Unchecked,
    codes: Int[np.ndarray, " items"] | Unchecked,
    *,
    folds: int = 5,
    groups: Labels | None = None,
    seed: int = 0,
) -> Calibration:
    """Fit the temperature with the least log loss on held-out predictions (Guo et al. 2017).

    The sum of losses has half the square of the temperature's logarithm added, a prior that two items outweigh and that
    keeps the temperature finite where every held-out item is recognised. It lies within 0.05 and 20, and is used only if
    its cross-fitted log loss is below that of the model's own probabilities.

    Args:
        log_probabilities: of items that the model did not see, such as those of the folds of a cross-validation. Minus
            infinity is a class that the model does not know. Rows need not be normalised.
        codes: the true class of each item, by number.
        folds: of the cross-fitting, at most as many as there are items or groups.
        groups: items of one group are never on both sides of a fold.
        seed: of the folds.

    Raises:
        ChiasmError: the log-probabilities are not usable (see `Calibration.apply`).
        LabelError: there are fewer than two held-out items, groups or classes, codes do not fit, or no item's true class
            is possible.
    """
    logs = _check_logs(log_probabilities)
    items, classes = logs.shape
    true = check_codes(codes, items, classes)
    if classes < 2:
        raise LabelError("log-probabilities of one class only cannot be calibrated")
    group = None if groups is None else group_codes(groups, items)
    parts = items if group is None else len(np.unique(group))
    if parts < 2:
        raise LabelError(f"got {parts} held-out {'items' if group is None else 'groups'}: calibration needs at least 2")
    possible = np.isfinite(logs[np.arange(items), true])
    if not possible.any():
        raise LabelError(f"the true class of each of the {items} held-out items has probability 0: are codes in order?")
    fold = deal(true, min(folds, parts), seed=seed, groups=group)
    crossed = np.empty_like(logs)
    for number in range(fold.max() + 1):
        test = fold == number
        crossed[test] = logs[test] / _best_temperature(logs[~test & possible], true[~test & possible])

    def loss(scaled: Float64[np.ndarray, "items classes"]) -> float:
        return float(-log_softmax(scaled)[possible, true[possible]].mean())

    def ece(scaled: Float64[np.ndarray, "items classes"]) -> float:
        probabilities = softmax(scaled)
        return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == true)

    if loss(crossed) >= loss(logs):
        return Calibration(1.0, classes, ece(logs), ece(logs))
    return Calibration(_best_temperature(logs[possible], true[possible]), classes, ece(logs), ece(crossed))


def _best_temperature(logs: Float64[np.ndarray, "items classes"], codes: Int[np.ndarray, " items"]) -> float:
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logs / math.exp(log_temperature))
        return float(-scaled[np.arange(len(logs)), codes].sum() + log_temperature**2 / 2)

    best = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return min(max(math.exp(best.x), _COLDEST), _HOTTEST)


# ----------------------------------------------------------------------------------------------------------- conformal


@dataclass(frozen=True, eq=False)
class ConformalScores:
    """Nonconformity scores of held-out items, against which those of new items are set.

    If a new item is exchangeable with the held-out ones, its score is at most `quantile(level)` with a probability of at
    least `level` and, without ties, at most `level + 1 / (count + 1)` (Vovk et al. 2005; Lei et al. 2018). That is an
    average over draws of the held-out items: the coverage of one draw of n has a standard deviation of about
    `sqrt(level * (1 - level) / n)`.

    Example:
        >>> ConformalScores.of(np.arange(1.0, 20.0)).quantile(0.9)
        18.0
    """

    kept: Float64[np.ndarray, " kept"]
    """Scores in rising order; of more than 10,000, those at evenly spaced ranks, including the largest."""
    count: int
    """The number of scores."""

    @classmethod
    def of(cls, scores: Float[np.ndarray, " items"] | Unchecked, *, name: str = "held-out scores") -> Self:
        """Sort scores and keep at most 10,000.

        Raises:
            ChiasmError: not one number an item, or NaN or infinite.
            LabelError: there are none.
        """
        checked = check_scores(scores, name)
        if not len(checked):
            raise LabelError(f"there are no {name}: hold out items of known classes that the model does not learn from")
        ordered = np.sort(checked)
        number = min(len(ordered), _MOST_SCORES)
        return cls(ordered[_ranks(np.arange(1, number + 1), len(ordered), number) - 1], len(ordered))

    def quantile(self, level: float) -> float:
        """Return the score of rank `ceil((count + 1) * level)`; infinite where that is more than `count`.

        Of thinned scores, the next above it that was kept.
        """
        rank = math.ceil(round((self.count + 1) * level, 9))  # (count + 1) * 0.9 may be a hair above a whole number
        if rank > self.count:
            return math.inf
        return float(self.kept[(rank - 1) * len(self.kept) // self.count])

    def p_values(self, scores: Float[np.ndarray, " items"] | Unchecked) -> Float64[np.ndarray, " items"]:
        """Return the share of held-out scores, the item itself counted in, that are as large: small is strange.

        `(1 + number of held-out scores >= score) / (count + 1)`, which is below any `a` with probability at most `a` for
        exchangeable items. Of thinned scores, an upper bound.

        Raises:
            ChiasmError: not one number an item, or NaN or infinite.
        """
        below = np.searchsorted(self.kept, check_scores(scores), side="left")
        smaller = _ranks(below, self.count, len(self.kept))
        values: Float64[np.ndarray, " items"] = (1 + self.count - smaller) / (self.count + 1)
        return values

    @classmethod
    def from_kept(cls, kept: Shaped[np.ndarray, "..."], count: int) -> Self:
        """Return the scores whose `kept` and `count` these are.

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
    """Sets of classes that hold the true class of a new item as often as asked; by `fit_conformal_sets`.

    The promise is for items exchangeable with the held-out ones, on average over them, and needs probabilities that are
    made in the same way at both times.

    Example:
        >>> held_out = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.8, 0.2, 0.0]])
        >>> sets = fit_conformal_sets(held_out, np.array([0, 1, 2, 0]))
        >>> sets.sets(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), level=0.6).tolist()
        [[True, False, False], [True, False, False]]
        >>> sets.sets(np.array([[0.5, 0.5, 0.0]]), level=0.9).tolist()  # too few items to promise that
        [[True, True, True]]
    """

    classes: int
    held_out: ConformalScores
    """Return one minus the probability of the true class."""

    def sets(
        self,
        probabilities: Float[np.ndarray, "items classes"] | Unchecked,
        *,
        level: float = 0.9,
        allow_empty: bool = False,
    ) -> Bool[np.ndarray, "items classes"]:
        """Return which classes are in the set of each item.

        Where fewer than `level / (1 - level)` items were held out (9 for 0.9), all classes are in every set.

        Args:
            probabilities: rows sum to 1.
            level: how often the set is to hold the true class, between 0 and 1.
            allow_empty: a set may be empty, which says that no class fits. Otherwise the most probable class is in every
                set; then the coverage is above the level where that class alone is right more often than that.

        Raises:
            ChiasmError: `level` is not between 0 and 1, or the probabilities are none or of other classes.
        """
        if not 0 < level < 1:
            raise ChiasmError(f"the level must be between 0 and 1, such as 0.9; got {level}")
        checked = _check_probabilities(probabilities, self.classes)
        inside: Bool[np.ndarray, "items classes"] = 1 - checked <= self.held_out.quantile(level)
        if not allow_empty:
            inside[np.arange(len(checked)), checked.argmax(axis=1)] = True
        return inside

    def as_fields(self) -> dict[str, Any]:
        """Return the part for JSON; `from_arrays` needs it with `as_arrays`."""
        return {"classes": self.classes, "items": self.held_out.count}

    def as_arrays(self) -> dict[str, Float64[np.ndarray, " kept"]]:
        """Return the scores that were kept."""
        return {"scores": self.held_out.kept}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]], fields: Mapping[str, Any]) -> Self:
        """Return the sets whose `as_arrays` and `as_fields` these are.

        Raises:
            ChiasmError: they do not make conformal sets.
        """
        try:
            return cls(int(fields["classes"]), ConformalScores.from_kept(arrays["scores"], int(fields["items"])))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged("conformal sets", error) from error


def fit_conformal_sets(
    probabilities: Float[np.ndarray, "items classes"] | Unchecked, codes: Int[np.ndarray, " items"] | Unchecked
) -> ConformalSets:
    """Fit sets of the classes above one probability, the smallest on average (Sadinle, Lei & Wasserman 2019).

    The level is asked for later.

    Args:
        probabilities: of items that the model did not see, rows sum to 1.
        codes: the true class of each item, by number.

    Raises:
        ChiasmError: the probabilities are none.
        LabelError: there are no held-out items, one class only, or codes do not fit.
    """
    checked = _check_probabilities(probabilities)
    items, classes = checked.shape
    if classes < 2:
        raise LabelError("sets of one class only say nothing: at least 2 classes are needed")
    true = check_codes(codes, items, classes)
    return ConformalSets(classes, ConformalScores.of(1 - checked[np.arange(items), true], name="held-out items"))


def calibrate(
    log: Float64[np.ndarray, "items classes"],
    codes: Int[np.ndarray, " items"],
    groups: Int[np.ndarray, " items"] | None,
    *,
    seed: int,
) -> tuple[Calibration, ConformalSets] | None:
    """Fit calibration and conformal sets to held-out log-probabilities; None where there are too few.

    Args:
        log: one row an item, NaN where it was not held out. Items whose own class could not be known do not count.
        codes: their classes.
        groups: items of one group are never on both sides of a fold.
        seed: of the folds.
    """
    usable = np.flatnonzero(np.isfinite(log[np.arange(len(codes)), codes]))
    true = codes[usable]
    group = None if groups is None else groups[usable]
    if len(usable) < FEWEST_HELD_OUT or len(np.unique(true)) < 2 or (group is not None and len(np.unique(group)) < 2):
        return None
    calibration = fit_calibration(log[usable], true, groups=group, seed=seed)
    return calibration, fit_conformal_sets(calibration.apply(log[usable]), true)


# -------------------------------------------------------------------------------------------------------------- checks


def check_codes(
    codes: Int[np.ndarray, " items"] | Unchecked, items: int, classes: int | None = None, *, name: str = "codes"
) -> Int[np.ndarray, " items"]:
    """Return class numbers as an array, one an item, each a class.

    Args:
        codes: class numbers.
        items: how many there must be.
        classes: how many classes there are; by default any number.
        name: what the codes are called in messages.

    Raises:
        LabelError: they do not fit.
    """
    checked = np.asarray(codes)
    if checked.shape != (items,) or checked.dtype.kind not in "iu":
        raise LabelError(f"{name} must be {items} whole numbers, one an item; got {checked.dtype} {checked.shape}")
    outside = np.flatnonzero((checked < 0) | (checked >= (np.iinfo(np.int64).max if classes is None else classes)))
    if len(outside):
        last = "on" if classes is None else f"to {classes - 1}"
        raise LabelError(
            f"{name} must be class numbers from 0 {last}; {len(outside)} are not, first {checked[outside[0]]} "
            f"of item {outside[0]}"
        )
    return checked.astype(np.int64, copy=False)


def check_scores(
    scores: Float[np.ndarray, " items"] | Unchecked, name: str = "scores"
) -> Float64[np.ndarray, " items"]:
    """Return scores as float64, one finite number an item.

    Raises:
        ChiasmError: they are not.
    """
    checked = np.asarray(scores)
    if checked.ndim != 1:
        raise ChiasmError(f"{name} must be one number an item; got {checked.dtype} {checked.shape}")
    return check_matrix(checked[:, None], name, error=ChiasmError)[:, 0].astype(np.float64)


def damaged(name: str, error: Exception) -> ChiasmError:
    """Return the error for arrays and fields that are not what was saved."""
    return ChiasmError(f"these are not saved {name} ({type(error).__name__}: {error}): fit and save again")


def _check_logs(
    log_probabilities: Float[np.ndarray, "items classes"] | Unchecked, classes: int | None = None
) -> Float64[np.ndarray, "items classes"]:
    """Return float64 logarithms, finite or minus infinity, whose largest in each row is 0."""
    logs = np.asarray(log_probabilities)
    impossible = np.isneginf(logs)
    checked = check_matrix(np.where(impossible, 0, logs), "log-probabilities", columns=classes, error=ChiasmError)
    nowhere = np.flatnonzero(impossible.all(axis=1))
    if len(nowhere):
        raise ChiasmError(
            f"{len(nowhere)} of {len(logs)} rows of log-probabilities are minus infinity for every class, first row "
            f"{nowhere[0]}: an item needs a possible class"
        )
    possible = np.where(impossible, -np.inf, checked.astype(np.float64))
    relative: Float64[np.ndarray, "items classes"] = possible - possible.max(axis=1, keepdims=True)
    return relative


def _check_probabilities(
    probabilities: Float[np.ndarray, "items classes"] | Unchecked, classes: int | None = None
) -> Float64[np.ndarray, "items classes"]:
    checked = check_matrix(probabilities, "probabilities", columns=classes, error=ChiasmError).astype(np.float64)
    bad = np.flatnonzero((checked < 0).any(axis=1) | (np.abs(checked.sum(axis=1) - 1) > _ROW_SUM_TOLERANCE))
    if len(bad):
        raise ChiasmError(
            f"{len(bad)} of {len(checked)} rows are no probabilities (not below 0, with sum 1), first row {bad[0]}: "
            "give probabilities, not logits or logarithms"
        )
    return checked


def _ranks(kept: Int[np.ndarray, " _"], count: int, number: int) -> Int[np.ndarray, " _"]:
    """Return the rank among `count` scores of the first, second, ... of `number` kept ones, rounded up; 0 stays 0."""
    ranks: Int[np.ndarray, " _"] = -(-kept * count // number)
    return ranks
