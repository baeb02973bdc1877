"""Sounds: formats, channels, rates, silence, damage and limits."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from jaxtyping import Float
from media_files import Film, gradient, image_bytes, refused, sound_bytes, tone

from chiasm import media
from chiasm.errors import MediaError
from chiasm.media import audio, integrity, kinds
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


def ogg_that_promises_more() -> bytes:
    data = bytearray(sound_bytes(LONG, RATE, "OGG", "OPUS"))
    last = data.rindex(b"OggS")
    (samples,) = struct.unpack_from("<Q", data, last + 6)
    assert samples // 6 == pytest.approx(len(LONG), abs=100)  # Opus counts at 48 kHz
    struct.pack_into("<Q", data, last + 6, samples + 2 * 48000)
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
    "an unfinished wav": (wav_with(SAMPLES_AT, bytes(4)), Outcome.BROKEN, "says that there are no samples"),
    "an ogg that promises more": (ogg_that_promises_more(), Outcome.BROKEN, "breaks off after 4.0 of 6.0 seconds"),
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
            assert name == "mp3 without a length", size
            assert kinds.mp3_frame(data, size) == 192  # cut between two frames, of which there might be no more
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


def test_files_one_after_another_are_read_to_the_end(open_bytes: Open) -> None:
    for file_format, subtype in (("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS")):
        first, second = tone(1.0, RATE), tone(2.0, RATE, hertz=880.0)
        data = sound_bytes(first, RATE, file_format, subtype) + sound_bytes(second, RATE, file_format, subtype)
        sound = open_bytes(data)
        assert len(sound.waveform) / sound.rate == pytest.approx(3.0, abs=0.35), subtype
        assert loudness(sound.waveform[-sound.rate :], sound.rate, 880.0) > 0.3


def test_a_wav_of_unknown_length_is_read(open_bytes: Open) -> None:
    assert len(open_bytes(wav_with(SAMPLES_AT, b"\xff\xff\xff\xff")).waveform) == len(LONG)


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
    assert kinds.mp3_frame(b"\xff\xfb\x90\x00") == 417  # 128 kbit/s at 44.1 kHz: 144 * 128000 / 44100
    assert kinds.mp3_frame(b"\xff\xfb\x92\x00") == 418  # padded
    assert kinds.mp3_frame(b"\xff\xf3\x40\x00") == 104  # MPEG 2, 32 kbit/s at 22.05 kHz: 72 * 32000 / 22050
    assert kinds.mp3_frame(b"..\xff\xfb\x90\x00", 2) == 417
    for no_frame in (b"\xff\xfb\xf0\x00", b"\xff\xfb\x0c\x00", b"\xff\xeb\x90\x00", b"\xfe\xfb\x90\x00", b"\xff\xfb"):
        assert kinds.mp3_frame(no_frame) == 0
