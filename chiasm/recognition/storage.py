"""Recognisers on disk: a folder of JSON and safetensors, replaced whole or not at all, read without running code.

    FOLDER/recognizer.json               everything but the arrays; names the file of the arrays
    FOLDER/weights-DIGEST.safetensors    the arrays

What is checked when it is read: that files are there and of a sensible size, that arrays have the shapes and kinds that
the description promises, and that the parts fit together. So a damaged or foreign folder is named as such.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Shaped
from safetensors.numpy import save

from chiasm.errors import ChiasmError
from chiasm.files import write_whole
from chiasm.recognition.columns import Details, Exemplars, Fitted, FusionName
from chiasm.recognition.confidence import Calibration, ConformalScores, ConformalSets
from chiasm.recognition.heads import Head, RungName
from chiasm.recognition.modalities import Features, ModalityArrays, Subset
from chiasm.recognition.targets import Kind
from chiasm.recognition.unknown import UnknownDetector
from chiasm.saved import read_arrays, read_object

FORMAT, VERSION = "chiasm-recognizer", 4
DESCRIPTION = "recognizer.json"
KINDS = {"U": "text", "i": "int", "u": "int", "f": "float", "b": "bool"}
_TYPES = {"text": np.str_, "int": np.int64, "float": np.float64, "bool": np.bool_}
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")

Fields: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, Shaped[np.ndarray, "..."]]


# -------------------------------------------------------------------------------------------------------------- files


def write_folder(folder: Path, fields: Fields, tensors: Tensors) -> None:
    """Write the arrays under a new name, then the description that names them: a killed program leaves the old or the new.

    Raises:
        ChiasmError: the folder exists and is something else.
        OSError: the disk cannot be written to.
    """
    if folder.exists() and not (folder / DESCRIPTION).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ChiasmError(f"{folder} exists and is not a saved recogniser: choose another folder")
    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    weights = f"weights-{hashlib.blake2b(content, digest_size=8).hexdigest()}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / weights, content)
    header = {"format": FORMAT, "version": VERSION, "weights": weights}
    write_whole(folder / DESCRIPTION, json.dumps(header | fields, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    for path in folder.iterdir():
        if _WEIGHTS.fullmatch(path.name) and path.name != weights:
            path.unlink()


def read_folder(folder: Path) -> tuple[Fields, Tensors]:
    """Read what `write_folder` wrote.

    Raises:
        ChiasmError: there is none, it is of another version, or it is damaged.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ChiasmError(f"{folder} holds no saved recogniser: {DESCRIPTION} is missing")
    try:
        fields = read_object(path)
        if fields.get("format") != FORMAT:
            raise ValueError(f"format {FORMAT!r} was expected, got {fields.get('format')!r:.80}")
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error
    if fields.get("version") != VERSION:
        raise ChiasmError(
            f"{folder} was saved in version {fields.get('version')!r:.80} of the format; this chiasm reads version {VERSION}. "
            "Fit and save it again, or use the chiasm that saved it"
        )
    if not _WEIGHTS.fullmatch(str(fields.get("weights"))):
        raise ChiasmError(f"{folder} is damaged: {DESCRIPTION} names no arrays. Save the recogniser again")
    try:
        return fields, read_arrays(folder / fields["weights"])
    except (OSError, ValueError) as error:
        raise damaged(folder, error) from error


def damaged(folder: Path, error: BaseException) -> ChiasmError:
    """Return the error that says that a saved recogniser is damaged, and how."""
    return ChiasmError(f"{folder} is damaged ({type(error).__name__}: {error}): save the recogniser again")


# ------------------------------------------------------------------------------------------------------------ columns


