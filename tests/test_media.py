"""The door: what a file is, told by its content, and nothing but `MediaError` for what cannot be used."""

from __future__ import annotations

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from media_files import Film, gradient, image_bytes, refused, sound_bytes, tone
from PIL import Image as PillowImage

from chiasm import media
from chiasm.errors import MediaError
from chiasm.types import Audio, Image, Media, Modality, Outcome, Text, Video

_PICTURE = PillowImage.fromarray(gradient(41, 31))
_EXIF = PillowImage.Exif()
_EXIF[274] = 6
_SHORT = Film(frames=12, size=(48, 32), gop=5)
_SOUND = tone(0.5, 8000)
VALID: dict[str, tuple[str, bytes]] = {
    "jpeg": ("image", image_bytes(_PICTURE, "JPEG", exif=_EXIF)),
    "png": ("image", image_bytes(_PICTURE.convert("RGBA"), "PNG", exif=_EXIF)),
    "apng": ("image", image_bytes(_PICTURE, "PNG", save_all=True, append_images=[_PICTURE.rotate(180)])),
    "gif": ("image", image_bytes(_PICTURE, "GIF", save_all=True, append_images=[_PICTURE.rotate(180)])),
    "webp": ("image", image_bytes(_PICTURE.convert("RGBA"), "WEBP", exif=_EXIF)),
    "bmp": ("image", image_bytes(_PICTURE, "BMP")),
    "tiff": ("image", image_bytes(_PICTURE, "TIFF", compression="packbits", exif=_EXIF)),
    "avif": ("image", image_bytes(_PICTURE, "AVIF", exif=_EXIF)),
    "jpeg2000": ("image", image_bytes(_PICTURE, "JPEG2000")),
    "pnm": ("image", image_bytes(_PICTURE, "PPM")),
    "wav": ("audio", sound_bytes(_SOUND, 8000, "WAV")),
    "aiff": ("audio", sound_bytes(_SOUND, 8000, "AIFF")),
    "flac": ("audio", sound_bytes(_SOUND, 8000, "FLAC")),
    "vorbis": ("audio", sound_bytes(_SOUND, 8000, "OGG", "VORBIS")),
    "opus": ("audio", sound_bytes(_SOUND, 8000, "OGG", "OPUS")),
    "mp3": ("audio", sound_bytes(_SOUND, 8000, "MP3")),
    "aac": ("audio", Film(video=None, audio="aac", frames=12).written("adts")),
    "m4a": ("audio", Film(video=None, audio="aac", frames=12).written("ipod")),
    "weba": ("audio", Film(video=None, audio="libopus", frames=12).written("webm")),
    "asf": ("audio", Film(video=None, audio="libmp3lame", frames=12).written("asf")),
    "mp4": ("video", _SHORT.written("mp4")),
    "webm": ("video", Film(video="libvpx", frames=12, size=(48, 32), gop=5).written("webm")),
    "matroska": ("video", _SHORT.written("matroska")),
    "avi": ("video", Film(video="mpeg4", frames=12, size=(48, 32), gop=5).written("avi")),
    "flv": ("video", Film(video="flv1", frames=12, size=(48, 32), gop=5).written("flv")),
    "mpegts": ("video", _SHORT.written("mpegts")),
    "mpegps": ("video", Film(video="mpeg1video", frames=12, size=(48, 32), gop=5).written("mpeg")),
    "text": ("text", "naïve words\r\n".encode() * 9),
    "utf-16": ("text", "naïve words\r\n".encode("utf-16") * 9),
}
CLASSES = {"image": Image, "text": Text, "audio": Audio, "video": Video}


