"""Charts hold what they were given: titles, names, one mark per number, and colours that a page can change."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chiasm.errors import ChiasmError
from chiasm.evaluation.metrics import ReliabilityBin
from chiasm.report import plots
from chiasm.report.plots import (
    Bar,
    Chart,
    Series,
    bar_chart,
    heatmap,
    histogram,
    line_chart,
    reliability_diagram,
    scatter,
)

BINS = (ReliabilityBin(0, 0.5, 0.25, 0.25, 3), ReliabilityBin(0.5, 1, 0.75, 0.5, 9))
HOSTILE = "</svg><script>alert('$x')</script> \\frac{ \x00 \ud800 _ $"


def texts_of(chart: Chart) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(chart.svg).iter() if node.tag.endswith("}text")]


def marks_of(chart: Chart, colour: str, tag: str = "path") -> int:
    """How many elements are painted with a colour: bars and lines are paths, markers uses of one."""
    return len(re.findall(rf"<{tag} [^>]*var\(--plot-{colour},", chart.svg))


def lines(*names: str, points: int = 4, **options: Any) -> Chart:
    x = np.arange(1, points + 1)
    series = [Series(name, x, x / (number + 2)) for number, name in enumerate(names)]
    return line_chart("Lines", series, x_label="shots", y_label="F1", **options)


def every_chart(text: str) -> list[Chart]:
    interval = Series(text, [1, 2], [0.5, 0.75], [0.25, 0.5], [0.75, 1])
    labels: Any = {"x_label": text, "y_label": text}
    return [
        line_chart(text, [interval], **labels, log_x=True),
        line_chart(text, [interval, interval], **labels, diagonal=True, y_range=(0, 2)),
        reliability_diagram(text, BINS),
        bar_chart(text, [Bar(text, 0.5, text), Bar(text, math.nan)], x_label=text, x_range=(0, 1)),
        histogram(text, {text: [0.25, 0.5], "": [0.5]}, x_label=text, threshold=0.375),
        scatter(text, [1, 2], [3, 4], **labels),
        heatmap(text, [[0.25, math.nan]], rows=[text], columns=[text, "b"], **labels),
    ]


@pytest.mark.parametrize("text", [HOSTILE, "plain", "", "鳥と魚", "a " * 300])
def test_any_text_gives_one_element_without_script_or_style(text: str) -> None:
    for chart in every_chart(text):
        root = ET.fromstring(chart.svg)  # one element of well-formed XML
        assert root.attrib["role"] == "img"
        tags = {node.tag.rpartition("}")[2] for node in root.iter()}
        assert not tags & {"script", "style", "metadata", "image", "foreignObject"}
        assert "\x00" not in chart.svg
        assert not re.search(r'href="(?!#)', chart.svg)


def test_colours_are_variables_that_the_style_sets_for_light_and_dark_paper() -> None:
    svgs = "".join(chart.svg for chart in every_chart("t"))
    used = set(re.findall(r"var\(--plot-(\w+),", svgs))
    assert used >= {"ink", "soft", "line", "heat", "c0", "c1"}
    assert all(plots.STYLE.count(f"--plot-{name}:") == 3 for name in used)  # light, dark, print
    assert not re.search(r"(?:fill|stroke): #(?!fff)", svgs)


def test_what_an_element_refers_to_is_in_it_and_nothing_else_has_an_id() -> None:
    for chart in every_chart("t"):
        ids = re.findall(r' id="([^"]+)"', chart.svg)
        assert set(ids) == set(re.findall(r'(?:url\(|href=")#([^")]+)', chart.svg))
        assert len(ids) == len(set(ids))
    first, second = (
        set(re.findall(r' id="([^"]+)"', line_chart(t, [Series("a", [1, 2], [1, 2])], x_label="", y_label="").svg))
        for t in "ab"
    )
    assert not first & second  # two charts can stand in one page


@pytest.mark.race
def test_the_same_numbers_give_the_same_text_whatever_is_set_and_at_once() -> None:
    alone = lines("a", "b").svg
    with mpl.rc_context({"text.usetex": True, "svg.fonttype": "path", "font.size": 40}):
        assert lines("a", "b").svg == alone
        assert mpl.rcParams["font.size"] == 40
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: lines("a", "b").svg, range(4))) == {alone}


def test_lines_have_names_marks_and_labels() -> None:
    chart = lines("macro-F1", "accuracy <b>")
    texts = texts_of(chart)
    assert {"macro-F1", "accuracy <b>", "shots", "F1"} <= set(texts)
    assert marks_of(chart, "c0", "use") == marks_of(chart, "c1", "use") == 5  # four markers, and one in the legend
    assert marks_of(lines("a", points=60), "c0", "use") == 0  # long lines have none
    assert chart.columns == ("series", "shots", "F1")
    assert chart.rows[0] == ("macro-F1", 1, 0.5)


def test_a_logarithmic_axis_has_ticks_at_few_values() -> None:
    x = [1, 2, 5, 10, 20]
    chart = line_chart("t", [Series("a", x, x)], x_label="", y_label="", log_x=True)
    assert {"1", "2", "5", "10", "20"} <= set(texts_of(chart))


def test_many_lines_are_told_apart_by_dashes_and_listed_in_part() -> None:
    chart = lines(*(f"line {number}" for number in range(30)))
    assert "and 6 more" in texts_of(chart)
    assert "line 24" not in texts_of(chart)
    assert "stroke-dasharray" in chart.svg


def test_reliability_says_the_calibration_error() -> None:
    chart = reliability_diagram("t", BINS)
    assert f"ECE {0.75 * 0.25:.3f}, 12 items" in texts_of(chart)
    assert marks_of(chart, "c0") == 5  # accuracy and count of two bins, and the legend
    assert chart.rows == ((0.25, 0.25, 3), (0.75, 0.5, 9))


def test_bars_have_their_numbers_beside_them() -> None:
    chart = bar_chart("t", [Bar("image", 0.123456), Bar("text", -2), Bar("none", math.nan)])
    assert {"image", "text", "none", "0.12", "-2.00", "n/a"} <= set(texts_of(chart))
    grouped = bar_chart("t", [Bar(name, 1, key=key) for name in "xy" for key in ("before", "after")])
    texts = texts_of(grouped)
    assert texts.count("x") == 1
    assert {"before", "after"} <= set(texts)
    assert marks_of(grouped, "c0") == marks_of(grouped, "c1") == 3
    assert grouped.columns == ("name", "key", "value")


@settings(deadline=None, max_examples=10)
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    st.lists(st.floats(-1e6, 1e6), max_size=20),
    st.none() | st.floats(-1e6, 1e6),
)
def test_every_value_is_counted_once(first: list[float], second: list[float], threshold: float | None) -> None:
    chart = histogram("t", {"a": first, "b": second}, x_label="x", threshold=threshold)
    low, high, *counts = np.array(chart.rows, dtype=float).T
    assert (low[1:] == high[:-1]).all()
    assert [count.sum() for count in counts] == [len(first), len(second)]
    if threshold is not None:
        assert low[0] - 1e-6 <= threshold <= high[-1] + 1e-6


def test_histograms_show_sizes_and_the_threshold() -> None:
    chart = histogram("t", {"known": [1, 2, 2], "unknown": [5.0]}, x_label="score", threshold=3)
    assert {"known (3)", "unknown (1)", "threshold 3", "share of the group", "score"} <= set(texts_of(chart))
    assert chart.threshold == 3
    assert sum(row[2] for row in chart.rows) == 3  # type: ignore[misc]


def test_scattered_points_are_marked_once_and_many_are_thinned() -> None:
    assert marks_of(scatter("t", [1, 2, 3], [1, 2, 3], x_label="true", y_label="predicted"), "c0", "use") == 3
    many = scatter("t", np.arange(5000), np.arange(5000), x_label="true", y_label="predicted")
    assert "4,000 of 5,000 points" in texts_of(many)
    assert len(many.rows) == 5000


def test_a_matrix_has_its_numbers_where_they_fit() -> None:
    chart = heatmap(
        "t",
        [[3, 1], [0, 4]],
        rows=["cat", "dog"],
        columns=["cat", "dog"],
        y_label="true",
        x_label="predicted",
        by_row=True,
    )
    assert {"3", "1", "4", "cat", "dog", "true", "predicted"} <= set(texts_of(chart))
    assert "0" not in texts_of(chart)
    assert marks_of(chart, "heat") == 3
    names = [f"class {number}" for number in range(60)]
    large = heatmap("t", np.eye(60) * 777, rows=names, columns=names, y_label="true", x_label="predicted")
    assert "777" not in texts_of(large)
    assert "shades from 0 to 777" in texts_of(large)
    assert marks_of(large, "heat") == 60


@pytest.mark.parametrize(
    ("call", "lack"),
    [
        (lambda: line_chart("t", [], x_label="x", y_label="y"), "no points"),
        (lambda: reliability_diagram("t", []), "no items"),
        (lambda: bar_chart("t", []), "no bars"),
        (lambda: histogram("t", {"known": []}, x_label="x"), "no values"),
        (lambda: scatter("t", [], [], x_label="x", y_label="y"), "no points"),
        (lambda: heatmap("t", [], rows=[], columns=[], y_label="y", x_label="x"), "no classes"),
    ],
)
def test_without_data_a_chart_says_so(call: Callable[[], Chart], lack: str) -> None:
    assert texts_of(call()) == [f"nothing to draw: {lack}"]
    assert call().rows == ()


def line(*values: Any) -> Callable[[], Chart]:
    return lambda: line_chart("t", [Series("a", *values)], x_label="", y_label="")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (line([1, 2], [1, math.nan]), "the first is nan at position 1"),
        (line([1, 2], [1, 1e101]), "below 1e100"),
        (line([1, 2], [1]), "equally long"),
        (line([1], [1], [0]), "one is missing"),
        (line([1], [1], [2], [0]), "upside down"),
        (lambda: line_chart("t", [Series("a", [0], [1])], x_label="", y_label="", log_x=True), "positive"),
        (lambda: bar_chart("t", [Bar("a", math.inf)]), "cannot be drawn"),
        (lambda: histogram("t", {"a": [math.inf]}, x_label="x"), "cannot be drawn"),
        (lambda: scatter("t", [1, 2], [1], x_label="x", y_label="y"), "equally long"),
        (lambda: heatmap("t", [[1]], rows=["a", "b"], columns=["a"], y_label="", x_label=""), "do not fit"),
        (lambda: heatmap("t", [[-1]], rows=["a"], columns=["a"], y_label="", x_label="", by_row=True), "from 0 on"),
        (lambda: heatmap("t", np.eye(401), rows=["a"] * 401, columns=["a"] * 401, y_label="", x_label=""), "too large"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ChiasmError, match=message):
        call()
