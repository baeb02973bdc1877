from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float64

from chiasm.errors import ChiasmError
from chiasm.report import plots
from chiasm.report.plots import (
    Bar,
    Series,
    bar_chart,
    escape,
    heatmap,
    histogram,
    histogram_counts,
    line_chart,
    nice_ticks,
    reliability_diagram,
    scatter,
)

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<b onload='x'>&\"\x00\ud800</b>"
numbers = st.floats(-1e100, 1e100)
texts = st.text(st.characters(exclude_categories=()), max_size=40)
quick = settings(max_examples=60, deadline=None)


def parsed(svg: str) -> ET.Element:
    """The drawing as XML; also checks that no number in it is missing and nothing lies far outside."""
    root = ET.fromstring(svg)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name not in ("aria-label", "class"):
                assert "nan" not in value, (name, value)
                assert "inf" not in value, (name, value)
    return root


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


def words(root: ET.Element) -> list[str]:
    """Visible texts, without the titles that only show where a mouse rests."""
    return ["".join([e.text or "", *(child.tail or "" for child in e)]) for e in root.iter(f"{SVG}text")]


def ticks(root: ET.Element, axis: str) -> tuple[list[float], list[float]]:
    """Numbers and pixels of the ticks of an axis, "x" or "y"."""
    found = of_class(root, f"{axis}-tick")
    shift = -4.0 if axis == "y" else 0.0  # the baseline of a label lies below the middle of its digits
    return [float(e.text or "") for e in found], [float(e.get(axis, "")) + shift for e in found]


def to_pixels(root: ET.Element, axis: str, values: Sequence[float], *, log: bool = False) -> Float64[np.ndarray, " n"]:
    """The scale restated: a straight line through the first and the last tick."""
    at, pixels = ticks(root, axis)
    known, wanted = np.array([at[0], at[-1]]), np.array(values)
    if log:
        known, wanted = np.log(known), np.log(wanted)
    slope = (pixels[-1] - pixels[0]) / (known[1] - known[0])
    return np.asarray(pixels[0] + slope * (wanted - known[0]))


def polyline(element: ET.Element) -> Float64[np.ndarray, "points 2"]:
    return np.array([[float(n) for n in pair.split(",")] for pair in element.get("points", "").split()])


def rects(root: ET.Element, kind: str) -> list[tuple[float, float, float, float]]:
    return [
        (float(e.get("x", "")), float(e.get("y", "")), float(e.get("width", "")), float(e.get("height", "")))
        for e in root.iter(f"{SVG}rect")
        if e.get("data-kind") == kind
    ]


# ------------------------------------------------------------------------------------------------------ the scale


def test_ticks_are_round_and_cover() -> None:
    assert nice_ticks(0.03, 0.97) == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert nice_ticks(0.3, 0.7) == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert nice_ticks(-7, 12) == (-10.0, -5.0, 0.0, 5.0, 10.0, 15.0)
    assert nice_ticks(0, 42_000, count=3) == (0.0, 20_000.0, 40_000.0, 60_000.0)
    assert nice_ticks(5, 5) == nice_ticks(4.5, 5.5)


@quick
@given(numbers, numbers, st.integers(1, 10))
def test_ticks_cover_any_range_evenly(one: float, other: float, count: int) -> None:
    low, high = sorted((one, other))
    found = nice_ticks(low, high, count=count)
    step = found[1] - found[0]
    assert 2 <= len(found) <= count + 2
    assert found[0] <= low + 1e-6 * step
    assert found[-1] >= high - 1e-6 * step
    assert np.allclose(np.diff(found), step, rtol=1e-3)
    assert len(set(found)) == len(found)


@quick
@given(st.lists(st.floats(1e-100, 1e100), min_size=1, max_size=20))
def test_a_logarithmic_axis_covers_any_positive_numbers(values: list[float]) -> None:
    root = parsed(line_chart([Series("s", values, values)], title="t", x_label="x", y_label="y", log_x=True))
    pixels = [float(e.get("x", "")) for e in of_class(root, "x-tick")]
    assert pixels == sorted(pixels)
    points = polyline(of_class(root, "line")[0])
    assert points.min() >= 0
    assert points[:, 0].max() <= 460
    assert points[:, 1].max() <= 256.1


# ----------------------------------------------------------------------------------------------------------- lines


