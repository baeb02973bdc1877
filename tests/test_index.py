"""Exact search against a double loop over queries and rows."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Float

from chiasm.retrieval import ExactIndex, Ranking, index

Matrix = Float[np.ndarray, "rows dim"]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad shapes reach our own checks, also where the test run checks shapes at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def slow_search(
    vectors: Matrix, owners: list[str] | None, queries: Matrix, k: int, among: Bool[np.ndarray, " rows"] | None
) -> Ranking:
    rows = np.full((len(queries), k), -1)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for number, query in enumerate(queries):
        found = []
        for row, vector in enumerate(vectors):
            if among is None or among[row]:
                found.append((-float(np.dot(query, vector)), row))
        seen: set[str | int] = set()
        place = 0
        for score, row in sorted(found):
            owner = row if owners is None else owners[row]
            if owner not in seen and place < k:
                seen.add(owner)
                rows[number, place], scores[number, place] = row, -score
                place += 1
    return Ranking(rows, scores)


def assert_same(found: Ranking, expected: Ranking) -> None:
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    assert found.scores.dtype == np.float32


def gallery(rows: int, dim: int = 5, *, seed: int = 0) -> Matrix:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


@st.composite
def searches(draw: st.DrawFn) -> tuple[Matrix, list[str] | None, Matrix, int, Bool[np.ndarray, " rows"] | None]:
    """Vectors of few whole numbers, so that scores are exact and ties are many."""
    rows, queries, dim = draw(st.integers(0, 14)), draw(st.integers(0, 5)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors, asked = (rng.integers(-1, 2, (n, dim)).astype(np.float32) for n in (rows, queries))
    owners = [f"item {number}" for number in rng.integers(0, draw(st.integers(1, 14)), rows)]
    among = rng.random(rows) < draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
    k = draw(st.integers(1, 17))
    return vectors, draw(st.sampled_from([None, owners])), asked, k, draw(st.sampled_from([None, among]))


@given(searches(), st.sampled_from([1, 20, index.SCORES]))
@settings(max_examples=400, deadline=None)
def test_search_restated_as_a_double_loop(
    search: tuple[Matrix, list[str] | None, Matrix, int, Bool[np.ndarray, " rows"] | None], at_a_time: int
) -> None:
    vectors, owners, queries, k, among = search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "SCORES", at_a_time)  # 1: every query by itself
        found = ExactIndex(vectors, owners).search(queries, k=k, among=among)
    assert_same(found, slow_search(vectors, owners, queries, k, among))


@pytest.mark.parametrize("per_owner", [1, 2, 7])
@pytest.mark.parametrize("share", [None, 0.02, 0.5])
def test_a_larger_gallery(per_owner: int, share: float | None) -> None:
    vectors, queries = gallery(3000, 16), gallery(9, 16, seed=1)
    rng = np.random.default_rng(2)
    owners = [f"item {number}" for number in rng.permutation(np.arange(3000) // per_owner)]
    among = None if share is None else rng.random(3000) < share
    found = ExactIndex(vectors, owners).search(queries, k=10, among=among)
    assert_same(found, slow_search(vectors, owners, queries, 10, among))


def test_a_vector_finds_itself_first() -> None:
    vectors = gallery(50)
    found = ExactIndex(vectors).search(vectors, k=3)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(50))
    np.testing.assert_allclose(found.scores[:, 0], 1, atol=1e-6)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_of_one_owner_only_the_best_row_is_found() -> None:
    vectors = np.array([[0.6, 0.8], [1, 0], [0.8, 0.6], [0, 1]], np.float32)
    found = ExactIndex(vectors, ["a", "b", "a", "b"]).search(np.array([[1, 0]], np.float32), k=4)
    np.testing.assert_array_equal(found.rows, [[1, 2, -1, -1]])
    np.testing.assert_allclose(found.scores, [[1, 0.8, -np.inf, -np.inf]])


def test_a_mask_that_hides_the_best_row_shows_the_next_of_its_owner() -> None:
    vectors = np.array([[0.6, 0.8], [1, 0], [0.8, 0.6], [0, 1]], np.float32)
    among = np.array([True, False, False, True])
    found = ExactIndex(vectors, ["a", "b", "a", "b"]).search(np.array([[1, 0]], np.float32), k=2, among=among)
    np.testing.assert_array_equal(found.rows, [[0, 3]])


def test_many_ties_at_the_last_place_are_cut_in_the_order_of_rows() -> None:
    vectors = np.ones((1000, 2), np.float32)
    vectors[700] = 2
    found = ExactIndex(vectors).search(np.ones((1, 2), np.float32), k=5)
    np.testing.assert_array_equal(found.rows, [[700, 0, 1, 2, 3]])


def test_an_empty_gallery_has_no_hits() -> None:
    empty = np.empty((0, 3), np.float32)
    for gallery in (ExactIndex(empty), ExactIndex(empty, [])):
        found = gallery.search(np.ones((2, 3), np.float32), k=4)
        np.testing.assert_array_equal(found.rows, np.full((2, 4), -1))
        np.testing.assert_array_equal(found.scores, np.full((2, 4), -np.inf))


def test_no_queries_have_no_hits() -> None:
    found = ExactIndex(gallery(5)).search(np.empty((0, 5), np.float32), k=4)
    assert found.rows.shape == found.scores.shape == (0, 4)


def test_a_search_leaves_the_gallery_alone() -> None:
    vectors = gallery(20)
    before = vectors.copy()
    ExactIndex(vectors).search(vectors[:2], k=3, among=np.arange(20) % 2 == 0)
    np.testing.assert_array_equal(vectors, before)


def test_k_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        ExactIndex(gallery(5)).search(gallery(1), k=0)


@pytest.mark.parametrize("rows", [0, 5])
def test_queries_have_the_width_of_the_gallery(rows: int) -> None:
    with pytest.raises(ValueError, match="queries have 4 dimensions and the gallery 5"):
        ExactIndex(gallery(rows)).search(gallery(1, 4), k=1)


@pytest.mark.usefixtures("unchecked")
def test_a_mask_has_the_length_of_the_gallery() -> None:
    with pytest.raises(ValueError, match="the mask has 4 rows and the gallery 5"):
        ExactIndex(gallery(5)).search(gallery(1), k=1, among=np.ones(4, bool))


def test_every_row_has_an_owner() -> None:
    with pytest.raises(ValueError, match="5 vectors need as many owners; got 4"):
        ExactIndex(gallery(5), ["a", "b", "c", "d"])


def test_owners_may_be_numbers() -> None:
    vectors, queries = gallery(40), gallery(3, seed=1)
    numbers = np.random.default_rng(0).integers(-(2**62), 2**62, 9)[np.arange(40) % 9]
    by_name = ExactIndex(vectors, [str(number) for number in numbers]).search(queries, k=5)
    assert_same(ExactIndex(vectors, numbers).search(queries, k=5), by_name)


def test_rows_may_have_numbers_of_their_own() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    found = ExactIndex(vectors, rows=np.array([9, 4, 7, 6])).search(np.array([[1, 0]], np.float32), k=3)
    np.testing.assert_array_equal(found.rows, [[4, 6, 9]])  # of equal scores the lower number
    with pytest.raises(ValueError, match="4 vectors need as many numbers; got 1"):
        ExactIndex(vectors, rows=np.array([1]))


@given(
    st.integers(1, 700),
    st.integers(1, 40),
    st.integers(1, 3),
    st.sampled_from([1, 100, 2**18]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_float16_rows_are_widened_without_loss(rows: int, dim: int, queries: int, at_a_time: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((rows, dim)) * 10.0 ** rng.integers(-7, 1, (rows, dim))).astype(np.float16)
    asked = rng.standard_normal((queries, dim)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "WIDENED", at_a_time)
        found = index.products(asked, vectors)
    np.testing.assert_allclose(found, asked @ vectors.astype(np.float32).T, rtol=1e-5, atol=1e-5)


def test_every_finite_float16_is_widened_to_itself() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    found = index.products(np.ones((1, 1), np.float32), every[:, None])
    np.testing.assert_array_equal(found[0], every.astype(np.float32))


def test_few_allowed_rows_are_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = gallery(2000, 16), gallery(3, 16, seed=1)
    among = np.zeros(2000, bool)
    among[np.random.default_rng(0).choice(2000, 100, replace=False)] = True
    read = []
    real = index.products

    def counted(asked: Matrix, part: Matrix) -> Matrix:
        read.append(len(part))
        found: Matrix = real(asked, part)
        return found

    monkeypatch.setattr(index, "products", counted)
    monkeypatch.setattr(index, "COPIED", 16 * 32)
    found = ExactIndex(vectors).search(queries, k=10, among=among)
    assert_same(found, slow_search(vectors, None, queries, 10, among))
    assert sum(read) == 100
    assert max(read) == 32


def test_a_memory_map_is_searched_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SCORES", 2**14)
    monkeypatch.setattr(index, "WIDENED", 2**14)
    vectors = gallery(60_000, 32)
    queries = gallery(4, 32, seed=1)
    for kind in (np.float32, np.float16):
        path = tmp_path / f"{np.dtype(kind).name}.npy"
        np.save(path, vectors.astype(kind))
        mapped = np.load(path, mmap_mode="r")
        owners = np.arange(60_000) // 2
        tracemalloc.start()
        found = ExactIndex(mapped, owners).search(queries, k=10)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * 2**20  # float32: 7.7 MB of vectors
        assert_same(found, ExactIndex(vectors.astype(kind).astype(np.float32), owners).search(queries, k=10))
