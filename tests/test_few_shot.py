"""Zero-shot and prototypes do what their papers say, and choose their scale on rows they did not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import check_estimator

from chiasm.errors import LabelError
from chiasm.recognition.few_shot import Prototypes, ZeroShot
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


def test_scikit_learns_contract() -> None:
    results = check_estimator(Prototypes(), on_skip=None, on_fail=None)
    assert not {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}


def test_zero_shot_logits_are_scaled_cosines_to_the_names() -> None:
    X, y = planted(6)
    model = ZeroShot().fit(X, y, anchors=NAMES)
    by_hand = np.array(
        [[model.scale_ * row @ name / np.linalg.norm(row) / np.linalg.norm(name) for name in NAMES.X] for row in X]
    )
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
    ):
        assert model.classes_.tolist() == [0, 1, 2, 3]
        assert np.mean(model.predict(X[~kept]) == 2) > 0.7


def test_a_prototype_is_the_mean_of_unit_rows_anchors_among_them() -> None:
    X, y = planted(5)
    weighted = Shots(NAMES.X, NAMES.y, np.full(4, 0.5))
    model = Prototypes().fit(X, y, extra=weighted)
    for k in range(4):
        total = 0.5 * NAMES.X[k] / np.linalg.norm(NAMES.X[k])
        for row, label in zip(X, y, strict=True):
            if label == k:
                total = total + row / np.linalg.norm(row)
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
def test_the_scale_of_prototypes_is_chosen_on_rows_of_other_folds(extra: Shots | None, grouped: bool) -> None:
    X, y = planted(4, noise=2.0, seed=6)
    groups = np.random.default_rng(1).integers(0, 7, size=len(X)) if grouped else None
    model = Prototypes(folds=3, random_state=4).fit(X, y, groups=groups, extra=extra)
    codes = None if groups is None else np.unique(groups, return_inverse=True)[1]
    cosines = by_folds(X, y, deal(y, 3, seed=4, groups=codes), extra)
    scored = np.isfinite(cosines[np.arange(len(X)), y])

    def brier(scale: float) -> float:
        p = np.exp(scale * cosines[scored]) / np.exp(scale * cosines[scored]).sum(axis=1, keepdims=True)
        return float(np.square(p - np.eye(4)[y[scored]]).sum(axis=1).mean())

    assert model.scale_ == pytest.approx(min(np.logspace(0, 2, 13), key=brier))


def test_one_row_a_class_is_held_out_only_where_there_are_names() -> None:
    X, y = planted(1)
    assert Prototypes().fit(X, y).scale_ == 10
    near = Prototypes().fit(CENTRES, np.arange(4), extra=Shots(CENTRES, np.arange(4)))
    assert near.scale_ == 100  # rows that lie on the names: as sharp as may be


def test_planted_classes_are_recognised() -> None:
    X, y = planted(5)
    labels = np.array(["ant", "bee", "cow", "dog"])
    fresh, truth = planted(50, seed=7)
    model = Prototypes().fit(X, labels[y])
    assert np.mean(model.predict(fresh) == labels[truth]) > 0.95
    probabilities = model.predict_proba(fresh)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert np.square(probabilities - np.eye(4)[truth]).sum(axis=1).mean() < 0.2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_lengths_of_rows_do_not_matter(seed: int, factor: float) -> None:
    X, y = planted(3, seed=seed)
    np.testing.assert_allclose(
        Prototypes().fit(X, y).predict_proba(X), Prototypes().fit(factor * X, y).predict_proba(factor * X), rtol=1e-6
    )


@pytest.mark.parametrize(("make", "shots"), [(ZeroShot, "anchors"), (Prototypes, "extra")])
def test_float32_stays_float32(make: Any, shots: str) -> None:
    X, y = planted(4)
    model = make().fit(X.astype(np.float32), y, **{shots: NAMES})
    assert model.predict_proba(X.astype(np.float32)).dtype == np.float32


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
        (lambda: Prototypes().fit(X, [None, *Y[1:]]), LabelError, "1 of 12 labels are missing"),
        (lambda: Prototypes().fit(X, Y + 0.5), LabelError, "Unknown label type: continuous"),
        (
            lambda: Prototypes().fit(X, Y, extra=Shots(CENTRES[:, :5], np.arange(4))),
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


def test_shots_add_up() -> None:
    both = NAMES + Shots(X[:2], Y[:2], [0.5, 2])
    assert len(both) == 6
    assert both.weight.tolist() == [1, 1, 1, 1, 0.5, 2]
    assert np.asarray(both.take(np.array([5, 0])).y).tolist() == [Y[1], 0]
