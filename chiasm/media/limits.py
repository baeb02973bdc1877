"""How large a file may be before it is refused instead of opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one file. A file over any of them is refused with `Outcome.TOO_LARGE`, before it is decoded.

    The defaults let through what cameras and recorders make, and keep one reader to a few GB of memory at worst.

    Example:
        >>> Limits(max_pixels=1000).max_seconds
        10800.0
    """

    max_bytes: int = 4 * 2**30
    """Bytes of the file on disk."""

    max_bytes_whole: int = 2**30
    """Bytes of a file that has to be read whole to be opened or checked: images, texts, Ogg and MP3."""

    max_pixels: int = 250_000_000
    """Width times height of an image as stored, so also where it is opened at reduced size.

    `PIL.Image.MAX_IMAGE_PIXELS` holds too where the program has set it, and lower.
    """

    max_frame_pixels: int = 80_000_000
    """Width times height of a video's frame, where it is lower than `max_pixels`: decoders hold many of them."""

    max_seconds: float = 3 * 3600.0
    """Duration of a sound or a video. Three hours of sound at 16 kHz are 700 MB of samples."""

    max_characters: int = 10_000_000
    """Characters of a text."""


def limits_of(max_pixels: int | None) -> Limits:
    """Return the usual limits, but for the pixels of an image where they are named.

    Raises:
        ValueError: fewer than one pixel.
    """
    if max_pixels is not None and max_pixels < 1:
        raise ValueError(f"max_pixels has to be at least 1; got {max_pixels}")
    return Limits() if max_pixels is None else Limits(max_pixels=max_pixels)
