"""Collections of one server, jobs beside it, and models that are chosen: names only, one job at a time, nothing without permission."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_encoder import FakeEncoder
from fake_searcher import png
from fastapi import FastAPI
from test_serving import refused
from test_serving_run import plan, table
from waiting import LIMIT

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError
from chiasm.serving.app import create_shelf_app
from chiasm.serving.building import Plan, build_parts
from chiasm.serving.jobs import Jobs
from chiasm.serving.parts import Shared
from chiasm.serving.run import build
from chiasm.serving.shelf import Shelf
from chiasm.store.collection import Collection

NAMES = [
    "../x",
    "/etc",
    "a/b",
    "..",
    ".hidden",
    "",
    "x\n",
    "a\x00b",
    "-rf",
    "n" * 65,
    "dot.",
    "C:\\x",
    "%2e%2e",
    "~root",
    "a;b",
]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"))])


@pytest.fixture
def folder(tmp_path: Path, fake: None) -> Path:
    """Three collections, `a`, `b b` and `c`, of 4, 5 and 6 items."""
    for number, name in enumerate(("a", "b b", "c")):
        chiasm.add([table(tmp_path / f"media {name}", range(4 + number))], to=tmp_path / "all" / name)
    (tmp_path / "all" / "none").mkdir()
    return tmp_path / "all"


def shelf_plan(folder: Path, **options: Any) -> Plan:
    return replace(plan(folder), collections=(), folder=folder, **options)


def ask(app: FastAPI, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def inside() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            await work(client)

    try:
        asyncio.run(inside())
    finally:
        app.state.shelf.close()
        if app.state.shared.jobs is not None:
            app.state.shared.jobs.close()


# --------------------------------------------------------------------------------------------------------- collections


def test_every_collection_has_an_address_and_the_first_needs_none(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        every = (await client.get("/v1/collections")).json()
        assert [one["name"] for one in every["collections"]] == ["a", "b b", "c"]
        assert every["makes"] is False
        for number, one in enumerate(every["collections"]):
            status = (await client.get(f"{one['address']}/v1/status")).json()
            assert (status["name"], status["items"]) == (one["name"], 4 + number)
            assert (await client.get(f"{one['address']}/")).text == (await client.get("/")).text
            item = (await client.get(f"{one['address']}/v1/items/00")).json()
            assert item["media"][0]["url"].startswith(f"{one['address']}/v1/items/")
            assert (await client.get(item["media"][0]["url"])).headers["content-type"] == "image/png"
            assert (await client.get(item["preview"])).status_code == 200
            answer = await client.get(f"{one['address']}/v1/search", params={"text": "red paint", "cards": True})
            hit = answer.json()["results"][0]["hits"][0]
            assert hit["preview"].startswith(one["address"])
        assert (await client.get("/v1/status")).json()["items"] == 4
        chiasm.add([table(folder.parent / "late", range(3))], to=folder / "0 late")
        names = [one["name"] for one in (await client.get("/v1/collections")).json()["collections"]]
        assert names == ["a", "0 late", "b b", "c"], "what comes later does not become the first"
        assert (await client.get("/c/0 late/v1/status")).json()["items"] == 3
        assert (await client.get("/v1/status")).json()["items"] == 4
        refused(await client.get("/c/none/v1/status"), 404, "There are: 0 late, a, b b, c")
        refused(await client.get("/c/a/c/c/v1/status"), 404, "no such route")

    ask(build(shelf_plan(folder)), work)


def test_one_collection_has_the_addresses_that_it_always_had(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/items/00")).json()["media"][0]["url"] == "/v1/items/00/files/image/0"
        assert (await client.get("/c/a/v1/status")).json()["items"] == 4

    ask(build(plan(folder / "a")), work)


def test_few_are_open_at_a_time_and_one_in_use_stays(folder: Path) -> None:
    made = shelf_plan(folder)
    app = build(replace(made, settings=replace(made.settings, max_open=2)))
    shelf = app.state.shelf

    async def work(client: httpx.AsyncClient) -> None:
        for name in ("a", "b b", "c", "a"):
            assert (await client.get(f"/c/{name}/v1/status")).json()["name"] == name
            assert len(shelf.opened) <= 2
        async with shelf.use("a"), shelf.use("c"):
            refused(await client.get("/c/b b/v1/status"), 429, "collections are in use")
        assert (await client.get("/c/b b/v1/status")).json()["items"] == 5
        many = await asyncio.gather(*(client.get("/c/c/v1/status") for _ in range(8)))
        assert {one.json()["items"] for one in many} == {6}

    ask(app, work)


def test_one_that_cannot_be_opened_is_said_without_its_path_and_stops_no_other(folder: Path) -> None:
    (folder / "c" / "chiasm.json").write_text("{}", encoding="utf-8")

    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.get("/c/c/v1/status")
        refused(answer, 422)
        assert str(folder) not in answer.text
        assert (await client.get("/c/a/v1/status")).status_code == 200

    ask(build(shelf_plan(folder)), work)


def test_a_collection_that_was_moved_away_while_it_is_open_is_said_to_be_gone(folder: Path) -> None:
    gets = (
        "items/00",
        "items",
        "search?text=red+paint",
        "search?like=00",
        "status",
        "facets",
        "map",
        "items/00/prediction",
    )

    async def work(client: httpx.AsyncClient) -> None:
        before = (await client.get("/c/c/v1/search?text=red+paint")).json()["results"]
        (folder / "c").rename(folder.parent / "away")
        for what in gets:
            refused(await client.get(f"/c/c/v1/{what}"), 503, "was moved or deleted")
        assert (await client.get("/c/a/v1/status")).status_code == 200
        assert not (folder / "c").exists(), "nothing is written where it was"
        (folder.parent / "away").rename(folder / "c")
        assert (await client.get("/c/c/v1/search?text=red+paint")).json()["results"] == before

    ask(build(shelf_plan(folder)), work)


def test_what_else_lies_in_the_folder_stops_no_collection(folder: Path) -> None:
    (folder / "0 broken").mkdir()
    (folder / "0 broken" / "chiasm.json").write_text("{", encoding="utf-8")
    shutil.copytree(folder / "a", folder / os.fsdecode(b"\xff"))  # a name that is no text
    (folder / "dangling").symlink_to("nowhere")

    async def work(client: httpx.AsyncClient) -> None:
        names = [one["name"] for one in (await client.get("/v1/collections")).json()["collections"]]
        assert names == ["a", "0 broken", "b b", "c"]
        assert (await client.get("/v1/status")).json()["name"] == "a"
        refused(await client.get("/c/0 broken/v1/status"), 422, "cannot be read")
        refused(await client.post("/v1/collections", json={"name": "dangling"}), 409, "another name")
        answer = await client.post("/v1/collections", json={"name": "\U00020000" * 64})  # 256 bytes
        refused(answer, 422, "cannot be made")
        assert str(folder) not in answer.text

    ask(build(shelf_plan(folder, edit=True)), work)
    with pytest.raises(ChiasmError, match="cannot be read"):
        build(plan(folder / "0 broken"))


def test_a_collection_is_made_filled_and_served_at_once(tmp_path: Path, fake: None) -> None:
    (tmp_path / "all").mkdir()

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/collections")).json() == {"collections": [], "makes": True}
        assert (await client.get("/")).status_code == 200
        refused(await client.get("/v1/status"), 404, "There is none yet")
        one = (await client.post("/v1/collections", json={"name": "été 1"})).json()
        assert one == {"name": "été 1", "address": "/c/%C3%A9t%C3%A9%201"}
        refused(await client.post("/v1/collections", json={"name": "été 1"}), 409, "another name")
        assert (await client.get("/v1/status")).json()["name"] == "été 1"
        files = [("file", ("x/../bird.png", png((9, 200, 9)))), ("file", ("bird.txt", b"a green bird"))]
        sent = await client.post(f"{one['address']}/v1/items", files=files, data={"folder": "birds"})
        item = (await client.get(f"{one['address']}/v1/items/{sent.json()['id']}")).json()
        assert {row["modality"] for row in item["media"]} == {"image", "text"}
        assert item["metadata"] == {"folder": "birds", "label": "birds"}
        assert item["caption"] == "a green bird"
        same = [("file", ("a.png", png((1, 2, 3)))), ("file", ("b.png", png((3, 2, 1))))]
        refused(await client.post(f"{one['address']}/v1/items", files=same), 422, "different kinds")
        assert (await client.get("/v1/status")).json()["items"] == 1

    ask(build(shelf_plan(tmp_path / "all", edit=True)), work)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_request_is_a_path(folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))

    async def work(client: httpx.AsyncClient) -> None:
        for path, body in (
            ("/v1/collections", {"name": name}),
            ("/v1/jobs", {"kind": "fit", "label": "colour", "model": name}),
        ):
            refused(await client.post(path, json=body), 422)
        refused(await client.post("/v1/models", json={"name": name}), 422)
        refused(await client.post("/v1/jobs", json={"kind": "fit", "label": name or "--out=/tmp/x"}), 422)

    ask(build(shelf_plan(folder, edit=True)), work)
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "path", ["/c/..%2f..%2fetc/v1/status", "/c/%2e%2e/v1/status", "/c/a%00/v1/status", "/c//v1/nothing", "/c/~/"]
)
def test_no_path_leads_out_of_the_folder(folder: Path, path: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.get(path)
        assert answer.status_code == 404 or answer.text.startswith("<!doctype html>")

    ask(build(shelf_plan(folder)), work)


def test_nothing_is_made_or_run_without_permission(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        refused(await client.post("/v1/collections", json={"name": "new"}), 404, "--edit")
        refused(await client.post("/v1/jobs", json={"kind": "align"}), 404, "--edit")
        refused(await client.get("/v1/jobs"), 404, "--edit")
        refused(await client.post("/v1/models", json={"name": "x"}), 404, "--edit")
        answer = await client.post("/v1/items", files={"file": png((9, 9, 9))}, data={"label": "x", "folder": "y"})
        refused(answer, 404, "--edit")
        foreign = {"origin": "http://evil.example", "content-type": "application/json"}
        refused(await client.post("/v1/jobs", content=b'{"kind":"align"}', headers=foreign), 403)

    ask(build(shelf_plan(folder)), work)


def test_what_cannot_be_served_together_is_said_before(folder: Path) -> None:
    with pytest.raises(ChiasmError, match="nothing to serve"):
        chiasm.serve()
    with pytest.raises(ChiasmError, match="one name"):
        chiasm.serve([folder / "a", folder.parent / "a"])
    with pytest.raises(ChiasmError, match="of one collection"):
        chiasm.serve([folder / "a", folder / "c"], model="birds")
    with pytest.raises(ChiasmError, match="is no folder"):
        chiasm.serve(collections=folder / "nowhere")
    with pytest.raises(ChiasmError, match="a collection itself"):
        chiasm.serve(collections=folder / "a")


# ---------------------------------------------------------------------------------------------------------------- jobs

SCRIPT = """
import json, sys, time
words = sys.argv[1:]
print("Aligning: 3 of 10 maps, 1 a second, 7 s left in", words[1], file=sys.stderr, flush=True)
if "WAIT" in sys.argv[1] or MODE == "wait":
    time.sleep(600)
