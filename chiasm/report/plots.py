"""Charts: numbers to one SVG element, drawn by matplotlib.

Colours are CSS variables with the light value as fallback, so that a page with `STYLE` has a set for light and one for
dark paper. Both sets were searched so that any two of the eight differ by at least 27 (CIE 1976 Lab), also with
protanopia and deuteranopia (matrices of Machado et al. 2009), and each stands out from the paper by 3:1; dashes and
markers tell apart what shares a colour. Text stays text. The same numbers give the same SVG. Matplotlib is used through
its objects, without pyplot, and imported when the first chart is drawn.

Without data a chart says so. What cannot be drawn (NaN where a number has to be, infinity, lengths that differ) is a
`ChiasmError`.
"""

from __future__ import annotations

import html
import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.errors import ChiasmError
from chiasm.evaluation.metrics import ReliabilityBin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers: TypeAlias = Sequence[float] | Float[np.ndarray, " n"] | Int[np.ndarray, " n"]

MAX_CLASSES = 400  # of a heatmap: beyond, a cell is less than two pixels wide

_WIDTH = 460  # pixels; on a phone this shrinks by a quarter, and the text can still be read
_LARGEST = 1e100  # squares and differences of anything smaller stay finite
_LEGEND = 24  # entries
_POINTS = 4000  # of a scatter chart
_NAME = 26  # characters of a name on an axis or in a legend
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.5)), (0, (4, 1.5, 1, 1.5)))
_MARKERS = "os^D"
_LOCK = threading.Lock()  # matplotlib's settings are global
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_LIGHT = {
    "ink": "#1c2530", "soft": "#5b6875", "line": "#dfe4e9", "heat": "#0b7285", "c0": "#0579b3", "c1": "#d66e05",
    "c2": "#51271f", "c3": "#062ff9", "c4": "#311c9c", "c5": "#fa4c69", "c6": "#903304", "c7": "#6d035c",
}  # fmt: skip
_DARK = {
    "ink": "#e6e9ec", "soft": "#9aa7b3", "line": "#333d47", "heat": "#1098ad", "c0": "#63b9e3", "c1": "#f9d006",
    "c2": "#c38160", "c3": "#866ffb", "c4": "#a0eeba", "c5": "#c6e981", "c6": "#f92f06", "c7": "#de4591",
}  # fmt: skip
_COLOURS = tuple(_LIGHT[f"c{number}"] for number in range(8))


def _variables(colours: Mapping[str, str]) -> str:
    return ":root {" + "".join(f" --plot-{name}: {value};" for name, value in colours.items()) + " }"


STYLE = f"""{_variables(_LIGHT)}
@media (prefers-color-scheme: dark) {{ {_variables(_DARK)} }}
@media print {{ {_variables(_LIGHT)} }}
.plot {{ display: block; max-width: 100%; height: auto; stroke-linejoin: round; }} .plot.wide {{ max-width: none; }}
.plot text {{ font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }}
"""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.size": 11,
    "text.color": _LIGHT["ink"],
    "axes.labelcolor": _LIGHT["ink"],
    "axes.edgecolor": _LIGHT["soft"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LIGHT["line"],
    "xtick.color": _LIGHT["soft"],
    "ytick.color": _LIGHT["soft"],
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 5,
}


@dataclass(frozen=True)
class Series:
    """One line: its points in order, and an interval about each if known.

    Example:
        >>> Series("accuracy", [1, 2, 5], [0.4, 0.5, 0.7]).name
        'accuracy'
    """

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Bar:
    """One bar. Neighbours of the same name stand as one group."""

    name: str
    value: float  # NaN: not defined, shown as "n/a"
    key: str = ""  # tells the bars of a group apart; each key has its colour


@dataclass(frozen=True)
class Chart:
    """A drawing and the numbers behind it.

    Attributes:
        kind: the function that made it.
        title: what it shows, for a heading and for those who cannot see it.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        columns: of the table of numbers.
        rows: of the table; None where nothing is known.
        svg: one element, to be placed in a page that has `STYLE`.
        threshold: a number that is marked, if there is one.
    """

    kind: str
    title: str
    x_label: str
    y_label: str
    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    svg: str = field(repr=False)
    threshold: float | None = None


