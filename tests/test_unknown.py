"""Unknown items are told from known ones, at the rate of false alarms that was asked for."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import unknown
from chiasm.recognition.confidence import ConformalScores
from chiasm.recognition.unknown import (
    SCORES,
    Mahalanobis,
    NearestNeighbour,
    UnknownDetector,
    cross_fitted_scores,
    fit_unknown_detector,
    left_out_areas,
)

NAMES: list[Any] = list(SCORES)


def planted(
    classes: int, per_class: int, dim: int, *, distance: float = 4.0, draw: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clusters around centres that are the same in every draw, the spread falling from column to column."""
    centres = np.random.default_rng(0).normal(size=(classes, dim)) * distance / np.sqrt(dim)
    codes = np.repeat(np.arange(classes), per_class)
    noise = np.random.default_rng([0, draw]).normal(size=(len(codes), dim)) * (1 + np.arange(dim)) ** -0.5
    return centres[codes] + noise + 0.5, codes


# -------------------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize(("per_class", "dim"), [(5, 60), (40, 10)], ids=["wide", "tall"])
def test_mahalanobis_is_that_of_scikit_learns_whole_covariance(per_class: int, dim: int) -> None:
    train, codes = planted(4, per_class, dim)
    new = planted(6, 5, dim, draw=2)[0] + 3
    means = np.stack([train[codes == k].mean(axis=0) for k in range(4)])
    freedom = len(train) - 4
    covariance = ledoit_wolf((train - means[codes]) * np.sqrt(len(train) / freedom), assume_centered=True)[0]
    inverse = np.linalg.inv(covariance)
    slow = [min((x - mean) @ inverse @ (x - mean) for mean in means) for x in new]
    np.testing.assert_allclose(Mahalanobis.fit(train, 2 * codes).scores(new), slow, rtol=1e-8)  # codes may have gaps


def test_mahalanobis_of_more_columns_than_rows_keeps_to_their_span() -> None:
    train, codes = planted(11, 5, 1664)
    assert Mahalanobis.fit(train.astype(np.float32), codes).axes.shape == (55 - 11, 1664)


@pytest.mark.parametrize("block", [1, 10**6])
def test_knn_is_the_distance_to_the_nearest(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unknown, "_BLOCK", block)
    train, codes = planted(3, 5, 4)
    new, _ = planted(3, 4, 4, draw=2)
    slow = [min(np.linalg.norm(x / np.linalg.norm(x) - t / np.linalg.norm(t)) for t in train) for x in new]
    np.testing.assert_allclose(NearestNeighbour.fit(train, codes).scores(new), slow, atol=1e-7)


def test_knn_keeps_a_draw_of_many_items() -> None:
    train = np.random.default_rng(0).normal(size=(10_001, 2))
    first, same, other = (NearestNeighbour.fit(train, np.zeros(10_001, int), seed=s).items for s in (0, 0, 1))
    assert first.shape == (10_000, 2)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("name", NAMES)
def test_every_score_sees_a_planted_unknown_class(name: Any) -> None:
    new, new_codes = planted(9, 40, 20, draw=2)
    fitted = SCORES[name].fit(*planted(5, 40, 20))
    assert roc_auc_score(new_codes >= 5, fitted.scores(new)) > 0.8


# ------------------------------------------------------------------------------------------------------------ detector


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_false_alarms_are_as_rare_as_asked(name: Any, rate: float) -> None:
    alarms = []
    for draw in range(25):
        detector = fit_unknown_detector(*planted(4, 60, 12, draw=2 * draw + 10), score=name, seed=draw)
        assert detector is not None and detector.name == name
        new, _ = planted(4, 100, 12, draw=2 * draw + 11)
        alarms.append(float(detector.is_unknown(detector.scores(new), false_alarm_rate=rate).mean()))
    assert abs(np.mean(alarms) - rate) < 0.02


