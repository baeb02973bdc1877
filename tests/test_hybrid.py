"""Rankings made into one: by places and by scores, with items that one of the searches could not have found."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.errors import LabelError
from chiasm.retrieval.hybrid import (
    CONSTANT,
    WEIGHTS,
    Found,
    Fused,
    Judged,
    LearnedWeight,
    compare_fusions,
    learn_weight,
    reciprocal_rank_fusion,
    weighted_fusion,
)


def found(rows: Sequence[int], scores: Sequence[float] | None = None, covers: Sequence[bool] | None = None) -> Found:
    falling = np.arange(len(rows), 0, -1) if scores is None else scores
    return Found(
        np.array(rows, dtype=np.int64),
        np.array(falling, dtype=np.float64),
        None if covers is None else np.array(covers, dtype=bool),
    )


def as_dict(fused: Fused) -> dict[int, float]:
    return dict(zip(fused.rows.tolist(), fused.scores.tolist(), strict=True))


@st.composite
def two_searches(draw: st.DrawFn) -> tuple[Found, Found]:
    """A search that found all items and one that found some of those that it covers; scores with ties."""
    count = draw(st.integers(1, 12))
    covers = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    order = draw(st.permutations(range(count)))
    some = [row for row in draw(st.permutations(range(count))) if covers[row]]
    some = some[: draw(st.integers(0, len(some)))]
    scores = st.sampled_from([0.5, 1.0, 2.0, 3.0])
    first = sorted(draw(st.lists(scores, min_size=count, max_size=count)), reverse=True)
    second = sorted(draw(st.lists(scores, min_size=len(some), max_size=len(some))), reverse=True)
    return found(order, first), found(some, second, covers)


# --------------------------------------------------------------------------------------------------- reciprocal ranks


def test_reciprocal_ranks_add_up_as_in_the_paper() -> None:
    fused = reciprocal_rank_fusion([found([0, 1, 2]), found([2, 3])])
    expected = {0: 1 / 61, 1: 1 / 62, 2: 1 / 63 + 1 / 61, 3: 1 / 62}
    assert as_dict(fused) == pytest.approx(expected)
    assert fused.rows.tolist() == [2, 0, 1, 3]  # 1 and 3 are worth the same; the first search has 1 earlier


def test_weights_and_the_constant_decide_how_much_a_place_is_worth() -> None:
    fused = reciprocal_rank_fusion([found([0, 1]), found([1, 0])], weights=[1, 3], constant=1)
    assert as_dict(fused) == pytest.approx({0: 1 / 2 + 3 / 3, 1: 1 / 3 + 3 / 2})


def test_equal_scores_share_what_their_places_are_worth() -> None:
    fused = reciprocal_rank_fusion([found([4, 2, 7], [5, 5, 1])])
    shared = (1 / (CONSTANT + 1) + 1 / (CONSTANT + 2)) / 2
    assert as_dict(fused) == pytest.approx({4: shared, 2: shared, 7: 1 / (CONSTANT + 3)})
    assert fused.rows.tolist() == [4, 2, 7]


def test_one_search_keeps_its_order_and_an_empty_one_changes_nothing() -> None:
    alone = reciprocal_rank_fusion([found([3, 1, 2])])
    assert alone.rows.tolist() == [3, 1, 2]
    with_empty = reciprocal_rank_fusion([found([3, 1, 2]), found([], covers=[True] * 4)])
    np.testing.assert_array_equal(with_empty.scores, alone.scores)
    nothing = reciprocal_rank_fusion([found([]), found([])])
    assert nothing.rows.tolist() == []


# ------------------------------------------------------------------------------------------- items that have no words


def test_an_item_without_words_stands_between_neighbours_that_match_and_that_do_not() -> None:
    # Vectors have found 0..9 in this order. All but 4 have words; every second of these matches, wherever it stands.
    vectors = found(range(10))
    covers = [row != 4 for row in range(10)]
    fused = reciprocal_rank_fusion([vectors, found([1, 3, 5, 7, 9], [1] * 5, covers)])
    place = {row: number for number, row in enumerate(fused.rows.tolist())}
    assert place[3] < place[4] < place[6]
    assert place[5] < place[4]
    assert place[4] < place[0]  # which has words, and none of the query's
    # As a sum the item would be last of all; judged by vectors alone, twice, it would be first.
    as_sum = reciprocal_rank_fusion([vectors, found([1, 3, 5, 7, 9], [1] * 5)]).rows.tolist()
    assert as_sum.index(4) > place[4]


def test_no_match_leaves_the_order_of_the_vectors() -> None:
    fused = reciprocal_rank_fusion([found([2, 0, 1]), found([], covers=[True, False, True])])
    assert fused.rows.tolist() == [2, 0, 1]


def test_items_without_words_keep_their_share_of_the_first_page() -> None:
    """Planted: words match by chance, whatever the vectors say, so that nobody deserves to be pushed off the page."""
    generator = np.random.default_rng(7)
    shares = {"vectors": [], "sum": [], "expected": [], "mean": []}  # type: dict[str, list[float]]
    for _ in range(200):
        covers = generator.random(300) < 0.5
        vectors = found(generator.permutation(300).tolist())
        matching = np.flatnonzero(covers & (generator.random(300) < 0.1))
        matching = generator.permutation(matching)
        words = found(matching.tolist(), covers=covers.tolist())
        orders = {
            "vectors": vectors.rows,
            "sum": reciprocal_rank_fusion([vectors, found(matching.tolist())]).rows,
            "expected": reciprocal_rank_fusion([vectors, words]).rows,
        }
        each = np.zeros(300)
        for part in (vectors, words):
            each[part.rows] += 1 / (CONSTANT + 1 + np.arange(len(part.rows)))
        orders["mean"] = np.argsort(-each / (1 + covers), kind="stable")
        for name, order in orders.items():
            shares[name].append(float((~covers[order[:10]]).mean()))
    mean = {name: float(np.mean(values)) for name, values in shares.items()}
    assert mean["vectors"] == pytest.approx(0.5, abs=0.04)
    assert mean["sum"] < 0.05  # punished
    assert mean["mean"] > 0.8  # favoured
    # What matches is worth more than what is expected, so chance alone puts some of it before all others.
    assert mean["sum"] + 0.1 < mean["expected"] <= 0.5


@given(two_searches())
def test_the_order_among_items_without_words_is_that_of_the_vectors(searches: tuple[Found, Found]) -> None:
    vectors, words = searches
    assert words.covers is not None
    for fused in (reciprocal_rank_fusion(searches), weighted_fusion(searches, weights=(0.6, 0.4))):
        assert sorted(fused.rows.tolist()) == sorted(vectors.rows.tolist())
        assert (np.diff(fused.scores) <= 0).all()
        without = [row for row in fused.rows.tolist() if not words.covers[row]]
        assert without == [row for row in vectors.rows.tolist() if not words.covers[row]]


@given(two_searches())
def test_what_is_expected_is_the_best_rising_fit(searches: tuple[Found, Found]) -> None:
    """Slowly: of n known values the fit at i is the largest over starts of the smallest mean over ends (min-max)."""
    vectors, words = searches
    assert words.covers is not None
    both = as_dict(reciprocal_rank_fusion(searches))
    alone = as_dict(reciprocal_rank_fusion([vectors]))
    gain = as_dict(reciprocal_rank_fusion([found(vectors.rows.tolist(), [0.0] * len(vectors.rows)), words]))
    flat = as_dict(reciprocal_rank_fusion([found(vectors.rows.tolist(), [0.0] * len(vectors.rows))]))
    known = sorted({round(alone[row], 12) for row in alone if words.covers[row]})
    groups = [
        [gain[row] - flat[row] for row in alone if words.covers[row] and round(alone[row], 12) == value]
        for value in known
    ]

    def fit(i: int) -> float:
        return max(
            min(float(np.mean(np.concatenate(groups[a : b + 1]))) for b in range(i, len(groups))) for a in range(i + 1)
        )

    fitted = [fit(i) for i in range(len(groups))]
    for row, value in alone.items():
        if not words.covers[row]:
            expected = float(np.interp(value, known, fitted)) if known and len(words.rows) else 0.0
            assert both[row] - value == pytest.approx(expected, abs=1e-9)


def test_rows_that_only_words_found_do_not_say_what_is_usual() -> None:
    # Vectors gave their best three only; 7 and 8 are far behind and come in by their words.
    covers = [True, False, True, True, True, True, True, True, True]
    fused = as_dict(reciprocal_rank_fusion([found([0, 1, 2]), found([7, 8], covers=covers)]))
    assert fused[1] == pytest.approx(1 / 62)  # none of its neighbours with words matches


# ------------------------------------------------------------------------------------------------------------- scores


def test_scores_are_brought_to_one_scale_and_weighted() -> None:
    vectors, words = found([0, 1, 2], [0.9, 0.5, 0.1]), found([2, 0], [8.0, 2.0], [True] * 3)
    fused = weighted_fusion([vectors, words], weights=(0.75, 0.25))
    assert as_dict(fused) == pytest.approx({0: 0.75 + 0.25 * 0.25, 1: 0.75 * 0.5, 2: 0.25})


def test_a_single_score_is_the_best_there_is() -> None:
    assert as_dict(weighted_fusion([found([5], [0.2])], weights=(2,))) == {5: 2.0}
    assert as_dict(weighted_fusion([found([5, 6], [0.2, 0.2])], weights=(1,))) == {5: 1.0, 6: 1.0}


@pytest.mark.parametrize("right", [0, 1])
def test_the_learned_weight_trusts_the_search_that_is_right(right: int) -> None:
    generator = np.random.default_rng(3)
    queries = []
    for _ in range(40):
        answer = int(generator.integers(30))
        good = [answer, *(row for row in generator.permutation(30).tolist() if row != answer)]
        bad = generator.permutation(30).tolist()
        first, second = (good, bad) if right == 0 else (bad, good)
        relevant = np.zeros(30, dtype=bool)
        relevant[answer] = True
        queries.append(Judged(found(first), found(second, covers=[True] * 30), relevant))
    learned = learn_weight(queries)
    assert abs(learned.weight - right) <= 0.45
    assert learned.precision[float(right)] == 1
    assert learned.precision[float(1 - right)] < 0.5
    assert learned.queries == 40
    assert set(learned.precision) == set(WEIGHTS)
    assert learned.as_dict()["weight"] == learned.weight


def test_without_a_difference_both_count_the_same() -> None:
    same = Judged(found([0, 1]), found([0, 1], covers=[True, True]), np.array([True, False]))
    assert learn_weight([same, same]) == LearnedWeight(0.5, dict.fromkeys(WEIGHTS, 1.0), 2)


def test_a_group_of_queries_counts_once() -> None:
    def judged(first: list[int], second: list[int]) -> Judged:
        return Judged(found(first), found(second, covers=[True] * 3), np.array([True, False, False]))

    for_first, for_second = judged([0, 1, 2], [1, 2, 0]), judged([2, 1, 0], [0, 1, 2])
    apart = learn_weight([for_first] * 9 + [for_second])
    together = learn_weight([for_first] * 9 + [for_second], groups=["a"] * 9 + ["b"])
    assert apart.precision[0.0] == pytest.approx((9 + 1 / 3) / 10)
    assert together.precision[0.0] == pytest.approx((1 + 1 / 3) / 2)


def test_precision_counts_relevant_items_that_were_not_found() -> None:
    relevant = np.array([True, False, True, True])
    query = Judged(found([0, 1, 2]), found([], covers=[True] * 4), relevant)
    assert learn_weight([query, query]).precision[0.0] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_items_that_nobody_looked_at_are_passed_over_after_fusing() -> None:
    """Reduced before, the searches would be worth 1 and 0 to the two items, either way, and be equal at 0.5."""
    looked_at, relevant = np.array([True, True, False, False]), np.array([False, True, False, False])
    query = Judged(
        found([0, 1, 2, 3], [1.0, 0.9, 0.1, 0.0]), found([3, 1, 0], [10.0, 9.0, 1.0], [True] * 4), relevant, looked_at
    )
    by_weight = learn_weight([query, query]).precision
    assert by_weight[0.1] == 0.5
    assert by_weight[0.15] == 1  # 0.85 * 0.1 of the one, 0.15 * 0.8 of the other
    assert query.precision(np.array([2, 3, 1, 0])) == 1
    assert query.precision(np.array([0, 3, 2, 1])) == 0.5
    assert query.precision(np.array([0, 3])) == 0


def noisy(right: float, *, queries: int, seed: int) -> list[Judged]:
    """The first search is right, and the second with a chance."""
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(queries):
        relevant = np.zeros(20, dtype=bool)
        relevant[generator.choice(20, size=3, replace=False)] = True
        scores = [
            np.where(relevant & (generator.random() < chance), 0.6, 0) + generator.random(20) for chance in (1, right)
        ]
        orders = [np.argsort(-one) for one in scores]
        first, second = (found(order.tolist(), one[order].tolist()) for order, one in zip(orders, scores, strict=True))
        made.append(Judged(first, second, relevant))
    return made


def average_precision(relevant: np.ndarray, order: Sequence[int]) -> float:
    """Slowly."""
    precisions = [
        sum(bool(relevant[row]) for row in order[: place + 1]) / (place + 1)
        for place, row in enumerate(order)
        if relevant[row]
    ]
    return sum(precisions) / int(relevant.sum())


def test_fusions_are_compared_on_groups_that_did_not_teach_the_weight() -> None:
    """Slowly: with as many groups as folds each group is left out alone."""
    queries = noisy(0.0, queries=14, seed=1)
    groups = [f"group {number % 10}" for number in range(14)]
    result = compare_fusions(queries, groups=groups, seed=5)
    names = sorted(set(groups))
    gains, values = [], []
    for name in names:
        rest = [number for number, group in enumerate(groups) if group != name]
        weight = learn_weight([queries[number] for number in rest], groups=[groups[number] for number in rest]).weight
        mine = [queries[number] for number, group in enumerate(groups) if group == name]
        learned, ranks = [], []
        for query in mine:
            both = (query.first, query.second)
            fused = weighted_fusion(both, weights=(1 - weight, weight))
            learned.append(average_precision(query.relevant, fused.rows.tolist()))
            ranks.append(average_precision(query.relevant, reciprocal_rank_fusion(both).rows.tolist()))
        values.append((np.mean(learned), np.mean(ranks)))
        gains.append(np.mean(learned) - np.mean(ranks))
    assert (result.queries, result.groups) == (14, 10)
    assert (result.precision["weight"], result.precision["ranks"]) == pytest.approx(tuple(np.mean(values, axis=0)))
    assert result.gain == pytest.approx(np.mean(gains))
    assert result.standard_error == pytest.approx(np.std(gains, ddof=1) / np.sqrt(10))
    assert result.weight == learn_weight(queries, groups=groups).weight
    alone = []
    for searches in ([query.first for query in queries], [query.second for query in queries]):
        of_group: dict[str, list[float]] = {name: [] for name in names}
        for query, one, group in zip(queries, searches, groups, strict=True):
            of_group[group].append(average_precision(query.relevant, one.rows.tolist()))
        alone.append(np.mean([np.mean(of_group[name]) for name in names]))
    assert (result.precision["first"], result.precision["second"]) == pytest.approx(tuple(alone))
    assert result.as_dict()["is_better"] is result.is_better


def test_a_weight_is_better_only_by_more_than_its_standard_error() -> None:
    worse_second = compare_fusions(noisy(0.0, queries=60, seed=2))
    assert worse_second.is_better
    assert worse_second.weight < 0.5
    assert worse_second.gain > 2 * worse_second.standard_error
    same = Judged(found([0, 1]), found([0, 1], covers=[True, True]), np.array([True, False]))
    tied = compare_fusions([same] * 5)
    assert (tied.gain, tied.standard_error, tied.is_better) == (0, 0, False)


def test_more_groups_than_folds_are_dealt_by_the_seed() -> None:
    queries = noisy(1.0, queries=24, seed=3)
    every = [compare_fusions(queries, seed=seed) for seed in (0, 0, 1)]
    assert every[0] == every[1]
    assert {one.precision["ranks"] for one in every} == {every[0].precision["ranks"]}
    assert {one.weight for one in every} == {every[0].weight}


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("rows", "scores", "covers", "text"),
    [
        ([0, 1], [1.0], None, "each row needs a score; got (2,) rows and (1,) scores"),
        ([0, 1], [1.0, 2.0], None, "scores have to be finite and fall from the first row to the last"),
        ([0, 1], [np.inf, 2.0], None, "scores have to be finite"),
        ([0, 0], [2.0, 1.0], None, "rows have to be numbers of items from 0 on, each once"),
        ([-1], [1.0], None, "rows have to be numbers of items from 0 on, each once"),
        ([3], [1.0], [True, True], "row 3 was found and `covers` knows 2 items"),
        ([0, 1], [2.0, 1.0], [True, False], "row 1 was found and is not covered"),
    ],
)
def test_what_a_search_cannot_have_found(
    rows: list[int], scores: list[float], covers: list[bool] | None, text: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Found(
            np.array(rows), np.array(scores, dtype=np.float64), None if covers is None else np.array(covers, dtype=bool)
        )


def test_fusing_asks_for_what_it_needs() -> None:
    partial = found([0], covers=[True, False])
    with pytest.raises(ValueError, match="at least one search that covers all items"):
        reciprocal_rank_fusion([partial])
    with pytest.raises(ValueError, match="at least one search that covers all items"):
        reciprocal_rank_fusion([])
    with pytest.raises(ValueError, match="2 searches need as many weights; got 1"):
        weighted_fusion([found([0]), partial], weights=[1])
    for weights in ([-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="weights have to be finite, not below 0 and not all 0"):
            reciprocal_rank_fusion([found([0]), partial], weights=weights)
    with pytest.raises(ValueError, match="the constant has to be above 0; got 0"):
        reciprocal_rank_fusion([found([0])], constant=0)


def test_learning_asks_for_queries_that_say_something() -> None:
    good = Judged(found([0]), found([], covers=[True, True]), np.array([True, False]))
    lost = Judged(found([0]), found([], covers=[True, True]), np.array([False, True]))
    with pytest.raises(LabelError, match="at least two groups; got 1"):
        learn_weight([good])
    with pytest.raises(LabelError, match="at least two groups; got 0"):
        learn_weight([])
    with pytest.raises(LabelError, match="at least two groups; got 1"):
        learn_weight([good, good], groups=["a", "a"])
    with pytest.raises(LabelError, match="at least three groups; got 2"):
        compare_fusions([good, good])
    with pytest.raises(LabelError, match="query 2 has no relevant item"):
        compare_fusions([good, good, lost])
    with pytest.raises(LabelError, match="2 queries need a group each; got 3"):
        learn_weight([good, good], groups=["a", "b", "c"])
    with pytest.raises(LabelError, match="query 1 has no relevant item among the 1 that were found"):
        learn_weight([good, lost])
