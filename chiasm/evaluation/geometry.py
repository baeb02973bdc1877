"""Geometry: how two modalities lie in a joint space, whatever is relevant to what.

This module knows what makes search across modalities go wrong before any query is asked: modalities that lie apart, a few
items that are near to everything, pairs that are far from each other, vectors that fill little of the sphere. How good the
search itself is stands in `chiasm.evaluation.ranking`. All rows are brought to length 1 first, so that these are numbers
about directions; no matrix of all rows by all rows ever exists.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from chiasm.errors import LabelError
from chiasm.vectors import Unchecked

_BLOCK = 2**22  # products held at once
_STEEPEST = 20.0  # exp(-4 * 20) is still a number in single precision


@dataclass(frozen=True)
class ModalityGap:
    """How far two modalities lie apart."""

    distance: float  # between their centres, 0 to 2
    separability: float  # share that a threshold between the centres calls by its right modality: 0.5 is guessing

    def as_dict(self) -> dict[str, float]:
        """All of it, for JSON."""
        return asdict(self)


def modality_gap(
    first: Float[np.ndarray, "rows dim"] | Unchecked, second: Float[np.ndarray, "others dim"] | Unchecked
) -> ModalityGap:
    """The distance of the centres of two modalities, and whether one dimension tells the modalities apart.

    The distance is `|mean(x) - mean(y)|` over unit vectors (Liang et al. 2022, "Mind the Gap", NeurIPS, section 2). It is
    not 0 for samples of one distribution: the less there are, the larger. The separability is the balanced accuracy of
    calling x all that lies, along the line through both centres, nearer to that of x. The centres are those of every other
    row and the rows between are judged, then the other way round: by centres of their own, any two small samples could be
    told apart in many dimensions.

    Args:
        first: embeddings of one modality.
        second: embeddings of the other, in the same space.

    Raises:
        LabelError: not two matrices of floats of one width, fewer than 2 rows, or a row without a direction.
    """
    x, y = _sides(first, second, least=2)
    distance = float(np.linalg.norm(x.mean(axis=0, dtype=np.float64) - y.mean(axis=0, dtype=np.float64)))
    right = {"x": 0.0, "y": 0.0}
    for judged, known in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        of_x, of_y = x[known].mean(axis=0), y[known].mean(axis=0)
        line, middle = of_x - of_y, (of_x + of_y) / 2
        # On the middle itself, where both centres are one, is half right.
        right["x"] += float((1 + np.sign((x[judged] - middle) @ line)).sum() / 2)
        right["y"] += float((1 - np.sign((y[judged] - middle) @ line)).sum() / 2)
    return ModalityGap(distance, (right["x"] / len(x) + right["y"] / len(y)) / 2)


@dataclass(frozen=True, eq=False)
class Hubness:
    """Whether a few items are found by everything and others by nothing."""

    k: int
    skewness: float  # of how often an item is among the k nearest: 0 is an even spread, above 1 there are hubs
    never: float  # share of the gallery that is among the k nearest of no query: anti-hubs
    largest: float  # share of the queries that have the most frequent item among their k nearest
    counts: Float64[np.ndarray, " gallery"]  # how many queries find each item

    def as_dict(self) -> dict[str, float | int]:
        """All but the single counts, for JSON."""
        return {"k": self.k, "skewness": self.skewness, "never": self.never, "largest": self.largest}


def hubness(
    queries: Float[np.ndarray, "queries dim"] | Unchecked,
    gallery: Float[np.ndarray, "gallery dim"] | Unchecked,
    *,
    k: int = 10,
) -> Hubness:
    """How unevenly the gallery is found: the skewness of N_k, by cosine.

    N_k(y) is the number of queries that have y among their k nearest; its skewness is the mean of (N_k - mean)^3 divided
    by the third power of the standard deviation (Radovanovic et al. 2010, "Hubs in Space", JMLR 11, equation 1). Items
    that stand alike at the end of the k nearest share the places that are left, so that no copy is a hub, and the other an
    anti-hub, by their order alone.

    Args:
        queries: embeddings of what is searched with.
        gallery: embeddings of what is found.
        k: how many nearest count; fewer than the gallery holds.

    Raises:
        LabelError: as `modality_gap`, there are no queries, or k is not between 1 and the size of the gallery less one.
    """
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
    deviation = counts - counts.mean()
    spread = math.sqrt(np.square(deviation).mean())
    even = spread <= 1e-9 * counts.mean()  # what is left are roundings of the shared places
    return Hubness(
        k=k,
        skewness=0.0 if even else float((deviation**3).mean() / spread**3),
        never=float((counts == 0).mean()),
        largest=float(counts.max() / len(x)),
        counts=counts,
    )


def alignment(
    first: Float[np.ndarray, "pairs dim"] | Unchecked,
    second: Float[np.ndarray, "pairs dim"] | Unchecked,
    *,
    power: float = 2.0,
) -> float:
    """How near to each other the two sides of a pair lie: the mean of `|x - y|^power`, 0 if they are the same.

    Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere" (ICML), section 4.1. With a power of 2 it is 2 - 2 * mean cosine, from 0 to 4.

    Args:
        first: embeddings of one side.
        second: embeddings of the other, a row a pair.
        power: of the distance, above 0.

    Raises:
        LabelError: as `modality_gap`, there are no pairs, the sides differ in length, or the power is not above 0.
    """
    x, y = _sides(first, second, least=1)
    if len(x) != len(y):
        raise LabelError(f"pairs have one row on each side; got {len(x)} and {len(y)}")
    if not 0 < power < math.inf:
        raise LabelError(f"the power of a distance must be above 0; got {power}")
    return float((np.linalg.norm(x - y, axis=1).astype(np.float64) ** power).mean())


def uniformity(vectors: Float[np.ndarray, "rows dim"] | Unchecked, *, t: float = 2.0) -> float:
    """How evenly vectors fill the sphere: `log mean exp(-t |x - y|^2)` over pairs of different rows; lower is more even.

    Wang & Isola 2020, section 4.1. It is 0 if all are the same, and about -2 t for even ones in many dimensions.

    Args:
        vectors: embeddings.
        t: how fast distance counts, above 0 and at most 20.

    Raises:
        LabelError: as `modality_gap`, or t is out of range.
    """
    x = _directions(vectors, least=2)
    if not 0 < t <= _STEEPEST:
        raise LabelError(f"t must be above 0 and at most {_STEEPEST:g}; got {t}")
    total = 0.0
    for part in _parts(len(x), len(x)):
        near = np.exp(-2 * t + 2 * t * (x[part] @ x[part.start :].T))  # |x - y|^2 = 2 - 2 x.y
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
    hubness: Mapping[str, Hubness]  # by direction, such as "text_to_image": how images are found by texts

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
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
    """All of the above of two modalities, row i of both belonging to the same thing.

    Args:
        first: embeddings of the first modality.
        second: embeddings of the second, in the same space.
        names: of the two modalities, e.g. `("text", "image")`.
        k: of the hubness.

    Raises:
        LabelError: as `modality_gap`, `hubness` and `alignment`, or both names are the same.
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
    """Rows of length 1, at least float32."""
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind != "f":
        raise LabelError(f"embeddings must be a matrix of floats, one a row; got {given.dtype} {given.shape}")
    if len(given) < least:
        raise LabelError(f"at least {least} embeddings a modality are needed; got {len(given)}")
    rows = given.astype(np.result_type(given.dtype, np.float32))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(bad):
        raise LabelError(
            f"{len(bad)} of {len(rows)} embeddings have no direction (zeros, NaN or infinite values), first row {bad[0]}: "
            "leave them out"
        )
    directions: Float[np.ndarray, "rows dim"] = rows / lengths
    return directions


def _parts(rows: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK // width)
    for first in range(0, rows, step):
        yield slice(first, min(first + step, rows))
