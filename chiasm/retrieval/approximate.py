"""Approximate search: the gallery in lists around centres, of which a query reads the nearest few (an inverted file).

The vectors of a list lie together, so that a list is one matrix product over memory, or over a memory map; what a
query reads is compared exactly, and nothing has to be scored again. How many lists a query reads is found when the
lists are made: so many that a stated share of true neighbours lies in them.

The inverted file is that of Sivic and Zisserman (2003) and of Jégou et al. (2011) without its codes; centres are learned
by spherical k-means (Dhillon and Modha 2001) on a sample. What is left to others: galleries that change
(`retrieval.gallery`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.retrieval.index import (
    NOTHING,
    SCORES,
    Candidates,
    Ranking,
    best,
    check,
    closest,
    numbered,
    products,
    ranked,
)

RECALL = 0.98  # of the ten nearest of a query, the share that lies in the lists that it reads
LEAST_PROBES = 8  # lists read at least: queries may lie further off than the vectors that the number was found with
LISTS = 2  # times the square root of the number of rows
LEARNED_FROM = 48  # rows a list that the centres are learned from
ROUNDS = 8  # of k-means; the centres hardly move after
ASKED = 256  # rows taken as queries to find how many lists to read
NEIGHBOURS = 10
OVER = 16  # rows that may be found and are looked at, for each hit wanted
SCATTERED = 2  # a row read by itself costs as much as so many read in order

Take: TypeAlias = "Callable[[Int[np.ndarray, ' some']], Float[np.ndarray, 'some dim']]"
"""Gives the vectors, float32, at some positions of a gallery."""


@dataclass(frozen=True, eq=False)
class Lists:
    """How a gallery is divided: row `starts[i]` up to `starts[i + 1]` are nearest to centre i.

    Raises:
        ValueError: the numbers do not describe a division.
    """

    centres: Float[np.ndarray, "lists dim"]
    starts: Int[np.ndarray, " bounds"]
    probes: int  # lists that a query reads
    recall: float  # measured when the lists were made, with that many probes

    def __post_init__(self) -> None:
        count = len(self.centres)
        if len(self.starts) != count + 1 or not count or self.starts[0] != 0 or (np.diff(self.starts) < 0).any():
            raise ValueError(f"{count} lists need {count + 1} rising bounds from 0; got {len(self.starts)}")
        if not 1 <= self.probes <= count:
            raise ValueError(f"of {count} lists a query reads 1 to {count}; got {self.probes}")

    @property
    def rows(self) -> int:
        """Rows of the gallery."""
        return int(self.starts[-1])


class PartitionedIndex:
    """Cosine search that reads the lists nearest to the query. Make one with `partitioned`.

    Hits are exact among the rows that were read. A search finds k owners wherever there are k: it reads on until it
    has them, in the end everything.

    Args:
        vectors: the gallery, list by list, unit length, float32 or float16; also a memory map.
        lists: how it is divided.
        owners: as of `ExactIndex`.
        rows: numbers that the rows are known by in a `Ranking`. Default: their positions.

    Raises:
        ValueError: the parts do not fit each other.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "rows dim"],
        lists: Lists,
        owners: Sequence[str] | Int[np.ndarray, " owners"] | None = None,
        *,
        rows: Int[np.ndarray, " numbers"] | None = None,
    ) -> None:
        if vectors.shape != (lists.rows, lists.centres.shape[1]):
            raise ValueError(
                f"the lists divide {lists.rows} vectors of {lists.centres.shape[1]} dimensions; got "
                f"{vectors.shape[0]} of {vectors.shape[1]}"
            )
        if rows is not None and len(rows) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors need as many numbers; got {len(rows)}")
        self.vectors = vectors
        self.lists = lists
        self.owners = numbered(owners, len(vectors))
        self.rows = rows

    def search(
        self,
        queries: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        among: Bool[np.ndarray, " rows"] | None = None,
        probes: int | None = None,
    ) -> Ranking:
        """The k best owners of each query among the rows that are read.

        Args:
            queries: unit vectors.
            k: hits a query, at least 1.
            among: rows, by position, that may be found. Default: all.
            probes: lists to read at least. Default: as found when they were made. As many as there are: exact.

        Raises:
            ValueError: as of `ExactIndex.search`, or fewer than one probe.
        """
        check(queries, k, among, rows=len(self.vectors), dim=self.vectors.shape[1])
        if probes is not None and probes < 1:
            raise ValueError(f"a query reads at least 1 list; got {probes}")
        return ranked(self.candidates(queries, k=k, among=among, probes=probes), queries=len(queries), k=k)

    def candidates(
        self,
        queries: Float[np.ndarray, "queries dim"],
        *,
        k: int,
        among: Bool[np.ndarray, " rows"] | None,
        probes: int | None = None,
    ) -> Candidates:
        """What `search` ranks: at the most k owners a query, each by its best row."""
        count = len(self.lists.centres)
        total = len(self.vectors) if among is None else int(np.count_nonzero(among))
        if not total:
            return NOTHING
        # Where few rows may be found, or many are wanted, a query's neighbours lie in more lists.
        wanted = -(-(self.lists.probes if probes is None else probes) * len(self.vectors) // total)
        wanted = min(count, max(wanted, -(-OVER * k * count // total)))
        if among is not None and total * SCATTERED * count < wanted * len(self.vectors):
            return self._each(queries, np.flatnonzero(among), k)
        nearness = queries @ self.lists.centres.T
        parts = [NOTHING]
        for number, query in enumerate(queries):
            order = np.argsort(-nearness[number], kind="stable")
            reading = wanted
            while True:
                part = self._read(query[None], np.sort(order[:reading]), k, among)
                if len(part.query) == k or reading >= count:
                    break
                reading *= 4
            parts.append(Candidates(part.query + number, part.row, part.score, part.owner))
        return best(parts, k=k)

    def _read(
        self,
        query: Float[np.ndarray, "1 dim"],
        chosen: Int[np.ndarray, " lists"],
        k: int,
        among: Bool[np.ndarray, " rows"] | None,
    ) -> Candidates:
        starts = self.lists.starts
        bounds = [(int(starts[i]), int(starts[i + 1])) for i in chosen]
        parts = [NOTHING]
        for group in _groups(bounds, SCORES):
            at = np.concatenate([np.arange(start, stop) for start, stop in group])
            found = np.concatenate([products(query, self.vectors[start:stop]) for start, stop in group], axis=1)
            if among is not None:
                np.copyto(found, -np.inf, where=~among[at])
            parts.append(closest(found, at, k=k, rows=self.rows, owners=self.owners))
        return parts[1] if len(parts) == 2 else best(parts, k=k)

    def _each(self, queries: Float[np.ndarray, "queries dim"], at: Int[np.ndarray, " some"], k: int) -> Candidates:
        """Exactly, among few rows."""
        parts = [NOTHING]
        height = max(1, SCORES // self.vectors.shape[1])
        for start in range(0, len(at), height):
            chosen = at[start : start + height]
            vectors = self.vectors[chosen]
            width = max(1, SCORES // len(chosen))
            for first in range(0, len(queries), width):
                found = products(queries[first : first + width], vectors)
                part = closest(found, chosen, k=k, rows=self.rows, owners=self.owners)
                parts.append(Candidates(part.query + first, part.row, part.score, part.owner))
        return best(parts, k=k)


def _groups(bounds: Sequence[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    """Spans in groups of at most `size` rows, so that a search that reads everything holds a bounded part at a time."""
    groups: list[list[tuple[int, int]]] = [[]]
    room = size
    for start, stop in bounds:
        for first in range(start, stop, size):
            last = min(stop, first + size)
            if last - first > room:
                groups.append([])
                room = size
            groups[-1].append((first, last))
            room -= last - first
    return [group for group in groups if group]


def partitioned(
    vectors: Float[np.ndarray, "rows dim"],
    owners: Sequence[str] | Int[np.ndarray, " owners"] | None = None,
    *,
    queries: Float[np.ndarray, "queries dim"] | None = None,
    recall: float = RECALL,
    count: int | None = None,
    seed: int = 0,
) -> PartitionedIndex:
    """An index in memory over a copy of the vectors. Rows are known by their positions in `vectors`.

    Args:
        vectors: at least one, unit length.
        owners: as of `ExactIndex`.
        queries: as of `divide`.
        recall: as of `divide`.
        count: as of `divide`.
        seed: of what is sampled.

    Raises:
        ValueError: no vectors, or as of `divide`.
    """
    numbers = numbered(owners, len(vectors))
    lists, order = divide(
        lambda at: vectors[at].astype(np.float32, copy=False),
        len(vectors),
        queries=queries,
        recall=recall,
        count=count,
        seed=seed,
    )
    return PartitionedIndex(vectors[order], lists, None if numbers is None else numbers[order], rows=order)


def divide(
    take: Take,
    rows: int,
    *,
    queries: Float[np.ndarray, "queries dim"] | None = None,
    recall: float = RECALL,
    count: int | None = None,
    seed: int = 0,
) -> tuple[Lists, Int[np.ndarray, " rows"]]:
    """Divide a gallery into lists. Its vectors are read once in order, in blocks, and a sample of them before.

    Args:
        take: gives the vectors at some positions.
        rows: of the gallery, at least one.
        queries: vectors like those that will be asked, to find how many lists to read. Default: rows of the gallery,
            each without itself; queries of another kind (words among pictures) lie further off and need more lists.
        recall: share of the ten nearest that the lists which a query reads must hold, above 0 up to 1.
        count: lists. Default: twice the square root of the number of rows.
        seed: of what is sampled.

    Returns:
        The lists, and the positions of the gallery's rows list by list; in a list they rise.

    Raises:
        ValueError: no rows, no lists, or a recall that is not a share.
    """
    if rows < 1:
        raise ValueError("a gallery without vectors cannot be divided into lists")
    if not 0 < recall <= 1:
        raise ValueError(f"recall is a share above 0 up to 1; got {recall}")
    if count is None:
        count = max(1, min(rows, round(LISTS * rows**0.5)))
    if not 1 <= count <= rows:
        raise ValueError(f"{rows} vectors can be in 1 to {rows} lists; got {count}")
    rng = np.random.default_rng(seed)
    sample = take(np.sort(rng.choice(rows, min(rows, LEARNED_FROM * count), replace=False)))
    centres = _centres(sample, count, rng)
    asked = None
    if queries is None:
        asked = np.sort(rng.choice(rows, min(rows, ASKED), replace=False))
        queries = take(asked)

    member = np.empty(rows, np.int64)
    height = max(1, min(SCORES // max(count, len(queries)), SCORES // sample.shape[1]))
    near = NOTHING
    for start in range(0, rows, height):
        at = np.arange(start, min(start + height, rows))
        block = take(at)
        member[at] = (block @ centres.T).argmax(axis=1)
        near = best([near, closest(queries @ block.T, at, k=NEIGHBOURS + 1, rows=None, owners=None)], k=NEIGHBOURS + 1)
    probes, reached = _probes(queries, asked, near, member, centres, recall)
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(count + 1))
    return Lists(centres, starts, probes, reached), order


def _centres(
    sample: Float[np.ndarray, "sample dim"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count dim"]:
    """Spherical k-means: a centre is the mean direction of the rows nearest to it."""
    centres = sample[rng.choice(len(sample), count, replace=False)]
    height = max(1, SCORES // 4 // count)
    for _ in range(ROUNDS):
        sums = np.zeros_like(centres)
        for start in range(0, len(sample), height):
            block = sample[start : start + height]
            member = (block @ centres.T).argmax(axis=1)
            order = np.argsort(member, kind="stable")
            names, first = np.unique(member[order], return_index=True)
            sums[names] += np.add.reduceat(block[order], first, axis=0)
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        lost = length[:, 0] < 1e-6  # nobody's nearest, or rows that cancel out
        centres = sums / np.maximum(length, 1e-6)
        centres[lost] = sample[rng.choice(len(sample), int(lost.sum()))]
    return centres


def _probes(
    queries: Float[np.ndarray, "queries dim"],
    asked: Int[np.ndarray, " queries"] | None,
    near: Candidates,
    member: Int[np.ndarray, " rows"],
    centres: Float[np.ndarray, "lists dim"],
    recall: float,
) -> tuple[int, float]:
    """Lists to read so that a share of neighbours is in them, and the share that is.

    A neighbour is found when its list is read, so the place of its list in the order of a query says all.
    """
    other = np.ones(len(near.query), bool) if asked is None else near.row != asked[near.query]
    query, row = near.query[other], near.row[other]
    kept = np.arange(len(query)) - np.searchsorted(query, query) < NEIGHBOURS
    query, row = query[kept], row[kept]
    if not len(query):
        return len(centres), 1.0
    places = np.argsort(np.argsort(-(queries @ centres.T), axis=1, kind="stable"), axis=1)
    needed = np.sort(places[query, member[row]]) + 1
    probes = int(needed[int(np.ceil(recall * len(needed))) - 1])
    probes = min(len(centres), max(LEAST_PROBES, probes))
    return probes, float((needed <= probes).mean())
