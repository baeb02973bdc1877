"""Several rankings of the same items made into one: by reciprocal ranks, or by weighted scores.

What this module knows is how to treat an item that one of the searches could not have found: an image without a word of
text can never be among the hits of a full-text search. To give it nothing there, as a sum over rankings would, puts it
behind every item with words; to judge it by the other ranking alone, as a mean over the rankings that cover it would,
puts it before every item whose words do not happen to match. Here it is given what items that the search does cover
have got from it on the average at that place of the other rankings (the isotonic regression, see `_expected`). So an
item without words stands behind its neighbours that match and before those that do not, and the order among items
without words is left as it was.

Where rankings come from is left to `chiasm.retrieval.index` and `chiasm.store.words`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.splits import Labels, label_codes

CONSTANT = 60.0  # of reciprocal ranks: as in the paper, where results hardly changed with it
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))  # tried for the second of two rankings
FOLDS = 10  # of `compare_fusions`

Way: TypeAlias = Literal["first", "second", "ranks", "weight"]
"""One of two searches alone, both by reciprocal ranks, or both by a weight that other queries taught."""


@dataclass(frozen=True, eq=False)
class Found:
    """What one search found for a query.

    Raises:
        ValueError: not one score a row, scores that rise or are not finite, a row twice, below 0 or beyond `covers`, or
            a row that the search does not cover.
    """

    rows: Int[np.ndarray, " found"]  # numbers of items, best first
    scores: Float[np.ndarray, " scores"]  # falling, one a row; equal scores share their places
    covers: Bool[np.ndarray, " items"] | None = None
    """By item: whether the search could have found it at all. None: all of them."""

    def __post_init__(self) -> None:
        if self.rows.shape != self.scores.shape or self.rows.ndim != 1:
            raise ValueError(f"each row needs a score; got {self.rows.shape} rows and {self.scores.shape} scores")
        if not np.isfinite(self.scores).all() or (np.diff(self.scores) > 0).any():
            raise ValueError("scores have to be finite and fall from the first row to the last")
        if len(np.unique(self.rows)) != len(self.rows) or (self.rows < 0).any():
            raise ValueError("rows have to be numbers of items from 0 on, each once")
        if self.covers is not None and len(self.rows):
            if int(self.rows.max()) >= len(self.covers):
                raise ValueError(f"row {self.rows.max()} was found and `covers` knows {len(self.covers)} items")
            if not self.covers[self.rows].all():
                raise ValueError(f"row {self.rows[~self.covers[self.rows]][0]} was found and is not covered")


@dataclass(frozen=True, eq=False)
class Fused:
    """Rows that any of the searches found, best first, with scores that compare within this query only."""

    rows: Int[np.ndarray, " found"]
    scores: Float64[np.ndarray, " found"]


def reciprocal_rank_fusion(
    searches: Sequence[Found], *, weights: Sequence[float] | None = None, constant: float = CONSTANT
) -> Fused:
    """Fuse by ranks alone: the sum of weight / (constant + rank) over the searches (Cormack et al. 2009).

    Rows of equal score get the mean of what their places are worth, as they would if their order were drawn again and
    again. A row that a search covers and did not find gets nothing from it; one that it does not cover, see above.
    Of equal sums the row that comes first in the first search goes first, then the second search decides and so on.

    Args:
        searches: of one query over the same items. At least one covers all of them.
        weights: of the searches. Default: 1 each.
        constant: how slowly the worth of a place falls with the rank.

    Raises:
        ValueError: no search, none that covers all items, not one weight a search, a weight below 0 or none above, or a
            constant that is not above 0.
    """
    if not constant > 0:
        raise ValueError(f"the constant has to be above 0; got {constant}")
    return _fused(searches, [_by_place(found, constant) for found in searches], weights)


def weighted_fusion(searches: Sequence[Found], *, weights: Sequence[float]) -> Fused:
    """Fuse by scores: the weighted sum of each search's scores, brought to 0..1 by its best and its lowest.

    The lowest of a search that covers all items is the last score it found. That of another search is 0, the score of
    an item without any of the words, so that one weak match does not count as much as a perfect one. Ties are settled
    as by `reciprocal_rank_fusion`.

    Args:
        searches: as above.
        weights: of the searches, e.g. `(1 - weight, weight)` with the weight that `learn_weight` found.

    Raises:
        ValueError: as above.
    """
    return _fused(searches, [_by_score(found) for found in searches], weights)


# ------------------------------------------------------------------------------------------------------------ learning


@dataclass(frozen=True, eq=False)
class Judged:
    """A query, what two searches found for it, and which items are relevant.

    Rankings are judged as what is left of them when items that nobody looked at are taken out (condensed lists; Sakai
    2007, "Alternatives to Bpref"): these are not taken for wrong. They are taken out after fusing, since what a place or
    a score is worth depends on the whole of a list.
    """

    first: Found  # covers all items
    second: Found
    relevant: Bool[np.ndarray, " items"]
    looked_at: Bool[np.ndarray, " items"] | None = None  # every relevant item is; None: all items are

    def precision(self, rows: Int[np.ndarray, " found"]) -> float:
        """Average precision of a ranking: the mean over relevant items, found or not, of the precision at their place."""
        right = self.relevant[rows if self.looked_at is None else rows[self.looked_at[rows]]]
        places = np.flatnonzero(right) + 1
        return float((np.arange(1, len(places) + 1) / places).sum() / self.relevant.sum())

    def precision_by_weight(self) -> Float64[np.ndarray, " weights"]:
        """That of `weighted_fusion` with each of `WEIGHTS`."""
        both = (self.first, self.second)
        return np.array(
            [self.precision(weighted_fusion(both, weights=(1 - weight, weight)).rows) for weight in WEIGHTS]
        )


@dataclass(frozen=True)
class LearnedWeight:
    """The weight of the second search, and how the weights did."""

    weight: float  # the first search has 1 - weight
    precision: dict[float, float]  # by weight: mean average precision, a group counting once
    queries: int

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "weight": self.weight,
            "precision": {f"{weight:g}": value for weight, value in self.precision.items()},
            "queries": self.queries,
        }


def learn_weight(queries: Sequence[Judged], *, groups: Labels | None = None) -> LearnedWeight:
    """Choose the weight of the second search for `weighted_fusion` by average precision over judged queries.

    The weight nearest to 0.5 is taken among those that are worse than the best by no more than one standard error of
    the difference, group by group: a few queries do not move it far. Of two that are equally near it is the lower one.

    Args:
        queries: from pairs (text -> the items that it belongs to) or from thumbs of earlier searches.
        groups: of the queries, e.g. those about the same item; each group counts as one. Default: every query is its
            own group.

    Raises:
        LabelError: fewer than two groups, or a query without a relevant item that was found.
    """
    codes = _checked(queries, groups, least=2)
    by_group = _by_group(np.array([query.precision_by_weight() for query in queries]), codes)
    means = map(float, by_group.mean(axis=0))
    return LearnedWeight(WEIGHTS[_chosen(by_group)], dict(zip(WEIGHTS, means, strict=True)), len(queries))


@dataclass(frozen=True)
class FusionComparison:
    """The weight that all queries teach, and how well such a weight does on queries that did not teach it."""

    weight: float  # of the second search; the first has 1 - weight
    precision: dict[Way, float]  # mean average precision, a group counting once
    gain: float  # of the learned weight over reciprocal ranks
    standard_error: float  # of the gain, over groups
    queries: int
    groups: int

    @property
    def is_better(self) -> bool:
        """Whether the weight beats reciprocal ranks by more than one standard error. This is the whole rule."""
        return self.gain > self.standard_error

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "is_better": self.is_better}


def compare_fusions(queries: Sequence[Judged], *, groups: Labels | None = None, seed: int = 0) -> FusionComparison:
    """Learn the weight (`learn_weight`), and compare it with reciprocal ranks and either search alone on left-out groups.

    The groups are dealt to ten folds, or as many as there are groups; those of each fold are judged by the weight that
    the others teach. An item that a search alone did not find counts as not found.

    Args:
        queries: as in `learn_weight`.
        groups: of the queries, kept on one side whole; each counts as one. Default: every query is its own group.
        seed: of the deal.

    Raises:
        LabelError: fewer than three groups, or as in `learn_weight`.
    """
    codes = _checked(queries, groups, least=3)
    by_weight = _by_group(np.array([query.precision_by_weight() for query in queries]), codes)
    number = len(by_weight)
    fold = np.random.default_rng(seed).permutation(number) % min(FOLDS, number)
    left_out = np.empty(number)
    for one in range(min(FOLDS, number)):
        mine = fold == one
        left_out[mine] = by_weight[mine, _chosen(by_weight[~mine])]

    def mean_of(precisions: Sequence[float]) -> Float64[np.ndarray, " groups"]:
        return _by_group(np.array(precisions)[:, None], codes)[:, 0]

    ranks = mean_of([query.precision(reciprocal_rank_fusion((query.first, query.second)).rows) for query in queries])
    precision: dict[Way, Float64[np.ndarray, " groups"]] = {
        "first": mean_of([query.precision(query.first.rows) for query in queries]),
        "second": mean_of([query.precision(query.second.rows) for query in queries]),
        "ranks": ranks,
        "weight": left_out,
    }
    gain = left_out - ranks
    return FusionComparison(
        WEIGHTS[_chosen(by_weight)],
        {way: float(values.mean()) for way, values in precision.items()},
        float(gain.mean()),
        float(gain.std(ddof=1) / np.sqrt(number)),
        len(queries),
        number,
    )


def _checked(queries: Sequence[Judged], groups: Labels | None, *, least: int) -> Int[np.ndarray, " queries"]:
    """The groups of queries as numbers from 0 on."""
    codes = np.arange(len(queries)) if groups is None else label_codes(groups, what="groups of queries")[1]
    if len(codes) != len(queries):
        raise LabelError(f"{len(queries)} queries need a group each; got {len(codes)}")
    number = int(codes.max(initial=-1)) + 1
    if number < least:
        raise LabelError(
            f"to learn a weight takes judged queries of at least {'two' if least == 2 else 'three'} groups; got {number}"
        )
    for place, query in enumerate(queries):
        seen = np.union1d(query.first.rows, query.second.rows)
        if not query.relevant[seen].any():
            raise LabelError(
                f"query {place} has no relevant item among the {len(seen)} that were found: it says nothing about the "
                "weight. Leave it out, or let the searches find more"
            )
    return codes


def _by_group(
    precisions: Float64[np.ndarray, "queries ways"], codes: Int[np.ndarray, " queries"]
) -> Float64[np.ndarray, "groups ways"]:
    """The mean of each group."""
    sums = np.zeros((int(codes.max()) + 1, precisions.shape[1]))
    np.add.at(sums, codes, precisions)
    means: Float64[np.ndarray, "groups ways"] = sums / np.bincount(codes)[:, None]
    return means


def _chosen(by_group: Float64[np.ndarray, "groups weights"]) -> int:
    """The place of the weight that is taken, see `learn_weight`."""
    lead = by_group[:, [int(by_group.mean(axis=0).argmax())]] - by_group
    error = lead.std(axis=0, ddof=1) / np.sqrt(len(by_group))
    good = np.flatnonzero(lead.mean(axis=0) <= error)
    return int(good[np.argmin(np.round(np.abs(np.array(WEIGHTS)[good] - 0.5), 9))])


# -------------------------------------------------------------------------------------------------------------- fusing


def _by_place(found: Found, constant: float) -> Float64[np.ndarray, " found"]:
    worth = 1 / (constant + np.arange(1, len(found.rows) + 1))
    _, tie, size = np.unique(-found.scores, return_inverse=True, return_counts=True)
    mean: Float64[np.ndarray, " found"] = (np.bincount(tie, worth) / size)[tie] if len(worth) else worth
    return mean


def _by_score(found: Found) -> Float64[np.ndarray, " found"]:
    scores = found.scores.astype(np.float64)
    if not len(scores):
        return scores
    lowest = scores[-1] if found.covers is None else min(0.0, float(scores[-1]))
    spread = scores[0] - lowest
    return (scores - lowest) / spread if spread > 0 else np.ones(len(scores))


def _fused(
    searches: Sequence[Found], worths: Sequence[Float64[np.ndarray, " _"]], weights: Sequence[float] | None
) -> Fused:
    """Sum what the rows are worth to each search, with what is to be expected where a search does not cover them."""
    if not any(found.covers is None for found in searches):
        raise ValueError("fusing takes at least one search that covers all items")
    weight = np.ones(len(searches)) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (len(searches),):
        raise ValueError(f"{len(searches)} searches need as many weights; got {len(weight)}")
    if not (np.isfinite(weight) & (weight >= 0)).all() or not weight.any():
        raise ValueError(f"weights have to be finite, not below 0 and not all 0; got {weight.tolist()}")

    rows = np.unique(np.concatenate([found.rows for found in searches]))
    worth = np.zeros((len(searches), len(rows)))
    place = np.full((len(searches), len(rows)), len(rows))
    for number, found in enumerate(searches):
        at = np.searchsorted(rows, found.rows)
        worth[number, at] = worths[number] * weight[number]
        place[number, at] = np.arange(len(at))

    complete = np.array([found.covers is None for found in searches])
    base = worth[complete].sum(axis=0)
    seen = (place[complete] < len(rows)).any(axis=0)
    for number, found in enumerate(searches):
        if found.covers is not None and len(found.rows):
            covered = found.covers[rows]
            judged = covered & seen
            worth[number, ~covered] = _expected(base[judged], worth[number, judged], at=base[~covered])
    total = worth.sum(axis=0)
    order = np.lexsort((*place[::-1], -total))
    return Fused(rows[order], total[order])


def _expected(
    base: Float64[np.ndarray, " judged"], worth: Float64[np.ndarray, " judged"], *, at: Float64[np.ndarray, " others"]
) -> Float64[np.ndarray, " others"]:
    """What a search is expected to give, as a rising function of what the other searches gave.

    The least-squares fit among all rising functions (pool adjacent violators; Ayer et al. 1955, Ann. Math. Stat.
    26:641), with straight lines between the places where it is known. Nothing is known of the ends of the range but
    what is seen there.
    """
    if not len(base):
        return np.zeros(len(at))
    known, tie, size = np.unique(base, return_inverse=True, return_counts=True)
    means: list[float] = []
    sizes: list[int] = []
    lengths: list[int] = []
    for mean, count in zip(np.bincount(tie, worth) / size, size, strict=True):
        means.append(float(mean))
        sizes.append(int(count))
        lengths.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            total = sizes[-2] + sizes[-1]
            means[-2] = (means[-2] * sizes[-2] + means[-1] * sizes[-1]) / total
            sizes[-2] = total
            lengths[-2] += lengths[-1]
            del means[-1], sizes[-1], lengths[-1]
    expected: Float64[np.ndarray, " others"] = np.interp(at, known, np.repeat(means, lengths))
    return expected
