"""Every command with names, captions and labels of a stranger, and with numbers out of range."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image, ImageDraw

from chiasm.cli import run
from chiasm.cli.commands import app
from chiasm.cli.parameters import MOST

# Markup of rich, an emoji's name, a colour, a title of the window, the 8-bit form of it, and words the other way round.
HOSTILE = "[/docs] [red] :smile: \x1b[31m\x1b]0owned\x07 \x9b2J \u202eabc\u2066"
NAME = HOSTILE.replace("/docs", "bold")  # of files
SHOWN = "[bold] [red] :smile: �[31m�]0owned� �2J �abc�"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and captions whose folders (labels), names (ids) and words are a stranger's, and a broken file."""
    root = tmp_path_factory.mktemp("strange")
    for shape in ("circle", "square"):
        place = root / "media" / f"{shape} {NAME}"
        place.mkdir(parents=True)
        for colour in ("red", "green", "blue", "orange", "purple", "black", "brown", "pink"):
            image = Image.new("RGB", (96, 96), "white")
            pen = ImageDraw.Draw(image)
            (pen.ellipse if shape == "circle" else pen.rectangle)((16, 16, 80, 80), fill=colour)
            image.save(place / f"{colour} {NAME}.png")
            (place / f"{colour} {NAME}.txt").write_text(
                f"a {colour} {shape} [/docs] [red] :smile: \u202eabc", encoding="utf-8"
            )
        (place / f"broken {NAME}\n.png").write_bytes(b"\x89PNG\r\n")
    return root


@pytest.fixture(scope="module")
def collection(folder: Path) -> Path:
    target = folder / "collection [bold] [red] :smile: #1 100%"  # Lance takes no control characters
    assert run(["add", str(folder / "media"), "--to", str(target)]) == 0
    return target


@pytest.fixture(scope="module")
def model(folder: Path, collection: Path) -> Path:
    target = folder / f"model {NAME}"
    for _ in range(2):  # the second time so that there is one to go back to
        assert run(["fit", str(collection), "--label", "label", "--out", str(target), "--shots", "5"]) == 0
    return target


@pytest.fixture
def words(folder: Path, collection: Path, model: Path) -> dict[str, str]:
    names = {"c": collection, "m": model, "media": folder / "media", "out": folder / "out"}
    shape = f"circle {NAME}"
    return {
        **{name: str(path) for name, path in names.items()},
        "id": f"{shape}/red {NAME}",
        "label": shape,
        "x": HOSTILE,
        "n": NAME,
    }


