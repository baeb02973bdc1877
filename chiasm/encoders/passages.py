"""Texts that are longer than a network takes: where they are cut into passages, and what they are as a whole.

A passage is to a text what a moment is to a sound: a span with its own vector. Cuts lie between paragraphs where that is
possible, else between lines, sentences, words, and within a word only where it alone is too long. Nothing is left out but
whitespace between passages. Lengths are counted by the tokenizer of the network, which is left to the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from chiasm.encoders.base import Embeddings, Moments
from chiasm.vectors import unit_rows

Count: TypeAlias = Callable[[Sequence[str]], Sequence[int]]
"""Texts -> tokens that the network sees of each, with those that are put around every text."""

Embed: TypeAlias = Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]]

VERSION = "1"  # of everything here that changes passages and vectors; part of the fingerprints of encoders of texts

_BORDERS = tuple(
    re.compile(border)
    for border in (
        r"\n\s*\n",  # of paragraphs
        r"\n",
        r"(?<=[.!?\u2026])[\"'\u2019\u201d)\]]*\s+|(?<=[\u3002\uff01\uff1f])",  # of sentences, also of those without spaces
        r"\s+",
    )
)
_STEP = 0.25  # of the room for tokens, in characters: a word without borders is cut into so many at a time


def embed_texts(texts: Sequence[str], *, limit: int, count: Count, embed: Embed) -> Embeddings:
    """Embed texts of any length, a row each; those of several passages have them as moments, in characters.

    The vector of a text of several passages has the mean of their directions, weighted by their characters, and the mean of
    their lengths.

    Args:
        texts: not empty.
        limit: tokens that the network takes.
        count: see `Count`.
        embed: called once, with texts that are no longer than the network takes.

    Example:
        >>> words = lambda texts: [len(text.split()) for text in texts]
        >>> found = embed_texts(["one two", "One. Two three."], limit=2, count=words, embed=lambda t: np.eye(3)[: len(t)])
        >>> found.moments.texts, found.moments.starts.tolist(), found.moments.ends.tolist()
        (('One.', 'Two three.'), [0.0, 5.0], [4.0, 15.0])
    """
    spans = [
        [(0, len(text))] if tokens <= limit else passages(text, limit=limit, count=count)
        for text, tokens in zip(texts, count(texts), strict=True)
    ]
    cut = [text[start:end] for text, own in zip(texts, spans, strict=True) for start, end in own]
    vectors = np.asarray(embed(cut), dtype=np.float32)
    wholes = np.empty((len(texts), vectors.shape[1]), np.float32)
    rows: list[int] = []  # of passages, among all that were embedded
    owners: list[int] = []
    first = 0
    for number, own in enumerate(spans):
        mine = np.arange(first, first + len(own))
        first += len(own)
        wholes[number] = vectors[mine[0]]
        if len(own) > 1:
            wholes[number] = _mean(vectors[mine], np.array([end - start for start, end in own]))
            rows += mine.tolist()
            owners += [number] * len(own)
    edges = np.array([span for own in spans if len(own) > 1 for span in own], dtype=np.float64).reshape(-1, 2)
    moments = Moments(np.array(owners, int), edges[:, 0], edges[:, 1], vectors[rows], tuple(cut[row] for row in rows))
    return Embeddings(wholes, (None,) * len(texts), moments=moments)


def passages(text: str, *, limit: int, count: Count) -> list[tuple[int, int]]:
    """Return where passages of a text begin and end, in characters, each of at most so many tokens.

    Args:
        text: with more tokens than that.
        limit: tokens of a passage.
        count: see `Count`.
    """
    room = max(1, limit - count([""])[0])
    return _stripped(text, _packed(text, (0, len(text)), room, count)) or [(0, len(text))]


def _packed(text: str, whole: tuple[int, int], room: int, count: Count) -> list[tuple[int, int]]:
    """Return spans that cover a span, each of the longest row of pieces that has room."""
    around = count([""])[0]
    packed: list[tuple[int, int]] = []
    filled = room
    for (start, end), tokens in _pieces(text, whole, room, count, 0):
        if packed and filled + tokens <= room:
            packed[-1], filled = (packed[-1][0], end), filled + tokens
        else:
            packed.append((start, end))
            filled = tokens
    # Side by side, pieces may have more tokens than alone.
    lengths = [tokens - around for tokens in count([text[start:end] for start, end in packed])]
    spans: list[tuple[int, int]] = []
    for span, tokens in zip(packed, lengths, strict=True):
        less = room - max(1, tokens - room)
        spans += [span] if tokens <= room or less < 1 else _packed(text, span, less, count)
    return spans


def _pieces(
    text: str, whole: tuple[int, int], room: int, count: Count, level: int
) -> list[tuple[tuple[int, int], int]]:
    """Return spans that cover a span, none with more tokens than there is room, as few borders down as that takes."""
    start, end = whole
    if level < len(_BORDERS):
        cuts = [place.end() for place in _BORDERS[level].finditer(text, start, end) if start < place.end() < end]
        bounds = [start, *dict.fromkeys(cuts), end]
    else:
        bounds = [*range(start, end, max(1, int(_STEP * room))), end]
    spans = list(pairwise(bounds))
    if len(spans) == 1 and level < len(_BORDERS):  # there is no such border: nothing to count
        return _pieces(text, whole, room, count, level + 1)
    around = count([""])[0]
    lengths = [tokens - around for tokens in count([text[a:b] for a, b in spans])]
    pieces: list[tuple[tuple[int, int], int]] = []
    for span, tokens in zip(spans, lengths, strict=True):
        if tokens <= room or level == len(_BORDERS):
            pieces.append((span, tokens))
        else:
            pieces += _pieces(text, span, room, count, level + 1)
    return pieces


def _stripped(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return spans without the whitespace at their ends; those of nothing else are left out."""
    kept = []
    for start, end in spans:
        words = text[start:end]
        if words.strip():
            kept.append((start + len(words) - len(words.lstrip()), end - len(words) + len(words.rstrip())))
    return kept


def _mean(
    vectors: Float[np.ndarray, "passages dim"], weights: Int[np.ndarray, " passages"]
) -> Float[np.ndarray, " dim"]:
    """Return the weighted mean of the directions of vectors, of the mean of their lengths."""
    direction = unit_rows((weights @ unit_rows(vectors))[None].astype(np.float32))[0]
    length = np.average(np.linalg.norm(vectors, axis=1), weights=weights)
    return np.asarray(direction * length, dtype=np.float32)
