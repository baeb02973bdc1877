"""Ranking: how good retrieval is.

This module turns scores or embeddings, and what is relevant to each query, into numbers. It knows nothing of where they
come from; ranking itself is left to `chiasm.retrieval`, how far to believe a number to `chiasm.evaluation.diagnostics`.
Names are exact: `hit@k` is the share of queries with any relevant item among the first k (what papers on CLIP call
Recall@k), `recall@k` the share of a query's relevant items found there. Ties are never settled in favour of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Num

from chiasm.errors import LabelError
from chiasm.evaluation.diagnostics import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    mean_interval,
    paired_difference,
)
from chiasm.evaluation.metrics import ReliabilityBin
from chiasm.splits import Labels, group_codes, label_codes
from chiasm.vectors import Unchecked

_BLOCK = 2**22  # scores looked at at once
_FEW = 16  # up to so many relevant items it is faster to count what stands before each than to sort the row
_DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True, eq=False)
class RetrievalMetrics:
    """How well a ranking finds what is relevant to each query.

    The rank of a relevant item is pessimistic: every irrelevant item with the same score stands before it, and of equally
    scored relevant ones the lower grade. A model that scores everything alike therefore finds nothing.

    Attributes:
        ks: the numbers of first items that were looked at, rising.
        values: of each metric, the value of every query; the metric is their mean. For each k, `hit@k`, `recall@k` and
            `ndcg@k`; `mrr` (1 / rank of the first relevant item), `map` (average precision: the mean over relevant items
            of the share of relevant ones up to their rank) and `ndcg` (of the whole ranking). The discounted gain is the
            sum of grade / log2(1 + rank), divided by what the best order would give (Järvelin & Kekäläinen 2002).
        ranks: rank of the first relevant item of each query, counted from 1.
        query: of every pair of a query and an item relevant to it, the number of the query, rising.
        item: of the same pairs, the row in the gallery.
        rank: of the same pairs, the rank, rising within a query.
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
        """Every metric by its name, without `median_rank`."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    @property
    def hit(self) -> dict[int, float]:
        """By k: share of queries with any relevant item among the first k."""
        return {k: float(self.values[f"hit@{k}"].mean()) for k in self.ks}

    @property
    def recall(self) -> dict[int, float]:
        """By k: mean over queries of the share of their relevant items among the first k."""
        return {k: float(self.values[f"recall@{k}"].mean()) for k in self.ks}

    @property
    def mrr(self) -> float:
        """Mean of 1 / rank of the first relevant item."""
        return float(self.values["mrr"].mean())

    @property
    def median_rank(self) -> float:
        """Median rank of the first relevant item, counted from 1."""
        return float(np.median(self.ranks))

    def as_dict(self) -> dict[str, float | int]:
        """Keys such as "hit@10", "recall@10", "ndcg@10", "mrr", "map", "ndcg", "median_rank" and "queries"."""
        return {**self.means, "median_rank": self.median_rank, "queries": self.queries}

    def intervals(
        self, *, groups: Labels | None = None, level: float = 0.95, draws: int = _DRAWS, seed: int = 0
    ) -> dict[str, Interval]:
        """Bootstrap intervals of all metrics, over queries.

        Args:
            groups: one a query, e.g. of equal captions. Whole groups are drawn, since their queries are right or wrong
                together.
            level: see `bootstrap_interval`.
            draws: see there.
            seed: see there.

        Raises:
            LabelError: there are fewer than 2 queries or groups, groups do not fit, or options are out of range.
        """
        intervals = {
            name: mean_interval(values, groups=groups, level=level, draws=draws, seed=seed)
            for name, values in self.values.items()
        }

        def median(rows: Int[np.ndarray, " rows"]) -> float:
            return float(np.median(self.ranks[rows]))

        intervals["median_rank"] = bootstrap_interval(
            median, self.queries, groups=groups, level=level, draws=draws, seed=seed
        )
        return intervals


def retrieval_metrics(
    scores: Float[np.ndarray, "queries gallery"] | Unchecked,
    relevant: Num[np.ndarray, "queries gallery"] | Bool[np.ndarray, "queries gallery"] | Unchecked,
    *,
    ks: Sequence[int] = (1, 5, 10),
    itself: Int[np.ndarray, " queries"] | Unchecked = None,
) -> RetrievalMetrics:
    """Measure a ranking given by scores, higher first; scores are equal only if they are exactly so.

    Args:
        scores: of each gallery item for each query.
        relevant: which gallery items are relevant to which query, as booleans (see `same_group`) or as grades: numbers
            from 0 on, of which those above 0 are relevant. Grades are the gains of nDCG as they are; for exponential
            gains give `2**grade - 1`. All other metrics only look at what is above 0.
        ks: how many first items to look at. More than the gallery holds is allowed and means all of it.
        itself: where queries stand in the gallery themselves, the row of each; -1: nowhere. A query is neither found by
            itself nor does it stand before what is.

    Raises:
        LabelError: there are no queries, shapes differ, a score is NaN, a grade is negative or not finite, a query has no
            relevant item, a k is below 1, or `itself` names rows that are not there.
    """
    scores, relevant = np.asarray(scores), np.asarray(relevant)
    if scores.ndim != 2 or scores.shape != relevant.shape or relevant.dtype.kind not in "biuf":
        raise LabelError(
            f"scores and relevant must be matrices of one shape, relevant of booleans or grades; got {scores.dtype} "
            f"{scores.shape} and {relevant.dtype} {relevant.shape}"
        )
    if relevant.dtype.kind == "f" and not (np.isfinite(relevant) & (relevant >= 0)).all():
        raise LabelError("grades of relevance must be finite and not below 0; got others. 0 is not relevant")
    if relevant.dtype.kind == "i" and relevant.min(initial=0) < 0:
        raise LabelError(f"grades of relevance must not be below 0; got {relevant.min()}. 0 is not relevant")
    queries, gallery = scores.shape
    return _measured(
        queries,
        gallery,
        lambda part: scores[part],
        lambda part: relevant[part],
        ks=ks,
        itself=itself,
        rounding=None,
    )


def retrieval_metrics_from_embeddings(
    queries: Float[np.ndarray, "queries dim"] | Unchecked,
    gallery: Float[np.ndarray, "gallery dim"] | Unchecked,
    *,
    query_groups: Labels,
    gallery_groups: Labels,
    ks: Sequence[int] = (1, 5, 10),
    itself: Int[np.ndarray, " queries"] | Unchecked = None,
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
        itself: as there.

    Raises:
        LabelError: as `retrieval_metrics`, or groups do not fit the embeddings.
    """
    _check_widths(queries, gallery)
    query_codes, gallery_codes = _shared_codes(query_groups, gallery_groups)
    if len(query_codes) != len(queries) or len(gallery_codes) != len(gallery):
        raise LabelError(
            f"{len(queries)} queries have {len(query_codes)} groups, {len(gallery)} gallery items "
            f"{len(gallery_codes)}: give one group an item"
        )
    return _measured_embeddings(
        queries, gallery, lambda part: query_codes[part, None] == gallery_codes[None], ks=ks, itself=itself
    )


