"""Recognise the kind of a file from its first bytes; its name plays no part.

Knows signatures only. Whether the rest of the file holds what the first bytes promise is left to the readers, and
whether a container such as MP4 is a video or only a sound to `container`, which looks at its streams.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from chiasm.errors import MediaError
from chiasm.media import text
from chiasm.types import Modality, Outcome

HEAD = 8192
"""Bytes from the beginning of a file that `recognise` wants to see (fewer only if the file has no more)."""


@dataclass(frozen=True)
class Kind:
    """A file format and who reads it.

    Example:
        >>> kind = recognise(b"GIF89a")
        >>> kind.name, kind.modality
        ('GIF', 'image')
    """

    name: str  # for people, e.g. "JPEG"
    reader: Literal["pillow", "soundfile", "ffmpeg", "text"]
    modality: Modality | None  # None: a container, whose streams decide
    demuxer: str = ""  # FFmpeg's name, so that FFmpeg never guesses: a guess may be a playlist that opens other files

    @property
    def is_read_whole(self) -> bool:
        """Whether the file is held in memory, to be decoded or checked."""
        return self.reader in ("pillow", "text") or self in (OGG, OGG_VIDEO, MP3)


JPEG = Kind("JPEG", "pillow", "image")
PNG = Kind("PNG", "pillow", "image")
GIF = Kind("GIF", "pillow", "image")
WEBP = Kind("WebP", "pillow", "image")
BMP = Kind("BMP", "pillow", "image")
TIFF = Kind("TIFF", "pillow", "image")
AVIF = Kind("AVIF", "pillow", "image")
JPEG2000 = Kind("JPEG 2000", "pillow", "image")
PNM = Kind("PNM", "pillow", "image")

WAV = Kind("WAV", "soundfile", "audio", "wav")
AIFF = Kind("AIFF", "soundfile", "audio", "aiff")
FLAC = Kind("FLAC", "soundfile", "audio", "flac")
OGG = Kind("Ogg", "soundfile", "audio", "ogg")
MP3 = Kind("MP3", "soundfile", "audio", "mp3")
AAC = Kind("AAC", "ffmpeg", "audio", "aac")
AMR = Kind("AMR", "ffmpeg", "audio", "amr")

OGG_VIDEO = Kind("Ogg", "ffmpeg", None, "ogg")
MP4 = Kind("MP4", "ffmpeg", None, "mp4")
MATROSKA = Kind("Matroska or WebM", "ffmpeg", None, "matroska")
AVI = Kind("AVI", "ffmpeg", None, "avi")
FLV = Kind("FLV", "ffmpeg", None, "flv")
ASF = Kind("ASF (WMA, WMV)", "ffmpeg", None, "asf")
MPEG_TS = Kind("MPEG-TS", "ffmpeg", None, "mpegts")
MPEG_PS = Kind("MPEG-PS", "ffmpeg", None, "mpeg")

TEXT = Kind("text", "text", "text")

_SIGNATURES: tuple[tuple[bytes, Kind], ...] = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0\x08\0\0\0", TIFF),
    (b"MM\0+\0\x08\0\0", TIFF),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JPEG2000),
    (b"\xff\x4f\xff\x51", JPEG2000),
    (b"fLaC\0", FLAC),
    (b"fLaC\x80", FLAC),
    (b"#!AMR", AMR),
    (b"\x1a\x45\xdf\xa3", MATROSKA),
    (b"FLV\x01", FLV),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ASF),
    (b"\0\0\x01\xba", MPEG_PS),
)
_RIFF = {b"WAVE": WAV, b"AVI ": AVI, b"WEBP": WEBP}
_KNOWN_BUT_UNREAD: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF document; export its pages as images or its words as text"),
    (b"PK\x03\x04", "a ZIP archive (or a document inside one, such as .docx); unpack it"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it"),
    (b"MThd", "MIDI, which holds notes and no sound; render it to WAV"),
    (b"8BPS", "a Photoshop document; export it as PNG"),
    (b"\0\0\x01\0", "a Windows icon; convert it to PNG"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}  # what ISO and QuickTime files begin with
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_PNM = re.compile(rb"P[56]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+\d+\s")
_SVG = re.compile(rb"<(?:\w+:)?svg[\s>]")


def recognise(head: bytes) -> Kind:
    """Return the kind of a file, from its first `HEAD` bytes.

    Raises:
        MediaError: `UNSUPPORTED` the bytes are of no kind that chiasm reads; the reason names the kind where known.
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    kind_of_head = _of_riff(head) or _of_boxes(head) or _of_ogg(head) or _of_frames(head) or _of_picture(head)
    if kind_of_head is not None:
        return kind_of_head
    for signature, what in _KNOWN_BUT_UNREAD:
        if head.startswith(signature):
            raise MediaError(Outcome.UNSUPPORTED, f"this is {what}")
    if not text.is_text(head):
        raise MediaError(Outcome.UNSUPPORTED, "neither text nor any image, sound or video that chiasm reads")
    if _is_svg(head):
        raise MediaError(Outcome.UNSUPPORTED, "an SVG is a drawing and has no pixels yet; convert it to PNG")
    return TEXT


