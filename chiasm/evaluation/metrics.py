"""Metrics: how good predictions are, by kind of target, as numbers and as curves.

Arrays in, numbers out; where they come from is left to the callers, how far to trust them to
`chiasm.evaluation.intervals`, rankings to `chiasm.evaluation.ranking`. A metric that the data do not define (the AUC of
a class without an example, the R2 of a constant) is None, so that it is `null` in JSON. Areas and curves are
scikit-learn's, which takes seconds to import and is loaded when they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.evaluation.record import Record
from chiasm.splits import Labels, label_codes
from chiasm.vectors import Unchecked, brier_scores, check_matrix, expected_calibration_error

_CURVE_POINTS = 200


# ------------------------------------------------------------------------------------------------------------- classes


@dataclass(frozen=True, eq=False)
class ClassificationMetrics(Record):
    """How well predicted labels match the true ones.

    A ratio with denominator 0 (the precision of a class never predicted, the recall of a class that does not occur)
    counts as 0, in the class's own numbers and in the means; only `balanced_accuracy` leaves out classes that do not
    occur.

    Example:
        >>> metrics = classification_metrics(["cat", "cat", "dog"], ["cat", "dog", "dog"])
        >>> round(metrics.accuracy, 3), metrics.confusion.tolist()
        (0.667, [[1, 1], [0, 1]])
    """

    accuracy: float
    balanced_accuracy: float  # mean recall of the classes that occur
    precision_macro: float  # mean over classes
    recall_macro: float
    f1_macro: float
    precision_weighted: float  # mean over classes, weighted by their frequency
    recall_weighted: float
    f1_weighted: float
    labels: tuple[Any, ...]
    precision: Float64[np.ndarray, " labels"]
    recall: Float64[np.ndarray, " labels"]
    f1: Float64[np.ndarray, " labels"]
    support: Int[np.ndarray, " labels"]  # how often each class occurs
    confusion: Int[np.ndarray, "labels labels"]  # rows: true class, columns: predicted class


def classification_metrics(y_true: Labels, y_pred: Labels) -> ClassificationMetrics:
    """Compare predicted labels with true ones; results are in the order of all labels that occur, sorted.

    Raises:
        LabelError: no items, sides that differ in length or kind, or missing labels.
    """
    true_values, true_codes = label_codes(y_true, what="true labels")
    pred_values, pred_codes = label_codes(y_pred, what="predicted labels")
    if len(true_codes) != len(pred_codes):
        raise LabelError(f"there are {len(true_codes)} true labels but {len(pred_codes)} predicted ones")
    if not len(true_codes):
        raise LabelError("there are no items to measure on")
    if (true_values.dtype.kind == "U") != (pred_values.dtype.kind == "U"):
        raise LabelError(
            f"true labels such as {true_values[0]!r} and predicted labels such as {pred_values[0]!r} are of different "
            "kinds and would never match: make both text or both numbers"
        )
    names = np.union1d(true_values, pred_values)
    rows, columns = np.searchsorted(names, true_values)[true_codes], np.searchsorted(names, pred_values)[pred_codes]
    confusion = np.bincount(rows * len(names) + columns, minlength=len(names) ** 2).reshape(len(names), len(names))

    support = confusion.sum(axis=1)
    precision, recall, f1 = _precision_recall_f1(np.diag(confusion), support, confusion.sum(axis=0))
    weights = support / support.sum()
    return ClassificationMetrics(
        accuracy=float(np.trace(confusion) / confusion.sum()),
        balanced_accuracy=float(recall[support > 0].mean()),
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(f1.mean()),
        precision_weighted=float(precision @ weights),
        recall_weighted=float(recall @ weights),
        f1_weighted=float(f1 @ weights),
        labels=tuple(names.tolist()),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        confusion=confusion,
    )


@dataclass(frozen=True)
class HeldOutClassMetrics(Record):
    """Accuracy on classes that were trained on and on classes that were not, each the mean over its classes.

    See Xian et al. 2018, "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly" (TPAMI),
    equations 9 and 10.
    """

    seen: float
    unseen: float
    harmonic_mean: float  # 0 if either is


def held_out_class_metrics(y_true: Labels, y_pred: Labels, *, unseen: Labels) -> HeldOutClassMetrics:
    """Measure a classifier that chose among all classes, on those it was trained on and those it was not.

    Args:
        y_true: the true label of each item.
        y_pred: the predicted label of each item.
        unseen: the labels that were held out. See `chiasm.splits.held_out_class_split`.

    Raises:
        LabelError: as `classification_metrics`, an unseen label without items, or no item of a seen class.
    """
    metrics = classification_metrics(y_true, y_pred)
    occurs = metrics.support > 0
    names, recall = np.array(metrics.labels, dtype=object)[occurs].tolist(), metrics.recall[occurs]
    held_out = set(_distinct(unseen).tolist())
    absent = sorted(held_out - set(names), key=str)
    if absent or not held_out:
        raise LabelError(
            "unseen must name one or more classes that occur among the true labels; "
            f"{f'{absent[:5]} do not occur' if absent else 'got none'}"
        )
    is_new = np.array([name in held_out for name in names])
    if is_new.all():
        raise LabelError("all items are of unseen classes: without items of seen classes there is nothing to compare")
    old, new = float(recall[~is_new].mean()), float(recall[is_new].mean())
    return HeldOutClassMetrics(old, new, 2 * old * new / (old + new) if old and new else 0.0)


@dataclass(frozen=True)
class IncrementalMetrics(Record):
    """Metrics of a model that learned one task after the other, at the end."""

    average_accuracy: float  # over all tasks, after the last
    forgetting: float | None  # mean loss since a task's best time, without the last task; None with one task
    backward_transfer: float | None  # mean change since a task was learned, without the last task; None with one task


def incremental_metrics(accuracy: Float[np.ndarray, "tasks tasks"] | Unchecked) -> IncrementalMetrics:
    """Measure learning of one task after the other.

    Forgetting is that of Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning" (ECCV), equation 3, with the
    best time looked for from when a task was learned; backward transfer that of Lopez-Paz & Ranzato 2017, "Gradient
    Episodic Memory for Continual Learning" (NeurIPS), equation 3. Neither looks at tasks before they were learned.

    Args:
        accuracy: row i, column j: after learning task i, on task j. Values above the diagonal are ignored.

    Raises:
        LabelError: not a square matrix of numbers, no tasks, or a value on or below the diagonal that is not finite.

    Example:
        >>> incremental_metrics([[0.9, 0.0], [0.8, 0.7]]).forgetting.__round__(3)
        0.1
    """
    matrix = np.asarray(accuracy)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix) or matrix.dtype.kind not in "fiub":
        raise LabelError(
            f"accuracy must be a square matrix of numbers, a row and a column per task; got {matrix.dtype} {matrix.shape}"
        )
    rows, columns = np.tril_indices(len(matrix))
    bad = np.flatnonzero(~np.isfinite(matrix[rows, columns]))
    if len(bad):
        raise LabelError(f"the accuracy after task {rows[bad[0]]} on task {columns[bad[0]]} is missing or not finite")
    last = matrix[-1].astype(np.float64)
    if len(matrix) == 1:
        return IncrementalMetrics(float(last[0]), None, None)
    best = np.array([matrix[j:-1, j].max() for j in range(len(matrix) - 1)], dtype=np.float64)
    at_first = np.diag(matrix)[:-1].astype(np.float64)
    return IncrementalMetrics(
        float(last.mean()), float((best - last[:-1]).mean()), float((last[:-1] - at_first).mean())
    )


# ------------------------------------------------------------------------------------------------------- probabilities


@dataclass(frozen=True)
class ReliabilityBin(Record):
    """Items whose stated probability lies in one range."""

    lower: float
    upper: float
    confidence: float  # mean stated probability of the items
    accuracy: float  # share of them for which the event happened
    count: int


@dataclass(frozen=True)
class ProbabilityMetrics(Record):
    """How well predicted probabilities of classes match the true labels."""

    cross_entropy: float  # mean of -ln p(true class), in nats
    brier: float  # mean over items of the squared error summed over classes, 0 to 2 (Brier 1950)
    auc_macro: float | None  # mean over classes, one against the rest; None if undefined for every class
    ece: float  # expected calibration error of the top label
    reliability: tuple[ReliabilityBin, ...]  # bins that have items, by rising confidence


def probability_metrics(
    y_true: Labels, probabilities: Float[np.ndarray, "items classes"] | Unchecked, classes: Labels, *, bins: int = 15
) -> ProbabilityMetrics:
    """Measure the probabilities of a classifier.

    The cross-entropy clips probabilities at the smallest step of their type (2.2e-16 in float64), as scikit-learn does,
    so that one confident mistake does not make it infinite. For two classes `auc_macro` is the ordinary AUC and `brier`
    twice what is usual there.

    Args:
        y_true: the true label of each item.
        probabilities: of each class for each item. Rows sum to 1.
        classes: the label of each column.
        bins: number of bins between 0 and 1, for `ece` and `reliability`.

    Raises:
        LabelError: no items, shapes that differ, labels that are missing or not among `classes`, rows that are no
            probabilities, or `bins` below 1.

    Example:
        >>> probability_metrics(["a", "b"], [[0.9, 0.1], [0.2, 0.8]], ["a", "b"]).auc_macro
        1.0
    """
    truth = one_against_rest(y_true, classes)
    values = _probabilities(probabilities, truth)
    p = values.astype(np.float64)
    off = np.abs(p.sum(axis=1) - 1)
    if off.max() > max(1e-3, float(np.finfo(values.dtype).eps) ** 0.5):
        worst = int(off.argmax())
        raise LabelError(
            f"the probabilities of an item must sum to 1; those of item {worst} sum to {p[worst].sum():.4g}. "
            "Give probabilities, not scores"
        )
    top = p.argmax(axis=1)
    confidence, hits = p[np.arange(len(p)), top], truth[np.arange(len(p)), top]
    reliability = reliability_bins(confidence, hits, bins)
    areas = [_roc_area(truth[:, k], values[:, k]) for k in ([1] if truth.shape[1] == 2 else range(truth.shape[1]))]
    return ProbabilityMetrics(
        cross_entropy=float(-np.log(np.maximum(p[truth], np.finfo(values.dtype).eps)).mean()),
        brier=float(brier_scores(p, truth.argmax(axis=1)).mean()),
        auc_macro=_mean_of_defined(areas),
        ece=expected_calibration_error(confidence, hits, bins=bins),
        reliability=reliability,
    )


def reliability_bins(
    confidence: Float64[np.ndarray, " items"], hits: Bool[np.ndarray, " items"], bins: int
) -> tuple[ReliabilityBin, ...]:
    """Return the bins of equal width that have items; they are those of `expected_calibration_error`.

    Raises:
        LabelError: `bins` is below 1.
    """
    if bins < 1:
        raise LabelError(f"bins must be at least 1; got {bins}")
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    count = np.bincount(place, minlength=bins)
    stated, happened = np.bincount(place, confidence, minlength=bins), np.bincount(place, hits, minlength=bins)
    return tuple(
        ReliabilityBin(
            b / bins, (b + 1) / bins, float(stated[b] / count[b]), float(happened[b] / count[b]), int(count[b])
        )
        for b in np.flatnonzero(count).tolist()
    )


# ------------------------------------------------------------------------------------------------- labels and numbers


@dataclass(frozen=True, eq=False)
class MultilabelMetrics(Record):
    """How well predictions match if an item has any number of labels.

    `micro` counts every cell of the matrix alike, `macro` is the mean over labels, `samples` the mean over items. A ratio
    with denominator 0 counts as 0, as in `ClassificationMetrics`, also the F1 of an item that has no label and gets none.
    """

    subset_accuracy: float  # share of items with every label right
    hamming_loss: float  # share of cells that are wrong
    precision_micro: float
    recall_micro: float
    f1_micro: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    f1_samples: float
    cross_entropy: float  # mean over cells, in nats
    average_precision_macro: float | None  # mean over the labels for which it is defined
    auc_macro: float | None
    labels: tuple[Any, ...]
    precision: Float64[np.ndarray, " labels"]
    recall: Float64[np.ndarray, " labels"]
    f1: Float64[np.ndarray, " labels"]
    support: Int[np.ndarray, " labels"]  # how many items have the label
    average_precision: tuple[float | None, ...]  # by label; None if no item has it
    auc: tuple[float | None, ...]  # by label; None if no item has it or all have


def multilabel_metrics(
    y_true: Bool[np.ndarray, "items labels"] | Unchecked,
    y_pred: Bool[np.ndarray, "items labels"] | Unchecked,
    probabilities: Float[np.ndarray, "items labels"] | Unchecked,
    labels: Labels,
) -> MultilabelMetrics:
    """Measure predictions of any number of labels per item.

    Args:
        y_true: which item has which label.
        y_pred: which label is predicted for which item.
        probabilities: of each label for each item; rows need not sum to 1. For the areas and the cross-entropy, which
            keeps a smallest step's distance from 0 and 1, as `probability_metrics` does.
        labels: the label of each column.

    Raises:
        LabelError: no items or labels, shapes or types that do not fit, repeated labels, or probabilities that are not
            between 0 and 1.
    """
    names = _distinct(labels)
    truth, predicted = _boolean(y_true, names, "the truth"), _boolean(y_pred, names, "the prediction")
    values = _probabilities(probabilities, truth)
    if truth.shape != predicted.shape:
        raise LabelError(f"there are {len(truth)} true rows but {len(predicted)} predicted ones")
    both = truth & predicted
    precision, recall, f1 = _precision_recall_f1(both.sum(axis=0), truth.sum(axis=0), predicted.sum(axis=0))
    micro = [
        float(one[0]) for one in _precision_recall_f1(*(np.array([part.sum()]) for part in (both, truth, predicted)))
    ]
    by_item = _precision_recall_f1(both.sum(axis=1), truth.sum(axis=1), predicted.sum(axis=1))
    step = float(np.finfo(values.dtype).eps)
    p = np.clip(values.astype(np.float64), step, 1 - step)
    areas = tuple(_roc_area(truth[:, k], values[:, k]) for k in range(len(names)))
    average_precision = tuple(_average_precision(truth[:, k], values[:, k]) for k in range(len(names)))
    return MultilabelMetrics(
        subset_accuracy=float((truth == predicted).all(axis=1).mean()),
        hamming_loss=float((truth != predicted).mean()),
        precision_micro=micro[0],
        recall_micro=micro[1],
        f1_micro=micro[2],
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(f1.mean()),
        f1_samples=float(by_item[2].mean()),
        cross_entropy=float(-np.log(np.where(truth, p, 1 - p)).mean()),
        average_precision_macro=_mean_of_defined(average_precision),
        auc_macro=_mean_of_defined(areas),
        labels=tuple(names.tolist()),
        precision=precision,
        recall=recall,
        f1=f1,
        support=truth.sum(axis=0),
        average_precision=average_precision,
        auc=areas,
    )


@dataclass(frozen=True)
class RegressionMetrics(Record):
    """How close predicted numbers come to the true ones.

    Example:
        >>> regression_metrics([1, 2, 3], [1, 2, 5]).r2
        -1.0
    """

    mse: float  # mean squared error, in the squared unit of the target
    rmse: float  # its root, in the unit of the target
    mae: float  # mean absolute error, in the unit of the target
    r2: float | None  # 1 - mse / variance; None if the true numbers are all the same


def regression_metrics(
    y_true: Float[np.ndarray, " items"] | Unchecked, y_pred: Float[np.ndarray, " items"] | Unchecked
) -> RegressionMetrics:
    """Compare predicted numbers with true ones.

    Raises:
        LabelError: no items, sides that differ in length, or a value that is not a finite number.
    """
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    true, predicted = _numbers(y_true, "true"), _numbers(y_pred, "predicted")
    if len(true) != len(predicted):
        raise LabelError(f"there are {len(true)} true numbers but {len(predicted)} predicted ones")
    if not len(true):
        raise LabelError("there are no items to measure on")
    mse = float(mean_squared_error(true, predicted))
    constant = bool((true == true[0]).all())  # rounding can give a constant a variance above 0
    return RegressionMetrics(
        mse=mse,
        rmse=math.sqrt(mse),
        mae=float(mean_absolute_error(true, predicted)),
        r2=None if constant else float(r2_score(true, predicted)),
    )


# -------------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True, eq=False)
class Curve(Record):
    """One label against the rest: at most 200 points with x from 0 to 1, and the area before points were left out."""

    label: Any
    x: Float64[np.ndarray, " points"]  # never falls
    y: Float64[np.ndarray, " points"]
    area: float


def roc_curves(
    truth: Bool[np.ndarray, "items labels"] | Unchecked,
    scores: Float[np.ndarray, "items labels"] | Unchecked,
    labels: Labels,
) -> tuple[Curve, ...]:
    """Return the true positive rate by the false positive rate of every label that some items have and some do not.

    Args:
        truth: which item has which label; for one class per item, see `one_against_rest`.
        scores: higher where a label is more likely.
        labels: the label of each column.

    Raises:
        LabelError: no items or labels, shapes or types that do not fit, repeated labels, or scores that are not finite.
    """
    from sklearn.metrics import roc_curve

    return _curves(truth, scores, labels, _roc_area, lambda y, s: roc_curve(y, s)[:2])


def precision_recall_curves(
    truth: Bool[np.ndarray, "items labels"] | Unchecked,
    scores: Float[np.ndarray, "items labels"] | Unchecked,
    labels: Labels,
) -> tuple[Curve, ...]:
    """Return precision by recall of every label that some items have, from recall 0, where precision counts as 1.

    The area is the average precision, a sum of steps over all points: straight lines between them would flatter.

    Args:
        truth: as for `roc_curves`.
        scores: as there.
        labels: as there.

    Raises:
        LabelError: as `roc_curves`.
    """
    from sklearn.metrics import precision_recall_curve

    def points(y: Bool[np.ndarray, " items"], s: Float[np.ndarray, " items"]) -> Any:
        precision, recall, _ = precision_recall_curve(y, s, drop_intermediate=True)
        return recall[::-1], precision[::-1]

    return _curves(truth, scores, labels, _average_precision, points)


def _curves(
    truth: Unchecked,
    scores: Unchecked,
    labels: Labels,
    area_of: Callable[[Any, Any], float | None],
    points: Callable[[Any, Any], Any],
) -> tuple[Curve, ...]:
    names = _distinct(labels)
    truth = _boolean(truth, names, "the truth")
    scores = _scores(scores, truth, "scores")
    curves = []
    for k, label in enumerate(names.tolist()):
        area = area_of(truth[:, k], scores[:, k])
        if area is not None:
            x, y = points(truth[:, k], scores[:, k])
            shown = _thinned(x, y)
            curves.append(Curve(label, x[shown], y[shown], area))
    return tuple(curves)


def _thinned(x: Float64[np.ndarray, " points"], y: Float64[np.ndarray, " points"]) -> Int[np.ndarray, " shown"]:
    """Return the points to draw a curve by: evenly spaced along it, with the first and the last."""
    if len(x) <= _CURVE_POINTS:
        return np.arange(len(x))
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    shown: Int[np.ndarray, " shown"] = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _CURVE_POINTS)))
    return shown


def _roc_area(truth: Bool[np.ndarray, " items"], scores: Float[np.ndarray, " items"]) -> float | None:
    from sklearn.metrics import roc_auc_score

    return None if truth.all() or not truth.any() else float(roc_auc_score(truth, scores))


def _average_precision(truth: Bool[np.ndarray, " items"], scores: Float[np.ndarray, " items"]) -> float | None:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, scores)) if truth.any() else None


# ------------------------------------------------------------------------------------------------------- contributions


def shapley(scores: Mapping[frozenset[str], float]) -> dict[str, float]:
    """Return the contribution of each modality to the score of all: its gain averaged over all orders of adding them.

    The contributions sum to the score of all modalities minus that of none (Shapley 1953, "A value for n-person games").

    Args:
        scores: of every subset of the modalities. That of the empty set may be left out and is then 0.

    Returns:
        Contributions in alphabetical order of the modalities; they may be negative.

    Raises:
        LabelError: no modality, a key that is no frozenset, a missing subset, or a score that is not finite.

    Example:
        >>> image, text = frozenset({"image"}), frozenset({"text"})
        >>> {name: round(gain, 2) for name, gain in shapley({image: 0.6, text: 0.8, image | text: 0.9}).items()}
        {'image': 0.35, 'text': 0.55}
    """
    wrong = [key for key in scores if not isinstance(key, frozenset)]
    if wrong:
        raise LabelError(
            f"subsets must be frozensets of names, such as frozenset({{'image', 'text'}}); got {wrong[0]!r}"
        )
    names = sorted(frozenset().union(*scores))
    if not names:
        raise LabelError("scores of one or more subsets of modalities are needed; got none")
    value = {frozenset[str](): 0.0, **scores}
    for size in range(len(names) + 1):
        for subset in map(frozenset, combinations(names, size)):
            name = " + ".join(sorted(subset)) or "no modality"
            if subset not in value:
                raise LabelError(
                    f"the contributions of {len(names)} modalities need the scores of all {2 ** len(names) - 1} subsets; "
                    f"missing: {name}"
                )
            if not math.isfinite(value[subset]):
                raise LabelError(f"the score of {name} is {value[subset]}")
    contributions = {}
    for name in names:
        others = [other for other in names if other != name]
        contributions[name] = math.fsum(
            (value[frozenset({*before, name})] - value[frozenset(before)]) / (len(names) * math.comb(len(others), size))
            for size in range(len(names))
            for before in combinations(others, size)
        )
    return contributions


# -------------------------------------------------------------------------------------------------------------- shared


def one_against_rest(y_true: Labels, classes: Labels) -> Bool[np.ndarray, "items classes"]:
    """Return which item is of which class: one True per row.

    Raises:
        LabelError: labels that are missing, of another kind than the classes, or not among them, or repeated classes.

    Example:
        >>> one_against_rest(["b", "a"], ["a", "b", "c"]).tolist()
        [[False, True, False], [True, False, False]]
    """
    columns = _distinct(classes).tolist()
    values, codes = label_codes(y_true, what="true labels")
    unknown = [value for value in values.tolist() if value not in columns]
    if unknown:
        raise LabelError(f"true labels {unknown[:5]} are not among the {len(columns)} classes, such as {columns[:3]}")
    truth = np.zeros((len(codes), len(columns)), dtype=bool)
    places = np.array([columns.index(value) for value in values.tolist()], dtype=np.int64)
    truth[np.arange(len(codes)), places[codes]] = True
    return truth


def _distinct(labels: Labels) -> Shaped[np.ndarray, " labels"]:
    """Return labels in their order, checked and without repeats."""
    values, codes = label_codes(labels)
    if len(values) != len(codes):
        raise LabelError(f"labels must not repeat; got {len(codes)} with {len(values)} different ones")
    ordered: Shaped[np.ndarray, " labels"] = values[codes]
    return ordered


def _boolean(
    values: Bool[np.ndarray, "items labels"] | Unchecked, labels: Shaped[np.ndarray, " labels"], what: str
) -> Bool[np.ndarray, "items labels"]:
    matrix: Bool[np.ndarray, "items labels"] = np.asarray(values)
    if matrix.dtype != np.bool_ or matrix.ndim != 2 or matrix.shape[1] != len(labels):
        raise LabelError(
            f"{what} must be a matrix of booleans with a column for each of the {len(labels)} labels; "
            f"got {matrix.dtype} {matrix.shape}"
        )
    if not matrix.size:
        raise LabelError("there are no items to measure on")
    return matrix


def _scores(
    values: Float[np.ndarray, "items labels"] | Unchecked, truth: Bool[np.ndarray, "items labels"], name: str
) -> Float[np.ndarray, "items labels"]:
    """Return finite floats that fit the truth."""
    if not truth.size:
        raise LabelError("there are no items to measure on")
    return check_matrix(values, name, rows=len(truth), columns=truth.shape[1])


def _probabilities(
    values: Float[np.ndarray, "items labels"] | Unchecked, truth: Bool[np.ndarray, "items labels"]
) -> Float[np.ndarray, "items labels"]:
    matrix = _scores(values, truth, "probabilities")
    # Sums of float32 come out a little above 1.
    if matrix.min() < 0 or matrix.max() > 1 + 8 * np.finfo(matrix.dtype).eps:
        raise LabelError(
            f"probabilities must lie between 0 and 1; got {matrix.min():.4g} to {matrix.max():.4g}. "
            "Give probabilities, not scores"
        )
    return matrix


def _numbers(values: Float[np.ndarray, " items"] | Unchecked, which: str) -> Float64[np.ndarray, " items"]:
    column = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "fiubO":
        raise LabelError(f"the {which} values must be one number per item; got {column.dtype} {column.shape}")
    try:
        numbers: Float64[np.ndarray, " items"] = column.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise LabelError(f"the {which} values must be numbers: {error}") from error
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise LabelError(
            f"{len(bad)} of {len(numbers)} {which} numbers are missing, NaN or infinite, first of item {bad[0]}: "
            "leave these items out"
        )
    return numbers


def _mean_of_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _precision_recall_f1(
    hits: Int[np.ndarray, " labels"], support: Int[np.ndarray, " labels"], predicted: Int[np.ndarray, " labels"]
) -> tuple[Float64[np.ndarray, " labels"], Float64[np.ndarray, " labels"], Float64[np.ndarray, " labels"]]:
    """Return precision, recall and F1 of counts, with 0 for a denominator of 0.

    From counts: scikit-learn's functions take labels and are 10 times slower, which shows where F1 is bootstrapped.
    """

    def ratio(above: Int[np.ndarray, " labels"], below: Int[np.ndarray, " labels"]) -> Float64[np.ndarray, " labels"]:
        quotient: Float64[np.ndarray, " labels"] = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
        return quotient

    return ratio(hits, predicted), ratio(hits, support), ratio(2 * hits, support + predicted)
