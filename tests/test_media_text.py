"""Text files: encodings told apart, line ends, and bytes that are no text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm import media
from chiasm.errors import MediaError
from chiasm.media import text
from chiasm.types import Outcome, Text

WORDS = "naïve Zoë – 10 €"


def read(data: bytes, **limits: int) -> str:
    return text.read(data, limits=media.Limits(**limits)).text


def refusal(data: bytes, **limits: int) -> MediaError:
    with pytest.raises(MediaError) as caught:
        read(data, **limits)
    return caught.value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_are_told_apart(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(WORDS.encode(encoding))
    assert media.load(path) == Text(WORDS)
    assert media.sniff(path) == "text"


@pytest.mark.parametrize(("encoding", "mark"), [("utf-16-be", b"\xfe\xff"), ("utf-32-be", b"\0\0\xfe\xff")])
def test_big_endian_marks(encoding: str, mark: bytes) -> None:
    assert read(mark + WORDS.encode(encoding)) == WORDS


def test_line_ends_become_one_kind_and_nothing_else_changes() -> None:
    assert read(b" a\r\nb\rc\n\n\td ") == " a\nb\nc\n\n\td "


@given(st.text(min_size=1).filter(lambda words: words.strip() and "\0" not in words))
def test_any_text_in_utf_16_comes_back(words: str) -> None:
    data = b"\xff\xfe" + words.encode("utf-16-le", "surrogatepass")
    try:
        data.decode("utf-16")
    except UnicodeDecodeError:
        assert refusal(data).outcome is Outcome.BROKEN
    else:
        assert read(data) == words.replace("\r\n", "\n").replace("\r", "\n")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip))
def test_any_text_in_utf_8_comes_back(words: str) -> None:
    assert read(words.encode()) == words


@pytest.mark.parametrize("data", [b" \r\n\t ", b"\xef\xbb\xbf", "\u2003\n".encode()])
def test_whitespace_is_empty(data: bytes) -> None:
    error = refusal(data)
    assert error.outcome is Outcome.EMPTY
    assert "only whitespace" in error.reason


@pytest.mark.parametrize(
    "data",
    [
        b"words\0words",
        WORDS.encode("utf-16-le"),  # without a mark
        bytes(range(1, 9)) * 10,
        "Привет, мир".encode("cp1251"),
        "日本語の文章です".encode("shift-jis"),
        b"caf\x81",  # no character in Windows-1252
        b"\xff\xfea\0\0\0b\0",
    ],
)
def test_what_is_no_text_or_of_unknown_encoding_is_unsupported(data: bytes) -> None:
    assert refusal(data).outcome is Outcome.UNSUPPORTED


def test_damaged_utf_8_is_broken_and_not_read_as_something_else() -> None:
    data = bytearray("Größe, Äpfel, Übung, Maß".encode())
    data[data.index("Ä".encode()) + 1] = ord("x")
    error = refusal(bytes(data))
    assert error.outcome is Outcome.BROKEN
    assert "byte 9 is not" in error.reason
    assert refusal("Größe und Maß, aber abgeschnitten: ü".encode()[:-1]).outcome is Outcome.BROKEN


def test_damaged_utf_16_is_broken() -> None:
    error = refusal("words".encode("utf-16")[:-1])
    assert error.outcome is Outcome.BROKEN
    assert "utf-16" in error.reason
    assert "cut off" in error.reason


def test_too_many_characters() -> None:
    assert read(b"12345", max_characters=5) == "12345"
    error = refusal(b"123456", max_characters=5)
    assert error.outcome is Outcome.TOO_LARGE
    assert "6 characters; the limit is 5" in error.reason


def test_a_head_that_ends_inside_a_character_is_still_text(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" + "é".encode() * 10_000)
    assert media.sniff(path) == "text"
