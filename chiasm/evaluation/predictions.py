"""Predictions of one target for items that were not trained on, and all metrics of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm.evaluation.intervals import bootstrap_interval
from chiasm.evaluation.metrics import (
    classification_metrics,
    multilabel_metrics,
    probability_metrics,
    regression_metrics,
)
from chiasm.types import Modality

Kind: TypeAlias = Literal["classes", "labels", "number"]

DRAWS = 500  # of the bootstrap: macro-F1 of a thousand items takes a millisecond each


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of items that the predictor was not trained on.

    Attributes:
        kind: of the target.
        ids: of the items.
        media: of each item, its first file or inline text by modality.
        groups: items that are not independent, e.g. copies of one another, share a number.
        classes: of `probabilities`; empty for numbers.
        true: labels as text, a boolean matrix (items, classes), or numbers.
        predicted: alike.
        probabilities: of classes or labels; None for numbers.
        sets: sets of classes that hold the true one with probability `level`, if there are any.
        unknown: items that were assigned to none of the classes, if that was asked for.
        level: see `sets`.
        low: of numbers, the lower end of an interval that holds the true one with probability `level`.
        high: its upper end.

    Example:
        >>> predictions = Predictions(
        ...     "number", ("a", "b"), ({}, {}), np.arange(2), (), np.array([1.0, 3.0]), np.array([1.0, 2.0])
        ... )
        >>> measure(predictions)["mae"]
        0.5
    """

    kind: Kind
    ids: tuple[str, ...]
    media: tuple[Mapping[Modality, str], ...]
    groups: Int[np.ndarray, " items"]
    classes: tuple[str, ...]
    true: Shaped[np.ndarray, "items ..."]
    predicted: Shaped[np.ndarray, "items ..."]
    probabilities: Float[np.ndarray, "items classes"] | None = None
    sets: Bool[np.ndarray, "items classes"] | None = None
    unknown: Bool[np.ndarray, " items"] | None = None
    level: float = 0.9
    low: Float[np.ndarray, " items"] | None = None
    high: Float[np.ndarray, " items"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def known(self) -> Bool[np.ndarray, " items"]:
        """Return which items have a true class that the predictor knows."""
        return np.isin(self.true, np.array(self.classes))


def measure(predictions: Predictions) -> dict[str, Any]:
    """Return all metrics of the kind in the types of JSON; `intervals` holds the ends of 95 % bootstrap intervals."""
    match predictions.kind:
        case "classes":
            return _measure_classes(predictions)
        case "labels":
            return _measure_labels(predictions)
        case "number":
            return _measure_numbers(predictions)


def _measure_classes(predictions: Predictions) -> dict[str, Any]:
    metrics = classification_metrics(predictions.true, predictions.predicted).as_dict()
    metrics["items"] = len(predictions)
    known = predictions.known()
    if predictions.probabilities is not None and known.any():
        metrics |= probability_metrics(
            predictions.true[known], predictions.probabilities[known], list(predictions.classes)
        ).as_dict()
    if predictions.sets is not None and known.any():
        place = np.searchsorted(np.array(predictions.classes), predictions.true[known])
        sets = predictions.sets[known]
        held = sets[np.arange(len(place)), place]
        metrics |= {
            "coverage": float(held.mean()),
            "coverage_balanced": _balanced(place, np.where(held, place, -1)),
            "level": predictions.level,
            "set_size": float(sets.sum(axis=1).mean()),
        }
    if predictions.unknown is not None:
        if known.any():
            metrics["false_alarms"] = float(predictions.unknown[known].mean())
        if not known.all():
            metrics["unknown_found"] = float(predictions.unknown[~known].mean())
    codes = np.unique([predictions.true, predictions.predicted], return_inverse=True)[1].reshape(2, -1)
    true, predicted = codes
    metrics["intervals"] = _intervals(
        predictions,
        {
            "accuracy": lambda rows: float((true[rows] == predicted[rows]).mean()),
            "balanced_accuracy": lambda rows: _balanced(true[rows], predicted[rows]),
            "f1_macro": lambda rows: classification_metrics(true[rows], predicted[rows]).f1_macro,
        },
    )
    return metrics


def _balanced(true: Int[np.ndarray, " rows"], predicted: Int[np.ndarray, " rows"]) -> float:
    """Return the mean recall of the classes that occur."""
    support = np.bincount(true)
    return float(
        (np.bincount(true[true == predicted], minlength=len(support))[support > 0] / support[support > 0]).mean()
    )


def _measure_labels(predictions: Predictions) -> dict[str, Any]:
    assert predictions.probabilities is not None  # of labels there always are
    true, predicted = predictions.true, predictions.predicted
    metrics = multilabel_metrics(true, predicted, predictions.probabilities, list(predictions.classes)).as_dict()
    metrics["items"] = len(predictions)

    def f1_micro(rows: Int[np.ndarray, " rows"]) -> float:
        either = true[rows].sum() + predicted[rows].sum()
        return float(2 * (true[rows] & predicted[rows]).sum() / either) if either else 0.0

    # No interval of macro-F1: a resample loses rare labels, so it lies below the score itself.
    metrics["intervals"] = _intervals(predictions, {"f1_micro": f1_micro})
    return metrics


def _measure_numbers(predictions: Predictions) -> dict[str, Any]:
    true, predicted = predictions.true, predictions.predicted
    metrics: dict[str, Any] = regression_metrics(true, predicted).as_dict()
    if predictions.low is not None and predictions.high is not None:
        metrics |= {
            "coverage": float(((true >= predictions.low) & (true <= predictions.high)).mean()),
            "level": predictions.level,
            "width": float((predictions.high - predictions.low).mean()),
        }
    metrics["items"] = len(predictions)

    def r2(rows: Int[np.ndarray, " rows"]) -> float:
        spread = np.square(true[rows] - true[rows].mean()).sum()
        return float(1 - np.square(true[rows] - predicted[rows]).sum() / spread) if spread else 0.0

    metrics["intervals"] = _intervals(
        predictions, {"mae": lambda rows: float(np.abs(true[rows] - predicted[rows]).mean()), "r2": r2}
    )
    return metrics


def _intervals(
    predictions: Predictions, statistics: Mapping[str, Callable[[Int[np.ndarray, " rows"]], float]]
) -> dict[str, list[float]]:
    """Return the ends of each interval; none if all items are of one group."""
    if len(np.unique(predictions.groups)) < 2:
        return {}
    intervals = {}
    for name, statistic in statistics.items():
        interval = bootstrap_interval(statistic, len(predictions), groups=predictions.groups, draws=DRAWS)
        intervals[name] = [interval.low, interval.high]
    return intervals
