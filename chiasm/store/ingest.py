"""From files to embeddings: read in several threads, encode in batches, give every file an outcome.

`embed_manifests` does this for files that are not to be stored, `store.add` for those of a collection. One bad file
never stops a run: whatever is wrong with it becomes its outcome.

Files go through in the order of the manifests, whatever reader is the fastest, so that a run that was cut off and
continued ends as one that was not. How vectors and outcomes are stored is in `store.collection`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from threading import Lock
from typing import Any, Protocol, TypeAlias, cast

import numpy as np

from chiasm import media, work
from chiasm.encoders.base import Encoder, Moments, Prepared, first_of
from chiasm.errors import EncoderError, MediaError, MissingExtraError
from chiasm.files import NotAFileError, digest_file, digest_text
from chiasm.media import Limits
from chiasm.media.text import read as read_text
from chiasm.store.collection import FILES, USABLE, Vectors
from chiasm.store.manifest import Manifest
from chiasm.store.tables import chunks
from chiasm.types import Audio, FileOutcome, Item, Media, Modality, Outcome, Text, Video

COMMIT_ROWS = 2048
COMMIT_SECONDS = 5.0
READ_AHEAD_BYTES = 2**27  # in memory, of files that are opened, and of each batch: but one file may be larger
READERS = 16  # at most; each may hold one large medium while it opens it

_MOST_OF_A_BATCH = 2**18  # bytes of texts: some hundreds of passages, seconds on a CPU; but one text may be longer
_GROWTH: dict[Modality, int] = {"audio": 8, "video": 2}  # bytes in memory for one on disk, until they are known


@dataclass(frozen=True)
class Progress:
    """Where a run is, in files that it has to read."""

    done: int
    total: int
    failed: int  # of those that are done, neither ok nor duplicate


@dataclass(frozen=True)
class EmbeddedFiles:
    """The items of manifests with their embeddings, of which nothing is stored."""

    items: dict[str, Item]  # by id, in the order of the manifests
    vectors: dict[Modality, Vectors]  # of whole contents
    outcomes: tuple[FileOutcome, ...]  # of files that are not ok, with reasons


def embed_manifests(
    manifests: Sequence[Manifest],
    encoders: Sequence[Encoder],
    *,
    name: str,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    on_progress: Callable[[Progress], None] | None = None,
) -> EmbeddedFiles:
    """Embed the files of manifests without a collection; ids, batches and outcomes are those of `store.add`.

    Args:
        manifests: see `chiasm.store.manifest.read_manifest`.
        encoders: at most one a modality is used: the first that has it.
        name: of the encoders together, for the reasons of files that they do not take.
        limits: what is too large to open.
        on_progress: called after every file.

    Raises:
        EncoderError: an encoder cannot be used at all.
    """
    items = {item_id: item for item_id, (item, _) in name_items(manifests, {}).items()}
    store = _InMemory()
    run = Run(name, first_of(encoders), store, limits=limits, on_progress=on_progress)
    run.execute([file for item_id, item in items.items() for file in files_of(item_id, item)])
    for manifest in manifests:
        run.tally(manifest.outcomes)
    return EmbeddedFiles(items, _by_modality(store.rows), tuple(run.not_ok))


def embed_media(
    media: Sequence[Sequence[Media]], encoders: Mapping[Modality, Encoder]
) -> tuple[dict[Modality, Vectors], tuple[FileOutcome, ...]]:
    """Embed opened media of items; media that no encoder takes are left out.

    Args:
        media: of each item, whose id is its number.
        encoders: by modality.

    Returns:
        Vectors of the media by modality, and an outcome for every medium that could not be embedded.

    Raises:
        EncoderError: an encoder cannot be used at all.
    """
    rows: list[Vectors] = []
    outcomes: list[FileOutcome] = []
    for modality, encoder in encoders.items():
        flat = [
            (number, place, medium)
            for number, group in enumerate(media)
            for place, medium in enumerate(one for one in group if one.modality == modality)
        ]
        for batch in chunks(flat, encoder.batch_size):
            results = _encode_each(encoder, modality, [encoder.prepare(medium) for *_, medium in batch])
            for (number, place, _), result in zip(batch, results, strict=True):
                slot = f"{modality}/{place}"
                if isinstance(result, MediaError):
                    outcomes.append(FileOutcome(f"{number} ({slot})", result.outcome, result.reason))
                else:
                    rows.append(result[0][1].whole().owned_by(str(number), slot, ""))
    return _by_modality(rows), tuple(outcomes)


# ---------------------------------------------------------------------------------------------------- files and parts


Parts: TypeAlias = tuple[tuple[str, Vectors], ...]
"""The rows of one content by table: fingerprint of the encoder and its rows, those with the whole first."""


@dataclass
class File:
    """One file, or text that stands in a manifest, on its way through a run."""

    item: str
    slot: str
    path: str | None  # None: text of the manifest
    text: str | None
    modality: Modality
    size: int | None = None  # None: no file
    mtime_ns: int | None = None
    hash: str = ""
    encoder: str | None = None
    outcome: Outcome = Outcome.OK
    reason: str = ""
    weight: int = 0  # bytes in memory, as far as they are known
    prepared: Prepared = None  # until it is embedded
    parts: Parts = ()  # from then on until it is committed

    @property
    def listed_as(self) -> Modality:
        """The modality of its slot, whatever its content has turned out to be."""
        return cast("Modality", self.slot.partition("/")[0])

    @property
    def result(self) -> FileOutcome:
        """Its outcome so far."""
        return FileOutcome(self.path or f"{self.item} ({self.slot})", self.outcome, self.reason)

    def end(self, outcome: Outcome, reason: str) -> None:
        """Set its outcome."""
        self.outcome, self.reason = outcome, reason

    def take(self, parts: Parts) -> None:
        """Make parts of its content its own."""
        self.parts = tuple((name, rows.owned_by(self.item, self.slot, self.hash)) for name, rows in parts)

    def row(self) -> dict[str, Any]:
        """Return its row in the table of files."""
        return {name: getattr(self, name) for name in FILES.names}


def files_of(item_id: str, item: Item) -> Iterable[File]:
    """Yield the files of an item as they are on disk now."""
    numbers: Counter[Modality] = Counter()
    for source in item.sources:
        slot = f"{source.modality}/{numbers[source.modality]}"
        numbers[source.modality] += 1
        digest = "" if source.text is None else digest_text(source.text)
        status = file_stat(source.path)
        yield File(item_id, slot, source.path, source.text, source.modality, *status, hash=digest)


def file_stat(path: str | None) -> tuple[int | None, int | None]:
    """Return size and time of change; None where there is no regular file."""
    if path is None:
        return None, None
    try:
        status = os.stat(path)  # noqa: PTH116  # Path.stat costs three times as much, and this runs for every file
    except (OSError, ValueError):
        return None, None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (None, None)


def name_items(manifests: Sequence[Manifest], sources: Mapping[str, str]) -> dict[str, tuple[Item, str]]:
    """Return the items of manifests, with the source of each, by the ids that they have in a collection.

    Args:
        manifests: later ones replace items of earlier ones that have the same explicit id.
        sources: id -> source of the items that are in the collection.
    """
    items: dict[str, tuple[Item, str]] = {}
    for manifest in manifests:
        suffix = "~" + hashlib.blake2b(manifest.source.encode(), digest_size=4).hexdigest()
        for item in manifest.items:
            name = item.id
            if not manifest.explicit_ids:
                source = sources.get(name) or (items[name][1] if name in items else manifest.source)
                if source != manifest.source or name + suffix in sources:
                    name += suffix
            items[name] = (item, manifest.source)
    return items


def _by_modality(rows: Sequence[Vectors]) -> dict[Modality, Vectors]:
    groups: dict[Modality, list[Vectors]] = {}
    for one in rows:
        groups.setdefault(one.modalities[0], []).append(one)
    return {modality: Vectors.concatenate(group) for modality, group in groups.items()}


# --------------------------------------------------------------------------------------------------------- reading


class _Readers:
    """Opens files in several threads and gives them in order, with no more of them in memory than a batch needs."""

    def __init__(
        self, name: str, encoders: Mapping[Modality, Encoder], limits: Limits, skips: Callable[[str], bool]
    ) -> None:
        self._name = name
        self._encoders = encoders
        self._skips = skips  # whether a content, by its hash, need not be opened
        self._limits = limits
        self._load = _opener(encoders, limits)
        self._held = 0  # bytes of files that are being opened, or are opened and not yielded
        self._weighing = Lock()

    def open(self, pending: Iterable[File]) -> Generator[File]:
        """Yield the files with their hash, and with their prepared input or an outcome."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
        workers = min(max(2, cores), READERS)
        ahead = 2 * workers + max((encoder.batch_size for encoder in self._encoders.values()), default=0)
        todo = deque(pending)
        reading: deque[Future[File]] = deque()
        readers = ThreadPoolExecutor(workers, thread_name_prefix="chiasm-read")
        try:
            while todo or reading:
                expected = (todo[0].size or 0) * _GROWTH.get(todo[0].modality, 1) if todo else 0
                if todo and (not reading or (len(reading) < ahead and self._held + expected <= READ_AHEAD_BYTES)):
                    file = todo.popleft()
                    self._weigh(file, expected)
                    reading.append(readers.submit(self._read, file))
                else:
                    file = reading.popleft().result()
                    with self._weighing:
                        self._held -= file.weight
                    yield file
        finally:
            readers.shutdown(wait=True, cancel_futures=True)

    def _read(self, file: File) -> File:
        """In a reader thread: hash, open, prepare. Whatever is wrong with the file becomes its outcome."""
        file.end(Outcome.OK, "")
        weight = file.size or 0
        try:
            if file.size and file.size <= self._limits.max_bytes:
                assert file.path is not None
                file.hash = digest_file(file.path)
            if not self._skips(file.hash):
                medium = self._open(file)
                weight = max(weight, _decoded(medium))
                file.encoder = self._encoders[file.modality].fingerprint
                file.prepared = self._encoders[file.modality].prepare(medium)
        except (EncoderError, MissingExtraError):
            raise  # the encoder cannot be used at all: that is not the file's fault
        except MediaError as error:
            file.end(error.outcome, error.reason)
        except OSError as error:  # of the digest, before it is opened
            outcome = Outcome.UNSUPPORTED if isinstance(error, NotAFileError) else Outcome.BROKEN
            file.end(outcome, f"the file cannot be read: {error.strerror or error}")
            file.size = file.mtime_ns = None  # permissions change without a trace in them: the next run looks again
        except Exception as error:  # noqa: BLE001  # a model's own preprocessing may raise anything
            file.end(Outcome.BROKEN, f"it cannot be prepared: {type(error).__name__}: {error}")
        self._weigh(file, weight)
        return file

    def _weigh(self, file: File, weight: int) -> None:
        """Count a file that is not yielded yet by the bytes that it takes, or will take."""
        with self._weighing:
            self._held += weight - file.weight
            file.weight = weight

    def _open(self, file: File) -> Media:
        """Open a file whose modality an encoder takes, and note its modality."""
        medium: Media | None = None
        if file.text is not None:
            medium = read_text(file.text.encode(), limits=self._limits)
        else:
            assert file.path is not None
            listed_as = file.listed_as
            if file.modality not in self._encoders:
                file.modality = media.sniff(file.path, listed_as=listed_as)  # decode nothing in vain
            if file.modality in self._encoders:
                medium = self._load(file.path, listed_as=listed_as)
                file.modality = medium.modality
        if medium is None or file.modality not in self._encoders:
            file.encoder = ""
            takes = ", ".join(self._encoders) or "nothing"
            raise MediaError(Outcome.UNSUPPORTED, f"the encoder {self._name!r} takes {takes}, not {file.modality}")
        if file_stat(file.path) != (file.size, file.mtime_ns):
            raise MediaError(Outcome.BROKEN, "the file changed while it was read. Run again when it is complete")
        return medium


