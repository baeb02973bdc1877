"""The feedback of a collection: what is kept, what counts, what is refused, and that what is deleted is gone."""

from __future__ import annotations

import json
import multiprocessing
import resource
import signal
import sqlite3
import threading
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fake_encoder import FakeEncoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chiasm.errors import CollectionError
from chiasm.store import feedback as module
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.feedback import FILE, MOST_ENTRIES, UNKNOWN, FeedbackTable, Label, Thumb
from chiasm.store.manifest import read_manifest


def make(folder: Path) -> Collection:
    table = folder / "table.jsonl"
    rows = [{"id": name, "text": f"text of {name}", "kind": "bird"} for name in ("a", "b", "c", "it's; one")]
    table.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    collection = Collection.create(folder / "collection", encoder="fake")
    add_manifests(collection, [read_manifest(table)], [FakeEncoder(("text",))])
    return collection


@pytest.fixture
def table(tmp_path: Path) -> FeedbackTable:
    return FeedbackTable(make(tmp_path))


# ------------------------------------------------------------------------------------------------------------- kept


def test_rows_come_back_as_they_were_given(table: FeedbackTable) -> None:
    begin = datetime.now(UTC)
    thumbs = [Thumb("a", "up", "röd fågel 写真"), Thumb("it's; one", "down", "00ff")]
    assert table.add(thumbs, who="anna", version="joint-1") == 2
    assert table.add([Label("b", "kind", " fish ")], who="key-7") == 1
    first, second, third = table.rows()
    assert astuple(first)[2:] == ("anna", "thumb", "a", "", "röd fågel 写真", "up", "joint-1")
    assert astuple(second)[2:] == ("anna", "thumb", "it's; one", "", "00ff", "down", "joint-1")
    assert astuple(third)[2:] == ("key-7", "label", "b", "kind", "", "fish", "")
    assert begin <= first.at <= third.at <= datetime.now(UTC)
    assert first.number < second.number < third.number
    assert table.count() == {"thumb": 2, "label": 1, "people": 2, "items": 3}


def test_reading_makes_no_file(table: FeedbackTable) -> None:
    assert table.rows() == []
    assert table.count() == {"thumb": 0, "label": 0, "people": 0, "items": 0}
    assert (table.labels("kind"), table.delete(who="anna")) == ({}, 0)
    assert table.add([], who="anna") == 0
    assert not (table.collection.path / FILE).exists()


# ----------------------------------------------------------------------------------------------------------- counts


def test_of_one_person_the_latest_counts_and_of_several_the_majority(table: FeedbackTable) -> None:
    for who, label in (("anna", "fish"), ("bo", "bird"), ("anna", "bird"), ("cy", "fish"), ("bo", "fish")):
        table.add([Label("a", "kind", label)], who=who)
    # The latest: anna bird, bo fish, cy fish.
    assert table.labels("kind") == {"a": "fish"}


def test_a_tie_goes_to_what_was_said_last(table: FeedbackTable) -> None:
    for who, label in (("anna", "fish"), ("bo", "bird")):
        table.add([Label("a", "kind", label)], who=who)
    assert table.labels("kind") == {"a": "bird"}
    table.add([Label("a", "kind", "fish")], who="anna")  # says it again, later
    assert table.labels("kind") == {"a": "fish"}
    table.add([Label("b", "kind", UNKNOWN)], who="anna")
    assert table.labels("kind") == {"a": "fish", "b": UNKNOWN}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from("lmn")), min_size=1, max_size=12))
def test_what_counts_the_slow_way(said: list[tuple[str, str]]) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        module.Rating(number, at + timedelta(number), who, "label", "a", "kind", "", label, "")
        for number, (who, label) in enumerate(said)
    ]
    latest = {who: (number, label) for number, (who, label) in enumerate(said)}
    held = [label for _, label in latest.values()]
    most = max(held.count(label) for label in held)
    _, winner = max((number, label) for number, label in latest.values() if held.count(label) == most)
    assert module._majority([rows[number] for number, _ in latest.values()]) == winner


def test_feedback_of_items_that_are_gone_has_no_effect(table: FeedbackTable) -> None:
    table.add([Label("a", "kind", "fish"), Label("b", "kind", "fish"), Thumb("a", "up", "q")], who="anna")
    table.collection.remove(["a"])
    assert table.labels("kind") == {"b": "fish"}
    assert len(table.rows()) == 3  # it is still there, and can be deleted
    assert table.delete(who="anna") == 3


# ---------------------------------------------------------------------------------------------------------- deleted


def test_what_is_deleted_is_gone_from_the_disk(table: FeedbackTable) -> None:
    secret = "where did I leave my wallet"
    table.add([Thumb("a", "up", secret)] * 50, who="anna")
    table.add([Thumb("a", "up", "harmless")], who="bo")
    assert secret.encode() in (table.collection.path / FILE).read_bytes()
    assert table.delete(who="anna") == 50
    for file in table.collection.path.glob(f"{FILE}*"):
        assert secret.encode() not in file.read_bytes()
    assert [row.query for row in table.rows()] == ["harmless"]


