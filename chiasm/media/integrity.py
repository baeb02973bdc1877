"""Whether a sound or a video has all the bytes that its own header promises.

Decoders forgive: of half a WAV, Ogg or MP4 they give the first half and say nothing. Here the lengths that a format
declares are compared with the bytes that are there, and checksums checked where the format has them, before anything is
decoded. Damage inside a stream that no length or checksum shows is left to the decoders.

Decoders also stop where a header says so, while recorders leave lengths unknown, at 0, or as they were when power failed.
So a length that is too short is replaced by what is there.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from chiasm.errors import MediaError
from chiasm.media import kinds
from chiasm.media.kinds import Kind
from chiasm.types import Outcome


def check(file: BinaryIO, kind: Kind) -> BinaryIO:
    """Return the file from its beginning, with lengths of samples that are unknown or too short put right.

    A stream that begins inside a packet is returned from the next one on.

    Kinds that declare no length pass.

    Raises:
        MediaError: `BROKEN` the file is cut off or, where the format has checksums, damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        if kind in (kinds.WAV, kinds.AIFF):
            file = _check_samples(file, size, kind)
        elif kind in (kinds.MPEG_TS, kinds.MPEG_PS):
            file = cast("BinaryIO", View(file, begin=kinds.begin_of_stream(file)))
        elif kind == kinds.AVI:
            _check_avi(file.read(12), size)
        elif kind in (kinds.OGG, kinds.OGG_VIDEO):
            _check_ogg(file.read())
        elif kind == kinds.MP4:
            _check_boxes(file, size)
        elif kind == kinds.MATROSKA:
            _check_matroska(file, size)
        elif kind == kinds.ASF:
            _check_asf(file.read(kinds.HEAD), size)
    except (struct.error, IndexError) as error:
        raise _cut(f"the {kind.name} ends inside its header") from error
    file.seek(0)
    return file


class View(io.RawIOBase):
    """A file as it would be without its first bytes, or with a few others at a place.

    Of a position before the beginning, which damaged files make libsndfile ask for, it goes to the beginning: an error would be
    lost inside the library.
    """

    def __init__(self, file: BinaryIO, *, begin: int = 0, at: int = 0, content: bytes = b"") -> None:
        self._file, self._begin, self._at, self._content = file, begin, at, content
        self.seek(0)

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position and return it."""
        if whence != os.SEEK_SET:
            offset += self._file.seek(0, whence) - self._begin
        return self._file.seek(self._begin + max(0, offset)) - self._begin

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer."""
        begin = self._file.tell()
        data = self._file.read(len(buffer))
        view = memoryview(buffer)
        view[: len(data)] = data
        first, last = max(begin, self._at), min(begin + len(data), self._at + len(self._content))
        if first < last:
            view[first - begin : last - begin] = self._content[first - self._at : last - self._at]
        return len(data)


def has_several_parts(file: BinaryIO, kind: Kind) -> bool:
    """Return whether an Ogg file is several files in a row, of which libsndfile would read the first only.

    The file has passed `check`. Leaves the file at its beginning.
    """
    if kind != kinds.OGG:
        return False
    data = file.read()
    file.seek(0)
    return sum(1 for page in _ogg_pages(data) if data[page.start + 5] & 2) > 1  # pages that begin a stream


def _cut(reason: str) -> MediaError:
    return MediaError(Outcome.BROKEN, f"{reason}: it was cut off, or never finished")


def _check_avi(form: bytes, size: int) -> None:
    (declared,) = struct.unpack("<I", form[4:8])
    if declared + 8 > size and declared != 0xFFFFFFFF:
        raise _cut(f"the AVI holds {size:,} of {declared + 8:,} bytes")


_MOST_CHUNKS = 10_000
_NOTES = 1024  # bytes behind the samples that may be no chunks and no samples
_UNKNOWN = 0x7FFF0000  # and above: written to a pipe, which cannot go back to fill in a size


