"""Saved things: versions in a folder with one pointer, and JSON objects and arrays that are read back with bounds.

Models and spaces are kept this way. What they hold is left to their owners, how a file is written whole to
`chiasm.files`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from filelock import FileLock
from jaxtyping import Shaped

from chiasm.errors import ChiasmError
from chiasm.files import open_source, strict_json, whole_folder, write_whole

LARGEST_OBJECT = 2**26  # bytes of a JSON file
LARGEST_HEADER = 2**22  # bytes that a safetensors file describes its arrays with
LARGEST_ARRAYS = 2**33  # bytes of a safetensors file

DAMAGE = (
    OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError, ChiasmError,
)  # fmt: skip
"""Exceptions of putting a saved thing together from files that are not as they were written."""

_VERSION = re.compile(r"[0-9a-f]{16}")
_Saved = TypeVar("_Saved")


@dataclass(frozen=True)
class Versions:
    """A saved thing that is replaced while others read it: a folder a version, and one small file that names the current.

        FOLDER/POINTER      the format, which version is the current one, and which the one before
        FOLDER/3f0a..e1/    a version, which is never changed after it was written

    A version is written beside and takes its name whole; then the pointer is switched. So a reader has the old one or the
    new one, and a program that is killed at any point leaves either. The version before is kept, and `revert` goes back.

    Attributes:
        folder: where it is.
        pointer: name of the file that names the current version.
        format: what the pointer says that this is.
        format_version: of the format.
        what: the thing in words, e.g. "model".
        make: how to make one, for messages.
        error: the class of errors.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "note"
        >>> notes = Versions(folder, "note.json", "note", 1, "note", "Write one", ChiasmError)
        >>> for text in ("old", "new"):
        ...     version = notes.write(lambda draft: (draft / "text").write_text(text))
        >>> notes.read(lambda version: (version / "text").read_text())
        'new'
        >>> _ = notes.revert()
        >>> notes.read(lambda version: (version / "text").read_text())
        'old'
    """

    folder: Path
    pointer: str
    format: str
    format_version: int
    what: str
    make: str
    error: type[ChiasmError]

    @property
    def exists(self) -> bool:
        """Whether anything was written."""
        return (self.folder / self.pointer).is_file()

    @property
    def current(self) -> str:
        """Name of the current version, which changes when it is replaced. Cheap enough to ask every few seconds.

        Raises:
            ChiasmError: there is none, it is of another version of the format, or the pointer is damaged.
        """
        return str(self._names()["current"])

    @property
    def since(self) -> str:
        """UTC time in ISO 8601 at which the current version became that.

        Raises:
            ChiasmError: as `current`.
        """
        return str(self._names()["since"])

    def read(self, load: Callable[[Path], _Saved]) -> _Saved:
        """Load the current version, also while it is being replaced.

        Args:
            load: takes the folder of a version.

        Raises:
            ChiasmError: there is none, it is of another version of the format, or it is damaged.
        """
        version = self.current
        while True:
            try:
                return load(self.folder / version)
            except DAMAGE as error:
                newer = self.current
                if newer == version:
                    self._damaged(error)
                version = newer  # it was replaced twice while it was read, and the version is gone

    def write(self, save: Callable[[Path], object], *, expected: str | None = None) -> str:
        """Write a version and make it the current one; the current one stays as the one before, and that goes.

        Args:
            save: writes into an empty folder.
            expected: the version that must still be the current one.

        Raises:
            ChiasmError: the folder holds something else, the current version is another one, or the disk cannot be
                written to; what was there stays.
        """
        is_other = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
        if is_other and not self.exists and not self._is_begun():
            raise self.error(f"{self.folder} exists and is not a {self.what}. Name an empty or a new folder")
        with self._locked():
            names = self._names() if self.exists else {"current": None}
            if expected is not None and names["current"] != expected:
                raise self.error(
                    f"{self.folder} was replaced by somebody else meanwhile, so that this comparison no longer holds: try "
                    "again"
                )
            version = uuid.uuid4().hex[:16]
            with whole_folder(self.folder / version) as draft:
                save(draft)
            self._switch(version, names["current"])
        return version

    def revert(self) -> str:
        """Go back to the version before, and return its name; a second time undoes the first.

        Raises:
            ChiasmError: there is no version before, or the disk cannot be written to.
        """
        self._names()  # says that there is none, without making a folder for a lock
        with self._locked():
            names = self._names()
            previous = names["previous"]
            if previous is None or not (self.folder / previous).is_dir():
                raise self.error(f"{self.folder} has no earlier {self.what} to go back to")
            self._switch(previous, names["current"])
        return str(previous)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the versions that there are: the current one, and the one before.

        Raises:
            ChiasmError: as `current`.
        """
        names = self._names()
        every = [self.folder / str(name) for name in (names["current"], names["previous"]) if name is not None]
        return tuple(path for path in every if path.is_dir())

    def keep(self, *, previous: bool) -> None:
        """Delete, for good, what no pointer names any more, and the version before unless that is kept.

        Raises:
            ChiasmError: as `revert`.
        """
        with self._locked():
            names = self._names()
            if previous:
                self._remove_others(names["current"], names["previous"])
            else:
                self._switch(names["current"], None)

    def delete(self) -> None:
        """Delete all versions, for good, and the folder. From the first moment on there is none, also if it is killed.

        Raises:
            ChiasmError: the disk cannot be written to.
        """
        with self._locked():
            (self.folder / self.pointer).unlink(missing_ok=True)
            self._remove_others()
        shutil.rmtree(self.folder)

    def _names(self) -> dict[str, Any]:
        path = self.folder / self.pointer
        try:
            names = read_object(path)
        except FileNotFoundError as error:
            raise self.error(f"{self.folder} is not a {self.what}: {self.pointer} is missing. {self.make}") from error
        except NotADirectoryError as error:
            raise self.error(f"{self.folder} is not a {self.what} but a file. {self.make}") from error
        except DAMAGE as error:
            self._damaged(error)
        if (names.get("format"), names.get("format_version")) != (self.format, self.format_version):
            raise self.error(
                f"{self.folder} is {names.get('format')!r:.80} version {names.get('format_version')!r:.80}; this chiasm reads "
                f"{self.format} version {self.format_version}. It was made by another chiasm: move it away. {self.make}"
            )
        versions = [names.get("current"), names.get("previous")]
        if versions[1] is None:
            versions.pop()
        is_named = all(isinstance(name, str) and _VERSION.fullmatch(name) for name in versions)
        if not is_named or not isinstance(names.get("since"), str):
            self._damaged(ValueError(f"{self.pointer} names no version"))
        return names

    def _switch(self, current: str, previous: str | None) -> None:
        """Name the versions, and remove those that are named no longer."""
        names = {"format": self.format, "format_version": self.format_version, "current": current, "previous": previous}
        names["since"] = datetime.now(UTC).isoformat(timespec="microseconds")
        write_whole(self.folder / self.pointer, json.dumps(names, indent=1) + "\n")
        self._remove_others(current, previous)

    def _remove_others(self, *names: str | None) -> None:
        """Remove versions of other names, with what a killed program left."""
        for path in self.folder.iterdir():
            if path.name in names:
                continue
            if path.is_dir() and _VERSION.search(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == ".tmp":
                path.unlink(missing_ok=True)

    def _is_begun(self) -> bool:
        """Whether the folder holds nothing but what a first write leaves that was killed."""
        return self.folder.is_dir() and all(
            path.name == ".lock" or path.suffix == ".tmp" or _VERSION.fullmatch(path.name)
            for path in self.folder.iterdir()
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one writer at a time in; what the disk says becomes an error that teaches."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                yield
        except OSError as error:
            raise self.error(f"the {self.what} {self.folder} cannot be written: {error}") from error

    def _damaged(self, error: BaseException) -> NoReturn:
        raise self.error(f"the {self.what} {self.folder} is damaged ({_in_words(error)}). {self.make}") from error


def read_object(path: Path, *, most: int = LARGEST_OBJECT) -> dict[str, Any]:
    """Return the JSON object in a file that nobody vouches for.

    Args:
        path: of the file.
        most: bytes that are read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, no JSON, nested too deep, no object, or holds what is not a finite number.
    """
    with open_source(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > most else file.read(most + 1)
    if max(size, len(content)) > most:
        raise ValueError(f"{path.name} is larger than {most} bytes")

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{path.name} holds {constant}, which is no finite number")

    def number(text: str) -> float:
        return value if np.isfinite(value := float(text)) else refuse(text[:20])

    try:
        fields = json.loads(content.decode(), parse_constant=refuse, parse_float=number)
    except RecursionError:
        raise ValueError(f"{path.name} is nested too deep") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path.name} holds a {type(fields).__name__} instead of an object")
    return fields


def write_object(path: Path, fields: Mapping[Any, Any]) -> None:
    """Write a JSON object whole or not at all; numbers that are not finite, which JSON does not have, as null.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, strict_json(fields))


def check_fields(fields: Mapping[str, Any], **kinds: type | tuple[type, ...]) -> None:
    """Refuse fields that are missing or of another kind.

    Raises:
        ValueError: names the field.
    """
    for name, kind in kinds.items():
        value = fields.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{name!r} should be of {expected}, got {value!r:.80}")


def read_arrays(path: Path, *, most: int = LARGEST_ARRAYS) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Return the arrays of a safetensors file that nobody vouches for.

    Args:
        path: of the file.
        most: bytes of it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, or no safetensors file, or a cut one.
    """
    return read_described(path, most=most)[0]


def read_described(
    path: Path, *, most: int = LARGEST_ARRAYS
) -> tuple[dict[str, Shaped[np.ndarray, "..."]], dict[str, str]]:
    """Return the arrays of a safetensors file and what was written about them, see `read_arrays`."""
    from safetensors import SafetensorError, safe_open

    with open_source(path) as file:
        size, header = os.fstat(file.fileno()).st_size, int.from_bytes(file.read(8), "little")
    if size > most or header > min(LARGEST_HEADER, size):
        raise ValueError(f"{path.name} has {size} bytes, {header} of them a header: it is none of ours, or cut")
    try:
        with safe_open(path, framework="numpy") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from None


def write_arrays(
    path: Path, arrays: Mapping[Any, Shaped[np.ndarray, "..."]], about: Mapping[str, str] | None = None
) -> None:
    """Write arrays as a safetensors file, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    from safetensors.numpy import save

    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, dict(about) if about else None
    )
    write_whole(path, content)


def _in_words(error: BaseException) -> str:
    return str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
