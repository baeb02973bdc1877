"""Scores that compare across modalities.

The cosine of a text with a text and that of a text with an image are not on one scale. For each pair of modalities, of
the query and of the gallery, a `PairScores` knows how vectors are prepared (centred, hubs held back), how a score compares
with the query's other scores, and, where it was fitted on pairs, how probable it is that a hit is relevant. A `ScoreModel`
holds one `PairScores` for each pair of modalities and judges the hits of a mixed gallery.

Arrays in, arrays out; searching is left to `chiasm.store.index` and `chiasm.verbs.search`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm.alignment.alignment import MIN_PAIRS
from chiasm.errors import SpaceError
from chiasm.retrieval.relevance import (
    KEEP,
    QUANTILES,
    Relevance,
    at_size,
    best_by_size,
    fit_relevance,
    mixed_quantile,
    mixed_threshold,
)
from chiasm.types import Modality
from chiasm.vectors import check_matrix, unit_rows

FORMAT_VERSION = 3
MAX_BANK = 2000  # queries kept for the hub offsets: 1.5 MB at 384 dimensions
MAX_QUERIES, MAX_ROWS = 1000, 5000  # of the pairs that relevance is learned from; more cost time and change little
FOLDS = 5
_ZERO_OFFSET = 2.0  # of a row of zeros: puts it below every other score
_CHOICE_HITS, _CHOICE_CANDIDATES = 10, 100
_BLOCK = 2**22  # similarities held at a time


@dataclass(frozen=True)
class Preparation:
    """The preparation of vectors before they are compared.

    Hubs, gallery rows that are near to every query, lose `hub_strength * log mean exp(T s) / T`, with s their
    similarities to a bank of queries and T the temperature (inverted softmax; Smith et al. 2017). Strength 1 ranks rows
    by the probability of the query given the row, 1/2 by the product of the softmax over rows and the one over queries.

    Attributes:
        centred: subtract each side's mean, which closes the modality gap (Liang et al. 2022).
        hub_strength: factor of the hub offset; 0 for none.
        temperature: T of the hub offset.

    Example:
        >>> Preparation(hub_strength=0.5).hub_offsets(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[:1]).round(2)
        array([0.5, 0. ], dtype=float32)
    """

    centred: bool = False
    hub_strength: float = 0.0
    temperature: float = 10.0

    def __post_init__(self) -> None:
        if not (0 <= self.hub_strength < np.inf and 0 < self.temperature < np.inf):
            raise SpaceError(
                "a hub strength is at least 0 and a temperature above 0, both finite; got "
                f"{self.hub_strength} and {self.temperature}"
            )

    def hub_offsets(
        self,
        rows: Float[np.ndarray, "rows dim"],
        bank: Float[np.ndarray, "bank dim"],
        *,
        row_owners: Int[np.ndarray, " rows"] | None = None,
        bank_owners: Int[np.ndarray, " bank"] | None = None,
    ) -> Float[np.ndarray, " rows"]:
        """Return the number to subtract from each row's score.

        An offset depends on the row and the bank alone, not on the query, so it is computed once.

        Args:
            rows: of the gallery.
            bank: queries; an empty bank gives no offsets.
            row_owners: the item of each row. A query of the same item (an image's own caption) says nothing about
                whether the row is a hub and is left out; else a row with a caption in the bank would rank behind one
                without. Give the owners of both sides or of neither.
            bank_owners: the item of each query in the bank.

        Raises:
            SpaceError: owners of one side only.
        """
        if (row_owners is None) != (bank_owners is None):
            raise SpaceError("owners must be given of both the rows and the bank, or of neither")
        offsets = np.zeros(len(rows), np.float32)
        if not self.hub_strength or not len(bank):
            return offsets
        step = max(1, _BLOCK // len(bank))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            logits = self.temperature * (rows[part] @ bank.T)
            if row_owners is not None and bank_owners is not None:
                np.copyto(logits, -np.inf, where=row_owners[part, None] == bank_owners[None, :])
            counted = np.isfinite(logits).sum(axis=1)
            top = np.where(counted > 0, logits.max(axis=1), 0)
            mean = np.exp(logits - top[:, None]).sum(axis=1) / np.maximum(counted, 1)
            soft = top + np.log(np.where(counted > 0, mean, 1))
            offsets[part] = self.hub_strength * soft / self.temperature
        return offsets


PREPARATIONS = (
    Preparation(),
    *(
        Preparation(centred, strength, temperature)
        for centred in (False, True)
        for strength, temperature in ((0.5, 10.0), (1.0, 10.0), (0.5, 20.0))
    ),
    Preparation(centred=True),
)
"""The candidates of `PairScores.fit`; the first one changes nothing."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Queries and rows of which it is known what belongs together, by vectors that know nothing of it.

    The rows must have been placed by a map that was learned without their own group (cross-fitting): a map places the
    pairs that it was learned from too well.

    Attributes:
        queries: unit vectors.
        query_groups: a row is relevant to a query of the same group.
        rows: unit vectors of the searched modality.
        row_groups: see above.
    """

    queries: Float[np.ndarray, "queries dim"]
    query_groups: Int[np.ndarray, " queries"]
    rows: Float[np.ndarray, "rows dim"]
    row_groups: Int[np.ndarray, " rows"]

    def __post_init__(self) -> None:
        if len(self.queries) != len(self.query_groups) or len(self.rows) != len(self.row_groups):
            raise SpaceError(
                f"held-out pairs need a group a vector; got {len(self.queries)} queries with {len(self.query_groups)} and "
                f"{len(self.rows)} rows with {len(self.row_groups)}"
            )

    def answerable(self, seed: int) -> HeldOut:
        """Only queries that a row belongs to and rows that a query belongs to or not, both within the limits."""
        rng = np.random.default_rng(seed)
        asked = np.flatnonzero(np.isin(self.query_groups, self.row_groups) & self.queries.any(axis=1))
        asked = np.sort(rng.permutation(asked)[:MAX_QUERIES])
        wanted = np.isin(self.row_groups, self.query_groups[asked])
        usable = self.rows.any(axis=1)
        others = rng.permutation(np.flatnonzero(~wanted & usable))
        wanted &= usable
        kept = np.sort(np.concatenate([np.flatnonzero(wanted), others[: max(0, MAX_ROWS - int(wanted.sum()))]]))
        has = np.isin(self.query_groups[asked], self.row_groups[kept])
        return HeldOut(self.queries[asked[has]], self.query_groups[asked[has]], self.rows[kept], self.row_groups[kept])


@dataclass(frozen=True, eq=False)
class Prepared:
    """A `Preparation` with the means and the bank that it was fitted with."""

    preparation: Preparation
    query_mean: Float[np.ndarray, " dim"]
    row_mean: Float[np.ndarray, " dim"]
    bank: Float[np.ndarray, "bank dim"]  # float16, turned as queries are; empty without hub offsets
    bank_owners: Int[np.ndarray, " bank"] | None

    @classmethod
    def fit(
        cls,
        preparation: Preparation,
        rows: Float[np.ndarray, "rows dim"],
        bank: Float[np.ndarray, "bank dim"],
        bank_owners: Int[np.ndarray, " bank"] | None,
    ) -> Prepared:
        """Compute the means, and keep the turned bank where hub offsets need one."""
        means = (np.zeros(rows.shape[1]),) * 2
        if preparation.centred:
            means = bank.mean(axis=0, dtype=np.float64), rows.mean(axis=0, dtype=np.float64)
        query_mean, row_mean = (mean.astype(np.float32) for mean in means)
        plain = cls(preparation, query_mean, row_mean, bank[:0].astype(np.float16), None)
        if not preparation.hub_strength:
            return plain
        return cls(preparation, query_mean, row_mean, plain.turned(bank, "query").astype(np.float16), bank_owners)

    def turned(self, vectors: Float[np.ndarray, "n dim"], side: Literal["query", "row"]) -> Float[np.ndarray, "n dim"]:
        """Return vectors centred and at unit length; a row of zeros stays zero."""
        moved = unit_rows(vectors - (self.query_mean if side == "query" else self.row_mean))
        moved[~vectors.any(axis=1)] = 0
        return np.asarray(moved, dtype=np.float32)

    def queries(self, vectors: Float[np.ndarray, "queries dim"]) -> Float[np.ndarray, "queries width"]:
        """Return turned queries and a 1, which subtracts the offset of a row."""
        turned = self.turned(vectors, "query")
        return np.hstack([turned, np.ones((len(turned), 1), np.float32)])

    def rows(
        self, vectors: Float[np.ndarray, "rows dim"], owners: Int[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, "rows width"]:
        """Return turned rows and their offset with a minus sign."""
        turned = self.turned(vectors, "row")
        offsets = self.preparation.hub_offsets(
            turned,
            self.bank.astype(np.float32),
            row_owners=None if self.bank_owners is None else owners,
            bank_owners=None if owners is None else self.bank_owners,
        )
        offsets[~vectors.any(axis=1)] = _ZERO_OFFSET
        return np.hstack([turned, -offsets[:, None]])


@dataclass(frozen=True)
class Choice:
    """The chosen preparation, and its score on held-out groups."""

    preparation: Preparation
    score: float
    """Chance that a relevant row is among the first 10 of 100, mean over left-out queries; NaN if none was tried."""
    plain_score: float
    """The same for plain cosine."""
    groups: int


@dataclass(frozen=True, eq=False)
class PairScores:
    """The interpretation of scores between queries of one modality and rows of one modality, see `fit`.

    Attributes:
        prepared: how vectors become comparable.
        mean: of the prepared gallery rows, for standard scores.
        covariance: of the prepared gallery rows.
        rows: of the gallery that it was fitted on.
        choice: the chosen preparation, and how it compares with plain cosine.
        relevance: None where there were too few pairs; then no hit has a probability.
        nearest: for each size of `relevance.sizes`, quantiles of the plain cosine of a held-out query with its nearest row.
            Centring and hub offsets order hits better but hide how far a query is from everything; the plain cosine
            tells an off-topic query (stamps: 0.06 of those get an answer at 95 % kept, after centring 0.54).
    """

    prepared: Prepared
    mean: Float[np.ndarray, " width"]
    covariance: Float[np.ndarray, "width width"]
    rows: int
    choice: Choice
    relevance: Relevance | None = None
    nearest: Float[np.ndarray, "sizes quantiles"] | None = None

    @classmethod
    def fit(
        cls,
        gallery: Float[np.ndarray, "rows dim"],
        bank: Float[np.ndarray, "bank dim"],
        *,
        gallery_owners: Int[np.ndarray, " rows"] | None = None,
        bank_owners: Int[np.ndarray, " bank"] | None = None,
        pairs: HeldOut | None = None,
        preparation: Preparation | Literal["auto"] = "auto",
        seed: int = 0,
    ) -> PairScores:
        """Fit the preparation, standard scores and, given pairs, the probability of relevance.

        Without pairs, or with pairs of fewer than 10 groups, vectors are compared by plain cosine (or by `preparation`),
        scores compare across modalities by their standard score, and no hit has a probability. With pairs the
        preparation is chosen on left-out groups: anything but plain cosine has to gain more than the standard error of
        its gain.

        Args:
            gallery: unit vectors of the modality that is searched.
            bank: unit vectors like those of queries, e.g. all texts of a collection; 2,000 of them are kept.
            gallery_owners: the item of each row, see `Preparation.hub_offsets`.
            bank_owners: the item of each query in the bank.
            pairs: held-out queries and rows.
            preparation: of the vectors; `"auto"` chooses from `PREPARATIONS`.
            seed: of samples and folds.

        Raises:
            SpaceError: an empty gallery or bank, different widths, values that are not finite, or not one owner a vector.
        """
        _check(gallery, bank, gallery_owners, bank_owners, pairs)
        if len(bank) > MAX_BANK:
            drawn = np.sort(np.random.default_rng(seed).choice(len(bank), MAX_BANK, replace=False))
            bank, bank_owners = bank[drawn], None if bank_owners is None else bank_owners[drawn]
        known = None if pairs is None else pairs.answerable(seed)
        groups = 0 if known is None else len(np.unique(known.query_groups))
        if known is not None and min(groups, len(np.unique(known.row_groups))) < MIN_PAIRS:
            known = None
        choice = Choice(PREPARATIONS[0] if preparation == "auto" else preparation, float("nan"), float("nan"), groups)
        if known is not None:
            choice = _choose(known, PREPARATIONS if preparation == "auto" else (PREPARATIONS[0], preparation), seed)
            if preparation != "auto":
                choice = Choice(preparation, choice.score, choice.plain_score, groups)
        prepared = Prepared.fit(choice.preparation, gallery, bank, bank_owners)
        filled = gallery.any(axis=1)
        if not filled.any():
            raise SpaceError(f"all {len(gallery)} rows of the gallery are zero: there is nothing to compare with")
        rows = prepared.rows(gallery[filled], None if gallery_owners is None else gallery_owners[filled])
        relevance = nearest = None
        if known is not None:
            relevance = _relevance(choice.preparation, known, seed)
        if known is not None and relevance is not None:
            mine = known.query_groups[:, None] == known.row_groups[None]
            best = best_by_size(known.queries @ known.rows.T, mine, relevance.sizes, seed=seed)
            nearest = np.quantile(best, QUANTILES, axis=1).T
        return cls(prepared, *_moments(rows), len(gallery), choice, relevance, nearest)

    def offsets(
        self, vectors: Float[np.ndarray, "rows dim"], owners: Int[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, " rows"]:
        """Return the hub offset of each row: the same for every query, so worth keeping. See `ScoreModel.judge`."""
        return -self.prepared.rows(vectors, owners)[:, -1]

    def standard(
        self, scores: Float[np.ndarray, "queries k"], queries: Float[np.ndarray, "queries width"]
    ) -> Float[np.ndarray, "queries k"]:
        """Return scores in standard deviations above the mean score of the query with all rows of the gallery.

        Mean and deviation follow from the mean and covariance of the gallery that was fitted, and are exact for it.

        Args:
            scores: inner products of `prepared.queries` and `prepared.rows`.
            queries: from `prepared.queries`.
        """
        middle = queries @ self.mean
        variance = np.einsum("qd,qd->q", queries @ self.covariance, queries)
        return np.asarray((scores - middle[:, None]) / np.sqrt(np.maximum(variance, 1e-12))[:, None])


@dataclass(frozen=True, eq=False)
class Judgement:
    """The judgement of one query's hits, one entry a hit, in the order of the input.

    Attributes:
        scores: after centring and hub offsets.
        standard: standard deviations above the mean of the query's scores with the hit's modality.
        probability: of being relevant; NaN where no relevance was fitted for that pair of modalities. Where no probable hit
            has as high a plain cosine as answerable queries have (a share of them, see `keep`), all are scaled down: the best
            is then below the threshold that follows from `keep`, the further the smaller its cosine is.
        order: hits from the best to the worst. By probability if all have one, else by standard score.
        threshold: least probability of a hit that is worth showing; None where probabilities are missing.
        worth: which hits reach it; all where probabilities are missing.
        found: whether any hit does; None where probabilities are missing, and then nobody can say.
    """

    scores: Float[np.ndarray, " hits"]
    standard: Float[np.ndarray, " hits"]
    probability: Float[np.ndarray, " hits"]
    order: Int[np.ndarray, " hits"]
    threshold: float | None
    worth: Bool[np.ndarray, " hits"]
    found: bool | None

    @property
    def shown(self) -> Int[np.ndarray, " shown"]:
        """Return hits that are worth showing, from the best to the worst."""
        return np.asarray(self.order[self.worth[self.order]])


@dataclass(frozen=True, eq=False)
class ScoreModel:
    """`PairScores` by query modality and searched modality.

    A pair that is missing is compared by cosine, without standard score: the hits of such a query are ordered by cosine.
    """

    pairs: Mapping[tuple[Modality, Modality], PairScores]

    def judge(
        self,
        query: Float[np.ndarray, " dim"],
        modality: Modality,
        rows: Float[np.ndarray, "hits dim"],
        modalities: Sequence[Modality],
        *,
        offsets: Float[np.ndarray, " hits"] | None = None,
        sizes: Mapping[Modality, int] | None = None,
        items: int | None = None,
        keep: float = KEEP,
        min_probability: float | None = None,
    ) -> Judgement:
        """Judge candidates of one query, such as the 200 of each modality with the best cosine.

        A probability depends on the best score of the query in its modality, which is taken from the candidates: enough
        of them have to be passed that the best is among them.

        Args:
            query: unit vector.
            modality: of the query.
            rows: unit vectors of the candidates.
            modalities: of each of them.
            offsets: of each of them, from `PairScores.offsets` for this query's modality. Default: computed here, which
                costs a comparison of each candidate with the whole bank.
            sizes: rows of the whole gallery by modality. Default: as when the scores were fitted.
            items: of the whole gallery. A modality that few of them have is not favoured for it. Default: as many as rows.
            keep: share of the answerable queries that should still get an answer, see `Relevance.threshold`; as many have a
                best plain cosine that is taken to be of one.
            min_probability: threshold, instead of the one that follows from `keep`.

        Raises:
            SpaceError: shapes that do not fit, or a share outside of 0 to 1.
        """
        if (
            len(modalities) != len(rows)
            or rows.shape[1] != len(query)
            or (offsets is not None and len(offsets) != len(rows))
        ):
            raise SpaceError(
                f"{len(modalities)} modalities, {'no' if offsets is None else len(offsets)} offsets and a query of "
                f"{len(query)} do not fit rows {rows.shape}"
            )
        if min_probability is not None and not 0 <= min_probability <= 1:
            raise SpaceError(f"min_probability is a number from 0 to 1; got {min_probability}")
        kinds = np.array(modalities, dtype="<U8")
        scores, standard, probability = (np.full(len(rows), np.nan) for _ in range(3))
        parts: list[tuple[Relevance, int | None]] = []
        nearest: list[tuple[Float[np.ndarray, " quantiles"], int]] = []
        plain = rows @ query
        for kind in dict.fromkeys(modalities):
            mine = np.flatnonzero(kinds == kind)
            pair = self.pairs.get((modality, kind))
            if pair is None:
                scores[mine] = plain[mine]
                continue
            asked = pair.prepared.queries(query[None])
            hub = pair.offsets(rows[mine]) if offsets is None else offsets[mine]
            corrected = pair.prepared.turned(rows[mine], "row") @ asked[0, :-1] - hub
            scores[mine] = corrected
            standard[mine] = pair.standard(corrected[None], asked)[0]
            if pair.relevance is not None:
                size = None if sizes is None else sizes[kind]
                probability[mine] = pair.relevance.probability(
                    corrected, float(corrected.max()), rows=size, items=items
                )
                parts.append((pair.relevance, size))
                if pair.nearest is not None:
                    rows_of = pair.relevance.rows if size is None else size
                    nearest.append((at_size(pair.nearest, pair.relevance.sizes, size), rows_of))
        if len(rows) and not np.isnan(probability).any():
            order = np.lexsort((-standard, -probability))
            threshold = mixed_threshold(parts, keep=keep, items=items)
            if nearest:
                curves, weights = zip(*nearest, strict=True)
                probability = _within_reach(probability, plain, threshold, mixed_quantile(curves, weights, 1 - keep))
            threshold = threshold if min_probability is None else min_probability
            worth = probability >= threshold
            return Judgement(scores, standard, probability, order, threshold, worth, bool(worth.any()))
        by = plain if np.isnan(standard).any() else standard
        every = np.ones(len(rows), dtype=bool)
        return Judgement(scores, standard, probability, np.argsort(-by, kind="stable"), None, every, None)

    def state(self) -> tuple[dict[str, Any], dict[str, Shaped[np.ndarray, "..."]]]:
        """Return what JSON can hold and the arrays, for `from_state`."""
        fields: dict[str, Any] = {"format_version": FORMAT_VERSION, "pairs": []}
        arrays: dict[str, Shaped[np.ndarray, "..."]] = {}
        for (query, searched), pair in self.pairs.items():
            prepared = pair.prepared
            name = f"{query}.{searched}"
            fields["pairs"].append(
                {
                    "query": query,
                    "searched": searched,
                    "rows": pair.rows,
                    "preparation": asdict(pair.choice.preparation),
                    "score": None if np.isnan(pair.choice.score) else pair.choice.score,
                    "plain_score": None if np.isnan(pair.choice.plain_score) else pair.choice.plain_score,
                    "groups": pair.choice.groups,
                    "relevance": None if pair.relevance is None else pair.relevance.fields(),
                }
            )
            own = {
                "query_mean": prepared.query_mean,
                "row_mean": prepared.row_mean,
                "bank": prepared.bank,
                "bank_owners": prepared.bank_owners,
                "mean": pair.mean,
                "covariance": pair.covariance,
                "nearest": pair.nearest,
                **({} if pair.relevance is None else pair.relevance.arrays()),
            }
            arrays |= {f"{name}.{key}": np.ascontiguousarray(value) for key, value in own.items() if value is not None}
        return fields, arrays

    @classmethod
    def from_state(cls, fields: Mapping[str, Any], arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> ScoreModel:
        """Restore a model from its `state`.

        Raises:
            SpaceError: of another format version, or damaged.
        """
        pairs: dict[tuple[Modality, Modality], PairScores] = {}
        try:
            if fields["format_version"] != FORMAT_VERSION:
                raise SpaceError(
                    f"scores of format version {fields['format_version']}; this chiasm reads {FORMAT_VERSION}. Align again"
                )
            for part in fields["pairs"]:
                query, searched = part["query"], part["searched"]
                prefix = f"{query}.{searched}."
                own = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
                pairs[query, searched] = _restore(part, own)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SpaceError(f"these are not saved scores ({type(error).__name__}: {error}). Align again") from error
        return cls(pairs)


def _within_reach(
    probability: Float[np.ndarray, " hits"], plain: Float[np.ndarray, " hits"], threshold: float, floor: float
) -> Float[np.ndarray, " hits"]:
    """Scale probabilities so that the best is that of a hit that is near enough, or below the threshold; the order stays.

    Args:
        probability: of each hit.
        plain: cosine of each.
        threshold: probability that a hit which is not near enough stays below.
        floor: least cosine of a hit that is.
    """
    near = np.clip(plain / max(floor, 1e-9), 0, 1)
    within = np.where(near < 1, np.minimum(probability, threshold * near), probability)
    best = float(probability.max())
    return probability * (float(within.max()) / best) if best > 0 else probability


def _restore(part: Mapping[str, Any], own: Mapping[str, Shaped[np.ndarray, "..."]]) -> PairScores:
    preparation = Preparation(**part["preparation"])
    dim = own["query_mean"].size
    expected = {"query_mean": (dim,), "row_mean": (dim,), "mean": (dim + 1,), "covariance": (dim + 1, dim + 1)}
    if part["relevance"] is not None:
        expected["nearest"] = (*own["sizes"].shape, *QUANTILES.shape)
    shapes = {key: own[key].shape for key in expected}
    bank, owners = own["bank"], own.get("bank_owners")
    if shapes != expected or bank.shape[1:] != (dim,) or (owners is not None and owners.shape != (len(bank),)):
        raise ValueError(f"arrays of shapes {shapes}, bank {bank.shape}")
    if not all(np.isfinite(own[key]).all() for key in (*expected, "bank")):
        raise ValueError("values that are not finite numbers")
    score, plain_score = (
        float("nan") if part[name] is None else float(part[name]) for name in ("score", "plain_score")
    )
    return PairScores(
        Prepared(preparation, own["query_mean"], own["row_mean"], bank, owners),
        own["mean"],
        own["covariance"],
        int(part["rows"]),
        Choice(preparation, score, plain_score, int(part["groups"])),
        None if part["relevance"] is None else Relevance.restore(part["relevance"], own),
        None if part["relevance"] is None else own["nearest"],
    )


# ------------------------------------------------------------------------------------------------------------ choosing


def _choose(known: HeldOut, preparations: Sequence[Preparation], seed: int) -> Choice:
    """Compare preparations on left-out groups: these are queries and gallery, the other queries are the bank."""
    codes = np.unique(np.concatenate([known.query_groups, known.row_groups]), return_inverse=True)[1].ravel()
    fold = np.random.default_rng(seed).permutation(int(codes.max()) + 1) % FOLDS
    of_query, of_row = fold[codes[: len(known.queries)]], fold[codes[len(known.queries) :]]
    chances: dict[Preparation, list[Float[np.ndarray, " queries"]]] = {preparation: [] for preparation in preparations}
    for number in range(FOLDS):
        test, rows = of_query == number, of_row == number
        relevant = known.query_groups[test, None] == known.row_groups[None, rows]
        if not relevant.any() or relevant.all(axis=1).any():
            continue  # with very few groups a fold may hold nothing to tell apart
        for preparation in preparations:
            prepared = Prepared.fit(preparation, known.rows[~rows], known.queries[~test], None)
            scores = prepared.queries(known.queries[test]) @ prepared.rows(known.rows[rows]).T
            chances[preparation].append(_chance(scores, relevant))
    if not chances[preparations[0]]:
        return Choice(preparations[0], float("nan"), float("nan"), len(np.unique(known.query_groups)))
    each = {preparation: np.concatenate(parts) for preparation, parts in chances.items()}
    plain = each[preparations[0]]
    best = max(preparations, key=lambda preparation: float(each[preparation].mean()))
    gain = each[best] - plain
    if not gain.mean() > gain.std() / np.sqrt(len(gain)):
        best = preparations[0]
    return Choice(best, float(each[best].mean()), float(plain.mean()), len(np.unique(known.query_groups)))


def _chance(
    scores: Float[np.ndarray, "queries rows"], relevant: Bool[np.ndarray, "queries rows"]
) -> Float[np.ndarray, " queries"]:
    """Chance that the best relevant row is among the first 10 of it and 99 random others; ties count half.

    Smoother than hit@10 itself, as in `chiasm.alignment.alignment`; there, among 30 others, good maps differ too little.
    """
    best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
    others = np.where(relevant, -np.inf, scores)
    ahead = (others > best).sum(axis=1) + (others == best).sum(axis=1) / 2
    share, n = ahead / (~relevant).sum(axis=1), _CHOICE_CANDIDATES - 1
    return np.asarray(np.sum([comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(_CHOICE_HITS)], axis=0))


def _relevance(preparation: Preparation, known: HeldOut, seed: int) -> Relevance | None:
    """Fit relevance on all held-out queries and rows; a row's own queries are not in its bank."""
    bank = np.arange(len(known.queries))
    if len(bank) > MAX_BANK:
        bank = np.sort(np.random.default_rng(seed).choice(bank, MAX_BANK, replace=False))
    prepared = Prepared.fit(preparation, known.rows, known.queries[bank], known.query_groups[bank])
    asked, rows = prepared.queries(known.queries), prepared.rows(known.rows, known.row_groups)
    relevant = known.query_groups[:, None] == known.row_groups[None]
    usable = ~relevant.all(axis=1)
    if len(np.unique(known.query_groups[usable])) < MIN_PAIRS:
        return None
    turned = prepared.turned(known.rows, "row")
    middle = unit_rows(relevant[usable].astype(np.float32) @ turned)
    return fit_relevance(
        asked[usable] @ rows.T,
        relevant[usable],
        known.query_groups[usable],
        middle @ turned.T,
        seed=seed,
    )


def _moments(
    rows: Float[np.ndarray, "rows width"],
) -> tuple[Float[np.ndarray, " width"], Float[np.ndarray, "width width"]]:
    """Mean and covariance, summed block by block in float64: a million rows are not copied."""
    total, outer = np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), 4096):
        block = rows[start : start + 4096].astype(np.float64)
        total += block.sum(axis=0)
        outer += block.T @ block
    mean = total / len(rows)
    return mean.astype(np.float32), (outer / len(rows) - np.outer(mean, mean)).astype(np.float32)


def _check(
    gallery: Float[np.ndarray, "rows dim"],
    bank: Float[np.ndarray, "bank dim"],
    gallery_owners: Int[np.ndarray, " rows"] | None,
    bank_owners: Int[np.ndarray, " bank"] | None,
    pairs: HeldOut | None,
) -> None:
    if not len(gallery) or not len(bank):
        raise SpaceError(f"scores need a gallery and a bank that are not empty; got {gallery.shape} and {bank.shape}")
    dim = gallery.shape[1]
    check_matrix(gallery, "the gallery", error=SpaceError)
    check_matrix(bank, "the bank", columns=dim, error=SpaceError)
    if pairs is not None:
        check_matrix(pairs.queries, "the held-out queries", columns=dim, error=SpaceError)
        check_matrix(pairs.rows, "the held-out rows", columns=dim, error=SpaceError)
    if (gallery_owners is None) != (bank_owners is None):
        raise SpaceError("owners must be given of both the gallery and the bank, or of neither")
    for owners, vectors, what in ((gallery_owners, gallery, "gallery"), (bank_owners, bank, "bank")):
        if owners is not None and len(owners) != len(vectors):
            raise SpaceError(f"the {what} has {len(vectors)} vectors and {len(owners)} owners: give one owner a vector")
