"""`chiasm finetune` through the verb: against frozen features, over to another domain, and how fast it learns.

Pictures and captions are the Tux Paint stamps (not better is a good answer there), and Google's emoji, learned on one half of the
emoji and recognised among Apple's other half. Time is the processor's, one thread.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, say, stamps_table
from chiasm.demo import SMALLEST_CLASS

SEEDS = (0, 1, 2)
EMOJI: dict[str, Any] = {"views": 1, "epochs": 4, "folds": 2, "keep": True}  # a thousand items: fewer copies of each


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        body = [*_stamps(work), "", *_emoji(work), "", *_rate(work)]
    record.write("finetune", "Fine-tuning the encoder", ", ".join(map(str, SEEDS)), "\n".join(body))


def _stamps(work: Path) -> list[str]:
    """Frozen against fine-tuned on the same folds, as the verb reports them."""
    rows = _rows(stamps_table(work))
    sizes = {name: sum(row["category"] == name for row in rows) for name in {row["category"] for row in rows}}
    kept = [row for row in rows if row["category"] != "symbols" and sizes[row["category"]] >= SMALLEST_CLASS]
    collection = work / "stamps"
    chiasm.add([_write(work / "stamps.csv", kept)], to=collection)
    table = []
    for modality in ("image", "text"):
        for seed in SEEDS:
            begin = time.process_time()
            result = chiasm.finetune(
                collection,
                label="category",
                out=work / f"{modality}-{seed}",
                modalities=[modality],
                seed=seed,
                device="cpu",
            )
            part, seconds = result.parts[0], time.process_time() - begin
            done = len(part.history)
            table.append(
                [
                    modality, seed, part.items, part.frozen.f1_macro, part.tuned.f1_macro,
                    f"{part.better_by:+.3f} ± {part.standard_error:.3f}", "yes" if result.encoder else "no", part.folds,
                    round(seconds), round(seconds / done),
                ]
            )  # fmt: skip
            say(part.words)
    columns = (
        "stamps", "seed", "items", "frozen, macro-F1", "fine-tuned", "Brier score better by", "written", "measured",
        "CPU s", "CPU s a network",
    )  # fmt: skip
    return [record.table(columns, table)]


def _emoji(work: Path) -> list[str]:
    """Accuracy on Apple's emoji of models that learned from Google's other emoji, by frozen and by fine-tuned features."""
    table, gains = [], []
    for seed in SEEDS:
        collections = {}
        for vendor, side in (("google", 0), ("apple", 1)):
            rows = [row for row in _rows(emoji_table(vendor, work)) if _half(row["id"], seed) == side]
            collections[vendor] = work / f"{vendor}-{seed}"
            chiasm.add([_write(work / f"{vendor}-{seed}.csv", rows)], to=collections[vendor])
        frozen = _transferred(collections, work / f"frozen-{seed}")
        begin = time.process_time()
        encoder = work / f"emoji-{seed}"
        result = chiasm.finetune(
            collections["google"], label="category", out=encoder, modalities=["image"], seed=seed, device="cpu", **EMOJI
        )
        seconds = time.process_time() - begin
        say(result.parts[0].words)
        for collection in collections.values():
            chiasm.reembed(collection, encoder=str(encoder))
        tuned = _transferred(collections, work / f"tuned-{seed}")
        gains.append(tuned - frozen)
        table.append(
            [seed, result.parts[0].items, frozen, tuned, "yes" if result.parts[0].is_better else "no", round(seconds)]
        )
        for collection in collections.values():
            shutil.rmtree(collection)
    columns = (
        "google to apple, seed",
        "items learned from",
        "frozen, accuracy",
        "fine-tuned",
        "better on google's own",
        "CPU s",
    )
    error = np.std(gains, ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("nan")
    return [record.table(columns, table), "", f"Mean gain {np.mean(gains):+.3f}, standard error {error:.3f}."]


def _transferred(collections: dict[str, Path], model: Path) -> float:
    chiasm.fit(collections["google"], label="category", out=model, modalities=["image"])
    result = chiasm.evaluate(model, collection=collections["apple"], label="category")
    return float(result.metrics["accuracy"])


def _rate(work: Path) -> list[str]:
    """Items a second while learning, by the clock: behind a stored prefix, and the whole network."""
    rows = [row for number, row in enumerate(_rows(emoji_table("google", work))) if number % 16 == 0]
    collection = work / "rate"
    chiasm.add([_write(work / "rate.csv", rows)], to=collection)
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


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


if __name__ == "__main__":
    main()