def same_group(query_groups: Labels, gallery_groups: Labels) -> Bool[np.ndarray, "queries gallery"]:
    """Which gallery items are of the same group as which query: the `relevant` of `retrieval_metrics`.

    Raises:
        LabelError: groups are missing, or the two sides are of different kinds.
    """
    query_codes, gallery_codes = _shared_codes(query_groups, gallery_groups)
    relevant: Bool[np.ndarray, "queries gallery"] = query_codes[:, None] == gallery_codes[None]
    return relevant


def paired_metrics(
    after: RetrievalMetrics,
    before: RetrievalMetrics,
    *,
    groups: Labels | None = None,
    level: float = 0.95,
    draws: int = _DRAWS,
    seed: int = 0,
) -> dict[str, PairedDifference]:
    """By how much one ranking is better than another on the same queries: every metric that is a mean over them.

    With groups, the interval draws whole groups and the test flips the signs of whole groups, whose sums are the pairs
    then: a group of three equal captions is one observation, not three.

    Args:
        after: metrics of the first.
        before: metrics of the second, of the same queries in the same order, the same gallery and the same ks.
        groups: one a query.
        level: see `chiasm.evaluation.diagnostics.paired_difference`.
        draws: see there.
        seed: see there.

    Raises:
        LabelError: the two are not of the same queries, there are fewer than 2 queries or groups, or as
            `paired_difference`.
    """
    if after.ks != before.ks:
        raise LabelError(f"both rankings must be measured at the same ks; got {after.ks} and {before.ks}")
    if not np.array_equal(_sorted_pairs(after), _sorted_pairs(before)):
        raise LabelError(
            "the two rankings are not of the same queries in the same gallery: one has "
            f"{after.queries} queries with {len(after.item)} relevant items, the other {before.queries} with "
            f"{len(before.item)}. Measure both on the same pairs in the same order"
        )
    codes = np.arange(after.queries) if groups is None else group_codes(groups, after.queries)
    number = int(codes.max()) + 1
    found = {}
    for name, values in after.values.items():
        others = before.values[name]
        # Scaled so that the mean over groups is the mean over queries.
        sums = [np.bincount(codes, part) * (number / after.queries) for part in (values, others)]
        difference = paired_difference(*sums, level=level, draws=draws, seed=seed)
        interval = mean_interval(values - others, groups=groups, level=level, draws=draws, seed=seed)
        found[name] = replace(difference, interval=interval)
    return found


