"""Labels solved side by side are the logistic regressions solved one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from chiasm.errors import LabelError
from chiasm.recognition.label_probe import fit_label_probe, sigmoid


def planted(rows: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three labels, of a half, a quarter and an eighth of the rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, dim)).astype(np.float32)
    scores = X @ rng.normal(size=(dim, 3)) / np.sqrt(dim) + 0.3 * rng.normal(size=(rows, 3))
    return X, scores > np.array([np.quantile(scores[:, k], q) for k, q in enumerate((0.5, 0.75, 0.875))])


def slow(X: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=1 / strength, tol=1e-7, max_iter=2000).fit(X.astype(np.float64), y)


@pytest.mark.parametrize(("rows", "dim"), [(120, 20), (60, 200)])
@pytest.mark.parametrize("strength", [30.0, 1.0, 0.02])
def test_each_label_is_a_logistic_regression(rows: int, dim: int, strength: float) -> None:
    X, Y = planted(rows, dim)
    found = fit_label_probe(X, Y, fold_of=np.arange(rows) % 3, strengths=(strength,))
    for label in range(3):
        one = slow(X, Y[:, label], strength)
        np.testing.assert_allclose(found.coef[label], one.coef_[0], atol=2e-3 * np.abs(one.coef_).max())
        assert found.intercept[label] == pytest.approx(one.intercept_[0], abs=2e-3 * max(1, abs(one.intercept_[0])))


def test_held_out_logits_are_those_of_refits_and_choose_the_strength() -> None:
    X, Y = planted(90, 30, seed=2)
    fold_of = np.arange(90) % 3
    fold_of[::10] = -1  # always learned from
    strengths = (100.0, 10.0, 1.0)
    found = fit_label_probe(X, Y, fold_of=fold_of, strengths=strengths)
    scores, held = [], []
    for strength in strengths:
        logits = np.full(Y.shape, np.nan)
        for fold in range(3):
            out = fold_of == fold
            for label in range(3):
                one = slow(X[~out], Y[~out, label], strength)
                logits[out, label] = one.decision_function(X[out])
        scored = fold_of >= 0
        brier = np.square(sigmoid(logits[scored]) - Y[scored]).mean(axis=0)
        scores.append((brier / (Y.mean(axis=0) * (1 - Y.mean(axis=0)))).mean())
        held.append(logits)
    np.testing.assert_allclose(found.scores, scores, rtol=0.02)
    assert found.strength == strengths[int(np.argmin(scores))]
    assert np.isnan(found.held_out[fold_of == -1]).all()
    np.testing.assert_allclose(found.held_out, held[int(np.argmin(scores))], atol=0.3)  # of up to 9


def test_unknown_labels_have_no_part() -> None:
    X, Y = planted(80, 10, seed=3)
    known = np.ones(Y.shape, dtype=bool)
    known[:30, 1] = False
    wrong = Y.copy()
    wrong[:30, 1] = ~Y[:30, 1]
    found = fit_label_probe(X, wrong, fold_of=np.arange(80) % 4, known=known, strengths=(1.0,))
    one = slow(X[30:], Y[30:, 1], 1.0)
    np.testing.assert_allclose(found.coef[1], one.coef_[0], atol=2e-3)
    assert np.isnan(found.held_out[:30, 1]).all()
    assert np.isfinite(found.held_out[30:]).all()


def test_a_fold_with_all_of_a_label_is_not_scored_for_it() -> None:
    X, Y = planted(40, 10, seed=4)
    Y[:, 2] = False
    Y[7, 2] = True
    fold_of = np.arange(40) % 4
    found = fit_label_probe(X, Y, fold_of=fold_of)
    assert np.isnan(found.held_out[fold_of == 3, 2]).all()  # row 7 is in fold 3
    assert np.isfinite(found.held_out[fold_of != 3, 2]).all()


def test_nothing_held_out_takes_a_strength_without_scores() -> None:
    X, Y = planted(40, 10)
    found = fit_label_probe(X, Y, fold_of=np.full(40, -1))
    assert np.isnan(found.scores).all()
    assert len(found.strengths) == 1
    assert np.mean((X @ found.coef.T + found.intercept > 0) == Y) > 0.9


def test_labels_of_one_row_do_not_choose_the_strength() -> None:
    X, Y = planted(40, 10, seed=4)
    rare = np.eye(40, dtype=bool)[:, :3]
    alone = fit_label_probe(X, rare, fold_of=np.arange(40) % 4)
    assert np.isnan(alone.scores).all()
    assert alone.strength == pytest.approx(1e-3 * X.astype(float).var(axis=0).sum())
    assert np.isfinite(alone.held_out[:, 0]).sum() == 30  # the fold of the one row cannot be scored
    beside = fit_label_probe(X, np.hstack([Y, rare]), fold_of=np.arange(40) % 4)
    assert beside.strength == fit_label_probe(X, Y, fold_of=np.arange(40) % 4).strength


def test_the_path_ends_where_it_gets_worse() -> None:
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(60, 30)).astype(np.float32), rng.random((60, 4)) > 0.5
    found = fit_label_probe(X, Y, fold_of=np.arange(60) % 5)
    assert len(found.strengths) < 17
    assert found.scores.min() == found.scores[list(found.strengths).index(found.strength)]


def test_bad_input_is_named() -> None:
    X, Y = planted(20, 5)
    Y[:, 1] = False
    with pytest.raises(LabelError, match="label 1: no rows have it"):
        fit_label_probe(X, Y, fold_of=np.arange(20) % 2)
    Y[:, 1] = True
    with pytest.raises(LabelError, match="label 1: all rows have it"):
        fit_label_probe(X, Y, fold_of=np.arange(20) % 2)
    Y[0, 1] = False
    with pytest.raises(LabelError, match="above 0; got"):
        fit_label_probe(X, Y, fold_of=np.arange(20) % 2, strengths=(-1.0,))


def test_probabilities_do_not_overflow() -> None:
    np.testing.assert_allclose(sigmoid(np.array([-1e4, 0.0, 2.0, 1e4])), [0, 0.5, 1 / (1 + np.exp(-2)), 1])
