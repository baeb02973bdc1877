"""Write items for taking along: their columns as a table, or their files as a ZIP archive."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from chiasm.serving.files import OwnFile
from chiasm.serving.problems import Problem

MOST_BYTES = 4 * 2**30  # of the files of an archive
_BLOCK = 2**20
_BETWEEN = " | "  # several texts of an item in one cell
_LEFT_OUT = "left-out.txt"


def table_of(items: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return a row an item: its id, its texts, and the metadata. Where files lie on the server is left out.

    Args:
        items: see `schemas.Item`.
    """
    columns = list(dict.fromkeys(name for item in items for name in item["metadata"]))
    words = [_BETWEEN.join(one["text"] for one in item["media"] if one["text"]) or None for item in items]
    return pa.table(
        {
            "id": pa.array([item["id"] for item in items], pa.string()),
            "text": pa.array(words, pa.string()),
            **{name: pa.array([item["metadata"].get(name) for item in items]) for name in columns},
        }
    )


def archive(files: Iterable[tuple[str, str, OwnFile | Problem]]) -> Iterator[bytes]:
    """Yield the bytes of a ZIP archive of files, which are stored as they are. What cannot be given away is listed in it.

    Args:
        files: item, slot and the opened file, which is closed here, or why it is left out.
    """
    stream = _Stream()
    left_out: list[str] = []
    names: set[str] = set()
    total = 0
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as zipped:
        for item, slot, own in files:
            if isinstance(own, Problem):
                left_out.append(f"{item} {slot}: {own.detail}")
                continue
            with own.file:
                size = own.file.seek(0, io.SEEK_END)
                own.file.seek(0)
                if total + size > MOST_BYTES:
                    left_out.append(f"{item} {slot}: the archive would have more than {MOST_BYTES:,} bytes")
                    continue
                total += size
                with zipped.open(_name(item, slot, own, names), "w", force_zip64=True) as entry:
                    while block := own.file.read(_BLOCK):
                        entry.write(block)
                        yield stream.take()
        if left_out:
            zipped.writestr(_LEFT_OUT, "\n".join(left_out) + "\n")
    yield stream.take()


def _name(item: str, slot: str, own: OwnFile, taken: set[str]) -> str:
    """Return a name in the archive that no program takes for a way out of its folder, and that is not taken."""
    stem = re.sub(r"[^\w.-]+", "_", item.replace("/", "_"))[-100:].strip("._") or "item"
    suffix = own.path.suffix.lower() if re.fullmatch(r"\.[A-Za-z0-9]{1,5}", own.path.suffix) else ""
    modality, _, number = slot.partition("/")
    name, count = f"{modality}/{stem}{f'-{number}' if number != '0' else ''}{suffix}", 1
    while name in taken:
        count += 1
        name = f"{modality}/{stem}-{number}-{count}{suffix}"
    taken.add(name)
    return name


class _Stream(io.RawIOBase):
    """Takes what is written until it is fetched; nobody can go back in it."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, part: Any, /) -> int:
        """Take bytes."""
        self._parts += part
        return len(part)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        parts, self._parts = bytes(self._parts), bytearray()
        return parts
