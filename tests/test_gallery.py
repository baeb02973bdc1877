"""A gallery that changes on disk, against a dictionary of vectors searched by a double loop."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from chiasm.errors import CollectionError
from chiasm.retrieval import gallery
from chiasm.retrieval.approximate import divide
from chiasm.retrieval.gallery import Index

Matrix = Float[np.ndarray, "rows dim"]


def unit(rows: int, dim: int = 8, *, seed: int = 0) -> Matrix:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    result: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def names(count: int, start: int = 0) -> list[str]:
    return [f"item {number}" for number in range(start, start + count)]


def filled(folder: Path, rows: int = 100, **options: object) -> Index:
    index = Index(folder, space="s", dim=8)
    index.add(names(rows), unit(rows))
    return index


def slow(rows: dict[str, tuple[str, Matrix]], query: Matrix, k: int, owners: set[str] | None = None) -> list[str]:
    """Ids of the best row of each of the k best owners; rows in order of adding."""
    found, seen = [], set()
    for _, _, name in sorted((-float(v @ query), number, name) for number, (name, (_, v)) in enumerate(rows.items())):
        owner = rows[name][0]
        if owner not in seen and (owners is None or owner in owners):
            seen.add(owner)
            found.append(name)
    return found[:k]


# ----------------------------------------------------------------------------------------------------- the contract


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_course_of_changes(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Add, replace, delete, build, save and load in any order; a search finds what a double loop finds."""
    folder = tmp_path_factory.mktemp("index")
    index = Index(folder, space="s", dim=3)
    rows: dict[str, tuple[str, Matrix]] = {}
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(gallery, "SMALL", data.draw(st.sampled_from([0, 5, 1000])))
        for step in data.draw(st.lists(st.sampled_from(["add", "add", "owners", "ids", "build", "load"]), max_size=9)):
            if step == "add":
                ids = [f"é{number}" for number in rng.permutation(30)[: rng.integers(0, 12)]]
                owners = [f"o{number}" for number in rng.integers(0, 8, len(ids))]
                vectors = rng.integers(-1, 2, (len(ids), 3)).astype(np.float32)  # ties
                index.add(ids, vectors, owners=owners)
                for name, owner, vector in zip(ids, owners, vectors, strict=True):
                    rows.pop(name, None)
                    rows[name] = (owner, vector)
            elif step == "owners":
                gone = {f"o{number}" for number in rng.integers(0, 10, 2)}
                there = [name for name, (owner, _) in rows.items() if owner in gone]
                assert index.delete(gone) == len(there)
                for name in there:
                    del rows[name]
            elif step == "ids":
                chosen = {f"é{number}" for number in rng.integers(0, 40, 4)}
                assert index.delete_rows(chosen) == len(chosen & rows.keys())
                for name in chosen & rows.keys():
                    del rows[name]
            elif step == "build":
                index.build(divided=data.draw(st.booleans()), recall=1.0)
            else:
                index.save()
                index = Index.load(folder, space="s", dim=3)
            assert len(index) == len(rows)
            assert index.ids() == list(rows)
            for k in (1, 4, 50):
                query = rng.integers(-1, 2, (1, 3)).astype(np.float32)
                allowed = {f"o{number}" for number in rng.integers(0, 8, 3)}
                for among in (None, allowed):
                    found = index.search(query, k=k, among=among, exact=True)
                    expected = slow(rows, query[0], k, among)
                    assert [name for name in index.ids_of(found.rows[0]) if name is not None] == expected
                    assert (found.rows[0, len(expected) :] == -1).all()
                    near = index.search(query, k=k, among=among)
                    assert (near.rows >= 0).sum() == len(expected)
                    assert len(set(index.owners_of(near.rows[0])) - {None}) == len(expected)
    shutil.rmtree(folder)


def test_what_is_added_is_found_at_once_beside_the_lists(tmp_path: Path) -> None:
    index = filled(tmp_path, 500)
    index.build(divided=True)
    assert index.divided is not None
    new = unit(3, seed=1)
    index.add(["a", "b", "c"], new)
    found = index.search(new, k=2)
    assert index.ids_of(found.rows[:, 0]) == ["a", "b", "c"]
    assert index.ids_of(found.rows[:, 1]) != [None] * 3
    assert index.delete(["b"]) == 1
    assert index.ids_of(index.search(new[1:2], k=1).rows[0]) != ["b"]


def test_an_id_that_is_added_again_is_replaced(tmp_path: Path) -> None:
    index = filled(tmp_path)
    index.build(divided=True)
    index.add(["item 5"], -unit(100)[5:6])
    assert len(index) == 100
    assert index.rows(["item 5", "nothing", "item 6"]).tolist() == [100, -1, 6]
    found = index.search(-unit(100)[5:6], k=1)
    assert found.rows.tolist() == [[100]]
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)


