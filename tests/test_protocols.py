"""Protocols give what a slow restatement gives, on items with a planted answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import paired_difference
from chiasm.recognition import ModalityArrays, Recognizer, SourceItems
from chiasm.recognition.protocols import (
    compare,
    cross_validate,
    incremental,
    learning_curve,
    random_split_leak,
    zero_shot_on_held_out_classes,
)
from chiasm.splits import few_shot_split, grouped_stratified_folds, held_out_class_split

CENTRES = np.random.default_rng(0).normal(size=(6, 10))
LABELS = np.array(["bat", "bee", "cat", "cow", "dog", "eel"])
NAMES = {str(label): centre.astype(np.float32) for label, centre in zip(LABELS, CENTRES, strict=True)}


def planted(items: int, *, classes: int = 6, noise: float = 1.0, seed: int = 1) -> tuple[ModalityArrays, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(items) % classes)
    X = (CENTRES[codes] + noise * rng.normal(size=(items, 10))).astype(np.float32)
    return ModalityArrays({"image": X}), LABELS[codes]


class Said(NamedTuple):
    probabilities: np.ndarray
    sets: np.ndarray
    unknown: np.ndarray


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

    def add_class(self, X: Any, y: Any) -> Nearest:
        grown, new = type(self)(self.scale), Nearest(self.scale).fit(X, y)
        classes = np.concatenate([self.classes_, new.classes_])
        order = np.argsort(classes)
        grown.classes_, grown.means = classes[order], np.concatenate([self.means, new.means])[order]
        return grown


class WithSets(Nearest):
    def recognise(self, X: Any, *, level: float) -> Said:
        p = self.predict_proba(X)
        best = p.argmax(axis=1)[:, None] == np.arange(p.shape[1])
        return Said(p, best, p.max(axis=1) < 0.5)


def accuracy(y: np.ndarray, model: Any, X: ModalityArrays) -> float:
    return float(accuracy_score(y, model.classes_[model.predict_proba(X).argmax(axis=1)]))


# ----------------------------------------------------------------------------------------------------- cross-validation


def test_cross_validation_is_a_loop_over_folds() -> None:
    X, y = planted(90)
    groups = np.arange(90) // 3
    found = cross_validate(WithSets, X, y, folds=4, groups=groups, seed=3)
    for fold, split in enumerate(grouped_stratified_folds(y, 4, seed=3, groups=groups)):
        model = WithSets().fit(X.take(split.train), y[split.train])
        p = model.predict_proba(X.take(split.test))
        np.testing.assert_allclose(found.probabilities[split.test], p)
        assert (found.fold_of[split.test] == fold).all()
        guesses = model.classes_[p.argmax(axis=1)]
        assert found.labels[split.test].tolist() == guesses.tolist()
        assert found.folds[fold].metrics.f1_macro == pytest.approx(f1_score(y[split.test], guesses, average="macro"))
        assert found.folds[fold].items == len(split.test)
    assert found.metrics.accuracy == found.accuracy.estimate == accuracy_score(y, found.labels)
    assert found.f1_macro.estimate == pytest.approx(f1_score(y, found.labels, average="macro"))
    assert found.f1_macro.low < found.f1_macro.estimate < found.f1_macro.high
    assert found.sets is not None and found.unknown is not None
    assert found.coverage == found.accuracy.estimate, "the sets of this recogniser hold its best guess alone"
    assert found.set_size == 1
    assert found.unknown.tolist() == (found.probabilities.max(axis=1) < 0.5).tolist()
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_recogniser_without_sets_is_not_asked_for_them() -> None:
    found = cross_validate(Nearest, *planted(30))
    assert found.sets is None and found.unknown is None and found.coverage is None
    assert found.as_dict()["false_alarms"] is None


def test_a_class_of_one_item_is_not_recognised_and_said_to_be_unlearned() -> None:
    X, y = planted(31, classes=3)
    y = y.copy()
    y[4] = "eel"
    found = cross_validate(Nearest, X, y, folds=3)
    assert found.unlearned == 1
    assert found.labels[4] != "eel"
    assert found.probabilities[4, found.classes == "eel"] == 0
    by_name = cross_validate(Nearest, X, y, folds=3, names=NAMES)
    assert by_name.classes.tolist() == LABELS.tolist()


def test_groups_names_and_source_reach_the_recogniser() -> None:
    X, y = planted(30)
    made: list[Nearest] = []

    def make() -> Nearest:
        made.append(Nearest())
        return made[-1]

    source = SourceItems(*planted(12, seed=5))
    cross_validate(make, X, y, folds=2, groups=np.repeat(np.arange(10), 3), names=NAMES, source=source)
    assert [len(model.groups) for model in made] == [len(model.rows) for model in made]
    assert all(model.source is source and len(model.classes_) == 6 for model in made)
    cross_validate(WithoutNames, X, y, folds=2)


class WithoutNames(Nearest):
    def fit(self, X: Any, y: Any, groups: Any = None) -> WithoutNames:  # type: ignore[override]
        assert groups is None
        super().fit(X, y)
        return self


def test_the_recogniser_itself_can_be_measured() -> None:
    X, y = planted(60, classes=3)
    found = cross_validate(lambda: Recognizer(adapter="prototypes", unknown=None), X, y, folds=2)
    assert found.accuracy.estimate > 0.8
    assert found.coverage is not None and found.coverage > 0.8


# -------------------------------------------------------------------------------------------------------- learning curve


def test_a_learning_curve_is_a_loop_over_shots_and_seeds() -> None:
    X, y = planted(120, noise=1.5)
    curve = learning_curve(Nearest, X, y, shots=(5, 1), seeds=(3, 4, 9))
    assert [point.shots for point in curve.points] == [1, 5]
    for point in curve.points:
        for number, seed in enumerate(curve.seeds):
            split = few_shot_split(y, point.shots, seed=seed)
            model = Nearest().fit(X.take(split.train), y[split.train])
            guesses = model.classes_[model.predict_proba(X.take(split.test)).argmax(axis=1)]
            truth = y[split.test]
            assert point.f1_macro_by_seed[number] == pytest.approx(f1_score(truth, guesses, average="macro"))
            assert point.accuracy_by_seed[number] == pytest.approx(accuracy_score(truth, guesses))
        assert point.f1_macro.estimate == pytest.approx(np.mean(point.f1_macro_by_seed))
        assert point.f1_macro.low <= point.f1_macro.estimate <= point.f1_macro.high
    assert curve.points[1].f1_macro.low > curve.points[0].f1_macro.high, "more labels are planted to help"
    assert learning_curve(Nearest, X, y, shots=(1, 5), seeds=(3, 4, 9)).points[0].f1_macro == curve.points[0].f1_macro
    json.dumps(curve.as_dict(), allow_nan=False)


def test_shots_that_the_labels_do_not_allow_are_left_out_and_named() -> None:
    X, y = planted(60)  # ten of each
    curve = learning_curve(Nearest, X, y, shots=(2, 9, 10, 20), seeds=(0, 1))
    assert [point.shots for point in curve.points] == [2, 9]
    assert curve.left_out[10] == "10 a class leave nothing of bat, which has 10 items, to be measured on"
    assert set(curve.left_out) == {10, 20}


def test_nothing_is_measured_on_groups_that_were_learned_from() -> None:
    X, y = planted(60)
    groups = np.array([f"bees {number % 2}" if label == "bee" else str(number) for number, label in enumerate(y)])
    curve = learning_curve(Nearest, X, y, shots=(1, 5), seeds=(0, 1), groups=groups)
    assert [point.shots for point in curve.points] == [1]
    assert curve.left_out[5] == "5 a class leave nothing of bee to be measured on that shares no group with them"


# ------------------------------------------------------------------------------------------------------------ comparison


def blind() -> Nearest:
    return Nearest(scale=0.0)  # all classes alike: the first is taken


def test_recognisers_are_compared_on_the_same_parts() -> None:
    X, y = planted(90)
    makes: dict[str, Callable[[], Any]] = {"near": Nearest, "again": Nearest, "blind": blind}
    found = compare(makes, X, y, folds=4, seeds=(1, 2))
    assert found.parts == tuple((seed, fold) for seed in (1, 2) for fold in range(4))
    assert found.models["near"].f1_macro == found.models["again"].f1_macro
    assert found.differences["near", "again"].mean == 0
    assert found.differences["near", "again"].p_value == 1
    expected = paired_difference(np.array(found.models["near"].f1_macro), np.array(found.models["blind"].f1_macro))
    assert found.differences["near", "blind"] == expected
    assert expected.interval.low > 0.3
    split = grouped_stratified_folds(y, 4, seed=2)[1]
    model = Nearest().fit(X.take(split.train), y[split.train])
    p = model.predict_proba(X.take(split.test))
    truth = y[split.test][:, None] == model.classes_
    assert found.models["near"].brier[5] == pytest.approx(np.square(p - truth).sum(axis=1).mean())
    assert found.models["near"].accuracy[5] == accuracy(y[split.test], model, X.take(split.test))
    assert found.models["near"].mean("accuracy") == np.mean(found.models["near"].accuracy)
    json.dumps(found.as_dict(), allow_nan=False)


def test_recognisers_are_compared_by_shots() -> None:
    X, y = planted(90)
    found = compare({"near": Nearest, "blind": blind}, X, y, shots=2, seeds=range(5), metric="brier")
    assert len(found.parts) == len(found.models["near"].brier) == 5
    assert found.differences["near", "blind"].mean < 0, "a Brier score is better when lower"


# -------------------------------------------------------------------------------------------------------- unseen classes


def test_classes_known_by_name_only_are_recognised() -> None:
    X, y = planted(240, noise=0.4)
    found = zero_shot_on_held_out_classes(Nearest, X, y, names=NAMES, share=0.3, seeds=(0, 1, 2))
    for one in found.rounds:
        expected = held_out_class_split(y, 0.3, seed=one.seed)
        assert (one.seen, one.unseen) == (expected.seen, expected.unseen)
        assert one.among_unseen >= one.among_all.unseen
    assert found.unseen > 0.9 and found.seen > 0.9 and found.interval is not None
    assert found.harmonic_mean == pytest.approx(np.mean([one.among_all.harmonic_mean for one in found.rounds]))
    wrong = dict(zip(NAMES, np.roll(list(NAMES.values()), 1, axis=0), strict=True))
    mistaken = zero_shot_on_held_out_classes(Nearest, X, y, names=wrong)
    assert mistaken.unseen < found.unseen - 0.3, "only names tell of these classes"
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_recogniser_itself_knows_classes_by_their_names() -> None:
    X, y = planted(120, noise=0.4)
    shared = ModalityArrays(shared={"image": X.vectors["image"]})
    found = zero_shot_on_held_out_classes(
        lambda: Recognizer(adapter="prototypes", unknown=None), shared, y, names=NAMES, seeds=(0,)
    )
    assert found.unseen > 0.6 and found.seen > 0.8
    assert found.interval is None


def test_nothing_is_learned_of_unseen_classes_or_of_groups_to_be_measured_on() -> None:
    X, y = planted(120)
    groups = np.arange(120) // 4
    made: list[Nearest] = []

    def make() -> Nearest:
        made.append(Nearest())
        return made[-1]

    (found,) = zero_shot_on_held_out_classes(make, X, y, names=NAMES, groups=groups, seeds=(5,)).rounds
    rows = [int(np.flatnonzero((X.vectors["image"] == row).all(axis=1))[0]) for row in made[0].rows]
    assert not np.isin(y[rows], found.unseen).any()
    assert not np.isin(groups[rows], groups[np.isin(y, found.unseen)]).any()


# ---------------------------------------------------------------------------------------------------------- incremental


def test_adding_classes_is_measured_after_every_step() -> None:
    X, y = planted(180)
    steps = [["bat", "dog"], ["bee"], ["cow", "eel"]]
    found = incremental(Nearest, X, y, steps=steps, seed=2)
    assert np.isnan(found.accuracy[np.triu_indices(3, 1)]).all()
    # The means of old classes stay as they are when one is added: step by step is the same as at once.
    np.testing.assert_allclose(found.accuracy, found.retrained)
    assert found.old_classes_lost == 0
    assert found.metrics == found.retrained_metrics
    assert found.accuracy[2, 0] <= found.accuracy[0, 0]
    assert found.metrics.forgetting is not None and found.metrics.forgetting >= 0
    assert found.steps == (("bat", "dog"), ("bee",), ("cow", "eel"))
    again = incremental(Nearest, X, y, steps=steps, seed=2)
    np.testing.assert_array_equal(found.accuracy, again.accuracy)
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_recogniser_that_forgets_is_found_out() -> None:
    class Forgets(Nearest):
        def add_class(self, X: Any, y: Any) -> Nearest:
            grown = super().add_class(X, y)
            grown.means[~np.isin(grown.classes_, y)] += 100
            return grown

    X, y = planted(120, noise=0.5)
    found = incremental(Forgets, X, y, steps=[["bat", "dog"], ["bee"], ["eel"]])
    assert found.accuracy[1:, 0].max() == 0
    assert found.metrics.forgetting is not None and found.metrics.forgetting > 0.9
    assert found.retrained_metrics.forgetting is not None and found.retrained_metrics.forgetting < 0.1
    assert found.old_classes_lost > 0.9


def test_classes_are_added_to_the_recogniser_itself() -> None:
    X, y = planted(80, classes=4, noise=0.5)
    found = incremental(
        lambda: Recognizer(adapter="prototypes", unknown=None), X, y, steps=[["bat", "bee"], ["cat"], ["cow"]]
    )
    assert np.nanmin(found.accuracy) > 0.8
    assert abs(found.old_classes_lost) < 0.1


# ----------------------------------------------------------------------------------------------------------------- leaks


def test_near_duplicates_flatter_a_random_split() -> None:
    """Copies of items whose label is chance: an item's copy tells its label, and nothing else does."""
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(40, 10)).astype(np.float32)
    groups = np.repeat(np.arange(40), 2)
    X = {"image": originals[groups] + rng.normal(size=(80, 10)).astype(np.float32) * 1e-3}
    y = LABELS[:2][rng.permutation(np.arange(40) % 2)[groups]]

    class NearestItem(Nearest):
        def fit(self, X: Any, y: Any, groups: Any = None, **given: Any) -> NearestItem:
            self.rows, self.y, self.classes_ = X.vectors["image"], y, np.unique(y)
            return self

        def predict_proba(self, X: Any) -> np.ndarray:
            nearest = np.square(X.vectors["image"][:, None] - self.rows).sum(axis=2).argmin(axis=1)
            right: np.ndarray = (self.y[nearest][:, None] == self.classes_).astype(float)
            return right

    found = random_split_leak(NearestItem, X, y, groups, folds=4, seed=1)
    crossed = sum(
        sum(groups[row] in groups[split.train] for row in split.test)
        for split in grouped_stratified_folds(y, 4, seed=1)
    )
    assert found.crossing == crossed > 20
    assert found.crossing_share == crossed / 80
    assert (found.items, found.groups) == (80, 40)
    assert found.grouped.estimate < 0.65 < 0.75 < found.random.estimate
    assert found.flattery == found.random.estimate - found.grouped.estimate
    json.dumps(found.as_dict(), allow_nan=False)