def _opener(encoders: Mapping[Modality, Encoder], limits: Limits) -> Callable[..., Media]:
    """Return `media.load` with as little decoded as the encoders see, whatever a file turns out to be."""
    sizes = [encoders[modality].view.image_size for modality in ("image", "video") if modality in encoders]
    known = [size for size in sizes if size is not None]
    image_size = max(known) if known and len(known) == len(sizes) else None
    options: dict[str, Any] = {"image_size": image_size, "limits": limits}
    if "audio" in encoders:
        options["rate"] = encoders["audio"].view.rate
    if "video" in encoders:
        view = encoders["video"].view
        options.update(frames=view.frames, fps=view.fps, track=view.track)
    return partial(media.load, **options)


def _decoded(medium: Media) -> int:
    """Return the bytes of a sound, a video or a text in memory; of a picture too few to count."""
    if isinstance(medium, Text):
        return len(medium.text)
    if isinstance(medium, Video):
        return medium.frames.nbytes + (0 if medium.sound is None else medium.sound.waveform.nbytes)
    return medium.waveform.nbytes if isinstance(medium, Audio) else 0


# -------------------------------------------------------------------------------------------------------- encoding


def _encode_each(encoder: Encoder, modality: Modality, inputs: Sequence[Prepared]) -> list[Parts | MediaError]:
    """Return the parts of each input, the one with the whole first, or what is wrong with it.

    Where a batch fails, each goes alone, so that a bad input costs only itself.
    """
    try:
        batch = encoder.encode_prepared(modality, inputs)
    except (EncoderError, MissingExtraError):
        raise  # the encoder cannot be used at all
    except Exception as error:  # noqa: BLE001  # a network may raise anything; it becomes the outcome of one file
        if len(inputs) == 1:
            return [MediaError(Outcome.BROKEN, f"{encoder.name} failed on it: {type(error).__name__}: {error}")]
        return [result for one in inputs for result in _encode_each(encoder, modality, [one])]
    languages = batch.languages or (None,) * len(inputs)
    results: list[Parts | MediaError] = []
    for row, (vector, words, language) in enumerate(zip(batch.vectors, batch.texts, languages, strict=True)):
        whole = Moments(np.zeros(1, int), np.full(1, np.nan), np.full(1, np.nan), vector[None], (words,))
        own = _rows_of(modality, language, [whole, *_moments_of(batch.moments, row)])
        parts = [(encoder.fingerprint, own)]
        if encoder.sound is not None and (track := _moments_of(batch.track, row)):
            parts.append((encoder.sound.fingerprint, _rows_of("audio", language, track)))
        if not all(np.isfinite(rows.vectors).all() for _, rows in parts):
            results.append(MediaError(Outcome.BROKEN, f"{encoder.name} gave values that are not finite numbers"))
        elif not vector.any():
            heard = " (no words were recognised)" if words == "" else ""
            reason = f"{encoder.name} found nothing in it that it can embed{heard}"
            results.append(MediaError(Outcome.UNSUPPORTED, reason))
        else:
            results.append(tuple(parts))
    return results


