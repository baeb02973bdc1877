"""Rows of a source are moved to where a planted shift has taken them, and left where that would hurt."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from chiasm.errors import ChiasmError, MissingExtraError
from chiasm.recognition import ModalityArrays, Recognizer, SourceItems
from chiasm.recognition.adaptation import LIMIT, Shares, decide, estimated_shares, transport
from chiasm.vectors import softmax

DIM = 24
CENTRES = np.random.default_rng(0).normal(size=(5, DIM))
NAMES = np.array(["bird", "fish", "frog", "newt", "swan"])
TURN = np.linalg.qr(np.random.default_rng(3).normal(size=(DIM, DIM)))[0]


def planted(codes: np.ndarray, seed: int, *, shift: float = 0.0, noise: float = 0.8) -> np.ndarray:
    """Rows about the centres of their classes; a shift takes all along one way, and each class some way of its own."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(7)
    along, own = fixed.normal(size=DIM), fixed.normal(size=(5, DIM))
    rows = CENTRES[codes] + shift * (2 * along + 0.5 * own[codes]) + noise * rng.normal(size=(len(codes), DIM))
    return np.asarray(rows, dtype=np.float32)


def accuracy(recognizer: Recognizer, X: np.ndarray, codes: np.ndarray) -> float:
    return float(np.mean(recognizer.predict({"image": X}) == NAMES[codes]))


def test_each_row_goes_to_its_mean_over_the_plan() -> None:
    """The plan restated: Sinkhorn's scaling by hand, in logarithms, until both sides fit."""
    rng = np.random.default_rng(1)
    rows, target = rng.normal(size=(12, 3)), rng.normal(size=(15, 3)) + 1
    mass = rng.uniform(0.5, 2, 12)
    cost = ((rows[:, None] - target[None]) ** 2).sum(axis=2)
    logits = -cost / max(np.median(cost), cost.max() / 10) / 0.06
    left, right = np.zeros(12), np.zeros(15)
    for _ in range(3000):
        left = np.log(mass / mass.sum()) - np.logaddexp.reduce(logits + right, axis=1)
        right = np.log(np.full(15, 1 / 15)) - np.logaddexp.reduce(logits + left[:, None], axis=0)
    plan = np.exp(logits + left[:, None] + right)
    np.testing.assert_allclose(transport(rows, target, mass=mass), plan @ target / plan.sum(axis=1)[:, None], atol=2e-3)


def test_more_rows_than_the_plan_holds_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.arange(400) % 5
    rows, target = planted(codes, 1), planted(codes, 2, shift=0.5)
    every = transport(rows, target)
    monkeypatch.setattr("chiasm.recognition.adaptation._MOST_ROWS", 200)
    some = transport(rows, target)
    assert np.linalg.norm(some - every) < 0.3 * np.linalg.norm(rows - every)


@pytest.mark.parametrize("rows", [np.ones((4, 2)), np.zeros((4, 2)), np.eye(4)[:, :2] * 1e6])
def test_rows_that_are_alike_or_far_apart(rows: np.ndarray) -> None:
    assert np.isfinite(transport(rows, np.vstack([rows, rows + 1]))).all()


def test_shares_are_those_that_explain_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([0.7, 0.1, 0.2])
    codes = rng.choice(3, size=4000, p=truth)
    rows = 2 * np.eye(3)[codes] + rng.normal(size=(4000, 3))
    likelihood = softmax(2 * rows)  # the posterior of classes that are equally frequent
    assert estimated_shares(likelihood, np.full(3, 1 / 3)) == pytest.approx(truth, abs=0.05)
    assert estimated_shares(likelihood, np.array([0.5, 0.5, 0.0]))[2] == 0, "a class without items stays without"


@pytest.mark.parametrize(
    ("target", "shares", "way"),
    [
        (np.arange(200) % 5, "auto", "same"),
        (np.zeros(200, dtype=int), "auto", "none"),
        (np.zeros(200, dtype=int), "same", "same"),
        (np.zeros(200, dtype=int), "other", "predicted"),
        (np.arange(20) % 5, "same", "none"),
    ],
)
def test_what_is_decided(target: np.ndarray, shares: Shares, way: str) -> None:
    codes = np.arange(100) % 5
    probabilities = softmax(3 * np.eye(5)[target])
    decision = decide(probabilities, probabilities, codes, NAMES, shares=shares)
    assert decision.adaptation.way == way
    assert (decision.weight is None) == (way != "predicted")
    total = sum(decision.adaptation.differences.values())
    assert (total < LIMIT) == (len(set(target.tolist())) == 5)
    if way == "predicted":
        assert decision.weight is not None
        assert decision.weight.argmax() == 0
        assert decision.adaptation.shares["bird"] == (0.2, 1.0)


