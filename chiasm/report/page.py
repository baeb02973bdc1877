"""Results as one page, written as HTML, Markdown or JSON.

`Page` collects blocks; what is shown is decided by `chiasm.report.sections` and `chiasm.report.retrieval`, how charts
look by `chiasm.report.plots`, how the page looks by `page.html.j2`. The HTML file is whole by itself: no script, no font,
no picture from anywhere else, and every text is escaped. Markdown has the same tables, and those of the numbers behind
each chart. JSON has the blocks as they are, with all digits.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from functools import cached_property
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image, ImageFilter

from chiasm.errors import ChiasmError, MediaError
from chiasm.evaluation.intervals import Interval
from chiasm.files import REPORT_MARK, open_source, write_whole
from chiasm.media import kinds, load, sniff
from chiasm.report import plots
from chiasm.report.plots import Chart, clean
from chiasm.report.summary import Figure, Summary
from chiasm.types import Image as Pixels
from chiasm.types import Outcome, Video

if TYPE_CHECKING:
    from jinja2 import Environment

THUMBNAIL = 160  # pixels, longer side
HEAT = 280  # of a picture with what its places say
SOUND_BYTES = 300_000  # a longer sound is left out
MEDIA_BYTES = 8_000_000  # of all pictures and sounds of a page together, as they stand in the file
TEXT_CHARACTERS = 400  # of an example's text in HTML and Markdown
CELLS = 4000  # of the numbers behind a chart in HTML and Markdown; JSON has all of them

_FOR, _AGAINST = (214, 90, 5), (5, 90, 190)  # colours of what speaks for an answer and against it

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

Cell: TypeAlias = object
"""A number, an `Interval` ("0.710 [0.680, 0.740]"), None (nothing known), or anything else, shown as its text."""


@dataclass(frozen=True)
class Card:
    """One thing in a row of things: a picture if there is one, a title, a line below, and a player of its sound."""

    picture: Path | None
    title: str
    below: str
    sound: Path | None = None
    right: bool = False  # what was looked for: it has a frame


@dataclass(frozen=True)
class Example:
    """One item with its true and its predicted label."""

    name: str
    true: str
    predicted: str
    probability: float | None = None  # of the predicted label
    picture: Path | None = None  # an image, or a video, of which one frame is shown
    text: str | None = None
    sound: Path | None = None
    places: tuple[Place, ...] = ()  # of the picture: what they say for what was predicted

    @property
    def verdict(self) -> str:
        """True and predicted label in one line."""
        certainty = "" if self.probability is None else f" ({decimal(self.probability)})"
        return f"{self.true} → {self.predicted}{certainty}"


# -------------------------------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class _Section:
    kind: ClassVar = "section"
    title: str
    collapsed: bool


@dataclass(frozen=True)
class _Paragraph:
    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True)
class _Code:
    kind: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class _Table:
    kind: ClassVar = "table"
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ChiasmError(
                    f"row {number} of a table has {len(row)} cells for {len(self.columns)} columns: {self.columns}"
                )

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, and so stands right."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.columns)
        return [any(map(_is_number, cells)) and all(c is None or _is_number(c) for c in cells) for cells in columns]


@dataclass(frozen=True)
class _Cards:
    kind: ClassVar = "cards"
    query: str
    picture: Path | None
    sound: Path | None
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class _Media:
    kind: ClassVar = "media"
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Place:
    """A part of a picture, and how much it says: above 0 for the answer, below 0 against it."""

    box: tuple[float, float, float, float]  # left, top, right, bottom, as shares of the picture's width and height
    weight: float


@dataclass(frozen=True)
class Mark:
    """A part of a text, by its characters, and how much it says."""

    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class _Heat:
    kind: ClassVar = "heat"
    picture: Path
    places: tuple[Place, ...]


@dataclass(frozen=True)
class _Marked:
    kind: ClassVar = "marked"
    text: str
    marks: tuple[Mark, ...]

    @property
    def runs(self) -> list[tuple[str, float]]:
        """The text in runs, each with its weight as a share of the largest; 0 between the marks."""
        largest = max((abs(mark.weight) for mark in self.marks), default=0.0) or 1.0
        runs, at = [], 0
        for mark in sorted(self.marks, key=lambda one: one.start):
            runs += [(self.text[at : mark.start], 0.0), (self.text[mark.start : mark.end], mark.weight / largest)]
            at = mark.end
        return [run for run in [*runs, (self.text[at:], 0.0)] if run[0]]


@dataclass(frozen=True)
class _Plot:
    kind: ClassVar = "plot"
    chart: str
    title: str
    x_label: str
    y_label: str
    numbers: _Table
    svg: str = field(repr=False)
    threshold: float | None = None

    @property
    def shown(self) -> _Table:
        """The numbers behind the chart, as many as a page holds."""
        return _Table(self.numbers.columns, self.numbers.rows[: max(1, CELLS // len(self.numbers.columns))])

    @property
    def notes(self) -> list[str]:
        """Notes on the numbers."""
        notes = [] if self.threshold is None else [f"threshold: {decimal(self.threshold)}"]
        more = len(self.numbers.rows) - len(self.shown.rows)
        return [*notes, f"{more:,} more rows: the same report as .json has all of them."] if more else notes


@dataclass(frozen=True)
class _Summary:
    kind: ClassVar = "summary"
    sentence: str
    figures: tuple[Figure, ...]
    advice: str


_Block: TypeAlias = _Summary | _Section | _Paragraph | _Code | _Table | _Cards | _Media | _Heat | _Marked | _Plot


class Page:
    """Builds a report from top to bottom, and writes it.

    Example:
        >>> page = Page("Birds", "Measured on 20 pictures.")
        >>> page.section("How well it recognises")
        >>> page.table(("metric", "value"), [("accuracy", 0.95)])
        >>> print(page.markdown())
        # Birds
        <BLANKLINE>
        Measured on 20 pictures.
        <BLANKLINE>
        ## How well it recognises
        <BLANKLINE>
        | metric | value |
        | --- | ---: |
        | accuracy | 0.950 |
        <BLANKLINE>
        <!-- A report by chiasm -->
        <BLANKLINE>

    Args:
        title: of the page.
        lead: what was measured on what.
        about: where the numbers come from (encoder, seed), for the foot, where command, date and versions stand as well;
            without it there is no foot.
    """

    def __init__(self, title: str, lead: str, about: Mapping[str, str] | None = None) -> None:
        self._title = title
        self._lead = lead
        self._about = {} if about is None else {**_made_now(), **about}
        self._blocks: list[_Block] = []
        self._folds = False

    def summary(self, summary: Summary) -> None:
        """Add what matters, before all sections: one sentence, numbers against chance, what to do next."""
        self._blocks.append(_Summary(summary.sentence, summary.figures, summary.advice))

    def fold(self) -> None:
        """Fold the sections from here on: the rest, for those who want it."""
        self._folds = True

    def section(self, title: str, *paragraphs: str, collapsed: bool = False) -> None:
        """Begin a section. A collapsed one shows its title until a reader opens it."""
        self._blocks.append(_Section(title, collapsed or self._folds))
        for text in paragraphs:
            self.paragraph(text)

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._blocks.append(_Paragraph(text))

    def code(self, text: str) -> None:
        """Add lines to copy into a shell."""
        self._blocks.append(_Code(text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Add a table; columns of numbers and of `Interval`s stand right, floats with three digits.

        Raises:
            ChiasmError: a row has more or fewer cells than there are columns.
        """
        self._blocks.append(_Table(tuple(columns), tuple(map(tuple, rows))))

    def cards(
        self, query: str, cards: Sequence[Card], *, picture: Path | None = None, sound: Path | None = None
    ) -> None:
        """Add a query and its results."""
        self._blocks.append(_Cards(query, picture, sound, tuple(cards)))

    def media(self, examples: Sequence[Example]) -> None:
        """Add items with their picture, text and sound, such as the worst mistakes.

        A file that cannot be shown is replaced by the reason when the page is written: it is missing or broken, a sound
        of more than 300 kB or of a kind that browsers do not play, or the 8 MB for media of a page are used up.
        """
        self._blocks.append(_Media(tuple(examples)))

    def heat(self, picture: Path, places: Sequence[Place]) -> None:
        """Add a picture with what its places say laid over it: warm for the answer, cold against it."""
        self._blocks.append(_Heat(picture, tuple(places)))

    def marked(self, text: str, marks: Sequence[Mark]) -> None:
        """Add a text whose words are coloured by what they say; those against the answer are underlined, too."""
        self._blocks.append(_Marked(text, tuple(marks)))

    def chart(self, chart: Chart) -> None:
        """Add a chart of `chiasm.report.plots`; neighbouring charts stand side by side."""
        numbers = _Table(chart.columns, chart.rows)
        self._blocks.append(
            _Plot(chart.kind, chart.title, chart.x_label, chart.y_label, numbers, chart.svg, chart.threshold)
        )

    def save(self, path: str | Path) -> None:
        """Write the page, in the format that the name ends in: .html, .md or .json.

        Raises:
            ChiasmError: the name ends in something else, or the file cannot be written.
        """
        path = Path(path)
        write = {".html": self.html, ".md": self.markdown, ".json": self.json}.get(path.suffix.lower())
        if write is None:
            raise ChiasmError(
                f"a report is written as .html, .md or .json; got {str(path)!r}. Give it a name with one of these endings"
            )
        try:
            write_whole(path, write())
        except OSError as error:
            raise ChiasmError(f"the report {path} cannot be written: {error}") from error

    def html(self) -> str:
        """Return the page as one HTML file."""
        sections: list[dict[str, Any]] = [{"title": None, "collapsed": False, "number": 0, "blocks": []}]
        for block in self._blocks:
            if isinstance(block, _Section):
                head = {"title": block.title, "collapsed": block.collapsed, "number": len(sections)}
                sections.append({**head, "blocks": []})
            else:
                sections[-1]["blocks"].append(block)
        for section in sections:  # neighbouring charts stand side by side
            section["groups"] = [list(part) for _, part in groupby(section["blocks"], lambda one: one.kind == "plot")]
        return (
            _environment()
            .get_template("page.html.j2")
            .render(
                title=self._title,
                lead=self._lead,
                headings=[section["title"] for section in sections[1:]],
                opening=sections[0]["groups"],
                sections=sections[1:],
                about=self._about,
                plot_style=plots.STYLE,
                media=_Embedder(),
            )
        )

    def markdown(self) -> str:
        """Return the page as Markdown."""
        foot = "\n".join(f"- {_md(name)}: {_md(value)}" for name, value in self._about.items())
        parts = [f"# {_md(self._title)}", _md(self._lead), *map(_markdown, self._blocks), foot, REPORT_MARK]
        return "\n\n".join(part for part in parts if part) + "\n"

    def json(self) -> str:
        """Return the page as JSON."""
        blocks = [{"type": block.kind, **_jsonable(block)} for block in self._blocks]
        page = {"format": "chiasm report", "version": 3, "title": self._title, "lead": self._lead, "blocks": blocks}
        page |= {"about": self._about}
        return json.dumps(page, indent=1, allow_nan=False) + "\n"


