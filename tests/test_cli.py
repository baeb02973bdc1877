"""The command line as a user meets it: real small files, new processes, exit codes, one JSON document on stdout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from waiting import wait_until

from chiasm import cli

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "brown", "pink")


def draw(path: Path, shape: str, colour: str) -> None:
    image = Image.new("RGB", (96, 96), "white")
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((16, 16, 80, 80), fill=colour)
    else:
        pen.rectangle((16, 16, 80, 80), fill=colour)
    image.save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen pictures of two shapes with captions, and three files that cannot be used."""
    root = tmp_path_factory.mktemp("media")
    for shape in ("circle", "square"):
        (root / shape).mkdir()
        for colour in COLOURS:
            draw(root / shape / f"{colour}.png", shape, colour)
            (root / shape / f"{colour}.txt").write_text(f"a {colour} {shape} on white paper", encoding="utf-8")
    (root / "circle" / "cut.png").write_bytes((root / "circle" / "red.png").read_bytes()[:120])
    (root / "circle" / "nothing.txt").write_bytes(b"")
    (root / "square" / "unknown.txt.png").write_bytes(bytes(range(256)) * 4)
    return root


def chiasm(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chiasm.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def chiasm_json(*arguments: object, code: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(chiasm(*arguments, "--json", code=code).stdout)
    return document


@pytest.fixture(scope="module")
def added(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    target = tmp_path_factory.mktemp("made") / "collection"
    return target, chiasm_json("add", folder, "--to", target)


@pytest.fixture(scope="module")
def collection(added: tuple[Path, dict[str, Any]]) -> Path:
    return added[0]


def test_add_counts_every_file_and_names_the_bad_ones(added: tuple[Path, dict[str, Any]]) -> None:
    _, report = added
    assert report["counts"] == {"ok": 32, "broken": 1, "empty": 1, "unsupported": 1}
    assert report["items"] == 19
    bad = {Path(row["path"]).name: (row["outcome"], row["reason"]) for row in report["outcomes"]}
    assert {name: outcome for name, (outcome, _) in bad.items()} == {
        "cut.png": "broken",
        "nothing.txt": "empty",
        "unknown.txt.png": "unsupported",
    }
    assert all(reason for _, reason in bad.values())


def test_add_again_does_nothing_and_says_the_same(added: tuple[Path, dict[str, Any]], folder: Path) -> None:
    target, first = added
    second = chiasm_json("add", folder, "--to", target)
    assert second["encoded"] == 0
    assert (second["counts"], second["items"]) == (first["counts"], first["items"])


def test_an_estimate_counts_what_would_be_added_and_adds_nothing(
    collection: Path, folder: Path, tmp_path: Path
) -> None:
    cost = chiasm_json("add", folder, "--to", tmp_path / "none", "--estimate")
    assert (cost["items"], cost["files"], cost["stored"]) == (19, 35, 0)
    assert cost["outcomes"] == {"ok": 32, "broken": 1, "empty": 1, "unsupported": 1}
    assert cost["tried"] == 35
    assert cost["seconds"] > 0
    assert cost["error"] >= 0
    size = sum(path.stat().st_size for table in collection.glob("*.lance") for path in table.rglob("*"))
    assert 0.5 < cost["bytes"] / size < 2
    assert not (tmp_path / "none").exists()
    again = chiasm_json("add", folder, "--to", collection, "--estimate")
    assert (again["files"], again["stored"]) == (3, 32), "those that could not be read are tried again"
    printed = chiasm("add", folder, "--to", tmp_path / "none", "--estimate").stdout
    assert "19 items, 35 files to embed" in printed
    assert "on disk, by 35 of the files" in printed


def test_strict_adds_all_and_fails(folder: Path, tmp_path: Path) -> None:
    report = chiasm_json("add", folder, "--to", tmp_path / "strict", "--strict", code=1)
    assert report["counts"]["ok"] == 32


def test_a_folder_with_sidecars_and_the_collection_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    draw(photos / "red.png", "circle", "red")
    draw(photos / "blue.png", "square", "blue")
    for name in ("red.xmp", "red.png.json", "blue.AAE"):
        (photos / name).write_text("<not>words</not>", encoding="utf-8")
    monkeypatch.chdir(photos)
    first = chiasm_json("add", ".", "--to", "index", "--strict")
    again = chiasm_json("add", ".", "--to", "index", "--strict")
    assert [(report["items"], report["counts"]) for report in (first, again)] == [
        (2, {"ok": 2, "not_read": 3}),
        (2, {"ok": 2, "not_read": 4}),
    ]
    shown = chiasm("add", *sorted(photos.iterdir()), "--to", tmp_path / "other").stdout
    assert shown.count("not read: ") == 3, "one line for each reason"
    assert "blue.AAE and 1 more: text that is not called .txt or .md" in shown
    failed = chiasm("add", "red.xmp", "--to", tmp_path / "third", code=1)
    assert "red.xmp: text that is not called" in failed.stderr
    assert not (tmp_path / "third").exists()
    (photos / "red.png").rename(photos / "rouge.png")
    (photos / "blue.png").unlink()
    assert "1 items moved" in (shown := chiasm("add", ".", "--to", "index").stdout)
    assert "1 items are not there any more: blue. To remove them, run it again with --prune" in shown
    assert "1 items removed" in chiasm("add", ".", "--to", "index", "--prune").stdout


def test_status(collection: Path) -> None:
    report = chiasm_json("status", collection)
    assert report["items"] == 19
    assert report["embeddings"] == {"image": 16, "text": 16}
    assert report["columns"] == ["folder", "label"]
    assert report["spaces"][0] == "start"


def test_search_by_words_finds_the_words(collection: Path) -> None:
    report = chiasm_json("search", collection, "a purple square on white paper", "--k", 3)
    best = report["hits"][0]
    assert best["id"] == "square/purple"
    assert best["modality"] == "text"
    assert best["score"] == pytest.approx(1, abs=1e-3)
    assert best["metadata"] == {"folder": "square", "label": "square"}
    assert Path(best["path"]).is_file()
    assert len(report["hits"]) == 3


def test_search_by_picture_finds_the_picture(collection: Path, folder: Path) -> None:
    report = chiasm_json("search", collection, "--image", folder / "circle" / "green.png", "--modality", "image")
    assert report["hits"][0]["id"] == "circle/green"
    assert report["hits"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert {hit["modality"] for hit in report["hits"]} == {"image"}


def test_search_by_a_metric(collection: Path) -> None:
    by = {
        metric: chiasm_json("search", collection, "a red circle", "--modality", "image", "--metric", metric)["hits"]
        for metric in ("cosine", "dot", "l2")
    }
    assert [hit["id"] for hit in by["cosine"]] == [hit["id"] for hit in by["dot"]] == [hit["id"] for hit in by["l2"]]
    scores = [hit["score"] for hit in by["l2"]]
    assert scores == sorted(scores, reverse=True)
    assert max(scores) <= 0, "distances come with a minus sign"
    assert {hit["probability"] for hits in by.values() for hit in hits} == {None}


def test_search_with_a_condition(collection: Path) -> None:
    report = chiasm_json("search", collection, "a red circle", "--where", "label = 'square'", "--k", 100)
    assert {hit["metadata"]["label"] for hit in report["hits"]} == {"square"}
    assert len(report["hits"]) == 8


def test_search_for_people(collection: Path) -> None:
    printed = chiasm("search", collection, "a red circle", "--k", 2, "--modality", "text").stdout
    assert "circle/red" in printed
    assert "a red circle on white paper" in printed, "the words of a text, not its path"
    assert ".txt" not in printed
    assert len(printed.strip().splitlines()) == 3


def test_problems_come_first_and_duplicates_in_one_line(folder: Path, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    for number in range(5):
        shutil.copy(folder / "circle" / "red.png", copies / f"{number}.png")
    shutil.copy(folder / "circle" / "cut.png", copies / "cut.png")
    lines = chiasm("add", copies, "--to", tmp_path / "c").stdout.splitlines()
    assert "1 could not be used" in lines[0]
    assert re.match(r"  broken: .*cut\.png", lines[1])
    assert [line for line in lines if "duplicate" in line] == [lines[2]]
    assert "and 3 more" in lines[2]
    assert lines[-1].startswith("Next: chiasm search")
    everything = chiasm("add", copies, "--to", tmp_path / "c", "--verbose").stdout
    assert everything.count("duplicate: ") == 4
    assert "Next:" not in chiasm("add", copies, "--to", tmp_path / "c", "--quiet").stdout


def test_a_result_begins_with_a_sentence(collection: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    fitted = chiasm("fit", collection, "--label", "label", "--out", model).stdout.splitlines()
    assert re.match(r"Right for \d+ of 100 unseen items; guessing would be 50\.", fitted[0])
    assert fitted[1].split() == ["metric", "value", "95", "%", "interval", "guessing"]
    assert any(line.startswith("Next: chiasm predict") for line in fitted)
    evaluated = chiasm("evaluate", model, collection).stdout
    assert evaluated.startswith("Right for ")
    assert "auc macro" not in evaluated
    assert "auc macro" in chiasm("evaluate", model, collection, "--verbose").stdout
    trained = chiasm("evaluate", model, collection, "--on", "training").stdout
    assert "items that it has learned from" in trained.splitlines()[0]
    predicted = chiasm("predict", model, collection.parent / "nothing.txt", code=1)
    assert "nothing.txt" in predicted.stderr
    status = chiasm("status", collection).stdout
    assert re.search(r"\d+\.\d MB on disk", status)
    assert re.search(r"changed last +.*\d{4}-\d\d-\d\d", status)
    assert status.splitlines()[-1].startswith("Next: chiasm ")


def test_serve_prints_its_address_and_opens_it(collection: Path, tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/new && mv {tmp_path}/new {tmp_path}/opened\n')
    browser.chmod(0o755)
    master, slave = os.openpty()
    command = [sys.executable, "-m", "chiasm.cli", "serve", str(collection), "--port", "0", "--open"]
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    with subprocess.Popen(command, stderr=slave, env=environment) as process:
        os.close(slave)
        try:
            wait_until((tmp_path / "opened").exists)
            shown = os.read(master, 4096).decode()
        finally:
            process.terminate()
    url = (tmp_path / "opened").read_text().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert f" {url} " in shown, "as a word of its own, which terminals make a link of"
    assert not shown.startswith("{"), "lines for people on a terminal"
    os.close(master)


def test_cold_search_by_text_does_not_import_torch(collection: Path) -> None:
    code = (
        "import sys, chiasm; "
        f"chiasm.search({str(collection)!r}, 'a red circle'); "
        "print(sorted({'torch', 'transformers', 'sklearn', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_align_then_evaluate(collection: Path, tmp_path: Path) -> None:
    report = chiasm_json("align", collection, "--pairs", "image,text")
    assert report["pairs"] == 16
    assert set(report["before"]) == {"text_to_image", "image_to_text"}
    assert set(report["after"]["text_to_image"]) >= {"hit@1", "hit@10", "recall@10", "mrr", "median_rank"}
    assert chiasm_json("status", collection)["spaces"][-1] == "aligned"
    assert chiasm_json("search", collection, "a red circle")["space"] == "aligned"
    assert chiasm_json("search", collection, "a red circle", "--space", "start")["space"] == "start"

    page = tmp_path / "report.html"
    evaluated = chiasm("evaluate", collection, "--pairs", "image,text", "--report", page, "--json")
    metrics = json.loads(evaluated.stdout)["metrics"]
    assert 0 <= metrics["text_to_image"]["hit@10"] <= 1
    document = json.loads(evaluated.stdout)
    assert (document["seen"], "learned without it" in document["measured"]) == (0, True), "all pairs were learned from"
    training = chiasm("evaluate", collection, "--on", "training").stdout
    assert "optimistic" in training.partition("hit@1")[0], "it is said first"
    assert is_self_contained(page)
    start = chiasm_json("evaluate", collection, "--pairs", "image,text", "--space", "start")
    assert start["seen"] == 0
    assert "before" not in start["metrics"]

    questions = tmp_path / "questions.txt"
    questions.write_text("quarterly tax report\n\nminutes of the last board meeting\n", encoding="utf-8")
    shown = chiasm("evaluate", collection, "--off-topic", questions, "--report", page, "--verbose").stdout
    for name in ("hit@1", "recall@10", "ndcg@10", "mrr", "map", "median rank"):
        assert len(re.findall(rf"^{name} ", shown, flags=re.MULTILINE)) == 2, f"{name}, once a direction"
    assert re.search(r"text to image +start +now \(95 % interval\) +difference", shown)
    assert re.search(r"without \(false hits\) +2 +\d\.\d{3} +\d\.\d{3} to \d\.\d{3}", shown)
    assert "In a gallery of both" in shown
    assert is_self_contained(page)
    shown_page = page.read_text(encoding="utf-8")
    assert "When nothing fits" in shown_page
    assert "on white paper" in shown_page, "the words of captions, not the names of their files"
    assert shown_page.index("finds its image among the first 10") < shown_page.index("<h2")


def test_align_with_a_source_that_is_only_sums(collection: Path, tmp_path: Path) -> None:
    sums = tmp_path / "sums.safetensors"
    assert chiasm_json("statistics", collection, "--out", sums)["pairs"] == 16
    report = chiasm_json("align", collection, "--source", sums, "--name", "with source")
    assert report["aligned"]["image"]["source_pairs"] == 16
    assert 0 <= report["aligned"]["image"]["alpha"] <= 1


def test_fit_predict_evaluate(collection: Path, folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    fitted = chiasm_json("fit", collection, "--label", "label", "--out", model)
    assert fitted["classes"] == ["circle", "square"]
    assert fitted["metrics"]["accuracy"] >= 0.9  # the caption holds the word

    draw(tmp_path / "new.png", "square", "navy")
    (tmp_path / "words.txt").write_text("a navy circle", encoding="utf-8")
    (tmp_path / "bad.png").write_bytes(b"")
    predicted = chiasm_json("predict", model, tmp_path / "new.png", tmp_path / "words.txt", tmp_path / "bad.png")
    by_id = {row["id"]: row for row in predicted["predictions"]}
    assert by_id["new"]["label"] == "square"
    assert by_id["new"]["modalities"] == ["image"]
    assert by_id["words"]["label"] == "circle"
    assert sum(by_id["words"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert by_id["bad"]["label"] is None
    assert [row["outcome"] for row in predicted["outcomes"]] == ["empty"]

    page = tmp_path / "evaluation.html"
    evaluated = chiasm_json("evaluate", model, collection, "--label", "label", "--report", page)
    assert {"accuracy", "f1_macro", "f1_weighted", "precision_macro", "recall_macro"} <= set(evaluated["metrics"])
    assert evaluated["seen"] == 0
    assert chiasm_json("evaluate", model, collection, "--on", "training")["seen"] == 16
    assert is_self_contained(page)


def test_fit_from_few_shots_measures_the_rest(collection: Path, tmp_path: Path) -> None:
    report = chiasm_json(
        "fit", collection, "--label", "label", "--out", tmp_path / "m", "--shots", 3, "--modalities", "text"
    )
    assert report["items"] == 6
    assert report["modalities"] == ["text"]
    unseen = chiasm_json("evaluate", tmp_path / "m", collection, "--label", "label")
    assert unseen["seen"] == 0
    assert unseen["metrics"]["accuracy"] == pytest.approx(report["metrics"]["accuracy"])


def test_fit_several_labels(tmp_path: Path) -> None:
    rows = [
        f"{n},{colour} {shape} number {n},{colour};{shape}"
        for n, (colour, shape) in enumerate(
            (colour, shape) for _ in range(6) for colour in ("red", "blue") for shape in ("circle", "square")
        )
    ]
    (tmp_path / "t.csv").write_text("\n".join(["id,text,tags", *rows]))
    chiasm("add", tmp_path / "t.csv", "--to", tmp_path / "c")
    report = chiasm_json("fit", tmp_path / "c", "--label", "tags", "--out", tmp_path / "m")
    assert set(report["classes"]) == {"red", "blue", "circle", "square"}


def test_remove(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "collection"
    chiasm("add", folder / "circle", "--to", target)
    which = ("remove", target, "--where", "id = 'red'")
    assert chiasm_json(*which, "--dry-run") == {"removed": 0, "ids": ["red"], "dry_run": True}
    refused = chiasm(*which, code=2)
    assert "--yes" in refused.stderr, "nobody is there to be asked"
    assert chiasm_json(*which, "--yes")["removed"] == 1
    assert "0 items removed" in chiasm(*which).stdout, "nothing to ask about"
    hits = chiasm_json("search", target, "a red circle on white paper", "--k", 50)["hits"]
    assert "red" not in {hit["id"] for hit in hits}


# ------------------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", "{new}/missing", "--to", "{new}/c"], 1, "missing"),
        (["add", "{empty}", "--to", "{new}/c"], 1, "the folder is empty"),
        (["add", "{folder}", "--to", "{folder}"], 1, "is not empty and not a collection"),
        (["add", "{folder}", "--to", "{collection}", "--encoder", "other/model"], 1, "made with the encoder 'offline'"),
        (["search", "{new}/missing", "x"], 1, "chiasm add"),
        (
            ["search", "{collection}"],
            1,
            "a search needs a text, an image, a sound, a video or an item to go by; got nothing",
        ),
        (["search", "{collection}", "--minus", "x"], 1, "got only what is not wanted"),
        (["search", "{collection}", "x", "--space", "start", "--min-probability", "auto"], 1, "has no probabilities"),
        (["search", "{collection}", "--like", "nosuch"], 1, "there is no item 'nosuch'"),
        (["search", "{collection}", "x", "--rerank", "{new}/nosuch"], 1, "there is no folder"),
        (["align", "{collection}", "--method", "magic"], 2, "magic"),
        (["align", "{collection}", "--pairs", "image,image"], 1, "two different modalities"),
        (["search", "{collection}", " "], 1, "empty"),
        (["search", "{collection}", "--image", "{folder}/circle/red.txt"], 1, "its content is text"),
        (["search", "{collection}", "--image", "{folder}/circle/cut.png"], 1, "chiasm: "),
        (["search", "{collection}", "x", "--where", "nosuch = 1"], 1, "Columns: id (text),"),
        (["search", "{collection}", "x", "--where", "label = = 1"], 1, "the condition 'label = = 1' cannot be used"),
        (["search", "{collection}", "x", "--space", "nosuch"], 1, "no space 'nosuch'"),
        (
            ["search", "{collection}", "--image", "{folder}/circle/red.png", "--max-pixels", "9"],
            1,
            "pixels; the limit is 9",
        ),
        (
            ["search", "{collection}", "x", "--minus-image", "{folder}/circle/red.png", "--max-pixels", "9"],
            1,
            "the limit is 9",
        ),
        (["search", "{collection}", "x", "--modality", "smell"], 2, "not a modality"),
        (["search", "{collection}", "x", "--k", "0"], 2, "--k"),
        (["align", "{collection}", "--alpha", "much"], 2, "auto"),
        (["align", "{collection}", "--alpha", "2"], 2, "from 0 to 1"),
        (["align", "{collection}", "--pairs", "image"], 2, "two modalities"),
        (["align", "{collection}", "--pairs", "image,video"], 1, "video"),
        (["add", "{folder}", "--to", "{new}/c", "--estimate", "--prune"], 2, "neither --strict nor --prune"),
        (["add", "{new}/missing", "--to", "{new}/c", "--estimate"], 1, "missing"),
        (["align", "{collection}", "--where", "label = 'circle'"], 1, "at least 10 pairs"),
        (["fit", "{collection}", "--label", "nosuch", "--out", "{new}/m"], 1, "nosuch"),
        (
            ["fit", "{collection}", "--label", "label", "--out", "{new}/m", "--where", "label = 'circle'"],
            1,
            "at least 2 classes are needed",
        ),
        (["fit", "{collection}", "--label", "label", "--out", "{new}/m", "--shots", "99"], 1, "99"),
        (["fit", "{collection}", "--label", "label", "--out", "{new}/m", "--modalities", "audio"], 1, "audio"),
        (["predict", "{new}/missing", "{folder}"], 1, "is not a model"),
        (["evaluate", "{collection}", "--label", "label"], 1, "MODEL COLLECTION"),
        (["evaluate", "{collection}", "--off-topic", "{new}/nosuch.txt"], 1, "there is no such file"),
        (["evaluate", "{collection}", "--moments", "{folder}/circle/red.txt"], 1, "the table has no rows"),
        (["evaluate", "{new}", "{collection}", "--moments", "{new}/m.csv"], 1, "go with a collection alone"),
        (["search", "{collection}", "x", "--metric", "euclid"], 2, "--metric"),
        (["search", "{collection}", "x", "--metric", "l2", "--min-probability", "auto"], 1, "have no probability"),
        (["nosuch"], 2, "nosuch"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_wrong_input_is_answered_with_what_to_do(
    arguments: list[str],
    code: int,
    message: str,
    collection: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"collection": collection, "folder": folder, "new": tmp_path, "empty": tmp_path / "empty"}
    assert cli.run([part.format(**places) for part in arguments]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def is_self_contained(page: Path) -> bool:
    text = page.read_text(encoding="utf-8")
    return (
        text.startswith("<!doctype html>")
        and not re.search(r"(?:src|href)=\"(?!data:|#)", text)
        and "@import" not in text
    )
