"""Protocols: what a recogniser is trained on, what it is measured on, and what the scores say together.

This module knows which items to hold out for which question: how good it is (`cross_validate`), how that grows with labels
(`learning_curve`), which of several is better (`compare`), what it makes of classes it has no example of
(`zero_shot_on_held_out_classes`), what it forgets when classes are added (`incremental`), and how much a careless split
would flatter it (`random_split_leak`). It takes arrays and a function that makes an unfitted recogniser; the metrics are
`chiasm.evaluation.metrics`, the splits `chiasm.splits`, and how it is all shown is left to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    mean_interval,
    paired_difference,
)
from chiasm.evaluation.metrics import (
    ClassificationMetrics,
    HeldOutClassMetrics,
    IncrementalMetrics,
    ProbabilityMetrics,
    classification_metrics,
    held_out_class_metrics,
    incremental_metrics,
    probability_metrics,
)
from chiasm.recognition.fitting import SourceItems
from chiasm.recognition.modalities import Arrays, ModalityArrays, as_arrays
from chiasm.splits import (
    Labels,
    Split,
    crossing,
    few_shot_split,
    group_codes,
    grouped_stratified_folds,
    held_out_class_split,
    holdout_split,
    label_codes,
)

Names: TypeAlias = Mapping[Any, Shaped[np.ndarray, " dim"]]
"""The embedded name of each class."""

MetricName: TypeAlias = Literal["f1_macro", "accuracy", "brier"]

_INTERVAL_DRAWS = 200  # of statistics that are computed anew for every draw


class Model(Protocol):
    """What the protocols ask of a recogniser; `chiasm.recognition.Recognizer` is one.

    `names` and `source` are passed on where the caller gives them, and only there. `recognise` and `add_class` are asked
    of those that have them; `incremental` needs the latter.
    """

    @property
    def classes_(self) -> Any:
        """The classes it knows."""
        ...

    def fit(self, X: Any, y: Any, groups: Any = None) -> Any:
        """Learn from labelled items."""
        ...

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, in the order of `classes_`."""
        ...


Make: TypeAlias = Callable[[], Model]
"""Makes an unfitted recogniser; called once for every part that is learned from."""


# ----------------------------------------------------------------------------------------------------- cross-validation