def describe_column(column: Fitted) -> tuple[Fields, Tensors]:
    """Return a fitted column, but for its network, as JSON fields and arrays."""
    tensors: Tensors = {}
    for kind, means in (("own", column.features.own), ("shared", column.features.shared)):
        tensors |= {f"mean.{kind}.{name}": mean for name, mean in means.items()}
    fields: Fields = {
        "column": column.column,
        "kind": column.kind,
        "names": {"kind": KINDS[column.names.dtype.kind], "values": column.names.tolist()},
        "own": {name: len(mean) for name, mean in column.features.own.items()},
        "shared": {name: len(mean) for name, mean in column.features.shared.items()},
        "fusion": column.fusion,
        "main": list(column.main),
        "best": column.best,
        "details": column.details.as_dict(),
        "counts": None if column.counts is None else column.counts.tolist(),
        "prior": None if column.prior is None else column.prior.tolist(),
        "heads": [],
    }
    heads = dict(column.heads) | ({} if column.stack is None else {(): column.stack})
    for part, head in heads.items():
        tensors |= {f"head.{'+'.join(part)}.{key}": value for key, value in head.tensors.items()}
        fields["heads"].append(
            {
                "modalities": list(part),
                "rung": head.rung,
                "known": head.known.tolist(),
                "tensors": sorted(head.tensors),
                "numbers": dict(head.numbers),
                "items": head.items,
                "network": head.network,
            }
        )
    for what, (describe, _) in _PARTS.items():
        fields[what] = []
        for part, thing in getattr(column, what).items():
            own, arrays = describe(thing)
            tensors |= {f"{what}.{'+'.join(part)}.{key}": value for key, value in arrays.items()}
            fields[what].append({"modalities": list(part), "fields": own, "arrays": sorted(arrays)})
    if column.exemplars is not None:
        kept = column.exemplars.arrays
        for name, masks in (("vectors", kept.vectors), ("shared", kept.shared), ("present", kept.present)):
            tensors |= {f"exemplars.{name}.{modality}": array for modality, array in masks.items()}
        tensors["exemplars.codes"] = column.exemplars.codes
    return fields, tensors


def restore_column(fields: Fields, tensors: Tensors, network: Any) -> Fitted:
    """Return the column that `describe_column` was given.

    Raises:
        KeyError, TypeError, ValueError, IndexError, ChiasmError: the parts do not fit together.
    """
    names: Shaped[np.ndarray, " names"] = np.array(fields["names"]["values"], dtype=_TYPES[fields["names"]["kind"]])
    features = Features(
        {name: floats(tensors, f"mean.own.{name}", width) for name, width in fields["own"].items()},
        {name: floats(tensors, f"mean.shared.{name}", width) for name, width in fields["shared"].items()},
    )
    main: Subset = tuple(fields["main"])
    outputs = max(1, len(names))
    heads: dict[Subset, Head] = {}
    for entry in fields["heads"]:
        part: Subset = tuple(entry["modalities"])
        width = features.width(part) if part else len(main) * outputs
        heads[part] = _restore_head(entry, tensors, features, width, outputs)
    stack = heads.pop((), None)
    singles = {part for part in heads if len(part) == 1}
    if network is None and (not heads or {(name,) for name in features.modalities} != singles):
        raise ValueError("every modality needs a head of its own")
    best = fields["best"]
    if fields["fusion"] not in get_args(FusionName) or (best is not None and best not in features.modalities):
        raise ValueError(f"fusion {fields['fusion']!r} with {best!r}")
    if fields["kind"] not in get_args(Kind):
        raise ValueError(f"a column of {fields['kind']!r}")
    parts: dict[str, Any] = {}
    for what, (_, restore) in _PARTS.items():
        parts[what] = {}
        for entry in fields[what]:
            part = tuple(entry["modalities"])
            arrays = {key: tensors[f"{what}.{'+'.join(part)}.{key}"] for key in entry["arrays"]}
            parts[what][part] = restore(entry["fields"], arrays)
    if any(len(values) != len(names) for values in parts["thresholds"].values()):
        raise ValueError(f"thresholds do not fit {len(names)} labels")
    counts = None if fields["counts"] is None else np.array(fields["counts"], dtype=np.int64)
    prior = None if fields["prior"] is None else np.array(fields["prior"], dtype=np.float64)
    for values in (counts, prior):
        if values is not None and values.shape != names.shape:
            raise ValueError(f"{len(names)} names but {len(values)} counts or frequencies")
    return Fitted(
        fields["column"],
        fields["kind"],
        names,
        features,
        heads,
        Details.from_dict(fields["details"]),
        fields["fusion"],
        main,
        best,
        stack,
        network,
        **parts,
        prior=prior,
        exemplars=_restore_exemplars(tensors, features, len(names)),
        counts=counts,
    )


