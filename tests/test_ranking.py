"""Rankings agree with counting by hand, and never favour a model that cannot tell apart."""

from __future__ import annotations

import json
import math
from typing import Any

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, R, Success, nDCG

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import mean_interval
from chiasm.evaluation.ranking import (
    RetrievalMetrics,
    modality_shares,
    pair_retrieval,
    paired_metrics,
    retrieval_metrics,
)


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
    assert metrics.means["mrr"] == pytest.approx(np.mean([1 / rank for rank in first]))
    assert metrics.median_rank == np.median(first)
    for k in ks:
        assert metrics.means[f"hit@{k}"] == pytest.approx(np.mean([rank <= k for rank in first]))
        assert metrics.means[f"recall@{k}"] == pytest.approx(
            np.mean([np.mean([rank <= k for rank in row]) for row in ranks])
        )


def test_a_ranking_with_a_known_answer() -> None:
    scores = np.array([[0.9, 0.8, 0.1], [0.2, 0.5, 0.4]])
    relevant = np.array([[True, False, True], [True, False, False]])
    best = 1 + 1 / math.log2(3)  # gain of two relevant items in the first two places
    assert retrieval_metrics(scores, relevant, ks=(1, 2)).as_dict() == {
        "hit@1": 0.5,
        "hit@2": 0.5,
        "recall@1": 0.25,
        "recall@2": 0.25,
        "ndcg@1": 0.5,
        "ndcg@2": pytest.approx(1 / best / 2),
        "mrr": pytest.approx((1 + 1 / 3) / 2),
        "map": pytest.approx(((1 + 2 / 3) / 2 + 1 / 3) / 2),
        "ndcg": pytest.approx(((1 + 1 / 2) / best + 1 / 2) / 2),
        "median_rank": 2.0,
        "queries": 2,
    }


@pytest.mark.parametrize("value", [0.0, 1.0, -np.inf])
def test_a_model_that_scores_all_alike_finds_nothing(value: float) -> None:
    metrics = retrieval_metrics(np.full((50, 50), value), np.eye(50, dtype=bool))
    assert not any(metrics.means[f"{name}@{k}"] for name in ("hit", "recall") for k in (1, 5, 10))
    assert metrics.median_rank == 50
    assert metrics.means["mrr"] == pytest.approx(1 / 50)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_model_that_embeds_all_alike_finds_nothing(dtype: type) -> None:
    """Sums in another order differ by a rounding, which must not settle ties."""
    one: np.ndarray = np.random.default_rng(0).normal(size=384).astype(dtype)
    one /= np.linalg.norm(one)
    side = np.tile(one, (523, 1))
    metrics = pair_retrieval(side, side, names=("text", "image")).metrics["text_to_image"]
    assert metrics.means["hit@10"] == 0
    assert metrics.median_rank == 523


def test_blocks_of_queries_give_what_the_whole_matrix_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, images, captions, pictures = planted_pairs(1.0)
    whole = pair_retrieval(texts, images, names=("text", "image"), alike=(captions, pictures))
    monkeypatch.setattr("chiasm.evaluation.ranking._BLOCK", 40 * 4)
    blocked = pair_retrieval(texts, images, names=("text", "image"), alike=(captions, pictures))
    assert blocked.as_dict() == whole.as_dict()
    assert 0 < whole.metrics["text_to_image"].means["hit@5"] < 1


ONE = np.eye(2, dtype=bool)


