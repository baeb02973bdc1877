"""Items as folders and tables list them: the manifest, what a file is by its name, and tables read as items.

A row that cannot be used is an outcome and never refuses the others. Formats of tables are in `chiasm.store.rows`, types of
metadata columns in `chiasm.store.values`, folders in `chiasm.store.folders`.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from chiasm import media
from chiasm.errors import ManifestError, MediaError
from chiasm.files import REPORT_MARK, one_form, open_source, path_on_disk
from chiasm.media.kinds import modality_of_name
from chiasm.media.text import describe
from chiasm.store.annotations import kind_of_json
from chiasm.store.rows import TABLES, Row
from chiasm.store.values import ColumnKind, column_of, is_missing
from chiasm.types import MODALITIES, FileOutcome, Item, Modality, Outcome, Scalar, Source


@dataclass(frozen=True)
class Manifest:
    """Items, as a folder or table lists them.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "birds.csv"
        >>> _ = table.write_text("id,image,wingspan\\nowl,owl.png,95\\n", encoding="utf-8")
        >>> manifest = read_table(table)
        >>> manifest.items[0].id, manifest.items[0].metadata, manifest.columns
        ('owl', {'wingspan': 95}, {'wingspan': 'int'})
    """

    source: str  # absolute path of the folder, table or file
    items: tuple[Item, ...]
    columns: dict[str, ColumnKind] = field(default_factory=dict)  # metadata columns; every item has all of them
    outcomes: tuple[FileOutcome, ...] = ()  # files, folders and rows that were seen and belong to no item
    explicit_ids: bool = False  # the ids stand in the table, so they stay when files are renamed

    @property
    def root(self) -> str:
        """The folder that was named, or in which the table or file that was named lies; links resolved."""
        return os.path.realpath(self.source if os.path.isdir(self.source) else os.path.dirname(self.source))  # noqa: PTH112, PTH120

    @property
    def paths(self) -> list[str]:
        """The files of the items."""
        return [source.path for item in self.items for source in item.sources if source.path is not None]


# ------------------------------------------------------------------------------------------------ what a file is


_LOOKED_INTO = 2**16  # bytes at each end of a file, to tell what its text is
_OF_STATISTICS = re.compile(rb'"format"\s*:\s*"chiasm-')
_ANNOTATIONS = {
    "coco": "annotations of COCO: add the folder that they and their pictures are in",
    "labelstudio": "tasks of Label Studio: add the folder that they and their files are in",
}
_OTHER_TEXT = "text that is not called .txt or .md is not read; rename it, or name it in a text column of a table"


def modality_of(path: str) -> Modality:
    """Return the modality of a file by its extension, or else by its content.

    Raises:
        MediaError: `NOT_READ` it is text and not called .txt or .md (sidecars, programs, logs, pages), or a report that
            chiasm wrote; or else as `chiasm.media.sniff`.
    """
    modality = modality_of_name(path)
    if path.lower().endswith(".safetensors") and _OF_STATISTICS.search(_ends(path)):
        raise MediaError(Outcome.NOT_READ, "statistics that chiasm wrote")
    if modality is None and (modality := media.sniff(path)) == "text":
        kind = kind_of_json(path) if path.lower().endswith(".json") else ""
        raise MediaError(Outcome.NOT_READ, _ANNOTATIONS.get(kind, _OTHER_TEXT))
    if path.lower().endswith(".md") and _ends(path).rstrip().endswith(REPORT_MARK.encode()):
        raise MediaError(Outcome.NOT_READ, "a report that chiasm wrote")
    return modality


def _ends(path: str) -> bytes:
    """Return some bytes of both ends of a file; none where it cannot be read, which is found again when it is opened."""
    try:
        with open_source(path) as file:
            begin = file.read(_LOOKED_INTO)
            file.seek(max(len(begin), file.seek(0, os.SEEK_END) - _LOOKED_INTO))
            return begin + file.read()
    except OSError:
        return b""


# ------------------------------------------------------------------------------------------------------- tables


_FILE_NAMES = re.compile(r"(?:.+_)?file_names?")
"""Columns of Hugging Face's ImageFolder and AudioFolder."""


