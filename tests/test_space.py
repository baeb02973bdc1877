"""Spaces made of fake encoders whose vectors are known, learned in, saved, and read again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float
from safetensors.numpy import load_file, save_file

from chiasm import space as module
from chiasm.alignment.alignment import LearnedMap
from chiasm.alignment.bridge import conse
from chiasm.alignment.closed_form import KernelAlignment, RidgeAlignment
from chiasm.alignment.pairs import PairArrays
from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Prepared, View
from chiasm.errors import SpaceError
from chiasm.space import NAME_TEMPLATES, Space, start_space
from chiasm.types import Audio, Image, Media, Modality, Text
from chiasm.vectors import unit_rows

Matrix = Float[np.ndarray, "rows columns"]
CLASSES = ("cat", "dog", "red car", "tree", "bus")


class Fake(Encoder):
    """An embedding is a fixed random vector of the medium's content; nothing but zeros for silence and for ""."""

    def __init__(
        self,
        name: str,
        modalities: Sequence[Modality],
        *,
        dim: int = 6,
        vector_space: str = "",
        head: ClassHead | None = None,
        version: str = "1",
    ) -> None:
        self.name = name
        self.modalities = frozenset(modalities)
        self.dim = dim
        self.view = View()
        self.batch_size = 4
        self.head = head
        self.fingerprint = f"{name}-{version}-{dim}"
        self.shared = vector_space
        self.calls = 0
        self.encoded: list[str] = []

    @property
    def vector_space(self) -> str:
        return self.shared or self.fingerprint

    def prepare(self, media: Media) -> Prepared:
        self._require(media.modality)
        if isinstance(media, Text):
            return media.text
        if isinstance(media, Audio):
            return "" if not media.waveform.any() else f"sound {media.waveform.sum()}"
        assert isinstance(media, Image)
        return f"picture {media.pixels.sum()}"

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        self._require(modality)
        self.calls += 1
        self.encoded += batch
        vectors = np.zeros((len(batch), self.dim), np.float32)
        for row, content in enumerate(batch):
            if content:
                seed = [*self.vector_space.encode(), *str(content).encode()]
                vectors[row] = np.random.default_rng(seed).standard_normal(self.dim)
        return Embeddings(vectors, (None,) * len(batch))

    def class_head(self) -> ClassHead | None:
        return self.head


class Ear(Fake):
    """Words of six numbers and a sound beside them."""

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        return (self.vector_space, 6), (self.fingerprint, self.dim - 6)


def head(dim: int = 8, seed: int = 0) -> ClassHead:
    rng = np.random.default_rng(seed)
    weight, bias = rng.standard_normal((dim, len(CLASSES))), rng.standard_normal(len(CLASSES))
    return ClassHead(weight.astype(np.float32), bias.astype(np.float32), CLASSES)


def text_encoder(**changes: Any) -> Fake:
    return Fake("words", ["text"], **changes)


def image_encoder(**changes: Any) -> Fake:
    return Fake("pictures", ["image", "video"], **{"dim": 8, "head": head(), **changes})


def speech_encoder(**changes: Any) -> Fake:
    return Fake("speech", ["audio"], **{"vector_space": "words-1-6", **changes})


def picture(value: int) -> Image:
    return Image(np.full((2, 2, 3), value, np.uint8))


def sound(value: float) -> Audio:
    return Audio(np.full(8, value, np.float32), 16_000)