def clean(text: str) -> str:
    """Return text without the characters that XML cannot hold, such as NUL or half a surrogate: they become U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    log_x: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> Chart:
    """Draw lines over a common axis: learning curves, ROC, precision and recall.

    Args:
        series: the lines; up to 30 points of each are marked.
        diagonal: a dashed line where x equals y.
        log_x: a logarithmic horizontal axis, with ticks at the values themselves if they are few.
        x_range: what the horizontal axis has to cover beside the data.
        y_range: the same for the vertical axis.

    Raises:
        ChiasmError: a number that is not finite or above 1e100, lengths that differ, an interval that is upside down or
            incomplete, or `log_x` with a number that is not positive.
    """
    lines = [_points(one) for one in series]
    every = np.concatenate([np.empty(0), *(x for x, *_ in lines)])
    if log_x and every.min(initial=1) <= 0:
        raise ChiasmError(f"a logarithmic axis takes positive numbers only; got x = {every.min():g}. Leave out log_x")

    def draw(figure: Figure) -> None:
        axes = _axes(figure, x_label, y_label)
        axes.grid(True)
        if diagonal:
            axes.axline((0, 0), slope=1, color=_LIGHT["soft"], linestyle="--", linewidth=1.2)
        for number, (one, (x, y, low, high)) in enumerate(zip(series, lines, strict=True)):
            colour, marker = _COLOURS[number % 8], _MARKERS[number % 4] if len(x) <= 30 else ""
            # The first is the one that matters: it lies on top.
            order = 2 + (len(series) - number) / len(series)
            if one.low is not None:
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, zorder=order)
            dash = _DASHES[number // 8 % 4]
            axes.plot(x, y, color=colour, marker=marker, linestyle=dash, label=_name(one.name), zorder=order)
        if x_range is not None:
            axes.update_datalim([(end, axes.dataLim.y0) for end in x_range], updatey=False)
        if y_range is not None:
            axes.update_datalim([(axes.dataLim.x0, end) for end in y_range], updatex=False)
        axes.autoscale_view()
        if log_x:
            axes.set_xscale("log")
            own = np.unique(every)
            if len(own) <= 12:
                axes.set_xticks(own, [f"{value:g}" for value in own], minor=False)
                axes.set_xticks([], minor=True)
        _legend(figure, axes, len(series))

    lack = "" if len(every) else "no points"
    svg = _svg(title, 300 + 16 * _legend_rows([one.name for one in series]), draw, lack=lack)
    spread = any(one.low is not None for one in series)
    rows: list[tuple[object, ...]] = []
    for one in series:
        blank = [None] * len(one.x)
        low, high = (blank if ends is None else ends for ends in (one.low, one.high))
        for x, y, *ends in zip(one.x, one.y, low, high, strict=True):
            rows.append((one.name, x, y, *(ends if spread else ())))
    columns = ("series", x_label, y_label, *(("low", "high") if spread else ()))
    return Chart("line_chart", title, x_label, y_label, columns, tuple(rows), svg)


def reliability_diagram(title: str, bins: Sequence[ReliabilityBin]) -> Chart:
    """Draw how often what is stated with a confidence is right; below, how many items there are at each.

    A bar is as high as the accuracy of its bin, and the gap to its mean confidence stands on it in another colour.
    ECE is the mean of the gaps, weighted by the counts (Guo et al. 2017).

    Args:
        bins: see `chiasm.evaluation.metrics.ProbabilityMetrics`.
    """
    left, right = (np.array([getattr(one, end) for one in bins]) for end in ("lower", "upper"))
    stated, accuracy = (np.array([getattr(one, part) for one in bins]) for part in ("confidence", "accuracy"))
    counts = np.array([one.count for one in bins])
    gap, width = np.abs(stated - accuracy), 0.94 * (right - left)

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        upper.bar(left, accuracy, width, align="edge", color=_COLOURS[0], label="accuracy")
        orange = {"color": (_COLOURS[1], 0.25), "edgecolor": _COLOURS[1], "label": "gap to the confidence"}
        upper.bar(left, gap, width, np.minimum(stated, accuracy), align="edge", **orange)
        upper.axline((0, 0), slope=1, color=_LIGHT["soft"], linestyle="--", linewidth=1.2)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        upper.grid(True)
        error = float(counts @ gap) / counts.sum()
        upper.set_title(f"ECE {error:.3f}, {counts.sum():,} items", loc="right", fontsize=11)
        lower.bar(left, counts, width, align="edge", color=_COLOURS[0])
        lower.set(xlabel="confidence", ylabel="items")
        _legend(figure, upper, 2)

    svg = _svg(title, 400, draw, lack="" if bins else "no items")
    rows = tuple((one.confidence, one.accuracy, one.count) for one in bins)
    columns = ("confidence", "accuracy", "items")
    return Chart("reliability_diagram", title, "confidence", "accuracy", columns, rows, svg)


def bar_chart(
    title: str, bars: Sequence[Bar], *, x_label: str = "", x_range: tuple[float, float] | None = None
) -> Chart:
    """Draw horizontal bars from 0, with the numbers beside them. Values may be negative.

    Args:
        bars: from top to bottom.
        x_range: what the axis has to cover beside 0 and the data.

    Raises:
        ChiasmError: a value that is infinite or above 1e100.
    """
    values = np.array([bar.value for bar in bars], dtype=np.float64)
    _finite(values[~np.isnan(values)], "values of bars")
    keys = list(dict.fromkeys(bar.key for bar in bars))
    firsts = [not number or bar.name != bars[number - 1].name for number, bar in enumerate(bars)]
    places = np.cumsum([1.4 if first and len(keys) > 1 else 1.0 for first in firsts])

    def draw(figure: Figure) -> None:
        axes = _axes(figure, x_label, "")
        axes.grid(True, axis="x")
        for number, key in enumerate(keys):
            mine = np.array([bar.key == key for bar in bars])
            axes.barh(places[mine], values[mine], 0.72, color=_COLOURS[number % 8], label=_name(key))
        axes.axvline(0, color=_LIGHT["soft"], linewidth=1)
        axes.set_yticks(places[firsts], [_name(bar.name) for bar, first in zip(bars, firsts, strict=True) if first])
        axes.tick_params("y", length=0, labelcolor=_LIGHT["ink"])
        axes.set_ylim(places[-1] + 0.6, places[0] - 0.6)  # also of bars without a value
        axes.spines["left"].set_visible(False)
        if x_range is not None:
            axes.set_xlim(min(x_range[0], axes.get_xlim()[0]), max(x_range[1], axes.dataLim.x1))
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(places, ["n/a" if math.isnan(value) else _short(value) for value in values])
        beside.tick_params(length=0, labelcolor=_LIGHT["ink"])
        beside.spines["right"].set_visible(False)
        _legend(figure, axes, len(keys) if any(keys) else 0)

    height = 22 * places[-1:].sum() + (56 if x_label else 38) + 16 * _legend_rows(keys if any(keys) else [])
    svg = _svg(title, height, draw, lack="" if bars else "no bars")
    keyed = any(keys)
    columns = ("name", "key", "value") if keyed else ("name", "value")
    rows = tuple((bar.name, bar.key, bar.value) if keyed else (bar.name, bar.value) for bar in bars)
    return Chart("bar_chart", title, x_label, "", columns, rows, svg)


def histogram(title: str, groups: Mapping[str, Numbers], *, x_label: str, threshold: float | None = None) -> Chart:
    """Draw how the values of groups are spread, as shares of each group, so that groups of any size compare.

    Bins are common to all groups and end at round numbers; there are about twice the cube root of the number of values
    (Rice), from 8 to 40.

    Args:
        groups: values by name, such as the scores of known and unknown items.
        threshold: where to draw a dashed line.

    Raises:
        ChiasmError: a value that is not finite or above 1e100.
    """
    from matplotlib.ticker import MaxNLocator

    values = {name: _finite(group, f"values of {name!r}") for name, group in groups.items()}
    every = np.concatenate([*values.values(), _finite([] if threshold is None else [threshold], "threshold")])
    total = sum(map(len, values.values()))
    edges = np.zeros(1)
    if total:
        number = min(40, max(8, round(2 * total ** (1 / 3))))
        edges = np.asarray(MaxNLocator(number, steps=[1, 2, 2.5, 5, 10]).tick_values(every.min(), every.max()))
    # The edges cover the values but for rounding: a cosine of 1.0000000000000002 lies in the bin that ends at 1.
    counts = {
        name: np.histogram(np.clip(group, edges[0], edges[-1]), edges)[0] if total else np.empty(0, int)
        for name, group in values.items()
    }
    names = [f"{_name(name)} ({int(count.sum()):,})" if name else "" for name, count in counts.items()]

    def draw(figure: Figure) -> None:
        axes = _axes(figure, x_label, "share of the group" if len(groups) > 1 else "share")
        axes.grid(True, axis="y")
        for number, (name, count) in enumerate(zip(names, counts.values(), strict=True)):
            colour = _COLOURS[number % 8]
            axes.stairs(
                count / max(1, count.sum()), edges, fill=True, facecolor=(colour, 0.25), edgecolor=colour, linewidth=1.5,
                linestyle=_DASHES[number // 8 % 4], label=name,
            )  # fmt: skip
        if threshold is not None:
            axes.axvline(threshold, color=_LIGHT["soft"], linestyle="--", linewidth=1.2)
            axes.set_title(f"threshold {threshold:.3g}", loc="right", fontsize=11)
        _legend(figure, axes, len(names) if any(names) else 0)

    svg = _svg(title, 270 + 16 * _legend_rows(names), draw, lack="" if total else "no values")
    rows = tuple(zip(edges[:-1], edges[1:], *counts.values(), strict=True))
    return Chart("histogram", title, x_label, "", ("from", "to", *groups), rows, svg, threshold)


def scatter(title: str, x: Numbers, y: Numbers, *, x_label: str, y_label: str) -> Chart:
    """Draw points in the plane; of more than 4,000, 4,000 evenly spaced ones, and say so.

    Raises:
        ChiasmError: a number that is not finite or above 1e100, or lengths that differ.
    """
    xs, ys, *_ = _points(Series(title, x, y))
    rows = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), _POINTS)).round().astype(int))

    def draw(figure: Figure) -> None:
        axes = _axes(figure, x_label, y_label)
        axes.grid(True)
        axes.plot(xs[rows], ys[rows], "o", color=_COLOURS[0], alpha=0.75, markeredgewidth=0)
        if len(rows) < len(xs):
            axes.set_title(f"{len(rows):,} of {len(xs):,} points", loc="right", fontsize=10)

    svg = _svg(title, 340, draw, lack="" if len(xs) else "no points")
    return Chart("scatter", title, x_label, y_label, (x_label, y_label), tuple(zip(x, y, strict=True)), svg)


def heatmap(
    title: str,
    values: Sequence[Sequence[float]] | Float[np.ndarray, "rows columns"] | Int[np.ndarray, "rows columns"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    y_label: str,
    x_label: str,
    by_row: bool = False,
) -> Chart:
    """Draw a matrix as shades with its numbers: confusion matrices, accuracy by task and time.

    Numbers are left out where they do not fit (from about 20 columns on), and so are names that would overlap.

    Args:
        values: the matrix. NaN: not measured, left blank.
        rows: a name for each row.
        columns: a name for each column.
        y_label: what the rows are.
        x_label: what the columns are.
        by_row: shade by the share of the row's sum (counts only), else from the least to the largest value, of which
            the least is 0 if none is negative.

    Raises:
        ChiasmError: a matrix that does not fit its names, holds infinity, is larger than 400 a side, or a negative number
            with `by_row`.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if not matrix.size:
        matrix = matrix.reshape(len(rows), len(columns)) if not (rows and columns) else matrix
    if matrix.shape != (len(rows), len(columns)):
        raise ChiasmError(
            f"{len(rows)} names of rows and {len(columns)} of columns do not fit a matrix of shape {matrix.shape}"
        )
    if max(matrix.shape) > MAX_CLASSES:
        raise ChiasmError(
            f"a matrix of {matrix.shape[0]} by {matrix.shape[1]} is too large to draw; the limit is {MAX_CLASSES}"
        )
    _finite(matrix[~np.isnan(matrix)], "the numbers of the matrix")
    shade, texts, legend = _shades(matrix, by_row=by_row)
    longest = max((len(text) for row in texts for text in row), default=0)
    row_space, column_space = (
        8 + 6.5 * max((len(_name(name)) for name in names), default=0) for names in (rows, columns)
    )
    cell = min(46.0, max((_WIDTH - 40 - row_space) / max(1, len(columns)), min(15.0, 560 / max(1, len(columns)))))
    fits, upright = cell >= 8 + 6 * longest, column_space <= cell + 8

    def draw(figure: Figure) -> None:
        from matplotlib.collections import PolyCollection

        axes = _axes(figure, "", y_label)
        i, j = np.nonzero(shade)
        corners = np.stack([[j, i], [j + 1, i], [j + 1, i + 1], [j, i + 1]]).transpose(2, 0, 1)
        colours = [(_LIGHT["heat"], 0.05 + 0.65 * alpha) for alpha in shade[i, j]]
        axes.add_collection(PolyCollection(corners.tolist(), facecolors=colours, linewidths=0))
        if fits:
            for (row, column), _ in np.ndenumerate(shade):
                if texts[row][column]:
                    axes.text(column + 0.5, row + 0.5, texts[row][column], ha="center", va="center")
        every = max(1, math.ceil(13 / cell))
        axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
        axes.set_xticks(
            np.arange(len(columns))[::every] + 0.5,
            [_name(name) for name in columns][::every],
            rotation=0 if upright else 90,
        )
        axes.set_yticks(np.arange(len(rows))[::every] + 0.5, [_name(name) for name in rows][::every])
        lines = 1 if len(columns) <= 40 else 10
        axes.set_xticks(range(0, len(columns) + 1, lines), minor=True)
        axes.set_yticks(range(0, len(rows) + 1, lines), minor=True)
        axes.grid(True, which="minor")
        axes.tick_params(which="both", length=0, labelcolor=_LIGHT["ink"])
        axes.tick_params(top=False, labeltop=True, labelbottom=False)
        axes.xaxis.set_label_position("top")
        axes.set_xlabel(_name(x_label), loc="left", color=_LIGHT["soft"])
        axes.yaxis.label.set_color(_LIGHT["soft"])
        axes.spines[:].set_visible(False)
        if not fits:
            axes.text(0, -0.02, legend, transform=axes.transAxes, va="top", color=_LIGHT["soft"])

    height = (46 if upright else 32 + column_space) + min(cell, 34.0) * len(rows) + (0 if fits else 20)
    width = max(240.0, 40 + row_space + cell * len(columns))
    svg = _svg(title, height, draw, width=width, lack="" if matrix.size else "no classes")
    table = tuple((name, *row) for name, row in zip(rows, values, strict=True))
    return Chart("heatmap", title, x_label, y_label, (f"{y_label} \\ {x_label}", *columns), table, svg)


