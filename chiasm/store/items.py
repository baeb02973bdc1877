"""Items of manifests into the table of a collection: their ids, the types of their columns, and what moved or is gone.

A file is one item, whichever folders that hold it are added. An item whose files are found again under other names has
moved: its row, its embeddings and what people said about it follow. Reading folders and tables is in
`chiasm.store.manifest`, embedding in `chiasm.store.ingest`.
"""

from __future__ import annotations

import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from chiasm.errors import CollectionError
from chiasm.files import digest_file
from chiasm.store.collection import FILES, ITEMS, Collection
from chiasm.store.feedback import FeedbackTable
from chiasm.store.ingest import file_stat, name_items
from chiasm.store.manifest import Manifest
from chiasm.store.rows import TABLES
from chiasm.store.values import ColumnKind, as_kind, joint_kind, kind_of, utc
from chiasm.types import MODALITIES, Item, Outcome, Scalar, Source

_ARROW: dict[ColumnKind, pa.DataType] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}
_KINDS = {arrow: kind for kind, arrow in _ARROW.items()}

_Rows = dict[str, dict[str, Any]]  # of the table, by id
_Named = dict[str, tuple[Item, str]]  # items with their source, by id


@dataclass(frozen=True)
class StoredItems:
    """The items of manifests as a collection has them by now."""

    items: dict[str, Item]  # by the ids that they have in the collection
    moved: dict[str, str]  # id before -> id now, of items whose files or folders have other names by now
    gone: tuple[str, ...]  # ids of items that the folders and tables do not list any more


def store_items(collection: Collection, manifests: Sequence[Manifest]) -> StoredItems:
    """Write new, changed and moved items.

    Raises:
        CollectionError: a column cannot be stored; or as `Collection.committing`.
    """
    version, stored = collection.tables.version("items"), _read(collection)
    own, _, _ = _told_apart(manifests, stored)
    first = name_items(own, _sources(stored))
    # Before the lock is taken, since files have to be read for it.
    found = _found_again(collection, {name: one for name, one in first.items() if name not in stored}, stored, first)
    with collection.committing():
        if collection.tables.version("items") != version:  # another process has added meanwhile
            stored = _read(collection)
        own, covered, taken = _told_apart(manifests, stored)
        before = {name: item for name, item in (taken | found).items() if name in stored}
        named = name_items(own, {name: source for name, source in _sources(stored).items() if name not in before})
        now = {id(item): name for name, (item, _) in named.items()}
        moved = {name: now[id(item)] for name, item in before.items() if id(item) in now}
        named = covered | named
        _write(collection, manifests, stored, named, {old: new for old, new in moved.items() if old != new})
    gone = _gone(manifests, {name: row for name, row in stored.items() if name not in moved and name not in named})
    return StoredItems({name: item for name, (item, _) in named.items()}, moved, gone)


def _sources(stored: _Rows) -> dict[str, str]:
    return {name: row["_source"] for name, row in stored.items()}


def _read(collection: Collection) -> _Rows:
    return {row["id"]: row for row in collection.tables.rows("items", ITEMS).to_pylist()}


# ----------------------------------------------------------------------------------------------------------- names


def _told_apart(manifests: Sequence[Manifest], stored: _Rows) -> tuple[list[Manifest], _Named, dict[str, Item]]:
    """Tell apart items of which a folder and one inside of it both know; the wider folder has them.

    Returns:
        The manifests without the items that others have; these as they are stored; and by their ids, stored items of
        narrower folders, with the item of the wider one that takes their place.
    """
    places = [manifest.source for manifest in manifests if not _is_table(manifest.source)]
    near = {source for source in set(_sources(stored).values()) if any(_are_near(source, place) for place in places)}
    owners: dict[str, tuple[str, str]] = {}  # path -> id and source
    for name, row in stored.items():
        if row["_source"] in near and not _is_table(row["_source"]):
            owners |= dict.fromkeys(_paths(row), (name, row["_source"]))
    wider: dict[str, list[str]] = {}  # path -> folders of this run that list it
    for manifest in manifests:
        if not _is_table(manifest.source):
            for item in manifest.items:
                for path in _item_paths(item):
                    wider.setdefault(path, []).append(manifest.source)
    own: list[Manifest] = []
    covered: _Named = {}
    taken: dict[str, Item] = {}
    for manifest in manifests:
        kept = []
        for item in manifest.items:
            paths = [] if _is_table(manifest.source) else _item_paths(item)
            if any(_is_inside(manifest.source, other) for path in paths[:1] for other in wider[path]):
                continue
            known = {owners[path] for path in paths if path in owners}
            is_file = manifest.source in paths  # its item may have other files, which are not named now
            wide = next((one for one in known if is_file or _is_inside(manifest.source, one[1])), None)
            if wide is not None:
                covered[wide[0]] = (_as_stored(stored[wide[0]], item, manifest.source), wide[1])
                continue
            taken |= dict.fromkeys((name for name, source in known if _is_inside(source, manifest.source)), item)
            kept.append(item)
        own.append(replace(manifest, items=tuple(kept)))
    return own, covered, taken


