"""`chiasm finetune` and `fit --finetune` through the verbs: against frozen features, and how fast they learn.

Pictures and captions are the Tux Paint stamps: `fit` with and without its last rung; not better is a good answer there. Over to
another domain: `finetune_transfer`; beside a plain script: `finetune_plain`. Time is the processor's, one thread.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, read_rows, say, stamps_table, write_rows
from chiasm.demo import SMALLEST_CLASS

SEEDS = (0, 1, 2)
MINUTES = 10.0  # that the last rung of `fit` may take; it takes one or two


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        body = [*_stamps(work), "", *_rate(work)]
    record.write("finetune", "Fine-tuning the encoder", ", ".join(map(str, SEEDS)), "\n".join(body))


def _stamps(work: Path) -> list[str]:
    """`fit` with and without the last rung: macro-F1 of held-out items, and what it took."""
    collection = labelled_stamps(work)
    table = []
    for modalities in (("image",), ("text",), ("image", "text")):
        for seed in SEEDS:
            options: dict[str, Any] = {"label": "category", "modalities": modalities, "seed": seed, "device": "cpu"}
            frozen = chiasm.fit(collection, out=work / "frozen", **options)
            begin = time.process_time()
            result = chiasm.fit(collection, out=work / f"{'-'.join(modalities)}-{seed}", finetune=MINUTES, **options)
            seconds = time.process_time() - begin
            scores = [one.metrics["f1_macro"] for one in (frozen, result)]
            kept_parts = sum(": better" in words for words in result.finetuned)
            table.append([" + ".join(modalities), seed, result.items, *scores, kept_parts, round(seconds)])
            say("; ".join(result.finetuned))
    columns = ("stamps", "seed", "items", "fit, macro-F1", "fit --finetune", "networks kept", "CPU s")
    return [record.table(columns, table)]


def labelled_stamps(work: Path) -> Path:
    """A collection of the stamps of all classes that are large enough."""
    rows = read_rows(stamps_table(work))
    sizes = {name: sum(row["category"] == name for row in rows) for name in {row["category"] for row in rows}}
    kept = [row for row in rows if row["category"] != "symbols" and sizes[row["category"]] >= SMALLEST_CLASS]
    collection = work / "stamps"
    chiasm.add([write_rows(work / "stamps.csv", kept)], to=collection)
    return collection


def _rate(work: Path) -> list[str]:
    """Items a second while learning, by the clock: behind a stored prefix, and the whole network."""
    rows = [row for number, row in enumerate(read_rows(emoji_table("google", work))) if number % 16 == 0]
    collection = work / "rate"
    chiasm.add([write_rows(work / "rate.csv", rows)], to=collection)
    rates = {}
    trained: dict[str, dict[str, Any]] = {
        "low-rank changes behind 11 of 16 blocks": {"method": "lora"},
        "everything behind 11 of 16 blocks": {"method": "blocks"},
        "the whole network": {"method": "full"},
    }
    short: dict[str, Any] = {"modalities": ["image"], "views": 0, "mixup": 0.0, "epochs": 2, "folds": 2, "keep": True}
    for name, options in trained.items():
        result = chiasm.finetune(collection, label="category", out=work / name, device="cpu", **short, **options)
        rates[name] = result.parts[0].items_per_second
    whole = rates["the whole network"]
    table = [[name, rate, f"{rate / whole:.1f}"] for name, rate in rates.items()]
    return [record.table(("trained", "items a second", "times the whole network"), table)]


if __name__ == "__main__":
    main()
