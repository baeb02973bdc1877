"""The open world: items of no known class.

This module knows how to turn a score of `chiasm.recognition.novelty` into an alarm with a given rate of false alarms,
and how to choose the score. Fitting the classifier is left to the caller, who hands in features, logits and a function
that fits; learning the class that unknown items are of, to `chiasm.recognition.extension`. Everything here is plain
numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.calibration import checked_codes, damaged
from chiasm.recognition.conformal import ConformalScores, checked_scores
from chiasm.recognition.novelty import Codes, Features, Logits, ScoreName, UnknownScore, fit_unknown_score, score_from
from chiasm.splits import Labels, deal, group_codes
from chiasm.vectors import Unchecked

FitAndScore: TypeAlias = Callable[[Int[np.ndarray, " train"], Int[np.ndarray, " test"]], Mapping[str, Any]]
"""Fits on the rows of its first argument and scores those of its second: scores by name, large is unlike."""


@dataclass(frozen=True, eq=False)
class UnknownDetector:
    """An alarm for items of no known class, with the rate of false alarms that is asked for.

    The rate holds for new items of known classes that are exchangeable with the held-out ones, on average over these
    (see `ConformalScores`). How many unknown items are found depends on the score.
    """

    name: ScoreName
    score: UnknownScore
    known: ConformalScores

    @property
    def least_rate(self) -> float:
        """The smallest rate at which anything can be unknown: one more item of `n` held out would be a false alarm."""
        return 1 / (self.known.count + 1)

    def scores(self, features: Features, logits: Logits) -> Float64[np.ndarray, " items"]:
        """How unlike anything known each item is.

        Raises:
            ChiasmError: as `UnknownScore.scores`.
        """
        return self.score.scores(features, logits)

    def threshold(self, false_alarm_rate: float) -> float:
        """The score above which an item is unknown; infinite for rates below `least_rate`.

        Raises:
            ChiasmError: the rate is not between 0 and 1.
        """
        if not 0 < false_alarm_rate < 1:
            raise ChiasmError(f"the false-alarm rate must be between 0 and 1, such as 0.05; got {false_alarm_rate}")
        return self.known.quantile(1 - false_alarm_rate)

    def is_unknown(
        self, scores: Float[np.ndarray, " items"] | Unchecked, *, false_alarm_rate: float = 0.05
    ) -> Bool[np.ndarray, " items"]:
        """Which items are like nothing known, from their `scores`.

        Raises:
            ChiasmError: the rate is not between 0 and 1, or scores are not one finite number an item.
        """
        threshold = self.threshold(false_alarm_rate)
        unknown: Bool[np.ndarray, " items"] = checked_scores(scores) > threshold
        return unknown

    def p_values(self, scores: Float[np.ndarray, " items"] | Unchecked) -> Float64[np.ndarray, " items"]:
        """The probability that an item of a known class is as strange or stranger, from `scores`.

        Raises:
            ChiasmError: scores are not one finite number an item.
        """
        return self.known.p_values(scores)

    def as_fields(self) -> dict[str, Any]:
        """What JSON can hold of it; with `as_arrays` all that `from_arrays` needs."""
        return {"name": self.name, "items": self.known.count}

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The held-out scores that were kept, and what the score was fitted to."""
        return {"known": self.known.kept} | {f"score.{key}": array for key, array in self.score.as_arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]], fields: Mapping[str, Any]) -> UnknownDetector:
        """What `as_arrays` and `as_fields` gave.

        Raises:
            ChiasmError: they do not make a detector.
        """
        try:
            name = fields["name"]
            if name not in get_args(ScoreName):
                raise ValueError(f"score {name!r}")
            parts = {key.removeprefix("score."): array for key, array in arrays.items() if key.startswith("score.")}
            known = ConformalScores.from_kept(arrays["known"], int(fields["items"]))
            return cls(name, score_from(name, parts), known)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise damaged("unknown detector", error) from error


