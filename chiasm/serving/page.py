"""The page for people: search, recognise and correct, look at the whole, read reports; mounted beside the API.

Gradio brings uploads, recording, tabs and the queue; what is shown is made by `page_html` and `page_map`, and all that is
asked goes through the engine of the API, so people and programs wait in one line. Files of items come from the API's
route. Of Gradio's own routes only those are open that the page needs, and none of them reads a path outside the page's
folder of uploads or fetches an address; see `_Door`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import quote
from weakref import finalize

import gradio as gr
import numpy as np
from fastapi import FastAPI, Request
from jaxtyping import Float
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chiasm.errors import ChiasmError
from chiasm.serving import page_html, page_map
from chiasm.serving.app import Parts
from chiasm.serving.engine import Opened, item_of
from chiasm.serving.problems import Problem
from chiasm.serving.schemas import FeedbackEntry, LabelEntry, Plain
from chiasm.types import MODALITIES, Audio, Image, Media, Modality, Text, Video
from chiasm.verbs.learn import DriftReport, LearnReport
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import placed_vectors

PATH = "/page"
HITS = 24  # of a page of results
MOST_FILES = 32  # that are recognised together
MOST_RATED = 64  # thumbs that shape one ranking
BROWSED = 10_000  # items of a collection up to which it is listed before anything is asked
WAITING = 64  # events that wait at a time; of more, Gradio says that the queue is full
AT_ONCE = 4  # events of one kind that are worked on at a time
SESSIONS = 200  # people whose last query is remembered
_KEPT = 3600  # seconds that uploads and queries are kept
_REVIEWED = 12
_LONGEST_EVENT = 256 * 1024
_ANY = "any"
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",  # the option of Blocks leaves out a check for versions
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**12),  # else every event waits for statistics of all before it
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
}
_LAYOUTS: tuple[page_map.Layout, ...] = ("overview", "neighbours")


class TakesFile(Protocol):
    """Takes a file that somebody dropped and labelled into the collection. May block."""

    def __call__(self, path: Path, /, *, name: str, label: str, who: str) -> str:
        """Give the id of the item that it became.

        Args:
            path: of the file; it is gone an hour later.
            name: that it had on the sender's machine, never to be used as a path.
            label: what it truly is.
            who: says so.

        Raises:
            ChiasmError: it cannot be taken.
        """


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What of the loop is offered on the page, beside thumbs and labels, which the API's own parts take.

    Attributes:
        learn: fits the model again, sees to it that the server uses it if it was taken, and tells how it compares.
        keep: takes in dropped files with their true labels. Without it only items can be corrected.
        counts: stored verdicts by kind.
        drift: of what came in against what the model learned from.
    """

    learn: Callable[[], LearnReport] | None = None
    keep: TakesFile | None = None
    counts: Callable[[], Mapping[str, int]] | None = None
    drift: Callable[[], DriftReport] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Asking:
    """What one person looks at: the query, embedded, and where in its hits they are.

    Attributes:
        query: None while the collection is only leafed through.
        title: the query in words.
        words: that were searched with, for feedback; empty where it had none.
        options: how to search.
    """

    query: Query | None
    title: str
    words: str
    options: SearchOptions


