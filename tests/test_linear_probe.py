"""The linear probe is scikit-learn's logistic regression, tuned as by refitting; extra rows, groups and weights have their say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from chiasm.errors import LabelError
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.splits import Shots, deal


def planted(
    classes: int, per_class: int, dim: int, *, noise: float = 1.0, seed: int = 0, dtype: type = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Normal clusters of unit distance from the origin, off centre, in a space of falling variances."""
    rng = np.random.default_rng(seed)
    scale = (1 + np.arange(dim)) ** -0.5
    scale /= np.linalg.norm(scale)
    centres = rng.normal(size=(classes, dim)) * scale
    y = np.repeat(np.arange(classes), per_class)
    X = centres[y] + noise * rng.normal(size=(len(y), dim)) * scale + 0.7
    order = rng.permutation(len(y))
    return X[order].astype(dtype), y[order]


def refitted(X: np.ndarray, y: np.ndarray, strength: float, weight: Any = None, **options: Any) -> LogisticRegression:
    """The slow restatement: scikit-learn's solver, run until nothing moves."""
    slow = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=20_000, solver="newton-cg", **options)
    return slow.fit(X, y, sample_weight=weight)


def assert_same_solution(fast: LinearProbe, slow: LogisticRegression, X: np.ndarray, tolerance: float) -> None:
    scale = np.abs(slow.coef_).max()
    np.testing.assert_allclose(fast.coef_, slow.coef_, atol=tolerance * scale)
    np.testing.assert_allclose(fast.intercept_, slow.intercept_, atol=tolerance * max(1, np.abs(slow.intercept_).max()))
    np.testing.assert_allclose(fast.predict_proba(X), slow.predict_proba(X), atol=tolerance)


def pairs(fold_of: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(fold_of.max() + 1)]


def brier(probe: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(np.square(probe.predict_proba(X) - (probe.classes_ == y[:, None])).sum(axis=1).mean())


def test_scikit_learns_checks_all_pass() -> None:
    results = check_estimator(LinearProbe(), on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert not failed
    # What is left are checks of libraries that are not there: pandas, the array API.
    skipped = {result["check_name"] for result in results if result["status"] != "passed"}
    assert skipped <= {
        "check_sample_weights_pandas_series",
        "check_classifier_data_not_an_array",
        "check_array_api_input",
    }


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("dim", [90, 12], ids=["wide", "tall"])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 4.0, 1: 0.5}])
@pytest.mark.parametrize("noise", [0.8, 2.5])
def test_scores_and_solution_are_those_of_refits(classes: int, dim: int, class_weight: Any, noise: float) -> None:
    X, y = planted(classes, 20, dim, noise=noise)
    weight = np.random.default_rng(0).choice([0.0, 0.3, 1.0, 2.0], size=len(y))
    used = np.flatnonzero(weight)
    strengths, fold_of = np.geomspace(1e-2, 30, 6), np.arange(len(y)) % 4
    probe = LinearProbe(strengths=strengths, cv=pairs(fold_of), class_weight=class_weight).fit(X, y, weight)
    slow = refitted(X[used], y[used], probe.strength_, weight[used], class_weight=class_weight)
    assert_same_solution(probe, slow, X, 1e-5)
    assert probe.strengths_.tolist() == strengths[::-1].tolist()
    if class_weight == "balanced":  # of all rows, where scikit-learn's would be of each fold's
        return
    by_class = np.ones(classes)
    by_class[:2] = (4.0, 0.5) if class_weight else 1.0
    scores, errors = np.empty((4, 6)), np.empty((4, 6))
    for fold in range(4):
        train, test = used[fold_of[used] != fold], used[fold_of[used] == fold]
        held = weight[test] * by_class[y[test]]
        for column, strength in enumerate(probe.strengths_):
            p = refitted(X[train], y[train], strength, weight[train], class_weight=class_weight).predict_proba(X[test])
            squares = np.square(p - np.eye(classes)[y[test]]).sum(axis=1)
            scores[fold, column] = -np.average(squares, weights=held)
            errors[fold, column] = squares.std() / np.sqrt(len(test))
    assert (np.abs(probe.cv_scores_ - scores) <= 0.33 * errors + 2e-3).all()


