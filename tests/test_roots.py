"""Which files a server gives away: those in folders that somebody named, and no table, link, request or header adds one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import lance
import pytest
from fake_encoder import FakeEncoder
from fake_searcher import png
from test_serving import refused
from test_serving_run import ask, plan, table

import chiasm
from chiasm import encoders
from chiasm.cli import results
from chiasm.errors import ChiasmError, CollectionError
from chiasm.files import digest_file
from chiasm.serving.building import Plan
from chiasm.store.collection import Collection


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, **_: Any) -> list[FakeEncoder]:
        return [FakeEncoder(("image", "text"), version="2" if name == "other" else "1")]

    monkeypatch.setattr(encoders, "resolve", resolve)


def write(path: Path, content: str = "a red kite") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def listed(path: Path, *files: Path | str) -> Path:
    """A table of text files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": Path(one).stem, "text": str(one)}) + "\n" for one in files))
    return path


def roots(collection: Path) -> list[Path]:
    return list(Collection.open(collection).roots)


def get(made: Plan, item: str, modality: str = "text") -> httpx.Response:
    """Ask a server for a file."""
    answers: list[httpx.Response] = []

    async def work(client: httpx.AsyncClient) -> None:
        answers.append(await client.get(f"/v1/items/{item}/files/{modality}/0"))

    ask(made, work)
    return answers[0]


def narrowed(collection: Path, *folders: Path) -> Plan:
    """As `serve --root FOLDER`."""
    made = plan(collection)
    return replace(made, settings=replace(made.settings, roots=folders))


# ------------------------------------------------------------------------------------------------------ what is recorded


def test_add_records_folders_and_those_of_tables_and_files(tmp_path: Path) -> None:
    made, media = tmp_path / "c", tmp_path / "media"
    write(media / "sub/own.txt")
    chiasm.add([media / "sub"], to=made)
    assert roots(made) == [media / "sub"]
    chiasm.add([listed(tmp_path / "lists/a.jsonl", "own words"), write(tmp_path / "one/x.txt", "one")], to=made)
    assert roots(made) == [tmp_path / "lists", media / "sub", tmp_path / "one"]
    chiasm.add([media], to=made)
    assert roots(made) == [tmp_path / "lists", media, tmp_path / "one"], "the wider one is enough"
    chiasm.add([media / "sub"], to=made)
    assert roots(made) == [tmp_path / "lists", media, tmp_path / "one"]
    assert list(chiasm.status(made).roots) == list(map(str, roots(made)))
    assert get(plan(made), "own").status_code == 404, "it has moved into the wider folder"
    assert get(plan(made), "sub%2Fown").text == "a red kite"


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    write(tmp_path / "disk/a.txt")
    write(tmp_path / "media/b.txt", "b")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "media/more").symlink_to(tmp_path / "disk")
    chiasm.add([tmp_path / "link"], to=tmp_path / "c")
    assert roots(tmp_path / "c") == [tmp_path / "disk"]
    assert get(plan(tmp_path / "c"), "a").text == "a red kite"
    report = chiasm.add([tmp_path / "media"], to=tmp_path / "d")
    assert report.outside == (str(tmp_path / "disk"),)
    assert get(plan(tmp_path / "d"), "b").text == "b"
    refused(get(plan(tmp_path / "d"), "more%2Fa"), 404, "outside of the folders")
    assert get(narrowed(tmp_path / "d", tmp_path / "disk"), "more%2Fa").text == "a red kite"
    refused(get(narrowed(tmp_path / "d", tmp_path / "disk"), "b"), 404, "outside of the folders")


def test_a_table_does_not_open_folders_that_nobody_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near, far = write(tmp_path / "lists/near.txt", "near"), write(tmp_path / "private/far.txt", "far")
    linked = tmp_path / "lists/linked.txt"
    linked.symlink_to(write(tmp_path / "private/deep/linked.txt", "linked"))
    lists = listed(tmp_path / "lists/all.jsonl", "near.txt", far, "../private/../private/far2.txt", "linked.txt")
    write(tmp_path / "private/far2.txt", "far, too")
    report = chiasm.add([lists], to=tmp_path / "c")
    assert (report.counts, roots(tmp_path / "c")) == ({"ok": 4}, [near.parent])
    assert report.outside == (str(far.parent), str(far.parent / "deep"))
    results.print_add_report(report, tmp_path / "c")
    assert "--root" in capsys.readouterr().out
    made = plan(tmp_path / "c")
    assert get(made, "near").text == "near"
    for item in ("far", "far2", "linked"):
        refused(get(made, item), 404, "outside of the folders")
        assert get(narrowed(tmp_path / "c", tmp_path), item).status_code == 200
    assert chiasm.add([far.parent], to=tmp_path / "c").outside == (), "naming it opens it"
    assert get(made, "far").text == "far"


def test_the_root_of_the_disk_is_never_recorded_and_counts_for_nothing(tmp_path: Path) -> None:
    write(tmp_path / "media/a.txt")
    chiasm.add([tmp_path / "media"], to=tmp_path / "c")
    Collection.open(tmp_path / "c").record_roots(["/"])
    assert roots(tmp_path / "c") == [tmp_path / "media"]
    for crafted in ("/", "//", "/.", "/tmp/.."):
        header(tmp_path / "c", roots=[crafted])
        refused(get(plan(tmp_path / "c"), "a"), 404, "outside of the folders")
    assert get(narrowed(tmp_path / "c", Path("/")), "a").text == "a red kite", "but who runs the server may say so"


