"""Reasons of predictions as they are kept and shown; how they are found is `chiasm.recognition.explanations` and
`chiasm.verbs.explainer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chiasm.evaluation.record import Record
from chiasm.types import Modality


@dataclass(frozen=True)
class Reason(Record):
    """One piece of a medium, and by how much it raises the evidence for the answer."""

    piece: str  # the words, or where it is
    weight: float
    start: float | None  # of a text characters, of a sound seconds
    end: float | None
    box: tuple[float, float, float, float] | None  # of a picture: left, top, right, bottom, as shares of its sides


@dataclass(frozen=True)
class Change(Record):
    """The fewest pieces, strongest first, without which the answer is another one, as predicted without them."""

    pieces: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class MediumReasons(Record):
    """The reasons that one medium of an item gives for the answer, piece by piece.

    Attributes:
        modality: of the medium.
        path: of its file; None of a text that is in no file.
        method: `"exact"`: the weights and `rest` sum to the output of the head; `"occlusion"`: the evidence that goes with
            each piece; None: it is not explained.
        reasons: of its pieces, in their order.
        text: of a text, as it is recognised.
        rest: what is not in the pieces.
        change: that would change the answer; None where none was seen.
        note: why it is not explained.
    """

    modality: Modality
    path: str | None
    method: Literal["exact", "occlusion"] | None
    reasons: tuple[Reason, ...] = ()
    text: str | None = None
    rest: float | None = None
    change: Change | None = None
    note: str = ""

    @property
    def by_name(self) -> dict[str, float]:
        """Return the weights by word or place, those of equal names together, from the most for to the most against."""
        sums: dict[str, float] = {}
        for reason in self.reasons:
            sums[reason.piece] = sums.get(reason.piece, 0.0) + reason.weight
        return dict(sorted(sums.items(), key=lambda one: -one[1]))


@dataclass(frozen=True)
class ExampleReason(Record):
    """An item that was learned from, and what it adds to the evidence for the answer."""

    id: str
    label: str
    weight: float
    media: dict[Modality, str]


@dataclass(frozen=True)
class Explanation(Record):
    """The explanation of the prediction of one item.

    Attributes:
        id: of the item.
        path: of its first file, or its text.
        answer: what is explained: a class, a label, or the number that is predicted.
        probability: of the answer; None of a number.
        evidence: for the answer: the log-odds of its probability, or the number.
        prior: evidence where nothing is known of an item; None where nobody can tell.
        modalities: what each adds; with `prior` they sum to `evidence`.
        media: what each medium says.
        examples: that raise the evidence most, then those that lower it most, by the representer theorem.
        rest: what the head says that no example of the collection does: the names of classes, other items.
    """

    id: str
    path: str | None
    answer: str
    probability: float | None
    evidence: float
    prior: float | None
    modalities: dict[Modality, float]
    media: tuple[MediumReasons, ...]
    examples: tuple[ExampleReason, ...] = ()
    rest: float | None = None


@dataclass(frozen=True)
class WordReason(Record):
    """A word of several texts.

    Attributes:
        word: in small letters.
        weight: by how much it raises the evidence in a text, on average over all the texts, also those without it.
        texts: that have it.
    """

    word: str
    weight: float
    texts: int


@dataclass(frozen=True)
class PieceOf(Record):
    """One of the strongest pieces of the pictures or sounds of a collection."""

    id: str
    path: str
    modality: Modality
    reason: Reason


@dataclass(frozen=True)
class ClassReasons(Record):
    """The grounds of an answer over many items.

    Attributes:
        answer: a class, a label, or, of a number, its column.
        items: that are given the answer; of a number, those above its median.
        method: of `uses`; `"exact"`: of the blocks of the features of linear heads; `"shapley"`: of the modalities.
        uses: by how much more each block or modality says for the answer in these items than in all others, on average.
        words: of their texts, those that raise the evidence most.
        pieces: of their pictures and sounds, the same.
    """

    answer: str
    items: int
    method: Literal["exact", "shapley"]
    uses: dict[str, float]
    words: tuple[WordReason, ...] = ()
    pieces: tuple[PieceOf, ...] = ()


@dataclass(frozen=True)
class Curves(Record):
    """The answer to a medium alone as more and more of its pieces are hidden, a mean over items.

    Attributes:
        shares: of the pieces that are hidden, from 0 to 1.
        strongest: where those go first that speak most for the answer (deletion, Petsiuk et al. 2018, arXiv:1806.07421).
        random: in random order.
        weakest: where those go first that speak least for it: read from right to left, insertion.
        deletion: area between the curves of the random order and of the strongest.
        deletion_error: its standard error over items.
        insertion: area between the curves of the weakest and of the random order.
        insertion_error: its standard error.
    """

    shares: tuple[float, ...]
    strongest: tuple[float, ...]
    random: tuple[float, ...]
    weakest: tuple[float, ...]
    deletion: float
    deletion_error: float
    insertion: float
    insertion_error: float


@dataclass(frozen=True)
class Faithfulness(Record):
    """The answer to a medium alone when parts of it are hidden: its mean probability, or number.

    Attributes:
        method: of the reasons.
        items: that it was measured on.
        share: of the pieces that are hidden, for the numbers beside the curves.
        whole: nothing hidden.
        strongest: the pieces hidden that speak most for the answer.
        random: as many at random.
        weakest: as many that speak least for it.
        gap: random less strongest.
        standard_error: of the gap.
        curves: the same for every share.
    """

    method: str
    items: int
    share: float
    whole: float
    strongest: float
    random: float
    weakest: float
    gap: float
    standard_error: float
    curves: Curves

    @property
    def beats_random(self) -> bool:
        """Return whether the area between the curves of deletion is above 0 by more than one standard error."""
        return self.curves.deletion > self.curves.deletion_error
