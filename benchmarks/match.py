"""The places of a picture that matched words: whether hiding the places that matched most lowers the cosine more than random ones.

Stamps and their own captions in the start space, in which nothing was learned. A fifth of the places is hidden in the
picture itself, which is embedded again, as `chiasm explain --collection` measures reasons. Times are of the processor, on one core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import record
from benchmarks.corpora import read_rows, stamps_table
from chiasm import encoders, media
from chiasm.encoders.base import Cells, Encoder
from chiasm.encoders.offline import ImageEncoder, class_names, image_weights
from chiasm.media.pieces import Piece, without
from chiasm.space import start_space
from chiasm.types import Image, Media, Text
from chiasm.verbs.explainer import DRAWS, HIDDEN
from chiasm.verbs.matching import match_places

SAMPLE, OCCLUDED = 100, 20  # stamps; those of which each is embedded 49 times


class Opaque(ImageEncoder):
    """The same encoder, whose places are not known: they are hidden in the picture."""

    def cells(self, pictures: Sequence[Image]) -> Cells | None:  # noqa: ARG002
        return None


def main() -> None:
    networks = encoders.resolve("offline")
    with tempfile.TemporaryDirectory() as name:
        rows = read_rows(stamps_table(Path(name)))
        order = np.random.default_rng(0).permutation(len(rows))[:SAMPLE]
        pairs = [(Text(rows[n]["text"]), media.load(rows[n]["image"], image_size=224)) for n in order]
    opaque: list[Encoder] = [Opaque(image_weights(), class_names()), *networks]
    shown = [
        measure("left out of the mean", pairs, networks),
        measure("hidden in the picture", pairs[:OCCLUDED], opaque),
    ]
    columns = (
        "places are", "stamps", "nothing hidden", "strongest hidden", "random", "weakest", "gap (random - strongest)",
        "standard error", "ms a picture",
    )  # fmt: skip
    lead = f"Mean cosine of a stamp with its own caption, {HIDDEN['image']:.0%} of its places hidden.\n\n"
    record.write("match", "What matched words", "stamps and random places: 0", lead + record.table(columns, shown))


def measure(how: str, pairs: Sequence[tuple[Text, Media]], networks: Sequence[Encoder]) -> list[object]:
    space = start_space(networks)
    rng = np.random.default_rng(0)
    scores, seconds = [], []
    for words, picture in pairs:
        assert isinstance(picture, Image)
        begin = time.process_time()
        match = match_places(words, picture, space, networks)
        seconds.append(time.process_time() - begin)
        places = [Piece(box=one.box) for one in match.reasons]
        strongest = np.argsort([-one.weight for one in match.reasons])
        number = round(HIDDEN["image"] * len(places))
        draws = [rng.permutation(len(places))[:number] for _ in range(DRAWS)]
        hidden = [
            without(picture, [places[n] for n in rows]) for rows in (strongest[:number], strongest[-number:], *draws)
        ]
        vectors = space.embed([words, picture, *(one for one in hidden if one is not None)], networks)
        whole, most, least, *random = (vectors[1:] @ vectors[0]).tolist()
        scores.append((whole, most, float(np.mean(random)), least))
    gaps = np.array([random - most for _, most, random, _ in scores])
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    return [
        how,
        len(pairs),
        *np.mean(scores, axis=0).tolist(),
        float(gaps.mean()),
        error,
        1e3 * float(np.median(seconds)),
    ]


if __name__ == "__main__":
    main()