@pytest.mark.parametrize("name", VALID)
@pytest.mark.parametrize("suffix", ["", ".png", ".txt", ".mp3", ".mp4", ".json"])
def test_a_medium_is_what_is_in_it_whatever_its_name(name: str, suffix: str, tmp_path: Path) -> None:
    modality, data = VALID[name]
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    if modality == "text" and suffix in (".png", ".mp3", ".mp4"):
        for opened in (media.load, media.sniff):
            refused(Outcome.BROKEN, f"named {suffix}, holds text", opened, path)
        return
    assert media.sniff(path) == modality
    loaded = media.load(str(path))
    assert loaded.modality == modality
    assert type(loaded) is CLASSES[modality]


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
STAND_INS = {
    "lfs": (LFS, "a Git LFS pointer; run `git lfs pull`"),
    "annex": (b"/annex/objects/SHA256E-s31390--f50d7.jpg\n", "a git-annex pointer"),
    "page": (b"\n<!DOCTYPE html>\n<html><title>404 Not Found</title></html>", "an HTML page"),
    "page without a type": (b"<html><body>Sign in</body></html>", "an HTML page"),
    "json": (b'{"error": "rate limit"}', "JSON"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML"),
    "utf-16": ("<html>zwei</html>".encode("utf-16"), "an HTML page"),
    "words": (b"not found", "plain text"),
    "encoded": (b"data:image/png;base64,iVBORw0KGgo=", "a data URI"),
}


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".wav", ".mp3", ".mp4", ".mkv", ".heic", ".pbm"])
@pytest.mark.parametrize("name", STAND_INS)
def test_text_never_stands_in_for_what_a_name_promises(name: str, suffix: str, tmp_path: Path) -> None:
    data, what = STAND_INS[name]
    path = tmp_path / f"photo{suffix}"
    path.write_bytes(data)
    for opened in (media.load, media.sniff):
        refused(Outcome.BROKEN, re.escape(f"named {suffix.lower()}, holds text ({what}"), opened, path)


@pytest.mark.parametrize("listed_as", ["image", "audio", "video"])
def test_text_never_stands_in_for_what_a_table_promises(listed_as: Modality, tmp_path: Path) -> None:
    path = tmp_path / "photo"
    path.write_bytes(LFS)
    for opened in (media.load, media.sniff):
        refused(Outcome.BROKEN, f"listed as {listed_as}, holds text .a Git LFS", opened, path, listed_as=listed_as)
    assert media.sniff(path, listed_as="text") == "text"
    path.write_bytes(VALID["png"][1])
    assert media.sniff(path, listed_as=listed_as) == "image", "among media the content decides"


