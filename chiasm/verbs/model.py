"""Models: a recogniser or predictor with what it belongs to, kept as a folder.

A recogniser knows arrays only. A model also knows the encoder whose embeddings these are, the column they were labelled
by and which items it has seen. Fitting one is `chiasm.fit`, fitting it again with what people said `chiasm.verbs.learn`.

A model that another one takes the place of is kept beside it as MODEL.previous, and can come back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float16, Float64, Shaped
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chiasm import __version__
from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.multitask import FORMAT as MULTI_TASK
from chiasm.recognition.multitask import MultiTaskPredictor
from chiasm.recognition.storage import DESCRIPTION, WEIGHTS, saved_format
from chiasm.store.collection import write_whole
from chiasm.types import Modality
from chiasm.verbs.dataset import Labelled

FORMAT, FORMAT_VERSION = "chiasm-model", 2
SUFFIXES = (".html", ".md", ".json")
REFERENCE_ROWS = 500  # of each modality
_REFERENCE = "reference.safetensors"
_LARGEST_REFERENCE = 2**26  # bytes
_TRIES, _PAUSE = 20, 0.05  # of reading a model that is being replaced; seconds


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
        reference: embeddings of some of the items that it learned from, by modality, see `reference_of`. They are kept in
            the model's folder: whoever has the model has them. Without any, drift cannot be told.
    """

    predictor: Recognizer | MultiTaskPredictor
    encoder: str
    label: str
    fingerprints: Mapping[Modality, str]
    trained_on: frozenset[str]
    report: Mapping[str, Any]
    reference: Mapping[Modality, Float16[np.ndarray, "rows dim"]] = field(default_factory=dict)

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
        (folder / _REFERENCE).unlink(missing_ok=True)
        if model.reference:
            save_file({name: np.ascontiguousarray(rows) for name, rows in model.reference.items()}, folder / _REFERENCE)
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
        _read_reference(folder / _REFERENCE, header["fingerprints"]),
    )


def reference_of(arrays: ModalityArrays, *, seed: int = 0) -> dict[Modality, Float16[np.ndarray, "rows dim"]]:
    """Embeddings to keep with a model, so that drift can be told without the collection: up to 500 of each modality.

    Args:
        arrays: of the items that it learns from.
        seed: of the draw.
    """
    kept: dict[Modality, Float16[np.ndarray, "rows dim"]] = {}
    rng = np.random.default_rng(seed)
    for modality in arrays.modalities:
        rows = embeddings_of(arrays, modality)
        if len(rows) > REFERENCE_ROWS:
            rows = rows[np.sort(rng.choice(len(rows), REFERENCE_ROWS, replace=False))]
        kept[modality] = rows.astype(np.float16)
    return kept


def embeddings_of(arrays: ModalityArrays, modality: Modality) -> Float64[np.ndarray, "rows dim"]:
    """One modality of the items that have it, of unit length, since a model scales rows itself.

    As the encoder gave it, or in the shared space where it embeds into that.
    """
    every = arrays.vectors[modality] if modality in arrays.vectors else arrays.shared[modality]
    rows = every[arrays.present[modality]].astype(np.float64)
    unit: Float64[np.ndarray, "rows dim"] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit


# ------------------------------------------------------------------------------------------------------- replacing


def model_version(folder: Path) -> str:
    """A digest of all that a model says; another one after it was replaced. Cheap enough to ask every few seconds.

    Raises:
        ChiasmError: there is no model.
    """
    digest = hashlib.blake2b(digest_size=8)
    try:
        for path in (folder / "model.json", folder / "recognizer" / DESCRIPTION, folder / "recognizer" / WEIGHTS):
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
    except OSError as error:
        raise ChiasmError(f"{folder} is not a model ({error})") from error
    return digest.hexdigest()


def load_current(folder: Path) -> tuple[Model, str]:
    """Read a model that may be replaced at the same time, and its version: the old one or the new one, never parts of both.

    Raises:
        ChiasmError: as `load_model`.
    """
    for left in reversed(range(_TRIES)):
        try:
            version = model_version(folder)
            model = load_model(folder)
            if model_version(folder) == version:
                return model, version
        except ChiasmError:
            if not left or not previous_of(folder).exists():  # else it may be between two renames
                raise
        time.sleep(_PAUSE)
    raise ChiasmError(f"{folder} is being replaced again and again: try again")


def previous_of(folder: Path) -> Path:
    """Where the model is kept that this one took the place of."""
    folder = folder.absolute()
    return folder.with_name(f"{folder.name}.previous")


def replace_model(folder: Path, model: Model, *, version: str) -> str:
    """Put a model in the place of another one, which becomes MODEL.previous. Gives the new version.

    It is written beside the other and then renamed, so that a reader has the old one or the new one. A program that is
    killed between the two renames leaves MODEL.previous alone; `revert_model` brings it back.

    Args:
        folder: where the other one is.
        model: the new one.
        version: that the other one must still have.

    Raises:
        ChiasmError: it has another version by now, MODEL.previous is no model, or the disk cannot be written to.
    """
    folder = folder.absolute()
    with _locked(folder):
        if model_version(folder) != version:
            raise ChiasmError(
                f"{folder} was replaced by somebody else meanwhile, so that this comparison no longer holds: try again"
            )
        previous = previous_of(folder)
        _refuse_foreign(previous)
        beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        new, old = beside.with_suffix(".new"), beside.with_suffix(".old")
        try:
            save_model(new, model)
            if previous.exists():
                previous.rename(old)
            try:
                folder.rename(previous)
                new.rename(folder)
            except OSError:
                if not folder.exists():
                    previous.rename(folder)
                if old.exists():
                    old.rename(previous)
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        return model_version(folder)


def revert_model(folder: Path) -> str:
    """Bring MODEL.previous back; what was there becomes MODEL.previous, so that a second time undoes the first.

    What people said stays, and would be learned again: delete what was wrong of it first.

    Returns:
        The version of the model that is there now.

    Raises:
        ChiasmError: there is no MODEL.previous, or the disk cannot be written to.
    """
    folder = folder.absolute()
    previous = previous_of(folder)
    with _locked(folder):
        if not (previous / "model.json").is_file():
            raise ChiasmError(f"{folder} has no earlier model to go back to: {previous} is not there")
        beside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
        if folder.exists():
            _refuse_foreign(folder)
            folder.rename(beside)
        previous.rename(folder)
        if beside.exists():
            beside.rename(previous)
        return model_version(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time; what the disk says becomes an error that teaches."""
    try:
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            yield
    except OSError as error:
        raise ChiasmError(f"the model {folder} cannot be replaced: {error}") from error


def _refuse_foreign(folder: Path) -> None:
    if folder.exists() and not (folder / "model.json").is_file():
        raise ChiasmError(f"{folder} exists and is not a model: move it away")


def _read_reference(path: Path, known: Mapping[Modality, str]) -> dict[Modality, Float16[np.ndarray, "rows dim"]]:
    """What `save_model` wrote, if anything."""
    if not path.exists():
        return {}
    if path.stat().st_size > _LARGEST_REFERENCE:
        raise ChiasmError(f"{path} is larger than {_LARGEST_REFERENCE} bytes: it is not a model's")
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ChiasmError(f"{path} is damaged ({error}): fit the model again") from error
    if any(rows.dtype != np.float16 or rows.ndim != 2 or not np.isfinite(rows).all() for rows in found.values()):
        raise ChiasmError(f"{path} is damaged: it should hold finite matrices of float16. Fit the model again")
    return {modality: found[modality] for modality in known if modality in found}


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
