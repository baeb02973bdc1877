"""What unlabelled rows and source domains teach is what was planted in them, and nothing else."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from sklearn.covariance import oas
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from chiasm.errors import LabelError, SpaceError
from chiasm.recognition import domain
from chiasm.recognition.domain import (
    ClassStatistics,
    ContrastiveFeatures,
    SelfTraining,
    Whitening,
    WithinClassWhitening,
    choose_alpha,
    self_train,
    spread_labels,
)
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.vectors import unit_rows


def probe(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> LinearProbe:
    return LinearProbe(strengths=[0.1]).fit(X, y, sample_weight=weight)


def moons(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles that reach into each other, as embeddings: inner products are nearly an RBF kernel."""
    rng = np.random.default_rng(seed)
    y = np.arange(number) % 2
    angle = np.pi * rng.random(number)
    flat = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    flat[y == 1] = [1, 0.5] - flat[y == 1]
    flat += 0.08 * rng.normal(size=flat.shape)
    fixed = np.random.default_rng(99)
    waves = flat @ (fixed.normal(size=(2, 150)) / 0.3) + fixed.uniform(0, 2 * np.pi, 150)
    return np.cos(waves) * np.sqrt(2 / 150), y


def ends(X: np.ndarray, y: np.ndarray, seed: int, shots: int = 2) -> np.ndarray:
    """Rows that carry a label: `shots` of each class."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(np.flatnonzero(y == c), shots, replace=False) for c in np.unique(y)])


def few_shot_accuracy(X: np.ndarray, y: np.ndarray, *, shots: int = 1, draws: int = 30) -> float:
    """Nearest class mean by cosine from a few shots, on all other rows, over many draws."""
    rng = np.random.default_rng(0)
    accuracy = []
    for _ in range(draws):
        shown = np.concatenate([rng.choice(np.flatnonzero(y == c), shots, replace=False) for c in np.unique(y)])
        means = np.stack([X[shown][y[shown] == c].mean(axis=0) for c in np.unique(y)])
        rest = np.setdiff1d(np.arange(len(y)), shown)
        predicted = (unit_rows(X[rest]) @ unit_rows(means).T).argmax(axis=1)
        accuracy.append((predicted == y[rest]).mean())
    return float(np.mean(accuracy))


def recalls(predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([(predicted[y == c] == c).mean() for c in np.unique(y)])


# ------------------------------------------------------------------------------------------------------ self-training


def test_self_training_beats_the_labelled_rows_alone() -> None:
    alone, trained = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = np.arange(200) % 5
        X = 0.7 * rng.normal(size=(5, 40))[y] + rng.normal(size=(200, 40))
        shown = ends(X, y, seed, shots=1)
        rest = np.setdiff1d(np.arange(len(y)), shown)
        result = self_train(probe, X[shown], y[shown], X[rest])
        alone.append((probe(X[shown], y[shown], np.ones(5)).predict(X[rest]) == y[rest]).mean())
        trained.append((result.classifier.predict(X[rest]) == y[rest]).mean())
    assert np.min(np.subtract(trained, alone)) > 0.03
    assert np.mean(trained) > np.mean(alone) + 0.1


def test_class_balance_keeps_a_small_class_that_one_ranking_loses() -> None:
    balanced: list[np.ndarray] = []
    ranked: list[np.ndarray] = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = np.repeat([0, 1], [285, 15])
        centres = np.zeros((2, 20))
        centres[1, 0] = 2.5
        X = centres[y] + rng.normal(size=(len(y), 20)) * np.linspace(1, 0.3, 20)
        shown = np.concatenate([np.arange(20), np.arange(285, 288)])
        rest = np.setdiff1d(np.arange(len(y)), shown)
        for scores, balance in ((balanced, True), (ranked, False)):
            result = self_train(probe, X[shown], y[shown], X[rest], last_share=0.5, balance=balance)
            scores.append(recalls(result.classifier.predict(X[rest]), y[rest]))
    # One ranking takes rows of the large class only; balance gives the small class its share of the rows.
    assert np.mean(balanced, axis=0)[1] > np.mean(ranked, axis=0)[1] + 0.05
    assert np.mean(balanced) > np.mean(ranked) + 0.02


def test_given_labels_keep_their_weight_and_pseudo_labels_have_their_confidence() -> None:
    X, y = moons(120, 0)
    shown = np.concatenate([ends(X, y, 0), [5]])
    wrong = y[shown].copy()
    wrong[-1] = 1 - wrong[-1]  # a wrong label is not ours to correct
    rest = np.setdiff1d(np.arange(len(y)), shown)
    calls: list[tuple[np.ndarray, np.ndarray, np.ndarray, LinearProbe]] = []

    def make(rows: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> LinearProbe:
        calls.append((rows, codes, weight, probe(rows, codes, weight)))
        return calls[-1][3]

    result = self_train(make, X[shown], wrong, X[rest], rounds=4)
    assert len(calls) == 1 + len(result.rounds)
    assert result.classifier is calls[-1][3]
    for rows, codes, weight, _ in calls:
        np.testing.assert_array_equal(rows[: len(shown)], X[shown])
        np.testing.assert_array_equal(codes[: len(shown)], wrong)
        assert (weight[: len(shown)] == 1).all()
    taken = result.pseudo_labels >= 0
    rows, codes, weight, _ = calls[-1]
    before = calls[-2][3].predict_proba(X[rest])
    np.testing.assert_array_equal(rows[len(shown) :], X[rest][taken])
    np.testing.assert_array_equal(codes[len(shown) :], before.argmax(axis=1)[taken])
    np.testing.assert_allclose(weight[len(shown) :], before.max(axis=1)[taken])
    np.testing.assert_array_equal(result.weights[taken], weight[len(shown) :])
    assert (result.weights[~taken] == 0).all()
    last = result.rounds[-1]
    assert last.taken == taken.sum() == sum(last.taken_by_class)
    assert last.confidence == pytest.approx(result.weights[taken].mean())
    assert [r.share for r in result.rounds] == pytest.approx(np.linspace(0.2, 0.8, 4))


class Fixed:
    """A classifier that learns nothing."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = probabilities
        self.classes_ = np.arange(probabilities.shape[1])

    def predict_proba(self, X: np.ndarray, /) -> np.ndarray:
        return self.probabilities


