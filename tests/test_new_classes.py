"""New classes are learned beside old ones that stay as they are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize

from chiasm.recognition.linear_probe import LinearProbe
from chiasm.recognition.new_classes import choose_exemplars, extend_linear


def planted(
    classes: int, per_class: int, dim: int, *, distance: float = 6.0, seed: int = 0, draw: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian clusters of unit spread around centres at `distance` from 0; `draw` draws other items of the same."""
    centres = np.random.default_rng(seed).normal(size=(classes, dim))
    centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
    codes = np.repeat(np.arange(classes), per_class)
    return centres[codes] + np.random.default_rng([seed, draw]).normal(size=(len(codes), dim)) + 1.0, codes


def probe(X: np.ndarray, codes: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """A linear probe with one row a class, also for two."""
    fitted = LinearProbe(strengths=[strength]).fit(X, codes)
    if len(fitted.coef_) > 1:
        return fitted.coef_, fitted.intercept_
    return np.vstack([0 * fitted.coef_, fitted.coef_]), np.append(0 * fitted.intercept_, fitted.intercept_)


def extend(*args: Any, **options: Any) -> SimpleNamespace:
    coef, intercept = extend_linear(*args, **options)
    return SimpleNamespace(coef=coef, intercept=intercept)


def predicted(coef: np.ndarray, intercept: np.ndarray, X: np.ndarray) -> np.ndarray:
    best: np.ndarray = (X @ coef.T + intercept).argmax(axis=1)
    return best


@pytest.mark.parametrize(("dim", "added"), [(30, 1), (30, 5), (400, 5)], ids=str)
def test_five_new_classes_cost_the_old_ones_at_most_a_point(dim: int, added: int) -> None:
    old, strength = 10, 1.0
    X, codes = planted(old + added, 40, dim)
    first = codes < old
    coef, intercept = probe(X[first], codes[first], strength)
    kept = np.flatnonzero(first)[choose_exemplars(X[first], codes[first], per_class=8)]
    few = np.concatenate([np.flatnonzero(codes == k)[:8] for k in range(old, old + added)])
    extended = extend(
        coef, intercept,
        exemplars=X[kept], exemplar_codes=codes[kept], new_X=X[few], new_codes=codes[few],
        strength=strength, old_counts=np.bincount(codes[first]),
    )  # fmt: skip
    again = probe(np.vstack([X[first], X[few]]), np.concatenate([codes[first], codes[few]]), strength)
    new_X, new_codes = planted(old + added, 200, dim, draw=2)
    was_old = new_codes < old
    ours = predicted(extended.coef, extended.intercept, new_X) == new_codes
    retrained = predicted(*again, new_X) == new_codes
    assert retrained[was_old].mean() > 0.9
    assert ours[was_old].mean() >= retrained[was_old].mean() - 0.01
    assert ours[~was_old].mean() >= retrained[~was_old].mean() - 0.03


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_old_rows_are_the_same_bit_by_bit(dtype: type) -> None:
    X, codes = planted(5, 20, 12)
    X = X.astype(dtype)
    coef, intercept = probe(X[codes < 4], codes[codes < 4], 0.1)
    assert coef.dtype == intercept.dtype == dtype
    before = coef.tobytes(), intercept.tobytes()
    extended = extend(
        coef, intercept, exemplars=X[codes < 4], exemplar_codes=codes[codes < 4],
        new_X=X[codes == 4], new_codes=codes[codes == 4], strength=0.1, old_counts=np.full(4, 20),
    )  # fmt: skip
    assert extended.coef.dtype == extended.intercept.dtype == dtype
    assert (extended.coef.shape, extended.intercept.shape) == ((5, 12), (5,))
    assert (extended.coef[:4].tobytes(), extended.intercept[:4].tobytes()) == before
    assert (coef.tobytes(), intercept.tobytes()) == before
    # a matrix product may sum in another order where there is one more class; class by class it cannot
    for k in range(4):
        assert (X @ extended.coef[k] + extended.intercept[k]).tobytes() == (X @ coef[k] + intercept[k]).tobytes()


def test_solution_is_the_least_of_the_weighted_loss() -> None:
    X, codes = planted(5, 6, 4, distance=2)
    X, old, strength, counts = X + 3, 3, 0.3, np.array([30, 6, 12])
    coef, intercept = probe(X[codes < old], codes[codes < old], strength)
    weight = np.append(counts / 6, [1, 1])[codes]

    def loss(flat: np.ndarray) -> float:
        rows = flat.reshape(2, 5)
        logits = X @ np.vstack([coef, rows[:, :4]]).T + np.append(intercept, rows[:, 4])
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(X)), codes]
        return float(weight @ losses + strength / 2 * (rows[:, :4] ** 2).sum())

    slow = minimize(loss, np.zeros(10), method="BFGS", options={"gtol": 1e-5})
    extended = extend(
        coef, intercept, exemplars=X[codes < old], exemplar_codes=codes[codes < old],
        new_X=X[codes >= old], new_codes=codes[codes >= old], strength=strength, old_counts=counts,
    )  # fmt: skip
    fast = np.hstack([extended.coef[old:], extended.intercept[old:, None]]).ravel()
    assert loss(fast) <= slow.fun + 1e-6
    np.testing.assert_allclose(extended.coef[old:], slow.x.reshape(2, 5)[:, :4], atol=1e-3)


