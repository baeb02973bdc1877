"""The steps of a search over one state of a collection: candidates, what they are worth, words, diversity, hits.

Functions of a `State`, which is all that they read. What a query vector is, and the mathematics of scores and fusion, is in
`chiasm.retrieval`; who holds the state, and in which order the steps are taken, is in `chiasm.verbs.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from chiasm import work
from chiasm.encoders.base import Encoder
from chiasm.errors import SpaceError
from chiasm.retrieval.diversity import diversify
from chiasm.retrieval.query import item_vectors
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.store.index import SCORE, VectorIndex
from chiasm.store.tables import VECTOR, matrix_of, one_of
from chiasm.store.where import where_sql
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.query import Hit, Order, Query, SearchOptions, Span, band_of

if TYPE_CHECKING:
    from chiasm.retrieval.scores import Judgement, ScoreModel
    from chiasm.store.words import FullText

FINDS_SOUNDS = "no words were recognised in the query, so it finds sounds without words"
SPANS = 5  # moments of one file that a hit names
OFFSETS = 100_000  # hub offsets of rows that are remembered

_COLUMNS = ("id", "_slot", "_modality", "_kind", "_text", "_start", "_end")


def owner_number(name: str) -> int:
    """Return a number of 63 bits for an item's id, the same in every process."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


# --------------------------------------------------------------------------------------------------- rows and the state


@dataclass(frozen=True, eq=False)
class Row:
    """A row of the search table that may become a hit."""

    item: str
    slot: str
    modality: Modality  # of the vector
    kind: Modality  # of the file
    text: str | None
    start: float | None
    end: float | None
    vector: Float[np.ndarray, " dim"] | None
    cosine: float
    probability: float | None = None
    worth: float = -np.inf
    """Orders rows across modalities: log-odds, standard score or cosine. -inf for an item found by its words alone."""

    @property
    def key(self) -> tuple[str, str, float | None]:
        """The row among all of one modality."""
        return self.item, self.slot, self.start


def _rows_of(table: pa.Table, query: Float[np.ndarray, " dim"] | None = None) -> list[Row]:
    """Rows of the search table as objects, with their cosine: from `SCORE`, or with a query."""
    vectors = matrix_of(table[VECTOR]) if VECTOR in table.schema.names else None
    if query is not None and vectors is not None:
        cosines = (vectors @ query).tolist()
    else:
        cosines = table[SCORE].to_pylist() if SCORE in table.schema.names else [0.0] * table.num_rows
    columns = [table[name].to_pylist() for name in _COLUMNS]
    each = vectors if vectors is not None else [None] * table.num_rows
    return [Row(*fields) for fields in zip(*columns, each, cosines, strict=True)]


def _matrix(rows: Sequence[Row]) -> Float[np.ndarray, "rows dim"]:
    return np.stack([row.vector for row in rows if row.vector is not None])


