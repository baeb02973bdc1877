"""Adapters for a handful of labels: zero-shot, prototypes and Tip-Adapter. What they learn is a mean and a few numbers.

The rungs below the linear probe (`chiasm.recognition.linear_probe`). Rows are compared by cosine. The few numbers (scale of
the logits, sharpness and share of the cache) are those with the least Brier score on held-out rows. Which rung is taken
is left to `chiasm.recognition.ladder`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from chiasm.errors import LabelError
from chiasm.recognition.linear import row_weights
from chiasm.splits import Labels, Shots, deal, group_codes, label_codes, refuse_continuous, refuse_one_class
from chiasm.vectors import Unchecked, softmax, unit_rows

LARGEST_CACHE = 5000
"""Rows that a Tip-Adapter keeps at most: its time and memory grow with their square."""

_SCALES = np.logspace(0, 2, 13)  # of cosines; 100 is what CLIP learned
_UNTUNED_SCALE = 10.0  # where nothing can be held out
_SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # beta; 5.5 in the paper
_RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the cache beside the class names; 1 in the paper
_UNTUNED_SHARPNESS, _UNTUNED_RATIO = 5.5, 1.0


class _CosineClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """What the three share: the checked input, logits to probabilities and labels."""

    classes_: Shaped[np.ndarray, " classes"]
    n_features_in_: int

    def __init__(self, *, folds: int | Unchecked = 5, random_state: int | Unchecked = 0) -> None:
        self.folds = folds
        self.random_state = random_state

    def decision_function(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows ..."]:
        """Logits, shape (rows, classes); for two classes that of the second less that of the first, shape (rows,).

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        logits = self._logits(unit_rows(X))
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows classes"]:
        """Class probabilities, in the order of `classes_`.

        Raises:
            ValueError: as `decision_function`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return softmax(self._logits(unit_rows(X)))

    def predict(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Shaped[np.ndarray, " rows"]:
        """The most probable class of each row.

        Raises:
            ValueError: as `decision_function`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: Shaped[np.ndarray, " rows"] = self.classes_[best]
        return labels

    @abstractmethod
    def _logits(self, X: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows classes"]:
        """Of unit rows."""

    def _checked(
        self, X: Any, y: Any, sample_weight: Any, groups: Labels | None, *shots: Shots | None
    ) -> tuple[
        Float[np.ndarray, "rows dim"],
        Shaped[np.ndarray, " rows"],
        Float64[np.ndarray, " rows"],
        Int[np.ndarray, " rows"] | None,
    ]:
        """Unit rows, labels, weights and groups of the rows that weigh anything."""
        if np.asarray(y).ndim == 1:
            label_codes(y)
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        refuse_continuous(np.unique(y))
        for extra in shots:
            if extra is not None and extra.X.shape[1] != X.shape[1]:
                raise LabelError(f"extra shots are {extra.X.shape[1]} wide, X is {X.shape[1]}: embed them alike")
        weight = row_weights(sample_weight, len(X))
        used = np.flatnonzero(weight)
        group = None if groups is None else np.unique(group_codes(groups, len(X))[used], return_inverse=True)[1]
        return unit_rows(X[used]), np.asarray(y)[used], weight[used], group

    def _fold_of(
        self, codes: Int[np.ndarray, " rows"], group: Int[np.ndarray, " rows"] | None
    ) -> Int[np.ndarray, " rows"]:
        """The fold of each row; one fold for all where they cannot be divided."""
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2; got {self.folds}")
        folds = min(int(self.folds), len(codes) if group is None else int(group.max()) + 1)
        if folds < 2:
            return np.zeros(len(codes), dtype=np.int64)
        return deal(codes, folds, seed=self.random_state, groups=group)


class ZeroShot(_CosineClassifier):
    """Recognise by the embedded names of the classes alone; labelled rows only set the scale of the probabilities.

    Radford et al. 2021 (CLIP), section 3.1. The names come as `anchors`, rows in the space of X, the mean of several
    prompt templates each.

    Args:
        folds: not used, but for the likeness of the rungs: names depend on no label, so every row is held out.
        random_state: likewise.

    Attributes:
        classes_: all classes with a name, sorted.
        coef_: the unit anchors times the scale, shape (classes, dim).
        scale_: of the cosines.
    """

    coef_: Float[np.ndarray, "classes dim"]
    scale_: float

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None = None,
        groups: Labels | None = None,
        *,
        anchors: Shots | None = None,
    ) -> ZeroShot:
        """Take the anchors and choose the scale.

        Raises:
            LabelError: no anchors, or classes of y without one.
        """
        rows, labels, weight, _ = self._checked(X, y, sample_weight, groups, anchors)
        if anchors is None:
            raise LabelError("zero-shot needs the embedded names of the classes as anchors")
        self.classes_, named = label_codes(anchors.y)
        unnamed = np.setdiff1d(labels, self.classes_)
        if len(unnamed):
            raise LabelError(f"zero-shot needs a name for every class; {len(unnamed)} have none, e.g. {unnamed[0]!s}")
        prototypes = _prototypes(unit_rows(anchors.X.astype(rows.dtype)), named, anchors.weight, len(self.classes_))
        codes = np.searchsorted(self.classes_, labels)
        self.scale_ = _best_scale(rows @ prototypes.T, codes, weight)
        self.coef_ = (self.scale_ * prototypes).astype(rows.dtype)
        return self

    def _logits(self, X: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows classes"]:
        logits: Float[np.ndarray, "rows classes"] = X @ self.coef_.T
        return logits


class Prototypes(_CosineClassifier):
    """Recognise by the nearest class mean: Snell et al. 2017 (prototypical networks), by cosine.

    Anchors (embedded names of the classes) and other extra shots count as rows of their class.

    Args:
        folds: to choose the scale of the probabilities on.
        random_state: seed of the folds.

    Attributes:
        classes_: the classes, sorted.
        coef_: the unit means times the scale, shape (classes, dim).
        scale_: of the cosines.
    """

    coef_: Float[np.ndarray, "classes dim"]
    scale_: float

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None = None,
        groups: Labels | None = None,
        *,
        extra: Shots | None = None,
    ) -> Prototypes:
        """Take the means and choose the scale.

        Raises:
            LabelError: labels are missing or of one class only, or extra rows are of another width.
        """
        rows, labels, weight, group = self._checked(X, y, sample_weight, groups, extra)
        every = labels if extra is None else np.concatenate([labels, extra.y])
        self.classes_, codes = label_codes(every)
        refuse_one_class(self.classes_, len(labels))
        number, own = len(self.classes_), len(labels)
        others = np.zeros((number, rows.shape[1]))
        if extra is not None:
            np.add.at(others, codes[own:], extra.weight[:, None] * unit_rows(extra.X.astype(np.float64)))
        fold = self._fold_of(codes[:own], group)
        sums = np.zeros((fold.max() + 1, number, rows.shape[1]))
        np.add.at(sums, (fold, codes[:own]), weight[:, None] * rows)
        total = others + sums.sum(axis=0)
        cosines = np.full((own, number), -np.inf)
        for number_of_fold in range(len(sums)):
            held = fold == number_of_fold
            rest = total - sums[number_of_fold]
            known = np.linalg.norm(rest, axis=1) > 1e-6 * np.linalg.norm(total, axis=1)
            cosines[np.ix_(held, known)] = rows[held] @ unit_rows(rest[known]).T
        scored = np.isfinite(cosines[np.arange(own), codes[:own]]) & (np.isfinite(cosines).sum(axis=1) > 1)
        self.scale_ = _best_scale(cosines[scored], codes[:own][scored], weight[scored])
        self.coef_ = (self.scale_ * unit_rows(total)).astype(rows.dtype)
        return self

    def _logits(self, X: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows classes"]:
        logits: Float[np.ndarray, "rows classes"] = X @ self.coef_.T
        return logits


class TipAdapter(_CosineClassifier):
    """Recognise by likeness to every labelled row, beside the names of the classes: Zhang et al. 2022 (Tip-Adapter).

    Logits are `scale * (cosine to the name + ratio * sum_j exp(-sharpness * (1 - cosine to row j)))`, the sum over rows
    of the class, divided by the mean number of rows a class. Without names it is the cache alone. A class with a name
    and no rows has an empty cache: beside classes with rows it is seldom found.

    Args:
        folds: to choose scale, sharpness and ratio on.
        random_state: seed of the folds.

    Attributes:
        classes_: the classes, sorted.
        keys_: the rows, of unit length.
        values_: their weight in their class, shape (rows, classes).
        anchors_: unit anchor of each class, zero where it has none.
        scale_: of the logits.
        sharpness_: beta of the paper.
        ratio_: alpha of the paper.
    """

    keys_: Float[np.ndarray, "kept dim"]
    values_: Float[np.ndarray, "kept classes"]
    anchors_: Float[np.ndarray, "classes dim"]
    scale_: float
    sharpness_: float
    ratio_: float

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None = None,
        groups: Labels | None = None,
        *,
        anchors: Shots | None = None,
        extra: Shots | None = None,
    ) -> TipAdapter:
        """Keep the rows and choose the numbers.

        Raises:
            LabelError: labels are missing or of one class only, there are more than 5,000 rows, or extra rows are of
                another width.
        """
        rows, labels, weight, group = self._checked(X, y, sample_weight, groups, anchors, extra)
        own = len(labels)
        kept = own if extra is None else own + len(extra)
        if kept > LARGEST_CACHE:
            raise LabelError(f"a Tip-Adapter keeps at most {LARGEST_CACHE} rows; got {kept}. Use the linear probe")
        parts = [labels] + [shots.y for shots in (extra, anchors) if shots is not None]
        self.classes_, codes = label_codes(np.concatenate(parts))
        refuse_one_class(self.classes_, own)
        number = len(self.classes_)
        self.keys_ = rows if extra is None else np.vstack([rows, unit_rows(extra.X.astype(rows.dtype))])
        weights = weight if extra is None else np.concatenate([weight, extra.weight])
        values = np.zeros((kept, number))
        values[np.arange(kept), codes[:kept]] = weights * number / weights.sum()
        self.values_ = values.astype(rows.dtype)
        self.anchors_ = np.zeros((number, rows.shape[1]), dtype=rows.dtype)
        if anchors is not None:
            named = np.unique(codes[kept:])
            means = _prototypes(unit_rows(anchors.X.astype(rows.dtype)), codes[kept:], anchors.weight, number)
            self.anchors_[named] = means[named]
        self.sharpness_, self.ratio_, self.scale_ = _UNTUNED_SHARPNESS, _UNTUNED_RATIO, _UNTUNED_SCALE
        self._choose(rows, codes[:own], weight, self._fold_of(codes[:own], group), anchors is not None)
        return self

    def _choose(
        self,
        rows: Float[np.ndarray, "rows dim"],
        codes: Int[np.ndarray, " rows"],
        weight: Float64[np.ndarray, " rows"],
        fold: Int[np.ndarray, " rows"],
        named: bool,
    ) -> None:
        own = len(rows)
        apart = fold[:, None] != fold[None, :]
        cosine = rows @ self.keys_.T
        names = rows @ self.anchors_.T
        seen = apart @ (self.values_[:own] > 0) | (self.values_[own:] > 0).any(axis=0)
        if named:
            seen |= self.anchors_.any(axis=1)
        scored = seen[np.arange(own), codes] & (seen.sum(axis=1) > 1)
        if not scored.any():
            return
        best = np.inf
        for sharpness in _SHARPNESS:
            cache = self._cache(cosine, sharpness, apart)[scored]
            for ratio in _RATIOS if named else (1.0,):
                # Ratio and scale are apart: logits / ratio would only move the grid.
                logits = np.where(seen[scored], names[scored] + ratio * cache, -np.inf)
                for scale, score in _scores_by_scale(logits, codes[scored], weight[scored]):
                    if score < best:
                        best = score
                        self.sharpness_, self.ratio_, self.scale_ = sharpness, ratio, scale

    def _cache(
        self,
        cosine: Float[np.ndarray, "rows kept"],
        sharpness: float,
        apart: Bool[np.ndarray, "rows own"] | None = None,
    ) -> Float[np.ndarray, "rows classes"]:
        likeness = np.exp(sharpness * (cosine - 1))
        if apart is not None:
            likeness[:, : apart.shape[1]] *= apart
        cache: Float[np.ndarray, "rows classes"] = likeness @ self.values_
        return cache

    def _logits(self, X: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows classes"]:
        cache = self._cache(X @ self.keys_.T, self.sharpness_)
        logits: Float[np.ndarray, "rows classes"] = self.scale_ * (X @ self.anchors_.T + self.ratio_ * cache)
        return logits


def _prototypes(
    rows: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    weight: Float64[np.ndarray, " rows"],
    classes: int,
) -> Float[np.ndarray, "classes dim"]:
    sums = np.zeros((classes, rows.shape[1]), dtype=np.float64)
    np.add.at(sums, codes, weight[:, None] * rows)
    return unit_rows(sums)


def _scores_by_scale(
    cosines: Float[np.ndarray, "rows classes"],
    codes: Int[np.ndarray, " rows"],
    weight: Float64[np.ndarray, " rows"],
) -> Iterator[tuple[float, float]]:
    """The Brier score at each scale."""
    own = np.arange(len(codes))
    for scale in _SCALES:
        error = softmax(scale * cosines)
        error[own, codes] -= 1
        yield float(scale), float(np.average(np.square(error).sum(axis=1), weights=weight))


def _best_scale(
    cosines: Float[np.ndarray, "rows classes"],
    codes: Int[np.ndarray, " rows"],
    weight: Float64[np.ndarray, " rows"],
) -> float:
    if not len(codes):
        return _UNTUNED_SCALE
    return min(_scores_by_scale(cosines, codes, weight), key=lambda found: found[1])[0]


__all__ = ["LARGEST_CACHE", "Prototypes", "TipAdapter", "ZeroShot"]
