"""Read a folder, a table or a single file as a list of items with sources and metadata.

Knows names, ids and types of columns. Opens no media: a missing or broken file is an outcome of the run that opens it
(`chiasm.media`), and not an error here. Only in a folder, a file whose extension says nothing is sniffed, to learn
whether it is a medium at all.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from hashlib import blake2b
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

from chiasm import media
from chiasm.errors import ManifestError, MediaError
from chiasm.files import open_source
from chiasm.media.kinds import modality_of_name
from chiasm.types import MODALITIES, FileOutcome, Item, Modality, Outcome, Scalar, Source

ColumnKind: TypeAlias = Literal["string", "int", "float", "bool", "date", "timestamp"]
"""The type of a metadata column: `str`, `int` (of 64 bits), `float`, `bool`, `date` or `datetime`, or None."""


@dataclass(frozen=True)
class Manifest:
    """Items, as a folder or table lists them.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "birds.csv"
        >>> _ = table.write_text("id,image,wingspan\\nowl,owl.png,95\\n", encoding="utf-8")
        >>> manifest = read_manifest(table)
        >>> manifest.items[0].id, manifest.items[0].metadata, manifest.columns
        ('owl', {'wingspan': 95}, {'wingspan': 'int'})
    """

    source: str  # absolute path of the folder, table or file
    items: tuple[Item, ...]
    columns: dict[str, ColumnKind] = field(default_factory=dict)  # metadata columns; every item has all of them
    outcomes: tuple[FileOutcome, ...] = ()  # files and folders that were seen and belong to no item
    explicit_ids: bool = False  # the ids stand in the table, so they stay when files are renamed


def read_manifest(path: str | Path) -> Manifest:
    """Read a folder, a table or one media file as a list of items.

    **A folder** is read with all folders below. Files with the same path but for the extension are one item
    (`bird.png`, `bird.txt`, `bird.ogg`); that path, relative to the folder and with `/`, is its id. Metadata are
    `folder` (the relative folder, `.` at the top) and `label` (its last component, None at the top). Modalities are
    guessed from extensions, without opening files (a `.webm` may hold sound only); the modality that counts is that of
    `chiasm.media.load`. Files of other extensions are sniffed, and become outcomes where they are no media.
    Hidden files and folders, and those that systems leave behind (`Thumbs.db`, `__MACOSX`, ...), are passed over in
    silence; tables and broken links are outcomes. Links are followed, but every folder is read once.

    **A table** is `.csv` or `.tsv` (RFC 4180, UTF-8; comma, semicolon or tab, told from the first line), `.jsonl` or
    `.ndjson` (an object a line) or `.parquet`. Columns named `image`, `text`, `audio` and `video` hold media: a path,
    absolute or relative to the table's folder, or a list of paths (in CSV a JSON array). A `text` is a path if it ends
    in `.txt` and has one line, else the text itself. Spaces around paths are dropped. `id` is a string or whole
    number, unique and not empty. Without it the id is the first path without its extension; where several rows share
    that, `#` and a hash of the row's media follow; of rows with nothing but text of their own it is `text-` and a hash.
    All other columns are metadata. Names that begin with `_` are reserved. Empty rows are passed over.

    Types of metadata columns: Parquet and JSON keep theirs; decimals become floats, NaN becomes None, lists and objects
    become JSON text. In CSV a column is, by all cells that are not empty: `bool` (true, false in any case), `int`
    (digits with an optional minus, no leading zero), `float` (also `1e-3`, `.5`), `date` (`2024-05-31`), `timestamp`
    (ISO 8601, `2024-05-31T10:00`), else `string`, exactly as written. Empty cells are None. In JSON, too, text in the
    form of dates is taken for dates. A column that mixes kinds becomes `float` (whole numbers and fractions),
    `timestamp` (dates and times) or else `string`; so do whole numbers beyond 64 bits.

    **Any other file** is one item; its id is its name without the extension.

    Args:
        path: the folder, table or media file.

    Raises:
        ManifestError: with file, line (of Parquet: row, from 1) and column: the path is missing, unreadable or of no
            use; the folder is empty; the table has no media column, no rows, rows of unequal length, invalid JSON,
            values of a wrong type, URLs, rows without media, or the same id or the same media twice.
    """
    source = Path(os.path.normpath(Path(path).absolute()))  # links stay: ids come from names as they were given
    if not _is_unicode(str(source)):
        raise ManifestError(ascii(str(source)), "the name is not valid Unicode; rename it")
    try:
        if source.is_dir():
            return _read_folder(source)
        if not source.is_file():
            raise ManifestError(str(source), "there is no such file or folder")
        suffix = source.suffix.lower()
        if suffix in _TABLES:
            return _read_table(source, *_TABLES[suffix])
    except OSError as error:
        raise ManifestError(str(source), f"it cannot be read: {error.strerror or error}") from error
    if suffix in _NEAR_TABLES:
        raise ManifestError(str(source), f"{suffix} is not read as a table; {_NEAR_TABLES[suffix]}")
    return _read_file(source)


# Folders and single files


_TABLE_EXTENSIONS = {"csv", "tsv", "jsonl", "ndjson", "parquet"}
_LEFT_BY_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "system volume information")  # fmt: skip


def _read_folder(folder: Path) -> Manifest:
    sources: dict[str, list[Source]] = {}
    outcomes: list[FileOutcome] = []
    for path, stem in _files_below(str(folder), outcomes):
        try:
            source = Source(_modality(path), path=path)
        except MediaError as error:
            outcomes.append(FileOutcome(path, error.outcome, error.reason))
        else:
            sources.setdefault(stem, []).append(source)
    if not sources and not outcomes:
        raise ManifestError(str(folder), "the folder is empty; put media files into it, or name another")
    items = []
    for stem in sorted(sources):
        parent, _, _ = stem.rpartition("/")
        metadata: dict[str, Scalar] = {"folder": parent or ".", "label": parent.rpartition("/")[2] or None}
        items.append(Item(stem, tuple(sources[stem]), metadata))
    outcomes.sort(key=lambda outcome: outcome.path)
    return Manifest(str(folder), tuple(items), {"folder": "string", "label": "string"}, tuple(outcomes))


def _files_below(folder: str, outcomes: list[FileOutcome]) -> Iterator[tuple[str, str]]:
    """Yield path and id of every file that may be a medium, the files of a folder by name. Others go to `outcomes`.

    Folders behind links come last, so that a folder that is reached twice is read under its own name.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = [(folder, "")], list[tuple[str, str]]()
    while folders or linked:
        path, prefix = folders.pop() if folders else linked.pop()
        try:
            status = os.stat(path)  # noqa: PTH116  # thousands of folders: strings are several times as fast as Path
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            outcomes.append(FileOutcome(path, Outcome.BROKEN, f"the folder cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            name = entry.name
            if name.startswith((".", "~$")) or name.lower() in _LEFT_BY_SYSTEMS:
                continue
            if not _is_unicode(name):
                shown = os.fsencode(entry.path).decode("utf-8", "replace")
                outcomes.append(FileOutcome(shown, Outcome.BROKEN, "the name is not valid Unicode; rename it"))
                continue
            try:
                is_file, is_folder = entry.is_file(), entry.is_dir()
            except OSError as error:  # a link to itself
                outcomes.append(FileOutcome(entry.path, Outcome.BROKEN, f"cannot be read: {error.strerror}"))
                continue
            stem, dot, extension = name.rpartition(".")
            if is_folder:
                (linked if entry.is_symlink() else folders).append((entry.path, f"{prefix}{name}/"))
            elif is_file and extension.lower() not in _TABLE_EXTENSIONS:
                yield entry.path, prefix + (stem if dot else name)
            elif is_file:
                reason = "a table inside a folder is not read; name the table itself to add what it lists"
                outcomes.append(FileOutcome(entry.path, Outcome.UNSUPPORTED, reason))
            elif entry.is_symlink():
                outcomes.append(FileOutcome(entry.path, Outcome.BROKEN, "a link to nothing"))
            else:
                outcomes.append(FileOutcome(entry.path, Outcome.UNSUPPORTED, "a device or a pipe, not a file"))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _modality(path: str) -> Modality:
    """Return the modality of a file by its extension, or else by its content."""
    return modality_of_name(path) or media.sniff(path)


_NEAR_TABLES = {
    ".json": "write one object a line and call it .jsonl",
    ".xlsx": "save it as .csv",
    ".xls": "save it as .csv",
    ".ods": "save it as .csv",
    ".feather": "write it as .parquet",
    ".arrow": "write it as .parquet",
    ".pkl": "write it as .parquet",
}


def _read_file(path: Path) -> Manifest:
    try:
        item = Item(path.stem, (Source(_modality(str(path)), path=str(path)),))
    except MediaError as error:
        if error.outcome is Outcome.UNSUPPORTED:
            problem = f"{error.reason}; expected a folder, a media file or a table ({', '.join(sorted(_TABLES))})"
            raise ManifestError(str(path), problem) from error
        return Manifest(str(path), (), outcomes=(FileOutcome(str(path), error.outcome, error.reason),))
    return Manifest(str(path), (item,))


# Tables: every format yields rows, and one function makes items of them


@dataclass(frozen=True)
class _Row:
    """One row of a table: its line, and its values by column name. None is a missing value."""

    path: Path
    line: int
    values: Mapping[str, Any]

    def error(self, problem: str, column: str | None = None) -> ManifestError:
        """Return an error that names the row."""
        return ManifestError(str(self.path), problem, line=self.line, column=column)


_Types: TypeAlias = Literal["none", "json", "all"]
"""The types that values of a table have: none (all are text), those of JSON (all but dates), or all."""


def _read_table(path: Path, read: Callable[[Path], Iterator[_Row]], types: _Types) -> Manifest:
    rows = list(read(path))
    if not rows:
        raise ManifestError(str(path), "the table has no rows")
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    _check_names(path, names)
    modalities = [modality for modality in MODALITIES if modality in names]
    media_cells = [_media_of(row, modalities, is_text=types == "none") for row in rows]
    ids = _explicit_ids(rows) if "id" in names else _ids_from_media(rows, media_cells)
    columns: dict[str, ColumnKind] = {}
    metadata: list[dict[str, Scalar]] = [{} for _ in rows]
    for name in names:
        if name != "id" and name not in modalities:
            columns[name], values = _column(name, rows, types)
            for of_row, value in zip(metadata, values, strict=True):
                of_row[name] = value
    folder = str(path.parent)
    items = tuple(
        Item(item_id, tuple(_source(folder, part) for part in parts), of_row)
        for item_id, parts, of_row in zip(ids, media_cells, metadata, strict=True)
    )
    return Manifest(str(path), items, columns, explicit_ids="id" in names)


def _check_names(path: Path, names: Sequence[str]) -> None:
    for position, name in enumerate(names, 1):
        if not name.strip():
            problem = f"column {position} has no name; name it, or remove it (pandas: write with index=False)"
            raise ManifestError(str(path), problem)
        if name.startswith("_"):
            problem = "names that begin with _ are reserved; rename the column (pandas: write with index=False)"
            raise ManifestError(str(path), problem, column=name)
    if not set(names) & set(MODALITIES):
        close = next((name for name in names if name.strip().lower() in MODALITIES), None)
        hint = f"; rename {close!r} to {close.strip().lower()!r}" if close else ""
        listed = ", ".join(map(repr, names))
        raise ManifestError(str(path), f"no column is called image, text, audio or video; there are {listed}{hint}")


class _Part(NamedTuple):
    """One medium as a row has it."""

    modality: Modality
    written: str
    is_path: bool  # else the text itself


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


def _media_of(row: _Row, modalities: Sequence[Modality], *, is_text: bool) -> tuple[_Part, ...]:
    """Return the media of a row, in the order of `MODALITIES`."""
    parts: list[_Part] = []
    for modality in modalities:
        value = row.values.get(modality)
        if value is None:
            continue
        if is_text and value.lstrip().startswith("["):
            value = _parse_list(row, modality, value)
        for written in (value,) if isinstance(value, str) else _strings(row, modality, value):
            stripped = written.strip()
            if not stripped:
                continue
            is_path = modality != "text" or (stripped[-4:].lower() == ".txt" and "\n" not in stripped)
            if is_path and ":" in stripped and _URL.match(stripped):
                raise row.error(f"{stripped!r} is a URL; download the file and write its path", modality)
            if is_path and "\0" in stripped:
                raise row.error(f"{stripped!r} holds a NUL, which no path can", modality)
            parts.append(_Part(modality, stripped if is_path else written, is_path))
    if not parts:
        raise row.error(f"the row has no {' and no '.join(modalities)}; fill one in, or remove the row")
    return tuple(parts)


def _parse_list(row: _Row, column: Modality, cell: str) -> str | list[Any]:
    """Return the values of a media cell of a CSV that begins with a bracket: of its JSON array, or else the cell itself."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        if column != "text" and cell.lstrip().startswith('["'):
            raise row.error(f"{cell!r} begins as a JSON array but is none: {error}", column) from error
        return cell
    return cell if column == "text" and not all(isinstance(part, str) for part in value) else list(value)


def _strings(row: _Row, column: Modality, value: Any) -> list[str]:
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    expected = "a text or a list of texts" if column == "text" else "a path or a list of paths"
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
    raise row.error(f"expected {expected}; got {type(value).__name__} {shown}", column)


def _source(folder: str, part: _Part) -> Source:
    if not part.is_path:
        return Source(part.modality, text=part.written)
    path = os.path.join(folder, part.written)  # noqa: PTH118  # a fifth of the time of Path
    return Source(part.modality, path=os.path.normpath(path))


def _explicit_ids(rows: Sequence[_Row]) -> list[str]:
    lines: dict[str, int] = {}
    for row in rows:
        value = row.values.get("id")
        if value is None or not str(value).strip():
            raise row.error("the id is empty", "id")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise row.error(f"an id is a text or a whole number; got {type(value).__name__} {value!r}", "id")
        if str(value) in lines:
            problem = f"the id {str(value)!r} stands in line {lines[str(value)]} already; ids have to be unique"
            raise row.error(problem, "id")
        lines[str(value)] = row.line
    return list(lines)


def _ids_from_media(rows: Sequence[_Row], written: Sequence[tuple[_Part, ...]]) -> list[str]:
    lines: dict[tuple[_Part, ...], int] = {}
    for row, parts in zip(rows, written, strict=True):
        if parts in lines:
            raise row.error(f"the same media stand in line {lines[parts]} already; remove one, or add a column id")
        lines[parts] = row.line
    stems = [next((_without_extension(part.written) for part in parts if part.is_path), None) for parts in written]
    shared = Counter(stems)
    ids: dict[str, int] = {}
    for row, stem, parts in zip(rows, stems, written, strict=True):
        if stem is None:
            name = f"text-{_short_digest(chr(0).join(part.written for part in parts), 12)}"
        else:
            name = stem if shared[stem] == 1 else f"{stem}#{_short_digest(json.dumps([part[:2] for part in parts]), 8)}"
        if name in ids:
            raise row.error(f"the row would get the same id as line {ids[name]}, {name!r}; add a column id")
        ids[name] = row.line
    return list(ids)


def _without_extension(path: str) -> str:
    stem, _, extension = path.rpartition(".")
    return path if "/" in extension or not stem or stem.endswith("/") else stem


def _short_digest(text: str, length: int) -> str:
    return blake2b(text.encode(), digest_size=length // 2).hexdigest()


# Types of metadata columns

_INT64 = range(-(2**63), 2**63)


def _column(name: str, rows: Sequence[_Row], types: _Types) -> tuple[ColumnKind, list[Any]]:
    """Return the kind of a metadata column, and its values in that kind."""
    values = [row.values.get(name) for row in rows]
    if types == "none":
        return _from_text(values, tuple(_PARSERS))
    values = [_plain(row, name) for row in rows]
    kinds = {_KINDS[type(value)] for value in values if value is not None}
    if kinds == {"string"} and types == "json":
        return _from_text(values, _TIMES)
    if kinds == {"int", "float"}:
        return "float", [None if value is None else float(value) for value in values]
    too_large = kinds == {"int"} and any(value not in _INT64 for value in values if value is not None)
    if len(kinds) == 1 and not too_large:
        return kinds.pop(), values
    return "string", [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]


def _from_text(cells: Sequence[str | None], kinds: Sequence[ColumnKind]) -> tuple[ColumnKind, list[Any]]:
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
        if parsed and len(zones) < 2:  # times with and without a zone cannot be compared
            return kind, [parsed.get(cell) for cell in cells]
    return "string", list(cells)


def _int64(cell: str) -> int:
    if int(cell) not in _INT64:
        raise ValueError(cell)
    return int(cell)


def _float64(cell: str) -> float:
    if len(cell) > 15 and cell.lstrip("-").isdigit():
        raise ValueError(f"no float holds that many digits: {cell}")
    return float(cell)


_DATE = r"\d{4}-\d\d-\d\d"
_TIME = r"[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?"
_PARSERS: dict[ColumnKind, tuple[str, Callable[[str], Scalar]]] = {  # the form of a cell, and its value
    "bool": ("(?i:true|false)", lambda cell: cell.lower() == "true"),
    "int": (r"0|-?[1-9]\d{,18}", _int64),
    "float": (r"-?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", _float64),
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


def _plain(row: _Row, column: str) -> Any:
    """Return a value of JSON or Parquet as one of the types that metadata have."""
    match value := row.values.get(column):
        case None | bool() | int() | str():
            return value
        case float() | Decimal():
            return float(value) if math.isfinite(value) else None
        case datetime():
            return datetime.fromisoformat(value.isoformat())  # of no subclass
        case date():
            return value
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, default=str)
        case bytes():
            raise row.error("the column holds bytes; write them to files and name those, or remove the column", column)
        case _:
            return str(value)


# Formats of tables


def _csv_rows(path: Path) -> Iterator[_Row]:
    with TextIOWrapper(open_source(path), encoding="utf-8-sig", newline="") as file:
        try:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=_delimiter(first), strict=True)
            names: list[str] | None = None
            line = 1
            for cells in reader:
                if any(cells):
                    if names is None:
                        names = _header(path, cells, line)
                    elif len(cells) == len(names):
                        yield _Row(path, line, {name: cell or None for name, cell in zip(names, cells, strict=True)})
                    else:
                        problem = f"the row has {len(cells)} cells and the first row {len(names)}; "
                        problem += "put cells that hold the delimiter between double quotes"
                        raise ManifestError(str(path), problem, line=line)
                line = reader.line_num + 1
        except csv.Error as error:
            if "field larger" in str(error):
                problem = f"a cell has more than {csv.field_size_limit():,} characters; write it into a .txt file"
            else:
                problem = f"the quotes of the row are not closed, or stand inside a cell: {error}"
            raise ManifestError(str(path), problem, line=line) from error
        except UnicodeDecodeError as error:
            raise _not_utf8(path) from error


def _delimiter(line: str) -> str:
    """Return the most frequent of comma, semicolon and tab in the first line, outside of quotes."""
    outside = re.sub(r'"[^"]*"', "", line)
    return max(",;\t", key=outside.count)


def _header(path: Path, cells: list[str], line: int) -> list[str]:
    names = [cell.strip() for cell in cells]
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ManifestError(str(path), f"{count} columns have this name; rename them", line=line, column=name)
    return names


def _not_utf8(path: Path) -> ManifestError:
    """Return an error that names the line of the first byte that is not UTF-8."""
    with open_source(path) as file:
        for number, line in enumerate(file, 1):  # noqa: B007  # the last one, if none is wrong by itself
            try:
                line.decode("utf-8-sig")
            except UnicodeDecodeError:
                break
    return ManifestError(str(path), "the line is not UTF-8; save the table as UTF-8", line=number)


def _jsonl_rows(path: Path) -> Iterator[_Row]:
    with TextIOWrapper(open_source(path), encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _Row(path, number, _object(path, number, line.rstrip("\r\n")))
        except UnicodeDecodeError as error:
            raise _not_utf8(path) from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError(f"the key {Counter(key for key, _ in pairs).most_common(1)[0][0]!r} stands there twice")
        return values

    def refused(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON; write null")

    try:
        value = json.loads(line, object_pairs_hook=unique, parse_constant=refused)
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


def _parquet_rows(path: Path) -> Iterator[_Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with open_source(path) as source, pq.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                twice = Counter(names).most_common(1)[0][0]
                raise ManifestError(str(path), "several columns have this name; rename them", column=twice)
            for batch in file.iter_batches():
                columns = list(batch.columns)
                for place, column in enumerate(columns):
                    # Python's times have no nanoseconds.
                    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
                        columns[place] = column.cast(pa.timestamp("us", column.type.tz), safe=False)
                for values in zip(*(column.to_pylist() for column in columns), strict=True):
                    number += 1
                    yield _Row(path, number, dict(zip(names, values, strict=True)))
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(str(path), f"it cannot be read as Parquet: {error}") from error


_TABLES: dict[str, tuple[Callable[[Path], Iterator[_Row]], _Types]] = {
    ".csv": (_csv_rows, "none"),
    ".tsv": (_csv_rows, "none"),
    ".jsonl": (_jsonl_rows, "json"),
    ".ndjson": (_jsonl_rows, "json"),
    ".parquet": (_parquet_rows, "all"),
}
