"""The verbs `align`, `statistics` and `evaluate` on planted pairs, without weights."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from killing import Killed, at_every_step, killed_at
from painter import foreign, mixtures, painted, painters, picture, sound, table, words_of

import chiasm
from chiasm import encoders, media
from chiasm.alignment.pairs import PairStatistics
from chiasm.errors import ChiasmError, SpaceError
from chiasm.serving.building import Plan
from chiasm.serving.classify import Classifier
from chiasm.serving.run import build
from chiasm.serving.settings import Settings
from chiasm.verbs.model import load_model
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import load_space, save_space, start_of

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
    assert load_space(made / "spaces" / "judged").scores is not None
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


@pytest.mark.parametrize("by_sums", [False, True])
def test_several_sources_are_one(made: Path, tmp_path: Path, by_sums: bool) -> None:
    sources = []
    for number in (5, 6):
        chiasm.add([painted(tmp_path / f"media-{number}", number)], to=tmp_path / f"other-{number}")
        sources.append(tmp_path / f"other-{number}")
        if by_sums:
            chiasm.statistics(sources[-1], out=tmp_path / f"{number}.safetensors")
            sources[-1] = tmp_path / f"{number}.safetensors"
    report = chiasm.align(made, source=sources, alpha=0.25)
    assert report.aligned["image"].source_pairs == len(mixtures(5)) + len(mixtures(6))
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
    assert json.loads(pages["json"])["about"]["seed"] == "0"
    with pytest.raises(ChiasmError, match=r"written as \.html, \.md, \.json; got report\.pdf"):
        chiasm.evaluate(made, report=tmp_path / "report.pdf")


# ------------------------------------------------------------------------------------- what is fair to measure on


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures with foreign words, aligned."""
    root = tmp_path_factory.mktemp("taught")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        chiasm.add([foreign(root / "media", 5)], to=root / "collection")
        report = chiasm.align(root / "collection")
    assert report.aligned["image"].blend > 0
    return root / "collection"


def test_a_space_is_measured_on_what_its_maps_did_not_learn(taught: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(taught, tmp_path / "collection"))
    folds = chiasm.evaluate(made, report=tmp_path / "r.md")
    assert (folds.seen, "learned without it" in folds.measured) == (0, True)
    training = chiasm.evaluate(made, on="training")
    assert training.seen == len(mixtures(5))
    assert training.measured.startswith("training items: of 40 pairs")
    assert training.metrics["text_to_image"]["mrr"] > folds.metrics["text_to_image"]["mrr"], "it remembers"
    assert folds.metrics["before"] == training.metrics["before"]
    with pytest.raises(ChiasmError, match="on takes auto, folds, training; got 'luck'"):
        chiasm.evaluate(made, on="luck")  # type: ignore[arg-type]  # on purpose
    chiasm.add([foreign(tmp_path / "more", 6)], to=made)
    new = chiasm.evaluate(made)
    assert (new.seen, new.measured) == (0, new.measured)
    assert "that the space was not trained on (40 others left out)" in new.measured, (
        "by content: their ids are the same"
    )


def test_pairs_that_taught_only_what_scores_are_worth_are_left_out_as_well(made: Path) -> None:
    chiasm.align(made, where="most <> 'blue'", method="none")
    left = chiasm.evaluate(made)
    assert "that the space was not trained on" in left.measured
    chiasm.align(made, method="none")
    every = chiasm.evaluate(made)
    assert (left.seen, every.seen) == (0, 0)
    assert every.what == "space 'aligned' of collection"
    (made / "off.txt").write_text("zebras\n", encoding="utf-8")
    asked = chiasm.evaluate(made, off_topic=made / "off.txt")
    assert "have taught the space" in asked.measured, "search is asked as it is"
    assert "learned without it" in every.measured


def test_killed_at_any_step_a_space_is_the_old_or_the_new(taught: Path, tmp_path: Path) -> None:
    folder = taught / "spaces" / "aligned"
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    old = load_space(folder)
    new = replace(old, space=replace(old.space, created="later", about={"new": True}), scores=None)
    copy = tmp_path / "aligned"
    shutil.copytree(folder, copy)

    def check() -> None:
        one = load_space(copy)
        assert (one.scores is None) == (one.space.about == {"new": True}), "maps and scores of one version"
        assert set(one.left_out) == {"image"}
        save_space(copy, old)

    steps = at_every_step(lambda: save_space(copy, new), lambda: None, check)
    assert steps > len(kept)
    assert sorted(path.suffix for path in copy.iterdir()) == ["", "", "", ".json"], (
        "two versions, the lock, the pointer"
    )


