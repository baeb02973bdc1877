"""Metrics as inner products against their definitions, and covariance statistics against scikit-learn and scipy."""

from __future__ import annotations

import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.covariance import ledoit_wolf

from chiasm.errors import SpaceError
from chiasm.retrieval import metrics
from chiasm.retrieval.metrics import METRICS, InnerProduct, MahalanobisIndex, Metric, VectorStatistics, Whitening


def vectors(rows: int, *, seed: int = 0, dim: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, dim)) @ rng.standard_normal((dim, dim)) + 3).astype(np.float32)


def space(metric: Metric, x: np.ndarray) -> InnerProduct:
    return InnerProduct(
        metric, VectorStatistics.from_vectors(x).whitening(shrinkage=0.1) if metric == "mahalanobis" else None
    )


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad shapes and names reach our own checks, also where the test run checks them at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("metric", METRICS)
def test_compare_restated_by_definition(metric: Metric) -> None:
    x, q = vectors(40), vectors(5, seed=1)
    found = space(metric, x).compare(q, x)
    if metric == "cosine":
        expected = 1 - cdist(q, x, "cosine")
    elif metric == "dot":
        expected = q @ x.T
    elif metric == "l2":
        expected = -cdist(q, x)
    else:
        covariance = np.cov(x.T, bias=True)
        shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 6 * np.eye(6)
        expected = -cdist(q, x, "mahalanobis", VI=np.linalg.inv(shrunk))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_an_inner_product_index_ranks_by_the_metric(metric: Metric) -> None:
    x, q = vectors(60), vectors(7, seed=2)
    way = space(metric, x)
    products = way.queries(q) @ way.gallery(x).T
    np.testing.assert_array_equal(np.argsort(-products, axis=1)[:, :5], np.argsort(-way.compare(q, x), axis=1)[:, :5])


def test_what_was_not_found_stays_so() -> None:
    q = vectors(1)
    for metric in METRICS:
        assert space(metric, vectors(9)).scores(np.array([[-np.inf]], np.float32), q)[0, 0] == -np.inf


def test_distance_to_itself_is_zero() -> None:
    x = vectors(9)
    assert np.abs(np.diag(InnerProduct("l2").compare(x, x))).max() < 0.02


@given(st.integers(3, 30), st.integers(0, 100))
def test_shrinkage_is_ledoit_and_wolfs_and_adds_up(rows: int, seed: int) -> None:
    x = vectors(rows, seed=seed)
    whole = VectorStatistics.from_vectors(x)
    parts = VectorStatistics.from_vectors(x[:2]) + VectorStatistics.from_vectors(x[2:])
    expected = ledoit_wolf(x.astype(np.float64))[1]
    assert whole.shrinkage == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert parts.shrinkage == pytest.approx(expected, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(parts.covariance, np.cov(x.T, bias=True), rtol=1e-4, atol=1e-4)


def test_whitened_vectors_have_the_covariance_of_noise() -> None:
    x = vectors(500)
    white = VectorStatistics.from_vectors(x).whitening(shrinkage=0.0)(x)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=2e-3)
    half = VectorStatistics.from_vectors(x).whitening(shrinkage=0.0, power=0.5)(x)
    spread = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(half.T, bias=True)), np.sqrt(spread), rtol=2e-2)


