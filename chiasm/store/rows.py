"""Rows of tables: CSV, JSONL and Parquet as values by column name.

A line that cannot be read is left out and named; what makes the whole table unreadable is an error. What columns mean is
left to `chiasm.store.listing`.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from chiasm.errors import ManifestError
from chiasm.files import one_form, open_source
from chiasm.media.text import marked
from chiasm.types import Outcome

if TYPE_CHECKING:
    import pyarrow as pa

Types: TypeAlias = Literal["none", "json", "all"]
"""The types that values of a table have: none (all are text), those of JSON (all but dates), or all."""

_LONGEST_CELL = 2**31 - 1  # characters; a text of many has an outcome of its own (`chiasm.media.Limits`)
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?', re.IGNORECASE)  # what Excel writes into the first line for itself


@dataclass(frozen=True)
class Row:
    """One row of a table: its line, and its values by column name. None is a missing value."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def error(self, problem: str, column: str | None = None, *, outcome: Outcome = Outcome.BROKEN) -> ManifestError:
        """Return an error that names the row."""
        return ManifestError(str(self.path), problem, line=self.line, column=column, outcome=outcome)


def csv_rows(path: Path, bad: list[ManifestError]) -> Iterator[Row]:
    """Yield the rows of a CSV table; those with too few or too many cells go to `bad`."""
    csv.field_size_limit(max(_LONGEST_CELL, csv.field_size_limit()))  # of the process, so it is only ever raised
    with TextIOWrapper(open_source(path), encoding=encoding_of(path), newline="") as file:
        line = 1
        try:
            begin = ""
            while (first := file.readline()) and not first.strip():
                begin += first
            excel = _SEPARATOR.fullmatch(first)
            if excel is None:
                file.seek(0)
            else:
                line += 1 + begin.count("\n")
            before = line - 1
            reader = csv.reader(file, delimiter=excel[1] if excel else _delimiter(first), strict=True)
            names: list[str] | None = None
            for cells in reader:
                if any(cells):
                    if names is None:
                        names = _header(path, cells, line)
                    elif row := _fitted(path, line, names, cells, bad):
                        yield row
                line = before + reader.line_num + 1
        except csv.Error as error:
            problem = f"the quotes of the row are not closed, or stand inside a cell: {error}"
            raise ManifestError(str(path), problem, line=line) from error
        except UnicodeDecodeError as error:
            raise not_unicode(path) from error


def _fitted(path: Path, line: int, names: list[str], cells: list[str], bad: list[ManifestError]) -> Row | None:
    """Return a row whose cells are as many as the names; empty ones at its end are spreadsheets' and do not count."""
    while len(cells) > len(names) and not cells[-1].strip():
        cells.pop()
    if len(cells) == len(names):
        return Row(path, line, {name: cell or None for name, cell in zip(names, cells, strict=True)})
    problem = f"the row has {len(cells)} cells and the first row {len(names)}; "
    problem += "put cells that hold the delimiter between double quotes"
    bad.append(ManifestError(str(path), problem, line=line))
    return None


def encoding_of(path: Path) -> str:
    """Return the encoding that the mark at the beginning of a file names; UTF-8 where there is none."""
    with open_source(path) as file:
        return marked(file.read(4)) or "utf-8"


def _delimiter(line: str) -> str:
    """Return the most frequent of comma, semicolon and tab in the first line, outside of quotes."""
    outside = re.sub(r'"[^"]*"', "", line)
    return max(",;\t", key=outside.count)


def _header(path: Path, cells: list[str], line: int) -> list[str]:
    names = [one_form(cell.strip()) for cell in cells]
    if any("\0" in name for name in names):
        problem = "the names of the columns hold NUL characters, as of UTF-16 without a mark; save the table as UTF-8"
        raise ManifestError(str(path), problem, line=line)
    while names and not names[-1]:  # of empty columns that a spreadsheet has written, too
        names.pop()
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ManifestError(str(path), f"{count} columns have this name; rename them", line=line, column=name)
    return names


def not_unicode(path: Path) -> ManifestError:
    """Return an error that names the line of the first byte that is not UTF-8."""
    if (encoding := encoding_of(path)) not in ("utf-8", "utf-8-sig"):
        return ManifestError(str(path), f"it is not the {encoding} that its mark says; save it as UTF-8")
    wrong = ""
    with open_source(path) as file:
        for number, line in enumerate(file, 1):  # noqa: B007  # the last one, if none is wrong by itself
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                wrong = f"byte 0x{line[error.start]:02X} is not UTF-8. "
                break
    advice = (
        'save it as UTF-8 (Excel: "CSV UTF-8"), or convert it, such as by: iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW'
    )
    return ManifestError(str(path), f"{wrong}UTF-8 is read, and UTF-16 with its mark; {advice}", line=number)


def jsonl_rows(path: Path, bad: list[ManifestError]) -> Iterator[Row]:
    """Yield the rows of a table with a JSON object a line; lines that are none go to `bad`."""
    with TextIOWrapper(open_source(path), encoding=encoding_of(path), newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        yield Row(path, number, _object(path, number, line.rstrip("\r\n")))
                    except ManifestError as error:
                        bad.append(error)
        except UnicodeError as error:
            raise not_unicode(path) from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = {one_form(key): value for key, value in pairs}
        if len(values) < len(pairs):
            raise ValueError(f"the key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} stands there twice")
        return values

    try:
        # Python writes NaN and Infinity, which JSON does not have.
        value = json.loads(line, object_pairs_hook=unique, parse_constant=lambda _: None)
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ManifestError(str(path), f"invalid JSON at character {error.colno}: {error.msg}", line=number) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(str(path), f"invalid JSON: {error}", line=number) from error
    if not isinstance(value, dict):
        problem = f'expected an object such as {{"image": "a.png"}}; got {type(value).__name__}'
        raise ManifestError(str(path), problem, line=number)
    return value


def parquet_rows(path: Path, _bad: list[ManifestError]) -> Iterator[Row]:
    """Yield the rows of a Parquet table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with open_source(path) as source, pq.ParquetFile(source) as file:
            names = [one_form(name) for name in file.schema_arrow.names]
            if len(set(names)) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise ManifestError(str(path), "several columns have this name; rename them", column=twice)
            for batch in file.iter_batches():
                for values in zip(*map(_python_values, batch.columns), strict=True):
                    number += 1
                    yield Row(path, number, dict(zip(names, values, strict=True)))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(str(path), f"it cannot be read as Parquet: {error}") from error


def _python_values(column: pa.Array) -> list[Any]:
    """Return the values of a column in Python's types; None where these cannot hold one, such as the year 29349."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        # Python's times have no nanoseconds. Values with a zone are UTC, whatever zone they are shown in.
        unit = "us" if column.type.unit == "ns" else column.type.unit
        column = column.cast(pa.timestamp(unit, column.type.tz and "UTC"), safe=False)
    elif pa.types.is_duration(column.type):
        column = column.cast(pa.duration("us"), safe=False)
    elif pa.types.is_time64(column.type):
        column = column.cast(pa.time64("us"), safe=False)
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError, LookupError):
        return [_python_value(value) for value in column]


def _python_value(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError, LookupError):
        return None


TABLES: dict[str, tuple[Callable[[Path, list[ManifestError]], Iterator[Row]], Types]] = {
    ".csv": (csv_rows, "none"),
    ".tsv": (csv_rows, "none"),
    ".jsonl": (jsonl_rows, "json"),
    ".ndjson": (jsonl_rows, "json"),
    ".parquet": (parquet_rows, "all"),
}
