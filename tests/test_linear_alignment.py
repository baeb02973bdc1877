"""Procrustes and CCA against SciPy: the rotation, the generalised eigenproblem, refits on weighted rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from jaxtyping import Float
from sklearn.cross_decomposition import CCA

from chiasm.alignment.alignment import Alignment, PairArrays, RidgeAlignment, Task, ridge_choice
from chiasm.alignment.linear_alignment import CcaAlignment, ProcrustesAlignment
from chiasm.errors import SpaceError
from chiasm.vectors import unit_rows

Matrix = Float[np.ndarray, "rows columns"]
METHODS = [ProcrustesAlignment, CcaAlignment]


def pairs(count: int, x: int = 12, y: int = 5, *, seed: int = 0, noise: float = 0.2, map_seed: int = 9) -> PairArrays:
    """Features, and anchors that a linear map gives; two pairs have one caption."""
    rng, maps = np.random.default_rng(seed), np.random.default_rng(map_seed)
    groups = np.arange(count) // 2
    X = unit_rows(rng.standard_normal((count, x)) + 0.3)
    Y = unit_rows(X @ maps.standard_normal((x, y)) / np.sqrt(x) + 0.1 + noise * rng.standard_normal((count, y)))
    start = unit_rows(Y + 0.8 * rng.standard_normal((count, y)))
    X, Y, start = (part.astype(np.float32) for part in (X, Y, start))
    order = rng.permutation(count)
    return PairArrays(X[order], Y[order], start[order], groups[order])


def fit(alignment: Alignment, data: PairArrays, source: PairArrays | None = None) -> Alignment:
    return alignment.fit(data.X, data.Y, start=data.start, groups=data.groups, source=source)


def weighted(data: PairArrays, source: PairArrays | None, alpha: float) -> tuple[Matrix, Matrix]:
    """Centred rows of target and source, times the root of their weights; their products are covariances."""
    parts = [(data, (1 - alpha) / len(data.X))]
    if source is not None:
        parts.append((source, alpha / len(source.X)))
    weights = np.concatenate([np.full(len(part.X), weight) for part, weight in parts])
    rows = []
    for name in "XY":
        matrix = np.concatenate([getattr(part, name) for part, _ in parts]).astype(np.float64)
        rows.append(np.sqrt(weights)[:, None] * (matrix - weights @ matrix))
    return rows[0], rows[1]


# ----------------------------------------------------------------------------------------------------------- procrustes


def test_a_planted_rotation_is_recovered() -> None:
    rng = np.random.default_rng(0)
    planted = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    X = unit_rows(rng.standard_normal((60, 6))).astype(np.float32)
    Y = (X @ planted).astype(np.float32)
    found = ProcrustesAlignment(blends=[1.0]).fit(
        X, Y, start=unit_rows(rng.standard_normal((60, 6)).astype(np.float32))
    )
    np.testing.assert_allclose(found.map_.weight, planted, atol=1e-5)
    np.testing.assert_allclose(found.map_.bias, 0, atol=1e-5)
    assert found.choice_.score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("x", [5, 12, 3])  # as many features as dimensions, more, fewer
@pytest.mark.parametrize("alpha", [None, 0.0, 0.4, 1.0])
def test_procrustes_is_the_rotation_of_scipy(x: int, alpha: float | None) -> None:
    data, source = pairs(40, x), None if alpha is None else pairs(100, x, seed=1)
    found = fit(ProcrustesAlignment(alpha="auto" if alpha is None else alpha), data, source)
    X, Y = weighted(data, source, alpha or 0.0)
    if x == 5:
        turn = scipy.linalg.orthogonal_procrustes(X, Y)[0]
    else:  # SciPy's needs a square; the polar factor of the cross-covariance is the same there
        U, _, V = np.linalg.svd(X.T @ Y, full_matrices=False)
        turn = U @ V
    own_x, own_y = (part - part.mean(axis=0) for part in (data.X, data.Y))
    scale = np.sum((own_x @ turn) * own_y) / np.sum((own_x @ turn) ** 2)
    np.testing.assert_allclose(found.map_.weight, scale * turn, atol=1e-5)
    everything = [data] if source is None else [data, source]
    shares = [1.0] if source is None else [1 - (alpha or 0.0), alpha or 0.0]
    mean_x = sum(share * part.X.mean(axis=0) for share, part in zip(shares, everything, strict=True))
    mean_y = sum(share * part.Y.mean(axis=0) for share, part in zip(shares, everything, strict=True))
    np.testing.assert_allclose(found.map_.bias, mean_y - mean_x @ (scale * turn), atol=1e-5)
    assert found.choice_.strength == 0


def test_no_other_rotation_of_as_many_dimensions_is_nearer() -> None:
    data = pairs(40, 5)
    found = fit(ProcrustesAlignment(), data)
    turn = found.map_.weight / np.linalg.norm(found.map_.weight[0])
    scale = np.linalg.norm(found.map_.weight[0])
    X, Y = weighted(data, None, 0.0)
    best = np.sum((scale * X @ turn - Y) ** 2)
    rng = np.random.default_rng(0)
    for _ in range(200):
        step = 0.1 * rng.standard_normal((5, 5))
        other = turn @ scipy.linalg.expm(step - step.T)
        assert np.sum((scale * X @ other - Y) ** 2) > best


def test_a_source_that_turns_the_other_way_is_worth_nothing() -> None:
    data, source = pairs(40), pairs(200, seed=1)
    opposite = PairArrays(source.X, -source.Y, source.start, source.groups)
    found = fit(ProcrustesAlignment(alpha=1.0), data, opposite)
    assert not found.map_.weight.any()
    choice = fit(ProcrustesAlignment(), data, opposite).choice_
    assert choice.alpha <= 0.1
    assert choice.best_by_alpha[0.9] < choice.best_by_alpha[0.0]


def test_features_that_do_not_vary_are_not_turned() -> None:
    data = pairs(40, 4)
    flat = PairArrays(np.hstack([data.X, np.full((40, 3), 0.5, np.float32)]), data.Y, data.start, data.groups)
    np.testing.assert_allclose(fit(ProcrustesAlignment(), flat).map_.weight[4:], 0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------------ CCA


def slow_cca(X: Matrix, Y: Matrix, strength_x: float, strength_y: float, components: int) -> Matrix:
    """Directions from the generalised eigenproblem of both sides at once; then x A S B', scaled by least squares."""
    xx, xy, yy = X.T @ X, X.T @ Y, Y.T @ Y
    ridge_x = xx + strength_x * np.trace(xx) / len(xx) * np.eye(len(xx))
    ridge_y = yy + strength_y * np.trace(yy) / len(yy) * np.eye(len(yy))
    zero = np.zeros_like
    values, vectors = scipy.linalg.eigh(
        np.block([[zero(xx), xy], [xy.T, zero(yy)]]), scipy.linalg.block_diag(ridge_x, ridge_y)
    )
    chosen = np.argsort(values)[::-1][:components]
    A, B = np.sqrt(2) * vectors[: len(xx), chosen], np.sqrt(2) * vectors[len(xx) :, chosen]
    np.testing.assert_allclose(A.T @ ridge_x @ A, np.eye(components), atol=1e-6)
    weight = (A * values[chosen]) @ B.T
    scaled: Matrix = weight * np.sum((X @ weight) * Y) / np.sum((X @ weight) ** 2)
    return scaled


