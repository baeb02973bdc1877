"""What somebody who means harm may try: paths, bodies, bombs, keys, headers, names, floods and slowness."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import io
import logging
import os
import socket
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fake_searcher import FakeSearcher, item_row, planted_rows, png
from listening import listening
from PIL import Image as PillowImage
from test_serving import at_work, b64, begun, refused, run, served, settings
from waiting import LIMIT, wait_until

from chiasm.errors import ChiasmError
from chiasm.media import Limits
from chiasm.serving.app import create_app
from chiasm.serving.guard import Buckets
from chiasm.serving.keys import KeyRing, make_key
from chiasm.serving.observe import JsonLines
from chiasm.serving.run import Config, is_loopback, listen, serve
from chiasm.serving.teaching import Teaching

pytestmark = pytest.mark.anyio


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return planted_rows(tmp_path)


@pytest.fixture
async def client(rows: list[dict[str, Any]]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(FakeSearcher(rows)) as one:
        yield one


# -------------------------------------------------------------------------------------------------- paths and contents

TRAVERSALS = [
    "/v1/items/../../../../etc/passwd",
    "/v1/items/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/v1/items/%252e%252e%252fetc%252fpasswd",
    "/v1/items//etc/passwd",
    "/v1/items/%2Fetc%2Fpasswd/files/text/0",
    "/v1/items/boat/files/image/..%2f..%2fetc%2fpasswd",
    "/v1/items/boat/files/%2e%2e/0",
    "/v1/items/boat%00/files/image/0",
    "/v1/items/boat/files/image/0%00.png",
    "/v1/items/boat\\..\\..\\files/image/0",
    "/v1/items/file:%2F%2F%2Fetc%2Fpasswd/files/text/0",
    "/v1/items/boat/files/image/0/../../../../../../etc/passwd",
    "/static/../../etc/passwd",
    "/%c0%ae%c0%ae/etc/passwd",
]


@pytest.mark.parametrize("path", TRAVERSALS)
async def test_no_path_leads_to_a_file_that_is_not_the_collections(client: httpx.AsyncClient, path: str) -> None:
    # as it stands: the client itself would tidy dots away
    url = httpx.URL("http://127.0.0.1:8265").copy_with(raw_path=path.encode())
    answer = await client.send(httpx.Request("GET", url, headers={"Host": "127.0.0.1:8265"}))
    assert answer.status_code in {404, 422}
    assert "root:" not in answer.text


async def test_links_are_followed_no_further_than_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media", tmp_path / "private"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret.png").write_bytes(png((1, 2, 3)))
    (inside / "own.png").write_bytes(png((4, 5, 6)))
    (inside / "leaves.png").symlink_to(outside / "secret.png")
    (inside / "stays.png").symlink_to("own.png")
    (inside / "loop.png").symlink_to("loop.png")
    (tmp_path / "elsewhere").symlink_to(inside)
    os.mkfifo(inside / "pipe.png")
    rows = [
        item_row(name, image=[str(path)])
        for name, path in {
            "leaves": inside / "leaves.png",
            "stays": inside / "stays.png",
            "loop": inside / "loop.png",
            "pipe": inside / "pipe.png",
            "folder": inside,
            "gone": inside / "gone.png",
            "by a linked folder": tmp_path / "elsewhere" / "own.png",
        }.items()
    ]
    searcher = FakeSearcher(rows)
    searcher.collection.roots = (inside,)
    async with served(searcher) as client:
        refused(await client.get("/v1/items/leaves/files/image/0"), 404, "outside of the folders")
        for name in ("loop", "pipe", "folder", "gone"):
            refused(await client.get(f"/v1/items/{name}/files/image/0"), 404, "no longer what was added")
        for name in ("stays", "by a linked folder"):
            assert (await client.get(f"/v1/items/{name}/files/image/0")).content == png((4, 5, 6))


async def test_a_file_that_has_become_something_else_is_not_served(tmp_path: Path) -> None:
    svg, page, film = tmp_path / "a.png", tmp_path / "b.png", tmp_path / 'c"\r\nX-Evil: 1.txt'
    svg.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    page.write_text("<!DOCTYPE html><script>alert(1)</script>")
    film.write_text("<html><script>alert(1)</script></html>")
    rows = [item_row("svg", image=[str(svg)]), item_row("page", image=[str(page)]), item_row("text", text=[str(film)])]
    async with served(FakeSearcher(rows)) as client:
        refused(await client.get("/v1/items/svg/files/image/0"), 404)
        refused(await client.get("/v1/items/page/files/image/0"), 404)
        answer = await client.get("/v1/items/text/files/text/0")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
        assert answer.headers["content-disposition"] == 'inline; filename="c___X-Evil_ 1.txt"'
        assert "x-evil" not in answer.headers


async def test_what_browsers_do_not_show_is_offered_for_saving_only(tmp_path: Path) -> None:
    path = tmp_path / "scan.tiff"
    out = io.BytesIO()
    PillowImage.new("RGB", (4, 4)).save(out, "TIFF")
    path.write_bytes(out.getvalue())
    async with served(FakeSearcher([item_row("scan", image=[str(path)])])) as client:
        answer = await client.get("/v1/items/scan/files/image/0")
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == 'attachment; filename="scan.tiff"'


# ------------------------------------------------------------------------------------------------------------- bodies


def test_a_body_is_stopped_while_it_comes(rows: list[dict[str, Any]]) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 10**9:
            sent += 65536
            yield b"x" * 65536

    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/search", content=endless(), headers={"Content-Type": "application/json"})
        refused(answer, 413, "more than 300,000 bytes")
        assert answer.headers["connection"] == "close"

    run(work, FakeSearcher(rows), settings(max_body=300_000))
    assert sent < 10**6

    async def told(client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": "9" * 30}
        refused(await client.post("/v1/search", content=endless(), headers=headers), 413, "more than 300,000 bytes")

    run(told, FakeSearcher(rows), settings(max_body=300_000))


async def test_json_has_a_lower_bound_than_files(rows: list[dict[str, Any]]) -> None:
    big = png((1, 2, 3)) + b"\0" * 200_000
    async with served(FakeSearcher(rows), settings(max_json=100_000)) as client:
        refused(await client.post("/v1/search", json={"queries": [{"image": b64(big)}]}), 413, "multipart/form-data")
        assert (await client.post("/v1/search", files={"image": big})).status_code == 200


@pytest.mark.race
async def test_all_requests_together_hold_no_more_than_is_set_aside(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    searcher.gate.clear()
    body = {"queries": [{"text": "x " * 4000}]}
    async with served(searcher, settings(max_held=12_000)) as client:
        first = asyncio.create_task(client.post("/v1/search", json=body))
        await begun(searcher)
        second = await client.post("/v1/search", json=body)
        refused(second, 429, "memory that is set aside")
        assert int(second.headers["retry-after"]) >= 1
        searcher.gate.set()
        assert (await first).status_code == 200
        assert (await client.post("/v1/search", json=body)).status_code == 200, "what was held is given back"


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has many pixels, of a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(min(height * (width // 8 + 1), 2**24)), 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def long_silence(seconds: int) -> bytes:
    """A WAV that says it lasts long, of few bytes a second."""
    size = seconds * 8
    return (
        b"RIFF"
        + struct.pack("<I", 36 + size)
        + b"WAVEfmt "
        + struct.pack("<IHHIIHH", 16, 1, 1, 8, 8, 1, 8)
        + b"data"
        + struct.pack("<I", size)
        + b"\x80" * size
    )


def test_bombs_are_refused_before_they_go_off(rows: list[dict[str, Any]]) -> None:
    cases = {
        "image": (bomb(60_000, 60_000), "the image has 60,000 x 60,000"),
        "audio": (long_silence(700), "the limit is"),
    }

    async def work(client: httpx.AsyncClient) -> None:
        for kind, (data, says) in cases.items():
            refused(await client.post("/v1/search", files={kind: data}), 413, f"{kind} of 0", says)
        gz = zlib.compress(b"\0" * 10_000_000)
        refused(await client.post("/v1/search", files={"file": b"\x1f\x8b" + gz}), 415, "gzip")

    run(work, FakeSearcher(rows))
    tiny = settings(uploads=Limits(max_bytes=100, max_bytes_whole=100))

    async def small(client: httpx.AsyncClient) -> None:
        refused(await client.post("/v1/search", files={"image": png((1, 2, 3), (99, 99))}), 413, "the limit is 100")

    run(small, FakeSearcher(rows), tiny)


MALFORMED = [
    b"",
    b"\0" * 100,
    b"\xff\xd8\xff",
    b"GIF89a",
    b"RIFF\xff\xff\xff\xffWAVEfmt ",
    b"RIFF\0\0\0\0WEBPVP8 ",
    b"OggS\0",
    b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
    b"\0\0\0\x18ftypmp42" + b"\0" * 200,
    b"\x1a\x45\xdf\xa3" + b"\xff" * 200,
    b"#EXTM3U\nfile:///etc/passwd\n",
    b"II*\0\xff\xff\xff\xff",
]


async def test_malformed_files_are_told_apart_from_failures(client: httpx.AsyncClient) -> None:
    for data in MALFORMED:
        for kind in ("image", "audio"):
            answer = await client.post("/v1/search", files={kind: ("x", data)})
            assert answer.status_code in {413, 415, 422}, (data, answer.text)
            assert "passwd" not in answer.text


async def test_a_full_disk_is_told(rows: list[dict[str, Any]]) -> None:
    def full(files: Sequence[Path], /, *, label: str | None, folder: str | None, who: str) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/secret/place")

    async with served(FakeSearcher(rows), teaching=Teaching(add=full)) as client:
        answer = await client.post("/v1/items", files={"file": png((1, 2, 3))}, data={"label": "x"})
        refused(answer, 507, "no space", "send it again")
        assert "secret" not in answer.text


async def test_too_many_files_and_fields_are_refused(client: httpx.AsyncClient) -> None:
    files = [("file", png((1, 2, 3)))] * 65
    refused(await client.post("/v1/search", files=files), 400, "Too many files")
    fields = [("k", (None, "1"))] * 500
    refused(await client.post("/v1/search", files=fields), 400, "Too many fields")


# ---------------------------------------------------------------------------------------------- keys, names and headers


@pytest.fixture
def ring(tmp_path: Path) -> tuple[str, KeyRing]:
    key = make_key(tmp_path / "keys", name="ann")
    return key, KeyRing.read(tmp_path / "keys")


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


def test_only_a_right_key_comes_in(
    rows: list[dict[str, Any]], ring: tuple[str, KeyRing], caplog: pytest.LogCaptureFixture
) -> None:
    key, keys = ring

    async def work(client: httpx.AsyncClient) -> None:
        for wrong in ("", "Bearer", f"Bearer {key}x", f"Bearer {key[:-1]}", f"Bearer {key.upper()}", key, f"Token {key}",
                      "Basic ???", basic(""), basic(key + "x"), "Bearer " + "x" * 5000):  # fmt: skip
            for path in ("/v1/status", "/metrics", "/v1/nowhere", "/openapi.json"):
                if wrong:
                    answer = await client.get(path, headers={"Authorization": wrong})
                else:
                    answer = await client.get(path)
                if answer.status_code != 429:
                    refused(answer, 401, "Authorization: Bearer KEY")
                    assert answer.headers["www-authenticate"].startswith("Bearer")
        refused(await client.get("/v1/status"), 429, "without a right key")
        for right in (f"Bearer {key}", f"bearer {key}", basic(key)):
            assert (await client.get("/v1/status", headers={"Authorization": right})).status_code == 200
        assert (await client.get("/healthz")).status_code == 200

    with caplog.at_level(logging.DEBUG):
        run(work, FakeSearcher(rows), keys=keys)
    lines = "".join(JsonLines().format(record) for record in caplog.records)
    assert "key ann" in lines
    assert key not in lines


def test_a_key_is_kept_as_a_hash_that_only_its_owner_may_change(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second = make_key(path, name="ann"), make_key(path, name="bob")
    text = path.read_text()
    assert first not in text
    assert path.stat().st_mode & 0o777 == 0o600
    ring = KeyRing.read(path)
    assert (ring.name_of(first), ring.name_of(second), ring.name_of(first + " ")) == ("ann", "bob", None)
    again = make_key(path, name="ann")
    ring = KeyRing.read(path)
    assert (ring.name_of(first), ring.name_of(again), ring.name_of(second)) == (None, "ann", "bob")
    path.chmod(0o620)
    with pytest.raises(ChiasmError, match=r"others may write to the key file .* chmod 600"):
        KeyRing.read(path)
    path.chmod(0o600)
    path.write_text(first + "\n")
    with pytest.raises(ChiasmError, match=r"line 1: not NAME blake2b SALT HASH. Keys themselves never stand"):
        KeyRing.read(path)
    path.write_text("# none\n")
    with pytest.raises(ChiasmError, match=r"has no keys. Make one: chiasm make-key"):
        KeyRing.read(path)
    with pytest.raises(ChiasmError, match=r"cannot be read .* make-key"):
        KeyRing.read(tmp_path / "none")
    with pytest.raises(ChiasmError, match=r"a key's name has 1 to 64 letters"):
        make_key(path, name="a\nb")


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:8265", "127.0.0.1.evil.example"]
)
async def test_a_name_that_was_pointed_here_is_refused(client: httpx.AsyncClient, host: str) -> None:
    refused(await client.get("/v1/status", headers={"Host": host}), 421, "does not go by the name")
    refused(await client.get("/healthz", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["", "a b", "a@b", "a/b", "127.0.0.1:port", "[::1", "a,b", "127.0.0.1:123456"])
async def test_a_host_header_that_is_none_is_refused(client: httpx.AsyncClient, host: str) -> None:
    refused(await client.get("/v1/status", headers={"Host": host}), 400, "one Host header")


async def test_own_names_and_addresses_are_let_in(rows: list[dict[str, Any]]) -> None:
    async with served(FakeSearcher(rows), settings(host_names=("localhost", "search.example"))) as client:
        for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:8265", "192.168.1.7", "search.example"):
            assert (await client.get("/v1/status", headers={"Host": host})).status_code == 200, host


async def test_pages_of_other_sites_can_neither_send_nor_read(client: httpx.AsyncClient) -> None:
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://[",
        "x",
    ):
        answer = await client.post("/v1/search", json={"queries": [{"text": "x"}]}, headers={"Origin": origin})
        refused(answer, 403, "other sites")
        assert "access-control-allow-origin" not in answer.headers
    own = {"Origin": "http://127.0.0.1:8265", "Sec-Fetch-Site": "same-origin"}
    assert (await client.post("/v1/embed", json={"items": [{"text": "x"}]}, headers=own)).status_code == 200
    cross = await client.post("/v1/search", json={}, headers={"Sec-Fetch-Site": "cross-site"})
    refused(cross, 403, "other sites")
    asked = await client.options(
        "/v1/search", headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in asked.headers
    read = await client.get("/v1/status", headers={"Origin": "http://evil.example"})
    refused(read, 403, "other sites")
    assert "access-control-allow-origin" not in read.headers
    assert read.headers["cross-origin-resource-policy"] == "same-origin"


ELSEWHERE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def test_pictures_and_frames_of_other_sites_start_no_work(client: httpx.AsyncClient) -> None:
    for path in ("/v1/items", "/v1/search?text=x", "/v1/items/boat/files/image/0", "/metrics", "/report", "/"):
        refused(await client.get(path, headers=ELSEWHERE), 403, "other sites")
        neighbour = ELSEWHERE | {"Sec-Fetch-Site": "same-site"}  # another port of this machine
        refused(await client.get(path, headers=neighbour), 403, "other sites")
        framed = LINK | {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"}
        refused(await client.get(path, headers=framed), 403, "other sites")
    refused(await client.get("/v1/items", headers=LINK | {"Sec-Fetch-Site": "cross-site"}), 403)
    refused(await client.post("/", headers=LINK | {"Sec-Fetch-Site": "cross-site"}), 403)
    assert (await client.get("/", headers=LINK | {"Sec-Fetch-Site": "cross-site"})).status_code == 200
    assert (await client.get("/v1/items", headers=LINK | {"Sec-Fetch-Site": "none"})).status_code == 200
    own = ELSEWHERE | {"Sec-Fetch-Site": "same-origin"}
    assert (await client.get("/v1/items/boat/files/image/0", headers=own)).status_code == 200


async def test_every_answer_has_the_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/healthz", "/v1/status", "/v1/nowhere", "/v1/search?text=boom", "/openapi.json"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
    page = (await client.get("/static/none")).headers
    assert "script-src 'self'" in page["content-security-policy"]


@pytest.mark.parametrize("given", ["a b", "x" * 65, "a\tb", "ü", '"}', "", "a;b"])
async def test_only_sane_request_ids_are_taken_over(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/healthz", headers=[(b"X-Request-ID", given.encode("utf-8"))])
    assert answer.headers["x-request-id"] != given
    assert len(answer.headers["x-request-id"]) == 16
    kept = await client.get("/healthz", headers={"X-Request-ID": "job-7.a_B"})
    assert kept.headers["x-request-id"] == "job-7.a_B"


# ------------------------------------------------------------------------------------------------------------- floods


@pytest.mark.race
async def test_more_than_is_worked_on_is_sent_away(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    searcher.gate.clear()
    async with served(searcher, settings(max_requests=4)) as client:
        tasks = [asyncio.create_task(client.get("/v1/search", params={"text": "a red bird"})) for _ in range(4)]
        await begun(searcher)
        await at_work(client, 4)
        over = await client.get("/v1/search", params={"text": "x"})
        refused(over, 429, "4 requests are at work")
        assert int(over.headers["retry-after"]) >= 1
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
        searcher.gate.set()
        assert [(await task).status_code for task in tasks] == [200] * 4
        assert (await client.get("/v1/search", params={"text": "x"})).status_code == 200


async def test_a_full_queue_of_media_is_told(rows: list[dict[str, Any]]) -> None:
    async with served(FakeSearcher(rows), settings(max_media=8)) as client:
        many = {"queries": [{"text": str(number)} for number in range(9)]}
        over = await client.post("/v1/search", json=many)
        refused(over, 429, "waits to be embedded")
        assert int(over.headers["retry-after"]) >= 1
        assert (await client.get("/v1/search", params={"text": "x"})).status_code == 200


async def test_each_sender_has_a_rate(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    ann, bob = make_key(tmp_path / "keys", name="ann"), make_key(tmp_path / "keys", name="bob")
    async with served(FakeSearcher(rows), settings(rate=0.01, burst=5), keys=KeyRing.read(tmp_path / "keys")) as client:
        statuses = [
            (await client.get("/v1/status", headers={"Authorization": f"Bearer {ann}"})).status_code for _ in range(8)
        ]
        assert statuses[:5] == [200] * 5
        assert statuses[5:] == [429] * 3
        over = await client.get("/v1/status", headers={"Authorization": f"Bearer {ann}"})
        refused(over, 429, "more than 0.01 requests a second")
        assert 1 <= int(over.headers["retry-after"]) <= 101
        assert (await client.get("/v1/status", headers={"Authorization": f"Bearer {bob}"})).status_code == 200


def test_buckets_fill_with_time_and_their_number_is_bounded() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 3.0, most=10, clock=lambda: now[0])
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 0.25
    assert buckets.wait("a") == 0.25
    now[0] = 0.5
    assert [buckets.wait("a"), buckets.wait("a")] == [0, 0.5]
    now[0] = 100.0
    assert [buckets.wait("a") for _ in range(4)] == [0, 0, 0, 0.5]
    for number in range(1000):
        buckets.wait(f"address {number}")
    assert len(buckets) == 10


# ------------------------------------------------------------------------------------------- over a socket, for real


def read_to_end(connection: socket.socket) -> bytes:
    """What comes until the other side ends the connection; fails if it does not."""
    connection.settimeout(LIMIT)
    content = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            content += chunk
    return content


@pytest.mark.race
def test_slow_clients_are_cut_off_and_others_served(rows: list[dict[str, Any]]) -> None:
    options = settings(head_seconds=1.0, body_seconds=0.2)
    head = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    with (
        listening(create_app(options, FakeSearcher(rows))) as (address, _),
        socket.create_connection(address) as silent,
        socket.create_connection(address) as drip,
    ):
        stop = threading.Event()

        def dripping() -> None:
            with contextlib.suppress(OSError):
                for byte in head:
                    if stop.wait(0.05):
                        return
                    drip.sendall(bytes([byte]))

        thread = threading.Thread(target=dripping)
        thread.start()
        read_to_end(silent)
        read_to_end(drip)
        stop.set()
        thread.join()
    # From here on only what is tested has a clock that a busy machine could miss.
    with listening(create_app(replace(options, head_seconds=LIMIT), FakeSearcher(rows))) as (address, server):
        with socket.create_connection(address) as half:
            half.sendall(head + b"\r\n" + b"{")
            url = f"http://127.0.0.1:{address[1]}/v1/search"
            assert httpx.get(url, params={"text": "a red bird"}, timeout=LIMIT).status_code == 200
            answered = read_to_end(half)
            assert answered.startswith(b"HTTP/1.1 408 ")
            assert b"the body has not come within" in answered
        with socket.create_connection(address) as idle:  # the second head of a connection has to come in time, too
            idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            idle.settimeout(LIMIT)
            assert b"200 OK" in idle.recv(65536)
            server.config.head_seconds = 0.2  # type: ignore[attr-defined]
            with contextlib.suppress(ConnectionError):
                idle.sendall(b"GET /healthz HT")
            read_to_end(idle)


@pytest.mark.race
def test_a_connection_on_which_nothing_more_comes_is_ended(rows: list[dict[str, Any]]) -> None:
    with listening(create_app(settings(), FakeSearcher(rows))) as (address, server):
        server.config.timeout_keep_alive = 1
        with socket.create_connection(address) as quiet:
            quiet.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200 OK" in read_to_end(quiet)


@pytest.mark.race
def test_idle_connections_make_room(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    with (
        listening(create_app(settings(max_connections=6), searcher)) as (address, server),
        contextlib.ExitStack() as many,
    ):
        url = f"http://127.0.0.1:{address[1]}"
        wait_until(lambda: httpx.get(f"{url}/readyz", timeout=LIMIT).status_code == 200)
        searcher.gate.clear()
        before = searcher.asked
        busy = many.enter_context(socket.create_connection(address))
        busy.sendall(b"GET /v1/search?text=x HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        wait_until(lambda: searcher.asked > before)
        idle = [many.enter_context(socket.create_connection(address)) for _ in range(30)]
        idle[-1].sendall(b"GET /healthz HTTP/1.1\r\n")  # a head that has only begun
        for path in ("/healthz", "/v1/status"):
            assert httpx.get(url + path, timeout=LIMIT).status_code == 200
        assert [read_to_end(one) for one in idle[:24]] == [b""] * 24, "the first to come are the first to go"
        assert len(server.server_state.connections) <= 6
        searcher.gate.set()
        assert read_to_end(busy).startswith(b"HTTP/1.1 200"), "one that is at work stays"


@pytest.mark.race
def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("words " * 5_000_000)
    searcher = FakeSearcher([item_row("long", text=[str(path)])])
    with listening(create_app(settings(write_seconds=0.3), searcher)) as (address, server), socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(address)
        lazy.sendall(b"GET /v1/items/long/files/text/0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        lazy.settimeout(LIMIT)
        start = lazy.recv(12)
        assert start == b"HTTP/1.1 200"
        wait_until(lambda: not server.server_state.connections)
        assert len(start + read_to_end(lazy)) < path.stat().st_size
    with listening(create_app(settings(write_seconds=LIMIT), searcher)) as (address, _):
        whole = httpx.get(f"http://127.0.0.1:{address[1]}/v1/items/long/files/text/0", timeout=LIMIT)
        assert len(whole.content) == path.stat().st_size


@pytest.mark.race
@pytest.mark.parametrize(
    "request_",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-ID: a\r\n X-Evil: 1\r\n\r\n"[:-2] + b"\x00\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
    ids=["two hosts", "no host", "long header", "long path", "nul", "negative", "two lengths", "bad chunk", "TLS"],
)
def test_requests_that_are_not_http_are_refused_and_close_the_connection(
    rows: list[dict[str, Any]], request_: bytes
) -> None:
    with (
        listening(create_app(settings(head_seconds=1.0), FakeSearcher(rows))) as (address, server),
        socket.create_connection(address) as one,
    ):
        with contextlib.suppress(OSError):  # the server may have ended the connection already
            one.sendall(request_)
            one.shutdown(socket.SHUT_WR)
        answered = read_to_end(one)
        assert answered.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 414 ", b"HTTP/1.1 431 ")) or not answered
        assert b"evil" not in answered.lower()
        server.config.head_seconds = LIMIT  # type: ignore[attr-defined]
        assert httpx.get(f"http://127.0.0.1:{address[1]}/healthz", timeout=LIMIT).status_code == 200


@pytest.mark.race
def test_a_running_request_is_finished_when_the_server_stops(rows: list[dict[str, Any]]) -> None:
    searcher = FakeSearcher(rows)
    options = settings()
    server = uvicorn.Server(Config(create_app(options, searcher), options))
    answers: list[int] = []
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        wait_until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=LIMIT).status_code == 200)
        searcher.gate.clear()
        before = searcher.asked
        asking = threading.Thread(
            target=lambda: answers.append(
                httpx.get(f"http://127.0.0.1:{port}/v1/search", params={"text": "x"}, timeout=LIMIT).status_code
            )
        )
        asking.start()
        wait_until(lambda: searcher.asked > before)
        server.should_exit = True
        wait_until(lambda: bound.fileno() == -1)  # it takes no new connections
        assert thread.is_alive()
        searcher.gate.set()
        asking.join()
        thread.join()
    assert answers == [200]


# ---------------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "search.example"])
def test_an_address_that_is_open_to_others_needs_a_key(tmp_path: Path, host: str) -> None:
    with pytest.raises(
        ChiasmError, match=r"lets other machines in, and no API key is asked for. Make one: chiasm make-key"
    ):
        serve(tmp_path, host=host)


def test_what_cannot_be_served_is_said_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(ChiasmError, match=r"not a collection|no collection"):
        serve(tmp_path)
    with pytest.raises(ChiasmError, match=r"workers has to be at least 1"):
        serve(tmp_path, workers=0)
    with pytest.raises(ChiasmError, match=r"key file .* cannot be read"):
        serve(tmp_path, api_key_file=tmp_path / "none")
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(ChiasmError, match=r"cannot listen on 127.0.0.1:\d+: .* Try another --port"):
            listen("127.0.0.1", bound.getsockname()[1])
    with pytest.raises(ChiasmError, match=r"cannot listen on 203.0.113.5"):
        listen("203.0.113.5", 0)


def test_loopback_is_told_from_the_address() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")] == [False] * 5
