"""Folders, tables and single files read as items: ids, sources, types of columns, and errors that name the place."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_files import gradient, image_bytes

from chiasm.errors import ManifestError
from chiasm.recognition.targets import parse_target
from chiasm.report.page import Page
from chiasm.store.collection import Collection
from chiasm.store.manifest import Manifest, read_manifest, read_manifests
from chiasm.types import FileOutcome, Item, Outcome, Source


def table(folder: Path, content: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8", newline="")
    return path


def refusal(path: Path) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert caught.value.path in (str(path), ascii(str(path)))
    assert str(caught.value).startswith(caught.value.path)
    return caught.value


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_several_paths_of_which_some_hold_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.xyz")
    table(tmp_path, "words", "a.log")
    paths = [tmp_path / "a.log", tmp_path / "a.png", tmp_path / "b.xyz"]  # `add photos/*`
    assert [len(manifest.items) for manifest in read_manifests(paths)] == [0, 1, 0]
    with pytest.raises(ManifestError, match=r"a\.log: text that is not called .*1 more"):
        read_manifests([paths[0], paths[2]])
    with pytest.raises(ManifestError, match="name at least one"):
        read_manifests([])


def test_files_that_are_named_one_by_one_are_paired(tmp_path: Path) -> None:
    touch(tmp_path, "e\u0301.png", "\u00e9.txt", "b.png", "more/b.txt", "more/c.png")
    paths = [tmp_path / name for name in ("e\u0301.png", "b.png", "more", "\u00e9.txt", "b.png", "more/b.txt")]
    manifests = read_manifests(paths)
    assert [[(item.id, len(item.sources)) for item in one.items] for one in manifests] == [
        [("\u00e9", 2)],
        [("b", 1)],
        [("b", 1), ("c", 1)],
        [("b", 1)],
    ]


# Folders


def test_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "birds/owl.png", "birds/owl.txt", "birds/owl.JPG", "birds/owl.ogg", "birds/wren.png", "top.mp4")
    touch(tmp_path, "birds/of prey/kite.webm", "ünder.v2.flac")
    manifest = read_manifest(str(tmp_path))
    at = str(tmp_path)
    assert manifest.source == at
    assert not manifest.explicit_ids
    assert manifest.outcomes == ()
    assert manifest.columns == {"folder": "string", "label": "string"}
    assert manifest.items == (
        Item(
            "birds/of prey/kite",
            (Source("video", path=f"{at}/birds/of prey/kite.webm"),),
            {"folder": "birds/of prey", "label": "of prey"},
        ),
        Item(
            "birds/owl",
            (
                Source("image", path=f"{at}/birds/owl.JPG"),
                Source("audio", path=f"{at}/birds/owl.ogg"),
                Source("image", path=f"{at}/birds/owl.png"),
                Source("text", path=f"{at}/birds/owl.txt"),
            ),
            {"folder": "birds", "label": "birds"},
        ),
        Item("birds/wren", (Source("image", path=f"{at}/birds/wren.png"),), {"folder": "birds", "label": "birds"}),
        Item("top", (Source("video", path=f"{at}/top.mp4"),), {"folder": ".", "label": None}),
        Item("ünder.v2", (Source("audio", path=f"{at}/ünder.v2.flac"),), {"folder": ".", "label": None}),
    )


def test_a_folder_under_any_spelling_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/b/c.png")
    monkeypatch.chdir(tmp_path / "a")
    assert read_manifest("b") == read_manifest(tmp_path / "a" / ".." / "a" / "b") == read_manifest(f"{tmp_path}/a/b/")


def test_hidden_and_system_files_are_passed_over_in_silence(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", ".hidden.png", ".git/b.png", "Thumbs.db", "desktop.ini", "__MACOSX/c.png", "~$d.txt")
    touch(
        tmp_path,
        ".DS_Store",
        "@eaDir/e.png",
        ".ipynb_checkpoints/f.png",
        "._a.png",
        "lost+found/g.png",
        "#recycle/h.png",
    )
    manifest = read_manifest(tmp_path)
    assert [item.id for item in manifest.items] == ["a"]
    assert manifest.outcomes == ()


def test_unknown_extensions_are_sniffed_and_known_ones_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "picture.dat").write_bytes(image_bytes(gradient(8, 8), "PNG"))
    (tmp_path / "README").write_text("words")
    (tmp_path / "paper.pdf").write_bytes(b"%PDF-1.7")
    (tmp_path / "void.xyz").touch()
    touch(tmp_path, "empty.png")  # what is in it, if anything, is found when it is opened
    manifest = read_manifest(tmp_path)
    assert [(item.id, item.sources[0].modality) for item in manifest.items] == [
        ("empty", "image"),
        ("picture", "image"),
    ]
    assert [(Path(outcome.path).name, outcome.outcome) for outcome in manifest.outcomes] == [
        ("README", Outcome.NOT_READ),
        ("paper.pdf", Outcome.UNSUPPORTED),
        ("void.xyz", Outcome.EMPTY),
    ]
    assert "PDF" in manifest.outcomes[1].reason


@pytest.mark.parametrize(
    "name",
    [
        "cat.xmp",
        "cat.AAE",
        "cat.png.json",
        "cat.srt",
        "cat.log",
        "cat.ini",
        "cat.py",
        "cat.html",
        "cat.md5",
        "cat.rst",
        "cat.xml",
        "cat",
        "cat.yaml",
        "cat.vtt",
    ],
)
def test_only_txt_and_md_are_captions(name: str, tmp_path: Path) -> None:
    touch(tmp_path, "cat.png", "dog.png")
    table(tmp_path, "a cat", "cat.txt")
    table(tmp_path, "a dog", "dog.MD")
    table(tmp_path, "<x>words of a sidecar</x>\n", name)
    manifest = read_manifest(tmp_path)
    assert {item.id: [source.modality for source in item.sources] for item in manifest.items} == {
        "cat": ["image", "text"],
        "dog": ["text", "image"],
    }
    (outcome,) = manifest.outcomes
    assert (Path(outcome.path).name, outcome.outcome) == (name, Outcome.NOT_READ)
    assert "rename it" in outcome.reason
    named = read_manifest(tmp_path / name)  # `add photos/*` names every file
    assert named.items == ()
    assert named.outcomes[0].outcome is Outcome.NOT_READ


def test_a_file_of_annotations_says_that_its_folder_is_to_be_named(tmp_path: Path) -> None:
    pictures = [{"id": number, "file_name": "1.jpg"} for number in range(9000)]
    coco = {"info": {}, "images": pictures, "annotations": [{"image_id": 1}], "categories": [{"id": 1, "name": "cat"}]}
    table(tmp_path, json.dumps(coco), "ann.json")
    table(tmp_path, '{"images": 3}', "other.json")
    assert "COCO: add the folder" in read_manifest(tmp_path / "ann.json").outcomes[0].reason
    assert "COCO" not in read_manifest(tmp_path / "other.json").outcomes[0].reason


def test_what_chiasm_wrote_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "not.md")
    Collection.create(tmp_path / "index", encoder="offline")
    table(tmp_path / "index", "{}", "leftover.md")
    model = tmp_path / "deep" / "pets"
    model.mkdir(parents=True)
    (model / "model.json").write_text(json.dumps({"format": "chiasm-model"}))
    touch(model, "about.txt")
    Page("Report", "Of something.").save(tmp_path / "report.md")
    header = json.dumps({"__metadata__": {"format": "chiasm-pair-statistics"}}).encode()
    (tmp_path / "sums.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    touch(tmp_path, "chiasm/model.json", "chiasm/b.png")  # of somebody else: only the content counts
    manifest = read_manifest(tmp_path)
    assert [item.id for item in manifest.items] == ["a", "chiasm/b", "not"]
    assert {
        Path(outcome.path).name: outcome.outcome for outcome in manifest.outcomes if outcome.outcome != "empty"
    } == dict.fromkeys(("index", "pets", "report.md", "sums.safetensors"), Outcome.NOT_READ)
    assert "collection" in read_manifest(tmp_path / "index").outcomes[0].reason


def names_and_rows(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {item.id: item.metadata for item in manifest.items}


def test_classes_and_splits_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/1.png", "train/dog/2.png", "Test/cat/3.png")
    manifest = read_manifest(tmp_path)
    assert names_and_rows(manifest) == {
        "Test/cat/3": {"folder": "Test/cat", "label": "cat", "split": "test"},
        "train/cat/1": {"folder": "train/cat", "label": "cat", "split": "train"},
        "train/dog/2": {"folder": "train/dog", "label": "dog", "split": "train"},
    }
    touch(tmp_path, "car/4.png")  # so these are vehicles
    assert [row["label"] for row in names_and_rows(read_manifest(tmp_path)).values()] == ["cat", "car", "cat", "dog"]
    assert "split" not in read_manifest(tmp_path).columns


def test_splits_below_classes_and_without_classes(tmp_path: Path) -> None:
    touch(tmp_path, "a/cat/val/1.png", "a/cat/train/2.png", "a/dog/val/3.png", "b/train/4.png")
    assert {name: (row["label"], row["split"]) for name, row in names_and_rows(read_manifest(tmp_path)).items()} == {
        "a/cat/train/2": ("cat", "train"),
        "a/cat/val/1": ("cat", "validation"),
        "a/dog/val/3": ("dog", "validation"),
        "b/train/4": ("b", "train"),
    }


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_metadata_table_describes_its_folder(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "train/3.png", "train/1.txt", "train/sub/4.png", "train/s.wav")
    rows: list[dict[str, Any]] = [
        {"file_name": "1.png", "text": "a cat", "label": "cat", "year": 1999},
        {"file_name": "sub/4.png", "text": "a dog", "label": "dog", "year": None},
        {"file_name": "s.wav", "text": None, "label": None, "year": 7},
    ]
    path = tmp_path / "train" / f"metadata.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    manifest = read_manifest(tmp_path)
    at = f"{tmp_path}/train"
    assert manifest.outcomes == ()
    assert {item.id: [source.path or source.text for source in item.sources] for item in manifest.items} == {
        "train/1": [f"{at}/1.png", "a cat", f"{at}/1.txt"],
        "train/2": [f"{at}/2.png"],
        "train/3": [f"{at}/3.png"],
        "train/s": [f"{at}/s.wav"],
        "train/sub/4": [f"{at}/sub/4.png", "a dog"],
    }
    rows_of = names_and_rows(manifest)
    assert rows_of["train/1"] == {"folder": "train", "label": "cat", "split": "train", "year": 1999}
    assert rows_of["train/sub/4"] == {"folder": "train/sub", "label": "dog", "split": "train", "year": None}
    assert rows_of["train/2"] == {"folder": "train", "label": None, "split": "train", "year": None}
    assert [item.id for item in read_manifest(path).items] == ["1", "sub/4", "s"]  # named itself, it is a table


def test_a_metadata_table_with_several_files_a_row(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.wav", "c.png", "d.png")
    table(tmp_path, '{"left_file_name": "a.png", "file_names": ["b.wav", "c.png"]}\n', "metadata.jsonl")
    (first, second) = read_manifest(tmp_path).items
    assert [(source.modality, Path(source.path or "").name) for source in first.sources] == [
        ("image", "a.png"),
        ("audio", "b.wav"),
        ("image", "c.png"),
    ]
    assert second.id == "d"


def test_metadata_tables_that_cannot_be_followed(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "secret.png", "in/more/b.png", "in/other/c.png")
    table(tmp_path / "in", "file_name,x\na.png,1\n../secret.png,2\ngone.png,3\na.png,4\n", "metadata.csv")
    table(tmp_path / "in" / "more", 'file_name\n"b.png\n', "metadata.csv")
    table(tmp_path / "in" / "other", "name,x\nc.png,1\n", "metadata.csv")
    manifest = read_manifest(tmp_path / "in")
    assert [item.id for item in manifest.items] == ["a", "a#2", "gone", "more/b", "other/c"]
    found = {outcome.path.removeprefix(f"{tmp_path}/in/"): outcome for outcome in manifest.outcomes}
    assert {name: outcome.outcome for name, outcome in found.items()} == {
        "metadata.csv, ../secret": Outcome.NOT_READ,
        "more/metadata.csv, line 2": Outcome.BROKEN,
        "other/metadata.csv": Outcome.NOT_READ,
    }
    assert "outside of the folder" in found["metadata.csv, ../secret"].reason


def test_names_composed_in_two_ways_are_one(tmp_path: Path) -> None:
    apart, composed = "cafe\u0301", "caf\u00e9"
    touch(tmp_path, f"{apart}/{composed}.png", f"{apart}/{apart}.ogg", f"{composed}/b.png")
    manifest = read_manifest(tmp_path)
    assert [(item.id, len(item.sources), item.metadata["label"]) for item in manifest.items] == [
        (f"{composed}/b", 1, composed),
        (f"{composed}/{composed}", 2, composed),
    ]
    listing = f"image,{apart}\n{apart}/{apart}.png,{apart}\n{composed}/b.png,{composed}\n"
    rows = read_manifest(table(tmp_path, listing)).items
    assert [item.sources[0].path for item in rows] == [
        f"{tmp_path}/{apart}/{composed}.png",
        f"{tmp_path}/{composed}/b.png",
    ]
    assert [(item.id, item.metadata) for item in rows] == [
        (f"{composed}/{composed}", {composed: composed}),
        (f"{composed}/b", {composed: composed}),
    ]
    assert read_manifest(tmp_path / apart / f"{apart}.png").items[0].id == composed


def test_what_belongs_to_no_item_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "more.csv", "more.parquet", "shut/b.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / os.fsdecode(b"bad\xff.png")).touch()
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if path.endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)  # the tests may run as root, who may read everything
    manifest = read_manifest(tmp_path)
    assert [item.id for item in manifest.items] == ["a"]
    found = {Path(outcome.path).name: outcome for outcome in manifest.outcomes}
    assert list(found) == sorted(found)
    assert found["shut"] == FileOutcome(
        str(tmp_path / "shut"), Outcome.BROKEN, "the folder cannot be read: Permission denied"
    )
    assert found["gone.png"].outcome is Outcome.BROKEN
    assert found["pipe.png"].outcome is Outcome.UNSUPPORTED
    assert "name the table itself" in found["more.csv"].reason
    assert found["more.parquet"].outcome is Outcome.NOT_READ
    assert "not valid Unicode" in found["bad\ufffd.png"].reason


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "z/real/a.png", "elsewhere/b.png")
    (tmp_path / "a_link").symlink_to(tmp_path / "z" / "real")  # comes first by name, but the folder keeps its own
    (tmp_path / "z" / "up").symlink_to(tmp_path)
    (tmp_path / "z" / "self").symlink_to(tmp_path / "z" / "self")
    outside = tmp_path / "root"
    outside.mkdir()
    (outside / "linked").symlink_to(tmp_path / "elsewhere")
    (outside / "c.png").symlink_to(tmp_path / "z" / "real" / "a.png")
    assert [item.id for item in read_manifest(outside).items] == ["c", "linked/b"]
    manifest = read_manifest(tmp_path)
    assert [item.id for item in manifest.items] == ["elsewhere/b", "root/c", "z/real/a"]
    assert [Path(outcome.path).name for outcome in manifest.outcomes] == ["self"]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, ".hidden", "empty/.also")
    assert "the folder is empty; put media files into it" in str(refusal(tmp_path))


# One file


def test_a_single_file_is_one_item(tmp_path: Path) -> None:
    touch(tmp_path, "bird.v2.png")
    path = str(tmp_path / "bird.v2.png")
    assert read_manifest(path) == Manifest(path, (Item("bird.v2", (Source("image", path=path),)),))
    (tmp_path / "words.md").write_text("words")
    assert read_manifest(tmp_path / "words.md").items[0].sources[0].modality == "text"


def test_an_empty_file_is_an_outcome(tmp_path: Path) -> None:
    touch(tmp_path, "void.xyz")
    manifest = read_manifest(tmp_path / "void.xyz")
    assert (manifest.items, [one.outcome for one in manifest.outcomes]) == ((), [Outcome.EMPTY])


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        ("paper.pdf", b"%PDF-1.7", "a PDF document"),
        ("a.json", b"{}", "call it .jsonl"),
        ("a.xlsx", b"PK\x03\x04", "save it as .csv"),
        ("a.feather", b"FEA1\0\0", "as .parquet"),
    ],
)
def test_a_file_that_is_no_medium_is_an_outcome(name: str, content: bytes, advice: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    manifest = read_manifest(tmp_path / name)
    assert manifest.items == ()
    assert advice in manifest.outcomes[0].reason


@pytest.mark.parametrize(
    ("name", "content", "advice"),
    [
        (os.fsdecode(b"bad\xff.png"), b"", "not valid Unicode; rename it"),
        ("none", None, "no such file or folder"),
        ("none.csv", None, "no such file or folder"),
        ("none.png", None, "no such file or folder"),
    ],
)
def test_a_path_that_is_refused(name: str, content: bytes | None, advice: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert advice in str(refusal(tmp_path / name))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
        ("<!DOCTYPE html>\n<title>Not found</title>", "an HTML page"),
    ],
)
def test_what_stands_in_for_a_table(content: str, what: str, suffix: str, tmp_path: Path) -> None:
    assert what in str(refusal(table(tmp_path, content, f"t.{suffix}")))


@pytest.mark.parametrize("path", ["", " "])
def test_no_path_is_not_the_current_folder(path: str) -> None:
    with pytest.raises(ManifestError, match="the path is empty"):
        read_manifest(path)


def test_a_table_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path, "image\na.png\n")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    assert "cannot be read: Permission denied" in str(refusal(path))


# Tables


def test_a_table(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "id,image,text,audio,label,year\n"
        'x1,img/a.png,"A bird, ""singing""","[""s/1.ogg"", ""/abs/2.ogg""]",bird,1999\n'
        "007,../b.png,notes/b.txt,,fish,\n",
    )
    manifest = read_manifest(path)
    at = str(tmp_path)
    assert manifest.source == str(path)
    assert manifest.explicit_ids
    assert manifest.columns == {"label": "string", "year": "int"}
    assert manifest.items == (
        Item(
            "x1",
            (
                Source("image", path=f"{at}/img/a.png"),
                Source("text", text='A bird, "singing"'),
                Source("audio", path=f"{at}/s/1.ogg"),
                Source("audio", path="/abs/2.ogg"),
            ),
            {"label": "bird", "year": 1999},
        ),
        Item(
            "007",
            (Source("image", path=str(tmp_path.parent / "b.png")), Source("text", path=f"{at}/notes/b.txt")),
            {"label": "fish", "year": None},
        ),
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_dialects_of_csv(delimiter: str, mark: str, end: str, tmp_path: Path) -> None:
    rows = [["image", "a, b; c"], ["a.png", f'"x{delimiter}y{end}z"'], ["b.png", ""]]
    rows[0][1] = '"a, b; c"'
    path = table(tmp_path, mark + "".join(delimiter.join(cells) + end for cells in rows))
    manifest = read_manifest(path)
    assert [item.metadata for item in manifest.items] == [{"a, b; c": f"x{delimiter}y{end}z"}, {"a, b; c": None}]
    assert [item.id for item in manifest.items] == ["a", "b"]


def test_text_is_a_path_only_if_it_ends_like_one(tmp_path: Path) -> None:
    texts = ["notes.TXT ", "the end.txt\nwas not", "see https://a.org", "[1] a footnote", '["two", "texts"]', "[]x"]
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], *([index, text] for index, text in enumerate(texts))])
    sources = [item.sources for item in read_manifest(path).items]
    assert sources == [
        (Source("text", path=str(tmp_path / "notes.TXT")),),
        (Source("text", text="the end.txt\nwas not"),),
        (Source("text", text="see https://a.org"),),
        (Source("text", text="[1] a footnote"),),
        (Source("text", text="two"), Source("text", text="texts")),
        (Source("text", text="[]x"),),
    ]


