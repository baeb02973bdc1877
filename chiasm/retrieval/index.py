"""Exact search among unit vectors: every query is compared with every vector.

What a row stands for (a file of an item) is given as `owners`; an item is found once, by its best row. The vectors may
lie in memory or in a memory map on disk, as float32 or float16; they are read in blocks, so memory is bounded.

What is left to others: looking at a part of the gallery only (`retrieval.approximate`), a gallery on disk that changes
(`retrieval.gallery`), what media the vectors come from (`chiasm.verbs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.types import Modality, Scalar

SCORES = 2**24  # scores held at a time, 64 MB: so many queries go through the gallery together
COPIED = 2**22  # numbers copied at a time where few rows may be found, 16 MB
FEW = 8  # where fewer than one row in so many may be found, those are copied out and the others not read
WIDENED = 2**18  # float16 numbers widened at a time, 1 MB: they stay in the processor's cache
OVER = 4  # rows looked at for each owner wanted, at first


@dataclass(frozen=True)
class Span:
    """A moment of a file that was found."""

    start: float  # seconds from the beginning of the file
    end: float
    score: float  # cosine with the query, or the metric that was asked for
    text: str | None  # what is said in it, where it is known


@dataclass(frozen=True)
class Hit:
    """One item that was found, by its best file or a moment of it."""

    id: str
    modality: Modality  # of the file that was found
    score: float  # cosine with the query, or the metric that was asked for
    path: str | None  # of the file; None for a text that stands in a manifest
    text: str | None  # the text itself, or what is said in the sound or in the moment
    start: float | None = None  # seconds; None: the whole file was found
    end: float | None = None
    probability: float | None = None  # of being relevant; None where it was not learned
    moments: tuple[Span, ...] = ()  # of the same file, nearest to the query first
    number: int = 0  # of the file among those of its kind that the item has
    metadata: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows of the gallery, best first, a row a query; -1 (score -inf) where fewer than k owners are left."""

    rows: Int[np.ndarray, "queries k"]
    scores: Float[np.ndarray, "queries k"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows that were found by queries, one a line, flat; what a part of a gallery gives before parts are merged."""

    query: Int[np.ndarray, " found"]
    row: Int[np.ndarray, " found"]
    score: Float[np.ndarray, " found"]
    owner: Int[np.ndarray, " found"]


class ExactIndex:
    """Cosine search over a matrix of unit vectors.

    Args:
        vectors: the gallery, unit length, float32 or float16; also a memory map.
        owners: what each row belongs to, as names or numbers; of one owner only the best row is a hit. Default: every
            row by itself.
        rows: numbers that the rows are known by in a `Ranking`. Default: their positions.

    Raises:
        ValueError: not one owner or number a row.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "rows dim"],
        owners: Sequence[str] | Int[np.ndarray, " owners"] | None = None,
        *,
        rows: Int[np.ndarray, " numbers"] | None = None,
    ) -> None:
        self.vectors = vectors
        self.owners = numbered(owners, len(vectors))
        self.rows = rows
        if rows is not None and len(rows) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors need as many numbers; got {len(rows)}")

    def search(
        self,
        queries: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        among: Bool[np.ndarray, " rows"] | None = None,
    ) -> Ranking:
        """The k best owners of each query. Of equal scores the row of the lower number comes first.

        Args:
            queries: unit vectors.
            k: hits a query, at least 1.
            among: rows, by position, that may be found. Default: all.

        Raises:
            ValueError: k below 1, queries of another width, or a mask of another length than the gallery.
        """
        check(queries, k, among, rows=len(self.vectors), dim=self.vectors.shape[1])
        return ranked(self.candidates(queries, k=k, among=among), queries=len(queries), k=k)

    def candidates(
        self, queries: Float[np.ndarray, "queries dim"], *, k: int, among: Bool[np.ndarray, " rows"] | None
    ) -> Candidates:
        """What `search` ranks: at the most k owners a query, each by its best row."""
        chosen = None if among is None else np.flatnonzero(among)
        if chosen is not None and len(chosen) * FEW >= len(self.vectors):
            chosen = None
        count = len(self.vectors) if chosen is None else len(chosen)
        height = SCORES if chosen is None else min(SCORES, COPIED // max(1, self.vectors.shape[1]))
        height = max(1, min(height, count))
        width = max(1, SCORES // height)
        parts = [NOTHING]
        for first in range(0, len(queries), width):
            asked = queries[first : first + width]
            for start in range(0, count, height):
                if chosen is not None:
                    at = chosen[start : start + height]
                    found = products(asked, self.vectors[at])
                else:
                    at = np.arange(start, min(start + height, count))
                    found = products(asked, self.vectors[start : start + height])
                    if among is not None:
                        np.copyto(found, -np.inf, where=~among[start : start + height])
                part = closest(found, at, k=k, rows=self.rows, owners=self.owners)
                parts.append(replace(part, query=part.query + first))
        return best(parts, k=k)


def numbered(owners: Sequence[str] | Int[np.ndarray, " owners"] | None, rows: int) -> Int[np.ndarray, " owners"] | None:
    """Owners as numbers, equal for equal names.

    Raises:
        ValueError: not one owner a row.
    """
    if owners is None:
        return None
    if len(owners) != rows:
        raise ValueError(f"{rows} vectors need as many owners; got {len(owners)}")
    if isinstance(owners, np.ndarray):
        return owners
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(owner, len(numbers)) for owner in owners], dtype=np.int64)