def _restore_head(entry: Fields, tensors: Tensors, features: Features, width: int, outputs: int) -> Head:
    part = tuple(entry["modalities"])
    if entry["rung"] not in get_args(RungName) or set(part) - set(features.modalities):
        raise ValueError(f"a head {entry['rung']!r} of {part}")
    known = np.array(entry["known"], dtype=np.int64)
    if known.ndim != 1 or not np.isin(known, np.arange(outputs)).all() or int(entry["items"]) < 1:
        raise ValueError(f"the head of {part} knows {known.tolist()} of {outputs}, from {entry['items']} items")
    arrays = {key: floats(tensors, f"head.{'+'.join(part)}.{key}") for key in entry["tensors"]}
    head = Head(entry["rung"], known, arrays, entry["numbers"], int(entry["items"]), entry["network"])
    probe = head.outputs(np.zeros((1, width), np.float32))  # arrays that do not fit together fail here
    if probe.shape != (1, len(known)):
        raise ValueError(f"the head of {part} has {probe.shape[1]} outputs for {len(known)} names")
    return head


def _restore_exemplars(tensors: Tensors, features: Features, classes: int) -> Exemplars | None:
    if "exemplars.codes" not in tensors:
        return None

    def given(kind: str) -> dict[Any, Any]:
        keys = {name: f"exemplars.{kind}.{name}" for name in features.modalities}
        return {name: tensors[key] for name, key in keys.items() if key in tensors}

    arrays, codes = ModalityArrays(given("vectors"), given("present"), given("shared")), tensors["exemplars.codes"]
    if codes.shape != (len(arrays),) or not np.isin(codes, np.arange(classes)).all():
        raise ValueError("stored examples and their classes do not fit")
    return Exemplars(arrays, codes)


def floats(tensors: Mapping[str, Any], name: str, *shape: int) -> Float[np.ndarray, "..."]:
    """Return a tensor, proven to be finite floats, and of a shape where one is given.

    Raises:
        KeyError, ValueError: there is none, or it is something else.
    """
    tensor: Float[np.ndarray, "..."] = tensors[name]
    if (shape and tensor.shape != shape) or tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
        raise ValueError(f"{name} should be finite floats of shape {shape}, got {tensor.dtype} {tensor.shape}")
    return tensor


_PARTS: dict[str, tuple[Callable[[Any], tuple[Fields, Tensors]], Callable[[Fields, Tensors], Any]]] = {
    "calibrations": (lambda one: (one.as_fields(), {}), lambda fields, _: Calibration.from_fields(fields)),
    "sets": (
        lambda one: (one.as_fields(), one.as_arrays()),
        lambda fields, arrays: ConformalSets.from_arrays(arrays, fields),
    ),
    "detectors": (
        lambda one: (one.as_fields(), one.as_arrays()),
        lambda fields, arrays: UnknownDetector.from_arrays(arrays, fields),
    ),
    "thresholds": (lambda one: ({}, {"values": one}), lambda _, arrays: floats(arrays, "values")),
    "residuals": (
        lambda one: ({"items": one.count}, {"kept": one.kept}),
        lambda fields, arrays: ConformalScores.from_kept(arrays["kept"], int(fields["items"])),
    ),
}
"""For each part that a column has by set of modalities: how it is described and restored."""