def test_names_may_begin_with_a_bracket_and_files_may_be_missing(tmp_path: Path) -> None:
    manifest = read_manifest(table(tmp_path, "image\n[a] b.png\n"))
    assert manifest.items[0].sources[0].path == str(tmp_path / "[a] b.png")
    assert manifest.outcomes == ()


def test_empty_rows_are_passed_over(tmp_path: Path) -> None:
    assert len(read_manifest(table(tmp_path, "\n\nimage,label\n\na.png,x\n,\n\nb.png,y\n")).items) == 2
    assert len(read_manifest(table(tmp_path, '\n{"image": "a.png"}\n\n', "t.jsonl")).items) == 1


# Ids


def digest(text: str, length: int) -> str:
    return blake2b(text.encode(), digest_size=length // 2).hexdigest()


def test_ids_are_made_from_the_first_path(tmp_path: Path) -> None:
    content = "audio,image,text\na/1.ogg,,x\nb.ogg,i/2.v1.png,y\n,none,z\n.hid,,w\n,,only words\n"
    assert [item.id for item in read_manifest(table(tmp_path, content)).items] == [
        "a/1",
        "i/2.v1",
        "none",
        ".hid",
        f"text-{digest('only words', 12)}",
    ]


def test_shared_names_are_told_apart_by_the_media(tmp_path: Path) -> None:
    content = "image,text\na.png,one\na.jpg,one\na.png,two\nb.png,one\n"
    ids = [item.id for item in read_manifest(table(tmp_path, content)).items]
    assert ids == [
        *(
            f"a#{digest(json.dumps([['image', path], ['text', text]]), 8)}"
            for path, text in (("a.png", "one"), ("a.jpg", "one"), ("a.png", "two"))
        ),
        "b",
    ]
    turned = read_manifest(table(tmp_path, "text,image\ntwo,a.png\none,a.jpg\none,a.png\n"))
    assert [item.id for item in turned.items] == [ids[2], ids[1], ids[0]]  # whatever the order


def test_the_same_media_twice_are_two_items(tmp_path: Path) -> None:
    path = table(tmp_path, 'image,note\na.png,1\n"b.png","2\n3"\nc.png,4\nb.png,5\nb.png,5\n')
    manifest = read_manifest(path)
    assert [(item.id, item.metadata["note"]) for item in manifest.items] == [
        ("a", "1"),
        ("b", "2\n3"),
        ("c", "4"),
        ("b#2", "5"),
    ]
    (outcome,) = manifest.outcomes
    assert (outcome.path, outcome.outcome) == (f"{path}, line 7", Outcome.DUPLICATE)
    assert "same as in line 6" in outcome.reason
    assert len(read_manifest(table(tmp_path, "id,image\n1,a.png\n2,a.png\n")).items) == 2


def test_a_repeated_text(tmp_path: Path) -> None:
    manifest = read_manifest(table(tmp_path, "text,label\nhello,x\nhello,y\nhello,x\n"))
    name = f"text-{digest('hello', 12)}"
    assert {item.id: item.metadata["label"] for item in manifest.items} == {name: "x", f"{name}#2": "y"}
    assert [outcome.outcome for outcome in manifest.outcomes] == [Outcome.DUPLICATE]


@pytest.mark.parametrize(
    ("value", "problem"),
    [("null", "empty"), ('" "', "empty"), ("1.5", "float"), ("true", "bool"), ('"7"', "stands in line 1 already")],
)
def test_ids_of_a_wrong_kind_or_twice(value: str, problem: str, tmp_path: Path) -> None:
    path = table(tmp_path, f'{{"id": 7, "image": "a"}}\n{{"id": {value}, "image": "b"}}\n', "t.jsonl")
    manifest = read_manifest(path)
    assert [item.id for item in manifest.items] == ["7"]
    assert [(one.path, one.outcome) for one in manifest.outcomes] == [(f"{path}, line 2, column 'id'", Outcome.BROKEN)]
    assert problem in manifest.outcomes[0].reason


# Types


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        (["1", "-20", "", "0"], "int", [1, -20, None, 0]),
        (["007", "8"], "string", ["007", "8"]),
        (["+1", "2"], "string", ["+1", "2"]),
        (["9223372036854775807"], "int", [2**63 - 1]),
        (["9223372036854775808", "1"], "string", ["9223372036854775808", "1"]),
        (["1", "2.50", "1e-3", ".5", "-3."], "float", [1.0, 2.5, 0.001, 0.5, -3.0]),
        (["nan", "1"], "int", [None, 1]),
        (["cat", "NULL", "N/A", " ", "None", "none", "<NA>"], "string", ["cat", None, None, None, None, "none", None]),
        (["inf"], "string", ["inf"]),
        (["1e999", "2", "-inf"], "float", [None, 2.0, None]),
        (["1e999"], "string", ["1e999"]),
        (['["pet", "wild cat"]', "['pet']", "[]", ""], "string", ["pet;wild cat", "pet", ";", None]),
        (['["a;b", "c"]', "d"], "string", ['["a;b", "c"]', "d"]),
        (["true", "FALSE", ""], "bool", [True, False, None]),
        (["true", "1"], "string", ["true", "1"]),
        (["2024-02-29", ""], "date", [date(2024, 2, 29), None]),
        (["2023-02-29"], "string", ["2023-02-29"]),
        (
            ["2024-05-31T10:00", "2024-05-31", "2024-05-31 10:00:01.5"],
            "timestamp",
            [datetime(2024, 5, 31, 10), datetime(2024, 5, 31), datetime(2024, 5, 31, 10, 0, 1, 500000)],
        ),
        (["2024-05-31T10:00Z"], "timestamp", [datetime(2024, 5, 31, 10, tzinfo=UTC)]),
        (["2024-05-31T10:00Z", "2024-05-31T10:00"], "string", ["2024-05-31T10:00Z", "2024-05-31T10:00"]),
        (["20240531"], "int", [20240531]),
        ([" 1"], "string", [" 1"]),
        (["١"], "string", ["١"]),  # a digit, but not one of ours
        (["", ""], "string", [None, None]),
    ],
)
def test_types_in_csv(cells: list[str], kind: str, values: list[Any], tmp_path: Path) -> None:
    with (tmp_path / "table.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["image", "x"], *enumerate(cells)])
    manifest = read_manifest(tmp_path / "table.csv")
    assert manifest.columns == {"x": kind}
    assert repr([item.metadata["x"] for item in manifest.items]) == repr(values)  # types included


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, 2], "int", [1, None, 2]),
        ([1, 2.5], "float", [1.0, 2.5]),
        ([True, None], "bool", [True, None]),
        ([True, 1], "string", ["true", "1"]),
        (["a", 1, 2.5], "string", ["a", "1", "2.5"]),
        ([2**63, 1], "string", [str(2**63), "1"]),
        (["12", "007"], "string", ["12", "007"]),
        (["2024-02-29", None], "date", [date(2024, 2, 29), None]),
        (["2024-05-31T10:00"], "timestamp", [datetime(2024, 5, 31, 10)]),
        ([["a", "b"], {"ü": 1}], "string", ['["a", "b"]', '{"ü": 1}']),
        ([["a", "b"], [], "c", None], "string", ["a;b", ";", "c", None]),
        ([["a|b", "c"]], "string", ['["a|b", "c"]']),
        ([[1, 2.5]], "string", ["[1, 2.5]"]),
        ([2**53 + 1, 0.5], "string", [str(2**53 + 1), "0.5"]),
        (["2024-05-31", "nan", "NULL"], "date", [date(2024, 5, 31), None, None]),
        ([None], "string", [None]),
    ],
)
def test_types_in_json(values: list[Any], kind: str, expected: list[Any], tmp_path: Path) -> None:
    lines = [json.dumps({"image": str(n), "x": value}) for n, value in enumerate(values)]
    manifest = read_manifest(table(tmp_path, "\n".join(lines), "t.ndjson"))
    assert manifest.columns == {"x": kind}
    assert repr([item.metadata["x"] for item in manifest.items]) == repr(expected)  # types included


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("odd", ["animal", "wild; or not"])
def test_lists_of_labels_are_several_labels(odd: str, suffix: str, tmp_path: Path) -> None:
    labels: list[list[str] | None] = [["pet", odd], ["pet"], [], [odd], None, ["pet", odd]]
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({"text": list("abcdef"), "label": labels}), path)
    elif suffix == "jsonl":
        path.write_text(
            "".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in zip("abcdef", labels, strict=True))
        )
    else:
        with path.open("w", newline="") as file:
            cells = (None if b is None else json.dumps(b) for b in labels)
            csv.writer(file).writerows([["text", "label"], *zip("abcdef", cells, strict=True)])
    target = parse_target([item.metadata["label"] for item in read_manifest(path).items], column="label")
    assert (target.kind, target.names.tolist()) == ("labels", sorted(["pet", odd]))
    assert target.known.tolist() == [True, True, True, True, False, True]
    assert target.values.sum(axis=1).tolist() == [2, 1, 0, 1, 0, 2]


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    rows = ['"x": NaN, "y": {"z": [Infinity]}', '"x": 1e999, "y": null', '"x": 2.5, "y": null']
    path = table(tmp_path, "".join(f'{{"text": "{number}", {row}}}\n' for number, row in enumerate(rows)), "t.jsonl")
    assert [item.metadata for item in read_manifest(path).items] == [
        {"x": None, "y": '{"z": [null]}'},
        {"x": None, "y": None},
        {"x": 2.5, "y": None},
    ]


