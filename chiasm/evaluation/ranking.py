"""Ranking: how good retrieval is.

Turns scores or embeddings, and what is relevant to each query, into numbers. Ranking itself is left to
`chiasm.retrieval`, how far to trust a number to `chiasm.evaluation.intervals`. Names are exact: `hit@k` is the share of
queries with any relevant item among the first k (what papers on CLIP call Recall@k), `recall@k` the share of a query's
relevant items among them. Ties are never settled in favour of the model, which is why these metrics are not
scikit-learn's; `ir-measures` agrees where there are none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.evaluation.intervals import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    mean_interval,
    paired_difference,
)
from chiasm.evaluation.record import Record
from chiasm.splits import Labels, group_codes, label_codes
from chiasm.vectors import Unchecked

_BLOCK = 2**22  # scores held at once
_FEW = 16  # up to so many relevant items it is faster to count what stands before each than to sort the row
_DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """How well a ranking finds what is relevant to each query.

    The rank of a relevant item is pessimistic: every irrelevant item with the same score stands before it. A model that
    scores everything alike therefore finds nothing.

    Attributes:
        ks: depths of the ranking that were looked at, rising.
        values: of each metric, the value of every query; the metric is their mean. For each k, `hit@k`, `recall@k` and
            `ndcg@k`; `mrr` (1 / rank of the first relevant item), `map` (average precision: the mean over relevant items
            of the share of relevant ones up to their rank) and `ndcg` (of the whole ranking). The discounted gain is the
            sum of 1 / log2(1 + rank), divided by that of the best order (Järvelin & Kekäläinen 2002).
        ranks: rank of the first relevant item of each query, from 1.
        query: of every pair of a query and an item relevant to it, the number of the query, rising.
        item: of the same pairs, the row in the gallery.
        rank: of the same pairs, the rank, rising within a query.

    Example:
        >>> metrics = retrieval_metrics([[0.9, 0.8, 0.1]], [[False, True, True]], ks=(1, 2))
        >>> metrics.means["hit@1"], metrics.means["recall@2"], metrics.ranks.tolist()
        (0.0, 0.5, [2])
    """

    ks: tuple[int, ...]
    values: Mapping[str, Float64[np.ndarray, " queries"]]
    ranks: Int[np.ndarray, " queries"]
    query: Int[np.ndarray, " pairs"]
    item: Int[np.ndarray, " pairs"]
    rank: Int[np.ndarray, " pairs"]

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(self.ranks)

    @property
    def means(self) -> dict[str, float]:
        """Every metric by name, without `median_rank`."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    @property
    def median_rank(self) -> float:
        """Median rank of the first relevant item, from 1."""
        return float(np.median(self.ranks))

    def as_dict(self) -> dict[str, float | int]:
        """Return "hit@10", "recall@10", "ndcg@10" and so on, "mrr", "map", "ndcg", "median_rank" and "queries"."""
        return {**self.means, "median_rank": self.median_rank, "queries": self.queries}

    def intervals(self, *, groups: Labels | None = None, draws: int = _DRAWS, seed: int = 0) -> dict[str, Interval]:
        """Return 95 % bootstrap intervals of all metrics, over queries.

        Args:
            groups: one per query, e.g. of equal captions. Whole groups are drawn, since their queries are right or wrong
                together.
            draws: see `bootstrap_interval`.
            seed: as there.

        Raises:
            LabelError: fewer than 2 queries or groups, or groups that do not fit.
        """
        intervals = {
            name: mean_interval(values, groups=groups, draws=draws, seed=seed) for name, values in self.values.items()
        }

        def median(rows: Int[np.ndarray, " rows"]) -> float:
            return float(np.median(self.ranks[rows]))

        intervals["median_rank"] = bootstrap_interval(median, self.queries, groups=groups, draws=draws, seed=seed)
        return intervals


