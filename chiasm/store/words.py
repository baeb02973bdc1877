"""Full text of a collection: which items hold the words of a query, by BM25 (see `Tables.match`, `Tables.index`).

A document is the text of one slot of an item (written in the manifest, or the content of a text file), a transcript of
a sound or of a moment of it, or what the item's columns of text say, with its id. Documents are kept in the folder
`fulltext` of the collection, a Lance table with Lance's inverted index, beside `state.json`, which says what they were
made from. A document has a key over what it is of, so only those that are missing are read and those of content that is
gone are deleted. The state is written last: an update that was cut off at any point is completed by the next one.

How words and vectors are weighed against each other is in `chiasm.retrieval.hybrid`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from chiasm import media, work
from chiasm.errors import MediaError
from chiasm.files import digest_file, digest_text, read_record, strict_json, write_whole
from chiasm.store.collection import INDEX_ROWS, USABLE, Collection
from chiasm.store.ingest import file_stat
from chiasm.store.tables import Tables, chunks, one_of
from chiasm.types import FileOutcome, Outcome, Text

FORMAT_VERSION = 1

METADATA = "metadata"  # the slot of a document of columns
QUERY_CHARACTERS = 10_000  # of a query; the rest of it is not looked for
COMMIT_DOCUMENTS = 2048
FIRST_DOCUMENTS = 256  # looked at first; more where they are of too few items

_NAME = "documents"
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
    """The best document of each item that holds any of the words, best first; of equal scores by item."""

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
    """The result of an update."""

    documents: int  # in the index, after it
    added: int
    removed: int
    unread: tuple[FileOutcome, ...]  # text files that have no document, or an old one, and why


class FullText:
    """The words of a collection. `update` after it has changed, then `search`.

    Args:
        collection: an opened collection.
        heard: fingerprints of the encoders whose transcripts count, e.g. of the speech encoder.

    Example:
        >>> import tempfile
        >>> collection = Collection.create(tempfile.mkdtemp() + "/birds", encoder="offline")
        >>> words = FullText(collection)
        >>> words.update().documents, words.search("owl", k=3).items
        (0, ())
    """

    def __init__(self, collection: Collection, *, heard: Sequence[str] = ()) -> None:
        self.collection = collection
        self.heard = tuple(sorted(set(heard)))
        self._folder = collection.path / "fulltext"
        advice = "It holds nothing that the collection does not: delete this folder, and it is made anew"
        self._tables = Tables(self._folder, collection.tables.lock, advice)
        self._state = self._folder / "state.json"
        self._seen: tuple[int, set[str]] = (0, set())

    @classmethod
    def open(cls, collection: Collection) -> FullText | None:
        """Open the full text of a collection with the transcripts that it was made from; None where there is none."""
        made_from = read_record(cls(collection)._state).get("made_from")
        if not isinstance(made_from, dict):
            return None
        prefix = "embeddings-"
        return cls(collection, heard=[name.removeprefix(prefix) for name in made_from if name.startswith(prefix)])

    # ------------------------------------------------------------------------------------------------------- update

    def is_current(self) -> bool:
        """Return whether nothing has changed in the collection since the last update was complete."""
        return bool(read_record(self._state).get("made_from") == self._versions())

    def update(self) -> FullTextReport:
        """Add documents that are missing, delete those of content that is gone, and bring the index up to date.

        Text files that cannot be read, or are no longer as they were when they were embedded, keep the document they
        have, if any, and are named in the report. May be interrupted or killed at any point and run again.

        Raises:
            CollectionError: the index cannot be written or is damaged.
        """
        if read_record(self._state).get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            with self._tables.writing():
                shutil.rmtree(self._folder)
        added = 0
        while True:
            versions = self._versions()
            documents = {document["key"]: document for document in self._documents()}
            stored = self._keys()
            missing = [document for key, document in documents.items() if key not in stored]
            unread: list[FileOutcome] = []
            for part in chunks(missing, COMMIT_DOCUMENTS):
                added += self._add([row for row in (_read(document, unread) for document in part) if row is not None])
            with self._tables.writing():
                if self._versions() != versions:
                    continue  # another process may have added from a newer state what looks stale from here
                stale = sorted(self._keys() - documents.keys())
                self._tables.delete(_NAME, ["key"], stale)
                # Deleted documents count among those that a word is rare in until their fragment is written anew.
                self._tables.compact(_NAME)
                self._tables.index(_NAME, "text", words=True)
                count = len(self._keys())
                if count > INDEX_ROWS:
                    self._tables.index(_NAME, "item")
                self._folder.mkdir(exist_ok=True)
                state = {"format_version": FORMAT_VERSION, "made_from": versions}
                write_whole(self._state, strict_json(state))
                return FullTextReport(count, added, len(stale), tuple(unread))

    def purge(self) -> None:
        """Bring it up to date, and keep no file that holds a document that was deleted."""
        self.update()
        with self._tables.writing():
            self._tables.rewrite(_NAME)
            self._tables.drop_versions(_NAME)

    # ------------------------------------------------------------------------------------------------------- search

    def search(self, text: str, *, k: int, among: Callable[[Sequence[str]], Container[str]] | None = None) -> WordHits:
        """Return the k items whose best document scores highest for the words of a text; fewer where fewer hold any.

        A document need not hold all words. Nothing in the text has a meaning beyond its words: quotes, brackets and
        operators are punctuation. A text without words, or of stop words only, finds nothing.

        Args:
            text: words, of which the first `QUERY_CHARACTERS` characters are looked for.
            k: items at the most.
            among: from ids of items to those of them that may be found. Default: all.

        Raises:
            CollectionError: the index is damaged.
            ValueError: k below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        limit = max(FIRST_DOCUMENTS, 4 * k)
        while True:
            work.check()
            rows = self._tables.match(_NAME, "text", text[:QUERY_CHARACTERS], _HIT, limit)
            rows.sort(key=lambda row: (-row["_score"], row["item"], row["slot"], row["start"] or 0.0))
            best: dict[str, dict[str, Any]] = {}
            for row in rows:
                best.setdefault(row["item"], row)
            if among is not None:
                allowed = among(list(best))
                best = {item: row for item, row in best.items() if item in allowed}
            if len(best) >= k or len(rows) < limit:
                return _hits(list(best.values())[:k])
            limit *= 4

    def covered(self, items: Sequence[str]) -> frozenset[str]:
        """Return those of some items that have words of their own: a text or a transcript, not only columns."""
        # By the item alone, which is indexed: with the slot in the condition Lance reads that column of all rows.
        rows = [self._tables.rows(_NAME, _DOCUMENTS, ["item", "slot"], one_of("item", part)) for part in chunks(items)]
        return frozenset(
            item
            for part in rows
            for item, slot in zip(part["item"].to_pylist(), part["slot"].to_pylist(), strict=True)
            if slot != METADATA
        )

    # ---------------------------------------------------------------------------------------------------- documents

    def _documents(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that there should be; in the place of a text, those of files have the file's row as "file"."""
        items = {str(row["id"]): row for row in self.collection.items()}
        for file in self.collection.files():
            item, slot, path = file["item"], file["slot"], file["path"]
            if file["modality"] != "text" or item not in items:
                continue
            if path is not None and file["outcome"] in USABLE:
                yield _document(item, slot, "file", file["hash"]) | {"file": file}
            elif path is None and file["outcome"] != Outcome.EMPTY:
                modality, _, number = slot.partition("/")
                texts = items[item][modality] or ()
                if int(number) < len(texts):  # else the item has changed and its files are not there yet
                    yield _document(item, slot, "written", text=texts[int(number)])
        for fingerprint in self.heard:
            rows = self.collection.vectors(fingerprint, moments=True)
            spans = zip(rows.starts.tolist(), rows.ends.tolist(), strict=True)
            for item, slot, text, (start, end) in zip(rows.items, rows.slots, rows.texts, spans, strict=True):
                if text and text.strip() and item in items:
                    span = {} if math.isnan(start) else {"start": start, "end": end}
                    yield _document(item, slot, "heard", *map(repr, span.values()), text=text) | span
        columns = self.collection.columns()
        for item, row in items.items():
            text = "\n".join([item, *(row[name] for name in columns if isinstance(row[name], str))])
            yield _document(item, METADATA, text=text)

    def _versions(self) -> dict[str, int]:
        """Return the versions of the collection's tables that documents are made from."""
        embeddings = [f"embeddings-{fingerprint}" for fingerprint in self.heard]
        tables = self.collection.tables
        versions = {name: tables.version(name) for name in ("items", self.collection.generation.files, *embeddings)}
        return {name: version for name, version in versions.items() if version}

    def _keys(self) -> set[str]:
        """Return the keys of all documents; read again only if another process has written meanwhile."""
        version = self._tables.version(_NAME)
        if version != self._seen[0]:
            self._seen = (version, set(self._tables.rows(_NAME, _DOCUMENTS, ["key"])["key"].to_pylist()))
        return self._seen[1]

    def _add(self, rows: Sequence[dict[str, Any]]) -> int:
        """Write documents whose key is not there yet. Return how many."""
        with self._tables.writing():
            stored = self._keys()
            new = {row["key"]: row for row in rows if row["key"] not in stored}
            if new:
                self._tables.append(_NAME, pa.Table.from_pylist(list(new.values()), schema=_DOCUMENTS))
                stored.update(new)
                self._seen = (self._tables.version(_NAME), stored)
            return len(new)


def _document(item: str, slot: str, *about: str, text: str | None = None) -> dict[str, Any]:
    """Return a row whose key changes with all that it is of."""
    key = digest_text("\0".join((item, slot, *about, text or "")))
    return {"key": key, "item": item, "slot": slot, "start": None, "end": None, "text": text}


def _read(document: dict[str, Any], unread: list[FileOutcome]) -> dict[str, Any] | None:
    """Return a row with its text; None, and a note in `unread`, where the file cannot be read or is another one by now."""
    file = document.pop("file", None)
    if file is None:
        return document
    path = file["path"]
    try:
        if file_stat(path) != (file["size"], file["mtime_ns"]) or digest_file(path) != file["hash"]:
            raise MediaError(Outcome.BROKEN, "the file is not as it was when it was added. Run chiasm add again")
        medium = media.load(path)
    except MediaError as error:
        unread.append(FileOutcome(path, error.outcome, error.reason))
        return None
    assert isinstance(medium, Text)  # as it was, by size and time
    return document | {"text": medium.text}


def _hits(rows: Sequence[dict[str, Any]]) -> WordHits:
    return WordHits(
        items=tuple(row["item"] for row in rows),
        slots=tuple(row["slot"] for row in rows),
        starts=np.array([row["start"] for row in rows], dtype=np.float64),  # None becomes NaN
        ends=np.array([row["end"] for row in rows], dtype=np.float64),
        texts=tuple(row["text"] for row in rows),
        scores=np.array([row["_score"] for row in rows], dtype=np.float64),
    )
