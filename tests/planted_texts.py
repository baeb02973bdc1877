"""Texts of two kinds that differ by one word, and tables of items."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