def test_points_of_a_line_are_where_they_must_be() -> None:
    x, y = [0, 5, 13, 20], [0.2, 0.55, 0.9, 0.61]
    root = parsed(line_chart([Series("probe", x, y)], title="t", x_label="shots", y_label="F1"))
    points = polyline(of_class(root, "line")[0])
    assert points[:, 0] == pytest.approx(to_pixels(root, "x", x), abs=0.15)
    assert points[:, 1] == pytest.approx(to_pixels(root, "y", y), abs=0.15)
    marks = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in of_class(root, "mark")]
    assert np.array(marks[:4]) == pytest.approx(points)
    assert {"shots", "F1", "probe"} <= set(words(root))
    axis = of_class(root, "axis")[0]
    assert [float(axis.get(end, "")) for end in ("x1", "x2")] == pytest.approx(
        [ticks(root, "x")[1][i] for i in (0, -1)]
    )
    assert points[0, 1] > points[1, 1]  # more is higher up, where pixels count from the top


def test_shots_on_a_logarithmic_axis_bear_their_own_ticks() -> None:
    shots = [1, 2, 5, 10, 20]
    root = parsed(line_chart([Series("s", shots, shots)], title="t", x_label="x", y_label="y", log_x=True))
    assert ticks(root, "x")[0] == shots
    points = polyline(of_class(root, "line")[0])
    assert points[:, 0] == pytest.approx(to_pixels(root, "x", shots, log=True), abs=0.15)
    widths = np.diff(points[:, 0])
    assert widths[0] == pytest.approx(widths[2], abs=0.2)  # 1 to 2 is as far as 5 to 10


def test_many_values_on_a_logarithmic_axis_bear_round_ticks() -> None:
    x = np.geomspace(0.013, 480, 50)
    root = parsed(line_chart([Series("s", x, x)], title="t", x_label="x", y_label="y", log_x=True))
    found = ticks(root, "x")[0]
    assert found[0] <= 0.013
    assert found[-1] >= 480
    assert {0.1, 1, 10, 100} <= set(found)


def test_a_band_lies_between_low_and_high() -> None:
    series = Series("s", [0, 10], [0.4, 0.6], [0.3, 0.5], [0.45, 0.8])
    root = parsed(line_chart([series], title="t", x_label="x", y_label="y"))
    corners = polyline(of_class(root, "band")[0])
    assert corners[:, 1] == pytest.approx(to_pixels(root, "y", [0.45, 0.8, 0.5, 0.3]), abs=0.15)
    assert corners[:, 0] == pytest.approx(to_pixels(root, "x", [0, 10, 10, 0]), abs=0.15)
    assert not of_class(root, "whisker")


def test_error_bars_stand_at_the_points() -> None:
    series = Series("s", [0, 10], [0.4, 0.6], [0.3, 0.5], [0.45, 0.8])
    root = parsed(line_chart([series], title="t", x_label="x", y_label="y", error_bars=True))
    assert not of_class(root, "band")
    first = re.match(r"M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)", of_class(root, "whisker")[0].get("d", ""))
    assert first is not None
    x1, y1, x2, y2 = map(float, first.groups())
    assert (x1, x2) == pytest.approx(tuple(to_pixels(root, "x", [0, 0])), abs=0.15)
    assert (y1, y2) == pytest.approx(tuple(to_pixels(root, "y", [0.3, 0.45])), abs=0.15)


def test_the_diagonal_is_where_x_equals_y() -> None:
    one = Series("s", [0, 0.5, 1], [0, 0.9, 1])
    root = parsed(line_chart([one], title="t", x_label="x", y_label="y", diagonal=True))
    guide = of_class(root, "guide")[0]
    ends = [float(guide.get(name, "")) for name in ("x1", "x2", "y1", "y2")]
    assert ends[:2] == pytest.approx(to_pixels(root, "x", [0, 1]), abs=0.15)
    assert ends[2:] == pytest.approx(to_pixels(root, "y", [0, 1]), abs=0.15)
    assert not of_class(parsed(line_chart([one], title="t", x_label="x", y_label="y")), "guide")


def test_a_range_asked_for_is_covered_and_never_cuts() -> None:
    one = Series("s", [0.5, 1.7], [0.5, 0.6])
    root = parsed(line_chart([one], title="t", x_label="x", y_label="y", x_range=(0, 1), y_range=(0, 1)))
    for axis, high in (("x", 1.7), ("y", 1)):
        found = ticks(root, axis)[0]
        assert found[0] == 0
        assert found[-1] >= high


