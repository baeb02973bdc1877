"""Keep files that people search with for a while, so that an address that names one can be sent to others.

A file is named by a digest of its content: who can name it has it, or was sent the address of a search with it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from chiasm.files import temporary_of
from chiasm.serving.problems import Problem, disk_full

_NAME = re.compile(r"[0-9a-f]{32}(?:\.[a-z0-9]{1,5})?")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")


class Uploads:
    """Files of queries in a folder; the oldest go when there are too many bytes of them.

    Args:
        folder: made by the first file.
        most_bytes: of all files together; the newest stays, however large.
        keep_free: bytes of the disk that they leave free.
    """

    def __init__(self, folder: Path, *, most_bytes: int, keep_free: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._keep_free = keep_free

    def add(self, write: Callable[[BinaryIO], None], suffix: str) -> str:
        """Keep what `write` writes into a file, and return its name. May block.

        Args:
            write: is given the open file.
            suffix: of the name that the file had, which tells some kinds apart.

        Raises:
            Problem: 507, there is no space.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(self._folder).free < self._keep_free:
            raise disk_full("the disk of the server is nearly full")
        part = temporary_of(self._folder / "upload")
        try:
            with part.open("xb") as file:
                write(file)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            name = digest + (suffix if _SUFFIX.fullmatch(suffix) else "")
            part.replace(self._folder / name)
        finally:
            part.unlink(missing_ok=True)
        self._drop_oldest(keep=name)
        return name

    def path(self, name: str) -> Path:
        """Return where a file is.

        Raises:
            Problem: 404, it is not there, or not any more.
        """
        path = self._folder / name
        if _NAME.fullmatch(name) is None or not path.is_file():
            raise Problem(404, "upload", "the file of this search is not kept any more. Add it to the search again")
        return path

    def _drop_oldest(self, keep: str) -> None:
        files = []
        for path in self._folder.iterdir():
            try:
                status = path.stat()
            except OSError:  # another process was faster
                continue
            if _NAME.fullmatch(path.name):
                files.append((path.name == keep, status.st_mtime_ns, status.st_size, path))
        left = self._most_bytes
        for is_kept, _, size, path in sorted(files, reverse=True):
            left -= size
            if left < 0 and not is_kept:
                path.unlink(missing_ok=True)
