"""The demonstration on a small corpus of the same layout, and on a folder of one's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from chiasm import demo
from chiasm.errors import ChiasmError

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "brown", "pink", "gray", "navy", "gold", "cyan")


@pytest.fixture
def stamps(tmp_path: Path) -> Path:
    root = tmp_path / "stamps"
    for shape in ("circle", "square"):
        (root / shape).mkdir(parents=True)
        for colour in COLOURS:
            image = Image.new("RGBA", (80, 80))
            pen = ImageDraw.Draw(image)
            (pen.ellipse if shape == "circle" else pen.rectangle)((10, 10, 70, 70), fill=colour)
            image.save(root / shape / f"{colour}.png")
            image.save(root / shape / f"{colour}_mirror.png")
            caption = f"A {colour} {shape}.\nde.utf8=Etwas anderes.\n"
            (root / shape / f"{colour}.txt").write_text(caption, encoding="utf-8")
    Image.new("RGB", (8, 8)).save(root / "circle" / "without_caption.png")
    return root


def test_rows_are_the_captioned_pictures(stamps: Path) -> None:
    rows = demo.stamps_rows(stamps)
    assert len(rows) == 2 * len(COLOURS)
    assert rows[0]["id"] == "circle/black"
    assert rows[0]["text"] == "A black circle."
    assert rows[0]["category"] == "circle"
    assert rows[0]["audio"] == ""


def test_own_folder_from_media_to_report(stamps: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    result = demo.run(stamps, tmp_path / "out", say=lines.append)
    assert result["items"] == 49
    assert result["align"]["pairs"] == 24
    assert set(result["fit"]) == {"image", "text", "image+text"}
    assert result["fit"]["text"] > 0.9  # the caption holds the word
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") >= 6
    assert any("Report:" in line for line in lines)
    again = demo.run(stamps, tmp_path / "out", say=lines.append)
    assert again["fit"] == result["fit"]


def test_folder_without_pairs_or_labels_says_what_was_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"note {number}", encoding="utf-8")
    lines: list[str] = []
    result = demo.run(folder, tmp_path / "out", say=lines.append)
    assert result["align"] is None
    assert result["fit"] == {}
    assert any("not aligned: no item has both image and text" in line for line in lines)
    assert (tmp_path / "out" / "report.html").is_file()


def test_no_apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda tool: None)
    with pytest.raises(ChiasmError, match=r"apt-get and dpkg-deb is not on this machine.*--path FOLDER"):
        demo.fetch_debian("tuxpaint-stamps-default", say=print)


def test_apt_that_cannot_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda tool: f"/usr/bin/{tool}")
    calls: list[list[str]] = []

    def refuse(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package")

    monkeypatch.setattr(demo, "_call", refuse)
    with pytest.raises(ChiasmError, match=r"Unable to locate package.*--path"):
        demo.fetch_debian("nosuch", say=lambda line: None)
    assert [command[0] for command in calls] == ["apt-get", "apt-get"]
    assert any("Dir::State::Lists" in part for part in calls[1])  # lists of our own, which need no root
    assert list((tmp_path / "debian").glob("*")) == []  # nothing half-made is left
