"""The vocabulary: the words that every other module uses, and nothing that does any work.

See the glossary in docs/glossary.md. Arrays are float32 unless a signature says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8

Modality: TypeAlias = Literal["image", "text", "audio", "video"]
MODALITIES: tuple[Modality, ...] = ("image", "text", "audio", "video")

Scalar: TypeAlias = str | int | float | bool | date | datetime | None
"""A value of a metadata or label column."""


class Outcome(StrEnum):
    """The outcome of one file. Every file of a run gets exactly one."""

    OK = "ok"
    BROKEN = "broken"  # of a known kind, but cannot be decoded, or cannot be read
    UNSUPPORTED = "unsupported"  # no modality that the encoder takes
    EMPTY = "empty"  # no bytes, no samples, no words
    SILENT = "silent"  # sound without a signal
    TOO_LARGE = "too_large"  # over a limit on bytes, pixels or duration
    NOT_READ = "not_read"  # beside media and none itself: sidecars, tables in a folder, what chiasm wrote
    DUPLICATE = "duplicate"  # the same content as another file of the same modality; its embedding is shared


@dataclass(frozen=True)
class Image:
    """RGB pixels, upright, without alpha."""

    pixels: UInt8[np.ndarray, "height width 3"]
    modality: Literal["image"] = field(default="image", init=False)


@dataclass(frozen=True)
class Text:
    """Unicode text, not empty."""

    text: str
    modality: Literal["text"] = field(default="text", init=False)


@dataclass(frozen=True)
class Audio:
    """A mono waveform in [-1, 1] at `rate` samples a second."""

    waveform: Float[np.ndarray, " samples"]
    rate: int
    modality: Literal["audio"] = field(default="audio", init=False)


@dataclass(frozen=True)
class Video:
    """Frames (RGB, upright), the time in seconds from which each is shown, and the sound track where it was asked for.

    The sound begins with the first frame. It is None also where the video has none, or a silent one.
    """

    frames: UInt8[np.ndarray, "frames height width 3"]
    times: Float[np.ndarray, " frames"]
    duration: float
    sound: Audio | None = None
    modality: Literal["video"] = field(default="video", init=False)


Media: TypeAlias = Image | Text | Audio | Video


@dataclass(frozen=True)
class Source:
    """Where one medium of an item comes from: a file, or text that stands in the manifest itself."""

    modality: Modality
    path: str | None = None  # absolute
    text: str | None = None

    def __post_init__(self) -> None:
        if (self.path is None) == (self.text is None):
            raise ValueError(f"a source has either a path or a text; got path={self.path!r}, text={self.text!r}")


@dataclass(frozen=True)
class Item:
    """One thing: any subset of the modalities, each with one or several sources, and metadata."""

    id: str
    sources: tuple[Source, ...]
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class FileOutcome:
    """The outcome of one file, with the reason if it is not ok."""

    path: str
    outcome: Outcome
    reason: str = ""
