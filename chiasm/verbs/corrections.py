"""Corrected labels, and the plan of `learn`: which items the old and the new model learn from, and which compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Int

from chiasm.errors import LabelError
from chiasm.recognition import Recognizer
from chiasm.splits import class_name
from chiasm.store.collection import Collection
from chiasm.store.feedback import UNKNOWN, FeedbackTable
from chiasm.types import Scalar
from chiasm.verbs.dataset import Labelled, cell_value
from chiasm.verbs.model import Model

FEWEST_HELD_OUT = 30
FEWEST_OF_A_CLASS = 3  # examples, not counting copies, that a new class needs

Unseen: TypeAlias = Literal["auto", "compare", "learn"]
Values: TypeAlias = dict[str, list[Any]]
"""By column, one value per item; None where it has none."""
Corrections: TypeAlias = Mapping[str, Mapping[str, Scalar]]
"""By column and item, the corrected label; None: of no known class."""


def corrections_of(collection: Collection, columns: Sequence[str]) -> dict[str, dict[str, Scalar]]:
    """Return the labels that people gave, of the type that each column has in the collection."""
    table = FeedbackTable(collection)
    rows = collection.items()
    corrections: dict[str, dict[str, Scalar]] = {}
    for column in columns:
        values = {row[column] for row in rows if row.get(column) is not None}
        kind = next((type(value) for value in values if isinstance(value, bool | int | float)), str)
        has_unknown = UNKNOWN in values  # then it is a class like others
        corrections[column] = {
            item: None if label == UNKNOWN and not has_unknown else _typed(label, kind)
            for item, label in table.labels(column).items()
        }
    return corrections


def _typed(text: str, kind: type) -> Scalar:
    """Return a label as a value of its column's type; as text where it is none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if kind is int and number.is_integer() else number
    return text


@dataclass(frozen=True, eq=False)
class Plan:
    """Which items each side learns from, with which labels. The masks are over the items of a `Labelled`."""

    truth: Values
    before: Values  # labels that the old model was trained with
    old: Bool[np.ndarray, " items"]  # the old model was trained on
    new: Bool[np.ndarray, " items"]  # the new one is to be trained on
    held_out: Bool[np.ndarray, " items"]  # to compare on; none: by folds
    corrected: Bool[np.ndarray, " items"]
    overruled: int  # corrected items that are trained on and have another label in the collection
    left_out: int  # items that people say are of no known class
    waiting: dict[str, int]  # class that is too new -> number of examples missing

    @property
    def is_news(self) -> bool:
        """Whether the new model would learn anything that the old one did not."""
        rows = np.flatnonzero(self.new).tolist()
        same = all(_same(self.truth[column][row], self.before[column][row]) for column in self.truth for row in rows)
        return not (same and bool((self.new == self.old).all()))


def make_plan(saved: Model, data: Labelled, corrections: Corrections, collection: Collection, unseen: Unseen) -> Plan:
    """Decide which items the new model learns from, and which the two models are compared on.

    Raises:
        LabelError: too few items to compare on although `unseen` is `"compare"`.
    """
    rows = {str(row["id"]): row for row in collection.items()}
    stored = {column: [cell_value(rows[item].get(column)) for item in data.ids] for column in corrections}
    every = _overlaid(stored, corrections, data.ids)
    before = _overlaid(stored, saved.report.get("corrections", {}), data.ids)
    trained = np.array([item in saved.trained_on for item in data.ids])
    corrected = np.array([any(item in labels for labels in corrections.values()) for item in data.ids])
    old = trained & _any_value(before)
    truth, waiting = _without_new(every, trained | corrected, saved.recognizer, data.groups)
    new = (trained | corrected) & _any_value(truth)
    held_out = ~trained & ~corrected & _any_value(truth) & ~np.isin(data.groups, data.groups[old | new])
    for column, values in truth.items():
        if len(truth) == 1 and saved.recognizer.columns_[column].kind == "classes":
            # Of a class that neither knows, both are always wrong.
            known = class_set(saved.recognizer) | {class_name(values[row]) for row in np.flatnonzero(new)}
            held_out &= np.array([class_name(value) in known for value in values])
    enough = len(np.unique(data.groups[held_out]))
    if unseen == "compare" and enough < 2:
        raise LabelError(
            f"there are {enough} labelled items, not counting copies of others, that the model has not seen: too "
            "few to compare on. Leave unseen='compare' out to compare by folds"
        )
    if unseen == "learn" or (unseen == "auto" and enough < FEWEST_HELD_OUT):
        truth, waiting = _without_new(every, np.ones_like(trained), saved.recognizer, data.groups)
        new, held_out = _any_value(truth), np.zeros_like(trained)
    overruled = sum(
        any(
            corrected[row] and stored[column][row] is not None and not _same(stored[column][row], truth[column][row])
            for column in truth
        )
        for row in np.flatnonzero(new)
    )
    left_out = sum(value is None for labels in corrections.values() for value in labels.values())
    return Plan(truth, before, old, new, held_out, corrected, overruled, left_out, waiting)


def _overlaid(stored: Values, corrections: Corrections, ids: Sequence[str]) -> Values:
    """Return the stored labels with corrections in their place."""
    return {
        column: [corrections.get(column, {}).get(item, value) for item, value in zip(ids, values, strict=True)]
        for column, values in stored.items()
    }


def _same(one: Any, other: Any) -> bool:
    """Return whether two cells, which may be missing, say the same."""
    return one is other is None or (None not in (one, other) and class_name(one) == class_name(other))


def _any_value(values: Values) -> Bool[np.ndarray, " items"]:
    return np.array([any(value is not None for value in row) for row in zip(*values.values(), strict=True)], dtype=bool)


def _without_new(
    values: Values, rows: Bool[np.ndarray, " items"], recognizer: Recognizer, groups: Int[np.ndarray, " items"]
) -> tuple[Values, dict[str, int]]:
    """Return the labels without those of classes that are too new, and how many examples these lack."""
    enough: Values = {}
    waiting: dict[str, int] = {}
    for column, labels in values.items():
        known = class_set(recognizer, column)
        examples: dict[str, set[int]] = {}
        if recognizer.columns_[column].kind == "classes":
            for row in np.flatnonzero(rows):
                if labels[row] is not None and (name := class_name(labels[row])) not in known:
                    examples.setdefault(name, set()).add(int(groups[row]))
        few = {name: FEWEST_OF_A_CLASS - len(of) for name, of in examples.items() if len(of) < FEWEST_OF_A_CLASS}
        enough[column] = [
            None if use and label is not None and class_name(label) in few else label
            for label, use in zip(labels, rows.tolist(), strict=True)
        ]
        waiting |= few
    return enough, waiting


def class_set(recognizer: Recognizer, column: str | None = None) -> set[str]:
    """Return the classes and labels that a recogniser knows, of one column or of all."""
    columns = recognizer.columns_.items()
    return {class_name(name) for of, fitted in columns if column in (None, of) for name in fitted.names}
