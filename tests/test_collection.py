"""Collections: every file has one outcome, every content one vector, and nothing is opened or embedded in vain."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import date, datetime
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from fake_encoder import DIM, FakeEncoder, by_key, check, embed, rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_files import gradient, image_bytes, sound_bytes, tone

from chiasm import media
from chiasm.encoders.base import Encoder
from chiasm.errors import CollectionError, EncoderError
from chiasm.files import digest_file
from chiasm.media import Limits
from chiasm.store import ingest as module
from chiasm.store import tables
from chiasm.store.add import AddReport, add_manifests
from chiasm.store.collection import Collection
from chiasm.store.ingest import Progress
from chiasm.store.manifest import Manifest, read_manifest
from chiasm.store.tables import Tables
from chiasm.types import Item, Media, Source, Text

PNG = image_bytes(gradient(12, 10), "PNG")
RED = image_bytes(np.full((9, 9, 3), (200, 10, 10), np.uint8), "PNG")
WAV = sound_bytes(tone(0.2, 8000), 8000, "WAV")
TIMES = iter(range(1_700_000_000, 2_000_000_000))


def write(path: Path, content: bytes | str) -> Path:
    """Write a file whose time of change is another than that of every file before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    os.utime(path, (moment := next(TIMES), moment))
    return path


def touch(path: Path) -> None:
    os.utime(path, (moment := next(TIMES), moment))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three items with an image, two texts and a sound."""
    root = tmp_path / "media"
    write(root / "birds/owl.png", PNG)
    write(root / "birds/owl.txt", "an owl")
    write(root / "birds/tit.txt", "a tit")
    write(root / "hoot.wav", WAV)
    return root


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    return Collection.create(tmp_path / "collection", encoder="fake")


def add(collection: Collection, *paths: Path | Manifest, encoder: Encoder | None = None, **options: Any) -> AddReport:
    manifests = [path if isinstance(path, Manifest) else read_manifest(path) for path in paths]
    return add_manifests(collection, manifests, [encoder or FakeEncoder()], **options)


def table_of(*items: Item) -> Manifest:
    return Manifest("list.csv", items, {}, (), True)


def outcomes(collection: Collection) -> dict[tuple[str, str], tuple[str, str]]:
    return {key: (row["outcome"], row["reason"]) for key, row in rows(collection).items()}


def watch_load(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Note every call of `media.load`."""
    calls: list[tuple[str, dict[str, Any]]] = []
    load = media.load

    def watched(path: str, **options: Any) -> Media:
        calls.append((path, options))
        return load(path, **options)

    monkeypatch.setattr(media, "load", watched)
    return calls


def paths(calls: list[tuple[str, dict[str, Any]]]) -> set[Path]:
    return {Path(path) for path, _ in calls}


# --------------------------------------------------------------------------------------- a first and a second run


def test_a_folder_becomes_items_outcomes_and_vectors(made: Collection, folder: Path) -> None:
    encoder = FakeEncoder()
    report = add(made, folder, encoder=encoder)
    assert report.counts == {"ok": 4}
    assert (report.items, report.encoded, report.unchanged, report.outcomes) == (3, 4, 0, ())
    assert encoder.embedded == {"image": 1, "text": 2, "audio": 1}
    paths = {path.name: [str(path)] for path in folder.rglob("*.*")}
    nothing = dict.fromkeys(("image", "text", "audio", "video"))
    birds = {"folder": "birds", "label": "birds"}
    assert made.items() == [
        nothing | {"id": "birds/owl", "image": paths["owl.png"], "text": paths["owl.txt"]} | birds,
        nothing | {"id": "birds/tit", "text": paths["tit.txt"]} | birds,
        nothing | {"id": "hoot", "audio": paths["hoot.wav"], "folder": ".", "label": None},
    ]
    assert made.columns() == ["folder", "label"]
    assert made.count() == 3
    assert made.outcomes() == {"ok": 4}
    check(made)
    found = made.vectors(encoder.fingerprint)
    assert found.vectors.shape == (4, DIM)
    assert found.vectors.dtype == np.float32
    assert sorted(zip(found.items, found.slots, found.modalities, strict=True)) == [
        ("birds/owl", "image/0", "image"),
        ("birds/owl", "text/0", "text"),
        ("birds/tit", "text/0", "text"),
        ("hoot", "audio/0", "audio"),
    ]


