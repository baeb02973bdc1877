"""Views of items: each medium as it is and in changed copies, what the frozen part of a network gives for them stored on disk.

Training needs the output of the frozen part in every epoch, and it is always the same. So it is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from PIL import Image as PillowImage
from PIL import ImageEnhance, ImageOps

from chiasm.encoders.base import resample
from chiasm.encoders.runtime import Arrays
from chiasm.errors import MediaError
from chiasm.files import read_record, strict_json, write_whole
from chiasm.finetuning.recipe import Augment
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
_TEMPO = 1.15  # times as fast at most, and as slow
_PITCH = 2 ** (2 / 12)  # two semitones, up and down
_STRIPE = 0.15  # share of the time and of the frequencies at most
_WINDOW = 1024  # samples


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
    augment: Augment = "light",
    on_item: Callable[[int], None] | None = None,
) -> Views:
    """Return views of items, computed unless they are in the folder.

    Args:
        tower: whose frozen part is run.
        openers: open the medium of each item. Those that raise `MediaError` are left out.
        folder: that the views are kept in.
        views: of each item, 1 for the medium as it is and nothing else.
        seed: of the changes.
        augment: how much is changed.
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
            for numbers, media in opened(openers):
                changed = [
                    one if view == 0 else change(one, np.random.default_rng([seed, number, view]), augment)
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


def opened(openers: Sequence[Callable[[], Media]]) -> Iterator[tuple[list[int], list[Media]]]:
    """Yield the media of some items at a time, and their numbers; those that raise `MediaError` are left out."""
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


def change(medium: Media, rng: np.random.Generator, augment: Augment = "light") -> Media:
    """Return a copy of a medium that means the same.

    Of a picture a part of it, mirrored, turned, in other colours; of a text some words less and two that changed places; of a
    sound one with noise, of another loudness. Strong: pictures by RandAugment, twice as many words less, and more that change
    places; sounds of another tempo and pitch as well, with two stripes of their spectrum missing. Videos stay as they are.

    Example:
        >>> change(Text("a red car"), np.random.default_rng(1)).text
        'a car red'
    """
    strong = augment == "strong"
    if isinstance(medium, Image):
        part, border = _part(medium.pixels, rng)
        changed = _with_rand_augment(part, border, rng) if strong else _with_other_colours(part, border, rng)
        return Image(np.asarray(changed))
    if isinstance(medium, Text):
        return Text(_changed_text(medium.text, rng, 2 * _DROPPED if strong else _DROPPED, 5 if strong else None))
    if isinstance(medium, Audio):
        return Audio(_changed_sound(_bent(medium, rng) if strong else medium.waveform, rng), medium.rate)
    return medium


Colour: TypeAlias = tuple[int, ...]


def _part(pixels: np.ndarray, rng: np.random.Generator) -> tuple[PillowImage.Image, Colour]:
    """Return a part of a picture, every second time mirrored, and the colour of its border."""
    height, width = pixels.shape[:2]
    scale, ratio = rng.uniform(_SMALLEST, 1), np.exp(rng.uniform(-np.log(_RATIO), np.log(_RATIO)))
    wide, high = (
        max(1, round(side * min(1.0, np.sqrt(scale * part)))) for side, part in ((width, ratio), (height, 1 / ratio))
    )
    left, top = rng.integers(0, width - wide + 1), rng.integers(0, height - high + 1)
    picture = PillowImage.fromarray(pixels[top : top + high, left : left + wide])
    if rng.random() < 0.5:
        picture = picture.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT)
    return picture, tuple(int(value) for value in np.median(pixels[[0, -1]].reshape(-1, 3), axis=0))


def _with_other_colours(picture: PillowImage.Image, border: Colour, rng: np.random.Generator) -> PillowImage.Image:
    picture = picture.rotate(rng.uniform(-_TURN, _TURN), PillowImage.Resampling.BILINEAR, fillcolor=border)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(1 - _COLOUR, 1 + _COLOUR))
    return picture


