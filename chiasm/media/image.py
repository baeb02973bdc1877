"""Images: from the bytes of a file to upright RGB pixels, through Pillow.

Knows colour modes, transparency and reduced decoding. Colours are converted without their profiles: what is stored as
Adobe RGB is taken for sRGB, and CMYK by the plain formula. Of animations and documents of several pages, the first
frame or page. Vector drawings are not read.

A large image is decoded at reduced size where its format can, converted in bands of rows, and never beside another large one.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile

from chiasm import work
from chiasm.errors import MediaError
from chiasm.files import open_source
from chiasm.media import kinds, metadata
from chiasm.media.kinds import Kind
from chiasm.media.limits import Limits
from chiasm.types import Image, Outcome

# The plugins are called themselves: Image.open warns of large images, where here a limit is checked.
_PLUGINS: dict[Kind, Callable[[io.BytesIO], ImageFile]] = {
    kinds.JPEG: JpegImagePlugin.JpegImageFile,
    kinds.PNG: PngImagePlugin.PngImageFile,
    kinds.GIF: GifImagePlugin.GifImageFile,
    kinds.WEBP: WebPImagePlugin.WebPImageFile,
    kinds.BMP: BmpImagePlugin.BmpImageFile,
    kinds.TIFF: TiffImagePlugin.TiffImageFile,
    kinds.AVIF: AvifImagePlugin.AvifImageFile,
    kinds.JPEG2000: Jpeg2KImagePlugin.Jpeg2KImageFile,
    kinds.PNM: PpmImagePlugin.PpmImageFile,
}
_LARGE = 40_000_000  # pixels of an image that is not decoded beside another one
_BAND = 4_000_000  # pixels that are converted together
_PILLOWS_LIMIT = 1024**3 // 4 // 3  # unless the program has set another
_one_large = threading.Lock()
_OPTIONAL = {kinds.WEBP: "webp", kinds.AVIF: "avif", kinds.JPEG2000: "jpg_2000"}

Pixels = UInt8[np.ndarray, "height width 3"]
Scale: TypeAlias = Callable[[PillowImage.Image], PillowImage.Image]


def read(data: bytes, kind: Kind, *, image_size: int | None, limits: Limits) -> Image:
    """Decode an image file.

    Args:
        data: the file.
        kind: what it is; one of the kinds whose reader is `"pillow"`.
        image_size: pixels that the shorter side needs to have. A larger image may be decoded at a whole fraction of
            its size, never below this; a smaller one is left as it is. None decodes all pixels.
        limits: see `Limits.max_pixels`.

    Raises:
        MediaError: `BROKEN`, `TOO_LARGE`, or `UNSUPPORTED` where this Pillow was built without the format.
    """
    if kind in _OPTIONAL and not features.check(_OPTIONAL[kind]):
        raise MediaError(Outcome.UNSUPPORTED, f"the installed Pillow was built without {kind.name}")
    plain = metadata.strip(data, kind)
    if plain.size is not None:
        _check_size(plain.size, limits)
    try:
        with _PLUGINS[kind](io.BytesIO(plain.data)) as picture:
            _check_size(picture.size, limits)
            stored = picture.width * picture.height
            if image_size is not None:
                picture.draft("RGB", (image_size, image_size))
            work.decode(picture.width * picture.height)
            if kind == kinds.TIFF:  # makes room itself, but for Pillow's limit that was checked above
                picture.im = PillowImage.new(picture.mode, picture.size, None).im
            held = max(picture.width * picture.height, stored // 4)  # a progressive JPEG holds all of its coefficients
            with _one_large if held > _LARGE else nullcontext():
                picture.load()
                pixels = _to_rgb(_of_sensor(picture, plain.data) or picture, image_size)
            exif = picture.info.get("exif")
    except PillowImage.DecompressionBombError as error:
        raise MediaError(Outcome.TOO_LARGE, f"the {kind.name} is too large to decode: {error}") from error
    except (MediaError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise whatever damaged bytes make them stumble over
        raise MediaError(
            Outcome.BROKEN, f"the {kind.name} cannot be decoded: {str(error) or type(error).__name__}"
        ) from error
    orientation = metadata.read_orientation(exif) if isinstance(exif, bytes) else plain.orientation
    return Image(np.ascontiguousarray(_TURNS[orientation](pixels)))


def size_of(path: str | Path) -> tuple[int, int]:
    """Return width and height of a picture as it is stored, from its header alone.

    Raises:
        MediaError: it cannot be read, or is no picture.
    """
    try:
        with open_source(path) as file:
            kind = kinds.recognise(file)
            file.seek(0)
            if kind not in _PLUGINS:
                raise MediaError(Outcome.UNSUPPORTED, f"a picture was expected; the file is {kind.name}")
            with _PLUGINS[kind](file) as picture:  # type: ignore[arg-type]  # any open file
                return picture.size
    except MediaError:
        raise
    except Exception as error:  # as in `read`
        raise MediaError(Outcome.BROKEN, f"its size cannot be read: {error}") from error


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    pillows = PillowImage.MAX_IMAGE_PIXELS
    most = limits.max_pixels if pillows in (None, _PILLOWS_LIMIT) else min(limits.max_pixels, pillows)
    if width * height > most:
        raise MediaError(
            Outcome.TOO_LARGE,
            f"the image has {width:,} x {height:,} = {width * height:,} pixels; the limit is {most:,}",
        )


def _to_rgb(picture: PillowImage.Image, image_size: int | None) -> Pixels:
    """Return RGB pixels on white, reduced by a whole factor as long as the shorter side keeps `image_size`."""
    width, height = picture.size
    factor = 1 if image_size is None else max(1, min(width, height) // image_size)
    to_8_bits = _scale(picture)
    rows = max(1, _BAND // (width * factor)) * factor
    if rows >= height:
        return np.asarray(_reduced(picture, to_8_bits, factor))
    pixels = np.empty((-(-height // factor), -(-width // factor), 3), np.uint8)
    for top in range(0, height, rows):
        band = np.asarray(_reduced(picture.crop((0, top, width, min(top + rows, height))), to_8_bits, factor))
        pixels[top // factor : top // factor + len(band)] = band
    return pixels


def _reduced(picture: PillowImage.Image, to_8_bits: Scale | None, factor: int) -> PillowImage.Image:
    if to_8_bits is not None:
        picture = to_8_bits(picture)
    elif picture.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode == "RGBA":  # before reducing: as exact as reducing premultiplied colours, and faster
        flat = PillowImage.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture)
        picture = flat
    if factor > 1:
        picture = picture.reduce(factor)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _scale(picture: PillowImage.Image) -> Scale | None:
    """Return how the numbers of an image, or of a band of it, become 8 bits; None where they are."""
    if picture.mode.startswith("I;16"):
        return _of_16_bits(picture)
    return _of_numbers(picture) if picture.mode in ("I", "F") else None


_SENSORS = (10, 12, 14)  # bits of cameras and X-ray detectors whose values are stored in 16


def _white(greatest: int, declared: int) -> int:
    """Return what white is in a TIFF of 16 bits, which does not say so.

    It is what the file declares as its greatest value, or else the greatest value of a sensor of 10, 12, 14 or 16 bits that
    the image does not exceed.
    """
    whites = [declared, *(2**bits - 1 for bits in _SENSORS)]
    return next((white for white in whites if greatest <= white and white > 0), 65535)


def _of_16_bits(picture: PillowImage.Image) -> Scale:
    """Scale to the format's own white; TIFF may count from white to black (X-rays)."""
    tags = getattr(picture, "tag_v2", {})
    bits = int(tags.get(258, (16,))[0])
    transparent = picture.info.get("transparency")
    white = 2**bits - 1
    if bits == 16 and picture.format == "TIFF":
        white = _white(int(np.asarray(picture).max(initial=0)), int(np.max(tags.get(281, 0))))
    inverted = tags.get(262) == 0

    def scale(part: PillowImage.Image) -> PillowImage.Image:
        values = np.asarray(part)
        grey = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
        grey = 255 - grey if inverted else grey
        if isinstance(transparent, int):
            grey = np.where(values == transparent, 255, grey)
        return PillowImage.fromarray(grey.astype(np.uint8))

    return scale