def _sorted_pairs(metrics: RetrievalMetrics) -> Int[np.ndarray, "2 pairs"]:
    """Which items are relevant to which query, in one order."""
    order = np.lexsort((metrics.item, metrics.query))
    return np.stack([metrics.query, metrics.item])[:, order]


# -------------------------------------------------------------------------------------------- galleries of several kinds


@dataclass(frozen=True)
class ModalityFound:
    """What is found of one modality in a gallery that holds several.

    Attributes:
        queries: queries that something of this modality is relevant to.
        recall: mean over these of the share of this modality's relevant items among the first k.
        share_relevant: of all pairs of a query and a relevant item, those of this modality.
        share_found: the same among the pairs found in the first k; None where nothing is found.
    """

    queries: int
    recall: float
    share_relevant: float
    share_found: float | None

    @property
    def favour(self) -> float | None:
        """`share_found / share_relevant`: 1 if the modality is neither favoured nor kept back."""
        return None if self.share_found is None else self.share_found / self.share_relevant

    def as_dict(self) -> dict[str, float | int | None]:
        """All of it and `favour`, for JSON."""
        return {**asdict(self), "favour": self.favour}


def found_by_modality(metrics: RetrievalMetrics, modalities: Labels, *, k: int = 10) -> dict[str, ModalityFound]:
    """Whether a mixed gallery favours a modality: recall of each, and its share among what is relevant and found.

    Shares are over all pairs of a query and a relevant item together, so that they do not depend on how many a query has.
    Where equally scored relevant items of several modalities stand at the end of the first k, which of them are within
    is drawn.

    Args:
        metrics: of queries in the mixed gallery.
        modalities: of each row of that gallery.
        k: how many first items to look at.

    Returns:
        By modality, in alphabetical order; modalities that nothing is relevant of are left out.

    Raises:
        LabelError: k is below 1, a modality is missing, or there are fewer of them than rows that are relevant.
    """
    _checked([k])
    names, codes = label_codes(modalities, what="modalities")
    if len(codes) <= metrics.item.max():
        raise LabelError(
            f"row {metrics.item.max()} of the gallery is relevant, but there are {len(codes)} modalities: give one a row"
        )
    of_pair, within = codes[metrics.item], metrics.rank <= k
    every = int(within.sum())
    found = {}
    for code, name in enumerate(names.tolist()):
        mine = of_pair == code
        wanted = np.bincount(metrics.query[mine], minlength=metrics.queries)
        if not wanted.any():
            continue
        got = np.bincount(metrics.query[mine & within], minlength=metrics.queries)
        found[str(name)] = ModalityFound(
            queries=int((wanted > 0).sum()),
            recall=float((got[wanted > 0] / wanted[wanted > 0]).mean()),
            share_relevant=float(mine.mean()),
            share_found=float(got.sum() / every) if every else None,
        )
    return found