def vectors(rows: int, dim: int = 8, *, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


@pytest.fixture
def encoders() -> list[Encoder]:
    """As in the offline space: pictures with class names, words, and speech that is embedded as words."""
    return [image_encoder(), text_encoder(), speech_encoder()]


@pytest.fixture
def start(encoders: list[Encoder]) -> Space:
    return start_space(encoders)


@pytest.fixture
def learned(start: Space) -> Space:
    rng = np.random.default_rng(5)
    weight, bias = rng.standard_normal((14, 6)).astype(np.float32), rng.standard_normal(6).astype(np.float32)
    maps: dict[Modality, LearnedMap] = {"image": LearnedMap(weight, bias, 0.7)}
    return start.with_maps("aligned", maps, about={"pairs": 2})


# --------------------------------------------------------------------------------------------------------------- start


def test_a_joint_encoder_needs_nothing() -> None:
    joint = Fake("joint", ["image", "text"])
    space = start_space([joint])
    assert space.starts == {"image": "identity", "text": "identity"}
    assert space.fingerprints == {"image": "joint-1-6", "text": "joint-1-6"}
    assert space.dim == 6
    assert space.tensors == {}
    raw = vectors(4, 6)
    np.testing.assert_allclose(space.place("image", raw), raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)
    np.testing.assert_array_equal(space.features("text", raw, space.start("text", raw)), unit_rows(raw))
    assert joint.calls == 0


def test_where_no_class_names_are_needed() -> None:
    space = start_space([image_encoder(head=None)], name="pictures only")
    assert (space.modalities, space.dim, space.name) == (("image", "video"), 8, "pictures only")
    space = start_space([text_encoder(), speech_encoder()])
    assert space.starts == {"text": "identity", "audio": "identity"}
    assert space.fingerprints == {"text": "words-1-6", "audio": "speech-1-6"}


def test_images_come_in_through_the_names_of_their_classes(start: Space) -> None:
    assert start.starts == {"image": "classes", "video": "classes", "text": "words", "audio": "words"}
    assert start.dim == 6
    words = text_encoder()
    embedded = []
    for name in CLASSES:
        phrases = [words.encode([Text(template.format(name))]).vectors[0] for template in NAME_TEMPLATES]
        total = np.sum([phrase / np.linalg.norm(phrase) for phrase in phrases], axis=0)
        embedded.append(total / np.linalg.norm(total))
    centre = np.mean(embedded, axis=0)
    names = unit_rows((np.array(embedded) - centre).astype(np.float32))
    np.testing.assert_allclose(start.tensors["centre"], centre, atol=1e-6)

    raw = vectors(5)
    expected = conse(raw, weight=head().weight, bias=head().bias, names=names)
    np.testing.assert_allclose(start.place("image", raw), expected, atol=1e-5)
    np.testing.assert_allclose(start.place("video", raw), expected, atol=1e-5)
    raw = vectors(5, 6)
    expected = unit_rows(raw) - centre
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(start.place("text", raw), expected, atol=1e-5)
    np.testing.assert_allclose(start.place("audio", raw), expected, atol=1e-5)


def test_an_image_of_a_sure_class_is_where_the_text_of_its_name_is() -> None:
    sure = ClassHead(100 * np.eye(5, 8, dtype=np.float32).T, np.zeros(5, np.float32), CLASSES)
    space = start_space([image_encoder(head=sure), text_encoder(dim=64)])
    images = space.place("image", np.eye(5, 8, dtype=np.float32))
    words = space.embed([Text(f"a photo of a {name}") for name in CLASSES], [text_encoder(dim=64)])
    np.testing.assert_array_equal(np.argmax(words @ images.T, axis=1), np.arange(5))


def test_names_are_embedded_once_a_machine() -> None:
    """And once for pictures and videos; other names, or another text encoder, are embedded anew."""

    def embedded(version: str, names: tuple[str, ...] = CLASSES) -> tuple[Space, list[str]]:
        words = text_encoder(version=version)
        classes = ClassHead(head().weight, head().bias, names)
        return start_space([image_encoder(head=classes), words]), words.encoded

    first, phrases = embedded("only here")
    assert sorted(phrases) == sorted(template.format(name) for template in NAME_TEMPLATES for name in CLASSES)
    again, phrases = embedded("only here")
    assert phrases == []
    assert again.digest == first.digest
    assert len(embedded("only there")[1]) == len(CLASSES) * len(NAME_TEMPLATES)
    assert len(embedded("only here", (*CLASSES[:4], "lorry"))[1]) == len(CLASSES) * len(NAME_TEMPLATES)


def test_what_a_map_reads_does_not_depend_on_other_rows(start: Space) -> None:
    raw = vectors(5)
    features = start.features("image", raw, start.start("image", raw))
    np.testing.assert_allclose(features, np.hstack([unit_rows(raw), 0.5 * start.start("image", raw)]), atol=1e-6)
    np.testing.assert_allclose(
        features[2:3], start.features("image", raw[2:3], start.start("image", raw[2:3])), atol=1e-6
    )
    texts = vectors(5, 6)
    np.testing.assert_array_equal(start.features("text", texts, start.start("text", texts)), start.start("text", texts))


def test_of_several_encoders_the_first_has_a_modality() -> None:
    space = start_space(
        [Fake("first", ["text"], vector_space="s"), Fake("second", ["text", "image"], vector_space="s")]
    )
    assert space.fingerprints == {"text": "first-1-6", "image": "second-1-6"}


def test_a_space_needs_an_encoder() -> None:
    with pytest.raises(SpaceError, match="at least one encoder"):
        start_space([])


def test_what_has_no_bridge_finds_only_its_like(tmp_path: Path) -> None:
    """Pictures and texts through class names, noises apart; each has the cosines that it has by itself."""
    noise = Fake("noise", ["audio"])
    space = start_space([image_encoder(), text_encoder(), noise])
    plain = start_space([image_encoder(), text_encoder()])
    assert space.dim == 6 + 6
    assert space.starts == {"image": "classes", "video": "classes", "text": "words", "audio": "identity"}
    assert space.apart() == (("image", "audio"), ("video", "audio"), ("text", "audio"))
    raw = {"image": vectors(4), "text": vectors(4, 6), "audio": vectors(4, 6, seed=1)}
    placed = {name: space.place(name, raw[name]) for name in ("image", "text", "audio")}
    ours, theirs = (
        placed["image"] @ placed["text"].T,
        plain.place("image", raw["image"]) @ plain.place("text", raw["text"]).T,
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(
        placed["audio"] @ placed["audio"].T, unit_rows(raw["audio"]) @ unit_rows(raw["audio"]).T, atol=1e-6
    )
    assert not (placed["audio"] @ placed["text"].T).any()
    assert space.comparable(placed["audio"][0]) == ("audio",)
    assert space.comparable(placed["text"][0]) == ("image", "video", "text")
    np.testing.assert_allclose(
        space.features("audio", raw["audio"], placed["audio"]), unit_rows(raw["audio"]), atol=1e-6
    )

    weight = np.hstack([np.ones((6, 6)), np.zeros((6, 6))]).astype(np.float32)
    led = space.with_maps("led", {"audio": LearnedMap(weight, np.zeros(12, np.float32), 0.5)}, about={})
    assert led.apart() == ()
    led.save(tmp_path)
    again = Space.load(tmp_path)
    assert (again.blocks, again.digest) == (led.blocks, led.digest)
    assert again.comparable(again.place("audio", raw["audio"])[0]) == ("image", "video", "text", "audio")


def test_sounds_without_words_stand_alone_and_those_with_words_among_the_texts(tmp_path: Path) -> None:
    def placed(space: Space) -> Matrix:
        """Words and sound; sound alone; nothing."""
        return space.place("audio", np.stack([raw[0], np.append(np.zeros(6, np.float32), raw[1, 6:]), 0 * raw[0]]))

    ear = Ear("ear", ["audio"], vector_space="words-1-6", dim=9)
    space = start_space([image_encoder(), text_encoder(), ear])
    assert (space.dim, space.apart()) == (6 + 3, ())
    raw = vectors(2, 9)
    both, alone, nothing = placed(space)
    np.testing.assert_allclose(both, space.place("text", raw[:1, :6])[0], atol=1e-6)
    np.testing.assert_allclose(alone, np.append(np.zeros(6), unit_rows(raw[1:, 6:])[0]), atol=1e-6)
    assert not nothing.any()
    assert space.alone("audio", placed(space)).tolist() == [False, True, False]
    assert not space.alone("text", both[None]).any()
    assert space.comparable(both) == ("image", "video", "text", "audio")
    assert space.comparable(alone) == ("audio",)
    assert [space.meets(vector) for vector in (both, alone, unit_rows((both + alone)[None])[0])] == [
        (True, False),
        (False, True),
        (True, True),
    ]
    space.save(tmp_path)
    again = Space.load(tmp_path)
    assert (again.blocks, again.digest) == (space.blocks, space.digest)
    np.testing.assert_array_equal(placed(again), placed(space))

    features = space.features("audio", raw, space.start("audio", raw))
    weight = np.hstack([np.ones((features.shape[1], 6)), np.zeros((features.shape[1], 3))]).astype(np.float32)
    led = space.with_maps("led", {"audio": LearnedMap(weight, np.zeros(9, np.float32), 0.5)}, about={})
    assert not led.alone("audio", placed(led)).any(), "a map leads them to the others"


def test_sounds_without_words_where_there_are_no_texts() -> None:
    space = start_space([Ear("ear", ["audio"], vector_space="words-1-6", dim=9)])
    raw = vectors(2, 9)
    raw[1, :6] = 0
    assert space.dim == 9
    assert space.alone("audio", space.place("audio", raw)).tolist() == [False, True]


def test_encoders_without_any_bridge_stand_side_by_side() -> None:
    space = start_space([image_encoder(head=None), text_encoder()])
    assert space.apart() == (("image", "text"), ("video", "text"))
    assert space.dim == 8 + 6


# ------------------------------------------------------------------------------------------------------------- learned


def test_a_learned_map_is_blended_with_the_start(start: Space, learned: Space) -> None:
    raw = vectors(5)
    begin = start.place("image", raw)
    part = learned.maps["image"]
    mixed = 0.3 * begin + 0.7 * (start.features("image", raw, begin) @ part.weight + part.bias)
    np.testing.assert_allclose(
        learned.place("image", raw), mixed / np.linalg.norm(mixed, axis=1, keepdims=True), atol=1e-5
    )
    np.testing.assert_array_equal(learned.place("video", raw), start.place("video", raw))
    np.testing.assert_array_equal(learned.place("text", raw[:, :6]), start.place("text", raw[:, :6]))
    assert (learned.name, learned.about) == ("aligned", {"pairs": 2})
    assert learned.created > start.created
    assert start.maps == {}
    assert start.name == "start"


def test_a_space_places_as_the_alignment_that_it_was_learned_by(start: Space) -> None:
    raw, anchors = vectors(40), start.place("text", vectors(40, 6, seed=1))
    begin = start.start("image", raw)
    features = start.features("image", raw, begin)
    fitted = RidgeAlignment(blends=[0.7]).fit(PairArrays(features, anchors, begin))
    maps: dict[Modality, LearnedMap] = {"image": fitted.map}
    space = start.with_maps("aligned", maps, about={})
    np.testing.assert_array_equal(space.place("image", raw), fitted.transform(features, begin))


def test_a_map_of_kernel_features_is_kept(start: Space, tmp_path: Path) -> None:
    raw, anchors = vectors(40), start.place("text", vectors(40, 6, seed=1))
    begin = start.start("image", raw)
    features = start.features("image", raw, begin)
    fitted = KernelAlignment(blends=[0.7], widths=[0.5]).fit(PairArrays(features, anchors, begin))
    assert fitted.map.kernel is not None
    maps: dict[Modality, LearnedMap] = {"image": fitted.map}
    space = start.with_maps("bent", maps, about={})
    np.testing.assert_array_equal(space.place("image", raw), fitted.transform(features, begin))
    space.save(tmp_path / "bent")
    again = Space.load(tmp_path / "bent")
    np.testing.assert_array_equal(again.place("image", raw), space.place("image", raw))
    wider: dict[Modality, LearnedMap] = {
        "image": replace(fitted.map, kernel=replace(fitted.map.kernel, width=2 * fitted.map.kernel.width))
    }
    assert start.with_maps("wider", wider, about={}).digest != space.digest


def test_a_map_without_a_share_leaves_the_start(start: Space, learned: Space) -> None:
    none: dict[Modality, LearnedMap] = {"image": replace(learned.maps["image"], blend=0.0)}
    for space in (start, learned):
        same = space.with_maps("other", none, about={})
        assert same.digest == start.digest
        np.testing.assert_array_equal(same.place("image", vectors(3)), start.place("image", vectors(3)))


def test_a_second_map_joins_the_first(learned: Space) -> None:
    text: dict[Modality, LearnedMap] = {"text": LearnedMap(np.eye(6, dtype=np.float32), np.ones(6, np.float32), 0.5)}
    both = learned.with_maps("both", text, about={})
    assert set(both.maps) == {"image", "text"}
    np.testing.assert_array_equal(both.place("image", vectors(3)), learned.place("image", vectors(3)))


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "/a", "a/"])
def test_a_name_is_that_of_a_folder(start: Space, name: str) -> None:
    with pytest.raises(SpaceError, match="cannot name a space"):
        start.with_maps(name, {}, about={})


