"""Images: formats, colour modes, transparency, orientation, reduced decoding, damage and bombs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8, UInt16
from media_files import gradient, image_bytes, refused
from PIL import Image as PillowImage
from PIL import ImageFile

from chiasm import media
from chiasm.errors import MediaError
from chiasm.types import Image, Outcome

GRADIENT = gradient(90, 60)
PICTURE = PillowImage.fromarray(GRADIENT)
Pixels = UInt8[np.ndarray, "height width 3"]

FORMATS: dict[str, tuple[bytes, int]] = {  # each with the error that its compression may make
    "jpeg": (image_bytes(PICTURE, "JPEG", quality=95), 4),
    "jpeg progressive": (image_bytes(PICTURE, "JPEG", quality=95, progressive=True), 4),
    "png": (image_bytes(PICTURE, "PNG"), 0),
    "gif": (image_bytes(PICTURE, "GIF"), 24),
    "webp": (image_bytes(PICTURE, "WEBP", lossless=True), 0),
    "webp lossy": (image_bytes(PICTURE, "WEBP", quality=95), 12),
    "bmp": (image_bytes(PICTURE, "BMP"), 0),
    "tiff": (image_bytes(PICTURE, "TIFF"), 0),
    "tiff lzw": (image_bytes(PICTURE, "TIFF", compression="tiff_lzw"), 0),
    "tiff jpeg": (image_bytes(PICTURE, "TIFF", compression="jpeg", quality=95), 8),
    "tiff big": (image_bytes(PICTURE, "TIFF", big_tiff=True), 0),
    "avif": (image_bytes(PICTURE, "AVIF", quality=95), 8),
    "jpeg 2000": (image_bytes(PICTURE, "JPEG2000"), 0),
    "ppm": (image_bytes(PICTURE, "PPM"), 0),
}


@pytest.fixture
def open_bytes(tmp_path: Path) -> Callable[..., Pixels]:
    """Open bytes through the door, under a name that says nothing."""

    def opened(data: bytes, **options: Any) -> Pixels:
        path = tmp_path / "file"
        path.write_bytes(data)
        image = media.load(path, **options)
        assert isinstance(image, Image)
        assert image.pixels.dtype == np.uint8
        assert image.pixels.flags.c_contiguous
        return image.pixels

    return opened


def worst(pixels: Pixels, expected: Pixels) -> int:
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str, open_bytes: Callable[..., Pixels]) -> None:
    data, tolerance = FORMATS[name]
    assert worst(open_bytes(data), GRADIENT) <= tolerance


@pytest.mark.parametrize("name", FORMATS)
def test_a_cut_off_image_is_broken_and_never_filled_in(name: str, open_bytes: Callable[..., Pixels]) -> None:
    data, _ = FORMATS[name]
    whole = open_bytes(data)
    for size in [*range(len(data) - 40, len(data)), *(len(data) * share // 12 for share in range(1, 12))]:
        try:
            pixels = open_bytes(data[:size])
        except MediaError as error:
            assert error.outcome in (Outcome.BROKEN, Outcome.UNSUPPORTED), size
            assert error.outcome is Outcome.BROKEN or size < 100, size  # too little to tell what it was
        else:  # only an end mark is missing
            assert worst(pixels, whole) == 0
            assert len(data) - size <= 2


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive", "png", "tiff lzw", "webp"])
def test_a_cut_off_image_says_so(name: str, open_bytes: Callable[..., Pixels]) -> None:
    data, _ = FORMATS[name]
    refused(Outcome.BROKEN, r"cut off|truncated", open_bytes, data[: len(data) * 2 // 3])


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(file_format: str, orientation: int, open_bytes: Callable[..., Pixels]) -> None:
    exif = PillowImage.Exif()
    exif[274] = orientation
    upright = GRADIENT
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    options = {} if file_format in ("PNG", "TIFF") else {"quality": 95}
    data = image_bytes(np.ascontiguousarray(stored), file_format, exif=exif, **options)
    assert worst(open_bytes(data), upright) <= 12


def test_reduced_images_are_turned_upright_too(open_bytes: Callable[..., Pixels]) -> None:
    exif = PillowImage.Exif()
    exif[274] = 6
    pixels = open_bytes(image_bytes(gradient(400, 200), "JPEG", exif=exif), image_size=50)
    assert pixels.shape == (100, 50, 3)
    assert pixels[0, -1, 0] < 20  # the stored first row became the right column
    assert pixels[-1, -1, 0] > 235


def test_damaged_metadata_neither_warn_nor_matter(open_bytes: Callable[..., Pixels]) -> None:
    exif = PillowImage.Exif()
    exif[271] = "a maker of cameras"
    for file_format in ("AVIF", "JPEG", "PNG", "WEBP"):
        if file_format != "AVIF":  # there Pillow writes the orientation elsewhere
            exif[274] = 3
        body = exif.tobytes().removeprefix(b"Exif\0\0")
        for start in (0, 4, 8, 10, 14, 20):
            damaged = body[:start] + b"\xee" * (len(body) - start)
            data = image_bytes(PICTURE, file_format, exif=exif, quality=95)
            assert data.count(body) == 1
            pixels = open_bytes(data.replace(body, damaged))
            assert min(worst(pixels, GRADIENT), worst(pixels, GRADIENT[::-1, ::-1])) <= 12


def test_text_in_a_png_is_not_unpacked(open_bytes: Callable[..., Pixels]) -> None:
    bomb = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(5_000_000))
    png = FORMATS["png"][0]
    chunk = struct.pack(">I", len(bomb) - 4) + bomb + struct.pack(">I", zlib.crc32(bomb))
    assert worst(open_bytes(png[:33] + chunk + png[33:]), GRADIENT) == 0


def test_a_damaged_png_is_broken(open_bytes: Callable[..., Pixels]) -> None:
    data = bytearray(FORMATS["png"][0])
    data[len(data) // 2] ^= 1
    refused(Outcome.BROKEN, "wrong checksum in its part IDAT", open_bytes, bytes(data))


def on_white(rgba: UInt8[np.ndarray, "height width 4"]) -> Pixels:
    """The slow, exact way."""
    colours, alpha = rgba[..., :3].astype(float), rgba[..., 3:] / 255.0
    return np.rint(colours * alpha + 255.0 * (1 - alpha)).astype(np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_transparency_is_flattened_on_white(file_format: str, open_bytes: Callable[..., Pixels]) -> None:
    rgba = np.dstack([GRADIENT, np.broadcast_to(np.linspace(0, 255, 90).astype(np.uint8), (60, 90))])
    by_format: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100}}
    options = by_format.get(file_format, {})
    pixels = open_bytes(image_bytes(rgba, file_format, **options))
    assert worst(pixels, on_white(rgba)) <= (8 if file_format == "AVIF" else 1)


def test_hidden_colours_do_not_bleed_when_reduced(open_bytes: Callable[..., Pixels]) -> None:
    rgba = np.zeros((100, 100, 4), np.uint8)
    rgba[:, ::2] = (255, 0, 0, 255)  # red, and between it black that is not seen
    pixels = open_bytes(image_bytes(rgba, "PNG"), image_size=50)
    assert pixels.shape == (50, 50, 3)
    assert worst(pixels, np.full((50, 50, 3), (255, 128, 128), np.uint8)) <= 1


def test_transparency_of_other_modes(open_bytes: Callable[..., Pixels]) -> None:
    grey_alpha = np.dstack([GRADIENT[..., 0], np.full((60, 90), 128, np.uint8)])
    expected = on_white(np.dstack([np.repeat(grey_alpha[..., :1], 3, 2), grey_alpha[..., 1:]]))
    assert worst(open_bytes(image_bytes(PillowImage.fromarray(grey_alpha, "LA"), "PNG")), expected) <= 1

    palette = PillowImage.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 2)
    for file_format in ("PNG", "GIF"):
        pixels = open_bytes(image_bytes(palette, file_format, transparency=1))
        assert pixels[0, 0].tolist() == [40, 50, 60]
        assert pixels[1, 1].tolist() == [255, 255, 255]
    pixels = open_bytes(image_bytes(palette, "PNG", transparency=bytes([255, 128, 255])))
    assert worst(pixels[1:2, 1:2], np.array([[[132, 137, 142]]], np.uint8)) <= 1

    grey = PillowImage.new("L", (4, 4), 7)
    grey.putpixel((0, 0), 9)
    assert open_bytes(image_bytes(grey, "PNG", transparency=7))[:1, :2].tolist() == [[[9, 9, 9], [255, 255, 255]]]
    rgb = PillowImage.new("RGB", (4, 4), (1, 2, 3))
    rgb.putpixel((0, 0), (4, 5, 6))
    assert open_bytes(image_bytes(rgb, "PNG", transparency=(1, 2, 3)))[:1, :2].tolist() == [[[4, 5, 6], [255] * 3]]


@pytest.mark.parametrize(
    ("file_format", "mode"),
    [
        *(("JPEG", mode) for mode in ("L", "CMYK", "YCbCr")),
        *(("PNG", mode) for mode in ("L", "1", "P")),
        *(("TIFF", mode) for mode in ("L", "1", "P", "CMYK", "YCbCr")),
    ],
)
def test_colour_modes(file_format: str, mode: str, open_bytes: Callable[..., Pixels]) -> None:
    picture = PICTURE.convert(mode)
    # Pillow 12 cannot read the uncompressed YCbCr that it writes.
    by_format: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "TIFF": {"compression": "tiff_lzw"}}
    options = by_format.get(file_format, {})
    assert worst(open_bytes(image_bytes(picture, file_format, **options)), np.asarray(picture.convert("RGB"))) <= 6


def test_sixteen_bits_are_scaled_and_not_clipped(open_bytes: Callable[..., Pixels]) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    picture = PillowImage.fromarray(values)
    for data in (
        image_bytes(picture, "PNG"),
        image_bytes(picture, "TIFF"),
        b"P5 256 256 65535\n" + values.astype(">u2").tobytes(),
    ):
        pixels = open_bytes(data)
        assert worst(pixels, np.repeat(expected[..., None], 3, 2)) <= 1
    inverted = open_bytes(image_bytes(picture, "TIFF", tiffinfo={262: 0}))  # white is zero
    assert worst(inverted, 255 - np.repeat(expected[..., None], 3, 2)) == 0


def test_numbers_without_a_white_use_their_own_range(open_bytes: Callable[..., Pixels]) -> None:
    values = np.linspace(-1000, 3000, 64).reshape(8, 8)  # as of a CT scan
    for stored in (values.astype(np.int32), values.astype(np.float32)):
        pixels = open_bytes(image_bytes(PillowImage.fromarray(stored), "TIFF"))
        assert (pixels[0, 0, 0], pixels[-1, -1, 0]) == (0, 255)
        assert (np.diff(pixels[..., 0].ravel().astype(int)) >= 0).all()
    flat = open_bytes(image_bytes(PillowImage.fromarray(np.full((4, 4), 7.0, np.float32)), "TIFF"))
    assert not flat.any()


def test_pixels_without_a_value_are_black(open_bytes: Callable[..., Pixels]) -> None:
    values = np.linspace(-1000, 3000, 64).reshape(8, 8).astype(np.float32)
    whole = open_bytes(image_bytes(PillowImage.fromarray(values), "TIFF"))
    for hole, shown in ((np.nan, 0), (-np.inf, 0), (np.inf, 255)):
        values[2, 3] = hole
        pixels = open_bytes(image_bytes(PillowImage.fromarray(values), "TIFF"))
        assert pixels[2, 3].tolist() == [shown] * 3
        others = np.ones((8, 8), bool)
        others[2, 3] = False
        np.testing.assert_array_equal(pixels[others], whole[others])
    values[:] = np.nan
    refused(Outcome.BROKEN, "finite", open_bytes, image_bytes(PillowImage.fromarray(values), "TIFF"))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("inverted", [False, True])
def test_a_tiff_of_a_sensor_with_fewer_bits_is_not_near_black(
    bits: int, inverted: bool, open_bytes: Callable[..., Pixels]
) -> None:
    values = np.linspace(0, 2**bits - 1, 4096).astype(np.uint16).reshape(64, 64)
    options = {"tiffinfo": {262: 0}} if inverted else {}
    pixels = open_bytes(image_bytes(PillowImage.fromarray(values), "TIFF", **options))
    expected = np.rint(values / (2**bits - 1) * 255).astype(np.uint8)
    expected = 255 - expected if inverted else expected
    assert worst(pixels, np.repeat(expected[..., None], 3, 2)) <= 1


def deep_tiff(values: UInt16[np.ndarray, "height width 3"], order: str) -> bytes:
    """A TIFF of 16-bit colours, as Pillow cannot write it."""
    height, width, _ = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    end = 8 + len(pixels)
    tags = [(256, 4, width), (257, 4, height), (258, 3, 0), (259, 3, 1), (262, 3, 2), (273, 4, 8), (277, 3, 3)]
    tags += [(278, 4, height), (279, 4, len(pixels))]
    behind = end + 2 + 12 * len(tags) + 4
    lines = b"".join(
        struct.pack(f"{order}HHII", 258, 3, 3, behind)
        if tag == 258
        else struct.pack(
            f"{order}HHIHH" if kind == 3 else f"{order}HHII", tag, kind, 1, *((value, 0) if kind == 3 else (value,))
        )
        for tag, kind, value in tags
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", end)
    return (
        head + pixels + struct.pack(f"{order}H", len(tags)) + lines + bytes(4) + struct.pack(f"{order}3H", 16, 16, 16)
    )


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("order", ["<", ">"])
def test_colours_of_a_sensor_with_fewer_bits_are_not_near_black(
    bits: int, order: str, open_bytes: Callable[..., Pixels]
) -> None:
    values = np.random.default_rng(0).integers(0, 2**bits, (40, 30, 3)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    pixels = open_bytes(deep_tiff(values, order))
    assert worst(pixels, np.rint(values / (2**bits - 1) * 255).astype(np.uint8)) <= 1


def test_a_tiff_may_say_what_its_white_is(open_bytes: Callable[..., Pixels]) -> None:
    values = np.full((4, 4), 1000, np.uint16)
    for most, shown in ((2000, 128), (1000, 255), (500, 249), (65535, 4)):  # 500 is none: there are greater ones
        pixels = open_bytes(image_bytes(PillowImage.fromarray(values), "TIFF", tiffinfo={281: most}))
        assert (pixels == shown).all()
    assert (open_bytes(image_bytes(PillowImage.fromarray(values), "PNG")) == 4).all(), "a PNG has a white"


def png(width: int, height: int, bits: int, colours: int, rows: bytes, *parts: tuple[bytes, bytes]) -> bytes:
    """A PNG as it is written by hand: rows with their filter bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), *parts, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