@dataclass(frozen=True, eq=False)
class State:
    """All that a search reads. It is replaced as one, so that no search sees half of a refresh."""

    seen: tuple[Any, ...]  # what it was made from, see `Searcher._now`
    collection: Collection
    networks: Sequence[Encoder]
    space: Space
    scores: ScoreModel | None
    table: lance.LanceDataset  # one version of it
    index: VectorIndex
    _offsets: dict[tuple[Any, ...], float] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> dict[Modality, int]:
        """Rows of each modality that has any."""
        counts = {name: int(self.table.count_rows(filter=f"_modality = '{name}'")) for name in MODALITIES}
        return {name: count for name, count in counts.items() if count}

    @cached_property
    def items(self) -> int:
        """Items with a vector."""
        return int(pc.count_distinct(self.table.to_table(columns=["id"])["id"]).as_py())

    @cached_property
    def words(self) -> FullText:
        """The words of the collection, brought up to date when a state is first searched by them."""
        words = full_text(self.collection, self.space)
        if not words.is_current():
            words.update()
        return words

    @cached_property
    def has_moments(self) -> bool:
        """Whether any vector is of a moment."""
        return bool(self.table.count_rows(filter="_start IS NOT NULL"))

    @cached_property
    def has_alone(self) -> bool:
        """Whether any vector finds only its like, see `Space.alone`."""
        return bool(self.table.count_rows(filter="_alone"))

    def rows(
        self, ids: Sequence[str], query: Float[np.ndarray, " dim"] | None = None, *, where: str | None = None
    ) -> list[Row]:
        """Return all rows of some items that meet a condition, with their vectors."""
        if not ids:
            return []
        table = self.table.to_table(columns=[*_COLUMNS, VECTOR], filter=_all_of(one_of("id", ids), where))
        return _rows_of(table, query)

    def cards(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the columns of some items by their ids."""
        own = [name for name in self.table.schema.names if not name.startswith("_")]
        # By the id alone: a condition on the passages as well makes Lance list all rows that meet it, for every search.
        rows = self.table.to_table(columns=[*own, "_start", "_kind"], filter=one_of("id", ids)).to_pylist()
        cards = {}
        for row in rows:
            start, kind = row.pop("_start"), row.pop("_kind")
            if start is None or kind != "text":  # passages lack the texts
                cards[str(row["id"])] = row
        return cards

    def vectors_of(self, ids: Sequence[str]) -> dict[str, Float[np.ndarray, " dim"]]:
        """Return one unit vector an item, of those that are there: see `item_vectors`."""
        rows = self.rows(ids)
        if not rows:
            return {}
        numbers = {name: number for number, name in enumerate(dict.fromkeys(row.item for row in rows))}
        codes, kinds = np.array([numbers[row.item] for row in rows]), np.array([row.modality for row in rows])
        return dict(zip(numbers, item_vectors(_matrix(rows), codes, kinds), strict=True))

    def offsets(self, asked: Modality, rows: Sequence[Row]) -> Float[np.ndarray, " rows"]:
        """Return the hub offset of each row for queries of a modality.

        Each is compared with a bank of up to 2,000 queries, so it is computed when a row is first a candidate, and kept.
        """
        assert self.scores is not None
        if len(self._offsets) > OFFSETS:
            self._offsets.clear()
        offsets = np.zeros(len(rows), np.float32)
        for searched in {row.modality for row in rows}:
            pair = self.scores.pairs.get((asked, searched))
            if pair is None:
                continue
            mine = [place for place, row in enumerate(rows) if row.modality == searched]
            known = {place: self._offsets.get((asked, *rows[place].key)) for place in mine}
            new = [place for place in mine if known[place] is None]
            if new:
                owners = np.array([owner_number(rows[place].item) for place in new], dtype=np.int64)
                computed = pair.offsets(_matrix([rows[place] for place in new]), owners).tolist()
                known |= dict(zip(new, computed, strict=True))
                self._offsets.update(
                    ((asked, *rows[place].key), value) for place, value in zip(new, computed, strict=True)
                )
            offsets[mine] = [known[place] for place in mine]
        return offsets


# ---------------------------------------------------------------------------------------------------------- candidates


def _all_of(*conditions: str | None) -> str | None:
    """Return SQL that asks for all of some conditions; None for none."""
    return " AND ".join(f"({one})" for one in conditions if one is not None) or None


def condition_of(query: Query, options: SearchOptions, state: State, vector: Float[np.ndarray, " dim"]) -> str | None:
    """Return SQL for the rows that may be hits; None for all.

    Raises:
        SpaceError: the modality that is asked for cannot be compared with the query, or nothing that is there can.
    """
    away = [*query.like, *query.liked, *query.disliked]
    near = state.space.comparable(vector)
    meets_others, meets_alone = state.space.meets(vector)
    far = [name for name in state.space.modalities if name not in near]
    heard = options.modality == "video" and "audio" in near  # by its sound track
    refused = (
        far and not set(near) & set(state.sizes) if options.modality is None else options.modality in far and not heard
    )
    if refused:
        sought = options.modality or "what is there"
        notes = state.space.notes(state.collection.path, state.sizes)
        if not meets_others:
            notes = (FINDS_SOUNDS, *notes)
        raise SpaceError(": ".join([f"{sought} cannot be found by this query", *notes]))
    return _all_of(
        None if options.where is None else where_sql(options.where, state.table.schema),
        None if options.modality is None else f"_kind = '{options.modality}'",
        f"NOT {one_of('id', away)}" if away else None,
        one_of("_modality", near) if far else None,
        "_alone" if not meets_others else "NOT _alone" if state.has_alone and not meets_alone else None,
    )


def candidates_of(
    vector: Float[np.ndarray, " dim"],
    state: State,
    where: str | None,
    count: int,
    *,
    by_modality: bool,
    vectors: bool,
) -> list[Row]:
    """Return the best row of each of the items nearest to the query, nearest first; of each modality so many, or of all."""
    parts = [f"_modality = '{name}'" for name in state.sizes] if by_modality else [None]
    rows: list[Row] = []
    for part in parts:
        rows += _nearest_items(vector, state, _all_of(where, part), count, vectors=vectors)
    return sorted(rows, key=lambda row: -row.cosine)


def _nearest_items(
    vector: Float[np.ndarray, " dim"], state: State, where: str | None, count: int, *, vectors: bool
) -> list[Row]:
    columns = [*_COLUMNS, *([VECTOR] if vectors else [])]
    k = 2 * count  # an item may have several rows
    while True:
        work.check()
        table = state.index.search(vector, k=k, columns=columns, where=where)
        first: dict[str, Row] = {}
        for row in _rows_of(table):
            first.setdefault(row.item, row)
        if len(first) >= count or table.num_rows < k:
            return list(first.values())[:count]
        k *= 4


def similar_items(
    item: str, vector: Float[np.ndarray, " dim"], state: State, where: str | None, count: int
) -> list[Row]:
    """Return the items most like an item, by all files of each: the best row of each, in the order of the items' vectors."""
    near = candidates_of(vector, state, where, count, by_modality=True, vectors=False)
    rows = [
        row
        for row in state.rows(list(dict.fromkeys(row.item for row in near)), vector, where=where)
        if row.item != item
    ]
    if not rows:
        return []
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.item for row in rows))}
    codes, kinds = np.array([numbers[row.item] for row in rows]), np.array([row.modality for row in rows])
    scores = item_vectors(_matrix(rows), codes, kinds) @ vector
    best = _best_of_items(rows)
    order = np.argsort(-scores, kind="stable")[:count]
    names = list(numbers)
    return [replace(best[names[place]], worth=float(scores[place])) for place in order]


