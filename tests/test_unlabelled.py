"""Labels guessed for unlabelled rows are those of the planted clusters, and say how far they can be trusted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import kneighbors_graph

from chiasm.recognition.unlabelled import guess_labels
from chiasm.splits import Shots
from chiasm.vectors import unit_rows


def clusters(seed: int, noise: float, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Rows around four centres; the centres are the same for every seed."""
    rng = np.random.default_rng(seed)
    codes = np.arange(rows) % 4
    centres = np.random.default_rng(0).normal(size=(4, 16))
    return unit_rows(centres[codes] + noise * rng.normal(size=(rows, 16))), codes


def moons(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles that reach into each other, as embeddings: inner products are nearly an RBF kernel."""
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 2
    angle = np.pi * rng.random(rows)
    flat = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    flat[y == 1] = [1, 0.5] - flat[y == 1]
    flat += 0.08 * rng.normal(size=flat.shape)
    fixed = np.random.default_rng(99)
    waves = flat @ (fixed.normal(size=(2, 150)) / 0.3) + fixed.uniform(0, 2 * np.pi, 150)
    return unit_rows(np.cos(waves)), y


def agrees(shots: Shots, X: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Whether each guess is the class of the row it was made for."""
    return np.array(
        [code == codes[(row == X).all(axis=1).argmax()] for row, code in zip(shots.X, shots.y, strict=True)]
    )


@pytest.mark.parametrize("kind", ["self-training", "spreading"])
def test_guesses_find_the_clusters_and_are_less_sure_between_them(kind: Any) -> None:
    X, codes = clusters(seed=1, noise=1.2)
    shots = guess_labels(kind, X[:8], codes[:8], X[8:])
    assert shots is not None
    right = agrees(shots, X, codes)
    assert right.mean() > 0.7
    assert (shots.weight > 0).all()
    assert (shots.weight <= 1).all()
    assert shots.weight[right].mean() > shots.weight[~right].mean()


def test_self_training_leaves_the_least_confident_rows_out() -> None:
    X, codes = clusters(seed=1, noise=0.7)
    shots = guess_labels("self-training", X[:8], codes[:8], X[8:])
    assert shots is not None
    assert len(shots) == 4 * np.ceil(0.2 * 292)


def test_spreading_follows_a_shape_that_class_means_cannot() -> None:
    nearest, spread = [], []
    for seed in range(5):
        X, y = moons(400, seed)
        ends = np.array([0, 1])
        nearest.append((X[2:] @ X[ends].T).argmax(axis=1) == y[2:])
        shots = guess_labels("spreading", X[ends], y[ends], X[2:])
        assert shots is not None
        spread.append(agrees(shots, X, y))
    assert np.mean(spread) > np.mean(nearest) + 0.1


def test_spreading_solves_the_equation_of_the_paper() -> None:
    """F = alpha S F + (1 - alpha) Y on the graph of neighbours, by a dense solver."""
    X, codes = clusters(seed=2, noise=1.0, rows=60)
    graph = kneighbors_graph(X, 11, include_self=True).toarray()
    np.fill_diagonal(graph, 0)
    root = 1 / np.sqrt(graph.sum(axis=0))
    Y = np.zeros((60, 4))
    Y[np.arange(8), codes[:8]] = 1
    F = np.linalg.solve(np.eye(60) - 0.9 * (root[:, None] * graph * root), 0.1 * Y)
    shares = F / F.sum(axis=1, keepdims=True)
    shots = guess_labels("spreading", X[:8], codes[:8], X[8:])
    assert shots is not None
    np.testing.assert_array_equal(shots.y, shares[8:].argmax(axis=1))
    np.testing.assert_allclose(shots.weight, shares[8:].max(axis=1), atol=0.02)


def test_rows_that_no_label_reaches_are_left_out() -> None:
    near, far = np.eye(40)[:1].repeat(15, axis=0), np.eye(40)[1:2].repeat(15, axis=0)
    shots = guess_labels("spreading", np.vstack([near[:2]]), np.array([0, 1]), np.vstack([near[2:], far]))
    assert shots is not None
    assert (near[0] == shots.X).all()


def test_one_class_has_nothing_to_tell_apart() -> None:
    X, _ = clusters(seed=1, noise=0.7, rows=20)
    assert guess_labels("spreading", X[:5], np.zeros(5, dtype=np.int64), X[5:]) is None