@dataclass(frozen=True, eq=False)
class PairRetrieval:
    """Two modalities of the same things, each searched for by the other.

    Attributes:
        names: of the two modalities.
        metrics: by direction, such as `"text_to_image"`: the gallery holds the other modality alone.
        mixed: by the modality of the query: the gallery holds both, without the query itself.
        intervals: by direction and metric; empty where all pairs are of one group.
        groups: of each pair, numbers: what was resampled together.
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

    def by_modality(self, *, k: int = 10) -> dict[str, dict[str, ModalityFound]]:
        """By the modality of the query: what is found of each modality in the gallery that holds both."""
        modalities = np.repeat(self.names, self.pairs)
        return {name: found_by_modality(metrics, modalities, k=k) for name, metrics in self.mixed.items()}

    def differences(self, before: PairRetrieval, *, seed: int = 0) -> dict[str, dict[str, PairedDifference]]:
        """By direction and metric, by how much this is better than another space on the same pairs.

        Raises:
            LabelError: the other is of other modalities or pairs, or all pairs are of one group.
        """
        if self.names != before.names:
            raise LabelError(
                f"pairs of {' and '.join(self.names)} cannot be compared with {' and '.join(before.names)}"
            )
        return {
            direction: paired_metrics(metrics, before.metrics[direction], groups=self.groups, seed=seed)
            for direction, metrics in self.metrics.items()
        }

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """By direction, the metrics and `intervals`: the ends of the 95 % interval of each."""
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
    """Search by each of two modalities for the other, by inner product, and measure what is found.

    Args:
        first: embeddings of the first modality; row i of both belongs to the same thing.
        second: embeddings of the second, in the same space.
        names: of the two modalities, e.g. `("text", "image")`.
        alike: labels of the pairs, e.g. the hashes of their texts and those of their images. What a pair holds is relevant
            to a query if the two agree in any of these, and always if it is the query's own pair.
        groups: of each pair; whole groups are resampled for the intervals. Default: every pair by itself.
        ks: as in `retrieval_metrics`.
        seed: of the resampling.

    Raises:
        LabelError: as `retrieval_metrics_from_embeddings`, the sides differ in length, labels or groups do not fit, or
            both names are the same.
    """
    _check_widths(first, second)
    if len(first) != len(second):
        raise LabelError(f"pairs have one row on each side; got {len(first)} and {len(second)}")
    if names[0] == names[1]:
        raise LabelError(f"the two sides of pairs are two modalities; got {names[0]!r} twice")
    count = len(first)
    codes = [np.arange(count)]
    for labels in alike:
        codes.append(label_codes(labels, what="labels of what is alike")[1])
        if len(codes[-1]) != count:
            raise LabelError(f"{count} pairs need as many labels of what is alike; got {len(codes[-1])}")
    resampled = np.arange(count) if groups is None else group_codes(groups, count)

    def same(part: slice) -> Bool[np.ndarray, "queries pairs"]:
        found: Bool[np.ndarray, "queries pairs"] = codes[0][part, None] == codes[0][None]
        for more in codes[1:]:
            found |= more[part, None] == more[None]
        return found

    def same_twice(part: slice) -> Bool[np.ndarray, "queries both"]:
        return np.tile(same(part), (1, 2))

    sides = {names[0]: first, names[1]: second}
    metrics = {
        f"{a}_to_{b}": _measured_embeddings(sides[a], sides[b], same, ks=ks, itself=None)
        for a, b in (names, names[::-1])
    }
    both = np.concatenate([first, second])
    mixed = {
        name: _measured_embeddings(sides[name], both, same_twice, ks=ks, itself=np.arange(count) + number * count)
        for number, name in enumerate(names)
    }
    alone = len(np.unique(resampled)) < 2
    intervals = {
        direction: {} if alone else found.intervals(groups=resampled, seed=seed) for direction, found in metrics.items()
    }
    return PairRetrieval(names, metrics, mixed, intervals, resampled)


# ------------------------------------------------------------------------------------------- probabilities of relevance


@dataclass(frozen=True)
class RelevanceMetrics:
    """Whether probabilities of being relevant can be believed."""

    hits: int
    brier: float  # mean squared error, 0 to 1
    cross_entropy: float  # mean of -ln of the probability of what is the case, in nats
    ece: float  # mean over hits of the gap between probability and share of relevant hits in their bin
    reliability: tuple[ReliabilityBin, ...]  # confidence: mean probability; accuracy: share that is relevant
    calibration_error: (
        float  # as `ece`, over bins of equally many hits: it tells more where most probabilities are small
    )
    equal_counts: tuple[ReliabilityBin, ...]  # these bins, from the least probable to the most

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        bins = {name: [asdict(one) for one in getattr(self, name)] for name in ("reliability", "equal_counts")}
        return {**asdict(self), **bins}


def relevance_metrics(
    probabilities: Float[np.ndarray, " hits"] | Unchecked,
    relevant: Bool[np.ndarray, " hits"] | Unchecked,
    *,
    bins: int = 15,
) -> RelevanceMetrics:
    """Measure probabilities of hits being relevant, in equally wide bins and in bins of equally many hits.

    Args:
        probabilities: of each hit, from 0 to 1.
        relevant: whether it is.
        bins: how many.

    Raises:
        LabelError: there are no hits, lengths differ, a value is no probability, `relevant` is not boolean, or `bins` is
            below 1.
    """
    p, truth = np.asarray(probabilities), np.asarray(relevant)
    if p.ndim != 1 or p.shape != truth.shape or truth.dtype != np.bool_:
        raise LabelError(
            f"every hit needs a probability and a boolean; got {p.dtype} {p.shape} and {truth.dtype} {truth.shape}"
        )
    if not len(p):
        raise LabelError("there are no hits to measure probabilities on")
    if not ((p >= 0) & (p <= 1)).all():
        raise LabelError("probabilities of relevance lie between 0 and 1; got others. Give probabilities, not scores")
    if bins < 1:
        raise LabelError(f"bins must be at least 1; got {bins}")
    p = p.astype(np.float64)
    place = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    sums, hits = np.bincount(place, p, minlength=bins), np.bincount(place, truth, minlength=bins)
    eps = np.finfo(np.float64).eps
    equal = [part for part in np.array_split(np.argsort(p, kind="stable"), bins) if len(part)]
    equal_counts = tuple(
        ReliabilityBin(
            float(p[part[0]]), float(p[part[-1]]), float(p[part].mean()), float(truth[part].mean()), len(part)
        )
        for part in equal
    )
    return RelevanceMetrics(
        hits=len(p),
        brier=float(np.square(p - truth).mean()),
        cross_entropy=float(-np.log(np.maximum(np.where(truth, p, 1 - p), eps)).mean()),
        ece=float(np.abs(sums - hits).sum() / len(p)),
        reliability=tuple(
            ReliabilityBin(
                b / bins, (b + 1) / bins, float(sums[b] / count[b]), float(hits[b] / count[b]), int(count[b])
            )
            for b in np.flatnonzero(count).tolist()
        ),
        calibration_error=sum(one.count * abs(one.confidence - one.accuracy) for one in equal_counts) / len(p),
        equal_counts=equal_counts,
    )


@dataclass(frozen=True)
class NothingFound:
    """What a threshold on the best hit of a query costs and saves."""

    threshold: float
    kept: Interval  # share of the queries that have an answer and still get a hit
    false_hits: Interval  # share of the queries without an answer that get a hit all the same

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return asdict(self)


def nothing_found(
    answerable: Float[np.ndarray, " queries"] | Unchecked,
    off_topic: Float[np.ndarray, " others"] | Unchecked,
    *,
    threshold: float,
    level: float = 0.95,
) -> NothingFound:
    """Measure "nothing found" as an answer: a query gets a hit if its best probability is at least the threshold.

    Args:
        answerable: the best probability, or score, of each query that has an answer in the gallery. -inf: no hit at all.
        off_topic: the same of queries that have none.
        threshold: the least that a hit needs.
        level: of the Wilson intervals.

    Raises:
        LabelError: there are no queries of a kind, or a value or the threshold is NaN.
    """
    if math.isnan(threshold):
        raise LabelError("the threshold of a hit is NaN")
    rates = []
    for values, what in ((answerable, "answerable"), (off_topic, "off-topic")):
        best = np.asarray(values)
        if best.ndim != 1 or best.dtype.kind not in "fiub" or np.isnan(best).any():
            raise LabelError(
                f"the best hits of {what} queries must be a row of numbers without NaN; got {best.dtype} {best.shape}"
            )
        if not len(best):
            raise LabelError(f"there are no {what} queries to measure on")
        rates.append(wilson_interval(int((best >= threshold).sum()), len(best), level=level))
    return NothingFound(float(threshold), *rates)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """The interval of a share, in closed form (Wilson 1927, "Probable Inference", JASA 22).

    It stays within 0 and 1 and has a width also where all or none succeed, where the bootstrap has none.

    Args:
        successes: how many.
        trials: of how many.
        level: how often the interval is to hold the true share.

    Returns:
        The interval; its `draws` are 0.

    Raises:
        LabelError: there are no trials, successes are not among them, or the level is not between 0 and 1.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise LabelError(f"a share needs trials, and successes among them; got {successes} of {trials}")
    if not 0 < level < 1:
        raise LabelError(f"level must lie between 0 and 1; got {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    # Where all or none succeed, one end is the share itself but for rounding.
    return Interval(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)), level, 0)


