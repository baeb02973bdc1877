"""Reports show what they were given in three formats, escape every text, and are whole by themselves."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import sound_bytes, tone
from PIL import Image

from chiasm.errors import ChiasmError
from chiasm.evaluation.intervals import Interval
from chiasm.evaluation.metrics import ReliabilityBin
from chiasm.report import page as report
from chiasm.report.page import Card, Example, Page
from chiasm.report.plots import Bar, Series, bar_chart, heatmap, histogram, line_chart, reliability_diagram, scatter
from chiasm.report.summary import Figure, Summary

BINS = (ReliabilityBin(0, 0.5, 0.2, 0.1, 3), ReliabilityBin(0.5, 1, 0.7, 0.9, 9))
HOSTILE = '<script>alert("x")</script>'


class Reader(HTMLParser):
    """Tables of an HTML page as lists of cells, its tags, and whether all elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def blocks(page: Page) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(page.json())["blocks"]
    return content


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Tables of a Markdown page as lists of cells, without the line of dashes."""
    tables: list[list[list[str]]] = [[]]
    for line in text.split("\n"):
        if line.startswith("| ---"):
            continue
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
        elif not line.startswith("|") and tables[-1]:
            tables.append([])
    return tables[:-1] if not tables[-1] else tables


def everything(picture: Path | None = None, sound: Path | None = None, text: str = "text") -> Page:
    """A page with a block of every kind."""
    page = Page(text, text, {text: text})
    page.summary(Summary(text, (Figure(text, Interval(0.7, 0.6, 0.8, 0.95, 1000), 0.5), Figure(text, 0.4, 0.1)), text))
    page.section(text, text)
    page.code(text)
    page.table((text, "n"), [(text, 0.25)])
    page.cards(text, [Card(picture, text, text)], picture=picture, sound=sound)
    page.media([Example(text, text, text, 0.5, picture, text, sound)])
    page.section(text, collapsed=True)
    series = Series(text, [1, 2], [0.5, 0.75], [0.25, 0.5], [0.75, 1])
    page.chart(line_chart(text, [series], x_label=text, y_label=text))
    page.chart(reliability_diagram(text, BINS))
    page.chart(bar_chart(text, [Bar(text, 0.5, text)], x_label=text))
    page.chart(histogram(text, {text: [0.25, 0.5]}, x_label=text, threshold=0.375))
    page.chart(scatter(text, [1, 2], [3, 4], x_label=text, y_label=text))
    page.chart(heatmap(text, [[0.25]], rows=[text], columns=[text], y_label=text, x_label=text))
    return page


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.new("RGBA", (300, 40), (255, 0, 0, 0)).save(path)
    return path


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "sound.wav"
    path.write_bytes(sound_bytes(tone(0.2, 8000), 8000, "WAV"))
    return path


# ---------------------------------------------------------------------------------------------------------------- HTML


def test_what_matters_comes_first_and_where_it_is_from_last() -> None:
    page = Page("Birds", "Measured on 20 pictures.", {"encoder": "offline", "seed": "3"})
    figure = Figure("accuracy", Interval(0.7, 0.6, 0.8, 0.95, 1000), 0.25)
    page.summary(Summary("Right for 70 of 100.", (figure,), "Label more."))
    page.section("Mistakes", "These.")
    page.fold()
    page.section("All numbers", "Those.")
    text, markdown = page.html(), page.markdown()
    for shown in (text, markdown):
        places = [
            shown.index(part) for part in ("Right for 70 of 100.", "0.700", "0.250", "Label more.", "These.", "Those.")
        ]
        assert places == sorted(places)
        assert shown.index("Those.") < shown.index("chiasm ") < shown.index("offline")
    assert text.index("<details", text.index("These.")) < text.index("Those.")
    assert "<details" not in text[: text.index("These.")]
    assert "0.600 to 0.800" in text
    document = json.loads(page.json())
    assert document["about"]["seed"] == "3"
    assert document["about"].keys() >= {"date", "versions"}


def test_every_text_is_escaped(picture: Path, sound: Path) -> None:
    page = everything(picture, sound, HOSTILE)
    text = page.html()
    assert text.count("&lt;script&gt;") >= 30
    assert "script" not in Reader(text).tags
    assert "<script" not in page.markdown().replace(f"```\n{HOSTILE}\n```", "")


def test_the_page_is_whole_by_itself(picture: Path, sound: Path) -> None:
    text = everything(picture, sound).html()
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text  # a browser would not load anything else either
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_cells_of_every_kind_in_html_markdown_and_json() -> None:
    page = Page("t", "l")
    interval = Interval(0.71, 0.68, 0.74, 0.95, 1000)
    rows = [("a", 0.12345, 7, True, None, interval), ("b", 1e-9, np.int64(8), False, np.float32(0.5), math.nan)]
    page.table(("name", "value", "count", "flag", "gap", "F1"), rows)
    text = page.html()
    expected = [
        ["a", "0.123", "7", "yes", "", "0.710 [0.680, 0.740]"],
        ["b", "1e-09", "8", "no", "0.500", "n/a"],
    ]
    assert Reader(text).tables[0][1:] == markdown_tables(page.markdown())[0][1:] == expected
    assert re.findall(r'<th class="number">(\w+)</th>', text) == ["value", "count", "gap", "F1"]
    assert blocks(page)[0]["rows"] == [
        ["a", 0.12345, 7, True, None, {"estimate": 0.71, "low": 0.68, "high": 0.74, "level": 0.95, "draws": 1000}],
        ["b", 1e-9, 8, False, 0.5, None],
    ]


def test_contents_lead_to_the_sections_and_a_collapsed_one_ends_where_the_next_begins() -> None:
    page = Page("t", "l")
    page.section("Hidden", collapsed=True)
    page.paragraph("inside")
    page.section("Shown", "outside")
    page.section("Last", "at the end", collapsed=True)
    text = page.html()
    Reader(text)
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', text)
    assert [name for _, name in links] == ["Hidden", "Shown", "Last"]
    assert all(f'<h2 id="{target}">{name}</h2>' in text for target, name in links)
    assert text.index("<details") < text.index(">inside<") < text.index("</details>") < text.index(">outside<")
    assert [block.get("collapsed") for block in blocks(page) if block["type"] == "section"] == [True, False, True]


def test_neighbouring_charts_stand_side_by_side_with_their_numbers() -> None:
    page = Page("t", "l")
    for _ in range(2):
        page.chart(bar_chart("bars", [Bar("a", 0.5)]))
    page.paragraph("between")
    page.chart(bar_chart("bars", [Bar("a", 0.5)]))
    page.chart(bar_chart("nothing", []))
    text = page.html()
    assert text.count('<div class="plots">') == 2
    assert text.count("<svg") == 4
    assert Reader(text).tables == [[["name", "value"], ["a", "0.500"]]] * 3


# --------------------------------------------------------------------------------------------------------------- media


def test_an_example_with_picture_text_and_player(picture: Path, sound: Path) -> None:
    page = Page("t", "l")
    page.media([Example("ball 7", "sports", "food", 0.97, picture, "long " * 100, sound)])
    text = page.html()
    assert text.count("data:image/jpeg;base64,") == 1
    assert '<audio controls src="data:audio/wav;base64,UklGR' in text
    assert "sports → food (0.970)" in text
    assert re.search(r"<p>long [^<]{380,396}…</p>", text)
    (example,) = blocks(page)[0]["examples"]
    assert (example["picture"], example["text"], example["sound"]) == (str(picture), "long " * 100, str(sound))


@pytest.mark.parametrize(
    ("kind", "name", "content", "reason"),
    [
        ("picture", "gone.png", None, "the file does not exist"),
        ("picture", "cut.png", b"\x89PNG\r\n\x1a\n123", "the PNG ends before its end mark"),
        ("picture", "note.txt", b"words", "a picture was expected; the file holds text"),
        ("sound", "note.txt", b"words", "a sound was expected; the file holds text"),
        ("sound", "gone.wav", None, "the file does not exist"),
        ("sound", "long.wav", sound_bytes(tone(20, 8000), 8000, "WAV"), "left out: a sound of 320,044 bytes"),
        ("sound", "odd.aiff", sound_bytes(tone(0.2, 8000), 8000, "AIFF"), "browsers do not play AIFF"),
    ],
)
def test_what_cannot_be_shown_is_replaced_by_the_reason(
    kind: str, name: str, content: bytes | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    page = Page("t", "l")
    page.media([Example("x", "a", "b", **{kind: path})])  # type: ignore[arg-type]
    page.cards("q", [Card(None, "title", "below")], **{kind: path})
    text = page.html()
    assert text.count(f"{name}: {reason}") == 2
    assert "a → b" in text
    assert "base64" not in text


def test_media_beyond_the_budget_are_left_out_and_counted(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = len(f"data:audio/wav;base64,{'x' * (4 * math.ceil(sound.stat().st_size / 3))}")
    monkeypatch.setattr(report, "MEDIA_BYTES", 2 * once)
    page = Page("t", "l")
    page.media([Example(f"{number}", "a", "b", sound=sound) for number in range(5)])
    text = page.html()
    assert text.count("<audio") == 2
    assert "3 pictures and sounds are left out" in text
    assert text == page.html()  # the budget is of a file, not of the page


# ------------------------------------------------------------------------------------------------------- three formats


def test_the_three_formats_hold_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    page = Page("t", "l")
    page.table(("name", "value"), [(f"r{i}", float(v)) for i, v in enumerate(rng.normal(size=5))])
    y = rng.random(4)
    page.chart(line_chart("lines", [Series("a", [1, 2, 5, 10], y, y - 0.1, y + 0.1)], x_label="shots", y_label="F1"))
    page.chart(reliability_diagram("calibration", BINS))
    page.chart(bar_chart("bars", [Bar("a", -0.123456), Bar("b", math.nan)]))
    page.chart(histogram("scores", {"known": rng.random(30), "unknown": rng.random(20)}, x_label="score"))
    page.chart(scatter("points", rng.random(6), rng.random(6), x_label="x", y_label="y"))
    page.chart(
        heatmap("matrix", rng.random((2, 2)), rows=["x", "y"], columns=["1", "2"], y_label="after", x_label="of")
    )
    tables = [block.get("numbers", block) for block in blocks(page)]
    from_html, from_markdown = Reader(page.html()).tables, markdown_tables(page.markdown())
    assert len(from_html) == 7
    assert from_html == from_markdown
    for shown, table in zip(from_html, tables, strict=True):
        for shown_row, row in zip(shown, [table["columns"], *table["rows"]], strict=True):
            for cell, value in zip(shown_row, row, strict=True):
                if isinstance(value, float):
                    assert float(cell) == pytest.approx(value, abs=5.01e-4)
                else:
                    assert cell in (("", "n/a") if value is None else (str(value),))
    assert [row[2] for row in tables[1]["rows"]] == y.tolist()  # all digits


def test_json_holds_numbers_and_no_drawing() -> None:
    text = everything().json()
    assert "<svg" not in text
    content = json.loads(text)
    assert (content["format"], content["version"]) == ("chiasm report", 3)
    types = {block["type"] for block in content["blocks"]}
    assert types == {"summary", "section", "paragraph", "code", "table", "cards", "media", "plot"}
    charts = [block["chart"] for block in content["blocks"] if block["type"] == "plot"]
    assert charts == ["line_chart", "reliability_diagram", "bar_chart", "histogram", "scatter", "heatmap"]


def test_markdown_reads_as_written() -> None:
    page = Page("A *title*", "lead")
    page.section("One | two", "- not a list", "1. nor this", "two\nlines")
    page.code("a ``` fence")
    page.table(("a|b", "n"), [("x\ny", 1)])
    page.chart(histogram("scores", {"": [1.0]}, x_label="score", threshold=0.25))
    text = page.markdown()
    assert text.startswith(
        "# A \\*title\\*\n\nlead\n\n## One \\| two\n\n\\- not a list\n\n1\\. nor this\n\ntwo lines\n"
    )
    assert "\n````\na ``` fence\n````\n" in text
    assert "\n| a\\|b | n |\n| --- | ---: |\n| x y | 1 |\n" in text
    assert "\n### scores\n" in text
    assert "\nthreshold: 0.250\n" in text


def test_of_very_many_points_the_rest_is_in_the_json() -> None:
    page = Page("t", "l")
    page.chart(scatter("points", np.arange(5000.0), np.arange(5000.0), x_label="x", y_label="y"))
    for text in (page.html(), page.markdown()):
        assert "3,000 more rows" in text
    assert len(blocks(page)[0]["numbers"]["rows"]) == 5000


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.characters(exclude_categories=()), max_size=40),
    numbers=st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=5),
)
def test_any_text_and_number_in_all_formats(text: str, numbers: list[float]) -> None:
    page = Page(text, text)
    page.section(text, text)
    page.code(text)
    page.cards(text, [Card(None, text, text)])
    page.media([Example(text, text, text, 0.5, None, text)])
    page.table((text, text), [(text, number) for number in numbers])
    assert len(Reader(page.html()).tables) == 1
    assert page.markdown().startswith("# ")
    assert [row[1] for row in blocks(page)[-1]["rows"]] == numbers


def test_files_are_written_in_the_format_of_their_name(tmp_path: Path) -> None:
    page = Page("t \ud800", "l")
    for suffix, begin in ((".html", "<!doctype html>"), (".md", "# t"), (".JSON", "{")):
        page.save(tmp_path / f"page{suffix}")
        assert (tmp_path / f"page{suffix}").read_text(encoding="utf-8").startswith(begin)
    with pytest.raises(ChiasmError, match="cannot be written"):
        page.save(tmp_path / "missing" / "page.html")
    for name in ("page.pdf", "page", "html"):
        with pytest.raises(ChiasmError, match=r"\.html, \.md or \.json"):
            page.save(tmp_path / name)
        assert not (tmp_path / name).exists()


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ChiasmError, match="row 1 of a table has 1 cells for 2 columns"):
        Page("t", "l").table(("a", "b"), [(1, 2), (1,)])
