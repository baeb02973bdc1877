"""From a question to hits: one object that everything searches through, for a single query or for a server.

A `Searcher` holds a collection, its encoders, a space and the collection's vectors in it. What is asked with, how
rankings are corrected, fused, reranked and spread is in `chiasm.retrieval`; this module brings it to one collection's
files, in this order: the query as one vector, candidates of every modality, what their scores are worth across
modalities, the words of the query, a reranker, diversity, the page.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chiasm import encoders, media
from chiasm.arrays import fingerprints_of
from chiasm.collection import Collection, Vectors, write_whole
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import CollectionError, SpaceError
from chiasm.media import Limits
from chiasm.retrieval.diversity import diversify
from chiasm.retrieval.gallery import APPROXIMATE_BYTES, Index
from chiasm.retrieval.index import ExactIndex, Hit, Ranking, Span
from chiasm.retrieval.query import compose, more_like
from chiasm.space import Space, saved_spaces, start_space
from chiasm.transfer.alignment import normalise
from chiasm.types import MODALITIES, Media, Modality, Outcome, Text

START = "start"
CANDIDATES = 200  # of each modality, and of the words, that are looked at for a page; more for pages further on
RERANKED = 50  # candidates that a reranker reads
SPANS = 5  # moments of one file that a hit names
MOST = 10_000  # hits that can be asked for, with those of the pages before


@dataclass(frozen=True, eq=False)
class Query:
    """What is looked for: words, files and items of the collection, together or alone.

    Attributes:
        plus: what is wanted.
        minus: what is not.
        like: ids of items to find others like; they are not found themselves.
        liked: ids of hits that got a thumb up: the query moves towards them, and they are not shown again.
        disliked: ids of hits that got a thumb down.
        vectors: unit vectors of `plus` and then of `minus`, where they were prepared before (`Searcher.prepare`).
    """

    plus: tuple[Media, ...] = ()
    minus: tuple[Media, ...] = ()
    like: tuple[str, ...] = ()
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    vectors: Float[np.ndarray, "media dim"] | None = None

    @property
    def words(self) -> str:
        """All words that are wanted, for full text and rerankers; empty where there are none."""
        return " ".join(medium.text for medium in self.plus if isinstance(medium, Text))

    @property
    def is_plain(self) -> bool:
        """Whether it is one medium, as those that probabilities are learned from."""
        return len(self.plus) == 1 and not (self.minus or self.like or self.liked or self.disliked)


@dataclass(frozen=True)
class SearchResult:
    """The hits of one query, best first, and the space they were found in."""

    space: str
    hits: tuple[Hit, ...]
    found: bool | None = None
    """Whether any hit is good enough to say that something was found; None where nobody can say (no probabilities)."""
    threshold: float | None = None
    """The probability that the best hit of 95 % of the questions with an answer reaches, or as was asked."""
    false_hit_rate: float | None = None
    """The share of questions without an answer here whose best hit reaches it all the same, on held-out pairs."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: metadata columns stand beside the fields of a hit."""
        rows = []
        for hit in self.hits:
            fields = asdict(hit)
            rows.append({**fields.pop("metadata"), **fields})
        numbers = {"found": self.found, "threshold": self.threshold, "false_hit_rate": self.false_hit_rate}
        return {"space": self.space, **numbers, "hits": rows}


@dataclass(frozen=True)
class Status:
    """What a collection holds."""

    path: str
    encoder: str
    items: int
    outcomes: dict[str, int]  # files by outcome
    embeddings: dict[str, int]  # files with vectors by modality
    columns: tuple[str, ...]
    spaces: tuple[str, ...]  # oldest first; the last is the one that search uses

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def status_of(collection: Collection) -> Status:
    """What a collection holds."""
    counts: Counter[str] = Counter()
    for file in collection.files():
        if file["outcome"] in {Outcome.OK, Outcome.DUPLICATE}:
            counts[file["modality"]] += 1
    return Status(
        str(collection.path),
        collection.encoder,
        collection.count(),
        collection.outcomes(),
        dict(counts),
        tuple(collection.columns()),
        saved_spaces(collection.path / "spaces"),
    )


