"""Another encoder takes over a collection: searched and added to meanwhile, cut off and run again, nothing mixed."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from fake_encoder import FakeEncoder, by_key, check, count_writes, rows
from painter import Painter, mixtures, painted, painters, picture, sound, table
from typer.testing import CliRunner
from waiting import LIMIT

import chiasm
from chiasm import cli, encoders
from chiasm.cli import commands
from chiasm.encoders.base import Embeddings, Encoder
from chiasm.errors import ChiasmError, CollectionError, EncoderError, SpaceError
from chiasm.store import gallery
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.ingest import Progress
from chiasm.store.manifest import read_manifest
from chiasm.store.reembed import reembed_collection
from chiasm.store.words import FullText
from chiasm.types import Modality, Text
from chiasm.verbs import align as align_verb
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import placed_vectors, space_of, start_of

OLD, NEW = FakeEncoder(), FakeEncoder(version="2")
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["chiasm.store.collection", "chiasm.store.manifest", "pytest"])


class Turned(Painter):
    """A painter with colours of its own: its vectors and those of `Painter` have nothing to do with each other."""

    def __init__(self, modalities: Sequence[Modality] = ("image", "text", "audio")) -> None:
        super().__init__(modalities, version="2")

    def encode_prepared(self, modality: Modality, batch: Sequence[Any]) -> Embeddings:
        found = super().encode_prepared(modality, batch)
        moments = found.moments and replace(found.moments, vectors=np.roll(found.moments.vectors, 1, axis=1))
        return replace(found, vectors=np.roll(found.vectors, 1, axis=1), moments=moments)


def networks_of(name: str, **_: Any) -> Sequence[Encoder]:
    match name:
        case "old":
            return painters()
        case "new":
            return [Turned()]
        case "texts":
            return [Turned(("text",))]
        case "mute":
            return [FakeEncoder(("image", "text")), FakeEncoder(("audio",), version="2")]
    raise EncoderError(f"there is no encoder {name!r}")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", networks_of)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """33 pictures with words, and a sound, by the old encoder."""
    root = tmp_path_factory.mktemp("base")
    song = table(root / "song.jsonl", [{"id": "song", "audio": sound(root / "song.wav", "red", "blue")}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", networks_of)
        chiasm.add([painted(root / "media", 5), song], to=root / "collection", encoder="old")
    return root / "collection"


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of a test's own."""
    return Path(shutil.copytree(base, tmp_path / "collection"))


def reembed(collection: Collection, *encoders: Encoder, name: str = "two", **options: Any) -> Any:
    """Re-embed by the second fake encoder if no other is named."""
    return reembed_collection(collection, name, encoders or [FakeEncoder(version="2")], **options)