def test_a_long_line_loses_points_and_no_peak() -> None:
    y = np.zeros(50_000)
    y[31_234], y[40_050] = 1.0, -1.0
    x = np.arange(50_000)
    svg = line_chart([Series("s", x, y)], title="t", x_label="x", y_label="y")
    root = parsed(svg)
    points = polyline(of_class(root, "line")[0])
    assert len(points) < 2_000
    assert points[:, 1].min() == pytest.approx(to_pixels(root, "y", [1.0])[0], abs=0.15)
    assert points[points[:, 1].argmin(), 0] == pytest.approx(to_pixels(root, "x", [31_234])[0], abs=0.15)
    assert points[points[:, 1].argmax(), 0] == pytest.approx(to_pixels(root, "x", [40_050])[0], abs=0.15)
    assert points[-1, 0] == pytest.approx(to_pixels(root, "x", [49_999])[0], abs=0.15)


def test_lines_beyond_the_colours_differ_in_their_dashes() -> None:
    series = [Series(f"class {i}", [0, 1], [0, i]) for i in range(30)]
    root = parsed(line_chart(series, title="t", x_label="x", y_label="y"))
    lines = [g for g in root.iter(f"{SVG}g") if g.find(f"{SVG}polyline") is not None]
    looks = {(g.get("class"), g.find(f"{SVG}polyline").get("class")) for g in lines}  # type: ignore[union-attr]
    assert len(looks) == 30
    assert "and 6 more" in words(root)
    assert len(of_class(root, "legend")) == 24


# ------------------------------------------------------------------------------------------------------ reliability


def test_reliability_bars_gaps_counts_and_error() -> None:
    confidence, accuracy, count = [math.nan, 0.3, 0.7, 0.9], [math.nan, 0.5, 0.6, 0.9], [0, 10, 30, 60]
    root = parsed(reliability_diagram(confidence, accuracy, count, title="t"))
    left = to_pixels(root, "x", [0.25, 0.5, 0.75])
    height = to_pixels(root, "y", [0.5, 0.6, 0.9])
    base = to_pixels(root, "y", [0])[0]
    for (x, y, width, tall), x0, top in zip(rects(root, "accuracy"), left, height, strict=True):
        assert (x, y) == pytest.approx((x0 + 1, top), abs=0.15)
        assert y + tall == pytest.approx(base, abs=0.15)
        assert width == pytest.approx(left[1] - left[0] - 2, abs=0.15)
    (_, top, _, tall), (_, _, _, second), (_, _, _, none) = rects(root, "gap")
    assert (top, top + tall) == pytest.approx(tuple(to_pixels(root, "y", [0.5, 0.3])), abs=0.15)
    assert second == pytest.approx(tall / 2, abs=0.15)
    assert none == 0
    counts = [tall for _, _, _, tall in rects(root, "count")]
    assert counts == pytest.approx([counts[-1] / 6, counts[-1] / 2, counts[-1]], abs=0.1)
    assert "ECE 0.050, 100 items" in words(root)  # (10 * 0.2 + 30 * 0.1 + 60 * 0) / 100


def test_reliability_with_edges_of_its_own() -> None:
    root = parsed(reliability_diagram([0.2, 0.95], [0.1, 1.0], [5, 5], title="t", edges=[(0, 0.9), (0.9, 1)]))
    bars = rects(root, "accuracy")
    assert bars[0][2] > 8 * bars[1][2]


# ------------------------------------------------------------------------------------------------------------- bars


def test_bars_begin_at_zero_and_end_at_their_value() -> None:
    bars = [Bar("image", 0.31, 0.28, 0.33), Bar("audio", -0.04, -0.07, 0.01), Bar("video", math.nan)]
    root = parsed(bar_chart(bars, title="t", x_label="gain"))
    zero, first, second = to_pixels(root, "x", [0, 0.31, -0.04])
    drawn = rects(root, "bar")
    assert len(drawn) == 2
    assert (drawn[0][0], drawn[0][0] + drawn[0][2]) == pytest.approx((zero, first), abs=0.2)
    assert (drawn[1][0], drawn[1][0] + drawn[1][2]) == pytest.approx((second, zero), abs=0.2)
    whiskers = [re.match(r"M([\d.]+) [\d.]+L([\d.]+)", e.get("d", "")) for e in of_class(root, "whisker")]
    ends = [tuple(map(float, match.groups())) for match in whiskers if match]
    assert ends[0] == pytest.approx(tuple(to_pixels(root, "x", [0.28, 0.33])), abs=0.15)
    assert ends[1] == pytest.approx(tuple(to_pixels(root, "x", [-0.07, 0.01])), abs=0.15)
    assert {"0.31 [0.28, 0.33]", "-0.04 [-0.07, 0.01]", "n/a", "gain"} <= set(words(root))


