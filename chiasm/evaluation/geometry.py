"""Geometry: how two modalities lie in a joint space, whatever is relevant to what.

What makes search across modalities go wrong before any query is asked: modalities that lie apart, a few items that are
near to everything, pairs that are far from each other, vectors that fill little of the sphere. How good the search
itself is, see `chiasm.evaluation.ranking`. All rows are scaled to unit length first, so these are numbers about
directions; no matrix of all rows by all rows ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from chiasm.errors import LabelError
from chiasm.evaluation.record import Record
from chiasm.vectors import Unchecked, check_matrix, unit_rows

_BLOCK = 2**22  # products held at once


@dataclass(frozen=True)
class ModalityGap(Record):
    """How far two modalities lie apart."""

    distance: float  # between their centres, 0 to 2
    separability: float  # share that a threshold between the centres assigns to the right modality: 0.5 is guessing


def modality_gap(
    first: Float[np.ndarray, "rows dim"] | Unchecked, second: Float[np.ndarray, "others dim"] | Unchecked
) -> ModalityGap:
    """Return the distance between the centres of two modalities, and whether one dimension tells them apart.

    The distance is `|mean(x) - mean(y)|` over unit vectors (Liang et al. 2022, "Mind the Gap", NeurIPS, section 2). It is
    not 0 for samples of one distribution, and larger for smaller samples. The separability is the balanced accuracy of
    assigning to x all that lies, along the line through both centres, nearer to that of x. Centres come from every other
    row and the rows between are judged, then the other way round: by their own centres any two small samples could be
    told apart in many dimensions.

    Args:
        first: embeddings of one modality.
        second: embeddings of the other, in the same space.

    Raises:
        LabelError: not two matrices of one width, fewer than 2 rows, or a row without a direction.

    Example:
        >>> apart = modality_gap(np.array([[1.0, 0.1], [1.0, 0.2]]), np.array([[-1.0, 0.1], [-1.0, 0.2]]))
        >>> round(apart.distance, 2), apart.separability
        (1.98, 1.0)
    """
    x, y = _sides(first, second, least=2)
    distance = float(np.linalg.norm(x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)))
    right_x = right_y = 0.0
    for judged, known in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        of_x, of_y = x[known].mean(axis=0), y[known].mean(axis=0)
        line, middle = of_x - of_y, (of_x + of_y) / 2
        # A row on the middle itself, where both centres coincide, is half right.
        right_x += float((1 + np.sign((x[judged] - middle) @ line)).sum() / 2)
        right_y += float((1 - np.sign((y[judged] - middle) @ line)).sum() / 2)
    return ModalityGap(distance, (right_x / len(x) + right_y / len(y)) / 2)


@dataclass(frozen=True, eq=False)
class Hubness:
    """Hubness: a few items are near to everything, others to nothing."""

    k: int
    skewness: float  # of how often an item is among the k nearest: 0 is an even spread, above 1 there are hubs
    never: float  # share of the gallery that is among the k nearest of no query: anti-hubs
    largest: float  # share of the queries that have the most frequent item among their k nearest
    counts: Float64[np.ndarray, " gallery"]  # how many queries have each item among their k nearest

    def as_dict(self) -> dict[str, float | int]:
        """Return all but the single counts, for JSON."""
        return {"k": self.k, "skewness": self.skewness, "never": self.never, "largest": self.largest}


def hubness(
    queries: Float[np.ndarray, "queries dim"] | Unchecked,
    gallery: Float[np.ndarray, "gallery dim"] | Unchecked,
    *,
    k: int = 10,
) -> Hubness:
    """Return how unevenly queries have the gallery's items among their k nearest, by cosine.

    The skewness is that of N_k, the number of queries that have an item among their k nearest (Radovanovic et al. 2010,
    "Hubs in Space", JMLR 11, equation 1). Ties at the end of the k nearest share the places that are left, so that of
    two copies neither is a hub by its position alone.

    Args:
        queries: embeddings to search with.
        gallery: embeddings to search in.
        k: how many nearest count; fewer than the gallery holds.

    Raises:
        LabelError: as `modality_gap`, no queries, or k outside of 1 to the size of the gallery less one.
    """
    from scipy.stats import skew

    x, y = _sides(queries, gallery, least=1)
    if not 1 <= k < len(y):
        raise LabelError(f"k must be at least 1 and below the size of the gallery, {len(y)}; got {k}")
    rounding = 2 * float(np.finfo(x.dtype).eps) * math.sqrt(x.shape[1])
    counts = np.zeros(len(y))
    for part in _parts(len(x), len(y)):
        scores = x[part] @ y.T
        last = np.partition(scores, len(y) - k, axis=1)[:, len(y) - k, None]
        above = scores > last + rounding
        level = (scores >= last - rounding) & ~above
        counts += above.sum(axis=0) + ((k - above.sum(axis=1)) / level.sum(axis=1)) @ level
    even = counts.std() <= 1e-9 * counts.mean()  # what is left are roundings of the shared places
    return Hubness(
        k=k,
        skewness=0.0 if even else float(skew(counts)),
        never=float((counts == 0).mean()),
        largest=float(counts.max() / len(x)),
        counts=counts,
    )


def alignment(
    first: Float[np.ndarray, "pairs dim"] | Unchecked, second: Float[np.ndarray, "pairs dim"] | Unchecked
) -> float:
    """Return the mean squared distance between the two sides of a pair: 2 - 2 * mean cosine, from 0 to 4.

    Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere" (ICML), section 4.1.

    Raises:
        LabelError: as `modality_gap`, no pairs, or sides that differ in length.

    Example:
        >>> alignment(np.eye(2), np.eye(2)[::-1])
        2.0
    """
    x, y = _sides(first, second, least=1)
    if len(x) != len(y):
        raise LabelError(f"pairs have one row on each side; got {len(x)} and {len(y)}")
    return float(np.square((x - y).astype(np.float64)).sum(axis=1).mean())


def uniformity(vectors: Float[np.ndarray, "rows dim"] | Unchecked) -> float:
    """Return how evenly vectors fill the sphere: `log mean exp(-2 |x - y|^2)` over pairs of rows; lower is more even.

    Wang & Isola 2020, section 4.1. It is 0 if all are the same, and about -4 for even ones in many dimensions.

    Raises:
        LabelError: as `modality_gap`.
    """
    x = _directions(vectors, least=2)
    total = 0.0
    for part in _parts(len(x), len(x)):
        near = np.exp(-4 + 4 * (x[part] @ x[part.start :].T))  # |x - y|^2 = 2 - 2 x.y
        width = len(near)
        # Each pair once: of the block with itself what is above the diagonal, and all later rows.
        total += float(np.triu(near[:, :width], 1).sum(dtype=np.float64) + near[:, width:].sum(dtype=np.float64))
    return math.log(total / (len(x) * (len(x) - 1) / 2))


@dataclass(frozen=True)
class PairGeometry:
    """How two modalities of the same things lie in a joint space."""

    names: tuple[str, str]
    gap: ModalityGap
    alignment: float
    uniformity: Mapping[str, float]  # by modality
    hubness: Mapping[str, Hubness]  # by direction, such as "text_to_image": of images, for texts as queries

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in the types of JSON."""
        return {
            "modality_gap": self.gap.as_dict(),
            "alignment": self.alignment,
            "uniformity": dict(self.uniformity),
            "hubness": {direction: one.as_dict() for direction, one in self.hubness.items()},
        }


