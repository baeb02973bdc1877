"""Composed queries and "more like this", on planted directions and against slow restatements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.errors import SpaceError
from chiasm.retrieval.query import compose, item_vectors, rocchio

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


# ------------------------------------------------------------------------------------------------------- item vectors


def test_five_pictures_do_not_drown_a_caption() -> None:
    vectors = np.stack([*[RED] * 5, SHOE]).astype(np.float32)
    (item,) = item_vectors(vectors, np.zeros(6, dtype=np.int64), np.array(["image"] * 5 + ["text"]))
    np.testing.assert_allclose([item @ RED, item @ SHOE], [np.sqrt(0.5)] * 2, rtol=1e-6)


@given(st.integers(0, 10_000))
def test_item_vectors_slowly(seed: int) -> None:
    generator = np.random.default_rng(seed)
    number = int(generator.integers(1, 20))
    vectors = random_units(generator, number)
    items = np.unique(generator.integers(0, 6, number), return_inverse=True)[1].ravel()
    kinds = np.array(["image", "text", "audio"])[generator.integers(0, 3, number)]
    for item, vector in enumerate(item_vectors(vectors, items, kinds)):
        means = [vectors[(items == item) & (kinds == kind)].mean(axis=0) for kind in sorted(set(kinds[items == item]))]
        np.testing.assert_allclose(vector, unit(np.sum([unit(mean) for mean in means], axis=0)), atol=1e-4)


# -------------------------------------------------------------------------------------------------------------- thumbs


@given(st.integers(0, 10_000), st.integers(0, 4), st.integers(0, 4))
def test_rocchio_slowly(seed: int, up: int, down: int) -> None:
    generator = np.random.default_rng(seed)
    query = random_units(generator, 1)[0]
    liked, disliked = random_units(generator, 4)[:up], random_units(generator, 4)[:down]
    expected = query.astype(np.float64)
    for vector in liked:
        expected = expected + vector / up
    for vector in disliked:
        expected = expected - 0.5 * vector / down
    np.testing.assert_allclose(rocchio(query, liked, disliked), unit(expected), atol=1e-5)


def test_thumbs_bring_more_of_what_was_liked() -> None:
    moved = rocchio(RED, SHOE[None], BIRD[None])
    assert moved @ SHOE > 0.5 > 0 > moved @ BIRD
    with pytest.raises(SpaceError, match="cancel the query out"):
        rocchio(RED, -RED[None], np.zeros((0, 6), np.float32))