@dataclass(frozen=True, eq=False)
class FoldScores:
    """One fold: what was measured on it by a recogniser that learned from the others."""

    items: int
    seconds: float  # to fit and to predict
    metrics: ClassificationMetrics
    probability: ProbabilityMetrics


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Every item as it is recognised by a recogniser that did not learn from its fold.

    Attributes:
        classes: of the columns, sorted.
        labels: the most probable class of each item.
        probabilities: of each class; 0 for classes that the fold's recogniser did not know.
        sets: which classes may be right, at `level`; None if the recogniser has no such sets.
        unknown: what was taken for nothing known, all of it false alarms; None likewise.
        level: how often a set is to hold the true class.
        fold_of: the fold of each item.
        folds: by fold.
        metrics: of all items together.
        probability: of all items together.
        accuracy: with its interval over items (groups, where given).
        f1_macro: likewise.
        coverage: how often the sets hold the true class; None without sets.
        set_size: mean number of classes in them.
        unlearned: items whose class occurs in no other fold, and counts as not recognised unless its name is known.
    """

    classes: Shaped[np.ndarray, " classes"]
    labels: Shaped[np.ndarray, " items"]
    probabilities: Float64[np.ndarray, "items classes"]
    sets: Bool[np.ndarray, "items classes"] | None
    unknown: Bool[np.ndarray, " items"] | None
    level: float
    fold_of: Int[np.ndarray, " items"]
    folds: tuple[FoldScores, ...]
    metrics: ClassificationMetrics
    probability: ProbabilityMetrics
    accuracy: Interval
    f1_macro: Interval
    coverage: float | None
    set_size: float | None
    unlearned: int

    def as_dict(self) -> dict[str, Any]:
        """The scores, in the types of JSON; what is said of single items stays in the arrays."""
        return {
            "folds": [
                {
                    "items": fold.items,
                    "seconds": fold.seconds,
                    "metrics": fold.metrics.as_dict(),
                    "probability": fold.probability.as_dict(),
                }
                for fold in self.folds
            ],
            "metrics": self.metrics.as_dict(),
            "probability": self.probability.as_dict(),
            "accuracy": self.accuracy.as_dict(),
            "f1_macro": self.f1_macro.as_dict(),
            "level": self.level,
            "coverage": self.coverage,
            "set_size": self.set_size,
            "false_alarms": None if self.unknown is None else float(self.unknown.mean()),
            "unlearned": self.unlearned,
        }


def cross_validate(
    make: Make,
    X: Arrays,
    y: Labels,
    *,
    folds: int = 5,
    groups: Labels | None = None,
    names: Names | None = None,
    source: SourceItems | None = None,
    level: float = 0.9,
    seed: int = 0,
) -> CrossValidation:
    """Recognise every item by a recogniser that learned from the other folds.

    Folds are stratified, and no group is divided. What the recogniser chooses for itself it chooses within the folds that
    it learns from, so the score is that of the whole procedure (nested cross-validation).

    Args:
        make: makes a recogniser.
        X: embeddings.
        y: one label an item.
        folds: how many.
        groups: items of one group are never on both sides.
        names: embedded names of classes, for the recogniser.
        source: labelled items of another domain, for the recogniser.
        level: of the sets of classes.
        seed: of the folds and intervals.

    Raises:
        LabelError: labels or groups do not fit, or there are fewer items or groups than folds.
    """
    data = _data(X, y, groups, names, source)
    splits = grouped_stratified_folds(data.y, folds, seed=seed, groups=data.groups)
    fold_of = np.empty(len(data.y), dtype=np.int64)
    answers: list[_Answer] = []
    unlearned = 0
    for fold, split in enumerate(splits):
        fold_of[split.test] = fold
        unlearned += int((~np.isin(data.y[split.test], data.y[split.train])).sum())
        answers.append(data.answer(make, split, level=level))
    classes = np.unique(np.concatenate([data.y, *(answer.classes for answer in answers)]))
    order = np.argsort(np.concatenate([split.test for split in splits]))
    probabilities = np.concatenate([answer.spread(classes, answer.probabilities) for answer in answers])[order]
    labels: Shaped[np.ndarray, " items"] = np.concatenate([answer.labels for answer in answers])[order]
    sets = unknown = None
    if all(answer.sets is not None for answer in answers):
        sets = np.concatenate([answer.spread(classes, answer.sets) for answer in answers])[order].astype(bool)
        unknown = np.concatenate([answer.unknown for answer in answers if answer.unknown is not None])[order]
    own = np.searchsorted(classes, data.y)

    def f1(rows: Int[np.ndarray, " drawn"]) -> float:
        return classification_metrics(data.y[rows], labels[rows]).f1_macro

    return CrossValidation(
        classes=classes,
        labels=labels,
        probabilities=probabilities,
        sets=sets,
        unknown=unknown,
        level=level,
        fold_of=fold_of,
        folds=tuple(
            FoldScores(
                items=len(split.test),
                seconds=answer.seconds,
                metrics=classification_metrics(data.y[split.test], answer.labels),
                probability=probability_metrics(data.y[split.test], probabilities[split.test], classes),
            )
            for split, answer in zip(splits, answers, strict=True)
        ),
        metrics=classification_metrics(data.y, labels),
        probability=probability_metrics(data.y, probabilities, classes),
        accuracy=mean_interval(labels == data.y, groups=data.groups, seed=seed),
        f1_macro=bootstrap_interval(f1, len(data.y), groups=data.groups, draws=_INTERVAL_DRAWS, seed=seed),
        coverage=None if sets is None else float(sets[np.arange(len(own)), own].mean()),
        set_size=None if sets is None else float(sets.sum(axis=1).mean()),
        unlearned=unlearned,
    )


# -------------------------------------------------------------------------------------------------------- learning curve


@dataclass(frozen=True)
class CurvePoint:
    """Scores with so many labelled items a class, by seed, and their means with intervals over seeds."""

    shots: int
    f1_macro: Interval
    accuracy: Interval
    f1_macro_by_seed: tuple[float, ...]
    accuracy_by_seed: tuple[float, ...]
    seconds: float  # to fit and predict, mean over seeds


@dataclass(frozen=True)
class LearningCurve:
    """How scores grow with labels."""

    points: tuple[CurvePoint, ...]  # by rising shots
    left_out: Mapping[int, str]  # shots that the labels do not allow, and why
    seeds: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {
            "points": [asdict(point) for point in self.points],
            "left_out": {str(shots): why for shots, why in self.left_out.items()},
            "seeds": list(self.seeds),
        }


def learning_curve(
    make: Make,
    X: Arrays,
    y: Labels,
    *,
    shots: Sequence[int] = (1, 2, 5, 10, 20),
    seeds: Sequence[int] = tuple(range(10)),
    groups: Labels | None = None,
    names: Names | None = None,
    source: SourceItems | None = None,
) -> LearningCurve:
    """Learn from 1, 2, 5 ... items a class and measure on the rest.

    Every seed draws its own items; the items of fewer shots are among those of more. Items that share a group with one
    that is learned from are not measured on.

    Args:
        make: makes a recogniser.
        X: embeddings.
        y: one label an item.
        shots: items a class. Numbers that leave a class nothing to be measured on are left out, and named.
        seeds: of the draws, at least 2.
        groups: see above.
        names: embedded names of classes, for the recogniser.
        source: labelled items of another domain, for the recogniser.

    Raises:
        LabelError: labels or groups do not fit, fewer than 2 seeds, or no number of shots is possible.
    """
    data = _data(X, y, groups, names, source)
    numbers = sorted(set(shots))
    if not numbers or numbers[0] < 1:
        raise LabelError(f"shots must be one or more numbers of at least 1; got {list(shots)}")
    drawn = _checked_seeds(seeds, 2)
    points: list[CurvePoint] = []
    left_out: dict[int, str] = {}
    for number in numbers:
        splits = _shots_of_all(data, number, drawn)
        if isinstance(splits, str):
            left_out[number] = splits
            continue
        answers = [data.answer(make, split) for split in splits]
        metrics = [answer.metrics(data.y[split.test]) for answer, split in zip(answers, splits, strict=True)]
        f1, accuracy = [one.f1_macro for one in metrics], [one.accuracy for one in metrics]
        points.append(
            CurvePoint(
                shots=number,
                f1_macro=mean_interval(np.array(f1)),
                accuracy=mean_interval(np.array(accuracy)),
                f1_macro_by_seed=tuple(f1),
                accuracy_by_seed=tuple(accuracy),
                seconds=float(np.mean([answer.seconds for answer in answers])),
            )
        )
    if not points:
        raise LabelError(f"no number of shots is possible: {'; '.join(left_out.values())}")
    return LearningCurve(tuple(points), left_out, drawn)


def _shots_of_all(data: _Data, shots: int, seeds: Sequence[int]) -> list[Split] | str:
    """A split for every seed; or, in words, why there is none."""
    classes, codes = label_codes(data.y)
    sizes = np.bincount(codes)
    smallest = int(sizes.argmin())
    if sizes[smallest] <= shots:
        return f"{shots} a class leave nothing of {classes[smallest]!s}, which has {sizes[smallest]} items, to be measured on"
    splits = [few_shot_split(data.y, shots, seed=seed, groups=data.groups) for seed in seeds]
    for split in splits:
        lost = np.setdiff1d(classes, data.y[split.test])
        if len(lost):
            return f"{shots} a class leave nothing of {lost[0]!s} to be measured on that shares no group with them"
    return splits


# ------------------------------------------------------------------------------------------------------------ comparison


@dataclass(frozen=True)
class Compared:
    """The scores of one recogniser on every part that all were measured on."""

    f1_macro: tuple[float, ...]
    accuracy: tuple[float, ...]
    brier: tuple[float, ...]  # lower is better
    seconds: float  # to fit and predict, mean over parts

    def mean(self, metric: MetricName) -> float:
        """Over parts."""
        return float(np.mean(getattr(self, metric)))


@dataclass(frozen=True)
class Comparison:
    """Several recognisers on the same parts."""

    metric: MetricName
    parts: tuple[tuple[int, int], ...]  # (seed, fold); fold 0 alone with shots
    models: Mapping[str, Compared]
    differences: Mapping[tuple[str, str], PairedDifference]  # first minus second, in `metric`

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {
            "metric": self.metric,
            "parts": [list(part) for part in self.parts],
            "models": {name: asdict(scores) for name, scores in self.models.items()},
            "differences": [
                {"first": first, "second": second, **difference.as_dict()}
                for (first, second), difference in self.differences.items()
            ],
        }


def compare(
    makes: Mapping[str, Make],
    X: Arrays,
    y: Labels,
    *,
    shots: int | None = None,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    metric: MetricName = "f1_macro",
    groups: Labels | None = None,
    names: Names | None = None,
    source: SourceItems | None = None,
) -> Comparison:
    """Measure several recognisers on the same items, learned from the same items, and compare them part by part.

    Folds of one cross-validation share most of what is learned from, so their p-value is too small (see
    `paired_difference`); with `shots` every seed draws anew.

    Args:
        makes: a function that makes a recogniser, by name.
        X: embeddings.
        y: one label an item.
        shots: learn from that many items a class, drawn by each seed, and measure on the rest. By default, folds.
        folds: of the cross-validation, dealt anew by each seed.
        seeds: of the draws; at least 2 with `shots`.
        metric: that differences are of.
        groups: items of one group are never on both sides.
        names: embedded names of classes, for the recognisers.
        source: labelled items of another domain, for the recognisers.

    Raises:
        LabelError: fewer than 2 recognisers or parts, no such metric, or labels and groups do not fit.
    """
    if len(makes) < 2:
        raise LabelError(f"at least 2 recognisers are needed to compare; got {', '.join(makes) or 'none'}")
    if metric not in get_args(MetricName):
        raise LabelError(f"metric must be one of {', '.join(get_args(MetricName))}; got {metric!r}")
    data = _data(X, y, groups, names, source)
    drawn = _checked_seeds(seeds, 1 if shots is None else 2)
    parts: list[tuple[int, int]] = []
    splits: list[Split] = []
    for seed in drawn:
        if shots is None:
            dealt = list(grouped_stratified_folds(data.y, folds, seed=seed, groups=data.groups))
        else:
            possible = _shots_of_all(data, shots, [seed])
            if isinstance(possible, str):
                raise LabelError(possible)
            dealt = possible
        splits += dealt
        parts += [(seed, fold) for fold in range(len(dealt))]
    models: dict[str, Compared] = {}
    for name, make in makes.items():
        answers = [data.answer(make, split) for split in splits]
        metrics = [answer.metrics(data.y[split.test]) for answer, split in zip(answers, splits, strict=True)]
        models[name] = Compared(
            f1_macro=tuple(one.f1_macro for one in metrics),
            accuracy=tuple(one.accuracy for one in metrics),
            brier=tuple(answer.brier(data.y[split.test]) for answer, split in zip(answers, splits, strict=True)),
            seconds=float(np.mean([answer.seconds for answer in answers])),
        )
    differences = {
        (first, second): paired_difference(
            np.array(getattr(models[first], metric)), np.array(getattr(models[second], metric))
        )
        for first, second in combinations(models, 2)
    }
    return Comparison(metric, tuple(parts), models, differences)


# -------------------------------------------------------------------------------------------------------- unseen classes


@dataclass(frozen=True)
class HeldOutClassRound:
    """One draw of classes to hold out."""

    seed: int
    seen: tuple[Any, ...]
    unseen: tuple[Any, ...]
    among_all: HeldOutClassMetrics  # chosen among all classes
    among_unseen: float  # balanced accuracy on items of unseen classes, chosen among these alone


@dataclass(frozen=True)
class HeldOutClassScores:
    """How classes are recognised that are known by their name only, beside those with examples."""

    rounds: tuple[HeldOutClassRound, ...]
    seen: float  # means over rounds
    unseen: float
    harmonic_mean: float
    among_unseen: float
    interval: Interval | None  # of the harmonic mean over rounds; None with one

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        found = asdict(self)
        for one in found["rounds"]:
            one["seen"], one["unseen"] = list(one["seen"]), list(one["unseen"])
        return {**found, "rounds": list(found["rounds"])}


def zero_shot_on_held_out_classes(
    make: Make,
    X: Arrays,
    y: Labels,
    *,
    names: Names,
    share: float = 0.3,
    holdout: float = 0.3,
    seeds: Sequence[int] = (0, 1, 2),
    groups: Labels | None = None,
) -> HeldOutClassScores:
    """Learn from examples of some classes and from the names of all, and measure on both kinds of classes.

    Generalised zero-shot learning as of Xian et al. 2018 (TPAMI): items of seen and unseen classes are recognised among
    all classes. What a recogniser makes of unseen classes among themselves is given beside it.

    Args:
        make: makes a recogniser that takes `names`.
        X: embeddings, with vectors in the space of the names.
        y: one label an item.
        names: the embedded name of every class.
        share: of the classes, that nothing is learned of but their names.
        holdout: of the items of seen classes, that are measured on.
        seeds: of the draws.
        groups: items that share a group with one that is measured on are not learned from.

    Raises:
        LabelError: classes without a name, labels or groups that do not fit, fewer than 2 seen classes, or shares that
            leave nothing to learn from or to measure on, or a recogniser that knows no class by its name.
    """
    data = _data(X, y, groups, names, None)
    nameless = [label for label in np.unique(data.y).tolist() if label not in names]
    if nameless:
        raise LabelError(
            f"{len(nameless)} classes have no embedded name, such as {nameless[0]!s}: without examples a class is known "
            "by its name only"
        )
    rounds = []
    for seed in _checked_seeds(seeds, 1):
        classes = held_out_class_split(data.y, share, seed=seed)
        if len(classes.seen) < 2:
            raise LabelError(f"a share of {share} leaves {len(classes.seen)} class with examples: 2 are needed")
        seen = classes.split.train
        inner = holdout_split(
            holdout, y=data.y[seen], groups=None if data.groups is None else data.groups[seen], seed=seed
        )
        test = np.sort(np.concatenate([classes.split.test, seen[inner.test]]))
        train = seen[inner.train]
        if data.groups is not None:
            train = train[~np.isin(data.groups[train], data.groups[test])]
        if len(np.unique(data.y[train])) < 2:
            raise LabelError("fewer than 2 classes have items that share no group with those to be measured on")
        answer = data.answer(make, Split(train, test))
        of_unseen = np.isin(data.y[test], classes.unseen)
        columns = np.flatnonzero(np.isin(answer.classes, classes.unseen))
        if len(columns) < len(classes.unseen):
            raise LabelError(
                f"the recogniser knows {len(columns)} of {len(classes.unseen)} unseen classes: it must take classes from "
                "names"
            )
        guesses = answer.classes[columns][answer.probabilities[of_unseen][:, columns].argmax(axis=1)]
        rounds.append(
            HeldOutClassRound(
                seed=seed,
                seen=classes.seen,
                unseen=classes.unseen,
                among_all=held_out_class_metrics(data.y[test], answer.labels, unseen=classes.unseen),
                among_unseen=classification_metrics(data.y[test][of_unseen], guesses).balanced_accuracy,
            )
        )
    harmonic = np.array([one.among_all.harmonic_mean for one in rounds])
    return HeldOutClassScores(
        rounds=tuple(rounds),
        seen=float(np.mean([one.among_all.seen for one in rounds])),
        unseen=float(np.mean([one.among_all.unseen for one in rounds])),
        harmonic_mean=float(harmonic.mean()),
        among_unseen=float(np.mean([one.among_unseen for one in rounds])),
        interval=mean_interval(harmonic) if len(harmonic) > 1 else None,
    )


# ---------------------------------------------------------------------------------------------------------- incremental


@dataclass(frozen=True, eq=False)
class Incremental:
    """Classes added step by step, beside learning from all of them at once.

    Attributes:
        steps: the classes of each.
        accuracy: row i, column j: after step i, on held-out items of the classes of step j, recognised among all classes
            known by then; NaN above the diagonal.
        retrained: the same by a recogniser that learned from all items of steps 0 to i at once.
        metrics: of `accuracy`.
        retrained_metrics: of `retrained`; classes that come later make old ones harder also without any forgetting.
        old_classes_lost: accuracy on the classes of all steps but the last, of all their items: retrained minus added.
        seconds: of the first fit and of each addition.
        retrained_seconds: of each fit from scratch.
    """

    steps: tuple[tuple[Any, ...], ...]
    accuracy: Float64[np.ndarray, "steps steps"]
    retrained: Float64[np.ndarray, "steps steps"]
    metrics: IncrementalMetrics
    retrained_metrics: IncrementalMetrics
    old_classes_lost: float
    seconds: tuple[float, ...]
    retrained_seconds: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON; what is not measured is None."""

        def plain(matrix: Float64[np.ndarray, "steps steps"]) -> list[list[float | None]]:
            return [[None if np.isnan(value) else value for value in row] for row in matrix.tolist()]

        return {
            "steps": [list(step) for step in self.steps],
            "accuracy": plain(self.accuracy),
            "retrained": plain(self.retrained),
            "metrics": self.metrics.as_dict(),
            "retrained_metrics": self.retrained_metrics.as_dict(),
            "old_classes_lost": self.old_classes_lost,
            "seconds": list(self.seconds),
            "retrained_seconds": list(self.retrained_seconds),
        }


