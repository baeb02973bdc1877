"""Scores of how unlike anything known an item is.

This module knows five such scores, from an item's features or from the classifier's logits. Which one to take and from
what value on an item is unknown is `chiasm.recognition.open_world`. Everything here is plain numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.calibration import checked_codes
from chiasm.vectors import Unchecked, unit_rows

ScoreName: TypeAlias = Literal["energy", "max_probability", "mahalanobis", "relative_mahalanobis", "knn"]

Features: TypeAlias = Float[np.ndarray, "items dim"] | Unchecked
Logits: TypeAlias = Float[np.ndarray, "items classes"] | Unchecked
Codes: TypeAlias = Int[np.ndarray, " items"] | Unchecked

_LEAST_SHRINKAGE = 1e-6  # keeps the covariance invertible where there are many rows of low rank
_MOST_NEIGHBOURS_KEPT = 10_000
_BLOCK = 2**22  # numbers computed at once


class UnknownScore(Protocol):
    """How unlike anything known items are: the larger, the stranger. Its unit and zero mean nothing."""

    def scores(self, features: Features, logits: Logits) -> Float64[np.ndarray, " items"]:
        """Score items from what the classifier was given and what it answered; a score may need only one of these.

        Raises:
            ChiasmError: what it needs is not a matrix of floats as wide as in fitting, or holds NaN.
        """
        ...

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """All that has to be saved of it."""
        ...


@dataclass(frozen=True)
class Energy:
    """The free energy of the logits, `-logsumexp` (Liu et al. 2020): none of the classes has evidence."""

    def scores(self, features: Features, logits: Logits) -> Float64[np.ndarray, " items"]:  # noqa: ARG002
        """From logits as the classifier gives them; log-probabilities all have the same energy."""
        checked = _checked_logits(logits)
        best = checked.max(axis=1)
        energies: Float64[np.ndarray, " items"] = -best - np.log(np.exp(checked - best[:, None]).sum(axis=1))
        return energies

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class MaxProbability:
    """Minus the logarithm of the largest class probability (Hendrycks & Gimpel 2017): the classifier hesitates."""

    def scores(self, features: Features, logits: Logits) -> Float64[np.ndarray, " items"]:  # noqa: ARG002
        """From logits or log-probabilities."""
        checked = _checked_logits(logits)
        scores: Float64[np.ndarray, " items"] = np.log(np.exp(checked - checked.max(axis=1, keepdims=True)).sum(axis=1))
        return scores

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Nothing."""
        return {}


@dataclass(frozen=True, eq=False)
class _Spread:
    """The inverse of a shrunk covariance: known along some axes, the same in all other directions."""

    axes: Float64[np.ndarray, "axes dim"]
    precision: Float64[np.ndarray, " axes"]
    rest: float

    def distances(
        self, X: Float64[np.ndarray, "items dim"], means: Float64[np.ndarray, "means dim"]
    ) -> Float64[np.ndarray, "items means"]:
        """Squared Mahalanobis distances. Both are to be near the origin, for the sake of rounding."""
        along, along_means = X @ self.axes.T, means @ self.axes.T
        inside = _squared_distances(along, along_means, self.precision - self.rest)
        everywhere = _squared_distances(X, means, np.full(X.shape[1], self.rest))
        distances: Float64[np.ndarray, "items means"] = np.maximum(inside + everywhere, 0)
        return distances


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """The squared distance to the nearest class mean, in units of the spread that all classes share (Lee et al. 2018).

    With a background, the squared distance to the mean of all items in units of their spread is taken off (Ren et al.
    2021): what is rare in every class alike says little about being of none.
    """

    centre: Float64[np.ndarray, " dim"]
    means: Float64[np.ndarray, "classes dim"]
    """Of the classes, from the centre."""
    within: _Spread
    background: _Spread | None

    def scores(self, features: Features, logits: Logits) -> Float64[np.ndarray, " items"]:  # noqa: ARG002
        """From features."""
        X = _checked_features(features, len(self.centre)) - self.centre
        nearest: Float64[np.ndarray, " items"] = self.within.distances(X, self.means).min(axis=1)
        if self.background is None:
            return nearest
        less: Float64[np.ndarray, " items"] = nearest - self.background.distances(X, np.zeros((1, X.shape[1])))[:, 0]
        return less

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Means and spreads."""
        arrays = {"centre": self.centre, "means": self.means}
        for name, spread in (("within", self.within), ("background", self.background)):
            if spread is not None:
                arrays |= {
                    f"{name}.axes": spread.axes,
                    f"{name}.precision": spread.precision,
                    f"{name}.rest": np.array([spread.rest]),
                }
        return arrays


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """The distance to the k-th nearest training item, all scaled to unit length (Sun et al. 2022)."""

    items: Float[np.ndarray, "kept dim"]
    neighbours: int

    def scores(self, features: Features, logits: Logits) -> Float64[np.ndarray, " items"]:  # noqa: ARG002
        """From features."""
        X = unit_rows(_checked_features(features, self.items.shape[1]))
        scores = np.empty(len(X))
        for block in _blocks(len(X), len(self.items)):
            # Of unit vectors, the squared distance is 2 - 2 * cosine.
            cosines = np.partition(X[block] @ self.items.T, len(self.items) - self.neighbours, axis=1)
            scores[block] = np.sqrt(np.maximum(2 - 2 * cosines[:, len(self.items) - self.neighbours], 0))
        return scores

    def as_arrays(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The items that were kept, and k."""
        return {"items": self.items, "neighbours": np.array([self.neighbours], dtype=np.int64)}


