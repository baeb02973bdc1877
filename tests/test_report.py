from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from chiasm.errors import ChiasmError
from chiasm.report import Card, Page, show_classification, show_retrieval

HOSTILE = '<script>alert("x")</script>'


def saved(page: Page, tmp_path: Path) -> str:
    path = tmp_path / "page.html"
    page.save(path)
    return path.read_text(encoding="utf-8")


def test_every_text_is_escaped(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGBA", (300, 40), (255, 0, 0, 0)).save(picture)
    page = Page(HOSTILE, HOSTILE)
    page.section(HOSTILE, HOSTILE)
    page.code(HOSTILE)
    page.table((HOSTILE,), [(HOSTILE,)])
    page.cards(HOSTILE, [Card(picture, HOSTILE, HOSTILE)], picture=picture)
    page.bars([(HOSTILE, {HOSTILE: 0.5})])
    page.confusion([HOSTILE], [[1]])
    text = saved(page, tmp_path)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 13


def test_numbers_stand_right_with_three_digits(tmp_path: Path) -> None:
    page = Page("t", "l")
    page.table(("name", "value"), [("a", 0.12345), ("b", 7)])
    text = saved(page, tmp_path)
    assert '<td class="number">0.123</td>' in text
    assert '<td class="number">7</td>' in text


def test_retrieval_and_classification_tables(tmp_path: Path) -> None:
    page = Page("t", "l")
    show_retrieval(page, {"text_to_image": {"hit@1": 0.25, "mrr": 0.5}})
    show_classification(page, {"accuracy": 0.75, "labels": ["cat", "dog"], "confusion": [[3, 1], [0, 4]]})
    text = saved(page, tmp_path)
    assert "text to image" in text
    assert "0.250" in text
    assert "<th>dog</th>" in text
    assert "75%" not in text  # the shade of a cell is a share of 70 %
    assert "52%" in text  # 3 of 4


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match="cannot be written"):
        Page("t", "l").save(tmp_path / "missing" / "page.html")
