"""The table that a space is searched in: after any change it equals one that is made anew, and readers see all or nothing."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import lance
import numpy as np
import pyarrow as pa
import pytest
from painter import COLOURS, mixtures, painted, painters, picture, sound, table, words_of

import chiasm
from chiasm import encoders
from chiasm.store import gallery
from chiasm.store.collection import Collection
from chiasm.store.index import ExactIndex, LanceIndex
from chiasm.types import Text
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import open_table, start_of


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """33 pictures with words, and a sound with moments."""
    root = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        song = table(root / "song.jsonl", [{"id": "song", "audio": sound(root / "song.wav", "red", "green", "blue")}])
        chiasm.add([painted(root / "media", 5), song], to=root / "collection")
        yield root / "collection"


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of a test's own."""
    return Path(shutil.copytree(base, tmp_path / "collection"))


def opened(path: Path) -> lance.LanceDataset:
    collection = Collection.open(path)
    return open_table(collection, start_of(collection, painters()))


def rows_of(dataset: lance.LanceDataset) -> list[dict[str, Any]]:
    rows = dataset.to_table().to_pylist()
    return sorted(rows, key=lambda row: (row["id"], row["_slot"], row["_modality"], row["_start"] or -1.0))


def anew(path: Path) -> list[dict[str, Any]]:
    """The rows of a table that is made from nothing."""
    for one in path.glob("search-*"):
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    return rows_of(opened(path))


def test_every_vector_has_the_columns_of_its_item(made: Path) -> None:
    rows = rows_of(opened(made))
    items = {row["id"]: row for row in Collection.open(made).items()}
    assert len(rows) == 2 * len(mixtures(5)) + 4, "a picture and a text each; a sound with three moments"
    for row in rows:
        assert {name: row[name] for name in items[row["id"]]} == items[row["id"]]
        assert np.linalg.norm(row["_vector"]) == pytest.approx(1, abs=1e-5)
    song = [row for row in rows if row["id"] == "song"]
    assert [(row["_start"], row["_text"]) for row in song] == [
        (None, "red green blue"),
        (0, "red"),
        (1, "green"),
        (2, "blue"),
    ]


def changes(made: Path) -> dict[str, Any]:
    """Ways in which a collection changes."""
    folder = made.parent

    def lists(rows: list[dict[str, Any]]) -> None:
        chiasm.add([table(folder / "more.jsonl", rows)], to=made)

    return {
        "added": lambda: lists([{"id": "new", "text": "zebra", "most": "red"}]),
        "removed": lambda: chiasm.remove(made, where="id = '1-0-0' OR id = 'song'"),
        "column changed": lambda: lists(
            [
                {
                    "id": "1-0-0",
                    "text": "red",
                    "most": "pink",
                    "image": picture(folder / "media" / "1-0-0.png", (1, 0, 0)),
                }
            ]
        ),
        "new column": lambda: lists([{"id": "1-0-0", "text": "red", "price": 5.5}]),
        "file lost": lambda: lists([{"id": "0-1-0", "text": "green"}]),
        "content changed": lambda: lists([{"id": "0-1-0", "text": "blue"}]),
    }