def test_keys_may_be_missing_in_json(tmp_path: Path) -> None:
    path = table(tmp_path, '{"image": "a", "x": 1}\n{"text": "words", "y": "z"}\n', "t.jsonl")
    manifest = read_manifest(path)
    assert manifest.columns == {"x": "int", "y": "string"}
    assert [item.metadata for item in manifest.items] == [{"x": 1, "y": None}, {"x": None, "y": "z"}]


def test_types_in_parquet(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 31, 10, 0, 1, 500000)
    columns: dict[str, tuple[Any, Any, str, Any]] = {
        "string": (pa.string(), "2024-05-31", "string", "2024-05-31"),
        "category": (pa.dictionary(pa.int8(), pa.string()), "a", "string", "a"),
        "small": (pa.int16(), 7, "int", 7),
        "large": (pa.uint64(), 2**63, "string", str(2**63)),
        "float": (pa.float32(), 0.5, "float", 0.5),
        "nan": (pa.float64(), float("nan"), "string", None),
        "decimal": (pa.decimal128(5, 2), Decimal("1.25"), "float", 1.25),
        "bool": (pa.bool_(), True, "bool", True),
        "date": (pa.date32(), date(2024, 5, 31), "date", date(2024, 5, 31)),
        "seconds": (pa.timestamp("s"), datetime(2024, 5, 31), "timestamp", datetime(2024, 5, 31)),
        "nanoseconds": (pa.timestamp("ns"), moment, "timestamp", moment),
        "zone": (pa.timestamp("us", "UTC"), moment, "timestamp", moment.replace(tzinfo=UTC)),
        "list": (pa.list_(pa.int8()), [1, 2], "string", "[1, 2]"),
    }
    arrays = {name: pa.array([value, None], kind) for name, (kind, value, _, _) in columns.items()}
    images = pa.array([["a.png", "b.png"], ["c.png"]])
    pq.write_table(pa.table({"image": images, **arrays}), tmp_path / "t.parquet")
    manifest = read_manifest(tmp_path / "t.parquet")
    assert manifest.columns == {name: kind for name, (_, _, kind, _) in columns.items()}
    assert manifest.items[0].metadata == {name: value for name, (_, _, _, value) in columns.items()}
    assert manifest.items[1].metadata == dict.fromkeys(columns)
    assert [source.path for source in manifest.items[0].sources] == [str(tmp_path / f"{n}.png") for n in "ab"]


