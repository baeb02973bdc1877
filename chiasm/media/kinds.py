"""Recognise the kind of a file from its first bytes, and what its name promises.

The content decides which medium it is, whatever the name; but where a name promises a medium, text is never taken for
one. Knows signatures only. Whether the rest of the file holds what the first bytes promise is left to the readers, and
whether a container such as MP4 is a video or only a sound to `container`, which looks at its streams.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO, Literal

from chiasm.errors import MediaError
from chiasm.media import frames, text
from chiasm.types import Modality, Outcome

HEAD = 8192
"""Bytes from the beginning of a file that tell what it is."""

_LEAD = 2**16  # bytes of a stream that may lie before its first whole frame
_ZEROS = 2**24  # and that may be zeros before it: recorders reserve room, and file systems lose sectors


@dataclass(frozen=True)
class Kind:
    """A file format and who reads it.

    Example:
        >>> import io
        >>> kind = recognise(io.BytesIO(b"GIF89a"))
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
        return self.reader in ("pillow", "text") or self in (OGG, OGG_VIDEO, MP3, AAC)


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
FLAC = Kind("FLAC", "ffmpeg", "audio", "flac")
OGG = Kind("Ogg", "soundfile", "audio", "ogg")
MP3 = Kind("MP3", "ffmpeg", "audio", "mp3")
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
    (b"%!PS", "a PostScript drawing; convert it to PNG"),
    (b"8BPS", "a Photoshop document; export it as PNG"),
    (b"\0\0\x01\0", "a Windows icon; convert it to PNG"),
)
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}  # what ISO and QuickTime files begin with
_BMP_HEADERS = {12, 40, 52, 56, 64, 108, 124}
_PNM = re.compile(rb"P[56]\s+(?:#[^\n]*\n\s*)*\d+\s+\d+\s+\d+\s")
_SVG = re.compile(rb"<(?:\w+:)?svg[\s>]")


_EXTENSIONS: dict[Modality, str] = {
    "image": "jpg jpeg jpe jfif png apng gif webp bmp dib tif tiff avif jp2 j2k pgm ppm pnm",
    "text": "txt md",
    "audio": "wav flac ogg oga opus mp3 m4a m4b aac aif aiff amr wma mka weba",
    "video": "mp4 m4v mov webm mkv avi mpg mpeg mts m2ts flv wmv asf 3gp ogv",
}
_BY_EXTENSION = {extension: modality for modality, names in _EXTENSIONS.items() for extension in names.split()}
_UNREAD = (
    "3g2 aifc ape arw au caf cr2 cr3 cur dcm dng dsf dv eps exr f4v flif hdr heic heics heif hif ico j2c jxl m1v m2v m4p "
    "mid midi mp2 mpa mpe mxf nef orf pbm psd ra raf rm rmvb rw2 snd spx svg svgz tga tta vob voc w64 wv xcf"
)
_UNREAD_EXTENSIONS = frozenset(_UNREAD.split())  # of media that are not read, or seldom go by this name


def modality_of_name(path: str) -> Modality | None:
    """Return the modality that a file is named as, or None where its extension is of none that is read.

    Example:
        >>> modality_of_name("photos/bird.JPG"), modality_of_name("bird.json")
        ('image', None)
    """
    return _BY_EXTENSION.get(_extension(path))


def suffix_of_name(name: str) -> str:
    """Return the extension of a file's name with its dot where it promises a medium or a text, else nothing."""
    extension = _extension(name)
    return f".{extension}" if extension in _UNREAD_EXTENSIONS or extension in _BY_EXTENSION else ""


def check_text(path: str, head: bytes, listed_as: Modality | None) -> None:
    """Raise where text stands in for a medium: an error page that was saved, or a pointer to a file that is elsewhere.

    Args:
        path: the name of a file that was recognised as text.
        head: its first bytes.
        listed_as: the modality that a table has the file under, if one has.

    Raises:
        MediaError: `BROKEN` the name or the table promises a medium; `EMPTY` it does, and there is only whitespace.
    """
    suffix = suffix_of_name(path)
    promised = suffix and modality_of_name(path) != "text"
    if promised or listed_as not in (None, "text"):
        if not head.strip():
            raise MediaError(Outcome.EMPTY, "the file holds only whitespace")
        name = f"named {suffix}" if promised else f"listed as {listed_as}"
        raise MediaError(Outcome.BROKEN, f"{name}, holds text ({text.describe(head)})")


def _extension(path: str) -> str:
    _, dot, extension = path.rpartition("/")[2].rpartition(".")
    return extension.lower() if dot else ""


