"""The linear probe is logistic regression, solved exactly and tuned as by refitting, only faster."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from chiasm.errors import LabelError
from chiasm.recognition import linear_probe
from chiasm.recognition.linear_probe import LinearProbe, fit_folds
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


def refitted(X: np.ndarray, y: np.ndarray, strength: float, **options: Any) -> LogisticRegression:
    """The slow restatement: scikit-learn's solver, run until nothing moves."""
    weight = options.pop("sample_weight", None)
    slow = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=20_000, solver="newton-cg", **options)
    return slow.fit(X, y, sample_weight=weight)


def assert_same_solution(fast: LinearProbe, slow: LogisticRegression, X: np.ndarray, tolerance: float) -> None:
    scale = np.abs(slow.coef_).max()
    np.testing.assert_allclose(fast.coef_, slow.coef_, atol=tolerance * scale)
    np.testing.assert_allclose(fast.intercept_, slow.intercept_, atol=tolerance * max(1, np.abs(slow.intercept_).max()))
    np.testing.assert_allclose(fast.predict_proba(X), slow.predict_proba(X), atol=tolerance)


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


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize(("per_class", "dim"), [(6, 90), (40, 12)], ids=["wide", "tall"])
@pytest.mark.parametrize("strength", [1e-4, 1e-1, 1e2])
def test_solution_is_that_of_logistic_regression(classes: int, per_class: int, dim: int, strength: float) -> None:
    X, y = planted(classes, per_class, dim)
    fast = LinearProbe(strengths=[strength]).fit(X, y)
    assert_same_solution(fast, refitted(X, y, strength), X, 2e-6)
    assert fast.strength_ == strength
    assert fast.cv_scores_.shape == (0, 1)


@pytest.mark.parametrize("dim", [90, 12], ids=["wide", "tall"])
def test_solution_in_float32_is_as_exact_as_its_type(dim: int) -> None:
    X, y = planted(4, 15, dim, dtype=np.float32)
    fast = LinearProbe(strengths=[0.05]).fit(X, y)
    assert fast.coef_.dtype == np.float32
    assert_same_solution(fast, refitted(X.astype(np.float64), y, 0.05), X, 1e-3)


@pytest.mark.parametrize("dim", [90, 12], ids=["wide", "tall"])
def test_an_offset_far_larger_than_the_data_does_no_harm(dim: int) -> None:
    X, y = planted(4, 15, dim, dtype=np.float32)
    X = np.round(X * 256) / 256  # so that the sum is exact
    near, far = LinearProbe(strengths=[0.05]).fit(X, y), LinearProbe(strengths=[0.05]).fit(X + 1000, y)
    np.testing.assert_allclose(far.predict_proba(X + 1000), near.predict_proba(X), atol=0.02)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1))
def test_weights_of_rows_and_classes_are_those_of_logistic_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, y = planted(3, 12, int(rng.choice([5, 60])), seed=seed)
    sample_weight = rng.choice([0.0, 0.3, 1.0, 5.0], size=len(y))
    sample_weight[np.unique(y, return_index=True)[1]] = 1.0
    class_weight: Any = [None, "balanced", {0: 4.0, 2: 0.5}][seed % 3]
    fast = LinearProbe(strengths=[0.2], class_weight=class_weight).fit(X, y, sample_weight=sample_weight)
    used = sample_weight > 0
    slow = refitted(X[used], y[used], 0.2, class_weight=class_weight, sample_weight=sample_weight[used])
    assert_same_solution(fast, slow, X, 1e-5)


def test_a_weight_of_two_is_the_row_twice_through_cross_validation_too() -> None:
    X, y = planted(3, 10, 20, noise=2.0)
    weight = np.random.default_rng(0).integers(0, 4, size=len(y))
    rows = np.repeat(np.arange(len(y)), weight)
    half = np.arange(len(y)) < 15

    def folds(of: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (np.flatnonzero(half[of]), np.flatnonzero(~half[of])),
            (np.flatnonzero(~half[of]), np.flatnonzero(half[of])),
        ]

    weighted = LinearProbe(cv=folds(np.arange(len(y)))).fit(X, y, sample_weight=weight)
    repeated = LinearProbe(cv=folds(rows)).fit(X[rows], y[rows])
    np.testing.assert_allclose(weighted.strengths_, repeated.strengths_)
    np.testing.assert_allclose(weighted.cv_scores_, repeated.cv_scores_, atol=0.02)
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), rtol=1e-6)