@pytest.mark.parametrize("crafted", [["relative"], [1], 3, None])
def test_roots_that_are_none_are_damage(tmp_path: Path, crafted: Any) -> None:
    Collection.create(tmp_path / "c", encoder="fake")
    header(tmp_path / "c", roots=crafted)
    with pytest.raises(CollectionError, match="damaged"):
        Collection.open(tmp_path / "c")


# ----------------------------------------------------------------------------------------------------- and what becomes of it


def test_prune_forgets_folders_without_files(tmp_path: Path) -> None:
    for name in ("old", "kept"):
        write(tmp_path / name / f"{name}.txt", name)
    chiasm.add([tmp_path / "old", tmp_path / "kept"], to=tmp_path / "c")
    (tmp_path / "old").rename(tmp_path / "new")
    report = chiasm.add([tmp_path / "new"], to=tmp_path / "c")
    assert (report.moved, roots(tmp_path / "c")) == (1, [tmp_path / name for name in ("kept", "new", "old")])
    chiasm.add([tmp_path / "new"], to=tmp_path / "c", prune=True)
    assert roots(tmp_path / "c") == [tmp_path / "kept", tmp_path / "new"]
    assert [get(plan(tmp_path / "c"), name).text for name in ("old", "kept")] == ["old", "kept"]


def test_another_encoder_keeps_them(tmp_path: Path) -> None:
    write(tmp_path / "media/a.txt")
    chiasm.add([tmp_path / "media"], to=tmp_path / "c")
    chiasm.reembed(tmp_path / "c", encoder="other")
    assert roots(tmp_path / "c") == [tmp_path / "media"]
    assert get(plan(tmp_path / "c"), "a").text == "a red kite"


def test_a_collection_that_is_moved_gives_the_same_files_away(tmp_path: Path) -> None:
    write(tmp_path / "media/a.txt")
    chiasm.add([tmp_path / "media"], to=tmp_path / "c")
    (tmp_path / "c").rename(tmp_path / "d")
    assert get(plan(tmp_path / "d"), "a").text == "a red kite"
    (tmp_path / "media").rename(tmp_path / "pictures")
    refused(get(plan(tmp_path / "d"), "a"), 404, "no longer what was added")
    chiasm.add([tmp_path / "pictures"], to=tmp_path / "d", prune=True)
    assert (get(plan(tmp_path / "d"), "a").text, roots(tmp_path / "d")) == ("a red kite", [tmp_path / "pictures"])


def test_what_a_server_was_sent_is_given_away_and_opens_nothing(tmp_path: Path) -> None:
    chiasm.add([table(tmp_path / "media", range(30))], to=tmp_path / "c")
    chiasm.fit(tmp_path / "c", label="colour", out=tmp_path / "model", alike=2.0)
    sent: list[str] = []

    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/items", files={"file": png((9, 9, 9))}, data={"label": "red"})
        sent.append(answer.json()["id"])
        assert (await client.get(f"/v1/items/{sent[0]}/files/image/0")).content == png((9, 9, 9))

    ask(replace(plan(tmp_path / "c"), model=tmp_path / "model"), work)
    assert roots(tmp_path / "c") == [tmp_path / "media"]
    assert get(narrowed(tmp_path / "c", tmp_path / "model"), sent[0], "image").status_code == 200, (
        "whatever --root says"
    )
    (tmp_path / "c").rename(tmp_path / "d")
    assert get(plan(tmp_path / "d"), sent[0], "image").content == png((9, 9, 9)), "they move with the collection"


# ------------------------------------------------------------------------------------------------------------- crafted


def header(collection: Path, **values: Any) -> None:
    """Write something else into the header of a collection."""
    path = collection / "chiasm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_crafted_collection_with_crafted_roots(tmp_path: Path) -> None:
    write(tmp_path / "media/own.txt")
    secret = write(tmp_path / "private/secret.txt", "the passphrase is xyzzy")
    chiasm.add([tmp_path / "media"], to=tmp_path / "c")
    crafted = lance.dataset(str(tmp_path / "c/files.lance"))
    crafted.update({"path": repr(str(secret))})
    refused(get(plan(tmp_path / "c"), "own"), 404, "outside of the folders")
    header(tmp_path / "c", roots=[str(tmp_path)])
    refused(get(plan(tmp_path / "c"), "own"), 404, "no longer what was added")
    crafted = lance.dataset(str(tmp_path / "c/files.lance"))
    crafted.update({"hash": repr(digest_file(secret))})
    assert get(plan(tmp_path / "c"), "own").status_code == 200, "who knows the content knows that it is there"
    refused(get(narrowed(tmp_path / "c", tmp_path / "media"), "own"), 404, "outside of the folders")


def test_a_crafted_folder_of_uploads_leads_nowhere(tmp_path: Path) -> None:
    secret = write(tmp_path / "private/secret.txt")
    chiasm.add([listed(tmp_path / "lists/a.jsonl", secret)], to=tmp_path / "c")
    (tmp_path / "c/dropped").symlink_to(secret.parent)
    lance.dataset(str(tmp_path / "c/files.lance")).update({"path": repr(str(tmp_path / "c/dropped/secret.txt"))})
    refused(get(plan(tmp_path / "c"), "secret"), 404, "outside of the folders")


def test_a_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    chiasm.add([write(tmp_path / "media/a.txt")], to=tmp_path / "c")
    with pytest.raises(ChiasmError, match="is no folder"):
        chiasm.serve(tmp_path / "c", roots=[tmp_path / "nowhere"])