def fixed_run(probabilities: np.ndarray, **options: Any) -> tuple[SelfTraining[Fixed], int]:
    calls = []

    def make(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> Fixed:
        calls.append(len(X))
        return Fixed(probabilities)

    number = probabilities.shape[1]
    result = self_train(make, np.eye(number), np.arange(number), np.ones((len(probabilities), number)), **options)
    return result, len(calls)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.1, 0.3, 0.5, 1.0]), least=st.sampled_from([0.0, 0.5, 0.7])
)
def test_every_predicted_class_gives_the_same_share_of_its_most_confident_rows(
    seed: int, share: float, least: float
) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet([1.5, 0.7, 0.3], size=int(rng.integers(1, 40)))
    result, _ = fixed_run(chances, rounds=1, first_share=share, last_share=share, confidence=least)
    expected = np.full(len(chances), -1)
    for c in range(3):
        own = [i for i in range(len(chances)) if chances[i].argmax() == c]
        own.sort(key=lambda i: -chances[i].max())
        for i in own[: int(np.ceil(round(share * len(own), 6)))]:
            if chances[i].max() >= least:
                expected[i] = c
    np.testing.assert_array_equal(result.pseudo_labels, expected)

    ranked, _ = fixed_run(chances, rounds=1, first_share=share, last_share=share, balance=False)
    taken = np.argsort(-chances.max(axis=1), kind="stable")[: int(np.ceil(round(share * len(chances), 6)))]
    np.testing.assert_array_equal(np.flatnonzero(ranked.pseudo_labels >= 0), np.sort(taken))


def test_it_stops_fitting_when_nothing_changes() -> None:
    chances = np.random.default_rng(0).dirichlet([1.0, 1.0], size=30)
    result, fits = fixed_run(chances, rounds=50, first_share=0.4, last_share=0.4)
    assert fits == 2
    assert len(result.rounds) == 1
    result, fits = fixed_run(chances, rounds=3, first_share=0.2, last_share=1.0)
    assert fits == 4
    assert [r.taken for r in result.rounds] == sorted({r.taken for r in result.rounds})
    assert result.rounds[-1].taken == 30


def test_without_confident_rows_the_classifier_is_that_of_the_labels() -> None:
    X, y = moons(60, 0)
    shown = ends(X, y, 0)
    result = self_train(probe, X[shown], y[shown], X, confidence=1.0)
    assert result.rounds == ()
    assert (result.pseudo_labels == -1).all()
    np.testing.assert_array_equal(result.classifier.coef_, probe(X[shown], y[shown], np.ones(4)).coef_)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"y_codes": np.array([0, 0, 2, 2])}, LabelError, "1 of 3 classes have no labelled row, first class 1"),
        ({"classes": 3}, LabelError, "1 of 3 classes have no labelled row, first class 2"),
        ({"classes": 1}, LabelError, "code 1 is not one of 1 classes"),
        ({"y_codes": np.zeros(4, int)}, LabelError, "1 class only"),
        ({"y_codes": np.array([0, 1, -1, 1])}, LabelError, "whole numbers from 0; got int64 with -1"),
        ({"y_codes": np.array([0.0, 1, 0, 1])}, LabelError, "whole numbers from 0; got float64"),
        ({"y_codes": np.array([0, 1])}, LabelError, r"4 rows but codes of shape \(2,\)"),
        (
            {"X": np.array([[0, 1, np.nan]] * 4)},
            ValueError,
            "4 of 4 rows of X hold NaN or infinite values, first row 0",
        ),
        ({"X_unlabelled": np.full((3, 3), np.inf)}, ValueError, "3 of 3 rows of X_unlabelled hold NaN"),
        ({"X_unlabelled": np.ones((3, 2))}, ValueError, "labelled rows have 3 columns and unlabelled rows 2"),
        (
            {"X_unlabelled": np.ones((0, 3))},
            ValueError,
            r"X_unlabelled must be a matrix of numbers .* got shape \(0, 3\)",
        ),
        ({"X": np.ones(4)}, ValueError, r"X must be a matrix of numbers with a row an embedding; got shape \(4,\)"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1; got 0"),
        ({"confidence": 1.5}, ValueError, "confidence is a probability from 0 to 1; got 1.5"),
        ({"first_share": 0.9}, ValueError, "0 < first_share <= last_share <= 1; got first_share=0.9, last_share=0.8"),
    ],
)
def test_bad_input_of_self_training(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {
        "X": np.arange(12.0).reshape(4, 3),
        "y_codes": np.array([0, 1, 0, 1]),
        "X_unlabelled": np.ones((3, 3)),
    }
    with pytest.raises(error, match=text):
        self_train(probe, **(arguments | change))


def test_a_classifier_that_does_not_fit_the_codes_is_named() -> None:
    X, y = np.eye(4), np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match=r"classifier of the classes \[0, 1\]; it must know exactly .* 0 to 2"):
        self_train(lambda rows, codes, weight: Fixed(np.ones((4, 2))), X, y, X)
    with pytest.raises(ValueError, match=r"finite numbers of shape \(4, 3\); got shape \(3, 3\)"):
        self_train(lambda rows, codes, weight: Fixed(np.ones((3, 3))), X, y, X)


