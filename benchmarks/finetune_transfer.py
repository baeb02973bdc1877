"""`chiasm finetune` over to another domain: Google's emoji, learned on one half of them, recognised among Apple's other half.

With and without `fit --target`, which takes the unlabelled items of the target. Time is the processor's, one thread.
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
from benchmarks.corpora import emoji_table, read_rows, say, write_rows

SEEDS = (0, 1, 2)
# Chosen on Google's and Facebook's emoji, and for the time that a thousand items may take.
RECIPE: dict[str, Any] = {
    "blocks": 2, "views": 2, "epochs": 6, "folds": 2, "patience": 0, "average": 1.0, "keep": True
}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        body = _measured(Path(folder))
    record.write("finetune_transfer", "Fine-tuning on a source", ", ".join(map(str, SEEDS)), "\n".join(body))


def _measured(work: Path) -> list[str]:
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
        begin = time.process_time()
        result = chiasm.finetune(
            collections["google"], label="category", out=work / f"{seed}", modalities=["image"], seed=seed, device="cpu",
            **RECIPE,
        )  # fmt: skip
        seconds = time.process_time() - begin
        say(result.parts[0].words)
        for collection in collections.values():
            chiasm.reembed(collection, encoder=str(work / f"{seed}"))
        accuracy["fine-tuned"] = _transferred(collections, work)
        accuracy["fine-tuned, moved"] = _transferred(collections, work, adapted=True)
        gains.append([accuracy[name] - accuracy["frozen"] for name in accuracy])
        table.append([seed, *accuracy.values(), round(seconds)])
        for collection in collections.values():
            shutil.rmtree(collection)
    columns = (
        "google to apple, seed", "frozen, accuracy", "frozen, `fit --target`", "fine-tuned on google", "and `fit --target`", "CPU s",
    )  # fmt: skip
    means, errors = np.mean(gains, axis=0), np.std(gains, axis=0, ddof=1) / np.sqrt(len(gains))
    told = [
        f"{name} {mean:+.3f} (standard error {error:.3f})"
        for name, mean, error in zip(columns[2:5], means[1:], errors[1:], strict=True)
    ]
    return [record.table(columns, table), "", f"Mean gain over frozen: {', '.join(told)}."]


def _transferred(collections: dict[str, Path], work: Path, *, adapted: bool = False) -> float:
    """Return the accuracy on Apple's emoji of a model fitted on Google's, also on where these go among Apple's."""
    target = collections["apple"] if adapted else None
    chiasm.fit(collections["google"], label="category", out=work / "transferred", modalities=["image"], target=target)
    result = chiasm.evaluate(work / "transferred", collection=collections["apple"], label="category")
    return float(result.metrics["accuracy"])


def _half(name: str, seed: int) -> int:
    """Return the half that an emoji is in, the same for every vendor."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()[0] % 2


if __name__ == "__main__":
    main()