def _made_now() -> dict[str, str]:
    """Return the command, where it was one, the date and the versions that a report is made with."""
    import platform

    from chiasm import __version__

    about = {}
    if Path(sys.argv[0]).name in {"chiasm", "chiasm.exe", "__main__.py"}:
        about["command"] = shlex.join(["chiasm", *sys.argv[1:]])
    about["date"] = f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
    about["versions"] = f"chiasm {__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    return about


# --------------------------------------------------------------------------------------------------------------- cells


def _is_number(cell: Cell) -> bool:
    return isinstance(cell, Real | Interval) and not isinstance(cell, bool | np.bool)


def _text(cell: Cell) -> str:
    """Return a cell as people read it, before any escaping."""
    match cell:
        case None:
            return ""
        case Interval():
            return f"{decimal(cell.estimate)} [{decimal(cell.low)}, {decimal(cell.high)}]"
        case bool() | np.bool():
            return "yes" if cell else "no"
        case Integral():
            return str(int(cell))
        case Real():
            return decimal(float(cell))
        case _:
            return str(cell)


def decimal(number: float) -> str:
    """Return a number with three digits; NaN as "n/a"."""
    if not math.isfinite(number):
        return "n/a" if math.isnan(number) else str(number)
    number += 0.0  # no minus before a zero
    return f"{number:.3f}" if number == 0 or 0.0005 <= abs(number) < 1e6 else f"{number:.3g}"


