"""Choose the weight of a source domain beside the target by held-out scores of the target.

Arrays in, a decision out. How a source enters the loss is left to the classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from chiasm.vectors import Unchecked


@dataclass(frozen=True)
class AlphaChoice:
    """The weight of the source, and the evidence for it.

    Attributes:
        alpha: weight of the source; 0 where it is not used.
        refused: a source was tried and is not used.
        scores: mean held-out score of the target at every weight.
        gains: mean difference from the target alone, fold by fold.
        standard_errors: of these differences.
        sentence: for the report.
    """

    alpha: float
    refused: bool
    scores: dict[float, float]
    gains: dict[float, float]
    standard_errors: dict[float, float]
    sentence: str


def choose_alpha(scores_by_alpha: Mapping[float, Float[np.ndarray, " folds"] | Unchecked]) -> AlphaChoice:
    """Choose the weight of the source; refuse the source unless held-out scores show that it helps.

    Take the weight with the best mean score (of equal ones the smallest) among those that beat the target alone by more
    than one standard error of the paired difference over the folds; 0 if there is none.

    Args:
        scores_by_alpha: held-out scores of the target (higher is better) for every weight in [0, 1], 0 among them, on the
            same folds in the same order.

    Raises:
        ValueError: 0 is missing, a weight is outside [0, 1], there are fewer than 2 folds, their numbers differ, or a
            score is not a finite number.

    Example:
        >>> choice = choose_alpha({0.0: [0.50, 0.52, 0.51], 0.5: [0.60, 0.61, 0.62]})
        >>> choice.alpha
        0.5
        >>> choice.sentence
        'The source is used with weight 0.5: held-out score 0.610 against 0.510 with the target alone (+0.100, standard error 0.006, 3 folds).'
    """
    scores = {float(alpha): np.asarray(scores_by_alpha[alpha], dtype=np.float64) for alpha in sorted(scores_by_alpha)}
    if 0.0 not in scores:
        raise ValueError(f"scores of alpha 0 (target only) are needed to compare with; got alphas {list(scores)}")
    for alpha, of_folds in scores.items():
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is a weight from 0 to 1; got {alpha}")
        if of_folds.shape != scores[0.0].shape or of_folds.ndim != 1 or len(of_folds) < 2:
            raise ValueError(
                "every alpha needs one score a fold, of the same 2 or more folds; got shape "
                f"{scores[0.0].shape} for alpha 0 and {of_folds.shape} for alpha {alpha}"
            )
        if not np.isfinite(of_folds).all():
            raise ValueError(f"scores must be finite numbers; alpha {alpha} has {of_folds.tolist()}")
    folds = len(scores[0.0])
    differences = {alpha: of_folds - scores[0.0] for alpha, of_folds in scores.items()}
    means = {alpha: float(of_folds.mean()) for alpha, of_folds in scores.items()}
    gains = {alpha: float(difference.mean()) for alpha, difference in differences.items()}
    errors = {alpha: float(d.std(ddof=1) / np.sqrt(folds)) for alpha, d in differences.items()}
    winners = [alpha for alpha in scores if gains[alpha] > errors[alpha]]
    chosen = max(winners, key=means.__getitem__, default=0.0)
    others = [alpha for alpha in scores if alpha > 0]
    refused = bool(others) and chosen == 0
    shown = chosen if chosen else max(others, key=means.__getitem__, default=0.0)
    against = (
        f"held-out score {means[shown]:.3f} against {means[0.0]:.3f} with the target alone "
        f"({gains[shown]:+.3f}, standard error {errors[shown]:.3f}, {folds} folds)"
    )
    if chosen:
        sentence = f"The source is used with weight {chosen:g}: {against}."
    elif not refused:
        sentence = f"No source was tried: held-out score {means[0.0]:.3f} with the target alone ({folds} folds)."
    elif gains[shown] <= 0:
        sentence = f"The source is refused, it would hurt: at its best weight, {shown:g}, {against}."
    else:
        sentence = f"The source is refused, its gain could be chance: at its best weight, {shown:g}, {against}."
    return AlphaChoice(chosen, refused, means, gains, errors, sentence)
