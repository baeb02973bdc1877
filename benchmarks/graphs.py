"""The offline networks as graphs of chiasm's own, beside PyTorch's export of the same networks: outputs and speed.

Both are run by ONNX Runtime on one core, with the settings of chiasm, in turns. What counts is the processor's time, since
the machine may be shared.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks import record
from benchmarks.corpora import say
from benchmarks.torch_networks import load_sentence_bert
from chiasm.encoders import offline, runtime
from chiasm.encoders.runtime import Arrays, Blueprint, Network
from chiasm.encoders.tensors import read_tensors
from chiasm.finetuning.networks import load_efficientnet

ROUNDS = 40


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


SHAPES = ((24, 2, 12), (5, 30, 50), (1, 200, 257))  # texts a batch, tokens from, to


def random_pictures(rows: int, generator: np.random.Generator) -> Arrays:
    return {"pixels": generator.integers(0, 256, (rows, offline.SIDE, offline.SIDE, 3), dtype=np.uint8)}


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
