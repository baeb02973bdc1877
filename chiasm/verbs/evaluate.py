"""Questions whose answers are known, asked of a `Searcher` as anybody asks: what it should find, and what it should not.

Reads them from files, asks them, and words what came back for a report. The numbers themselves are left to
`chiasm.evaluation`, searching to `chiasm.verbs.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from chiasm import encoders
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, CollectionError, SpaceError
from chiasm.recognition import Recognizer
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Media, Modality, Text
from chiasm.verbs import fit as learning
from chiasm.verbs.dataset import (
    fingerprints_of,
    labelled_items,
    pairs_of,
)
from chiasm.verbs.model import load_model
from chiasm.verbs.search import (
    Query,
    Searcher,
    SearchResult,
    space_of,
    start_of,
)

if TYPE_CHECKING:
    from chiasm.report.page import Medium, Page
    from chiasm.report.sections import Measured

import csv
import io
import math
import re

from jaxtyping import Float64

from chiasm import media
from chiasm.errors import ManifestError, MediaError
from chiasm.evaluation.intervals import Interval
from chiasm.evaluation.moments import MomentMetrics, Span, moment_metrics
from chiasm.evaluation.relevance import Abstention, RelevanceMetrics, abstention, relevance_metrics
from chiasm.report.page import Page, show_moments, show_nothing_found, show_relevance
from chiasm.retrieval.index import Hit
from chiasm.splits import merge_groups
from chiasm.types import Audio, Video
from chiasm.verbs.align import paired_gain

MOST_BYTES = 10_000_000  # of a file of questions
MOST_QUESTIONS = 10_000  # of a file
MOST_ASKED = 2_000  # questions with an answer that are asked; of more so many are drawn
HITS = 10  # of a question whose probabilities are looked at
FILES = 20  # of each modality whose moments are looked at
SHOWN = 12  # rows of a report's tables

_BATCH = 64  # words that are embedded together
_RECORDINGS: tuple[Modality, ...] = ("audio", "video")
_COLUMNS = ("query", "item", "start", "end")
_MEDIUM = re.compile(
    r"\.(jpe?g|png|gif|webp|bmp|tiff?|avif|wav|flac|og[ga]|opus|mp3|m4a|aac|aiff?|mp4|m4v|mov|webm|mkv|avi)$", re.I
)
_LONGEST_NAME = 255


# ---------------------------------------------------------------------------------------------------------- off topic


@dataclass(frozen=True, eq=False)
class OffTopic:
    """What came of questions without an answer, and of questions with one.

    Attributes:
        found: the shares of both that get an answer at the least probability that search itself takes (`"auto"`).
        relevance: whether the probabilities of the first 10 hits of all these questions can be believed.
        answerable: the best probability of each question that has an answer; -inf: no hit at all.
        off_topic: the same of the others.
        searched: the modality of the files that all of them were asked of.
        false: questions without an answer that got one all the same, with their best hit, the most probable first.
        lost: questions with an answer that got none, the most probable first.
    """

    found: Abstention
    relevance: RelevanceMetrics
    answerable: Float64[np.ndarray, " queries"]
    off_topic: Float64[np.ndarray, " others"]
    searched: Modality
    false: tuple[tuple[str, Hit], ...]
    lost: tuple[tuple[str, float], ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, with the questions that went wrong."""
        return {
            **self.found.as_dict(),
            "searched": self.searched,
            "answerable": len(self.answerable),
            "off_topic": len(self.off_topic),
            "relevance": self.relevance.as_dict(),
            "answered_falsely": [
                {"question": question, "id": hit.id, "probability": hit.probability} for question, hit in self.false
            ],
            "lost": [question for question, _ in self.lost],
        }


