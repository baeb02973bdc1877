"""Containers such as MP4, WebM and AVI, opened with FFmpeg (through PyAV), and which of their streams matter.

FFmpeg is told the format and given an open file, so it never guesses one, follows a link or opens another file.
Its errors become `MediaError` here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, TypeVar, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from chiasm.errors import MediaError
from chiasm.media.kinds import Kind
from chiasm.types import Outcome

_Stream = TypeVar("_Stream", bound=Stream)
_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails  # covers of songs, previews of films


@contextmanager
def open_container(file: BinaryIO, kind: Kind) -> Iterator[InputContainer]:
    """Open a container and close it at the end. What FFmpeg cannot read inside the block is `BROKEN`.

    Raises:
        MediaError: `BROKEN`.
    """
    try:
        with av.open(file, mode="r", format=kind.demuxer, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise MediaError(Outcome.BROKEN, f"the {kind.name} cannot be decoded: {error.strerror}") from error


def packets(source: InputContainer, *streams: _Stream) -> Iterator[Packet[_Stream]]:
    """Yield the packets of streams in the order of the file, with an empty one of each at the end, as PyAV's demuxers do.

    A stream that begins in the middle of the file is not one of them. PyAV has not heard of it, and asks at the end, behind
    the last packet of ours, whether it is wanted: in memory that is not its own, which may say yes, and end in an IndexError.
    """
    with suppress(IndexError):
        yield from cast("Iterator[Packet[_Stream]]", source.demux(*streams))


def main_stream(container: InputContainer, kind: Kind) -> VideoStream | AudioStream:
    """Return the first video stream, else the first audio stream; covers and previews are no video.

    Raises:
        MediaError: `BROKEN` there is neither; `UNSUPPORTED` FFmpeg has no decoder for it.
    """
    videos = [stream for stream in container.streams.video if not stream.disposition & _NO_FILM]
    candidates: list[VideoStream | AudioStream] = [*videos, *container.streams.audio]
    if not candidates:
        raise MediaError(Outcome.BROKEN, f"the {kind.name} has neither pictures nor sound")
    stream = candidates[0]
    if not has_decoder(stream):
        raise MediaError(Outcome.UNSUPPORTED, f"no decoder is known for the {stream.type} of the {kind.name}")
    return stream


def has_decoder(stream: VideoStream | AudioStream) -> bool:
    """Return whether FFmpeg knows the codec of a stream."""
    return stream.codec_context is not None


def strict(stream: VideoStream | AudioStream) -> None:
    """Let the decoder fail on damaged data instead of painting over them.

    On one thread: with several, FFmpeg drops most errors (and readers run side by side anyway).
    """
    stream.codec_context.options = {"err_detect": "crccheck+explode"}
    stream.codec_context.thread_count = 1


def duration(container: InputContainer, stream: VideoStream | AudioStream) -> float | None:
    """Return the seconds as the stream, or else the container, declares them; None where neither does."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def begin(stream: VideoStream | AudioStream) -> float | None:
    """Return the second on the clock of the container at which a stream begins; None where that is not known yet."""
    return float(stream.start_time * stream.time_base) if stream.start_time is not None and stream.time_base else None
