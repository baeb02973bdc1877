"""Protocols give what a slow restatement gives, on items with a planted answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import paired_difference
from chiasm.recognition import ModalityArrays, Recognizer, SourceItems
from chiasm.recognition.protocols import (
    Items,
    compare,
    cross_validate,
    held_out_classes,
    incremental,
    learning_curve,
    random_split_leak,
)
from chiasm.splits import few_shot_split, grouped_stratified_folds, held_out_class_split

CENTRES = np.random.default_rng(0).normal(size=(6, 10))
LABELS = np.array(["bat", "bee", "cat", "cow", "dog", "eel"])
NAMES = {str(label): centre.astype(np.float32) for label, centre in zip(LABELS, CENTRES, strict=True)}


def planted(
    number: int, *, classes: int = 6, noise: float = 1.0, seed: int = 1, groups: Any = None, **given: Any
) -> Items:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(number) % classes)
    X = (CENTRES[codes] + noise * rng.normal(size=(number, 10))).astype(np.float32)
    return Items.check(ModalityArrays({"image": X}), LABELS[codes], groups, **given)


class Nearest:
    """The class whose mean is nearest; a class without examples has its name for a mean."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def fit(self, X: Any, y: Any, groups: Any = None, *, names: Any = None, source: Any = None) -> Nearest:
        self.groups, self.rows, self.source = groups, X.vectors["image"], source
        means = {label: self.rows[y == label].mean(axis=0) for label in np.unique(y).tolist()}
        means = {**(names or {}), **means}
        self.classes_ = np.array(sorted(means))
        self.means = np.stack([means[label] for label in self.classes_.tolist()])
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        logits = -self.scale * np.square(X.vectors["image"][:, None] - self.means).sum(axis=2)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        normal: np.ndarray = p / p.sum(axis=1, keepdims=True)
        return normal

    def recognise(self, X: Any, *, level: float) -> Any:
        p = self.predict_proba(X)
        return SimpleNamespace(probabilities=p, sets=p >= 1 - level, unknown=p.max(axis=1) < 0.5)

    def add_class(self, X: Any, y: Any) -> Nearest:
        grown, new = type(self)(self.scale), Nearest(self.scale).fit(X, y)
        classes = np.concatenate([self.classes_, new.classes_])
        order = np.argsort(classes)
        grown.classes_, grown.means = classes[order], np.concatenate([self.means, new.means])[order]
        return grown


def blind() -> Nearest:
    return Nearest(scale=0.0)  # all classes alike: the first is taken


class Watched:
    """Makes recognisers and keeps them."""

    def __init__(self) -> None:
        self.models: list[Nearest] = []

    def __call__(self) -> Nearest:
        self.models.append(Nearest())
        return self.models[-1]


