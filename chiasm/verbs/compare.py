"""Comparison of two models by their predictions of the same items: for `learn`, and for `evaluate` against another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import paired_difference
from chiasm.evaluation.metrics import classification_metrics
from chiasm.evaluation.predictions import Predictions
from chiasm.evaluation.record import Record
from chiasm.recognition.targets import Kind
from chiasm.vectors import brier_scores

MARGIN = 0.02  # of the score; of a number, of the old error
_SCORES: Mapping[Kind, str] = {
    "classes": "accuracy", "labels": "share of labels right", "number": "minus absolute error",
}  # fmt: skip


@dataclass(frozen=True)
class ColumnComparison(Record):
    """One column, the old model against the new one on the same items. Copies of one item count as one."""

    column: str
    score: str  # "accuracy", "share of labels right" or "minus absolute error": more is better
    old: float
    new: float
    difference: float  # new - old
    standard_error: float
    interval: tuple[float, float]  # 95 %
    p_value: float
    allowed: float  # the new model may be worse by this much
    old_metrics: dict[str, float]  # of classes also macro-F1 and Brier score
    new_metrics: dict[str, float]

    @property
    def is_better(self) -> bool:
        """Whether the new model is better by more than one standard error, so by more than noise."""
        return self.difference > self.standard_error

    @property
    def is_worse(self) -> bool:
        """Whether the new model is worse by more than is allowed."""
        return self.difference < -self.allowed

    def verdict(self) -> str:
        """Return the comparison in words."""
        verdict = "no better yet"
        if self.is_better:
            verdict = "better by more than one standard error"
        elif self.is_worse:
            verdict = (
                f"worse by more than the {self.allowed:.3g} that are allowed (one standard error, at most {MARGIN:.0%})"
            )
        return (
            f"{self.column}: {verdict} ({self.score} {self.new:.3g} against {self.old:.3g}, difference "
            f"{self.difference:+.3g}, standard error {self.standard_error:.2g})"
        )


def compare_column(column: str, old: Predictions, new: Predictions) -> ColumnComparison:
    """Compare two models on the same items of one column, in the same order."""
    a, b = (group_means(_scores(side), side.groups) for side in (new, old))
    difference = paired_difference(a, b)
    scale = abs(float(b.mean())) if new.kind == "number" else 1.0
    return ColumnComparison(
        column=column,
        score=_SCORES[new.kind],
        old=float(b.mean()),
        new=float(a.mean()),
        difference=difference.mean,
        standard_error=difference.standard_error,
        interval=(difference.interval.low, difference.interval.high),
        p_value=difference.p_value,
        allowed=min(difference.standard_error, MARGIN * scale),
        old_metrics=_metrics(old),
        new_metrics=_metrics(new),
    )


def compare_models(mine: Mapping[str, Predictions], theirs: Mapping[str, Predictions], name: str) -> dict[str, Any]:
    """Return the paired differences of accuracy and Brier score between two models on the same items.

    Raises:
        LabelError: they are not both of the same one column of classes.
    """
    both = [*mine.values(), *theirs.values()]
    if len(mine) != 1 or mine.keys() != theirs.keys() or any(one.kind != "classes" for one in both):
        raise LabelError(
            f"only models of the same column of classes can be compared; got {', '.join(mine)} and {', '.join(theirs)}"
        )
    ours, others = ({"accuracy": _scores(one), "minus Brier score": -_brier(one)} for one in both)
    metrics = {}
    for metric, values in ours.items():
        difference = paired_difference(values, others[metric])
        metrics[metric] = {
            "this": float(values.mean()),
            "other": float(others[metric].mean()),
            "difference": difference.mean,
            "standard_error": difference.standard_error,
            "interval": [difference.interval.low, difference.interval.high],
            "p_value": difference.p_value,
        }
    return {"model": name, "metrics": metrics}


def group_means(
    scores: Float64[np.ndarray, " items"], groups: Int[np.ndarray, " items"]
) -> Float64[np.ndarray, " groups"]:
    """Return the mean score of each group."""
    codes = np.unique(groups, return_inverse=True)[1]
    return np.bincount(codes, scores) / np.bincount(codes)


def _scores(column: Predictions) -> Float64[np.ndarray, " items"]:
    """Return the score of each item, more is better."""
    if column.kind == "number":
        return np.asarray(-np.abs(column.true - column.predicted), dtype=np.float64)
    right = np.asarray(column.true == column.predicted, dtype=np.float64)
    return right.mean(axis=1) if column.kind == "labels" else right


def _brier(column: Predictions) -> Float[np.ndarray, " items"]:
    """Return the Brier score of each item; a class that the recogniser does not know has no probability there."""
    assert column.probabilities is not None  # of classes there always are
    names = np.array(column.classes)
    known = np.isin(column.true, names)
    codes = np.where(known, np.searchsorted(names, np.where(known, column.true, names[0])), len(names))
    return brier_scores(np.hstack([column.probabilities, np.zeros((len(codes), 1))]), codes)


def _metrics(column: Predictions) -> dict[str, float]:
    metrics = {_SCORES[column.kind]: float(_scores(column).mean())}
    if column.kind == "classes":
        f1 = classification_metrics(column.true, column.predicted).f1_macro
        metrics |= {"f1_macro": f1, "brier": float(_brier(column).mean())}
    return metrics