# ------------------------------------------------------------------------------------------- spaces of a collection


def start_of(collection: Collection, networks: Sequence[Encoder]) -> Space:
    """The space that nothing was learned in; made once, and again when the encoders have changed."""
    folder = collection.path / "spaces" / START
    if (folder / "space.json").exists():
        saved = Space.load(folder)
        if dict(saved.fingerprints) == fingerprints_of(networks):
            return saved
    space = start_space(networks, name=START)
    others = [
        Space.load(collection.path / "spaces" / name).created
        for name in saved_spaces(collection.path / "spaces")
        if name != START
    ]
    if others:  # made anew, but not to be taken for newer than what was learned
        space = replace(space, created=min(others)[:-1])
    space.save(folder)
    return space


def space_of(collection: Collection, networks: Sequence[Encoder], name: str | None) -> Space:
    """A space by its name; the newest by default.

    Raises:
        SpaceError: there is none of that name.
    """
    names = saved_spaces(collection.path / "spaces")
    if name is None:
        name = names[-1] if names else START
    if name == START:
        return start_of(collection, networks)
    if name not in names:
        raise SpaceError(f"{collection.path} has no space {name!r}. It has: {', '.join(names) or START}")
    return Space.load(collection.path / "spaces" / name)


def gallery_of(collection: Collection, space: Space) -> Vectors:
    """All vectors of the collection in a space, with moments; kept on disk, so that only new ones are computed."""

    def place(rows: Vectors) -> Float[np.ndarray, "rows dim"]:
        placed = np.empty((len(rows), space.dim), np.float32)
        for modality in sorted(set(rows.modalities)):
            chosen = np.array([found == modality for found in rows.modalities])
            placed[chosen] = space.place(modality, rows.vectors[chosen])
        return placed

    return collection.mapped(space.digest, sorted(set(space.fingerprints.values())), place)


# ------------------------------------------------------------------------------------------------------- the gallery


def drop_replaced(collection: Collection) -> None:
    """Delete vectors and indexes of spaces that were replaced, some time after."""
    folder = collection.path / "spaces"
    digests = [Space.load(folder / name).digest for name in saved_spaces(folder)]
    for digest in collection.drop_mapped(digests):
        shutil.rmtree(collection.path / "indexes" / digest, ignore_errors=True)


class _Divided:
    """A kept index (`retrieval.gallery.Index`) behind the positions of the rows that are in memory.

    Args:
        index: brought up to date with the rows, see `_synchronised`.
        names: of the rows, as the index knows them.
    """

    def __init__(self, index: Index, names: Sequence[str]) -> None:
        self._index = index
        self._numbers = index.rows(names)
        self._place_of = np.full(index.size, -1, np.int64)
        self._place_of[self._numbers] = np.arange(len(names))

    def search(
        self, queries: Float[np.ndarray, "queries dim"], *, k: int, among: Bool[np.ndarray, " rows"] | None = None
    ) -> Ranking:
        """As `ExactIndex.search`."""
        mask = None
        if among is not None:
            mask = np.zeros(len(self._place_of), dtype=bool)
            mask[self._numbers[among]] = True
        found = self._index.search(queries, k=k, among=mask)
        return Ranking(np.where(found.rows >= 0, self._place_of[found.rows], -1), found.scores)


def _index_folder(collection: Collection, space: Space, modality: Modality) -> Path:
    return collection.path / "indexes" / space.digest / modality


def _names_of(rows: Vectors, chosen: Int[np.ndarray, " some"]) -> list[str]:
    """What an index knows rows by: a moment is told from the others of its file by when it begins."""
    return [f"{rows.items[row]}\0{rows.slots[row]}\0{rows.hashes[row]}\0{rows.starts[row]}" for row in chosen.tolist()]


