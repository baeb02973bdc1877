"""Rows of numbers: the one check of a matrix, unit length, softmax and sigmoid, and the two scores of a table of probabilities.

The ground floor of the mathematics: NumPy alone, no labels by name, no files.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import LabelError

Unchecked: TypeAlias = Any
"""Beside a type in a signature: the function checks the value itself and says what is wrong with it."""


def check_matrix(
    X: Shaped[np.ndarray, "rows dim"] | Unchecked,
    name: str = "X",
    *,
    rows: int | None = None,
    columns: int | None = None,
    error: type[Exception] = LabelError,
) -> Float[np.ndarray, "rows dim"]:
    """Return a two-dimensional array of finite floats, or say what is wrong with it.

    Args:
        X: anything that NumPy makes a matrix of numbers of; integers and booleans become float64.
        name: what the matrix is called in messages.
        rows: the number of rows that it must have; by default any, none included.
        columns: the number of columns that it must have; by default any but none.
        error: the class of the error.

    Raises:
        LabelError: (or `error`) not a matrix of numbers, of another shape, or a value is NaN or infinite.

    Example:
        >>> check_matrix([[1, 2], [3, 4]]).dtype
        dtype('float64')
        >>> check_matrix([[0.5, float("nan")]], "the embeddings")
        Traceback (most recent call last):
        ...
        chiasm.errors.LabelError: 1 of 1 rows of the embeddings hold NaN or infinite values, first row 0: leave them out
    """
    matrix = np.asarray(X)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        raise error(f"{name} must be a matrix of numbers, one row an item; got {matrix.dtype} of shape {matrix.shape}")
    if rows is not None and len(matrix) != rows:
        raise error(f"{name} must have {rows} rows; got {len(matrix)}")
    if matrix.shape[1] != (matrix.shape[1] or 1 if columns is None else columns):
        raise error(
            f"{name} must have {'at least one column' if columns is None else f'{columns} columns'}; "
            f"got {matrix.shape[1]}"
        )
    if matrix.dtype.kind != "f":
        return matrix.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise error(
            f"{len(bad)} of {len(matrix)} rows of {name} hold NaN or infinite values, first row {bad[0]}: leave them out"
        )
    return matrix


def unit_rows(vectors: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch dim"]:
    """Scale every row to unit length; a zero row stays zero.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def log_softmax(logits: Float[np.ndarray, "*batch classes"]) -> Float[np.ndarray, "*batch classes"]:
    """Return log-probabilities of the last axis; safe for logits of any size, and for -inf beside finite ones."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    logs: Float[np.ndarray, "*batch classes"] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def softmax(logits: Float[np.ndarray, "*batch classes"]) -> Float[np.ndarray, "*batch classes"]:
    """Return probabilities of the last axis; safe for logits of any size, and for -inf beside finite ones."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: Float[np.ndarray, "*batch classes"] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Return the probability of each logit by itself, without overflow.

    Example:
        >>> sigmoid(np.array([-1e4, 0.0, 1e4])).tolist()
        [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logits))
    probabilities: Float[np.ndarray, "*shape"] = np.where(logits >= 0, 1, small) / (1 + small)
    return probabilities


def brier_scores(
    probabilities: Float[np.ndarray, "rows classes"], codes: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """Return the squared distance of each row's probabilities from the truth, 0 to 2 (Brier 1950).

    A row of NaN gives NaN. The mean over rows is the multi-class Brier score.

    Example:
        >>> brier_scores(np.array([[0.8, 0.2], [0.0, 1.0]]), np.array([0, 1])).round(2).tolist()
        [0.08, 0.0]
    """
    difference = probabilities.astype(np.float64)
    difference[np.arange(len(codes)), codes] -= 1
    scores: Float64[np.ndarray, " rows"] = np.square(difference).sum(axis=1)
    return scores


def expected_calibration_error(
    confidence: Float[np.ndarray, " rows"], hits: Shaped[np.ndarray, " rows"], *, bins: int = 15
) -> float:
    """Return the mean gap between stated probability and observed frequency over bins of equal width.

    Bins are weighted by their rows (Naeini et al. 2015; Guo et al. 2017, eq. 3). The estimate is biased upwards: 500
    rows whose probabilities are exactly right give about 0.05 with 15 bins.

    Args:
        confidence: the stated probability of the event, e.g. of the predicted class.
        hits: whether the event happened, as booleans or 0 and 1.
        bins: how many.

    Example:
        >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
        0.4
    """
    where = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gap = np.bincount(where, weights=hits - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))
