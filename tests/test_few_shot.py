"""Zero-shot, prototypes and Tip-Adapter do what their papers say, and choose their numbers on rows they did not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import check_estimator

from chiasm.errors import LabelError
from chiasm.recognition import few_shot
from chiasm.recognition.few_shot import Prototypes, TipAdapter, ZeroShot
from chiasm.splits import Shots, deal

CENTRES = np.random.default_rng(0).normal(size=(4, 20))


def planted(per_class: int, *, noise: float = 1.0, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Rows around four centres, of any length, shuffled."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(4), per_class))
    rows = CENTRES[codes] + noise * rng.normal(size=(len(codes), 20))
    return rows * rng.uniform(0.5, 20, size=(len(codes), 1)), codes


def unit(rows: np.ndarray) -> np.ndarray:
    return np.array([row / np.linalg.norm(row) for row in rows])


NAMES = Shots(CENTRES + 0.3 * np.random.default_rng(5).normal(size=CENTRES.shape), np.arange(4))


@pytest.mark.parametrize("estimator", [Prototypes(), TipAdapter()], ids=lambda model: type(model).__name__)
def test_scikit_learns_contract(estimator: Any) -> None:
    results = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    # The means of a row of weight 2 and of the row twice are the same; the folds that the scale is chosen on are not.
    # (For estimators with `cv` the check gives folds that are.)
    assert failed.keys() <= {"check_sample_weight_equivalence_on_dense_data"}
    # What is left are checks of libraries that are not there: pandas, the array API.
    skipped = {result["check_name"] for result in results if result["status"] not in {"passed", "failed"}}
    assert skipped <= {
        "check_sample_weights_pandas_series",
        "check_classifier_data_not_an_array",
        "check_array_api_input",
    }


def test_zero_shot_logits_are_scaled_cosines_to_the_names() -> None:
    X, y = planted(6)
    model = ZeroShot().fit(X, y, anchors=NAMES)
    by_hand = np.array(
        [[model.scale_ * row @ name / np.linalg.norm(row) / np.linalg.norm(name) for name in NAMES.X] for row in X]
    )
    np.testing.assert_allclose(model.decision_function(X), by_hand, rtol=1e-10)
    np.testing.assert_allclose(
        model.predict_proba(X), np.exp(by_hand) / np.exp(by_hand).sum(axis=1, keepdims=True), rtol=1e-9
    )
    assert np.mean(model.predict(X) == y) > 0.9


def test_several_templates_of_a_class_are_averaged() -> None:
    X, y = planted(4)
    rng = np.random.default_rng(3)
    templates = Shots(np.repeat(CENTRES, 3, axis=0) + rng.normal(size=(12, 20)), np.repeat(np.arange(4), 3))
    model = ZeroShot().fit(X, y, anchors=templates)
    by_hand = unit(np.array([unit(templates.X[3 * k : 3 * k + 3]).mean(axis=0) for k in range(4)]))
    np.testing.assert_allclose(model.coef_ / model.scale_, by_hand, rtol=1e-10)


def test_the_scale_of_zero_shot_has_the_least_brier_score() -> None:
    X, y = planted(20, noise=2.0)
    model = ZeroShot().fit(X, y, anchors=NAMES)
    cosines = unit(X) @ unit(NAMES.X).T

    def brier(scale: float) -> float:
        p = np.exp(scale * cosines) / np.exp(scale * cosines).sum(axis=1, keepdims=True)
        return float(np.square(p - np.eye(4)[y]).sum(axis=1).mean())

    tried = np.logspace(0, 2, 13)
    assert model.scale_ == pytest.approx(min(tried, key=brier))
    assert model.scale_ not in (tried[0], tried[-1])


def test_a_class_without_rows_is_recognised_by_its_name() -> None:
    X, y = planted(10)
    kept = y != 2
    for model in (
        ZeroShot().fit(X[kept], y[kept], anchors=NAMES),
        Prototypes().fit(X[kept], y[kept], extra=NAMES),
        TipAdapter().fit(X[kept], y[kept], anchors=NAMES),
    ):
        assert model.classes_.tolist() == [0, 1, 2, 3]
        assert np.mean(model.predict(X[~kept]) == 2) > 0.7


def test_a_prototype_is_the_mean_of_unit_rows_anchors_among_them() -> None:
    X, y = planted(5)
    weighted = Shots(NAMES.X, NAMES.y, np.full(4, 0.5))
    weight = np.random.default_rng(2).uniform(0.5, 2, size=len(X))
    model = Prototypes().fit(X, y, sample_weight=weight, extra=weighted)
    for k in range(4):
        total = 0.5 * NAMES.X[k] / np.linalg.norm(NAMES.X[k])
        for row, label, w in zip(X, y, weight, strict=True):
            if label == k:
                total = total + w * row / np.linalg.norm(row)
        np.testing.assert_allclose(model.coef_[k], model.scale_ * total / np.linalg.norm(total), rtol=1e-10)


def by_folds(X: np.ndarray, y: np.ndarray, fold: np.ndarray, extra: Shots | None) -> np.ndarray:
    """Cosines of each row to the means of the rows of other folds, slowly."""
    out = np.full((len(X), 4), -np.inf)
    for i, row in enumerate(unit(X)):
        for k in range(4):
            rows = list(unit(X[(y == k) & (fold != fold[i])]))
            if extra is not None:
                rows += [w * r for r, label, w in zip(unit(extra.X), extra.y, extra.weight, strict=True) if label == k]
            if rows:
                mean = np.sum(rows, axis=0)
                out[i, k] = row @ mean / np.linalg.norm(mean)
    return out


@pytest.mark.parametrize("extra", [None, NAMES])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_scale_of_prototypes_is_chosen_on_rows_of_other_folds(
    monkeypatch: pytest.MonkeyPatch, extra: Shots | None, grouped: bool
) -> None:
    X, y = planted(4, noise=2.0, seed=6)
    groups = np.random.default_rng(1).integers(0, 7, size=len(X)) if grouped else None
    folds, cosines = [], []
    best = few_shot._best_scale

    def spy_deal(*args: Any, **rest: Any) -> Any:
        folds.append(deal(*args, **rest))
        return folds[-1]

    def spy_best(*args: Any) -> float:
        cosines.append(args)
        return best(*args)

    monkeypatch.setattr(few_shot, "deal", spy_deal)
    monkeypatch.setattr(few_shot, "_best_scale", spy_best)
    Prototypes(folds=3, random_state=4).fit(X, y, groups=groups, extra=extra)
    (fold,) = folds
    if groups is not None:
        assert all(len(set(fold[groups == g])) == 1 for g in groups)
    slow = by_folds(X, y, fold, extra)
    scored = np.isfinite(slow[np.arange(len(X)), y])
    np.testing.assert_allclose(cosines[0][0], slow[scored], rtol=1e-9)
    assert cosines[0][1].tolist() == y[scored].tolist()


def test_one_row_a_class_is_held_out_only_where_there_are_names() -> None:
    X, y = planted(1)
    assert Prototypes().fit(X, y).scale_ == few_shot._UNTUNED_SCALE
    near = Prototypes().fit(CENTRES, np.arange(4), extra=Shots(CENTRES, np.arange(4)))
    assert near.scale_ == 100  # rows that lie on the names: as sharp as may be
    alone = TipAdapter().fit(X, y)
    assert (alone.scale_, alone.sharpness_, alone.ratio_) == (10, 5.5, 1)


def tip_logits(model: TipAdapter, X: np.ndarray, rows: np.ndarray, labels: np.ndarray, names: Any) -> np.ndarray:
    """Zhang et al. 2022, equations 4 to 6, a number at a time; the cache is divided by the mean number of its rows."""
    logits = np.zeros((len(X), 4))
    for i, query in enumerate(unit(X)):
        for k in range(4):
            affinity = sum(
                np.exp(-model.sharpness_ * (1 - query @ key))
                for key, label in zip(unit(rows), labels, strict=True)
                if label == k
            )
            cache = affinity / (len(rows) / 4)
            zero_shot = 0.0 if names is None else query @ names[k] / np.linalg.norm(names[k])
            logits[i, k] = model.scale_ * (zero_shot + model.ratio_ * cache)
    return logits


@pytest.mark.parametrize("names", [None, NAMES])
@pytest.mark.parametrize("more", [None, 9])
def test_tip_adapter_logits(names: Shots | None, more: int | None) -> None:
    X, y = planted(5, noise=1.5)
    fresh, _ = planted(3, seed=9)
    extra = None if more is None else Shots(*(part[:more] for part in planted(5, seed=11)))
    model = TipAdapter().fit(X, y, anchors=names, extra=extra)
    rows = X if extra is None else np.vstack([X, extra.X])
    labels = y if extra is None else np.concatenate([y, extra.y])
    by_hand = tip_logits(model, fresh, rows, labels, None if names is None else names.X)
    np.testing.assert_allclose(model.decision_function(fresh), by_hand, rtol=1e-9, atol=1e-9)


def test_weights_of_rows_are_their_share_of_the_cache() -> None:
    X, y = planted(4)
    twice = np.ones(len(X))
    twice[3] = 2
    weighted = TipAdapter().fit(X, y, sample_weight=twice)
    repeated = np.append(np.arange(len(X)), 3)
    fresh, _ = planted(2, seed=8)
    by_hand = tip_logits(weighted, fresh, X[repeated], y[repeated], None)
    np.testing.assert_allclose(weighted.decision_function(fresh), by_hand, rtol=1e-9)


def test_a_row_of_weight_two_is_the_row_twice_in_the_mean() -> None:
    X, y = planted(4)
    weighted = Prototypes().fit(X, y, sample_weight=np.where(np.arange(16) == 3, 2, 1))
    repeated = np.append(np.arange(16), 3)
    twice = Prototypes().fit(X[repeated], y[repeated])
    np.testing.assert_allclose(weighted.coef_ / weighted.scale_, twice.coef_ / twice.scale_, rtol=1e-10)
    without = Prototypes().fit(np.delete(X, 3, axis=0), np.delete(y, 3))
    none = Prototypes().fit(X, y, sample_weight=np.where(np.arange(16) == 3, 0, 1))
    np.testing.assert_allclose(none.coef_, without.coef_, rtol=1e-10)


def test_tip_adapter_chooses_on_rows_of_other_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With copies of each row in one group, the cache that is scored never holds the copy."""
    X, y = planted(5, noise=2.5, seed=3)
    X, y, groups = np.vstack([X, X]), np.tile(y, 2), np.tile(np.arange(20), 2)
    seen = []
    cache = TipAdapter._cache

    def spy(model: TipAdapter, cosine: np.ndarray, sharpness: float, apart: Any = None) -> np.ndarray:
        if apart is not None:
            seen.append((cosine, apart))
        return cache(model, cosine, sharpness, apart)

    monkeypatch.setattr(TipAdapter, "_cache", spy)
    grouped = TipAdapter().fit(X, y, groups=groups)
    assert seen
    for cosine, apart in seen:
        assert not apart[cosine > 1 - 1e-9].any()  # a row and its copy
        np.testing.assert_array_equal(apart, apart.T)
    free = TipAdapter().fit(X, y)
    assert free.sharpness_ > grouped.sharpness_  # where the copy may stay, the sharpest cache finds it