def _best_of_items(rows: Sequence[Row]) -> dict[str, Row]:
    """Return the row of the highest cosine of each item; of equal ones the first."""
    best: dict[str, Row] = {}
    for row in rows:
        if row.item not in best or row.cosine > best[row.item].cosine:
            best[row.item] = row
    return best


# ------------------------------------------------------------------------------------------------------ what is it worth


@dataclass(frozen=True)
class Verdict:
    """Candidates in their final order, each item once, and whether anything was found."""

    rows: list[Row]
    found: bool | None = None
    threshold: float | None = None
    false_hit_rate: float | None = None


def judge(
    query: Query,
    vector: Float[np.ndarray, " dim"],
    state: State,
    candidates: list[Row],
    options: SearchOptions,
    judges: bool,
) -> Verdict:
    """Say how probably candidates are relevant, and order them by that; by the cosine where it is not known.

    Probabilities are learned from queries of one medium. One of several media, of items or with thumbs is judged as a text
    that lies where it does. Items like others stay in the order of the cosine, which is of all their files.
    """
    judgement = _judgement(query, vector, state, candidates, options.min_probability) if judges else None
    if judgement is not None and (judgement.threshold is not None or not candidates):
        shown = judgement.shown if options.min_probability is not None else judgement.order
        inside = np.clip(judgement.probability, 1e-12, 1 - 1e-12)
        worth = np.log(inside / (1 - inside))
        if query.names_items_only:
            shown = np.sort(shown)
            worth = np.array([row.worth if row.worth > -np.inf else row.cosine for row in candidates])
        rows = [
            replace(candidates[place], probability=float(judgement.probability[place]), worth=float(worth[place]))
            for place in shown
        ]
        rate = _false_hit_rate(query, state, candidates, judgement.threshold) if query.is_one_medium else None
        return Verdict(_first_of_items(rows), bool(judgement.found), judgement.threshold, rate)
    if options.min_probability is not None:
        raise SpaceError(_why_no_probability(query, state, candidates))
    if judgement is not None and not query.names_items_only and not np.isnan(judgement.standard).any():
        order = np.argsort(-judgement.standard, kind="stable")  # standard scores hold for any query
        rows = [replace(candidates[place], worth=float(judgement.standard[place])) for place in order]
        return Verdict(_first_of_items(rows))
    return Verdict(
        _first_of_items([row if row.worth > -np.inf else replace(row, worth=row.cosine) for row in candidates])
    )


