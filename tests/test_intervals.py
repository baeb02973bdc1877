"""Intervals cover what they say, tests count signs exactly, contributions add up, forgetting is counted by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import (
    bootstrap_interval,
    mean_interval,
    paired_difference,
    wilson_interval,
)

SEEDS = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, items=st.integers(2, 30), grouped=st.booleans())
def test_the_fast_mean_is_the_mean_bootstrapped(seed: int, items: int, grouped: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=items)
    groups = [0, *(1 + rng.integers(4, size=items - 1))] if grouped else None
    slow = bootstrap_interval(lambda rows: values[rows].mean(), items, groups=groups, draws=50, seed=seed)
    fast = mean_interval(values, groups=groups, draws=50, seed=seed)
    assert fast.as_dict() == pytest.approx(slow.as_dict())
    assert fast.estimate == pytest.approx(values.mean())


def test_the_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    holds = []
    for trial in range(400):
        interval = mean_interval(rng.normal(5, 2, size=40), level=0.9, draws=500, seed=trial)
        holds.append(interval.low <= 5 <= interval.high)
    assert 0.85 <= np.mean(holds) <= 0.94


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    right = np.random.default_rng(1).random(2000) < 0.8
    interval = mean_interval(right)
    half = 1.96 * right.std() / len(right) ** 0.5
    assert interval.low == pytest.approx(right.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(right.mean() + half, abs=0.1 * half)
    assert mean_interval(right, level=0.5).high < interval.high


def test_copies_of_items_do_not_narrow_the_interval_of_groups() -> None:
    values = np.random.default_rng(2).normal(size=50)
    once, copied = mean_interval(values), np.repeat(values, 10)
    grouped = mean_interval(copied, groups=np.repeat(np.arange(50), 10))
    fooled = mean_interval(copied)
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low)
    assert fooled.high - fooled.low < 0.5 * (grouped.high - grouped.low)


def test_whole_groups_are_drawn() -> None:
    groups = np.array(["x", "y", "x", "z", "y", "x"])
    drawn: list[list[int]] = []

    def look(rows: np.ndarray) -> float:
        drawn.append(rows.tolist())
        return 0.0

    bootstrap_interval(look, 6, groups=groups, draws=30)
    assert drawn[0] == [0, 1, 2, 3, 4, 5]
    for rows in drawn[1:]:
        times = np.bincount(rows, minlength=6)
        assert len({*times[[0, 2, 5]]}) == len({*times[[1, 4]]}) == 1
        assert times[0] + times[1] + times[3] == 3


def test_resamples_without_a_value_are_left_out_and_counted() -> None:
    truth, scores = np.array([True, False, False]), np.array([0.9, 0.8, 0.1])

    def area(rows: np.ndarray) -> float:
        both = truth[rows].any() and not truth[rows].all()
        return float(roc_auc_score(truth[rows], scores[rows])) if both else math.nan

    interval = bootstrap_interval(area, 3, draws=300, seed=1)
    # Both kinds are in 1 - (2/3)^3 - (1/3)^3 of the resamples.
    assert interval.draws == pytest.approx(300 * (1 - 8 / 27 - 1 / 27), abs=30)
    assert (interval.low, interval.estimate, interval.high) == (1, 1, 1)
    with pytest.raises(LabelError, match="undefined for every resample"):
        bootstrap_interval(lambda rows: 0.0 if sorted(rows) == list(range(20)) else math.inf, 20, draws=5)


def test_many_values_are_drawn_in_batches_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = np.random.default_rng(3).normal(size=(2, 30))
    whole = mean_interval(a, draws=200), paired_difference(a, b, draws=201)
    monkeypatch.setattr("chiasm.evaluation.intervals._CELLS", 77)
    assert mean_interval(a, draws=200) == whole[0]
    batched = paired_difference(a, b, draws=201)
    assert batched.interval == whole[1].interval
    assert batched.p_value == pytest.approx(whole[1].p_value, abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([1.0]), "at least 2 values"),
        (lambda: mean_interval([1.0, 2.0], groups=["x", "x"]), "at least 2 groups"),
        (lambda: mean_interval([1.0, 2.0], groups=["x"]), "2 rows but 1 groups"),
        (lambda: mean_interval([1.0, math.nan]), "1 of 2 values are NaN"),
        (lambda: mean_interval(["a", "b"]), "row of numbers; got <U1"),
        (lambda: mean_interval([1.0, 2.0], level=95), "level must lie between 0 and 1"),
        (lambda: mean_interval([1.0, 2.0], draws=0), "draws must be at least 1"),
        (lambda: bootstrap_interval(np.mean, 1), "at least 2 items"),
        (lambda: bootstrap_interval(np.mean, 3, groups=["x"] * 3), "at least 2 groups"),
        (lambda: bootstrap_interval(lambda rows: math.nan, 3), "statistic of all 3 items is nan"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "equally many scores"),
        (lambda: paired_difference([1.0], [1.0]), "at least 2 pairs"),
        (lambda: paired_difference([1.0, 2.0], [1.0, math.nan]), "second scores are NaN"),
        (lambda: wilson_interval(0, 0), "got 0 of 0"),
        (lambda: wilson_interval(4, 3), "got 4 of 3"),
        (lambda: wilson_interval(1, 3, level=1.0), "level must lie between 0 and 1"),
    ],
)
def test_intervals_that_cannot_be_given_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        call()


@settings(deadline=None, max_examples=30)
@given(pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=8))
def test_few_pairs_try_every_sign(pairs: list[tuple[int, int]]) -> None:
    # Tenths: equal differences are equal to within rounding only.
    a, b = [pair[0] / 10 for pair in pairs], [pair[1] / 10 for pair in pairs]
    whole = [pair[0] - pair[1] for pair in pairs]
    flipped = [
        abs(sum(s * d for s, d in zip(signs, whole, strict=True))) for signs in product((-1, 1), repeat=len(pairs))
    ]
    result = paired_difference(a, b, draws=100)
    assert result.exact
    assert result.p_value == np.mean([total >= abs(sum(whole)) for total in flipped])
    assert result.mean == pytest.approx(np.mean(whole) / 10)
    assert result.standard_error == pytest.approx(np.std(whole, ddof=1) / 10 / len(whole) ** 0.5)


def test_a_difference_with_a_known_answer() -> None:
    result = paired_difference([0.7, 0.8, 0.9, 0.8, 0.9, 0.7, 0.8, 0.9, 0.8, 0.7], [0.6] * 10)
    assert result.p_value == 2 / 2**10
    assert 0 < result.interval.low < result.mean < result.interval.high
    assert result.pairs == 10
    assert paired_difference([0.3, 0.4], [0.3, 0.4]).p_value == 1
    assert json.loads(json.dumps(result.as_dict()))["interval"]["level"] == 0.95


def test_drawn_signs_come_near_to_all_signs_and_are_never_impossible() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.4, 1, size=14), np.zeros(14)
    signs = (np.arange(2**14)[:, None] >> np.arange(14) & 1) * 2 - 1
    exact = np.mean(np.abs(signs @ a) >= abs(a.sum()) - 1e-12)
    drawn = paired_difference(a, b, seed=5)
    assert not drawn.exact
    assert drawn.p_value == pytest.approx(exact, abs=0.015)
    assert drawn == paired_difference(a, b, seed=5)
    assert paired_difference(np.ones(40), np.zeros(40), draws=999).p_value == 1 / 1000


def test_models_that_are_alike_differ_as_often_as_chance_allows() -> None:
    rng = np.random.default_rng(6)
    p = [paired_difference(*rng.normal(size=(2, 8)), draws=10).p_value for _ in range(500)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (95, 200), (200, 200)])
def test_wilson_ends_are_where_the_normal_test_just_accepts(successes: int, trials: int, level: float) -> None:
    """The ends p solve |share - p| = z sqrt(p (1 - p) / n), whose roots are the interval."""
    from scipy.stats import norm

    z = norm.ppf((1 + level) / 2)
    interval = wilson_interval(successes, trials, level=level)
    share = successes / trials
    assert interval.estimate == share
    assert interval.draws == 0
    for end in (interval.low, interval.high):
        assert abs(share - end) == pytest.approx(z * math.sqrt(end * (1 - end) / trials), abs=1e-7)
    assert interval.low <= share <= interval.high
    assert interval.low < interval.high
