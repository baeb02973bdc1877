"""`chiasm finetune`: an encoder that is better on held-out items is written, any other is not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from planted_texts import KINDS, draw_text, texts_of_two_kinds, write_table
from tiny_models import MAKERS, save_bert

import chiasm
from chiasm import encoders
from chiasm.cli import run
from chiasm.encoders.tuned import read_about
from chiasm.errors import ChiasmError, EncoderError, LabelError
from chiasm.finetuning.recipe import Recipe

SMALL: dict[str, Any] = {
    "blocks": 1,
    "epochs": 1,
    "views": 1,
    "batch_size": 8,
    "folds": 2,
    "keep": True,
    "alike": 1.01,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise with stripes that lie or stand, and a text beside it."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        stripes = np.repeat(np.arange(8) % 2, 8)[:, None] * 120 * np.ones((1, 64))
        pixels = (stripes if number % 2 else stripes.T)[..., None] + rng.integers(0, 130, (64, 64, 3))
        PillowImage.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(
            {
                "image": f"{number}.png",
                "text": f"number {number} of them",
                "kind": ["stands", "lies"][number % 2],
                "one": 1,
            }
        )
    collection = folder / "collection"
    chiasm.add([write_table(folder / "table.csv", rows)], to=collection)
    return collection


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of two kinds among others, embedded by a network that knows nothing yet."""
    return texts_of_two_kinds(
        tmp_path_factory.mktemp("texts"),
        lambda number, kind, _: {
            "rare": "only" if number == 0 else kind,
            "number": number * 1.5,
            "place": f"p{number % 12}",
            "empty": "",
        },
    )


