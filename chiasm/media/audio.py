"""Sounds: from a file to a mono waveform, through libsndfile or FFmpeg.

Decoding, averaging and resampling go block by block, so that a long recording in many channels is never held whole.
Whether the file has all of its bytes is checked by `integrity` before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import InputContainer
from jaxtyping import Float

from chiasm import work
from chiasm.errors import MediaError
from chiasm.media import container, integrity, kinds
from chiasm.media.kinds import Kind
from chiasm.media.limits import Limits
from chiasm.types import Audio, Outcome

SILENCE = 1e-4
"""Half the distance from the lowest to the highest sample below which a sound has no signal: -80 dB of full scale,
three steps of 16 bits, so a constant offset or the dither of a silent recording does not count as one."""

_LOUDEST = 64.0  # samples beyond are not loud but on another scale, as of 16-bit numbers written as floats
_RATES = range(100, 1_000_001)
_DECLARES_DURATION = (kinds.MP4, kinds.MATROSKA, kinds.AVI, kinds.ASF, kinds.FLV)  # others leave FFmpeg to estimate it
_LACKING = 0.25  # seconds by which a sound may end before its declared end: codecs pad their first and last blocks

Block = Float[np.ndarray, "samples channels"]


def read(file: BinaryIO, kind: Kind, *, rate: int | None, limits: Limits) -> Audio:
    """Decode a sound file that is no container.

    Args:
        file: open at its beginning; has passed `integrity.check`.
        kind: what it is.
        rate: samples a second to resample to; None keeps the file's own.
        limits: see `Limits.max_seconds`.

    Raises:
        MediaError: `BROKEN`, `EMPTY`, `SILENT` or `TOO_LARGE`.
    """
    if kind.reader == "soundfile" and not integrity.has_several_parts(file, kind):
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.SoundFileError:  # a codec that libsndfile lacks, such as Speex; FFmpeg has most
            file.seek(0)
        else:
            with sound:
                return _read_libsndfile(sound, kind, rate=rate, limits=limits)
    with container.open_container(file, kind) as source:
        stream = container.main_stream(source, kind)
        if not isinstance(stream, AudioStream):
            raise MediaError(Outcome.BROKEN, f"the {kind.name} has no sound")
        return read_stream(source, stream, kind, rate=rate, limits=limits)


def read_stream(source: InputContainer, stream: AudioStream, kind: Kind, *, rate: int | None, limits: Limits) -> Audio:
    """Decode the sound of a container, as `read` does.

    Raises:
        MediaError: as `read`; `BROKEN` also where the sound ends much before its declared duration.
    """
    return _read_ffmpeg(
        source, stream, container.duration(source, stream) if kind in _DECLARES_DURATION else None, rate, limits
    )


def read_track(source: InputContainer, kind: Kind, *, begin: float, rate: int, limits: Limits) -> Audio | None:
    """Decode the first sound track of a video; None where there is none, or none with a signal.

    Args:
        source: the container, at its beginning.
        kind: what it is.
        begin: seconds on the container's clock at which the waveform is to begin. It is cut there, or silence is put
            before it.
        rate: samples a second to resample to.
        limits: as for `read`.

    Raises:
        MediaError: `BROKEN` or `TOO_LARGE`.
    """
    if not source.streams.audio:
        return None
    stream = source.streams.audio[0]
    if not container.has_decoder(stream):  # a codec that is not known: the pictures are of use without it
        return None
    # What the container declares is the length of its longest stream, which may be the pictures.
    declared = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    try:
        sound = _read_ffmpeg(source, stream, declared if kind in _DECLARES_DURATION else None, rate, limits)
    except MediaError as error:
        if error.outcome in (Outcome.SILENT, Outcome.EMPTY):
            return None
        raise
    late = round((container.begin(stream) - begin) * rate)
    if abs(late) > limits.max_seconds * rate:
        raise MediaError(
            Outcome.BROKEN, f"the sound of the {kind.name} begins {late / rate:,.0f} seconds off its pictures"
        )
    waveform = sound.waveform[-late:] if late < 0 else np.pad(sound.waveform, (late, 0)) if late else sound.waveform
    return Audio(waveform, rate) if len(waveform) else None


def _read_ffmpeg(
    source: InputContainer, stream: AudioStream, seconds: float | None, rate: int | None, limits: Limits
) -> Audio:
    """Decode a stream that declares to last so many seconds."""
    file_rate = stream.codec_context.sample_rate
    _check_duration(seconds, limits)
    container.strict(stream)
    end = 0.0  # by the clock of the file: recorders leave out what was silent, so samples cannot be counted for it

    def blocks() -> Iterator[Block]:
        nonlocal end
        resampler = av.AudioResampler(format="fltp", rate=file_rate)
        for frame in source.decode(stream):
            end = max(end, (frame.time or 0.0) + frame.samples / frame.sample_rate)
            for part in resampler.resample(frame):
                yield part.to_ndarray().T
        for part in resampler.resample(None):
            yield part.to_ndarray().T

    audio, _ = _collect(blocks(), file_rate, rate=rate, limits=limits)
    start = container.begin(stream)
    if seconds is not None and end - start < seconds - _LACKING:
        raise MediaError(Outcome.BROKEN, f"the sound breaks off after {end - start:.1f} of {seconds:.1f} seconds")
    return audio


def _read_libsndfile(sound: soundfile.SoundFile, kind: Kind, *, rate: int | None, limits: Limits) -> Audio:
    exact = kind != kinds.MP3  # of an MP3 the length is an estimate, unless its encoder wrote it down
    if exact and sound.samplerate:
        _check_duration(sound.frames / sound.samplerate, limits)
    try:
        audio, decoded = _collect(_blocks(sound), sound.samplerate, rate=rate, limits=limits)
    except soundfile.SoundFileError as error:
        reason = str(error).removeprefix("Error : ")
        raise MediaError(Outcome.BROKEN, f"the {kind.name} cannot be decoded: {reason}") from error
    if exact and round(decoded * sound.samplerate) != sound.frames:
        declared = sound.frames / sound.samplerate
        raise MediaError(Outcome.BROKEN, f"the sound breaks off after {decoded:.1f} of {declared:.1f} seconds")
    return audio


def _blocks(sound: soundfile.SoundFile) -> Iterator[Block]:
    size = max(1, 2**18 // sound.channels)
    while len(block := sound.read(size, dtype="float32", always_2d=True)):
        yield block


def _check_duration(seconds: float | None, limits: Limits) -> None:
    if seconds is not None and seconds > limits.max_seconds:
        raise MediaError(
            Outcome.TOO_LARGE, f"the sound lasts {seconds:,.0f} seconds; the limit is {limits.max_seconds:,.0f}"
        )


def _collect(blocks: Iterable[Block], file_rate: int, *, rate: int | None, limits: Limits) -> tuple[Audio, float]:
    """Return the blocks as one mono waveform, and its seconds before resampling."""
    if file_rate not in _RATES:
        raise MediaError(Outcome.BROKEN, f"the sound claims {file_rate:,} samples a second")
    rate_out = file_rate if rate is None else rate
    resampler = _resampler(file_rate, rate_out)
    parts: list[Float[np.ndarray, " samples"]] = []
    samples, low, high, loudest = 0, np.inf, -np.inf, 0.0
    for block in blocks:
        work.check()
        samples += len(block)
        _check_duration(samples / file_rate, limits)
        mono = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        peak = float(np.abs(block).max(initial=0.0))
        if not np.isfinite(peak):
            raise MediaError(Outcome.BROKEN, "the sound has samples that are not finite numbers")
        if peak > _LOUDEST:
            raise MediaError(
                Outcome.BROKEN,
                f"the sound has a sample of {peak:,.0f} where full scale is 1; "
                "if it holds 16-bit numbers as floats, divide them by 32768",
            )
        loudest = max(loudest, peak)
        low, high = min(low, float(mono.min(initial=np.inf))), max(high, float(mono.max(initial=-np.inf)))
        parts.append(mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono)))
    if samples == 0:
        raise MediaError(Outcome.EMPTY, "the sound has no samples")
    if (high - low) / 2 < SILENCE:
        reason = "the channels cancel each other out when averaged" if loudest > SILENCE + abs(high) else "silence"
        raise MediaError(Outcome.SILENT, f"the sound has no signal: {reason}")
    if resampler is not None:
        parts.append(resampler.resample_chunk(np.zeros(0, dtype=np.float32), last=True))
    waveform = np.concatenate(parts)
    return Audio(np.clip(waveform, -1.0, 1.0, out=waveform), rate_out), samples / file_rate


def _resampler(file_rate: int, rate: int) -> Any:
    if file_rate == rate:
        return None
    import soxr

    return soxr.ResampleStream(file_rate, rate, 1, dtype="float32")
