"""Differential privacy: what is promised is what the noise gives, and nothing else of the items is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from painter import painted

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError, LabelError
from chiasm.privacy import LEDGER, Promise, delta_of, epsilon_of, noise
from chiasm.recognition import ModalityArrays
from chiasm.recognition import private as mechanism
from chiasm.recognition.private import fit_private
from chiasm.recognition.targets import parse_target
from chiasm.verbs.model import load_model

RANDOM = np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------ the accountant


@pytest.mark.parametrize(
    ("epsilon", "mu"),
    [(1.0, 0.268051), (3.0, 0.719117), (8.0, 1.666031)],  # 20 steps of that noise: so says dp-accounting 0.6, to 1e-6
)
def test_the_noise_is_what_the_accountant_of_others_asks_for(epsilon: float, mu: float) -> None:
    assert Promise(epsilon, 1e-5).mu == pytest.approx(mu, abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.01, 0.5, 3.0, 50.0, 100.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-5, 0.1])
def test_a_promise_is_kept_to_the_last_digit(epsilon: float, delta: float) -> None:
    mu = Promise(epsilon, delta).mu
    assert delta_of(mu, epsilon) <= delta
    assert delta_of(mu * 1.001, epsilon) > delta
    assert epsilon_of(mu, delta) == pytest.approx(epsilon, rel=1e-6)


def test_delta_is_the_largest_gap_between_two_outcomes() -> None:
    """By counting: outcomes of one item in, and of it left out, at the threshold where they differ most."""
    mu, epsilon = 1.3, 1.0
    grid = np.linspace(-12, 12, 2_000_001)
    density = np.exp(-((grid[:, None] - np.array([mu, 0.0])) ** 2) / 2) / math.sqrt(2 * math.pi)
    gap = np.maximum(density[:, 0] - math.exp(epsilon) * density[:, 1], 0).sum() * (grid[1] - grid[0])
    assert delta_of(mu, epsilon) == pytest.approx(gap, rel=1e-4)


@pytest.mark.parametrize(
    "numbers",
    [
        (0.0, 1e-5),
        (-1.0, 1e-5),
        (math.nan, 1e-5),
        (math.inf, 1e-5),
        (101.0, 1e-5),
        (1.0, 0.0),
        (1.0, 1.0),
        (1.0, math.nan),
    ],
)
def test_numbers_that_promise_nothing_are_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(ChiasmError, match=r"epsilon|delta"):
        Promise(*numbers)


def test_noise_cannot_be_repeated() -> None:
    assert not np.array_equal(noise().standard_normal(4), noise().standard_normal(4))


# ---------------------------------------------------------------------------------------------------------- the model


def items_of(count: int, classes: int = 3) -> tuple[ModalityArrays, list[str]]:
    codes = RANDOM.integers(0, classes, count)
    centres = RANDOM.normal(size=(classes, 24)) * 2
    image = (centres[codes] + RANDOM.normal(size=(count, 24))).astype(np.float32)
    text = (centres[codes][:, :9] + RANDOM.normal(size=(count, 9))).astype(np.float32)
    present = {"image": RANDOM.random(count) < 0.8, "text": np.ones(count, bool)}
    return ModalityArrays({"image": image, "text": text}, present), [f"class {code}" for code in codes]


def test_more_epsilon_is_more_accuracy_and_any_modality_is_enough() -> None:
    arrays, names = items_of(3000)
    train, test = np.arange(2000), np.arange(2000, 3000)
    target = parse_target(names[:2000], column="kind")
    right = {}
    for epsilon in (0.003, 8.0):
        model = fit_private(arrays.take(train), target, train, Promise(epsilon))
        right[epsilon] = (model.recognise(arrays.take(test)).values == np.array(names[2000:])).mean()
        alone = model.recognise(arrays.take(test).only(("text",)))
    assert right[8.0] > 0.9
    assert right[0.003] < right[8.0] - 0.1
    assert (alone.values == np.array(names[2000:])).mean() > 0.7
    assert not alone.unknown.any()


def test_one_unit_moves_the_sum_by_no_more_than_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise and with one step, weights with a unit and without it differ by what the promise is computed with."""
    monkeypatch.setattr(mechanism, "noise", _Silence)
    monkeypatch.setattr(mechanism, "FEW", 1)
    arrays, names = items_of(300)
    target = parse_target(names, column="kind")
    units = np.repeat(np.arange(30), 10)  # ten items each
    whole = fit_private(arrays, target, units, Promise(1.0, 1e-3))
    for unit in (0, 7, 29):
        rest = np.flatnonzero(units != unit)
        without = fit_private(arrays.take(rest), target.take(rest), units[rest], Promise(1.0, 1e-3))
        (one, other) = (
            np.concatenate([head.tensors["coef"], head.tensors["intercept"][:, None] / 0.3], axis=1)
            for head in (model.only_column_.heads["image", "text"] for model in (whole, without))
        )
        moved = np.linalg.norm(30 * one - 29 * other) / mechanism.RATE  # what is divided by the number of units
        assert 0 < moved <= mechanism.CLIP * 1.0001


class _Silence:
    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.zeros(shape)


def test_nothing_is_kept_but_the_weights() -> None:
    arrays, names = items_of(200)
    column = fit_private(arrays, parse_target(names, column="kind"), np.arange(200), Promise(3.0, 1e-4)).only_column_
    assert (column.exemplars, column.counts, column.held_out, column.prior) == (None, None, None, None)
    assert not any((column.calibrations, column.sets, column.detectors, column.thresholds, column.residuals))
    assert all(not mean.any() for part in (column.features.own, column.features.shared) for mean in part.values())