def read_table(path: Path, *, only_file_names: bool = False) -> Manifest | None:
    """Read a table as a list of items, see `chiasm.store.manifest.read_manifest`.

    Args:
        path: the table; its extension is one of `TABLES`.
        only_file_names: return None where no column is called `file_name` or the like, see `_FILE_NAMES`.

    Raises:
        ManifestError: the table cannot be read, or no row of it can be used.
    """
    what = describe(_ends(str(path))[:1000])
    if "pointer" in what or "HTML" in what:
        raise ManifestError(str(path), f"this is {what}, and no table")
    read, types = TABLES[path.suffix.lower()]
    bad: list[ManifestError] = []
    rows = list(read(path, bad))
    if not rows and not bad:
        raise ManifestError(str(path), "the table has no rows")
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    file_names = [name for name in names if _FILE_NAMES.fullmatch(name)]
    if only_file_names and not file_names:
        return None
    if rows:
        _check_names(path, names)
    media_columns: dict[str, Modality | None] = {name: name for name in MODALITIES if name in names}
    if media_columns.keys() <= {"text"}:
        media_columns = dict.fromkeys(file_names) | media_columns
    kept: list[Row] = []
    media_cells: list[tuple[_Part, ...]] = []
    for row in rows:
        try:
            parts = _media_of(row, media_columns, is_text=types == "none")
        except ManifestError as error:
            bad.append(error)
        else:
            kept.append(row)
            media_cells.append(parts)
    ids = _explicit_ids(kept, bad) if "id" in names else _ids_from_media(kept, media_cells, bad)
    if not any(ids):
        raise min(bad, key=lambda error: error.line or 0)
    columns: dict[str, ColumnKind] = {}
    metadata: list[dict[str, Scalar]] = [{} for _ in kept]
    for name in names:
        if name != "id" and name not in media_columns:
            columns[name], values = column_of(name, kept, types)
            for of_row, value in zip(metadata, values, strict=True):
                of_row[name] = value
    items = tuple(
        Item(item_id, tuple(part.source for part in parts), of_row)
        for item_id, parts, of_row in zip(ids, media_cells, metadata, strict=True)
        if item_id
    )
    outcomes = (FileOutcome(error.place, error.outcome or Outcome.BROKEN, error.problem) for error in bad)
    return Manifest(str(path), items, columns, tuple(outcomes), explicit_ids="id" in names)


def _check_names(path: Path, names: Sequence[str]) -> None:
    for position, name in enumerate(names, 1):
        if not name.strip():
            problem = f"column {position} has no name; name it, or remove it (pandas: write with index=False)"
            raise ManifestError(str(path), problem)
        if name.startswith("_"):
            problem = "names that begin with _ are reserved; rename the column (pandas: write with index=False)"
            raise ManifestError(str(path), problem, column=name)
    if not set(names) & set(MODALITIES) and not any(map(_FILE_NAMES.fullmatch, names)):
        close = next((name for name in names if name.strip().lower() in MODALITIES), None)
        hint = f"; rename {close!r} to {close.strip().lower()!r}" if close else ""
        listed = ", ".join(map(repr, names))
        problem = f"no column is called image, text, audio, video or file_name; there are {listed}{hint}"
        raise ManifestError(str(path), problem)


class _Part(NamedTuple):
    """One medium as a row has it."""

    modality: Modality
    written: str
    path: str | None  # absolute; None: what is written is the text itself

    @property
    def source(self) -> Source:
        """Where the medium comes from."""
        return Source(self.modality, text=self.written) if self.path is None else Source(self.modality, path=self.path)


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_ELSEWHERE = re.compile(r"[A-Za-z]:[\\/]|\\\\")  # drives and shares
_NAME = re.compile(r"\S+\.\w{1,5}")


def _media_of(row: Row, columns: dict[str, Modality | None], *, is_text: bool) -> tuple[_Part, ...]:
    """Return the media of a row, in the order of the columns; those without a modality hold files of any."""
    parts: list[_Part] = []
    for column, modality in columns.items():
        value = row.values.get(column)
        if value is None or (is_text and is_missing(value)):
            continue
        if is_text and value.lstrip().startswith("["):
            value = _parse_list(row, column, value)
        cells = (value,) if isinstance(value, str) else _strings(row, column, value)
        parts += [_part(row, column, modality, written) for written in cells if written.strip()]
    if not parts:
        problem = f"the row has no {' and no '.join(columns)}; fill one in, or remove the row"
        raise row.error(problem, outcome=Outcome.EMPTY)
    return tuple(parts)


