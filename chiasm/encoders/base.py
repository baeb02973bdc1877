"""The contract of an encoder, between media and arrays.

An encoder is pretrained and frozen. It turns one opened medium into the input of its network (`prepare`, cheap, called
from several reader threads) and batches of such inputs into embeddings (`encode`, expensive, called from one thread).
How weights are found and run is left to `offline`, `huggingface` and `runtime`; where embeddings are kept, to
`chiasm.store`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from chiasm.encoders.licence import PretrainedModel
from chiasm.errors import EncoderError
from chiasm.types import MODALITIES, Audio, Image, Media, Modality, Text

Prepared: TypeAlias = Any
"""One input as its network takes it: an array, a dict of arrays or a string. Only its own encoder looks in."""


@dataclass(frozen=True)
class View:
    """How media should be opened for an encoder, so that no more is decoded than the network sees."""

    image_size: int | None = None  # pixels of the network's input side; larger images may be opened at reduced size
    rate: int | None = None  # samples a second of audio; None keeps the file's own
    frames: int = 8  # of a video, at most, at equally spaced times
    fps: float | None = None  # frames a second of a video, until there are `frames`; None: always `frames`
    track: int | None = None  # samples a second of the sound track of a video; None: it is not wanted


@dataclass(frozen=True)
class Moments:
    """Time spans of inputs and passages of texts, each with its own vector: a row a moment.

    Example:
        >>> moments = Moments(np.array([0, 0]), np.array([0.0, 5.0]), np.array([5.0, 9.0]), np.zeros((2, 3)), (None, "hello"))
        >>> len(moments), moments.texts[1]
        (2, 'hello')
    """

    owners: Int[np.ndarray, " moments"]  # the input that each is of, by its row, ascending
    starts: Float[np.ndarray, " moments"]  # seconds from the beginning of the input, of texts characters; float64
    ends: Float[np.ndarray, " moments"]
    vectors: Float[np.ndarray, "moments dim"]
    texts: tuple[str | None, ...]  # as of `Embeddings`; of a passage, the passage

    def __len__(self) -> int:
        return len(self.owners)


@dataclass(frozen=True)
class Embeddings:
    """Vectors, a row an input, as the network gives them, with transcripts and moments.

    A row of zeros says that there was nothing to embed.

    Attributes:
        vectors: of whole inputs, float32.
        texts: transcript of each input ("": no words); None where the encoder does not go by words.
        languages: code of the language that is spoken in each input, where it is known; empty: of none.
        moments: of the inputs that are longer than one moment, in the encoder's own vector space.
        track: of the sound tracks of videos, in the vector space of `Encoder.sound`.
    """

    vectors: Float[np.ndarray, "inputs dim"]
    texts: tuple[str | None, ...]
    languages: tuple[str | None, ...] = ()
    moments: Moments | None = None
    track: Moments | None = None


@dataclass(frozen=True)
class Cells:
    """Shares of the places of pictures in their embeddings, which are the means over the places.

    Attributes:
        vectors: a row a place.
        boxes: left, top, right and bottom of each place, as shares of the picture's width and height; may lie outside of it.
    """

    vectors: Float[np.ndarray, "pictures places dim"]
    boxes: Float[np.ndarray, "pictures places 4"]


@dataclass(frozen=True)
class ClassHead:
    """A pretrained linear classifier on an encoder's embeddings: `softmax(vectors @ weight + bias)` over `names`.

    Example:
        >>> head = ClassHead(np.eye(2), np.zeros(2), ("cat", "dog"))
        >>> head.names[(np.array([0.1, 0.9]) @ head.weight + head.bias).argmax()]
        'dog'
    """

    weight: Float[np.ndarray, "dim classes"]
    bias: Float[np.ndarray, " classes"]
    names: tuple[str, ...]


def resample(sound: Audio, rate: int) -> Float[np.ndarray, " samples"]:
    """Return the waveform of a sound at another rate, float32; at its own as it is."""
    waveform = sound.waveform
    if sound.rate != rate:
        import soxr

        waveform = soxr.resample(waveform, sound.rate, rate)
    return np.asarray(waveform, dtype=np.float32)


@dataclass(frozen=True)
class Portable:
    """Files and graphs that run an encoder elsewhere, by ONNX Runtime.

    Attributes:
        graph: from pixels or tokens to embeddings, weights inside.
        tokenizer: of texts, as the library tokenizers reads it; empty for pictures.
    """

    graph: bytes
    tokenizer: bytes = b""


class Encoder(ABC):
    """A pretrained, frozen network with one embedding space for all of its modalities.

    Making one is cheap: weights are read at the first `encode`. Attributes are constant after `__init__`.
    """

    name: str
    fingerprint: str  # hex digest over weights, preprocessing and version: equal exactly when embeddings may be mixed
    modalities: frozenset[Modality]
    dim: int
    view: View
    batch_size: int  # inputs a call of `encode_prepared` at which the network is fastest
    learned_from: frozenset[str] = frozenset()  # digests of files whose labels it was trained further on
    sound: Encoder | None = None  # of videos: whose vectors `Embeddings.track` are; it takes audio
    fuses: bool = False  # whether `encode_fused` takes a picture and words as one input

    def only(self, modalities: frozenset[Modality]) -> Self:
        """Return the same encoder for some of its modalities."""
        if modalities == self.modalities:
            return self
        narrowed = copy(self)
        narrowed.modalities = modalities
        return narrowed

    @property
    def vector_space(self) -> str:
        """Equal for encoders whose vectors can be compared with each other: the own fingerprint, unless it is shared."""
        return self.fingerprint

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Vector spaces that stand side by side in its vectors, and their widths; zeros where a vector has nothing of one."""
        return ((self.vector_space, self.dim),)

    def remark(self, text: str | None) -> str:  # noqa: ARG002
        """Return what is said about a file that was embedded, by its `Embeddings.texts`; "" for nothing."""
        return ""

    @abstractmethod
    def prepare(self, media: Media) -> Prepared:
        """Turn one medium into the input of the network. Safe to call from several threads.

        Raises:
            EncoderError: the medium's modality is not one of `modalities`.
        """

    @abstractmethod
    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed prepared inputs of one modality and their moments, in order. An empty batch gives shape (0, dim).

        Raises:
            EncoderError: the modality is not one of `modalities`, or the network cannot be loaded.
        """

    def encode(self, media: Sequence[Media]) -> Embeddings:
        """Embed media of any mix of this encoder's modalities, a row a medium, in order; without their moments."""
        return self._in_order(media, self.encode_prepared)

    def encode_queries(self, media: Sequence[Media]) -> Embeddings:
        """Embed media that others are searched with, as `encode` does unless the network makes a difference."""
        return self.encode(media)

    def encode_fused(self, pairs: Sequence[tuple[Image, Text]]) -> Float[np.ndarray, "pairs dim"]:  # noqa: ARG002
        """Embed what is searched with, each a picture and words as one input; a row a pair.

        Raises:
            EncoderError: the network takes each alone only (`fuses`).
        """
        raise EncoderError(f"the encoder {self.name} takes no picture with words as one input")

    def _in_order(
        self, media: Sequence[Media], embed: Callable[[Modality, Sequence[Prepared]], Embeddings]
    ) -> Embeddings:
        vectors = np.empty((len(media), self.dim), dtype=np.float32)
        texts: list[str | None] = [None] * len(media)
        by_modality: dict[Modality, list[int]] = {}
        for row, medium in enumerate(media):
            by_modality.setdefault(medium.modality, []).append(row)
        for modality, rows in by_modality.items():
            part = embed(modality, [self.prepare(media[row]) for row in rows])
            vectors[rows] = part.vectors
            for row, text in zip(rows, part.texts, strict=True):
                texts[row] = text
        return Embeddings(vectors, tuple(texts))

    def cells(self, pictures: Sequence[Image]) -> Cells | None:  # noqa: ARG002
        """Return what the places of pictures give to their embeddings; None where these are no means over places."""
        return None

    def class_head(self) -> ClassHead | None:
        """Return the pretrained classifier that reads these embeddings, where the weights have one (else None)."""
        return None

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return the networks that it runs, with what is known of their licences and sizes."""
        return (PretrainedModel(self.name, self.fingerprint),)

    def portable(self, *, int8: bool = False) -> Portable:  # noqa: ARG002
        """Return what runs it without chiasm.

        Args:
            int8: whether in 8-bit integers.

        Raises:
            EncoderError: it prepares its input by more than Pillow and tokenizers.
        """
        takes = " and ".join(sorted(self.modalities))
        raise EncoderError(
            f"the encoder {self.name} prepares {takes} by libraries that an exported file does without. What can leave are "
            "the pictures and texts of the encoder 'offline', as it is or trained further by chiasm finetune"
        )

    def int8_cosines(self) -> dict[Modality, float]:
        """Return the mean cosine of vectors in int8 to those in float32, by modality, as measured when int8 was made.

        Empty: the networks are in float32, or have not been used on this machine yet.
        """
        return {}

    def _require(self, modality: Modality) -> None:
        if modality not in self.modalities:
            has = " and ".join(sorted(self.modalities))
            raise EncoderError(f"the encoder {self.name} takes {has}, not {modality}. Use one that takes {modality}")


def first_of(encoders: Sequence[Encoder]) -> dict[Modality, Encoder]:
    """Return the encoder of each modality: the first that has it."""
    owner: dict[Modality, Encoder] = {}
    for encoder in encoders:
        for modality in sorted(encoder.modalities):
            owner.setdefault(modality, encoder)
    return owner


def fingerprints_of(encoders: Sequence[Encoder]) -> dict[Modality, str]:
    """Return the fingerprint of the encoder that embeds each modality: the first that has it."""
    owner = first_of(encoders)
    return {modality: owner[modality].fingerprint for modality in MODALITIES if modality in owner}
