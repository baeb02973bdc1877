"""Items in a collection: what moved follows its files, what is gone is named, and a file is one item."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

import lance
import pytest
from fake_encoder import FakeEncoder, check

from chiasm.store.add import AddReport, add_manifests
from chiasm.store.collection import Collection
from chiasm.store.feedback import FeedbackTable, Label
from chiasm.store.manifest import read_manifest, read_manifests
from chiasm.verbs.query import Query


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def made(tmp_path: Path) -> Collection:
    return Collection.create(tmp_path / "made", encoder="fake")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three items in two folders."""
    write(tmp_path / "media" / "cats" / "tom.txt", "a cat")
    write(tmp_path / "media" / "cats" / "kit.txt", "a small cat")
    write(tmp_path / "media" / "dogs" / "rex.txt", "a dog")
    return tmp_path / "media"


def add(collection: Collection, *paths: Path, prune: bool = False) -> AddReport:
    report = add_manifests(collection, [read_manifest(path) for path in paths], [FakeEncoder()], prune=prune)
    if all(row["path"] is None or Path(row["path"]).exists() for row in collection.files()):
        check(collection, FakeEncoder())
    return report


def ids(collection: Collection) -> list[str]:
    return sorted(row["id"] for row in collection.items())


def say(collection: Collection, item: str, label: str) -> None:
    FeedbackTable(collection).add([Label(item, "label", label)], who="ann")


# ------------------------------------------------------------------------------------------------------ moved and gone


def test_a_file_that_is_deleted_is_named_and_removed_on_request(made: Collection, root: Path) -> None:
    add(made, root)
    (root / "cats" / "tom.txt").unlink()
    report = add(made, root)
    assert (report.gone, report.pruned, report.items) == (("cats/tom",), 0, 3)
    report = add(made, root, prune=True)
    assert (report.gone, report.pruned, report.items) == (("cats/tom",), 1, 2)
    assert ids(made) == ["cats/kit", "dogs/rex"]
    assert add(made, root).gone == ()


def test_a_folder_inside_of_the_one_that_was_added_names_what_is_gone_in_it(made: Collection, root: Path) -> None:
    add(made, root)
    (root / "cats" / "tom.txt").unlink()
    (root / "dogs" / "rex.txt").unlink()
    assert add(made, root / "cats").gone == ("cats/tom",)


def test_a_row_that_is_deleted(made: Collection, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "text\none\ntwo\nthree\n")
    add(made, table)
    write(table, "text\none\nthree\n")
    assert len(add(made, table).gone) == 1
    write(table, "text,x\none\nthree,1\n")
    assert add(made, table, prune=True).gone == (), "a row that cannot be read may be one that is missing"
    write(table, "text\none\nthree\n")
    assert add(made, table, prune=True).pruned == 1


def test_a_folder_that_is_renamed_keeps_what_was_said(made: Collection, root: Path) -> None:
    add(made, root)
    say(made, "cats/tom", "tomcat")
    (root / "cats").rename(root / "felines")
    report = add(made, root)
    assert (report.moved, report.gone, report.encoded) == (2, (), 0)
    assert ids(made) == ["dogs/rex", "felines/kit", "felines/tom"]
    assert FeedbackTable(made).labels("label") == {"felines/tom": "tomcat"}
    assert {row["id"]: row["label"] for row in made.items()}["felines/tom"] == "felines"
    assert add(made, root).unchanged == 3


def test_the_folder_that_was_added_is_renamed(made: Collection, root: Path) -> None:
    add(made, root)
    say(made, "cats/tom", "tomcat")
    (root / "dogs" / "rex.txt").unlink()
    root = root.rename(root.with_name("pictures"))
    report = add(made, root)
    assert (report.moved, report.encoded) == (2, 0)
    assert ids(made) == ["cats/kit", "cats/tom", "dogs/rex"]
    assert FeedbackTable(made).labels("label") == {"cats/tom": "tomcat"}
    assert [row["path"] for row in made.files() if row["item"] == "cats/tom"] == [f"{root}/cats/tom.txt"]


def test_copies_move_each_to_its_own_name(made: Collection, root: Path) -> None:
    write(root / "cats" / "tam.txt", "a cat")
    add(made, root)
    say(made, "cats/tam", "second")
    (root / "cats").rename(root / "zoo")
    assert add(made, root).moved == 3
    assert FeedbackTable(made).labels("label") == {"zoo/tam": "second"}


