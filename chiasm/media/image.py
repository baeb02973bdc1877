"""Images: from the bytes of a file to upright RGB pixels, through Pillow.

Knows colour modes, transparency and reduced decoding. Colours are converted without their profiles: what is stored as
Adobe RGB is taken for sRGB, and CMYK by the plain formula. Of animations and documents of several pages, the first
frame or page. Vector drawings are not read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

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
_OPTIONAL = {kinds.WEBP: "webp", kinds.AVIF: "avif", kinds.JPEG2000: "jpg_2000"}

Pixels = UInt8[np.ndarray, "height width 3"]


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
            if image_size is not None:
                picture.draft("RGB", (image_size, image_size))
            work.decode(picture.width * picture.height)
            picture.load()
            pixels = _to_rgb(picture, image_size)
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


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    most = min(limits.max_pixels, PillowImage.MAX_IMAGE_PIXELS or limits.max_pixels)
    if width * height > most:
        raise MediaError(
            Outcome.TOO_LARGE,
            f"the image has {width:,} x {height:,} = {width * height:,} pixels; the limit is {most:,}",
        )


def _to_rgb(picture: PillowImage.Image, image_size: int | None) -> Pixels:
    """Return RGB pixels on white, reduced by a whole factor as long as the shorter side keeps `image_size`."""
    if picture.mode.startswith("I;16"):
        picture = PillowImage.fromarray(_from_16_bits(np.asarray(picture), picture))
    elif picture.mode in ("I", "F"):
        picture = PillowImage.fromarray(_from_numbers(np.asarray(picture), picture.format))
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if picture.mode == "RGBA":  # before reducing: as exact as reducing premultiplied colours, and faster
        flat = PillowImage.new("RGB", picture.size, "white")
        flat.paste(picture, mask=picture)
        picture = flat
    if image_size is not None and (factor := min(picture.size) // image_size) > 1:
        picture = picture.reduce(factor)
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _from_16_bits(values: np.ndarray[Any, Any], picture: PillowImage.Image) -> UInt8[np.ndarray, "height width"]:
    """Scale to 8 bits by the format's own white; TIFF may hold 12 bits, and may count from white to black (X-rays)."""
    tags = getattr(picture, "tag_v2", {})
    white = 2 ** int(tags.get(258, (16,))[0]) - 1
    grey = (np.minimum(values, white).astype(np.uint32) * 255 + white // 2) // white
    pixels: UInt8[np.ndarray, "height width"] = (255 - grey if tags.get(262) == 0 else grey).astype(np.uint8)
    return pixels


def _from_numbers(values: np.ndarray[Any, Any], file_format: str | None) -> UInt8[np.ndarray, "height width"]:
    """Scale whole or floating numbers to 8 bits. PNG and PNM have a white, 65535; else the range of the image is used."""
    if not np.isfinite(values).all():
        raise MediaError(Outcome.BROKEN, "the image has pixels that are not finite numbers")
    low, high = (0.0, 65535.0) if file_format in ("PNG", "PPM") else (float(values.min()), float(values.max()))
    return np.rint((values.astype(np.float64) - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)


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
