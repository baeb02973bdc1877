"""The table that a space is searched in: every vector with the columns of its item, so that Lance filters and ranks at once.

`search-DIGEST.lance` holds a row a vector, of whole files and of moments, placed in the space of that digest: all columns
of its item as `items` has them (but passages without the item's texts), and its own, whose names begin with `_`. Beside it
a pointer, `search-DIGEST.json`, names the version of the table to read and what that version was made from. `synchronise`
brings the table up to date with the collection and then replaces the pointer, so a reader sees all of an update or
nothing, and a run that is killed leaves the table as it was. A version that was opened stays as it is for at least an hour
after it was replaced.

What is left to others: what vectors mean (`chiasm.space`), searching (`chiasm.store.index`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from chiasm.files import read_record, strict_json, write_whole
from chiasm.store.collection import FILES, ITEMS, USABLE, Collection, Generation
from chiasm.store.index import ROWS_A_PARTITION
from chiasm.store.tables import (
    COMPACT_FRAGMENTS,
    GRACE_SECONDS,
    VECTOR,
    chunks,
    join_columns,
    matrix_of,
    one_of,
    vector_column,
)
from chiasm.types import MODALITIES, Modality

FORMAT_VERSION = 3
# An exact scan reads about 8 GB/s: 8 ms for 2**26 bytes, 44,000 rows of 384 dimensions. Lance's index takes as long for the
# 200 candidates of a search. More bytes than that are indexed.
EXACT_BYTES = 2**26
RETRAIN = 2.0  # the index of the vectors is made anew when the table has grown by this factor
PARTS = 8  # of the index of the vectors, which a search looks through one after the other
_BATCH = 8192  # rows that are placed and written at a time
_OWN = pa.schema(
    [
        *((name, pa.string()) for name in ("_slot", "_hash", "_modality", "_kind", "_text")),
        ("_start", pa.float64()),  # seconds, of texts characters; null: of the whole file
        ("_end", pa.float64()),
        ("_alone", pa.bool_()),
    ]
)
"""Of a row itself, and `VECTOR`. `_slot`: "image/0" for the item's first image. `_modality`: of the vector. `_kind`: of the
file, "video" also for its sound track. `_text`: the transcript, or the passage. `_alone`: see `Space.alone`."""

Place: TypeAlias = Callable[[Modality, Float[np.ndarray, "rows dim"]], Float[np.ndarray, "rows dim"]]
"""Embeddings of one modality -> unit vectors in the space."""

Alone: TypeAlias = Callable[[Modality, Float[np.ndarray, "rows dim"]], Bool[np.ndarray, " rows"]]
"""Unit vectors of one modality in the space -> whether each finds only its like."""


def synchronise(
    collection: Collection, name: str, fingerprints: Iterable[str], *, dim: int, place: Place, alone: Alone
) -> lance.LanceDataset:
    """Bring the search table of a space up to date with a collection, and open it.

    Cheap where nothing has changed: a pointer is read.

    Args:
        collection: the collection.
        name: digest of the space.
        fingerprints: of the space's encoders.
        dim: numbers a vector in the space.
        place: from embeddings to vectors of the space; called with those that the table lacks.
        alone: which vectors find only their like.

    Raises:
        CollectionError: the table cannot be written or read.
    """
    table = _Table(collection, name)
    if (current := table.pinned(collection.version)) is not None:
        return current
    with collection.tables.writing():
        version = collection.version  # before what is read below: what comes meanwhile is seen by the next run
        if (current := table.pinned(version)) is not None:  # another process did the same, and was faster
            return current
        table.update(sorted(set(fingerprints)), dim=dim, place=place, alone=alone)
        return table.publish(version)


def drop_tables(collection: Collection, keep: Iterable[str], *, unused_for: float = GRACE_SECONDS) -> tuple[str, ...]:
    """Delete the search tables of other spaces than those to keep, some time after their last change. Return their names.

    Args:
        collection: the collection.
        keep: digests of spaces.
        unused_for: seconds since the last change, or since another encoder took over: a search may be reading them.
    """
    names = {f"search-{digest}" for digest in keep}
    tables = collection.tables
    dropped = []
    with tables.writing():
        if Generation.read(collection.path).age <= unused_for:
            return ()
        for name in tables.names("search-"):
            if name not in names and tables.age(name) > unused_for:
                tables.path(name).with_suffix(".json").unlink(missing_ok=True)
                tables.drop(name)
                dropped.append(name.removeprefix("search-"))
    return tuple(dropped)


def purge_tables(collection: Collection, keep: Iterable[str]) -> None:
    """Write search tables anew, without a trace of rows that were deleted, and delete those of other spaces than these.

    Args:
        collection: the collection.
        keep: digests of spaces.
    """
    tables, names = collection.tables, {f"search-{digest}" for digest in keep}
    with tables.writing():
        for name in tables.names("search-"):
            if name in names:
                tables.rewrite(name)
                # As made from nothing known: the next search compares it with the collection.
                _Table(collection, name.removeprefix("search-")).publish(())
                tables.drop_versions(name)
            else:
                tables.path(name).with_suffix(".json").unlink(missing_ok=True)
                tables.drop(name)


class _Table:
    """The table of one space and its pointer."""

    def __init__(self, collection: Collection, name: str) -> None:
        self.collection = collection
        self.tables = collection.tables
        self.name = f"search-{name}"
        self.path = self.tables.path(self.name)
        self.pointer = self.path.with_suffix(".json")

    # ------------------------------------------------------------------------------------------------------ versions

    def read_pointer(self) -> dict[str, Any]:
        """Return the pointer's fields; none where there is no pointer, or it cannot be read: the table is then compared."""
        fields = read_record(self.pointer)
        known = fields.get("format_version") == FORMAT_VERSION
        return fields if known and {"made_from", "version", "trained", "at"} <= fields.keys() else {}

    def pinned(self, version: Sequence[int]) -> lance.LanceDataset | None:
        """Open the version that was made from a version of the collection, if there is one."""
        fields = self.read_pointer()
        if fields.get("made_from") != list(version):
            return None
        try:
            return lance.dataset(str(self.path), version=fields["version"])
        except (ValueError, OSError, KeyError):  # of a table that is damaged or gone: it is made anew
            return None

    def publish(self, version: Sequence[int]) -> lance.LanceDataset:
        """Index the newest version of the table, and let readers see it."""
        table = self.tables.open(self.name)
        assert table is not None
        before = self.read_pointer()
        self._clean(table, before)
        pa.default_memory_pool().release_unused()  # making the index takes as much again
        trained = _index(table, int(before.get("trained", 0)))
        self.tables.require_whole()
        table = lance.dataset(str(self.path))
        fields = {
            "format_version": FORMAT_VERSION,
            "made_from": list(version),
            "version": table.version,
            "trained": trained,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_whole(self.pointer, strict_json(fields))
        return table

    def _clean(self, table: lance.LanceDataset, before: dict[str, Any]) -> None:
        """Delete versions before the one that readers see, once that one is older than any reader of those before."""
        if not before:
            return
        age = (datetime.now(UTC) - datetime.fromisoformat(before["at"])).total_seconds()
        if age > GRACE_SECONDS:
            older = [one["version"] for one in table.versions() if one["version"] < before["version"]]
            if older:
                table.cleanup_old_versions(older_than=timedelta(0), versions=older)

    # ------------------------------------------------------------------------------------------------------- content

    def update(self, fingerprints: Sequence[str], *, dim: int, place: Place, alone: Alone) -> None:
        """Write rows of items that are new or have changed, delete those of items that are gone or have changed."""
        items = self.tables.rows("items", ITEMS).drop_columns(["_source"])
        files = self._files(items)
        schema = pa.schema([*items.schema, *_OWN, (VECTOR, pa.list_(pa.float32(), dim))])
        table = self.tables.open(self.name)
        if table is not None and table.schema != schema:
            table = None  # there are new columns, which may hold a value for any item
        if table is None:
            mode = "overwrite" if self.path.exists() else "create"
            table = lance.write_dataset(schema.empty_table(), str(self.path), schema=schema, mode=mode)
            fresh = files
        else:
            stale = _stale(table, items, files)
            for part in chunks(stale.to_pylist()):
                table.delete(one_of("id", part))
            stored = _keys(table.to_table(columns=["id", "_slot", "_hash"]))
            fresh = files.filter(pc.invert(pc.is_in(_keys(files), value_set=stored)))
        if fresh.num_rows:
            batches = self._batches(fingerprints, items, fresh, schema, place, alone)
            reader = pa.RecordBatchReader.from_batches(schema, batches)
            lance.write_dataset(reader, str(self.path), mode="append")
        table = lance.dataset(str(self.path))
        if len(table.get_fragments()) > COMPACT_FRAGMENTS:
            table.optimize.compact_files()

    def _files(self, items: pa.Table) -> pa.Table:
        """Id, slot, hash and modality of the files that have vectors, of items that are there."""
        columns = ["item", "slot", "hash", "modality", "outcome"]
        files = self.tables.rows(self.collection.generation.files, FILES, columns)
        usable = pc.is_in(files["outcome"], value_set=pa.array(USABLE))
        files = files.filter(pc.and_(usable, pc.is_in(files["item"], value_set=items["id"])))
        return files.select(columns[:-1]).rename_columns(["id", "_slot", "_hash", "_kind"])

    def _batches(
        self,
        fingerprints: Sequence[str],
        items: pa.Table,
        files: pa.Table,
        schema: pa.Schema,
        place: Place,
        alone: Alone,
    ) -> Iterator[pa.RecordBatch]:
        """Rows of some files, with the columns of their items."""
        item_of_file = pc.index_in(files["id"], value_set=items["id"])
        for fingerprint in fingerprints:
            source = self.tables.open(f"embeddings-{fingerprint}")
            if source is None:
                continue
            # Looked up once, and not batch by batch: Arrow makes a table of all keys for every lookup.
            names = {"item": "id", "slot": "_slot", "hash": "_hash"}
            file_of_row = pc.index_in(
                _keys(source.to_table(columns=[*names]).rename_columns(names)), value_set=_keys(files)
            ).combine_chunks()
            first = 0
            for batch in source.to_batches(batch_size=_BATCH):
                rows = pa.Table.from_batches([batch]).rename_columns(
                    ["id" if name == "item" else f"_{name}" for name in batch.schema.names]
                )
                file = file_of_row.slice(first, len(batch))
                first += len(batch)
                there = pc.is_valid(file)
                rows, file = rows.filter(there), file.filter(there)
                if not rows.num_rows:
                    continue
                vectors = matrix_of(rows[VECTOR])
                spoken = np.array(rows["_modality"].to_pylist(), dtype=str)
                placed = np.empty((len(vectors), schema.field(VECTOR).type.list_size), np.float32)
                only = np.zeros(len(vectors), bool)
                for modality in MODALITIES:
                    if (mine := spoken == modality).any():
                        placed[mine] = place(modality, vectors[mine])
                        only[mine] = alone(modality, placed[mine])
                of_item = items.take(item_of_file.take(file))
                columns = {name: of_item[name] for name in of_item.schema.names}
                columns |= {name: rows[name] for name in _OWN.names if name not in {"_kind", "_alone"}}
                columns["_kind"] = files["_kind"].take(file)
                columns["_alone"] = pa.array(only)
                columns["text"] = _without_passages(columns["text"], columns)
                columns[VECTOR] = vector_column(placed)
                yield from pa.table([columns[name] for name in schema.names], schema=schema).to_batches()


def _stale(table: lance.LanceDataset, items: pa.Table, files: pa.Table) -> pa.ChunkedArray:
    """Ids of items in the table that are gone, have other columns by now, or a file less or another."""
    stored = table.to_table(columns=[*items.schema.names, "_slot", "_hash", "_kind", "_start"])
    place = pc.index_in(stored["id"], value_set=items["id"])
    now = items.take(place)
    same = pc.and_(pc.is_valid(place), pc.is_in(_keys(stored), value_set=_keys(files)))
    for name in items.schema.names:
        kept = _without_passages(now[name], stored) if name == "text" else now[name]
        same = pc.and_(same, _equal(stored[name], kept))
    return pc.unique(stored["id"].filter(pc.invert(same)))


def _without_passages(texts: pa.ChunkedArray, rows: Any) -> pa.ChunkedArray:
    """Return the texts of items with null for passages: a long one would be kept as often as it has them."""
    keep = pc.or_(pc.is_null(rows["_start"]), pc.not_equal(rows["_kind"], "text"))
    return texts.take(pc.if_else(keep, pa.array(np.arange(len(texts))), None))


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    """Row by row; nulls equal each other, and so do NaNs."""
    if pa.types.is_list(left.type):
        left, right = (pc.binary_join(column, "\0") for column in (left, right))
    elif pa.types.is_floating(left.type):
        left, right = left.cast(pa.string()), right.cast(pa.string())
    return pc.or_(pc.fill_null(pc.equal(left, right), False), pc.and_(pc.is_null(left), pc.is_null(right)))


def _index(table: lance.LanceDataset, trained: int) -> int:
    """Index the columns and the vectors of a large table. Return the number of rows that the vectors' index was trained on.

    Rows that came since the last time become a part of the index of their own, in the same partitions, until there are
    `PARTS` or it has to be trained anew. Lance's own choice for `optimize_indices` is to put them into one part and to join
    partitions up to 32,768 rows, which makes a search look at thirty times as many.
    """
    count = table.count_rows()
    if count * table.schema.field(VECTOR).type.list_size * 4 <= EXACT_BYTES:
        return trained
    known = {index.field_names[0]: index for index in table.describe_indices()}
    if VECTOR not in known or count > RETRAIN * trained:
        partitions = max(1, round(count / ROWS_A_PARTITION))
        table.create_index(VECTOR, "IVF_SQ", metric="cosine", num_partitions=partitions, replace=True)
        trained = count
    else:
        parts = len(known[VECTOR].segments)
        merge = parts if parts >= PARTS else 0
        table.optimize.optimize_indices(index_names=[known[VECTOR].name], num_indices_to_merge=merge)
    for field in table.schema:
        if field.name in known and field.name != VECTOR:
            table.optimize.optimize_indices(index_names=[known[field.name].name])
        elif not pa.types.is_nested(field.type) and field.name not in ("_hash", "_text", "_end"):
            kind: Literal["BITMAP", "BTREE"] = "BITMAP" if field.name in ("_modality", "_kind", "_alone") else "BTREE"
            table.create_scalar_index(field.name, kind)
    return trained


def _keys(rows: pa.Table) -> pa.ChunkedArray:
    return join_columns(rows, ("id", "_slot", "_hash"))
