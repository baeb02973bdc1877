"""The verbs `align`, `statistics` and `evaluate` on planted pairs, without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from painter import mixtures, painted, painters, picture, sound, table, words_of

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError, SpaceError
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import load_scores

HELD_OUT_AT_LEAST = 6


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 pictures with words."""
    root = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        chiasm.add([painted(root / "media", 5)], to=root / "collection")
    return root / "collection"


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of a test's own."""
    return Path(shutil.copytree(base, tmp_path / "collection"))


def test_none_learns_only_what_scores_are_worth(made: Path) -> None:
    report = chiasm.align(made, method="none", name="judged")
    assert report.space == "judged"
    (part,) = report.aligned.values()
    assert list(report.aligned) == ["image"]
    assert (part.method, part.pairs, part.blend, part.alpha, part.source_pairs) == ("none", len(mixtures(5)), 0, 0, 0)
    assert part.held_out >= HELD_OUT_AT_LEAST
    assert report.pairs == part.pairs
    assert set(report.before) == set(report.after) == {"text_to_image", "image_to_text"}
    assert report.before == report.after
    assert report.after["text_to_image"]["hit@1"] == 1, "words and pictures of one mixture are one vector"
    assert report.geometry["image"]["before"] == report.geometry["image"]["after"]
    assert {"calibration_error", "queries", "answered", "preparation"} == set(report.scores["text_to_image"])
    assert set(report.scores["image_to_image"]) == {"preparation"}
    document = report.as_dict()
    assert json.loads(json.dumps(document))["pairs"] == report.pairs
    searched = Searcher(made)
    assert (searched.space.name, dict(searched.space.maps)) == ("judged", {})
    assert searched.space.about["pairs"] == report.pairs
    assert load_scores(made / "spaces" / "judged") is not None
    assert chiasm.status(made).spaces == ("start", "judged")


def test_three_modalities_at_once(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(number),
            "text": words_of(parts),
            "image": picture(tmp_path / f"{number}.png", parts),
            "audio": sound(tmp_path / f"{number}.wav", *words_of(parts).split()),
        }
        for number, parts in enumerate(mixtures(4))
    ]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    report = chiasm.align(tmp_path / "collection", pairs=("image", "audio", "text"), method="procrustes")
    assert set(report.aligned) == set(report.geometry) == {"image", "audio"}
    assert set(report.after) == {"text_to_image", "image_to_text", "text_to_audio", "audio_to_text"}
    assert report.pairs == 2 * len(rows)
    assert {part.method for part in report.aligned.values()} == {"procrustes"}
    for direction in report.after:
        assert report.after[direction]["hit@1"] >= report.before[direction]["hit@1"] - 1e-9
    hits = chiasm.search(tmp_path / "collection", "red red green", modality="audio", k=1).hits
    assert rows[int(hits[0].id)]["text"] == "red red green"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "start"}, "'start' is the name of the space that nothing was learned in"),
        ({"name": "a/b"}, "cannot name a space"),
        ({"pairs": ("image",)}, "pairs are two different modalities, or several with text"),
        ({"pairs": ("image", "audio", "video")}, "or several with text"),
        ({"pairs": ("image", "text", "text")}, "pairs are two different modalities"),
        ({"pairs": ("audio", "text")}, "no item has both audio and text"),
        ({"where": "most = 'none'"}, "no item has both"),
        ({"where": "most = 'red' AND id < '2'"}, r"at least 10 pairs; got \d of image and text"),
        ({"method": "magic"}, "magic"),
        ({"method": "none", "source": "{collection}"}, "learns no map, so there is nothing to learn from a source"),
        (
            {"pairs": ("image", "audio", "text"), "source": "{collection}"},
            "no item has both audio|a source goes with two",
        ),
    ],
)
def test_what_cannot_be_aligned(made: Path, options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {key: str(made) if value == "{collection}" else value for key, value in options.items()}
    with pytest.raises(ChiasmError, match=message):
        chiasm.align(made, **given)
    assert chiasm.status(made).spaces == ("start",), "nothing is left of it"


@pytest.mark.parametrize("by_sums", [False, True])
def test_a_source_is_a_collection_or_its_sums(made: Path, tmp_path: Path, by_sums: bool) -> None:
    chiasm.add([painted(tmp_path / "other-media", 6)], to=tmp_path / "other")
    source = tmp_path / "other"
    if by_sums:
        source = tmp_path / "sums.safetensors"
        assert chiasm.statistics(tmp_path / "other", out=source) == len(mixtures(6))
    report = chiasm.align(made, source=source, alpha=0.25)
    part = report.aligned["image"]
    assert part.source_pairs == len(mixtures(6))
    assert part.alpha == 0.25
    assert part.method == ("ridge" if by_sums else "kernel")
    assert report.after["text_to_image"]["hit@1"] == 1


def test_sums_are_not_enough_for_a_method_that_compares_items(made: Path, tmp_path: Path) -> None:
    chiasm.add([painted(tmp_path / "other-media", 6)], to=tmp_path / "other")
    chiasm.statistics(tmp_path / "other", out=tmp_path / "sums.safetensors")
    with pytest.raises(SpaceError, match="Give the source as a collection, or use ridge, procrustes or cca"):
        chiasm.align(made, source=tmp_path / "sums.safetensors", method="kernel")


def test_a_source_of_other_encoders(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters("image", "text"))
        chiasm.add([painted(tmp_path / "other-media", 3)], to=tmp_path / "other")
        chiasm.statistics(tmp_path / "other", out=tmp_path / "sums.safetensors")
    with pytest.raises(SpaceError, match=r"was embedded otherwise than the target \(moved_encoder: "):
        chiasm.align(made, source=tmp_path / "sums.safetensors")


def test_a_report_shows_examples(made: Path, tmp_path: Path) -> None:
    pages = {}
    for kind in ("html", "md", "json"):
        found = chiasm.evaluate(made, pairs=("image", "text"), report=tmp_path / f"report.{kind}")
        pages[kind] = (tmp_path / f"report.{kind}").read_text(encoding="utf-8")
        assert found.metrics["text_to_image"]["hit@1"] == 1
        assert found.seen == 0
    assert pages["html"].count("data:image/") >= 3, "pictures"
    some = [name for name in (words_of(parts) for parts in mixtures(5)) if name in pages["html"]]
    assert len(some) >= 3, "words"
    assert all(any(words_of(parts) in pages[kind] for parts in mixtures(5)) for kind in pages)
    assert json.loads(pages["json"])
    with pytest.raises(ChiasmError, match=r"written as \.html, \.md, \.json; got report\.pdf"):
        chiasm.evaluate(made, report=tmp_path / "report.pdf")


def test_what_was_learned_from_is_said_or_left_out(made: Path) -> None:
    chiasm.align(made, where="most <> 'blue'", method="none")
    left = chiasm.evaluate(made)
    assert "that the space was not trained on" in left.measured
    assert left.seen == 0
    chiasm.align(made, method="none")
    flattered = chiasm.evaluate(made)
    assert flattered.seen == len(mixtures(5))
    assert flattered.what == "space 'aligned' of collection"
