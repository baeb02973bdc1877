"""The verbs `add` and `reembed`: files into a collection, and over to another encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from chiasm import encoders
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.licence import Licence, models_of
from chiasm.encoders.runtime import Device
from chiasm.files import is_within, real_folders
from chiasm.media.limits import limits_of
from chiasm.store.add import AddReport, add_manifests
from chiasm.store.annotations import Layout
from chiasm.store.collection import Collection
from chiasm.store.ingest import Progress
from chiasm.store.reembed import ReembedReport, reembed_collection
from chiasm.store.sources import Data, manifests_of
from chiasm.verbs.spaces import START, drop_replaced, open_table, space_of, spaces_of

OnProgress = Callable[[Progress], None]


def add(
    paths: Data,
    *,
    to: str | Path,
    encoder: str | None = None,
    licence: Licence | None = None,
    layout: Layout = "auto",
    prune: bool = False,
    max_pixels: int | None = None,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> AddReport:
    """Store and embed what folders, tables and files list.

    Args:
        paths: folders, manifests (CSV, JSONL, Parquet), shards of WebDataset (.tar) or single media files; or data in memory: a
            DataFrame, a `datasets.Dataset`, a mapping of columns to values, or a list of pictures. Its media that are in no
            file are kept in the collection's folder.
        to: the collection; made where there is none.
        encoder: `"offline"`, a hub id or a model folder. Default: the collection's, or `"offline"`.
        licence: `"permissive"` refuses encoders with a model whose licence is not known to allow any use, before it is
            downloaded.
        layout: what annotations of folders are read: `"coco"`, `"voc"`, `"yolo"`, `"labelstudio"`; `"webdataset"` unpacks its
            shards; `"auto"` takes what is there, `"folder"` none.
        prune: whether to remove items that the folders and tables do not list any more. Default: they are reported.
        max_pixels: width times height above which an image is too large. Default: 250 million. If it is named, images that
            were too large are tried again.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.

    Raises:
        ManifestError: a path does not exist, a table is wrong, or no path holds an item; nothing is stored then.
        CollectionError: the collection is of another version or encoder, or cannot be written.
    """

    @cache
    def opened() -> tuple[Collection, Sequence[Encoder]]:
        if (Path(to) / "chiasm.json").exists():
            there = Collection.create(to, encoder=encoder or Collection.open(to).encoder)
            return there, encoders.resolve(there.encoder, licence=licence, device=device)
        # The encoders first: a name that is none leaves no folder behind.
        networks = encoders.resolve(encoder or "offline", licence=licence, device=device)
        return Collection.create(to, encoder=encoder or "offline"), networks

    manifests = manifests_of(paths, lambda: opened()[0].uploads, layout=layout)
    collection, networks = opened()
    collection.record_roots(one.root for one in manifests if not is_within(one.root, [collection.uploads]))
    collection.keep_models(models_of(first_of(networks)))
    report = add_manifests(
        collection, manifests, networks, prune=prune, limits=limits_of(max_pixels), on_progress=on_progress
    )
    if prune:
        collection.drop_roots()
    folders = real_folders(path for manifest in manifests for path in manifest.paths)
    outside = sorted(folder for folder in folders if not is_within(folder, (*collection.roots, collection.uploads)))
    report = replace(report, outside=tuple(outside))
    if report.encoded:  # so that the first search does not have to
        space = space_of(collection, networks, None).space
        open_table(collection, space)
        notes = space.notes(collection.path, collection.modalities())
        report = replace(report, notes=(*report.notes, *notes))
    keep_words(collection)
    if collection.generation.since:  # tables of encoders before go some time after
        drop_replaced(collection)
    return report


def reembed(
    collection: str | Path,
    *,
    encoder: str,
    licence: Licence | None = None,
    max_pixels: int | None = None,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> ReembedReport:
    """Embed all files of a collection with another encoder, which then takes over at once.

    Until then searches, and what else reads or adds, go on with the encoder before. May be interrupted or killed at any
    point and run again. Embeddings that both encoders have in common are not computed again. Afterwards the start space of
    the new encoder answers; spaces that were learned before have to be learned again (`align`), and models fitted again.
    Where the collection has this encoder already there is nothing to do.

    Args:
        collection: the collection.
        encoder: as in `add`.
        licence: as in `add`.
        max_pixels: as in `add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.

    Raises:
        CollectionError: there is no such collection, not one file can be embedded by the new one (all
            stays as it is then), or it cannot be written.
        EncoderError: there is no such encoder.
    """
    from chiasm.store.words import FullText

    before = Collection.open(collection)
    networks = encoders.resolve(encoder, licence=licence, device=device)
    report = reembed_collection(before, encoder, networks, limits=limits_of(max_pixels), on_progress=on_progress)
    opened = Collection.open(collection)
    left = set(spaces_of(before)) - set(spaces_of(opened)) - {START}
    # From here on it is only about the first search, which would do the same.
    space = space_of(opened, networks, None).space
    open_table(opened, space)
    if FullText.open(opened) is not None:
        heard = [space.fingerprints["audio"]] if space.starts.get("audio") == "words" else []
        FullText(opened, heard=heard).update()
    drop_replaced(opened)
    spaces = tuple(name for name in spaces_of(before) if name in left)
    return replace(report, spaces=spaces, notes=space.notes(opened.path, opened.modalities()))


def keep_words(collection: Collection) -> None:
    """Bring the full text up to date, where there is one: the words of removed items go, those of new ones come."""
    from chiasm.store.words import FullText

    words = FullText.open(collection)
    if words is not None:
        words.update()
