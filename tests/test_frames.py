"""Data in memory and shards of WebDataset become tables and folders that are read as any other."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from chiasm.errors import ManifestError
from chiasm.store.manifest import Manifest
from chiasm.store.sources import manifests_of
from chiasm.types import Outcome

RED = np.full((6, 8, 3), (255, 0, 0), np.uint8)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


def read(data: Any, room: Path) -> Manifest:
    (manifest,) = manifests_of(data, lambda: room)
    return manifest


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_frame_is_read_as_the_table_that_it_is(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png("red"))
    frame = pd.DataFrame(
        {
            "image": ["a.png", RED],
            "text": ["a ball", None],
            "price": [3, 4.5],
            "day": [date(2024, 5, 31), None],
            "tags": [["x", "y"], []],
        }
    )
    manifest = read(frame, room)
    assert manifest.columns == {"price": "float", "day": "date", "tags": "string"}
    first, second = manifest.items
    assert (first.id, first.sources[0].path, first.sources[1].text) == ("a", str(tmp_path / "a.png"), "a ball")
    assert first.metadata["tags"] == "x;y"
    assert second.metadata["day"] is None
    assert second.sources[0].path is not None
    with Image.open(second.sources[0].path) as picture:
        assert np.array_equal(np.asarray(picture), RED)


def test_what_is_missing_in_a_frame_is_missing(room: Path) -> None:
    texts = pd.Series(["a", None, "c"], dtype="string")
    kinds = pd.Categorical(["x", None, "y"])
    frame = pd.DataFrame(
        {"id": ["1", "2", "3"], "text": texts, "kind": kinds, "n": pd.Series([1, None, 3], dtype="Int64")}
    )
    manifest = read(frame, room)
    assert [(item.id, item.metadata["kind"], item.metadata["n"]) for item in manifest.items] == [
        ("1", "x", 1),
        ("3", "y", 3),
    ]
    assert [row.outcome for row in manifest.outcomes] == [Outcome.EMPTY]


def test_the_same_data_have_the_same_ids(room: Path) -> None:
    once = read({"image": [RED, RED, RED // 2], "label": ["a", "b", "c"]}, room)
    again = read({"image": [RED // 2, RED], "label": ["c", "a"]}, room)
    assert once.items[1].id == f"{once.items[0].id}#2"
    assert {item.id for item in again.items} < {item.id for item in once.items}
    assert read(pd.DataFrame({"id": [7], "text": ["x"]}), room).items[0].id == "7"


@pytest.mark.parametrize(
    "pictures",
    [[RED], np.stack([RED]), [Image.fromarray(RED)], {"image": [png("red")]}, {"image": [{"bytes": png("red")}]}],
    ids=["arrays", "stack", "Pillow", "bytes", "datasets"],
)
def test_pictures_may_be_held_in_many_ways(room: Path, pictures: Any) -> None:
    (item,) = read(pictures, room).items
    assert item.sources[0].modality == "image"
    with Image.open(str(item.sources[0].path)) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), RED)


def test_waveforms_are_sounds(room: Path) -> None:
    import soundfile

    wave = np.sin(np.arange(800) / 20).astype(np.float32)
    manifest = read({"audio": [{"array": wave, "sampling_rate": 8000}, (wave[::2], 4000)]}, room)
    for item, rate, samples in zip(manifest.items, (8000, 4000), (wave, wave[::2]), strict=True):
        heard, its_rate = soundfile.read(str(item.sources[0].path), dtype="float32")
        assert its_rate == rate
        assert np.array_equal(heard, samples)


class Feature:
    """A class label of Hugging Face's datasets."""

    names = ("cat", "dog")


class Dataset:
    """What is used of `datasets.Dataset`: the features, and the table as it is stored."""

    features: dict[str, object] = {"image": object(), "label": Feature()}  # noqa: RUF012

    def to_pandas(self) -> pd.DataFrame:
        return pd.DataFrame({"image": [{"bytes": png("red"), "path": "x/1.png"}] * 2, "label": [1, -1]})


def test_a_dataset_of_hugging_face_has_names_of_classes(room: Path) -> None:
    manifest = read(Dataset(), room)
    assert [item.metadata["label"] for item in manifest.items] == ["dog", None]
    assert str(manifest.items[0].sources[0].path).endswith(".png")
    splits = read({"train": Dataset(), "test": Dataset()}, room)
    assert [item.metadata["split"] for item in splits.items] == ["train", "train", "test", "test"]


def test_a_table_of_arrow_is_read(room: Path) -> None:
    assert [item.id for item in read(pa.table({"id": ["a", "b"], "text": ["x", "y"]}), room).items] == ["a", "b"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (np.zeros((4, 4), np.float32), "uint8"),
        (np.zeros((4, 4, 9), np.uint8), "shape"),
        (7, "picture"),
    ],
)
def test_one_bad_picture_stops_nothing(room: Path, cell: Any, reason: str) -> None:
    manifest = read({"image": [cell, RED]}, room)
    assert len(manifest.items) == 1
    assert {row.outcome for row in manifest.outcomes} <= {Outcome.BROKEN, Outcome.EMPTY}
    assert any(reason in row.reason and "row 0" in row.path for row in manifest.outcomes)


def test_pixels_as_lists_are_refused_once_a_cell(room: Path) -> None:
    manifest = read({"image": [RED.tolist(), RED]}, room)
    assert [row.path for row in manifest.outcomes if "picture" in row.reason] == ["row 0, column 'image'"]