def _of_riff(head: bytes) -> Kind | None:
    if head.startswith((b"RIFF", b"RF64")):
        return _RIFF.get(head[8:12])
    if head.startswith(b"FORM") and head[8:12] in (b"AIFF", b"AIFC"):
        return AIFF
    return None


def _of_boxes(head: bytes) -> Kind | None:
    if head[4:8] not in _BOXES or (head[0] and head[4:8] != b"mdat"):  # a size; "The free ..." is a text
        return None
    if head[4:8] != b"ftyp":
        return MP4
    end = min(int.from_bytes(head[:4]), 256)
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, end, 4)}
    if brands & {b"avif", b"avis"}:
        return AVIF
    if head[8:12] in _HEIC_BRANDS:
        raise MediaError(Outcome.UNSUPPORTED, "HEIC images are not read; convert it to JPEG or PNG")
    if head[8:12] == b"crx ":
        raise MediaError(Outcome.UNSUPPORTED, "raw camera images are not read; convert it to JPEG or PNG")
    return MP4


def _of_ogg(head: bytes) -> Kind | None:
    if not head.startswith(b"OggS\0"):
        return None
    return OGG_VIDEO if b"\x80theora" in head else OGG


def _of_frames(head: bytes) -> Kind | None:
    """Kinds without a signature, that are a row of frames: the first frame has to be followed by a second."""
    if head.startswith(b"ID3") and len(head) >= 10 and head[3] in (2, 3, 4) and all(byte < 128 for byte in head[6:10]):
        return MP3
    if (length := mp3_frame(head)) and (len(head) <= length or mp3_frame(head, length)):
        return MP3
    if (length := _adts_frame(head)) and (len(head) <= length or _adts_frame(head[length:])):
        return AAC
    for first, step in ((0, 188), (4, 192)):  # broadcasts and camcorders
        marks = head[first : first + 5 * step : step]
        if len(marks) >= 3 and set(marks) == {0x47} and b"\0" in head:
            return MPEG_TS
    return None


def _of_picture(head: bytes) -> Kind | None:
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return BMP
    return PNM if _PNM.match(head) else None


def _is_svg(head: bytes) -> bool:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return (
        start.startswith((b"<svg", b"<?xml", b"<!--", b"<!DOCTYPE"))
        and bool(_SVG.search(start))
        and (b"<html" not in start.lower())
    )


_MP3_KBITS = {  # by (MPEG version 1, layer), in thousands of bits a second
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def mp3_frame(data: bytes, at: int = 0) -> int:
    """Return the bytes of the MPEG audio frame (layer II or III) that begins at `at`, or 0 (ISO 11172-3, 2.4.1.3)."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    bits, rate, padding = data[at + 2] >> 4, data[at + 2] >> 2 & 3, data[at + 2] >> 1 & 1
    if version == 1 or layer not in (2, 3) or bits in (0, 15) or rate == 3:
        return 0
    samples = 144 if layer == 2 or version == 3 else 72
    return samples * 1000 * _MP3_KBITS[version == 3, layer][bits] // _MP3_RATES[version][rate] + padding


def _adts_frame(data: bytes) -> int:
    """Return the bytes of the AAC frame that begins here, or 0 (ISO 13818-7, 6.2)."""
    if len(data) < 7 or data[0] != 0xFF or data[1] & 0xF6 != 0xF0 or data[2] >> 2 & 15 > 12:
        return 0
    length = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
    return length if length >= 7 else 0
