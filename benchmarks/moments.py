"""Moments: spoken words planted in recordings, and scenes planted in videos, found by their words.

Recordings are Debian's telephone prompts one after another with pauses between them; videos are stamps, each shown for
some seconds while it drifts over the screen, with prompts spoken meanwhile. Both are stored by the same `chiasm.add` as
anything else, and ranked by cosine in the collection's space among all rows, those of whole files too. A query counts
as found at R@1 if the first row is of the right file and its span overlaps the planted one by IoU 0.5 or more.
"""

from __future__ import annotations

import gzip
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr
from jaxtyping import Float, UInt8
from PIL import Image

import chiasm
from benchmarks import record
from benchmarks.corpora import say
from chiasm import encoders, media
from chiasm.demo import fetch_debian, stamps_root, stamps_rows
from chiasm.space import start_space
from chiasm.store.collection import Collection
from chiasm.types import Image as Picture
from chiasm.types import Text
from chiasm.verbs.spaces import placed_vectors

SEEDS = range(3)
RECORDINGS, PROMPTS = 10, 8  # a seed; prompts a recording
VIDEOS, SCENES = 5, 8  # a seed; scenes a video, every other with a prompt
PAUSES = (1.0, 4.0)  # seconds between prompts
SHOWN = (3.0, 8.0)  # seconds of a scene
RATE = 16_000
FPS, SIZE = 10, (320, 240)
IOU = 0.5


@dataclass(frozen=True)
class Prompt:
    words: str
    waveform: Float[np.ndarray, " samples"]  # at RATE


@dataclass(frozen=True)
class Planted:
    """A time span of a file, and what should find it."""

    kind: str
    query: Text | Picture
    item: str
    start: float
    end: float


def main() -> None:
    prompts = spoken_prompts()
    pictures = [row for row in stamps_rows(stamps_root(say)) if row["category"] != "symbols"]
    found: dict[str, list[bool]] = {}
    speed: dict[str, list[float]] = {}
    for seed in SEEDS:
        run(seed, prompts, pictures, found, speed)
    rows = [
        [name, len(values), float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))]
        for name, values in found.items()
    ]
    table = record.table(("planted", "queries", f"R@1 at IoU {IOU}", "standard error"), rows)
    rates = "; ".join(
        f"{name} {float(np.mean(values)):.0f} times as fast as they play" for name, values in speed.items()
    )
    body = (
        f"{RECORDINGS} recordings of {PROMPTS} prompts and {VIDEOS} videos of {SCENES} scenes a seed. Ranked among all rows, "
        f"those of whole files too.\n\n{table}\n\nAdded: {rates}."
    )
    record.write("moments", "Moments", f"{SEEDS.start} to {SEEDS.stop - 1}", body)


def run(
    seed: int,
    prompts: Sequence[Prompt],
    pictures: Sequence[dict[str, str]],
    found: dict[str, list[bool]],
    speed: dict[str, list[float]],
) -> None:
    """Plant, store, search; add what was found to the lists."""
    for name, encoder in (("spoken words", "offline"), ("spoken words, language=en", "offline,language=en")):
        with tempfile.TemporaryDirectory() as folder:
            planted = record_prompts(Path(folder) / "media", prompts, np.random.default_rng(seed))
            found.setdefault(name, []).extend(search(Path(folder), encoder, planted, speed.setdefault("sounds", [])))
    with tempfile.TemporaryDirectory() as folder:
        planted = film_scenes(Path(folder) / "media", pictures, prompts, np.random.default_rng(seed))
        hits = search(Path(folder), "offline,language=en", planted, speed.setdefault("videos", []))
    for one, hit in zip(planted, hits, strict=True):
        found.setdefault(one.kind, []).append(hit)


