"""Annotations that other tools wrote, read as columns of the items of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_encoder import FakeEncoder
from PIL import Image

import chiasm
from chiasm.errors import ManifestError
from chiasm.store.add import add_manifests
from chiasm.store.annotations import Layout
from chiasm.store.boxes import read_boxes
from chiasm.store.collection import Collection
from chiasm.store.manifest import Manifest, read_manifest
from chiasm.types import Outcome


def picture(path: Path, size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def columns(manifest: Manifest, name: str) -> dict[str, Any]:
    return {item.id: item.metadata.get(name) for item in manifest.items}


def coco(folder: Path) -> None:
    for name in ("a", "b", "c"):
        picture(folder / "train2017" / f"{name}.jpg")
    names = [{"id": number, "file_name": f"{name}.jpg", "width": 40, "height": 20} for number, name in enumerate("abc")]
    boxes = [
        {"image_id": 0, "category_id": 7, "bbox": [4, 4, 20, 5]},
        {"image_id": 0, "category_id": 9, "bbox": [-4, 0, 400, 10]},
        {"image_id": 1, "category_id": 9},
    ]
    kinds = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    document = {"images": names, "annotations": boxes, "categories": kinds}
    write(folder / "annotations/instances_train2017.json", document)
    captions = [{"image_id": 0, "caption": "a cat beside a dog"}, {"image_id": 0, "caption": "pets"}]
    write(folder / "annotations/captions_train2017.json", {"images": names, "annotations": captions})


def voc(folder: Path) -> None:
    thing = (
        "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>24</xmax><ymax>9</ymax></bndbox></object>"
    )
    for name, things in (("a", [("cat", 5), ("dog", 1)]), ("b", [("dog", 1)]), ("c", [])):
        picture(folder / "JPEGImages" / f"{name}.jpg")
        inside = "".join(thing.format(*one) for one in things)
        size = "<size><width>40</width><height>20</height><depth>3</depth></size>"
        write(
            folder / "Annotations" / f"{name}.xml",
            f"<annotation><filename>{name}.jpg</filename>{size}{inside}</annotation>",
        )
    write(folder / "ImageSets/Main/train.txt", "a\nb\nc\n")
    write(folder / "ImageSets/Main/cat_train.txt", "a 1\n")


def yolo(folder: Path) -> None:
    lines = {"a": "0 0.35 0.325 0.5 0.25\n1 0 0 1 0 1 1 0 1", "b": "1 0.5 0.5 1 1 0.9", "c": ""}
    for name, content in lines.items():
        picture(folder / "images/train" / f"{name}.png")
        write(folder / "labels/train" / f"{name}.txt", content)
    write(folder / "data.yaml", "path: .\ntrain: images/train\nnc: 2\nnames:\n  0: cat\n  1: dog\n")


def label_studio(folder: Path) -> None:
    for name in ("a", "b", "c"):
        picture(folder / "media" / f"{name}.png")
    box = {"x": 10, "y": 20, "width": 50, "height": 25, "rectanglelabels": ["cat"]}
    results: list[list[dict[str, Any]]] = [
        [{"type": "rectanglelabels", "value": box}, {"type": "choices", "value": {"choices": ["dog"]}}],
        [{"type": "choices", "value": {"choices": ["dog"]}}],
        [],
    ]
    paths = ["/data/local-files/?d=media/a.png", "/data/upload/3/0123abcd-b.png", "media/c.png"]
    tasks = [
        {"id": number, "data": {"image": path, "split": "train"}, "annotations": [{"result": result}]}
        for number, (path, result) in enumerate(zip(paths, results, strict=True))
    ]
    cancelled = {"result": [{"type": "choices", "value": {"choices": ["fish"]}}], "was_cancelled": True}
    tasks[1]["annotations"] = [*tasks[1]["annotations"], cancelled]  # type: ignore[misc]
    write(folder / "tasks.json", tasks)


LAYOUTS: dict[Layout, Callable[[Path], None]] = {"coco": coco, "voc": voc, "yolo": yolo, "labelstudio": label_studio}


@pytest.fixture(params=[*LAYOUTS])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of three pictures: a cat in a box and a dog, a dog, and neither."""
    path = tmp_path / str(request.param)
    LAYOUTS[request.param](path)
    return path