def test_scores_of_training_items_would_raise_far_too_many_alarms() -> None:
    """Why held-out scores are taken: of few items in many columns, Mahalanobis knows its own by heart."""
    X, codes = planted(5, 8, 200)
    fitted = Mahalanobis.fit(X, codes)
    new = fitted.scores(planted(5, 40, 200, draw=2)[0])
    naive, honest = (
        ConformalScores.of(scores).quantile(0.9)
        for scores in (fitted.scores(X), cross_fitted_scores("mahalanobis", X, codes))
    )
    assert (new > naive).mean() > 0.9
    assert (new > honest).mean() < 0.2


def test_threshold_and_p_values_agree() -> None:
    held_out = np.random.default_rng(1).normal(size=99)
    detector = UnknownDetector("knn", NearestNeighbour.fit(*planted(3, 10, 4)), ConformalScores.of(held_out))
    new = np.random.default_rng(2).normal(size=500)
    assert detector.threshold(0.1) == np.sort(held_out)[89]
    np.testing.assert_array_equal(detector.is_unknown(new, false_alarm_rate=0.1), detector.p_values(new) <= 0.1 + 1e-12)
    assert detector.threshold(0.009) == math.inf, "one more item of 99 would be a false alarm"
    assert detector.is_unknown(np.array([1e9]), false_alarm_rate=0.01).all()


def test_held_out_scores_are_of_fits_that_did_not_see_the_row() -> None:
    """Each group is ten copies of one item: knn finds a copy at distance 0 wherever one is learned from."""
    X, codes = planted(3, 8, 6)
    copies, groups = np.repeat(np.arange(24), 10), np.repeat(np.arange(24), 10)
    loose = cross_fitted_scores("knn", X[copies], codes[copies])
    held = cross_fitted_scores("knn", X[copies], codes[copies], groups=groups)
    assert np.median(loose) < 1e-6
    assert held.min() > 1e-3
    alone = np.append(X, X[:1] + 9, axis=0), np.append(codes, 7)
    assert len(cross_fitted_scores("knn", *alone)) == 24, "a class of one item cannot be known without it"