def test_nothing_has_no_place(start: Space, learned: Space) -> None:
    for space in (start, learned):
        widths: dict[Modality, int] = {"image": 8, "text": 6, "audio": 6}
        for modality, dim in widths.items():
            raw = vectors(3, dim)
            alone = space.place(modality, raw)
            raw[1] = 0
            placed = space.place(modality, raw)
            assert not placed[1].any()
            np.testing.assert_allclose(placed[[0, 2]], alone[[0, 2]], atol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, rtol=1e-5)
            assert space.place(modality, raw[:0]).shape == (0, 6)


# --------------------------------------------------------------------------------------------------------------- embed


def test_media_are_embedded_in_order_and_by_modality_at_once(learned: Space, encoders: list[Encoder]) -> None:
    media: list[Media] = [Text("a cat"), picture(3), sound(0.5), Text("a dog"), picture(4)]
    for encoder in encoders:
        assert isinstance(encoder, Fake)
        encoder.calls = 0
    found = learned.embed(media, encoders)
    assert [encoder.calls for encoder in encoders if isinstance(encoder, Fake)] == [1, 1, 1]
    for row, medium in enumerate(media):
        encoder = next(one for one in encoders if medium.modality in one.modalities)
        expected = learned.place(medium.modality, encoder.encode([medium]).vectors)[0]
        np.testing.assert_allclose(found[row], expected, atol=1e-6)
    assert learned.embed([], encoders).shape == (0, 6)


