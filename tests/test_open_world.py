"""Unknown items are told from known ones, at the rate of false alarms that was asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import novelty
from chiasm.recognition.novelty import Mahalanobis, ScoreName, fit_unknown_score
from chiasm.recognition.open_world import (
    UnknownDetector,
    choose_unknown_score,
    cross_fitted_scores,
    fit_unknown_detector,
)

SCORES: list[Any] = list(get_args(ScoreName))
FROM_FEATURES: list[Any] = ["mahalanobis", "relative_mahalanobis", "knn"]


def planted(
    classes: int, per_class: int, dim: int, *, distance: float = 4.0, draw: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clusters around centres that are the same in every draw, the spread falling from column to column."""
    centres = np.random.default_rng(0).normal(size=(classes, dim)) * distance / np.sqrt(dim)
    codes = np.repeat(np.arange(classes), per_class)
    noise = np.random.default_rng([0, draw]).normal(size=(len(codes), dim)) * (1 + np.arange(dim)) ** -0.5
    return centres[codes] + noise + 0.5, codes


def logits_of(X: np.ndarray, train: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """A classifier by distance to the class means."""
    means = np.stack([train[codes == k].mean(axis=0) for k in np.unique(codes)])
    logits: np.ndarray = X @ means.T - 0.5 * (means**2).sum(axis=1)
    return logits


def slow_mahalanobis(X: np.ndarray, train: np.ndarray, codes: np.ndarray, *, relative: bool) -> np.ndarray:
    """The whole covariance matrix, shrunk by scikit-learn and inverted."""
    means = {k: train[codes == k].mean(axis=0) for k in np.unique(codes)}

    def distance(rows: np.ndarray, freedom: int, mean: np.ndarray) -> np.ndarray:
        inverse = np.linalg.inv(ledoit_wolf(rows * np.sqrt(len(rows) / freedom), assume_centered=True)[0])
        return np.array([(x - mean) @ inverse @ (x - mean) for x in X])

    residuals = np.stack([x - means[k] for x, k in zip(train, codes, strict=True)])
    nearest: np.ndarray = np.min(
        [distance(residuals, len(train) - len(means), mean) for mean in means.values()], axis=0
    )
    if relative:
        centre = train.mean(axis=0)
        nearest = nearest - distance(train - centre, len(train) - 1, centre)
    return nearest


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis"])
@pytest.mark.parametrize(("per_class", "dim"), [(5, 60), (40, 10)], ids=["wide", "tall"])
def test_mahalanobis_is_that_of_the_whole_covariance(name: Any, per_class: int, dim: int) -> None:
    train, codes = planted(4, per_class, dim)
    new, _ = planted(6, 5, dim, draw=2)
    new = new + 3
    fitted = fit_unknown_score(name, train, 2 * codes)  # numbers may have gaps
    slow = slow_mahalanobis(new, train, codes, relative=name.startswith("relative"))
    np.testing.assert_allclose(fitted.scores(new, None), slow, rtol=1e-8, atol=1e-8)


def test_mahalanobis_of_more_columns_than_rows_keeps_to_their_span() -> None:
    train, codes = planted(11, 5, 1664)
    fitted = fit_unknown_score("mahalanobis", train.astype(np.float32), codes)
    assert isinstance(fitted, Mahalanobis)
    assert fitted.within.axes.shape == (55 - 11, 1664)


def test_energy_and_probability_are_those_of_the_papers() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -np.inf]])
    train, codes = planted(3, 2, 4)
    energy = fit_unknown_score("energy", train, codes).scores(None, logits)
    np.testing.assert_allclose(energy, [-math.log(sum(math.exp(x) for x in (1, 2, 3))), -1000])
    hesitation = fit_unknown_score("max_probability", train, codes).scores(None, logits)
    np.testing.assert_allclose(np.exp(-hesitation), [math.exp(3) / sum(math.exp(x) for x in (1, 2, 3)), 1])


@pytest.mark.parametrize("block", [1, 10**6])
def test_knn_is_the_distance_to_the_kth_nearest(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "_BLOCK", block)
    train, codes = planted(3, 5, 4)
    new, _ = planted(3, 4, 4, draw=2)
    for k in (1, 3, 15):
        scores = fit_unknown_score("knn", train, codes, neighbours=k).scores(new, None)
        slow = [
            sorted(np.linalg.norm(x / np.linalg.norm(x) - t / np.linalg.norm(t)) for t in train)[k - 1] for x in new
        ]
        np.testing.assert_allclose(scores, slow, atol=1e-7)


def test_knn_keeps_a_draw_of_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "_MOST_NEIGHBOURS_KEPT", 20)
    train, codes = planted(3, 20, 4)
    first, same, other = (fit_unknown_score("knn", train, codes, seed=s).as_arrays()["items"] for s in (0, 0, 1))
    assert first.shape == (20, 4)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@pytest.mark.parametrize("name", SCORES)
