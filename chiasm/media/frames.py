"""Sounds that are rows of frames without a container: MPEG audio (MP3) and AAC in ADTS.

Such a file may begin and end anywhere, hold tags between its frames, and says of its length only what an encoder may
have noted in its first frame. So the frames themselves are walked over: where they begin, whether they follow each
other without a gap, and whether the last is whole.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from chiasm.errors import MediaError
from chiasm.types import Outcome

Length = Callable[[bytes, int], int]
"""The bytes of the frame that begins at a position, or 0."""

CHAIN = 4
"""Frames of one form in a row that other bytes do not make by chance."""

_MOST_FOREIGN = 10  # of a file, one part in so many may follow behind the frames and be no tag that is known


class Form(NamedTuple):
    """One kind of frames."""

    name: str
    length: Length
    fixed: bytes  # the bits of a header that all frames of a sound have in common


_KBITS = {  # by (MPEG version 1, layer), in thousands of bits a second
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mp3_frame(data: bytes, at: int = 0) -> int:
    """Return the bytes of the MPEG audio frame (layer II or III) that begins at `at`, or 0 (ISO 11172-3, 2.4.1.3)."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bits, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer not in (2, 3) or bits in (0, 15) or rate == 3:
        return 0
    samples = 144 if layer == 2 or version == 3 else 72
    return samples * 1000 * _KBITS[version == 3, layer][bits] // _RATES[version][rate] + padding


def adts_frame(data: bytes, at: int = 0) -> int:
    """Return the bytes of the AAC frame that begins at `at`, or 0 (ISO 13818-7, 6.2)."""
    if len(data) < at + 7 or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0 or data[at + 2] >> 2 & 15 > 12:
        return 0
    length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return length if length >= 7 else 0


MP3 = Form("MP3", mp3_frame, b"\xff\xfe\x0c")
ADTS = Form("AAC", adts_frame, b"\xff\xff\xfc")


def begins(data: bytes, form: Form, at: int = 0) -> bool:
    """Return whether two frames follow each other at a position, or one that ends the data."""
    length = form.length(data, at)
    return length > 0 and (len(data) <= at + length or form.length(data, at + length) > 0)


def find_row(data: bytes, form: Form, at: int = 0, end: int | None = None) -> int:
    """Return where the first row of `CHAIN` frames begins, or -1."""
    for match in re.compile(b"\xff").finditer(data, at, len(data) if end is None else end):
        if _walk(data, form, match.start(), CHAIN)[1] == CHAIN:
            return match.start()
    return -1


def id3_length(data: bytes, at: int = 0) -> int:
    """Return the bytes of the ID3v2 tag that begins at a position, or 0 (its size is in 7 bits a byte)."""
    if not data.startswith(b"ID3", at) or len(data) < at + 10:
        return 0
    a, b, c, d = data[at + 6 : at + 10]
    return 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if data[at + 5] & 16 else 0)


def extract(data: bytes, form: Form) -> bytes:
    """Return all frames of a file without what lies before, between and behind them.

    Tags may lie anywhere, and anything before the first frame: a recording that was begun or cut inside one.

    Raises:
        MediaError: `BROKEN` the file ends inside a frame or a tag, other bytes lie between frames, or there are fewer frames
            than the first one declares.
    """
    at = 0
    while length := _tag(data, at):
        at += length
    if at >= len(data):
        raise _cut(f"the {form.name} ends inside its tags")
    if not begins(data, form, at):
        at = find_row(data, form, at)
        if at < 0:
            raise MediaError(Outcome.BROKEN, f"the {form.name} has no frames that follow each other")
    declared_frames, declared_bytes = _declared(data, at) if form is MP3 else (0, 0)
    if at + declared_bytes > len(data):
        raise _cut(f"the {form.name} holds {len(data) - at:,} of {declared_bytes:,} bytes of sound")
    rows, frames, total = [], 0, 0
    while True:
        end, frames = _walk(data, form, at)
        if end > len(data):
            raise _cut(f"the last frame of the {form.name} is not whole")
        rows.append(data[at:end])
        total += frames
        at = end
        while length := _tag(data, at):
            at += length
        if begins(data, form, at):
            continue  # another sound follows, whose frames are of another form
        again = find_row(data, form, at)
        if again < 0:
            break
        raise MediaError(Outcome.BROKEN, f"the {form.name} is damaged: bytes {at:,} to {again:,} are no frames")
    rest = len(data) - at
    if 0 < rest < 4 and data[at] == 0xFF:
        raise _cut(f"the last frame of the {form.name} is not whole")
    if rest * _MOST_FOREIGN > len(data):
        raise _cut(f"the {form.name} has no frames behind byte {at:,}, but {rest:,} other bytes")
    if declared_frames > total:  # its own frame, which holds no sound, is not counted
        raise _cut(f"the {form.name} holds {total - 1:,} of {declared_frames:,} frames")
    return b"".join(rows)


def _walk(data: bytes, form: Form, at: int, most: int = 2**62) -> tuple[int, int]:
    """Return where a row of frames of one form ends, and how many they are."""
    fixed = _masked(data, form, at)
    count = 0
    while count < most and _masked(data, form, at) == fixed and (length := form.length(data, at)):
        at += length
        count += 1
    return at, count


def _masked(data: bytes, form: Form, at: int) -> int:
    return int.from_bytes(data[at : at + 3]) & int.from_bytes(form.fixed)


def _tag(data: bytes, at: int) -> int:
    """Return the bytes of the tag (ID3v1, ID3v2, APE) that begins at a position, or 0."""
    if data.startswith(b"TAG", at) and len(data) >= at + 128:
        return 128
    if data.startswith(b"APETAGEX", at) and len(data) >= at + 32:
        size, _, flags = struct.unpack_from("<3I", data, at + 12)
        return int(32 + size) if flags & 0x20000000 else 32
    return id3_length(data, at)


def _declared(data: bytes, start: int) -> tuple[int, int]:
    """Return frames and bytes as the encoder's own first frame declares them (Xing or Info header), or 0."""
    frame = data[start : start + mp3_frame(data, start)]
    at = max(frame.find(b"Xing"), frame.find(b"Info"))
    if not 4 <= at <= 36 or len(frame) < at + 16:
        return 0, 0
    flags, first, second = struct.unpack_from(">3I", frame, at + 4)
    return first if flags & 1 else 0, (second if flags & 1 else first) if flags & 2 else 0


def _cut(reason: str) -> MediaError:
    return MediaError(Outcome.BROKEN, f"{reason}: it was cut off, or never finished")