def _shades(
    matrix: Float64[np.ndarray, "rows columns"], *, by_row: bool
) -> tuple[Float64[np.ndarray, "rows columns"], list[list[str]], str]:
    """Return the shade of each cell from 0 to 1, its text, and what the shades mean."""
    known = np.nan_to_num(matrix)
    least, most = float(known.min(initial=0)), float(known.max(initial=0))
    if by_row:
        if least < 0:
            raise ChiasmError(f"shares of a row need numbers from 0 on; got {least:g}")
        shade, legend = known / np.maximum(known.sum(1, keepdims=True), 1e-12), "the darker, the more of its row"
    else:
        shade, legend = (known - least) / ((most - least) or 1), f"shades from {least:.3g} to {most:.3g}"
    shade[np.isnan(matrix)] = 0
    digits = 0 if (known == np.rint(known)).all() else 2
    texts = [["" if math.isnan(v) or (by_row and not v) else f"{v:.{digits}f}" for v in row] for row in matrix]
    return shade, texts, legend


# ------------------------------------------------------------------------------------------------------------- drawing


def _svg(title: str, height: float, draw: Callable[[Figure], None], *, width: float = _WIDTH, lack: str) -> str:
    """Return one SVG element of a figure: no declaration, no style of its own, colours as variables.

    Args:
        title: of the element.
        height: in pixels.
        draw: puts everything into a figure.
        width: in pixels.
        lack: what is missing if there is nothing to draw, else empty.
    """
    from matplotlib import rc_context, rcdefaults, rcParams
    from matplotlib.figure import Figure

    title = clean(" ".join(title.split()))
    buffer = io.StringIO()
    with _LOCK, rc_context(), warnings.catch_warnings():
        rcdefaults()  # whatever style the caller has set
        rcParams.update({**_SETTINGS, "svg.hashsalt": title})
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the reader's browser has the fonts
        height, width = (80, _WIDTH) if lack else (height, width)
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        if lack:
            figure.text(0.5, 0.5, f"nothing to draw: {lack}", ha="center", va="center", color=_LIGHT["soft"])
        else:
            draw(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    body = svg[svg.index(">") + 1 :]
    body = re.sub(r"<[^>]+>", lambda tag: _themed(tag[0], used), body)  # in tags only: text may look like a colour
    body = re.sub(r">\s+<", "><", body).strip()
    wide = " wide" if width > _WIDTH + 30 else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" class="plot{wide}" role="img" '
        f'aria-label="{html.escape(title)}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}"><title>{html.escape(title)}</title>{body}'
    )