def test_a_sound_without_words_is_no_query(start: Space, encoders: list[Encoder]) -> None:
    with pytest.raises(SpaceError, match="found nothing in the audio"):
        start.embed([sound(0.5), sound(0)], encoders)
    with pytest.raises(SpaceError, match=r"words found nothing in the text that it can embed$"):
        start.embed([Text("")], encoders)


def test_a_modality_that_the_space_lacks(encoders: list[Encoder]) -> None:
    space = start_space(encoders[:2])
    message = r"'start' has image, video, text, not audio. .* encoders that take audio"
    for ask in (
        lambda: space.embed([sound(0.5)], encoders),
        lambda: space.place("audio", vectors(1, 6)),
        lambda: space.start("audio", vectors(1, 6)),
        lambda: space.encoder("audio", encoders),
    ):
        with pytest.raises(SpaceError, match=message):
            ask()
    with pytest.raises(SpaceError, match="names encoders that take image"):
        start_space([text_encoder()]).embed([picture(1)], encoders)


def test_an_encoder_that_is_not_here_or_of_another_version(start: Space, encoders: list[Encoder]) -> None:
    for medium, fewer in ((sound(0.5), encoders[:2]), (Text("a cat"), encoders[:1])):
        with pytest.raises(SpaceError, match="is not installed here"):
            start.embed([medium], fewer)
    with pytest.raises(SpaceError, match="chiasm add again"):
        start.embed([Text("a cat")], [encoders[0], text_encoder(version="2")])
    assert start.encoder("text", encoders) is encoders[1]