def read_questions(path: str | Path) -> tuple[str, ...]:
    """Questions of a text file, one a line; empty lines and repeated ones are passed over.

    Raises:
        ManifestError: it is missing, too large, not UTF-8, or holds no question or too many.
    """
    lines = (line.strip() for line in _text_of(Path(path)).splitlines())
    questions = tuple(dict.fromkeys(line for line in lines if line))
    if not questions:
        raise ManifestError(str(path), "there is no question in it; write one a line, which nothing here answers")
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
    asked. A hit is relevant if its file has the content of a file that is paired with the text.

    Args:
        searcher: who is asked; its space has to know probabilities.
        questions: those without an answer in the collection.
        data: all pairs, of text and another modality.
        rows: the pairs whose texts are asked.
        texts: of these pairs.
        where: SQL condition on the items that may be found.
        seed: of the questions that are drawn where there are more than 2,000 with an answer.

    Raises:
        SpaceError: the pairs are not of text, or hits have no probability.
    """
    if data.anchor != "text":
        raise SpaceError(
            f"off-topic questions are words, so those with an answer have to be, too; got pairs of {data.moved} and "
            f"{data.anchor}. Take text and another modality, e.g. --pairs {data.moved},text"
        )
    searched = data.moved

    def ask(query: Query, **options: Any) -> SearchResult:
        return searcher.search(query, modality=searched, where=where, **options)

    unanswered = _prepared(searcher, [Text(question) for question in questions])
    try:
        ask(unanswered[0], k=1, min_probability="auto")
    except SpaceError as error:
        raise SpaceError(f"whether a question has an answer is told by probabilities: {error}") from error
    off_topic = [ask(query, k=HITS) for query in unanswered]

    first = {data.anchor_hashes[row]: place for place, row in reversed(list(enumerate(rows.tolist())))}
    places = np.array(sorted(first.values()), dtype=np.int64)
    if len(places) > MOST_ASKED:
        places = np.sort(np.random.default_rng(seed).permutation(places)[:MOST_ASKED])
    right: dict[str, set[str]] = {}
    for text, file in zip(data.anchor_hashes, data.moved_hashes, strict=True):
        right.setdefault(text, set()).add(file)
    content = {(row["item"], row["slot"]): row["hash"] for row in searcher.collection.files()}
    answerable, relevant = [], []
    for place in places.tolist():
        row = int(rows[place])
        result = ask(Query((Text(texts[place]),), vectors=data.anchors[row][None]), k=HITS)
        answerable.append(result)
        wanted = right[data.anchor_hashes[row]]
        relevant += [content[hit.id, f"{searched}/{hit.number}"] in wanted for hit in result.hits]
    relevant += [False for result in off_topic for _ in result.hits]

    known = [hit.probability for result in (*answerable, *off_topic) for hit in result.hits]
    threshold = min(result.threshold for result in (*answerable, *off_topic) if result.threshold is not None)
    kept, false = _best(answerable, threshold), _best(off_topic, threshold)
    return OffTopic(
        found=abstention(kept, false, threshold=threshold),
        relevance=relevance_metrics(np.array(known, dtype=np.float64), np.array(relevant, dtype=bool)),
        answerable=kept,
        off_topic=false,
        searched=searched,
        false=tuple(
            (questions[place], off_topic[place].hits[0])
            for place in np.argsort(-false, kind="stable").tolist()
            if false[place] >= threshold
        ),
        lost=tuple(
            (texts[int(places[place])], float(kept[place]))
            for place in np.argsort(-kept, kind="stable").tolist()
            if kept[place] < threshold
        ),
    )


def _best(results: Sequence[SearchResult], threshold: float) -> Float64[np.ndarray, " results"]:
    """The best probability of each, at or above the threshold where search says that something was found, else below.

    Search looks at the cosine as well, so a hit of enough probability may not be shown; that counts as none.
    """
    best = []
    for result in results:
        probability = result.hits[0].probability if result.hits else None
        if probability is None or (not result.found and probability >= threshold):
            best.append(-math.inf)
        else:
            best.append(probability)
    return np.array(best, dtype=np.float64)


def show_off_topic(page: Page, asked: OffTopic) -> None:
    """Sections on "nothing found" as an answer, and on the probabilities that it goes by."""
    how = (
        f"Asked through search, of {asked.searched} files, with the least probability that it takes by itself "
        "(--min-probability auto); that includes a least cosine, and a best hit that reaches the first and not the second "
        "counts as none. The queries that have an answer are the texts of pairs, whose other side is there to be found."
    )
    show_nothing_found(page, asked.found, asked.answerable, asked.off_topic, asked=how)
    if asked.false:
        page.paragraph(f"Questions without an answer that got one, {_of(len(asked.false))}:")
        page.table(
            ("question", "probability", "what was found"),
            [(question, hit.probability, hit.id) for question, hit in asked.false[:SHOWN]],
        )
    if asked.lost:
        page.paragraph(f"Questions with an answer that got none, {_of(len(asked.lost))}:")
        page.table(
            ("question", "best probability"),
            [(question, best if math.isfinite(best) else None) for question, best in asked.lost[:SHOWN]],
        )
    show_relevance(page, asked.relevance)


# ------------------------------------------------------------------------------------------------------------ moments


@dataclass(frozen=True)
class KnownMoment:
    """A row of a table: what is asked, and when it is answered in the recording of which item."""

    query: str  # as it stands in the table
    path: Path | None  # of the file that is asked with; None: words
    item: str
    start: float  # seconds
    end: float


@dataclass(frozen=True, eq=False)
class AskedMoments:
    """How well the moments of a table were found.

    Attributes:
        metrics: by query, in the order of the table.
        intervals: of each metric, over groups of queries that share an item; empty where all are of one group.
        truth: by query, the right spans.
        first: by query, the first span that was found; None: there was none.
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
        """For JSON: metrics, and the ends of their 95 % intervals."""
        ends = {name: [one.low, one.high] for name, one in self.intervals.items()}
        return {**self.metrics.as_dict(), "items": self.items, "intervals": ends}


