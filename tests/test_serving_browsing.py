"""What the page needs of the API: previews, counts, orders, lists, exports, removal, files of queries; and what it refuses."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet
import pytest
from fake_searcher import FakeSearcher, item_row, png
from media_files import image_bytes
from PIL import Image as PillowImage
from test_serving import refused, served, settings

from chiasm.media import Limits
from chiasm.serving.teaching import Teaching
from chiasm.verbs.remove import RemoveReport

pytestmark = pytest.mark.anyio
EVIL = "../../etc/passwd\n\"'<b>é"
PREVIEW = {"size": "160"}


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    """A large photo with a text file beside it, a small picture, and one outside of what may be given away."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (inside / "lake.jpg").write_bytes(image_bytes(PillowImage.radial_gradient("L").resize((1200, 800)), "JPEG"))
    (inside / "lake.txt").write_text("A quiet lake\nin the morning " + "and on " * 100)
    (inside / "dot.png").write_bytes(png((20, 20, 230)))
    (outside / "key.png").write_bytes(png((1, 2, 3)))
    (outside / "key.txt").write_text("the secret of the house")
    return [
        item_row("lake", image=[str(inside / "lake.jpg")], text=[str(inside / "lake.txt")], year=1990, kind="water"),
        item_row(EVIL, image=[str(inside / "dot.png")], text=["=a blue dot"], year=2001, kind="dot"),
        item_row("key", image=[str(outside / "key.png")], text=[str(outside / "key.txt")], year=None, kind="dot"),
    ]


@pytest.fixture
def searcher(rows: list[dict[str, Any]], tmp_path: Path) -> FakeSearcher:
    made = FakeSearcher(rows)
    made.collection.path = tmp_path / "collection"
    made.collection.path.mkdir()
    made.collection.roots = ((tmp_path / "inside").resolve(),)
    return made


@pytest.fixture
async def client(searcher: FakeSearcher) -> AsyncIterator[httpx.AsyncClient]:
    async with served(searcher) as one:
        yield one


async def listed(client: httpx.AsyncClient, **asked: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await client.get("/v1/items", params=asked)).json()["items"]
    return items


# ------------------------------------------------------------------------------------------------- captions, previews


