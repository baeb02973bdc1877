"""Probability of relevance on planted scores, where the true probability is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chiasm.errors import SpaceError
from chiasm.retrieval.relevance import (
    QUANTILES,
    Relevance,
    at_size,
    best_by_size,
    calibration_error,
    fit_relevance,
    gallery_sizes,
    mixed_quantile,
    mixed_threshold,
)

QUERIES, ROWS = 300, 80


def planted(
    queries: int = QUERIES, rows: int = ROWS, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores normal around 0, around 0.5 where relevant, all with deviation 0.2: log-odds are linear in the score."""
    rng = np.random.default_rng(seed)
    relevant = np.zeros((queries, rows), dtype=bool)
    relevant[np.arange(queries), rng.integers(0, rows, queries)] = True
    scores = (0.2 * rng.standard_normal((queries, rows)) + 0.5 * relevant).astype(np.float32)
    return scores, relevant, np.arange(queries), scores + relevant


def fitted(**options: Any) -> Relevance:
    return fit_relevance(*planted(), **options)


def test_log_odds_are_those_that_were_planted() -> None:
    """Two normals a distance d apart with variance v: log-odds rise by d / v a score, here 12.5.

    Somewhat more for the fitted model, since only one row is relevant and being ahead of the others says so, too.
    """
    model = fitted()
    assert 12 < model.slope + model.lead < 16
    assert model.rows == ROWS and model.queries == model.groups == QUERIES


def test_probabilities_hold_on_new_queries_half_of_them_without_their_row() -> None:
    model = fitted()
    scores, relevant, _, _ = planted(2000, seed=9)
    gone = np.arange(2000) % 2 == 0
    scores[gone[:, None] & relevant] = -9
    relevant[gone] = False
    best = scores.max(axis=1, keepdims=True)
    probability = model.probability(scores, best)
    assert probability.sum() == pytest.approx(relevant.sum(), rel=0.15)
    for low, high in ((0.02, 0.2), (0.2, 0.5), (0.5, 1.0)):
        some = (probability >= low) & (probability < high)
        assert probability[some].mean() == pytest.approx(relevant[some].mean(), abs=0.08)
    assert model.calibration_error < 0.02


def test_probability_rises_with_the_score() -> None:
    model = fitted()
    probability = model.probability(np.linspace(-1, 1, 50), 1.0)
    assert np.all(np.diff(probability) > 0) and probability[0] > 0 and probability[-1] < 1


def test_scores_that_say_nothing_give_the_prior() -> None:
    scores, relevant, groups, likeness = planted()
    noise = np.random.default_rng(1).standard_normal(scores.shape).astype(np.float32)
    model = fit_relevance(noise, relevant, groups, likeness)
    assert model.probability(np.zeros(1), 0.0)[0] == pytest.approx(0.5 / (ROWS - 0.5), rel=0.6)


def test_in_a_larger_gallery_odds_fall_and_the_same_scores_are_kept() -> None:
    model = fitted()
    one, ten = model.probability(np.array([0.4]), 0.6), model.probability(np.array([0.4]), 0.6, rows=10 * ROWS)
    assert one / (1 - one) == pytest.approx(10 * ten / (1 - ten), rel=1e-6)
    scores = np.linspace(0, 1, 101)
    np.testing.assert_array_equal(
        model.probability(scores, scores) >= model.threshold(),
        model.probability(scores, scores, rows=10 * ROWS) >= model.threshold(rows=10 * ROWS),
    )


def test_few_rows_among_many_items_are_diluted_as_the_items_are() -> None:
    """A tenth of the items have a row of this modality: the right one is among them for a tenth of the queries.

    The model takes half of the queries to have an answer at all, so that it expects half as much as there is.
    """
    model = fitted()
    scores, relevant, *_ = planted(4000, seed=9)
    gone = np.random.default_rng(0).random(4000) > 0.1
    scores[gone[:, None] & relevant] -= 0.5  # as any other row
    relevant[gone] = False
    best = scores.max(axis=1, keepdims=True)
    told = model.probability(scores, best, rows=ROWS, items=10 * ROWS)
    assert 0.35 * relevant.sum() < told.sum() < 1.2 * relevant.sum()
    assert model.probability(scores, best, rows=ROWS).sum() > 2 * relevant.sum()
    limits = model.threshold(), model.threshold(rows=ROWS, items=10 * ROWS)
    np.testing.assert_array_equal(
        model.probability(best, best) >= limits[0], model.probability(best, best, items=10 * ROWS) >= limits[1]
    )
    assert model.rates(limits[1], rows=ROWS, items=10 * ROWS) == pytest.approx(model.rates(limits[0]), abs=0.01)


