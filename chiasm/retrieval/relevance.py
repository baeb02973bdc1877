"""Estimate the probability that a hit is relevant, and decide when nothing was found.

Fitted on held-out queries whose relevant rows are known, each once with these rows in the gallery and once without. Scores
in, probabilities out; where scores come from is in `chiasm.retrieval.scores`. Applying a fitted model needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm.alignment.alignment import MIN_PAIRS
from chiasm.errors import SpaceError

ANSWERABLE = 0.5  # share of queries that are taken to have an answer in the gallery
KEEP = 0.975  # with 0.98 more than a tenth of the off-topic questions get an answer (stamps)
FOLDS = 5
SHOWN = 10  # hits of a query that the calibration error looks at
_HARD, _RANDOM = 40, 60  # irrelevant rows of a query that are learned from
_SMALLEST = 20  # rows of the smallest gallery that best hits are looked at in
QUANTILES = np.linspace(0, 1, 201)

Curve: TypeAlias = Literal["kept", "absent", "foreign"]

_NUMBERS = ("slope", "lead", "bias", "calibration_error", "rows", "queries", "groups")
_ARRAYS = ("sizes", "kept", "absent", "foreign")


@dataclass(frozen=True, eq=False)
class Relevance:
    """Log-odds that a hit is relevant: `slope * score + lead * (score - best score of the query) + bias`.

    Both factors are at least 0, so that the probability rises with the score for every query.

    Attributes:
        slope: of the score.
        lead: of the distance to the best score of the query in this modality; a hit far behind the best is doubtful.
        bias: at a gallery of `rows`.
        rows: of the gallery that it was learned in. In one of n rows the log-odds fall by log(n / rows): as many rows
            are relevant to a query, and more of the others score as high by chance. So they do among n items of which
            only few have a row of this modality: a query may look for any item, so a row is the right one as seldom.
        queries: that it was fitted on.
        groups: of these.
        calibration_error: mean distance of probability and share relevant, over 15 bins of equally many of the first 10
            hits of left-out groups, each query with and without its relevant rows.
        sizes: of galleries, rising up to `rows`: the whole one, and the relevant rows among ever fewer others. The fewer
            rows, the less of a chance to score high has the best of them.
        kept: for each size, quantiles of the best probability of left-out queries that have their relevant rows in the
            gallery.
        absent: the same, with the relevant rows taken out.
        foreign: the same, with the half of the gallery that is most like the relevant rows taken out, too: a query for
            another kind of thing than what is there.
    """

    slope: float
    lead: float
    bias: float
    rows: int
    queries: int
    groups: int
    calibration_error: float
    sizes: Int[np.ndarray, " sizes"]
    kept: Float[np.ndarray, "sizes quantiles"]
    absent: Float[np.ndarray, "sizes quantiles"]
    foreign: Float[np.ndarray, "sizes quantiles"]

    def probability(
        self,
        scores: Float[np.ndarray, "*n"],
        best: float | Float[np.ndarray, "..."],
        *,
        rows: int | None = None,
        items: int | None = None,
    ) -> Float[np.ndarray, "*n"]:
        """Return the probability of each hit to be relevant.

        Args:
            scores: of the hits.
            best: best score of their query in this modality; broadcast against the scores.
            rows: of the gallery in this modality, not only those that a filter lets through. Default: as learned.
            items: of the gallery in all modalities. Default: as many as rows.
        """
        odds = self.slope * scores + self.lead * (scores - best) + self.bias - self._dilution(rows, items)
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -60, 60))))

    def _dilution(self, rows: int | None, items: int | None) -> float:
        sizes = [number for number in (rows, items) if number is not None]
        return float(np.log(max(1, *sizes) / self.rows)) if sizes else 0.0

    def threshold(self, *, keep: float = KEEP, rows: int | None = None, items: int | None = None) -> float:
        """Return the probability below which a best hit means "nothing found".

        In a larger gallery than the one it was fitted on it falls as the probabilities do, so that the same scores are
        kept; in a smaller one it is what was seen in a gallery of that size.

        Args:
            keep: share of the queries with an answer that still get one.
            rows: of the gallery, as in `probability`.
            items: as in `probability`.

        Raises:
            SpaceError: a share that is not from 0 to 1.
        """
        return mixed_threshold([(self, rows)], keep=keep, items=items)

    def best(self, of: Curve, *, rows: int | None = None, items: int | None = None) -> Float[np.ndarray, " quantiles"]:
        """Return quantiles of the best probability of a query in a gallery, see the attributes.

        Args:
            of: which of them.
            rows: see `probability`.
            items: see there.
        """
        curve = at_size(getattr(self, of), self.sizes, rows)
        return np.asarray(curve / (curve + np.exp(self._dilution(rows, items)) * (1 - curve)))

    def rates(self, threshold: float, *, rows: int | None = None, items: int | None = None) -> dict[str, float]:
        """Return the share of left-out queries that get an answer at a threshold, by kind of query; see the attributes.

        Args:
            threshold: of a gallery of so many rows.
            rows: see `probability`.
            items: see there.
        """
        return {name: float(np.mean(self.best(name, rows=rows, items=items) >= threshold)) for name in get_args(Curve)}

    def fields(self) -> dict[str, Any]:
        """Return what JSON can hold; with `arrays` all that `restore` needs."""
        return {name: getattr(self, name) for name in _NUMBERS}

    def arrays(self) -> dict[str, Shaped[np.ndarray, "sizes ..."]]:
        """Return sizes of galleries, and quantiles of best probabilities."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def restore(cls, fields: Mapping[str, Any], arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Relevance:
        """Restore a model from its `fields` and `arrays`.

        Raises:
            SpaceError: they do not make a relevance model.
        """
        try:
            numbers = [float(fields[name]) for name in _NUMBERS[:4]]
            rows, queries, groups = (int(fields[name]) for name in _NUMBERS[4:])
            sizes = np.asarray(arrays["sizes"], np.int64)
            kept, absent, foreign = (np.asarray(arrays[name], np.float64) for name in _ARRAYS[1:])
        except (KeyError, TypeError, ValueError) as error:
            raise SpaceError(
                f"this is not a saved relevance model ({type(error).__name__}: {error}). Align again"
            ) from error
        slope, lead, bias, calibration_error = numbers
        sound = np.isfinite(numbers).all() and min(slope, lead) >= 0 and min(rows, queries, groups) >= 1
        sound = sound and sizes.size > 0 and bool((np.diff(sizes, prepend=0) > 0).all())
        for curve in (kept, absent, foreign):
            sound = sound and curve.shape == (*sizes.shape, *QUANTILES.shape)
            sound = sound and bool(((curve >= 0) & (curve <= 1)).all() and (np.diff(curve) >= 0).all())
        if not sound:
            raise SpaceError(f"a saved relevance model is damaged: {dict(fields)}. Align again")
        return cls(slope, lead, bias, rows, queries, groups, calibration_error, sizes, kept, absent, foreign)


