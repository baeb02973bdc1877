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

from chiasm.errors import ChiasmError
from chiasm.evaluation.geometry import PairGeometry, pair_geometry
from chiasm.evaluation.intervals import Interval, wilson_interval
from chiasm.evaluation.metrics import probability_metrics
from chiasm.evaluation.moments import Span, moment_metrics
from chiasm.evaluation.ranking import PairRetrieval, pair_retrieval
from chiasm.evaluation.relevance import abstention, relevance_metrics
from chiasm.report import page as report
from chiasm.report.page import (
    Card,
    Example,
    Medium,
    Page,
    PairSide,
    show_alignment,
    show_classification,
    show_examples,
    show_moments,
    show_nothing_found,
    show_relevance,
    show_retrieval,
    show_search,
)
from chiasm.report.plots import Bar, Series

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
    assert tables[0] == [["metric", "text to image"], ["hit@1", "0.250"], ["mrr", "0.500"]]
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


# ---------------------------------------------------------------------------------------------------------- search


NAMES = ("text", "image")


def pairs(noise: float = 0.6, count: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of pairs; the text of number 0 lies where the picture of number 1 is not."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(count, 16))
    pictures = texts + noise * rng.normal(size=texts.shape)
    pictures[0] = -texts[0]
    texts, pictures = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (texts, pictures))
    return texts, pictures


def measured(noise: float = 0.6, groups: list[str] | None = None) -> tuple[PairRetrieval, PairGeometry]:
    texts, pictures = pairs(noise)
    found = pair_retrieval(texts, pictures, names=NAMES, groups=groups)
    return found, pair_geometry(texts, pictures, names=NAMES)


def two_sides(picture: Path | None = None, sound: Path | None = None) -> tuple[PairSide, PairSide]:
    texts, pictures = pairs()
    return (
        PairSide(texts, [Medium(f"item {i}", text=f"caption {i}", sound=sound) for i in range(30)]),
        PairSide(pictures, [Medium(f"item {i}", picture=picture, text=f"picture {i}") for i in range(30)]),
    )


def test_a_report_of_search_shows_what_was_measured(tmp_path: Path) -> None:
    found, geometry = measured()
    page = Page("t", "l")
    show_search(page, found, two_sides(), geometry)
    reader = read(page, tmp_path)
    metrics = {row[0]: row[1:] for row in reader.tables[0]}
    assert metrics["metric"] == ["text to image", "image to text"]
    hit = found.intervals["image_to_text"]["hit@5"]
    assert metrics["hit@5"][1] == f"{hit.estimate:.3f} [{hit.low:.3f}, {hit.high:.3f}]"
    assert metrics["queries"] == ["30", "30"]
    both = next(table for table in reader.tables if table[0][:2] == ["query", "finds"])
    alone = found.metrics["text_to_image"].means["recall@10"]
    among = found.by_modality()["text"]["image"]
    assert both[1] == ["text", "image", "30", f"{alone:.3f}", f"{among.recall:.3f}", "1.000", "1.000", "1.000"]
    space = {row[0]: row[1] for row in next(table for table in reader.tables if table[0][0] == "measure")}
    assert space["modality gap"] == f"{geometry.gap.distance:.3f}"
    assert space["uniformity of image"] == f"{geometry.uniformity['image']:.3f}"
    assert space["hubness of image"] == f"{geometry.hubness['text_to_image'].skewness:.3f}"
    assert space["largest hub, text"] == f"{geometry.hubness['image_to_text'].largest:.3f}"
    plots = [block for block in blocks(page, tmp_path) if block["type"] == "plot"]
    assert [plot["title"] for plot in plots] == [
        "Queries answered among the first k",
        "Scores",
        "Scores of two items drawn at random",
    ]
    curve = {(row[0], row[1]): row[2] for row in plots[0]["numbers"]["rows"]}
    assert curve["text to image", 5] == pytest.approx(found.metrics["text_to_image"].means["hit@5"])
    fits, does_not = (sum(row[column] for row in plots[1]["numbers"]["rows"]) for column in (2, 3))
    assert fits == 30
    assert 15_000 < does_not < 20_000  # one in thirty of those drawn fits


def test_what_fits_scores_above_what_does_not(tmp_path: Path) -> None:
    found, geometry = measured()
    page = Page("t", "l")
    show_search(page, found, two_sides(), geometry)
    (numbers,) = (block["numbers"]["rows"] for block in blocks(page, tmp_path) if block.get("title") == "Scores")
    middles = [(row[0] + row[1]) / 2 for row in numbers]
    fits, does_not = (np.average(middles, weights=[row[column] for row in numbers]) for column in (2, 3))
    texts, pictures = pairs()
    assert fits == pytest.approx(np.mean(np.sum(texts * pictures, axis=1)), abs=0.05)
    assert does_not == pytest.approx(0, abs=0.05)