@pytest.mark.parametrize("clear", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_every_depth(bits: int, clear: int, open_bytes: Callable[..., Pixels]) -> None:
    """Two pixels, the darkest and the one above it; one of them is transparent."""
    row = struct.pack(">2H", 0, 1) if bits == 16 else bytes([0, 1]) if bits == 8 else bytes([1 << 8 - 2 * bits])
    whole = open_bytes(png(2, 1, bits, 0, b"\0" + row))[0, :, 0].tolist()
    pixels = open_bytes(png(2, 1, bits, 0, b"\0" + row, (b"tRNS", struct.pack(">H", clear))))
    whole[clear] = 255
    assert pixels[0].tolist() == [[value] * 3 for value in whole]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white_at_every_depth(bits: int, open_bytes: Callable[..., Pixels]) -> None:
    colours = [(0, 0, 0), (40, 30, 20)] if bits == 8 else [(0, 0, 0), (40 * 257, 30 * 257, 20 * 257)]
    pack = f">{3}{'B' if bits == 8 else 'H'}"
    rows = b"\0" + b"".join(struct.pack(pack, *colour) for colour in colours)
    for clear, expected in ((0, [[255] * 3, [40, 30, 20]]), (1, [[0] * 3, [255] * 3])):
        part = (b"tRNS", struct.pack(">3H", *colours[clear]))
        assert open_bytes(png(2, 1, bits, 2, rows, part))[0].tolist() == expected


def test_deep_pixels_with_alpha(open_bytes: Callable[..., Pixels]) -> None:
    grey = struct.pack(">4H", 0, 0, 0, 65535)
    assert open_bytes(png(2, 1, 16, 4, b"\0" + grey))[0, :, 0].tolist() == [255, 0]
    colour = struct.pack(">8H", 0, 0, 0, 0, 65535, 0, 0, 65535)
    assert open_bytes(png(2, 1, 16, 6, b"\0" + colour))[0].tolist() == [[255] * 3, [255, 0, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_large_images_are_converted_in_bands_without_a_trace(mode: str, open_bytes: Callable[..., Pixels]) -> None:
    """Twice the size, every pixel four times: reduced by twice as much it is the same."""
    rng = np.random.default_rng(0)
    height, width = 700, 1801
    if mode in ("I;16", "F"):
        kind = np.uint16 if mode == "I;16" else np.float32
        picture = PillowImage.fromarray(rng.integers(0, 65536, (height, width)).astype(kind))
    else:
        channels = {"1": 1, "P": 1, "LA": 2, "RGB": 3}.get(mode, 4)
        values = rng.integers(0, 256, (height, width, channels), dtype=np.uint8)
        picture = PillowImage.fromarray(values if channels > 1 else values[..., 0], "L" if channels == 1 else mode)
        picture = picture.convert(mode)
    large = picture.resize((2 * width, 2 * height), PillowImage.Resampling.NEAREST)
    options: dict[str, Any] = {"format": "TIFF"} if mode in ("CMYK", "F") else {"format": "PNG", "compress_level": 1}
    expected = open_bytes(image_bytes(picture, options["format"]), image_size=100)
    data = image_bytes(large, options.pop("format"), **options)
    assert worst(open_bytes(data, image_size=100), expected) <= 1
    assert open_bytes(data).shape == (2 * height, 2 * width, 3)


def test_large_images_are_read(open_bytes: Callable[..., Pixels]) -> None:
    """Drawings of 105 and 169 megapixels, a photo of 108; and what Pillow would warn of."""
    for width, height, bits in ((12_715, 8_277, 8), (10_561, 16_000, 1)):
        row = b"\0" + b"\x55" * (width * bits // 8) + b"\0" * (width * bits % 8 > 0)
        pixels = open_bytes(png(width, height, bits, 0, row * height), image_size=224)
        assert 224 <= min(pixels.shape[:2]) < 448
        assert abs(int(pixels[5, 5, 0]) - (0x55 if bits == 8 else 128)) <= 3
    photo = image_bytes(PillowImage.new("L", (12_000, 9_000), 77), "JPEG")
    assert open_bytes(photo, image_size=224).shape == (225, 300, 3)
    scan = PillowImage.new("1", (9_600, 9_600), 1)
    assert open_bytes(image_bytes(scan, "TIFF"), image_size=200).shape == (200, 200, 3)
    screen = bytearray(image_bytes(PillowImage.new("P", (4, 4), 3), "GIF"))
    screen[6:10] = struct.pack("<HH", 10_000, 9_000)
    graphics = b"\x21\xf9\4\x09\0\0\0\0"  # after it has been shown, the screen is to be cleared
    at = screen.index(b"\x2c\0\0\0\0")
    assert open_bytes(bytes(screen[:at]) + graphics + bytes(screen[at:]), image_size=200).shape == (200, 223, 3)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_animations_and_pages_the_first(file_format: str, open_bytes: Callable[..., Pixels]) -> None:
    later = [PillowImage.new("RGB", (90, 60), colour) for colour in ("red", "blue")]
    first = PillowImage.new("RGB", (90, 60), (0, 128, 0))
    pixels = open_bytes(image_bytes(first, file_format, save_all=True, append_images=later))
    assert worst(pixels, np.asarray(first)) <= 3


@given(
    width=st.integers(1, 120),
    height=st.integers(1, 120),
    size=st.integers(1, 130),
    kind=st.sampled_from(["JPEG", "PNG"]),
)
def test_reduced_size_is_never_below_what_was_asked(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, size: int, kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "reduced"
    path.write_bytes(image_bytes(PillowImage.new("RGB", (width, height), "teal"), kind))
    image = media.load(path, image_size=size)
    assert isinstance(image, Image)
    shorter = min(image.pixels.shape[:2])
    assert shorter >= min(size, width, height)
    assert image.pixels.shape[0] <= height
    assert image.pixels.shape[1] <= width
    if size >= min(width, height):
        assert image.pixels.shape == (height, width, 3)
    if kind == "PNG":
        assert shorter < 2 * size or (height, width) == image.pixels.shape[:2]


def test_reduced_pixels_are_means(open_bytes: Callable[..., Pixels]) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    means = pixels.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    assert np.abs(open_bytes(image_bytes(pixels, "PNG"), image_size=10) - means).max() <= 0.51
    grey = pixels[..., 0]
    assert np.abs(open_bytes(image_bytes(grey, "PNG"), image_size=10)[..., 0] - means[..., 0]).max() <= 0.51
    assert open_bytes(FORMATS["jpeg"][0], image_size=10).shape == (15, 23, 3)  # of 60 x 90 a quarter, in the decoder


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nearly nothing."""
    return png(width, height, 8, 2, bytes(99))


def test_bombs_are_refused_before_decoding(open_bytes: Callable[..., Pixels]) -> None:
    bombs = [bomb(20_000, 20_000), bomb(100_000, 100_000), bomb(2**31 - 1, 2**31 - 1)]
    gif = bytearray(FORMATS["gif"][0])
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    bombs.append(bytes(gif))
    tiff = bytearray(image_bytes(PICTURE, "TIFF", compression="tiff_deflate"))
    assert tiff[:4] == b"II*\0"
    (start,) = struct.unpack_from("<I", tiff, 4)
    for at in range(start + 2, start + 2 + 12 * tiff[start], 12):
        if struct.unpack_from("<H", tiff, at)[0] in (256, 257):
            tiff[at + 8 : at + 12] = struct.pack("<I", 50_000)
    bombs.append(bytes(tiff))
    webp = bytearray(image_bytes(np.dstack([GRADIENT, GRADIENT[..., 0]]), "WEBP"))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = b"\xff\x3f\0\xff\x3f\0"
    bombs.append(bytes(webp))
    for data in bombs:
        refused(Outcome.TOO_LARGE, "pixels; the limit is 250,000,000", open_bytes, data, image_size=32)


def test_the_limit_is_on_pixels_and_not_on_a_side(open_bytes: Callable[..., Pixels]) -> None:
    wide = image_bytes(PillowImage.new("L", (20_000, 3), 50), "PNG")
    assert open_bytes(wide).shape == (3, 20_000, 3)
    limits = media.Limits(max_pixels=59_999)
    with pytest.raises(MediaError, match="20,000 x 3 = 60,000 pixels; the limit is 59,999"):
        open_bytes(wide, limits=limits)


def test_pillow_s_own_limit_holds_where_it_is_lower(
    open_bytes: Callable[..., Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PillowImage, "MAX_IMAGE_PIXELS", 5000)
    with pytest.raises(MediaError, match="the limit is 5,000"):
        open_bytes(FORMATS["png"][0])


def test_nothing_of_pillow_s_is_changed(open_bytes: Callable[..., Pixels]) -> None:
    before = (PillowImage.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    for data, _ in FORMATS.values():
        open_bytes(data, image_size=16)
    assert before == (PillowImage.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


def test_drawings_and_other_pictures_are_unsupported_with_a_reason(open_bytes: Callable[..., Pixels]) -> None:
    drawings = [b'<svg xmlns="http://www.w3.org/2000/svg"/>', b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<svg >']
    for data in drawings:
        refused(Outcome.UNSUPPORTED, "SVG is a drawing", open_bytes, data)
    with pytest.raises(MediaError, match="HEIC images are not read; convert it"):
        open_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
