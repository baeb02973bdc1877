"""Whether columns are recognised better by other features: the losses of held-out items, before and after.

What is compared is outputs as `chiasm.recognition.columns.Fitted` holds them out; where they come from is left to
`chiasm.verbs.climb`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from chiasm.finetuning.results import Score, TunedColumn
from chiasm.recognition.columns import Outputs
from chiasm.recognition.joint import losses_of
from chiasm.recognition.ladder import f1_macro, paired, tempered_brier
from chiasm.recognition.regressions import choose_thresholds, label_f1
from chiasm.recognition.targets import Target
from chiasm.vectors import sigmoid

_ROUNDING = 1e-4  # of a loss: the same network, run by another library, differs by less


@dataclass(frozen=True)
class Comparison:
    """Columns before and after.

    Attributes:
        columns: each by itself.
        better_by: loss, above 0: better; of several columns the mean, each in units of what its frequencies alone would lose.
        standard_error: of that.
    """

    columns: tuple[TunedColumn, ...]
    better_by: float
    standard_error: float

    @property
    def is_better(self) -> bool:
        """Return whether all in all is better by more than a standard error, and no column is worse.

        One column of classes must not lose macro-F1; of several none may lose more than a standard error.
        """
        if not self.better_by > max(self.standard_error, _ROUNDING):
            return False
        if len(self.columns) > 1:
            return not self.worse
        (only,) = self.columns
        before, after = only.frozen.f1_macro, only.tuned.f1_macro
        return only.kind != "classes" or before is None or after is None or after >= before

    @property
    def worse(self) -> tuple[str, ...]:
        """Return the columns that lose by more than a standard error."""
        return tuple(one.column for one in self.columns if one.better_by < -max(one.standard_error, _ROUNDING))


def compare(targets: Sequence[Target], before: Sequence[Outputs], after: Sequence[Outputs]) -> Comparison:
    """Compare outputs for the same items, item by item.

    Args:
        targets: the columns; items may lack values.
        before: outputs for each column, NaN where there are none.
        after: alike. What only one of the two has an output for does not count.

    Example:
        >>> target = Target("side", "number", np.array([0.0, 1.0, 2.0]), np.ones(3, dtype=bool), np.empty(0))
        >>> comparison = compare([target], [np.array([[1.0], [1.0], [1.0]])], [np.array([[0.0], [1.0], [2.0]])])
        >>> round(comparison.better_by, 3), comparison.columns[0].tuned.r2
        (1.0, 1.0)
    """
    columns: list[TunedColumn] = []
    gains = []  # of each item, in units of what the frequencies alone would lose, 0 where it has none
    for target, *both in zip(targets, before, after, strict=True):
        one, other = (np.where(np.isnan(both[0]) | np.isnan(both[1]), np.nan, outputs) for outputs in both)
        losses = _losses(target, one), _losses(target, other)
        gain, error = paired(*losses)
        columns.append(
            TunedColumn(
                target.column,
                target.kind,
                _score(target, one, losses[0]),
                _score(target, other, losses[1]),
                gain,
                error,
            )
        )
        differences = losses[0] - losses[1]
        compared = np.isfinite(differences)
        if compared.any():
            gains.append(np.where(compared, differences, 0.0) / (compared.mean() * _chance(target)))
    if len(columns) == 1 or not gains:
        return Comparison(tuple(columns), columns[0].better_by, columns[0].standard_error)
    mean = np.mean(gains, axis=0)
    return Comparison(tuple(columns), *paired(mean, np.zeros(len(mean))))


def _losses(target: Target, outputs: Outputs) -> Float64[np.ndarray, " items"]:
    """Return the loss of each item: as `losses_of`, but classes at the best temperature, and labels that have an output."""
    if target.kind == "classes":
        return tempered_brier(np.where(target.known[:, None], outputs, np.nan), target.values)
    if target.kind == "labels":
        has = np.isfinite(outputs).any(axis=1) & target.known
        squares = np.square(sigmoid(outputs) - target.values)
        return np.where(has, np.where(np.isfinite(outputs), squares, 0.0).sum(axis=1), np.nan)
    return losses_of(target, outputs)


def _chance(target: Target) -> float:
    """Return the mean loss of predicting the frequencies of classes or labels, or the mean."""
    if target.kind == "number":
        return 1.0
    known = target.values[target.known]
    share = known.mean(axis=0) if target.kind == "labels" else np.bincount(known) / len(known)
    return float((share * (1 - share)).sum())


def _score(target: Target, outputs: Outputs, losses: Float64[np.ndarray, " items"]) -> Score:
    scored = np.isfinite(losses)
    if not scored.any():
        return Score(float("nan"))
    loss = float(losses[scored].mean())
    if target.kind == "number":
        return Score(loss, r2=1 - loss)
    if target.kind == "labels":
        some = np.isfinite(outputs) & scored[:, None]
        chance = np.where(some, sigmoid(outputs), np.nan)
        has = some & (np.where(some, chance, 0.0) > choose_thresholds(chance, target.values))
        return Score(loss, f1_macro=label_f1(target.values & some, has))
    log = np.where(scored[:, None], outputs, np.nan)
    right = log[scored].argmax(axis=1) == target.values[scored]
    return Score(loss, f1_macro=f1_macro(log, target.values), accuracy=float(right.mean()))
