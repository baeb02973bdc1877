"""Text files: encodings told apart, line ends, and bytes that are no text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import refused

from chiasm import media
from chiasm.media import text
from chiasm.types import Outcome, Text

WORDS = "naïve Zoë – 10 €"


def read(data: bytes, **limits: int) -> str:
    return text.read(data, limits=media.Limits(**limits)).text


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


def test_a_pointer_to_a_text_is_not_the_text() -> None:
    refused(
        Outcome.BROKEN, "git lfs pull", read, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
    )
    refused(Outcome.BROKEN, "git annex get", read, b"/annex/objects/SHA256E-s9--00.txt\n")
    assert read(b"see version https://git-lfs.github.com/spec/v1").startswith("see")


def test_boxes_of_yolo_are_no_words() -> None:
    refused(Outcome.NOT_READ, "YOLO", read, b"0 0.48 0.63 0.69 0.71\r\n\n45 0.5 1.0 .25 0.75 0.1 0.2\n")
    for words in (b"0 0.48 0.63 0.69 0.71\na cat", b"3.14", b"0 1 2 3 4 5", b"10 0.5 0.5"):
        assert read(words) == words.decode()


@given(st.text(min_size=1).filter(lambda words: words.strip() and "\0" not in words))
def test_any_text_in_utf_16_comes_back(words: str) -> None:
    data = b"\xff\xfe" + words.encode("utf-16-le", "surrogatepass")
    try:
        data.decode("utf-16")
    except UnicodeDecodeError:
        refused(Outcome.BROKEN, "", read, data)
    else:
        assert read(data) == words.replace("\r\n", "\n").replace("\r", "\n")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip))
def test_any_text_in_utf_8_comes_back(words: str) -> None:
    assert read(words.encode()) == words


@pytest.mark.parametrize("data", [b" \r\n\t ", b"\xef\xbb\xbf", "\u2003\n".encode()])
def test_whitespace_is_empty(data: bytes) -> None:
    refused(Outcome.EMPTY, "only whitespace", read, data)


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
    refused(Outcome.UNSUPPORTED, "", read, data)


def test_damaged_utf_8_is_broken_and_not_read_as_something_else() -> None:
    data = bytearray("Größe, Äpfel, Übung, Maß".encode())
    data[data.index("Ä".encode()) + 1] = ord("x")
    refused(Outcome.BROKEN, "byte 9 is not", read, bytes(data))
    refused(Outcome.BROKEN, "", read, "Größe und Maß, aber abgeschnitten: ü".encode()[:-1])
    refused(Outcome.BROKEN, "cut off", read, "words".encode("utf-16")[:-1])


def test_too_many_characters() -> None:
    assert read(b"12345", max_characters=5) == "12345"
    refused(Outcome.TOO_LARGE, "the limit is 5", read, b"123456", max_characters=5)


def test_a_head_that_ends_inside_a_character_is_still_text(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" + "é".encode() * 10_000)
    assert media.sniff(path) == "text"
