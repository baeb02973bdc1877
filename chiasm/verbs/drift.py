"""The verb `drift`: how far the items of a collection lie from those that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chiasm import encoders
from chiasm.encoders.base import Encoder, fingerprints_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.evaluation.drift import FEWEST, Drift
from chiasm.evaluation.drift import drift as embedding_drift
from chiasm.evaluation.record import Record
from chiasm.recognition import ModalityArrays
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import embedded_items, modality_arrays
from chiasm.verbs.model import Model, load_model, reference_of
from chiasm.verbs.ranking import owner_number
from chiasm.verbs.spaces import start_of


@dataclass(frozen=True)
class DriftReport(Record):
    """New embeddings compared with those that a model was trained on."""

    items: int  # that were looked at
    modalities: dict[Modality, Drift]
    too_few: dict[Modality, int]  # number of items of the modalities that have too few to compare
    warnings: tuple[str, ...]
    sentence: str  # what it comes to


def drift(
    model: str | Path,
    collection: str | Path,
    *,
    since: bool = True,
    where: str | None = None,
    device: Device = "auto",
) -> DriftReport:
    """Measure how far the items of a collection lie from those that a model was trained on.

    Args:
        model: a folder that `fit` wrote.
        collection: the new items.
        since: only items that came after the model was fitted. What its collection had before is no news, however the items
            that were trained on were chosen from it. Otherwise all that it was not trained on.
        where: only items that meet this condition, such as those of a year.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the model keeps no embeddings to compare with, or is of another encoder.
    """
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    return collection_drift(
        load_model(Path(model)), opened, networks, start_of(opened, networks), since=since, where=where
    )


def collection_drift(
    model: Model,
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    *,
    since: bool = True,
    where: str | None = None,
) -> DriftReport:
    """Do what `drift` does, with an opened collection: measure those of its items that a model was not trained on.

    A model that was trained on the same number of items per class (shots) saw another mixture of classes than the
    collection has: without `since`, that counts as drift, too.

    Args:
        model: that keeps a reference.
        collection: embedded by the same encoders.
        networks: its encoders.
        space: its start space.
        since: see `drift`.
        where: see `drift`.

    Raises:
        ChiasmError: as `drift_of`; the model is of another encoder; or, without `since`, it was trained on all items.
    """
    model.check(fingerprints_of(networks))
    embedded = embedded_items(collection, collection.ids(where=where), model.fingerprints)
    rows = np.flatnonzero(np.any([*embedded.present.values()], axis=0))
    contents = embedded.contents(tuple(model.fingerprints), rows)
    is_old = model.left_out.knows(contents)
    if since:
        is_old |= np.isin(np.array([owner_number(one) for one in contents], dtype=np.int64), model.collected)
    rows = rows[~is_old]
    if since and not len(rows):
        nothing = "no items came after the model was fitted, so there is nothing to compare"
        return DriftReport(0, {}, dict.fromkeys(model.reference, 0), (), nothing)
    used = [modality for modality in model.fingerprints if embedded.present[modality][rows].any()]
    if not used:
        raise ChiasmError(
            f"{collection.path} has no embedded items that the model was not trained on, so there is nothing to compare"
        )
    return drift_of(model, modality_arrays(embedded, model.space or space, used, rows))


def drift_of(model: Model, incoming: ModalityArrays) -> DriftReport:
    """Compare embeddings with those that a model was trained on, by modality.

    Args:
        model: that keeps a reference, see `Model.reference`.
        incoming: embeddings of new items, as the model takes them.

    Raises:
        ChiasmError: the model keeps no reference, or has other embeddings.
    """
    if not model.reference:
        raise ChiasmError("the model keeps no embeddings to compare with: fit it again with this chiasm")
    sample = reference_of(incoming)  # rounded as the reference is, so that rounding is no difference
    modalities: dict[Modality, Drift] = {}
    too_few: dict[Modality, int] = {}
    for modality, reference in model.reference.items():
        rows = sample.get(modality, reference[:0])
        if min(len(rows), len(reference)) < FEWEST:
            too_few[modality] = min(len(rows), len(reference))
        else:
            modalities[modality] = embedding_drift(reference, rows)
    warnings = tuple(filter(None, (drift.warning(modality) for modality, drift in modalities.items())))
    if warnings:
        sentence = "the new items are unlike those that the model was trained on"
    elif modalities:
        sentence = "the new items are like those that the model was trained on"
    else:
        sentence = f"the {len(incoming)} new items are too few to compare: it takes {FEWEST}"
    return DriftReport(len(incoming), modalities, too_few, warnings, sentence)