def search(folder: Path, encoder: str, planted: Sequence[Planted], speed: list[float]) -> list[bool]:
    """Add the media in a folder to a collection; for each query, whether the first row overlaps what was planted."""
    begin = time.monotonic()
    report = chiasm.add([folder / "media"], to=folder / "collection", encoder=encoder)
    assert set(report.counts) == {"ok"}, report.counts
    collection = Collection.open(folder / "collection")
    networks = encoders.resolve(encoder)
    space = start_space(networks)

    rows = placed_vectors(collection, space)
    speed.append(float(np.nanmax(rows.ends)) * len(set(rows.items.tolist())) / (time.monotonic() - begin))
    scores = space.embed([one.query for one in planted], networks) @ rows.vectors.T
    # The only moment of a recording has the vector of the whole, and tells more.
    order = np.lexsort((np.isnan(rows.starts)[None].repeat(len(scores), 0), -scores), axis=1)[:, 0]
    return [
        rows.items[row] == one.item and overlap((rows.starts[row], rows.ends[row]), (one.start, one.end)) >= IOU
        for row, one in zip(order, planted, strict=True)
    ]


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two time spans; of a whole file (NaN) it is counted as none."""
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return max(0.0, shared) / (max(a[1], b[1]) - min(a[0], b[0])) if np.isfinite(shared) else 0.0


# ------------------------------------------------------------------------------------------------------ what is planted


def spoken_prompts() -> list[Prompt]:
    """The prompts of 3 to 15 different words that last at most 6 s, without silence around them."""
    sounds = fetch_debian("asterisk-core-sounds-en-wav", say) / "usr/share/asterisk/sounds"
    texts = fetch_debian("asterisk-core-sounds-en", say) / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    paths = {path.stem: path for path in sorted(sounds.rglob("*.wav"))}
    prompts: dict[str, Prompt] = {}
    for line in gzip.decompress(texts.read_bytes()).decode().splitlines():
        name, colon, words = line.partition(": ")
        if (
            not colon
            or line.startswith(";")
            or "[" in words
            or not 3 <= len(set(words.split())) <= 15
            or name not in paths
        ):
            continue
        samples, rate = soundfile.read(paths[name], dtype="float32")
        waveform = soxr.resample(samples, rate, RATE)
        loud = np.flatnonzero(np.abs(waveform) > 0.02)
        waveform = waveform[loud[0] : loud[-1]]
        if len(waveform) <= 6 * RATE:
            prompts.setdefault("".join(filter(str.isalnum, words.lower())), Prompt(words, waveform))
    return list(prompts.values())


def record_prompts(folder: Path, prompts: Sequence[Prompt], generator: np.random.Generator) -> list[Planted]:
    """Write recordings of prompts with pauses between them; tell where each stands."""
    folder.mkdir()
    planted: list[Planted] = []
    chosen = generator.permutation(len(prompts))[: RECORDINGS * PROMPTS].reshape(RECORDINGS, PROMPTS)
    for number, row in enumerate(chosen):
        parts, length = [], 0
        for prompt in (prompts[index] for index in row):
            pause = round(generator.uniform(*PAUSES) * RATE)
            start = length + pause
            length = start + len(prompt.waveform)
            parts += [np.zeros(pause, np.float32), prompt.waveform]
            planted.append(
                Planted("spoken words", Text(prompt.words), f"recording{number}", start / RATE, length / RATE)
            )
        whole = np.concatenate([*parts, np.zeros(RATE, np.float32)])
        hiss = generator.normal(0, 1e-3, len(whole)).astype(np.float32)
        soundfile.write(folder / f"recording{number}.flac", np.clip(whole + hiss, -1, 1), RATE)
    return planted


def film_scenes(
    folder: Path, pictures: Sequence[dict[str, str]], prompts: Sequence[Prompt], generator: np.random.Generator
) -> list[Planted]:
    """Write videos of pictures that drift over a plain ground, with a prompt in every other scene; tell where each stands."""
    folder.mkdir()
    planted: list[Planted] = []
    shown = generator.permutation(len(pictures))[: VIDEOS * SCENES].reshape(VIDEOS, SCENES)
    spoken = iter(generator.permutation(len(prompts)))
    for number, row in enumerate(shown):
        frames: list[UInt8[np.ndarray, "height width 3"]] = []
        sounds: list[Float[np.ndarray, " samples"]] = []
        for place, index in enumerate(row):
            start, count = len(frames) / FPS, round(generator.uniform(*SHOWN) * FPS)
            picture = Path(pictures[index]["image"])
            frames += scene(picture, count, generator)
            sound = np.zeros(count * RATE // FPS, np.float32)
            if place % 2 == 0:
                prompt = prompts[next(spoken)]
                said = prompt.waveform[: len(sound) - RATE]
                sound[RATE // 2 : RATE // 2 + len(said)] = said
                if len(said) == len(prompt.waveform):
                    begin = start + 0.5
                    end = begin + len(said) / RATE
                    planted.append(Planted("spoken words in videos", Text(prompt.words), f"video{number}", begin, end))
            sounds.append(sound)
            still = Picture(frames[-1 - int(generator.integers(count))])
            stamp = media.load(picture, image_size=224)
            assert isinstance(stamp, Picture)
            for kind, query in (("scenes, by a still of them", still), ("scenes, by the picture in them", stamp)):
                planted.append(Planted(kind, query, f"video{number}", start, len(frames) / FPS))
        write_video(folder / f"video{number}.mp4", frames, np.concatenate(sounds))
    return planted


def scene(path: Path, count: int, generator: np.random.Generator) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Frames in which a picture drifts over a ground of one light colour, with the noise of a camera."""
    picture = Image.open(path).convert("RGBA")
    picture.thumbnail((SIZE[0] * 9 // 10, SIZE[1] * 9 // 10))
    ground = tuple(generator.integers(180, 256, 3).tolist())
    room = np.array(SIZE) - picture.size
    begin, end = generator.uniform(0, 1, (2, 2)) * room
    frames = []
    for share in np.linspace(0, 1, count):
        frame = Image.new("RGB", SIZE, ground)
        x, y = np.round(begin + share * (end - begin)).astype(int).tolist()
        frame.paste(picture, (x, y), picture)
        noisy = np.asarray(frame, np.float32) + generator.normal(0, 3, (SIZE[1], SIZE[0], 3))
        frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return frames


def write_video(
    path: Path, frames: Sequence[UInt8[np.ndarray, "height width 3"]], waveform: Float[np.ndarray, " samples"]
) -> None:
    """An MP4 with H.264 pictures and AAC sound."""
    with av.open(path, "w") as film:
        pictures = film.add_stream("libx264", FPS)
        pictures.width, pictures.height = SIZE
        pictures.pix_fmt = "yuv420p"
        sound = film.add_stream("aac", RATE, layout="mono")
        for frame in frames:
            film.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        film.mux(pictures.encode())
        for start in range(0, len(waveform), 1024):
            block = av.AudioFrame.from_ndarray(waveform[None, start : start + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, start, Fraction(1, RATE)
            film.mux(sound.encode(block))
        film.mux(sound.encode())


if __name__ == "__main__":
    main()
