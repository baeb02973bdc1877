"""The verb `predict`: recognise what is in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from chiasm import encoders
from chiasm.encoders.base import fingerprints_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.media.limits import Limits, limits_of
from chiasm.recognition import ModalityArrays, Recognition, Recognizer
from chiasm.sealed import is_sealed, opened
from chiasm.space import start_space
from chiasm.store.ingest import Progress, embed_manifests, name_items
from chiasm.store.manifest import Manifest
from chiasm.store.sources import Data, manifests_of, shown_as
from chiasm.types import FileOutcome, Modality, Outcome
from chiasm.verbs.add import OnProgress
from chiasm.verbs.dataset import means_by_item, modality_arrays
from chiasm.verbs.model import Model, load_model

_AT_ONCE = 64  # items, by a model in one file
_OF_CLASSES = ("probabilities", "set", "unknown")


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
    encrypted: bool = False,
    encoder: str | None = None,
    api_key: str | None = None,
    max_pixels: int | None = None,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> PredictReport:
    """Recognise what is in files, folders or tables.

    Args:
        model: a folder that `fit` wrote, also sealed (`encrypt`), or a file that `export` wrote of one. The latter runs as it does without chiasm,
            see `chiasm.predict_script`, on the CPU. With `encrypted` the address of a server.
        paths: as for `add`, data in memory included. Items may have any subset of the modalities that the model was fitted on.
        level: how often each item's set of classes is to hold the true one.
        false_alarm_rate: the share of items of known classes that may be called unknown.
        encrypted: whether to ask the model of a server with encrypted embeddings: it sees neither the items nor the
            answers, and keeps its weights, see `chiasm.recognition.encrypted`. What is unknown is not told then.
        encoder: with `encrypted`, that embeds the items here. Default: the offline one.
        api_key: with `encrypted`, that of the server, where the server needs one.
        max_pixels: as for `add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file; of a model in one file, after every 64 items.
    """
    if not encrypted and (encoder is not None or api_key is not None):
        raise ChiasmError("an encoder and an API key go with encrypted: a model that is at hand needs neither")
    if not encrypted and str(model).startswith(("http://", "https://")):
        raise ChiasmError(
            f"{model} is a server: ask it with --encrypted, or send it the files with chiasm.client.Client"
        )
    if not encrypted and is_sealed(model):
        with opened(model) as plain:
            return predict(
                plain, paths, level=level, false_alarm_rate=false_alarm_rate, max_pixels=max_pixels, device=device,
                on_progress=on_progress,
            )  # fmt: skip
    if not encrypted and Path(model).is_file():
        if device == "cuda" or max_pixels is not None:
            raise ChiasmError(f"{model} is a model in one file, which runs on the CPU: leave device and max_pixels out")
        with TemporaryDirectory() as room:
            manifests = manifests_of(paths, lambda: Path(room))
            return _by_bundle(Path(model), manifests, room, level, false_alarm_rate, on_progress)
    if not encrypted:
        return _by_model(
            load_model(Path(model)), paths, level, false_alarm_rate, limits_of(max_pixels), device, on_progress
        )
    from chiasm.client import Client
    from chiasm.verbs.encrypted import remote_model

    with Client(str(model), key=api_key) as client:
        saved = remote_model(client, encoder=encoder)
        return _by_model(saved, paths, level, false_alarm_rate, limits_of(max_pixels), device, on_progress)


def _by_model(
    saved: Model,
    paths: Data,
    level: float,
    false_alarm_rate: float,
    limits: Limits,
    device: Device,
    on_progress: OnProgress | None,
) -> PredictReport:
    """Recognise items by a model in memory."""
    networks = encoders.resolve(saved.encoder, device=device)
    saved.check(fingerprints_of(networks))
    with TemporaryDirectory() as room:  # for media that are in no file
        manifests = manifests_of(paths, lambda: Path(room))
        files = embed_manifests(manifests, networks, name=saved.encoder, limits=limits, on_progress=on_progress)
    vectors = {modality: files.vectors[modality] for modality in saved.fingerprints if modality in files.vectors}
    means = means_by_item(vectors, [*files.items])
    usable = np.flatnonzero(np.any([*means.present.values()], axis=0)) if vectors else np.zeros(0, int)
    predictions = []
    for item_id, item in files.items.items():
        predictions.append(Prediction(item_id, shown_as(item, room), None, None, {}, ()))
    if len(usable):
        arrays = modality_arrays(means, saved.space or start_space(networks), [*vectors], usable)
        answers = describe_items(saved.recognizer, arrays, level=level, false_alarm_rate=false_alarm_rate)
        for row, answer in zip(usable.tolist(), answers, strict=True):
            own = tuple(modality for modality in vectors if means.present[modality][row])
            predictions[row] = replace(predictions[row], modalities=own, **answer)
    return PredictReport(tuple(predictions), files.outcomes)


def _by_bundle(
    file: Path,
    manifests: list[Manifest],
    room: str,
    level: float,
    false_alarm_rate: float,
    on_progress: OnProgress | None,
) -> PredictReport:
    """Recognise items by a model in one file."""
    from chiasm.predict_script import Bundle, BundleError

    items = {item_id: item for item_id, (item, _) in name_items(manifests, {}).items()}
    outcomes = [outcome for manifest in manifests for outcome in manifest.outcomes]
    predictions: list[Prediction] = []
    try:
        bundle = Bundle(file)
        taken: list[dict[str, list[str | Path]]] = []
        for item in items.values():
            taken.append({})
            for source in item.sources:
                if source.modality in bundle.modalities:
                    medium = Path(source.path) if source.path is not None else source.text or ""
                    taken[-1].setdefault(source.modality, []).append(medium)
                else:
                    reason = f"{file.name} takes {' and '.join(bundle.modalities)}, not {source.modality}"
                    outcomes.append(FileOutcome(source.path or str(source.text), Outcome.UNSUPPORTED, reason))
        named = [*items.items()]
        for first in range(0, len(named), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            answers, problems = bundle.recognise(taken[part], level, false_alarm_rate)
            outcomes += [FileOutcome(path, Outcome.BROKEN, reason) for _, path, reason in problems]
            for (item_id, item), answer in zip(named[part], answers, strict=True):
                own = Prediction(item_id, shown_as(item, room), None, None, {}, answer["modalities"])
                alone, parts = len(bundle.about["columns"]) == 1, answer["columns"]
                predictions.append(replace(own, **_joined(parts, alone=alone)) if parts else own)
            if on_progress is not None:
                on_progress(Progress(len(predictions), len(items), len(outcomes)))
    except BundleError as error:
        raise ChiasmError(str(error)) from error
    return PredictReport(tuple(predictions), tuple(outcomes))


def describe_items(
    recognizer: Recognizer, arrays: ModalityArrays, *, level: float, false_alarm_rate: float
) -> list[dict[str, Any]]:
    """Return what `Prediction` holds of each item, but for the item itself."""
    columns = recognizer.recognise_all(arrays, level=level, false_alarm_rate=false_alarm_rate)
    return [
        _joined({name: _value_of(column, row) for name, column in columns.items()}, alone=len(columns) == 1)
        for row in range(len(arrays))
    ]


def _joined(parts: Mapping[str, dict[str, Any]], *, alone: bool) -> dict[str, Any]:
    """Return what `Prediction` holds of the answers by column; `alone`: the model has one column."""
    first = next(iter(parts.values()))
    if alone and "set" in first:
        chance = first["probabilities"][first["value"]]
        return {"label": first["value"], "probability": chance, **{name: first[name] for name in _OF_CLASSES}}
    texts = [str(part["value"]) for part in parts.values()]
    label = texts[0] if alone else ", ".join(map(": ".join, zip(parts, texts, strict=True)))
    return {
        "label": label,
        "columns": {
            name: {key: value for key, value in part.items() if key not in ("set", "unknown")}
            for name, part in parts.items()
        },
    }


def _value_of(column: Recognition, row: int) -> dict[str, Any]:
    """Return the answer in a column, as `chiasm.predict_script.answer_of` gives it."""
    if column.kind == "number":
        low, high = float(column.lower[row]), float(column.upper[row])
        ends = {"low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}
        return {"value": float(column.values[row]), **ends}
    names = [str(name) for name in column.names]
    probabilities = dict(zip(names, column.probabilities[row].tolist(), strict=True))
    if column.kind == "classes":
        inside = tuple(name for name, has in zip(names, column.sets[row], strict=True) if has)
        unknown = bool(column.unknown[row])
        return {"value": str(column.values[row]), "probabilities": probabilities, "set": inside, "unknown": unknown}
    labels = [name for name, has in zip(names, column.values[row], strict=True) if has]
    return {"value": "; ".join(labels), "probabilities": probabilities}
