"""Results as one page, written as HTML, Markdown or JSON.

`Page` collects blocks; what is shown is decided by its callers (`demo`, `chiasm.evaluate`). The HTML file is whole by
itself: no script, no font, no picture from anywhere else, and every text is escaped. Markdown has the same tables, and
those of the numbers behind each drawing. JSON has the blocks as they are, with all digits. Drawings are made by `plots`.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from chiasm.errors import ChiasmError, MediaError
from chiasm.evaluation.geometry import PairGeometry
from chiasm.evaluation.intervals import Interval, wilson_interval
from chiasm.evaluation.moments import MomentMetrics
from chiasm.evaluation.ranking import PairRetrieval, RetrievalMetrics
from chiasm.evaluation.relevance import Abstention, RelevanceMetrics
from chiasm.media import kinds, load, sniff
from chiasm.report import plots
from chiasm.report.plots import Bar, Numbers, Series, escape
from chiasm.types import Image as Pixels
from chiasm.types import Outcome, Video

__all__ = [
    "Card",
    "Example",
    "Medium",
    "Page",
    "PairSide",
    "show_alignment",
    "show_classification",
    "show_examples",
    "show_moments",
    "show_nothing_found",
    "show_relevance",
    "show_retrieval",
    "show_search",
]

THUMBNAIL = 160  # pixels, longer side
SOUND_BYTES = 300_000  # a longer sound is left out
MEDIA_BYTES = 8_000_000  # of all pictures and sounds of a page together, as they stand in the file
TEXT_CHARACTERS = 400  # of an example's text in HTML and Markdown
CELLS = 4000  # of the numbers behind a drawing in HTML and Markdown; JSON has all of them

_EXAMPLES = 4  # queries of each direction that are drawn
_WORST = 6  # queries of each direction with the last ranks
_HITS = 5  # shown of a query
_DEPTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # first items that a curve is drawn at
_SAMPLE = 20_000  # pairs that a distribution of scores is drawn from

_PLAYED = {  # what browsers play, by kind of file
    kinds.WAV: "audio/wav",
    kinds.FLAC: "audio/flac",
    kinds.OGG: "audio/ogg",
    kinds.OGG_VIDEO: "audio/ogg",
    kinds.MP3: "audio/mpeg",
    kinds.AAC: "audio/aac",
    kinds.MP4: "audio/mp4",
    kinds.MATROSKA: "audio/webm",
}

_STYLE = (
    plots.STYLE
    + """
:root { --ink: #1c2530; --soft: #5b6875; --line: #dfe4e9; --paper: #ffffff; --card: #f6f8fa; --mark: #0b7285; }
@media (prefers-color-scheme: dark) { :root { color-scheme: dark; --ink: #e6e9ec; --soft: #9aa7b3; --line: #333d47;
  --paper: #14191f; --card: #1c232b; --mark: #3bc9db; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; } summary h2 { display: inline; }
summary { cursor: pointer; color: var(--soft); } details.section > summary { margin: 2.6rem 0 .5rem; color: var(--ink); }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); } a { color: var(--mark); }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: 1rem 0 0; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: .88rem; } td.number i { color: var(--soft); font-style: normal; }
.scroll { overflow-x: auto; } .plots { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 1rem 0; }
figure { margin: 0; min-width: 0; max-width: 100%; } figcaption { font-weight: 600; margin-bottom: .4rem; }
figure details { font-size: .85rem; max-height: 24rem; overflow-y: auto; }
.query { margin: 1.3rem 0 .5rem; font-weight: 600; display: flex; flex-wrap: wrap; gap: .7rem; align-items: center; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; }
.card { width: 8.4rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem;
  font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; } .example { width: 14.4rem; }
.card img, .query img { display: block; width: 100%; height: 6.4rem; object-fit: contain; background: #fff;
  border-radius: .3rem; } .query img { width: 4.2rem; height: 4.2rem; border: 1px solid var(--line); }
.example img { height: 9rem; } .example audio { width: 100%; margin-top: .4rem; }
.card b { display: block; margin-top: .4rem; font-weight: 600; } .card span { color: var(--soft); }
.example p { margin: .4rem 0 0; } .lack { border: 1px dashed var(--line); border-radius: .3rem; padding: .5rem;
  color: var(--soft); font-size: .8rem; font-weight: 400; } .card .lack { display: block; }