def test_every_score_sees_a_planted_unknown_class(name: Any) -> None:
    train, codes = planted(5, 40, 20)
    new, new_codes = planted(9, 40, 20, draw=2)
    fitted = fit_unknown_score(name, train, codes)
    assert roc_auc_score(new_codes >= 5, fitted.scores(new, logits_of(new, train, codes))) > 0.8


def of_planted(X: np.ndarray, codes: np.ndarray, names: tuple[Any, ...] = ("mahalanobis", "knn", "energy")) -> Any:
    """What the caller brings: fits on some rows, scores others."""

    def fit_and_score(train: np.ndarray, test: np.ndarray) -> Mapping[str, np.ndarray]:
        logits = logits_of(X[test], X[train], codes[train])
        return {name: fit_unknown_score(name, X[train], codes[train]).scores(X[test], logits) for name in names}

    return fit_and_score


@pytest.mark.parametrize("rate", [0.05, 0.1])
def test_false_alarms_are_as_rare_as_asked(rate: float) -> None:
    alarms: dict[str, list[float]] = {"mahalanobis": [], "knn": [], "energy": []}
    for draw in range(25):
        X, codes = planted(4, 60, 12, draw=2 * draw + 10)
        new, _ = planted(4, 100, 12, draw=2 * draw + 11)
        held_out = cross_fitted_scores(of_planted(X, codes), codes, seed=draw)
        for name, scores in held_out.items():
            detector = fit_unknown_detector(name, X, codes, held_out_scores=scores)  # type: ignore[arg-type]
            unknown = detector.is_unknown(detector.scores(new, logits_of(new, X, codes)), false_alarm_rate=rate)
            alarms[name].append(float(unknown.mean()))
    for name, rates in alarms.items():
        assert abs(np.mean(rates) - rate) < 0.02, name


def test_scores_of_training_items_would_raise_far_too_many_alarms() -> None:
    """Why held-out scores are asked for: of few items in many columns, Mahalanobis knows its own by heart."""
    X, codes = planted(5, 8, 200)
    new, _ = planted(5, 40, 200, draw=2)
    naive = fit_unknown_score("mahalanobis", X, codes).scores(X, None)
    held_out = cross_fitted_scores(of_planted(X, codes, ("mahalanobis",)), codes)["mahalanobis"]
    rates = []
    for scores in (naive, held_out):
        detector = fit_unknown_detector("mahalanobis", X, codes, held_out_scores=scores)
        rates.append(detector.is_unknown(detector.scores(new, None), false_alarm_rate=0.1).mean())
    assert rates[0] > 0.9
    assert rates[1] < 0.2


def test_threshold_and_p_values_agree() -> None:
    X, codes = planted(3, 10, 4)
    held = np.random.default_rng(1).normal(size=99)
    detector = fit_unknown_detector("knn", X, codes, held_out_scores=held)
    new = np.random.default_rng(2).normal(size=500)
    assert detector.threshold(0.1) == np.sort(held)[89]
    np.testing.assert_array_equal(detector.is_unknown(new, false_alarm_rate=0.1), detector.p_values(new) <= 0.1 + 1e-12)
    assert detector.least_rate == 0.01
    assert detector.threshold(0.009) == math.inf
    assert not detector.is_unknown(np.array([1e9]), false_alarm_rate=0.009).any()
    assert detector.is_unknown(np.array([1e9]), false_alarm_rate=0.01).all()


