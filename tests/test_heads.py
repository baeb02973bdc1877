"""A head is the fitted estimator, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.recognition.adapters import MLPAdapter, ResidualAdapter
from chiasm.recognition.few_shot import Prototypes, TipAdapter, ZeroShot
from chiasm.recognition.heads import RUNGS, Head, RungName, head_of
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.splits import Shots
from chiasm.training import Training

QUICK = Training(epochs=5, fixed_epochs=5, device="cpu")


def planted(classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit rows of each class, their codes, and the centres of the classes."""
    rng = np.random.default_rng(classes)
    centres = rng.normal(size=(classes, 15))
    codes = np.repeat(np.arange(classes), 12)
    rows = centres[codes] + rng.normal(size=(len(codes), 15))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), codes, centres.astype(np.float32)


def fitted(rung: RungName, classes: int, **options: Any) -> tuple[Any, np.ndarray]:
    rows, codes, centres = planted(classes)
    names = Shots(centres, np.arange(classes))
    models: dict[RungName, Any] = {
        "zero-shot": lambda: ZeroShot().fit(rows, codes, anchors=names),
        "prototypes": lambda: Prototypes().fit(rows, codes, extra=names),
        "tip-adapter": lambda: TipAdapter().fit(rows, codes, anchors=names),
        "linear": lambda: LinearProbe().fit(rows, codes, extra=names),
        "residual": lambda: ResidualAdapter(bottleneck=6, training=QUICK, **options).fit(rows, codes),
        "mlp": lambda: MLPAdapter(**{"hidden": (7, 5), "training": QUICK, **options}).fit(rows, codes),
    }
    return models[rung](), rows


CASES: list[tuple[RungName, dict[str, Any]]] = [
    *((rung, {}) for rung in RUNGS),
    ("residual", {"head": "linear", "ratio": 0.7}),
    ("mlp", {"hidden": ()}),
]


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("rung", "options"), CASES)
def test_logits_are_those_of_the_estimator(rung: RungName, options: dict[str, Any], classes: int) -> None:
    model, rows = fitted(rung, classes, **options)
    head = head_of(rung, model, model.classes_, len(rows))
    logits = head.logits(rows)
    assert logits.shape == (len(rows), classes)
    if classes == 2:
        logits = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(logits, model.decision_function(rows), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        np.exp(head.log_probabilities(rows, classes)), model.predict_proba(rows), rtol=1e-4, atol=1e-6
    )
    assert np.abs(logits).max() > 0.1
    assert head.items == len(rows)
    assert all(array.flags.c_contiguous for array in head.tensors.values())


def test_classes_that_a_head_does_not_know_have_no_probability() -> None:
    model, rows = fitted("linear", 3)
    head = head_of("linear", model, np.array([1, 4, 5]), len(rows))
    logs = head.log_probabilities(rows, 7)
    assert np.isneginf(logs[:, [0, 2, 3, 6]]).all()
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1)
    np.testing.assert_allclose(np.exp(logs[:, [1, 4, 5]]), model.predict_proba(rows), rtol=1e-5)


def test_which_heads_are_linear() -> None:
    linear = {rung for rung in RUNGS if Head(rung, np.arange(2), {}, {}, 1).is_linear}
    assert linear == {"zero-shot", "prototypes", "linear"}


def test_large_logits_do_not_overflow() -> None:
    tensors = {"coef": np.array([[1e4], [-1e4]], np.float32), "intercept": np.zeros(2, np.float32)}
    logs = Head("linear", np.arange(2), tensors, {}, 1).log_probabilities(np.ones((1, 1), np.float32), 2)
    np.testing.assert_allclose(logs, [[0, -2e4]])
