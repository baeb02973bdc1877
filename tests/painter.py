"""An encoder whose answers are known: words, pictures and sounds of one colour mixture are one vector.

Words of colours add up ("red red green" is two parts of red and one of green), other words have directions of their own.
A second of sound is red where it is quiet, green where it is louder, blue where it is loud, and that word is heard in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from fake_encoder import DIM, FakeEncoder, windows
from jaxtyping import Float
from media_files import image_bytes, sound_bytes, tone
from PIL import Image as PillowImage

from chiasm.encoders.base import Embeddings, Encoder
from chiasm.encoders.video import VideoEncoder
from chiasm.types import Audio, Image, Media, Modality, Text, Video

COLOURS: Mapping[str, tuple[int, int, int]] = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LOUDNESS = {"red": 0.1, "green": 0.4, "blue": 0.8}
_OTHER_WORDS = 5  # the first of their directions


def paint(medium: Media) -> Float[np.ndarray, " dim"]:
    """The vector of a medium, not of unit length."""
    vector = np.zeros(DIM, np.float32)
    match medium:
        case Image():
            vector[:3] = medium.pixels.mean((0, 1)) / 255
        case Video():
            vector[:3] = medium.frames.mean((0, 1, 2)) / 255
        case Text():
            for word in medium.text.lower().split():
                vector[place_of(word)] += 1
        case Audio():
            for _, part in windows(medium, 1.0) or [(0.0, medium)]:
                vector[place_of(heard(part))] += len(part.waveform) / part.rate
    return vector


def place_of(word: str) -> int:
    """The direction of a word."""
    if word in COLOURS:
        return list(COLOURS).index(word)
    return _OTHER_WORDS + hashlib.blake2b(word.encode()).digest()[0] % (DIM - _OTHER_WORDS)


def heard(sound: Audio) -> str:
    """The colour of a sound of one loudness."""
    level = float(np.sqrt(np.mean(sound.waveform**2))) * np.sqrt(2)
    return min(LOUDNESS, key=lambda colour: abs(LOUDNESS[colour] - level))


class Painter(FakeEncoder):
    """See the module. Sounds of more than a second have moments, each with the word that is heard in it."""

    def __init__(self, modalities: Sequence[Modality] = ("image", "text", "audio"), *, version: str = "1") -> None:
        super().__init__(modalities, moment=1.0, version=version)

    def encode_prepared(self, modality: Modality, batch: Sequence[Any]) -> Embeddings:
        found = super().encode_prepared(modality, batch)
        vectors = np.array([paint(one.media) for one in batch], np.float32).reshape(len(batch), DIM)
        if modality != "audio":
            return Embeddings(vectors, found.texts)
        parts = [part for one in batch for _, part in windows(one.media, 1.0)]
        assert found.moments is not None
        moments = replace(
            found.moments,
            vectors=np.array([paint(part) for part in parts], np.float32).reshape(len(parts), DIM),
            texts=tuple(heard(part) for part in parts),
        )
        said = [" ".join(heard(part) for _, part in windows(one.media, 1.0) or [(0, one.media)]) for one in batch]
        return Embeddings(vectors, tuple(said), moments=moments)


def painters(*modalities: Modality) -> list[Encoder]:
    """Encoders as `chiasm.encoders.resolve` gives them; by default of everything, videos with their sound track."""
    if modalities:
        return [Painter(modalities)]
    one = Painter()
    return [one, VideoEncoder(one, one)]


def mixtures(most: int) -> list[tuple[int, int, int]]:
    """All mixtures of up to so many parts, none twice."""
    counts = range(most + 1)
    return [parts for parts in product(counts, counts, counts) if 0 < sum(parts) <= most and gcd(*parts) == 1]


def words_of(parts: Sequence[int]) -> str:
    """A mixture in words, e.g. "red red green"."""
    return " ".join(word for colour, count in zip(COLOURS, parts, strict=True) for word in [colour] * count)


def picture(path: Path, parts: Sequence[float]) -> str:
    """Write a picture of one mixture; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = tuple(round(255 * part / max(parts)) for part in parts)
    path.write_bytes(image_bytes(PillowImage.new("RGB", (8, 8), rgb), "PNG"))
    return str(path)


def sound(path: Path, *colours: str) -> str:
    """Write a sound of a second a colour; gives its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seconds = [tone(1, 8000, amplitude=LOUDNESS[colour]) for colour in colours]
    path.write_bytes(sound_bytes(np.concatenate(seconds), 8000, "WAV"))
    return str(path)


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def painted(folder: Path, most: int = 8) -> Path:
    """A manifest of pictures of all mixtures and their words, in a column of three kinds."""
    rows = [
        {
            "id": "-".join(map(str, parts)),
            "image": picture(folder / f"{'-'.join(map(str, parts))}.png", parts),
            "text": words_of(parts),
            "most": list(COLOURS)[int(np.argmax(parts))],
        }
        for parts in mixtures(most)
    ]
    return table(folder / "painted.jsonl", rows)


def foreign(folder: Path, most: int, *, captions: bool = True) -> Path:
    """Pictures with words of another language, which only pairs can teach, and a word of their own that says nothing."""
    language = {"red": "rot", "green": "gruen", "blue": "blau"}
    rows = []
    for number, parts in enumerate(mixtures(most)):
        words = " ".join(language[word] for word in words_of(parts).split())
        rows.append({"id": str(number), "image": picture(folder / f"{number}.png", parts)})
        if captions:
            rows[-1]["text"] = f"{words} {folder.name}{number}"
    return table(folder / "t.jsonl", rows)