def _synchronised(index: Index, names: Sequence[str], rows: Vectors, chosen: Int[np.ndarray, " some"]) -> bool:
    """Add rows that an index lacks and delete those that are gone. Gives whether there were any."""
    there = index.rows(names)
    missing = np.flatnonzero(there < 0)
    gone = set(index.ids()) - set(names) if len(index) > len(names) - len(missing) else set()
    if gone:
        index.delete_rows(gone)
    if len(missing):
        added = chosen[missing]
        owners = [rows.items[row] for row in added.tolist()]
        index.add([names[row] for row in missing.tolist()], rows.vectors[added], owners=owners)
    return bool(gone or len(missing))


def keep_indexes(collection: Collection, space: Space, rows: Vectors, *, background: bool = False) -> None:
    """Keep an index of every modality of which there are too many vectors to compare a query with each of them.

    Args:
        collection: where they are kept.
        space: that the vectors are in.
        rows: `gallery_of` these.
        background: build in a thread; until it is done, queries are compared with every vector.
    """
    spoken = np.array(rows.modalities, dtype="<U5")
    for modality in sorted(set(rows.modalities)):
        chosen = np.flatnonzero(spoken == modality)
        folder = _index_folder(collection, space, modality)
        if not (folder / "index.json").exists() and chosen.size * space.dim * 4 <= APPROXIMATE_BYTES:
            continue
        if (folder / "index.json").exists():
            index = Index.load(folder, space=space.digest, dim=space.dim)
        else:
            index = Index(folder, space=space.digest, dim=space.dim)
        if _synchronised(index, _names_of(rows, chosen), rows, chosen):
            others = np.flatnonzero(spoken != modality)  # queries of text search pictures, and the other way
            drawn = np.random.default_rng(0).permutation(others)[:1000] if len(others) >= 100 else None
            queries = None if drawn is None else rows.vectors[np.sort(drawn)]
            if not index.due():
                index.save()
            elif background:
                index.build_in_background(queries=queries)
            else:
                index.build(queries=queries)


@dataclass(frozen=True, eq=False)
class _Gallery:
    """The vectors of a collection in a space, and an index of those of each modality."""

    rows: Vectors
    kinds: tuple[Modality, ...]  # of the file of each row: "video" for its sound track
    names: tuple[str, ...]  # of the items
    items: Int[np.ndarray, " rows"]  # the item of each row, by its place in `names`
    by_modality: Mapping[Modality, Int[np.ndarray, " some"]]  # rows
    indexes: Mapping[Modality, ExactIndex | _Divided]

    @classmethod
    def of(cls, collection: Collection, space: Space) -> _Gallery:
        rows = gallery_of(collection, space)
        numbers: dict[str, int] = {}
        items = np.array([numbers.setdefault(item, len(numbers)) for item in rows.items], dtype=np.int64)
        spoken = np.array(rows.modalities, dtype="<U5")
        by_modality = {name: np.flatnonzero(spoken == name) for name in MODALITIES if name in rows.modalities}
        indexes: dict[Modality, ExactIndex | _Divided] = {}
        for name, chosen in by_modality.items():
            folder = _index_folder(collection, space, name)
            if (folder / "index.json").exists():
                index, names = Index.load(folder, space=space.digest, dim=space.dim), _names_of(rows, chosen)
                _synchronised(index, names, rows, chosen)  # what came since is searched exactly, until the next add
                indexes[name] = _Divided(index, names)
            else:
                indexes[name] = ExactIndex(rows.vectors[chosen], items[chosen])
        files = list(zip(rows.items, rows.slots, strict=True))
        films = {file for file, modality in zip(files, rows.modalities, strict=True) if modality == "video"}
        kinds: tuple[Modality, ...] = tuple(
            "video" if file in films else modality for file, modality in zip(files, rows.modalities, strict=True)
        )
        return cls(rows, kinds, tuple(numbers), items, by_modality, indexes)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The place of each item in `names`."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def owners(self) -> Int[np.ndarray, " rows"]:
        """The item of each row by a number that is the same in every process."""
        of_items = np.array([owner_number(name) for name in self.names], dtype=np.int64)
        return of_items[self.items] if len(self.names) else np.zeros(0, np.int64)

    @cached_property
    def _by_item(self) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " items"]]:
        order = np.argsort(self.items, kind="stable")
        return order, np.searchsorted(self.items[order], np.arange(len(self.names) + 1))

    def rows_of(self, item: int) -> Int[np.ndarray, " rows"]:
        """All rows of one item."""
        order, first = self._by_item
        return order[first[item] : first[item + 1]]

    def vector_of(self, name: str) -> Float[np.ndarray, " dim"]:
        """One unit vector of an item: the mean over its modalities of the mean of the rows of each.

        Raises:
            SpaceError: the item has no vector.
        """
        if name not in self.numbers:
            raise SpaceError(f"there is no item {name!r} with an embedded file in this collection")
        rows = self.rows_of(self.numbers[name])
        spoken = np.array([self.rows.modalities[row] for row in rows])
        parts = [normalise(self.rows.vectors[rows[spoken == kind]].mean(axis=0)[None])[0] for kind in np.unique(spoken)]
        unit: Float[np.ndarray, " dim"] = normalise(np.mean(parts, axis=0)[None])[0]
        return unit


