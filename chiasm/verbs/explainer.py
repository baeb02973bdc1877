"""Reasons of predictions: what is said of an item when a part of it is hidden, and whether hiding these parts matters.

Where a picture's embedding is a mean over places and a linear head reads it, the places' parts of the answer are exact
(`chiasm.recognition.explanations`). Everything else is occlusion: a part is hidden, the rest embedded and recognised
again (Zeiler & Fergus 2014, arXiv:1311.2901, section 4.2). Which files are explained is left to `chiasm.verbs.explain`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64

from chiasm import work
from chiasm.encoders.base import Encoder, first_of
from chiasm.errors import ChiasmError
from chiasm.media import load
from chiasm.media.limits import Limits
from chiasm.media.pieces import Piece, pieces_of, place_of, places_within, without
from chiasm.media.text import read as read_text
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.columns import Fitted, Recognition
from chiasm.recognition.explanations import (
    Examples,
    evidence,
    example_contributions,
    modality_shares,
    part_contributions,
    prior_evidence,
)
from chiasm.recognition.reasons import Change, Curves, ExampleReason, Explanation, Faithfulness, MediumReasons, Reason
from chiasm.space import Space, start_space
from chiasm.splits import class_name
from chiasm.store.tables import chunks
from chiasm.types import MODALITIES, Image, Media, Modality, Source, Text
from chiasm.vectors import sigmoid
from chiasm.verbs.dataset import Embedded, Labelled, modality_arrays
from chiasm.verbs.model import Model

Vector: TypeAlias = Float[np.ndarray, " dim"]

EXAMPLES = 3  # for, and as many against
MOST_HIDDEN = 10  # pieces that a change hides
HIDDEN: Mapping[Modality, float] = {"image": 0.2, "text": 0.25, "audio": 0.2}
"""Share of the pieces that is hidden to measure faithfulness: 10 of the 49 places of a square picture, a quarter of the words."""
SHARES: Mapping[Modality, tuple[float, ...]] = {
    "image": (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0), "text": (0.0, 0.125, 0.25, 0.5, 0.75, 1.0),
    "audio": (0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
}  # fmt: skip
"""Shares of the pieces that are hidden for the curves of deletion and insertion; `HIDDEN` is one of them."""
FEWEST_PIECES = 4  # of a medium that faithfulness is measured on
DRAWS = 3  # of random orders
ROUNDING = 0.01  # share of an embedding's length that storing it may have changed


@dataclass(frozen=True, eq=False)
class Part:
    """One medium of an item.

    Attributes:
        modality: whose encoder takes it.
        path: of its file; None where it is in none, or nobody is to know.
        medium: opened.
        vector: its embedding.
    """

    modality: Modality
    path: str | None
    medium: Media
    vector: Vector


@dataclass(frozen=True, eq=False)
class Weighed:
    """The pieces of a medium and what each adds, as in `MediumReasons`."""

    method: Literal["exact", "occlusion"]
    pieces: tuple[Piece, ...]
    weights: Float64[np.ndarray, " pieces"]
    rest: float | None = None


@dataclass(eq=False)
class Explainer:
    """A column of a model with all that its reasons need.

    Attributes:
        column: whose predictions are explained.
        answer: the number of the class or label to explain; None: the most probable one.
        modalities: that it knows.
        encoders: of these.
        space: that gives vectors which modalities share.
        learned: items that it has learned from, as they are shown and as they are counted.
        left_out: modalities whose reasons are not shown.
    """

    column: Fitted
    answer: int | None
    modalities: tuple[Modality, ...]
    encoders: Mapping[Modality, Encoder]
    space: Space
    learned: tuple[Labelled, Examples] | None = None
    left_out: frozenset[Modality] = field(default_factory=frozenset)

    @classmethod
    def of(cls, saved: Model, networks: Sequence[Encoder], column: Fitted, answer: int | None) -> Explainer:
        """Return that of a column of a model."""
        known = tuple(name for name in MODALITIES if name in saved.fingerprints and name in column.features.modalities)
        return cls(column, answer, known, first_of(networks), saved.space or start_space(networks))

    @property
    def answers(self) -> dict[str, int]:
        """Return the numbers of the answers to explain, by their names; that of a number has the name of its column."""
        if self.column.kind == "number":
            return {self.column.column: 0}
        numbers = range(len(self.column.names)) if self.answer is None else [self.answer]
        return {class_name(self.column.names[number]): number for number in numbers}

    # ---------------------------------------------------------------------------------------------------------- media

    def open(self, source: Source, modality: Modality, limits: Limits) -> Media:
        """Open a medium as the encoder of a modality sees it.

        Raises:
            MediaError: it cannot be used.
        """
        if source.text is not None:
            return read_text(source.text.encode(), limits=limits)
        assert source.path is not None  # a source has either
        view = self.encoders[modality].view
        options: dict[str, Any] = {"frames": view.frames, "fps": view.fps, "track": view.track}
        return load(
            source.path, image_size=view.image_size, rate=view.rate, listed_as=source.modality, limits=limits, **options
        )

    def embed(self, source: Source, limits: Limits, *, fewest: int) -> Part | None:
        """Open and embed a medium; None where nothing in it can be embedded, or it has fewer pieces than so many.

        Raises:
            MediaError: it cannot be used.
        """
        medium = self.open(source, source.modality, limits)
        if medium.modality not in self.modalities or len(pieces_of(medium)) < fewest:
            return None
        vector = self._encode(medium.modality, [medium])[0]
        return Part(medium.modality, source.path, medium, vector) if vector.any() else None

    def _encode(self, modality: Modality, media: Sequence[Media | None]) -> Float[np.ndarray, "media dim"]:
        """Embed media; of those that are None, and of those without anything to embed, the vectors are zero."""
        encoder = self.encoders[modality]
        rows = [row for row, medium in enumerate(media) if medium is not None]
        vectors = np.zeros((len(media), encoder.dim), np.float32)
        for batch in chunks(rows, encoder.batch_size):
            work.check()
            vectors[batch] = encoder.encode([medium for row in batch if (medium := media[row]) is not None]).vectors
        return vectors

    # --------------------------------------------------------------------------------------------------------- arrays

    def arrays(self, vectors: Mapping[Modality, Float[np.ndarray, "items dim"]]) -> ModalityArrays:
        """Return items by their vectors; a row of zeros is that of an item without the modality."""
        present: dict[Modality, Bool[np.ndarray, " items"]] = {
            modality: np.asarray(rows.any(axis=1)) for modality, rows in vectors.items()
        }
        return modality_arrays(Embedded(dict(vectors), present, {}), self.space, [*vectors])

    def changed(self, parts: Sequence[Part], place: int, vectors: Float[np.ndarray, "variants dim"]) -> ModalityArrays:
        """Return variants of an item, in each of which one of its media has another vector."""
        means: dict[Modality, Float[np.ndarray, "variants dim"]] = {}
        for modality in dict.fromkeys(part.modality for part in parts):
            kept = [part.vector for row, part in enumerate(parts) if part.modality == modality and row != place]
            total = np.zeros_like(vectors, shape=(len(vectors), self.encoders[modality].dim)) + sum(kept)
            count = np.full((len(vectors), 1), len(kept), np.float32)
            if parts[place].modality == modality:
                total, count = total + vectors, count + vectors.any(axis=1, keepdims=True)
            means[modality] = total / np.maximum(count, 1)
        return self.arrays(means)

    def item(self, parts: Sequence[Part]) -> ModalityArrays:
        """Return one item by its media."""
        return self.changed(parts, 0, parts[0].vector[None])

    def level(self, arrays: ModalityArrays, answer: int) -> Float64[np.ndarray, " items"]:
        """Return what people see of the evidence: the probability of an answer, or the number."""
        values = evidence(self.column, arrays, answer)
        return values if self.column.kind == "number" else sigmoid(values)

    def recognise(self, arrays: ModalityArrays) -> Recognition:
        """Predict items that have something that the column knows."""
        known = tuple(name for name in arrays.modalities if name in self.modalities)
        return self.column.recognise(arrays, known, level=0.9, false_alarm_rate=0.05)

    def answer_of(self, item: ModalityArrays) -> int:
        """Return the answer to explain of one item."""
        if self.answer is not None:
            return self.answer
        return int(self.recognise(item).probabilities[0].argmax())

    # -------------------------------------------------------------------------------------------------------- reasons

    def explain(self, name: str, path: str | None, parts: Sequence[Part]) -> Explanation:
        """Explain the prediction of one item with all its media."""
        item = self.item(parts)
        answer, recognised = self.answer_of(item), self.recognise(item)
        is_number = self.column.kind == "number"
        prior = prior_evidence(self.column, answer)
        examples, rest = self._examples(item, answer)
        return Explanation(
            name,
            path,
            f"{recognised.values[0]:.4g}" if is_number else class_name(self.column.names[answer]),
            None if is_number else float(recognised.probabilities[0, answer]),
            float(evidence(self.column, item, answer)[0]),
            prior if np.isfinite(prior) else None,
            modality_shares(self.column, item, answer),
            tuple(self._medium(parts, place, item, recognised, answer) for place in range(len(parts))),
            examples,
            rest,
        )

    def weigh(self, parts: Sequence[Part], place: int, item: ModalityArrays, answer: int) -> Weighed:
        """Weigh the pieces of one medium of an item; there are none of a medium that has no pieces."""
        part = parts[place]
        if isinstance(part.medium, Image):
            others = [one.vector for row, one in enumerate(parts) if one.modality == "image" and row != place]
            exact = self.weigh_places(item, part.medium, others, answer)
            if exact is not None:
                return exact
        pieces = pieces_of(part.medium)
        hidden = self._encode(part.modality, [without(part.medium, [piece]) for piece in pieces])
        whole = evidence(self.column, item, answer)
        return Weighed("occlusion", pieces, whole - evidence(self.column, self.changed(parts, place, hidden), answer))

    def weigh_places(
        self, item: ModalityArrays, picture: Image, others: Sequence[Vector], answer: int
    ) -> Weighed | None:
        """Weigh the places of one picture of an item exactly; `others` are the vectors of its other pictures.

        Returns:
            None where embeddings are no means over places, not only linear heads predict the item, or its embedding is not
            that of these pictures.
        """
        cells = self.encoders["image"].cells([picture]) if "image" in item.vectors else None
        if cells is None:
            return None
        own = cells.vectors[0].astype(np.float64) / cells.vectors.shape[1]
        summands = np.vstack([own, *others]) / (1 + len(others))
        whole = item.vectors["image"][0]
        if np.linalg.norm(summands.sum(axis=0) - whole) > ROUNDING * np.linalg.norm(whole):
            return None
        summed = part_contributions(self.column, item, "image", summands, answer)
        if summed is None:
            return None
        inside, pieces = places_within(cells.boxes[0])
        weights = summed.parts[inside]
        return Weighed("exact", pieces, weights, summed.total - float(weights.sum()))

    def hide(self, parts: Sequence[Part], place: int, hidden: Sequence[Sequence[Piece]]) -> ModalityArrays:
        """Return variants of an item, in each of which some pieces of one of its media are hidden."""
        part = parts[place]
        vectors = self._encode(part.modality, [without(part.medium, pieces) for pieces in hidden])
        return self.changed(parts, place, vectors)

    def _medium(
        self, parts: Sequence[Part], place: int, item: ModalityArrays, recognised: Recognition, answer: int
    ) -> MediumReasons:
        part = parts[place]
        if part.modality in self.left_out:
            return MediumReasons(part.modality, part.path, None, note="its reasons are no better than random ones")
        own = self.weigh(parts, place, item, answer)
        if not own.pieces:
            which = part.modality if part.modality == "video" else f"{part.modality} this long"
            note = f"of a {which} there is no more than its share"
            return MediumReasons(part.modality, part.path, None, note=note)
        reasons = tuple(
            Reason(place_of(piece), float(weight), piece.start, piece.end, piece.box)
            for piece, weight in zip(own.pieces, own.weights, strict=True)
        )
        change = self._change(parts, place, own, recognised, answer)
        text = part.medium.text if isinstance(part.medium, Text) else None
        return MediumReasons(part.modality, part.path, own.method, reasons, text, own.rest, change)

    def _change(
        self, parts: Sequence[Part], place: int, own: Weighed, recognised: Recognition, answer: int
    ) -> Change | None:
        """Hide the strongest piece, the two strongest, and so on, until another answer is predicted."""
        if self.column.kind == "number":
            return None
        holds = (
            recognised.values[0, answer]
            if self.column.kind == "labels"
            else recognised.values[0] == self.column.names[answer]
        )
        strongest = [row for row in np.argsort(-own.weights)[:MOST_HIDDEN].tolist() if own.weights[row] > 0]
        if not holds or not strongest:
            return None
        pieces = [own.pieces[row] for row in strongest]
        variants = self.hide(parts, place, [pieces[: n + 1] for n in range(len(pieces))])
        left = np.flatnonzero(np.any([*variants.present.values()], axis=0))
        if not len(left):
            return None
        values = self.recognise(variants.take(left)).values
        is_same = values[:, answer] if self.column.kind == "labels" else values == self.column.names[answer]
        if is_same.all():
            return None
        first = int(np.argmin(is_same))
        other = (
            f"not {class_name(self.column.names[answer])}"
            if self.column.kind == "labels"
            else class_name(values[first])
        )
        return Change(tuple(place_of(piece) for piece in pieces[: left[first] + 1]), other)

    def _examples(self, item: ModalityArrays, answer: int) -> tuple[tuple[ExampleReason, ...], float | None]:
        """Return the examples that speak most for an answer and most against it, strongest first, and the rest."""
        if self.learned is None:
            return (), None
        shown, counted = self.learned
        summed = example_contributions(self.column, item, counted, answer)
        if summed is None:
            return (), None
        order = np.argsort(-summed.parts)
        chosen = [row for row in order[:EXAMPLES] if summed.parts[row] > 0]
        chosen += [row for row in order[::-1][:EXAMPLES] if summed.parts[row] < 0]
        labels = shown.values[self.column.column]
        return tuple(
            ExampleReason(
                shown.ids[row],
                class_name(labels[row]),
                float(summed.parts[row]),
                dict(shown.media[row]),
            )
            for row in chosen
        ), summed.rest


# ------------------------------------------------------------------------------------------------- columns and answers


def column_of(recognizer: Recognizer, column: str | None) -> Fitted:
    """Return a column of a model by its name; None: the only one.

    Raises:
        ChiasmError: there is no such column, or there are several.
    """
    columns = recognizer.columns_
    if column is None and len(columns) == 1:
        return recognizer.only_column_
    if column not in columns:
        wrong = "the model predicts several columns" if column is None else f"the model has no column {column!r}"
        raise ChiasmError(f"{wrong}: name one of {', '.join(columns)}")
    return columns[column]


def number_of(answer: str | None, column: Fitted) -> int | None:
    """Return the number of an answer by its name; None: that of each item.

    Raises:
        ChiasmError: the column has no such answer.
    """
    if column.kind == "number" or answer is None:
        if answer is not None:
            raise ChiasmError(f"{column.column!r} is a number, which has no classes to name: leave the answer out")
        return 0 if column.kind == "number" else None
    names = [class_name(name) for name in column.names]
    if answer not in names:
        raise ChiasmError(f"the model does not know {answer!r}: name one of {', '.join(names)}")
    return names.index(answer)


def source_of(listed: str, modality: Modality) -> Source:
    """Return a medium as a collection lists it: the path of a file, or a text itself."""
    is_inline = modality == "text" and not Path(listed).is_absolute()
    return Source(modality, text=listed) if is_inline else Source(modality, path=listed)


# -------------------------------------------------------------------------------------------------------- faithfulness


def measure_faithfulness(explainer: Explainer, parts: Sequence[Part], *, seed: int = 0) -> dict[Modality, Faithfulness]:
    """Measure whether hiding the pieces that speak most for an answer lowers it by more than hiding random ones.

    Each medium is recognised alone, so that what others say does not hide what the pieces say (deletion and insertion, as
    Petsiuk et al. 2018, arXiv:1806.07421, against random orders). Media of less than four pieces tell nothing and are left
    out.

    Args:
        explainer: of the column.
        parts: media to measure on.
        seed: of the random orders.
    """
    rng = np.random.default_rng(seed)
    levels: dict[Modality, list[Float64[np.ndarray, "orders shares"]]] = {}
    methods: dict[Modality, str] = {}
    for done, part in enumerate(parts):
        work.tell(work.Step("faithfulness", done, len(parts)))
        item = explainer.item([part])
        answer = explainer.answer_of(item)
        weighed = explainer.weigh([part], 0, item, answer)
        if len(weighed.pieces) < FEWEST_PIECES:
            continue
        levels.setdefault(part.modality, []).append(_levels(explainer, part, item, answer, weighed, rng))
        methods[part.modality] = weighed.method
    return {
        modality: _faithfulness(methods[modality], modality, np.array(levels[modality]))
        for modality in MODALITIES
        if len(levels.get(modality, ())) > 1
    }


def _levels(
    explainer: Explainer, part: Part, item: ModalityArrays, answer: int, weighed: Weighed, rng: np.random.Generator
) -> Float64[np.ndarray, "orders shares"]:
    """Return the answer to a medium with shares of its pieces hidden: the strongest first, at random, the weakest first."""
    strongest = np.argsort(-weighed.weights)
    orders = [strongest, strongest[::-1], *(rng.permutation(len(strongest)) for _ in range(DRAWS))]
    numbers = [max(1, round(share * len(strongest))) for share in SHARES[part.modality][1:-1]]
    hidden = [[weighed.pieces[row] for row in order[:number]] for order in orders for number in numbers]
    variants = explainer.hide([part], 0, [*hidden, weighed.pieces])
    *some, nothing_left = explainer.level(variants, answer)
    whole = explainer.level(item, answer)[0]
    inner = np.reshape(some, (len(orders), len(numbers)))
    curves = np.hstack([np.full((len(orders), 1), whole), inner, np.full((len(orders), 1), nothing_left)])
    return np.stack([curves[0], curves[2:].mean(axis=0), curves[1]])


def _faithfulness(method: str, modality: Modality, levels: Float64[np.ndarray, "items orders shares"]) -> Faithfulness:
    shares = SHARES[modality]
    at = shares.index(HIDDEN[modality])

    def mean(values: Float64[np.ndarray, " items"]) -> tuple[float, float]:
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))

    areas = np.trapezoid(levels, shares, axis=2)
    strongest, random, weakest = (tuple(curve) for curve in levels.mean(axis=0).tolist())
    curves = Curves(
        shares, strongest, random, weakest, *mean(areas[:, 1] - areas[:, 0]), *mean(areas[:, 2] - areas[:, 1])
    )
    gap, error = mean(levels[:, 1, at] - levels[:, 0, at])
    return Faithfulness(
        method, len(levels), shares[at], strongest[0], strongest[at], random[at], weakest[at], gap, error, curves
    )