def test_cross_fitting_never_shows_a_row_to_its_own_fit() -> None:
    codes, groups = np.repeat([0, 1, 2], [12, 12, 1]), np.append(np.repeat(np.arange(8), 3), 8)
    scored: list[int] = []

    def watch(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        assert not set(groups[train]) & set(groups[test])
        assert set(codes[test]) <= set(codes[train])
        scored.extend(test)
        return {"number": test.astype(float)}

    scores = cross_fitted_scores(watch, codes, groups=groups, folds=4)["number"]
    assert sorted(scored) == list(range(24))  # the last row's class has no other: it is left out
    assert sorted(scores.tolist()) == list(range(24))


def test_choice_is_the_score_that_tells_left_out_classes() -> None:
    X, codes = planted(6, 30, 15, distance=1.5)

    def fit_and_score(train: np.ndarray, test: np.ndarray) -> Mapping[str, np.ndarray]:
        noise = np.random.default_rng(len(test)).normal(size=len(test))
        good = fit_unknown_score("mahalanobis", X[train], codes[train]).scores(X[test], None)
        return {"noise": noise, "good": good, "reversed": -good}

    choice = choose_unknown_score(fit_and_score, codes)
    assert (choice.name, choice.rounds) == ("good", 6)
    assert choice.auc["good"] > 0.75
    assert choice.auc["reversed"] == pytest.approx(1 - choice.auc["good"])
    assert abs(choice.auc["noise"] - 0.5) < 0.15
    assert 0 < choice.standard_error["good"] < 0.1


@pytest.mark.parametrize(("classes", "rounds"), [(5, 20), (12, 4)])
def test_every_class_is_left_out_once(classes: int, rounds: int) -> None:
    codes, groups = np.repeat(np.arange(classes), 6), np.arange(6 * classes) // 2
    groups[6 * classes - 1] = 0  # a group with items of two classes
    left_out: list[int] = []

    def watch(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
        unknown = ~np.isin(codes[test], codes[train])
        assert unknown.any()
        assert not unknown.all()
        assert not set(groups[train]) & set(groups[test])
        assert len(np.unique(codes[train])) >= 2
        left_out.extend(np.unique(codes[test][unknown]))
        return {"truth": unknown.astype(float), "constant": np.zeros(len(test))}

    choice = choose_unknown_score(watch, codes, groups=groups, rounds=rounds)
    assert choice.rounds == min(classes, rounds)
    assert choice.auc == {"truth": 1.0, "constant": 0.5}
    assert sorted(left_out) == list(range(classes))


@pytest.mark.parametrize("name", SCORES)
def test_saved_and_read_again_it_is_the_same(name: Any) -> None:
    X, codes = planted(3, 10, 5)
    new, _ = planted(4, 5, 5, draw=2)
    logits = logits_of(new, X, codes)
    held_out = np.random.default_rng(0).normal(size=30)
    fitted = fit_unknown_detector(name, X, codes, held_out_scores=held_out, neighbours=2)
    arrays, fields = load(save(fitted.as_arrays())), json.loads(json.dumps(fitted.as_fields()))
    again = UnknownDetector.from_arrays(arrays, fields)
    np.testing.assert_array_equal(again.scores(new, logits), fitted.scores(new, logits))
    assert again.threshold(0.1) == fitted.threshold(0.1)
    assert again.name == name


@pytest.mark.parametrize(
    ("name", "fields", "arrays", "message"),
    [
        ("energy", {"name": "magic"}, {}, "magic"),
        ("energy", {"name": "knn"}, {}, "KeyError"),
        ("energy", {"items": 2}, {}, "are kept of 2"),
        ("energy", {}, {"known": np.array([[1.0]])}, "rising"),
        ("knn", {}, {"score.neighbours": np.array([99])}, "99 neighbours of 30"),
        ("knn", {}, {"score.neighbours": np.array([], dtype=int)}, "IndexError"),
        ("mahalanobis", {}, {"score.means": np.zeros((3, 4))}, r"means should be finite float64 of shape \(None, 5\)"),
        ("mahalanobis", {}, {"score.means": np.zeros((0, 5))}, "no class means"),
        ("mahalanobis", {}, {"score.within.rest": np.array([np.nan])}, "within.rest should be finite"),
    ],
)
def test_damage_is_named(name: Any, fields: dict[str, Any], arrays: dict[str, np.ndarray], message: str) -> None:
    X, codes = planted(3, 10, 5)
    fitted = fit_unknown_detector(name, X, codes, held_out_scores=np.arange(10.0))
    with pytest.raises(ChiasmError, match=f"not saved unknown detector.*{message}"):
        UnknownDetector.from_arrays(fitted.as_arrays() | arrays, fitted.as_fields() | fields)


X, CODES = planted(3, 6, 4)
WITH_NAN = X.copy()
WITH_NAN[5, 2] = np.nan


@pytest.mark.parametrize(
    ("name", "features", "codes", "options", "error", "message"),
    [
        (
            "odin",
            X,
            CODES,
            {},
            ChiasmError,
            "no unknown score 'odin': take one of energy, max_probability, mahalanobis",
        ),
        ("knn", WITH_NAN, CODES, {}, ChiasmError, "1 of 18 rows of features hold NaN or infinite values, first row 5"),
        ("energy", X[0], CODES, {}, ChiasmError, r"features must be a matrix of floats; got float64 \(4,\)"),
        ("mahalanobis", X, CODES[1:], {}, LabelError, "codes must be 18 whole numbers"),
        ("mahalanobis", X, CODES - 1, {}, LabelError, "class numbers from 0"),
        ("mahalanobis", X[:0], CODES[:0], {}, LabelError, "no training items"),
        ("mahalanobis", X[::6], CODES[::6], {}, LabelError, "each of the 3 classes has one item or equal ones"),
        ("relative_mahalanobis", X[CODES * 6], CODES, {}, LabelError, "spread within classes is unknown"),
        ("mahalanobis", X[:1], CODES[:1], {}, LabelError, "each of the 1 classes has one item"),
        ("knn", X, CODES, {"neighbours": 19}, ChiasmError, "from 1 to the number of items, 18; got 19"),
        ("knn", X, CODES, {"neighbours": 0}, ChiasmError, "from 1 to the number of items, 18; got 0"),
        ("knn", X, CODES, {"held_out_scores": np.zeros(0)}, LabelError, "there are no held-out scores: hold out items"),
        ("knn", X, CODES, {"held_out_scores": np.array([np.nan])}, ChiasmError, "1 of 1 held-out scores are NaN"),
    ],
)
def test_bad_input_is_named(
    name: Any, features: np.ndarray, codes: np.ndarray, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_unknown_detector(name, features, codes, **{"held_out_scores": np.zeros(3)} | options)


@pytest.mark.parametrize("name", FROM_FEATURES)
def test_scoring_refuses_other_features(name: Any) -> None:
    fitted = fit_unknown_score(name, X, CODES)
    with pytest.raises(ChiasmError, match=r"floats of width 4, as in fitting; got float64 \(18, 3\)"):
        fitted.scores(X[:, :3], None)
    with pytest.raises(ChiasmError, match="rows of features hold NaN"):
        fitted.scores(WITH_NAN, None)
    assert fitted.scores(X[:0], None).shape == (0,)


@pytest.mark.parametrize("name", ["energy", "max_probability"])
def test_scoring_refuses_unusable_logits(name: Any) -> None:
    fitted = fit_unknown_score(name, X, CODES)
    for bad in (np.nan, np.inf):
        with pytest.raises(ChiasmError, match="1 of 1 rows of logits hold NaN, plus infinity"):
            fitted.scores(X, np.array([[0.0, bad]]))
    with pytest.raises(ChiasmError, match="minus infinity for every class, first row 1"):
        fitted.scores(X, np.array([[0.0], [-np.inf]]))
    for shape in ((3,), (3, 0)):
        with pytest.raises(ChiasmError, match="one column a class"):
            fitted.scores(X, np.zeros(shape))
    assert fitted.scores(X, np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("rate", [0.0, 1.0, -1, 5, math.nan])
def test_rate_is_a_share(rate: float) -> None:
    detector = fit_unknown_detector("knn", X, CODES, held_out_scores=np.arange(30.0))
    with pytest.raises(ChiasmError, match=r"false-alarm rate must be between 0 and 1, such as 0\.05; got"):
        detector.is_unknown(np.zeros(3), false_alarm_rate=rate)


def test_unknown_refuses_unusable_scores() -> None:
    detector = fit_unknown_detector("knn", X, CODES, held_out_scores=np.arange(30.0))
    with pytest.raises(ChiasmError, match="1 of 3 scores are NaN or infinite, first of item 1"):
        detector.is_unknown(np.array([0, np.nan, 1]))
    with pytest.raises(ChiasmError, match="one number an item"):
        detector.p_values(np.zeros((2, 2)))


def ones(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    return {"ones": np.ones(len(test))}


@pytest.mark.parametrize("function", [cross_fitted_scores, choose_unknown_score])
@pytest.mark.parametrize(
    ("fit_and_score", "codes", "options", "error", "message"),
    [
        (ones, np.arange(5), {}, LabelError, "no item of a known class can be held out"),
        (ones, CODES, {"groups": CODES}, LabelError, "no item of a known class can be held out"),
        (ones, CODES, {"groups": 0 * CODES}, LabelError, "no item of a known class can be held out"),
        (ones, CODES, {"groups": CODES[1:]}, LabelError, "18 rows but 17 groups"),
        (ones, CODES, {"folds": 1}, LabelError, "at least 2 folds"),
        (ones, CODES + 0.5, {}, LabelError, "codes must be 18 whole numbers"),
        (ones, CODES[:0], {}, LabelError, "no items to learn from"),
        (lambda train, test: {}, CODES, {}, ChiasmError, "gave no scores"),
        (lambda train, test: {"a": np.ones(1)}, CODES, {}, ChiasmError, r"a is float64 \(1,\)$"),
        (lambda train, test: {"a": np.full(len(test), np.nan)}, CODES, {}, ChiasmError, "with NaN or infinity"),
        (lambda train, test: {str(train): np.ones(len(test))}, CODES, {}, ChiasmError, "for one fit, .* for another"),
    ],
)
def test_bad_functions_and_codes_are_named(
    function: Any, fit_and_score: Any, codes: np.ndarray, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(fit_and_score, codes, **options)


def test_choosing_needs_three_classes_and_three_rounds() -> None:
    with pytest.raises(LabelError, match="there are 2 classes: leaving one out in turn needs at least 3"):
        choose_unknown_score(ones, np.array([0, 0, 1, 1]))
    with pytest.raises(ChiasmError, match=r"rounds must be at least 3, .* got 2"):
        choose_unknown_score(ones, CODES, rounds=2)