@pytest.mark.parametrize("alpha", [None, 0.4, 1.0])
@pytest.mark.parametrize("x", [12, 60, 6])
@pytest.mark.parametrize("components", [1, 3, 0])
def test_cca_is_the_generalised_eigenproblem(alpha: float | None, x: int, components: int) -> None:
    data, source = pairs(40, x), None if alpha is None else pairs(100, x, seed=1)
    found = fit(
        CcaAlignment(alpha="auto" if alpha is None else alpha, anchor_strengths=[0.7], components=[components]),
        data,
        source,
    )
    strength = found.choice_.strength
    expected = slow_cca(*weighted(data, source, alpha or 0.0), strength, 0.7, components or 5)
    np.testing.assert_allclose(found.map_.weight, expected, atol=2e-5)
    assert found.choice_.settings == {"anchor_strength": 0.7, "components": components or 5}


def test_the_first_direction_is_that_of_scikit_learn() -> None:
    """Without ridges: the planted pair of directions that vary together, each hidden among others that vary more."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal(4000)
    X, Y = 3 * rng.standard_normal((4000, 4)), 2 * rng.standard_normal((4000, 3))
    X[:, 1], Y[:, 2] = shared, shared + 0.3 * rng.standard_normal(4000)
    slow = CCA(1, scale=False).fit(X, Y)
    found = slow_cca(X - X.mean(axis=0), Y - Y.mean(axis=0), 1e-9, 1e-9, 1)
    left, _, right = np.linalg.svd(found)
    assert abs(left[:, 0] @ (slow.x_rotations_[:, 0] / np.linalg.norm(slow.x_rotations_))) == pytest.approx(1, abs=1e-4)
    assert abs(right[0] @ (slow.y_rotations_[:, 0] / np.linalg.norm(slow.y_rotations_))) == pytest.approx(1, abs=1e-4)


def test_with_a_large_anchor_strength_cca_is_ridge_in_another_scale() -> None:
    data, source = pairs(40), pairs(100, seed=1)
    ridge = fit(RidgeAlignment(), data, source)
    found = fit(CcaAlignment(anchor_strengths=[1e7], components=[0]), data, source)
    assert (found.choice_.alpha, found.choice_.strength) == (ridge.choice_.alpha, ridge.choice_.strength)
    scale = np.sum(found.map_.weight * ridge.map_.weight) / np.sum(ridge.map_.weight**2)
    np.testing.assert_allclose(found.map_.weight, scale * ridge.map_.weight, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- what they share


@pytest.mark.parametrize("make", METHODS)
@pytest.mark.parametrize("with_source", [False, True])
def test_scores_are_those_of_refits_without_a_fold(make: type[Alignment], with_source: bool) -> None:
    """Every fold by a fit of the rest at the chosen settings; then all pairs ranked by the task's criterion."""
    data, source = pairs(50, noise=0.6), pairs(100, seed=1) if with_source else None
    found = fit(make(), data, source)
    choice = found.choice_
    task = Task(data, source, "auto")
    placed = np.empty_like(data.Y)
    for rows, others in task.folds:
        rest = np.setdiff1d(np.arange(50), rows)
        assert not set(data.codes[rest]) & set(data.codes[rows])
        part = data.take(rest)
        np.testing.assert_allclose(others.target.xy, part.statistics.moments.xy, atol=1e-6)
        X, Y = weighted(part, source, choice.alpha)
        if make is CcaAlignment:
            settings = choice.settings
            weight = slow_cca(X, Y, choice.strength, settings["anchor_strength"], int(settings["components"]))
        else:
            U, _, V = np.linalg.svd(X.T @ Y, full_matrices=False)
            own_x, own_y = weighted(part, None, 0.0)
            weight = U @ V * np.sum((own_x @ U @ V) * own_y) / np.sum((own_x @ U @ V) ** 2)
        means = [
            (1 - choice.alpha) * getattr(part, name).mean(axis=0)
            + (choice.alpha * getattr(source, name).mean(axis=0) if source is not None else 0)
            for name in "XY"
        ]
        mapped = (data.X[rows] - means[0]) @ weight + means[1]
        placed[rows] = unit_rows((1 - choice.blend) * data.start[rows] + choice.blend * mapped)
    assert choice.score == pytest.approx(task.chances(placed).mean(), abs=1e-5)
    assert choice.score >= choice.start_score == pytest.approx(task.chances(data.start).mean(), abs=1e-6)
    np.testing.assert_allclose(
        found.transform(data.X, data.start),
        unit_rows((1 - choice.blend) * data.start + choice.blend * (data.X @ found.map_.weight + found.map_.bias)),
        atol=1e-6,
    )