def _with_rand_augment(picture: PillowImage.Image, border: Colour, rng: np.random.Generator) -> PillowImage.Image:
    """Return a picture after two of these operations, each as strong as it comes (Cubuk et al. 2020, arXiv:1909.13719)."""

    def warped(x: float, right: float, y: float, down: float) -> PillowImage.Image:
        move = (1, x, right * picture.width, y, 1, down * picture.height)
        return picture.transform(
            picture.size, PillowImage.Transform.AFFINE, move, PillowImage.Resampling.BILINEAR, fillcolor=border
        )

    operations: list[Callable[[float], PillowImage.Image]] = [  # of how strong, from -1 to 1
        lambda _: picture,
        lambda _: ImageOps.autocontrast(picture),
        lambda _: ImageOps.equalize(picture),
        lambda much: ImageOps.posterize(picture, 8 - round(4 * abs(much))),
        lambda much: ImageOps.solarize(picture, 256 - round(128 * abs(much))),
        lambda much: picture.rotate(30 * much, PillowImage.Resampling.BILINEAR, fillcolor=border),
        lambda much: warped(0.3 * much, 0, 0, 0),
        lambda much: warped(0, 0, 0.3 * much, 0),
        lambda much: warped(0, 0.3 * much, 0, 0),
        lambda much: warped(0, 0, 0, 0.3 * much),
        lambda much: ImageEnhance.Brightness(picture).enhance(1 + 0.8 * much),
        lambda much: ImageEnhance.Contrast(picture).enhance(1 + 0.8 * much),
        lambda much: ImageEnhance.Color(picture).enhance(1 + 0.8 * much),
        lambda much: ImageEnhance.Sharpness(picture).enhance(1 + 0.8 * much),
    ]
    for number in rng.integers(len(operations), size=2):
        picture = operations[number](rng.uniform(-1, 1))
    return picture


def _changed_text(text: str, rng: np.random.Generator, dropped: float, every: int | None) -> str:
    """Return a text without a share of its words, in which two changed places; or as many pairs as it has so many words."""
    words = text.split()
    kept = [word for word in words if rng.random() >= dropped] or words
    for _ in range(1 if every is None else -(-len(kept) // every)):
        if len(kept) > 1:
            first = int(rng.integers(len(kept) - 1))
            kept[first : first + 2] = reversed(kept[first : first + 2])
    return " ".join(kept)


def _changed_sound(waveform: Float[np.ndarray, " samples"], rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    gain = 10 ** (rng.uniform(-_GAIN, _GAIN) / 20)
    noise = rng.normal(0, _NOISE * float(np.sqrt(np.mean(waveform**2))), len(waveform))
    return np.clip(gain * (waveform + noise), -1, 1).astype(np.float32)


def _bent(sound: Audio, rng: np.random.Generator) -> Float[np.ndarray, " samples"]:
    """Return a sound of another tempo and pitch, without a stripe of time and one of frequencies.

    The stripes are those of SpecAugment (Park et al. 2019, arXiv:1904.08779), taken out of the spectrum before there is a
    waveform again, so that networks of waveforms miss them as well as those of spectrograms.
    """
    tempo, pitch = np.exp(rng.uniform(-1, 1, 2) * np.log([_TEMPO, _PITCH]))
    slow = stretch(sound.waveform, pitch / tempo, rng)
    return resample(Audio(slow, round(sound.rate * pitch)), sound.rate)


def stretch(
    waveform: Float[np.ndarray, " samples"], factor: float, rng: np.random.Generator | None = None
) -> Float[np.ndarray, " longer"]:
    """Return a sound that lasts longer at the same pitch: a phase vocoder (Flanagan and Golden 1966).

    Args:
        waveform: of the sound. One that is shorter than two windows stays as it is.
        factor: how much longer.
        rng: draws stripes of time and frequency that are left out; None: there are none.
    """
    from scipy.signal import istft, stft

    if len(waveform) < 2 * _WINDOW:
        return waveform
    setting: dict[str, Any] = {"nperseg": _WINDOW, "noverlap": _WINDOW * 3 // 4}
    spectrum = stft(waveform, **setting)[2]
    at = np.arange(0, spectrum.shape[1] - 1, 1 / factor)
    left, share = at.astype(int), at % 1
    loud = (1 - share) * np.abs(spectrum[:, left]) + share * np.abs(spectrum[:, left + 1])
    turn = np.angle(spectrum[:, left + 1]) - np.angle(spectrum[:, left])  # of each bin from one window to the next
    phase = np.cumsum(np.column_stack([np.angle(spectrum[:, 0]), turn[:, :-1]]), axis=1)
    if rng is not None:
        for rows in (loud, loud.T):
            wide = int(rng.uniform(0, _STRIPE) * len(rows))
            first = int(rng.integers(len(rows) - wide + 1))
            rows[first : first + wide] = 0
    longer = istft(loud * np.exp(1j * phase), **setting)[1]
    return np.asarray(longer, np.float32)
