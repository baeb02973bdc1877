"""What the documents say is run here."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folder that the README supposes: pictures in folders by kind, captions of the same name, questions on other things."""
    for kind in ("circle", "square"):
        for colour in ("red", "green", "blue", "orange", "purple", "black", "brown", "pink"):
            image = Image.new("RGB", (96, 96), "white")
            pen = ImageDraw.Draw(image)
            (pen.ellipse if kind == "circle" else pen.rectangle)((16, 16, 80, 80), fill=colour)
            path = tmp_path / "photos" / kind / f"{colour}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
            path.with_suffix(".txt").write_text(f"a {colour} {kind}", encoding="utf-8")
    (tmp_path / "new").mkdir()
    Image.new("RGB", (64, 64), "navy").save(tmp_path / "new" / "one.jpg")
    (tmp_path / "questions.txt").write_text("quarterly tax report\na recipe for lentil soup\n", encoding="utf-8")
    return tmp_path


def test_readme_commands_run(photos: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("chiasm ")]
    assert len(lines) >= 6
    for line in lines:
        command = [sys.executable, "-m", "chiasm.cli", *shlex.split(line, comments=True)[1:]]
        done = subprocess.run(command, cwd=photos, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), line


def test_readme_python_runs(photos: Path) -> None:
    examples = blocks("python")
    assert examples
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], cwd=photos, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_readme_names_the_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"\bmake ([a-z]+)\b", document)) <= targets


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} -> {target}"


def test_command_line_page_is_current(tmp_path: Path) -> None:
    made = tmp_path / "cli.md"
    subprocess.run(docs_command(made), check=True, capture_output=True, cwd=ROOT)
    assert made.read_text(encoding="utf-8") == (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run: make docs"


def docs_command(target: Path) -> list[str]:
    """As the Makefile's target `docs` does it."""
    return [
        sys.executable,
        "-m",
        "typer",
        "chiasm.cli.commands",
        "utils",
        "docs",
        "--name",
        "chiasm",
        "--output",
        str(target),
    ]
