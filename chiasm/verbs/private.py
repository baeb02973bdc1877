"""`fit` with a promise of differential privacy: what the verb may do with a collection, and what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Int

from chiasm import encoders
from chiasm.encoders.base import first_of
from chiasm.encoders.licence import models_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import is_tuned
from chiasm.errors import ChiasmError, LabelError
from chiasm.privacy import ITEM, Promise, spend, spent
from chiasm.recognition.private import fit_private
from chiasm.recognition.targets import parse_target
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import label_columns, labelled_items
from chiasm.verbs.fit import FitReport
from chiasm.verbs.measure import details_of
from chiasm.verbs.model import Model, save_model
from chiasm.verbs.spaces import start_of

PUBLIC = "the names of the classes, the modalities, the numbers of items and units, and the settings, which are fixed"
_UNMEASURED = (
    "nothing: a number from the same items would be one more release. Measure it on items of which nothing was promised"
)


def fit_private_model(
    collection: str | Path,
    label: str | Sequence[str],
    promise: Promise,
    out: Path,
    *,
    modalities: Sequence[Modality] | None,
    where: str | None,
    device: Device,
) -> FitReport:
    """Train and save a recogniser that keeps a promise, see `chiasm.recognition.private.fit_private`.

    Args:
        collection: where the items are; what is spent goes into its ledger.
        label: the column to predict.
        promise: to each item, or to each value of a column.
        out: folder of the model.
        modalities: to learn from. Default: all.
        where: only items that meet this condition.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: there are several columns, or no classes; or an item has no value of the unit.
        ChiasmError: the promise is none for so few units.
    """
    opened = Collection.open(collection)
    if is_tuned(opened.encoder):
        raise ChiasmError(
            f"the encoder {opened.encoder} was trained further, on items that may be these: a promise about a head on it would not hold. "
            "Move the collection to a frozen one (chiasm reembed)"
        )
    if out.exists():
        raise ChiasmError(
            f"{out} exists: a model that was there would be kept beside the private one. Choose another folder"
        )
    networks = encoders.resolve(opened.encoder, device=device)
    columns = label_columns(opened, label)
    if len(columns) != 1:
        raise LabelError(f"with epsilon one column is learned; got {', '.join(columns)}")
    # Without near-duplicates as groups: which items are alike is something that the items say.
    data = labelled_items(
        opened, networks, start_of(opened, networks), columns, modalities=modalities, where=where, alike=2.0
    )
    units = np.arange(len(data.ids)) if promise.unit == ITEM else _units(opened, promise.unit, data.ids)
    promise.check(len(np.unique(units)))
    target = parse_target(data.values[columns[0]], column=columns[0], task="classes")
    with opened.committing():
        spend(opened.path, promise, f"fit of {columns[0]!r} to {out.name}")
    recognizer = fit_private(data.arrays, target, units, promise)
    result = FitReport(
        model=str(out),
        label=columns[0],
        classes=tuple(str(name) for name in target.names),
        modalities=tuple(data.fingerprints),
        items=len(data.ids),
        unlabelled=0,
        measured=_UNMEASURED,
        metrics={},
        chosen=details_of(recognizer),
        unknown_classes={},
        duplicates="",
        privacy={
            **asdict(promise),
            "units": len(np.unique(units)),
            "mechanism": "gradient descent on all items with Gaussian noise in each step, as one Gaussian mechanism",
            "public": PUBLIC,
            "spent": [*spent(opened.path)],
        },
    )
    pretrained = models_of({name: one for name, one in first_of(networks).items() if name in data.fingerprints})
    save_model(
        out,
        Model(
            recognizer,
            opened.encoder,
            columns[0],
            data.fingerprints,
            trained_on=frozenset(),
            report=result.as_dict(),
            pretrained=pretrained,
        ),
    )
    return result


def _units(collection: Collection, column: str, ids: Sequence[str]) -> Int[np.ndarray, " items"]:
    """Return the number of the unit of each item.

    Raises:
        LabelError: there is no such column, or an item has no value in it.
    """
    if column not in collection.columns():
        raise LabelError(f"there is no column {column!r} to tell units by; there are {', '.join(collection.columns())}")
    values = {str(row["id"]): row[column] for row in collection.items(ids=ids)}
    without = [name for name in ids if values[name] in (None, "")]
    if without:
        raise LabelError(
            f"{len(without)} of {len(ids)} items have no {column!r}, so nobody knows whom they belong to: fill it in, or leave them "
            f'out (where "{column} IS NOT NULL")'
        )
    return np.unique([str(values[name]) for name in ids], return_inverse=True)[1]
