"""The verb `status`: what a collection holds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from chiasm.encoders import Encoder, resolve, uses_int8
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.evaluation.record import Record
from chiasm.privacy import spent
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.verbs.spaces import START, folder_of, load_space, spaces_of


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
    size: int = 0  # bytes of the collection's folder
    changed: str = ""  # what changed last, and when
    advice: str = ""  # what to do next, as a command
    private: tuple[str, ...] = ()  # what was released of it with differential privacy, in sentences


def status_of(collection: Collection, space: Space | None = None, networks: Sequence[Encoder] | None = None) -> Status:
    """Return what an opened collection holds.

    Args:
        collection: the collection.
        space: that is searched. Default: the newest.
        networks: the collection's encoders, where they are at hand.
    """
    counts = collection.embedded()
    spaces = spaces_of(collection)
    if space is None and spaces:
        space = load_space(folder_of(collection, spaces[-1])).space
    return Status(
        str(collection.path),
        collection.encoder,
        collection.count(),
        collection.outcomes(),
        counts,
        tuple(collection.columns()),
        spaces,
        tuple(map(str, collection.roots)),
        tuple(asdict(model) for model in collection.generation.models),
        _int8(collection.encoder, networks),
        () if space is None else space.notes(collection.path, counts),
        size_of(collection.path),
        _changed(collection.path),
        _advice(collection, spaces),
        spent(collection.path),
    )


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder; one that goes meanwhile counts nothing."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _changed(folder: Path) -> str:
    """Return what of a collection was written last, and when, in local time."""
    parts = {"items": "items.lance", "files": "files.lance", "labels and thumbs": "feedback.sqlite"}
    known = {name: folder / part for name, part in parts.items()}
    known |= {f"space {path.name!r}": path for path in (folder / "spaces").glob("*") if path.name != START}
    times = {}
    for name, path in known.items():
        with suppress(OSError):
            times[name] = max(one.stat().st_mtime for one in (path, *path.glob("*")))
    if not times:
        return "nothing yet"
    name = max(times, key=lambda one: times[one])
    return f"{name}, {datetime.fromtimestamp(times[name]).astimezone():%Y-%m-%d %H:%M}"


def _advice(collection: Collection, spaces: Sequence[str]) -> str:
    path = collection.path
    if not collection.count():
        return f"chiasm add FOLDER --to {path}"
    if all(name == START for name in spaces) and len(collection.modalities()) > 1:
        return f"chiasm align {path}, so that hits have a probability"
    if columns := [name for name in collection.columns() if name != "folder"]:
        return f"chiasm fit {path} --label {columns[0]} --out MODEL, or chiasm serve {path}"
    return f'chiasm search {path} "...", or chiasm serve {path}'


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
