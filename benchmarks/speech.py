"""Speech to text and text to speech: Debian's telephone prompts and what is said in them.

Side by side: the transcripts' vectors, as `chiasm add` stores them; the characters of the transcripts; a map learned
from the features of Whisper's encoder, without its decoder; and sums of them. Five folds by text: the map that places a
prompt, and the weights of its sum, were learned from prompts of other words (the maps among which a weight was chosen
knew them). The gallery is always everything: all texts, each once, for a prompt, and all prompts for a text. Texts that
are equal but for case, spaces and punctuation are one.
"""

from __future__ import annotations

import csv
import gzip
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.feature_extraction.text import TfidfVectorizer

import chiasm
from benchmarks import record
from benchmarks.corpora import benchmarks_folder, say
from chiasm import encoders, media
from chiasm.alignment.alignment import Alignment
from chiasm.alignment.closed_form import CcaAlignment, RidgeAlignment
from chiasm.alignment.pairs import PairArrays
from chiasm.demo import fetch_debian
from chiasm.encoders.offline import offline_encoders
from chiasm.encoders.sound import SoundEncoder
from chiasm.encoders.speech import RATE, SpeechEncoder
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.splits import Split, group_folds
from chiasm.store.collection import Collection
from chiasm.types import Audio, Text
from chiasm.vectors import unit_rows

FOLDS = 5
SEED = 0  # of the folds; 100 and up while this was built
WEIGHTS = tuple(round(0.1 * step, 1) for step in range(11))  # tried for the second of two scores
NGRAMS = (1, 3)  # characters, within words
NOTE = re.compile(r"\[[^]]*\]|\([^)]*\)|<[^>]*>")  # what a text says about its sound: "slash [/]", "[ascending tones]"
FRAME = 0.02  # seconds of a state of the encoder
PADDED = 15  # seconds that a window is padded to, as for its transcript


@dataclass(frozen=True)
class Prompts:
    """Prompts of which the words are known, in the order of their ids."""

    ids: list[str]
    paths: list[Path]
    words: list[str]
    left_out: dict[str, list[str]]  # why -> ids


@dataclass(frozen=True)
class Heard:
    """What a collection knows of the prompts."""

    vectors: Float[np.ndarray, "prompts dim"]  # unit length; zeros: no words
    texts: list[str]
    seconds: float  # that adding them took; 0: that was done before


def main() -> None:
    prompts = spoken_prompts()
    _, firsts, groups = np.unique([alike(words) for words in prompts.words], return_index=True, return_inverse=True)
    texts = [prompts.words[row] for row in firsts]
    _, text_encoder, *_ = encoders.resolve("offline")
    Y = text_encoder.encode([Text(text) for text in texts]).vectors
    given, found = stored(prompts, "offline,language=en"), stored(prompts, "offline")
    X = features(prompts)
    folds = group_folds(groups, FOLDS, seed=SEED)
    learned: dict[str, Alignment] = {
        "ridge": RidgeAlignment(blends=(1.0,)),  # no start: there is nothing but the map
        "CCA": CcaAlignment(blends=(1.0,)),
    }
    placed = {name: aligned(model, X, Y[groups], groups, folds) for name, model in learned.items()}

    transcripts, characters = given.vectors @ Y.T, character_scores(given.texts, texts)
    mapped = placed["ridge"] @ Y.T
    ranks = [1 / (60 + part.argsort(axis=1)[:, ::-1].argsort(axis=1)) for part in (transcripts, mapped)]
    ranks_back = [1 / (60 + part.argsort(axis=0)[::-1].argsort(axis=0)) for part in (transcripts, mapped)]
    with_characters, first_weights = blended(transcripts, characters, groups, folds)
    with_features, second_weights = blended(transcripts, mapped, groups, folds)
    with_both, third_weights = blended(with_characters, mapped, groups, folds)
    methods = {
        "transcripts": (transcripts, transcripts.T),
        "transcripts, language found": (found.vectors @ Y.T, Y @ found.vectors.T),
        "characters of transcripts": (characters, characters.T),
        "features, ridge": (mapped, mapped.T),
        "features, CCA": (placed["CCA"] @ Y.T, Y @ placed["CCA"].T),
        "transcripts + characters": (with_characters, with_characters.T),
        "transcripts + features": (with_features, with_features.T),
        "transcripts + features, reciprocal ranks": (sum(ranks), sum(ranks_back).T),
        "transcripts + characters + features": (with_both, with_both.T),
    }
    relevant = groups[:, None] == np.arange(len(texts))
    rows: list[list[object]] = []
    for name, (there, back) in methods.items():
        for direction, scores, right, clusters in (
            ("speech to text", there, relevant, groups),
            ("text to speech", back, relevant.T, np.arange(len(texts))),
        ):
            metrics = retrieval_metrics(scores, right, ks=(1, 5))
            bounds = metrics.intervals(groups=clusters, seed=SEED)["hit@1"]
            rows.append(
                [
                    name,
                    direction,
                    metrics.means["hit@1"],
                    f"{bounds.low:.3f} to {bounds.high:.3f}",
                    metrics.means["hit@5"],
                    metrics.means["mrr"],
                ]
            )
    table = record.table(("method", "direction", "R@1", "95 % interval", "R@5", "MRR"), rows)

    seconds = sum(lengths(prompts.paths))
    took = [
        f"{name} in {one.seconds:.0f} s ({one.seconds / seconds:.2f} of their length)"
        for name, one in (("language=en", given), ("language found", found))
        if one.seconds
    ]
    left = "; ".join(f"{len(ids)} {why} ({', '.join(ids)})" for why, ids in prompts.left_out.items() if ids)
    wrong = [
        f"{prompts.ids[row]} ({prompts.words[row]!r} heard as {given.texts[row]!r})"
        for row in np.flatnonzero(transcripts.argmax(axis=1) != groups)
    ]
    body = (
        f"{len(prompts.ids)} prompts ({seconds:.0f} s) with {len(texts)} texts. Left out: {left}.\n\n{table}\n\n"
        "Transcripts are with language=en where nothing else is said. Features: mean and deviation over time of the last "
        "states of Whisper's encoder. Weights chosen on the other folds: characters "
        f"{first_weights}, features {second_weights}, features after characters {third_weights}.\n\n"
        f"Added: {'; '.join(took) or 'before this run'}.\n\n"
        f"Not first through transcripts ({len(wrong)}): {'; '.join(wrong)}."
    )
    record.write("speech", "Speech to text and back", f"folds {SEED}", body)


