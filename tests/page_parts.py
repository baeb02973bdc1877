"""A small collection with planted answers, and the application with its page over it, for the tests of the page."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from fake_searcher import png
from fastapi import FastAPI
from media_files import sound_bytes, tone

from chiasm import encoders
from chiasm.errors import ChiasmError
from chiasm.media.pieces import pieces_of, place_of
from chiasm.recognition.reasons import Change, ExampleReason, Explanation, MediumReasons, Reason
from chiasm.serving.app import create_shelf_app
from chiasm.serving.classify import Classifier, Explained, Recognised
from chiasm.serving.jobs import Jobs
from chiasm.serving.map import Mapper
from chiasm.serving.parts import Shared, parts_for
from chiasm.serving.settings import Settings
from chiasm.serving.shelf import Shelf
from chiasm.serving.teaching import Teaching
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.manifest import read_manifest
from chiasm.types import Image, Media, Modality, Text
from chiasm.verbs.compare import ColumnComparison
from chiasm.verbs.drift import DriftReport
from chiasm.verbs.learn import LearnReport
from chiasm.verbs.remove import RemoveReport
from chiasm.verbs.review import Doubt, Review
from chiasm.verbs.search import Searcher

EVIL = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
EVIL_ID = "ev\"il'<b>/q#?&"
COLOURS = {
    "red": (230, 20, 20),
    "rose": (230, 60, 60),
    "blue": (20, 20, 230),
    "sky": (60, 60, 230),
    "green": (20, 200, 20),
    EVIL_ID: (120, 120, 120),
}
WORDS = {
    "red": "a red square",
    "rose": "pinkish",
    "blue": "the deep sea",
    "sky": "air above",
    "green": "grass",
    EVIL_ID: EVIL,
}


def rising() -> bytes:
    """Three seconds that get louder by the second: its last moment is the loudest."""
    return sound_bytes(np.concatenate([tone(1, 8000, amplitude=a) for a in (0.1, 0.4, 0.8)]), 8000, "WAV")


def falling() -> bytes:
    """The other way round."""
    return sound_bytes(np.concatenate([tone(1, 8000, amplitude=a) for a in (0.8, 0.4, 0.1)]), 8000, "WAV")


def make_collection(folder: Path) -> Collection:
    """Pictures of one colour with a caption each, one of them hostile; two sounds with moments; a broken file."""
    media = folder / "media"
    media.mkdir(parents=True)
    (media / "rising.wav").write_bytes(rising())
    (media / "falling.wav").write_bytes(falling())
    (media / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    with (media / "items.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "image", "text", "audio", "label"])
        for number, (name, colour) in enumerate(COLOURS.items()):
            (media / f"{number}.png").write_bytes(png(colour))
            table.writerow([name, f"{number}.png", WORDS[name], "", "warm" if colour[0] > 200 else "cold"])
        table.writerow(["rising", "", "", "rising.wav", ""])
        table.writerow(["falling", "", "", "falling.wav", ""])
        table.writerow(["broken", "broken.png", "", "", ""])
    made = Collection.create(folder / "collection", encoder="fake")
    add_manifests(made, [read_manifest(media / "items.csv")], [FakeEncoder(moment=1.0)])
    made.record_roots([str(media.resolve())])
    return made


class ByColour:
    """A model that says `warm` where there is more red than blue, and knows nothing of grey."""

    label = "label"
    modalities: tuple[Modality, ...] = ("image", "text")

    def explain(self, media: Sequence[Media], *, column: str | None, answer: str | None) -> Explained:
        """One place of a picture speaks for the answer, one against it; of a text the first word and the last."""
        if column not in (None, self.label):
            raise ChiasmError(f"the model has no column {column!r}: name one of {self.label}")
        (said,) = self.predict([media], level=0.9, false_alarm_rate=0.05)
        told = answer or said.said["label"]
        reasons = []
        for medium in media:
            weights = np.zeros(len(pieces_of(medium)))
            weights[0], weights[-1] = 1.5, -0.5
            reasons.append(
                MediumReasons(
                    medium.modality, None, "occlusion",
                    tuple(
                        Reason(place_of(one), float(weight), one.start, one.end, one.box)
                        for one, weight in zip(pieces_of(medium), weights, strict=True)
                    ),
                    medium.text if isinstance(medium, Text) else None, change=Change(("top left",), "cold"),
                )
            )  # fmt: skip
        shares: dict[Modality, float] = {"image": 1.75, "text": -0.25}
        examples = (ExampleReason("rose", "warm", 0.75, {}), ExampleReason("blue", "cold", -0.25, {}))
        chance = said.said["probabilities"][told]
        why = Explanation("", None, told, chance, 1.0, -0.5, shares, tuple(reasons), examples, 0.5)
        areas = {"deletion": 0.07, "deletion_error": 0.02, "insertion": 0.1, "insertion_error": 0.02}
        media_of = {"image": {"method": "occlusion", "items": 40} | areas}
        return Explained(why, tuple(range(len(media))), {"measured": "items <b>not learned from", "media": media_of})

    def predict(self, items: Sequence[Sequence[Media]], *, level: float, false_alarm_rate: float) -> list[Recognised]:
        found = []
        for media in items:
            medium = next(one for one in media if isinstance(one, Image))
            red, green, blue = medium.pixels.mean((0, 1)).tolist()
            warm = 0.9 if red > blue else 0.2
            label, sure = ("warm", warm) if warm > 0.5 else ("cold", 1 - warm)
            said = {
                "label": label,
                "probability": sure,
                "probabilities": {"warm": warm, "cold": 1 - warm},
                "set": [label],
                "unknown": abs(red - blue) + abs(red - green) < 30,
                "columns": {},
            }
            found.append(Recognised(("image",), said))
        return found


def learn_report(*, switched: bool) -> LearnReport:
    """What the loop says after learning."""
    column = ColumnComparison(
        "label", "accuracy", 0.7, 0.8, 0.1, 0.03, (0.04, 0.16), 0.01, 0.02, {"accuracy": 0.7}, {"accuracy": 0.8}
    )
    return LearnReport(
        model="model", label="label", corrections=3, overruled=1, left_out=0, waiting={"hot": 2}, classes_added=(),
        classes_gone=(), items=40, compared="held-out items", how="held-out", judged=30, columns=(column,),
        switched=switched, why="accuracy rose <b>by 0.1", version="2", seconds=1.5,
    )  # fmt: skip


@dataclass
class Kept:
    """What the page stored, and in whose name."""

    thumbs: list[tuple[str, str, str | None, str]] = field(default_factory=list)
    labels: list[tuple[str, str, str]] = field(default_factory=list)
    files: list[tuple[bytes, str, str]] = field(default_factory=list)
    learned: int = 0

    def feedback(self, entries: Sequence[Any], *, who: str) -> int:
        self.thumbs += [(one.item, one.verdict, one.query, who) for one in entries]
        return len(entries)

    def label(self, entries: Sequence[Any], *, who: str) -> int:
        self.labels += [(one.item, one.label, who) for one in entries]
        return len(entries)

    def file(self, files: Sequence[Path], /, *, label: str | None, folder: str | None, who: str) -> str:
        self.files += [(path.read_bytes(), path.suffix, label or "") for path in files]
        return f"taught/{len(self.files)}"

    def learn(self) -> LearnReport:
        self.learned += 1
        return learn_report(switched=True)

    def review(self, most: int) -> Review:
        doubts = (
            Doubt("rose", "suspect", "warm", "cold", 0.8),
            Doubt("green", "unsure", "cold", "cold", 0.5),
            Doubt("blue", "spread", "cold", "cold", 0.9),
        )
        return Review(doubts[:most], ("warm", "cold"), 1)

    def drift(self) -> DriftReport:
        return DriftReport(25, {}, {}, ("image: <b>new items differ",), "the new items differ")

    def counts(self) -> Mapping[str, int]:
        return {"thumb": len(self.thumbs), "label": len(self.labels), "people": 1, "items": 1}


@dataclass(frozen=True)
class Made:
    """All that stands behind a page."""

    app: FastAPI
    searcher: Searcher
    kept: Kept


class Chosen:
    """Two models, of which one recognises."""

    current = "first"

    def names(self) -> list[str]:
        return ["first", "second"]

    def use(self, name: str) -> None:
        self.current = name


JOB = """
import json, sys, time
print("Fitting: 3 of 10 rungs, 1 a second, 7 s left", file=sys.stderr, flush=True)
if sys.argv[1] == "align":
    time.sleep(600)
