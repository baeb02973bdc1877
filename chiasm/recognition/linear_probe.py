"""The linear probe: multinomial logistic regression on frozen embeddings as a scikit-learn estimator.

The mathematics is `chiasm.recognition.linear`. Several modalities, missing ones and saving are left to
`chiasm.recognition.recognizer`; where embeddings come from, to whoever calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from chiasm.errors import LabelError
from chiasm.recognition.linear import class_weights, fit_classes, row_weights, stay_in_training
from chiasm.splits import Labels, Shots, deal, group_codes, label_codes, refuse_continuous, refuse_one_class
from chiasm.vectors import Unchecked, check_matrix, softmax

Rows: TypeAlias = Int[np.ndarray, " _"] | Iterable[int]


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Multinomial logistic regression with an L2 penalty, its strength chosen by fast cross-validation.

    Minimises `sum_i w_i * log_loss_i + strength / 2 * ||coef||^2`, the intercept not penalised: the objective of
    scikit-learn's `LogisticRegression(C=1 / strength)`, for two classes as for many, and the same solution. The strength
    is the one with the least Brier score on held-out items, see `chiasm.recognition.linear.fit_classes`.

    Args:
        strengths: what to choose from, each above 0. One value is used as it is. By default the path goes down from
            100 times the mean squared distance of the rows from their mean in half decades to 1e-6 of it, and stops
            after three strengths in a row that are worse than the best by more than a standard error.
        cv: number of folds, or the folds themselves as pairs of row numbers (train, test), where each row is in one test
            at most and in every train beside it. Dealt folds keep the shares of the classes and, with `fit(groups=...)`,
            never divide a group.
        class_weight: `"balanced"` gives every class the same total weight; a mapping gives weights by class, 1 where it
            has none.
        random_state: seed of the folds.

    Attributes:
        classes_: the classes, sorted.
        coef_: shape (classes, dim), or (1, dim) for two classes, as scikit-learn has it.
        intercept_: shape (classes,), or (1,) for two.
        strength_: the chosen strength.
        strengths_: those tried, strongest first. If the chosen one is the first or last of several, a better one may lie
            outside.
        cv_scores_: minus the Brier score by fold and strength; 0 is perfect. No folds: shape (0, strengths).
        n_iter_: iterations of the last fit, of all items at the chosen strength.
        n_features_in_: columns of X.

    A class is never absent from the training side of a fold: items whose fold would hold out all of their class (a
    class with one item, or with all its items in one group) stay in training there and are not scored.

    Computation is in the dtype of X, float32 or float64; sums are in float64. The weights are exact to about 1e-4
    (float32) or 1e-9 (float64). Fitting holds two copies of the rows for a moment; later one, and logits beside it.

    Example:
        >>> X = np.array([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.2]])
        >>> probe = LinearProbe(cv=2).fit(X, ["cat", "cat", "dog", "dog"])
        >>> probe.predict(np.array([[0.2, 0.8]])).tolist()
        ['cat']
    """

    classes_: Shaped[np.ndarray, " classes"]
    coef_: Float[np.ndarray, "classes dim"]
    intercept_: Float[np.ndarray, " classes"]
    strength_: float
    strengths_: Float64[np.ndarray, " strengths"]
    cv_scores_: Float64[np.ndarray, "folds strengths"]
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        *,
        strengths: Iterable[float] | Unchecked | None = None,
        cv: int | Iterable[tuple[Rows, Rows]] | Unchecked = 5,
        class_weight: Mapping[Any, float] | Literal["balanced"] | Unchecked | None = None,
        random_state: int | Unchecked = 0,
    ) -> None:
        self.strengths = strengths
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None = None,
        groups: Labels | None = None,
        extra: Shots | None = None,
    ) -> LinearProbe:
        """Choose the strength and fit all rows with it.

        Args:
            X: embeddings, one a row.
            y: one label a row.
            sample_weight: weight of each row; 2 is the same as the row twice, 0 as no row.
            groups: rows of one group are never on both sides of a fold.
            extra: labelled rows that every fold learns from and none is scored on. With them a class of one item can
                be held out, so that there is cross-validation at one shot.

        Raises:
            LabelError: labels are missing or continuous, there is one class only, or extra rows are of another width.
            ValueError: X holds NaN or infinite values, or the arguments do not fit together.
        """
        if np.asarray(y).ndim == 1:
            label_codes(y)  # refuses missing labels with their number, before scikit-learn words it without
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
        check_matrix(X)
        weight, own = row_weights(sample_weight, len(X)), len(X)
        if extra is not None:
            if extra.X.shape[1] != X.shape[1]:
                raise LabelError(f"extra shots are {extra.X.shape[1]} wide, X is {X.shape[1]}: embed them alike")
            X = np.vstack([X, extra.X.astype(X.dtype)])
            y = np.concatenate([np.asarray(y), extra.y])
            weight = np.concatenate([weight, extra.weight])
        used = np.flatnonzero(weight)
        self.classes_, codes_used = label_codes(np.asarray(y)[used])
        refuse_one_class(self.classes_, len(used))
        refuse_continuous(self.classes_)
        codes = np.zeros(len(X), dtype=np.int64)
        codes[used] = codes_used
        weight[used] = class_weights(codes_used, weight[used], self.class_weight, self.classes_.tolist())
        fold_of, mine = np.full(len(X), -1), used[used < own]
        group = None if groups is None else group_codes(groups, own)
        strengths = None if self.strengths is None else sorted(set(self.strengths))
        if strengths is None or len(strengths) != 1:  # else there is nothing to choose
            fold_of[mine] = self._folds(codes[:own], group, mine)
            everywhere = None if group is None else np.append(group[mine], -1 - np.arange(len(used) - len(mine)))
            fold_of[used] = stay_in_training(codes_used, fold_of[used], everywhere)
        fit = fit_classes(X, codes, fold_of=fold_of, weight=weight, strengths=strengths)
        self.strength_, self.strengths_, self.n_iter_ = fit.strength, fit.strengths, fit.iterations
        held = [np.flatnonzero(fold_of == fold) for fold in np.unique(fold_of[fold_of >= 0])]
        self.cv_scores_ = np.array(
            [-np.average(fit.losses[rows], axis=0, weights=weight[rows]) for rows in held]
        ).reshape(-1, len(fit.strengths))
        two = len(self.classes_) == 2
        self.coef_, self.intercept_ = fit.coef[two:], fit.intercept[two:]
        return self

    def _folds(
        self, codes: Int[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"] | None, used: Int[np.ndarray, " used"]
    ) -> Int[np.ndarray, " used"]:
        """Return the fold of each row with a weight."""
        if not isinstance(self.cv, int | np.integer):
            fold_of: Int[np.ndarray, " rows"] = np.full(len(codes), -1)
            for number, (train, test) in enumerate(self.cv):
                held = np.asarray(test)
                if (fold_of[held] >= 0).any() or len(np.union1d(np.asarray(train), held)) < len(codes):
                    raise ValueError(
                        f"cv: fold {number} holds out rows that another does, or leaves some out of training"
                    )
                fold_of[held] = number
            mine: Int[np.ndarray, " used"] = fold_of[used]
            return mine
        if self.cv < 2:
            raise ValueError(f"cv must be at least 2 folds; got {self.cv}")
        group = None if groups is None else np.unique(groups[used], return_inverse=True)[1]
        folds = min(int(self.cv), len(used) if group is None else int(group.max(initial=-1)) + 1)
        if folds < 2:  # one group cannot be divided
            return np.full(len(used), -1)
        return deal(codes[used], folds, seed=self.random_state, groups=group)

    def decision_function(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows ..."]:
        """Return logits, shape (rows, classes); for two classes the logit of the second, shape (rows,).

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self)
        X = check_matrix(validate_data(self, X, reset=False, dtype=[np.float64, np.float32], ensure_all_finite=False))
        logits: Float[np.ndarray, "rows classes"] = X @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows classes"]:
        """Return class probabilities, in the order of `classes_`.

        Raises:
            ValueError: as `decision_function`.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        return softmax(logits)

    def predict(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Shaped[np.ndarray, " rows"]:
        """Return the most probable class of each row.

        Raises:
            ValueError: as `decision_function`.
        """
        logits = self.decision_function(X)
        best = (logits > 0).astype(np.intp) if logits.ndim == 1 else logits.argmax(axis=1)
        labels: Shaped[np.ndarray, " rows"] = self.classes_[best]
        return labels
