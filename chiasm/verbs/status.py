"""The verb `status`: what a collection holds."""

from __future__ import annotations

from pathlib import Path

from chiasm.store.collection import Collection
from chiasm.verbs.search import (
    Status,
    status_of,
)


def status(collection: str | Path) -> Status:
    """What a collection holds."""
    return status_of(Collection.open(collection))
