"""Ridge, kernel ridge, Procrustes and CCA against SciPy and slow restatements: refits, normal equations, eigenproblems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from planted_pairs import (
    Matrix,
    Vector,
    pairs,
    shuffled,
    slow_left_out,
    slow_ridge,
    slow_scale,
    warped,
    weighted_rows,
)
from sklearn.cross_decomposition import CCA

from chiasm.alignment.alignment import Task
from chiasm.alignment.closed_form import (
    CcaAlignment,
    KernelAlignment,
    ProcrustesAlignment,
    RidgeAlignment,
    left_out,
    ridge_choice,
)
from chiasm.alignment.pairs import PairArrays, Source
from chiasm.vectors import unit_rows


def mean_cosine(placed: Matrix, data: PairArrays) -> float:
    return float(np.mean(np.sum(placed * data.Y, axis=1)))


# --------------------------------------------------------------------------------------------------------------- ridge


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("strength", [1e-3, 10.0])
@pytest.mark.parametrize("features", [6, 40])  # fewer and more than there are pairs
def test_ridge_minimises_the_weighted_objective(alpha: float | None, strength: float, features: int) -> None:
    target = pairs(30, features)
    source = None if alpha is None else pairs(100, features, seed=2, map_seed=3)
    model = RidgeAlignment(alpha="auto" if alpha is None else alpha, strengths=[strength], blends=[1.0])
    fit = model.fit(target, source)
    penalty = strength * slow_scale(target, source, alpha or 0.0)
    weight, bias = slow_ridge(*weighted_rows(target, source, alpha or 0.0), penalty)
    np.testing.assert_allclose(fit.map.weight, weight, atol=5e-6)
    np.testing.assert_allclose(fit.map.bias, bias, atol=5e-6)
    assert (fit.choice.alpha, fit.choice.strength) == (alpha or 0.0, strength)


def test_a_planted_map_is_recovered() -> None:
    rng = np.random.default_rng(0)
    planted = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    X, start = unit_rows(rng.standard_normal((2, 80, 6)))
    data = shuffled(X, X @ planted, start, np.arange(80), rng)
    fit = RidgeAlignment(strengths=[1e-7], blends=[0.0, 1.0]).fit(data)
    assert fit.choice.blend == 1.0
    np.testing.assert_allclose(fit.map.weight, planted, atol=1e-4)
    np.testing.assert_allclose(fit.map.bias, 0, atol=1e-4)


def predict(target: PairArrays, source: Source | None, alpha: float, strengths: Sequence[float]) -> list[Matrix]:
    every = np.arange(target.count)
    return [rows.copy() for _, _, rows in left_out(target, every, source, [alpha], strengths)]


@pytest.mark.parametrize("features", [6, 40])  # both forms: through the features, and through the pairs
@pytest.mark.parametrize("same", [1, 3])  # pairs of a group
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("strengths", [(0.02,), (1.0,), (0.3, 3.0)])  # in float64 and in float32; one and several
def test_left_out_predictions_are_those_of_refits(
    features: int, same: int, alpha: float | None, strengths: tuple[float, ...]
) -> None:
    target = pairs(21, features, noise=0.3, seed=1, same=same)
    groups = target.codes.copy()
    groups[:2] = groups[0]  # and one group of another size
    target = replace(target, groups=groups)
    source = None if alpha is None else pairs(60, features, noise=0.3, seed=2, map_seed=3)
    for rows, strength in zip(predict(target, source, alpha or 0.0, strengths), strengths, strict=True):
        np.testing.assert_allclose(rows, slow_left_out(target, source, alpha or 0.0, strength), atol=1e-5)


@pytest.mark.parametrize("count", [30, 60])  # a source of fewer pairs than features, and of more
def test_pairs_of_a_source_and_its_statistics_predict_alike(count: int) -> None:
    target, source = pairs(21, 40, seed=1), pairs(count, 40, seed=2)
    by_pairs, by_sums = (predict(target, given, 0.25, [0.02, 1.0]) for given in (source, source.statistics))
    np.testing.assert_allclose(by_pairs, by_sums, atol=2e-6)
    np.testing.assert_allclose(by_pairs[0], slow_left_out(target, source, 0.25, 0.02), atol=1e-5)


@pytest.mark.parametrize("features", [6, 40])
def test_left_out_predictions_of_some_pairs_are_the_same(features: int) -> None:
    target, source = pairs(30, features), pairs(60, features, seed=2)
    some = np.array([1, 2, 7, 20, 29])
    ((_, _, part),) = left_out(target, some, source, [0.5], [1.0])
    np.testing.assert_allclose(part, predict(target, source, 0.5, [1.0])[0][some], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_left_out_predictions_are_exact_where_the_penalty_is_tiny(alpha: float) -> None:
    target, source = pairs(21, 40, noise=0.3, seed=1), pairs(30, 40, noise=0.3, seed=2)
    (rows,) = predict(target, source, alpha, [1e-5])
    np.testing.assert_allclose(rows, slow_left_out(target, source, alpha, 1e-5), atol=1e-5)


def test_a_group_of_all_pairs_but_one_can_be_left_out() -> None:
    target = replace(pairs(12, 4, noise=0.3), groups=(np.arange(12) == 5).astype(int))
    (rows,) = predict(target, None, 0.0, [1.0])
    np.testing.assert_allclose(rows, slow_left_out(target, None, 0.0, 1.0), atol=1e-6)


@pytest.mark.parametrize("with_source", [False, True])
def test_cross_fitted_pairs_of_ridge_are_those_of_refits(with_source: bool) -> None:
    target, source = pairs(40, noise=0.3), pairs(60, seed=2) if with_source else None
    fit = RidgeAlignment(strengths=[0.3, 1.0]).fit(target, source)
    choice = fit.choice
    assert choice.blend > 0
    predicted = slow_left_out(target, source, choice.alpha, choice.strength)
    mixture = unit_rows((1 - choice.blend) * target.start + choice.blend * predicted)
    np.testing.assert_allclose(fit.cross_fitted, mixture, atol=2e-4)


# -------------------------------------------------------------------------------------------------------------- kernel


def bent_pairs(count: int, *, seed: int = 0, bent: bool = True) -> PairArrays:
    """Features on a few curves, and anchors that turn with them; two pairs have one caption."""
    rng, maps = np.random.default_rng(seed), np.random.default_rng(9)
    X = unit_rows(rng.standard_normal((count, 4)))
    first, second = maps.standard_normal((4, 12)), maps.standard_normal((12, 6))
    inner = np.cos(2 * X @ first) if bent else X @ first
    Y = unit_rows(inner @ second + 0.1 * rng.standard_normal((count, 6)))
    start = unit_rows(Y + 2 * rng.standard_normal((count, 6)))
    X, Y, start = (part.astype(np.float32) for part in (X, Y, start))
    return PairArrays(X, Y, start, np.arange(count) // 2)


def slow_kernel_ridge(
    data: PairArrays, source: PairArrays | None, alpha: float, strength: float, width: float, new: Matrix
) -> Matrix:
    """Minimise sum of w |k(x)'a + b - y|^2 + lambda a'Ka by its normal equations, with every item as a centre."""
    X, Y, weights = weighted_rows(data, source, alpha)
    apart = 2 * np.square(data.X - data.X.mean(axis=0)).sum(axis=1).mean()

    def kernel(a: Matrix, b: Matrix) -> Matrix:
        return np.asarray(np.exp(-np.square(a[:, None] - b[None]).sum(axis=2) / (width * apart)))

    K = kernel(X, X)
    penalty = strength * (weights @ np.diag(K) - weights @ K @ weights) / len(K)  # of the mean eigenvalue
    KW = K * weights
    system = np.block([[KW @ K + penalty * K, (K @ weights)[:, None]], [(weights @ K)[None], np.ones((1, 1))]])
    solved = np.linalg.lstsq(system, np.concatenate([KW @ Y, (weights @ Y)[None]]), rcond=None)[0]
    return np.asarray(kernel(new, X) @ solved[:-1] + solved[-1])


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3])
def test_with_every_item_as_a_centre_it_is_kernel_ridge_regression(alpha: float | None) -> None:
    data, source = bent_pairs(30), None if alpha is None else bent_pairs(24, seed=1)
    options: dict[str, Any] = {"widths": [0.2], "strengths": [1.0], "blends": [1.0]}
    fit = KernelAlignment(alpha="auto" if alpha is None else alpha, **options).fit(data, source)
    new = bent_pairs(10, seed=2)
    expected = slow_kernel_ridge(data, source, alpha or 0.0, 1.0, 0.2, new.X)
    np.testing.assert_allclose(fit.transform(new.X, new.start), unit_rows(expected), atol=2e-3)
    assert fit.choice.extra == {"width": 0.2}


@pytest.mark.parametrize("bent", [True, False])
def test_a_planted_map_that_bends_is_learned_and_a_straight_one_as_well(bent: bool) -> None:
    data, new = bent_pairs(400, bent=bent), bent_pairs(200, seed=3, bent=bent)
    straight, curved = (
        mean_cosine(model.fit(data).transform(new.X, new.start), new) for model in (RidgeAlignment(), KernelAlignment())
    )
    assert curved > (0.9 if bent else straight - 0.01)
    assert not bent or straight < 0.5


def centres_of(data: PairArrays, source: PairArrays | None = None, *, centres: int = 1000) -> Matrix:
    kernel = KernelAlignment(centres=centres).fit(data, source).map.kernel
    assert kernel is not None
    return kernel.centres


def test_the_target_comes_first_among_the_centres_and_equal_items_once() -> None:
    data, source = bent_pairs(30), bent_pairs(50, seed=1)
    centres, few = centres_of(data, source, centres=40), centres_of(data, source, centres=10)
    assert (len(centres), len(few)) == (40, 10)
    np.testing.assert_array_equal(centres[:30], data.X)
    assert all((centre == source.X).all(axis=1).any() for centre in centres[30:])
    assert all((centre == data.X).all(axis=1).any() for centre in few)
    np.testing.assert_array_equal(centres_of(data.take(np.tile(np.arange(30), 2))), data.X)


def test_the_unit_of_the_features_does_not_matter() -> None:
    data, new = bent_pairs(40), bent_pairs(10, seed=2)
    one, other = (KernelAlignment().fit(part) for part in (data, replace(data, X=8 * data.X)))
    assert one.choice == replace(other.choice, score=one.choice.score, best_by_alpha=one.choice.best_by_alpha)
    np.testing.assert_allclose(one.transform(new.X, new.start), other.transform(8 * new.X, new.start), atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- procrustes


def centred_rows(data: PairArrays, source: PairArrays | None, alpha: float) -> tuple[Matrix, Matrix, Vector, Vector]:
    """Centred rows of target and source, times the root of their weights, and the means; their products are covariances."""
    X, Y, weights = weighted_rows(data, source, alpha)
    root = np.sqrt(weights)[:, None]
    return root * (X - weights @ X), root * (Y - weights @ Y), weights @ X, weights @ Y


def slow_procrustes(data: PairArrays, source: PairArrays | None, alpha: float) -> tuple[Matrix, Vector]:
    X, Y, mean_x, mean_y = centred_rows(data, source, alpha)
    if X.shape[1] == Y.shape[1]:
        turn = scipy.linalg.orthogonal_procrustes(X, Y)[0]
    else:  # SciPy's needs a square; the polar factor of the cross-covariance is the same there
        U, _, V = np.linalg.svd(X.T @ Y, full_matrices=False)
        turn = U @ V
    own_x, own_y, *_ = centred_rows(data, None, 0.0)
    weight = turn * np.sum((own_x @ turn) * own_y) / np.sum((own_x @ turn) ** 2)
    return weight, mean_y - mean_x @ weight


@pytest.mark.parametrize("x", [5, 12, 3])  # as many features as dimensions, more, fewer
@pytest.mark.parametrize("alpha", [None, 0.0, 0.4, 1.0])
def test_procrustes_is_the_rotation_of_scipy(x: int, alpha: float | None) -> None:
    data, source = pairs(40, x), None if alpha is None else pairs(100, x, seed=1)
    fit = ProcrustesAlignment(alpha="auto" if alpha is None else alpha).fit(data, source)
    weight, bias = slow_procrustes(data, source, alpha or 0.0)
    np.testing.assert_allclose(fit.map.weight, weight, atol=1e-5)
    np.testing.assert_allclose(fit.map.bias, bias, atol=1e-5)
    assert fit.choice.strength == 0


def test_a_source_that_turns_the_other_way_is_worth_nothing() -> None:
    data, source = pairs(40), pairs(200, seed=1)
    opposite = replace(source, Y=-source.Y)
    assert not ProcrustesAlignment(alpha=1.0).fit(data, opposite).map.weight.any()
    by_alpha = ProcrustesAlignment().fit(data, opposite).choice.best_by_alpha
    assert by_alpha[0.9] < by_alpha[0.0]


def test_features_that_do_not_vary_are_not_turned() -> None:
    data = pairs(40, 4)
    flat = replace(data, X=np.hstack([data.X, np.full((40, 3), 0.5, np.float32)]))
    np.testing.assert_allclose(ProcrustesAlignment().fit(flat).map.weight[4:], 0, atol=1e-6)


# ----------------------------------------------------------------------------------------------------------------- CCA


def slow_cca(X: Matrix, Y: Matrix, strength_x: float, strength_y: float, components: int) -> Matrix:
    """Directions from the generalised eigenproblem of both sides at once; then x A S B', scaled by least squares."""
    xx, xy, yy = X.T @ X, X.T @ Y, Y.T @ Y
    ridge_x = xx + strength_x * np.trace(xx) / len(xx) * np.eye(len(xx))
    ridge_y = yy + strength_y * np.trace(yy) / len(yy) * np.eye(len(yy))
    zero = np.zeros_like
    values, vectors = scipy.linalg.eigh(
        np.block([[zero(xx), xy], [xy.T, zero(yy)]]), scipy.linalg.block_diag(ridge_x, ridge_y)
    )
    largest = np.argsort(values)[::-1][:components]
    A, B = np.sqrt(2) * vectors[: len(xx), largest], np.sqrt(2) * vectors[len(xx) :, largest]
    np.testing.assert_allclose(A.T @ ridge_x @ A, np.eye(components), atol=1e-6)
    weight = (A * values[largest]) @ B.T
    scaled: Matrix = weight * np.sum((X @ weight) * Y) / np.sum((X @ weight) ** 2)
    return scaled