def check(
    queries: Float[np.ndarray, "queries width"],
    k: int,
    among: Bool[np.ndarray, " mask"] | None,
    *,
    rows: int,
    dim: int,
) -> None:
    """Refuse a search that cannot be answered.

    Raises:
        ValueError: k below 1, queries of another width, or a mask of another length than the gallery.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    if queries.shape[1] != dim:
        raise ValueError(f"queries have {queries.shape[1]} dimensions and the gallery {dim}")
    if among is not None and len(among) != rows:
        raise ValueError(f"the mask has {len(among)} rows and the gallery {rows}")


def products(
    queries: Float[np.ndarray, "queries dim"], vectors: Float[np.ndarray, "rows dim"]
) -> Float[np.ndarray, "queries rows"]:
    """Inner products, in float32. Float16 rows are widened block by block, which takes up to as long again.

    NumPy widens float16 number by number. Moving the bits of all numbers of a block to their places is eight times as
    fast: sign, exponent and fraction keep their order, and the exponent's smaller bias is a factor of 2^112, which goes
    into the query. Numbers are finite and queries within 2^15.
    """
    if vectors.dtype != np.float16:
        found: Float[np.ndarray, "queries rows"] = queries @ vectors.T
        return found
    bits = vectors.view(np.int16)
    scaled = queries * np.float32(2.0**112)
    result = np.empty((len(queries), len(vectors)), np.float32)
    height = max(1, WIDENED // max(1, vectors.shape[1]))
    room = np.empty((min(height, len(vectors)), vectors.shape[1]), np.int32)
    for start in range(0, len(vectors), height):
        part = bits[start : start + height]
        wide = room[: len(part)]
        np.copyto(wide, part)
        np.left_shift(wide, 13, out=wide)
        np.bitwise_and(wide, _SIGN_AND_VALUE, out=wide)  # the copies of the sign that widening brought
        result[:, start : start + height] = scaled @ wide.view(np.float32).T
    return result


_SIGN_AND_VALUE = np.int32(0x8FFFFFFF - 2**32)


def closest(
    found: Float[np.ndarray, "queries part"],
    at: Int[np.ndarray, " part"],
    *,
    k: int,
    rows: Int[np.ndarray, " rows"] | None,
    owners: Int[np.ndarray, " rows"] | None,
) -> Candidates:
    """The k best owners of each query among the rows at some positions; rows of score -inf are not there.

    Args:
        found: scores.
        at: position of each column in the gallery.
        k: owners a query.
        rows: the gallery's numbers. Default: positions.
        owners: the gallery's owners. Default: every row by itself.
    """
    count = found.shape[1]
    wanted = k if owners is None else OVER * k
    while True:
        # Every row that scores as much as the last one wanted is a candidate: all ties are among them.
        least = (
            np.full((len(found), 1), -np.inf)
            if wanted >= count
            else np.partition(found, count - wanted, axis=1)[:, count - wanted, None]
        )
        query, column = np.nonzero((found >= least) & (found > -np.inf))
        position = at[column]
        row = position if rows is None else rows[position]
        part = best([Candidates(query, row, found[query, column], row if owners is None else owners[position])], k=k)
        # The best k owners are found once k owners are: each scores more than any row that was left out.
        if ((np.bincount(part.query, minlength=len(found)) >= k) | (least[:, 0] == -np.inf)).all():
            return part
        wanted *= 8


def best(parts: Sequence[Candidates], *, k: int) -> Candidates:
    """Of each query the k best owners, each by its best row, best first; of equal scores the lower row number."""
    query = np.concatenate([part.query for part in parts])
    row = np.concatenate([part.row for part in parts])
    score = np.concatenate([part.score for part in parts])
    owner = np.concatenate([part.owner for part in parts])
    order = np.lexsort((row, -score, query))
    query, row, score, owner = query[order], row[order], score[order], owner[order]
    # Of each owner only the first row stays, its best.
    number = np.unique(owner, return_inverse=True)[1]
    first = np.sort(np.unique(query * (len(number) + 1) + number, return_index=True)[1])
    first = first[np.arange(len(first)) - np.searchsorted(query[first], query[first]) < k]
    return Candidates(query[first], row[first], score[first], owner[first])


def ranked(found: Candidates, *, queries: int, k: int) -> Ranking:
    """What `best` gave, a row a query."""
    rows = np.full((queries, k), -1, dtype=np.int64)
    scores = np.full((queries, k), -np.inf, dtype=np.float32)
    place = np.arange(len(found.query)) - np.searchsorted(found.query, found.query)
    rows[found.query, place] = found.row
    scores[found.query, place] = found.score
    return Ranking(rows, scores)


NOTHING = Candidates(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float32, np.int64)))
