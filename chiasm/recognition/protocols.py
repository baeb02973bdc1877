"""Protocols: what a recogniser is trained on, what it is measured on, and what the scores say together.

How good a recogniser is (`cross_validate`), how that grows with labels (`learning_curve`), which of several is better
(`compare`), how it does on classes without examples (`held_out_classes`), what it forgets when classes are added
(`incremental`), and how much a careless split would flatter it (`random_split_leak`). Metrics are those of
`chiasm.evaluation`, splits those of `chiasm.splits`; showing the results is left to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import Interval, PairedDifference, bootstrap_interval, mean_interval, paired_difference
from chiasm.evaluation.metrics import (
    IncrementalMetrics,
    classification_metrics,
    held_out_class_metrics,
    incremental_metrics,
)
from chiasm.evaluation.record import Record
from chiasm.recognition.modalities import Arrays, ModalityArrays, as_arrays
from chiasm.recognition.training_set import SourceItems
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

_INTERVAL_DRAWS = 200  # of statistics that are computed anew for every draw


Make: TypeAlias = Callable[[], Any]
"""Make an unfitted recogniser, with the methods of `chiasm.recognition.Recognizer`; called once for every part that is
learned from."""


@dataclass(frozen=True, eq=False)
class Items:
    """Labelled items to learn from and to measure on; made by `Items.check`.

    Example:
        >>> items = Items.check({"image": np.eye(4)}, ["cat", "dog", "cat", "dog"])
        >>> items.take(np.array([1, 3])).labels.tolist()
        ['dog', 'dog']
    """

    arrays: ModalityArrays
    labels: Shaped[np.ndarray, " items"]
    groups: Int[np.ndarray, " items"] | None
    given: Mapping[str, Any]
    """Names of classes and a source, by the arguments of `fit`."""

    @classmethod
    def check(
        cls,
        X: Arrays,
        y: Labels,
        groups: Labels | None = None,
        *,
        names: Mapping[Any, Float[np.ndarray, " dim"]] | None = None,
        source: SourceItems | None = None,
    ) -> Self:
        """Return the items after making sure that their parts fit.

        Args:
            X: embeddings.
            y: one label an item.
            groups: items of one group are never on both sides of a split.
            names: embedded names of classes, for the recogniser.
            source: labelled items of another domain, for the recogniser.

        Raises:
            LabelError: labels or groups do not fit, or there is one class only.
        """
        arrays = as_arrays(X)
        classes, codes = label_codes(y)
        if len(codes) != len(arrays):
            raise LabelError(f"there are {len(arrays)} items but {len(codes)} labels: give one label an item")
        if len(classes) < 2:
            raise LabelError(f"all {len(codes)} labels are the same: at least 2 classes are needed")
        given = {key: value for key, value in (("names", names), ("source", source)) if value}
        return cls(arrays, classes[codes], None if groups is None else group_codes(groups, len(codes)), given)

    def take(self, rows: Int[np.ndarray, " rows"]) -> Self:
        """Return some of the items."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, arrays=self.arrays.take(rows), labels=self.labels[rows], groups=groups)

    def folds(self, number: int, *, seed: int) -> tuple[Split, ...]:
        """Deal into stratified folds; no group is divided."""
        return grouped_stratified_folds(self.labels, number, seed=seed, groups=self.groups)

    def fit(self, model: Any, rows: Int[np.ndarray, " rows"]) -> Any:
        """Fit a recogniser on some of the items."""
        part = self.take(rows)
        model.fit(part.arrays, part.labels, part.groups, **self.given)
        return model


def _guesses(model: Any, items: Items, rows: Int[np.ndarray, " rows"]) -> Shaped[np.ndarray, " rows"]:
    probabilities = np.asarray(model.predict_proba(items.arrays.take(rows)))
    guesses: Shaped[np.ndarray, " rows"] = np.asarray(model.classes_)[probabilities.argmax(axis=1)]
    return guesses


