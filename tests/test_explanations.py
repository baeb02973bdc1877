"""Explanations: parts sum to what they are of, planted reasons are found, and what hiding them does is measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder
from media_files import gradient, sound_bytes, tone
from painter import Painter, paint, painters
from PIL import Image as PillowImage

import chiasm
from chiasm import encoders
from chiasm.encoders.base import Cells
from chiasm.encoders.offline import ImageEncoder, class_names, image_weights
from chiasm.errors import ChiasmError, SpaceError
from chiasm.media.pieces import Piece, pieces_of, place_of, without
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.explanations import (
    Examples,
    block_contributions,
    evidence,
    example_contributions,
    mean_contributions,
    modality_shares,
    part_contributions,
    prior_evidence,
)
from chiasm.recognition.targets import parse_target
from chiasm.space import start_space
from chiasm.types import Audio, Image, Media, Text, Video
from chiasm.verbs.matching import match_places
from chiasm.verbs.model import load_model

# -------------------------------------------------------------------------------------------------------- mathematics


def planted(items: int, classes: int, seed: int) -> tuple[ModalityArrays, np.ndarray]:
    """Two modalities that both tell of the class; one has a shared vector beside its own."""
    rng = np.random.default_rng(seed)
    codes = np.arange(items) % classes
    centres = {name: rng.normal(size=(classes, dim)) for name, dim in (("image", 8), ("text", 5))}
    vectors = {
        name: (centre[codes] + rng.normal(size=(items, centre.shape[1])) + 1).astype(np.float32)
        for name, centre in centres.items()
    }
    shared = {"image": (rng.normal(size=(items, 5)) + np.eye(5)[codes]).astype(np.float32)}
    return ModalityArrays(vectors, {}, shared), np.array(["ant", "bee", "cat", "dog"])[codes]


def against_rivals(column: Any, item: ModalityArrays, answer: int) -> float:
    """The mean output of the heads for an answer, less that of its rivals, weighted by their probabilities."""
    parts = [("image", "text")] if column.fusion == "concat" else [("image",), ("text",)]
    row = np.array([0])
    outputs = np.mean([column.heads[part].outputs(column.features.rows(item, part, row))[0] for part in parts], axis=0)
    rivals = np.delete(np.exp(column.outputs(item, item.modalities, row)[0]), answer)
    return float(outputs[answer] - rivals @ np.delete(outputs, answer) / rivals.sum())


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("fusion", ["concat", "mean"])
def test_parts_of_an_embedding_sum_to_the_answer(classes: int, fusion: Any) -> None:
    X, y = planted(80, classes, seed=1)
    column = Recognizer(adapter="linear", fusion=fusion, unknown=None, folds=3).fit(X, y).only_column_
    item = X.take(np.array([3]))
    parts = np.random.default_rng(0).dirichlet(np.ones(6))[:, None] * item.vectors["image"]
    for answer in range(classes):
        made = part_contributions(column, item, "image", parts, answer)
        assert made is not None
        assert made.parts.sum() + made.rest == pytest.approx(made.total, abs=1e-5)
        assert made.total == pytest.approx(against_rivals(column, item, answer), abs=1e-4)
    assert part_contributions(column, item, "audio", parts, 0) is None, "there is none"


def test_without_linear_heads_nothing_is_exact() -> None:
    X, y = planted(80, 4, seed=1)
    stack = Recognizer(adapter="linear", fusion="stack", unknown=None, folds=3).fit(X, y).only_column_
    item = X.take(np.array([3]))
    assert part_contributions(stack, item, "image", item.vectors["image"], 0) is None
    examples = Examples(X, np.zeros(80, int), np.ones(80, dtype=bool), np.ones(80))
    assert example_contributions(stack, item, examples, 0) is None
    prototypes = Recognizer(adapter="prototypes", unknown=None, folds=3).fit(X, y).only_column_
    assert part_contributions(prototypes, item, "image", item.vectors["image"], 0) is not None, "linear, too"
    assert example_contributions(prototypes, item, examples, 0) is None


@pytest.mark.parametrize("kind", ["2 classes", "4 classes", "labels", "number"])
def test_examples_sum_to_the_answer(kind: str) -> None:
    X, y = planted(80, 2 if kind == "2 classes" else 4, seed=2)
    values: list[Any] = y.tolist()
    if kind == "labels":
        values = [f"{name};{'odd' if row % 2 else 'even'}" for row, name in enumerate(values)]
    elif kind == "number":
        values = (X.vectors["image"][:, 0] + X.vectors["text"][:, 1]).tolist()
    target = parse_target(values, column="kind")
    options: dict[str, Any] = {"adapter": "linear", "fusion": "concat"} if "classes" in kind else {}
    column = Recognizer(unknown=None, folds=3, **options).fit(X, target).only_column_
    examples = Examples(X, target.values, target.known, np.ones(80))
    item = X.take(np.array([4]))  # an ant
    made = example_contributions(column, item, examples, 0)
    assert made is not None
    assert made.parts.sum() == pytest.approx(made.total, abs=2e-3 * (1 + np.abs(made.parts).sum()))
    assert abs(made.total) > 0.05
    if "classes" in kind:
        own = target.values == 0
        assert made.parts[own].sum() > made.parts[~own].sum()


@pytest.mark.parametrize("fusion", ["concat", "mean", "stack"])
def test_blocks_of_features_sum_to_what_heads_say(fusion: Any) -> None:
    X, y = planted(80, 4, seed=5)
    column = Recognizer(adapter="linear", fusion=fusion, unknown=None, folds=3).fit(X, y).only_column_
    made = block_contributions(column, X, 1)
    chosen = y == "bee"
    uses, method = mean_contributions(column, X, chosen, 1)
    if fusion == "stack":
        assert made is None
        assert method == "shapley"
        own = evidence(column, X, 1)
        assert sum(uses.values()) == pytest.approx(own[chosen].mean() - own[~chosen].mean())
        return
    assert made is not None
    assert [*made] == ["image", "image in the shared space", "text"]
    parts: list[Any] = [("image", "text")] if fusion == "concat" else [("image",), ("text",)]
    rows = np.arange(80)
    outputs = np.mean([column.heads[part].outputs(column.features.rows(X, part, rows)) for part in parts], axis=0)
    outputs -= np.mean([column.heads[part].tensors["intercept"] for part in parts], axis=0)
    slow = outputs[:, 1] - np.delete(outputs, 1, axis=1).mean(axis=1)
    np.testing.assert_allclose(sum(made.values()), slow, atol=1e-5)
    assert method == "exact"
    assert sum(uses.values()) == pytest.approx(slow[chosen].mean() - slow[~chosen].mean(), abs=1e-5)
    assert mean_contributions(column, X, np.ones(80, dtype=bool), 1)[0] == {}, "there is nothing to compare with"


def test_shares_of_modalities_sum_exactly() -> None:
    X, y = planted(80, 4, seed=3)
    for fusion in ("concat", "mean", "stack"):
        column = Recognizer(adapter="linear", fusion=fusion, unknown=None, folds=3).fit(X, y).only_column_
        item = X.take(np.array([7]))
        for answer in range(4):
            shares = modality_shares(column, item, answer)
            whole = evidence(column, item, answer)[0] - prior_evidence(column, answer)
            assert sum(shares.values()) == pytest.approx(whole, abs=1e-12)
        alone = modality_shares(column, item.only(("text",)), 0)
        assert list(alone) == ["text"]
    known = column.probabilities(column.outputs(item, item.modalities, np.array([0])), item.modalities)[0]
    assert evidence(column, item, 1)[0] == pytest.approx(np.log(known[1] / (1 - known[1])))


# ------------------------------------------------------------------------------------------------- pieces and places


def test_places_of_a_picture_have_its_embedding_as_their_mean() -> None:
    encoder = ImageEncoder(image_weights(), class_names())
    pictures = [Image(gradient(300, 150)), Image(gradient(90, 200)), Image(gradient(224, 224))]
    cells = encoder.cells(pictures)
    assert cells is not None
    assert cells.vectors.shape == (3, 49, encoder.dim)
    np.testing.assert_allclose(cells.vectors.mean(axis=1), encoder.encode(pictures).vectors, atol=1e-4)
    np.testing.assert_allclose(cells.boxes[0][[0, 48]], [[0, -0.5, 1 / 7, -0.5 + 2 / 7], [6 / 7, 1.5 - 2 / 7, 1, 1.5]])
    np.testing.assert_allclose(cells.boxes[2][8], [1 / 7, 1 / 7, 2 / 7, 2 / 7])
    assert ImageEncoder(image_weights(), class_names(), int8=True).cells(pictures) is None


def test_what_lies_in_one_place_is_seen_there() -> None:
    """The boxes are where the network looks: a change of the picture moves the vectors of its own places most."""
    encoder = ImageEncoder(image_weights(), class_names())
    plain = np.full((224, 448, 3), 200, np.uint8)
    marked = plain.copy()
    marked[160:, 384:] = [250, 20, 20]
    cells = encoder.cells([Image(plain), Image(marked)])
    assert cells is not None
    change = np.abs(cells.vectors[1] - cells.vectors[0]).sum(axis=1)
    left, top, *_ = cells.boxes[1][change.argmax()]
    assert left > 0.6
    assert 0.3 < top < 1


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        ("A red boat, at sea!", ["A", "red", "boat", "at", "sea"]),
        ("  one  ", ["one"]),
        ("赤い船 sails", ["赤", "い", "船", "sails"]),
        ("don't stop -", ["don't", "stop", "-"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
    ],
)
def test_pieces_of_texts(words: str, pieces: list[str]) -> None:
    found = pieces_of(Text(words))
    assert [piece.text for piece in found] == pieces
    for piece in found:
        rest = without(Text(words), [piece])
        assert rest is None or (isinstance(rest, Text) and len(rest.text) < len(words))
    assert without(Text(words), found) is None


def test_a_long_text_has_few_pieces() -> None:
    words = " ".join(f"w{number}" for number in range(1000))
    found = pieces_of(Text(words))
    assert len(found) == 40
    assert " ".join(piece.text for piece in found) == words
    assert pieces_of(Text(9 * words)) == (), "every piece would be an embedding of all of it"
    assert pieces_of(Audio(np.ones(121, np.float32), 1)) == ()


def test_pieces_of_pictures_and_sounds() -> None:
    picture = Image(np.full((70, 140, 3), 9, np.uint8))
    picture.pixels[30:40, 60:80] = 200
    tiles = pieces_of(picture)
    assert len(tiles) == 49
    gone = without(picture, tiles)
    assert isinstance(gone, Image)
    assert (gone.pixels == 9).all(), "it has the colour of the border"
    assert (picture.pixels == 200).any(), "the picture itself is as it was"
    beyond = without(picture, [Piece(box=(-1.0, -1.0, 0.5, 2.0))])
    assert isinstance(beyond, Image)
    assert (beyond.pixels[:, 70:] == picture.pixels[:, 70:]).all()
    sound = Audio(tone(3.5, 1000), 1000)
    parts = pieces_of(sound)
    assert [place_of(part) for part in parts] == ["0 to 1.16667 s", "1.16667 to 2.33333 s", "2.33333 to 3.5 s"]
    quiet = without(sound, parts[:1])
    assert isinstance(quiet, Audio)
    assert not quiet.waveform[:1167].any()
    assert quiet.waveform[1167:].any()
    assert without(sound, parts) is None
    video: Media = Video(np.zeros((1, 4, 4, 3), np.uint8), np.zeros(1), 1.0)
    assert pieces_of(video) == ()


# ------------------------------------------------------------------------------------------------------------ the verb


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of pictures, captions and sounds of two colours, and models of it."""
    root = tmp_path_factory.mktemp("painted")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        kind = ("red", "green")[number % 2]
        pixels = rng.integers(0, 40, (14, 14, 3)).astype(np.uint8)
        pixels[4:10, 4:10, number % 2] += 200  # 9 of 49 places
        PillowImage.fromarray(pixels).save(root / f"{number}.png")
        words = ["tree", "house", "sky", "boat", "path"]
        rng.shuffle(words)
        rows.append(
            {
                "id": f"i{number}", "image": f"{number}.png", "text": " ".join([*words[:3], kind]), "kind": kind,
                "size": float(number % 2 + rng.normal(0, 0.1)), "tags": f"{kind};{'big' if number % 3 else 'small'}",
            }
        )  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    (root / "all.jsonl").write_text("\n".join(lines))
    (root / "half.jsonl").write_text("\n".join(lines[:24]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        chiasm.add([root / "all.jsonl"], to=root / "all")
        chiasm.add([root / "half.jsonl"], to=root / "half")
        for column in ("kind", "size", "tags", "kind,size"):
            linear: dict[str, Any] = {"adapter": "linear", "names": False} if column == "kind" else {}
            chiasm.fit(root / "half", label=column, out=root / column, alike=2.0, **linear)
    return root


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "painted" in request.fixturenames:
        monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


def test_planted_reasons_are_found(painted: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("tree red house")
    (tmp_path / "words.txt").write_text("tree red house")
    pixels = np.full((14, 14, 3), [20, 20, 90], np.uint8)  # blue, lest the red all be in the length of the vector
    pixels[4:10, 8:] = [220, 20, 90]
    pixels[6:8, 2:4] = [20, 220, 90]
    for name in ("new", "picture"):
        PillowImage.fromarray(pixels).save(tmp_path / f"{name}.png")
    found = chiasm.explain(painted / "kind", [tmp_path], collection=painted / "all")
    one, picture, bare = found.explanations
    assert one.answer == picture.answer == bare.answer == "red"
    assert set(one.modalities) == {"image", "text"}
    assert one.prior is not None
    assert sum(one.modalities.values()) + one.prior == pytest.approx(one.evidence, abs=1e-9)
    (words,) = bare.media
    assert words.method == "occlusion"
    assert words.text == "tree red house"
    assert next(iter(words.by_name)) == "red"
    (strong,) = [reason for reason in words.reasons if reason.piece == "red"]
    assert (strong.start, strong.end) == (5, 8)
    (places,) = picture.media
    assert len(places.reasons) == 49
    strongest = sorted(places.reasons, key=lambda reason: -reason.weight)[:9]
    assert all(reason.box is not None and reason.box[0] > 0.56 and 0.28 < reason.box[1] < 0.6 for reason in strongest)
    least = min(places.reasons, key=lambda reason: reason.weight)
    assert least.weight < 0
    assert least.box == pytest.approx((1 / 7, 3 / 7, 2 / 7, 4 / 7)), "the green one"
    assert found.faithfulness["image"].beats_random
    assert found.faithfulness["text"].beats_random
    assert found.faithfulness["text"].items == 16, "those that it has not learned from"
    for own in found.faithfulness.values():
        curves = own.curves
        assert curves.shares[0] == 0
        assert curves.shares[-1] == 1
        assert own.whole == curves.strongest[0] == curves.random[0] == curves.weakest[0]
        assert curves.strongest[-1] == curves.random[-1] == curves.weakest[-1], "nothing is left"
        at = curves.shares.index(own.share)
        assert own.gap == pytest.approx(curves.random[at] - curves.strongest[at])
        steps = np.diff(curves.shares)
        gaps = np.subtract(curves.random, curves.strongest)
        assert curves.deletion == pytest.approx(float((steps * (gaps[1:] + gaps[:-1]) / 2).sum())), "the trapezoids"
        assert curves.insertion > curves.insertion_error
    assert "has not learned from" in found.measured
    examples = {example.id: example for example in one.examples}
    assert examples
    assert one.examples[0].weight > 0
    assert all(int(name[1:]) < 24 for name in examples), "it has learned from these"


def test_the_smallest_change_is_predicted_again(painted: Path) -> None:
    (one,) = chiasm.explain(painted / "kind", {"id": ["a"], "text": ["red red red green house"]}).explanations
    (words,) = one.media
    assert one.answer == "red"
    assert words.change is not None
    gone = len(words.change.pieces)
    assert words.change.pieces == ("red",) * gone
    left = ["red " * (3 - hidden) + "green house" for hidden in (gone - 1, gone)]
    before, after = chiasm.predict(painted / "kind", {"id": ["a", "b"], "text": left}).predictions
    assert (before.label, after.label) == ("red", words.change.answer)


def test_one_word_is_all_that_there_is(painted: Path) -> None:
    (one,) = chiasm.explain(painted / "kind", {"id": ["a"], "text": ["red"]}).explanations
    (words,) = one.media
    assert [reason.piece for reason in words.reasons] == ["red"]
    assert one.prior is not None
    assert words.reasons[0].weight == pytest.approx(one.evidence - one.prior)
    assert words.change is None, "without it nothing is left to recognise"


def test_why_another_answer(painted: Path) -> None:
    table = {"id": ["a"], "text": ["red house"]}
    (own,) = chiasm.load(painted / "kind").explain(table).explanations
    (other,) = chiasm.explain(painted / "kind", table, answer="green").explanations
    assert (own.answer, other.answer) == ("red", "green")
    assert own.evidence == pytest.approx(-other.evidence)
    assert other.media[0].by_name["red"] < 0
    assert other.media[0].change is None, "it is not predicted"


@pytest.mark.parametrize(("column", "answer"), [("size", None), ("tags", "red"), ("kind,size", None)])
def test_every_kind_of_column(painted: Path, tmp_path: Path, column: str, answer: str | None) -> None:
    table = {"id": ["a", "b"], "text": ["red tree", "green tree"], "image": [None, painted / "1.png"]}
    options: dict[str, Any] = {"column": "size"} if "," in column else {"answer": answer}
    found = chiasm.explain(
        painted / column, table, collection=painted / "half", every=True, report=tmp_path / "why.html", **options
    )
    assert [one.id for one in found.explanations] == ["a", "b"]
    for one in found.explanations:
        assert one.prior is not None
        assert sum(one.modalities.values()) + one.prior == pytest.approx(one.evidence, abs=1e-9)
        assert (one.probability is None) == ("size" in column)
    assert "has learned from" in found.measured
    assert found.explanations[0].media[0].path is None
    assert json.loads(json.dumps(found.as_dict()))["explanations"][0]["id"] == "a"
    if "size" in column:
        assert found.explanations[0].examples
    page = (tmp_path / "why.html").read_text()
    assert "How far this can be believed" in page
    assert "what is left of the answer" in page
    assert page.count("<mark") >= 2


def test_reasons_no_better_than_random_are_not_shown(painted: Path) -> None:
    """The pictures of one colour all over say the same everywhere."""
    pixels = np.full((14, 14, 3), [220, 10, 10], np.uint8)
    PillowImage.fromarray(pixels).save(painted / "flat.png")
    rows = [json.dumps({"id": f"f{number}", "image": str(painted / "flat.png")}) for number in range(12)]
    (painted / "flat.jsonl").write_text("\n".join(rows))
    chiasm.add([painted / "flat.jsonl"], to=painted / "flat")
    found = chiasm.explain(painted / "kind", [painted / "flat.png"], collection=painted / "flat")
    assert not found.faithfulness["image"].beats_random
    (medium,) = found.explanations[0].media
    assert medium.method is None
    assert "random" in medium.note
    assert any("image is not shown" in note for note in found.notes)
    shown = chiasm.explain(painted / "kind", [painted / "flat.png"], collection=painted / "flat", every=True)
    assert shown.explanations[0].media[0].method == "occlusion"


def test_items_of_another_collection_with_the_same_ids_were_not_learned_from(painted: Path, tmp_path: Path) -> None:
    rows = [{"id": f"i{number}", "text": f"boat sky {number} {('red', 'green')[number % 2]}"} for number in range(24)]
    rows = [{**row, "kind": ("red", "green")[number % 2]} for number, row in enumerate(rows)]
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    chiasm.add([tmp_path / "other.jsonl"], to=tmp_path / "other")
    report = chiasm.explain(painted / "kind", painted / "0.png", collection=tmp_path / "other", sample=3)
    assert report.measured == "items that the model has not learned from, of other"
    assert any("none of the items" in note for note in report.notes)
    shutil.copytree(painted / "half", tmp_path / "same")
    report = chiasm.explain(painted / "kind", painted / "0.png", collection=tmp_path / "same", sample=3)
    assert report.measured == "items that the model has learned from, of same"


def test_sounds_are_explained_by_their_seconds(painted: Path, tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        kind, loud = (("red", 0.1), ("green", 0.4))[number % 2]
        (tmp_path / f"{number}.wav").write_bytes(sound_bytes(tone(2.0, 8000, amplitude=loud), 8000, "WAV"))
        rows.append(json.dumps({"id": f"s{number}", "audio": f"{number}.wav", "kind": kind}))
    (tmp_path / "sounds.jsonl").write_text("\n".join(rows))
    chiasm.add([tmp_path / "sounds.jsonl"], to=tmp_path / "sounds")
    chiasm.fit(tmp_path / "sounds", label="kind", out=tmp_path / "model", alike=2.0)
    both = np.concatenate([tone(1.0, 8000, amplitude=0.1), tone(2.0, 8000, amplitude=0.4)])
    (tmp_path / "both.wav").write_bytes(sound_bytes(both, 8000, "WAV"))
    (one,) = chiasm.explain(tmp_path / "model", [tmp_path / "both.wav"], report=tmp_path / "why.md").explanations
    assert one.answer == "green"
    (sound,) = one.media
    assert [reason.weight > 0 for reason in sound.reasons] == [False, True, True]
    assert "1 to 2 s" in (tmp_path / "why.md").read_text()


def test_a_model_as_a_whole_is_explained(painted: Path, tmp_path: Path) -> None:
    bare = chiasm.explain(painted / "kind")
    assert [one.answer for one in bare.classes] == ["green", "red"]
    assert all(one.method == "exact" and sum(one.uses.values()) > 1 for one in bare.classes)
    assert not any(one.words or one.pieces for one in bare.classes)
    assert any("name it" in note for note in bare.notes)
    whole = chiasm.explain(painted / "kind", collection=painted / "all", report=tmp_path / "why.html")
    for one in whole.classes:
        assert one.items == 20
        assert one.words[0].word == one.answer
        assert one.words[0].texts == 10, "of the ten that are surest"
        assert [word.weight for word in one.words] == sorted((word.weight for word in one.words), reverse=True)
        assert one.pieces
        for piece in one.pieces:
            assert piece.reason.box is not None
            assert all(0.28 < side < 0.72 for side in piece.reason.box), "where the colour is"
    page = (tmp_path / "why.html").read_text()
    assert "red: 20 items" in page
    assert "places that speak for the answer" in page
    (only,) = chiasm.explain(painted / "kind", collection=painted / "all", answer="red", sample=0).classes
    assert only.answer == "red"
    (tmp_path / "sound.wav").write_bytes(sound_bytes(tone(2.0, 8000, amplitude=0.1), 8000, "WAV"))
    chiasm.add([tmp_path / "sound.wav"], to=tmp_path / "strange")  # nothing that the model knows
    none = chiasm.explain(painted / "kind", collection=tmp_path / "strange")
    assert none.classes == ()
    assert any("gets the answer green or red" in note for note in none.notes)


@pytest.mark.parametrize(("column", "answers"), [("size", ["size"]), ("tags", ["big", "green", "red"])])
def test_labels_and_numbers_have_reasons_too(painted: Path, column: str, answers: list[str]) -> None:
    bare = chiasm.explain(painted / column)
    assert bare.classes == ()
    assert any("keeps no items" in note for note in bare.notes)
    found = chiasm.explain(painted / column, collection=painted / "all", sample=0)
    assert [one.answer for one in found.classes] == answers
    assert any("gets the answer small" in note for note in found.notes) == (column == "tags")
    assert found.classes[-1].uses


def test_what_cannot_be_explained_is_said(painted: Path, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match="does not know 'blue'"):
        chiasm.explain(painted / "kind", painted / "0.png", answer="blue")
    with pytest.raises(ChiasmError, match="has no column 'shape'"):
        chiasm.explain(painted / "kind", painted / "0.png", column="shape")
    with pytest.raises(ChiasmError, match="several columns"):
        chiasm.explain(painted / "kind,size", painted / "0.png")
    with pytest.raises(ChiasmError, match="leave the answer out"):
        chiasm.explain(painted / "size", painted / "0.png", answer="1")
    with pytest.raises(ChiasmError, match="got -1"):
        chiasm.explain(painted / "kind", painted / "0.png", collection=painted / "half", sample=-1)
    with pytest.raises(ChiasmError, match="name the collection"):
        chiasm.explain(painted / "kind", painted / "0.png", every=True)
    (one,) = chiasm.explain(painted / "kind", {"id": ["a"], "text": ["red tree " * 3000]}).explanations
    assert "this long" in one.media[0].note
    assert one.modalities, "its share is known"
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n")
    found = chiasm.explain(painted / "kind", [tmp_path])
    assert found.explanations == ()
    assert [one.outcome for one in found.outcomes] == ["broken"]
    assert load_model(painted / "kind").label == "kind"


# ------------------------------------------------------------------------------------------------- words and pictures


def test_a_report_shows_what_spoke_for_mistakes(painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.full((14, 14, 3), [20, 20, 90], np.uint8)
    pixels[4:10, 8:] = [220, 20, 90]
    PillowImage.fromarray(pixels).save(tmp_path / "red.png")
    rows = [{"id": f"wrong{n}", "image": "red.png", "text": f"red {n}", "kind": "green"} for n in range(3)]
    rows += [{"id": f"right{n}", "image": "red.png", "text": f"red tree {n}", "kind": "red"} for n in range(3)]
    (tmp_path / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, kind in (("tiled", Tiled), ("plain", Painter)):
        own = [Painter(("text",)), kind(("image",), version="2")]  # in a space of its own, as offline
        monkeypatch.setattr(encoders, "resolve", lambda *_, own=own, **__: own)
        chiasm.add([painted / "half.jsonl"], to=tmp_path / "half")
        chiasm.add([tmp_path / "new.jsonl"], to=tmp_path / "new")
        linear: dict[str, Any] = {"adapter": "linear", "fusion": "concat", "names": False}
        chiasm.fit(tmp_path / "half", label="kind", out=tmp_path / name, alike=2.0, **linear)
        chiasm.evaluate(tmp_path / name, tmp_path / "new", report=tmp_path / f"{name}.html")
    pages = {name: (tmp_path / f"{name}.html").read_text() for name in ("tiled", "plain")}
    assert pages["tiled"].count("places that speak for the answer") == 3
    assert "orange spoke for what was predicted" in pages["tiled"]
    assert "places that speak" not in pages["plain"], "it would take seconds"


class Tiled(Painter):
    """Its embedding of a picture is the mean of those of 7 x 7 places."""

    def cells(self, pictures: Sequence[Image]) -> Cells:
        places = [
            [Image(tile) for row in np.split(one.pixels, 7) for tile in np.split(row, 7, axis=1)] for one in pictures
        ]
        boxes = np.array([piece.box for piece in pieces_of(pictures[0])])
        return Cells(np.array([[paint(tile) for tile in own] for own in places]), np.stack([boxes] * len(pictures)))


@pytest.mark.parametrize("encoder", [Painter(), Tiled()], ids=["hidden", "left out"])
def test_places_of_a_picture_match_words(encoder: Painter) -> None:
    pixels = np.full((14, 14, 3), [0, 0, 200], np.uint8)
    pixels[4:8, 10:] = [250, 0, 0]
    picture, space = Image(pixels), start_space([encoder])
    match = match_places(Text("red"), picture, space, [encoder])
    red, whole = place_cosines(pixels)
    assert match.score == pytest.approx(whole, abs=1e-6)
    assert {one.piece for one in match.reasons if one.weight > 0} == {"right"}
    assert sum(one.weight > 0 for one in match.reasons) == 4
    if isinstance(encoder, Tiled):  # the rest without a red place, the slow way
        assert max(one.weight for one in match.reasons) == pytest.approx(whole - red, abs=1e-6)


def place_cosines(pixels: np.ndarray) -> tuple[float, float]:
    """The cosine of red with a picture without its last red place, and with all of it."""
    tiles = [tile.mean((0, 1)) for row in np.split(pixels, 7) for tile in np.split(row, 7, axis=1)]
    rest = np.mean([*tiles[:20], *tiles[21:]], axis=0)
    return tuple(float(one[0] / np.linalg.norm(one)) for one in (rest, np.mean(tiles, axis=0)))  # type: ignore[return-value]


def test_what_cannot_be_compared_has_no_match() -> None:
    apart = [Painter(("image",)), FakeEncoder(("text",), version="2")]
    with pytest.raises(SpaceError, match="chiasm align"):
        match_places(Text("red"), Image(gradient(14, 14)), start_space(apart), apart)
    with pytest.raises(SpaceError, match="found nothing in the picture"):
        match_places(Text("red"), Image(np.zeros((14, 14, 3), np.uint8)), start_space([Painter()]), [Painter()])
