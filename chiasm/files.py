"""Files and folders that are written whole or not at all, and digests of content.

The one door to the local disk for whatever is not a Lance table: a reader sees the old state or the new one, never a
part of either. What the files mean is left to their owners.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def temporary_of(path: Path) -> Path:
    """Return a name beside a file that no other thread or process writes to."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its name, flush it to the disk, and rename it: readers see the old content or the new.

    Raises:
        OSError: the file cannot be written; what was there stays, and nothing is left beside it.
    """
    temporary = temporary_of(path)
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside a folder that does not exist yet; it takes that name when the block ends well.

    A folder that others read while it changes is not replaced but superseded: its successor is written under a new name,
    and a small file that names the current one is switched by `write_whole`.

    Raises:
        OSError: the disk cannot be written to, or the target exists; nothing is left beside it.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "model"
        >>> with whole_folder(target) as folder:
        ...     _ = (folder / "weights").write_text("1")
        >>> (target / "weights").read_text()
        '1'
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = temporary_of(target)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for path in beside.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def read_record(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that can be made again: empty where the file is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def digest_text(text: str) -> str:
    """Return the BLAKE2b digest of a text's UTF-8 bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_file(path: str | Path) -> str:
    """Return the BLAKE2b digest of a file's bytes, 32 hexadecimal digits.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
