"""The verbs `feedback` and `labels`: record thumbs on search results and corrected labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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

    table = FeedbackTable(Collection.open(collection))
    table.add([Label(item, column, label) for item in items], who=who)
    return table.count()