def test_what_fits_is_not_drawn_among_what_does_not(tmp_path: Path) -> None:
    texts, _ = pairs()
    found = pair_retrieval(texts, texts, names=NAMES)
    side = PairSide(texts, two_sides()[0].media)
    page = Page("t", "l")
    show_search(page, found, (side, side), pair_geometry(texts, texts, names=NAMES))
    (numbers,) = (block["numbers"]["rows"] for block in blocks(page, tmp_path) if block.get("title") == "Scores")
    top = [row for row in numbers if row[1] >= 0.99]
    assert [sum(row[column] for row in top) for column in (2, 3)] == [30, 0]


def test_the_worst_query_is_shown_with_its_hits_and_the_right_answer(
    tmp_path: Path, picture: Path, sound: Path
) -> None:
    found, _ = measured()
    texts, pictures = pairs()
    page = Page("t", "l")
    show_examples(page, found, two_sides(picture, sound))
    every = blocks(page, tmp_path)
    titles = [block["title"] for block in every if block["type"] == "section"]
    assert titles == [
        "Examples: text to image",
        "Examples: image to text",
        "Worst queries: text to image",
        "Worst queries: image to text",
    ]
    start = next(i for i, block in enumerate(every) if block.get("title") == titles[2])
    worst = next(block for block in every[start:] if block["type"] == "cards")
    assert worst["query"] == "caption 0 (first right answer at rank 30 of 30)"
    assert worst["sound"] == str(sound)
    scores = pictures @ texts[0]
    *hits, right = worst["cards"]
    assert [card["title"] for card in hits] == [f"picture {i}" for i in np.argsort(-scores)[:5]]
    assert hits[0]["below"] == f"1: {scores.max():.3f}"
    assert not any(card["right"] for card in hits)
    assert right == {
        "picture": str(picture),
        "title": "picture 0",
        "below": f"30: {scores[0]:.3f}, fits",
        "sound": None,
        "right": True,
    }
    text = saved(page, tmp_path)
    assert '<div class="card right"><img src="data:image/jpeg;base64,' in text
    assert "30: -1.000, fits" in saved(page, tmp_path, ".md")
    back = next(block for block in every if block["type"] == "cards" and block["query"].startswith("picture"))
    assert {card["sound"] for card in back["cards"]} == {str(sound)}
    assert text.count("<audio controls") > 10


def test_a_right_answer_among_the_best_is_shown_once(tmp_path: Path) -> None:
    texts, _ = pairs()
    found = pair_retrieval(texts, texts, names=NAMES)
    page = Page("t", "l")
    media = [Medium(f"item {i}", text=f"caption {i}") for i in range(30)]
    show_examples(page, found, (PairSide(texts, media), PairSide(texts, media)))
    every = blocks(page, tmp_path)
    queries = [block for block in every if block["type"] == "cards"]
    assert len(queries) == 8  # four of each direction; none of them is bad
    for query in queries:
        assert [card["right"] for card in query["cards"]] == [True, False, False, False, False]
        assert query["cards"][0]["below"] == "1: 1.000, fits"
    said = [block["text"] for block in every if block["type"] == "paragraph"]
    assert said.count("There is none: every query has a right answer in the first place.") == 2


def test_media_of_equal_content_are_shown_once(tmp_path: Path) -> None:
    texts, pictures = pairs()
    found = pair_retrieval(texts, pictures, names=NAMES)
    same = [Medium(f"item {i}", text=f"picture {i % 3}") for i in range(30)]
    page = Page("t", "l")
    show_examples(page, found, (PairSide(texts, two_sides()[0].media), PairSide(pictures, same)))
    query = next(block for block in blocks(page, tmp_path) if block["type"] == "cards")
    titles = [card["title"] for card in query["cards"] if not card["right"]]
    assert len(titles) == len(set(titles)) <= 3


def test_before_and_after_with_paired_differences(tmp_path: Path) -> None:
    groups = [f"g{i // 2}" for i in range(30)]
    (before, old), (after, new) = measured(2.0, groups), measured(0.3, groups)
    page = Page("t", "l")
    show_alignment(page, before, after, geometry_before=old, geometry_after=new)
    reader = read(page, tmp_path)
    rows = {row[0]: row[1:] for row in reader.tables[0]}
    assert rows["text to image"] == ["before", "after", "difference", "p"]
    difference = after.differences(before)["text_to_image"]["hit@1"]
    assert rows["hit@1"] == [
        f"{before.metrics['text_to_image'].means['hit@1']:.3f}",
        f"{after.metrics['text_to_image'].means['hit@1']:.3f}",
        f"{difference.mean:.3f} [{difference.interval.low:.3f}, {difference.interval.high:.3f}]",
        f"{difference.p_value:.3f}",
    ]
    medians = [found.metrics["text_to_image"].median_rank for found in (before, after)]
    assert rows["median rank"] == [f"{one:.3f}" for one in (*medians, medians[1] - medians[0])] + [""]
    space = {row[0]: row[1:3] for row in reader.tables[-1]}
    assert space["alignment"] == [f"{old.alignment:.3f}", f"{new.alignment:.3f}"]
    curve = next(block for block in blocks(page, tmp_path) if block["type"] == "plot")
    assert {row[0] for row in curve["numbers"]["rows"]} == {
        f"{direction}, {when}" for direction in ("text to image", "image to text") for when in ("before", "after")
    }


