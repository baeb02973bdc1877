"""Relevance: whether stated probabilities of search results hold, and what answering "nothing found" costs.

How results get probabilities is left to `chiasm.retrieval`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import Interval, wilson_interval
from chiasm.evaluation.metrics import ReliabilityBin, reliability_bins
from chiasm.evaluation.record import Record
from chiasm.vectors import Unchecked, expected_calibration_error


@dataclass(frozen=True)
class RelevanceMetrics(Record):
    """Calibration of stated probabilities of relevance against the observed frequency."""

    hits: int  # results
    brier: float  # mean squared error, 0 to 1
    cross_entropy: float  # mean of -ln of the probability of what is the case, in nats
    ece: float  # expected calibration error over bins of equal width
    reliability: tuple[ReliabilityBin, ...]
    calibration_error: float  # the same over bins of equal count: it tells more if most probabilities are small
    equal_counts: tuple[ReliabilityBin, ...]  # these bins, from the least probable to the most


def relevance_metrics(
    probabilities: Float[np.ndarray, " hits"] | Unchecked,
    relevant: Bool[np.ndarray, " hits"] | Unchecked,
    *,
    bins: int = 15,
) -> RelevanceMetrics:
    """Measure the probabilities of search results being relevant.

    Args:
        probabilities: of each result, from 0 to 1.
        relevant: whether it is.
        bins: number of bins of each kind.

    Raises:
        LabelError: no results, lengths that differ, a value that is no probability, `relevant` that is not boolean, or
            `bins` below 1.

    Example:
        >>> relevance_metrics([0.9, 0.1], [True, False]).brier.__round__(3)
        0.01
    """
    p, truth = np.asarray(probabilities), np.asarray(relevant)
    if p.ndim != 1 or p.shape != truth.shape or truth.dtype != np.bool_:
        raise LabelError(
            f"every result needs a probability and a boolean; got {p.dtype} {p.shape} and {truth.dtype} {truth.shape}"
        )
    if not len(p):
        raise LabelError("there are no results to measure probabilities on")
    if not ((p >= 0) & (p <= 1)).all():
        raise LabelError("probabilities of relevance must lie between 0 and 1. Give probabilities, not scores")
    p = p.astype(np.float64)
    reliability = reliability_bins(p, truth, bins)
    parts = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    equal_counts = tuple(
        ReliabilityBin(
            float(p[part[0]]), float(p[part[-1]]), float(p[part].mean()), float(truth[part].mean()), len(part)
        )
        for part in parts
    )
    return RelevanceMetrics(
        hits=len(p),
        brier=float(np.square(p - truth).mean()),
        cross_entropy=float(-np.log(np.maximum(np.where(truth, p, 1 - p), np.finfo(np.float64).eps)).mean()),
        ece=expected_calibration_error(p, truth, bins=bins),
        reliability=reliability,
        calibration_error=sum(one.count * abs(one.confidence - one.accuracy) for one in equal_counts) / len(p),
        equal_counts=equal_counts,
    )


@dataclass(frozen=True)
class Abstention(Record):
    """The costs and savings of answering "nothing found" below a threshold.

    Example:
        >>> abstention([0.9, 0.5, 0.4, 0.8], [0.1, 0.2], threshold=0.5).answered.estimate
        0.75
    """

    threshold: float
    answered: Interval  # share of the queries with an answer in the gallery that still get a result
    false_hits: Interval  # share of the queries without one that get a result all the same


def abstention(
    answerable: Float[np.ndarray, " queries"] | Unchecked,
    off_topic: Float[np.ndarray, " others"] | Unchecked,
    *,
    threshold: float,
) -> Abstention:
    """Measure "nothing found" as an answer: a query gets a result if its best probability reaches the threshold.

    Args:
        answerable: the best probability, or score, of each query that has an answer in the gallery. -inf: no result.
        off_topic: the same of queries that have none.
        threshold: the least that a result needs.

    Raises:
        LabelError: no queries of a kind, or a value or threshold of NaN.
    """
    if math.isnan(threshold):
        raise LabelError("the threshold of a result is NaN")
    rates = []
    for values, kind in ((answerable, "answerable"), (off_topic, "off-topic")):
        best = np.asarray(values)
        if best.ndim != 1 or best.dtype.kind not in "fiub" or np.isnan(best).any():
            raise LabelError(
                f"the best results of {kind} queries must be a row of numbers without NaN; got {best.dtype} {best.shape}"
            )
        if not len(best):
            raise LabelError(f"there are no {kind} queries to measure on")
        rates.append(wilson_interval(int((best >= threshold).sum()), len(best)))
    return Abstention(float(threshold), *rates)
