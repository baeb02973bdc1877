"""The verbs `feedback` and `labels`: record thumbs on search results and corrected labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from chiasm.errors import LabelError
from chiasm.files import one_form
from chiasm.splits import class_name
from chiasm.store.collection import Collection


def feedback(
    collection: str | Path,
    items: Sequence[str],
    *,
    verdict: Literal["up", "down"],
    query: str = "",
    who: str = "me",
) -> dict[str, Any]:
    """Record thumbs up or down on search results, and return the numbers of verdicts by kind.

    Args:
        collection: the collection.
        items: ids of hits.
        verdict: whether they were right.
        query: the words that were searched with.
        who: whose verdict it is; of one person the latest counts.

    Raises:
        ChiasmError: an item is not in the collection, or a text is too long.
    """
    from chiasm.store.feedback import FeedbackTable, Thumb

    table = FeedbackTable(Collection.open(collection))
    table.add([Thumb(item, verdict, query) for item in items], who=who)
    return table.count()


def labels(collection: str | Path, items: Sequence[str], *, column: str, label: str, who: str = "me") -> dict[str, Any]:
    """Record the right labels of items, for `learn`, and return the numbers of verdicts by kind.

    A label that nothing in the column has is recorded, too, since it may be a new class; it is named under `new_labels`, with
    what else may be meant.

    Args:
        collection: the collection; its own labels stay as they are.
        items: their ids.
        column: the label column.
        label: the right value; `"unknown"` for none of the classes.
        who: whose verdict it is; where people disagree, the majority counts.

    Raises:
        ChiasmError: an item is not in the collection, or a text is too long.
    """
    from chiasm.store.feedback import FeedbackTable, Label

    opened = Collection.open(collection)
    table = FeedbackTable(opened)
    table.add([Label(item, column, label) for item in items], who=who)
    new = _new_labels(opened, one_form(column), label)
    return {**table.count(), **({"new_labels": new} if new else {})}


def _new_labels(collection: Collection, column: str, label: str) -> dict[str, str]:
    """Return the labels in a text that no item of a collection has, with what may be meant; of a column of numbers none."""
    from chiasm.recognition.targets import alike_name, infer_kind, split_labels
    from chiasm.store.feedback import UNKNOWN

    values = [row[column] for row in collection.items() if row[column] is not None]
    try:
        kind = infer_kind(values, column=column)
    except LabelError:
        kind = "classes"
    if kind == "number" or label == UNKNOWN:
        return {}
    read = split_labels if kind == "labels" else lambda text: (class_name(text),)
    known = {name for value in values for name in read(str(value))}
    new = [name for name in read(label) if name not in known]
    close = {name: alike_name(name, known) for name in new}
    return {name: "no item has it" + (f" (is {close[name]!r} meant?)" if close[name] else "") for name in new}
