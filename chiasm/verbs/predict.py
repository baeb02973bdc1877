"""The verb `predict`: recognise what is in files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from chiasm import encoders
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.store.collection import Collection
from chiasm.store.manifest import read_manifest
from chiasm.types import MODALITIES, FileOutcome, Modality
from chiasm.verbs import fit as learning
from chiasm.verbs.add import OnProgress
from chiasm.verbs.dataset import (
    embedded_items,
    fingerprints_of,
    modality_arrays,
)
from chiasm.verbs.model import load_model
from chiasm.verbs.search import (
    start_of,
)


@dataclass(frozen=True)
class Prediction:
    """What a recogniser says of one item."""

    id: str
    path: str | None  # of the item's first file
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
    paths: Sequence[str | Path],
    *,
    level: float = 0.9,
    false_alarm_rate: float = 0.05,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> PredictReport:
    """Recognise what is in files, folders or tables.

    Args:
        model: a folder that `fit` wrote.
        paths: as for `add`. Items may have any subset of the modalities that the model was fitted on.
        level: how often each item's set of classes is to hold the true one.
        false_alarm_rate: the share of items of known classes that may be called unknown.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.
    """
    saved = load_model(Path(model))
    networks = encoders.resolve(saved.encoder, device=device)
    saved.check(fingerprints_of(networks))
    manifests = [read_manifest(path) for path in paths]
    if not manifests:
        raise ChiasmError("nothing to predict: name at least one folder, table or file")
    with tempfile.TemporaryDirectory(prefix="chiasm-predict-") as folder:
        # A collection gives readers, batches and outcomes; it is thrown away.
        collection = Collection.create(Path(folder) / "collection", encoder=saved.encoder)
        added = collection.add(manifests, networks, on_progress=on_progress)
        rows = collection.items()
        ids = [str(row["id"]) for row in rows]
        found = embedded_items(collection, ids, saved.fingerprints)
        has_any = [modality for modality in found.arrays if found.present[modality].any()]
        usable = np.flatnonzero(np.any([*found.present.values()], axis=0))
        if len(usable):
            arrays = modality_arrays(found, start_of(collection, networks), has_any, usable)
            said = learning.say(saved.predictor, arrays, level=level, false_alarm_rate=false_alarm_rate)
    number_of = {row: number for number, row in enumerate(usable.tolist())}
    predictions = []
    for row, item in enumerate(rows):
        has = tuple(modality for modality in saved.fingerprints if found.present[modality][row])
        path = next((files[0] for modality in MODALITIES if (files := item[modality])), None)
        empty = Prediction(ids[row], path, None, None, {}, ())
        if row in number_of:
            predictions.append(replace(empty, modalities=has, **said[number_of[row]]))
        else:
            predictions.append(empty)
    return PredictReport(tuple(predictions), added.outcomes)