class Page:
    """What the page can do, each verb from plain values to HTML; `build_page` ties them to Gradio's components.

    Args:
        searcher: what is searched in.
        parts: of the API: engine, bounds, where thumbs and labels go.
        lessons: what else of the loop there is.
        path: where the page is mounted.
    """

    def __init__(self, searcher: Searcher, parts: Parts, lessons: Lessons, *, path: str = PATH) -> None:
        self.searcher = searcher
        self.engine = parts.engine
        self.lessons = lessons
        self._parts = parts
        self._path = path
        self._planes: dict[tuple[Any, ...], Float[np.ndarray, "points 2"]] = {}

    # -------------------------------------------------------------------------------------------------------- search

    async def search(
        self,
        words: str,
        *,
        minus: str = "",
        paths: Sequence[str | Path] = (),
        modality: Modality | None = None,
        where: str = "",
        hybrid: bool = False,
    ) -> tuple[str, Asking | None]:
        """The first hits of a question; with nothing asked, items in the order of their ids.

        Args:
            words: what to look for.
            minus: what not.
            paths: files to look for, in the page's folder of uploads.
            modality: find items by their files of this modality only.
            where: SQL condition on the columns.
            hybrid: go by the words in texts and columns, too.
        """
        words, minus = words.strip(), minus.strip()
        options = SearchOptions(k=HITS + 1, modality=modality, where=where.strip() or None, hybrid=hybrid)
        try:
            media: list[Media] = [Text(words)] if words else []
            media += [await self._open(path) for path in paths]
            if not media:
                if minus:
                    raise Problem(422, "invalid", "Say what to look for, too: only what is not wanted was given.")
                asking = Asking(query=None, title="", words="", options=options)
                return await self._browse(asking), asking
            query = Query(tuple(media), (Text(minus),) if minus else ())
            (query,) = await self.engine.prepared([query])
            light = replace(query, plus=tuple(_light(one) for one in query.plus))
            asking = Asking(query=light, title=_title(media, words, minus, paths), words=words, options=options)
            return await self._hits(asking), asking
        except (ChiasmError, Problem) as error:
            return self._fault(error), None

    async def act(self, act: str, item: str, asking: Asking | None, *, who: str) -> tuple[str, Asking | None]:
        """What a button on a hit does.

        Args:
            act: `"like"` for more like it, `"up"` and `"down"` for thumbs and `"off"` to take one back, `"next"` and
                `"previous"` for another page.
            item: its id.
            asking: what is looked at.
            who: pressed it.
        """
        try:
            if act == "like":
                found = await self._item(item)
                name = page_html.caption_of({"id": item}, found)
                options = replace(asking.options if asking else SearchOptions(k=HITS + 1), offset=0, hybrid=False)
                asking = Asking(query=Query(like=(item,)), title=f"like: {name}", words="", options=options)
                return await self._hits(asking), asking
            if asking is None:
                raise Problem(422, "invalid", "This page was left for too long. Search again.")
            if act in ("next", "previous"):
                step = HITS if act == "next" else -HITS
                options = replace(asking.options, offset=max(asking.options.offset + step, 0))
                asking = replace(asking, options=options)
                return await (self._hits(asking) if asking.query else self._browse(asking)), asking
            if act in ("up", "down", "off") and asking.query is not None:
                asking = _rated(asking, item, act)
                note = "" if act == "off" else await self._keep_thumb(item, act, asking.words, who)
                return await self._hits(asking, note=note), asking
            raise Problem(422, "invalid", "The page sent what it cannot send. Load it again.")
        except (ChiasmError, Problem) as error:
            return self._fault(error), asking

    async def _hits(self, asking: Asking, *, note: str = "") -> str:
        assert asking.query is not None  # what is leafed through has no hits
        query, first = asking.query, asking.options.offset
        answer = await self.engine.page(query, asking.options)
        more = len(answer["hits"]) > HITS
        answer["hits"] = answer["hits"][:HITS]
        names = {str(hit["id"]) for hit in answer["hits"]} | {*query.liked, *query.disliked}
        shown = page_html.Shown(
            title=asking.title, liked=query.liked, disliked=query.disliked, first=first, more=more, note=note
        )
        return page_html.results(answer, await self._items(names), shown)

    async def _browse(self, asking: Asking) -> str:
        count = (await self.engine.read(self.searcher.collection.count)) if asking.options.where is None else 0
        if count > BROWSED:
            return page_html.note(f"{count:,} items. Search with words, or with a file.")
        first = asking.options.offset
        rows = await self.engine.items(None, first + HITS + 1, asking.options.where)
        page = rows[first : first + HITS]
        hits = [page_html.hit_of(item) for item in page]
        title = "All items" if asking.options.where is None else f"Items where {asking.options.where}"
        shown = page_html.Shown(title=title, first=first, more=len(rows) > first + HITS, rates=False)
        return page_html.results({"hits": hits}, {str(item["id"]): item for item in page}, shown)

    async def _keep_thumb(self, item: str, act: str, words: str, who: str) -> str:
        if self._parts.feedback is None:
            return "This server keeps no feedback: thumbs change this ranking only."
        entry = FeedbackEntry(item=item, verdict=cast("Literal['up', 'down']", act), query=words or None)
        await self.engine.read(partial(self._parts.feedback, [entry], who=who))
        return ""

    # --------------------------------------------------------------------------------------------------- recognition

    async def classify(
        self, paths: Sequence[str | Path]
    ) -> tuple[str, tuple[page_html.Recognition, ...], dict[str, str]]:
        """What the model says of dropped files; the cards' contents, and where the file of each lies."""
        if not paths:
            return page_html.note("Drop files first."), (), {}
        if len(paths) > MOST_FILES:
            return page_html.problem(f"At most {MOST_FILES} files are recognised together; got {len(paths)}."), (), {}
        names = {f"file:{number}": str(path) for number, path in enumerate(paths)}
        cards = await asyncio.gather(*(self._recognise_file(name, path) for name, path in names.items()))
        return self._cards(cards), tuple(cards), names

    async def review(self, *, seed: int = 0) -> tuple[str, tuple[page_html.Recognition, ...], dict[str, str]]:
        """What the model says of items drawn by lot, those first of which it says something else than their label."""
        assert self.engine.classifier is not None  # else there is no such tab
        try:
            rows = await self.engine.read(self.searcher.collection.items)
            drawn = np.random.default_rng(seed).permutation(len(rows))[: 2 * _REVIEWED]
            column = self.engine.classifier.label
            cards = await asyncio.gather(
                *(self._recognise_item(str(rows[row]["id"]), column) for row in drawn.tolist())
            )
        except (ChiasmError, Problem) as error:
            return self._fault(error), (), {}
        readable = [one for one in cards if one.said is not None]
        readable.sort(key=lambda one: (not one.known or one.known == one.said["label"], one.said["probability"] or 0.0))  # type: ignore[index]  # as was asked
        chosen = readable[:_REVIEWED]
        return self._cards(chosen), tuple(chosen), {}

    async def correct(
        self, item: str, label: str, cards: Sequence[page_html.Recognition], paths: Mapping[str, str], *, who: str
    ) -> tuple[str, tuple[page_html.Recognition, ...]]:
        """Keep the true label of a dropped file or an item.

        Args:
            item: the id of its card.
            label: what it truly is.
            cards: what is shown.
            paths: where the files of cards lie that are no items.
            who: says so.
        """
        try:
            label = label.strip()
            if item not in {one.id for one in cards}:
                raise Problem(422, "invalid", "This page was left for too long. Recognise the files again.")
            if not label or len(label) > 1000:
                raise Problem(422, "invalid", "A label has from 1 to 1,000 characters.")
            if item in paths:
                if self.lessons.keep is None:
                    raise Problem(422, "invalid", "This server takes no files into the collection.")
                name = Path(paths[item]).name
                await self.engine.read(partial(self.lessons.keep, Path(paths[item]), name=name, label=label, who=who))
            else:
                if self._parts.labels is None:
                    raise Problem(422, "invalid", "This server keeps no labels: it was started to be read from only.")
                entry = LabelEntry(item=item, label=label, column=None)
                await self.engine.read(partial(self._parts.labels, [entry], who=who))
        except (ChiasmError, Problem) as error:
            return self._fault(error) + self._cards(cards), tuple(cards)
        changed = tuple(replace(one, saved=label) if one.id == item else one for one in cards)
        return self._cards(changed), changed

    async def learn(self) -> str:
        """Fit the model again from what people said, and show old against new."""
        if self.lessons.learn is None:
            return page_html.problem("This server cannot learn: it was started to be read from only.")
        try:
            report = await asyncio.to_thread(self.lessons.learn)
        except (ChiasmError, Problem) as error:
            return self._fault(error)
        return page_html.learned(report.as_dict())

    async def _recognise_file(self, name: str, path: str) -> page_html.Recognition:
        url = f"{self._path}/gradio_api/file={quote(path)}"
        card = page_html.Recognition(
            id=name, name=Path(path).name, said=None, url=url, corrects=self.lessons.keep is not None
        )
        try:
            medium = await self._open(path)
            return replace(card, said=await self._predicted([medium]), kind=medium.modality)
        except (ChiasmError, Problem) as error:
            return replace(card, url="", fault=self._words_of(error))

    async def _recognise_item(self, name: str, column: str) -> page_html.Recognition:
        assert self.engine.classifier is not None  # as above
        item = await self._item(name)
        best = page_html.hit_of(item)
        known = item["metadata"].get(column)
        card = page_html.Recognition(
            id=name,
            name=page_html.caption_of({"id": name}, item),
            said=None,
            url=best["url"] or "",
            kind=best["modality"],
            known="" if known is None else str(known),
            corrects=self._parts.labels is not None,
        )
        try:
            media: list[Media] = []
            for wanted in item["media"]:
                if wanted["modality"] in self.engine.classifier.modalities:
                    file = await self.engine.file_of(name, wanted["modality"], wanted["number"])
                    media.append(Text(wanted["text"]) if file is None else await self._open(file))
            if not media:
                return replace(card, fault="The model takes nothing of this item.")
            return replace(card, said=await self._predicted(media))
        except (ChiasmError, Problem) as error:
            return replace(card, fault=self._words_of(error))

    async def _predicted(self, media: Sequence[Media]) -> Mapping[str, Any]:
        (found,) = await self.engine.predict([Opened(tuple(media), Plain())], level=0.9, false_alarm_rate=0.05)
        return {"label": None, "probability": None, **found.said}

    def _cards(self, cards: Sequence[page_html.Recognition]) -> str:
        assert self.engine.classifier is not None  # as above
        classes = sorted({name for one in cards if one.said for name in one.said.get("probabilities", {})})
        return page_html.recognised(cards, label=self.engine.classifier.label, classes=classes)

    # ---------------------------------------------------------------------------------------------------- the whole

    async def map(self, modality: Modality | None, column: str | None, layout: page_map.Layout) -> str:
        """The embeddings of one modality in the plane.

        Args:
            modality: whose. None: all that an item has, together.
            column: whose values give the colours.
            layout: see `page_map.project`.
        """
        try:
            return await self.engine.read(self._map, modality, column, layout)
        except (ChiasmError, Problem) as error:
            return self._fault(error)

    def _map(self, modality: Modality | None, column: str | None, layout: page_map.Layout) -> str:
        collection = self.searcher.collection
        rows = placed_vectors(collection, self.searcher.space)
        owners: dict[str, list[int]] = {}
        for row, (item, kind) in enumerate(zip(rows.items, rows.modalities, strict=True)):
            if modality is None or kind == modality:
                owners.setdefault(item, []).append(row)
        names = sorted(owners)
        drawn = np.sort(np.random.default_rng(0).permutation(len(names))[: page_map.MOST_POINTS]).tolist()
        names, total = [names[place] for place in drawn], len(names)
        key = (collection.version, self.searcher.space.name, modality, layout)
        if names and key not in self._planes:
            vectors = np.stack([rows.vectors[owners[name]].mean(axis=0) for name in names])
            self._planes = {**dict(list(self._planes.items())[-7:]), key: page_map.project(vectors, layout)}
        items = {str(row["id"]): row for row in collection.items(ids=names)} if names else {}
        points = []
        for name in names:
            cells = items.get(name, {})
            texts = [text for text in cells.get("text") or () if not Path(text).is_absolute()]
            points.append(page_map.Point(name, texts[0] if texts else name, cells.get(column) if column else None))
        plane = self._planes[key] if names else np.zeros((0, 2), np.float32)
        return page_map.drawing(points, plane, column=column, total=total)

    async def show(self, name: str) -> str:
        """One item of the map, with its files."""
        try:
            item = await self._item(name)
        except (ChiasmError, Problem) as error:
            return self._fault(error)
        return f'<section class="cx-results">{page_html.card(page_html.hit_of(item), item, rates=False)}</section>'

    async def status(self) -> str:
        """What is served, and what is wrong with it."""
        try:
            said = (await self.engine.status()).model_dump()
            found = await self.engine.read(self._facts, said)
        except (ChiasmError, Problem) as error:
            return self._fault(error)
        return page_html.status(found)

    def _facts(self, said: Mapping[str, Any]) -> page_html.Facts:
        collection, lessons = self.searcher.collection, self.lessons
        wrong = sum(count for name, count in said["outcomes"].items() if name not in ("ok", "duplicate"))
        bad = []
        for row in collection.files() if wrong else ():
            if row["outcome"] not in ("ok", "duplicate"):
                where = (
                    f"{row['item']} {row['slot']}" if row["path"] is None else "/".join(Path(row["path"]).parts[-2:])
                )
                bad.append((where, str(row["outcome"]), self.engine.without_paths(row["reason"] or "")))
        folder = collection.path / "indexes" / self.searcher.space.digest
        index = {
            name: f"approximate, {count:,} files"
            if (folder / name / "index.json").exists()
            else f"exact, {count:,} files"
            for name, count in said["embeddings"].items()
        }
        return page_html.Facts(
            status=said,
            files=bad,
            index=index,
            feedback=None if lessons.counts is None else lessons.counts(),
            warnings=() if lessons.drift is None else lessons.drift().warnings,
        )

    def report(self) -> str:
        """The newest report in a frame of its own, without scripts."""
        newest = newest_report(self.searcher.collection.path)
        if newest is None:
            return page_html.note(
                "There is no report yet. chiasm evaluate writes one: --report COLLECTION/reports/NAME.html shows it here."
            )
        url = f"{self._path}/report?{newest.stat().st_mtime_ns:x}"
        return (
            f'<p class="cx-small">{escape(newest.name)} · <a href="{url}" target="_blank">open alone</a></p>'
            f'<iframe class="cx-report" src="{url}" sandbox title="Newest evaluation"></iframe>'
        )

    # ------------------------------------------------------------------------------------------------------- helpers

    async def _open(self, path: str | Path) -> Media:
        return await self.engine.read(partial(self.searcher.open, path, limits=self._parts.settings.uploads))

    async def _item(self, name: str) -> dict[str, Any]:
        found = await self.engine.item(name)
        if found is None:
            raise Problem(404, "item", "This item is no longer there.")
        return found

    async def _items(self, names: set[str]) -> dict[str, dict[str, Any]]:
        rows = await self.engine.read(partial(self.searcher.collection.items, ids=sorted(names))) if names else []
        return {str(row["id"]): item_of(row) for row in rows}

    def _fault(self, error: ChiasmError | Problem) -> str:
        return page_html.problem(self._words_of(error))

    def _words_of(self, error: ChiasmError | Problem) -> str:
        return self.engine.without_paths(error.detail if isinstance(error, Problem) else str(error))