def retrieval_metrics(
    scores: Float[np.ndarray, "queries gallery"] | Unchecked,
    relevant: Bool[np.ndarray, "queries gallery"] | Unchecked,
    *,
    ks: Sequence[int] = (1, 5, 10),
    itself: Int[np.ndarray, " queries"] | Unchecked = None,
) -> RetrievalMetrics:
    """Measure a ranking by scores, higher first; scores are ties only if they are exactly equal.

    Args:
        scores: of each gallery item for each query.
        relevant: which gallery items are relevant to which query; one or several.
        ks: depths to look at. More than the gallery holds is allowed and means all of it.
        itself: the row of each query in the gallery, -1 for none. A query neither finds itself nor stands before what
            it finds.

    Raises:
        LabelError: no queries, shapes that differ, a score of NaN, `relevant` that is not boolean, a query without a
            relevant item, a k below 1, or rows in `itself` that do not exist.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    if scores.ndim != 2 or scores.shape != relevant.shape or relevant.dtype != np.bool_:
        raise LabelError(
            f"scores and relevant must be matrices of one shape, relevant of booleans; got {scores.dtype} "
            f"{scores.shape} and {relevant.dtype} {relevant.shape}"
        )
    return _measure(scores.shape, lambda part: scores[part], lambda part: relevant[part], ks, itself)


def paired_metrics(
    after: RetrievalMetrics, before: RetrievalMetrics, *, groups: Labels | None = None, seed: int = 0
) -> dict[str, PairedDifference]:
    """Return by how much one ranking is better than another on the same queries, for every metric that is a mean.

    Args:
        after: metrics of the first.
        before: metrics of the second, of the same queries in the same order, the same gallery and the same ks.
        groups: one per query, see `paired_difference`.
        seed: of the draws.

    Raises:
        LabelError: the two are not of the same queries, or there are fewer than 2 queries or groups.
    """
    if after.ks != before.ks:
        raise LabelError(f"both rankings must be measured at the same ks; got {after.ks} and {before.ks}")
    pairs = [np.stack([one.query, one.item])[:, np.lexsort((one.item, one.query))] for one in (after, before)]
    if not np.array_equal(pairs[0], pairs[1]):
        raise LabelError(
            "the two rankings are not of the same queries in the same gallery: one has "
            f"{after.queries} queries with {len(after.item)} relevant items, the other {before.queries} with "
            f"{len(before.item)}. Measure both on the same pairs in the same order"
        )
    return {
        name: paired_difference(values, before.values[name], groups=groups, draws=_DRAWS, seed=seed)
        for name, values in after.values.items()
    }


# --------------------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True)
class ModalityShare(Record):
    """How a gallery of several modalities treats one of them.

    Attributes:
        queries: queries that something of this modality is relevant to.
        recall: mean over these of the share of this modality's relevant items among the first k.
        share_relevant: of all pairs of a query and a relevant item, those of this modality.
        share_retrieved: the same among the pairs retrieved in the first k; None if nothing is.
        favour: `share_retrieved / share_relevant`: 1 if the modality is neither favoured nor held back.
    """

    queries: int
    recall: float
    share_relevant: float
    share_retrieved: float | None
    favour: float | None


def modality_shares(metrics: RetrievalMetrics, modalities: Labels, *, k: int = 10) -> dict[str, ModalityShare]:
    """Return the recall of each modality of a mixed gallery, and its share of what is relevant and what is retrieved.

    Shares are over all pairs of a query and a relevant item together, so that they do not depend on how many a query has.
    Ties between relevant items of several modalities at the end of the first k are settled at random.

    Args:
        metrics: of queries in the mixed gallery.
        modalities: of each row of that gallery.
        k: depth of the ranking.

    Returns:
        By modality, in alphabetical order; modalities without relevant items are left out.

    Raises:
        LabelError: k below 1, a missing modality, or fewer of them than rows that are relevant.
    """
    _depths([k])
    names, codes = label_codes(modalities, what="modalities")
    if len(codes) <= metrics.item.max():
        raise LabelError(
            f"row {metrics.item.max()} of the gallery is relevant, but there are {len(codes)} modalities: give one per row"
        )
    retrieved = metrics.rank <= k
    shares = {}
    for code, name in enumerate(names.tolist()):
        mine = codes[metrics.item] == code
        relevant = np.bincount(metrics.query[mine], minlength=metrics.queries)
        if not relevant.any():
            continue
        hits = np.bincount(metrics.query[mine & retrieved], minlength=metrics.queries)
        asked, share = relevant > 0, float(mine.mean())
        part = float(hits.sum() / retrieved.sum()) if retrieved.any() else None
        shares[str(name)] = ModalityShare(
            queries=int(asked.sum()),
            recall=float((hits[asked] / relevant[asked]).mean()),
            share_relevant=share,
            share_retrieved=part,
            favour=None if part is None else part / share,
        )
    return shares


@dataclass(frozen=True, eq=False)
class PairRetrieval:
    """Two modalities of the same things, each searched for by the other.

    Attributes:
        names: of the two modalities.
        metrics: by direction, such as `"text_to_image"`: the gallery holds the other modality alone.
        mixed: by the modality of the query: the gallery holds both, without the query itself.
        intervals: by direction and metric; empty if all pairs are of one group.
        groups: of each pair, by number: what was resampled together.
    """

    names: tuple[str, str]
    metrics: Mapping[str, RetrievalMetrics]
    mixed: Mapping[str, RetrievalMetrics]
    intervals: Mapping[str, Mapping[str, Interval]]
    groups: Int[np.ndarray, " pairs"]

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.groups)

    def by_modality(self, *, k: int = 10) -> dict[str, dict[str, ModalityShare]]:
        """Return, by the modality of the query, what the gallery of both retrieves of each modality."""
        modalities = np.repeat(self.names, self.pairs)
        return {name: modality_shares(metrics, modalities, k=k) for name, metrics in self.mixed.items()}

    def differences(self, before: PairRetrieval, *, seed: int = 0) -> dict[str, dict[str, PairedDifference]]:
        """Return, by direction and metric, by how much this is better than another space on the same pairs.

        Empty if all pairs are of one group.

        Raises:
            LabelError: the other is of other modalities or pairs.
        """
        if self.names != before.names:
            raise LabelError(
                f"pairs of {' and '.join(self.names)} cannot be compared with {' and '.join(before.names)}"
            )
        if len(np.unique(self.groups)) < 2:
            return {}
        return {
            direction: paired_metrics(metrics, before.metrics[direction], groups=self.groups, seed=seed)
            for direction, metrics in self.metrics.items()
        }

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """Return, by direction, the metrics and `intervals`: the ends of the 95 % interval of each."""
        return {
            direction: {
                **metrics.as_dict(),
                "intervals": {name: [one.low, one.high] for name, one in self.intervals[direction].items()},
            }
            for direction, metrics in self.metrics.items()
        }


def pair_retrieval(
    first: Float[np.ndarray, "pairs dim"] | Unchecked,
    second: Float[np.ndarray, "pairs dim"] | Unchecked,
    *,
    names: tuple[str, str],
    alike: Sequence[Labels] = (),
    groups: Labels | None = None,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
) -> PairRetrieval:
    """Search by each of two modalities for the other, by inner product, and measure the rankings.

    A block of queries at a time, so that the whole score matrix never exists. Scores that differ by no more than the
    rounding of an inner product are ties: the order of sums inside the matrix product must not settle them.

    Args:
        first: embeddings of the first modality, of unit length for cosine; row i of both sides is of one thing.
        second: embeddings of the second, in the same space.
        names: of the two modalities, e.g. `("text", "image")`.
        alike: labels of the pairs, e.g. the hashes of their texts and those of their images. A pair is relevant to a
            query if the two agree in any of these, and always if it is the query's own pair.
        groups: of each pair; whole groups are resampled for the intervals. By default every pair by itself.
        ks: as in `retrieval_metrics`.
        seed: of the resampling.

    Raises:
        LabelError: as `retrieval_metrics`, sides that differ in length or width, labels or groups that do not fit, or
            both names the same.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape != second.shape:
        raise LabelError(f"the two sides of pairs must be matrices of one shape; got {first.shape} and {second.shape}")
    if names[0] == names[1]:
        raise LabelError(f"the two sides of pairs are two modalities; got {names[0]!r} twice")
    count = len(first)
    codes = [np.arange(count), *(group_codes(labels, count) for labels in alike)]
    resampled = np.arange(count) if groups is None else group_codes(groups, count)

    def same(part: slice) -> Bool[np.ndarray, "queries pairs"]:
        agree: Bool[np.ndarray, "queries pairs"] = np.any([one[part, None] == one[None] for one in codes], axis=0)
        return agree

    def same_twice(part: slice) -> Bool[np.ndarray, "queries both"]:
        return np.tile(same(part), (1, 2))

    sides = {names[0]: first, names[1]: second}
    both = np.concatenate([first, second])
    metrics = {f"{a}_to_{b}": _measure_products(sides[a], sides[b], same, ks) for a, b in (names, names[::-1])}
    mixed = {
        name: _measure_products(sides[name], both, same_twice, ks, np.arange(count) + number * count)
        for number, name in enumerate(names)
    }
    alone = len(np.unique(resampled)) < 2
    intervals = {
        direction: {} if alone else one.intervals(groups=resampled, seed=seed) for direction, one in metrics.items()
    }
    return PairRetrieval(names, metrics, mixed, intervals, resampled)