def test_numbers_of_deleted_rows_do_not_come_back(table: FeedbackTable) -> None:
    for who in ("anna", "bo"):
        table.add([Thumb("a", "up", "q"), Label("b", "kind", "fish")], who=who)
    highest = table.rows()[-1].number
    assert table.delete(who="bo") == 2
    assert {row.who for row in table.rows()} == {"anna"}
    table.add([Thumb("a", "up", "q")], who="anna")
    assert table.rows()[-1].number > highest


# ---------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("entry", "who", "message"),
    [
        (Thumb("no such", "up"), "anna", r"has no item 'no such'\. Its ids"),
        (Label("a", "colour", "red"), "anna", r"has no column 'colour'\. Its columns: kind"),
        (Label("a", "kind", "  "), "anna", "label must not be empty"),
        (Label("a", "kind", "x" * 1001), "anna", "label has 1001 characters; at most 1000 are kept"),
        (Thumb("a", "up", "x" * 10_001), "anna", "query has 10001 characters; at most 10000"),
        (Thumb("a", "sideways"), "anna", "a thumb is 'up' or 'down'; got 'sideways'"),  # type: ignore[arg-type]
        (Thumb("a", "up", "\ud800"), "anna", "query is no valid Unicode"),
        (Thumb("a", "up"), "", "who must not be empty"),
        (Thumb("a", "up"), "w" * 201, "who has 201 characters; at most 200"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(table: FeedbackTable, entry: Any, who: str, message: str) -> None:
    with pytest.raises(CollectionError, match=message):
        table.add([Thumb("a", "up"), entry], who=who)
    assert table.rows() == []


def test_too_many_at_a_time(table: FeedbackTable) -> None:
    with pytest.raises(CollectionError, match=f"at most {MOST_ENTRIES} ratings can be given at a time; got 10001"):
        table.add([Thumb("a", "up")] * (MOST_ENTRIES + 1), who="anna")


def test_sql_in_texts_is_text(table: FeedbackTable) -> None:
    nasty = "'); DROP TABLE verdicts; --"
    table.add([Thumb("it's; one", "up", nasty)], who=nasty)
    (row,) = table.rows()
    assert (row.who, row.query, row.item) == (nasty, nasty, "it's; one")
    with pytest.raises(CollectionError, match="has no item"):
        table.add([Thumb(nasty, "up")], who="anna")
    assert table.delete(who=nasty) == 1


def test_damaged_and_newer_files_say_so(table: FeedbackTable) -> None:
    path = table.collection.path / FILE
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(CollectionError, match=r"feedback\.sqlite cannot be read: file is not a database"):
        table.rows()
    path.unlink()
    table.add([Thumb("a", "up")], who="anna")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(CollectionError, match="has format version 9 and this chiasm reads 2"):
        table.rows()


# --------------------------------------------------------------------------------------------- several at a time


def _write(folder: Path, who: str) -> None:
    table = FeedbackTable(Collection.open(folder))
    for number in range(20):
        table.add([Thumb("a", "up", f"{number}"), Label("b", "kind", f"{number}")], who=who)


@pytest.mark.race
def test_several_processes_and_threads_write_at_a_time(table: FeedbackTable) -> None:
    context = multiprocessing.get_context("spawn")
    folder = table.collection.path
    processes = [context.Process(target=_write, args=(folder, f"process {number}")) for number in range(2)]
    threads = [threading.Thread(target=_write, args=(folder, f"thread {number}")) for number in range(2)]
    writers: list[Any] = [*processes, *threads]
    for one in writers:
        one.start()
    while any(one.is_alive() for one in writers):
        assert len(table.rows()) % 2 == 0  # readers see whole calls
    for one in writers:
        one.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert table.count() == {"thumb": 80, "label": 80, "people": 4, "items": 2}
    for who in ("process 0", "thread 1"):
        thumbs = [row.query for row in table.rows() if (row.kind, row.who) == ("thumb", who)]
        assert thumbs == [str(number) for number in range(20)]


def test_a_first_write_that_was_cut_off_is_no_table(table: FeedbackTable) -> None:
    (table.collection.path / FILE).touch()
    assert table.rows() == []
    assert table.count()["thumb"] == 0
    table.add([Thumb("a", "up")], who="anna")
    assert len(table.rows()) == 1


def test_a_full_disk_stores_nothing_by_halves(table: FeedbackTable) -> None:
    """The table has all rows of a call or none, says so, and goes on once there is room."""
    table.add([Label("a", "kind", "fish")], who="anna")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    many = [Label("b", "kind", letter * 1000) for letter in "abcdefghijklmnopqrst"]
    size = table.path.stat().st_size
    try:
        for full_after in (0, 100, size, size + 4096):
            resource.setrlimit(resource.RLIMIT_FSIZE, (full_after, hard))
            with pytest.raises(CollectionError, match="cannot be written"):
                table.add(many, who="bo")
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert table.labels("kind") == {"a": "fish"}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert table.add(many, who="bo") == 20
    assert len(table.rows()) == 21


def test_what_was_said_follows_an_item(table: FeedbackTable) -> None:
    table.rename({"a": "b"})
    assert not table.path.exists(), "where nobody said anything there is no file"
    table.add([Label("a", "kind", "fish"), Thumb("a", "up"), Label("c", "kind", "owl")], who="anna")
    table.rename({"a": "b", "nobody": "c"})
    assert [(row.item, row.verdict) for row in table.rows()] == [("b", "fish"), ("b", "up"), ("c", "owl")]
