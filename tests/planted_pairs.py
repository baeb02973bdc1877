"""Pairs with a planted map, and the slow restatements that alignments are held against."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from chiasm.alignment.pairs import PairArrays
from chiasm.vectors import unit_rows

Matrix = Float[np.ndarray, "rows columns"]
Vector = Float[np.ndarray, " numbers"]


def pairs(
    count: int, x: int = 12, y: int = 5, *, seed: int = 0, noise: float = 0.2, map_seed: int = 9, same: int = 2
) -> PairArrays:
    """Features, and anchors that a linear map with an intercept gives; `same` pairs have one caption."""
    rng, maps = np.random.default_rng(seed), np.random.default_rng(map_seed)
    X = unit_rows(rng.standard_normal((count, x)) + 0.3)
    Y = unit_rows(X @ maps.standard_normal((x, y)) / np.sqrt(x) + 0.1 + noise * rng.standard_normal((count, y)))
    start = unit_rows(Y + 0.8 * rng.standard_normal((count, y)))
    return shuffled(X, Y, start, np.arange(count) // same, rng)


def shuffled(X: Matrix, Y: Matrix, start: Matrix, groups: np.ndarray, rng: np.random.Generator) -> PairArrays:
    """In float32, and in an order in which groups are not runs of rows."""
    order = rng.permutation(len(X))
    X, Y, start = (part[order].astype(np.float32) for part in (X, Y, start))
    return PairArrays(X, Y, start, groups[order])


def warped(count: int, seed: int = 0) -> PairArrays:
    """Pairs told apart by three faint dimensions, under three loud ones that features know nothing of.

    Ridge predicts the mean of the loud ones and the faint ones at their scale; to find a pair among others, the faint
    ones have to be made louder, which costs squared error.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, 8))
    quiet = X[:, :3] @ np.diag([1.0, 0.3, 0.1])
    Y = unit_rows(np.hstack([quiet, 0.5 * rng.standard_normal((count, 3)), np.full((count, 1), 2.0)]))
    start = np.tile(unit_rows(Y.mean(axis=0, keepdims=True)), (count, 1))
    return PairArrays(*(part.astype(np.float32) for part in (X, Y, start)))


def weighted_rows(target: PairArrays, source: PairArrays | None, alpha: float) -> tuple[Matrix, Matrix, Vector]:
    """All rows in float64, and the weight of each in the objective."""
    parts = [(target, (1 - alpha) / target.count)]
    if source is not None:
        parts.append((source, alpha / source.count))
    X, Y = (np.concatenate([getattr(part, name) for part, _ in parts]).astype(np.float64) for name in "XY")
    return X, Y, np.concatenate([np.full(part.count, weight) for part, weight in parts])


def slow_scale(target: PairArrays, source: PairArrays | None, alpha: float) -> float:
    """Mean eigenvalue of the weighted covariance of the features."""
    X, _, weights = weighted_rows(target, source, alpha)
    return float(np.mean(np.linalg.eigvalsh(np.cov(X.T, aweights=weights, ddof=0))))


def slow_ridge(X: Matrix, Y: Matrix, weights: Vector, penalty: float) -> tuple[Matrix, Vector]:
    """Least squares on weighted rows with a column of ones, below them a row a feature that pulls its weight to 0."""
    root = np.sqrt(weights)[:, None]
    rows = np.vstack([root * np.hstack([X, np.ones((len(X), 1))]), np.sqrt(penalty) * np.eye(X.shape[1] + 1)[:-1]])
    right = np.vstack([root * Y, np.zeros((X.shape[1], Y.shape[1]))])
    solution = np.linalg.lstsq(rows, right, rcond=None)[0]
    return solution[:-1], solution[-1]


def slow_left_out(target: PairArrays, source: PairArrays | None, alpha: float, strength: float) -> Matrix:
    """Predict every pair by a refit on the rows of the other groups, each with the weight that it has in the whole."""
    X, Y, weights = weighted_rows(target, source, alpha)
    penalty = strength * slow_scale(target, source, alpha)
    predicted = np.empty(target.Y.shape)
    for group in np.unique(target.codes):
        gone = np.zeros(len(X), dtype=bool)
        gone[: target.count] = target.codes == group
        weight, bias = slow_ridge(X[~gone], Y[~gone], weights[~gone], penalty)
        predicted[gone[: target.count]] = X[gone] @ weight + bias
    return predicted
