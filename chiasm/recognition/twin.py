"""An interpretable twin of a recogniser: a sparse linear model on few scores that people can name.

What is scored (similarity to words) and how the twin compares with the recogniser is left to `chiasm.verbs.twin`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.splits import grouped_stratified_folds

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # the inverse of the penalty's weight
FOLDS = 5


def fit_twin(
    scores: Float[np.ndarray, "items concepts"], labels: Shaped[np.ndarray, " items"], groups: Int[np.ndarray, " items"]
) -> LogisticRegression:
    """Fit a logistic regression with an L1 penalty (the lasso, Tibshirani 1996) on scores of concepts.

    The penalty is the strongest whose macro-F1 in cross-validation is within one standard error of the best (the
    one-standard-error rule, Breiman et al. 1984, section 3.4.3).

    Args:
        scores: of the items, about as large for each concept.
        labels: of the items.
        groups: items that must not stand on both sides of a split share a number.

    Raises:
        LabelError: the items are all of one class or one group.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    folds = min(FOLDS, len(np.unique(groups)))
    splits = grouped_stratified_folds(labels, folds, groups=groups) if folds > 1 else ()
    usable = [(split.train, split.test) for split in splits if len(np.unique(labels[split.train])) > 1]
    if len(usable) < 2:
        raise LabelError(
            "a twin needs items of two classes, and several of each that are no near-duplicates of one another"
        )
    search = GridSearchCV(
        LogisticRegression(l1_ratio=1.0, solver="saga", tol=1e-3, max_iter=5000, random_state=0),
        {"C": STRENGTHS},
        scoring="f1_macro",
        cv=usable,
        refit=_simplest,
    )
    search.fit(scores, labels)
    twin: LogisticRegression = search.best_estimator_
    return twin


def _simplest(results: Mapping[str, Any]) -> int:
    """Return the first strength, the strongest penalty, that is within one standard error of the best."""
    means = np.asarray(results["mean_test_score"])
    best = int(means.argmax())
    folds = sum(name.startswith("split") for name in results)
    error = results["std_test_score"][best] / np.sqrt(folds - 1)
    return int(np.argmax(means >= means[best] - error))


def rules_of(twin: LogisticRegression, concepts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the weights that are not zero by class and concept, the largest first; of two classes both have them."""
    coef: Float64[np.ndarray, "classes concepts"] = twin.coef_
    if len(coef) == 1:
        coef = np.vstack([-coef, coef])
    return {
        str(name): {concepts[column]: float(row[column]) for column in np.argsort(-row, kind="stable") if row[column]}
        for name, row in zip(twin.classes_, coef, strict=True)
    }
