"""Shorter vectors: what they keep, against the slow way."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.errors import ChiasmError
from chiasm.retrieval.shortening import directions, kept_by


def planted(rows: int = 60) -> np.ndarray:
    """Vectors of 16 numbers that lie in three dimensions but for little noise."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(rows, 3)) @ rng.normal(size=(3, 16)) + 0.01 * rng.normal(size=(rows, 16))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_products_are_kept_as_well_as_they_can_be() -> None:
    vectors = planted()
    basis = directions(vectors, 3)
    assert basis.T @ basis == pytest.approx(np.eye(3), abs=1e-5)
    assert (vectors @ basis) @ (vectors @ basis).T == pytest.approx(vectors @ vectors.T, abs=0.02)
    best = np.linalg.svd(vectors, full_matrices=False)
    least = np.linalg.norm(best.S[3:])  # Eckart and Young
    assert np.linalg.norm(vectors - vectors @ basis @ basis.T) == pytest.approx(least, rel=1e-3)


def test_what_a_search_still_finds_is_counted() -> None:
    vectors, items = planted(), np.arange(60) // 2
    modalities = np.array(["image", "text"] * 30)
    short = vectors @ directions(vectors, 2)
    kept = kept_by(vectors, short, items.astype(str), modalities)
    same, hits = [], []
    for row in range(60):
        others = [other for other in range(60) if items[other] != items[row]]
        full, less = (sorted(others, key=lambda other: -float(one[row] @ one[other]))[:10] for one in (vectors, short))
        same.append(len({*full} & {*less}) / 10)
        others = [other for other in range(60) if modalities[other] != modalities[row]]
        hits.append([
            any(items[other] == items[row] for other in sorted(others, key=lambda other: -float(one[row] @ one[other]))[:10])
            for one in (vectors, short)
        ])  # fmt: skip
    assert kept.recall == pytest.approx(np.mean(same))
    assert kept.hits == pytest.approx(np.mean(hits, axis=0))
    assert kept_by(vectors, vectors, items.astype(str), np.array(["image"] * 60)).hits is None
    assert kept_by(vectors[:2], short[:2], items[:2].astype(str), modalities[:2]).recall == 1


@pytest.mark.parametrize("number", [0, -1, 17])
def test_more_dimensions_than_there_are(number: int) -> None:
    with pytest.raises(ChiasmError, match="16 dimensions"):
        directions(planted(), number)
