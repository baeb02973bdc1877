"""The verb `export`: items of a collection in the formats of other tools; models and collections as one file that runs
without chiasm (`chiasm.verbs.bundles`).

Tables (CSV, Parquet) name the files where they are, and `chiasm add` reads them again. The other formats are new folders
with copies of the files, as the tool in question wants them.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, get_args
from urllib.parse import quote, unquote

import pyarrow as pa

from chiasm import work
from chiasm.errors import ChiasmError, LabelError, MediaError
from chiasm.evaluation.record import Record
from chiasm.files import finite, open_source, strict_json, whole_folder, write_whole
from chiasm.media.image import size_of
from chiasm.recognition.targets import infer_kind, split_labels
from chiasm.splits import class_name
from chiasm.store.boxes import BOXES, WHOLE, Box, read_boxes
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, FileOutcome, Modality, Outcome

Format: TypeAlias = Literal[
    "csv", "parquet", "imagefolder", "coco", "fiftyone", "labelstudio", "chiasm", "onnx", "html"
]

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

_BY_SUFFIX: dict[str, Format] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".chiasm": "chiasm",
    ".onnx": "onnx",
    ".html": "html",
}
_UNSAFE = re.compile(r"[^\w.+=@() -]+")
_LONGEST_NAME = 120  # characters of a copy's name
_TAGS: dict[Modality, str] = {"image": "Image", "audio": "Audio", "video": "Video", "text": "Text"}
"""The tags of Label Studio, in the order in which they are shown."""
_OF_FIFTYONE = frozenset({"id", "_id", "_cls", "tags", "label", "confidence", "logits", "field_names", "to_dict"})
"""Names that its labels use themselves: an attribute of such a name is refused."""


@dataclass(frozen=True)
class Form:
    """A form of a model in one file, as measured on held-out items."""

    name: str
    megabytes: float
    milliseconds: float  # of one core an item, from files to the answer
    f1_macro: float
    loss: float  # of macro-F1, against the full model


@dataclass(frozen=True)
class ExportReport(Record):
    """The table, folder or bundle that was written."""

    path: str
    format: Format
    items: int  # of a model, those that it learned from
    files: int  # that were copied; of a table none
    outcomes: tuple[
        FileOutcome, ...
    ]  # of files that could not be copied, and of items that the format has no place for
    size: int | None = None  # bytes of a bundle
    notes: tuple[str, ...] = ()  # of a bundle: how it is used; what is left out of it, and why
    forms: tuple[Form, ...] = ()  # of a bundle within a budget, those measured


def export(
    source: str | Path,
    *,
    out: str | Path,
    format: Format | Literal["auto"] = "auto",  # noqa: A002  # its name in every tool
    label: str = "label",
    where: str | None = None,
    int8: bool = False,
    fp16: bool = False,
    budget: str | None = None,
    on: str | Path | None = None,
    smaller: str | Path | None = None,
    report: str | Path | None = None,
    dimension: int | None = None,
    thumbnails: bool = False,
    texts: bool = False,
) -> ExportReport:
    """Write the items of a collection as a table or a folder that another tool reads, or something as one file that runs.

    Args:
        source: the collection; for `"chiasm"` that or the folder of a model.
        out: for CSV and Parquet a file, which is replaced; else a folder that does not exist yet.
        format: `"csv"`, `"parquet"`: a row an item, with absolute paths; `chiasm add` reads it. `"imagefolder"`: copies of
            the files by split and label, with a `metadata.jsonl` (Hugging Face's ImageFolder and AudioFolder). `"coco"`:
            pictures and `annotations.json`, with boxes where the items have some (column `boxes`). `"fiftyone"`: `data` and
            `labels.json` (FiftyOneImageDetectionDataset where there are boxes, else FiftyOneImageClassificationDataset).
            `"labelstudio"`: `tasks.json`, `config.xml` and the files. `"chiasm"`: a model, or the vectors of a
            collection to search in, with the encoders; runs without chiasm, see `chiasm.predict_script`. `"onnx"`: a model of
            one column as one graph from pixels, of texts alone from tokens, for other languages. `"html"`: such a model of
            pictures as a page that runs it in a browser. `"auto"`: by the suffix of `out`.
        label: the column of labels; several in one cell stand between ";" or "|". Tables have all columns in any case.
        where: condition on the columns. Default: all items.
        int8: of `"chiasm"`, `"onnx"` and `"html"`: the encoders run in 8-bit integers.
        fp16: of these: their weights and values are in float16, which GPUs calculate in. A CPU is slower with them.
        budget: of a model as `"chiasm"`: what the file may cost, such as `"30MB"`, or `"25ms"` of one core an item. The smallest
            or fastest form is taken whose macro-F1 on held-out items is less than one standard error below that of the full one.
        on: the collection with labelled items that the model has not learned from, for the budget.
        smaller: another model of the same column, such as of a compressed encoder, whose forms are among those of the budget.
        report: also write what the forms cost, as a table and curves: `.html`, `.md` or `.json`; also where none is taken. Of a
            collection: what a search finds by the dimension.
        dimension: of a collection as `"chiasm"`: numbers a vector, fewer than it has. What a search still finds is measured.
        thumbnails: of a collection as `"chiasm"`: small pictures go along, of videos too.
        texts: of a collection as `"chiasm"`: whole texts and transcripts go along, and not the first words of texts alone.

    Raises:
        ChiasmError: no such format, the encoders cannot leave, the folder exists, no item meets the condition, the label column is
            missing, or the
            disk cannot be written to.
    """
    source, target = Path(source).expanduser(), Path(out).expanduser()
    chosen = _chosen(target, format)
    is_collection = (source / "chiasm.json").is_file()
    asked = {
        "label": label != "label", "where": where is not None, "int8": int8, "budget": budget is not None, "on": on is not None,
        "fp16": fp16, "smaller": smaller is not None, "report": report is not None,
        "dimension": dimension is not None, "thumbnails": thumbnails, "texts": texts,
    }  # fmt: skip
    what, options = _options_of(chosen, is_collection=is_collection)
    extra = [name for name, is_asked in asked.items() if is_asked and name not in options]
    if extra:
        raise ChiasmError(f"{', '.join(extra)}: not for {what}; leave it out")
    if chosen in ("chiasm", "html", "onnx"):
        from chiasm.verbs import bundles  # with what writes graphs

        if int8 and fp16:
            raise ChiasmError("int8 and fp16 are two precisions: leave one out")
        precision: Precision = "int8" if int8 else "fp16" if fp16 else "fp32"
        if chosen != "chiasm":
            write = bundles.export_graph if chosen == "onnx" else bundles.export_page
            return write(source, target, precision=precision)
        if is_collection:
            wanted = bundles.Searchable(where, precision, dimension, thumbnails, texts)
            return bundles.export_collection(source, target, wanted, report=report)
        if budget is None and (on, smaller, report) == (None, None, None):
            return bundles.export_model(source, target, precision=precision)
        if budget is None or on is None or precision != "fp32":
            raise ChiasmError(
                "a budget chooses the precision of a model, by a collection with items that it has not learned from: give budget "
                "with on, and without int8 and fp16"
            )
        return bundles.export_within(source, target, budget=budget, on=on, smaller=smaller, report=report)
    opened = Collection.open(source)
    rows = opened.items(where=where)
    if not rows:
        raise ChiasmError(f"{opened.path} has no item" + (f" with {where}" if where else "") + ": nothing is written")
    if label not in opened.columns() and label != "label":
        raise ChiasmError(
            f"{opened.path} has no column {label!r}. Its columns: {', '.join(opened.columns()) or 'none'}"
        )
    try:
        if chosen in _BY_SUFFIX.values():
            table = export_table(opened, rows)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, csv_bytes(table) if chosen == "csv" else parquet_bytes(table))
            return ExportReport(str(target), chosen, len(rows), 0, ())
        if target.exists():
            raise ChiasmError(f"{target} exists already. Name a new folder")
        folder = _Folder(rows, label, opened.modalities())
        with whole_folder(target) as draft:
            _WRITERS[chosen](folder, draft)
    except OSError as error:
        raise ChiasmError(f"{target} cannot be written: {error}") from error
    return ExportReport(str(target), chosen, folder.items, folder.files, tuple(folder.outcomes))


def _options_of(chosen: Format, *, is_collection: bool) -> tuple[str, tuple[str, ...]]:
    """Return what is written, in words, and the options that it has."""
    if chosen == "chiasm" and is_collection:
        return "a collection as a .chiasm file", ("where", "int8", "fp16", "dimension", "thumbnails", "texts", "report")
    if chosen == "chiasm":
        return "a model as a .chiasm file", ("int8", "fp16", "budget", "on", "smaller", "report")
    if chosen in ("onnx", "html"):
        return f"a model as .{chosen}", ("int8", "fp16")
    return f"{chosen}, which has files and no networks", ("label", "where")


def _chosen(target: Path, asked: str) -> Format:
    if asked == "auto":
        if target.suffix.lower() in _BY_SUFFIX:
            return _BY_SUFFIX[target.suffix.lower()]
        raise ChiasmError(
            f"the name {target.name!r} does not tell a format: end it in {' or '.join(_BY_SUFFIX)}, or name one of "
            f"{', '.join(get_args(Format))}"
        )
    formats: dict[str, Format] = {name: name for name in get_args(Format)}
    if asked not in formats:
        raise ChiasmError(f"there is no format {asked!r}. Take one of {', '.join(formats)}")
    return formats[asked]


# -------------------------------------------------------------------------------------------------------------- tables


def export_table(collection: Collection, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of items, as `Collection.items` has them, as a typed table: id, a list of paths a modality, metadata."""
    table = collection.tables.open("items")
    assert table is not None  # it has the rows
    names = ["id", *(name for name in MODALITIES if any(row[name] for row in rows)), *collection.columns()]
    return pa.Table.from_pylist([*rows], schema=pa.schema([table.schema.field(name) for name in names]))


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as CSV that `chiasm add` reads: lists of one value as that value, others as JSON arrays."""
    from io import StringIO

    text = StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue().encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """Return a table as Parquet."""
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


def _cell(value: Any) -> str:
    match value:
        case None | []:
            return ""
        case [str(one)]:
            return one
        case list():
            return json.dumps(value, ensure_ascii=False)
        case bool():
            return str(value).lower()
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


# ------------------------------------------------------------------------------------------------------------- folders


class _Folder:
    """The items that are written into a folder, and what could not be.

    Attributes:
        rows: of the items.
        modalities: that the collection has files of.
        items, files: written so far.
        outcomes: of what was not.
        has_several: whether the items have lists of labels.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], label: str, modalities: Iterable[str]) -> None:
        self.rows = rows
        self.modalities = [name for name in MODALITIES if name in set(modalities)]
        self.items = self.files = 0
        self.outcomes: list[FileOutcome] = []
        self._label = label
        self._taken: set[str] = set()
        try:
            self.has_several = infer_kind([row.get(label) for row in rows], column=label) == "labels"
        except LabelError:  # no values, or names of items: nothing to split
            self.has_several = False

    def labels(self, row: Mapping[str, Any]) -> list[str]:
        """Return the labels of an item: several where `fit` would read several."""
        value = row.get(self._label)
        if value is None or not str(value).strip():
            return []
        return [*split_labels(str(value))] if self.has_several else [str(class_name(value))]

    def names(self) -> list[str]:
        """Return the names of all classes, of boxes too, sorted."""
        boxes = (box.label for row in self.rows for box in read_boxes(row.get(BOXES)))
        return sorted({*boxes, *(label for row in self.rows for label in self.labels(row))})

    def attributes(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of an item but for the label, under names that FiftyOne takes as attributes of a label."""
        own = {name: value for name, value in self.metadata(row).items() if name != self._label}
        return {f"{name}_" if name in _OF_FIFTYONE else name: value for name, value in own.items()}

    def metadata(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the columns of an item as JSON has them."""
        own = {name: value for name, value in row.items() if name != "id" and name not in MODALITIES}
        return {
            name: value.isoformat() if hasattr(value, "isoformat") else finite(value) for name, value in own.items()
        }

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """Return the texts of an item, those in files read."""
        texts = []
        for written in row["text"] or ():
            if Path(written).is_absolute() and Path(written).is_file():
                try:
                    with open_source(written) as file:
                        texts.append(file.read().decode(errors="replace").strip())
                except OSError as error:
                    self.leave(written, Outcome.BROKEN, str(error.strerror or error))
            else:
                texts.append(written)
        return texts

    def copy(self, row: Mapping[str, Any], path: str, folder: Path, *, by_stem: bool = False) -> str | None:
        """Copy a file of an item under a name made from the item's id; return that, None where it cannot be read.

        Args:
            row: the item.
            path: of the file.
            folder: to copy it into.
            by_stem: no two names in the folder may differ by the extension alone.
        """
        base = _UNSAFE.sub("_", str(row["id"]).replace("/", "-")).strip(". ")[:_LONGEST_NAME] or "item"
        suffix = Path(path).suffix.lower()
        names = (f"{base}{suffix}" if number == 1 else f"{base}-{number}{suffix}" for number in count(1))
        places = ((one, f"{folder}/{Path(one).stem if by_stem else one}".casefold()) for one in names)
        name, place = next((name, place) for name, place in places if place not in self._taken)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with open_source(path) as source, (folder / name).open("wb") as copy:
                shutil.copyfileobj(source, copy)
        except OSError as error:
            (folder / name).unlink(missing_ok=True)
            if not os.path.lexists(path) or isinstance(error, PermissionError):
                self.leave(path, Outcome.BROKEN, f"it cannot be copied: {error.strerror or error}")
                return None
            raise  # the disk that is written to is full
        self._taken.add(place)
        self.files += 1
        return name

    def leave(self, path: str, outcome: Outcome, reason: str) -> None:
        """Note what could not be written."""
        self.outcomes.append(FileOutcome(path, outcome, reason))

    def pictures(self, folder: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
        """Copy the pictures of all items; yield each with its item, and note the items that have none."""
        for row in work.steps(self.rows, "items"):
            names = (self.copy(row, path, folder, by_stem=True) for path in row["image"] or ())
            copied = [(row, name) for name in names if name is not None]
            self.items += bool(copied)
            if not row["image"]:
                self.leave(
                    str(row["id"]), Outcome.UNSUPPORTED, "the item has no picture, and the format is of pictures"
                )
            yield from copied


def _write_image_folder(folder: _Folder, out: Path) -> None:
    """Write copies by split and label, and `metadata.jsonl`."""
    own = [name for name in folder.modalities if name != "text"]
    columns = {own[0]: "file_name"} if len(own) == 1 else {name: f"{name}_file_name" for name in own}
    with (out / "metadata.jsonl").open("w", encoding="utf-8") as table:
        for row in work.steps(folder.rows, "items"):
            labels = folder.labels(row)
            steps = [str(row.get("split") or ""), labels[0] if len(labels) == 1 else ""]
            place = [_UNSAFE.sub("_", step).strip(". ")[:_LONGEST_NAME] for step in steps]
            inside = Path(*filter(None, place))
            copied = {
                name: [str(inside / one) for path in row[name] or () if (one := folder.copy(row, path, out / inside))]
                for name in own
            }
            if not any(copied.values()):
                folder.leave(str(row["id"]), Outcome.UNSUPPORTED, "the item has no file that could be copied")
                continue
            folder.items += 1
            line: dict[str, Any] = {}
            for name, column in columns.items():
                if len(copied[name]) > 1:
                    line[f"{column}s"] = copied[name]
                elif copied[name]:
                    line[column] = copied[name][0]
            texts = folder.texts(row)
            if texts:
                line["text"] = texts[0] if len(texts) == 1 else texts
            _write_line(table, line | folder.metadata(row))


def _write_line(file: IO[str], values: Mapping[str, Any]) -> None:
    file.write(
        json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False) + "\n"
    )


def _write_coco(folder: _Folder, out: Path) -> None:
    """Write `images` and `annotations.json`. A label without a box is a crowd that is somewhere in the whole picture.

    That is what is known, and evaluation passes over it; pycocotools reads no annotation without a box and an area.
    """
    numbers = {name: number for number, name in enumerate(folder.names(), 1)}
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for row, name in folder.pictures(out / "images"):
        size = _size(folder, out / "images" / name)
        picture = {"id": len(pictures) + 1, "file_name": f"images/{name}", "chiasm_id": row["id"]}
        pictures.append(picture | ({} if size is None else {"width": size[0], "height": size[1]}))
        boxes = read_boxes(row.get(BOXES)) if size is not None else ()
        boxed = {box.label for box in boxes}
        found: list[tuple[str, Box | None]] = [(box.label, box) for box in boxes]
        for label, box in (*found, *((label, None) for label in folder.labels(row) if label not in boxed)):
            one = {"id": len(annotations) + 1, "image_id": picture["id"], "category_id": numbers[label]}
            one["iscrowd"] = int(box is None)
            if size is not None:
                area = WHOLE if box is None else box.area
                x, y, width, height = (part * size[place % 2] for place, part in enumerate(area))
                one |= {"bbox": [x, y, width, height], "area": width * height}
            annotations.append(one)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    document = {"info": {"description": "exported by chiasm"}, "images": pictures, "annotations": annotations}
    write_whole(out / "annotations.json", strict_json(document | {"categories": categories}))


def _size(folder: _Folder, path: Path) -> tuple[int, int] | None:
    try:
        return size_of(path)
    except MediaError as error:
        folder.leave(str(path.name), error.outcome, error.reason)
        return None


def _write_fiftyone(folder: _Folder, out: Path) -> None:
    """Write `data` and `labels.json`; with boxes where any item has some, else with labels.

    A field of FiftyOne is either of one label or of lists, so one label is a list, too, where others have several.
    """
    has_boxes = any(read_boxes(row.get(BOXES)) for row in folder.rows)
    labels: dict[str, Any] = {}
    for row, name in folder.pictures(out / "data"):
        own = folder.labels(row)
        labels[Path(name).stem] = (
            [{"label": box.label, "bounding_box": [*box.area]} for box in read_boxes(row.get(BOXES))]
            if has_boxes
            else {"label": own[0], "attributes": folder.attributes(row)}
            if own and not folder.has_several
            else own or None
        )
    write_whole(out / "labels.json", strict_json({"classes": None, "labels": labels}))


def _write_label_studio(folder: _Folder, out: Path) -> None:
    """Write `tasks.json`, `config.xml` and the files; labels and boxes are annotations that are to be checked.

    Label Studio refuses a task that lacks what the interface shows, so each has all of it, if only as an empty string.
    """
    tasks: list[tuple[Mapping[str, Any], dict[str, str]]] = []
    for row in work.steps(folder.rows, "items"):
        data: dict[str, str] = {
            modality: value for modality in _TAGS if (value := _shown(folder, row, modality, out)) is not None
        }
        folder.items += bool(data)
        if data:
            tasks.append((row, data))
        else:
            folder.leave(str(row["id"]), Outcome.UNSUPPORTED, "the item has nothing that can be shown")
    kinds = [kind for kind in _TAGS if any(kind in data for _, data in tasks)]
    document: list[dict[str, Any]] = []
    for row, data in tasks:
        result: list[dict[str, Any]] = []
        if labels := folder.labels(row):
            one: dict[str, Any] = {"from_name": "label", "to_name": kinds[0], "type": "choices"}
            result.append(one | {"value": {"choices": labels}})
        boxes = read_boxes(row.get(BOXES)) if "image" in data else ()
        size = _size(folder, out / unquote(data["image"].partition("?d=")[2])) if boxes else None
        for box in boxes:
            x, y, width, height = (100 * part for part in box.area)
            area = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [box.label]}
            one = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": area}
            # Its converters leave out a box without these.
            result.append(one | ({} if size is None else {"original_width": size[0], "original_height": size[1]}))
        task = {"chiasm_id": row["id"], **folder.metadata(row), **dict.fromkeys(map(str, kinds), ""), **data}
        annotations = [{"result": result}] if result else []
        document.append({"id": len(document) + 1, "data": task, "annotations": annotations})
    write_whole(out / "tasks.json", strict_json(document))
    write_whole(out / "config.xml", _config(folder, kinds))