def _found_again(collection: Collection, new: _Named, stored: _Rows, listed: Container[str]) -> dict[str, Item]:
    """Return new items by the id of one that is stored and whose files, now missing, have the same contents."""
    if not new:
        return {}
    sizes = {id(item): [file_stat(path)[0] for path in _item_paths(item)] for item, _ in new.values()}
    wanted = pa.array({size for of_item in sizes.values() for size in of_item if size}, pa.int64())
    files = collection.tables.rows(collection.generation.files, FILES, ["item", "path", "size", "hash"])
    alike = files.filter(pc.and_(pc.is_in(files["size"], value_set=wanted), pc.is_valid(files["path"])))
    lost = [name for name in pc.unique(alike["item"]).to_pylist() if name in stored and name not in listed]
    lost = [name for name in lost if _is_lost(stored[name], {source for _, source in new.values()})]
    if not lost:
        return {}
    contents: dict[str, list[tuple[str, int]]] = {}
    of_lost = files.filter(pc.and_(pc.is_in(files["item"], value_set=pa.array(lost)), pc.is_valid(files["path"])))
    for row in of_lost.to_pylist():
        contents.setdefault(row["item"], []).append((row["hash"], row["size"]))
    waiting: dict[tuple[str, ...], list[str]] = {}
    for name in lost:
        if all(digest for digest, _ in contents[name]):
            waiting.setdefault(tuple(sorted(digest for digest, _ in contents[name])), []).append(name)
    known = {tuple(sorted(size for _, size in contents[name])) for names in waiting.values() for name in names}
    moves: dict[str, Item] = {}
    for item, _ in new.values():
        of_item = sizes[id(item)]
        if not of_item or None in of_item or tuple(sorted(size or 0 for size in of_item)) not in known:
            continue
        try:
            names = waiting.get(tuple(sorted(digest_file(path) for path in _item_paths(item))))
        except OSError:  # it is an outcome when it is opened
            continue
        if names:
            last = item.id.rpartition("/")[2]
            name = next((one for one in names if one.rpartition("/")[2] == last), names[0])
            names.remove(name)
            moves[name] = item
    return moves


def _is_lost(row: Mapping[str, Any], sources: set[str]) -> bool:
    """Return whether all files of an item are missing, and nothing says that only their disk or their table is."""
    paths, source = _paths(row), row["_source"]
    if source not in sources and (_is_table(source) or not Path(source).parent.is_dir()):
        return False
    return bool(paths) and all(map(_is_missing, paths))


def _gone(manifests: Sequence[Manifest], others: _Rows) -> tuple[str, ...]:
    """Return the ids of stored items that the manifests of this run would list if they were still there.

    Rows that are missing from a table, unless rows of it cannot be read, and files that are missing from a folder.
    """
    whole = [one for one in manifests if not any(row.outcome is Outcome.BROKEN for row in one.outcomes)]
    tables = {manifest.source for manifest in whole if _is_table(manifest.source)}
    folders = {one.source for one in manifests if not _is_table(one.source) and Path(one.source).is_dir()}
    if not tables and not folders:
        return ()

    def is_gone(row: Mapping[str, Any]) -> bool:
        if _is_table(row["_source"]):
            return row["_source"] in tables
        paths = _paths(row)
        is_below = row["_source"] in folders or any(_is_inside(path, one) for path in paths[:1] for one in folders)
        return is_below and bool(paths) and all(map(_is_missing, paths))

    return tuple(sorted(name for name, row in others.items() if is_gone(row)))


def _is_missing(path: str) -> bool:
    """Return whether a file is not there; one that nobody can know about, since a folder is shut, is not missing."""
    try:
        os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _is_table(source: str) -> bool:
    return Path(source).suffix.lower() in TABLES


def _are_near(source: str, other: str) -> bool:
    """Return whether folders or files may have a file in common."""
    return (
        _is_inside(f"{source}/", other)
        or _is_inside(other, source)
        or os.path.splitext(source)[0] == os.path.splitext(other)[0]  # noqa: PTH122
    )


def _is_inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _item_paths(item: Item) -> list[str]:
    return [source.path for source in item.sources if source.path is not None]


def _paths(row: Mapping[str, Any]) -> list[str]:
    """Return the files of an item that is stored; a text is one where it lies in the folder or is called as the file."""
    source = row["_source"]
    stem = os.path.splitext(source)[0] + "."  # noqa: PTH122
    texts = [text for text in row["text"] or () if text.startswith(stem) or _is_inside(text, source)]
    return [path for name in MODALITIES if name != "text" for path in row[name] or ()] + texts


