"""Spans are compared as counting tenths of seconds compares them, and what cannot be compared is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import mean_interval
from chiasm.evaluation.moments import Span, moment_metrics

spans = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: (min(ends), max(ends)))


def iou_by_counting(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Whole seconds in both and in either."""
    first, second = set(range(*a)), set(range(*b))
    return len(first & second) / len(first | second) if first | second else 0.0


@settings(deadline=None)
@given(spans, spans)
def test_iou_agrees_with_counting_seconds(first: tuple[int, int], second: tuple[int, int]) -> None:
    a, b = Span("f", *first), Span("f", *second)
    assert a.iou(b) == b.iou(a) == pytest.approx(iou_by_counting(first, second))
    assert a.iou(Span("another", *second)) == 0


TRUTH = {
    "a bell": [Span("one.mp4", 10, 20)],
    "a dog": [Span("one.mp4", 0, 4), Span("two.mp4", 30, 40)],
    "rain": [Span("two.mp4", 5, 6)],
}
PREDICTED = {
    "a bell": [Span("one.mp4", 12, 20), Span("one.mp4", 10, 20)],  # IoU 0.8, then 1
    "a dog": [Span("one.mp4", 30, 40), Span("two.mp4", 34, 44), Span("one.mp4", 0, 4)],  # other file, 6/14, then 1
}


def test_a_known_answer() -> None:
    metrics = moment_metrics(PREDICTED, TRUTH, ks=(2, 1, 3), thresholds=(0.5, 0.9, 0.4))
    assert metrics.queries == ("a bell", "a dog", "rain")
    assert {name: values.tolist() for name, values in metrics.values.items()} == {
        "r@1_iou@0.4": [1, 0, 0],
        "r@1_iou@0.5": [1, 0, 0],
        "r@1_iou@0.9": [0, 0, 0],
        "r@2_iou@0.4": [1, 1, 0],
        "r@2_iou@0.5": [1, 0, 0],
        "r@2_iou@0.9": [1, 0, 0],
        "r@3_iou@0.4": [1, 1, 0],
        "r@3_iou@0.5": [1, 1, 0],
        "r@3_iou@0.9": [1, 1, 0],
        "mean_iou": [pytest.approx(0.8), 0, 0],
    }
    assert metrics.as_dict()["r@3_iou@0.9"] == pytest.approx(2 / 3)
    assert metrics.as_dict()["queries"] == 3
    json.dumps(metrics.as_dict())


def test_an_overlap_of_just_the_threshold_counts() -> None:
    metrics = moment_metrics({"q": [Span("f", 0, 1)]}, {"q": [Span("f", 0, 2)]}, thresholds=(0.5,))
    assert metrics.as_dict()["r@1_iou@0.5"] == 1


def test_intervals_draw_whole_recordings() -> None:
    rng = np.random.default_rng(0)
    truth = {f"q{i}": [Span("f", 0, 10)] for i in range(40)}
    metrics = moment_metrics({q: [Span("f", 0, float(rng.uniform(1, 10)))] for q in truth}, truth)
    groups = np.repeat(np.arange(10), 4)
    found = metrics.intervals(groups=groups, seed=1)
    assert found["r@1_iou@0.5"] == mean_interval(metrics.values["r@1_iou@0.5"], groups=groups, draws=1000, seed=1)
    assert found["mean_iou"].low < metrics.as_dict()["mean_iou"] < found["mean_iou"].high


ONE = {"q": [Span("f", 0, 1)]}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Span("talk.mp4", 5, 2), r"ends before it starts: 5 to 2 in 'talk.mp4'"),
        (lambda: Span("talk.mp4", math.nan, 2), "must be finite; got nan to 2 in 'talk.mp4'"),
        (lambda: Span("talk.mp4", 0, math.inf), "must be finite; got 0 to inf in"),
        (lambda: moment_metrics({"Q": ONE["q"]}, ONE), "1 predicted queries have no truth, first 'Q': name queries"),
        (lambda: moment_metrics({}, {}), "no queries to measure on: truth is empty"),
        (lambda: moment_metrics({}, {"q": []}), "the query 'q' has no true span"),
        (lambda: moment_metrics({}, {"q": [Span("f", 1, 1)]}), "true span of 'q' at 1 in 'f' has no length"),
        (lambda: moment_metrics(ONE, ONE, ks=(0,)), r"of at least 1; got \(0,\)"),
        (lambda: moment_metrics(ONE, ONE, ks=()), "ks must be one or more"),
        (lambda: moment_metrics(ONE, ONE, thresholds=(0.5, 0)), r"above 0 and at most at 1; got \(0.5, 0\)"),
        (lambda: moment_metrics(ONE, ONE, thresholds=()), "thresholds of IoU must lie"),
    ],
)
def test_moments_that_cannot_be_measured_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        make()