# ---------------------------------------------------------------------------------------------------- label spreading


def spread_slowly(
    X: np.ndarray, codes: np.ndarray, neighbours: int, alpha: float, power: float, mass: np.ndarray | None
) -> np.ndarray:
    """Dense, with loops and a direct solver."""
    n, classes = len(X), codes.max() + 1
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in X] for a in X])
    W = np.zeros((n, n))
    for i in range(n):
        nearest = [j for j in np.argsort(-cosine[i]) if j != i][:neighbours]
        for j in nearest:
            W[i, j] = W[j, i] = max(cosine[i, j], 0) ** power
    root = np.sqrt(W.sum(axis=1))
    S = W / root[:, None] / root[None, :]
    Y = np.array([[float(code == c) for c in range(classes)] for code in codes])
    F = np.linalg.solve(np.eye(n) - alpha * S, (1 - alpha) * Y)
    P: np.ndarray = F / F.sum(axis=1, keepdims=True)
    if mass is not None:
        unlabelled = codes < 0
        P[unlabelled] *= mass / P[unlabelled].sum(axis=0)
        P /= P.sum(axis=1, keepdims=True)
    return P


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("mass", ["labelled", None, (0.7, 0.2, 0.1)])
def test_spreading_is_that_of_a_dense_solver(mass: Any, alpha: float, dtype: type) -> None:
    rng = np.random.default_rng(1)
    X: np.ndarray = (rng.normal(size=(60, 8)) + 1).astype(dtype)
    codes = np.full(60, -1)
    codes[:6] = [0, 0, 0, 1, 2, 2]
    result = spread_labels(X, codes, neighbours=5, alpha=alpha, power=2.0, class_mass=mass)
    shares = np.array([3, 1, 2]) / 6 if mass == "labelled" else None if mass is None else np.array(mass)
    slow = spread_slowly(X.astype(np.float64), codes, 5, alpha, 2.0, shares)
    assert result.reached.all()
    np.testing.assert_allclose(result.probabilities, slow, atol=1e-7 if dtype == np.float64 else 1e-5)


