"""Every strength and every row held out from one decomposition are the same as by refits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SlowRidge

from chiasm.alignment.ridge import Spectrum, fit_ridge
from chiasm.errors import LabelError

STRENGTHS = (10.0, 1.0, 0.1, 0.001)


def planted(rows: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, dim)) + 3
    return X, X @ rng.normal(size=dim) / np.sqrt(dim) + 0.3 * rng.normal(size=rows) - 50


def slow_errors(X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared held-out error by strength, and the held-out predictions at the best."""
    held = np.empty((len(STRENGTHS), len(y)))
    for number, strength in enumerate(STRENGTHS):
        for group in np.unique(groups):
            out = groups == group
            held[number, out] = SlowRidge(alpha=strength).fit(X[~out], y[~out]).predict(X[out])
    errors = np.square(held - y).mean(axis=1)
    return errors, held[errors.argmin()]


@pytest.mark.parametrize(("rows", "dim"), [(40, 12), (15, 60)])
@pytest.mark.parametrize("grouped", [False, True])
def test_held_out_predictions_are_those_of_refits(rows: int, dim: int, grouped: bool) -> None:
    X, y = planted(rows, dim)
    groups = np.random.default_rng(1).integers(6, size=rows) if grouped else np.arange(rows)
    found = fit_ridge(X, y, groups=groups if grouped else None, strengths=STRENGTHS)
    errors, held = slow_errors(X, y, groups)
    np.testing.assert_allclose(found.errors, errors, rtol=1e-6)
    np.testing.assert_allclose(found.held_out, held, rtol=1e-6)
    assert found.strength == STRENGTHS[int(errors.argmin())]


@pytest.mark.parametrize(("rows", "dim"), [(40, 12), (15, 60)])
def test_the_fit_is_that_of_all_rows(rows: int, dim: int) -> None:
    X, y = planted(rows, dim)
    found = fit_ridge(X, y)
    slow = SlowRidge(alpha=found.strength).fit(X, y)
    np.testing.assert_allclose(found.coef, slow.coef_, rtol=1e-4, atol=1e-8)
    assert found.intercept == pytest.approx(slow.intercept_, rel=1e-6)
    assert found.strengths[0] > found.strength > found.strengths[-1]  # the best lies within the path


def test_noise_gives_the_mean() -> None:
    X, _ = planted(60, 20)
    y = np.random.default_rng(5).normal(size=60) + 7
    found = fit_ridge(X, y)
    assert np.square(y - found.held_out).mean() < 1.1 * y.var()
    assert (X @ found.coef + found.intercept).mean() == pytest.approx(y.mean())


def test_one_group_cannot_be_held_out() -> None:
    X, y = planted(20, 5)
    found = fit_ridge(X, y, groups=np.zeros(20, dtype=np.int64))
    assert np.isnan(found.held_out).all()
    assert np.isnan(found.errors).all()
    assert len(found.strengths) == 1
    assert np.corrcoef(X @ found.coef, y)[0, 1] > 0.8


def test_coordinates_are_orthogonal_and_lead_back() -> None:
    for rows, dim in ((30, 8), (8, 30)):
        X, _ = planted(rows, dim)
        spectrum = Spectrum.of(X)
        assert spectrum.rows.shape[1] == min(dim, rows - 1)
        np.testing.assert_allclose(spectrum.rows.T @ spectrum.rows, np.diag(spectrum.energy), atol=1e-9)
        np.testing.assert_allclose(spectrum.mean + spectrum.rows @ spectrum.back.T, X, atol=1e-9)


def test_rows_that_are_all_the_same_predict_the_mean() -> None:
    y = np.array([1.0, 2.0, 3.0, 6.0])
    found = fit_ridge(np.ones((4, 3), dtype=np.float32), y)
    assert found.coef.tolist() == [0, 0, 0]
    assert found.intercept == pytest.approx(3)
    np.testing.assert_allclose(found.held_out, [(12 - number) / 3 for number in y])


def test_bad_input_is_named() -> None:
    X, y = planted(5, 2)
    with pytest.raises(LabelError, match="at least 2 items with a number; got 1"):
        fit_ridge(X[:1], y[:1])
    with pytest.raises(LabelError, match=r"finite values above 0; got \(0.0,\)"):
        fit_ridge(X, y, strengths=(0.0,))