# ------------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda X, y: cross_validate(Nearest, X, y[:-1]), "30 items but 29 labels"),
        (lambda X, y: cross_validate(Nearest, X, y[:1].repeat(30)), "all 30 labels are the same"),
        (lambda X, y: cross_validate(Nearest, X, y, folds=31), "30 items cannot be dealt into 31 folds"),
        (lambda X, y: cross_validate(Nearest, X, y, groups=[1]), "30 rows but 1 groups"),
        (lambda X, y: learning_curve(Nearest, X, y, shots=(0, 1)), r"at least 1; got \[0, 1\]"),
        (lambda X, y: learning_curve(Nearest, X, y, shots=(50,)), "no number of shots is possible: 50 a class leave"),
        (lambda X, y: learning_curve(Nearest, X, y, seeds=(1,)), r"at least 2 different numbers; got \[1\]"),
        (lambda X, y: learning_curve(Nearest, X, y, seeds=(1, 1)), r"at least 2 different numbers; got \[1, 1\]"),
        (lambda X, y: compare({"a": Nearest}, X, y), "at least 2 recognisers are needed to compare; got a"),
        (
            lambda X, y: compare({"a": Nearest, "b": blind}, X, y, metric="auc"),  # type: ignore[arg-type]
            "metric must be one of .*; got 'auc'",
        ),
        (lambda X, y: compare({"a": Nearest, "b": blind}, X, y, shots=5, seeds=(1, 2)), "5 a class leave nothing"),
        (
            lambda X, y: zero_shot_on_held_out_classes(Nearest, X, y, names={"bat": NAMES["bat"]}),
            "5 classes have no embedded name, such as bee",
        ),
        (
            lambda X, y: zero_shot_on_held_out_classes(Nearest, X, y, names=NAMES, share=0.9),
            "a share of 0.9 leaves 1 class with examples",
        ),
        (
            lambda X, y: zero_shot_on_held_out_classes(IgnoresNames, X, y, names=NAMES),
            "knows 0 of 2 unseen classes: it must take classes from names",
        ),
        (lambda X, y: incremental(Nearest, X, y, steps=[["bat"], ["bee"]]), r"two or more classes .* got \[1, 1\]"),
        (lambda X, y: incremental(Nearest, X, y, steps=[["bat", "bee"], ["bat"]]), "bat: every class can be in one"),
        (lambda X, y: incremental(Nearest, X, y, steps=[["bat", "bee"], ["yak"]]), r"no item is of the classes \['yak'\]"),
        (
            lambda X, y: incremental(Nearest, X, y, steps=[["bat", "bee"], ["eel"]], holdout=0.01),
            "has no items to measure on|leaves nothing to test",
        ),
        (
            lambda X, y: incremental(WithoutAdding, X, y, steps=[["bat", "bee"], ["eel"]]),
            "has no add_class",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Callable[[ModalityArrays, np.ndarray], object], problem: str) -> None:
    X, y = planted(30)
    with pytest.raises(LabelError, match=problem):
        call(X, y)


class IgnoresNames(Nearest):
    def fit(self, X: Any, y: Any, groups: Any = None, **given: Any) -> Nearest:
        return super().fit(X, y)


class WithoutAdding:
    classes_ = np.arange(2)

    def fit(self, X: Any, y: Any, groups: Any = None) -> WithoutAdding:
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        return np.ones((len(X), 2)) / 2