def test_bars_of_a_group_share_a_name_and_each_key_has_a_colour() -> None:
    bars = [Bar(name, value, key=key) for name in ("a", "b") for key, value in (("before", 0.1), ("after", 0.9))]
    root = parsed(bar_chart(bars, title="t", x_range=(0, 1)))
    shown = words(root)
    assert shown.count("a") == shown.count("b") == 1
    assert shown.count("before") == shown.count("after") == 1  # in the legend
    colours = [e.get("class") for e in root.iter(f"{SVG}rect") if e.get("data-kind") == "bar"]
    assert colours == ["mark c0", "mark c1"] * 2


def test_a_long_name_is_shortened_and_told_in_full() -> None:
    name = "household objects of every imaginable kind"
    root = parsed(bar_chart([Bar(name, 1.0)], title="t"))
    label = next(e for e in root.iter(f"{SVG}text") if e.find(f"{SVG}title") is not None)
    title = label.find(f"{SVG}title")
    assert title is not None
    assert title.text == name
    assert title.tail is not None
    assert title.tail.endswith("…")
    assert name.startswith(title.tail[:-1])
    assert name not in words(root)


# -------------------------------------------------------------------------------------------------------- histogram


def test_histogram_counts_every_value_once() -> None:
    rng = np.random.default_rng(0)
    groups = {"known": rng.normal(0.6, 0.1, 400), "unknown": rng.normal(0.2, 0.1, 50)}
    edges, counts = histogram_counts(groups, threshold=1.8)
    assert edges[-1] >= 1.8
    for name, values in groups.items():
        slow = [
            sum(bool(low <= v < high or (v == high == edges[-1])) for v in values)
            for low, high in itertools.pairwise(edges)
        ]
        assert counts[name].tolist() == slow
        assert counts[name].sum() == len(values)


def test_histogram_counts_a_value_that_rounding_put_past_the_last_edge() -> None:
    edges, counts = histogram_counts({"cosines": [0.2, 1.0, 1.0000000000000002]}, bins=4)
    assert edges[-1] == 1
    assert counts["cosines"].sum() == 3
    assert counts["cosines"][-1] == 2


def test_histogram_draws_shares_and_the_threshold() -> None:
    groups = {"known": [0.1] * 3 + [0.9], "unknown": [0.1, 0.9]}
    root = parsed(histogram(groups, title="t", x_label="score", bins=2, threshold=0.5))
    edges, counts = histogram_counts(groups, bins=2, threshold=0.5)
    first, second = (polyline(e) for e in of_class(root, "outline") if e.tag == f"{SVG}polygon")
    peak = int(np.argmax(counts["known"]))
    assert first[:, 1].min() == pytest.approx(to_pixels(root, "y", [0.75])[0], abs=0.15)
    assert second[:, 1].min() == pytest.approx(to_pixels(root, "y", [0.5])[0], abs=0.15)
    left = first[first[:, 1].argmin(), 0]
    assert left == pytest.approx(to_pixels(root, "x", [edges[peak]])[0], abs=0.15)
    assert float(of_class(root, "guide")[0].get("x1", "")) == pytest.approx(to_pixels(root, "x", [0.5])[0], abs=0.15)
    assert {"threshold 0.5", "known (4)", "unknown (2)", "share of the group"} <= set(words(root))


def test_a_group_without_values_stands_in_the_legend() -> None:
    root = parsed(histogram({"known": [1.0, 2.0], "unknown": []}, title="t", x_label="score"))
    assert "unknown (0)" in words(root)


# ---------------------------------------------------------------------------------------------------------- scatter


