"""A folder read as items: what lies in it, what is passed over, and what its folders and `metadata` tables say.

Layouts of Hugging Face's ImageFolder and AudioFolder are understood: a folder a class, folders that are splits, and a
`metadata` table beside the files. Annotations of other tools are read by `chiasm.store.annotations`. What a file is by its name
is in `chiasm.store.listing`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chiasm.errors import ManifestError, MediaError
from chiasm.files import is_unicode, one_form
from chiasm.store.annotations import SPLITS, Annotations, Layout, Note, read_annotations
from chiasm.store.listing import Manifest, modality_of, read_table
from chiasm.store.rows import TABLES
from chiasm.store.values import ColumnKind, as_kind, joint_kind, kind_of
from chiasm.types import FileOutcome, Item, Outcome, Scalar, Source

_LEFT_BY_SYSTEMS = (
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@tmp", "#recycle",
    "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__pycache__",
)  # fmt: skip
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # the first that is there counts
_HEADERS = {"chiasm.json", "model.json", "space.json", "recognizer.json"}
_LARGEST_HEADER = 2**24  # bytes


def read_folder(folder: Path, *, layout: Layout = "auto") -> Manifest:
    """Read a folder as a list of items, see `chiasm.store.manifest.read_manifest`.

    Raises:
        ManifestError: it is empty, or not laid out as was said.
    """
    annotations = read_annotations(folder, layout)
    scan = _Scan(str(folder), annotations)
    listed = scan.items()
    if not listed and not scan.outcomes:
        raise ManifestError(str(folder), "the folder is empty; put media files into it, or name another")
    columns, items = _described(listed, by_folder=annotations is None)
    scan.outcomes.sort(key=lambda outcome: outcome.path)
    return Manifest(str(folder), items, columns, tuple(scan.outcomes))


def _made_by_chiasm(folder: str, names: set[str]) -> str:
    """Return what a folder is that chiasm wrote; "" of any other. Its header tells, whatever the folder is called."""
    for name in sorted(names & _HEADERS):
        path = Path(folder, name)
        try:
            header = json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST_HEADER else None
        except (OSError, ValueError, RecursionError):
            continue
        form = header.get("format") if isinstance(header, dict) else None
        if isinstance(form, str) and form.startswith("chiasm-"):
            return f"a {form.removeprefix('chiasm-').removeprefix('saved-')} that chiasm wrote"
    return ""


@dataclass
class _Listed:
    """An item of a folder, before its columns are known."""

    id: str
    folder: str  # relative, "" at the top
    sources: list[Source]
    metadata: dict[str, Scalar] = field(default_factory=dict)  # of its row in a table
    columns: Mapping[str, ColumnKind] = field(default_factory=dict)  # of that table

    def take(self, note: Note) -> None:
        """Add what annotations say about one of its files."""
        self.sources += [Source("text", text=text) for text in dict.fromkeys(note.texts)]
        values = {name: value for name, value in note.columns.items() if value is not None}
        self.metadata = {**self.metadata, **values}
        self.columns = {**self.columns, **{name: kind_of(value) for name, value in values.items()}}


class _Scan:
    """Walks a folder: files that may be media by id, tables that describe them, and outcomes of the rest."""

    def __init__(self, root: str, annotations: Annotations | None = None) -> None:
        self.root = root
        self.annotations = Annotations(root) if annotations is None else annotations
        self.outcomes: list[FileOutcome] = [*self.annotations.outcomes]
        self._files: dict[str, list[tuple[str, str]]] = {}  # id -> relative folder and path of its files
        self._tables: list[tuple[str, Manifest]] = []  # relative folder
        for path, prefix, stem in self._walk():
            self._files.setdefault(one_form(prefix + stem), []).append((prefix.rstrip("/"), path))

    def items(self) -> list[_Listed]:
        """Return the items by id: those of tables with the files that share their name, and those of other files."""
        items: dict[str, _Listed] = {}
        listed: set[str] = set()
        for prefix, table in self._tables:
            for item in table.items:
                name = one_form(os.path.normpath(f"{prefix}/{item.id}").lstrip("/"))
                paths = [source.path for source in item.sources if source.path is not None]
                outside = [path for path in paths if os.path.commonpath((self.root, path)) != self.root]
                if outside or name in items:
                    why = f"it lists {outside[0]}, outside of the folder" if outside else "another row lists its file"
                    self._leave(f"{table.source}, {item.id}", Outcome.NOT_READ, why)
                    continue
                listed.update(paths)
                folder = os.path.relpath(os.path.dirname(paths[0]), self.root) if paths else prefix  # noqa: PTH120
                folder = one_form("" if folder == "." else folder)
                items[name] = _Listed(name, folder, list(item.sources), item.metadata, table.columns)
        for name, files in self._files.items():
            for folder, path in files:
                if path in listed:
                    continue
                try:
                    source = Source(modality_of(path), path=path)
                except MediaError as error:
                    self._leave(path, error.outcome, error.reason)
                else:
                    items.setdefault(name, _Listed(name, one_form(folder), [])).sources.append(source)
        self._annotate(items)
        return [items[name] for name in sorted(items)]

    def _annotate(self, items: dict[str, _Listed]) -> None:
        """Give items what annotations say about their files, and make items of the texts that stand in annotations."""
        for item in items.values():
            for path in [source.path for source in item.sources]:
                if path in self.annotations.notes:
                    item.take(self.annotations.notes[path])
        for name, note in self.annotations.written.items():
            items.setdefault(name, _Listed(name, "", [])).take(note)

    def _leave(self, path: str, outcome: Outcome, reason: str) -> None:
        self.outcomes.append(FileOutcome(path, outcome, reason))

    def _walk(self) -> Iterator[tuple[str, str, str]]:
        """Yield path, relative folder with its `/`, and name without extension of every file that may be a medium.

        Files of a folder come by name. Folders behind links come last, so that a folder that is reached twice is read
        under its own name.
        """
        seen: set[tuple[int, int]] = set()
        folders, linked = [(self.root, "")], list[tuple[str, str]]()
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
                self._leave(path, Outcome.BROKEN, f"the folder cannot be read: {error.strerror}")
                continue
            names = {entry.name for entry in entries}
            if made := _made_by_chiasm(path, names):
                self._leave(path, Outcome.NOT_READ, f"{made}, not a folder of media")
                continue
            metadata = self._describe(path, prefix, names)
            for entry in entries:
                name = entry.name
                if name.startswith((".", "~$")) or name.lower() in _LEFT_BY_SYSTEMS or name == metadata:
                    continue
                kind = self._kind(entry)
                stem, dot, _ = name.rpartition(".")
                if kind == "folder":
                    (linked if entry.is_symlink() else folders).append((entry.path, f"{prefix}{name}/"))
                elif kind == "file" and entry.path not in self.annotations.sources:
                    yield entry.path, prefix, stem if dot else name

    def _describe(self, path: str, prefix: str, names: set[str]) -> str | None:
        """Read the table that describes the files of a folder. Return its name, None where there is none."""
        for name in _METADATA:
            if name in names:
                try:
                    table = read_table(Path(path, name), only_file_names=True)
                except (ManifestError, OSError) as error:
                    if not isinstance(error, ManifestError):
                        error = ManifestError(f"{path}/{name}", f"it cannot be read: {error}")
                    self._leave(error.place, Outcome.BROKEN, error.problem)
                    return name
                if table is not None:
                    self._tables.append((prefix.rstrip("/"), table))
                    self.outcomes += table.outcomes
                    return name
        return None

    def _kind(self, entry: os.DirEntry[str]) -> str:
        """Return "folder", "file", or "" of what is neither and has its outcome."""
        if not is_unicode(entry.name):
            shown = os.fsencode(entry.path).decode("utf-8", "replace")
            self._leave(shown, Outcome.BROKEN, "the name is not valid Unicode; rename it")
            return ""
        try:
            is_file, is_folder = entry.is_file(), entry.is_dir()
        except OSError as error:  # a link to itself
            self._leave(entry.path, Outcome.BROKEN, f"cannot be read: {error.strerror}")
            return ""
        if is_folder:
            return "folder"
        if is_file and os.path.splitext(entry.name)[1].lower() not in TABLES:  # noqa: PTH122
            return "file"
        if is_file:
            reason = "a table inside a folder is not read; name the table itself to add what it lists"
            self._leave(entry.path, Outcome.NOT_READ, reason)
        elif entry.is_symlink():
            self._leave(entry.path, Outcome.BROKEN, "a link to nothing")
        else:
            self._leave(entry.path, Outcome.UNSUPPORTED, "a device or a pipe, not a file")
        return ""


# ------------------------------------------------------------------------------------------------------- columns


def _described(listed: list[_Listed], *, by_folder: bool) -> tuple[dict[str, ColumnKind], tuple[Item, ...]]:
    """Return the columns of items, and the items with all of them: those of their folders and those of their tables.

    Args:
        listed: the items.
        by_folder: whether a folder is the label of what is in it.
    """
    splits = _split_folders({item.folder for item in listed})
    rows: list[dict[str, Scalar]] = []
    for item in listed:
        steps = item.folder.split("/") if item.folder else []
        parents = ["/".join(steps[:number]) for number in range(len(steps))]
        of_split = [parent in splits for parent in parents]
        classes = [step for step, is_split in zip(steps, of_split, strict=True) if not is_split]
        row: dict[str, Scalar] = {"folder": item.folder or ".", "label": classes[-1] if classes and by_folder else None}
        if any(of_split):
            row["split"] = SPLITS[steps[of_split.index(True)].lower()]
        rows.append(row | item.metadata)
    kinds: dict[str, set[ColumnKind]] = {"folder": {"string"}, "label": set()}
    for item, row in zip(listed, rows, strict=True):
        for name, value in row.items():
            of_column = kinds.setdefault(name, set())
            if value is not None:
                of_column.add(item.columns.get(name, "string"))
    columns = {name: joint_kind(found, [row.get(name) for row in rows]) for name, found in kinds.items()}
    return columns, tuple(
        Item(
            item.id,
            tuple(item.sources),
            {name: as_kind(row.get(name), kind) for name, kind in columns.items()},
        )
        for item, row in zip(listed, rows, strict=True)
    )


def _split_folders(folders: set[str]) -> set[str]:
    """Return the folders that hold splits: all folders with media in them are called train, test and the like.

    A class that is called so, such as trains among cars, stands beside folders of other names.
    """
    children: dict[str, set[str]] = {}
    for folder in folders:
        steps = folder.split("/") if folder else []
        for number, step in enumerate(steps):
            children.setdefault("/".join(steps[:number]), set()).add(step)
    return {parent for parent, names in children.items() if all(name.lower() in SPLITS for name in names)}