def test_values_of_parquet_that_python_does_not_have(tmp_path: Path) -> None:
    micros = 1_717_149_601_500_000
    columns = {
        "far": pa.array([10_000_000, 0], pa.date32()),  # the year 29349
        "farther": pa.array([10**13, 0], pa.timestamp("s")),
        "zone": pa.array([micros, None], pa.timestamp("us", "Mars/Olympus")),
        "nested": pa.array([[10**13], [0]], pa.list_(pa.timestamp("s"))),
        "object": pa.array([{"a": 1.0, "b": [float("nan")]}, None]),
        "duration": pa.array([1500, None], pa.duration("ms")),
        "nanoseconds": pa.array([1500, None], pa.duration("ns")),
        "time": pa.array([10**9, None], pa.time64("ns")),
        "decimal": pa.array([Decimal("1.25"), None]),
        "wide": pa.array(["a", None], pa.large_string()),
        "view": pa.array(["a", None], pa.string_view()),
        "dates": pa.array([date(2024, 5, 31), None]).dictionary_encode(),
        "tags": pa.array([["a", "b"], None], pa.large_list(pa.large_string())),
        "half": pa.array([1.5, float("inf")], pa.float16()),
    }
    pq.write_table(pa.table({"image": ["a.png", "b.png"], **columns}), tmp_path / "t.parquet", store_schema=True)
    manifest = read_manifest(tmp_path / "t.parquet")
    assert manifest.items[0].metadata == {
        "far": None,
        "farther": None,
        "zone": datetime(2024, 5, 31, 10, 0, 1, 500000, tzinfo=UTC),
        "nested": None,
        "object": '{"a": 1.0, "b": [null]}',
        "duration": 1.5,
        "nanoseconds": 1e-6,
        "time": "00:00:01",
        "decimal": 1.25,
        "wide": "a",
        "view": "a",
        "dates": date(2024, 5, 31),
        "tags": "a;b",
        "half": 1.5,
    }
    assert manifest.items[1].metadata["far"] == date(1970, 1, 1)
    assert manifest.items[1].metadata["half"] is None


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "\nsep=;\n"])
def test_the_separator_of_excel(first: str, tmp_path: Path) -> None:
    manifest = read_manifest(table(tmp_path, f'{first}image;a,b\na.png;"x;y"\n;z\n'))
    assert [item.metadata for item in manifest.items] == [{"a,b": "x;y"}]
    assert manifest.outcomes[0].path.endswith(f", line {first.count(chr(10)) + 3}")


