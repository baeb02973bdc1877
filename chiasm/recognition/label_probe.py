"""Many yes-or-no labels of the same rows: one logistic regression a label, all solved together.

This module knows how to fit the labels of multi-label rows, and to choose the strength of their penalty, in one run over
shared coordinates. `chiasm.recognition.linear_probe` does the same for classes that exclude each other; one of its fits a
label took 2 s on 5,000 rows of 1,664 columns, so over 3 minutes for 100 labels; this took 20 s, on the same one core.
Thresholds, names of labels and what an absent label means are left to `chiasm.recognition.predictor`. Plain numpy.

Rows are put into the eigenvectors of their Gram matrix (`chiasm.alignment.ridge.Spectrum`). There, the curvature of every
label's loss is nearly diagonal, which makes a good preconditioner of the truncated Newton method (conjugate gradients on
the Hessian, Nocedal & Wright 2006, section 7.1). All labels and folds are stacked, so that a step of all of them is one
matrix product. Strengths are followed from the strongest, each starting from the last solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from chiasm.alignment.ridge import Spectrum
from chiasm.errors import LabelError

_STRONGEST, _WEAKEST, _PER_DECADE = 2, -6, 2  # as the linear probe's: powers of ten, relative to the rows' variance
_UNTUNED = 1e-3  # of the variance, where nothing can be held out
_FEWEST_POSITIVE = 2  # rows with a label below which it has no part in choosing the strength
_PATIENCE = 2  # strengths in a row that are worse than the best before the path stops
_PATH_TOLERANCE, _TOLERANCE = 3e-4, 1e-7
_MAX_STEPS, _MAX_INNER, _MAX_HALVINGS = 50, 100, 20
_STACK = 2**22  # logits of a stack of problems: 16 MB an array, of which there are about ten

Logits: TypeAlias = Float32[np.ndarray, "problems rows"]


@dataclass(frozen=True, eq=False)
class LabelProbe:
    """Fitted logistic regressions, one a label.

    Attributes:
        coef: logits = rows @ coef.T + intercept.
        intercept: not penalised.
        strength: of the penalty, the same for all labels.
        strengths: those compared, strongest first; the one alone where no label tells.
        scores: mean Brier score of held-out rows at each, of each label in units of what its frequency alone gives; NaN
            where no label tells.
        held_out: logits of each row by the rows of other folds, at the strength taken; NaN where a label is not known or
            cannot be held out.
    """

    coef: Float32[np.ndarray, "labels dim"]
    intercept: Float32[np.ndarray, " labels"]
    strength: float
    strengths: Float64[np.ndarray, " strengths"]
    scores: Float64[np.ndarray, " strengths"]
    held_out: Float64[np.ndarray, "rows labels"]


def fit_label_probe(
    X: Float[np.ndarray, "rows dim"],
    Y: Bool[np.ndarray, "rows labels"],
    *,
    fold_of: Int[np.ndarray, " rows"],
    known: Bool[np.ndarray, "rows labels"] | None = None,
    strengths: tuple[float, ...] | None = None,
) -> LabelProbe:
    """Minimise, for every label, `sum of log losses + strength / 2 * ||coef||^2` over the rows whose label is known.

    The strength is the one with the least held-out Brier score, on average over labels, each in units of the score that
    its frequency alone would give, so that rare labels count as much as common ones. Labels that fewer than two of the
    rows that are held out have tell nothing: from the others alone, the strongest penalty looks best. If all are such, the
    strength is 1e-3 of the rows' variance, or the nearest of `strengths`.

    Args:
        X: rows.
        Y: their labels.
        fold_of: the fold of each row, -1 where it is always learned from. A row of a fold from which some label could not
            be learned (all other rows have it, or none has) is not scored for that label.
        known: where labels are known; by default everywhere.
        strengths: what to choose from, each above 0; by default half decades from 100 times the rows' variance down to
            1e-6 of it, until two in a row are worse than the best.

    Raises:
        LabelError: a label has no row with it or none without, or a strength is not finite and above 0.
    """
    weights = np.ones(Y.shape, dtype=bool) if known is None else known
    for number in range(Y.shape[1]):
        values = Y[weights[:, number], number]
        if values.all() or not values.any():
            raise LabelError(f"label {number}: {'all' if len(values) and values.all() else 'no'} rows have it")
    spectrum = Spectrum.of(X)
    rows = spectrum.rows.astype(np.float32)
    variance = float(spectrum.energy.sum() / len(X)) or 1.0
    if strengths is None:
        tried = variance * 10.0 ** np.linspace(_STRONGEST, _WEAKEST, (_STRONGEST - _WEAKEST) * _PER_DECADE + 1)
    else:
        tried = np.unique(np.asarray(strengths, dtype=np.float64))[::-1]
        if not len(tried) or not (np.isfinite(tried) & (tried > 0)).all():
            raise LabelError(f"strengths must be one or more finite values above 0; got {strengths!r}")
    folds = _Folds.of(Y, weights, fold_of)
    telling = (Y & weights & (fold_of >= 0)[:, None]).sum(axis=0) >= _FEWEST_POSITIVE
    if not telling[folds.label].any():
        nearest = int(np.abs(np.log(tried / (_UNTUNED * variance))).argmin())
        tried = tried[nearest : nearest + 1]
    held_out, chosen = np.full(Y.shape, np.nan), 0
    scores = np.full(1, np.nan)
    if len(folds.label):
        path: list[float] = []
        start = None
        for number, strength in enumerate(tried):
            start = _minimise(rows, spectrum.energy, Y, folds, strength, start, _PATH_TOLERANCE)
            logits = folds.held_logits(start, rows)
            path.append(_relative_brier(logits, Y, weights, telling))
            if number == 0 or path[-1] < path[chosen]:
                held_out, chosen = logits, number
            elif strengths is None and number - chosen >= _PATIENCE:
                break
        scores, tried = np.array(path), tried[: len(path)]
    strength = float(tried[chosen])
    solution = _minimise(rows, spectrum.energy, Y, _Folds.whole(Y, weights), strength, None, _TOLERANCE)
    coef, intercept = spectrum.restore(solution[:, :-1], solution[:, -1])
    return LabelProbe(coef.astype(np.float32), intercept.astype(np.float32), strength, tried, scores, held_out)


@dataclass(frozen=True, eq=False)
class _Folds:
    """The problems to solve: which label each is of, and which rows it learns from and holds out."""

    label: Int[np.ndarray, " problems"]
    fold: Int[np.ndarray, " problems"]  # -1: nothing is held out
    fold_of: Int[np.ndarray, " rows"]
    known: Bool[np.ndarray, "rows labels"]

    @classmethod
    def of(
        cls,
        Y: Bool[np.ndarray, "rows labels"],
        known: Bool[np.ndarray, "rows labels"],
        fold_of: Int[np.ndarray, " rows"],
    ) -> _Folds:
        """Every fold and label that can be learned without the fold's rows and has some to score."""
        label, fold = [], []
        for number in range(int(fold_of.max(initial=-1)) + 1):
            trained = known & (fold_of != number)[:, None]
            able = (Y & trained).any(axis=0) & (~Y & trained).any(axis=0) & (known & ~trained).any(axis=0)
            label.append(np.flatnonzero(able))
            fold.append(np.full(int(able.sum()), number))
        none = np.empty(0, dtype=np.int64)
        return cls(np.concatenate([none, *label]), np.concatenate([none, *fold]), fold_of, known)

    @classmethod
    def whole(cls, Y: Bool[np.ndarray, "rows labels"], known: Bool[np.ndarray, "rows labels"]) -> _Folds:
        """Every label, learned from all rows."""
        labels = np.arange(Y.shape[1])
        return cls(labels, np.full(len(labels), -1), np.full(len(Y), -2), known)

    def trained(self, problems: slice) -> Bool[np.ndarray, "problems rows"]:
        trained: Bool[np.ndarray, "problems rows"] = self.known.T[self.label[problems]] & (
            self.fold_of != self.fold[problems, None]
        )
        return trained

    def held_logits(
        self, weights: Float32[np.ndarray, "problems columns"], rows: Float32[np.ndarray, "rows rank"]
    ) -> Float64[np.ndarray, "rows labels"]:
        """Of each row by the problem that held it out."""
        logits = np.full(self.known.shape, np.nan)
        for number in np.unique(self.fold):
            held, problems = np.flatnonzero(self.fold_of == number), np.flatnonzero(self.fold == number)
            logits[np.ix_(held, self.label[problems])] = rows[held] @ weights[problems, :-1].T + weights[problems, -1]
        logits[~self.known] = np.nan
        return logits


