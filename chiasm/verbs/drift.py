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

    modalities: dict[Modality, Drift]
    too_few: dict[Modality, int]  # number of items of the modalities that have too few to compare
    warnings: tuple[str, ...]


def drift(
    model: str | Path, collection: str | Path, *, where: str | None = None, device: Device = "auto"
) -> DriftReport:
    """Measure how far the items of a collection lie from those that a model was trained on.

    Args:
        model: a folder that `fit` wrote.
        collection: the new items.
        where: only items that meet this condition, such as those that were added last.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the model keeps no embeddings to compare with, or is of another encoder.
    """
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    return collection_drift(load_model(Path(model)), opened, networks, start_of(opened, networks), where=where)


def collection_drift(
    model: Model,
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    *,
    where: str | None = None,
    since: bool = False,
) -> DriftReport:
    """Measure the drift of those items of a collection that a model was not trained on.

    A model that was trained on the same number of items per class (shots) saw another mixture of classes than the
    collection has: that counts as drift, too.

    Args:
        model: that keeps a reference.
        collection: embedded by the same encoders.
        networks: its encoders.
        space: its start space.
        where: only items that meet this condition, such as the newest.
        since: only items that came after the model was fitted, if any. What the collection had before is no news, however
            the items that were trained on were chosen from it.

    Raises:
        ChiasmError: as `drift_of`; the model is of another encoder; or it was trained on all items.
    """
    model.check(fingerprints_of(networks))
    ids = [item for item in collection.ids(where=where) if item not in model.trained_on]
    if since:
        numbers = np.array([owner_number(item) for item in ids], dtype=np.int64)
        ids = [ids[row] for row in np.flatnonzero(~np.isin(numbers, model.collected))]
        if not ids:
            return DriftReport({}, dict.fromkeys(model.reference, 0), ())
    embedded = embedded_items(collection, ids, model.fingerprints)
    used = [modality for modality in model.fingerprints if embedded.present[modality].any()]
    if not used:
        raise ChiasmError(
            f"{collection.path} has no embedded items that the model was not trained on, so there is nothing to compare"
        )
    return drift_of(model, modality_arrays(embedded, model.space or space, used))


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
    warnings = [drift.warning(modality) for modality, drift in modalities.items()]
    return DriftReport(modalities, too_few, tuple(warning for warning in warnings if warning is not None))
