"""A head predicts with NumPy alone what the estimator would."""

from __future__ import annotations

import numpy as np

from chiasm.recognition.heads import Head


def linear(known: np.ndarray, dim: int = 3) -> Head:
    rng = np.random.default_rng(0)
    tensors = {"coef": rng.normal(size=(len(known), dim)), "intercept": rng.normal(size=len(known))}
    return Head("linear", known, tensors, {}, 1)


def test_classes_that_a_head_does_not_know_have_no_probability() -> None:
    head, rows = linear(np.array([1, 4, 5])), np.random.default_rng(1).normal(size=(8, 3))
    logs = head.log_probabilities(rows, 7)
    assert np.isneginf(logs[:, [0, 2, 3, 6]]).all()
    by_hand = np.exp(rows @ head.tensors["coef"].T + head.tensors["intercept"])
    np.testing.assert_allclose(np.exp(logs[:, [1, 4, 5]]), by_hand / by_hand.sum(axis=1, keepdims=True))
    assert head.is_linear


def test_large_logits_do_not_overflow() -> None:
    tensors = {"coef": np.array([[1e4], [-1e4]], np.float32), "intercept": np.zeros(2, np.float32)}
    logs = Head("linear", np.arange(2), tensors, {}, 1).log_probabilities(np.ones((1, 1), np.float32), 2)
    np.testing.assert_allclose(logs, [[0, -2e4]])