# ------------------------------------------------------------------------------------------------------------- ranks


def _measured_embeddings(
    queries: Float[np.ndarray, "queries dim"],
    gallery: Float[np.ndarray, "gallery dim"],
    relevant: Callable[[slice], Bool[np.ndarray, "some gallery"]],
    *,
    ks: Sequence[int],
    itself: Int[np.ndarray, " queries"] | Unchecked,
) -> RetrievalMetrics:
    dtype = np.result_type(queries, gallery)
    longest = max(float(np.linalg.norm(gallery, axis=1).max(initial=0)), 0.0)
    # Sums of `dim` products are off by about sqrt(dim) roundings of the largest product of lengths.
    rounding = 2 * np.finfo(dtype).eps * np.sqrt(queries.shape[1]) * longest * np.linalg.norm(queries, axis=1)
    return _measured(
        len(queries),
        len(gallery),
        lambda part: queries[part] @ gallery.T,
        relevant,
        ks=ks,
        itself=itself,
        rounding=rounding.astype(np.float64),
    )


def _measured(
    queries: int,
    gallery: int,
    scores: Callable[[slice], Float[np.ndarray, "some gallery"]],
    relevant: Callable[[slice], Num[np.ndarray, "some gallery"] | Bool[np.ndarray, "some gallery"]],
    *,
    ks: Sequence[int],
    itself: Int[np.ndarray, " queries"] | Unchecked,
    rounding: Float64[np.ndarray, " queries"] | None,
) -> RetrievalMetrics:
    """Rank what is relevant to each query, a block of queries at a time."""
    kept = _checked(ks)
    if not queries:
        raise LabelError("there are no queries to measure on")
    own = np.full(queries, -1) if itself is None else np.asarray(itself)
    if own.shape != (queries,) or own.dtype.kind not in "iu" or own.min() < -1 or own.max() >= gallery:
        raise LabelError(
            f"itself must name one of {gallery} rows of the gallery, or -1, for each of {queries} queries; got {own.dtype} "
            f"{own.shape}" + (f" from {own.min()} to {own.max()}" if own.size else "")
        )
    rng = np.random.default_rng(0)
    items, ranks, gains = [], [], []
    for part in _blocks(queries, gallery):
        found, wanted = scores(part), relevant(part)
        unusable = np.isnan(found).any(axis=1)
        if unusable.any():
            raise LabelError(
                f"the scores of {unusable.sum()} queries hold NaN, first query {part.start + int(unusable.argmax())}"
            )
        for number, (row, grades) in enumerate(zip(found, wanted, strict=True), start=part.start):
            among = np.flatnonzero(grades)
            among = among[among != own[number]]
            apart = among if own[number] < 0 else np.append(among, own[number])
            mine = row[among].astype(np.float64)
            gain = grades[among].astype(np.float64)
            # Equal ones of equal grade in drawn order, so that none is favoured by its place in the gallery.
            order = np.lexsort((rng.random(len(among)), gain, -mine))
            items.append(among[order])
            gains.append(gain[order])
            least = mine[order] - (0.0 if rounding is None else rounding[number])
            others = _at_least(row, least) - _at_least(row[apart], least)
            ranks.append(np.arange(1, len(among) + 1) + others)
    sizes = np.array([len(part) for part in items])
    if (sizes == 0).any():
        without = np.flatnonzero(sizes == 0)
        raise LabelError(
            f"{len(without)} queries have no relevant item in the gallery, first {without[:5].tolist()}: "
            "leave them out or add what they look for"
        )
    return _summarise(sizes, np.concatenate(items), np.concatenate(ranks), np.concatenate(gains), kept)