def _rated(asking: Asking, item: str, act: str) -> Asking:
    """The query with a thumb on an item, or without one; from the first page again."""
    assert asking.query is not None  # there is nothing to rate otherwise
    liked = tuple(name for name in asking.query.liked if name != item)
    disliked = tuple(name for name in asking.query.disliked if name != item)
    if act == "up":
        liked = (*liked, item)
    elif act == "down":
        disliked = (*disliked, item)
    if len(liked) + len(disliked) > MOST_RATED:
        raise Problem(422, "invalid", f"One ranking takes at most {MOST_RATED} thumbs. Take some back, or search anew.")
    query = replace(asking.query, liked=liked, disliked=disliked)
    return replace(asking, query=query, options=replace(asking.options, offset=0))


def _light(medium: Media) -> Media:
    """A medium without what fills memory: it is embedded already, and only its kind is looked at from now on."""
    match medium:
        case Image():
            return Image(np.zeros((1, 1, 3), np.uint8))
        case Audio():
            return Audio(np.zeros(1, np.float32), medium.rate)
        case Video():
            return Video(np.zeros((1, 1, 1, 3), np.uint8), np.zeros(1, np.float32), medium.duration)
        case Text():
            return medium


def _title(media: Sequence[Media], words: str, minus: str, paths: Sequence[str | Path]) -> str:
    parts = [f"“{words}”"] if words else []
    sent = [medium.modality for medium in media[len(parts) :]]
    parts += [f"{kind} {Path(path).name}" for kind, path in zip(sent, paths, strict=True)]
    return " + ".join(parts) + (f" − “{minus}”" if minus else "")


