"""`chiasm finetune --pairs` through the verbs: emoji of two vendors learned from, those of a third searched by their names.

The third vendor's pairs are never learned from: the space that the two vendors' pairs teach `align` is used there
(`--space`), with frozen and with fine-tuned encoders. A sixth of the emoji is learned from. Of the third vendor
two galleries are searched: the same emoji, drawn otherwise, and another sixth, of which nothing was learned.
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
SOURCES, TARGET = ("google", "twitter"), "apple"
PARTS = 6  # of the emoji, of which one is learned from, so that a run takes minutes
GALLERIES = {"the same emoji": 0, "other emoji": 1}
OPTIONS: dict[str, Any] = {"views": 1, "epochs": 4, "folds": 2, "keep": True, "device": "cpu"}
DIRECTIONS = ("text_to_image", "image_to_text")


def main() -> None:
    table: list[list[object]] = []
    gains: dict[str, list[float]] = {name: [] for name in GALLERIES}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            work = Path(folder) / str(seed)
            source, target = _collections(work, seed)
            frozen = _searched(source, target)
            begin = time.process_time()
            result = chiasm.finetune(
                source, pairs=("image", "text"), out=work / "encoder", seed=seed, on_message=say, **OPTIONS
            )
            seconds = time.process_time() - begin
            for collection in (source, target):
                chiasm.reembed(collection, encoder=str(work / "encoder"))
            tuned = _searched(source, target)
            assert result.pairs is not None
            for name in GALLERIES:
                gains[name].append(float(np.mean(tuned[name]) - np.mean(frozen[name])))
                verdict = "yes" if result.pairs.is_better else "no"
                table.append([seed, name, result.pairs.pairs, *frozen[name], *tuned[name], verdict, round(seconds)])
                say(str(table[-1]))
            shutil.rmtree(work)
    columns = (
        "seed", f"{TARGET}'s gallery", "pairs learned from", "frozen + kernel, text to image", "image to text",
        "fine-tuned + kernel, text to image", "image to text", "better on held-out pairs of the source", "CPU s",
    )  # fmt: skip
    words = [
        f"{name}: mean gain in hit@10 {np.mean(own):+.3f}, standard error {np.std(own, ddof=1) / np.sqrt(len(own)):.3f}."
        for name, own in gains.items()
    ]
    body = [
        f"Learned from {' and '.join(SOURCES)}, searched in {TARGET}; hit@10.",
        "",
        record.table(columns, table),
        "",
        *words,
    ]
    record.write("finetune_pairs", "Fine-tuning on pairs", ", ".join(map(str, SEEDS)), "\n".join(body))


def _collections(work: Path, seed: int) -> tuple[Path, Path]:
    """Return the pairs of the two vendors as one collection, and the third vendor's with the gallery that each is of."""
    rows: dict[str, list[dict[str, str]]] = {}
    for vendor in (*SOURCES, TARGET):
        rows[vendor] = []
        for row in read_rows(emoji_table(vendor, work)):
            part = hashlib.sha256(f"{seed} {row['text']}".encode()).digest()[0] % PARTS
            gallery = next((name for name, number in GALLERIES.items() if number == part), None)
            if gallery is not None and (vendor == TARGET or part == GALLERIES["the same emoji"]):
                rows[vendor].append({**row, "id": f"{vendor} {row['id']}", "gallery": gallery})
    source, target = work / "source", work / "target"
    chiasm.add([write_rows(work / f"of-{vendor}.csv", rows[vendor]) for vendor in SOURCES], to=source)
    chiasm.add([write_rows(work / f"of-{TARGET}.csv", rows[TARGET])], to=target)
    return source, target


def _searched(source: Path, target: Path) -> dict[str, tuple[float, float]]:
    """Return hit@10 both ways by gallery, in the space that the pairs of the source teach."""
    chiasm.align(source)
    hits = {}
    for name in GALLERIES:
        result = chiasm.evaluate(
            target, pairs=("image", "text"), space=str(source / "spaces" / "aligned"), where=f"gallery = '{name}'"
        )
        first, second = (float(result.metrics[direction]["hit@10"]) for direction in DIRECTIONS)
        hits[name] = (first, second)
    return hits


if __name__ == "__main__":
    main()
