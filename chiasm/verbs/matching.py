"""The places of a picture that matched the words it was found by: the cosine that goes with each.

Where an embedding is a mean over places, each place is left out of the mean; else it is hidden in the picture, which is
embedded again (Zeiler & Fergus 2014, arXiv:1311.2901, section 4.2). How predictions are explained is `chiasm.verbs.explainer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chiasm import work
from chiasm.encoders.base import Encoder
from chiasm.errors import SpaceError
from chiasm.evaluation.record import Record
from chiasm.media.pieces import pieces_of, place_of, places_within, without
from chiasm.recognition.reasons import Reason
from chiasm.space import Space
from chiasm.store.tables import chunks
from chiasm.types import Image, Text


@dataclass(frozen=True)
class Match(Record):
    """How well words and a picture match, and by how much less without each place of the picture.

    Attributes:
        score: their cosine.
        reasons: of the places, in rows; a weight is the cosine that goes with the place.
    """

    score: float
    reasons: tuple[Reason, ...]


def match_places(words: Text, picture: Image, space: Space, encoders: Sequence[Encoder]) -> Match:
    """Say what in a picture matches words.

    Args:
        words: that are searched with.
        picture: as its encoder takes it.
        space: that both are compared in.
        encoders: of the space.

    Raises:
        SpaceError: the space lacks words or pictures, cannot compare the two, or has no vector for one of them.
    """
    query = space.embed([words], encoders)[0]
    encoder = space.encoder("image", encoders)
    if "image" not in space.comparable(query):
        raise SpaceError("words and pictures of this collection cannot be compared: chiasm align learns it from pairs")
    cells = encoder.cells([picture])
    if cells is not None:
        vectors = cells.vectors[0]
        whole = vectors.mean(axis=0, keepdims=True)
        inside, pieces = places_within(cells.boxes[0])
        others = (len(vectors) * whole - vectors[inside]) / (len(vectors) - 1)
    else:
        pieces = pieces_of(picture)
        whole = encoder.encode([picture]).vectors
        hidden = []
        for batch in chunks(pieces, encoder.batch_size):
            work.check()
            hidden.append(encoder.encode([rest for piece in batch if (rest := without(picture, [piece]))]).vectors)
        others = np.concatenate(hidden)
    if not whole.any():
        raise SpaceError(f"{encoder.name} found nothing in the picture that it can embed")
    cosines = space.place("image", np.concatenate([whole, others])) @ query
    weights = (cosines[0] - cosines[1:]).tolist()
    reasons = [
        Reason(place_of(piece), weight, None, None, piece.box) for piece, weight in zip(pieces, weights, strict=True)
    ]
    return Match(float(cosines[0]), tuple(reasons))
