"""Rankings agree with counting by hand, and never favour a model that cannot tell apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.errors import LabelError
from chiasm.evaluation.ranking import retrieval_metrics, retrieval_metrics_from_embeddings, same_group


def ranks_by_hand(scores: np.ndarray, relevant: np.ndarray) -> list[list[int]]:
    """For each query the ranks of its relevant items when, among equals, the irrelevant ones stand first."""
    every = []
    for row, wanted in zip(scores.tolist(), relevant.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], wanted[j]))
        every.append([place for place, j in enumerate(order, start=1) if wanted[j]])
    return every


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 6),
    gallery=st.integers(1, 12),
    levels=st.integers(1, 6),
    ks=st.sampled_from([(1, 5, 10), (3,), (2, 20)]),
)
def test_retrieval_agrees_with_counting_by_hand(
    seed: int, queries: int, gallery: int, levels: int, ks: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(queries, gallery)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    relevant = rng.random((queries, gallery)) < 0.4
    relevant[np.arange(queries), rng.integers(gallery, size=queries)] = True
    metrics = retrieval_metrics(scores, relevant, ks=ks)
    ranks = ranks_by_hand(scores, relevant)
    first = [row[0] for row in ranks]
    assert metrics.ranks.tolist() == first
    assert metrics.mrr == pytest.approx(np.mean([1 / rank for rank in first]))
    assert metrics.median_rank == np.median(first)
    for k in ks:
        assert metrics.hit[k] == pytest.approx(np.mean([rank <= k for rank in first]))
        assert metrics.recall[k] == pytest.approx(np.mean([np.mean([rank <= k for rank in row]) for row in ranks]))


def test_a_ranking_with_a_known_answer() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.5, 0.4]])
    relevant = np.array([[True, False, True], [True, False, False]])
    assert retrieval_metrics(scores, relevant, ks=(1, 2)).as_dict() == {
        "hit@1": 0.5,
        "hit@2": 0.5,
        "recall@1": 0.25,
        "recall@2": 0.25,
        "mrr": pytest.approx((1 + 1 / 3) / 2),
        "median_rank": 2.0,
        "queries": 2,
    }


@pytest.mark.parametrize("value", [0.0, 1.0, -np.inf])
def test_a_model_that_scores_all_alike_finds_nothing(value: float) -> None:
    metrics = retrieval_metrics(np.full((50, 50), value), np.eye(50, dtype=bool))
    assert metrics.hit == {1: 0, 5: 0, 10: 0}
    assert metrics.recall == {1: 0, 5: 0, 10: 0}
    assert metrics.median_rank == 50
    assert metrics.mrr == pytest.approx(1 / 50)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_that_embeds_all_alike_finds_nothing(dtype: type) -> None:
    one: np.ndarray = np.random.default_rng(0).normal(size=384).astype(dtype)
    one /= np.linalg.norm(one)
    queries, gallery = np.tile(one, (37, 1)), np.tile(one, (523, 1))
    metrics = retrieval_metrics_from_embeddings(
        queries, gallery, query_groups=np.arange(37), gallery_groups=np.arange(523)
    )
    assert metrics.hit[10] == 0
    assert metrics.median_rank == 523


def test_blocks_of_embeddings_give_what_the_whole_matrix_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    gallery = rng.normal(size=(60, 8)).astype(np.float32)
    gallery_groups = rng.integers(30, size=60)
    query_groups = gallery_groups[:23]
    queries = (gallery[:23] + rng.normal(size=(23, 8))).astype(np.float32)
    whole = retrieval_metrics(queries @ gallery.T, same_group(query_groups, gallery_groups))
    monkeypatch.setattr("chiasm.evaluation.ranking._BLOCK", 60 * 4)
    blocked = retrieval_metrics_from_embeddings(
        queries, gallery, query_groups=query_groups, gallery_groups=gallery_groups
    )
    assert blocked.as_dict() == whole.as_dict()
    assert 0 < blocked.recall[5] < blocked.hit[5] < 1
    again = retrieval_metrics(queries @ gallery.T, same_group(query_groups, gallery_groups))
    assert again.as_dict() == whole.as_dict()


def test_groups_may_be_captions() -> None:
    relevant = same_group(["a frog", "a bird"], ["a bird", "a frog", "a frog"])
    assert relevant.tolist() == [[False, True, True], [True, False, False]]


ONE = np.eye(2, dtype=bool)


@pytest.mark.parametrize(
    ("scores", "relevant", "ks", "message"),
    [
        (np.zeros((2, 3)), ONE, (1,), r"matrices of one shape.* got float64 \(2, 3\) and bool \(2, 2\)"),
        (np.zeros((2, 2)), np.eye(2), (1,), "relevant of booleans"),
        (np.array([[0, 1], [np.nan, 0]]), ONE, (1,), "scores of 1 queries hold NaN, first query 1"),
        (np.zeros((2, 2)), np.array([[True, True], [False, False]]), (1,), r"1 queries have no relevant item.*\[1\]"),
        (np.zeros((2, 2)), ONE, (), "ks must be one or more numbers"),
        (np.zeros((2, 2)), ONE, (0, 5), r"of at least 1; got \(0, 5\)"),
        (np.zeros((0, 2)), np.zeros((0, 2), dtype=bool), (1,), "no queries to measure on"),
    ],
)
def test_rankings_that_cannot_be_measured_are_refused(scores, relevant, ks, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        retrieval_metrics(scores, relevant, ks=ks)


def test_embeddings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LabelError, match=r"equal width; got \(2, 3\) and \(2, 4\)"):
        retrieval_metrics_from_embeddings(
            np.zeros((2, 3)), np.zeros((2, 4)), query_groups=[0, 1], gallery_groups=[0, 1]
        )
    with pytest.raises(LabelError, match="2 queries have 1 groups"):
        retrieval_metrics_from_embeddings(np.zeros((2, 3)), np.zeros((1, 3)), query_groups=[0], gallery_groups=[0])
    with pytest.raises(LabelError, match="scores of 1 queries hold NaN"):
        retrieval_metrics_from_embeddings(
            np.array([[np.nan, 1.0]]), np.ones((1, 2)), query_groups=[0], gallery_groups=[0]
        )
    with pytest.raises(LabelError, match="different kinds and would never match"):
        same_group(["1"], [1])