@pytest.mark.parametrize(
    ("scores", "relevant", "ks", "message"),
    [
        (np.zeros((2, 3)), ONE, (1,), r"matrices of one shape.* got float64 \(2, 3\) and bool \(2, 2\)"),
        (np.zeros((2, 2)), np.full((2, 2), "yes"), (1,), "relevant of booleans; got float64 .* and <U3"),
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


# ------------------------------------------------------------------------------------------- against ir-measures


def by_ir_measures(scores: np.ndarray, relevant: np.ndarray, ks: tuple[int, ...]) -> dict[str, list[float]]:
    """Every metric of every query. Ties are settled before, the irrelevant first: ir-measures would go by names."""
    qrels, run = [], []
    for q, (row, grade) in enumerate(zip(scores.tolist(), relevant.tolist(), strict=True)):
        order = sorted(range(len(row)), key=lambda j: (-row[j], grade[j]))
        run += [ir_measures.ScoredDoc(str(q), str(j), float(-place)) for place, j in enumerate(order)]
        qrels += [ir_measures.Qrel(str(q), str(j), int(grade[j])) for j in range(len(row))]
    measures: dict[str, Any] = {"mrr": RR, "map": AP, "ndcg": nDCG}
    for k in ks:
        measures |= {f"hit@{k}": Success @ k, f"recall@{k}": R @ k, f"ndcg@{k}": nDCG @ k}
    found: dict[str, list[float]] = {name: [math.nan] * len(scores) for name in measures}
    names = {measure: name for name, measure in measures.items()}
    for result in ir_measures.iter_calc(list(measures.values()), qrels, run):
        found[names[result.measure]][int(result.query_id)] = result.value
    return found


@pytest.mark.parametrize(("queries", "gallery", "levels"), [(30, 12, 5), (20, 200, 1000), (3, 80, 4)])
def test_every_query_agrees_with_ir_measures(queries: int, gallery: int, levels: int) -> None:
    rng = np.random.default_rng(gallery)
    scores = rng.integers(levels, size=(queries, gallery)).astype(np.float32)
    relevant = rng.random(scores.shape) < 0.3
    relevant[np.arange(queries), rng.integers(gallery, size=queries)] = True
    ks = (1, 3, 10)
    metrics = retrieval_metrics(scores, relevant, ks=ks)
    expected = by_ir_measures(scores, relevant, ks)
    assert set(expected) == set(metrics.values)
    for name, values in expected.items():
        assert metrics.values[name] == pytest.approx(values, abs=1e-9), name
        assert metrics.means[name] == pytest.approx(np.mean(values), abs=1e-9)


def test_a_query_does_not_find_itself() -> None:
    scores = np.array([[9.0, 2.0, 1.0], [0.0, 9.0, 5.0]])
    relevant = np.array([[True, False, True], [False, True, True]])
    alone = retrieval_metrics(scores, relevant, ks=(1,), itself=np.array([0, 1]))
    assert alone.ranks.tolist() == [2, 1]
    assert alone.values["recall@1"].tolist() == [0, 1]
    cut = retrieval_metrics(scores[:1, 1:], relevant[:1, 1:], ks=(1,))
    assert cut.ranks[0] == alone.ranks[0]
    assert retrieval_metrics(scores, relevant, itself=np.array([-1, -1])).ranks.tolist() == [1, 1]
    with pytest.raises(LabelError, match=r"one of 3 rows of the gallery, or -1, .* from 0 to 3"):
        retrieval_metrics(scores, relevant, itself=np.array([0, 3]))
    with pytest.raises(LabelError, match=r"for each of 2 queries; got int64 \(1,\)"):
        retrieval_metrics(scores, relevant, itself=np.array([0]))
    with pytest.raises(LabelError, match="1 queries have no relevant item"):
        retrieval_metrics(scores[:1], np.array([[True, False, False]]), itself=np.array([0]))


# ---------------------------------------------------------------------------------------- intervals and differences


def random_metrics(seed: int, queries: int = 60, gallery: int = 40, signal: float = 1.0) -> RetrievalMetrics:
    rng = np.random.default_rng(seed)
    relevant = np.zeros((queries, gallery), dtype=bool)
    relevant[np.arange(queries), np.arange(queries) % gallery] = True
    return retrieval_metrics(rng.normal(size=relevant.shape) + signal * relevant, relevant)


def test_intervals_hold_every_metric_and_draw_whole_groups() -> None:
    metrics = random_metrics(0)
    intervals = metrics.intervals(draws=300, seed=3)
    assert {name: one.estimate for name, one in intervals.items()} == pytest.approx(
        {**metrics.means, "median_rank": metrics.median_rank}
    )
    assert intervals["mrr"] == mean_interval(metrics.values["mrr"], draws=300, seed=3)
    assert all(one.low <= one.estimate <= one.high for one in intervals.values())
    # Ten copies of every query say no more than one of each.
    many = RetrievalMetrics(
        metrics.ks,
        {name: np.tile(values, 10) for name, values in metrics.values.items()},
        np.tile(metrics.ranks, 10),
        metrics.query,
        metrics.item,
        metrics.rank,
    )
    grouped = many.intervals(groups=np.tile(np.arange(60), 10), draws=300, seed=3)
    assert grouped["hit@10"].low == pytest.approx(intervals["hit@10"].low)
    assert grouped["median_rank"].high == intervals["median_rank"].high
    alone = many.intervals(draws=300, seed=3)
    assert alone["hit@10"].high - alone["hit@10"].low < 0.5 * (grouped["hit@10"].high - grouped["hit@10"].low)


def test_paired_differences_are_those_of_single_queries() -> None:
    before, after = random_metrics(1), random_metrics(1, signal=2.0)
    found = paired_metrics(after, before)
    assert set(found) == set(before.values)
    for name, difference in found.items():
        assert difference.mean == pytest.approx(after.means[name] - before.means[name])
        assert difference.interval.estimate == pytest.approx(difference.mean)
    assert found["mrr"].interval.low > 0
    assert found["mrr"].p_value < 0.01
    same = paired_metrics(before, before)["mrr"]
    assert (same.mean, same.p_value, same.interval.low, same.interval.high) == (0, 1, 0, 0)


def test_a_group_is_one_observation_of_a_difference() -> None:
    """Sixty queries of six groups: all signs of six sums are tried, by hand."""
    before, after = random_metrics(2), random_metrics(3)
    groups = np.repeat(np.arange(6), [20, 10, 10, 10, 5, 5])
    found = paired_metrics(after, before, groups=groups)["mrr"]
    difference = after.values["mrr"] - before.values["mrr"]
    sums = [difference[groups == g].sum() for g in range(6)]
    flipped = [abs(sum(s * (-1) ** (bits >> g & 1) for g, s in enumerate(sums))) for bits in range(64)]
    assert found.p_value == np.mean([one >= abs(sum(sums)) - 1e-12 for one in flipped])
    assert (found.exact, found.pairs) == (True, 6)
    assert found.mean == pytest.approx(difference.mean())
    assert found.interval == mean_interval(difference, groups=groups, draws=1000)


def test_rankings_of_other_queries_cannot_be_paired() -> None:
    with pytest.raises(LabelError, match="one has 60 queries with 60 relevant items, the other 59 with 59"):
        paired_metrics(random_metrics(1), random_metrics(1, queries=59))
    scores, one = np.random.default_rng(0).normal(size=(2, 3)), np.array([[1, 0, 0], [0, 1, 0]]) > 0
    with pytest.raises(LabelError, match="not of the same queries in the same gallery"):
        paired_metrics(retrieval_metrics(scores, one), retrieval_metrics(scores, one[:, ::-1]))
    with pytest.raises(LabelError, match=r"same ks; got \(1,\) and \(2,\)"):
        paired_metrics(retrieval_metrics(scores, one, ks=(1,)), retrieval_metrics(scores, one, ks=(2,)))


# ---------------------------------------------------------------------------------------------------- mixed galleries


def test_a_favoured_modality_is_seen() -> None:
    """Two texts and two images are relevant to each query; only texts are found."""
    modalities = np.array(["text", "text", "image", "image", "audio"])
    relevant = np.array([[True, True, True, True, False]] * 3)
    scores = np.array([[5.0, 4.0, 1.0, 1.0, 3.0]] * 3)
    found = modality_shares(retrieval_metrics(scores, relevant, ks=(1,)), modalities, k=3)
    assert list(found) == ["image", "text"]
    assert found["text"].as_dict() == {
        "queries": 3,
        "recall": 1.0,
        "share_relevant": 0.5,
        "share_retrieved": 1.0,
        "favour": 2.0,
    }
    assert found["image"].as_dict() == {
        "queries": 3,
        "recall": 0.0,
        "share_relevant": 0.5,
        "share_retrieved": 0.0,
        "favour": 0.0,
    }
    fair = modality_shares(retrieval_metrics(scores, relevant, ks=(1,)), modalities, k=5)
    assert fair["image"].favour == fair["text"].favour == 1
    nothing = modality_shares(retrieval_metrics(-relevant.astype(float), relevant), modalities, k=1)
    assert nothing["image"].favour is None


def test_ties_at_the_end_of_the_list_favour_no_modality() -> None:
    modalities = np.repeat(["image", "text"], 10)
    relevant = np.ones((400, 20), dtype=bool)
    found = modality_shares(retrieval_metrics(np.zeros((400, 20)), relevant), modalities, k=10)
    assert found["image"].favour == pytest.approx(1, abs=0.06)
    assert found["image"].recall + found["text"].recall == pytest.approx(1)


def test_modalities_must_fit_the_gallery() -> None:
    metrics = retrieval_metrics(np.zeros((1, 3)), np.array([[False, False, True]]))
    with pytest.raises(LabelError, match="row 2 of the gallery is relevant, but there are 2 modalities"):
        modality_shares(metrics, ["image", "text"])
    with pytest.raises(LabelError, match="ks must be one or more numbers of at least 1"):
        modality_shares(metrics, ["image", "text", "text"], k=0)


# --------------------------------------------------------------------------------------------------------------- pairs


def planted_pairs(noise: float) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Texts and images of forty things; three share a caption, two an image."""
    rng = np.random.default_rng(7)
    texts = rng.normal(size=(40, 16))
    texts[[3, 9]] = texts[1]
    images = texts + noise * rng.normal(size=texts.shape)
    images[20] = images[21]
    texts, images = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (texts, images))
    captions = ["same" if i in (1, 3, 9) else f"t{i}" for i in range(40)]
    pictures = ["same" if i in (20, 21) else f"i{i}" for i in range(40)]
    return texts, images, captions, pictures


def test_pairs_are_measured_in_both_directions_and_in_a_mixed_gallery() -> None:
    texts, images, captions, pictures = planted_pairs(1.0)
    found = pair_retrieval(texts, images, names=("text", "image"), alike=(captions, pictures))
    relevant = np.array(
        [[captions[i] == captions[j] or pictures[i] == pictures[j] for j in range(40)] for i in range(40)]
    )
    scores = texts @ images.T
    for direction, expected in (
        ("text_to_image", retrieval_metrics(scores, relevant)),
        ("image_to_text", retrieval_metrics(scores.T, relevant)),
    ):
        assert found.metrics[direction].means == pytest.approx(expected.means)
        assert found.metrics[direction].intervals()["mrr"].low == pytest.approx(found.intervals[direction]["mrr"].low)
    both = np.concatenate([texts, images])
    others = np.concatenate([texts @ texts.T, scores], axis=1)
    expected = retrieval_metrics(others, np.tile(relevant, (1, 2)), itself=np.arange(40))
    assert found.mixed["text"].means == pytest.approx(expected.means)
    expected = retrieval_metrics(images @ both.T, np.tile(relevant, (1, 2)), itself=40 + np.arange(40))
    assert found.mixed["image"].means == pytest.approx(expected.means)
    by = found.by_modality(k=5)["text"]
    assert by["image"].queries == 40
    assert by["text"].queries == 5  # those that share a caption, or an image
    assert by["image"].share_relevant == pytest.approx(relevant.sum() / (2 * relevant.sum() - 40))
    json.dumps(found.as_dict())
    assert set(found.as_dict()["text_to_image"]["intervals"]) == {*found.metrics["text_to_image"].values, "median_rank"}


def test_pairs_before_and_after() -> None:
    texts, images, captions, pictures = planted_pairs(3.0)
    better = planted_pairs(0.5)[1]

    def measured(side: np.ndarray) -> Any:
        return pair_retrieval(texts, side, names=("text", "image"), alike=(captions, pictures), groups=captions)

    before, after = measured(images), measured(better)
    found = after.differences(before)["text_to_image"]["hit@1"]
    assert found.mean == pytest.approx(
        after.as_dict()["text_to_image"]["hit@1"] - before.as_dict()["text_to_image"]["hit@1"]
    )
    assert found.pairs == 38
    alone = before.metrics["text_to_image"].intervals(groups=captions)
    assert before.intervals["text_to_image"] == alone
    assert alone["mrr"] != before.metrics["text_to_image"].intervals()["mrr"]
    assert found.interval.low > 0
    other = pair_retrieval(texts, images, names=("text", "audio"))
    with pytest.raises(LabelError, match="pairs of text and image cannot be compared with text and audio"):
        after.differences(other)


def test_pairs_of_one_group_have_no_intervals() -> None:
    texts, images, *_ = planted_pairs(1.0)
    found = pair_retrieval(texts, images, names=("text", "image"), groups=["one"] * 40)
    assert found.intervals == {"text_to_image": {}, "image_to_text": {}}
    assert found.as_dict()["text_to_image"]["intervals"] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": np.zeros((3, 2))}, r"matrices of one shape; got \(4, 2\) and \(3, 2\)"),
        ({"second": np.zeros((4, 3))}, "matrices of one shape"),
        ({"names": ("text", "text")}, "two modalities; got 'text' twice"),
        ({"alike": [["a"] * 3]}, "there are 4 rows but 3 groups"),
        ({"groups": ["a"] * 3}, "there are 4 rows but 3 groups"),
        ({"first": np.zeros((0, 2)), "second": np.zeros((0, 2))}, "no queries to measure on"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"first": np.zeros((4, 2)), "second": np.zeros((4, 2)), "names": ("text", "image")}
    given |= change
    with pytest.raises(LabelError, match=message):
        pair_retrieval(given.pop("first"), given.pop("second"), **given)