if MODE == "fail":
    print(json.dumps({"error": {"code": 1, "kind": "SpaceError", "message": words[1] + " has too few pairs"}}))
    raise SystemExit(1)
print(json.dumps({"before": {"text_to_image": {"hit@1": 0.1, "hit@10": 0.3, "mrr": 0.2, "queries": 50}},
    "after": {"text_to_image": {"hit@1": 0.4, "hit@10": 0.6, "mrr": 0.5, "queries": 50}}}))
"""


def with_jobs(folder: Path, mode: str, seconds: float = 600.0) -> FastAPI:
    """An application whose jobs run a script."""
    made = replace(plan(folder / "a"), edit=True)
    shared = Shared.of(made.settings, Jobs(seconds, [sys.executable, "-c", f"MODE = {mode!r}\n{SCRIPT}"]))
    return create_shelf_app(shared, Shelf.of(build_parts(made, "a", folder / "a", shared)))


async def over(client: httpx.AsyncClient, job: dict[str, Any], base: str = "") -> dict[str, Any]:
    async with asyncio.timeout(LIMIT):
        while job["state"] == "running":
            await asyncio.sleep(0.02)
            job = (await client.get(f"{base}/v1/jobs/{job['id']}")).json()
    return job


def test_a_job_says_how_far_it_is_and_what_came_of_it(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        job = await over(client, (await client.post("/v1/jobs", json={"kind": "align"})).json())
        assert (job["state"], job["error"], job["collection"]) == ("done", None, "a")
        assert job["progress"] == "Aligning: 3 of 10 maps, 1 a second, 7 s left in a", "without the path"
        assert "60 of 100" in job["result"]["sentence"]
        assert "30 of 100" in job["result"]["before"]
        assert (await client.get("/v1/jobs")).json()["jobs"] == [job]
        refused(await client.get("/v1/jobs/nosuch"), 404, "no such job")

    ask(with_jobs(folder, "done"), work)


def test_a_job_that_fails_says_why_without_paths(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        job = await over(client, (await client.post("/v1/jobs", json={"kind": "align"})).json())
        assert (job["state"], job["error"], job["result"]) == ("failed", "a has too few pairs", None)

    ask(with_jobs(folder, "fail"), work)


def test_one_job_at_a_time_and_it_can_be_cancelled(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        job = (await client.post("/v1/jobs", json={"kind": "align"})).json()
        refused(await client.post("/v1/jobs", json={"kind": "align"}), 409, "one at a time")
        async with asyncio.timeout(LIMIT):
            while not (await client.get(f"/v1/jobs/{job['id']}")).json()["progress"]:
                await asyncio.sleep(0.02)
        assert (await client.get("/v1/search", params={"text": "red paint"})).status_code == 200, "it goes on answering"
        assert (await client.delete(f"/v1/jobs/{job['id']}")).status_code == 200
        assert (await over(client, job))["state"] == "cancelled"
        assert (await client.delete(f"/v1/jobs/{job['id']}")).json()["state"] == "cancelled"
        again = (await client.post("/v1/jobs", json={"kind": "align"})).json()
        assert again["state"] == "running", "and is stopped with the server"

    app = with_jobs(folder, "wait")
    ask(app, work)
    assert {job.state for job in app.state.shared.jobs.all()} == {"cancelled"}


def test_a_job_that_takes_too_long_is_stopped(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        job = await over(client, (await client.post("/v1/jobs", json={"kind": "align"})).json())
        assert job["state"] == "failed"
        assert "was stopped" in job["error"]

    ask(with_jobs(folder, "wait", seconds=0.2), work)


def test_a_model_is_fitted_and_recognises_without_a_restart(tmp_path: Path) -> None:
    """The command itself, with the offline encoder, on texts."""
    words = {
        "fruit": ["apple", "pear", "plum", "grape", "melon", "peach"],
        "tool": ["saw", "hammer", "drill", "axe", "file", "rasp"],
    }
    for label, names in words.items():
        for name in names:
            (tmp_path / "media" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "media" / label / f"{name}.txt").write_text(f"a picture of a {name}", encoding="utf-8")
    chiasm.add([tmp_path / "media"], to=tmp_path / "words", encoder="offline")

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/models")).json() == {"models": [], "current": None}
        refused(await client.post("/v1/predict", json={"items": [{"text": "x"}]}), 404, "no model")
        job = (await client.post("/v1/jobs", json={"kind": "fit", "label": "label", "model": "first"})).json()
        job = await over(client, job)
        assert (job["state"], job["error"], job["model"]) == ("done", None, "first")
        assert job["result"]["sentence"].startswith("Right for ")
        assert (await client.post("/v1/models", json={"name": "first"})).json() == {
            "models": ["first"],
            "current": "first",
        }
        (told,) = (await client.post("/v1/predict", json={"items": [{"text": "a picture of an axe"}]})).json()[
            "predictions"
        ]
        assert told["label"] == "tool"
        status = (await client.get("/v1/status")).json()
        assert (status["label"], status["learns"]) == ("label", True)
        assert (await client.get("/v1/drift")).json()["warnings"] == []
        assert (await client.get("/report")).status_code == 200
        again = (await client.post("/v1/jobs", json={"kind": "fit", "label": "folder", "model": "first"})).json()
        assert (await over(client, again))["state"] == "done"
        assert (await client.get("/v1/status")).json()["label"] == "folder", "it recognises, so it is read again"

    ask(build(replace(plan(tmp_path / "words"), edit=True)), work)
    assert Collection.open(tmp_path / "words").count() == 12

    async def again(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/models")).json()["current"] == "first", "the newest, after a restart"

    ask(build(plan(tmp_path / "words")), again)
    Collection.create(tmp_path / "other", encoder="offline")

    async def elsewhere(client: httpx.AsyncClient) -> None:
        job = (await client.post("/c/words/v1/jobs", json={"kind": "fit", "label": "label", "model": "first"})).json()
        assert (await client.get("/c/other/v1/status")).json()["items"] == 0
        assert (await client.get("/c/words/v1/status")).json()["label"] == "folder", "opened again while it is fitted"
        assert (await over(client, job, "/c/words"))["state"] == "done"
        assert (await client.get("/c/words/v1/status")).json()["label"] == "label"

    made = shelf_plan(tmp_path, edit=True)
    ask(build(replace(made, settings=replace(made.settings, max_open=1))), elsewhere)
