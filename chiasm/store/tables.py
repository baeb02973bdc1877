"""The one door to Lance: tables in a folder are opened, appended to, merged, deleted from and compacted here.

A Lance table that is open is a snapshot, so readers need no lock. Writers hold one lock file for the length of a commit.
What the columns mean is left to the owners of the tables. To keep tables in an object store, change `Tables.path`,
`Tables.open`, `Tables.names`, `Tables.drop` and the lock: nothing else here or above looks at files of tables.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock
from jaxtyping import Float
from lance import Session  # type: ignore[attr-defined]  # public, and not listed
from lance.query import MatchQuery

from chiasm.errors import CollectionError
from chiasm.files import remove_stale

GRACE_SECONDS = 3600.0  # how long data that was replaced stays, for readers that have not noticed yet
VECTOR = "_vector"  # the column of vectors of a table that is searched
COMPACT_FRAGMENTS = 32  # more fragments than this are merged: each costs an open file when searching
COMPACT_DELETED = 0.1  # a larger share of deleted rows is removed from the files for good
LISTED = 4096  # values in one SQL condition
SEPARATOR = "\0"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Tables:
    """The Lance tables of one folder.

    Attributes:
        folder: where `NAME.lance` are; made by the first write.
        lock: the lock file that all writers of these tables share.
        advice: what to do where a table is damaged.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> tables = Tables(folder, folder / ".lock", "Restore it")
        >>> with tables.writing():
        ...     tables.append("items", pa.table({"id": ["a", "b", "c"]}))
        ...     tables.delete("items", ["id"], ["b"])
        >>> tables.rows("items", pa.schema([("id", pa.string())]))["id"].to_pylist()
        ['a', 'c']
    """

    folder: Path
    lock: Path
    advice: str
    # What Lance has read of indexes and manifests, kept from one opening of a table to the next.
    session: Session = field(default_factory=Session, repr=False, compare=False)
    _begun_with: set[Path] = field(default_factory=set, repr=False, compare=False)  # files, when the lock was taken

    # ---------------------------------------------------------------------------------------------------------- read

    def path(self, name: str) -> Path:
        """Return where a table is."""
        return self.folder / f"{name}.lance"

    def names(self, *prefixes: str) -> list[str]:
        """Return the names of the tables that begin with one of the prefixes, sorted."""
        return sorted(path.stem for path in self.folder.glob("*.lance") if path.stem.startswith(prefixes))

    def open(self, name: str) -> lance.LanceDataset | None:
        """Open the newest version of a table; None where nothing was written, or the first commit was cut off.

        Raises:
            CollectionError: the table is damaged.
        """
        with self.reading():
            return lance.dataset(str(self.path(name)), session=self.session) if self.has(name) else None

    def has(self, name: str) -> bool:
        """Return whether anything was ever written to a table."""
        return any((self.path(name) / "_versions").glob("*.manifest"))

    def version(self, name: str) -> int:
        """Return a number that rises with every commit to a table; 0 before the first."""
        table = self.open(name)
        return 0 if table is None else int(table.version)

    def rows(self, name: str, schema: pa.Schema, columns: Sequence[str] = (), condition: str | None = None) -> pa.Table:
        """Return rows of a table.

        Args:
            name: of the table.
            schema: the columns that it has at least; those of the empty result where there is no table.
            columns: which of them. Default: all that the table has.
            condition: SQL that the rows meet. Default: all rows.
        """
        table = self.open(name)
        if table is None:
            return schema.empty_table().select(columns or schema.names)
        return self._newest(table, lambda newest: newest.to_table(columns=list(columns) or None, filter=condition))

    def match(self, name: str, column: str, words: str, columns: Sequence[str], limit: int) -> list[dict[str, Any]]:
        """Return the rows whose text holds any of some words, with their BM25 score as "_score"; none without an index.

        The score is Lucene's, with k1 1.2 and b 0.75. The words have no syntax: quotes and operators are punctuation.
        """
        table = self.open(name)
        if table is None or not _has_index(table, column):  # else all rows would be read for every query
            return []
        query = MatchQuery(words, column)
        names = [*columns, "_score"]
        rows = self._newest(table, lambda newest: newest.to_table(columns=names, full_text_query=query, limit=limit))
        return list(rows.to_pylist())

    def _newest(self, table: lance.LanceDataset, read: Callable[[lance.LanceDataset], pa.Table]) -> pa.Table:
        """Read a table; again where it was written anew meanwhile, and the files of this version are gone (`rewrite`)."""
        while True:
            with self.reading():
                try:
                    return read(table)
                except (ValueError, OSError):
                    if table.latest_version == table.version:
                        raise
                    table = table.checkout_version(table.latest_version)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what Lance says about a table that it cannot read into an error that teaches."""
        try:
            yield
        except (ValueError, OSError) as error:
            raise CollectionError(f"{self.folder} is damaged: {_message(error)}. {self.advice}") from error

    # --------------------------------------------------------------------------------- write, with the lock held

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock; turn what a full or read-only disk says into an error that teaches. Not reentrant."""
        try:
            with FileLock(self.lock):
                self._remove_stale()
                self._begun_with.clear()
                self._begun_with.update(self._files())
                try:
                    yield
                finally:
                    self.require_whole()
        except OSError as error:
            raise CollectionError(
                f"{self.folder} cannot be written: {_message(error)}. What was committed is safe: free space or fix the "
                "permissions, and run the same command again"
            ) from error

    def _remove_stale(self) -> None:
        """Remove what writers that were killed, or had no room, have left: nobody else writes while the lock is held."""
        remove_stale(self.folder)
        for pattern in ("*.lance/*/.tmp*", "*.lance/_indices/*/.tmp*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)

    def require_whole(self) -> None:
        """Undo what was committed since the lock was taken if a file of it lacks its end.

        Lance does not ask how its last write to a file went, and on a full disk commits the file all the same
        (benchmarks/LOG.md). To be called before anything is deleted or said for good; `writing` does so at its end.

        Raises:
            OSError: one does.
        """
        new = set(self._files()) - self._begun_with
        short = [path for path in new if path.suffix in _WITH_END and not _has_end(path)]
        if short:
            for path in (*(path for path in new if path.suffix == ".manifest"), *short):
                path.unlink(missing_ok=True)
            raise OSError(f"the end of {short[0].relative_to(self.folder)} could not be written; the disk may be full")

    def _files(self) -> Iterator[Path]:
        for pattern in ("_versions/*.manifest", "data/*", "_indices/*/*"):
            yield from self.folder.glob(f"*.lance/{pattern}")

    def append(self, name: str, rows: pa.Table) -> None:
        """Write rows at the end of a table, or make it of them."""
        self.folder.mkdir(exist_ok=True)
        mode = "create" if self.open(name) is None else "append"
        lance.write_dataset(rows, str(self.path(name)), mode=mode)

    def merge(self, name: str, columns: Sequence[str], rows: pa.Table) -> None:
        """Write rows in the place of those that are equal in some columns, and append the others."""
        table = self.open(name)
        if table is None:
            self.append(name, rows)
        else:
            table.merge_insert(list(columns)).when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, name: str, columns: Sequence[str], values: Sequence[str]) -> None:
        """Delete rows by what their columns hold, joined as by `join_columns`."""
        table = self.open(name)
        key = f" || {_quoted(SEPARATOR)} || ".join(columns)
        if table is not None:
            for part in chunks(values):
                table.delete(one_of(key, part))

    def compact(self, name: str) -> None:
        """Merge small fragments and write those without their deleted rows where there are many."""
        table = self.open(name)
        if table is None:
            return
        stats = table.stats.dataset_stats()
        if stats["num_fragments"] > COMPACT_FRAGMENTS or stats["num_deleted_rows"] > COMPACT_DELETED * max(
            table.count_rows(), COMPACT_FRAGMENTS
        ):
            table.optimize.compact_files()
            self.require_whole()
            # Readers hold a version for the length of one call; an hour is beyond any of them.
            table.cleanup_old_versions(older_than=timedelta(seconds=GRACE_SECONDS))

    def rewrite(self, name: str) -> None:
        """Write a table anew, so that no file of its newest version holds anything of rows that were deleted.

        Its indexes are made anew, too, but for those of vectors. What is before stays until `drop_versions`.
        """
        table = self.open(name)
        if table is None:
            return
        indexes = [(index.field_names[0], index.index_type == "Inverted") for index in table.describe_indices()]
        rows = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
        lance.write_dataset(rows, str(self.path(name)), mode="overwrite")
        for column, words in indexes:
            if column != VECTOR:
                self.index(name, column, words=words)

    def drop_versions(self, name: str) -> None:
        """Delete all versions of a table but the newest, for good; who reads one of them has to read again."""
        table = self.open(name)
        if table is not None:
            self.require_whole()
            table.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)

    def index(self, name: str, column: str, *, words: bool = False) -> None:
        """Make an index of a column, by its values or by the words in it, or bring it up to date.

        Words are compared without case, accents and English endings, and split by the rules of Unicode, with
        dictionaries for scripts that do not set spaces; Lance's stop words count nowhere.
        """
        table = self.open(name)
        if table is None:
            return
        if _has_index(table, column):
            table.optimize.optimize_indices()
        elif words:
            table.create_scalar_index(
                column,
                "INVERTED",
                base_tokenizer="icu/split",
                language="English",
                stem=True,
                remove_stop_words=True,
                ascii_folding=True,
            )
        else:
            table.create_scalar_index(column, "BTREE")

    def drop(self, name: str) -> bool:
        """Delete a table; one whose deletion was cut off is never taken for a table. Return whether there was one."""
        path, beside = self.path(name), self.folder / f"{name}.gone"
        if beside.exists():  # of a deletion that was cut off
            shutil.rmtree(beside)
        if not path.exists():
            return False
        path.replace(beside)
        shutil.rmtree(beside)
        return True

    def age(self, name: str) -> float:
        """Return the seconds since the last commit to a table."""
        times = [path.stat().st_mtime for path in (self.path(name) / "_versions").glob("*")]
        return time.time() - max(times, default=0.0)


_WITH_END = (".lance", ".idx")  # files of Lance's own format, of rows and of indexes


def _has_end(path: Path) -> bool:
    """Return whether a file of Lance's format ends as these do."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
        return file.read() == b"LANC"