def test_names_are_believed_as_far_as_they_are_good() -> None:
    X, y = planted(8, noise=1.5)
    lies = Shots(-CENTRES, np.arange(4))
    assert TipAdapter().fit(X, y, anchors=lies).ratio_ > TipAdapter().fit(X, y, anchors=NAMES).ratio_


@pytest.mark.parametrize("make", [Prototypes, TipAdapter])
def test_planted_classes_are_found(make: Any) -> None:
    X, y = planted(5)
    labels = np.array(["ant", "bee", "cow", "dog"])
    fresh, truth = planted(50, seed=7)
    model = make().fit(X, labels[y])
    assert np.mean(model.predict(fresh) == labels[truth]) > 0.95
    chosen = model.predict_proba(fresh)
    np.testing.assert_allclose(chosen.sum(axis=1), 1)
    assert np.square(chosen - np.eye(4)[truth]).sum(axis=1).mean() < 0.2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_lengths_of_rows_do_not_matter(seed: int, factor: float) -> None:
    X, y = planted(3, seed=seed)
    for make in (Prototypes, TipAdapter):
        np.testing.assert_allclose(
            make().fit(X, y).predict_proba(X), make().fit(factor * X, y).predict_proba(factor * X), rtol=1e-6
        )


def test_two_classes_give_one_logit_a_row() -> None:
    X, y = planted(6)
    two = y < 2
    model = Prototypes().fit(X[two], y[two])
    logits = model.decision_function(X)
    assert logits.shape == (24,)
    np.testing.assert_allclose(model.predict_proba(X)[:, 1], 1 / (1 + np.exp(-logits)), rtol=1e-9)