def clip(text: str) -> str:
    """Return at most 400 characters of a text."""
    return text if len(text) <= TEXT_CHARACTERS else text[:TEXT_CHARACTERS].rstrip() + "…"


# ---------------------------------------------------------------------------------------------------------------- HTML


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=PackageLoader("chiasm", "report"), autoescape=True, undefined=StrictUndefined, finalize=finalize,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals["show"] = _text
    environment.filters["clip"] = clip
    environment.tests["interval"] = lambda value: isinstance(value, Interval)
    return environment


@dataclass(frozen=True)
class _Embedded:
    """A file as a data URI, or the reason why it is not there."""

    data: str = ""
    lack: str = ""


class _Embedder:
    """Makes data URIs of pictures and sounds as long as the page has room for them."""

    def __init__(self) -> None:
        self._room = MEDIA_BYTES
        self.left_out = 0
        self.limit = f"{MEDIA_BYTES / 1e6:g}"

    def picture(self, path: Path) -> _Embedded:
        """Embed a small picture; of a video, the frame in its middle."""
        return self._embed(path, thumbnail)

    def heat(self, picture: Path, places: Sequence[Place]) -> _Embedded:
        """Embed a picture with what its places say laid over it."""
        return self._embed(picture, lambda path: heat_picture(path, places))

    def sound(self, path: Path) -> _Embedded:
        """Embed a whole sound file."""
        return self._embed(path, _player)

    def _embed(self, path: Path, read: Callable[[Path], str]) -> _Embedded:
        try:
            data = read(path) if self._room > 0 else ""
        except MediaError as error:
            return _Embedded(lack=error.reason)
        if not data or len(data) > self._room:
            self.left_out += 1
            return _Embedded(lack="left out: the page holds as much media as it may")
        self._room -= len(data)
        return _Embedded(data)


