"""Models: a recogniser with what it belongs to, kept as a folder.

A recogniser knows arrays only. A model also knows the encoder whose embeddings these are, the column they were labelled
by and which items it has seen. Fitting one is `chiasm.verbs.fit`, retraining it with corrected labels `chiasm.verbs.learn`.

    MODEL/model.json      the format, and which version is the current one and which the one before
    MODEL/3f0a..e1/       a version, which is never changed after it was written

A version is written beside and takes its name whole; then `model.json`, one small file, is switched. So a reader has the
old model or the new one, and a program that is killed at any point leaves either. The version before is kept, and
`revert_model` goes back to it.
"""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from jaxtyping import Float16
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chiasm import __version__
from chiasm.errors import ChiasmError
from chiasm.files import whole_folder, write_whole
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.types import Modality
from chiasm.vectors import unit_rows

FORMAT, FORMAT_VERSION = "chiasm-model", 3
SUFFIXES = (".html", ".md", ".json")
REFERENCE_ROWS = 500  # of each modality
_POINTER, _ABOUT, _RECOGNIZER, _REFERENCE = "model.json", "about.json", "recognizer", "reference.safetensors"
_LARGEST_REFERENCE = 2**26  # bytes
_VERSION = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, eq=False)
class Model:
    """A recogniser with what it was fitted on.

    Attributes:
        recognizer: of one or several columns.
        encoder: name of the encoder, hub id or folder.
        label: the column that it predicts, several with commas between.
        fingerprints: modality -> fingerprint of the encoder that embedded it.
        trained_on: ids of the items that it learned from.
        report: what `fit` found out, for people.
        reference: embeddings of some of the items that it learned from, by modality, see `reference_of`. They are kept in
            the model's folder: whoever has the model has them. Without any, drift cannot be told.
        version: under which it is stored; empty for a model that is not.
    """

    recognizer: Recognizer
    encoder: str
    label: str
    fingerprints: Mapping[Modality, str]
    trained_on: frozenset[str]
    report: Mapping[str, Any]
    reference: Mapping[Modality, Float16[np.ndarray, "rows dim"]] = field(default_factory=dict)
    version: str = ""

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


def save_model(folder: Path, model: Model, *, expected: str | None = None) -> str:
    """Write a model and return its version; one that is there stays as the version before, the one before that goes.

    Args:
        folder: of the model; made where there is none.
        model: to write.
        expected: the version that must still be the current one.

    Raises:
        ChiasmError: the folder holds something else, its current version is another one, or it cannot be written.
    """
    is_other = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_other and not (folder / _POINTER).is_file():
        raise ChiasmError(f"{folder} exists and is not a model. Name an empty or a new folder with --out")
    with _locked(folder):
        pointer: dict[str, Any] = {"current": None}
        if (folder / _POINTER).exists():
            pointer = _read_pointer(folder)
        if expected is not None and pointer["current"] != expected:
            raise ChiasmError(
                f"{folder} was replaced by somebody else meanwhile, so that this comparison no longer holds: try again"
            )
        version = _write_version(folder, model)
        _switch(folder, version, pointer["current"])
        return version


def load_model(folder: Path) -> Model:
    """Read the current version of a model, also while it is being replaced.

    Raises:
        ChiasmError: there is none, it is of another version of the format, or it is damaged.
    """
    version = model_version(folder)
    while True:
        try:
            return _read_version(folder, version)
        except ChiasmError:
            newer = model_version(folder)
            if newer == version:
                raise
            version = newer  # it was replaced twice while it was read, and the version is gone


def model_version(folder: Path) -> str:
    """Return the current version, which changes when the model is replaced. Cheap enough to ask every few seconds.

    Raises:
        ChiasmError: there is no model.
    """
    return str(_read_pointer(folder)["current"])


def revert_model(folder: Path) -> str:
    """Go back to the version before, and return it; a second time undoes the first.

    Corrections stay, and would be learned again: delete wrong ones first.

    Raises:
        ChiasmError: there is no version before, or the disk cannot be written to.
    """
    if not (folder / _POINTER).is_file():
        _read_pointer(folder)  # says that there is no model, without making a folder for a lock
    with _locked(folder):
        pointer = _read_pointer(folder)
        previous = pointer["previous"]
        if previous is None or not (folder / previous).is_dir():
            raise ChiasmError(f"{folder} has no earlier model to go back to")
        _switch(folder, previous, pointer["current"])
        return str(previous)


