"""The contract of the API, in process: what each route takes and gives, and what it says of what does not fit."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fake_searcher import COLOURS, WORDS, FakeSearcher, item_row, planted_rows, png
from media_files import sound_bytes, tone
from PIL import Image as PillowImage
from waiting import LIMIT

from chiasm.errors import CollectionError
from chiasm.serving.app import create_app, openapi_text
from chiasm.serving.observe import JsonLines, QueryLog
from chiasm.serving.schemas import FeedbackEntry, LabelEntry
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import Teaching
from chiasm.types import Text
from chiasm.verbs.query import Query, SearchOptions, SearchResult

ROOT = Path(__file__).parents[1]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return planted_rows(tmp_path)


pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(rows: list[dict[str, Any]]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server of three planted items."""
    async with served(FakeSearcher(rows)) as one:
        yield one


def settings(**changes: Any) -> Settings:
    return replace(Settings(rate=None, batch_wait=0.001), **changes)


@asynccontextmanager
async def served(
    searcher: Any, options: Settings | None = None, *, headers: dict[str, str] | None = None, **parts: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process; threads are ended with it."""
    app = create_app(options or settings(), searcher, **parts)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8265", headers=headers) as client:
        try:
            yield client
        finally:
            app.state.shelf.close()


def run(
    work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]], searcher: Any, *args: Any, **parts: Any
) -> None:
    async def inside() -> None:
        async with served(searcher, *args, **parts) as client:
            await work(client)

    asyncio.run(inside())


async def begun(searcher: FakeSearcher, batches: int = 1) -> None:
    """Wait until so many batches are at work or done."""
    async with asyncio.timeout(LIMIT):
        while searcher.asked < batches:
            await asyncio.sleep(0.005)


async def at_work(client: httpx.AsyncClient, requests: int) -> None:
    """Wait until so many requests are at work."""
    async with asyncio.timeout(LIMIT):
        while not re.search(
            rf"^chiasm_requests_running\{{.*\}} {requests}\b", (await client.get("/metrics")).text, re.M
        ):
            await asyncio.sleep(0.005)


def refused(answer: httpx.Response, status: int, *says: str) -> dict[str, Any]:
    """An answer is a problem that says so."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["request_id"] == answer.headers["x-request-id"]
    for words in says:
        assert words in problem["detail"], problem["detail"]
    return problem


# ------------------------------------------------------------------------------------------------------------ search


async def test_words_find_the_item_that_they_describe(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/search", params={"text": "a red bird", "k": 2})
    assert answer.status_code == 200
    (found,) = answer.json()["results"]
    assert (found["query"], found["space"], len(found["hits"])) == (0, "fake", 2)
    best = found["hits"][0]
    assert (best["id"], best["modality"], best["text"], best["url"]) == ("birds/robin", "text", "a red bird", None)
    assert best["metadata"] == {"colour": "(220, 20, 20)"}
    assert best["score"] == pytest.approx(1)


@pytest.mark.parametrize("way", ["json", "form", "file"])
async def test_a_picture_finds_its_like_and_the_hit_says_where_the_file_is(client: httpx.AsyncClient, way: str) -> None:
    picture = png((20, 20, 220))
    if way == "json":
        body = {"queries": [{"image": b64(picture)}], "modality": "image", "k": 1}
        answer = await client.post("/v1/search", json=body)
    else:
        files = {"image" if way == "form" else "file": ("../../x.html", picture, "text/html")}
        answer = await client.post("/v1/search", files=files, data={"modality": "image", "k": "1"})
    (hit,) = answer.json()["results"][0]["hits"]
    assert (hit["id"], hit["url"]) == ("boat", "/v1/items/boat/files/image/0")
    file = await client.get(hit["url"])
    assert file.headers["content-type"] == "image/png"
    assert np.asarray(PillowImage.open(io.BytesIO(file.content)))[0, 0].tolist() == [20, 20, 220]


async def test_several_queries_of_several_modalities_come_back_in_order(rows: list[dict[str, Any]]) -> None:
    sound = sound_bytes(tone(0.2, 8000), 8000, "WAV")
    queries = [
        {"text": "sails on water"},
        {"image": b64(png((220, 20, 20)))},
        {"text": "a grey wading fowl", "image": b64(png((120, 120, 120)))},
        {"audio": b64(sound)},
    ]
    searcher = FakeSearcher(rows)
    async with served(searcher) as client:
        answer = await client.post("/v1/search", json={"queries": queries, "k": 3})
        results = answer.json()["results"]
        assert [found["query"] for found in results] == [0, 1, 2, 3]
        assert results[0]["hits"][0]["id"] == "boat"
        assert next(hit["id"] for hit in results[1]["hits"] if hit["modality"] == "image") == "birds/robin"
        assert results[2]["hits"][0]["id"] == "birds/heron"
    assert sorted(searcher.batches) == [1, 2, 2], "media of one modality are embedded together"


async def test_form_and_json_agree(client: httpx.AsyncClient) -> None:
    body = {"queries": [{"text": "ä bird"}], "offset": 1, "where": "id = 'boat'"}
    as_json = await client.post("/v1/search", json=body)
    as_form = await client.post(
        "/v1/search", files={"text": (None, "ä bird"), "offset": (None, "1"), "where": (None, "id = 'boat'")}
    )
    as_query = await client.get("/v1/search", params={"text": "ä bird", "offset": 1, "where": "id = 'boat'"})
    assert as_json.json() == as_form.json() == as_query.json()
    assert len(as_json.json()["results"][0]["hits"]) == 1


async def test_a_query_says_what_is_not_wanted_and_which_items_to_go_by(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    rated: dict[str, list[str]] = {"like": ["boat"], "liked": ["birds/robin", "boat"], "disliked": ["birds/heron"]}
    options: dict[str, Any] = {"hybrid": True, "diversity": 0.5, "min_probability": "auto"}
    async with served(searcher) as client:
        words: dict[str, Any] = {"text": "red", "minus": "boots"}
        as_json = await client.post("/v1/search", json={"queries": [words | rated], **options})
        parts = [*(words | options).items(), *((name, one) for name, many in rated.items() for one in many)]
        as_query = await client.get("/v1/search", params=parts)
        as_form = await client.post("/v1/search", files=[(name, (None, str(value))) for name, value in parts])
        assert as_json.json() == as_query.json() == as_form.json()
        assert (await client.get("/v1/search", params={"like": "boat"})).status_code == 200
        refused(await client.get("/v1/search", params={"minus": "x"}), 422, "words to look for are needed")
        refused(await client.post("/v1/search", files={"minus": (None, "x")}), 422, "not what is")
        refused(await client.get("/v1/search", params={"like": ["x"] * 65}), 422, "at most 64 items")
        lies = await client.get("/v1/search", params={"text": "x", "where": "id = 'path'"})
        refused(lies, 422, "stamps has no embedded files")
        assert "/secret" not in lies.text, "where the collection lies is not told"
    (*three, alone, _) = searcher.asked_with
    for query, asked in three:
        assert (query.plus, query.minus) == ((Text("red"),), (Text("boots"),))
        assert (query.like, query.liked, query.disliked) == (("boat",), ("birds/robin", "boat"), ("birds/heron",))
        assert query.vectors is not None
        np.testing.assert_allclose(query.vectors, searcher.prepare([Text("red"), Text("boots")]))
        assert (asked.hybrid, asked.diversity, asked.min_probability) == (True, 0.5, "auto")
    assert (alone[0].plus, alone[0].like, alone[0].vectors) == ((), ("boat",), None)


async def test_many_hits_come_as_lines(tmp_path: Path) -> None:
    rows = [item_row(f"{number:04}", text=[f"word {number}"]) for number in range(1200)]
    async with served(FakeSearcher(rows)) as client:
        lines = {"Accept": "application/x-ndjson"}
        answer = await client.get("/v1/search", params={"text": "word 7", "k": 1100}, headers=lines)
        hits = [json.loads(line) for line in answer.text.splitlines()]
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert len({hit["id"] for hit in hits}) == 1100
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
        every = await client.get("/v1/items", headers=lines)
        assert [json.loads(line)["id"] for line in every.text.splitlines()] == [row["id"] for row in rows]
        few = await client.get("/v1/search", params={"text": "word 7", "k": 10000}, headers=lines)
        assert len(few.text.splitlines()) == 1200
        refused(await client.get("/v1/search", params={"text": "x", "k": 1001}), 422, "at most 1000", "x-ndjson")
        two = await client.post("/v1/search", json={"queries": [{"text": "a"}, {"text": "b"}]}, headers=lines)
        refused(two, 422, "one query; got 2")


async def test_a_stream_that_fails_says_so_in_its_last_line(tmp_path: Path) -> None:
    class Failing(FakeSearcher):
        def search(self, query: Query, /, options: SearchOptions) -> SearchResult:
            if options.offset:
                raise CollectionError("the collection was deleted meanwhile")
            return super().search(query, options)

    rows = [item_row(str(i), text=[f"word {i}"]) for i in range(600)]
    async with served(Failing(rows)) as client:
        lines = {"Accept": "application/x-ndjson"}
        answer = await client.get("/v1/search", params={"text": "word", "k": 600}, headers=lines)
        *hits, last = [json.loads(line) for line in answer.text.splitlines()]
        assert len(hits) == 500
        assert last["problem"]["detail"] == "the collection was deleted meanwhile"


BAD_SEARCHES: list[tuple[dict[str, Any], int, str]] = [
    ({}, 422, "queries: Field required"),
    ({"queries": []}, 422, "queries: List should have at least 1 item"),
    ({"queries": [{}]}, 422, "queries.0: Value error, at least one of image, text, audio, video and like is needed"),
    ({"queries": [{"text": ""}]}, 422, "queries.0.text: String should have at least 1 character"),
    ({"queries": [{"text": "   "}]}, 422, "the text of 0 is empty"),
    ({"queries": [{"text": "x" * 10_001}]}, 422, "at most 10000 characters"),
    ({"queries": [{"text": "x"}] * 65}, 422, "at most 64 items"),
    ({"queries": [{"text": "x", "smell": "y"}]}, 422, "queries.0.smell: Extra inputs are not permitted"),
    ({"queries": [{"text": "x"}], "k": 0}, 422, "k: Input should be greater than or equal to 1"),
    ({"queries": [{"text": "x"}], "modality": "smell"}, 422, "modality: Input should be"),
    ({"queries": [{"text": "x"}], "min_probability": 2}, 422, "min_probability"),
    ({"queries": [{"text": "x"}], "where": "DROP TABLE"}, 422, "the condition is malformed"),
    ({"queries": [{"image": "!"}]}, 422, "queries.0.image: Value error, not base64"),
    ({"queries": [{"image": b64(b"%PDF-1.4 ...")}]}, 415, "image of 0: this is a PDF document"),
    ({"queries": [{"image": b64(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)}]}, 422, "image of 0: the PNG ends"),
    ({"queries": [{"image": b64(sound_bytes(tone(0.2, 8000), 8000, "WAV"))}]}, 422, "is audio by its content"),
    ({"queries": [{"text": "nothing"}]}, 422, "fake found nothing in the text"),
]


@pytest.mark.parametrize(("body", "status", "says"), BAD_SEARCHES, ids=[says[:40] for _, _, says in BAD_SEARCHES])
async def test_a_bad_search_is_told_what_to_do(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, says: str
) -> None:
    refused(await client.post("/v1/search", json=body), status, says)


async def test_bad_bodies_are_told_what_to_do(client: httpx.AsyncClient) -> None:
    async def post(content: bytes, kind: str) -> httpx.Response:
        return await client.post("/v1/search", content=content, headers={"Content-Type": kind})

    refused(await post(b"{", "application/json"), 422, "Invalid JSON")
    refused(await post(b"[" * 100_000, "application/json"), 422, "Invalid JSON")
    refused(await post(b'{"queries":[{"text":"\\ud800"}]}', "application/json"), 422, "Invalid JSON")
    refused(await post(b"text=x", "application/x-www-form-urlencoded"), 415, "multipart/form-data")
    refused(await client.post("/v1/search"), 415, "got none")
    refused(await post(b"x", "multipart/form-data"), 400, "boundary")
    refused(await post(b"x", "multipart/form-data; boundary=b"), 400, "multipart")
    refused(await post(b"--b\r\n\r\nx\r\n--b--\r\n", "multipart/form-data; boundary=b"), 400, "name")
    refused(await client.post("/v1/search", files={"smell": b"x"}), 422, "unknown name", "image, audio")
    refused(await client.post("/v1/search", files={"text": ("t", b"x")}), 422, "text: has to be words")
    refused(await client.post("/v1/search", files={"image": (None, "x")}), 422, "image: has to be a file")
    refused(await client.post("/v1/search", files=[("image", b"x"), ("image", b"y")]), 422, "image: came twice")
    pointer = b"version https://git-lfs.github.com/spec/v1\n"
    refused(
        await client.post("/v1/search", files={"file": ("../b.JPG", pointer)}), 422, "named .jpg, holds text (a Git"
    )
    refused(await client.post("/v1/search", files={"image": ("b.jpg", pointer)}), 422, "image", "text")
    refused(await client.post("/v1/search", files={"k": (None, "1")}), 422, "the form has none of")
    refused(await client.post("/v1/search", files={"text": (None, "x"), "k": (None, "many")}), 422, "k: ")
    packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused(await client.post("/v1/search", content=b"x", headers=packed), 415, "compressed")
    refused(await client.get("/v1/search"), 422, "text: words to look for")
    refused(await client.get("/v1/search", params={"text": "x", "q": "y"}), 422, "q: Extra inputs")
    refused(await client.get("/v1/nowhere"), 404, "/openapi.json")
    long = await client.post("/v1/search", json={"queries": [{"text": "hunter2" * 2000}]})
    assert "hunter2" not in long.text, "what is wrong is not repeated"
    assert refused(await client.delete("/v1/search"), 405)["title"] == "Method Not Allowed"


def test_a_failure_inside_tells_nothing_but_its_id(
    rows: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.get("/v1/search", params={"text": "boom"}, headers={"X-Request-ID": "mine-1"})
        problem = refused(answer, 500, "mine-1")
        assert problem["type"] == "urn:chiasm:problem:internal"
        assert "shadow" not in answer.text
        good = await client.get("/v1/search", params={"text": "a red bird"})
        assert good.status_code == 200

    with caplog.at_level(logging.INFO, "chiasm.serving"):
        run(work, FakeSearcher(rows))
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "chiasm.serving"]
    failed = next(line for line in lines if line["event"] == "request failed")
    assert (failed["id"], failed["error"]) == ("mine-1", "RuntimeError")
    assert any("fake_searcher.py" in place for place in failed["at"])
    assert "shadow" not in json.dumps(lines), "messages may hold what a user sent"


# --------------------------------------------------------------------------------------------------- items and files


async def test_items_are_listed_page_by_page(client: httpx.AsyncClient) -> None:
    seen, after = [], None
    while True:
        answer = await client.get("/v1/items", params={"limit": 2} | ({"after": after} if after else {}))
        seen += [one["id"] for one in answer.json()["items"]]
        after = answer.json()["next"]
        if after is None:
            break
    assert seen == sorted(WORDS)
    one = (await client.get("/v1/items", params={"where": "id = 'boat'"})).json()["items"]
    assert [item["id"] for item in one] == ["boat"]
    refused(await client.get("/v1/items", params={"after": "?"}), 422, "`next` of the last page")
    refused(await client.get("/v1/items", params={"limit": 501}), 422, "limit")
    refused(await client.get("/v1/items", params={"where": "x"}), 422, "malformed")


async def test_an_item_tells_its_media(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("<script>alert(1)</script>", encoding="utf-8")
    odd = "a b/ü?#%2F"
    every = [*rows, {"id": odd, "image": None, "text": ["words", str(note)], "audio": None, "video": None, "n": 3}]
    async with served(FakeSearcher(every)) as client:
        (found,) = (await client.get("/v1/items", params={"where": f"id = '{odd}'"})).json()["items"]
        assert found["metadata"] == {"n": 3}
        inline, file = found["media"]
        assert (inline["text"], inline["url"], file["text"]) == ("words", None, None)
        answer = await client.get(file["url"])
        assert answer.text == "<script>alert(1)</script>"
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["content-disposition"] == 'inline; filename="note.txt"'
        one = await client.get(file["url"].partition("/files/")[0])
        assert one.json() == found
        refused(await client.get("/v1/items/none"), 404, "no item of this id")
        refused(await client.get("/v1/items/boat/files/image/1"), 404, "no such file")
        refused(await client.get("/v1/items/boat/files/text/0"), 404, "no such file")
        refused(await client.get("/v1/items/boat/files/image/-1"), 422, "number")


async def test_parts_of_a_file_are_given_as_asked(client: httpx.AsyncClient) -> None:
    whole = png(COLOURS["boat"])
    size = len(whole)
    cases: list[tuple[str, int, bytes]] = [
        ("bytes=0-9", 206, whole[:10]),
        ("bytes=10-", 206, whole[10:]),
        ("bytes=-5", 206, whole[-5:]),
        ("bytes=0-99999999", 206, whole),
        ("bytes=9-3", 200, whole),
        ("bytes=0-1,4-5", 200, whole),
        ("lines=1-2", 200, whole),
        ("bytes=-", 200, whole),
    ]
    url = "/v1/items/boat/files/image/0"
    for asked, status, content in cases:
        answer = await client.get(url, headers={"Range": asked})
        assert (answer.status_code, answer.content) == (status, content), asked
        assert answer.headers["content-length"] == str(len(content))
    part = await client.get(url, headers={"Range": "bytes=10-"})
    assert part.headers["content-range"] == f"bytes 10-{size - 1}/{size}"
    beyond = await client.get(url, headers={"Range": f"bytes={size}-"})
    refused(beyond, 416, "outside")
    assert beyond.headers["content-range"] == f"bytes */{size}"
    tag = part.headers["etag"]
    assert (await client.get(url, headers={"If-None-Match": tag})).status_code == 304
    stale = await client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (stale.status_code, stale.content) == (200, whole)


# ------------------------------------------------------------------------------------------- embed, predict and teach


async def test_embed_gives_the_vectors_that_search_uses(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    async with served(searcher) as client:
        body = {"items": [{"text": "a red bird"}, {"text": "x", "image": b64(png((220, 20, 20)))}]}
        found = (await client.post("/v1/embed", json=body)).json()["embeddings"]
        assert [one["item"] for one in found] == [0, 1]
        assert set(found[1]["vectors"]) == {"text", "image"}
        for one in found:
            for vector in one["vectors"].values():
                assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(found[0]["vectors"]["text"], searcher.prepare([Text("a red bird")])[0], atol=1e-6)


async def test_without_a_model_or_a_place_to_write_the_routes_say_so(client: httpx.AsyncClient) -> None:
    refused(await client.post("/v1/predict", json={"items": [{"text": "x"}]}), 404, "no model", "--model")
    refused(await client.post("/v1/feedback", json={}), 404, "no place for feedback")
    refused(await client.post("/v1/labels", json={}), 404, "no place for labels")


async def test_feedback_and_labels_reach_those_who_keep_them(rows: list[dict[str, Any]]) -> None:
    came: list[tuple[str, Any]] = []

    def take_feedback(entries: Sequence[FeedbackEntry], *, who: str) -> int:
        came.extend((who, entry) for entry in entries)
        return len(entries)

    def take_labels(entries: Sequence[LabelEntry], *, who: str) -> int:
        if any(entry.item not in WORDS for entry in entries):
            raise CollectionError("there is no item 'cat'. Items are listed by chiasm status")
        came.extend((who, entry) for entry in entries)
        return len(entries)

    async with served(FakeSearcher(rows), teaching=Teaching(rate=take_feedback, label=take_labels)) as client:
        body = {"entries": [{"item": "boat", "verdict": "up", "query": "ship"}, {"item": "boat", "verdict": "down"}]}
        assert (await client.post("/v1/feedback", json=body)).json() == {"stored": 2}
        right, unknown = ({"entries": [{"item": item, "label": "ship"}]} for item in ("boat", "cat"))
        assert (await client.post("/v1/labels", json=right)).json() == {"stored": 1}
        refused(await client.post("/v1/labels", json=unknown), 422, "no item 'cat'")
        wrong = {"entries": [{"item": "boat", "verdict": "sideways"}]}
        refused(await client.post("/v1/feedback", json=wrong), 422, "entries.0.verdict")
        refused(await client.post("/v1/feedback", data=body), 415, "application/json")
    assert came == [
        ("address 127.0.0.1", FeedbackEntry(item="boat", verdict="up", query="ship")),
        ("address 127.0.0.1", FeedbackEntry(item="boat", verdict="down", query=None)),
        ("address 127.0.0.1", LabelEntry(item="boat", label="ship", column=None)),
    ]


# ------------------------------------------------------------------------------------------------------------- server


async def test_status_health_and_metrics(client: httpx.AsyncClient) -> None:
    status = (await client.get("/v1/status")).json()
    assert (status["name"], status["items"], status["label"]) == ("stamps", 3, None)
    assert "/secret" not in json.dumps(status)
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    starting = await client.get("/readyz")
    assert (starting.status_code, starting.json()) == (503, {"status": "starting"})
    await client.get("/v1/search", params={"text": "my secret"})
    await client.get("/v1/items/secret-item")
    numbers = (await client.get("/metrics")).text
    assert 'method="GET",route="/v1/search",status="200"' in numbers
    assert 'route="/v1/items/{item:path}",status="404"' in numbers
    assert "chiasm_batch_size_count" in numbers
    assert "secret" not in numbers


@pytest.mark.race
def test_ready_comes_after_the_warm_up(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    app = create_app(settings(), searcher)

    async def inside() -> None:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                async with asyncio.timeout(LIMIT):
                    while (answer := await client.get("/readyz")).status_code != 200:
                        await asyncio.sleep(0.01)
                assert answer.json() == {"status": "ok"}

    asyncio.run(inside())
    assert searcher.batches == [1]


@pytest.mark.race
async def test_concurrent_searches_are_embedded_together_in_one_thread(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    searcher.gate.clear()
    async with served(searcher, settings(batch=8)) as client:
        texts = [[*WORDS.values()][number % 3] for number in range(30)]
        tasks = [asyncio.create_task(client.get("/v1/search", params={"text": text})) for text in texts]
        await at_work(client, 30)
        searcher.gate.set()
        for text, task in zip(texts, tasks, strict=True):
            answer = await task
            assert answer.json()["results"][0]["hits"][0]["text"] == text
    assert sum(searcher.batches) == 30
    assert max(searcher.batches) == 8
    assert len(searcher.batches) < 10
    assert len(searcher.threads) == 1


@pytest.mark.race
async def test_one_bad_query_of_a_batch_does_not_spoil_the_others(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    async with served(searcher, settings(batch=3, batch_wait=LIMIT)) as client:
        texts = ["a red bird", "nothing", "sails on water"]
        answers = await asyncio.gather(*(client.get("/v1/search", params={"text": text}) for text in texts))
        assert [answer.status_code for answer in answers] == [200, 422, 200]
    assert searcher.batches[0] == 3


@pytest.mark.race
async def test_health_answers_while_an_encoder_works(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    searcher.gate.clear()
    async with served(searcher) as client:
        slow = asyncio.create_task(client.get("/v1/search", params={"text": "a red bird"}))
        await begun(searcher)
        assert (await client.get("/healthz")).status_code == 200
        assert not slow.done()
        searcher.gate.set()
        assert (await slow).status_code == 200


@pytest.mark.race
async def test_an_answer_that_takes_too_long_is_given_up(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    searcher.gate.clear()
    async with served(searcher, settings(answer_seconds=5.0)) as client:
        first = asyncio.create_task(client.get("/v1/search", params={"text": "first"}))
        await begun(searcher)
        second = asyncio.create_task(client.get("/v1/search", params={"text": "second"}))
        answers = [await first, await second]
        searcher.gate.set()
        for answer in answers:
            refused(answer, 503, "not ready after")
            assert answer.headers["retry-after"] == "5"
        assert (await client.get("/v1/search", params={"text": "a red bird"})).status_code == 200
    assert searcher.batches == [1, 1], "what was given up while it waited is not embedded"


@pytest.mark.parametrize(("seconds", "times"), [(3600.0, 0), (0.0, 3)])
async def test_new_items_are_looked_for_before_a_search_when_it_is_time(
    rows: list[dict[str, Any]], seconds: float, times: int
) -> None:
    searcher = FakeSearcher(rows)
    async with served(searcher, settings(refresh_seconds=seconds)) as client:
        for _ in range(3):
            assert (await client.get("/v1/search", params={"text": "x"})).status_code == 200
    assert searcher.refreshed == times


def test_queries_are_logged_only_where_it_was_asked_for_and_can_be_deleted(
    rows: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "queries.sqlite"

    async def work(client: httpx.AsyncClient) -> None:
        await client.get("/v1/search", params={"text": "my private wish"})
        await client.post("/v1/search", json={"queries": [{"text": "other"}, {"image": b64(png((1, 2, 3)))}]})

    with caplog.at_level(logging.DEBUG):
        run(work, FakeSearcher(rows), settings(query_log=path))
        assert {one.text for one in QueryLog(path).read()} == {"my private wish", "other", None}
        before = path.read_bytes()
        run(work, FakeSearcher(rows))
    assert path.read_bytes() == before
    lines = "".join(JsonLines().format(record) for record in caplog.records if record.name.startswith("chiasm"))
    assert "request" in lines
    assert "private" not in lines
    log = QueryLog(path)
    assert (path.stat().st_mode & 0o777) == 0o600
    newest = log.read()[0]
    assert (newest.text, newest.modalities, newest.who) == (None, ("image",), "address 127.0.0.1")
    assert log.delete(before=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert log.delete(who="key nobody") == 0
    assert log.delete() == 3
    log.close()
    assert b"private" not in path.read_bytes(), "what is deleted is overwritten"


def test_a_query_log_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("this is not a database, and long enough to be told apart from an empty one" * 20)
    with pytest.raises(Exception, match=r"query log .* cannot be opened"):
        QueryLog(path)


def test_the_openapi_document_is_the_one_in_the_documentation() -> None:
    kept = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert openapi_text() == kept, "the API has changed: run make openapi and look at what changed"


@pytest.mark.parametrize("change", [{"max_body": 0}, {"rate": 0.0}, {"answer_seconds": -1.0}])
def test_settings_have_to_be_above_0(change: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="has to be above 0"):
        settings(**change)
