"""The comparison of networks that were trained further with the frozen ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chiasm.evaluation.record import Record
from chiasm.recognition.targets import Kind
from chiasm.types import Modality


@dataclass(frozen=True)
class Score(Record):
    """How well a column of held-out items is recognised; None is what columns of its kind do not have."""

    loss: float  # Brier score of classes, at the best temperature, or labels; of numbers squared error in variances. 0 is perfect
    f1_macro: float | None = None
    accuracy: float | None = None
    r2: float | None = None


@dataclass(frozen=True)
class TunedColumn(Record):
    """One column: how well held-out items are recognised before and after."""

    column: str
    kind: Kind
    frozen: Score  # of a recogniser on frozen features
    tuned: Score  # of the same on what the network of each item's fold gives, which did not see it
    better_by: float  # loss, above 0: better
    standard_error: float  # of that

    @property
    def words(self) -> str:
        """The two numbers that people know."""
        name = "R²" if self.kind == "number" else "macro-F1"
        before, after = (one.r2 if self.kind == "number" else one.f1_macro for one in (self.frozen, self.tuned))
        return (
            "nothing to measure by" if before is None or after is None else f"{name} {after:.2f} against {before:.2f}"
        )


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
    columns: tuple[TunedColumn, ...]
    better_by: (
        float  # loss, above 0: better; of several columns the mean, each in units of what its frequencies would lose
    )
    standard_error: float  # of that
    is_better: bool
    is_kept: bool  # better, and of several networks whose mean does what they do
    words: str
    seconds: float
    items_per_second: float  # learned from, with what the frozen part gives stored
    batch_size: int  # items at a time
    history: tuple[tuple[Mapping[str, float], ...], ...]  # what was logged, by fold

    @property
    def rows(self) -> list[tuple[str, str, float | None, float | None, float | None, float]]:
        """The rows of a table: column, features, macro-F1, accuracy, R² and loss."""
        return [
            (one.column, name, score.f1_macro, score.accuracy, score.r2, score.loss)
            for one in self.columns
            for name, score in (("frozen", one.frozen), ("fine-tuned", one.tuned))
        ]


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