def recognise(file: BinaryIO) -> Kind:
    """Return the kind of an open file, which is read from its beginning and left anywhere.

    Of streams that are cut anywhere, such as MP3 and MPEG-TS, the beginning may lie inside a frame or behind zeros.

    Raises:
        MediaError: `EMPTY` there are no bytes; `UNSUPPORTED` they are of no kind that chiasm reads; the reason names the
            kind where known; `BROKEN` a kind that has to begin the file lies behind zeros.
    """
    file.seek(0)
    head = file.read(HEAD)
    if not head:
        raise MediaError(Outcome.EMPTY, "the file has no bytes")
    kind = _at_the_beginning(head)
    if kind is MP3 and head.startswith(b"ID3"):
        file.seek(frames.id3_length(head))
        behind = file.read(HEAD)
        return FLAC if behind.startswith(b"fLaC") else _of_frames(behind) or _stream(behind)[0] or MP3
    if kind is not None:
        return kind
    for signature, what in _KNOWN_BUT_UNREAD:
        if head.startswith(signature):
            raise MediaError(Outcome.UNSUPPORTED, f"this is {what}")
    if text.is_text(head):
        if _is_svg(head):
            raise MediaError(Outcome.UNSUPPORTED, "an SVG is a drawing and has no pixels yet; convert it to PNG")
        return TEXT
    return _further_on(file)


def _at_the_beginning(head: bytes) -> Kind | None:
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    return _of_riff(head) or _of_boxes(head) or _of_ogg(head) or _of_frames(head) or _of_picture(head)


def _further_on(file: BinaryIO) -> Kind:
    """Return the kind of a stream whose first bytes belong to no whole frame."""
    zeros, lead = _behind_zeros(file)
    kind = _at_the_beginning(lead[:HEAD]) if zeros and lead else None
    if kind is not None and kind not in (MP3, AAC, MPEG_TS, MPEG_PS):
        raise MediaError(Outcome.BROKEN, f"{zeros:,} bytes of zeros lie before the {kind.name}: it is damaged")
    kind = kind or _stream(lead)[0]
    if kind is None:
        raise MediaError(Outcome.UNSUPPORTED, "neither text nor any image, sound or video that chiasm reads")
    return kind


def begin_of_stream(file: BinaryIO) -> int:
    """Return where the first whole packet of a file begins that was recognised as MPEG-TS or MPEG-PS."""
    file.seek(0)
    if _at_the_beginning(file.read(HEAD)) in (MPEG_TS, MPEG_PS):
        return 0
    zeros, lead = _behind_zeros(file)
    return zeros if _at_the_beginning(lead[:HEAD]) in (MPEG_TS, MPEG_PS) else zeros + _stream(lead)[1]


def _behind_zeros(file: BinaryIO) -> tuple[int, bytes]:
    """Return how many zeros a file begins with, and what follows them."""
    position = file.seek(0)
    while position < _ZEROS and (block := file.read(_LEAD)) and not block.strip(b"\0"):
        position += len(block)
    file.seek(position)
    lead = file.read(2 * _LEAD)
    behind = lead.lstrip(b"\0")
    if behind.startswith(b"\1"):  # of MPEG-PS, whose packs begin with two of them
        behind = lead[max(0, len(lead) - len(behind) - 2) :]
    return position + len(lead) - len(behind), behind


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
    if frames.begins(head, frames.MP3):
        return MP3
    if frames.begins(head, frames.ADTS):
        return AAC
    for first, step in ((0, 188), (4, 192)):  # broadcasts and camcorders
        marks = head[first : first + 5 * step : step]
        if len(marks) >= 3 and set(marks) == {0x47} and b"\0" in head:
            return MPEG_TS
    return None


_PACKETS = 6
_PACK = re.compile(rb"\0\0\x01\xba(.)", re.DOTALL)  # and the clock, whose first bits are fixed


def _stream(lead: bytes) -> tuple[Kind | None, int]:
    """Return a kind that can be joined anywhere, and where its first row of frames or packets without a gap begins."""
    for kind, form in ((MP3, frames.MP3), (AAC, frames.ADTS)):
        if (at := frames.find_row(lead, form, 0, _LEAD)) >= 0:
            return kind, at
    for match in re.finditer(b"\x47", lead[:_LEAD]):
        if any(_packet_row(lead, match.start(), step) == _PACKETS for step in (188, 192)):
            return MPEG_TS, match.start()
    for match in _PACK.finditer(lead, 0, _LEAD):
        if match[1][0] & 0xF1 == 0x21 or match[1][0] & 0xC4 == 0x44:
            return MPEG_PS, match.start()
    return None, 0


def _packet_row(data: bytes, at: int, step: int) -> int:
    """Count transport packets that follow each other: without an error, not scrambled, and with something in them."""
    count = 0
    while count < _PACKETS and data[at : at + 1] == b"\x47" and at + 4 <= len(data):
        if data[at + 1] & 0x80 or data[at + 3] & 0xC0 or not data[at + 3] & 0x30:
            return 0
        at += step
        count += 1
    return count


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
