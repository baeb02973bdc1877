"""Many penalised logistic regressions of the same rows, solved side by side by the truncated Newton method.

`chiasm.recognition.linear` knows which problems there are and what their solutions are for. Here, each is a set of row
weights (a fold, a label in a fold), and a pass over the rows (one pair of matrix products: of the gradient, or of the
Hessian with a direction) is made for all of them at once. Plain NumPy.

Newton's step is found by conjugate gradients on the Hessian (Nocedal & Wright 2006, section 7.1), as exactly as the
distance to the minimum asks for. The preconditioner is diagonal: columns are orthogonal, and the curvature of an output
is taken to be the same in all rows. Each problem has its own step lengths and leaves the stack when it is done. Logits
are kept and moved with the weights, so that a step costs half a pass beyond those that found it. (L-BFGS with a
preconditioner took two to six times as long to full precision, plain L-BFGS four to nine; accelerated descent on
Boehning's majoriser two to twenty times the passes.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.vectors import log_softmax, sigmoid

MAX_ITERATIONS, _MAX_INNER, _MAX_HALVINGS = 100, 200, 25
_BLOCK = 2**18  # logits computed at once: they stay in the processor's cache
_ROWS_A_FOLD = 256  # from which it pays to leave a fold's held-out rows out of its products
_LEAST_SHARE = 1e-10  # of a class, so that its logarithm is finite
_SMALL = 2**24  # bytes of logits below which memory is no concern

Weights: TypeAlias = Float[np.ndarray, "outputs problems columns"]
Logits: TypeAlias = Float[np.ndarray, "outputs problems rows"]
PerProblem: TypeAlias = Float64[np.ndarray, " problems"]


@dataclass(frozen=True, eq=False)
class Problems:
    """The rows that each problem learns from, its label (0 for a softmax), and the fold that it holds out."""

    weights: Float[np.ndarray, "problems rows"] | Bool[np.ndarray, "problems rows"]
    label: Int[np.ndarray, " problems"]
    fold: Int[np.ndarray, " problems"]  # -1: none

    def __len__(self) -> int:
        return len(self.label)

    def take(self, which: Int[np.ndarray, " some"]) -> Problems:
        """Return some of the problems."""
        return Problems(self.weights[which], self.label[which], self.fold[which])


@dataclass(frozen=True, eq=False)
class Softmax:
    """Classes that exclude each other, as many outputs. Logits come back as log-probabilities."""

    codes: Int[np.ndarray, " rows"]
    outputs: int

    def intercepts(self, problems: Problems) -> Float64[np.ndarray, "outputs problems"]:
        """Return the intercepts that give the frequencies: the solution at infinite strength."""
        totals = np.stack([problems.weights[:, self.codes == k].sum(axis=1) for k in range(self.outputs)])
        return _centred(np.log(np.maximum(totals / totals.sum(axis=0), _LEAST_SHARE)))

    def of(
        self,
        logits: Logits,
        rows: slice,
        label: Int[np.ndarray, " problems"],  # noqa: ARG002  one label
    ) -> tuple[Logits, Float[np.ndarray, "problems rows"], Logits, Logits]:
        """Return log-probabilities, losses, probabilities, and the derivatives of the losses by the logits."""
        codes = self.codes[rows]
        own = (codes, slice(None), np.arange(len(codes)))
        logs: Logits = np.moveaxis(log_softmax(np.moveaxis(logits, 0, -1)), -1, 0)
        chances = np.exp(logs)
        residuals = chances.copy()
        residuals[own] -= 1
        return logs, -logs[own].T, chances, residuals

    def curvature(self, logits: Logits, change: Logits) -> Logits:
        """Return the second derivatives times a change of the logits: `p * (change - sum(p * change))`."""
        chances = np.exp(logits)
        change = change - (chances * change).sum(axis=0)
        change *= chances
        return change


@dataclass(frozen=True, eq=False)
class Sigmoid:
    """Labels that do not exclude each other, each a problem of its own with one output."""

    Y: Bool[np.ndarray, "labels rows"]
    outputs: int = 1

    def intercepts(self, problems: Problems) -> Float64[np.ndarray, "outputs problems"]:
        """Return the intercepts that give the frequencies: the solution at infinite strength."""
        weights = problems.weights.astype(np.float64)
        share = np.vecdot(weights, self.Y[problems.label]) / weights.sum(axis=1)
        odds: Float64[np.ndarray, "outputs problems"] = np.log(share / (1 - share))[None]
        return odds

    def of(
        self, logits: Logits, rows: slice, label: Int[np.ndarray, " problems"]
    ) -> tuple[Logits, Float[np.ndarray, "problems rows"], Logits, Logits]:
        """Return the logits as they are, losses, probabilities, and the derivatives of the losses by the logits."""
        has, chances = self.Y[label, rows], sigmoid(logits)
        return logits, np.logaddexp(0, np.where(has, -logits[0], logits[0])), chances, chances - has

    def curvature(self, logits: Logits, change: Logits) -> Logits:
        """Return the second derivatives times a change of the logits: `p * (1 - p) * change`."""
        chances = sigmoid(logits)
        curvature: Logits = chances * (1 - chances) * change
        return curvature


Loss: TypeAlias = Softmax | Sigmoid


def minimise(
    rows: Float[np.ndarray, "rows columns"],
    energy: Float64[np.ndarray, " columns"],
    loss: Loss,
    problems: Problems,
    start: Weights,
    *,
    strength: float,
    tolerance: float,
    bounds: Int[np.ndarray, " segments"],
) -> tuple[Weights, Int[np.ndarray, " problems"]]:
    """Minimise `sum_i w_i * loss_i + strength / 2 * ||weights||^2` of every problem, the last column not penalised.

    A problem is solved when its squared Newton decrement, measured with the preconditioner (about twice the distance of
    the objective to its minimum), is at most `tolerance` times its objective, or when rounding hides the rest. Problems
    are stacked as far as their logits take a quarter of the memory of the rows.

    Args:
        rows: in orthogonal columns, about centred; the last column is ones.
        energy: mean square of each column.
        loss: of the rows.
        problems: to solve.
        start: first weights.
        strength: of the penalty.
        tolerance: see above.
        bounds: rows at which another fold begins, and the number of rows.

    Returns:
        The weights, and the number of Newton steps of each problem.
    """
    solution, iterations = start.copy(), np.full(len(problems), MAX_ITERATIONS)
    penalty = np.full(rows.shape[1], strength, dtype=rows.dtype)
    penalty[-1] = 0
    together = max(1, max(_SMALL, rows.nbytes // 4) // (loss.outputs * rows[:, 0].nbytes))
    for first in range(0, len(problems), together):
        active = np.arange(first, min(first + together, len(problems)))
        blocks = _blocks(bounds, loss.outputs * len(active))
        stack = _Stack(rows, energy, loss, problems.take(active), penalty, blocks)
        point = stack.at(solution[:, active], stack.logits(solution[:, active]))
        before, level = np.full(len(active), np.inf), np.zeros(len(active), dtype=bool)
        for iteration in range(MAX_ITERATIONS):
            decrement = _dot(point.gradient, _centred(point.gradient * stack.inverse(point)))
            done = (decrement <= tolerance * point.value) | (level & (decrement > 0.5 * before))
            if done.any():
                solution[:, active[done]], iterations[active[done]] = point.weights[:, done], iteration
                left = np.flatnonzero(~done)
                active, decrement = active[left], decrement[left]
                if not len(left):
                    break
                stack, point = stack.take(left), point.take(left)
            step, change = _newton_step(stack, point, tolerance)
            point, level = _search(stack, point, step, change)
            before = decrement
        else:
            solution[:, active] = point.weights
    return solution, iterations


@dataclass(frozen=True, eq=False)
class _Point:
    """Where problems stand: weights and logits, and the objective, its gradient and each output's total curvature."""

    weights: Weights
    logits: Logits
    value: PerProblem
    gradient: Weights
    curvature: Float64[np.ndarray, "outputs problems"]

    def take(self, which: Int[np.ndarray, " some"]) -> _Point:
        several = (self.weights, self.logits, self.gradient, self.curvature)
        weights, logits, gradient, curvature = (values[:, which] for values in several)
        return _Point(weights, logits, self.value[which], gradient, curvature)


