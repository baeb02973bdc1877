"""Questions with known answers, asked of a `Searcher` as anybody asks: what it should find, and what it should not.

Reads them from files and asks them. The numbers are left to `chiasm.evaluation`, searching to `chiasm.verbs.search`,
what is shown to `chiasm.report.search`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from chiasm import media, work
from chiasm.alignment.pairs import Pairs
from chiasm.errors import CollectionError, ManifestError, MediaError, SpaceError
from chiasm.evaluation.intervals import Interval
from chiasm.evaluation.moments import MomentMetrics, Span, moment_metrics
from chiasm.evaluation.relevance import Abstention, RelevanceMetrics, abstention, relevance_metrics
from chiasm.files import one_form, open_source, path_on_disk
from chiasm.report.page import Page
from chiasm.report.search import show_abstention, show_moments, show_relevance
from chiasm.splits import merge_groups
from chiasm.store.collection import Collection
from chiasm.store.rows import TABLES, Row, encoding_of, not_unicode
from chiasm.types import Audio, Media, Modality, Text, Video
from chiasm.verbs.query import Hit, Query, SearchOptions, SearchResult
from chiasm.verbs.search import Searcher, open_query

MOST_BYTES = 10_000_000  # of a file of questions
MOST_QUESTIONS = 10_000  # of a file
MOST_ASKED = 2_000  # questions with an answer that are asked; of more that many are drawn
HITS = 10  # of a question whose probabilities are looked at
FILES = 20  # of each modality whose moments are looked at

_BATCH = 64  # words that are embedded together
_RECORDINGS: tuple[Modality, ...] = ("audio", "video")
_TEXTS: tuple[Modality, ...] = ("text",)
_COLUMNS = ("query", "item", "start", "end")
_MEDIUM = re.compile(
    r"\.(jpe?g|png|gif|webp|bmp|tiff?|avif|wav|flac|og[ga]|opus|mp3|m4a|aac|aiff?|mp4|m4v|mov|webm|mkv|avi)$", re.I
)
_LONGEST_NAME = 255


# ---------------------------------------------------------------------------------------------------------- off topic


@dataclass(frozen=True, eq=False)
class OffTopic:
    """Results of questions without an answer, and of questions with one.

    Attributes:
        abstention: the shares of both that get a result at the least probability that search takes by itself (`"auto"`).
        relevance: whether the probabilities of the first 10 results of all these questions can be trusted.
        answerable: the best probability of each question that has an answer; -inf for no result.
        off_topic: the same of the others.
        searched: the modality of the files that all of them were asked of.
        false: questions without an answer that got a result, with the best one, the most probable first.
        lost: questions with an answer that got no result, with their best probability, the most probable first.
    """

    abstention: Abstention
    relevance: RelevanceMetrics
    answerable: Float64[np.ndarray, " queries"]
    off_topic: Float64[np.ndarray, " others"]
    searched: Modality
    false: tuple[tuple[str, Hit], ...]
    lost: tuple[tuple[str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON, with the questions that went wrong."""
        return {
            **self.abstention.as_dict(),
            "searched": self.searched,
            "answerable": len(self.answerable),
            "off_topic": len(self.off_topic),
            "relevance": self.relevance.as_dict(),
            "answered_falsely": [
                {"question": question, "id": hit.id, "probability": hit.probability} for question, hit in self.false
            ],
            "lost": [question for question, _ in self.lost],
        }

    def show(self, page: Page) -> None:
        """Add sections on "nothing found" as an answer, and on the probabilities behind it."""
        how = (
            f"Asked through search, of {self.searched} files, with the least probability that it takes by itself "
            "(--min-probability auto). The queries that have an answer are the texts of pairs, whose other side is there to "
            "be found."
        )
        false = [(question, hit.probability, hit.id) for question, hit in self.false]
        show_abstention(page, self.abstention, self.answerable, self.off_topic, how=how, false=false, lost=self.lost)
        show_relevance(page, self.relevance)


def read_questions(path: str | Path) -> tuple[str, ...]:
    """Read the questions of a text file, one per line; empty lines and repeated ones are skipped.

    Raises:
        ManifestError: the file is missing, too large, not UTF-8, or holds no question or too many.
    """
    lines = (line.strip() for line in _read_text(Path(path)).splitlines())
    questions = tuple(dict.fromkeys(line for line in lines if line))
    if not questions:
        raise ManifestError(str(path), "there is no question in it; write one per line, which nothing here answers")
    _check_number(path, len(questions))
    return questions


