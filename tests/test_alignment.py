"""Ridge alignment against slow restatements: stacked weighted rows, refits without a group, ranks counted by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int
from safetensors.numpy import save_file

from chiasm.alignment import alignment
from chiasm.alignment.alignment import ALPHAS, BLENDS, LearnedMap, PairArrays, PairStatistics, RidgeAlignment, Task
from chiasm.alignment.linear_alignment import CcaAlignment
from chiasm.errors import SpaceError
from chiasm.vectors import unit_rows

Matrix = Float[np.ndarray, "rows columns"]


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad shapes reach our own checks, also where the test run checks shapes at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# ------------------------------------------------------------------------------------------------------- planted data


@dataclass(frozen=True)
class Domain:
    X: Matrix
    Y: Matrix
    start: Matrix
    groups: Int[np.ndarray, " pairs"]

    def statistics(self) -> PairStatistics:
        return PairStatistics.from_pairs(self.X, self.Y)

    def take(self, rows: slice) -> Domain:
        return Domain(self.X[rows], self.Y[rows], self.start[rows], self.groups[rows])


def linear_map(x: int, y: int, *, seed: int = 0) -> Matrix:
    """With orthonormal columns or rows."""
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((max(x, y), min(x, y))))[0]
    return basis if x >= y else basis.T


def domain(
    pairs: int, x: int = 12, y: int = 5, *, seed: int = 0, noise: float = 0.0, map_seed: int = 0, same: int = 1
) -> Domain:
    """Features, and anchors that a linear map with an intercept gives; `same` pairs have one caption."""
    rng = np.random.default_rng(seed)
    groups = np.arange(pairs) // same
    X = unit_rows(rng.standard_normal((pairs, x)) + 0.3)
    Y = unit_rows(X @ linear_map(x, y, seed=map_seed) + 0.2 + noise * rng.standard_normal((pairs, y)))
    Y = Y[groups * same]
    start = unit_rows(Y + 0.8 * rng.standard_normal((pairs, y)))
    order = rng.permutation(pairs)  # groups are not runs of rows
    X, Y, start = (part[order].astype(np.float32) for part in (X, Y, start))
    return Domain(X, Y, start, groups[order])


def shares(target: Domain, source: Domain | None, alpha: float) -> tuple[Matrix, Matrix, Float[np.ndarray, " rows"]]:
    """All rows in float64, and the weight of each in the objective."""
    parts = [(target, (1 - alpha) / len(target.X))]
    if source is not None:
        parts.append((source, alpha / len(source.X)))
    X = np.concatenate([part.X for part, _ in parts]).astype(np.float64)
    Y = np.concatenate([part.Y for part, _ in parts]).astype(np.float64)
    return X, Y, np.concatenate([np.full(len(part.X), weight) for part, weight in parts])


def slow_scale(target: Domain, source: Domain | None, alpha: float) -> float:
    """Mean eigenvalue of the weighted covariance of the features."""
    X, _, weights = shares(target, source, alpha)
    return float(np.mean(np.linalg.eigvalsh(np.cov(X.T, aweights=weights, ddof=0))))


def slow_ridge(
    X: Matrix, Y: Matrix, weights: Float[np.ndarray, " rows"], penalty: float
) -> tuple[Matrix, Float[np.ndarray, " y"]]:
    """Least squares on weighted rows with a column of ones, below them a row a feature that pulls its weight to 0."""
    root = np.sqrt(weights)[:, None]
    rows = np.vstack([root * np.hstack([X, np.ones((len(X), 1))]), np.sqrt(penalty) * np.eye(X.shape[1] + 1)[:-1]])
    right = np.vstack([root * Y, np.zeros((X.shape[1], Y.shape[1]))])
    solution = np.linalg.lstsq(rows, right, rcond=None)[0]
    return solution[:-1], solution[-1]


def slow_left_out(target: Domain, source: Domain | None, alpha: float, strength: float) -> Matrix:
    """Predict every pair by a refit on the rows of the other groups, each with the weight that it has in the whole."""
    X, Y, weights = shares(target, source, alpha)
    penalty = strength * slow_scale(target, source, alpha)
    predicted = np.empty(target.Y.shape)
    for group in np.unique(target.groups):
        gone = np.zeros(len(X), dtype=bool)
        gone[: len(target.X)] = target.groups == group
        weight, bias = slow_ridge(X[~gone], Y[~gone], weights[~gone], penalty)
        predicted[gone[: len(target.X)]] = X[gone] @ weight + bias
    return predicted


def slow_score(anchors: Matrix, mapped: Matrix, groups: Int[np.ndarray, " pairs"]) -> float:
    """Candidate by candidate: how many of other groups are ahead, and the binomial tail for 29 of them."""
    chances = []
    for queries, gallery in ((anchors, mapped), (mapped, anchors)):
        for row in range(len(queries)):
            own = [i for i in range(len(gallery)) if groups[i] == groups[row]]
            others = [i for i in range(len(gallery)) if groups[i] != groups[row]]
            best = max(float(queries[row] @ gallery[i]) for i in own)
            found = [float(queries[row] @ gallery[i]) for i in others]
            ahead = sum(score > best for score in found) + sum(score == best for score in found) / 2
            p = ahead / (len(groups) - 1)
            chances.append(sum(comb(29, k) * p**k * (1 - p) ** (29 - k) for k in range(10)))
    return float(np.mean(chances))


# --------------------------------------------------------------------------------------------------------- unit length


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_normalise_gives_unit_rows_and_keeps_zero_rows(rows: list[list[float]]) -> None:
    vectors = np.array(rows, np.float32).round(2)
    unit = unit_rows(vectors)
    assert unit.dtype == np.float32
    zero = ~vectors.any(axis=1)
    assert not unit[zero].any()
    np.testing.assert_allclose(np.linalg.norm(unit[~zero], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=1, keepdims=True), vectors, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------- statistics


def test_statistics_are_sums_over_pairs_also_across_blocks() -> None:
    data = domain(4100, 3, 2)
    found = data.statistics()
    X, Y = data.X.astype(np.float64), data.Y.astype(np.float64)
    assert found.count == 4100
    np.testing.assert_allclose(found.sum_x, X.sum(axis=0))
    np.testing.assert_allclose(found.sum_y, Y.sum(axis=0))
    np.testing.assert_allclose(found.xx, sum(np.outer(x, x) for x in X))
    np.testing.assert_allclose(found.xy, sum(np.outer(x, y) for x, y in zip(X, Y, strict=True)))
    np.testing.assert_allclose(found.yy, sum(np.outer(y, y) for y in Y))


def test_statistics_of_three_parts_add_up_to_those_of_the_whole() -> None:
    source, target = domain(90, noise=0.3), domain(20, seed=1)
    whole = source.statistics()
    parts = [source.take(rows).statistics() for rows in (slice(0, 20), slice(20, 50), slice(50, 90))]
    total = parts[0] + parts[1] + parts[2]
    assert total.count == whole.count
    for name in ("sum_x", "sum_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-12)
    fits = [RidgeAlignment().fit(target.X, target.Y, start=target.start, source=found) for found in (whole, total)]
    np.testing.assert_allclose(fits[0].map_.weight, fits[1].map_.weight, atol=1e-6)
    assert fits[0].choice_.score == pytest.approx(fits[1].choice_.score)


def test_statistics_without_a_part_are_those_of_the_rest() -> None:
    data = domain(60, noise=0.3)
    rest = data.statistics() - data.take(slice(0, 20)).statistics()
    expected = data.take(slice(20, 60)).statistics()
    assert rest.count == 40
    for name in ("sum_x", "sum_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(rest, name), getattr(expected, name), atol=1e-9)


def test_statistics_of_other_features_do_not_add_up() -> None:
    with pytest.raises(SpaceError, match=r"statistics of 12 x 5 features cannot be added to statistics of 11 x 5"):
        domain(20).statistics() + domain(20, 11).statistics()


def test_statistics_come_back_from_a_file_to_float32(tmp_path: Path) -> None:
    source, target = domain(300, noise=0.2), domain(20, seed=1)
    written = source.statistics()
    path = tmp_path / "source.safetensors"
    written.save(path, {"encoder": "abc", "words": "größer"})
    read, metadata = PairStatistics.load(path)
    assert metadata == {"encoder": "abc", "words": "größer"}
    assert read.count == 300
    np.testing.assert_array_equal(read.sum_x, written.sum_x)
    np.testing.assert_array_equal(read.sum_y, written.sum_y)
    np.testing.assert_allclose(read.xx, written.xx, rtol=6e-8)
    np.testing.assert_allclose(read.xy, written.xy, rtol=6e-8)
    np.testing.assert_allclose(read.yy, written.yy, rtol=6e-8)
    np.testing.assert_array_equal(read.xx, read.xx.T)
    assert read.xx.dtype == read.xy.dtype == np.float64
    fits = [RidgeAlignment().fit(target.X, target.Y, start=target.start, source=found) for found in (written, read)]
    np.testing.assert_allclose(fits[0].map_.weight, fits[1].map_.weight, atol=1e-5)


def damaged(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], object]) -> Path:
    """A file of statistics of 2 x 1 features in which one thing is wrong."""
    tensors: dict[str, np.ndarray] = {
        "sum_x": np.ones(2),
        "sum_y": np.ones(1),
        "xx_upper": np.ones(3, np.float32),
        "xy": np.ones((2, 1)),
        "yy_upper": np.ones(1),
    }
    header = {"format": "chiasm-pair-statistics", "format_version": "2", "count": "7", "metadata": "{}"}
    change(tensors, header)
    save_file(tensors, path, metadata=header)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t, h: h.update(format="something"),
            r"is not a file of pair statistics \(written by chiasm statistics\)",
        ),
        (lambda t, h: h.update(format_version="1"), "has format version 1; this chiasm reads 2. Write it again with"),
        (lambda t, h: h.pop("count"), "cannot be read as pair statistics: 'count'"),
        (lambda t, h: h.update(count="many"), "cannot be read as pair statistics: invalid literal"),
        (lambda t, h: h.update(count="0"), "is damaged: 0 pairs"),
        (lambda t, h: h.update(metadata="{"), "cannot be read as pair statistics: Expecting property name"),
        (lambda t, h: t.pop("xy"), "cannot be read as pair statistics: File does not contain tensor xy"),
        (lambda t, h: t.update(xx_upper=np.ones(4)), r"is damaged: 7 pairs with matrices of shapes .*\(4,\)"),
        (lambda t, h: t.update(yy_upper=np.ones(3)), r"is damaged: 7 pairs with matrices of shapes .*\(3,\)\]"),
        (lambda t, h: t.update(xy=np.ones((1, 2))), r"is damaged: 7 pairs with matrices of shapes"),
        (lambda t, h: t.update(sum_y=np.array([np.nan])), "is damaged: it holds values that are not finite numbers"),
    ],
)
def test_a_wrong_file_of_statistics_says_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], object], message: str
) -> None:
    path = damaged(tmp_path / "source.safetensors", change)
    with pytest.raises(SpaceError, match=message) as caught:
        PairStatistics.load(path)
    assert str(path) in str(caught.value)


def test_the_damaged_file_is_right_but_for_the_damage(tmp_path: Path) -> None:
    found, metadata = PairStatistics.load(damaged(tmp_path / "fine.safetensors", lambda tensors, header: None))
    assert found.count == 7
    assert metadata == {}


def test_what_is_no_file_of_statistics_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"missing.safetensors cannot be read as pair statistics"):
        PairStatistics.load(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("no tensors at all")
    with pytest.raises(SpaceError, match="text cannot be read as pair statistics"):
        PairStatistics.load(tmp_path / "text")
    domain(50).statistics().save(tmp_path / "whole", {})
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    with pytest.raises(SpaceError, match="half cannot be read as pair statistics"):
        PairStatistics.load(tmp_path / "half")


def test_statistics_that_cannot_be_written_say_so(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"the pair statistics cannot be written to .*nowhere"):
        domain(20).statistics().save(tmp_path / "nowhere" / "file", {})
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- the objective itself


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("strength", [1e-3, 0.3, 10.0])
@pytest.mark.parametrize("features", [6, 40])  # fewer and more than there are pairs
def test_the_map_minimises_the_weighted_objective(alpha: float, strength: float, features: int) -> None:
    target = domain(30, features, noise=0.2, seed=1)
    source = domain(100, features, noise=0.2, seed=2, map_seed=9)
    found = RidgeAlignment(alpha=alpha, strengths=[strength], blends=[1.0]).fit(
        target.X, target.Y, start=target.start, source=source.statistics()
    )
    weight, bias = slow_ridge(*shares(target, source, alpha), strength * slow_scale(target, source, alpha))
    np.testing.assert_allclose(found.map_.weight, weight, atol=2e-6)
    np.testing.assert_allclose(found.map_.bias, bias, atol=2e-6)
    assert (found.choice_.alpha, found.choice_.strength, found.choice_.blend) == (alpha, strength, 1.0)
    new = domain(5, features, seed=3)
    np.testing.assert_allclose(found.transform(new.X, new.start), unit_rows(new.X @ weight + bias), atol=1e-5)


def test_without_a_source_the_target_alone_is_learned_from() -> None:
    target = domain(30, noise=0.2)
    found = RidgeAlignment(strengths=[1.0], blends=[1.0]).fit(target.X, target.Y, start=target.start)
    weight, bias = slow_ridge(*shares(target, None, 0.0), slow_scale(target, None, 0.0))
    np.testing.assert_allclose(found.map_.weight, weight, atol=1e-6)
    np.testing.assert_allclose(found.map_.bias, bias, atol=1e-6)
    assert found.map_.weight.dtype == found.map_.bias.dtype == np.float32


def test_the_result_is_the_blend_of_start_and_map() -> None:
    rng = np.random.default_rng(0)
    X, start, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (4, 2), (3, 2), (2,)))
    found = LearnedMap(weight, bias, 0.25).place(X, start)
    for row in range(4):
        mixed = 0.75 * start[row] + 0.25 * (X[row] @ weight + bias)
        np.testing.assert_allclose(found[row], mixed / np.linalg.norm(mixed), rtol=1e-5)
    assert found.dtype == np.float32


# ------------------------------------------------------------------------------------------------- left-out predictions


@pytest.mark.parametrize("features", [6, 40])  # both forms: through the features, and through the pairs
@pytest.mark.parametrize("same", [1, 3])  # pairs of a group
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("strength", [0.02, 1.0])  # in float64 and in float32
def test_left_out_predictions_are_those_of_refits(
    features: int, same: int, alpha: float | None, strength: float
) -> None:
    target = domain(21, features, noise=0.3, seed=1, same=same)
    target.groups[:2] = target.groups[0]  # and one group of another size
    source = None if alpha is None else domain(60, features, noise=0.3, seed=2, map_seed=9)
    found = left_out(target, source, alpha or 0.0, strength, np.arange(21))
    np.testing.assert_allclose(found, slow_left_out(target, source, alpha or 0.0, strength), atol=3e-6)


@pytest.mark.parametrize("features", [6, 40])
@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_left_out_predictions_at_several_strengths_are_those_of_refits(features: int, alpha: float) -> None:
    target, source = domain(21, features, noise=0.3, seed=1), domain(60, features, noise=0.3, seed=2, map_seed=9)
    found = alignment.left_out(
        target.X,
        target.Y,
        target.groups,
        np.arange(21),
        target.statistics().moments,
        source.statistics().moments,
        [alpha],
        [0.3, 3.0],
    )
    for (_, strength, predicted), expected in zip(found, (0.3, 3.0), strict=True):
        assert strength == expected
        np.testing.assert_allclose(predicted, slow_left_out(target, source, alpha, strength), atol=3e-6)


@pytest.mark.parametrize("features", [6, 40])
def test_left_out_predictions_of_some_pairs_are_the_same(features: int) -> None:
    target, source = domain(30, features, noise=0.3, same=2), domain(60, features, seed=2)
    some = np.array([1, 2, 7, 20, 29])
    whole = left_out(target, source, 0.5, 1.0, np.arange(30))
    np.testing.assert_allclose(left_out(target, source, 0.5, 1.0, some), whole[some], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_left_out_predictions_are_exact_where_the_penalty_is_tiny(alpha: float) -> None:
    target, source = domain(21, 40, noise=0.3, seed=1), domain(30, 40, noise=0.3, seed=2, map_seed=9)
    found = left_out(target, source, alpha, 1e-5, np.arange(21))
    np.testing.assert_allclose(found, slow_left_out(target, source, alpha, 1e-5), atol=3e-6)


def test_a_group_of_all_pairs_but_one_can_be_left_out() -> None:
    target = domain(12, 4, noise=0.3)
    target.groups[:] = 0
    target.groups[5] = 1
    found = left_out(target, None, 0.0, 1.0, np.arange(12))
    np.testing.assert_allclose(found, slow_left_out(target, None, 0.0, 1.0), atol=1e-6)


def left_out(
    target: Domain, source: Domain | None, alpha: float, strength: float, shown: Int[np.ndarray, " shown"]
) -> Matrix:
    other = None if source is None else source.statistics().moments
    ((_, _, found),) = alignment.left_out(
        target.X, target.Y, target.groups, shown, target.statistics().moments, other, [alpha], [strength]
    )
    return found


# --------------------------------------------------------------------------------------------------------------- score


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_score_restated_candidate_by_candidate(seed: int, groups: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    anchors, mapped = rng.standard_normal((2, 12, 4)).astype(np.float32)
    if coarse:  # small whole numbers make ties, and are exact in any order of summation
        anchors, mapped = np.sign(anchors), np.sign(mapped)
    codes = rng.integers(0, groups, 12)
    found = alignment._Scorer(anchors, mapped, codes).chances(anchors @ mapped.T).mean()
    back = alignment._Scorer(mapped, anchors, codes).chances(mapped @ anchors.T).mean()
    assert (found + back) / 2 == pytest.approx(slow_score(anchors, mapped, codes), abs=1e-9)


@pytest.mark.parametrize("features", [6, 40])
@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0])
def test_the_choice_is_scored_on_blends_of_refits(features: int, blend: float) -> None:
    target, source = domain(30, features, noise=0.5, same=2), domain(60, features, seed=2)
    choice = (
        RidgeAlignment(alpha=0.5, strengths=[1.0], blends=[blend])
        .fit(target.X, target.Y, start=target.start, groups=target.groups, source=source.statistics())
        .choice_
    )
    blended = unit_rows((1 - blend) * target.start + blend * slow_left_out(target, source, 0.5, 1.0))
    assert choice.score == pytest.approx(slow_score(target.Y, blended, target.groups), abs=1e-9)
    assert choice.start_score == pytest.approx(slow_score(target.Y, target.start, target.groups), abs=1e-9)


def test_score_is_the_frequency_of_a_hit_among_random_candidates() -> None:
    """Draw 29 other candidates many times: with replacement the chance is exact, without it is within 0.02."""
    rng = np.random.default_rng(0)
    data = domain(120, 8, 6, noise=0.8)
    similarity = data.Y @ data.start.T
    exact = alignment._Scorer(data.Y, data.start, data.groups).chances(similarity).mean()
    found = {True: 0, False: 0}
    for row in range(120):
        others = np.delete(similarity[row], row)
        for replace in found:
            for _ in range(40):
                found[replace] += np.sum(rng.choice(others, 29, replace=replace) > similarity[row, row]) < 10
    standard_error = 0.5 / np.sqrt(120 * 40)
    assert 0.6 < exact < 0.99
    assert found[True] / (120 * 40) == pytest.approx(exact, abs=4 * standard_error)
    assert found[False] / (120 * 40) == pytest.approx(exact, abs=4 * standard_error + 0.02)


def test_score_of_the_perfect_and_of_the_ignorant() -> None:
    anchors = np.eye(40, dtype=np.float32)
    scorer = alignment._Scorer(anchors, np.ones((40, 40), np.float32), np.arange(40))
    assert scorer.scores(anchors, [1.0]) == pytest.approx([1.0])
    # All candidates tie: half of the 29 others are ahead, 14.5 on average, and at most 9 may be.
    half = sum(comb(29, k) for k in range(10)) / 2**29
    assert scorer.scores(anchors, [0.0]) == pytest.approx([half])
    assert scorer.scores(np.zeros((40, 40), np.float32), [1.0]) == pytest.approx([half])


# -------------------------------------------------------------------------------------------------------------- choice


def test_a_planted_map_is_recovered() -> None:
    rng = np.random.default_rng(0)
    planted = linear_map(6, 6, seed=3)
    X, new = (unit_rows(rng.standard_normal((rows, 6))).astype(np.float32) for rows in (80, 20))
    anchors = (X @ planted).astype(np.float32)
    start = unit_rows(rng.standard_normal((80, 6))).astype(np.float32)
    found = RidgeAlignment(strengths=[1e-7], blends=[0.0, 1.0]).fit(X, anchors, start=start)
    assert found.choice_.blend == 1.0
    assert found.choice_.score == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.map_.weight, planted, atol=1e-4)
    np.testing.assert_allclose(found.map_.bias, 0, atol=1e-4)
    np.testing.assert_allclose(found.transform(new, new), new @ planted, atol=1e-4)


def test_with_nothing_to_learn_the_start_stays() -> None:
    data = domain(60, noise=0.1, seed=4)
    shuffled = np.random.default_rng(0).permutation(60)  # features tell nothing of anchors, the start does
    found = RidgeAlignment().fit(data.X[shuffled], data.Y, start=data.start)
    assert found.choice_.blend == 0
    assert found.choice_.score == found.choice_.start_score
    np.testing.assert_allclose(found.transform(data.X, data.start), data.start, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0, 2), st.integers(1, 3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_never_worse_than_the_start_on_left_out_pairs(seed: int, noise: float, same: int, with_source: bool) -> None:
    target = domain(18, 5, 4, seed=seed, noise=noise, same=same)
    source = domain(20, 5, 4, seed=seed + 1, noise=noise, map_seed=seed % 5).statistics() if with_source else None
    choice = RidgeAlignment().fit(target.X, target.Y, start=target.start, groups=target.groups, source=source).choice_
    assert choice.score >= choice.start_score
    assert choice.score == max(choice.best_by_alpha.values())
    assert choice.score == choice.best_by_alpha[choice.alpha]
    assert tuple(choice.best_by_alpha) == (ALPHAS if with_source else (0.0,))
    assert choice.blend in BLENDS


def test_a_source_of_the_same_map_is_used_and_helps() -> None:
    source = domain(600, 30, 8, seed=1, noise=0.05)
    target, test = domain(12, 30, 8, seed=2, noise=0.05), domain(200, 30, 8, seed=3, noise=0.05)
    alone = RidgeAlignment().fit(target.X, target.Y, start=target.start)
    helped = RidgeAlignment().fit(target.X, target.Y, start=target.start, source=source.statistics())
    assert helped.choice_.alpha > 0
    assert helped.choice_.score > alone.choice_.score
    gains = [
        np.mean(np.sum(fitted.transform(test.X, test.start) * test.Y, axis=1)) - np.mean(np.sum(test.start * test.Y, 1))
        for fitted in (alone, helped)
    ]
    assert gains[1] > gains[0] + 0.05


def test_a_source_that_maps_otherwise_is_not_used() -> None:
    target = domain(60, 8, 8, seed=2, noise=0.05)
    wrong = domain(600, 8, 8, seed=1, noise=0.05)
    wrong = Domain(wrong.X, -wrong.Y, wrong.start, wrong.groups)  # negative transfer, as bad as it can be
    found = RidgeAlignment().fit(target.X, target.Y, start=target.start, source=wrong.statistics())
    alone = RidgeAlignment().fit(target.X, target.Y, start=target.start)
    assert found.choice_.alpha == 0
    assert found.choice_.blend > 0
    np.testing.assert_array_equal(found.map_.weight, alone.map_.weight)
    assert found.choice_.best_by_alpha[0.9] < found.choice_.best_by_alpha[0.0]


def test_alpha_can_be_given() -> None:
    target, source = domain(30, noise=0.2), domain(60, seed=1, noise=0.2)
    found = RidgeAlignment(alpha=0.6).fit(target.X, target.Y, start=target.start, source=source.statistics())
    assert found.choice_.alpha == 0.6
    assert list(found.choice_.best_by_alpha) == [0.6]


def test_of_equal_scores_less_source_and_less_map_win() -> None:
    target = domain(30, noise=0.0)
    found = RidgeAlignment().fit(target.X, target.Y, start=target.Y, source=target.statistics())  # the start is perfect
    assert found.choice_.score == pytest.approx(1, abs=1e-6)
    assert (found.choice_.alpha, found.choice_.blend) == (0.0, 0.0)


def test_of_many_pairs_a_part_is_ranked_and_all_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    target = domain(50, noise=0.3, same=2)
    whole = RidgeAlignment(strengths=[1.0], blends=[0.7]).fit(
        target.X, target.Y, start=target.start, groups=target.groups
    )
    monkeypatch.setattr(alignment, "MAX_VALIDATION", 20)
    found = RidgeAlignment(strengths=[1.0], blends=[0.7]).fit(
        target.X, target.Y, start=target.start, groups=target.groups
    )
    np.testing.assert_array_equal(found.map_.weight, whole.map_.weight)
    rows = alignment._validation_rows(target.groups)
    assert len(set(rows.tolist())) == 20
    blended = unit_rows(0.3 * target.start + 0.7 * slow_left_out(target, None, 0.0, 1.0))[rows]
    assert found.choice_.score == pytest.approx(slow_score(target.Y[rows], blended, target.groups[rows]), abs=1e-9)


def test_groups_may_be_of_any_kind() -> None:
    target = domain(30, noise=0.3, same=3)
    named = np.array([f"caption {group}" for group in target.groups])
    fits = [RidgeAlignment().fit(target.X, target.Y, start=target.start, groups=g) for g in (target.groups, named)]
    assert fits[0].choice_ == fits[1].choice_


def test_one_source_serves_many_fits_and_is_not_changed() -> None:
    target, source = domain(30, 40, noise=0.2), domain(60, 40, seed=1).statistics()
    before = source.xx.copy(), source.xy.copy()
    fits = [RidgeAlignment().fit(target.X, target.Y, start=target.start, source=source) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].map_.weight, fits[1].map_.weight)
    assert fits[0].choice_ == fits[1].choice_
    np.testing.assert_array_equal(source.xx, before[0])
    np.testing.assert_array_equal(source.xy, before[1])


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_mixtures_are_those_of_weighted_rows(alpha: float) -> None:
    target, source = domain(30, noise=0.2), domain(60, seed=1, noise=0.2)
    X, Y, weights = shares(target, source, alpha)
    here, there = target.statistics().moments, source.statistics().moments
    found = here.mixed(there, alpha)
    np.testing.assert_allclose(found.mean_x, weights @ X, atol=1e-9)
    np.testing.assert_allclose(found.mean_y, weights @ Y, atol=1e-9)
    covariance = np.cov(np.hstack([X, Y]).T, aweights=weights, ddof=0)
    np.testing.assert_allclose(found.xx, covariance[:12, :12], atol=1e-9)
    np.testing.assert_allclose(found.xy, covariance[:12, 12:], atol=1e-9)
    np.testing.assert_allclose(found.yy, covariance[12:, 12:], atol=1e-9)
    assert here.mixed_scale(there, alpha) == pytest.approx(found.scale) == slow_scale(target, source, alpha)


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), "some", "0.5"])
def test_alpha_is_auto_or_a_share(alpha: float | str) -> None:
    with pytest.raises(SpaceError, match=r"alpha must be 'auto' or a number from 0 to 1; got"):
        RidgeAlignment(alpha=alpha)


@pytest.mark.parametrize("strengths", [[], [0.0], [1.0, -1.0], [float("inf")], [float("nan")]])
def test_strengths_are_above_zero(strengths: list[float]) -> None:
    with pytest.raises(SpaceError, match=r"strengths must be one or more numbers above 0; got \["):
        RidgeAlignment(strengths=strengths)


@pytest.mark.parametrize("blends", [[], [-0.1], [0.5, 1.5], [float("nan")]])
def test_blends_are_shares(blends: list[float]) -> None:
    with pytest.raises(SpaceError, match=r"blends must be one or more numbers from 0 to 1; got \["):
        RidgeAlignment(blends=blends)


def test_a_weight_needs_a_source() -> None:
    data = domain(20)
    with pytest.raises(SpaceError, match=r"alpha=0.5 is the weight of a source, and there is none. Give one, or no"):
        RidgeAlignment(alpha=0.5).fit(data.X, data.Y, start=data.start)
    assert RidgeAlignment(alpha=0.0).fit(data.X, data.Y, start=data.start).choice_.alpha == 0


def test_pairs_are_enough() -> None:
    data = domain(9)
    with pytest.raises(
        SpaceError, match=r"alignment needs at least 10 pairs; got 9. Add pairs or use the space as it is"
    ):
        RidgeAlignment().fit(data.X, data.Y, start=data.start)
    data = domain(10)
    RidgeAlignment().fit(data.X, data.Y, start=data.start)


def test_groups_are_more_than_one() -> None:
    data = domain(20)
    with pytest.raises(SpaceError, match=r"all pairs are of one group .*: nothing is left to validate on"):
        RidgeAlignment().fit(data.X, data.Y, start=data.start, groups=np.zeros(20, int))


def test_values_are_finite() -> None:
    data = domain(20)
    for name, bad, message in (
        ("X", np.nan, "2 of 20 pairs have values that are not finite numbers"),
        ("Y", np.inf, "2 of 20 pairs have values that are not finite numbers"),
        ("start", np.nan, "the start must be finite and of the shape of the anchors, .* 3 values that are not finite"),
    ):
        arrays = {"X": data.X.copy(), "Y": data.Y.copy(), "start": data.start.copy()}
        arrays[name][3, :2] = arrays[name][7, 1] = bad
        with pytest.raises(SpaceError, match=message):
            RidgeAlignment().fit(arrays["X"], arrays["Y"], start=arrays["start"])


def test_features_differ() -> None:
    data = domain(20)
    for flat in (np.full_like(data.X, 0.1), np.zeros_like(data.X)):
        with pytest.raises(SpaceError, match="the pairs are degenerate: the features of all of them are equal"):
            RidgeAlignment().fit(flat, data.Y, start=data.start)
        with pytest.raises(SpaceError, match="the pairs are degenerate: the features of all of them are equal"):
            source = PairStatistics.from_pairs(flat, data.Y)
            RidgeAlignment().fit(data.X, data.Y, start=data.start, source=source)


def test_a_source_has_the_same_features() -> None:
    data = domain(20)
    with pytest.raises(SpaceError, match="the source has 11 x 5 features and the target 12 x 5: both must come from"):
        RidgeAlignment().fit(data.X, data.Y, start=data.start, source=domain(20, 11).statistics())


@pytest.mark.usefixtures("unchecked")
def test_shapes_fit() -> None:
    data = domain(20)
    fit = RidgeAlignment().fit
    with pytest.raises(SpaceError, match=r"a row a pair; got features \(20, 12\) and anchors \(19, 5\)"):
        fit(data.X, data.Y[1:], start=data.start)
    with pytest.raises(SpaceError, match=r"a row a pair; got features \(12,\) and anchors \(5,\)"):
        fit(data.X[0], data.Y[0], start=data.start)
    with pytest.raises(SpaceError, match=r"of the shape of the anchors, \(20, 5\); got \(20, 4\) with 0 values"):
        fit(data.X, data.Y, start=data.start[:, 1:])
    with pytest.raises(SpaceError, match=r"groups must be one value for each of the 20 pairs; got shape \(19,\)"):
        fit(data.X, data.Y, start=data.start, groups=data.groups[1:])


def test_statistics_need_pairs() -> None:
    with pytest.raises(SpaceError, match=r"a row a pair; got features \(0, 12\) and anchors \(0, 5\)"):
        PairStatistics.from_pairs(domain(20).X[:0], domain(20).Y[:0])


# -------------------------------------------------------------------------------------------------------------- import


def test_import_stays_light() -> None:
    """A text search in the command line imports this module; SciPy would add 0.2 s."""
    code = "import sys, json, chiasm.alignment.alignment; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "numpy" in loaded
    assert not {"scipy", "sklearn", "torch", "safetensors"} & set(loaded)


@pytest.mark.parametrize("with_source", [False, True])
def test_cross_fitted_pairs_of_ridge_are_those_of_refits(with_source: bool) -> None:
    target = domain(40, noise=0.3, same=2)
    source = domain(60, seed=2) if with_source else None
    given: dict[str, Any] = {"groups": target.groups, "source": None if source is None else source.statistics()}
    fitted = RidgeAlignment(strengths=[0.3, 1.0]).fit(target.X, target.Y, start=target.start, **given)
    choice = fitted.choice_
    assert choice.blend > 0
    placed = fitted.cross_fitted(target.X, target.Y, start=target.start, **given)
    predicted = slow_left_out(target, source, choice.alpha, choice.strength)
    np.testing.assert_allclose(
        placed, unit_rows((1 - choice.blend) * target.start + choice.blend * predicted), atol=2e-4
    )


def test_cross_fitted_pairs_of_other_methods_know_nothing_of_their_own_group() -> None:
    target = domain(60, noise=0.3, same=2)
    fitted = CcaAlignment().fit(target.X, target.Y, start=target.start, groups=target.groups)
    assert fitted.choice_.blend > 0
    placed = fitted.cross_fitted(target.X, target.Y, start=target.start, groups=target.groups)
    own = target.groups == target.groups[0]
    turned = np.where(own[:, None], -target.Y, target.Y)
    again = fitted.cross_fitted(target.X, turned, start=target.start, groups=target.groups)
    assert np.abs(again[~own] - placed[~own]).max() > 1e-3
    rows = next(
        rows
        for rows, _ in Task(PairArrays(target.X, target.Y, target.start, target.groups), None, "auto").folds
        if own[rows].any()
    )
    np.testing.assert_allclose(again[rows], placed[rows], atol=1e-3)


def test_cross_fitted_pairs_of_a_start_that_stays_are_the_start() -> None:
    target = domain(30)
    for kept in (RidgeAlignment(blends=[0.0]), CcaAlignment(blends=[0.0])):
        fitted = kept.fit(target.X, target.Y, start=target.start, groups=target.groups)
        placed = fitted.cross_fitted(target.X, target.Y, start=target.start, groups=target.groups)
        np.testing.assert_array_equal(placed, target.start)
