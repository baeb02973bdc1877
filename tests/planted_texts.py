"""Texts of two kinds that differ by one word, and tables of items."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import save_bert

import chiasm

KINDS = {"animal": ["cat", "dog"], "thing": ["mat", "photo"]}
AROUND = ["a", "the", "red", "big", "of", "on"]


def draw_text(kind: str, rng: np.random.Generator, around: int = 4) -> str:
    """Return a text with a word of its kind in the middle of so many that say nothing."""
    words = [str(word) for word in rng.choice(AROUND, around)]
    return " ".join([*words[: around // 2], str(rng.choice(KINDS[kind])), *words[around // 2 :]])


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as a CSV file."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def texts_of_two_kinds(folder: Path, others: Callable[[int, str, str], Mapping[str, Any]]) -> Path:
    """Return a collection of 48 texts, embedded by a network that knows nothing yet.

    Args:
        folder: for it, its table and the network.
        others: gives the columns beside `text` and `kind`, by the item's number, its kind and its text.
    """
    torch.manual_seed(0)
    save_bert(folder / "bert")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(48):
        kind = ["animal", "thing"][number % 2]
        text = draw_text(kind, rng)
        rows.append({"text": text, "kind": kind, **others(number, kind, text)})
    collection = folder / "collection"
    chiasm.add([write_table(folder / "table.csv", rows)], to=collection, encoder=str(folder / "bert"))
    return collection