def test_pictures_train_an_encoder_that_every_verb_takes(pictures: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "encoder"
    result = chiasm.finetune(
        pictures,
        label="kind",
        out=out,
        modalities=["image"],
        **SMALL,
        on_message=said.append,
        report=tmp_path / "report.html",
    )
    (part,) = result.parts
    assert (part.items, part.left_out, part.folds) == (24, 0, 2)
    assert part.trained == "blocks, the last 1 of 16 blocks"
    assert "MB of memory" in said[0]
    assert said[-1].startswith(part.words)
    about = read_about(out)
    assert about["base"] == "offline"
    assert about["parts"]["image"]["about"]["licence"] == "Apache-2.0"
    assert len(about["parts"]["image"]["about"]["learned_from"]) == 24
    (column,) = about["parts"]["image"]["about"]["result"]["columns"]
    assert column["tuned"]["f1_macro"] == part.columns[0].tuned.f1_macro
    assert not out.with_name("encoder.training").exists()
    assert "Loss" in (tmp_path / "report.html").read_text()
    report = chiasm.reembed(pictures, encoder=str(out))
    assert (report.encoded, report.lost) == (24, 0)  # texts keep their vectors
    model = chiasm.fit(pictures, label="kind", out=tmp_path / "model")
    assert set(model.modalities) == {"image", "text"}
    assert "has learned from 24 of the 24 items" in model.measured
    assert chiasm.search(pictures, "number 3 of them").hits
    chiasm.reembed(pictures, encoder="offline")
    assert "has learned from" not in chiasm.fit(pictures, label="kind", out=tmp_path / "model").measured
    with pytest.raises(EncoderError, match="name a new folder"):
        chiasm.finetune(pictures, label="kind", out=out)


def test_the_network_of_texts_learns_what_it_did_not_know(texts: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "method": "full",
        "epochs": 20,
        "rate": 3e-3,
        "views": 0,
        "batch_size": 8,
        "average": 1.0,
        "patience": 20,
    }
    page = tmp_path / "report.html"
    result = chiasm.finetune(
        texts, label="kind", out=tmp_path / "encoder", **recipe, device="cpu", alike=1.01, report=page
    )
    (part,) = result.parts
    assert part.modality == "text"
    assert [title for title in ("Loss", "Accuracy") if title in page.read_text()] == ["Loss", "Accuracy"]
    logged = [entry["eval_accuracy"] for entry in part.history[0] if "eval_accuracy" in entry]
    assert logged
    lost = [entry["loss"] for entry in part.history[0] if "loss" in entry]
    assert lost[-1] < lost[0]
    before, after = part.columns[0].frozen.f1_macro, part.columns[0].tuned.f1_macro
    assert before is not None and after is not None and after >= before
    assert bool(result.encoder) is part.is_better is (tmp_path / "encoder").exists()


def test_what_is_not_better_is_not_written(texts: Path, tmp_path: Path) -> None:
    """With none of the trained weights in the average nothing changes."""
    out = tmp_path / "encoder"
    result = chiasm.finetune(
        texts, label="kind", out=out, blocks=1, epochs=1, views=0, average=0.0, device="cpu", alike=1.01
    )
    assert result.encoder == ""
    assert not out.exists()
    assert not out.with_name("encoder.training").exists()
    assert "not better than frozen features" in result.parts[0].words


def test_a_part_that_was_trained_is_trained_on_and_the_other_stays(pictures: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    chiasm.finetune(
        pictures,
        label="kind",
        out=one,
        modalities=["image"],
        **SMALL,
    )
    chiasm.reembed(pictures, encoder=str(one))
    chiasm.finetune(pictures, label="kind", out=two, modalities=["text"], **SMALL)
    chiasm.reembed(pictures, encoder="offline")
    about = read_about(two)
    assert about["base"] == "offline"
    assert set(about["parts"]) == {"image", "text"}
    assert (two / "image" / "weights.safetensors").read_bytes() == (one / "image" / "weights.safetensors").read_bytes()


def test_logs_for_tensorboard_stay(texts: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = chiasm.finetune(texts, label="kind", out=tmp_path / "encoder", report_to=["tensorboard"], **SMALL)
    assert not (tmp_path / "encoder.training").exists()
    for fold, history in enumerate(result.parts[0].history):
        events = EventAccumulator(str(tmp_path / "encoder.logs" / "text" / f"fold-{fold}")).Reload()
        logged = [event.value for event in events.Scalars("train/loss")]
        assert logged == pytest.approx([entry["loss"] for entry in history if "loss" in entry])


def test_the_command_prints_both_scores(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--label",
        "kind",
        "--epochs",
        "1",
        "--views",
        "0",
        "--folds",
        "2",
        "--keep",
        "--json",
        "--device",
        "cpu",
    ]
    assert run(["finetune", str(texts), "--out", str(tmp_path / "encoder"), *options]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["encoder"] == str(tmp_path / "encoder")
    assert {"frozen", "tuned", "better_by"} <= set(document["parts"][0]["columns"][0])
    assert "items" in printed.err


def test_shortened_vectors_are_trained_and_stay_short(tmp_path: Path) -> None:
    model = tmp_path / "model"
    MAKERS["sentence"](model)
    (model / "README.md").write_text("Trained with MatryoshkaLoss.")
    rows = [{"text": f"{number} {['cat', 'dog'][number % 2]}", "kind": "ab"[number % 2]} for number in range(20)]
    collection = tmp_path / "collection"
    chiasm.add([write_table(tmp_path / "table.csv", rows)], to=collection, encoder=f"{model},dim=4")
    chiasm.finetune(collection, label="kind", out=tmp_path / "encoder", **SMALL)
    (encoder,) = encoders.resolve(str(tmp_path / "encoder"), device="cpu")
    assert encoder.dim == 4
    assert chiasm.reembed(collection, encoder=str(tmp_path / "encoder")).encoded == 20


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"label": "none"}, "has no column 'none'"),
        ({"label": "empty"}, "no item has both a value"),
        ({"label": "number", "class_weight": "balanced"}, "only where a column of classes"),
        ({"label": "kind", "where": "kind = 'thing'"}, "2 classes are needed"),
        ({"label": "kind", "modalities": ["image"]}, "not image"),
        ({"label": "kind", "blocks": 3}, "has 2 blocks"),
        ({"label": "kind", "folds": 1}, "folds are 2 or more"),
    ],
)
def test_bad_requests_say_so(options: dict[str, Any], match: str, texts: Path, tmp_path: Path) -> None:
    with pytest.raises((LabelError, ChiasmError), match=match):
        chiasm.finetune(texts, out=tmp_path / "encoder", device="cpu", **options)
    assert not (tmp_path / "encoder").exists()


def test_integers_are_not_trained(tmp_path: Path) -> None:
    chiasm.Collection.create(tmp_path / "collection", encoder="offline,int8")
    with pytest.raises(EncoderError, match="8-bit integers"):
        chiasm.finetune(tmp_path / "collection", label="kind", out=tmp_path / "encoder")


def test_a_class_with_one_item_is_learned_from_or_measured(texts: Path, tmp_path: Path) -> None:
    recipe: dict[str, Any] = {"epochs": 1, "views": 0, "blocks": 1}
    result = chiasm.finetune(
        texts, label="rare", out=tmp_path / "encoder", **recipe, keep=True, device="cpu", alike=1.01
    )
    assert (result.parts[0].items, result.classes) == (48, ("animal", "only", "thing"))