def _of_sensor(picture: ImageFile, data: bytes) -> PillowImage.Image | None:
    """Return the colours of a TIFF of 16 bits whose values are those of a sensor with fewer; None where they are not.

    Pillow keeps the upper halves of the values. The lower ones are what it keeps of the file in the other byte order.
    """
    tags = getattr(picture, "tag_v2", {})
    if picture.mode != "RGB" or tuple(tags.get(258, ())) != (16, 16, 16):
        return None
    upper = np.asarray(picture).astype(np.uint16)
    if upper.max(initial=0) >= 2 ** (_SENSORS[-1] - 8) and 281 not in tags:
        return None
    with TiffImagePlugin.TiffImageFile(io.BytesIO(data)) as other:
        swapped = {"16N": "16B" if sys.byteorder == "little" else "16L", "16L": "16B", "16B": "16L"}
        tiles = []
        for tile in other.tile:
            if not isinstance(tile.args, tuple) or str(tile.args[0])[-3:] not in swapped:
                return None  # one plane a colour
            mode = str(tile.args[0])
            tiles.append(tile._replace(args=(mode[:-3] + swapped[mode[-3:]], *tile.args[1:])))
        other.tile = tiles
        work.decode(other.width * other.height)
        other.im = PillowImage.new(other.mode, other.size, None).im
        values = upper << 8 | np.asarray(other)
    white = _white(int(values.max(initial=0)), int(np.max(tags.get(281, 0))))
    return PillowImage.fromarray(((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8))


def _of_numbers(picture: PillowImage.Image) -> Scale:
    """Scale whole or floating numbers. PNG and PNM have a white, 65535; else the range of the image is used.

    Numbers that are not finite mark pixels without a value: they are black, and infinity is white.
    """
    low, high = 0.0, 65535.0
    if picture.format not in ("PNG", "PPM"):
        values = np.asarray(picture)
        values = values[np.isfinite(values)]
        if not values.size:
            raise MediaError(Outcome.BROKEN, "the image has no pixel that is a finite number")
        low, high = float(values.min()), float(values.max())

    def scale(part: PillowImage.Image) -> PillowImage.Image:
        values = np.nan_to_num(np.asarray(part).astype(np.float64), nan=low, posinf=high, neginf=low)
        return PillowImage.fromarray(np.rint((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8))

    return scale


# Exif's orientations 1 to 8 (CIPA DC-008, 4.6.5.1.6): where the stored first row and column belong
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}