def ask_off_topic(
    searcher: Searcher,
    questions: Sequence[str],
    data: Pairs,
    rows: Int[np.ndarray, " some"],
    texts: Sequence[str],
    *,
    where: str | None = None,
    seed: int = 0,
) -> OffTopic:
    """Ask questions that have no answer, and for comparison the texts of pairs, of the files of the pairs' other modality.

    Of each question counts what `search` with a least probability of `"auto"` would show. Of texts with the same content one is
    asked. A result is relevant if its file has the content of a file that is paired with the text.

    Args:
        searcher: who is asked; its space has to know probabilities.
        questions: those without an answer in the collection.
        data: all pairs, of text and another modality.
        rows: the pairs whose texts are asked.
        texts: of these pairs.
        where: condition on the items that may be found.
        seed: of the questions that are drawn if there are more than 2,000 with an answer.

    Raises:
        SpaceError: the pairs are not of text, or results have no probability.
    """
    if data.anchor != "text":
        raise SpaceError(
            f"off-topic questions are words, so those with an answer have to be, too; got pairs of {data.moved} and "
            f"{data.anchor}. Take text and another modality, e.g. --pairs {data.moved},text"
        )
    searched = data.moved
    unanswered = _prepare(searcher, [Text(question) for question in questions])
    try:
        searcher.search(unanswered[0], SearchOptions(modality=searched, where=where, k=1, min_probability="auto"))
    except SpaceError as error:
        raise SpaceError(f"whether a question has an answer is told by probabilities: {error}") from error

    first = {data.anchor_hashes[row]: place for place, row in reversed(list(enumerate(rows.tolist())))}
    places = np.array(sorted(first.values()), dtype=np.int64)
    if len(places) > MOST_ASKED:
        places = np.sort(np.random.default_rng(seed).permutation(places)[:MOST_ASKED])
    pairs = rows[places]
    answered = [
        Query((Text(texts[place]),), vectors=data.anchors[row][None]) for place, row in zip(places, pairs, strict=True)
    ]
    on_topic, off_topic = (
        [
            searcher.search(query, SearchOptions(modality=searched, where=where, k=HITS))
            for query in work.steps(queries, "questions")
        ]
        for queries in (answered, unanswered)
    )

    right: dict[str, set[str]] = {}
    for text, file in zip(data.anchor_hashes, data.moved_hashes, strict=True):
        right.setdefault(text, set()).add(file)
    content = {(row["item"], row["slot"]): row["hash"] for row in searcher.collection.files()}
    relevant = [
        content[hit.id, f"{searched}/{hit.number}"] in right[data.anchor_hashes[row]]
        for row, result in zip(pairs, on_topic, strict=True)
        for hit in result.hits
    ]
    relevant += [False for result in off_topic for _ in result.hits]
    every = (*on_topic, *off_topic)
    probabilities = [hit.probability for result in every for hit in result.hits]
    threshold = min(result.threshold for result in every if result.threshold is not None)
    known, unknown = _best(on_topic), _best(off_topic)
    return OffTopic(
        abstention=abstention(known, unknown, threshold=threshold),
        relevance=relevance_metrics(np.array(probabilities, dtype=np.float64), np.array(relevant, dtype=bool)),
        answerable=known,
        off_topic=unknown,
        searched=searched,
        false=tuple(
            (questions[number], off_topic[number].hits[0])
            for number in np.argsort(-unknown, kind="stable")
            if unknown[number] >= threshold
        ),
        lost=tuple(
            (texts[places[number]], float(known[number]))
            for number in np.argsort(-known, kind="stable")
            if known[number] < threshold
        ),
    )


def _best(results: Sequence[SearchResult]) -> Float64[np.ndarray, " results"]:
    """Return the best probability of each; -inf for no result."""
    best = [result.hits[0].probability if result.hits else None for result in results]
    return np.array([-math.inf if one is None else one for one in best], dtype=np.float64)


# ------------------------------------------------------------------------------------------------------------ moments


@dataclass(frozen=True)
class KnownMoment:
    """A row of a table: a query, and where it is answered in the recording or text of which item."""

    query: str  # as it stands in the table
    path: Path | None  # of the file to search with; None: words
    item: str
    is_text: bool  # the item has neither a sound nor a video
    start: float  # seconds; of texts characters
    end: float

    @property
    def span(self) -> Span:
        """The right answer; characters of a text and seconds of a recording are never of one file."""
        return Span(_file_of(self.item, self.is_text), self.start, self.end)