async def test_an_item_stands_by_its_words_and_a_small_picture_that_may_be_kept(client: httpx.AsyncClient) -> None:
    by_id = {item["id"]: item for item in await listed(client)}
    lake = by_id["lake"]
    assert lake["caption"].startswith("A quiet lake in the morning and on")
    assert len(lake["caption"]) <= 202 and lake["caption"].endswith("…")
    assert by_id[EVIL]["caption"] == "=a blue dot"
    assert by_id["key"]["caption"] == "key", "words of a file that is not given away are not, either"
    answer = await client.get(lake["preview"] + "&size=160")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
    assert PillowImage.open(io.BytesIO(answer.content)).size == (160, 107)
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    again = await client.get(lake["preview"] + "&size=160", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    unnamed = await client.get("/v1/items/lake/files/image/0", params=PREVIEW)
    assert unnamed.headers["cache-control"] == "private, no-cache", "the file of this address may change"
    assert (await client.get("/v1/items/lake/files/image/0")).headers["content-type"] == "image/jpeg"
    (hit, *_) = (await client.get("/v1/search", params={"text": "x", "cards": True})).json()["results"][0]["hits"]
    assert hit["caption"] and hit["preview"]


async def test_a_preview_is_made_once(client: httpx.AsyncClient, searcher: FakeSearcher, cache: Path) -> None:
    (lake,) = await listed(client, ids="lake")
    first = await client.get(lake["preview"] + "&size=160")
    (kept,) = (cache / "previews").rglob(f"{searcher.digests[searcher.rows['lake']['image'][0]]}-160.webp")
    assert kept.read_bytes() == first.content
    kept.write_bytes(b"made before")
    assert (await client.get(lake["preview"] + "&size=160")).content == b"made before"
    kept.unlink()


async def test_only_files_that_may_be_given_away_have_previews(client: httpx.AsyncClient) -> None:
    refused(await client.get("/v1/items/key/files/image/0", params=PREVIEW), 404, "outside of the folders")
    refused(await client.get("/v1/items/lake/files/text/0", params=PREVIEW), 404, "only images and videos")
    for size in ("0", "161", "99999", "-160", "x", ""):
        refused(await client.get("/v1/items/lake/files/image/0", params={"size": size}), 422, "size")


async def test_a_picture_that_is_too_large_to_decode_has_no_preview(searcher: FakeSearcher, cache: Path) -> None:
    name = f"{searcher.digests[searcher.rows['lake']['image'][0]]}-640.webp"
    for kept in (cache / "previews").rglob(name):  # of another test
        kept.unlink()
    async with served(searcher, settings(previews=Limits(max_pixels=1000))) as client:
        refused(await client.get("/v1/items/lake/files/image/0", params={"size": "640"}), 404, "the limit is 1,000")
    async with served(searcher, settings(max_pixels=1000)) as client:
        refused(await client.get("/v1/items/lake/files/image/0", params={"size": "640"}), 404, "too many to decode")
    assert not [*(cache / "previews").rglob(name)]


# --------------------------------------------------------------------------------------------------- orders and counts


async def test_items_come_in_the_order_of_a_column(client: httpx.AsyncClient) -> None:
    assert [item["id"] for item in await listed(client, sort="year")] == ["lake", EVIL, "key"]
    assert [item["id"] for item in await listed(client, sort="-year")] == [EVIL, "lake", "key"], "none come last"
    seen, after = [], None
    for _ in range(3):
        page = (
            await client.get("/v1/items", params={"sort": "-year", "limit": 1, **({"after": after} if after else {})})
        ).json()
        seen += [item["id"] for item in page["items"]]
        assert page["total"] == 3
        after = page["next"]
    assert (seen, after) == ([EVIL, "lake", "key"], None)
    refused(await client.get("/v1/items", params={"sort": "x"}), 422, "no column 'x'")
    refused(await client.get("/v1/items", params={"sort": "year", "after": "Z29uZQ"}), 422, "Begin with the first page")
    assert [item["id"] for item in await listed(client, ids=["key", "none", "lake"])] == ["key", "lake"]
    refused(await client.get("/v1/items", params={"ids": "key", "sort": "year"}), 422, "stand alone")
    assert (await client.get("/v1/ids", params={"sort": "-year"})).json() == {"ids": [EVIL, "lake", "key"], "total": 3}


async def test_columns_are_counted(client: httpx.AsyncClient) -> None:
    answer = (await client.get("/v1/facets")).json()
    assert (answer["total"], answer["modalities"]) == (3, {"image": 3, "text": 3})
    kind, year = answer["columns"]
    assert kind["values"] == [{"value": "dot", "count": 2}, {"value": "water", "count": 1}]
    assert (year["values"][0]["count"], year["missing"]) == (1, 1)
    only = (await client.get("/v1/facets", params={"where": "id = 'lake'", "column": "kind"})).json()
    assert [(one["name"], one["values"]) for one in only["columns"]] == [("kind", [{"value": "water", "count": 1}])]
    refused(await client.get("/v1/facets", params={"column": "id; DROP"}), 422, "no column")
    refused(await client.get("/v1/facets", params={"where": "x"}), 422, "malformed")


async def test_many_numbers_are_a_range_and_texts_that_hardly_repeat_are_left_out() -> None:
    rows = [item_row(f"{n:03}", text=["x"], size=float(n), title=f"title {n}") for n in range(100)]
    async with served(FakeSearcher(rows)) as client:
        (size,) = (await client.get("/v1/facets")).json()["columns"]
    assert (size["kind"], size["low"], size["high"], size["bins"]) == ("range", 0, 99, [5] * 20)


async def test_the_moments_of_an_item_are_named(client: httpx.AsyncClient) -> None:
    moments = (await client.get("/v1/items/lake/moments")).json()["moments"]
    assert moments == [{"modality": "image", "number": 0, "start": 0.0, "end": 1.5, "text": "said"}]
    refused(await client.get("/v1/items/none/moments"), 404, "no item of this id")


# --------------------------------------------------------------------------------------------------------------- lists


async def test_lists_are_kept_and_shown(client: httpx.AsyncClient, searcher: FakeSearcher) -> None:
    assert (await client.get("/v1/lists")).json() == {"lists": {}}
    name = "für später/../x"
    changed = await client.post("/v1/list", json={"name": name, "add": [EVIL, "lake", EVIL]})
    assert changed.json() == {"name": name, "size": 2}
    async with served(searcher) as other:
        assert (await other.get("/v1/lists")).json() == {"lists": {name: 2}}
        assert (await other.get("/v1/list", params={"name": name})).json()["ids"] == [EVIL, "lake"]
    assert [item["id"] for item in await listed(client, within=name)] == [EVIL, "lake"]
    assert (await client.get("/v1/facets", params={"within": name})).json()["total"] == 2
    await client.post("/v1/list", json={"name": name, "remove": ["lake", "none"]})
    assert [item["id"] for item in await listed(client, within=name)] == [EVIL]
    assert (await client.delete("/v1/list", params={"name": name})).json() == {"removed": 1}
    refused(await client.get("/v1/items", params={"within": name}), 422, "there is no list")
    assert [path.name for path in searcher.collection.path.iterdir() if not path.name.startswith(".")] == ["lists.json"]


async def test_lists_have_bounds_and_a_damaged_file_is_not_overwritten(
    client: httpx.AsyncClient, searcher: FakeSearcher
) -> None:
    for body in (
        {"name": ""},
        {"name": "x" * 201},
        {"name": "x", "add": ["y" * 2001]},
        {"name": "x", "add": ["a"] * 10_001},
    ):
        refused(await client.post("/v1/list", json=body), 422)
    for number in range(200):
        assert (await client.post("/v1/list", json={"name": str(number)})).status_code == 200
    refused(await client.post("/v1/list", json={"name": "one more"}), 422, "at most 200 lists")
    gone = FakeSearcher([])
    gone.collection.path.rmdir()
    async with served(gone) as other:
        refused(await other.post("/v1/list", json={"name": "x"}), 503, "was moved or deleted")
    kept = searcher.collection.path / "lists.json"
    kept.write_text('{"0": ["a"')
    refused(await client.post("/v1/list", json={"name": "0", "add": ["b"]}), 422, "Restore it")
    assert kept.read_text() == '{"0": ["a"'


# ------------------------------------------------------------------------------------------------------------- exports


async def test_a_choice_of_items_is_taken_along_as_a_table(client: httpx.AsyncClient, tmp_path: Path) -> None:
    answer = await client.post("/v1/export", json={"format": "csv", "ids": [EVIL, "lake"]})
    assert answer.headers["content-disposition"] == 'attachment; filename="items.csv"'
    first, second = csv.DictReader(io.StringIO(answer.text))
    assert (first["id"], first["kind"], first["year"]) == (EVIL, "dot", "2001")
    assert second["id"] == "lake"
    assert str(tmp_path) not in answer.text, "where files lie on the server is not told"
    answer = await client.post("/v1/export", json={"format": "parquet"})
    table = pyarrow.parquet.read_table(io.BytesIO(answer.content))
    assert table["id"].to_pylist() == sorted([EVIL, "lake", "key"])
    refused(await client.post("/v1/export", json={"format": "exe"}), 422, "format")
    refused(await client.post("/v1/export", json={"format": "csv", "ids": ["lake"], "within": "x"}), 422, "stand alone")


async def test_files_are_taken_along_under_harmless_names(
    client: httpx.AsyncClient, rows: Sequence[dict[str, Any]]
) -> None:
    answer = await client.post("/v1/export", json={"format": "zip"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert archive.read("image/lake.jpg") == Path(rows[0]["image"][0]).read_bytes()
        left_out = archive.read("left-out.txt").decode()
    assert len(names) == 4
    assert all(not name.startswith("/") and ".." not in name and name.isprintable() for name in names)
    assert "key image/0" in left_out and "outside of the folders" in left_out


async def test_items_are_removed_only_where_that_is_allowed(searcher: FakeSearcher) -> None:
    async with served(searcher) as client:
        refused(await client.post("/v1/remove", json={"ids": ["lake"]}), 404, "--edit")
        assert (await client.get("/v1/status")).json()["edits"] is False
    gone: list[str] = []

    def remove(ids: Sequence[str]) -> int:
        gone.extend(ids)
        return len(ids)

    def forget(ids: Sequence[str]) -> RemoveReport:
        return RemoveReport(tuple(ids), 1, ("aligned",), {"/secret/boats": 2}, "reports")

    async with served(searcher, teaching=Teaching(remove=remove, forget=forget)) as client:
        answer = (await client.post("/v1/remove", json={"ids": ["sea"], "forget": True})).json()
        assert answer == {"removed": 1, "spaces": ["aligned"], "models": {"boats": 2}}
        assert (await client.post("/v1/remove", json={"ids": [EVIL, "lake"]})).json() == {"removed": 2}
        refused(await client.post("/v1/remove", json={"ids": []}), 422)
        refused(await client.post("/v1/remove", json={"where": "id = 'lake'"}), 422)
        foreign = await client.post("/v1/remove", json={"ids": ["lake"]}, headers={"Sec-Fetch-Site": "cross-site"})
        refused(foreign, 403)
    assert gone == [EVIL, "lake"]


async def test_files_are_added_without_a_label_only_where_that_is_allowed(searcher: FakeSearcher) -> None:
    added: list[tuple[str, str | None]] = []

    def add(files: Sequence[Path], /, *, label: str | None, folder: str | None, who: str) -> str:
        added.extend((path.suffix, label) for path in files)
        return "new"

    sent = {"files": {"file": ("x.png", png((1, 2, 3)))}}
    async with served(searcher, teaching=Teaching(add=add)) as client:
        refused(await client.post("/v1/items", **sent), 422, "--edit")  # type: ignore[arg-type]
    async with served(searcher, teaching=Teaching(add=add, remove=len)) as client:
        assert (await client.post("/v1/items", **sent)).json() == {"id": "new"}  # type: ignore[arg-type]
        refused(await client.post("/v1/items", **sent, data={"more": "y"}), 422, "unknown name")  # type: ignore[arg-type]
        status = (await client.get("/v1/status")).json()
        assert (status["edits"], status["teaches"]) == (True, False)
    assert added == [(".png", None)]


# ------------------------------------------------------------------------------------------------------------- uploads


async def test_a_file_of_a_query_is_named_by_an_address(client: httpx.AsyncClient, searcher: FakeSearcher) -> None:
    sent = await client.post("/v1/uploads", files={"file": ("../x.png", png((20, 20, 230)))})
    name = sent.json()["upload"]
    assert len(name.partition(".")[0]) == 32
    hits = (await client.get("/v1/search", params={"uploads": name})).json()["results"][0]["hits"]
    assert hits[0]["id"] == EVIL
    (query, _) = searcher.asked_with[-1]
    assert [medium.modality for medium in query.plus] == ["image"]
    picture = await client.get(f"/v1/uploads/{name}")
    assert PillowImage.open(io.BytesIO(picture.content)).size == (16, 16)


async def test_no_other_file_is_named_as_an_upload(client: httpx.AsyncClient) -> None:
    for name in ("a" * 31, "../" + "a" * 32, "a" * 32 + ".x/../y", "a" * 32 + "\n", "/etc/passwd"):
        assert (await client.get("/v1/search", params={"uploads": name})).status_code == 422
    refused(await client.get("/v1/search", params={"uploads": "a" * 32}), 404, "not kept any more")
    for path in ("/v1/uploads/..%2f..%2fetc%2fpasswd", "/v1/uploads/" + "a" * 32, "/v1/uploads/%00"):
        assert (await client.get(path)).status_code == 404
    for body in ({"files": {"other": b"x"}}, {"files": {"file": b"x"}, "data": {"more": "x"}}):
        assert (await client.post("/v1/uploads", **body)).status_code in (400, 422)


async def test_the_oldest_uploads_go(searcher: FakeSearcher) -> None:
    async with served(searcher, settings(kept_uploads=100, keep_free=1)) as client:
        names = [
            (await client.post("/v1/uploads", files={"file": ("x.txt", bytes([65 + number]) * 60)})).json()["upload"]
            for number in range(3)
        ]
        found = [(await client.get("/v1/search", params={"uploads": name})).status_code for name in names]
    assert found == [404, 404, 200]
    async with served(searcher, settings(keep_free=2**60)) as client:
        refused(await client.post("/v1/uploads", files={"file": ("x.txt", b"words")}), 507, "nearly full")