def _themed(tag: str, used: set[str]) -> str:
    """Return a tag without an id that nothing refers to and without a font, and with colours as variables."""
    tag = re.sub(r' id="([^"]*)"', lambda one: one[0] if one[1] in used else "", tag)
    tag = re.sub(r"(?<=[\" ])font: ([\d.]+px) [^;\"]+", r"font-size: \1", tag)
    tag = re.sub(r"font-family: [^;\"]+; ?", "", tag).replace("\n", " ")
    return re.sub("#[0-9a-f]{6}", lambda one: _THEMED.get(one[0], one[0]), tag)


_THEMED = {value: f"var(--plot-{name}, {value})" for name, value in _LIGHT.items()}


def _axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    axes = figure.subplots()
    axes.set_xlabel(_name(x_label, 60))
    axes.set_ylabel(_name(y_label, 40))
    return axes


def _legend_rows(names: Sequence[str]) -> int:
    if not any(names):
        return 0
    shown = names[:_LEGEND]
    return math.ceil(len(shown) / _legend_columns(shown)) + (len(names) > _LEGEND)


def _legend_columns(names: Sequence[str]) -> int:
    return max(1, min(len(names), int(_WIDTH // (44 + 6.5 * max(len(_name(name)) for name in names)))))


def _legend(figure: Figure, axes: Axes, entries: int) -> None:
    """Put a legend below the axes; of more than 24 entries the first, and how many are left out."""
    handles, names = axes.get_legend_handles_labels()
    if not entries or not any(names):
        return
    names = [name or "(no name)" for name in names]
    more = f"and {entries - _LEGEND} more" if entries > _LEGEND else None
    figure.legend(
        handles[:_LEGEND],
        names[:_LEGEND],
        loc="outside lower center",
        ncols=_legend_columns(names[:_LEGEND]),
        title=more,
    )


def _name(text: str, longest: int = _NAME) -> str:
    """Return a name that fits: on one line, shortened, without what matplotlib leaves out of legends."""
    line = clean(" ".join(text.split()))
    line = line if len(line) <= longest else line[: longest - 1].rstrip() + "…"
    return f"\u200b{line}" if line.startswith("_") else line


def _short(number: float) -> str:
    number += 0.0  # no minus before a zero
    return f"{number:.2f}" if number == 0 or 0.005 <= abs(number) < 1e4 else f"{number:.3g}"


# --------------------------------------------------------------------------------------------------------------- input


def _finite(values: Numbers, name: str) -> Float64[np.ndarray, " n"]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ChiasmError(f"{name} have to be one row of numbers; got shape {array.shape}")
    bad = np.flatnonzero(~(np.abs(array) <= _LARGEST))
    if len(bad):
        raise ChiasmError(
            f"{name}: {len(bad)} of {len(array)} cannot be drawn, the first is {array[bad[0]]:g} at position {bad[0]}; "
            "numbers have to be finite and below 1e100. Leave these out"
        )
    return array


_Points: TypeAlias = tuple[
    Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]
]


def _points(series: Series) -> _Points:
    """Return x, y, low and high of a line; without an interval, low and high are y."""
    if (series.low is None) != (series.high is None):
        raise ChiasmError(f"{series.name!r}: an interval has both low and high; one is missing")
    x, y = _finite(series.x, f"x of {series.name!r}"), _finite(series.y, f"y of {series.name!r}")
    low = y if series.low is None else _finite(series.low, f"low of {series.name!r}")
    high = y if series.high is None else _finite(series.high, f"high of {series.name!r}")
    if not len(x) == len(y) == len(low) == len(high):
        raise ChiasmError(
            f"{series.name!r}: x, y, low and high have to be equally long; got {len(x)}, {len(y)}, {len(low)} and {len(high)}"
        )
    if (low > high).any():
        raise ChiasmError(f"{series.name!r}: an interval is upside down, first at {int(np.argmax(low > high))}")
    return x, y, low, high