def test_killed_at_any_step_of_the_verb(taught: Path, tmp_path: Path) -> None:
    made, sums = tmp_path / "collection", tmp_path / "sums.safetensors"
    shutil.copytree(taught, made)
    version = load_space(made / "spaces" / "aligned").version

    def work() -> None:
        chiasm.align(made, method="none")
        chiasm.statistics(made, out=sums)

    def check() -> None:
        assert bool(load_space(made / "spaces" / "aligned").space.maps) == (
            load_space(made / "spaces" / "aligned").version == version
        )
        if sums.exists():
            assert PairStatistics.load(sums)[0].count == len(mixtures(5))

    with killed_at(None) as counted:
        work()
    chiasm.revert(made)
    sums.unlink()
    for step in range(0, counted(), 3):
        with killed_at(step), pytest.raises(Killed):
            work()
        check()
        if load_space(made / "spaces" / "aligned").version != version:
            chiasm.revert(made)
    work()
    check()
    assert not list(tmp_path.glob(".*.tmp")), "a file that was not finished is written over"


def test_a_space_that_is_replaced_is_kept(taught: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(taught, tmp_path / "collection"))
    before = Searcher(made).space.digest
    chiasm.align(made, method="none")
    assert not Searcher(made).space.maps
    chiasm.revert(made)
    assert Searcher(made).space.digest == before
    chiasm.revert(made, space="aligned")
    assert not Searcher(made).space.maps
    with pytest.raises(ChiasmError, match="is not a collection"):
        chiasm.revert(tmp_path, space="aligned")


