"""Choose the items of a collection whose labels are worth a look: likely mistakes, what a model is unsure of, a spread of the rest.

Each item is judged by heads that have not learned from it. How much a label is doubted is the difference between the probability
of the predicted class and that of the label (the normalised margin of confident learning, Northcutt et al. 2021, section 3.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Shaped

from chiasm.encoders.base import Encoder, fingerprints_of
from chiasm.errors import LabelError
from chiasm.evaluation.record import Record
from chiasm.recognition import ModalityArrays
from chiasm.space import Space
from chiasm.splits import class_name
from chiasm.store.collection import Collection
from chiasm.store.feedback import FeedbackTable
from chiasm.verbs.dataset import labelled_items
from chiasm.verbs.fair import FairItems
from chiasm.verbs.model import Model

Why: TypeAlias = Literal["suspect", "unsure", "spread"]


@dataclass(frozen=True)
class Doubt:
    """An item to look at."""

    id: str
    kind: Why
    label: str | None  # that it has; None: none
    prediction: str
    probability: float  # of the prediction


@dataclass(frozen=True)
class Review(Record):
    """Items to look at, in this order, and what people have said that the model has not learned yet."""

    items: tuple[Doubt, ...]
    classes: tuple[str, ...]  # the most frequent first
    waiting: int  # corrections


def review_items(
    model: Model, collection: Collection, networks: Sequence[Encoder], space: Space, *, most: int = 60, seed: int = 0
) -> Review:
    """Return the items whose labels are worth a look: up to a half likely mistakes, then unsure ones, then a spread.

    Items that people have labelled already are left out, and so are labels that the model does not know.

    Args:
        model: of one column of classes.
        collection: embedded by the same encoders.
        networks: its encoders.
        space: its start space.
        most: how many.
        seed: of the draw of the spread.

    Raises:
        LabelError: the model predicts something else than classes of one column.
        ChiasmError: it is of another encoder.
    """
    model.check(fingerprints_of(networks))
    recognizer = model.recognizer
    if [column.kind for column in recognizer.columns_.values()] != ["classes"]:
        raise LabelError("labels can be looked through for a model of one column of classes; this one predicts others")
    (column,) = recognizer.columns_
    said = FeedbackTable(collection).labels(column)
    learned = model.report.get("corrections", {}).get(column, {})
    waiting = sum(item not in learned or class_name(learned[item]) != class_name(label) for item, label in said.items())
    space = model.space or space
    data = labelled_items(collection, networks, space, [column], modalities=tuple(model.fingerprints))
    judged = FairItems(data, np.arange(len(data.ids)), "", 0, by_all=False).predict(model)[column]
    assert judged.probabilities is not None  # of classes
    names = np.array(judged.classes)
    place = {name: number for number, name in enumerate(judged.classes)}
    counts = Counter(judged.true.tolist())
    usable = np.array([name in place and item not in said for item, name in zip(judged.ids, judged.true, strict=True)])
    rows = np.flatnonzero(usable)
    probabilities = judged.probabilities[rows]
    own = probabilities[np.arange(len(rows)), [place[name] for name in judged.true[rows]]]
    doubts = _doubts([judged.ids[row] for row in rows], judged.true[rows], probabilities, names, own)
    if data.unlabelled is not None:
        doubts += _unlabelled(model, data.unlabelled, data.unlabelled_ids, column, said)
    order = _in_order(doubts, most, seed)
    known = sorted(map(class_name, recognizer.columns_[column].names), key=lambda name: (-counts[name], name))
    return Review(tuple(order), tuple(known), waiting)


def _doubts(
    ids: Sequence[str],
    labels: Shaped[np.ndarray, " items"],
    probabilities: Float[np.ndarray, "items classes"],
    names: Shaped[np.ndarray, " classes"],
    own: Float[np.ndarray, " items"],
) -> list[tuple[float, Doubt]]:
    best = probabilities.argmax(axis=1)
    top = probabilities[np.arange(len(ids)), best]
    margins = _margins(probabilities)
    doubts = []
    for row, item in enumerate(ids):
        is_other = names[best[row]] != labels[row]
        kind: Why = "suspect" if is_other else "unsure"
        worth = float(top[row] - own[row]) if is_other else float(-margins[row])
        doubts.append((worth, Doubt(item, kind, str(labels[row]), str(names[best[row]]), float(top[row]))))
    return doubts


def _margins(probabilities: Float[np.ndarray, "items classes"]) -> Float[np.ndarray, " items"]:
    """Return by how much the likeliest class is likelier than the next."""
    ordered = np.sort(probabilities, axis=1)
    margins: Float[np.ndarray, " items"] = ordered[:, -1] - ordered[:, -2]
    return margins


def _unlabelled(
    model: Model, arrays: ModalityArrays, ids: Sequence[str], column: str, said: Container[str]
) -> list[tuple[float, Doubt]]:
    predicted = model.recognizer.recognise_all(arrays)[column]
    margins = _margins(predicted.probabilities)
    return [
        (float(-margin), Doubt(item, "unsure", None, class_name(value), float(top)))
        for item, margin, value, top in zip(
            ids, margins, predicted.values, predicted.probabilities.max(axis=1), strict=True
        )
        if item not in said
    ]


def _in_order(doubts: Sequence[tuple[float, Doubt]], most: int, seed: int) -> list[Doubt]:
    """Return up to a half suspects, up to a third of what is unsure, and of the rest as many of each class as there is room."""
    ranked = sorted(doubts, key=lambda one: (-one[0], one[1].id))
    suspects = [doubt for _, doubt in ranked if doubt.kind == "suspect"][: most // 2]
    unsure = [doubt for _, doubt in ranked if doubt.kind == "unsure"]
    first, rest = unsure[: most // 3], unsure[most // 3 :]
    rng = np.random.default_rng(seed)
    shuffled = [rest[row] for row in rng.permutation(len(rest))]
    nth: Counter[str] = Counter()
    turns = []
    for doubt in shuffled:
        turns.append((nth[doubt.prediction], doubt))
        nth[doubt.prediction] += 1
    spread = [
        Doubt(doubt.id, "spread", doubt.label, doubt.prediction, doubt.probability)
        for _, doubt in sorted(turns, key=lambda turn: turn[0])
    ]
    return [*suspects, *first, *spread][:most]
