"""The command line as a process: stopped at any moment, without readers, without room, on poor terminals; its exit codes.

Signals are sent at a state and not after a time: a module that is being imported, a file that is there, a line that was
printed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import LIMIT, wait_until

from chiasm import Collection, cli, console
from chiasm.cli import run
from chiasm.errors import ChiasmError
from chiasm.store.collection import ITEMS

pytestmark = pytest.mark.race
STOPPED = "Stopped. What was done is kept; run the same command again."
# `chiasm ARGUMENTS`, listening to signals to which a job in the background of a shell is born deaf.
HEARD = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
from chiasm.cli import main
"""
COMMAND = [sys.executable, "-c", HEARD + "main()"]
# `chiasm ARGUMENTS`, with signals raised while a module is imported; like NumPy's, its import turns errors into its own.
AT_IMPORT = """
import signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            try:
                for _ in range({times}):
                    try:
                        signal.raise_signal({number})
                    except KeyboardInterrupt:
                        if {times} == 1:
                            raise
            except BaseException as error:
                raise ImportError("something is wrong with " + name) from error

sys.meta_path.insert(0, Finder())
main()
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def chiasm(*arguments: object, **settings: object) -> subprocess.CompletedProcess[str]:
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **settings}
    return subprocess.run([*COMMAND, *map(str, arguments)], text=True, check=False, **streams)


def stopped_at_import(
    module: str, number: signal.Signals, *arguments: object, times: int = 1
) -> subprocess.CompletedProcess[str]:
    code = HEARD + AT_IMPORT.format(module=module, number=int(number), times=times)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for name in ("a fox 🦊", "plain", "tiré"):
        (folder / f"{name}.txt").write_text(f"a text on {name}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def collection(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("made") / "collection"
    assert run(["add", str(texts), "--to", str(target)]) == 0
    return target


# ------------------------------------------------------------------------------------------------------------ stopped


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "module", ["chiasm.console", "typer", "chiasm.cli.commands", "chiasm.verbs.add", "lance", "numpy"]
)
def test_a_stop_while_importing_is_a_stop(module: str, number: signal.Signals, tmp_path: Path, texts: Path) -> None:
    done = stopped_at_import(module, number, "add", texts, "--to", tmp_path / "c")
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.removeprefix("Adding\n") == STOPPED + "\n"


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_stop_in_a_callback_of_the_interpreter_is_not_lost(
    number: signal.Signals, tmp_path: Path, texts: Path
) -> None:
    """Python only prints what is raised there."""
    code = f"""
import weakref

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "chiasm.verbs.add":
            sys.meta_path.remove(self)
            weakref.ref(Finder(), lambda _: signal.raise_signal({int(number)}))

import sys
sys.meta_path.insert(0, Finder())
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", HEARD + code, "add", texts, "--to", tmp_path / "c"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.removeprefix("Adding\n")) == (130, STOPPED + "\n")


def test_who_asks_twice_is_not_made_to_wait(tmp_path: Path, texts: Path) -> None:
    done = stopped_at_import("lance", signal.SIGINT, "add", texts, "--to", tmp_path / "c", times=2)
    assert (done.returncode, done.stderr.removeprefix("Adding\n")) == (130, STOPPED + "\n")


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_stop_of_add_keeps_what_is_done(number: signal.Signals, tmp_path: Path, texts: Path) -> None:
    target = tmp_path / "c"
    with subprocess.Popen([*COMMAND, "add", texts, "--to", target], stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: (target / "chiasm.json").exists() or process.poll() is not None)
        process.send_signal(number)  # the process is not waited for yet, so that its number is still its own
        error = process.communicate(timeout=LIMIT)[1]
    told = [line for line in error.splitlines() if not line.startswith("Adding")]
    assert (process.returncode, told) in [(130, [STOPPED]), (0, [])], "stopped, or done before that"
    assert run(["add", str(texts), "--to", str(target)]) == 0
    assert Collection.open(target).count() == 3


def test_what_was_told_to_ignore_signals_ignores_them(tmp_path: Path, texts: Path) -> None:
    code = AT_IMPORT.format(module="lance", number=int(signal.SIGHUP), times=1)
    code = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom chiasm.cli import main\n{code}"
    done = subprocess.run([sys.executable, "-c", code, "add", texts, "--to", tmp_path / "c"], check=False)
    assert done.returncode == 0