@dataclass(frozen=True, eq=False)
class _Stack:
    """Problems that are solved side by side. Blocks of rows that a problem does not learn from are left out of it."""

    rows: Float[np.ndarray, "rows columns"]
    energy: Float64[np.ndarray, " columns"]
    loss: Loss
    problems: Problems
    penalty: Float[np.ndarray, " columns"]
    blocks: list[slice]

    def take(self, which: Int[np.ndarray, " some"]) -> _Stack:
        return replace(self, problems=self.problems.take(which))

    @cached_property
    def weights(self) -> Float[np.ndarray, "problems rows"]:
        return self.problems.weights.astype(self.rows.dtype, copy=False)

    @cached_property
    def learners(self) -> list[Int[np.ndarray, " some"]]:
        """Return the problems that learn from any row of each block."""
        return [np.flatnonzero(self.weights[:, block].any(axis=1)) for block in self.blocks]

    def logits(self, weights: Weights) -> Logits:
        """Half a pass. Zeros where a problem does not learn."""
        logits = np.zeros((*weights.shape[:2], len(self.rows)), dtype=self.rows.dtype)
        for block, which in zip(self.blocks, self.learners, strict=True):
            logits[:, which, block] = _product(weights[:, which], self.rows[block].T)
        return logits

    def at(self, weights: Weights, logits: Logits) -> _Point:
        """Evaluate the point at weights with these logits, which are normalised in place: half a pass."""
        value = 0.5 * _dot(weights * self.penalty, weights)
        gradient = weights * self.penalty
        curvature = np.zeros(weights.shape[:2])
        for block, learners in zip(self.blocks, self.learners, strict=True):
            which = _index(learners, len(value))
            weight = self.weights[which, block]
            own, losses, chances, residuals = self.loss.of(logits[:, which, block], block, self.problems.label[which])
            logits[:, which, block] = own
            value[which] += np.vecdot(weight, losses)
            residuals *= weight
            gradient[:, which] += _product(residuals, self.rows[block])
            curvature[:, which] += np.vecdot(chances * (1 - chances), weight)
        return _Point(weights, logits, value, gradient, curvature)

    def hessian_times(
        self, direction: Weights, logits: Logits, going: Bool[np.ndarray, " problems"], changes: Logits
    ) -> Weights:
        """Multiply each active problem's Hessian by its direction, whose logits go into `changes`: one pass."""
        product: Weights = direction * self.penalty
        for block, learners in zip(self.blocks, self.learners, strict=True):
            which = _index(learners[going[learners]], len(going))
            change = _product(direction[:, which], self.rows[block].T)
            changes[:, which, block] = change
            change = self.loss.curvature(logits[:, which, block], change)
            change *= self.weights[which, block]
            product[:, which] += _product(change, self.rows[block])
        return product

    def inverse(self, point: _Point) -> Weights:
        """Return the inverse Hessian diagonal under equal curvature of each output in all rows."""
        diagonal = point.curvature[:, :, None] * self.energy + self.penalty
        floor = np.finfo(self.rows.dtype).eps * diagonal.max(axis=(0, 2))
        inverse: Weights = (1 / np.maximum(diagonal, floor[:, None])).astype(self.rows.dtype)
        return inverse