def test_empty_columns_of_spreadsheets(tmp_path: Path) -> None:
    manifest = read_manifest(table(tmp_path, "image,x,,\na.png,1,,\nb.png,2,, \n,,,\n"))
    assert [item.metadata for item in manifest.items] == [{"x": 1}, {"x": 2}]
    assert manifest.outcomes == ()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_tables_with_a_mark(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("image,name\r\na.png,Zoë\r\n".encode(encoding))
    (tmp_path / "t.jsonl").write_bytes('{"image": "a.png", "name": "Zoë"}\n'.encode(encoding))
    for name in ("t.csv", "t.jsonl"):
        assert [item.metadata for item in read_manifest(tmp_path / name).items] == [{"name": "Zoë"}]
    if encoding != "utf-8-sig":
        (tmp_path / "t.csv").write_bytes("image\r\na.png\r\n".encode(encoding)[:-1])
        assert "its mark says" in str(refusal(tmp_path / "t.csv"))


def test_utf_16_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("image\na.png\n".encode("utf-16-le"))
    assert "UTF-16 without a mark" in str(refusal(tmp_path / "t.csv"))


def test_paths_of_windows(tmp_path: Path) -> None:
    touch(tmp_path, "images/cat.png", "odd\\name.png")
    path = table(tmp_path, "image,n\nimages\\cat.png,1\n.\\images\\gone.png,2\nodd\\name.png,3\nC:\\me\\x.png,4\n")
    manifest = read_manifest(path)
    assert [(item.id, item.sources[0].path) for item in manifest.items] == [
        ("images/cat", f"{tmp_path}/images/cat.png"),
        ("images/gone", f"{tmp_path}/images/gone.png"),
        ("odd\\name", f"{tmp_path}/odd\\name.png"),
    ]
    assert [outcome.outcome for outcome in manifest.outcomes] == [Outcome.BROKEN]
    assert "Windows" in manifest.outcomes[0].reason
    assert "relative to the table" in str(refusal(table(tmp_path, "image\n\\\\share\\x.png\n")))


def test_a_text_column_names_files_by_their_ending_or_by_being_there(tmp_path: Path) -> None:
    touch(tmp_path, "page.html", "notes.md", "a b.html")
    path = table(tmp_path, "text\npage.html\nnotes.md\ngone.md\ngone.html\na b.html\n")
    assert [item.sources[0].path for item in read_manifest(path).items] == [
        f"{tmp_path}/page.html",
        f"{tmp_path}/notes.md",
        f"{tmp_path}/gone.md",
        None,
        None,
    ]


# Wrong tables


@pytest.mark.parametrize(
    ("content", "line", "column", "outcome", "problem"),
    [
        ("image,label\na.png,x\nb.png\n", 3, None, "broken", "the row has 1 cells and the first row 2"),
        ('image,label\n"a.png","x\ny"\nb.png,x,z\n', 4, None, "broken", "the row has 3 cells and the first row 2"),
        ("image,label\na.png,x\n,y\n", 3, None, "empty", "the row has no image; fill one in, or remove the row"),
        ("image,label\na.png,x\nNULL,y\n", 3, None, "empty", "the row has no image"),
        ("image,text\na.png,x\n , \n", 3, None, "empty", "the row has no image and no text"),
        ("image\na.png\nhttps://a.org/b.png\n", 3, "image", "broken", "is a URL"),
        ('{"image": "a"}\n{"image": \n', 2, None, "broken", "invalid JSON at character 11: Expecting value"),
        ('{"image": "a"}\n\n["b"]\n', 3, None, "broken", 'expected an object such as {"image": "a.png"}; got list'),
        ('{"image": "a"}\n{"image": 3}\n', 2, "image", "broken", "got int 3"),
        ("file_name\na.png\ngone\n", 3, "file_name", "broken", "does not exist"),
    ],
)
def test_a_wrong_row_is_an_outcome(
    content: str, line: int, column: str | None, outcome: str, problem: str, tmp_path: Path
) -> None:
    path = table(tmp_path, content, "t.jsonl" if content.startswith("{") else "t.csv")
    manifest = read_manifest(path)
    assert len(manifest.items) == 1
    (one,) = manifest.outcomes
    assert (one.path, one.outcome) == (f"{path}, line {line}" + (f", column {column!r}" if column else ""), outcome)
    assert problem in one.reason


@pytest.mark.parametrize(
    ("content", "line", "column", "problem"),
    [
        ("", None, None, "the table has no rows"),
        ("image,label\n", None, None, "the table has no rows"),
        ("picture,label\na.png,x\n", None, None, "there are 'picture'"),
        ("Image\na.png\n", None, None, "rename 'Image' to 'image'"),
        ("text\nyes, and no\n", 2, None, "put cells that hold the delimiter between double quotes"),
        ('image,label\na.png,"x"y\n', 2, None, "the quotes of the row"),
        ('image,label\na.png,x\nb.png,"x\n\n', 3, None, "the quotes of the row are not closed"),
        (",image\n0,a.png\n", None, None, "column 1 has no name"),
        ("image,x,x\na.png,1,2\n", 1, "x", "2 columns have this name"),
        ("image,_x\na.png,1\n", None, "_x", "names that begin with _ are reserved"),
        ("image\nhttps://a.org/b.png\n", 2, "image", "'https://a.org/b.png' is a URL; download the file"),
        ("text\nhttps://a.org/b.txt\n", 2, "text", "is a URL"),
        ('image\n"[""a.png"", b]"\n', 2, "image", "begins as a JSON array but is none"),
        ('image\n"[1, 2]"\n', 2, "image", "expected a path or a list of paths; got list [1, 2]"),
        ('{"image": 3}\n', 1, "image", "expected a path or a list of paths; got int 3"),
        ('{"image": ["a", null]}\n', 1, "image", "got list ['a', None]"),
        ('{"image": {"bytes": "..."}}\n', 1, "image", "got dict {'bytes': '...'}; write the bytes to files"),
        ("image,label\n,y\n,z\n", 2, None, "the row has no image; fill one in, or remove the row"),
        ('{"image": "a\\u0000.png"}\n', 1, "image", "holds a NUL"),
        ('{"text": false}\n', 1, "text", "expected a text or a list of texts; got bool False"),
        ('{"image": "a", "image": "b"}\n', 1, None, "the key 'image' stands there twice"),
        ('{"image": "a", "x": "\\ud800"}\n', 1, None, "surrogates not allowed"),
        ('{"image": ' + "[" * 100_000 + "\n", 1, None, "invalid JSON"),
        ('{"image": "a", "x": ' + "9" * 5000 + "}\n", 1, None, "invalid JSON"),
        ('{"image": "a", "": 1}\n', None, None, "column 2 has no name"),
    ],
)
def test_a_wrong_table(content: str, line: int | None, column: str | None, problem: str, tmp_path: Path) -> None:
    error = refusal(table(tmp_path, content, "t.jsonl" if content.startswith("{") else "t.csv"))
    assert problem in str(error)
    assert (error.line, error.column) == (line, column)


def test_long_cells(tmp_path: Path) -> None:
    words = "word " * 100_000
    for mark in ("", "sep=;\n"):
        manifest = read_manifest(table(tmp_path, f'{mark}text;remark\n"{words}";"{words}"\nshort;x\n', "t.csv"))
        assert [source.text for item in manifest.items for source in item.sources] == [words, "short"]
        assert manifest.items[0].metadata["remark"] == words
        assert manifest.outcomes == ()
    error = refusal(table(tmp_path, 'text\nfine\n"' + words + "\nnot closed\n", "t.csv"))
    assert (error.line, "not closed" in str(error)) == (3, True)


def test_tables_that_are_not_utf_8(tmp_path: Path) -> None:
    for name, rows in (("t.csv", ["image", "a.png", "ü.png"]), ("t.jsonl", ['{"image": "a"}', "", '{"image": "ü"}'])):
        (tmp_path / name).write_bytes("\n".join(rows).encode("latin-1"))
        error = refusal(tmp_path / name)
        assert error.line == 3
        for words in ("byte 0xFC is not UTF-8", "save it as UTF-8", "iconv"):
            assert words in str(error)
    (tmp_path / "t.csv").rename(tmp_path / "metadata.csv")
    (tmp_path / "metadata.csv").write_bytes("file_name,x\na.png,1\na.png,ü\n".encode("latin-1"))
    outcomes = {one.path: one.reason for one in read_manifest(tmp_path).outcomes}
    assert "byte 0xFC" in outcomes[f"{tmp_path}/metadata.csv, line 3"]
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe" + "text\nä".encode("utf-16-le") + b"\x00")
    assert "not the utf-16 that its mark says" in str(refusal(tmp_path / "t.csv"))


def test_wrong_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1 but not really PAR1")
    assert "cannot be read as Parquet" in str(refusal(path))
    pq.write_table(pa.table({"image": ["a", "b"], "raw": [None, b"x"]}), path)
    error = refusal(path)
    assert (error.line, error.column) == (2, "raw")
    assert "holds bytes; write them to files" in str(error)
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a.png"}, {"bytes": None, "path": "b.png"}]}), path)
    manifest = read_manifest(path)
    assert [item.id for item in manifest.items] == ["b"]
    assert "write the bytes to files" in manifest.outcomes[0].reason
    pq.write_table(pa.table({"image": [1, 2]}), path)
    error = refusal(path)
    assert (error.line, error.column) == (1, "image")
    pq.write_table(pa.table([["a"], [1], [2]], ["image", "x", "x"]), path)
    assert refusal(path).column == "x"
    pq.write_table(pa.table({"image": pa.array([], pa.string())}), path)
    assert "no rows" in str(refusal(path))


# Properties

_NAMES = st.text("abcdefghij äß_-0123456789", min_size=1, max_size=8).map(str.strip).filter(bool)
_PATHS = st.builds("{}/{}.{}".format, _NAMES, _NAMES, st.sampled_from(["png", "ogg", "x"]))
_WORDS = (
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
    .map(lambda words: f"w{words}")
    .filter(lambda words: words.rstrip()[-4:].lower() != ".txt")
)
_INTS = st.integers(-(2**63), 2**63 - 1)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False)
_TIMES = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
_COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "words": _WORDS,
    "number": _INTS,
    "share": _FLOATS,
    "flag": st.booleans(),
    "day": st.dates(date(1700, 1, 1), date(2200, 1, 1)),
    "moment": _TIMES,
}
_KINDS = {"words": "string", "number": "int", "share": "float", "flag": "bool", "day": "date", "moment": "timestamp"}
_ROW = st.fixed_dictionaries(
    {
        "image": st.lists(_PATHS, max_size=3),
        "text": st.lists(_WORDS, max_size=2),
        "audio": st.lists(_PATHS, max_size=2),
        **{name: st.none() | values for name, values in _COLUMNS.items()},
    }
).filter(lambda row: row["image"] or row["text"] or row["audio"])


