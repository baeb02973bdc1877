"""Annotation files about the pictures of a folder: COCO, Pascal VOC, YOLO and Label Studio.

Annotations are columns of items (`label`, `boxes`, `split`, captions as texts); which files are items is left to
`chiasm.store.folders`. Files of annotations come from anywhere: they are read with limits, and name no file outside of the
folder. An entry that cannot be used is an outcome and never refuses the others.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote

from chiasm.errors import ManifestError
from chiasm.files import names_in, one_form, open_source, path_on_disk
from chiasm.media.kinds import modality_of_name
from chiasm.store.boxes import BOXES, WHOLE, Area, Box, write_boxes
from chiasm.types import MODALITIES, FileOutcome, Outcome, Scalar

Layout: TypeAlias = Literal["auto", "folder", "coco", "voc", "yolo", "labelstudio", "webdataset"]
"""How a folder is laid out. `"auto"` looks at its content; `"folder"` reads no annotations."""

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Names of folders that Hugging Face reads as splits, and what it calls these."""

LARGEST_JSON = 2**30  # bytes; COCO's largest has 470 MB
LARGEST_SIDECAR = 2**24  # bytes of an XML, or of a text of boxes
_LOOKED_INTO = 2**16  # bytes at each end of a JSON file, to tell what it is
_OF_COCO = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_OF_TASKS = re.compile(rb'\A\s*\[\s*\{(?s:.*)"data"\s*:\s*\{')
_OF_BOXES = re.compile(rb"^\d+(?:[ \t]+[\d.eE+-]+){4,}\s*$", re.MULTILINE)
_OF_SPLIT = re.compile(r"(?:^|[_\-.])(train|val|valid|validation|test)(?=\d|[_\-.]|$)")


@dataclass
class Note:
    """The annotations of one file."""

    labels: list[str] | None = None  # None: nothing is said; none of them: that it has none
    boxes: list[Box] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    columns: dict[str, Scalar] = field(default_factory=dict)

    def add(self, label: str, area: Area | None) -> None:
        """Add a label, and its box where there is one."""
        self.labels = self.labels or []
        if label not in self.labels:
            self.labels.append(label)
        if area is not None:
            self.boxes.append(Box(label, area))


@dataclass
class Annotations:
    """The annotations of a folder.

    Attributes:
        root: the folder.
        notes: by path of the file that they are about.
        written: notes about texts that stand in the annotations themselves, by a name made from their place there.
        sources: the files of annotations, which are no items.
        outcomes: of what could not be used.
    """

    root: str
    notes: dict[str, Note] = field(default_factory=dict)
    written: dict[str, Note] = field(default_factory=dict)
    sources: set[str] = field(default_factory=set)
    outcomes: list[FileOutcome] = field(default_factory=list)

    def about(self, path: str) -> Note:
        """Return the note about a file; a new one where there is none."""
        return self.notes.setdefault(path, Note())

    def leave(self, path: str | Path, reason: str, outcome: Outcome = Outcome.BROKEN) -> None:
        """Note what could not be used."""
        self.outcomes.append(FileOutcome(str(path), outcome, reason))

    def finish(self) -> None:
        """Turn labels and boxes into columns. "None of the labels" is said only where some file has several."""
        every = [*self.notes.values(), *self.written.values()]
        has_several = any(len(note.labels or ()) > 1 for note in every)
        falls_apart = any(set(";|") & set(label) for note in every for label in note.labels or ())
        for note in every:
            labels = [one_form(label) for label in note.labels or ()]
            if falls_apart and labels:
                value: str | None = json.dumps(labels, ensure_ascii=False)
            else:
                value = ";".join(labels) or (";" if note.labels is not None and has_several else None)
            note.columns |= {"label": value} | ({BOXES: boxes} if (boxes := write_boxes(note.boxes)) else {})


def read_annotations(folder: Path, layout: Layout) -> Annotations | None:
    """Read the annotations of a folder; None where it has none, or they are not asked for.

    Args:
        folder: the folder.
        layout: which kind; `"auto"` takes the first kind that is there.

    Raises:
        ManifestError: a kind was asked for that is not there.
    """
    if layout in ("folder", "webdataset"):
        return None
    for name, paths in _files_by_layout(folder):
        if layout not in ("auto", name):
            continue
        if paths:
            annotations = Annotations(os.path.normpath(folder), sources={str(path) for path in paths})
            _READERS[name](annotations, sorted(paths))
            annotations.finish()
            return annotations
        if layout == name:
            raise ManifestError(
                str(folder), f"the layout {name} was asked for, and the folder has no {_EXPECTED[name]}"
            )
    return None


