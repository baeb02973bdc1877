"""Between the event loop and what does the work: the one place that knows the searcher and its words.

Encoders run in one thread, which embeds what several requests wait for together; searches in a second, so that one
batch is embedded while the last is searched with; files are opened and rows read in a few more. An answer that takes
too long is given up, and what of it had not begun is not done.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

import numpy as np
from jaxtyping import Float

from chiasm import __version__
from chiasm.errors import ChiasmError, MediaError, SpaceError
from chiasm.media import Limits
from chiasm.serving import catalogue
from chiasm.serving.batching import Batcher
from chiasm.serving.bodies import Given, Upload, UploadForm
from chiasm.serving.cards import Cards
from chiasm.serving.classify import Classifier, Explained, Recognised
from chiasm.serving.files import OwnFile, url_of
from chiasm.serving.guard import Visit
from chiasm.serving.observe import Metrics, logger, where_from
from chiasm.serving.problems import Problem
from chiasm.serving.schemas import Asked, Plain
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import StoreItem
from chiasm.serving.uploads import Uploads
from chiasm.types import MODALITIES, Audio, Image, Media, Modality, Outcome, Text, Video
from chiasm.verbs.matching import Match
from chiasm.verbs.query import Part, Query, SearchOptions, SearchResult
from chiasm.verbs.status import Status
from chiasm.work import check, current

T = TypeVar("T")

_PREDICT, _EXPLAIN, _MATCH = "predict", "explain", "match"
_FUSED = "picture with words"
_NO_PREDICTION: Mapping[str, Any] = {
    "label": None,
    "probability": None,
    "probabilities": {},
    "set": [],
    "unknown": False,
    "columns": {},
}


@dataclass(frozen=True, eq=False)
class Opened:
    """One thing of a request with its files opened."""

    media: tuple[Media, ...]
    words: Plain

    @property
    def query(self) -> Query:
        """The query that it makes."""
        words = self.words
        if not isinstance(words, Asked):
            return Query(self.media)
        minus = () if words.minus is None else (Text(words.minus),)
        return Query(self.media, minus, words.like, words.liked, words.disliked)


class Listed(catalogue.Listed, Protocol):
    """A collection, as far as a server needs it."""

    @property
    def path(self) -> Path:
        """Its folder; left out of all that is sent to others."""

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders whose files may be given away."""

    @property
    def uploads(self) -> Path:
        """Where the files are that a server was sent."""

    def files(self) -> list[dict[str, Any]]:
        """Return the outcome of every file."""


