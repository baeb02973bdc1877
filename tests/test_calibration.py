"""Calibration finds the planted miscalibration, and what it reports was not measured on what it learned from."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.calibration import Calibration, expected_calibration_error, fit_calibration
from chiasm.splits import deal

METHODS: list[Any] = ["temperature", "isotonic", "none"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def drawn(items: int, classes: int, *, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True classes drawn from known probabilities, and these probabilities' logarithms made `sharpness` times sharper."""
    rng = np.random.default_rng(seed)
    truth = log_softmax(2 * rng.normal(size=(items, classes)))
    codes = (np.exp(truth).cumsum(axis=1) > rng.random((items, 1))).argmax(axis=1)
    return log_softmax(sharpness * truth), codes


def slow_ece(probabilities: np.ndarray, codes: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        of_bin = [i for i, p in enumerate(probabilities) if b / bins < p.max() <= (b + 1) / bins]
        if of_bin:
            confidence = np.mean([probabilities[i].max() for i in of_bin])
            right = np.mean([probabilities[i].argmax() == codes[i] for i in of_bin])
            total += len(of_bin) / len(codes) * abs(confidence - right)
    return total


def test_ece_is_the_mean_gap_of_the_bins() -> None:
    logs, codes = drawn(300, 4, sharpness=2)
    assert expected_calibration_error(np.exp(logs), codes, bins=10) == pytest.approx(slow_ece(np.exp(logs), codes, 10))
    certain = np.eye(3)[[0, 1, 2, 2]]
    assert expected_calibration_error(certain, np.array([0, 1, 2, 2])) == 0
    assert expected_calibration_error(certain, np.array([0, 1, 2, 0])) == 0.25


@pytest.mark.parametrize("sharpness", [0.4, 3.0])
def test_planted_temperature_is_found(sharpness: float) -> None:
    logs, codes = drawn(2000, 5, sharpness=sharpness)
    fitted = fit_calibration(logs, codes, method="temperature")
    assert fitted.temperature == pytest.approx(sharpness, rel=0.1)
    assert fitted.ece_before > 0.1
    assert fitted.ece_after < 0.05
    fresh, fresh_codes = drawn(2000, 5, sharpness=sharpness, seed=1)
    assert expected_calibration_error(fitted.apply(fresh), fresh_codes) < 0.04


def test_temperature_is_the_best_of_all_tried_slowly() -> None:
    logs, codes = drawn(40, 3, sharpness=2)
    tried = np.exp(np.linspace(np.log(0.05), np.log(20), 20_001))
    objective = [-log_softmax(logs / t)[np.arange(40), codes].sum() + np.log(t) ** 2 / 2 for t in tried]
    fitted = fit_calibration(logs, codes, method="temperature")
    assert fitted.temperature == pytest.approx(tried[int(np.argmin(objective))], rel=1e-3)


def test_few_items_all_right_do_not_make_certain() -> None:
    logs = np.log(np.full((8, 2), [0.8, 0.2]))
    fitted = fit_calibration(logs, np.zeros(8, dtype=int), method="temperature")
    assert fitted.temperature is not None
    assert 0.3 < fitted.temperature < 0.9


def test_nothing_is_chosen_where_nothing_helps() -> None:
    chosen = [fit_calibration(*drawn(300, 4, seed=seed)).method for seed in range(10)]
    assert "isotonic" not in chosen
    assert chosen.count("none") >= 3
    fitted = fit_calibration(*drawn(300, 4), method="none")
    assert fitted.ece_before == fitted.ece_after
    logs, _ = drawn(20, 4, seed=9)
    np.testing.assert_allclose(fitted.apply(logs), np.exp(logs))


def test_temperature_is_chosen_where_it_is_the_truth() -> None:
    fitted = fit_calibration(*drawn(1000, 6, sharpness=2.5))
    assert fitted.method == "temperature"
    assert fitted.ece_after <= 0.05 < fitted.ece_before
    assert fitted.log_losses["temperature"] < fitted.log_losses["none"]


def bent(items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes with a probability that no temperature mends: the model says p where the truth is a step."""
    rng = np.random.default_rng(seed)
    p = rng.random(items) * 0.98 + 0.01
    codes = (rng.random(items) < np.where(p > 0.8, 0.9, 0.1)).astype(int)
    return np.log(np.stack([1 - p, p], axis=1)), codes


def test_isotonic_is_chosen_where_no_temperature_will_do() -> None:
    fitted = fit_calibration(*bent(1500))
    assert fitted.method == "isotonic"
    assert fitted.temperature is None
    assert fitted.ece_after < 0.05 < fitted.ece_before
    logs, codes = bent(1500, seed=1)
    assert expected_calibration_error(fitted.apply(logs), codes) < 0.05
    step = fitted.apply(np.log([[0.5, 0.5], [0.05, 0.95]]))
    np.testing.assert_allclose(step[:, 1], [0.1, 0.9], atol=0.05)


def test_isotonic_has_to_win_by_more_than_chance() -> None:
    fitted = [fit_calibration(*bent(40, seed=seed)) for seed in range(20)]
    ahead = [f for f in fitted if f.log_losses["isotonic"] < min(f.log_losses["none"], f.log_losses["temperature"])]
    assert any(f.method != "isotonic" for f in ahead)
    assert all(f in ahead for f in fitted if f.method == "isotonic")


def test_isotonic_is_scikit_learns_curve_smoothed_by_one_item() -> None:
    from sklearn.isotonic import IsotonicRegression

    logs, codes = drawn(200, 3, sharpness=2)
    fitted = fit_calibration(logs, codes, method="isotonic")
    new, _ = drawn(50, 3, seed=5)
    expected = np.empty((50, 3))
    for k in range(3):
        curve = IsotonicRegression(out_of_bounds="clip").fit(np.exp(logs[:, k]), codes == k)
        expected[:, k] = (200 * curve.predict(np.exp(new[:, k])) + 1 / 3) / 201
    np.testing.assert_allclose(fitted.apply(new), expected / expected.sum(axis=1, keepdims=True), rtol=1e-9)


def test_class_without_held_out_items_keeps_its_probability() -> None:
    logs, codes = drawn(300, 3, sharpness=2)
    kept = codes != 2
    fitted = fit_calibration(logs[kept], codes[kept], method="isotonic")
    assert fitted.apply(np.log([[0.02, 0.03, 0.95]]))[0, 2] > 0.6
    assert fitted.apply(np.log([[0.05, 0.90, 0.05]]))[0, 2] < 0.1


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_report_is_of_rows_that_were_not_fitted_on(method: Any) -> None:
    logs, codes = drawn(90, 4, sharpness=2)
    fold = deal(codes, 3, seed=7)
    slow = np.empty_like(logs)
    for k in range(3):
        slow[fold == k] = fit_calibration(logs[fold != k], codes[fold != k], method=method).apply(logs[fold == k])
    fitted = fit_calibration(logs, codes, method=method, folds=3, seed=7)
    assert fitted.ece_after == pytest.approx(expected_calibration_error(slow, codes))
    assert fitted.ece_before == pytest.approx(expected_calibration_error(np.exp(logs), codes))
    assert fitted.log_losses[method] == pytest.approx(-np.log(slow[np.arange(90), codes]).mean())
    assert fitted.log_losses[method] != pytest.approx(-np.log(fitted.apply(logs)[np.arange(90), codes]).mean())


def test_groups_stay_together_in_the_cross_fitting() -> None:
    """Every item five times: without groups isotonic learns the copies by heart."""
    rng = np.random.default_rng(1)
    logs, codes = log_softmax(rng.normal(size=(40, 2))), rng.integers(2, size=40)
    group = np.repeat(np.arange(40), 5)
    loose = fit_calibration(logs[group], codes[group], method="isotonic")
    held = fit_calibration(logs[group], codes[group], method="isotonic", groups=group)
    assert held.log_losses["isotonic"] > loose.log_losses["isotonic"] + 0.1
    assert held.log_losses["none"] == pytest.approx(loose.log_losses["none"])


def test_class_that_the_model_does_not_know_stays_impossible() -> None:
    logs, codes = drawn(200, 4, sharpness=2)
    logs[:30, 3] = -np.inf
    codes[:5] = 3
    for method in (*METHODS, "auto"):
        fitted = fit_calibration(logs, codes, method=method)
        assert fitted.impossible == int((codes[:30] == 3).sum()) >= 5
        probabilities = fitted.apply(logs)
        assert (probabilities[:30, 3] == 0).all()
        assert np.isfinite(list(fitted.log_losses.values())).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1)


@given(data=st.data(), classes=st.integers(2, 5), method=st.sampled_from(METHODS))
@settings(max_examples=60, deadline=None)
def test_rows_are_probabilities_whatever_comes(data: st.DataObject, classes: int, method: Any) -> None:
    fitted = fit_calibration(*drawn(30, classes, sharpness=3), method=method)
    number = st.one_of(st.floats(-1e308, 1e308), st.floats(-5, 0), st.just(-np.inf))
    row = data.draw(st.lists(number, min_size=classes, max_size=classes).filter(lambda r: max(r) > -np.inf))
    probabilities = fitted.apply(np.array([row]))[0]
    assert probabilities.sum() == pytest.approx(1)
    np.testing.assert_array_equal(probabilities > 0, ~np.isneginf(row))


def test_temperature_keeps_the_order() -> None:
    logs, codes = drawn(200, 5, sharpness=4)
    fitted = fit_calibration(logs, codes, method="temperature")
    np.testing.assert_array_equal(np.argsort(fitted.apply(logs)), np.argsort(logs))


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_read_again_it_is_the_same(method: Any) -> None:
    logs, codes = drawn(100, 4, sharpness=2)
    fitted = fit_calibration(logs, codes, method=method)
    arrays, fields = load(save(fitted.as_arrays())), json.loads(json.dumps(fitted.as_fields()))
    again = Calibration.from_arrays(arrays, fields)
    np.testing.assert_array_equal(again.apply(logs), fitted.apply(logs))
    assert again.as_fields() == fitted.as_fields()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "magic"}, "magic"),
        ({"temperature": 0.0, "method": "temperature"}, "temperature 0.0"),
        ({"classes": 5}, "5 classes"),
        ({"items": "many"}, "many"),
        ({"log_losses": None}, "AttributeError"),
    ],
)
def test_damage_is_named(change: dict[str, Any], message: str) -> None:
    fitted = fit_calibration(*drawn(100, 4), method="isotonic")
    with pytest.raises(ChiasmError, match=f"not saved calibration.*{message}"):
        Calibration.from_arrays(fitted.as_arrays(), fitted.as_fields() | change)
    with pytest.raises(ChiasmError, match=r"not saved calibration.*KeyError"):
        Calibration.from_arrays({}, fitted.as_fields())


@pytest.mark.parametrize("name", ["at", "share"])
def test_damaged_curves_are_refused(name: str) -> None:
    fitted = fit_calibration(*drawn(100, 4), method="isotonic")
    arrays = fitted.as_arrays()
    for values, message in (
        (arrays[name][::-1], "rise"),
        (arrays[name] + np.nan, "0 to 1"),
        (arrays[name][1:], "knots"),
    ):
        with pytest.raises(ChiasmError, match=message):
            Calibration.from_arrays(arrays | {name: values}, fitted.as_fields())


LOGS, CODES = drawn(20, 3)
WITH_NAN, WITHOUT_ANY = LOGS.copy(), LOGS.copy()
WITH_NAN[7, 1] = np.nan
WITHOUT_ANY[4] = -np.inf
IMPOSSIBLE = np.where(np.eye(3, dtype=bool)[CODES], -np.inf, LOGS)


@pytest.mark.parametrize(
    ("logs", "codes", "options", "error", "message"),
    [
        (WITH_NAN, CODES, {}, ChiasmError, "1 of 20 rows of log-probabilities hold NaN or plus infinity, first row 7"),
        (WITHOUT_ANY, CODES, {}, ChiasmError, "minus infinity for every class, first row 4"),
        (LOGS[0], CODES, {}, ChiasmError, r"matrix of floats with one column a class; got float64 \(3,\)"),
        (LOGS.astype(int), CODES, {}, ChiasmError, "got int64"),
        (LOGS, CODES[:5], {}, LabelError, r"codes must be 20 whole numbers, one an item; got int64 \(5,\)"),
        (LOGS, CODES + 0.5, {}, LabelError, "whole numbers"),
        (LOGS, CODES + 3, {}, LabelError, "class numbers from 0 to 2; 20 are not"),
        (LOGS[:0], CODES[:0], {}, LabelError, "got 0 held-out items: at least 2 are needed"),
        (LOGS, CODES, {"groups": ["a"] * 20}, LabelError, "got 1 held-out groups"),
        (LOGS, CODES, {"groups": ["a"] * 3}, LabelError, "20 rows but 3 groups"),
        (LOGS, CODES, {"folds": 1}, LabelError, "at least 2 folds"),
        (LOGS[:, :1], 0 * CODES, {}, LabelError, "one class only"),
        (
            LOGS,
            CODES,
            {"method": "platt"},
            ChiasmError,
            "no calibration 'platt': take auto, none, temperature, isotonic",
        ),
        (IMPOSSIBLE, CODES, {}, LabelError, "each of the 20 held-out items has probability 0"),
    ],
)
def test_bad_input_is_named(
    logs: np.ndarray, codes: np.ndarray, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_calibration(logs, codes, **options)


def test_applying_refuses_what_it_cannot_use() -> None:
    fitted = fit_calibration(LOGS, CODES)
    with pytest.raises(ChiasmError, match=r"3 columns, one a class; got float64 \(20, 2\)"):
        fitted.apply(LOGS[:, :2])
    with pytest.raises(ChiasmError, match="hold NaN"):
        fitted.apply(WITH_NAN)
    assert fitted.apply(LOGS[:0]).shape == (0, 3)
    with pytest.raises(ChiasmError, match="no probabilities"):
        expected_calibration_error(LOGS, CODES)
    with pytest.raises(ChiasmError, match="bins must be at least 1; got 0"):
        expected_calibration_error(np.exp(LOGS), CODES, bins=0)
    with pytest.raises(LabelError, match="no items"):
        expected_calibration_error(np.exp(LOGS[:0]), CODES[:0])


def test_predicting_needs_numpy_alone() -> None:
    code = (
        "import sys\n"
        "import chiasm.recognition.conformal, chiasm.recognition.extension, chiasm.recognition.open_world\n"
        "print({'scipy', 'sklearn', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
