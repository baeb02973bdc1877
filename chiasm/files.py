"""Files and folders that are written whole or not at all, files of others that are read, names and numbers in one form,
and digests of content.

The one door to the local disk for whatever is not a Lance table: a reader sees the old state or the new one, never a
part of either. What the files mean is left to their owners.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import json
import math
import os
import shutil
import stat
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPORT_MARK = "<!-- A report by chiasm -->"
"""The last line of a report in Markdown: it is not to be read as a text when its folder is added."""


def temporary_of(path: Path) -> Path:
    """Return a name beside a file that no other thread or process writes to."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Write a file beside its name, flush it to the disk, and rename it: readers see the old content or the new.

    A link stays a link, and devices and pipes are refused: a file would take their place.

    Args:
        path: of the file.
        content: a text becomes UTF-8; what cannot, `?`.
        mode: permissions of a new file, before the umask.

    Raises:
        OSError: the file cannot be written; what was there stays, and nothing is left beside it.
    """
    path = Path(os.path.realpath(path))
    if path.exists():
        _require_regular(path.stat(), path)
    remove_stale(path.parent, path.name)
    temporary = temporary_of(path)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content.encode(errors="replace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path, name: str = "*") -> None:
    """Remove what processes that were killed have left in a folder of files that they were writing.

    Args:
        folder: that they wrote to.
        name: of a file that this thread is about to write, so that what bears its own number is of a process that was
            killed and had the same. Default: any file.
    """
    own = f"{os.getpid()}-{threading.get_ident()}"
    for path in folder.glob(f".{glob.escape(name) if name != '*' else name}.*.tmp"):
        writer = path.name.removesuffix(".tmp").rpartition(".")[2]
        process = writer.partition("-")[0]
        if (name != "*" and writer == own) or (process.isdecimal() and not _runs(int(process))):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's, or a system where signals are no question
        return True
    return True


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside a folder that does not exist yet; it takes that name when the block ends well.

    A folder that others read while it changes is not replaced but superseded, see `chiasm.saved.Versions`.

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
    remove_stale(target.parent, target.name)
    beside = temporary_of(target)
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


class NotAFileError(OSError):
    """A folder, a pipe, a socket or a device stands where a file was expected."""


def open_source(path: str | Path) -> io.BufferedReader:
    """Open a file of somebody else for reading, as long as it is at this moment.

    Never waits: what is no regular file by now, whatever it was when its folder was listed, is refused. What is appended
    after the opening is not read, so a file that grows for ever ends.

    Raises:
        NotAFileError: it is a folder, a pipe, a socket or a device.
        OSError: it cannot be opened.

    Example:
        >>> with open_source("/dev/null") as file:
        ...     file.read()
        Traceback (most recent call last):
        chiasm.files.NotAFileError: [Errno 22] this is a device or a pipe, not a file: '/dev/null'
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # before: opening wakes whoever waits at the other end of a pipe
    except UnicodeEncodeError as error:  # LC_ALL=C
        problem = f"its name cannot be written in this system's encoding, {error.encoding}"
        raise OSError(errno.EILSEQ, problem, str(path)) from error
    _require_regular(status, path)
    # Without blocking: the file may have become a pipe since, which would wait for a writer.
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        status = os.fstat(number)
        _require_regular(status, path)
    except BaseException:
        os.close(number)
        raise
    return io.BufferedReader(_AsItWas(number, status.st_size))


def _require_regular(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device or a pipe"
        raise NotAFileError(errno.EINVAL, f"this is {what}, not a file", str(path))


class _AsItWas(io.FileIO):
    """An open file that ends where it ended when it was opened."""

    def __init__(self, number: int, size: int) -> None:
        super().__init__(number, "rb")
        self._size = size

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position and return it."""
        return super().seek(self._size + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer what is there, up to the end."""
        return super().readinto(memoryview(buffer)[: max(0, self._size - self.tell())]) or 0

    def readall(self) -> bytes:
        """Return all up to the end."""
        return super().read(max(0, self._size - self.tell())) or b""


def strict_json(document: Any) -> str:
    """Return a document as JSON that readers of any language can read: numbers that are not finite are null."""
    return json.dumps(finite(document), indent=1, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Return what is to become JSON with None in place of numbers that JSON does not have: NaN and infinities.

    Example:
        >>> finite({"a": [1.5, float("nan")]})
        {'a': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy's
        return finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def is_unicode(text: str) -> bool:
    """Return whether a text, such as a file's name, can be stored and printed: bytes that are not UTF-8 are half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_form(text: str) -> str:
    """Return a name with its accents composed (Unicode NFC): macOS writes some of them apart, and both look the same."""
    return unicodedata.normalize("NFC", text)


def path_on_disk(folder: str, written: str) -> str:
    """Return the absolute path of a file that a table or a person names.

    A name that is not there as it is written is looked for with its accents composed and apart, and with `\\` of Windows
    as `/`. Where none is there, the path is as it is written, but for such separators.
    """
    path = os.path.normpath(os.path.join(folder, written))  # noqa: PTH118  # a fifth of the time of Path
    if ("\\" not in written and written.isascii()) or os.path.lexists(path):  # paths by the thousand
        return path
    steps = os.path.normpath(written.replace("\\", "/")).split("/")
    known = "/" if written.startswith("/") else folder
    for number, step in enumerate(steps):
        forms = (step, one_form(step), unicodedata.normalize("NFD", step))
        found = next((form for form in forms if os.path.lexists(os.path.join(known, form))), None)  # noqa: PTH118
        if found is None:
            known = os.path.join(known, *steps[number:])  # noqa: PTH118
            break
        known = os.path.join(known, found)  # noqa: PTH118
    return os.path.normpath(known)


def names_in(folder: str | Path) -> list[str]:
    """Return the names in a folder, sorted; none where it cannot be read, or is none."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  # names are asked for, not paths
    except OSError:
        return []


def real_folders(paths: Iterable[str]) -> set[str]:
    """Return the folders that files really lie in, whatever links lead to them."""
    of: dict[str, str] = {}  # folder as it is written -> real one: files are many, and folders few
    folders: set[str] = set()
    for path in paths:
        folder = os.path.dirname(path)  # noqa: PTH120  # paths by the thousand
        if os.path.islink(path):  # noqa: PTH114
            folders.add(os.path.dirname(os.path.realpath(path)))  # noqa: PTH120
        else:
            if folder not in of:
                of[folder] = os.path.realpath(folder)
            folders.add(of[folder])
    return folders


def is_within(path: str | Path, folders: Iterable[str | Path]) -> bool:
    """Return whether a path is one of some folders or lies in one. All are real paths: links are not looked at.

    Example:
        >>> is_within("/a/b/c.png", ["/a/b"]), is_within("/a/bc.png", ["/a/b"])
        (True, False)
    """
    return any(Path(path).is_relative_to(folder) for folder in folders)


def outermost(folders: Iterable[str]) -> list[str]:
    """Return folders without those that lie in another one, and without `/`, sorted.

    Example:
        >>> outermost(["/a/b", "/a", "/c", "/"])
        ['/a', '/c']
    """
    kept: list[str] = []
    for folder in sorted(set(folders), key=lambda path: Path(path).parts):
        if Path(folder) != Path(folder).parent and not is_within(folder, kept):
            kept.append(folder)
    return kept


def digest_text(text: str) -> str:
    """Return the BLAKE2b digest of a text's UTF-8 bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_file(path: str | Path) -> str:
    """Return the BLAKE2b digest of a file's bytes, 32 hexadecimal digits.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    with open_source(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