# ----------------------------------------------------------------------------------------------------- cross-validation


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Every item as it is recognised by a recogniser that did not learn from its fold."""

    classes: Shaped[np.ndarray, " classes"]
    """The classes of the columns, sorted."""
    labels: Shaped[np.ndarray, " items"]
    """The most probable class of each item."""
    probabilities: Float64[np.ndarray, "items classes"]
    """0 for classes that the fold's recogniser did not know."""
    sets: Bool[np.ndarray, "items classes"]
    """The classes in each item's set at `level`."""
    unknown: Bool[np.ndarray, " items"]
    """The items called unknown, all of them false alarms."""
    level: float


def cross_validate(make: Make, items: Items, *, folds: int = 5, level: float = 0.9, seed: int = 0) -> CrossValidation:
    """Recognise every item by a recogniser that learned from the other folds.

    What the recogniser chooses for itself it chooses within the folds that it learns from, so scores are those of the
    whole procedure (nested cross-validation).

    Sets hold the true class as often as `level` says.

    Raises:
        LabelError: there are fewer items or groups than folds.
    """
    splits = items.folds(folds, seed=seed)
    models = [items.fit(make(), split.train) for split in splits]
    classes = np.unique(np.concatenate([items.labels, *(model.classes_ for model in models)]))
    probabilities = np.zeros((len(items.labels), len(classes)))
    sets = np.zeros(probabilities.shape, dtype=bool)
    labels = np.empty(len(items.labels), dtype=classes.dtype)
    unknown = np.empty(len(items.labels), dtype=bool)
    for model, split in zip(models, splits, strict=True):
        answers = model.recognise(items.arrays.take(split.test), level=level)
        place = np.ix_(split.test, np.searchsorted(classes, model.classes_))
        probabilities[place], sets[place] = answers.probabilities, answers.sets
        labels[split.test] = np.asarray(model.classes_)[answers.probabilities.argmax(axis=1)]
        unknown[split.test] = answers.unknown
    return CrossValidation(classes, labels, probabilities, sets, unknown, level)


@dataclass(frozen=True)
class Leak(Record):
    """Scores of a split that divides groups, beside those of one that does not."""

    items: int
    groups: int
    crossing: int  # items that share a group with one that the random folds learned from
    grouped: Interval  # macro-F1, folds of whole groups
    random: Interval  # macro-F1, folds of items
    flattery: float  # the second minus the first


def random_split_leak(make: Make, items: Items, *, folds: int = 5, seed: int = 0) -> Leak:
    """Cross-validate with and without regard to groups, e.g. near-duplicates.

    Raises:
        LabelError: the items have no groups, or fewer than folds.
    """
    if items.groups is None:
        raise LabelError("items have no groups that a split could divide: give groups")

    def f1_macro(careful: bool) -> Interval:
        part = items if careful else replace(items, groups=None)
        labels = cross_validate(make, part, folds=folds, seed=seed).labels

        def statistic(rows: Int[np.ndarray, " drawn"]) -> float:
            return classification_metrics(items.labels[rows], labels[rows]).f1_macro

        return bootstrap_interval(statistic, len(labels), groups=part.groups, draws=_INTERVAL_DRAWS, seed=seed)

    grouped, random = f1_macro(careful=True), f1_macro(careful=False)
    random_splits = grouped_stratified_folds(items.labels, folds, seed=seed)
    return Leak(
        items=len(items.labels),
        groups=len(np.unique(items.groups)),
        crossing=sum(crossing(items.groups, split) for split in random_splits),
        grouped=grouped,
        random=random,
        flattery=random.estimate - grouped.estimate,
    )


@dataclass(frozen=True)
class Comparison(Record):
    """Several recognisers on the same folds."""

    f1_macro: Mapping[str, tuple[float, ...]]  # by recogniser, of each fold
    seconds: Mapping[str, float]  # to fit and predict, mean over folds
    differences: Mapping[str, PairedDifference]  # of macro-F1 to the first recogniser; of all but that