@pytest.mark.parametrize("make", [ZeroShot, Prototypes, TipAdapter])
def test_float32_stays_float32(make: Any) -> None:
    X, y = planted(4)
    given = {"extra": NAMES} if make is Prototypes else {"anchors": NAMES}
    model = make().fit(X.astype(np.float32), y, **given)
    assert model.decision_function(X.astype(np.float32)).dtype == np.float32


X, Y = planted(3)


@pytest.mark.parametrize(
    ("fit", "error", "message"),
    [
        (lambda: ZeroShot().fit(X, Y), LabelError, "zero-shot needs the embedded names of the classes as anchors"),
        (
            lambda: ZeroShot().fit(X, Y, anchors=Shots(NAMES.X[:3], NAMES.y[:3])),
            LabelError,
            r"zero-shot needs a name for every class; 1 have none, e\.g\. 3",
        ),
        (lambda: Prototypes().fit(X, [1] * 12), LabelError, r"y holds 1 class only \(1, 12 rows\)"),
        (lambda: TipAdapter().fit(X, [1] * 12), LabelError, r"y holds 1 class only \(1, 12 rows\)"),
        (lambda: Prototypes().fit(X, [None, *Y[1:]]), LabelError, "1 of 12 labels are missing"),
        (lambda: Prototypes().fit(X, Y + 0.5), LabelError, "Unknown label type: continuous"),
        (
            lambda: Prototypes().fit(X, Y, extra=Shots(CENTRES[:, :5], np.arange(4))),
            LabelError,
            "extra shots are 5 wide, X is 20: embed them alike",
        ),
        (
            lambda: TipAdapter().fit(X, Y, anchors=Shots(CENTRES[:, :5], np.arange(4))),
            LabelError,
            "extra shots are 5 wide, X is 20: embed them alike",
        ),
        (lambda: Prototypes(folds=1).fit(X, Y), ValueError, "folds must be at least 2; got 1"),
        (lambda: Prototypes().fit(X, Y, groups=[1, 2]), LabelError, "there are 12 rows but 2 groups"),
        (lambda: Prototypes().fit(np.where(X > 3, np.nan, X), Y), ValueError, "NaN"),
        (lambda: Shots(CENTRES, [1, 2]), LabelError, "one label and one weight a row"),
        (lambda: Shots(CENTRES, np.arange(4), [1, 2]), LabelError, "one label and one weight a row"),
        (lambda: Shots(CENTRES / 0, np.arange(4)), LabelError, "extra shots hold NaN or infinite values"),
        (lambda: Shots(CENTRES, np.arange(4), [1, 1, 1, -1]), LabelError, "must be finite and not below 0"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(fit: Any, error: type[Exception], message: str) -> None:
    with np.errstate(divide="ignore"), pytest.raises(error, match=message):
        fit()


def test_a_cache_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_shot, "LARGEST_CACHE", 15)
    TipAdapter().fit(X, Y, anchors=NAMES)
    with pytest.raises(LabelError, match=r"keeps at most 15 rows; got 16\. Use the linear probe"):
        TipAdapter().fit(X, Y, extra=NAMES)


def test_shots_add_up() -> None:
    both = NAMES + Shots(X[:2], Y[:2], [0.5, 2])
    assert len(both) == 6
    assert both.weight.tolist() == [1, 1, 1, 1, 0.5, 2]
    assert np.asarray(both.take(np.array([5, 0])).y).tolist() == [Y[1], 0]
