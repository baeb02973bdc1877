"""Videos: frames at equal distances, through FFmpeg.

Finds the key picture before each time and decodes from there, so that of a long video little is decoded. Only the
chosen frames are kept, at the size asked for. Mirroring and non-square pixels are left as stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import groupby

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import UInt8

from chiasm import work
from chiasm.errors import MediaError
from chiasm.media import container, kinds
from chiasm.media.kinds import Kind
from chiasm.media.limits import Limits
from chiasm.types import Outcome, Video

Pixels = UInt8[np.ndarray, "height width 3"]


def read_stream(
    source: InputContainer,
    stream: VideoStream,
    kind: Kind,
    *,
    frames: int,
    fps: float | None,
    image_size: int | None,
    limits: Limits,
) -> tuple[Video, float]:
    """Decode the frames of a container at the centres of equal parts of its duration.

    Args:
        source: the container.
        stream: its video stream.
        kind: what the container is.
        frames: as many as these, or at most with `fps`.
        fps: frames a second; None takes always `frames`.
        image_size: pixels of the shorter side of the frames; larger frames are scaled down to it, smaller ones left as
            they are. None leaves all as they are.
        limits: see `Limits.max_pixels`, `Limits.max_frame_pixels` and `Limits.max_seconds`.

    Returns:
        The frames with the times at which they begin to be shown, from the first on: one that is shown at two centres is
        given twice. And the second on the container's clock at which the first is shown.

    Raises:
        MediaError: `BROKEN` or `TOO_LARGE`.
    """
    if not stream.time_base:
        raise MediaError(Outcome.BROKEN, f"the {kind.name} does not say how its video counts time")
    container.strict(stream)
    begin, end = _measure(source, stream, kind)
    seconds = float((end - begin) * stream.time_base)
    if seconds > limits.max_seconds:
        raise MediaError(
            Outcome.TOO_LARGE, f"the video lasts {seconds:,.0f} seconds; the limit is {limits.max_seconds:,.0f}"
        )
    _check_size(stream.width, stream.height, limits)
    reader = _Reader(source, stream, kind, begin, stream.time_base, image_size, limits)
    count = frames if fps is None else max(1, min(frames, round(seconds * fps)))
    pixels, times = zip(*reader.frames_at([(index + 0.5) * seconds / count for index in range(count)]), strict=True)
    return Video(np.stack(pixels), np.array(times, dtype=np.float32), seconds), float(begin * stream.time_base)


def _check_size(width: int, height: int, limits: Limits) -> None:
    most = min(limits.max_pixels, limits.max_frame_pixels)
    if width * height > most:
        raise MediaError(
            Outcome.TOO_LARGE,
            f"a frame has {width:,} x {height:,} = {width * height:,} pixels; the limit is {most:,}",
        )


_LACKING = 0.05  # of a declared duration that may be: durations are rounded, and that of the last frame is a guess


def _measure(source: InputContainer, stream: VideoStream, kind: Kind) -> tuple[int, int]:
    """Return where the pictures begin, and where the video ends, in ticks. Decodes nothing.

    What a container declares may be too short or too long, or count from a clock that did not begin at 0. So the packets
    themselves are asked, from the last key picture before the declared end on, or all of them.

    Raises:
        MediaError: `BROKEN` there are no pictures, or the packets break off much before the declared end.
    """
    assert stream.time_base is not None
    tick = stream.time_base
    declared = None if kind == kinds.MPEG_PS else container.duration(source, stream)  # there FFmpeg guesses, badly
    begin = stream.start_time
    if begin is None:  # the pictures begin late after the sound
        begin = next((packet.pts for packet in container.packets(source, stream) if packet.pts is not None), 0)
    end = last = None
    if declared is not None:
        try:
            source.seek(begin + round(declared / tick), stream=stream)
            end, last = _last(source, stream)
        except av.FFmpegError:  # a format that cannot be searched
            end = None
    if end is None:
        _rewind(source, stream, begin)
        end, last = _last(source, stream)
    if end is None or last is None or end <= begin:
        raise MediaError(Outcome.BROKEN, f"the {kind.name} has no pictures")
    if declared is not None and kind == kinds.MATROSKA:  # of others, it shows in the lengths of their parts
        there = float((last if declared > begin * tick else last - begin) * tick)
        if declared - there > max(1.0, declared * _LACKING):
            raise MediaError(
                Outcome.BROKEN, f"the {kind.name} breaks off after {there:,.1f} of {declared:,.1f} seconds"
            )
    return begin, end


def _last(source: InputContainer, stream: VideoStream) -> tuple[int | None, int | None]:
    """Return where the video ends and where its last packet ends, from here on, in ticks; None if there is no picture.

    The video ends with its pictures, or with a sound that goes on: only containers whose streams declare no durations of
    their own have one for both.
    """
    assert stream.time_base is not None
    tick = stream.time_base
    sounds = source.streams.audio[:1]
    one = (
        round(1 / (stream.average_rate * tick)) if stream.average_rate else 0
    )  # a packet may not say how long it lasts
    picture: int | None = None
    sound = 0
    for packet in container.packets(source, stream, *sounds):
        work.check()
        if packet.pts is None or not packet.time_base or packet.is_discard:
            continue
        if packet.stream.index == stream.index:
            picture = max(packet.pts if picture is None else picture, packet.pts + (packet.duration or one))
        else:
            sound = max(sound, round((packet.pts + (packet.duration or 0)) * packet.time_base / tick))
    if picture is None:
        return None, None
    begin = (
        container.begin(sounds[0]) if sounds else None
    )  # where it is not known yet, it is far behind the first picture
    goes_on = not stream.duration and begin is not None and begin <= picture * tick
    return max(picture, sound) if goes_on else picture, max(picture, sound)


def _rewind(source: InputContainer, stream: VideoStream, begin: int) -> None:
    """Go to the first packet of a stream that begins at a tick."""
    try:
        source.seek(min(0, begin), stream=stream)
    except av.FFmpegError:  # a format that only knows the times that it has
        source.seek(begin, stream=stream)


def _begin(frame: VideoFrame) -> int:
    """Return the tick from which a frame is shown; old containers store only the order of decoding."""
    return frame.pts if frame.pts is not None else (frame.dts or 0)


class _Reader:
    """Decodes frames of one video stream. Times are in the stream's own ticks, counted as the stream counts them."""

    def __init__(
        self,
        source: InputContainer,
        stream: VideoStream,
        kind: Kind,
        begin: int,
        tick: Fraction,
        image_size: int | None,
        limits: Limits,
    ) -> None:
        self._source, self._stream, self._start, self._tick = source, stream, begin, tick
        self._image_size, self._limits = image_size, limits
        self._joins_midway = kind in (kinds.MPEG_TS, kinds.MPEG_PS)  # broadcasts are cut anywhere
        self._broken = MediaError(Outcome.BROKEN, f"the {kind.name} has no frame that can be decoded")
        self._size: tuple[int, int] | None = None

    def frames_at(self, times: Sequence[float]) -> list[tuple[Pixels, float]]:
        """Return the frames shown at these times (ascending, in seconds), each with the time at which it begins."""
        stamps = [self._start + round(time / self._tick) for time in times]
        frames: list[tuple[Pixels, float]] = []
        for key, group in groupby(stamps, self._key_before):
            frames += self._decode_group(list(group), is_first=key is not None and key <= self._start)
        return frames

    def _key_before(self, stamp: int) -> int | None:
        """Return where the demuxer lands when it seeks a time: equal for times with the same key picture."""
        try:
            self._source.seek(stamp, stream=self._stream)
            return next(container.packets(self._source, self._stream)).pts
        except (av.FFmpegError, StopIteration):  # a format that cannot be searched is decoded from its beginning
            return None

    def _decode_group(self, stamps: list[int], *, is_first: bool) -> list[tuple[Pixels, float]]:
        """Decode from before the first time; formats without an index may land behind it, so go back further then."""
        back = 0
        while True:
            from_start = is_first or stamps[0] - back <= self._start
            if from_start:
                _rewind(self._source, self._stream, self._start)
            else:
                self._source.seek(stamps[0] - back, stream=self._stream)
            frames = self._decode(stamps, from_start)
            if frames is not None:
                return frames
            if from_start:
                raise self._broken
            back = max(4 * back, round(2 / self._tick))

    def _decode(self, stamps: list[int], from_start: bool) -> list[tuple[Pixels, float]] | None:
        """Decode on until each time has its frame; None where the first frame comes after the first time."""
        frames: list[tuple[Pixels, float]] = []
        current: VideoFrame | None = None
        for frame in self._frames(forgiving=self._joins_midway or not from_start):
            begin = _begin(frame)
            if current is None and begin > stamps[0] and not from_start:
                return None
            while current is not None and len(frames) < len(stamps) and stamps[len(frames)] < begin:
                frames.append(self._convert(current))
            if len(frames) == len(stamps):
                return frames
            current = frame
        if current is None:
            return None
        last = self._convert(current)  # a sound may go on after the last picture, which then stays
        return frames + [last] * (len(stamps) - len(frames))

    def _frames(self, *, forgiving: bool) -> Iterator[VideoFrame]:
        """Yield decoded frames in order of time.

        Whoever joins in the middle of a stream cannot decode pictures that refer to earlier ones: with `forgiving`,
        errors before the first frame are passed over. After it, an error is damage.
        """
        for packet in container.packets(self._source, self._stream):
            work.check()
            try:
                pictures = packet.decode()
            except av.FFmpegError:
                if not forgiving:
                    raise
                continue
            for frame in pictures:
                forgiving = False
                yield frame

    def _convert(self, frame: VideoFrame) -> tuple[Pixels, float]:
        if frame.is_corrupt:
            raise MediaError(Outcome.BROKEN, f"the frame at {frame.time:.1f} seconds is damaged")
        if self._size is None:
            _check_size(frame.width, frame.height, self._limits)
            shorter = min(frame.width, frame.height)
            scale = 1.0 if self._image_size is None else min(1.0, self._image_size / shorter)
            self._size = (max(1, round(frame.width * scale)), max(1, round(frame.height * scale)))
        width, height = self._size
        pixels = frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA").to_ndarray()
        time = float((_begin(frame) - self._start) * self._tick)
        return np.rot90(pixels, round(frame.rotation / 90)), max(0.0, time)