def texts(folder: Path, count: int, word: str = "text") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"{word}{number:03}.txt").write_text(f"{word} {number}", encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 text files."""
    return texts(tmp_path / "media", 40)


@pytest.fixture
def small(folder: Path, tmp_path: Path) -> Collection:
    """40 text files, by the first fake encoder."""
    made = Collection.create(tmp_path / "small", encoder="one")
    add_manifests(made, [read_manifest(folder)], [FakeEncoder()])
    return made


def hits(searcher: Searcher, words: str = "red red green") -> list[Any]:
    return [
        (hit.id, hit.modality, hit.score) for hit in searcher.search(Query((Text(words),)), SearchOptions(k=20)).hits
    ]


def tables(path: Path) -> set[str]:
    return {one.stem for one in path.glob("*.lance")}


# ------------------------------------------------------------------------------------------------------- taking over


def test_everything_is_embedded_again(made: Path) -> None:
    report = chiasm.reembed(made, encoder="new")
    assert (report.before, report.encoder, report.items) == ("old", "new", len(mixtures(5)) + 1)
    assert report.counts == {"ok": 2 * len(mixtures(5)) + 1}
    assert (report.encoded, report.reused, report.lost, report.outcomes) == (2 * len(mixtures(5)) + 1, 0, 0, ())
    assert (report.spaces, report.not_taken) == ((), {})
    opened = Collection.open(made)
    assert opened.encoder == "new"
    assert len(opened.vectors(Turned().fingerprint)) == 2 * len(mixtures(5)) + 1
    assert chiasm.status(made).embeddings == {"image": len(mixtures(5)), "text": len(mixtures(5)), "audio": 1}
    assert chiasm.search(made, "red red green", modality="image", k=1).hits[0].id == "2-1-0"
    assert chiasm.status(made).spaces == ("start",)


def test_it_equals_a_collection_that_was_made_with_it(small: Collection, folder: Path, tmp_path: Path) -> None:
    reembed(small)
    fresh = Collection.create(tmp_path / "fresh", encoder="two")
    add_manifests(fresh, [read_manifest(folder)], [FakeEncoder(version="2")])
    found = Collection.open(small.path)
    check(found, NEW)
    assert rows(found) == rows(fresh)
    there, expected = (by_key(one.vectors(NEW.fingerprint)) for one in (found, fresh))
    assert all(np.array_equal(there[key], expected[key]) for key in expected)
    late = FakeEncoder(version="2")
    report = add_manifests(found, [read_manifest(folder)], [late])
    assert (report.encoded, report.unchanged, late.embedded.total()) == (0, 40, 0), "as if it always had been there"


def test_items_are_what_was_added(tmp_path: Path) -> None:
    """Texts that stand in a table, texts in files, texts that look like paths, several of a kind, none at all."""
    (tmp_path / "file.txt").write_text("said in a file", encoding="utf-8")
    notes = texts(tmp_path / "notes", 1)
    (notes / "read.md").write_text("said in a note", encoding="utf-8")
    manifest = table(
        tmp_path / "t.jsonl",
        [
            {"id": "a", "text": ["first", "file.txt", "/etc/hosts.md"], "colour": "red"},
            {"id": "b", "image": picture(tmp_path / "b.png", (1, 0, 0)), "text": "/etc/hosts"},
            {"id": "c", "text": ["", "twice"]},
            {"id": "d", "text": "twice"},
        ],
    )
    made = Collection.create(tmp_path / "made", encoder="one")
    add_manifests(made, [read_manifest(manifest), read_manifest(notes)], [FakeEncoder()])
    before = rows(made)
    report = reembed(made)
    after = Collection.open(made.path)
    check(after, NEW)
    kept = ("item", "slot", "path", "hash", "modality", "outcome", "size")
    assert {key: [row[name] for name in kept] for key, row in rows(after).items()} == {
        key: [row[name] for name in kept] for key, row in before.items()
    }
    assert after.items() == made.items()
    assert report.counts == made.outcomes()


def test_nothing_changes_for_anybody_before_the_switch(made: Path) -> None:
    searcher = Searcher(made)
    expected, files = hits(searcher), searcher.collection.files()
    version, header = searcher.collection.version, (made / "chiasm.json").read_bytes()
    seen: list[Progress] = []

    def look(progress: Progress) -> None:
        seen.append(progress)
        if progress.done % 20 == 1:
            opened = Collection.open(made)
            assert (opened.encoder, opened.version, opened.files()) == ("old", version, files)
            assert (made / "chiasm.json").read_bytes() == header
            assert searcher.refresh() is False
            assert hits(searcher) == hits(Searcher(made)) == expected

    chiasm.reembed(made, encoder="new", on_progress=look)
    assert [progress.done for progress in seen] == list(range(1, seen[0].total + 1))
    assert hits(Searcher(made)) == hits(searcher), "the searcher that was open has what it had"


@pytest.mark.race
def test_searches_in_another_thread_have_one_encoder_or_the_other(made: Path) -> None:
    """Also those that refresh at the moment of the switch, and ask with vectors that were prepared before."""
    searcher = Searcher(made)
    expected = hits(searcher)
    begun, done = threading.Event(), threading.Event()
    wrong: list[Any] = []

    def ask() -> None:
        while not done.is_set() or searcher.refresh():
            query = Query((Text("red red green"),), vectors=searcher.prepare([Text("red red green")]))
            searcher.refresh()
            found = [(hit.id, hit.modality, hit.score) for hit in searcher.search(query, SearchOptions(k=20)).hits]
            begun.set()
            if {one[:2] for one in found[:2]} != {one[:2] for one in expected[:2]} or found[0][2] < 1 - 1e-6:
                wrong.append(found)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        assert begun.wait(LIMIT)
        chiasm.reembed(made, encoder="new")
    finally:
        done.set()
        thread.join()
    assert wrong == []
    assert searcher.collection.encoder == "new"


def test_prepared_vectors_of_the_encoder_before_are_made_anew(made: Path) -> None:
    searcher = Searcher(made)
    words = [Text("red"), Text("blue")]
    query = Query((words[0],), minus=(words[1],), vectors=searcher.prepare(words))
    first = searcher.search(query, SearchOptions(k=3)).hits
    chiasm.reembed(made, encoder="new")
    assert searcher.refresh() is True
    assert [hit.id for hit in searcher.search(query, SearchOptions(k=3)).hits] == [hit.id for hit in first]
    other = Query((words[0],), vectors=np.eye(1, 12, 5, dtype=np.float32))
    assert searcher.search(other, SearchOptions(k=1)).hits[0].score == 0, "vectors from elsewhere are taken as they are"


def test_a_searcher_that_was_open_moves_over(made: Path) -> None:
    searcher = Searcher(made)
    assert searcher.refresh() is False
    before = searcher.networks
    chiasm.reembed(made, encoder="new")
    assert [hit.id for hit in searcher.search(Query((Text("blue"),)), SearchOptions(k=1)).hits] == ["0-0-1"], (
        "it need not know yet"
    )
    assert searcher.refresh() is True
    assert searcher.collection.encoder == "new"
    assert searcher.networks is not before
    assert searcher.space.fingerprints["image"] == Turned().fingerprint
    assert hits(searcher) == hits(Searcher(made))
    assert searcher.search(Query((Text("red red green"),)), SearchOptions(k=1)).hits[0].id == "2-1-0"
    assert searcher.refresh() is False
    chiasm.add([table(made.parent / "more.jsonl", [{"id": "new", "text": "zebra"}])], to=made)
    assert searcher.refresh() is True
    assert searcher.search(Query((Text("zebra"),)), SearchOptions(k=1)).hits[0].id == "new"


def test_words_are_found_afterwards(made: Path) -> None:
    """Transcripts are those of the new encoder, once."""
    searcher = Searcher(made)
    before = [hit.id for hit in searcher.search(Query((Text("red"),)), SearchOptions(hybrid=True)).hits]
    chiasm.reembed(made, encoder="new")
    kept = FullText.open(Collection.open(made))
    assert kept is not None
    assert kept.is_current()
    assert "2-1-0" in kept.search("green", k=100).items
    assert [hit.id for hit in Searcher(made).search(Query((Text("red"),)), SearchOptions(hybrid=True)).hits] == before


# ----------------------------------------------------------------------------------------------------------- cut off


class Stopped(Exception):
    """What a test stops a run with."""


def stop_at(count: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.done == count:
            raise Stopped

    return stop


def cut_off(collection: Collection, count: int, **options: Any) -> None:
    """Stop a run by the second encoder after so many files."""
    with pytest.raises(Stopped):
        reembed(collection, FakeEncoder(version="2", batch_size=4), on_progress=stop_at(count), **options)


@pytest.mark.parametrize("stop", [Stopped, EncoderError])
def test_a_run_that_was_cut_off_goes_on(small: Collection, folder: Path, stop: type[Exception]) -> None:
    expected = by_key(small.vectors(OLD.fingerprint))
    first = FakeEncoder(version="2", batch_size=4, faults={"text 30": "no weights"})
    with pytest.raises(stop):
        reembed_collection(small, "two", [first], on_progress=stop_at(24) if stop is Stopped else None, commit_rows=8)
    opened = Collection.open(small.path)
    assert (opened.encoder, opened.files()) == ("one", small.files())
    assert all(np.array_equal(vector, expected[key]) for key, vector in by_key(opened.vectors(OLD.fingerprint)).items())
    check(opened)
    second = FakeEncoder(version="2", batch_size=4)
    report = reembed_collection(opened, "two", [second], commit_rows=8)
    assert first.embedded.total() + second.embedded.total() == 40, "each once"
    assert 0 < report.encoded < 40
    assert report.encoded + report.reused == 40
    check(Collection.open(small.path), NEW)


def test_what_was_added_in_between_is_embedded(small: Collection, folder: Path) -> None:
    cut_off(small, 24, commit_rows=4)
    more = texts(folder.parent / "more", 5, "more")
    (folder / "text003.txt").write_text("another text now", encoding="utf-8")  # was embedded by both
    (folder / "text039.txt").write_text("this one, too", encoding="utf-8")  # was embedded by the old one
    add_manifests(small, [read_manifest(folder), read_manifest(more)], [FakeEncoder()])
    small.remove(["text005"])
    check(small)
    (folder / "text004.txt").unlink()
    second = FakeEncoder(version="2", batch_size=4)
    report = reembed_collection(small, "two", [second])
    assert second.embedded.total() == 40 - 24 + 5 + 1, "what was embedded is not embedded again"
    found = Collection.open(small.path)
    assert found.ids() == small.ids()
    assert len(found.vectors(NEW.fingerprint)) == 44
    assert {row["hash"] for row in found.files()} == {row["hash"] for row in small.files()}
    assert report.lost == 0
    assert "text005" not in {row["item"] for row in found.files()}
    (folder / "text004.txt").write_text("text 4", encoding="utf-8")  # so that everything can be looked up again
    check(found, NEW)


def test_what_is_added_while_it_runs_is_embedded(small: Collection, folder: Path, tmp_path: Path) -> None:
    more = texts(tmp_path / "more", 3, "more")
    passes = []

    def add(progress: Progress) -> None:
        if progress.done == progress.total:
            passes.append(progress.total)
        if progress.done == 40:
            add_manifests(Collection.open(small.path), [read_manifest(more)], [FakeEncoder()])

    encoder = FakeEncoder(version="2")
    report = reembed_collection(small, "two", [encoder], on_progress=add)
    assert passes == [40, 3]
    assert (report.items, report.encoded, report.counts) == (43, 43, {"ok": 43})
    check(Collection.open(small.path), NEW)


def test_an_add_that_the_switch_overtakes_says_so(small: Collection, folder: Path, tmp_path: Path) -> None:
    """Its items are listed already, so they are embedded by the new encoder; nothing is written to what is replaced."""
    more = texts(tmp_path / "more", 6, "more")

    def switch(progress: Progress) -> None:
        if progress.done == 2:
            reembed_collection(Collection.open(small.path), "two", [FakeEncoder(version="2")])

    with pytest.raises(CollectionError, match="its encoder is 'two' now, and was 'one'"):
        add_manifests(small, [read_manifest(more)], [FakeEncoder(batch_size=1)], on_progress=switch)
    found = Collection.open(small.path)
    check(found, NEW)
    assert found.count() == 46
    assert add_manifests(found, [read_manifest(more)], [FakeEncoder(version="2")]).encoded == 0


@pytest.mark.parametrize("other", ["two", "three"])
def test_two_at_once(small: Collection, other: str) -> None:
    """With the same encoder both end well; with different ones the faster wins, and nothing of the other is lost."""
    networks = {"two": NEW, "three": FakeEncoder(version="3")}

    def overtake(progress: Progress) -> None:
        if progress.done == 20:
            reembed_collection(Collection.open(small.path), other, [FakeEncoder(version=networks[other].version)])

    slow = FakeEncoder(version="2", batch_size=4)
    if other == "two":
        assert reembed_collection(small, "two", [slow], on_progress=overtake).counts == {"ok": 40}
    else:
        with pytest.raises(CollectionError, match="its encoder is 'three' now, and was 'one'"):
            reembed_collection(small, "two", [slow], on_progress=overtake)
    found = Collection.open(small.path)
    assert found.generation.number == 1
    check(found, networks[other])
    if other == "three":
        report = reembed_collection(found, "two", [FakeEncoder(version="2", batch_size=4)])
        assert report.encoded + report.reused == 40
        check(Collection.open(small.path), NEW)


@dataclass(frozen=True)
class Job:
    """What a process re-embeds, and before which step that writes it dies."""

    collection: Path
    log: Path
    at_step: int | None = None
    steps: Path | None = None


def run(job: Job) -> None:
    """The body of a process."""
    count_writes(job.at_step, job.steps)
    encoder = FakeEncoder(version="2", batch_size=4, log=job.log)
    reembed_collection(Collection.open(job.collection), "two", [encoder], commit_rows=4)


def start(job: Job) -> int | None:
    process = SERVER.Process(target=run, args=(job,))
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.race
def test_kill_at_every_step_that_writes(tmp_path: Path) -> None:
    before = Collection.create(tmp_path / "before", encoder="one")
    add_manifests(before, [read_manifest(texts(tmp_path / "media", 12))], [FakeEncoder()])
    whole = Path(shutil.copytree(before.path, tmp_path / "whole"))
    steps = tmp_path / "steps"
    assert start(Job(whole, tmp_path / "log", steps=steps)) == 0
    check(Collection.open(whole), NEW)
    count = int(steps.read_text())
    assert count >= 14, "three commits of two writes, and the switch"
    for step in range(count):
        target, log = tmp_path / f"step{step}", tmp_path / f"log{step}"
        shutil.copytree(before.path, target)
        assert start(Job(target, log, at_step=step)) == -signal.SIGKILL
        opened = Collection.open(target)
        stored = {key[0] for key in by_key(Collection(target, "two", opened.generation).vectors(NEW.fingerprint))}
        if opened.encoder == "two":
            assert step == count - 1, "the switch is the last that is written"
        else:
            check(opened)
            reembed_collection(opened, "two", [FakeEncoder(version="2", batch_size=4, log=log)], commit_rows=4)
        check(Collection.open(target), NEW)
        assert rows(Collection.open(target)) == rows(Collection.open(whole))
        embedded = log.read_text().splitlines()
        again = {text for text in embedded if embedded.count(text) > 1}
        assert not {f"text{int(text.split()[1]):03}" for text in again} & stored, (
            "embedded again though it was committed"
        )


# --------------------------------------------------------------------------------------- what the encoders have in common


def shared() -> tuple[list[FakeEncoder], list[FakeEncoder]]:
    """Two encoders with the same network of texts and others of images."""
    before = [FakeEncoder(("text",)), FakeEncoder(("image",))]
    return before, [FakeEncoder(("text",)), FakeEncoder(("image",), version="2")]


@pytest.fixture
def both(tmp_path: Path) -> Collection:
    """Pictures and files of text by two networks."""
    folder = texts(tmp_path / "media", 6)
    for number in range(6):
        picture(folder / f"text{number:03}.png", (number + 1, 1, 2))
    (folder / "text009.txt").write_text("", encoding="utf-8")
    made = Collection.create(tmp_path / "both", encoder="one")
    add_manifests(made, [read_manifest(folder)], shared()[0])
    return made


def test_the_embeddings_of_a_common_network_are_taken_as_they_are(both: Collection) -> None:
    before, after = shared()
    report = reembed_collection(both, "two", after)
    assert [encoder.embedded.total() for encoder in after] == [0, 6]
    assert (report.encoded, report.reused, report.counts) == (6, 6, {"ok": 12, "empty": 1})
    found = Collection.open(both.path)
    texts_ = [one.vectors(before[0].fingerprint) for one in (both, found)]
    assert len(texts_[0]) == 6
    assert texts_[0].items == texts_[1].items
    assert np.array_equal(texts_[0].vectors, texts_[1].vectors)
    assert len(found.vectors(after[1].fingerprint)) == 6
    assert f"embeddings-{before[0].fingerprint}" not in found.generation.replaced
    assert f"embeddings-{before[1].fingerprint}" in found.generation.replaced


def test_of_a_common_network_files_may_be_gone(both: Collection, tmp_path: Path) -> None:
    for path in (tmp_path / "media").glob("*.txt"):
        path.unlink()
    (tmp_path / "media" / "text002.png").unlink()
    report = reembed_collection(both, "two", shared()[1])
    assert report.counts == {"ok": 11, "broken": 2}
    assert report.lost == 1
    assert {Path(one.path).name for one in report.outcomes} == {"text002.png", "text009.txt"}
    assert len(Collection.open(both.path).vectors(shared()[0][0].fingerprint)) == 6


def test_what_was_embedded_before_a_file_went_stays(small: Collection, folder: Path) -> None:
    cut_off(small, 20, commit_rows=4)
    (folder / "text000.txt").unlink()
    assert reembed(small).counts == {"ok": 40}


# ---------------------------------------------------------------------------------- what the new encoder cannot embed


def test_a_file_that_is_gone_has_an_outcome(small: Collection, folder: Path) -> None:
    (folder / "text007.txt").unlink()
    (folder / "text008.txt").write_bytes(b"\xff\xfe\x00\x00 no text")
    report = reembed_collection(small, "two", [FakeEncoder(version="2", faults={"text 9": "nan"})])
    assert report.counts == {"ok": 37, "broken": 3}
    assert report.lost == 3
    reasons = {Path(one.path).stem: one.reason for one in report.outcomes}
    assert set(reasons) == {"text007", "text008", "text009"}
    assert reasons["text007"] == "the file does not exist"
    found = Collection.open(small.path)
    assert len(found.vectors(NEW.fingerprint)) == 37
    (folder / "text007.txt").write_text("text 7", encoding="utf-8")
    assert add_manifests(found, [read_manifest(folder)], [FakeEncoder(version="2")]).counts["ok"] >= 38, (
        "it is tried again"
    )


def test_modalities_that_the_new_encoder_does_not_take(made: Path) -> None:
    report = chiasm.reembed(made, encoder="texts")
    count = len(mixtures(5))
    assert report.counts == {"ok": count, "unsupported": count + 1}
    assert (report.not_taken, report.lost) == ({"image": count, "audio": 1}, count + 1)
    assert {one.reason for one in report.outcomes} == {
        "the encoder 'texts' takes text, not image",
        "the encoder 'texts' takes text, not audio",
    }
    assert {hit.modality for hit in chiasm.search(made, "red", k=100).hits} == {"text"}
    back = chiasm.reembed(made, encoder="old")
    assert back.counts == {"ok": 2 * count + 1}
    assert back.encoded == 0, "its vectors are there for an hour"


@pytest.mark.parametrize("gone", [True, False])
def test_where_nothing_can_be_embedded_all_stays(small: Collection, folder: Path, gone: bool) -> None:
    network = FakeEncoder(("text",) if gone else ("image",), version="2")
    if gone:
        shutil.rmtree(folder)
    before, header = small.files(), (small.path / "chiasm.json").read_bytes()
    with pytest.raises(CollectionError) as error:
        reembed_collection(small, "two", [network])
    for term in ("stays with the encoder 'one'", "40 broken" if gone else "40 unsupported", "text000.txt"):
        assert term in str(error.value)
    assert (small.path / "chiasm.json").read_bytes() == header
    found = Collection.open(small.path)
    assert (found.encoder, found.files()) == ("one", before)
    assert len(found.vectors(OLD.fingerprint)) == 40


def test_a_collection_without_items(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="it has none"):
        reembed(Collection.create(tmp_path / "empty", encoder="one"))


def test_the_same_encoder_again_is_nothing_to_do(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As after a run that was killed behind its switch."""
    before = tables(made)
    first = chiasm.reembed(made, encoder="new")
    again = chiasm.reembed(made, encoder="new")
    assert (again.before, again.encoder, again.encoded, again.lost) == ("new", "new", 0, 0)
    assert (again.items, again.counts) == (first.items, first.counts)
    assert cli.run(["reembed", str(made), "--encoder", "new"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert tables(made) != before


def test_what_is_no_encoder_or_no_collection(made: Path, tmp_path: Path) -> None:
    before = tables(made)
    with pytest.raises(EncoderError, match="there is no encoder 'nothing'"):
        chiasm.reembed(made, encoder="nothing")
    with pytest.raises(CollectionError, match="chiasm add"):
        chiasm.reembed(tmp_path, encoder="new")
    assert Collection.open(made).encoder == "old"
    assert tables(made) == before


@pytest.mark.parametrize(
    "change",
    [
        {"files": "../files"},
        {"replaced": ["items"]},
        {"replaced": ["../../home"]},
        {"replaced": 3},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"generation": "many"},
        {"fingerprints": 3},
    ],
)
def test_a_damaged_header_is_said_to_be_one(small: Collection, change: Mapping[str, Any]) -> None:
    header = json.loads((small.path / "chiasm.json").read_text())
    (small.path / "chiasm.json").write_text(json.dumps({**header, **change}))
    with pytest.raises(CollectionError, match="damaged"):
        Collection.open(small.path)


# -------------------------------------------------------------------------------------------------- what is left behind


def test_spaces_of_the_encoder_before_are_passed_over(made: Path) -> None:
    chiasm.align(made, method="ridge")
    assert Searcher(made).space.name == "aligned"
    report = chiasm.reembed(made, encoder="new")
    assert report.spaces == ("aligned",)
    assert report.as_dict()["spaces"] == ["aligned"]
    assert chiasm.status(made).spaces == ("start",)
    assert Searcher(made).space.name == "start"
    assert chiasm.search(made, "red red green", modality="image", k=1).hits[0].id == "2-1-0"
    with pytest.raises(SpaceError, match=f"chiasm align {made} --name aligned"):
        chiasm.search(made, "red", space="aligned")
    chiasm.align(made, method="ridge")
    assert chiasm.status(made).spaces == ("start", "aligned")
    assert Searcher(made).space.fingerprints["image"] == Turned().fingerprint


def test_a_searcher_of_a_named_space_goes_on_with_what_it_has(made: Path) -> None:
    chiasm.align(made, method="ridge")
    searcher = Searcher(made, space="aligned")
    expected = hits(searcher)
    chiasm.reembed(made, encoder="new")
    with pytest.raises(SpaceError, match="was learned with another encoder"):
        searcher.refresh()
    assert hits(searcher) == expected
    chiasm.reembed(made, encoder="old")
    assert chiasm.status(made).spaces == ("start", "aligned"), "of use again with its encoder"
    assert hits(Searcher(made)) == expected


def test_an_alignment_that_the_switch_overtakes_is_not_kept(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = align_verb._learn_pairs

    def switch(*given: Any) -> Any:
        chiasm.reembed(made, encoder="new")
        return learned(*given)

    monkeypatch.setattr(align_verb, "_learn_pairs", switch)
    with pytest.raises(CollectionError, match="was re-embedded meanwhile"):
        chiasm.align(made, method="ridge")
    assert chiasm.status(made).spaces == ("start",)


def test_models_of_the_encoder_before_are_refused(made: Path, tmp_path: Path) -> None:
    chiasm.fit(made, label="most", out=tmp_path / "model")
    chiasm.reembed(made, encoder="new")
    with pytest.raises(ChiasmError, match="another encoder"):
        chiasm.evaluate(str(tmp_path / "model"), str(made), label="most")


def test_old_tables_go_after_an_hour(made: Path) -> None:
    late = Collection.open(made)
    fingerprint = painters()[0].fingerprint
    old = {name for name in tables(made) if name.startswith(("embeddings-", "search-"))} | {"files"}
    chiasm.reembed(made, encoder="new")
    assert old <= tables(made)
    # A reader that has not seen the switch has all that it had, and may write what it derives from it.
    space = start_of(late, painters())
    assert len(placed_vectors(late, space)) >= len(late.vectors(fingerprint)) == 2 * len(mixtures(5)) + 1
    assert late.drop_replaced() == ()
    assert gallery.drop_tables(late, []) == ()
    new = Collection.open(made)
    keep = [space_of(new, [Turned()], None).space.digest]
    assert set(new.generation.replaced) == {name for name in old if not name.startswith("search-")}
    assert set(new.drop_replaced(unused_for=-1)) == set(new.generation.replaced)
    assert gallery.drop_tables(new, keep, unused_for=-1) == (space.digest,)
    assert not old & tables(made)
    assert not list(made.glob("*.gone"))
    assert Collection.open(made).generation.replaced == ()
    assert hits(Searcher(made)) == hits(Searcher(made))
    assert Searcher(made).search(Query((Text("red"),)), SearchOptions(k=1)).hits[0].id == "1-0-0"


def aged(made: Path) -> None:
    """As if the switch had been an hour and a bit ago."""
    header = json.loads((made / "chiasm.json").read_text())
    header["since"] = "2020-01-01T00:00:00+00:00"
    (made / "chiasm.json").write_text(json.dumps(header))


def test_adding_tidies_up(made: Path) -> None:
    chiasm.reembed(made, encoder="new")
    aged(made)
    chiasm.add([table(made.parent / "more.jsonl", [{"id": "new", "text": "zebra"}])], to=made)
    assert "files" not in tables(made)
    assert f"embeddings-{painters()[0].fingerprint}" not in tables(made)
    assert chiasm.search(made, "zebra", k=1).hits[0].id == "new"


def test_deleting_that_was_cut_off_goes_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chiasm.reembed(made, encoder="new")
    aged(made)
    opened = Collection.open(made)
    old = set(opened.generation.replaced)
    calls = []

    def stop(path: Path, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise Stopped
        rmtree(path, **options)

    rmtree = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        with pytest.raises(Stopped):
            opened.drop_replaced()
    assert len(list(made.glob("*.gone"))) == 1
    opened.drop_replaced()
    assert not list(made.glob("*.gone"))
    assert not old & tables(made)
    assert Collection.open(made).generation.replaced == ()


def test_tables_that_are_in_use_again_are_not_deleted(small: Collection) -> None:
    reembed(small)
    second = Collection.open(small.path)
    aged(small.path)

    def tidy(progress: Progress) -> None:
        if progress.done == 20:
            Collection.open(small.path).drop_replaced()

    encoder = FakeEncoder()
    reembed_collection(second, "one", [encoder], on_progress=tidy, commit_rows=4)
    assert encoder.embedded.total() == 0, "its vectors were there, and stayed"
    check(Collection.open(small.path))


def test_what_was_begun_with_another_encoder_goes_at_the_switch(small: Collection) -> None:
    cut_off(small, 20)
    reembed_collection(small, "three", [FakeEncoder(version="3")])
    found = Collection.open(small.path)
    assert len(found.drop_replaced(unused_for=-1)) == 4
    assert tables(small.path) == {"items", found.generation.files, f"embeddings-{FakeEncoder(version='3').fingerprint}"}
    check(found, FakeEncoder(version="3"))


def test_removing_removes_from_both(small: Collection) -> None:
    cut_off(small, 20)
    small.remove(["text000", "text039"])
    reembed(small)
    found = Collection.open(small.path)
    assert found.remove(["text001"]) == 1
    check(found, NEW)
    assert found.count() == 37
    for name in tables(small.path) - {"items"}:
        assert not {"text000", "text001", "text039"} & set(
            lance.dataset(str(small.path / f"{name}.lance")).to_table(columns=["item"])["item"].to_pylist()
        ), name


# -------------------------------------------------------------------------------------------------- on the command line


def test_commands_in_words_and_in_json(made: Path) -> None:
    chiasm.align(made, method="ridge")
    done = CliRunner().invoke(commands.app, ["reembed", str(made), "--encoder", "texts"])
    assert done.exit_code == 0, done.output
    count = len(mixtures(5))
    for part in (
        f"Files: {count} ok, {count + 1} unsupported; {count} embedded now",
        f"{count} of image: texts does not take image",
        f"chiasm align {made}",
        f"chiasm fit {made}",
    ):
        assert part in done.output
    done = CliRunner().invoke(commands.app, ["reembed", str(made), "--encoder", "new", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["before"], found["encoder"], found["counts"]) == ("texts", "new", {"ok": 2 * count + 1})
    assert {"items", "encoded", "reused", "lost", "not_taken", "outcomes", "spaces", "seconds"} <= set(found)