def test_search_in_blocks_changes_nothing_and_bounds_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = moons(1500, 0)
    codes = np.where(np.arange(1500) < 10, y, -1)
    whole = spread_labels(X, codes)
    monkeypatch.setattr(domain, "_SIMILARITIES", 1500 * 7)
    tracemalloc.start()
    blocks = spread_labels(X, codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_allclose(blocks.probabilities, whole.probabilities, atol=1e-9)
    np.testing.assert_allclose(blocks.predict_proba(X[:50]), whole.predict_proba(X[:50]), atol=1e-9)
    assert peak < 1500 * 1500 * 8 / 2  # not half of the matrix of all similarities


def test_spreading_follows_the_shape_where_a_classifier_cannot() -> None:
    alone, spread, new = [], [], []
    for seed in range(5):
        X, y = moons(600, seed)
        X, y, X_new, y_new = X[:400], y[:400], X[400:], y[400:]
        shown = ends(X, y, seed)
        codes = np.full(len(y), -1)
        codes[shown] = y[shown]
        result = spread_labels(X, codes)
        hidden = codes < 0
        alone.append((probe(X[shown], y[shown], np.ones(4)).predict(X[hidden]) == y[hidden]).mean())
        spread.append((result.probabilities.argmax(axis=1) == y)[hidden].mean())
        new.append((result.predict_proba(X_new).argmax(axis=1) == y_new).mean())
    assert np.mean(spread) > np.mean(alone) + 0.05
    assert np.mean(new) > np.mean(alone) + 0.05


def test_new_rows_get_the_weighted_mean_of_their_neighbours() -> None:
    rng = np.random.default_rng(0)
    X, X_new = rng.normal(size=(40, 6)) + 0.5, rng.normal(size=(5, 6))
    result = spread_labels(X, np.where(np.arange(40) < 4, np.arange(40) % 2, -1), neighbours=4, power=1.5)
    given = result.predict_proba(X_new)
    for i, row in enumerate(X_new):
        cosine = X @ row / np.linalg.norm(X, axis=1) / np.linalg.norm(row)
        near = np.argsort(-cosine)[:4]
        weight = np.maximum(cosine[near], 0) ** 1.5
        np.testing.assert_allclose(given[i], weight @ result.probabilities[near] / weight.sum(), atol=1e-12)
    np.testing.assert_array_equal(result.predict_proba(np.zeros((2, 6))), np.full((2, 2), 0.5))
    with pytest.raises(ValueError, match="X has 5 columns; labels were spread over rows of 6"):
        result.predict_proba(X_new[:, :5])


def test_class_masses_help_where_the_classes_are_of_different_sizes() -> None:
    plain, told = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        y = np.repeat([0, 1], [360, 40])
        X = 0.9 * rng.normal(size=(400, 10))
        X[:, 0] += 1 + np.where(y == 1, 1.5, 0)
        X[:, 1] += np.where(y == 1, 1.5, 0)
        codes = np.full(400, -1)
        codes[:3], codes[-12:] = 0, 1
        hidden = codes < 0
        plain.append((spread_labels(X, codes, class_mass=None).probabilities.argmax(axis=1) == y)[hidden].mean())
        told.append((spread_labels(X, codes, class_mass=[0.9, 0.1]).probabilities.argmax(axis=1) == y)[hidden].mean())
    assert np.mean(told) > np.mean(plain) + 0.05


def test_rows_without_a_way_to_a_label_are_told_apart() -> None:
    near = np.eye(6)[[0] * 4 + [1] * 4] + 0.01 * np.random.default_rng(0).normal(size=(8, 6))
    island = np.tile(np.eye(6)[5], (3, 1))
    X = np.concatenate([near * [1, 1, 1, 1, 1, 0], island, np.zeros((1, 6))])
    codes = np.array([0, -1, -1, -1, 1, -1, -1, -1, -1, -1, -1, -1])
    result = spread_labels(X, codes, neighbours=2)
    assert result.reached.tolist() == [True] * 8 + [False] * 4
    np.testing.assert_array_equal(result.probabilities[8:], np.full((4, 2), 0.5))
    assert result.probabilities[:8].argmax(axis=1).tolist() == [0] * 4 + [1] * 4
    assert set(result.soft_labels().rows) == set(range(8))


def test_all_rows_may_be_labelled_and_neighbours_more_than_rows() -> None:
    result = spread_labels(np.eye(3) + 1, np.array([0, 1, 1]), neighbours=50, alpha=0.3)
    assert result.probabilities.argmax(axis=1).tolist() == [0, 1, 1]


def test_soft_labels_are_the_cross_entropy_to_the_probabilities() -> None:
    X, y = moons(200, 3)
    codes = np.full(200, -1)
    codes[ends(X, y, 3)] = y[ends(X, y, 3)]
    result = spread_labels(X, codes)
    before = result.probabilities.copy()
    soft = result.soft_labels(least=0.0, weight=0.5)
    np.testing.assert_array_equal(result.probabilities, before)
    table = np.zeros((200, 2))
    table[soft.rows, soft.codes] = soft.weights
    assert len(soft.rows) == np.count_nonzero(table)
    hidden = codes < 0
    np.testing.assert_allclose(table[hidden], 0.5 * before[hidden])
    np.testing.assert_array_equal(table[~hidden], np.eye(2)[codes[~hidden]])
    cut = result.soft_labels(least=0.4)
    assert len(cut.rows) < len(soft.rows)
    np.testing.assert_allclose(np.bincount(cut.rows, cut.weights), 1)

    learned = probe(X[soft.rows], soft.codes, soft.weights)
    alone = probe(X[~hidden], codes[~hidden], np.ones(4))
    assert (learned.predict(X[hidden]) == y[hidden]).mean() > (alone.predict(X[hidden]) == y[hidden]).mean() + 0.03


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"codes": np.full(4, -1)}, LabelError, "all 4 rows are unlabelled: label at least one row of each class"),
        ({"codes": np.array([0, 2, -1, -1])}, LabelError, "1 of 3 classes have no labelled row, first class 1"),
        ({"codes": np.array([0, 0, -1, -1])}, LabelError, "1 class only"),
        ({"codes": np.array([0, 1, -2, -1])}, LabelError, "or -1 for an unlabelled row; got int64 with -2"),
        ({"codes": np.array([0, 1])}, LabelError, r"4 rows but codes of shape \(2,\)"),
        ({"X": np.full((4, 2), np.nan)}, ValueError, "4 of 4 rows of X hold NaN"),
        ({"X": np.array([["a"]] * 4)}, ValueError, "X must be a matrix of numbers"),
        ({"neighbours": 0}, ValueError, "neighbours must be at least 1; got 0"),
        ({"alpha": 1.0}, ValueError, "alpha must be above 0 and below 1; got 1.0"),
        ({"power": 0.0}, ValueError, "power must be above 0 and finite; got 0.0"),
        (
            {"class_mass": "equal"},
            ValueError,
            "class_mass must be 'labelled', one number a class, or None; got 'equal'",
        ),
        ({"class_mass": [0.5, 0.3, 0.2]}, ValueError, "class_mass must be 2 finite numbers above 0"),
        ({"class_mass": [1.0, 0.0]}, ValueError, "class_mass must be 2 finite numbers above 0"),
    ],
)
def test_bad_input_of_spreading(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments: dict[str, Any] = {"X": np.ones((4, 2)), "codes": np.array([0, 1, -1, -1])}
    with pytest.raises(error, match=text):
        spread_labels(**(arguments | change))


def test_bad_options_of_soft_labels() -> None:
    result = spread_labels(np.ones((4, 2)), np.array([0, 1, -1, -1]))
    with pytest.raises(ValueError, match=r"least must be from 0 to 0\.5; got 0\.6"):
        result.soft_labels(least=0.6)
    with pytest.raises(ValueError, match="weight must be above 0 and finite; got 0"):
        result.soft_labels(weight=0)


# --------------------------------------------------------------------------------------------------------- statistics


def assert_same_statistics(one: ClassStatistics, other: ClassStatistics, tolerance: float = 1e-9) -> None:
    np.testing.assert_array_equal(one.classes, other.classes)
    np.testing.assert_array_equal(one.counts, other.counts)
    np.testing.assert_allclose(one.means, other.means, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.within, other.within, rtol=tolerance, atol=tolerance * np.abs(other.within).max())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), pieces=st.integers(1, 5), offset=st.sampled_from([0.0, 1e5]))
def test_statistics_add_up_however_the_rows_are_divided(seed: int, pieces: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(30, 4)) + offset, rng.choice(np.array(["a", "b", "c", "d"]), 30)
    parts = np.array_split(rng.permutation(30), pieces)
    total = ClassStatistics.from_rows(X[parts[0]], y[parts[0]])
    for part in parts[1:]:
        total += ClassStatistics.from_rows(X[part], y[part])
    assert_same_statistics(total, ClassStatistics.from_rows(X, y))
    assert_same_statistics(total.merged(), ClassStatistics.from_rows(X))
    # The slow restatement.
    within = sum((np.cov(X[y == c].T, ddof=0) * (y == c).sum() for c in np.unique(y)), np.zeros((4, 4)))
    np.testing.assert_allclose(total.within, within, atol=1e-9 * np.abs(within).max())


