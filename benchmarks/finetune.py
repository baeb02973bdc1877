"""`chiasm finetune` through the verb: against frozen features, over to another domain, and how fast it learns.

Pictures and captions are the Tux Paint stamps (`fit` with and without its last rung; not better is a good answer there), and
Google's emoji, learned on one half of the emoji and recognised among Apple's other half. Time is the processor's, one thread.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, read_rows, say, stamps_table, write_rows
from chiasm.demo import SMALLEST_CLASS

SEEDS = (0, 1, 2)
# Chosen on Google's and Facebook's emoji, and for the time that a thousand items may take.
EMOJI: dict[str, Any] = {"views": 2, "epochs": 6, "folds": 2, "patience": 0, "average": 1.0, "keep": True}
MINUTES = 10.0  # that the last rung of `fit` may take; it takes one or two


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        body = [*_stamps(work), "", *_emoji(work), "", *_rate(work)]
    record.write("finetune", "Fine-tuning the encoder", ", ".join(map(str, SEEDS)), "\n".join(body))


def _stamps(work: Path) -> list[str]:
    """`fit` with and without the last rung: macro-F1 of held-out items, and what it took."""
    rows = read_rows(stamps_table(work))
    sizes = {name: sum(row["category"] == name for row in rows) for name in {row["category"] for row in rows}}
    kept = [row for row in rows if row["category"] != "symbols" and sizes[row["category"]] >= SMALLEST_CLASS]
    collection = work / "stamps"
    chiasm.add([write_rows(work / "stamps.csv", kept)], to=collection)
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


def _emoji(work: Path) -> list[str]:
    """Accuracy on Apple's emoji of models that learned from Google's other emoji, by frozen and by fine-tuned features."""
    table, gains = [], []
    for seed in SEEDS:
        collections = {}
        for vendor, side in (("google", 0), ("apple", 1)):
            rows = [row for row in read_rows(emoji_table(vendor, work)) if _half(row["id"], seed) == side]
            collections[vendor] = work / f"{vendor}-{seed}"
            chiasm.add([write_rows(work / f"{vendor}-{seed}.csv", rows)], to=collections[vendor])
        accuracy = {
            "frozen": _transferred(collections, work),
            "frozen, moved": _transferred(collections, work, adapted=True),
        }
        seconds = {}
        targets: dict[str, dict[str, Any]] = {"alone": {}, "target": {"target": collections["apple"]}}
        for name, options in targets.items():
            begin = time.process_time()
            result = chiasm.finetune(
                collections["google"], label="category", out=work / f"{name}-{seed}", modalities=["image"], seed=seed,
                device="cpu", **EMOJI, **options,
            )  # fmt: skip
            seconds[name] = time.process_time() - begin
            say(result.parts[0].words)
        for name in targets:
            for collection in collections.values():
                chiasm.reembed(collection, encoder=str(work / f"{name}-{seed}"))
            accuracy[name] = _transferred(collections, work)
            accuracy[f"{name}, moved"] = _transferred(collections, work, adapted=True)
        gains.append([accuracy[name] - accuracy["frozen"] for name in accuracy])
        table.append([seed, *accuracy.values(), *map(round, seconds.values())])
        for collection in collections.values():
            shutil.rmtree(collection)
    columns = (
        "google to apple, seed", "frozen, accuracy", "frozen, `fit --target`", "fine-tuned on google", "and `fit --target`",
        "`finetune --target`", "and `fit --target`", "CPU s without", "CPU s with target",
    )  # fmt: skip
    means, errors = np.mean(gains, axis=0), np.std(gains, axis=0, ddof=1) / np.sqrt(len(gains))
    told = [
        f"{name} {mean:+.3f} (standard error {error:.3f})"
        for name, mean, error in zip(columns[2:7], means[1:], errors[1:], strict=True)
    ]
    return [record.table(columns, table), "", f"Mean gain over frozen: {', '.join(told)}."]


def _transferred(collections: dict[str, Path], work: Path, *, adapted: bool = False) -> float:
    """Return the accuracy on Apple's emoji of a model fitted on Google's, also on where these go among Apple's."""
    target = collections["apple"] if adapted else None
    chiasm.fit(collections["google"], label="category", out=work / "transferred", modalities=["image"], target=target)
    result = chiasm.evaluate(work / "transferred", collection=collections["apple"], label="category")
    return float(result.metrics["accuracy"])


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


def _half(name: str, seed: int) -> int:
    """Return the half that an emoji is in, the same for every vendor."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()[0] % 2


if __name__ == "__main__":
    main()