def test_a_mask_goes_by_row_numbers_also_after_a_build(tmp_path: Path) -> None:
    index = filled(tmp_path, 300)
    index.delete(names(50))
    index.build(divided=True)
    index.add(["new"], unit(1, seed=3))
    assert (index.size, len(index)) == (301, 251)
    mask = np.zeros(index.size, bool)
    mask[index.rows(["item 60", "item 299", "new"])] = True
    mask[10] = True  # deleted: a mask does not bring it back
    found = index.search(unit(2, seed=4), k=5, among=mask)
    assert {*map(tuple, np.sort(found.rows, axis=1).tolist())} == {(-1, -1, 60, 299, 300)}
    older = index.search(unit(1, seed=4), k=5, among=mask[:300])
    assert sorted(older.rows[0].tolist()) == [-1, -1, -1, 60, 299]


def test_the_owner_of_rows_in_several_segments_counts_once(tmp_path: Path) -> None:
    index = Index(tmp_path, space="s", dim=2)
    index.add(["1", "2"], np.array([[1, 0], [0, 1]], np.float32), owners=["a", "b"])
    index.build(divided=True)
    index.add(["3", "4"], np.array([[0.8, 0.6], [0.6, 0.8]], np.float32), owners=["a", "b"])
    found = index.search(np.array([[1, 0]], np.float32), k=4)
    assert index.ids_of(found.rows[0]) == ["1", "4", None, None]
    assert index.owners_of(found.rows[0]) == ["a", "b", None, None]
    assert index.delete(["a"]) == 2
    assert index.ids() == ["2", "4"]


def test_an_empty_index_has_no_hits(tmp_path: Path) -> None:
    index = Index(tmp_path, space="s", dim=8)
    index.add([], np.empty((0, 8), np.float32))
    index.build()
    loaded = Index.load(tmp_path, space="s", dim=8)
    for empty in (index, loaded):
        assert len(empty) == 0
        assert empty.ids() == []
        assert (empty.search(unit(2), k=3).rows == -1).all()


def test_float16_halves_the_file_and_keeps_the_order(tmp_path: Path) -> None:
    sizes, tops = {}, {}
    for kind in ("float32", "float16"):
        index = Index(tmp_path / kind, space="s", dim=8, dtype=kind)
        index.add(names(2000), unit(2000))
        index.build(divided=True)
        (file,) = (tmp_path / kind).glob("segment-*/vectors.npy")
        sizes[kind] = file.stat().st_size
        loaded = Index.load(tmp_path / kind, space="s", dim=8)
        found = loaded.search(unit(20, seed=2), k=1, exact=True)
        tops[kind] = found
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.01)
    np.testing.assert_allclose(tops["float16"].scores, tops["float32"].scores, atol=1e-3)
    assert (tops["float16"].rows == tops["float32"].rows).mean() > 0.9


# ------------------------------------------------------------------------------------------------- when it is built


def test_a_build_is_due_above_a_size_and_after_many_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "APPROXIMATE_BYTES", 1000 * 8 * 4)
    monkeypatch.setattr(gallery, "SMALL", 10)
    index = filled(tmp_path, 1000)
    assert not index.due()
    index.build()
    assert Index.load(tmp_path, space="s", dim=8).divided is None  # small: joined, searched exactly
    index.add(["more"], unit(1, seed=1))
    assert index.due()
    index.build()
    assert index.divided is not None
    assert not index.due()
    index.delete(names(60))
    index.add(names(40, 2000), unit(40, seed=2))
    assert not index.due()  # 100 of 1001 changed
    index.delete(names(1, 500))
    assert index.due()
    index.build()
    assert len(index) == 980
    assert not index.due()


def test_many_segments_make_a_build_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SMALL", 0)
    monkeypatch.setattr(gallery, "SEGMENTS", 3)
    index = filled(tmp_path)
    for number in range(3):
        assert not index.due()
        index.add([f"new {number}"], unit(1, seed=number))
    assert index.due()


def test_mostly_deleted_rows_make_a_build_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SMALL", 10)
    index = filled(tmp_path)
    index.delete(names(50))
    assert not index.due()
    index.delete(names(51))
    assert index.due()