def _newton_step(stack: _Stack, point: _Point, tolerance: float) -> tuple[Weights, Logits]:
    """Solve Hessian x step = -gradient by conjugate gradients; return the step, and what it adds to the logits."""
    step, total, changes = np.zeros_like(point.weights), np.zeros_like(point.logits), np.zeros_like(point.logits)
    inverse, tiny = stack.inverse(point), np.finfo(np.float64).tiny
    residual = -point.gradient
    direction = _centred(residual * inverse)
    size = _dot(residual, direction)
    enough = np.maximum(np.clip(size / point.value, 1e-6, 0.1) * size, 0.3 * tolerance * point.value)
    going = np.ones(len(size), dtype=bool)
    for _ in range(_MAX_INNER):
        product = stack.hessian_times(direction, point.logits, going, changes)
        # Rounding can take all curvature from a direction that matters to no row.
        curvature = np.maximum(_dot(direction, product), np.finfo(step.dtype).eps * size + tiny)
        length = _spread(np.where(going, size / curvature, 0), step)
        step += length * direction
        changes *= length
        total += changes
        residual -= length * product
        scaled = _centred(residual * inverse)
        left = _dot(residual, scaled)
        direction = scaled + _spread(left / (size + tiny), step) * direction
        size = left
        going &= left > enough
        if not going.any():
            break
    return step, total