def test_a_class_of_two_with_one_item_says_so(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no fold can be held out"):
        chiasm.finetune(
            texts, label="rare", out=tmp_path / "encoder", where="rare <> 'animal'", device="cpu", alike=1.01
        )


# --------------------------------------------------------------------------------------------------- source and target


@pytest.fixture(scope="module")
def other(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of another domain, some of a class that the first does not have and one that the first has, too."""
    folder = tmp_path_factory.mktemp("other")
    rows = [
        {"text": f"{number} big {word}", "kind": kind}
        for kind, words in {**KINDS, "colour": ["red"]}.items()
        for word in words
        for number in range(6)
    ]
    rows.append({"text": str(chiasm.Collection.open(texts).items()[0]["text"][0]), "kind": "animal"})
    collection = folder / "collection"
    encoder = chiasm.Collection.open(texts).encoder
    chiasm.add([write_table(folder / "table.csv", rows)], to=collection, encoder=encoder)
    return collection


@pytest.mark.parametrize(("strategy", "sources"), [("joint", 2), ("alternating", 1)])
def test_sources_are_learned_from_and_not_measured(
    strategy: Any, sources: int, texts: Path, other: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"{number} the {word}", "kind": "thing"} for word in KINDS["thing"] for number in range(3)]
    encoder = chiasm.Collection.open(texts).encoder
    chiasm.add([write_table(tmp_path / "table.csv", rows)], to=tmp_path / "second", encoder=encoder)
    result = chiasm.finetune(
        texts,
        label="kind",
        out=tmp_path / "encoder",
        source=[other, tmp_path / "second"][:sources],
        alpha=0.7,
        strategy=strategy,
        epochs=1,
        views=0,
        blocks=1,
        keep=True,
        device="cpu",
        alike=1.01,
    )
    assert result.parts[0].items == 48
    assert result.parts[0].source_items == (24 if sources == 1 else 30)
    assert result.recipe["alpha"] == 0.7
    assert result.classes == ("animal", "thing")


def test_a_source_that_does_not_fit_says_so(texts: Path, other: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match="Embed it like the target"):
        chiasm.finetune(texts, label="kind", out=tmp_path / "encoder", source=pictures)
    with pytest.raises(LabelError, match="that the target does not have"):
        chiasm.finetune(other, label="kind", out=tmp_path / "encoder", source=other, alike=1.01)
    with pytest.raises(LabelError, match="there is no source"):
        chiasm.finetune(texts, label="kind", out=tmp_path / "encoder", strategy="alternating")


# ------------------------------------------------------------------------------------------ the last rung of fit's ladder

THOROUGH: dict[str, Any] = {
    "method": "full",
    "epochs": 16,
    "rate": 1e-3,
    "batch_size": 8,
    "views": 0,
    "average": 1.0,
    "patience": 0,
}


def with_options(**options: Any) -> Callable[..., Recipe]:
    """Return what makes a recipe with these options, whatever it is asked for."""
    return lambda **asked: Recipe(**{**asked, **options})


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """Texts whose kind a network that knows nothing yet hardly shows: one word of nine."""
    torch.manual_seed(0)
    save_bert(tmp_path / "bert")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(96):
        kind = ["animal", "thing"][number % 2]
        rows.append({"text": draw_text(kind, rng, 8), "kind": kind})
    chiasm.add([write_table(tmp_path / "texts.csv", rows)], to=tmp_path / "texts", encoder=str(tmp_path / "bert"))
    return tmp_path / "texts"


def test_fit_climbs_to_the_encoder_where_that_wins(
    hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiasm.verbs.last_rung.Recipe", with_options(**THOROUGH))
    here = tmp_path / "here"
    here.mkdir()
    result = chiasm.fit(
        hidden, label="kind", out=here / "model", finetune=30, alike=1.01, device="cpu", report=tmp_path / "report.html"
    )
    assert result.encoder == str(here / "model.encoder")
    assert "better than frozen features" in result.finetuned[0]
    assert "trained further without it" in result.measured
    assert result.metrics["f1_macro"] > 0.9
    assert "fine-tuned" in (tmp_path / "report.html").read_text()
    assert {path.name for path in here.iterdir()} == {"model", "model.encoder"}
    with pytest.raises(ChiasmError, match="reembed COLLECTION"):
        chiasm.evaluate(here / "model", collection=hidden, label="kind")
    here.rename(tmp_path / "there")
    files = write_table(
        tmp_path / "new.csv", [{"text": "a big red on cat on the of a"}, {"text": "the of a red photo on of big big"}]
    )
    predicted = chiasm.predict(tmp_path / "there" / "model", [files], device="cpu").predictions
    assert [one.label for one in predicted] == ["animal", "thing"]
    chiasm.reembed(hidden, encoder=str(tmp_path / "there" / "model.encoder"))
    assert chiasm.evaluate(tmp_path / "there" / "model", collection=hidden, label="kind").metrics["f1_macro"] > 0.9


def test_networks_that_went_too_far_apart_to_have_a_mean_are_not_kept(
    hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chiasm.verbs.last_rung.Recipe", with_options(**THOROUGH))
    monkeypatch.setattr(
        "chiasm.verbs.climb.mean_weights", lambda nets: {k: torch.randn_like(v) for k, v in nets[0].items()}
    )
    result = chiasm.fit(hidden, label="kind", out=tmp_path / "model", finetune=30, alike=1.01, device="cpu")
    assert "went too far apart" in result.finetuned[0]
    assert result.encoder == ""


def test_fit_stays_where_the_encoder_is_not_better(
    hidden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With none of the trained weights in the average nothing changes."""
    monkeypatch.setattr("chiasm.verbs.last_rung.Recipe", with_options(average=0.0, epochs=2, views=0))
    plain = chiasm.fit(hidden, label="kind", out=tmp_path / "plain", alike=1.01, device="cpu")
    result = chiasm.fit(hidden, label="kind", out=tmp_path / "model", finetune=30, alike=1.01, device="cpu")
    assert "not better than frozen features" in result.finetuned[0]
    assert (result.encoder, result.metrics) == ("", plain.metrics)
    assert not list(tmp_path.glob("model.*"))
    short = chiasm.fit(hidden, label="kind", out=tmp_path / "model", finetune=1e-4, alike=1.01, device="cpu")
    assert "not tried, it would take" in short.finetuned[0]


def test_fit_goes_on_without_an_encoder_that_cannot_be_trained(tmp_path: Path) -> None:
    """Files that are gone cannot be trained on; their embeddings are there."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        pixels = rng.integers(0, 100, (32, 32, 3)) + np.array([150, 0, 0])[:: 1 if number % 2 else -1]
        PillowImage.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "kind": ["blue", "red"][number % 2]})
    chiasm.add([write_table(tmp_path / "table.csv", rows)], to=tmp_path / "collection")
    for path in tmp_path.glob("*.png"):
        path.unlink()
    result = chiasm.fit(tmp_path / "collection", label="kind", out=tmp_path / "model", finetune=5, alike=1.01)
    assert "image: not trained, not one of the first items can be opened" in result.finetuned[0]
    assert (result.items, result.encoder) == (12, "")


def test_what_fit_cannot_climb_with_says_so(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match="above 0"):
        chiasm.fit(texts, label="kind", out=tmp_path / "model", finetune=0)
    with pytest.raises(ChiasmError, match="shots: not together with finetune"):
        chiasm.fit(texts, label="kind", out=tmp_path / "model", finetune=1, shots=2)
    with pytest.raises(ChiasmError, match="only for one column of classes"):
        chiasm.fit(texts, label="number", out=tmp_path / "model", finetune=1, fusion="concat")


# ---------------------------------------------------------------------------------------------------- several processes


def test_two_processes_give_the_losses_of_one(texts: Path, tmp_path: Path) -> None:
    options = [
        "--label",
        "kind",
        "--label",
        "number",
        "--method",
        "full",
        "--epochs",
        "3",
        "--views",
        "1",
        "--batch-size",
        "8",
        "--folds",
        "2",
        "--ema",
        "0.5",
        "--l1",
        "1e-4",
    ]
    options += ["--keep", "--json", "--device", "cpu", "--alike", "1"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    documents = []
    for name, command in (("one", [sys.executable]), ("two", launch)):
        run_of = [*command, "-m", "chiasm", "finetune", str(texts), "--out", str(tmp_path / name), *options]
        done = subprocess.run(
            run_of, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    one, two = ([entry for fold in document["parts"][0]["history"] for entry in fold] for document in documents)
    for key in ("loss", "eval_loss"):
        values = [[entry[key] for entry in history if key in entry] for history in (one, two)]
        assert len(values[0]) >= 4
        assert values[0] == pytest.approx(values[1], abs=1e-5)
    for first, second in zip(*(document["parts"][0]["columns"] for document in documents), strict=True):
        assert first["tuned"]["loss"] == pytest.approx(second["tuned"]["loss"], abs=1e-5)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