# ------------------------------------------------------------------------------------------------------------ the data


def spoken_prompts() -> Prompts:
    """The prompts with their words; notes in brackets are not words."""
    sounds = fetch_debian("asterisk-core-sounds-en-wav", say) / "usr/share/asterisk/sounds/en_US_f_Allison"
    listed = (
        fetch_debian("asterisk-core-sounds-en", say) / "usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
    )
    lines = {}
    for line in gzip.decompress(listed.read_bytes()).decode().splitlines():
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            lines[name] = text
    paths = {path.relative_to(sounds).with_suffix("").as_posix(): path for path in sorted(sounds.rglob("*.wav"))}
    words = {name: " ".join(NOTE.sub(" ", text).split()) for name, text in lines.items()}
    kept = sorted(name for name in paths if words.get(name))
    unspoken = sorted(name for name in paths if words.get(name) == "")
    return Prompts(
        kept,
        [paths[name] for name in kept],
        [words[name] for name in kept],
        {
            "sounds without a text": sorted(paths.keys() - lines.keys()),
            "text without a sound": sorted(lines.keys() - paths.keys()),
            "silences": [name for name in unspoken if "silence" in lines[name]],
            "tones and noises": [name for name in unspoken if "silence" not in lines[name]],
        },
    )


def alike(words: str) -> str:
    return "".join(filter(str.isalnum, words.lower()))


def lengths(paths: Sequence[Path]) -> Iterator[float]:
    for path in paths:
        sound = media.load(path)
        assert isinstance(sound, Audio)
        yield len(sound.waveform) / sound.rate


def stored(prompts: Prompts, encoder: str) -> Heard:
    """The prompts in a collection in the cache."""
    folder = benchmarks_folder() / f"speech-{encoder.partition(',')[2].replace('=', '-') or 'found'}"
    manifest = folder.with_suffix(".csv")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "audio"))
        writer.writerows(zip(prompts.ids, prompts.paths, strict=True))
    known = folder.exists()
    begin = time.monotonic()
    chiasm.add([manifest], to=folder, encoder=encoder)
    seconds = 0.0 if known else time.monotonic() - begin
    *_, sound = encoders.resolve(encoder)
    assert isinstance(sound, SoundEncoder)
    assert sound.speech is not None
    rows, speech = Collection.open(folder).vectors(sound.fingerprint), sound.speech
    vectors, texts = np.zeros((len(prompts.ids), speech.dim), np.float32), [""] * len(prompts.ids)
    place = {item: row for row, item in enumerate(prompts.ids)}
    for item, vector, text in zip(rows.items, rows.vectors, rows.texts, strict=True):
        vectors[place[item]], texts[place[item]] = vector[: speech.dim], text or ""
    return Heard(unit_rows(vectors), texts, seconds)


