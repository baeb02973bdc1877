"""From a question to hits: one object that everything searches through, for a single query or for a server.

A `Searcher` holds a collection, its encoders, a space and the collection's vectors in it. What is asked with, how
rankings are corrected, fused, reranked and spread is in `chiasm.retrieval`; this module brings it to one collection's
files, in this order: the query as one vector, candidates of every modality, what their scores are worth across
modalities, the words of the query, a reranker, diversity, the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from chiasm import encoders
from chiasm.encoders.runtime import Device
from chiasm.errors import CollectionError, SpaceError
from chiasm.space import Space, start_space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Media, Modality, Text
from chiasm.verbs.dataset import (
    fingerprints_of,
)

if TYPE_CHECKING:
    from chiasm.retrieval.scores import ScoreModel


import json
import shutil
from bisect import bisect_right
from collections import Counter
from functools import cached_property
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING

from jaxtyping import Bool
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chiasm import media
from chiasm.encoders.base import Encoder
from chiasm.files import write_whole
from chiasm.media import Limits
from chiasm.retrieval.diversity import diversify
from chiasm.retrieval.gallery import APPROXIMATE_BYTES, Index
from chiasm.retrieval.index import ExactIndex, Hit, Ranking, Span
from chiasm.retrieval.metrics import METRICS, InnerProduct, MahalanobisIndex, Metric
from chiasm.retrieval.query import compose, more_like
from chiasm.space import saved_spaces
from chiasm.store.collection import Vectors
from chiasm.types import Outcome
from chiasm.vectors import unit_rows

if TYPE_CHECKING:
    from chiasm.retrieval.hybrid import Found
    from chiasm.retrieval.scores import Judgement, ScoreModel

START = "start"
WEIGHT_FILE = "fusion.json"  # in the folder of a space
CANDIDATES = 200  # of each modality, and of the words, that are looked at for the first half as many hits
RERANKED = 50  # candidates that a reranker reads
SPANS = 5  # moments of one file that a hit names
CARDS = 20_000  # rows of items that are remembered
PREPARED = 10_000  # vectors of queries of which it is remembered in which space they are
MOST = 10_000  # hits that can be asked for, with those of the pages before


Order: TypeAlias = Metric | Literal["auto"]
"""What hits are ordered by: a metric, or what the space has learned scores to be worth, and cosine where it has not."""


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
    def modality(self) -> Modality:
        """What its scores are judged as: text where it has words, or goes by items alone."""
        return "text" if not self.plus or self.words else self.plus[0].modality

    @property
    def goes_by_items(self) -> bool:
        """Whether it says what is wanted by items alone."""
        return bool(self.like) and not self.plus

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
    """The probability that the best hit of 97.5 % of the questions with an answer reaches, or as was asked."""
    false_hit_rate: float | None = None
    """The share of questions without an answer here whose best hit reaches it all the same, on held-out pairs."""
    fusion: Literal["ranks", "weight"] | None = None
    """How vectors and words were fused: by reciprocal ranks or by a learned weight; None where words did not count."""
    word_weight: float | None = None
    """The learned weight of the words, from 0 to 1 (vectors have the rest), where they were fused by it."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: metadata columns stand beside the fields of a hit."""
        rows = []
        for hit in self.hits:
            fields = asdict(hit)
            rows.append({**fields.pop("metadata"), **fields})
        numbers = {"found": self.found, "threshold": self.threshold, "false_hit_rate": self.false_hit_rate}
        fusion = {"fusion": self.fusion, "word_weight": self.word_weight}
        return {"space": self.space, **numbers, **fusion, "hits": rows}


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
        spaces_of(collection),
    )


# ------------------------------------------------------------------------------------------- spaces of a collection


def spaces_of(collection: Collection) -> tuple[str, ...]:
    """Names of the saved spaces that go with the collection's encoder, oldest first.

    Those that were learned with an encoder that was replaced (`Collection.reembed`) stay on disk and are passed over: they
    are of use again when the collection is re-embedded with it.
    """
    folder = collection.path / "spaces"
    generation = collection.generation
    names = saved_spaces(folder)
    if not generation.since:
        return names
    fits = {START}
    for name in names:
        header = json.loads((folder / name / "space.json").read_text(encoding="utf-8"))
        if header["created"] >= generation.since or header["fingerprints"] == dict(generation.fingerprints):
            fits.add(name)
    return tuple(name for name in names if name in fits)


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
        SpaceError: there is none of that name, or it was learned with an encoder that was replaced.
    """
    names = spaces_of(collection)
    if name is None:
        name = names[-1] if names else START
    if name == START:
        return start_of(collection, networks)
    if name not in names and name in saved_spaces(collection.path / "spaces"):
        raise SpaceError(
            f"the space {name!r} was learned with another encoder than the collection has now ({collection.encoder!r}), "
            f"which places vectors elsewhere. Align again: chiasm align {collection.path} --name {name}"
        )
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
    """Delete vectors and indexes of spaces and encoders that were replaced, some time after."""
    folder = collection.path / "spaces"
    digests = [Space.load(folder / name).digest for name in spaces_of(collection)]
    collection.drop_replaced()
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
    def filled(self) -> Bool[np.ndarray, " rows"]:
        """Rows in which an encoder found something; the others are zero, and have a distance to nothing."""
        return np.asarray(self.rows.vectors.any(axis=1))

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
        parts = [unit_rows(self.rows.vectors[rows[spoken == kind]].mean(axis=0)[None])[0] for kind in np.unique(spoken)]
        unit: Float[np.ndarray, " dim"] = unit_rows(np.mean(parts, axis=0)[None])[0]
        return unit


def owner_number(name: str) -> int:
    """A number of 63 bits for an item's id."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


