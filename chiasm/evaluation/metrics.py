"""Metrics: how good predictions are, as numbers and as curves.

This module turns labels, probabilities and numbers into metrics, and knows nothing of where they come from. How sure a
metric is, and what it is made of, is `chiasm.evaluation.diagnostics`; rankings are `chiasm.evaluation.ranking`.

A metric that the data do not define (the AUC of a class without an example, the R2 of a constant) is None, so that it is
`null` in JSON. Metrics by ranking are scikit-learn's, which takes seconds to import and is loaded when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.splits import Labels, label_codes
from chiasm.vectors import Unchecked

_CURVE_POINTS = 200


@dataclass(frozen=True, eq=False)
class ClassificationMetrics:
    """How well predicted labels match the true ones.

    A ratio with nothing below the line (the precision of a class never predicted, the recall of a class that does not
    occur) counts as 0, in the class's own numbers and in the means; `balanced_accuracy` alone leaves classes out that
    do not occur.
    """

    labels: tuple[Any, ...]
    accuracy: float
    balanced_accuracy: float  # mean recall of the classes that occur
    precision_macro: float  # mean over classes
    recall_macro: float
    f1_macro: float
    precision_weighted: float  # mean over classes, each as often as it occurs
    recall_weighted: float
    f1_weighted: float
    precision: Float64[np.ndarray, " labels"]
    recall: Float64[np.ndarray, " labels"]
    f1: Float64[np.ndarray, " labels"]
    support: Int[np.ndarray, " labels"]  # how often each class occurs
    confusion: Int[np.ndarray, "labels labels"]  # rows: true class, columns: predicted class

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON; the numbers by class are lists in the order of `labels`."""
        return {
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "precision_macro": self.precision_macro,
            "recall_macro": self.recall_macro,
            "f1_macro": self.f1_macro,
            "precision_weighted": self.precision_weighted,
            "recall_weighted": self.recall_weighted,
            "f1_weighted": self.f1_weighted,
            "labels": list(self.labels),
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "f1": self.f1.tolist(),
            "support": self.support.tolist(),
            "confusion": self.confusion.tolist(),
        }