@dataclass(frozen=True, eq=False)
class AskedMoments:
    """How well the moments of a table were found.

    Attributes:
        metrics: by query, in the order of the table.
        intervals: of each metric, over groups of queries that share an item; empty if all are of one group.
        truth: by query, the right spans.
        first: by query, the first span of its results; None if there is none.
    """

    metrics: MomentMetrics
    intervals: Mapping[str, Interval]
    truth: Mapping[str, tuple[Span, ...]]
    first: Mapping[str, Span | None]

    @property
    def items(self) -> int:
        """Recordings that hold a right span."""
        return len({span.file for spans in self.truth.values() for span in spans})

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics and the ends of their 95 % intervals, for JSON."""
        ends = {name: [one.low, one.high] for name, one in self.intervals.items()}
        return {**self.metrics.as_dict(), "items": self.items, "intervals": ends}

    def show(self, page: Page) -> None:
        """Add sections on how well moments were found."""
        show_moments(page, self.metrics, self.intervals, truth=self.truth, first=self.first)


def read_moments(path: str | Path, collection: Collection) -> tuple[KnownMoment, ...]:
    """Read the moments of a table with the columns query, item, start and end; other columns are skipped.

    A query is a file if it names one, relative to the table, or ends as files of pictures, sounds and videos do; else it is
    words. The same query in several rows has several right answers. Tables are those of `chiasm.store.manifest`; one whose
    name does not say what it is, is CSV.

    Raises:
        ManifestError: with the line: the table is missing, too large, not UTF-8 or no table, lacks a column or all rows, an
            item is not in the collection or has no moments, times are no numbers or end before they start, a query is
            empty, or its file is missing.
    """
    table = Path(path)
    read, _ = TABLES.get(table.suffix.lower(), TABLES[".csv"])
    bad: list[ManifestError] = []
    with _reading(table):
        rows = list(islice(read(table, bad), MOST_QUESTIONS + 1))
    if bad:
        raise bad[0]
    if not rows:
        raise ManifestError(str(path), "the table has no rows; write a query, an item, and when it begins and ends")
    _check_number(path, len(rows))
    names = dict.fromkeys(name for row in rows for name in row.values)
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        problem = f"no column is called {' and none '.join(missing)}; there are {', '.join(names)}"
        raise ManifestError(str(path), f"{problem}. Moments need the columns {', '.join(_COLUMNS)}")
    cells = [{name: "" if (v := row.values.get(name)) is None else str(v).strip() for name in _COLUMNS} for row in rows]
    items = {str(row["id"]): row for row in collection.items(ids=sorted({one_form(one["item"]) for one in cells}))}
    return tuple(_known_moment(row, of_row, items, collection) for row, of_row in zip(rows, cells, strict=True))


def _known_moment(
    row: Row, cells: Mapping[str, str], items: Mapping[str, Mapping[str, Any]], collection: Collection
) -> KnownMoment:
    query, item = cells["query"], one_form(cells["item"])
    wrong = row.error
    if not query:
        raise wrong("the query is empty; write words, or the path of a file to search with", "query")
    path = None
    if len(query) <= _LONGEST_NAME and "\0" not in query:
        path = Path(path_on_disk(str(row.path.parent), query))
        if not path.is_file():
            if _MEDIUM.search(query):
                raise wrong(f"there is no file {query!r}; paths are relative to the table", "query")
            path = None
    if item not in items:
        raise wrong(f"there is no item {item!r} in {collection.path}", "item")
    is_text = not any(items[item][modality] for modality in _RECORDINGS)
    if is_text and not items[item]["text"]:
        raise wrong(f"the item {item!r} has no sound, video or text, and so no moments", "item")
    unit = "characters" if is_text else "seconds"
    times = []
    for name in ("start", "end"):
        try:
            times.append(float(cells[name]))
        except ValueError:
            raise wrong(f"a time is a number of {unit}; got {cells[name]!r}", name) from None
        if not (math.isfinite(times[-1]) and times[-1] >= 0):
            raise wrong(f"a time is a number of {unit} from 0 on; got {cells[name]!r}", name)
    start, end = times
    if end <= start:
        raise wrong(f"a moment ends after it starts; got {start:g} to {end:g} {unit}", "end")
    return KnownMoment(query, path, item, is_text, start, end)


def ask_moments(searcher: Searcher, known: Sequence[KnownMoment], *, where: str | None = None) -> AskedMoments:
    """Search sounds and videos, or texts, by each query; the moments of all files in the results are what it predicts.

    Texts are searched where a right answer is in an item with neither a sound nor a video, these where one is in another.

    A file without moments, since it is short or nothing changes in it, is one moment from its beginning to its end.

    Args:
        searcher: who is asked.
        known: the right answers.
        where: condition on the items that may be found; moments of others are left out.

    Raises:
        SpaceError: the space has none of the modalities of the right answers, or lacks that of a query.
        CollectionError: no item of `known` meets the condition, or a file in the results cannot be opened.
        MediaError: a file of a query cannot be used.
    """
    wanted = {name for one in known for name in (_TEXTS if one.is_text else _RECORDINGS)}
    modalities = [name for name in (*_RECORDINGS, *_TEXTS) if name in wanted & {*searcher.modalities}]
    if not modalities:
        raise SpaceError(
            f"the space {searcher.space.name!r} has {', '.join(searcher.modalities)}, and so no moments of "
            f"{' and '.join(sorted(wanted))}"
        )
    if where is not None:
        allowed = set(searcher.collection.ids(where=where))
        known = [one for one in known if one.item in allowed]
        if not known:
            raise CollectionError(f"no item of the table of moments meets the condition {where!r}")
    truth: dict[str, list[Span]] = {}
    for one in known:
        truth.setdefault(one.query, []).append(one.span)
    paths = {one.query: one.path for one in known}
    words = [query for query in truth if paths[query] is None]
    queries = dict(zip(words, _prepare(searcher, [Text(query) for query in words]), strict=True))
    predicted = {}
    lengths: dict[Path, float] = {}
    for query in work.steps(truth, "questions"):
        path = paths[query]
        asked = queries[query] if path is None else Query((open_query(searcher, path),))
        predicted[query] = _spans(searcher, asked, modalities, where, lengths)
    metrics = moment_metrics(predicted, truth)
    groups = merge_groups([one.query for one in known], [one.item for one in known])
    of_query = {one.query: int(group) for one, group in zip(known, groups, strict=True)}
    labels = [of_query[query] for query in metrics.queries]
    return AskedMoments(
        metrics,
        metrics.intervals(groups=labels) if len(set(labels)) > 1 else {},
        {query: tuple(spans) for query, spans in truth.items()},
        {query: next(iter(spans), None) for query, spans in predicted.items()},
    )


def _spans(
    searcher: Searcher, query: Query, modalities: Sequence[Modality], where: str | None, lengths: dict[Path, float]
) -> list[Span]:
    """Return the moments of the files in a query's results, best first."""
    scored: list[tuple[float, Span]] = []
    for modality in modalities:
        for hit in searcher.search(query, SearchOptions(k=FILES, modality=modality, where=where)).hits:
            file = _file_of(hit.id, modality == "text")
            scored += [(moment.score, Span(file, moment.start, moment.end)) for moment in hit.moments]
            if not hit.moments and hit.path is None:
                scored.append((hit.score, Span(file, 0.0, len(hit.text or ""))))
            elif not hit.moments and hit.path is not None:
                path = Path(hit.path)
                if path not in lengths:
                    lengths[path] = _length(path)
                scored.append((hit.score, Span(file, 0.0, lengths[path])))
    return [span for _, span in sorted(scored, key=lambda pair: -pair[0])]


