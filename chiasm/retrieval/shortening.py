"""Shorter vectors that keep their products with each other: coordinates along the directions that a gallery varies most in.

By the singular vectors of the gallery, not centred, since products are what is kept and not distances (Eckart and Young 1936).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from chiasm.errors import ChiasmError
from chiasm.evaluation.ranking import retrieval_metrics

_QUERIES, _GALLERY = 500, 20_000  # rows that are measured, at the most
_NEAREST = 10


def directions(vectors: Float[np.ndarray, "rows dim"], number: int) -> Float[np.ndarray, "dim number"]:
    """Return orthogonal directions, those first that most of the vectors is along.

    Raises:
        ChiasmError: there are fewer dimensions than that, or it is not positive.

    Example:
        >>> directions(np.array([[3.0, 0.0], [0.0, 1.0]]), 1).round(3).tolist()
        [[1.0], [0.0]]
    """
    if not 0 < number <= vectors.shape[1]:
        raise ChiasmError(f"the vectors have {vectors.shape[1]} dimensions: name 1 to as many, not {number}")
    axes = np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :number]
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(number)]), vectors.dtype)


@dataclass(frozen=True)
class Kept:
    """The share of hits that a search still finds with shorter vectors."""

    recall: float  # share of the 10 nearest, by whole vectors, that are among the 10 nearest
    hits: (
        tuple[float, float] | None
    )  # hit@10 of an item's file of another modality, by whole vectors and by shorter ones


def kept_by(
    vectors: Float[np.ndarray, "rows dim"],
    short: Float[np.ndarray, "rows number"],
    items: Shaped[np.ndarray, " rows"],
    modalities: Shaped[np.ndarray, " rows"],
) -> Kept:
    """Ask with some of the vectors among the others, and compare what both kinds find.

    Args:
        vectors: whole.
        short: the same, shorter.
        items: what each is of; an item is not among what its own vector is asked for.
        modalities: of each.
    """
    rng = np.random.default_rng(0)
    gallery = np.sort(rng.permutation(len(vectors))[:_GALLERY])
    queries = np.sort(rng.permutation(gallery)[:_QUERIES])
    own = items[queries][:, None] == items[gallery]
    scores = [vectors[queries] @ vectors[gallery].T, short[queries] @ short[gallery].T]
    among = min(_NEAREST, int((~own).sum(axis=1).min()))
    best = [np.argsort(np.where(own, -np.inf, one), axis=1)[:, ::-1][:, :among] for one in scores]
    same = [len({*first} & {*second}) for first, second in zip(*map(np.ndarray.tolist, best), strict=True)]
    other = own & (modalities[queries][:, None] != modalities[gallery])
    asks = other.any(axis=1)
    hits = None
    if asks.any():
        crossed = np.where(modalities[queries][:, None] == modalities[gallery], -np.inf, 0)[asks]
        first, second = (
            float(retrieval_metrics(one[asks] + crossed, other[asks]).as_dict()["hit@10"]) for one in scores
        )
        hits = first, second
    return Kept(float(np.mean(same)) / among if among else 1.0, hits)