@pytest.mark.parametrize("keep", [0.8, 0.95])
def test_a_threshold_keeps_its_share(keep: float) -> None:
    model = fitted()
    assert model.rates(model.threshold(keep=keep))["kept"] == pytest.approx(keep, abs=0.02)
    best = planted(2000, seed=5)[0].max(axis=1)
    assert np.mean(model.probability(best, best) >= model.threshold(keep=keep)) == pytest.approx(keep, abs=0.05)


def test_a_threshold_keeps_its_share_in_a_smaller_gallery() -> None:
    """Among few rows the best one scores lower by chance: a threshold of the large gallery would lose answers."""
    scores, relevant, groups, likeness = planted(2000, 400)
    model = fit_relevance(0.6 * scores, relevant, groups, likeness)
    scores, relevant, *_ = planted(4000, 400, seed=5)
    few = relevant | (np.arange(400) < 40)
    best = np.where(few, 0.6 * scores, -np.inf).max(axis=1)
    size = 41
    kept = model.probability(best, best, rows=size) >= model.threshold(rows=size)
    assert np.mean(kept) == pytest.approx(0.975, abs=0.015)
    as_large = np.log(size / model.rows)
    limit = model.threshold()
    large = limit / (limit + np.exp(as_large) * (1 - limit))  # that keeps the same scores
    assert np.mean(model.probability(best, best, rows=size) >= large) < 0.96
    assert model.rates(model.threshold(rows=size), rows=size)["kept"] == pytest.approx(0.975, abs=0.01)


def test_best_by_size_is_the_best_of_a_draw_and_what_is_relevant() -> None:
    scores, relevant, *_ = planted(50, 100)
    sizes = gallery_sizes(100)
    np.testing.assert_array_equal(sizes, [25, 50, 100])
    best = best_by_size(scores, relevant, sizes, seed=3)
    drawn = np.random.default_rng(3).permutation(100)
    for size, found in zip(sizes, best, strict=True):
        for query in range(50):
            among = {*drawn[:size].tolist(), int(relevant[query].argmax())}
            assert found[query] == max(scores[query, row] for row in among)


def test_between_two_sizes_a_curve_is_between_theirs() -> None:
    sizes = np.array([25, 50, 100])
    curves = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 4.0]])
    np.testing.assert_array_equal(at_size(curves, sizes, None), [2.0, 4.0])
    np.testing.assert_array_equal(at_size(curves, sizes, 1000), [2.0, 4.0])
    np.testing.assert_array_equal(at_size(curves, sizes, 3), [0.0, 1.0])
    np.testing.assert_allclose(at_size(curves, sizes, 50), [1.0, 2.0])
    np.testing.assert_allclose(at_size(curves, sizes, round(50 * 2**0.5)), [1.5, 3.0], atol=0.03)


def test_a_mixed_quantile_is_that_of_the_values_together() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.beta(2, 5, 4000), rng.beta(5, 2, 4000)
    curves = [np.quantile(values, QUANTILES) for values in (first, second)]
    for share in (0.05, 0.5, 0.9):
        together = np.quantile(np.concatenate([first, first, first, second]), share)
        assert mixed_quantile(curves, [3, 1], share) == pytest.approx(together, abs=0.01)
        assert mixed_quantile(curves[:1], [7], share) == pytest.approx(np.quantile(first, share), abs=1e-3)
        assert mixed_quantile([curves[0], curves[0]], [1, 9], share) == pytest.approx(
            np.quantile(first, share), abs=0.01
        )