def classification_metrics(y_true: Labels, y_pred: Labels, *, labels: Labels | None = None) -> ClassificationMetrics:
    """Compare predicted labels with true ones.

    Args:
        y_true: the true label of each item.
        y_pred: the predicted label of each item.
        labels: all labels, in the order wanted. By default those that occur on either side, sorted.

    Raises:
        LabelError: there are no items, the two differ in length or kind, labels are missing, or a label is not among
            `labels`.
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
    every = np.union1d(true_values, pred_values) if labels is None else _ordered(labels)
    number = {label: i for i, label in enumerate(every.tolist())}
    unknown = [label for label in np.union1d(true_values, pred_values).tolist() if label not in number]
    if unknown:
        raise LabelError(f"labels {unknown[:5]} occur but are not among the {len(every)} given in labels")
    rows = np.array([number[label] for label in true_values.tolist()])[true_codes]
    columns = np.array([number[label] for label in pred_values.tolist()])[pred_codes]
    confusion = np.bincount(rows * len(every) + columns, minlength=len(every) ** 2).reshape(len(every), len(every))

    right = np.diag(confusion)
    support = confusion.sum(axis=1)
    predicted = confusion.sum(axis=0)
    precision = _ratio(right, predicted)
    recall = _ratio(right, support)
    f1 = _ratio(2 * right, support + predicted)
    weights = support / support.sum()
    return ClassificationMetrics(
        labels=tuple(every.tolist()),
        accuracy=float(right.sum() / confusion.sum()),
        balanced_accuracy=float(recall[support > 0].mean()),
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(f1.mean()),
        precision_weighted=float(precision @ weights),
        recall_weighted=float(recall @ weights),
        f1_weighted=float(f1 @ weights),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        confusion=confusion,
    )


@dataclass(frozen=True)
class HeldOutClassMetrics:
    """Accuracy on classes that were learned and on classes that were not, each the mean over its classes.

    See Xian et al. 2018, "Zero-Shot Learning: A Comprehensive Evaluation of the Good, the Bad and the Ugly" (TPAMI),
    equations 9 and 10.
    """

    seen: float
    unseen: float
    harmonic_mean: float  # 0 if either is

    def as_dict(self) -> dict[str, float]:
        """All of it, for JSON."""
        return asdict(self)


def held_out_class_metrics(y_true: Labels, y_pred: Labels, *, unseen: Labels) -> HeldOutClassMetrics:
    """Measure a classifier on classes it learned from and classes it did not, chosen among all of them.

    Args:
        y_true: the true label of each item.
        y_pred: the predicted label of each item.
        unseen: the labels that were held out. See `chiasm.splits.held_out_class_split`.

    Raises:
        LabelError: as `classification_metrics`, an unseen label has no item, or no item is of a seen class.
    """
    metrics = classification_metrics(y_true, y_pred)
    recall = {
        label: float(share)
        for label, share, occurs in zip(metrics.labels, metrics.recall, metrics.support > 0, strict=True)
        if occurs
    }
    held = set(_ordered(unseen).tolist())
    absent = sorted(held - recall.keys(), key=str)
    if absent or not held:
        raise LabelError(
            f"unseen must name one or more classes that occur among the true labels; "
            f"{f'{absent[:5]} do not occur' if absent else 'got none'}"
        )
    if held == recall.keys():
        raise LabelError("all items are of unseen classes: without items of seen classes there is nothing to compare")
    seen = float(np.mean([share for label, share in recall.items() if label not in held]))
    new = float(np.mean([share for label, share in recall.items() if label in held]))
    return HeldOutClassMetrics(seen, new, 2 * seen * new / (seen + new) if seen and new else 0.0)


@dataclass(frozen=True)
class ReliabilityBin:
    """Items whose top probability lies in (lower, upper]."""

    lower: float
    upper: float
    confidence: float  # mean top probability of the items
    accuracy: float  # share of them whose top label is the true one
    count: int


@dataclass(frozen=True)
class ProbabilityMetrics:
    """How well predicted probabilities match the true labels."""

    cross_entropy: float  # mean of -ln p(true class), in nats
    brier: float  # mean over items of the squared error summed over classes, 0 to 2 (Brier 1950)
    auc_macro: (
        float | None
    )  # mean over classes, each against the rest; None if no class has items inside and outside it
    ece: float  # expected calibration error of the top label
    reliability: tuple[ReliabilityBin, ...]  # bins that have items, by rising confidence

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {**asdict(self), "reliability": [asdict(one) for one in self.reliability]}


def probability_metrics(
    y_true: Labels, probabilities: Float[np.ndarray, "items classes"] | Unchecked, classes: Labels, *, bins: int = 15
) -> ProbabilityMetrics:
    """Measure the probabilities of a classifier.

    The cross-entropy takes no probability below the smallest step of its type (2.2e-16 in float64), as scikit-learn
    does, so that one sure mistake does not make it infinite. For two classes `auc_macro` is the ordinary AUC and `brier`
    twice what is usual there. The expected calibration error is that of Guo et al. 2017, "On Calibration of Modern Neural
    Networks" (ICML), equation 3: equally wide bins of the top probability, their gaps between accuracy and mean
    probability averaged by count.

    Args:
        y_true: the true label of each item.
        probabilities: of each class for each item. Rows sum to 1.
        classes: the label of each column.
        bins: how many bins there are between 0 and 1.

    Raises:
        LabelError: there are no items, shapes differ, labels are missing or not among `classes`, rows are no
            probabilities, or `bins` is below 1.
    """
    truth = one_against_rest(y_true, classes)
    given = _probabilities(probabilities, truth)
    p = given.astype(np.float64)
    off = np.abs(p.sum(axis=1) - 1)
    if off.max() > max(1e-3, float(np.finfo(given.dtype).eps) ** 0.5):
        worst = int(off.argmax())
        raise LabelError(
            f"the probabilities of an item must sum to 1; those of item {worst} sum to {p[worst].sum():.4g}. "
            "Give probabilities, not scores"
        )
    if bins < 1:
        raise LabelError(f"bins must be at least 1; got {bins}")
    areas = [_roc_area(truth[:, k], given[:, k]) for k in ([1] if truth.shape[1] == 2 else range(truth.shape[1]))]
    reliability = _reliability(p, truth, bins)
    return ProbabilityMetrics(
        cross_entropy=float(-np.log(np.maximum(p[truth], np.finfo(given.dtype).eps)).mean()),
        brier=float(np.square(p - truth).sum(axis=1).mean()),
        auc_macro=_mean_of_defined(areas),
        ece=sum(one.count * abs(one.accuracy - one.confidence) for one in reliability) / len(p),
        reliability=reliability,
    )


@dataclass(frozen=True, eq=False)
class MultilabelMetrics:
    """How well predictions match where an item has any number of labels.

    `micro` counts every cell of the matrix alike, `macro` is the mean over labels, `samples` the mean over items. A ratio
    with nothing below the line counts as 0, as in `ClassificationMetrics`; the F1 of an item without labels for which
    none is predicted is such a ratio.
    """

    labels: tuple[Any, ...]
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
    precision: Float64[np.ndarray, " labels"]
    recall: Float64[np.ndarray, " labels"]
    f1: Float64[np.ndarray, " labels"]
    support: Int[np.ndarray, " labels"]  # how many items have the label
    average_precision: tuple[float | None, ...]  # by label; None where no item has it
    auc: tuple[float | None, ...]  # by label; None where no item has it or all have

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON; the numbers by label are lists in the order of `labels`."""
        return {
            "subset_accuracy": self.subset_accuracy,
            "hamming_loss": self.hamming_loss,
            "precision_micro": self.precision_micro,
            "recall_micro": self.recall_micro,
            "f1_micro": self.f1_micro,
            "precision_macro": self.precision_macro,
            "recall_macro": self.recall_macro,
            "f1_macro": self.f1_macro,
            "f1_samples": self.f1_samples,
            "cross_entropy": self.cross_entropy,
            "average_precision_macro": self.average_precision_macro,
            "auc_macro": self.auc_macro,
            "labels": list(self.labels),
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "f1": self.f1.tolist(),
            "support": self.support.tolist(),
            "average_precision": list(self.average_precision),
            "auc": list(self.auc),
        }


