"""Full text of a collection: which items hold the words of a query, by BM25.

A document is the text of one slot of an item (written in the manifest, or the content of a text file), a transcript of
a sound or of a moment of it, or what the item's columns of text say, with its id. Documents are kept in the folder
`fulltext` of the collection, a Lance table with Lance's inverted index, beside `state.json`, which says what they were
made from. A document has a key over what it is of, so only those that are missing are read and those of content that is
gone are deleted. The state is written last: an update that was cut off at any point is completed by the next one.

Words are compared without case, accents and endings (`language`), and split by the rules of Unicode with dictionaries
for scripts that do not set spaces; Lance's stop words count nowhere. BM25 is Lucene's, with k1 1.2 and b 0.75.

What is left to others: how words and vectors are weighed against each other (`chiasm.retrieval.hybrid`).
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args

import lance
import numpy as np
import pyarrow as pa
from filelock import FileLock
from jaxtyping import Float64
from lance.query import MatchQuery

from chiasm import media
from chiasm.errors import CollectionError, MediaError
from chiasm.store.collection import Collection, newest, write_whole
from chiasm.types import FileOutcome, Outcome, Text

FORMAT_VERSION = 1

Language = Literal[
    "Arabic",
    "Danish",
    "Dutch",
    "English",
    "Finnish",
    "French",
    "German",
    "Greek",
    "Hungarian",
    "Italian",
    "Norwegian",
    "Portuguese",
    "Romanian",
    "Russian",
    "Spanish",
    "Swedish",
    "Tamil",
    "Turkish",
]
"""Whose endings are cut off. Words of other languages are found in the form in which they are written."""

METADATA = "metadata"  # the slot of a document of columns
QUERY_CHARACTERS = 10_000  # of a query; the rest of it is not looked for
COMMIT_DOCUMENTS = 2048
COMPACT_FRAGMENTS = 16
DELETED = 0.1  # of the documents; with more of them, or more fragments, the table is written anew
FIRST_DOCUMENTS = 256  # looked at first; more where they are of too few items

_LISTED = 4096  # values in one SQL condition
_USABLE = (Outcome.OK, Outcome.DUPLICATE)
_INDEX = "text_idx"
_DOCUMENTS = pa.schema(
    [
        ("key", pa.string()),
        ("item", pa.string()),
        ("slot", pa.string()),
        ("start", pa.float64()),  # seconds, of moments
        ("end", pa.float64()),
        ("text", pa.string()),
    ]
)
_HIT = ("item", "slot", "start", "end", "text")


@dataclass(frozen=True, eq=False)
class WordHits:
    """The best document of each item that was found, best first; of equal scores by item."""

    items: tuple[str, ...]
    slots: tuple[str, ...]  # "text/0", or `METADATA`
    starts: Float64[np.ndarray, " hits"]  # seconds, of moments; NaN: of the whole
    ends: Float64[np.ndarray, " hits"]
    texts: tuple[str, ...]
    scores: Float64[np.ndarray, " hits"]  # above 0

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class FullTextReport:
    """What an update did."""

    documents: int  # in the index, after it
    added: int
    removed: int
    unread: tuple[FileOutcome, ...]  # text files that have no document, or an old one, and why


@dataclass(frozen=True)
class _Source:
    """Where a document comes from: its text, or the file that holds it."""

    key: str
    item: str
    slot: str
    text: str | None = None
    path: str | None = None
    stored: tuple[int | None, int | None] = (None, None)  # size and time of change of the file that was embedded
    start: float | None = None
    end: float | None = None


class FullText:
    """The words of a collection. `update` after it has changed, then `search`.

    Args:
        collection: an opened collection.
        heard: fingerprints of the encoders whose transcripts count, e.g. of the speech encoder.
    """

    def __init__(self, collection: Collection, *, heard: Sequence[str] = ()) -> None:
        self.collection = collection
        self.heard = tuple(sorted(set(heard)))
        self._folder = collection.path / "fulltext"
        self._path = self._folder / "documents.lance"
        self._state = self._folder / "state.json"

    @classmethod
    def kept(cls, collection: Collection) -> FullText | None:
        """The words that are kept of a collection, of the transcripts that they were made from; None without any."""
        made_from = cls(collection)._read_state().get("made_from")
        if not isinstance(made_from, dict):
            return None
        prefix = "embeddings-"
        return cls(collection, heard=[name.removeprefix(prefix) for name in made_from if name.startswith(prefix)])

    # ------------------------------------------------------------------------------------------------------- update

    def is_current(self) -> bool:
        """Whether nothing has changed in the collection since the last update was complete."""
        return bool(self._read_state().get("made_from") == self._versions())

    def update(self, *, language: Language | None = None) -> FullTextReport:
        """Add documents that are missing, delete those of content that is gone, and bring the index up to date.

        Text files that cannot be read, or are no longer as they were when they were embedded, keep the document they
        have, if any, and are named in the report. May be interrupted or killed at any point and run again.

        Args:
            language: see `Language`; another one than before makes the index anew. Default: as before, at first
                English.

        Raises:
            CollectionError: the language is not known, or the index cannot be written or is damaged.
        """
        if language is not None and language not in get_args(Language):
            raise CollectionError(f"the language {language!r} is not known. Choose of: {', '.join(get_args(Language))}")
        if self._read_state().get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            with self._writing():
                shutil.rmtree(self._folder)
        added = removed = 0
        while True:
            versions = self._versions()
            sources = list(self._sources())
            stored = self._keys()
            missing = [source for source in sources if source.key not in stored]
            unread: list[FileOutcome] = []
            for begin in range(0, len(missing), COMMIT_DOCUMENTS):
                rows = [_read(source, unread) for source in missing[begin : begin + COMMIT_DOCUMENTS]]
                added += self._add([row for row in rows if row is not None])
            with self._writing():
                # Otherwise another process may have added from a newer state what looks stale from here.
                settled = self._versions() == versions
                if settled:
                    removed += self._delete(self._keys() - {source.key for source in sources})
                    self._index(language)
                    state = {"format_version": FORMAT_VERSION, "made_from": versions}
                    self._folder.mkdir(exist_ok=True)
                    write_whole(self._state, json.dumps(state, indent=2) + "\n")
            if settled:
                table = self._table()
                return FullTextReport(0 if table is None else table.count_rows(), added, removed, tuple(unread))

    # ------------------------------------------------------------------------------------------------------- search

    def search(self, text: str, *, k: int, among: Container[str] | None = None) -> WordHits:
        """The k items whose best document scores highest for the words of a text; fewer where fewer hold any of them.

        A document need not hold all words. Nothing in the text has a meaning beyond its words: quotes, brackets and
        operators are punctuation. A text without words, or of stop words only, finds nothing.

        Args:
            text: words, of which the first `QUERY_CHARACTERS` characters are looked for.
            k: items at the most.
            among: ids of the items that may be found. Default: all.

        Raises:
            CollectionError: the index is damaged or of another format version.
            ValueError: k below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        version = self._read_state().get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CollectionError(
                f"{self._folder} has format version {version} and this chiasm reads {FORMAT_VERSION}. Run chiasm add "
                "again: the index is made anew"
            )
        table = self._table()
        if table is None or not table.describe_indices():  # else all documents would be read for every query
            return _hits([])
        query = MatchQuery(text[:QUERY_CHARACTERS], "text")
        limit = max(FIRST_DOCUMENTS, 4 * k)
        while True:
            with self._reading():
                rows = table.to_table(columns=[*_HIT, "_score"], full_text_query=query, limit=limit).to_pylist()
            rows.sort(key=lambda row: (-row["_score"], row["item"], row["slot"], row["start"] or 0.0))
            best: dict[str, dict[str, Any]] = {}
            for row in rows:
                if among is None or row["item"] in among:
                    best.setdefault(row["item"], row)
            if len(best) >= k or len(rows) < limit:
                return _hits(list(best.values())[:k])
            limit *= 4

    def covered(self) -> frozenset[str]:
        """Items with words of their own: a text or a transcript, not only columns. See `hybrid.Found.covers`."""
        table = self._table()
        if table is None:
            return frozenset()
        with self._reading():
            rows = table.to_table(columns=["item"], filter=f"slot != '{METADATA}'")
        return frozenset(rows["item"].to_pylist())

    # ---------------------------------------------------------------------------------------------------- documents

    def _sources(self) -> Iterator[_Source]:
        """All documents that there should be. The texts of files are not read yet."""
        items = {str(row["id"]): row for row in self.collection.items()}
        for file in self.collection.files():
            item, slot, path = file["item"], file["slot"], file["path"]
            if file["modality"] != "text" or item not in items:
                continue
            if path is not None and file["outcome"] in _USABLE:
                key = _key(item, slot, "file", file["hash"])
                yield _Source(key, item, slot, path=path, stored=(file["size"], file["mtime_ns"]))
            elif path is None and file["outcome"] != Outcome.EMPTY:
                modality, _, number = slot.partition("/")
                written = items[item][modality] or ()
                if int(number) < len(written):  # else the item has changed and its files are not there yet
                    text = written[int(number)]
                    yield _Source(_key(item, slot, "written", text), item, slot, text=text)
        for fingerprint in self.heard:
            spoken = self.collection.vectors(fingerprint, moments=True)
            spans = zip(spoken.starts.tolist(), spoken.ends.tolist(), strict=True)
            columns = (spoken.items, spoken.slots, spoken.texts, spans)
            for item, slot, text, (start, end) in zip(*columns, strict=True):
                if text and text.strip() and item in items:
                    whole = math.isnan(start)
                    key = _key(item, slot, "heard", text, "" if whole else repr((start, end)))
                    yield _Source(
                        key, item, slot, text=text, start=None if whole else start, end=None if whole else end
                    )
        columns_of_text = self.collection.columns()
        for item, row in items.items():
            said = "\n".join([item, *(row[name] for name in columns_of_text if isinstance(row[name], str))])
            yield _Source(_key(item, METADATA, said), item, METADATA, text=said)

    def _versions(self) -> dict[str, int]:
        """Versions of the collection's tables that documents are made from."""
        names = (
            "items",
            self.collection.generation.files,
            *(f"embeddings-{fingerprint}" for fingerprint in self.heard),
        )
        tables = {name: self._opened(self.collection.path / f"{name}.lance") for name in names}
        return {name: table.version for name, table in tables.items() if table is not None}

    def _keys(self) -> set[str]:
        table = self._table()
        if table is None:
            return set()
        with self._reading():
            return set(table.to_table(columns=["key"])["key"].to_pylist())

    def _read_state(self) -> dict[str, Any]:
        """What the last complete update left; nothing where there was none, or the file is damaged: then all is looked at."""
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    # ------------------------------------------------------------------------------------------------------- tables

    def _table(self) -> lance.LanceDataset | None:
        return self._opened(self._path)

    def _opened(self, path: Path) -> lance.LanceDataset | None:
        with self._reading():
            return newest(path)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            raise CollectionError(
                f"{self._folder} cannot be read: {error}. It holds nothing that the collection does not: delete this "
                "folder, and it is made anew"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the collection's lock; turn what a full or read-only disk says into an error that teaches."""
        try:
            with FileLock(self.collection.path / ".lock"):
                yield
        except OSError as error:
            raise CollectionError(
                f"{self._folder} cannot be written: {error}. What was committed is safe: free space or fix the "
                "permissions, and run the same command again"
            ) from error

    def _add(self, rows: Sequence[dict[str, Any]]) -> int:
        """Write documents whose key is not there yet. Gives how many."""
        with self._writing():
            stored = self._keys()
            new = {row["key"]: row for row in rows if row["key"] not in stored}
            if new:
                self._folder.mkdir(exist_ok=True)
                table = pa.Table.from_pylist(list(new.values()), schema=_DOCUMENTS)
                lance.write_dataset(table, str(self._path), mode="append" if self._table() is not None else "create")
            return len(new)

    def _delete(self, keys: set[str]) -> int:
        table = self._table()
        listed = sorted(keys)
        for begin in range(0, len(listed), _LISTED):
            assert table is not None  # there are keys in it
            table.delete("key IN (" + ", ".join(f"'{key}'" for key in listed[begin : begin + _LISTED]) + ")")
        return len(listed)

    def _index(self, language: Language | None) -> None:
        """Index what is not indexed, anew where the language is another one, and merge small fragments."""
        table = self._table()
        if table is None:
            return
        stored = table.stats.dataset_stats()
        # Deleted documents count among those that a word is rare in until their fragment is written anew.
        if stored["num_fragments"] > COMPACT_FRAGMENTS or stored["num_deleted_rows"] > DELETED * table.count_rows():
            table.optimize.compact_files()
        found = table.stats.index_stats(_INDEX) if table.describe_indices() else None
        before = found["indices"][0]["params"]["language"] if found else None
        if found is None or (language is not None and language != before):
            table.create_scalar_index(
                "text",
                "INVERTED",
                name=_INDEX,
                replace=True,
                base_tokenizer="icu/split",
                language=language or before or "English",
                stem=True,
                remove_stop_words=True,
                ascii_folding=True,
            )
        elif found["num_unindexed_rows"]:
            table.optimize.optimize_indices()
        # Readers hold a version for the length of one call; an hour is beyond any of them.
        table.cleanup_old_versions(older_than=timedelta(hours=1))


def _key(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


def _read(source: _Source, unread: list[FileOutcome]) -> dict[str, Any] | None:
    """A row of the table; None, and a note in `unread`, where the file cannot be read or is another one by now."""
    text = source.text
    if source.path is not None:
        try:
            now = Path(source.path).stat()
            if (now.st_size, now.st_mtime_ns) != source.stored:
                raise MediaError(Outcome.BROKEN, "the file has changed since it was added. Run chiasm add again")
            medium = media.load(source.path)
        except OSError as error:
            unread.append(FileOutcome(source.path, Outcome.BROKEN, f"the file cannot be read: {error.strerror}"))
            return None
        except MediaError as error:
            unread.append(FileOutcome(source.path, error.outcome, error.reason))
            return None
        assert isinstance(medium, Text)  # as it was, by size and time
        text = medium.text
    return {
        "key": source.key,
        "item": source.item,
        "slot": source.slot,
        "start": source.start,
        "end": source.end,
        "text": text,
    }


def _hits(rows: Sequence[dict[str, Any]]) -> WordHits:
    return WordHits(
        items=tuple(row["item"] for row in rows),
        slots=tuple(row["slot"] for row in rows),
        starts=np.array([row["start"] for row in rows], dtype=np.float64),  # None becomes NaN
        ends=np.array([row["end"] for row in rows], dtype=np.float64),
        texts=tuple(row["text"] for row in rows),
        scores=np.array([row["_score"] for row in rows], dtype=np.float64),
    )
