"""From a file to pixels, samples, frames or characters: the one door through which media come in.

`load` opens any file by what is in it. A JPEG that is named .png is a JPEG; but text under the name of an image, a sound or
a video is an error page or a pointer, and never taken for what was meant. Every failure, of whatever kind, is a `MediaError`
with an outcome and a reason. Nothing is repaired or filled in: a file that is not whole is `BROKEN`. Safe to call from
several threads at once; no setting of the libraries below is changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from chiasm.errors import MediaError
from chiasm.files import NotAFileError, open_source
from chiasm.media import integrity, kinds, text
from chiasm.media.kinds import Kind
from chiasm.media.limits import Limits
from chiasm.types import Media, Modality, Outcome, Text

__all__ = ["Limits", "load", "sniff", "words_of"]


def load(
    path: str | Path,
    *,
    image_size: int | None = None,
    rate: int | None = None,
    frames: int = 8,
    fps: float | None = None,
    track: int | None = None,
    listed_as: Modality | None = None,
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> Media:
    """Open one file as what it is.

    Images: JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF, JPEG 2000, PNM. Sounds: WAV, AIFF, FLAC, Ogg (Vorbis, Opus, FLAC),
    MP3, AAC, AMR, and MP4 (M4A), WebM, Matroska, ASF (WMA) without a video stream. Videos: MP4, QuickTime, WebM,
    Matroska, AVI, MPEG, FLV, ASF (WMV), Ogg (Theora). Everything else that reads as text is text.

    Args:
        path: the file.
        image_size: pixels that the shorter side of an image or of a frame needs to have. Larger ones may be decoded
            at a smaller size, never below this. None decodes all pixels.
        rate: samples a second of sounds; None keeps the file's own.
        frames: frames of a video, at the centres of as many equal parts of its duration.
        fps: frames a second of a video; with it, `frames` is the most that are taken. None takes always `frames`.
        track: samples a second of the sound track of a video; None leaves it out.
        listed_as: the modality that a table has the file under. Any medium is opened all the same, but no text instead
            of one.
        limits: what is too large to open.

    Returns:
        An `Image` (RGB, upright, transparency on white), `Text` (line ends as `\\n`), `Audio` (mono, the mean of all
        channels, what exceeds full scale clipped) or `Video`.

    Raises:
        MediaError: the file cannot be used. `BROKEN`: missing, unreadable, cut off or damaged, or text where its name or
            `listed_as` promises an image, a sound or a video. `EMPTY`: no bytes, no
            samples, only whitespace. `SILENT`: see `chiasm.media.audio.SILENCE`. `TOO_LARGE`: over `limits`.
            `UNSUPPORTED`: of no kind listed above, or not a file at all. A video whose sound track is damaged is
            `BROKEN` if the track is asked for; one whose track is silent, empty or of an unknown codec has none.
        ValueError: `image_size`, `rate`, `frames`, `fps` or `track` is not positive.
    """
    for name, value in (("image_size", image_size), ("rate", rate), ("frames", frames), ("track", track)):
        if value is not None and value < 1:
            raise ValueError(f"{name} has to be at least 1; got {value}")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps has to be above 0; got {fps}")
    with _open(path, listed_as, limits) as (file, kind):
        if kind.reader == "text":
            return text.read(file.read(), limits=limits)
        if kind.reader == "pillow":
            from chiasm.media import image

            return image.read(file.read(), kind, image_size=image_size, limits=limits)
        from chiasm.media import audio, container, video

        whole = integrity.check(file, kind)
        if kind.modality == "audio":
            return audio.read(whole, kind, rate=rate, limits=limits)
        with container.open_container(whole, kind) as source:
            stream = container.main_stream(source, kind)
            if stream.type == "audio":
                return audio.read_stream(source, stream, kind, rate=rate, limits=limits)
            film, begin = video.read_stream(
                source, stream, kind, frames=frames, fps=fps, image_size=image_size, limits=limits
            )
        if track is None:
            return film
        whole.seek(0)
        with container.open_container(whole, kind) as source:  # anew: the pictures have left it somewhere in the middle
            return replace(film, sound=audio.read_track(source, kind, begin=begin, rate=track, limits=limits))


def sniff(path: str | Path, *, listed_as: Modality | None = None) -> Modality:
    """Tell the modality of a file from its first bytes, and of a container from its list of streams. Decodes nothing.

    Args:
        path: the file.
        listed_as: as for `load`.

    Raises:
        MediaError: the file is missing, unreadable, empty, text in place of a medium, or of no kind that `load` knows. That
            it passes here does not mean that it is whole.
    """
    with _open(path, listed_as, Limits()) as (file, kind):
        if kind.modality is not None:
            return kind.modality
        from chiasm.media import container

        with container.open_container(file, kind) as source:
            return container.main_stream(source, kind).type


def words_of(text: str) -> str | None:
    """Return the words of an item's text: itself, or what stands in the file that it names; None if that cannot be read.

    Example:
        >>> words_of("a red boat")
        'a red boat'
    """
    if not Path(text).is_absolute():
        return text
    try:
        medium = load(text)
    except MediaError:  # it is gone, or has changed since it was added
        return None
    return medium.text if isinstance(medium, Text) else None


@contextmanager
def _open(path: str | Path, listed_as: Modality | None, limits: Limits) -> Iterator[tuple[BinaryIO, Kind]]:
    """Open a file and recognise it; turn failures to read it, here and in the block, into `MediaError`."""
    if "\0" in str(path):
        raise MediaError(Outcome.BROKEN, "the file does not exist: no name can hold a NUL")
    try:
        with open_source(path) as file:
            size = file.seek(0, os.SEEK_END)
            _check_size(size, limits.max_bytes)
            kind = kinds.recognise(file)
            file.seek(0)
            if kind is kinds.TEXT:
                kinds.check_text(str(path), file.read(kinds.HEAD), listed_as)
            if kind.is_read_whole:
                _check_size(size, limits.max_bytes_whole)
            file.seek(0)
            yield file, kind
    except NotAFileError as error:
        raise MediaError(Outcome.UNSUPPORTED, str(error.strerror)) from error
    except FileNotFoundError as error:
        raise MediaError(Outcome.BROKEN, "the file does not exist") from error
    except OSError as error:
        raise MediaError(Outcome.BROKEN, f"the file cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise MediaError(Outcome.TOO_LARGE, "the file needs more memory than there is") from error


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise MediaError(Outcome.TOO_LARGE, f"the file has {size:,} bytes; the limit is {most:,}")