# ----------------------------------------------------------------------------------------------------------- the verb


@pytest.fixture(scope="module", autouse=True)
def fake() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"))])
        yield


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in painted(tmp_path / "media").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["patient"] = f"p{number // 2}"
        row["ward"] = "a" if number else None
    table = tmp_path / "patients.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    chiasm.add([table], to=tmp_path / "collection")
    return tmp_path / "collection"


def test_a_private_model_recognises_and_says_what_was_promised(collection: Path, tmp_path: Path) -> None:
    report = chiasm.fit(collection, label="most", out=tmp_path / "model", epsilon=8.0, delta=1e-3, unit="patient")
    assert (report.privacy["epsilon"], report.privacy["delta"], report.privacy["unit"]) == (8.0, 1e-3, "patient")
    assert report.privacy["units"] == -(-report.items // 2)
    assert report.metrics == {}
    saved = load_model(tmp_path / "model")
    assert "for each value of 'patient'" in saved.card
    assert "nothing of the items" in saved.card
    answers = chiasm.predict(tmp_path / "model", [tmp_path / "media"]).predictions
    assert {one.label for one in answers} <= {"red", "green", "blue"}
    assert all(abs(sum(one.probabilities.values()) - 1) < 1e-6 for one in answers)


def test_the_folder_holds_nothing_of_the_items(collection: Path, tmp_path: Path) -> None:
    chiasm.fit(collection, label="most", out=tmp_path / "model", epsilon=8.0, delta=1e-3)
    saved = load_model(tmp_path / "model")
    assert (saved.trained_on, dict(saved.reference), saved.left_out.contents, len(saved.collected)) == (
        frozenset(), {}, (), 0,
    )  # fmt: skip
    written = b"".join(path.read_bytes() for path in (tmp_path / "model").rglob("*") if path.is_file())
    stored = chiasm.Collection.open(collection)
    for row in [*stored.items()][:20]:
        assert str(row["id"]).encode() not in written
    for vector in stored.vectors(FakeEncoder(("image", "text")).fingerprint).vectors[:50]:
        assert vector.tobytes() not in written


def test_what_is_spent_adds_up_in_the_ledger(collection: Path, tmp_path: Path) -> None:
    assert chiasm.status(collection).private == ()
    for number in range(2):
        chiasm.fit(collection, label="most", out=tmp_path / f"m{number}", epsilon=1.0, delta=1e-3)
    (line,) = chiasm.status(collection).private
    total = epsilon_of(math.sqrt(2) * Promise(1.0, 1e-3).mu, 1e-3)
    assert f"2 private releases of it: epsilon {total:.2f} at delta 0.001" in line
    assert 1 < total < 2, "less than the sum, as noise composes"
    chiasm.fit(collection, label="most", out=tmp_path / "m2", epsilon=1.0, delta=1e-3, unit="patient")
    assert len(chiasm.status(collection).private) == 2
    (collection / LEDGER).write_text('{"releases": 3}')
    with pytest.raises(ChiasmError, match="restore it"):
        chiasm.fit(collection, label="most", out=tmp_path / "m3", epsilon=1.0, delta=1e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epsilon": 0.0}, "epsilon is above 0"),
        ({"epsilon": 1.0, "delta": 0.5}, "give one of them away"),
        ({"epsilon": 1.0, "tune": 5}, "tune: not together with epsilon"),
        ({"epsilon": 1.0, "source": "x", "group": "patient"}, "group, source: not together"),
        ({"epsilon": 1.0, "report": "r.html"}, "report: not together"),
        ({"delta": 1e-6}, "go with epsilon"),
        ({"unit": "patient"}, "go with epsilon"),
        ({"epsilon": 1.0, "delta": 1e-3, "unit": "nosuch"}, "no column 'nosuch'"),
        ({"epsilon": 1.0, "delta": 1e-3, "unit": "ward"}, "1 of"),
        ({"epsilon": 1.0, "delta": 1e-3, "label": ["most", "patient"]}, "one column is learned"),
    ],
    ids=str,
)
def test_what_would_look_twice_is_refused(
    options: dict[str, Any], says: str, collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ChiasmError, LabelError), match=says):
        chiasm.fit(collection, **{"label": "most", "out": tmp_path / "model", **options})
    assert not (tmp_path / "model").exists()
    assert chiasm.status(collection).private == (), "nothing was released, so nothing is spent"


def test_no_older_model_is_kept_beside_a_private_one(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ChiasmError, match="would be kept beside"):
        chiasm.fit(collection, label="most", out=tmp_path / "model", epsilon=8.0, delta=1e-3)


def test_what_a_private_model_cannot_do_is_said(collection: Path, tmp_path: Path) -> None:
    chiasm.fit(collection, label="most", out=tmp_path / "model", epsilon=8.0, delta=1e-3)
    for verb in (
        lambda: chiasm.evaluate(tmp_path / "model", collection),
        lambda: chiasm.learn(tmp_path / "model", collection),
        lambda: chiasm.explain(tmp_path / "model", [tmp_path / "media"], collection=collection),
    ):
        with pytest.raises(ChiasmError, match="keeps no record"):
            verb()
    with pytest.raises(ChiasmError, match=r"reference|keeps no"):
        chiasm.drift(tmp_path / "model", collection)
    explained = chiasm.explain(tmp_path / "model", [tmp_path / "media"])
    assert explained.explanations