def incremental(
    make: Make,
    X: Arrays,
    y: Labels,
    *,
    steps: Sequence[Sequence[Any]],
    holdout: float = 0.3,
    groups: Labels | None = None,
    seed: int = 0,
) -> Incremental:
    """Learn the classes of the first step, add those of the others by `add_class`, and measure after each.

    Items of classes that are in no step are left out.

    Args:
        make: makes a recogniser with `add_class`, which returns one that knows more classes.
        X: embeddings.
        y: one label an item.
        steps: the classes of each step, two or more in the first; at least two steps.
        holdout: share of the items that are measured on.
        groups: items of one group are never on both sides.
        seed: of the draw.

    Raises:
        LabelError: steps do not fit the labels, a class has no items on one of the sides, or the recogniser cannot add
            classes.
    """
    wanted = tuple(tuple(step) for step in steps)
    if len(wanted) < 2 or len(wanted[0]) < 2 or not all(wanted):
        raise LabelError(
            "steps must be at least two, with two or more classes in the first and one or more in the others; got "
            f"{[len(step) for step in wanted]} classes"
        )
    every = [label for step in wanted for label in step]
    twice = sorted({str(label) for label in every if every.count(label) > 1})
    if twice:
        raise LabelError(f"{', '.join(twice[:5])}: every class can be in one step only")
    whole = _data(X, y, groups, None, None)
    absent = [label for label in every if label not in set(whole.y.tolist())]
    if absent:
        raise LabelError(f"no item is of the classes {absent[:5]}, which steps name")
    if not hasattr(make(), "add_class"):
        raise LabelError("the recogniser has no add_class, so it cannot learn classes step by step")
    data = whole.take(np.flatnonzero(np.isin(whole.y, np.array(every))))
    split = holdout_split(holdout, y=data.y, groups=data.groups, seed=seed)
    step_of_label = {label: number for number, step in enumerate(wanted) for label in step}
    step_of = np.array([step_of_label[label] for label in data.y.tolist()])
    for side, rows in (("learn from", split.train), ("measure on", split.test)):
        lost = np.setdiff1d(np.array(every), data.y[rows])
        if len(lost):
            raise LabelError(f"{lost[0]!s} has no items to {side}: give more, or another holdout than {holdout}")
    number = len(wanted)
    accuracy, retrained = np.full((2, number, number), np.nan)
    seconds, retrained_seconds = [], []
    model: Any = None
    right: dict[str, Bool[np.ndarray, " old"]] = {}
    for step in range(number):
        new, known = split.train[step_of[split.train] == step], split.train[step_of[split.train] <= step]
        begin = time.perf_counter()
        model = data.fitted(make, new) if model is None else model.add_class(data.arrays.take(new), data.y[new])
        seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        scratch = data.fitted(make, known)
        retrained_seconds.append(time.perf_counter() - begin)
        test = split.test[step_of[split.test] <= step]
        for name, matrix, one in (("added", accuracy, model), ("retrained", retrained, scratch)):
            hits = _labels(one, one.predict_proba(data.arrays.take(test))) == data.y[test]
            for before in range(step + 1):
                matrix[step, before] = hits[step_of[test] == before].mean()
            right[name] = hits[step_of[test] < number - 1]
    return Incremental(
        steps=wanted,
        accuracy=accuracy,
        retrained=retrained,
        metrics=incremental_metrics(accuracy),
        retrained_metrics=incremental_metrics(retrained),
        old_classes_lost=float(right["retrained"].mean() - right["added"].mean()),
        seconds=tuple(seconds),
        retrained_seconds=tuple(retrained_seconds),
    )