def read_moments(path: str | Path, collection: Collection) -> tuple[KnownMoment, ...]:
    """Moments of a CSV table with the columns query, item, start and end; other columns are passed over.

    A query is a file if it names one, relative to the table, or ends as files of pictures, sounds and videos do; else it is
    words. The same query in several rows has several right answers. Comma, semicolon or tab divide columns.

    Raises:
        ManifestError: with the line: it is missing, too large, not UTF-8 or no table, lacks a column or all rows, an item is
            not in the collection or has no recording, times are no seconds or end before they start, a query is empty, or
            its file is missing.
    """
    table = Path(path)
    text = _text_of(table)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            problem = f"no column is called {' and none '.join(missing)}; there are {', '.join(names) or 'none'}"
            raise ManifestError(str(path), f"{problem}. Moments need the columns {', '.join(_COLUMNS)}")
        reader.fieldnames = names
        for cells in reader:
            if any(cells.get(name) is None for name in _COLUMNS) or None in cells:
                problem = f"the row has more or fewer cells than the {len(names)} columns; quote those that hold a {delimiter!r}"
                raise ManifestError(str(path), problem, line=reader.line_num)
            rows.append((reader.line_num, {name: cells[name].strip() for name in _COLUMNS}))
    except csv.Error as error:
        raise ManifestError(str(path), f"this is no CSV: {error}", line=reader.line_num) from error
    if not rows:
        raise ManifestError(str(path), "the table has no rows; write a query, an item, and when it begins and ends")
    _check_number(path, len(rows))
    items = {str(row["id"]): row for row in collection.items(ids=sorted({row["item"] for _, row in rows}))}
    return tuple(_known(table, line, row, items, collection) for line, row in rows)


