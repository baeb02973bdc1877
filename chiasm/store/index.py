"""Nearest rows of a Lance table of unit vectors, among those that meet an SQL condition.

A table without an index of its vectors is small: it is held in memory and every vector is compared (`ExactIndex`). With
one, an inverted file of scalar-quantised vectors, the vectors stay on disk (`LanceIndex`): it looks at more partitions the
fewer rows a condition leaves, and where it leaves few, all of them are compared. `index_of` chooses. Both see one version
of the table, whatever is written to it meanwhile.

What rows mean is left to the callers, making the table and its index to `chiasm.store.gallery`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TypeAlias

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int

from chiasm.store.tables import VECTOR, matrix_of

SCORE = "_score"  # of results: the cosine with the query

REMEMBERED = 100  # conditions
PROBES = 20  # partitions that are looked at without a condition: recall@10 of 0.998 among a million
REFINE = 3  # times k rows are compared by their full vectors
UNSELECTIVE = 4  # a condition that leaves more than a row in four is applied to the nearest rows, not before
# The fewer rows a condition leaves, the wider they lie. Where it has nothing to do with the vectors, recall@10 is 1.00 at
# PROBES for a row in two hundred that is left, and 0.90 for one in a thousand; where it has, they may lie far from the query.
SPREAD = 0.75
FEW = 2  # rows that are compared one by one in the time that the codes of a partition take
ROWS_A_PARTITION = 1000


class ExactIndex:
    """Compares a query with every vector of a table, which is held in memory.

    Of equal scores the row that was written first comes first.

    Args:
        table: one version of it, with unit vectors in the column `VECTOR`.

    Example:
        >>> import tempfile
        >>> vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0, 0, 1], pa.float32()), 2)
        >>> rows = pa.table({"id": ["east", "north"], "_vector": vectors})
        >>> index = ExactIndex(lance.write_dataset(rows, f"{tempfile.mkdtemp()}/rows.lance"))
        >>> index.search(np.array([0, 1], np.float32), k=1, columns=["id"]).to_pylist()
        [{'id': 'north', '_score': 1.0}]
    """

    def __init__(self, table: lance.LanceDataset) -> None:
        self._table = table
        self.size = int(table.count_rows())
        self._places: dict[str, Int[np.ndarray, " rows"]] = {}

    @cached_property
    def _memory(self) -> tuple[pa.Table, Float[np.ndarray, "rows dim"], Int[np.ndarray, " rows"]]:
        """Return the rows, their vectors, and their ascending addresses in the table."""
        rows = self._table.to_table(with_row_address=True).combine_chunks()
        return rows, matrix_of(rows[VECTOR]), rows["_rowaddr"].to_numpy().astype(np.int64)

    def count(self, where: str) -> int:
        """Return the number of rows that meet an SQL condition."""
        return len(self._that_meet(where))

    def warm(self) -> None:
        """Read the vectors, for an index that will be asked often."""
        _ = self._memory

    def search(
        self, query: Float[np.ndarray, " dim"], *, k: int, columns: Sequence[str], where: str | None = None
    ) -> pa.Table:
        """Return the k nearest rows, nearest first, with some columns and their cosine as `SCORE`.

        Args:
            query: unit vector.
            k: rows at the most, at least 1.
            columns: of the table.
            where: SQL condition on the table's columns. Default: all rows.
        """
        rows, vectors, _ = self._memory
        if where is None:
            scores = vectors @ query
            places = order = nearest(scores, k)
        else:
            may = self._that_meet(where)
            scores = vectors[may] @ query
            order = nearest(scores, k)
            places = may[order]
        # Of lists, since Arrow imports numpy.ma for arrays: a twentieth of the time of a search from the command line.
        taken = rows.select(list(columns)).take(pa.array(places.tolist(), pa.int64()))
        return taken.append_column(SCORE, pa.array(scores[order].tolist(), pa.float32()))

    def _that_meet(self, where: str) -> Int[np.ndarray, " rows"]:
        """Places of the rows that meet a condition, remembered: pages and users ask for the same ones again and again."""
        if where not in self._places:
            if len(self._places) >= REMEMBERED:
                self._places = {}
            rows = self._table.to_table(columns=[], filter=where, with_row_address=True)["_rowaddr"]
            self._places[where] = np.searchsorted(self._memory[2], np.sort(rows.to_numpy().astype(np.int64)))
        return self._places[where]


class LanceIndex:
    """Looks for the nearest vectors in those partitions of Lance's index that are nearest to the query.

    Args:
        table: one version of it, with an index of the column `VECTOR`.
    """

    def __init__(self, table: lance.LanceDataset) -> None:
        self._table = table
        self.size = int(table.count_rows())
        self._counts: dict[str, int] = {}

    def count(self, where: str) -> int:
        """See `ExactIndex.count`. Remembered, too."""
        if where not in self._counts:
            if len(self._counts) >= REMEMBERED:
                self._counts = {}
            self._counts[where] = int(self._table.count_rows(filter=where))
        return self._counts[where]

    def search(
        self, query: Float[np.ndarray, " dim"], *, k: int, columns: Sequence[str], where: str | None = None
    ) -> pa.Table:
        """See `ExactIndex.search`."""
        if where is None:
            return self._probed(query, k, columns, None, PROBES)
        count = self.count(where)
        probes = math.ceil(PROBES * (self.size / max(1, count)) ** SPREAD)
        if count <= max(k, FEW * min(probes, self.size / ROWS_A_PARTITION)):
            return self._all(query, k, columns, where)
        if count * UNSELECTIVE >= self.size:
            # It takes Lance 15 ms to list half a million rows that a condition leaves, and 2 to pass over as many as it takes.
            wider = math.ceil(1.5 * k * self.size / count)
            rows = self._probed(query, wider, columns, where, PROBES, prefilter=False)
            if len(rows) >= k:
                return rows.slice(0, k)
        return self._probed(query, k, columns, where, probes)

    def _all(self, query: Float[np.ndarray, " dim"], k: int, columns: Sequence[str], where: str) -> pa.Table:
        """Compare all rows that meet a condition; read the columns of the nearest alone, which takes as long as their vectors."""
        rows = self._table.to_table(columns=[VECTOR], filter=where, with_row_id=True)
        scores = matrix_of(rows[VECTOR]) @ query
        order = nearest(scores, k)
        ids = rows["_rowid"].take(order)
        condition = f"_rowid IN ({', '.join(map(str, ids.to_pylist()))})" if len(ids) else "false"
        table = self._table.to_table(columns=list(columns), filter=condition, with_row_id=True)
        table = table.take(pc.index_in(ids, value_set=table["_rowid"])).select(list(columns))
        return table.append_column(SCORE, pa.array(scores[order], pa.float32()))

    def warm(self) -> None:
        """Read the codes of all partitions, for an index that will be asked often."""
        for index in self._table.describe_indices():
            if index.field_names == [VECTOR]:
                self._table.prewarm_index(index.name)

    def _probed(
        self,
        query: Float[np.ndarray, " dim"],
        k: int,
        columns: Sequence[str],
        where: str | None,
        probes: int,
        *,
        prefilter: bool = True,
    ) -> pa.Table:
        rows = self._table.to_table(
            columns=[*columns, "_distance"],
            filter=where,
            prefilter=prefilter,
            nearest={
                "column": VECTOR,
                "q": query.astype(np.float32),
                "k": k,
                "metric": "cosine",
                "nprobes": max(probes, k // 100),
                "refine_factor": REFINE if k < 50 else 1,
            },
        )
        score = 1 - rows["_distance"].to_numpy()
        return rows.select(list(columns)).append_column(SCORE, pa.array(score, pa.float32()))


VectorIndex: TypeAlias = ExactIndex | LanceIndex


def index_of(table: lance.LanceDataset) -> VectorIndex:
    """Return `LanceIndex` for a version of a table that has an index of its vectors, else `ExactIndex`."""
    indexed = any(index.field_names == [VECTOR] for index in table.describe_indices())
    return LanceIndex(table) if indexed else ExactIndex(table)


def nearest(scores: Float[np.ndarray, " rows"], k: int) -> Int[np.ndarray, " k"]:
    """Return the places of the k highest scores, highest first; of equal scores the lower place first.

    Example:
        >>> nearest(np.array([0.1, 0.7, 0.7, 0.3]), 3).tolist()
        [1, 2, 3]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1; got {k}")
    may = np.arange(len(scores))
    if k < len(scores):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        may = np.flatnonzero(scores >= least)  # with all rows that tie with the last one
    order: Int[np.ndarray, " k"] = may[np.argsort(-scores[may], kind="stable")[:k]]
    return order
