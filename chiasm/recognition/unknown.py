"""Out-of-distribution detection: items that are of no known class.

A score says how unlike anything known an item is; held-out scores of known items set the alarm, so that it has the rate
of false alarms asked for. Learning the class that such items are of is left to `chiasm.recognition.extension`. Scoring
needs NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import FEWEST_HELD_OUT, ConformalScores, check_codes, check_scores, damaged
from chiasm.splits import Labels, deal, group_codes
from chiasm.vectors import Unchecked, check_matrix, unit_rows

ScoreName: TypeAlias = Literal["knn", "mahalanobis"]

Features: TypeAlias = Float[np.ndarray, "items dim"] | Unchecked
Codes: TypeAlias = Int[np.ndarray, " items"] | Unchecked

_ONE_BY_ONE = 100  # items up to which each is held out alone: with ten folds false alarms came out half as often
_FOLDS = 10
_LEAST_SHRINKAGE = 1e-6  # keeps the covariance invertible where there are many rows of low rank
_MOST_ITEMS_KEPT = 10_000
_BLOCK = 2**22  # numbers computed at once


# -------------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True, eq=False)
class NearestNeighbour:
    """The distance to the nearest training item, all scaled to unit length (Sun et al. 2022).

    Example:
        >>> score = NearestNeighbour.fit(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 1]))
        >>> score.scores(np.array([[2.0, 0.0], [-1.0, 0.0]])).round(2).tolist()
        [0.0, 1.41]
    """

    items: Float64[np.ndarray, "kept dim"]

    @classmethod
    def fit(cls, features: Features, codes: Codes, *, seed: int = 0) -> Self:  # noqa: ARG003  one call for all scores
        """Keep the items; of more than 10,000, so many drawn at random."""
        X = _check_features(features)
        if len(X) > _MOST_ITEMS_KEPT:
            X = X[np.random.default_rng(seed).choice(len(X), _MOST_ITEMS_KEPT, replace=False)]
        return cls(unit_rows(X))

    def scores(self, features: Features) -> Float64[np.ndarray, " items"]:
        """Return a score for each item: the larger, the stranger."""
        X = unit_rows(_check_features(features, self.items.shape[1]))
        nearest = np.empty(len(X))
        step = max(1, _BLOCK // len(self.items))
        for first in range(0, len(X), step):
            nearest[first : first + step] = (X[first : first + step] @ self.items.T).max(axis=1)
        distances: Float64[np.ndarray, " items"] = np.sqrt(np.maximum(2 - 2 * nearest, 0))  # of unit vectors
        return distances

    def as_arrays(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """Return the items that were kept."""
        return {"items": self.items}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """Return the score whose `as_arrays` these are; KeyError or ValueError where they do not fit."""
        items = _finite(arrays, "items", None, None)
        if not len(items):
            raise ValueError("there are no items")
        return cls(items)


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """The squared distance to the nearest class mean, in units of the spread that all classes share (Lee et al. 2018).

    The covariance is shrunk towards a multiple of the identity (Ledoit & Wolf 2004) and held by its axes in the span of
    the items, so that features may outnumber items: scikit-learn's `LedoitWolf` makes the whole matrix, which took 3 s for
    55 items of 1,664 numbers, and this 0.01. Items stick out of that span also if they are known but were not learned
    from, which is why the alarm is set by held-out scores.

    Example:
        >>> X = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 9.0], [2.0, 9.1]])
        >>> score = Mahalanobis.fit(X, np.array([0, 0, 1, 1]))
        >>> near, far = score.scores(np.array([[1.0, 0.1], [1.0, 4.0]]))
        >>> bool(far > near)
        True
    """

    centre: Float64[np.ndarray, " dim"]
    means: Float64[np.ndarray, "classes dim"]
    """The class means, relative to the centre."""
    axes: Float64[np.ndarray, "axes dim"]
    precision: Float64[np.ndarray, " axes"]
    """Inverse variance along each axis."""
    rest: float
    """Inverse variance in all other directions."""

    @classmethod
    def fit(cls, features: Features, codes: Codes, *, seed: int = 0) -> Self:  # noqa: ARG003  one call for all scores
        """Fit means and spread; LabelError where each class has one item or equal ones."""
        X = _check_features(features)
        of_class = np.unique(check_codes(codes, len(X)), return_inverse=True)[1]
        centre = X.mean(axis=0)
        X = X - centre
        means = np.stack([X[of_class == k].mean(axis=0) for k in range(of_class.max() + 1)])
        within = X - means[of_class]
        if np.square(within).sum() <= 1e-20 * np.square(X).sum():
            raise LabelError(
                f"each of the {len(means)} classes has one item or equal ones, so the spread within classes is unknown: "
                "give at least one class two different items, or take the score knn"
            )
        return cls(centre, means, *_shrunk_precision(within, len(X) - len(means)))

    def scores(self, features: Features) -> Float64[np.ndarray, " items"]:
        """Return a score for each item: the larger, the stranger."""
        X = _check_features(features, len(self.centre)) - self.centre
        along, along_means = X @ self.axes.T, self.means @ self.axes.T
        inside = _squared_distances(along, along_means, self.precision - self.rest)
        everywhere = _squared_distances(X, self.means, np.full(X.shape[1], self.rest))
        nearest: Float64[np.ndarray, " items"] = np.maximum(inside + everywhere, 0).min(axis=1)
        return nearest

    def as_arrays(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """Return means and spread."""
        return {
            "centre": self.centre,
            "means": self.means,
            "axes": self.axes,
            "precision": self.precision,
            "rest": np.array([self.rest]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> Self:
        """Return the score whose `as_arrays` these are; KeyError or ValueError where they do not fit."""
        centre = _finite(arrays, "centre", None)
        means, axes = _finite(arrays, "means", None, len(centre)), _finite(arrays, "axes", None, len(centre))
        if not len(means):
            raise ValueError("there are no class means")
        precision = _finite(arrays, "precision", len(axes))
        return cls(centre, means, axes, precision, float(_finite(arrays, "rest", 1)[0]))


UnknownScore: TypeAlias = NearestNeighbour | Mahalanobis
SCORES: Mapping[ScoreName, type[NearestNeighbour] | type[Mahalanobis]] = {
    "knn": NearestNeighbour,
    "mahalanobis": Mahalanobis,
}


# ------------------------------------------------------------------------------------------------------------ detector


@dataclass(frozen=True, eq=False)
class UnknownDetector:
    """An alarm for items of no known class, at a rate of false alarms; by `fit_unknown_detector`.

    The rate holds for new items of known classes that are exchangeable with the held-out ones, on average over these
    (see `ConformalScores`). How many unknown items are detected depends on the score.

    Example:
        >>> centres = np.random.default_rng(0).normal(size=(3, 8))
        >>> items = np.repeat(centres[:2], 20, axis=0) + 0.1 * np.random.default_rng(1).normal(size=(40, 8))
        >>> detector = fit_unknown_detector(items, np.repeat([0, 1], 20))
        >>> detector.is_unknown(detector.scores(centres), false_alarm_rate=0.1).tolist()
        [False, False, True]
    """

    name: ScoreName
    score: UnknownScore
    held_out: ConformalScores
    """Scores of held-out items of known classes."""

    def scores(self, features: Features) -> Float64[np.ndarray, " items"]:
        """Return how unlike anything known each item is; unit and zero mean nothing."""
        return self.score.scores(features)

    def threshold(self, false_alarm_rate: float) -> float:
        """Return the score above which an item is unknown; infinite for rates below `1 / (held-out items + 1)`."""
        if not 0 < false_alarm_rate < 1:
            raise ChiasmError(f"the false-alarm rate must be between 0 and 1, such as 0.05; got {false_alarm_rate}")
        return self.held_out.quantile(1 - false_alarm_rate)

    def is_unknown(
        self, scores: Float[np.ndarray, " items"] | Unchecked, *, false_alarm_rate: float = 0.05
    ) -> Bool[np.ndarray, " items"]:
        """Return which items are like nothing known, from their `scores`.

        Raises:
            ChiasmError: the rate is not between 0 and 1.
        """
        unknown: Bool[np.ndarray, " items"] = check_scores(scores) > self.threshold(false_alarm_rate)
        return unknown

    def p_values(self, scores: Float[np.ndarray, " items"] | Unchecked) -> Float64[np.ndarray, " items"]:
        """Return the probability that an item of a known class is as strange or stranger, from `scores`."""
        return self.held_out.p_values(scores)

    def as_fields(self) -> dict[str, Any]:
        """Return the part for JSON; `from_arrays` needs it with `as_arrays`."""
        return {"name": self.name, "items": self.held_out.count}

    def as_arrays(self) -> dict[str, Float64[np.ndarray, "..."]]:
        """Return the held-out scores that were kept, and what the score was fitted to."""
        return {"held_out": self.held_out.kept} | {f"score.{key}": a for key, a in self.score.as_arrays().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Shaped[np.ndarray, "..."]], fields: Mapping[str, Any]) -> Self:
        """Return the detector whose `as_arrays` and `as_fields` these are.

        Raises:
            ChiasmError: they do not make a detector.
        """
        try:
            name: ScoreName = fields["name"]
            parts = {key.removeprefix("score."): array for key, array in arrays.items() if key.startswith("score.")}
            held_out = ConformalScores.from_kept(arrays["held_out"], int(fields["items"]))
            return cls(name, SCORES[name].from_arrays(parts), held_out)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged("unknown detector", error) from error


def fit_unknown_detector(
    features: Features,
    codes: Codes,
    *,
    score: ScoreName | Literal["auto"] = "auto",
    groups: Labels | None = None,
    seed: int = 0,
) -> UnknownDetector | None:
    """Fit a score on all items and set the alarm by held-out ones; None where there are too few to promise a rate.

    Held-out scores are a little high, and false alarms a little rare, where the folds leave fewer items to learn from.
    (516 embedded pictures with captions in 11 classes at a rate of 0.10: knn 0.076 with five folds and 0.087 with ten; at
    5 items a class, with ten folds: knn 0.127, mahalanobis 0.012; with a fold for each item 0.041 for mahalanobis.)

    Args:
        features: of training items, those that the classifier is given.
        codes: their classes, by number; numbers may be left out.
        score: `"knn"`, `"mahalanobis"`, or `"auto"`: the one that tells left-out classes best, and knn up to 100 items:
            the class means of mahalanobis move with every item held out. (Stamps, 5 shots, asked for 5 and 10 % false
            alarms: mahalanobis 0.3 and 4 %, knn 2.5 and 9.8 %.)
        groups: items of one group are never on both sides of a fit.
        seed: of all draws.

    Raises:
        ChiasmError: there is no such score, or features are not a matrix of finite numbers.
        LabelError: codes or groups do not fit.
    """
    if score != "auto" and score not in SCORES:
        raise ChiasmError(f"there is no unknown score {score!r}: take auto or one of {', '.join(SCORES)}")
    X = _check_features(features)
    true = check_codes(codes, len(X))
    group = None if groups is None else group_codes(groups, len(X))
    counts = np.unique(true, return_counts=True)[1]
    if len(true) < FEWEST_HELD_OUT or counts.max() < 2 or (group is not None and len(np.unique(group)) < 2):
        return None
    name: ScoreName = "knn" if score == "auto" else score
    try:
        if score == "auto" and len(true) > _ONE_BY_ONE and len(counts) > 2 and counts.max() > 2 and counts.min() > 1:
            areas = left_out_areas(X, true, groups=group, seed=seed)
            name = max(areas, key=lambda candidate: areas[candidate])
        folds = len(true) if len(true) <= _ONE_BY_ONE else _FOLDS
        held_out = cross_fitted_scores(name, X, true, folds=folds, groups=group, seed=seed)
        return UnknownDetector(name, SCORES[name].fit(X, true, seed=seed), ConformalScores.of(held_out))
    except LabelError:  # nothing can be held out, or nothing learned without it: there is no rate to promise
        return None


def cross_fitted_scores(
    name: ScoreName,
    features: Float64[np.ndarray, "items dim"],
    codes: Int[np.ndarray, " items"],
    *,
    folds: int = _FOLDS,
    groups: Int[np.ndarray, " items"] | None = None,
    seed: int = 0,
) -> Float64[np.ndarray, " held"]:
    """Return scores of known items, each under the fit of the folds that it is not in.

    Items whose class is in no other fold are left out: to their fit they are unknown. There are at most as many folds as
    items or groups.
    """
    parts = len(codes) if groups is None else int(groups.max()) + 1
    fold = deal(codes, min(folds, parts), seed=seed, groups=groups)
    held_out = [np.empty(0)]
    for number in range(fold.max() + 1):
        train, test = fold != number, fold == number
        test &= np.isin(codes, codes[train])
        if test.any():
            held_out.append(SCORES[name].fit(features[train], codes[train], seed=seed).scores(features[test]))
    return np.concatenate(held_out)


def left_out_areas(
    features: Float64[np.ndarray, "items dim"],
    codes: Int[np.ndarray, " items"],
    *,
    rounds: int = 20,
    groups: Int[np.ndarray, " items"] | None = None,
    seed: int = 0,
) -> dict[ScoreName, float]:
    """Return the area under the ROC curve of each score where known classes take turns at being unknown.

    In each round some classes are left out, and so is one fold of the others; a fit on the rest scores both. Every class
    is left out once: alone where there are at most `rounds` classes, otherwise with others. 0.5 is chance.

    Raises:
        LabelError: no known item can be held out, or a round leaves nothing to learn from.
    """
    from sklearn.metrics import roc_auc_score

    classes = np.unique(codes)
    parts = len(codes) if groups is None else int(groups.max()) + 1
    fold = deal(codes, min(5, parts), seed=seed, groups=groups)
    batches = min(len(classes), rounds)
    batch = np.random.default_rng(seed).permutation(len(classes)) % batches
    areas: dict[ScoreName, list[float]] = {name: [] for name in SCORES}
    for number in range(batches):
        unknown = np.isin(codes, classes[batch == number])
        held = ~unknown & (fold == number % (fold.max() + 1))
        train = ~unknown & ~held
        if groups is not None:
            train &= ~np.isin(groups, groups[unknown])
        held &= np.isin(codes, codes[train])
        if not held.any() or len(np.unique(codes[train])) < 2:
            continue
        test = held | unknown
        for name, score in SCORES.items():
            scores = score.fit(features[train], codes[train], seed=seed).scores(features[test])
            areas[name].append(float(roc_auc_score(unknown[test], scores)))
    if not areas["knn"]:
        raise LabelError("no item of a known class can be held out: label a second item of some classes")
    return {name: float(np.mean(values)) for name, values in areas.items()}


# ---------------------------------------------------------------------------------------------------------- in common


def _shrunk_precision(
    centred: Float64[np.ndarray, "items dim"], freedom: int
) -> tuple[Float64[np.ndarray, "axes dim"], Float64[np.ndarray, " axes"], float]:
    """Return the inverse of the shrunk covariance: axes, inverse variances along them, and in all other directions.

    Ledoit's and Wolf's shrinkage needs eigenvalues and lengths of rows alone, so the covariance itself is never made
    where there are more columns than rows. Sums of squares are divided by `freedom`.
    """
    items, dim = centred.shape
    wide = items < dim
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    in_span = values > values[-1] * max(items, dim) * np.finfo(np.float64).eps
    values, vectors = values[in_span], vectors[:, in_span]
    axes = (centred.T @ (vectors / np.sqrt(values))).T if wide else vectors.T
    variances = values / freedom
    level = variances.sum() / dim
    lengths = np.square(centred).sum(axis=1) / freedom
    distance = np.square(variances).sum() - dim * level**2
    error = np.square(lengths).sum() - np.square(variances).sum() / items
    shrinkage = min(max(error / distance, _LEAST_SHRINKAGE), 1.0) if distance > 0 else 1.0
    rest = shrinkage * level
    return np.ascontiguousarray(axes), 1 / ((1 - shrinkage) * variances + rest), float(1 / rest)


def _squared_distances(
    a: Float64[np.ndarray, "items dim"], b: Float64[np.ndarray, "means dim"], weights: Float64[np.ndarray, " dim"]
) -> Float64[np.ndarray, "items means"]:
    """Return sums of weighted squared differences; weights may be negative."""
    distances: Float64[np.ndarray, "items means"] = (
        (np.square(a) @ weights)[:, None] - 2 * (a * weights) @ b.T + np.square(b) @ weights
    )
    return distances


def _check_features(features: Features, dim: int | None = None) -> Float64[np.ndarray, "items dim"]:
    return check_matrix(features, "features", columns=dim, error=ChiasmError).astype(np.float64, copy=False)


def _finite(
    arrays: Mapping[str, Shaped[np.ndarray, "..."]], key: str, *shape: int | None
) -> Float64[np.ndarray, "..."]:
    array = arrays[key]
    fits = array.ndim == len(shape) and all(n in {None, m} for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != np.float64 or not np.isfinite(array).all():
        raise ValueError(f"{key} should be finite float64 of shape {shape}; got {array.dtype} {array.shape}")
    return array
