"""The interpretable twin of a model: few words, what they say of each class, and what that costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from painter import Painter, painters
from PIL import Image as PillowImage

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError, LabelError, SpaceError
from chiasm.recognition import ModalityArrays
from chiasm.recognition.twin import fit_twin, rules_of
from chiasm.verbs.twin import concept_scores, read_concepts


@pytest.mark.parametrize("classes", [2, 3])
def test_a_twin_has_few_concepts(classes: int) -> None:
    """Planted: each class has a concept of its own, seven say nothing."""
    rng = np.random.default_rng(0)
    codes = np.arange(120) % classes
    scores = rng.normal(size=(120, classes + 7))
    scores[np.arange(120), codes] += 3
    names = np.array(["ant", "bee", "cat"])[codes]
    twin = fit_twin(scores, names, np.arange(120))
    rules = rules_of(twin, [f"c{number}" for number in range(classes + 7)])
    assert [next(iter(rule)) for rule in rules.values()] == [f"c{number}" for number in range(classes)]
    kept = {word for rule in rules.values() for word in rule}
    assert len(kept) < classes + 7, "the penalty leaves some out"
    logits = scores @ np.array([[rule.get(f"c{n}", 0.0) for n in range(classes + 7)] for rule in rules.values()]).T
    assert (np.array([*rules])[logits.argmax(axis=1)] == names).mean() > 0.9, "the rules are the twin, up to intercepts"


def test_one_class_has_no_twin() -> None:
    with pytest.raises(LabelError, match="two classes"):
        fit_twin(np.ones((4, 1)), np.array(["ant"] * 4), np.arange(4))
    with pytest.raises(LabelError, match="near-duplicates"):
        fit_twin(np.ones((4, 1)), np.array(["ant", "ant", "bee", "bee"]), np.array([0, 0, 1, 1]))


def test_scores_are_means_over_what_an_item_has() -> None:
    rng = np.random.default_rng(1)
    shared = {"image": rng.normal(size=(6, 3)), "text": 5 * rng.normal(size=(6, 3)) + 1}
    present = {"image": np.array([True] * 5 + [False]), "text": np.array([False] + [True] * 5)}
    concepts = np.eye(3)[:2]
    rows = np.arange(4)
    made = concept_scores(ModalityArrays({}, present, shared), concepts, rows)

    def slow(item: int, concept: int) -> float:
        own = []
        for name in ("image", "text"):
            if present[name][item]:
                known = [shared[name][row, concept] for row in rows if present[name][row]]
                own.append((shared[name][item, concept] - np.mean(known)) / np.std(known))
        return float(np.mean(own))

    np.testing.assert_allclose(made, [[slow(item, concept) for concept in range(2)] for item in range(6)])


def test_concepts_are_read(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("red\n\n round thing \nred\n")
    assert read_concepts("red, round thing,red") == ("red", "round thing")
    assert read_concepts(tmp_path / "words.txt") == read_concepts(str(tmp_path / "words.txt")) == ("red", "round thing")
    assert read_concepts(["red"]) == ("red",)
    with pytest.raises(ChiasmError, match="got 0"):
        read_concepts(" , ")
    with pytest.raises(ChiasmError, match="cannot be read"):
        read_concepts(tmp_path / "none.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ChiasmError, match="UTF-8"):
        read_concepts(tmp_path / "binary")


@pytest.fixture
def painted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        kind = ("red", "green")[number % 2]
        pixels = rng.integers(0, 90, (14, 14, 3)).astype(np.uint8)
        pixels[..., number % 2] += 100
        PillowImage.fromarray(pixels).save(tmp_path / f"{number}.png")
        pictures = {"image": f"{number}.png"} if number % 5 == 0 else {}  # near-duplicates of one another
        words = ["tree", "house", "sky", "boat", "path"]
        rng.shuffle(words)
        rows.append(
            {
                "id": f"i{number}",
                **pictures,
                "text": " ".join([*words[:3], kind]),
                "kind": kind,
                "size": number + 0.5,
            }
        )
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "all.jsonl").write_text("\n".join(lines))
    (tmp_path / "part.jsonl").write_text("\n".join(lines[:30]))
    chiasm.add([tmp_path / "all.jsonl"], to=tmp_path / "all")
    chiasm.add([tmp_path / "part.jsonl"], to=tmp_path / "part")
    chiasm.fit(tmp_path / "part", label="kind", out=tmp_path / "model", alike=2.0)
    return tmp_path


def test_a_twin_stands_beside_its_model(painted: Path) -> None:
    options = {"concepts": "red,green,tree", "sample": 0}
    twin = chiasm.explain(painted / "model", collection=painted / "all", report=painted / "why.md", **options).twin  # type: ignore[arg-type]
    assert twin is not None
    assert "items that it was not trained on" in twin.measured
    assert next(iter(twin.rules["red"])) == "red"
    assert next(iter(twin.rules["green"])) == "green"
    assert twin.f1_macro > 0.9
    assert twin.cost.estimate == pytest.approx(twin.full - twin.f1_macro)
    evaluated = chiasm.evaluate(painted / "model", painted / "all").metrics
    assert twin.full == pytest.approx(evaluated["f1_macro"]), "the number that evaluate gives"
    assert "A sparse linear model on 2 of 3 concepts" in (painted / "why.md").read_text()
    without = chiasm.explain(painted / "model", collection=painted / "part", **options).twin  # type: ignore[arg-type]
    assert without is not None
    assert "did not see it" in without.measured
    assert without.f1_macro > 0.9


def test_what_has_no_twin_is_said(painted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ChiasmError, match="name that, and no files"):
        chiasm.explain(painted / "model", concepts="red")
    with pytest.raises(ChiasmError, match="name that, and no files"):
        chiasm.explain(painted / "model", painted / "0.png", collection=painted / "all", concepts="red")
    chiasm.fit(painted / "part", label="size", out=painted / "size", alike=2.0)
    with pytest.raises(ChiasmError, match="column of number"):
        chiasm.explain(painted / "size", collection=painted / "all", concepts="red")
    apart = [Painter(("image",)), FakeEncoder(("text",), version="2")]
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: apart)
    chiasm.add([painted / "part.jsonl"], to=painted / "apart")
    chiasm.fit(painted / "apart", label="kind", out=painted / "other", alike=2.0)
    with pytest.raises(SpaceError, match="--pairs image,text"):
        chiasm.explain(painted / "other", collection=painted / "apart", concepts="red")