def nearest(x: np.ndarray, q: np.ndarray, owners: np.ndarray, may: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """The k nearest owners by definition, by their nearest row."""
    covariance = ledoit_wolf(x.astype(np.float64))[0]
    distances = cdist(q[None], x, "mahalanobis", VI=np.linalg.inv(covariance))[0]
    found: dict[int, int] = {}
    for row in np.argsort(distances, kind="stable").tolist():
        if may[row]:
            found.setdefault(int(owners[row]), row)
    rows = list(found.values())[:k]
    return rows, [-float(distances[row]) for row in rows]


@pytest.mark.parametrize("height", [1, 7, 10_000])
@pytest.mark.parametrize("picked", [False, True])
def test_mahalanobis_search_restated_by_definition(monkeypatch: pytest.MonkeyPatch, height: int, picked: bool) -> None:
    """However the rows are read, and whether they are all of the matrix or some."""
    monkeypatch.setattr(metrics, "COPIED", height * 6)
    rng = np.random.default_rng(1)
    every, owners = vectors(90), rng.integers(0, 20, 60)
    rows = np.sort(rng.permutation(90)[:60]) if picked else None
    x = every[rows] if rows is not None else every[:60]
    index = MahalanobisIndex(every if picked else x, owners, rows=rows)
    may = rng.random(60) < 0.6
    queries = vectors(4, seed=3)
    ranking = index.search(queries, k=15, among=may)
    for row, q in enumerate(queries):
        expected, scores = nearest(x, q, owners, may, 15)
        found = ranking.rows[row]
        assert found[found >= 0].tolist() == expected
        np.testing.assert_allclose(ranking.scores[row][found >= 0], scores, rtol=1e-3)
        assert (ranking.scores[row][found < 0] == -np.inf).all()
    assert index.search(x[:1], k=1).scores[0, 0] == pytest.approx(0, abs=0.02)


def test_mahalanobis_search_passes_over_zeros_and_needs_a_spread() -> None:
    x = vectors(30)
    x[[3, 4]] = 0
    index = MahalanobisIndex(x)
    found = index.search(np.zeros((1, 6), np.float32), k=30).rows[0]
    assert sorted(found.tolist()) == [-1, -1, *(row for row in range(30) if row not in {3, 4})]
    expected = VectorStatistics.from_vectors(np.delete(x, [3, 4], axis=0)).whitening()
    np.testing.assert_allclose(index.whitening.matrix, expected.matrix, rtol=1e-4, atol=1e-5)
    with pytest.raises(SpaceError, match="no vectors to measure a Mahalanobis distance among"):
        MahalanobisIndex(np.zeros((5, 3), np.float32))
    with pytest.raises(SpaceError, match="1 vectors that are all equal"):
        MahalanobisIndex(vectors(1))


def test_a_large_gallery_is_whitened_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SAMPLE", 400)
    x = vectors(2000)
    index = MahalanobisIndex(x)
    whole = VectorStatistics.from_vectors(x).whitening()
    assert not np.array_equal(index.whitening.matrix, whole.matrix)
    np.testing.assert_allclose(index.whitening.matrix, whole.matrix, rtol=0.3, atol=0.1)
    np.testing.assert_array_equal(index.whitening.matrix, MahalanobisIndex(x).whitening.matrix)
    assert len(set(index.search(x[:1], k=2000).rows[0].tolist())) == 2000, "all rows are found all the same"


def test_a_direction_without_spread_does_not_divide_by_zero() -> None:
    x = vectors(5000)
    x[:, 5] = 1
    white = MahalanobisIndex(x).whitening(x)
    assert np.isfinite(white).all()
    np.testing.assert_allclose(white[:, :2].std(), 1, atol=1)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained() -> None:
    x = vectors(4)
    some = VectorStatistics.from_vectors(x)
    with pytest.raises(SpaceError, match=r"no metric 'euclid'. There are cosine, dot, l2, mahalanobis"):
        InnerProduct("euclid")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="needs a whitening"):
        InnerProduct("mahalanobis")
    with pytest.raises(SpaceError, match="no other metric takes one"):
        InnerProduct("l2", Whitening(np.zeros(2, np.float32), np.eye(2, dtype=np.float32)))
    with pytest.raises(SpaceError, match="singular: give a shrinkage"):
        some.whitening(shrinkage=0.0)
    with pytest.raises(SpaceError, match="from 0 to 1; got 2"):
        some.whitening(shrinkage=2.0)
    with pytest.raises(SpaceError, match="all equal"):
        VectorStatistics.from_vectors(np.ones((5, 3), np.float32)).whitening()
    with pytest.raises(SpaceError, match="6 and of 3 dimensions"):
        some + VectorStatistics.from_vectors(vectors(4, dim=3))
    with pytest.raises(SpaceError, match="at least one vector"):
        VectorStatistics.from_vectors(x[:0])
    with pytest.raises(SpaceError, match="finite"):
        VectorStatistics.from_vectors(np.full((2, 2), np.nan, np.float32))
