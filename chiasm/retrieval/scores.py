"""Scores that compare across modalities.

The cosine of a text with a text and that of a text with an image are not on one scale. For each pair of modalities, of
the query and of what is searched, a `PairScores` knows how the vectors are prepared (centred, whitened, hubs held back),
what a score is worth against the others of its query, and, where it was fitted on pairs, how probable it is that a hit
is relevant. A `ScoreModel` holds one for each pair of modalities and judges the hits of a mixed gallery.

Vectors and modalities come in; items, files and the search itself are left to `chiasm.retrieval.index` and
`chiasm.verbs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import comb
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm.alignment.alignment import MIN_PAIRS
from chiasm.errors import SpaceError
from chiasm.retrieval.hubness import Correction
from chiasm.retrieval.metrics import VectorStatistics
from chiasm.retrieval.relevance import (
    ANSWERABLE,
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
from chiasm.vectors import unit_rows

FORMAT_VERSION = 2
MAX_BANK = 2000  # queries kept for the hubness statistics: 1.5 MB at 384 dimensions
MAX_QUERIES, MAX_ROWS = 1000, 5000  # of the pairs that relevance is learned from; more cost time and change little
FOLDS = 5
_NEAR_NOTHING = 2.0  # offset of a row of zeros: below every other score
_CHOICE_HITS, _CHOICE_CANDIDATES = 10, 100


@dataclass(frozen=True)
class Preparation:
    """What is done to vectors before they are compared.

    Attributes:
        centred: the mean of each side is taken off, which closes the modality gap (Liang et al. 2022).
        whitening: power of the whitening by the covariance of the queries (Ledoit-Wolf), 0 for none and 1 for full.
        correction: of hubs.
    """

    centred: bool = False
    whitening: float = 0.0
    correction: Correction = field(default_factory=Correction)

    def __post_init__(self) -> None:
        if not 0 <= self.whitening <= 1 or (self.whitening > 0 and not self.centred):
            raise SpaceError(f"whitening is a power from 0 to 1 of centred vectors; got {self}")


PREPARATIONS = (
    Preparation(),
    *(
        Preparation(centred, correction=correction)
        for centred in (False, True)
        for correction in (
            Correction("csls", strength=0.5),
            Correction("csls"),
            Correction("inverted_softmax", strength=0.5),
            Correction("inverted_softmax"),
            Correction("inverted_softmax", strength=0.5, temperature=20.0),
        )
    ),
    Preparation(True),
)
"""What `PairScores.fit` chooses from; the first one changes nothing. None whitens: on the stamps that gained nothing over
centring and takes an eigendecomposition a fold."""


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
    """Vectors of one pair of modalities, so prepared that their inner product is the score."""

    query_mean: Float[np.ndarray, " dim"]
    row_mean: Float[np.ndarray, " dim"]
    matrix: Float[np.ndarray, "dim dim"] | None
    correction: Correction
    bank: Float[np.ndarray, "bank dim"]  # float16, turned as queries are
    bank_owners: Int[np.ndarray, " bank"] | None

    @classmethod
    def fit(
        cls,
        preparation: Preparation,
        rows: Float[np.ndarray, "rows dim"],
        bank: Float[np.ndarray, "bank dim"],
        bank_owners: Int[np.ndarray, " bank"] | None,
    ) -> Prepared:
        """Means, whitening and the turned bank; a bank is kept only where the correction needs one."""
        nothing = np.zeros(rows.shape[1], np.float32)
        matrix = None
        means = nothing, nothing
        if preparation.centred:
            means = bank.mean(axis=0, dtype=np.float64), rows.mean(axis=0, dtype=np.float64)
            if preparation.whitening:
                matrix = VectorStatistics.from_vectors(bank).whitening(power=preparation.whitening).matrix
        plain = cls(
            means[0].astype(np.float32), means[1].astype(np.float32), matrix, preparation.correction, bank[:0], None
        )
        if preparation.correction.method == "none":
            return plain
        turned = plain.turned(bank, "query").astype(np.float16)
        return cls(plain.query_mean, plain.row_mean, matrix, preparation.correction, turned, bank_owners)

    def turned(self, vectors: Float[np.ndarray, "n dim"], side: Literal["query", "row"]) -> Float[np.ndarray, "n dim"]:
        """Centred, whitened and of unit length; a row of zeros stays zero."""
        moved = vectors - (self.query_mean if side == "query" else self.row_mean)
        if self.matrix is not None:
            moved = moved @ self.matrix
        moved = unit_rows(moved)
        moved[~vectors.any(axis=1)] = 0
        return np.asarray(moved, dtype=np.float32)

    def queries(self, vectors: Float[np.ndarray, "queries dim"]) -> Float[np.ndarray, "queries width"]:
        """Turned queries and a 1, which takes the offset of a row off."""
        turned = self.turned(vectors, "query")
        return np.hstack([turned, np.ones((len(turned), 1), np.float32)])

    def rows(
        self, vectors: Float[np.ndarray, "rows dim"], owners: Int[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, "rows width"]:
        """Turned rows and what is taken off them, with a minus sign."""
        turned = self.turned(vectors, "row")
        known = owners if self.bank_owners is not None else None
        offsets = self.correction.offsets(
            turned,
            self.bank.astype(np.float32),
            row_owners=known,
            bank_owners=None if known is None else self.bank_owners,
        )
        offsets[~vectors.any(axis=1)] = _NEAR_NOTHING
        return np.hstack([turned, -offsets[:, None]])


@dataclass(frozen=True)
class Chosen:
    """How a preparation was chosen on left-out groups."""

    preparation: Preparation
    score: float
    """Chance that what is relevant is among the first 10 of 100 rows, mean over left-out queries; NaN if none was tried."""
    plain_score: float
    """The same with nothing done to the vectors."""
    groups: int


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of queries of one modality with rows of one modality, see `fit`.

    Attributes:
        prepared: how vectors become comparable.
        mean: of the prepared gallery rows, for standard scores.
        covariance: of them.
        rows: of the gallery that it was fitted on.
        chosen: what was chosen, and how it compares with plain cosine.
        relevance: None where there were too few pairs; then no hit has a probability.
        nearest: for each size of `relevance.sizes`, quantiles of the plain cosine of a held-out query with the row nearest
            to it. Centring and hubness
            correction order hits better, and hide how far a query is from everything: what a stranger to the gallery
            asks for is told by the plain cosine (off-topic queries on the stamps: 0.06 get an answer at 95 % kept, after
            centring 0.54).
    """

    prepared: Prepared
    mean: Float[np.ndarray, " width"]
    covariance: Float[np.ndarray, "width width"]
    rows: int
    chosen: Chosen
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
        answerable: float = ANSWERABLE,
        seed: int = 0,
    ) -> PairScores:
        """Learn what scores are worth.

        Without pairs, or with pairs of fewer than 10 groups, vectors are compared by plain cosine (or as `preparation`
        says), scores compare across modalities by their standard score, and no hit has a probability. With pairs the
        preparation is chosen on left-out groups: one that does something is taken only if it gains more than the standard
        error of its gain.

        Args:
            gallery: unit vectors of the modality that is searched.
            bank: unit vectors like those of queries, e.g. all texts of a collection; 2,000 of them are kept.
            gallery_owners: what each row belongs to, see `Correction.offsets`.
            bank_owners: what each query of the bank belongs to.
            pairs: held-out queries and rows.
            preparation: of the vectors; `"auto"` chooses from `PREPARATIONS`.
            answerable: see `fit_relevance`.
            seed: of samples and folds.

        Raises:
            SpaceError: an empty gallery or bank, different widths, values that are not finite, or not one owner a vector.
        """
        _check(gallery, bank, gallery_owners, bank_owners, pairs)
        drawn = np.arange(len(bank))
        if len(bank) > MAX_BANK:
            drawn = np.sort(np.random.default_rng(seed).choice(len(bank), MAX_BANK, replace=False))
        bank, bank_owners = bank[drawn], None if bank_owners is None else bank_owners[drawn]
        known = None if pairs is None else pairs.answerable(seed)
        groups = 0 if known is None else len(np.unique(known.query_groups))
        enough = known is not None and groups >= MIN_PAIRS and len(np.unique(known.row_groups)) >= MIN_PAIRS
        first = PREPARATIONS[0] if preparation == "auto" else preparation
        chosen = Chosen(first, float("nan"), float("nan"), groups)
        if known is not None and enough:
            chosen = _choose(known, PREPARATIONS if preparation == "auto" else (PREPARATIONS[0], preparation), seed)
            if preparation != "auto":
                chosen = Chosen(preparation, chosen.score, chosen.plain_score, groups)
        prepared = Prepared.fit(chosen.preparation, gallery, bank, bank_owners)
        rows = prepared.rows(
            gallery[gallery.any(axis=1)], None if gallery_owners is None else gallery_owners[gallery.any(axis=1)]
        )
        if not len(rows):
            raise SpaceError(f"all {len(gallery)} rows of the gallery are zero: there is nothing to compare with")
        statistics = VectorStatistics.from_vectors(rows)
        relevance = nearest = None
        if known is not None and enough:
            relevance = _relevance(chosen.preparation, known, answerable, seed)
        if known is not None and relevance is not None:
            mine = known.query_groups[:, None] == known.row_groups[None]
            best = best_by_size(known.queries @ known.rows.T, mine, relevance.sizes, seed=seed)
            nearest = np.quantile(best, QUANTILES, axis=1).T
        return cls(
            prepared,
            statistics.mean.astype(np.float32),
            statistics.covariance.astype(np.float32),
            len(gallery),
            chosen,
            relevance,
            nearest,
        )

    def prepare_queries(self, vectors: Float[np.ndarray, "queries dim"]) -> Float[np.ndarray, "queries width"]:
        """Queries for an index of inner products over `prepare_rows`; one dimension wider than the space."""
        return self.prepared.queries(vectors)

    def prepare_rows(
        self, vectors: Float[np.ndarray, "rows dim"], owners: Int[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, "rows width"]:
        """Rows for such an index; the last dimension holds what is taken off for hubness.

        Args:
            vectors: unit vectors; a row of zeros scores below all others.
            owners: as the `bank_owners` of `fit` are; without them a row's own caption counts as any other query.
        """
        return self.prepared.rows(vectors, owners)

    def offsets(
        self, vectors: Float[np.ndarray, "rows dim"], owners: Int[np.ndarray, " rows"] | None = None
    ) -> Float[np.ndarray, " rows"]:
        """What hubness takes off each row: to be computed once a gallery, kept (4 bytes a row) and given to `judge`."""
        return -self.prepared.rows(vectors, owners)[:, -1]

    def standard(
        self, scores: Float[np.ndarray, "queries k"], queries: Float[np.ndarray, "queries width"]
    ) -> Float[np.ndarray, "queries k"]:
        """Scores in standard deviations above the mean score of the query with all rows of the gallery.

        Mean and deviation are exact for the gallery that was fitted: they follow from its mean and covariance.

        Args:
            scores: as an index of `prepare_rows` gave them.
            queries: from `prepare_queries`.
        """
        middle = queries @ self.mean
        variance = np.einsum("qd,qd->q", queries @ self.covariance, queries)
        return np.asarray((scores - middle[:, None]) / np.sqrt(np.maximum(variance, 1e-12))[:, None])


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is known of the hits of one query, an entry a hit in the order in which they were given.

    Attributes:
        scores: after centring, whitening and hubness correction.
        standard: standard deviations above the mean of the query's scores with the hit's modality.
        probability: of being relevant; NaN where nothing was learned for that pair of modalities.
        order: hits from the best to the worst. By probability if all have one, else by standard score.
        threshold: least probability of a hit that is worth showing; None where probabilities are missing.
        floor: least plain cosine of one, None where the threshold was asked for otherwise than by a share kept.
        worth: which hits reach both; all where probabilities are missing.
        found: whether any hit does; None where probabilities are missing, and then nobody can say.
    """

    scores: Float[np.ndarray, " hits"]
    standard: Float[np.ndarray, " hits"]
    probability: Float[np.ndarray, " hits"]
    order: Int[np.ndarray, " hits"]
    threshold: float | None
    floor: float | None
    worth: Bool[np.ndarray, " hits"]
    found: bool | None

    @property
    def shown(self) -> Int[np.ndarray, " shown"]:
        """Hits that are worth showing, from the best to the worst."""
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
        keep: float | None = None,
        false_hits: float | None = None,
        min_probability: float | None = None,
    ) -> Judgement:
        """Judge candidates of one query, such as the 200 of each modality with the best cosine.

        Scores and standard scores are exact. A probability takes the best score of the candidates of its modality for the
        best of all, so the best must be among them; in which order cosine and corrected score differ is known to some
        hundred rows at most.

        Args:
            query: unit vector.
            modality: of the query.
            rows: unit vectors of the candidates.
            modalities: of each of them.
            offsets: of each of them, from `PairScores.offsets` for this query's modality. Default: computed here, which
                costs a comparison of each candidate with the whole bank.
            sizes: rows of the whole gallery by modality. Default: as when the scores were fitted.
            items: of the whole gallery. A modality that few of them have is not favoured for it. Default: as many as rows.
            keep: share of the answerable queries that should still get an answer, see `Relevance.threshold`.
            false_hits: share of the unanswerable queries that may get one.
            min_probability: threshold, instead of one that follows from a share.

        Raises:
            SpaceError: shapes that do not fit, more than one kind of threshold, or a share outside of 0 to 1.
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
        if sum(given is not None for given in (keep, false_hits, min_probability)) > 1:
            raise SpaceError("give one of keep, false_hits and min_probability, not several")
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
            asked = pair.prepare_queries(query[None])
            if offsets is None:
                found = pair.prepare_rows(rows[mine]) @ asked[0]
            else:
                found = pair.prepared.turned(rows[mine], "row") @ asked[0, :-1] - offsets[mine]
            scores[mine] = found
            standard[mine] = pair.standard(found[None], asked)[0]
            if pair.relevance is not None:
                size = None if sizes is None else sizes[kind]
                probability[mine] = pair.relevance.probability(found, float(found.max()), rows=size, items=items)
                parts.append((pair.relevance, size))
                if pair.nearest is not None:
                    rows_of = pair.relevance.rows if size is None else size
                    nearest.append((at_size(pair.nearest, pair.relevance.sizes, size), rows_of))
        if len(rows) and not np.isnan(probability).any():
            order = np.lexsort((-standard, -probability))
            threshold, floor = min_probability, None
            if threshold is None:
                threshold = mixed_threshold(parts, keep=keep, false_hits=false_hits, items=items)
            worth = probability >= threshold
            if nearest and min_probability is None and false_hits is None:
                curves, weights = zip(*nearest, strict=True)
                floor = mixed_quantile(curves, weights, 1 - (KEEP if keep is None else keep))
                worth &= plain >= floor
            return Judgement(scores, standard, probability, order, threshold, floor, worth, bool(worth.any()))
        by = plain if np.isnan(standard).any() else standard
        every = np.ones(len(rows), dtype=bool)
        return Judgement(scores, standard, probability, np.argsort(-by, kind="stable"), None, None, every, None)

    def state(self) -> tuple[dict[str, Any], dict[str, Shaped[np.ndarray, "..."]]]:
        """What JSON can hold of it, and arrays; both are what `from_state` needs."""
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
                    "preparation": asdict(pair.chosen.preparation),
                    "score": None if np.isnan(pair.chosen.score) else pair.chosen.score,
                    "plain_score": None if np.isnan(pair.chosen.plain_score) else pair.chosen.plain_score,
                    "groups": pair.chosen.groups,
                    "relevance": None if pair.relevance is None else pair.relevance.fields(),
                }
            )
            kept = {
                "query_mean": prepared.query_mean,
                "row_mean": prepared.row_mean,
                "matrix": prepared.matrix,
                "bank": prepared.bank,
                "bank_owners": prepared.bank_owners,
                "mean": pair.mean,
                "covariance": pair.covariance,
                "nearest": pair.nearest,
                **({} if pair.relevance is None else pair.relevance.arrays()),
            }
            arrays |= {f"{name}.{key}": np.ascontiguousarray(value) for key, value in kept.items() if value is not None}
        return fields, arrays

    @classmethod
    def from_state(cls, fields: Mapping[str, Any], arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> ScoreModel:
        """What `state` gave.

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


def _restore(part: Mapping[str, Any], own: Mapping[str, Shaped[np.ndarray, "..."]]) -> PairScores:
    options = dict(part["preparation"])
    preparation = Preparation(**{**options, "correction": Correction(**options["correction"])})
    dim = own["query_mean"].size
    wanted = {"query_mean": (dim,), "row_mean": (dim,), "mean": (dim + 1,), "covariance": (dim + 1, dim + 1)}
    if "matrix" in own:
        wanted["matrix"] = (dim, dim)
    if part["relevance"] is not None:
        wanted["nearest"] = (*own["sizes"].shape, *QUANTILES.shape)
    shapes = {key: own[key].shape for key in wanted}
    bank, owners = own["bank"], own.get("bank_owners")
    if shapes != wanted or bank.shape[1:] != (dim,) or (owners is not None and owners.shape != (len(bank),)):
        raise ValueError(f"arrays of shapes {shapes}, bank {bank.shape}")
    if not all(np.isfinite(own[key]).all() for key in (*wanted, "bank")):
        raise ValueError("values that are not finite numbers")
    return PairScores(
        Prepared(own["query_mean"], own["row_mean"], own.get("matrix"), preparation.correction, bank, owners),
        own["mean"],
        own["covariance"],
        int(part["rows"]),
        Chosen(
            preparation,
            float("nan") if part["score"] is None else float(part["score"]),
            float("nan") if part["plain_score"] is None else float(part["plain_score"]),
            int(part["groups"]),
        ),
        None if part["relevance"] is None else Relevance.restore(part["relevance"], own),
        None if part["relevance"] is None else own["nearest"],
    )


# ------------------------------------------------------------------------------------------------------------ choosing


def _choose(known: HeldOut, preparations: Sequence[Preparation], seed: int) -> Chosen:
    """Try each on left-out groups: these are queries and gallery, the other queries are the bank."""
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
        return Chosen(preparations[0], float("nan"), float("nan"), len(np.unique(known.query_groups)))
    each = {preparation: np.concatenate(parts) for preparation, parts in chances.items()}
    plain = each[preparations[0]]
    best = max(preparations, key=lambda preparation: float(each[preparation].mean()))
    gain = each[best] - plain
    if not gain.mean() > gain.std() / np.sqrt(len(gain)):
        best = preparations[0]
    return Chosen(best, float(each[best].mean()), float(plain.mean()), len(np.unique(known.query_groups)))


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


def _relevance(preparation: Preparation, known: HeldOut, answerable: float, seed: int) -> Relevance | None:
    """Scores of all held-out queries with all held-out rows; a row's own queries are not in its bank."""
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
        answerable=answerable,
        seed=seed,
    )