def _file_of(item: str, is_text: bool) -> str:
    return f"{item} (text)" if is_text else item


def _length(path: Path) -> float:
    """Return how many seconds a recording lasts, or how many characters a text has."""
    try:
        medium = media.load(path, frames=1)
    except MediaError as error:
        raise CollectionError(
            f"{path} is among the results and cannot be opened: {error.reason}. Add it again, or remove it"
        ) from error
    match medium:
        case Audio():
            return len(medium.waveform) / medium.rate
        case Video():
            return medium.duration
        case Text():
            return len(medium.text)
        case _:
            raise CollectionError(f"{path} was added as a recording and holds {medium.modality} now. Add it again")


# ------------------------------------------------------------------------------------------------------------- shared


def _prepare(searcher: Searcher, parts: Sequence[Media]) -> list[Query]:
    """Return queries of one medium each, embedded batch by batch."""
    queries = []
    for start in work.steps(range(0, len(parts), _BATCH), "batches of questions"):
        batch = parts[start : start + _BATCH]
        for medium, vector in zip(batch, searcher.prepare(batch), strict=True):
            queries.append(Query((medium,), vectors=vector[None]))
    return queries


def _read_text(path: Path) -> str:
    """Return all of a small text file.

    Raises:
        ManifestError: it is missing, too large or not UTF-8.
    """
    with _reading(path), io.TextIOWrapper(open_source(path), encoding=encoding_of(path)) as file:
        try:
            return file.read()
        except UnicodeError as error:
            raise not_unicode(path) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Refuse a file that is missing or too large."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ManifestError(str(path), f"the file has {size:,} bytes; at most {MOST_BYTES:,} are read")
        yield
    except FileNotFoundError as error:
        raise ManifestError(str(path), "there is no such file") from error
    except OSError as error:
        raise ManifestError(str(path), f"it cannot be read: {error.strerror or error}") from error


def _check_number(path: str | Path, number: int) -> None:
    if number > MOST_QUESTIONS:
        raise ManifestError(str(path), f"it holds {number:,} questions; at most {MOST_QUESTIONS:,} are asked")