def test_a_modality_of_which_little_is_found_does_not_decide_for_the_others() -> None:
    good = fitted()
    scores, relevant, groups, likeness = planted()
    noise = np.random.default_rng(1).standard_normal(scores.shape).astype(np.float32)
    poor = fit_relevance(noise, relevant, groups, likeness)
    alone = good.threshold(items=1000)
    assert poor.threshold(items=1000) < 0.2 * alone
    few = mixed_threshold([(good, 10 * ROWS), (poor, 2)], items=1000)
    assert 0.5 * alone < few <= alone * 1.01
    assert mixed_threshold([(good, ROWS), (good, 3)], items=1000) == pytest.approx(alone, rel=0.1)


def test_without_its_kind_a_query_gets_an_answer_less_often() -> None:
    scores, relevant, groups, _ = planted()
    kind = np.arange(ROWS)[None] % 2 == relevant.argmax(axis=1)[:, None] % 2
    model = fit_relevance(np.where(relevant, scores, scores + 0.2 * kind), relevant, groups, kind + 0.1 * relevant)
    rates = model.rates(model.threshold())
    assert rates["foreign"] < rates["absent"] < rates["kept"]


def test_groups_are_left_out_together() -> None:
    """Copies of ten queries: what is known of one is known of all, and the left-out rates must not see it."""
    scores, relevant, _, likeness = planted(10)
    copies = np.repeat(np.arange(10), 8)
    model = fit_relevance(scores[copies], relevant[copies], copies, likeness[copies])
    assert model.groups == 10 and model.queries == 80


def test_state_gives_the_same_probabilities() -> None:
    model = fitted()
    again = Relevance.restore(model.fields(), model.arrays())
    at = np.linspace(-1, 1, 9)
    np.testing.assert_array_equal(model.probability(at, 1.0), again.probability(at, 1.0))
    assert model.rates(model.threshold()) == again.rates(again.threshold())


def test_calibration_error_restated() -> None:
    probability, relevant = np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, True, True, True])
    assert calibration_error(probability, relevant, bins=2) == pytest.approx((0.7 + 0.3) / 4)
    assert calibration_error(probability, relevant, bins=4) == pytest.approx((0.1 + 0.8 + 0.2 + 0.1) / 4)
    weights = np.array([1.0, 0.0, 1.0, 1.0])
    assert calibration_error(probability, relevant, bins=4, weights=weights) == pytest.approx((0.1 + 0.2 + 0.1) / 3)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained() -> None:
    scores, relevant, groups, likeness = planted()
    with pytest.raises(
        SpaceError, match=r"at least 10 groups; got 9. Without them hits have a score and no probability"
    ):
        fit_relevance(scores, relevant, groups % 9, likeness)
    with pytest.raises(SpaceError, match="of one shape"):
        fit_relevance(scores, relevant[:, :5], groups, likeness)
    with pytest.raises(SpaceError, match="300 queries have no relevant row"):
        fit_relevance(scores, np.zeros_like(relevant), groups, likeness)
    with pytest.raises(SpaceError, match="1 scores are not finite"):
        fit_relevance(
            np.where(np.arange(scores.size).reshape(scores.shape) == 3, np.nan, scores), relevant, groups, likeness
        )
    with pytest.raises(SpaceError, match="no hits"):
        calibration_error(np.zeros(0), np.zeros(0, dtype=bool))
    model = fitted()
    with pytest.raises(SpaceError, match="from 0 to 1; got 7"):
        model.threshold(keep=7.0)
    with pytest.raises(SpaceError, match=r"KeyError: 'slope'\). Align again"):
        Relevance.restore({}, model.arrays())
    with pytest.raises(SpaceError, match="damaged"):
        Relevance.restore({**model.fields(), "slope": -1.0}, model.arrays())
    with pytest.raises(SpaceError, match="damaged"):
        Relevance.restore(model.fields(), {**model.arrays(), "kept": model.kept[:, ::-1]})
    with pytest.raises(SpaceError, match="damaged"):
        Relevance.restore(model.fields(), {**model.arrays(), "sizes": model.sizes[::-1]})
    with pytest.raises(SpaceError, match="damaged"):
        replacement = replace(model, rows=0)
        Relevance.restore(replacement.fields(), model.arrays())