def fit_unknown_score(
    name: ScoreName,
    features: Features,
    codes: Codes,
    *,
    neighbours: int = 1,
    seed: int = 0,
) -> UnknownScore:
    """Fit a score on items of known classes.

    `energy` and `max_probability` judge by the classifier's logits and have nothing to fit. The covariances of
    `mahalanobis` and `relative_mahalanobis` are shrunk (Ledoit & Wolf 2004) and held by their axes in the span of the
    items, so that features may outnumber items. What an item has outside that span counts by the shrunk variance: most
    unknown items stick out there, and so do known ones that were not learned from, which is why the alarm has to be set
    by held-out scores.

    Args:
        name: of the score.
        features: of training items, those that the classifier is given.
        codes: their classes, by number; numbers may be left out.
        neighbours: the k of `knn`; of more than 10,000 items, so many drawn at random are kept.
        seed: of that draw.

    Raises:
        ChiasmError: there is no such score, features are not a matrix of finite floats, or there are fewer items than
            `neighbours`.
        LabelError: codes do not fit the features, there are no items, or `mahalanobis` finds no spread within classes
            since each has one item or equal ones.
    """
    if name not in get_args(ScoreName):
        raise ChiasmError(f"there is no unknown score {name!r}: take one of {', '.join(get_args(ScoreName))}")
    X = _checked_features(features)
    if not len(X):
        raise LabelError("there are no training items to be unlike of")
    true = checked_codes(codes, len(X), np.iinfo(np.int64).max)
    if name == "energy":
        return Energy()
    if name == "max_probability":
        return MaxProbability()
    if name == "knn":
        if not 1 <= neighbours <= len(X):
            raise ChiasmError(f"neighbours must be from 1 to the number of items, {len(X)}; got {neighbours}")
        if len(X) > _MOST_NEIGHBOURS_KEPT:
            X = X[np.random.default_rng(seed).choice(len(X), _MOST_NEIGHBOURS_KEPT, replace=False)]
        return NearestNeighbours(unit_rows(X), min(neighbours, len(X)))
    centre = X.mean(axis=0)
    X -= centre
    of_class = np.unique(true, return_inverse=True)[1]
    means = _class_means(X, of_class)
    background = _fit_spread(X, len(X) - 1) if name == "relative_mahalanobis" else None
    scale = np.square(X).sum()
    X -= means[of_class]
    if np.square(X).sum() <= 1e-20 * scale:
        raise LabelError(
            f"each of the {len(means)} classes has one item or equal ones, so the spread within classes is unknown: "
            "give at least one class two different items, or take the score energy, max_probability or knn"
        )
    return Mahalanobis(centre, means, _fit_spread(X, len(X) - len(means)), background)


