"""Hubs: gallery rows that are near to every query, and what to take off their scores.

A row's offset depends on the row and on a stored bank of queries alone, not on the query that is asked. It can
therefore be computed once and kept; one query at a time needs no other queries. Which correction to take, if any, is
chosen in `chiasm.retrieval.scores`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Int

from chiasm.errors import SpaceError

CorrectionMethod: TypeAlias = Literal["none", "csls", "inverted_softmax"]
_BLOCK = 2**22  # similarities held at a time


@dataclass(frozen=True)
class Correction:
    """How much a row loses for being near to the queries of a bank.

    - `csls`: half of the mean similarity to its k nearest queries (Conneau et al. 2018, eq. 3: 2 s - r_query - r_row,
      divided by 2 and without r_query, which is the same for all rows).
    - `inverted_softmax`: log mean exp(T s) / T over the bank (Smith et al. 2017). Strength 1 ranks rows by the
      probability of the query given the row, 1/2 by the product of the softmax over rows and that over queries. Dual
      softmax (Cheng et al. 2021) is of this kind, with the similarity itself in the place of the first of the two.

    Attributes:
        method: `"none"` takes nothing off.
        strength: factor of the offset, above 0.
        k: of csls.
        temperature: T of inverted_softmax.
    """

    method: CorrectionMethod = "none"
    strength: float = 1.0
    k: int = 10
    temperature: float = 10.0

    def __post_init__(self) -> None:
        if self.method not in get_args(CorrectionMethod):
            raise SpaceError(
                f"there is no correction {self.method!r}. There are {', '.join(get_args(CorrectionMethod))}"
            )
        if not (0 < self.strength < np.inf and self.k >= 1 and 0 < self.temperature < np.inf):
            raise SpaceError(
                f"strength and temperature must be above 0 and k at least 1; got {self.strength}, {self.temperature}, {self.k}"
            )

    def offsets(
        self,
        rows: Float[np.ndarray, "rows dim"],
        bank: Float[np.ndarray, "bank dim"],
        *,
        row_owners: Int[np.ndarray, " rows"] | None = None,
        bank_owners: Int[np.ndarray, " bank"] | None = None,
    ) -> Float[np.ndarray, " rows"]:
        """What is to be subtracted from the score of each row.

        Args:
            rows: of the gallery.
            bank: queries; none of them gives no offsets.
            row_owners: what each row belongs to. A query of the same owner (an image's own caption) says nothing about
                whether the row is a hub, and is left out; else a row with a caption in the bank would stand behind one
                without. Both or neither of the owners are given.
            bank_owners: see above.

        Raises:
            SpaceError: one kind of owners without the other.
        """
        if (row_owners is None) != (bank_owners is None):
            raise SpaceError("owners must be given of both the rows and the bank, or of neither")
        result = np.zeros(len(rows), np.float32)
        if self.method == "none" or not len(bank):
            return result
        step = max(1, _BLOCK // len(bank))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            near = rows[part] @ bank.T
            if row_owners is not None and bank_owners is not None:
                np.copyto(near, -np.inf, where=row_owners[part, None] == bank_owners[None, :])
            result[part] = self.strength * self._of(near)
        return result

    def _of(self, near: Float[np.ndarray, "rows bank"]) -> Float[np.ndarray, " rows"]:
        """Offsets of strength 1; entries of -inf are not there."""
        there = near > -np.inf
        if self.method == "csls":
            k = min(self.k, near.shape[1])
            top = np.partition(near, near.shape[1] - k, axis=1)[:, near.shape[1] - k :]
            kept = top > -np.inf
            return np.asarray(np.where(kept, top, 0).sum(axis=1) / np.maximum(kept.sum(axis=1), 1) / 2)
        most = np.where(there.any(axis=1), near.max(axis=1), 0)[:, None]
        mean = np.exp(self.temperature * (near - most)).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
        offsets: Float[np.ndarray, " rows"] = np.where(
            mean > 0, most[:, 0] + np.log(np.where(mean > 0, mean, 1)) / self.temperature, 0
        )
        return offsets