def test_changes_during_a_build_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(tmp_path, 200)
    started, go_on = threading.Event(), threading.Event()

    def held(*args: object, **options: object) -> object:
        started.set()
        assert go_on.wait(30)
        return divide(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("chiasm.retrieval.gallery.divide", held)
    build = index.build_in_background(divided=True)
    assert started.wait(30)
    assert index.build_in_background() is build
    new = unit(2, seed=5)
    index.add(["new", "item 3"], new)
    index.delete(["item 7"])
    assert index.ids_of(index.search(new[:1], k=1).rows[0]) == ["new"]  # the search answers meanwhile
    go_on.set()
    build.result(30)
    assert index.divided is not None
    for one in (index, Index.load(tmp_path, space="s", dim=8)):
        assert len(one) == 200
        assert one.ids() == [*(n for n in names(200) if n not in {"item 3", "item 7"}), "new", "item 3"]
        assert one.ids_of(one.search(new, k=1).rows[:, 0]) == ["new", "item 3"]
        assert one.ids_of(one.search(unit(200)[7:8], k=1).rows[0]) != ["item 7"]


def test_searching_while_another_thread_adds_deletes_and_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are never touched are found by every search, those that were deleted before it by none."""
    monkeypatch.setattr(gallery, "SMALL", 50)
    index = filled(tmp_path, 300)
    deleted: list[str] = []

    def change() -> None:
        for number in range(40):
            index.add(names(10, 1000 + 10 * number), unit(10, seed=number + 1))
            if number:
                gone = names(5, 1000 + 10 * (number - 1))
                index.delete(gone)
                deleted.extend(gone)
            if number % 10 == 9:
                index.build(divided=number % 20 == 9)

    pool = ThreadPoolExecutor(1)
    changes = pool.submit(change)
    vectors = unit(300)
    searched = 0
    while not changes.done() or searched < 20:
        before = frozenset(deleted)
        found = index.search(vectors[searched % 300 :][:1], k=20)
        hits = index.ids_of(found.rows[0])
        assert found.rows[0, 0] == searched % 300
        assert (found.rows >= 0).all()
        assert not before & {hit for hit in hits if hit is not None}
        searched += 1
    changes.result()
    pool.shutdown()
    assert len(index) == 300 + 400 - 39 * 5


def test_the_error_of_a_build_is_that_of_its_future(tmp_path: Path) -> None:
    index = filled(tmp_path)
    with pytest.raises(ValueError, match="recall is a share above 0 up to 1; got 2"):
        index.build_in_background(divided=True, recall=2).result(30)
    with pytest.raises(ValueError, match="recall is a share"):
        index.build(divided=True, recall=2)
    assert index.ids_of(index.search(unit(100)[:1], k=1).rows[0]) == ["item 0"]
    index.build(divided=True)  # and another one may be started


# ------------------------------------------------------------------------------------------------- on disk


def test_nothing_is_written_before_it_is_saved(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    index = filled(folder)
    assert not folder.exists()
    index.save()
    index.delete(["item 0"])
    assert len(Index.load(folder, space="s", dim=8)) == 100
    index.save()
    assert len(Index.load(folder, space="s", dim=8)) == 99


def test_saving_writes_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "SMALL", 0)
    index = filled(tmp_path)
    index.save()
    (first,) = tmp_path.glob("segment-*")
    index.add(["new"], unit(1, seed=1))
    index.save()
    assert first in tmp_path.glob("segment-*")
    assert len([*tmp_path.glob("segment-*")]) == 2
    index.build()
    assert len([*tmp_path.glob("segment-*")]) == 1  # and what it replaces is gone
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".segment", ".index"))]


def test_a_reader_keeps_what_it_opened(tmp_path: Path) -> None:
    filled(tmp_path).save()
    reader = Index.load(tmp_path, space="s", dim=8)
    writer = Index.load(tmp_path, space="s", dim=8)
    writer.delete(names(99))
    writer.build()
    assert reader.search(unit(100)[3:4], k=1).rows.tolist() == [[3]]


@pytest.mark.parametrize("point", ["write", "rename", "header"])
def test_a_build_that_is_cut_off_leaves_the_old_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    filled(tmp_path).save()
    index = Index.load(tmp_path, space="s", dim=8)
    index.add(["new"], unit(1, seed=1))

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if point == "write":
            patch.setattr(np.lib.format, "write_array_header_2_0", cut)
        elif point == "rename":
            patch.setattr(Path, "rename", cut)
        else:
            patch.setattr(gallery, "_replace_text", cut)
        with pytest.raises(KeyboardInterrupt):
            index.build(divided=True)
    left = Index.load(tmp_path, space="s", dim=8)
    assert left.ids() == names(100)
    assert left.divided is None
    left.build(divided=True)  # what was left behind does not get in the way
    assert len(Index.load(tmp_path, space="s", dim=8)) == 100


def test_what_killed_runs_left_is_removed_after_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(tmp_path)
    for name in ("segment-old", ".segment-cut"):
        (tmp_path / name).mkdir()
    (tmp_path / "deleted-old.npy").write_bytes(b"")
    index.save()
    assert (tmp_path / "segment-old").exists()  # another process may be writing it
    monkeypatch.setattr(gallery, "ABANDONED", -1.0)
    index.save()
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"index.json", ".lock", "segment"}
    assert len(Index.load(tmp_path, space="s", dim=8)) == 100


def test_of_two_that_save_the_second_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).save()
    first, second = (Index.load(tmp_path, space="s", dim=8) for _ in range(2))
    first.delete(["item 0"])
    first.save()
    second.delete(["item 1"])
    with pytest.raises(CollectionError, match=r"was changed by another process\. Load it again, and repeat the change"):
        second.save()
    with pytest.raises(CollectionError, match="was changed by another process"):
        second.build(divided=True)
    assert second.divided is None
    assert "item 1" in Index.load(tmp_path, space="s", dim=8).ids()


def test_an_index_of_another_space_or_width_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).save()
    text = r"holds vectors of the space s \(8 dimensions\); asked is {}\. Vectors of different encoders are never mixed"
    with pytest.raises(CollectionError, match=text.format(r"other \(8\)")):
        Index.load(tmp_path, space="other", dim=8)
    with pytest.raises(CollectionError, match=text.format(r"s \(9\)")):
        Index.load(tmp_path, space="s", dim=9)


def damage(folder: Path, how: str) -> None:
    header = folder / "index.json"
    (segment,) = folder.glob("segment-*")
    if how == "cut header":
        header.write_text(header.read_text()[:-20])
    elif how == "list header":
        header.write_text("[]")
    elif how == "changed header":
        header.write_text(header.read_text().replace('"probes": ', '"probes": 1'))
    elif how == "no segment":
        shutil.rmtree(segment)
    elif how == "cut vectors":
        content = (segment / "vectors.npy").read_bytes()
        (segment / "vectors.npy").write_bytes(content[:-100])
    elif how == "empty rows":
        (segment / "rows.npy").write_bytes(b"")
    elif how == "fewer rows":
        np.save(segment / "owner_keys.npy", np.zeros(3, np.int64))
    elif how == "rows out of range":
        np.save(segment / "rows.npy", np.arange(100) + 1)
    elif how == "other dtype":
        np.save(segment / "vectors.npy", np.load(segment / "vectors.npy").astype(np.float64))
    else:
        np.save(segment / "starts.npy", np.load(segment / "starts.npy")[::-1])


@pytest.mark.parametrize(
    "how",
    [
        *("cut header", "list header", "changed header", "no segment", "cut vectors", "empty rows", "fewer rows"),
        *("rows out of range", "other dtype", "lists"),
    ],
)
def test_a_damaged_index_says_what_to_do(tmp_path: Path, how: str) -> None:
    filled(tmp_path).build(divided=True)
    damage(tmp_path, how)
    with pytest.raises(CollectionError, match=r"is damaged \(.*\)\. Delete the folder: .* is built anew from them"):
        Index.load(tmp_path, space="s", dim=8)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    filled(tmp_path).save()
    header = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**header, "format_version": 9}))
    with pytest.raises(CollectionError, match="is chiasm-index version 9; this chiasm reads chiasm-index version 1"):
        Index.load(tmp_path, space="s", dim=8)


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match=r"holds no index\. Make one with Index"):
        Index.load(tmp_path, space="s", dim=8)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    index = filled(tmp_path / "file")
    for write in (index.save, index.build):
        with pytest.raises(CollectionError, match=r"cannot be written: .* free space or fix the permissions"):
            write()
    assert len(index) == 100


@pytest.mark.parametrize(
    ("ids", "vectors", "owners", "text"),
    [
        (["a"], unit(2), None, "2 vectors need as many ids and owners; got 1"),
        (["a", "b"], unit(2), ["x"], "2 vectors need as many ids and owners; got 2 and 1"),
        (["a"], unit(1, 4), None, "the index holds vectors of 8 dimensions; got 4"),
        (["a", "a"], unit(2), None, "an id is given twice"),
        (["a", ""], unit(2), None, "an id or an owner is empty"),
        (["a"], np.full((1, 8), np.nan, np.float32), None, "vectors have numbers that are not finite"),
    ],
)
def test_what_cannot_be_added(
    tmp_path: Path, ids: list[str], vectors: Matrix, owners: list[str] | None, text: str
) -> None:
    index = Index(tmp_path, space="s", dim=8)
    with pytest.raises(ValueError, match=re.escape(text)):
        index.add(ids, vectors, owners=owners)
    assert len(index) == 0


def test_what_cannot_be_searched(tmp_path: Path) -> None:
    index = filled(tmp_path)
    with pytest.raises(ValueError, match="k must be at least 1; got 0"):
        index.search(unit(1), k=0)
    with pytest.raises(ValueError, match="queries have 4 dimensions and the gallery 8"):
        index.search(unit(1, 4), k=1)
    with pytest.raises(ValueError, match="the mask has 101 rows and the index 100"):
        index.search(unit(1), k=1, among=np.ones(101, bool))
