"""Macro-F1 of the stamps' pictures in folds: of `fit`'s recogniser on frozen features, and of what a plain script trains.

The script takes the same network: `transformers.Trainer`, all weights, AdamW at 5e-5, a linear layer on top, no changed copies, no
start from a probe and no averaging. It takes minutes a fold, so there is one seed.
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
from benchmarks.corpora import say
from benchmarks.finetune import labelled_stamps
from chiasm import encoders
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

SEEDS, FOLDS, EPOCHS = (0,), 3, 6


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        body = _measured(labelled_stamps(Path(folder)), Path(folder))
    record.write("finetune_plain", "Fine-tuning by a plain script", ", ".join(map(str, SEEDS)), body)


def _measured(collection: Path, work: Path) -> str:
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
    for seed in SEEDS:
        guesses = {"frozen": np.empty_like(codes), "plain": np.empty_like(codes)}
        seconds = 0.0
        for split in grouped_stratified_folds(codes, FOLDS, seed=seed, groups=data.groups):
            model = Recognizer(unknown=None, random_state=seed).fit(
                data.arrays.take(split.train), data.labels[split.train], data.groups[split.train], names=names
            )
            found = model.predict(data.arrays.take(split.test))
            guesses["frozen"][split.test] = np.searchsorted(categories, found)
            begin = time.process_time()
            guesses["plain"][split.test] = _trained(encoder, pictures, codes, split, work / "plain", seed)
            seconds += time.process_time() - begin
        scores = [f1_score(codes, guess, average="macro") for guess in guesses.values()]
        table.append([seed, len(codes), *map(float, scores), round(seconds)])
        say(f"plain script, seed {seed}: {scores}")
    columns = (
        "stamps, image, seed",
        "items",
        f"`Recognizer`, {FOLDS} folds, macro-F1",
        "plain `Trainer`",
        "CPU s",
    )
    return record.table(columns, table)


def _trained(
    encoder: Encoder, pictures: Sequence[Media], codes: np.ndarray, split: Split, folder: Path, seed: int
) -> np.ndarray:
    """Train the whole network with a linear layer as such scripts do, and return the classes of the fold."""
    transformers.set_seed(seed)
    tower = tower_of(encoder, "image", tower_of(encoder, "image", None).blocks)
    stored = [array for at in range(0, len(pictures), 64) for array in tower.stored(pictures[at : at + 64])]
    width = tower(**stack(stored[:1])).shape[1]
    model = _Classifier(tower, nn.Linear(width, int(codes.max()) + 1))
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), num_train_epochs=EPOCHS, per_device_train_batch_size=32, learning_rate=5e-5,
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
    return np.asarray(np.argmax(scores, axis=1))


class _Classifier(nn.Module):
    """A network, a linear layer, cross-entropy."""

    def __init__(self, network: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.network, self.head = network.requires_grad_(True), head

    def forward(self, labels: Tensor, **arrays: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.network(**arrays))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


if __name__ == "__main__":
    main()
