"""The comparison of a network that was trained further with the frozen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chiasm.evaluation.record import Record
from chiasm.types import Modality


@dataclass(frozen=True)
class Score(Record):
    """How well held-out items are recognised."""

    f1_macro: float
    accuracy: float
    brier: float  # at the best temperature; 0 is perfect


@dataclass(frozen=True)
class TunedPart(Record):
    """One network: what training it further brought on items that were held out of it."""

    modality: Modality
    encoder: str  # that it was trained from
    trained: str  # which part of it, in words
    items: int  # of the target, learned from and measured on in turn
    source_items: int
    left_out: int  # items whose file could not be opened
    folds: int
    frozen: Score  # of a recogniser on frozen features
    tuned: Score  # of the same on what the network of each item's fold gives, which did not see it
    better_by: float  # Brier score, above 0: better
    standard_error: float  # of that
    is_better: bool
    is_kept: bool  # better; or, with a target that has no labels to measure by, not worse
    words: str
    target: str  # why it is not learned from, or empty
    seconds: float
    items_per_second: float  # learned from, with what the frozen part gives stored
    batch_size: int  # items at a time
    history: tuple[tuple[Mapping[str, float], ...], ...]  # what was logged, by fold
