"""Pairs of features and anchor vectors, and their additive sums: what every alignment learns from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import SpaceError
from chiasm.saved import DAMAGE, read_described, write_arrays
from chiasm.splits import merge_groups
from chiasm.types import Modality

FORMAT = "chiasm-pair-statistics"
FORMAT_VERSION = 2

_BLOCK = 4096  # pairs whose float64 copies are held at a time


@dataclass(frozen=True, eq=False)
class PairArrays:
    """Pairs of one moved modality with its anchor.

    Attributes:
        X: features of the moved modality.
        Y: their anchor vectors, unit length.
        start: where the space puts the same items without a learned map, unit length.
        groups: pairs of one group (e.g. the same caption) are left out together and are no negatives of each other.
            None: every pair is a group of its own.

    Raises:
        SpaceError: no pairs, shapes that do not fit, or values that are not finite.

    Example:
        >>> pairs = PairArrays(np.eye(3), np.eye(3), np.eye(3), np.array(["a", "b", "a"]))
        >>> pairs.codes.tolist(), pairs.statistics.count
        ([0, 1, 0], 3)
    """

    X: Float[np.ndarray, "pairs x"]
    Y: Float[np.ndarray, "pairs y"]
    start: Float[np.ndarray, "pairs y"]
    groups: Shaped[np.ndarray, " pairs"] | None = None

    def __post_init__(self) -> None:
        _check_pairs(self.X, self.Y)
        if self.start.shape != self.Y.shape or not np.isfinite(self.start).all():
            raise SpaceError(
                f"the start must be finite and of the shape of the anchors, {self.Y.shape}; got {self.start.shape} with "
                f"{int((~np.isfinite(self.start)).sum())} values that are not finite numbers"
            )
        if self.groups is not None and self.groups.shape != (len(self.X),):
            raise SpaceError(
                f"groups must be one value for each of the {len(self.X)} pairs; got shape {self.groups.shape}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of features and of anchor dimensions."""
        return self.X.shape[1], self.Y.shape[1]

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.X)

    @cached_property
    def statistics(self) -> PairStatistics:
        """Their sums, computed once."""
        return PairStatistics.from_pairs(self.X, self.Y)

    @property
    def moments(self) -> Moments:
        """Their means and covariances."""
        return self.statistics.moments

    @cached_property
    def mean_x(self) -> Float64[np.ndarray, " x"]:
        """Mean of the features."""
        return np.asarray(self.X.mean(axis=0, dtype=np.float64))

    @cached_property
    def mean_y(self) -> Float64[np.ndarray, " y"]:
        """Mean of the anchors."""
        return np.asarray(self.Y.mean(axis=0, dtype=np.float64))

    @cached_property
    def scale(self) -> float:
        """Mean variance of a feature, the unit of regularisation strengths; 0 if it is nothing but rounding."""
        return _significant(np.square(self.X - self.mean_x).mean(), np.square(self.X, dtype=np.float64).mean())

    @cached_property
    def spectrum(self) -> Spectrum:
        """As of `Moments`; where pairs are few, without the directions in which they do not vary."""
        if len(self.X) >= self.X.shape[1]:
            return self.moments.spectrum
        centred = self.X - self.mean_x
        values, vectors = np.linalg.eigh(centred @ centred.T / len(centred))
        varies = values > len(centred) * np.finfo(np.float64).eps * values[-1]
        values, vectors = values[varies], vectors[:, varies]
        basis = centred.T @ (vectors / np.sqrt(values * len(centred)))
        return values, basis, np.sqrt(values / len(centred))[:, None] * (vectors.T @ (self.Y - self.mean_y))

    @cached_property
    def codes(self) -> Int[np.ndarray, " pairs"]:
        """Return the group of each pair by number."""
        if self.groups is None:
            return np.arange(len(self.X))
        return np.asarray(np.unique(self.groups, return_inverse=True)[1])

    def take(self, rows: Shaped[np.ndarray, " _rows"]) -> PairArrays:
        """Return some of the pairs, by row numbers or a mask."""
        groups = None if self.groups is None else self.groups[rows]
        return PairArrays(self.X[rows], self.Y[rows], self.start[rows], groups)