def compare(makes: Mapping[str, Make], items: Items, *, folds: int = 5, seed: int = 0) -> Comparison:
    """Measure several recognisers on the same folds and compare each with the first.

    Folds of one cross-validation share most of what is learned from, so p-values are too small (see
    `chiasm.evaluation.intervals.paired_difference`).

    Raises:
        LabelError: fewer than 2 recognisers, or fewer items or groups than folds.
    """
    if len(makes) < 2:
        raise LabelError(f"at least 2 recognisers are needed to compare; got {', '.join(makes) or 'none'}")
    splits = items.folds(folds, seed=seed)
    scores: dict[str, tuple[float, ...]] = {}
    seconds: dict[str, float] = {}
    for name, make in makes.items():
        begin = time.perf_counter()
        guesses = [_guesses(items.fit(make(), split.train), items, split.test) for split in splits]
        seconds[name] = (time.perf_counter() - begin) / len(splits)
        scores[name] = tuple(
            classification_metrics(items.labels[split.test], labels).f1_macro
            for split, labels in zip(splits, guesses, strict=True)
        )
    first, *others = makes
    differences = {name: paired_difference(np.array(scores[name]), np.array(scores[first])) for name in others}
    return Comparison(scores, seconds, differences)


# -------------------------------------------------------------------------------------------------------- learning curve


@dataclass(frozen=True)
class CurvePoint(Record):
    """Means of scores with so many labelled items a class, with intervals over seeds."""

    shots: int
    f1_macro: Interval
    accuracy: Interval


@dataclass(frozen=True)
class LearningCurve(Record):
    """Scores by the number of labels."""

    points: tuple[CurvePoint, ...]  # by rising shots
    left_out: Mapping[int, str]  # shots that the labels do not allow, and why
    seeds: tuple[int, ...]


def learning_curve(
    make: Make, items: Items, *, shots: Sequence[int] = (1, 2, 5, 10, 20), seeds: Sequence[int] = (0, 1, 2, 3, 4)
) -> LearningCurve:
    """Learn from 1, 2, 5 ... items a class and measure on the rest.

    Every seed draws its own items; the items of fewer shots are among those of more. Items that share a group with one
    that is learned from are not measured on.

    Args:
        shots: items a class. Numbers that leave a class nothing to be measured on are left out, and named.
        seeds: of the draws, at least 2.

    Raises:
        LabelError: shots or seeds are out of range, or no number of shots is possible.
    """
    numbers = sorted(set(shots))
    if not numbers or numbers[0] < 1:
        raise LabelError(f"shots must be one or more numbers of at least 1; got {list(shots)}")
    if len(set(seeds)) < 2:
        raise LabelError(f"seeds must be at least 2 different numbers; got {list(seeds)}")
    points: list[CurvePoint] = []
    left_out: dict[int, str] = {}
    for number in numbers:
        splits, why = _few_shot_splits(items, number, seeds)
        if why:
            left_out[number] = why
            continue
        metrics = [
            classification_metrics(
                items.labels[split.test], _guesses(items.fit(make(), split.train), items, split.test)
            )
            for split in splits
        ]
        f1, accuracy = np.array([(one.f1_macro, one.accuracy) for one in metrics]).T
        points.append(CurvePoint(number, mean_interval(f1), mean_interval(accuracy)))
    if not points:
        raise LabelError(f"no number of shots is possible: {'; '.join(left_out.values())}")
    return LearningCurve(tuple(points), left_out, tuple(seeds))


