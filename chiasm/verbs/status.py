"""The verb `status`: what a collection holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chiasm.evaluation.record import Record
from chiasm.store.collection import Collection
from chiasm.types import Outcome
from chiasm.verbs.spaces import spaces_of


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


def status_of(collection: Collection) -> Status:
    """Return what an opened collection holds."""
    counts: Counter[str] = Counter()
    for file in collection.files():
        if file["outcome"] in {Outcome.OK, Outcome.DUPLICATE}:
            counts[file["modality"]] += 1
    return Status(
        str(collection.path),
        collection.encoder,
        collection.count(),
        collection.outcomes(),
        dict(counts),
        tuple(collection.columns()),
        spaces_of(collection),
        tuple(map(str, collection.roots)),
    )


def status(collection: str | Path) -> Status:
    """Return what a collection holds."""
    return status_of(Collection.open(collection))
