"""Mutated images, sounds and videos through the door that `add` uses: a medium or an outcome for every one of them.

Small files of every kind that chiasm reads are damaged with a fixed seed (bits, numbers of the header, cuts, zeros, parts
of other files, wrong names) and opened in processes of their own, so that the crash or hang of a native library is seen.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from benchmarks import record
from chiasm import media
from chiasm.errors import MediaError

FILES = 10_000
SEED = 0
SECONDS = 60.0  # that one file may take; the slowest is shown
MEMORY = 6 * 2**30  # bytes of address space of a process, so that one that asks for more is seen as a crash

_NAMES = {"image": ".jpg .png .tif", "audio": ".wav .mp3 .m4a", "video": ".mp4 .mkv .avi", "none": ".txt .json"}
_SUFFIXES = [*" ".join(_NAMES.values()).split(), ""]


# ------------------------------------------------------------------------------------------------------- whole files


def originals() -> dict[str, tuple[str, bytes]]:
    """A small file of every kind: the modality that it has, and its bytes."""
    y, x = np.mgrid[:60, :80]
    colours = np.stack([x * 3, y * 4, np.full_like(x, 128)], -1).astype(np.uint8)
    picture = Image.fromarray(colours)
    deep = Image.fromarray((x * 800).astype(np.uint16))
    numbers = Image.fromarray(np.sin(x / 9).astype(np.float32))
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "JPEG": (picture, {}),
        "JPEG progressive": (picture, {"progressive": True}),
        "PNG": (picture.convert("RGBA"), {}),
        "PNG deep": (deep, {}),
        "GIF": (picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        "WEBP": (picture.convert("RGBA"), {}),
        "BMP": (picture, {}),
        "TIFF": (picture, {"compression": "tiff_lzw"}),
        "TIFF deep": (deep, {"compression": "tiff_deflate"}),
        "TIFF numbers": (numbers, {}),
        "AVIF": (picture, {}),
        "JPEG2000": (picture, {}),
        "PPM": (picture, {}),
    }
    files = {name: ("image", _image(one, name.split()[0], **options)) for name, (one, options) in images.items()}
    samples = (0.5 * np.sin(np.arange(8000) / 3)).astype(np.float32)
    for file_format, subtype in (
        *(("WAV", subtype) for subtype in ("PCM_16", "FLOAT", "IMA_ADPCM")),
        *(("AIFF", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
    ):
        out = io.BytesIO()
        soundfile.write(out, samples, 8000, format=file_format, subtype=subtype)
        files[f"{file_format} {subtype}"] = ("audio", out.getvalue())
    for container, codec in (("adts", "aac"), ("ipod", "aac"), ("webm", "libopus"), ("asf", "libmp3lame")):
        files[f"{container} sound"] = ("audio", _film(container, None, codec))
    for container, codec, sound in (
        *(
            ("mp4", "libx264", "aac"),
            ("matroska", "libx264", "aac"),
            ("webm", "libvpx", "libopus"),
            ("flv", "flv1", None),
        ),
        *(
            ("avi", "mpeg4", "libmp3lame"),
            ("mpegts", "libx264", "aac"),
            ("mpeg", "mpeg1video", None),
            ("asf", "wmv2", None),
        ),
    ):
        files[f"{container} film"] = ("video", _film(container, codec, sound))
    return files


def _image(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def _film(container: str, video: str | None, audio: str | None) -> bytes:
    """Half a second of pictures that change, and of a tone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        with av.open(path, "w", format=container) as film:
            pictures = film.add_stream(video, 25) if video else None
            sound = film.add_stream(audio, 48000, layout="mono") if audio else None
            if isinstance(pictures, av.VideoStream):
                pictures.width, pictures.height, pictures.pix_fmt, pictures.gop_size = 64, 48, "yuv420p", 5
                pictures.codec_context.thread_count = 1
                for number in range(12):
                    frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 20, np.uint8), format="rgb24")
                    frame.pts, frame.time_base = number, Fraction(1, 25)
                    film.mux(pictures.encode(frame))
                film.mux(pictures.encode())
            if isinstance(sound, av.AudioStream):
                step = 960 if audio == "libopus" else 1152 if audio == "libmp3lame" else 1024
                samples = (0.5 * np.sin(np.arange(24 * step) / 17)).astype(np.float32)
                for begin in range(0, len(samples), step):
                    block = av.AudioFrame.from_ndarray(samples[None, begin : begin + step], "fltp", "mono")
                    block.sample_rate, block.pts, block.time_base = 48000, begin, Fraction(1, 48000)
                    film.mux(sound.encode(block))
                film.mux(sound.encode())
        return path.read_bytes()


# ------------------------------------------------------------------------------------------------------ and damaged


