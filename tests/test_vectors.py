"""The ground floor: the check of a matrix, unit rows, softmax, Brier score and calibration error, restated the slow way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from chiasm.errors import LabelError, SpaceError
from chiasm.vectors import brier_scores, check_matrix, expected_calibration_error, log_softmax, softmax, unit_rows


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ([1.0, 2.0], {}, "matrix of numbers"),
        ([["a"]], {}, "matrix of numbers"),
        ([[1.0, np.nan]], {}, "1 of 1 rows"),
        ([[1.0], [np.inf]], {}, "first row 1"),
        ([[1.0]], {"rows": 2}, "2 rows; got 1"),
        ([[1.0]], {"columns": 3}, "3 columns; got 1"),
        (np.zeros((2, 0)), {}, "at least one column"),
    ],
)
def test_a_matrix_that_is_none_is_refused(given: object, options: dict[str, Any], says: str) -> None:
    with pytest.raises(LabelError, match=says):
        check_matrix(given, **options)
    with pytest.raises(SpaceError, match="anchors"):
        check_matrix(given, "anchors", error=SpaceError, **options)


def test_a_good_matrix_is_handed_on_without_a_copy() -> None:
    X = np.ones((2, 3), np.float32)
    assert check_matrix(X, rows=2, columns=3) is X
    assert check_matrix(np.zeros((0, 3))).shape == (0, 3)


def test_probabilities_restated() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)) * 30
    slow = np.array([[math.exp(z - max(row)) for z in row] for row in logits])
    slow /= slow.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(logits), slow, atol=1e-12)
    np.testing.assert_allclose(np.exp(log_softmax(logits)), slow, atol=1e-12)
    codes = rng.integers(0, 4, 50)
    by_hand = [
        sum((p - (c == code)) ** 2 for c, p in enumerate(row)) for row, code in zip(slow.tolist(), codes, strict=True)
    ]
    np.testing.assert_allclose(brier_scores(slow, codes), by_hand, atol=1e-12)


def test_calibration_error_restated() -> None:
    rng = np.random.default_rng(1)
    confidence, hits = rng.uniform(size=300), rng.uniform(size=300) < 0.6
    gap = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            gap += inside.mean() * abs(confidence[inside].mean() - hits[inside].mean())
    assert expected_calibration_error(confidence, hits) == pytest.approx(gap)
    assert expected_calibration_error(np.ones(2), np.ones(2)) == 0


def test_unit_rows_keep_zeros_and_types() -> None:
    rows = unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.array([[0.6, 0.8], [0, 0]]))
