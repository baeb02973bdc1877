"""All metrics of each kind of target in one place, with intervals that draw whole groups."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from chiasm.evaluation.intervals import bootstrap_interval
from chiasm.evaluation.metrics import classification_metrics, probability_metrics, regression_metrics
from chiasm.evaluation.predictions import DRAWS, Predictions, measure

ITEMS = 60
RNG = np.random.default_rng(0)
GROUPS = RNG.integers(20, size=ITEMS)
NAMES = np.array(["ant", "bee", "cow"])
CODES = RNG.integers(3, size=ITEMS)
P = RNG.dirichlet(np.ones(3), size=ITEMS) * 0.5 + 0.5 * np.eye(3)[CODES]


def predictions(kind: Any, **parts: Any) -> Predictions:
    ids = tuple(map(str, range(ITEMS)))
    parts = {"groups": GROUPS, "classes": tuple(NAMES.tolist()), **parts}
    return Predictions(kind=kind, ids=ids, media=({},) * ITEMS, **parts)


def test_classes_have_the_metrics_of_labels_and_of_probabilities() -> None:
    predicted = NAMES[P.argmax(axis=1)]
    metrics = measure(predictions("classes", true=NAMES[CODES], predicted=predicted, probabilities=P))
    assert metrics["f1_macro"] == classification_metrics(NAMES[CODES], predicted).f1_macro
    assert metrics["brier"] == probability_metrics(NAMES[CODES], P, NAMES).brier
    interval = bootstrap_interval(
        lambda rows: classification_metrics(NAMES[CODES[rows]], predicted[rows]).f1_macro,
        ITEMS,
        groups=GROUPS,
        draws=DRAWS,
    )
    assert metrics["intervals"]["f1_macro"] == pytest.approx([interval.low, interval.high])
    json.dumps(metrics, allow_nan=False)


def test_items_of_unknown_classes_are_not_held_against_probabilities() -> None:
    true = np.where(np.arange(ITEMS) < 10, "yak", NAMES[CODES])
    unknown = np.arange(ITEMS) < 12
    found = predictions(
        "classes", true=true, predicted=NAMES[P.argmax(axis=1)], probabilities=P, sets=P > 0.3, unknown=unknown
    )
    metrics = measure(found)
    assert metrics["brier"] == probability_metrics(NAMES[CODES[10:]], P[10:], NAMES).brier
    assert metrics["coverage"] == pytest.approx(np.mean(P[np.arange(10, ITEMS), CODES[10:]] > 0.3))
    held = P[np.arange(10, ITEMS), CODES[10:]] > 0.3
    by_class = [held[CODES[10:] == code].mean() for code in np.unique(CODES[10:])]
    assert metrics["coverage_balanced"] == pytest.approx(np.mean(by_class))
    assert metrics["unknown_found"] == 1
    assert metrics["false_alarms"] == pytest.approx(2 / 50)


def test_labels_are_decided_by_the_predictor_and_numbers_have_intervals() -> None:
    truth, p = RNG.random((ITEMS, 3)) < 0.4, RNG.random((ITEMS, 3))
    labels = measure(predictions("labels", true=truth, predicted=p > 0.7, probabilities=p))
    assert labels["subset_accuracy"] == np.mean((truth == (p > 0.7)).all(axis=1))
    low, high = labels["intervals"]["f1_micro"]
    assert low < labels["f1_micro"] < high

    y = RNG.normal(size=ITEMS)
    near = y + RNG.normal(size=ITEMS)
    numbers = measure(predictions("number", true=y, predicted=near, low=near - 1, high=near + 1, classes=()))
    assert numbers["mae"] == regression_metrics(y, near).mae
    assert numbers["coverage"] == np.mean(np.abs(y - near) <= 1)
    assert numbers["width"] == 2


def test_one_group_has_no_intervals() -> None:
    one = predictions("number", true=np.arange(60.0), predicted=np.zeros(60), groups=np.zeros(ITEMS, int), classes=())
    assert measure(one)["intervals"] == {}
