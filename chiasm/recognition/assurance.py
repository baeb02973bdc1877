"""What a recogniser may promise: calibrated probabilities, sets of classes, and an alarm for items of no known class.

This module puts `calibration`, `conformal`, `novelty` and `open_world` to work on held-out items. Which items those are
and what was predicted for them comes from `chiasm.recognition.fitting`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int

from chiasm.errors import LabelError
from chiasm.recognition.calibration import Calibration, fit_calibration
from chiasm.recognition.conformal import ConformalSets, fit_conformal_sets
from chiasm.recognition.heads import Head
from chiasm.recognition.ladder import RungOptions, Task, fit_rung
from chiasm.recognition.novelty import ScoreName, fit_unknown_score
from chiasm.recognition.open_world import (
    UnknownDetector,
    choose_unknown_score,
    cross_fitted_scores,
    fit_unknown_detector,
)

FEWEST_HELD_OUT = 20
"""Items below which nothing is promised: it would be noise."""

_ONE_BY_ONE = 100  # items up to which each is held out alone: with ten folds false alarms came out half as often
_BY_LOGITS: tuple[ScoreName, ...] = ("energy", "max_probability")


def calibrate(
    log: Float64[np.ndarray, "items classes"],
    codes: Int[np.ndarray, " items"],
    groups: Int[np.ndarray, " items"] | None,
    *,
    seed: int,
) -> tuple[Calibration, ConformalSets] | None:
    """Calibration and conformal sets from held-out log-probabilities; None where there are too few.

    Args:
        log: one row an item, NaN where it was not held out. Items whose own class could not be known do not count.
        codes: their classes.
        groups: items of one group are never on both sides of a fold.
        seed: of folds and draws.
    """
    scored = np.flatnonzero(np.isfinite(log[np.arange(len(codes)), codes]))
    true = codes[scored]
    group = None if groups is None else groups[scored]
    if len(scored) < FEWEST_HELD_OUT or len(np.unique(true)) < 2 or (group is not None and len(np.unique(group)) < 2):
        return None
    calibration = fit_calibration(log[scored], true, groups=group, seed=seed)
    return calibration, fit_conformal_sets(calibration.apply(log[scored]), true, seed=seed)


def detect_unknown(
    head: Head,
    task: Task,
    *,
    wanted: ScoreName | Literal["auto"],
    learn: Callable[[Int[np.ndarray, " train"]], Task],
    options: RungOptions,
) -> UnknownDetector | None:
    """A detector for items unlike those of a task; None where there are too few items to promise a rate.

    Args:
        head: fitted on the task.
        task: the items to know.
        wanted: the score, or `"auto"`: knn or mahalanobis, whichever tells left-out classes best, and knn up to 100 items:
            the class means of mahalanobis move with every item held out. (Stamps, 5 shots, asked for 5 and 10 % false
            alarms: mahalanobis 0.3 and 4 %, knn 2.5 and 9.8 %. The scores of logits need the head fitted anew for every
            class left out, and told unknown stamps no better: AUC 0.882 for knn, 0.877 for energy.)
        learn: the task without some rows of it, from the numbers of the others.
        options: of the head's rung.
    """
    codes, features = task.codes, task.rows
    counts = np.bincount(codes)
    if len(codes) < FEWEST_HELD_OUT or counts.max() < 2:
        return None
    if head.rung == "linear":
        options = replace(options, strengths=(head.numbers["strength"],))

    def scores_of(names: tuple[ScoreName, ...]) -> Callable[[Any, Any], dict[str, Float64[np.ndarray, " test"]]]:
        def fit_and_score(
            train: Int[np.ndarray, " train"], test: Int[np.ndarray, " test"]
        ) -> dict[str, Float64[np.ndarray, " test"]]:
            logits = np.zeros((len(test), 2))
            if set(names) & set(_BY_LOGITS):
                logits = fit_rung(head.rung, learn(train), options).logits(features[test])
            return {
                name: fit_unknown_score(name, features[train], codes[train]).scores(features[test], logits)
                for name in names
            }

        return fit_and_score

    name: ScoreName = "knn" if wanted == "auto" else wanted
    try:
        if wanted == "auto" and len(codes) > _ONE_BY_ONE:
            seen = counts[counts > 0]
            if len(seen) > 2 and seen.max() > 2 and seen.min() > 1:
                usable: tuple[ScoreName, ...] = ("knn", "mahalanobis")
                choice = choose_unknown_score(scores_of(usable), codes, groups=task.groups, seed=options.seed)
                name = next(found for found in usable if found == choice.name)
        folds = len(codes) if len(codes) <= _ONE_BY_ONE else 10
        held = cross_fitted_scores(scores_of((name,)), codes, folds=folds, groups=task.groups, seed=options.seed)
    except LabelError:  # nothing can be held out, or nothing learned without it: there is no rate to promise
        return None
    return fit_unknown_detector(name, features, codes, held_out_scores=held[name])


__all__ = ["FEWEST_HELD_OUT", "calibrate", "detect_unknown"]