@pytest.mark.parametrize("make", METHODS)
def test_statistics_of_a_source_do_as_well_as_its_pairs(make: type[Alignment]) -> None:
    data, source = pairs(40), pairs(100, seed=1)
    whole = fit(make(), data, source)
    by_statistics = make().fit(data.X, data.Y, start=data.start, groups=data.groups, source=source.statistics)
    np.testing.assert_array_equal(whole.map_.weight, by_statistics.map_.weight)
    assert whole.choice_ == by_statistics.choice_
    assert whole.choice_.method == make.method


@pytest.mark.parametrize("make", METHODS)
def test_with_nothing_to_learn_the_start_stays(make: type[Alignment]) -> None:
    data = pairs(60, noise=0.1)
    shuffled = np.random.default_rng(0).permutation(60)
    close = unit_rows(data.Y + 0.3 * np.random.default_rng(1).standard_normal(data.Y.shape).astype(np.float32))
    found = make().fit(data.X[shuffled], data.Y, start=close)
    assert found.choice_.blend == 0
    np.testing.assert_allclose(found.transform(data.X, close), close, atol=1e-6)


def test_cca_takes_alpha_and_strength_from_ridge() -> None:
    data, source = pairs(40), pairs(100, seed=1)
    base = ridge_choice(Task(data, source, "auto"))
    choice = fit(CcaAlignment(), data, source).choice_
    assert (choice.alpha, choice.strength) == (base.alpha, base.strength)


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("strengths", [[], [0.0], [float("nan")]])
def test_anchor_strengths_are_above_zero(strengths: list[float]) -> None:
    with pytest.raises(SpaceError, match=r"anchor_strengths must be one or more numbers above 0; got \["):
        CcaAlignment(anchor_strengths=strengths)


@pytest.mark.parametrize("components", [[], [-1], [2.5]])
def test_components_are_whole_numbers(components: list[int]) -> None:
    with pytest.raises(SpaceError, match=r"components must be one or more whole numbers, 0 for all of them; got \["):
        CcaAlignment(components=components)


@pytest.mark.parametrize("make", METHODS)
def test_bad_pairs_are_refused_as_by_ridge(make: type[Alignment]) -> None:
    data = pairs(20)
    few = data.take(np.arange(9))
    with pytest.raises(SpaceError, match=r"alignment needs at least 10 pairs; got 9. Add pairs or use the space as it"):
        fit(make(), few)
    with pytest.raises(SpaceError, match=r"all pairs are of one group .*: nothing is left to validate on"):
        make().fit(data.X, data.Y, start=data.start, groups=np.zeros(20, int))
    bad = data.X.copy()
    bad[3] = np.nan
    with pytest.raises(SpaceError, match=r"1 of 20 pairs have values that are not finite numbers"):
        make().fit(bad, data.Y, start=data.start)
    with pytest.raises(SpaceError, match=r"alpha=0.5 is the weight of a source, and there is none"):
        fit(make(alpha=0.5), data)
    with pytest.raises(SpaceError, match=r"the source has 11 x 5 features and the target 12 x 5"):
        fit(make(), data, pairs(20, 11))
    with pytest.raises(SpaceError, match=r"alpha must be 'auto' or a number from 0 to 1; got 1.5"):
        make(alpha=1.5)
