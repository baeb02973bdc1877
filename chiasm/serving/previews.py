"""Make small pictures of files for the page: each once, kept in the cache under the digest of the file and the size.

Who may see a file is decided in `files`: a preview is made from the file that was opened and checked there, through that
opening, and one from the cache is sent only after the same check.
"""

from __future__ import annotations

import io
import shutil
from enum import IntEnum
from pathlib import Path

from PIL import Image as PillowImage
from starlette.requests import Request
from starlette.responses import Response

from chiasm import media
from chiasm.encoders.cache import cache_folder
from chiasm.errors import MediaError
from chiasm.files import write_whole
from chiasm.media import Limits
from chiasm.serving.files import OwnFile
from chiasm.serving.observe import logger
from chiasm.serving.problems import Problem
from chiasm.serving.settings import Settings
from chiasm.types import Image, Video

VERSION = 12  # digits of a digest that name a version of a file in a URL
_QUALITY = 78
_TYPE = "image/webp"


class Size(IntEnum):
    """Pixels of the longer side of a preview."""

    TINY = 160
    SMALL = 320
    MEDIUM = 640
    LARGE = 1280


def preview_answer(own: OwnFile, size: Size, version: str | None, request: Request, settings: Settings) -> Response:
    """Return a response with a preview of an image or a video.

    Args:
        own: the file; closing it is left to who opened it.
        size: of the preview.
        version: which content the sender means, as the API names it. Its preview never changes, so caches may keep it.
        request: for its headers.
        settings: bounds on what is decoded and stored.

    Raises:
        Problem: 404, the file has no picture, or none that can be decoded within the limits.
    """
    tag = f'"{own.digest}-{int(size)}"'
    is_named = version == own.digest[:VERSION]
    headers = {
        "Cache-Control": "private, max-age=31536000, immutable" if is_named else "private, no-cache",
        "Content-Disposition": 'inline; filename="preview.webp"',
        "ETag": tag,
    }
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(_preview(own, size, settings), headers=headers, media_type=_TYPE)


def _preview(own: OwnFile, size: Size, settings: Settings) -> bytes:
    kept = cache_folder() / "previews" / own.digest[:2] / f"{own.digest}-{int(size)}.webp"
    try:
        return kept.read_bytes()
    except OSError:
        made = make_preview(Path(f"/dev/fd/{own.file.fileno()}"), size, limits=settings.previews)
    if shutil.disk_usage(cache_folder()).free > settings.keep_free:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, made)
        except OSError as error:  # it is made again the next time
            logger.warning("a preview cannot be kept", extra={"fields": {"reason": error.strerror}})
    return made


def make_preview(path: Path, size: int, *, limits: Limits) -> bytes:
    """Return a picture of an image, or of the middle of a video, as WebP.

    Args:
        path: of the file.
        size: pixels of its longer side; smaller pictures stay as they are.
        limits: on what is decoded.

    Raises:
        Problem: 404, there is no picture in it, or none that can be decoded within the limits.
    """
    try:
        medium = media.load(path, image_size=size, frames=1, limits=limits)
    except MediaError as error:
        raise Problem(404, "preview", f"there is no preview: {error.reason}") from error
    match medium:
        case Image():
            pixels = medium.pixels
        case Video():
            pixels = medium.frames[0]
        case _:
            raise Problem(404, "preview", f"only images and videos have previews; this is {medium.modality}")
    picture = PillowImage.fromarray(pixels)
    picture.thumbnail((size, size), PillowImage.Resampling.LANCZOS)
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=_QUALITY)
    return written.getvalue()