def _check_samples(file: BinaryIO, size: int, kind: Kind) -> BinaryIO:
    """Check the chunks of WAV (little-endian; RF64 keeps sizes above 4 GB in a chunk of its own) and AIFF (big-endian)."""
    endian = ">" if kind == kinds.AIFF else "<"
    position, large, frame = 12, 0, 1
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        name, length = struct.unpack(endian + "4sI", file.read(8))
        content = position + 8
        if name == b"ds64":
            large = struct.unpack("<QQ", file.read(16))[1]
        elif name == b"fmt ":
            code, _, _, _, block = struct.unpack("<HHIIH", file.read(14))
            frame = block if code in (1, 3, 6, 7, 0xFFFE) else 1
        elif name == b"COMM":
            channels, _, bits = struct.unpack(">HIH", file.read(8))
            frame = channels * -(-bits // 8)
        elif name in (b"data", b"SSND"):
            held = size - content
            if large and length == 0xFFFFFFFF:
                if large > held:
                    raise _cut(f"the file holds {held:,} of {large:,} bytes of samples")
                return file
            if length >= _UNKNOWN or (length < held - _NOTES and not _are_chunks(file, content + length, size, endian)):
                return _with_length(file, position, endian, held)
            if length - held >= max(frame, 2):
                raise _cut(f"the file holds {held:,} of {length:,} bytes of samples")
            return _with_length(file, position, endian, held) if length > held else file
        position = content + length + length % 2
        if position + 8 > size:
            raise _cut("the file ends before its samples")
    raise MediaError(Outcome.BROKEN, f"the {kind.name} has more than {_MOST_CHUNKS:,} parts before its samples")


def _with_length(file: BinaryIO, position: int, endian: str, length: int) -> BinaryIO:
    return cast("BinaryIO", View(file, at=position + 4, content=struct.pack(endian + "I", length)))


def _are_chunks(file: BinaryIO, position: int, size: int, endian: str) -> bool:
    """Return whether a row of chunks, as they hold notes, goes from here to the end."""
    position += position % 2
    for _ in range(_MOST_CHUNKS):
        if position + 8 > size:
            return True
        file.seek(position)
        name, length = struct.unpack(endian + "4sI", file.read(8))
        if not all(32 <= byte < 127 for byte in name) or position + 8 + length > size:
            return False
        position += 8 + length + length % 2
    return False


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_checksum(page: bytes) -> int:
    """Return Ogg's CRC-32 (RFC 3533, 6): zlib's polynomial, but highest bit first, beginning with 0 and not inverted."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def _ogg_pages(data: bytes) -> Iterator[slice]:
    """Yield the pages of an Ogg file, as far as they follow each other without a gap and are whole."""
    position = 0
    while data.startswith(b"OggS", position) and position + 27 <= len(data):
        lengths = data[position + 27 : position + 27 + data[position + 26]]
        end = position + 27 + data[position + 26] + sum(lengths)
        if len(lengths) < data[position + 26] or end > len(data):
            return
        yield slice(position, end)
        position = end


def _check_ogg(data: bytes) -> None:
    """Check that every page is there, in sequence, and its checksum right (RFC 3533). A missing end-of-stream mark is allowed:
    recorders that were stopped leave whole pages without one."""
    numbers: dict[bytes, int] = {}
    end, ended = 0, False
    for page in _ogg_pages(data):
        header = data[page.start : page.start + 27]
        checksum, number = struct.unpack("<I", header[22:26])[0], struct.unpack("<I", header[18:22])[0]
        if _ogg_checksum(header[:22] + b"\0\0\0\0" + data[page.start + 26 : page.stop]) != checksum:
            raise MediaError(Outcome.BROKEN, f"the Ogg page at byte {page.start:,} is damaged: its checksum is wrong")
        if not header[5] & 2 and numbers.get(header[14:18], number - 1) != number - 1:
            raise MediaError(Outcome.BROKEN, f"pages are missing before byte {page.start:,} of the Ogg file")
        numbers[header[14:18]] = number
        end, ended = page.stop, bool(header[5] & 4)
    if end < len(data) and (not ended or data.startswith(b"OggS", end)):
        raise _cut(f"the last page of the Ogg file, at byte {end:,}, is not whole")


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, slice]]:
    """Yield name and content of the boxes of an ISO base media file that lie side by side in `data[start:end]`.

    Stops at a box that is not whole.
    """
    while start + 8 <= end:
        length, name, header = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], 8
        if length == 1:
            length, header = int.from_bytes(data[start + 8 : start + 16]), 16
        stop = start + length if length else end
        if stop < start + header or stop > end:
            return
        yield name, slice(start + header, stop)
        start = stop


_MOST_BOXES = 1_000_000  # live recordings may have two a frame


def _check_boxes(file: BinaryIO, size: int) -> None:
    """Check that every outermost box lies inside the file, and one of them is the index (ISO 14496-12, 4.2)."""
    position, names = 0, set()
    for _ in range(_MOST_BOXES):
        if position >= size:
            break
        file.seek(position)
        header = file.read(16)
        if not header.strip(b"\0"):
            break  # padding
        if len(header) < 8:
            raise _cut("the MP4 ends inside a header")
        length, name = struct.unpack(">I4s", header[:8])
        if length == 1:
            length = struct.unpack(">Q", header[8:16])[0]
        length = length or size - position
        if length < 8:
            raise MediaError(Outcome.BROKEN, f"the MP4 is damaged at byte {position:,}")
        if position + length > size:
            raise _cut(f"the MP4 holds {size - position:,} of {length:,} bytes of its part {name.decode('latin-1')!r}")
        names.add(name)
        position += length
    if b"moov" not in names:
        raise _cut("the MP4 has no index")


def _check_matroska(file: BinaryIO, size: int) -> None:
    """Check that the segment lies inside the file (RFC 8794 and 9559). Browsers record with an unknown size: that passes."""
    file.seek(4)
    file.seek(_vint(file))
    if file.read(4) != b"\x18\x53\x80\x67":
        raise MediaError(Outcome.BROKEN, "the Matroska file is damaged: no segment follows its header")
    end = _vint(file)
    if end > size:
        raise _cut(f"the Matroska file holds {size:,} of {end:,} bytes")


_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def _check_asf(head: bytes, size: int) -> None:
    """Check that the file is as long as its properties say (ASF specification, 3.2); broadcasts say nothing."""
    at = head.find(_ASF_PROPERTIES)
    if at < 0:
        raise MediaError(Outcome.BROKEN, "the ASF file is damaged: its header has no properties")
    (declared,) = struct.unpack_from("<Q", head, at + 40)
    (flags,) = struct.unpack_from("<I", head, at + 88)
    if declared > size and not flags & 1:
        raise _cut(f"the ASF file holds {size:,} of {declared:,} bytes")


def _vint(file: BinaryIO) -> int:
    """Read an EBML size and return where what it measures ends, or 0 where the size is declared unknown."""
    first = file.read(1)[0]
    extra = 8 - first.bit_length()
    if extra > 7:
        raise MediaError(Outcome.BROKEN, "the Matroska file is damaged: a size has no length")
    value = int.from_bytes(bytes([first]) + file.read(extra)) - (1 << 7 * (extra + 1))
    return 0 if value == (1 << 7 * (extra + 1)) - 1 else file.tell() + value
