"""Ways to compare two vectors, each under its true name, and how an inner-product index searches by any of them.

Cosine, dot product, Euclidean (L2) distance and Mahalanobis distance; for the last one the additive statistics of a set
of vectors, the whitening that they give, and a search by it that leaves the vectors as they are. What is compared with
what is left to the callers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.errors import SpaceError
from chiasm.retrieval.index import COPIED, NOTHING, SCORES, Candidates, Ranking, best, check, closest, ranked
from chiasm.vectors import unit_rows

Metric: TypeAlias = Literal["cosine", "dot", "l2", "mahalanobis"]
METRICS: tuple[Metric, ...] = get_args(Metric)

SAMPLE = 100_000  # rows that a covariance is estimated from, at the most
LEAST = 1e-4  # shrinkage, at the least: directions without any spread do not divide by zero


@dataclass(frozen=True, eq=False)
class VectorStatistics:
    """Mean, covariance and its shrinkage, of a set of vectors: additive, and without the vectors themselves."""

    count: int
    total: Float[np.ndarray, " dim"]
    outer: Float[np.ndarray, "dim dim"]
    """Sum of x x'."""
    cubic: Float[np.ndarray, " dim"]
    """Sum of |x|^2 x."""
    quartic: float
    """Sum of |x|^4."""

    @classmethod
    def from_vectors(cls, vectors: Float[np.ndarray, "n dim"]) -> VectorStatistics:
        """Statistics of some vectors, accumulated in float64, block by block.

        Raises:
            SpaceError: no vectors, or values that are not finite.
        """
        if not len(vectors):
            raise SpaceError(f"statistics need at least one vector; got {vectors.shape}")
        dim = vectors.shape[1]
        total, outer, cubic, quartic = np.zeros(dim), np.zeros((dim, dim)), np.zeros(dim), 0.0
        for start in range(0, len(vectors), 4096):
            x = vectors[start : start + 4096].astype(np.float64)
            if not np.isfinite(x).all():
                raise SpaceError(f"statistics need finite numbers; got others among the {len(vectors)} vectors")
            squared = np.einsum("nd,nd->n", x, x)
            total += x.sum(axis=0)
            outer += x.T @ x
            cubic += squared @ x
            quartic += float(squared @ squared)
        return cls(len(vectors), total, outer, cubic, quartic)

    def __add__(self, other: VectorStatistics) -> VectorStatistics:
        if self.total.shape != other.total.shape:
            raise SpaceError(f"statistics of {self.total.size} and of {other.total.size} dimensions cannot be added")
        return VectorStatistics(
            self.count + other.count,
            self.total + other.total,
            self.outer + other.outer,
            self.cubic + other.cubic,
            self.quartic + other.quartic,
        )

    @property
    def mean(self) -> Float[np.ndarray, " dim"]:
        """Mean vector."""
        return self.total / self.count

    @property
    def covariance(self) -> Float[np.ndarray, "dim dim"]:
        """Covariance, divided by the count."""
        return self.outer / self.count - np.outer(self.mean, self.mean)

    @property
    def shrinkage(self) -> float:
        """Share of the scaled identity in the best mixture with the covariance (Ledoit & Wolf 2004), 0 to 1."""
        covariance, mean, n = self.covariance, self.mean, self.count
        dim = len(mean)
        scale = np.trace(covariance) / dim
        spread = float(np.sum(covariance**2)) - dim * scale**2  # |S - scale I|^2
        if spread <= 0:
            return 1.0
        length = float(mean @ mean)
        # Sum of |x - m|^4, multiplied out so that it needs sums over the x only.
        fourth = (
            self.quartic
            + 4 * float(mean @ self.outer @ mean)
            + n * length**2
            - 4 * float(mean @ self.cubic)
            + 2 * length * float(np.trace(self.outer))
            - 4 * length * n * length
        )
        noise = (fourth / n - float(np.sum(covariance**2))) / n
        return float(np.clip(noise / spread, 0, 1))

    def whitening(self, *, shrinkage: float | Literal["ledoit-wolf"] = "ledoit-wolf", power: float = 1.0) -> Whitening:
        """What takes the mean off and makes the shrunk covariance that of noise without direction.

        Args:
            shrinkage: share of the scaled identity, above 0 where the covariance is singular; or Ledoit and Wolf's.
            power: 1 whitens fully; between 0 and 1 the spread of a direction is drawn towards the others' only in part.

        Raises:
            SpaceError: an option outside of 0 to 1, equal vectors, or a singular covariance without shrinkage.
        """
        share = self.shrinkage if shrinkage == "ledoit-wolf" else float(shrinkage)
        if not 0 <= share <= 1 or not 0 <= power <= 1:
            raise SpaceError(f"shrinkage and power must be from 0 to 1; got {shrinkage} and {power}")
        covariance = self.covariance
        scale = np.trace(covariance) / len(covariance)
        if scale <= 1e-12 * max(float(np.trace(self.outer)) / self.count, 1e-30):
            raise SpaceError(f"{self.count} vectors that are all equal have no covariance to whiten by")
        values, basis = np.linalg.eigh((1 - share) * covariance + share * scale * np.eye(len(covariance)))
        if values[0] <= 1e-9 * values[-1]:
            raise SpaceError(
                f"the covariance of {self.count} vectors of {len(covariance)} dimensions is singular: give a shrinkage "
                "above 0, or more vectors"
            )
        matrix = (basis * values ** (-power / 2)) @ basis.T
        return Whitening(self.mean.astype(np.float32), matrix.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Whitening:
    """x -> (x - mean) matrix. With power 1, Euclidean distance after it is Mahalanobis distance before it."""

    mean: Float[np.ndarray, " dim"]
    matrix: Float[np.ndarray, "dim dim"]

    def __call__(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
        """Whitened vectors."""
        return np.asarray((vectors - self.mean) @ self.matrix)


@dataclass(frozen=True, eq=False)
class InnerProduct:
    """A metric as an inner product, so that every index of inner products searches by it, exactly.

    Cosine is the inner product of unit vectors. L2 gets one more dimension: with gallery rows [x, -|x|^2 / 2] and
    queries [q, 1] the product is (|q|^2 - |q - x|^2) / 2, which falls as the distance grows. Mahalanobis is L2 after
    whitening. `scores` turns what the index returns back into the metric.

    Attributes:
        metric: which one.
        whitening: of Mahalanobis; None for the others.
    """

    metric: Metric
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise SpaceError(f"there is no metric {self.metric!r}. There are {', '.join(METRICS)}")
        if (self.metric == "mahalanobis") != (self.whitening is not None):
            raise SpaceError(
                "Mahalanobis distance needs a whitening (VectorStatistics.whitening), and no other metric takes one; "
                f"got {self.metric} with {'none' if self.whitening is None else 'one'}"
            )

    def gallery(self, vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows width"]:
        """Rows for the index."""
        moved = self._moved(vectors)
        if self.metric in {"cosine", "dot"}:
            return moved
        half = np.einsum("nd,nd->n", moved, moved)[:, None] / 2
        return np.hstack([moved, -half])

    def queries(self, vectors: Float[np.ndarray, "queries dim"]) -> Float[np.ndarray, "queries width"]:
        """Queries for the index."""
        moved = self._moved(vectors)
        if self.metric in {"cosine", "dot"}:
            return moved
        return np.hstack([moved, np.ones((len(moved), 1), moved.dtype)])

    def scores(
        self, products: Float[np.ndarray, "queries k"], vectors: Float[np.ndarray, "queries dim"]
    ) -> Float[np.ndarray, "queries k"]:
        """The metric of inner products with the rows found, higher is nearer: distances come with a minus sign.

        Args:
            products: as the index gave them; -inf, where it found nothing, stays.
            vectors: the queries as they were before `queries`.
        """
        if self.metric in {"cosine", "dot"}:
            return products
        moved = self._moved(vectors)
        squared = np.einsum("nd,nd->n", moved, moved)[:, None] - 2 * products
        return np.asarray(0.0 - np.sqrt(np.maximum(squared, 0)))

    def compare(
        self, queries: Float[np.ndarray, "queries dim"], gallery: Float[np.ndarray, "rows dim"]
    ) -> Float[np.ndarray, "queries rows"]:
        """The metric of every query with every row, higher is nearer."""
        return self.scores(self.queries(queries) @ self.gallery(gallery).T, queries)

    def _moved(self, vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
        if self.whitening is not None:
            return self.whitening(vectors)
        return unit_rows(vectors) if self.metric == "cosine" else vectors


class MahalanobisIndex:
    """Exact search by Mahalanobis distance among vectors that stay where they are, in memory or in a map of a file.

    With a = (q - m)W and b = (x - m)W, -|a - b|^2 / 2 is x'Wa - m'Wa - |b|^2 / 2 - |a|^2 / 2. The third term belongs to
    the row alone and is computed once, with the whitening, which takes dim^2 multiplications a row. From then on a query
    costs what it costs by cosine, one product with every row, and a number a row is all that is kept. Vectors are read in
    blocks. Rows of zeros, in which an encoder found nothing, have no place and are never found.

    Args:
        vectors: among them the gallery.
        owners: what each row of the gallery belongs to; of one owner only the nearest row is found. Default: every row
            by itself.
        rows: which of the vectors are the gallery, rising. Default: all.

    Attributes:
        whitening: by the mean and the covariance of the gallery, drawn 100,000 rows at the most, shrunk as Ledoit and Wolf
            (2004) have it.

    Raises:
        SpaceError: fewer than two different rows.
    """

    def __init__(
        self,
        vectors: Float[np.ndarray, "all dim"],
        owners: Int[np.ndarray, " rows"] | None = None,
        *,
        rows: Int[np.ndarray, " rows"] | None = None,
    ) -> None:
        self._vectors = vectors
        self._rows = rows
        self._owners = owners
        count = len(vectors) if rows is None else len(rows)
        self._height = max(1, COPIED // max(1, vectors.shape[1]))
        self._filled = np.zeros(count, dtype=bool)
        for at in self._blocks(np.arange(count)):
            self._filled[at] = self._taken(at).any(axis=1)
        filled = np.flatnonzero(self._filled)
        if not len(filled):
            raise SpaceError("there are no vectors to measure a Mahalanobis distance among")
        drawn = filled[np.sort(np.random.default_rng(0).permutation(len(filled))[:SAMPLE])]
        first, *others = (VectorStatistics.from_vectors(self._taken(at)) for at in self._blocks(drawn))
        statistics = sum(others, start=first)
        self.whitening = statistics.whitening(shrinkage=max(LEAST, statistics.shrinkage))
        self._half = np.full(count, np.inf, np.float32)
        for at in self._blocks(filled):
            moved = self.whitening(self._taken(at))
            self._half[at] = np.einsum("nd,nd->n", moved, moved) / 2

    def search(
        self, queries: Float[np.ndarray, "queries dim"], *, k: int, among: Bool[np.ndarray, " rows"] | None = None
    ) -> Ranking:
        """As `ExactIndex.search`; scores are distances with a minus sign.

        Raises:
            ValueError: k below 1, queries of another width, or a mask of another length than the gallery.
        """
        check(queries, k, among, rows=len(self._half), dim=self._vectors.shape[1])
        may = np.flatnonzero(self._filled if among is None else self._filled & among)
        width = max(1, SCORES // self._height)
        parts = [NOTHING]
        for first in range(0, len(queries), width):
            moved = self.whitening(queries[first : first + width])
            turned = moved @ self.whitening.matrix
            behind = (turned @ self.whitening.mean + np.einsum("nd,nd->n", moved, moved) / 2)[:, None]
            for at in self._blocks(may):
                found = turned @ self._taken(at).T - behind - self._half[at]
                near = closest(found, at, k=k, rows=None, owners=self._owners)
                parts.append(Candidates(near.query + first, near.row, near.score, near.owner))
        ranking = ranked(best(parts, k=k), queries=len(queries), k=k)
        return Ranking(ranking.rows, 0.0 - np.sqrt(np.maximum(-2 * ranking.scores, 0)))

    def _blocks(self, positions: Int[np.ndarray, " some"]) -> Iterator[Int[np.ndarray, " part"]]:
        for start in range(0, len(positions), self._height):
            yield positions[start : start + self._height]

    def _taken(self, at: Int[np.ndarray, " part"]) -> Float[np.ndarray, "part dim"]:
        place = at if self._rows is None else self._rows[at]
        one_run = len(place) > 0 and place[-1] - place[0] == len(place) - 1  # rising, so nothing need be copied
        taken: Float[np.ndarray, "part dim"] = (
            self._vectors[place[0] : place[-1] + 1] if one_run else self._vectors[place]
        )
        return taken