def owner_number(name: str) -> int:
    """A number of 63 bits for an item's id."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


class Searcher:
    """Searches one collection in one space. Keeps the vectors in memory; `refresh` sees what was added since.

    May be called from several threads at once; encoders run in the thread that calls `prepare` or `search`.

    Args:
        collection: the collection.
        space: name of the space. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        CollectionError: there is no such collection.
        SpaceError: there is no such space.
    """

    def __init__(self, collection: str | Path, *, space: str | None = None, device: Device = "auto") -> None:
        self.collection = Collection.open(collection)
        self.networks = encoders.resolve(self.collection.encoder, device=device)
        self._asked_for = space
        self._device: Device = device
        self._rerankers: dict[str, Any] = {}
        self.space = space_of(self.collection, self.networks, space)
        self.scores = load_scores(self.collection.path / "spaces" / self.space.name)
        self._gallery = _Gallery.of(self.collection, self.space)
        self._seen = self.collection.version

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What can be searched with."""
        return self.space.modalities

    def refresh(self) -> bool:
        """Take over what was added, removed or aligned since. Gives whether there was anything; cheap where not."""
        now = self.collection.version
        names = saved_spaces(self.collection.path / "spaces")
        newest = self._asked_for or (names[-1] if names else START)
        if now == self._seen and newest == self.space.name:
            return False
        space = space_of(self.collection, self.networks, self._asked_for)
        gallery = _Gallery.of(self.collection, space)
        self.scores = load_scores(self.collection.path / "spaces" / space.name)
        self.space, self._gallery, self._seen = space, gallery, now
        return True

    def status(self) -> Status:
        """What the collection holds."""
        return status_of(self.collection)

    # --------------------------------------------------------------------------------------------- items and files

    def items(self, *, after: str | None = None, limit: int = 100, where: str | None = None) -> list[dict[str, Any]]:
        """Rows of items in the order of their ids, those after an id."""
        rows = sorted(self.collection.items(where=where), key=lambda row: str(row["id"]))
        return [row for row in rows if after is None or str(row["id"]) > after][:limit]

    def item(self, name: str, /) -> dict[str, Any] | None:
        """The row of one item: its id, a list of paths (texts: paths or the texts themselves) a modality, metadata."""
        found = self.collection.items(ids=[name])
        return found[0] if found else None

    def file_of(self, name: str, modality: Modality, number: int, /) -> Path | None:
        """One of an item's own files; None where there is none, or it is a text that stands in the manifest."""
        row = self.item(name)
        paths = (row[modality] or []) if row is not None else []
        if not 0 <= number < len(paths) or not Path(paths[number]).is_absolute():
            return None
        return Path(paths[number])

    # ------------------------------------------------------------------------------------------------- the question

    def open(self, path: str | Path, *, limits: Limits = Limits()) -> Media:  # noqa: B008  # frozen
        """Open a file as its encoder wants to see it.

        Raises:
            MediaError: it cannot be used.
            SpaceError: the space lacks its modality.
        """
        encoder = self.space.encoder(media.sniff(path), self.networks)
        view = encoder.view
        return media.load(
            path, image_size=view.image_size, rate=view.rate, frames=view.frames, fps=view.fps, limits=limits
        )

    def prepare(self, given: Sequence[Media]) -> Float[np.ndarray, "n dim"]:
        """Unit vectors of opened media: what costs most of a search.

        Raises:
            SpaceError: a modality that the space lacks, or nothing in a medium that can be embedded.
        """
        for medium in given:
            if isinstance(medium, Text) and not medium.text.strip():
                raise SpaceError("the query is empty. Say in words what to look for")
        return self.space.embed(given, self.networks)

    def search(
        self,
        query: Query,
        *,
        k: int = 10,
        offset: int = 0,
        modality: Modality | None = None,
        where: str | None = None,
        min_probability: float | Literal["auto"] | None = None,
        hybrid: bool = False,
        rerank: str | None = None,
        diversity: float = 0.0,
    ) -> SearchResult:
        """The hits of one query.

        Args:
            query: what is looked for.
            k: hits at the most. A smaller gallery gives fewer.
            offset: hits that are passed over: those of the pages before.
            modality: find items by their files of this modality only. Default: by any.
            where: SQL condition on the columns of the items.
            min_probability: leave out hits that are less probably relevant; `"auto"` takes the threshold of the space.
            hybrid: go by the query's words in texts, transcripts and columns, too (BM25).
            rerank: a cross-encoder that reads the query and the texts of the first 50 hits, by hub id or folder.
            diversity: from 0 to 1, how much hits are to differ from those before them.

        Raises:
            SpaceError: nothing to look for, a modality that the space lacks, or a probability where there are none.
            CollectionError: k or offset out of range, `where` is malformed, or the collection has no vectors.
        """
        if k < 1 or offset < 0 or k + offset > MOST:
            raise CollectionError(
                f"k must be at least 1, offset at least 0 and both together at most {MOST}; got {k} and {offset}"
            )
        if not 0 <= diversity <= 1:
            raise CollectionError(f"diversity is a number from 0 to 1; got {diversity}")
        if modality is not None and modality not in self.space.modalities:
            raise SpaceError(
                f"the space {self.space.name!r} has {', '.join(self.space.modalities)}; cannot find by {modality!r}"
            )
        gallery = self._gallery
        if not len(gallery.rows):
            path = self.collection.path
            raise CollectionError(f"{path} has no embedded files. Add some: chiasm add PATH --to {path}")
        vector = self._vector(query, gallery)
        among = self._among(query, gallery, modality, where)
        wanted = max(CANDIDATES, 2 * (k + offset))
        found = self._candidates(query, vector, gallery, among, wanted)
        judged = self._judged(query, vector, gallery, found, min_probability)
        ranked = judged.hits
        if hybrid and query.words:
            ranked = self._with_words(query.words, vector, gallery, among, ranked, wanted)
        if rerank is not None:
            ranked = self._reranked(query, gallery, ranked, rerank)
        page = ranked[offset : offset + k]
        if diversity:
            rows = np.array([place.row for place in ranked[:wanted]], dtype=np.int64)
            falling = np.linspace(1, 0, len(rows))
            order = diversify(gallery.rows.vectors[rows], falling, k=k + offset, relevance=1 - diversity)
            page = [ranked[place] for place in order[offset:]]
        hits = self._hits(page, vector, gallery)
        return SearchResult(self.space.name, hits, judged.found, judged.threshold, judged.false_hit_rate)

    # -------------------------------------------------------------------------------------------------- step by step

    def _vector(self, query: Query, gallery: _Gallery) -> Float[np.ndarray, " dim"]:
        if not (query.plus or query.like):
            what = "only what is not wanted" if query.minus else "nothing"
            raise SpaceError(f"a search needs a text, an image, a sound, a video or an item to go by; got {what}")
        given = (*query.plus, *query.minus)
        vectors = query.vectors if query.vectors is not None else self.prepare(given) if given else None
        parts = [gallery.vector_of(name) for name in query.like]
        minus = None
        if vectors is not None:
            parts = [*vectors[: len(query.plus)], *parts]
            minus = vectors[len(query.plus) :] if query.minus else None
        composed = compose(np.stack(parts), minus=minus) if len(parts) > 1 or minus is not None else parts[0]
        if not (query.liked or query.disliked):
            return composed
        from chiasm.retrieval.relevance_feedback import improved_query

        def rated(names: Sequence[str]) -> Float[np.ndarray, "names dim"]:
            there = [gallery.vector_of(name) for name in names if name in gallery.numbers]
            return np.stack(there) if there else np.zeros((0, len(composed)), np.float32)

        return improved_query(composed, rated(query.liked), rated(query.disliked))

    def _among(
        self, query: Query, gallery: _Gallery, modality: Modality | None, where: str | None
    ) -> Bool[np.ndarray, " rows"] | None:
        """Rows that may be found; None for all."""
        may: Bool[np.ndarray, " rows"] | None = None
        if where is not None:
            allowed = {str(row["id"]) for row in self.collection.items(where=where)}
            may = np.array([name in allowed for name in gallery.names], dtype=bool)[gallery.items]
        if modality is not None:
            right = np.array([kind == modality for kind in gallery.kinds], dtype=bool)
            may = right if may is None else may & right
        away = [
            gallery.numbers[name] for name in (*query.like, *query.liked, *query.disliked) if name in gallery.numbers
        ]
        if away:
            others = ~np.isin(gallery.items, away)
            may = others if may is None else may & others
        return may

    def _candidates(
        self,
        query: Query,
        vector: Float[np.ndarray, " dim"],
        gallery: _Gallery,
        among: Bool[np.ndarray, " rows"] | None,
        wanted: int,
    ) -> Int[np.ndarray, " rows"]:
        """Rows that are nearest to the query: of each modality the best of each item."""
        if query.like and not (query.plus or query.minus or query.liked or query.disliked) and len(query.like) == 1:
            (item,) = query.like
            ranking = more_like(
                gallery.rows.vectors, gallery.rows.items, gallery.rows.modalities, item=item, k=wanted, among=among
            )
            return ranking.rows[0][ranking.rows[0] >= 0]
        parts = []
        for name, index in gallery.indexes.items():
            rows = gallery.by_modality[name]
            ranking = index.search(vector[None], k=wanted, among=None if among is None else among[rows])
            parts.append(rows[ranking.rows[0][ranking.rows[0] >= 0]])
        return np.concatenate(parts)

    def _judged(
        self,
        query: Query,
        vector: Float[np.ndarray, " dim"],
        gallery: _Gallery,
        found: Int[np.ndarray, " rows"],
        min_probability: float | Literal["auto"] | None,
    ) -> _Judged:
        """Candidates in the order of what their scores are worth, of each item the best."""
        asked: Modality = "text" if not query.plus or query.words else query.plus[0].modality
        kinds = [gallery.rows.modalities[row] for row in found]
        if self.scores is None or (query.like and not query.plus):
            if min_probability is not None:
                raise SpaceError(
                    f"the space {self.space.name!r} has no probabilities, so there is no least one. They are learned by "
                    "chiasm align from at least 10 pairs"
                    if self.scores is None
                    else "hits like an item have no probability; search with words or a file for a least one"
                )
            cosines = gallery.rows.vectors[found] @ vector
            order = np.arange(len(found)) if query.like and not query.plus else np.argsort(-cosines, kind="stable")
            return _Judged(_first_of_items([_Place(int(found[place]), None) for place in order], gallery))
        pairs = {name: self.scores.pairs.get((asked, name)) for name in sorted(set(kinds))}
        offsets = np.zeros(len(found), np.float32)
        for name, pair in pairs.items():
            if pair is not None:
                mine = np.array([kind == name for kind in kinds], dtype=bool)
                offsets[mine] = pair.offsets(gallery.rows.vectors[found[mine]], gallery.owners[found[mine]])
        judgement = self.scores.judge(
            vector,
            asked,
            gallery.rows.vectors[found],
            kinds,
            offsets=offsets,
            sizes={name: len(rows) for name, rows in gallery.by_modality.items()},
            min_probability=None if min_probability == "auto" else min_probability,
        )
        if judgement.threshold is None or not query.is_plain:  # probabilities were learned from plain queries
            if min_probability is not None:
                raise SpaceError(
                    "these hits have no probability, so there is no least one: "
                    + (
                        f"none was learned for {asked} queries and all of {', '.join(sorted(set(kinds)))}"
                        if query.is_plain
                        else "the query is made of several parts"
                    )
                )
            order = judgement.order if judgement.threshold is None else np.argsort(-judgement.standard, kind="stable")
            return _Judged(_first_of_items([_Place(int(found[place]), None) for place in order], gallery))
        shown = judgement.shown if min_probability is not None else judgement.order
        places = [_Place(int(found[place]), float(judgement.probability[place])) for place in shown]
        rates = [
            pair.relevance.rates(judgement.threshold)["foreign"]
            for pair in pairs.values()
            if pair is not None and pair.relevance is not None
        ]
        return _Judged(
            _first_of_items(places, gallery), judgement.found, judgement.threshold, max(rates) if rates else None
        )

    def _with_words(
        self,
        words: str,
        vector: Float[np.ndarray, " dim"],
        gallery: _Gallery,
        among: Bool[np.ndarray, " rows"] | None,
        ranked: list[_Place],
        wanted: int,
    ) -> list[_Place]:
        """The ranking fused with that of the items that hold the words."""
        from chiasm.retrieval.hybrid import Found, reciprocal_rank_fusion

        full_text = self.full_text
        if not full_text.is_current():
            full_text.update()
        may = np.ones(len(gallery.names), dtype=bool)
        if among is not None:
            may = np.zeros(len(gallery.names), dtype=bool)
            may[gallery.items[among]] = True
        allowed = {gallery.names[number] for number in np.flatnonzero(may)}
        said = full_text.search(words, k=wanted, among=allowed)
        if not len(said):
            return ranked
        by_item = {int(gallery.items[place.row]): place for place in ranked}
        covered = full_text.covered()
        heard = np.array([gallery.numbers[item] for item in said.items], dtype=np.int64)
        covers = np.array([name in covered for name in gallery.names], dtype=bool)
        covers[heard] = True
        near = np.array(list(by_item), dtype=np.int64)
        fused = reciprocal_rank_fusion(
            [
                Found(near, np.arange(len(near), 0, -1, dtype=np.float64)),
                Found(heard, said.scores, covers),
            ]
        )
        places = []
        for item in fused.rows.tolist():
            if item not in by_item:  # found by its words alone: shown by its nearest file
                rows = gallery.rows_of(item)
                rows = rows if among is None else rows[among[rows]]
                by_item[item] = _Place(int(rows[(gallery.rows.vectors[rows] @ vector).argmax()]), None)
            places.append(by_item[item])
        return places

    @cached_property
    def full_text(self) -> Any:
        """The words of the collection."""
        from chiasm.fulltext import FullText

        by_words = self.space.starts.get("audio") == "words"
        heard = [self.space.fingerprints["audio"]] if by_words else []
        return FullText(self.collection, heard=heard)

    def _reranked(self, query: Query, gallery: _Gallery, ranked: list[_Place], model: str) -> list[_Place]:
        if not query.words:
            raise SpaceError("a reranker reads the words of the query, and it has none. Add a text, or leave it out")
        if model not in self._rerankers:
            from chiasm.retrieval.rerank import Reranker

            self._rerankers[model] = Reranker(model, device=self._device)
        first = ranked[:RERANKED]
        rows = {str(row["id"]): row for row in self.collection.items(ids=[gallery.rows.items[p.row] for p in first])}
        texts = [_text_of(gallery, place.row, rows.get(gallery.rows.items[place.row])) for place in first]
        given = [None if text is None else Text(text) for text in texts]
        order = self._rerankers[model].rerank(Text(query.words), given, limit=RERANKED).order
        return [first[place] for place in order] + ranked[RERANKED:]

    def _hits(self, places: Sequence[_Place], vector: Float[np.ndarray, " dim"], gallery: _Gallery) -> tuple[Hit, ...]:
        rows = {str(row["id"]): row for row in self.collection.items(ids=[gallery.rows.items[p.row] for p in places])}
        hits = []
        for place in places:
            item = rows.get(gallery.rows.items[place.row])
            if item is not None:  # else removed meanwhile
                hits.append(_hit(gallery, place, vector, item))
        return tuple(hits)