def test_auto_takes_the_score_that_tells_left_out_classes() -> None:
    """Classes lie apart in three of ten columns, whose spread is small: the nearest item is near in the others."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(8), 30)
    X = np.hstack([2 * rng.normal(size=(240, 7)), 6 * rng.normal(size=(8, 3))[codes] + 0.3 * rng.normal(size=(240, 3))])
    areas = left_out_areas(X, codes)
    assert areas["mahalanobis"] > 0.95 > areas["knn"] + 0.05
    chosen = fit_unknown_detector(X, codes)
    few = fit_unknown_detector(X[::3], codes[::3])
    assert chosen is not None and chosen.name == "mahalanobis"
    assert few is not None and few.name == "knn", "up to 100 items"


@pytest.mark.parametrize(("classes", "rounds"), [(5, 20), (12, 4)])
def test_left_out_classes_are_those_with_the_high_scores(classes: int, rounds: int) -> None:
    X, codes = planted(classes, 20, 15)
    groups = np.arange(len(codes)) // 2
    areas = left_out_areas(X, codes, rounds=rounds, groups=groups)
    assert set(areas) == set(SCORES)
    assert all(0.7 < area <= 1 for area in areas.values())
    shuffled = left_out_areas(X, np.random.default_rng(0).permutation(codes), rounds=rounds)
    assert all(abs(area - 0.5) < 0.1 for area in shuffled.values()), "classes that are none look like the others"


def test_no_rate_is_promised_from_too_little() -> None:
    X, codes = planted(3, 10, 4)
    assert fit_unknown_detector(X[:19], codes[:19]) is None
    assert fit_unknown_detector(X, np.arange(30)) is None, "every class has one item"
    assert fit_unknown_detector(X, codes, groups=0 * codes) is None
    assert fit_unknown_detector(X, codes, groups=codes) is None, "no class is in two groups"
    assert fit_unknown_detector(X[10 * codes], codes, score="mahalanobis") is None, "equal items have no spread"


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_read_again_it_is_the_same(name: Any) -> None:
    fitted = fit_unknown_detector(*planted(3, 10, 5), score=name)
    assert fitted is not None
    arrays, fields = load(save(fitted.as_arrays())), json.loads(json.dumps(fitted.as_fields()))
    again = UnknownDetector.from_arrays(arrays, fields)
    new, _ = planted(4, 5, 5, draw=2)
    np.testing.assert_array_equal(again.scores(new), fitted.scores(new))
    assert (again.name, again.threshold(0.1)) == (name, fitted.threshold(0.1))


@pytest.mark.parametrize(
    ("name", "fields", "arrays", "term"),
    [
        ("knn", {"name": "magic"}, {}, "magic"),
        ("knn", {"name": "mahalanobis"}, {}, "KeyError"),
        ("knn", {"items": 2}, {}, "are kept of 2"),
        ("knn", {}, {"held_out": np.array([[1.0]])}, "rising"),
        ("knn", {}, {"score.items": np.zeros((0, 5))}, "no items"),
        ("mahalanobis", {}, {"score.means": np.zeros((3, 4))}, "means should be finite"),
        ("mahalanobis", {}, {"score.means": np.zeros((0, 5))}, "no class means"),
        ("mahalanobis", {}, {"score.rest": np.array([np.nan])}, "rest should be finite"),
    ],
)
def test_damage_is_refused(name: Any, fields: dict[str, Any], arrays: dict[str, np.ndarray], term: str) -> None:
    fitted = fit_unknown_detector(*planted(3, 10, 5), score=name)
    assert fitted is not None
    with pytest.raises(ChiasmError, match=f"not saved unknown detector.*{term}"):
        UnknownDetector.from_arrays(fitted.as_arrays() | arrays, fitted.as_fields() | fields)


X, CODES = planted(3, 10, 4)
WITH_NAN = X.copy()
WITH_NAN[5, 2] = np.nan


@pytest.mark.parametrize(
    ("features", "codes", "options", "error", "term"),
    [
        (X, CODES, {"score": "odin"}, ChiasmError, "no unknown score 'odin': take auto or one of knn, mahalanobis"),
        (WITH_NAN, CODES, {}, ChiasmError, "NaN or infinite values, first row 5"),
        (X[0], CODES, {}, ChiasmError, "features must be a matrix"),
        (X, CODES[1:], {}, LabelError, "codes must be 30 whole numbers"),
        (X, CODES - 1, {}, LabelError, "class numbers from 0"),
        (X, CODES, {"groups": CODES[1:]}, LabelError, "30 rows but 29 groups"),
    ],
)
def test_bad_input_is_refused(
    features: np.ndarray, codes: np.ndarray, options: dict[str, Any], error: type[Exception], term: str
) -> None:
    with pytest.raises(error, match=term):
        fit_unknown_detector(features, codes, **options)


def test_detecting_refuses_other_features_rates_and_scores() -> None:
    for name in NAMES:
        detector = fit_unknown_detector(X, CODES, score=name)
        assert detector is not None
        with pytest.raises(ChiasmError, match="4 columns"):
            detector.scores(X[:, :3])
        with pytest.raises(ChiasmError, match="NaN"):
            detector.scores(WITH_NAN)
        assert detector.scores(X[:0]).shape == (0,)
        for rate in (0.0, 1.0, -1, 5, math.nan):
            with pytest.raises(ChiasmError, match="false-alarm rate must be between 0 and 1"):
                detector.is_unknown(np.zeros(3), false_alarm_rate=rate)
        with pytest.raises(ChiasmError, match="NaN"):
            detector.is_unknown(np.array([0, np.nan, 1]))
        with pytest.raises(ChiasmError, match="one number an item"):
            detector.p_values(np.zeros((2, 2)))
