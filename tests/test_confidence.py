"""Calibration removes a planted miscalibration; conformal sets hold the true class as often as asked."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import (
    FEWEST_HELD_OUT,
    Calibration,
    ConformalScores,
    ConformalSets,
    calibrate,
    fit_calibration,
    fit_conformal_sets,
)
from chiasm.splits import deal
from chiasm.vectors import expected_calibration_error, log_softmax, softmax


def drawn(items: int, classes: int, *, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw classes from known probabilities; return these probabilities' logarithms made `sharpness` times sharper."""
    rng = np.random.default_rng(seed)
    truth = log_softmax(2 * rng.normal(size=(items, classes)))
    codes = (np.exp(truth).cumsum(axis=1) > rng.random((items, 1))).argmax(axis=1)
    return log_softmax(sharpness * truth), codes


def ece(probabilities: np.ndarray, codes: np.ndarray) -> float:
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == codes)


# --------------------------------------------------------------------------------------------------------- calibration


@pytest.mark.parametrize("sharpness", [0.4, 3.0])
def test_planted_temperature_is_recovered(sharpness: float) -> None:
    fitted = fit_calibration(*drawn(2000, 5, sharpness=sharpness))
    assert fitted.temperature == pytest.approx(sharpness, rel=0.1)
    assert fitted.ece_after < 0.05 < 0.1 < fitted.ece_before
    logs, codes = drawn(2000, 5, sharpness=sharpness, seed=1)
    assert ece(fitted.apply(logs), codes) < 0.04


def test_temperature_is_the_best_of_all_tried_slowly() -> None:
    logs, codes = drawn(40, 3, sharpness=2)
    tried = np.exp(np.linspace(np.log(0.05), np.log(20), 20_001))
    objective = [-log_softmax(logs / t)[np.arange(40), codes].sum() + np.log(t) ** 2 / 2 for t in tried]
    assert fit_calibration(logs, codes).temperature == pytest.approx(tried[int(np.argmin(objective))], rel=1e-3)


def test_few_items_all_right_do_not_make_certain() -> None:
    logs = np.log(np.full((8, 2), [0.8, 0.2]))
    assert 0.3 < fit_calibration(logs, np.zeros(8, dtype=int)).temperature < 0.9


def test_probabilities_stay_as_they_are_where_no_temperature_helps() -> None:
    fits = [fit_calibration(*drawn(300, 4, seed=seed)) for seed in range(10)]
    untouched = [fitted for fitted in fits if fitted.temperature == 1]
    assert len(untouched) >= 3
    logs, _ = drawn(20, 4, seed=9)
    for fitted in untouched:
        assert fitted.ece_after == fitted.ece_before
        np.testing.assert_allclose(fitted.apply(logs), np.exp(logs))


def test_errors_are_measured_on_rows_that_were_not_fitted_on() -> None:
    logs, codes = drawn(90, 4, sharpness=2)
    fold = deal(codes, 3, seed=7)
    slow = np.empty_like(logs)
    for k in range(3):
        slow[fold == k] = fit_calibration(logs[fold != k], codes[fold != k]).apply(logs[fold == k])
    fitted = fit_calibration(logs, codes, folds=3, seed=7)
    assert fitted.ece_after == pytest.approx(ece(slow, codes))
    assert fitted.ece_before == pytest.approx(ece(np.exp(logs), codes))
    assert fitted.ece_after != pytest.approx(ece(fitted.apply(logs), codes))


def test_groups_stay_together_in_the_cross_fitting() -> None:
    logs, codes = drawn(60, 3, sharpness=3)
    group = np.arange(60) // 6
    fold = deal(codes, 5, seed=0, groups=group)
    slow = np.empty_like(logs)
    for k in range(5):
        learn = fold != k
        slow[~learn] = softmax(
            logs[~learn] / fit_calibration(logs[learn], codes[learn], groups=group[learn]).temperature
        )
    assert fit_calibration(logs, codes, groups=group).ece_after == pytest.approx(ece(slow, codes))