def features(prompts: Prompts) -> Float[np.ndarray, "prompts features"]:
    """Of each prompt, means and deviations over its speech of the encoder's last states; kept in the cache."""
    *_, sound = offline_encoders(language="en")
    assert isinstance(sound, SoundEncoder)
    speech = sound.speech
    assert isinstance(speech, SpeechEncoder)
    path = benchmarks_folder() / f"speech-features-{speech.fingerprint[:16]}.npz"
    if path.is_file():
        kept = np.load(path)
        if kept["ids"].tolist() == prompts.ids:
            return np.asarray(kept["X"])
    import ctranslate2

    model = speech._loaded()  # the weights that transcribe, with their decoder left out
    rows = []
    for number, prompt in enumerate(prompts.paths):
        states = []
        for window in speech.prepare(media.load(prompt)).windows:
            padded = np.pad(window, (0, PADDED * RATE - len(window)))
            spectrum = model.feature_extractor(padded, padding=0)[None].astype(np.float32)
            encoded = model.model.encode(ctranslate2.StorageView.from_array(spectrum))
            states.append(np.asarray(encoded)[0, : max(1, round(len(window) / RATE / FRAME))].astype(np.float32))
        rows.append(pooled(states))
        if number % 50 == 0:
            say(f"Features of {number} of {len(prompts.paths)} prompts")
    X = np.stack(rows)
    np.savez(path, ids=np.array(prompts.ids), X=X)
    return X


def pooled(states: Sequence[Float[np.ndarray, "frames dim"]]) -> Float[np.ndarray, " features"]:
    if not states:
        return np.zeros(2 * 512, np.float32)
    frames = np.concatenate(states)
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


# ---------------------------------------------------------------------------------------------------------- the methods


def character_scores(heard: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, "prompts texts"]:
    """Cosines of weighted counts of character n-grams: "Tilda" is near "tilde", whatever it means."""
    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=NGRAMS, sublinear_tf=True).fit(texts)
    return np.asarray((counts.transform(heard) @ counts.transform(texts).T).toarray())


def aligned(
    model: Alignment,
    X: Float[np.ndarray, "prompts features"],
    Y: Float[np.ndarray, "prompts dim"],
    groups: Int[np.ndarray, " prompts"],
    folds: Sequence[Split],
) -> Float[np.ndarray, "prompts dim"]:
    """Where a map puts each prompt that it did not learn from, nor any of the same words."""
    placed = np.zeros_like(Y)
    for fold in folds:
        nowhere = np.zeros_like(Y)
        known = PairArrays(X[fold.train], Y[fold.train], nowhere[fold.train], groups[fold.train])
        placed[fold.test] = model.fit(known).transform(X[fold.test], nowhere[fold.test])
    return placed


def blended(
    first: Float[np.ndarray, "prompts texts"],
    second: Float[np.ndarray, "prompts texts"],
    groups: Int[np.ndarray, " prompts"],
    folds: Sequence[Split],
) -> tuple[Float[np.ndarray, "prompts texts"], str]:
    """A weighted sum whose weight for each fold is the best on the others, both directions together; and the weights."""
    total = np.zeros(first.shape)
    chosen = set()
    for fold in folds:
        relevant = groups[fold.train][:, None] == np.arange(first.shape[1])
        found = [first_both_ways(((1 - weight) * first + weight * second)[fold.train], relevant) for weight in WEIGHTS]
        best = WEIGHTS[int(np.argmax(np.round(found, 9)))]  # of equals the smallest
        total[fold.test] = ((1 - best) * first + best * second)[fold.test]
        chosen.add(best)
    return total, " or ".join(f"{weight:g}" for weight in sorted(chosen))


def first_both_ways(scores: Float[np.ndarray, "prompts texts"], relevant: Bool[np.ndarray, "prompts texts"]) -> float:
    """Sum of R@1 of both directions; only the texts that one of these prompts says are searched with."""
    said = relevant.any(axis=0)
    there = retrieval_metrics(scores, relevant, ks=(1,))
    return there.means["hit@1"] + retrieval_metrics(scores.T[said], relevant.T[said], ks=(1,)).means["hit@1"]


if __name__ == "__main__":
    main()
