"""Pairs of a collection as arrays: which files come together, and which pairs are of one group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from painter import COLOURS, painters, picture, sound, table

import chiasm
from chiasm import encoders
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.base import fingerprints_of
from chiasm.errors import SpaceError
from chiasm.store.collection import Collection
from chiasm.verbs.dataset import pairs_of
from chiasm.verbs.spaces import start_of


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


def pairs_by_hand(*rows: tuple[str, str, str]) -> Pairs:
    """Pairs of (item, content of the image, content of the text)."""
    nothing = np.zeros((len(rows), 2), np.float32)
    items, moved, anchors = zip(*rows, strict=True)
    slots = ("image/0",) * len(rows)
    return Pairs("image", "text", items, nothing, nothing, nothing, nothing, moved, anchors, slots, slots)


def test_groups_share_a_picture_a_caption_or_an_item() -> None:
    data = pairs_by_hand(
        ("a", "p1", "t1"), ("b", "p2", "t2"), ("c", "p3", "t1"), ("d", "p2", "t4"), ("e", "p5", "t5"), ("a", "p6", "t6")
    )
    assert data.groups.tolist() == [0, 1, 0, 1, 2, 0], "numbered as they come"
    chain = pairs_by_hand(("x", "p1", "t1"), ("y", "p9", "t9"), ("z", "p1", "t2"), ("u", "p3", "t2"))
    assert chain.groups.tolist() == [0, 1, 0, 0]


def test_groups_are_the_same_in_every_process() -> None:
    program = (
        "import numpy as np\n"
        "from chiasm.verbs.dataset import Pairs\n"
        "n = np.zeros((40, 2), np.float32)\n"
        "items, moved, anchors = (tuple(f'{k}{i % m}' for i in range(40)) for k, m in (('i', 40), ('p', 17), ('t', 34)))\n"
        "print(Pairs('image', 'text', items, n, n, n, n, moved, anchors, items, items).groups.tolist())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    groups = json.loads(found[0])
    assert list(dict.fromkeys(groups)) == list(range(max(groups) + 1)), "numbered as they come"


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    def image(colour: str) -> str:
        parts = [int(name == colour) for name in COLOURS]
        return picture(tmp_path / f"{colour}.png", parts)

    rows: list[dict[str, Any]] = [
        {"id": "two", "image": [image("red"), image("blue")], "text": ["red", "blue", "red blue"], "kind": "many"},
        {
            "id": "one",
            "image": image("green"),
            "text": "green",
            "audio": sound(tmp_path / "a.wav", "green"),
            "kind": "few",
        },
        {"id": "bare", "image": image("green"), "kind": "few"},
    ]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    return Collection.open(tmp_path / "collection")


def test_several_files_give_every_combination(made: Collection) -> None:
    data = pairs_of(made, start_of(made, painters()), ("text", "image"))
    assert (data.moved, data.anchor) == ("image", "text"), "text is the anchor, whichever comes first"
    assert sorted(zip(data.items, data.moved_slots, data.anchor_slots, strict=True)) == [
        ("one", "image/0", "text/0"),
        *(("two", f"image/{a}", f"text/{b}") for a in range(2) for b in range(3)),
    ]
    same = [row for row in range(7) if data.moved_slots[row][-1] == data.anchor_slots[row][-1]]
    np.testing.assert_allclose(data.start[same], data.anchors[same], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(data.start, axis=1), 1, atol=1e-6)
    assert len(set(data.groups)) == 2
    np.testing.assert_array_equal(data.arrays.take(np.array(same)).X, data.features[same])


def test_pairs_that_meet_a_condition(made: Collection) -> None:
    data = pairs_of(made, start_of(made, painters()), ("image", "text"), where="kind = 'few'")
    assert data.items == ("one",)
    sounds = pairs_of(made, start_of(made, painters()), ("audio", "image"))
    assert (sounds.moved, sounds.anchor, sounds.items) == ("audio", "image", ("one",))


@pytest.mark.parametrize(
    ("pairs", "where", "message"),
    [
        (("image", "smell"), None, "'smell' is not a modality. Pairs are two of image, text, audio, video"),
        (("image", "image"), None, "two different modalities; got image twice"),
        (("video", "text"), None, r"no item has both video and text.*bird\.png, bird\.txt"),
        (("image", "text"), "kind = 'none'", "no item has both image and text"),
    ],
)
def test_pairs_that_there_are_not(made: Collection, pairs: Any, where: str | None, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        pairs_of(made, start_of(made, painters()), pairs, where=where)


def test_a_modality_that_the_space_lacks(made: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = painters("image", "text")
    assert set(fingerprints_of(networks)) == {"image", "text"}
    with pytest.raises(SpaceError, match="'start' has image, text, not audio"):
        pairs_of(made, start_of(made, networks), ("audio", "text"))
