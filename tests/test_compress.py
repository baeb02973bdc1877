"""`chiasm compress`: a network that is smaller, learned from the whole one, and is written if it stays near enough."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image as PillowImage
from planted_texts import draw_text, write_table
from tiny_models import MAKERS, TEXT, save_tokenizer

import chiasm
from chiasm import encoders
from chiasm.cli import run
from chiasm.encoders.base import first_of
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.encoders.tuned import open_part, read_about
from chiasm.errors import ChiasmError, EncoderError
from chiasm.finetuning.items import stack
from chiasm.finetuning.pruning import LayerCuts, cuts_of, removal_order
from chiasm.finetuning.towers import EVERY, tower_of
from chiasm.types import Image, Media, Modality, Text
from chiasm.verbs.compress import CompressReport

QUICK: dict[str, Any] = {"epochs": 1, "views": 0, "device": "cpu"}
PICTURES = [Image(np.random.default_rng(seed).integers(0, 255, (40, 48, 3), dtype=np.uint8)) for seed in range(3)]
WORDS = [Text("a red cat on the mat"), Text("the big dog"), Text("a photo of the mat")]
LAYERS = 6


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers that take nearly all of the time."""
    folder = tmp_path_factory.mktemp("model") / "bert"
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": LAYERS}
    transformers.BertModel(transformers.BertConfig(**{**TEXT, **sizes})).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts and pictures of two kinds."""
    folder = tmp_path_factory.mktemp("items")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(48):
        kind = ["animal", "thing"][number % 2]
        side = int(rng.integers(2, 9))
        tiles = PillowImage.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        way = [PillowImage.Resampling.NEAREST, PillowImage.Resampling.BICUBIC][number % 2]
        tiles.resize((64, 64), way).save(folder / f"{number}.png")
        text = f"{draw_text(kind, rng)} {draw_text(kind, rng)}"
        rows.append(
            {"image": f"{number}.png", "text": text, "kind": kind, "one": 1, "half": "x" if number < 20 else ""}
        )
    collection = folder / "collection"
    chiasm.add([write_table(folder / "table.csv", rows)], to=collection)
    return collection


@pytest.fixture(scope="module")
def texts(bert: Path, items: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompressReport]:
    out = tmp_path_factory.mktemp("texts") / "small"
    report = chiasm.compress(str(bert), to=out, on=items, speedup=1.5, label="kind", keep=True, **QUICK)
    return out, report


def test_layers_are_left_out_until_it_is_fast_enough(texts: tuple[Path, CompressReport], bert: Path) -> None:
    out, report = texts
    assert [form.name for form in report.forms][::2] == ["whole", "compressed"]
    assert report.modality == "text"
    whole, small = report.forms[0], report.small
    assert whole.cosine == pytest.approx(1) and small.speed > 1.2 > whole.speed
    left = json.loads((out / "text" / "config.json").read_text())["num_hidden_layers"]
    assert 1 <= left < LAYERS
    before, after = report.parameters
    assert before is not None and after is not None and after < before
    assert report.items + report.held_out == 48
    assert not out.with_name("small.compressing").exists()
    assert read_about(out)["base"] == str(bert)


def test_what_is_written_embeds_nearly_alike_and_serves_other_verbs(
    texts: tuple[Path, CompressReport], bert: Path, items: Path, tmp_path: Path
) -> None:
    out, _ = texts
    small, whole = (first_of(encoders.resolve(str(one), device="cpu"))["text"] for one in (out, bert))
    assert small.fingerprint != whole.fingerprint
    some = [Text(str(row["text"][0])) for row in chiasm.Collection.open(items).items()]
    ours, theirs = (one.encode(some).vectors for one in (small, whole))
    cosines = (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    assert cosines.mean() > 0.8
    quantised = first_of(encoders.resolve(f"{out},int8", device="cpu"))["text"]
    assert quantised.fingerprint != small.fingerprint
    assert quantised.encode(some).vectors.shape == ours.shape
    rows = [{"text": one.text} for one in some[:4]]
    assert chiasm.add([write_table(tmp_path / "t.csv", rows)], to=tmp_path / "c", encoder=str(out)).encoded == 4
    with pytest.raises(EncoderError, match="8-bit integers"):
        chiasm.compress(f"{out},int8", to=tmp_path / "again", on=items)


def test_channels_are_left_out_of_the_offline_network_of_pictures(items: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    report = chiasm.compress("offline", to=out, on=items, speedup=1.3, keep=True, **QUICK)
    assert report.modality == "image" and report.small.speed > 1.1
    assert {form.name for form in report.forms} == {"whole", "whole, int8", "compressed", "compressed, int8"}
    sizes = [form.megabytes or 0.0 for form in report.forms]
    assert sizes[2] < sizes[0] and sizes[3] < sizes[1]
    own = first_of(encoders.resolve(str(out), device="cpu"))
    base = first_of(encoders.resolve("offline", device="cpu"))
    assert own["text"].fingerprint == base["text"].fingerprint
    assert own["image"].fingerprint != base["image"].fingerprint
    head = own["image"].class_head()
    assert head is not None and head.weight.shape == (1280, 1000)
    parameters = own["image"].models()[0].parameters
    assert parameters is not None and parameters < (base["image"].models()[0].parameters or 0)
    tower = tower_of(own["image"], "image", 2)  # it can be trained further
    with torch.no_grad():
        vectors = tower(**stack(tower.stored(PICTURES))).numpy()
    np.testing.assert_allclose(vectors, own["image"].encode(PICTURES).vectors, atol=0.05)


def test_embeddings_too_far_away_are_not_written_and_then_are_without_training_again(
    bert: Path, items: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "small", list[str]()
    options: dict[str, Any] = {"to": out, "on": items, "speedup": 1.5, "cosine": 0.9999999, **QUICK}
    with pytest.raises(EncoderError, match="--keep"):
        chiasm.compress(str(bert), **options)
    assert not out.exists()
    trained = sorted((out.with_name("small.compressing") / "checkpoints").iterdir())
    report = chiasm.compress(str(bert), **options, keep=True, on_message=said.append)
    assert any("Going on" in line for line in said) and not any("parts taken out" in line for line in said)
    assert out.is_dir() and trained and report.small.cosine < 0.9999999


def test_a_speed_that_cannot_be_reached_says_so_before_anything_is_trained(
    bert: Path, items: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    with pytest.raises(EncoderError, match="does not become 20 times as fast"):
        chiasm.compress(str(bert), to=tmp_path / "small", on=items, speedup=20, on_message=said.append, **QUICK)
    assert not (tmp_path / "small").exists() and not any("learn from" in line for line in said)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"speedup": 1}, "above 1"),
        ({"speedup": 0.5}, "above 1"),
        ({"speedup": 1000}, "at most 20"),
        ({"speedup": float("nan")}, "above 1"),
        ({"cosine": 1.0}, "below 1"),
        ({"epochs": 0}, "epochs must be"),
        ({"modality": "image"}, "has text, not image"),
        ({"label": "none"}, "no column 'none'"),
        ({"label": "one"}, "no two classes"),
        ({"label": "half"}, "no two classes"),
        ({"where": "kind = 'animal'"}, "24 items with text, and 40"),
        ({"where": "kind = 'mineral'"}, "no items for it to learn from"),
    ],
)
def test_bad_requests_say_so(options: dict[str, Any], match: str, bert: Path, items: Path, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match=match):
        chiasm.compress(str(bert), to=tmp_path / "small", on=items, **{**QUICK, **options})
    assert not (tmp_path / "small").exists()


def test_a_folder_that_exists_and_an_empty_collection_say_so(bert: Path, items: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="exists"):
        chiasm.compress(str(bert), to=tmp_path, on=items)
    chiasm.Collection.create(tmp_path / "empty", encoder="offline")
    with pytest.raises(EncoderError, match="no files"):
        chiasm.compress(str(bert), to=tmp_path / "small", on=tmp_path / "empty")


def test_items_that_are_nearly_one_say_so(bert: Path, tmp_path: Path) -> None:
    chiasm.add(
        [write_table(tmp_path / "t.csv", [{"text": "a" + " " * (1 + row) + "cat"} for row in range(48)])],
        to=tmp_path / "same",
    )
    with pytest.raises(EncoderError, match="near-duplicates"):
        chiasm.compress(str(bert), to=tmp_path / "small", on=tmp_path / "same", **QUICK)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HuggingFaceEncoder]:
    def make(name: str) -> HuggingFaceEncoder:
        folder = tmp_path_factory.mktemp(name) / name
        torch.manual_seed(0)
        MAKERS[name](folder)
        return HuggingFaceEncoder(str(folder), device="cpu")

    return make


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("vit", "image"), ("dinov2", "image"), ("clip", "image"), ("clip", "text"), ("siglip", "text"), ("llama", "text"),
        ("sentence", "text"),
    ],
)  # fmt: skip
def test_transformers_of_many_families_are_opened_without_a_layer(
    name: str, modality: Modality, models: Callable[[str], HuggingFaceEncoder], tmp_path: Path
) -> None:
    media: list[Media] = [*PICTURES] if modality == "image" else [*WORDS]
    whole = models(name)
    cuts = cuts_of(whole, modality, media)
    assert isinstance(cuts, LayerCuts) and cuts.levels == 1
    cuts.write(1, tmp_path)
    small = open_part(tmp_path, cuts.kind, cuts.options, "cpu")
    tower = tower_of(small, modality, EVERY)
    assert tower.blocks == 1
    vectors = small.encode(media).vectors
    assert vectors.shape == whole.encode(media).vectors.shape and np.isfinite(vectors).all()
    assert small.modalities == whole.modalities


@pytest.mark.parametrize("name", ["convnext", "resnet"])
def test_convolutional_models_of_the_hub_say_why_not(name: str, models: Callable[[str], HuggingFaceEncoder]) -> None:
    with pytest.raises(EncoderError, match="not alike"):
        cuts_of(models(name), "image", PICTURES)


def test_the_order_of_channels_has_the_errors_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(400, 24)) @ rng.normal(size=(24, 24))
    covariance, weights = np.cov(inputs.T), rng.normal(size=(5, 24))
    order, errors = removal_order(weights, covariance)
    assert len(order) == 8 and len(errors) == 9 and all(one <= other for one, other in pairwise(errors))
    centred = inputs - inputs.mean(axis=0)
    for number in (1, 4, 8):
        kept = np.setdiff1d(np.arange(24), order[:number])
        expected = centred @ weights.T
        fitted, *_ = np.linalg.lstsq(centred[:, kept], expected, rcond=None)
        error = np.square(expected - centred[:, kept] @ fitted).sum() / (len(inputs) - 1)
        assert errors[number] == pytest.approx(error)


def test_the_command_prints_all_forms(
    bert: Path, items: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--speedup", "1.5", "--keep", "--epochs", "1", "--views", "0", "--device", "cpu"]
    assert run(["compress", str(bert), "--to", str(tmp_path / "small"), "--on", str(items), *options]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("whole", "compressed", "times as fast", "reembed"))
