"""Sounds: from a file to a mono waveform, through libsndfile or FFmpeg.

Decoding, averaging and resampling go block by block, so that a long recording in many channels is never held whole.
Whether the file has all of its bytes is checked by `integrity` before.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, BinaryIO

import av
import numpy as np
import soundfile
from av.audio.stream import AudioStream
from av.container import InputContainer
from jaxtyping import Float

from chiasm import work
from chiasm.errors import MediaError
from chiasm.media import container, frames, integrity, kinds
from chiasm.media.kinds import Kind
from chiasm.media.limits import Limits
from chiasm.types import Audio, Outcome

SILENCE = 1e-4
"""Half the distance from the lowest to the highest sample below which a sound has no signal: -80 dB of full scale,
three steps of 16 bits, so a constant offset or the dither of a silent recording does not count as one."""

_LOUDEST = 64.0  # samples beyond are not loud but on another scale, as of 16-bit numbers written as floats
_RATES = range(100, 1_000_001)
_DECLARES_DURATION = (
    kinds.MP4,
    kinds.MATROSKA,
    kinds.AVI,
    kinds.ASF,
    kinds.FLV,
    kinds.FLAC,
)  # others leave FFmpeg to estimate it
_LACKING = 0.25  # seconds by which a sound may end before its declared end: codecs pad their first and last blocks

_FORMS = {kinds.MP3: frames.MP3, kinds.AAC: frames.ADTS}

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
        seconds = _packets(file, kind) if kind == kinds.OGG else 0.0
        try:
            sound = soundfile.SoundFile(integrity.View(file))
        except soundfile.SoundFileError:  # a codec that libsndfile lacks, such as Speex; FFmpeg has most
            pass
        else:
            with sound:
                declared = sound.frames / max(sound.samplerate, 1)
                if kind == kinds.OGG and declared > seconds + _LACKING:
                    raise _broken_off(seconds, declared)
                if kind != kinds.OGG or declared > seconds - _LACKING:
                    return _read_libsndfile(sound, kind, rate=rate, limits=limits)
        file.seek(0)  # libsndfile would stop where the last page says
    if kind in _FORMS:
        file = io.BytesIO(frames.extract(file.read(), _FORMS[kind]))
    with container.open_container(file, kind) as source:
        stream = container.main_stream(source, kind)
        if not isinstance(stream, AudioStream):
            raise MediaError(Outcome.BROKEN, f"the {kind.name} has no sound")
        return read_stream(source, stream, kind, rate=rate, limits=limits)


def _packets(file: BinaryIO, kind: Kind) -> float:
    """Return the seconds that the packets of a sound last together, whatever the last page says. Leaves the file at its beginning."""
    seconds = 0.0
    with container.open_container(file, kind) as source:
        for packet in container.packets(source, container.main_stream(source, kind)):
            work.check()
            if packet.duration and packet.duration < 2**31 and packet.time_base:  # FFmpeg gives a negative one unsigned
                seconds += float(packet.duration * packet.time_base)
    file.seek(0)
    return seconds


def read_stream(source: InputContainer, stream: AudioStream, kind: Kind, *, rate: int | None, limits: Limits) -> Audio:
    """Decode the sound of a container, as `read` does.

    Raises:
        MediaError: as `read`; `BROKEN` also where the sound ends much before its declared duration.
    """
    declared = container.duration(source, stream) if kind in _DECLARES_DURATION else None
    return _read_ffmpeg(source, stream, kind, declared, rate, limits)[0]


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
        declared = declared if kind in _DECLARES_DURATION else None
        sound, own_begin = _read_ffmpeg(source, stream, kind, declared, rate, limits)
    except MediaError as error:
        if error.outcome in (Outcome.SILENT, Outcome.EMPTY):
            return None
        raise
    late = round((own_begin - begin) * rate)
    if abs(late) > limits.max_seconds * rate:
        raise MediaError(
            Outcome.BROKEN, f"the sound of the {kind.name} begins {late / rate:,.0f} seconds off its pictures"
        )
    waveform = sound.waveform[-late:] if late < 0 else np.pad(sound.waveform, (late, 0)) if late else sound.waveform
    return Audio(waveform, rate) if len(waveform) else None


def _read_ffmpeg(
    source: InputContainer, stream: AudioStream, kind: Kind, declared: float | None, rate: int | None, limits: Limits
) -> tuple[Audio, float]:
    """Decode a stream that declares to last, or to end at, so many seconds; return also the second at which it begins."""
    file_rate = stream.codec_context.sample_rate
    begin = container.begin(stream)
    if declared is not None:
        _check_duration(_span(declared, begin or 0.0), limits)
    container.strict(stream)
    end = 0.0  # by the clock of the file: recorders leave out what was silent, so samples cannot be counted for it

    def blocks() -> Iterator[Block]:
        nonlocal begin, end
        form: tuple[int, str, str] | None = None
        resampler = av.AudioResampler(format="flt", rate=file_rate)
        for frame in chain.from_iterable(packet.decode() for packet in container.packets(source, stream)):
            time = frame.time or 0.0
            begin, end = time if begin is None else begin, max(end, time + frame.samples / frame.sample_rate)
            before, form = form, (frame.sample_rate, frame.layout.name, frame.format.name)
            if before not in (None, form):  # broadcasts, and files one after another
                yield from (_samples(part) for part in resampler.resample(None))
                resampler = av.AudioResampler(format="flt", rate=file_rate)
            yield from (_samples(part) for part in resampler.resample(frame))
        yield from (_samples(part) for part in resampler.resample(None))

    audio, decoded = _collect(blocks(), file_rate, rate=rate, limits=limits)
    begin = begin or 0.0
    expected = 0.0 if declared is None else _span(declared, begin)
    if kind == kinds.FLAC:  # without loss: every sample counts, and frames that FFmpeg drops as damaged leave a gap
        there, expected, lacking = decoded, max(expected, end - begin), 0.5 / file_rate
    else:
        there, lacking = end - begin, _LACKING
    if there < expected - lacking:
        raise _broken_off(there, expected)
    return audio, begin


def _samples(frame: av.AudioFrame) -> Block:
    """Return the samples of a frame whose channels lie interleaved: of more than 8 planes, PyAV reads beyond its memory."""
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels)


def _span(declared: float, begin: float) -> float:
    """Return how long a sound lasts: some declare that, others where it ends on a clock that did not begin at 0."""
    return declared - begin if declared > begin > 0 else declared


def _read_libsndfile(sound: soundfile.SoundFile, kind: Kind, *, rate: int | None, limits: Limits) -> Audio:
    if sound.samplerate:
        _check_duration(sound.frames / sound.samplerate, limits)
    try:
        audio, decoded = _collect(_blocks(sound), sound.samplerate, rate=rate, limits=limits)
    except soundfile.SoundFileError as error:
        reason = str(error).removeprefix("Error : ")
        raise MediaError(Outcome.BROKEN, f"the {kind.name} cannot be decoded: {reason}") from error
    if round(decoded * sound.samplerate) != sound.frames:
        raise _broken_off(decoded, sound.frames / sound.samplerate)
    return audio


def _broken_off(there: float, declared: float) -> MediaError:
    return MediaError(Outcome.BROKEN, f"the sound breaks off after {there:,.1f} of {declared:,.1f} seconds")


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