def _relative_brier(
    logits: Float64[np.ndarray, "rows labels"],
    Y: Bool[np.ndarray, "rows labels"],
    known: Bool[np.ndarray, "rows labels"],
    telling: Bool[np.ndarray, " labels"],
) -> float:
    """Of the labels that tell, on average; NaN where none was held out."""
    scored = np.isfinite(logits)
    square = np.where(scored, np.square(sigmoid(np.where(scored, logits, 0)) - Y), 0).sum(axis=0)
    share = (Y & known).sum(axis=0) / known.sum(axis=0)
    count = scored.sum(axis=0)
    relative = square / np.maximum(count, 1) / (share * (1 - share))
    told = telling & (count > 0)
    return float(relative[told].mean()) if told.any() else float("nan")


def sigmoid(logits: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Probabilities from logits, without overflow."""
    small = np.exp(-np.abs(logits))
    probabilities: Float[np.ndarray, "..."] = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities


def _minimise(
    rows: Float32[np.ndarray, "rows rank"],
    energy: Float64[np.ndarray, " rank"],
    Y: Bool[np.ndarray, "rows labels"],
    folds: _Folds,
    strength: float,
    start: Float32[np.ndarray, "problems columns"] | None,
    tolerance: float,
) -> Float32[np.ndarray, "problems columns"]:
    """The weights of every problem, the intercept last, until the squared Newton decrement is small against the loss."""
    solved = np.zeros((len(folds.label), rows.shape[1] + 1), dtype=np.float32)
    if start is not None:
        solved[:] = start
    size = max(1, _STACK // len(rows))
    for first in range(0, len(solved), size):
        stack = slice(first, first + size)
        trained = folds.trained(stack).astype(np.float32)
        problem = _Stack(rows, energy.astype(np.float32), Y.T[folds.label[stack]].astype(np.float32), trained, strength)
        if start is None:
            share = (trained * problem.targets).sum(axis=1) / trained.sum(axis=1)
            solved[stack, -1] = np.log(share / (1 - share))
        solved[stack] = problem.solve(solved[stack], tolerance)
    return solved


@dataclass(frozen=True, eq=False)
class _Stack:
    """Logistic regressions that are solved side by side; the last weight of each is the intercept."""

    rows: Float32[np.ndarray, "rows rank"]
    energy: Float32[np.ndarray, " rank"]
    targets: Logits
    trained: Logits
    strength: float

    def solve(
        self, weights: Float32[np.ndarray, "problems columns"], tolerance: float
    ) -> Float32[np.ndarray, "problems columns"]:
        weights = weights.copy()
        active = np.arange(len(weights))
        logits = self._logits(weights)
        before = np.full(len(weights), np.inf)
        for _ in range(_MAX_STEPS):
            part = _Stack(self.rows, self.energy, self.targets[active], self.trained[active], self.strength)
            chance = sigmoid(logits[active])
            gradient = part._pull((chance - part.targets) * part.trained, weights[active])
            curved = chance * (1 - chance) * part.trained
            curvature = part._diagonal(curved)
            value = part._losses(weights[active], logits[active])
            decrement = _dot(gradient, gradient / curvature)
            # Where rounding hides the rest, the decrement no longer falls.
            going = (decrement > tolerance * value) & ~((decrement > 0.9 * before[active]) & (decrement < 1e-4 * value))
            before[active] = decrement
            if not going.any():
                break
            left = np.flatnonzero(going)
            active = active[left]
            part = _Stack(self.rows, self.energy, part.targets[left], part.trained[left], self.strength)
            step = part._newton_step(gradient[left], curved[left], curvature[left], tolerance * value[left])
            along = part._logits(step)
            length = part._search(weights[active], step, logits[active], along, gradient[left], value[left])
            weights[active] += length[:, None] * step
            logits[active] += length[:, None] * along
        return weights

    def _logits(self, weights: Float32[np.ndarray, "problems columns"]) -> Logits:
        logits: Logits = weights[:, :-1] @ self.rows.T + weights[:, -1:]
        return logits

    def _pull(
        self, residual: Logits, weights: Float32[np.ndarray, "problems columns"]
    ) -> Float32[np.ndarray, "problems columns"]:
        """Back from logits to weights, with the part of the penalty."""
        pulled = np.empty_like(weights)
        pulled[:, :-1] = residual @ self.rows + np.float32(self.strength) * weights[:, :-1]
        pulled[:, -1] = residual.sum(axis=1)
        return pulled

    def _diagonal(self, curved: Logits) -> Float32[np.ndarray, "problems columns"]:
        """The curvature of each weight, were that of the loss the same in all rows."""
        total = curved.sum(axis=1, keepdims=True)
        diagonal = np.hstack([total / len(self.rows) * self.energy + np.float32(self.strength), total])
        floored: Float32[np.ndarray, "problems columns"] = np.maximum(diagonal, np.finfo(np.float32).tiny * 1e6)
        return floored

    def _losses(
        self, weights: Float32[np.ndarray, "problems columns"], logits: Logits
    ) -> Float64[np.ndarray, " problems"]:
        losses = np.logaddexp(0, np.where(self.targets > 0, -logits, logits)) * self.trained
        penalty = self.strength / 2 * np.square(weights[:, :-1]).sum(axis=1, dtype=np.float64)
        total: Float64[np.ndarray, " problems"] = losses.sum(axis=1, dtype=np.float64) + penalty
        return total

    def _newton_step(
        self,
        gradient: Float32[np.ndarray, "problems columns"],
        curved: Logits,
        curvature: Float32[np.ndarray, "problems columns"],
        enough: Float64[np.ndarray, " problems"],
    ) -> Float32[np.ndarray, "problems columns"]:
        """Solve Hessian x step = -gradient by conjugate gradients until a tenth of the decrement is left."""
        step, residual = np.zeros_like(gradient), -gradient
        direction = residual / curvature
        size = _dot(residual, direction)
        goal = np.maximum(0.1 * size, 0.3 * enough)
        going = np.arange(len(gradient))
        for _ in range(_MAX_INNER):
            along = direction[going]
            product = self._pull(self._logits(along) * curved[going], along)
            length = (size[going] / np.maximum(_dot(along, product), 1e-30)).astype(np.float32)[:, None]
            step[going] += length * along
            residual[going] -= length * product
            scaled = residual[going] / curvature[going]
            left = _dot(residual[going], scaled)
            direction[going] = scaled + (left / size[going]).astype(np.float32)[:, None] * along
            size[going] = left
            going = going[left > goal[going]]
            if not len(going):
                break
        return step

    def _search(
        self,
        weights: Float32[np.ndarray, "problems columns"],
        step: Float32[np.ndarray, "problems columns"],
        logits: Logits,
        along: Logits,
        gradient: Float32[np.ndarray, "problems columns"],
        value: Float64[np.ndarray, " problems"],
    ) -> Float32[np.ndarray, " problems"]:
        """The whole step where it lowers the loss, else half of it and so on (Armijo)."""
        slope = _dot(gradient, step)
        length = np.ones(len(step), dtype=np.float32)
        for _ in range(_MAX_HALVINGS):
            ahead = self._losses(weights + length[:, None] * step, logits + length[:, None] * along)
            worse = ahead > value + 1e-4 * length * slope + 1e-7 * value
            if not worse.any():
                break
            length[worse] /= 2
        else:
            length[worse] = 0
        return length


def _dot(
    a: Float32[np.ndarray, "problems columns"], b: Float32[np.ndarray, "problems columns"]
) -> Float64[np.ndarray, " problems"]:
    products: Float64[np.ndarray, " problems"] = np.vecdot(a, b).astype(np.float64)
    return products