@dataclass(frozen=True)
class Pairs:
    """Pairs of files of the same item in a start space, and which files they are."""

    moved: Modality  # the modality that a map is learned for
    anchor: Modality
    items: tuple[str, ...]
    features: Float[np.ndarray, "pairs features"]
    start: Float[np.ndarray, "pairs dim"]
    anchors: Float[np.ndarray, "pairs dim"]
    embeddings: Float[np.ndarray, "pairs embedding"]  # of the moved modality, as the encoder gave them
    moved_hashes: tuple[str, ...]
    anchor_hashes: tuple[str, ...]
    moved_slots: tuple[str, ...]  # "image/0": the item's first image
    anchor_slots: tuple[str, ...]

    @cached_property
    def groups(self) -> Int[np.ndarray, " pairs"]:
        """Groups of pairs that share an item or a file: they never stand on both sides of a split."""
        return merge_groups(self.moved_hashes, self.anchor_hashes, self.items)

    @cached_property
    def arrays(self) -> PairArrays:
        """Return the pairs in the form that an alignment takes."""
        return PairArrays(self.features, self.anchors, self.start, self.groups)

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Return the pairs of several collections, of the same modalities; items of two collections are never the same."""
        values: dict[str, Any] = {}
        for part in fields(cls):
            every = [getattr(one, part.name) for one in parts]
            if isinstance(every[0], np.ndarray):
                values[part.name] = np.concatenate(every)
            else:
                values[part.name] = tuple(value for own in every for value in own)
        items = tuple(f"{number}/{item}" for number, one in enumerate(parts) for item in one.items)
        return cls(**{**values, "moved": parts[0].moved, "anchor": parts[0].anchor, "items": items})

    def take(self, rows: Int[np.ndarray, " rows"]) -> Pairs:
        """Return some of the pairs."""
        taken: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            taken[part.name] = tuple(value[row] for row in rows) if isinstance(value, tuple) else value
            if isinstance(value, np.ndarray):
                taken[part.name] = value[rows]
        return Pairs(**taken)


# --------------------------------------------------------------------------------------------------------------- sums


@dataclass(frozen=True, eq=False)
class PairStatistics:
    """Counts, sums and products of pairs: all that ridge, Procrustes and CCA need of them.

    Statistics of several sets of pairs add up, so a source can be used, and shared, without its data.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X, Y = rng.standard_normal((2, 8, 3))
        >>> halves = [PairStatistics.from_pairs(X[rows], Y[rows]) for rows in (slice(0, 4), slice(4, 8))]
        >>> bool(np.allclose((halves[0] + halves[1]).xy, X.T @ Y))
        True
    """

    count: int
    sum_x: Float[np.ndarray, " x"]
    sum_y: Float[np.ndarray, " y"]
    xx: Float[np.ndarray, "x x"]
    xy: Float[np.ndarray, "x y"]
    yy: Float[np.ndarray, "y y"]

    @classmethod
    def from_pairs(cls, X: Float[np.ndarray, "pairs x"], Y: Float[np.ndarray, "pairs y"]) -> PairStatistics:
        """Sum up pairs in float64, block by block.

        Raises:
            SpaceError: no pairs, not as many features as anchors, or values that are not finite.
        """
        _check_pairs(X, Y)
        x, y = X.shape[1], Y.shape[1]
        xx, xy, yy = np.zeros((x, x)), np.zeros((x, y)), np.zeros((y, y))
        for first in range(0, len(X), _BLOCK):
            part_x, part_y = (part[first : first + _BLOCK].astype(np.float64) for part in (X, Y))
            xx += part_x.T @ part_x
            xy += part_x.T @ part_y
            yy += part_y.T @ part_y
        return cls(len(X), X.sum(axis=0, dtype=np.float64), Y.sum(axis=0, dtype=np.float64), xx, xy, yy)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of features and of anchor dimensions."""
        return len(self.sum_x), len(self.sum_y)

    @property
    def scale(self) -> float:
        """Mean variance of a feature; 0 if it is nothing but rounding."""
        return self.moments.scale

    def __add__(self, other: PairStatistics) -> PairStatistics:
        if self.shape != other.shape:
            raise SpaceError(
                f"statistics of {self.shape[0]} x {self.shape[1]} features cannot be added to statistics of "
                f"{other.shape[0]} x {other.shape[1]}: both must come from the same encoders"
            )
        return PairStatistics(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))

    @cached_property
    def moments(self) -> Moments:
        """Means and covariances, computed once."""
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        return Moments(
            mean_x,
            mean_y,
            self.xx / self.count - np.outer(mean_x, mean_x),
            self.xy / self.count - np.outer(mean_x, mean_y),
            self.yy / self.count - np.outer(mean_y, mean_y),
        )

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write one safetensors file; of the symmetric matrices only the upper triangle.

        Everything is exact, so that what is learned of several files is what is learned of all pairs together.

        Args:
            path: the file, by convention ending in `.safetensors`. It appears whole or not at all.
            metadata: what the statistics belong to (fingerprints of the features); `load` returns it.

        Raises:
            SpaceError: the file cannot be written.
        """
        tensors = {
            "sum_x": self.sum_x,
            "sum_y": self.sum_y,
            "xx_upper": self.xx[np.triu_indices(len(self.sum_x))],
            "xy": self.xy,
            "yy_upper": self.yy[np.triu_indices(len(self.sum_y))],
        }
        header = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "count": str(self.count)}
        try:
            write_arrays(Path(path), tensors, {**header, "metadata": json.dumps(dict(metadata), sort_keys=True)})
        except OSError as error:
            raise SpaceError(f"the pair statistics cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> tuple[PairStatistics, dict[str, str]]:
        """Read the statistics and metadata that `save` wrote.

        Raises:
            SpaceError: not a file of pair statistics, of another version, or damaged.
        """
        try:
            tensors, header = read_described(Path(path))
            if header.get("format") != FORMAT:
                raise SpaceError(f"{path} is not a file of pair statistics (written by chiasm statistics)")
            if header.get("format_version") != str(FORMAT_VERSION):
                raise SpaceError(
                    f"{path} has format version {header.get('format_version')}; this chiasm reads {FORMAT_VERSION}. "
                    "Write it again with chiasm statistics"
                )
            parts = tuple(tensors[name] for name in ("sum_x", "sum_y", "xx_upper", "xy", "yy_upper"))
            count = int(header["count"])
            metadata = {str(key): str(value) for key, value in dict(json.loads(header["metadata"])).items()}
        except SpaceError:
            raise
        except DAMAGE as error:
            raise SpaceError(f"{path} is damaged, or no file of pair statistics: {error}. Write it again") from error
        sum_x, sum_y, xx_upper, xy, yy_upper = parts
        x, y = sum_x.size, sum_y.size
        shapes = [tensor.shape for tensor in parts]
        if count < 1 or shapes != [(x,), (y,), (x * (x + 1) // 2,), (x, y), (y * (y + 1) // 2,)]:
            raise SpaceError(f"{path} is damaged: {count} pairs with matrices of shapes {shapes}. Write it again")
        if not all(tensor.dtype.kind == "f" and np.isfinite(tensor).all() for tensor in parts):
            raise SpaceError(f"{path} is damaged: it holds values that are not finite numbers. Write it again")
        xx, yy = _symmetric(xx_upper, x), _symmetric(yy_upper, y)
        return cls(count, sum_x, sum_y, xx, xy.astype(np.float64), yy), metadata


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and covariances of pairs, or of a weighted mixture of two sets of pairs."""

    mean_x: Float64[np.ndarray, " x"]
    mean_y: Float64[np.ndarray, " y"]
    xx: Float64[np.ndarray, "x x"]
    xy: Float64[np.ndarray, "x y"]
    yy: Float64[np.ndarray, "y y"]

    @property
    def scale(self) -> float:
        """Mean eigenvalue of the covariance of x, the unit of regularisation strengths; 0 if it is nothing but rounding."""
        variance = np.trace(self.xx) / len(self.xx)
        return _significant(variance, variance + np.square(self.mean_x).mean())

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues and eigenvectors of the covariance of x, and the covariance of x and y in their basis."""
        values, basis = np.linalg.eigh(self.xx)
        return np.maximum(values, 0), basis, basis.T @ self.xy  # rounding can make the smallest slightly negative

    def penalise(self, strength: float) -> Float64[np.ndarray, "x x"]:
        """Return the covariance of x with `strength * scale` added to its diagonal."""
        matrix = self.xx.copy()
        matrix.flat[:: len(matrix) + 1] += strength * self.scale
        return matrix


Source: TypeAlias = PairStatistics | PairArrays
Spectrum: TypeAlias = tuple[Float64[np.ndarray, " rank"], Float64[np.ndarray, "x rank"], Float64[np.ndarray, "rank y"]]


def mix(pairs: PairArrays, source: Source | None, alpha: float) -> Moments:
    """Return the moments of a mixture in which the source has weight alpha and the pairs 1 - alpha."""
    here = pairs.moments
    if source is None or alpha == 0:
        return here
    there, between = source.moments, alpha * (1 - alpha)
    apart_x, apart_y = here.mean_x - there.mean_x, here.mean_y - there.mean_y
    return Moments(
        (1 - alpha) * here.mean_x + alpha * there.mean_x,
        (1 - alpha) * here.mean_y + alpha * there.mean_y,
        (1 - alpha) * here.xx + alpha * there.xx + between * np.outer(apart_x, apart_x),
        (1 - alpha) * here.xy + alpha * there.xy + between * np.outer(apart_x, apart_y),
        (1 - alpha) * here.yy + alpha * there.yy + between * np.outer(apart_y, apart_y),
    )


def _symmetric(upper: Float[np.ndarray, " numbers"], dim: int) -> Float64[np.ndarray, "dim dim"]:
    matrix = np.zeros((dim, dim))
    rows, columns = np.triu_indices(dim)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix


def _significant(variance: float, square: float) -> float:
    return float(variance) if variance > 1e-7 * square else 0.0


def _check_pairs(X: Float[np.ndarray, "pairs x"], Y: Float[np.ndarray, "pairs y"]) -> None:
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not len(X):
        raise SpaceError(f"pairs need two matrices with a row a pair; got features {X.shape} and anchors {Y.shape}")
    bad = int((~np.isfinite(X).all(axis=1) | ~np.isfinite(Y).all(axis=1)).sum())
    if bad:
        raise SpaceError(f"{bad} of {len(X)} pairs have values that are not finite numbers")