def newest_report(folder: Path) -> Path | None:
    """The report that was written last into a collection's folder `reports`; None where there is none."""
    found = [
        (path.stat().st_mtime_ns, path)
        for path in (folder / "reports").glob("*.html")
        if path.is_file() and not path.is_symlink()
    ]
    return max(found)[1] if found else None


# --------------------------------------------------------------------------------------------------------- components


def build_page(page: Page) -> gr.Blocks:
    """The page's components and what each of them calls."""
    name = escape(page.searcher.collection.path.name)
    blocks: gr.Blocks
    with gr.Blocks(
        title=f"{name} · chiasm", analytics_enabled=False, delete_cache=(600, _KEPT), fill_width=True
    ) as blocks:
        gr.HTML(f'<header class="cx-head"><b>chiasm</b><h1>{name}</h1></header>', padding=False)
        with gr.Tabs(elem_id="cx-tabs"):
            with gr.Tab("Search", id="search"):
                _search_tab(page, blocks)
            if page.engine.classifier is not None:
                with gr.Tab("Classify", id="classify"):
                    _classify_tab(page)
            with gr.Tab("Map", id="map") as tab:
                _map_tab(page, tab)
            with gr.Tab("Report", id="report") as tab:
                shown = gr.HTML(padding=False)
                tab.select(page.report, None, shown, show_progress="hidden", api_visibility="private")
            with gr.Tab("Status", id="status") as tab:
                shown = gr.HTML(padding=False)
                tab.select(page.status, None, shown, show_progress="hidden", api_visibility="private")
    blocks.queue(max_size=WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    blocks.state_session_capacity = SESSIONS
    return blocks


def _search_tab(page: Page, blocks: gr.Blocks) -> None:
    has = page.searcher.modalities
    words_say = "Search in words, and press Enter" if "text" in has else "This collection is searched with files"
    with gr.Row(elem_classes="cx-ask"):
        words = gr.Textbox(
            show_label=False, container=False, placeholder=words_say, elem_id="cx-words", scale=1, max_length=10_000,
            html_attributes=gr.InputHTMLAttributes(enterkeyhint="search", autocomplete="off"), label="Search in words",
        )  # fmt: skip
        go = gr.Button("Search", variant="primary", scale=0, min_width=110, elem_id="cx-go")
    with gr.Row(elem_classes="cx-columns"):
        with (
            gr.Column(scale=0, min_width=270, elem_classes="cx-side"),
            gr.Accordion("Files and filters", open=True, elem_id="cx-more"),
        ):
            takes = [{"audio": "sound"}.get(kind, kind) for kind in ("image", "audio", "video") if kind in has]
            file = gr.File(label=f"A file: {', '.join(takes)}", height=96, elem_id="cx-file", visible=bool(takes))
            sound = gr.Audio(
                sources=["microphone"], type="filepath", label="Or a sound from the microphone", elem_id="cx-record",
                buttons=[], visible="audio" in has,
            )  # fmt: skip
            minus = gr.Textbox(label="But not", placeholder="words", max_length=10_000, elem_id="cx-minus")
            kinds = [_ANY, *(kind for kind in MODALITIES if kind in has)]
            modality = gr.Dropdown(kinds, value=_ANY, label="Find by", elem_id="cx-kind", filterable=False)
            columns = page.searcher.status().columns
            example = f"{columns[0]} = '…'" if columns else "id LIKE 'a%'"
            where = gr.Textbox(label="Where (SQL)", placeholder=example, max_length=2000, elem_id="cx-where")
            hybrid = gr.Checkbox(label="Match the words themselves, too", elem_id="cx-hybrid", visible="text" in has)
        with gr.Column(scale=1, min_width=300):
            shown = gr.HTML(elem_id="cx-results", padding=False, js_on_load=_listener("search"))
    state = gr.State(None, time_to_live=_KEPT)

    async def ask(
        words: str | None, minus: str | None, file: str | None, sound: str | None, modality: str, where: str | None,
        hybrid: bool,
    ) -> tuple[str, Asking | None]:  # fmt: skip
        chosen = next((kind for kind in MODALITIES if kind == modality), None)
        paths = [path for path in (file, sound) if path]
        html, asking = await page.search(
            words or "", minus=minus or "", paths=paths, modality=chosen, where=where or "", hybrid=hybrid
        )
        return _numbered(html), asking

    async def act(asking: Asking | None, pressed: gr.EventData, request: gr.Request) -> tuple[str, Asking | None]:
        html, asking = await page.act(_said(pressed, "act"), _said(pressed, "id"), asking, who=_who(request))
        return _numbered(html), asking

    gr.on(
        [
            *(words.submit, go.click, minus.submit, where.submit, modality.input, hybrid.input),
            *(file.upload, file.clear, sound.stop_recording, sound.clear, blocks.load),
        ],
        ask,
        [words, minus, file, sound, modality, where, hybrid],
        [shown, state],
        show_progress="minimal",
        show_progress_on=shown,
        api_visibility="private",
    )
    shown.click(act, [state], [shown, state], show_progress="hidden", api_visibility="private")


def _classify_tab(page: Page) -> None:
    assert page.engine.classifier is not None  # the caller has asked
    with gr.Row(elem_classes="cx-columns"):
        with gr.Column(scale=0, min_width=270, elem_classes="cx-side"):
            dropped = gr.File(label="Drop files to recognise", file_count="multiple", height=150, elem_id="cx-drop")
            say = gr.Button("Recognise", variant="primary", elem_id="cx-say")
            look = gr.Button("Review items of the collection", elem_id="cx-review")
            learn = gr.Button("Learn from corrections", elem_id="cx-learn", visible=page.lessons.learn is not None)
            gr.HTML(
                page_html.note(
                    f"The model predicts “{page.engine.classifier.label}”. A correction is kept at once; learning fits the "
                    "model again and keeps the old one if the new one is worse."
                ),
                padding=False,
            )
        with gr.Column(scale=1, min_width=300):
            compared = gr.HTML(elem_id="cx-learned", padding=False)
            shown = gr.HTML(elem_id="cx-predictions", padding=False, js_on_load=_listener("classify"))
    cards = gr.State((), time_to_live=_KEPT)
    paths = gr.State({}, time_to_live=_KEPT)
    turn = gr.State(0, time_to_live=_KEPT)

    async def recognise(files: list[str] | None) -> tuple[str, Any, Any]:
        html, cards, paths = await page.classify(files or [])
        return _numbered(html), cards, paths

    async def review(turn: int) -> tuple[str, Any, Any, int]:
        html, cards, paths = await page.review(seed=turn)
        return _numbered(html), cards, paths, turn + 1

    async def correct(cards: Any, paths: Any, pressed: gr.EventData, request: gr.Request) -> tuple[str, Any]:
        html, cards = await page.correct(_said(pressed, "id"), _said(pressed, "label"), cards, paths, who=_who(request))
        return _numbered(html), cards

    quiet: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": shown, "api_visibility": "private"}
    gr.on([say.click, dropped.upload], recognise, [dropped], [shown, cards, paths], **quiet)
    look.click(review, [turn], [shown, cards, paths, turn], **quiet)
    shown.click(correct, [cards, paths], [shown, cards], **quiet)
    learn.click(page.learn, None, compared, show_progress="minimal", concurrency_limit=1, api_visibility="private")


def _map_tab(page: Page, tab: gr.Tab) -> None:
    status = page.searcher.status()
    kinds = [kind for kind in MODALITIES if kind in status.embeddings]
    columns = list(status.columns)
    label = None if page.engine.classifier is None else page.engine.classifier.label
    chosen = next((name for name in (label, "label", "folder", *columns) if name in columns), None)
    with gr.Row(elem_classes="cx-filters"):
        modality = gr.Dropdown(kinds, value=kinds[0] if kinds else None, label="Embeddings of", elem_id="cx-map-kind")
        column = gr.Dropdown(["none", *columns], value=chosen or "none", label="Coloured by", elem_id="cx-map-column")
        layout = gr.Radio(list(_LAYOUTS), value="overview", label="Layout", elem_id="cx-map-layout")
    with gr.Row(elem_classes="cx-columns"):
        with gr.Column(scale=1, min_width=300):
            shown = gr.HTML(elem_id="cx-map", padding=False, js_on_load=_listener("map"))
        with gr.Column(scale=0, min_width=270, elem_classes="cx-aside"):
            item = gr.HTML(page_html.note("Choose a point to see its item."), elem_id="cx-map-item", padding=False)

    async def draw(modality: str | None, column: str, layout: str) -> str:
        kind = next((kind for kind in MODALITIES if kind == modality), None)
        return await page.map(kind, column if column in columns else None, cast("page_map.Layout", layout))

    async def show(pressed: gr.EventData) -> str:
        return await page.show(_said(pressed, "id"))

    quiet: dict[str, Any] = {"show_progress": "minimal", "show_progress_on": shown, "api_visibility": "private"}
    gr.on(
        [tab.select, modality.input, column.input, layout.input], draw, [modality, column, layout], shown,
        concurrency_limit=1, **quiet,
    )  # fmt: skip
    shown.click(show, None, [item], show_progress="hidden", api_visibility="private")


_DRAWN = count(1)


def _numbered(html: str) -> str:
    """With a number by which `page.js` sees that it is new, also where Gradio keeps parts of what was there."""
    return f'<div data-drawn="{next(_DRAWN)}">{html}</div>'


def _listener(box: str) -> str:
    """Lets `page.js` tell this component what was pressed in it."""
    return f"chiasm.listen({json.dumps(box)}, trigger)"


def _said(pressed: gr.EventData, name: str) -> str:
    """One value of what was pressed; empty where it is no text, which no item or label is."""
    value = getattr(pressed, name, "")
    return value if isinstance(value, str) else ""


def _who(request: gr.Request) -> str:
    """Whom the guard took the sender for."""
    assert request.request is not None  # an event comes by a request
    visit = request.request.scope["state"]["visit"]
    return str(visit.who)


# -------------------------------------------------------------------------------------------------------------- mount


def mount(app: FastAPI, searcher: Searcher, *, lessons: Lessons = Lessons(), path: str = PATH) -> None:
    """Put the page on an application of `create_app`, and lead `/` to it.

    The settings of the application need `page_paths=(path,)`, so that the page gets its own security policy.

    Args:
        app: the application; its parts take thumbs and labels, and bound what is uploaded.
        searcher: what the application searches in.
        lessons: what of the loop is offered.
        path: where the page is.

    Raises:
        ChiasmError: the settings do not know the path.
    """
    parts: Parts = app.state.parts
    settings = parts.settings
    if path not in settings.page_paths:
        raise ChiasmError(f"settings.page_paths has to hold {path!r}, so that the page gets its own security policy")
    uploads = tempfile.TemporaryDirectory(
        prefix="chiasm-page-"
    )  # of this process alone; nothing else is served from it
    finalize(app, uploads.cleanup)
    os.environ["GRADIO_TEMP_DIR"] = str(Path(uploads.name).resolve())  # the only way that Gradio has to be told
    os.environ.update(_QUIET)
    page = Page(searcher, parts, lessons, path=path)

    async def report(_: Request) -> Response:
        newest = newest_report(searcher.collection.path)
        if newest is None:
            return Response("there is no report", status_code=404, media_type="text/plain")
        return FileResponse(
            newest,
            media_type="text/html; charset=utf-8",
            headers={
                "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
                "frame-ancestors 'self'",
                "X-Frame-Options": "SAMEORIGIN",
                "Cache-Control": "private, no-cache",
            },
        )

    async def home(_: Request) -> Response:
        return RedirectResponse(path + "/", status_code=307)

    async def icon(_: Request) -> Response:
        return Response(_ICON, media_type="image/svg+xml")

    app.add_route("/favicon.ico", icon, include_in_schema=False)
    app.add_route("/", home, include_in_schema=False)
    app.add_route(path, home, include_in_schema=False)
    app.add_route(f"{path}/report", report, include_in_schema=False)
    assets = files("chiasm.serving")

    def put() -> None:
        gr.mount_gradio_app(
            app,
            build_page(page),
            path=path,
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=min(settings.max_body, settings.uploads.max_bytes),
            ssr_mode=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            theme=_theme(),
            css=assets.joinpath("page.css").read_text(encoding="utf-8"),
            head=f"<script>{_script()}</script>",
            app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
        )

    async def put_in_loop() -> None:
        put()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(put_in_loop())  # where no loop runs, Gradio makes some and leaves them open
    else:
        put()
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)  # what was mounted just now
    mounted.app = _Door(mounted.app, path=path, uploads=Path(uploads.name).resolve())


