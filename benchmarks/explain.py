"""Explanations of a recogniser of stamps: whether what they name matters, whether they sum, and what they cost.

Fitted on two of three folds, measured on the third, which nothing was chosen on. Hiding a part of a medium is measured as
`chiasm explain --collection` does it, each medium alone. Times are of the processor, on one core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import read_rows, say, stamps_table, write_rows
from chiasm import encoders
from chiasm.demo import SMALLEST_CLASS
from chiasm.encoders.base import Cells
from chiasm.encoders.offline import ImageEncoder, class_names, image_weights
from chiasm.media.limits import Limits
from chiasm.media.pieces import pieces_of
from chiasm.recognition.explanations import evidence, modality_shares, part_contributions, prior_evidence
from chiasm.splits import grouped_stratified_folds
from chiasm.types import Image, Source
from chiasm.verbs.explainer import FEWEST_PIECES, Explainer, Part, measure_faithfulness
from chiasm.verbs.model import load_model

SAMPLE = 100  # items a modality
OCCLUDED = 20  # pictures, of which each is embedded 49 times
TIMED = 30
# Words for the classes and for what things look like, chosen once.
CONCEPTS = "animal,food,vehicle,building,plant,flower,tool,letter,symbol,flag,music,clothing,space,holiday,ball,red,round,metal,furry,wheels"


class Opaque(ImageEncoder):
    """The same encoder, whose places are not known: its pictures are explained by occlusion."""

    def cells(self, pictures: Sequence[Image]) -> Cells | None:  # noqa: ARG002
        return None


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = read_rows(stamps_table(folder))
        counts = {row["category"]: sum(row["category"] == other["category"] for other in rows) for row in rows}
        rows = [row for row in rows if counts[row["category"]] >= SMALLEST_CLASS]
        split = next(iter(grouped_stratified_folds(np.array([row["category"] for row in rows]), 3, seed=0)))
        held = set(split.test.tolist())
        table = write_rows(
            folder / "parts.csv", [{**row, "part": "test" if n in held else "train"} for n, row in enumerate(rows)]
        )
        say("Embedding")
        chiasm.add([table], to=folder / "stamps")
        fitted = chiasm.fit(folder / "stamps", label="category", where="part = 'train'", out=folder / "model")
        say("Measuring")
        measured = chiasm.explain(folder / "model", collection=folder / "stamps", sample=SAMPLE, concepts=CONCEPTS)
        assert measured.twin is not None  # concepts were named
        chosen = f"{fitted.chosen['rung']}, {fitted.chosen['fusion']}"
        on = f"{len(rows)} stamps of {len(fitted.classes)} classes, fitted on {fitted.items}; {chosen}."
        body = [f"{on} Mean probability of the answer with parts hidden, on {measured.measured}.", ""]
        tests = [row for n, row in enumerate(rows) if n in held]
        explainer = explainer_of(folder / "model")
        kinds = dict(measured.faithfulness)
        shown: list[list[object]] = []
        areas: list[list[object]] = []
        curves: list[list[object]] = []
        opaque = explainer_of(folder / "model")
        opaque.encoders = {**opaque.encoders, "image": Opaque(image_weights(), class_names())}
        occluded = measure_faithfulness(opaque, parts_of(opaque, "image", tests, OCCLUDED))
        for what, own in [*kinds.items(), ("image", occluded["image"])]:
            shown.append(
                [what, own.method, own.items, f"{own.share:.0%}", own.whole, own.strongest, own.random, own.weakest, own.gap,
                 own.standard_error]
            )  # fmt: skip
            areas.append(
                [what, own.method, own.curves.deletion, own.curves.deletion_error, own.curves.insertion,
                 own.curves.insertion_error]
            )  # fmt: skip
            for order in ("strongest", "random", "weakest"):
                levels = getattr(own.curves, order)
                told = ", ".join(
                    f"{share:.0%} {level:.3f}" for share, level in zip(own.curves.shares, levels, strict=True)
                )
                curves.append([what, own.method, order, told])
        columns = (
            "medium", "method", "items", "hidden", "nothing hidden", "strongest", "random", "weakest",
            "gap (random - strongest)", "standard error",
        )  # fmt: skip
        body += [record.table(columns, shown), "", "Areas between the curves of all shares, from 0 to 1:", ""]
        of_areas = (
            "medium",
            "method",
            "deletion: random - strongest",
            "standard error",
            "insertion: weakest - random",
            "standard error",
        )
        body += [
            record.table(of_areas, areas),
            "",
            record.table(("medium", "method", "hidden first", "share hidden, answer"), curves),
        ]
        body += [
            "",
            f"{measured.twin.sentence}. Concepts: {', '.join(measured.twin.concepts)}.",
            "",
            *sums_and_times(explainer, tests),
        ]
    record.write("explain", "Explanations", "split: 0; items and random pieces: 0", "\n".join(body))


def explainer_of(model: Path) -> Explainer:
    saved = load_model(model)
    return Explainer.of(saved, encoders.resolve(saved.encoder), saved.recognizer.only_column_, None)


def parts_of(explainer: Explainer, modality: str, rows: list[dict[str, str]], most: int) -> list[Part]:
    parts: list[Part] = []
    for number in np.random.default_rng(0).permutation(len(rows)):
        value = rows[number][modality]
        source = Source("image", path=value) if modality == "image" else Source("text", text=value)
        part = explainer.embed(source, Limits(), fewest=FEWEST_PIECES)
        if part is not None:
            parts.append(part)
        if len(parts) == most:
            break
    return parts


def sums_and_times(explainer: Explainer, rows: list[dict[str, str]]) -> list[str]:
    """How far sums are from what they are of, and what explaining costs."""
    column = explainer.column
    pictures, words = (parts_of(explainer, modality, rows, TIMED) for modality in ("image", "text"))
    error = shares_error = 0.0
    maps: list[float] = []
    for picture in pictures:
        item = explainer.item([picture])
        answer = explainer.answer_of(item)
        assert isinstance(picture.medium, Image)
        cells = explainer.encoders["image"].cells([picture.medium])
        assert cells is not None
        parts = cells.vectors[0].astype(np.float64) / cells.vectors.shape[1]
        begin = time.process_time()
        made = part_contributions(column, item, "image", parts, answer)
        maps.append(time.process_time() - begin)
        if made is not None:
            error = max(error, abs(float(made.parts.sum()) + made.rest - made.total))
    for picture, text in zip(pictures, words, strict=False):
        item = explainer.item([picture, text])
        answer = explainer.answer_of(item)
        whole = evidence(column, item, answer)[0] - prior_evidence(column, answer)
        shares_error = max(shares_error, abs(sum(modality_shares(column, item, answer).values()) - whole))
    encode = mean_time(pictures, lambda part: explainer.encoders["image"].encode([part.medium]))
    hidden = mean_time(pictures[:5], lambda part: explainer.hide([part], 0, [[one] for one in pieces_of(part.medium)]))

    def weigh(part: Part) -> None:
        item = explainer.item([part])
        explainer.weigh([part], 0, item, explainer.answer_of(item))

    captions = mean_time(words, weigh)
    return [
        record.table(
            ("what", "value", "asked"),
            [
                ("places and rest against the heads' output, largest difference", f"{error:.1e}", "1e-4"),
                ("shares of modalities against the evidence, largest difference", f"{shares_error:.1e}", "exact"),
                ("exact map of a picture beside its encoding, ms", f"{1e3 * float(np.median(maps)):.2f}", "1"),
                ("encoding of a picture, ms", f"{1e3 * encode:.1f}", ""),
                ("words of a caption, ms", f"{1e3 * captions:.1f}", "50"),
                ("occlusion of a picture by 49 places, ms", f"{1e3 * hidden:.0f}", "1000"),
            ],
        )
    ]


def mean_time(parts: Sequence[Part], work: Callable[[Part], object]) -> float:
    """Seconds of the processor a medium, without the first, which loads the network."""
    work(parts[0])
    begin = time.process_time()
    for part in parts[1:]:
        work(part)
    return (time.process_time() - begin) / (len(parts) - 1)


if __name__ == "__main__":
    main()
