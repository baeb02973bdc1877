"""The examples answer as planted. Speech is heard by an encoder without weights, so no Whisper model is needed."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from painter import COLOURS, mixtures, painters, picture, sound, words_of

from chiasm import encoders

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


def example(name: str) -> ModuleType:
    (path,) = [path for path in EXAMPLES if path.stem == name]
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def written(path: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_called(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert f"python examples/{path.name} " in text


def test_all_five_are_there() -> None:
    assert [path.stem for path in EXAMPLES] == [
        "case_search",
        "check_transcripts",
        "photo_search",
        "similar_products",
        "voice_faq",
    ]


@pytest.mark.parametrize("captions", [True, False])
def test_photo_search(captions: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for parts in mixtures(3):
        path = Path(picture(tmp_path / "photos" / f"{words_of(parts)}.png", parts))
        if captions:
            path.with_suffix(".txt").write_text(words_of(parts), encoding="utf-8")
    found, more = example("photo_search").main(tmp_path / "photos", "red red green", tmp_path / "collection")
    assert found.hits[0].id == "red red green"
    assert found.found is (True if captions else None)
    assert len(more.hits) == 5
    assert "red red green" not in {hit.id for hit in more.hits}
    printed = capsys.readouterr().out
    assert ("learned from 13 captions" if captions else "not aligned: no item has both") in printed


def test_similar_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wares = {"red shoe": (1, 0, 0), "violet shoe": (1, 0, 1), "yellow shoe": (1, 1, 0), "blue shoe": (0, 0, 1)}
    wares |= {"violet hat": (3, 0, 2), "green hat": (0, 1, 0), "white hat": (1, 1, 1)}
    rows = [
        {"id": name, "image": picture(tmp_path / f"{name}.png", parts), "text": name, "kind": name.split()[1]}
        for name, parts in wares.items()
    ]
    mine = picture(tmp_path / "mine.png", (9, 0, 1))
    products = written(tmp_path / "products.csv", rows)
    main = example("similar_products").main
    found = main(products, mine, "blue", "green", collection=tmp_path / "collection")
    assert found["similar"].hits[0].id == "red shoe"
    assert found["wished"].hits[0].id == "violet shoe"
    assert found["goes with it"].hits[0].id == "violet hat"
    assert {hit.metadata["kind"] for hit in found["goes with it"].hits} == {"hat"}
    without = main(products, mine, "blue green", collection=tmp_path / "collection")
    assert without["goes with it"].hits[0].id == "white hat"
    assert "shoe: violet shoe" in capsys.readouterr().out


def test_case_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, str]] = []
    drawn: list[np.ndarray] = []
    for parts in mixtures(7):
        unit = np.array(parts) / np.linalg.norm(parts)
        first, second, _ = sorted(parts, reverse=True)
        if first == second or any(unit @ other > 0.96 for other in drawn):
            continue  # of no clear colour, or too much like another one to be a case of its own
        drawn.append(unit)
        number, what = len(rows), list(COLOURS)[int(np.argmax(parts))]
        path = picture(tmp_path / f"{number}.png", parts)
        about = {"text": words_of(parts), "patient": str(number // 2), "diagnosis": what}
        rows.append({"id": f"case {number}", "image": path, **about})
    cases = written(tmp_path / "cases.csv", rows)
    new = picture(tmp_path / "new.png", (0, 1, 0))
    alike, reports, guess = example("case_search").main(cases, new, tmp_path / "cases")
    assert alike.hits[0].metadata["diagnosis"] == "green"
    assert reports.found is True
    assert reports.hits[0].text == "green"
    assert guess.label == "green"
    printed = capsys.readouterr().out
    assert f"learned from {len(rows)} pairs" in printed
    assert "patient" in printed


def test_voice_faq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faq = written(
        tmp_path / "faq.csv",
        [
            {"text": "red red green", "answer": "Turn left."},
            {"text": "red green", "answer": "Turn left."},
            {"text": "blue", "answer": "Go on."},
        ],
    )
    main = example("voice_faq").main
    hits = main(faq, sound(tmp_path / "question.wav", "red", "green", "red"), tmp_path / "collection")
    assert [hit.metadata["answer"] for hit in hits] == ["Turn left."]
    assert hits[0].text == "red red green"
    assert "Turn left." in capsys.readouterr().out
    faq = written(tmp_path / "faq.csv", [{"text": "red red green", "answer": "Turn left."}])
    assert main(faq, sound(tmp_path / "other.wav", "blue"), tmp_path / "another") == []
    assert "No answer. The nearest question is 'red red green' (0.00)." in capsys.readouterr().out


def test_check_transcripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = {"right": ["red"], "swapped": ["blue"], "other": ["green"], "it's swapped, too": ["red"]}
    texts = {"right": "Red!", "swapped": "green", "other": "blue", "it's swapped, too": "blue"}
    rows = [
        {"id": name, "audio": sound(tmp_path / f"{number}.wav", *said[name]), "text": texts[name]}
        for number, name in enumerate(said)
    ]
    rows.append({"id": "missing", "audio": "", "text": "red red"})
    doubts = example("check_transcripts").main(written(tmp_path / "prompts.csv", rows), tmp_path / "collection")
    assert {doubt.item: (doubt.heard, doubt.says) for doubt in doubts if doubt.item != "it's swapped, too"} == {
        "swapped": ("blue", "other"),
        "other": ("green", "swapped"),
        "missing": ("", ""),
    }
    assert len(doubts) == 4
    assert "0%  swapped: 'green', heard 'blue' (text of other)" in capsys.readouterr().out


def test_as_a_command_with_real_encoders(tmp_path: Path) -> None:
    for colour in COLOURS:
        parts = [int(name == colour) for name in COLOURS]
        picture(tmp_path / "photos" / f"{colour}.png", parts)
    (script,) = [path for path in EXAMPLES if path.stem == "photo_search"]
    command = [sys.executable, str(script), str(tmp_path / "photos"), "a red square"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 ok" in done.stdout
    assert "a red square" in done.stdout
    assert len(re.findall(r"^  0\.\d\d  .*\.png$", done.stdout, flags=re.MULTILINE)) == 3 + 2
