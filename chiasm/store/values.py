"""Values of metadata columns: which cells are missing, what type a column has, and how two types become one."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from chiasm.files import finite, one_form
from chiasm.store.rows import Row, Types
from chiasm.types import Scalar

ColumnKind: TypeAlias = Literal["string", "int", "float", "bool", "date", "timestamp"]
"""The type of a metadata column: `str`, `int` (of 64 bits), `float`, `bool`, `date` or `datetime`, or None."""

MISSING = frozenset(
    [
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-1.#IND",
        "-1.#QNAN",
        "-NaN",
        "-nan",
        "1.#IND",
        "1.#QNAN",
        "<NA>",
        "N/A",
        "NA",
        "NULL",
        "NaN",
        "NaT",
        "None",
        "n/a",
        "nan",
        "null",
    ]
)
"""Cells that say that there is no value: those that pandas reads as such, and its NaT."""

_INT64 = range(-(2**63), 2**63)
_EXACT = 2**53  # whole numbers up to this are floats without a loss


def is_missing(cell: str) -> bool:
    """Return whether a cell says that there is no value.

    Example:
        >>> [is_missing(cell) for cell in (" ", "NULL", "none", "0")]
        [True, True, False, False]
    """
    stripped = cell.strip()
    return not stripped or stripped in MISSING


def column_of(name: str, rows: Sequence[Row], types: Types) -> tuple[ColumnKind, list[Scalar]]:
    """Return the kind of a metadata column, and its values in that kind.

    Raises:
        ManifestError: the column holds bytes.
    """
    values = [row.values.get(name) for row in rows]
    values = [None if isinstance(value, str) and is_missing(value) else value for value in values]
    texts = _label_lists(values, is_text=types == "none")
    if texts is not None:
        return "string", texts
    if types == "none":
        return _from_text(values, tuple(_PARSERS))
    values = [_plain(row, name, value) for row, value in zip(rows, values, strict=True)]
    kinds: set[ColumnKind] = {_KINDS[type(value)] for value in values if value is not None}
    if kinds == {"string"} and types == "json":
        return _from_text(values, _TIMES)
    kind = joint_kind(kinds, values)
    return kind, [as_kind(value, kind) for value in values]


def joint_kind(kinds: set[ColumnKind], values: Sequence[Scalar]) -> ColumnKind:
    """Return the narrowest kind that holds all values of some kinds without a loss; of no kinds, `string`.

    Example:
        >>> joint_kind({"int", "float"}, [3, 3.5]), joint_kind({"int", "float"}, [2**60 + 1, 0.5])
        ('float', 'string')
    """
    largest = max((abs(value) for value in values if type(value) is int), default=0)
    if kinds == {"int", "float"} and largest <= _EXACT:
        return "float"
    if kinds == {"date", "timestamp"}:
        return "timestamp"
    too_large = any(type(value) is int and value not in _INT64 for value in values)
    return next(iter(kinds)) if len(kinds) == 1 and not too_large else "string"


def kind_of(value: Scalar) -> ColumnKind:
    """Return the kind of one value that is not None."""
    return _KINDS[type(value)]


def as_kind(value: Scalar, kind: ColumnKind) -> Scalar:
    """Return a value in a kind that holds it.

    Example:
        >>> as_kind(3, "float"), as_kind(True, "string"), as_kind(date(2024, 5, 31), "timestamp")
        (3.0, 'true', datetime.datetime(2024, 5, 31, 0, 0))
    """
    if value is None or _KINDS[type(value)] == kind:
        return value
    if kind == "float" and isinstance(value, int):
        return float(value)
    if kind == "timestamp" and isinstance(value, date):
        return datetime.combine(value, time())
    return value.isoformat() if isinstance(value, date) else json.dumps(value)


def utc(moment: datetime) -> datetime | None:
    """Return a time with a zone in UTC; None where that is not in the years 1 to 9999."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return None


# ---------------------------------------------------------------------------------------------------- several labels