def test_counts_correct_the_intercept_for_the_imbalance() -> None:
    """One exemplar in ten is kept: unweighted, the new class would look ten times as frequent."""
    X, codes = planted(3, 300, 2, distance=1.0)
    first, strength = codes < 2, 1.0
    coef, intercept = probe(X[first], codes[first], strength)
    kept = np.flatnonzero(first)[::10]
    arguments: dict[str, Any] = {
        "exemplars": X[kept], "exemplar_codes": codes[kept], "new_X": X[~first], "new_codes": codes[~first],
        "strength": strength,
    }  # fmt: skip
    whole = extend(
        coef,
        intercept,
        **arguments | {"exemplars": X[first], "exemplar_codes": codes[first]},
        old_counts=np.array([300, 300]),
    )
    told = extend(coef, intercept, **arguments, old_counts=np.array([300, 300]))
    wrong = extend(coef, intercept, **arguments, old_counts=np.array([30, 30]))
    shares = [(predicted(e.coef, e.intercept, X) == 2).mean() for e in (whole, told, wrong)]
    assert shares[1] == pytest.approx(shares[0], abs=0.05)
    assert shares[2] > shares[0] + 0.3


def test_new_items_equal_to_the_centre_do_not_break_the_start() -> None:
    extended = extend(
        np.eye(2), np.zeros(2), exemplars=np.eye(2), exemplar_codes=np.array([0, 1]),
        new_X=np.full((1, 2), 0.5), new_codes=np.array([2]), strength=0.1, old_counts=np.ones(2, int),
    )  # fmt: skip
    assert np.isfinite(extended.coef).all()


def slow_herding(X: np.ndarray, number: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(number):
        gaps = [
            float(np.linalg.norm(X.mean(axis=0) - X[[*chosen, i]].mean(axis=0))) if i not in chosen else np.inf
            for i in range(len(X))
        ]
        chosen.append(int(np.argmin(gaps)))
    return chosen


def test_exemplars_are_chosen_by_herding() -> None:
    X, codes = planted(3, 25, 8, distance=2)
    order = np.random.default_rng(0).permutation(len(X))
    X, codes = X[order], codes[order]
    rows = choose_exemplars(X, codes, per_class=6)
    np.testing.assert_array_equal(codes[rows], np.repeat([0, 1, 2], 6))
    for k in range(3):
        members = np.flatnonzero(codes == k)
        np.testing.assert_array_equal(rows[6 * k : 6 * k + 6], members[slow_herding(X[members], 6)])


def test_exemplars_of_small_classes_are_all_and_ties_are_drawn() -> None:
    codes = np.array([0, 0, 5, 5, 5, 5])
    rows = choose_exemplars(np.ones((6, 2)), codes, per_class=3, seed=0)
    assert sorted(codes[rows].tolist()) == [0, 0, 5, 5, 5]
    assert len(set(rows.tolist())) == 5
    np.testing.assert_array_equal(rows, choose_exemplars(np.ones((6, 2)), codes, per_class=3, seed=0))
    drawn = {tuple(choose_exemplars(np.ones((6, 2)), codes, per_class=1, seed=s).tolist()) for s in range(30)}
    assert len(drawn) > 3