# ----------------------------------------------------------------------------------------------------------------- leaks


@dataclass(frozen=True)
class Leak:
    """What a split that divides groups would have shown, beside one that does not."""

    items: int
    groups: int
    crossing: int  # items that share a group with one that the random folds would have learned from
    grouped: Interval  # macro-F1, folds of whole groups
    random: Interval  # macro-F1, folds of items
    flattery: float  # the second minus the first

    @property
    def crossing_share(self) -> float:
        """Of the items."""
        return self.crossing / self.items

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {**asdict(self), "crossing_share": self.crossing_share}


def random_split_leak(
    make: Make,
    X: Arrays,
    y: Labels,
    groups: Labels,
    *,
    folds: int = 5,
    names: Names | None = None,
    source: SourceItems | None = None,
    seed: int = 0,
) -> Leak:
    """Cross-validate with and without regard to groups.

    Args:
        make: makes a recogniser.
        X: embeddings.
        y: one label an item.
        groups: what must not be divided, e.g. near-duplicates (`chiasm.splits.near_duplicate_groups`), merged
            with source files or folders (`merge_groups`).
        folds: how many.
        names: embedded names of classes, for the recogniser.
        source: labelled items of another domain, for the recogniser.
        seed: of the folds.

    Raises:
        LabelError: as `cross_validate`.
    """
    data = _data(X, y, groups, names, source)
    assert data.groups is not None
    random_splits = grouped_stratified_folds(data.y, folds, seed=seed)
    scores = [
        cross_validate(make, X, y, folds=folds, groups=given, names=names, source=source, seed=seed)
        for given in (data.groups, None)
    ]
    grouped, random = (score.f1_macro for score in scores)
    return Leak(
        items=len(data.y),
        groups=len(np.unique(data.groups)),
        crossing=sum(crossing(data.groups, split) for split in random_splits),
        grouped=grouped,
        random=random,
        flattery=random.estimate - grouped.estimate,
    )