def fit_unknown_detector(
    name: ScoreName,
    features: Features,
    codes: Codes,
    *,
    held_out_scores: Float[np.ndarray, " held"] | Unchecked,
    neighbours: int = 1,
    seed: int = 0,
) -> UnknownDetector:
    """Fit a score on all training items and set the alarm by held-out scores of known items.

    Args:
        name: of the score, see `fit_unknown_score`.
        features: of training items.
        codes: their classes, by number.
        held_out_scores: the same score of items of known classes under models and scores that did not see them, as
            `cross_fitted_scores` gives them. They are a little high, and false alarms a little rare, where the folds
            leave fewer items to learn from. (Measured on 516 embedded pictures with captions in 11 classes at a rate of
            0.10: energy gave 0.081 with five folds and 0.096 with ten, knn 0.076 and 0.087. At 5 items a class, with
            ten folds: energy 0.051, knn 0.127, mahalanobis 0.012; with a fold for each item 0.041 for mahalanobis.)
        neighbours: see `fit_unknown_score`.
        seed: see `fit_unknown_score`.

    Raises:
        ChiasmError: as `fit_unknown_score`, or held-out scores are not one finite number an item.
        LabelError: as `fit_unknown_score`, or there are no held-out scores.
    """
    known = ConformalScores.of(held_out_scores)
    return UnknownDetector(name, fit_unknown_score(name, features, codes, neighbours=neighbours, seed=seed), known)


