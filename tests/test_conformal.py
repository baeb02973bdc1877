"""Conformal sets hold the true class as often as asked, whatever the probabilities are worth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import conformal
from chiasm.recognition.conformal import ConformalScores, ConformalSets, fit_conformal_sets

METHODS: list[Any] = ["lac", "aps"]


def drawn(items: int, classes: int, rng: np.random.Generator, *, hard: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Items of shares that fall from class to class, and probabilities from noisy, overconfident evidence.

    The evidence of the last class is weakened by `hard`.
    """
    share = 1 / (1 + np.arange(classes))
    codes = rng.choice(classes, size=items, p=share / share.sum())
    evidence = 1.5 * rng.normal(size=(items, classes))
    evidence[np.arange(items), codes] += 2.5 - hard * (codes == classes - 1)
    exponentials = np.exp(2 * (evidence - evidence.max(axis=1, keepdims=True)))
    return exponentials / exponentials.sum(axis=1, keepdims=True), codes


def holds(sets: np.ndarray, codes: np.ndarray) -> np.ndarray:
    held: np.ndarray = sets[np.arange(len(codes)), codes]
    return held


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_cover_as_often_as_asked(method: Any, level: float) -> None:
    rng = np.random.default_rng(0)
    covered = []
    for seed in range(60):
        fitted = fit_conformal_sets(*drawn(150, 6, rng), method=method, seed=seed)
        probabilities, codes = drawn(150, 6, rng)
        covered.append(holds(fitted.sets(probabilities, level=level, allow_empty=True), codes).mean())
    assert abs(np.mean(covered) - level) < 0.02


def test_sets_that_are_never_empty_still_cover_90_percent_and_not_all() -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(60):
        fitted = fit_conformal_sets(*drawn(150, 6, rng))
        probabilities, codes = drawn(150, 6, rng)
        sets = fitted.sets(probabilities)
        assert sets[np.arange(150), probabilities.argmax(axis=1)].all()
        covered.append(holds(sets, codes).mean())
    assert 0.88 <= np.mean(covered) <= 0.92


def test_least_ambiguous_sets_are_the_smaller_ones() -> None:
    rng = np.random.default_rng(2)
    held, codes = drawn(2000, 6, rng)
    new, _ = drawn(2000, 6, rng)
    lac, aps = (fit_conformal_sets(held, codes, method=method).sets(new, allow_empty=True) for method in METHODS)
    assert lac.sum() < 0.95 * aps.sum()


@pytest.mark.parametrize("method", METHODS)
def test_every_class_is_covered_where_that_was_asked(method: Any) -> None:
    rng = np.random.default_rng(3)
    marginal, own = np.zeros((40, 4)), np.zeros((40, 4))
    for draw in range(40):
        held = drawn(500, 4, rng, hard=2.0)
        probabilities, codes = drawn(1000, 4, rng, hard=2.0)
        for table, by_class in ((marginal, False), (own, True)):
            fitted = fit_conformal_sets(*held, method=method, by_class=by_class, seed=draw)
            held_in = holds(fitted.sets(probabilities, allow_empty=True), codes)
            table[draw] = [held_in[codes == k].mean() for k in range(4)]
    assert marginal.mean(axis=0)[3] < 0.8  # the hard class is short-changed by the promise on average
    assert (np.abs(own.mean(axis=0) - 0.9) < 0.025).all()


def test_class_with_few_items_falls_back() -> None:
    rng = np.random.default_rng(4)
    probabilities, codes = drawn(400, 3, rng)
    few = np.concatenate([np.flatnonzero(codes != 2), np.flatnonzero(codes == 2)[:19]])
    fitted = fit_conformal_sets(probabilities[few], codes[few], by_class=True)
    assert fitted.falls_back().tolist() == [False, False, True]
    assert fit_conformal_sets(probabilities[few], codes[few]).falls_back().all()
    # 20 items have no own quantile at 0.99, whatever the class
    assert fitted.falls_back(level=0.999).all()
    plain = fit_conformal_sets(probabilities[few], codes[few])
    new, _ = drawn(50, 3, rng)
    np.testing.assert_array_equal(fitted.sets(new, allow_empty=True)[:, 2], plain.sets(new, allow_empty=True)[:, 2])