def score_from(name: ScoreName, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> UnknownScore:
    """The score whose `as_arrays` these are.

    Args:
        name: of the score.
        arrays: may hold others beside.

    Raises:
        KeyError: an array is missing.
        ValueError: an array is of another kind or shape, or not finite.
    """

    def read(key: str, *shape: int | None) -> Float64[np.ndarray, "..."]:
        array = arrays[key]
        fits = array.ndim == len(shape) and all(n in {None, m} for n, m in zip(shape, array.shape, strict=True))
        if not fits or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(f"{key} should be finite float64 of shape {shape}; got {array.dtype} {array.shape}")
        return array

    def spread(key: str, dim: int) -> _Spread:
        axes = read(f"{key}.axes", None, dim)
        return _Spread(axes, read(f"{key}.precision", len(axes)), float(read(f"{key}.rest", 1)[0]))

    if name == "energy":
        return Energy()
    if name == "max_probability":
        return MaxProbability()
    if name == "knn":
        items, neighbours = read("items", None, None), int(arrays["neighbours"][0])
        if not 1 <= neighbours <= len(items):
            raise ValueError(f"{neighbours} neighbours of {len(items)} items")
        return NearestNeighbours(items, neighbours)
    centre = read("centre", None)
    means = read("means", None, len(centre))
    if not len(means):
        raise ValueError("there are no class means")
    background = spread("background", len(centre)) if name == "relative_mahalanobis" else None
    return Mahalanobis(centre, means, spread("within", len(centre)), background)


def _fit_spread(centred: Float64[np.ndarray, "items dim"], freedom: int) -> _Spread:
    """The covariance of centred rows, shrunk towards a multiple of the identity (Ledoit & Wolf 2004).

    All that the shrinkage needs are the eigenvalues and the lengths of the rows, so that the covariance itself is never
    made where there are more columns than rows.

    Args:
        centred: rows without their mean, or each without the mean of its class; not all zero.
        freedom: what sums of squares are divided by.
    """
    items, dim = centred.shape
    if items < dim:
        values, vectors = np.linalg.eigh(centred @ centred.T)
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
    kept = values > values[-1] * max(items, dim) * np.finfo(np.float64).eps
    sums = values[kept]
    axes = (centred.T @ (vectors[:, kept] / np.sqrt(sums))).T if items < dim else vectors[:, kept].T
    variances = sums / freedom
    level = variances.sum() / dim
    squares = np.square(variances).sum()
    lengths = np.square(centred).sum(axis=1) / freedom
    excess = squares - dim * level**2
    error = np.square(lengths).sum() - squares / items
    shrinkage = min(max(error / excess, _LEAST_SHRINKAGE), 1.0) if excess > 0 else 1.0
    rest = shrinkage * level
    return _Spread(np.ascontiguousarray(axes), 1 / ((1 - shrinkage) * variances + rest), float(1 / rest))


def _class_means(
    X: Float64[np.ndarray, "items dim"], codes: Int[np.ndarray, " items"]
) -> Float64[np.ndarray, "classes dim"]:
    """Of classes numbered without gaps."""
    return np.stack([X[codes == k].mean(axis=0) for k in range(codes.max() + 1)])


def _squared_distances(
    a: Float64[np.ndarray, "items dim"], b: Float64[np.ndarray, "means dim"], weights: Float64[np.ndarray, " dim"]
) -> Float64[np.ndarray, "items means"]:
    """Sums of weighted squared differences; weights may be negative."""
    distances: Float64[np.ndarray, "items means"] = (
        (np.square(a) @ weights)[:, None] - 2 * (a * weights) @ b.T + np.square(b) @ weights
    )
    return distances


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _BLOCK // columns)
    for first in range(0, rows, step):
        yield slice(first, first + step)


def _checked_features(features: Features, dim: int | None = None) -> Float64[np.ndarray, "items dim"]:
    """A float64 copy."""
    checked = np.asarray(features)
    if checked.ndim != 2 or checked.dtype.kind != "f" or (dim is not None and checked.shape[1] != dim):
        width = "" if dim is None else f" of width {dim}, as in fitting"
        raise ChiasmError(f"features must be a matrix of floats{width}; got {checked.dtype} {checked.shape}")
    _refuse(~np.isfinite(checked).all(axis=1), "features hold NaN or infinite values")
    return checked.astype(np.float64)


def _checked_logits(logits: Logits) -> Float64[np.ndarray, "items classes"]:
    """A float64 copy. Minus infinity is a class that the model does not know, but it has to know one."""
    checked = np.asarray(logits)
    if checked.ndim != 2 or checked.dtype.kind != "f" or not checked.shape[1]:
        raise ChiasmError(
            f"logits must be a matrix of floats with one column a class; got {checked.dtype} {checked.shape}"
        )
    _refuse(~np.isfinite(checked.max(axis=1)), "logits hold NaN, plus infinity, or minus infinity for every class")
    return checked.astype(np.float64)


def _refuse(bad: Bool[np.ndarray, " items"], problem: str) -> None:
    if bad.any():
        raise ChiasmError(f"{int(bad.sum())} of {len(bad)} rows of {problem}, first row {int(bad.argmax())}")
