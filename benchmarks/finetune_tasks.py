"""One network that learns several columns, against one network a column, through `chiasm finetune`: emoji of one vendor.

What is learned of a picture is its category (classes), its kind (classes, finer), the frequent words of its name (labels) and
the version of Unicode that it came with (a number). A third of the emoji is taken, so that a run takes minutes. All are measured
on the items that a network's fold held out, by the recogniser that `finetune` judges by: of all columns, or of the one, which knows
the names of its classes. So either network is compared with frozen features as its own recogniser sees them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import EMOJI_VERSION, emoji_table, read_rows, say, write_rows
from chiasm.encoders.cache import cache_folder
from chiasm.finetuning.results import TunedColumn

SEEDS = (0, 1, 2)
VENDOR = "google"
PARTS = 3  # of the emoji, of which one is taken
FEWEST = 10  # emoji with a word, or of a kind
COLUMNS = ("category", "kind", "words", "version")
# As in `benchmarks.finetune`, for the time that a run may take.
OPTIONS: dict[str, Any] = {"views": 2, "epochs": 6, "folds": 2, "patience": 0, "average": 1.0, "keep": True}


def main() -> None:
    scores: dict[str, dict[str, list[float]]] = {column: {} for column in COLUMNS}
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    table, verdicts = [], []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for seed in SEEDS:
            collection, items = _collection(work, seed)
            begin = time.process_time()
            together = _tuned(collection, COLUMNS, work / f"together-{seed}", seed)
            seconds["together"].append(time.process_time() - begin)
            begin = time.process_time()
            apart = {
                column: _tuned(collection, (column,), work / f"{column}-{seed}", seed)[column] for column in COLUMNS
            }
            seconds["apart"].append(time.process_time() - begin)
            verdicts.append(f"seed {seed}: {items} emoji")
            for column, own in scores.items():
                every = {
                    "frozen": apart[column].frozen,
                    "frozen, all columns": together[column].frozen,
                    "one network a column": apart[column].tuned,
                    "one network": together[column].tuned,
                }
                for way, score in every.items():
                    own.setdefault(way, []).append(score.loss)
                table.append([seed, column, *(score.f1_macro or score.r2 for score in every.values())])
    columns = (
        "seed",
        "column",
        "macro-F1, or R² of the version: frozen",
        "frozen, recogniser of all columns",
        "one network a column",
        "one network of all",
    )
    gains = [[column, *_gains(own)] for column, own in scores.items()]
    heads = (
        "column", "loss, frozen", "lower by one network a column", "loss, frozen, recogniser of all", "lower by one network of all",
        "difference of the gains", "standard error over seeds",
    )  # fmt: skip
    took = ", ".join(f"{way} {np.mean(values):.0f}" for way, values in seconds.items())
    body = [record.table(columns, table), "", record.table(heads, gains), ""]
    body.append(f"{'; '.join(verdicts)}. CPU seconds, mean over the seeds: {took}.")
    record.write("finetune_tasks", "One network for several columns", ", ".join(map(str, SEEDS)), "\n".join(body))


def _collection(work: Path, seed: int) -> tuple[Path, int]:
    """Return a collection of a third of the emoji, and how many these are."""
    root = cache_folder() / "npm" / f"emoji-datasource-{VENDOR}-{EMOJI_VERSION}"
    rows = read_rows(emoji_table(VENDOR, work))
    added = {one["unified"]: one["added_in"] for one in json.loads((root / "emoji.json").read_text(encoding="utf-8"))}
    some = [row for row in rows if hashlib.sha256(f"{seed} {row['id']}".encode()).digest()[0] % PARTS == 0]
    kinds = Counter(row["kind"] for row in some)
    words = Counter(word for row in some for word in _words(row))
    table = []
    for row in some:
        own = {
            "category": row["category"],
            "kind": row["kind"] if kinds[row["kind"]] >= FEWEST else "",
            "words": json.dumps([word for word in _words(row) if words[word] >= FEWEST]),
            "version": added[row["id"]],
        }
        table.append({"id": row["id"], "image": row["image"], **own})
    collection = work / f"emoji-{seed}"
    chiasm.add([write_rows(work / f"emoji-{seed}.csv", table)], to=collection)
    return collection, len(table)


def _words(row: Mapping[str, str]) -> list[str]:
    return sorted({word for word in row["text"].replace("-", " ").split() if word.isalpha() and len(word) > 3})


def _tuned(collection: Path, columns: tuple[str, ...], out: Path, seed: int) -> dict[str, TunedColumn]:
    result = chiasm.finetune(
        collection, label=columns, out=out, modalities=["image"], seed=seed, device="cpu", on_message=say, **OPTIONS
    )
    return {one.column: one for one in result.parts[0].columns}


def _gains(own: Mapping[str, list[float]]) -> list[float]:
    """Return the losses of frozen features, by how much either network's is lower, and by how much more one network's is."""
    frozen, frozen_all, apart, together = (np.array(values) for values in own.values())
    gains = frozen - apart, frozen_all - together
    more = gains[1] - gains[0]
    means = [float(one.mean()) for one in (frozen, gains[0], frozen_all, gains[1], more)]
    return [*means, float(more.std(ddof=1) / np.sqrt(len(more)))]


if __name__ == "__main__":
    main()
