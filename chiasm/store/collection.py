"""A collection: items, what happened to their files, and their embeddings, in one folder on disk.

The folder holds `chiasm.json` (format, version, encoder, see `Generation`) and Lance tables, each made when something is written to it:
`items` (a row an item), `files` (a row a file, with its outcome), `embeddings-FINGERPRINT` (one an encoder) and
`mapped-NAME` (embeddings after a map). A vector belongs to a content: its key is item, slot and content hash, and it
counts while `files` has that key. A content has one vector of the whole, without start and end, and any number of
moments, which stand in the same table, those of a video's sound track in the table of the encoder that heard it. All
rows of a key in a table are committed together, and the whole after everything else. Vectors are committed before the rows of `files` that point to them, and deleted
after. So a run that is killed at any point is continued by the next one and nothing is embedded twice, and a reader
sees every file with its old vector or its new one. Writers hold a file lock for each commit, not for the run; readers
need none.

Another encoder takes over (`reembed`) in a table of files of its own, beside the one that counts. `chiasm.json` says
which one that is, so replacing it is the switch: until then readers see nothing new, from then on nothing old.

What is left to others: reading folders and tables (`manifest`), opening files (`media`), what embeddings mean together
(`space`).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from jaxtyping import Float, Int

from chiasm import __version__, media
from chiasm.encoders.base import Encoder, Moments, Prepared
from chiasm.encoders.cache import temporary_of
from chiasm.errors import CollectionError, EncoderError, MediaError
from chiasm.media import Limits
from chiasm.media.text import read as read_text
from chiasm.store.manifest import Manifest
from chiasm.types import MODALITIES, Audio, FileOutcome, Item, Media, Modality, Outcome, Source, Video

FORMAT = "chiasm-collection"
FORMAT_VERSION = 2

COMMIT_ROWS = 2048
COMMIT_SECONDS = 5.0
GRACE_SECONDS = 3600.0  # for which tables that were replaced stay, for readers that have not seen it
COMPACT_FRAGMENTS = 32  # more fragments than this after a run are merged: each costs an open file when searching
READ_AHEAD_BYTES = 2**27  # in memory, of files that are opened, and of each batch: but one file may be larger
READERS = 16  # at most; each may hold one large medium while it opens it

_USABLE = (Outcome.OK.value, Outcome.DUPLICATE.value)
_KEY = ("item", "slot", "hash")
_LISTED = 4096  # values in one SQL condition
_GROWTH: dict[Modality, int] = {"audio": 8, "video": 2}  # bytes in memory for one on disk, until they are known
_ITEMS = pa.schema(
    [("id", pa.string()), ("_source", pa.string()), *((name, pa.list_(pa.string())) for name in MODALITIES)]
)
_FILES = pa.schema(
    [
        ("item", pa.string()),
        ("slot", pa.string()),  # "image/0": the item's first image, as the manifest has it
        ("modality", pa.string()),  # what the content is; of files that cannot be opened, what the manifest says
        ("path", pa.string()),  # null where the text stands in the manifest
        ("size", pa.int64()),  # null where there is no file, or it could not be read
        ("mtime_ns", pa.int64()),
        ("hash", pa.string()),  # of the content; empty where it was not read
        ("encoder", pa.string()),  # fingerprint of the one that took it; empty: none takes it; null: cannot be opened
        ("outcome", pa.string()),
        ("reason", pa.string()),
    ]
)
_VECTORS = pa.schema(  # and "vector"
    [
        *((name, pa.string()) for name in ("item", "slot", "modality", "hash", "text", "language")),
        ("start", pa.float64()),  # seconds; null: of the whole content
        ("end", pa.float64()),
    ]
)
_TABLE = re.compile(r"(?:files|embeddings)(?:-\w+)*")
_TEXT_FILES = (".txt", ".text", ".md", ".rst")  # of folders; in a table only the first is a path

_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us"),
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Progress:
    """Where a run of `add` is, in files that were not stored before it."""

    done: int
    total: int
    failed: int  # of those that are done, neither ok nor duplicate


@dataclass(frozen=True)
class AddReport:
    """What a run of `add` found and did."""

    items: int  # in the collection, after the run
    counts: dict[str, int]  # files of this run's manifests by outcome, stored earlier or now
    outcomes: tuple[FileOutcome, ...]  # those that are not ok, with reasons
    encoded: int  # embeddings computed in this run
    unchanged: int  # files that were stored already and were not opened
    seconds: float


@dataclass(frozen=True)
class ReembedReport:
    """What a run of `reembed` found and did. Files are those of the whole collection."""

    before: str  # the encoder that was replaced
    encoder: str  # the one that took over
    items: int
    counts: dict[str, int]  # files by outcome
    outcomes: tuple[FileOutcome, ...]  # those that are not ok, with reasons
    encoded: int  # embeddings computed in this run
    reused: int  # files whose embedding was there: of the same encoder, of a run that was cut off, of equal content
    lost: int  # files that had an embedding and have none now
    not_taken: dict[Modality, int]  # files that no network of the encoder takes, by modality
    seconds: float
    spaces: tuple[str, ...] = ()  # learned with the encoder before, and not in use any more

    def as_dict(self) -> dict[str, Any]:
        """For JSON: outcomes as `chiasm add` gives them."""
        outcomes = [{"path": one.path, "outcome": one.outcome.value, "reason": one.reason} for one in self.outcomes]
        return {**asdict(self), "outcomes": outcomes, "spaces": list(self.spaces)}


@dataclass(frozen=True)
class Generation:
    """Which tables of a collection count. Replaced as one, when another encoder takes over."""

    encoder: str
    number: int = 0  # how often an encoder was replaced
    files: str = "files"  # the table with the outcomes of this encoder
    since: str = ""  # UTC in ISO 8601, when it took over; empty of the first
    fingerprints: Mapping[Modality, str] = field(default_factory=dict)  # at that time, by modality; empty of the first
    replaced: tuple[str, ...] = ()  # tables of encoders before; nothing but readers that are late looks at them

    @property
    def age(self) -> float:
        """Seconds since it took over; of the first one infinite."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds() if self.since else math.inf