def _judgement(
    query: Query,
    vector: Float[np.ndarray, " dim"],
    state: State,
    candidates: Sequence[Row],
    min_probability: float | Literal["auto"] | None,
) -> Judgement:
    assert state.scores is not None
    return state.scores.judge(
        vector,
        query.modality,
        _matrix(candidates) if candidates else np.zeros((0, len(vector)), np.float32),
        [row.modality for row in candidates],
        offsets=state.offsets(query.modality, candidates),
        sizes=state.sizes,
        items=state.items,
        min_probability=None if min_probability == "auto" else min_probability,
    )


def _false_hit_rate(query: Query, state: State, candidates: Sequence[Row], threshold: float | None) -> float | None:
    """Return the highest rate among the modalities of the candidates, see `SearchResult`."""
    if state.scores is None or threshold is None:
        return None
    rates = []
    for name in sorted({row.modality for row in candidates}):
        pair = state.scores.pairs.get((query.modality, name))
        if pair is not None and pair.relevance is not None:
            rates.append(pair.relevance.rates(threshold, rows=state.sizes[name], items=state.items)["foreign"])
    return max(rates, default=None)


def _why_no_probability(query: Query, state: State, candidates: Sequence[Row]) -> str:
    if state.scores is None:
        return (
            f"the space {state.space.name!r} has no probabilities, so there is no least one. They are learned by chiasm "
            "align from at least 10 pairs"
        )
    kinds = sorted({row.modality for row in candidates})
    return (
        f"these hits have no probability, so there is no least one: none was learned for {query.modality} queries and all of "
        f"{', '.join(kinds)}"
    )


def _first_of_items(rows: Sequence[Row]) -> list[Row]:
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.item, row)
    return list(first.values())


# ---------------------------------------------------------------------------------------------------- words, diversity


def full_text(collection: Collection, space: Space) -> FullText:
    """Return the words of a collection, with those that are heard where speech goes by words in a space."""
    from chiasm.store.words import FullText

    by_words = space.starts.get("audio") == "words"
    return FullText(collection, heard=[space.fingerprints["audio"]] if by_words else [])


