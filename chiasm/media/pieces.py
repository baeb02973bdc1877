"""Pieces of a medium, and the medium without some of them: words of a text, tiles of a picture, parts of a sound."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int, UInt8

from chiasm.types import Audio, Image, Media, Text

GRID = 7  # tiles along a side of a picture
MOST_WORDS = 40  # pieces of a text; neighbouring words of a longer one are one piece
MOST_PARTS = 10  # of a sound
SHORTEST = 1.0  # seconds of a part of a sound
LONGEST_TEXT, LONGEST_SOUND = 20_000, 120.0  # characters and seconds that are taken to pieces

_ALONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # scripts without blanks between words
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")


@dataclass(frozen=True)
class Piece:
    """One part of a medium and where it is.

    Attributes:
        text: of a text the words, without the punctuation around them.
        start: of a text the first character, of a sound the second at which it begins; None of a picture.
        end: where it ends.
        box: of a picture: left, top, right and bottom as shares of its width and height, which may lie outside of it.
    """

    text: str = ""
    start: float | None = None
    end: float | None = None
    box: tuple[float, float, float, float] | None = None


def pieces_of(medium: Media) -> tuple[Piece, ...]:
    """Return the pieces of a text, a picture or a sound; none of a video, nor of what is too long.

    Example:
        >>> [piece.text for piece in pieces_of(Text("a red boat"))]
        ['a', 'red', 'boat']
    """
    match medium:
        case Text() if len(medium.text) <= LONGEST_TEXT:
            words = [word.span() for word in _WORD.finditer(medium.text)]
            groups = np.array_split(np.arange(len(words)), min(len(words), MOST_WORDS)) if words else []
            spans = [(words[group[0]][0], words[group[-1]][1]) for group in groups]
            return tuple(Piece(_bare(medium.text[start:end]), start, end) for start, end in spans)
        case Image():
            places = np.linspace(0, 1, GRID + 1).tolist()
            return tuple(
                Piece(box=(left, top, right, bottom))
                for top, bottom in pairwise(places)
                for left, right in pairwise(places)
            )
        case Audio() if len(medium.waveform) <= LONGEST_SOUND * medium.rate:
            seconds = len(medium.waveform) / medium.rate
            ends = np.linspace(0, seconds, max(1, min(MOST_PARTS, int(seconds / SHORTEST))) + 1).tolist()
            return tuple(Piece(start=start, end=end) for start, end in pairwise(ends))
    return ()


def places_within(boxes: Float[np.ndarray, "places 4"]) -> tuple[Int[np.ndarray, " inside"], tuple[Piece, ...]]:
    """Return which places lie in a picture at least in part, and these as pieces.

    Args:
        boxes: left, top, right and bottom, as shares of its width and height.

    Example:
        >>> places_within(np.array([[-0.5, 0.0, 0.0, 1.0], [0.0, 0.0, 0.5, 1.0]]))[0]
        array([1])
    """
    inside = np.flatnonzero(((boxes[:, :2] < 1) & (boxes[:, 2:] > 0)).all(axis=1))
    pieces = (Piece(box=(left, top, right, bottom)) for left, top, right, bottom in boxes[inside].tolist())
    return inside, tuple(pieces)


def _bare(words: str) -> str:
    """Return words without the punctuation around them, unless there is nothing else."""
    return words.strip("".join(one for one in set(words) if unicodedata.category(one)[0] in "PS")) or words


def without(medium: Media, pieces: Sequence[Piece]) -> Media | None:
    """Return a medium whose pieces are gone: cut out of a text, painted over, silenced; None where nothing is left.

    What is painted over has the colour of the picture's border.

    Example:
        >>> boat = Text("a red boat")
        >>> without(boat, pieces_of(boat)[1:2])
        Text(text='a boat', modality='text')
    """
    match medium:
        case Text():
            rest, at = [], 0
            for piece in sorted(pieces, key=lambda one: one.start or 0):
                rest.append(medium.text[at : int(piece.start or 0)])
                at = int(piece.end or 0)
            text = " ".join("".join([*rest, medium.text[at:]]).split())
            return Text(text) if text else None
        case Image():
            pixels = medium.pixels.copy()
            height, width = pixels.shape[:2]
            colour = _border_colour(pixels)
            for piece in pieces:
                assert piece.box is not None  # of pieces of pictures there is one
                left, top, right, bottom = (max(0, round(side)) for side in np.multiply(piece.box, [width, height] * 2))
                pixels[top:bottom, left:right] = colour
            return Image(pixels)
        case Audio():
            waveform = medium.waveform.copy()
            for piece in pieces:
                waveform[round((piece.start or 0) * medium.rate) : round((piece.end or 0) * medium.rate)] = 0
            return replace(medium, waveform=waveform) if waveform.any() else None
    return medium


def _border_colour(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, " 3"]:
    """Return the median colour of the outermost pixels."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.asarray(np.median(border, axis=0), dtype=np.uint8)


def place_of(piece: Piece) -> str:
    """Return where a piece is, in words.

    Example:
        >>> place_of(Piece(box=(0.0, 0.0, 0.2, 0.2))), place_of(Piece(start=1.0, end=2.5))
        ('top left', '1 to 2.5 s')
    """
    if piece.text:
        return piece.text
    if piece.box is None:
        return f"{piece.start:g} to {piece.end:g} s"
    left, top, right, bottom = piece.box
    across, down = ((low + high) / 2 for low, high in ((left, right), (top, bottom)))
    words = [
        ("top", "", "bottom")[min(2, max(0, int(3 * down)))],
        ("left", "", "right")[min(2, max(0, int(3 * across)))],
    ]
    return " ".join(filter(None, words)) or "centre"
