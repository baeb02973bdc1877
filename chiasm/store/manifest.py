"""Read a folder, a table or a single file as a list of items with sources and metadata.

Knows names, ids and types of columns. Opens no media: a missing or broken file is an outcome of the run that opens it
(`chiasm.media`), and not an error here. Only a file whose extension says nothing is sniffed, to learn whether it is a
medium at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chiasm.errors import ManifestError, MediaError
from chiasm.files import is_unicode, one_form, path_on_disk
from chiasm.store.annotations import Layout
from chiasm.store.folders import read_folder
from chiasm.store.listing import Manifest, modality_of, read_table
from chiasm.store.rows import TABLES
from chiasm.types import FileOutcome, Item, Outcome, Source

__all__ = ["Manifest", "read_manifest", "read_manifests"]

_NEAR_TABLES = {
    ".json": "write one object a line and call it .jsonl",
    ".xlsx": "save it as .csv",
    ".xls": "save it as .csv",
    ".ods": "save it as .csv",
    ".feather": "write it as .parquet",
    ".arrow": "write it as .parquet",
    ".pkl": "write it as .parquet",
}


def read_manifests(paths: Sequence[str | Path], *, layout: Layout = "auto") -> list[Manifest]:
    """Read folders, tables and files that are named together, such as by `photos/*`.

    Files of one folder with the same name but for the extension are one item, as they are where the folder is named.

    Raises:
        ManifestError: as `read_manifest`; or there are no paths, or no item in any of them.
    """
    if not paths:
        raise ManifestError("no path", "name at least one folder, table or file")
    manifests: list[Manifest] = []
    files: dict[str, int] = {}  # path without extension -> place of its manifest
    for manifest in (read_manifest(path, layout=layout) for path in paths):
        stem = os.path.splitext(one_form(manifest.source))[0]  # noqa: PTH122
        if [source.path for item in manifest.items for source in item.sources] == [manifest.source]:
            place = files.setdefault(stem, len(manifests))
            if place < len(manifests):
                (before,), (item,) = manifests[place].items, manifest.items
                both = replace(before, sources=tuple(dict.fromkeys(before.sources + item.sources)))
                manifests[place] = replace(manifests[place], items=(both,))
                continue
        manifests.append(manifest)
    outcomes = [outcome for manifest in manifests for outcome in manifest.outcomes]
    if not any(manifest.items for manifest in manifests):
        others = f" (and {len(outcomes) - 1} more that cannot be used)" if len(outcomes) > 1 else ""
        raise ManifestError(outcomes[0].path, outcomes[0].reason + others)
    return manifests


def read_manifest(path: str | Path, *, layout: Layout = "auto") -> Manifest:
    """Read a folder, a table or one media file as a list of items.

    **A folder** is read with all folders below. Files with the same path but for the extension are one item
    (`bird.png`, `bird.txt`, `bird.ogg`); that path, relative to the folder and with `/`, is its id. Metadata are
    `folder` (the relative folder, `.` at the top), `label` (the last of its names that is no split, None at the top) and,
    where all folders of media beside each other are called train, validation, test or the like, `split`. Modalities are
    guessed from extensions, without opening files (a `.webm` may hold sound only); the modality that counts is that of
    `chiasm.media.load`. Files of other extensions are sniffed, and become outcomes where they are no media; so does text
    that is not called `.txt` or `.md`, such as sidecars of photos. A `metadata.csv`, `metadata.jsonl` or
    `metadata.parquet` with a column `file_name` describes the files that it lists (Hugging Face's ImageFolder and
    AudioFolder); those outside of the folder are not read. Other tables, broken links, and collections, models and
    reports that chiasm wrote are outcomes. Hidden files and folders, and those that systems leave behind (`Thumbs.db`,
    `__MACOSX`, ...), are passed over in silence. Links are followed, but every folder is read once.

    **A table** is `.csv` or `.tsv` (RFC 4180, UTF-8, or UTF-16 with its mark; comma, semicolon or tab, told from the first
    line, also as Excel's `sep=;`), `.jsonl` or `.ndjson` (an object a line) or `.parquet`. Columns named `image`, `text`,
    `audio` and `video` hold media: a path, absolute or relative to the table's folder, or a list of paths (in CSV a JSON
    array). Where there is no `image`, `audio` and `video`, columns named `file_name`, `file_names`, `*_file_name` and
    `*_file_names` hold paths of any modality. A `text` is a path if it has one line and ends in `.txt` or `.md` or is the
    name of a file, else the text itself. Spaces around paths are dropped; `\\` in them is a `/` where no file has that
    name. `id` is a string or whole number, unique and not empty. Without it the id is the first path without its
    extension; where several rows share that, `#` and a hash of the row's media follow; of rows with nothing but text of
    their own it is `text-` and a hash; of rows with the media of a row before, `#2`, `#3`, ... follow. All other columns
    are metadata. Names that begin with `_` are reserved. Empty rows are passed over. A row that cannot be used (no media,
    a URL, an id that stands before, too many cells, a line that is no JSON) is an outcome; so is one that is equal to a
    row before.

    Types of metadata columns: Parquet and JSON keep theirs; decimals become floats, durations seconds, lists of texts
    several labels (`"pet;animal"`), other lists and objects JSON text. In CSV a column is, by all cells that are not
    empty: `bool` (true, false in any case), `int` (digits with an optional minus, no leading zero), `float` (also `1e-3`,
    `.5`), `date` (`2024-05-31`), `timestamp` (ISO 8601, `2024-05-31T10:00`), else `string`, exactly as written. In JSON,
    too, text in the form of dates is taken for dates. A column that mixes kinds becomes `float` (whole numbers and
    fractions), `timestamp` (dates and times) or else `string`; so do whole numbers beyond 64 bits. None are: empty and
    blank cells, those of `chiasm.store.values.MISSING` (`NULL`, `NaN`, `N/A`, ...), numbers that are not finite, and
    times outside of the years 1 to 9999.

    **Any other file** is one item; its id is its name without the extension. What is no medium is an outcome.

    Ids, names of columns, metadata and folders have their accents composed (Unicode NFC), and files are found whether
    theirs are or not.

    Annotations of COCO, Label Studio, Pascal VOC or YOLO in a folder are columns of its items: `label` (several with ";"
    between), `boxes` (`chiasm.store.boxes`), `split`; captions are texts. Folders are then no labels.

    Args:
        path: the folder, table or media file.
        layout: of a folder: which annotations to read. `"auto"` takes those that are there, `"folder"` none.

    Raises:
        ManifestError: with file, line (of Parquet: row, from 1) and column: the path is empty, missing or unreadable; the
            folder is empty; the table has no media column, no row that can be used, quotes that do not close, or a
            column of bytes.
    """
    if not str(path).strip():
        raise ManifestError(repr(str(path)), 'the path is empty; name a folder, a table or a file ("." is this folder)')
    source = Path(path_on_disk(str(Path.cwd()), str(path)))  # links stay: ids come from names as they were given
    if not is_unicode(str(source)):
        raise ManifestError(ascii(str(source)), "the name is not valid Unicode; rename it")
    try:
        if source.is_dir():
            return read_folder(source, layout=layout)
        if layout not in ("auto", "folder"):
            raise ManifestError(str(source), f"the layout {layout} is of folders, and this is none; name the folder")
        if not source.is_file():
            raise ManifestError(str(source), "there is no such file or folder")
        if source.suffix.lower() not in TABLES:
            return _read_file(source)
        table = read_table(source)
    except OSError as error:
        raise ManifestError(str(source), f"it cannot be read: {error.strerror or error}") from error
    assert table is not None  # it is None only where columns are asked for
    return table


def _read_file(path: Path) -> Manifest:
    try:
        item = Item(one_form(path.stem), (Source(modality_of(str(path)), path=str(path)),))
    except MediaError as error:
        reason = error.reason
        advice = _NEAR_TABLES.get(path.suffix.lower())
        if advice is not None and "annotations" not in reason and "Label Studio" not in reason:
            reason = f"{path.suffix.lower()} is not read as a table; {advice}"
        elif error.outcome is Outcome.UNSUPPORTED:
            reason += f"; expected a folder, a media file or a table ({', '.join(sorted(TABLES))})"
        return Manifest(str(path), (), outcomes=(FileOutcome(str(path), error.outcome, reason),))
    return Manifest(str(path), (item,))