def fuse_words(
    text: str,
    vector: Float[np.ndarray, " dim"],
    state: State,
    where: str | None,
    ranking: list[Row],
    count: int,
    depth: int,
    options: SearchOptions,
) -> list[Row]:
    """Fuse a ranking with that of the items that hold the words. So many of the first items that words alone found are read."""
    from chiasm.retrieval.hybrid import RankedList, reciprocal_rank_fusion

    words = state.words
    among: Callable[[Sequence[str]], Any] | None = None
    if options.min_probability is not None:
        probable = {row.item for row in ranking}
        among = probable.intersection
    elif where is not None:

        def among(ids: Sequence[str]) -> set[str]:
            return {row.item for row in state.rows(ids, where=where)}

    hits = words.search(text, k=count, among=among)
    if not len(hits):
        return ranking
    numbers = {name: number for number, name in enumerate(dict.fromkeys([*(row.item for row in ranking), *hits.items]))}
    covered = words.covered([*numbers]) | set(hits.items)
    # The same number, computed beside other rows, may differ in its last digit.
    by_vectors = RankedList(np.arange(len(ranking)), np.minimum.accumulate(np.array([row.worth for row in ranking])))
    by_words = RankedList(
        np.array([numbers[name] for name in hits.items], dtype=np.int64),
        hits.scores,
        np.array([name in covered for name in numbers], dtype=bool),
    )
    names = list(numbers)
    order = [names[number] for number in reciprocal_rank_fusion([by_vectors, by_words]).rows]
    known = {row.item: row for row in ranking}
    by_words_alone = [name for name in order[:depth] if name not in known]
    known |= _best_of_items(state.rows(by_words_alone, vector, where=where))  # each is shown by its nearest file
    return [known[name] for name in order if name in known]


def spread(rows: Sequence[Row], diversity: float, *, most: int) -> list[Row]:
    """Return the first rows again, each unlike those before it."""
    if not rows:
        return []
    order = diversify(_matrix(rows), np.linspace(1, 0, len(rows)), k=most, relevance=1 - diversity)
    return [rows[place] for place in order]


# ---------------------------------------------------------------------------------------------------------------- hits


def hits_of(
    rows: Sequence[Row], vector: Float[np.ndarray, " dim"], state: State, metric: Order, threshold: float | None
) -> tuple[Hit, ...]:
    """Return rows as hits, with the columns of their items, the nearest moments of their files, and their band."""
    if not rows:
        return ()
    ids = [row.item for row in rows]
    cards = state.cards(ids)
    files: dict[tuple[str, str], list[Row]] = {}
    if state.has_moments or metric == "l2":
        for row in state.rows(ids, vector):
            files.setdefault((row.item, row.slot), []).append(row)
    hits = (_hit(row, cards[row.item], files.get((row.item, row.slot), []), vector, metric) for row in rows)
    return tuple(replace(hit, band=band_of(hit.probability, threshold)) for hit in hits)


def _hit(
    row: Row, card: Mapping[str, Any], file: Sequence[Row], vector: Float[np.ndarray, " dim"], metric: Order
) -> Hit:
    def score(one: Row) -> float:
        if metric != "l2" or one.vector is None:
            return one.cosine
        # In double precision: the distance of a vector to itself is 0.
        return 0.0 - float(np.linalg.norm(one.vector.astype(np.float64) - vector.astype(np.float64)))

    moments = sorted((one for one in file if one.start is not None), key=score, reverse=True)
    of_row = next((one for one in file if one.key == row.key and one.modality == row.modality), row)
    if row.start is None and moments and score(moments[0]) >= score(of_row) - 1e-6:
        of_row = moments[0]  # all that was found of the file is this moment of it
    kind, number = row.slot.split("/")
    value = card[kind][int(number)]
    inline = kind == "text" and not Path(value).is_absolute()
    return Hit(
        id=row.item,
        modality=row.kind,
        score=score(of_row),
        path=None if inline else value,
        text=value if inline and of_row.start is None else of_row.text,
        start=of_row.start,
        end=of_row.end,
        probability=row.probability,
        moments=tuple(
            Span(float(one.start or 0.0), float(one.end or 0.0), score(one), one.text) for one in moments[:SPANS]
        ),
        number=int(number),
        metadata={name: value for name, value in card.items() if name not in {"id", *MODALITIES}},
    )


def text_of(row: Row, texts: Sequence[str] | None) -> str | None:
    """Return what a row says: its own transcript or passage, else the item's first text that stands in its manifest."""
    if row.text:
        return row.text
    return next((text for text in texts or () if not Path(text).is_absolute()), None)
