"""Sounds to embeddings: how they sound, and beside it what is said in them.

Most sounds are not speech, and a transcript says nothing about a bark. So every sound has a vector of its spectrogram:
pictures of two seconds of it through the encoder of images (networks pretrained on ImageNet are good at spectrograms:
Palanisamy et al. 2020, arXiv:2007.11154), and statistics of its frequency bands. Neither says enough alone, and both
together as much as a network that was trained on sounds (benchmarks/sounds.py). Words are left to `speech`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PillowImage

from chiasm.encoders.base import Embeddings, Encoder, Moments, Prepared, View, resample
from chiasm.encoders.cache import fingerprint
from chiasm.encoders.licence import PretrainedModel
from chiasm.errors import EncoderError
from chiasm.types import Audio, Image, Media, Modality
from chiasm.vectors import unit_rows

RATE = 16_000  # samples a second
MOMENT = 10.0  # seconds of a moment at most; a sound that is no longer is one moment
SEEN, HEARD = 96, 32  # numbers of the pictures and of the bands
DIM = SEEN + HEARD

NO_WORDS = "no words were recognised; embedded by its sound"
NO_SPEECH = (
    "embedded by its sound alone. For what is said in it: pip install 'chiasm[speech]' and a Whisper model "
    "(docs/encoders.md)"
)

_VERSION = "1"  # of everything here that changes embeddings
_BANDS = 128  # of equal width in mel
_LOWEST, _HIGHEST = 60.0, 7800.0  # Hz
_FRAME, _STEP, _FFT = 400, 160, 512  # samples
_RANGE = 80.0  # dB below the loudest band of the sound; what is fainter is silence
_PICTURE = 200  # frames: two seconds
_FAINT = 64  # of 255: -60 dB. Pictures in which nothing is louder do not count
_SHORTEST = 1.0  # seconds of a moment between words

Spectrogram = UInt8[np.ndarray, "frames bands"]


@dataclass(frozen=True)
class _Sound:
    """A prepared sound."""

    spectrogram: Spectrogram
    seconds: float
    speech: Prepared  # None: nobody listens to words


class SoundEncoder(Encoder):
    """Embed what is said in a sound, if an encoder of speech is given, and then how it sounds: 128 numbers of unit length.

    The first part is that of the encoder of speech: zeros where no words were recognised. The second part does not depend
    on how loud a sound is. Of sounds of more than 10 s there are moments: those of speech, and what lies between them cut
    into parts of at most 10 s.
    """

    def __init__(self, images: Encoder, speech: Encoder | None = None) -> None:
        """Put encoders together; nothing is loaded.

        Args:
            images: embeds pictures of spectrograms.
            speech: embeds what is said; None leaves it out.

        Raises:
            EncoderError: `images` does not take images, or `speech` does not take audio.
        """
        for encoder, modality in ((images, "image"), (speech, "audio")):
            if encoder is not None and modality not in encoder.modalities:
                raise EncoderError(f"the {modality} encoder of sounds has to take {modality}; {encoder.name} does not")
        self.name = f"spectrograms by {images.name}" + (f" and {speech.name}" if speech is not None else "")
        self.modalities: frozenset[Modality] = frozenset({"audio"})
        self._words = 0 if speech is None else speech.dim
        self.dim = self._words + DIM
        self.view = View(rate=RATE)
        self.batch_size = 32
        self._images = images
        self.speech = speech
        self._sounds = fingerprint("sound", _VERSION, images.fingerprint)
        self.fingerprint = fingerprint(self._sounds, "" if speech is None else speech.fingerprint)

    @property
    def vector_space(self) -> str:
        """That of the encoder of speech, if there is one."""
        return self._sounds if self.speech is None else self.speech.vector_space

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Words, if there is an encoder of speech, and sounds."""
        words = () if self.speech is None else self.speech.parts
        return (*words, (self._sounds, DIM))

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return those of the encoders that it was put together from."""
        return (*self._images.models(), *(() if self.speech is None else self.speech.models()))

    def remark(self, text: str | None) -> str:
        """Say that there were no words, or that nobody listened to them."""
        return {"": NO_WORDS, None: NO_SPEECH}.get(text, "")

    def prepare(self, media: Media) -> Prepared:
        """Return a spectrogram, and the input of the encoder of speech."""
        self._require(media.modality)
        assert isinstance(media, Audio)
        waveform = resample(media, RATE)
        speech = None if self.speech is None else self.speech.prepare(Audio(waveform, RATE))
        return _Sound(spectrogram(waveform), len(waveform) / RATE, speech)

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed sounds, a row each, and the moments of longer ones."""
        self._require(modality)
        sounds: Sequence[_Sound] = batch
        pictures = [_pictures(sound.spectrogram) for sound in sounds]
        seen = self._see([picture for own in pictures for picture in own])
        bounds = np.cumsum([0, *(len(own) for own in pictures)])
        features = [seen[first:last] for first, last in pairwise(bounds)]
        words = self._hear(sounds)
        vectors = np.zeros((len(sounds), self.dim), np.float32)
        vectors[:, : self._words] = words.vectors
        spoken = words.moments
        moments: list[tuple[int, float, float, Float[np.ndarray, " dim"], str | None]] = []
        for row, (sound, own) in enumerate(zip(sounds, features, strict=True)):
            if sound.spectrogram.any():
                vectors[row, self._words :] = _describe(sound.spectrogram, own, 0.0, sound.seconds)
            if sound.seconds <= MOMENT:
                continue
            with_words = []
            if spoken is not None:
                mine = np.flatnonzero(spoken.owners == row)
                with_words = [(spoken.starts[m], spoken.ends[m], spoken.vectors[m], spoken.texts[m]) for m in mine]
            nothing = np.zeros(self._words, np.float32)
            wordless = None if words.texts[row] is None else ""
            others = [
                (start, end, nothing, wordless)
                for start, end in _between([(start, end) for start, end, *_ in with_words], sound.seconds)
                if _is_heard(sound.spectrogram, start, end)
            ]
            for start, end, said, text in sorted((*with_words, *others), key=lambda one: float(one[0])):
                heard = _describe(sound.spectrogram, own, start, end)
                moments.append((row, start, end, np.concatenate([said, heard]), text))
        owners, starts, ends, own_vectors, texts = zip(*moments, strict=True) if moments else ((),) * 5
        return Embeddings(
            vectors,
            words.texts,
            words.languages,
            Moments(
                np.array(owners, int),
                np.array(starts, float),
                np.array(ends, float),
                np.array(own_vectors, np.float32).reshape(-1, self.dim),
                tuple(texts),
            ),
        )

    def _hear(self, sounds: Sequence[_Sound]) -> Embeddings:
        if self.speech is None:
            return Embeddings(np.zeros((len(sounds), 0), np.float32), (None,) * len(sounds))
        return self.speech.encode_prepared("audio", [sound.speech for sound in sounds])

    def _see(self, pictures: Sequence[Spectrogram]) -> Float[np.ndarray, "pictures seen"]:
        """Return the projected features of pictures; they are enlarged a batch at a time."""
        size = self._images.batch_size
        parts = [np.zeros((0, self._images.dim), np.float32)]
        for start in range(0, len(pictures), size):
            inputs = [self._images.prepare(_picture(one)) for one in pictures[start : start + size]]
            parts.append(self._images.encode_prepared("image", inputs).vectors)
        return np.asarray(unit_rows(np.concatenate(parts)) @ _projection(self._images.dim))