def _theme() -> gr.themes.Base:
    """Fonts of the system, for none may be loaded from elsewhere; quiet colours, little air."""
    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        spacing_size="sm",
        radius_size="sm",
        font=system,
        font_mono=("ui-monospace", "Menlo", "Consolas", "monospace"),
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_text_color="white",
        block_label_text_color="*neutral_700",
        block_title_text_weight="500",
        block_title_text_color="*neutral_700",
        body_text_color_subdued="*neutral_600",
        block_border_width="0px",
        block_padding="0px",
        block_shadow="none",
        layout_gap="10px",
        checkbox_label_background_fill="transparent",
        checkbox_label_background_fill_hover="*background_fill_secondary",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*neutral_300",
        input_background_fill="*background_fill_primary",
        input_border_color="*neutral_300",
        input_border_color_focus="*primary_600",
    )


POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-eval' {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: nothing from elsewhere, and of inline scripts only those that the server wrote, by
their hashes. Gradio makes functions of its own templates, hence `unsafe-eval`; of what people write it makes none."""
_INLINE = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M2 3l12 10M2 13L14 3" stroke="#0f766e" '
    'stroke-width="2.6" stroke-linecap="round"/></svg>'
)


def _script() -> str:
    return files("chiasm.serving").joinpath("page.js").read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


class _Door:
    """ASGI before Gradio: what the page does not need of its routes is not there.

    Gradio can fetch addresses for a client (`file=http...`, `proxy=`, files named by address in an event), describe
    itself and more. Here only the page, its own assets, uploads and events go through.

    Args:
        app: Gradio's application.
        path: where it is mounted.
        uploads: the folder that its files may be read from.
    """

    _ROUTES = re.compile(
        r"/?|/config|/theme\.css|/favicon\.ico|/assets/[\w.@/-]+|/static/[\w./-]+|/svelte/[\w./-]+|/gradio_api/"
        r"(queue/(join|data)|heartbeat/\w+|upload|upload_progress|startup-events|app_id|cancel|reset|theme\.css|file=.+)"
    )

    def __init__(self, app: ASGIApp, *, path: str, uploads: Path) -> None:
        self._app, self._path, self._uploads = app, path, str(uploads)
        self._own = _hash(_script())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or say that there is no such thing."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"].removeprefix(self._path)
        if not self._ROUTES.fullmatch(route) or ".." in route.split("/"):
            raise Problem(404, "request", "the page has no such part")
        if route.startswith("/gradio_api/file="):
            wanted = os.path.realpath(route.removeprefix("/gradio_api/file="))
            if not wanted.startswith(self._uploads + os.sep):
                raise Problem(404, "file", "there is no such file")
        if route == "/gradio_api/queue/join":
            receive = await self._checked(receive)
        await self._app(scope, receive, self._with_policy(send) if route in ("", "/") else send)

    def _with_policy(self, send: Send) -> Send:
        """The document with a policy that names its scripts: no other runs, whatever gets into the page."""
        start: Message = {}
        body = bytearray()

        async def whole(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body", False):
                hashes = [_hash(script) for script in _INLINE.findall(body.decode("utf-8"))]
                policy = POLICY.format(scripts=" ".join(sorted({self._own, *hashes})))
                headers = [*start.get("headers", ()), (b"content-security-policy", policy.encode("ascii"))]
                await send({**start, "headers": headers})
                await send({"type": "http.response.body", "body": bytes(body)})

        return whole

    async def _checked(self, receive: Receive) -> Receive:
        """An event, read whole, that names no file outside the uploads."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Problem(400, "request", "the event broke off")
            body += message.get("body", b"")
            if len(body) > _LONGEST_EVENT:
                raise Problem(413, "too-large", f"an event has at most {_LONGEST_EVENT:,} bytes; files are uploaded")
            if not message.get("more_body", False):
                break
        try:
            event = json.loads(body)
        except ValueError as error:
            raise Problem(422, "invalid", "an event is JSON") from error
        for name in _paths_in(event):
            if not os.path.realpath(name).startswith(self._uploads + os.sep):
                raise Problem(422, "file", "an event names only files that were uploaded")
        sent = False

        async def again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return again


def _paths_in(value: Any) -> list[str]:
    """All paths of files in the data of an event."""
    if isinstance(value, dict):
        own = [value["path"]] if isinstance(value.get("path"), str) else []
        return own + [path for inner in value.values() for path in _paths_in(inner)]
    if isinstance(value, list):
        return [path for inner in value for path in _paths_in(inner)]
    return []
