"""The verb `export`: what other tools read, and what `chiasm add` reads again."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
import pytest
from fake_encoder import FakeEncoder
from PIL import Image

import chiasm
from chiasm.errors import ChiasmError, CollectionError
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.manifest import read_manifest
from chiasm.types import Outcome
from chiasm.verbs.export import Format

BOXES = '[["cat", 0.1, 0.2, 0.5, 0.25]]'


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Three pictures, one with a caption and a box, one with two labels, and a text that has no picture."""
    rows = [
        {"id": "a/1", "image": "1.png", "text": 'a cat, "asleep"', "label": "cat", "boxes": BOXES, "year": 1999},
        {"id": "a/2", "image": "2.png", "label": "cat;dog", "year": 2001},
        {"id": "b/1", "image": ["1.png", "2.png"], "label": "dog"},
        {"id": "words", "text": "no picture at all", "label": "dog"},
    ]
    for name, size in (("1", (40, 20)), ("2", (10, 10))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    table = tmp_path / "table.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = Collection.create(tmp_path / "c", encoder="fake")
    add_manifests(made, [read_manifest(table)], [FakeEncoder()])
    return made.path


def without_paths(path: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in row.items() if name != "_source"} for row in Collection.open(path).items()]


@pytest.mark.parametrize("name", ["all.csv", "all.parquet"])
def test_a_table_is_read_again(collection: Path, tmp_path: Path, name: str) -> None:
    report = chiasm.export(collection, out=tmp_path / name)
    assert (report.items, report.files, report.outcomes) == (4, 0, ())
    again = Collection.create(tmp_path / "again", encoder="fake")
    add_manifests(again, [read_manifest(tmp_path / name)], [FakeEncoder()])
    assert without_paths(again.path) == without_paths(collection)


def test_a_condition_chooses_items_and_types_stay(collection: Path, tmp_path: Path) -> None:
    chiasm.export(collection, out=tmp_path / "some.parquet", where="year > 2000")
    table = pq.read_table(tmp_path / "some.parquet")
    assert table["id"].to_pylist() == ["a/2"]
    assert table["year"].to_pylist() == [2001]
    chiasm.export(collection, out=tmp_path / "some.csv", where="year > 2000")
    with (tmp_path / "some.csv").open(encoding="utf-8", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [str(tmp_path / "2.png")]


def test_image_folder_has_a_folder_a_label_and_metadata(collection: Path, tmp_path: Path) -> None:
    report = chiasm.export(collection, out=tmp_path / "out", format="imagefolder")
    assert (report.items, report.files) == (3, 4)
    assert [(row.path, row.outcome) for row in report.outcomes] == [("words", Outcome.UNSUPPORTED)]
    lines = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line.get("file_name") or line["file_names"] for line in lines] == [
        "cat/a-1.png", "a-2.png", ["dog/b-1.png", "dog/b-1-2.png"],
    ]  # fmt: skip
    assert lines[0]["text"] == 'a cat, "asleep"'
    items = read_manifest(tmp_path / "out").items
    assert [item.metadata["label"] for item in items] == ["cat;dog", "cat", "dog"]