def _shown(folder: _Folder, row: Mapping[str, Any], modality: Modality, out: Path) -> str | None:
    """Return what a task shows of a modality: the texts, or the address of the first file, which is copied."""
    if modality == "text":
        return "\n".join(folder.texts(row)) or None
    paths = row[modality] or ()
    for path in paths[1:]:
        folder.leave(path, Outcome.UNSUPPORTED, f"a task shows one {modality}, the first of the item")
    name = folder.copy(row, paths[0], out / "media") if paths else None
    return None if name is None else f"/data/local-files/?d={quote(f'media/{name}')}"


def _config(folder: _Folder, kinds: Sequence[Modality]) -> str:
    """Return the labelling interface: what is shown, the labels of the whole, and boxes."""
    from xml.sax.saxutils import quoteattr

    lines = [f'  <{_TAGS[kind]} name="{kind}" value="${kind}"/>' for kind in kinds]
    names = folder.names()
    main = kinds[0] if kinds else "text"
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    lines.append(f'  <Choices name="label" toName="{main}" choice="multiple">\n{choices}  </Choices>')
    if "image" in kinds and any(read_boxes(row.get(BOXES)) for row in folder.rows):
        areas = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in names)
        lines.append(f'  <RectangleLabels name="box" toName="image">\n{areas}  </RectangleLabels>')
    return "<View>\n" + "\n".join(lines) + "\n</View>\n"


_WRITERS: dict[Format, Callable[[_Folder, Path], None]] = {
    "imagefolder": _write_image_folder,
    "coco": _write_coco,
    "fiftyone": _write_fiftyone,
    "labelstudio": _write_label_studio,
}
