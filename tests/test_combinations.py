"""Encoders of several makers side by side, from files to searches: what can be compared, what cannot, and what `align` changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from tiny_models import CLASSES, MAKERS, WORDS

import chiasm
from chiasm.errors import SpaceError

pytestmark = pytest.mark.filterwarnings("ignore:.*is run by PyTorch, slower on a CPU:RuntimeWarning")

COLOURS = {"red": (220, 30, 30), "cat": (30, 200, 40), "dog": (40, 40, 210), "mat": (230, 220, 20)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for kind in ("dinov2", "resnet", "bert", "wav2vec2"):
        MAKERS[kind](root / kind)
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a colour with a noise over it, each with words of which the first goes with the colour."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    for number in range(24):
        word, colour = [*COLOURS.items()][number % len(COLOURS)]
        pixels = np.clip(generator.normal(colour, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
        PillowImage.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(" ".join([word, *generator.choice(WORDS[4:], 2), f"{number}"]))
    return folder


def test_pictures_and_texts_without_a_bridge_until_pairs_make_one(models: Path, files: Path, tmp_path: Path) -> None:
    name = f"image={models / 'dinov2'},text={models / 'bert'}"
    report = chiasm.add([files], to=tmp_path / "c", encoder=name)
    assert report.counts["ok"] == 48
    (note,) = report.notes
    assert note.startswith("only these can be compared: image with image, text with text, until chiasm align")
    assert "--pairs image,text has learned" in note
    assert chiasm.status(tmp_path / "c").notes == (note,)
    found = chiasm.search(tmp_path / "c", "red mat")
    assert {hit.modality for hit in found.hits} == {"text"}, "pictures cannot be compared with words yet"
    assert found.notes == (note,)
    assert chiasm.evaluate(tmp_path / "c").notes == (note,)
    assert not chiasm.search(tmp_path / "c", "red mat", modality="text").notes, "nothing is left out that was asked for"
    with pytest.raises(SpaceError, match="image cannot be found by this query: only these can be compared"):
        chiasm.search(tmp_path / "c", "red mat", modality="image")
    seen = chiasm.search(tmp_path / "c", image=files / "0.png", modality="image").hits
    assert seen[0].id == "0"

    learned = chiasm.align(tmp_path / "c", method="ridge")
    assert learned.after["text_to_image"]["hit@10"] >= learned.before["text_to_image"]["hit@10"]
    assert not chiasm.search(tmp_path / "c", "red mat").notes
    assert not chiasm.evaluate(tmp_path / "c").notes
    hits = chiasm.search(tmp_path / "c", "red mat", modality="image").hits
    assert {hit.modality for hit in hits} == {"image"}


def test_only_pictures_and_a_question_in_words(models: Path, files: Path, tmp_path: Path) -> None:
    name = f"image={models / 'dinov2'},text={models / 'bert'}"
    chiasm.add([*sorted(files.glob("*.png"))], to=tmp_path / "c", encoder=name)
    with pytest.raises(SpaceError, match="chiasm align"):
        chiasm.search(tmp_path / "c", "red mat")


def test_a_classifier_with_names_is_bridged_through_words(models: Path, files: Path, tmp_path: Path) -> None:
    name = f"image={models / 'resnet'},text={models / 'bert'}"
    chiasm.add([files], to=tmp_path / "c", encoder=name)
    hits = chiasm.search(tmp_path / "c", f"a {CLASSES[0]}", modality="image").hits
    assert len(hits) == 10
    assert hits[0].score > hits[-1].score