# --------------------------------------------------------------------------------------------------------- what is where


def kind_of_json(path: str | Path) -> Literal["coco", "labelstudio", ""]:
    """Return which annotations a JSON file holds, by both of its ends; "" of any other."""
    try:
        with open_source(path) as file:
            begin = file.read(_LOOKED_INTO)
            file.seek(max(len(begin), file.seek(0, os.SEEK_END) - _LOOKED_INTO))
            end = file.read(_LOOKED_INTO)
    except OSError:  # found again when it is read
        return ""
    if len({*_OF_COCO.findall(begin + end)}) > 1:
        return "coco"
    is_annotated = any(mark in begin for mark in (b'"annotations"', b'"predictions"', b'"completions"'))
    return "labelstudio" if _OF_TASKS.match(begin) and is_annotated else ""


def _files_by_layout(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Yield the layouts in the order in which they are preferred, each with the files of its annotations."""
    by_kind: dict[str, list[Path]] = {"coco": [], "labelstudio": [], "": []}
    below = [folder / name / "_annotations.coco.json" for name in names_in(folder)]  # as Roboflow writes them
    for path in (*_ending(folder, ".json"), *_ending(folder / "annotations", ".json"), *filter(os.path.isfile, below)):
        by_kind[kind_of_json(path)].append(path)
    yield "coco", by_kind["coco"]
    yield "labelstudio", by_kind["labelstudio"]
    yield "voc", _xml_files(folder)
    yield "yolo", _box_files(folder)


def _xml_files(folder: Path) -> list[Path]:
    inside = [path for name in ("Annotations", "annotations") for path in _ending(folder / name, ".xml")]
    return [path for path in inside or _ending(folder, ".xml") if b"<annotation" in _head(path)]


def _box_files(folder: Path) -> list[Path]:
    """Return the texts of boxes: below each folder `labels` that stands beside a folder `images`."""
    places = [folder, *(folder / name for name in names_in(folder))]
    walks = (os.walk(place / "labels") for place in places if (place / "images").is_dir())
    paths = [path for walk in walks for where, _, _ in walk for path in _ending(Path(where), ".txt")]
    return paths if any(_OF_BOXES.search(_head(path)) for path in paths) else []  # else they are captions


def _ending(folder: Path, suffix: str) -> list[Path]:
    return [folder / name for name in names_in(folder) if name.endswith(suffix) and not name.startswith(".")]


def _head(path: Path) -> bytes:
    try:
        with open_source(path) as file:
            return file.read(1000)
    except OSError:
        return b""


def _file(annotations: Annotations, folders: Sequence[str], written: str) -> str | None:
    """Return the path of a file that annotations name, None where it is in none of the folders or outside of the root.

    Args:
        annotations: of the root.
        folders: where to look, the likeliest first.
        written: the name.
    """
    for folder in folders:
        path = path_on_disk(folder, written)
        if os.path.commonpath((annotations.root, path)) == annotations.root and os.path.isfile(path):  # noqa: PTH113
            return path
    return None


def _folders_near(annotations: Annotations, file: Path) -> list[str]:
    """Return the folders that a file's pictures may lie in: beside it, in the root, and in folders below either."""
    root = Path(annotations.root)
    near = [file.parent, root]
    for place in (file.parent, root, root / "images"):
        near += [place / name for name in names_in(place) if not name.startswith(".") and (place / name).is_dir()]
    return list(dict.fromkeys(str(one) for one in near))


def _say_missing(annotations: Annotations, file: Path, missing: Sequence[str], total: int) -> None:
    if missing:
        annotations.leave(
            file,
            f"{len(missing):,} of the {total:,} files that it names are not in the folder, such as {missing[0]!r:.120}",
        )


def _split_of(name: str) -> str | None:
    found = _OF_SPLIT.search(name.lower())
    return None if found is None else SPLITS[found[1]]


# ------------------------------------------------------------------------------------------------------------------ JSON


def _read_json(annotations: Annotations, path: Path) -> Any:
    """Return what a JSON file holds; None, with its outcome, where it cannot be read."""
    try:
        with open_source(path) as file:
            content = file.read(LARGEST_JSON + 1)
        if len(content) > LARGEST_JSON:
            annotations.leave(path, f"it has more than {LARGEST_JSON:,} bytes; divide it", Outcome.TOO_LARGE)
            return None
        return json.loads(content)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        annotations.leave(path, f"it cannot be read as JSON: {error}")
    return None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list, whatever else is in it."""
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _read_coco(annotations: Annotations, files: Sequence[Path]) -> None:
    """Read COCO: detection, captions, panoptic; see https://cocodataset.org/#format-data."""
    for file in files:
        document = _read_json(annotations, file)
        if document is None:
            continue
        names = {one.get("id"): str(one.get("name")) for one in _objects(document.get("categories"))}
        split = _split_of(file.stem) or _split_of(file.parent.name)
        folders = _folders_near(annotations, file)
        pictures: dict[Any, tuple[Note, float, float]] = {}
        missing: list[str] = []
        listed = [one for one in _objects(document.get("images")) if isinstance(one.get("file_name"), str)]
        for one in listed:
            path = _file(annotations, folders, one["file_name"])
            if path is None:
                missing.append(one["file_name"])
                continue
            note = annotations.about(path)
            if split is not None:
                note.columns["split"] = split
            if names:
                note.labels = note.labels or []
            pictures[_key(one.get("id"))] = (note, _number(one.get("width")), _number(one.get("height")))
            folders = [os.path.dirname(path), *folders] if "/" not in one["file_name"] else folders  # noqa: PTH120
            folders = list(dict.fromkeys(folders))
        unknown = 0
        for one in _objects(document.get("annotations")):
            picture = pictures.get(_key(one.get("image_id")))
            if picture is None:
                continue
            if isinstance(one.get("caption"), str) and one["caption"].strip():
                picture[0].texts.append(one["caption"].strip())
            for part in (*([one] if "category_id" in one else ()), *_objects(one.get("segments_info"))):
                name = names.get(part.get("category_id"))
                if name is None:
                    unknown += 1
                else:
                    area = _pixels(part.get("bbox"), picture[1], picture[2])
                    is_somewhere = area == WHOLE and part.get("iscrowd")
                    picture[0].add(name, None if is_somewhere else area)
        if unknown:
            annotations.leave(file, f"{unknown:,} annotations have a category that the file does not name: left out")
        _say_missing(annotations, file, missing, len(listed))


def _key(value: Any) -> Any:
    return value if isinstance(value, int | str) else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def _pixels(bbox: Any, width: float, height: float) -> Area | None:
    """Return a box of left, top, width and height in pixels as shares of the picture; None of anything else."""
    if not isinstance(bbox, list) or len(bbox) != 4 or width <= 0 or height <= 0:
        return None
    left, top, wide, high = map(_number, bbox)
    return _within(left / width, top / height, wide / width, high / height)


def _within(left: float, top: float, width: float, height: float) -> Area | None:
    """Return the part of a box that lies in the picture; None where nothing is left of it."""
    right, bottom = min(left + width, 1.0), min(top + height, 1.0)
    left, top = max(left, 0.0), max(top, 0.0)
    return (left, top, right - left, bottom - top) if right > left and bottom > top else None


def _read_tasks(annotations: Annotations, files: Sequence[Path]) -> None:
    """Read tasks of Label Studio, as its export "JSON" has them; see https://labelstud.io/guide/task_format."""
    for file in files:
        tasks = [task for task in _objects(_read_json(annotations, file)) if isinstance(task.get("data"), dict)]
        folders = _folders_near(annotations, file)
        missing: list[str] = []
        for number, task in enumerate(tasks):
            shown = {
                name: value
                for name, value in task["data"].items()
                if isinstance(value, str)
                and (modality_of_name(value.partition("?d=")[2] or value) or name in MODALITIES)
            }
            paths, texts = [], []
            for name, value in ((name, value) for name, value in shown.items() if value.strip()):
                path = next((one for form in _forms(value) if (one := _file(annotations, folders, form))), None)
                if path is not None:
                    paths.append(path)
                elif name == "text":
                    texts.append(value)
                else:
                    missing.append(value)
            if paths:
                note = annotations.about(paths[0])
                note.texts += texts
            elif texts:
                note = annotations.written.setdefault(f"{file.stem}/{task.get('id', number)}", Note(texts=texts))
            else:
                continue
            others = {name: value for name, value in task["data"].items() if name not in shown and name != "id"}
            note.columns |= {
                one_form(name): value for name, value in others.items() if isinstance(value, str | int | float | bool)
            }
            _take_results(note, task)
        _say_missing(annotations, file, missing, len(tasks))


def _forms(written: str) -> Iterator[str]:
    """Yield the names by which a file that Label Studio shows may lie in the folder."""
    path = unquote(written.partition("?d=")[2] or written)
    steps = [step for step in re.sub(r"^[a-z0-9]+://", "", path).split("/") if step]
    yield from ("/".join(steps[first:]) for first in range(len(steps)))
    if steps and re.match(r"[0-9a-f]{8}-", steps[-1]):  # what an upload puts before the name
        yield steps[-1][9:]


def _take_results(note: Note, task: Mapping[str, Any]) -> None:
    """Take the labels of the annotation that counts: the ground truth, else the last that was not cancelled."""
    done = [one for one in _objects(task.get("annotations")) if not one.get("was_cancelled")]
    chosen = next((one for one in done if one.get("ground_truth")), done[-1] if done else None)
    if chosen is None:
        return
    note.labels = note.labels or []
    for part in _objects(chosen.get("result")):
        value = part.get("value")
        if not isinstance(value, dict):
            continue
        for name in ("choices", "rectanglelabels", "labels", "taxonomy"):
            for label in value.get(name) or () if isinstance(value.get(name), list) else ():
                area = None
                if name == "rectanglelabels":
                    area = _within(*(_number(value.get(side)) / 100 for side in ("x", "y", "width", "height")))
                note.add(" / ".join(map(str, label)) if isinstance(label, list) else str(label), area)


# ------------------------------------------------------------------------------------------------------------- VOC, YOLO


def _read_sidecar(annotations: Annotations, path: Path) -> str | None:
    try:
        with open_source(path) as file:
            content = file.read(LARGEST_SIDECAR + 1)
        if len(content) > LARGEST_SIDECAR:
            annotations.leave(path, f"it has more than {LARGEST_SIDECAR:,} bytes", Outcome.TOO_LARGE)
            return None
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        annotations.leave(path, f"it cannot be read: {error}")
    return None


def _read_voc(annotations: Annotations, files: Sequence[Path]) -> None:
    """Read Pascal VOC: an XML a picture, and lists of splits; Everingham et al. 2010."""
    from xml.etree import ElementTree as ET

    root = Path(annotations.root)
    splits: dict[str, str] = {}
    for name in ("train", "val", "test"):
        lists = root / "ImageSets" / "Main" / f"{name}.txt"
        if lists.is_file():
            annotations.sources.add(str(lists))
            splits |= dict.fromkeys((_read_sidecar(annotations, lists) or "").split(), SPLITS[name])
    annotations.sources |= {str(path) for path in (root / "ImageSets").rglob("*.txt")}
    for file in files:
        content = _read_sidecar(annotations, file)
        if content is None:
            continue
        try:
            if "<!DOCTYPE" in content or "<!ENTITY" in content:
                raise ValueError("it declares entities, which are not read")
            tree = ET.fromstring(content)  # noqa: S314  # entities were refused
        except (ET.ParseError, ValueError, RecursionError) as error:
            annotations.leave(file, f"it cannot be read as XML: {error}")
            continue
        folders = [str(root / "JPEGImages"), *_folders_near(annotations, file)]
        named = (tree.findtext("filename") or "").strip()
        names = [named] if named else []
        names += [f"{file.stem}{suffix}" for suffix in (".jpg", ".jpeg", ".png")]
        path = next((one for name in names if (one := _file(annotations, folders, name))), None)
        if path is None:
            annotations.leave(file, f"the picture that it is about, {names[0]!r:.120}, is not in the folder")
            continue
        note = annotations.about(path)
        note.labels = note.labels or []
        if file.stem in splits:
            note.columns["split"] = splits[file.stem]
        width, height = (_float(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        for thing in tree.iterfind("object"):
            left, top, right, bottom = (
                _float(thing.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
            )
            # Pixels count from 1, and the last one belongs to the box.
            area = _pixels([left - 1, top - 1, right - left + 1, bottom - top + 1], width, height)
            note.add((thing.findtext("name") or "").strip() or "unnamed", area if right > left else None)


def _float(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0


def _read_yolo(annotations: Annotations, files: Sequence[Path]) -> None:
    """Read YOLO: a text a picture with a line a box, in `labels` beside `images`; boxes, or polygons of which the box is taken."""
    root = Path(annotations.root)
    names = _class_names(annotations, root)
    stems: dict[Path, dict[str, str]] = {}
    for file in files:
        if file.name in ("classes.txt", "obj.names"):
            continue
        place = next(parent for parent in file.parents if parent.name == "labels")
        folder = place.parent / "images" / file.parent.relative_to(place)
        if folder not in stems:
            there = [folder / name for name in names_in(folder) if modality_of_name(name) == "image"]
            stems[folder] = {one.stem: str(one) for one in there}
        path = stems[folder].get(file.stem)
        content = _read_sidecar(annotations, file)
        if content is None:
            continue
        if path is None:
            annotations.leave(file, f"the picture that it is about is not in {folder}")
            continue
        note = annotations.about(path)
        note.labels = note.labels or []
        split = _split_of(file.parent.name) or _split_of(place.parent.name)
        if split is not None:
            note.columns["split"] = split
        for number, line in enumerate(content.splitlines(), 1):
            if line.strip():
                box = _box_of(line.split(), names)
                if box is None:
                    annotations.leave(
                        f"{file}, line {number}", f"expected a class and numbers from 0 to 1; got {line!r:.80}"
                    )
                else:
                    note.add(box.label, box.area)


def _box_of(words: Sequence[str], names: Mapping[int, str]) -> Box | None:
    try:
        number, shares = int(words[0]), [float(word) for word in words[1:]]
    except (ValueError, IndexError):
        return None
    if len(shares) in (4, 5):  # the fifth is how certain a detector was
        x, y, width, height = shares[:4]
        area = _within(x - width / 2, y - height / 2, width, height)
    elif len(shares) >= 6 and len(shares) % 2 == 0:
        left, top = min(shares[::2]), min(shares[1::2])
        area = _within(left, top, max(shares[::2]) - left, max(shares[1::2]) - top)
    else:
        area = None
    return None if area is None else Box(names.get(number, str(number)), area)


def _class_names(annotations: Annotations, root: Path) -> dict[int, str]:
    """Return the names of classes by number, of a `data.yaml` or a list; none where there is neither."""
    for path in _lists_of_classes(root):
        content = _read_sidecar(annotations, path) or ""
        annotations.sources.add(str(path))
        if path.suffix in (".yaml", ".yml"):
            names = _names_in_yaml(content)
        else:
            names = dict(enumerate(line.strip() for line in content.splitlines() if line.strip()))
        if names:
            return names
    return {}


def _lists_of_classes(root: Path) -> list[Path]:
    near = [root, root / "labels", root / "labels" / "train"]
    lists = [path for place in near for path in (place / "classes.txt", place / "obj.names") if path.is_file()]
    return [*_ending(root, ".yaml"), *_ending(root, ".yml"), *lists]


_NAMES = re.compile(r"^names\s*:[ \t]*(?P<same>[^\n]*)\n?(?P<below>(?:[ \t]*(?:-|\d+\s*:)[^\n]*\n?)*)", re.MULTILINE)


def _names_in_yaml(content: str) -> dict[int, str]:
    """Return `names` of a data.yaml, written in brackets, braces or lines.

    Example:
        >>> _names_in_yaml("nc: 2\\nnames: [cat, 'big dog']"), _names_in_yaml("names:\\n  0: cat\\n  1: dog\\nnc: 2")
        ({0: 'cat', 1: 'big dog'}, {0: 'cat', 1: 'dog'})
    """
    found = _NAMES.search(content)
    if found is None:
        return {}
    inline = found["same"].partition(" #")[0].strip()
    parts = (
        inline.strip("[]{}").split(",") if inline else [line for line in found["below"].splitlines() if line.strip()]
    )
    names: dict[int, str] = {}
    for place, part in enumerate(parts):
        number, colon, name = part.strip().removeprefix("-").partition(":")
        is_numbered = bool(colon) and number.strip().isdigit()
        text = (name if is_numbered else part.strip().removeprefix("-")).strip().strip("'\"")
        names[int(number) if is_numbered else place] = text
    return names


_READERS = {"coco": _read_coco, "labelstudio": _read_tasks, "voc": _read_voc, "yolo": _read_yolo}
_EXPECTED = {
    "coco": "COCO annotations: a .json with images, annotations and categories, in it or in its folder annotations",
    "labelstudio": "tasks of Label Studio: a .json with a list of tasks, as its export JSON writes it",
    "voc": "annotations of Pascal VOC: .xml in its folder Annotations, or beside the pictures",
    "yolo": "labels of YOLO: a folder labels with .txt beside a folder images",
}
