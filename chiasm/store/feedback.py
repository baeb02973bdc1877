"""Feedback on a collection: thumbs on search results and labels of items, one row a rating.

The rows are a SQLite file in the collection's folder, `feedback.sqlite`. It is not a Lance table as the others are: a
thumb is one row in a transaction of its own, from any of several processes, and deleted rows have to be gone, while a
Lance table gets a file for every commit and keeps deleted rows in old files and versions. Here freed space is
overwritten (SQLite's `secure_delete`).

The table is only added to and deleted from. Which rows have an effect is decided when they are read: of one person's
ratings of the same thing the latest, of several people's the one that most of them hold, and of equally many the one
that was given last. Rows of an item that is not in the collection have no effect; if an item of that id is added again,
they have one again. Learning from labels is in `chiasm.verbs.learn`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from chiasm.errors import CollectionError
from chiasm.files import one_form
from chiasm.splits import class_name
from chiasm.store.collection import Collection

FILE = "feedback.sqlite"
FORMAT_VERSION = 2
UNKNOWN = "unknown"
"""The label of an item that is of none of the classes, or that nobody can tell; see `FeedbackTable.labels`."""

MOST_ENTRIES = 10_000  # of one call
LONGEST: Mapping[str, int] = {"who": 200, "item": 2000, "column": 200, "verdict": 1000, "query": 10_000, "version": 200}
_WAIT = 30.0  # seconds for other writers

Kind: TypeAlias = Literal["thumb", "label"]

_TABLE = """
CREATE TABLE verdicts (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    who TEXT NOT NULL,
    kind TEXT NOT NULL,
    item TEXT NOT NULL,
    "column" TEXT NOT NULL,
    query TEXT NOT NULL,
    verdict TEXT NOT NULL,
    version TEXT NOT NULL
)"""

_COLUMNS = 'at, who, kind, item, "column", query, verdict, version'


@dataclass(frozen=True)
class Thumb:
    """One person's rating of one hit of one query."""

    item: str  # id of the hit
    verdict: Literal["up", "down"]  # whether it was right
    query: str = ""  # the words that were searched with; empty where there were none


@dataclass(frozen=True)
class Label:
    """The true value of a column of an item."""

    item: str  # its id
    column: str  # of the collection
    label: str  # the value as text; several labels of one item have ";" between. `UNKNOWN`: none of the classes


@dataclass(frozen=True)
class Rating:
    """One row as it is stored."""

    number: int  # rises from row to row; numbers of deleted rows do not come back
    at: datetime  # UTC
    who: str
    kind: Kind
    item: str
    column: str  # of a label; empty for a thumb
    query: str  # of a thumb; empty for a label
    verdict: str  # "up", "down", or the label
    version: str  # of the space or model that was looked at