def mutated(number: int, files: dict[str, tuple[str, bytes]]) -> tuple[str, str, str, bytes]:
    """The damaged file of a number: its kind, the modality that it is listed as, its extension and its bytes."""
    rng = np.random.default_rng((SEED, number))
    names = list(files)
    kind = names[number % len(names)]
    listed_as, whole = files[kind]
    data = bytearray(whole)
    suffix = ""
    for _ in range(int(rng.integers(1, 4))):
        near = int(rng.choice([40, 300, max(1, len(data))]))  # headers are short, and most is decided there
        at = int(rng.integers(0, max(1, min(near, len(data)))))
        match rng.choice(["bits", "number", "cut", "begin", "zeros", "splice", "repeat", "name"]):
            case "bits":
                for place in rng.integers(0, max(1, len(data)), int(rng.integers(1, 20))).tolist():
                    if place < len(data):
                        data[place] ^= 1 << int(rng.integers(0, 8))
            case "number":
                data[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\1", rng.bytes(4)])
            case "cut":
                del data[int(rng.integers(0, len(data) + 1)) :]
            case "begin":
                del data[:at]
            case "zeros":
                length = int(rng.integers(1, 2000))
                data[at : at + length] = bytes(min(length, max(0, len(data) - at)))
            case "splice":
                other = files[names[int(rng.integers(len(names)))]][1]
                begin = int(rng.integers(0, len(other)))
                data[at:at] = other[begin : begin + int(rng.integers(1, 4000))]
            case "repeat":
                data[at:at] = data[at : at + int(rng.integers(1, 4000))]
            case _:
                suffix = _SUFFIXES[int(rng.integers(len(_SUFFIXES)))]
    return kind, listed_as, suffix, bytes(data)


# --------------------------------------------------------------------------------------------- in processes of their own


def work() -> None:
    """Open the files that are named on the standard input, one a line, and answer each with a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        path, listed_as = json.loads(line)
        try:
            opened = media.load(path, image_size=224, rate=16_000, frames=8, fps=1.0, track=16_000, listed_as=listed_as)
            answer = ["ok", opened.modality]
        except MediaError as error:
            answer = [str(error.outcome), error.reason]
        except Exception as error:  # noqa: BLE001  # what is looked for
            answer = ["none", f"{type(error).__name__}: {error}"]
        print(json.dumps(answer), flush=True)  # the answer


class _Worker:
    """One process, started again when it has crashed or hung."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def open(self, path: Path, listed_as: str) -> tuple[str, str]:
        """Return the outcome of a file and the reason: also `crash`, `hang` and `none`."""
        if self._process is None:
            command = [sys.executable, "-m", "benchmarks.robustness_media", "--worker"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), listed_as]) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        line = self._process.stdout.readline() if ready else ""
        if line:
            outcome, reason = json.loads(line)
            return outcome, reason
        if ready:
            return "crash", f"exit code {self.stop()}"
        self.stop()
        return "hang", f"no answer in {SECONDS:g} s"

    def stop(self) -> int | None:
        """End the process and return its exit code."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        process.kill()
        process.communicate()
        return process.returncode


def _opened(
    numbers: range, files: dict[str, tuple[str, bytes]], folder: Path
) -> Iterator[tuple[int, str, str, str, float]]:
    """Yield number, kind, outcome, reason and seconds of the files of some numbers."""
    worker = _Worker()
    try:
        for number in numbers:
            kind, listed_as, suffix, data = mutated(number, files)
            path = folder / f"{number}{suffix}"
            path.write_bytes(data)
            begin = time.monotonic()
            outcome, reason = worker.open(path, listed_as)
            yield number, kind, outcome, reason, time.monotonic() - begin
            path.unlink()
    finally:
        worker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--worker", action="store_true")
    parser.add_argument("--files", type=int, default=FILES)
    asked, sys.argv[1:] = parser.parse_known_args()
    if asked.worker:
        work()
        return
    files = originals()
    processes = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="chiasm-robustness-") as folder, ThreadPoolExecutor(processes) as pool:
        parts = [range(first, asked.files, processes) for first in range(processes)]
        rows = [row for part in pool.map(lambda part: [*_opened(part, files, Path(folder))], parts) for row in part]
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    wrong = []
    for number, kind, outcome, reason, _ in sorted(rows):
        column = outcome if outcome in ("ok", "broken", "crash", "hang", "none") else "other outcome"
        as_text = outcome == "ok" and reason == "text"
        counts[kind].update([column, "all", *(["as text"] if as_text else [])])
        if outcome in ("crash", "hang", "none") or as_text:
            wrong.append(f"- file {number} ({kind}): {outcome}, {reason}")
    total = sum(counts.values(), Counter[str]())
    columns = ("all", "ok", "broken", "other outcome", "crash", "hang", "none", "as text")
    shown = [[kind, *(one[name] for name in columns)] for kind, one in [*sorted(counts.items()), ("all", total)]]
    slowest = max(rows, key=lambda row: row[-1])
    body = record.table(
        ("kind", "files", "read", "broken", "other outcome", "crashes", "hangs", "without outcome", "taken for text"),
        shown,
    )
    body += (
        f"\n\nThe slowest, file {slowest[0]} ({slowest[1]}), took {slowest[-1]:.1f} s. Wrong: {len(wrong)}.\n"
        + "\n".join(wrong)
    )
    record.write(
        "robustness_media",
        "Robustness: mutated media files",
        f"{SEED}, files 0 to {asked.files - 1:,}",
        body,
        command="python -m benchmarks.robustness media",
    )


if __name__ == "__main__":
    main()
