"""The linear solver finds the minima of the losses as written out, of all rows and of every fold, only faster."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from chiasm.errors import LabelError
from chiasm.recognition import newton
from chiasm.recognition.linear import (
    LinearFit,
    class_weights,
    fit_classes,
    fit_labels,
    fit_numbers,
    row_weights,
    stay_in_training,
)
from chiasm.vectors import sigmoid, softmax

STRENGTHS = (30.0, 3.0, 0.3, 0.03)


def planted(rows: int, dim: int, *, seed: int = 0, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Rows off centre in a space of falling variances, and three scores that they tell with some noise."""
    rng = np.random.default_rng(seed)
    scale = 3 * (1 + np.arange(dim)) ** -0.5
    X = rng.normal(size=(rows, dim)) * scale
    scores = X @ (np.random.default_rng(99).normal(size=(dim, 3)) / scale[:, None]) / np.sqrt(dim)
    return (X + 0.7).astype(dtype), scores + 0.4 * rng.normal(size=(rows, 3))


# --------------------------------------------------------------------------------- the three losses, written out


@dataclass(frozen=True)
class Kind:
    """A loss: what it is fitted to, by what, and the slow way to the same."""

    fit: Callable[..., LinearFit]
    target: Callable[[np.ndarray], np.ndarray]  # from scores
    outputs: int
    loss: Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]  # logits, target -> sum and its derivative
    held_out: Callable[[np.ndarray, np.ndarray], np.ndarray]  # logits, target -> what chooses the strength, by row
    predict: Callable[[np.ndarray], np.ndarray]  # outputs -> what is compared


def softmax_loss(logits: np.ndarray, codes: np.ndarray) -> tuple[float, np.ndarray]:
    total = logsumexp(logits, axis=1, keepdims=True)
    truth = np.eye(logits.shape[1])[codes]
    return float((total[:, 0] - (truth * logits).sum(axis=1)).sum()), np.exp(logits - total) - truth


def sigmoid_loss(logits: np.ndarray, Y: np.ndarray) -> tuple[float, np.ndarray]:
    Y = Y.reshape(logits.shape)
    return float((np.logaddexp(0, logits) - Y * logits).sum()), sigmoid(logits) - Y


