"""The verb `predict`: recognise what is in files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from chiasm import encoders
from chiasm.encoders.base import fingerprints_of
from chiasm.encoders.runtime import Device
from chiasm.files import is_within
from chiasm.media.limits import limits_of
from chiasm.recognition import ModalityArrays, Recognition, Recognizer
from chiasm.space import start_space
from chiasm.store.ingest import embed_manifests
from chiasm.store.sources import Data, manifests_of
from chiasm.types import MODALITIES, FileOutcome, Modality
from chiasm.verbs.add import OnProgress
from chiasm.verbs.dataset import means_by_item, modality_arrays
from chiasm.verbs.model import load_model


@dataclass(frozen=True)
class Prediction:
    """The prediction for one item."""

    id: str
    path: str | None  # of the item's first file, or its text; None of what was in memory
    label: str | None  # None: nothing of the item could be used
    probability: float | None
    probabilities: dict[str, float]
    modalities: tuple[Modality, ...]  # what the prediction is made from
    set: tuple[str, ...] = ()  # classes that hold the true one as often as was asked
    unknown: bool = False  # like nothing that the model knows, at the false-alarm rate that was asked
    columns: dict[str, Any] = field(default_factory=dict)  # of a model of numbers, several labels or several columns


@dataclass(frozen=True)
class PredictReport:
    """Predictions in the order of the input, and what happened to files that could not be used."""

    predictions: tuple[Prediction, ...]
    outcomes: tuple[FileOutcome, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def predict(
    model: str | Path,
    paths: Data,
    *,
    level: float = 0.9,
    false_alarm_rate: float = 0.05,
    max_pixels: int | None = None,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> PredictReport:
    """Recognise what is in files, folders or tables.

    Args:
        model: a folder that `fit` wrote.
        paths: as for `add`, data in memory included. Items may have any subset of the modalities that the model was fitted on.
        level: how often each item's set of classes is to hold the true one.
        false_alarm_rate: the share of items of known classes that may be called unknown.
        max_pixels: as for `add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.
    """
    saved = load_model(Path(model))
    networks = encoders.resolve(saved.encoder, device=device)
    saved.check(fingerprints_of(networks))
    with TemporaryDirectory() as room:  # for media that are in no file
        manifests = manifests_of(paths, lambda: Path(room))
        files = embed_manifests(
            manifests, networks, name=saved.encoder, limits=limits_of(max_pixels), on_progress=on_progress
        )
    vectors = {modality: files.vectors[modality] for modality in saved.fingerprints if modality in files.vectors}
    means = means_by_item(vectors, [*files.items])
    usable = np.flatnonzero(np.any([*means.present.values()], axis=0)) if vectors else np.zeros(0, int)
    predictions = []
    for item_id, item in files.items.items():
        media = [source for modality in MODALITIES for source in item.sources if source.modality == modality]
        path = (media[0].path or media[0].text) if media else None
        if path is not None and is_within(path, [room]):
            path = None  # it was in memory
        predictions.append(Prediction(item_id, path, None, None, {}, ()))
    if len(usable):
        arrays = modality_arrays(means, saved.space or start_space(networks), [*vectors], usable)
        answers = describe_items(saved.recognizer, arrays, level=level, false_alarm_rate=false_alarm_rate)
        for row, answer in zip(usable.tolist(), answers, strict=True):
            own = tuple(modality for modality in vectors if means.present[modality][row])
            predictions[row] = replace(predictions[row], modalities=own, **answer)
    return PredictReport(tuple(predictions), files.outcomes)


def describe_items(
    recognizer: Recognizer, arrays: ModalityArrays, *, level: float, false_alarm_rate: float
) -> list[dict[str, Any]]:
    """Return what `Prediction` holds of each item, but for the item itself."""
    columns = recognizer.recognise_all(arrays, level=level, false_alarm_rate=false_alarm_rate)
    if len(columns) == 1 and recognizer.only_column_.kind == "classes":
        (column,) = columns.values()
        return [_class_of(column, row) for row in range(len(arrays))]
    described = []
    for row in range(len(arrays)):
        parts = {name: _value_of(column, row) for name, column in columns.items()}
        texts = [str(part["value"]) for part in parts.values()]
        label = texts[0] if len(texts) == 1 else ", ".join(map(": ".join, zip(parts, texts, strict=True)))
        described.append({"label": label, "columns": parts})
    return described


def _class_of(column: Recognition, row: int) -> dict[str, Any]:
    names = [str(name) for name in column.names]
    probabilities = column.probabilities[row]
    return {
        "label": names[int(probabilities.argmax())],
        "probability": float(probabilities.max()),
        "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        "set": tuple(name for name, inside in zip(names, column.sets[row], strict=True) if inside),
        "unknown": bool(column.unknown[row]),
    }


def _value_of(column: Recognition, row: int) -> dict[str, Any]:
    if column.kind == "number":
        low, high = float(column.lower[row]), float(column.upper[row])
        ends = {"low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}
        return {"value": float(column.values[row]), **ends}
    names = [str(name) for name in column.names]
    probabilities = dict(zip(names, column.probabilities[row].tolist(), strict=True))
    if column.kind == "classes":
        return {"value": str(column.values[row]), "probabilities": probabilities}
    labels = [name for name, has in zip(names, column.values[row], strict=True) if has]
    return {"value": "; ".join(labels), "probabilities": probabilities}
