"""Exact search among unit vectors: every query is compared with every vector.

What a row stands for (a file of an item) is given as `owners`; an item is found once, by its best row. What media the
vectors come from is left to `chiasm.api`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.types import Modality, Scalar

SCORES = 2**24  # scores held at a time, 64 MB: so many queries go through the gallery together


@dataclass(frozen=True)
class Hit:
    """One item that was found, by its best file."""

    id: str
    modality: Modality  # of the file that was found
    score: float  # cosine with the query
    path: str | None  # of the file; None for a text that stands in a manifest
    text: str | None  # the text itself, or the transcript of a sound
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows of the gallery, best first, a row a query; -1 (score -inf) where fewer than k owners are left."""

    rows: Int[np.ndarray, "queries k"]
    scores: Float[np.ndarray, "queries k"]


class ExactIndex:
    """Cosine search over a matrix of unit vectors.

    Args:
        vectors: the gallery, unit length.
        owners: what each row belongs to; of one owner only the best row is a hit. Default: every row by itself.

    Raises:
        ValueError: not one owner a row.
    """

    def __init__(self, vectors: Float[np.ndarray, "rows dim"], owners: Sequence[str] | None = None) -> None:
        self.vectors = vectors
        if owners is None:
            self.owners: Int[np.ndarray, " rows"] = np.arange(len(vectors))
        elif len(owners) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors need as many owners; got {len(owners)}")
        else:
            numbers: dict[str, int] = {}
            self.owners = np.array([numbers.setdefault(owner, len(numbers)) for owner in owners], dtype=np.int64)
        self._count = int(self.owners.max(initial=-1)) + 1
        self._alone = self._count == len(vectors)  # every row has an owner of its own
        self._order = np.argsort(self.owners, kind="stable")
        self._first = np.searchsorted(self.owners[self._order], np.arange(self._count))

    def search(
        self,
        queries: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        among: Bool[np.ndarray, " rows"] | None = None,
    ) -> Ranking:
        """The k best owners of each query. Of equal scores the earlier row comes first.

        Args:
            queries: unit vectors.
            k: hits a query, at least 1.
            among: rows that may be found. Default: all.

        Raises:
            ValueError: k below 1, queries of another width, or a mask of another length than the gallery.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        if queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"queries have {queries.shape[1]} dimensions and the gallery {self.vectors.shape[1]}")
        if among is not None and len(among) != len(self.vectors):
            raise ValueError(f"the mask has {len(among)} rows and the gallery {len(self.vectors)}")
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        if self._count:
            step = max(1, SCORES // len(self.vectors))
            for start in range(0, len(queries), step):
                found = queries[start : start + step] @ self.vectors.T
                if among is not None:
                    np.copyto(found, -np.inf, where=~among)
                self._best(found, rows[start : start + step], scores[start : start + step])
        return Ranking(rows, scores)

    def _best(
        self,
        found: Float[np.ndarray, "queries rows"],
        rows: Int[np.ndarray, "queries k"],
        scores: Float[np.ndarray, "queries k"],
    ) -> None:
        """Write the best rows and their scores; all queries at once, since a loop over them costs more than the sort."""
        k = rows.shape[1]
        # Every row that scores as much as the k-th best owner is a candidate: the k best are among them, and all ties.
        best = found if self._alone else np.maximum.reduceat(found[:, self._order], self._first, axis=1)
        least = -np.inf if k >= self._count else np.partition(best, self._count - k, axis=1)[:, self._count - k, None]
        query, row = np.nonzero((found >= least) & (found > -np.inf))
        score = found[query, row]
        order = np.lexsort((-score, query))  # stable: of equal scores the earlier row stays first
        query, row, score = query[order], row[order], score[order]
        # Of each owner only the first row stays, its best.
        _, first = np.unique(query * self._count + self.owners[row], return_index=True)
        first.sort()
        query, row, score = query[first], row[first], score[first]
        place = np.arange(len(query)) - np.searchsorted(query, query)
        kept = place < k
        rows[query[kept], place[kept]] = row[kept]
        scores[query[kept], place[kept]] = score[kept]
