"""Numbers about a space agree with their definitions written out, and show what was planted."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew

from chiasm.errors import LabelError
from chiasm.evaluation import geometry
from chiasm.evaluation.geometry import alignment, hubness, modality_gap, pair_geometry, uniformity


def sample(seed: int, rows: int, dim: int = 8, shift: float = 0.0) -> np.ndarray:
    x: np.ndarray = np.random.default_rng(seed).normal(size=(rows, dim))
    x[:, 0] += shift
    return x


def unit(x: np.ndarray) -> np.ndarray:
    rows: np.ndarray = x / np.linalg.norm(x, axis=1, keepdims=True)
    return rows


# ----------------------------------------------------------------------------------------------------------------- gap


def test_the_gap_is_the_distance_of_the_centres() -> None:
    x, y = sample(0, 30), sample(1, 21, shift=2.0)
    expected = np.linalg.norm(unit(x).sum(axis=0) / 30 - unit(y).sum(axis=0) / 21)
    assert modality_gap(x, y).distance == pytest.approx(expected)
    assert modality_gap(x, 5 * x).distance == pytest.approx(0, abs=1e-12)


def test_separability_is_judged_on_rows_that_gave_no_centre() -> None:
    x, y = sample(0, 9), sample(1, 6, shift=1.0)
    right = {0: 0.0, 1: 0.0}
    for first in (0, 1):
        centres = [unit(side)[1 - first :: 2].mean(axis=0) for side in (x, y)]
        for which, side in enumerate((x, y)):
            for row in unit(side)[first::2]:
                along = [abs((row - centre) @ (centres[0] - centres[1])) for centre in centres]
                right[which] += along[which] < along[1 - which]
    assert modality_gap(x, y).separability == pytest.approx((right[0] / 9 + right[1] / 6) / 2)


def test_modalities_apart_are_told_apart_and_one_cloud_is_not() -> None:
    assert modality_gap(sample(0, 200, shift=6.0), sample(1, 200, shift=-6.0)).separability == 1
    # In 384 dimensions, centres of these very rows would tell 40 from 40 without a mistake.
    assert abs(modality_gap(sample(2, 40, dim=384), sample(3, 40, dim=384)).separability - 0.5) < 0.2
    same = sample(4, 30)
    assert modality_gap(same, same).separability == 0.5


# -------------------------------------------------------------------------------------------------------------- hubness


@pytest.mark.parametrize("block", [2**22, 40])
def test_hubness_agrees_with_counting(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK", block)
    queries, gallery = sample(0, 50), sample(1, 20)
    counts = [0] * 20
    for query in unit(queries):
        for j in sorted(range(20), key=lambda j: -float(query @ unit(gallery)[j]))[:3]:
            counts[j] += 1
    found = hubness(queries, gallery, k=3)
    assert found.counts.tolist() == counts
    assert found.skewness == pytest.approx(skew(counts))
    assert found.never == counts.count(0) / 20
    assert found.largest == max(counts) / 50


def test_a_planted_hub_is_found() -> None:
    """A row at the mean of all queries is near to each of them."""
    queries, gallery = sample(0, 200, dim=64, shift=4.0), sample(1, 100, dim=64, shift=0.0)
    gallery[17] = queries.mean(axis=0)
    found = hubness(queries, gallery, k=5)
    assert found.counts.argmax() == 17
    assert found.largest > 0.95
    assert found.skewness > hubness(queries, np.delete(gallery, 17, axis=0), k=5).skewness + 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_copies_share_their_places(dtype: type) -> None:
    one: np.ndarray = sample(0, 1, dim=384).astype(dtype)
    found = hubness(sample(1, 70, dim=384).astype(dtype), np.tile(one, (50, 1)), k=10)
    assert found.counts == pytest.approx(np.full(50, 14.0))
    assert (found.skewness, found.never) == (0, 0)
    assert found.largest == pytest.approx(0.2)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 12), gallery=st.integers(2, 12), copies=st.integers(1, 3))
def test_every_query_gives_k_places(seed: int, queries: int, gallery: int, copies: int) -> None:
    x, y = sample(seed, queries), np.repeat(sample(seed + 1, gallery), copies, axis=0)
    k = 1 + seed % (len(y) - 1)
    found = hubness(x, y, k=k)
    assert found.counts.sum() == pytest.approx(k * queries)
    assert (found.counts <= queries + 1e-9).all()


# ---------------------------------------------------------------------------------------------- alignment and uniformity


def test_alignment_by_hand() -> None:
    x, y = sample(0, 12), sample(1, 12)
    distances = [math.dist(a, b) for a, b in zip(unit(x), unit(y), strict=True)]
    assert alignment(x, y) == pytest.approx(np.mean(np.square(distances)))
    assert alignment(x, y) == pytest.approx(2 - 2 * np.mean(np.sum(unit(x) * unit(y), axis=1)))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)


@pytest.mark.parametrize("block", [2**22, 50, 1])
def test_uniformity_by_hand(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK", block)
    x = sample(0, 17)
    expected = math.log(np.mean([math.exp(-2 * math.dist(a, b) ** 2) for a, b in combinations(unit(x), 2)]))
    assert uniformity(x) == pytest.approx(expected)


def test_uniformity_is_least_where_the_sphere_is_filled() -> None:
    assert uniformity(np.ones((20, 4), np.float32)) == pytest.approx(0, abs=1e-5)
    spread, narrow = sample(0, 300, dim=256), sample(0, 300, dim=256, shift=40.0)
    assert uniformity(spread) == pytest.approx(-4, abs=0.1)
    assert uniformity(spread) < uniformity(narrow) - 1
    assert math.isfinite(uniformity(np.array([[1.0, 0], [-1, 0]], np.float32)))


def test_no_matrix_of_all_by_all_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK", 2**14)
    x, y = (sample(seed, 4000, dim=4).astype(np.float32) for seed in (0, 1))
    tracemalloc.start()
    pair_geometry(x, y, names=("text", "image"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 4000 * 4 / 20


# -------------------------------------------------------------------------------------------------------------- together


def test_all_of_a_pair_of_modalities() -> None:
    x, y = sample(0, 40), sample(1, 40, shift=3.0)
    found = pair_geometry(x, y, names=("text", "image"), k=5)
    assert found.gap.as_dict() == pytest.approx(modality_gap(x, y).as_dict())
    assert found.alignment == pytest.approx(alignment(x, y))
    assert found.uniformity == pytest.approx({"text": uniformity(x), "image": uniformity(y)})
    assert found.hubness["text_to_image"].counts.tolist() == hubness(x, y, k=5).counts.tolist()
    assert found.hubness["image_to_text"].as_dict() == pytest.approx(hubness(y, x, k=5).as_dict())
    json.dumps(found.as_dict())


X = np.ones((5, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: modality_gap(X, np.ones((5, 4))), "widths of 3 and 4"),
        (lambda: modality_gap(X, np.ones(5)), "must be a matrix"),
        (lambda: modality_gap(X, X[:1]), "at least 2 embeddings per modality"),
        (lambda: modality_gap(X, X * [[1], [0], [1], [0], [1]]), "2 of 5 embeddings .* no direction, first row 1"),
        (lambda: uniformity(np.array([[1.0, np.nan], [1, 1]])), "NaN or infinite"),
        (lambda: hubness(X, X, k=5), "below the size of the gallery, 5; got 5"),
        (lambda: hubness(X, X, k=0), "at least 1 and below"),
        (lambda: hubness(X[:0], X, k=1), "at least 1 embeddings"),
        (lambda: alignment(X, X[:4]), "one row on each side"),
        (lambda: pair_geometry(X, X, names=("text", "text")), "two modalities; got 'text' twice"),
    ],
)
def test_spaces_that_cannot_be_measured_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        call()
