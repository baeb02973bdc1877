"""Work ends with those who wait for it: its client, its time, its budget of pixels, the server."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_searcher import FakeSearcher, planted_rows, png
from listening import listening
from PIL import Image as PillowImage
from test_serving import refused, served, settings
from waiting import LIMIT, wait_until

from chiasm import work
from chiasm.serving.app import create_app
from chiasm.serving.files import OwnFile
from chiasm.types import Media
from chiasm.verbs.query import Query, SearchOptions, SearchResult

pytestmark = pytest.mark.anyio


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return planted_rows(tmp_path)


class EndlessSearcher(FakeSearcher):
    """Lists, opens, embeds and searches without end, and counts what was given up."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(rows)
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.endless = threading.Event()

    def work(self, what: str) -> None:
        self.begun.append(what)
        try:
            while self.endless.is_set():
                work.check()
                time.sleep(0.001)
        finally:
            self.ended.append(what)

    def items(self, **asked: Any) -> list[dict[str, Any]]:
        self.work("items")
        return super().items(**asked)

    def open(self, path: Path, **asked: Any) -> Media:
        self.work("open")
        return super().open(path, **asked)

    def prepare(self, given: Any, /) -> Any:
        self.work("prepare")
        return super().prepare(given)

    def search(self, query: Query, /, options: SearchOptions) -> SearchResult:
        self.work("search")
        return super().search(query, options)


REQUESTS = {
    "items": ("GET", "/v1/items", None),
    "search": ("GET", "/v1/search?like=boat", None),
    "prepare": ("GET", "/v1/search?text=x", None),
    "open": ("POST", "/v1/search", {"image": png((1, 2, 3))}),
}


@pytest.mark.parametrize("what", REQUESTS)
async def test_what_is_late_is_not_worked_on_any_more(rows: list[dict[str, Any]], what: str) -> None:
    searcher = EndlessSearcher(rows)
    searcher.endless.set()
    method, path, files = REQUESTS[what]
    async with served(searcher, settings(answer_seconds=0.2)) as client:
        refused(await client.request(method, path, files=files), 503, "not ready after")
        wait_until(lambda: searcher.ended == [what])
        searcher.endless.clear()
        assert (await client.request(method, path, files=files)).status_code == 200, "its thread is free again"


@pytest.mark.parametrize("what", REQUESTS)
def test_work_ends_when_its_client_has_gone(rows: list[dict[str, Any]], what: str) -> None:
    searcher = EndlessSearcher(rows)
    method, path, files = REQUESTS[what]
    with listening(create_app(settings(answer_seconds=LIMIT), searcher)) as (address, _):
        url = f"http://127.0.0.1:{address[1]}"
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        begun = len(searcher.begun)
        searcher.endless.set()
        asked = httpx.Request(method, url + path, files=files)
        asked.read()
        head = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
        with socket.create_connection(address) as connection:
            target = asked.url.raw_path.decode()
            connection.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + asked.content)
            wait_until(lambda: len(searcher.begun) > begun)
        wait_until(lambda: len(searcher.ended) == len(searcher.begun))
        assert searcher.begun[begun:] == [what]
        searcher.endless.clear()
        assert httpx.request(method, url + path, files=files).status_code == 200
        assert 'status="499"' in httpx.get(f"{url}/metrics").text