def multilabel_metrics(
    y_true: Bool[np.ndarray, "items labels"] | Unchecked,
    probabilities: Float[np.ndarray, "items labels"] | Unchecked,
    labels: Labels,
    *,
    threshold: float | Float[np.ndarray, " labels"] | Unchecked = 0.5,
) -> MultilabelMetrics:
    """Measure predictions where an item has any number of labels.

    The cross-entropy keeps a smallest step's distance from 0 and 1, as `probability_metrics` does.

    Args:
        y_true: which item has which label.
        probabilities: of each label for each item; rows need not sum to 1.
        labels: the label of each column.
        threshold: a label is predicted where its probability is at least this; one number, or one a label.

    Raises:
        LabelError: there are no items or labels, shapes or types do not fit, labels repeat, probabilities are not
            between 0 and 1, or thresholds are not.
    """
    names = _ordered(labels)
    truth = _truth(y_true, names)
    given = _probabilities(probabilities, truth)
    at = np.asarray(threshold, dtype=np.float64)
    if at.shape not in {(), (len(names),)} or not ((at >= 0) & (at <= 1)).all():
        raise LabelError(
            f"threshold must be a number between 0 and 1, or one for each of the {len(names)} labels; got {threshold}"
        )
    predicted = given >= at.astype(given.dtype)  # in one type: 0.7 is not below the float32 nearest to it
    right = truth & predicted
    hits, support, named = right.sum(axis=0), truth.sum(axis=0), predicted.sum(axis=0)
    precision, recall, f1 = _ratio(hits, named), _ratio(hits, support), _ratio(2 * hits, support + named)
    f1_samples = _ratio(2 * right.sum(axis=1), truth.sum(axis=1) + predicted.sum(axis=1))
    total = (hits.sum(keepdims=True), support.sum(keepdims=True), named.sum(keepdims=True))
    step = float(np.finfo(given.dtype).eps)
    p = np.clip(given.astype(np.float64), step, 1 - step)
    areas = tuple(_roc_area(truth[:, k], given[:, k]) for k in range(len(names)))
    average_precision = tuple(_average_precision(truth[:, k], given[:, k]) for k in range(len(names)))
    return MultilabelMetrics(
        labels=tuple(names.tolist()),
        subset_accuracy=float((truth == predicted).all(axis=1).mean()),
        hamming_loss=float((truth != predicted).mean()),
        precision_micro=float(_ratio(total[0], total[2])[0]),
        recall_micro=float(_ratio(total[0], total[1])[0]),
        f1_micro=float(_ratio(2 * total[0], total[1] + total[2])[0]),
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(f1.mean()),
        f1_samples=float(f1_samples.mean()),
        cross_entropy=float(-np.log(np.where(truth, p, 1 - p)).mean()),
        average_precision_macro=_mean_of_defined(average_precision),
        auc_macro=_mean_of_defined(areas),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        average_precision=average_precision,
        auc=areas,
    )


