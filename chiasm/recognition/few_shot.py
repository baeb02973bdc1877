"""Classifiers for a handful of labels: the names of the classes alone, and class means.

The rungs below the linear probe. Rows are compared with one vector a class by cosine; the scale of the logits is the one
with the lowest Brier score on held-out rows. Which rung is taken is decided in `chiasm.recognition.ladder`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from chiasm.errors import LabelError
from chiasm.splits import Labels, Shots, deal, group_codes, label_codes, refuse_continuous, refuse_one_class
from chiasm.vectors import Unchecked, brier_scores, softmax, unit_rows

_SCALES = np.logspace(0, 2, 13)  # of cosines; CLIP learned 100
_UNTUNED_SCALE = 10.0  # where nothing can be held out


class _CosineClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Prediction from one scaled unit vector a class."""

    classes_: Shaped[np.ndarray, " classes"]
    coef_: Float[np.ndarray, "classes dim"]
    scale_: float
    n_features_in_: int

    def predict_proba(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows classes"]:
        """Return class probabilities, in the order of `classes_`.

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return softmax(unit_rows(X) @ self.coef_.T)

    def predict(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Shaped[np.ndarray, " rows"]:
        """Return the most probable class of each row.

        Raises:
            ValueError: as `predict_proba`.
        """
        best = self.predict_proba(X).argmax(axis=1)
        labels: Shaped[np.ndarray, " rows"] = self.classes_[best]
        return labels

    def _checked(
        self, X: Any, y: Any, shots: Shots | None
    ) -> tuple[Float[np.ndarray, "rows dim"], Shaped[np.ndarray, " rows"]]:
        """Return unit rows and their labels."""
        if np.asarray(y).ndim == 1:
            label_codes(y)  # names missing labels, where scikit-learn does not
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        refuse_continuous(np.unique(y))
        if shots is not None and shots.X.shape[1] != X.shape[1]:
            raise LabelError(f"extra shots are {shots.X.shape[1]} wide, X is {X.shape[1]}: embed them alike")
        return unit_rows(X), np.asarray(y)


class ZeroShot(_CosineClassifier):
    """Recognise by the embedded names of the classes alone; labelled rows only set the scale of the probabilities.

    Radford et al. 2021 (CLIP), section 3.1. The names come as `anchors`, rows in the space of X; several of one class,
    such as prompt templates, are averaged.

    Attributes:
        classes_: all classes with a name, sorted.
        coef_: the unit anchors times the scale, shape (classes, dim).
        scale_: of the cosines.

    Example:
        >>> names = Shots(np.array([[1.0, 0.1], [0.1, 1.0]]), np.array(["cat", "dog"]))
        >>> model = ZeroShot().fit([[0.9, 0.2], [0.2, 0.7]], ["cat", "dog"], anchors=names)
        >>> model.predict([[2.0, 0.5]]).tolist()
        ['cat']
    """

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        groups: Labels | None = None,  # noqa: ARG002  names depend on no label, so every row is held out
        *,
        anchors: Shots | None = None,
    ) -> ZeroShot:
        """Take the anchors and choose the scale.

        Raises:
            LabelError: no anchors, or classes of y without one.
        """
        rows, labels = self._checked(X, y, anchors)
        if anchors is None:
            raise LabelError("zero-shot needs the embedded names of the classes as anchors")
        self.classes_, codes = label_codes(anchors.y)
        unnamed = np.setdiff1d(labels, self.classes_)
        if len(unnamed):
            raise LabelError(f"zero-shot needs a name for every class; {len(unnamed)} have none, e.g. {unnamed[0]!s}")
        means = unit_rows(_sums(anchors.X, codes, anchors.weight, len(self.classes_)))
        self.scale_ = _best_scale(rows @ means.T, np.searchsorted(self.classes_, labels))
        self.coef_ = (self.scale_ * means).astype(rows.dtype)
        return self


class Prototypes(_CosineClassifier):
    """Recognise by the nearest class mean (prototypical networks, Snell et al. 2017), by cosine.

    Anchors (embedded names of the classes) and other extra shots count as rows of their class.

    Args:
        folds: on which the scale of the probabilities is chosen.
        random_state: seed of the folds.

    Attributes:
        classes_: the classes, sorted.
        coef_: the unit means times the scale, shape (classes, dim).
        scale_: of the cosines.

    Example:
        >>> model = Prototypes().fit([[0.9, 0.2], [0.8, 0.1], [0.2, 0.7]], ["cat", "cat", "dog"])
        >>> model.predict([[0.1, 2.0]]).tolist()
        ['dog']
    """

    def __init__(self, *, folds: int | Unchecked = 5, random_state: int | Unchecked = 0) -> None:
        self.folds = folds
        self.random_state = random_state

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        groups: Labels | None = None,
        *,
        extra: Shots | None = None,
    ) -> Prototypes:
        """Take the means and choose the scale.

        Raises:
            LabelError: labels are missing or of one class only, or extra rows are of another width.
            ValueError: fewer than 2 folds, or values that are not finite.
        """
        rows, labels = self._checked(X, y, extra)
        self.classes_, codes = label_codes(labels if extra is None else np.concatenate([labels, extra.y]))
        refuse_one_class(self.classes_, len(labels))
        own, classes = codes[: len(rows)], len(self.classes_)
        fold_of = self._fold_of(own, None if groups is None else group_codes(groups, len(rows)))
        total = _sums(rows, own, np.ones(len(rows)), classes)
        if extra is not None:
            total += _sums(extra.X, codes[len(rows) :], extra.weight, classes)
        cosines = np.full((len(rows), classes), -np.inf)
        for fold in range(fold_of.max() + 1):
            held = fold_of == fold
            rest = total - _sums(rows[held], own[held], np.ones(held.sum()), classes)
            known = np.linalg.norm(rest, axis=1) > 1e-6 * np.linalg.norm(total, axis=1)
            cosines[np.ix_(held, known)] = rows[held] @ unit_rows(rest[known]).T
        scored = np.isfinite(cosines[np.arange(len(own)), own]) & (np.isfinite(cosines).sum(axis=1) > 1)
        self.scale_ = _best_scale(cosines[scored], own[scored])
        self.coef_ = (self.scale_ * unit_rows(total)).astype(rows.dtype)
        return self

    def _fold_of(
        self, codes: Int[np.ndarray, " rows"], group: Int[np.ndarray, " rows"] | None
    ) -> Int[np.ndarray, " rows"]:
        """Return the fold of each row; one fold for all where they cannot be divided."""
        if self.folds < 2:
            raise ValueError(f"folds must be at least 2; got {self.folds}")
        folds = min(int(self.folds), len(codes) if group is None else int(group.max()) + 1)
        if folds < 2:
            return np.zeros(len(codes), dtype=np.int64)
        return deal(codes, folds, seed=self.random_state, groups=group)


def _sums(
    rows: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    weight: Float64[np.ndarray, " rows"],
    classes: int,
) -> Float64[np.ndarray, "classes dim"]:
    """Return the weighted sum of the unit rows of each class."""
    sums = np.zeros((classes, rows.shape[1]))
    np.add.at(sums, codes, weight[:, None] * unit_rows(rows.astype(np.float64)))
    return sums


def _best_scale(cosines: Float[np.ndarray, "rows classes"], codes: Int[np.ndarray, " rows"]) -> float:
    """Return the scale with the lowest Brier score."""
    if not len(codes):
        return _UNTUNED_SCALE
    scores = [brier_scores(softmax(scale * cosines), codes).mean() for scale in _SCALES]
    return float(_SCALES[int(np.argmin(scores))])


__all__ = ["Prototypes", "ZeroShot"]
