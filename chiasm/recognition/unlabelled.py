"""Labels for unlabelled items, guessed from the labelled ones: self-training and label spreading, both scikit-learn's.

Feature rows in, weighted rows out. Whether they help is decided on held-out items, in `chiasm.recognition.fitting`.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

from chiasm.splits import Shots

SemiName: TypeAlias = Literal["self-training", "spreading"]

_NEIGHBOURS = 10
_SPREAD = 0.9  # share of a row's label that comes from its neighbours
_ROUND = 0.2  # of the unlabelled rows, the most confident, labelled in each round of self-training
_ROUNDS = 4  # so that the least confident fifth is never used


def guess_labels(
    kind: SemiName,
    rows: Float[np.ndarray, "labelled dim"],
    codes: Int[np.ndarray, " labelled"],
    unlabelled: Float[np.ndarray, "unlabelled dim"],
) -> Shots | None:
    """Guess the classes of unlabelled rows.

    - `"self-training"`: the nearest class mean labels the rows it is most confident of, learns from them and goes on
      (`sklearn.semi_supervised.SelfTrainingClassifier`). It moves class borders into the gaps between clusters.
    - `"spreading"`: labels spread along the graph of nearest neighbours (`sklearn.semi_supervised.LabelSpreading`; Zhou et
      al. 2004, NIPS). It follows clusters of any shape.

    Args:
        kind: the method.
        rows: labelled feature rows of unit length.
        codes: the class of each.
        unlabelled: feature rows of unit length without a label.

    Returns:
        The rows that could be labelled, with the confidence in each label as weight; None if there are none, or if the
        labelled rows are of fewer than two classes.

    Example:
        >>> rows = np.array([[1.0, 0.0], [0.0, 1.0]])
        >>> shots = guess_labels("spreading", rows, np.array([0, 1]), np.array([[0.8, 0.6]] * 3))
        >>> shots.y.tolist()
        [0, 0, 0]
    """
    if len(np.unique(codes)) < 2:
        return None
    X = np.vstack([rows, unlabelled])
    y = np.concatenate([codes, np.full(len(unlabelled), -1)])
    if kind == "spreading":
        from sklearn.semi_supervised import LabelSpreading

        # A row is among its own neighbours in the graph.
        neighbours = min(_NEIGHBOURS + 1, len(X))
        spreading = LabelSpreading(kernel="knn", n_neighbors=neighbours, alpha=_SPREAD, max_iter=1000, tol=1e-6).fit(
            X, y
        )
        shares = spreading.label_distributions_[len(rows) :]  # all 0 where no path leads to a label
        guesses, confidence = spreading.classes_[shares.argmax(axis=1)], shares.max(axis=1)
    else:
        from sklearn.semi_supervised import SelfTrainingClassifier

        from chiasm.recognition.few_shot import Prototypes

        training = SelfTrainingClassifier(
            Prototypes(), criterion="k_best", k_best=int(np.ceil(_ROUND * len(unlabelled))), max_iter=_ROUNDS
        ).fit(X, y)
        guesses = training.transduction_[len(rows) :]
        confidence = np.where(guesses >= 0, training.predict_proba(unlabelled).max(axis=1), 0.0)
    labelled = np.flatnonzero(confidence > 0)
    if not len(labelled):
        return None
    return Shots(unlabelled[labelled], guesses[labelled], confidence[labelled])