def _known(
    table: Path, line: int, row: Mapping[str, str], items: Mapping[str, Mapping[str, Any]], collection: Collection
) -> KnownMoment:
    query, item = row["query"], row["item"]

    def wrong(problem: str, column: str) -> ManifestError:
        return ManifestError(str(table), problem, line=line, column=column)

    if not query:
        raise wrong("the query is empty; write words, or the path of a file to search with", "query")
    path = None
    if len(query) <= _LONGEST_NAME and "\0" not in query:
        path = table.parent / query
        if not path.is_file():
            if _MEDIUM.search(query):
                raise wrong(f"there is no file {query!r}; paths are relative to the table", "query")
            path = None
    if item not in items:
        raise wrong(f"there is no item {item!r} in {collection.path}", "item")
    if not any(items[item][modality] for modality in _RECORDINGS):
        raise wrong(f"the item {item!r} has neither a sound nor a video, and no moments", "item")
    times = []
    for name in ("start", "end"):
        try:
            times.append(float(row[name]))
        except ValueError:
            raise wrong(f"a time is a number of seconds; got {row[name]!r}", name) from None
        if not (math.isfinite(times[-1]) and times[-1] >= 0):
            raise wrong(f"a time is a number of seconds from 0 on; got {row[name]!r}", name)
    start, end = times
    if end <= start:
        raise wrong(f"a moment ends after it starts; got {start:g} to {end:g} seconds", "end")
    return KnownMoment(query, path, item, start, end)


def ask_moments(searcher: Searcher, known: Sequence[KnownMoment], *, where: str | None = None) -> AskedMoments:
    """Search sounds and videos by each query; the moments of all files that are found, by score, are what it predicts.

    A file without moments, since it is short or nothing changes in it, is one moment from its beginning to its end.

    Args:
        searcher: who is asked.
        known: the right answers.
        where: SQL condition on the items that may be found; moments of others are left out.

    Raises:
        SpaceError: the space has neither sounds nor videos, or lacks the modality of a query.
        CollectionError: no item of `known` meets the condition, or a file that was found cannot be opened.
        MediaError: a file of a query cannot be used.
    """
    modalities = [name for name in _RECORDINGS if name in searcher.modalities]
    if not modalities:
        raise SpaceError(
            f"the space {searcher.space.name!r} has {', '.join(searcher.modalities)}, and so no moments: they are of audio and "
            "video"
        )
    if where is not None:
        allowed = set(searcher.collection.ids(where=where))
        known = [one for one in known if one.item in allowed]
        if not known:
            raise CollectionError(f"no item of the table of moments meets the condition {where!r}")
    truth: dict[str, list[Span]] = {}
    for one in known:
        truth.setdefault(one.query, []).append(Span(one.item, one.start, one.end))
    paths = {one.query: one.path for one in known}
    words = [query for query in truth if paths[query] is None]
    queries = dict(zip(words, _prepared(searcher, [Text(query) for query in words]), strict=True))
    predicted = {}
    lengths: dict[Path, float] = {}
    for query in truth:
        path = paths[query]
        asked = queries[query] if path is None else Query((searcher.open(path),))
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
    """Moments of the files that a query finds, best first."""
    found: list[tuple[float, Span]] = []
    for modality in modalities:
        for hit in searcher.search(query, k=FILES, modality=modality, where=where).hits:
            found += [(moment.score, Span(hit.id, moment.start, moment.end)) for moment in hit.moments]
            if not hit.moments and hit.path is not None:
                path = Path(hit.path)
                if path not in lengths:
                    lengths[path] = _length(path)
                found.append((hit.score, Span(hit.id, 0.0, lengths[path])))
    return [span for _, span in sorted(found, key=lambda pair: -pair[0])]


def _length(path: Path) -> float:
    """Seconds that a recording lasts."""
    try:
        medium = media.load(path, frames=1)
    except MediaError as error:
        raise CollectionError(
            f"{path} was found and cannot be opened: {error.reason}. Add it again, or remove it"
        ) from error
    match medium:
        case Audio():
            return len(medium.waveform) / medium.rate
        case Video():
            return medium.duration
        case _:
            raise CollectionError(f"{path} was found as a recording and holds {medium.modality} now. Add it again")