DONE = [  # in this order
    ["add", "{media}", "--to", "{c}"],
    ["status", "{c}"],
    ["search", "{c}", "a red circle {x}"],
    ["search", "{c}", "a red circle", "--modality", "text"],
    ["search", "{c}", "--like", "{id}"],
    ["align", "{c}", "--name", "other"],
    ["statistics", "{c}", "--out", "{out} {n}.safetensors"],
    ["fit", "{c}", "--label", "label", "--out", "{out} {n}"],
    ["predict", "{m}", "{media}"],
    ["evaluate", "{c}", "--report", "{out} {n}.html"],
    ["evaluate", "{m}", "{c}", "--label", "label", "--against", "{out} {n}"],
    ["feedback", "{c}", "{id}", "--verdict", "up", "--query", "{x}", "--who", "me"],
    ["labels", "{c}", "{id}", "--column", "label", "--label", "{label}"],
    ["drift", "{m}", "{c}"],
    ["explain", "{m}", "{media}", "--collection", "{c}", "--sample", "2", "--report", "{out} {n}-why.html"],
    ["learn", "{m}", "{c}"],
    ["revert", "{m}"],
    ["make-key", "{out} {n}.keys"],
    ["reembed", "{c}", "--encoder", "offline"],
]
REFUSED = [
    ["status", "{x}"],
    ["add", "{x}", "--to", "{out} 2"],
    ["add", "{media}", "--to", "{c}", "--encoder", "{x}"],
    ["search", "{c}", "x", "--space", "{x}"],
    ["search", "{c}", "x", "--where", "{x} = 1"],
    ["search", "{c}", "x", "--modality", "{x}"],
    ["search", "{c}", "--like", "{x}"],
    ["search", "{c}", "--image", "{x}"],
    ["fit", "{c}", "--label", "{x}", "--out", "{out} 3"],
    ["labels", "{c}", "{x}", "--column", "label", "--label", "x"],
    ["predict", "{x}", "{media}"],
    ["explain", "{m}", "{media}", "--answer", "{x}"],
    ["explain", "{m}", "{media}", "--column", "{x}"],
    ["align", "{c}", "--alpha", "{x}"],
    ["align", "{c}", "--method", "{x}"],
    ["align", "{c}", "--seed", "{x}"],
    ["make-key", "{out} 4", "--name", "{x}"],
    ["{x}"],
    ["status", "--{x}"],
    ["status", "{c}", "{x}"],
]


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize("arguments", DONE, ids=" ".join)
def test_what_is_printed_is_as_it_is_and_harmless(
    arguments: list[str], words: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    made = [part.format(**words) for part in arguments]
    assert run(made) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    assert not UNSAFE.search(printed.out + printed.err)
    assert run([*made, "--json"]) == 0
    document = capsys.readouterr()
    assert not UNSAFE.search(document.out + document.err)
    json.loads(document.out, parse_constant=refuse)


def test_letters_do_not_vanish(words: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    def printed(*arguments: str) -> str:
        assert run(arguments) == 0
        return re.sub(r"\s", "", capsys.readouterr().out)

    table = printed("search", words["c"], "a red circle", "--modality", "text", "--k", "1")
    assert re.sub(r"\s", "", f"circle {SHOWN}") in table
    assert re.sub(r"\s", "", f"circle {SHOWN}") in printed("predict", words["m"], words["media"])
    assert re.sub(r"\s", "", "collection [bold] [red] :smile: #1 100%") in printed("status", words["c"])


def test_a_table_of_a_stranger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(
        "id,text\n[/docs],a fox [red]x[/red] :smile: [/b]\nplain,a house\n", encoding="utf-8"
    )
    assert run(["add", str(tmp_path / "t.csv"), "--to", str(tmp_path / "c")]) == 0
    capsys.readouterr()
    assert run(["search", str(tmp_path / "c"), "a fox"]) == 0
    shown = capsys.readouterr().out.splitlines()[1]
    assert shown.split()[-6:] == ["[/docs]", "a", "fox", "[red]x[/red]", ":smile:", "[/b]"]


@pytest.mark.parametrize("arguments", REFUSED, ids=" ".join)
def test_errors_do_not_obey_either(
    arguments: list[str], words: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([part.format(**words) for part in arguments]) in {1, 2}
    printed = capsys.readouterr()
    assert printed.err
    assert not UNSAFE.search(printed.out + printed.err)
    assert "Traceback" not in printed.err


# ------------------------------------------------------------------------------------------------------------ numbers


def numbers() -> Iterator[Any]:
    """All parameters of all commands that are numbers: command, parameter, its bounds."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for parameter in command.params:
            kind = parameter.type_descriptor.annotation
            if kind in (int, float):
                yield pytest.param(name, command, parameter, id=f"{name} {parameter.name}")


@pytest.mark.parametrize(("name", "command", "parameter"), list(numbers()))
def test_numbers_have_bounds(name: str, command: Any, parameter: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert parameter.min is not None
    most = MOST if parameter.max is None else parameter.max
    needed: list[str] = []
    for other in command.params:
        if other.required and other is not parameter:
            flag = [other.opts[0]] if other.opts[0].startswith("-") else []
            needed += [*flag, "up" if other.name == "verdict" else "x"]
    outside = [
        parameter.min - 1,
        most + 1,
        10**400,
        -(10**400),
        "nan",
        "inf",
        "-inf",
        "1e999",
        "",
        "x",
        "0x10",
    ]
    for value in outside:
        assert run([name, *needed, f"{parameter.opts[0]}={value}"]) == 2, value
        printed = capsys.readouterr()
        assert parameter.opts[0] in printed.err
        assert "Traceback" not in printed.err


def test_the_seed_of_the_issue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fit", str(tmp_path), "--label", "x", "--out", str(tmp_path / "m"), "--seed", "-1"]) == 2
    assert "greater than or equal to 0" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "2", "1e999", "x", ""])
@pytest.mark.parametrize(
    "arguments",
    [
        ["search", "c", "x", "--min-probability"],
        ["align", "c", "--alpha"],
        ["fit", "c", "--label=x", "--out=m", "--alpha"],
    ],
)
def test_numbers_that_may_be_auto_have_bounds_too(
    arguments: list[str], value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments[:-1], f"{arguments[-1]}={value}"]) == 2
    assert "from 0 to 1" in capsys.readouterr().err