def _has_index(table: lance.LanceDataset, column: str) -> bool:
    return any(column in index.field_names for index in table.describe_indices())


# --------------------------------------------------------------------------------------------------------------- Arrow


def join_columns(rows: pa.Table, columns: Sequence[str]) -> pa.ChunkedArray:
    """Return several columns of text as one, so that rows can be looked up in it."""
    return pc.binary_join_element_wise(*(rows[column] for column in columns), SEPARATOR)


def matrix_of(column: pa.ChunkedArray | pa.FixedSizeListArray) -> Float[np.ndarray, "rows dim"]:
    """Return a column of vectors as a matrix, without a copy where it is in one piece."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    flat: Float[np.ndarray, " values"] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def vector_column(vectors: Float[np.ndarray, "rows dim"]) -> pa.FixedSizeListArray:
    """Return a matrix as a column of vectors, float32."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


# ----------------------------------------------------------------------------------------------------------------- SQL


def one_of(column: str, values: Iterable[str]) -> str:
    """Return the SQL condition that a column, or an expression of columns, holds one of some texts.

    Example:
        >>> one_of("id", ["a", "it's"])
        "id IN ('a', 'it''s')"
    """
    return f"{column} IN ({', '.join(map(_quoted, values))})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _message(error: Any) -> str:
    """Return what Lance says, without where in its source it says so."""
    words = re.split(r",? (?:location: )?/\S+\.rs:\d", str(error))[0].strip(": ")
    return re.sub(r"^(?:LanceError\(\w+\): )+", "", words)


def chunks(values: Sequence[_T], size: int = LISTED) -> Iterator[Sequence[_T]]:
    """Yield the values in parts of at most so many."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
