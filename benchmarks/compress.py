"""EfficientNet-Lite0 made smaller by `chiasm compress` on the stamps, beside int8 and beside weights that are only zero.

The network learns from four fifths of the stamps' pictures, without labels; cosine and macro-F1 are of the other fifth, which is also
where the verb would refuse. Macro-F1 over all stamps is more exact and less strict, since most of the pictures (not their labels)
were learned from: a linear probe in 3 folds, dealt with seeds for development. No emoji was learned from. Nothing is chosen by any of
these numbers.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, read_rows, say, stamps_table, write_rows
from benchmarks.graphs import probe
from chiasm import encoders, media
from chiasm.demo import SMALLEST_CLASS
from chiasm.encoders import Encoder, offline
from chiasm.encoders.base import first_of
from chiasm.encoders.networks import efficientnet_lite0
from chiasm.encoders.runtime import Graph, Network
from chiasm.predict_script import SIDE
from chiasm.types import Image
from chiasm.verbs.compress import speeds

SPEEDUPS = (1.5, 2.0, 1.25)
EMOJI = 500
ZEROS = 0.5


def main() -> None:
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stamps = [{**row, "text": ""} for row in read_rows(stamps_table(folder)) if row["category"] != "symbols"]
        emoji = [row for row in read_rows(emoji_table("google", folder)) if row["category"] != "Symbols"]
        drawn = np.random.default_rng(0).permutation(len(emoji))[:EMOJI]
        corpora = {"stamps": opened(stamps), "emoji": opened([emoji[row] for row in drawn])}
        chiasm.add([write_rows(folder / "pictures.csv", stamps)], to=folder / "stamps")
        whole = first_of(encoders.resolve("offline", device="cpu"))["image"]
        wholes = scores(whole, corpora)
        for speedup in SPEEDUPS:
            out = folder / f"{speedup}"
            report = chiasm.compress(
                "offline", to=out, on=folder / "stamps", speedup=speedup, modality="image", label="category", keep=True, device="cpu", on_message=say,
            )  # fmt: skip
            for form in report.forms if not rows else report.forms[2:]:
                small = form.name.startswith("compressed")
                network = first_of(encoders.resolve(f"{out}" if small else "offline", device="cpu"))["image"]
                over = scores(network, corpora) if form.name == "compressed" else {}
                over = wholes if form.name == "whole" else over
                beside = [f"{over[one]:.3f} ({over[one] - wholes[one]:+.3f})" if over else "" for one in corpora]
                size = "" if form.megabytes is None else f"{form.megabytes:.1f}"
                asked = f"{speedup:g}, " if small else ""
                close = f"{form.cosine:.3f} ({form.lowest:.3f})"
                rows.append([f"{asked}{form.name}", size, f"{form.speed:.2f}", close, f"{form.f1_macro:.3f}", *beside])
            say(str(rows[-2:]))
        rows.append([f"{ZEROS:g} of the 1 x 1 weights zero", *zeros(corpora)])
    columns = (
        "form", "MB", "times as fast", "held-out cosine (least)", "macro-F1, held out", "macro-F1, stamps (difference)",
        "macro-F1, emoji (difference)",
    )  # fmt: skip
    said = (
        f"{report.items} pictures learned from without labels, with the defaults of the verb, {report.held_out} held out; "
        f"standard error of the whole network's macro-F1 on these {report.standard_error:.3f}. Emoji: {EMOJI}, none learned from. "
        f"Load {os.getloadavg()[0]:.1f}."
    )
    record.write(
        "compress",
        "A smaller network by pruning and distillation",
        "0; folds: 100 to 104",
        record.table(columns, rows) + f"\n\n{said}",
    )


def opened(rows: list[dict[str, str]]) -> tuple[list[Image], np.ndarray]:
    """Pictures of classes that are large enough for a probe, and the classes."""
    names, sizes = np.unique([row["category"] for row in rows], return_counts=True)
    large = set(names[sizes >= SMALLEST_CLASS])
    pictures, labels = [], []
    for row in rows:
        if row["category"] in large:
            picture = media.load(Path(row["image"]), image_size=SIDE)
            assert isinstance(picture, Image)
            pictures.append(picture)
            labels.append(row["category"])
    return pictures, np.array(labels)


def scores(network: Encoder, corpora: dict[str, tuple[list[Image], np.ndarray]]) -> dict[str, float]:
    """Macro-F1 of a probe in folds."""
    return {
        name: float(probe(network.encode(pictures).vectors, labels).mean())
        for name, (pictures, labels) in corpora.items()
    }


def zeros(corpora: dict[str, tuple[list[Image], np.ndarray]]) -> list[str]:
    """The whole network with the smallest weights of its 1 x 1 convolutions at zero: what sparsity alone buys."""
    whole = offline.ImageEncoder(offline.image_weights(), offline.class_names(), device="cpu")
    weights = dict(whole.weights())
    for name, array in weights.items():
        if array.ndim == 4 and array.shape[2:] == (1, 1):
            weights[name] = np.where(np.abs(array) < np.quantile(np.abs(array), ZEROS), 0, array).astype(np.float32)
    sparse = offline.ImageEncoder(offline.image_weights(), offline.class_names(), device="cpu")
    graph = Graph(
        "efficientnet-lite0-zeros", f"{ZEROS}".encode().hex(), lambda: efficientnet_lite0(weights), offline.DIM
    )
    sparse._network = Network(graph, device="cpu")
    before, after = scores(whole, corpora), scores(sparse, corpora)
    pictures = corpora["stamps"][0][:32]
    speed = speeds({"whole": whole, "zeros": sparse}, "image", pictures)["zeros"]
    return ["13.4", f"{speed:.2f}", "", "", *(f"{after[one]:.3f} ({after[one] - before[one]:+.3f})" for one in corpora)]


if __name__ == "__main__":
    main()