def test_a_lazy_frame_is_collected(room: Path) -> None:
    class LazyFrame:
        """As polars has it: columns are not known before `collect`."""

        def collect_schema(self) -> list[str]:
            return ["id", "text"]

        def collect(self) -> pd.DataFrame:
            return pd.DataFrame({"id": ["a", "b"], "text": ["x", "y"]})

    assert [item.id for item in read(LazyFrame(), room).items] == ["a", "b"]


NO_DATA: dict[str, Any] = {
    "number": 7,
    "nothing": {},
    "one text": {"text": "abc"},
    "one number": {"text": ["a"], "n": 3},
    "a name twice": pd.DataFrame([["a", "b"]], columns=["text", "text"]),
    "no rows": pd.DataFrame(),
    "no medium": {"picture": ["a.png"]},
    "lengths": {"text": ["a", "b"], "n": [1]},
    "types": {"text": ["a", "b"], "n": [1, "x"]},
}


@pytest.mark.parametrize("data", NO_DATA.values(), ids=NO_DATA)
def test_what_is_no_data_is_said(room: Path, data: Any) -> None:
    with pytest.raises(ManifestError):
        read(data, room)


# ------------------------------------------------------------------------------------------------------------- shards


def shard(path: Path, members: dict[str, bytes], *odd: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in odd:
            archive.addfile(member)
    return path


SAMPLES = {
    "0001.png": png("red"), "0001.txt": b"a red one", "0001.cls": b"3", "0001.json": b'{"shop": "b", "id": 5, "a.b": 1}',
    "deep/0002.PNG": png("blue"), "deep/0002.cls": b"4",
}  # fmt: skip


@pytest.mark.parametrize("name", ["x-000.tar", "x-000.tar.gz"])
def test_samples_of_a_shard_are_items(room: Path, tmp_path: Path, name: str) -> None:
    manifest = read(shard(tmp_path / name, SAMPLES), room)
    assert manifest.outcomes == ()
    rows = {item.id: (len(item.sources), item.metadata["label"], item.metadata["shop"]) for item in manifest.items}
    assert rows == {"0001": (2, "3", "b"), "deep/0002": (1, "4", None)}
    assert manifest.items[0].metadata["a_b"] == 1


def test_a_shard_is_unpacked_once(room: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", SAMPLES)
    first = read(path, room)
    kept = {one: one.stat().st_mtime_ns for one in room.rglob("*.*")}
    assert read(path, room) == first
    assert {one: one.stat().st_mtime_ns for one in room.rglob("*.*")} == kept


def test_a_folder_of_shards_is_one_set(room: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number in range(2):
        shard(tmp_path / f"set/x-{number}.tar", {f"{number}.png": png("red")})
    (tmp_path / "set/README.md").write_text("about it")
    assert len(manifests_of(tmp_path / "set", lambda: room)) == 2
    (tmp_path / "set/own.png").write_bytes(png("blue"))
    (mixed,) = manifests_of(tmp_path / "set", lambda: room)  # a folder of media with archives in it, as before
    assert [item.id for item in mixed.items] == ["README", "own"]
    assert len(manifests_of(tmp_path / "set", lambda: room, layout="webdataset")) == 2
    with pytest.raises(ManifestError, match=r"no \.tar"):
        manifests_of(room, lambda: room, layout="webdataset")


def test_nothing_of_a_shard_leaves_its_folder(room: Path, tmp_path: Path) -> None:
    link, hard, device = (tarfile.TarInfo(f"{name}.png") for name in ("link", "hard", "device"))
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard.type, hard.linkname = tarfile.LNKTYPE, "../../x"
    device.type = tarfile.CHRTYPE
    names = ["../up.png", "/abs.png", "a/../../up.png", "plain", ".png", f"{'x' * 250}.png", "a.exe"]
    path = shard(
        tmp_path / "x.tar", {"0.png": png("red"), "0.json": b"[1]", **dict.fromkeys(names, b"x")}, link, hard, device
    )
    manifest = read(path, room)
    assert [item.id for item in manifest.items] == ["0"]
    assert len(manifest.outcomes) == len(names) + 4
    assert {one.name for one in tmp_path.iterdir()} == {"x.tar", "room"}
    assert {one.name for one in room.rglob("*") if one.is_file()} == {"0.png", "metadata.jsonl"}


def test_a_name_that_stands_twice_is_taken_once(room: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for colour in ("red", "blue"):
            member = tarfile.TarInfo("0.png")
            member.size = len(png(colour))
            archive.addfile(member, io.BytesIO(png(colour)))
    manifest = read(path, room)
    assert [row.outcome for row in manifest.outcomes] == [Outcome.DUPLICATE]
    assert Path(str(manifest.items[0].sources[0].path)).read_bytes() == png("red")


@pytest.mark.parametrize("content", [b"no tar at all", b"", json.dumps({"a": 1}).encode()])
def test_a_file_that_is_no_archive_is_said(room: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ManifestError, match="tar archive"):
        read(tmp_path / "x.tar", room)
    assert not room.exists() or not any(room.iterdir())


def test_a_shard_that_is_cut_off_is_said(room: Path, tmp_path: Path) -> None:
    path = shard(tmp_path / "x.tar", SAMPLES)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ManifestError, match="tar archive"):
        read(path, room)
