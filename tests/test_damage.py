"""Saved models, spaces, scores and statistics with anything wrong in them: our error that names the damage, or no harm."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from painter import foreign, painters
from safetensors.numpy import load, save

import chiasm
from chiasm import encoders
from chiasm.alignment.pairs import PairStatistics
from chiasm.errors import ChiasmError
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.targets import parse_target
from chiasm.saved import LARGEST_HEADER
from chiasm.verbs.model import HeldOut, Model, load_model, reference_of, save_model
from chiasm.verbs.spaces import load_space

Saved: TypeAlias = tuple[Path, Callable[[Path], object]]
ROWS = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
ROWS[::2, 0] += 4
VALUES: tuple[Any, ...] = (None, "x", -1, 1e300, 10**30, [], {}, True, ["x"], {"x": 1})


def model(folder: Path, column: str) -> None:
    values: list[Any] = {
        "classes": ["a", "b"] * 20, "number": ROWS[:, 0].tolist(), "labels": ["a;b", "b"] * 20
    }[column]  # fmt: skip
    arrays = ModalityArrays({"text": ROWS, "image": ROWS[:, ::-1].copy()})
    recognizer = Recognizer(adapter="auto" if column != "classes" else "linear").fit(
        arrays,
        [parse_target(values, column="kind", task=column)],  # type: ignore[arg-type]  # as named above
    )
    ids = [str(number) for number in range(40)]
    outputs = recognizer.columns_["kind"].held_out
    assert outputs is not None
    left_out = HeldOut(tuple(ids), {"kind": outputs})
    one = Model(
        recognizer, "fake", "kind", {"text": "x", "image": "y"}, frozenset(ids), {}, reference_of(arrays), left_out
    )
    save_model(folder, one)


def use_model(folder: Path) -> None:
    one = load_model(folder)
    one.check({"text": "x", "image": "y"})
    assert set(one.trained_on) is not None
    one.recognizer.recognise_all(ModalityArrays({"text": ROWS, "image": ROWS}))
    one.recognizer.recognise_all(ModalityArrays({"text": ROWS}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Saved]:
    """Every kind of saved thing, and what uses it."""
    root = tmp_path_factory.mktemp("saved")
    for column in ("classes", "number", "labels"):
        model(root / column, column)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        chiasm.add([foreign(root / "media", 5)], to=root / "collection")
        chiasm.align(root / "collection", method="ridge")
        (root / "sums").mkdir()
        chiasm.statistics(root / "collection", out=root / "sums" / "s.safetensors")
    shutil.copytree(root / "collection" / "spaces" / "aligned", root / "space")

    def use_space(folder: Path) -> None:
        one = load_space(folder)
        for modality in one.space.modalities:
            one.space.place(modality, np.ones((2, one.space.dim), np.float32))
        if one.scores is not None:
            vector = np.ones(one.space.dim, np.float32) / np.sqrt(one.space.dim)
            one.scores.judge(
                vector, "text", np.stack([vector] * 3), ["image"] * 3, offsets=np.zeros(3, np.float32),
                sizes={"image": 3}, items=3, min_probability=None,
            )  # fmt: skip

    def use_sums(folder: Path) -> None:
        PairStatistics.load(folder / "s.safetensors")[0].moments  # noqa: B018  # computes

    return {
        **{column: (root / column, use_model) for column in ("classes", "number", "labels")},
        "space": (root / "space", use_space),
        "statistics": (root / "sums", use_sums),
    }


KINDS = ("classes", "number", "labels", "space", "statistics")
SAMPLE = 60  # changes of one value in each JSON file


@pytest.fixture
def thing(request: pytest.FixtureRequest, saved: dict[str, Saved], tmp_path: Path) -> Saved:
    """A copy of one of them that may be damaged."""
    folder, use = saved[request.param]
    return Path(shutil.copytree(folder, tmp_path / "copy")), use


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something can be put into a document."""
    if path:
        yield path
    for key, part in (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    ):
        yield from places(part, (*path, key))


def refused(thing: Saved) -> str:
    """The error that comes when it is used; empty where there is none. Anything but our own error fails the test."""
    folder, use = thing
    try:
        use(folder)
    except ChiasmError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("thing", KINDS, indirect=True)
