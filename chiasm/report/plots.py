"""Numbers as drawings: each function takes numbers and gives one SVG element as a string.

Knows scales, ticks, colours and where text fits. Every text is escaped, and shortened where it is too long, with the
whole of it in a `<title>`. Colours are classes: a page has to hold `STYLE` once, which has a set for light and one for
dark paper. Both were searched so that any two of the eight colours differ by at least 27 (CIE 1976 Lab), also with
protanopia and deuteranopia (matrices of Machado et al. 2009), and each stands out from the paper by 3:1; line dashes
and marker shapes tell apart what shares a colour. What is drawn and what it means is left to the callers.

Where there is nothing to draw the drawing says so. What cannot be drawn (NaN where a number has to be, infinity,
lengths that differ) is a `ChiasmError`.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.errors import ChiasmError

__all__ = [
    "STYLE",
    "Bar",
    "Numbers",
    "Series",
    "bar_chart",
    "escape",
    "heatmap",
    "histogram",
    "histogram_counts",
    "line_chart",
    "nice_ticks",
    "reliability_diagram",
    "scatter",
]

Numbers: TypeAlias = Sequence[float] | Float[np.ndarray, " n"] | Int[np.ndarray, " n"]

MAX_CLASSES = 400  # of a heatmap: beyond, a cell is less than two pixels wide

STYLE = """
:root { --plot-ink: #1c2530; --plot-soft: #5b6875; --plot-line: #dfe4e9; --plot-heat: #0b7285; --plot-c0: #0579b3;
  --plot-c1: #d66e05; --plot-c2: #51271f; --plot-c3: #062ff9; --plot-c4: #311c9c; --plot-c5: #fa4c69;
  --plot-c6: #903304; --plot-c7: #6d035c; }
@media (prefers-color-scheme: dark) { :root { --plot-ink: #e6e9ec; --plot-soft: #9aa7b3; --plot-line: #333d47;
  --plot-heat: #1098ad; --plot-c0: #63b9e3; --plot-c1: #f9d006; --plot-c2: #c38160; --plot-c3: #866ffb;
  --plot-c4: #a0eeba; --plot-c5: #c6e981; --plot-c6: #f92f06; --plot-c7: #de4591; } }
.plot { display: block; max-width: 100%; height: auto; } .plot.wide { max-width: none; }
.plot text { fill: var(--plot-ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; }
.plot .soft { fill: var(--plot-soft); } .plot .small { font-size: 11px; }
.plot .grid { stroke: var(--plot-line); stroke-width: 1; fill: none; }
.plot .axis { stroke: var(--plot-soft); stroke-width: 1; fill: none; }
.plot .guide { stroke: var(--plot-soft); stroke-width: 1.5; stroke-dasharray: 4 4; fill: none; }
.plot .line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.plot .whisker { fill: none; stroke: currentColor; stroke-width: 1.5; } .plot .ink { color: var(--plot-ink); }
.plot .mark { fill: currentColor; } .plot .band { fill: currentColor; fill-opacity: .18; }
.plot .outline { fill: currentColor; fill-opacity: .25; stroke: currentColor; stroke-width: 1.5; }
.plot .heat { fill: var(--plot-heat); }
.plot .d1 { stroke-dasharray: 7 3; } .plot .d2 { stroke-dasharray: 2 3; } .plot .d3 { stroke-dasharray: 8 3 2 3; }
.plot .c0 { color: var(--plot-c0); } .plot .c1 { color: var(--plot-c1); } .plot .c2 { color: var(--plot-c2); }
.plot .c3 { color: var(--plot-c3); } .plot .c4 { color: var(--plot-c4); } .plot .c5 { color: var(--plot-c5); }
.plot .c6 { color: var(--plot-c6); } .plot .c7 { color: var(--plot-c7); }
"""

_WIDTH = 460  # pixels; on a phone this shrinks by a fifth, and the text can still be read
_COLOURS = 8
_LARGEST = 1e100  # squares and differences of anything smaller stay finite
_SMALLEST = 1e-100
_LEGEND = 24  # entries
_POINTS = 4000  # of a scatter plot
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Series:
    """One line: its points in order, and where known an interval about each."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Bar:
    """One bar, and where known an interval about its value. Neighbours of the same name stand as one group."""

    name: str
    value: float  # NaN: not defined, shown as "n/a"
    low: float | None = None
    high: float | None = None
    key: str = ""  # tells the bars of a group apart; each key has its colour


def escape(text: str) -> str:
    """Text for HTML, SVG and XML; characters that XML cannot hold, such as NUL or half a surrogate, become U+FFFD."""
    return html.escape(_NOT_XML.sub("\ufffd", text))


def nice_ticks(low: float, high: float, *, count: int = 5) -> tuple[float, ...]:
    """Round numbers, evenly spaced, of which the first is at most `low` and the last at least `high`.

    Args:
        low: smallest number to be shown.
        high: largest; where it equals `low`, the ticks surround it.
        count: how many steps there may be between the two.
    """
    return _decimal_ticks(low, high, count)[0]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    error_bars: bool = False,
    diagonal: bool = False,
    log_x: bool = False,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines over a common axis: learning curves, ROC, precision and recall.

    Args:
        series: the lines. Up to 30 points are marked each; of long lines only what can be seen is drawn (first, last,
            least and largest of a pixel's column, after M4, Jugel et al. 2014).
        title: what it shows, for those who cannot see it.
        x_label: below the horizontal axis.
        y_label: above the vertical axis.
        error_bars: draw intervals as bars at the points, not as a band.
        diagonal: a dashed line where x equals y.
        log_x: a logarithmic horizontal axis, with ticks at the values themselves where they are few.
        x_range: what the horizontal axis has to cover beside the data.
        y_range: the same for the vertical axis.

    Raises:
        ChiasmError: a number is not finite or above 1e100, lengths differ, an interval is upside down or half given,
            or `log_x` meets a number that is not positive, or `diagonal`.
    """
    if log_x and diagonal:
        raise ChiasmError("a diagonal is no straight line on a logarithmic axis: leave out diagonal or log_x")
    lines = [_checked(one) for one in series]
    if not any(len(x) for x, *_ in lines):
        return _placeholder(title, "no points")
    xs = np.concatenate([x for x, *_ in lines] + [np.array(x_range or (), float)])
    ys = np.concatenate([part for _, *parts in lines for part in parts] + [np.array(y_range or (), float)])
    if log_x and xs.min() < _SMALLEST:
        raise ChiasmError(f"a logarithmic axis takes positive numbers only; got x = {xs.min():g}. Leave out log_x")
    legend, legend_height = _legend([one.name for one in series], "line")
    top, bottom = 26.0, 256.0
    y_axis = _axis(ys, bottom, top)
    x_axis = _x_axis(xs, y_axis, log=log_x)
    parts = [*_frame(x_axis, y_axis, x_label, y_label)]
    if diagonal:
        low, high = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
        if low < high:
            ends = [x_axis.at(low), y_axis.at(low), x_axis.at(high), y_axis.at(high)]
            parts.append('<line class="guide" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends))
    drawings = []
    for number, (one, (x, y, low_y, high_y)) in enumerate(zip(series, lines, strict=True)):
        px, py = x_axis.pixels(x), y_axis.pixels(y)
        group = [f'<g class="c{number % _COLOURS}"><title>{escape(one.name)}</title>']
        if one.low is not None:
            py_low, py_high = y_axis.pixels(low_y), y_axis.pixels(high_y)
            if error_bars:
                group += [_whisker(a, b, a, c) for a, b, c in zip(px, py_low, py_high, strict=True)]
            else:
                kept = sorted({*_visible(px, py_low), *_visible(px, py_high)})
                outline = [(px[i], py_high[i]) for i in kept] + [(px[i], py_low[i]) for i in reversed(kept)]
                group.append(f'<polygon class="band" points="{_points(outline)}"/>')
        shown = [(px[i], py[i]) for i in _visible(px, py)]
        group.append(f'<polyline class="line d{_dash(number)}" points="{_points(shown)}"/>')
        if len(x) <= 30:
            group += [_marker(number, a, b) for a, b in shown]
        drawings.append("".join([*group, "</g>"]))
    parts += reversed(drawings)  # the first is the one that matters: it lies on top
    return _svg(title, bottom + 42, parts, legend, legend_height)


def reliability_diagram(
    confidence: Numbers,
    accuracy: Numbers,
    count: Numbers,
    *,
    title: str,
    edges: Sequence[tuple[float, float]] | None = None,
) -> str:
    """How often what is believed at a confidence is right; below, how many items there are at each.

    A bar is as high as the accuracy of its bin, and the gap to its mean confidence stands on it in another colour.
    ECE is the mean of the gaps, weighted by the counts (Guo et al. 2017).

    Args:
        confidence: mean confidence of each bin.
        accuracy: share of right answers of each bin.
        count: items of each bin; a bin of none may have NaN in the other two.
        title: what it shows, for those who cannot see it.
        edges: from where to where each bin goes. By default the bins are equally wide and go from 0 to 1.

    Raises:
        ChiasmError: lengths differ, a number is not between 0 and 1, a count is negative or no integer, or a mean
            confidence lies outside of its bin.
    """
    counts = _finite(count, "counts")
    if not len(counts) or not counts.sum():
        return _placeholder(title, "no items")
    if counts.min() < 0 or (counts != np.rint(counts)).any():
        raise ChiasmError(f"counts of items are whole numbers from 0 on; got {counts.tolist()}")
    if len(confidence) != len(counts) or len(accuracy) != len(counts):
        raise ChiasmError(
            f"every bin needs a confidence, an accuracy and a count; got {len(confidence)}, {len(accuracy)} and {len(counts)}"
        )
    full = np.flatnonzero(counts)
    believed = _shares(np.asarray(confidence, float)[full], "mean confidences")
    right = _shares(np.asarray(accuracy, float)[full], "accuracies")
    even = np.linspace(0, 1, len(counts) + 1)
    lows = _shares(even[:-1] if edges is None else [low for low, _ in edges], "edges of bins")
    highs = _shares(even[1:] if edges is None else [high for _, high in edges], "edges of bins")
    if len(lows) != len(counts) or (lows >= highs).any():
        raise ChiasmError(
            f"each of {len(counts)} bins needs a lower and an upper edge; got {list(zip(lows.tolist(), highs.tolist(), strict=True))}"
        )
    outside = (believed < lows[full] - 1e-6) | (believed > highs[full] + 1e-6)
    if outside.any():
        bad = int(full[outside][0])
        raise ChiasmError(
            f"the mean confidence {believed[outside][0]:.4g} of bin {bad} is not between its edges {lows[bad]:.4g} and "
            f"{highs[bad]:.4g}: give the edges that the bins were made with"
        )
    weights = counts[full] / counts.sum()
    error = float(weights @ np.abs(believed - right))
    unit = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    labels = tuple(f"{tick:.1f}" for tick in unit)
    y_axis = _Axis(0.0, 1.0, 246.0, 26.0, unit, labels)
    x_axis = _Axis(0.0, 1.0, 34.0, _WIDTH - 14.0, unit, labels)
    share_axis = _Axis(0.0, float(weights.max()), 346.0, 290.0, (), ())
    parts = [*_frame(x_axis, y_axis, "", "accuracy")]
    for number, low, high in zip(full, believed, right, strict=True):
        left, right_edge = x_axis.at(lows[number]) + 1, x_axis.at(highs[number]) - 1
        width = max(right_edge - left, 0.5)
        says = f"confidence {low:.3f}, accuracy {high:.3f}, {int(counts[number])} items"
        parts.append(f"<g><title>{says}</title>")
        parts.append(_rect("mark c0", left, y_axis.at(high), width, y_axis.at(0) - y_axis.at(high), kind="accuracy"))
        upper, lower = y_axis.at(max(low, high)), y_axis.at(min(low, high))
        parts.append(_rect("outline c1", left, upper, width, lower - upper, kind="gap"))
        share = share_axis.at(counts[number] / counts.sum())
        parts.append(_rect("mark c0", left, share, width, share_axis.at(0) - share, kind="count") + "</g>")
    ends = (x_axis.at(0), y_axis.at(0), x_axis.at(1), y_axis.at(1))
    parts.append('<line class="guide" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*ends))
    base = share_axis.at(0)
    parts.append(f'<line class="axis" x1="{x_axis.start}" y1="{base:.1f}" x2="{x_axis.stop}" y2="{base:.1f}"/>')
    parts.append(_text(x_axis.start, 282, f"items, at most {int(counts.max()):,} a bin", css="small soft"))
    parts.append(_text((x_axis.start + x_axis.stop) / 2, 364, "confidence", anchor="middle"))
    parts.append(_text(x_axis.stop, 16, f"ECE {error:.3f}, {int(counts.sum()):,} items", anchor="end"))
    legend, height = _legend(["accuracy", "gap to the confidence"], "bar", "area")
    return _svg(title, 374, parts, legend, height)


def bar_chart(bars: Sequence[Bar], *, title: str, x_label: str = "", x_range: tuple[float, float] | None = None) -> str:
    """Horizontal bars from 0, with intervals as whiskers, and the numbers beside them. Values may be negative.

    Args:
        bars: from top to bottom.
        title: what it shows, for those who cannot see it.
        x_label: below the axis.
        x_range: what the axis has to cover beside 0 and the data.

    Raises:
        ChiasmError: a value is infinite or above 1e100, or an interval is upside down, half given or not finite.
    """
    if not bars:
        return _placeholder(title, "no bars")
    for bar in bars:
        if (bar.low is None) != (bar.high is None):
            raise ChiasmError(f"bar {bar.name!r}: an interval has both low and high; got {bar.low} and {bar.high}")
        ends = [end for end in (bar.low, bar.high) if end is not None]
        _finite([*ends, *([] if math.isnan(bar.value) else [bar.value])], f"bar {bar.name!r}: value and interval")
        if bar.low is not None and bar.high is not None and bar.low > bar.high:
            raise ChiasmError(f"bar {bar.name!r}: its interval is upside down, from {bar.low} to {bar.high}")
    numbers = [end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None and not math.isnan(end)]
    keys = list(dict.fromkeys(bar.key for bar in bars))
    legend, legend_height = _legend(keys, "bar")
    texts = [_bar_text(bar) for bar in bars]
    left = 8.0 + min(150.0, max(_text_width(bar.name) for bar in bars))
    widest = max(map(_text_width, texts))
    axis = _axis(np.array([0.0, *numbers, *(x_range or ())]), left, max(_WIDTH - 10.0 - widest, left + 80))
    y = 6.0
    middles = []
    for number, bar in enumerate(bars):
        y += 8 if number and bar.name != bars[number - 1].name and len(keys) > 1 else 0
        middles.append(y + 9)
        y += 20
    parts = [_grid_down(axis, 4, y)]
    for number, (bar, text, middle) in enumerate(zip(bars, texts, middles, strict=True)):
        full = f"{bar.name} {bar.key}: {text}" if bar.key else f"{bar.name}: {text}"
        parts.append(f"<g><title>{escape(full)}</title>")
        if not number or bar.name != bars[number - 1].name:
            parts.append(_text(left - 8, middle + 4, bar.name, anchor="end", width=left - 8))
        if not math.isnan(bar.value):
            ends = sorted((axis.at(0), axis.at(bar.value)))
            colour = f"mark c{keys.index(bar.key) % _COLOURS}"
            parts.append(_rect(colour, ends[0], middle - 7, max(ends[1] - ends[0], 1), 14, kind="bar"))
        if bar.low is not None and bar.high is not None:
            parts.append(f'<g class="ink">{_whisker(axis.at(bar.low), middle, axis.at(bar.high), middle)}</g>')
        parts.append(_text(axis.stop + 10, middle + 4, text) + "</g>")
    zero = axis.at(0)
    parts.append(f'<line class="axis" x1="{zero:.1f}" y1="4" x2="{zero:.1f}" y2="{y:.1f}"/>')
    parts += _x_ticks(axis, y, x_label)
    return _svg(title, y + (42 if x_label else 24), parts, legend, legend_height, width=axis.stop + 10 + widest)


def histogram_counts(
    groups: Mapping[str, Numbers], *, bins: int | None = None, threshold: float | None = None
) -> tuple[Float64[np.ndarray, " edges"], dict[str, Int[np.ndarray, " bins"]]]:
    """What `histogram` draws: bins common to all groups, and how many values of each group lie in each.

    A value on the border of two bins counts in the upper one, on the last edge in the last bin.

    Args:
        groups: values by name.
        bins: how many at least. By default twice the cube root of the number of values (Rice), from 8 to 40.
        threshold: a number that the bins have to cover, too.

    Returns:
        The edges (round numbers; none where there is no value), and counts by name.

    Raises:
        ChiasmError: a value is not finite or above 1e100, or `bins` is not from 1 to 200.
    """
    if bins is not None and not 1 <= bins <= 200:
        raise ChiasmError(f"bins is a number from 1 to 200; got {bins}")
    values = {name: _finite(group, f"values of {name!r}") for name, group in groups.items()}
    total = sum(map(len, values.values()))
    if not total:
        return np.empty(0), {name: np.empty(0, np.intp) for name in values}
    wanted = bins or min(40, max(8, round(2 * total ** (1 / 3))))
    every = np.concatenate([*values.values(), _finite([] if threshold is None else [threshold], "threshold")])
    ticks, _, _ = _decimal_ticks(float(every.min()), float(every.max()), 8)
    parts = math.ceil(wanted / (len(ticks) - 1))
    edges = np.interp(np.arange(parts * (len(ticks) - 1) + 1) / parts, np.arange(len(ticks)), ticks)
    # The ticks cover the values but for rounding: a cosine of 1.0000000000000002 lies in the bin that ends at 1.
    return edges, {name: np.histogram(np.clip(group, edges[0], edges[-1]), edges)[0] for name, group in values.items()}


def histogram(
    groups: Mapping[str, Numbers],
    *,
    title: str,
    x_label: str,
    bins: int | None = None,
    threshold: float | None = None,
) -> str:
    """How the values of one or several groups are spread, as shares of each group, so that groups of any size compare.

    Args:
        groups: values by name, such as the scores of known and unknown items.
        title: what it shows, for those who cannot see it.
        x_label: below the axis.
        bins: see `histogram_counts`.
        threshold: where to draw a dashed line.

    Raises:
        ChiasmError: see `histogram_counts`.
    """
    edges, counts = histogram_counts(groups, bins=bins, threshold=threshold)
    if not len(edges):
        return _placeholder(title, "no values")
    shares = {name: count / max(1, count.sum()) for name, count in counts.items()}
    top, bottom = 26.0, 226.0
    y_axis = _axis(np.array([0.0, *(share.max() for share in shares.values())]), bottom, top)
    x_axis = _x_axis(edges, y_axis)
    parts = [*_frame(x_axis, y_axis, x_label, "share of the group" if len(groups) > 1 else "share")]
    px = x_axis.pixels(edges)
    for number, (name, share) in enumerate(shares.items()):
        py = y_axis.pixels(share)
        steps = [(a, b) for i, b in enumerate(py) for a in (px[i], px[i + 1])]
        outline = _points([(px[0], bottom), *steps, (px[-1], bottom)])
        parts.append(f'<g class="c{number % _COLOURS}"><title>{escape(name)}</title>')
        parts.append(f'<polygon class="outline d{_dash(number)}" points="{outline}"/></g>')
    if threshold is not None:
        x = x_axis.at(threshold)
        text = f"threshold {_short(threshold)}"
        on_left = x + 6 + _text_width(text) > _WIDTH
        parts.append(f'<line class="guide" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x - 5 if on_left else x + 5, top + 11, text, anchor="end" if on_left else "start"))
    names = [f"{name} ({int(count.sum()):,})" if name else "" for name, count in counts.items()]
    legend, legend_height = _legend(names, "area")
    return _svg(title, bottom + 42, parts, legend, legend_height)


def scatter(
    x: Numbers,
    y: Numbers,
    classes: Sequence[str] | None = None,
    *,
    title: str,
    x_label: str = "",
    y_label: str = "",
) -> str:
    """Points in the plane, a colour and a shape for each class. The legend has the most frequent class first.

    Args:
        x: coordinates of the points.
        y: the others.
        classes: the class of each point.
        title: what it shows, for those who cannot see it.
        x_label: below the horizontal axis.
        y_label: above the vertical axis.

    Of more than 4,000 points, 4,000 evenly spaced ones are drawn, and the drawing says so.

    Raises:
        ChiasmError: a number is not finite or above 1e100, or lengths differ.
    """
    xs, ys = _finite(x, "x"), _finite(y, "y")
    names = [""] * len(xs) if classes is None else list(classes)
    if not len(xs) == len(ys) == len(names):
        raise ChiasmError(f"every point needs an x, a y and a class; got {len(xs)}, {len(ys)} and {len(names)}")
    if not len(xs):
        return _placeholder(title, "no points")
    sizes: dict[str, int] = {}
    for name in names:
        sizes[name] = sizes.get(name, 0) + 1
    order = {name: number for number, name in enumerate(sorted(sizes, key=lambda name: (-sizes[name], name)))}
    top, bottom = 26.0, 306.0
    y_axis = _axis(ys, bottom, top)
    x_axis = _x_axis(xs, y_axis)
    px, py = x_axis.pixels(xs), y_axis.pixels(ys)
    rows = np.unique(np.linspace(0, len(xs) - 1, min(len(xs), _POINTS)).round().astype(int))
    parts = [*_frame(x_axis, y_axis, x_label, y_label)]
    if len(rows) < len(xs):
        parts.append(_text(x_axis.stop, 16, f"{len(rows):,} of {len(xs):,} points", anchor="end", css="soft small"))
    of_class: dict[str, list[str]] = {name: [] for name in order}
    for row in rows:
        of_class[names[row]].append(_marker(order[names[row]], px[row], py[row], radius=3.2))
    for name, marks in of_class.items():
        colour = order[name] % _COLOURS
        parts.append(f'<g class="c{colour}" fill-opacity=".75"><title>{escape(name)}</title>{"".join(marks)}</g>')
    legend, legend_height = _legend([] if classes is None else list(order), "point")
    return _svg(title, bottom + 42, parts, legend, legend_height)


def heatmap(
    values: Sequence[Sequence[float]] | Float[np.ndarray, "rows columns"] | Int[np.ndarray, "rows columns"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    y_label: str,
    x_label: str,
    by_row: bool = False,
) -> str:
    """A matrix as shades with its numbers: confusion matrices, accuracy by task and time.

    Args:
        values: the matrix. NaN: not measured, left blank.
        rows: a name for each row.
        columns: a name for each column.
        title: what it shows, for those who cannot see it.
        y_label: what the rows are.
        x_label: what the columns are.
        by_row: shade by the share of the row's sum (counts only), else from the least to the largest value, of which
            the least is 0 where none is negative.

    Numbers are left out where they do not fit (from about 20 columns on), and labels where they would overlap.

    Raises:
        ChiasmError: the matrix does not fit its names, holds infinity, is larger than 400 a side, or `by_row` meets a
            negative number.
    """
    matrix = _matrix(values, rows, columns)
    if not matrix.size:
        return _placeholder(title, "no classes")
    if max(matrix.shape) > MAX_CLASSES:
        raise ChiasmError(
            f"a matrix of {matrix.shape[0]} by {matrix.shape[1]} is too large to draw; the limit is {MAX_CLASSES}"
        )
    known = np.where(np.isnan(matrix), 0, matrix)
    if by_row and known.min() < 0:
        raise ChiasmError(f"shares of a row need numbers from 0 on; got {known.min():g}")
    least = min(0.0, float(known.min()))
    span = float(known.max()) - least
    shade = known / np.maximum(known.sum(1, keepdims=True), 1e-12) if by_row else (known - least) / (span or 1.0)

    whole = bool((known == np.rint(known)).all())
    texts = [
        ["" if math.isnan(v) or (v == 0 and by_row) else f"{v:.0f}" if whole else f"{v:.2f}" for v in row]
        for row in matrix
    ]
    widest = max(_text_width(text, 11) for row in texts for text in row)
    row_space = min(130.0, max(map(_text_width, rows)))
    left = 24.0 + row_space
    number = len(columns)
    cell = min(48.0, max((_WIDTH - left - 10) / number, min(15.0, 560.0 / number)))
    height = min(cell, 34.0) if cell > 16 else cell
    upright = all(_text_width(name) <= cell - 4 for name in columns)
    column_space = 16.0 if upright else 8 + min(110.0, max(map(_text_width, columns)))
    top = 20.0 + column_space
    fits = widest <= cell - 3 and height >= 13
    parts = []
    for i, row in enumerate(texts):
        y = top + i * height
        for j, text in enumerate(row):
            if not text and not shade[i, j]:
                continue
            x = left + j * cell
            inside = ""
            if shade[i, j] > 0:
                inside = (
                    f'<rect class="heat" x="{x:.1f}" y="{y:.1f}" width="{cell:.1f}" height="{height:.1f}" '
                    f'fill-opacity="{0.05 + 0.65 * shade[i, j]:.3f}"/>'
                )
            if fits and text:
                inside += _text(x + cell / 2, y + height / 2 + 4, text, anchor="middle", css="small")
            says = f"{y_label} {rows[i]}, {x_label} {columns[j]}: {text}"
            parts.append(f"<g><title>{escape(says)}</title>{inside}</g>")
    right, bottom = left + cell * number, top + height * len(rows)
    every = 1 if number <= 40 else 10
    lines = [f"M{left:.1f} {top + i * height:.1f}H{right:.1f}" for i in range(0, len(rows) + 1, every)]
    lines += [f"M{left + j * cell:.1f} {top:.1f}V{bottom:.1f}" for j in range(0, number + 1, every)]
    parts.append(f'<path class="grid" d="{"".join(lines)}M{right:.1f} {top:.1f}V{bottom:.1f}H{left:.1f}"/>')
    parts += [
        _text(left - 6, top + (i + 0.5) * height + 4, rows[i], anchor="end", width=row_space)
        for i in range(0, len(rows), math.ceil(13 / height))
    ]
    for j in range(0, number, math.ceil(13 / cell)):
        x = left + (j + 0.5) * cell
        if upright:
            parts.append(_text(x, top - 6, columns[j], anchor="middle"))
        else:
            parts.append(_text(x + 4, top - 6, columns[j], width=column_space - 8, turned=True))
    parts.append(_text(left, 12, x_label, css="soft", width=right - left + 10))
    length = max(height * len(rows), 40.0)
    parts.append(_text(12, bottom, y_label, css="soft", width=length, turned=True))
    says = ""
    if not fits:
        ends = f"{_short(least)} to {_short(float(known.max()))}"
        says = "the darker, the more of its row" if by_row else f"shades from {ends}"
    if says:
        parts.append(_text(left, bottom + 16, says, css="soft small"))
    return _svg(title, bottom + (24 if says else 8), parts, [], 0, width=max(right + 10, left + 160))


# ------------------------------------------------------------------------------------------------------------ input


def _finite(values: Numbers, what: str) -> Float64[np.ndarray, " n"]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ChiasmError(f"{what} have to be numbers: {error}") from error
    if array.ndim != 1:
        raise ChiasmError(f"{what} have to be one row of numbers; got shape {array.shape}")
    bad = np.flatnonzero(~(np.abs(array) <= _LARGEST))
    if len(bad):
        raise ChiasmError(
            f"{what}: {len(bad)} of {len(array)} cannot be drawn, the first is {array[bad[0]]:g} at position {bad[0]}; "
            "numbers have to be finite and below 1e100. Leave these out"
        )
    return array


def _shares(values: Numbers, what: str) -> Float64[np.ndarray, " n"]:
    array = _finite(values, what)
    if len(array) and (array.min() < 0 or array.max() > 1):
        raise ChiasmError(f"{what} are shares from 0 to 1; got {array.min():g} to {array.max():g}")
    return array


_Checked: TypeAlias = tuple[
    Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]
]


def _checked(series: Series) -> _Checked:
    """x, y, low and high of a line; without an interval, low and high are y."""
    if (series.low is None) != (series.high is None):
        raise ChiasmError(f"series {series.name!r}: an interval has both low and high; one is missing")
    x, y = _finite(series.x, f"x of {series.name!r}"), _finite(series.y, f"y of {series.name!r}")
    low = y if series.low is None else _finite(series.low, f"low of {series.name!r}")
    high = y if series.high is None else _finite(series.high, f"high of {series.name!r}")
    if not len(x) == len(y) == len(low) == len(high):
        raise ChiasmError(
            f"series {series.name!r}: x, y, low and high have to be equally long; got {len(x)}, {len(y)}, {len(low)} and "
            f"{len(high)}"
        )
    if (low > high).any():
        first = int(np.argmax(low > high))
        raise ChiasmError(
            f"series {series.name!r}: interval {first} is upside down, from {low[first]:g} to {high[first]:g}"
        )
    return x, y, low, high


def _matrix(
    values: Sequence[Sequence[float]] | np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> Float64[np.ndarray, "rows columns"]:
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ChiasmError(f"a matrix has rows of equally many numbers: {error}") from error
    matrix = matrix.reshape(len(rows), len(columns)) if not matrix.size and not (rows and columns) else matrix
    if matrix.shape != (len(rows), len(columns)):
        raise ChiasmError(
            f"{len(rows)} names of rows and {len(columns)} of columns do not fit a matrix of shape {matrix.shape}"
        )
    _finite(matrix[~np.isnan(matrix)], "the numbers of the matrix")
    return matrix


# ------------------------------------------------------------------------------------------------------------- axes


@dataclass(frozen=True)
class _Axis:
    """From numbers to pixels: `low` lies at `start`, `high` at `stop`."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...]
    log: bool = False

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)

    def pixels(self, values: Float64[np.ndarray, " n"]) -> list[float]:
        return [self.at(value) for value in values.tolist()]


def _decimal_ticks(low: float, high: float, count: int) -> tuple[tuple[float, ...], tuple[str, ...], float]:
    """Ticks, their labels, and the step between them."""
    size = max(abs(low), abs(high))
    if high - low <= max(1e-9 * size, _SMALLEST):  # closer than labels could tell apart
        low, high = low - max(0.5, 0.1 * size), high + max(0.5, 0.1 * size)
    exponent = math.floor(math.log10((high - low) / count))
    multiple = next((m for m in (1, 2, 5) if (high - low) / (m * 10.0**exponent) <= count + 1e-9), 10)
    if multiple == 10:
        multiple, exponent = 1, exponent + 1
    step = multiple * 10.0**exponent
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{k * multiple}e{exponent}") for k in range(first, last + 1))
    largest = max(abs(ticks[0]), abs(ticks[-1]))
    if largest < 1e6 and exponent >= -6:
        return ticks, tuple(f"{tick:.{max(0, -exponent)}f}" for tick in ticks), step
    digits = max(0, math.floor(math.log10(largest)) - exponent)
    return ticks, tuple("0" if not tick else _tidy(f"{tick:.{digits}e}") for tick in ticks), step


def _tidy(number: str) -> str:
    """`1.50e+06` as `1.5e6`."""
    mantissa, _, exponent = number.partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}e{int(exponent)}"


def _short(number: float) -> str:
    return f"{number:.0f}" if 100 <= abs(number) < 1e6 else f"{number:.3g}"


def _axis(values: Float64[np.ndarray, " n"], start: float, stop: float) -> _Axis:
    """An axis with as many ticks, up to ten, as have room for their labels."""
    low, high = float(values.min()), float(values.max())
    for count in (8, 6, 5, 4, 3, 2, 1):
        ticks, labels, _ = _decimal_ticks(low, high, count)
        room = (stop - start) / (len(ticks) - 1)
        if start > stop or max(map(_text_width, labels)) + 8 <= room:
            break
    return _Axis(ticks[0], ticks[-1], start, stop, ticks, labels)


def _x_axis(values: Float64[np.ndarray, " n"], y_axis: _Axis, *, log: bool = False) -> _Axis:
    """The horizontal axis to a vertical one, with room at both ends for half a label."""
    make = _log_axis if log else _axis
    start, stop = 8.0 + max(map(_text_width, y_axis.labels)), _WIDTH - 14.0
    labels = make(values, start, stop).labels
    return make(values, max(start, _text_width(labels[0]) / 2), min(stop, _WIDTH - _text_width(labels[-1]) / 2))


def _log_axis(values: Float64[np.ndarray, " n"], start: float, stop: float) -> _Axis:
    """A logarithmic axis, with ticks at the values themselves, or at 1, 2 and 5, or at powers of ten."""
    own = tuple(np.unique(values).tolist())
    low, high = own[0], own[-1]
    if high <= low * (1 + 1e-9):
        return _Axis(low / 2, low * 2, start, stop, (low,), (_short(low),), log=True)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [own] if len(own) <= 12 else []
    for steps, every in (((1, 2, 5), 1), *(((1,), every) for every in (1, 2, 5, 10, 20, 50))):
        bottom = decades.start // every * every
        marks = [float(f"{m}e{d}") for d in range(bottom, decades.stop + every, every) for m in steps]
        inner = [m for m in marks if low < m < high]
        choices.append((max(m for m in marks if m <= low), *inner, min(m for m in marks if m >= high)))
    for ticks in choices:
        labels = tuple(f"{tick:g}" if 1e-4 <= tick < 1e6 else _tidy(f"{tick:.3e}") for tick in ticks)
        axis = _Axis(ticks[0], ticks[-1], start, stop, ticks, labels, log=True)
        places = [(axis.at(tick), _text_width(label) / 2) for tick, label in zip(ticks, labels, strict=True)]
        if all(b - a >= half + other + 6 for (a, half), (b, other) in pairwise(places)):
            break
    return axis


def _frame(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    """Grid, axes, ticks and labels of a plot with two axes."""
    left, right, bottom = x_axis.start, x_axis.stop, y_axis.start
    parts = []
    for tick, label in zip(y_axis.ticks, y_axis.labels, strict=True):
        y = y_axis.at(tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, label, anchor="end", css="soft y-tick"))
    parts.append(_grid_down(x_axis, y_axis.stop, bottom))
    parts.append(f'<line class="axis" x1="{left:.1f}" y1="{bottom:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"/>')
    parts += _x_ticks(x_axis, bottom, x_label)
    parts.append(_text(0, 14, y_label, width=_WIDTH - 150))
    return parts


def _grid_down(axis: _Axis, top: float, bottom: float) -> str:
    lines = "".join(f"M{axis.at(tick):.1f} {top:.1f}V{bottom:.1f}" for tick in axis.ticks)
    return f'<path class="grid" d="{lines}"/>'


def _x_ticks(axis: _Axis, bottom: float, label: str) -> list[str]:
    parts = [
        _text(axis.at(tick), bottom + 16, text, anchor="middle", css="soft x-tick")
        for tick, text in zip(axis.ticks, axis.labels, strict=True)
    ]
    return [*parts, _text((axis.start + axis.stop) / 2, bottom + 34, label, anchor="middle", width=_WIDTH - 60.0)]


# ---------------------------------------------------------------------------------------------------------- drawing


def _svg(
    title: str, height: float, parts: Iterable[str], legend: Iterable[str], legend_height: float, width: float = _WIDTH
) -> str:
    moved = "".join(legend)
    if moved:
        parts = [*parts, f'<g transform="translate(0 {height:.1f})">{moved}</g>']
    height += legend_height
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="plot{" wide" if width > _WIDTH + 30 else ""}" role="img" aria-label="{escape(title)}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _placeholder(title: str, lack: str) -> str:
    text = _text(_WIDTH / 2, 44, f"nothing to draw: {lack}", anchor="middle", css="soft")
    return _svg(title, 80, [_rect("grid", 1, 1, _WIDTH - 2, 78, kind="nothing"), text], [], 0)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    css: str = "",
    anchor: Literal["start", "middle", "end"] = "start",
    width: float = math.inf,
    turned: bool = False,
) -> str:
    """Text at a point; what does not fit `width` is shortened, and told in full where a mouse rests on it."""
    if not text:
        return ""
    shown = _shortened(text, width)
    full = f"<title>{escape(text)}</title>" if shown != text else ""
    attributes = f' class="{css}"' if css else ""
    attributes += f' text-anchor="{anchor}"' if anchor != "start" else ""
    attributes += f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attributes}>{full}{escape(shown)}</text>'


def _shortened(text: str, width: float) -> str:
    if _text_width(text) <= width:
        return text
    kept = text
    while kept and _text_width(kept + "…") > width:
        kept = kept[: -max(1, len(kept) // 20)]
    return kept.rstrip() + "…"


def _text_width(text: str, size: float = 12) -> float:
    """Pixels that a text takes, at most, in the sans-serif fonts of the usual systems: an estimate per character."""
    return size * sum(map(_character_width, text[:500]))


def _character_width(character: str) -> float:
    if character in "ijl.,:;|!'`I ":
        return 0.34
    if character in 'frt()[]-/\\"':
        return 0.45
    if character in "mwMW@%—…":
        return 0.98
    if character.isdigit() and character.isascii():
        return 0.6
    if unicodedata.east_asian_width(character) in "WF":
        return 1.05
    if unicodedata.combining(character):
        return 0.0
    return 0.74 if character.isupper() else 0.62 if character.isascii() else 0.75


def _rect(css: str, x: float, y: float, width: float, height: float, *, kind: str) -> str:
    return f'<rect class="{css}" data-kind="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _points(pairs: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _whisker(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line with a cap at both ends, upright or level."""
    dx, dy = (4.0, 0.0) if x1 == x2 else (0.0, 4.0)
    caps = "".join(f"M{x - dx:.1f} {y - dy:.1f}L{x + dx:.1f} {y + dy:.1f}" for x, y in ((x1, y1), (x2, y2)))
    return f'<path class="whisker" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}{caps}"/>'


def _dash(number: int) -> int:
    return number // _COLOURS % 4


def _marker(number: int, x: float, y: float, *, radius: float = 3.6) -> str:
    """A mark for the class or line `number`: neighbours differ in shape, and so do those that share a colour."""
    r = radius
    match (number + number // _COLOURS) % 4:
        case 0:
            return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
        case 1:
            return f'<path class="mark" d="M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z"/>'
        case 2:
            return f'<path class="mark" d="M{x:.1f} {y - 1.3 * r:.1f}l{1.2 * r:.1f} {2.2 * r:.1f}h{-2.4 * r:.1f}z"/>'
        case _:
            d = 1.35 * r
            return f'<path class="mark" d="M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z"/>'


def _visible(px: Sequence[float], py: Sequence[float]) -> list[int]:
    """Which points of a line make a difference: of each run in one column of pixels, first, least, largest, last."""
    if len(px) <= 500:
        return list(range(len(px)))
    kept: set[int] = set()
    columns = np.floor(np.asarray(px)).astype(int)
    starts = [0, *(np.flatnonzero(np.diff(columns)) + 1).tolist(), len(px)]
    for begin, end in pairwise(starts):
        run = py[begin:end]
        kept |= {begin, end - 1, begin + int(np.argmin(run)), begin + int(np.argmax(run))}
    return sorted(kept)


def _bar_text(bar: Bar) -> str:
    if math.isnan(bar.value):
        return "n/a"
    if bar.low is None or bar.high is None:
        return _plain(bar.value)
    return f"{_plain(bar.value)} [{_plain(bar.low)}, {_plain(bar.high)}]"


def _plain(number: float) -> str:
    number += 0.0  # no minus before a zero
    return f"{number:.2f}" if number == 0 or 0.005 <= abs(number) < 1e4 else _short(number)


def _legend(names: Sequence[str], *swatches: Literal["line", "bar", "area", "point"]) -> tuple[list[str], float]:
    """Entries below a drawing, in as many columns as fit, and their height. Where no name says anything, none.

    Args:
        names: of the first colour, the second, and so on.
        swatches: what stands before each name; the last also before those that follow.
    """
    if not any(names):
        return [], 0.0
    widest = min(190.0, max(map(_text_width, names[:_LEGEND])))
    columns = max(1, min(len(names), int((_WIDTH + 14) // (widest + 44))))
    parts = []
    for number, name in enumerate(names[:_LEGEND]):
        x, y = number % columns * (widest + 44), 12.0 + number // columns * 18
        swatch = swatches[min(number, len(swatches) - 1)]
        parts.append(f'<g class="c{number % _COLOURS}">')
        if swatch == "line":
            parts.append(
                f'<line class="line d{_dash(number)}" x1="{x:.1f}" y1="{y:.1f}" x2="{x + 22:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(_marker(number, x + 11, y))
        elif swatch in ("bar", "area"):
            css = "mark" if swatch == "bar" else f"outline d{_dash(number)}"
            parts.append(_rect(css, x + 6, y - 6, 12, 12, kind="swatch"))
        else:
            parts.append(_marker(number, x + 12, y, radius=4))
        parts.append("</g>" + _text(x + 28, y + 4, name or "(no name)", css="legend", width=190))
    lines = math.ceil(min(len(names), _LEGEND) / columns)
    if len(names) > _LEGEND:
        parts.append(_text(0, 16.0 + lines * 18, f"and {len(names) - _LEGEND} more", css="soft"))
        lines += 1
    return parts, lines * 18 + 8.0