class Searcher(Protocol):
    """The part of `chiasm.verbs.search.Searcher` that a server needs. All but `prepare` is called from several threads."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities of queries."""

    @property
    def collection(self) -> Listed:
        """The collection that is searched."""

    def open(self, path: Path, *, limits: Limits) -> Media:
        """Open a file as its encoder takes it."""

    def parts(self, query: Query, /) -> Sequence[Part]:
        """Return the inputs that a query is embedded by."""

    def prepare(self, parts: Sequence[Part], /) -> Float[np.ndarray, "n dim"]:
        """Return their unit vectors."""

    def match(self, words: Text, picture: Image, /) -> Match:
        """Say what in a picture matches words."""

    def search(self, query: Query, /, options: SearchOptions) -> SearchResult:
        """Return the hits of one query."""

    def refresh(self) -> bool:
        """Load what was added meanwhile."""

    def items(self, *, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows of items in this order, of those that are there."""

    def moments_of(self, name: str, /) -> list[dict[str, Any]]:
        """Return the moments and passages of an item's files, in order."""

    def files_of(self, ids: Sequence[str], /) -> dict[tuple[str, str], tuple[Path, str]]:
        """Return items' own files by item and slot: where each is, and the digest of what was added."""

    def status(self) -> Status:
        """Return what the collection holds."""


class Engine:
    """The searcher and the model behind the routes.

    Args:
        searcher: what is searched in.
        classifier: the model that recognises, if there is one.
        settings: bounds.
        metrics: where batches are counted.
        uploads: files that queries name.
        base: what the addresses of files begin with.
    """

    def __init__(
        self,
        searcher: Searcher,
        classifier: Classifier | None,
        *,
        settings: Settings,
        metrics: Metrics,
        uploads: Uploads,
        base: str = "",
    ) -> None:
        self.classifier = classifier
        self._base = base
        self.ready = False
        self.ended = False
        self._searcher = searcher
        self._settings = settings
        self._metrics = metrics
        self._uploads = uploads
        self._cards = Cards(base)
        self._encodes: Batcher[Any, Any] = Batcher(
            self._encode, most=settings.batch, wait=settings.batch_wait, capacity=settings.max_media, name="encode"
        )
        self._searches: Batcher[tuple[Query, SearchOptions], dict[str, Any]] = Batcher(
            self._search, most=settings.batch, wait=0.0, capacity=10 * settings.max_media, name="search"
        )
        self._readers = ThreadPoolExecutor(settings.readers, thread_name_prefix="read")
        self._refreshed = time.monotonic()

    async def warm_up(self) -> None:
        """Search once, so that the first request does not wait for weights to be read."""
        if "text" in self._searcher.modalities:
            try:
                await self.search([Query((Text("warm up"),))], SearchOptions(k=1))
            except ChiasmError as error:  # an empty collection: files may come while it is served
                logger.warning("nothing to search in yet", extra={"fields": where_from(error)})
        self.ready = True

    def close(self) -> None:
        """Finish what waits and end the threads, as far as they end in time (`ended`)."""
        end = time.monotonic() + self._settings.close_seconds
        closing = threading.Thread(target=self._readers.shutdown, kwargs={"cancel_futures": True}, daemon=True)
        closing.start()
        ended = [lane.close(max(end - time.monotonic(), 0.0)) for lane in (self._encodes, self._searches)]
        closing.join(max(end - time.monotonic(), 0.0))
        self.ended = all(ended) and not closing.is_alive()
        if not self.ended:
            logger.warning("work goes on that cannot be stopped; the process ends without it")

    # ------------------------------------------------------------------------------------------------------- the verbs

    async def open(self, given: Sequence[Given], visit: Visit) -> list[Opened]:
        """Open what a request came with. Files are told by their content.

        Raises:
            MediaError: a file cannot be used; the reason names it by its place.
            SpaceError: a file is of another modality than it was sent as, or of one that cannot be searched with.
        """
        opened = []
        for number, thing in enumerate(given):
            text = thing.words.text
            if text is not None and not text.strip():
                raise SpaceError(f"the text of {number} is empty: say in words what to look for")
            media: list[Media] = [] if text is None else [Text(text)]
            for upload in thing.files:
                try:
                    medium = await self.read(self._open, upload)
                except MediaError as error:
                    what = upload.modality or "file"
                    raise MediaError(error.outcome, f"{what} of {number}: {error.reason}") from None
                if upload.modality is not None and medium.modality != upload.modality:
                    raise SpaceError(
                        f"what was sent as {upload.modality} of {number} is {medium.modality} by its content. Send it "
                        "under that name"
                    )
                visit.hold(_size(medium))
                media.append(medium)
            for name in thing.words.uploads if isinstance(thing.words, Asked) else ():
                medium = await self.read(
                    partial(self._searcher.open, limits=self._settings.uploads), self._uploads.path(name)
                )
                visit.hold(_size(medium))
                media.append(medium)
            opened.append(Opened(tuple(media), thing.words))
        return opened

    async def search(self, queries: Sequence[Query], options: SearchOptions) -> list[dict[str, Any]]:
        """Return the hits of each query, see `schemas.Found`."""
        return await self._found([(query, options) for query in await self.prepared(queries)])

    async def prepared(self, queries: Sequence[Query]) -> list[Query]:
        """Embed queries: the expensive part, done once however many pages are looked at."""
        parts = [self._searcher.parts(query) for query in queries]
        vectors = await self._embedded([part for own in parts for part in own])
        found, begin = [], 0
        for query, own in zip(queries, parts, strict=True):
            end = begin + len(own)
            found.append(replace(query, vectors=np.stack(vectors[begin:end])) if end > begin else query)
            begin = end
        return found

    async def page(self, query: Query, options: SearchOptions) -> dict[str, Any]:
        """Return the hits of an embedded query."""
        return (await self._found([(query, options)]))[0]

    async def embed(self, opened: Sequence[Opened]) -> list[dict[Modality, list[float]]]:
        """Return unit vectors of the media of each item."""
        vectors = iter(await self._embedded([medium for one in opened for medium in one.media]))
        return [{medium.modality: next(vectors).tolist() for medium in one.media} for one in opened]

    async def predict(self, opened: Sequence[Opened], *, level: float, false_alarm_rate: float) -> list[dict[str, Any]]:
        """Recognise items, see `schemas.ItemPrediction`."""
        assert self.classifier is not None  # the route has asked
        (future,) = self._encodes.submit(_PREDICT, [([one.media for one in opened], level, false_alarm_rate)])
        rows: list[Recognised] = await self._in_time(future)
        return [{**_NO_PREDICTION, **row.said, "modalities": row.modalities} for row in rows]

    async def explain(
        self, item: Mapping[str, Any], opened: Opened, *, column: str | None, answer: str | None
    ) -> dict[str, Any]:
        """Say what the prediction of an item rests on, see `reason_schemas.ItemExplanation`; `opened` by `open_item`."""
        assert self.classifier is not None  # the route has asked
        (future,) = self._encodes.submit(_EXPLAIN, [(opened.media, column, answer)])
        explained: Explained = await self._in_time(future)
        rows = [row for row in item["media"] if row["modality"] in self.classifier.modalities]
        said = explained.explanation.as_dict()
        media = [
            {**reasons, "modality": rows[place]["modality"], "number": rows[place]["number"]}
            for reasons, place in zip(said["media"], explained.places, strict=True)
        ]
        for reasons in media:
            del reasons["path"]
        return {name: said[name] for name in ("answer", "probability", "evidence", "prior", "modalities", "rest")} | {
            "media": media,
            "examples": [{name: one[name] for name in ("id", "label", "weight")} for one in said["examples"]],
            "faithfulness": explained.measured.get("media", {}),
            "measured": explained.measured.get("measured"),
        }

    async def match(self, item: Mapping[str, Any], words: str, visit: Visit) -> list[dict[str, Any]]:
        """Say what in the pictures of an item matches words, see `reason_schemas.MatchAnswer`.

        Raises:
            MediaError: a file cannot be used any more.
            SpaceError: the item has no pictures, or words and pictures cannot be compared.
        """
        if not words.strip():
            raise SpaceError("the text is empty: say in words what to look for")
        numbers = [row["number"] for row in item["media"] if row["modality"] == "image"]
        if not numbers:
            raise SpaceError("the item has no picture in which words could be looked for")
        pictures = []
        for number in numbers:
            medium = await self.read(self._open_own, item["id"], "image", number)
            visit.hold(_size(medium))
            pictures.append(medium)
        matches = await self._all(self._encodes.submit(_MATCH, [(Text(words), one) for one in pictures]))
        return [{**one.as_dict(), "number": number} for number, one in zip(numbers, matches, strict=True)]

    async def open_item(self, item: Mapping[str, Any], visit: Visit) -> Opened:
        """Open the media of an item of the collection that the model takes.

        Args:
            item: see `schemas.Item`.
            visit: holds the decoded media.

        Raises:
            MediaError: a file cannot be used any more.
            SpaceError: the model takes nothing of the item.
        """
        assert self.classifier is not None  # the route has asked
        media: list[Media] = []
        for row in item["media"]:
            if row["modality"] in self.classifier.modalities:
                if row["text"] is not None:
                    media.append(Text(row["text"]))
                else:
                    media.append(await self.read(self._open_own, item["id"], row["modality"], row["number"]))
                visit.hold(_size(media[-1]))
        if not media:
            raise SpaceError(f"the model takes {', '.join(self.classifier.modalities)}; the item has none of these")
        return Opened(tuple(media), Plain())

    async def add(self, store: StoreItem, form: UploadForm, *, who: str) -> str:
        """Hand the uploaded files of an item, with what is known of it, to `store`, and return the id of the item."""

        def work() -> str:
            with ExitStack() as stack:
                files = []
                for upload in form.files:
                    file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="chiasm-", suffix=upload.suffix))
                    upload.write(cast("BinaryIO", file))
                    file.flush()
                    files.append(Path(file.name))
                return store(files, label=form.label, folder=form.folder, who=who)

        return await self.read(work)

    async def outcomes(self, most: int) -> dict[str, Any]:
        """List the files that could not be used, see `schemas.OutcomesAnswer`."""

        def rows() -> list[dict[str, str]]:
            return [
                {
                    "file": f"{row['item']} {row['slot']}"
                    if row["path"] is None
                    else "/".join(Path(row["path"]).parts[-2:]),
                    "outcome": str(row["outcome"]),
                    "reason": self.without_paths(row["reason"] or ""),
                }
                for row in self._searcher.collection.files()
                if row["outcome"] not in {Outcome.OK, Outcome.DUPLICATE}
            ]

        problems = await self.read(rows)
        return {"files": problems[:most], "total": len(problems)}

    async def item(self, item: str) -> dict[str, Any] | None:
        """Return one item, see `schemas.Item`."""
        return next(iter(await self.items([item])), None)

    async def items(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Return items in this order, of those that are there."""
        return [{**item_of(row, self._base), **card} for row, card in await self.read(self._with_cards, ids)]

    async def moments(self, item: str) -> list[dict[str, Any]]:
        """Return the moments of an item's files, see `schemas.ItemMoment`."""
        rows = await self.read(self._searcher.moments_of, item)
        parts = [(row["slot"].partition("/"), row) for row in rows]
        return [
            {"modality": modality, "number": int(number), "start": row["start"], "end": row["end"], "text": row["text"]}
            for (modality, _, number), row in parts
        ]

    async def add_cards(self, found: Sequence[dict[str, Any]]) -> None:
        """Add to each hit what stands for its item where many are shown."""
        ids = list(dict.fromkeys(hit["id"] for one in found for hit in one["hits"]))
        cards = {str(row["id"]): card for row, card in await self.read(self._with_cards, ids)}
        for one in found:
            one["hits"] = [{**hit, **cards.get(hit["id"], {})} for hit in one["hits"]]

    def _with_cards(self, ids: Sequence[str]) -> list[tuple[dict[str, Any], dict[str, str | None]]]:
        rows, added = self._searcher.items(ids=ids), self._searcher.files_of(ids)
        return [(row, self._cards.of(row, added, self._roots)) for row in rows]

    async def file_of(self, item: str, modality: Modality, number: int) -> OwnFile:
        """Open a file of an item, if it still is what was added; it is closed when the request ends.

        Raises:
            Problem: 404, it is not, or there is none.
        """
        return await self.read(self._own_file, item, modality, number)

    def open_files(self, ids: Sequence[str]) -> Iterator[tuple[str, str, OwnFile | Problem]]:
        """Yield item, slot and the opened file of each file of some items, or why it is not given away. May block."""
        for (item, slot), added in self._searcher.files_of(ids).items():
            check()
            try:
                yield item, slot, OwnFile.open(*added, self._roots)
            except Problem as problem:
                yield item, slot, problem

    def without_paths(self, text: str) -> str:
        """Return an error message with the collection's name in place of its path."""
        path = self._searcher.collection.path
        return text.replace(str(path), path.name)

    @property
    def folder(self) -> Path:
        """The collection's folder."""
        return self._searcher.collection.path

    async def status(self) -> dict[str, Any]:
        """Describe the collection and the model; the rest of `schemas.StatusAnswer` is the server's."""
        found = await self.read(self._searcher.status)
        return {
            "name": Path(found.path).name,
            "version": __version__,
            "encoder": without_folders(found.encoder),
            "modalities": list(self._searcher.modalities),
            "items": found.items,
            "outcomes": {str(name): count for name, count in found.outcomes.items()},
            "embeddings": found.embeddings,
            "columns": list(found.columns),
            "spaces": list(found.spaces),
            "models": [{**model, "name": without_folders(model["name"])} for model in found.models],
            "int8": found.int8,
            "notes": [self.without_paths(note) for note in found.notes],
            "label": None if self.classifier is None else self.classifier.label,
        }

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a blocking function in one of the readers' threads, as part of the work of the request."""
        loop = asyncio.get_running_loop()
        call = partial(copy_context().run, _checked, function, *arguments)
        return await self._in_time(loop.run_in_executor(self._readers, call))

    # --------------------------------------------------------------------------------------------------- in other threads

    def _open(self, upload: Upload) -> Media:
        with tempfile.NamedTemporaryFile(prefix="chiasm-", suffix=upload.suffix) as file:
            upload.write(cast("BinaryIO", file))
            file.flush()
            return self._searcher.open(Path(file.name), limits=self._settings.uploads)

    def _own_file(self, item: str, modality: Modality, number: int) -> OwnFile:
        added = self._searcher.files_of([item]).get((item, f"{modality}/{number}"))
        if added is None:
            raise Problem(404, "file", "there is no such file; /v1/items lists those that there are")
        own = OwnFile.open(*added, self._roots)
        visit = current()
        assert isinstance(visit, Visit)  # only requests ask for files
        visit.keep(own.file)
        return own

    @property
    def _roots(self) -> tuple[Path, ...]:
        """Return the folders whose files may be given away."""
        collection = self._searcher.collection
        return (*(self._settings.roots or collection.roots), collection.uploads)

    def _open_own(self, item: str, modality: Modality, number: int) -> Media:
        return self._searcher.open(self._own_file(item, modality, number).path, limits=self._settings.uploads)

    def _encode(self, lane: str, work: Sequence[Any]) -> Sequence[Any]:
        self._metrics.batch(lane, len(work))
        self._metrics.waiting.set(len(self._encodes))
        if lane == _PREDICT:
            return [_tried(self._predict, one) for one in work]
        if lane == _EXPLAIN:
            return [_tried(self._explain, one) for one in work]
        if lane == _MATCH:
            return [_tried(lambda one: self._searcher.match(*one), one) for one in work]
        try:
            return list(self._searcher.prepare(work))
        except ChiasmError as error:
            if len(work) == 1:
                return [error]
        return [_tried(lambda one: self._searcher.prepare([one])[0], one) for one in work]  # to find whose fault it is

    def _predict(self, work: tuple[Sequence[Sequence[Media]], float, float]) -> list[Recognised]:
        assert self.classifier is not None
        items, level, false_alarm_rate = work
        return self.classifier.predict(items, level=level, false_alarm_rate=false_alarm_rate)

    def _explain(self, work: tuple[Sequence[Media], str | None, str | None]) -> Explained:
        assert self.classifier is not None
        media, column, answer = work
        return self.classifier.explain(media, column=column, answer=answer)

    def _search(self, lane: str, work: Sequence[tuple[Query, SearchOptions]]) -> Sequence[dict[str, Any] | Exception]:  # noqa: ARG002
        if time.monotonic() - self._refreshed > self._settings.refresh_seconds:
            try:
                self._searcher.refresh()
            except ChiasmError as error:  # it goes on with what it knows
                logger.warning("refresh failed", extra={"fields": where_from(error)})
            self._refreshed = time.monotonic()
        return [_tried(self._search_one, one) for one in work]

    def _search_one(self, work: tuple[Query, SearchOptions]) -> dict[str, Any]:
        query, options = work
        found = self._searcher.search(query, options)
        return answer_of(replace(found, notes=tuple(map(self.without_paths, found.notes))), self._base)

    # -------------------------------------------------------------------------------------------------------- and back

    async def _embedded(self, parts: Sequence[Part]) -> list[Float[np.ndarray, " dim"]]:
        has = self._searcher.modalities
        for medium in (medium for part in parts for medium in (part if isinstance(part, tuple) else (part,))):
            if medium.modality not in has:
                raise SpaceError(f"this collection can be searched with {', '.join(has)}, not {medium.modality}")
        if not parts:
            return []
        futures: dict[int, asyncio.Future[Any]] = {}
        lanes: dict[str, list[int]] = {}
        for number, part in enumerate(parts):
            lanes.setdefault(_FUSED if isinstance(part, tuple) else part.modality, []).append(number)
        for lane, rows in lanes.items():
            futures |= zip(rows, self._encodes.submit(lane, [parts[row] for row in rows]), strict=True)
        self._metrics.waiting.set(len(self._encodes))
        return await self._all([futures[row] for row in range(len(parts))])

    async def _found(self, work: Sequence[tuple[Query, SearchOptions]]) -> list[dict[str, Any]]:
        return await self._all(self._searches.submit("search", work))

    async def _all(self, futures: Sequence[asyncio.Future[T]]) -> list[T]:
        if len(futures) == 1:
            return [await self._in_time(futures[0])]
        results = await self._in_time(asyncio.gather(*futures, return_exceptions=True))
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return cast("list[T]", results)

    def _deadline(self) -> float:
        """Return when the answer has to be there: the same time for all that is done for one request."""
        end = asyncio.get_running_loop().time() + self._settings.answer_seconds
        visit = current()
        if isinstance(visit, Visit):
            visit.until = end if visit.until is None else visit.until
            end = visit.until
        return end

    async def _in_time(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout_at(self._deadline()):
                return await work
        except TimeoutError as error:
            raise Problem(
                503,
                "late",
                f"the answer was not ready after {self._settings.answer_seconds:g} s. Ask for less, or later",
                headers={"Retry-After": "5"},
            ) from error


def answer_of(found: SearchResult, base: str) -> dict[str, Any]:
    """Return a search result in the terms of `schemas.Found`, without the paths of files on the server."""
    hits = [
        {
            "id": hit.id,
            "modality": hit.modality,
            "score": hit.score,
            "probability": hit.probability,
            "band": hit.band,
            "start": hit.start,
            "end": hit.end,
            "text": hit.text,
            "url": None if hit.path is None else base + url_of(hit.id, hit.modality, hit.number),
            "moments": [vars(moment) for moment in hit.moments],
            "metadata": hit.metadata,
            "caption": None,
            "preview": None,
        }
        for hit in found.hits
    ]
    return {
        "space": found.space,
        "found": found.found,
        "threshold": found.threshold,
        "false_hit_rate": found.false_hit_rate,
        "notes": list(found.notes),
        "hits": hits,
    }


def without_folders(encoder: str) -> str:
    """Return the name of an encoder, or of several, with the names of folders in place of their paths."""
    if Path(encoder).is_dir():
        return Path(encoder).name
    parts = [part.rpartition("=") for part in encoder.split(",")]
    return ",".join(key + sign + (Path(name).name if Path(name).is_absolute() else name) for key, sign, name in parts)


def item_of(row: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return the row of an item in the terms of `schemas.Item`."""
    media = []
    for modality in MODALITIES:
        for number, value in enumerate(row.get(modality) or ()):
            inline = modality == "text" and not Path(value).is_absolute()
            media.append(
                {
                    "modality": modality,
                    "number": number,
                    "text": value if inline else None,
                    "url": None if inline else base + url_of(str(row["id"]), modality, number),
                }
            )
    metadata = {name: value for name, value in row.items() if name not in {"id", *MODALITIES}}
    return {"id": str(row["id"]), "media": media, "metadata": metadata}


def _size(medium: Media) -> int:
    match medium:
        case Image():
            return medium.pixels.nbytes
        case Audio():
            return medium.waveform.nbytes
        case Video():
            return medium.frames.nbytes + (0 if medium.sound is None else medium.sound.waveform.nbytes)
        case Text():
            return len(medium.text)


def _checked(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function, unless nobody waits for it any more."""
    check()
    return function(*arguments)


def _tried(function: Callable[[Any], T], work: Any) -> T | Exception:
    """Return a result, or the error that it ended in: one request's failure is not the others'."""
    try:
        return function(work)
    except Exception as error:  # noqa: BLE001
        return error