def test_coco_has_boxes_in_pixels_and_labels_without(collection: Path, tmp_path: Path) -> None:
    chiasm.export(collection, out=tmp_path / "coco", format="coco")
    document = json.loads((tmp_path / "coco/annotations.json").read_text(encoding="utf-8"))
    assert [(one["file_name"], one["width"]) for one in document["images"]][:2] == [
        ("images/a-1.png", 40), ("images/a-2.png", 10),
    ]  # fmt: skip
    names = {one["id"]: one["name"] for one in document["categories"]}
    annotations = document["annotations"]
    found = [(one["image_id"], names[one["category_id"]], one["bbox"], one["iscrowd"]) for one in annotations]
    small, large = [0, 0, 10, 10], [0, 0, 40, 20]
    assert found == [
        (1, "cat", [4.0, 4.0, 20.0, 5.0], 0), (2, "cat", small, 1), (2, "dog", small, 1), (3, "dog", large, 1), (4, "dog", small, 1),
    ]  # fmt: skip
    assert all(one["area"] == one["bbox"][2] * one["bbox"][3] for one in annotations)  # pycocotools reads it of each
    assert (tmp_path / "coco/images/b-1-2.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_fiftyone_has_detections_where_there_are_boxes(collection: Path, tmp_path: Path) -> None:
    chiasm.export(collection, out=tmp_path / "boxes", format="fiftyone")
    labels = json.loads((tmp_path / "boxes/labels.json").read_text(encoding="utf-8"))["labels"]
    assert labels["a-1"] == [{"label": "cat", "bounding_box": [0.1, 0.2, 0.5, 0.25]}]
    assert labels["a-2"] == []
    chiasm.export(collection, out=tmp_path / "labels", format="fiftyone", where="year > 2000 OR id = 'b/1'")
    labels = json.loads((tmp_path / "labels/labels.json").read_text(encoding="utf-8"))["labels"]
    assert labels["a-2"] == ["cat", "dog"]
    assert labels["b-1"] == ["dog"]  # a field is of one label or of several
    assert {path.stem for path in (tmp_path / "labels/data").iterdir()} == labels.keys()


def test_fiftyone_has_a_name_a_picture_and_attributes_that_are_no_fields_of_its_labels(tmp_path: Path) -> None:
    """It looks pictures up by their name without the extension, and gives a label its attributes as keywords."""
    for name in ("x.png", "x.bmp"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    row = {"id": "x", "image": ["x.png", "x.bmp"], "label": "cat", "tags": "old", "year": 3}
    (tmp_path / "t.jsonl").write_text(json.dumps(row), encoding="utf-8")
    made = Collection.create(tmp_path / "c", encoder="fake")
    add_manifests(made, [read_manifest(tmp_path / "t.jsonl")], [FakeEncoder()])
    report = chiasm.export(made.path, out=tmp_path / "out", format="fiftyone")
    labels = json.loads((tmp_path / "out/labels.json").read_text(encoding="utf-8"))["labels"]
    assert report.files == 2
    assert {path.stem for path in (tmp_path / "out/data").iterdir()} == labels.keys() == {"x", "x-2"}
    assert labels["x"] == {"label": "cat", "attributes": {"tags_": "old", "year": 3}}


def test_label_studio_has_tasks_and_the_interface_to_them(collection: Path, tmp_path: Path) -> None:
    report = chiasm.export(collection, out=tmp_path / "tasks", format="labelstudio")
    assert report.items == 4
    assert [(row.path, row.outcome) for row in report.outcomes] == [(str(tmp_path / "2.png"), Outcome.UNSUPPORTED)]
    tasks = json.loads((tmp_path / "tasks/tasks.json").read_text(encoding="utf-8"))
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=media/a-1.png"
    choices, box = tasks[0]["annotations"][0]["result"]
    assert (choices["to_name"], choices["value"]) == ("image", {"choices": ["cat"]})
    assert (box["value"]["width"], box["original_width"], box["original_height"]) == (50, 40, 20)
    assert tasks[3]["data"]["text"] == "no picture at all"
    interface = ET.fromstring((tmp_path / "tasks/config.xml").read_text(encoding="utf-8"))
    assert {one.get("value") for one in interface.iter("Choice")} == {"cat", "dog"}
    shown = {value.removeprefix("$") for one in interface if (value := one.get("value"))}
    assert shown == {"image", "text"}
    assert all(shown <= task["data"].keys() for task in tasks)  # else it refuses the task
    (to,) = {one.get("toName") for one in interface.iter("Choices")}
    assert {one["to_name"] for task in tasks for one in task["annotations"][0]["result"]} == {to}


def test_names_of_files_are_quoted_for_label_studio(tmp_path: Path) -> None:
    """It decodes the address once: a plus would be a space."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    (tmp_path / "t.csv").write_text("id,image,label\na+b c,x.png,cat\n", encoding="utf-8")
    made = Collection.create(tmp_path / "c", encoder="fake")
    add_manifests(made, [read_manifest(tmp_path / "t.csv")], [FakeEncoder()])
    chiasm.export(made.path, out=tmp_path / "out", format="labelstudio")
    (task,) = json.loads((tmp_path / "out/tasks.json").read_text(encoding="utf-8"))
    (name,) = parse_qs(urlsplit(task["data"]["image"]).query)["d"]
    assert (tmp_path / "out" / name).is_file()
    (item,) = read_manifest(tmp_path / "out").items
    assert item.metadata["label"] == "cat"


def test_a_file_that_is_gone_is_an_outcome(collection: Path, tmp_path: Path) -> None:
    (tmp_path / "2.png").unlink()
    report = chiasm.export(collection, out=tmp_path / "coco", format="coco")
    gone = [row for row in report.outcomes if row.outcome is Outcome.BROKEN]
    assert [row.path for row in gone] == [str(tmp_path / "2.png")] * 2
    assert report.items == 2


def test_ids_never_lead_out_of_the_folder(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    table = tmp_path / "t.jsonl"
    ids = ["../../evil", "..", "a\\b", "A/b", "a/b", "x" * 300]
    rows = [{"id": name, "image": "x.png", "label": "../up", "split": ".."} for name in ids]
    table.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = Collection.create(tmp_path / "c", encoder="fake")
    add_manifests(made, [read_manifest(table)], [FakeEncoder()])
    formats: tuple[Format, ...] = ("imagefolder", "coco")
    for format_ in formats:
        report = chiasm.export(made.path, out=tmp_path / format_, format=format_)
        assert report.files == len(ids)
        assert len(list((tmp_path / format_).rglob("*.png"))) == len(ids)
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "t.jsonl", "c", "imagefolder", "coco"}


def test_what_cannot_be_written_is_said(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match=r"\.csv or \.parquet"):
        chiasm.export(collection, out=tmp_path / "folder")
    with pytest.raises(ChiasmError, match="imagefolder"):
        chiasm.export(collection, out=tmp_path / "x", format="cocoa")  # type: ignore[arg-type]
    (tmp_path / "there").mkdir()
    with pytest.raises(ChiasmError, match="exists already"):
        chiasm.export(collection, out=tmp_path / "there", format="coco")
    with pytest.raises(ChiasmError, match="no item with"):
        chiasm.export(collection, out=tmp_path / "x.csv", where="year > 3000")
    with pytest.raises(ChiasmError, match="no column 'kind'"):
        chiasm.export(collection, out=tmp_path / "x", format="coco", label="kind")
    with pytest.raises(CollectionError):
        chiasm.export(tmp_path / "nothing", out=tmp_path / "x.csv")
    assert not (tmp_path / "x").exists()