# ---------------------------------------------------------------------------------------------------------- in common


@dataclass(frozen=True, eq=False)
class _Answer:
    """What a recogniser says of the items that it was measured on."""

    classes: Shaped[np.ndarray, " known"]
    probabilities: Float64[np.ndarray, "items known"]
    labels: Shaped[np.ndarray, " items"]
    sets: Bool[np.ndarray, "items known"] | None
    unknown: Bool[np.ndarray, " items"] | None
    seconds: float

    def spread(
        self, classes: Shaped[np.ndarray, " classes"], columns: Shaped[np.ndarray, "items known"] | None
    ) -> Float64[np.ndarray, "items classes"]:
        """Columns of the classes it knows among those of all classes; 0 for the others."""
        assert columns is not None
        every = np.zeros((len(columns), len(classes)))
        every[:, np.searchsorted(classes, self.classes)] = columns
        return every

    def metrics(self, truth: Shaped[np.ndarray, " items"]) -> ClassificationMetrics:
        return classification_metrics(truth, self.labels)

    def brier(self, truth: Shaped[np.ndarray, " items"]) -> float:
        classes = np.union1d(truth, self.classes)
        p = self.spread(classes, self.probabilities)
        p[np.arange(len(truth)), np.searchsorted(classes, truth)] -= 1
        return float(np.square(p).sum(axis=1).mean())


