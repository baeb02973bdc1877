"""The verb `estimate`: what `add` would cost on this machine, from a sample of the items."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from chiasm import encoders
from chiasm.encoders.base import Encoder
from chiasm.encoders.licence import Licence
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.media.limits import Limits, limits_of
from chiasm.store.add import add_manifests
from chiasm.store.annotations import Layout
from chiasm.store.collection import FILES, Collection
from chiasm.store.ingest import file_stat
from chiasm.store.manifest import Manifest, read_manifests
from chiasm.types import Item, Outcome
from chiasm.verbs.spaces import open_table, space_of
from chiasm.verbs.status import size_of

SAMPLE = 200  # items
_ROUNDS = 4  # the sample is timed in so many parts, whose spread is the error of the estimate
_FEWEST = 20  # items of one kind in a sample, where there are as many


@dataclass(frozen=True)
class Estimate:
    """The cost of adding files."""

    items: int  # that are listed
    files: int  # of them, without those that are stored and unchanged
    stored: int  # files that are stored and unchanged
    tried: int  # files of the sample
    outcomes: dict[str, int]  # of the sample, by outcome
    seconds: float  # from the first file to the last
    error: float  # standard error of `seconds`, from the spread within the sample
    bytes: int  # that the collection takes on disk


@dataclass
class _Kind:
    """Items with the same modalities, which cost about the same."""

    items: list[tuple[Manifest, Item]]
    seconds: list[float]  # an item, by round
    bytes: float = 0.0  # an item


def estimate(
    paths: str | Path | Sequence[str | Path],
    *,
    to: str | Path | None = None,
    encoder: str | None = None,
    licence: Licence | None = None,
    layout: Layout = "auto",
    max_pixels: int | None = None,
    device: Device = "auto",
    sample: int = SAMPLE,
    seed: int = 0,
) -> Estimate:
    """Say what `add` would cost on this machine: files, seconds and bytes. Nothing is stored.

    Items are drawn at random, of each kind (what has a picture and a text, a video, ...) in proportion, and added to a collection in
    a temporary folder. The first few of each kind
    are added once before, untimed, since they pay for loading the encoders.

    Args:
        paths: folders, manifests or single media files, as for `add`.
        to: the collection that they would be added to; its files that are unchanged cost nothing.
        encoder: as in `add`.
        licence: as in `add`.
        layout: as in `add`.
        max_pixels: as in `add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        sample: items to try, at least 8.
        seed: of the sample.

    Raises:
        ManifestError: as in `add`.
        ChiasmError: the sample is too small.
    """
    if sample < 2 * _ROUNDS:
        raise ChiasmError(f"a sample has at least {2 * _ROUNDS} items; got {sample}")
    there = None if to is None or not (Path(to) / "chiasm.json").exists() else Collection.open(to)
    networks = encoders.resolve(encoder or (there.encoder if there else "offline"), licence=licence, device=device)
    manifests = read_manifests([paths] if isinstance(paths, str | Path) else paths, layout=layout)
    new, stored = _new_items(manifests, there)
    drawing = random.Random(seed)  # noqa: S311  # a sample, no secret
    kinds: dict[tuple[str, ...], _Kind] = {}
    for manifest, item in new:
        kinds.setdefault(tuple(sorted(one.modality for one in item.sources)), _Kind([], [])).items.append(
            (manifest, item)
        )
    outcomes: Counter[str] = Counter()
    for kind in kinds.values():
        share = max(_FEWEST, round(sample * len(kind.items) / len(new)))
        _try(kind, drawing.sample(kind.items, min(share, len(kind.items))), networks, limits_of(max_pixels), outcomes)
    counts = np.array([len(kind.items) for kind in kinds.values()])
    means = np.array([np.mean(kind.seconds) for kind in kinds.values()])
    errors = np.array([np.std(kind.seconds) / np.sqrt(max(1, len(kind.seconds) - 1)) for kind in kinds.values()])
    return Estimate(
        items=sum(len(manifest.items) for manifest in manifests),
        files=sum(len(item.sources) for _, item in new),
        stored=stored,
        tried=sum(outcomes.values()),
        outcomes=dict(outcomes),
        seconds=float(counts @ means) if len(new) else 0.0,
        error=float(np.sqrt(np.sum((counts * errors) ** 2))) if len(new) else 0.0,
        bytes=round(sum(len(kind.items) * kind.bytes for kind in kinds.values())),
    )


def _new_items(manifests: Sequence[Manifest], collection: Collection | None) -> tuple[list[tuple[Manifest, Item]], int]:
    """Return the items with the sources that are not stored as they are, and how many sources are."""
    known: set[tuple[str, int, int]] = set()
    if collection is not None:
        rows = collection.tables.rows(collection.generation.files, FILES, ["path", "size", "mtime_ns", "outcome"])
        good = {Outcome.OK, Outcome.DUPLICATE, Outcome.NOT_READ}
        known = {(row["path"], row["size"], row["mtime_ns"]) for row in rows.to_pylist() if row["outcome"] in good}
    items = []
    stored = 0
    for manifest in manifests:
        for item in manifest.items:
            sources = tuple(one for one in item.sources if not known or (one.path, *file_stat(one.path)) not in known)
            stored += len(item.sources) - len(sources)
            if sources:
                items.append((manifest, replace(item, sources=sources)))
    return items, stored


def _try(
    kind: _Kind,
    sample: Sequence[tuple[Manifest, Item]],
    networks: Sequence[Encoder],
    limits: Limits,
    outcomes: Counter[str],
) -> None:
    """Add a sample of one kind to a collection in a temporary folder, and keep what an item costs."""
    rounds = min(_ROUNDS, max(1, len(sample) // 2))
    with tempfile.TemporaryDirectory(prefix="chiasm-") as folder:
        loading = Collection.create(Path(folder) / "loading", encoder="sample")
        add_manifests(loading, _manifests_of(sample[: len(sample) // rounds]), networks, limits=limits)
        collection = Collection.create(Path(folder) / "sample", encoder="sample")
        for number in range(rounds):
            chosen = sample[number::rounds]
            begin = time.perf_counter()
            report = add_manifests(collection, _manifests_of(chosen), networks, limits=limits)
            kind.seconds.append((time.perf_counter() - begin) / len(chosen))
            outcomes.update(report.counts)
        if report.encoded:
            open_table(collection, space_of(collection, networks, None).space)  # which holds every vector once more
        kind.bytes = sum(map(size_of, collection.path.glob("*.lance"))) / len(sample)


def _manifests_of(sample: Sequence[tuple[Manifest, Item]]) -> list[Manifest]:
    """Return the manifests of a sample, with their items alone."""
    items: dict[str, tuple[Manifest, list[Item]]] = {}
    for manifest, item in sample:
        items.setdefault(manifest.source, (manifest, []))[1].append(item)
    return [replace(manifest, items=tuple(chosen), outcomes=()) for manifest, chosen in items.values()]
