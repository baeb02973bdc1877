"""Approximate search: exact where it reads everything, and near to exact where it reads a part."""

from __future__ import annotations

import tracemalloc

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from chiasm.retrieval import approximate, index
from chiasm.retrieval.approximate import Lists, PartitionedIndex, divide, partitioned
from chiasm.retrieval.index import ExactIndex, Ranking

Matrix = Float[np.ndarray, "rows dim"]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad shapes reach our own checks, also where the test run checks shapes at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def clustered(rows: int, dim: int = 32, *, clusters: int = 60, seed: int = 0) -> Matrix:
    """Unit vectors around directions that are the same for every seed."""
    centres = np.random.default_rng(99).standard_normal((clusters, dim))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, clusters, rows)] + 0.7 * rng.standard_normal((rows, dim))
    unit: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return unit


def share_found(found: Ranking, truth: Ranking) -> float:
    return float(np.mean([np.isin(t, f).mean() for f, t in zip(found.rows, truth.rows, strict=True)]))


# ------------------------------------------------------------------------------------------------------ exactness


@given(
    rows=st.integers(1, 60),
    dim=st.integers(1, 4),
    count=st.integers(1, 8),
    k=st.integers(1, 70),
    owned=st.booleans(),
    share=st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]),
    at_a_time=st.sampled_from([5, 2**24]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=80, deadline=None)
def test_reading_every_list_is_exact_search(
    rows: int, dim: int, count: int, k: int, owned: bool, share: float | None, at_a_time: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-1, 2, (rows, dim)).astype(
        np.float32
    )  # few whole numbers: ties, zeros, lists that are empty
    queries = rng.integers(-1, 2, (3, dim)).astype(np.float32)
    owners = [f"item {number}" for number in rng.integers(0, rows, rows)] if owned else None
    among = None if share is None else rng.random(rows) < share
    built = partitioned(vectors, owners, count=min(rows, count), seed=seed)
    assert built.rows is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximate, "SCORES", at_a_time)
        patch.setattr(approximate, "SCATTERED", rng.choice([0, 1000]))  # with and without lists
        found = built.search(queries, k=k, among=None if among is None else among[built.rows], probes=8)
    expected = ExactIndex(vectors, owners).search(queries, k=k, among=among)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)


