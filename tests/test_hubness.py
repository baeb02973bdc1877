"""Offsets against slow restatements, and a planted hub."""

from __future__ import annotations

import math

import jaxtyping
import numpy as np
import pytest

from chiasm.errors import SpaceError
from chiasm.retrieval import hubness
from chiasm.retrieval.hubness import Correction
from chiasm.vectors import unit_rows


def unit(rows: int, *, seed: int, dim: int = 8) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32))


ROWS, BANK = unit(11, seed=0), unit(23, seed=1)
ROW_OWNERS, BANK_OWNERS = np.arange(11), np.arange(23) % 13


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad shapes and names reach our own checks, also where the test run checks them at every call."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("owners", [False, True])
@pytest.mark.parametrize("at_a_time", [1, 2**22])
@pytest.mark.parametrize(
    "correction",
    [
        Correction("csls", k=4),
        Correction("csls", k=99, strength=0.5),
        Correction("inverted_softmax", temperature=5.0),
        Correction("inverted_softmax", strength=0.5, temperature=40.0),
    ],
)
def test_offsets_restated_row_by_row(
    correction: Correction, at_a_time: int, owners: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubness, "_BLOCK", at_a_time)
    known = {"row_owners": ROW_OWNERS, "bank_owners": BANK_OWNERS} if owners else {}
    found = correction.offsets(ROWS, BANK, **known)
    for number, row in enumerate(ROWS):
        near = [
            float(row @ query) for query, owner in zip(BANK, BANK_OWNERS, strict=True) if not owners or owner != number
        ]
        if correction.method == "csls":
            top = sorted(near, reverse=True)[: correction.k]
            expected = sum(top) / len(top) / 2
        else:
            t = correction.temperature
            expected = math.log(sum(math.exp(t * s) for s in near) / len(near)) / t
        assert found[number] == pytest.approx(correction.strength * expected, rel=1e-4, abs=1e-5)


def test_inverted_softmax_ranks_by_the_probability_of_the_query() -> None:
    asked = unit(1, seed=5)
    t = 10.0
    scores = (ROWS @ asked[0]) - Correction("inverted_softmax", temperature=t).offsets(ROWS, BANK)
    probability = np.exp(t * ROWS @ asked[0]) / np.exp(t * ROWS @ BANK.T).sum(axis=1)
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(probability))


@pytest.mark.parametrize("method", ["csls", "inverted_softmax"])
def test_a_hub_no_longer_stands_before_the_right_rows(method: hubness.CorrectionMethod) -> None:
    """Every query is near its own row, and nearer still to a hub in their middle."""
    middle = unit(1, seed=3, dim=64)
    bank = unit_rows(unit(40, seed=4, dim=64) + middle)
    rows = np.vstack([unit_rows(bank + unit(40, seed=6, dim=64)), unit_rows(bank.mean(axis=0, keepdims=True))])
    scores = bank @ rows.T
    corrected = scores - Correction(method).offsets(rows, bank)
    assert np.mean(scores.argmax(axis=1) == 40) > 0.4
    assert np.mean(corrected.argmax(axis=1) == 40) < 0.1


def test_nothing_is_taken_off_without_a_correction_or_a_bank() -> None:
    assert not Correction().offsets(ROWS, BANK).any()
    assert not Correction("csls").offsets(ROWS, BANK[:0]).any()


@pytest.mark.parametrize("method", ["csls", "inverted_softmax"])
def test_a_row_whose_owner_has_the_whole_bank_loses_nothing(method: hubness.CorrectionMethod) -> None:
    same = np.zeros(len(BANK), dtype=int)
    offsets = Correction(method).offsets(ROWS, BANK, row_owners=ROW_OWNERS, bank_owners=same)
    assert offsets[0] == 0 and np.all(offsets[1:] != 0)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained() -> None:
    with pytest.raises(SpaceError, match=r"no correction 'magic'. There are none, csls, inverted_softmax"):
        Correction("magic")  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="must be above 0 and k at least 1"):
        Correction("csls", k=0)
    with pytest.raises(SpaceError, match="of neither"):
        Correction("csls").offsets(ROWS, BANK, row_owners=ROW_OWNERS)