# -------------------------------------------------------------------------------------------- spaces learned elsewhere


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Pictures without words."""
    chiasm.add([foreign(tmp_path / "bare-media", 3, captions=False)], to=tmp_path / "bare")
    return tmp_path / "bare"


@pytest.mark.parametrize("kind", ["collection", "statistics", "space"])
def test_a_collection_without_pairs_learns_from_the_source_alone(
    taught: Path, bare: Path, tmp_path: Path, kind: str
) -> None:
    source = {"collection": taught, "statistics": tmp_path / "s.safetensors", "space": taught / "spaces" / "aligned"}[
        kind
    ]
    if kind == "statistics":
        chiasm.statistics(taught, out=source)
    assert first_hit(bare) != "rot rot gruen"
    report = chiasm.align(bare, source=source)
    part = report.aligned["image"]
    assert (part.pairs, part.alpha, part.source_pairs) == (0, 1, len(mixtures(5)))
    assert "held" in part.measured
    assert part.blend > 0
    assert report.after["text_to_image"]["mrr"] > report.before["text_to_image"]["mrr"]
    assert first_hit(bare) == "rot rot gruen"
    with pytest.raises(SpaceError, match="no item has both"):
        chiasm.evaluate(bare)


def first_hit(collection: Path) -> str:
    """The words of the picture that is found first by those of one."""
    number = int(chiasm.search(collection, "rot rot gruen", modality="image", k=1).hits[0].id)
    return words_of(mixtures(3)[number]).replace("red", "rot").replace("green", "gruen").replace("blue", "blau")


def test_a_space_is_used_where_it_was_not_learned(taught: Path, bare: Path, tmp_path: Path) -> None:
    for path in (taught / "spaces" / "aligned", taught):
        result = chiasm.search(bare, "rot rot gruen", modality="image", k=1, space=str(path))
        assert result.space == "aligned"
        assert result.found is None, "what its scores are worth was learned elsewhere"
        assert mixtures(3)[int(result.hits[0].id)] == (2, 1, 0)
    assert chiasm.status(bare).spaces == ("start",), "it was only used"
    chiasm.add([foreign(tmp_path / "more", 3)], to=tmp_path / "more-collection")
    measured = chiasm.evaluate(tmp_path / "more-collection", space=str(taught))
    assert measured.what == "space 'aligned' of more-collection"
    assert measured.seen == 0
    with pytest.raises(SpaceError, match="has learned no space"):
        chiasm.search(bare, "rot", space=str(tmp_path / "more-collection"))
    with pytest.raises(SpaceError, match="has no space 'nowhere'"):
        chiasm.search(bare, "rot", space="nowhere")


def test_spaces_are_named_in_any_form(made: Path) -> None:
    composed, apart = "\u00e9t\u00e9", "e\u0301te\u0301"
    for name in (apart, composed):
        assert chiasm.align(made, method="none", name=name).space == composed
    assert chiasm.status(made).spaces == ("start", composed)
    for name in (apart, composed):
        assert chiasm.search(made, "red", space=name).space == composed
        assert chiasm.evaluate(made, space=name, on="training").what.startswith(f"space {composed!r}")
        chiasm.revert(made, space=name)


def coloured(folder: Path, shift: float = 0.05) -> Path:
    """Pictures without captions, labelled with the foreign word of their strongest colour."""
    words = ("rot", "gruen", "blau")
    rows = []
    for number, parts in enumerate(mixtures(4)):
        if sorted(parts)[-1] > sorted(parts)[-2]:
            path = picture(folder / f"{number}.png", [part + shift for part in parts])
            rows.append({"id": str(number), "image": path, "farbe": words[parts.index(max(parts))]})
    return table(folder / "t.jsonl", rows)


def test_a_model_is_fitted_in_a_space_that_was_learned_elsewhere(taught: Path, tmp_path: Path) -> None:
    """The names of the classes are foreign words, which only the captions of the other collection explain."""
    chiasm.add([coloured(tmp_path / "media")], to=tmp_path / "c")
    options: dict[str, Any] = {"label": "farbe", "adapter": "zero-shot", "alike": 2.0}
    plain = chiasm.fit(tmp_path / "c", out=tmp_path / "plain", **options).metrics["accuracy"]
    for path in (taught, taught / "spaces" / "aligned"):
        fitted = chiasm.fit(tmp_path / "c", out=tmp_path / "model", space=str(path), **options)
        assert fitted.metrics["accuracy"] > 0.9 > plain + 0.2
    assert chiasm.status(tmp_path / "c").spaces == ("start",), "it was only used"
    shutil.move(taught, tmp_path / "away")
    try:
        again = chiasm.evaluate(tmp_path / "model", tmp_path / "c")
        assert again.metrics["accuracy"] == fitted.metrics["accuracy"]
        told = chiasm.predict(tmp_path / "model", [tmp_path / "media" / "t.jsonl"]).predictions
        right = {row["id"]: row["farbe"] for row in chiasm.Collection.open(tmp_path / "c").items()}
        assert sum(one.label == right[one.id] for one in told) / len(told) == pytest.approx(fitted.metrics["accuracy"])
        opened = chiasm.Collection.open(tmp_path / "c")
        folder = tmp_path / "model"
        classifier = Classifier(load_model(folder), painters(), start_of(opened, painters()), folder, opened)
        (said,) = classifier.predict([[media.load(tmp_path / "media" / "0.png")]], level=0.9, false_alarm_rate=0.05)
        assert said.said["label"] == next(one.label for one in told if one.id == "0")
        chiasm.labels(tmp_path / "c", ["0"], column="farbe", label="rot")
        assert (
            chiasm.learn(tmp_path / "model", tmp_path / "c", unseen="learn", alike=2.0)
            .columns[0]
            .new_metrics["accuracy"]
            > 0.9
        )
        assert load_model(tmp_path / "model").space is not None
        with pytest.raises(ChiasmError, match="another space"):
            chiasm.evaluate(tmp_path / "model", tmp_path / "c", against=tmp_path / "plain")
    finally:
        shutil.move(tmp_path / "away", taught)


def test_a_space_that_knows_the_items_is_refused(taught: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(taught, tmp_path / "c"))
    chiasm.add([coloured(tmp_path / "media")], to=made)
    chiasm.add([coloured(tmp_path / "media")], to=tmp_path / "d")
    assert chiasm.fit(made, label="farbe", out=tmp_path / "own", alike=2.0, space="aligned").metrics["accuracy"] > 0.9
    options: dict[str, Any] = {"label": "farbe", "out": tmp_path / "model", "alike": 2.0}
    for space, message in (
        (str(tmp_path / "d"), "has learned no space"),
        ("nowhere", "has no space 'nowhere'"),
    ):
        with pytest.raises(SpaceError, match=message):
            chiasm.fit(made, space=space, **options)
    chiasm.add([coloured(tmp_path / "seen", 0)], to=tmp_path / "d")
    with pytest.raises(
        SpaceError, match=r"\d+ of the \d+ items have contents that the space 'aligned' was learned from"
    ):
        chiasm.fit(tmp_path / "d", space=str(taught), **options)
    assert not (tmp_path / "model").exists()


def test_a_server_uses_a_space_where_it_was_not_learned(taught: Path, bare: Path) -> None:
    found = {}

    async def ask(app: FastAPI) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            params: dict[str, str | int] = {"text": "rot rot gruen", "modality": "image", "k": 1}
            found.update((await client.get("/v1/search", params=params)).json()["results"][0])
            found["spaces"] = (await client.get("/v1/status")).json()["spaces"]

    for path in (taught, taught / "spaces" / "aligned"):
        plan = Plan(
            collections=(bare,), model=None, space=str(path), device="cpu", keys=None, settings=Settings(rate=None)
        )
        app = build(plan)
        try:
            asyncio.run(ask(app))
        finally:
            app.state.shelf.close()
        assert (found["space"], found["found"], found["spaces"]) == ("aligned", None, ["start"])
        assert mixtures(3)[int(found["hits"][0]["id"])] == (2, 1, 0)
    with pytest.raises(SpaceError, match="has no space 'nowhere'"):
        build(Plan(collections=(bare,), model=None, space="nowhere", device="cpu", keys=None, settings=Settings()))


def test_without_pairs_vectors_are_compared_as_was_best_on_the_source(taught: Path, bare: Path) -> None:
    """Its queries stand for the words that the target lacks; how probable a hit is here, they do not tell."""
    there = load_space(taught / "spaces" / "aligned").space.about["scores"]["text_to_image"]
    here = chiasm.align(bare, source=taught).scores["text_to_image"]
    assert here == {"preparation": there["preparation"]}
    scores = load_space(bare / "spaces" / "aligned").scores
    assert scores is not None
    pair = scores.pairs["text", "image"]
    assert pair.rows == len(mixtures(3)), "centred and scaled by what is here"
    assert chiasm.search(bare, "rot rot gruen", modality="image", k=1).hits[0].probability is None


def test_a_source_that_was_learned_from_is_known_by_its_content(taught: Path, bare: Path) -> None:
    chiasm.align(bare, source=taught)
    again = chiasm.evaluate(taught, space=str(bare))
    assert "learned without it" in again.measured
    assert again.seen == 0


def test_a_space_of_other_encoders_is_refused(taught: Path, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters("image", "text"))
    for call in (
        lambda: chiasm.search(bare, "rot", space=str(taught)),
        lambda: chiasm.evaluate(bare, space=str(taught)),
    ):
        with pytest.raises(SpaceError, match="was learned with other encoders"):
            call()
    with pytest.raises(SpaceError, match="was embedded otherwise than the target"):
        chiasm.align(bare, source=taught / "spaces" / "aligned")


def test_what_a_source_alone_cannot_teach(taught: Path, bare: Path, tmp_path: Path) -> None:
    chiasm.add([foreign(tmp_path / "few", 1)], to=tmp_path / "few-collection")
    chiasm.statistics(tmp_path / "few-collection", out=tmp_path / "few.safetensors")
    chiasm.statistics(taught, out=tmp_path / "sums.safetensors")
    for options, message in (
        ({"source": taught, "alpha": 0.5}, "weighs the source against pairs of .*, which has no pairs"),
        ({"source": tmp_path / "few.safetensors"}, "too few to learn from alone"),
        ({"source": tmp_path / "few-collection"}, "at least 10 pairs"),
        ({"source": [taught, tmp_path / "sums.safetensors"]}, "all collections, or all files of statistics"),
        ({"source": [tmp_path / "sums.safetensors"] * 2}, "or of several files"),
        ({"source": tmp_path / "sums.safetensors", "method": "kernel"}, "of statistics alone only ridge"),
        ({"source": taught / "spaces" / "start"}, "has learned no map of image"),
        ({"source": tmp_path / "nothing"}, "nothing"),
        ({}, "no item has both image and text"),
    ):
        with pytest.raises(SpaceError, match=message):
            chiasm.align(bare, **options)
    assert chiasm.status(bare).spaces == ("start",)