def slow_aps(probabilities: np.ndarray, y: int, u: float) -> float:
    total = 0.0
    for k in sorted(range(len(probabilities)), key=lambda k: -probabilities[k]):
        if k == y:
            return float(total + u * probabilities[k])
        total += probabilities[k]
    raise AssertionError


def test_scores_are_those_of_the_papers() -> None:
    probabilities, codes = drawn(30, 4, np.random.default_rng(5))
    lac = fit_conformal_sets(probabilities, codes, method="lac").marginal.kept
    np.testing.assert_allclose(lac, sorted(1 - p[y] for p, y in zip(probabilities, codes, strict=True)))
    aps = fit_conformal_sets(probabilities, codes, method="aps", seed=3).marginal.kept
    u = np.random.default_rng([3, 0]).random(30)
    slow = [slow_aps(p, y, part) for p, y, part in zip(probabilities, codes, u, strict=True)]
    np.testing.assert_allclose(aps, sorted(slow))


def test_draws_are_the_same_in_every_call_and_of_the_seed() -> None:
    rng = np.random.default_rng(6)
    held, codes = drawn(100, 4, rng)
    new, _ = drawn(300, 4, rng)
    first, same, other = (fit_conformal_sets(held, codes, method="aps", seed=seed).sets(new) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    fitted = fit_conformal_sets(held, codes, method="aps")
    assert (replace(fitted, seed=1).sets(new) != fitted.sets(new)).any()


@given(count=st.integers(1, 60), percent=st.integers(1, 99))
@settings(deadline=None)
def test_quantile_is_the_score_of_the_finite_sample_rank(count: int, percent: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    held = ConformalScores.of(scores)
    rank = -(-(count + 1) * percent // 100)  # in whole numbers
    assert held.has_enough_for(percent / 100) == (rank <= count)
    assert held.quantile(percent / 100) == (sorted(scores)[rank - 1] if rank <= count else math.inf)


def test_too_few_items_for_a_level_put_all_classes_in() -> None:
    probabilities, codes = drawn(8, 3, np.random.default_rng(7))
    assert fit_conformal_sets(probabilities, codes).sets(probabilities, level=0.9).all()
    nine, nine_codes = drawn(9, 3, np.random.default_rng(7))
    assert not fit_conformal_sets(nine, nine_codes).sets(nine, level=0.9).all()


def test_p_values_count_the_stranger_ones() -> None:
    rng = np.random.default_rng(8)
    scores, new = rng.integers(10, size=40).astype(float), rng.integers(-2, 12, size=30).astype(float)
    slow = [(1 + sum(s >= x for s in scores)) / 41 for x in new]
    np.testing.assert_allclose(ConformalScores.of(scores).p_values(new), slow)


def test_thinned_scores_never_promise_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    scores, new = rng.normal(size=1234), rng.normal(size=500)
    whole = ConformalScores.of(scores)
    monkeypatch.setattr(conformal, "_MOST_SCORES", 100)
    thin = ConformalScores.of(scores)
    assert (len(thin.kept), thin.count, thin.kept[-1]) == (100, 1234, scores.max())
    ranks = np.searchsorted(whole.kept, thin.kept) + 1
    for level in np.linspace(0.01, 0.999, 300):
        exact, near = whole.quantile(float(level)), thin.quantile(float(level))
        assert near >= exact
        if math.isfinite(exact):
            above = ranks[np.searchsorted(thin.kept, exact)]  # the next that was kept
            assert near == whole.kept[above - 1]
    assert (thin.p_values(new) >= whole.p_values(new)).all()
    assert (thin.p_values(new) - whole.p_values(new)).max() <= 13 / 1235


def test_ten_thousand_scores_are_kept_of_more() -> None:
    assert len(ConformalScores.of(np.arange(25_000.0)).kept) == 10_000


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_read_again_they_are_the_same(method: Any) -> None:
    rng = np.random.default_rng(10)
    fitted = fit_conformal_sets(*drawn(200, 3, rng), method=method, by_class=True, seed=4)
    arrays, fields = load(save(fitted.as_arrays())), json.loads(json.dumps(fitted.as_fields()))
    again = ConformalSets.from_arrays(arrays, fields)
    new, _ = drawn(100, 3, rng)
    for level in (0.5, 0.9, 0.99):
        np.testing.assert_array_equal(again.sets(new, level=level), fitted.sets(new, level=level))
    assert again.as_fields() == fitted.as_fields()


@pytest.mark.parametrize(
    ("fields", "arrays", "message"),
    [
        ({"method": "raps"}, {}, "raps"),
        ({"seed": -1}, {}, "seed -1"),
        ({"classes": 1}, {}, "1 classes"),
        ({"items": 7}, {}, "are kept of 7"),
        ({"class_items": []}, {}, "AttributeError"),
        ({"class_items": {"2": 5}}, {}, "KeyError"),
        ({}, {"all": np.array([2.0, 1.0])}, "rising"),
        ({}, {"all": np.array([np.nan])}, "finite"),
    ],
)
def test_damage_is_named(fields: dict[str, Any], arrays: dict[str, np.ndarray], message: str) -> None:
    probabilities, codes = drawn(60, 2, np.random.default_rng(11))
    fitted = fit_conformal_sets(probabilities, codes, by_class=True)
    with pytest.raises(ChiasmError, match=f"not saved conformal sets.*{message}"):
        ConformalSets.from_arrays(fitted.as_arrays() | arrays, fitted.as_fields() | fields)


P, CODES = drawn(20, 3, np.random.default_rng(12))
WITH_NAN = P.copy()
WITH_NAN[3, 0] = np.nan


@pytest.mark.parametrize(
    ("probabilities", "codes", "options", "error", "message"),
    [
        (WITH_NAN, CODES, {}, ChiasmError, "1 of 20 rows are no probabilities .* first row 3"),
        (np.log(P), CODES, {}, ChiasmError, "20 of 20 rows are no probabilities .* not logits"),
        (2 * P, CODES, {}, ChiasmError, "with sum 1"),
        (P[0], CODES, {}, ChiasmError, r"probabilities must be a matrix of floats .* got float64 \(3,\)"),
        (P, CODES[:3], {}, LabelError, "codes must be 20 whole numbers"),
        (P, CODES - 1, {}, LabelError, "class numbers from 0 to 2"),
        (P[:0], CODES[:0], {}, LabelError, "there are no held-out items"),
        (np.ones((20, 1)), 0 * CODES, {}, LabelError, "sets of one class only"),
        (P, CODES, {"method": "raps"}, ChiasmError, "no conformal sets 'raps': take lac or aps"),
        (P, CODES, {"seed": -1}, ChiasmError, "seed must not be negative; got -1"),
    ],
)
def test_bad_input_is_named(
    probabilities: np.ndarray, codes: np.ndarray, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_conformal_sets(probabilities, codes, **options)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.5, 90, math.nan])
def test_level_is_a_share(level: float) -> None:
    fitted = fit_conformal_sets(P, CODES)
    with pytest.raises(ChiasmError, match=r"level must be between 0 and 1, such as 0.9; got"):
        fitted.sets(P, level=level)


def test_asking_for_sets_refuses_what_it_cannot_use() -> None:
    fitted = fit_conformal_sets(P, CODES)
    with pytest.raises(ChiasmError, match="3 columns"):
        fitted.sets(P[:, :2])
    with pytest.raises(ChiasmError, match="no probabilities"):
        fitted.sets(WITH_NAN)
    assert fitted.sets(P[:0]).shape == (0, 3)
    with pytest.raises(ChiasmError, match="1 of 2 scores are NaN or infinite, first of item 1"):
        fitted.marginal.p_values(np.array([0.0, np.inf]))
    with pytest.raises(ChiasmError, match="one number an item"):
        ConformalScores.of(np.zeros((2, 2)))