# -------------------------------------------------------------------------------------------------------------- digest


def test_the_digest_changes_with_what_places_vectors(
    start: Space, learned: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(name: str) -> Space:
        tensor = learned.tensors[name].copy()
        tensor.flat[0] = np.nextafter(tensor.flat[0], np.float32(9))
        return replace(learned, tensors={**learned.tensors, name: tensor})

    def mapped(**changes: Any) -> Space:
        return replace(learned, maps={"image": replace(learned.maps["image"], **changes)})

    part = learned.maps["image"]
    others = [
        start,
        *(moved(name) for name in ("centre", "names", "head.weight", "head.bias")),
        mapped(blend=0.71),
        mapped(weight=part.weight + np.float32(1e-6)),
        mapped(bias=part.bias + np.float32(1e-6)),
        replace(learned, maps={"video": part}),
        replace(learned, fingerprints={**learned.fingerprints, "text": "words-2-6"}),
        replace(learned, starts={**learned.starts, "text": "identity"}),
        replace(learned, tensors={**learned.tensors, "names": learned.tensors["names"].reshape(6, 5)}),
    ]
    digests = [space.digest for space in [learned, *others]]
    assert len(set(digests)) == len(digests)
    for constant in ("START_SHARE", "TOP", "TEMPERATURE"):
        with monkeypatch.context() as patch:
            patch.setattr(module, constant, 7)
            assert replace(learned).digest not in digests


def test_the_digest_does_not_change_with_anything_else(learned: Space, encoders: list[Encoder]) -> None:
    same = [
        replace(learned, name="other", created="1999", about={"x": 1}),
        replace(learned, fingerprints=dict(reversed(list(learned.fingerprints.items())))),
        replace(learned, tensors=dict(reversed(list(learned.tensors.items())))),
        replace(learned, tensors={name: np.asfortranarray(tensor) for name, tensor in learned.tensors.items()}),
    ]
    assert {space.digest for space in same} == {learned.digest}
    assert start_space(encoders).digest == start_space(encoders, name="again").digest


def test_the_start_key_is_equal_where_statistics_add_up(
    start: Space, learned: Space, encoders: list[Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = start.start_key("image", "text")
    rounded = {name: tensor + np.float32(1e-7) for name, tensor in start.tensors.items()}  # as another machine would
    for same in (learned, replace(start, tensors=rounded, name="other"), start_space(encoders[:2])):
        assert same.start_key("image", "text") == key
    assert start_space(encoders[:2]).digest != start.digest

    other_names = ClassHead(head().weight, head().bias, ("a", "b", "c", "d", "e"))
    others = [
        start.start_key("text", "image"),
        start.start_key("audio", "text"),
        start_space([image_encoder(), text_encoder(version="2")]).start_key("image", "text"),
        start_space([image_encoder(version="2"), text_encoder()]).start_key("image", "text"),
        start_space([image_encoder(head=other_names), text_encoder()]).start_key("image", "text"),
        start_space([Fake("joint", ["image", "text"])]).start_key("image", "text"),
    ]
    monkeypatch.setattr(module, "TOP", 7)
    others.append(start.start_key("image", "text"))
    assert len({key, *others}) == 1 + len(others)
    with pytest.raises(SpaceError, match="has image, video, text, not audio"):
        start_space(encoders[:2]).start_key("audio", "text")


# ------------------------------------------------------------------------------------------------------------ save, load


@pytest.mark.parametrize("kind", ["joint", "start", "learned"])
def test_a_saved_space_comes_back_exactly(tmp_path: Path, start: Space, learned: Space, kind: str) -> None:
    space = {"joint": start_space([Fake("joint", ["image", "text"], dim=8)]), "start": start, "learned": learned}[kind]
    space.save(tmp_path / "spaces" / "one")
    again = Space.load(tmp_path / "spaces" / "one")
    for name in ("name", "dim", "fingerprints", "starts", "classes", "created", "about", "digest"):
        assert getattr(again, name) == getattr(space, name), name
    assert set(again.tensors) == set(space.tensors)
    for name, tensor in space.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    np.testing.assert_array_equal(again.place("image", vectors(9)), space.place("image", vectors(9)))


def test_a_saved_space_is_two_files_and_no_more(tmp_path: Path, start: Space, learned: Space) -> None:
    for space in (start, learned, learned):
        space.save(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"maps.json", "maps.safetensors"}
    assert Space.load(tmp_path).name == "aligned"
    header = json.loads((tmp_path / "maps.json").read_text())
    assert header["format"] == "chiasm-space"
    assert header["format_version"] == 5
    assert header["blends"] == {"image": 0.7}


def rewritten(**changes: Any) -> Callable[[Path], object]:
    """Change the header; None takes a field away."""

    def change(folder: Path) -> None:
        header = {**json.loads((folder / "maps.json").read_text()), **changes}
        (folder / "maps.json").write_text(json.dumps({k: v for k, v in header.items() if v is not None}))

    return change


def tensor_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


def one_value_changed(folder: Path) -> None:
    tensors = load_file(tensor_file(folder))
    tensors["names"][0, 0] += 1e-3
    save_file(tensors, tensor_file(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewritten(format_version=1), "version 1"),
        (rewritten(format="chiasm-model"), "chiasm-model"),
        (rewritten(format=None), "None version 5"),
        (rewritten(starts=None), "'starts' should be of dict"),
        (rewritten(blends={"image": 0.7, "text": 0.7}), "KeyError"),
        (rewritten(blends={"image": "0.7"}), "should be of int or float"),
        (rewritten(dim=10**30), "damaged"),
        (rewritten(starts={"image": "magic"}), "should be of str"),
        (rewritten(digest="../other"), "should be ../other"),
        (rewritten(digest=7), "'digest' should be of str"),
        (rewritten(blends={"image": 0.8}), "damaged"),
        (rewritten(fingerprints={}), "damaged"),
        (one_value_changed, "damaged"),
        (lambda f: (f / "maps.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "maps.json").write_text("[]"), "holds a list"),
        (lambda f: (f / "maps.json").write_bytes(b"\xff"), "is not JSON"),
        (lambda f: (f / "maps.json").unlink(), "FileNotFoundError"),
        (lambda f: tensor_file(f).unlink(), "FileNotFoundError"),
        (lambda f: tensor_file(f).write_bytes(tensor_file(f).read_bytes()[:-9]), "maps.safetensors"),
    ],
)
def test_a_space_that_cannot_be_loaded_says_why(
    tmp_path: Path, learned: Space, change: Callable[[Path], object], message: str
) -> None:
    learned.save(tmp_path / "aligned")
    change(tmp_path / "aligned")
    with pytest.raises(SpaceError, match=message) as caught:
        Space.load(tmp_path / "aligned")
    assert str(caught.value).startswith(str(tmp_path / "aligned"))
    assert "chiasm align" in str(caught.value)


def test_a_space_of_other_constants_is_not_used(
    tmp_path: Path, learned: Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned.save(tmp_path)
    monkeypatch.setattr(module, "START_SHARE", 0.25)
    with pytest.raises(SpaceError, match="of a chiasm that places vectors differently"):
        Space.load(tmp_path)


# ------------------------------------------------------------------------------------------------ what can be compared


def apart(**shares: float) -> Space:
    """Pictures and films of one encoder, words and speech of another; maps of pictures to words, each with its share."""
    owner: dict[Modality, str] = {"image": "a", "video": "a", "text": "b", "audio": "b"}
    seen, said = ((0, 2),), ((2, 4),)
    blocks: dict[Modality, tuple[tuple[int, int], ...]] = {"image": seen, "video": seen, "text": said, "audio": said}
    space = Space("start", 4, owner, dict.fromkeys(owner, "identity"), {}, blocks=blocks)
    weight = np.array([[0, 0, 0, 1], [0, 0, 1, 0]], np.float32)
    maps = {name: LearnedMap(weight, np.zeros(4, np.float32), share) for name, share in shares.items()}
    return space.with_maps("aligned", maps, about={})  # type: ignore[arg-type]  # names of modalities


def test_only_what_has_a_map_can_be_compared_with_others() -> None:
    (note,) = apart().notes(Path("c"), ["video", "audio"])
    assert note == (
        "only these can be compared: text and audio with each other, video with video, until chiasm align c --pairs text,video "
        "has learned from 10 items or more that have both"
    )
    (note,) = apart().notes(Path("c"), ["image", "video", "audio"])
    assert "text and audio with each other" in note
    assert "image and video with each other" in note
    assert not apart().notes(Path("c"), ["text"]), "there is nothing else"
    assert not apart(image=1.0).notes(Path("c"), ["image", "text", "audio", "video"])


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_what_was_comparable_with_a_modality_moves_along(share: float) -> None:
    space, vector = apart(image=share), np.array([[0.6, 0.8]], np.float32)
    placed = space.place("image", vector)
    np.testing.assert_array_equal(space.place("video", vector), placed)
    assert set(space.comparable(placed[0])) == {"image", "video", "text", "audio"}
    assert space.apart() == ()
    np.testing.assert_allclose(space.place("text", vector), [[0, 0, 0.6, 0.8]], atol=1e-6)
    own = apart(image=share, video=0.3)
    assert not np.allclose(own.place("video", vector), placed), "a map of its own comes first"
