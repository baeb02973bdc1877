from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import sound_bytes, tone
from PIL import Image

from chiasm import report
from chiasm.errors import ChiasmError
from chiasm.evaluation import Interval, probability_metrics
from chiasm.plots import Bar, Series
from chiasm.report import Card, Example, Page, show_classification, show_retrieval

HOSTILE = '<script>alert("x")</script>'
texts = st.text(st.characters(exclude_categories=()), max_size=40)
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def saved(page: Page, tmp_path: Path, suffix: str = ".html") -> str:
    path = tmp_path / f"page{suffix}"
    page.save(path)
    return path.read_text(encoding="utf-8")


def blocks(page: Page, tmp_path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(saved(page, tmp_path, ".json"))["blocks"]
    return found


class Reader(HTMLParser):
    """Tables of an HTML page as lists of cells, texts by kind of element, and whether all elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

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
        if self.open:
            self.texts.append((self.open[-1], data))
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def read(page: Page, tmp_path: Path) -> Reader:
    reader = Reader(saved(page, tmp_path))
    assert not reader.open
    return reader


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
    page = Page(text, text)
    page.section(text, text)
    page.code(text)
    page.table((text, "n"), [(text, 0.25)])
    page.cards(text, [Card(picture, text, text)], picture=picture, sound=sound)
    page.media([Example(text, text, text, 0.5, picture, text, sound)])
    page.section(text, collapsed=True)
    page.line_chart(text, [Series(text, [1, 2], [0.5, 0.75], [0.25, 0.5], [0.75, 1])], x_label=text, y_label=text)
    page.reliability_diagram(text, [0.25, 0.75], [0.25, 0.5], [3, 9])
    page.bar_chart(text, [Bar(text, 0.5, 0.25, 0.75, text)], x_label=text)
    page.histogram(text, {text: [0.25, 0.5]}, x_label=text, threshold=0.375)
    page.scatter(text, [1, 2], [3, 4], [text, text], x_label=text, y_label=text)
    page.heatmap(text, [[0.25]], rows=[text], columns=[text], y_label=text, x_label=text)
    page.confusion([text], [[7]])
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


# ------------------------------------------------------------------------------------------------------------ HTML


def test_every_text_is_escaped(tmp_path: Path, picture: Path, sound: Path) -> None:
    page = everything(picture, sound, HOSTILE)
    text = saved(page, tmp_path)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 30
    assert "script" not in read(page, tmp_path).tags
    assert "<script" not in saved(page, tmp_path, ".md").replace(f"```\n{HOSTILE}\n```", "")


def test_the_page_is_whole_by_itself(tmp_path: Path, picture: Path, sound: Path) -> None:
    text = saved(everything(picture, sound), tmp_path)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", text)
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_numbers_stand_right_with_three_digits(tmp_path: Path) -> None:
    page = Page("t", "l")
    rows = [("a", 0.12345, 7, True, None), ("b", 1e-9, np.int64(8), False, np.float32(0.5))]
    page.table(("name", "value", "count", "flag", "gap"), rows)
    text = saved(page, tmp_path)
    assert '<td class="number">0.123</td>' in text
    assert '<td class="number">1e-09</td>' in text
    assert '<td class="number">7</td>' in text
    assert "<td>yes</td>" in text
    assert '<td class="number"></td>' in text
    assert '<th class="number">gap</th>' in text
    assert "<th>name</th>" in text


def test_a_cell_may_hold_an_interval(tmp_path: Path) -> None:
    page = Page("t", "l")
    page.table(("rung", "F1"), [("probe", Interval(0.71, 0.68, 0.74, 0.95, 1000)), ("none", math.nan), ("zero", -0.0)])
    rest = [["none", "n/a"], ["zero", "0.000"]]
    assert read(page, tmp_path).tables == [[["rung", "F1"], ["probe", "0.710 [0.680, 0.740]"], *rest]]
    assert '<th class="number">F1</th>' in saved(page, tmp_path)
    assert markdown_tables(saved(page, tmp_path, ".md"))[0][1:] == [["probe", "0.710 [0.680, 0.740]"], *rest]
    rows = blocks(page, tmp_path)[0]["rows"]
    assert rows == [
        ["probe", {"estimate": 0.71, "low": 0.68, "high": 0.74, "level": 0.95, "draws": 1000}],
        ["none", None],
        ["zero", 0.0],
    ]


def test_contents_lead_to_the_sections(tmp_path: Path) -> None:
    page = Page("t", "l")
    for name in ("First", "Second", "Third"):
        page.section(name)
    text = saved(page, tmp_path)
    for target, name in re.findall(r'<a href="#([^"]+)">([^<]+)</a>', text):
        assert f'<h2 id="{target}">{name}</h2>' in text
    assert text.count("<a href=") == 3
    assert text.index("<nav") < text.index("<h2")


def test_a_collapsed_section_ends_where_the_next_begins(tmp_path: Path) -> None:
    page = Page("t", "l")
    page.section("Hidden", collapsed=True)
    page.paragraph("inside")
    page.section("Shown", "outside")
    page.section("Last", "at the end", collapsed=True)
    text = saved(page, tmp_path)
    read(page, tmp_path)
    assert text.count('<details class="section">') == text.count("</details>") == 2
    assert text.index("<details") < text.index("inside") < text.index("</details>") < text.index("outside")
    assert [block.get("collapsed") for block in blocks(page, tmp_path) if block["type"] == "section"] == [1, 0, 1]


def test_plots_side_by_side_with_their_numbers(tmp_path: Path) -> None:
    page = Page("t", "l")
    for _ in range(2):
        page.bar_chart("bars", [Bar("a", 0.5)])
    page.paragraph("between")
    page.bar_chart("bars", [Bar("a", 0.5)])
    text = saved(page, tmp_path)
    assert text.count('<div class="plots">') == 2
    assert text.count("<svg") == text.count("<summary>numbers</summary>") == 3
    assert read(page, tmp_path).tables == [[["name", "value"], ["a", "0.500"]]] * 3


def test_the_reliability_of_metrics_can_be_drawn(tmp_path: Path) -> None:
    sure = np.array([0.9, 0.8, 0.95, 0.6])
    metrics = probability_metrics([1, 1, 0, 1], np.stack([1 - sure, sure], 1), [0, 1])
    bins = metrics.reliability
    page = Page("t", "l")
    page.reliability_diagram(
        "calibration",
        [one.confidence for one in bins],
        [one.accuracy for one in bins],
        [one.count for one in bins],
        edges=[(one.lower, one.upper) for one in bins],
    )
    assert f"ECE {metrics.ece:.3f}, 4 items" in saved(page, tmp_path)


# ----------------------------------------------------------------------------------------------------------- media


def test_an_example_with_picture_text_and_player(tmp_path: Path, picture: Path, sound: Path) -> None:
    page = Page("t", "l")
    page.media([Example("ball 7", "sports", "food", 0.97, picture, "long " * 100, sound)])
    text = saved(page, tmp_path)
    assert text.count("data:image/jpeg;base64,") == 1
    assert '<audio controls src="data:audio/wav;base64,UklGR' in text
    assert "sports → food (0.970)" in text
    assert "ball 7" in text
    shown = next(shown for kind, shown in read(page, tmp_path).texts if kind == "p" and shown.startswith("long"))
    assert len(shown) <= report.TEXT_CHARACTERS + 1
    assert shown.endswith("…")
    (example,) = blocks(page, tmp_path)[0]["examples"]
    assert example == {
        "name": "ball 7",
        "true": "sports",
        "predicted": "food",
        "probability": 0.97,
        "picture": str(picture),
        "text": "long " * 100,
        "sound": str(sound),
    }


def missing(folder: Path) -> Example:
    return Example("x", "a", "b", picture=folder / "gone.png")


def broken(folder: Path) -> Example:
    (folder / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    return Example("x", "a", "b", picture=folder / "cut.png")


def no_picture(folder: Path) -> Example:
    (folder / "note.txt").write_text("words", encoding="utf-8")
    return Example("x", "a", "b", picture=folder / "note.txt")


def no_sound(folder: Path) -> Example:
    (folder / "note.txt").write_text("words", encoding="utf-8")
    return Example("x", "a", "b", sound=folder / "note.txt")


def missing_sound(folder: Path) -> Example:
    return Example("x", "a", "b", sound=folder / "gone.wav")


def long_sound(folder: Path) -> Example:
    (folder / "long.wav").write_bytes(sound_bytes(tone(20, 8000), 8000, "WAV"))
    return Example("x", "a", "b", sound=folder / "long.wav")


def odd_sound(folder: Path) -> Example:
    (folder / "odd.aiff").write_bytes(sound_bytes(tone(0.2, 8000), 8000, "AIFF"))
    return Example("x", "a", "b", sound=folder / "odd.aiff")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "gone.png: the file does not exist"),
        (broken, "cut.png: the PNG ends before its end mark"),
        (no_picture, "note.txt: a picture was expected; the file holds text"),
        (no_sound, "note.txt: a sound was expected; the file holds text"),
        (missing_sound, "gone.wav: the file does not exist"),
        (long_sound, "long.wav: left out: a sound of 320,044 bytes; a page holds those up to 300,000"),
        (odd_sound, "odd.aiff: browsers do not play AIFF"),
    ],
)
def test_what_cannot_be_shown_is_replaced_by_the_reason(
    make: Callable[[Path], Example], reason: str, tmp_path: Path
) -> None:
    page = Page("t", "l")
    page.media([make(tmp_path)])
    text = saved(page, tmp_path)
    assert reason in text
    assert "a → b" in text
    assert "data:" not in text


def test_cards_with_a_missing_picture_do_not_stop_the_report(tmp_path: Path) -> None:
    page = Page("t", "l")
    page.cards("q", [Card(tmp_path / "gone.png", "title", "below")], picture=tmp_path / "gone.jpg")
    text = saved(page, tmp_path)
    assert "gone.png: the file does not exist" in text
    assert "gone.jpg: the file does not exist" in text


def test_media_beyond_the_budget_are_left_out_and_counted(
    tmp_path: Path, sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = len(f"data:audio/wav;base64,{'x' * (4 * math.ceil(sound.stat().st_size / 3))}")
    monkeypatch.setattr(report, "MEDIA_BYTES", 2 * once)
    page = Page("t", "l")
    page.media([Example(f"{number}", "a", "b", sound=sound) for number in range(5)])
    text = saved(page, tmp_path)
    assert text.count("<audio") == 2
    assert "3 pictures and sounds are left out: those shown fill the" in text
    assert text.count("left out: the page holds as much media as it may") == 3
    assert text == saved(page, tmp_path)  # the budget is of a file, not of the page


# --------------------------------------------------------------------------------------------------- three formats


def test_the_three_formats_hold_the_same_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    page = Page("t", "l")
    page.table(("name", "value"), [(f"r{i}", float(v)) for i, v in enumerate(rng.normal(size=5))])
    y = rng.random(4)
    page.line_chart(
        "lines", [Series("a", [1, 2, 5, 10], y, y - 0.1, y + 0.1)], x_label="shots", y_label="F1", log_x=True
    )
    page.reliability_diagram("calibration", [0.2, 0.7], [0.1, 0.9], [3, 9])
    page.bar_chart("bars", [Bar("a", -0.123456, -0.2, 0.1), Bar("b", math.nan)])
    page.histogram("scores", {"known": rng.random(30), "unknown": rng.random(20)}, x_label="score")
    page.scatter("points", rng.random(6), rng.random(6), list("abcabc"))
    page.heatmap(
        "matrix", rng.random((3, 2)), rows=["x", "y", "z"], columns=["1", "2"], y_label="after", x_label="task"
    )
    page.confusion(["cat", "dog"], [[3, 1], [0, 4]])
    from_html = read(page, tmp_path).tables
    from_markdown = markdown_tables(saved(page, tmp_path, ".md"))
    tables = [block.get("numbers", block) for block in blocks(page, tmp_path)]
    from_json = [[table["columns"], *table["rows"]] for table in tables]
    assert len(from_html) == 8
    assert from_html == from_markdown
    for shown, full in zip(from_html, from_json, strict=True):
        for shown_row, full_row in zip(shown, full, strict=True):
            for cell, value in zip(shown_row, full_row, strict=True):
                if isinstance(value, float):
                    assert float(cell) == pytest.approx(value, abs=5.01e-4)
                elif value is None:
                    assert cell in ("", "n/a")
                else:
                    assert cell == str(value)
    lines = tables[1]["rows"]
    assert [row[2] for row in lines] == y.tolist()  # all digits
    assert sum(row[2] for row in tables[4]["rows"]) == 30


def test_json_holds_numbers_and_no_drawing(tmp_path: Path) -> None:
    page = everything()
    text = saved(page, tmp_path, ".json")
    assert "<svg" not in text
    found = json.loads(text)
    assert found["format"] == "chiasm report"
    assert found["version"] == 1
    assert {block["type"] for block in found["blocks"]} == {
        *("section", "paragraph", "code", "table", "cards", "media", "plot")
    }
    kinds = [block["kind"] for block in found["blocks"] if block["type"] == "plot"]
    assert kinds == ["line_chart", "reliability_diagram", "bar_chart", "histogram", "scatter", "heatmap", "heatmap"]
    assert [block["threshold"] for block in found["blocks"] if block.get("kind") == "histogram"] == [0.375]


def test_markdown_reads_as_written(tmp_path: Path) -> None:
    page = Page("A *title*", "lead")
    page.section("One | two", "- not a list", "1. nor this", "two\nlines")
    page.code("a ``` fence")
    page.table(("a|b", "n"), [("x\ny", 1)])
    page.histogram("scores", {"": [1.0]}, x_label="score", threshold=0.25)
    text = saved(page, tmp_path, ".md")
    assert text.startswith(
        "# A \\*title\\*\n\nlead\n\n## One \\| two\n\n\\- not a list\n\n1\\. nor this\n\ntwo lines\n"
    )
    assert "\n````\na ``` fence\n````\n" in text
    assert "\n| a\\|b | n |\n| --- | ---: |\n| x y | 1 |\n" in text
    assert "\n### scores\n" in text
    assert "\nthreshold: 0.250\n" in text


def test_of_very_many_points_the_rest_is_in_the_json(tmp_path: Path) -> None:
    page = Page("t", "l")
    x = np.arange(5000.0)
    page.scatter("points", x, x)
    note = "3,000 more rows: the same report as .json has all of them."
    assert note in saved(page, tmp_path)
    assert note in saved(page, tmp_path, ".md")
    assert len(blocks(page, tmp_path)[0]["numbers"]["rows"]) == 5000


@quick
@given(text=texts, numbers=st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=5))
def test_any_text_and_number_in_all_formats(text: str, numbers: list[float], tmp_path: Path) -> None:
    page = everything(text=text)
    page.table((text, text), [(text, number) for number in numbers])
    page.line_chart(text, [Series(text, numbers, numbers)], x_label=text, y_label=text)
    reader = read(page, tmp_path)
    assert len(reader.tables) == 10
    assert saved(page, tmp_path, ".md").startswith("# ")
    found = blocks(page, tmp_path)
    assert [row[1] for row in found[-2]["rows"]] == numbers
    assert found[-2]["columns"] == [text, text]


# ------------------------------------------------------------------------------------------- metrics, bad input


def test_retrieval_and_classification_tables(tmp_path: Path) -> None:
    page = Page("t", "l")
    show_retrieval(page, {"text_to_image": {"hit@1": 0.25, "mrr": 0.5}})
    show_classification(page, {"accuracy": 0.75, "labels": ["cat", "dog"], "confusion": [[3, 1], [0, 4]]})
    tables = read(page, tmp_path).tables
    assert tables[0] == [["direction", "hit@1", "mrr"], ["text to image", "0.250", "0.500"]]
    assert tables[1] == [["metric", "value"], ["accuracy", "0.750"]]
    assert tables[2] == [["true \\ predicted", "cat", "dog"], ["cat", "3", "1"], ["dog", "0", "4"]]


def test_a_confusion_matrix_too_large_to_draw_is_listed(tmp_path: Path) -> None:
    labels = [f"class {i}" for i in range(401)]
    counts = np.eye(401, dtype=int) * 9
    counts[3, 5], counts[7, 2] = 4, 6
    page = Page("t", "l")
    page.confusion(labels, counts.tolist())
    assert "401 classes is too large to draw. Its 2 most frequent confusions of 2:" in saved(page, tmp_path)
    rows = [["class 7", "class 2", "6"], ["class 3", "class 5", "4"]]
    assert read(page, tmp_path).tables == [[["true", "predicted", "items"], *rows]]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match="cannot be written"):
        Page("t", "l").save(tmp_path / "missing" / "page.html")


@pytest.mark.parametrize("name", ["page.pdf", "page", "html"])
def test_another_format_names_the_three(name: str, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match=r"written as \.html, \.md or \.json; got '.*'\. Give it a name"):
        Page("t", "l").save(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ChiasmError, match=r"row 1 of a table has 1 cells for 2 columns: \('a', 'b'\)"):
        Page("t", "l").table(("a", "b"), [(1, 2), (1,)])


def test_a_drawing_that_cannot_be_made_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(ChiasmError, match="the first is nan at position 0"):
        Page("t", "l").scatter("t", [math.nan], [1])


def test_nothing_to_draw_is_said_on_the_page(tmp_path: Path) -> None:
    page = Page("t", "l")
    page.line_chart("t", [], x_label="x", y_label="y")
    page.reliability_diagram("t", [], [], [])
    page.bar_chart("t", [])
    page.histogram("t", {"known": []}, x_label="x")
    page.scatter("t", [], [])
    page.confusion([], [])
    text = saved(page, tmp_path)
    assert text.count("nothing to draw: ") == 6
    assert "<table" not in text
    saved(page, tmp_path, ".md")
    assert len(blocks(page, tmp_path)) == 6