.card > .lack:first-child { min-height: 6.4rem; } .card audio { width: 100%; margin-top: .4rem; }
.right { border: 2px solid var(--mark); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  overflow-x: auto; font-size: .86rem; } audio { height: 2rem; }
"""
)


@dataclass(frozen=True)
class Card:
    """One thing in a row of things: a picture where there is one, a title, a line below, and a player of its sound."""

    picture: Path | None
    title: str
    below: str
    sound: Path | None = None
    right: bool = False  # what was looked for: it has a frame


@dataclass(frozen=True)
class Example:
    """One item with what it is and what it was taken for."""

    name: str
    true: str
    predicted: str
    probability: float | None = None  # of the predicted label
    picture: Path | None = None  # an image, or a video, of which one frame is shown
    text: str | None = None
    sound: Path | None = None


Cell: TypeAlias = object
"""A number, an `Interval` ("0.710 [0.680, 0.740]"), None (nothing known), or anything else, shown as its text."""


@dataclass(frozen=True)
class _Section:
    title: str
    collapsed: bool


@dataclass(frozen=True)
class _Paragraph:
    text: str


@dataclass(frozen=True)
class _Code:
    text: str


@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class _Cards:
    query: str
    picture: Path | None
    sound: Path | None
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class _Media:
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class _Plot:
    kind: str
    title: str
    x_label: str
    y_label: str
    numbers: _Table
    svg: str = field(repr=False)
    threshold: float | None = None


_Block: TypeAlias = _Section | _Paragraph | _Code | _Table | _Cards | _Media | _Plot


class Page:
    """Builds a report from top to bottom, and writes it."""

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._lead = lead
        self._blocks: list[_Block] = []

    def section(self, title: str, *paragraphs: str, collapsed: bool = False) -> None:
        """Begin a section. A collapsed one shows its title until a reader opens it."""
        self._blocks.append(_Section(title, collapsed))
        for text in paragraphs:
            self.paragraph(text)

    def paragraph(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append(_Paragraph(text))

    def code(self, text: str) -> None:
        """Lines to copy into a shell."""
        self._blocks.append(_Code(text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; columns of numbers and of `Interval`s stand right, floats with three digits.

        Raises:
            ChiasmError: a row has more or fewer cells than there are columns.
        """
        self._blocks.append(_table(columns, rows))

    def cards(
        self, query: str, cards: Sequence[Card], *, picture: Path | None = None, sound: Path | None = None
    ) -> None:
        """A query and what it found."""
        self._blocks.append(_Cards(query, picture, sound, tuple(cards)))

    def media(self, examples: Sequence[Example]) -> None:
        """Items with their picture, text and sound, such as the worst mistakes.

        A file that cannot be shown is replaced by the reason, when the page is written: it is missing or broken, a
        sound of more than 300 kB or of a kind that browsers do not play, or the 8 MB for media of a page are used up.
        """
        self._blocks.append(_Media(tuple(examples)))

    def line_chart(
        self,
        title: str,
        series: Sequence[Series],
        *,
        x_label: str,
        y_label: str,
        error_bars: bool = False,
        diagonal: bool = False,
        log_x: bool = False,
        x_range: tuple[float, float] | None = None,
        y_range: tuple[float, float] | None = None,
    ) -> None:
        """Lines with their intervals; see `plots.line_chart`."""
        svg = plots.line_chart(
            series,
            title=title,
            x_label=x_label,
            y_label=y_label,
            error_bars=error_bars,
            diagonal=diagonal,
            log_x=log_x,
            x_range=x_range,
            y_range=y_range,
        )
        spread = any(one.low is not None for one in series)
        rows: list[tuple[Cell, ...]] = []
        for one in series:
            blank = [None] * len(one.x)
            low, high = (blank if ends is None else ends for ends in (one.low, one.high))
            for x, y, *ends in zip(one.x, one.y, low, high, strict=True):
                rows.append((one.name, x, y, *(ends if spread else ())))
        columns = ("series", x_label, y_label, *(("low", "high") if spread else ()))
        self._plot("line_chart", title, x_label, y_label, columns, rows, svg)

    def reliability_diagram(
        self,
        title: str,
        confidence: Numbers,
        accuracy: Numbers,
        count: Numbers,
        *,
        edges: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        """How far confidences can be believed; see `plots.reliability_diagram`."""
        svg = plots.reliability_diagram(confidence, accuracy, count, title=title, edges=edges)
        rows = [(c, a, int(n)) for c, a, n in zip(confidence, accuracy, count, strict=True)]
        self._plot(
            "reliability_diagram", title, "confidence", "accuracy", ("confidence", "accuracy", "items"), rows, svg
        )

    def bar_chart(
        self, title: str, bars: Sequence[Bar], *, x_label: str = "", x_range: tuple[float, float] | None = None
    ) -> None:
        """Horizontal bars with their intervals; see `plots.bar_chart`."""
        svg = plots.bar_chart(bars, title=title, x_label=x_label, x_range=x_range)
        keyed, spread = any(bar.key for bar in bars), any(bar.low is not None for bar in bars)
        columns = ("name", *(("key",) if keyed else ()), "value", *(("low", "high") if spread else ()))
        rows = [
            (bar.name, *((bar.key,) if keyed else ()), bar.value, *((bar.low, bar.high) if spread else ()))
            for bar in bars
        ]
        self._plot("bar_chart", title, x_label, "", columns, rows, svg)

    def histogram(
        self,
        title: str,
        groups: Mapping[str, Numbers],
        *,
        x_label: str,
        bins: int | None = None,
        threshold: float | None = None,
    ) -> None:
        """How values are spread; see `plots.histogram`."""
        svg = plots.histogram(groups, title=title, x_label=x_label, bins=bins, threshold=threshold)
        edges, counts = plots.histogram_counts(groups, bins=bins, threshold=threshold)
        rows = list(zip(edges[:-1], edges[1:], *counts.values(), strict=True))
        self._plot("histogram", title, x_label, "", ("from", "to", *groups), rows, svg, threshold)

    def scatter(
        self,
        title: str,
        x: Numbers,
        y: Numbers,
        classes: Sequence[str] | None = None,
        *,
        x_label: str = "",
        y_label: str = "",
    ) -> None:
        """Points in the plane by class; see `plots.scatter`."""
        svg = plots.scatter(x, y, classes, title=title, x_label=x_label, y_label=y_label)
        rows = list(zip(*([] if classes is None else [classes]), x, y, strict=True))
        columns = (*(() if classes is None else ("class",)), x_label or "x", y_label or "y")
        self._plot("scatter", title, x_label, y_label, columns, rows, svg)

    def heatmap(
        self,
        title: str,
        values: Sequence[Sequence[float]] | Float[np.ndarray, "rows columns"] | Int[np.ndarray, "rows columns"],
        *,
        rows: Sequence[str],
        columns: Sequence[str],
        y_label: str,
        x_label: str,
        by_row: bool = False,
    ) -> None:
        """A matrix in shades; see `plots.heatmap`."""
        svg = plots.heatmap(
            values, rows=rows, columns=columns, title=title, y_label=y_label, x_label=x_label, by_row=by_row
        )
        cells = [(name, *row) for name, row in zip(rows, values, strict=True)]
        self._plot("heatmap", title, x_label, y_label, (f"{y_label} \\ {x_label}", *columns), cells, svg)

    def confusion(self, labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
        """A confusion matrix: a row a true class, a column a predicted one, darker for more of the row.

        Of more classes than can be drawn, the 30 most frequent confusions are listed.
        """
        if len(labels) <= plots.MAX_CLASSES:
            self.heatmap(
                "Confusion matrix",
                matrix,
                rows=labels,
                columns=labels,
                y_label="true",
                x_label="predicted",
                by_row=True,
            )
            return
        pairs = [
            (count, labels[i], labels[j])
            for i, row in enumerate(matrix)
            for j, count in enumerate(row)
            if count and i != j
        ]
        pairs.sort(key=lambda pair: -pair[0])
        self.paragraph(
            f"The confusion matrix of {len(labels):,} classes is too large to draw. Its {len(pairs[:30])} most frequent "
            f"confusions of {len(pairs):,}:"
        )
        self.table(("true", "predicted", "items"), [(true, predicted, count) for count, true, predicted in pairs[:30]])

    def save(self, path: str | Path) -> None:
        """Write the page, in the format that the name ends in: .html, .md or .json.

        Raises:
            ChiasmError: the name ends in something else, or the file cannot be written.
        """
        path = Path(path)
        write = {".html": self._html, ".md": self._markdown, ".json": self._json}.get(path.suffix.lower())
        if write is None:
            raise ChiasmError(
                f"a report is written as .html, .md or .json; got {str(path)!r}. Give it a name with one of these endings"
            )
        try:
            path.write_text(write(), encoding="utf-8", errors="replace")
        except OSError as error:
            raise ChiasmError(f"the report {path} cannot be written: {error}") from error

    def _plot(
        self,
        kind: str,
        title: str,
        x_label: str,
        y_label: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        svg: str,
        threshold: float | None = None,
    ) -> None:
        self._blocks.append(_Plot(kind, title, x_label, y_label, _table(columns, rows), svg, threshold))

    def _html(self) -> str:
        return _HtmlWriter().page(self._title, self._lead, self._blocks)

    def _markdown(self) -> str:
        parts = [f"# {_md(self._title)}", _md(self._lead), *map(_markdown, self._blocks)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _json(self) -> str:
        blocks = [
            {"type": type(block).__name__.removeprefix("_").lower(), **_jsonable(block)} for block in self._blocks
        ]
        page = {"format": "chiasm report", "version": 1, "title": self._title, "lead": self._lead, "blocks": blocks}
        return json.dumps(page, indent=1, allow_nan=False) + "\n"


def show_classification(page: Page, metrics: Mapping[str, Any]) -> None:
    """Overall metrics and the confusion matrix, as `ClassificationMetrics.as_dict` gives them."""
    overall = [(name.replace("_", " "), value) for name, value in metrics.items() if isinstance(value, float)]
    page.table(("metric", "value"), overall)
    page.confusion([str(name) for name in metrics["labels"]], metrics["confusion"])


def show_retrieval(page: Page, directions: Mapping[str, Mapping[str, float | Interval]]) -> None:
    """Retrieval metrics, a row a metric and a column a direction."""
    names = next(iter(directions.values()))
    page.table(
        ("metric", *(direction.replace("_", " ") for direction in directions)),
        [(name.replace("_", " "), *(values[name] for values in directions.values())) for name in names],
    )


# ----------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class Medium:
    """One medium of an item, as a report shows it."""

    name: str  # of the item
    picture: Path | None = None  # an image, or a video, of which one frame is shown
    text: str | None = None  # the text itself, or the transcript of a sound
    sound: Path | None = None

    @property
    def content(self) -> tuple[Path | None, str | None, Path | None]:
        """What is seen and heard of it: media of equal content are shown once."""
        return self.picture, self.text, self.sound


@dataclass(frozen=True, eq=False)
class PairSide:
    """One modality of the pairs that a search was measured on.

    Attributes:
        vectors: in the space, a row a pair.
        media: what to show of each row.
    """

    vectors: Float[np.ndarray, "pairs dim"]
    media: Sequence[Medium]


def show_search(
    page: Page, found: PairRetrieval, sides: tuple[PairSide, PairSide], geometry: PairGeometry, *, seed: int = 0
) -> None:
    """Sections on how well each of two modalities finds the other; `show_examples` has the queries themselves.

    Args:
        page: where to.
        found: what was measured.
        sides: of `found.names`, in that order.
        geometry: of the same two.
        seed: of the pairs that scores are drawn from.

    Raises:
        ChiasmError: a side has more or fewer vectors or media than there are pairs.
    """
    _check_sides(found, sides)
    page.section(
        "How well each finds the other",
        f"Each of {found.pairs:,} pairs is searched for from both sides, among all of them. What has the same content as the "
        "right answer is right, too. Of equal scores the wrong ones count as first.",
    )
    show_retrieval(page, {name: {**one.as_dict(), **found.intervals[name]} for name, one in found.metrics.items()})
    groups = len(np.unique(found.groups))
    page.paragraph(
        f"In brackets: 95 % bootstrap intervals over {groups:,} groups of queries that share their content."
        if groups > 1
        else "All pairs are of one group, so there are no intervals."
    )
    page.paragraph(
        "hit@k: share of queries with a right answer among the first k. recall@k: share of a query's right answers found "
        "there. mrr: mean of 1 / rank of the first right answer. map: mean average precision. ndcg: discounted gain of "
        "the whole ranking, or of its first k, against the best order."
    )
    _show_curve(page, found.metrics)
    _show_modalities(page, found)
    _show_scores(page, found, sides, seed)
    page.section("How the two lie in the space")
    page.table(
        ("measure", "value", "what it says"), [(name, value, says) for name, value, says in _geometry_rows(geometry)]
    )
    _show_same_modality(page, found, sides, seed)


def show_examples(page: Page, found: PairRetrieval, sides: tuple[PairSide, PairSide], *, seed: int = 0) -> None:
    """Sections with queries and what they found, in both directions: some drawn at random, and the worst.

    Args:
        page: where to.
        found: what was measured.
        sides: of `found.names`, in that order.
        seed: of the queries that are drawn.

    Raises:
        ChiasmError: a side has more or fewer vectors or media than there are pairs.
    """
    _check_sides(found, sides)
    by_name = dict(zip(found.names, sides, strict=True))
    for direction, metrics in found.metrics.items():
        query, target = direction.split("_to_")
        drawn = np.random.default_rng(seed).permutation(found.pairs)[:_EXAMPLES]
        page.section(
            f"Examples: {query} to {target}",
            "Drawn at random. Framed: right answers, with the first of them where none is among the best. Before each score, its place; what shows the same is shown once.",
        )
        for row in drawn.tolist():
            _show_query(page, metrics, by_name[query], by_name[target], row)
    for direction, metrics in found.metrics.items():
        query, target = direction.split("_to_")
        worst = _worst(metrics, by_name[query])
        page.section(f"Worst queries: {query} to {target}", "Those whose first right answer comes last.")
        if not worst:
            page.paragraph("There is none: every query has a right answer in the first place.")
        for row in worst:
            _show_query(page, metrics, by_name[query], by_name[target], row)


def show_alignment(
    page: Page,
    before: PairRetrieval,
    after: PairRetrieval,
    *,
    geometry_before: PairGeometry,
    geometry_after: PairGeometry,
) -> None:
    """Sections on what an alignment changed, on the same pairs; if it has learned from them, that is for others to say.

    Raises:
        LabelError: the two are not of the same pairs.
    """
    page.section(
        "Before and after",
        f"On the same {after.pairs:,} pairs. In brackets: the 95 % interval of the difference, over "
        "groups of queries that share their content; p: how often as large a difference comes with random signs.",
    )
    alone = len(np.unique(after.groups)) < 2
    differences = {} if alone else after.differences(before)
    for direction, metrics in after.metrics.items():
        old, new = before.metrics[direction].as_dict(), metrics.as_dict()
        rows: list[tuple[Cell, ...]] = []
        for name in new:
            if name == "queries":
                continue
            paired = differences.get(direction, {}).get(name)
            change = new[name] - old[name] if paired is None else paired.interval
            rows.append(
                (name.replace("_", " "), old[name], new[name], change, None if paired is None else paired.p_value)
            )
        page.table((direction.replace("_", " "), "before", "after", "difference", "p"), rows)
    if alone:
        page.paragraph("All pairs are of one group, so there are no intervals.")
    curves = {
        f"{direction}, {when}": metrics
        for direction in after.metrics
        for when, metrics in (("after", after.metrics[direction]), ("before", before.metrics[direction]))
    }
    _show_curve(page, curves)
    page.section("A gallery of both, before and after", _FAVOUR)
    old_by, new_by = before.by_modality(), after.by_modality()
    page.table(
        ("query", "finds", "recall@10 before", "after", "favour before", "after"),
        [
            (query, target, old_by[query][target].recall, new.recall, old_by[query][target].favour, new.favour)
            for query, found in new_by.items()
            for target, new in found.items()
        ],
    )
    page.section("How the two lie in the space, before and after")
    page.table(
        ("measure", "before", "after", "what it says"),
        [
            (name, old, new, says)
            for (name, old, says), (_, new, _) in zip(
                _geometry_rows(geometry_before), _geometry_rows(geometry_after), strict=True
            )
        ],
    )


def show_nothing_found(
    page: Page,
    found: Abstention,
    answerable: Numbers,
    off_topic: Numbers,
    *,
    what: str = "probability",
    asked: str = "",
) -> None:
    """A section on "nothing found" as an answer, from the best hit of every query; without hits, queries are not drawn.

    Args:
        page: where to.
        found: what was measured of them.
        answerable: the best hit of each query that has an answer.
        off_topic: the same of queries that have none.
        what: what the numbers are.
        asked: how the queries were asked, in words.
    """
    page.section(
        "When nothing fits",
        f"A query gets a hit if its best {what} is at least {_decimal(found.threshold)}; else the answer is that nothing was found.",
        *([asked] if asked else []),
    )
    page.table(
        ("queries", "get a hit", "number"),
        [
            ("that have an answer", found.answered, len(answerable)),
            ("that have none (false hits)", found.false_hits, len(off_topic)),
        ],
    )
    page.paragraph(f"In brackets: {100 * found.answered.level:g} % intervals (Wilson).")
    page.histogram(
        f"Best {what} of a query",
        {
            name: [value for value in np.asarray(values, float).tolist() if math.isfinite(value)]
            for name, values in (("has an answer", answerable), ("has none", off_topic))
        },
        x_label=what,
        threshold=found.threshold,
    )
    without = int(np.isneginf(np.concatenate([np.asarray(answerable, float), np.asarray(off_topic, float)])).sum())
    if without:
        page.paragraph(f"Not drawn: {without:,} without any hit.")


def show_relevance(page: Page, metrics: RelevanceMetrics) -> None:
    """A section on whether probabilities of relevance can be believed."""
    page.section(
        "Can the probabilities be believed?",
        f"Expected calibration error {_decimal(metrics.ece)} ({_decimal(metrics.calibration_error)} in bins of equally many "
        f"hits), Brier score {_decimal(metrics.brier)}, over {metrics.hits:,} hits: of what is said to fit with probability p, "
        "about p should fit. Confidence: the probability; accuracy: the share that fits.",
    )
    bins = metrics.reliability
    page.reliability_diagram(
        "Reliability",
        [one.confidence for one in bins],
        [one.accuracy for one in bins],
        [one.count for one in bins],
        edges=[(one.lower, one.upper) for one in bins],
    )
    equal = metrics.equal_counts
    shares = [wilson_interval(round(one.accuracy * one.count), one.count) for one in equal]
    most = max(*(one.confidence for one in equal), *(one.accuracy for one in equal))
    page.line_chart(
        "The same in bins of equally many hits",
        [
            Series(
                "share that fits, 95 % interval",
                [one.confidence for one in equal],
                [one.accuracy for one in equal],
                [one.low for one in shares],
                [one.high for one in shares],
            )
        ],
        x_label="probability",
        y_label="share that fits",
        error_bars=True,
        diagonal=True,
        x_range=(0, most),
        y_range=(0, most),
    )


def show_moments(page: Page, metrics: MomentMetrics, intervals: Mapping[str, Interval] | None = None) -> None:
    """A section on how well moments are found, with `MomentMetrics.intervals` where they are known."""
    page.section(
        "Moments",
        f"{len(metrics.queries):,} queries. r@k iou@m: share of queries of which one of the first k spans overlaps a true one by "
        "at least m (the seconds in both by the seconds in either). mean iou: of the first span.",
    )
    known = intervals or {}
    page.table(
        ("metric", "value"),
        [(name.replace("_", " "), known.get(name, float(values.mean()))) for name, values in metrics.values.items()],
    )


_FAVOUR = (
    "Here the gallery holds both modalities, without the query itself. Share: of all that fits the queries, the part that is "
    "of this modality; of what is found, the part of what fits and is among the first 10. Favour: the second by the first, 1 if "
    "the gallery favours no modality. What has the query's own content, such as an equal text, fits and is found at once."
)


def _check_sides(found: PairRetrieval, sides: tuple[PairSide, PairSide]) -> None:
    for name, side in zip(found.names, sides, strict=True):
        if not len(side.vectors) == len(side.media) == found.pairs:
            raise ChiasmError(
                f"{found.pairs} pairs were measured; the side of {name} has {len(side.vectors)} vectors and {len(side.media)} media"
            )


def _show_curve(page: Page, curves: Mapping[str, RetrievalMetrics]) -> None:
    series = []
    for name, metrics in curves.items():
        places = np.array([k for k in _DEPTHS if k < metrics.ranks.max()] or [1])
        hits = np.searchsorted(np.sort(metrics.ranks), places, side="right") / metrics.queries
        series.append(Series(name.replace("_", " "), places, hits))
    page.line_chart(
        "Queries answered among the first k", series, x_label="k", y_label="hit@k", log_x=True, y_range=(0, 1)
    )


def _show_modalities(page: Page, found: PairRetrieval) -> None:
    page.section("In a gallery of both", _FAVOUR)
    rows: list[tuple[Cell, ...]] = []
    for query, targets in found.by_modality().items():
        for target, part in targets.items():
            metrics = found.metrics.get(f"{query}_to_{target}")
            alone = None if metrics is None else metrics.means.get("recall@10")
            rows.append(
                (
                    query,
                    target,
                    part.queries,
                    alone,
                    part.recall,
                    part.share_relevant,
                    part.share_retrieved,
                    part.favour,
                )
            )
    columns = ("query", "finds", "queries", "recall@10 alone", "among both", "share", "of what is found", "favour")
    page.table(columns, rows)


def _show_scores(page: Page, found: PairRetrieval, sides: tuple[PairSide, PairSide], seed: int) -> None:
    """Scores of pairs that fit and of pairs that do not; a sample of many."""
    page.section(
        "Scores of what fits and of what does not",
        "Cosine of one with the other. The less the two overlap, the better one threshold can say that nothing fits.",
    )
    metrics = found.metrics[f"{found.names[0]}_to_{found.names[1]}"]
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(metrics.query))[:_SAMPLE]
    left, right = (rng.integers(found.pairs, size=_SAMPLE) for _ in range(2))
    fits = np.isin(left * found.pairs + right, metrics.query * found.pairs + metrics.item)
    page.histogram(
        "Scores",
        {
            "fits": _cosines(sides[0].vectors, metrics.query[kept], sides[1].vectors, metrics.item[kept]),
            "does not": _cosines(sides[0].vectors, left[~fits], sides[1].vectors, right[~fits]),
        },
        x_label="cosine",
    )


def _show_same_modality(page: Page, found: PairRetrieval, sides: tuple[PairSide, PairSide], seed: int) -> None:
    """Scores by modality alone, whatever the content: what makes one modality hide the other in a gallery of both."""
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(found.pairs, size=_SAMPLE) for _ in range(2))
    left, right = left[left != right], right[left != right]
    (a, x), (b, y) = zip(found.names, (side.vectors for side in sides), strict=True)
    groups = {
        f"{a} and {b}": _cosines(x, left, y, right),
        f"{a} and {a}": _cosines(x, left, x, right),
        f"{b} and {b}": _cosines(y, left, y, right),
    }
    page.histogram("Scores of two items drawn at random", groups, x_label="cosine")


def _cosines(
    a: Float[np.ndarray, "rows dim"],
    left: Int[np.ndarray, " n"],
    b: Float[np.ndarray, "rows dim"],
    right: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    products: Float[np.ndarray, " n"] = np.einsum("ij,ij->i", a[left], b[right])
    return products


def _geometry_rows(geometry: PairGeometry) -> list[tuple[str, float, str]]:
    a, b = geometry.names
    rows = [
        (
            "modality gap",
            geometry.gap.distance,
            f"Distance of the centres of {a} and {b}, 0 to 2. Where it is large, a gallery of both shows a query its own kind.",
        ),
        (
            "separability",
            geometry.gap.separability,
            f"Share of {a} and {b} that one threshold tells apart: 0.5 is guessing, 1 means that they do not mix.",
        ),
        ("alignment", geometry.alignment, "Mean squared distance of the two sides of a pair, 0 to 4; lower is nearer."),
    ]
    rows += [
        (f"uniformity of {name}", value, "How evenly the sphere is filled: 0 all alike, about -4 at best.")
        for name, value in geometry.uniformity.items()
    ]
    for direction, one in geometry.hubness.items():
        query, target = direction.split("_to_")
        rows += [
            (
                f"hubness of {target}",
                one.skewness,
                f"Skewness of how often each is among the {one.k} nearest of a query ({query}): above 1, a few are found by many.",
            ),
            (f"never found, {target}", one.never, f"Share that is among the {one.k} nearest of no query."),
            (
                f"largest hub, {target}",
                one.largest,
                f"Share of queries that have the same one among their {one.k} nearest.",
            ),
        ]
    return rows


def _worst(metrics: RetrievalMetrics, queries: PairSide) -> list[int]:
    """Queries whose first right answer comes last, each content once."""
    order = np.argsort(-metrics.ranks, kind="stable")
    rows: dict[object, int] = {}
    for row in order[metrics.ranks[order] > 1].tolist():
        rows.setdefault(queries.media[row].content, row)
        if len(rows) == _WORST:
            break
    return list(rows.values())


def _show_query(page: Page, metrics: RetrievalMetrics, queries: PairSide, gallery: PairSide, row: int) -> None:
    """One query, its best hits, and a right answer where none is among them."""
    scores = gallery.vectors @ queries.vectors[row]
    is_right = np.isin(np.arange(len(scores)), metrics.item[metrics.query == row])
    order = np.lexsort((is_right, -scores))  # of equal scores the wrong ones first, as they are counted
    shown: dict[object, int] = {}  # by content, the place of its first
    for place, hit in enumerate(order.tolist(), start=1):
        shown.setdefault(gallery.media[hit].content, place)
        if len(shown) == _HITS:
            break
    rank = int(metrics.ranks[row])
    places = list(shown.values())
    if not is_right[order[np.array(places) - 1]].any():
        places.append(1 + int(is_right[order].argmax()))
    cards = []
    for place in places:
        hit = int(order[place - 1])
        medium, fits = gallery.media[hit], bool(is_right[hit])
        title = _clipped(medium.text) if medium.text else medium.name
        below = f"{place}: {scores[hit]:.3f}{', fits' if fits else ''}"
        cards.append(Card(medium.picture, title, below, medium.sound, fits))
    query = queries.media[row]
    page.cards(
        f"{_clipped(query.text) if query.text else query.name} (first right answer at rank {rank} of {len(scores):,})",
        cards,
        picture=query.picture,
        sound=query.sound,
    )


# ------------------------------------------------------------------------------------------------------------ cells


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> _Table:
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise ChiasmError(
                f"row {number} of a table has {len(row)} cells for {len(columns)} columns: {tuple(columns)}"
            )
    return _Table(tuple(columns), tuple(map(tuple, rows)))


def _numbers(plot: _Plot) -> tuple[_Table, list[str]]:
    """What is shown of the numbers behind a drawing, and what is to be said of them."""
    table = plot.numbers
    shown = table.rows[: max(1, CELLS // len(table.columns))]
    notes = [] if plot.threshold is None else [f"threshold: {_decimal(plot.threshold)}"]
    if len(shown) < len(table.rows):
        notes.append(f"{len(table.rows) - len(shown):,} more rows: the same report as .json has all of them.")
    return _Table(table.columns, shown), notes


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Real | Interval) and not isinstance(cell, bool | np.bool)


def _is_numeric(column: Sequence[Cell]) -> bool:
    return any(map(_is_number, column)) and all(cell is None or _is_number(cell) for cell in column)


def _shown(cell: Cell) -> str:
    """A cell as people read it, before any escaping."""
    match cell:
        case None:
            return ""
        case Interval():
            return f"{_decimal(cell.estimate)} [{_decimal(cell.low)}, {_decimal(cell.high)}]"
        case bool() | np.bool():
            return "yes" if cell else "no"
        case Integral():
            return str(int(cell))
        case Real():
            return _decimal(float(cell))
        case _:
            return str(cell)


def _decimal(number: float) -> str:
    if not math.isfinite(number):
        return "n/a" if math.isnan(number) else str(number)
    number += 0.0  # no minus before a zero
    return f"{number:.3f}" if number == 0 or 0.0005 <= abs(number) < 1e6 else f"{number:.3g}"


# ------------------------------------------------------------------------------------------------------------- HTML


class _HtmlWriter:
    """One pass over the blocks; counts what pictures and sounds take."""

    def __init__(self) -> None:
        self._left = MEDIA_BYTES
        self._left_out = 0

    def page(self, title: str, lead: str, blocks: Sequence[_Block]) -> str:
        body = "\n".join(self._body(blocks))
        sections = [block.title for block in blocks if isinstance(block, _Section)]
        links = "".join(f'<li><a href="#section-{i}">{escape(name)}</a></li>' for i, name in enumerate(sections, 1))
        contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n' if len(sections) > 1 else ""
        note = (
            f'<p class="lack">{self._left_out} pictures and sounds are left out: those shown fill the '
            f"{MEDIA_BYTES / 1e6:g} MB that a page may hold.</p>\n"
            if self._left_out
            else ""
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
            f'<body><main>\n<h1>{escape(title)}</h1>\n<p class="soft">{escape(lead)}</p>\n'
            f"{contents}{note}{body}\n</main></body></html>\n"
        )

    def _body(self, blocks: Sequence[_Block]) -> Iterator[str]:
        number, end = 0, ""
        for position, block in enumerate(blocks):
            if isinstance(block, _Section):
                number += 1
                heading = f'<h2 id="section-{number}">{escape(block.title)}</h2>'
                yield end
                yield f'<details class="section"><summary>{heading}</summary>' if block.collapsed else heading
                end = "</details>" if block.collapsed else ""
                continue
            is_plot = isinstance(block, _Plot)
            if is_plot and (not position or not isinstance(blocks[position - 1], _Plot)):
                yield '<div class="plots">'
            yield self._block(block)
            if is_plot and (position + 1 == len(blocks) or not isinstance(blocks[position + 1], _Plot)):
                yield "</div>"
        yield end

    def _block(self, block: _Paragraph | _Code | _Table | _Cards | _Media | _Plot) -> str:
        match block:
            case _Paragraph(text):
                return f"<p>{escape(text)}</p>"
            case _Code(text):
                return f"<pre>{escape(text)}</pre>"
            case _Table():
                return _html_table(block)
            case _Cards():
                return self._cards(block)
            case _Media(examples):
                return f'<div class="cards">{"".join(map(self._example, examples))}</div>'
            case _Plot():
                numbers, notes = _numbers(block)
                below = "".join(f"<p>{escape(note)}</p>" for note in notes)
                details = f"<details><summary>numbers</summary>{_html_table(numbers)}{below}</details>"
                return (
                    f'<figure><figcaption>{escape(block.title)}</figcaption><div class="scroll">{block.svg}</div>'
                    f"{details if numbers.rows else ''}</figure>"
                )

    def _cards(self, block: _Cards) -> str:
        picture = "" if block.picture is None else self._picture(block.picture, "")
        sound = "" if block.sound is None else self._sound(block.sound)
        boxes = [
            f'<div class="card{" right" if card.right else ""}">'
            f"{'' if card.picture is None else self._picture(card.picture, card.title)}"
            f"<b>{escape(card.title)}</b><span>{escape(card.below)}</span>"
            f"{'' if card.sound is None else self._sound(card.sound)}</div>"
            for card in block.cards
        ]
        return (
            f'<div class="query">{picture}<span>{escape(block.query)}</span>{sound}</div>'
            f'<div class="cards">{"".join(boxes)}</div>'
        )

    def _example(self, example: Example) -> str:
        parts = []
        if example.picture is not None:
            parts.append(self._picture(example.picture, example.name))
        if example.text is not None:
            parts.append(f"<p>{escape(_clipped(example.text))}</p>")
        if example.sound is not None:
            parts.append(self._sound(example.sound))
        parts.append(f"<b>{escape(_verdict(example))}</b><span>{escape(example.name)}</span>")
        return f'<div class="card example">{"".join(parts)}</div>'

    def _picture(self, path: Path, alt: str) -> str:
        if self._left <= 0:
            return self._no_room(path)
        try:
            data = _thumbnail(path)
        except MediaError as error:
            return _lack(path, error.reason)
        return f'<img src="{data}" alt="{escape(alt)}">' if self._take(data) else self._no_room(path)

    def _sound(self, path: Path) -> str:
        if self._left <= 0:
            return self._no_room(path)
        try:
            data = _player(path)
        except MediaError as error:
            return _lack(path, error.reason)
        return f'<audio controls src="{data}"></audio>' if self._take(data) else self._no_room(path)

    def _take(self, data: str) -> bool:
        fits = len(data) <= self._left
        self._left -= len(data) if fits else 0
        return fits

    def _no_room(self, path: Path) -> str:
        self._left_out += 1
        return _lack(path, "left out: the page holds as much media as it may")


def _html_table(table: _Table) -> str:
    numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)] or [False] * len(table.columns)
    css = [' class="number"' if right else "" for right in numeric]
    head = "".join(f"<th{c}>{escape(name)}</th>" for c, name in zip(css, table.columns, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{c}>{_html_cell(cell)}</td>' for c, cell in zip(css, row, strict=True))}</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, Interval):
        value, _, ends = _shown(cell).partition(" ")
        return f"{value} <i>{ends}</i>"
    return escape(_shown(cell))


def _lack(path: Path, reason: str) -> str:
    return f'<span class="lack">{escape(path.name)}: {escape(reason)}</span>'


def _clipped(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS].rstrip() + "…"


def _verdict(example: Example) -> str:
    sure = "" if example.probability is None else f" ({_decimal(example.probability)})"
    return f"{example.true} → {example.predicted}{sure}"


def _thumbnail(path: Path) -> str:
    """A small JPEG as a data URI; of a video, the frame in its middle."""
    media = load(path, image_size=THUMBNAIL, frames=1)
    if not isinstance(media, Pixels | Video):
        raise MediaError(Outcome.UNSUPPORTED, f"a picture was expected; the file holds {media.modality}")
    picture = Image.fromarray(media.pixels if isinstance(media, Pixels) else media.frames[0])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _player(path: Path) -> str:
    """A whole sound file as a data URI."""
    modality = sniff(path)
    if modality != "audio":
        raise MediaError(Outcome.UNSUPPORTED, f"a sound was expected; the file holds {modality}")
    try:
        size = path.stat().st_size
        if size > SOUND_BYTES:
            raise MediaError(
                Outcome.TOO_LARGE, f"left out: a sound of {size:,} bytes; a page holds those up to {SOUND_BYTES:,}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(Outcome.BROKEN, f"the file cannot be read: {error.strerror or error}") from error
    kind = kinds.recognise(data[: kinds.HEAD])
    if kind not in _PLAYED:
        raise MediaError(Outcome.UNSUPPORTED, f"browsers do not play {kind.name}")
    return f"data:{_PLAYED[kind]};base64,{base64.b64encode(data).decode()}"


# --------------------------------------------------------------------------------------------------------- Markdown


def _markdown(block: _Block) -> str:
    match block:
        case _Section(title):
            return f"## {_md(title)}"
        case _Paragraph(text):
            return _md(text)
        case _Code(text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}\n{text}\n{fence}"
        case _Table():
            return _md_table(block)
        case _Cards():
            heading = f"**{_md(block.query)}**" if block.query.strip() else ""
            files = [str(path) for path in (block.picture, block.sound) if path is not None]
            cards = [(card.title, card.below, card.picture) for card in block.cards]
            table = _md_table(_table(("found", "", "picture"), cards))
            return "\n\n".join(part for part in (heading, *map(_md, files), table) if part)
        case _Media(examples):
            columns = ("item", "true", "predicted", "probability", "text", "picture", "sound")
            rows = [
                (e.name, e.true, e.predicted, e.probability, e.text and _clipped(e.text), e.picture, e.sound)
                for e in examples
            ]
            return _md_table(_table(columns, rows))
        case _Plot():
            numbers, notes = _numbers(block)
            return "\n\n".join([f"### {_md(block.title)}", _md_table(numbers), *map(_md, notes)])


def _md_table(table: _Table) -> str:
    numeric = [_is_numeric(column) for column in zip(*table.rows, strict=True)] or [False] * len(table.columns)
    lines = [
        _md_row(table.columns),
        "|" + "|".join(" ---: " if right else " --- " for right in numeric) + "|",
        *(_md_row([_shown(cell) for cell in row]) for row in table.rows),
    ]
    return "\n".join(lines)


def _md_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


def _md(text: str) -> str:
    """Text that means itself: on one line, with nothing that Markdown or HTML would take for markup."""
    line = html.escape(" ".join(text.split()), quote=False)
    line = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)
    return re.sub(
        r"^([-+=])(?=[\s-]|$)|^(\d+)(?=[.)](?:\s|$))",
        lambda start: f"\\{start[1]}" if start[1] else f"{start[2]}\\",
        line,
    )


# ------------------------------------------------------------------------------------------------------------- JSON


def _jsonable(value: Any) -> Any:
    """Dataclasses as objects without their drawing, paths as text, numbers in full; what is not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: _jsonable(getattr(value, part.name)) for part in fields(value) if part.name != "svg"}
    match value:
        case None | str() | bool():
            return value
        case np.bool():
            return bool(value)
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
        case tuple():
            return [_jsonable(part) for part in value]
        case _:
            return str(value)