@dataclass(frozen=True)
class _Place:
    """A row that was found."""

    row: int
    probability: float | None


@dataclass(frozen=True)
class _Judged:
    hits: list[_Place]
    found: bool | None = None
    threshold: float | None = None
    false_hit_rate: float | None = None


def _first_of_items(places: Sequence[_Place], gallery: _Gallery) -> list[_Place]:
    first: dict[int, _Place] = {}
    for place in places:
        first.setdefault(int(gallery.items[place.row]), place)
    return list(first.values())


def _text_of(gallery: _Gallery, row: int, item: Mapping[str, Any] | None) -> str | None:
    """What a hit says: its own text or transcript, else the item's first text that stands in its manifest."""
    if gallery.rows.texts[row]:
        return gallery.rows.texts[row]
    texts = [] if item is None else [value for value in item["text"] or [] if not Path(value).is_absolute()]
    return texts[0] if texts else None


def _hit(gallery: _Gallery, place: _Place, vector: Float[np.ndarray, " dim"], item: Mapping[str, Any]) -> Hit:
    row, rows = place.row, gallery.rows
    kind, number = rows.slots[row].split("/")
    value = item[kind][int(number)]
    inline = kind == "text" and not Path(value).is_absolute()
    own = gallery.rows_of(int(gallery.items[row]))
    same = own[[rows.slots[other] == rows.slots[row] and not np.isnan(rows.starts[other]) for other in own]]
    cosines = rows.vectors[same] @ vector
    spans = tuple(
        Span(float(rows.starts[other]), float(rows.ends[other]), float(cosines[at]), rows.texts[other])
        for at in np.argsort(-cosines, kind="stable")[:SPANS]
        for other in (same[at],)
    )
    if np.isnan(rows.starts[row]) and len(same) and cosines.max() >= rows.vectors[row] @ vector - 1e-6:
        row = int(same[cosines.argmax()])  # all that was found of the file is this moment of it
    whole = bool(np.isnan(rows.starts[row]))
    return Hit(
        id=rows.items[row],
        modality=gallery.kinds[row],
        score=float(rows.vectors[row] @ vector),
        path=None if inline else value,
        text=value if inline else rows.texts[row],
        start=None if whole else float(rows.starts[row]),
        end=None if whole else float(rows.ends[row]),
        probability=place.probability,
        moments=spans,
        metadata={name: item[name] for name in item if name not in {"id", *MODALITIES}},
    )


# -------------------------------------------------------------------------------------------------- scores of a space


def save_scores(folder: Path, model: Any) -> None:
    """Keep what scores are worth in the folder of a space."""
    fields, arrays = model.state()
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(folder / "scores.safetensors"))
    write_whole(folder / "scores.json", json.dumps(fields, indent=2) + "\n")


def load_scores(folder: Path) -> Any:
    """What `save_scores` kept; None where nothing was.

    Raises:
        SpaceError: it is damaged or of another version.
    """
    from chiasm.retrieval.scores import ScoreModel

    path = folder / "scores.json"
    if not path.exists():
        return None
    try:
        return ScoreModel.from_state(
            json.loads(path.read_text(encoding="utf-8")), load_file(folder / "scores.safetensors")
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise SpaceError(f"the scores in {folder} cannot be read: {error}. Align again") from error
