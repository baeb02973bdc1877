"""Moments: whether the span of a recording that search returns is the one that was meant.

Compares spans, predicted and true. How moments are found is left to `chiasm.retrieval`; which file a span lies in is only
a name here. Times are seconds, of texts characters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import Interval, mean_interval
from chiasm.splits import Labels


@dataclass(frozen=True)
class Span:
    """A part of a recording or a text.

    Raises:
        LabelError: a time that is not finite, or an end before the start.

    Example:
        >>> Span("talk.mp4", 0, 10).iou(Span("talk.mp4", 5, 10))
        0.5
    """

    file: str
    start: float
    end: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise LabelError(f"the times of a span must be finite; got {self.start} to {self.end} in {self.file!r}")
        if self.end < self.start:
            raise LabelError(f"a span ends before it starts: {self.start} to {self.end} in {self.file!r}")

    def iou(self, other: Span) -> float:
        """Return what is in both by what is in either; 0 for spans of two files or of no length."""
        both = max(0.0, min(self.end, other.end) - max(self.start, other.start))
        either = (self.end - self.start) + (other.end - other.start) - both
        return both / either if self.file == other.file and either > 0 else 0.0


@dataclass(frozen=True, eq=False)
class MomentMetrics:
    """How well moments are found.

    Attributes:
        queries: their names, in the order of the truth.
        values: of each metric, the value of every query; the metric is their mean. `r@1_iou@0.5`: whether any of the first
            k predicted spans (here 1) overlaps a true one by an IoU of at least the threshold (here 0.5), the "R@k, IoU=m"
            of Gao et al. 2017, "TALL" (ICCV). `mean_iou`: the IoU of the first predicted span with the true one that
            it overlaps most.
    """

    queries: tuple[str, ...]
    values: Mapping[str, Float64[np.ndarray, " queries"]]

    def as_dict(self) -> dict[str, float | int]:
        """Return the metrics by name, such as "r@1_iou@0.5" and "mean_iou", and "queries"."""
        return {**{name: float(values.mean()) for name, values in self.values.items()}, "queries": len(self.queries)}

    def intervals(self, *, groups: Labels | None = None, seed: int = 0) -> dict[str, Interval]:
        """Return 95 % bootstrap intervals of all metrics, over queries.

        Args:
            groups: one per query, e.g. the recording that its moment lies in; whole groups are drawn.
            seed: of the draws.

        Raises:
            LabelError: fewer than 2 queries or groups, or groups that do not fit.
        """
        return {
            name: mean_interval(values, groups=groups, draws=1000, seed=seed) for name, values in self.values.items()
        }


def moment_metrics(
    predicted: Mapping[str, Sequence[Span]],
    truth: Mapping[str, Sequence[Span]],
    *,
    ks: Sequence[int] = (1, 5),
    thresholds: Sequence[float] = (0.3, 0.5, 0.7),
) -> MomentMetrics:
    """Measure predicted spans against the true ones of every query.

    Args:
        predicted: by query, its results, best first. A query that is left out has none, and counts.
        truth: by query, one or several spans that answer it.
        ks: depths of the results to look at.
        thresholds: the least IoU that counts as a hit, above 0 and at most 1.

    Raises:
        LabelError: no queries, a predicted query without truth, a query without a true span or with one of no length, a k
            below 1, or a threshold out of range.
    """
    if not truth:
        raise LabelError("there are no queries to measure on: truth is empty")
    unknown = [query for query in predicted if query not in truth]
    if unknown:
        raise LabelError(
            f"{len(unknown)} predicted queries have no truth, first {unknown[0]!r}: name queries as the truth does, or "
            "leave them out"
        )
    if not ks or min(ks) < 1:
        raise LabelError(f"ks must be one or more numbers of at least 1; got {tuple(ks)}")
    if not thresholds or not all(0 < least <= 1 for least in thresholds):
        raise LabelError(f"thresholds of IoU must lie above 0 and at most at 1; got {tuple(thresholds)}")
    for query, spans in truth.items():
        if not spans:
            raise LabelError(f"the query {query!r} has no true span: give one, or leave it out")
        for span in spans:
            if span.end == span.start:
                raise LabelError(
                    f"the true span of {query!r} at {span.start} in {span.file!r} has no length, and nothing can overlap it"
                )
    best = [
        np.array([max(span.iou(right) for right in spans) for span in predicted.get(query, ())])
        for query, spans in truth.items()
    ]
    values: dict[str, Float64[np.ndarray, " queries"]] = {}
    for k in sorted({int(k) for k in ks}):
        for least in sorted(set(thresholds)):
            hits = [(overlaps[:k] >= least).any() for overlaps in best]
            values[f"r@{k}_iou@{least:g}"] = np.array(hits, dtype=np.float64)
    values["mean_iou"] = np.array([overlaps[0] if len(overlaps) else 0.0 for overlaps in best])
    return MomentMetrics(tuple(truth), values)