@given(
    k=st.integers(1, 80),
    share=st.sampled_from([None, 0.001, 0.02, 0.3]),
    per_owner=st.sampled_from([1, 5, 40]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, deadline=None)
def test_as_many_hits_as_there_are(k: int, share: float | None, per_owner: int, seed: int) -> None:
    """However few lists are read at first: a filter or many rows an owner never make a result shorter."""
    rng = np.random.default_rng(seed)
    owners = rng.permutation(1500) // per_owner
    built = partitioned(clustered(1500), owners, count=40)
    among = None if share is None else rng.random(1500) < share
    found = built.search(clustered(2, seed=seed + 1), k=k, among=among, probes=1)
    assert built.owners is not None
    there = len(np.unique(built.owners if among is None else built.owners[among]))
    assert ((found.rows >= 0).sum(axis=1) == min(k, there)).all()
    for row in found.rows:
        hits = owners[row[row >= 0]]
        assert len(np.unique(hits)) == len(hits)


def test_scores_are_those_of_the_vectors() -> None:
    vectors, queries = clustered(2000), clustered(5, seed=1)
    found = partitioned(vectors).search(queries, k=10)
    np.testing.assert_allclose(found.scores, np.take_along_axis(queries @ vectors.T, found.rows, axis=1), atol=1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_an_owner_is_found_by_its_best_row() -> None:
    vectors = clustered(3000)
    owners = [f"item {number // 3}" for number in range(3000)]
    found = partitioned(vectors, owners).search(vectors[:50], k=5)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(50))
    assert all(len({row // 3 for row in line}) == 5 for line in found.rows)


# --------------------------------------------------------------------------------------------------------- recall


def test_few_rows_are_read_and_nearly_all_neighbours_found(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = clustered(20_000), clustered(100, seed=1)
    built = partitioned(vectors)
    truth = ExactIndex(vectors).search(queries, k=10)
    read = 0
    real = index.products

    def counted(asked: Matrix, part: Matrix) -> Matrix:
        nonlocal read
        read += len(part)
        found: Matrix = real(asked, part)
        return found

    monkeypatch.setattr(approximate, "products", counted)
    found = built.search(queries, k=10)
    assert share_found(found, truth) >= 0.95
    assert read / len(queries) < 0.25 * len(vectors)
    assert built.lists.recall >= approximate.RECALL


def test_the_recall_that_is_said_is_that_of_rows_that_ask_for_others() -> None:
    """Restated: each sampled row asks for its ten nearest, itself apart, and reads so many lists."""
    vectors = clustered(3000)
    lists, order = divide(lambda at: vectors[at], len(vectors), recall=0.7, count=50, seed=3)
    rng = np.random.default_rng(3)
    rng.choice(len(vectors), min(3000, approximate.LEARNED_FROM * 50), replace=False)
    asked = np.sort(rng.choice(len(vectors), approximate.ASKED, replace=False))
    member = np.empty(len(vectors), int)
    for number in range(50):
        member[order[lists.starts[number] : lists.starts[number + 1]]] = number
    inside = []
    for row in asked:
        near = [other for other in np.argsort(-(vectors @ vectors[row])) if other != row][:10]
        read = np.argsort(-(lists.centres @ vectors[row]))[: lists.probes]
        inside += [member[other] in read for other in near]
    assert np.mean(inside) == pytest.approx(lists.recall, abs=0.002)
    assert lists.recall >= 0.7


def test_more_recall_reads_more_lists() -> None:
    vectors = clustered(5000, clusters=5000)
    low, high = (partitioned(vectors, recall=recall).lists for recall in (0.5, 0.99))
    assert low.probes < high.probes
    assert low.recall < high.recall


def test_queries_of_another_kind_read_more_lists() -> None:
    vectors = clustered(5000)
    far = np.random.default_rng(5).standard_normal((100, 32)).astype(np.float32)
    far /= np.linalg.norm(far, axis=1, keepdims=True)
    assert partitioned(vectors, queries=far).lists.probes > partitioned(vectors).lists.probes


def test_rows_lie_with_their_nearest_centre() -> None:
    vectors = clustered(1000)
    built = partitioned(vectors, count=20)
    nearest = (built.vectors @ built.lists.centres.T).argmax(axis=1)
    np.testing.assert_array_equal(np.repeat(np.arange(20), np.diff(built.lists.starts)), nearest)
    np.testing.assert_array_equal(vectors[built.rows], built.vectors)


def test_the_same_seed_divides_the_same_way() -> None:
    first, second = (partitioned(clustered(500), seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.lists.centres, second.lists.centres)
    np.testing.assert_array_equal(first.vectors, second.vectors)


@pytest.mark.parametrize("rows", [1, 2, 11])
def test_equal_or_zero_vectors_can_be_divided(rows: int) -> None:
    for vectors in (np.zeros((rows, 3), np.float32), np.ones((rows, 3), np.float32)):
        found = partitioned(vectors).search(np.ones((1, 3), np.float32), k=20)
        np.testing.assert_array_equal(found.rows[0, :rows], np.arange(rows))
        assert (found.rows[0, rows:] == -1).all()


def test_a_search_holds_a_bounded_part_of_the_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    built = partitioned(clustered(40_000), count=400)
    monkeypatch.setattr(approximate, "SCORES", 2**16)
    among = np.random.default_rng(0).random(40_000) < 0.9
    tracemalloc.start()
    built.search(clustered(2, seed=1), k=10, among=among, probes=400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20  # the gallery has 5 MB


# ------------------------------------------------------------------------------------------------------ bad input


def test_what_cannot_be_divided() -> None:
    with pytest.raises(ValueError, match="a gallery without vectors cannot be divided"):
        partitioned(np.empty((0, 3), np.float32))
    with pytest.raises(ValueError, match=r"recall is a share above 0 up to 1; got 1\.5"):
        partitioned(clustered(5), recall=1.5)
    with pytest.raises(ValueError, match="5 vectors can be in 1 to 5 lists; got 6"):
        partitioned(clustered(5), count=6)
    with pytest.raises(ValueError, match="5 vectors need as many owners; got 1"):
        partitioned(clustered(5), ["a"])


def test_what_cannot_be_searched() -> None:
    built = partitioned(clustered(50))
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        built.search(clustered(1), k=0)
    with pytest.raises(ValueError, match="queries have 4 dimensions and the gallery 32"):
        built.search(clustered(1, 4), k=1)
    with pytest.raises(ValueError, match="a query reads at least 1 list; got 0"):
        built.search(clustered(1), k=1, probes=0)


@pytest.mark.usefixtures("unchecked")
def test_parts_that_do_not_fit() -> None:
    built = partitioned(clustered(50), count=5)
    with pytest.raises(ValueError, match="the mask has 4 rows and the gallery 50"):
        built.search(clustered(1), k=1, among=np.ones(4, bool))
    with pytest.raises(ValueError, match="the lists divide 50 vectors of 32 dimensions; got 49 of 32"):
        PartitionedIndex(built.vectors[1:], built.lists)
    with pytest.raises(ValueError, match="50 vectors need as many numbers; got 2"):
        PartitionedIndex(built.vectors, built.lists, rows=np.arange(2))
    with pytest.raises(ValueError, match="5 lists need 6 rising bounds from 0; got 3"):
        Lists(built.lists.centres, np.arange(3), 1, 1.0)
    with pytest.raises(ValueError, match="of 5 lists a query reads 1 to 5; got 9"):
        Lists(built.lists.centres, built.lists.starts, 9, 1.0)
