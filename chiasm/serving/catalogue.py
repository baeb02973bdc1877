"""Look through the items of a collection without a query: in an order, under conditions, and counted by their columns.

What was read of a version of the collection is kept for the next pages of it, and for whoever asks the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from threading import Lock
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chiasm.errors import CollectionError
from chiasm.types import MODALITIES

T = TypeVar("T")

MOST_COLUMNS = 40  # that are counted at once
_SHOWN = 20  # values of a column
_FEW = 12  # different numbers that are counted one by one
_BINS = 20
_KEPT = 12  # answers


class Listed(Protocol):
    """A collection whose items are listed."""

    @property
    def version(self) -> tuple[int, ...]:
        """Numbers that rise with every change."""

    def columns(self) -> list[str]:
        """Return the names of the metadata columns."""

    def table(self, columns: Sequence[str], *, where: str | None) -> pa.Table:
        """Return columns of the items that meet a condition."""


class Catalogue:
    """The items of a collection by order and condition.

    Args:
        collection: returns the collection as it is now.
    """

    def __init__(self, collection: Callable[[], Listed]) -> None:
        self._collection = collection
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = Lock()

    def ids(
        self, *, where: str | None = None, sort: str | None = None, within: Sequence[str] | None = None
    ) -> list[str]:
        """Return the ids of items, in the order of a column; those without a value in it come last.

        Args:
            where: condition on the columns.
            sort: the column, behind `-` for falling values. Default: the ids themselves.
            within: only these.

        Raises:
            CollectionError: there is no such column, or `where` is no condition.
        """
        collection = self._collection()
        falls, column = sort is not None and sort.startswith("-"), (sort or "id").removeprefix("-")
        _require(column, ("id", *collection.columns()))

        def read() -> list[str]:
            columns = ["id"] if column == "id" else ["id", column]
            table = _among(collection.table(columns, where=where), within)
            keys = [(column, "descending" if falls else "ascending"), ("id", "ascending")]
            return list(table["id"].take(pc.sort_indices(table, sort_keys=keys[: len(columns)])).to_pylist())

        return self._once(("ids", collection.version, where, sort, _key(within)), read)

    def page(self, ids: Sequence[str], after: str | None, limit: int, *, is_by_id: bool) -> list[str]:
        """Return the ids behind one of them.

        Raises:
            CollectionError: it is not among them any more, so nobody can say where to go on.
        """
        if after is None:
            return [*ids[:limit]]
        if is_by_id:
            first = bisect_right(ids, after)
        elif after in ids:
            first = ids.index(after) + 1
        else:
            raise CollectionError("the item that the last page ended with is gone. Begin with the first page")
        return [*ids[first : first + limit]]

    def facets(
        self, *, where: str | None = None, columns: Sequence[str] = (), within: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Count items by the values of their columns, see `schemas.FacetsAnswer`.

        Args:
            where: condition on the columns.
            columns: which of them. Default: all.
            within: only these items.

        Raises:
            CollectionError: there is no such column, or `where` is no condition.
        """
        collection = self._collection()
        own = collection.columns()
        for column in columns:
            _require(column, own)
        chosen = [*columns, *(() if columns else own)][:MOST_COLUMNS]

        def read() -> dict[str, Any]:
            table = _among(collection.table(["id", *MODALITIES, *chosen], where=where), within)
            counts = {
                name: int(pc.sum(pc.greater(pc.list_value_length(table[name]), 0)).as_py() or 0) for name in MODALITIES
            }
            described = [(name, _facet(table[name])) for name in chosen]
            return {
                "total": table.num_rows,
                "modalities": {name: count for name, count in counts.items() if count},
                "columns": [{"name": name, **facet} for name, facet in described if facet is not None],
            }

        return self._once(("facets", collection.version, where, tuple(chosen), _key(within)), read)

    def _once(self, key: Hashable, read: Callable[[], T]) -> T:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]  # type: ignore[no-any-return]  # of this key
        value = read()
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return value


def _require(column: str, columns: Sequence[str]) -> None:
    if column not in columns:
        raise CollectionError(f"there is no column {column!r:.200}. Columns: {', '.join(columns) or 'none'}")


def _key(within: Sequence[str] | None) -> Hashable:
    return None if within is None else tuple(within)


def _among(table: pa.Table, within: Sequence[str] | None) -> pa.Table:
    if within is None:
        return table
    return table.filter(pc.is_in(table["id"], value_set=pa.array(within, pa.string())))


def _facet(column: pa.ChunkedArray) -> dict[str, Any] | None:
    """Describe a column: by its values and how often each occurs, or as a range; None for texts that hardly repeat."""
    missing, present = column.null_count, column.drop_null()
    kind = column.type
    counted = pc.value_counts(present) if len(present) else None
    different = 0 if counted is None else len(counted)
    is_ordered = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    if is_ordered and different > _FEW:
        return {"kind": "range", "missing": missing, **_range(present)}
    if counted is None or (different > _SHOWN and different > len(present) / 2):
        return None
    values, counts = counted.field(0).to_pylist(), counted.field(1).to_pylist()
    rows = sorted(zip(values, counts, strict=True), key=lambda row: (-row[1], str(row[0])))
    return {
        "kind": "values",
        "missing": missing,
        "values": [{"value": _plain(value), "count": count} for value, count in rows[:_SHOWN]],
        "more": max(different - _SHOWN, 0),
    }


def _range(present: pa.ChunkedArray) -> dict[str, Any]:
    """Return the bounds of a column, and how many values lie in each part of it."""
    bounds = pc.min_max(present)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if pa.types.is_temporal(present.type):
        present = present.cast(pa.timestamp("us")).cast(pa.int64())
    numbers = present.to_numpy().astype(np.float64)
    counts, _ = np.histogram(numbers[np.isfinite(numbers)], bins=_BINS)
    return {"low": _plain(low), "high": _plain(high), "bins": counts.tolist()}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: dates and times in ISO 8601."""
    return value.isoformat() if hasattr(value, "isoformat") else value
