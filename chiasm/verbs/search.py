"""Search: the verb, and the `Searcher` that it and the server search through.

A `Searcher` holds one state: a collection, its encoders, a space with its scores, and one version of the table of vectors
in it. Every search reads one state from beginning to end, whatever `refresh` does meanwhile. The steps are those of
`chiasm.verbs.ranking`, in this order: candidates, what their scores are worth across modalities, the words of the query, a
reranker, diversity, the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float

from chiasm import encoders, media, work
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, CollectionError, MediaError, SpaceError
from chiasm.files import one_form
from chiasm.media.limits import Limits, limits_of
from chiasm.retrieval.query import compose, rocchio
from chiasm.sealed import opened
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.store.frames import is_picture, picture_of
from chiasm.store.index import index_of
from chiasm.store.tables import one_of
from chiasm.types import Image, Media, Modality, Text
from chiasm.verbs.query import Order, Part, Query, SearchOptions, SearchResult
from chiasm.verbs.ranking import (
    FINDS_SOUNDS,
    Row,
    State,
    candidates_of,
    condition_of,
    fuse_words,
    hits_of,
    judge,
    similar_items,
    spread,
    text_of,
)
from chiasm.verbs.spaces import open_table, space_of, version_of
from chiasm.verbs.status import Status, status_of

if TYPE_CHECKING:
    from chiasm.verbs.matching import Match

CANDIDATES = 200  # of each modality, and of the words, that are ranking for the first half as many hits
RERANKED = 50  # candidates that a reranker reads
PREPARED = 10_000  # vectors of queries of which it is remembered in which space they are

Files: TypeAlias = str | Path | Sequence[str | Path] | None
_Read = TypeVar("_Read")
Pictures: TypeAlias = Any
"""Files, a picture of Pillow or an array of pixels, or several of these; None."""


# -------------------------------------------------------------------------------------------------------- the searcher


class Searcher:
    """Searches one collection in one space; `refresh` sees what was added since.

    May be called from several threads at once; encoders run in the thread that calls `prepare` or `search`.

    Args:
        collection: the collection.
        space: name of the space. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        warm: read the index of a large collection into memory at once (0.4 GB and 0.5 s for a million vectors of 384
            dimensions), for a process that answers many queries; by default the first ones read what they need.

    Raises:
        CollectionError: there is no such collection.
        SpaceError: there is no such space.
    """

    def __init__(
        self, collection: str | Path, *, space: str | None = None, device: Device = "auto", warm: bool = False
    ) -> None:
        self._space_name = space
        self._device: Device = device
        self._warm = warm
        self._rerankers: dict[str, Any] = {}
        self._prepared: dict[bytes, str] = {}  # digests of vectors -> the space that they were made in
        self._preparing = Lock()
        opened = Collection.open(collection)
        self._state = self._load(opened, encoders.resolve(opened.encoder, device=device))

    @property
    def collection(self) -> Collection:
        """The collection being searched, as of the last refresh."""
        return self._state.collection

    @property
    def networks(self) -> Sequence[Encoder]:
        """The encoders of the collection."""
        return self._state.networks

    @property
    def space(self) -> Space:
        """The space being searched."""
        return self._state.space

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities of queries."""
        return self.space.modalities

    def refresh(self) -> bool:
        """Take over what was added, removed, aligned or re-embedded since. Return whether there was anything; cheap if not.

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
        self._state = self._load(opened, networks)
        return True

    def _now(self, collection: Collection) -> tuple[Any, ...]:
        """Cache key: changes when the collection, the space or its score model changes."""
        return collection.version, *version_of(collection, self._space_name)

    def _load(self, collection: Collection, networks: Sequence[Encoder]) -> State:
        while True:
            seen = self._now(collection)  # first: what changes while the rest is read is seen by the next refresh
            try:
                saved = space_of(collection, networks, self._space_name)
                table = open_table(collection, saved.space)
                index = index_of(table)
                if self._warm:
                    index.warm()
            except (ChiasmError, OSError, ValueError):
                if self._now(collection) == seen:
                    raise
                continue  # its files were deleted meanwhile, by `remove` that forgets
            return State(seen, collection, networks, saved.space, saved.scores, table, index)

    def _reading(self, read: Callable[[State], _Read]) -> _Read:
        """Read one state; the newest one, where `remove` has forgotten items and deleted files of this one meanwhile."""
        while True:
            state = self._state
            try:
                return read(state)
            except (OSError, ValueError):
                self.refresh()
                if self._state is state:
                    raise

    def status(self) -> Status:
        """Return what the collection holds."""
        return status_of(self.collection, self.space, self.networks)

    # --------------------------------------------------------------------------------------------- items and files

    def items(self, *, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of items, in the order of their ids as given; those that are not there are left out.

        A row has the id, a list of paths (texts: paths or the texts) a modality, and the metadata.
        """
        rows = {str(row["id"]): row for row in self.collection.items(ids=ids)}
        return [rows[name] for name in map(one_form, ids) if name in rows]

    def files_of(self, ids: Sequence[str], /) -> dict[tuple[str, str], tuple[Path, str]]:
        """Return items' own files by item and slot (`image/0`): where each is, and the digest of its content when it was added.

        Without those that could not be read, and texts that stand in the manifest. The digest is `chiasm.files.digest_file`'s.
        """
        found = {}
        uploads = self.collection.uploads
        for row in self.collection.files(ids=ids) if ids else ():
            if row["path"] and row["hash"]:
                path = Path(row["path"])
                if path.parent.name == uploads.name and not path.exists():
                    path = uploads / path.name  # the collection has moved, and its uploads with it
                found[str(row["item"]), str(row["slot"])] = (path, str(row["hash"]))
        return found

    def vectors_of(self, ids: Sequence[str], /) -> dict[str, Float[np.ndarray, " dim"]]:
        """Return one unit vector an item in the space, of those that are there: the mean of its modalities' means."""
        return self._reading(lambda state: state.vectors_of(ids))

    def moments_of(self, name: str, /) -> list[dict[str, Any]]:
        """Return the moments and passages of an item's files, in order: slot, start, end, and what is said where it is known.

        What is said in a recording that has no moments has neither start nor end.
        """
        said = "(_start IS NOT NULL OR (_text IS NOT NULL AND _kind <> 'text'))"
        condition = f"{one_of('id', [one_form(name)])} AND {said}"
        rows = self._reading(
            lambda state: state.table.to_table(columns=["_slot", "_start", "_end", "_text"], filter=condition)
        )
        moments: dict[
            tuple[str, float | None], dict[str, Any]
        ] = {}  # one of a video may be placed by pictures and by sound
        for slot, start, end, text in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            known = moments.setdefault((slot, start), {"slot": slot, "start": start, "end": end, "text": text})
            known["text"] = known["text"] or text
        timed = {slot for slot, start in moments if start is not None}
        shown = [key for key in moments if key[1] is not None or key[0] not in timed]
        return [moments[key] for key in sorted(shown, key=lambda key: (key[0], key[1] or 0.0))]

    # ---------------------------------------------------------------------------------------------------- the query

    def open(self, path: str | Path, *, limits: Limits = Limits()) -> Media:  # noqa: B008  # frozen
        """Open a file as its encoder wants to see it.

        Raises:
            MediaError: it cannot be used.
            SpaceError: the space lacks its modality.
        """
        state = self._state
        view = state.space.encoder(media.sniff(path), state.networks).view
        return media.load(
            path, image_size=view.image_size, rate=view.rate, frames=view.frames, fps=view.fps, limits=limits
        )

    def parts(self, query: Query, /) -> tuple[Part, ...]:
        """Return the inputs that a query is embedded by: its media, a picture and words as one where the encoder takes both."""
        return _parts_of(query, self._state)

    def prepare(self, parts: Sequence[Part], /) -> Float[np.ndarray, "n dim"]:
        """Return unit vectors of parts of queries: most of the cost of a search.

        Raises:
            SpaceError: a modality that the space lacks, or nothing in a medium that can be embedded.
        """
        state = self._state
        vectors = _embedded(parts, state)
        with self._preparing:
            for key in _keys_of(vectors):
                self._prepared[key] = state.space.digest
            while len(self._prepared) > PREPARED:
                del self._prepared[next(iter(self._prepared))]
        return vectors

    def match(self, words: Text, picture: Image, /) -> Match:
        """Say what in a picture matches words, see `chiasm.verbs.matching`. Encodes."""
        from chiasm.verbs.matching import match_places

        state = self._state
        return match_places(words, picture, state.space, state.networks)

    def search(self, query: Query, /, options: SearchOptions = SearchOptions()) -> SearchResult:  # noqa: B008  # frozen
        """Return the hits of one query.

        Args:
            query: what to search for.
            options: how.

        Raises:
            SpaceError: nothing to search for, a modality that the space lacks, or a least probability where there are none.
            CollectionError: `where` is malformed, or the collection has no vectors.
        """
        return self._reading(lambda state: self._search(query, options, state))

    def _search(self, query: Query, options: SearchOptions, state: State) -> SearchResult:
        _refuse(options, state)
        vector = self._vector(query, state)
        where = condition_of(query, options, state, vector)
        judges = state.scores is not None and options.metric == "auto"
        fuses = options.hybrid and bool(query.words)
        last = options.k + options.offset
        # Where hits are in the order of the cosine, only those that are shown are looked for. Else there are more candidates
        # for pages further on, behind those of the pages before, which stay as they were.
        deep = judges or fuses or options.rerank is not None or options.diversity > 0 or query.is_one_item
        pool = CANDIDATES if deep else last
        ranking: list[Row] = []
        while True:
            work.check()
            if query.is_one_item and options.metric == "auto":
                candidates = similar_items(query.like[0], vector, state, where, pool)
            else:
                candidates = candidates_of(
                    vector, state, where, pool,
                    by_modality=judges and not query.names_items_only, vectors=judges or options.diversity > 0,
                )  # fmt: skip
            done = not deep or pool >= 2 * last or len(candidates) < pool
            verdict = judge(query, vector, state, candidates, options, judges)
            rows = verdict.rows
            if fuses:
                depth = pool if options.diversity else max(last if done else pool // 2, RERANKED)
                rows = fuse_words(query.words, vector, state, where, rows, pool, depth, options)
            if options.rerank is not None and not ranking:
                rows = self._reranked(query, vector, state, rows, options.rerank)
            if options.diversity:
                rows = spread(rows[:pool], options.diversity, most=last if done else pool // 2)
            before = {row.item for row in ranking}
            ranking += [row for row in rows if row.item not in before]
            if done:
                break
            ranking, pool = ranking[: pool // 2], 2 * pool
        hits = hits_of(ranking[options.offset : last], vector, state, options.metric, verdict.threshold)
        notes = (*self._cut(query, fuses, options.rerank), *_left_out(vector, state, options))
        return SearchResult(state.space.name, hits, verdict.found, verdict.threshold, verdict.false_hit_rate, notes)

    # -------------------------------------------------------------------------------------------------- step by step

    def _vector(self, query: Query, state: State) -> Float[np.ndarray, " dim"]:
        if not (query.plus or query.like):
            what = "only what is not wanted" if query.minus else "nothing"
            raise SpaceError(f"a search needs a text, an image, a sound, a video or an item to go by; got {what}")
        parts, vectors = _parts_of(query, state), query.vectors
        if vectors is None or any(  # prepared before a refresh, in another space
            self._prepared.get(key, state.space.digest) != state.space.digest for key in _keys_of(vectors)
        ):
            vectors = _embedded(parts, state)
        elif len(vectors) != len(parts):
            raise SpaceError(f"a query of {len(parts)} media needs as many vectors; got {len(vectors)}")
        wanted = len(parts) - len(query.minus)
        named = [*query.like, *query.liked, *query.disliked]
        of_items = state.vectors_of(named)
        if missing := [name for name in dict.fromkeys(named) if name not in of_items]:
            more = f" (and {len(missing) - 1} more of those named)" if len(missing) > 1 else ""
            raise SpaceError(f"there is no item {missing[0]!r:.200}{more} with an embedded file in this collection")
        plus = np.stack([*vectors[:wanted], *(of_items[name] for name in query.like)])
        minus = vectors[wanted:] if query.minus else None
        composed = compose(plus, minus=minus) if len(plus) > 1 or minus is not None else plus[0]
        if not (query.liked or query.disliked):
            return composed
        none = np.zeros((0, len(composed)), np.float32)
        liked, disliked = (
            np.stack([of_items[name] for name in names]) if names else none for names in (query.liked, query.disliked)
        )
        return rocchio(composed, liked, disliked)

    def _cut(self, query: Query, fuses: bool, rerank: str | None) -> tuple[str, ...]:
        """Return what is not read of a long query."""
        notes = []
        if fuses:
            from chiasm.store.words import QUERY_CHARACTERS

            if len(query.words) > QUERY_CHARACTERS:
                notes.append(f"full text looks for the words in the first {QUERY_CHARACTERS:,} characters of the query")
        if rerank is not None:
            tokens, limit = self._rerankers[rerank].lengths(Text(query.words))
            if limit is not None and 2 * tokens > limit:
                notes.append(
                    f"the reranker takes {limit:,} tokens of query and text together, and the query has {tokens:,}: of both it "
                    "reads the beginning"
                )
        return tuple(notes)

    def _reranked(
        self, query: Query, vector: Float[np.ndarray, " dim"], state: State, rows: list[Row], model: str
    ) -> list[Row]:
        if not query.words:
            raise SpaceError("a reranker reads the words of the query, and it has none. Add a text, or leave it out")
        if model not in self._rerankers:
            from chiasm.retrieval.rerank import Reranker

            self._rerankers[model] = Reranker(model, device=self._device)
        first = rows[:RERANKED]
        ids = [row.item for row in first]
        cards = state.cards(ids)
        # Of a long text the reranker would read the beginning, so it is shown the nearest passage.
        passages: dict[tuple[str, str], Row] = {}
        for row in state.rows(ids, vector) if state.has_moments else ():
            if row.kind == "text" and row.start is not None:
                passages[row.item, row.slot] = max(row, passages.get((row.item, row.slot), row), key=lambda r: r.cosine)
        texts = [text_of(passages.get((row.item, row.slot), row), cards[row.item]["text"]) for row in first]
        candidates = [None if text is None else Text(text) for text in texts]
        order = self._rerankers[model].rerank(Text(query.words), candidates, limit=RERANKED).order
        return [first[place] for place in order] + rows[RERANKED:]


def _refuse(options: SearchOptions, state: State) -> None:
    """Refuse options that do not fit the space, and a collection without vectors."""
    space = state.space
    if options.modality is not None and options.modality not in space.modalities:
        raise SpaceError(
            f"the space {space.name!r} has {', '.join(space.modalities)}; cannot find by {options.modality!r}"
        )
    if not state.index.size:
        path = state.collection.path
        raise CollectionError(f"{path} has no embedded files. Add some: chiasm add PATH --to {path}")


def _left_out(vector: Float[np.ndarray, " dim"], state: State, options: SearchOptions) -> tuple[str, ...]:
    """Return what can be compared with what, where files of some modality could not be."""
    sought = set(state.sizes) if options.modality is None else {options.modality}
    if sought <= set(state.space.comparable(vector)):
        return ()
    if not state.space.meets(vector)[0]:
        return (FINDS_SOUNDS,)
    return state.space.notes(state.collection.path, state.sizes)


def _keys_of(vectors: Float[np.ndarray, "n dim"]) -> list[bytes]:
    return [blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors]


def _parts_of(query: Query, state: State) -> tuple[Part, ...]:
    pair = query.picture_with_words
    if pair is None or not state.space.fuses(state.networks):
        return (*query.plus, *query.minus)
    return (pair, *query.minus)


def _embedded(parts: Sequence[Part], state: State) -> Float[np.ndarray, "n dim"]:
    for medium in (medium for part in parts for medium in (part if isinstance(part, tuple) else (part,))):
        if isinstance(medium, Text) and not medium.text.strip():
            raise SpaceError("the query is empty. Say in words what to look for")
    pairs = {row: part for row, part in enumerate(parts) if isinstance(part, tuple)}
    vectors = np.empty((len(parts), state.space.dim), np.float32)
    alone = [row for row in range(len(parts)) if row not in pairs]
    vectors[alone] = state.space.embed([part for part in parts if not isinstance(part, tuple)], state.networks)
    if pairs:
        vectors[[*pairs]] = state.space.embed_fused([*pairs.values()], state.networks)
    return vectors


# ------------------------------------------------------------------------------------------------------------ the verb


def search(
    collection: str | Path | Searcher,
    text: str | None = None,
    *,
    image: Pictures = None,
    audio: Files = None,
    video: Files = None,
    minus: str | Sequence[str] | None = None,
    minus_image: Pictures = None,
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
    max_pixels: int | None = None,
    device: Device = "auto",
) -> SearchResult:
    """Search a collection by words, files and items of it, alone or together.

    Several parts make one query: those to find are added up, but a picture and words are one where the encoder takes both as
    one input; those to avoid are projected out. For many searches, keep a
    `chiasm.Searcher`, and search with that.

    Args:
        collection: the collection, also as a file that `encrypt` wrote; or a searcher of it, which has a space and a device of its own.
        text: words to search for.
        image: a file to search with, a picture of Pillow or pixels (uint8, height by width by 3), or several.
        audio: a file to search with, or several.
        video: the same.
        minus: words for what to avoid, or several of them.
        minus_image: pictures of what to avoid, as in `image`.
        like: ids of items to find more like.
        liked: ids of hits of an earlier page that were right: the query moves towards them; they are not shown again.
        disliked: ids of hits of an earlier page that were wrong.
        k: hits at the most; this and what follows is described in `SearchOptions`.
        offset: hits to pass over.
        modality: find items by their files of this modality only.
        where: condition on the columns.
        min_probability: leave out hits that are less probably relevant.
        metric: order hits by one metric alone.
        hybrid: go by the words in texts and transcripts, too.
        rerank: cross-encoder that reads query and hits.
        diversity: how much hits are to differ from each other.
        space: name of the space to search in, or the path of one that another collection learned. Default: the newest.
        max_pixels: width times height above which a picture of the query is too large. Default: 250 million.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: the space lacks the query's modality, there is nothing to search for, or no hit has a probability.
        CollectionError: `where` is malformed, an option is out of range, or the collection has no vectors.
        MediaError: a file of the query cannot be used.
    """
    limits = limits_of(max_pixels)
    with ExitStack() as stack:  # of a sealed collection, its copy in memory is gone at the end
        if isinstance(collection, Searcher):
            if space is not None or device != "auto":
                raise SpaceError("a searcher has a space and a device of its own: name them when it is made")
            searcher = collection
        else:
            searcher = Searcher(stack.enter_context(opened(collection)), space=space, device=device)
        files: list[Media] = []
        by_modality: Mapping[Modality, Files] = {"image": image, "audio": audio, "video": video}
        for kind, paths in by_modality.items():
            files += _opened(searcher, kind, paths, limits)
        query = Query(
            plus=(*([] if text is None else [Text(text)]), *files),
            minus=(*(Text(words) for words in _listed(minus)), *_opened(searcher, "image", minus_image, limits)),
            like=tuple(_listed(like)),
            liked=tuple(liked),
            disliked=tuple(disliked),
        )
        options = SearchOptions(
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
        return searcher.search(query, options)


def _listed(value: Pictures) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str | Path) or is_picture(value) else list(value)


def open_query(searcher: Searcher, path: str | Path, *, limits: Limits = Limits()) -> Media:  # noqa: B008  # frozen
    """Open a file of a query.

    Raises:
        MediaError: it cannot be used; the reason names it.
        SpaceError: the space lacks its modality.
    """
    try:
        return searcher.open(path, limits=limits)
    except MediaError as error:
        raise MediaError(error.outcome, f"{path}: {error.reason}") from error


def _opened(searcher: Searcher, modality: Modality, files: Pictures, limits: Limits) -> list[Media]:
    """Open the files of a query, which have to be of the modality that they were passed as."""
    opened: list[Media] = []
    for path in _listed(files):
        if modality == "image" and is_picture(path):
            try:
                opened.append(picture_of(path))
            except ValueError as error:
                raise SpaceError(f"a picture to search with: {error}") from error
            continue
        medium = open_query(searcher, path, limits=limits)
        if medium.modality != modality:
            raise SpaceError(f"{path} was given as {modality} and its content is {medium.modality}")
        opened.append(medium)
    return opened