def _part(row: Row, column: str, modality: Modality | None, written: str) -> _Part:
    folder, stripped = str(row.path.parent), written.strip()
    if modality == "text" and not names_text(folder, stripped):
        return _Part(modality, written, None)
    if ":" in stripped and _URL.match(stripped):
        raise row.error(f"{stripped!r} is a URL; download the file and write its path", column)
    if "\0" in stripped:
        raise row.error(f"{stripped!r} holds a NUL, which no path can", column)
    if os.name != "nt" and _ELSEWHERE.match(stripped) and not Path(folder, stripped).exists():
        problem = f"{stripped!r} is a path of a Windows computer; write paths that are relative to the table"
        raise row.error(problem, column)
    path = path_on_disk(folder, stripped)
    if "\\" in stripped and "\\" not in path:
        stripped = stripped.replace("\\", "/")
    try:
        return _Part(modality or modality_of(path), one_form(stripped), path)
    except MediaError as error:
        raise row.error(f"{stripped!r}: {error.reason}", column, outcome=error.outcome) from error


def names_text(folder: str, cell: str) -> bool:
    """Return whether a cell of a text column names a file: it ends in .txt or .md, or there is a file of this name."""
    if "\n" in cell or len(cell) > 4096:
        return False
    if cell.lower().endswith((".txt", ".md")):
        return True
    return bool(_NAME.fullmatch(cell)) and "\0" not in cell and Path(path_on_disk(folder, cell)).is_file()


def _parse_list(row: Row, column: str, cell: str) -> str | list[Any]:
    """Return the values of a media cell of a CSV that begins with a bracket: of its JSON array, or else the cell itself."""
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError) as error:
        if column != "text" and cell.lstrip().startswith('["'):
            raise row.error(f"{cell!r} begins as a JSON array but is none: {error}", column) from error
        return cell
    return cell if column == "text" and not all(isinstance(part, str) for part in value) else list(value)


def _strings(row: Row, column: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return [value["path"]]  # as Hugging Face's datasets refer to files
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    expected = "a text or a list of texts" if column == "text" else "a path or a list of paths"
    shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:60]}..."
    advice = "; write the bytes to files and name those" if isinstance(value, dict) and "bytes" in value else ""
    raise row.error(f"expected {expected}; got {type(value).__name__} {shown}{advice}", column)


def _explicit_ids(rows: Sequence[Row], bad: list[ManifestError]) -> list[str]:
    """Return the id of each row; "" of those that have none or one that stands before, which go to `bad`."""
    lines: dict[str, int] = {}
    ids = []
    for row in rows:
        value = row.values.get("id")
        name = one_form(str(value))
        problem = ""
        if value is None or not name.strip():
            problem = "the id is empty"
        elif isinstance(value, bool) or not isinstance(value, str | int):
            problem = f"an id is a text or a whole number; got {type(value).__name__} {value!r}"
        elif name in lines:
            problem = f"the id {name!r} stands in line {lines[name]} already; ids have to be unique"
        if problem:
            bad.append(row.error(problem, "id"))
            ids.append("")
        else:
            lines[name] = row.line
            ids.append(name)
    return ids


def _ids_from_media(
    rows: Sequence[Row], media_cells: Sequence[tuple[_Part, ...]], bad: list[ManifestError]
) -> list[str]:
    """Return the id of each row; "" of those that are equal to one before, which go to `bad`."""
    stems = [next((_without_extension(part.written) for part in parts if part.path), None) for parts in media_cells]
    different = {parts: stem for stem, parts in zip(stems, media_cells, strict=True)}
    shared = Counter(different.values())
    seen: dict[tuple[_Part, ...], list[Row]] = {}
    ids: dict[str, int] = {}
    result = []
    for row, stem, parts in zip(rows, stems, media_cells, strict=True):
        before = seen.setdefault(parts, [])
        twin = next((other for other in before if other.values == row.values), None)
        if twin is not None:
            problem = f"the row is the same as in line {twin.line}; it counts once"
            bad.append(row.error(problem, outcome=Outcome.DUPLICATE))
            result.append("")
            continue
        before.append(row)
        if stem is None:
            name = f"text-{_short_digest(chr(0).join(part.written for part in parts), 12)}"
        else:
            name = stem if shared[stem] == 1 else f"{stem}#{_short_digest(json.dumps([part[:2] for part in parts]), 8)}"
        if len(before) > 1:
            name = f"{name}#{len(before)}"
        if name in ids:
            bad.append(row.error(f"the row would get the same id as line {ids[name]}, {name!r}; add a column id"))
            result.append("")
            continue
        ids[name] = row.line
        result.append(name)
    return result


def _without_extension(path: str) -> str:
    path = os.path.normpath(path)
    stem, _, extension = path.rpartition(".")
    return path if "/" in extension or not stem or stem.endswith("/") else stem


def _short_digest(text: str, length: int) -> str:
    return blake2b(text.encode(), digest_size=length // 2).hexdigest()