def test_default_strengths_find_the_noise_of_the_data() -> None:
    clean, noisy = (LinearProbe().fit(*planted(5, 40, 30, noise=noise)) for noise in (0.3, 4.0))
    assert clean.strength_ < noisy.strength_
    for probe, noise in ((clean, 0.3), (noisy, 4.0)):
        X, y = planted(5, 40, 30, noise=noise)
        fresh, truth = planted(5, 400, 30, noise=noise)
        assert probe.strengths_[0] == pytest.approx(100 * np.square(X - X.mean(axis=0)).sum(axis=1).mean())
        every = [LinearProbe(strengths=[s]).fit(X, y).score(fresh, truth) for s in probe.strengths_]
        assert probe.score(fresh, truth) > max(every) - 0.02


def test_a_class_with_one_example_stays_in_training() -> None:
    X, y = planted(3, 12, 30)
    probe = LinearProbe().fit(np.vstack([X, X[:1] + 3]), np.append(y, 3))
    assert probe.classes_.tolist() == [0, 1, 2, 3]
    assert probe.cv_scores_.shape[0] == 5
    assert np.isfinite(probe.cv_scores_).all()
    assert probe.predict(X[:1] + 3).tolist() == [3]
    alone = LinearProbe().fit(*planted(30, 1, 50))
    assert alone.cv_scores_.shape == (0, 1)
    assert alone.score(*planted(30, 1, 50)) == 1


