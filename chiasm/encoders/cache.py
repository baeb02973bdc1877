"""The cache folder: expensive things are made once, whole, and made again when they are damaged.

Two things are kept: folders that a function fills (`make_once`: an exported network, a joined model file) and digests
of weight files by path, size and time of change (`file_digest`), so that 90 MB are not read again at every start. All
of it can be deleted at any time and is then made again. What the folders hold is left to `runtime` and `offline`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from chiasm.errors import EncoderError
from chiasm.files import read_record, strict_json, write_whole

RECORD = "made.json"
"""Written last into a folder: its notes and the size and digest of each of its files."""


def cache_folder() -> Path:
    """Return `$CHIASM_CACHE` if set, else `chiasm` in the platform's folder for caches; it is made if missing.

    Raises:
        EncoderError: it cannot be made.
    """
    override = os.environ.get("CHIASM_CACHE")
    if override:
        folder = Path(override).expanduser()
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local")).expanduser() / "chiasm"
    elif sys.platform == "darwin":
        folder = Path("~/Library/Caches/chiasm").expanduser()
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "chiasm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncoderError(
            f"the cache folder {folder} cannot be made ({error.strerror}). Set CHIASM_CACHE to a folder that can"
        ) from error
    return folder


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex; the file is read again only if its size or modification time changed.

    Raises:
        EncoderError: the file cannot be read, or the cache folder cannot be written.
    """
    path = path.resolve()
    try:
        stamp = _stamp(path, "")
        entry = read_record(_digests()).get(str(path))
        if isinstance(entry, list) and entry[:2] == stamp[:2]:
            return str(entry[2])
        digest = _sha256(path)
    except OSError as error:
        raise EncoderError(f"{path} cannot be read: {error.strerror or error}") from error
    _remember({path: [*stamp[:2], digest]})
    return digest


def fingerprint(*parts: str) -> str:
    """Return 32 hex digits that stand for these strings, in this order."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def make_once(kind: str, name: str, key: str, make: Callable[[Path], Mapping[str, str]]) -> tuple[Path, dict[str, str]]:
    """Return a folder of the cache, filled by `make` the first time.

    Safe for several processes: one makes it, the others wait for the lock. A folder appears whole or not at all. One
    whose files are missing, truncated or changed is made again.

    Args:
        kind: what it is, e.g. `"networks"`: a folder of the cache.
        name: of the thing, for people who look into the cache; any text.
        key: hex digest of everything that its content depends on.
        make: fills an empty folder and returns notes, kept beside the files.

    Returns:
        The folder and the notes of its making.

    Raises:
        EncoderError: the folder cannot be written.
        Exception: what `make` raises; nothing is kept then.
    """
    folder = _folder(kind, name, key)
    notes = _notes(folder)
    if notes is not None:
        return folder, notes
    with _writing(folder):
        notes = _notes(folder)  # another process may have made it while this one waited
        if notes is None:
            notes = _make(folder, make)
    return folder, notes


def notes_of(kind: str, name: str, key: str) -> dict[str, str] | None:
    """Return the notes of what `make_once` made by these names; None if it is not there."""
    return _notes(_folder(kind, name, key))


def _folder(kind: str, name: str, key: str) -> Path:
    readable = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)[-60:].strip(".-")
    return cache_folder() / kind / f"{readable}-{key[:16]}"


def _make(folder: Path, make: Callable[[Path], Mapping[str, str]]) -> dict[str, str]:
    temporary = folder.with_name(f".{folder.name}.making")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir()
    try:
        notes = dict(make(temporary))
        files = {file.name: _stamp(file, _sha256(file)) for file in sorted(temporary.iterdir())}
        record = {"notes": notes, "files": {name: [size, digest] for name, (size, _, digest) in files.items()}}
        write_whole(temporary / RECORD, strict_json(record))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _remember({folder.resolve() / name: entry for name, entry in files.items()})  # a rename keeps the time of change
    return notes


def _notes(folder: Path) -> dict[str, str] | None:
    """Return the notes of the making; None if the folder is missing or was changed since."""
    record = read_record(folder / RECORD)
    files, notes = record.get("files"), record.get("notes")
    if not isinstance(files, dict) or not isinstance(notes, dict):
        return None
    for name, (size, digest) in files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size or file_digest(file) != digest:
            return None
    return {str(key): str(value) for key, value in notes.items()}


def _digests() -> Path:
    return cache_folder() / "digests.json"


def _remember(digests: Mapping[Path, list[int | str]]) -> None:
    store = _digests()
    with _writing(store):
        # Read under the lock: another process may have added its own since. Files that are gone are left out.
        entries = {path: entry for path, entry in read_record(store).items() if os.path.exists(path)}  # noqa: PTH110
        entries |= {str(path): entry for path, entry in digests.items()}
        write_whole(store, strict_json(entries))


def _stamp(path: Path, digest: str) -> list[int | str]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, digest]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold the lock of a file or folder of the cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            yield
    except OSError as error:
        raise EncoderError(
            f"the cache at {path} cannot be written: {error}. Free space, or set CHIASM_CACHE to another folder"
        ) from error