# --------------------------------------------------------------------------------------------------------------- ranks


def _measure_products(
    queries: Float[np.ndarray, "queries dim"],
    gallery: Float[np.ndarray, "gallery dim"],
    relevant: Callable[[slice], Bool[np.ndarray, "some gallery"]],
    ks: Sequence[int],
    itself: Int[np.ndarray, " queries"] | None = None,
) -> RetrievalMetrics:
    longest = float(np.linalg.norm(gallery, axis=1).max(initial=0))
    # Sums of `dim` products are off by about sqrt(dim) roundings of the largest product of lengths.
    step = 2 * np.finfo(np.result_type(queries, gallery)).eps * np.sqrt(queries.shape[1])
    rounding = (step * longest * np.linalg.norm(queries, axis=1)).astype(np.float64)
    shape = (len(queries), len(gallery))
    return _measure(shape, lambda part: queries[part] @ gallery.T, relevant, ks, itself, rounding)


def _measure(
    shape: tuple[int, int],
    scores: Callable[[slice], Float[np.ndarray, "some gallery"]],
    relevant: Callable[[slice], Bool[np.ndarray, "some gallery"]],
    ks: Sequence[int],
    itself: Int[np.ndarray, " queries"] | Unchecked = None,
    rounding: Float64[np.ndarray, " queries"] | None = None,
) -> RetrievalMetrics:
    """Rank what is relevant to each query, a block of queries at a time."""
    depths = _depths(ks)
    queries, gallery = shape
    if not queries:
        raise LabelError("there are no queries to measure on")
    own = np.full(queries, -1) if itself is None else np.asarray(itself)
    if own.shape != (queries,) or own.dtype.kind not in "iu" or own.min() < -1 or own.max() >= gallery:
        raise LabelError(
            f"itself must name one of {gallery} rows of the gallery, or -1, for each of {queries} queries; got {own.dtype} "
            f"{own.shape}" + (f" from {own.min()} to {own.max()}" if own.size else "")
        )
    margin = np.zeros(queries) if rounding is None else rounding
    rng = np.random.default_rng(0)
    items, ranks = [], []
    for part in _blocks(queries, gallery):
        block = scores(part)
        unusable = np.isnan(block).any(axis=1)
        if unusable.any():
            raise LabelError(
                f"the scores of {unusable.sum()} queries hold NaN, first query {part.start + int(unusable.argmax())}"
            )
        for number, (row, fits) in enumerate(zip(block, relevant(part), strict=True), start=part.start):
            right = np.flatnonzero(fits)
            right = right[right != own[number]]
            apart = right if own[number] < 0 else np.append(right, own[number])
            mine = row[right].astype(np.float64)
            # Ties in random order, so that none is favoured by its place in the gallery.
            order = np.lexsort((rng.random(len(right)), -mine))
            least = mine[order] - margin[number]
            before = _at_least(row, least) - _at_least(row[apart], least)
            items.append(right[order])
            ranks.append(np.arange(1, len(right) + 1) + before)
    sizes = np.array([len(part) for part in items])
    without = np.flatnonzero(sizes == 0)
    if len(without):
        raise LabelError(
            f"{len(without)} queries have no relevant item in the gallery, first {without[:5].tolist()}: "
            "leave them out or add what they look for"
        )
    return _summarise(sizes, np.concatenate(items), np.concatenate(ranks), depths)


