"""Vectors of a collection in one file: how small they become, and what a search still finds.

Items with a picture and a caption, in the space of the offline encoder without pairs. The caption asks for pictures (hit@10: any
of the same caption), and a picture for others like it; recall is the share of the 10 nearest by whole vectors of float32. Vectors
of 8 bits have a scale each. `directions` are what `chiasm export --dimension` projects on, those of the pictures and captions of the
corpus. What is not offered stands beside: bits (the sign of each number less its mean) alone, and bits or 64 directions that choose 100
vectors, which those of 8 bits then rank. Scores of captions and pictures are the file's own, without hubs held back.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

import chiasm
from benchmarks import record
from benchmarks.corpora import benchmarks_folder, offline_space, pairs, pictures, say
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.retrieval.shortening import directions

CORPORA = ("stamps", "emoji-google", "emoji-twitter")
DIMENSIONS = (256, 192, 128, 96, 64)
AMONG = 100
FEW = 64
Matrix: TypeAlias = Float[np.ndarray, "rows dim"]
Search: TypeAlias = Callable[[Matrix], Matrix]  # scores of all pictures, by queries


def main() -> None:
    body = []
    for name in CORPORA:
        body += [measured(name), ""]
        say(name)
    body += [sizes(), "", f"Load {os.getloadavg()[0]:.1f}."]
    record.write("vectors", "Vectors of a collection in one file", "0", "\n".join(body))


def measured(name: str) -> str:
    """What is found in one corpus by each kind of vectors."""
    data, space = pairs(name), offline_space()
    data = pictures(data) if name == "stamps" else data
    images, texts = space.start("image", data.image), space.start("text", data.text)
    captions = np.unique(data.captions, return_inverse=True)[1]
    used = np.abs(images).max(axis=0) + np.abs(texts).max(axis=0) > 0  # the others are of sounds
    images, texts = images[:, used], texts[:, used]
    whole = texts @ images.T, alone(images @ images.T)
    rows: list[list[object]] = []
    for kind, (size, search) in kinds(images, texts).items():
        by_words, alike = search(texts), alone(search(images))
        hit = retrieval_metrics(by_words, captions[:, None] == captions).as_dict()["hit@10"]
        rows.append([kind, size, float(hit), same(by_words, whole[0]), same(alike, whole[1])])
    columns = ("vectors", "bytes each", "hit@10, caption to picture", "recall@10, caption", "recall@10, picture")
    return f"{name}, {len(images)} pictures:\n\n" + record.table(columns, rows)


def kinds(images: Matrix, texts: Matrix) -> dict[str, tuple[int, Search]]:
    """Return kinds of vectors of the pictures: bytes of each, and scores by queries."""
    dim, every = images.shape[1], np.concatenate([images, texts])
    small, mean = in_8_bits(images), every.mean(axis=0)
    bits = np.sign(images - mean)
    few = directions(every, FEW)
    shorter = in_8_bits(images @ few)
    found: dict[str, tuple[int, Search]] = {
        f"{dim} x float32": (4 * dim, lambda queries: queries @ images.T),
        f"{dim} x 8 bits": (dim + 4, lambda queries: queries @ small.T),
    }
    for number in DIMENSIONS:
        found[f"{number} directions x 8 bits"] = number + 4, _projected(directions(every, number), images)
    found[f"{dim} bits"] = dim // 8, lambda queries: (queries - mean) @ bits.T
    found[f"{dim} bits, then 8 bits for {AMONG}"] = (
        dim // 8 + dim + 4,
        lambda queries: again(queries, (queries - mean) @ bits.T, small),
    )
    found[f"{FEW} directions, then 8 bits for {AMONG}"] = (
        FEW + 4 + dim + 4,
        lambda queries: again(queries, queries @ few @ shorter.T, small),
    )
    return found


def _projected(basis: Matrix, images: Matrix) -> Search:
    short = in_8_bits(images @ basis)
    return lambda queries: np.asarray(queries @ basis @ short.T)


def in_8_bits(vectors: Matrix) -> Matrix:
    """Return what vectors are after they were kept in 8 bits, with a scale each."""
    scales = np.maximum(np.abs(vectors).max(axis=1, keepdims=True) / 127, 1e-12)
    return np.asarray(np.round(vectors / scales) * scales)


def again(queries: Matrix, scores: Matrix, vectors: Matrix) -> Matrix:
    """Return the scores by vectors of those that are best by other scores; the rest has none."""
    best = np.argsort(-scores, axis=1)[:, :AMONG]
    scores = queries @ vectors.T
    exact: Matrix = np.full_like(scores, -np.inf)
    np.put_along_axis(exact, best, np.take_along_axis(scores, best, axis=1), axis=1)
    return exact


def alone(scores: Matrix) -> Matrix:
    """Return scores by which nothing finds itself."""
    return np.where(np.eye(len(scores), dtype=bool), -np.inf, scores)


def same(scores: Matrix, whole: Matrix) -> float:
    first, second = (np.argsort(-one, axis=1, kind="stable")[:, :10] for one in (scores, whole))
    return float(np.mean([len({*a} & {*b}) / 10 for a, b in zip(first.tolist(), second.tolist(), strict=True)]))


def sizes() -> str:
    """The bytes of exported collections, with and without what may go along."""
    rows: list[list[object]] = []
    options: dict[str, dict[str, Any]] = {
        "--int8": {}, "--int8 --dimension 192": {"dimension": 192}, "--int8 --dimension 128": {"dimension": 128},
        "--int8 --thumbnails": {"thumbnails": True}, "--int8 --texts": {"texts": True},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        for words, own in options.items():
            file = Path(name) / "stamps.chiasm"
            report = chiasm.export(benchmarks_folder() / "stamps", out=file, int8=True, **own)
            with zipfile.ZipFile(file) as archive:
                vectors = archive.getinfo("vectors.int8").compress_size
                networks = sum(one.compress_size for one in archive.infolist() if one.filename.endswith(".onnx"))
            said = report.notes[1] if "dimension" in own else ""
            rows.append(
                [words, f"{(report.size or 0) / 1e6:.2f}", f"{networks / 1e6:.2f}", f"{vectors / 1e3:.0f}", said]
            )
    columns = ("`chiasm export stamps --out stamps.chiasm` with", "MB", "of networks", "KB of vectors", "what it says")
    return f"The collection of {report.items} stamps:\n\n" + record.table(columns, rows)


if __name__ == "__main__":
    main()
