"""The verb `status`: what a collection holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from chiasm.encoders import Encoder, resolve, uses_int8
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.evaluation.record import Record
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import Outcome
from chiasm.verbs.spaces import folder_of, load_space, spaces_of


@dataclass(frozen=True)
class Status(Record):
    """The contents of a collection."""

    path: str
    encoder: str
    items: int
    outcomes: dict[str, int]  # files by outcome
    embeddings: dict[str, int]  # files with vectors by modality
    columns: tuple[str, ...]
    spaces: tuple[str, ...]  # oldest first; the last is the one that is searched
    roots: tuple[str, ...]  # folders whose files a server gives away
    models: tuple[dict[str, Any], ...] = ()  # that the encoder runs, see `chiasm.encoders.licence.PretrainedModel`
    int8: dict[str, float] = field(
        default_factory=dict
    )  # mean cosine to float32, by modality, as measured on this machine
    notes: tuple[str, ...] = ()  # which modalities can be compared with which, where not all can


def status_of(collection: Collection, space: Space | None = None, networks: Sequence[Encoder] | None = None) -> Status:
    """Return what an opened collection holds.

    Args:
        collection: the collection.
        space: that is searched. Default: the newest.
        networks: the collection's encoders, where they are at hand.
    """
    counts: Counter[str] = Counter()
    for file in collection.files():
        if file["outcome"] in {Outcome.OK, Outcome.DUPLICATE}:
            counts[file["modality"]] += 1
    spaces = spaces_of(collection)
    if space is None and spaces:
        space = load_space(folder_of(collection, spaces[-1])).space
    return Status(
        str(collection.path),
        collection.encoder,
        collection.count(),
        collection.outcomes(),
        dict(counts),
        tuple(collection.columns()),
        spaces,
        tuple(map(str, collection.roots)),
        tuple(asdict(model) for model in collection.generation.models),
        _int8(collection.encoder, networks),
        () if space is None else space.notes(collection.path, counts),
    )


def _int8(encoder: str, networks: Sequence[Encoder] | None) -> dict[str, float]:
    """Return the cosines of an encoder in int8; none where it has not been used on this machine, or cannot be."""
    if networks is None:
        if not uses_int8(encoder):
            return {}
        try:
            networks = resolve(encoder, device="cpu")
        except (EncoderError, MissingExtraError):
            return {}
    return {modality: cosine for network in networks for modality, cosine in network.int8_cosines().items()}


def status(collection: str | Path) -> Status:
    """Return what a collection holds."""
    return status_of(Collection.open(collection))
