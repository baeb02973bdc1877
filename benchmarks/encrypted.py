"""A recogniser of the stamps asked with encrypted embeddings: seconds and bytes an item, and whether the answers are those of the model.

A third of the items is held out. The server is a process of its own on this machine, so the network takes no time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import say, write_rows
from benchmarks.serve import served
from benchmarks.ship import fitted, macro_f1
from chiasm.recognition.encrypted import Key, answer
from chiasm.verbs.model import load_model
from chiasm.verbs.predict import Prediction

TIMES = 30  # an item is asked for


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        learned, test = fitted(folder)
        table = write_rows(folder / "test.csv", test)
        begin = time.perf_counter()
        plain = chiasm.predict(folder / "model", [table]).predictions
        took = time.perf_counter() - begin
        with served(folder / "train", model=folder / "model") as (url, *_):
            begin = time.perf_counter()
            asked = chiasm.predict(url, [table], encrypted=True).predictions
            took_asked = time.perf_counter() - begin
        say("asked")
        body = [
            *answers(test, plain, asked),
            ["seconds an item more than in the clear, over HTTP", (took_asked - took) / len(test), "1.5"],
        ]
        body += parts(folder / "model")
        heads = load_model(folder / "model").recognizer.only_column_.heads
        widths = ", ".join(f"{'+'.join(name)} {head.tensors['coef'].shape[1]:,}" for name, head in heads.items())
        text = f"{learned} items learned from, {len(test)} held out; features of the heads: {widths}, not reduced."
        record.write(
            "encrypted", "Encrypted scoring", "0", record.table(("what", "measured", "asked"), body) + f"\n\n{text}"
        )


def answers(
    test: list[dict[str, str]], plain: tuple[Prediction, ...], asked: tuple[Prediction, ...]
) -> list[list[object]]:
    """Answers beside those of the model itself."""
    true = np.array([row["category"] for row in test])
    said, read = (np.array([one.label for one in both]) for both in (plain, asked))
    apart = max(
        abs(one.probabilities[name] - other.probabilities[name])
        for one, other in zip(plain, asked, strict=True)
        for name in one.probabilities
    )
    return [
        ["macro-F1 of the model", macro_f1(true, said), ""],
        ["macro-F1, encrypted", macro_f1(true, read), "0.01 below"],
        ["labels as the model's", (said == read).mean(), ""],
        ["largest difference of a probability", f"{apart:.1e}", ""],
    ]


def parts(model: Path) -> list[list[object]]:
    """Time and size of each step for the widest head."""
    heads = load_model(model).recognizer.only_column_.heads
    head = max(heads.values(), key=lambda one: one.tensors["coef"].shape[1])
    outputs, width = head.tensors["coef"].shape
    row = np.full(width, width**-0.5)
    key = Key()
    said = answer(head, key.encrypt(row))  # once, for what is made once
    times: dict[str, list[float]] = {"encrypt": [], "answer": [], "decrypt": []}
    for _ in range(TIMES):
        marks = [time.perf_counter()]
        question = key.encrypt(row)
        marks.append(time.perf_counter())
        said = answer(head, question)
        marks.append(time.perf_counter())
        key.decrypt(said, outputs=outputs, width=width)
        marks.append(time.perf_counter())
        for name, seconds in zip(times, np.diff(marks), strict=True):
            times[name].append(float(seconds))
    rows: list[list[object]] = [
        [f"{name}, ms (median)", 1e3 * float(np.median(own)), ""] for name, own in times.items()
    ]
    return [
        *rows,
        ["question, kB", sum(map(len, question)) / 1e3, ""],
        ["answer, kB", sum(map(len, said.parts)) / 1e3, ""],
    ]


if __name__ == "__main__":
    main()