def _search(
    stack: _Stack, point: _Point, step: Weights, change: Logits
) -> tuple[_Point, Bool[np.ndarray, " problems"]]:
    """Take the whole step where that will do, else half of it and so on, each problem its own part.

    A step will do if it lowers the objective enough (Armijo), or, where the change is within rounding, if the slope has
    flattened (the approximate Wolfe condition of Hager & Zhang 2005, SIAM J. Optim. 16:170). The logits of the point are
    moved by `change`, which is what the step adds to them.

    Returns:
        The new point, and where it is level with the old one within rounding.
    """
    descent = -_dot(point.gradient, step)
    # The log loss of a row is a difference of logits, with an error that does not shrink with the loss.
    rounding = 8 * np.finfo(step.dtype).eps * (point.value + stack.weights.sum(axis=1, dtype=np.float64))
    part = np.ones(len(descent))
    logits = point.logits
    logits += change
    for halvings in range(_MAX_HALVINGS + 1):
        ahead = stack.at(point.weights + _spread(part, step) * step, logits)
        flat = _dot(ahead.gradient, step) <= 0.8 * descent
        level = ahead.value <= point.value + rounding
        worse = ~((ahead.value <= point.value - 1e-4 * part * descent) | (level & flat)) & (part > 0)
        if not worse.any():
            break
        less = np.where(worse, part / (2 if halvings < _MAX_HALVINGS - 1 else 1), 0.0)
        part -= less
        logits -= _spread(less, change) * change
    return ahead, ahead.value >= point.value - rounding


def _index(which: Int[np.ndarray, " some"], total: int) -> Int[np.ndarray, " some"] | slice:
    """Increasing numbers as an index that copies nothing where they are all."""
    return slice(None) if len(which) == total else which


def _product(
    stacked: Float[np.ndarray, "outputs problems inner"], matrix: Float[np.ndarray, "inner columns"]
) -> Float[np.ndarray, "outputs problems columns"]:
    """As one plain matrix product: of a stack of matrices with a row a problem it took ten times as long."""
    # The flag was seen to be raised on finite operands of few rows, likely by lanes that OpenBLAS does not use (LOG.md).
    with np.errstate(invalid="ignore"):
        product: Float[np.ndarray, "outputs problems columns"] = stacked.reshape(-1, stacked.shape[2]) @ matrix
    return product.reshape(*stacked.shape[:2], matrix.shape[1])


def _centred(weights: Float[np.ndarray, "outputs ..."]) -> Float[np.ndarray, "outputs ..."]:
    """Weights of a softmax without their mean over classes: the same added to all changes no probability."""
    return weights if len(weights) == 1 else weights - weights.mean(axis=0)


def _dot(a: Weights, b: Weights) -> PerProblem:
    """Inner product of each problem."""
    products: PerProblem = np.vecdot(a, b).sum(axis=0, dtype=np.float64)
    return products


def _spread(factor: PerProblem, like: Float[np.ndarray, "..."]) -> Float[np.ndarray, "1 problems 1"]:
    """Return one factor a problem, shaped and typed to multiply an array of all problems."""
    spread: Float[np.ndarray, "1 problems 1"] = factor.astype(like.dtype)[None, :, None]
    return spread


def _blocks(bounds: Int[np.ndarray, " segments"], width: int) -> list[slice]:
    """Pieces of rows whose logits stay in the processor's cache; no piece is of two folds, unless folds are small."""
    if bounds[-1] < _ROWS_A_FOLD * len(bounds):
        bounds = bounds[[0, -1]]
    step = int(np.clip(_BLOCK // width, 128, 1024))
    cuts = [np.linspace(first, last, max(1, round((last - first) / step)) + 1) for first, last in pairwise(bounds)]
    return [slice(int(first), int(last)) for part in cuts for first, last in pairwise(part)]
