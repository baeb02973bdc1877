"""From whatever people name or hold to manifests: paths, shards of WebDataset, and data in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from chiasm.errors import ManifestError
from chiasm.files import is_within, names_in
from chiasm.store.annotations import Layout
from chiasm.store.frames import are_paths, write_frame
from chiasm.store.manifest import Manifest, read_manifest, read_manifests
from chiasm.store.tars import is_shard, unpack
from chiasm.types import MODALITIES, Item

Data: TypeAlias = Any
"""Folders, tables and files by their paths, or data in memory (`chiasm.store.frames`)."""


def manifests_of(data: Data, room: Callable[[], Path], *, layout: Layout = "auto") -> list[Manifest]:
    """Return what data list.

    Args:
        data: the data.
        room: called for the folder to write into what is in no file of its own, as soon as there is any.
        layout: see `chiasm.store.annotations.Layout`.

    Raises:
        ManifestError: as `read_manifests`, `write_frame` and `unpack`.
    """
    if not are_paths(data):
        table, outcomes = write_frame(data, room)
        manifest = read_manifest(table)
        return [replace(manifest, outcomes=(*manifest.outcomes, *outcomes))]
    paths: Sequence[str | Path] = [Path(data)] if isinstance(data, str | os.PathLike) else data
    plain: list[str | Path] = []
    shards: list[Path] = []
    for path in paths:
        own = _shards(Path(path).expanduser(), layout)
        shards += own
        if not own:
            plain.append(path)
    manifests = read_manifests(plain, layout=layout) if plain or not shards else []
    for shard in shards:
        unpacked = unpack(shard, room())
        manifest = read_manifest(unpacked.folder, layout="folder")
        manifests.append(replace(manifest, outcomes=(*manifest.outcomes, *unpacked.outcomes)))
    return manifests


def _shards(path: Path, layout: Layout) -> list[Path]:
    """Return the shards that a path names: itself, or those of a folder that is said to hold them, or holds little else."""
    if is_shard(path) and path.is_file():
        return [path]
    if layout not in ("auto", "webdataset") or not path.is_dir():
        return []
    names = names_in(path)
    shards = [path / name for name in names if is_shard(name) and (path / name).is_file()]
    if layout == "webdataset" and not shards:
        raise ManifestError(str(path), "the layout webdataset was asked for, and the folder has no .tar")
    others = [name for name in names if not is_shard(name) and not name.endswith((".json", ".txt", ".md"))]
    return shards if layout == "webdataset" or not others else []


def shown_as(item: Item, room: str) -> str | None:
    """Return the first file of an item, or its text; None of what was in memory, whose file is in the room."""
    media = [source for modality in MODALITIES for source in item.sources if source.modality == modality]
    path = (media[0].path or media[0].text) if media else None
    return None if path is None or is_within(path, [room]) else path
