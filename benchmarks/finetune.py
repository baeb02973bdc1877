"""`chiasm finetune` and `fit --finetune` through the verbs: against frozen features, and how fast they learn.

Pictures and captions are the Tux Paint stamps: `fit` with and without its last rung; not better is a good answer there. Beside the
pictures stands what a plain script makes of the same network: `transformers.Trainer`, all weights, AdamW at 5e-5, a linear layer on
top, no changed copies, no start from a probe and no averaging. Over to another domain: `finetune_transfer`. Time is the processor's,
one thread.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from sklearn.metrics import f1_score
from torch import Tensor, nn

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, read_rows, say, stamps_table, write_rows
from chiasm import encoders
from chiasm.demo import SMALLEST_CLASS
from chiasm.encoders.base import Encoder, first_of
from chiasm.finetuning.items import stack
from chiasm.finetuning.towers import tower_of
from chiasm.recognition import Recognizer
from chiasm.splits import Split, grouped_stratified_folds
from chiasm.store.reembed import items_of
from chiasm.types import Media
from chiasm.verbs.climb import open_medium
from chiasm.verbs.dataset import class_names, labelled_items
from chiasm.verbs.spaces import start_of

SEEDS = (0, 1, 2)
PLAIN_SEEDS, PLAIN_FOLDS, PLAIN_EPOCHS = SEEDS[:1], 3, 6  # of the plain script, which takes minutes a fold
MINUTES = 10.0  # that the last rung of `fit` may take; it takes one or two


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        body = [*_stamps(work), "", *_plain(work / "stamps", work), "", *_rate(work)]
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


def _plain(collection: Path, work: Path) -> list[str]:
    """Macro-F1 of the stamps' pictures in folds: of `fit`'s recogniser on frozen features, and of a plain script."""
    opened = chiasm.Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device="cpu")
    space = start_of(opened, networks)
    data = labelled_items(opened, networks, space, ["category"], modalities=["image"])
    categories, codes = np.unique(data.labels, return_inverse=True)
    names = class_names(categories.tolist(), space, networks, data.arrays)
    items = items_of(opened)
    encoder = first_of(networks)["image"]
    pictures = [open_medium(items[item], "image", encoder) for item in data.ids]
    table = []
    for seed in PLAIN_SEEDS:
        guesses = {"frozen": np.empty_like(codes), "plain": np.empty_like(codes)}
        seconds = 0.0
        for split in grouped_stratified_folds(codes, PLAIN_FOLDS, seed=seed, groups=data.groups):
            model = Recognizer(unknown=None, random_state=seed).fit(
                data.arrays.take(split.train), data.labels[split.train], data.groups[split.train], names=names
            )
            found = model.predict(data.arrays.take(split.test))
            guesses["frozen"][split.test] = np.searchsorted(categories, found)
            begin = time.process_time()
            guesses["plain"][split.test] = _plain_script(encoder, pictures, codes, split, work / "plain", seed)
            seconds += time.process_time() - begin
        scores = [f1_score(codes, guess, average="macro") for guess in guesses.values()]
        table.append([seed, len(codes), *map(float, scores), round(seconds)])
        say(f"plain script, seed {seed}: {scores}")
    columns = (
        "stamps, image, seed",
        "items",
        f"`Recognizer`, {PLAIN_FOLDS} folds, macro-F1",
        "plain `Trainer`",
        "CPU s",
    )
    return [record.table(columns, table)]


def _plain_script(
    encoder: Encoder, pictures: Sequence[Media], codes: np.ndarray, split: Split, folder: Path, seed: int
) -> np.ndarray:
    """Train the whole network with a linear layer as such scripts do, and return the classes of the fold."""
    transformers.set_seed(seed)
    tower = tower_of(encoder, "image", tower_of(encoder, "image", None).blocks)
    stored = [array for at in range(0, len(pictures), 64) for array in tower.stored(pictures[at : at + 64])]
    width = tower(**stack(stored[:1])).shape[1]
    model = _Plain(tower, nn.Linear(width, int(codes.max()) + 1))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=PLAIN_EPOCHS, per_device_train_batch_size=32, learning_rate=5e-5,
        save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, remove_unused_columns=False, seed=seed,
    )  # fmt: skip
    items = [{**arrays, "labels": code} for arrays, code in zip(stored, codes, strict=True)]
    learned, held = ([items[row] for row in rows] for rows in (split.train, split.test))

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        labels = torch.tensor([int(one["labels"]) for one in batch])
        return stack([{name: array for name, array in one.items() if name != "labels"} for one in batch]) | {
            "labels": labels
        }

    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=cast("Any", learned), data_collator=collate
    )
    trainer.train()
    scores: Any = trainer.predict(cast("Any", held)).predictions
    return np.asarray(scores).argmax(axis=1)


class _Plain(nn.Module):
    """A network, a linear layer, cross-entropy."""

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.network, self.head = network.requires_grad_(True), head

    def forward(self, labels: Tensor, **arrays: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.network(**arrays))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


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