def test_a_target_that_has_moved_is_recognised_better(tmp_path: Any) -> None:
    codes, theirs = np.arange(300) % 5, np.random.default_rng(2).integers(5, size=250)
    X, domain = planted(codes, 1), planted(theirs, 2, shift=1.0)
    later = planted(theirs, 3, shift=1.0)
    plain = Recognizer().fit({"image": X}, NAMES[codes])
    adapted = Recognizer().fit({"image": X}, NAMES[codes], domain=ModalityArrays({"image": domain}))
    decision = adapted.details_.adaptation
    assert decision is not None
    assert decision.way == "same"
    assert accuracy(adapted, domain, theirs) > accuracy(plain, domain, theirs) + 0.05
    assert accuracy(adapted, later, theirs) > accuracy(plain, later, theirs) + 0.05, "new items of the target, too"
    adapted.save(tmp_path / "model")
    again = Recognizer.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict({"image": later}), adapted.predict({"image": later}))
    assert again.details_.adaptation == decision
    more = adapted.add_class({"image": later[:6] + 9}, ["toad"] * 6)
    assert accuracy(more, later, theirs) > accuracy(plain, later, theirs), "examples are kept where they were moved"


def test_other_shares_leave_the_source_as_it_is() -> None:
    codes, theirs = np.arange(300) % 5, np.zeros(200, dtype=int)
    X, domain = planted(codes, 1), ModalityArrays({"image": planted(theirs, 2)})
    plain = Recognizer().fit({"image": X}, NAMES[codes])
    left, told, wrong = (
        Recognizer(shares=shares).fit({"image": X}, NAMES[codes], domain=domain) for shares in ("auto", "other", "same")
    )
    assert left.details_.adaptation is not None
    assert left.details_.adaptation.way == "none"
    assert "could hurt" in left.details_.adaptation.sentence
    np.testing.assert_array_equal(left.predict_proba(domain), plain.predict_proba(domain))
    good = accuracy(plain, domain.vectors["image"], theirs)
    assert accuracy(told, domain.vectors["image"], theirs) >= good
    assert accuracy(wrong, domain.vectors["image"], theirs) < good


def test_several_modalities_and_those_that_a_target_lacks() -> None:
    codes, theirs = np.arange(200) % 5, np.arange(150) % 5
    both = {"image": planted(codes, 1), "text": planted(codes, 4) @ TURN.astype(np.float32)}
    there = planted(theirs, 2, shift=1.0), planted(theirs, 5, shift=1.0) @ TURN.astype(np.float32)
    has_text = np.arange(150) < 120
    domain = ModalityArrays({"image": there[0], "text": there[1]}, {"text": has_text})
    plain = Recognizer().fit(both, NAMES[codes])
    adapted = Recognizer().fit(both, NAMES[codes], domain=domain)
    truth = NAMES[theirs]
    assert np.mean(adapted.predict(domain) == truth) > np.mean(plain.predict(domain) == truth)
    assert adapted.details_.adaptation is not None
    assert adapted.details_.adaptation.items == 120
    pictures = Recognizer().fit(both, NAMES[codes], domain=domain.only(("image",)))
    assert pictures.details_.adaptation is not None
    assert (pictures.details_.adaptation.way, pictures.details_.adaptation.items) == ("same", 150)
    lacking = Recognizer().fit({"image": both["image"]}, NAMES[codes], domain=domain.only(("text",)))
    assert lacking.details_.adaptation is not None
    assert "no items with image" in lacking.details_.adaptation.sentence


def test_what_does_not_go_with_a_target() -> None:
    codes = np.arange(50) % 5
    X, domain = {"image": planted(codes, 1)}, ModalityArrays({"image": planted(codes, 2)})
    with pytest.raises(ChiasmError, match="leave source and unlabelled items out"):
        Recognizer().fit(X, NAMES[codes], domain=domain, source=SourceItems(domain, NAMES[codes]))
    with pytest.raises(ChiasmError, match="target domain: image must be embedded as the items"):
        Recognizer().fit(X, NAMES[codes], domain=ModalityArrays({"image": np.ones((9, 3), np.float32)}))
    with pytest.raises(ChiasmError, match="no knowledge of shares 'equal'"):
        Recognizer(shares="equal").fit(X, NAMES[codes])  # type: ignore[arg-type]


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r"chiasm\[adapt\]"):
        transport(np.eye(2), np.eye(2))