@pytest.mark.parametrize("noise", [0.8, 2.5])
@pytest.mark.parametrize("dim", [150, 15], ids=["wide", "tall"])
@pytest.mark.parametrize("classes", [2, 5])
def test_scores_are_those_of_a_refit_for_every_value_and_fold(noise: float, dim: int, classes: int) -> None:
    X, y = planted(classes, 20, dim, noise=noise)
    strengths = np.geomspace(1e-3, 30, 8)
    cv = [(np.flatnonzero(np.arange(len(y)) % 4 != f), np.flatnonzero(np.arange(len(y)) % 4 == f)) for f in range(4)]
    probe = LinearProbe(strengths=strengths, cv=cv).fit(X, y)

    slow = np.empty((4, 8))
    errors = np.empty((4, 8))
    for i, (train, test) in enumerate(cv):
        for j, strength in enumerate(probe.strengths_):
            p = refitted(X[train], y[train], strength).predict_proba(X[test])
            squares = ((p - np.eye(classes)[y[test]]) ** 2).sum(axis=1)
            slow[i, j], errors[i, j] = -squares.mean(), squares.std() / np.sqrt(len(test))
    assert probe.strengths_.tolist() == strengths[::-1].tolist()
    assert (np.abs(probe.cv_scores_ - slow) <= 0.33 * errors + 2e-3).all()
    # The chosen one is as good as the best of the refits, to a small part of what the folds can tell.
    chosen = slow.mean(axis=0)[probe.strengths_.tolist().index(probe.strength_)]
    assert slow.mean(axis=0).max() - chosen <= 2e-3
    assert_same_solution(probe, refitted(X, y, probe.strength_), X, 1e-5)


def test_all_folds_are_solved_together_and_no_strength_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(problem: Any, weights: np.ndarray, *rest: Any) -> Any:
            passes.append(weights.shape[1])
            return function(problem, weights, *rest)

        return call

    for name in ("at", "curvature_along"):
        monkeypatch.setattr(linear_probe._Problem, name, counted(getattr(linear_probe._Problem, name)))
    X, y = planted(11, 30, 400, noise=1.5)
    probe = LinearProbe(strengths=np.geomspace(1e-3, 10, 9)).fit(X, y)
    problems = probe.cv_scores_.size
    assert max(passes) == 5
    assert sum(passes) < 10 * problems
    assert len(passes) < 3 * problems


def test_default_strengths_find_the_noise_of_the_data() -> None:
    clean, noisy = (LinearProbe().fit(*planted(5, 40, 30, noise=noise)) for noise in (0.3, 4.0))
    assert clean.strength_ < noisy.strength_
    for probe, noise in ((clean, 0.3), (noisy, 4.0)):
        X, y = planted(5, 40, 30, noise=noise)
        fresh, truth = planted(5, 400, 30, noise=noise)
        variance = np.square(X - X.mean(axis=0)).sum(axis=1).mean()
        assert probe.strengths_[0] == pytest.approx(100 * variance)
        every = [LinearProbe(strengths=[s]).fit(X, y).score(fresh, truth) for s in probe.strengths_]
        assert probe.score(fresh, truth) > max(every) - 0.02


def test_default_path_stops_when_the_best_is_behind_it() -> None:
    probe = LinearProbe().fit(*planted(4, 30, 10, noise=3.0))
    assert len(probe.strengths_) < 17
    assert not probe.at_end_
    mean = probe.cv_scores_.mean(axis=0)
    assert (mean[-3:] < mean.max()).all()


def test_strength_follows_the_scale_of_the_data() -> None:
    X, y = planted(3, 20, 40, noise=2.0)
    small, large = LinearProbe().fit(X, y), LinearProbe().fit(1000 * X, y)
    assert large.strength_ == pytest.approx(1e6 * small.strength_)
    np.testing.assert_allclose(large.predict_proba(1000 * X), small.predict_proba(X), rtol=1e-5)


def test_a_best_strength_at_the_end_of_the_given_ones_is_reported() -> None:
    X, y = planted(4, 30, 10, noise=3.0)
    best = LinearProbe().fit(X, y).strength_
    assert LinearProbe(strengths=[best / 1e4, best / 1e3]).fit(X, y).at_end_
    assert LinearProbe(strengths=[best * 1e3, best * 1e2]).fit(X, y).at_end_
    assert not LinearProbe(strengths=[best / 100, best, best * 100]).fit(X, y).at_end_