def _few_shot_splits(items: Items, shots: int, seeds: Sequence[int]) -> tuple[list[Split], str]:
    """Return a split for every seed, and why there is none; one of the two is empty."""
    classes, codes = label_codes(items.labels)
    sizes = np.bincount(codes)
    smallest = int(sizes.argmin())
    if sizes[smallest] <= shots:
        return [], (
            f"{shots} a class leave nothing of {classes[smallest]!s}, which has {sizes[smallest]} items, to be measured on"
        )
    splits = [few_shot_split(items.labels, shots, seed=seed, groups=items.groups) for seed in seeds]
    for split in splits:
        lost = np.setdiff1d(classes, items.labels[split.test])
        if len(lost):
            return [], f"{shots} a class leave nothing of {lost[0]!s} to be measured on that shares no group with them"
    return splits, ""


# -------------------------------------------------------------------------------------------------------- unseen classes


@dataclass(frozen=True)
class HeldOutClassScores(Record):
    """Recognition of classes known by name only, beside those with examples; means over draws.

    Accuracies are means over classes.
    """

    seen: float  # among all classes
    unseen: float  # among all classes
    harmonic_mean: float  # of these two
    among_unseen: float  # items of unseen classes, recognised among these alone
    seeds: tuple[int, ...]


def held_out_classes(
    make: Make, items: Items, *, share: float = 0.3, holdout: float = 0.3, seeds: Sequence[int] = (0, 1, 2)
) -> HeldOutClassScores:
    """Learn from examples of some classes and from the names of all, and measure on both kinds of classes.

    Generalised zero-shot learning as of Xian et al. 2018 (TPAMI): items of seen and unseen classes are recognised among
    all classes.

    Args:
        make: makes a recogniser that takes `names`.
        items: with the embedded name of every class, and vectors in the space of the names. Items that
            share a group with one that is measured on are not learned from.
        share: of the classes, of which the names alone are given.
        holdout: share of the items of seen classes that is measured on.
        seeds: of the draws.

    Raises:
        LabelError: classes without a name, fewer than 2 seen classes, shares that leave nothing to learn from or to
            measure on, or a recogniser that knows no class by its name.
    """
    nameless = [label for label in np.unique(items.labels).tolist() if label not in items.given.get("names", {})]
    if nameless:
        raise LabelError(
            f"{len(nameless)} classes have no embedded name, such as {nameless[0]!s}: without examples a class is known "
            "by its name only"
        )
    items = replace(items, given={"names": items.given["names"]})  # a source may have examples of unseen classes
    scores = []
    for seed in seeds:
        classes = held_out_class_split(items.labels, share, seed=seed)
        if len(classes.seen) < 2:
            raise LabelError(f"a share of {share} leaves {len(classes.seen)} class with examples: 2 are needed")
        seen = items.take(classes.split.train)
        inner = holdout_split(holdout, y=seen.labels, groups=seen.groups, seed=seed)
        test = np.sort(np.concatenate([classes.split.test, classes.split.train[inner.test]]))
        train = classes.split.train[inner.train]
        if items.groups is not None:
            train = train[~np.isin(items.groups[train], items.groups[test])]
        if len(np.unique(items.labels[train])) < 2:
            raise LabelError("fewer than 2 classes have items that share no group with those to be measured on")
        model = items.fit(make(), train)
        known = np.asarray(model.classes_)
        columns = np.flatnonzero(np.isin(known, classes.unseen))
        if len(columns) < len(classes.unseen):
            raise LabelError(
                f"the recogniser knows {len(columns)} of {len(classes.unseen)} unseen classes: it must take classes from "
                "names"
            )
        probabilities = np.asarray(model.predict_proba(items.arrays.take(test)))
        truth = items.labels[test]
        among_all = held_out_class_metrics(truth, known[probabilities.argmax(axis=1)], unseen=classes.unseen)
        unseen = np.isin(truth, classes.unseen)
        among_unseen = known[columns][probabilities[unseen][:, columns].argmax(axis=1)]
        scores.append(
            (
                among_all.seen,
                among_all.unseen,
                among_all.harmonic_mean,
                classification_metrics(truth[unseen], among_unseen).balanced_accuracy,
            )
        )
    means = np.mean(scores, axis=0)
    return HeldOutClassScores(float(means[0]), float(means[1]), float(means[2]), float(means[3]), tuple(seeds))