def _at_least(
    values: Float[np.ndarray, " values"], least: Float64[np.ndarray, " bounds"]
) -> Int[np.ndarray, " bounds"]:
    """Return how many of the values are at least as large as each bound."""
    if len(least) <= _FEW:
        return np.array([np.count_nonzero(values >= bound) for bound in least], dtype=np.int64)
    below: Int[np.ndarray, " bounds"] = np.searchsorted(np.sort(values), least, side="left")
    return len(values) - below


def _summarise(
    sizes: Int[np.ndarray, " queries"],
    items: Int[np.ndarray, " pairs"],
    ranks: Int[np.ndarray, " pairs"],
    ks: tuple[int, ...],
) -> RetrievalMetrics:
    starts = np.cumsum(sizes) - sizes
    query = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(1, len(items) + 1) - starts[query]

    def per_query(values: Float64[np.ndarray, " pairs"]) -> Float64[np.ndarray, " queries"]:
        sums: Float64[np.ndarray, " queries"] = np.add.reduceat(values, starts)
        return sums

    discounted, ideal = 1 / np.log2(1 + ranks), 1 / np.log2(1 + place)
    first = ranks[starts]
    values = {f"hit@{k}": (first <= k).astype(np.float64) for k in ks}
    values |= {f"recall@{k}": per_query((ranks <= k).astype(np.float64)) / sizes for k in ks}
    values |= {
        f"ndcg@{k}": per_query(np.where(ranks <= k, discounted, 0.0)) / per_query(np.where(place <= k, ideal, 0.0))
        for k in ks
    }
    values["mrr"] = 1 / first
    values["map"] = per_query(place / ranks) / sizes
    values["ndcg"] = per_query(discounted) / per_query(ideal)
    return RetrievalMetrics(ks, values, first, query, items, ranks)


def _blocks(queries: int, gallery: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(gallery, 1))
    for first in range(0, queries, step):
        yield slice(first, first + step)


def _depths(ks: Sequence[int]) -> tuple[int, ...]:
    if not ks or min(ks) < 1:
        raise LabelError(f"ks must be one or more numbers of at least 1; got {tuple(ks)}")
    return tuple(sorted({int(k) for k in ks}))
