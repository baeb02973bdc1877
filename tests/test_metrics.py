"""Metrics agree with scikit-learn and with counting by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    auc,
    average_precision_score,
    balanced_accuracy_score,
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
    multilabel_metrics,
    one_against_rest,
    precision_recall_curves,
    probability_metrics,
    regression_metrics,
    roc_curves,
)

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


def test_balanced_accuracy_is_scikit_learns_where_every_label_occurs() -> None:
    y_true, y_pred = [0, 0, 0, 1, 2, 2], [0, 1, 0, 1, 0, 2]
    assert classification_metrics(y_true, y_pred).balanced_accuracy == pytest.approx(
        balanced_accuracy_score(y_true, y_pred)
    )


def test_given_labels_set_the_order_and_count_as_0_where_they_do_not_occur() -> None:
    metrics = classification_metrics(["cat", "dog"], ["cat", "cat"], labels=["dog", "cat", "eel"])
    assert metrics.labels == ("dog", "cat", "eel")
    assert metrics.confusion.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert metrics.recall.tolist() == [0, 1, 0]
    assert metrics.precision.tolist() == [0, 0.5, 0]
    assert metrics.recall_macro == pytest.approx(1 / 3)
    assert metrics.balanced_accuracy == pytest.approx(1 / 2)


def test_classification_goes_into_json_and_back() -> None:
    metrics = classification_metrics(np.array([1, 2, 2]), np.array([1, 2, 1]))
    document = json.loads(json.dumps(metrics.as_dict()))
    assert document["labels"] == [1, 2]
    assert document["f1_macro"] == metrics.f1_macro
    assert document["confusion"] == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("y_true", "y_pred", "labels", "message"),
    [
        (["a"], ["a", "b"], None, "1 true labels but 2 predicted"),
        ([], [], None, "no items to measure on"),
        (["a", None], ["a", "b"], None, "1 of 2 true labels are missing"),
        (["a", "b"], ["a", float("nan")], None, "1 of 2 predicted labels are missing"),
        (["1", "2"], [1, 2], None, "of different kinds and would never match"),
        (["a", "z"], ["a", "a"], ["a", "b"], r"labels \['z'\] occur but are not among the 2"),
        (["a"], ["a"], ["a", "a"], "labels must not repeat"),
    ],
)
def test_labels_that_cannot_be_compared_are_refused(y_true, y_pred, labels, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        classification_metrics(y_true, y_pred, labels=labels)


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


@pytest.mark.parametrize(
    ("y_true", "unseen", "message"),
    [
        (["a", "b"], ["c"], r"occur among the true labels; \['c'\] do not occur"),
        (["a", "b"], [], "one or more classes .* got none"),
        (["a", "b"], ["a", "b"], "all items are of unseen classes"),
        (["a", "b"], [1], r"\[1\] do not occur"),
    ],
)
def test_held_out_classes_that_cannot_be_measured_are_refused(y_true, unseen, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        held_out_class_metrics(y_true, ["a", "b"], unseen=unseen)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return probabilities


def ece_by_hand(codes: np.ndarray, p: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = [i for i, row in enumerate(p) if b / bins < row.max() <= (b + 1) / bins]
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


def test_two_classes_have_the_ordinary_auc() -> None:
    metrics = probability_metrics([0, 0, 1, 1], np.array([[0.9, 0.1], [0.6, 0.4], [0.65, 0.35], [0.2, 0.8]]), [0, 1])
    assert metrics.auc_macro == pytest.approx(0.75)


def test_reliability_with_a_known_answer() -> None:
    p = np.array([[0.9, 0.1], [0.3, 0.7], [0.4, 0.6], [1.0, 0.0], [0.5, 0.5]])
    metrics = probability_metrics(["a", "b", "a", "a", "b"], p, ["a", "b"], bins=2)
    assert metrics.as_dict()["reliability"] == [
        {"lower": 0.0, "upper": 0.5, "confidence": 0.5, "accuracy": 0.0, "count": 1},  # a bin holds its upper edge
        {"lower": 0.5, "upper": 1.0, "confidence": pytest.approx(0.8), "accuracy": 0.75, "count": 4},
    ]
    assert metrics.ece == pytest.approx(1 / 5 * 0.5 + 4 / 5 * 0.05)


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


def test_where_an_auc_is_not_defined_it_is_none() -> None:
    metrics = probability_metrics(["a", "a"], np.array([[0.9, 0.1], [0.6, 0.4]]), ["a", "b"])
    assert json.loads(json.dumps(metrics.as_dict()))["auc_macro"] is None


P = np.full((2, 2), 0.5)


@pytest.mark.parametrize(
    ("y_true", "p", "classes", "message"),
    [
        (["a", "c"], P, ["a", "b"], r"true labels \['c'\] are not among the 2 classes, such as \['a', 'b'\]"),
        ([0, 1], P, ["0", "1"], r"true labels \[0, 1\] are not among"),
        (["a"], P, ["a", "b"], r"row for each of 1 items and a column for each of 2 labels; got float64 \(2, 2\)"),
        (["a", "b"], np.full((2, 3), 1 / 3), ["a", "b"], r"got float64 \(2, 3\)"),
        (["a", "b"], [["x", "y"]] * 2, ["a", "b"], "probabilities must be numbers"),
        (["a", "b"], P * [[1], [np.nan]], ["a", "b"], "probabilities of 1 items are NaN or infinite, first item 1"),
        (["a", "b"], P * [[1], [3]], ["a", "b"], r"between 0 and 1; got 0\.5 to 1\.5\. Give probabilities, not scores"),
        (["a", "b"], P - [1, 0], ["a", "b"], r"got -0\.5 to 0\.5"),
        (["a", "b"], P * [[1], [0.5]], ["a", "b"], r"must sum to 1; those of item 1 sum to 0\.5"),
        (["a", "b"], P, ["a", "a"], "labels must not repeat"),
        ([], np.zeros((0, 2)), ["a", "b"], "no items to measure on"),
        (["a", None], P, ["a", "b"], "1 of 2 true labels are missing"),
    ],
)
def test_probabilities_that_cannot_be_measured_are_refused(y_true, p, classes, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        probability_metrics(y_true, p, classes)


def test_no_bins_are_refused() -> None:
    with pytest.raises(LabelError, match="bins must be at least 1; got 0"):
        probability_metrics(["a", "b"], P, ["a", "b"], bins=0)


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
    ours = multilabel_metrics(truth, p, names, threshold=threshold)
    predicted = p >= threshold
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


def test_every_label_may_have_a_threshold_of_its_own() -> None:
    p = np.array([[0.7, 0.7]], dtype=np.float32)
    truth = np.array([[True, False]])
    assert multilabel_metrics(truth, p, ["a", "b"], threshold=[0.7, 0.71]).subset_accuracy == 1
    assert multilabel_metrics(truth, p, ["a", "b"], threshold=0.7).hamming_loss == 0.5


T = np.array([[True, False], [False, True]])


@pytest.mark.parametrize(
    ("truth", "p", "labels", "threshold", "message"),
    [
        (T.astype(int), P, ["a", "b"], 0.5, r"matrix of booleans with a column .* 2 labels; got int64 \(2, 2\)"),
        (T, P, ["a", "b", "c"], 0.5, r"3 labels; got bool \(2, 2\)"),
        (T, P[:1], ["a", "b"], 0.5, r"2 items .* got float64 \(1, 2\)"),
        (T, P * 3, ["a", "b"], 0.5, "between 0 and 1; got 1.5 to 1.5"),
        (T, P, ["a", "b"], 1.5, r"threshold must be a number between 0 and 1.* got 1\.5"),
        (T, P, ["a", "b"], float("nan"), "threshold must be a number between 0 and 1.* got nan"),
        (T, P, ["a", "b"], [0.1, 0.2, 0.3], "one for each of the 2 labels"),
        (T[:0], P[:0], ["a", "b"], 0.5, "no items to measure on"),
        (T[:, :0], P[:, :0], [], 0.5, "no items to measure on"),
    ],
)
def test_multilabel_input_that_cannot_be_measured_is_refused(truth, p, labels, threshold, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        multilabel_metrics(truth, p, labels, threshold=threshold)


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


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([1.0], [1.0, 2.0], "1 true numbers but 2 predicted"),
        ([], [], "no items to measure on"),
        ([1.0, float("nan")], [1.0, 2.0], "1 of 2 true numbers are missing, NaN or infinite, first of item 1"),
        ([1.0, 2.0], [None, 2.0], "1 of 2 predicted numbers are missing.* first of item 0"),
        (["1", "2"], [1, 2], r"true values must be numbers; got <U1, such as \['1'\]"),
        ([1, {}], [1, 2], "true values must be numbers: "),
        ([[1.0]], [[1.0]], r"one an item; got an array of shape \(1, 1\)"),
    ],
)
def test_numbers_that_cannot_be_compared_are_refused(y_true, y_pred, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        regression_metrics(y_true, y_pred)


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
            assert rocs[k].false_positive_rate.tolist() == false_positive.tolist()
            assert rocs[k].true_positive_rate.tolist() == true_positive.tolist()
            assert rocs[k].area == pytest.approx(auc(false_positive, true_positive))
        else:
            assert k not in rocs
        if truth[:, k].any():
            precision, recall, _ = precision_recall_curve(truth[:, k], p[:, k])
            steps = zip(precisions[k].recall.tolist(), precisions[k].precision.tolist(), strict=True)
            assert set(steps) <= set(zip(recall.tolist(), precision.tolist(), strict=True))
            assert precisions[k].area == pytest.approx(average_precision_score(truth[:, k], p[:, k]))
        else:
            assert k not in precisions


def test_long_curves_are_thinned_and_keep_their_shape() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((20_000, 1)) < 0.3
    scores = rng.normal(size=truth.shape) + truth
    (roc,) = roc_curves(truth, scores, ["frog"])
    assert 150 < len(roc.false_positive_rate) <= 200
    assert roc.area == roc_auc_score(truth, scores)
    assert auc(roc.false_positive_rate, roc.true_positive_rate) == pytest.approx(roc.area, abs=2e-3)
    (curve,) = precision_recall_curves(truth, scores, ["frog"])
    assert 50 < len(curve.recall) <= 200
    assert auc(curve.recall, curve.precision) == pytest.approx(curve.area, abs=5e-3)
    for rising in (roc.false_positive_rate, roc.true_positive_rate, curve.recall):
        assert (rising[0], rising[-1]) == (0, 1)
        assert (np.diff(rising) >= 0).all()
    assert curve.precision[0] == 1
    assert curve.precision[-1] == pytest.approx(truth.mean())
    document = json.loads(json.dumps([roc.as_dict(), curve.as_dict()]))
    assert document[0]["label"] == "frog"
    assert len(document[1]["precision"]) == len(document[1]["recall"])


def test_curves_of_input_that_does_not_fit_are_refused() -> None:
    for curves in (roc_curves, precision_recall_curves):
        with pytest.raises(LabelError, match="matrix of booleans"):
            curves(np.zeros((2, 2)), P, ["a", "b"])
        with pytest.raises(LabelError, match="scores of 1 items are NaN or infinite, first item 0"):
            curves(T, P * [[np.inf], [1]], ["a", "b"])
        with pytest.raises(LabelError, match=r"got float64 \(2, 1\)"):
            curves(T, P[:, :1], ["a", "b"])


def test_one_against_rest_follows_the_order_of_the_classes() -> None:
    assert one_against_rest(["b", "a", "b"], ["c", "b", "a"]).tolist() == [
        [False, True, False],
        [False, False, True],
        [False, True, False],
    ]
    assert one_against_rest([], ["a"]).shape == (0, 1)


def test_heavy_libraries_wait_until_they_are_asked_for() -> None:
    probe = "import sys, chiasm.evaluation; print(sorted({'sklearn', 'scipy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_half_precision_is_measured_like_any_other() -> None:
    p = softmax(np.random.default_rng(0).normal(size=(200, 30))).astype(np.float16)
    codes = np.arange(200) % 30
    half, full = probability_metrics(codes, p, range(30)), probability_metrics(codes, p.astype(float), range(30))
    assert half.ece == pytest.approx(full.ece)
    assert half.auc_macro == pytest.approx(full.auc_macro)
    assert half.cross_entropy == pytest.approx(full.cross_entropy)