def show_asked_moments(page: Page, asked: AskedMoments) -> None:
    """Sections on how well moments were found, with the queries that found the least."""
    show_moments(page, asked.metrics, asked.intervals)
    page.paragraph(
        f"In brackets: 95 % bootstrap intervals over groups of queries that share one of {asked.items:,} recordings."
        if asked.intervals
        else "All queries share their recordings, so there are no intervals."
    )
    overlap = asked.metrics.values["mean_iou"]
    worst = [place for place in np.argsort(overlap, kind="stable").tolist() if overlap[place] < 1][:SHOWN]
    if worst:
        page.section("Moments that were found the least")
        page.table(
            ("query", "right", "found first", "iou"),
            [
                (
                    query,
                    ", ".join(map(_clock, asked.truth[query])),
                    _clock(asked.first[query]),
                    round(float(overlap[place]), 3),
                )
                for place in worst
                for query in (asked.metrics.queries[place],)
            ],
        )


def _clock(span: Span | None) -> str:
    return "nothing" if span is None else f"{span.file} {span.start:.1f} to {span.end:.1f} s"


# ------------------------------------------------------------------------------------------------------------- shared


def _prepared(searcher: Searcher, given: Sequence[Media]) -> list[Query]:
    """Queries of one medium each, embedded batch by batch."""
    queries = []
    for start in range(0, len(given), _BATCH):
        part = given[start : start + _BATCH]
        for medium, vector in zip(part, searcher.prepare(part), strict=True):
            queries.append(Query((medium,), vectors=vector[None]))
    return queries


def _text_of(path: Path) -> str:
    """All of a small text file.

    Raises:
        ManifestError: it is missing, too large or not UTF-8.
    """
    try:
        if not path.is_file():
            raise ManifestError(str(path), "there is no such file")
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ManifestError(str(path), f"the file has {size:,} bytes; {MOST_BYTES:,} are read at the most")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(str(path), f"the file is not UTF-8 at byte {error.start:,}; save it as UTF-8") from error
    except OSError as error:
        raise ManifestError(str(path), f"it cannot be read: {error.strerror or error}") from error


def _check_number(path: str | Path, number: int) -> None:
    if number > MOST_QUESTIONS:
        raise ManifestError(str(path), f"it holds {number:,} questions; {MOST_QUESTIONS:,} are asked at the most")