def test_points_lie_where_they_must_and_bear_their_class() -> None:
    x, y, classes = [-3.0, 0.5, 4.0, 1.0], [10.0, -20.0, 15.0, 0.0], ["cat", "dog", "dog", "cat"]
    root = parsed(scatter(x, y, classes, title="t", x_label="first", y_label="second"))
    group = next(g for g in root.iter(f"{SVG}g") if g.findtext(f"{SVG}title") == "cat")
    circles = [(float(e.get("cx", "")), float(e.get("cy", ""))) for e in group.iter(f"{SVG}circle")]
    assert [c[0] for c in circles] == pytest.approx(to_pixels(root, "x", [-3.0, 1.0]), abs=0.15)
    assert [c[1] for c in circles] == pytest.approx(to_pixels(root, "y", [10.0, 0.0]), abs=0.15)
    other = next(g for g in root.iter(f"{SVG}g") if g.findtext(f"{SVG}title") == "dog")
    assert len(of_class(other, "mark")) == 2
    assert not list(other.iter(f"{SVG}circle"))  # another shape as well as another colour
    assert {"cat", "dog", "first", "second"} <= set(words(root))


def test_of_very_many_points_some_are_drawn_and_it_says_so() -> None:
    x = np.arange(10_000.0)
    root = parsed(scatter(x, x, title="t"))
    assert len(of_class(root, "mark")) == 4_000
    assert "4,000 of 10,000 points" in words(root)


# ---------------------------------------------------------------------------------------------------------- heatmap


def test_a_cell_is_as_dark_as_its_share_of_the_row() -> None:
    svg = heatmap(
        [[3, 1], [0, 4]],
        rows=["cat", "dog"],
        columns=["cat", "dog"],
        title="t",
        y_label="true",
        x_label="predicted",
        by_row=True,
    )
    root = parsed(svg)
    shades = [float(e.get("fill-opacity", "")) for e in of_class(root, "heat")]
    assert shades == pytest.approx([0.05 + 0.65 * share for share in (0.75, 0.25, 1.0)], abs=1e-3)
    x = [float(e.get("x", "")) for e in of_class(root, "heat")]
    assert x[0] < x[1] == x[2]
    assert {"3", "1", "4", "true", "predicted"} <= set(words(root))
    assert "0" not in words(root)
    assert "true cat, predicted dog: 1" in [e.text for e in root.iter(f"{SVG}title")]


def test_what_was_not_measured_stays_blank() -> None:
    matrix = [[0.9, math.nan], [0.75, 0.8]]
    root = parsed(heatmap(matrix, rows=["a", "b"], columns=["1", "2"], title="t", y_label="after", x_label="task"))
    assert len(of_class(root, "heat")) == 3
    assert {"0.90", "0.75", "0.80"} <= set(words(root))