class FeedbackTable:
    """The ratings of a collection. Opening it does nothing; the file is made by the first rating.

    May be used from several threads and processes at a time.

    Args:
        collection: an opened collection.

    Example:
        >>> import tempfile
        >>> table = FeedbackTable(Collection.create(tempfile.mkdtemp() + "/birds", encoder="offline"))
        >>> table.count()
        {'thumb': 0, 'label': 0, 'people': 0, 'items': 0}
    """

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self.path = collection.path / FILE

    # -------------------------------------------------------------------------------------------------------- write

    def add(self, entries: Sequence[Thumb | Label], *, who: str, version: str = "") -> int:
        """Store ratings, all or none, and return how many.

        Args:
            entries: at most `MOST_ENTRIES`.
            who: the person: a name or the id of a key, stored as it is. Never the key itself.
            version: of the space or model that was looked at.

        Raises:
            CollectionError: an item or column that the collection does not have, a text that is empty, too long or no
                valid Unicode, too many entries, or the table cannot be written.
        """
        if len(entries) > MOST_ENTRIES:
            raise CollectionError(f"at most {MOST_ENTRIES} ratings can be given at a time; got {len(entries)}")
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        who, version = _text("who", who), _text("version", version, empty=True)
        rows = [_row(entry, at, who, version) for entry in entries]
        self._refuse_missing(entries)
        if rows:
            with self._open(write=True) as table:
                assert table is not None  # it is made where it is not there
                table.executemany(
                    f"INSERT INTO verdicts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  of ours
                    rows,
                )
        return len(rows)

    def rename(self, items: Mapping[str, str]) -> None:
        """Give what was said about items to others: ids before -> ids now.

        Raises:
            CollectionError: the table cannot be written.
        """
        with self._open(write=True, make=False) as table:
            if table is not None:
                table.executemany(
                    "UPDATE verdicts SET item = ? WHERE item = ?", [(new, old) for old, new in items.items()]
                )

    def delete(self, *, who: str) -> int:
        """Delete everything that a person said, for good, and return how many rows that were.

        Raises:
            CollectionError: the table cannot be written.
        """
        return self._delete("who", [who])

    def delete_items(self, items: Sequence[str]) -> int:
        """Delete everything that was said about items, for good, and return how many rows that were.

        Raises:
            CollectionError: the table cannot be written.
        """
        return self._delete("item", items)

    def _delete(self, column: Literal["who", "item"], values: Sequence[str]) -> int:
        with self._open(write=True, make=False) as table:
            if table is None:
                return 0
            condition = f"DELETE FROM verdicts WHERE {column} = ?"  # noqa: S608  of ours
            return table.executemany(condition, [(value,) for value in values]).rowcount

    # --------------------------------------------------------------------------------------------------------- read

    def rows(self) -> list[Rating]:
        """Return the stored rows, oldest first.

        Raises:
            CollectionError: the table cannot be read.
        """
        with self._open() as table:
            query = f"SELECT number, {_COLUMNS} FROM verdicts ORDER BY number"  # noqa: S608  names of ours
            rows = [] if table is None else table.execute(query).fetchall()
        return [Rating(number, datetime.fromisoformat(at), *texts) for number, at, *texts in rows]

    def count(self) -> dict[str, Any]:
        """Return the number of rows by kind, of people and of items; of all rows, with or without effect."""
        with self._open() as table:
            if table is None:
                return {"thumb": 0, "label": 0, "people": 0, "items": 0}
            kinds = {"thumb": 0, "label": 0} | dict(
                table.execute("SELECT kind, COUNT(*) FROM verdicts GROUP BY kind").fetchall()
            )
            people, items = table.execute("SELECT COUNT(DISTINCT who), COUNT(DISTINCT item) FROM verdicts").fetchone()
        return kinds | {"people": people, "items": items}

    def labels(self, column: str) -> dict[str, str]:
        """Return the value of a column that most people gave each item of the collection, by id; `UNKNOWN` among them.

        Raises:
            CollectionError: the table or the collection cannot be read.
        """
        ratings: dict[str, dict[str, Rating]] = {}
        for row in self.rows():
            if row.kind == "label" and row.column == column:
                ratings.setdefault(row.item, {})[row.who] = row
        present = self._present(ratings)
        return {item: _majority(latest.values()) for item, latest in ratings.items() if item in present}

    # ----------------------------------------------------------------------------------------------------- the file

    def _refuse_missing(self, entries: Sequence[Thumb | Label]) -> None:
        """Raise where an item or a column is not in the collection."""
        columns = self.collection.columns()
        for entry in entries:
            if isinstance(entry, Label) and one_form(entry.column) not in columns:
                raise CollectionError(
                    f"{self.collection.path} has no column {entry.column!r}. Its columns: {', '.join(columns) or 'none'}"
                )
        ids = {one_form(entry.item) for entry in entries}
        missing = sorted(ids - self._present(ids))
        if missing:
            raise CollectionError(
                f"{self.collection.path} has no item {missing[0]!r:.200}"
                + (f" (and {len(missing) - 1} more of those named)" if len(missing) > 1 else "")
                + ". Its ids: chiasm search --json, or /v1/items"
            )

    def _present(self, ids: Iterable[str]) -> set[str]:
        """Return those of some ids that are in the collection."""
        return {str(row["id"]) for row in self.collection.items(ids=sorted(ids))}

    @contextmanager
    def _open(self, *, write: bool = False, make: bool = True) -> Iterator[sqlite3.Connection | None]:
        """Open a connection for one transaction; None where there is no table and none is made."""
        if not self.path.exists() and not (write and make):
            yield None
            return
        try:
            # Readers may write, too, since whoever comes next undoes a write that was cut off; SQLite falls back to
            # reading alone where the file is protected.
            address = f"{self.path.as_uri()}?mode={'rwc' if write and make else 'rw'}"
            with closing(sqlite3.connect(address, uri=True, timeout=_WAIT, isolation_level=None)) as table:
                table.execute("PRAGMA secure_delete = ON")
                table.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                (version,) = table.execute("PRAGMA user_version").fetchone()
                if version == 0 and write:
                    table.execute(_TABLE)
                    table.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
                elif version not in (0, FORMAT_VERSION):
                    raise CollectionError(
                        f"{self.path} has format version {version} and this chiasm reads {FORMAT_VERSION}. Use the "
                        "chiasm that wrote it"
                    )
                yield table if version or write else None  # a file without a table: its first write was cut off
                table.execute("COMMIT")
        except sqlite3.Error as error:
            raise CollectionError(
                f"{self.path} cannot be {'written' if write else 'read'}: {error}. Free space, fix the permissions or "
                "restore it; without this file all feedback is gone and everything else works"
            ) from error


def _row(entry: Thumb | Label, at: str, who: str, version: str) -> tuple[str, ...]:
    """Return a row of the table without its number."""
    item = _text("item", entry.item)
    if isinstance(entry, Label):
        label = _text("verdict", entry.label.strip())
        return at, who, "label", item, _text("column", entry.column), "", label, version
    if entry.verdict not in ("up", "down"):
        raise CollectionError(f"a thumb is 'up' or 'down'; got {entry.verdict!r:.80}")
    return at, who, "thumb", item, "", _text("query", entry.query, empty=True), entry.verdict, version


def _majority(latest: Iterable[Rating]) -> str:
    """Return the verdict that most people hold, however they write it; of equally many, the one that was given last."""
    rows = sorted(latest, key=lambda row: row.number)
    votes = Counter(class_name(row.verdict) for row in rows)
    last = {class_name(row.verdict): row for row in rows}
    return last[max(votes, key=lambda name: (votes[name], last[name].number))].verdict


def _text(name: str, value: str, *, empty: bool = False) -> str:
    """Return a text that can be stored; raise where it is empty, too long or no valid Unicode."""
    what = "label" if name == "verdict" else name
    if not value and not empty:
        raise CollectionError(f"{what} must not be empty")
    if len(value) > LONGEST[name]:
        raise CollectionError(f"{what} has {len(value)} characters; at most {LONGEST[name]} are kept")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise CollectionError(f"{what} is no valid Unicode: {value!r:.80}")
    return one_form(value)
