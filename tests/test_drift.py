"""Drift: the estimate the slow way, how often there is an alarm without drift, and what is report where there is."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from jaxtyping import Float

from chiasm.errors import LabelError
from chiasm.evaluation.drift import FEWEST, MODERATE, STRONG, bandwidth, drift, population_stability


def embeddings(
    rows: int, seed: int, *, dim: int = 48, mean: float = 0.0, spread: float = 1.0
) -> Float[np.ndarray, "r d"]:
    """Directions of falling variance, as embeddings have; the mean moves and the spread grows along the first."""
    scale = np.exp(-np.arange(dim) / 10)
    report = np.random.default_rng(seed).normal(size=(rows, dim)) * scale
    report[:, 0] = report[:, 0] * spread + mean
    return report.astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- MMD


def slow_mmd2(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], width: float) -> float:
    """Gretton et al. 2012, equation 3, as it stands there."""

    def k(a: Float[np.ndarray, " d"], b: Float[np.ndarray, " d"]) -> float:
        return math.exp(-sum((float(p) - float(q)) ** 2 for p, q in zip(a, b, strict=True)) / (2 * width**2))

    n, m = len(x), len(y)
    return (
        sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        + sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        - 2 * sum(k(a, b) for a in x for b in y) / (n * m)
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_the_slow_way(seed: int) -> None:
    x, y = embeddings(20 + seed, seed, dim=4), embeddings(25, seed + 1, dim=4, mean=1)
    report = drift(x, y)
    assert report.mmd2 == pytest.approx(slow_mmd2(x, y, report.bandwidth), abs=1e-6)
    assert report.mmd2 == pytest.approx(drift(y, x).mmd2, abs=1e-9)


def test_the_estimate_has_no_bias_and_the_bandwidth_is_the_median() -> None:
    values = [drift(embeddings(25, seed), embeddings(20, 1000 + seed), permutations=99).mmd2 for seed in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))  # also below 0
    assert min(values) < 0
    x, y = embeddings(10, 0), embeddings(7, 1)
    every = np.concatenate([x, y]).astype(np.float64)
    distances = [np.linalg.norm(every[i] - every[j]) for i in range(17) for j in range(i)]
    assert bandwidth(x, y) == pytest.approx(np.median(distances))
    assert bandwidth(np.ones((3, 2)), np.ones((3, 2))) == 1.0


# --------------------------------------------------------------------------------------------------------------- PSI


def test_psi_the_slow_way() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=300), rng.normal(0.8, 1.3, size=200)
    edges = [-math.inf, *np.quantile(p, [0.25, 0.5, 0.75]), math.inf]
    expected = -3 * (1 / 300 + 1 / 200)
    for low, high in itertools.pairwise(edges):
        a = (sum(low < value <= high for value in p) + 0.5) / (300 + 2)
        b = (sum(low < value <= high for value in q) + 0.5) / (200 + 2)
        expected += (b - a) * math.log(b / a)
    assert population_stability(p, q, bins=4) == pytest.approx(expected)


def test_psi_of_the_same_distribution_is_small_also_of_few_rows() -> None:
    rng = np.random.default_rng(0)
    for n, m in ((2000, 2000), (500, 60)):
        values = [population_stability(rng.normal(size=n), rng.normal(size=m), bins=5) for _ in range(200)]
        assert np.mean(values) < 0.05
        assert np.mean(np.array(values) >= MODERATE) < 0.1


def test_psi_thresholds_and_ends() -> None:
    rng = np.random.default_rng(0)
    same = rng.normal(size=5000)
    assert MODERATE < population_stability(same, rng.normal(0.4, 1, size=5000)) < STRONG
    assert population_stability(same, rng.normal(1, 1, size=5000)) > STRONG
    assert math.isfinite(population_stability(same, np.full(100, 1e6)))  # no row in most bins
    assert population_stability(np.ones(50), np.ones(50)) == 0


# -------------------------------------------------------------------------------------------------------------- drift


@pytest.mark.parametrize(("n", "m"), [(120, 120), (150, 30)])
def test_false_alarms_are_as_rare_as_stated(n: int, m: int) -> None:
    level, runs = 0.1, 300
    alarms, warnings = 0, 0
    for seed in range(runs):
        report = drift(embeddings(n, seed), embeddings(m, 10_000 + seed), level=level, permutations=99, seed=seed)
        alarms += report.p_value <= level
        warnings += report.warning("image") is not None
    error = math.sqrt(level * (1 - level) / runs)
    assert abs(alarms / runs - level) < 3.5 * error  # neither more often nor a test that never finds anything
    assert warnings <= alarms


@pytest.mark.parametrize("seed", range(5))
def test_a_mean_that_moved_is_found(seed: int) -> None:
    report = drift(embeddings(200, seed), embeddings(100, 1000 + seed, mean=1.5), seed=seed)
    assert report.status == "strong"
    assert report.p_value == pytest.approx(1 / 500)
    assert max(report.parts, key=lambda name: report.parts[name]) == "direction 1"
    warning = report.warning("image")
    assert warning is not None
    assert "The incoming image embeddings differ strongly" in warning
    assert "along principal direction 1" in warning
    assert "100 items against 200" in warning
    assert "correct the labels of some of them, and learn again" in warning


@pytest.mark.parametrize("seed", range(5))
def test_a_covariance_that_changed_is_found(seed: int) -> None:
    report = drift(embeddings(300, seed), embeddings(200, 1000 + seed, spread=3.0), seed=seed)
    assert report.status in ("moderate", "strong")
    assert report.warning("text") is not None


def test_rows_that_leave_where_the_reference_lies_are_told_by_their_distance() -> None:
    reference, incoming = embeddings(300, 0), embeddings(200, 1)
    rng = np.random.default_rng(2)
    incoming = incoming + rng.normal(0, 0.8, incoming.shape).astype(np.float32)  # in all directions, not the first ones
    report = drift(reference, incoming)
    assert max(report.parts, key=lambda name: report.parts[name]) == "distance"
    assert "in their distance to its mean" in str(report.warning("audio"))


def test_a_difference_too_small_to_matter_is_no_warning() -> None:
    report = drift(embeddings(500, 0, dim=3), embeddings(500, 1, dim=3, mean=0.2))
    assert report.status == "slight"
    assert report.warning("image") is None
    assert json.loads(json.dumps(report.as_dict()))["status"] == "slight"


def test_many_rows_are_drawn_from_with_the_seed() -> None:
    reference, incoming = embeddings(1300, 0, dim=8), embeddings(700, 1, dim=8)
    report = drift(reference, incoming, permutations=99, seed=3)
    assert (report.reference, report.incoming) == (500, 500)
    assert report == drift(reference, incoming, permutations=99, seed=3)
    assert report != drift(reference, incoming, permutations=99, seed=4)


def test_more_dimensions_than_rows() -> None:
    same = [drift(embeddings(30, s, dim=300), embeddings(30, 50 + s, dim=300), permutations=99) for s in range(20)]
    assert sum(report.warning("image") is not None for report in same) <= 1
    assert drift(embeddings(30, 0, dim=300), embeddings(30, 1, dim=300, mean=3)).status == "strong"


def test_it_is_no_drift_that_a_reference_fits_its_own_directions() -> None:
    """Directions of the reference alone would show a PSI without drift: its rows are spread more along them."""
    rng = np.random.default_rng(0)
    largest = []
    for _ in range(20):
        every = rng.normal(size=(240, 400)).astype(np.float32)  # no direction stands out: the worst case
        largest.append(drift(every[:120], every[120:], permutations=99).psi)
    assert np.mean(largest) < MODERATE


# ------------------------------------------------------------------------------------------------------------ refused


ROWS = embeddings(40, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drift(ROWS, ROWS[:19]), f"at least {FEWEST} embeddings per side"),
        (lambda: drift(ROWS, ROWS[:, :10]), "must have 48 columns; got 10"),
        (lambda: drift(ROWS, np.full_like(ROWS, np.nan)), "NaN or infinite"),
        (lambda: drift(ROWS, ROWS, permutations=50), "needs at least 99 permutations; got 50"),
        (lambda: drift(ROWS, ROWS, level=1.5), "level must lie between 0 and 1"),
        (lambda: population_stability(ROWS[:, 0], ROWS[:, 0], bins=1), "PSI needs 2 bins"),
        (lambda: population_stability(ROWS[:, 0], np.array([np.inf])), "PSI needs numbers that are finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        call()