@dataclass(frozen=True, eq=False)
class _Data:
    """Checked items, and what is handed to a recogniser with them."""

    arrays: ModalityArrays
    y: Shaped[np.ndarray, " items"]
    groups: Int[np.ndarray, " items"] | None
    given: Mapping[str, Any]

    def take(self, rows: Int[np.ndarray, " rows"]) -> _Data:
        groups = None if self.groups is None else self.groups[rows]
        return _Data(self.arrays.take(rows), self.y[rows], groups, self.given)

    def fitted(self, make: Make, rows: Int[np.ndarray, " rows"]) -> Model:
        part = self.take(rows)
        model = make()
        model.fit(part.arrays, part.y, part.groups, **self.given)
        return model

    def answer(self, make: Make, split: Split, *, level: float | None = None) -> _Answer:
        """Learn from one side and ask about the other; sets of classes are asked for with their level."""
        begin = time.perf_counter()
        model: Any = self.fitted(make, split.train)
        test = self.arrays.take(split.test)
        sets = unknown = None
        if level is not None and hasattr(model, "recognise"):
            said = model.recognise(test, level=level)
            probabilities, sets, unknown = said.probabilities, said.sets, said.unknown
        else:
            probabilities = model.predict_proba(test)
        seconds = time.perf_counter() - begin
        given = np.asarray(probabilities, dtype=np.float64)
        return _Answer(np.asarray(model.classes_), given, _labels(model, given), sets, unknown, seconds)


def _labels(model: Model, probabilities: Any) -> Shaped[np.ndarray, " items"]:
    labels: Shaped[np.ndarray, " items"] = np.asarray(model.classes_)[np.asarray(probabilities).argmax(axis=1)]
    return labels


def _data(X: Arrays, y: Labels, groups: Labels | None, names: Names | None, source: SourceItems | None) -> _Data:
    arrays = as_arrays(X)
    classes, codes = label_codes(y)
    if len(codes) != len(arrays):
        raise LabelError(f"there are {len(arrays)} items but {len(codes)} labels: give one label an item")
    if len(classes) < 2:
        raise LabelError(f"all {len(codes)} labels are the same: at least 2 classes are needed")
    given = {key: value for key, value in (("names", names), ("source", source)) if value is not None}
    return _Data(arrays, classes[codes], None if groups is None else group_codes(groups, len(codes)), given)


def _checked_seeds(seeds: Sequence[int], least: int) -> tuple[int, ...]:
    drawn = tuple(int(seed) for seed in seeds)
    if len(drawn) < least or len(set(drawn)) != len(drawn):
        raise LabelError(f"seeds must be at least {least} different numbers; got {list(seeds)}")
    return drawn