def _as_stored(row: Mapping[str, Any], item: Item, source: str) -> Item:
    """Return an item of a wider folder with the files that it has now in a narrower one, or as a single file."""
    now = {one.path: one for one in item.sources if one.path is not None}
    files = set(_paths(row))
    sources: list[Source] = []
    for name in MODALITIES:
        for value in row[name] or ():
            if value in now:
                sources.append(now.pop(value))
            elif value not in files:
                sources.append(Source(name, text=value))
            elif not _is_inside(value, source):
                sources.append(Source(name, path=value))
    metadata: dict[str, Scalar] = {name: value for name, value in row.items() if name not in ITEMS.names}
    return Item(row["id"], (*sources, *now.values()), metadata)


# ----------------------------------------------------------------------------------------------------------- table


def _write(
    collection: Collection, manifests: Sequence[Manifest], stored: _Rows, named: _Named, renamed: Mapping[str, str]
) -> None:
    """Write rows that are new or have changed, with the lock held.

    What people said about an item that moved is the first to go to its new id, where it waits for it, and the row before is
    deleted before the new one comes: a run that is killed at any point ends as one that was not.
    """
    tables = collection.tables
    table = tables.open("items")
    before = ITEMS if table is None else table.schema
    kept = {name: row for name, row in stored.items() if name not in named and name not in renamed}
    schema = _schema(before, manifests, kept, named)
    rows = {name: _row(name, item, source, schema) for name, (item, source) in named.items()}
    if renamed:
        FeedbackTable(collection).rename(renamed)
        tables.delete(collection.generation.files, ["item"], sorted(renamed))
        tables.delete("items", ["id"], sorted(renamed))
    new = [row for name, row in rows.items() if name not in stored or name in renamed]
    if any(schema.field(field.name) != field for field in before):
        there = [rows.get(name) or _as_columns(row, schema) for name, row in stored.items() if name not in renamed]
        every = pa.Table.from_pylist(there + new, schema=schema)
        lance.write_dataset(every, str(tables.path("items")), mode="overwrite")
        return
    if table is not None and schema != before:
        current = tables.open("items")
        assert current is not None
        current.add_columns([field for field in schema if field.name not in before.names])
    changed = [
        row
        for name, row in rows.items()
        if name in stored and name not in renamed and _as_columns(stored[name], schema) != row
    ]
    if new:  # appended, since merging would not keep the order
        tables.append("items", pa.Table.from_pylist(new, schema=schema))
    if changed:
        tables.merge("items", ["id"], pa.Table.from_pylist(changed, schema=schema))


def _schema(before: pa.Schema, manifests: Sequence[Manifest], kept: _Rows, named: _Named) -> pa.Schema:
    """Return the columns of the table, each of a type that holds the values that stay and those that come.

    A column keeps its type where that holds the new values; with no value left it takes theirs.
    """
    kinds: dict[str, ColumnKind] = {f.name: _KINDS[f.type] for f in before if f.name not in ITEMS.names}
    stored = set(kinds)
    for manifest in manifests:
        for column, kind in manifest.columns.items():
            if column not in kinds and set(column) & set(".`"):
                raise CollectionError(
                    f"the column {column!r} of {manifest.source} cannot be stored: its name has a dot or a backtick in "
                    "it. Rename it"
                )
            kinds.setdefault(column, kind)
    for column, kind in kinds.items():
        new = [value for item, _ in named.values() if (value := item.metadata.get(column)) is not None]
        if column in stored and {kind_of(value) for value in new} <= {kind}:
            continue
        values = new + [value for row in kept.values() if (value := row.get(column)) is not None]
        if values:
            kinds[column] = joint_kind({kind_of(value) for value in values}, values)
    return pa.schema(
        [*(before.field(name) for name in ITEMS.names), *(pa.field(name, _ARROW[kind]) for name, kind in kinds.items())]
    )


def _row(name: str, item: Item, source: str, schema: pa.Schema) -> dict[str, Any]:
    """Return an item as the table gives it back."""
    row: dict[str, Any] = {"id": name, "_source": source}
    for modality in MODALITIES:
        values = [s.path if s.path is not None else s.text for s in item.sources if s.modality == modality]
        row[modality] = values or None
    return _as_columns(row | {n: value for n, value in item.metadata.items() if n not in row}, schema)


def _as_columns(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Return a row with all columns of the table, its metadata in the types of these."""
    result = {}
    for column in schema:
        value = row.get(column.name)
        if column.name not in ITEMS.names and value is not None:
            value = as_kind(value, _KINDS[column.type])
            if isinstance(value, datetime) and value.tzinfo is not None:
                moment = utc(value)
                value = None if moment is None else moment.replace(tzinfo=None)
        result[column.name] = value
    return result