def _at_least(
    values: Float[np.ndarray, " values"], least: Float64[np.ndarray, " bounds"]
) -> Int[np.ndarray, " bounds"]:
    """How many of the values are at least as much as each bound."""
    if len(least) <= _FEW:
        return np.array([np.count_nonzero(values >= bound) for bound in least], dtype=np.int64)
    behind: Int[np.ndarray, " bounds"] = np.searchsorted(np.sort(values), least, side="left")
    return len(values) - behind


def _summarise(
    sizes: Int[np.ndarray, " queries"],
    items: Int[np.ndarray, " pairs"],
    ranks: Int[np.ndarray, " pairs"],
    gains: Float64[np.ndarray, " pairs"],
    ks: tuple[int, ...],
) -> RetrievalMetrics:
    starts = np.cumsum(sizes) - sizes
    query = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(1, len(items) + 1) - starts[query]

    def per_query(values: Float64[np.ndarray, " pairs"]) -> Float64[np.ndarray, " queries"]:
        summed: Float64[np.ndarray, " queries"] = np.add.reduceat(values, starts)
        return summed

    discounted = gains / np.log2(1 + ranks)
    ideal = gains[np.lexsort((-gains, query))] / np.log2(1 + place)
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


def _check_widths(queries: Unchecked, gallery: Unchecked) -> None:
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise LabelError(
            f"queries and gallery must be matrices of equal width; got {queries.shape} and {gallery.shape}"
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