def _moments_of(moments: Moments | None, owner: int) -> list[Moments]:
    """Return those of one input whose vector is not zero, if any."""
    if moments is None:
        return []
    begin, end = np.searchsorted(moments.owners, [owner, owner + 1])
    rows = [row for row in range(begin, end) if moments.vectors[row].any()]
    if not rows:
        return []
    texts = tuple(moments.texts[row] for row in rows)
    return [Moments(moments.owners[rows], moments.starts[rows], moments.ends[rows], moments.vectors[rows], texts)]


def _rows_of(modality: Modality, language: str | None, parts: Sequence[Moments]) -> Vectors:
    """Return the moments of an input as rows that belong to nothing yet."""
    texts = tuple(chain.from_iterable(part.texts for part in parts))
    none = ("",) * len(texts)
    vectors, starts, ends = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("vectors", "starts", "ends")
    )
    vectors = vectors.astype(np.float32, copy=False)
    kinds, languages = (modality,) * len(texts), (language,) * len(texts)
    return Vectors(none, none, kinds, none, texts, vectors, languages, starts, ends)


# ------------------------------------------------------------------------------------------------------------- a run


class _Store(Protocol):
    """Where a run puts its files, and finds the parts of content that it need not embed."""

    def commit(self, files: Sequence[File]) -> None:
        """Take files that have their outcome, with their parts."""

    def parts(self, contents: Mapping[str, str]) -> dict[str, Parts]:
        """Return the parts of contents by hash, those with the whole first; asked with hash -> fingerprint."""


