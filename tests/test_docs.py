"""What the documents say is run here."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
SITE = "https://chiasm.readthedocs.io/en/latest/"
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = ("README.md", "docs/tour.md", "docs/howto/import.md", "docs/howto/export.md")
"""Documents whose blocks of Python and shell are run; what cannot be run is marked `text`."""

PAGES = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)


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


@pytest.mark.parametrize("name", RUN)
def test_commands_of_documents_run(photos: Path, name: str) -> None:
    lines = [line for block in blocks(name, "sh") for line in block.splitlines() if line.startswith("chiasm ")]
    assert lines
    for line in lines:
        command = [sys.executable, "-m", "chiasm.cli", *shlex.split(line, comments=True)[1:]]
        done = subprocess.run(command, cwd=photos, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), line


@pytest.mark.parametrize("name", [name for name in RUN if blocks(name, "python")])
def test_python_of_documents_runs(photos: Path, name: str) -> None:
    for example in blocks(name, "python"):
        done = subprocess.run([sys.executable, "-c", example], cwd=photos, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{example}\n{done.stderr}"


def test_readme_names_the_make_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    for document in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        assert set(re.findall(r"\bmake ([a-z]+)\b", document)) <= targets


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8")):
            made = {"docs/index.md": {"examples.md"}}.get(str(document.relative_to(ROOT)), set())
            assert target in made or (document.parent / target).exists(), f"{document.name} -> {target}"


def test_absolute_links_to_the_site_lead_to_its_pages() -> None:
    """On PyPI there is nothing beside the README, and links in notebooks are not turned into links between pages."""
    assert not re.findall(r"\]\((?!https://)", README)
    notebooks = [path.read_text(encoding="utf-8") for path in PAGES if path.suffix == ".ipynb"]
    assert not re.findall(r"\]\((?!https://)[^)]*\.(?:md|ipynb)", "".join(notebooks))
    targets = re.findall(rf"\({re.escape(SITE)}([^)#]*)", "".join([README, *notebooks]))
    assert len(targets) > 10
    for target in targets:
        page = target.rstrip("/")
        made = [
            ROOT / "docs" / page,
            *(ROOT / folder / f"{page}{end}" for folder in ("docs", "") for end in (".md", ".ipynb")),
        ]
        assert page == "examples" or any(path.is_file() for path in made), target  # docs/hooks.py makes that page


def test_every_page_of_the_documents_is_in_the_table_of_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = set(re.findall(r"[\w/-]+\.(?:md|ipynb)", contents))
    assert {str(path.relative_to(ROOT / "docs")) for path in PAGES} <= named


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_tutorials_are_kept_without_outputs(path: Path) -> None:
    """What they print is made when the site is built, and would be old here."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    for cell in code:
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
        compile("".join(cell["source"]), path.name, "exec")


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