# ------------------------------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    "arguments", [["status", "--json"], ["status"], ["search", "fox"], ["search", "fox", "--json"]]
)
def test_a_reader_that_has_gone_is_no_error(arguments: list[str], collection: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = chiasm(arguments[0], collection, *arguments[1:], stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments", [["status", "--json"], ["status"], ["search", "fox"], ["search", "fox", "--json"]]
)
def test_output_that_cannot_be_written_is_said_in_one_line(arguments: list[str], collection: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = chiasm(arguments[0], collection, *arguments[1:], stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("chiasm: standard output: No space left on device")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [0, 1, 2])
def test_standard_streams_may_be_closed(number: int, collection: Path) -> None:
    command = ["sh", "-c", f'exec "$@" {number}>&-', "sh", *COMMAND, "search", str(collection), "fox"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert ("fox" in done.stdout) == (number != 1)


@pytest.mark.parametrize(
    "surroundings",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=lambda value: " ".join(f"{name}={part}" for name, part in value.items()),
)
def test_a_terminal_without_the_letters_shows_others(surroundings: dict[str, str], collection: Path) -> None:
    settings = {"env": {**os.environ, **surroundings}, "encoding": "utf-8", "errors": "replace"}
    done = chiasm("search", collection, "fox", **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert "a fox " in done.stdout
    shown = chiasm("search", collection, "fox", "--json", **settings)
    assert "a fox 🦊" in {hit["id"] for hit in json.loads(shown.stdout)["hits"]}, "JSON can say every letter in ASCII"


# --------------------------------------------------------------------------------------------------------- exit codes


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Errors that `chiasm.status` will raise."""
    errors: list[BaseException] = []

    def status(_: Path) -> None:
        raise errors.pop()

    monkeypatch.setattr("chiasm.verbs.status.status", status)
    yield errors
    assert not errors


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ChiasmError("this\nand \x1b[2Jthat"), 1, "chiasm: this and �[2Jthat"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 1, "/a/b: No space left on device. Free space"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), 1, "/a/b: Read-only file system. Name another place"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "x: Permission denied. Fix the permissions"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), 1, "Give it a shorter name"),
        (OSError("strange"), 1, "strange"),
        (MemoryError(), 1, "not enough memory"),
        (KeyError("nosuch"), 70, "bug in chiasm"),
        (RecursionError("too deep"), 70, "RecursionError: too deep, at start.py:"),
        (KeyboardInterrupt(), 130, STOPPED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_is_one_line_and_a_code(
    error: BaseException, code: int, message: str, failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(error)
    assert run(["status", "c"]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_where_an_error_arose_is_shown_on_request(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(KeyError("\x1b[31mred"))
    assert run(["status", "c", "--verbose"]) == 70
    printed = capsys.readouterr().err
    assert "raise errors.pop()" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("place", [["status"], ["add", ".", "--to"], ["search", "c", "--image"]], ids=" ".join)
def test_bytes_that_are_no_text_are_refused_before_anything_is_made(place: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, *place, b"caf\xe9"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "b'caf\\xe9' is not UTF-8" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_the_documents_name_every_exit_code() -> None:
    page = (Path(__file__).parents[1] / "docs" / "shell.md").read_text(encoding="utf-8")
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)] == [
        0, cli.FAILED, cli.USAGE, cli.BUG, cli.STOPPED, cli.UNREAD,
    ]  # fmt: skip
    assert STOPPED in page


# -------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("letter", ["\n", "\t", "\x01", "\x1b", "\x7f"])
def test_a_collection_with_control_characters_is_refused_before_anything_is_made(
    letter: str, tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (f"a{letter}b", f"a{letter}b/collection"):
        for arguments in (["add", str(texts), "--to"], ["status"], ["search"]):
            assert run([*arguments, str(tmp_path / name)]) == 1
            assert "control characters" in capsys.readouterr().err
    with pytest.raises(ChiasmError, match="control characters"):
        Collection.open(tmp_path / "a\0b")
    assert [*tmp_path.iterdir()] == [], "nothing is left"


def test_collections_may_have_other_odd_names(tmp_path: Path) -> None:
    for name in ("a%20b", "a%0Ab", "a?b", "a#b", "a:b", "s3:b", "[b]", "~b", "a\x85b", "a\u2028b", "a\\b", " "):
        made = Collection.create(tmp_path / name, encoder="fake")
        with made.tables.writing():
            made.tables.append("items", ITEMS.empty_table())
        assert Collection.open(tmp_path / name).count() == 0
        assert (tmp_path / name / "items.lance").is_dir()


def test_the_home_folder_has_one_sign(tmp_path: Path, texts: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    settings = {"cwd": tmp_path / "here", "env": {**os.environ, "HOME": str(tmp_path / "home")}}
    assert chiasm("add", texts, "--to=~/c", **settings).returncode == 0
    assert chiasm("make-key", "~/keys.json", **settings).returncode == 0
    assert chiasm("statistics", "~/c", "--out=~/s", **settings).returncode == 1, "there are no pairs"
    assert chiasm("search", "~/c", "--image=~/no.png", **settings).returncode == 1
    assert {path.name for path in (tmp_path / "home").iterdir()} >= {"c", "keys.json"}
    assert [*(tmp_path / "here").iterdir()] == []


@pytest.mark.parametrize(
    "arguments", [["status", ""], ["add", "", "--to", "c"], ["add", ".", "--to="], ["add", ".", "", "--to", "c"]]
)
def test_an_empty_path_is_not_the_current_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "is empty" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- printing


def test_what_moves_a_cursor_or_turns_writing_is_replaced() -> None:
    assert console.printable("a\x1b[31m\x00\x9b2J\u202eb\u2066\ud800") == "a�[31m��2J�b��"
    assert console.printable("a\nb\tc\u2028d") == "a b c d"
    assert console.printable("tiré 🦊 ‍ שלום\u200f [red] :smile:") == "tiré 🦊 ‍ שלום\u200f [red] :smile:"


def test_a_table_shows_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.new_table("[b]", "id")
    table.add_row("[/docs] [red]x[/red] :smile:", "\x1b[31m\u202e")
    console.print_table(table)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["[b]", "id"],
        ["[/docs]", "[red]x[/red]", ":smile:", "�[31m�"],
    ]


def test_json_is_strict_and_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}, "e": "\x1b\x9b\u202e\x7fé🦊"}
    console.print_json(document)
    printed = capsys.readouterr().out

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(printed, parse_constant=refuse) == {**document, "a": None, "b": [None, 1.5], "c": {"d": None}}
    assert "é🦊" in printed
    assert console.printable(printed.replace("\n", "")) == printed.replace("\n", "")