def test_statistics_of_many_rows_are_taken_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100) % 7
    whole = ClassStatistics.from_rows(X, y)
    monkeypatch.setattr(domain, "_ROWS", 8)
    assert_same_statistics(ClassStatistics.from_rows(X, y), whole)


def test_statistics_come_back_from_a_file(tmp_path: Path) -> None:
    X, y = np.random.default_rng(0).normal(size=(30, 5)), np.array(["Vogel", "馬", "cat"] * 10)
    statistics = ClassStatistics.from_rows(X, y)
    statistics.save(tmp_path / "source.safetensors", {"encoder": "offline:1"})
    loaded, metadata = ClassStatistics.load(tmp_path / "source.safetensors")
    assert metadata == {"encoder": "offline:1"}
    assert_same_statistics(loaded, statistics, 1e-6)
    np.testing.assert_array_equal(loaded.means, statistics.means)
    assert_same_statistics(loaded + statistics, statistics + statistics, 1e-6)
    assert WithinClassWhitening().fit_statistics(loaded).transform(X) == pytest.approx(
        WithinClassWhitening().fit(X, y).transform(X), abs=1e-5
    )


def test_bad_files_of_statistics(tmp_path: Path) -> None:
    file = tmp_path / "source.safetensors"
    X, y = np.random.default_rng(0).normal(size=(6, 2)), np.arange(6) % 2
    statistics = ClassStatistics.from_rows(X, y)
    with pytest.raises(SpaceError, match="cannot be read as class statistics"):
        ClassStatistics.load(file)
    file.write_bytes(b"not a safetensors file")
    with pytest.raises(SpaceError, match="cannot be read as class statistics"):
        ClassStatistics.load(file)
    save_file({"counts": np.ones(1)}, file)
    with pytest.raises(SpaceError, match="is not a file of class statistics"):
        ClassStatistics.load(file)
    save_file({"counts": np.ones(1)}, file, metadata={"format": domain.FORMAT, "format_version": "9"})
    with pytest.raises(SpaceError, match="has format version 9; this chiasm reads 1"):
        ClassStatistics.load(file)
    header = {"format": domain.FORMAT, "format_version": "1", "classes": "[0, 1]", "metadata": "{}"}
    tensors = {"counts": np.array([3, 3]), "means": statistics.means, "within_upper": np.zeros(2, np.float32)}
    save_file(tensors, file, metadata=header)
    with pytest.raises(SpaceError, match="is damaged"):
        ClassStatistics.load(file)
    save_file(tensors | {"within_upper": np.full(3, np.nan, np.float32)}, file, metadata=header)
    with pytest.raises(SpaceError, match="is damaged"):
        ClassStatistics.load(file)
    with pytest.raises(SpaceError, match="cannot be written to"):
        statistics.save(tmp_path / "nowhere" / "source.safetensors", {})
    with pytest.raises(LabelError, match="classes of type float64 cannot be saved"):
        ClassStatistics.from_rows(X, y / 2).save(file, {})


def test_statistics_that_do_not_fit_are_not_added() -> None:
    X, y = np.ones((4, 3)), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="statistics of 3 columns cannot be added to statistics of 2"):
        ClassStatistics.from_rows(X, y) + ClassStatistics.from_rows(X[:, :2], y)
    with pytest.raises(LabelError, match="classes of the statistics mix numbers and text"):
        ClassStatistics.from_rows(X, y) + ClassStatistics.from_rows(X, ["a", "a", "b", "b"])
    with pytest.raises(LabelError, match="there are 4 rows but 3 labels"):
        ClassStatistics.from_rows(X, y[:3])
    with pytest.raises(LabelError, match="1 of 4 labels are missing"):
        ClassStatistics.from_rows(X, ["a", None, "b", "b"])


# ---------------------------------------------------------------------------------------------------------- whitening


def skewed(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, dim)) @ rng.normal(size=(dim, dim)) + 3


@pytest.mark.parametrize(
    "estimator",
    [
        Whitening(),
        Whitening(components=0.9, shrinkage=0.0),
        Whitening(shrinkage="auto"),
        WithinClassWhitening(),
        ContrastiveFeatures(dim=4, epochs=1),
        ContrastiveFeatures(dim=4, hidden=8, epochs=1),
    ],
    ids=repr,
)
def test_scikit_learns_checks_all_pass(estimator: Any) -> None:
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    assert not {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert {r["check_name"] for r in results if r["status"] != "passed"} <= {"check_array_api_input"}


def test_whitened_rows_have_the_identity_as_covariance() -> None:
    X = skewed(200, 6)
    whitening = Whitening(shrinkage=0.0).fit(X)
    np.testing.assert_allclose(np.cov(whitening.transform(X).T), np.eye(6), atol=1e-8)
    np.testing.assert_allclose(whitening.transform(X).mean(axis=0), 0, atol=1e-8)
    # Few rows: the directions without variance are left out.
    few = Whitening(shrinkage=0.0).fit(X[:4])
    np.testing.assert_allclose(np.cov(few.transform(X[:4]).T), np.eye(3), atol=1e-8)


def test_shrinkage_is_toward_the_identity_and_by_itself_that_of_scikit_learn() -> None:
    X = skewed(15, 6)
    cov = np.cov(X.T)
    for s in (0.3, 1.0):
        W = Whitening(shrinkage=s).fit(X).weight_
        np.testing.assert_allclose(W.T @ ((1 - s) * cov + s * np.trace(cov) / 6 * np.eye(6)) @ W, np.eye(6), atol=1e-9)
    by_itself = Whitening(shrinkage="auto")
    assert by_itself.fit(X).shrinkage_ == pytest.approx(oas(X)[1])
    assert by_itself.fit(X[:, :1]).shrinkage_ == 1.0
    assert by_itself.fit(skewed(5000, 6)).shrinkage_ < 0.01


def test_components_by_number_and_by_share_of_the_variance() -> None:
    scale = np.sqrt([6, 3, 0.6, 0.4])
    X = np.concatenate([np.diag(scale), -np.diag(scale)])  # covariance in proportion 60, 30, 6 and 4 percent
    assert Whitening(components=3).fit(X).transform(X).shape == (8, 3)
    for share, number in ((0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (0.96, 3), (1.0, 4)):
        assert Whitening(components=share, shrinkage=0.0).fit(X).weight_.shape == (4, number), share
    first = Whitening(components=1, shrinkage=0.0).fit(X).weight_[:, 0]
    np.testing.assert_allclose(np.abs(first) > 1e-9, [True, False, False, False])


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), pieces=st.integers(2, 12))
def test_streamed_rows_give_what_all_rows_give(seed: int, pieces: int) -> None:
    X = skewed(24, 5, seed)
    y = np.random.default_rng(seed).integers(0, 4, 24)
    streamed, streamed_within = Whitening(shrinkage=0.1), WithinClassWhitening()
    for part in np.array_split(np.arange(24), pieces):
        streamed.partial_fit(X[part])
        streamed_within.partial_fit(X[part], y[part])
    whole = Whitening(shrinkage=0.1).fit(X)
    # Directions have no sign.
    np.testing.assert_allclose(np.abs(streamed.transform(X)), np.abs(whole.transform(X)), atol=1e-6)
    within = WithinClassWhitening().fit(X, y)
    np.testing.assert_allclose(streamed_within.transform(X), within.transform(X), atol=1e-8)
    again = Whitening(shrinkage=0.1).fit_statistics(ClassStatistics.from_rows(X, y))
    np.testing.assert_allclose(np.abs(again.transform(X)), np.abs(whole.transform(X)), atol=1e-6)
    assert again.n_features_in_ == 5