def test_a_layout_is_known_by_its_content(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest.outcomes == ()
    assert [item.id.rpartition("/")[2] for item in manifest.items] == ["a", "b", "c"]
    assert [*columns(manifest, "label").values()] == ["cat;dog", "dog", ";"]
    assert [*columns(manifest, "split").values()] == ["train"] * 3
    first = next(iter(columns(manifest, "boxes").values()))
    cat = next(box for box in read_boxes(first) if box.label == "cat")
    assert cat.area == pytest.approx((0.1, 0.2, 0.5, 0.25))
    assert all(0 <= share <= 1 for box in read_boxes(first) for share in box.area)
    assert manifest.columns["label"] == "string"


def test_a_layout_may_be_named_or_left_unread(folder: Path, tmp_path: Path) -> None:
    named: Layout = folder.name  # type: ignore[assignment]
    assert read_manifest(folder, layout=named) == read_manifest(folder)
    assert "boxes" not in read_manifest(folder, layout="folder").columns
    picture(tmp_path / "plain/a.png")
    with pytest.raises(ManifestError, match=f"layout {named}"):
        read_manifest(tmp_path / "plain", layout=named)
    with pytest.raises(ManifestError, match="name the folder"):
        read_manifest(tmp_path / "plain/a.png", layout=named)


def test_a_layout_goes_into_a_collection_and_out_again(folder: Path, tmp_path: Path) -> None:
    made = Collection.create(tmp_path / "c", encoder="fake")
    add_manifests(made, [read_manifest(folder)], [FakeEncoder()])
    chiasm.export(made.path, out=tmp_path / "coco-again", format="coco")
    again = read_manifest(tmp_path / "coco-again")
    assert [*columns(again, "label").values()] == ["cat;dog", "dog", ";"]
    boxes = [sorted(read_boxes(value)) for value in columns(again, "boxes").values()]
    assert boxes == [sorted(read_boxes(row.get("boxes"))) for row in made.items()]


def test_captions_of_coco_are_texts(tmp_path: Path) -> None:
    coco(tmp_path)
    (item, *_) = read_manifest(tmp_path).items
    assert [source.text for source in item.sources if source.modality == "text"] == ["a cat beside a dog", "pets"]


def test_a_task_of_words_alone_is_an_item(tmp_path: Path) -> None:
    choice = [{"type": "choices", "value": {"choices": ["praise"]}}]
    task = {"id": 4, "data": {"text": "how good it is", "shop": "b"}, "annotations": [{"result": choice}]}
    write(tmp_path / "export.json", [task])
    (item,) = read_manifest(tmp_path).items
    assert (item.id, item.sources[0].text) == ("export/4", "how good it is")
    assert (item.metadata["label"], item.metadata["shop"]) == ("praise", "b")


def test_a_task_of_words_among_tasks_of_pictures_has_an_empty_picture(tmp_path: Path) -> None:
    task = {"id": 4, "data": {"text": "how good it is", "image": ""}, "annotations": []}
    write(tmp_path / "export.json", [task])
    manifest = read_manifest(tmp_path, layout="labelstudio")
    assert [item.sources[0].text for item in manifest.items] == ["how good it is"]
    assert manifest.outcomes == ()


def test_pictures_that_are_not_there_are_one_outcome(tmp_path: Path) -> None:
    coco(tmp_path)
    (tmp_path / "train2017/a.jpg").unlink()
    manifest = read_manifest(tmp_path)
    assert [*columns(manifest, "label").values()] == ["dog", None]
    assert [row.outcome for row in manifest.outcomes] == [Outcome.BROKEN] * 2  # of either file of annotations
    assert "1 of the 3" in manifest.outcomes[0].reason


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "{outside}"])
def test_annotations_name_no_file_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "outside.png")
    picture(tmp_path / "in/a.png")
    named = name.format(outside=tmp_path / "outside.png")
    document = {"images": [{"id": 1, "file_name": named}], "annotations": [], "categories": []}
    write(tmp_path / "in/ann.json", document)
    manifest = read_manifest(tmp_path / "in")
    assert [item.id for item in manifest.items] == ["a"]
    assert "not in the folder" in manifest.outcomes[0].reason


ODD: dict[str, tuple[str, Any]] = {
    "no JSON": ("ann.json", '{"images": [], "annotations": [], "categories": ['),
    "wrong types": (
        "ann.json",
        {
            "images": [1, {"id": [], "file_name": "a.png"}, {"id": 2, "file_name": 5}],
            "annotations": [None, {"image_id": {}, "category_id": 1}, {"image_id": 2, "bbox": "x"}],
            "categories": ["x", {"id": 1}],
        },
    ),
    "unknown category": (
        "ann.json",
        {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "category_id": 8}],
            "categories": [],
        },
    ),
    "entities": (
        "Annotations/a.xml",
        '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaa">]><annotation><filename>&a;</filename></annotation>',
    ),
    "no XML": ("Annotations/a.xml", "<annotation><filename>a.png</annotation>"),
    "a line of words": ("labels/a.txt", "cat 0.5 0.5 1 1\n0 7 7 1 1\n0 0.5"),
    "tasks of nothing": (
        "tasks.json",
        [{"data": {"image": "gone.png"}, "annotations": [{"result": [5, {"value": 3}]}]}],
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_annotations_that_cannot_be_used_are_outcomes(tmp_path: Path, name: str) -> None:
    path, content = ODD[name]
    picture(tmp_path / "a.png")
    picture(tmp_path / "images/a.png")
    write(tmp_path / path, content)
    manifest = read_manifest(tmp_path)
    assert {item.id for item in manifest.items} == {"a", "images/a"}
    assert all(item.metadata.get("label") in (None, "None") for item in manifest.items)
    if name != "wrong types":
        assert [row.outcome for row in manifest.outcomes][:1] == [Outcome.BROKEN]


def test_folders_that_are_only_called_so_are_folders(tmp_path: Path) -> None:
    """Captions below `labels`, and XML of something else below `Annotations`, are no annotations of these tools."""
    picture(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "a red square\n2 of them")
    write(tmp_path / "Annotations/a.xml", "<note>something else</note>")
    manifest = read_manifest(tmp_path)
    assert columns(manifest, "label") == {"images/a": "images", "labels/a": "labels"}
    assert "boxes" not in manifest.columns


def test_labels_with_separators_stay_whole(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    write(tmp_path / "labels/a.txt", "0 0.5 0.5 1 1\n1 0.5 0.5 1 1")
    write(tmp_path / "classes.txt", "salt;pepper\nmill\n")
    (item,) = read_manifest(tmp_path).items
    assert item.metadata["label"] == '["salt;pepper", "mill"]'
