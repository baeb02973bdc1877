"""A linear recogniser of classes that keeps a promise of differential privacy to each item or unit it learns from.

Gradient descent on all items at once, each gradient clipped, with Gaussian noise in every step (Abadi et al. 2016,
arXiv:1607.00133, without sampling, so that steps compose exactly: see `chiasm.privacy`). The features have no mean taken off, since it
would be of the items; one matrix of weights is learned for all modalities, and its blocks recognise items that lack some, at no cost.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64, Int

from chiasm.errors import LabelError
from chiasm.privacy import Promise, noise
from chiasm.recognition.columns import Details, Fitted
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import Features, ModalityArrays, Subset, subsets
from chiasm.recognition.recognizer import Recognizer
from chiasm.recognition.targets import Target
from chiasm.types import Modality
from chiasm.vectors import softmax

FEW, MANY, ENOUGH = 20, 50, 1000.0
"""Steps, and from which `mu` times units on there are many: more steps learn more, and need more noise."""

RATE, MOMENTUM, CLIP = 40.0, 0.9, 0.25
"""These and the steps were chosen on public data, emoji of Facebook and stamps (benchmarks/LOG.md), not on what is learned from."""

_CONSTANT = 0.3  # the feature of the intercept, beside rows of unit length


def fit_private(
    arrays: ModalityArrays, target: Target, units: Int[np.ndarray, " items"], promise: Promise
) -> Recognizer:
    """Learn classes from items with a promise to each unit.

    What is public: the names of the classes, the modalities, and the numbers of items and units. Nothing else is kept: no
    calibration, no sets that hold the true class as often as asked, no alarm for unknown items, no examples.

    Args:
        arrays: the items.
        target: their classes.
        units: number of the unit that each belongs to; a unit counts as one item, however many it has.
        promise: to keep.

    Raises:
        LabelError: the column is not of classes.
        ChiasmError: the promise is none for so few units.
    """
    if target.kind != "classes":
        raise LabelError(f"{target.column!r} is a column of {target.kind}: with epsilon only classes are learned")
    known = np.flatnonzero(target.known)
    arrays, codes, units = arrays.take(known), target.values[known], units[known]
    features = _without_means(arrays)
    main = features.modalities
    _, unit_codes, sizes = np.unique(units, return_inverse=True, return_counts=True)
    promise.check(len(sizes))
    weights = _train(_rows(arrays, features), codes, len(target.names), 1 / sizes[unit_codes], len(sizes), promise.mu)
    numbers = {"+".join(main): {"epsilon": promise.epsilon, "delta": promise.delta}}
    details = Details(kind="classes", metric="f1_macro", subsets={}, numbers=numbers)
    heads = {part: _head(weights, features, main, part, len(codes)) for part in subsets(main) if part}
    recognizer = Recognizer(adapter="linear")
    recognizer.columns_ = {
        target.column: Fitted(target.column, "classes", target.names, features, heads, details, main=main)
    }
    recognizer.together_ = ()
    return recognizer


def _train(
    rows: Float64[np.ndarray, "items width"],
    codes: Int[np.ndarray, " items"],
    classes: int,
    shares: Float64[np.ndarray, " items"],
    units: int,
    mu: float,
) -> Float64[np.ndarray, "classes width"]:
    """Return weights: the mean of those of the second half of the steps."""
    rng = noise()
    steps = FEW if mu * units < ENOUGH else MANY
    deviation = CLIP * math.sqrt(steps) / mu  # in each step the gradients of a unit sum to CLIP at most
    right = np.eye(classes)[codes]
    lengths = np.linalg.norm(rows, axis=1)
    weights = np.zeros((classes, rows.shape[1]))
    speed, mean = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(steps):
        errors = softmax(rows @ weights.T) - right
        size = np.linalg.norm(errors, axis=1) * lengths
        errors *= (shares * np.minimum(1, CLIP / np.maximum(size, 1e-12)))[:, None]
        gradient = errors.T @ rows + deviation * rng.standard_normal(weights.shape)
        speed = MOMENTUM * speed + gradient / units
        weights = weights - RATE * speed
        if step >= steps // 2:
            mean += weights / (steps - steps // 2)
    return mean


def _without_means(arrays: ModalityArrays) -> Features:
    return Features(
        *(
            {name: np.zeros(array.shape[1], array.dtype) for name, array in part.items()}
            for part in (arrays.vectors, arrays.shared)
        )
    )


def _rows(arrays: ModalityArrays, features: Features) -> Float64[np.ndarray, "items width"]:
    """Return feature rows of all modalities, zero where an item lacks one, and the constant."""
    main = features.modalities
    rows = np.zeros((len(arrays), features.width(main) + 1))
    rows[:, -1] = _CONSTANT
    for name, columns in _blocks(features, main).items():
        has = np.flatnonzero(arrays.present[name])
        rows[has, columns] = features.rows(arrays, (name,), has) / math.sqrt(len(main))
    return rows


def _blocks(features: Features, main: Subset) -> dict[Modality, slice]:
    ends = np.cumsum([0, *(features.width((name,)) for name in main)]).tolist()
    return {name: slice(*ends[place : place + 2]) for place, name in enumerate(main)}


def _head(
    weights: Float64[np.ndarray, "classes width"], features: Features, main: Subset, part: Subset, items: int
) -> Head:
    """Return the head of some modalities: its blocks, scaled so that each says what it says beside the others."""
    blocks = _blocks(features, main)
    coef = np.concatenate([weights[:, blocks[name]] for name in part], axis=1) * math.sqrt(len(part) / len(main))
    tensors = {"coef": coef.astype(np.float32), "intercept": (_CONSTANT * weights[:, -1]).astype(np.float32)}
    return Head("linear", np.arange(len(weights)), tensors, {}, items)
