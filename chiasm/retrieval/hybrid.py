"""Hybrid search: several rankings of the same items fused into one by reciprocal ranks.

The one thing that this module knows beyond the formula is how to treat an item that one of the searches could not have
returned: an image without a word of text can never be among the hits of a full-text search. Giving it nothing there, as
a sum over rankings would, puts it behind every item with words; judging it by the other ranking alone puts it before
every item whose words do not match. Here it gets what covered items at that place of the other rankings got on average
(isotonic regression). So an item without words ranks behind its neighbours that match and before those that do not.

Where rankings come from is left to `chiasm.store.index` and `chiasm.store.words`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

CONSTANT = 60.0  # of reciprocal ranks: as in the paper, where results hardly changed with it


@dataclass(frozen=True, eq=False)
class RankedList:
    """The ranking of one search for a query.

    Raises:
        ValueError: not one score a row, scores that rise or are not finite, a row twice, below 0 or beyond `covers`, or
            a row that the search does not cover.

    Example:
        >>> RankedList(np.array([2, 0]), np.array([0.9, 0.4])).covers is None
        True
    """

    rows: Int[np.ndarray, " hits"]  # numbers of items, best first
    scores: Float[np.ndarray, " scores"]  # one a row, falling; equal scores share their places
    covers: Bool[np.ndarray, " items"] | None = None
    """For each item: whether the search could return it at all. None: all of them."""

    def __post_init__(self) -> None:
        if self.rows.shape != self.scores.shape or self.rows.ndim != 1:
            raise ValueError(f"each row needs a score; got {self.rows.shape} rows and {self.scores.shape} scores")
        if not np.isfinite(self.scores).all() or (np.diff(self.scores) > 0).any():
            raise ValueError("scores have to be finite and fall from the first row to the last")
        if len(np.unique(self.rows)) != len(self.rows) or (self.rows < 0).any():
            raise ValueError("rows have to be numbers of items from 0 on, each once")
        if self.covers is not None and len(self.rows):
            if int(self.rows.max()) >= len(self.covers):
                raise ValueError(f"row {self.rows.max()} is ranked and `covers` knows {len(self.covers)} items")
            if not self.covers[self.rows].all():
                raise ValueError(f"row {self.rows[~self.covers[self.rows]][0]} is ranked and is not covered")


@dataclass(frozen=True, eq=False)
class Fused:
    """Rows of any of the searches, best first, with scores that compare within this query only."""

    rows: Int[np.ndarray, " rows"]
    scores: Float64[np.ndarray, " rows"]


def reciprocal_rank_fusion(searches: Sequence[RankedList], *, constant: float = CONSTANT) -> Fused:
    """Fuse by ranks alone: the sum of 1 / (constant + rank) over the searches (Cormack et al. 2009).

    Rows of equal score get the mean of what their places are worth. A row that a search covers and did not return gets
    nothing from it; for one that it does not cover, see the module. Of equal sums the row that comes first in the first
    search goes first, then the second search decides and so on.

    Args:
        searches: of one query over the same items. At least one covers all of them.
        constant: how slowly the worth of a place falls with the rank.

    Raises:
        ValueError: no search that covers all items, or a constant that is not above 0.

    Example:
        >>> vectors = RankedList(np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]))
        >>> words = RankedList(np.array([2]), np.array([5.0]))
        >>> reciprocal_rank_fusion([vectors, words]).rows.tolist()
        [2, 0, 1]
    """
    if not constant > 0:
        raise ValueError(f"the constant has to be above 0; got {constant}")
    complete = np.array([search.covers is None for search in searches], dtype=bool)
    if not complete.any():
        raise ValueError("fusing takes at least one search that covers all items")
    rows = np.unique(np.concatenate([search.rows for search in searches]))
    worth = np.zeros((len(searches), len(rows)))
    place = np.full((len(searches), len(rows)), len(rows))
    for number, search in enumerate(searches):
        at = np.searchsorted(rows, search.rows)
        worth[number, at] = _worth_of_places(search, constant)
        place[number, at] = np.arange(len(at))
    base = worth[complete].sum(axis=0)
    ranked = (place[complete] < len(rows)).any(axis=0)
    for number, search in enumerate(searches):
        if search.covers is not None and len(search.rows):
            covered = search.covers[rows]
            known = covered & ranked
            worth[number, ~covered] = _expected(base[known], worth[number, known], at=base[~covered])
    total = worth.sum(axis=0)
    order = np.lexsort((*place[::-1], -total))
    return Fused(rows[order], total[order])


def _worth_of_places(search: RankedList, constant: float) -> Float64[np.ndarray, " hits"]:
    worth = 1 / (constant + np.arange(1, len(search.rows) + 1))
    _, tie, size = np.unique(-search.scores, return_inverse=True, return_counts=True)
    mean: Float64[np.ndarray, " hits"] = (np.bincount(tie, worth) / size)[tie] if len(worth) else worth
    return mean


def _expected(
    base: Float64[np.ndarray, " known"], worth: Float64[np.ndarray, " known"], *, at: Float64[np.ndarray, " others"]
) -> Float64[np.ndarray, " others"]:
    """Predict a search's worth as a rising function of the other searches' worth, with straight lines between known places.

    The ends are flat: nothing is known beyond them.
    """
    if not len(base):
        return np.zeros(len(at))
    from scipy.optimize import isotonic_regression

    known, tie, size = np.unique(base, return_inverse=True, return_counts=True)
    fit = isotonic_regression(np.bincount(tie, worth) / size, weights=size)
    expected: Float64[np.ndarray, " others"] = np.interp(at, known, fit.x)
    return expected