def _check(
    gallery: Float[np.ndarray, "rows dim"],
    bank: Float[np.ndarray, "bank dim"],
    gallery_owners: Int[np.ndarray, " rows"] | None,
    bank_owners: Int[np.ndarray, " bank"] | None,
    pairs: HeldOut | None,
) -> None:
    if not len(gallery) or not len(bank) or gallery.shape[1] != bank.shape[1]:
        raise SpaceError(
            f"scores need a gallery and a bank of queries, both of one width and not empty; got {gallery.shape} and {bank.shape}"
        )
    given = [gallery, bank]
    if pairs is not None:
        if pairs.queries.shape[1] != gallery.shape[1] or pairs.rows.shape[1] != gallery.shape[1]:
            raise SpaceError(
                f"held-out pairs of widths {pairs.queries.shape[1]} and {pairs.rows.shape[1]} do not fit a gallery of {gallery.shape[1]}"
            )
        given += [pairs.queries, pairs.rows]
    bad = sum(int((~np.isfinite(vectors).all(axis=1)).sum()) for vectors in given)
    if bad:
        raise SpaceError(f"{bad} vectors of gallery, bank and pairs have values that are not finite numbers")
    if (gallery_owners is None) != (bank_owners is None):
        raise SpaceError("owners must be given of both the gallery and the bank, or of neither")
    for owners, vectors, what in ((gallery_owners, gallery, "gallery"), (bank_owners, bank, "bank")):
        if owners is not None and len(owners) != len(vectors):
            raise SpaceError(f"the {what} has {len(vectors)} vectors and {len(owners)} owners: give one owner a vector")
