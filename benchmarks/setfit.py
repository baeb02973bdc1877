"""SetFit on the captions of the stamps: the same text encoder fine-tuned on few labels, beside `fit`, frozen and with its last rung.

SetFit (Tunstall et al. 2022, arXiv:2209.11055) with its own defaults: one epoch of contrastive pairs, then its logistic head.
It never sees the names of the classes. `fit` does unless told not to, so it is there in both ways. Nothing else here needs
SetFit; 1.2 runs beside our pins from a folder of its own:

    pip install --target peers --no-deps setfit==1.2.0 datasets evaluate dill multiprocess xxhash aiohttp aiohappyeyeballs \
        aiosignal frozenlist multidict yarl propcache attrs
    PYTHONPATH=peers python -m benchmarks.setfit --write
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import read_rows, say, stamps_table, write_rows
from benchmarks.few_shot import macro_f1
from chiasm.demo import SMALLEST_CLASS
from chiasm.encoders.offline import text_folder
from chiasm.evaluation.intervals import paired_difference
from chiasm.splits import few_shot_split

SEEDS = range(3)
SHOTS = (2, 5)
MINUTES = 10.0  # that the last rung of `fit` may take; it takes less than one
WAYS: dict[str, dict[str, Any]] = {
    "fit": {},
    "fit, no names": {"names": False},
    "fit --finetune": {"finetune": MINUTES},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        every = read_rows(stamps_table(work))
        sizes = {
            category: sum(row["category"] == category for row in every)
            for category in {row["category"] for row in every}
        }
        kept = [row for row in every if row["category"] != "symbols" and sizes[row["category"]] >= SMALLEST_CLASS]
        stamps = [{name: row[name] for name in ("id", "text", "category")} for row in kept]
        rows = [_measure(stamps, shots, work) for shots in SHOTS]
    columns = (
        "shots", "SetFit", *(f"`{way}`" for way in WAYS), "`fit` - SetFit", "standard error", "networks kept of 3",
        "s, SetFit", "s, `fit`", "s, `fit --finetune`",
    )  # fmt: skip
    record.write("setfit", "SetFit on captions", "0 to 2", "Macro-F1 on the rest.\n\n" + record.table(columns, rows))


def _measure(stamps: list[dict[str, str]], shots: int, work: Path) -> list[object]:
    """Return a row: the mean scores of all ways at so many shots a class."""
    categories = np.array([row["category"] for row in stamps])
    scores: dict[str, list[float]] = {name: [] for name in ("SetFit", *WAYS)}
    seconds: dict[str, list[float]] = {name: [] for name in scores}
    kept = 0
    for seed in SEEDS:
        split = few_shot_split(categories, shots, seed=seed)
        train, test = ([stamps[row] for row in rows] for rows in (split.train, split.test))
        begin = time.perf_counter()
        scores["SetFit"].append(macro_f1(categories[split.test], _setfit(train, test, seed)))
        seconds["SetFit"].append(time.perf_counter() - begin)
        sides = [work / f"{side}-{shots}-{seed}" for side in ("train", "test")]
        for side, own in zip(sides, (train, test), strict=True):
            chiasm.add([write_rows(side.with_suffix(".csv"), own)], to=side)
        for way, options in WAYS.items():
            begin = time.perf_counter()
            model = work / f"model-{shots}-{seed}"
            result = chiasm.fit(sides[0], label="category", out=model, alike=1.01, seed=seed, device="cpu", **options)
            seconds[way].append(time.perf_counter() - begin)
            if result.encoder:
                kept += 1
                chiasm.reembed(sides[1], encoder=result.encoder)
            found = chiasm.evaluate(model, collection=sides[1], label="category")
            scores[way].append(float(found.metrics["f1_macro"]))
        say(f"{shots} shots, seed {seed}: " + ", ".join(f"{way} {values[-1]:.3f}" for way, values in scores.items()))
    difference = paired_difference(np.array(scores["fit"]), np.array(scores["SetFit"]))
    means = [float(np.mean(values)) for values in scores.values()]
    took = [round(float(np.mean(seconds[way])), 1) for way in ("SetFit", "fit", "fit --finetune")]
    return [shots, *means, difference.mean, difference.standard_error, kept, *took]


def _setfit(train: list[dict[str, str]], test: list[dict[str, str]], seed: int) -> np.ndarray:
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    labels = sorted({row["category"] for row in train})
    model = SetFitModel.from_pretrained(str(text_folder()), labels=labels)
    known = {"text": [row["text"] for row in train], "label": [row["category"] for row in train]}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(output_dir=folder, seed=seed, report_to="none")
        Trainer(model, args=arguments, train_dataset=Dataset.from_dict(known)).train()
    return np.asarray(model.predict([row["text"] for row in test]))


if __name__ == "__main__":
    main()
