"""Text files: which encoding the bytes are in, and whether they are text at all.

UTF-8 with or without a byte order mark, and UTF-16 and UTF-32 with one, are told apart for certain. Other bytes are
read as Windows-1252, a superset of Latin-1, only while they look like a western text; Cyrillic, Chinese or other text
in an encoding of its own is refused rather than read as the wrong letters. UTF-16 without a mark holds NUL bytes and
counts as binary.
"""

from __future__ import annotations

import codecs
import re

from chiasm.errors import MediaError
from chiasm.media.limits import Limits
from chiasm.types import Outcome, Text

_MARKS = (  # the mark of UTF-32-LE begins with that of UTF-16-LE, so it is looked for first
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\b\x1a\x1b")) + b"\x7f"  # texts hold tabs, page feeds, old end marks
_NOT_TEXT = "neither text nor any image, sound or video that chiasm reads"


def is_text(head: bytes) -> bool:
    """Return whether a file that begins with these bytes seems to be text. It may be damaged further on."""
    if marked(head):
        return True
    controls = len(head) - len(head.translate(None, _CONTROLS))
    if b"\0" in head or controls * 100 > len(head):
        return False
    characters, misfits = _as_utf8(head)
    if misfits == 0 or characters > misfits:
        return True
    return controls == 0 and _as_cp1252(head) is not None


_BOX = re.compile(r"\d+(?:\s+[01]?\.\d+){4,}")  # a class and four shares of the picture, or more
_POINTERS = (
    (re.compile(r"version https://\S+/spec/v\d"), "a Git LFS pointer; run `git lfs pull`"),
    (re.compile(r"\S*/annex/objects/"), "a git-annex pointer; run `git annex get`"),
    (re.compile(r"<!doctype html|(<\?xml|<!--)?[^\0]{0,1000}<html", re.IGNORECASE), "an HTML page"),
    (re.compile("<"), "XML"),
    (re.compile(r"[\[{]"), "JSON"),
    (re.compile("data:"), "a data URI"),
)


def describe(head: bytes) -> str:
    """Say what a text seems to be, by its beginning.

    Example:
        >>> describe(b"<!DOCTYPE html><title>404"), describe(b'{"error": 404}'), describe(b"not found")
        ('an HTML page', 'JSON', 'plain text')
    """
    words = head.decode(marked(head) or "utf-8", "ignore").lstrip()
    return next((what for pattern, what in _POINTERS if pattern.match(words)), "plain text")


def read(data: bytes, *, limits: Limits) -> Text:
    """Decode the bytes of a text file. Line ends become `\\n`; nothing else is changed.

    Raises:
        MediaError: `UNSUPPORTED` the bytes are not text, or text in an encoding that cannot be told; `BROKEN` they are
            Unicode with bytes that are not, or a pointer to the text; `EMPTY` there is nothing but whitespace; `NOT_READ` these are YOLO's boxes;
            `TOO_LARGE` too many characters.
    """
    text = _decode(data).replace("\r\n", "\n").replace("\r", "\n")
    if len(text) > limits.max_characters:
        raise MediaError(
            Outcome.TOO_LARGE, f"the text has {len(text):,} characters; the limit is {limits.max_characters:,}"
        )
    if not text.strip():
        raise MediaError(Outcome.EMPTY, "the text has no words, only whitespace")
    if "pointer" in (what := describe(data[:1000])):
        raise MediaError(Outcome.BROKEN, f"the text is in another place: this is {what}")
    if all(_BOX.fullmatch(line.strip()) for line in text.splitlines() if line.strip()):
        raise MediaError(
            Outcome.NOT_READ, "boxes of objects in a picture (YOLO), no words; write a table of their classes"
        )
    return Text(text)


def _decode(data: bytes) -> str:
    if encoding := marked(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            raise MediaError(
                Outcome.BROKEN,
                f"the text is {encoding}, but byte {error.start} is not ({error.reason}): it is damaged or cut off",
            ) from error
        if "\0" in text:
            raise MediaError(Outcome.UNSUPPORTED, _NOT_TEXT)
        return text
    if not is_text(data):
        raise MediaError(Outcome.UNSUPPORTED, _NOT_TEXT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        characters, misfits = _as_utf8(data)
        western = None if characters > misfits else _as_cp1252(data)
        if western is None:
            raise MediaError(
                Outcome.BROKEN,
                f"the text is UTF-8, but byte {error.start} is not ({error.reason}): it is damaged or cut off",
            ) from error
        return western


def marked(data: bytes) -> str | None:
    """Return the encoding that a byte order mark names; None where there is no mark."""
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def _as_utf8(data: bytes) -> tuple[int, int]:
    """Count the characters beyond ASCII if the bytes are taken as UTF-8, and how many bytes do not fit into any character.

    Bytes of another encoding seldom form such a character by chance, so more characters than misfits mean damaged
    UTF-8, and fewer mean that the text is in something else.
    """
    text = data.decode("utf-8", "ignore")
    size = len(text.encode())
    return len(text) - len(text.encode("ascii", "ignore")), len(data) - size


def _as_cp1252(data: bytes) -> str | None:
    """Decode as Windows-1252; None where over a third would be accents, or a byte has no meaning."""
    high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    if high * 3 > len(data):
        return None
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return None