def thumbnail(path: Path) -> str:
    """Return a small picture of an image, or of the middle of a video, as a data URI.

    Raises:
        MediaError: it cannot be read, or is neither.
    """
    return _data_uri(thumbnail_jpeg(path))


def thumbnail_jpeg(path: Path) -> bytes:
    """Return the same as the bytes of a JPEG."""
    return _jpeg(_small(path, THUMBNAIL))


def heat_picture(path: Path, places: Sequence[Place]) -> str:
    """Return a small picture with what its places say laid over it, as a data URI.

    Raises:
        MediaError: it cannot be read, or is no picture.
    """
    picture = _small(path, HEAT)
    size = np.array(picture.size * 2)
    heat = np.zeros((2, picture.height, picture.width), np.float32)  # for and against
    for place in places:
        left, top, right, bottom = np.clip(np.round(np.multiply(place.box, size)), 0, size).astype(int)
        heat[int(place.weight < 0), top:bottom, left:right] = abs(place.weight)
    heat *= 255 / (heat.max() or 1.0)
    across = max((place.box[2] - place.box[0] for place in places), default=0.0) * picture.width
    grey = np.repeat(np.asarray(picture.convert("L"), np.float32)[..., None], 3, axis=2) * 0.5 + 127.5 * 0.7
    for shades, colour in zip(heat, (_FOR, _AGAINST), strict=True):
        soft = Image.fromarray(shades.astype(np.uint8)).filter(ImageFilter.GaussianBlur(across / 3))
        opacity = 0.75 * np.asarray(soft, np.float32)[..., None] / 255
        grey = (1 - opacity) * grey + opacity * np.array(colour, np.float32)
    return _data_uri(_jpeg(Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))))