def fit_relevance(
    scores: Float[np.ndarray, "queries rows"],
    relevant: Bool[np.ndarray, "queries rows"],
    groups: Int[np.ndarray, " queries"],
    likeness: Float[np.ndarray, "queries rows"],
    *,
    seed: int = 0,
) -> Relevance:
    """Fit the probability of relevance by logistic regression.

    The prior is that of the gallery: irrelevant rows are sampled (the best 40 of a query and 60 others) and weighted so
    that they stand for all. Each query counts once with its relevant rows in the gallery, weighted `ANSWERABLE`, and once
    without. Calibration error and rates are of five folds of left-out groups; the model returned is of all queries.

    Args:
        scores: of every row for every query, by vectors that were placed without their own pair.
        relevant: which row is relevant to which query; every query has one.
        groups: queries of one group are left out together.
        likeness: of every row to the rows that are relevant to the query; orders what `foreign` takes out.
        seed: of folds and samples.

    Raises:
        SpaceError: fewer than 10 groups, values that are not finite, a query without a relevant row or without any other.
    """
    if not scores.shape == relevant.shape == likeness.shape or len(groups) != len(scores):
        raise SpaceError(
            f"scores, relevant and likeness must be of one shape with a group a query; got {scores.shape}, "
            f"{relevant.shape}, {likeness.shape} and {len(groups)} groups"
        )
    codes: Int[np.ndarray, " queries"] = np.unique(groups, return_inverse=True)[1].ravel()
    parts = int(codes.max(initial=-1)) + 1
    if parts < MIN_PAIRS:
        raise SpaceError(
            f"a probability of relevance needs pairs of at least {MIN_PAIRS} groups; got {parts}. Without them hits have "
            "a score and no probability"
        )
    if not np.isfinite(scores).all():
        raise SpaceError(f"{int((~np.isfinite(scores)).sum())} scores are not finite numbers")
    if not relevant.any(axis=1).all() or relevant.all(axis=1).any():
        raise SpaceError(
            f"{int((~relevant.any(axis=1)).sum())} queries have no relevant row, and to {int(relevant.all(axis=1).sum())} "
            "all rows are: leave them out"
        )
    rng = np.random.default_rng(seed)
    sizes = gallery_sizes(scores.shape[1])
    tops = _bests(scores, relevant, likeness, sizes, seed)
    best, best_without = tops[0][-1], tops[1][-1]
    sample = _sample(scores, relevant, best, best_without, rng)
    fold = (rng.permutation(parts) % FOLDS)[codes]
    rows = scores.shape[1]
    probabilities = [np.empty(top.shape) for top in tops]  # with the relevant rows, without, and of other kinds only
    shown, truth, weight = [], [], []
    for number in range(FOLDS):
        test = np.flatnonzero(fold == number)
        slope, lead, bias = _logistic(*sample.of(fold != number))

        def odds(values: Float[np.ndarray, "..."], top: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
            return np.asarray(1 / (1 + np.exp(-(slope * values + lead * (values - top) + bias))))  # noqa: B023  used in this turn

        for target, of_size in zip(probabilities, tops, strict=True):
            target[:, test] = odds(of_size[:, test], of_size[:, test])
        for top, without, share in ((best, False, ANSWERABLE), (best_without, True, 1 - ANSWERABLE)):
            candidates = np.where(relevant[test] & without, -np.inf, scores[test])
            first = np.argpartition(-candidates, min(SHOWN, rows - 1) - 1, axis=1)[:, : min(SHOWN, rows - 1)]
            values = np.take_along_axis(candidates, first, axis=1)
            there = values > -np.inf
            shown.append(odds(values, top[test, None])[there])
            truth.append((np.take_along_axis(relevant[test], first, axis=1) & (not without))[there])
            weight.append(np.full(int(there.sum()), share))
    error = calibration_error(np.concatenate(shown), np.concatenate(truth), weights=np.concatenate(weight))
    slope, lead, bias = _logistic(*sample.of(np.ones(len(scores), dtype=bool)))
    curves = (np.quantile(values, QUANTILES, axis=1).T for values in probabilities)
    return Relevance(slope, lead, bias, rows, len(scores), parts, error, sizes, *curves)


def mixed_threshold(
    parts: Sequence[tuple[Relevance, int | None]], *, keep: float = KEEP, items: int | None = None
) -> float:
    """Return the least probability of a best hit in a gallery of several modalities, see `Relevance.threshold`.

    An answer is taken to be in a modality as often as rows are. So one that few items have, or of which little is found,
    does not decide what is kept of the others.

    Args:
        parts: a model a modality, and its rows in the gallery.
        keep: see there.
        items: see there.

    Raises:
        SpaceError: a share that is not from 0 to 1.
    """
    if not 0 <= keep <= 1:
        raise SpaceError(f"a rate is a number from 0 to 1; got {keep}")
    curves = [model.best("kept", rows=rows, items=items) for model, rows in parts]
    return mixed_quantile(curves, [model.rows if rows is None else rows for model, rows in parts], 1 - keep)


def mixed_quantile(curves: Sequence[Float[np.ndarray, " quantiles"]], weights: Sequence[float], share: float) -> float:
    """Return a quantile of a weighted mixture of distributions, each described by its own quantiles (`QUANTILES`)."""
    if len(curves) == 1:
        return float(np.interp(share, QUANTILES, curves[0]))
    values = np.unique(np.concatenate(curves))
    # The share of each part at or below a value, ties in.
    below = [
        np.interp(np.searchsorted(curve, values, side="right") - 1, np.arange(len(QUANTILES)), QUANTILES, left=0)
        for curve in curves
    ]
    return float(np.interp(share, np.average(below, axis=0, weights=weights), values))


def gallery_sizes(rows: int) -> Int[np.ndarray, " sizes"]:
    """Return the sizes of galleries that best hits are looked at in, rising: all rows, half of them, ... down to 20."""
    sizes = [rows]
    while sizes[-1] // 2 >= _SMALLEST:
        sizes.append(sizes[-1] // 2)
    return np.array(sizes[::-1])


def best_by_size(
    scores: Float[np.ndarray, "queries rows"],
    relevant: Bool[np.ndarray, "queries rows"],
    sizes: Int[np.ndarray, " sizes"],
    *,
    seed: int,
) -> Float[np.ndarray, "sizes queries"]:
    """Return the best score of each query with its relevant rows among so many others, drawn once for all; -inf is none.

    Args:
        scores: of every row for every query.
        relevant: which rows are always there.
        sizes: from `gallery_sizes`.
        seed: of the draw.
    """
    drawn = np.random.default_rng(seed).permutation(scores.shape[1])
    running = np.maximum.accumulate(np.where(relevant, -np.inf, scores)[:, drawn], axis=1)[:, sizes - 1].T
    always = np.where(relevant, scores, -np.inf).max(axis=1)
    return np.asarray(np.maximum(running, always))


def at_size(
    curves: Float[np.ndarray, "sizes quantiles"], sizes: Int[np.ndarray, " sizes"], rows: int | None
) -> Float[np.ndarray, " quantiles"]:
    """Interpolate the curve of a gallery of so many rows; None or more than were seen: the last."""
    if rows is None:
        return np.asarray(curves[-1])
    place = float(np.interp(np.log(max(rows, 1)), np.log(sizes), np.arange(len(sizes))))
    low, share = int(place), place % 1
    return np.asarray((1 - share) * curves[low] + share * curves[min(low + 1, len(curves) - 1)])


def calibration_error(
    probabilities: Float[np.ndarray, " hits"],
    relevant: Bool[np.ndarray, " hits"],
    *,
    weights: Float[np.ndarray, " hits"] | None = None,
    bins: int = 15,
) -> float:
    """Return the weighted mean over bins of |mean probability - share relevant|; bins hold equally many hits.

    Equal numbers instead of equal widths (Nixon et al. 2019), since most hits have a probability near 0.

    Raises:
        SpaceError: no hits.
    """
    if not len(probabilities):
        raise SpaceError("there are no hits to measure calibration on")
    share = np.ones(len(probabilities)) if weights is None else weights
    order = np.argsort(probabilities, kind="stable")
    off = (probabilities - relevant) * share
    return float(sum(abs(off[part].sum()) for part in np.array_split(order, bins)) / share.sum())


# --------------------------------------------------------------------------------------------------------------------


def _bests(
    scores: Float[np.ndarray, "queries rows"],
    relevant: Bool[np.ndarray, "queries rows"],
    likeness: Float[np.ndarray, "queries rows"],
    sizes: Int[np.ndarray, " sizes"],
    seed: int,
) -> tuple[Float[np.ndarray, "sizes queries"], ...]:
    """Return the best score of each query, by size: with its relevant rows, without, and in the half least like them."""
    nothing = np.zeros_like(relevant)
    without = np.where(relevant, -np.inf, scores)
    middle = np.median(np.where(relevant, np.inf, likeness), axis=1, keepdims=True)
    far = np.where(likeness <= middle, without, -np.inf)
    best, absent, foreign = (
        best_by_size(values, always, sizes, seed=seed)
        for values, always in ((scores, relevant), (without, nothing), (far, nothing))
    )
    # Among a few rows there may be only relevant ones, or none that is far: then the nearest thing to it that there is.
    absent = np.where(absent > -np.inf, absent, absent[-1])
    return best, absent, np.where(foreign > -np.inf, foreign, absent)


@dataclass(frozen=True, eq=False)
class _Sample:
    query: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    behind: Float[np.ndarray, " n"]
    relevant: Float[np.ndarray, " n"]
    weight: Float[np.ndarray, " n"]

    def of(
        self, queries: Bool[np.ndarray, " queries"]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        rows = queries[self.query]
        return np.stack([self.score, self.behind], axis=1)[rows], self.relevant[rows], self.weight[rows]


def _sample(
    scores: Float[np.ndarray, "queries rows"],
    relevant: Bool[np.ndarray, "queries rows"],
    best: Float[np.ndarray, " queries"],
    best_without: Float[np.ndarray, " queries"],
    rng: np.random.Generator,
) -> _Sample:
    query, row, weight = [], [], []
    for number, (line, right) in enumerate(zip(scores, relevant, strict=True)):
        wrong = np.flatnonzero(~right)
        order = wrong[np.argsort(-line[wrong], kind="stable")]
        hard, rest = order[:_HARD], order[_HARD:]
        drawn = rest if len(rest) <= _RANDOM else rng.choice(rest, _RANDOM, replace=False)
        chosen = np.concatenate([np.flatnonzero(right), hard, drawn])
        counts = np.ones(len(chosen))
        if len(drawn):
            counts[-len(drawn) :] = len(rest) / len(drawn)
        query.append(np.full(len(chosen), number))
        row.append(chosen)
        weight.append(counts)
    q, r, w = np.concatenate(query), np.concatenate(row), np.concatenate(weight)
    score, right = scores[q, r].astype(np.float64), relevant[q, r]
    out = ~right  # the relevant rows are not there the second time
    return _Sample(
        np.concatenate([q, q[out]]),
        np.concatenate([score, score[out]]),
        np.concatenate([score - best[q], score[out] - best_without[q[out]]]),
        np.concatenate([right.astype(np.float64), np.zeros(int(out.sum()))]),
        np.concatenate([ANSWERABLE * w, (1 - ANSWERABLE) * w[out]]) * 2,
    )


def _logistic(
    X: Float[np.ndarray, "n 2"], y: Float[np.ndarray, " n"], weight: Float[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """Weighted logistic regression with factors of at least 0.

    Half the squared (standardised) factors is added to the sum of losses: a prior that a few pairs outweigh, and that
    keeps the factors finite where scores separate perfectly.
    """
    from scipy.optimize import minimize

    mean = np.average(X, axis=0, weights=weight)
    spread = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    spread = np.where(spread > 0, spread, 1)
    Z = np.column_stack([(X - mean) / spread, np.ones(len(X))])
    total = weight.sum()

    def loss(b: Float[np.ndarray, " 3"]) -> tuple[float, Float[np.ndarray, " 3"]]:
        odds = Z @ b
        residual = weight * (1 / (1 + np.exp(-odds)) - y)
        value = float(weight @ (np.logaddexp(0, odds) - y * odds)) + float(b[:2] @ b[:2]) / 2
        return value / total, (Z.T @ residual + np.append(b[:2], 0)) / total

    prior = float(weight @ y) / total
    begin = np.array([0.1, 0.1, np.log(prior / (1 - prior))])
    fit = minimize(
        loss,
        begin,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None), (0, None), (None, None)],
        options={"ftol": 1e-13, "gtol": 1e-9},
    )
    factors = fit.x[:2] / spread
    return float(factors[0]), float(factors[1]), float(fit.x[2] - factors @ mean)
