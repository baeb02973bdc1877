"""Help, completion and the forms of output, over all commands."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import typer
from PIL import Image
from waiting import LIMIT

from chiasm import console, work
from chiasm.cli import run, schemas
from chiasm.cli.commands import app
from chiasm.serving import schemas as rest

ROOT: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = ROOT.commands
PANELS = {
    "Start": ["demo", "add", "status", "serve"],
    "Find": ["search", "predict"],
    "Learn": ["align", "fit", "finetune", "feedback", "labels", "learn"],
    "Measure": ["evaluate", "drift", "explain"],
    "Manage": [
        "remove",
        "export",
        "compress",
        "reembed",
        "statistics",
        "federate",
        "encrypt",
        "decrypt",
        "revert",
        "make-key",
    ],
}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    table = folder / "t.csv"
    table.write_text('id,text,kind\nfox/1,"a red, red fox",animal\nfox/2,a grey fox,animal\nhut,a wooden house,\n')
    assert run(["add", str(table), "--to", str(folder / "c")]) == 0
    return folder / "c"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of pictures with captions."""
    folder = tmp_path_factory.mktemp("pairs")
    for shade in range(0, 240, 20):
        label = "dark" if shade < 120 else "light"
        (folder / "media" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (shade, shade, 90)).save(folder / "media" / label / f"{shade}.png")
        (folder / "media" / label / f"{shade}.txt").write_text(f"a {label} square, number {shade}")
    assert run(["add", str(folder / "media"), "--to", str(folder / "c")]) == 0
    return folder / "c"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    run(list(arguments))
    return capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------------- help


def test_commands_stand_in_five_panels(capsys: pytest.CaptureFixture[str]) -> None:
    help_text = shown(capsys, "--help")
    found: dict[str, list[str]] = {}
    for line in help_text.splitlines():
        if title := re.match(r"╭─ (\w+) ─", line):
            found[title[1]] = names = []
        elif name := re.match(r"│ ([a-z][a-z-]*) ", line):
            names.append(name[1])
    assert {name: commands for name, commands in found.items() if name in PANELS} == PANELS
    assert sorted(COMMANDS) == sorted(name for names in PANELS.values() for name in names)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_in_the_words_of_people(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, name, "--help")
    assert not re.search(r"<\w|list\[|bool|\|\w+\|", text), "types of Python, or lists of choices in place of a name"
    for parameter in COMMANDS[name].params:
        assert parameter.help, f"{parameter.name} is not explained"
        assert getattr(parameter, "is_flag", False) or parameter.metavar, f"{parameter.name} has no name for its value"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_two_examples_and_what_comes_next(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples = re.findall(r"^    (chiasm .*)$", COMMANDS[name].epilog, flags=re.MULTILINE)
    assert len(examples) == 2
    then = re.search(r"^Next: (.+)\Z", COMMANDS[name].epilog, flags=re.MULTILINE)
    assert then is not None
    for example in examples:
        program, command, *rest = shlex.split(example)
        assert (program, command) == ("chiasm", name)
        with COMMANDS[name].make_context(name, rest):  # raises where an option or a value is wrong
            pass
        assert len(example) <= 76, "it would be broken on a terminal of 80 columns"
    parts = re.split(r"\bchiasm (?=[a-z])", then[1])[1:]
    for part in parts:
        command = part.split()[0].rstrip(".,")
        options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", part)) <= options, part
    text = shown(capsys, name, "--help")
    for example in examples:
        assert example in text
    assert "Next: " in text


@pytest.mark.parametrize("surroundings", [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {})], ids=str)
def test_there_are_no_colours_where_none_are_wanted(surroundings: tuple[list[str], dict[str, str]]) -> None:
    options, variables = surroundings
    done = subprocess.run(
        [sys.executable, "-m", "chiasm.cli", "status", *options, "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "FORCE_COLOR": "1", **variables},
    )  # fmt: skip
    assert bool(re.search(r"\x1b\[[\d;]*3\dm", done.stdout)) == (not options and not variables)


# --------------------------------------------------------------------------------------------------------- completion


def completed(line: str, cwd: Path) -> list[str]:
    words = line.split(" ")
    code = "from chiasm.cli import main; main()"
    environment = {"_CHIASM_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), **environment},
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("chiasm sta", ["status", "statistics"]),
        ("chiasm fit c --label ", ["kind"]),
        ("chiasm search c --space st", ["start"]),
        ("chiasm search c --like fo", ["fox/1", "fox/2"]),
        ("chiasm feedback c hu", ["hut"]),
        ("chiasm labels c hut --column ", ["kind"]),
        ("chiasm search nosuch --like fo", []),
        ("chiasm search c --format js", ["json", "jsonl"]),
    ],
)
def test_the_shell_completes_what_is_in_the_collection(line: str, answers: list[str], collection: Path) -> None:
    assert sorted(completed(line, collection.parent)) == sorted(answers)


