"""Serve the files of items: which ones at all, and under which content type.

A file comes from the collection by item, modality and number; no path is ever taken from a request. It is opened once,
without following links, and checked and read through that one opening. It is served only while it lies, links resolved, in
one of the folders that were named when files were added, or that the operator names: whoever may write into a folder of
media, or made the table that was added, could point at anything that the server can read. And only content is served whose
digest is the one that was recorded when it was added: a collection that somebody else made may name any path and folder,
and cannot know what is in the file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chiasm import work
from chiasm.errors import MediaError
from chiasm.files import is_within
from chiasm.media import kinds
from chiasm.media.kinds import Kind
from chiasm.serving.problems import Problem
from chiasm.types import Modality

_BLOCK = 256 * 1024
_REMEMBERED = 10_000  # digests
_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")
_TYPES: dict[Kind, str] = {  # only what browsers show or play as pictures and sounds, and never as documents
    kinds.JPEG: "image/jpeg",
    kinds.PNG: "image/png",
    kinds.GIF: "image/gif",
    kinds.WEBP: "image/webp",
    kinds.BMP: "image/bmp",
    kinds.AVIF: "image/avif",
    kinds.WAV: "audio/wav",
    kinds.FLAC: "audio/flac",
    kinds.OGG: "audio/ogg",
    kinds.MP3: "audio/mpeg",
    kinds.AAC: "audio/aac",
    kinds.OGG_VIDEO: "video/ogg",
}
_CONTAINERS = {kinds.MP4: "mp4", kinds.MATROSKA: "webm"}
_MODALITIES: dict[Modality, tuple[Modality | None, ...]] = {  # what a file of a slot may be found to be
    "image": ("image",),
    "text": ("text",),
    "audio": ("audio", None),
    "video": (None,),
}


@dataclass(frozen=True)
class OwnFile:
    """A file of an item, opened and found to be what was added."""

    path: Path
    file: FileIO
    digest: str

    @classmethod
    def open(cls, path: Path, digest: str, roots: Sequence[Path]) -> OwnFile:
        """Open a file whose content has a digest (`chiasm.files.digest_file`).

        Args:
            path: of the file.
            digest: of what was added.
            roots: folders, as they are without links, one of which it has to lie in.

        Raises:
            Problem: 404, it is gone, lies in none of the folders, or its content is another.
        """
        file = os.fdopen(_opened(path, roots), "rb", buffering=0)
        try:
            if _digest_of(file) != digest:
                raise _gone()
        except BaseException:
            file.close()
            raise
        return cls(path, file, digest)


_DIGESTS: dict[tuple[int, ...], str] = {}  # of files as they were, so that a film is not read whole for each part of it


def _digest_of(file: FileIO) -> str:
    status = os.fstat(file.fileno())
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _DIGESTS:
        state = hashlib.blake2b(digest_size=16)
        at = 0
        while block := os.pread(file.fileno(), 2**20, at):
            work.check()
            state.update(block)
            at += len(block)
        if len(_DIGESTS) >= _REMEMBERED:
            _DIGESTS.clear()
        _DIGESTS[key] = state.hexdigest()
    return _DIGESTS[key]


def url_of(item: str, modality: Modality, number: int) -> str:
    """Return the path under which a file is served."""
    return f"/v1/items/{quote(item, safe='')}/files/{modality}/{number}"


def file_answer(own: OwnFile, modality: Modality, request: Request) -> Response:
    """Return a response with a file of an item, whole or the part that the Range header asks for (RFC 9110, 14.2).

    Args:
        own: the file; closing it is left to who opened it.
        modality: what the collection has it as. A file that is something else is not served.
        request: for its headers.

    Raises:
        Problem: 404 it is no file of this modality; 416 the range lies outside.
    """
    file = own.file
    status = os.fstat(file.fileno())
    kind = _kind(file)
    if kind is None or kind.modality not in _MODALITIES[modality]:
        raise _gone()
    tag, known = f'"{status.st_mtime_ns:x}-{status.st_size:x}"', _type(kind, modality)
    headers = {
        "Content-Disposition": f"{'inline' if known else 'attachment'}; {_name(own.path)}",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "ETag": tag,
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    part = _range(request.headers.get("range"), status.st_size, request.headers.get("if-range"), tag)
    begin, end = part or (0, status.st_size)
    headers["Content-Length"] = str(end - begin)
    if part is not None:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{status.st_size}"
    return StreamingResponse(
        _blocks(file, begin, end), 206 if part else 200, headers, known or "application/octet-stream"
    )


def _blocks(file: FileIO, begin: int, end: int) -> Iterator[bytes]:
    at = begin
    while at < end:
        block = os.pread(file.fileno(), min(_BLOCK, end - at), at)
        if not block:
            raise OSError("the file became shorter while it was sent")
        at += len(block)
        yield block


def _opened(path: Path, roots: Sequence[Path]) -> int:
    try:
        real = path.resolve(strict=True)
        if not is_within(real, roots):
            raise Problem(
                404, "file", "the file lies outside of the folders that this server gives away (serve --root)"
            )
        opened = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, RuntimeError, ValueError):  # gone, a loop of links, a name that is none
        raise _gone() from None
    if not stat.S_ISREG(os.fstat(opened).st_mode):  # a folder or a pipe
        os.close(opened)
        raise _gone()
    return opened


def _gone() -> Problem:
    return Problem(404, "file", "the file is no longer what was added: it is gone or replaced")


def _kind(file: BinaryIO) -> Kind | None:
    try:
        return kinds.recognise(file)
    except MediaError:
        return None


def _type(kind: Kind, modality: Modality) -> str | None:
    """Return the content type for display; None if the file is only offered for download."""
    if kind is kinds.TEXT:
        return "text/plain; charset=utf-8"
    if kind in _CONTAINERS:
        return f"{modality}/{_CONTAINERS[kind]}"
    return _TYPES.get(kind)


def _name(path: Path) -> str:
    """Return the file name for downloads (RFC 6266), reduced to characters that cannot end a header."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", path.name)[-100:].strip(" .") or "file"
    return f'filename="{plain}"'


def _range(asked: str | None, size: int, only_if: str | None, tag: str) -> tuple[int, int] | None:
    """Return the first byte and the one after the last; None for all, also if the header is not one simple range."""
    match = None if asked is None or (only_if is not None and only_if != tag) else _RANGE.fullmatch(asked.strip())
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.group(1, 2)
    if not first:  # the last bytes
        begin, end = max(size - int(last), 0), size
    else:
        begin, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < begin:
            return None
    if begin >= end:
        raise Problem(
            416,
            "range",
            f"the file has {size} bytes; the range lies outside",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return begin, end