def _csv_cell(value: Any) -> Any:
    match value:
        case list():
            return "" if not value else value[0] if len(value) == 1 else json.dumps(value)
        case datetime():
            return value.isoformat()
        case float():
            return repr(value)
        case _:
            return value


def write_everywhere(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Path]:
    paths = [folder / f"t.{suffix}" for suffix in ("csv", "jsonl", "parquet")]
    with paths[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([list(rows[0]), *([_csv_cell(row[name]) for name in rows[0]] for row in rows)])
    paths[1].write_text("".join(json.dumps(row, default=lambda time: time.isoformat()) + "\n" for row in rows))
    kinds = {"number": pa.int64(), "share": pa.float64(), "flag": pa.bool_(), "day": pa.date32(), "words": pa.string()}
    kinds |= {"moment": pa.timestamp("us"), **dict.fromkeys(("image", "text", "audio"), pa.list_(pa.string()))}
    kinds["id"] = pa.string()
    columns = {name: pa.array([row[name] for row in rows], kinds[name]) for name in rows[0]}
    pq.write_table(pa.table(columns), paths[2])
    return paths


@given(rows=st.lists(_ROW, min_size=1, max_size=6), explicit=st.booleans())
@settings(deadline=None, max_examples=80)
def test_items_come_back_alike_from_every_format(
    rows: list[dict[str, Any]], explicit: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if explicit:
        rows = [{"id": f"n{number}", **row} for number, row in enumerate(rows)]
    folder = tmp_path_factory.getbasetemp()
    paths = write_everywhere(folder, rows)
    once = list({json.dumps(row, default=str): row for row in rows}.values())
    manifests = [read_manifest(path) for path in paths]
    for manifest in manifests:
        assert manifest.explicit_ids is explicit
        assert [outcome.outcome for outcome in manifest.outcomes] == [Outcome.DUPLICATE] * (len(rows) - len(once))
        assert len({item.id for item in manifest.items}) == len(once)
        assert manifest.items == manifests[0].items
        for name in _COLUMNS:
            known = any(row[name] is not None for row in rows)
            assert manifest.columns[name] == (_KINDS[name] if known else "string")
    for item, row in zip(manifests[0].items, once, strict=True):
        assert item.sources == (
            *(Source("image", path=f"{folder}/{path}") for path in row["image"]),
            *(Source("text", text=words) for words in row["text"]),
            *(Source("audio", path=f"{folder}/{path}") for path in row["audio"]),
        )
        assert item.metadata == {name: row[name] for name in _COLUMNS}
        assert not explicit or item.id == row["id"]


_FOLDER_NAMES = st.text("abcäß _-12", min_size=1, max_size=5).filter(lambda name: not name.startswith("~"))
_FILES = st.dictionaries(
    st.lists(_FOLDER_NAMES, min_size=1, max_size=3).map("/".join),
    st.sets(st.sampled_from(["png", "jpg", "txt", "ogg", "mp4"]), min_size=1),
    min_size=1,
    max_size=8,
)
_MODALITY = {"png": "image", "jpg": "image", "txt": "text", "ogg": "audio", "mp4": "video"}


@given(files=_FILES)
@settings(deadline=None, max_examples=60)
def test_a_folder_comes_back_as_it_was_written(
    files: dict[str, set[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for stem, extensions in files.items():
        touch(folder, *(f"{stem}.{extension}" for extension in extensions))
    manifest = read_manifest(folder)
    assert [item.id for item in manifest.items] == sorted(files)
    assert manifest.outcomes == ()
    for item in manifest.items:
        paths = sorted(f"{folder}/{item.id}.{extension}" for extension in files[item.id])
        assert [source.path for source in item.sources] == paths
        assert [source.modality for source in item.sources] == [_MODALITY[path.rpartition(".")[2]] for path in paths]
        *parents, _ = item.id.split("/")
        assert item.metadata == {"folder": "/".join(parents) or ".", "label": parents[-1] if parents else None}


@given(content=st.binary(max_size=200), name=st.sampled_from(["t.csv", "t.jsonl", "t.parquet"]))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_a_manifest_or_an_error(
    content: bytes, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    for data in (content, b"image,x\n" + content, b'{"image": "a"}\n' + content):
        path.write_bytes(data)
        try:
            manifest = read_manifest(path)
        except ManifestError as error:
            assert str(error).startswith(str(path))
        else:
            assert manifest.items
