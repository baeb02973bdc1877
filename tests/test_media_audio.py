"""Sounds: formats, channels, rates, silence, damage and limits."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import soxr
from jaxtyping import Float
from media_files import Film, gradient, image_bytes, refused, sound_bytes, tone

from chiasm import media
from chiasm.errors import MediaError
from chiasm.media import audio, frames, integrity
from chiasm.types import Audio, Outcome

RATE = 8000
STEREO = np.stack([tone(1.0, RATE), 0.5 * tone(1.0, RATE)], 1)  # the mean is a tone of 3/4 of the first
LONG = np.concatenate([tone(2.0, RATE), tone(2.0, RATE, hertz=880.0)])

LIBSNDFILE: dict[str, tuple[str, str | None]] = {
    "wav": ("WAV", "PCM_16"),
    "wav 24 bits": ("WAV", "PCM_24"),
    "wav floats": ("WAV", "FLOAT"),
    "wav extensible": ("WAVEX", "PCM_16"),
    "wav above 4 GB": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg vorbis": ("OGG", "VORBIS"),
    "ogg opus": ("OGG", "OPUS"),
    "mp3": ("MP3", None),
}
FFMPEG = {  # 2 seconds of a tone, at 48 kHz
    "m4a": Film(video=None, audio="aac").written("ipod"),
    "m4a index first": Film(video=None, audio="aac", muxer={"movflags": "faststart"}).written("ipod"),
    "webm": Film(video=None, audio="libopus").written("webm"),
    "matroska": Film(video=None, audio="aac").written("matroska"),
    "aac": Film(video=None, audio="aac").written("adts"),
    "asf": Film(video=None, audio="libmp3lame").written("asf"),
    "mp3 without a length": Film(
        video=None, audio="libmp3lame", muxer={"write_xing": "0", "id3v2_version": "0"}
    ).written("mp3"),
    "mp3 with tags": Film(video=None, audio="libmp3lame").written("mp3"),
}
Samples = Float[np.ndarray, " samples"]
Open = Callable[..., Audio]


@pytest.fixture
def open_bytes(tmp_path: Path) -> Open:
    """Open bytes through the door, under a name that says nothing."""

    def opened(data: bytes, **options: Any) -> Audio:
        path = tmp_path / "file"
        path.write_bytes(data)
        sound = media.load(path, **options)
        assert isinstance(sound, Audio)
        assert sound.waveform.dtype == np.float32
        assert sound.waveform.ndim == 1
        return sound

    return opened


def loudness(waveform: Samples, rate: int, hertz: float) -> float:
    """Amplitude of one frequency, with a window that keeps edges from counting."""
    window = np.hanning(len(waveform))
    turns = np.exp(-2j * np.pi * hertz * np.arange(len(waveform)) / rate)
    return float(2 * np.abs(np.sum(waveform * window * turns)) / window.sum())


@pytest.mark.parametrize("name", LIBSNDFILE)
def test_formats_of_libsndfile_averaged_to_mono(name: str, open_bytes: Open) -> None:
    sound = open_bytes(sound_bytes(STEREO, RATE, *LIBSNDFILE[name]))
    assert sound.rate == RATE
    assert len(sound.waveform) == RATE
    assert loudness(sound.waveform, RATE, 440.0) == pytest.approx(0.375, rel=0.02)
    if "ogg" not in name and "mp3" not in name:
        np.testing.assert_allclose(sound.waveform, STEREO.mean(axis=1), atol=2**-14)


@pytest.mark.parametrize("name", FFMPEG)
def test_formats_of_ffmpeg(name: str, open_bytes: Open) -> None:
    sound = open_bytes(FFMPEG[name])
    assert sound.rate == 48000
    assert len(sound.waveform) / 48000 == pytest.approx(2.0, abs=0.05)
    assert loudness(sound.waveform, 48000, 440.0) == pytest.approx(0.5, rel=0.05)


def test_channels_are_averaged_by_ffmpeg_too(open_bytes: Open) -> None:
    twice = sound_bytes(STEREO, RATE, "OGG", "VORBIS") + sound_bytes(STEREO, RATE, "OGG", "VORBIS")
    assert loudness(open_bytes(twice).waveform[: RATE // 2], RATE, 440.0) == pytest.approx(0.375, rel=0.02)


@pytest.mark.parametrize("rate", [4000, 16000, 44100])
@pytest.mark.parametrize("name", ["flac", "ogg opus"])
def test_resampling_is_that_of_soxr_in_one_piece(name: str, rate: int, open_bytes: Open) -> None:
    data = sound_bytes(np.tile(LONG, 20), RATE, *LIBSNDFILE[name])  # several blocks
    sound = open_bytes(data, rate=rate)
    assert sound.rate == rate
    whole = soxr.resample(soundfile.read(io.BytesIO(data), dtype="float32")[0], RATE, rate)
    assert len(sound.waveform) == len(whole)
    np.testing.assert_allclose(sound.waveform, np.clip(whole, -1, 1), atol=1e-5)


def test_every_sample_counts_whatever_the_blocks(open_bytes: Open) -> None:
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.9, 0.9, (2**18 + 7, 3)).astype(np.float32)
    sound = open_bytes(sound_bytes(samples, RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(sound.waveform, samples.mean(axis=1), atol=1e-6)


def test_what_exceeds_full_scale_is_clipped(open_bytes: Open) -> None:
    loud = 3 * tone(1.0, RATE)
    waveform = open_bytes(sound_bytes(loud, RATE, "WAV", "FLOAT")).waveform
    np.testing.assert_array_equal(waveform, np.clip(loud, -1.0, 1.0))


def floats(samples: Float[np.ndarray, "..."]) -> bytes:
    return sound_bytes(samples, RATE, "WAV", "FLOAT")


def tone_with(value: float) -> bytes:
    samples = tone(1.0, RATE)
    samples[100] = value
    return floats(samples)


def wav_with(at: int, content: bytes) -> bytes:
    data = bytearray(sound_bytes(LONG, RATE, "WAV"))
    data[at : at + len(content)] = content
    return bytes(data)


def ogg_that_ends(subtype: str, end: Callable[[int], int]) -> bytes:
    """An Ogg of 4 seconds whose last page says that another sample is the last."""
    data = bytearray(sound_bytes(LONG, RATE, "OGG", subtype))
    last = data.rindex(b"OggS")
    (samples,) = struct.unpack_from("<Q", data, last + 6)
    struct.pack_into("<Q", data, last + 6, end(samples))
    struct.pack_into("<I", data, last + 22, 0)
    struct.pack_into("<I", data, last + 22, integrity._ogg_checksum(bytes(data[last:])))
    return bytes(data)


def ogg_without_a_page() -> bytes:
    data = sound_bytes(np.tile(LONG, 20), RATE, "OGG", "VORBIS")
    starts = [at for at in range(len(data)) if data.startswith(b"OggS", at)]
    assert len(starts) > 4
    return data[: starts[3]] + data[starts[4] :]


SAMPLES_AT = sound_bytes(LONG, RATE, "WAV").index(b"data") + 4
REFUSED: dict[str, tuple[bytes, Outcome, str]] = {
    "16 bits as floats": (floats(30000 * tone(1.0, RATE)), Outcome.BROKEN, "15,000 where full scale is 1.*by 32768"),
    "nan": (tone_with(np.nan), Outcome.BROKEN, "not finite"),
    "infinite": (tone_with(np.inf), Outcome.BROKEN, "not finite"),
    "minus infinite": (tone_with(-np.inf), Outcome.BROKEN, "not finite"),
    "zeros": (floats(np.zeros(RATE, np.float32)), Outcome.SILENT, "no signal: silence"),
    "an offset": (floats(np.full(RATE, 0.25, np.float32)), Outcome.SILENT, "no signal: silence"),
    "an offset in flac": (
        sound_bytes(np.full(RATE, 0.25, np.float32), RATE, "FLAC", "PCM_24"), Outcome.SILENT, "no signal: silence",
    ),
    "too quiet": (floats(tone(1.0, RATE, amplitude=0.9 * audio.SILENCE)), Outcome.SILENT, "no signal: silence"),
    "channels that cancel": (
        floats(np.stack([tone(1.0, RATE), -tone(1.0, RATE)], 1)), Outcome.SILENT, "cancel each other out",
    ),
    "no samples": (sound_bytes(np.zeros(0, np.float32), RATE, "WAV"), Outcome.EMPTY, "no samples"),
    "no samples in flac": (sound_bytes(np.zeros(0, np.float32), RATE, "FLAC"), Outcome.EMPTY, "no bytes"),
    "an ogg that promises more": (ogg_that_ends("OPUS", lambda end: end + 2 * 48000), Outcome.BROKEN, "breaks off after 4.0 of 6.0 seconds"),
    "an ogg without a page": (ogg_without_a_page(), Outcome.BROKEN, "pages are missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_sounds_that_are_refused(name: str, open_bytes: Open) -> None:
    data, outcome, term = REFUSED[name]
    with pytest.raises(MediaError, match=term) as caught:
        open_bytes(data)
    assert caught.value.outcome is outcome


def test_an_hour_of_silence(open_bytes: Open) -> None:
    """It is told from sound like a second of it, and takes no more memory than its samples do a few times over."""
    samples = 3600 * RATE
    tracemalloc.start()
    try:
        refused(Outcome.SILENT, "no signal", open_bytes, sound_bytes(np.zeros(samples, np.float32), RATE, "FLAC"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * samples * 4  # bytes; what the test itself holds is one of them


def test_what_is_quiet_or_short_is_no_silence(open_bytes: Open) -> None:
    quiet = tone(1.0, RATE, amplitude=1.2 * audio.SILENCE)
    assert len(open_bytes(floats(quiet)).waveform) == RATE
    click = np.zeros(RATE, np.float32)
    click[5] = 0.5
    assert open_bytes(sound_bytes(click, RATE, "FLAC")).waveform[5] == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("name", [*LIBSNDFILE, *FFMPEG])
def test_a_cut_off_sound_is_broken_and_never_half_read(name: str, open_bytes: Open) -> None:
    data = FFMPEG[name] if name in FFMPEG else sound_bytes(LONG, RATE, *LIBSNDFILE[name])
    whole = open_bytes(data)
    for size in [*(len(data) * share // 20 for share in range(1, 20)), len(data) - 300, len(data) - 2, len(data) - 1]:
        try:
            sound = open_bytes(data[:size])
        except MediaError as error:
            assert error.outcome is Outcome.BROKEN, size
        else:
            if name.startswith(("wav", "aiff")):
                assert len(whole.waveform) - len(sound.waveform) == 1, "a part of the last sample was lost"
                assert len(data) - size < {"wav 24 bits": 3, "wav floats": 4}.get(name, 2)
                continue
            assert name == "mp3 without a length", size
            assert frames.mp3_frame(data, size) == 192  # cut between two frames, of which there might be no more
            assert len(sound.waveform) == pytest.approx(len(whole.waveform) * size / len(data), abs=2500)


@pytest.mark.parametrize("name", ["wav", "aiff", "ogg opus", "mp3", "m4a", "webm"])
def test_a_cut_off_sound_says_so(name: str, open_bytes: Open) -> None:
    data = FFMPEG[name] if name in FFMPEG else sound_bytes(LONG, RATE, *LIBSNDFILE[name])
    refused(Outcome.BROKEN, "cut off", open_bytes, data[: len(data) // 2])


@pytest.mark.parametrize("name", ["ogg vorbis", "ogg opus", "flac"])
def test_a_damaged_sound_with_checksums_is_broken(name: str, open_bytes: Open) -> None:
    data = bytearray(sound_bytes(LONG, RATE, *LIBSNDFILE[name]))
    data[len(data) // 2] ^= 0x10
    refused(Outcome.BROKEN, "", open_bytes, bytes(data))


@pytest.mark.parametrize("name", ["webm", "matroska"])
def test_a_sound_that_breaks_off_inside_is_broken(name: str, open_bytes: Open) -> None:
    data = bytearray(FFMPEG[name])
    middle = len(data) // 2
    data[middle : middle + 900] = bytes(900)  # FFmpeg gives what is before it and says nothing
    refused(Outcome.BROKEN, r"breaks off after 1\.|cannot be decoded", open_bytes, bytes(data))


def test_an_ogg_that_a_stopped_recorder_left_is_read(open_bytes: Open) -> None:
    data = sound_bytes(np.tile(LONG, 20), RATE, "OGG", "VORBIS")
    last = data.rindex(b"OggS")
    assert data[last + 5] & 4  # the page that was lost bears the end mark
    assert 0 < len(open_bytes(data[:last]).waveform) < 80 * RATE


def test_a_file_goes_to_its_beginning_where_a_library_asks_for_what_is_before_it() -> None:
    view = integrity.View(io.BytesIO(b"junk0123456789"), begin=4, at=6, content=b"XY")
    assert view.read() == b"01XY456789"
    assert (view.seek(-3), view.tell()) == (0, 0)
    assert (view.seek(2), view.seek(-9, io.SEEK_CUR)) == (2, 0)
    assert (view.seek(-2, io.SEEK_END), view.read(), view.seek(-99, io.SEEK_END)) == (8, b"89", 0)


def test_more_channels_than_ffmpeg_keeps_apart(open_bytes: Open) -> None:
    """Nine, which libsndfile refuses where the size of a sample says something else."""
    data = bytearray(sound_bytes(np.tile(tone(1.0, RATE)[:, None], 9), RATE, "WAV", "FLOAT"))
    whole = open_bytes(bytes(data)).waveform
    at = data.index(b"fmt ") + 8
    struct.pack_into("<H", data, at + 12, 4)
    assert len(open_bytes(bytes(data)).waveform) in (RATE, 9 * RATE)
    assert len(whole) == RATE
    many = np.tile(tone(1.0, RATE)[:, None], 12)
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as film:
        stream = film.add_stream("pcm_f32le", RATE, layout="12 channels")
        block = av.AudioFrame(format="flt", layout="12 channels", samples=RATE)
        block.planes[0].update(many.tobytes())
        block.sample_rate, block.pts = RATE, 0
        film.mux(stream.encode(block))
        film.mux(stream.encode())
    np.testing.assert_allclose(open_bytes(out.getvalue()).waveform, tone(1.0, RATE), atol=1e-6)


def test_files_one_after_another_are_read_to_the_end(open_bytes: Open) -> None:
    for file_format, subtype in (("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")):
        first, second = tone(1.0, RATE), tone(2.0, RATE, hertz=880.0)
        data = sound_bytes(first, RATE, file_format, subtype) + sound_bytes(second, RATE, file_format, subtype)
        sound = open_bytes(data)
        assert len(sound.waveform) / sound.rate == pytest.approx(3.0, abs=0.35), subtype
        assert loudness(sound.waveform[-sound.rate :], sound.rate, 880.0) > 0.3


@pytest.mark.parametrize("name", ["wav", "wav 24 bits", "wav extensible", "aiff"])
@pytest.mark.parametrize("declared", [0, 100, 2**31 - 2**16, 2**32 - 1])
@pytest.mark.parametrize("more", [b"", b"junk"])
def test_samples_are_read_to_the_end_whatever_the_header_says(
    name: str, declared: int, more: bytes, open_bytes: Open
) -> None:
    """Recorders that lost their power, or wrote to a pipe, leave 0, all bits, or the length at some earlier time."""
    data = bytearray(sound_bytes(STEREO, RATE, *LIBSNDFILE[name])) + more
    whole = open_bytes(bytes(data)).waveform
    at = data.index(b"SSND" if name == "aiff" else b"data") + 4
    data[at : at + 4] = struct.pack(">I" if name == "aiff" else "<I", declared)
    data[4:8] = data[at : at + 4]
    read = open_bytes(bytes(data)).waveform
    assert abs(len(read) - len(whole)) <= len(more)
    np.testing.assert_array_equal(read[: len(whole)], whole)


def test_notes_behind_the_samples_are_no_samples(open_bytes: Open) -> None:
    data = sound_bytes(LONG, RATE, "WAV")
    notes = b"LIST" + struct.pack("<I", 5000) + bytes(5000) + b"id3 " + struct.pack("<I", 3) + b"ab\0\0"
    assert len(open_bytes(data + notes).waveform) == len(LONG)
    none = sound_bytes(np.zeros(0, np.float32), RATE, "WAV")
    refused(Outcome.EMPTY, "no samples", open_bytes, none + notes)


@pytest.mark.parametrize("name", ["wav", "wav 24 bits", "wav floats", "aiff"])
def test_a_sound_that_lacks_less_than_a_sample_is_read(name: str, open_bytes: Open) -> None:
    data = sound_bytes(STEREO, RATE, *LIBSNDFILE[name])
    frame = {"wav": 4, "wav 24 bits": 6, "wav floats": 8, "aiff": 4}[name]
    for lacking in range(1, frame):
        assert len(open_bytes(data[:-lacking]).waveform) == len(STEREO) - 1
    refused(Outcome.BROKEN, "cut off", open_bytes, data[:-frame])


def test_a_header_of_endless_parts_is_broken(open_bytes: Open) -> None:
    data = sound_bytes(LONG, RATE, "WAV")
    refused(Outcome.BROKEN, "10,000 parts", open_bytes, data[:12] + b"none\0\0\0\0" * 20_000 + data[12:])


def variable(seconds: int = 8, **muxer: str) -> bytes:
    """An MP3 whose first second is noise, at many bits a second, and the rest a tone, at few."""
    samples = tone(seconds, 44100)
    samples[:44100] += 0.3 * np.random.default_rng(0).standard_normal(44100).astype(np.float32)
    out = io.BytesIO()
    with av.open(out, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"} | muxer) as film:
        stream = film.add_stream("libmp3lame", 44100, layout="mono")
        stream.codec_context.qscale, stream.codec_context.global_quality = True, 4 * 118
        for start in range(0, len(samples), 1152):
            block = av.AudioFrame.from_ndarray(samples[None, start : start + 1152], format="fltp", layout="mono")
            block.sample_rate, block.pts = 44100, start
            film.mux(stream.encode(block))
        film.mux(stream.encode())
    return out.getvalue()


VBR = variable()
TAG = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<4I", 2000, 0, 0, 0) + bytes(8)
JUNK = np.random.default_rng(4).bytes(3000)
HTML = b"<html>" * 500
LYRICS = b"LYRICSBEGIN" + b"IND0000300" * 40 + b"000123LYRICS200" + TAG


@pytest.mark.parametrize(
    ("before", "cut", "behind"),
    [
        *(
            (before, cut, b"")
            for before in (b"", bytes(5000), bytes(300_000), JUNK, HTML[:700] + b"\0")
            for cut in (0, 1, 300)
        ),
        *((b"", 0, behind) for behind in (TAG, APE, APE + TAG, LYRICS, b"\0", bytes(3000), JUNK, HTML)),
    ],
)
def test_an_mp3_is_read_from_its_first_frame_to_its_last(
    before: bytes, cut: int, behind: bytes, open_bytes: Open
) -> None:
    """Without a length in it, and of a variable bit rate, so that no length can be guessed from its size."""
    sound = open_bytes(before + VBR[cut:] + behind)
    assert len(sound.waveform) / 44100 == pytest.approx(8.0, abs=0.06)
    assert loudness(sound.waveform[-44100:], 44100, 440.0) == pytest.approx(0.5, rel=0.1)
    refused(
        Outcome.TOO_LARGE, "the limit is 5", open_bytes, before + VBR[cut:] + behind, limits=media.Limits(max_seconds=5)
    )


def test_what_an_mp3_declares_is_not_believed(open_bytes: Open) -> None:
    data = bytearray(variable(write_xing="1"))
    whole = len(open_bytes(bytes(data)).waveform)
    at = data.index(b"Xing") + 8
    for frames_, bytes_ in ((10, len(data)), (10, 4000), (0, 0)):
        data[at : at + 8] = struct.pack(">2I", frames_, bytes_)
        assert len(open_bytes(bytes(data)).waveform) == pytest.approx(whole, abs=1200)
    data[at : at + 4] = struct.pack(">I", 5000)
    refused(Outcome.BROKEN, "holds 308 of 5,000 frames", open_bytes, bytes(data))


@pytest.mark.parametrize("between", [b"", TAG, APE, b"ID3\x04\0\0\0\0\1\0" + bytes(128)])
def test_mp3_files_one_after_another_may_have_tags_and_other_rates(between: bytes, open_bytes: Open) -> None:
    second = sound_bytes(np.stack([tone(2.0, 22050, hertz=880.0)] * 2, 1), 22050, "MP3")
    sound = open_bytes(VBR + between + second)
    assert len(sound.waveform) / 44100 == pytest.approx(10.0, abs=0.2)
    assert loudness(sound.waveform[-44100:], 44100, 880.0) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("damage", [bytes(9000), JUNK])
def test_an_mp3_that_is_damaged_inside_is_broken(damage: bytes, open_bytes: Open) -> None:
    middle = len(VBR) // 2
    refused(Outcome.BROKEN, "are no frames", open_bytes, VBR[:middle] + damage + VBR[middle + len(damage) :])
    refused(Outcome.BROKEN, "no frames behind byte", open_bytes, VBR[:middle] + bytes(len(VBR) - middle))


@pytest.mark.parametrize("before", [b"", bytes(999), b"ID3\x04\0\0\0\0\1\0" + bytes(128)])
@pytest.mark.parametrize("cut", [0, 1, 100])
def test_an_aac_is_read_from_its_first_whole_frame(before: bytes, cut: int, open_bytes: Open) -> None:
    sound = open_bytes(before + FFMPEG["aac"][cut:])
    assert len(sound.waveform) / 48000 == pytest.approx(2.0, abs=0.08)


def flac_that_declares(samples: int) -> bytes:
    data = bytearray(sound_bytes(LONG, RATE, "FLAC"))
    length = int.from_bytes(data[18:26]) & ~(2**36 - 1) | samples
    data[18:26] = length.to_bytes(8)
    return bytes(data)


@pytest.mark.parametrize("declared", [0, 100, RATE, len(LONG) - 1])
def test_a_flac_that_declares_too_little_is_read_to_its_end(declared: int, open_bytes: Open) -> None:
    assert len(open_bytes(flac_that_declares(declared)).waveform) == len(LONG)
    damaged = bytearray(flac_that_declares(declared))
    damaged[len(damaged) // 2] ^= 0x10
    refused(Outcome.BROKEN, "", open_bytes, bytes(damaged))


@pytest.mark.parametrize("end", [0, 100, RATE])
def test_an_ogg_that_declares_too_little_is_read_to_its_end(end: int, open_bytes: Open) -> None:
    sound = open_bytes(ogg_that_ends("VORBIS", lambda _: end), rate=RATE)
    assert len(sound.waveform) == pytest.approx(len(LONG), abs=300)


def test_a_flac_may_have_a_tag_before_it_and_lacks_nothing(open_bytes: Open) -> None:
    tagged = b"ID3\x04\0\0\0\0\1\0" + bytes(128) + flac_that_declares(0)
    assert len(open_bytes(tagged).waveform) == len(LONG)
    refused(Outcome.BROKEN, "breaks off after 4.0 of 5.0", open_bytes, flac_that_declares(len(LONG) + RATE))


@pytest.mark.parametrize("container", ["matroska", "webm", "mpegts", "ipod"])
@pytest.mark.parametrize("start", [10.0, 600.0, 5 * 3600.0])
def test_a_clock_may_begin_late(container: str, start: float, open_bytes: Open) -> None:
    codec = "libopus" if container == "webm" else "aac"
    sound = open_bytes(Film(video=None, audio=codec, start=start).written(container))
    assert len(sound.waveform) / 48000 == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("seconds", [0.1, 0.001, 1.9])
def test_a_matroska_sound_that_declares_too_little_is_read_to_its_end(seconds: float, open_bytes: Open) -> None:
    data = FFMPEG["matroska"]
    at = data.index(b"\x44\x89\x88") + 3
    shorter = data[:at] + struct.pack(">d", seconds * 1000) + data[at + 8 :]
    assert len(open_bytes(shorter).waveform) == len(open_bytes(data).waveform)


@pytest.mark.parametrize("box", [b"mvhd", b"mdhd"])
@pytest.mark.parametrize("units", [0, 1, 10**6])
def test_an_m4a_is_read_to_its_end_whatever_it_declares(box: bytes, units: int, open_bytes: Open) -> None:
    data = bytearray(FFMPEG["m4a"])
    at = data.index(box) + 20
    data[at : at + 4] = struct.pack(">I", units)
    assert len(open_bytes(bytes(data)).waveform) == len(open_bytes(FFMPEG["m4a"]).waveform)


def test_tags_behind_an_mp3_are_no_damage(open_bytes: Open) -> None:
    data = FFMPEG["mp3 with tags"]
    assert data.startswith(b"ID3")
    assert len(open_bytes(data + b"TAG" + bytes(125)).waveform) == len(open_bytes(data).waveform)


def test_duration_is_checked_before_decoding(open_bytes: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = media.Limits(max_seconds=1.5)
    sounds = [sound_bytes(LONG, RATE, *LIBSNDFILE[name]) for name in ("wav", "flac", "ogg vorbis", "ogg opus")]
    for data in (*sounds, FFMPEG["m4a"], FFMPEG["webm"]):
        with monkeypatch.context() as patch:
            patch.setattr(audio, "_collect", None)
            refused(Outcome.TOO_LARGE, "seconds; the limit is 2", open_bytes, data, limits=limits)
    refused(Outcome.TOO_LARGE, "", open_bytes, FFMPEG["mp3 without a length"], limits=limits)


def test_a_rate_beyond_reason_is_broken(open_bytes: Open) -> None:
    data = bytearray(sound_bytes(tone(0.1, RATE), RATE, "WAV"))
    data[24:28] = struct.pack("<I", 3)
    refused(Outcome.BROKEN, "claims 3 samples a second", open_bytes, bytes(data), limits=media.Limits(max_seconds=1e9))


def test_a_cover_does_not_make_a_sound_a_video(tmp_path: Path) -> None:
    path = tmp_path / "song"
    cover = image_bytes(gradient(32, 32), "JPEG")
    path.write_bytes(Film(video=None, audio="aac", cover=cover).written("mp4"))
    assert media.sniff(path) == "audio"
    assert isinstance(media.load(path), Audio)


def test_the_checksum_of_ogg_against_one_bit_at_a_time() -> None:
    def slow(page: bytes) -> int:
        remainder = 0
        for byte in page:
            remainder ^= byte << 24
            for _ in range(8):
                remainder = (remainder << 1 ^ (0x04C11DB7 if remainder & 0x80000000 else 0)) & 0xFFFFFFFF
        return remainder

    rng = np.random.default_rng(1)
    for size in (0, 1, 5, 300):
        page = rng.bytes(size)
        assert integrity._ogg_checksum(page) == slow(page)


def test_lengths_of_mp3_frames() -> None:
    assert frames.mp3_frame(b"\xff\xfb\x90\x00") == 417  # 128 kbit/s at 44.1 kHz: 144 * 128000 / 44100
    assert frames.mp3_frame(b"\xff\xfb\x92\x00") == 418  # padded
    assert frames.mp3_frame(b"\xff\xf3\x40\x00") == 104  # MPEG 2, 32 kbit/s at 22.05 kHz: 72 * 32000 / 22050
    assert frames.mp3_frame(b"..\xff\xfb\x90\x00", 2) == 417
    for no_frame in (b"\xff\xfb\xf0\x00", b"\xff\xfb\x0c\x00", b"\xff\xeb\x90\x00", b"\xfe\xfb\x90\x00", b"\xff\xfb"):
        assert frames.mp3_frame(no_frame) == 0
