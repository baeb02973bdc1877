"""Questions and answers about reasons: of predictions, and of hits of a search."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from chiasm.serving.schemas import Strict, Words
from chiasm.types import Modality


class ExplainOptions(Strict):
    """The column and the answer to explain."""

    column: str | None = Field(None, min_length=1, max_length=1000, description="Of a model that predicts several.")
    answer: str | None = Field(
        None, min_length=1, max_length=1000, description="The class or label to explain; by default the likeliest."
    )


class MatchQuery(Strict):
    """Words to look for in pictures."""

    text: Words


class PieceReason(BaseModel):
    """One piece of a medium, and by how much it raises the evidence."""

    piece: str = Field(description="The words, or where it is.")
    weight: float
    start: float | None = Field(description="Of a text characters, of a sound seconds.")
    end: float | None
    box: tuple[float, float, float, float] | None = Field(
        description="Of a picture: left, top, right and bottom as shares of its width and height; may lie outside of it."
    )


class PiecesChange(BaseModel):
    """The fewest pieces, strongest first, without which the answer is another one."""

    pieces: list[str]
    answer: str


class MediumReasons(BaseModel):
    """The reasons that one medium of an item gives for the answer, piece by piece."""

    modality: Modality
    number: int
    method: Literal["exact", "occlusion"] | None = Field(
        description="Exact: weights and `rest` sum to the output of the head. Occlusion: what goes with each piece."
    )
    reasons: list[PieceReason]
    text: str | None = Field(description="Of a text, as it is recognised.")
    rest: float | None = Field(description="What is not in the pieces.")
    change: PiecesChange | None
    note: str = Field(description="Why it is not explained.")


class ExampleOf(BaseModel):
    """An item that the model has learned from, and what it adds to the evidence."""

    id: str
    label: str
    weight: float


class KindFaithfulness(BaseModel):
    """The effect of hiding reasons of a kind on answers on held-out items, as areas between curves."""

    method: Literal["exact", "occlusion"]
    items: int
    deletion: float = Field(
        description="By how much hiding the strongest pieces first lowers the answer more than a random order."
    )
    deletion_error: float = Field(description="Standard error.")
    insertion: float = Field(
        description="By how much showing the strongest first keeps more of it than a random order."
    )
    insertion_error: float


class ItemExplanation(BaseModel):
    """The explanation of the prediction of one item of the collection."""

    answer: str = Field(description="What is explained: a class, a label, or the number that is predicted.")
    probability: float | None = Field(description="Of the answer; null of a number.")
    evidence: float = Field(description="For the answer: the log-odds of its probability, or the number.")
    prior: float | None = Field(description="Evidence where nothing is known of an item.")
    modalities: dict[Modality, float] = Field(description="What each adds; with `prior` they sum to `evidence`.")
    media: list[MediumReasons]
    examples: list[ExampleOf] = Field(
        description="Of the collection: those that raise the evidence most, then those that lower it most; of linear heads."
    )
    rest: float | None = Field(description="What no example of the collection says.")
    faithfulness: dict[Modality, KindFaithfulness] = Field(
        description="As `chiasm explain MODEL --collection` measured and kept it; empty where it has not. Of kinds that do no "
        "better than a random order there are no reasons."
    )
    measured: str | None = Field(description="On what.")


class PictureMatch(BaseModel):
    """How well one picture matches words, and by how much less without each of its places."""

    number: int
    score: float = Field(description="Cosine of words and picture.")
    reasons: list[PieceReason]


class MatchAnswer(BaseModel):
    """An entry a picture of the item."""

    pictures: list[PictureMatch]
