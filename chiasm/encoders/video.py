"""Videos to embeddings: their frames through an encoder of images, their sound tracks through one of sounds.

Frames are taken at equal distances. Where two that follow each other differ much more than their neighbours do, a new
shot begins; long shots are cut into windows. A shot's vector is the mean of its frames', the video's the mean of its
shots'. How frames are decoded is left to `chiasm.media`, what a picture or a sound means to the other encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Moments, Prepared, View
from chiasm.encoders.cache import fingerprint
from chiasm.encoders.licence import PretrainedModel
from chiasm.errors import EncoderError
from chiasm.types import Image, Media, Modality, Video
from chiasm.vectors import unit_rows

FPS = 2.0  # frames a second
FRAMES = 512  # at most: of videos above four minutes they lie further apart, of an hour 7 s
WINDOW = 30.0  # seconds of a moment at most

_VERSION = "1"  # of everything here that changes embeddings
_DIFFERENT = 0.2  # cosine distance of frames below which they are of one shot, whatever their neighbours do
_STANDS_OUT = 3.0  # times the median of the distances around it that a cut is at least
_AROUND = 5  # distances on each side
_TRACK_RATE = 48_000  # where the encoder of sounds takes any


@dataclass(frozen=True)
class _Film:
    """A prepared video."""

    inputs: tuple[Prepared, ...]  # of its frames
    edges: Float[np.ndarray, " edges"]  # seconds: where the first frame begins, where each ends and the next begins
    track: Prepared  # None: no sound
    track_seconds: float
    whole: Prepared  # None: it is the mean over its shots


class VideoEncoder(Encoder):
    """Embeddings of videos in the vector space of an encoder of images: each shot, and their mean or a network's view.

    With an encoder of sounds, `Embeddings.track` holds the moments of the sound track and `texts` the transcript. A
    video without sound has its pictures only.
    """

    def __init__(self, images: Encoder, sound: Encoder | None = None, *, whole: Encoder | None = None) -> None:
        """Put encoders together; nothing is loaded.

        Args:
            images: embeds frames.
            sound: embeds sound tracks; None leaves them unheard.
            whole: embeds videos as wholes, in the vector space of `images`, as the mean over shots does without it.

        Raises:
            EncoderError: `images` does not take images, `sound` does not take audio, or `whole` does not take video.
        """
        for encoder, modality in ((images, "image"), (sound, "audio"), (whole, "video")):
            if encoder is not None and modality not in encoder.modalities:
                raise EncoderError(f"the {modality} encoder of videos has to take {modality}; {encoder.name} does not")
        self.name = images.name if sound is None else f"{images.name} and {sound.name}"
        self.modalities: frozenset[Modality] = frozenset({"video"})
        self.dim = images.dim
        track = None if sound is None else sound.view.rate or _TRACK_RATE
        self.view = View(image_size=images.view.image_size, frames=FRAMES, fps=FPS, track=track)
        self.batch_size = 4
        self.sound = sound
        self._images = images
        self._whole = whole
        settings = (FPS, FRAMES, WINDOW, _DIFFERENT, _STANDS_OUT, _AROUND)
        of_sound = "" if sound is None else sound.fingerprint
        seen = () if whole is None else (whole.fingerprint,)
        self.fingerprint = fingerprint("video", _VERSION, str(settings), images.fingerprint, of_sound, *seen)

    @property
    def vector_space(self) -> str:
        """That of the encoder of images."""
        return self._images.vector_space

    def class_head(self) -> ClassHead | None:
        """That of the encoder of images."""
        return self._images.class_head()

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return those of the encoders that it was put together from."""
        parts = [self._images, self.sound, self._whole]
        return tuple(dict.fromkeys(model for part in parts if part is not None for model in part.models()))

    def prepare(self, media: Media) -> Prepared:
        """Return the inputs of both encoders."""
        self._require(media.modality)
        assert isinstance(media, Video)
        inputs = tuple(self._images.prepare(Image(frame)) for frame in media.frames)
        track, seconds = None, 0.0
        if self.sound is not None and media.sound is not None:
            track, seconds = self.sound.prepare(media.sound), len(media.sound.waveform) / media.sound.rate
        whole = None if self._whole is None else self._whole.prepare(media)
        return _Film(inputs, _edges(media), track, seconds, whole)

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed prepared videos, a row each, with their shots and their sound tracks."""
        self._require(modality)
        films: Sequence[_Film] = batch
        vectors = np.zeros((len(films), self.dim), np.float32)
        frames = self._frames([one for film in films for one in film.inputs])
        owners, starts, ends, shots = [], [], [], [np.zeros((0, self.dim), np.float32)]
        first = 0
        for row, film in enumerate(films):
            own = frames[first : first + len(film.inputs)]
            first += len(film.inputs)
            bounds = _shots(own, film.edges)
            means = np.stack([own[a:b].mean(axis=0) for a, b in pairwise(bounds)])
            vectors[row] = means.mean(axis=0)
            if len(means) > 1:  # a video of one moment is that moment
                owners += [row] * len(means)
                starts += film.edges[bounds[:-1]].tolist()
                ends += film.edges[bounds[1:]].tolist()
                shots.append(means)
        if self._whole is not None:
            vectors = self._whole.encode_prepared("video", [film.whole for film in films]).vectors
        moments = Moments(
            np.array(owners, int), np.array(starts), np.array(ends), np.concatenate(shots), (None,) * len(owners)
        )
        return self._with_sound(films, Embeddings(vectors, (None,) * len(films), moments=moments))

    def _frames(self, inputs: Sequence[Prepared]) -> Float[np.ndarray, "frames dim"]:
        size = self._images.batch_size
        parts = [
            self._images.encode_prepared("image", inputs[start : start + size]).vectors
            for start in range(0, len(inputs), size)
        ]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])

    def _with_sound(self, films: Sequence[_Film], pictures: Embeddings) -> Embeddings:
        """Add the sound tracks to the embeddings of the pictures."""
        rows = [row for row, film in enumerate(films) if film.track is not None]
        if self.sound is None or not rows:
            return pictures
        sounds = self.sound.encode_prepared("audio", [films[row].track for row in rows])
        texts: list[str | None] = list(pictures.texts)
        languages: list[str | None] = [None] * len(films)
        parts: list[tuple[int, float, float, Float[np.ndarray, " dim"], str | None]] = []
        for number, row in enumerate(rows):
            texts[row] = sounds.texts[number]
            languages[row] = sounds.languages[number] if sounds.languages else None
            spans = sounds.moments
            own = [] if spans is None else np.flatnonzero(spans.owners == number).tolist()
            if spans is None or not own:  # a short sound is one moment
                parts.append((row, 0.0, films[row].track_seconds, sounds.vectors[number], sounds.texts[number]))
            else:
                parts += [(row, spans.starts[m], spans.ends[m], spans.vectors[m], spans.texts[m]) for m in own]
        owners, starts, ends, vectors, words = zip(*parts, strict=True)
        track = Moments(np.array(owners), np.array(starts), np.array(ends), np.stack(vectors), words)
        return Embeddings(pictures.vectors, tuple(texts), tuple(languages), pictures.moments, track)


def _edges(video: Video) -> Float[np.ndarray, " edges"]:
    """Return the seconds at which the part of each frame begins, and at the end the duration.

    A frame was asked for at the middle of its part of the duration. The picture changed between that time and the one
    from which the next frame is shown: half way is the guess, and the times between the parts where both are like them.
    """
    count = len(video.frames)
    centres = (np.arange(count) + 0.5) * video.duration / count
    latest = np.maximum(centres[:-1], video.times[:-1])
    next_begins = np.maximum(video.times[1:], latest)
    return np.concatenate([[0.0], (latest + next_begins) / 2, [video.duration]])


def _shots(vectors: Float[np.ndarray, "frames dim"], edges: Float[np.ndarray, " edges"]) -> Int[np.ndarray, " bounds"]:
    """Return the numbers of the frames at which moments begin, and the number of frames."""
    unit = unit_rows(vectors)
    distances = 1 - (unit[:-1] * unit[1:]).sum(axis=1)
    bounds = [0]
    for number, distance in enumerate(distances):
        around = np.delete(distances[max(0, number - _AROUND) : number + _AROUND + 1], min(number, _AROUND))
        usual = float(np.median(around)) if len(around) else 0.0
        if distance >= max(_DIFFERENT, _STANDS_OUT * usual):
            bounds.append(number + 1)
    bounds.append(len(vectors))
    cut = [0]
    for begin, end in pairwise(bounds):
        parts = min(end - begin, int(np.ceil((edges[end] - edges[begin]) / WINDOW)))
        cut += [begin + round((end - begin) * part / max(1, parts)) for part in range(1, max(1, parts) + 1)]
    return np.array(cut)
