"""Columns as tasks of one network: their targets and weights, the probe that the head starts as, and their losses.

A network learns several columns side by side, each from the items that have a value of it. How much each counts is learned as
well (`chiasm.training.uncertainty_weighted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor
from torch.nn import functional

from chiasm.finetuning.recipe import Recipe
from chiasm.recognition.ladder import deal_folds
from chiasm.recognition.linear import class_weights, fit_classes, fit_labels, fit_numbers
from chiasm.recognition.networks import UNSEEN
from chiasm.recognition.targets import Kind, Target
from chiasm.training import label_losses, number_losses
from chiasm.vectors import unit_rows

_FOLDS = 5  # of the probes


@dataclass(frozen=True)
class Task:
    """One column.

    Attributes:
        kind: what it asks for.
        first: of its outputs among those of all columns.
        outputs: how many.
    """

    kind: Kind
    first: int
    outputs: int

    @property
    def place(self) -> slice:
        """Its outputs."""
        return slice(self.first, self.first + self.outputs)

    def losses(
        self, scores: Float[Tensor, "batch outputs"], targets: Float[Tensor, "batch outputs"], recipe: Recipe
    ) -> Float[Tensor, " batch"]:
        """Return the loss of each item: cross-entropy of classes, whose targets may be mixed, or labels, or half the squared error."""
        if self.kind == "labels":
            return label_losses(scores, targets, scores.new_ones(len(scores)))
        if self.kind == "number":
            return number_losses(scores, targets[:, 0], scores.new_ones(len(scores)))
        log = functional.log_softmax(scores, dim=1)
        smooth = recipe.label_smoothing
        losses = -((1 - smooth) * targets + smooth / targets.shape[1]).mul(log).sum(dim=1)
        if recipe.focal:  # Lin et al. 2017
            losses = losses * (1 - (targets * log.exp()).sum(dim=1)) ** recipe.focal
        return losses


@dataclass(frozen=True, eq=False)
class Rows:
    """Columns of the rows that a network learns from or stops by.

    Attributes:
        tasks: the columns.
        targets: classes and labels as 0 and 1, numbers in standard deviations from their mean.
        weights: of each row in each column, about 1 on average over all rows; 0 where the value is missing.
    """

    tasks: tuple[Task, ...]
    targets: Float32[np.ndarray, "rows outputs"]
    weights: Float32[np.ndarray, "rows tasks"]

    def take(self, rows: Int[np.ndarray, " some"]) -> Rows:
        """Return copies of some of the rows."""
        return Rows(self.tasks, self.targets[rows], self.weights[rows])

    def mixed(
        self, one: int, other: int, share: float
    ) -> tuple[Float32[np.ndarray, " outputs"], Float32[np.ndarray, " tasks"]]:
        """Return the targets and weights of two rows mixed: of a column that one of them lacks, the other's at its share."""
        first, second = share * self.weights[one], (1 - share) * self.weights[other]
        weight = first + second
        part = (first / np.where(weight > 0, weight, 1))[self.owner]
        target = part * self.targets[one] + (1 - part) * self.targets[other]
        return target.astype(np.float32), weight.astype(np.float32)

    @cached_property
    def strata(self) -> Int[np.ndarray, " rows"]:
        """The class of each row in the first column of classes, -1 where it is missing; 0 without such a column."""
        for task, weight in zip(self.tasks, self.weights.T, strict=True):
            if task.kind == "classes":
                return np.where(weight > 0, self.targets[:, task.place].argmax(axis=1), -1)
        return np.zeros(len(self.targets), dtype=np.int64)

    @cached_property
    def owner(self) -> Int[np.ndarray, " outputs"]:
        """The column of each output."""
        return np.repeat(np.arange(len(self.tasks)), [task.outputs for task in self.tasks])


@dataclass(frozen=True, eq=False)
class Start:
    """The head as it starts: on embeddings of unit length less their mean, the probe of each column."""

    mean: Float32[np.ndarray, " dim"]
    weight: Float32[np.ndarray, "outputs dim"]
    bias: Float32[np.ndarray, " outputs"]