@pytest.mark.parametrize("alpha", [None, 0.4, 1.0])
@pytest.mark.parametrize("x", [12, 60, 6])
@pytest.mark.parametrize("components", [1, 3, 0])
def test_cca_is_the_generalised_eigenproblem(alpha: float | None, x: int, components: int) -> None:
    data, source = pairs(40, x), None if alpha is None else pairs(100, x, seed=1)
    model = CcaAlignment(
        alpha="auto" if alpha is None else alpha, anchor_strengths=[0.7], components=[components], blends=[1.0]
    )
    fit = model.fit(data, source)
    rows = centred_rows(data, source, alpha or 0.0)
    expected = slow_cca(rows[0], rows[1], fit.choice.strength, 0.7, components or 5)
    np.testing.assert_allclose(fit.map.weight, expected, atol=2e-5)
    np.testing.assert_allclose(fit.map.bias, rows[3] - rows[2] @ expected, atol=2e-5)
    assert fit.choice.extra == {"anchor_strength": 0.7, "components": components or 5}


def test_the_first_direction_is_that_of_scikit_learn() -> None:
    """Without ridges: the planted pair of directions that vary together, each hidden among others that vary more."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(4000)
    X, Y = 3 * rng.standard_normal((4000, 4)), 2 * rng.standard_normal((4000, 3))
    X[:, 1], Y[:, 2] = shared, shared + 0.3 * rng.standard_normal(4000)
    theirs = CCA(1, scale=False).fit(X, Y)
    ours = slow_cca(X - X.mean(axis=0), Y - Y.mean(axis=0), 1e-9, 1e-9, 1)
    left, _, right = np.linalg.svd(ours)
    for own, rotation in ((left[:, 0], theirs.x_rotations_[:, 0]), (right[0], theirs.y_rotations_[:, 0])):
        assert abs(own @ rotation) / np.linalg.norm(rotation) == pytest.approx(1, abs=1e-4)


def test_with_a_large_anchor_strength_cca_is_ridge_in_another_scale() -> None:
    data, source = pairs(40), pairs(100, seed=1)
    ridge = RidgeAlignment().fit(data, source)
    fit = CcaAlignment(anchor_strengths=[1e7], components=[0]).fit(data, source)
    assert (fit.choice.alpha, fit.choice.strength) == (ridge.choice.alpha, ridge.choice.strength)
    scale = np.sum(fit.map.weight * ridge.map.weight) / np.sum(ridge.map.weight**2)
    np.testing.assert_allclose(fit.map.weight, scale * ridge.map.weight, atol=1e-5)


def test_cca_makes_faint_directions_that_tell_pairs_apart_even() -> None:
    data, new = warped(150), warped(200, 1)
    scorer = Task(new, None, "auto")
    ridge, cca = (
        scorer.scores(model.fit(data).map.map_rows(new.X), (1.0,))[0] for model in (RidgeAlignment(), CcaAlignment())
    )
    assert cca > ridge + 0.01


# -------------------------------------------------------------------------------------------------------------- shared


@pytest.mark.parametrize("model", [ProcrustesAlignment(), CcaAlignment()])
@pytest.mark.parametrize("with_source", [False, True])
def test_scores_are_those_of_refits_without_a_fold(
    model: ProcrustesAlignment | CcaAlignment, with_source: bool
) -> None:
    """Every fold by a fit of the rest at the chosen settings; then all pairs ranked by the task's criterion."""
    data, source = pairs(50, noise=0.6), pairs(100, seed=1) if with_source else None
    fit = model.fit(data, source)
    choice, extra = fit.choice, fit.choice.extra
    predicted = np.empty_like(data.Y)
    for rows, _ in fit.task.folds:
        part = data.take(np.setdiff1d(np.arange(50), rows))
        weight, bias = slow_procrustes(part, source, choice.alpha)
        if isinstance(model, CcaAlignment):
            X, Y, mean_x, mean_y = centred_rows(part, source, choice.alpha)
            weight = slow_cca(X, Y, choice.strength, extra["anchor_strength"], int(extra["components"]))
            bias = mean_y - mean_x @ weight
        predicted[rows] = data.X[rows] @ weight + bias
    assert choice.score == pytest.approx(fit.task.scores(predicted, (choice.blend,))[0], abs=1e-5)


def test_cca_takes_alpha_and_strength_from_ridge() -> None:
    data, source = pairs(40), pairs(100, seed=1)
    base = ridge_choice(Task(data, source, "auto"))
    choice = CcaAlignment().fit(data, source).choice
    assert (choice.alpha, choice.strength) == (base.alpha, base.strength)
