"""Stated probabilities of relevance against what happened, and what answering "nothing found" costs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from chiasm.errors import LabelError
from chiasm.evaluation.relevance import abstention, relevance_metrics


def test_probabilities_of_relevance_by_hand() -> None:
    p, relevant = np.array([0.05, 0.1, 0.9, 0.8, 1.0]), np.array([False, True, True, False, True])
    metrics = relevance_metrics(p, relevant, bins=2)
    assert metrics.hits == 5
    assert metrics.brier == pytest.approx(np.mean((p - relevant) ** 2))
    assert metrics.cross_entropy == pytest.approx(-np.log([0.95, 0.1, 0.9, 0.2, 1.0]).mean())
    low, high = metrics.reliability
    assert [low.count, low.accuracy, low.confidence] == pytest.approx([2, 0.5, 0.075])
    assert [high.count, high.accuracy, high.confidence] == pytest.approx([3, 2 / 3, 0.9])
    assert metrics.ece == pytest.approx((2 * abs(0.5 - 0.075) + 3 * abs(2 / 3 - 0.9)) / 5)
    first, last = metrics.equal_counts
    assert [first.count, first.lower, first.upper, first.accuracy] == pytest.approx([3, 0.05, 0.8, 1 / 3])
    assert [last.count, last.lower, last.upper, last.accuracy] == pytest.approx([2, 0.9, 1.0, 1.0])
    assert metrics.calibration_error == pytest.approx((3 * abs(0.95 / 3 - 1 / 3) + 2 * abs(0.95 - 1)) / 5)
    assert json.loads(json.dumps(metrics.as_dict()))["equal_counts"][1]["count"] == 2


def test_bins_of_equally_many_hits_see_what_wide_bins_do_not() -> None:
    """All probabilities are small, and nothing tells the few that fit from the others."""
    p = np.linspace(0, 0.06, 3000)
    relevant = np.arange(3000) % 33 == 0
    metrics = relevance_metrics(p, relevant)
    assert metrics.ece < 0.001
    assert metrics.calibration_error > 0.01
    assert [one.count for one in metrics.equal_counts] == [200] * 15
    assert [one.count for one in relevance_metrics(p[:3], relevant[:3]).equal_counts] == [1, 1, 1]


def test_true_probabilities_are_calibrated_and_doubled_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000) / 2
    relevant = rng.random(20_000) < p
    assert relevance_metrics(p, relevant).ece < 0.02
    assert relevance_metrics(2 * p, relevant).ece > 0.2
    assert relevance_metrics(p, relevant).calibration_error < 0.02
    assert relevance_metrics(2 * p, relevant).calibration_error > 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relevance_metrics([0.5], [1]), "a probability and a boolean; got float64 .* and int64"),
        (lambda: relevance_metrics([0.5, 0.5], [True]), r"got float64 \(2,\) and bool \(1,\)"),
        (lambda: relevance_metrics(np.zeros(0), np.zeros(0, bool)), "no results"),
        (lambda: relevance_metrics([1.5], [True]), "lie between 0 and 1"),
        (lambda: relevance_metrics([np.nan], [True]), "lie between 0 and 1"),
        (lambda: relevance_metrics([0.5], [True], bins=0), "bins must be at least 1"),
        (lambda: abstention([0.5], [0.5], threshold=math.nan), "threshold of a result is NaN"),
        (lambda: abstention([], [0.5], threshold=0.5), "no answerable queries"),
        (lambda: abstention([0.5], [np.nan], threshold=0.5), "off-topic queries must be a row of numbers"),
    ],
)
def test_relevance_that_cannot_be_measured_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        call()


def test_abstention_counts_both_kinds_of_queries() -> None:
    metrics = abstention([0.9, 0.5, 0.4, 0.8], [0.1, 0.5, -np.inf], threshold=0.5)
    assert metrics.answered.estimate == 0.75
    assert metrics.false_hits.estimate == pytest.approx(1 / 3)
    assert metrics.as_dict()["threshold"] == 0.5