def square_loss(predicted: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    return 0.5 * float(np.square(predicted[:, 0] - y).sum()), predicted - y[:, None]


def relative_brier(logits: np.ndarray, Y: np.ndarray) -> np.ndarray:
    share = Y.mean(axis=0)
    mean: np.ndarray = (np.square(sigmoid(logits) - Y) / (share * (1 - share))).mean(axis=1)
    return mean


def brier(logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.square(softmax(logits) - np.eye(logits.shape[1])[codes]).sum(axis=1)
    return squares


def two_columns(logits: np.ndarray) -> np.ndarray:
    return logits if logits.shape[1] == 2 else np.hstack([0 * logits, logits])


KINDS = {
    "classes": Kind(fit_classes, lambda scores: scores.argmax(axis=1), 3, softmax_loss, brier, softmax),
    "two classes": Kind(
        fit_classes,
        lambda scores: (scores[:, 0] > 0.5).astype(np.int64),
        1,
        sigmoid_loss,
        lambda logits, codes: brier(two_columns(logits), codes),
        lambda logits: softmax(two_columns(logits)),
    ),
    "labels": Kind(fit_labels, lambda scores: scores > [0.0, 0.6, 1.0], 3, sigmoid_loss, relative_brier, sigmoid),
    "numbers": Kind(
        fit_numbers,
        lambda scores: scores[:, 0] - 50,
        1,
        square_loss,
        lambda predicted, y: np.square(predicted[:, 0] - y),
        lambda predicted: predicted,
    ),
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
every_shape = pytest.mark.parametrize(("rows", "dim"), [(40, 60), (90, 12)], ids=["wide", "tall"])


def slow(kind: Kind, X: np.ndarray, target: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """The minimum by scipy's general optimiser: coefficients and intercepts."""
    X = X.astype(np.float64)
    mean = X.mean(axis=0)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(kind.outputs, -1)
        value, slope = kind.loss((X - mean) @ weights[:, :-1].T + weights[:, -1], target)
        gradient = np.hstack([slope.T @ (X - mean) + strength * weights[:, :-1], slope.sum(axis=0)[:, None]])
        return value + strength / 2 * np.square(weights[:, :-1]).sum(), gradient.ravel()

    start = np.zeros(kind.outputs * (X.shape[1] + 1))
    if kind.fit is fit_numbers:
        start[-1] = target.mean()
    options: Any = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-10, "maxcor": 30}
    weights = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x.reshape(kind.outputs, -1)
    return weights[:, :-1], weights[:, -1] - weights[:, :-1] @ mean


def outputs(fit: LinearFit, X: np.ndarray) -> np.ndarray:
    result: np.ndarray = X @ fit.coef.T + fit.intercept
    return result


@every_kind
@every_shape
@pytest.mark.parametrize("strength", [0.02, 1.0, 50.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-6), (np.float32, 2e-3)])
def test_the_fit_is_the_minimum(
    kind: Kind, rows: int, dim: int, strength: float, dtype: type, tolerance: float
) -> None:
    X, scores = planted(rows, dim, dtype=dtype)
    target = kind.target(scores)
    fit = kind.fit(X, target, fold_of=np.full(rows, -1), strengths=[strength])
    coef, intercept = slow(kind, X, target, strength)
    np.testing.assert_allclose(kind.predict(outputs(fit, X)), kind.predict(X @ coef.T + intercept), atol=tolerance)
    ours = fit.coef[-kind.outputs :]
    np.testing.assert_allclose(ours, coef, atol=tolerance * np.abs(coef).max())
    assert fit.coef.dtype == (np.float64 if kind.fit is fit_numbers else dtype)
    assert fit.strength == strength
    assert np.isnan(fit.held_out).all()


@every_kind
@every_shape
def test_rows_are_predicted_by_the_minima_of_other_folds_which_choose_the_strength(
    kind: Kind, rows: int, dim: int
) -> None:
    """Rows of fold -1 are learned from in every fold."""
    X, scores = planted(rows, dim)
    target = kind.target(scores)
    fold_of = np.random.default_rng(1).integers(-1, 4, size=rows)
    fit = kind.fit(X, target, fold_of=fold_of, strengths=STRENGTHS)
    held = fold_of >= 0
    logits = np.full((len(STRENGTHS), rows, kind.outputs), np.nan)
    for number, strength in enumerate(STRENGTHS):
        for fold in range(4):
            coef, intercept = slow(kind, X[fold_of != fold], target[fold_of != fold], strength)
            logits[number, fold_of == fold] = X[fold_of == fold] @ coef.T + intercept
    losses = np.stack([kind.held_out(each, target) for each in logits], axis=1)[held]
    # To a third of what the rows themselves vary: the precision of the choice.
    error = 1e-6 if kind.fit is fit_numbers else 0.33 * losses.std(axis=0) / np.sqrt(held.sum())
    assert (np.abs(fit.losses[held].mean(axis=0) - losses.mean(axis=0)) <= error).all()
    assert fit.strengths.tolist() == list(STRENGTHS)
    assert losses.mean(axis=0)[STRENGTHS.index(fit.strength)] <= losses.mean(axis=0).min() + np.min(error)
    expected = logits[STRENGTHS.index(fit.strength)]
    tolerance = 1e-6 if kind.fit is fit_numbers else 0.03
    np.testing.assert_allclose(kind.predict(fit.held_out[held]), kind.predict(expected[held]), atol=tolerance)
    assert np.isnan(fit.held_out[~held]).all()
    assert np.isnan(fit.losses[~held]).all()


@every_kind
def test_the_default_strengths_follow_the_scale_of_the_rows(kind: Kind) -> None:
    X, scores = planted(80, 20)
    target, fold_of = kind.target(scores), np.arange(80) % 5
    fit, large = kind.fit(X, target, fold_of=fold_of), kind.fit(1000 * X, target, fold_of=fold_of)
    assert fit.strengths[0] > fit.strength > fit.strengths[-1]  # the best lies within the path
    assert large.strength == pytest.approx(1e6 * fit.strength)
    np.testing.assert_allclose(kind.predict(outputs(large, 1000 * X)), kind.predict(outputs(fit, X)), atol=1e-5)


@every_kind
def test_noise_takes_a_strong_penalty(kind: Kind) -> None:
    X = planted(120, 30)[0]
    target, fold_of = kind.target(planted(120, 30, seed=5)[1]), np.arange(120) % 5
    fit = kind.fit(X, target, fold_of=fold_of)
    assert fit.strength >= 0.03 * fit.strengths[0]
    assert np.nanmean(fit.losses, axis=0).argmin() == fit.strengths.tolist().index(fit.strength)


@pytest.mark.parametrize("kind", [KINDS["classes"], KINDS["labels"]], ids=["classes", "labels"])
def test_the_default_path_stops_when_the_best_is_behind_it(kind: Kind) -> None:
    X, scores = planted(200, 30)
    target = kind.target(scores + np.random.default_rng(3).normal(size=scores.shape))
    fit = kind.fit(X, target, fold_of=np.arange(200) % 5)
    means = np.nanmean(fit.losses, axis=0)
    assert len(means) < 17
    assert (means[-3:] > means.min()).all()


def test_the_path_does_not_stop_before_it_is_better_than_chance() -> None:
    """Large variation that says nothing hides a small one that tells the class from all but weak penalties."""
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(90) % 3)
    X = np.hstack([6 * rng.normal(size=(90, 8)), np.eye(3)[codes] + 0.15 * rng.normal(size=(90, 3))])
    fit = fit_classes(X, codes, fold_of=np.arange(90) % 5)
    means = np.nanmean(fit.losses, axis=0)
    assert (means[1:4] > means[0]).all()
    assert np.nanmean(fit.held_out.argmax(axis=1) == codes) > 0.95


@every_kind
@pytest.mark.parametrize("folds", [np.full(40, -1), np.zeros(40, dtype=np.int64)], ids=["none", "one of all"])
def test_where_nothing_can_be_held_out_the_strength_is_the_documented_one(kind: Kind, folds: np.ndarray) -> None:
    X, scores = planted(40, 20)
    target = kind.target(scores)
    fit = kind.fit(X, target, fold_of=folds)
    variance = X.var(axis=0).sum()
    assert fit.strength == pytest.approx(0.01 * 40 * variance if kind.fit is fit_numbers else 1e-3 * variance, rel=0.35)
    assert fit.strengths.tolist() == [fit.strength]
    assert np.isnan(fit.losses).all()
    assert fit.losses.shape == (40, 1)
    assert np.isnan(fit.held_out).all()
    nearest = kind.fit(X, target, fold_of=folds, strengths=[1e-9, 2 * fit.strength, 1e9])
    assert nearest.strength == 2 * fit.strength


@every_kind
def test_rows_and_columns_that_do_not_vary_do_no_harm(kind: Kind) -> None:
    X, scores = planted(60, 8)
    target, fold_of = kind.target(scores), np.arange(60) % 3
    padded = np.hstack([X, X[:, :2], np.full((60, 2), 7.0)])
    coef, intercept = slow(kind, padded, target, 0.3)
    fit = kind.fit(padded, target, fold_of=fold_of, strengths=[0.3])
    np.testing.assert_allclose(kind.predict(outputs(fit, padded)), kind.predict(padded @ coef.T + intercept), atol=1e-5)
    same = kind.fit(np.ones((60, 5)), target, fold_of=fold_of)
    assert not same.coef.any()
    mean = target.mean(axis=0) if target.dtype != np.int64 else np.bincount(target) / 60
    np.testing.assert_allclose(kind.predict(outputs(same, np.ones((1, 5))))[0], mean, atol=1e-6)


@pytest.mark.parametrize("dim", [90, 12], ids=["wide", "tall"])
def test_an_offset_far_larger_than_the_rows_does_no_harm(dim: int) -> None:
    X, scores = planted(60, dim, dtype=np.float32)
    X, codes, none = np.round(X * 256) / 256, scores.argmax(axis=1), np.full(60, -1)  # so that the sum is exact
    near = fit_classes(X, codes, fold_of=none, strengths=[0.5])
    far = fit_classes(X + 1000, codes, fold_of=none, strengths=[0.5])
    np.testing.assert_allclose(softmax(outputs(far, X + 1000)), softmax(outputs(near, X)), atol=0.02)


@every_kind
@pytest.mark.parametrize("strengths", [[], [1.0, 0.0], [np.inf]])
def test_strengths_that_make_no_sense_are_refused(kind: Kind, strengths: list[float]) -> None:
    X, scores = planted(30, 5)
    with pytest.raises(LabelError, match="finite values above 0"):
        kind.fit(X, kind.target(scores), fold_of=np.arange(30) % 2, strengths=strengths)


# ------------------------------------------------------------------------------------------------ what is done at scale


@pytest.mark.parametrize("kind", [KINDS["classes"], KINDS["labels"]], ids=["classes", "labels"])
@pytest.mark.parametrize("limits", [{"_SMALL": 0}, {"_ROWS_A_FOLD": 1}, {"_BLOCK": 1, "_ROWS_A_FOLD": 1}])
def test_stacks_and_blocks_change_nothing(kind: Kind, limits: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    X, scores = planted(400, 15)
    target, fold_of = kind.target(scores), np.arange(400) % 3
    plain = kind.fit(X, target, fold_of=fold_of, strengths=STRENGTHS)
    for name, value in limits.items():
        monkeypatch.setattr(newton, name, value)
    scaled = kind.fit(X, target, fold_of=fold_of, strengths=STRENGTHS)
    assert scaled.strength == plain.strength
    np.testing.assert_allclose(scaled.losses, plain.losses, atol=1e-8)
    np.testing.assert_allclose(scaled.coef, plain.coef, atol=1e-8)


def test_tall_rows_take_little_more_memory_than_two_copies() -> None:
    X, scores = planted(12_000, 300, dtype=np.float32)
    codes, fold_of = scores.argmax(axis=1), np.arange(12_000) % 3
    fit_classes(X[:60], codes[:60], fold_of=fold_of[:60], strengths=[1.0])  # what is loaded once does not count
    tracemalloc.start()
    fit_classes(X, codes, fold_of=fold_of, strengths=[1.0, 0.3])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * X.nbytes


# --------------------------------------------------------------------------------------------- classes, labels, numbers


def test_a_weight_of_two_is_the_row_twice_and_of_zero_none() -> None:
    X, scores = planted(45, 20)
    codes, fold_of = scores.argmax(axis=1), np.arange(45) % 3
    weight = np.random.default_rng(0).integers(0, 4, size=45)
    twice = np.repeat(np.arange(45), weight)
    weighted = fit_classes(X, codes, fold_of=fold_of, weight=weight)
    repeated = fit_classes(X[twice], codes[twice], fold_of=fold_of[twice])
    assert weighted.strength == pytest.approx(repeated.strength)
    np.testing.assert_allclose(outputs(weighted, X), outputs(repeated, X), rtol=1e-6)
    np.testing.assert_allclose(softmax(weighted.held_out[twice]), softmax(repeated.held_out), atol=0.02)
    assert np.isnan(weighted.held_out[weight == 0]).all()


def test_a_class_that_other_folds_lack_stays_in_training() -> None:
    X, scores = planted(40, 20)
    codes = scores.argmax(axis=1)
    fold_of = np.where(codes == 2, 1, np.arange(40) % 4)
    fit = fit_classes(X, codes, fold_of=fold_of)
    assert np.isnan(fit.losses[codes == 2]).all()
    assert np.isfinite(fit.losses[codes != 2]).all()
    groups = np.where(np.arange(40) % 4 == 1, 0, np.arange(40))  # of fold 1, all in one group
    stays = stay_in_training(codes, fold_of, groups)
    together = np.isin(groups, groups[codes == 2])
    np.testing.assert_array_equal(stays, np.where(together, -1, fold_of))


def test_of_two_classes_the_first_has_no_weights() -> None:
    X, scores = planted(30, 5)
    fit = fit_classes(X, (scores[:, 0] > 0).astype(np.int64), fold_of=np.arange(30) % 3)
    assert fit.coef.shape == (2, 5)
    assert not fit.coef[0].any()
    assert not fit.held_out[:, 0].any()


@pytest.mark.parametrize("codes", [[0, 0, 0], [0, 2, 2]])
def test_codes_without_rows_are_refused(codes: list[int]) -> None:
    with pytest.raises(LabelError, match="codes must be 0, 1 and so on"):
        fit_classes(np.eye(3), np.array(codes), fold_of=np.arange(3))


def test_unknown_labels_have_no_part() -> None:
    X, scores = planted(80, 10)
    Y = KINDS["labels"].target(scores)
    known = np.ones(Y.shape, dtype=bool)
    known[:30, 1] = False
    wrong = Y ^ ~known
    fit = fit_labels(X, wrong, fold_of=np.arange(80) % 4, known=known, strengths=[1.0])
    coef = slow(KINDS["two classes"], X[30:], Y[30:, 1], 1.0)[0]
    np.testing.assert_allclose(fit.coef[1], coef[0], atol=1e-5)
    assert np.isnan(fit.held_out[:30, 1]).all()
    assert np.isfinite(fit.held_out[30:]).all()


def test_labels_that_a_fold_has_alone_are_not_scored_there_nor_choose_the_strength() -> None:
    X, scores = planted(40, 10)
    Y, fold_of = KINDS["labels"].target(scores), np.arange(40) % 4
    rare = np.eye(40, dtype=bool)[:, :3]
    alone = fit_labels(X, rare, fold_of=fold_of)
    assert np.isnan(alone.losses).all()
    assert alone.strength == pytest.approx(1e-3 * X.var(axis=0).sum())
    np.testing.assert_array_equal(np.isnan(alone.held_out), fold_of[:, None] == np.arange(3))
    beside = fit_labels(X, np.hstack([Y, rare]), fold_of=fold_of)
    assert beside.strength == fit_labels(X, Y, fold_of=fold_of).strength


@pytest.mark.parametrize(("value", "message"), [(False, "label 1: no rows have it"), (True, "label 1: all rows")])
def test_labels_of_all_or_no_rows_are_refused(value: bool, message: str) -> None:
    Y = np.arange(40).reshape(20, 2) % 3 == 0
    Y[:, 1] = value
    with pytest.raises(LabelError, match=message):
        fit_labels(np.eye(20), Y, fold_of=np.arange(20) % 2)


@every_shape
def test_numbers_are_left_out_one_by_one_as_by_refits(rows: int, dim: int) -> None:
    X, scores = planted(rows, dim)
    y = scores[:, 0]
    fit = fit_numbers(X, y, fold_of=np.arange(rows), strengths=[2.0])
    for row in range(0, rows, 7):
        rest = np.arange(rows) != row
        coef, intercept = slow(KINDS["numbers"], X[rest], y[rest], 2.0)
        assert fit.held_out[row, 0] == pytest.approx(float(X[row] @ coef[0] + intercept[0]), abs=1e-6)


def test_regression_needs_two_rows() -> None:
    with pytest.raises(LabelError, match="at least 2 items with a number; got 1"):
        fit_numbers(np.eye(1), np.ones(1), fold_of=np.zeros(1, dtype=np.int64))


# ------------------------------------------------------------------------------------------------------------- weights


def test_weights_of_classes_multiply_those_of_rows() -> None:
    codes, weight = np.array([0, 0, 0, 1]), np.array([1.0, 2.0, 1.0, 2.0])
    assert class_weights(codes, weight, None) is weight
    balanced = class_weights(codes, weight, "balanced")
    assert balanced[:3].sum() == pytest.approx(balanced[3:].sum())
    assert balanced.sum() == pytest.approx(6)
    assert class_weights(codes, weight, {"b": 3.0}, ["a", "b"]).tolist() == [1, 2, 1, 6]


@pytest.mark.parametrize(("class_weight", "term"), [("even", "'balanced' or a mapping"), ({0: -1.0}, "above 0")])
def test_weights_of_classes_that_make_no_sense_are_refused(class_weight: Any, term: str) -> None:
    with pytest.raises(ValueError, match=term):
        class_weights(np.array([0, 1]), np.ones(2), class_weight)


@pytest.mark.parametrize(
    ("weight", "term"),
    [(np.ones(9), "one a row"), (np.linspace(-1, 1, 10), "not below 0"), (np.zeros(10), "nothing but zeros")],
)
def test_weights_of_rows_that_make_no_sense_are_refused(weight: np.ndarray, term: str) -> None:
    with pytest.raises(ValueError, match=term):
        row_weights(weight, 10)