def test_a_second_run_opens_nothing(made: Collection, folder: Path) -> None:
    """What was opened would be seen to have changed: other bytes lie behind the same sizes and times."""
    write(folder / "cut.png", PNG[:60])
    write(folder / "again.txt", "an owl")
    write(folder / "nothing.txt", "")
    write(folder / "notes.pdf", b"%PDF-1.7\n" + bytes(range(256)))
    first = add(made, folder)
    assert first.counts == {"ok": 4, "broken": 1, "duplicate": 1, "empty": 1, "unsupported": 1}
    tables = {path: lance.dataset(str(path)).version for path in made.path.glob("*.lance")}
    manifest = read_manifest(folder)  # which looks into files with unknown extensions
    for path in folder.rglob("*.*"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    encoder = FakeEncoder()
    second = add(made, manifest, encoder=encoder)
    assert not encoder.batches
    assert second.counts == first.counts
    assert set(second.outcomes) == set(first.outcomes)
    assert (second.encoded, second.unchanged, second.items) == (0, 7, first.items)
    assert {path: lance.dataset(str(path)).version for path in tables} == tables, "something was written"


def test_progress_counts_files_that_are_not_stored(made: Collection, folder: Path) -> None:
    seen: list[Progress] = []
    add(made, folder, on_progress=seen.append)
    assert seen == [Progress(done, 4, 0) for done in (1, 2, 3, 4)]
    write(folder / "cut.png", PNG[:60])
    write(folder / "again.txt", "an owl")
    seen.clear()
    add(made, folder, on_progress=seen.append)
    assert seen[-1] == Progress(2, 2, 1)


def test_an_empty_collection(made: Collection) -> None:
    assert (made.count(), made.items(), made.items(where="label = 'x'"), made.columns()) == (0, [], [], [])
    assert (made.files(), made.outcomes()) == ([], {})
    assert len(made.vectors("0123")) == 0
    assert made.remove(["nobody"]) == 0
    report = add_manifests(made, [], [])
    assert (report.items, report.counts) == (0, {})


# ------------------------------------------------------------------------------------------------------ bad files


def test_every_kind_of_bad_file_has_its_outcome(made: Collection, tmp_path: Path) -> None:
    (tmp_path / "a folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.wav")
    sources = {
        "good": write(tmp_path / "good.png", PNG),
        "missing": tmp_path / "missing.png",
        "dangling": tmp_path / "link.png",
        "folder": tmp_path / "a folder.png",
        "pipe": tmp_path / "pipe.wav",
        "nothing": write(tmp_path / "nothing.png", b""),
        "cut": write(tmp_path / "cut.png", PNG[:60]),
        "binary": write(tmp_path / "binary.png", bytes(range(256)) * 4),
        "silent": write(tmp_path / "silent.wav", sound_bytes(np.zeros(8000, np.float32), 8000, "WAV")),
        "blank": write(tmp_path / "blank.txt", " \n"),
        "text": write(tmp_path / "text.png", "only called a picture"),
        "nul": tmp_path / "nul\0.png",
    }
    manifest = table_of(*(Item(k, (Source("image", str(p)),)) for k, p in sources.items()))
    report = add(made, manifest)
    found = {item: (outcome, reason) for (item, _), (outcome, reason) in outcomes(made).items()}
    assert {item: outcome for item, (outcome, _) in found.items()} == {
        "good": "ok",
        "missing": "broken",
        "dangling": "broken",
        "folder": "unsupported",
        "pipe": "unsupported",
        "nothing": "empty",
        "cut": "broken",
        "binary": "unsupported",
        "silent": "silent",
        "blank": "empty",
        "text": "broken",
        "nul": "broken",
    }
    assert found["missing"] == found["dangling"] == ("broken", "the file does not exist")
    assert all((reason == "") == (outcome == "ok") for outcome, reason in found.values())
    assert found["text"][1] == "named .png, holds text (plain text)"
    assert report.counts == dict(Counter(outcome for outcome, _ in found.values()))
    assert {(o.path, o.outcome.value, o.reason) for o in report.outcomes} == {
        (str(sources[item]), outcome, reason) for item, (outcome, reason) in found.items() if outcome != "ok"
    }
    check(made)


def test_a_picture_that_was_too_large_is_tried_again_where_the_limit_is_raised(
    made: Collection, tmp_path: Path
) -> None:
    folder = write(tmp_path / "media" / "a.png", PNG).parent
    assert add(made, folder, limits=Limits(max_pixels=9)).counts == {"too_large": 1}
    assert add(made, folder, limits=Limits(max_pixels=8)).counts == {"too_large": 1}
    report = add(made, folder, limits=Limits(max_pixels=10**9))
    assert (report.counts, report.encoded) == ({"ok": 1}, 1)
    assert add(made, folder).encoded == 0, "what was read stays"
    check(made)


def test_a_file_that_cannot_be_read_is_tried_again(
    made: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: str) -> str:
        if path.endswith("tit.txt"):
            raise PermissionError(13, "Permission denied", path)
        return digest(path)

    digest = digest_file
    monkeypatch.setattr("chiasm.store.ingest.digest_file", denied)
    for _ in range(2):
        report = add(made, folder)
        assert report.counts == {"ok": 3, "broken": 1}
        assert [o.reason for o in report.outcomes] == ["the file cannot be read: Permission denied"]
    monkeypatch.setattr("chiasm.store.ingest.digest_file", digest)
    assert add(made, folder).counts == {"ok": 4}
    check(made)


def test_a_missing_file_is_found_when_it_comes(made: Collection, tmp_path: Path) -> None:
    manifest = table_of(Item("a", (Source("image", str(tmp_path / "a.png")),)))
    assert add(made, manifest).counts == {"broken": 1}
    write(tmp_path / "a.png", PNG)
    assert add(made, manifest).counts == {"ok": 1}
    check(made)


def test_too_large_files_are_not_read(made: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.truncate(media.Limits().max_bytes + 1)  # holds no blocks on disk
    report = add(made, folder)
    assert report.counts == {"ok": 4, "too_large": 1}
    check(made)


def test_a_bad_input_costs_only_itself(made: Collection, tmp_path: Path) -> None:
    """One batch of ten with one of each fault in it."""
    kinds = {1: "raises", 3: "nan", 4: "zeros", 6: "no words", 7: "cannot be prepared"}
    faults = {f"text {number}": kind for number, kind in kinds.items()}
    for number in range(10):
        write(tmp_path / f"media/{number}.txt", f"text {number}")
    encoder = FakeEncoder(batch_size=10, faults=faults)  # type: ignore[arg-type]
    report = add(made, tmp_path / "media", encoder=encoder)
    assert report.counts == {"ok": 5, "broken": 3, "unsupported": 2}
    assert encoder.batches == [9, *[1] * 9], "a failed batch goes input by input"
    assert report.encoded == 5
    reasons = {item: reason for (item, _), (outcome, reason) in outcomes(made).items() if outcome != "ok"}
    terms = {"1": "RuntimeError", "3": "not finite", "4": "found nothing", "6": "no words", "7": "KeyError"}
    assert all(term in reasons.pop(item) for item, term in terms.items())
    assert not reasons
    check(made)
    again = FakeEncoder()
    assert add(made, tmp_path / "media", encoder=again).counts == report.counts
    assert not again.batches, "what an encoder failed on is not given to it again"
    other = FakeEncoder(version="2")
    assert add(made, tmp_path / "media", encoder=other).counts == {"ok": 10}, "but to another one"
    check(made, other)


def test_an_encoder_that_cannot_be_used_at_all_stops_the_run(made: Collection, tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / f"media/{number}.txt", f"text {number}")
    with pytest.raises(EncoderError, match="the weights of fake cannot be loaded"):
        add(made, tmp_path / "media", encoder=FakeEncoder(batch_size=3, faults={"text 7": "no weights"}))
    assert made.outcomes() == {"ok": 6}
    assert add(made, tmp_path / "media").counts == {"ok": 9}
    check(made)


def test_a_modality_without_an_encoder(made: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = watch_load(monkeypatch)
    write(folder / "spoken.png", WAV)
    report = add(made, folder, encoder=FakeEncoder(["image", "text"]))
    assert report.counts == {"ok": 3, "unsupported": 2}
    assert {o.reason for o in report.outcomes} == {"the encoder 'fake' takes image, text, not audio"}
    assert folder / "hoot.wav" not in paths(loaded), "nothing is decoded in vain"
    loaded.clear()
    assert add(made, folder, encoder=FakeEncoder(["image", "text"])).counts == report.counts
    assert not loaded
    hearing = FakeEncoder(["audio"])
    both = [FakeEncoder(["image", "text"]), hearing]
    report = add_manifests(made, [read_manifest(folder)], both)
    assert report.counts == {"ok": 4, "duplicate": 1}, "its encoder has come"
    assert hearing.embedded == {"audio": 1}
    assert paths(loaded) <= {folder / "hoot.wav", folder / "spoken.png"}
    assert not add_manifests(made, [read_manifest(folder)], both).encoded
    assert add_manifests(made, [], []).counts == {}
    assert add_manifests(made, [read_manifest(folder)], []).counts == {"unsupported": 5}


def test_the_first_encoder_of_a_modality_is_used(made: Collection, folder: Path) -> None:
    first, second = FakeEncoder(["text"]), FakeEncoder(["text", "image"], version="2")
    assert add_manifests(made, [read_manifest(folder)], [first, second]).counts == {"ok": 3, "unsupported": 1}
    assert (first.embedded, second.embedded) == ({"text": 2}, {"image": 1})
    add_manifests(made, [read_manifest(folder)], [second, first])
    assert second.embedded == {"image": 1, "text": 2}, "texts go to the other encoder now"
    assert set(made.vectors(second.fingerprint).modalities) == {"image", "text"}


def test_media_are_opened_as_their_encoder_sees_them(
    made: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = watch_load(monkeypatch)
    add(made, folder)
    assert [(options["image_size"], options["rate"]) for _, options in loaded] == [(8, 8000)] * 4


def test_a_file_that_changes_while_it_is_read(made: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = media.load

    def slow(path: str, **options: Any) -> Media:
        medium = load(path, **options)
        if path.endswith("tit.txt"):
            write(Path(path), "a tit and what comes after")
        return medium

    monkeypatch.setattr(media, "load", slow)
    report = add(made, folder)
    assert report.counts == {"ok": 3, "broken": 1}
    assert report.outcomes[0].reason == "the file changed while it was read. Run again when it is complete"
    monkeypatch.setattr(media, "load", load)
    assert add(made, folder).counts == {"ok": 4}
    check(made)


# -------------------------------------------------------------------------------------------- changes of files and items


TOUCH, GONE = b"touch", b"gone"
Change = Mapping[str, bytes | str]


@pytest.mark.parametrize(
    ("before", "change", "counts", "encoded", "unchanged"),
    [
        pytest.param({}, {"birds/tit.txt": "a blue tit"}, {"ok": 4}, 1, 3, id="changed content"),
        pytest.param(
            {"again.txt": "an owl"},
            {"birds/owl.txt": TOUCH, "again.txt": TOUCH, "birds/owl.png": TOUCH},
            {"ok": 4, "duplicate": 1}, 0, 2, id="touched",
        ),
        pytest.param(
            {"birds/zoo.txt": "an owl"}, {"birds/owl.txt": TOUCH}, {"ok": 4, "duplicate": 1}, 0, 3, id="touched original"
        ),
        pytest.param({}, {"birds/owl.png": PNG[:60]}, {"ok": 3, "broken": 1}, 0, 3, id="broken"),
        pytest.param({"birds/owl.png": PNG[:60]}, {"birds/owl.png": PNG}, {"ok": 4}, 1, 3, id="mended"),
        pytest.param({}, {"d.jpg": PNG}, {"ok": 4, "duplicate": 1}, 0, 4, id="a copy"),
        pytest.param(
            {"a.png": RED, "b.png": RED, "c.png": RED}, {"a.png": PNG[:50]},
            {"ok": 5, "duplicate": 1, "broken": 1}, 0, 4, id="copies survive their original",
        ),
        pytest.param({"x.png": PNG[:60]}, {"y.png": PNG[:60]}, {"ok": 4, "broken": 2}, 0, 5, id="a broken copy"),
        pytest.param(
            {}, {"birds/tit.txt": GONE, "birds/great tit.txt": "a tit"}, {"ok": 4}, 0, 3, id="renamed"
        ),
    ],
)  # fmt: skip
def test_a_change_costs_as_little_as_it_can(
    made: Collection,
    folder: Path,
    before: Change,
    change: Change,
    counts: Mapping[str, int],
    encoded: int,
    unchanged: int,
) -> None:
    def apply(changes: Change) -> None:
        for name, content in changes.items():
            if content in (TOUCH, GONE):
                touch(folder / name) if content == TOUCH else (folder / name).unlink()
            else:
                write(folder / name, content)

    apply(before)
    add(made, folder)
    originals = {key for key, (outcome, _) in outcomes(made).items() if outcome == "ok"}
    apply(change)
    encoder = FakeEncoder()
    report = add(made, folder, encoder=encoder)
    assert (report.counts, report.encoded, report.unchanged) == (counts, encoded, unchanged)
    assert encoder.embedded.total() == encoded
    if set(change.values()) == {TOUCH}:
        assert {key for key, (outcome, _) in outcomes(made).items() if outcome == "ok"} == originals
    made.remove({str(row["id"]) for row in made.items()} - {item.id for item in read_manifest(folder).items})
    assert add(made, folder).counts.get("ok", 0) >= counts["ok"]
    assert add(made, folder).unchanged == len(rows(made))
    check(made)
    stored = lance.dataset(str(made.path / f"embeddings-{encoder.fingerprint}.lance"))
    assert stored.count_rows() == len(made.vectors(encoder.fingerprint)), "a vector of old content"


def test_an_item_with_fewer_files(made: Collection, tmp_path: Path) -> None:
    sources = [Source("image", str(write(tmp_path / f"{n}.png", png))) for n, png in enumerate((PNG, RED))]
    sources += [Source("text", text="a caption"), Source("text", text="another")]
    add(made, table_of(Item("a", tuple(sources))))
    check(made)
    encoder = FakeEncoder()
    fewer = table_of(Item("a", (sources[1], sources[2])))
    report = add(made, fewer, encoder=encoder)
    assert (report.counts, report.encoded) == ({"ok": 2}, 0), "the second image is the first now, and known"
    assert set(rows(made)) == {("a", "image/0"), ("a", "text/0")}
    check(made)
    assert lance.dataset(str(made.path / f"embeddings-{encoder.fingerprint}.lance")).count_rows() == 2
    assert add(made, fewer).unchanged == 2


def test_duplicates_name_their_original(made: Collection, tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / f"media/{name}.png", PNG)
    report = add(made, tmp_path / "media", encoder=FakeEncoder(batch_size=2))
    assert (report.counts, report.encoded) == ({"ok": 1, "duplicate": 2}, 1)
    same = ("duplicate", "same content as a (image/0); the embedding is shared")
    assert outcomes(made) == {("a", "image/0"): ("ok", ""), ("b", "image/0"): same, ("c", "image/0"): same}
    write(tmp_path / "media/a.png", RED)
    assert add(made, tmp_path / "media").counts == {"ok": 2, "duplicate": 1}
    assert outcomes(made)["c", "image/0"] == (same[0], same[1].replace("as a", "as b"))
    check(made)


def test_duplicates_of_what_cannot_be_embedded(made: Collection, tmp_path: Path) -> None:
    for name in "abcdefgh":
        write(tmp_path / f"media/{name}.png", PNG[:60])
        write(tmp_path / f"media/{name}.txt", "a bad text")
    report = add(made, tmp_path / "media", encoder=FakeEncoder(faults={"a bad text": "nan"}))
    assert report.counts == {"broken": 16}
    assert len({o.reason for o in report.outcomes}) == 2
    write(tmp_path / "media/i.png", PNG[:60])
    assert add(made, tmp_path / "media", encoder=FakeEncoder(faults={"a bad text": "nan"})).counts == {"broken": 17}


def test_equal_texts_in_a_table_are_embedded_once(made: Collection, tmp_path: Path) -> None:
    write(tmp_path / "list.csv", "id,text\n1,an owl\n2,an owl\n3,a tit\n")
    encoder = FakeEncoder()
    report = add(made, tmp_path / "list.csv", encoder=encoder)
    assert (report.counts, report.encoded) == ({"ok": 3}, 2), "texts are no files, so none is a duplicate"
    assert add(made, tmp_path / "list.csv").unchanged == 3
    write(tmp_path / "list.csv", "id,text\n1,an owl\n2,a blue tit\n3,a tit\n")
    report = add(made, tmp_path / "list.csv")
    assert (report.encoded, report.unchanged) == (1, 2)
    check(made)


def test_texts_in_a_table_are_read_like_files(made: Collection, tmp_path: Path) -> None:
    many = "x" * (media.Limits().max_characters + 1)
    manifest = table_of(
        Item("blank", (Source("text", text=" \n\t"),)),
        Item("long", (Source("text", text=many),)),
        Item("file", (Source("text", path=str(write(tmp_path / "a.txt", "a caption"))),)),
        Item("inline", (Source("text", text="a caption"),)),
    )
    report = add(made, manifest)
    assert report.counts == {"empty": 1, "too_large": 1, "ok": 2}
    assert {o.path for o in report.outcomes} == {"blank (text/0)", "long (text/0)"}
    assert report.encoded == 1


EDITS = st.lists(
    st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["", "x", "y", "bad", "touch", "remove"]), min_size=1),
    min_size=2,
    max_size=4,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(edits=EDITS)
def test_any_history_ends_as_its_last_state(
    tmp_path_factory: pytest.TempPathFactory, edits: list[dict[str, str]]
) -> None:
    root = tmp_path_factory.mktemp("history")
    collection = Collection.create(root / "collection", encoder="fake")
    files = {name: root / f"media/{name}.txt" for name in "abcde"}
    embedded: set[str] = set()
    write(files["a"], "x")
    for edit in edits:
        for name, change in edit.items():
            if change == "remove":
                files[name].unlink(missing_ok=True)
            elif change == "touch" and files[name].exists():
                touch(files[name])
            elif change != "touch":
                write(files[name], change)
        write(root / "media/always.txt", "there is always a file")
        encoder = FakeEncoder(batch_size=2, faults={"bad": "nan"})
        report = add(collection, root / "media", encoder=encoder, commit_rows=2)
        there = {name: path.read_text() for name, path in files.items() if path.exists()}
        collection.remove({str(row["id"]) for row in collection.items()} - {*there, "always"})
        expected = Counter(
            "empty" if text == "" else "broken" if text == "bad" else "usable" for text in [*there.values(), "always"]
        )
        found = Counter(report.counts)
        found["usable"] = found.pop("ok", 0) + found.pop("duplicate", 0)
        assert +found == expected
        usable = {"always", *there.values()} - {"", "bad"}
        assert report.encoded == len(usable - embedded)
        embedded = usable
    again = add(collection, root / "media", encoder=FakeEncoder(faults={"bad": "nan"}))
    assert again.counts.get("ok", 0) == len({text for text in there.values() if text in {"x", "y"}}) + 1
    check(collection)


# ----------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("together", [True, False])
def test_the_same_relative_names_in_two_folders_are_two_items(made: Collection, tmp_path: Path, together: bool) -> None:
    write(tmp_path / "one/a.txt", "first")
    write(tmp_path / "two/a.txt", "second")
    if together:
        report = add(made, tmp_path / "one", tmp_path / "two")
    else:
        add(made, tmp_path / "one")
        report = add(made, tmp_path / "two")
    assert (report.counts, report.items) == ({"ok": 1 + together}, 2)
    ids = [str(row["id"]) for row in made.items()]
    assert ids[0] == "a" and ids[1].startswith("a~")
    check(made)
    report = add(made, tmp_path / "two", tmp_path / "one", tmp_path / "two")
    assert (report.counts, report.items, report.unchanged) == ({"ok": 2}, 2, 2), "and stay so, each counted once"
    check(made)
    assert made.remove(["a"]) == 1
    assert add(made, tmp_path / "two").unchanged == 1, "also when the name is free again"
    assert [row["id"] for row in made.items()] == ids[1:]


def test_explicit_ids_update_their_items(made: Collection, tmp_path: Path) -> None:
    write(tmp_path / "a.png", PNG)
    write(tmp_path / "b.png", RED)
    write(tmp_path / "old.csv", "id,image,label\n1,a.png,owl\n2,b.png,tit\n")
    add(made, tmp_path / "old.csv")
    write(tmp_path / "new.csv", "id,image,label,year\n2,a.png,blue tit,1999\n3,b.png,,2001\n")
    encoder = FakeEncoder()
    report = add(made, tmp_path / "new.csv", encoder=encoder)
    assert (report.items, report.encoded) == (3, 0)
    assert {row["id"]: (row["label"], row["year"]) for row in made.items()} == {
        "1": ("owl", None),
        "2": ("blue tit", 1999),
        "3": (None, 2001),
    }
    assert outcomes(made)["2", "image/0"][0] == "duplicate"
    check(made)


def test_the_last_of_two_tables_counts(made: Collection, tmp_path: Path) -> None:
    tables = [write(tmp_path / f"{n}.csv", f"id,text,n\n1,text {n},{n}\n") for n in (1, 2)]
    report = add(made, *tables)
    assert (report.counts, report.items) == ({"ok": 1}, 1)
    assert made.items()[0]["n"] == 2
    check(made)


@pytest.mark.parametrize(
    "name", ["it's", 'a "b"', "back\\slash", "new\nline", "Größe 日本 🦉", "a\0b", "%_", "a/b.c/d~1"]
)
def test_ids_of_any_characters(made: Collection, tmp_path: Path, name: str) -> None:
    def manifest(*texts: str) -> Manifest:
        return table_of(Item(name, tuple(Source("text", text=text) for text in texts)), other)

    other = Item("other", (Source("text", text="other"),))
    add(made, manifest("one", "two"))
    add(made, manifest("three"))
    check(made)
    assert set(rows(made)) == {(name, "text/0"), ("other", "text/0")}
    assert made.remove([name]) == 1
    assert set(rows(made)) == {("other", "text/0")}
    assert len(made.vectors(FakeEncoder().fingerprint)) == 1


# ------------------------------------------------------------------------------------------------------- metadata


def test_metadata_keep_their_types_and_new_columns_come(made: Collection, tmp_path: Path) -> None:
    write(
        tmp_path / "one.csv", "text,year,score,kept,day,taken\na,1999,0.5,true,2024-05-31,2024-05-31T10:00:00+02:00\n"
    )
    write(tmp_path / "two.csv", "text,year,score,extra\nb,,2,new\nc,7,,\n")
    add(made, tmp_path / "one.csv")
    assert add(made, tmp_path / "one.csv").unchanged == 1
    version = lance.dataset(str(made.path / "items.lance")).version
    add(made, tmp_path / "one.csv")
    assert lance.dataset(str(made.path / "items.lance")).version == version, "an equal item is not written again"
    add(made, tmp_path / "two.csv")
    keep = made.columns()
    assert keep == ["year", "score", "kept", "day", "taken", "extra"]
    first, second, third = ({name: row[name] for name in keep} for row in made.items())
    assert first == {
        "year": 1999,
        "score": 0.5,
        "kept": True,
        "day": date(2024, 5, 31),
        "taken": datetime(2024, 5, 31, 8, 0),  # UTC
        "extra": None,
    }
    assert second == dict.fromkeys(keep) | {"score": 2.0, "extra": "new"}
    assert isinstance(second["score"], float)
    assert third == dict.fromkeys(keep) | {"year": 7}


@pytest.mark.parametrize("column", ["a.b", "a`b"])
def test_columns_that_cannot_be_stored(made: Collection, column: str) -> None:
    manifest = Manifest("list.csv", (Item("a", (Source("text", text="a"),), {column: "x"}),), {column: "string"})
    with pytest.raises(CollectionError, match="Rename it"):
        add(made, manifest)


def test_a_collection_whose_items_are_gone_is_damaged(made: Collection, tmp_path: Path) -> None:
    assert Collection.open(made.path).items() == [], "an empty one is whole"
    add(made, write(tmp_path / "list.csv", "id,text\n1,a\n"))
    shutil.rmtree(made.path / "items.lance")
    with pytest.raises(CollectionError, match="damaged: its table of items is gone"):
        Collection.open(made.path)
    with pytest.raises(CollectionError, match="damaged"):
        Collection.create(made.path, encoder=made.encoder)


def test_where_takes_sql(made: Collection, tmp_path: Path) -> None:
    table = "id,text,label,Größe,place of origin\n1,a,owl,3,the north\n2,b,it's,4,\n3,c,owl,,\n"
    add(made, write(tmp_path / "list.csv", table))

    def ids(where: str) -> list[Any]:
        return [row["id"] for row in made.items(where=where)]

    assert ids("label = 'owl'") == ["1", "3"]
    assert ids("label = 'it''s' OR Größe < 4") == ["1", "2"]
    assert ids("Größe IS NULL AND label LIKE 'o%'") == ["3"]
    assert ids("`place of origin` = 'the north'") == ["1"]
    assert ids("id IN ('2', '9')") == ["2"]
    assert ids("label = 'none'") == []
    assert ids("(label = 'none') OR (label = ') --')") == []


def test_a_wrong_where_is_an_error_that_lists_the_columns(made: Collection, tmp_path: Path) -> None:
    add(made, write(tmp_path / "list.csv", "id,text,label,year\n1,a,owl,1999\n"))
    with pytest.raises(CollectionError, match=r"Columns: id \(text\), label \(text\), year \(integer\)"):
        made.items(where="colour = 'red'")


# ------------------------------------------------------------------------------------------------- remove, map


def test_remove_deletes_items_outcomes_and_all_vectors(made: Collection, folder: Path) -> None:
    add(made, folder)
    add(made, folder, encoder=FakeEncoder(version="2"))
    assert made.remove(["birds/owl", "birds/owl", "nobody"]) == 1
    assert {row["id"] for row in made.items()} == {"birds/tit", "hoot"}
    assert {key[0] for key in rows(made)} == {"birds/tit", "hoot"}
    tables = [path for path in made.path.glob("*.lance") if path.stem not in {"items", "files"}]
    assert len(tables) == 2
    for path in tables:
        assert set(lance.dataset(str(path)).to_table()["item"].to_pylist()) == {"birds/tit", "hoot"}
    assert add(made, folder).encoded == 2, "added again, it is embedded again"
    check(made)


def test_an_item_removed_during_a_run_stays_removed(made: Collection, tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"media/{number:02}.txt", f"text {number}")

    def on_progress(progress: Progress) -> None:
        if progress.done == 5:
            Collection.open(made.path).remove([f"{number:02}" for number in range(3, 9)])

    add(made, tmp_path / "media", encoder=FakeEncoder(batch_size=2), commit_rows=2, on_progress=on_progress)
    assert {row["id"] for row in made.items()} == {"00", "01", "02", "09", "10", "11"}
    check(made)


def test_a_duplicate_whose_original_is_removed_during_the_run(made: Collection, tmp_path: Path) -> None:
    write(tmp_path / "one/a.txt", "the same")
    add(made, tmp_path / "one")
    write(tmp_path / "two/b.txt", "the same")
    write(tmp_path / "two/c.txt", "the same")
    write(tmp_path / "two/d.txt", "another")
    encoder = FakeEncoder()
    report = add(made, tmp_path / "two", encoder=encoder, on_progress=lambda _: made.remove(["a"]) and None)
    assert (report.counts, encoder.embedded) == ({"ok": 2, "duplicate": 1}, {"text": 2})
    check(made)


def test_vectors_of_a_commit_that_was_cut_off_are_kept_for_their_files(made: Collection, tmp_path: Path) -> None:
    write(tmp_path / "one/a.txt", "first")
    write(tmp_path / "two/b.txt", "second")
    add(made, tmp_path / "one")
    made.tables.delete("files", ["item"], ["a"])  # as if killed between the vectors and the files
    assert len(made.vectors(FakeEncoder().fingerprint)) == 0
    add(made, tmp_path / "two")
    assert by_key(made.vectors(FakeEncoder().fingerprint)).keys() == {("b", "text/0")}
    assert add(made, tmp_path / "one").encoded == 0
    check(made)


def test_another_encoder_has_vectors_of_its_own(made: Collection, folder: Path) -> None:
    add(made, folder)
    second = FakeEncoder(version="2")
    report = add(made, folder, encoder=second)
    assert (report.encoded, report.unchanged) == (4, 0)
    check(made, second)
    check(made)
    write(folder / "birds/tit.txt", "a changed one")
    add(made, folder, encoder=second)
    check(made, second)
    assert ("birds/tit", "text/0") not in by_key(made.vectors(FakeEncoder().fingerprint)), "a vector of old content"


# ------------------------------------------------------------------------------------------------ what a run holds


def test_a_run_holds_a_few_batches(made: Collection, tmp_path: Path) -> None:
    for number in range(400):
        write(tmp_path / f"media/{number}.txt", f"text {number}")
    encoder = FakeEncoder(batch_size=10)
    add(made, tmp_path / "media", encoder=encoder)
    assert encoder.embedded == {"text": 400}
    # A batch, one more that is read ahead, and what the readers are at.
    assert encoder.most_live <= 2 * 10 + 3 * module.READERS
    assert encoder.live == 0


def test_large_files_are_not_read_far_ahead(made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        write(tmp_path / f"media/{number}.txt", f"text {number} " + "x" * 1000)
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 2500)
    encoder = FakeEncoder(batch_size=1)
    add(made, tmp_path / "media", encoder=encoder)
    assert encoder.embedded == {"text": 40}
    assert encoder.most_live <= 4
    monkeypatch.setattr(module, "READ_AHEAD_BYTES", 1)
    add(made, tmp_path / "media", encoder=FakeEncoder(version="2"))
    check(made, FakeEncoder(version="2"))


@pytest.mark.parametrize("stored", [False, True], ids=["embedded", "shared"])
def test_interrupted_runs_keep_what_is_done(made: Collection, tmp_path: Path, stored: bool) -> None:
    for number in range(40):
        write(tmp_path / f"media/{number:02}.txt", f"text {number}")
    write(tmp_path / "media/99.txt", "text 3")
    if stored:
        add(made, tmp_path / "media")
        for path in (tmp_path / "media").iterdir():
            touch(path)

    def interrupt(progress: Progress) -> None:
        if progress.done == 17:
            raise KeyboardInterrupt

    encoder = FakeEncoder(batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        add(made, tmp_path / "media", encoder=encoder, commit_rows=8, on_progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chiasm-read")]
    begun = encoder.embedded["text"]
    assert begun == (0 if stored else 20)
    report = add(made, tmp_path / "media", encoder=encoder)
    assert report.counts == {"ok": 40, "duplicate": 1}
    assert (report.unchanged, encoder.embedded["text"]) == (17, 0 if stored else begun + 23)
    check(made)


def test_many_commits_are_merged_and_nothing_is_lost(made: Collection, tmp_path: Path) -> None:
    for number in range(tables.COMPACT_FRAGMENTS + 8):
        write(tmp_path / f"media/{number:02}.txt", f"text {number}")
    add(made, tmp_path / "media", encoder=FakeEncoder(batch_size=1), commit_rows=1)
    for path in made.path.glob("*.lance"):
        assert len(lance.dataset(str(path)).get_fragments()) <= tables.COMPACT_FRAGMENTS
    check(made)


def check_old_or_new(reader: Collection, texts: Mapping[str, tuple[str, ...]]) -> None:
    """Every item is there once, with the vector of one of its texts."""
    vectors = {item: vector for (item, _), vector in by_key(reader.vectors(FakeEncoder().fingerprint)).items()}
    for item, known in texts.items():
        assert any(np.array_equal(vectors[item], embed(Text(text))) for text in known)


def test_a_reader_sees_the_old_or_the_new_at_every_step(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        write(tmp_path / f"media/{number}.txt", f"text {number}")
    add(made, tmp_path / "media")
    texts: dict[str, tuple[str, ...]] = {str(number): (f"text {number}", f"changed {number}") for number in range(6)}
    steps: list[str] = []

    def watched(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def wrapper(*arguments: Any) -> None:
            function(*arguments)
            monkeypatch.undo()
            monkeypatch.setattr(Tables, "writing", lambda _: nullcontext())  # this process holds the lock
            check_old_or_new(Collection.open(made.path), texts)
            monkeypatch.undo()
            patch()
            steps.append(name)

        return wrapper

    def patch() -> None:
        for name in ("append", "merge", "delete"):
            monkeypatch.setattr(Tables, name, watched(name, getattr(Tables, name)))

    for number in range(6):
        write(tmp_path / f"media/{number}.txt", f"changed {number}")
    patch()
    add(made, tmp_path / "media", encoder=FakeEncoder(batch_size=2), commit_rows=2)
    monkeypatch.undo()
    assert set(steps) == {"append", "merge", "delete"}
    check(made)


def test_a_reader_is_overtaken_by_a_whole_run(
    made: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening the files and opening the vectors, contents change and old vectors are deleted."""
    write(tmp_path / "media/a.txt", "old")
    add(made, tmp_path / "media")
    table = Tables.open
    opened: list[str] = []

    def overtaken(self: Tables, name: str) -> Any:
        opened.append(name)
        if opened == ["files", f"embeddings-{FakeEncoder().fingerprint}"]:
            write(tmp_path / "media/a.txt", "new")
            with monkeypatch.context() as during:
                during.setattr(Tables, "open", table)
                add(made, tmp_path / "media")
        return table(self, name)

    monkeypatch.setattr(Tables, "open", overtaken)
    found = by_key(made.vectors(FakeEncoder().fingerprint))
    assert len(opened) > 2
    np.testing.assert_array_equal(found["a", "text/0"], embed(Text("new")))


@pytest.mark.race
def test_a_reader_beside_a_writer(made: Collection, tmp_path: Path) -> None:
    """Files are added, changed and changed back."""
    for number in range(30):
        write(tmp_path / f"media/{number}.txt", f"text {number}")
    add(made, tmp_path / "media")
    texts = {str(number): (f"text {number}", f"text {number}!") for number in range(30)}
    stop = threading.Event()

    def read() -> int:
        reads = 0
        while not stop.is_set() or not reads:
            check_old_or_new(Collection.open(made.path), texts)
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(read)
        try:
            for change in ("!", "", "!"):
                for number in range(30):
                    write(tmp_path / f"media/{number}.txt", f"text {number}{change}")
                write(tmp_path / f"media/new{len(change)}.txt", f"a new text {change}")
                add(made, tmp_path / "media", encoder=FakeEncoder(batch_size=4), commit_rows=4)
        finally:
            stop.set()
        assert reading.result() > 0


# ------------------------------------------------------------------------------------- other folders, damaged ones


def test_create_opens_what_is_there(made: Collection, folder: Path) -> None:
    add(made, folder)
    again = Collection.create(made.path, encoder="fake")
    assert again.count() == 3
    header = json.loads((made.path / "chiasm.json").read_text())
    assert (header["format"], header["format_version"], header["encoder"]) == ("chiasm-collection", 5, "fake")
    with pytest.raises(CollectionError, match="chiasm reembed"):
        Collection.create(made.path, encoder="other")


def test_what_is_no_collection(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(CollectionError, match="not empty"):
        Collection.create(folder, encoder="fake")
    assert sorted(folder.rglob("*")) == before, "nothing is left in it"
    for path in (tmp_path / "none", folder, folder / "hoot.wav"):
        with pytest.raises(CollectionError, match="chiasm add"):
            Collection.open(path)
    for path in (folder / "hoot.wav", folder / "hoot.wav/below"):
        with pytest.raises(CollectionError, match="cannot be made a collection"):
            Collection.create(path, encoder="fake")


def test_another_process_makes_the_same_collection_a_moment_before(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder = Path.iterdir

    def overtaken(self: Path) -> Iterator[Path]:
        monkeypatch.undo()
        add(Collection.create(self, encoder="fake"), folder)
        return list_folder(self)

    monkeypatch.setattr(Path, "iterdir", overtaken)
    assert Collection.create(tmp_path / "collection", encoder="fake").count() == 3


def test_a_making_that_was_cut_off_is_done_again(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "collection"
    place.mkdir()
    (place / ".lock").touch()
    (place / "chiasm.json.123.tmp").write_text("{")
    made = Collection.create(place, encoder="fake")
    (place / "items.lance" / "data").mkdir(parents=True)  # a first commit of a table that was cut off
    (place / "items.lance" / "_versions").mkdir()
    assert (made.count(), made.items()) == (0, [])
    assert add(made, folder).counts == {"ok": 4}
    check(made)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot be read"),
        ('{"format": "chiasm-coll', "cannot be read"),
        ("\x80", "cannot be read"),
        ("[]", "does not describe a collection"),
        ('{"format": "chiasm-space", "format_version": 1, "encoder": "x"}', "does not describe a collection"),
        ('{"format": "chiasm-collection", "format_version": 5, "encoder": "fake"}', "is damaged: 'generation'"),
        ('{"format": "chiasm-collection", "format_version": 99, "encoder": "fake", "by": "7.0"}', r"version 99 .*7\.0"),
    ],
)
def test_a_damaged_or_newer_header(made: Collection, content: str, problem: str) -> None:
    (made.path / "chiasm.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CollectionError, match=problem):
        Collection.open(made.path)
    with pytest.raises(CollectionError, match=problem):
        Collection.create(made.path, encoder="fake")


@pytest.mark.parametrize("part", ["data", "_versions"])
def test_a_damaged_table_is_named(made: Collection, folder: Path, part: str) -> None:
    add(made, folder)
    for table in ("items", "files", f"embeddings-{FakeEncoder().fingerprint}"):
        for path in (made.path / f"{table}.lance" / part).iterdir():
            path.write_bytes(b"junk")
    for use in (made.items, made.files, lambda: made.vectors(FakeEncoder().fingerprint), lambda: add(made, folder)):
        with pytest.raises(CollectionError, match="damaged"):
            use()


def test_ids_of_large_collections_are_indexed(made: Collection, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.store.collection.INDEX_ROWS", 2)
    for text in ("a tit", "a blue tit"):  # makes the index, and brings it up to date
        write(folder / "birds/tit.txt", text)
        write(folder / f"{text}.txt", text)
        add(made, folder)
        (index,) = lance.dataset(str(made.path / "items.lance")).describe_indices()
        assert (index.field_names, index.num_rows_indexed) == (["id"], made.count())
    assert [row["id"] for row in made.items(ids=["hoot", "none"])] == ["hoot"]
    check(made)


def test_remove_reaches_tables_that_are_searched(made: Collection, folder: Path) -> None:
    add(made, folder)
    made.tables.append("search-m", pa.table({"id": ["hoot", "birds/owl", "hoot"]}))
    made.remove(["hoot"])
    assert lance.dataset(str(made.path / "search-m.lance")).to_table()["id"].to_pylist() == ["birds/owl"]
