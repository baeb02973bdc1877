"""A collection: items, the outcome of every file, and embeddings, in one folder on disk.

The folder holds `chiasm.json` (format, version, encoder, see `Generation`) and Lance tables (`store.tables`), each made by
its first write:

- `items`: a row an item, with its files by modality and its metadata columns.
- `files`: a row a file, with its outcome. Another encoder has a table of its own, `files-NUMBER-HASH`.
- `embeddings-FINGERPRINT`: one table an encoder, a row a part. A part is the whole content (null start and end), a span
  of time of it, or a passage of a text; the parts of a video's sound track are in the table of the encoder that heard it.
- `search-DIGEST`: parts placed in a space, with the columns of their items (`store.gallery`).

A vector belongs to a content: its key is item, slot and content hash, and it counts while `files` has that key. All rows
of a key in a table are committed together, and the whole after everything else. Vectors are committed before the rows of
`files` that point to them, and deleted after. So a run that is killed at any point is continued by the next one, nothing
is embedded twice, and a reader sees every file with its old vector or its new one. Writers hold a file lock for each
commit, not for the run; readers need none.

Another encoder takes over (`store.reembed`) in a table of files of its own, beside the one that counts. `chiasm.json` says
which one counts, so replacing it is the switch: until then readers see nothing new, from then on nothing old.

Adding is in `store.ingest`, reading folders and tables in `store.manifest`, opening files in `media`, and what embeddings
mean together in `space`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from jaxtyping import Float, Int

from chiasm import __version__
from chiasm.encoders.licence import PretrainedModel
from chiasm.errors import CollectionError
from chiasm.files import is_within, one_form, outermost, real_folders, strict_json, write_whole
from chiasm.store.tables import (
    GRACE_SECONDS,
    Tables,
    chunks,
    join_columns,
    matrix_of,
    one_of,
    vector_column,
)
from chiasm.store.where import where_sql
from chiasm.types import MODALITIES, Modality, Outcome

FORMAT = "chiasm-collection"
FORMAT_VERSION = 5
INDEX_ROWS = 50_000  # of items, from which their ids are indexed

USABLE = (Outcome.OK.value, Outcome.DUPLICATE.value)
KEY = ("item", "slot", "hash")
SLOT = KEY[:2]
ITEMS = pa.schema(
    [("id", pa.string()), ("_source", pa.string()), *((name, pa.list_(pa.string())) for name in MODALITIES)]
)
FILES = pa.schema(
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
VECTORS = pa.schema(  # and "vector"
    [
        *((name, pa.string()) for name in ("item", "slot", "modality", "hash", "text", "language")),
        ("start", pa.float64()),  # seconds, of texts characters; null: of the whole content
        ("end", pa.float64()),
    ]
)
_TABLE = re.compile(r"(?:files|embeddings)(?:-\w+)*")


@dataclass(frozen=True)
class Generation:
    """Which tables of a collection count: the content of `chiasm.json`, replaced whole when another encoder takes over."""

    encoder: str
    number: int = 0  # how often an encoder was replaced
    files: str = "files"  # the table with the outcomes of this encoder
    since: str = ""  # UTC in ISO 8601, when it took over; empty of the first
    fingerprints: Mapping[Modality, str] = field(default_factory=dict)  # at that time, by modality; empty of the first
    replaced: tuple[str, ...] = ()  # tables of earlier encoders, of use only to readers that are late
    roots: tuple[str, ...] = ()  # see `Collection.roots`
    models: tuple[PretrainedModel, ...] = ()  # that the encoder runs, as of the last run that added files

    @property
    def age(self) -> float:
        """Seconds since it took over; of the first one infinite."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds() if self.since else math.inf

    @classmethod
    def read(cls, folder: Path, *, asked: str | Path | None = None) -> Generation:
        """Read `chiasm.json`.

        Args:
            folder: of the collection.
            asked: how the user named it.

        Raises:
            CollectionError: there is none, it is damaged, or it is of another format version.
        """
        path = folder / "chiasm.json"
        mend = "Restore it, or add the files to a new collection"
        try:
            header = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise CollectionError(
                f"{folder} is not a collection. Make one: chiasm add FOLDER --to {asked or folder}"
            ) from None
        except (OSError, ValueError) as error:
            raise CollectionError(f"{path} cannot be read: {error}") from error
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise CollectionError(f"{path} does not describe a collection; its format is not {FORMAT!r}. {mend}")
        if header.get("format_version") != FORMAT_VERSION:
            raise CollectionError(
                f"{folder} has format version {header.get('format_version')} and this chiasm ({__version__}) reads "
                f"{FORMAT_VERSION}. Use the chiasm that wrote it ({header.get('by')}), or add the files to a new "
                "collection"
            )
        try:
            generation = cls(
                str(header["encoder"]),
                int(header["generation"]),
                header["files"],
                header["since"],
                dict(header["fingerprints"]),
                tuple(header["replaced"]),
                tuple(header["roots"]),
                tuple(map(PretrainedModel.from_dict, header["models"])),
            )
            names = (generation.files, *generation.replaced)
            if not all(_TABLE.fullmatch(name) for name in names) or math.isnan(generation.age):
                raise ValueError("a table has a name that no table has")
            if not all(isinstance(root, str) and Path(root).is_absolute() for root in generation.roots):
                raise ValueError("a root is no absolute path")
        except (KeyError, ValueError, TypeError) as error:
            raise CollectionError(f"{path} is damaged: {error}. {mend}") from error
        return generation

    def write(self, folder: Path) -> None:
        """Replace `chiasm.json`, at once."""
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "encoder": self.encoder,
            "by": __version__,
            "generation": self.number,
            "files": self.files,
            "since": self.since,
            "fingerprints": dict(self.fingerprints),
            "replaced": list(self.replaced),
            "roots": list(self.roots),
            "models": [asdict(model) for model in self.models],
        }
        write_whole(folder / "chiasm.json", strict_json(header))


