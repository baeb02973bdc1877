"""The comparison of networks that were trained further with the frozen ones."""

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


@dataclass(frozen=True)
class TunedPairs(Record):
    """Two networks: what training them further on pairs brought on pairs that were held out of it."""

    modalities: tuple[Modality, Modality]
    encoders: tuple[str, str]  # that they were trained from
    trained: str  # which part of them, in words
    pairs: int  # of the target, learned from and measured on in turn
    source_pairs: int
    left_out: int  # pairs of which a file could not be opened
    folds: str  # that were measured, in words
    frozen: Mapping[str, float]  # hit@10 by direction, of the frozen embeddings as `align` brings them together
    tuned: Mapping[str, float]
    better_by: float  # hit@10, the mean of both directions
    standard_error: float  # of that, over groups of pairs
    is_better: bool
    words: str
    seconds: float
    pairs_per_second: float  # learned from, with what the frozen parts give stored
    at_once: int  # media that went through a network at a time
    history: tuple[tuple[Mapping[str, float], ...], ...]  # what was logged, by fold
