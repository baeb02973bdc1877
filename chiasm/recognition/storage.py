"""Recognisers and predictors on disk: folders of JSON and safetensors, written whole or not at all, read without running code.

What a model's description and arrays mean is left to each model.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from chiasm.errors import ChiasmError

DESCRIPTION, WEIGHTS = "recognizer.json", "weights.safetensors"
LARGEST_DESCRIPTION = 2**24  # bytes

Tensors: TypeAlias = dict[str, Shaped[np.ndarray, "..."]]
_Model = TypeVar("_Model")


def write_folder(target: Path, description: dict[str, Any], tensors: Tensors) -> None:
    """Write beside the target, then rename: readers see the old folder or the new one, never a part."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    new, old = beside.with_suffix(".new"), beside.with_suffix(".old")
    try:
        new.mkdir()
        (new / DESCRIPTION).write_text(json.dumps(description, ensure_ascii=False, indent=1), encoding="utf-8")
        save_file(tensors, new / WEIGHTS)
        for path in (new / DESCRIPTION, new / WEIGHTS):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def write_model(target: Path, description: dict[str, Any], tensors: Tensors) -> None:
    """Write a model as a folder, whole or not at all, in the place of one that was saved there before.

    Raises:
        ChiasmError: the folder exists and is something else.
    """
    if target.exists() and not (target / DESCRIPTION).is_file():
        raise ChiasmError(f"{target} exists and is not a saved model: choose another folder")
    write_folder(target, description, tensors)


def read_model(
    source: Path, form: str, version: int, restore: Callable[[Mapping[str, Any], Mapping[str, Any]], _Model]
) -> _Model:
    """Read what `write_model` wrote.

    Args:
        source: the folder.
        form: the format that its description must name.
        version: the version that it must be of.
        restore: makes the model of its description and arrays.

    Raises:
        ChiasmError: there is none, it is of another format or version, or it is damaged.
    """
    description = read_description(source, "model")
    found = _format(source, description)
    if found != form:
        raise ChiasmError(f"{source} holds a {found!r}, expected a {form!r}: load it with the class that saved it")
    refuse_version(source, description.get("version"), version)
    try:
        return restore(description, read_tensors(source))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OSError, SafetensorError) as error:
        raise ChiasmError(f"{source} is damaged ({type(error).__name__}: {error}): save the model again") from error


def read_tensors(source: Path) -> Tensors:
    """The arrays of a saved model.

    Raises:
        OSError, SafetensorError: they are missing or damaged.
    """
    with safe_open(source / WEIGHTS, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping


def refuse_version(source: Path, found: object, version: int) -> None:
    """Refuse a model of another version of its format.

    Raises:
        ChiasmError: it is.
    """
    if found != version:
        raise ChiasmError(
            f"{source} was saved in version {found!r} of the format; this chiasm reads version {version}. "
            "Fit and save it again, or use the chiasm that saved it"
        )


def saved_format(source: Path) -> str:
    """The format of a saved model, such as `"chiasm-recognizer"`.

    Raises:
        ChiasmError: there is no saved model, or its description is damaged.
    """
    return _format(source, read_description(source, "model"))


def read_description(source: Path, what: str) -> dict[str, Any]:
    """The description of a saved model; empty where it is JSON and no object.

    Args:
        source: the folder.
        what: what it should hold, for messages.

    Raises:
        ChiasmError: there is none, it is too large, or not JSON.
    """
    path = source / DESCRIPTION
    if not path.is_file():
        raise ChiasmError(f"{source} holds no saved {what}: {DESCRIPTION} is missing")
    if path.stat().st_size > LARGEST_DESCRIPTION:
        raise ChiasmError(f"{path} is larger than {LARGEST_DESCRIPTION} bytes: it is not a {what}'s")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ChiasmError(f"{path} is not JSON ({error}): save the {what} again") from error
    return description if isinstance(description, dict) else {}


def _format(source: Path, description: Mapping[str, Any]) -> str:
    found = description.get("format")
    if not isinstance(found, str):
        raise ChiasmError(f"{source / DESCRIPTION} names no format: it is not a saved model's")
    return found