def _label_lists(values: Sequence[Any], *, is_text: bool) -> list[Scalar] | None:
    """Return lists of texts as `fit` reads several labels, joined by ";"; None where there are none, or other values, too.

    In CSV a list is a JSON array, or one as Python prints it (pandas does). A label that holds ";" or "|" would fall apart,
    so then lists stay JSON, which `fit` reads, too. A text among lists is one label.
    """
    cells = [_list_in(value) if is_text and value is not None else value for value in values]
    lists = [cell for cell in cells if isinstance(cell, list)]
    if not lists or not all(isinstance(one, str) for cell in lists for one in cell):
        return None
    if not all(cell is None or isinstance(cell, str | list) for cell in cells):
        return None
    falls_apart = any(set(";|") & set(one) for cell in lists for one in cell)

    def written(cell: list[str] | str | None) -> str | None:
        if not isinstance(cell, list):
            return None if cell is None else one_form(cell)
        labels = [one_form(one) for one in cell]
        # A separator alone says that the item has none of the labels.
        return json.dumps(labels, ensure_ascii=False) if falls_apart else ";".join(labels) or ";"

    return [written(cell) for cell in cells]


def _list_in(cell: str) -> list[Any] | str:
    """Return the list that a cell of a CSV writes, or the cell."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, list) else cell
    return cell


# --------------------------------------------------------------------------------------------------------- from text


def _from_text(cells: Sequence[str | None], kinds: Sequence[ColumnKind]) -> tuple[ColumnKind, list[Scalar]]:
    """Return the first of some kinds that all cells have, and their values in it."""
    distinct = {cell for cell in cells if cell is not None}
    for kind in kinds:
        form, value_of = _PARSERS[kind]
        if not all(re.fullmatch(form, cell) for cell in distinct):
            continue
        try:
            parsed: dict[str | None, Scalar] = {cell: value_of(cell) for cell in distinct}
        except ValueError:
            continue
        zones = {value.tzinfo is None for value in parsed.values() if isinstance(value, datetime)}
        has_value = any(value is not None for value in parsed.values())
        if has_value and len(zones) < 2:  # times with and without a zone cannot be compared
            return kind, [parsed.get(cell) for cell in cells]
    return "string", [None if cell is None else one_form(cell) for cell in cells]


def _int64(cell: str) -> int:
    if int(cell) not in _INT64:
        raise ValueError(cell)
    return int(cell)


def _float64(cell: str) -> float | None:
    if len(cell) > 15 and cell.lstrip("-").isdigit():
        raise ValueError(f"no float holds that many digits: {cell}")
    return value if math.isfinite(value := float(cell)) else None


_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?"
_PARSERS: dict[ColumnKind, tuple[str, Callable[[str], Scalar]]] = {  # the form of a cell, and its value
    "bool": ("(?i:true|false)", lambda cell: cell.lower() == "true"),
    "int": (r"0|-?[1-9]\d{,18}", _int64),
    "float": (r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?i:inf|infinity)", _float64),
    "date": (_DATE, date.fromisoformat),
    "timestamp": (f"{_DATE}(?:{_TIME})?", datetime.fromisoformat),
}
_TIMES: tuple[ColumnKind, ...] = ("date", "timestamp")
_KINDS: dict[type, ColumnKind] = {
    bool: "bool",
    int: "int",
    float: "float",
    date: "date",
    datetime: "timestamp",
    str: "string",
}


# -------------------------------------------------------------------------------------------- from JSON and Parquet


def _plain(row: Row, column: str, value: Any) -> Scalar:
    """Return a value of JSON or Parquet as one of the types that metadata have."""
    match value:
        case None | bool() | int():
            return value
        case str():
            return one_form(value)
        case float() | Decimal():
            return number if math.isfinite(number := float(value)) else None
        case datetime():
            return datetime.fromisoformat(value.isoformat())  # of no subclass
        case date():
            return value
        case timedelta():
            return value.total_seconds()
        case list() | dict():
            return one_form(json.dumps(finite(value), ensure_ascii=False, default=str))
        case bytes():
            raise row.error("the column holds bytes; write them to files and name those, or remove the column", column)
        case _:
            return one_form(str(value))
