"""Whether a sound or a video has all the bytes that its own header promises.

Decoders forgive: of half a WAV, Ogg, MP3 or MP4 they give the first half and say nothing. Here the lengths that a
format declares are compared with the bytes that are there, and checksums checked where the format has them, before
anything is decoded. Damage inside a stream that no length or checksum shows is left to the decoders.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from chiasm.errors import MediaError
from chiasm.media import kinds
from chiasm.media.kinds import Kind
from chiasm.types import Outcome


def check(file: BinaryIO, kind: Kind) -> None:
    """Raise unless the file is as long as it says. Kinds that declare no length pass. Leaves the file at its beginning.

    Raises:
        MediaError: `BROKEN` the file is cut off or, where the format has checksums, damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        if kind in (kinds.WAV, kinds.AIFF, kinds.AVI):
            _check_riff(file, size)
        elif kind in (kinds.OGG, kinds.OGG_VIDEO):
            _check_ogg(file.read())
        elif kind == kinds.MP3:
            _check_mp3(file.read())
        elif kind == kinds.MP4:
            _check_boxes(file, size)
        elif kind == kinds.MATROSKA:
            _check_matroska(file, size)
        elif kind == kinds.ASF:
            _check_asf(file.read(kinds.HEAD), size)
    except (struct.error, IndexError) as error:
        raise _cut(f"the {kind.name} ends inside its header") from error
    file.seek(0)


def has_several_parts(file: BinaryIO, kind: Kind) -> bool:
    """Return whether an Ogg or MP3 file is several files in a row, of which libsndfile would read the first only.

    The file has passed `check`. Leaves the file at its beginning.
    """
    parts = False
    if kind == kinds.OGG:
        data = file.read()
        parts = sum(1 for page in _ogg_pages(data) if data[page.start + 5] & 2) > 1  # pages that begin a stream
    elif kind == kinds.MP3:
        data = file.read()
        start = _mp3_start(data)
        declared = _xing_bytes(data, start)
        after = start + declared if declared else len(data)
        parts = kinds.mp3_frame(data, after) > 0 or data.startswith(b"ID3", after)
    file.seek(0)
    return parts


def _cut(reason: str) -> MediaError:
    return MediaError(Outcome.BROKEN, f"{reason}: it was cut off, or never finished")


def _check_riff(file: BinaryIO, size: int) -> None:
    """Check the chunks of WAV, AVI (little-endian) and AIFF (big-endian); RF64 keeps sizes above 4 GB in a chunk of its own."""
    form = file.read(12)
    endian = ">" if form.startswith(b"FORM") else "<"
    if form[8:12] == b"AVI ":
        declared = struct.unpack("<I", form[4:8])[0] + 8
        if declared > size and form[4:8] != b"\xff\xff\xff\xff":
            raise _cut(f"the AVI holds {size:,} of {declared:,} bytes")
        return
    position, large = 12, 0
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(endian + "4sI", file.read(8))
        if name == b"ds64":
            large = struct.unpack("<QQ", file.read(16))[1]
        if name in (b"data", b"SSND"):
            held = size - position - 8
            if length == 0 and held > 1024:  # more than a few notes behind the samples
                raise _cut(f"the header says that there are no samples, but {held:,} bytes follow")
            if large and length == 0xFFFFFFFF:
                length = large
            elif length >= 0x7FFF0000:
                return  # written to a pipe, which cannot go back to fill in a size
            if length > held:
                raise _cut(f"the file holds {held:,} of {length:,} bytes of samples")
            return
        position += 8 + length + length % 2
    raise _cut("the file ends before its samples")


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


def _mp3_start(data: bytes) -> int:
    """Return where the first frame begins, behind ID3v2 tags (their size is in 7 bits a byte)."""
    position = 0
    while data.startswith(b"ID3", position) and len(data) >= position + 10:
        a, b, c, d = data[position + 6 : position + 10]
        footer = 10 if data[position + 5] & 16 else 0
        position += 10 + (a << 21 | b << 14 | c << 7 | d) + footer
    return position


def _xing_bytes(data: bytes, start: int) -> int:
    """Return the bytes of all frames as the encoder's own first frame declares them (Xing or Info header), or 0."""
    frame = data[start : start + kinds.mp3_frame(data, start)]
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if not 4 <= at <= 36 or len(frame) < at + 16:
        return 0
    flags = struct.unpack(">I", frame[at + 4 : at + 8])[0]
    if not flags & 2:
        return 0
    return int(struct.unpack(">I", frame[at + 8 + 4 * (flags & 1) : at + 12 + 4 * (flags & 1)])[0])


def _check_mp3(data: bytes) -> None:
    """Check that all bytes that the Xing header declares are there, or, without one, the last frame is whole."""
    position = _mp3_start(data)
    if position >= len(data):
        raise _cut("the MP3 ends inside its tags")
    if declared := _xing_bytes(data, position):
        if position + declared > len(data):
            raise _cut(f"the MP3 holds {len(data) - position:,} of {declared:,} bytes of sound")
        return
    while length := kinds.mp3_frame(data, position):
        position += length
    rest = data[position:]
    if position > len(data) or (len(rest) < 4 and rest.startswith(b"\xff")):
        raise _cut("the last frame of the MP3 is not whole")


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


def _check_boxes(file: BinaryIO, size: int) -> None:
    """Check that every outermost box lies inside the file, and one of them is the index (ISO 14496-12, 4.2)."""
    position, names = 0, set()
    while position < size:
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