def test_a_value_of_another_kind_does_no_harm(thing: Saved) -> None:
    rng = np.random.default_rng(0)
    assert refused(thing) == ""
    for file in sorted(thing[0].rglob("*.json")):
        content = file.read_text(encoding="utf-8")
        document = json.loads(content)
        every = [(place, value) for place in places(document) for value in VALUES]
        for number in rng.permutation(len(every))[:SAMPLE]:
            place, value = every[number]
            changed = at = json.loads(content)
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = value
            file.write_text(json.dumps(changed), encoding="utf-8")
            refused(thing)
        file.write_text(content, encoding="utf-8")
    assert refused(thing) == ""


WHOLE: dict[str, bytes | None] = {
    "empty": b"", "no JSON": b"{", "a list": b"[]", "null": b"null", "no UTF-8": b"\xff\xfe", "nested": b"[" * 200_000,
    "NaN": b'{"format": NaN}', "infinite": b'{"format": 1e999}', "nothing in it": b"{}", "missing": None,
    "a number without end": b'{"format": ' + b"9" * 5000 + b"}",
}  # fmt: skip


@pytest.mark.parametrize("thing", KINDS, indirect=True)
def test_a_file_of_something_else_is_named_as_damage(thing: Saved) -> None:
    for file in sorted(path for path in thing[0].rglob("*") if path.suffix in (".json", ".safetensors")):
        content = file.read_bytes()
        for what, other in WHOLE.items():
            file.unlink()
            if other is not None:
                file.write_bytes(other)
            told = refused(thing)
            is_optional = file.name in OPTIONAL and what in ("missing", "nothing in it")
            assert is_optional or re.search("damaged|is not a|reads chiasm", told), (file.name, what, told)
            file.write_bytes(content)
    assert refused(thing) == ""


OPTIONAL = {
    "scores.json",
    "left-out.json",
    "reference.safetensors",
    "collected.safetensors",  # of a space; without it, it may have learned from anything
}  # without them something is not known, and nothing wrong


def cut(content: bytes) -> bytes:
    return content[:-9]


def long_header(content: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + content[8:]


def large_header(content: bytes) -> bytes:
    """As long as the file says, and larger than any of ours."""
    padding = LARGEST_HEADER
    length = int.from_bytes(content[:8], "little")
    return (length + padding).to_bytes(8, "little") + content[8 : 8 + length] + b" " * padding + content[8 + length :]


def not_numbers(content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little") + 8
    return content[:length] + b"\xff" * (len(content) - length)


def shorter(content: bytes) -> bytes:
    """Every array without its last row."""
    return save({name: array[:-1].copy() for name, array in load(content).items()})


def whole_numbers(content: bytes) -> bytes:
    return save(
        {name: np.nan_to_num(array, posinf=9, neginf=-9).astype(np.int32) for name, array in load(content).items()}
    )


def others(content: bytes) -> bytes:
    return save({f"other {name}": array for name, array in load(content).items()})


@pytest.mark.parametrize("change", [cut, long_header, large_header, not_numbers, shorter, whole_numbers, others])
@pytest.mark.parametrize("thing", KINDS, indirect=True)
def test_damaged_arrays_are_named(thing: Saved, change: Callable[[bytes], bytes]) -> None:
    for file in sorted(thing[0].rglob("*.safetensors")):
        content = file.read_bytes()
        file.write_bytes(change(content))
        told = refused(thing)
        harmless = file.name in HARMLESS and change not in (cut, long_header, large_header)
        assert harmless or re.search("damaged|no file of pair statistics|is not a file", told), (file.name, told)
        file.write_bytes(content)
    assert refused(thing) == ""


HARMLESS = {
    "reference.safetensors",
    "left-out.safetensors",
    "collected.safetensors",
}  # samples: fewer rows, or another modality, may be right


@pytest.mark.parametrize("thing", KINDS, indirect=True)
def test_a_pipe_or_a_folder_in_place_of_a_file_does_not_wait(thing: Saved) -> None:
    for file in sorted(path for path in thing[0].rglob("*") if path.suffix in (".json", ".safetensors")):
        content = file.read_bytes()
        for make in (os.mkfifo, os.mkdir):
            file.unlink()
            make(file)
            assert refused(thing), file.name
            shutil.rmtree(file) if file.is_dir() else file.unlink()
            file.write_bytes(content)
