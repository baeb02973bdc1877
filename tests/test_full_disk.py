"""A disk without room: every verb that writes says so in one line, leaves nothing behind, and ends well with room again.

No file may grow (RLIMIT_FSIZE), in a process of its own; real disks say "No space left" where this says "File too large".
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from chiasm.cli import run
from chiasm.errors import ChiasmError
from chiasm.files import remove_stale, write_whole
from chiasm.serving.keys import make_key
from chiasm.store.tables import Tables

LIMITED = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
from chiasm.cli import main
main()
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of two shapes with captions, and a collection of them."""
    root = tmp_path_factory.mktemp("base")
    for shape in ("circle", "square"):
        (root / "media" / shape).mkdir(parents=True)
        for colour in ("red", "green", "blue", "orange", "purple", "black", "brown", "pink"):
            image = Image.new("RGB", (96, 96), "white")
            pen = ImageDraw.Draw(image)
            (pen.ellipse if shape == "circle" else pen.rectangle)((16, 16, 80, 80), fill=colour)
            image.save(root / "media" / shape / f"{colour}.png")
            (root / "media" / shape / f"{colour}.txt").write_text(f"a {colour} {shape}")
    assert run(["add", str(root / "media"), "--to", str(root / "c")]) == 0
    return root


def names(folder: Path) -> set[str]:
    """All that is in a folder, but for locks, what was committed, and what Lance refers to."""
    every = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in every if ".lance/" not in name and not name.endswith(".lock")}


@pytest.mark.parametrize("limit", [0, 64])  # bytes
@pytest.mark.parametrize(
    "arguments",
    [
        ["add", "more", "--to", "c"],
        ["align", "c"],
        ["statistics", "c", "--out", "sums.safetensors"],
        ["fit", "c", "--label", "label", "--out", "model"],
        ["evaluate", "c", "--report", "page.html"],
        ["evaluate", "c", "--report", "page.md"],
        ["evaluate", "c", "--report", "page.json"],
        ["make-key", "keys"],
        ["labels", "c", "circle/red", "--column", "label", "--label", "x"],
        ["feedback", "c", "circle/red", "--verdict", "up"],
        ["remove", "c", "--where", "id = 'circle/red'", "--yes"],
    ],
    ids=" ".join,
)
def test_no_room(arguments: list[str], limit: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(base / "c", tmp_path / "c")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "new.txt").write_text("a new text")
    before = names(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("Warning: ")][-1].startswith("chiasm: ")
    assert names(tmp_path) - before <= {"c/feedback.sqlite"}, "nothing is left"
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 0
    assert not [name for name in tmp_path.rglob("*") if ".tmp" in name.name or ".part" in name.name]
    assert run(["search", "c", "a circle"]) == 0


LAST_WRITE = """
import resource, shutil, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from chiasm.errors import CollectionError
from chiasm.store.tables import Tables, vector_column
from chiasm.store import tables as module

folder, hard = Path(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]
rows = pa.table({"id": [f"item {n}" for n in range(600)], "text": [f"words {n} and {n % 7}" for n in range(600)]})
rows = rows.append_column("vector", vector_column(np.random.default_rng(0).normal(size=(600, 16))))
module.COMPACT_FRAGMENTS = 2

def made(name, parts):
    tables = Tables(folder / name, folder / name / ".lock", "")
    (folder / name).mkdir()
    for part in range(parts):
        with tables.writing():
            tables.append("t", rows.slice(part * 100, 100))
    return tables

def sizes(tables):
    return {path: path.stat().st_size for path in tables.folder.rglob("*") if path.suffix in (".lance", ".idx")}

def contents(tables):
    return sorted(tables.rows("t", rows.schema)["id"].to_pylist())

def work(tables):
    with tables.writing():
        {
            "create": lambda: tables.append("t", rows),
            "append": lambda: tables.append("t", rows),
            "merge": lambda: tables.merge("t", ["id"], rows),
            "compact": lambda: tables.compact("t"),
            "values": lambda: tables.index("t", "id"),
            "words": lambda: tables.index("t", "text", words=True),
        }[sys.argv[2]]()

parts = {"create": 0, "compact": 4}.get(sys.argv[2], 1)
whole = made("whole", parts)
before = sizes(whole)
work(whole)
written = {size for path, size in sizes(whole).items() if path not in before and path.is_file()}
assert written
for size in written:
    for cut in (1, 8, 200):
        tables = made("cut", parts)
        kept = contents(tables)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - cut, hard))
        try:
            work(tables)
        except CollectionError as error:
            assert "cannot be written" in str(error), error
        else:
            raise AssertionError(f"{sys.argv[2]} went well without the last {cut} of {size} bytes")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert contents(tables) == kept, "as it was"
        tables.match("t", "text", "words", ["id"], 3)
        work(tables)
        assert contents(tables) == contents(whole)
        assert bool(tables.match("t", "text", "words", ["id"], 3)) == (sys.argv[2] == "words")
        shutil.rmtree(tables.folder)
"""


@pytest.mark.parametrize("kind", ["create", "append", "merge", "compact", "values", "words"])
def test_a_table_whose_last_bytes_found_no_room_is_as_it_was(kind: str, tmp_path: Path) -> None:
    """Lance does not notice when only the last write to a file fails, and commits it."""
    done = subprocess.run(
        [sys.executable, "-c", LAST_WRITE, str(tmp_path), kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_killed_runs_have_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = tmp_path / f".page.html.{ended.pid}-1.tmp"
    stale.write_text("half")
    folder = tmp_path / f".model.{ended.pid}-1.tmp"
    folder.mkdir()
    other = tmp_path / ".page.html.1-1.tmp"  # process 1 runs
    other.write_text("half")
    write_whole(tmp_path / "page.html", "whole")
    assert not stale.exists()
    assert folder.exists(), "of another name"
    remove_stale(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"page.html", other.name}


def test_lance_leaves_nothing_of_killed_writers(tmp_path: Path) -> None:
    for part in ("a.lance/_versions", "a.lance/data", "a.lance/_indices/1"):
        (tmp_path / part).mkdir(parents=True)
        (tmp_path / part / ".tmpAbC123").write_text("half")
    with Tables(tmp_path, tmp_path / ".lock", "").writing():
        pass
    assert not [*tmp_path.rglob(".tmp*")]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    with pytest.raises(OSError, match="a device or a pipe, not a file"):
        write_whole(Path("/dev/null"), "text")
    with pytest.raises(ChiasmError, match="cannot be read"):
        make_key(tmp_path)
    key_file = tmp_path / "keys"
    make_key(key_file)
    assert key_file.stat().st_mode & 0o777 == 0o600