def _of(number: int) -> str:
    return f"the first {SHOWN} of {number:,}" if number > SHOWN else f"{number}"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a space or of a recogniser on a collection."""

    what: str  # the space or model, in words
    measured: str  # on what, in words
    metrics: dict[str, Any]
    seen: int  # items among those measured that were learned from: above 0 the numbers flatter

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(
    target: str | Path,
    collection: str | Path | None = None,
    *,
    pairs: tuple[Modality, Modality] | None = None,
    space: str | None = None,
    off_topic: str | Path | None = None,
    moments: str | Path | None = None,
    label: str | None = None,
    where: str | None = None,
    against: str | Path | None = None,
    report: str | Path | None = None,
    device: Device = "auto",
) -> Evaluation:
    """Measure search in a collection by its pairs and by questions, or a recogniser by the labels of a collection.

    Args:
        target: the collection (with `pairs`), or the model (with `collection` and `label`).
        collection: for a model: where the labelled items are.
        pairs: two modalities; each is searched for by the other. Items of equal content count as found alike. Default: image
            and text, unless only `moments` are asked for. Where the space has learned a map, the space that nothing was
            learned in is measured on the same pairs.
        space: name of the space. Default: the newest.
        off_topic: a text file of questions, one a line, that nothing in the collection answers. Measures how many of them
            `search` with `min_probability="auto"` answers all the same, and how many of the texts of `pairs` it answers.
        moments: a CSV table with the columns query (words, or a file relative to the table), item (id), start and end
            (seconds). Measures whether a search of sounds and videos finds these parts of them.
        label: for a model: the column that holds the truth. Default: the one it was fitted on.
        where: only items that meet this SQL condition.
        against: for a model: another model, compared on the same items with paired differences.
        report: write the result as one .html, .md or .json file, too.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Items that the space or model has learned from are left out where others remain, and counted in `seen` where not.

    Raises:
        ManifestError: a file of questions or moments is missing or wrong.
        SpaceError: no item has such pairs, or the space has no probabilities for `off_topic`.
        ChiasmError: options of collections and of models together, or a report that cannot be written.
    """
    from chiasm.verbs.model import check_report

    check_report(report)
    if collection is None:
        if label is not None or against is not None:
            raise ChiasmError(
                "label and against go with a model and a collection: chiasm evaluate MODEL COLLECTION --label COLUMN"
            )
        if pairs is None and (moments is None or off_topic is not None):
            pairs = ("image", "text")
        return _evaluate_space(Path(target), pairs, space, off_topic, moments, where, report, device)
    if any(given is not None for given in (pairs, space, off_topic, moments)):
        raise ChiasmError(
            "pairs, space, off_topic and moments go with a collection alone: chiasm evaluate COLLECTION --pairs image,text"
        )
    return _evaluate_model(Path(target), Path(collection), label, where, against, report, device)


def _evaluate_space(
    path: Path,
    pairs: tuple[Modality, Modality] | None,
    name: str | None,
    off_topic: str | Path | None,
    moments: str | Path | None,
    where: str | None,
    report: str | Path | None,
    device: Device,
) -> Evaluation:
    from chiasm.report.sections import show_pairs

    opened = Collection.open(path)
    questions = None if off_topic is None else read_questions(off_topic)  # what is wrong with a file is said at once
    known = None if moments is None else read_moments(moments, opened)
    searcher = None if questions is None and known is None else Searcher(path, space=name, device=device)
    networks = encoders.resolve(opened.encoder, device=device) if searcher is None else searcher.networks
    space = space_of(opened, networks, name) if searcher is None else searcher.space
    metrics: dict[str, Any] = {}
    on = []
    told: list[Callable[[Page], None]] = []
    seen = 0
    if pairs is not None:
        found = _paired(opened, space, pairs, where)
        metrics |= found.as_dict()
        seen = found.seen
        on.append(found.measured)
        needed = report is not None or questions is not None
        shown = _media_of(opened, found.data, found.rows) if needed else ([], [])
        told.append(lambda page: show_pairs(page, found.after, shown, before=found.before))
        if questions is not None and searcher is not None:
            texts = [medium.text or medium.name for medium in shown[0]]
            asked = ask_off_topic(searcher, questions, found.data, found.rows, texts, where=where)
            metrics["nothing_found"] = asked.as_dict()
            on.append(f"{len(questions)} questions without an answer")
            told.append(lambda page: show_off_topic(page, asked))
    if known is not None and searcher is not None:
        timed = ask_moments(searcher, known, where=where)
        metrics["moments"] = timed.as_dict()
        on.append(f"{len(timed.metrics.queries)} queries for moments of {timed.items} recordings")
        told.append(lambda page: show_asked_moments(page, timed))
    result = Evaluation(f"space {space.name!r} of {opened.path.name}", "; ".join(on), metrics, seen)
    if report is not None:
        page = _page(result)
        for tell in told:
            tell(page)
        page.save(report)
    return result


@dataclass(frozen=True, eq=False)
class _Paired:
    """Pairs of a collection, measured in a space, and in the one that nothing was learned in where that is another."""

    data: Pairs
    rows: Int[np.ndarray, " some"]
    measured: str
    seen: int
    after: Measured
    before: Measured | None

    def as_dict(self) -> dict[str, Any]:
        """Metrics by direction, in a gallery of both by modality, and against the start."""
        told = self.after.as_dict()
        told["by_modality"] = {
            asked: {searched: part.as_dict() for searched, part in found.items()}
            for asked, found in self.after.found.by_modality().items()
        }
        if self.before is not None:
            told["before"] = self.before.found.as_dict()
            told["gain"] = paired_gain(self.before, self.after)
        return told


def _paired(opened: Collection, space: Space, pairs: tuple[Modality, Modality], where: str | None) -> _Paired:
    from chiasm.report.sections import measure_pairs

    data = pairs_of(opened, space, pairs, where=where)
    learned = set(space.learned_from)
    unseen = np.array([row for row, item in enumerate(data.items) if item not in learned], dtype=int)
    rows = unseen if len(unseen) else np.arange(len(data.items))
    after = measure_pairs(data, space.place(data.moved, data.embeddings[rows]), rows)
    before = measure_pairs(data, data.start[rows], rows) if data.moved in space.maps else None
    measured = f"{len(rows)} pairs of {data.moved} and {data.anchor}"
    if learned and len(unseen):
        measured += f" that the space was not learned from ({len(data.items) - len(unseen)} others left out)"
    return _Paired(data, rows, measured, 0 if len(unseen) else len(rows), after, before)


def _evaluate_model(
    path: Path,
    where_items: Path,
    label: str | None,
    where: str | None,
    against: str | Path | None,
    report: str | Path | None,
    device: Device,
) -> Evaluation:
    from chiasm.report.sections import show_choices, show_columns

    saved = load_model(path)
    other = None if against is None else load_model(Path(against))
    opened = Collection.open(where_items)
    networks = encoders.resolve(opened.encoder, device=device)
    for model in (saved, other):
        if model is not None:
            model.check(fingerprints_of(networks))
    modalities = [modality for modality in MODALITIES if modality in saved.fingerprints]
    columns = learning.columns_of(saved.predictor, label or saved.label)
    data = labelled_items(opened, networks, start_of(opened, networks), columns, modalities=modalities, where=where)
    learned = saved.trained_on | (frozenset() if other is None else other.trained_on)
    unseen = np.array([row for row, item in enumerate(data.ids) if item not in learned], dtype=int)
    rows = unseen if len(unseen) else np.arange(len(data.ids))
    found = learning.predicted(saved.predictor, data, rows)
    metrics = learning.measure_columns(found)
    measured = f"{len(rows)} items of {opened.path.name}"
    if len(unseen) and len(unseen) < len(data.ids):
        measured += f" that it was not trained on ({len(data.ids) - len(unseen)} others left out)"
    if other is not None:
        metrics["against"] = learning.compared(found, learning.predicted(other.predictor, data, rows), str(against))
    result = Evaluation(f"model {path.name}", measured, metrics, 0 if len(unseen) else len(rows))
    if report is not None:
        page = _page(result)
        show_columns(page, found, metrics)
        if other is not None:
            page.section(f"Against {Path(str(against)).name}", "On the same items; above 0, this model is better.")
            page.table(
                ("metric", "this", "other", "difference", "standard error", "p"),
                [
                    (name, *(part[key] for key in ("this", "other", "difference", "standard_error", "p_value")))
                    for name, part in metrics["against"]["metrics"].items()
                ],
            )
        if isinstance(saved.predictor, Recognizer):
            show_choices(page, saved.predictor.details_)
        page.save(report)
    return result


def _page(result: Evaluation) -> Page:
    from chiasm.report.page import Page

    page = Page(result.what, f"Measured on {result.measured}.")
    if result.seen:
        page.paragraph(f"Beware: it learned from all {result.seen} of these, so the numbers flatter.")
    return page


def _media_of(collection: Collection, data: Pairs, rows: Int[np.ndarray, " some"]) -> tuple[list[Medium], list[Medium]]:
    """What a report shows of pairs, of the anchor and of the moved modality."""
    from chiasm.report.page import Medium

    items = {str(row["id"]): row for row in collection.items(ids=sorted({data.items[row] for row in rows}))}

    def shown(item: str, slot: str) -> Medium:
        kind, number = slot.split("/")
        value = items[item][kind][int(number)]
        if kind == "text":
            return Medium(item, text=value if not Path(value).is_absolute() else Path(value).name)
        if kind == "audio":
            return Medium(item, sound=Path(value))
        return Medium(item, picture=Path(value))

    return (
        [shown(data.items[row], data.anchor_slots[row]) for row in rows],
        [shown(data.items[row], data.moved_slots[row]) for row in rows],
    )
