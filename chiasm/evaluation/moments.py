"""Moments: whether what was found in a recording is the part that was meant.

This module compares spans of time, predicted and true. How moments are found is left to `chiasm.retrieval`; which file a
span lies in is only a name here. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.evaluation.diagnostics import Interval, mean_interval
from chiasm.splits import Labels
from chiasm.vectors import Unchecked

_DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class Span:
    """A part of a recording, from `start` to `end`.

    Raises:
        LabelError: a time is NaN or infinite, or the end is before the start.
    """

    file: str
    start: float
    end: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise LabelError(f"the times of a span must be finite; got {self.start} to {self.end} s in {self.file!r}")
        if self.end < self.start:
            raise LabelError(f"a span ends before it starts: {self.start} to {self.end} s in {self.file!r}")


def temporal_iou(
    spans: Float[np.ndarray, "spans 2"] | Unchecked, others: Float[np.ndarray, "others 2"] | Unchecked
) -> Float64[np.ndarray, "spans others"]:
    """Intersection over union of spans of one recording: the seconds in both divided by the seconds in either.

    Args:
        spans: start and end of each, in seconds.
        others: the same of those to compare with.

    Returns:
        From 0 (nothing in common) to 1 (the same); 0 for two spans of no length.

    Raises:
        LabelError: not two columns of numbers, NaN or infinite times, or an end before its start.
    """
    a, b = _checked(spans), _checked(others)
    both = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    both = np.maximum(both, 0.0)
    either = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - both
    shares: Float64[np.ndarray, "spans others"] = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return shares


@dataclass(frozen=True, eq=False)
class MomentMetrics:
    """How well moments are found.

    Attributes:
        queries: their names, in the order of the truth.
        values: of each metric, the value of every query; the metric is their mean. `r@1_iou@0.5`: whether any of the first
            k predicted spans (here 1) overlaps a true one by an IoU of at least the threshold (here 0.5), the "R@k, IoU=m"
            of Gao et al. 2017, "TALL" (ICCV). `mean_iou`: the IoU of the first predicted span with the true one that
            it overlaps most.
        ranks: place of the first predicted span that overlaps a true one by at least the largest threshold; 0: there is none.
    """

    queries: tuple[str, ...]
    values: Mapping[str, Float64[np.ndarray, " queries"]]
    ranks: Int[np.ndarray, " queries"]

    def as_dict(self) -> dict[str, float | int]:
        """Keys such as "r@1_iou@0.5", "mean_iou" and "queries"."""
        return {**{name: float(values.mean()) for name, values in self.values.items()}, "queries": len(self.queries)}

    def intervals(
        self, *, groups: Labels | None = None, level: float = 0.95, draws: int = _DRAWS, seed: int = 0
    ) -> dict[str, Interval]:
        """Bootstrap intervals of all metrics, over queries.

        Args:
            groups: one a query, e.g. the recording that its moment lies in; whole groups are drawn.
            level: see `chiasm.evaluation.diagnostics.mean_interval`.
            draws: see there.
            seed: see there.

        Raises:
            LabelError: there are fewer than 2 queries or groups, groups do not fit, or options are out of range.
        """
        return {
            name: mean_interval(values, groups=groups, level=level, draws=draws, seed=seed)
            for name, values in self.values.items()
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
        predicted: by query, the spans that were found, best first. A query that is left out found nothing, and counts.
        truth: by query, one or several spans that answer it.
        ks: how many first spans to look at.
        thresholds: the least IoU that counts as found, above 0 and at most 1.

    Raises:
        LabelError: there are no queries, a predicted query has no truth, a query has no true span or one of no length, a k
            is below 1, or a threshold is out of range.
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
                    f"the true span of {query!r} at {span.start} s in {span.file!r} has no length, and nothing can overlap it"
                )
    best = [_best(predicted.get(query, ()), spans) for query, spans in truth.items()]
    values: dict[str, Float64[np.ndarray, " queries"]] = {}
    for k in sorted({int(k) for k in ks}):
        for least in sorted(set(thresholds)):
            found = [(shares[:k] >= least).any() for shares in best]
            values[f"r@{k}_iou@{least:g}"] = np.array(found, dtype=np.float64)
    values["mean_iou"] = np.array([shares[0] if len(shares) else 0.0 for shares in best])
    strict = [np.flatnonzero(shares >= max(thresholds)) for shares in best]
    ranks = np.array([1 + int(places[0]) if len(places) else 0 for places in strict])
    return MomentMetrics(tuple(truth), values, ranks)


def _best(spans: Sequence[Span], true: Sequence[Span]) -> Float64[np.ndarray, " spans"]:
    """Of each span, its largest IoU with a true one of the same file."""
    if not spans:
        return np.zeros(0)
    shares = temporal_iou(
        np.array([(span.start, span.end) for span in spans]), np.array([(span.start, span.end) for span in true])
    )
    same = np.array([[span.file == other.file for other in true] for span in spans])
    best: Float64[np.ndarray, " spans"] = np.where(same, shares, 0.0).max(axis=1)
    return best


def _checked(spans: Float[np.ndarray, "spans 2"] | Unchecked) -> Float64[np.ndarray, "spans 2"]:
    given = np.asarray(spans)
    if given.ndim != 2 or given.shape[1] != 2 or given.dtype.kind not in "fiu":
        raise LabelError(f"spans are rows of a start and an end in seconds; got {given.dtype} {given.shape}")
    times = given.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(times).all(axis=1))
    if len(bad):
        raise LabelError(f"the times of a span must be finite; got {times[bad[0]].tolist()} in row {bad[0]}")
    bad = np.flatnonzero(times[:, 1] < times[:, 0])
    if len(bad):
        raise LabelError(f"a span ends before it starts: {times[bad[0]].tolist()} in row {bad[0]}")
    return times