@dataclass(frozen=True)
class Vectors:
    """Embeddings with what they belong to, row by row: of a file the whole and, where they were asked for, moments."""

    items: tuple[str, ...]
    slots: tuple[str, ...]  # "image/0": the item's first image, as the manifest has it
    modalities: tuple[Modality, ...]  # what the row is of: "audio" where it is the sound track of a video
    hashes: tuple[str, ...]  # equal for equal content
    texts: tuple[str | None, ...]  # transcripts, see `Embeddings.texts`
    vectors: Float[np.ndarray, "rows dim"]
    languages: tuple[str | None, ...]  # that are spoken, where they are known
    starts: Float[np.ndarray, " rows"]  # of moments in seconds, float64; NaN: of the whole content
    ends: Float[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Vectors:
        """Some of the rows, by number."""
        chosen = rows.tolist()

        def pick(column: tuple[_T, ...]) -> tuple[_T, ...]:
            return tuple(column[row] for row in chosen)

        return Vectors(
            pick(self.items),
            pick(self.slots),
            pick(self.modalities),
            pick(self.hashes),
            pick(self.texts),
            self.vectors[rows],
            pick(self.languages),
            self.starts[rows],
            self.ends[rows],
        )

    def whole(self) -> Vectors:
        """The rows of whole files: one a file."""
        return self.take(np.flatnonzero(np.isnan(self.starts)))


class Collection:
    """A folder with items and their embeddings. Make one with `create`, open one with `open`.

    It sees the tables that counted when it was opened, also after another encoder has taken over (`reembed`): for an hour
    these stay. `open` again sees the new ones.

    Args:
        path: the folder.
        encoder: its name.
        generation: which tables count. Default: those that do by now.
    """

    def __init__(self, path: Path, encoder: str, generation: Generation | None = None) -> None:
        self.path = path
        self.encoder = encoder
        self.generation = _header_of(path) if generation is None else generation
        self._replaces: Generation | None = None  # until this one counts

    # ------------------------------------------------------------------------------------------- open and make

    @classmethod
    def create(cls, path: str | Path, *, encoder: str) -> Collection:
        """Make an empty collection, or open the one that is there.

        Raises:
            CollectionError: the folder is not empty and not a collection, was made with another encoder, or cannot be
                made.
        """
        folder = Path(path).expanduser().absolute()
        header = folder / "chiasm.json"
        if not header.exists():
            _make(folder, {"format": FORMAT, "format_version": FORMAT_VERSION, "encoder": encoder, "by": __version__})
        found = cls.open(folder)
        if found.encoder != encoder:
            raise CollectionError(
                f"{folder} was made with the encoder {found.encoder!r}; embeddings of {encoder!r} cannot be mixed in. "
                f"Add with --encoder {found.encoder}, name another collection, or move this one over: chiasm reembed"
            )
        return found

    @classmethod
    def open(cls, path: str | Path) -> Collection:
        """Open a collection.

        Raises:
            CollectionError: there is none, its `chiasm.json` is damaged, or it is of another format version.
        """
        folder = Path(path).expanduser().absolute()
        generation = _header_of(folder, given=path)
        return cls(folder, generation.encoder, generation)

    # ---------------------------------------------------------------------------------------------------- add

    def add(
        self,
        manifests: Sequence[Manifest],
        encoders: Sequence[Encoder],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        commit_rows: int = COMMIT_ROWS,
    ) -> AddReport:
        """Store the items of manifests and embed what is not embedded yet.

        Files whose size and time of change are as stored are not opened, files whose content is embedded are not
        embedded again. One bad file never stops the run: it gets an outcome. Of files of the same content, the first
        is `ok` and the others are `duplicate`. Files that could not be read are tried again by every run. Items that
        the manifests no longer list stay until they are removed. May be interrupted or killed at any point and run
        again.

        Ids of folders and of tables without an id column belong to their source: if another source has used one, `~`
        and a hash of the source are added to it. Items of tables with an id column replace those of the same id.

        Args:
            manifests: what `chiasm.store.manifest.read_manifest` gives.
            encoders: at most one a modality is used: the first that has it.
            on_progress: called after every file.
            commit_rows: files a commit, at most.

        Raises:
            CollectionError: a metadata column is of another type than in the collection, or cannot be stored; another
                encoder took over meanwhile (`reembed`); or the disk is full or cannot be written to; all that was
                committed stays.
            EncoderError: an encoder cannot be used at all; all that was embedded stays.
        """
        begin = time.monotonic()
        with self._committing():
            items = self._store_items(manifests)
        run = _Run(self, encoders, commit_rows, on_progress)
        run.add(items)
        for manifest in manifests:
            run.tally(manifest.outcomes)
        return AddReport(
            self.count(), dict(run.counts), tuple(run.not_ok), run.encoded, run.unchanged, time.monotonic() - begin
        )

    def _store_items(self, manifests: Sequence[Manifest]) -> dict[str, Item]:
        """Write new and changed items; give all of them by the ids that they have in the collection."""
        schema = self._store_columns(manifests)
        stored = {row["id"]: row for row in self._rows("items").to_pylist()}
        items: dict[str, Item] = {}
        new: dict[str, dict[str, Any]] = {}
        changed: dict[str, dict[str, Any]] = {}
        for manifest in manifests:
            suffix = "~" + hashlib.blake2b(manifest.source.encode(), digest_size=4).hexdigest()
            for item in manifest.items:
                name = item.id
                if not manifest.explicit_ids:
                    known = stored.get(name) or new.get(name)
                    taken = known is not None and known["_source"] != manifest.source
                    if taken or name + suffix in stored:
                        name += suffix
                row = _item_row(name, item, manifest.source, schema)
                if name not in stored:
                    new[name] = row
                elif stored[name] != row:
                    changed[name] = row
                else:
                    changed.pop(name, None)
                items[name] = item
        # Appended, since merging would not keep the order.
        if new:
            self._write("items", pa.Table.from_pylist(list(new.values()), schema=schema))
        if changed:
            self._merge("items", ["id"], pa.Table.from_pylist(list(changed.values()), schema=schema))
        return items

    def _store_columns(self, manifests: Sequence[Manifest]) -> pa.Schema:
        """Make the metadata columns that are not there yet; give the schema of the items."""
        table = self._table("items")
        stored = _ITEMS if table is None else table.schema
        schema = stored
        for manifest in manifests:
            for column, kind in manifest.columns.items():
                if column not in schema.names:
                    if set(column) & set(".`"):
                        raise CollectionError(
                            f"the column {column!r} of {manifest.source} cannot be stored: its name has a dot or a "
                            "backtick in it. Rename it"
                        )
                    schema = schema.append(pa.field(column, _ARROW[kind]))
                there = schema.field(column).type
                fits = there == _ARROW[kind] or (there == pa.float64() and kind == "int")
                if not fits and any(item.metadata.get(column) is not None for item in manifest.items):
                    raise CollectionError(
                        f"the column {column!r} holds {there} in the collection and {kind} in {manifest.source}. Rename "
                        "it, or write its values alike"
                    )
        if table is not None and schema != stored:
            table.add_columns([field for field in schema if field.name not in stored.names])
        return schema

    # ------------------------------------------------------------------------------------------------ reembed

    def reembed(
        self,
        encoder: str,
        networks: Sequence[Encoder],
        *,
        on_progress: Callable[[Progress], None] | None = None,
        commit_rows: int = COMMIT_ROWS,
    ) -> ReembedReport:
        """Embed everything that the collection lists with another encoder, which then takes over.

        Until it does, everybody reads, searches and adds with the one before. What is added meanwhile is embedded before
        the switch. May be interrupted or killed at any point and run again: what is embedded stays embedded. Embeddings of
        networks that both encoders have are taken as they are, also of files that are gone; of other files that are gone
        there is an outcome, and no embedding any more. This object goes on with what it has opened; open the collection
        again to see the new.

        Args:
            encoder: name of the new encoder.
            networks: what it stands for; at most one a modality is used: the first that has it.
            on_progress: called after every file that is to be embedded.
            commit_rows: files a commit, at most.

        Raises:
            CollectionError: the collection has this encoder, another one took over meanwhile, not one file can be embedded
                by the new one (nothing changes then), or the disk is full or cannot be written to.
            EncoderError: an encoder cannot be used at all; all that was embedded stays.
        """
        begin = time.monotonic()
        base = _header_of(self.path)
        if base.encoder == encoder:
            raise CollectionError(
                f"{self.path} has the encoder {encoder!r} already. New and changed files are embedded by chiasm add; to "
                "re-embed, name another encoder"
            )
        before = Collection(self.path, base.encoder, base)
        tag = hashlib.blake2b(encoder.encode(), digest_size=4).hexdigest()
        after = Collection(self.path, encoder, Generation(encoder, base.number + 1, f"files-{base.number + 1}-{tag}"))
        after._replaces = base
        encoded = 0
        while True:
            seen = before.version
            run = _Run(after, networks, commit_rows, on_progress, keeps=True)
            with after._committing():
                after._take_over_rows(before, run.fingerprints)
            run.embed(before._listed())
            encoded += run.encoded
            usable = run.counts[Outcome.OK] + run.counts[Outcome.DUPLICATE]
            with after._committing():
                if before.version != seen:  # something came meanwhile
                    continue
                if not usable:
                    raise CollectionError(_nothing_embedded(self.path, base.encoder, encoder, run))
                lost = len(before._embedded_slots() - after._embedded_slots())
                after._compact([*run.tables, after.generation.files])
                after._switch(run)
                break
        rows = after._rows(after.generation.files, ["modality", "encoder"])
        untaken = rows.filter(pc.fill_null(pc.equal(rows["encoder"], ""), False))["modality"].to_pylist()
        return ReembedReport(
            before=base.encoder,
            encoder=encoder,
            items=after.count(),
            counts=dict(run.counts),
            outcomes=tuple(run.not_ok),
            encoded=encoded,
            reused=max(0, usable - encoded),
            lost=lost,
            not_taken=dict(Counter(untaken)),
            seconds=time.monotonic() - begin,
        )

    def require_current(self) -> None:
        """Raise where another encoder has taken over since this was opened.

        Raises:
            CollectionError: one has.
        """
        now = _header_of(self.path)
        mine = [one for one in (self.generation, self._replaces) if one is not None]
        if not any((now.number, now.encoder) == (one.number, one.encoder) for one in mine):
            raise CollectionError(
                f"{self.path} was re-embedded meanwhile: its encoder is {now.encoder!r} now, and was {mine[-1].encoder!r}. "
                "Run the same command again: what can be used stays"
            )

    def drop_replaced(self, *, unused_for: float = GRACE_SECONDS) -> tuple[str, ...]:
        """Delete the tables of encoders that were replaced. Gives the names of the tables.

        Args:
            unused_for: seconds since the switch, before which nothing is deleted: a reader may not have seen it yet.
        """
        dropped = []
        with self._writing():
            now = _header_of(self.path)
            if not now.replaced or now.age <= unused_for:
                return ()
            for name in now.replaced:
                path, gone = self.path / f"{name}.lance", self.path / f"{name}.gone"
                if gone.exists():  # of a run that was cut off
                    shutil.rmtree(gone)
                if path.exists():
                    path.replace(gone)  # so that no half of a table is ever taken for one
                    shutil.rmtree(gone)
                    dropped.append(name)
            _write_header(self.path, replace(now, replaced=()))
        return tuple(dropped)

    def _take_over_rows(self, before: Collection, fingerprints: Mapping[Modality, str]) -> None:
        """Copy the rows of files that were embedded, or refused, by a network that is used again; not those that are here."""
        rows = before._rows(before.generation.files)
        there = _joined(self._rows(self.generation.files, _KEY[:2]), _KEY[:2])
        for modality, fingerprint in fingerprints.items():
            same = pc.and_(pc.equal(rows["encoder"], fingerprint), pc.equal(rows["modality"], modality))
            same = pc.and_not(pc.fill_null(same, False), pc.is_in(_joined(rows, _KEY[:2]), value_set=there))
            if pc.any(same).as_py():
                self._write(self.generation.files, rows.filter(same))

    def _listed(self) -> dict[str, Item]:
        """All items with their sources, as they were added."""
        written = {(row["item"], row["slot"]): (row["path"], row["hash"]) for row in self.files()}

        def source(item: str, modality: Modality, number: int, value: str) -> Source:
            path, digest = written.get((item, f"{modality}/{number}"), ("", ""))
            inline = modality == "text" and value != path
            if inline and not (path is None and digest == _digest(value)):  # not seen by an encoder yet
                inline = not _is_text_file(value)
            return Source(modality, text=value) if inline else Source(modality, path=value)

        return {
            str(row["id"]): Item(
                str(row["id"]),
                tuple(
                    source(str(row["id"]), modality, number, value)
                    for modality in MODALITIES
                    for number, value in enumerate(row[modality] or ())
                ),
            )
            for row in self._rows("items", ["id", *MODALITIES]).to_pylist()
        }

    def _embedded_slots(self) -> set[str]:
        """Joined items and slots of the files that have an embedding."""
        rows = self._rows(self.generation.files, [*_KEY[:2], "outcome"])
        usable = rows.filter(pc.is_in(rows["outcome"], value_set=pa.array(_USABLE)))
        return set(_joined(usable, _KEY[:2]).to_pylist())

    def _switch(self, run: _Run) -> None:
        """Make the tables of this object those that count, unless they do."""
        now = _header_of(self.path)
        if now.number == self.generation.number:  # another process did the same, and was faster
            return
        mine = {*run.tables, self.generation.files}
        others = [path.stem for path in self.path.glob("*.lance") if path.stem.startswith(("embeddings-", "files"))]
        since = datetime.now(UTC).isoformat(timespec="microseconds")
        _write_header(
            self.path,
            replace(
                self.generation,
                since=since,
                fingerprints=run.fingerprints,
                replaced=tuple(sorted(set(others) - mine)),
            ),
        )

    # ------------------------------------------------------------------------------------------------- read

    def count(self) -> int:
        """Items in the collection."""
        table = self._table("items")
        return 0 if table is None else int(table.count_rows())

    @property
    def version(self) -> tuple[int, ...]:
        """Numbers that rise with every change of items or files; cheap to ask for."""
        tables = (self._table(name) for name in ("items", self.generation.files))
        return self.generation.number, *(0 if table is None else int(table.version) for table in tables)

    def items(self, *, where: str | None = None, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Rows of the items table: `id`, a list of paths (texts: paths or the texts themselves) a modality, metadata.

        Items of one manifest stand in its order. Times that had a zone are in UTC, without one.

        Args:
            where: SQL condition on the columns. Default: all items.
            ids: only these items, in any order; not together with `where`.

        Raises:
            CollectionError: `where` is not a valid SQL condition on the columns.
        """
        table = self._table("items")
        if ids is not None:
            if table is None or not len(ids):
                return []
            parts = []
            for part in _chunks(ids, _LISTED):
                with self._reading():
                    parts.append(table.to_table(filter=f"id IN ({_listed(part)})"))
            rows = pa.concat_tables(parts)
        elif where is None or table is None:
            rows = self._rows("items")
        else:
            rows = self._where(table, where, None)
        return list(rows.drop_columns(["_source"]).to_pylist())

    def ids(self, *, where: str | None = None) -> list[str]:
        """Ids of the items, sorted.

        Args:
            where: as in `items`.

        Raises:
            CollectionError: as `items`.
        """
        table = self._table("items")
        if table is None:
            return []
        rows = self._rows("items", ["id"]) if where is None else self._where(table, where, ["id"])
        return sorted(rows["id"].to_pylist())

    def _where(self, table: lance.LanceDataset, where: str, columns: list[str] | None) -> pa.Table:
        """Rows of the items that meet an SQL condition."""
        try:
            rows = table.to_table(filter=f"({where}\n)", columns=columns)
            if not _is_one_condition(where):  # Lance leaves out what follows the first bracket too many
                raise ValueError("brackets or quotes are not closed, or more than one condition is given")
            return rows
        except (ValueError, OSError, RuntimeError, pa.ArrowException) as error:
            raise CollectionError(
                f"the condition {where[:200]!r} cannot be used: {_words_of(error)}. Columns: "
                f"{', '.join(name for name in table.schema.names if not name.startswith('_'))}. Text stands in "
                "single quotes: label = 'bird'. Names with spaces stand in backticks"
            ) from error

    def columns(self) -> list[str]:
        """Names of the metadata columns."""
        table = self._table("items")
        return [] if table is None else [name for name in table.schema.names if name not in _ITEMS.names]

    def files(self) -> list[dict[str, Any]]:
        """A row a file: item, slot, modality, path, size, mtime_ns, hash, encoder, outcome, reason."""
        return list(self._rows(self.generation.files).to_pylist())

    def outcomes(self) -> dict[str, int]:
        """Files of the collection by outcome."""
        return dict(Counter(self._rows(self.generation.files, ["outcome"])["outcome"].to_pylist()))

    def vectors(self, fingerprint: str, *, moments: bool = False) -> Vectors:
        """Embeddings of one encoder: those of the content that the files had when they were last added.

        Args:
            fingerprint: of the encoder.
            moments: whether to give those of moments too, or only one a file.
        """
        current, (table,) = self._snapshot(f"embeddings-{fingerprint}")
        return self._vectors(table, current, moments=moments)

    def mapped(
        self,
        name: str,
        fingerprints: Sequence[str],
        transform: Callable[[Vectors], Float[np.ndarray, "rows dim"]],
    ) -> Vectors:
        """Embeddings of several encoders after a map, with moments, computed once and kept beside the embeddings.

        Args:
            name: what the results are kept under; another map needs another name.
            fingerprints: the encoders whose embeddings are mapped.
            transform: from embeddings of one encoder to vectors of the mapped space, a row a row. Called with those
                that are not kept yet, if any.

        Raises:
            CollectionError: the results cannot be written.
        """
        current, (kept, *tables) = self._snapshot(f"mapped-{name}", *(f"embeddings-{name}" for name in fingerprints))
        parts = [self._vectors(kept, current)]
        missing = current.filter(pc.invert(pc.is_in(current, value_set=self._keys(kept))))
        sources = [self._vectors(table, missing) for table in tables] if len(missing) else []
        new = [replace(source, vectors=transform(source)) for source in sources if len(source)]
        if new:  # in one commit, since a content may have rows in several tables
            parts.append(_concatenated(new))
            with self._writing():
                self._append(f"mapped-{name}", parts[-1])
        return _concatenated([part for part in parts if len(part)] or parts[:1])

    def drop_mapped(self, keep: Iterable[str], *, unused_for: float = GRACE_SECONDS) -> tuple[str, ...]:
        """Delete what `mapped` has kept under other names, of maps that were replaced. Gives the names.

        Args:
            keep: names that are still in use.
            unused_for: seconds since the last change, or since an encoder took over, before which nothing is deleted: a
                search may be reading it.
        """
        kept = {f"mapped-{name}" for name in keep}
        dropped = []
        with self._writing():
            if _header_of(self.path).age <= unused_for:
                return ()
            for path in sorted(self.path.glob("mapped-*.lance")):
                changed = max((one.stat().st_mtime for one in (path / "_versions").glob("*")), default=0.0)
                if path.stem not in kept and time.time() - changed > unused_for:
                    shutil.rmtree(path)
                    dropped.append(path.stem.removeprefix("mapped-"))
        return tuple(dropped)

    # ------------------------------------------------------------------------------------------------ remove

    def remove(self, ids: Iterable[str]) -> int:
        """Delete items, their outcomes and every vector of theirs. Gives how many items there were."""
        chosen = sorted(set(ids))
        with self._writing():
            before = self.count()
            for name in (*self._vector_tables(), *self._files_tables()):
                self._delete(name, ["item"], chosen)
            self._delete("items", ["id"], chosen)
            return before - self.count()

    # ----------------------------------------------------------------------------------------- tables, read

    def _table(self, name: str) -> lance.LanceDataset | None:
        """The newest version of a table, see `newest`."""
        with self._reading():
            return newest(self.path / f"{name}.lance")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn what Lance says about a table that it cannot read into an error that teaches."""
        try:
            yield
        except (ValueError, OSError) as error:
            raise CollectionError(
                f"{self.path} is damaged: {_words_of(error)}. Restore it, or add the files to a new collection"
            ) from error

    def _rows(self, name: str, columns: Sequence[str] = ()) -> pa.Table:
        """All rows of a table, with some columns or all."""
        table = self._table(name)
        if table is None:
            schema = _ITEMS if name == "items" else _FILES if name.startswith("files") else _VECTORS
            return schema.empty_table().select(columns or schema.names)
        with self._reading():
            return table.to_table(columns=list(columns) or None)

    def _vector_tables(self) -> list[str]:
        """Mapped ones first: what is left in them after a cut is looked for only while embeddings are left too."""
        names = (path.stem for path in self.path.glob("*.lance"))
        return sorted((name for name in names if name.startswith(("embeddings-", "mapped-"))), reverse=True)

    def _files_tables(self) -> list[str]:
        """Those of encoders before and of one that is to take over, too: what they point to is in use."""
        return sorted(path.stem for path in self.path.glob("files*.lance"))

    def _snapshot(self, *names: str) -> tuple[pa.ChunkedArray, list[lance.LanceDataset | None]]:
        """Keys of what the files hold, and tables of vectors as they were at that moment."""
        while True:
            files, *tables = (self._table(name) for name in (self.generation.files, *names))
            if files is None:
                return pa.chunked_array([], pa.string()), tables
            # Otherwise they may point to vectors that were deleted before their table was opened.
            if files.latest_version == files.version:
                with self._reading():
                    usable = files.to_table(columns=list(_KEY), filter=f"outcome IN ({_listed(_USABLE)})")
                return _joined(usable, _KEY), tables

    def _keys(self, table: lance.LanceDataset | None) -> pa.ChunkedArray:
        """Keys of all rows of a table of vectors; those of moments again and again."""
        if table is None:
            return pa.chunked_array([], pa.string())
        with self._reading():
            return _joined(table.to_table(columns=list(_KEY)), _KEY)

    def _wholes(self, name: str) -> pa.Table:
        """Item, slot, hash and modality of the rows of a table of vectors that are of whole contents."""
        rows = self._rows(name, [*_KEY, "modality", "start"])
        return rows.filter(pc.is_null(rows["start"]))

    def _vectors(self, table: lance.LanceDataset | None, wanted: pa.ChunkedArray, *, moments: bool = True) -> Vectors:
        """The rows of a table whose key is wanted, with those of moments or without."""
        if table is None:
            none = np.empty(0)
            return Vectors((), (), (), (), (), np.empty((0, 0), np.float32), (), none, none)
        with self._reading():
            rows = table.to_table(columns=_VECTORS.names)
            chosen = pc.is_in(_joined(rows, _KEY), value_set=wanted)
            if not moments:
                chosen = pc.and_(chosen, pc.is_null(rows["start"]))
            rows = rows.filter(chosen)
            # Batch by batch into place: Arrow would hold all vectors twice to filter them, and is slow at it.
            mask = chosen.to_numpy()
            vectors = np.empty((rows.num_rows, table.schema.field("vector").type.list_size), np.float32)
            seen = done = 0
            for batch in table.to_batches(columns=["vector"]) if rows.num_rows else ():
                part = _matrix(batch["vector"])[mask[seen : seen + len(batch)]]
                vectors[done : done + len(part)] = part
                seen, done = seen + len(batch), done + len(part)
        items, slots, modalities, hashes, texts, languages = (
            tuple(rows[name].to_pylist()) for name in _VECTORS.names[:-2]
        )
        starts, ends = (rows[name].to_numpy() for name in ("start", "end"))
        return Vectors(items, slots, modalities, hashes, texts, vectors, languages, starts, ends)

    # ------------------------------------------------------------------- tables, written (with the lock held)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock; turn what a full or read-only disk says into an error that teaches."""
        try:
            with FileLock(self.path / ".lock"):
                yield
        except OSError as error:
            raise CollectionError(
                f"{self.path} cannot be written: {_words_of(error)}. What was committed is safe: free space or fix the "
                "permissions, and run the same command again"
            ) from error

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """As `_writing`, for what is of no use once another encoder has taken over."""
        with self._writing():
            self.require_current()
            yield

    def _claim(self, tables: Iterable[str]) -> None:
        """Take tables off the list of those that are deleted: they are in use again."""
        now = _header_of(self.path)
        left = tuple(name for name in now.replaced if name not in set(tables))
        if left != now.replaced:
            _write_header(self.path, replace(now, replaced=left))

    def _write(self, name: str, rows: pa.Table) -> None:
        mode = "create" if self._table(name) is None else "append"
        lance.write_dataset(rows, str(self.path / f"{name}.lance"), mode=mode)

    def _merge(self, name: str, columns: Sequence[str], rows: pa.Table) -> None:
        """Write rows in the place of those that are equal in some columns."""
        table = self._table(name)
        if table is None:
            self._write(name, rows)
        else:
            table.merge_insert(list(columns)).when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def _append(self, name: str, vectors: Vectors) -> None:
        """Write vectors whose key is not there yet, in order."""
        rows = _vector_table(vectors)
        mine, keys = _joined(rows, _KEY), self._keys(self._table(name))
        there = keys.filter(pc.is_in(keys, value_set=mine))
        if len(there):
            rows = rows.filter(pc.invert(pc.is_in(mine, value_set=there)))
        if rows.num_rows:
            self._write(name, rows)

    def _delete(self, name: str, columns: Sequence[str], values: Sequence[str]) -> None:
        """Delete rows by what their columns hold, joined as by `_joined`."""
        table = self._table(name)
        joined = f" || {_quoted(_SEPARATOR)} || ".join(columns)
        if table is not None:
            for part in _chunks(values, _LISTED):
                table.delete(f"{joined} IN ({_listed(part)})")

    def _tidy(self, done: Iterable[str]) -> None:
        """Delete vectors of content that no file has any more, and merge small fragments.

        Args:
            done: items whose files all have their rows.
        """
        slots: pa.ChunkedArray | None = None
        current = pa.chunked_array([], pa.string())
        for name in self._files_tables():
            files = self._rows(name, [*_KEY, "outcome"])
            usable = files.filter(pc.is_in(files["outcome"], value_set=pa.array(_USABLE)))
            current = pa.chunked_array([*current.chunks, *_joined(usable, _KEY).chunks], pa.string())
            seen = _joined(files, _KEY[:2])  # in this table; what is to be continued may be of any of them
            slots = seen if slots is None else slots.filter(pc.is_in(slots, value_set=seen))
        items = self._rows("items", ["id"])["id"]
        others = items.filter(pc.invert(pc.is_in(items, value_set=pa.array(list(done), pa.string()))))
        for name in self._vector_tables():
            rows = self._rows(name, _KEY)
            keys = _joined(rows, _KEY)
            # Without a row in `files` they are of a commit that was cut off, and of use to the run that continues it.
            seen = pa.chunked_array([], pa.string()) if slots is None else slots
            cut_off = pc.and_not(
                pc.is_in(rows["item"], value_set=others), pc.is_in(_joined(rows, _KEY[:2]), value_set=seen)
            )
            stale = pc.and_not(pc.invert(pc.is_in(keys, value_set=current)), cut_off)
            self._delete(name, _KEY, pc.unique(keys.filter(stale)).to_pylist())
        self._compact([*self._vector_tables(), "items", *self._files_tables()])

    def _compact(self, names: Iterable[str]) -> None:
        """Merge small fragments of tables."""
        for name in names:
            table = self._table(name)
            if table is not None and len(table.get_fragments()) > COMPACT_FRAGMENTS:
                table.optimize.compact_files()
                # Readers hold a version for the length of one call; an hour is beyond any of them.
                table.cleanup_old_versions(older_than=timedelta(seconds=GRACE_SECONDS))


# ------------------------------------------------------------------------------------------------------ a run of `add`


@dataclass(frozen=True)
class _Part:
    """Rows of one content in one table of embeddings."""

    fingerprint: str
    modality: Modality
    vectors: Float[np.ndarray, "rows dim"]
    texts: tuple[str | None, ...]
    languages: tuple[str | None, ...]
    starts: Float[np.ndarray, " rows"]
    ends: Float[np.ndarray, " rows"]


@dataclass
class _File:
    """One file, or text that stands in a manifest, on its way through a run."""

    item: str
    slot: str
    source: Source
    modality: Modality
    size: int | None  # None: no file
    mtime_ns: int | None
    hash: str = ""
    encoder: str | None = None
    outcome: Outcome = Outcome.OK
    reason: str = ""
    weight: int = 0  # bytes in memory, as far as they are known
    prepared: Prepared = None  # until it is embedded
    parts: tuple[_Part, ...] = ()  # from then on until it is committed

    @property
    def key(self) -> tuple[str, str]:
        return self.item, self.slot

    @property
    def path(self) -> str | None:
        return self.source.path

    @property
    def result(self) -> FileOutcome:
        name = f"{self.item} ({self.slot})" if self.path is None else self.path
        return FileOutcome(name, self.outcome, self.reason)

    def ends(self, outcome: Outcome, reason: str) -> None:
        self.outcome, self.reason = outcome, reason

    def row(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _FILES.names}


class _Run:
    """One run of `add`: from the plan through readers and encoders to commits.

    Files go through it in the order of the manifests, whatever reader is the fastest, so that a run that was cut off
    and continued ends as one that was not.
    """

    def __init__(
        self,
        collection: Collection,
        encoders: Sequence[Encoder],
        commit_rows: int,
        on_progress: Callable[[Progress], None] | None,
        *,
        keeps: bool = False,
    ) -> None:
        self.collection = collection
        self.keeps = keeps  # embeddings of files that are gone
        self.encoders: dict[Modality, Encoder] = {}
        for encoder in encoders:
            for modality in sorted(encoder.modalities):
                self.encoders.setdefault(modality, encoder)
        self.fingerprints = {modality: encoder.fingerprint for modality, encoder in self.encoders.items()}
        heard = [encoder.sound.fingerprint for encoder in self.encoders.values() if encoder.sound is not None]
        self.tables = sorted({f"embeddings-{name}" for name in (*self.fingerprints.values(), *heard)})
        self.load = _opener(self.encoders)
        self.commit_rows = commit_rows
        self.on_progress = on_progress

        self.counts: Counter[str] = Counter()
        self.not_ok: list[FileOutcome] = []
        self.encoded = self.unchanged = self.done = self.failed = self.total = 0
        self.untidy = False  # there are vectors that belong to no file

        self.owners: dict[str, tuple[str, str]] = {}  # content hash -> the file that is ok; others are its duplicates
        self.known: dict[str, str] = {}  # content hash -> fingerprint of the encoder whose vector of it is stored
        self.claimed: dict[str, _File] = {}  # content hash -> the file of this run that it is embedded for
        self.batches: dict[Modality, list[_File]] = {}  # prepared
        self.shared: list[_File] = []  # the vector of their content is stored
        self.twins: list[_File] = []  # the vector of their content is on its way
        self.again: list[_File] = []  # the vector of their content was removed meanwhile
        self.finished: list[_File] = []  # and not committed yet
        self.committed = time.monotonic()
        self.held = 0  # bytes of files that are being opened, or are opened and not received
        self.weighing = Lock()

    def add(self, items: Mapping[str, Item]) -> None:
        """Do what is to be done for these items, by id."""
        if self.embed(items) or self.untidy:
            with self.collection._committing():
                self.collection._tidy(items)

    def embed(self, items: Mapping[str, Item]) -> bool:
        """As `add`, but leave vectors that are of no use any more. Gives whether there was anything to do."""
        with self.collection._committing():
            self.collection._claim(self.tables)
        pending, gone = self._plan(items)
        if gone:
            with self.collection._committing():
                self.collection._delete(self.collection.generation.files, _KEY[:2], gone)
        if pending:
            self._execute(pending)
        return bool(pending or gone)

    def tally(self, outcomes: Iterable[FileOutcome]) -> None:
        """Add outcomes to the report."""
        for outcome in outcomes:
            self.counts[outcome.outcome.value] += 1
            if outcome.outcome is not Outcome.OK:
                self.not_ok.append(outcome)

    # ------------------------------------------------------------------------------------------------- plan

    def _plan(self, items: Mapping[str, Item]) -> tuple[list[_File], list[str]]:
        """Find the files that are not stored or have changed, and the slots (joined keys) that the items lost."""
        rows = self.collection._rows(self.collection.generation.files)
        fingerprints = set(self.fingerprints.values())
        embedded = np.zeros(rows.num_rows, bool)
        keys = _joined(rows, _KEY)
        for fingerprint in fingerprints:
            stored = _joined(self.collection._wholes(f"embeddings-{fingerprint}"), _KEY)
            there = pc.is_in(keys, value_set=stored)
            self.untidy |= len(stored) > (pc.sum(there).as_py() or 0)
            embedded |= pc.and_(there, pc.fill_null(pc.equal(rows["encoder"], fingerprint), False)).to_numpy()
        recorded = {
            (row["item"], row["slot"]): (row, has) for row, has in zip(rows.to_pylist(), embedded.tolist(), strict=True)
        }

        looked_at: list[tuple[_File, dict[str, Any] | None]] = []  # with what is stored of it, if that still holds
        for name, item in items.items():
            numbers: Counter[Modality] = Counter()
            for source in item.sources:
                slot = f"{source.modality}/{numbers[source.modality]}"
                numbers[source.modality] += 1
                file = _File(name, slot, source, source.modality, *_stat(source))
                if source.text is not None:
                    file.hash = _digest(source.text)
                before, has_vector = recorded.pop(file.key, (None, False))
                holds = before is not None and self._holds(file, before, has_vector)
                looked_at.append((file, before if holds else None))
        gone = [_SEPARATOR.join(key) for key in recorded if key[0] in items]

        kept = [row for row, _ in recorded.values() if row["item"] not in items]
        kept += [row for _, row in looked_at if row is not None]
        self.owners = {row["hash"]: (row["item"], row["slot"]) for row in kept if row["outcome"] == Outcome.OK}
        pending = []
        for file, before in looked_at:
            if before is None or (before["outcome"] == Outcome.DUPLICATE and before["hash"] not in self.owners):
                pending.append(file)
            else:
                self.unchanged += 1
                file.ends(Outcome(before["outcome"]), before["reason"])
                self.tally([file.result])
        if pending:
            for fingerprint in fingerprints:
                contents = self.collection._wholes(f"embeddings-{fingerprint}")
                for digest, modality in zip(
                    *(contents[name].to_pylist() for name in ("hash", "modality")), strict=True
                ):
                    if self.fingerprints.get(modality) == fingerprint:
                        self.known[digest] = fingerprint
        return pending, gone

    def _holds(self, file: _File, before: Mapping[str, Any], has_vector: bool) -> bool:
        """Whether what is stored of a file still holds."""
        if file.source.text is not None:
            same = before["path"] is None and before["hash"] == file.hash
        else:
            same = (before["path"], before["size"], before["mtime_ns"]) == (file.path, file.size, file.mtime_ns)
            same = same or (self.keeps and file.size is None and before["path"] == file.path and has_vector)
        if not same or (before["outcome"] in _USABLE and not has_vector):
            return False
        # What no encoder took, or another one, may be of use to the one that there is now.
        return before["encoder"] is None or before["encoder"] == self.fingerprints.get(before["modality"], "")

    # ------------------------------------------------------------------------------------------------ execute

    def _execute(self, pending: list[_File]) -> None:
        """Read in several threads, encode in this one, commit in between."""
        self.total = len(pending)
        try:
            while pending:
                with closing(self._opened(pending)) as opened:
                    for file in opened:
                        self._receive(file)
                for modality in list(self.batches):
                    self._encode(modality)
                self._commit()
                self.shared += self.twins
                self.twins = []
                self._share()
                pending, self.again = self.again, []
        finally:
            # Also on Ctrl-C: what is embedded is kept, what is not is left for the next run.
            self._commit()

    def _opened(self, pending: Iterable[_File]) -> Generator[_File]:
        """Open files in several threads; give them in order, and hold no more of them than a batch needs."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
        workers = min(max(2, cores), READERS)
        ahead = 2 * workers + max((encoder.batch_size for encoder in self.encoders.values()), default=0)
        todo = deque(pending)
        reading: deque[Future[_File]] = deque()
        readers = ThreadPoolExecutor(workers, thread_name_prefix="chiasm-read")
        try:
            while todo or reading:
                expected = (todo[0].size or 0) * _GROWTH.get(todo[0].modality, 1) if todo else 0
                if todo and (not reading or (len(reading) < ahead and self.held + expected <= READ_AHEAD_BYTES)):
                    file = todo.popleft()
                    self._weigh(file, expected)
                    reading.append(readers.submit(self._read, file))
                else:
                    file = reading.popleft().result()
                    with self.weighing:
                        self.held -= file.weight
                    yield file
        finally:
            readers.shutdown(wait=True, cancel_futures=True)

    def _read(self, file: _File) -> _File:
        """In a reader thread: hash, open, prepare. Whatever is wrong with the file becomes its outcome."""
        file.outcome, file.reason = Outcome.OK, ""
        weight = file.size or 0
        try:
            if file.size and file.size <= Limits().max_bytes:
                assert file.path is not None
                file.hash = _digest_file(file.path)
            if file.hash not in self.known and file.hash not in self.claimed:
                medium = self._open(file)
                weight = max(weight, _decoded(medium))
                file.encoder = self.fingerprints[file.modality]
                file.prepared = self.encoders[file.modality].prepare(medium)
        except EncoderError:
            raise  # the encoder cannot be used at all: that is not the file's fault
        except MediaError as error:
            file.ends(error.outcome, error.reason)
        except OSError as error:
            file.ends(Outcome.BROKEN, f"the file cannot be read: {error.strerror or error}")
            file.size = file.mtime_ns = None  # permissions change without a trace in them: the next run looks again
        except Exception as error:  # noqa: BLE001  # a model's own preprocessing may raise anything
            file.ends(Outcome.BROKEN, f"it cannot be prepared: {type(error).__name__}: {error}")
        self._weigh(file, weight)
        return file

    def _weigh(self, file: _File, weight: int) -> None:
        """Count a file that is not given to `_receive` yet by the bytes that it takes, or will take."""
        with self.weighing:
            self.held += weight - file.weight
            file.weight = weight

    def _open(self, file: _File) -> Media:
        """Open a file whose modality an encoder takes, and note what it is.

        Raises:
            MediaError: it cannot be opened, no encoder takes it, or it changes meanwhile.
        """
        medium: Media | None = None
        if file.source.text is not None:
            medium = read_text(file.source.text.encode(), limits=Limits())
        else:
            assert file.path is not None
            if file.modality not in self.encoders:
                file.modality = media.sniff(file.path)  # decode nothing in vain
            if file.modality in self.encoders:
                medium = self.load(file.path)
                file.modality = medium.modality
        if medium is None or file.modality not in self.encoders:
            file.encoder = ""
            takes = ", ".join(self.encoders) or "nothing"
            raise MediaError(
                Outcome.UNSUPPORTED, f"the encoder {self.collection.encoder!r} takes {takes}, not {file.modality}"
            )
        if _stat(file.source) != (file.size, file.mtime_ns):
            raise MediaError(Outcome.BROKEN, "the file changed while it was read. Run again when it is complete")
        return medium

    def _receive(self, file: _File) -> None:
        """Send an opened file on its way, in the order of the manifests."""
        if file.hash:
            owner = self.owners.setdefault(file.hash, file.key)
            if owner != file.key and file.path is not None and file.outcome is Outcome.OK:
                file.outcome = Outcome.DUPLICATE
                file.reason = f"same content as {owner[0]} ({owner[1]}); the embedding is shared"
            if file.hash in self.known:
                file.prepared = None
                self.shared.append(file)
                if self._is_due(len(self.shared)):
                    self._share()
                return
            if self.claimed.setdefault(file.hash, file) is not file:
                file.prepared = None
                self.twins.append(file)
                return
        if file.outcome not in _USABLE:
            self._finish(file)
            return
        batch = self.batches.setdefault(file.modality, [])
        batch.append(file)
        heavy = sum(one.weight for one in batch) > READ_AHEAD_BYTES if file.modality in _GROWTH else False
        if heavy or len(batch) >= self.encoders[file.modality].batch_size:
            self._encode(file.modality)

    def _encode(self, modality: Modality) -> None:
        batch = self.batches.pop(modality)
        results = _encode_each(self.encoders[modality], modality, [file.prepared for file in batch])
        for file, result in zip(batch, results, strict=True):
            file.prepared = None
            if isinstance(result, MediaError):
                file.ends(result.outcome, result.reason)
            else:
                file.parts = result
                self.encoded += 1
            self._finish(file)

    def _share(self) -> None:
        """Give files the stored vector of their content, or what went wrong with it."""
        shared, self.shared = self.shared, []
        for part in _chunks(shared, _LISTED):
            stored = self._stored({file.hash for file in part})
            for file in part:
                original = self.claimed.get(file.hash)
                if file.hash in stored:
                    file.parts = stored[file.hash]
                    file.encoder, file.modality = file.parts[0].fingerprint, file.parts[0].modality
                    self._finish(file)
                elif original is not None and original.outcome not in _USABLE:
                    file.encoder, file.modality = original.encoder, original.modality
                    file.ends(original.outcome, original.reason)
                    self._finish(file)
                else:
                    for by_hash in (self.known, self.claimed, self.owners):
                        by_hash.pop(file.hash, None)
                    self.again.append(file)

    def _stored(self, digests: set[str]) -> dict[str, tuple[_Part, ...]]:
        """All rows of contents, those with the whole first."""
        wanted: dict[str, list[str]] = {}
        for digest in sorted(digests):
            fingerprint = self.known.get(digest) or self.claimed[digest].encoder
            if fingerprint:
                wanted.setdefault(fingerprint, []).append(digest)
        found: dict[str, tuple[_Part, ...]] = {}
        for encoder in dict.fromkeys(self.encoders.values()):
            part = wanted.get(encoder.fingerprint)
            if part:
                own = self._rows_of(encoder.fingerprint, part)
                heard = encoder.sound
                tracks = self._rows_of(heard.fingerprint, own) if heard and heard is not encoder else {}
                found |= {digest: (*rows, *tracks.get(digest, ())) for digest, rows in own.items()}
        return found

    def _rows_of(self, fingerprint: str, digests: Iterable[str]) -> dict[str, tuple[_Part, ...]]:
        """The rows of contents in one table, by modality, those with the whole first."""
        table = self.collection._table(f"embeddings-{fingerprint}")
        if table is None:
            return {}
        with self.collection._reading():
            rows = table.to_table(filter=f"hash IN ({_listed(digests)})")
        vectors = _matrix(rows["vector"].combine_chunks())
        columns = {name: rows[name].to_pylist() for name in _VECTORS.names[:-2]}
        starts, ends = (rows[name].to_numpy() for name in ("start", "end"))
        # Files of the same content have the same rows, each its own: those of one of them are taken.
        first: dict[str, tuple[str, str]] = {}
        numbers: dict[tuple[str, Modality], list[int]] = {}
        for number, (item, slot, modality, digest) in enumerate(
            zip(*(columns[name] for name in ("item", "slot", "modality", "hash")), strict=True)
        ):
            if first.setdefault(digest, (item, slot)) == (item, slot):
                numbers.setdefault((digest, modality), []).append(number)
        found: dict[str, tuple[_Part, ...]] = {}
        for (digest, modality), chosen in numbers.items():
            part = _Part(
                fingerprint,
                modality,
                vectors[chosen],
                tuple(columns["text"][number] for number in chosen),
                tuple(columns["language"][number] for number in chosen),
                starts[chosen],
                ends[chosen],
            )
            has_whole = bool(np.isnan(part.starts).any())
            others = found.get(digest, ())
            found[digest] = (part, *others) if has_whole else (*others, part)
        return found

    def _finish(self, file: _File) -> None:
        self.finished.append(file)
        self.tally([file.result])
        self.done += 1
        self.failed += file.outcome not in _USABLE
        if self.on_progress is not None:
            self.on_progress(Progress(self.done, self.total, self.failed))
        if self._is_due(len(self.finished)):
            self._commit()

    def _is_due(self, files: int) -> bool:
        return files >= self.commit_rows or time.monotonic() - self.committed > COMMIT_SECONDS

    def _commit(self) -> None:
        """Vectors first, then the rows that say they are there."""
        if self.finished:
            with self.collection._committing():
                # What another process has removed since the plan stays removed.
                ids = self.collection._rows("items", ["id"])["id"]
                mine = pa.array([file.item for file in self.finished], pa.string())
                there = set(ids.filter(pc.is_in(ids, value_set=mine)).to_pylist())
                files = [file for file in self.finished if file.item in there]
                embedded: dict[str, list[tuple[_File, _Part]]] = {}
                # Sound tracks first: where the whole is stored, all of the content is.
                for place in sorted({place for file in files for place in range(len(file.parts))}, reverse=True):
                    for file in files:
                        for part in file.parts[place : place + 1]:
                            embedded.setdefault(part.fingerprint, []).append((file, part))
                for fingerprint, parts in embedded.items():
                    self.collection._append(f"embeddings-{fingerprint}", _vectors_of(parts))
                if files:
                    rows = pa.Table.from_pylist([file.row() for file in files], schema=_FILES)
                    self.collection._merge(self.collection.generation.files, _KEY[:2], rows)
        for file in self.finished:
            file.parts = ()
        self.finished, self.committed = [], time.monotonic()


def _opener(encoders: Mapping[Modality, Encoder]) -> Callable[[str], Media]:
    """`media.load` with as little decoded as the encoders see, whatever a file turns out to be."""
    sizes = [encoders[modality].view.image_size for modality in ("image", "video") if modality in encoders]
    known = [size for size in sizes if size is not None]
    options: dict[str, Any] = {"image_size": max(known) if known and len(known) == len(sizes) else None}
    if "audio" in encoders:
        options["rate"] = encoders["audio"].view.rate
    if "video" in encoders:
        view = encoders["video"].view
        options.update(frames=view.frames, fps=view.fps, track=view.track)
    return partial(media.load, **options)


def _decoded(medium: Media) -> int:
    """Bytes of a sound or a video in memory; of anything else too few to count."""
    if isinstance(medium, Video):
        return medium.frames.nbytes + (0 if medium.sound is None else medium.sound.waveform.nbytes)
    return medium.waveform.nbytes if isinstance(medium, Audio) else 0


def _encode_each(
    encoder: Encoder, modality: Modality, inputs: Sequence[Prepared]
) -> list[tuple[_Part, ...] | MediaError]:
    """What to store, or what is wrong, input by input.

    Where a batch fails, each goes alone, so that a bad input costs only itself.
    """
    try:
        found = encoder.encode_prepared(modality, inputs)
    except EncoderError:
        raise  # the encoder cannot be used at all
    except Exception as error:  # noqa: BLE001  # a network may raise anything; it becomes the outcome of one file
        if len(inputs) == 1:
            return [MediaError(Outcome.BROKEN, f"{encoder.name} failed on it: {type(error).__name__}: {error}")]
        return [result for one in inputs for result in _encode_each(encoder, modality, [one])]
    languages = found.languages or (None,) * len(inputs)
    results: list[tuple[_Part, ...] | MediaError] = []
    for row, (vector, words, language, _) in enumerate(zip(found.vectors, found.texts, languages, inputs, strict=True)):
        whole = Moments(np.zeros(1, int), np.full(1, np.nan), np.full(1, np.nan), vector[None], (words,))
        parts = [_part(encoder.fingerprint, modality, language, [whole, *_moments_of(found.moments, row)])]
        if encoder.sound is not None and (track := _moments_of(found.track, row)):
            parts.append(_part(encoder.sound.fingerprint, "audio", language, track))
        if not all(np.isfinite(part.vectors).all() for part in parts):
            results.append(MediaError(Outcome.BROKEN, f"{encoder.name} gave values that are not finite numbers"))
        elif not vector.any():
            heard = " (no words were recognised)" if words == "" else ""
            reason = f"{encoder.name} found nothing in it that it can embed{heard}"
            results.append(MediaError(Outcome.UNSUPPORTED, reason))
        else:
            results.append(tuple(parts))
    return results


def _moments_of(moments: Moments | None, owner: int) -> list[Moments]:
    """Those of one input in which something was found, if any."""
    if moments is None:
        return []
    begin, end = np.searchsorted(moments.owners, [owner, owner + 1])
    rows = [row for row in range(begin, end) if moments.vectors[row].any()]
    if not rows:
        return []
    texts = tuple(moments.texts[row] for row in rows)
    return [Moments(moments.owners[rows], moments.starts[rows], moments.ends[rows], moments.vectors[rows], texts)]


def _part(fingerprint: str, modality: Modality, language: str | None, rows: Sequence[Moments]) -> _Part:
    texts = tuple(chain.from_iterable(part.texts for part in rows))
    return _Part(
        fingerprint,
        modality,
        np.concatenate([part.vectors for part in rows]).astype(np.float32, copy=False),
        texts,
        (language,) * len(texts),
        np.concatenate([part.starts for part in rows]),
        np.concatenate([part.ends for part in rows]),
    )


# ------------------------------------------------------------------------------------------------ folders and files


def newest(path: Path) -> lance.LanceDataset | None:
    """The newest version of a table, or None where nothing was written to it, or its first commit was cut off."""
    return lance.dataset(str(path)) if any((path / "_versions").glob("*.manifest")) else None


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new content, never a part of it."""
    temporary = temporary_of(path)
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _header_of(folder: Path, *, given: str | Path | None = None) -> Generation:
    """What `chiasm.json` says.

    Args:
        folder: of the collection.
        given: how the user named it.

    Raises:
        CollectionError: there is none, it is damaged, or it is of another format version.
    """
    path = folder / "chiasm.json"
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise CollectionError(
            f"{folder} is not a collection. Make one: chiasm add FOLDER --to {folder if given is None else given}"
        ) from None
    except (OSError, ValueError) as error:
        raise CollectionError(f"{path} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("encoder"), str):
        raise CollectionError(
            f"{path} does not describe a collection; expected an object with format {FORMAT!r}, "
            "format_version and encoder. Restore it, or add the files to a new collection"
        )
    if header.get("format_version") != FORMAT_VERSION:
        raise CollectionError(
            f"{folder} has format version {header.get('format_version')} and this chiasm ({__version__}) reads "
            f"{FORMAT_VERSION}. Use the chiasm that wrote it ({header.get('by')}), or add the files to a new collection"
        )
    try:
        found = Generation(
            header["encoder"],
            int(header.get("generation", 0)),
            header.get("files", "files"),
            header.get("since", ""),
            dict(header.get("fingerprints", {})),
            tuple(header.get("replaced", ())),
        )
        if not all(_TABLE.fullmatch(name) for name in (found.files, *found.replaced)) or math.isnan(found.age):
            raise ValueError("a table has a name that no table has")
    except (ValueError, TypeError) as error:
        raise CollectionError(
            f"{path} is damaged: {error}. Restore it, or add the files to a new collection"
        ) from error
    return found


def _write_header(folder: Path, generation: Generation) -> None:
    """Replace `chiasm.json`, at once."""
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "encoder": generation.encoder,
        "by": __version__,
        "generation": generation.number,
        "files": generation.files,
        "since": generation.since,
        "fingerprints": dict(generation.fingerprints),
        "replaced": list(generation.replaced),
    }
    write_whole(folder / "chiasm.json", json.dumps(header, indent=2) + "\n")


def _nothing_embedded(path: Path, before: str, encoder: str, run: _Run) -> str:
    """Why no encoder took over."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(run.counts.items()))
    first = f"; the first: {run.not_ok[0].path}: {run.not_ok[0].reason}" if run.not_ok else ""
    return (
        f"{path} stays with the encoder {before!r}: {encoder!r} could embed none of its files ({counts or 'it has none'}"
        f"{first}). Bring the files back to where they were added from, or take an encoder of their modalities"
    )


def _make(folder: Path, header: Mapping[str, Any]) -> None:
    """Make an empty collection, unless another process was faster."""
    path = folder / "chiasm.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [entry for entry in folder.iterdir() if entry.name != ".lock" and not entry.match("chiasm.json*")]
        if foreign and not path.exists():
            raise CollectionError(f"{folder} is not empty and not a collection. Name an empty or a new folder")
        with FileLock(folder / ".lock"):
            if not path.exists():
                write_whole(path, json.dumps(header, indent=2) + "\n")
    except OSError as error:
        raise CollectionError(f"{folder} cannot be made a collection: {error}. Name another folder") from error


def _stat(source: Source) -> tuple[int | None, int | None]:
    """Size and time of change; None where there is no regular file."""
    if source.path is None:
        return None, None
    try:
        found = os.stat(source.path)  # noqa: PTH116  # Path.stat costs three times as much, and this runs for every file
    except (OSError, ValueError):
        return None, None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else (None, None)


def _is_text_file(value: str) -> bool:
    """Whether a text that stands for itself or for a file is the path of one, as far as can be told."""
    path = Path(value)
    if "\n" in value or not path.is_absolute() or path.suffix.lower() not in _TEXT_FILES:
        return False
    return path.suffix.lower() == ".txt" or _stat(Source("text", path=value))[0] is not None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digest_file(path: str) -> str:
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


# ------------------------------------------------------------------------------------------------- rows of tables

_SEPARATOR = "\0"


def _item_row(name: str, item: Item, source: str, schema: pa.Schema) -> dict[str, Any]:
    """An item as the table gives it back."""
    row: dict[str, Any] = {"id": name, "_source": source}
    for modality in MODALITIES:
        values = [s.path if s.path is not None else s.text for s in item.sources if s.modality == modality]
        row[modality] = values or None
    for column in schema:
        if column.name in row:
            continue
        value = item.metadata.get(column.name)
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        elif isinstance(value, int) and column.type == pa.float64():
            value = float(value)
        row[column.name] = value
    return row


def _vectors_of(rows: Sequence[tuple[_File, _Part]]) -> Vectors:
    counts = [len(part.starts) for _, part in rows]

    def repeated(values: Iterable[_T]) -> tuple[_T, ...]:
        return tuple(chain.from_iterable((value,) * count for value, count in zip(values, counts, strict=True)))

    return Vectors(
        repeated(file.item for file, _ in rows),
        repeated(file.slot for file, _ in rows),
        repeated(part.modality for _, part in rows),
        repeated(file.hash for file, _ in rows),
        tuple(chain.from_iterable(part.texts for _, part in rows)),
        np.concatenate([part.vectors for _, part in rows]),
        tuple(chain.from_iterable(part.languages for _, part in rows)),
        np.concatenate([part.starts for _, part in rows]),
        np.concatenate([part.ends for _, part in rows]),
    )


def _concatenated(parts: Sequence[Vectors]) -> Vectors:
    if len(parts) == 1:
        return parts[0]
    return Vectors(
        tuple(chain.from_iterable(part.items for part in parts)),
        tuple(chain.from_iterable(part.slots for part in parts)),
        tuple(chain.from_iterable(part.modalities for part in parts)),
        tuple(chain.from_iterable(part.hashes for part in parts)),
        tuple(chain.from_iterable(part.texts for part in parts)),
        np.concatenate([part.vectors for part in parts]),
        tuple(chain.from_iterable(part.languages for part in parts)),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
    )


def _vector_table(rows: Vectors) -> pa.Table:
    columns = (rows.items, rows.slots, rows.modalities, rows.hashes, rows.texts, rows.languages)
    flat = pa.array(np.ascontiguousarray(rows.vectors, dtype=np.float32).ravel())
    return pa.table(
        [
            *(pa.array(column, pa.string()) for column in columns),
            *(pa.array(column, pa.float64(), from_pandas=True) for column in (rows.starts, rows.ends)),
            pa.FixedSizeListArray.from_arrays(flat, rows.vectors.shape[1]),
        ],
        names=[*_VECTORS.names, "vector"],
    )


def _matrix(column: pa.FixedSizeListArray) -> Float[np.ndarray, "rows dim"]:
    flat: Float[np.ndarray, " values"] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def _joined(rows: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """Several columns of text as one, so that rows can be looked up in it."""
    return pc.binary_join_element_wise(*(rows[column] for column in columns), _SEPARATOR)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(map(_quoted, values))


def _is_one_condition(where: str) -> bool:
    """Whether quotes and brackets close and nothing ends the condition before its end."""
    bare = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`", "", where)
    depth = 0
    for letter in bare:
        depth += (letter == "(") - (letter == ")")
        if depth < 0:
            return False
    return depth == 0 and not set(bare) & set("'\"`;") and "--" not in bare and "/*" not in bare


def _words_of(error: Exception) -> str:
    """What Lance says, without where in its source it says so, and without the condition that it was given."""
    words = re.split(r",? (?:location: )?/\S+\.rs:\d", str(error))[0].rpartition("\n)")[2].strip(": ")
    words = words[1:-1] if words.startswith("(") else words
    words = re.sub(r"^(?:(?:LanceError\(\w+\)|Invalid user input|Schema error|sql parser error): )+", "", words)
    return re.sub(r"\. Valid fields are .*", "", words)


def _chunks(values: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