@pytest.mark.parametrize("change", ["added", "removed", "column changed", "new column", "file lost", "content changed"])
@pytest.mark.parametrize("indexed", [False, True])
def test_after_a_change_it_equals_one_made_anew(
    made: Path, change: str, indexed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if indexed:
        monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
    before = rows_of(opened(made))
    changes(made)[change]()
    after = rows_of(opened(made))
    assert after != before
    assert after == anew(made)


def test_nothing_is_placed_twice(made: Path) -> None:
    collection = Collection.open(made)
    space = start_of(collection, painters())
    placed: list[int] = []

    def place(modality: Any, vectors: np.ndarray) -> np.ndarray:
        placed.append(len(vectors))
        return space.place(modality, vectors)

    def synchronise() -> int:
        fingerprints = space.fingerprints.values()
        version = gallery.synchronise(
            collection, "other", fingerprints, dim=space.dim, place=place, alone=space.alone
        ).version
        return int(version)

    first = synchronise()
    assert sum(placed) == 2 * len(mixtures(5)) + 4
    assert synchronise() == first
    chiasm.add([table(made.parent / "more.jsonl", [{"id": "new", "text": "zebra"}])], to=made)
    placed.clear()
    assert synchronise() > first
    assert sum(placed) == 1


def test_an_update_that_is_cut_off_changes_nothing_and_the_next_completes_it(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows_of(opened(made))
    pointer = next(made.glob("search-*.json")).read_text()
    reader = Searcher(made)
    with monkeypatch.context() as patch:
        patch.setattr(gallery, "_index", lambda *_: pytest.fail("killed"))  # rows are written, the pointer is not
        with pytest.raises(pytest.fail.Exception):
            chiasm.add([table(made.parent / "more.jsonl", [{"id": "new", "text": "zebra"}])], to=made)
    assert next(made.glob("search-*.json")).read_text() == pointer
    assert rows_of(reader._state.table) == before
    assert [row["id"] for row in rows_of(opened(made)) if row["_text"] is None and row["id"] == "new"] == ["new"]
    assert rows_of(opened(made)) == anew(made)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format_version": 99}', '{"format_version": 1, "made_from": [0, 0, 0]}']
)
def test_a_damaged_pointer_is_made_anew(made: Path, content: str) -> None:
    before = rows_of(opened(made))
    next(made.glob("search-*.json")).write_text(content)
    assert rows_of(opened(made)) == before


def test_removing_an_item_removes_its_vectors_at_once(made: Path) -> None:
    version = opened(made)
    Collection.open(made).remove(["song"])
    assert "song" not in lance.dataset(version.uri).to_table(columns=["id"])["id"].to_pylist()
    assert "song" not in [row["id"] for row in rows_of(opened(made))]


def test_old_versions_stay_until_no_reader_can_have_them(made: Path) -> None:
    first = opened(made)
    rows = rows_of(first)
    chiasm.remove(made, where="id = '1-0-0'")
    second = opened(made)
    assert rows_of(first) == rows, "an hour has not passed"
    pointer = next(made.glob("search-*.json"))
    fields = json.loads(pointer.read_text())
    fields["at"] = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    pointer.write_text(json.dumps(fields))
    chiasm.remove(made, where="id = '0-1-0'")
    third = opened(made)
    versions = [one["version"] for one in third.versions()]
    assert min(versions) >= second.version, (
        "what was replaced two hours ago is gone, the one that readers may have is not"
    )
    assert len(rows_of(second)) == len(rows) - 2


def test_tables_of_spaces_that_are_gone_are_dropped_some_time_after(made: Path) -> None:
    opened(made)
    collection = Collection.open(made)
    assert gallery.drop_tables(collection, []) == ()
    (dropped,) = gallery.drop_tables(collection, [], unused_for=0.0)
    assert dropped == start_of(collection, painters()).digest
    assert not list(made.glob("search-*"))


# ------------------------------------------------------------------------------------------------- through the searcher


QUERIES = [words_of(parts) for parts in mixtures(3)]


def found_by(searcher: Searcher) -> list[tuple[str, str, float]]:
    return [
        (hit.id, hit.modality, round(hit.score, 4))
        for words in QUERIES
        for options in (
            SearchOptions(k=5),
            SearchOptions(k=5, modality="image"),
            SearchOptions(k=5, where="most = 'blue'"),
            SearchOptions(k=5, hybrid=True),
            SearchOptions(k=5, diversity=0.5),
        )
        for hit in searcher.search(Query((Text(words),)), options).hits
    ]


def test_an_index_finds_what_an_exact_scan_finds(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Searcher(made)
    assert isinstance(exact._state.index, ExactIndex)
    expected = {hit[0::2] for hit in found_by(exact)}
    for one in made.glob("search-*.json"):
        one.unlink()
    monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
    indexed = Searcher(made)
    assert isinstance(indexed._state.index, LanceIndex)
    names = {name for one in indexed._state.table.describe_indices() for name in one.field_names}
    assert names >= {"id", "most", "_modality", "_kind", "_vector"}
    assert {hit[0::2] for hit in found_by(indexed)} == expected
    chiasm.add([painted(made.parent / "more", 6)], to=made)
    chiasm.remove(made, where="id = '1-1-0' OR id = '0-0-1'")
    assert indexed.refresh() is True
    hits = found_by(indexed)
    assert not {"1-1-0", "0-0-1"} & {hit[0] for hit in hits}
    indexed._state = replace(indexed._state, index=ExactIndex(indexed._state.table))
    assert {hit[0::2] for hit in found_by(indexed)} == {hit[0::2] for hit in hits}


def test_the_index_keeps_its_partitions_when_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows a partition are what makes a search quick; Lance joins them to large ones when it is asked to optimise."""
    monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
    monkeypatch.setattr(gallery, "ROWS_A_PARTITION", 50)
    monkeypatch.setattr(gallery, "PARTS", 3)
    rng = np.random.default_rng(0)

    def add(rows: int, mode: Literal["create", "append"]) -> lance.LanceDataset:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rng.standard_normal(rows * 8), pa.float32()), 8)
        table = pa.table({"id": pa.array([f"{mode}-{n}" for n in range(rows)]), "_vector": vectors})
        return lance.write_dataset(table, str(tmp_path / "rows.lance"), mode=mode)

    monkeypatch.setenv("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    trained = gallery._index(add(1000, "create"), 0)
    parts = []
    for _ in range(5):
        trained = gallery._index(add(20, "append"), trained)
        table = lance.dataset(str(tmp_path / "rows.lance"))
        stats = table.stats.index_stats("_vector_idx")
        assert {part["num_partitions"] for part in stats["indices"]} == {20}
        assert stats["num_unindexed_rows"] == 0
        parts.append(len(stats["indices"]))
    assert trained == 1000
    assert parts == [2, 3, 1, 2, 3]
    assert gallery._index(add(1000, "append"), trained) == 2100


def test_moments_are_in_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
    colours = list(COLOURS)
    rows = [
        {"id": f"{n}", "audio": sound(tmp_path / f"{n}.wav", *(colours[(n >> at) % 3] for at in range(3 + n % 2)))}
        for n in range(8)
    ]
    chiasm.add([table(tmp_path / "t.jsonl", rows)], to=tmp_path / "collection")
    searcher = Searcher(tmp_path / "collection")
    for colour in colours:
        hits = searcher.search(Query((Text(colour),))).hits
        assert hits[0].score == pytest.approx(1)
        assert hits[0].text == colour
        assert len({hit.id for hit in hits}) == len(hits) == 8


@pytest.mark.race
@pytest.mark.parametrize("indexed", [False, True])
def test_no_search_sees_half_of_a_refresh(made: Path, indexed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two items change places again and again, in one commit each, with their column; every answer is of one moment."""
    if indexed:
        monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
    manifests = [
        table(
            made.parent / f"{side}.jsonl",
            [{"id": f"pair-{n}", "text": "zebra", "side": side, "most": "red"} for n in range(6)],
        )
        for side in ("left", "right")
    ]
    chiasm.add([manifests[0]], to=made)
    searcher = Searcher(made)
    stop = threading.Event()

    def change() -> None:
        try:
            for turn in range(8):
                if turn % 4 == 3:
                    chiasm.remove(made, where="id LIKE 'pair-%'")
                else:
                    chiasm.add([manifests[turn % 2]], to=made)
                searcher.refresh()
        finally:
            stop.set()

    def ask(options: SearchOptions) -> list[tuple[int, int]]:
        seen = []
        while not stop.is_set():
            hits = [hit for hit in searcher.search(Query((Text("zebra"),)), options).hits if hit.id.startswith("pair")]
            seen.append((len(hits), len({hit.metadata["side"] for hit in hits})))
        return seen

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change)
        options = [SearchOptions(), SearchOptions(where="most = 'red'"), SearchOptions(hybrid=True)]
        seen = [one for part in pool.map(ask, options) for one in part]
        changing.result()
    assert set(seen) <= {(6, 1), (0, 0)}, "all six of one side, or none"
    assert (6, 1) in seen