def test_groups_are_never_on_both_sides() -> None:
    """Every label is noise, but for one copy of each item in the same group: only divided groups could tell."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 40)), 2, axis=0)
    y = np.repeat(rng.integers(2, size=60), 2)
    groups = np.repeat(np.arange(60), 2)
    leaking, honest = LinearProbe().fit(X, y), LinearProbe().fit(X, y, groups=groups)
    by_chance = -0.5
    assert leaking.cv_scores_.mean(axis=0).max() > by_chance + 0.2
    assert honest.cv_scores_.mean(axis=0).max() < by_chance + 0.05
    assert honest.strength_ > leaking.strength_
    assert LinearProbe().fit(X, y, groups=np.zeros(len(y))).cv_scores_.shape[0] == 0  # one cannot be divided


def test_a_class_whose_items_share_a_group_stays_in_training_with_the_whole_group() -> None:
    X, y = planted(3, 10, 25)
    groups = np.where(y == 2, 1000, np.arange(len(y)))
    groups[np.flatnonzero(y == 0)[0]] = 1000
    fold_of = deal(y, 5, seed=0, groups=np.unique(groups, return_inverse=True)[1])
    by_hand = np.where(groups == 1000, -1, fold_of)
    assert (y[by_hand == -1] == 2).sum() == 10
    dealt, explicit = LinearProbe().fit(X, y, groups=groups), LinearProbe(cv=pairs(by_hand)).fit(X, y)
    np.testing.assert_allclose(dealt.cv_scores_, explicit.cv_scores_)


def test_the_seed_deals_the_folds() -> None:
    X, y = planted(3, 15, 25, noise=3.0)
    scores = [LinearProbe(random_state=seed).fit(X, y).cv_scores_[:, :8] for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_text_labels_come_back_as_text() -> None:
    X, y = planted(3, 10, 20, noise=0.2)
    names = np.array(["cat", "dog", "eel"], dtype=object)[y]
    probe = LinearProbe(class_weight={"dog": 2.0}).fit(X, names)
    assert probe.classes_.tolist() == ["cat", "dog", "eel"]
    assert probe.predict(X).tolist() == names.tolist()


@pytest.mark.parametrize("per_class", [1, 6])
def test_extra_rows_are_learned_from_in_every_fold_and_scored_in_none(per_class: int) -> None:
    """Also at one row a class, where without them there is nothing to hold out."""
    X, y = planted(4, per_class, 10, noise=0.8)
    extra = Shots(*planted(4, 3, 10, noise=0.8, seed=5), np.random.default_rng(0).uniform(0.2, 2, size=12))
    groups = np.arange(len(y)) // 2 if per_class > 1 else np.arange(len(y))
    probe = LinearProbe(strengths=[0.3, 0.03], cv=4).fit(X, y, groups=groups, extra=extra)
    fold_of = deal(y, 4, seed=0, groups=groups)
    for fold in range(4):
        rows = fold_of != fold
        train = np.vstack([X[rows], extra.X]), np.append(y[rows], extra.y), np.append(np.ones(rows.sum()), extra.weight)
        for column, strength in enumerate(probe.strengths_):
            alone = LinearProbe(strengths=[strength]).fit(*train)
            assert probe.cv_scores_[fold, column] == pytest.approx(
                -brier(alone, X[~rows], y[~rows]), rel=0.02, abs=2e-3
            )
    every = np.vstack([X, extra.X]), np.append(y, extra.y), np.append(np.ones(len(y)), extra.weight)
    np.testing.assert_allclose(probe.coef_, LinearProbe(strengths=[probe.strength_]).fit(*every).coef_, atol=1e-6)
    if per_class == 1:
        assert LinearProbe(strengths=[0.3, 0.03], cv=4).fit(X, y).cv_scores_.shape[0] == 0


def test_a_class_of_extra_rows_alone_is_known_and_of_weight_zero_is_not() -> None:
    X, y = planted(3, 6, 8, noise=0.5)
    own, extra = y != 2, Shots(X[y == 2], y[y == 2])
    probe = LinearProbe().fit(X[own], y[own], extra=extra)
    assert probe.classes_.tolist() == [0, 1, 2]
    assert np.mean(probe.predict(X) == y) > 0.9
    without = LinearProbe().fit(X[own], y[own], extra=Shots(extra.X, extra.y, np.zeros(6)))
    np.testing.assert_allclose(without.coef_, LinearProbe().fit(X[own], y[own]).coef_, atol=1e-10)


@pytest.mark.parametrize(
    ("labels", "term"),
    [
        (["a"] * 6, "1 class only"),
        (["a", "b", None, "a", None, "b"], "2 of 6 labels are missing .*first at row 2"),
        (np.array([0, 1, 0.25, 1, 0, 1]), "continuous numbers such as 0.25"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(labels: Any, term: str) -> None:
    with pytest.raises(LabelError, match=term):
        LinearProbe().fit(np.eye(6), labels)


@pytest.mark.parametrize(
    ("options", "term"),
    [
        ({"strengths": []}, "finite values above 0"),
        ({"cv": 1}, "cv must be at least 2 folds; got 1"),
        ({"cv": [([0, 1], [2])]}, "leaves some out of training"),
        ({"cv": [(range(9), [9])] * 2}, "holds out rows that another does"),
        ({"class_weight": "even"}, "'balanced' or a mapping"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], term: str) -> None:
    with pytest.raises(ValueError, match=term):
        LinearProbe(**options).fit(*planted(2, 5, 4))


def test_rows_that_do_not_fit_are_refused() -> None:
    X, y = planted(2, 5, 4, dtype=np.float32)
    probe = LinearProbe().fit(X, y)
    broken = X.copy()
    broken[3, 1] = broken[7, 0] = np.nan
    for use in (lambda: LinearProbe().fit(broken, y), lambda: probe.predict(broken)):
        with pytest.raises(ValueError, match="2 of 10 rows of X hold NaN or infinite values, first row 3"):
            use()
    with pytest.raises(ValueError, match="X has 3 features, but LinearProbe is expecting 4"):
        probe.predict(X[:, :3])
    with pytest.raises(NotFittedError):
        LinearProbe().predict(X)
    with pytest.raises(LabelError, match="10 rows but 3 groups"):
        LinearProbe().fit(X, y, groups=[1, 2, 3])
    with pytest.raises(LabelError, match="5 wide, X is 4"):
        LinearProbe().fit(X, y, extra=Shots(np.ones((2, 5)), [0, 1]))