@dataclass(frozen=True, eq=False)
class _State:
    """What a search reads. It is replaced as one, so that no search sees half of a refresh."""

    space: Space
    scores: ScoreModel | None
    gallery: _Gallery
    seen: tuple[Any, ...]  # what it was made from, see `Searcher._now`
    folder: Path  # of the space
    collection: Collection
    networks: Sequence[Encoder]
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)  # rows of items that were read, by id
    _offsets: dict[tuple[Modality, Modality], Float[np.ndarray, " rows"]] = field(default_factory=dict)
    _whitened: dict[Modality, MahalanobisIndex] = field(default_factory=dict)

    @cached_property
    def word_weight(self) -> float | None:
        """How much words count in hybrid search, where that was learned.

        Read when it is first needed: a damaged file is in the way of nothing but hybrid search, and not of learning anew.
        """
        return load_weight(self.folder, self.space)

    def offsets(
        self, asked: Modality, searched: Modality, rows: Int[np.ndarray, " some"]
    ) -> Float[np.ndarray, " some"]:
        """What hubness takes off rows of one modality, where that was learned.

        Each is compared with a bank of up to 2,000 queries, so it is computed when a row is first a candidate and kept.
        """
        pair = self.scores.pairs.get((asked, searched)) if self.scores is not None else None
        if pair is None:
            return np.zeros(len(rows), np.float32)
        gallery = self.gallery
        known = self._offsets.setdefault((asked, searched), np.full(len(gallery.rows), np.nan, np.float32))
        new = rows[np.isnan(known[rows])]
        if len(new):
            known[new] = pair.offsets(gallery.rows.vectors[new], gallery.owners[new])
        found: Float[np.ndarray, " some"] = known[rows]
        return found

    def whitened(self, modality: Modality) -> MahalanobisIndex:
        """A search by Mahalanobis distance among the rows of one modality, made when it is first asked for.

        Raises:
            SpaceError: the modality has too few vectors.
        """
        if modality not in self._whitened:
            gallery = self.gallery
            chosen = gallery.by_modality[modality]
            index = gallery.indexes[modality]
            owners = gallery.items[chosen]
            try:
                self._whitened[modality] = (
                    MahalanobisIndex(index.vectors, owners)
                    if isinstance(index, ExactIndex)
                    else MahalanobisIndex(gallery.rows.vectors, owners, rows=chosen)
                )
            except SpaceError as error:
                raise SpaceError(
                    f"Mahalanobis distance needs two different vectors of {modality} or more, to know how they are spread "
                    f"({error}). Add files, search in another modality, or take another metric"
                ) from error
        return self._whitened[modality]


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
        self._asked_for = space
        self._device: Device = device
        self._rerankers: dict[str, Any] = {}
        self._prepared: dict[bytes, str] = {}  # digests of vectors -> the space that they were made in
        self._preparing = Lock()
        opened = Collection.open(collection)
        self._state = self._loaded(opened, encoders.resolve(opened.encoder, device=device))

    @property
    def collection(self) -> Collection:
        """That is searched, as of the last refresh."""
        return self._state.collection

    @property
    def networks(self) -> Sequence[Encoder]:
        """The encoders of the collection."""
        return self._state.networks

    @property
    def space(self) -> Space:
        """That is searched in."""
        return self._state.space

    @property
    def scores(self) -> ScoreModel | None:
        """What scores are worth in it; None where that was not learned."""
        return self._state.scores

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What can be searched with."""
        return self.space.modalities

    def refresh(self) -> bool:
        """Take over what was added, removed, aligned or re-embedded since. Gives whether there was anything; cheap where not.

        Raises:
            SpaceError: the space that was asked for by name is gone, or was learned with an encoder that was replaced. The
                searcher goes on with what it has.
        """
        state = self._state
        opened = Collection.open(state.collection.path)
        if self._now(opened) == state.seen:
            return False
        networks = state.networks
        if opened.encoder != state.collection.encoder:
            networks = encoders.resolve(opened.encoder, device=self._device)
        self._state = self._loaded(opened, networks)
        return True

    def _now(self, collection: Collection) -> tuple[Any, ...]:
        """Equal as long as the collection and the space, by name, content, scores and weight of words, are the same."""
        spaces = collection.path / "spaces"
        name = self._asked_for or next(reversed(spaces_of(collection)), START)
        files = [spaces / name / file for file in ("space.json", "scores.json", WEIGHT_FILE)]
        stats = [file.stat() if file.exists() else None for file in files]
        return collection.version, name, *(stat and (stat.st_ino, stat.st_mtime_ns) for stat in stats)

    def _loaded(self, collection: Collection, networks: Sequence[Encoder]) -> _State:
        seen = self._now(collection)  # first: what changes while the rest is read is seen by the next refresh
        space = space_of(collection, networks, self._asked_for)
        folder = collection.path / "spaces" / space.name
        gallery = _Gallery.of(collection, space)
        return _State(space, load_scores(folder), gallery, seen, folder, collection, networks)

    def status(self) -> Status:
        """What the collection holds."""
        return status_of(self.collection)

    # --------------------------------------------------------------------------------------------- items and files

    def items(self, *, after: str | None = None, limit: int = 100, where: str | None = None) -> list[dict[str, Any]]:
        """Rows of items in the order of their ids, those after an id."""
        ids = self.collection.ids(where=where)
        first = 0 if after is None else bisect_right(ids, after)
        found = {str(row["id"]): row for row in self.collection.items(ids=ids[first : first + limit])}
        return [found[name] for name in ids[first : first + limit] if name in found]

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
        state = self._state
        encoder = state.space.encoder(media.sniff(path), state.networks)
        view = encoder.view
        return media.load(
            path, image_size=view.image_size, rate=view.rate, frames=view.frames, fps=view.fps, limits=limits
        )

    def prepare(self, given: Sequence[Media]) -> Float[np.ndarray, "n dim"]:
        """Unit vectors of opened media: what costs most of a search.

        Raises:
            SpaceError: a modality that the space lacks, or nothing in a medium that can be embedded.
        """
        state = self._state
        vectors = _embedded(given, state.space, state.networks)
        with self._preparing:
            for key in _keys_of(vectors):
                self._prepared[key] = state.space.digest
            while len(self._prepared) > PREPARED:
                del self._prepared[next(iter(self._prepared))]
        return vectors

    def search(
        self,
        query: Query,
        *,
        k: int = 10,
        offset: int = 0,
        modality: Modality | None = None,
        where: str | None = None,
        min_probability: float | Literal["auto"] | None = None,
        metric: Order = "auto",
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
            metric: order hits by `"cosine"`, `"dot"`, `"l2"` or `"mahalanobis"` alone: their score is its value, distances
                with a minus sign, and they have no probability. An item in `Query.like` is then compared with files, as
                one vector. Mahalanobis distance is that of the modality of each row, and compares with every row, also
                where there is a kept index. Default: what the space has learned scores to be worth, and cosine where it
                has not.
            hybrid: go by the query's words in texts, transcripts and columns, too (BM25), by the weight that was learned
                for them in this space (`chiasm.weigh`), else by reciprocal ranks. Also by these where a metric is
                named: the weight was learned for the scores that the space takes by itself.
            rerank: a cross-encoder that reads the query and the texts of the first 50 hits, by hub id or folder.
            diversity: from 0 to 1, how much hits are to differ from those before them.

        Raises:
            SpaceError: nothing to look for, a modality that the space lacks, a probability where there are none, no such
                metric, or too few vectors of a modality for its Mahalanobis distance.
            CollectionError: k or offset out of range, `where` is malformed, or the collection has no vectors.
        """
        if k < 1 or offset < 0 or k + offset > MOST:
            raise CollectionError(
                f"k must be at least 1, offset at least 0 and both together at most {MOST}; got {k} and {offset}"
            )
        if not 0 <= diversity <= 1:
            raise CollectionError(f"diversity is a number from 0 to 1; got {diversity}")
        if metric != "auto" and metric not in METRICS:
            raise SpaceError(f"there is no metric {metric!r}. There are auto, {', '.join(METRICS)}")
        if metric != "auto" and min_probability is not None:
            raise SpaceError(
                f"hits in the order of {metric} have no probability, so there is no least one: probabilities are learned "
                "for the order that the space takes by itself. Leave out the metric, or the least probability"
            )
        state = self._state
        space, gallery = state.space, state.gallery
        if modality is not None and modality not in space.modalities:
            raise SpaceError(f"the space {space.name!r} has {', '.join(space.modalities)}; cannot find by {modality!r}")
        self._refuse_empty(state)
        fuses = hybrid and bool(query.words)
        weight = state.word_weight if fuses and metric == "auto" else None
        vector = self._vector(query, state)
        among = self._among(query, gallery, modality, where)
        near = _nearness(vector, metric, state, among)
        ranked: list[_Place] = []
        pool = CANDIDATES
        while True:  # more candidates for pages further on, behind those of the pages before, which stay as they were
            found = self._candidates(query, near, state, among, pool)
            last = pool >= 2 * (k + offset) or len(found) < pool
            judged = self._judged(query, near, state, found, min_probability)
            places = judged.hits
            if fuses:
                only = None if min_probability is None else places
                places = self._with_words(query.words, near, state, among, places, pool, only, weight)
            if rerank is not None and not ranked:
                places = self._reranked(query, state, places, rerank)
            if diversity:
                places = _spread(places[:pool], gallery, diversity, most=k + offset if last else pool // 2)
            before = {gallery.items[place.row] for place in ranked}
            ranked += [place for place in places if gallery.items[place.row] not in before]
            if last:
                break
            ranked, pool = ranked[: pool // 2], 2 * pool
        hits = self._hits(ranked[offset : offset + k], near, state)
        fusion: Literal["ranks", "weight"] | None = None
        if fuses:
            fusion = "ranks" if weight is None else "weight"
        return SearchResult(
            space.name, hits, judged.found, judged.threshold, judged.false_hit_rate, fusion=fusion, word_weight=weight
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Ids of the items that can be found; their places are the row numbers of `rankings`."""
        return self._state.gallery.names

    def rankings(self, words: str) -> tuple[Found, Found]:
        """The two rankings that the first page of `search(hybrid=True)` fuses for a query in words: by vectors, by words.

        Raises:
            SpaceError: nothing in the words can be embedded, or the space lacks text.
            CollectionError: the collection has no vectors.
        """
        state = self._state
        self._refuse_empty(state)
        query = Query((Text(words),))
        near = _nearness(self._vector(query, state), "auto", state, None)
        found = self._candidates(query, near, state, None, CANDIDATES)
        return self._both(words, state, None, self._judged(query, near, state, found, None).hits, CANDIDATES, None)

    # -------------------------------------------------------------------------------------------------- step by step

    def _refuse_empty(self, state: _State) -> None:
        if not len(state.gallery.rows):
            path = self.collection.path
            raise CollectionError(f"{path} has no embedded files. Add some: chiasm add PATH --to {path}")

    def _vector(self, query: Query, state: _State) -> Float[np.ndarray, " dim"]:
        gallery = state.gallery
        if not (query.plus or query.like):
            what = "only what is not wanted" if query.minus else "nothing"
            raise SpaceError(f"a search needs a text, an image, a sound, a video or an item to go by; got {what}")
        given = (*query.plus, *query.minus)
        vectors = query.vectors
        if vectors is None:
            vectors = _embedded(given, state.space, state.networks)
        elif len(vectors) != len(given):
            raise SpaceError(f"a query of {len(given)} media need as many vectors; got {len(vectors)}")
        elif any(self._prepared.get(key, state.space.digest) != state.space.digest for key in _keys_of(vectors)):
            vectors = _embedded(given, state.space, state.networks)  # prepared before a refresh, in another space
        parts = [*vectors[: len(query.plus)], *(gallery.vector_of(name) for name in query.like)]
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
            allowed = set(self.collection.ids(where=where))
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
        near: _Nearness,
        state: _State,
        among: Bool[np.ndarray, " rows"] | None,
        wanted: int,
    ) -> Int[np.ndarray, " rows"]:
        """Rows that are nearest to the query, best first: of each modality the best of each item."""
        gallery = state.gallery
        alone = len(query.like) == 1 and not (query.plus or query.minus or query.liked or query.disliked)
        if alone and near.metric == "auto":
            (item,) = query.like
            ranking = more_like(
                gallery.rows.vectors, gallery.rows.items, gallery.rows.modalities, item=item, k=wanted, among=among
            )
            alike: Int[np.ndarray, " rows"] = ranking.rows[0][ranking.rows[0] >= 0]
            return alike
        if near.metric == "l2" and not gallery.filled.all():
            among = gallery.filled if among is None else among & gallery.filled
        parts = [np.zeros(0, np.int64)]
        for name in near.searched:
            rows = gallery.by_modality[name]
            # All vectors have unit length, so the order by inner product is that by cosine and by Euclidean distance.
            index = state.whitened(name) if near.metric == "mahalanobis" else gallery.indexes[name]
            ranking = index.search(near.vector[None], k=wanted, among=None if among is None else among[rows])
            parts.append(rows[ranking.rows[0][ranking.rows[0] >= 0]])
        nearest = np.concatenate(parts)
        found: Int[np.ndarray, " rows"] = nearest[np.argsort(-near.of(nearest), kind="stable")]
        return found

    def _judged(
        self,
        query: Query,
        near: _Nearness,
        state: _State,
        found: Int[np.ndarray, " rows"],
        min_probability: float | Literal["auto"] | None,
    ) -> _Judged:
        """Candidates in the order of what their scores are worth, or of the metric; of each item the best."""
        gallery = state.gallery
        plainly = near.metric != "auto" or query.goes_by_items
        judgement = None if plainly else _judgement(query, near.vector, state, found, min_probability)
        if judgement is not None and query.is_plain and (judgement.threshold is not None or not len(found)):
            shown = judgement.shown if min_probability is not None else judgement.order
            odds = _log_odds(judgement.probability)
            places = [
                _Place(int(found[place]), float(judgement.probability[place]), float(odds[place])) for place in shown
            ]
            rate = _false_hit_rate(query, state, found, judgement.threshold)
            return _Judged(_first_of_items(places, gallery), bool(judgement.found), judgement.threshold, rate)
        if min_probability is not None:
            raise SpaceError(_no_probability(query, state, found))
        # Probabilities were learned from plain queries; standard scores hold for any.
        standard = judgement is not None and not np.isnan(judgement.standard).any()
        worth = judgement.standard if judgement is not None and standard else near.of(found)
        order = np.arange(len(found)) if judgement is None else np.argsort(-worth, kind="stable")
        return _Judged(
            _first_of_items([_Place(int(found[place]), None, float(worth[place])) for place in order], gallery)
        )

    def _with_words(
        self,
        words: str,
        near: _Nearness,
        state: _State,
        among: Bool[np.ndarray, " rows"] | None,
        ranked: list[_Place],
        wanted: int,
        only: Sequence[_Place] | None,
        weight: float | None,
    ) -> list[_Place]:
        """The ranking fused with that of the items that hold the words; of these, `only` some may be found."""
        from chiasm.retrieval.hybrid import reciprocal_rank_fusion, weighted_fusion

        gallery = state.gallery
        both = self._both(words, state, among, ranked, wanted, only)
        if not len(both[1].rows):
            return ranked
        fused = reciprocal_rank_fusion(both) if weight is None else weighted_fusion(both, weights=(1 - weight, weight))
        by_item = {int(gallery.items[place.row]): place for place in ranked}
        places = []
        for item in fused.rows.tolist():
            if item not in by_item:  # found by its words alone: shown by its nearest file
                rows = gallery.rows_of(item)
                rows = rows if among is None else rows[among[rows]]
                by_item[item] = _Place(int(rows[near.of(rows).argmax()]), None)
            places.append(by_item[item])
        return places

    def _both(
        self,
        words: str,
        state: _State,
        among: Bool[np.ndarray, " rows"] | None,
        ranked: Sequence[_Place],
        wanted: int,
        only: Sequence[_Place] | None,
    ) -> tuple[Found, Found]:
        """What is fused: a ranking by vectors, and that of the items that hold the words. Rows are numbers of items."""
        from chiasm.retrieval.hybrid import Found

        gallery = state.gallery
        nearest = gallery.items[np.array([place.row for place in ranked], dtype=np.int64)]
        # The same number, computed for other rows beside it, may differ in its last digit.
        by_vectors = Found(nearest, np.minimum.accumulate(np.array([place.worth for place in ranked], np.float64)))
        full_text = self.full_text
        if not full_text.is_current():
            full_text.update()
        if only is not None:
            may = gallery.items[[place.row for place in only]]
        elif among is not None:
            may = np.unique(gallery.items[among])
        else:
            may = np.arange(len(gallery.names))
        allowed = {gallery.names[number] for number in may.tolist()}
        said = full_text.search(words, k=wanted, among=lambda _: allowed)
        heard = np.array([gallery.numbers[item] for item in said.items], dtype=np.int64)
        if not len(said):
            return by_vectors, Found(heard, said.scores)
        covered = full_text.covered()
        covers = np.array([name in covered for name in gallery.names], dtype=bool)
        covers[heard] = True
        return by_vectors, Found(heard, said.scores, covers)

    @property
    def full_text(self) -> Any:
        """The words of the collection (a `FullText`), and those that are heard where speech goes by words."""
        from chiasm.store.words import FullText

        space = self.space
        by_words = space.starts.get("audio") == "words"
        return FullText(self.collection, heard=[space.fingerprints["audio"]] if by_words else [])

    def _reranked(self, query: Query, state: _State, ranked: list[_Place], model: str) -> list[_Place]:
        if not query.words:
            raise SpaceError("a reranker reads the words of the query, and it has none. Add a text, or leave it out")
        if model not in self._rerankers:
            from chiasm.retrieval.rerank import Reranker

            self._rerankers[model] = Reranker(model, device=self._device)
        first = ranked[:RERANKED]
        rows = self._cards(state, first)
        gallery = state.gallery
        texts = [_text_of(gallery, place.row, rows.get(gallery.rows.items[place.row])) for place in first]
        given = [None if text is None else Text(text) for text in texts]
        order = self._rerankers[model].rerank(Text(query.words), given, limit=RERANKED).order
        return [first[place] for place in order] + ranked[RERANKED:]

    def _cards(self, state: _State, places: Sequence[_Place]) -> dict[str, dict[str, Any]]:
        """Rows of items by id, those that are there; kept until a refresh: they take longer to read than to find."""
        names = dict.fromkeys(state.gallery.rows.items[place.row] for place in places)
        found = {name: row for name in names if (row := state.cards.get(name)) is not None}
        missing = [name for name in names if name not in found]
        if missing:
            new = {str(row["id"]): row for row in self.collection.items(ids=missing)}
            if len(state.cards) + len(new) > CARDS:
                state.cards.clear()
            state.cards.update(new)
            found |= new
        return found

    def _hits(self, places: Sequence[_Place], near: _Nearness, state: _State) -> tuple[Hit, ...]:
        rows, gallery = self._cards(state, places), state.gallery
        found = [(place, rows.get(gallery.rows.items[place.row])) for place in places]
        return tuple(
            _hit(gallery, place, near, item)
            for place, item in found
            if item is not None and _value_of(gallery, place.row, item) is not None  # else removed meanwhile
        )


@dataclass(frozen=True, eq=False)
class _Nearness:
    """How near rows are to one query: what orders candidates, and what stands beside hits.

    Attributes:
        vector: the query.
        metric: what was asked for.
        searched: modalities of which any row may be found.
        ways: how rows of each of them are compared; none for `"auto"`, which is by cosine.
        gallery: the rows.
    """

    vector: Float[np.ndarray, " dim"]
    metric: Order
    searched: tuple[Modality, ...]
    ways: Mapping[Modality, InnerProduct]
    gallery: _Gallery

    def of(self, rows: Int[np.ndarray, " some"]) -> Float[np.ndarray, " some"]:
        """A number a row, higher is nearer: cosines and products as they are, distances with a minus sign."""
        vectors = self.gallery.rows.vectors[rows]
        if not self.ways:
            cosines: Float[np.ndarray, " some"] = vectors @ self.vector
            return cosines
        # In double precision: the distance of a vector to itself is to be 0.
        found, asked = np.zeros(len(rows)), self.vector[None].astype(np.float64)
        kinds = np.array([self.gallery.rows.modalities[row] for row in rows.tolist()], dtype="<U5")
        for kind, way in self.ways.items():
            mine = kinds == kind
            found[mine] = way.compare(asked, vectors[mine].astype(np.float64))[0]
        return found


def _nearness(
    vector: Float[np.ndarray, " dim"], metric: Order, state: _State, among: Bool[np.ndarray, " rows"] | None
) -> _Nearness:
    gallery = state.gallery
    searched = tuple(name for name, rows in gallery.by_modality.items() if among is None or bool(among[rows].any()))
    ways: dict[Modality, InnerProduct] = {}
    if metric != "auto":
        for name in searched:
            ways[name] = InnerProduct(metric, state.whitened(name).whitening if metric == "mahalanobis" else None)
    return _Nearness(vector, metric, searched, ways, gallery)


@dataclass(frozen=True)
class _Place:
    """A row that was found."""

    row: int
    probability: float | None
    worth: float = -np.inf
    """What rows are ordered by: log-odds, standard score, or the number of a metric; all rise with similarity about
    evenly, as probabilities do not. Nothing for an item that was found by its words alone."""


@dataclass(frozen=True)
class _Judged:
    hits: list[_Place]
    found: bool | None = None
    threshold: float | None = None
    false_hit_rate: float | None = None


def _log_odds(probability: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    """Those of probabilities, finite also where they are 0 or 1 up to rounding."""
    inside = np.clip(probability, 1e-12, 1 - 1e-12)
    odds: Float[np.ndarray, " rows"] = np.log(inside / (1 - inside))
    return odds


def _keys_of(vectors: Float[np.ndarray, "n dim"]) -> list[bytes]:
    return [blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors]


def _embedded(given: Sequence[Media], space: Space, networks: Sequence[Encoder]) -> Float[np.ndarray, "n dim"]:
    for medium in given:
        if isinstance(medium, Text) and not medium.text.strip():
            raise SpaceError("the query is empty. Say in words what to look for")
    return space.embed(given, networks)


def _judgement(
    query: Query,
    vector: Float[np.ndarray, " dim"],
    state: _State,
    found: Int[np.ndarray, " rows"],
    min_probability: float | Literal["auto"] | None,
) -> Judgement | None:
    """What the scores of candidates are worth; None where nothing was learned about scores."""
    if state.scores is None:
        return None
    gallery = state.gallery
    kinds = [gallery.rows.modalities[row] for row in found]
    offsets = np.zeros(len(found), np.float32)
    for name in set(kinds):
        mine = np.array([kind == name for kind in kinds], dtype=bool)
        offsets[mine] = state.offsets(query.modality, name, found[mine])
    return state.scores.judge(
        vector,
        query.modality,
        gallery.rows.vectors[found],
        kinds,
        offsets=offsets,
        sizes={name: len(rows) for name, rows in gallery.by_modality.items()},
        items=len(gallery.names),
        min_probability=None if min_probability == "auto" else min_probability,
    )


def _false_hit_rate(
    query: Query, state: _State, found: Int[np.ndarray, " rows"], threshold: float | None
) -> float | None:
    """Of the modality where it is highest, see `SearchResult`."""
    if state.scores is None or threshold is None:
        return None
    rates = []
    for name in sorted({state.gallery.rows.modalities[row] for row in found}):
        pair = state.scores.pairs.get((query.modality, name))
        if pair is not None and pair.relevance is not None:
            rows = len(state.gallery.by_modality[name])
            rates.append(pair.relevance.rates(threshold, rows=rows, items=len(state.gallery.names))["foreign"])
    return max(rates, default=None)


def _no_probability(query: Query, state: _State, found: Int[np.ndarray, " rows"]) -> str:
    """Why hits have none."""
    if state.scores is None:
        return (
            f"the space {state.space.name!r} has no probabilities, so there is no least one. They are learned by chiasm "
            "align from at least 10 pairs"
        )
    if query.goes_by_items:
        return "hits like an item have no probability; search with words or a file for a least one"
    why = "the query is made of several parts"
    if query.is_plain:
        kinds = sorted({state.gallery.rows.modalities[row] for row in found})
        why = f"none was learned for {query.modality} queries and all of {', '.join(kinds)}"
    return f"these hits have no probability, so there is no least one: {why}"


def _spread(places: Sequence[_Place], gallery: _Gallery, diversity: float, *, most: int) -> list[_Place]:
    """The first ones again, each unlike those before it."""
    vectors = gallery.rows.vectors[np.array([place.row for place in places], dtype=np.int64)]
    order = diversify(vectors, np.linspace(1, 0, len(places)), k=most, relevance=1 - diversity)
    return [places[place] for place in order]


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


def _value_of(gallery: _Gallery, row: int, item: Mapping[str, Any]) -> str | None:
    """The path or text that a row is of; None where the item has lost it since."""
    kind, number = gallery.rows.slots[row].split("/")
    values: Sequence[str] = item[kind] or ()
    return values[int(number)] if int(number) < len(values) else None


def _hit(gallery: _Gallery, place: _Place, near: _Nearness, item: Mapping[str, Any]) -> Hit:
    row, rows = place.row, gallery.rows
    value = _value_of(gallery, row, item)
    assert value is not None
    inline = rows.slots[row].startswith("text/") and not Path(value).is_absolute()
    own = gallery.rows_of(int(gallery.items[row]))
    same = own[[rows.slots[other] == rows.slots[row] and not np.isnan(rows.starts[other]) for other in own]]
    scores, score = near.of(same), float(near.of(np.array([row]))[0])
    spans = tuple(
        Span(float(rows.starts[other]), float(rows.ends[other]), float(scores[at]), rows.texts[other])
        for at in np.argsort(-scores, kind="stable")[:SPANS]
        for other in (same[at],)
    )
    if np.isnan(rows.starts[row]) and len(same) and scores.max() >= score - 1e-6:
        row, score = (
            int(same[scores.argmax()]),
            float(scores.max()),
        )  # all that was found of the file is this moment of it
    whole = bool(np.isnan(rows.starts[row]))
    return Hit(
        id=rows.items[row],
        modality=gallery.kinds[row],
        score=score,
        path=None if inline else value,
        text=value if inline else rows.texts[row],
        start=None if whole else float(rows.starts[row]),
        end=None if whole else float(rows.ends[row]),
        probability=place.probability,
        moments=spans,
        number=int(rows.slots[row].split("/")[1]),
        metadata={name: item[name] for name in item if name not in {"id", *MODALITIES}},
    )


# -------------------------------------------------------------------------------------------------- scores of a space


def save_scores(folder: Path, model: ScoreModel) -> None:
    """Keep what scores are worth in the folder of a space.

    `scores.json` is taken away first and written last: whoever reads meanwhile, or after a crash, finds all or none.
    """
    fields, arrays = model.state()
    (folder / "scores.json").unlink(missing_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(folder / "scores.safetensors"))
    write_whole(folder / "scores.json", json.dumps(fields, indent=2) + "\n")


def load_scores(folder: Path) -> ScoreModel | None:
    """What `save_scores` kept; None where nothing was, or it was of a space that has been replaced since.

    Raises:
        SpaceError: it is damaged or of another version.
    """
    from chiasm.retrieval.scores import ScoreModel

    path, arrays = folder / "scores.json", folder / "scores.safetensors"
    if not path.exists() or not arrays.exists():  # saving a space clears its folder of arrays that are not its own
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"scores.json holds a {type(fields).__name__}")
        return ScoreModel.from_state(fields, load_file(arrays))
    except (OSError, ValueError, SafetensorError) as error:
        raise SpaceError(f"the scores in {folder} cannot be read: {error}. Align again") from error


# -------------------------------------------------------------------------------------- the weight of words in a space


def save_weight(folder: Path, space: Space, weight: float | None, *, about: Mapping[str, Any] | None = None) -> None:
    """Keep how much words count in hybrid search in the folder of a space; None: by reciprocal ranks, nothing is kept.

    Args:
        folder: of the space.
        space: that it was learned in; for any other it does not count.
        weight: of the words; vectors have the rest.
        about: what it was learned from, for people.

    Raises:
        SpaceError: the folder cannot be written.
    """
    path = folder / WEIGHT_FILE
    fields = {"format_version": 1, "space": space.digest, "weight": weight, **(about or {})}
    try:
        if weight is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, json.dumps(fields, indent=2) + "\n")
    except OSError as error:
        raise SpaceError(f"the weight of words cannot be written to {path}: {error}") from error


def load_weight(folder: Path, space: Space) -> float | None:
    """What `save_weight` kept; None where nothing was, or it was of a space that has been replaced since.

    Raises:
        SpaceError: it is damaged or of another version.
    """
    path = folder / WEIGHT_FILE
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format_version"] != 1:
            raise ValueError(f"it has format version {fields['format_version']} and this chiasm reads 1")
        digest, weight = fields["space"], fields["weight"]
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            raise ValueError(f"the weight is no number from 0 to 1 but {weight!r:.80}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpaceError(
            f"the weight of words in {path} cannot be read ({type(error).__name__}: {error}). Run chiasm weigh again, or "
            "delete the file: hybrid search then goes by reciprocal ranks"
        ) from error
    return float(weight) if digest == space.digest else None


Files: TypeAlias = str | Path | Sequence[str | Path] | None


def search(
    collection: str | Path,
    text: str | None = None,
    *,
    image: Files = None,
    audio: Files = None,
    video: Files = None,
    minus: str | Sequence[str] | None = None,
    minus_image: Files = None,
    like: str | Sequence[str] | None = None,
    liked: Sequence[str] = (),
    disliked: Sequence[str] = (),
    k: int = 10,
    offset: int = 0,
    modality: Modality | None = None,
    where: str | None = None,
    min_probability: float | Literal["auto"] | None = None,
    metric: Order = "auto",
    hybrid: bool = False,
    rerank: str | None = None,
    diversity: float = 0.0,
    space: str | None = None,
    device: Device = "auto",
) -> SearchResult:
    """The k items nearest to a query: words, files and items of the collection, alone or together.

    Several parts are one query: what is wanted is added up, and what is not is taken out of it. For many searches, keep a
    `chiasm.verbs.search.Searcher`.

    Args:
        collection: the collection.
        text: words to look for.
        image: a file to search with, or several.
        audio: the same.
        video: the same.
        minus: words for what is not wanted, or several of them.
        minus_image: pictures of what is not wanted.
        like: ids of items to find more like.
        liked: ids of hits of an earlier page that were right: the query moves towards them; they are not shown again.
        disliked: ids of hits of an earlier page that were wrong.
        k: hits at the most. A smaller gallery gives fewer.
        offset: hits that are passed over, for the pages after the first.
        modality: find items by their files of this modality only. Default: by any.
        where: SQL condition on the columns of the items.
        min_probability: leave out hits that are less probably relevant, from 0 to 1; `"auto"`: than what 97.5 % of the
            questions that have an answer reach. No hits are left where nothing was found.
        metric: order hits by `"cosine"`, `"dot"`, `"l2"` or `"mahalanobis"` alone. Their score is its value, distances with a
            minus sign, and they have no probability. Default: what the space has learned scores to be worth, and cosine
            where it has not.
        hybrid: go by the words of the query in texts, transcripts and columns, too (BM25), fused by the weight that `weigh`
            has learned for the space, else by reciprocal ranks. Files without words are not behind for lacking them.
        rerank: a sentence-transformers cross-encoder, hub id or folder, that reads the query and the hits' words.
        diversity: from 0 (none) to 1, how much a hit is to differ from those before it.
        space: name of the space to search in. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: the space lacks the query's modality, there is nothing to look for, no hit has a probability, or a
            modality has too few vectors for its Mahalanobis distance.
        CollectionError: `where` is malformed, k or offset are out of range, or the collection has no vectors.
        MediaError: a file of the query cannot be used.
    """
    searcher = Searcher(collection, space=space, device=device)
    files = [*_opened(searcher, "image", image), *_opened(searcher, "audio", audio), *_opened(searcher, "video", video)]
    query = Query(
        plus=(*([] if text is None else [Text(text)]), *files),
        minus=(*(Text(words) for words in _listed(minus)), *_opened(searcher, "image", minus_image)),
        like=tuple(_listed(like)),
        liked=tuple(liked),
        disliked=tuple(disliked),
    )
    return searcher.search(
        query,
        k=k,
        offset=offset,
        modality=modality,
        where=where,
        min_probability=min_probability,
        metric=metric,
        hybrid=hybrid,
        rerank=rerank,
        diversity=diversity,
    )


def _listed(given: str | Path | Sequence[str | Path] | None) -> list[Any]:
    if given is None:
        return []
    return [given] if isinstance(given, str | Path) else list(given)


def _opened(searcher: Searcher, modality: Modality, given: Files) -> list[Media]:
    """Files of a query, which have to be of the modality that they were given as."""
    found = []
    for path in _listed(given):
        medium = searcher.open(path)
        if medium.modality != modality:
            raise SpaceError(f"{path} was given as {modality} and its content is {medium.modality}")
        found.append(medium)
    return found