# -------------------------------------------------------------------------------------------------------------- output


def test_rows_in_every_form(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = ("search", str(collection), "a fox", "--k", "2")
    document = json.loads(shown(capsys, *query, "--json"))
    assert shown(capsys, *query, "--format", "json") == shown(capsys, *query, "--json")
    lines = [json.loads(line) for line in shown(capsys, *query, "--format", "jsonl").splitlines()]
    assert lines == document["hits"]
    rows = list(csv.DictReader(io.StringIO(shown(capsys, *query, "--format", "csv"))))
    assert [(row["id"], row["metadata.kind"]) for row in rows] == [(hit["id"], "animal") for hit in lines]
    assert {"a red, red fox", "a grey fox"} == {row["text"] for row in rows}
    for name in ("hits.csv", "hits.jsonl", "hits.json", "hits.txt"):
        assert shown(capsys, *query, "--out", str(tmp_path / name)) == ""
    assert json.loads((tmp_path / "hits.json").read_text()) == document
    assert len((tmp_path / "hits.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "hits.csv").read_text().startswith("id,")
    assert "fox/1" in (tmp_path / "hits.txt").read_text()


def test_rows_of_a_stranger_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"metadata": {"a\x1b[2J": "b\x9b\u202e\nc", "d,": None}, "list": ["\x07"]}]
    console.print_rows(rows, "csv")
    header, (first, none, listed) = csv.reader(io.StringIO(capsys.readouterr().out))
    assert (header, first, none, listed) == (["metadata.a�[2J", "metadata.d,", "list"], "b��\nc", "", '["\\u0007"]')
    console.print_rows(rows, "jsonl")
    assert json.loads(capsys.readouterr().out) == rows[0]


def test_a_file_is_written_only_when_all_is_done(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "hits.csv").write_text("before")
    assert run(["search", str(collection), "x", "--where", "nosuch = 1", "--out", str(tmp_path / "hits.csv")]) == 1
    assert (tmp_path / "hits.csv").read_text() == "before"
    assert run(["search", str(collection), "x", "--out", str(tmp_path / "none" / "hits.csv")]) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["search", "{c}", "x", "--where", "nosuch = 1"], 1, "CollectionError"),
        (["search", "{c}", "x", "--k", "0"], 2, "BadParameter"),
        (["status", "{c}/nosuch"], 1, "CollectionError"),
        (["status"], 2, "MissingParameter"),
        (["nosuch"], 2, "UsageError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_json_where_json_was_asked_for(
    arguments: list[str], code: int, kind: str, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [part.format(c=collection) for part in arguments]
    assert run([*made, "--json"]) == code
    printed = capsys.readouterr()
    error = json.loads(printed.out)["error"]
    assert (error["code"], error["kind"]) == (code, kind)
    assert error["message"] in " ".join(printed.err.split("\n"))
    assert not error["message"].startswith("chiasm:")
    assert run(made) == code
    assert capsys.readouterr().out == "", "as text it goes to standard error alone"


def test_what_is_printed_is_as_published(collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = (Path(__file__).parents[1] / "docs" / "schemas.json").read_text(encoding="utf-8")
    assert published == schemas.text(), "run: make docs"
    document = json.loads(published)
    commands = [
        ("add", ["add", str(collection.parent / "t.csv"), "--to", str(collection)]),
        ("status", ["status", str(collection)]),
        ("search", ["search", str(collection), "a fox"]),
        ("export", ["export", str(collection), "--out", str(tmp_path / "t.csv")]),
        ("(any that failed)", ["status", str(tmp_path)]),
    ]
    for name, arguments in commands:
        validator = jsonschema_rs.validator_for({**document["commands"][name], "$defs": document["$defs"]})
        validator.validate(json.loads(shown(capsys, *arguments, "--json")))


def test_a_hit_is_the_same_here_and_in_rest() -> None:
    def properties(schema: dict[str, Any]) -> dict[str, Any]:
        """Names and types, without descriptions; a reference is one whatever its name."""
        text = json.dumps({name: {**one, "title": "", "description": ""} for name, one in schema["properties"].items()})
        parts: dict[str, Any] = json.loads(re.sub(r"#/\$defs/\w+", "#", text))
        return {name: {key: value for key, value in one.items() if key != "default"} for name, one in parts.items()}

    here, there = properties(schemas.schemas()["$defs"]["Hit"]), properties(rest.Hit.model_json_schema())
    assert here.keys() - there.keys() == {"path", "number"}
    assert there.keys() - here.keys() == {"url", "caption", "preview"}
    for name in (here.keys() & there.keys()) - {"metadata"}:  # values of any type there
        assert here[name] == there[name], name


def test_contradictions_are_refused(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options in (["--json", "--format", "csv"], ["-q", "-v"]):
        assert run(["search", str(collection), "fox", *options]) == 2
        assert "--" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ progress

AT_WORK = """
import sys
from chiasm import console, work
with console.printing(doing="Adding"{options}):
    for name in work.steps(["a", "b", "c", "d"], "files"):
        if name == "c":
            sys.stdin.readline()  # until the reader has seen enough
    console.say("done")
"""


def at_work(options: str, **streams: Any) -> subprocess.Popen[str]:
    code = AT_WORK.format(options=options)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True, **streams)


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal() -> None:
    with at_work("", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        first, line = process.stderr.readline(), process.stderr.readline()
        out, _ = process.communicate("\n", timeout=LIMIT)
    assert first == "Adding\n", "at once"
    assert re.fullmatch(r"Adding: 2 of 4 files, [\d.,]+ a second, \d+ s left\n", line)
    assert out == "done\n"


def test_progress_is_a_bar_on_a_terminal_and_leaves_nothing_behind() -> None:
    master, slave = os.openpty()
    with at_work("", stdout=subprocess.PIPE, stderr=slave) as process:
        os.close(slave)
        seen = ""
        while "2 of 4 files" not in seen:
            seen += os.read(master, 4096).decode()
        out, _ = process.communicate("\n", timeout=LIMIT)
    rest = ""
    with suppress(OSError):  # as Linux says that nobody has the other end any more
        while part := os.read(master, 4096).decode():
            rest += part
    os.close(master)
    assert rest.endswith(("\x1b[2K", "\x1b[?25h")), "the line is cleared, and the cursor shown"
    assert out == "done\n"


def test_who_wants_results_alone_sees_no_progress() -> None:
    with at_work(", quiet=True", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, error = process.communicate("\n", timeout=LIMIT)
    assert (out, error) == ("done\n", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["align", "{c}", "--pairs", "image,text"], {"settings", "pairs of modalities"}),
        (["fit", "{c}", "--label", "label", "--out", "{new}/m"], {"adapters"}),
        (["fit", "{c}", "--label", "label", "--out", "{new}/m", "--nested"], {"folds", "adapters"}),
        (["reembed", "{c}", "--encoder", "offline"], set()),
        (["evaluate", "{c}", "--off-topic", "{new}/questions.txt"], {"questions", "batches of questions"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_long_commands_say_where_they_are(arguments: list[str], told: set[str], pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("a tax report\nlentil soup\n")
    assert run(["align", str(pairs)]) == 0
    steps: list[work.Step] = []
    with work.watched(steps.append):
        assert run([*(part.format(c=pairs, new=tmp_path) for part in arguments), "--quiet"]) == 0
    assert {step.what for step in steps} == told
    for step, after in pairwise(steps):
        assert step.what != after.what or after.done >= step.done or step.done == step.total