def cross_fitted_scores(
    fit_and_score: FitAndScore,
    codes: Codes,
    *,
    folds: int = 10,
    groups: Labels | None = None,
    seed: int = 0,
) -> dict[str, Float64[np.ndarray, " held"]]:
    """Scores of known items, each under the fit of the folds that it is not in.

    Items whose class is in no other fold are left out: to their model they are unknown.

    Args:
        fit_and_score: gets the rows to learn from and those to score, gives scores by name.
        codes: the class of each row, by number.
        folds: how many fits, at most as many as rows or groups.
        groups: rows of one group are never on both sides of a fold.
        seed: of the folds.

    Raises:
        LabelError: codes or groups do not fit, or nothing can be held out since each class has one item or group.
        ChiasmError: `fit_and_score` gave other than one finite score a row, or other names than before.
    """
    true, group = _checked_rows(codes, groups)
    fold = _deal(true, folds, group, seed)
    parts = []
    for number in range(fold.max() + 1):
        train, test = fold != number, fold == number
        test &= np.isin(true, true[train])
        if test.any():
            parts.append(_scored(fit_and_score, train, test))
    if not parts:
        raise LabelError(_NOTHING_TO_HOLD_OUT)
    names = _same_names(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


@dataclass(frozen=True)
class UnknownChoice:
    """The score that told left-out classes best from known ones."""

    name: str
    auc: dict[str, float]
    """The probability that an item of a left-out class scores above a held-out known one, mean over the rounds; 0.5 is
    chance."""
    standard_error: dict[str, float]
    """Of these means, over the rounds; not a number for one round."""
    rounds: int


def choose_unknown_score(
    fit_and_score: FitAndScore,
    codes: Codes,
    *,
    rounds: int = 20,
    folds: int = 5,
    groups: Labels | None = None,
    seed: int = 0,
) -> UnknownChoice:
    """Choose a score where no unknown items are at hand: known classes take turns at being unknown.

    In each round some classes are left out, and so is one fold of the others; a fit on the rest scores both. Every class
    is left out once: alone where there are at most `rounds` classes, otherwise with others.

    Args:
        fit_and_score: gets the rows to learn from and those to score, gives scores by name.
        codes: the class of each row, by number.
        rounds: the most fits to make.
        folds: one in so many of the known items is held out, at most as many as rows or groups.
        groups: rows of one group are never on both sides of a fit.
        seed: of the draws.

    Raises:
        LabelError: codes or groups do not fit, there are fewer than three classes, or no known item can be held out.
        ChiasmError: as `cross_fitted_scores`, or `rounds` is below 3.
    """
    if rounds < 3:
        raise ChiasmError(f"rounds must be at least 3, so that two classes stay known in each; got {rounds}")
    true, group = _checked_rows(codes, groups)
    classes = np.unique(true)
    if len(classes) < 3:
        raise LabelError(
            f"there are {len(classes)} classes: leaving one out in turn needs at least 3, so that 2 stay known. "
            "Name a score yourself"
        )
    fold = _deal(true, folds, group, seed)
    batches = min(len(classes), rounds)
    batch = np.random.default_rng(seed).permutation(len(classes)) % batches
    areas = []
    for number in range(batches):
        unknown = np.isin(true, classes[batch == number])
        held = ~unknown & (fold == number % (fold.max() + 1))
        train = ~unknown & ~held
        if group is not None:
            train &= ~np.isin(group, group[unknown])
        held &= np.isin(true, true[train])
        if not held.any() or len(np.unique(true[train])) < 2:
            continue
        scores = _scored(fit_and_score, train, held | unknown)
        is_unknown = unknown[held | unknown]
        areas.append({name: _area(values[is_unknown], values[~is_unknown]) for name, values in scores.items()})
    if not areas:
        raise LabelError(_NOTHING_TO_HOLD_OUT)
    names = _same_names(areas)
    table = np.array([[area[name] for name in names] for area in areas])
    mean = table.mean(axis=0)
    error = table.std(axis=0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.full(len(names), np.nan)
    return UnknownChoice(
        name=names[int(mean.argmax())],
        auc=dict(zip(names, mean.tolist(), strict=True)),
        standard_error=dict(zip(names, error.tolist(), strict=True)),
        rounds=len(table),
    )


_NOTHING_TO_HOLD_OUT = (
    "no item of a known class can be held out, since each class has one item (or one group): label a second item of some "
    "classes"
)


def _area(unknown: Float64[np.ndarray, " unknown"], known: Float64[np.ndarray, " known"]) -> float:
    """The share of pairs in which the unknown item has the larger score, ties by half (Mann & Whitney 1947)."""
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left") + np.searchsorted(ordered, unknown, side="right")
    return float(below.mean() / (2 * len(known)))


def _deal(
    codes: Int[np.ndarray, " items"], folds: int, group: Int[np.ndarray, " items"] | None, seed: int
) -> Int[np.ndarray, " items"]:
    parts = len(codes) if group is None else group.max() + 1
    if parts < 2:
        raise LabelError(_NOTHING_TO_HOLD_OUT)
    return deal(codes, min(folds, int(parts)), seed=seed, groups=group)


def _checked_rows(
    codes: Codes, groups: Labels | None
) -> tuple[Int[np.ndarray, " items"], Int[np.ndarray, " items"] | None]:
    items = np.size(codes)
    true = checked_codes(codes, items, np.iinfo(np.int64).max)
    if not items:
        raise LabelError("there are no items to learn from")
    return true, None if groups is None else group_codes(groups, items)


def _scored(
    fit_and_score: FitAndScore, train: Bool[np.ndarray, " items"], test: Bool[np.ndarray, " items"]
) -> dict[str, Float64[np.ndarray, " test"]]:
    """What the caller's function gives, checked."""
    rows = np.flatnonzero(test)
    scores = {name: np.asarray(values) for name, values in fit_and_score(np.flatnonzero(train), rows).items()}
    if not scores:
        raise ChiasmError("fit_and_score gave no scores: it is to give an array for each name")
    for name, values in scores.items():
        if values.shape != rows.shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise ChiasmError(
                f"fit_and_score is to give a finite score for each of the {len(rows)} rows it is asked about; {name} is "
                f"{values.dtype} {values.shape}" + (", with NaN or infinity" if values.shape == rows.shape else "")
            )
    return scores


def _same_names(parts: list[Any]) -> list[str]:
    names = list(parts[0])
    for part in parts:
        if set(part) != set(names):
            raise ChiasmError(f"fit_and_score gave the scores {sorted(names)} for one fit, {sorted(part)} for another")
    return names
