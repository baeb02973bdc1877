"""Maximal marginal relevance, against the definition and on planted duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.retrieval.diversity import diversify


def units(generator: np.random.Generator, number: int) -> np.ndarray:
    vectors = generator.standard_normal((number, 4)).astype(np.float32)
    found: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return found


@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0]))
def test_each_is_the_best_of_those_that_are_left(seed: int, k: int, relevance: float) -> None:
    generator = np.random.default_rng(seed)
    number = int(generator.integers(1, 10))
    vectors = units(generator, number)
    scores = np.sort(generator.random(number))[::-1].copy()
    chosen = diversify(vectors, scores, k=k, relevance=relevance).tolist()
    assert len(chosen) == min(k, number) == len(set(chosen))
    assert chosen[0] == 0
    spread = scores[0] - scores[-1]
    scaled = (scores - scores[-1]) / (spread if spread > 0 else 1)

    def value(place: int, before: list[int]) -> float:
        alike = max(float(vectors[place] @ vectors[other]) for other in before)
        return relevance * float(scaled[place]) - (1 - relevance) * alike

    for step in range(1, len(chosen)):
        left = [place for place in range(number) if place not in chosen[:step]]
        best = max(value(place, chosen[:step]) for place in left)
        assert value(chosen[step], chosen[:step]) == pytest.approx(best, abs=1e-6)


def test_all_relevance_is_the_plain_order_also_among_nearly_equal_scores() -> None:
    vectors = units(np.random.default_rng(0), 50)
    scores = np.linspace(1, 1 - 1e-14, 50)
    assert diversify(vectors, scores, k=20, relevance=1).tolist() == list(range(20))


def test_duplicates_wait_until_everything_else_was_shown() -> None:
    axes = np.eye(4, dtype=np.float32)
    vectors = np.stack([axes[0], axes[0], axes[0], axes[1], axes[2]])
    scores = np.array([1.0, 0.99, 0.98, 0.6, 0.5])
    assert diversify(vectors, scores, k=5, relevance=0.5).tolist() == [0, 3, 4, 1, 2]


def test_the_scale_of_scores_does_not_matter() -> None:
    generator = np.random.default_rng(1)
    vectors, scores = units(generator, 30), np.sort(generator.random(30))[::-1].copy()
    plain = diversify(vectors, scores, k=10, relevance=0.6)
    assert diversify(vectors, scores / 64 + 3, k=10, relevance=0.6).tolist() == plain.tolist()


def test_of_equal_values_the_earlier_is_chosen() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert diversify(vectors, np.ones(4), k=4, relevance=0.5).tolist() == [0, 1, 2, 3]


def test_no_candidates_give_none() -> None:
    assert diversify(np.zeros((0, 4), np.float32), np.zeros(0), k=3, relevance=0.5).tolist() == []


def test_what_is_asked_for_is_checked() -> None:
    vectors = np.eye(2, dtype=np.float32)
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        diversify(vectors, np.array([2.0, 1.0]), k=0, relevance=0.5)
    for relevance in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"relevance has to be from 0 .* to 1 .*; got"):
            diversify(vectors, np.array([2.0, 1.0]), k=1, relevance=relevance)
    for scores in ([1.0, 2.0], [np.inf, 1.0]):
        with pytest.raises(ValueError, match="scores have to be finite and fall"):
            diversify(vectors, np.array(scores), k=1, relevance=0.5)
