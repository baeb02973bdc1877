"""Kernel ridge against its normal equations, a planted map that bends, and what it compares with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from chiasm.alignment.alignment import GaussianKernel, PairArrays, RidgeAlignment
from chiasm.alignment.kernel import KernelAlignment
from chiasm.errors import SpaceError
from chiasm.vectors import unit_rows

Matrix = Float[np.ndarray, "rows columns"]


def pairs(count: int, *, seed: int = 0, bent: bool = True, noise: float = 0.1) -> PairArrays:
    """Features on a few curves, and anchors that turn with them; two pairs have one caption."""
    rng, maps = np.random.default_rng(seed), np.random.default_rng(9)
    X = unit_rows(rng.standard_normal((count, 4)))
    first, second = maps.standard_normal((4, 12)), maps.standard_normal((12, 6))
    inner = np.cos(2 * X @ first) if bent else X @ first
    Y = unit_rows(inner @ second + noise * rng.standard_normal((count, 6)))
    start = unit_rows(Y + 2 * rng.standard_normal((count, 6)))
    X, Y, start = (part.astype(np.float32) for part in (X, Y, start))
    return PairArrays(X, Y, start, np.arange(count) // 2)


def fit(model: KernelAlignment | RidgeAlignment, data: PairArrays, source: PairArrays | None = None) -> Any:
    return model.fit(data.X, data.Y, start=data.start, groups=data.groups, source=source)


def restated(
    data: PairArrays, source: PairArrays | None, alpha: float, strength: float, width: float, new: Matrix
) -> Matrix:
    """Minimise sum of w |k(x)'a + b - y|^2 + lambda a'Ka by its normal equations, with every item as a centre."""
    X, Y = data.X.astype(np.float64), data.Y.astype(np.float64)
    weights = np.full(len(X), (1 - alpha) / len(X))
    apart = 2 * np.square(X - X.mean(axis=0)).sum(axis=1).mean()
    if source is not None:
        X, Y = np.concatenate([X, source.X]), np.concatenate([Y, source.Y])
        weights = np.append(weights, np.full(len(source.X), alpha / len(source.X)))

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
    data, source = pairs(30), None if alpha is None else pairs(24, seed=1)
    options: dict[str, Any] = {"widths": [0.2], "strengths": [1.0], "blends": [1.0]}
    found = fit(KernelAlignment(alpha="auto" if alpha is None else alpha, **options), data, source)
    new = pairs(10, seed=2)
    expected = restated(data, source, alpha or 0.0, 1.0, 0.2, new.X)
    np.testing.assert_allclose(found.transform(new.X, new.start), unit_rows(expected), atol=2e-3)
    assert found.choice_.settings == {"width": 0.2}


def test_a_planted_map_that_bends_is_found_where_a_straight_one_is_not() -> None:
    data, new = pairs(400), pairs(200, seed=3)
    placed = [fit(model, data).transform(new.X, new.start) for model in (RidgeAlignment(), KernelAlignment())]
    straight, bent = (float(np.mean(np.sum(one * new.Y, axis=1))) for one in placed)
    assert bent > 0.9
    assert straight < 0.5


def test_a_straight_map_is_found_as_well() -> None:
    data, new = pairs(400, bent=False), pairs(200, seed=3, bent=False)
    placed = [fit(model, data).transform(new.X, new.start) for model in (RidgeAlignment(), KernelAlignment())]
    straight, bent = (float(np.mean(np.sum(one * new.Y, axis=1))) for one in placed)
    assert bent > straight - 0.01


def test_the_map_is_kernel_values_times_weights() -> None:
    data, new = pairs(40), pairs(7, seed=2)
    found = fit(KernelAlignment(), data)
    learned = found.map_
    assert learned.weight.dtype == learned.bias.dtype == learned.kernel.centres.dtype == np.float32
    for row in range(7):
        values = [np.exp(-np.square(new.X[row] - centre).sum() / learned.kernel.width) for centre in data.X]
        mapped = values @ learned.weight + learned.bias
        mixed = (1 - learned.blend) * new.start[row] + learned.blend * mapped
        np.testing.assert_allclose(found.transform(new.X, new.start)[row], mixed / np.linalg.norm(mixed), atol=2e-4)


def test_a_pair_is_placed_without_the_anchors_of_its_group() -> None:
    data = pairs(60)
    found = fit(KernelAlignment(), data)
    assert found.choice_.blend > 0
    crossed = found.cross_fitted(data.X, data.Y, start=data.start, groups=data.groups)
    other = data.Y.copy()
    own = data.groups == 7
    other[own] = unit_rows(np.random.default_rng(4).standard_normal((2, 6)).astype(np.float32))
    again = found.cross_fitted(data.X, other, start=data.start, groups=data.groups)
    np.testing.assert_allclose(again[own], crossed[own], atol=1e-4)
    assert np.abs(again[~own] - crossed[~own]).max() > 1e-3


def test_the_target_comes_first_among_the_centres() -> None:
    data, source = pairs(30), pairs(50, seed=1)
    centres = fit(KernelAlignment(centres=40), data, source).map_.kernel.centres
    assert len(centres) == 40
    np.testing.assert_array_equal(centres[:30], data.X)
    assert all((centre == source.X).all(axis=1).any() for centre in centres[30:])
    few = fit(KernelAlignment(centres=10), data, source).map_.kernel.centres
    assert len(few) == 10
    assert all((centre == data.X).all(axis=1).any() for centre in few)


def test_equal_items_are_one_centre() -> None:
    data = pairs(30)
    twice = PairArrays(*(np.concatenate([part, part]) for part in (data.X, data.Y, data.start, data.groups)))
    np.testing.assert_array_equal(fit(KernelAlignment(), twice).map_.kernel.centres, data.X)


def test_the_unit_of_the_features_does_not_matter() -> None:
    data, new = pairs(40), pairs(10, seed=2)
    large = PairArrays(8 * data.X, data.Y, data.start, data.groups)
    one, other = fit(KernelAlignment(), data), fit(KernelAlignment(), large)
    assert one.choice_ == replace(other.choice_, score=one.choice_.score, best_by_alpha=one.choice_.best_by_alpha)
    np.testing.assert_allclose(one.transform(new.X, new.start), other.transform(8 * new.X, new.start), atol=1e-3)


def test_a_source_helps_where_there_are_few_pairs() -> None:
    data, source, new = pairs(14), pairs(300, seed=1), pairs(200, seed=3)
    alone, both = (fit(KernelAlignment(), data, given).transform(new.X, new.start) for given in (None, source))
    assert np.mean(np.sum(both * new.Y, axis=1)) > np.mean(np.sum(alone * new.Y, axis=1)) + 0.1


def test_a_kernel_value_is_that_of_its_formula() -> None:
    rng = np.random.default_rng(0)
    X, centres = (rng.standard_normal((count, 5)).astype(np.float32) for count in (6, 4))
    found = GaussianKernel(centres, 3.0)(X)
    for row, x in enumerate(X):
        for column, centre in enumerate(centres):
            assert found[row, column] == pytest.approx(np.exp(-np.square(x - centre).sum() / 3), rel=1e-4)
    assert (GaussianKernel(X, 3.0)(X).diagonal() <= 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": []}, r"widths must be one or more numbers above 0; got \[\]"),
        ({"widths": [0.0]}, r"widths must be one or more numbers above 0; got \[0.0\]"),
        ({"strengths": [-1.0]}, r"strengths must be one or more numbers above 0; got \[-1.0\]"),
        ({"centres": 1}, "centres must be at least 2; got 1"),
        ({"alpha": 2}, "alpha must be 'auto' or a number from 0 to 1; got 2"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        KernelAlignment(**options)


def test_sums_of_a_source_are_not_enough() -> None:
    data = pairs(30)
    with pytest.raises(SpaceError, match="Give the source as a collection, or use ridge, procrustes or cca"):
        KernelAlignment().fit(data.X, data.Y, start=data.start, groups=data.groups, source=pairs(30).statistics)


def test_many_rows_are_placed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, new = pairs(40), pairs(50, seed=2)
    found = fit(KernelAlignment(), data)
    whole = found.transform(new.X, new.start)
    monkeypatch.setattr("chiasm.alignment.alignment._KERNEL_ROWS", 7)
    np.testing.assert_allclose(found.transform(new.X, new.start), whole, atol=1e-6)
