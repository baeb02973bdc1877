"""Measuring: metrics of predictions and rankings, and the splits they are measured on."""

from chiasm.evaluation.metrics import (
    ClassificationMetrics,
    RetrievalMetrics,
    classification_metrics,
    retrieval_metrics,
    retrieval_metrics_from_embeddings,
    same_group,
)
from chiasm.evaluation.splits import (
    Split,
    few_shot_split,
    group_folds,
    grouped_stratified_folds,
    holdout_split,
)

__all__ = [
    "ClassificationMetrics",
    "RetrievalMetrics",
    "Split",
    "classification_metrics",
    "few_shot_split",
    "group_folds",
    "grouped_stratified_folds",
    "holdout_split",
    "retrieval_metrics",
    "retrieval_metrics_from_embeddings",
    "same_group",
]
