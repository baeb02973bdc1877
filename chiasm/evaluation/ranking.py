"""Ranking: how good retrieval is.

This module turns scores or embeddings, and what is relevant to each query, into numbers. It knows nothing of where they
come from; ranking itself is left to `chiasm.retrieval`. Names are exact: `hit@k` is the share of queries with any
relevant item among the first k (what papers on CLIP call Recall@k), `recall@k` the share of a query's relevant items
found there. Ties are never settled in favour of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.transfer.labels import Labels, Unchecked, label_codes

_BLOCK = 2**22  # scores looked at at once


@dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """How well a ranking finds what is relevant to each query.

    The rank of a relevant item is pessimistic: every irrelevant item with the same score stands before it. A model
    that scores everything alike therefore finds nothing.
    """

    hit: dict[int, float]  # by k: share of queries with any relevant item among the first k
    recall: dict[int, float]  # by k: mean over queries of the share of their relevant items among the first k
    mrr: float  # mean of 1 / rank of the first relevant item
    median_rank: float  # median rank of the first relevant item, counted from 1
    ranks: Int[np.ndarray, " queries"]  # rank of the first relevant item of each query, counted from 1

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.ranks)

    def as_dict(self) -> dict[str, float | int]:
        """Keys such as "hit@10", "recall@10", "mrr", "median_rank" and "queries", without the single ranks."""
        return {
            **{f"hit@{k}": value for k, value in self.hit.items()},
            **{f"recall@{k}": value for k, value in self.recall.items()},
            "mrr": self.mrr,
            "median_rank": self.median_rank,
            "queries": self.queries,
        }


def retrieval_metrics(
    scores: Float[np.ndarray, "queries gallery"] | Unchecked,
    relevant: Bool[np.ndarray, "queries gallery"] | Unchecked,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalMetrics:
    """Measure a ranking given by scores, higher first; scores are equal only if they are exactly so.

    Args:
        scores: of each gallery item for each query.
        relevant: which gallery items are relevant to which query; several may be. See `same_group`.
        ks: how many first items to look at. More than the gallery holds is allowed and means all of it.

    Raises:
        LabelError: there are no queries, shapes differ, a score is NaN, a query has no relevant item, or a k is below 1.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    if scores.ndim != 2 or scores.shape != relevant.shape or relevant.dtype != np.bool_:
        raise LabelError(
            f"scores and relevant must be matrices of one shape, relevant of booleans; got {scores.dtype} "
            f"{scores.shape} and {relevant.dtype} {relevant.shape}"
        )
    kept = _checked(ks)
    return _summarise(
        [
            _rank_block(scores[part], relevant[part], kept, part.start, rounding=0.0)
            for part in _blocks(len(scores), scores.shape[1])
        ],
        kept,
    )