async def test_a_file_is_closed_however_its_request_ends(
    rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the request has ended when a thread opens it."""
    opened: list[OwnFile] = []
    open_file = OwnFile.open

    def noted(*asked: Any) -> OwnFile:
        opened.append(open_file(*asked))
        return opened[-1]

    monkeypatch.setattr(OwnFile, "open", noted)
    searcher = FakeSearcher(rows)
    found = searcher.files_of

    def slow(*arguments: Any) -> Any:
        assert searcher.gate.wait(LIMIT)
        return found(*arguments)

    searcher.files_of = slow  # type: ignore[method-assign]
    path = "/v1/items/boat/files/{}/0"
    async with served(searcher, settings(answer_seconds=0.2)) as client:
        whole = await client.get(path.format("image"))
        assert (whole.status_code, opened[-1].file.closed) == (200, True)
        same = {"If-None-Match": whole.headers["etag"]}
        assert (await client.get(path.format("image"), headers=same)).status_code == 304
        refused(await client.get(path.format("image"), headers={"Range": "bytes=9999-"}), 416)
        assert [own.file.closed for own in opened] == [True] * 3
        searcher.gate.clear()
        refused(await client.get(path.format("image")), 503, "not ready after")
        assert len(opened) == 3
        searcher.gate.set()
        wait_until(lambda: len(opened) == 4 and opened[-1].file.closed)


async def test_a_batch_goes_on_for_those_who_still_wait(rows: list[dict[str, Any]]) -> None:
    searcher = EndlessSearcher(rows)
    async with served(searcher, settings(batch_wait=0.2)) as client:
        searcher.endless.set()
        leaves, stays = (
            asyncio.create_task(client.get("/v1/search", params={"text": text})) for text in ("leaves", "stays")
        )
        async with asyncio.timeout(LIMIT):
            while not searcher.begun:
                await asyncio.sleep(0.005)
        leaves.cancel()
        await asyncio.sleep(0)
        searcher.endless.clear()
        assert (await stays).status_code == 200
    assert searcher.batches == [2]


async def test_the_pixels_of_one_request_are_bounded(rows: list[dict[str, Any]]) -> None:
    files = [("file", png((1, 2, 3), (100, 100)))] * 3
    photo = io.BytesIO()
    PillowImage.new("RGB", (800, 800), (1, 2, 3)).save(photo, "JPEG")
    async with served(FakeSearcher(rows), settings(max_pixels=25_000)) as client:
        refused(await client.post("/v1/search", files=files), 413, "file of 2", "more than the 5,000 that are left")
        assert (await client.post("/v1/search", files=files[:2])).status_code == 200, "of each request"
        photos = [("file", photo.getvalue())] * 2
        assert (await client.post("/v1/search", files=photos)).status_code == 200, "decoded at an eighth of their size"


STUCK = """
    import signal, sys, time
    from pathlib import Path
    import uvicorn
    from fake_searcher import FakeSearcher, planted_rows
    from test_serving import settings

    from chiasm.serving.app import create_app
    from chiasm.serving.run import Config, listen

    class Stuck(FakeSearcher):
        def items(self, **asked):
            print("stuck", flush=True)
            time.sleep(10**6)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    options = settings(stop_seconds=1, close_seconds=1)
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        print(bound.getsockname()[1], flush=True)
        uvicorn.Server(Config(create_app(options, Stuck(planted_rows(Path(sys.argv[1])))), options)).run([bound])
"""


def test_a_server_ends_at_its_limit_whatever_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(STUCK), str(tmp_path)]
    tests = Path(__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tests, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            with socket.create_connection(("127.0.0.1", port)) as asking:
                asking.sendall(b"GET /v1/items HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                assert server.stdout.readline() == "stuck\n"
                server.send_signal(signal.SIGTERM)
                assert server.wait(LIMIT) == 1
        finally:
            server.kill()


def test_all_that_a_server_prints_is_one_json_object_a_line() -> None:
    script = """
        import logging, os, sys, threading, warnings
        from chiasm.serving.observe import log_lines, logger
        with log_lines():
            logger.info("ready", extra={"fields": {"url": "x"}})
            os.write(2, b"TIFFReadDirectory: Warning, \\x1b[31m odd tag\\n")
            print('{"event": "forged"}\\n{"level": "info"}', file=sys.stderr, flush=True)
            warnings.warn("odd\\nlines")
            logging.getLogger("PIL").warning("%s", "two\\nlines")
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
            for number in range(500):
                print(number, file=sys.stderr, flush=True)
        print("as before", file=sys.stderr)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    *lines, last = done.stderr.splitlines()
    assert last == "as before"
    rows = [json.loads(line) for line in lines]
    assert all({"time", "level", "logger", "event"} <= row.keys() for row in rows)
    assert {row["logger"] for row in rows} == {"chiasm.serving", "stderr", "py.warnings", "PIL"}
    assert not [row for row in rows if row["event"] in ("forged", "info")]
    assert any("\x1b[31m odd tag" in row["event"] for row in rows)
    assert any("odd\nlines" in row["event"] for row in rows)
    assert len([row for row in rows if row["event"].isdigit()]) < 200