def test_a_class_with_one_example_stays_in_training() -> None:
    X, y = planted(3, 12, 30)
    X, y = np.vstack([X, X[:1] + 3]), np.append(y, 3)
    probe = LinearProbe().fit(X, y)
    assert probe.classes_.tolist() == [0, 1, 2, 3]
    assert np.isfinite(probe.cv_scores_).all()
    assert len(probe.cv_scores_) == 5
    assert probe.predict(X[-1:]).tolist() == [3]


def test_one_example_of_every_class_leaves_the_documented_strength() -> None:
    X, y = planted(30, 1, 50)
    probe = LinearProbe().fit(X, y)
    variance = np.square(X - X.mean(axis=0)).sum(axis=1).mean()
    assert probe.strength_ == pytest.approx(1e-3 * variance)
    assert probe.cv_scores_.shape == (0, 1)
    assert not probe.at_end_
    assert probe.score(X, y) == 1
    nearest = LinearProbe(strengths=[1e-9, 2e-3 * variance, 10.0]).fit(X, y)
    assert nearest.strength_ == 2e-3 * variance


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


def test_a_class_whose_items_share_a_group_stays_in_training_with_the_whole_group() -> None:
    X, y = planted(3, 10, 25)
    groups = np.arange(len(y))
    groups[y == 2] = 1000
    groups[np.flatnonzero(y == 0)[0]] = 1000
    held = []
    follow = linear_probe._follow

    def spy(problem: Any, strengths: Any, weights: np.ndarray) -> Iterator[Any]:
        held.append((problem.codes, weights > 0, problem.weights > 0))
        return follow(problem, strengths, weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_probe, "_follow", spy)
        LinearProbe().fit(X, y, groups=groups)
    ((codes, test, train),) = held
    assert not test[:, codes == 2].any()
    assert train[:, codes == 2].all()
    assert test.any(axis=0).sum() == (y != 2).sum() - 1
    assert not (test & train).any()


def test_one_group_alone_cannot_be_divided() -> None:
    X, y = planted(3, 10, 25)
    assert LinearProbe().fit(X, y, groups=np.zeros(len(y))).cv_scores_.shape[0] == 0


def test_given_folds_are_used_and_other_rows_are_not_scored() -> None:
    X, y = planted(3, 10, 25)
    train, test = np.arange(0, 20), np.arange(20, 26)
    probe = LinearProbe(cv=[(train, test)], strengths=[0.01, 1.0]).fit(X, y)
    p = refitted(X[train], y[train], 0.01).predict_proba(X[test])
    expected = -((p - np.eye(3)[y[test]]) ** 2).sum(axis=1).mean()
    assert probe.cv_scores_.shape == (1, 2)
    assert probe.cv_scores_[0, 1] == pytest.approx(expected, abs=5e-3)


def test_the_seed_deals_the_folds() -> None:
    X, y = planted(3, 15, 25, noise=3.0)
    scores = [LinearProbe(random_state=seed).fit(X, y).cv_scores_[:, :8] for seed in (0, 0, 1)]
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