def test_what_is_copied_or_changed_has_not_moved(made: Collection, root: Path) -> None:
    add(made, root)
    write(root / "copy.txt", "a cat")
    (root / "dogs" / "rex.txt").unlink()
    write(root / "dogs" / "max.txt", "a god")  # as long, and another content
    report = add(made, root)
    assert (report.moved, report.gone) == (0, ("dogs/rex",))
    assert ids(made) == ["cats/kit", "cats/tom", "copy", "dogs/max", "dogs/rex"]


def test_files_of_a_disk_that_is_away_have_not_moved(made: Collection, root: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "media").mkdir(parents=True)
    write(disk / "media" / "a.txt", "a cat")
    add(made, disk / "media")
    disk.rename(tmp_path / "away")
    report = add(made, root, prune=True)
    assert (report.moved, report.gone) == (0, ())
    assert "a" in ids(made)


def test_a_move_that_is_cut_off_goes_on(made: Collection, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After every write: what was said follows, and the collection ends as after one run."""
    steps = 0
    while True:
        collection = Collection.create(made.path.with_name(f"made-{steps}"), encoder="fake")
        folder = root.with_name(f"media-{steps}")
        write(folder / "cats" / "tom.txt", "a cat")
        write(folder / "dogs" / "rex.txt", "a dog")
        add(collection, folder)
        say(collection, "cats/tom", "tomcat")
        (folder / "cats").rename(folder / "felines")
        left = steps

        def cut(table: Any, *arguments: Any, write: Any) -> Any:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return write(table, *arguments)

        with monkeypatch.context() as patch:
            for name in ("append", "merge", "delete"):
                before = getattr(type(collection.tables), name)
                patch.setattr(type(collection.tables), name, lambda *a, before=before: cut(*a, write=before))
            try:
                add(collection, folder)
                done = True
            except KeyboardInterrupt:
                done = False
        add(collection, folder, prune=True)
        assert ids(collection) == ["dogs/rex", "felines/tom"]
        assert FeedbackTable(collection).labels("label") == {"felines/tom": "tomcat"}
        if done:
            break
        steps += 1
    assert steps > 3


def test_a_name_may_be_asked_for_in_another_form(made: Collection, tmp_path: Path) -> None:
    apart, composed = "cafe\u0301", "caf\u00e9"
    write(tmp_path / "media" / apart / f"{apart}.txt", "coffee")
    write(tmp_path / "media" / composed / "tea.txt", "tea")
    add(made, tmp_path / "media")
    name = f"{composed}/{composed}"
    assert [row["id"] for row in made.items(ids=[f"{apart}/{apart}"])] == [name]
    assert made.ids(where=f"label = '{apart}'") == [name, f"{composed}/tea"]
    FeedbackTable(made).add([Label(f"{apart}/{apart}", "label", apart)], who="ann")
    FeedbackTable(made).add([Label(f"{composed}/tea", "label", composed)], who="ann")
    assert FeedbackTable(made).labels("label") == {name: composed, f"{composed}/tea": composed}
    assert Query(liked=(f"{apart}/{apart}",)).liked == (name,)


# ---------------------------------------------------------------------------------------------------- a file, one item


@pytest.mark.parametrize("order", ["together", "wide first", "narrow first"])
def test_a_folder_and_one_inside_of_it(order: str, made: Collection, root: Path) -> None:
    runs: dict[str, list[tuple[Path, ...]]] = {
        "together": [(root / "cats", root)],
        "wide first": [(root,), (root / "cats",)],
        "narrow first": [(root / "cats",), (root,), (root / "cats",)],
    }
    for number, paths in enumerate(runs[order]):
        report = add(made, *paths)
        if order == "narrow first" and number == 0:
            say(made, "tom", "tomcat")
    assert report.gone == ()
    assert {row["id"]: (row["folder"], row["label"]) for row in made.items()} == {
        "cats/kit": ("cats", "cats"),
        "cats/tom": ("cats", "cats"),
        "dogs/rex": ("dogs", "dogs"),
    }
    said = {"cats/tom": "tomcat"} if order == "narrow first" else {}
    assert FeedbackTable(made).labels("label") == said
    assert len(made.files()) == 3


def test_a_file_and_its_folder(made: Collection, root: Path) -> None:
    write(root / "cats" / "tom.md", "more of it")
    tom = root / "cats" / "tom.txt"
    add(made, tom)
    add(made, root)
    assert ids(made) == ["cats/kit", "cats/tom", "dogs/rex"]
    write(tom, "a changed cat")
    report = add(made, tom)
    assert (report.encoded, report.items) == (1, 3)
    assert len({row["id"]: row["text"] for row in made.items()}["cats/tom"]) == 2


def test_a_file_that_is_named_alone_leaves_the_others_of_its_item(made: Collection, root: Path) -> None:
    write(root / "cats" / "tom.md", "more of it")
    names = [root / "cats" / name for name in ("tom.txt", "tom.md", "kit.txt")]
    for paths in (names, names[1:2], names[:1]):
        add_manifests(made, read_manifests(paths), [FakeEncoder()])
        assert {row["id"]: len(row["text"]) for row in made.items()} == {"kit": 1, "tom": 2}
    names[1].unlink()
    add(made, names[0])
    assert [row["outcome"] for row in made.files() if row["path"] == str(names[1])] == ["broken"]
    add(made, root)
    assert {row["id"]: len(row["text"]) for row in made.items()} == {"cats/kit": 1, "cats/tom": 1, "dogs/rex": 1}


def test_a_new_file_in_a_narrower_folder_joins_the_wider_one_later(made: Collection, root: Path) -> None:
    add(made, root)
    write(root / "cats" / "new.txt", "a new cat")
    add(made, root / "cats")
    add(made, root)
    assert ids(made) == ["cats/kit", "cats/new", "cats/tom", "dogs/rex"]


# ------------------------------------------------------------------------------------------------------ types of columns


def columns(collection: Collection, name: str = "x") -> dict[str, Any]:
    return {row["id"]: row[name] for row in collection.items()}


@pytest.mark.parametrize(
    ("first", "second", "values"),
    [
        ("3", "3.50", {"a": 3.0, "b": 3.5}),
        ("3.50", "4", {"a": 3.5, "b": 4.0}),
        ("3", "about 3", {"a": "3", "b": "about 3"}),
        ("2.5", "true", {"a": "2.5", "b": "true"}),
        ("true", "no", {"a": "true", "b": "no"}),
        ("2024-05-31", "2024-05-31T10:00", {"a": datetime(2024, 5, 31), "b": datetime(2024, 5, 31, 10)}),
        ("2024-05-31", "soon", {"a": "2024-05-31", "b": "soon"}),
        ("soon", "2024-05-31", {"a": "soon", "b": "2024-05-31"}),
        ("9007199254740993", "0.5", {"a": "9007199254740993", "b": "0.5"}),
        ("", "2024-05-31", {"a": None, "b": date(2024, 5, 31)}),
        ("3", "", {"a": 3, "b": None}),
    ],
)
def test_columns_become_wider(
    first: str, second: str, values: Mapping[str, Any], made: Collection, tmp_path: Path
) -> None:
    add(made, write(tmp_path / "1.csv", f"id,text,x\na,one,{first}\n"))
    add(made, write(tmp_path / "2.csv", f"id,text,x\nb,two,{second}\n"))
    assert repr(columns(made)) == repr(values)
    together = Collection.create(tmp_path / "together", encoder="fake")
    add(together, tmp_path / "1.csv", tmp_path / "2.csv")
    assert repr(columns(together)) == repr(values)
    version = lance.dataset(str(made.path / "items.lance")).version
    add(made, tmp_path / "1.csv", tmp_path / "2.csv")
    assert lance.dataset(str(made.path / "items.lance")).version == version, "an equal item is not written again"


def test_a_column_whose_values_all_went_takes_any_type(made: Collection, tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "id,text,x\na,one,3\nb,two,n. a.\n")
    add(made, table)
    write(table, "id,text,x\na,one,3\nb,two,4\n")
    add(made, table)
    assert columns(made) == {"a": 3, "b": 4}, "the mistake is mended, and so is the type"
    made.remove(["a", "b"])
    add(made, write(table, "id,text,x\na,one,true\n"))
    assert columns(made) == {"a": True}


def test_times_that_have_no_utc(made: Collection, tmp_path: Path) -> None:
    add(made, write(tmp_path / "t.csv", "id,text,x\na,one,0001-01-01T00:00+14:00\nb,two,2024-05-31T10:00+02:00\n"))
    assert columns(made) == {"a": None, "b": datetime(2024, 5, 31, 8)}