def spectrogram(waveform: Float[np.ndarray, " samples"]) -> Spectrogram:
    """Return the power in 128 mel bands every 10 ms, in steps of 80 dB / 255 below the loudest: 255 is the loudest.

    Example:
        >>> tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
        >>> levels = spectrogram(tone)
        >>> levels.shape, int(levels.max()), int(levels[50].argmax())
        ((98, 128), 255, 42)
    """
    loudest = float(np.abs(waveform).max(initial=0.0))
    padded = np.pad(waveform / (loudest or 1.0), (0, max(0, _FRAME - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FRAME)[::_STEP]
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    levels = np.empty((len(frames), _BANDS), np.float16)
    for start in range(0, len(frames), 4096):  # some megabytes at a time, however long the sound is
        power = np.abs(np.fft.rfft(frames[start : start + 4096] * window, _FFT)) ** 2
        levels[start : start + 4096] = 10 * np.log10(power @ _bands() + 1e-12)
    top = float(levels.max()) if loudest else np.inf
    quantised: Spectrogram = np.empty(levels.shape, np.uint8)
    for start in range(0, len(levels), 4096):
        above = (levels[start : start + 4096].astype(np.float32) - top) / _RANGE + 1
        quantised[start : start + 4096] = np.rint(255 * np.clip(above, 0, 1))
    return quantised


@cache
def _bands() -> Float[np.ndarray, "frequencies bands"]:
    """Return triangular filters at equal distances in mel, each of height 1 (O'Shaughnessy 1987)."""

    def mel(hertz: float) -> float:
        return float(2595 * np.log10(1 + hertz / 700))

    edges = 700 * (10 ** (np.linspace(mel(_LOWEST), mel(_HIGHEST), _BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(_FFT, 1 / RATE)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


@cache
def _projection(dim: int) -> Float[np.ndarray, "dim seen"]:
    """Return random signs, which keep distances (Achlioptas 2003); by a hash, so that they are the same everywhere."""
    signs = np.unpackbits(np.frombuffer(hashlib.shake_256(b"chiasm sound").digest(-(-dim * SEEN // 8)), np.uint8))
    return (2.0 * signs[: dim * SEEN].reshape(dim, SEEN) - 1).astype(np.float32)


def _pictures(levels: Spectrogram) -> list[Spectrogram]:
    """Return parts of two seconds, end to end; the last one is left out if it is shorter than half of that."""
    starts = range(0, max(1, len(levels) - _PICTURE // 2), _PICTURE)
    parts = [levels[start : start + _PICTURE] for start in starts]
    parts[-1] = np.pad(parts[-1], ((0, _PICTURE - len(parts[-1])), (0, 0)))
    return parts


def _picture(part: Spectrogram) -> Image:
    """Return a square picture: time to the right, high sounds above."""
    grey = PillowImage.fromarray(np.ascontiguousarray(part.T[::-1])).resize((224, 224))
    return Image(np.repeat(np.asarray(grey)[..., None], 3, axis=2))


def _describe(
    levels: Spectrogram, seen: Float[np.ndarray, "pictures seen"], start: float, end: float
) -> Float[np.ndarray, " dim"]:
    """Return the unit vector of a span of a sound: the mean of its pictures, and mean and deviation of its bands."""
    first, last = (round(seconds * RATE / _STEP) for seconds in (start, end))
    middles = (np.arange(len(seen)) + 0.5) * _PICTURE
    inside = (middles >= first) & (middles <= last)
    if not inside.any():
        inside[np.argmin(np.abs(middles - (first + last) / 2))] = True
    loud = inside & np.array([bool((part > _FAINT).any()) for part in _pictures(levels)])
    picture = seen[loud if loud.any() else inside].mean(axis=0)
    frames = levels[min(first, len(levels) - 1) : max(last, first + 1)]
    loud_frames = frames[(frames > _FAINT).any(axis=1)]
    pooled = (frames if not len(loud_frames) else loud_frames).reshape(-1, HEARD // 2, 2 * _BANDS // HEARD).mean(axis=2)
    means = pooled.mean(axis=0)
    bands = np.concatenate([means - means.mean(), pooled.std(axis=0)])
    parts = [unit_rows(part[None].astype(np.float32)) for part in (picture, bands)]
    vector: Float[np.ndarray, " dim"] = unit_rows(np.hstack(parts))[0]
    return vector


def _between(spans: Sequence[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """Return what lies between spans, in equal parts of at most 10 s; less than 1 s is left out."""
    edges = [0.0, *(edge for span in sorted(spans) for edge in span), seconds]
    parts = []
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        if end - start >= _SHORTEST:
            bounds = np.linspace(start, end, int(np.ceil((end - start) / MOMENT)) + 1)
            parts += [(float(a), float(b)) for a, b in pairwise(bounds)]
    return parts


def _is_heard(levels: Spectrogram, start: float, end: float) -> bool:
    first, last = (round(seconds * RATE / _STEP) for seconds in (start, end))
    return bool((levels[first:last] > _FAINT).any())