def test_whitening_of_an_unlabelled_source_helps_few_shots() -> None:
    rng = np.random.default_rng(0)
    loud = np.linspace(1, 12, 20) ** 1.2  # directions that vary most say least
    source = rng.normal(size=(2000, 20)) * loud
    y = np.repeat(np.arange(5), 40)
    target = rng.normal(size=(5, 20))[y] * 2 + rng.normal(size=(200, 20)) * loud
    whitening = Whitening(shrinkage="auto").fit(source)
    assert few_shot_accuracy(whitening.transform(target), y) > few_shot_accuracy(target, y) + 0.1


def nuisance_domains(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A source and a target of other classes: five directions tell classes apart, four louder ones vary within them."""
    rng = np.random.default_rng(seed)
    signal, nuisance = rng.normal(size=(5, 30)) / 3, rng.normal(size=(4, 30))

    def draw(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(classes), each)
        X = (rng.normal(size=(classes, 5)) @ signal)[y] + rng.normal(size=(len(y), 4)) @ nuisance
        return X + 0.2 * rng.normal(size=X.shape), y

    return *draw(60, 10), *draw(6, 30)


@pytest.mark.parametrize("shrinkage", [0.05, "auto"])
def test_a_source_with_other_labels_shows_what_does_not_matter(shrinkage: Any) -> None:
    source, source_y, target, y = nuisance_domains()
    whitening = WithinClassWhitening(shrinkage=shrinkage)
    before = few_shot_accuracy(target, y)
    after = few_shot_accuracy(whitening.fit(source, source_y).transform(target), y)
    assert after > before + 0.5
    assert few_shot_accuracy(WithinClassWhitening().fit(source, source_y).transform(target), y) > before + 0.3
    # Labels that say nothing leave whitening by all that varies, the classes too.
    shuffled = np.random.default_rng(0).permutation(source_y)
    assert after > few_shot_accuracy(whitening.fit(source, shuffled).transform(target), y) + 0.15


def test_within_classes_the_covariance_becomes_the_identity_in_the_same_columns() -> None:
    X, y, *_ = nuisance_domains()
    whitening = WithinClassWhitening(shrinkage=0.0).fit(X, y)
    Z = whitening.transform(X)
    centred = Z - np.stack([Z[y == c].mean(axis=0) for c in y])
    np.testing.assert_allclose(centred.T @ centred / (len(y) - 60), np.eye(30), atol=1e-8)
    np.testing.assert_allclose(whitening.weight_, whitening.weight_.T)
    round_ = WithinClassWhitening(shrinkage=1.0).fit(X, y).weight_
    np.testing.assert_allclose(round_, np.eye(30) * round_[0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("run", "error", "text"),
    [
        (lambda: Whitening().fit(np.ones((5, 3))), ValueError, "all rows are equal: there is no variation to whiten"),
        (lambda: Whitening().fit(np.full((5, 3), 0.1)), ValueError, "all rows are equal"),
        (lambda: Whitening().fit(np.ones((1, 3))), ValueError, "at least 2 rows; got 1 sample"),
        (lambda: Whitening().partial_fit(np.ones((1, 3))).transform(np.ones((1, 3))), ValueError, "at least 2 rows"),
        (lambda: Whitening(shrinkage=1.5).fit(skewed(5, 2)), ValueError, "shrinkage must be 'auto' or a number from 0"),
        (lambda: Whitening(shrinkage="oas").fit(skewed(5, 2)), ValueError, "shrinkage must be 'auto' .* got 'oas'"),
        (lambda: Whitening(components=0).fit(skewed(5, 2)), ValueError, "components must be at least 1; got 0"),
        (lambda: Whitening(components=1.5).fit(skewed(5, 2)), ValueError, "components must be a whole number, a share"),
        (lambda: Whitening(components=3).fit(skewed(5, 2)), ValueError, "components is 3, but X has 2 columns"),
        (lambda: Whitening().transform(np.ones((2, 2))), NotFittedError, "not fitted yet"),
        (lambda: Whitening().fit(skewed(5, 2)).transform(np.ones((2, 3))), ValueError, "X has 3 features"),
        (lambda: Whitening().fit([[1.0, np.nan], [2.0, 3.0]]), ValueError, "NaN"),
        (
            lambda: WithinClassWhitening().fit(skewed(3, 2), ["a", "b", "c"]),
            LabelError,
            "each of the 3 classes has 1 sample: nothing says what varies within a class",
        ),
        (
            lambda: WithinClassWhitening().fit(skewed(3, 2)[[0, 0, 1, 1]], [0, 0, 1, 1]),
            ValueError,
            "all rows of every class are equal",
        ),
        (
            lambda: WithinClassWhitening().fit(skewed(3, 2), ["a", None, "c"]),
            LabelError,
            "1 of 3 labels are missing",
        ),
        (
            lambda: (
                WithinClassWhitening().partial_fit(skewed(4, 2), [0, 0, 1, 1]).partial_fit(skewed(2, 2), ["a", "b"])
            ),
            LabelError,
            "mix numbers and text",
        ),
    ],
)
def test_bad_input_of_whitening(run: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run()


# ------------------------------------------------------------------------------------------------ contrastive features


def test_partners_teach_which_directions_differ_between_them() -> None:
    rng = np.random.default_rng(0)
    vendor = 3 * rng.normal(size=(4, 30))
    things = rng.normal(size=(400, 30))

    def drawn(of: np.ndarray) -> np.ndarray:
        return of + rng.normal(size=(len(of), 4)) @ vendor + 0.2 * rng.normal(size=of.shape)

    y = np.repeat(np.arange(6), 20)
    target = drawn((2 * rng.normal(size=(6, 30)))[y])
    features = ContrastiveFeatures(dim=20, epochs=15, batch=64, learning_rate=1e-2, dropout=0.0, noise=0.0)
    features.fit(drawn(things), partners=drawn(things))
    assert features.losses_[-1] < 0.5 * features.losses_[0]
    assert few_shot_accuracy(features.transform(target), y) > few_shot_accuracy(target, y) + 0.2


def test_unlabelled_rows_alone_teach_how_to_tell_items_apart() -> None:
    rng = np.random.default_rng(0)
    loud = np.r_[np.full(3, 8.0), np.full(17, 1.0)]
    source = rng.normal(size=(1000, 20)) * loud
    y = np.repeat(np.arange(5), 40)
    target = rng.normal(size=(5, 20))[y] * 1.5 + rng.normal(size=(200, 20)) * loud
    features = ContrastiveFeatures(dim=20, epochs=15, batch=64, learning_rate=1e-2, noise=0.05).fit(source)
    assert few_shot_accuracy(features.transform(target), y) > few_shot_accuracy(target, y) + 0.05


@pytest.mark.parametrize("hidden", [None, 7])
def test_transform_is_plain_numpy(hidden: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    X = skewed(21, 5).astype(np.float32)  # 21 rows in batches of 20 leave no lone row
    features = ContrastiveFeatures(dim=3, hidden=hidden, epochs=2, batch=20).fit(X)
    monkeypatch.setitem(sys.modules, "torch", None)
    given = features.transform(X)
    assert given.dtype == np.float32
    for row, expected in zip(given, (X - X.mean(axis=0)) / features.scale_, strict=True):
        value = expected @ features.layers_[0][0] + features.layers_[0][1]
        if hidden is not None:
            value = np.where(value > 0, value, 0) @ features.layers_[1][0] + features.layers_[1][1]
        np.testing.assert_allclose(row, value / np.linalg.norm(value), atol=1e-5)
    assert features.scale_ == pytest.approx(np.sqrt(X.var(axis=0).mean()), rel=1e-5)


def test_training_is_repeatable_and_leaves_the_programs_random_numbers_alone() -> None:
    import torch

    X = skewed(30, 5)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = ContrastiveFeatures(dim=3, epochs=2).fit(X).transform(X)
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(first, ContrastiveFeatures(dim=3, epochs=2).fit(X).transform(X))
    assert not np.array_equal(first, ContrastiveFeatures(dim=3, epochs=2, random_state=1).fit(X).transform(X))


def test_loss_is_info_nce_of_both_directions() -> None:
    X, partners = skewed(8, 4), skewed(8, 4, seed=1)
    features = ContrastiveFeatures(
        dim=6, epochs=1, batch=8, dropout=0.0, noise=0.0, temperature=0.5, learning_rate=1e-12, weight_decay=0.0
    )
    features.fit(X, partners=partners)  # a step too small to move: the layers are those of the start
    cosine = features.transform(X) @ features.transform(partners).T / 0.5
    rows = [-np.log(np.exp(cosine[i, i]) / np.exp(cosine[i]).sum()) for i in range(8)]
    columns = [-np.log(np.exp(cosine[i, i]) / np.exp(cosine[:, i]).sum()) for i in range(8)]
    assert features.losses_[0] == pytest.approx((np.mean(rows) + np.mean(columns)) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "data", "text"),
    [
        ({}, {"X": np.ones((5, 3))}, "all rows are equal: there is nothing to tell apart"),
        ({}, {"X": np.ones((1, 3))}, "at least 2 rows to tell apart; got 1 sample"),
        (
            {},
            {"X": skewed(5, 3), "partners": skewed(5, 2)},
            r"shape of X, \(5, 3\); got \(5, 2\). One projection serves",
        ),
        ({}, {"X": skewed(5, 3), "partners": np.full((5, 3), np.nan)}, "5 of 5 rows of partners hold NaN"),
        ({"dim": 0}, {"X": skewed(5, 3)}, "dim must be a whole number of at least 1; got 0"),
        ({"hidden": 0}, {"X": skewed(5, 3)}, "hidden must be a whole number of at least 1; got 0"),
        ({"batch": 1}, {"X": skewed(5, 3)}, "batch must be a whole number of at least 2; got 1"),
        ({"temperature": 0.0}, {"X": skewed(5, 3)}, "temperature must be above 0 and finite; got 0.0"),
        ({"noise": -1.0}, {"X": skewed(5, 3)}, "noise must be finite and not below 0; got -1.0"),
        ({"dropout": 1.0}, {"X": skewed(5, 3)}, "dropout must be at least 0 and below 1; got 1.0"),
    ],
)
def test_bad_input_of_contrastive_features(options: dict[str, Any], data: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ContrastiveFeatures(**options).fit(**data)


# -------------------------------------------------------------------------------------------------- source or no source


def scores_with_source(source: np.ndarray, source_y: np.ndarray, target: np.ndarray, y: np.ndarray) -> dict[float, Any]:
    """Held-out accuracy of the target by fold, with the source's rows weighted by alpha."""
    fold = np.arange(len(y)) // len(np.unique(y)) % 5
    scores: dict[float, Any] = {}
    for alpha in (0.0, 0.25, 0.5, 0.75):
        of_folds = []
        for f in range(5):
            train, test = fold != f, fold == f
            X, codes = np.concatenate([target[train], source]), np.concatenate([y[train], source_y])
            weight = np.r_[np.full(train.sum(), (1 - alpha) / train.sum()), np.full(len(source), alpha / len(source))]
            of_folds.append((probe(X, codes, 100 * weight).predict(target[test]) == y[test]).mean())
        scores[alpha] = np.array(of_folds)
    return scores


def test_a_related_source_is_used_and_an_unrelated_one_refused() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(6, 40))
    y, source_y = np.tile(np.arange(6), 10), np.tile(np.arange(6), 60)
    target = centres[y] + 2.2 * rng.normal(size=(len(y), 40))
    related = centres[source_y] + 2.2 * rng.normal(size=(len(source_y), 40))
    used = choose_alpha(scores_with_source(related, source_y, target, y))
    assert used.chosen > 0
    assert not used.refused
    unrelated = choose_alpha(scores_with_source(related, np.roll(source_y, 1), target, y))
    assert unrelated.chosen == 0
    assert unrelated.refused
    assert "refused" in unrelated.sentence