@dataclass(frozen=True)
class Vectors:
    """Embeddings with what they belong to, row by row: the wholes of files and, where asked for, their other parts.

    Example:
        >>> rows = Vectors(
        ...     ("a", "a"), ("audio/0",) * 2, ("audio",) * 2, ("f00",) * 2, (None, "one"), np.eye(2), (None, "en"),
        ...     np.array([np.nan, 0]), np.array([np.nan, 1.5]),
        ... )
        >>> rows.whole().vectors.tolist()
        [[1.0, 0.0]]
    """

    items: tuple[str, ...]
    slots: tuple[str, ...]  # "image/0": the item's first image, as the manifest has it
    modalities: tuple[Modality, ...]  # what the row is of: "audio" where it is the sound track of a video
    hashes: tuple[str, ...]  # equal for equal content
    texts: tuple[str | None, ...]  # transcripts and passages, see `Embeddings.texts`
    vectors: Float[np.ndarray, "rows dim"]
    languages: tuple[str | None, ...]  # that are spoken, where they are known
    starts: Float[np.ndarray, " rows"]  # of parts in seconds, of texts in characters, float64; NaN: the whole content
    ends: Float[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def concatenate(cls, parts: Sequence[Vectors]) -> Vectors:
        """Return the rows of all parts, in order; at least one part, all of one dimension."""

        def end_to_end(columns: Sequence[Any]) -> Any:
            if isinstance(columns[0], np.ndarray):
                return np.concatenate(columns)
            return tuple(chain.from_iterable(columns))

        return cls(**{one.name: end_to_end([getattr(part, one.name) for part in parts]) for one in fields(cls)})

    @classmethod
    def of_table(cls, rows: pa.Table, vectors: Float[np.ndarray, "rows dim"] | None = None) -> Vectors:
        """Return rows of Lance with the columns of `VECTORS`, and with the vectors, by default of the column "vector"."""
        if vectors is None:
            vectors = matrix_of(rows["vector"])
        items, slots, modalities, hashes, texts, languages = (
            tuple(rows[name].to_pylist()) for name in VECTORS.names[:-2]
        )
        starts, ends = (rows[name].to_numpy() for name in ("start", "end"))
        return cls(items, slots, modalities, hashes, texts, vectors, languages, starts, ends)

    @classmethod
    def read(cls, table: lance.LanceDataset | None, keys: pa.ChunkedArray, *, wholes: bool) -> Vectors:
        """Read the rows of a table whose joined key is one of some, of whole contents only or of all parts."""
        if table is None:
            return cls.of_table(VECTORS.empty_table(), np.empty((0, 0), np.float32))
        rows = table.to_table(columns=VECTORS.names)
        chosen = pc.is_in(join_columns(rows, KEY), value_set=keys)
        if wholes:
            chosen = pc.and_(chosen, pc.is_null(rows["start"]))
        rows, mask = rows.filter(chosen), chosen.to_numpy()
        # Batch by batch into place: Arrow would hold all vectors twice to filter them, and is slow at it.
        vectors = np.empty((rows.num_rows, table.schema.field("vector").type.list_size), np.float32)
        seen = done = 0
        for batch in table.to_batches(columns=["vector"]) if rows.num_rows else ():
            part = matrix_of(batch["vector"])[mask[seen : seen + len(batch)]]
            vectors[done : done + len(part)] = part
            seen, done = seen + len(batch), done + len(part)
        return cls.of_table(rows, vectors)

    def as_table(self) -> pa.Table:
        """Return the rows for Lance, with the columns of `VECTORS` and "vector"."""
        columns = (self.items, self.slots, self.modalities, self.hashes, self.texts, self.languages)
        return pa.table(
            [
                *(pa.array(column, pa.string()) for column in columns),
                *(pa.array(column, pa.float64(), from_pandas=True) for column in (self.starts, self.ends)),
                vector_column(self.vectors),
            ],
            names=[*VECTORS.names, "vector"],
        )

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Vectors:
        """Return some of the rows, by number."""
        numbers = rows.tolist()

        def pick(column: Any) -> Any:
            return column[rows] if isinstance(column, np.ndarray) else tuple(column[number] for number in numbers)

        return Vectors(**{one.name: pick(getattr(self, one.name)) for one in fields(self)})

    def owned_by(self, item: str, slot: str, digest: str) -> Vectors:
        """Return the rows as those of one content of an item."""
        count = len(self)
        return replace(self, items=(item,) * count, slots=(slot,) * count, hashes=(digest,) * count)

    def whole(self) -> Vectors:
        """Return the rows of whole files: one a file."""
        return self.take(np.flatnonzero(np.isnan(self.starts)))


class Collection:
    """A folder with items and their embeddings. Make one with `create`, open one with `open`.

    It sees the tables that counted when it was opened, also after another encoder has taken over (`store.reembed`): for an
    hour these stay. `open` again sees the new ones.

    Args:
        path: the folder.
        encoder: its name.
        generation: which tables count. Default: those that do by now.
        replaces: what counts until this generation does; of one that is on its way to take over.

    Example:
        >>> import tempfile
        >>> collection = Collection.create(Path(tempfile.mkdtemp()) / "birds", encoder="offline")
        >>> collection.count(), Collection.open(collection.path).encoder
        (0, 'offline')
    """

    def __init__(
        self,
        path: Path,
        encoder: str,
        generation: Generation | None = None,
        *,
        replaces: Generation | None = None,
    ) -> None:
        self.path = path
        self.encoder = encoder
        self.generation = Generation.read(path) if generation is None else generation
        self.replaces = replaces
        self.tables = Tables(path, path / ".lock", "Restore it, or add the files to a new collection")

    # ------------------------------------------------------------------------------------------- open and make

    @classmethod
    def create(cls, path: str | Path, *, encoder: str) -> Collection:
        """Make an empty collection, or open the one that is there.

        Raises:
            CollectionError: the folder is not empty and not a collection, was made with another encoder, or cannot be
                made.
        """
        folder = _folder(path)
        if not os.path.exists(folder / "chiasm.json"):  # noqa: PTH110  # False also of a name that is too long
            _make(folder, encoder)
        opened = cls.open(folder)
        if opened.encoder != encoder:
            raise CollectionError(
                f"{folder} was made with the encoder {opened.encoder!r}; embeddings of {encoder!r} cannot be mixed in. "
                f"Add with --encoder {opened.encoder}, name another collection, or move this one over: chiasm reembed"
            )
        return opened

    @classmethod
    def open(cls, path: str | Path) -> Collection:
        """Open a collection.

        Raises:
            CollectionError: there is none, its `chiasm.json` is damaged or its items are gone, or it is of another format
                version.
        """
        folder = _folder(path)
        generation = Generation.read(folder, asked=path)
        opened = cls(folder, generation.encoder, generation)
        if opened.tables.has(generation.files) and not opened.tables.has("items"):  # which are written first
            raise CollectionError(f"{folder} is damaged: its table of items is gone. {opened.tables.advice}")
        return opened

    # ------------------------------------------------------------------------------------------------- roots

    @property
    def roots(self) -> tuple[Path, ...]:
        """Return the folders whose files a server may give away, as they are recorded at this moment (`record_roots`).

        `/` counts for nothing, whoever wrote it there: it would let everything through.
        """
        recorded = (Path(root) for root in Generation.read(self.path).roots)
        return tuple(root for root in recorded if root != root.parent)

    @property
    def uploads(self) -> Path:
        """Return the folder of the files that a server was sent; it moves with the collection, so it is not recorded."""
        return self.path.resolve() / "dropped"

    def record_roots(self, folders: Iterable[str]) -> None:
        """Record folders whose files a server may give away: those that somebody named, links resolved.

        Raises:
            CollectionError: the disk cannot be written to.
        """
        with self.tables.writing():
            now = Generation.read(self.path)
            roots = tuple(outermost((*now.roots, *folders)))
            if roots != now.roots:
                replace(now, roots=roots).write(self.path)

    def drop_roots(self) -> None:
        """Forget recorded folders that no file of the collection lies in any more.

        Raises:
            CollectionError: the disk cannot be written to.
        """
        with self.tables.writing():
            now = Generation.read(self.path)
            paths = self.tables.rows(now.files, FILES, ["path"])["path"].drop_null().to_pylist()
            used = real_folders(paths)
            roots = tuple(root for root in now.roots if any(is_within(folder, [root]) for folder in used))
            if roots != now.roots:
                replace(now, roots=roots).write(self.path)

    # ------------------------------------------------------------------------------------------------- read

    def count(self) -> int:
        """Return the number of items."""
        table = self.tables.open("items")
        return 0 if table is None else int(table.count_rows())

    @property
    def version(self) -> tuple[int, ...]:
        """Numbers that rise with every change of items or files; cheap to ask for."""
        return self.generation.number, *(self.tables.version(name) for name in ("items", self.generation.files))

    def items(self, *, where: str | None = None, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return rows of the items table: `id`, a list of paths (texts: paths or the texts themselves) a modality, metadata.

        Items of one manifest stand in its order. Times that had a zone are in UTC, without one.

        Args:
            where: condition on the columns, see `chiasm.store.where`. Default: all items.
            ids: only these items, in any order; not together with `where`.

        Raises:
            CollectionError: `where` is no condition on the columns.
        """
        if ids is not None:
            table = self.tables.open("items")
            if table is None or not ids:
                return []
            with self.tables.reading():
                composed = list(dict.fromkeys(map(one_form, ids)))
                rows = pa.concat_tables([table.to_table(filter=one_of("id", part)) for part in chunks(composed)])
        else:
            rows = self.table(where=where)
        return list(rows.drop_columns(["_source"]).to_pylist())

    def ids(self, *, where: str | None = None) -> list[str]:
        """Return the ids of the items, sorted.

        Args:
            where: as in `items`.

        Raises:
            CollectionError: as `items`.
        """
        return sorted(self.table(["id"], where=where)["id"].to_pylist())

    def table(self, columns: Sequence[str] = (), *, where: str | None = None) -> pa.Table:
        """Return columns of the items table, in its order.

        Args:
            columns: which. Default: all.
            where: as in `items`.

        Raises:
            CollectionError: as `items`.
        """
        table = self.tables.open("items")
        if where is None or table is None:
            return self.tables.rows("items", ITEMS, columns)
        return self.tables.rows("items", ITEMS, columns, where_sql(where, table.schema))

    def columns(self) -> list[str]:
        """Return the names of the metadata columns."""
        table = self.tables.open("items")
        return [] if table is None else [name for name in table.schema.names if name not in ITEMS.names]

    def files(self, *, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return a row a file: item, slot, modality, path, size, mtime_ns, hash, encoder, outcome, reason.

        Args:
            ids: of some items only. Default: of all.
        """
        condition = None if ids is None else one_of("item", ids)
        return list(self.tables.rows(self.generation.files, FILES, condition=condition).to_pylist())

    def outcomes(self) -> dict[str, int]:
        """Return the number of files by outcome."""
        return dict(Counter(self.tables.rows(self.generation.files, FILES, ["outcome"])["outcome"].to_pylist()))

    def embedded(self) -> dict[str, int]:
        """Return the number of files that have an embedding, by modality."""
        rows = self.tables.rows(self.generation.files, FILES, ["modality", "outcome"])
        counts = pc.value_counts(rows.filter(pc.is_in(rows["outcome"], value_set=pa.array(USABLE)))["modality"])
        return {one["values"]: one["counts"] for one in counts.to_pylist()}

    def modalities(self) -> set[str]:
        """Return the modalities of the files that have an embedding."""
        return set(self.embedded())

    def vectors(self, fingerprint: str, *, moments: bool = False) -> Vectors:
        """Return embeddings of one encoder: those of the content that the files had when they were last added.

        Args:
            fingerprint: of the encoder.
            moments: whether to give those of all parts, or only one a file.
        """
        current, (table,) = self.snapshot(f"embeddings-{fingerprint}")
        with self.tables.reading():
            return Vectors.read(table, current, wholes=not moments)

    def snapshot(self, *names: str) -> tuple[pa.ChunkedArray, list[lance.LanceDataset | None]]:
        """Return the joined keys of the content that the files hold, and tables of vectors as they were at that moment."""
        while True:
            files, *tables = (self.tables.open(name) for name in (self.generation.files, *names))
            if files is None:
                return pa.chunked_array([], pa.string()), tables
            # Otherwise they may point to vectors that were deleted before their table was opened.
            if files.latest_version == files.version:
                with self.tables.reading():
                    usable = files.to_table(columns=list(KEY), filter=one_of("outcome", USABLE))
                return join_columns(usable, KEY), tables

    # ------------------------------------------------------------------------------------------------ remove

    def remove(self, ids: Iterable[str]) -> int:
        """Delete items, their outcomes and every vector of theirs. Return how many items there were."""
        chosen = sorted(set(ids))
        with self.tables.writing():
            before = self.count()
            for name in (*self.tables.names("embeddings-"), *self.tables.names("files")):
                self.tables.delete(name, ["item"], chosen)
            for name in self.tables.names("search-"):
                self.tables.delete(name, ["id"], chosen)
            self.tables.delete("items", ["id"], chosen)
            return before - self.count()

    def purge(self) -> None:
        """Write all tables anew and delete every earlier version, so that no file holds rows that were removed.

        Searches meanwhile see the tables before or those after; what reads an old version reads again.
        """
        with self.tables.writing():
            for name in self.tables.names("items", "files", "embeddings-"):
                self.tables.rewrite(name)
                self.tables.drop_versions(name)

    def drop_replaced(self, *, unused_for: float = GRACE_SECONDS) -> tuple[str, ...]:
        """Delete the tables of encoders that were replaced. Return the names of the tables.

        Args:
            unused_for: seconds since the switch, before which nothing is deleted: a reader may not have seen it yet.
        """
        with self.tables.writing():
            now = Generation.read(self.path)
            if not now.replaced or now.age <= unused_for:
                return ()
            dropped = tuple(name for name in now.replaced if self.tables.drop(name))
            replace(now, replaced=()).write(self.path)
        return dropped

    # ------------------------------------------------------------------------------ write, for ingest and reembed

    def require_current(self) -> None:
        """Raise where another encoder has taken over since this was opened.

        Raises:
            CollectionError: one has.
        """
        now = Generation.read(self.path)
        mine = [one for one in (self.generation, self.replaces) if one is not None]
        if not any((now.number, now.encoder) == (one.number, one.encoder) for one in mine):
            raise CollectionError(
                f"{self.path} was re-embedded meanwhile: its encoder is {now.encoder!r} now, and was {mine[-1].encoder!r}. "
                "Run the same command again: what can be used stays"
            )

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Hold the lock for what is of no use once another encoder has taken over.

        Raises:
            CollectionError: one has, or the disk cannot be written to.
        """
        with self.tables.writing():
            self.require_current()
            yield

    def claim(self, tables: Iterable[str]) -> None:
        """Take tables off the list of those that are deleted, with the lock held: they are in use again."""
        now = Generation.read(self.path)
        left = tuple(name for name in now.replaced if name not in set(tables))
        if left != now.replaced:
            replace(now, replaced=left).write(self.path)

    def keep_models(self, models: Sequence[PretrainedModel]) -> None:
        """Write down which models the encoder runs, unless that is known."""
        if self.generation.models == tuple(models):
            return
        with self.committing():
            replace(Generation.read(self.path), models=tuple(models)).write(self.path)
        self.generation = replace(self.generation, models=tuple(models))

    def append_vectors(self, name: str, vectors: Vectors) -> None:
        """Write vectors whose key is not in a table yet, in order, with the lock held."""
        rows = vectors.as_table()
        mine, keys = join_columns(rows, KEY), join_columns(self.tables.rows(name, VECTORS, KEY), KEY)
        stored = keys.filter(pc.is_in(keys, value_set=mine))
        if len(stored):
            rows = rows.filter(pc.invert(pc.is_in(mine, value_set=stored)))
        if rows.num_rows:
            self.tables.append(name, rows)

    def tidy(self, done: Iterable[str]) -> None:
        """Delete vectors of content that no file has any more, and merge small fragments, with the lock held.

        Args:
            done: items whose files all have their rows.
        """
        slots: pa.ChunkedArray | None = None
        current = pa.chunked_array([], pa.string())
        outcomes = self.tables.names("files")  # also of earlier encoders and of one that is to take over
        for name in outcomes:
            files = self.tables.rows(name, FILES, [*KEY, "outcome"])
            usable = files.filter(pc.is_in(files["outcome"], value_set=pa.array(USABLE)))
            current = pa.chunked_array([*current.chunks, *join_columns(usable, KEY).chunks], pa.string())
            seen = join_columns(files, SLOT)  # in this table; what is to be continued may be of any of them
            slots = seen if slots is None else slots.filter(pc.is_in(slots, value_set=seen))
        items = self.tables.rows("items", ITEMS, ["id"])["id"]
        others = items.filter(pc.invert(pc.is_in(items, value_set=pa.array(list(done), pa.string()))))
        embeddings = self.tables.names("embeddings-")
        for name in embeddings:
            rows = self.tables.rows(name, VECTORS, KEY)
            keys = join_columns(rows, KEY)
            # Without a row in `files` they are of a commit that was cut off, and of use to the run that continues it.
            seen = pa.chunked_array([], pa.string()) if slots is None else slots
            cut_off = pc.and_not(
                pc.is_in(rows["item"], value_set=others), pc.is_in(join_columns(rows, SLOT), value_set=seen)
            )
            stale = pc.and_not(pc.invert(pc.is_in(keys, value_set=current)), cut_off)
            self.tables.delete(name, KEY, pc.unique(keys.filter(stale)).to_pylist())
        for name in (*embeddings, "items", *outcomes):
            self.tables.compact(name)
        if self.count() > INDEX_ROWS:
            self.tables.index("items", "id")
            self.tables.index(self.generation.files, "item")


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser().absolute()
    if any(letter < " " or letter == "\x7f" for letter in str(folder)):
        raise CollectionError(
            f"{str(folder)!r} has control characters in it, and tables cannot lie in such a folder. Rename it, or name another"
        )
    return folder


def _make(folder: Path, encoder: str) -> None:
    """Make an empty collection, unless another process was faster."""
    path = folder / "chiasm.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [entry for entry in folder.iterdir() if entry.name != ".lock" and not entry.match("*chiasm.json*")]
        if foreign and not path.exists():
            raise CollectionError(f"{folder} is not empty and not a collection. Name an empty or a new folder")
        with FileLock(folder / ".lock"):
            if not path.exists():
                Generation(encoder).write(folder)
    except OSError as error:
        raise CollectionError(f"{folder} cannot be made a collection: {error}. Name another folder") from error