def _small(path: Path, side: int) -> Image.Image:
    media = load(path, image_size=side, frames=1)
    if not isinstance(media, Pixels | Video):
        raise MediaError(Outcome.UNSUPPORTED, f"a picture was expected; the file holds {media.modality}")
    picture = Image.fromarray(media.pixels if isinstance(media, Pixels) else media.frames[0])
    picture.thumbnail((side, side))
    return picture


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _player(path: Path) -> str:
    modality = sniff(path)
    if modality != "audio":
        raise MediaError(Outcome.UNSUPPORTED, f"a sound was expected; the file holds {modality}")
    try:
        with open_source(path) as file:
            size = file.seek(0, os.SEEK_END)
            if size > SOUND_BYTES:
                raise MediaError(
                    Outcome.TOO_LARGE, f"left out: a sound of {size:,} bytes; a page holds those up to {SOUND_BYTES:,}"
                )
            kind = kinds.recognise(file)
            file.seek(0)
            data = file.read()
    except OSError as error:
        raise MediaError(Outcome.BROKEN, f"the file cannot be read: {error.strerror or error}") from error
    if kind not in _PLAYED:
        raise MediaError(Outcome.UNSUPPORTED, f"browsers do not play {kind.name}")
    return f"data:{_PLAYED[kind]};base64,{base64.b64encode(data).decode()}"


# ------------------------------------------------------------------------------------------------------------ Markdown


def _markdown(block: _Block) -> str:
    match block:
        case _Summary(sentence, figures, advice):
            numbers = tuple((figure.name, figure.value, figure.chance) for figure in figures)
            table = _md_table(_Table(("", "value", "guessing"), numbers)) if numbers else ""
            return "\n\n".join(part for part in (f"**{_md(sentence)}**", table, _md(advice)) if part)
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
            files = [_md(str(path)) for path in (block.picture, block.sound) if path is not None]
            rows = tuple((card.title, card.below, card.picture) for card in block.cards)
            return "\n\n".join(
                part for part in (heading, *files, _md_table(_Table(("result", "", "picture"), rows))) if part
            )
        case _Media(examples):
            columns = ("item", "true", "predicted", "probability", "text", "picture", "sound")
            return _md_table(
                _Table(
                    columns,
                    tuple(
                        (e.name, e.true, e.predicted, e.probability, e.text and clip(e.text), e.picture, e.sound)
                        for e in examples
                    ),
                )
            )
        case _Heat(picture):
            return _md(str(picture))
        case _Marked():
            return "".join(
                f"**{_md(run)}**" if weight > 0.5 else _md(run) if run.strip() else " " for run, weight in block.runs
            )
        case _Plot():
            return "\n\n".join([f"### {_md(block.title)}", _md_table(block.shown), *map(_md, block.notes)])


def _md_table(table: _Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_md, cells)) + " |"

    rule = "|" + "|".join(" ---: " if right else " --- " for right in table.numeric) + "|"
    return "\n".join([line(table.columns), rule, *(line([_text(cell) for cell in row]) for row in table.rows)])


def _md(text: str) -> str:
    """Return text that means itself: on one line, with nothing that Markdown or HTML would take for markup."""
    line = html.escape(" ".join(text.split()), quote=False)
    line = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", line)
    return re.sub(
        r"^([-+=])(?=[\s-]|$)|^(\d+)(?=[.)](?:\s|$))",
        lambda start: f"\\{start[1]}" if start[1] else f"{start[2]}\\",
        line,
    )


# ---------------------------------------------------------------------------------------------------------------- JSON


def _jsonable(value: Any) -> Any:
    """Return dataclasses as objects without their SVG, paths as text, numbers in full; what is not finite as null."""
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