def pair_geometry(
    first: Float[np.ndarray, "pairs dim"] | Unchecked,
    second: Float[np.ndarray, "pairs dim"] | Unchecked,
    *,
    names: tuple[str, str],
    k: int = 10,
) -> PairGeometry:
    """Return all of the above for two modalities, row i of both being of the same thing.

    Args:
        first: embeddings of the first modality.
        second: embeddings of the second, in the same space.
        names: of the two modalities, e.g. `("text", "image")`.
        k: of the hubness.

    Raises:
        LabelError: as `modality_gap`, `hubness` and `alignment`, or both names the same.
    """
    if names[0] == names[1]:
        raise LabelError(f"the two sides of pairs are two modalities; got {names[0]!r} twice")
    sides = dict(zip(names, _sides(first, second, least=2), strict=True))
    x, y = sides.values()
    return PairGeometry(
        names=names,
        gap=modality_gap(x, y),
        alignment=alignment(x, y),
        uniformity={name: uniformity(side) for name, side in sides.items()},
        hubness={f"{a}_to_{b}": hubness(sides[a], sides[b], k=k) for a, b in (names, names[::-1])},
    )


def _sides(
    first: Float[np.ndarray, "rows dim"] | Unchecked, second: Float[np.ndarray, "others dim"] | Unchecked, *, least: int
) -> tuple[Float[np.ndarray, "rows dim"], Float[np.ndarray, "others dim"]]:
    x, y = _directions(first, least=least), _directions(second, least=least)
    if x.shape[1] != y.shape[1]:
        raise LabelError(f"both modalities must lie in one space; got widths of {x.shape[1]} and {y.shape[1]}")
    dtype = np.result_type(x, y)
    return x.astype(dtype, copy=False), y.astype(dtype, copy=False)


def _directions(vectors: Float[np.ndarray, "rows dim"] | Unchecked, *, least: int) -> Float[np.ndarray, "rows dim"]:
    """Return unit rows, at least float32."""
    rows = check_matrix(vectors, "the embeddings")
    if len(rows) < least:
        raise LabelError(f"at least {least} embeddings per modality are needed; got {len(rows)}")
    bad = np.flatnonzero(~rows.any(axis=1))
    if len(bad):
        raise LabelError(
            f"{len(bad)} of {len(rows)} embeddings are all zeros and have no direction, first row {bad[0]}: leave them out"
        )
    return unit_rows(rows.astype(np.result_type(rows.dtype, np.float32)))


def _parts(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
