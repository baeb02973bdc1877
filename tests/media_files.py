"""Small media files, made for tests with Pillow, soundfile and PyAV. The answer is planted: frames bear numbers."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import soundfile
from jaxtyping import Float, UInt8
from PIL import Image

from chiasm.errors import MediaError
from chiasm.types import Outcome


def gradient(width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """Red grows to the right, green downwards, blue is a fixed 128: every corner has its own colour."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), np.full_like(x, 128)], -1).astype(np.uint8)


def image_bytes(image: Image.Image | UInt8[np.ndarray, "*shape"], file_format: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def tone(seconds: float, rate: int, hertz: float = 440.0, amplitude: float = 0.5) -> Float[np.ndarray, " samples"]:
    """A sine."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def sound_bytes(samples: Float[np.ndarray, "*shape"], rate: int, file_format: str, subtype: str | None = None) -> bytes:
    """A sound as libsndfile writes it; samples of shape (samples,) or (samples, channels)."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=file_format, subtype=subtype)
    return out.getvalue()


def refused(outcome: Outcome, term: str, opened: Callable[..., object], *given: Any, **options: Any) -> None:
    """Opening it fails with this outcome and a reason that holds the term."""
    with pytest.raises(MediaError, match=term or None) as caught:
        opened(*given, **options)
    assert caught.value.outcome is outcome


BITS = 6


def frame_pixels(index: int, width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """One frame of a `Film`: blue, the upper left corner white, and its number in six white or black blocks."""
    pixels = np.full((height, width, 3), (20, 60, 200), np.uint8)
    pixels[: height // 4, : width // 4] = 255
    for bit in range(BITS):
        block = slice(bit * width // BITS, (bit + 1) * width // BITS)
        pixels[height // 2 : height * 3 // 4, block] = 255 * (index >> bit & 1)
    return pixels


def frame_number(pixels: UInt8[np.ndarray, "height width 3"]) -> int:
    """The number that `frame_pixels` wrote, modulo 64."""
    height, width = pixels.shape[:2]
    row = pixels[height * 5 // 8, :, 1]
    return sum(int(row[(2 * bit + 1) * width // (2 * BITS)] > 127) << bit for bit in range(BITS))


@dataclass(frozen=True, kw_only=True)
class Film:
    """A film of numbered frames or of plain scenes, and a 440 Hz tone."""

    video: str | None = "libx264"
    audio: str | None = None
    frames: int = 50
    size: tuple[int, int] = (96, 64)
    fps: int = 25
    gop: int = 10
    rotation: float | None = None
    muxer: dict[str, str] = field(default_factory=dict)
    encoder: dict[str, str] = field(default_factory=dict)
    cover: bytes | None = None  # a JPEG
    sound_seconds: float | None = None
    amplitude: float = 0.5
    scenes: tuple[tuple[int, int, int], ...] = ()  # colours that fill equal parts of the film instead of numbers
    late: float = 0.0  # seconds by which the sound begins after the pictures
    start: float = 0.0  # seconds on the container's clock at which the first of both begins

    def written(self, container: str) -> bytes:
        """The film as FFmpeg writes it."""
        with tempfile.TemporaryDirectory() as folder:  # on disk: to move an index to the front, FFmpeg reads it again
            path = Path(folder) / "film"
            with av.open(path, "w", format=container, options=self.muxer) as film:
                self._write(film)
            return path.read_bytes()

    def _write(self, film: av.container.OutputContainer) -> None:
        pictures = cast("av.VideoStream", film.add_stream(self.video, self.fps, self.encoder)) if self.video else None
        sound = cast("av.AudioStream", film.add_stream(self.audio, 48000, layout="mono")) if self.audio else None
        if pictures is not None:
            pictures.width, pictures.height = self.size
            pictures.pix_fmt, pictures.gop_size = "yuv420p", self.gop
            pictures.codec_context.thread_count = 1  # several write other bytes now and then
            if self.rotation is not None:
                pictures.set_display_rotation(self.rotation)
        if self.cover is not None:
            self._write_cover(film, self.cover)
        if pictures is not None:
            for index in range(self.frames):
                pixels = frame_pixels(index, *self.size)
                if self.scenes:
                    pixels[:] = self.scenes[index * len(self.scenes) // self.frames]
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                begin = round((self.start + max(0.0, -self.late)) * self.fps)
                frame.pts, frame.time_base = index + begin, Fraction(1, self.fps)
                film.mux(pictures.encode(frame))
            film.mux(pictures.encode())
        if sound is not None:
            seconds = self.frames / self.fps if self.sound_seconds is None else self.sound_seconds
            samples = tone(seconds, 48000, amplitude=self.amplitude)
            step = 960 if self.audio == "libopus" else 1024
            for start in range(0, len(samples), step):
                block = av.AudioFrame.from_ndarray(samples[None, start : start + step], format="fltp", layout="mono")
                begin = start + round((self.start + max(0.0, self.late)) * 48000)
                block.sample_rate, block.pts, block.time_base = 48000, begin, Fraction(1, 48000)
                film.mux(sound.encode(block))
            film.mux(sound.encode())

    def _write_cover(self, film: av.container.OutputContainer, cover: bytes) -> None:
        still = film.add_stream("mjpeg", 1)
        still.width, still.height = Image.open(io.BytesIO(cover)).size
        still.pix_fmt = "yuvj420p"
        still.disposition = av.stream.Disposition.attached_pic
        packet: av.Packet[Any] = av.Packet(cover)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = still, 0, 0, True
        packet.time_base = Fraction(1, 1)
        film.mux(packet)