def start_tasks(
    columns: Sequence[Target],
    groups: Int[np.ndarray, " rows"],
    source: Bool[np.ndarray, " rows"],
    held: Bool[np.ndarray, " rows"],
    frozen: Float[np.ndarray, "rows dim"],
    recipe: Recipe,
) -> tuple[Rows, Start]:
    """Return columns as tasks, and the head that learns them from there.

    Args:
        columns: each with two different known values at least.
        groups: rows of one group are never on both sides of a fold.
        source: which are of another domain; no fold holds them out.
        held: that are not learned from.
        frozen: embeddings by the network as it starts.
        recipe: how it learns.
    """
    tasks, targets, weights = list[Task](), [], []
    for column in columns:
        values = _values(column)
        tasks.append(Task(column.kind, sum(task.outputs for task in tasks), values.shape[1]))
        targets.append(values)
        codes = np.where(column.known, column.values if column.kind == "classes" else 0, -1)
        weights.append(row_weights(codes, source, held, recipe))
    rows = Rows(tuple(tasks), np.hstack(targets), np.stack(weights, axis=1))
    X = unit_rows(frozen)
    mean = np.average(X, axis=0, weights=rows.weights.sum(axis=1)).astype(np.float32)
    heads = []
    for column, task, weight in zip(columns, tasks, rows.weights.T, strict=True):
        known = np.flatnonzero(column.known)
        own = rows.targets[known, task.place]
        heads.append(_probe(task, X[known] - mean, own, groups[known], source[known], weight[known], recipe.seed))
    return rows, Start(mean, *(np.concatenate(part).astype(np.float32) for part in zip(*heads, strict=True)))


def _values(column: Target) -> Float32[np.ndarray, "rows outputs"]:
    """Return a column as outputs, 0 where it is missing: of the classes that occur, of all labels, or of the number."""
    if column.kind == "labels":
        return column.values.astype(np.float32)
    known = column.values[column.known]
    if column.kind == "classes":
        values = np.zeros((len(column), len(np.unique(known))), np.float32)
        values[column.known] = np.eye(values.shape[1])[np.unique(known, return_inverse=True)[1]]
        return values
    values = np.zeros((len(column), 1), np.float32)
    values[column.known, 0] = (known - known.mean()) / known.std()
    return values


def _probe(
    task: Task,
    X: Float[np.ndarray, "rows dim"],
    values: Float32[np.ndarray, "rows outputs"],
    groups: Int[np.ndarray, " rows"],
    source: Bool[np.ndarray, " rows"],
    weight: Float32[np.ndarray, " rows"],
    seed: int,
) -> tuple[Float64[np.ndarray, "outputs dim"], Float64[np.ndarray, " outputs"]]:
    """Return weights and intercepts of the linear solution of one column."""
    if task.kind == "number":
        fit = fit_numbers(X, values[:, 0].astype(np.float64), fold_of=groups)
        return fit.coef, fit.intercept
    codes = values.argmax(axis=1) if task.kind == "classes" else np.zeros(len(X), dtype=np.int64)
    fold_of = np.where(source, -1, deal_folds(codes, _FOLDS, seed=seed, groups=groups))
    if task.kind == "classes":
        fit = fit_classes(X, codes, fold_of=fold_of, weight=weight)
        return fit.coef, fit.intercept
    has = values > 0
    varies = has.any(axis=0) & ~has.all(axis=0)
    fit = fit_labels(X, has[:, varies], fold_of=fold_of)
    coef, intercept = np.zeros((task.outputs, X.shape[1])), np.where(has.any(axis=0), UNSEEN, -UNSEEN)
    coef[varies], intercept[varies] = fit.coef, fit.intercept
    return coef, intercept


def row_weights(
    codes: Int[np.ndarray, " rows"], source: Bool[np.ndarray, " rows"], held: Bool[np.ndarray, " rows"], recipe: Recipe
) -> Float32[np.ndarray, " rows"]:
    """Return the weight of each row in the mean loss: of its class, and of its domain so that alpha is the source's share.

    Rows without a value (-1) have none; what they would weigh is spread over the others on their side.
    """
    weights, known = np.zeros(len(codes)), codes >= 0
    weights[known] = class_weights(
        np.unique(codes[known], return_inverse=True)[1], np.ones(int(known.sum())), recipe.class_weight
    )
    for side in (held, ~held):
        weights[side] *= side.sum() / max(1, known[side].sum())
    return domain_weights(weights, source, held, recipe)


def domain_weights(
    weights: Float[np.ndarray, " rows"],
    source: Bool[np.ndarray, " rows"],
    held: Bool[np.ndarray, " rows"],
    recipe: Recipe,
) -> Float32[np.ndarray, " rows"]:
    """Return weights of rows scaled so that alpha is the source's share of those that are learned from."""
    weights = weights.copy()
    for domain, share in ((source, recipe.alpha), (~source, 1 - recipe.alpha)):
        learned = domain & ~held
        if source.any() and learned.any():
            weights[learned] *= share * (~held).sum() / weights[learned].sum()
    return weights.astype(np.float32)
