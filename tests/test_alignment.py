"""The contract of every alignment method, and the criterion by which settings are chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Int
from planted_pairs import Matrix, pairs, slow_left_out, warped

from chiasm.alignment import alignment
from chiasm.alignment.alignment import ALPHAS, Alignment, GaussianKernel, HitChance, LearnedMap, Task
from chiasm.alignment.closed_form import METHODS, CcaAlignment, RidgeAlignment, make_alignment
from chiasm.alignment.contrastive import InfoNceAlignment
from chiasm.alignment.pairs import PairArrays
from chiasm.errors import SpaceError
from chiasm.vectors import unit_rows

NEED_PAIRS = ("kernel", "infonce")  # of the source; for the others its statistics do


def make(method: str, **options: Any) -> Alignment:
    """Quick to fit, where a method takes its time."""
    made = replace(make_alignment(method), **options)
    if isinstance(made, InfoNceAlignment):
        return replace(made, epochs=4, temperatures=[0.1], learning_rate=3e-2)
    return made


# ------------------------------------------------------------------------------------------------------- every method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("with_source", [False, True])
def test_the_result_is_the_blend_that_scored_best(method: str, with_source: bool) -> None:
    data, source = pairs(40, noise=0.6), pairs(60, seed=1) if with_source else None
    fit = make(method).fit(data, source)
    choice, learned = fit.choice, fit.map
    assert choice.method == method
    assert choice.score >= choice.start_score == pytest.approx(slow_score(data.Y, data.start, data.codes), abs=1e-9)
    assert choice.score == choice.best_by_alpha[choice.alpha] == max(choice.best_by_alpha.values())
    assert set(choice.best_by_alpha) <= set(ALPHAS if with_source else (0.0,))
    assert learned.weight.dtype == learned.bias.dtype == np.float32
    mixture = (1 - choice.blend) * data.start + choice.blend * learned.map_rows(data.X)
    np.testing.assert_allclose(fit.transform(data.X, data.start), unit_rows(mixture), atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_pair_is_cross_fitted_without_the_anchors_of_its_group(method: str) -> None:
    data = warped(60)
    data = replace(data, groups=np.arange(60) // 2)
    fit = make(method, blends=[0.7]).fit(data)
    own = data.codes == 7
    turned = replace(data, Y=np.where(own[:, None], -data.Y, data.Y))
    again = make(method, blends=[0.7]).fit(turned, choice=fit.choice)
    fold = next(rows for rows, _ in fit.task.folds if own[rows].any())
    hidden = own if method in {"kernel", "ridge"} else np.isin(np.arange(60), fold)
    np.testing.assert_allclose(again.cross_fitted[hidden], fit.cross_fitted[hidden], atol=1e-4)
    assert np.abs(again.cross_fitted[~hidden] - fit.cross_fitted[~hidden]).max() > 1e-3
    np.testing.assert_allclose(np.linalg.norm(fit.cross_fitted, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_with_nothing_to_learn_the_start_stays(method: str) -> None:
    data = pairs(60, noise=0.1)
    close = unit_rows(data.Y + 0.1 * np.random.default_rng(1).standard_normal(data.Y.shape).astype(np.float32))
    useless = PairArrays(data.X[np.random.default_rng(0).permutation(60)], data.Y, close)
    fit = make(method).fit(useless)
    assert fit.choice.blend == 0
    assert fit.choice.score == fit.choice.start_score
    np.testing.assert_array_equal(fit.cross_fitted, close)
    np.testing.assert_allclose(fit.transform(data.X, close), close, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_source_of_the_same_map_helps_and_one_of_another_is_not_used(method: str) -> None:
    data, source, new = (
        pairs(14, 30, noise=0.05),
        pairs(200, 30, noise=0.05, seed=1),
        pairs(100, 30, seed=2, noise=0.05),
    )
    opposite = replace(source, Y=-source.Y)
    alone, helped, warned = (make(method).fit(data, other) for other in (None, source, opposite))
    near = [float(np.mean(np.sum(fit.transform(new.X, new.start) * new.Y, axis=1))) for fit in (alone, helped)]
    assert helped.choice.alpha > 0
    assert near[1] > near[0] + 0.05
    assert warned.choice.alpha <= 0.1


@pytest.mark.parametrize("method", METHODS)
def test_sums_of_a_source_do_unless_a_method_compares_single_pairs(method: str) -> None:
    data, source = pairs(40), pairs(100, seed=1)
    if method in NEED_PAIRS:
        with pytest.raises(SpaceError, match="Give the source as a collection, or use ridge, procrustes or cca"):
            make(method).fit(data, source.statistics)
        return
    whole, sums = make(method).fit(data, source), make(method).fit(data, source.statistics)
    np.testing.assert_allclose(whole.map.weight, sums.map.weight, atol=1e-6)
    assert whole.choice == sums.choice


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_at_the_settings_of_another_learns_the_same_map(method: str) -> None:
    data, source = pairs(40), pairs(60, seed=1)
    first = make(method).fit(data, source)
    again = make(method).fit(data, source, choice=first.choice)
    assert again.choice is first.choice
    np.testing.assert_array_equal(again.map.weight, first.map.weight)
    np.testing.assert_array_equal(again.cross_fitted, first.cross_fitted)


@pytest.mark.parametrize("method", METHODS)
def test_alpha_and_blend_can_be_fixed(method: str) -> None:
    choice = make(method, alpha=0.6, blends=[0.5]).fit(pairs(30), pairs(60, seed=1)).choice
    assert (choice.alpha, list(choice.best_by_alpha), choice.blend) == (0.6, [0.6], 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_fitted(method: str) -> None:
    data = pairs(20)
    for pairs_, source, message in (
        (data.take(np.arange(9)), None, "at least 10 pairs; got 9"),
        (replace(data, groups=np.zeros(20, int)), None, "all pairs are of one group"),
        (data, pairs(20, 11), "the source has 11 x 5 features and the target 12 x 5"),
        (replace(data, X=np.full_like(data.X, 0.1)), None, "degenerate"),
        (data, replace(data, X=np.zeros_like(data.X)), "degenerate"),
    ):
        with pytest.raises(SpaceError, match=message):
            make(method).fit(pairs_, source)
    with pytest.raises(SpaceError, match=r"alpha=0.5 is the weight of a source, and there is none"):
        make(method, alpha=0.5).fit(data)
    assert make(method, alpha=0.0).fit(data).choice.alpha == 0
    for alpha in (-0.1, 1.1, float("nan"), "some", "0.5"):
        with pytest.raises(SpaceError, match="alpha must be 'auto' or a number from 0 to 1"):
            make(method, alpha=alpha)


def test_an_unknown_method_names_those_that_there_are() -> None:
    with pytest.raises(SpaceError, match=r"'nystrom'. Use kernel, ridge, procrustes, cca, infonce"):
        make_alignment("nystrom")


# ------------------------------------------------------------------------------------------------------------- choices


def test_of_equal_scores_less_source_and_less_map_win() -> None:
    target = pairs(30)
    perfect = replace(target, start=target.Y)
    choice = RidgeAlignment().fit(perfect, target.statistics).choice
    assert (choice.alpha, choice.blend) == (0.0, 0.0)
    assert choice.score == pytest.approx(1, abs=1e-6)


def test_groups_may_be_of_any_kind() -> None:
    target = pairs(30, same=3)
    named = replace(target, groups=np.array([f"caption {group}" for group in target.codes]))
    assert RidgeAlignment().fit(target).choice == RidgeAlignment().fit(named).choice


def test_of_many_pairs_a_part_is_ranked_and_all_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    target = pairs(50)
    model = RidgeAlignment(strengths=[1.0], blends=[0.7])
    whole = model.fit(target)
    monkeypatch.setattr(alignment, "MAX_VALIDATION", 20)
    part = model.fit(target)
    np.testing.assert_array_equal(part.map.weight, whole.map.weight)
    rows = part.task.rows
    assert len(set(rows.tolist())) == 20
    mixture = unit_rows(0.3 * target.start + 0.7 * slow_left_out(target, None, 0.0, 1.0))[rows]
    assert part.choice.score == pytest.approx(slow_score(target.Y[rows], mixture, target.codes[rows]), abs=1e-9)


def test_folds_are_of_whole_groups_and_lessons_know_nothing_of_them() -> None:
    data = pairs(50)
    for rows, rest in Task(data, None, "auto").folds:
        others = data.take(np.setdiff1d(np.arange(50), rows))
        assert not set(data.codes[rows]) & set(others.groups if others.groups is not None else [])
        np.testing.assert_allclose(rest.pairs.moments.xy, others.moments.xy, atol=1e-9)
        np.testing.assert_array_equal(rest.pairs.Y, others.Y)


@pytest.mark.parametrize("method", [RidgeAlignment(), CcaAlignment()])
def test_the_source_is_not_changed(method: Alignment) -> None:
    target, source = pairs(30, 40), pairs(60, 40, seed=1).statistics
    before = source.xx.copy(), source.xy.copy()
    method.fit(target, source)
    np.testing.assert_array_equal(source.xx, before[0])
    np.testing.assert_array_equal(source.xy, before[1])


# --------------------------------------------------------------------------------------------------------------- score


def slow_score(anchors: Matrix, mapped: Matrix, groups: Int[np.ndarray, " pairs"], *, blind: bool = False) -> float:
    """Candidate by candidate: how many of other groups are ahead, and the binomial tail for 29 of them.

    Of both directions, each by similarity or, where the start is blind, with hubs held back if that is better.
    """
    means = []
    for queries, gallery in ((anchors, mapped), (mapped, anchors)):
        near = [sum(sorted(float(query @ one) for query in queries)[-10:]) for one in gallery]
        ways = (None, near) if blind else (None,)
        means.append(max(slow_chance(queries, gallery, groups, hubs) for hubs in ways))
    return float(np.mean(means))


def slow_chance(
    queries: Matrix, gallery: Matrix, groups: Int[np.ndarray, " pairs"], hubs: Sequence[float] | None
) -> float:
    chances = []
    for query, group in zip(queries, groups, strict=True):
        scores = [
            float(query @ one) if hubs is None else 10 * float(query @ one) - hubs[i] for i, one in enumerate(gallery)
        ]
        best = max(score for score, other in zip(scores, groups, strict=True) if other == group)
        near = [score for score, other in zip(scores, groups, strict=True) if other != group]
        ahead = sum(score > best for score in near) + sum(score == best for score in near) / 2
        p = ahead / (len(groups) - 1)
        chances.append(sum(comb(29, k) * p**k * (1 - p) ** (29 - k) for k in range(10)))
    return float(np.mean(chances))


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_score_restated_candidate_by_candidate(seed: int, groups: int, coarse: bool, blind: bool) -> None:
    rng = np.random.default_rng(seed)
    anchors, mapped = rng.standard_normal((2, 12, 4)).astype(np.float32)
    if coarse:  # small whole numbers make ties, and are exact in any order of summation
        anchors, mapped = np.sign(anchors), np.sign(mapped)
    codes = rng.integers(0, groups, 12)
    scorer = HitChance(anchors, np.zeros_like(mapped) if blind else mapped, codes)
    both = (scorer.chance(anchors @ mapped.T) + scorer.chance(mapped @ anchors.T)) / 2
    assert both == pytest.approx(slow_score(anchors, mapped, codes, blind=blind), abs=1e-9)


@pytest.mark.parametrize("features", [6, 40])
@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0])
def test_the_choice_is_scored_on_blends_of_refits(features: int, blend: float) -> None:
    target, source = pairs(30, features, noise=0.5), pairs(60, features, seed=2)
    choice = RidgeAlignment(alpha=0.5, strengths=[1.0], blends=[blend]).fit(target, source.statistics).choice
    mixture = unit_rows((1 - blend) * target.start + blend * slow_left_out(target, source, 0.5, 1.0))
    assert choice.score == pytest.approx(slow_score(target.Y, mixture, target.codes), abs=1e-9)


def test_score_is_the_frequency_of_a_hit_among_random_candidates() -> None:
    """Draw 29 other candidates many times: with replacement the chance is exact, without it is within 0.02."""
    rng = np.random.default_rng(0)
    data = pairs(120, 8, 6, noise=0.8, same=1)
    similarity = data.Y @ data.start.T
    exact = HitChance(data.Y, data.start, data.codes).chances(similarity).mean()
    hits = {True: 0, False: 0}
    for row in range(120):
        others = np.delete(similarity[row], row)
        for replacing in hits:
            for _ in range(40):
                hits[replacing] += np.sum(rng.choice(others, 29, replace=replacing) > similarity[row, row]) < 10
    standard_error = 0.5 / np.sqrt(120 * 40)
    assert 0.6 < exact < 0.99
    assert hits[True] / (120 * 40) == pytest.approx(exact, abs=4 * standard_error)
    assert hits[False] / (120 * 40) == pytest.approx(exact, abs=4 * standard_error + 0.02)


def test_score_of_the_perfect_and_of_the_ignorant() -> None:
    anchors = np.eye(40, dtype=np.float32)
    scorer = HitChance(anchors, np.ones((40, 40), np.float32), np.arange(40))
    # All candidates tie: half of the 29 others are ahead, 14.5 on average, and at most 9 may be.
    half = sum(comb(29, k) for k in range(10)) / 2**29
    assert scorer.scores(anchors, [1.0, 0.0]) == pytest.approx([1.0, half])
    assert scorer.scores(np.zeros((40, 40), np.float32), [1.0]) == pytest.approx([half])


# ---------------------------------------------------------------------------------------------------------------- maps


def test_the_result_is_the_blend_of_start_and_map() -> None:
    rng = np.random.default_rng(0)
    X, start, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (4, 2), (3, 2), (2,)))
    placed = LearnedMap(weight, bias, 0.25).place(X, start)
    for row in range(4):
        mixed = 0.75 * start[row] + 0.25 * (X[row] @ weight + bias)
        np.testing.assert_allclose(placed[row], mixed / np.linalg.norm(mixed), rtol=1e-5)
    assert placed.dtype == np.float32


def test_a_kernel_value_is_that_of_its_formula_also_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X, centres = (rng.standard_normal((count, 5)).astype(np.float32) for count in (6, 4))
    weight = rng.standard_normal((4, 2)).astype(np.float32)
    kernel = GaussianKernel(centres, 3.0)
    expected = np.exp(-np.square(X[:, None] - centres).sum(axis=2) / 3)
    np.testing.assert_allclose(kernel(X), expected, rtol=1e-4)
    assert (GaussianKernel(X, 3.0)(X).diagonal() <= 1).all()
    monkeypatch.setattr(alignment, "_KERNEL_ROWS", 4)
    np.testing.assert_allclose(kernel.multiply(X, weight), expected @ weight, rtol=1e-4)


def test_a_search_imports_nothing_heavy() -> None:
    """A text search in the command line imports this module; SciPy would add 0.2 s."""
    code = "import sys, json, chiasm.alignment.alignment; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert "numpy" in loaded
    assert not {"scipy", "sklearn", "torch", "safetensors"} & set(loaded)
