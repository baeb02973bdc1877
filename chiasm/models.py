"""Models: a recogniser or predictor with what it belongs to, kept as a folder.

A recogniser knows arrays only. A model also knows the encoder whose embeddings these are, the column they were labelled
by and which items it has seen. Fitting one is `chiasm.api.fit`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from chiasm import __version__
from chiasm.arrays import Labelled
from chiasm.collection import write_whole
from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import Recognizer
from chiasm.recognition.multitask import FORMAT as MULTI_TASK
from chiasm.recognition.multitask import MultiTaskPredictor
from chiasm.recognition.storage import saved_format
from chiasm.types import Modality

FORMAT, FORMAT_VERSION = "chiasm-model", 2
SUFFIXES = (".html", ".md", ".json")


@dataclass(frozen=True, eq=False)
class Model:
    """A recogniser with what it was fitted on.

    Attributes:
        predictor: a `Recognizer` of one column of classes, or a predictor of any columns.
        encoder: name of the encoder, hub id or folder.
        label: the column that it predicts, several with commas between.
        fingerprints: modality -> fingerprint of the encoder that embedded it.
        trained_on: ids of the items that it learned from.
        report: what `fit` found out, for people.
    """

    predictor: Recognizer | MultiTaskPredictor
    encoder: str
    label: str
    fingerprints: Mapping[Modality, str]
    trained_on: frozenset[str]
    report: Mapping[str, Any]

    def check(self, fingerprints: Mapping[Modality, str]) -> None:
        """Whether embeddings of these encoders are what it learned from.

        Raises:
            ChiasmError: they are of another encoder.
        """
        for modality, fingerprint in self.fingerprints.items():
            if fingerprints.get(modality) != fingerprint:
                raise ChiasmError(
                    f"the model was fitted on {modality} embeddings of another encoder ({fingerprint}, here "
                    f"{fingerprints.get(modality, 'none')}). Fit it again with this collection's encoder {self.encoder!r}"
                )


def save_model(folder: Path, model: Model) -> None:
    """Write a model; one that is there is replaced.

    Raises:
        ChiasmError: the folder holds something else, or cannot be written.
    """
    if folder.exists() and not (folder / "model.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ChiasmError(f"{folder} exists and is not a model. Name an empty or a new folder with --out")
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "by": __version__,
        "encoder": model.encoder,
        "label": model.label,
        "fingerprints": dict(model.fingerprints),
        "trained_on": sorted(model.trained_on),
        "report": dict(model.report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.predictor.save(folder / "recognizer")
        write_whole(folder / "model.json", json.dumps(header, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ChiasmError(f"the model {folder} cannot be written: {error}") from error


def load_model(folder: Path) -> Model:
    """Read a model.

    Raises:
        ChiasmError: there is none, it is of another version, or it is damaged.
    """
    try:
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChiasmError(
            f"{folder} is not a model ({error}). Make one: chiasm fit COLLECTION --label COLUMN --out {folder}"
        ) from error
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise ChiasmError(
            f"{folder} is {header.get('format')} version {header.get('format_version')}; this chiasm reads {FORMAT} "
            f"version {FORMAT_VERSION}. Fit it again"
        )
    kind = MultiTaskPredictor if saved_format(folder / "recognizer") == MULTI_TASK else Recognizer
    return Model(
        kind.load(folder / "recognizer"),
        header["encoder"],
        header["label"],
        header["fingerprints"],
        frozenset(header["trained_on"]),
        header["report"],
    )


def classes_of(data: Labelled, label: str) -> Shaped[np.ndarray, " items"]:
    """The labels of items as text.

    Raises:
        LabelError: they are all of one class, or each is a class of its own.
    """
    labels = data.labels
    values = Counter(labels.tolist())
    if len(values) == 1:
        raise LabelError(f"all {len(labels)} items have one class in {label!r}: {labels[0]}. At least 2 are needed")
    if len(values) == len(labels):
        raise LabelError(
            f"each of the {len(labels)} items has its own value in {label!r}: that is an id, not a class. Name a column "
            "in which several items share a value"
        )
    return labels


def check_report(path: str | Path | None) -> None:
    """Refuse a report that could not be written, before the work and not after it.

    Raises:
        ChiasmError: the suffix is none of .html, .md and .json, or the folder is not there.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ChiasmError(f"a report is written as {', '.join(SUFFIXES)}; got {Path(path).name}")
    if not Path(path).absolute().parent.is_dir():
        raise ChiasmError(f"the folder of the report {path} does not exist: make it first")
