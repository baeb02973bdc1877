"""Metrics agree with scikit-learn and with counting by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    brier_score_loss,
    f1_score,
    hamming_loss,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_curve,
    precision_recall_fscore_support,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
    roc_curve,
    root_mean_squared_error,
)

from chiasm.errors import LabelError
from chiasm.evaluation.metrics import (
    classification_metrics,
    held_out_class_metrics,
    incremental_metrics,
    multilabel_metrics,
    one_against_rest,
    precision_recall_curves,
    probability_metrics,
    regression_metrics,
    roc_curves,
    shapley,
)
from chiasm.vectors import softmax

PAIRS = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcde")), min_size=1, max_size=50)


@settings(deadline=None)
@given(pairs=PAIRS)
def test_classification_agrees_with_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    y_true, y_pred = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ours = classification_metrics(y_true, y_pred)
    labels = sorted({*y_true, *y_pred})
    assert ours.labels == tuple(labels)
    assert ours.accuracy == pytest.approx(accuracy_score(y_true, y_pred))
    assert ours.confusion.tolist() == [[pairs.count((t, p)) for p in labels] for t in labels]
    theirs = precision_recall_fscore_support(y_true, y_pred, labels=labels, zero_division=0)
    for mine, other in zip((ours.precision, ours.recall, ours.f1, ours.support), theirs, strict=True):
        assert mine == pytest.approx(other)
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            y_true, y_pred, labels=labels, average=average, zero_division=0
        )
        assert getattr(ours, f"precision_{average}") == pytest.approx(precision)
        assert getattr(ours, f"recall_{average}") == pytest.approx(recall)
        assert getattr(ours, f"f1_{average}") == pytest.approx(f1)
    recalls = [np.mean([p == label for t, p in pairs if t == label]) for label in set(y_true)]
    assert ours.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_classification_goes_into_json_and_back() -> None:
    metrics = classification_metrics(np.array([1, 2, 2]), np.array([1, 2, 1]))
    document = json.loads(json.dumps(metrics.as_dict()))
    assert document["labels"] == [1, 2]
    assert document["f1_macro"] == metrics.f1_macro
    assert document["confusion"] == [[1, 0], [1, 1]]


def test_held_out_classes_are_measured_by_class_and_weighed_together() -> None:
    # cat 2/3, dog 1/1, eel 1/4: the mean of seen classes is 5/6, not 3/4 as over items.
    y_true = ["cat"] * 3 + ["dog"] + ["eel"] * 4
    y_pred = ["cat", "cat", "eel", "dog", "eel", "cat", "cat", "yak"]
    metrics = held_out_class_metrics(y_true, y_pred, unseen=["eel"])
    assert metrics.as_dict() == pytest.approx(
        {"seen": 5 / 6, "unseen": 1 / 4, "harmonic_mean": 2 * 5 / 6 * 1 / 4 / (5 / 6 + 1 / 4)}
    )
    assert held_out_class_metrics(["a", "b"], ["a", "a"], unseen=["b"]).harmonic_mean == 0
    assert held_out_class_metrics(["a", "b"], ["b", "a"], unseen=["b"]).harmonic_mean == 0


def ece_by_hand(codes: np.ndarray, p: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, row in enumerate(p) if b <= row.max() * bins < b + 1 or (b == bins - 1 and row.max() == 1)]
        if inside:
            accuracy = np.mean([p[i].argmax() == codes[i] for i in inside])
            total += len(inside) / len(p) * abs(accuracy - np.mean([p[i].max() for i in inside]))
    return total


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 5), items=st.integers(1, 60), levels=st.booleans())
def test_probabilities_agree_with_scikit_learn(seed: int, classes: int, items: int, levels: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(items, classes)) * 3
    p = softmax(np.round(logits) if levels else logits)  # rounded: with ties
    codes = rng.integers(classes, size=items)
    names = np.array(["eel", "ant", "cow", "bat", "dog"])[:classes]  # not in alphabetical order
    order = np.argsort(names)
    ours = probability_metrics(names[codes], p, names)
    sorted_names = names[order].tolist()
    assert ours.cross_entropy == pytest.approx(log_loss(names[codes], p[:, order], labels=sorted_names))
    one_hot = np.eye(classes)[codes]
    assert ours.brier == pytest.approx(np.mean(((p - one_hot) ** 2).sum(axis=1)))
    scikit = brier_score_loss(names[codes], p[:, order], labels=sorted_names, scale_by_half=False)
    assert ours.brier == pytest.approx(scikit)
    areas = [roc_auc_score(codes == k, p[:, k]) for k in range(classes) if 0 < np.sum(codes == k) < items]
    assert ours.auc_macro == (pytest.approx(np.mean(areas)) if areas else None)
    if len(set(codes.tolist())) == classes and classes > 2:
        assert ours.auc_macro == pytest.approx(roc_auc_score(codes, p, multi_class="ovr"))
    assert ours.ece == pytest.approx(ece_by_hand(codes, p, 15))
    assert sum(one.count for one in ours.reliability) == items


def test_reliability_with_a_known_answer() -> None:
    p = np.array([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [1.0, 0.0], [0.5, 0.5]])
    metrics = probability_metrics(["a", "b", "a", "a", "b"], p, ["a", "b"], bins=4)
    assert metrics.as_dict()["reliability"] == [
        {"lower": 0.5, "upper": 0.75, "confidence": pytest.approx(0.6), "accuracy": pytest.approx(1 / 3), "count": 3},
        {"lower": 0.75, "upper": 1.0, "confidence": pytest.approx(0.95), "accuracy": 1.0, "count": 2},
    ]
    assert metrics.ece == pytest.approx(3 / 5 * (0.6 - 1 / 3) + 2 / 5 * 0.05)


def test_calibrated_probabilities_have_no_calibration_error_and_boasting_ones_have() -> None:
    rng = np.random.default_rng(0)
    p = softmax(rng.normal(size=(40_000, 4)) * 2)
    codes = (rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=3)
    assert probability_metrics(codes, p, range(4)).ece < 0.01
    assert probability_metrics(codes, softmax(3 * np.log(p)), range(4)).ece > 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_sure_mistake_costs_a_finite_amount(dtype: type) -> None:
    p: np.ndarray = np.array([[1, 0], [1, 0]], dtype=dtype)
    metrics = probability_metrics(["a", "b"], p, ["a", "b"])
    assert metrics.cross_entropy == pytest.approx(-np.log(np.finfo(dtype).eps) / 2)
    assert metrics.cross_entropy == pytest.approx(log_loss(["a", "b"], p), rel=1e-5)
    assert metrics.brier == 1


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 40),
    labels=st.integers(2, 5),
    share=st.floats(0, 1),
    threshold=st.floats(0, 1),
)
def test_multilabel_agrees_with_scikit_learn(
    seed: int, items: int, labels: int, share: float, threshold: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((items, labels)) < share
    p = np.round(rng.random((items, labels)), 1)
    names = [f"label {k}" for k in range(labels)]
    predicted = p >= threshold
    ours = multilabel_metrics(truth, predicted, p, names)
    assert ours.subset_accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert ours.hamming_loss == pytest.approx(hamming_loss(truth, predicted))
    for average in ("micro", "macro"):
        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            expected = score(truth, predicted, average=average, zero_division=0)
            assert getattr(ours, f"{name}_{average}") == pytest.approx(expected)
    assert ours.f1_samples == pytest.approx(f1_score(truth, predicted, average="samples", zero_division=0))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert getattr(ours, name) == pytest.approx(score(truth, predicted, average=None, zero_division=0))
    cells = np.stack([1 - p.ravel(), p.ravel()], axis=1)
    assert ours.cross_entropy == pytest.approx(log_loss(truth.ravel(), cells, labels=[False, True]))
    assert ours.support.tolist() == truth.sum(axis=0).tolist()
    precisions: list[float] = []
    areas: list[float] = []
    for k in range(labels):
        if truth[:, k].any():
            precisions.append(average_precision_score(truth[:, k], p[:, k]))
            assert ours.average_precision[k] == pytest.approx(precisions[-1])
        else:
            assert ours.average_precision[k] is None
        if truth[:, k].any() and not truth[:, k].all():
            areas.append(roc_auc_score(truth[:, k], p[:, k]))
            assert ours.auc[k] == pytest.approx(areas[-1])
        else:
            assert ours.auc[k] is None
    assert ours.average_precision_macro == (pytest.approx(np.mean(precisions)) if precisions else None)
    assert ours.auc_macro == (pytest.approx(np.mean(areas)) if areas else None)
    assert json.loads(json.dumps(ours.as_dict()))["labels"] == names


@settings(deadline=None, max_examples=40)
@given(
    pairs=st.lists(st.tuples(st.floats(-1e3, 1e3, width=16), st.floats(-1e3, 1e3, width=16)), min_size=2, max_size=30)
)
def test_regression_agrees_with_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    y_true, y_pred = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    ours = regression_metrics(y_true, y_pred)
    assert ours.mse == pytest.approx(mean_squared_error(y_true, y_pred))
    assert ours.rmse == pytest.approx(root_mean_squared_error(y_true, y_pred))
    assert ours.mae == pytest.approx(mean_absolute_error(y_true, y_pred))
    assert ours.r2 == (pytest.approx(r2_score(y_true, y_pred)) if len(set(y_true)) > 1 else None)


def test_regression_with_a_known_answer() -> None:
    assert regression_metrics([1, 2, 3], [1, 2, 5]).as_dict() == pytest.approx(
        {"mse": 4 / 3, "rmse": (4 / 3) ** 0.5, "mae": 2 / 3, "r2": -1.0}
    )
    # The computed variance of this constant is not 0.
    assert np.full(3, 0.1).var() > 0
    assert regression_metrics(np.full(3, 0.1), np.zeros(3)).r2 is None


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(2, 60), classes=st.integers(2, 4))
def test_short_curves_are_scikit_learns(seed: int, items: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(classes, size=items)
    p = softmax(np.round(rng.normal(size=(items, classes)) * 2))
    truth = one_against_rest(codes, range(classes))
    rocs = {curve.label: curve for curve in roc_curves(truth, p, range(classes))}
    precisions = {curve.label: curve for curve in precision_recall_curves(truth, p, range(classes))}
    for k in range(classes):
        if truth[:, k].any() and not truth[:, k].all():
            false_positive, true_positive, _ = roc_curve(truth[:, k], p[:, k])
            assert rocs[k].x.tolist() == false_positive.tolist()
            assert rocs[k].y.tolist() == true_positive.tolist()
            assert rocs[k].area == pytest.approx(auc(false_positive, true_positive))
        else:
            assert k not in rocs
        if truth[:, k].any():
            precision, recall, _ = precision_recall_curve(truth[:, k], p[:, k])
            steps = zip(precisions[k].x.tolist(), precisions[k].y.tolist(), strict=True)
            assert set(steps) <= set(zip(recall.tolist(), precision.tolist(), strict=True))
            assert precisions[k].area == pytest.approx(average_precision_score(truth[:, k], p[:, k]))
        else:
            assert k not in precisions


def test_long_curves_are_thinned_and_keep_their_shape() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((20_000, 1)) < 0.3
    scores = rng.normal(size=truth.shape) + truth
    (roc,) = roc_curves(truth, scores, ["frog"])
    assert 150 < len(roc.x) <= 200
    assert roc.area == roc_auc_score(truth, scores)
    assert auc(roc.x, roc.y) == pytest.approx(roc.area, abs=2e-3)
    (curve,) = precision_recall_curves(truth, scores, ["frog"])
    assert 50 < len(curve.x) <= 200
    assert auc(curve.x, curve.y) == pytest.approx(curve.area, abs=5e-3)
    for rising in (roc.x, roc.y, curve.x):
        assert (rising[0], rising[-1]) == (0, 1)
        assert (np.diff(rising) >= 0).all()
    assert curve.y[0] == 1
    assert curve.y[-1] == pytest.approx(truth.mean())
    document = json.loads(json.dumps([roc.as_dict(), curve.as_dict()]))
    assert document[0]["label"] == "frog"
    assert len(document[1]["x"]) == len(document[1]["y"])


def test_one_against_rest_follows_the_order_of_the_classes() -> None:
    assert one_against_rest(["b", "a", "b"], ["c", "b", "a"]).tolist() == [
        [False, True, False],
        [False, False, True],
        [False, True, False],
    ]
    assert one_against_rest([], ["a"]).shape == (0, 1)


def test_half_precision_is_measured_like_any_other() -> None:
    p = softmax(np.random.default_rng(0).normal(size=(200, 30))).astype(np.float16)
    codes = np.arange(200) % 30
    half, full = probability_metrics(codes, p, range(30)), probability_metrics(codes, p.astype(float), range(30))
    assert half.ece == pytest.approx(full.ece)
    assert half.auc_macro == pytest.approx(full.auc_macro)
    assert half.cross_entropy == pytest.approx(full.cross_entropy)


def subsets_of(names: str) -> list[frozenset[str]]:
    return [frozenset(chosen) for size in range(len(names) + 1) for chosen in combinations(names, size)]


@settings(deadline=None)
@given(names=st.sampled_from(["a", "ab", "abc", "abcd"]), seed=st.integers(0, 2**32 - 1))
def test_contributions_are_the_mean_gain_over_all_orders(names: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = {subset: float(rng.normal()) for subset in subsets_of(names)}
    by_hand = dict.fromkeys(names, 0.0)
    for order in permutations(names):
        for place, name in enumerate(order):
            gain = scores[frozenset(order[: place + 1])] - scores[frozenset(order[:place])]
            by_hand[name] += gain / math.factorial(len(names))
    ours = shapley(scores)
    assert ours == pytest.approx(by_hand)
    assert sum(ours.values()) == pytest.approx(scores[frozenset(names)] - scores[frozenset()])


def test_contributions_with_a_known_answer() -> None:
    image, text = frozenset({"image"}), frozenset({"text"})
    assert shapley({image: 0.6, text: 0.8, image | text: 0.9}) == pytest.approx({"image": 0.35, "text": 0.55})
    with_chance = {frozenset[str](): 0.1, image: 0.6, text: 0.8, image | text: 0.9}
    assert shapley(with_chance) == pytest.approx({"image": 0.3, "text": 0.5})


def test_forgetting_with_a_known_answer() -> None:
    nan = math.nan
    metrics = incremental_metrics([[0.8, nan, nan], [0.9, 0.7, nan], [0.6, 0.75, 0.95]])
    assert metrics.average_accuracy == pytest.approx((0.6 + 0.75 + 0.95) / 3)
    # Task 0 was best after task 1: 0.9. Task 1 was best, before the last, when it was learned: it has gained since.
    assert metrics.forgetting == pytest.approx(((0.9 - 0.6) + (0.7 - 0.75)) / 2)
    assert metrics.backward_transfer == pytest.approx(((0.6 - 0.8) + (0.75 - 0.7)) / 2)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), tasks=st.integers(2, 6))
def test_forgetting_agrees_with_its_definition(seed: int, tasks: int) -> None:
    a = np.random.default_rng(seed).random((tasks, tasks))  # also above the diagonal, where nothing is read
    metrics = incremental_metrics(a)
    last = tasks - 1
    forgotten = [max(a[i, j] for i in range(j, last)) - a[last, j] for j in range(last)]
    assert metrics.forgetting == pytest.approx(sum(forgotten) / last)
    assert metrics.backward_transfer == pytest.approx(sum(a[last, j] - a[j, j] for j in range(last)) / last)
    assert metrics.average_accuracy == pytest.approx(sum(a[last]) / tasks)


def test_one_task_cannot_be_forgotten() -> None:
    assert incremental_metrics([[0.5]]).as_dict() == {
        "average_accuracy": 0.5,
        "forgetting": None,
        "backward_transfer": None,
    }


P = np.full((2, 2), 0.5)
T = np.array([[True, False], [False, True]])
AB = ["a", "b"]
A = frozenset("a")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: classification_metrics(["a"], AB), "1 true labels but 2 predicted"),
        (lambda: classification_metrics([], []), "no items to measure on"),
        (lambda: classification_metrics(["a", None], AB), "true labels are missing"),
        (lambda: classification_metrics(AB, ["a", float("nan")]), "predicted labels are missing"),
        (lambda: classification_metrics(["1", "2"], [1, 2]), "different kinds"),
        (lambda: one_against_rest(["a"], ["a", "a"]), "must not repeat"),
        (lambda: held_out_class_metrics(AB, AB, unseen=["c"]), r"\['c'\] do not occur"),
        (lambda: held_out_class_metrics(AB, AB, unseen=[]), "got none"),
        (lambda: held_out_class_metrics(AB, AB, unseen=AB), "all items are of unseen classes"),
        (lambda: held_out_class_metrics(AB, AB, unseen=[1]), r"\[1\] do not occur"),
        (lambda: probability_metrics(["a", "c"], P, AB), r"\['c'\] are not among the 2 classes"),
        (lambda: probability_metrics([0, 1], P, ["0", "1"]), r"\[0, 1\] are not among"),
        (lambda: probability_metrics(["a"], P, AB), "must have 1 rows; got 2"),
        (lambda: probability_metrics(AB, np.full((2, 3), 1 / 3), AB), "must have 2 columns; got 3"),
        (lambda: probability_metrics(AB, [["x", "y"]] * 2, AB), "probabilities must be a matrix of numbers"),
        (lambda: probability_metrics(AB, P * [[1], [np.nan]], AB), "NaN or infinite values, first row 1"),
        (lambda: probability_metrics(AB, P * [[1], [3]], AB), "between 0 and 1; got 0.5 to 1.5"),
        (lambda: probability_metrics(AB, P - [1, 0], AB), "got -0.5 to 0.5"),
        (lambda: probability_metrics(AB, P * [[1], [0.5]], AB), "item 1 sum to 0.5"),
        (lambda: probability_metrics([], np.zeros((0, 2)), AB), "no items to measure on"),
        (lambda: probability_metrics(AB, P, AB, bins=0), "bins must be at least 1"),
        (lambda: multilabel_metrics(T.astype(int), T, P, AB), "truth must be a matrix of booleans"),
        (lambda: multilabel_metrics(T, P, P, AB), "prediction must be a matrix of booleans"),
        (lambda: multilabel_metrics(T, T[:1], P, AB), "2 true rows but 1 predicted"),
        (lambda: multilabel_metrics(T, T, P, ["a", "b", "c"]), "3 labels; got bool"),
        (lambda: multilabel_metrics(T, T, P * 3, AB), "between 0 and 1"),
        (lambda: multilabel_metrics(T[:0], T[:0], P[:0], AB), "no items to measure on"),
        (lambda: regression_metrics([1.0], [1.0, 2.0]), "1 true numbers but 2 predicted"),
        (lambda: regression_metrics([], []), "no items to measure on"),
        (lambda: regression_metrics([1.0, float("nan")], [1.0, 2.0]), "1 of 2 true numbers .* first of item 1"),
        (lambda: regression_metrics([1.0, 2.0], [None, 2.0]), "1 of 2 predicted numbers are missing"),
        (lambda: regression_metrics(["1", "2"], [1, 2]), "true values must be one number per item; got <U1"),
        (lambda: regression_metrics([1, {}], [1, 2]), "true values must be numbers"),
        (lambda: regression_metrics([[1.0]], [[1.0]]), r"got float64 \(1, 1\)"),
        (lambda: roc_curves(np.zeros((2, 2)), P, AB), "matrix of booleans"),
        (lambda: precision_recall_curves(T, P * [[np.inf], [1]], AB), "infinite values, first row 0"),
        (lambda: shapley({}), "got none"),
        (lambda: shapley({frozenset("ab"): 1.0, A: 0.5}), "scores of all 3 subsets; missing: b"),
        (lambda: shapley({"a": 1.0}), "must be frozensets of names"),  # type: ignore[dict-item]
        (lambda: shapley({A: math.nan}), "the score of a is nan"),
        (lambda: shapley({frozenset[str](): math.inf, A: 1.0}), "the score of no modality is inf"),
        (lambda: incremental_metrics([[0.5, 0.5]]), "square matrix"),
        (lambda: incremental_metrics(np.zeros((0, 0))), "square matrix"),
        (lambda: incremental_metrics([["a"]]), "got <U1"),
        (lambda: incremental_metrics([[0.5, 0.5], [math.nan, 0.5]]), "after task 1 on task 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        call()