@dataclass(frozen=True)
class RegressionMetrics:
    """How near predicted numbers come to the true ones."""

    mse: float  # mean squared error, in the squared unit of the target
    rmse: float  # its root, in the unit of the target
    mae: float  # mean absolute error, in the unit of the target
    r2: float | None  # 1 - mse / variance; None if the true numbers are all the same

    def as_dict(self) -> dict[str, float | None]:
        """All of it, for JSON."""
        return asdict(self)


def regression_metrics(
    y_true: Float[np.ndarray, " items"] | Unchecked, y_pred: Float[np.ndarray, " items"] | Unchecked
) -> RegressionMetrics:
    """Compare predicted numbers with true ones.

    Raises:
        LabelError: there are no items, the two differ in length, or a value is not a finite number.
    """
    true, predicted = _numbers(y_true, "true"), _numbers(y_pred, "predicted")
    if len(true) != len(predicted):
        raise LabelError(f"there are {len(true)} true numbers but {len(predicted)} predicted ones")
    if not len(true):
        raise LabelError("there are no items to measure on")
    error = predicted - true
    mse = float(np.square(error).mean())
    # The variance of equal numbers can come out above 0 by rounding, and that of different ones as 0.
    variance = 0.0 if (true == true[0]).all() else float(true.var())
    return RegressionMetrics(
        mse=mse, rmse=mse**0.5, mae=float(np.abs(error).mean()), r2=1 - mse / variance if variance else None
    )


@dataclass(frozen=True, eq=False)
class RocCurve:
    """One label against the rest: the share of its items found by the share of others taken for them.

    From (0, 0) to (1, 1), at most 200 points; the area is that of the curve before points were left out.
    """

    label: Any
    false_positive_rate: Float64[np.ndarray, " points"]  # never falls
    true_positive_rate: Float64[np.ndarray, " points"]  # never falls
    area: float

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {
            "label": self.label,
            "false_positive_rate": self.false_positive_rate.tolist(),
            "true_positive_rate": self.true_positive_rate.tolist(),
            "area": self.area,
        }


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """One label against the rest: precision by recall, from recall 0 (where precision counts as 1) to recall 1.

    At most 200 points. The area is the average precision, a sum of steps over all points: straight lines between them
    would flatter.
    """

    label: Any
    recall: Float64[np.ndarray, " points"]  # never falls
    precision: Float64[np.ndarray, " points"]
    area: float

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return {
            "label": self.label,
            "recall": self.recall.tolist(),
            "precision": self.precision.tolist(),
            "area": self.area,
        }