def test_of_many_classes_numbers_and_some_names_are_left_out() -> None:
    names = [f"class {i}" for i in range(100)]
    counts = np.eye(100, dtype=int) * 1234
    options = {"rows": names, "columns": names, "title": "t", "y_label": "true", "x_label": "predicted"}
    root = parsed(heatmap(counts, **options, by_row=True))  # type: ignore[arg-type]
    shown = words(root)
    assert "1234" not in shown
    assert "the darker, the more of its row" in shown
    assert 20 < sum(word.startswith("class") for word in shown) < 200
    assert len(of_class(root, "heat")) == 100


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Where each text lies: left, top, right, bottom; a character of these fonts takes 0.5 em on average."""
    found = []
    for element, shown in zip(root.iter(f"{SVG}text"), words(root), strict=True):
        length, x, y = 6.0 * len(shown), float(element.get("x", "")), float(element.get("y", ""))
        if "rotate" in element.get("transform", ""):
            found.append((x - 9, y - length, x + 2, y))
            continue
        left = x - {"start": 0.0, "middle": length / 2, "end": length}[element.get("text-anchor", "start")]
        found.append((left, y - 9, left + length, y + 2))
    return found


TWELVE = [*(f"{word} of many kinds, old and new" for word in ("plants", "animals", "food", "toys")), *"xyzabcde"]


@pytest.mark.parametrize(
    "svg",
    [
        line_chart([Series(n, [1, 2, 5, 10, 20], [i] * 5) for i, n in enumerate(TWELVE)], title="t", x_label="shots", y_label="F1", log_x=True),
        line_chart([Series("s", [0, 1_000_000], [-1e-7, 1e-7])], title="t", x_label="x", y_label="y"),
        bar_chart([Bar(name, -1234.5, -2000, 0.001) for name in TWELVE], title="t", x_label="x"),
        heatmap(np.eye(12) * 999, rows=TWELVE, columns=TWELVE, title="t", y_label="true", x_label="predicted"),
        heatmap(np.eye(60), rows=TWELVE * 5, columns=TWELVE * 5, title="t", y_label="true", x_label="predicted"),
        histogram({name: [1e5, 2e5] for name in TWELVE}, title="t", x_label="x"),
        reliability_diagram([0.25, 0.75], [0.2, 0.9], [10**6, 10**6], title="t"),
    ],
)  # fmt: skip
def test_no_text_lies_on_another_or_is_cut(svg: str) -> None:
    root = parsed(svg)
    moved = {id(e): g for g in root.findall(f"{SVG}g[@transform]") for e in g.iter(f"{SVG}text")}  # the legend
    placed = []
    for (left, top, right, bottom), element in zip(boxes(root), root.iter(f"{SVG}text"), strict=True):
        group = moved.get(id(element))
        down = 0.0 if group is None else float(group.get("transform", "").rstrip(")").split()[1])
        placed.append((left, top + down, right, bottom + down))
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for left, top, right, bottom in placed:
        assert left >= -2
        assert top >= -2
        assert right <= width + 2
        assert bottom <= height + 2
    for (l1, t1, r1, b1), (l2, t2, r2, b2) in itertools.combinations(placed, 2):
        assert r1 <= l2 + 1 or r2 <= l1 + 1 or b1 <= t2 + 1 or b2 <= t1 + 1


# ----------------------------------------------------------------------------------------------- anything, bad input

DRAWINGS: dict[str, Callable[[str, list[float]], str]] = {
    "lines": lambda text, v: line_chart([Series(text, v, v[::-1], v[::-1], v[::-1])], title=text, x_label=text, y_label=text),
    "bars": lambda text, v: bar_chart([Bar(text, n, n, n, text) for n in v], title=text, x_label=text),
    "histogram": lambda text, v: histogram({text: v}, title=text, x_label=text, threshold=v[0] if v else None),
    "scatter": lambda text, v: scatter(v, v[::-1], [text] * len(v), title=text, x_label=text, y_label=text),
    "heatmap": lambda text, v: heatmap(
        [v], rows=[text], columns=[text] * len(v), title=text, x_label=text, y_label=text
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
@quick
@given(text=texts, values=st.lists(numbers, max_size=12))
def test_any_text_and_any_numbers_give_well_formed_drawings(name: str, text: str, values: list[float]) -> None:
    root = parsed(DRAWINGS[name](text, values))
    assert root.get("role") == "img"
    title = root.find(f"{SVG}title")
    assert title is not None
    assert root.get("aria-label") is not None
    if not values:
        assert any(word.startswith("nothing to draw") for word in words(root))


@pytest.mark.parametrize("name", DRAWINGS)
def test_hostile_names_are_only_text(name: str) -> None:
    svg = DRAWINGS[name](HOSTILE, [1.0, 2.0])
    assert "<b" not in svg
    assert "\x00" not in svg
    assert "&lt;b" in svg
    assert parsed(svg).get("aria-label") == HOSTILE.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")


@given(texts)
@quick
def test_escaped_text_is_xml(text: str) -> None:
    assert len(ET.fromstring(f"<t a='{escape(text)}'>{escape(text)}</t>").get("a") or "") == len(
        text.replace("\r\n", " ")
    )


@pytest.mark.parametrize("name", DRAWINGS)
def test_infinity_is_refused(name: str) -> None:
    with pytest.raises(ChiasmError, match="the first is inf at position 1; numbers have to be finite"):
        if name == "bars":
            bar_chart([Bar("a", 1.0, 0.0, math.inf)], title="t")
            return
        DRAWINGS[name]("t", [1.0, math.inf, 2.0] if name != "scatter" else [1.0, math.inf, math.inf])


@pytest.mark.parametrize("name", ["lines", "histogram", "scatter"])
def test_nan_is_refused_where_a_number_has_to_be(name: str) -> None:
    with pytest.raises(ChiasmError, match="1 of 3 cannot be drawn, the first is nan at position 1"):
        DRAWINGS[name]("t", [1.0, math.nan, 2.0])


def lines(*series: Series, **options: bool) -> str:
    return line_chart(series, title="t", x_label="x", y_label="y", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: lines(Series("s", [1, 2], [1])), "'s': x, y, low and high have to be equally long; got 2, 1, 1 and 1"),
        (lambda: lines(Series("s", [1], [1], [0])), "'s': an interval has both low and high; one is missing"),
        (lambda: lines(Series("s", [1], [1], [2], [0])), "interval 0 is upside down, from 2 to 0"),
        (lambda: lines(Series("s", [0, 1], [1, 1]), log_x=True), "positive numbers only; got x = 0. Leave out log_x"),
        (lambda: lines(log_x=True, diagonal=True), "leave out diagonal or log_x"),
        (lambda: lines(Series("s", ["a"], [1])), "x of 's' have to be numbers"),  # type: ignore[list-item]
        (lambda: bar_chart([Bar("a", 1, 0)], title="t"), "bar 'a': an interval has both low and high; got 0 and None"),
        (lambda: bar_chart([Bar("a", 1, 2, 0)], title="t"), "bar 'a': its interval is upside down, from 2 to 0"),
        (lambda: scatter([1], [1, 2], title="t"), "every point needs an x, a y and a class; got 1, 2 and 1"),
        (lambda: scatter(np.ones((2, 2)), [1, 2], title="t"), "one row of numbers; got shape (2, 2)"),
        (lambda: histogram({"a": [1]}, bins=0, title="t", x_label="x"), "bins is a number from 1 to 200; got 0"),
        (lambda: reliability_diagram([0.5], [0.5], [-1], title="t"), "whole numbers from 0 on; got [-1.0]"),
        (lambda: reliability_diagram([0.5], [0.5, 1], [1], title="t"), "got 1, 2 and 1"),
        (lambda: reliability_diagram([0.5], [1.5], [1], title="t"), "accuracies are shares from 0 to 1; got 1.5 to 1.5"),
        (lambda: reliability_diagram([0.9, 0.9], [1, 1], [1, 1], title="t"), "0.9 of bin 0 is not between its edges 0 and 0.5"),
        (lambda: reliability_diagram([0.5], [1], [1], edges=[(1, 0)], title="t"), "each of 1 bins needs a lower and an upper edge; got [(1.0, 0.0)]"),
        (lambda: matrix([[1, 2]], "ab"), "2 names of rows and 2 of columns do not fit a matrix of shape (1, 2)"),
        (lambda: matrix([[1], [1, 2]], "ab"), "rows of equally many numbers"),
        (lambda: matrix([[-1, 1], [1, 1]], "ab"), "shares of a row need numbers from 0 on; got -1"),
        (lambda: matrix(np.ones((401, 401)).tolist(), "a" * 401), "401 by 401 is too large to draw; the limit is 400"),
    ],
)  # fmt: skip
def test_bad_input_says_what_is_wrong(draw: Callable[[], str], message: str) -> None:
    with pytest.raises(ChiasmError) as caught:
        draw()
    assert message in str(caught.value)


def matrix(values: Sequence[Sequence[float]], names: str) -> str:
    return heatmap(values, rows=list(names), columns=list(names), title="t", y_label="y", x_label="x", by_row=True)


def test_nothing_to_draw_is_said() -> None:
    assert "nothing to draw: no items" in reliability_diagram([], [], [], title="t")
    assert "nothing to draw: no items" in reliability_diagram([math.nan], [math.nan], [0], title="t")
    assert "nothing to draw: no values" in histogram({}, title="t", x_label="x")
    assert "nothing to draw: no points" in lines(Series("s", [], []))
    assert "nothing to draw: no classes" in matrix([], "")


# ---------------------------------------------------------------------------------------------------------- colours


def linear(colour: str) -> Float64[np.ndarray, " 3"]:
    c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.asarray(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4))


def lab(rgb: Float64[np.ndarray, " 3"]) -> Float64[np.ndarray, " 3"]:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


VISION = {  # Machado et al. 2009, severity 1
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("paper", "which"), [("#ffffff", 0), ("#14191f", 1)])
def test_colours_differ_for_everybody_and_from_the_paper(vision: str, paper: str, which: int) -> None:
    colours = [re.findall(rf"--plot-c{i}: (#\w{{6}})", plots.STYLE)[which] for i in range(8)]
    seen = [lab(np.asarray(VISION[vision]) @ linear(colour)) for colour in colours]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) >= 27
    weights = [0.2126, 0.7152, 0.0722]
    for colour in colours:
        light, dark = sorted((float(linear(colour) @ weights), float(linear(paper) @ weights)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3
