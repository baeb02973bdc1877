"""Thumbs: both ways against their definitions, and that the next page is better on planted categories."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from chiasm.errors import SpaceError
from chiasm.retrieval.relevance_feedback import FeedbackName, Logistic, Rocchio, improved_query, logistic, rocchio

DIM = 6
NONE = np.zeros((0, DIM), np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    found: np.ndarray = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return found


def thumbs(seed: int, liked: int, disliked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    vectors = unit(generator.standard_normal((1 + liked + disliked, DIM)))
    return vectors[0], vectors[1 : 1 + liked], vectors[1 + liked :]


@given(st.integers(0, 10_000), st.integers(0, 4), st.integers(0, 4))
def test_rocchio_is_the_weighted_sum(seed: int, liked: int, disliked: int) -> None:
    query, up, down = thumbs(seed, liked, disliked)
    expected = 0.8 * query
    for vector in up:
        expected = expected + 1.2 / liked * vector
    for vector in down:
        expected = expected - 0.4 / disliked * vector
    found = rocchio(query, up, down, weights=Rocchio(query=0.8, liked=1.2, disliked=0.4))
    np.testing.assert_allclose(found, unit(expected), atol=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_logistic_is_the_minimum_of_its_loss(seed: int, liked: int, disliked: int) -> None:
    query, up, down = thumbs(seed, liked, disliked)
    options = Logistic(scale=4.0, strength=0.7)

    def loss(parameters: np.ndarray) -> float:
        w, b = parameters[:-1], parameters[-1]
        value = options.strength / 2 * float(((w - query) ** 2).sum())
        for rows, sign in ((up, 1), (down, -1)):
            value += float(np.logaddexp(0, -sign * (options.scale * (rows @ w) + b)).sum())
        return value

    best = minimize(loss, np.append(query, 0.0), method="BFGS", options={"gtol": 1e-7})
    found = logistic(query, up, down, options=options)
    assert float(found @ unit(best.x[:-1])) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("strength", [1e-3, 1e6])
def test_strength_holds_to_the_query(strength: float) -> None:
    query, up, down = thumbs(1, 3, 3)
    found = logistic(query, up, down, options=Logistic(strength=strength))
    assert (float(found @ query) > 0.9999) == (strength > 1)
    assert np.isfinite(found).all()


def test_thumbs_that_cannot_be_told_apart_leave_the_query() -> None:
    query, up, _ = thumbs(2, 1, 0)
    np.testing.assert_allclose(logistic(query, up, up), query, atol=1e-5)


def test_one_kind_of_thumbs_goes_by_rocchio() -> None:
    query, up, down = thumbs(3, 2, 2)
    np.testing.assert_array_equal(logistic(query, up, NONE), rocchio(query, up, NONE))
    np.testing.assert_array_equal(logistic(query, NONE, down), rocchio(query, NONE, down))
    np.testing.assert_allclose(improved_query(query, NONE, NONE), query, atol=1e-6)


def test_the_name_chooses_the_way() -> None:
    query, up, down = thumbs(4, 2, 2)
    np.testing.assert_array_equal(improved_query(query, up, down), rocchio(query, up, down))
    np.testing.assert_array_equal(improved_query(query, up, down, method="logistic"), logistic(query, up, down))
    assert not np.allclose(rocchio(query, up, down), logistic(query, up, down))


@pytest.mark.parametrize("method", ["rocchio", "logistic"])
def test_the_next_page_is_better(method: FeedbackName) -> None:
    """Planted: ten categories, queries that point only roughly at theirs, five thumbs on the first page."""
    generator = np.random.default_rng(5)
    centres = unit(generator.standard_normal((10, 32)))
    category = np.repeat(np.arange(10), 40)
    gallery = unit(centres[category] + 0.3 * generator.standard_normal((400, 32)))
    before: list[float] = []
    after: list[float] = []
    for number in range(10):
        for _ in range(5):
            query = unit(centres[number] + 0.35 * generator.standard_normal(32))
            page = np.argsort(-(gallery @ query), kind="stable")[:10]
            rated = generator.choice(page, 5, replace=False)
            good = category[rated] == number
            better = improved_query(query, gallery[rated[good]], gallery[rated[~good]], method=method)
            for scores, results in ((gallery @ query, before), (gallery @ better, after)):
                scores[rated] = -np.inf
                results.append(float((category[np.argsort(-scores, kind="stable")[:10]] == number).mean()))
    assert np.mean(after) > np.mean(before) + 0.1


def test_thumbs_that_cancel_the_query_out_are_refused() -> None:
    query, _, _ = thumbs(6, 0, 0)
    with pytest.raises(SpaceError, match="the thumbs cancel the query out: nothing is left to search with"):
        rocchio(query, NONE, query[None], weights=Rocchio(disliked=1.0))
