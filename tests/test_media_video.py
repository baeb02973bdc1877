"""Videos: the right frames at the right times, upright, at the size asked for; damage and limits."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_files import Film, frame_number, refused

from chiasm import media
from chiasm.errors import MediaError
from chiasm.media import kinds
from chiasm.media.container import open_container, packets
from chiasm.types import Outcome, Video

FRAMES, FPS = 50, 25
OPEN_GOP = {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}
FILMS = {
    "mp4": Film(audio="aac").written("mp4"),
    "mp4 index first": Film(muxer={"movflags": "faststart"}).written("mp4"),
    "mp4 fragmented": Film(muxer={"movflags": "frag_keyframe+empty_moov"}).written("mp4"),
    "mp4 open groups": Film(encoder=OPEN_GOP).written("mp4"),
    "quicktime": Film().written("mov"),
    "webm": Film(video="libvpx", audio="libopus").written("webm"),
    "matroska": Film().written("matroska"),
    "avi": Film(video="mpeg4").written("avi"),
    "flv": Film(video="flv1").written("flv"),
    "transport stream": Film().written("mpegts"),
    "transport stream open groups": Film(encoder=OPEN_GOP).written("mpegts"),
    "program stream": Film(video="mpeg1video").written("mpeg"),
    "wmv": Film(video="wmv2").written("asf"),
}
Open = Callable[..., Video]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Open:
    """Open bytes through the door, under a name that says nothing."""

    def opened(data: bytes, **options: Any) -> Video:
        path = tmp_path / "file"
        path.write_bytes(data)
        video = media.load(path, **options)
        assert isinstance(video, Video)
        assert video.frames.dtype == np.uint8
        assert video.times.dtype == np.float32
        assert len(video.times) == len(video.frames)
        return video

    return opened


def shown(video: Video) -> list[int]:
    """Which frame of the film each one is."""
    return [frame_number(frame) for frame in video.frames]


@pytest.mark.parametrize("name", FILMS)
def test_frames_are_those_at_the_centres_of_equal_parts(name: str, open_bytes: Open) -> None:
    video = open_bytes(FILMS[name], frames=5)
    assert video.frames.shape == (5, 64, 96, 3)
    assert video.duration == pytest.approx(FRAMES / FPS, abs=0.11)
    expected_frames = [(index + 0.5) / 5 * video.duration for index in range(5)]
    for time, want, frame in zip(video.times, expected_frames, shown(video), strict=True):
        assert time <= want < time + 1 / FPS + 1e-3
        assert frame == round(time * FPS)


def test_seeking_gives_what_decoding_everything_gives(open_bytes: Open) -> None:
    for name in ("mp4", "mp4 open groups", "webm", "avi"):
        every = open_bytes(FILMS[name], frames=3 * FRAMES)
        assert sorted(set(shown(every))) == list(range(FRAMES))
        for count in (1, 2, 3, 4, 7):
            few = open_bytes(FILMS[name], frames=count)
            places = [shown(every).index(number) for number in shown(few)]
            np.testing.assert_array_equal(few.frames, every.frames[places])


def test_a_long_gap_is_not_decoded(open_bytes: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    from chiasm.media import video

    decoded = 0
    frames_of = video._Reader._frames

    def counted(self: Any, **options: Any) -> Any:
        nonlocal decoded
        for frame in frames_of(self, **options):
            decoded += 1
            yield frame

    monkeypatch.setattr(video._Reader, "_frames", counted)
    open_bytes(Film(frames=400).written("mp4"), frames=2)
    assert decoded < 40


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
@pytest.mark.parametrize("size", [None, 32])
def test_frames_are_turned_upright(rotation: int, corner: tuple[int, int], size: int | None, open_bytes: Open) -> None:
    video = open_bytes(Film(rotation=rotation, frames=20).written("mp4"), frames=3, image_size=size)
    shape = (64, 96) if size is None else (32, 48)
    assert video.frames.shape[1:3] == (shape if rotation in (0, 180) else shape[::-1])
    for frame in video.frames:
        white = frame[:: frame.shape[0] - 1, :: frame.shape[1] - 1, 1] > 200
        assert np.argwhere(white).tolist() == [list(corner)]  # counter-clockwise, as the display matrix says


def test_frames_are_scaled_down_and_never_up(open_bytes: Open) -> None:
    assert open_bytes(FILMS["mp4"], image_size=16).frames.shape == (8, 16, 24, 3)
    assert open_bytes(FILMS["mp4"], image_size=500).frames.shape == (8, 64, 96, 3)
    small, full = (open_bytes(FILMS["mp4"], image_size=size).frames for size in (16, None))
    means = full.reshape(8, 16, 4, 24, 4, 3).mean(axis=(2, 4))
    assert np.abs(small - means).mean() < 2


def test_more_frames_than_there_are_come_twice(open_bytes: Open) -> None:
    video = open_bytes(Film(frames=2).written("mp4"), frames=6)
    assert len(video.frames) == 6
    assert shown(video) == [0, 0, 0, 1, 1, 1]


def test_sound_may_outlast_the_picture(open_bytes: Open) -> None:
    video = open_bytes(Film(audio="aac", sound_seconds=4.0).written("matroska"), frames=4)
    assert video.duration == pytest.approx(4.0, abs=0.1)
    assert shown(video)[2:] == [FRAMES - 1] * 2


def test_a_recording_that_declares_no_duration(open_bytes: Open) -> None:
    data = Film(video="libvpx", muxer={"live": "1"}).written("webm")
    video = open_bytes(data, frames=5)
    assert video.duration == pytest.approx(2.0, abs=0.05)
    assert shown(video) == [5, 15, 25, 35, 45]


@pytest.mark.parametrize("name", [name for name in FILMS if "stream" not in name and name not in ("flv", "wmv")])
def test_a_cut_off_video_is_broken(name: str, open_bytes: Open) -> None:
    data = FILMS[name]
    for size in [*(len(data) * share // 10 for share in range(1, 10)), len(data) - 100, len(data) - 1]:
        refused(Outcome.BROKEN, "", open_bytes, data[:size])
    with pytest.raises(MediaError, match="cut off"):
        open_bytes(data[: len(data) // 2])


@pytest.mark.parametrize("name", ["mp4 index first", "avi"])
def test_damaged_pictures_are_broken_and_not_painted_over(name: str, open_bytes: Open) -> None:
    data = bytearray(FILMS[name])
    middle = len(data) * 6 // 10
    data[middle : middle + 200] = bytes(byte ^ 0x55 for byte in data[middle : middle + 200])
    refused(Outcome.BROKEN, "", open_bytes, bytes(data), frames=3 * FRAMES)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("matroska", "mpeg2video")])
def test_what_a_strict_decoder_refuses_is_broken(container: str, codec: str, open_bytes: Open) -> None:
    """Single bits, against decoding everything in order on one thread with every check that FFmpeg has."""

    def decodes(data: bytes) -> bool:
        try:
            with av.open(io.BytesIO(data), mode="r", format=container) as film:
                stream = film.streams.video[0]
                stream.codec_context.options = {"err_detect": "explode"}
                stream.codec_context.thread_count = 1
                return not any(frame.is_corrupt for frame in film.decode(stream))
        except av.FFmpegError:
            return False

    data = Film(video=codec, size=(192, 128), gop=50, muxer={"movflags": "faststart"}).written(container)
    count = 0
    for at in range(len(data) // 3, len(data) * 9 // 10, len(data) // 60):
        damaged = bytearray(data)
        damaged[at] ^= 0x24
        if not decodes(bytes(damaged)):
            count += 1
            refused(Outcome.BROKEN, "", open_bytes, bytes(damaged), frames=3 * FRAMES)
    assert count > 5


def test_a_video_without_pictures_in_it_is_broken(open_bytes: Open) -> None:
    data = bytearray(FILMS["mp4 index first"])
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    refused(Outcome.BROKEN, "", open_bytes, bytes(data))


def test_limits(open_bytes: Open) -> None:
    short, small = media.Limits(max_seconds=1.0), media.Limits(max_pixels=6143)
    refused(Outcome.TOO_LARGE, "the limit is 1", open_bytes, FILMS["mp4"], limits=short)
    refused(Outcome.TOO_LARGE, "the limit is 6,143", open_bytes, FILMS["mp4"], limits=small)


@pytest.mark.parametrize(
    ("options", "term"),
    [
        ({"fps": 0.0}, "fps has to be above 0"),
        ({"fps": -1.0}, "fps has to be above 0"),
        ({"fps": float("nan")}, "fps has to be above 0"),
        ({"track": 0}, "track has to be at least 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], term: str, open_bytes: Open) -> None:
    with pytest.raises(ValueError, match=term):
        open_bytes(FILMS["mp4"], **options)


# ------------------------------------------------------------------------------------------------- frames a second


@pytest.mark.parametrize(
    ("fps", "most", "expected"), [(2.0, 8, 4), (2.0, 3, 3), (0.1, 8, 1), (25.0, 64, 50), (None, 7, 7)]
)
def test_frames_a_second_up_to_a_number(fps: float | None, most: int, expected: int, open_bytes: Open) -> None:
    video = open_bytes(FILMS["mp4"], frames=most, fps=fps)
    expected_frames = [int((index + 0.5) / expected * video.duration * FPS) for index in range(expected)]
    assert len(video.times) == expected
    assert all(abs(number - frame) <= 1 for number, frame in zip(shown(video), expected_frames, strict=True))


# ------------------------------------------------------------------------------------------------------ sound tracks


def with_sound(container: str, video: str, audio: str, **options: Any) -> bytes:
    return Film(video=video, audio=audio, **options).written(container)


@pytest.mark.parametrize(
    ("container", "video", "audio"),
    [
        ("mp4", "libx264", "aac"),
        ("matroska", "libx264", "aac"),
        ("webm", "libvpx", "libopus"),
        ("mpegts", "libx264", "aac"),
        ("asf", "wmv2", "libmp3lame"),
    ],
)
def test_the_sound_track_comes_with_the_frames(container: str, video: str, audio: str, open_bytes: Open) -> None:
    data = with_sound(container, video, audio)
    assert open_bytes(data).sound is None, "nobody asked for it"
    result = open_bytes(data, frames=3, track=16_000)
    assert result.sound is not None
    assert result.sound.rate == 16_000
    assert result.sound.waveform.dtype == np.float32
    assert len(result.sound.waveform) / 16_000 == pytest.approx(2.0, abs=0.12)
    spectrum = np.abs(np.fft.rfft(result.sound.waveform[4000:20_000]))
    assert np.argmax(spectrum) == pytest.approx(440, abs=2), "a hertz a bin"
    np.testing.assert_array_equal(result.frames, open_bytes(data, frames=3).frames)


def test_videos_without_a_sound_that_can_be_heard(open_bytes: Open) -> None:
    assert open_bytes(FILMS["matroska"], track=16_000).sound is None
    silent = with_sound("mp4", "libx264", "aac", amplitude=0.0)
    assert open_bytes(silent, track=16_000).sound is None
    empty = with_sound("matroska", "libx264", "aac", sound_seconds=0.0)
    assert open_bytes(empty, track=16_000).sound is None


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_sound_may_be_shorter_than_the_pictures(container: str, open_bytes: Open) -> None:
    result = open_bytes(with_sound(container, "libx264", "aac", sound_seconds=0.8), track=8_000)
    assert result.sound is not None
    assert result.duration == pytest.approx(2.0, abs=0.1)
    assert len(result.sound.waveform) / 8_000 == pytest.approx(0.8, abs=0.12)


@pytest.mark.parametrize("late", [0.5, -0.5])
def test_the_sound_begins_with_the_first_frame(late: float, open_bytes: Open) -> None:
    """Half a second after the pictures, or before them, on the clock of the container."""
    result = open_bytes(with_sound("matroska", "libx264", "aac", late=late), track=8_000)
    assert result.sound is not None
    assert len(result.sound.waveform) / 8_000 == pytest.approx(2.0 + late, abs=0.12)
    heard = np.flatnonzero(np.abs(result.sound.waveform) > 0.1)[0] / 8_000
    assert heard == pytest.approx(max(0.0, late), abs=0.06)


# ------------------------------------------------------------------------------------------------------ other clocks


@pytest.mark.parametrize(
    ("container", "video", "audio"),
    [
        ("matroska", "libx264", "aac"),
        ("webm", "libvpx", "libopus"),
        ("mp4", "libx264", "aac"),
        ("mpegts", "libx264", "aac"),
        ("mpeg", "mpeg1video", None),
        ("flv", "flv1", None),
        ("asf", "wmv2", None),
    ],
)
@pytest.mark.parametrize("start", [600.0, 5 * 3600.0])
def test_a_clock_may_begin_late(container: str, video: str, audio: str | None, start: float, open_bytes: Open) -> None:
    early, late = (
        open_bytes(Film(video=video, audio=audio, start=begin).written(container), frames=5, track=8_000)
        for begin in (0.0, start)
    )
    assert late.duration == pytest.approx(2.0, abs=0.11)
    assert late.duration == pytest.approx(early.duration, abs=0.03)
    assert shown(late) == shown(early)
    np.testing.assert_allclose(late.times, early.times, atol=0.02)
    assert (late.sound is None) == (audio is None)
    if late.sound is not None:
        assert len(late.sound.waveform) / 8_000 == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("late", [0.5, -0.5, 300.0])
@pytest.mark.parametrize("container", ["matroska", "mpegts"])
def test_sound_and_pictures_may_begin_late_and_apart(late: float, container: str, open_bytes: Open) -> None:
    data = with_sound(container, "libx264", "aac", late=late, start=600.0)
    result = open_bytes(data, frames=5, track=8_000)
    assert len(set(shown(result))) >= 4
    assert result.duration < 3.0
    assert result.sound is not None
    heard = np.flatnonzero(np.abs(result.sound.waveform) > 0.1)[0] / 8_000
    assert heard == pytest.approx(max(0.0, late), abs=0.06)


def declaring(seconds: float) -> bytes:
    """A Matroska film of 2 seconds with another duration in its header."""
    data = FILMS["matroska"]
    at = data.index(b"\x44\x89\x88") + 3
    return data[:at] + struct.pack(">d", 1000 * seconds) + data[at + 8 :]


def test_the_duration_is_that_of_the_pictures_and_not_what_is_declared(open_bytes: Open) -> None:
    whole = open_bytes(FILMS["matroska"], frames=5)
    for seconds in (0.04, 1.0, 2.5, float("nan"), -1.0):
        result = open_bytes(declaring(seconds), frames=5)
        assert result.duration == pytest.approx(whole.duration)
        np.testing.assert_array_equal(result.frames, whole.frames)
    for seconds in (100.0, 5 * 3600.0):
        refused(Outcome.BROKEN, "breaks off after 2.0 of", open_bytes, declaring(seconds))
    for box in (b"mvhd", b"mdhd"):
        data = bytearray(FILMS["mp4"])
        at = data.index(box) + 20
        for units in (0, 1, 10**7):
            data[at : at + 4] = struct.pack(">I", units)
            assert shown(open_bytes(bytes(data), frames=5)) == shown(whole)


STREAMS = {  # of many packets, of which one is lost
    "transport stream": FILMS["transport stream"],
    "transport stream open groups": FILMS["transport stream open groups"],
    "program stream": Film(video="mpeg1video", size=(384, 256), gop=5).written("mpeg"),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("before", [b"", bytes(5000), bytes(300_000), b"\0broken" * 50])
@pytest.mark.parametrize("cut", [0, 1, 100, 187])
def test_a_stream_may_begin_inside_a_packet(name: str, before: bytes, cut: int, open_bytes: Open) -> None:
    video = open_bytes(before + STREAMS[name][cut:], frames=3)
    assert video.duration == pytest.approx(2.0, abs=0.5 if cut else 0.11)
    assert len(set(shown(video))) == 3


def test_a_stream_that_begins_in_the_middle(open_bytes: Open) -> None:
    """An FLV whose header names pictures only, and whose last packet is of a sound."""
    data = Film(video="flv1", frames=200, size=(48, 32), gop=5).written("flv")
    sound = bytes([8, 0, 0, 101, *bytes(7), 0x3E, *bytes(100)])
    at = 13  # behind the header
    while (following := at + 15 + int.from_bytes(data[at + 1 : at + 4])) < len(data):
        at = following
    film = data[:at] + sound + len(sound).to_bytes(4) + data[at:]
    with open_container(io.BytesIO(film), kinds.FLV) as source:
        assert len([packet for packet in packets(source, *source.streams) if packet.size]) >= 200
    video = open_bytes(film, frames=3, track=16_000)
    assert video.duration == pytest.approx(8.0)
    assert video.sound is None, "it is not there from the beginning"


def test_a_damaged_sound_track_is_broken(open_bytes: Open) -> None:
    data = bytearray(with_sound("mp4", "libx264", "aac", muxer={"movflags": "faststart"}))
    start = data.rindex(b"mdat") + 4
    for at in range(start + (len(data) - start) // 2, len(data), 7):  # the second half
        data[at] ^= 0x55
    refused(Outcome.BROKEN, "", open_bytes, bytes(data), frames=1, track=16_000)