@pytest.mark.parametrize("suffix", [".txt", ".md", ".json", ".jpg"])
def test_a_picture_is_one_under_the_name_of_a_text_too(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"words{suffix}"
    path.write_bytes(VALID["jpeg"][1])
    assert isinstance(media.load(path), Image)


def check_invariants(loaded: Media) -> None:
    """What every medium promises, whatever file it came from."""
    match loaded:
        case Image(pixels):
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert pixels.size
        case Text(text):
            assert text.strip()
            assert "\r" not in text
            assert "\0" not in text
        case Audio(waveform, rate):
            assert waveform.dtype == np.float32
            assert waveform.ndim == 1
            assert np.abs(waveform).max() <= 1.0
            assert rate > 0
        case Video(frames, times, duration):
            assert frames.dtype == np.uint8
            assert frames.shape[0] == len(times)
            assert frames.shape[3] == 3
            assert duration > 0


def check_any(data: bytes, path: Path) -> None:
    """Either a medium that keeps its promises, or a `MediaError`; both ways in agree on what is no medium at all."""
    path.write_bytes(data)
    try:
        loaded = media.load(path, image_size=16, rate=16000, frames=2, limits=media.Limits(max_pixels=2_000_000))
    except MediaError as error:
        assert error.outcome not in (Outcome.OK, Outcome.DUPLICATE)
        assert error.reason
    else:
        check_invariants(loaded)
        assert media.sniff(path) == loaded.modality


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media") / "file"


@given(data=st.binary(max_size=400))
@example(data=b"\xff\xfb\x90\x00")
@example(data=b"RIFF\0\0\0\0WAVE")
@example(data=b"\0\0\0\x08moov")
@example(data=b"\x1a\x45\xdf\xa3")
@example(data=b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff")
@example(data=b"OggS\0" + bytes(40))
@example(data=b"ID3\x04\0\0\0\0\0\x7f")
@example(data=b"BM" + bytes(12) + b"\x28\0\0\0" + bytes(40))
@settings(deadline=None, max_examples=150)
def test_random_bytes(data: bytes, scratch: Path) -> None:
    check_any(data, scratch)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A valid file in which bytes were changed, lost or added, more often near its beginning, or which was cut off."""
    data = bytearray(VALID[draw(st.sampled_from(sorted(VALID)))][1])
    for _ in range(draw(st.integers(1, 4))):
        reach = draw(st.sampled_from([32, 256, len(data)]))
        at = draw(st.integers(0, min(reach, len(data)) - 1)) if data else 0
        match draw(st.sampled_from(["set", "fill", "lose", "add", "cut"])):
            case "set" if data:
                data[at] = draw(st.integers(0, 255))
            case "fill":
                data[at : at + 4] = draw(st.sampled_from([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"]))
            case "lose":
                del data[at : at + draw(st.integers(1, 20))]
            case "add":
                data[at:at] = draw(st.binary(min_size=1, max_size=20))
            case "cut":
                del data[at:]
    return bytes(data)


@given(data=damaged())
@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_files(data: bytes, scratch: Path) -> None:
    check_any(data, scratch)


def test_missing_and_impossible_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"words")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("none\0.png", tmp_path / "file" / "below"):
        refused(Outcome.BROKEN, "", media.load, path)
    refused(Outcome.BROKEN, "does not exist", media.load, tmp_path / "none.png")
    refused(Outcome.BROKEN, "cannot be read", media.load, tmp_path / "loop")


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words"
    path.write_bytes(b"words")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)  # the tests may run as root, who may read everything
    refused(Outcome.BROKEN, "Permission denied", media.load, path)


def test_what_is_no_file_or_an_empty_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.png").touch()
    for opened in (media.load, media.sniff):
        refused(Outcome.UNSUPPORTED, "a folder", opened, tmp_path)
        refused(Outcome.UNSUPPORTED, "", opened, tmp_path / "pipe")  # and does not wait for a writer
        refused(Outcome.EMPTY, "no bytes", opened, tmp_path / "empty.png")
        refused(Outcome.UNSUPPORTED, "a device", opened, "/dev/zero")
        (tmp_path / "link.png").unlink(missing_ok=True)
        (tmp_path / "link.png").symlink_to("/dev/zero")
        refused(Outcome.UNSUPPORTED, "a device", opened, tmp_path / "link.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        refused(Outcome.UNSUPPORTED, "a device or a pipe", media.load, tmp_path / "socket")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document; export"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"MThd\0\0\0\x06", "MIDI"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "raw camera"),
        (b"\x7fELF\x02\x01\x01" + bytes(9), "neither text nor any image, sound or video"),
        (bytes(range(256)), "neither text nor any image, sound or video"),
    ],
)
def test_other_kinds_are_unsupported_with_a_reason(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(data)
    refused(Outcome.UNSUPPORTED, reason, media.load, path)


@pytest.mark.parametrize(
    "words", ["BMW is a car, and BM is a prefix.", "The free verse of P5 1 2 3", "GIF, RIFF, ID3, FLV"]
)
def test_words_that_look_like_signatures_are_text(words: str, tmp_path: Path) -> None:
    path = tmp_path / "words.md"
    path.write_text(words)
    assert media.load(path) == Text(words)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(b"12345")
    refused(Outcome.TOO_LARGE, "the limit is 4", media.load, path, limits=media.Limits(max_bytes=4))
    with path.open("wb") as file:
        file.truncate(2**42)  # a hole, which takes no room
    refused(Outcome.TOO_LARGE, "4,398,046,511,104 bytes", media.load, path)


@pytest.mark.parametrize(
    ("name", "whole"), [("text", True), ("png", True), ("mp3", True), ("wav", False), ("mp4", False)]
)
def test_files_that_are_read_whole_have_a_limit_of_their_own(name: str, whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(VALID[name][1])
    limits = media.Limits(max_bytes_whole=len(VALID[name][1]) - 1)
    if whole:
        refused(Outcome.TOO_LARGE, "", media.load, path, limits=limits)
    else:
        media.load(path, limits=limits)


def test_too_little_memory_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "words"
    path.write_bytes(b"words")

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(media.text, "read", exhausted)
    refused(Outcome.TOO_LARGE, "", media.load, path)


@pytest.mark.parametrize("option", ["image_size", "rate", "frames"])
def test_options_have_to_be_positive(option: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{option} has to be at least 1; got 0"):
        media.load(tmp_path / "none", **{option: 0})  # type: ignore[arg-type]


@pytest.mark.race
def test_several_threads_at_once(tmp_path: Path) -> None:
    paths = []
    for name, (_, data) in VALID.items():
        for copy, content in enumerate((data, data[: len(data) * 2 // 3])):
            path = tmp_path / f"{name}{copy}"
            path.write_bytes(content)
            paths.append(path)

    def outcome(path: Path) -> object:
        try:
            loaded = media.load(path, image_size=20, rate=16000)
        except MediaError as error:
            return error.outcome, error.reason
        return [np.asarray(value).tobytes() for value in vars(loaded).values()]

    alone = [outcome(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(outcome, paths * 4))
    assert together == alone * 4