print(json.dumps({"metrics": {"mae": 0.5, "r2": None}}))
"""
"""The command of jobs: `fit` ends at once, `align` waits to be cancelled."""


def make(folder: Path, patch: pytest.MonkeyPatch, **options: Any) -> Made:
    """The application over a new collection, with every part of the feedback loop."""
    patch.setattr(encoders, "resolve", lambda *_, **__: (FakeEncoder(moment=1.0),))
    searcher = Searcher(make_collection(folder).path)
    kept = Kept()
    teaching = Teaching(
        rate=kept.feedback,
        label=kept.label,
        add=kept.file,
        remove=len,
        forget=lambda ids: RemoveReport(tuple(ids)),
        learn=kept.learn,
        drift=kept.drift,
        counts=kept.counts,
        review=kept.review,
    )
    settings = Settings(rate=None, batch_wait=0.001, **options)
    shared = Shared.of(settings, Jobs(600.0, [sys.executable, "-c", JOB]))
    classifier = cast("Classifier", ByColour())
    parts = parts_for(shared, searcher, classifier=classifier, teaching=teaching, mapper=Mapper(searcher))
    parts.models = Chosen()
    folders = {parts.name: folder, "other": folder}
    shelf = Shelf(lambda: folders, lambda *_: parts, most=8, create=lambda name: folders.update({name: folder}))
    shelf.open_first()
    app = create_shelf_app(shared, shelf)
    return Made(app, searcher, kept)