def roc_curves(
    truth: Bool[np.ndarray, "items labels"] | Unchecked,
    scores: Float[np.ndarray, "items labels"] | Unchecked,
    labels: Labels,
) -> tuple[RocCurve, ...]:
    """The ROC curve of every label that some items have and some have not; others are left out.

    Args:
        truth: which item has which label; of one class an item, see `one_against_rest`.
        scores: higher where a label is more likely.
        labels: the label of each column.

    Raises:
        LabelError: there are no items or labels, shapes or types do not fit, labels repeat, or scores are not finite.
    """
    from sklearn.metrics import roc_curve

    names = _ordered(labels)
    truth = _truth(truth, names)
    scores = _matching(scores, truth, "scores")
    curves = []
    for k, label in enumerate(names.tolist()):
        area = _roc_area(truth[:, k], scores[:, k])
        if area is not None:
            false_positive, true_positive, _ = roc_curve(truth[:, k], scores[:, k])
            kept = _thinned(false_positive, true_positive)
            curves.append(RocCurve(label, false_positive[kept], true_positive[kept], area))
    return tuple(curves)


def precision_recall_curves(
    truth: Bool[np.ndarray, "items labels"] | Unchecked,
    scores: Float[np.ndarray, "items labels"] | Unchecked,
    labels: Labels,
) -> tuple[PrecisionRecallCurve, ...]:
    """The precision-recall curve of every label that some items have; others are left out.

    Args:
        truth: as for `roc_curves`.
        scores: see there.
        labels: see there.

    Raises:
        LabelError: as `roc_curves`.
    """
    from sklearn.metrics import precision_recall_curve

    names = _ordered(labels)
    truth = _truth(truth, names)
    scores = _matching(scores, truth, "scores")
    curves = []
    for k, label in enumerate(names.tolist()):
        area = _average_precision(truth[:, k], scores[:, k])
        if area is not None:
            precision, recall, _ = precision_recall_curve(truth[:, k], scores[:, k], drop_intermediate=True)
            precision, recall = precision[::-1], recall[::-1]
            kept = _thinned(recall, precision)
            curves.append(PrecisionRecallCurve(label, recall[kept], precision[kept], area))
    return tuple(curves)


def one_against_rest(y_true: Labels, classes: Labels) -> Bool[np.ndarray, "items classes"]:
    """Which item is of which class: one true cell a row.

    Raises:
        LabelError: labels are missing, of another kind than the classes, or not among them, or classes repeat.
    """
    columns = _ordered(classes)
    values, codes = label_codes(y_true, what="true labels")
    number = {label: k for k, label in enumerate(columns.tolist())}
    unknown = [label for label in values.tolist() if label not in number]
    if unknown:
        raise LabelError(
            f"true labels {unknown[:5]} are not among the {len(columns)} classes, such as {columns[:3].tolist()}"
        )
    truth = np.zeros((len(codes), len(columns)), dtype=bool)
    if len(codes):
        truth[np.arange(len(codes)), np.array([number[label] for label in values.tolist()])[codes]] = True
    return truth


def _truth(
    truth: Bool[np.ndarray, "items labels"] | Unchecked, labels: Shaped[np.ndarray, " labels"]
) -> Bool[np.ndarray, "items labels"]:
    matrix: Bool[np.ndarray, "items labels"] = np.asarray(truth)
    if matrix.dtype != np.bool_ or matrix.ndim != 2 or matrix.shape[1] != len(labels):
        raise LabelError(
            f"the truth must be a matrix of booleans with a column for each of the {len(labels)} labels; "
            f"got {matrix.dtype} {matrix.shape}"
        )
    return matrix