def test_class_that_the_model_does_not_know_stays_impossible() -> None:
    logs, codes = drawn(200, 4, sharpness=2)
    logs[:30, 3] = -np.inf
    codes[:5] = 3
    fitted = fit_calibration(logs, codes)
    assert 1 < fitted.temperature < 4, "items whose class is impossible do not count"
    probabilities = fitted.apply(logs)
    assert (probabilities[:30, 3] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@given(data=st.data(), classes=st.integers(2, 5))
@settings(max_examples=60, deadline=None)
def test_rows_are_probabilities_whatever_comes(data: st.DataObject, classes: int) -> None:
    fitted = fit_calibration(*drawn(30, classes, sharpness=3))
    number = st.one_of(st.floats(-1e300, 1e300), st.floats(-5, 0), st.just(-np.inf))
    row = data.draw(st.lists(number, min_size=classes, max_size=classes).filter(lambda r: max(r) > -np.inf))
    probabilities = fitted.apply(np.array([row]))[0]
    assert probabilities.sum() == pytest.approx(1)
    assert (probabilities[np.isneginf(row)] == 0).all()
    assert (np.diff(probabilities[np.argsort(row)]) >= 0).all(), "the order stays"


# ----------------------------------------------------------------------------------------------------------- conformal


def evidence(items: int, classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Items of shares that fall from class to class, and probabilities from noisy, overconfident evidence."""
    share = 1 / (1 + np.arange(classes))
    codes = rng.choice(classes, size=items, p=share / share.sum())
    logits = 1.5 * rng.normal(size=(items, classes))
    logits[np.arange(items), codes] += 2.5
    return softmax(2 * logits), codes


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_sets_cover_as_often_as_asked(level: float) -> None:
    rng = np.random.default_rng(0)
    coverage: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(60):
        fitted = fit_conformal_sets(*evidence(150, 6, rng))
        probabilities, codes = evidence(150, 6, rng)
        for allow_empty, shares in coverage.items():
            sets = fitted.sets(probabilities, level=level, allow_empty=allow_empty)
            shares.append(sets[np.arange(150), codes].mean())
            assert allow_empty or sets[np.arange(150), probabilities.argmax(axis=1)].all()
    assert abs(np.mean(coverage[True]) - level) < 0.02
    assert np.mean(coverage[True]) <= np.mean(coverage[False]) <= level + 0.02


def test_sets_are_the_classes_above_a_probability() -> None:
    held_out, codes = evidence(30, 4, np.random.default_rng(5))
    fitted = fit_conformal_sets(held_out, codes)
    np.testing.assert_allclose(fitted.held_out.kept, sorted(1 - held_out[np.arange(30), codes]))
    limit = sorted(1 - held_out[np.arange(30), codes])[24]  # the 25th of 30: ceil(31 * 0.8)
    np.testing.assert_array_equal(fitted.sets(held_out, level=0.8, allow_empty=True), 1 - held_out <= limit)


@given(count=st.integers(1, 60), percent=st.integers(1, 99))
@settings(deadline=None)
def test_quantile_is_the_score_of_the_finite_sample_rank(count: int, percent: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    rank = -(-(count + 1) * percent // 100)  # in whole numbers
    expected = sorted(scores)[rank - 1] if rank <= count else math.inf
    assert ConformalScores.of(scores).quantile(percent / 100) == expected


def test_too_few_items_for_a_level_put_all_classes_in() -> None:
    probabilities, codes = evidence(9, 3, np.random.default_rng(7))
    assert fit_conformal_sets(probabilities[:8], codes[:8]).sets(probabilities, level=0.9).all()
    assert not fit_conformal_sets(probabilities, codes).sets(probabilities, level=0.9).all()


def test_p_values_count_the_stranger_ones() -> None:
    rng = np.random.default_rng(8)
    scores, new = rng.integers(10, size=40).astype(float), rng.integers(-2, 12, size=30).astype(float)
    slow = [(1 + sum(s >= x for s in scores)) / 41 for x in new]
    np.testing.assert_allclose(ConformalScores.of(scores).p_values(new), slow)


def test_thinned_scores_never_promise_too_much() -> None:
    scores = np.random.default_rng(9).normal(size=25_000)
    thin = ConformalScores.of(scores)
    assert (len(thin.kept), thin.count, thin.kept[-1]) == (10_000, 25_000, scores.max())
    ordered = np.sort(scores)
    for level in np.linspace(0.01, 0.9999, 200):
        exact = ordered[math.ceil(25_001 * level) - 1]
        near = thin.kept[np.searchsorted(thin.kept, exact)]  # the next that was kept
        assert thin.quantile(float(level)) == near
    new = np.random.default_rng(10).normal(size=500)
    slow = (1 + 25_000 - np.searchsorted(ordered, new)) / 25_001
    assert (thin.p_values(new) >= slow).all()
    assert (thin.p_values(new) - slow).max() <= 3 / 25_001


# ------------------------------------------------------------------------------------------------------------ together


def test_both_are_fitted_to_the_items_that_were_held_out() -> None:
    logs, codes = drawn(60, 4, sharpness=3)
    logs[:10] = np.nan  # never held out
    logs[np.arange(10, 15), codes[10:15]] = -np.inf  # their class could not be known
    fit = calibrate(logs, codes, None, seed=2)
    assert fit is not None
    calibration, sets = fit
    assert calibration == fit_calibration(logs[15:], codes[15:], seed=2)
    expected = fit_conformal_sets(calibration.apply(logs[15:]), codes[15:])
    np.testing.assert_array_equal(sets.held_out.kept, expected.held_out.kept)


@pytest.mark.parametrize("change", ["few", "one class", "one group"])
def test_nothing_is_promised_from_too_little(change: str) -> None:
    logs, codes = drawn(FEWEST_HELD_OUT, 3)
    groups = np.arange(FEWEST_HELD_OUT)
    if change == "few":
        logs[0] = np.nan
    elif change == "one class":
        codes = np.zeros_like(codes)
    else:
        groups = np.zeros_like(groups)
    assert calibrate(logs, codes, groups, seed=0) is None


def test_saved_and_read_again_they_are_the_same() -> None:
    logs, codes = drawn(100, 4, sharpness=2)
    fitted = fit_calibration(logs, codes)
    again = Calibration.from_fields(json.loads(json.dumps(fitted.as_fields())))
    assert again == fitted
    np.testing.assert_array_equal(again.apply(logs), fitted.apply(logs))
    sets = fit_conformal_sets(fitted.apply(logs), codes)
    arrays, fields = load(save(sets.as_arrays())), json.loads(json.dumps(sets.as_fields()))
    same = ConformalSets.from_arrays(arrays, fields)
    for level in (0.5, 0.9, 0.99):
        np.testing.assert_array_equal(
            same.sets(fitted.apply(logs), level=level), sets.sets(fitted.apply(logs), level=level)
        )


@pytest.mark.parametrize(
    "change", [{"temperature": 0.0}, {"temperature": "hot"}, {"classes": 1}, {"surprise": 1}], ids=str
)
def test_damaged_calibration_is_refused(change: dict[str, Any]) -> None:
    fields = fit_calibration(*drawn(100, 4)).as_fields()
    with pytest.raises(ChiasmError, match="not saved calibration"):
        Calibration.from_fields(fields | change)


@pytest.mark.parametrize(
    ("fields", "arrays", "term"),
    [
        ({"items": 7}, {}, "kept of 7"),
        ({"items": None}, {}, "TypeError"),
        ({}, {"scores": np.array([2.0, 1.0])}, "rising"),
        ({}, {"scores": np.array([np.nan])}, "finite"),
    ],
)
def test_damaged_sets_are_refused(fields: dict[str, Any], arrays: dict[str, np.ndarray], term: str) -> None:
    fitted = fit_conformal_sets(*evidence(60, 2, np.random.default_rng(11)))
    with pytest.raises(ChiasmError, match=f"not saved conformal sets.*{term}"):
        ConformalSets.from_arrays(fitted.as_arrays() | arrays, fitted.as_fields() | fields)
    with pytest.raises(ChiasmError, match="KeyError"):
        ConformalSets.from_arrays({}, fitted.as_fields())


# ----------------------------------------------------------------------------------------------------------- bad input

LOGS, CODES = drawn(20, 3)
P = np.exp(LOGS)


def changed(array: np.ndarray, row: Any, value: float) -> np.ndarray:
    copy = array.copy()
    copy[row] = value
    return copy


@pytest.mark.parametrize(
    ("logs", "codes", "options", "error", "term"),
    [
        (changed(LOGS, (7, 1), np.nan), CODES, {}, ChiasmError, "first row 7"),
        (changed(LOGS, 4, -np.inf), CODES, {}, ChiasmError, "minus infinity for every class, first row 4"),
        (LOGS[0], CODES, {}, ChiasmError, "matrix of numbers"),
        (LOGS, CODES[:5], {}, LabelError, "codes must be 20 whole numbers"),
        (LOGS, CODES + 0.5, {}, LabelError, "whole numbers"),
        (LOGS, CODES + 3, {}, LabelError, "from 0 to 2; 20 are not"),
        (LOGS[:0], CODES[:0], {}, LabelError, "got 0 held-out items"),
        (LOGS, CODES, {"groups": ["a"] * 20}, LabelError, "got 1 held-out groups"),
        (LOGS, CODES, {"folds": 1}, LabelError, "at least 2 folds"),
        (LOGS[:, :1], 0 * CODES, {}, LabelError, "one class only"),
        (changed(LOGS, np.eye(3, dtype=bool)[CODES], -np.inf), CODES, {}, LabelError, "has probability 0"),
    ],
)
def test_calibration_refuses_bad_input(
    logs: np.ndarray, codes: np.ndarray, options: dict[str, Any], error: type[Exception], term: str
) -> None:
    with pytest.raises(error, match=term):
        fit_calibration(logs, codes, **options)


@pytest.mark.parametrize(
    ("probabilities", "codes", "error", "term"),
    [
        (changed(P, (3, 0), np.nan), CODES, ChiasmError, "first row 3"),
        (LOGS, CODES, ChiasmError, "20 of 20 rows are no probabilities .* not logits"),
        (2 * P, CODES, ChiasmError, "with sum 1"),
        (P[0], CODES, ChiasmError, "matrix of numbers"),
        (P, CODES[:3], LabelError, "codes must be 20 whole numbers"),
        (P[:0], CODES[:0], LabelError, "there are no held-out items"),
        (np.ones((20, 1)), 0 * CODES, LabelError, "one class only"),
    ],
)
def test_sets_refuse_bad_input(probabilities: np.ndarray, codes: np.ndarray, error: type[Exception], term: str) -> None:
    with pytest.raises(error, match=term):
        fit_conformal_sets(probabilities, codes)


def test_applying_refuses_other_classes_levels_and_scores() -> None:
    calibration, sets = fit_calibration(LOGS, CODES), fit_conformal_sets(P, CODES)
    with pytest.raises(ChiasmError, match="3 columns"):
        calibration.apply(LOGS[:, :2])
    with pytest.raises(ChiasmError, match="3 columns"):
        sets.sets(P[:, :2])
    for level in (0.0, 1.0, -0.5, 90, math.nan):
        with pytest.raises(ChiasmError, match="level must be between 0 and 1"):
            sets.sets(P, level=level)
    with pytest.raises(ChiasmError, match="NaN or infinite"):
        sets.held_out.p_values(np.array([0.0, np.inf]))
    with pytest.raises(ChiasmError, match="one number an item"):
        ConformalScores.of(np.zeros((2, 2)))
    assert calibration.apply(LOGS[:0]).shape == sets.sets(P[:0]).shape == (0, 3)


def test_predicting_needs_numpy_alone() -> None:
    code = (
        "import sys\n"
        "import chiasm.recognition.confidence, chiasm.recognition.new_classes, chiasm.recognition.unknown\n"
        "print({'scipy', 'sklearn', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