def guesses(items: Items, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    model = Nearest().fit(items.arrays.take(train), items.labels[train])
    labels: np.ndarray = model.classes_[model.predict_proba(items.arrays.take(test)).argmax(axis=1)]
    return labels


def macro(truth: np.ndarray, labels: np.ndarray) -> float:
    return float(f1_score(truth, labels, average="macro"))


# ----------------------------------------------------------------------------------------------------- cross-validation


def test_cross_validation_is_a_loop_over_folds() -> None:
    items = planted(90, groups=np.arange(90) // 3)
    result = cross_validate(Nearest, items, folds=4, level=0.8, seed=3)
    for split in grouped_stratified_folds(items.labels, 4, seed=3, groups=items.groups):
        model = Nearest().fit(items.arrays.take(split.train), items.labels[split.train])
        answers = model.recognise(items.arrays.take(split.test), level=0.8)
        np.testing.assert_allclose(result.probabilities[split.test], answers.probabilities)
        np.testing.assert_array_equal(result.labels[split.test], model.classes_[answers.probabilities.argmax(axis=1)])
        np.testing.assert_array_equal(result.sets[split.test], answers.sets)
        np.testing.assert_array_equal(result.unknown[split.test], answers.unknown)
    assert result.classes.tolist() == LABELS.tolist()


def test_a_class_of_one_item_is_not_recognised_unless_its_name_is_known() -> None:
    items = planted(31, classes=3)
    labels = np.where(np.arange(31) == 4, "eel", items.labels)
    result = cross_validate(Nearest, Items.check(items.arrays, labels), folds=3)
    assert result.labels[4] != "eel"
    assert result.probabilities[4, result.classes == "eel"] == 0
    by_name = cross_validate(Nearest, Items.check(items.arrays, labels, names=NAMES), folds=3)
    assert by_name.classes.tolist() == LABELS.tolist()


def test_groups_names_and_source_reach_the_recogniser() -> None:
    other = planted(12, seed=5)
    source = SourceItems(other.arrays, other.labels)
    make = Watched()
    cross_validate(make, planted(30, groups=np.repeat(np.arange(10), 3), names=NAMES, source=source), folds=2)
    for model in make.models:
        assert len(model.groups) == len(model.rows)
        assert model.source is source
        assert len(model.classes_) == 6


def test_near_duplicates_flatter_a_random_split() -> None:
    """Copies of items whose label is chance: an item's copy tells its label, and nothing else does."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 2)
    X = rng.normal(size=(40, 10)).astype(np.float32)[groups] + rng.normal(size=(80, 10)).astype(np.float32) * 1e-3
    items = Items.check({"image": X}, LABELS[:2][rng.permutation(np.arange(40) % 2)[groups]], groups)

    class NearestItem(Nearest):
        def fit(self, X: Any, y: Any, groups: Any = None, **given: Any) -> NearestItem:
            self.rows, self.y, self.classes_ = X.vectors["image"], y, np.unique(y)
            return self

        def predict_proba(self, X: Any) -> np.ndarray:
            nearest = np.square(X.vectors["image"][:, None] - self.rows).sum(axis=2).argmin(axis=1)
            hits: np.ndarray = (self.y[nearest][:, None] == self.classes_).astype(float)
            return hits

    leak = random_split_leak(NearestItem, items, folds=4, seed=1)
    crossed = sum(
        sum(groups[row] in groups[split.train] for row in split.test)
        for split in grouped_stratified_folds(items.labels, 4, seed=1)
    )
    assert leak.crossing == crossed > 20
    assert (leak.items, leak.groups) == (80, 40)
    assert leak.grouped.estimate < 0.65 < 0.75 < leak.random.estimate
    assert leak.flattery == leak.random.estimate - leak.grouped.estimate


def test_recognisers_are_compared_on_the_same_folds() -> None:
    items = planted(90)
    makes: dict[str, Callable[[], Any]] = {"near": Nearest, "again": Nearest, "blind": blind}
    result = compare(makes, items, folds=4, seed=2)
    for fold, split in enumerate(grouped_stratified_folds(items.labels, 4, seed=2)):
        expected = macro(items.labels[split.test], guesses(items, split.train, split.test))
        assert result.f1_macro["near"][fold] == pytest.approx(expected)
    assert result.f1_macro["near"] == result.f1_macro["again"]
    assert (result.differences["again"].mean, result.differences["again"].p_value) == (0, 1)
    blinded, near = np.array(result.f1_macro["blind"]), np.array(result.f1_macro["near"])
    assert result.differences["blind"] == paired_difference(blinded, near)
    assert result.differences["blind"].interval.high < -0.3
    assert set(result.seconds) == set(makes)


# -------------------------------------------------------------------------------------------------------- learning curve


def test_a_learning_curve_is_a_loop_over_shots_and_seeds() -> None:
    items = planted(120, noise=1.5)
    curve = learning_curve(Nearest, items, shots=(5, 1), seeds=(3, 4, 9))
    assert [point.shots for point in curve.points] == [1, 5]
    for point in curve.points:
        splits = [few_shot_split(items.labels, point.shots, seed=seed) for seed in curve.seeds]
        labels = [guesses(items, split.train, split.test) for split in splits]
        truths = [items.labels[split.test] for split in splits]
        assert point.f1_macro.estimate == pytest.approx(
            np.mean([macro(*pair) for pair in zip(truths, labels, strict=True)])
        )
        assert point.accuracy.estimate == pytest.approx(
            np.mean([accuracy_score(*pair) for pair in zip(truths, labels, strict=True)])
        )
        assert point.f1_macro.low <= point.f1_macro.estimate <= point.f1_macro.high
    assert curve.points[1].f1_macro.low > curve.points[0].f1_macro.high, "more labels are planted to help"


def test_shots_that_the_labels_do_not_allow_are_left_out_and_named() -> None:
    curve = learning_curve(Nearest, planted(60), shots=(2, 9, 10, 20), seeds=(0, 1))  # ten of each
    assert [point.shots for point in curve.points] == [2, 9]
    assert "bat, which has 10 items" in curve.left_out[10]
    assert set(curve.left_out) == {10, 20}


def test_nothing_is_measured_on_groups_that_were_learned_from() -> None:
    items = planted(60)
    groups = [f"bees {number % 2}" if label == "bee" else str(number) for number, label in enumerate(items.labels)]
    curve = learning_curve(Nearest, Items.check(items.arrays, items.labels, groups), shots=(1, 5), seeds=(0, 1))
    assert [point.shots for point in curve.points] == [1]
    assert "nothing of bee to be measured on that shares no group" in curve.left_out[5]


# -------------------------------------------------------------------------------------------------------- unseen classes


def test_classes_known_by_name_only_are_recognised() -> None:
    items = planted(240, noise=0.4, names=NAMES)
    scores = held_out_classes(Nearest, items)
    assert scores.unseen > 0.9 and scores.seen > 0.9
    assert scores.among_unseen >= scores.unseen
    assert min(scores.seen, scores.unseen) < scores.harmonic_mean < max(scores.seen, scores.unseen)
    wrong = dict(zip(NAMES, np.roll(list(NAMES.values()), 1, axis=0), strict=True))
    mistaken = held_out_classes(Nearest, planted(240, noise=0.4, names=wrong))
    assert mistaken.unseen < scores.unseen - 0.3, "only names tell of these classes"


def test_accuracies_are_means_over_classes() -> None:
    items = planted(120, noise=1.5, names=NAMES)
    make = Watched()
    scores = held_out_classes(make, items, seeds=(4,))
    unseen = held_out_class_split(items.labels, 0.3, seed=4).unseen
    (model,) = make.models
    test = ~(items.arrays.vectors["image"][:, None] == model.rows).all(axis=2).any(axis=1)
    p = model.predict_proba(items.arrays.take(np.flatnonzero(test)))
    of_unseen = np.isin(items.labels[test], unseen)
    truth, labels = items.labels[test], model.classes_[p.argmax(axis=1)]
    recalls = [np.mean(labels[truth == label] == label) for label in unseen]
    assert scores.unseen == pytest.approx(np.mean(recalls))
    columns = np.isin(model.classes_, unseen)
    among = model.classes_[columns][p[of_unseen][:, columns].argmax(axis=1)]
    assert scores.among_unseen == pytest.approx(balanced_accuracy_score(truth[of_unseen], among))


def test_nothing_is_learned_of_unseen_classes_or_of_groups_to_be_measured_on() -> None:
    groups = np.arange(120) // 4
    other = planted(12, seed=5)
    items = planted(120, groups=groups, names=NAMES, source=SourceItems(other.arrays, other.labels))
    make = Watched()
    held_out_classes(make, items, seeds=(5,))
    unseen = held_out_class_split(items.labels, 0.3, seed=5).unseen
    rows = [int(np.flatnonzero((items.arrays.vectors["image"] == row).all(axis=1))[0]) for row in make.models[0].rows]
    assert not np.isin(items.labels[rows], unseen).any()
    assert not np.isin(groups[rows], groups[np.isin(items.labels, unseen)]).any()
    assert make.models[0].source is None, "it may have examples of unseen classes"


# ---------------------------------------------------------------------------------------------------------- incremental


def test_adding_classes_is_measured_after_every_step() -> None:
    steps = [["bat", "dog"], ["bee"], ["cow", "eel"]]
    result = incremental(Nearest, planted(180), steps=steps, seed=2)
    assert np.isnan(result.accuracy[np.triu_indices(3, 1)]).all()
    # The means of old classes stay as they are when one is added: step by step is the same as at once.
    np.testing.assert_allclose(result.accuracy, result.retrained)
    assert result.old_classes_lost == 0
    assert result.metrics.forgetting is not None and result.metrics.forgetting >= 0
    assert result.accuracy[2, 0] <= result.accuracy[0, 0]
    assert result.steps == (("bat", "dog"), ("bee",), ("cow", "eel"))
    np.testing.assert_array_equal(result.accuracy, incremental(Nearest, planted(180), steps=steps, seed=2).accuracy)


def test_a_recogniser_that_forgets_is_found_out() -> None:
    class Forgets(Nearest):
        def add_class(self, X: Any, y: Any) -> Nearest:
            grown = super().add_class(X, y)
            grown.means[~np.isin(grown.classes_, y)] += 100
            return grown

    result = incremental(Forgets, planted(120, noise=0.5), steps=[["bat", "dog"], ["bee"], ["eel"]])
    assert result.accuracy[1:, 0].max() == 0
    assert result.retrained[1:, 0].min() > 0.8
    assert result.metrics.forgetting is not None and result.metrics.forgetting > 0.9
    assert result.old_classes_lost > 0.9


# ------------------------------------------------------------------------------------------------- the recogniser itself


def prototypes() -> Recognizer:
    return Recognizer(adapter="prototypes", unknown=None)


def test_the_recogniser_itself_can_be_measured() -> None:
    items = planted(80, classes=4, noise=0.5)
    result = cross_validate(prototypes, items, folds=2)
    assert (result.labels == items.labels).mean() > 0.8
    assert result.sets[np.arange(80), np.searchsorted(result.classes, items.labels)].mean() > 0.8
    grown = incremental(prototypes, items, steps=[["bat", "bee"], ["cat"], ["cow"]])
    assert np.nanmin(grown.accuracy) > 0.8
    assert abs(grown.old_classes_lost) < 0.1
    named = Items.check(ModalityArrays(shared=dict(items.arrays.vectors)), items.labels, names=NAMES)
    assert held_out_classes(prototypes, named, seeds=(0,)).unseen > 0.6


def test_results_are_plain_json() -> None:
    items = planted(60, groups=np.arange(60) // 2, names=NAMES)
    for result in (
        learning_curve(Nearest, items, shots=(1, 30), seeds=(0, 1)),
        compare({"near": Nearest, "blind": blind}, items),
        held_out_classes(Nearest, items),
        incremental(Nearest, items, steps=[["bat", "bee"], ["eel"]]),
        random_split_leak(Nearest, items),
    ):
        json.dumps(result.as_dict(), allow_nan=False)


# ------------------------------------------------------------------------------------------------------------- bad input


class IgnoresNames(Nearest):
    def fit(self, X: Any, y: Any, groups: Any = None, **given: Any) -> Nearest:
        return super().fit(X, y)


@pytest.mark.parametrize(
    ("call", "term"),
    [
        (lambda items: Items.check(items.arrays, items.labels[:-1]), "30 items but 29 labels"),
        (lambda items: Items.check(items.arrays, items.labels[:1].repeat(30)), "all 30 labels are the same"),
        (lambda items: Items.check(items.arrays, items.labels, [1]), "30 rows but 1 groups"),
        (lambda items: cross_validate(Nearest, items, folds=31), "31 folds"),
        (lambda items: random_split_leak(Nearest, items), "no groups"),
        (lambda items: learning_curve(Nearest, items, shots=(0, 1)), "at least 1"),
        (lambda items: learning_curve(Nearest, items, shots=(50,)), "no number of shots is possible"),
        (lambda items: learning_curve(Nearest, items, seeds=(1, 1)), "at least 2 different numbers"),
        (lambda items: compare({"a": Nearest}, items), "at least 2 recognisers"),
        (
            lambda items: held_out_classes(Nearest, planted(30, names={"bat": NAMES["bat"]})),
            "5 classes have no embedded",
        ),
        (lambda items: held_out_classes(Nearest, planted(30, names=NAMES), share=0.9), "leaves 1 class"),
        (lambda items: held_out_classes(IgnoresNames, planted(30, names=NAMES)), "0 of 2 unseen classes"),
        (lambda items: incremental(Nearest, items, steps=[["bat"], ["bee"]]), "two or more classes in the first"),
        (lambda items: incremental(Nearest, items, steps=[["bat", "bee"], ["bat"]]), "in one step only"),
        (lambda items: incremental(Nearest, items, steps=[["bat", "bee"], ["yak"]]), "yak has no items"),
        (
            lambda items: incremental(Nearest, items, steps=[["bat", "bee"], ["eel"]], holdout=0.01),
            "no items to measure on|leaves nothing to test",
        ),
    ],
)
def test_bad_input_is_refused(call: Callable[[Items], object], term: str) -> None:
    with pytest.raises(LabelError, match=term):
        call(planted(30))
