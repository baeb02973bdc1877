"""An encoder without weights: mean colours, letters and energies, with counters of what it was asked to do.

And what always holds for a collection that was made with it.
"""

from __future__ import annotations

import hashlib
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from chiasm import media
from chiasm.encoders.base import Embeddings, Encoder, Moments, Prepared, View
from chiasm.errors import EncoderError
from chiasm.store.collection import Collection, Generation, Vectors
from chiasm.store.tables import Tables
from chiasm.types import Audio, Image, Media, Modality, Text, Video

DIM = 12

Fault: TypeAlias = Literal["raises", "nan", "zeros", "no words", "cannot be prepared", "no weights"]


class _Input:
    """A prepared input that its encoder counts as long as anybody holds it."""

    def __init__(self, encoder: FakeEncoder, media: Media, fault: Fault | None) -> None:
        self.encoder, self.media, self.fault = encoder, media, fault
        encoder.count_live(+1)

    def __del__(self) -> None:
        self.encoder.count_live(-1)


class FakeEncoder(Encoder):
    """All its modalities share one space. The same content has the same vector in every process.

    Args:
        modalities: what it takes.
        version: another one has another fingerprint and other vectors.
        batch_size: inputs a batch.
        faults: what goes wrong with a text, by the text.
        moment: seconds of the moments of longer sounds, whose texts are their numbers; None: there are none.
        log: a file that embedded texts are written to, a line each, also if the process is killed afterwards.
    """

    def __init__(
        self,
        modalities: Iterable[Modality] = ("image", "text", "audio"),
        *,
        version: str = "1",
        batch_size: int = 8,
        faults: Mapping[str, Fault] | None = None,
        moment: float | None = None,
        log: Path | None = None,
    ) -> None:
        self.name = "fake"
        self.modalities = frozenset(modalities)
        self.dim = DIM
        self.view = View(image_size=8, rate=8000)
        self.batch_size = batch_size
        self.version = version
        self.fingerprint = hashlib.blake2b(f"{sorted(modalities)} {version}".encode(), digest_size=8).hexdigest()
        self.faults = dict(faults or {})
        self.moment = moment
        self.log = log
        self.embedded: Counter[Modality] = Counter()  # inputs of batches that succeeded
        self.batches: list[int] = []  # sizes of those that were asked for
        self.live = self.most_live = 0  # prepared inputs that somebody holds
        self._lock = Lock()

    def count_live(self, change: int) -> None:
        with self._lock:
            self.live += change
            self.most_live = max(self.most_live, self.live)

    def prepare(self, media: Media) -> Prepared:
        self._require(media.modality)
        fault = self.faults.get(media.text) if isinstance(media, Text) else None
        if fault == "cannot be prepared":
            raise KeyError("a processor's own mistake")
        return _Input(self, media, fault)

    def encode_prepared(self, modality: Modality, batch: Sequence[Any]) -> Embeddings:
        self._require(modality)
        self.batches.append(len(batch))
        faults = [one.fault for one in batch]
        if "no weights" in faults:
            raise EncoderError("the weights of fake cannot be loaded. Install them")
        if "raises" in faults:
            raise RuntimeError("the network failed on an input")
        vectors = np.array([embed(one.media) for one in batch], np.float32).reshape(len(batch), DIM)
        vectors *= float(self.version)
        vectors[[fault == "nan" for fault in faults], 3] = np.nan
        vectors[[fault in {"zeros", "no words"} for fault in faults]] = 0
        self.embedded[modality] += len(batch)
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.writelines(f"{one.media.text}\n" for one in batch if isinstance(one.media, Text))
        texts = tuple("" if fault == "no words" else None for fault in faults)
        return Embeddings(vectors, texts, moments=None if self.moment is None else self._moments(batch))

    def _moments(self, batch: Sequence[_Input]) -> Moments:
        found = [
            (row, start, part)
            for row, one in enumerate(batch)
            for start, part in (windows(one.media, self.moment) if self.moment is not None else ())
        ]
        return Moments(
            np.array([row for row, *_ in found], int),
            np.array([start for _, start, _ in found]),
            np.array([start + len(part.waveform) / part.rate for _, start, part in found]),
            np.array([embed(part) for *_, part in found], np.float32).reshape(-1, DIM) * float(self.version),
            tuple(f"{start:g}" for _, start, _ in found),
        )


