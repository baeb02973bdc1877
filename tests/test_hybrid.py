"""Rankings made into one: by places and by scores, with items that one of the searches could not have found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.retrieval.hybrid import CONSTANT, Fused, RankedList, reciprocal_rank_fusion


def ranked(
    rows: Sequence[int], scores: Sequence[float] | None = None, covers: Sequence[bool] | None = None
) -> RankedList:
    falling = np.arange(len(rows), 0, -1) if scores is None else scores
    return RankedList(
        np.array(rows, dtype=np.int64),
        np.array(falling, dtype=np.float64),
        None if covers is None else np.array(covers, dtype=bool),
    )


def as_dict(fused: Fused) -> dict[int, float]:
    return dict(zip(fused.rows.tolist(), fused.scores.tolist(), strict=True))


@st.composite
def two_searches(draw: st.DrawFn) -> tuple[RankedList, RankedList]:
    """A search that found all items and one that found some of those that it covers; scores with ties."""
    count = draw(st.integers(1, 12))
    covers = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    order = draw(st.permutations(range(count)))
    some = [row for row in draw(st.permutations(range(count))) if covers[row]]
    some = some[: draw(st.integers(0, len(some)))]
    scores = st.sampled_from([0.5, 1.0, 2.0, 3.0])
    first = sorted(draw(st.lists(scores, min_size=count, max_size=count)), reverse=True)
    second = sorted(draw(st.lists(scores, min_size=len(some), max_size=len(some))), reverse=True)
    return ranked(order, first), ranked(some, second, covers)


# --------------------------------------------------------------------------------------------------- reciprocal ranks


def test_reciprocal_ranks_add_up_as_in_the_paper() -> None:
    fused = reciprocal_rank_fusion([ranked([0, 1, 2]), ranked([2, 3])])
    expected = {0: 1 / 61, 1: 1 / 62, 2: 1 / 63 + 1 / 61, 3: 1 / 62}
    assert as_dict(fused) == pytest.approx(expected)
    assert fused.rows.tolist() == [2, 0, 1, 3]  # 1 and 3 are worth the same; the first search has 1 earlier


def test_the_constant_decides_how_much_a_place_is_worth() -> None:
    fused = reciprocal_rank_fusion([ranked([0, 1]), ranked([1, 0])], constant=1)
    assert as_dict(fused) == pytest.approx({0: 1 / 2 + 1 / 3, 1: 1 / 3 + 1 / 2})


def test_equal_scores_share_what_their_places_are_worth() -> None:
    fused = reciprocal_rank_fusion([ranked([4, 2, 7], [5, 5, 1])])
    shared = (1 / (CONSTANT + 1) + 1 / (CONSTANT + 2)) / 2
    assert as_dict(fused) == pytest.approx({4: shared, 2: shared, 7: 1 / (CONSTANT + 3)})
    assert fused.rows.tolist() == [4, 2, 7]


def test_one_search_keeps_its_order_and_an_empty_one_changes_nothing() -> None:
    alone = reciprocal_rank_fusion([ranked([3, 1, 2])])
    assert alone.rows.tolist() == [3, 1, 2]
    with_empty = reciprocal_rank_fusion([ranked([3, 1, 2]), ranked([], covers=[True] * 4)])
    np.testing.assert_array_equal(with_empty.scores, alone.scores)
    nothing = reciprocal_rank_fusion([ranked([]), ranked([])])
    assert nothing.rows.tolist() == []


# ------------------------------------------------------------------------------------------- items that have no words


def test_an_item_without_words_stands_between_neighbours_that_match_and_that_do_not() -> None:
    # Vectors have found 0..9 in this order. All but 4 have words; every second of these matches, wherever it stands.
    vectors = ranked(range(10))
    covers = [row != 4 for row in range(10)]
    fused = reciprocal_rank_fusion([vectors, ranked([1, 3, 5, 7, 9], [1] * 5, covers)])
    place = {row: number for number, row in enumerate(fused.rows.tolist())}
    assert place[3] < place[4] < place[6]
    assert place[5] < place[4]
    assert place[4] < place[0]  # which has words, and none of the query's
    # As a sum the item would be last of all; judged by vectors alone, twice, it would be first.
    as_sum = reciprocal_rank_fusion([vectors, ranked([1, 3, 5, 7, 9], [1] * 5)]).rows.tolist()
    assert as_sum.index(4) > place[4]


def test_no_match_leaves_the_order_of_the_vectors() -> None:
    fused = reciprocal_rank_fusion([ranked([2, 0, 1]), ranked([], covers=[True, False, True])])
    assert fused.rows.tolist() == [2, 0, 1]


def test_items_without_words_keep_their_share_of_the_first_page() -> None:
    """Planted: words match by chance, whatever the vectors say, so that nobody deserves to be pushed off the page."""
    generator = np.random.default_rng(7)
    shares = {"vectors": [], "sum": [], "expected": [], "mean": []}  # type: dict[str, list[float]]
    for _ in range(200):
        covers = generator.random(300) < 0.5
        vectors = ranked(generator.permutation(300).tolist())
        matching = np.flatnonzero(covers & (generator.random(300) < 0.1))
        matching = generator.permutation(matching)
        words = ranked(matching.tolist(), covers=covers.tolist())
        orders = {
            "vectors": vectors.rows,
            "sum": reciprocal_rank_fusion([vectors, ranked(matching.tolist())]).rows,
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
def test_the_order_among_items_without_words_is_that_of_the_vectors(searches: tuple[RankedList, RankedList]) -> None:
    vectors, words = searches
    assert words.covers is not None
    fused = reciprocal_rank_fusion(searches)
    assert sorted(fused.rows.tolist()) == sorted(vectors.rows.tolist())
    assert (np.diff(fused.scores) <= 0).all()
    without = [row for row in fused.rows.tolist() if not words.covers[row]]
    assert without == [row for row in vectors.rows.tolist() if not words.covers[row]]


@given(two_searches())
def test_what_is_expected_is_the_best_rising_fit(searches: tuple[RankedList, RankedList]) -> None:
    """Slowly: of n known values the fit at i is the largest over starts of the smallest mean over ends (min-max)."""
    vectors, words = searches
    assert words.covers is not None
    both = as_dict(reciprocal_rank_fusion(searches))
    alone = as_dict(reciprocal_rank_fusion([vectors]))
    gain = as_dict(reciprocal_rank_fusion([ranked(vectors.rows.tolist(), [0.0] * len(vectors.rows)), words]))
    flat = as_dict(reciprocal_rank_fusion([ranked(vectors.rows.tolist(), [0.0] * len(vectors.rows))]))
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
    fused = as_dict(reciprocal_rank_fusion([ranked([0, 1, 2]), ranked([7, 8], covers=covers)]))
    assert fused[1] == pytest.approx(1 / 62)  # none of its neighbours with words matches


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("rows", "scores", "covers", "term"),
    [
        ([0, 1], [1.0], None, "each row needs a score"),
        ([0, 1], [1.0, 2.0], None, "fall"),
        ([0, 1], [1.0, float("nan")], None, "finite"),
        ([0, 0], [2.0, 1.0], None, "once"),
        ([-1], [1.0], None, "from 0 on"),
        ([2], [1.0], [True], "knows 1 items"),
        ([0], [1.0], [False], "not covered"),
    ],
)
def test_a_ranking_that_cannot_be(rows: list[int], scores: list[float], covers: list[bool] | None, term: str) -> None:
    with pytest.raises(ValueError, match=term):
        ranked(rows, scores, covers)


def test_fusing_takes_a_complete_search_and_a_constant_above_zero() -> None:
    for searches in ([], [ranked([0], covers=[True])]):
        with pytest.raises(ValueError, match="at least one search"):
            reciprocal_rank_fusion(searches)
    with pytest.raises(ValueError, match="above 0"):
        reciprocal_rank_fusion([ranked([0])], constant=0)
