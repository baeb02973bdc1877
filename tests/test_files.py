"""Files and folders are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.files import (
    NotAFileError,
    digest_file,
    digest_text,
    open_source,
    path_on_disk,
    strict_json,
    whole_folder,
    write_whole,
)


def test_a_file_is_replaced_at_once_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert path.read_text() == "new"
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_that_cannot_be_renamed_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    write_whole(path, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with whole_folder(target) as folder:
        (folder / "part").write_text("1")
        assert not target.exists()
    assert (target / "part").read_text() == "1"
    assert [*target.parent.iterdir()] == [target]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "model") as folder:
        (folder / "part").write_text("1")
        raise RuntimeError("killed")
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "kept").write_text("1")
    with pytest.raises(OSError), whole_folder(target) as folder:
        (folder / "part").write_text("2")
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert [*tmp_path.iterdir()] == [target]


def test_digests_are_of_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("wörter", encoding="utf-8")
    assert digest_file(tmp_path / "a") == digest_text("wörter")
    assert digest_text("a") != digest_text("b")


def test_a_file_that_grows_ends_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"first\nsecond\n")
    with open_source(path) as file:
        with path.open("ab") as writer:
            writer.write(b"third\n" * 10_000)
        assert file.read() == b"first\nsecond\n"
        assert file.seek(0, os.SEEK_END) == 13
        assert file.seek(6) == 6
        assert file.read(100) == b"second\n"
        file.seek(0)
        assert list(file) == [b"first\n", b"second\n"]


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_file_that_becomes_a_pipe_while_it_is_opened_is_refused(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the path and its opening, which a race would hit now and then."""
    path = tmp_path / "picture.png"
    path.write_bytes(b"picture")
    really_open = os.open

    def late(name: Any, flags: int, *rest: int) -> int:
        path.unlink()
        if what == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        return really_open(name, flags, *rest)

    before = len([*Path("/dev/fd").iterdir()])
    monkeypatch.setattr(os, "open", late)
    with pytest.raises(NotAFileError, match="a device or a pipe"):
        open_source(path)
    monkeypatch.undo()
    for digest in (digest_file, open_source):
        with pytest.raises(NotAFileError):
            digest(path)
    assert len([*Path("/dev/fd").iterdir()]) == before, "nothing stays open"


def test_json_that_other_languages_read() -> None:
    document = {"a": float("nan"), "b": [np.float64("inf"), np.arange(2), (1, -math.inf)], 3: {"c": {"d": 1e308 * 10}}}
    assert json.loads(strict_json(document), parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, [0, 1], [1, None]],
        "3": {"c": {"d": None}},
    }


def test_a_path_is_found_in_any_form_of_its_name(tmp_path: Path) -> None:
    apart, composed = "cafe\u0301", "caf\u00e9"
    (tmp_path / apart / "in").mkdir(parents=True)
    (tmp_path / apart / "in" / f"{composed}.png").touch()
    there = str(tmp_path / apart / "in" / f"{composed}.png")
    for written in (
        f"{composed}/in/{apart}.png",
        f"{composed}\\in\\{apart}.png",
        there,
        f"{tmp_path}/{composed}/in/{apart}.png",
    ):
        assert path_on_disk(str(tmp_path), written) == there
    assert path_on_disk(str(tmp_path), f"{composed}\\in\\none.png") == str(tmp_path / apart / "in" / "none.png")