class _InMemory:
    """Keeps the wholes of all files, with the moments of none."""

    def __init__(self) -> None:
        self.rows: list[Vectors] = []

    def commit(self, files: Sequence[File]) -> None:
        self.rows += [file.parts[0][1].whole() for file in files if file.parts]

    def parts(self, contents: Mapping[str, str]) -> dict[str, Parts]:
        return {rows.hashes[0]: ((contents[rows.hashes[0]], rows),) for rows in self.rows if rows.hashes[0] in contents}


class Run:
    """One run: from readers through encoders to commits, with counts of what happened.

    Args:
        name: of the encoders together.
        encoders: by modality.
        store: where the results go.
        limits: what is too large to open.
        commit_rows: files a commit, at most.
        on_progress: called after every file.
        owners: content hash -> the file that is ok; others are its duplicates.
        known: content hash -> fingerprint of the encoder whose vector of it is stored.
    """

    def __init__(
        self,
        name: str,
        encoders: Mapping[Modality, Encoder],
        store: _Store,
        *,
        limits: Limits = Limits(),  # noqa: B008  # frozen
        commit_rows: int = COMMIT_ROWS,
        on_progress: Callable[[Progress], None] | None = None,
        owners: Mapping[str, tuple[str, str]] | None = None,
        known: Mapping[str, str] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.remarks: Counter[str] = Counter()  # on files that are ok
        self.not_ok: list[FileOutcome] = []
        self.encoded = 0

        self._encoders = encoders
        self._store = store
        self._commit_rows = commit_rows
        self._on_progress = on_progress
        self._owners = dict(owners or {})
        self._known = dict(known or {})
        self._claimed: dict[str, File] = {}  # content hash -> the file of this run that it is embedded for
        self._readers = _Readers(
            name, encoders, limits, lambda digest: digest in self._known or digest in self._claimed
        )
        self._batches: dict[Modality, list[File]] = {}  # prepared
        self._shared: list[File] = []  # the vector of their content is stored
        self._twins: list[File] = []  # the vector of their content is on its way
        self._again: list[File] = []  # the vector of their content was removed meanwhile
        self._finished: list[File] = []  # and not committed yet
        self._committed = time.monotonic()
        self._done = self._failed = self._total = 0

    def tally(self, outcomes: Iterable[FileOutcome]) -> None:
        """Add outcomes to the report."""
        for outcome in outcomes:
            self.counts[outcome.outcome.value] += 1
            if outcome.outcome is not Outcome.OK:
                self.not_ok.append(outcome)
            elif outcome.reason:
                self.remarks[outcome.reason] += 1

    def execute(self, pending: list[File]) -> None:
        """Read in several threads, encode in this one, commit in between."""
        self._total += len(pending)
        try:
            while pending:
                with closing(self._readers.open(pending)) as opened:
                    for file in opened:
                        self._receive(file)
                for modality in list(self._batches):
                    self._encode(modality)
                self._commit()
                self._shared += self._twins
                self._twins = []
                self._share()
                pending, self._again = self._again, []
        finally:
            # Also on Ctrl-C: what is embedded is kept, what is not is left for the next run.
            self._commit()

    def _receive(self, file: File) -> None:
        """Send an opened file on its way, in the order of the manifests."""
        if file.hash:
            key = (file.item, file.slot)
            owner = self._owners.setdefault(file.hash, key)
            if owner != key and file.path is not None and file.outcome is Outcome.OK:
                file.end(Outcome.DUPLICATE, f"same content as {owner[0]} ({owner[1]}); the embedding is shared")
            if file.hash in self._known:
                file.prepared = None
                self._shared.append(file)
                if self._is_due(len(self._shared)):
                    self._share()
                return
            if self._claimed.setdefault(file.hash, file) is not file:
                file.prepared = None
                self._twins.append(file)
                return
        if file.outcome not in USABLE:
            self._finish(file)
            return
        batch = self._batches.setdefault(file.modality, [])
        batch.append(file)
        most = {"text": _MOST_OF_A_BATCH, **dict.fromkeys(_GROWTH, READ_AHEAD_BYTES)}.get(file.modality)
        heavy = most is not None and sum(one.weight for one in batch) > most
        if heavy or len(batch) >= self._encoders[file.modality].batch_size:
            self._encode(file.modality)

    def _encode(self, modality: Modality) -> None:
        batch = self._batches.pop(modality)
        results = _encode_each(self._encoders[modality], modality, [file.prepared for file in batch])
        for file, result in zip(batch, results, strict=True):
            file.prepared = None
            if isinstance(result, MediaError):
                file.end(result.outcome, result.reason)
            else:
                self._take(file, result)
                self.encoded += 1
            self._finish(file)

    def _share(self) -> None:
        """Give files the stored vector of their content, or what went wrong with it."""
        shared, self._shared = self._shared, []
        for part in chunks(shared):
            contents = {
                file.hash: self._known.get(file.hash) or self._claimed[file.hash].encoder or "" for file in part
            }
            stored = self._store.parts(contents)
            for file in part:
                original = self._claimed.get(file.hash)
                if file.hash in stored:
                    file.encoder, file.modality = stored[file.hash][0][0], stored[file.hash][0][1].modalities[0]
                    self._take(file, stored[file.hash])
                    self._finish(file)
                elif original is not None and original.outcome not in USABLE:
                    file.encoder, file.modality = original.encoder, original.modality
                    file.end(original.outcome, original.reason)
                    self._finish(file)
                else:
                    for by_hash in (self._known, self._claimed, self._owners):
                        by_hash.pop(file.hash, None)
                    self._again.append(file)

    def _take(self, file: File, parts: Parts) -> None:
        file.take(parts)
        if file.outcome is Outcome.OK:
            file.reason = self._encoders[file.modality].remark(parts[0][1].texts[0])

    def _finish(self, file: File) -> None:
        self._finished.append(file)
        self.tally([file.result])
        self._done += 1
        self._failed += file.outcome not in USABLE
        work.tell(work.Step("files", self._done, self._total, self._failed))
        if self._on_progress is not None:
            self._on_progress(Progress(self._done, self._total, self._failed))
        if self._is_due(len(self._finished)):
            self._commit()

    def _is_due(self, files: int) -> bool:
        return files >= self._commit_rows or time.monotonic() - self._committed > COMMIT_SECONDS

    def _commit(self) -> None:
        if self._finished:
            self._store.commit(self._finished)
        for file in self._finished:
            file.parts = ()
        self._finished, self._committed = [], time.monotonic()