# ---------------------------------------------------------------------------------------------------------- incremental


@dataclass(frozen=True, eq=False)
class Incremental(Record):
    """Classes added step by step, beside learning from all of them at once."""

    steps: tuple[tuple[Any, ...], ...]
    """The classes of each step."""
    accuracy: Float64[np.ndarray, "steps steps"]
    """Row i, column j: after step i, on held-out items of the classes of step j, recognised among all classes known by
    then; NaN above the diagonal."""
    retrained: Float64[np.ndarray, "steps steps"]
    """Accuracy of a recogniser trained on all items of steps 0 to i at once."""
    metrics: IncrementalMetrics
    """Metrics of `accuracy`."""
    old_classes_lost: float
    """Accuracy on the classes of all steps but the last, of all their items: retrained minus added."""

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name; values that were not measured are None."""

        def plain(matrix: Float64[np.ndarray, "steps steps"]) -> list[list[float | None]]:
            return [[None if np.isnan(value) else value for value in row] for row in matrix.tolist()]

        return super().as_dict() | {"accuracy": plain(self.accuracy), "retrained": plain(self.retrained)}


def incremental(
    make: Make, items: Items, *, steps: Sequence[Sequence[Any]], holdout: float = 0.3, seed: int = 0
) -> Incremental:
    """Learn the classes of the first step, add those of the others by `add_class`, and measure after each.

    Args:
        items: those of classes that are in no step are left out. Names and source are not used: they would tell of classes
            before their step.
        steps: the classes of each step, two or more in the first; at least two steps.
        holdout: share of the items that is measured on.
        seed: of the draw.

    Raises:
        LabelError: steps do not fit the labels, or a class has no items on one of the sides.
    """
    plan = tuple(tuple(step) for step in steps)
    step_of_class = {label: number for number, step in enumerate(plan) for label in step}
    if len(plan) < 2 or len(plan[0]) < 2 or not all(plan) or len(step_of_class) < sum(map(len, plan)):
        raise LabelError(
            "steps must be at least two, with two or more classes in the first, one or more in the others, and every class "
            f"in one step only; got {[list(step) for step in plan]}"
        )
    classes = np.array(list(step_of_class))
    items = replace(items.take(np.flatnonzero(np.isin(items.labels, classes))), given={})
    split = holdout_split(holdout, y=items.labels, groups=items.groups, seed=seed)
    for side, rows in (("learn from", split.train), ("measure on", split.test)):
        lost = np.setdiff1d(classes, items.labels[rows])
        if len(lost):
            raise LabelError(f"{lost[0]!s} has no items to {side}: give more, or another holdout than {holdout}")
    step_of = np.array([step_of_class[label] for label in items.labels.tolist()])
    number = len(plan)
    accuracy = {"added": np.full((number, number), np.nan), "retrained": np.full((number, number), np.nan)}
    on_old = dict.fromkeys(accuracy, 0.0)
    grown: Any = None
    for step in range(number):
        new, known = split.train[step_of[split.train] == step], split.train[step_of[split.train] <= step]
        added = items.take(new)
        grown = items.fit(make(), new) if grown is None else grown.add_class(added.arrays, added.labels)
        test = split.test[step_of[split.test] <= step]
        for name, model in (("added", grown), ("retrained", items.fit(make(), known))):
            hits = _guesses(model, items, test) == items.labels[test]
            for before in range(step + 1):
                accuracy[name][step, before] = hits[step_of[test] == before].mean()
            on_old[name] = float(hits[step_of[test] < number - 1].mean())
    return Incremental(
        steps=plan,
        accuracy=accuracy["added"],
        retrained=accuracy["retrained"],
        metrics=incremental_metrics(accuracy["added"]),
        old_classes_lost=on_old["retrained"] - on_old["added"],
    )
