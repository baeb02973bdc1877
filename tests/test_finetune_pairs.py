"""`chiasm finetune --pairs`: networks learn to find each other's items; written only where held-out pairs are found better."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from planted_texts import write_table
from tiny_models import MAKERS
from torch import Tensor, nn

import chiasm
from chiasm import encoders
from chiasm.alignment.pairs import PairArrays
from chiasm.cli import run
from chiasm.encoders.base import first_of
from chiasm.encoders.runtime import Arrays
from chiasm.encoders.tuned import read_about
from chiasm.errors import ChiasmError, LabelError, SpaceError
from chiasm.finetuning.items import stack
from chiasm.finetuning.pairs import SIDES, PairExamples, PairNetwork, Side, learn_heads, sigmoid, train_pairs
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.towers import Tower, towers_of
from chiasm.finetuning.views import Views, store_views
from chiasm.types import Image, Media, Modality, Text
from chiasm.vectors import unit_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is run by PyTorch, slower on a CPU:RuntimeWarning")

SMALL: dict[str, Any] = {
    "blocks": 1,
    "epochs": 1,
    "views": 1,
    "batch_size": 8,
    "folds": 2,
    "alike": 1.01,
    "device": "cpu",
}
COLOURS = {"red": (200, 30, 30), "big": (30, 30, 200), "the": (30, 200, 30), "a": (200, 200, 30)}


def save_pictures(folder: Path, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pictures of a colour with noise, and a caption that no other has."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        word = list(COLOURS)[number % len(COLOURS)]
        pixels = np.clip(np.array(COLOURS[word]) + rng.integers(-30, 30, (48, 48, 3)), 0, 255)
        PillowImage.fromarray(pixels.astype(np.uint8)).save(folder / f"{seed}-{number}.png")
        rows.append({"image": f"{seed}-{number}.png", "text": f"{word} photo of number {seed} {number}", "kind": word})
    return rows


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "clip"
    torch.manual_seed(0)
    MAKERS["clip"](folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rows = [*save_pictures(folder, 28), {"image": "", "text": "alone", "kind": "a"}]
    chiasm.add([write_table(folder / "table.csv", rows)], to=folder / "collection")
    return folder / "collection"


@pytest.fixture(scope="module")
def joint(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    chiasm.add(
        [write_table(folder / "table.csv", save_pictures(folder, 28))], to=folder / "collection", encoder=str(clip)
    )
    return folder / "collection"


def test_the_offline_pair_becomes_an_encoder_that_every_verb_takes(pictures: Path, tmp_path: Path) -> None:
    said: list[str] = []
    out = tmp_path / "encoder"
    result = chiasm.finetune(
        pictures,
        pairs=("image", "text"),
        out=out,
        keep=True,
        report=tmp_path / "r.html",
        on_message=said.append,
        **SMALL,
    )
    tuned = result.pairs
    assert tuned is not None
    assert (tuned.pairs, tuned.left_out, tuned.folds) == (28, 0, "2 of 2 folds")
    assert tuned.frozen.keys() == tuned.tuned.keys() == {"text_to_image", "image_to_text"}
    assert "MB of memory" in said[0]
    assert said[-1] == tuned.words
    assert "Loss" in (tmp_path / "r.html").read_text()
    about = read_about(out)
    assert about["base"] == "offline"
    assert about["parts"].keys() == {"image", "text"}
    assert {part["about"]["licence"] for part in about["parts"].values()} == {"Apache-2.0"}
    assert [len(part["about"]["learned_from"]) for part in about["parts"].values()] == [28, 28]
    assert not out.with_name("encoder.training").exists()
    before = {m: one.fingerprint for m, one in first_of(encoders.resolve("offline", device="cpu")).items()}
    after = {m: one.fingerprint for m, one in first_of(encoders.resolve(str(out), device="cpu")).items()}
    assert after["image"] != before["image"]
    assert after["text"] != before["text"]
    chiasm.reembed(pictures, encoder=str(out))
    report = chiasm.align(pictures)
    assert "has learned from 28 of the 28 items" in report.aligned["image"].measured
    assert "has learned from 28 of the 28 items" in chiasm.evaluate(pictures, pairs=("image", "text")).measured
    assert chiasm.search(pictures, "red photo").hits
    chiasm.reembed(pictures, encoder="offline")
    chiasm.add([pictures.parent / "table.csv"], to=tmp_path / "other", encoder=str(out))
    assert chiasm.search(tmp_path / "other", "red photo").hits


@pytest.mark.parametrize("learning", [None, ["image"]])
def test_towers_of_one_model_learn_and_stay_comparable(
    learning: list[Modality] | None, joint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "encoder"
    result = chiasm.finetune(joint, pairs=("image", "text"), out=out, modalities=learning, keep=True, **SMALL)
    assert result.encoder == str(out)
    about = read_about(out)
    assert about["parts"].keys() == {"image"}
    assert len(about["parts"]["image"]["about"]["learned_from"]) == 56
    owner = first_of(encoders.resolve(str(out), device="cpu"))
    assert owner["image"] is owner["text"]
    base = first_of(encoders.resolve(about["base"], device="cpu"))
    for modality, media in (("image", [Image(np.full((40, 40, 3), 90, np.uint8))]), ("text", [Text("a red cat")])):
        changed = owner[modality].encode(media).vectors  # type: ignore[index]
        same = np.allclose(changed, base[modality].encode(media).vectors, atol=1e-6)  # type: ignore[index]
        assert same is (learning is not None and modality not in learning)
    chiasm.add([joint.parent / "table.csv"], to=tmp_path / "other", encoder=str(out))
    assert chiasm.search(tmp_path / "other", "red photo").hits


def test_what_is_not_better_is_not_written(joint: Path, tmp_path: Path) -> None:
    """With none of the trained weights in the average nothing changes."""
    out = tmp_path / "encoder"
    result = chiasm.finetune(joint, pairs=("image", "text"), out=out, average=0.0, **SMALL)
    assert result.pairs is not None
    assert (result.encoder, result.pairs.better_by, result.pairs.is_better) == ("", 0.0, False)
    assert "not better than frozen and aligned" in result.pairs.words
    assert "nothing written, --keep writes it anyway" in result.pairs.words
    assert not out.exists()


def test_sources_are_learned_from_and_not_measured(joint: Path, clip: Path, tmp_path: Path) -> None:
    others = []
    for seed in (1, 2):
        table = write_table(tmp_path / f"{seed}.csv", save_pictures(tmp_path, 6, seed))
        chiasm.add([table], to=tmp_path / f"other-{seed}", encoder=str(clip))
        others.append(tmp_path / f"other-{seed}")
    (tmp_path / "2-0.png").unlink()
    result = chiasm.finetune(
        joint, pairs=("image", "text"), out=tmp_path / "encoder", source=others, alpha=0.3, **SMALL
    )
    assert result.pairs is not None
    assert (result.pairs.pairs, result.pairs.source_pairs, result.recipe["alpha"]) == (28, 11, 0.3)
    assert result.pairs.left_out == 1
    with pytest.raises(LabelError, match="has no pair whose image"):
        chiasm.finetune(joint, pairs=("image", "text"), out=tmp_path / "encoder", source=joint, **SMALL)


def test_the_command_prints_both_directions(joint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--pairs",
        "image,text",
        "--epochs",
        "1",
        "--views",
        "0",
        "--folds",
        "2",
        "--device",
        "cpu",
        "--keep",
        "--alike",
        "1",
    ]
    assert run(["finetune", str(joint), "--out", str(tmp_path / "encoder"), *options]) == 0
    printed = capsys.readouterr().out
    assert "text to image" in printed
    assert "chiasm align" in printed


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "one of the two"),
        ({"label": "kind", "pairs": ("image", "text")}, "one of the two"),
        ({"pairs": ("image", "audio")}, "not audio"),
        ({"pairs": ("text", "text")}, "two different modalities"),
        ({"pairs": ("image", "text"), "where": "kind = 'none'"}, "no item has both"),
        ({"pairs": ("image", "text"), "where": "kind = 'red'"}, "at least 20 pairs"),
        ({"pairs": ("image", "text"), "group": "none"}, "has no column"),
        ({"pairs": ("image", "text"), "group": "kind", "folds": 9}, "no fold can be held out"),
        ({"pairs": ("image", "text"), "folds": 1}, "folds are 2 or more"),
        ({"pairs": ("image", "text"), "modalities": ["audio"]}, "not of audio"),
        ({"pairs": ("image", "text"), "strategy": "alternating", "source": "x"}, "strategy go with a label"),
        ({"pairs": ("image", "text"), "cutmix": 0.5, "focal": 1.0}, "focal and cutmix go with a label"),
    ],
)
def test_bad_requests_say_so(options: dict[str, Any], match: str, joint: Path, tmp_path: Path) -> None:
    with pytest.raises((LabelError, SpaceError, ChiasmError), match=match):
        chiasm.finetune(joint, out=tmp_path / "encoder", device="cpu", **options)
    assert not (tmp_path / "encoder").exists()


# ---------------------------------------------------------------------------------------------------------- the networks


def test_what_a_model_shares_is_trained_once(clip: Path) -> None:
    """Low-rank changes are in both towers, and merged."""
    encoder = first_of(encoders.resolve(str(clip), device="cpu"))["image"]
    towers = dict(zip(SIDES, towers_of((encoder, encoder), ("image", "text"), 1), strict=True))
    network = PairNetwork(towers, None, None, Recipe())
    media: dict[Side, list[Media]] = {
        "moved": [Image(np.full((40, 40, 3), 90, np.uint8))],
        "anchor": [Text("a red cat")],
    }
    stored = {side: stack(towers[side].stored(media[side])) for side in SIDES}
    before = {side: towers[side](**stored[side]).detach() for side in SIDES}
    names = network.weights().keys()
    network.choose(stored)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    trained = {side: towers[side](**stored[side]).detach() for side in SIDES}
    network.merge()
    assert network.weights().keys() == names
    for side in SIDES:
        assert not torch.allclose(trained[side], before[side], atol=1e-4)
        assert torch.allclose(towers[side](**stored[side]), trained[side], atol=1e-4)


def test_heads_have_not_seen_the_group_of_their_pair_nor_what_is_held_out() -> None:
    """Of random pairs a map that has seen them finds more than one that has not."""
    rng = np.random.default_rng(0)
    X, Y = (unit_rows(rng.normal(size=(60, dim))) for dim in (30, 8))
    groups, held = np.arange(60) // 2, np.arange(60) >= 50
    heads = learn_heads(PairArrays(X, Y, Y, groups), held)
    assert (heads.fold[held] == len(heads.bias) - 1).all()
    assert (heads.fold[~held] < len(heads.bias) - 1).all()
    assert all(len(np.unique(heads.fold[groups == group])) == 1 for group in groups)
    own = [float((X[row] @ heads.weight[heads.fold[row]] + heads.bias[heads.fold[row]]) @ Y[row]) for row in range(60)]
    seen = [float((X[row] @ heads.weight[-1] + heads.bias[-1]) @ Y[row]) for row in range(50)]
    assert np.mean(own[:50]) < np.mean(seen) - 0.1


def test_the_sigmoid_loss_is_that_of_the_paper() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    ones = torch.ones(2)
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    expected = -torch.log(1 / (1 + torch.exp(-signs * logits))).sum() / 2
    assert torch.isclose(sigmoid(logits, torch.tensor([0, 1]), ones), expected)
    alone = -torch.log(1 / (1 + torch.exp(-logits.diagonal()))).sum() / 2
    assert torch.isclose(sigmoid(logits, torch.tensor([0, 0]), ones), alone)


class Planted(Tower):
    """One matrix, behind stored rows."""

    kind = "library"

    def __init__(self, weight: Tensor, *, most: int = 1000, poison: bool = False) -> None:
        super().__init__()
        self.blocks, self.frozen, self.options = 1, 0, {}
        self.most, self.poison, self.calls = most, poison, 0
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(weight)

    def stored(self, media: Any) -> list[Arrays]:
        return [{"states": np.array(one.text.split(), np.float32)} for one in media]

    def forward(self, **arrays: Tensor) -> Tensor:
        states = arrays["states"]
        if torch.is_grad_enabled():
            self.calls += 1
            if len(states) > self.most:
                raise torch.OutOfMemoryError("not enough")
            if self.poison and self.calls > 20:
                states = states * float("nan")
        output: Tensor = self.layer(states)
        return output

    def save(self, folder: Path) -> None:
        (folder / "matrix").write_text("here")


RECIPE = Recipe(method="full", epochs=10, batch_size=16, rate=0.1, patience=10, views=0, mixup=0.0, average=1.0)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[dict[Side, Views], PairExamples]:
    """Two sides of the same five numbers, which the start hardly sees beside others that differ."""
    rng = np.random.default_rng(3)
    same = rng.normal(size=(60, 5))
    views: dict[Side, Views] = {}
    for side in SIDES:
        rows = np.hstack([same, 1.5 * rng.normal(size=(60, 5))])
        openers = [lambda row=row: Text(" ".join(map(str, row))) for row in rows]
        views[side] = store_views(Planted(torch.eye(10)), openers, tmp_path / side, views=1, seed=0)
    every = np.arange(60)
    return views, PairExamples(dict.fromkeys(SIDES, every), every, np.zeros(60, dtype=bool))


def learn(
    planted: tuple[dict[Side, Views], PairExamples], folder: Path, said: list[str] | None = None, **options: Any
) -> Any:
    views, examples = planted
    towers = {side: Planted(torch.eye(10), **options) for side in SIDES}
    say = (said if said is not None else []).append
    rows = np.arange(45)
    return train_pairs(towers, views, examples, rows, RECIPE, folder, frozen=None, device="cpu", say=say)


def found(embeddings: Any) -> float:
    """Return the share of the pairs that were not learned from whose partner is the nearest."""
    moved, anchor = (unit_rows(embeddings[side])[45:] for side in SIDES)
    return float(((moved @ anchor.T).argmax(axis=1) == np.arange(15)).mean())


def test_training_finds_what_the_start_hardly_sees(planted: Any, tmp_path: Path) -> None:
    tuned = learn(planted, tmp_path / "run")
    losses = [entry["loss"] for entry in tuned.history if "loss" in entry]
    assert losses[-1] < losses[0]
    start = {side: np.stack([planted[0][side].get(item, 0)["states"] for item in range(60)]) for side in SIDES}
    assert found(tuned.embeddings) > found(start) + 0.3


def test_few_pairs_are_all_learned_from(planted: Any, tmp_path: Path) -> None:
    """Of eleven, a fifth held out would leave fewer than a map needs."""
    views, examples = planted
    towers = {side: Planted(torch.eye(10)) for side in SIDES}
    rows = unit_rows(np.random.default_rng(0).normal(size=(60, 10)))
    frozen = PairArrays(rows, rows, rows, np.arange(60))
    tuned = train_pairs(towers, views, examples, np.arange(11), RECIPE, tmp_path / "run", frozen=frozen, device="cpu")
    assert not any("eval_loss" in entry for entry in tuned.history)


def test_little_memory_changes_no_number(planted: Any, tmp_path: Path) -> None:
    said: list[str] = []
    whole, parts = learn(planted, tmp_path / "whole"), learn(planted, tmp_path / "parts", said, most=4)
    assert (whole.at_once, parts.at_once) == (16, 4)
    assert len(said) == 2
    for name, weight in whole.weights.items():
        assert torch.allclose(weight, parts.weights[name], atol=1e-5)


def test_a_loss_that_is_no_number_stops_and_a_run_goes_on_where_it_was(planted: Any, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match="no longer a finite number"):
        learn(planted, tmp_path / "run", poison=True)
    assert list((tmp_path / "run").glob("checkpoint-*"))
    for number, state in ((998, None), (999, '{"global_step": 99')):  # a kill while a checkpoint is written
        (tmp_path / "run" / f"checkpoint-{number}").mkdir()
        if state is not None:
            (tmp_path / "run" / f"checkpoint-{number}" / "trainer_state.json").write_text(state)
    again, whole = learn(planted, tmp_path / "run"), learn(planted, tmp_path / "whole")
    for name, weight in whole.weights.items():
        assert torch.allclose(weight, again.weights[name], atol=1e-6)


def test_two_processes_give_the_losses_of_one(clip: Path, tmp_path: Path) -> None:
    """The pairs of all processes are told apart together."""
    made = (
        tmp_path / "collection"
    )  # by a process, too: pictures are scaled otherwise here, where there is a torchvision
    table = write_table(tmp_path / "table.csv", save_pictures(tmp_path, 28))
    add = ["add", str(table), "--to", str(made), "--encoder", str(clip)]
    subprocess.run([sys.executable, "-m", "chiasm", *add], check=True, capture_output=True)
    options = ["--pairs", "image,text", "--method", "full", "--epochs", "2", "--views", "0", "--batch-size", "8"]
    options += ["--folds", "2", "--alike", "1", "--patience", "0", "--keep", "--json", "--device", "cpu"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    documents = []
    for name, command in (("one", [sys.executable]), ("two", launch)):
        run_of = [*command, "-m", "chiasm", "finetune", str(made), "--out", str(tmp_path / name), *options]
        done = subprocess.run(
            run_of, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
    one, two = ([entry for fold in document["pairs"]["history"] for entry in fold] for document in documents)
    values = [[entry["loss"] for entry in history if "loss" in entry] for history in (one, two)]
    assert len(values[0]) == 4
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert documents[0]["pairs"]["tuned"] == documents[1]["pairs"]["tuned"]


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