def _matching(
    values: Float[np.ndarray, "items labels"] | Unchecked, truth: Bool[np.ndarray, "items labels"], what: str
) -> Float[np.ndarray, "items labels"]:
    """A matrix of finite floats that fits the truth."""
    matrix = np.asarray(values)
    if not truth.size:
        raise LabelError("there are no items to measure on")
    if matrix.shape != truth.shape or matrix.dtype.kind not in "fiub":
        raise LabelError(
            f"{what} must be numbers with a row for each of {len(truth)} items and a column for each of "
            f"{truth.shape[1]} labels; got {matrix.dtype} {matrix.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise LabelError(f"the {what} of {len(bad)} items are NaN or infinite, first item {bad[0]}")
    floats: Float[np.ndarray, "items labels"] = matrix if matrix.dtype.kind == "f" else matrix.astype(np.float64)
    return floats


def _probabilities(
    values: Float[np.ndarray, "items labels"] | Unchecked, truth: Bool[np.ndarray, "items labels"]
) -> Float[np.ndarray, "items labels"]:
    matrix = _matching(values, truth, "probabilities")
    # Sums of float32 come out a little above 1.
    if matrix.min() < 0 or matrix.max() > 1 + 8 * np.finfo(matrix.dtype).eps:
        raise LabelError(
            f"probabilities must lie between 0 and 1; got {matrix.min():.4g} to {matrix.max():.4g}. "
            "Give probabilities, not scores"
        )
    return matrix


def _numbers(values: Float[np.ndarray, " items"] | Unchecked, which: str) -> Float64[np.ndarray, " items"]:
    given = np.asarray(values)
    if given.dtype.kind not in "fiubO":
        raise LabelError(f"the {which} values must be numbers; got {given.dtype}, such as {given.ravel()[:1].tolist()}")
    try:
        numbers: Float64[np.ndarray, " items"] = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise LabelError(f"the {which} values must be numbers: {error}") from error
    if numbers.ndim != 1:
        raise LabelError(f"the {which} numbers must be one an item; got an array of shape {numbers.shape}")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise LabelError(
            f"{len(bad)} of {len(numbers)} {which} numbers are missing, NaN or infinite, first of item {bad[0]}: "
            "leave these items out"
        )
    return numbers


def _reliability(
    probabilities: Float64[np.ndarray, "items classes"], truth: Bool[np.ndarray, "items classes"], bins: int
) -> tuple[ReliabilityBin, ...]:
    top = probabilities.argmax(axis=1)
    rows = np.arange(len(top))
    confidence, right = probabilities[rows, top], truth[rows, top]
    which = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    sums, hits = np.bincount(which, confidence, minlength=bins), np.bincount(which, right, minlength=bins)
    return tuple(
        ReliabilityBin(b / bins, (b + 1) / bins, float(sums[b] / count[b]), float(hits[b] / count[b]), int(count[b]))
        for b in np.flatnonzero(count).tolist()
    )


def _roc_area(truth: Bool[np.ndarray, " items"], scores: Float[np.ndarray, " items"]) -> float | None:
    from sklearn.metrics import roc_auc_score

    if truth.all() or not truth.any():
        return None
    return float(roc_auc_score(truth, scores))


def _average_precision(truth: Bool[np.ndarray, " items"], scores: Float[np.ndarray, " items"]) -> float | None:
    from sklearn.metrics import average_precision_score

    if not truth.any():
        return None
    return float(average_precision_score(truth, scores))


def _mean_of_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _thinned(x: Float64[np.ndarray, " points"], y: Float64[np.ndarray, " points"]) -> Int[np.ndarray, " kept"]:
    """Points to draw a curve by, evenly spaced along it, the first and the last among them."""
    if len(x) <= _CURVE_POINTS:
        return np.arange(len(x))
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept: Int[np.ndarray, " kept"] = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _CURVE_POINTS)))
    return kept


def _ordered(labels: Labels) -> Shaped[np.ndarray, " labels"]:
    """The given labels in their order, checked as labels are and without repeats."""
    values, codes = label_codes(labels)
    if len(values) != len(codes):
        raise LabelError(f"labels must not repeat; got {len(codes)} with {len(values)} different ones")
    ordered: Shaped[np.ndarray, " labels"] = values[codes]
    return ordered


def _ratio(above: Int[np.ndarray, " labels"], below: Int[np.ndarray, " labels"]) -> Float64[np.ndarray, " labels"]:
    """Above by below, and 0 where there is nothing below."""
    ratio: Float64[np.ndarray, " labels"] = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return ratio