def retrieval_metrics_from_embeddings(
    queries: Float[np.ndarray, "queries dim"] | Unchecked,
    gallery: Float[np.ndarray, "gallery dim"] | Unchecked,
    *,
    query_groups: Labels,
    gallery_groups: Labels,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalMetrics:
    """Measure the ranking by inner product, a block of queries at a time: the whole score matrix never exists.

    Scores that differ by no more than the rounding of an inner product count as equal, so that the order of sums inside
    the matrix product cannot settle ties.

    Args:
        queries: embeddings, normalised by the caller where cosine similarity is meant.
        gallery: embeddings in the same space.
        query_groups: a gallery item is relevant to a query if it is of the same group.
        gallery_groups: see above.
        ks: as in `retrieval_metrics`.

    Raises:
        LabelError: as `retrieval_metrics`, or groups do not fit the embeddings.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise LabelError(
            f"queries and gallery must be matrices of equal width; got {queries.shape} and {gallery.shape}"
        )
    query_codes, gallery_codes = _shared_codes(query_groups, gallery_groups)
    if len(query_codes) != len(queries) or len(gallery_codes) != len(gallery):
        raise LabelError(
            f"{len(queries)} queries have {len(query_codes)} groups, {len(gallery)} gallery items "
            f"{len(gallery_codes)}: give one group an item"
        )
    dtype = np.result_type(queries, gallery)
    longest = max(float(np.linalg.norm(gallery, axis=1).max(initial=0)), 0.0)
    lengths = np.linalg.norm(queries, axis=1)
    # Sums of `dim` products are off by about sqrt(dim) roundings of the largest product of lengths.
    rounding = 2 * np.finfo(dtype).eps * np.sqrt(queries.shape[1]) * longest * lengths
    kept = _checked(ks)
    ranks = []
    for part in _blocks(len(queries), len(gallery)):
        relevant = query_codes[part, None] == gallery_codes[None]
        ranks.append(_rank_block(queries[part] @ gallery.T, relevant, kept, part.start, rounding=rounding[part, None]))
    return _summarise(ranks, kept)


def same_group(query_groups: Labels, gallery_groups: Labels) -> Bool[np.ndarray, "queries gallery"]:
    """Which gallery items are of the same group as which query: the `relevant` of `retrieval_metrics`.

    Raises:
        LabelError: groups are missing, or the two sides are of different kinds.
    """
    query_codes, gallery_codes = _shared_codes(query_groups, gallery_groups)
    relevant: Bool[np.ndarray, "queries gallery"] = query_codes[:, None] == gallery_codes[None]
    return relevant


@dataclass(frozen=True)
class _Ranks:
    first: Int[np.ndarray, " queries"]
    found: Float64[np.ndarray, "queries ks"]  # share of the relevant items among the first k


def _rank_block(
    scores: Float[np.ndarray, "queries gallery"],
    relevant: Bool[np.ndarray, "queries gallery"],
    ks: tuple[int, ...],
    offset: int,
    *,
    rounding: float | Float[np.ndarray, "queries 1"],
) -> _Ranks:
    """Rank the relevant items of some queries.

    The j-th best relevant item has rank j plus the number of irrelevant ones that score at least as much. For the shares
    found among the first k it is enough to know the k best of each kind, so nothing is sorted as a whole.
    """
    unusable = np.isnan(scores).any(axis=1)
    if unusable.any():
        raise LabelError(
            f"the scores of {unusable.sum()} queries hold NaN, first query {offset + int(unusable.argmax())}"
        )
    number = relevant.sum(axis=1)
    if (number == 0).any():
        without = np.flatnonzero(number == 0) + offset
        raise LabelError(
            f"{len(without)} queries have no relevant item in the gallery, first {without[:5].tolist()}: "
            "leave them out or add what they look for"
        )
    best = np.where(relevant, scores, -np.inf)
    others = np.where(relevant, -np.inf, scores)
    is_other = ~relevant
    first = 1 + np.sum(is_other & (others >= best.max(axis=1, keepdims=True) - rounding), axis=1)

    depth = min(max(ks), scores.shape[1])
    # -inf may be a score as well: a count of how many of each kind there are keeps padding apart.
    top = _largest(best, depth)
    top_others = _largest(others, depth)
    place = np.arange(1, depth + 1)
    other_exists = place[None] <= is_other.sum(axis=1, keepdims=True)
    ahead = np.sum(
        (top_others[:, None, :] >= top[:, :, None] - np.reshape(rounding, (-1, 1, 1))) & other_exists[:, None, :],
        axis=2,
    )
    rank = np.where(place[None] <= number[:, None], place[None] + ahead, np.iinfo(np.int64).max)
    found = np.stack([(rank <= k).sum(axis=1) / number for k in ks], axis=1)
    return _Ranks(first, found)


def _blocks(queries: int, gallery: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(gallery, 1))
    for first in range(0, queries, step):
        yield slice(first, first + step)


def _largest(values: Float[np.ndarray, "queries gallery"], depth: int) -> Float[np.ndarray, "queries depth"]:
    """The `depth` largest values of each row, in falling order."""
    kept = np.partition(values, values.shape[1] - depth, axis=1)[:, values.shape[1] - depth :]
    falling: Float[np.ndarray, "queries depth"] = np.sort(kept, axis=1)[:, ::-1]
    return falling


def _summarise(blocks: list[_Ranks], ks: tuple[int, ...]) -> RetrievalMetrics:
    first = np.concatenate([block.first for block in blocks]) if blocks else np.zeros(0, dtype=np.int64)
    if not len(first):
        raise LabelError("there are no queries to measure on")
    found = np.concatenate([block.found for block in blocks]).mean(axis=0)
    return RetrievalMetrics(
        hit={k: float((first <= k).mean()) for k in ks},
        recall={k: float(share) for k, share in zip(ks, found, strict=True)},
        mrr=float((1 / first).mean()),
        median_rank=float(np.median(first)),
        ranks=first,
    )


def _checked(ks: Sequence[int]) -> tuple[int, ...]:
    if not ks or min(ks) < 1:
        raise LabelError(f"ks must be one or more numbers of at least 1; got {tuple(ks)}")
    return tuple(sorted({int(k) for k in ks}))


def _shared_codes(
    query_groups: Labels, gallery_groups: Labels
) -> tuple[Int[np.ndarray, " queries"], Int[np.ndarray, " gallery"]]:
    queries, query_codes = label_codes(query_groups, what="query groups")
    gallery, gallery_codes = label_codes(gallery_groups, what="gallery groups")
    if len(queries) and len(gallery) and (queries.dtype.kind == "U") != (gallery.dtype.kind == "U"):
        raise LabelError(
            f"query groups such as {queries[0]!r} and gallery groups such as {gallery[0]!r} are of different kinds "
            "and would never match: make both text or both numbers"
        )
    every = np.union1d(queries, gallery)
    return np.searchsorted(every, queries)[query_codes], np.searchsorted(every, gallery)[gallery_codes]