def windows(media: Media, seconds: float) -> list[tuple[float, Audio]]:
    """Parts of a sound that is longer than so many seconds, with the times at which they begin."""
    if not isinstance(media, Audio) or len(media.waveform) <= seconds * media.rate:
        return []
    step = round(seconds * media.rate)
    starts = range(0, len(media.waveform), step)
    return [(start / media.rate, Audio(media.waveform[start : start + step], media.rate)) for start in starts]


def embed(media: Media) -> Float[np.ndarray, " dim"]:
    """Mean colours of an image (or frames), counts of the letters of a text, loudness of parts of a sound."""
    vector = np.zeros(DIM, np.float32)
    match media:
        case Image():
            vector[:3] = media.pixels.mean((0, 1)) / 255
            vector[3] = 1
        case Video():
            vector[:3] = media.frames.mean((0, 1, 2)) / 255
            vector[4] = 1
        case Text():
            for position, letter in enumerate(media.text):
                vector[hashlib.blake2b(letter.encode()).digest()[0] % DIM] += 1 + position / 100
        case Audio():
            parts = np.array_split(media.waveform, DIM)
            vector[:] = [float(np.sqrt(np.mean(part**2))) for part in parts]
    return vector


def rows(collection: Collection) -> dict[tuple[str, str], dict[str, Any]]:
    found = {(row["item"], row["slot"]): row for row in collection.files()}
    assert len(found) == len(collection.files()), "a slot has two rows"
    return found


def by_key(vectors: Vectors) -> dict[tuple[str, str], Any]:
    found = dict(zip(zip(vectors.items, vectors.slots, strict=True), vectors.vectors, strict=True))
    assert len(found) == len(vectors), "a slot has two vectors"
    return found


def source_media(row: Mapping[str, Any], items: Mapping[str, Mapping[str, Any]]) -> Media:
    kind, number = row["slot"].split("/")
    written = items[row["item"]][kind][int(number)]
    return Text(written) if row["path"] is None else media.load(row["path"], image_size=8, rate=8000)


def check(collection: Collection, encoder: FakeEncoder | None = None) -> None:
    """What always holds: a row a file, a right vector a file that has one, one file of a content that is ok."""
    encoder = encoder or FakeEncoder()
    items = {str(row["id"]): row for row in collection.items()}
    files = rows(collection)
    assert set(files) == {
        (name, f"{kind}/{number}")
        for name, row in items.items()
        for kind in ("image", "text", "audio", "video")
        for number in range(len(row[kind] or ()))
    }
    stored = {key: row for key, row in files.items() if row["outcome"] in {"ok", "duplicate"}}
    vectors = by_key(collection.vectors(encoder.fingerprint))
    assert set(vectors) == set(stored)
    for key, vector in vectors.items():
        expected = embed(source_media(stored[key], items)) * float(encoder.version)
        np.testing.assert_allclose(vector, expected, rtol=1e-6)
    kept = Counter(row["hash"] for row in stored.values() if row["outcome"] == "ok" and row["path"] is not None)
    assert all(number == 1 for number in kept.values())


def count_writes(at_step: int | None, steps: Path | None, *, number: signal.Signals = signal.SIGKILL) -> None:
    """In a process of its own: count what writes to a collection, and send itself a signal before or after one write.

    Args:
        at_step: before the first write is 0, after it 1, and so on; None: there is no signal.
        steps: where the number of steps is written.
        number: of the signal.
    """
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if done - 1 == at_step:
            signal.raise_signal(number)
        if steps is not None:
            steps.write_text(str(done))

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            step()
            result = function(*arguments, **options)
            step()
            return result

        return wrapper

    for owner, names in ((Tables, ("append", "merge", "delete")), (Generation, ("write",))):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))