def test_columns_that_do_not_vary_or_repeat_do_no_harm() -> None:
    X, y = planted(3, 10, 8)
    X = np.hstack([X, X[:, :2], np.full((len(X), 2), 7.0)])
    assert_same_solution(LinearProbe(strengths=[0.1]).fit(X, y), refitted(X, y, 0.1), X, 1e-5)
    constant = LinearProbe().fit(np.ones((9, 20)), [0, 0, 0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(constant.predict_proba(np.ones((1, 20))), [[1 / 3, 2 / 3]], atol=1e-9)


def test_tall_data_takes_little_more_memory_than_one_copy() -> None:
    X, y = planted(4, 3000, 300, dtype=np.float32)
    LinearProbe(strengths=[1.0]).fit(X[:50], y[:50])  # what is loaded once does not count
    tracemalloc.start()
    LinearProbe(strengths=[1.0, 0.3]).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * X.nbytes


def test_folds_are_stacked_only_as_far_as_memory_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = planted(8, 60, 10, noise=2.0)
    strengths = [0.01, 0.1, 1.0]
    together = LinearProbe(strengths=strengths).fit(X, y)
    monkeypatch.setattr(linear_probe, "_SMALL", 0)
    monkeypatch.setattr(linear_probe, "_WORTH_KEEPING", 0)  # where there is room, and here there is none
    apart = LinearProbe(strengths=strengths).fit(X, y)
    np.testing.assert_allclose(apart.cv_scores_, together.cv_scores_, rtol=1e-9)
    np.testing.assert_allclose(apart.coef_, together.coef_, rtol=1e-9)


@pytest.mark.parametrize("strengths", [[0.01, 0.1, 1.0], [0.1, 0.2, 0.4, 0.8]], ids=["far", "near"])
@pytest.mark.parametrize("workers", [1, 3])
def test_logits_kept_directions_all_known_and_shared_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, strengths: list[float], workers: int
) -> None:
    """What is done at scale only, on small data: the same scores, and the same solution as scikit-learn's."""
    X, y = planted(7, 200, 80, noise=2.0)
    plain = LinearProbe(strengths=strengths, cv=3).fit(X, y)
    monkeypatch.setattr(linear_probe, "_WORTH_KEEPING", 0)
    monkeypatch.setattr(linear_probe, "_worth_all_directions", lambda *_: True)

    @contextmanager
    def working(_: int) -> Iterator[Any]:
        with ThreadPoolExecutor(workers) as pool:
            yield linear_probe._Workers(pool if workers > 1 else None, workers)

    monkeypatch.setattr(linear_probe, "_working", working)
    at_scale = LinearProbe(strengths=strengths, cv=3).fit(X, y)
    assert at_scale.strength_ == plain.strength_
    # Both are within a third of the standard error of exact scores.
    error = 0.3 / np.sqrt(len(y) / 3)
    np.testing.assert_allclose(at_scale.cv_scores_, plain.cv_scores_, atol=0.33 * error)
    assert_same_solution(at_scale, refitted(X, y, at_scale.strength_), X, 1e-5)
    again = LinearProbe(strengths=strengths, cv=3).fit(X, y)
    assert np.array_equal(again.coef_, at_scale.coef_)


def test_a_strength_starts_where_the_last_ended_without_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    products = []
    at = linear_probe._Problem.at

    def spy(problem: Any, W: np.ndarray, fold: Any, penalty: Any, logits: Any = None) -> Any:
        products.append(logits is None)
        return at(problem, W, fold, penalty, logits)

    monkeypatch.setattr(linear_probe._Problem, "at", spy)
    monkeypatch.setattr(linear_probe, "_WORTH_KEEPING", 0)
    LinearProbe(strengths=[0.01, 0.1, 1.0, 10.0], cv=3).fit(*planted(5, 40, 30, noise=2.0))
    assert sum(products) == 2  # the first guess of the folds, and the start of the last fit
    assert len(products) > 6


def test_a_step_that_must_be_halved_moves_kept_logits_as_far_as_the_weights() -> None:
    X, y = planted(3, 20, 6)
    rows = np.hstack([X, np.ones((len(X), 1))])
    workers = linear_probe._Workers(None, 1)
    problem = linear_probe._Problem(rows, np.eye(7), y, np.ones((2, len(y))), 3, workers)
    folds, penalty = np.arange(2), problem.penalty(0.1)
    point = problem.at(problem.first_guess(), folds, penalty)
    change = np.random.default_rng(0).normal(size=point.weights.shape)
    logits = np.einsum("cpd,rd->cpr", change, rows)
    part = np.array([0.25, 1.0])
    kept = linear_probe._Step(change, logits).taken(problem, folds, point, part)
    computed = linear_probe._Step(change, None).taken(problem, folds, point, part)
    np.testing.assert_allclose(kept.value, computed.value)
    np.testing.assert_allclose(kept.gradient, computed.gradient, atol=1e-10)
    other = problem.penalty(5.0)
    moved, direct = computed.under(other), problem.at(computed.weights, folds, other)
    np.testing.assert_allclose(moved.value, direct.value)
    np.testing.assert_allclose(moved.gradient, direct.gradient, atol=1e-10)


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_are_as_many_as_the_blas_has_threads_and_only_where_worth_it(threads: int) -> None:
    with linear_probe._blas().limit(limits=threads):
        with linear_probe._working(linear_probe._WORTH_THREADS) as workers:
            assert workers.number == threads
            assert {library.num_threads for library in linear_probe._blas().lib_controllers} == {1}
            blocks = [slice(k, k + 1) for k in range(5)]
            shared = workers.share(lambda own: [block.start for block in own], blocks)
            assert sorted(block for own in shared for block in own) == [0, 1, 2, 3, 4]
            assert len(shared) == threads
        with linear_probe._working(linear_probe._WORTH_THREADS - 1) as workers:
            assert workers.number == 1


def test_text_labels_come_back_as_text() -> None:
    X, y = planted(3, 10, 20, noise=0.2)
    names = np.array(["cat", "dog", "eel"], dtype=object)[y]
    probe = LinearProbe().fit(X, names)
    assert probe.classes_.tolist() == ["cat", "dog", "eel"]
    assert probe.predict(X).tolist() == names.tolist()
    assert probe.predict_proba(X).shape == (30, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 6, r"y holds 1 class only \(a, 6 rows\): at least 2 classes are needed"),
        (["a", "b", None, "a", None, "b"], "2 of 6 labels are missing .*first at row 2"),
        (np.array([0, 1, np.nan, 1, 0, 1]), "1 of 6 labels are missing"),
        (np.array([0, 1, 0.25, 1, 0, 1]), r"Unknown label type: continuous numbers such as 0\.25"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        LinearProbe().fit(np.eye(6), labels)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_not_numbers_are_counted(value: float, dtype: type) -> None:
    X, y = planted(2, 5, 4, dtype=dtype)
    broken = X.copy()
    broken[3, 1] = broken[7, 0] = value
    with pytest.raises(ValueError, match="2 of 10 rows of X hold NaN or infinite values, first row 3"):
        LinearProbe().fit(broken, y)
    with pytest.raises(ValueError, match="2 of 10 rows of X hold NaN"):
        LinearProbe().fit(X, y).predict(broken)


def test_large_but_finite_rows_are_no_error() -> None:
    X = planted(2, 5, 4, dtype=np.float32)[0] * np.float32(1e36)
    X[0] = 3e38
    linear_probe.refuse_nonfinite(X)


def test_wrong_width_says_expected_and_got() -> None:
    X, y = planted(2, 5, 4)
    with pytest.raises(ValueError, match="X has 3 features, but LinearProbe is expecting 4 features"):
        LinearProbe().fit(X, y).predict(X[:, :3])
    with pytest.raises(NotFittedError):
        LinearProbe().predict(X)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strengths": []}, "strengths must be one or more finite values above 0"),
        ({"strengths": [1.0, 0.0]}, "strengths must be one or more finite values above 0"),
        ({"cv": 1}, "cv must be at least 2 folds; got 1"),
        ({"class_weight": "even"}, "class_weight must be None, 'balanced' or a mapping; got 'even'"),
        ({"class_weight": {0: -1.0}}, "class_weight must be above 0 for every class"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearProbe(**options).fit(*planted(2, 5, 4))


def test_weights_and_groups_must_fit_the_rows() -> None:
    X, y = planted(2, 5, 4)
    with pytest.raises(ValueError, match="sample_weight holds nothing but zeros"):
        LinearProbe().fit(X, y, sample_weight=np.zeros(10))
    with pytest.raises(ValueError, match=r"sample_weight must be 10 numbers, one a row; got shape \(9,\)"):
        LinearProbe().fit(X, y, sample_weight=np.ones(9))
    with pytest.raises(ValueError, match="sample_weight must be finite and not below 0"):
        LinearProbe().fit(X, y, sample_weight=np.linspace(-1, 1, 10))
    with pytest.raises(LabelError, match="there are 10 rows but 3 groups"):
        LinearProbe().fit(X, y, groups=[1, 2, 3])


# ------------------------------------------------------------------------------------------------------------ extra rows


def by_explicit_folds(
    X: np.ndarray, y: np.ndarray, extra: Shots, folds: list[tuple[np.ndarray, np.ndarray]], strength: float
) -> np.ndarray:
    """Minus the mean Brier score of each fold's held-out rows, by a probe of its other rows and all extra ones."""
    scores = []
    for train, test in folds:
        rows, labels = np.vstack([X[train], extra.X]), np.concatenate([y[train], extra.y])
        weight = np.concatenate([np.ones(len(train)), extra.weight])
        p = LinearProbe(strengths=[strength]).fit(rows, labels, sample_weight=weight).predict_proba(X[test])
        truth = np.unique(labels) == y[test][:, None]
        scores.append(-np.square(p - truth).sum(axis=1).mean())
    return np.array(scores)


def folds_of(codes: np.ndarray, number: int, groups: np.ndarray | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    fold = deal(codes, number, seed=0, groups=groups)
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(number)]


@pytest.mark.parametrize("per_class", [1, 6])
def test_extra_rows_are_learned_from_in_every_fold_and_scored_in_none(per_class: int) -> None:
    """Also at one row a class, where without them there is nothing to hold out."""
    X, y = planted(4, per_class, 10, noise=0.8)
    more, labels = planted(4, 3, 10, noise=0.8, seed=5)
    extra = Shots(more, labels, np.random.default_rng(0).uniform(0.2, 2, size=12))
    strengths = [0.3, 0.03]
    probe = LinearProbe(strengths=strengths, cv=4).fit(X, y, extra=extra)
    assert probe.cv_scores_.shape == (4, 2)
    folds = folds_of(np.unique(y, return_inverse=True)[1], 4)
    for column, strength in enumerate(probe.strengths_):
        np.testing.assert_allclose(
            probe.cv_scores_[:, column], by_explicit_folds(X, y, extra, folds, strength), rtol=0.02, atol=2e-3
        )
    weight = np.concatenate([np.ones(len(X)), extra.weight])
    by_hand = LinearProbe(strengths=[probe.strength_]).fit(
        np.vstack([X, extra.X]), np.concatenate([y, extra.y]), sample_weight=weight
    )
    np.testing.assert_allclose(probe.coef_, by_hand.coef_, atol=1e-6)
    if per_class == 1:
        assert LinearProbe(strengths=strengths, cv=4).fit(X, y).cv_scores_.shape[0] == 0


def test_extra_rows_do_not_divide_groups() -> None:
    X, y = planted(3, 8, 6)
    extra = Shots(*planted(3, 2, 6, seed=7))
    groups = np.arange(24) // 2
    strengths = [1.0, 0.1]
    probe = LinearProbe(strengths=strengths, cv=3).fit(X, y, groups=groups, extra=extra)
    folds = folds_of(np.unique(y, return_inverse=True)[1], 3, groups)
    np.testing.assert_allclose(
        probe.cv_scores_[:, 0], by_explicit_folds(X, y, extra, folds, probe.strengths_[0]), rtol=0.02, atol=2e-3
    )


def test_folds_that_are_given_are_of_the_own_rows() -> None:
    X, y = planted(3, 6, 6)
    extra = Shots(*planted(3, 2, 6, seed=8))
    folds = folds_of(np.unique(y, return_inverse=True)[1], 3)
    given = LinearProbe(strengths=[1.0, 0.1], cv=folds).fit(X, y, extra=extra)
    dealt = LinearProbe(strengths=[1.0, 0.1], cv=3).fit(X, y, extra=extra)
    np.testing.assert_allclose(given.cv_scores_, dealt.cv_scores_, atol=1e-6)


def test_a_class_of_extra_rows_alone_is_known() -> None:
    X, y = planted(3, 6, 8, noise=0.5)
    own = y != 2
    extra = Shots(X[~own], y[~own])
    probe = LinearProbe().fit(X[own], y[own], extra=extra)
    assert probe.classes_.tolist() == [0, 1, 2]
    assert np.mean(probe.predict(X) == y) > 0.9


def test_extra_rows_of_weight_zero_are_none() -> None:
    X, y = planted(3, 6, 8)
    extra = Shots(*planted(3, 2, 8, seed=9)[:2], np.zeros(6))
    np.testing.assert_allclose(LinearProbe().fit(X, y, extra=extra).coef_, LinearProbe().fit(X, y).coef_, atol=1e-10)


def test_extra_rows_of_another_width_are_refused() -> None:
    X, y = planted(3, 6, 8)
    with pytest.raises(LabelError, match="extra shots are 5 wide, X is 8: embed them alike"):
        LinearProbe().fit(X, y, extra=Shots(np.ones((2, 5)), [0, 1]))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("dim", [8, 90])
@pytest.mark.parametrize("class_weight", [None, "balanced", {1: 3.0}])
def test_folds_solved_together_are_those_solved_alone(classes: int, dim: int, class_weight: Any) -> None:
    X, y = planted(classes, 7, dim)
    extra = Shots(*planted(classes, 2, dim, seed=3), np.linspace(0, 2, 2 * classes))
    trained = deal(y, 4, seed=0) != np.arange(4)[:, None]
    together = fit_folds(X, y, trained, strength=0.1, class_weight=class_weight, extra=extra)
    for of, probe in zip(trained, together, strict=True):
        alone = LinearProbe(strengths=[0.1], class_weight=class_weight).fit(X[of], y[of], extra=extra)
        np.testing.assert_allclose(probe.predict_proba(X), alone.predict_proba(X), atol=1e-6)
        np.testing.assert_allclose(probe.coef_, alone.coef_, atol=1e-6 * np.abs(alone.coef_).max())
        assert probe.classes_.tolist() == alone.classes_.tolist()
        assert probe.strength_ == 0.1
