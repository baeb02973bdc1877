"""Composed queries and "more like this", on planted directions and against slow restatements."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.errors import SpaceError
from chiasm.retrieval.query import compose, more_like
from chiasm.types import Modality

AXES = np.eye(6, dtype=np.float32)
RED, SHOE, BOOT, BIRD, ANIMAL, BLUE = AXES


def unit(vector: np.ndarray) -> np.ndarray:
    found: np.ndarray = (vector / np.linalg.norm(vector, axis=-1, keepdims=True)).astype(np.float32)
    return found


def random_units(generator: np.random.Generator, number: int, dim: int = 8) -> np.ndarray:
    return unit(generator.standard_normal((number, dim)))


# ---------------------------------------------------------------------------------------------------------- composing


def test_one_vector_is_the_query() -> None:
    np.testing.assert_allclose(compose(SHOE[None]), SHOE)


def test_what_is_wanted_adds_up_by_weight() -> None:
    np.testing.assert_allclose(compose(np.stack([RED, SHOE])), unit(RED + SHOE), rtol=1e-6)
    np.testing.assert_allclose(compose(np.stack([RED, SHOE]), weights=(3, 1)), unit(3 * RED + SHOE), rtol=1e-6)


def test_what_is_not_wanted_is_taken_away_and_nothing_else() -> None:
    animals = unit(ANIMAL + BIRD)
    np.testing.assert_allclose(compose(animals[None], minus=BIRD[None]), ANIMAL, atol=1e-6)
    # A red shoe has nothing of a bird: the query stays, where subtracting would turn it away from birds.
    shoes = unit(RED + SHOE)
    np.testing.assert_allclose(compose(shoes[None], minus=BIRD[None]), shoes, rtol=1e-6)
    away = unit(SHOE - 0.5 * BIRD)
    np.testing.assert_allclose(compose(away[None], minus=BIRD[None]), away, rtol=1e-6)


def test_several_that_are_not_wanted() -> None:
    query = unit(RED + SHOE + BOOT + 0.2 * BLUE)
    minus = np.stack([unit(BOOT + 0.1 * RED), BLUE])
    found = compose(query[None], minus=minus)
    assert (minus @ found <= 1e-6).all()
    assert found @ SHOE > 0.6
    assert found @ RED > 0.6


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_result_is_the_nearest_that_points_to_nothing_unwanted(seed: int, number: int) -> None:
    """By Moreau: what is taken is a sum of unwanted directions with weights of at least 0, at right angles to the rest."""
    generator = np.random.default_rng(seed)
    query, minus = random_units(generator, 1)[0], random_units(generator, number)
    found = compose(query[None], minus=minus)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    assert (minus @ found <= 1e-5).all()
    kept = float(query @ found)  # the length before it was brought to 1
    taken = query - kept * found
    assert float(taken @ found) == pytest.approx(0, abs=1e-5)
    shares, *_ = np.linalg.lstsq(minus.T, taken, rcond=None)
    if number == 1:
        assert shares[0] >= -1e-5
    others = random_units(generator, 200)
    allowed = others[(others @ minus.T <= 0).all(axis=1)]
    assert (allowed @ query <= kept + 1e-5).all()


def test_what_cancels_out_is_refused() -> None:
    with pytest.raises(SpaceError, match="the parts of the query cancel out"):
        compose(np.stack([RED, -RED]))
    with pytest.raises(SpaceError, match="nothing is left of the query: what is wanted and what is not wanted are the"):
        compose(RED[None], minus=RED[None])
    with pytest.raises(SpaceError, match="nothing is left of the query"):
        compose(unit(RED + BLUE)[None], minus=np.stack([RED, BLUE]))
    with pytest.raises(SpaceError, match=r"the query says only what is not wanted\. Add what is"):
        compose(np.zeros((0, 6), np.float32), minus=RED[None])


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match="1 vectors need as many weights; got 2"):
        compose(RED[None], weights=(1, 2))
    for weights in ([0.0, 1.0], [-1.0, 2.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match=r"above 0; .* What is not wanted goes into `minus`"):
            compose(np.stack([RED, SHOE]), weights=weights)


# ------------------------------------------------------------------------------------------------------ more like this


def test_the_most_like_items_by_all_that_they_have() -> None:
    # "same" has the like picture and the like caption; "picture" only the picture, and its caption is of another thing.
    vectors = np.stack(
        [RED, SHOE, unit(RED + 0.1 * BLUE), BIRD, unit(RED + 0.3 * BLUE), unit(SHOE + 0.3 * BLUE), BLUE]
    ).astype(np.float32)
    owners = ["own", "own", "picture", "picture", "same", "same", "other"]
    modalities: list[Modality] = ["image", "text", "image", "text", "image", "text", "image"]
    ranking = more_like(vectors, owners, modalities, item="own", k=5)
    assert [owners[row] for row in ranking.rows[0] if row >= 0] == ["same", "picture", "other"]
    assert ranking.rows[0].tolist() == [4, 2, 6, -1, -1]
    assert ranking.scores[0, 3] == -np.inf


def test_five_pictures_do_not_drown_a_caption() -> None:
    vectors = np.stack([*[RED] * 5, SHOE, RED, SHOE]).astype(np.float32)
    owners = ["own"] * 6 + ["red", "shoe"]
    modalities: list[Modality] = [*["image"] * 5, "text", "image", "text"]  # type: ignore[list-item]
    ranking = more_like(vectors, owners, modalities, item="own", k=2)
    np.testing.assert_allclose(ranking.scores[0], [np.sqrt(0.5)] * 2, rtol=1e-6)


def test_only_rows_among_which_are_found_and_judged_by() -> None:
    vectors = np.stack([RED, RED, BLUE, unit(RED + BLUE)]).astype(np.float32)
    owners = ["own", "a", "a", "b"]
    modalities: list[Modality] = ["image", "image", "text", "image"]
    everything = more_like(vectors, owners, modalities, item="own", k=2)
    np.testing.assert_allclose(everything.scores[0], [np.sqrt(0.5)] * 2, rtol=1e-6)
    pictures = more_like(vectors, owners, modalities, item="own", k=2, among=np.array([True, True, False, True]))
    assert pictures.rows[0].tolist() == [1, 3]
    nothing = more_like(vectors, owners, modalities, item="own", k=2, among=np.zeros(4, dtype=bool))
    assert nothing.rows[0].tolist() == [-1, -1]


@given(st.integers(0, 10_000))
def test_more_like_this_slowly(seed: int) -> None:
    generator = np.random.default_rng(seed)
    number = int(generator.integers(2, 20))
    vectors = random_units(generator, number)
    owners = [f"i{code}" for code in generator.integers(0, 6, number)]
    kinds: list[Modality] = [("image", "text", "audio")[code] for code in generator.integers(0, 3, number)]

    def whole(item: str) -> np.ndarray:
        parts = []
        for kind in sorted(set(kinds)):
            rows = [v for v, o, m in zip(vectors, owners, kinds, strict=True) if (o, m) == (item, kind)]
            if rows:
                parts.append(unit(np.mean(rows, axis=0)))
        return unit(np.sum(parts, axis=0))

    own = owners[0]
    expected = {item: float(whole(item) @ whole(own)) for item in set(owners) - {own}}
    ranking = more_like(vectors, owners, kinds, item=own, k=6)
    rows = [int(row) for row in ranking.rows[0] if row >= 0]
    assert {owners[row] for row in rows} == set(expected)
    for row, score in zip(rows, ranking.scores[0], strict=False):
        assert score == pytest.approx(expected[owners[row]], abs=1e-4)
        siblings = [v @ whole(own) for v, o in zip(vectors, owners, strict=True) if o == owners[row]]
        assert vectors[row] @ whole(own) == pytest.approx(max(siblings), abs=1e-5)


def test_an_item_without_vectors_is_refused() -> None:
    text = "the item 'x' has no vector to search with: none of its files could be embedded"
    with pytest.raises(SpaceError, match=re.escape(text)):
        more_like(AXES, list("abcdef"), ["image"] * 6, item="x", k=1)
    with pytest.raises(ValueError, match="6 vectors need as many owners and modalities; got 1 and 6"):
        more_like(AXES, ["a"], ["image"] * 6, item="a", k=1)
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        more_like(AXES, list("abcdef"), ["image"] * 6, item="a", k=0)