def test_pairs_of_one_group_are_shown_without_intervals(tmp_path: Path) -> None:
    (before, old), (after, new) = measured(2.0, ["one"] * 30), measured(0.3, ["one"] * 30)
    page = Page("t", "l")
    show_search(page, after, two_sides(), new)
    show_alignment(page, before, after, geometry_before=old, geometry_after=new)
    said = [block["text"] for block in blocks(page, tmp_path) if block["type"] == "paragraph"]
    assert said.count("All pairs are of one group, so there are no intervals.") == 2
    assert not any("bootstrap" in text for text in said)
    change = after.metrics["text_to_image"].means["hit@1"] - before.metrics["text_to_image"].means["hit@1"]
    row = next(row for table in read(page, tmp_path).tables for row in table if row[0] == "hit@1" and len(row) == 5)
    assert row[3:] == [f"{change:.3f}", ""]


def test_sides_must_be_of_the_pairs_that_were_measured() -> None:
    found, geometry = measured()
    first, second = two_sides()
    short = PairSide(second.vectors, second.media[:-1])
    with pytest.raises(ChiasmError, match="30 pairs were measured; the side of image has 30 vectors and 29 media"):
        show_search(Page("t", "l"), found, (first, short), geometry)
    with pytest.raises(ChiasmError, match="the side of text has 29 vectors and 30 media"):
        show_examples(Page("t", "l"), found, (PairSide(first.vectors[1:], first.media), second))


def test_nothing_found_is_shown_with_its_threshold(tmp_path: Path) -> None:
    good, off = [0.9, 0.8, 0.7, -math.inf], [0.1, 0.2]
    page = Page("t", "l")
    show_nothing_found(page, abstention(good, off, threshold=0.75), good, off)
    reader = read(page, tmp_path)
    assert reader.tables[0] == [
        ["queries", "get a hit", "number"],
        ["that have an answer", "0.500 [0.150, 0.850]", "4"],
        ["that have none (false hits)", "0.000 [0.000, 0.658]", "2"],
    ]
    (plot,) = (block for block in blocks(page, tmp_path) if block["type"] == "plot")
    assert plot["threshold"] == 0.75
    assert sum(row[2] for row in plot["numbers"]["rows"]) == 3
    said = [block["text"] for block in blocks(page, tmp_path) if block["type"] == "paragraph"]
    assert said[1:] == ["In brackets: 95 % intervals (Wilson).", "Not drawn: 1 without any hit."]
    page = Page("t", "l")
    show_nothing_found(page, abstention([0.9], off, threshold=0.75), [0.9], off, asked="Asked twice.")
    said = [block["text"] for block in blocks(page, tmp_path) if block["type"] == "paragraph"]
    assert said[1:] == ["Asked twice.", "In brackets: 95 % intervals (Wilson)."]


def test_probabilities_of_relevance_are_drawn(tmp_path: Path) -> None:
    metrics = relevance_metrics([0.1, 0.2, 0.9], [False, True, True])
    page = Page("t", "l")
    show_relevance(page, metrics)
    assert f"ECE {metrics.ece:.3f}, 3 items" in saved(page, tmp_path)
    assert f"Brier score {metrics.brier:.3f}, over 3 hits" in saved(page, tmp_path, ".md")
    _, lines = (block for block in blocks(page, tmp_path) if block["type"] == "plot")
    rows = [row[1:] for row in lines["numbers"]["rows"]]
    assert [row[:2] for row in rows] == [[0.1, 0], [0.2, 1], [0.9, 1]]
    assert rows[0][2:] == pytest.approx([0, wilson_interval(0, 1).high])


def test_moments_are_shown_with_intervals_where_known(tmp_path: Path) -> None:
    truth = {"a": [Span("f", 0, 10)], "b": [Span("f", 20, 30)]}
    metrics = moment_metrics({"a": [Span("f", 0, 8)], "b": [Span("f", 0, 8)]}, truth, ks=(1,), thresholds=(0.5,))
    page = Page("t", "l")
    show_moments(page, metrics)
    show_moments(page, metrics, metrics.intervals())
    plain, sure = read(page, tmp_path).tables
    assert plain == [["metric", "value"], ["r@1 iou@0.5", "0.500"], ["mean iou", "0.400"]]
    assert sure[1:] == [["r@1 iou@0.5", "0.500 [0.000, 1.000]"], ["mean iou", "0.400 [0.000, 0.800]"]]
