"""The verb `drift`: whether embeddings that come in are still like those that a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chiasm import encoders
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.evaluation.drift import FEWEST, Drift
from chiasm.evaluation.drift import drift as embedding_drift
from chiasm.recognition import ModalityArrays
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import embedded_items, fingerprints_of, modality_arrays
from chiasm.verbs.model import Model, embeddings_of, load_model, reference_of
from chiasm.verbs.spaces import start_of


@dataclass(frozen=True)
class DriftReport:
    """Embeddings that came in against those that a model learned from."""

    modalities: dict[Modality, Drift]
    too_few: dict[Modality, int]  # items of modalities that have fewer than can be compared
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)


def drift(
    model: str | Path, collection: str | Path, *, where: str | None = None, device: Device = "auto"
) -> DriftReport:
    """How far the items of a collection lie from those that a model learned from.

    Args:
        model: a folder that `fit` wrote.
        collection: the items that come in.
        where: only items that meet this SQL condition, such as those that were added last.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the model keeps no embeddings to compare with, or is of another encoder.
    """
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    return collection_drift(load_model(Path(model)), opened, networks, start_of(opened, networks), where=where)


def drift_of(model: Model, incoming: ModalityArrays, *, seed: int = 0) -> DriftReport:
    """Whether embeddings still are like those that a model learned from, by modality.

    Args:
        model: that keeps a reference, see `Model.reference`.
        incoming: embeddings as the model is asked with, e.g. of the last few hundred items.
        seed: of the draws.

    Raises:
        ChiasmError: the model keeps no reference, or has other embeddings.
    """
    if not model.reference:
        raise ChiasmError("the model keeps no embeddings to compare with: fit it again with this chiasm")
    found: dict[Modality, Drift] = {}
    too_few: dict[Modality, int] = {}
    warnings = []
    for modality, reference in model.reference.items():
        rows = embeddings_of(incoming, modality) if modality in incoming.modalities else reference[:0]
        if min(len(rows), len(reference)) < FEWEST:
            too_few[modality] = min(len(rows), len(reference))
            continue
        # Rounded as the reference is, so that rounding is no difference.
        found[modality] = embedding_drift(
            reference, reference_of(incoming.only((modality,)), seed=seed)[modality], seed=seed
        )
        warning = found[modality].warning(modality)
        if warning is not None:
            warnings.append(warning)
    return DriftReport(found, too_few, tuple(warnings))


def collection_drift(
    model: Model,
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    *,
    where: str | None = None,
    seed: int = 0,
) -> DriftReport:
    """The drift of the items of a collection that a model did not learn from.

    A model that learned from so many items of every class (shots) has seen another mixture of classes than what comes in:
    that counts as drift, too.

    Args:
        model: that keeps a reference.
        collection: embedded by the same encoders.
        networks: its encoders.
        space: in which nothing was learned.
        where: only items that meet this SQL condition, such as the newest.
        seed: of the draws.

    Raises:
        ChiasmError: as `drift_of`; the model is of another encoder; or all items are ones that it learned from.
    """
    model.check(fingerprints_of(networks))
    ids = [str(row["id"]) for row in collection.items(where=where)]
    ids = [item for item in ids if item not in model.trained_on]
    found = embedded_items(collection, ids, model.fingerprints)
    used = [modality for modality in model.fingerprints if found.present[modality].any()]
    if not used:
        raise ChiasmError(
            f"{collection.path} has no items with embeddings that the model did not learn from: there is nothing that came in"
        )
    return drift_of(model, modality_arrays(found, space, used), seed=seed)
