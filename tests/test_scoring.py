"""What a collection's own pairs teach about scores: which pairs of modalities have examples, and what stands for a query."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painter import COLOURS, mixtures, painted, painters, picture, sound, table, words_of

import chiasm
from chiasm import encoders
from chiasm.alignment.alignment import LearnedMap
from chiasm.retrieval.scores import ScoreModel
from chiasm.store.collection import Collection
from chiasm.verbs.dataset import pairs_of
from chiasm.verbs.scoring import CrossFitted, fit_scores, short
from chiasm.verbs.spaces import placed_vectors, start_of


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


def fitted(path: Path, **options: Any) -> ScoreModel:
    collection = Collection.open(path)
    space = start_of(collection, painters())
    return fit_scores(collection, space, placed_vectors(collection, space), painters(), **options)


def probable(model: ScoreModel) -> set[tuple[str, str]]:
    return {names for names, pair in model.pairs.items() if pair.relevance is not None}


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


def test_pairs_with_examples_have_probabilities(made: Path) -> None:
    model = fitted(made)
    assert set(model.pairs) == {("image", "image"), ("image", "text"), ("text", "image"), ("text", "text")}
    assert probable(model) == {("image", "text"), ("text", "image"), ("text", "text")}, (
        "no picture has a second picture"
    )
    assert model.pairs["text", "image"].rows == len(mixtures(5))
    assert model.pairs["text", "image"].choice.groups == len(mixtures(5))
    assert model.pairs["text", "image"].choice.score == pytest.approx(1)


def test_sounds_that_have_words(tmp_path: Path) -> None:
    colours = list(COLOURS)
    rows = []
    for number, parts in enumerate(parts for parts in mixtures(3) if sum(parts) > 1):
        heard = words_of(parts).split()
        rows.append({"id": str(number), "text": words_of(parts), "audio": sound(tmp_path / f"{number}.wav", *heard)})
    rows += [
        {"id": colour, "image": picture(tmp_path / f"{colour}.png", np.eye(3)[colours.index(colour)])}
        for colour in colours
    ]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    model = fitted(tmp_path / "collection")
    assert len(model.pairs) == 9, "every modality that is there, with every other"
    assert probable(model) == {("text", "audio"), ("audio", "text"), ("text", "text")}


def test_fewer_than_ten_pairs_teach_nothing(tmp_path: Path) -> None:
    chiasm.add([painted(tmp_path / "media", 2)], to=tmp_path / "collection")
    model = fitted(tmp_path / "collection")
    assert len(mixtures(2)) < 10
    assert len(model.pairs) == 4
    assert probable(model) == set()


def test_pairs_that_a_map_learned_from_are_taken_as_they_were_cross_fitted(made: Path) -> None:
    collection = Collection.open(made)
    start = start_of(collection, painters())
    data = pairs_of(collection, start, ("image", "text"))
    anything = np.random.default_rng(0).standard_normal(data.start.shape).astype(np.float32)
    anything /= np.linalg.norm(anything, axis=1, keepdims=True)
    right, wrong = (fitted(made, learned=[CrossFitted(data, placed)]) for placed in (data.start, anything))
    assert right.pairs["text", "image"].choice.plain_score == pytest.approx(1)
    assert wrong.pairs["text", "image"].choice.plain_score < 0.8
    assert wrong.pairs["image", "text"].choice.plain_score < 0.8
    assert wrong.pairs["text", "text"].choice.plain_score == pytest.approx(
        right.pairs["text", "text"].choice.plain_score
    )


def test_pairs_of_a_mapped_modality_are_not_examples_by_themselves(made: Path) -> None:
    """A map places the pairs that it was learned from too well."""
    collection = Collection.open(made)
    learned = LearnedMap(np.eye(12, dtype=np.float32), np.zeros(12, np.float32), 0.5)
    space = start_of(collection, painters()).with_maps("mapped", {"image": learned}, about={})
    model = fit_scores(collection, space, placed_vectors(collection, space), painters())
    assert probable(model) == {("text", "text")}


def test_texts_in_files_are_read_and_those_that_are_gone_are_not(tmp_path: Path) -> None:
    rows = []
    for number, parts in enumerate(mixtures(4)):
        path = tmp_path / "texts" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"The {words_of(parts)}. Another sentence, {number} of them.", encoding="utf-8")
        rows.append({"id": str(number), "text": str(path)})
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    assert probable(fitted(tmp_path / "collection")) == {("text", "text")}
    for number in range(len(rows) - 9):
        (tmp_path / "texts" / f"{number}.txt").unlink()
    assert probable(fitted(tmp_path / "collection")) == set(), "nine are left"


def test_the_same_seed_gives_the_same(made: Path) -> None:
    first, second = (fitted(made, seed=3).state() for _ in range(2))
    assert first[0] == second[0]
    for name, array in first[1].items():
        np.testing.assert_array_equal(second[1][name], array)


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("A red apple on a table.", "red apple on a table"),
        ("An owl, seen from behind", "owl"),
        ("The the", "the"),
        ("Some   words \n and more", "words"),
        ("one two three four five six seven eight nine ten", "one two three four five six seven eight"),
        ("Heron (Ardea cinerea)", "heron"),
        ("Athens: a city", "athens"),
        ("  Ein Haus\u2014rot", "ein haus"),
        ("(nothing before)", ""),
        ("...", ""),
        ("an", "an"),
        ("another day", "another day"),
    ],
)
def test_what_one_would_type(text: str, typed: str) -> None:
    assert short(text) == typed
