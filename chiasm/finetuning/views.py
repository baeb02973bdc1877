"""Views of items: each medium as it is and in changed copies, what the frozen part of a network gives for them stored on disk.

Training needs the output of the frozen part in every epoch, and it is always the same. So it is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from PIL import Image as PillowImage
from PIL import ImageEnhance

from chiasm.encoders.runtime import Arrays
from chiasm.errors import MediaError
from chiasm.files import read_record, strict_json, write_whole
from chiasm.finetuning.towers import Tower
from chiasm.types import Audio, Image, Media, Text

_INDEX, _DATA = "views.json", "views.bin"
_TOGETHER = 64  # media that are open at a time

_SMALLEST = 0.5  # share of a picture that a crop has
_RATIO = 4 / 3
_TURN = 10.0  # degrees
_COLOUR = 0.3  # of brightness, contrast and saturation, up and down
_DROPPED = 0.1  # share of the words
_NOISE = 0.05  # of the loudness
_GAIN = 6.0  # decibels, up and down


@dataclass(frozen=True, eq=False)
class Views:
    """Stored arrays of items and views.

    Attributes:
        items: row of each item that could be opened, among those that were asked for.
        views: of each item; the first is the medium as it is.
    """

    items: Int[np.ndarray, " items"]
    views: int
    _index: Mapping[str, Any]
    _data: np.ndarray

    def get(self, item: int, view: int) -> Arrays:
        """Return the arrays of an item, by its place in `items`."""
        return {
            name: np.ndarray(shape, dtype, self._data, offset)
            for name, dtype, shape, offset in self._index["places"][item * self.views + view]
        }

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return int(self._data.nbytes)


def store_views(
    tower: Tower,
    openers: Sequence[Callable[[], Media]],
    folder: Path,
    *,
    views: int,
    seed: int,
    on_item: Callable[[int], None] | None = None,
) -> Views:
    """Return views of items, computed unless they are in the folder.

    Args:
        tower: whose frozen part is run.
        openers: open the medium of each item. Those that raise `MediaError` are left out.
        folder: that the views are kept in.
        views: of each item, 1 for the medium as it is and nothing else.
        seed: of the changes.
        on_item: called with the number of items that are done.

    Raises:
        OSError: the disk cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = read_record(folder / _INDEX)
    if not index:
        places: list[list[Any]] = []
        kept: list[int] = []
        with (folder / _DATA).open("wb") as file:
            for numbers, media in _opened(openers):
                changed = [
                    one if view == 0 else change(one, np.random.default_rng([seed, number, view]))
                    for number, one in zip(numbers, media, strict=True)
                    for view in range(views)
                ]
                for arrays in tower.stored(changed):
                    places.append([])
                    for name, array in arrays.items():
                        file.write(b"\0" * (-file.tell() % 16))  # so that any type of number can be mapped
                        places[-1].append([name, array.dtype.str, list(array.shape), file.tell()])
                        file.write(np.ascontiguousarray(array).tobytes())
                kept += numbers
                if on_item is not None:
                    on_item(numbers[-1] + 1)
        index = {"items": kept, "places": places}
        write_whole(folder / _INDEX, strict_json(index))
    data = np.memmap(folder / _DATA, np.uint8, "r") if (folder / _DATA).stat().st_size else np.empty(0, np.uint8)
    return Views(np.array(index["items"], dtype=np.int64), views, index, data)


def _opened(openers: Sequence[Callable[[], Media]]) -> Iterator[tuple[list[int], list[Media]]]:
    """Yield the media of some items at a time, and their numbers."""
    for at in range(0, len(openers), _TOGETHER):
        numbers, media = [], []
        for number, opener in enumerate(openers[at : at + _TOGETHER], start=at):
            try:
                media.append(opener())
            except MediaError:
                continue
            numbers.append(number)
        if media:
            yield numbers, media


# ------------------------------------------------------------------------------------------------------------- changes


def change(medium: Media, rng: np.random.Generator) -> Media:
    """Return a copy of a medium that means the same.

    Of a picture a part of it, mirrored, turned, in other colours; of a text some words less and two that changed places; of a
    sound one with noise, of another loudness. Videos stay as they are.

    Example:
        >>> change(Text("a red car"), np.random.default_rng(1)).text
        'a car red'
    """
    if isinstance(medium, Image):
        return Image(_changed_picture(medium.pixels, rng))
    if isinstance(medium, Text):
        return Text(_changed_text(medium.text, rng))
    if isinstance(medium, Audio):
        return Audio(_changed_sound(medium.waveform, rng), medium.rate)
    return medium


def _changed_picture(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale, ratio = rng.uniform(_SMALLEST, 1), np.exp(rng.uniform(-np.log(_RATIO), np.log(_RATIO)))
    wide, high = (
        max(1, round(side * min(1.0, np.sqrt(scale * part)))) for side, part in ((width, ratio), (height, 1 / ratio))
    )
    left, top = rng.integers(0, width - wide + 1), rng.integers(0, height - high + 1)
    picture = PillowImage.fromarray(pixels[top : top + high, left : left + wide])
    if rng.random() < 0.5:
        picture = picture.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT)
    border = tuple(int(value) for value in np.median(pixels[[0, -1]].reshape(-1, 3), axis=0))
    picture = picture.rotate(rng.uniform(-_TURN, _TURN), PillowImage.Resampling.BILINEAR, fillcolor=border)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(1 - _COLOUR, 1 + _COLOUR))
    return np.asarray(picture)


def _changed_text(text: str, rng: np.random.Generator) -> str:
    words = text.split()
    kept = [word for word in words if rng.random() >= _DROPPED] or words
    if len(kept) > 1:
        first = int(rng.integers(len(kept) - 1))
        kept[first : first + 2] = reversed(kept[first : first + 2])
    return " ".join(kept)


def _changed_sound(waveform: Float[np.ndarray, " samples"], rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    gain = 10 ** (rng.uniform(-_GAIN, _GAIN) / 20)
    noise = rng.normal(0, _NOISE * float(np.sqrt(np.mean(waveform**2))), len(waveform))
    return np.clip(gain * (waveform + noise), -1, 1).astype(np.float32)