def _read_pointer(folder: Path) -> dict[str, Any]:
    path = folder / _POINTER
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChiasmError(
            f"{folder} is not a model ({error}). Make one: chiasm fit COLLECTION --label COLUMN --out {folder}"
        ) from error
    if pointer.get("format") != FORMAT or pointer.get("format_version") != FORMAT_VERSION:
        raise ChiasmError(
            f"{folder} is {pointer.get('format')} version {pointer.get('format_version')}; this chiasm reads {FORMAT} "
            f"version {FORMAT_VERSION}. It was made by another chiasm: move it away and fit it again"
        )
    names = [pointer.get("current"), pointer.get("previous")]
    if not all(isinstance(name, str) and _VERSION.fullmatch(name) for name in names[: 2 if names[1] else 1]):
        raise ChiasmError(f"{path} is damaged: it names no version. Fit the model again")
    return dict(pointer)


def _switch(folder: Path, current: str, previous: str | None) -> None:
    """Name the versions, and remove those that are named no longer, with what a killed program left."""
    pointer = {"format": FORMAT, "format_version": FORMAT_VERSION, "current": current, "previous": previous}
    write_whole(folder / _POINTER, json.dumps(pointer, indent=1) + "\n")
    for path in folder.iterdir():
        if path.is_dir() and path.name not in (current, previous) and _VERSION.search(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _write_version(folder: Path, model: Model) -> str:
    """Write a model as a folder under a new name, and return that."""
    about = {
        "by": __version__,
        "encoder": model.encoder,
        "label": model.label,
        "fingerprints": dict(model.fingerprints),
        "trained_on": sorted(model.trained_on),
        "report": dict(model.report),
    }
    version = uuid.uuid4().hex[:16]
    with whole_folder(folder / version) as draft:
        model.recognizer.save(draft / _RECOGNIZER)
        if model.reference:
            save_file({name: np.ascontiguousarray(rows) for name, rows in model.reference.items()}, draft / _REFERENCE)
        (draft / _ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return version


def _read_version(folder: Path, version: str) -> Model:
    source = folder / version
    try:
        about = json.loads((source / _ABOUT).read_text(encoding="utf-8"))
        return Model(
            Recognizer.load(source / _RECOGNIZER),
            about["encoder"],
            about["label"],
            about["fingerprints"],
            frozenset(about["trained_on"]),
            about["report"],
            _read_reference(source / _REFERENCE, about["fingerprints"]),
            version,
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ChiasmError(f"the model {folder} is damaged ({type(error).__name__}: {error}). Fit it again") from error


def _read_reference(path: Path, known: Mapping[Modality, str]) -> dict[Modality, Float16[np.ndarray, "rows dim"]]:
    """Read the sample of embeddings that a model keeps, if it keeps any."""
    if not path.exists():
        return {}
    if path.stat().st_size > _LARGEST_REFERENCE:
        raise ChiasmError(f"{path} is larger than {_LARGEST_REFERENCE} bytes: it is not a model's")
    try:
        sample = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ChiasmError(f"{path} is damaged ({error}): fit the model again") from error
    if any(rows.dtype != np.float16 or rows.ndim != 2 or not np.isfinite(rows).all() for rows in sample.values()):
        raise ChiasmError(f"{path} is damaged: it should hold finite matrices of float16. Fit the model again")
    return {modality: sample[modality] for modality in known if modality in sample}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one writer at a time into a model's folder; what the disk says becomes an error that teaches."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            yield
    except OSError as error:
        raise ChiasmError(f"the model {folder} cannot be written: {error}") from error


# ------------------------------------------------------------------------------------------- what a model is made of


def reference_of(arrays: ModalityArrays, *, seed: int = 0) -> dict[Modality, Float16[np.ndarray, "rows dim"]]:
    """Draw embeddings to keep with a model, so that drift can be told without the collection: up to 500 a modality.

    Args:
        arrays: of the items that it learns from.
        seed: of the draw.
    """
    sample: dict[Modality, Float16[np.ndarray, "rows dim"]] = {}
    rng = np.random.default_rng(seed)
    for modality in arrays.modalities:
        # As the encoder gave them, or in the shared space where it embeds into that; of unit length, as a model scales them.
        every = arrays.vectors[modality] if modality in arrays.vectors else arrays.shared[modality]
        rows = unit_rows(every[arrays.present[modality]].astype(np.float64))
        if len(rows) > REFERENCE_ROWS:
            rows = rows[np.sort(rng.choice(len(rows), REFERENCE_ROWS, replace=False))]
        sample[modality] = rows.astype(np.float16)
    return sample


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