def test_the_best_weight_wins_only_by_more_than_a_standard_error() -> None:
    alone = np.array([0.5, 0.6, 0.7, 0.6])
    choice = choose_alpha(
        {0.5: np.add(alone, [0.1, 0.12, 0.08, 0.1]), 0.0: alone, 1.0: np.add(alone, [0.4, -0.3, 0.5, -0.1])}
    )
    # 1.0 has the better mean, but within its standard error of the target alone.
    assert choice.scores == pytest.approx({0.0: 0.6, 0.5: 0.7, 1.0: 0.725})
    assert choice.gains == pytest.approx({0.0: 0.0, 0.5: 0.1, 1.0: 0.125})
    assert choice.standard_errors[0.5] == pytest.approx(np.std([0.1, 0.12, 0.08, 0.1], ddof=1) / 2)
    assert choice.standard_errors[1.0] > 0.125
    assert (choice.chosen, choice.refused) == (0.5, False)
    assert choice.sentence == (
        "The source is used with weight 0.5: held-out score 0.700 against 0.600 with the target alone "
        "(+0.100, standard error 0.008, 4 folds)."
    )


def test_what_is_refused_is_said_with_the_reason() -> None:
    alone = np.array([0.5, 0.6, 0.7, 0.6])
    hurt = choose_alpha({0.0: alone, 0.5: alone - 0.1, 0.9: alone - 0.2})
    assert (hurt.chosen, hurt.refused) == (0.0, True)
    assert hurt.sentence.startswith(
        "The source is refused, it would hurt: at its best weight, 0.5, held-out score 0.500"
    )
    chance = choose_alpha({0.0: alone, 0.5: np.add(alone, [0.2, -0.1, 0.1, -0.15])})
    assert (chance.chosen, chance.refused) == (0.0, True)
    assert chance.sentence.startswith("The source is refused, its gain could be chance: at its best weight, 0.5,")
    same = choose_alpha({0.0: alone, 0.5: alone})
    assert (same.chosen, same.refused) == (0.0, True)
    none = choose_alpha({0.0: alone})
    assert (none.chosen, none.refused) == (0.0, False)
    assert none.sentence == "No source was tried: held-out score 0.600 with the target alone (4 folds)."


def test_of_equal_weights_the_smallest_is_taken() -> None:
    alone = np.array([0.5, 0.6])
    assert choose_alpha({0.75: alone + 0.1, 0.25: alone + 0.1, 0.0: alone}).chosen == 0.25


@pytest.mark.parametrize(
    ("scores", "text"),
    [
        ({0.5: [0.1, 0.2]}, r"scores of alpha 0 \(target only\) are needed to compare with; got alphas \[0.5\]"),
        ({0.0: [0.1, 0.2], 1.5: [0.1, 0.2]}, "alpha is a weight from 0 to 1; got 1.5"),
        ({0.0: [0.1, 0.2], 0.5: [0.1, 0.2, 0.3]}, r"got shape \(2,\) for alpha 0 and \(3,\) for alpha 0.5"),
        ({0.0: [0.1], 0.5: [0.2]}, "the same 2 or more folds"),
        ({0.0: [0.1, 0.2], 0.5: [0.1, np.nan]}, r"scores must be finite numbers; alpha 0.5 has \[0.1, nan\]"),
    ],
)
def test_bad_input_of_the_choice(scores: dict[float, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        choose_alpha(scores)
