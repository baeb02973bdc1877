"""Files and media embedded without a collection: the same items, vectors and outcomes as with one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_encoder import FakeEncoder, by_key
from test_collection import PNG, RED, WAV, write

from chiasm import media
from chiasm._optional import require
from chiasm.encoders.base import Embeddings, Prepared
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection, Vectors
from chiasm.store.ingest import Progress, embed_manifests, embed_media
from chiasm.store.manifest import read_manifest
from chiasm.types import Image, Media, Modality, Outcome, Text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good, bad, doubled and refused files."""
    root = tmp_path / "media"
    contents: dict[str, bytes | str] = {
        "a.png": PNG,
        "a.txt": "an owl",
        "b.txt": "an owl",
        "b.wav": WAV,
        "c.png": PNG[:60],
        "d.txt": "",
    }
    contents |= {"e.txt": "bad", "f.png": RED, "g.txt": "bad", "h.pdf": b"%PDF-1.7"}
    for name, content in contents.items():
        write(root / name, content)
    return root


def network() -> FakeEncoder:
    return FakeEncoder(batch_size=3, faults={"bad": "nan"}, moment=0.1)


def test_it_equals_adding(folder: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "id,text,label\na,one,x\nb,two,y\n")
    manifests = [read_manifest(folder), read_manifest(table), read_manifest(folder)]
    collection = Collection.create(tmp_path / "collection", encoder="fake")
    stored = add_manifests(collection, manifests, [network()])
    seen: list[Progress] = []
    files = embed_manifests(manifests, [network()], name="fake", on_progress=seen.append)
    assert [*files.items] == [row["id"] for row in collection.items()]
    assert set(files.outcomes) == set(stored.outcomes)
    expected = by_key(collection.vectors(FakeEncoder().fingerprint))
    own = by_key(Vectors.concatenate([*files.vectors.values()]))
    assert set(own) == set(expected)
    assert all(np.array_equal(own[key], expected[key]) for key in expected)
    assert set(files.vectors) == {"image", "text", "audio"}
    assert seen[-1] == Progress(len(seen), len(seen), 4)


def test_equal_content_is_embedded_once(folder: Path) -> None:
    encoder = network()
    files = embed_manifests([read_manifest(folder)], [encoder], name="fake")
    assert encoder.embedded == {"image": 2, "text": 2, "audio": 1}, "the bad text, too"
    assert files.vectors["text"].items == ("a", "b")


def test_an_encoder_that_cannot_be_used_at_all(folder: Path) -> None:
    with pytest.raises(EncoderError, match="weights"):
        embed_manifests([read_manifest(folder)], [FakeEncoder(faults={"an owl": "no weights"})], name="fake")


class Lacking(FakeEncoder):
    """Finds while it is at work that a library of its own is not installed."""

    def __init__(self, step: str) -> None:
        super().__init__(batch_size=3)
        self.step = step

    def prepare(self, media: Media) -> Prepared:
        self._need("prepare")
        return super().prepare(media)

    def encode_prepared(self, modality: Modality, batch: Sequence[Any]) -> Embeddings:
        self._need("encode")
        return super().encode_prepared(modality, batch)

    def _need(self, step: str) -> None:
        if step == self.step:
            require("nothing_of_this_name", "speech", "hear")


@pytest.mark.parametrize("step", ["prepare", "encode"])
def test_a_library_that_is_missing_is_not_the_fault_of_a_file(step: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[speech\]'"):
        embed_manifests([read_manifest(folder)], [Lacking(step)], name="fake")
    collection = Collection.create(tmp_path / "collection", encoder="fake")
    with pytest.raises(MissingExtraError, match="nothing_of_this_name is needed to hear"):
        add_manifests(collection, [read_manifest(folder)], [Lacking(step)])
    assert {row["item"] for row in collection.files()} <= {"c", "d"}, "only what is broken and empty is done"


def test_nothing_that_can_be_embedded(folder: Path) -> None:
    files = embed_manifests([read_manifest(folder / "d.txt")], [network()], name="fake")
    assert (files.vectors, [one.outcome for one in files.outcomes]) == ({}, [Outcome.EMPTY])
    assert embed_manifests([], [network()], name="fake").items == {}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_a_pointer_is_no_picture(tmp_path: Path) -> None:
    """In a folder, from a column, under a name that says nothing, and where no encoder takes pictures."""
    for name in ("a.png", "b.wav", "photo"):
        write(tmp_path / "media" / name, POINTER)
    table = write(tmp_path / "media" / "t.csv", "id,image\nx,photo\ny,b.wav\n")
    for manifest in (read_manifest(tmp_path / "media"), read_manifest(table)):
        chosen = [item for item in manifest.items if item.id != "photo"]
        for encoder in (network(), FakeEncoder(modalities=["text"])):
            files = embed_manifests([replace(manifest, items=tuple(chosen))], [encoder], name="fake")
            assert files.vectors == {}
            read = [one.outcome for one in files.outcomes if one.outcome is not Outcome.NOT_READ]
            assert read == [Outcome.BROKEN] * 2
            reasons = " ".join(one.reason for one in files.outcomes)
            assert "holds text (a Git LFS pointer; run `git lfs pull`)" in reasons


@pytest.mark.parametrize("what", ["pipe", "device"])
def test_a_file_that_became_a_pipe_does_not_stop_a_run(what: str, folder: Path) -> None:
    manifest = read_manifest(folder)
    (folder / "a.png").unlink()
    if what == "pipe":
        os.mkfifo(folder / "a.png")
    else:
        (folder / "a.png").symlink_to("/dev/zero")
    files = embed_manifests([manifest], [network()], name="fake")
    (outcome,) = [one for one in files.outcomes if one.path.endswith("a.png")]
    assert outcome.outcome is Outcome.UNSUPPORTED
    assert "a device or a pipe" in outcome.reason
    assert "b" in files.vectors["audio"].items, "the others are read"


def test_opened_media(folder: Path) -> None:
    picture, words = media.load(folder / "a.png", image_size=8), Text("an owl")
    assert isinstance(picture, Image)
    encoder = network()
    items: list[list[Media]] = [[picture, words], [Text("bad")], [], [words, picture, Text("another")]]
    vectors, outcomes = embed_media(items, {"text": encoder, "image": encoder})
    assert vectors["text"].items == ("0", "3", "3")
    assert vectors["text"].slots == ("text/0", "text/0", "text/1")
    assert vectors["image"].items == ("0", "3")
    np.testing.assert_array_equal(vectors["text"].vectors[:2], encoder.encode([words, words]).vectors)
    assert [(one.path, one.outcome) for one in outcomes] == [("1 (text/0)", Outcome.BROKEN)]
    assert set(embed_media(items, {"image": encoder})[0]) == {"image"}, "what no encoder takes is left out"
