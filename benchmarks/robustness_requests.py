"""Requests that mean harm: Schemathesis over the API's own document, and attacks by hand, on a server that really runs.

The server is a process of its own with the offline encoder and a model, once open on loopback and once with a key. After every
attack it has to live and to answer its health check at once. Counted are ends of the process, requests without an answer,
answers of 500, and answers other than the attack has to get.
"""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import lance
import numpy as np
from PIL import Image as PillowImage

import chiasm
from benchmarks import record
from benchmarks.corpora import say
from benchmarks.serve import url_in, wait_for
from chiasm.client import Client

SEED = 0
EXAMPLES = 40  # a route, of right and of wrong requests each
PATIENCE = 90.0  # seconds without an answer that count as a hang; the server's own limit is 60
HEALTH_SECONDS = 5.0
SATURATION_SECONDS = 30.0
STOP_SECONDS = 60.0
SERVER = (
    "import sys; from chiasm.serving.run import serve; "
    "serve(sys.argv[1], model=sys.argv[2], port=0, rate=1e9, api_key_file=sys.argv[3] if len(sys.argv) > 3 else None)"
)
JSON = {"Content-Type": "application/json"}


@dataclass
class Attack:
    """What one kind of attack came to."""

    requests: int = 0
    crashes: int = 0
    hangs: int = 0
    errors: int = 0  # answers of 500
    wrong: int = 0  # answered otherwise than it has to be
    statuses: Counter[int] = field(default_factory=Counter)
    health: float = 0.0  # the longest that a health check took, in seconds


class Target:
    """A server under attack."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], headers: dict[str, str]) -> None:
        self.url, self.process, self.headers = url, process, headers
        self.address = (str(urlsplit(url).hostname), int(urlsplit(url).port or 0))
        self.attack = Attack()
        self._lock = threading.Lock()

    def ask(self, method: str, path: str, *, expect: set[int] | None = None, **asked: Any) -> httpx.Response | None:
        """Send a request and count what comes."""
        headers = self.headers | asked.pop("headers", {})
        try:
            answer = httpx.request(method, self.url + path, headers=headers, timeout=PATIENCE, **asked)
        except httpx.TimeoutException:
            self.count(None, expect)
            return None
        except (httpx.HTTPError, httpx.InvalidURL):  # the connection was closed, or httpx itself refuses to send it
            with self._lock:
                self.attack.requests += 1
            return None
        self.count(answer.status_code, expect)
        return answer

    def count(self, status: int | None, expect: set[int] | None = None) -> None:
        """Count one answer; None for none in time."""
        with self._lock:
            one = self.attack
            one.requests += 1
            one.hangs += status is None
            if status is not None:
                one.statuses[status] += 1
                one.errors += status == 500
                one.wrong += expect is not None and status not in expect

    def raw(self, data: bytes, *, wait: bool = True) -> None:
        """Send bytes and wait for what comes, or leave at once."""
        with suppress(OSError), socket.create_connection(self.address, timeout=PATIENCE) as connection:
            connection.sendall(data)
            if not wait:
                self.count(0)
                return
            try:
                head = connection.recv(4096)
            except TimeoutError:
                self.count(None)
                return
            self.count(int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0)

    def health(self) -> None:
        """See whether the server lives and says so at once."""
        begin = time.perf_counter()
        try:
            alive = httpx.get(f"{self.url}/healthz", timeout=PATIENCE).status_code == 200
        except httpx.HTTPError:
            alive = False
        seconds = time.perf_counter() - begin
        self.attack.health = max(self.attack.health, seconds)
        self.attack.hangs += not alive or seconds > HEALTH_SECONDS
        self.attack.crashes += self.process.poll() is not None


# ----------------------------------------------------------------------------------------------------------- attacks


def conditions(target: Target) -> None:
    """Conditions that ask for memory, time, paths and depth."""
    for where in (
        "array_resize(image, 100000000) = image",
        "levenshtein(repeat(id, 3000), repeat('b', 30000)) > 1",
        "_source LIKE '/%'",
        "image = 'x'",
        "regexp_like(id, '(a+)+$')",
        "(" * 900 + "true" + ")" * 900,
        "NOT " * 400 + "true",
        "id = '\0'",
        "id = 'a' UNION SELECT 1",
        "id LIKE '" + "%a" * 600 + "'",
        " OR ".join(["id=''"] * 280),
        "1e999 = n",
        "id = " + "9" * 1500,
    ):
        for path in ("/v1/items", "/v1/search?text=x"):
            joint = "&" if "?" in path else "?"
            target.ask("GET", f"{path}{joint}where={quote(where)}", expect={422})
    costly = " OR ".join(["lower(id) LIKE '%a%b%c%d%'"] * 60)
    target.ask("GET", f"/v1/items?where={quote(costly)}", expect={200})


def other_sites(target: Target) -> None:
    """What pages of other sites can send."""
    for headers in (
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ):
        for path in ("/v1/items", "/v1/search?text=x", "/v1/status", "/metrics"):
            target.ask("GET", path, headers=headers, expect={403})
        target.ask("POST", "/v1/learn", headers=headers, expect={403})
    for host in ("evil.example", "localhost.evil.example", "", "a b", "127.0.0.1@evil"):
        target.ask("GET", "/v1/items", headers={"Host": host}, expect={400, 421})


def odd_bodies(target: Target) -> None:
    """Depth, huge numbers, NUL, halves of surrogates, wrong encodings, odd forms."""
    bodies: list[bytes | str] = [
        "[" * 200_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"queries":[{"text":"x"}],"k":' + "9" * 10_000 + "}",
        '{"queries":[{"text":"x"}],"diversity":1e999}',
        '{"queries":NaN}',
        b'{"queries":[{"text":"\xff\xfe"}]}',
        "",
        "null",
    ]
    for text in ("\\ud800", "\\u0000", "x" * 20_000, "\\u202e\\u001b[31m", "a\\u0300" * 3000):
        bodies += [f'{{"queries":[{{"text":"{text}"}}]}}', f'{{"items":[{{"text":"{text}"}}]}}']
        bodies += [f'{{"queries":[{{"like":["{text}"]}}]}}', f'{{"entries":[{{"item":"{text}","verdict":"up"}}]}}']
        bodies += [f'{{"entries":[{{"item":"0","label":"{text}","column":"{text}"}}]}}']
    for route in ("/v1/search", "/v1/predict", "/v1/embed", "/v1/feedback", "/v1/labels"):
        for body in bodies:
            target.ask("POST", route, content=body, headers=JSON)
    kinds = [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "application/json; charset=utf-16",
        "text/plain",
        "x",
    ]
    for kind in kinds:
        for content in (b"", b"--\r\n\r\n", b"\0" * 100, b"--x--"):
            target.ask("POST", "/v1/search", content=content, headers={"Content-Type": kind}, expect={400, 415, 422})
    for name in ("a\0b.png", "x" * 3000 + ".png", "../../x.png", "\x1b[31m.png", "{}"):
        files = {"file": (name, picture(8, 8))}
        for label in ("0", "\0", "l\nx", "x" * 3000):
            target.ask("POST", "/v1/items", files=files, data={"label": label})
    gzipped = {"Content-Encoding": "gzip"} | JSON
    target.ask("POST", "/v1/search", content=zlib.compress(b"\0" * 10**7), headers=gzipped, expect={415})


def odd_addresses(target: Target) -> None:
    """Traversal, odd encodings, odd parameters and ranges."""
    parts = [
        "%00",
        "%ff",
        "%ed%a0%80",
        "x" * 20_000,
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "a%0Ab",
        "%252f",
        "..%5c..",
        "%",
    ]
    for part in parts:
        for path in ("/v1/items/{}", "/v1/items/{}/files/image/0", "/v1/items/{}/prediction", "/static/{}", "/{}"):
            target.raw(f"GET {path.format(part)} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head(target)}\r\n".encode())
        for query in ("/v1/search?text={}", "/v1/search?like={}", "/v1/items?after={}", "/v1/map?column={}"):
            target.raw(f"GET {query.format(part)} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head(target)}\r\n".encode())
    for asked in ("bytes=0-99999999999999999999", "bytes=-0", "bytes=5-2", "bytes=a", "bytes=0-0,1-1", "x"):
        target.ask("GET", "/v1/items/0/files/image/0", headers={"Range": asked}, expect={200, 206, 416})
    for value in ("-1", "1e9", "9" * 400, "NaN", ""):
        target.ask("GET", f"/v1/search?text=x&k={value}", expect={422})
        target.ask("GET", f"/v1/items?limit={value}", expect={422})


def broken_requests(target: Target) -> None:
    """What is no HTTP, or only half of it."""
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    ):
        for _ in range(3):
            target.raw(data)
            target.raw(data[: len(data) // 2], wait=False)
    body = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 999999\r\n\r\n{"
    for _ in range(40):
        target.raw(body, wait=False)


def bombs(target: Target) -> None:
    """Files that are larger than they look, and many that are as large as they may be."""
    for width, height in ((60_000, 60_000), (1, 2**31 - 1), (2**31 - 1, 1)):
        target.ask("POST", "/v1/search", files={"image": bomb(width, height)}, expect={413, 415, 422})
    silence = b"RIFF" + struct.pack("<I", 36 + 8 * 7000) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8, 8, 1, 8)
    target.ask("POST", "/v1/search", files={"audio": silence + b"data" + struct.pack("<I", 56_000) + b"\x80" * 56_000})
    large = picture(7000, 5700)
    many = [("file", (f"{number}.png", large)) for number in range(60)]
    begin = time.perf_counter()
    target.ask("POST", "/v1/search", files=many, expect={413})
    say(f"60 pictures of 40 megapixels: refused after {time.perf_counter() - begin:.1f} s")
    request = httpx.Request("POST", f"{target.url}/v1/search", files=many, headers=target.headers)
    request.read()
    lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    for _ in range(3):
        target.raw(f"POST /v1/search HTTP/1.1\r\n{lines}\r\n".encode() + request.content, wait=False)
    rng = np.random.default_rng(SEED)
    for data in (picture(64, 64), picture(64, 64, "TIFF"), picture(64, 64, "JPEG"), picture(64, 64, "GIF")):
        for _ in range(25):
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
            target.ask("POST", "/v1/search", files={"file": damaged.tobytes()[: rng.integers(1, len(data))]})


def idle(target: Target) -> None:
    """More connections than there may be, of which none asks."""
    with ExitStack() as many:
        for number in range(700):
            with suppress(OSError):
                one = many.enter_context(socket.create_connection(target.address, timeout=PATIENCE))
                if number % 2:
                    one.sendall(b"GET /healthz HT")
        for _ in range(5):
            target.ask("GET", "/v1/status", expect={200})
            target.health()


def gone(target: Target) -> None:
    """Clients that leave before their answer."""
    for _ in range(100):
        for path in ("/v1/items?limit=500", "/v1/search?text=a+red+circle", "/v1/map?layout=neighbours"):
            target.raw(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head(target)}\r\n".encode(), wait=False)


def uploads(target: Target) -> None:
    """As many uploads as come through for half a minute, of 16 clients, while the health is asked for."""
    end = time.monotonic() + SATURATION_SECONDS
    files = [("file", (f"{number}.png", picture(1500, 1500, seed=number))) for number in range(4)]

    def send() -> None:
        while time.monotonic() < end:
            target.ask("POST", "/v1/search", files=files, expect={200, 413, 429, 503})

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        target.health()
        time.sleep(0.2)
    for thread in threads:
        thread.join()


def keys(target: Target) -> None:
    """Wrong keys, in every form; most of one address are only told to wait."""
    refused = {400, 401, 429} if target.headers else {200}
    for value in (
        "Bearer x",
        "Bearer " + "x" * 10_000,
        "Basic !!!",
        "Basic " + base64.b64encode(b"\xff:\xff").decode(),
        "Basic " + base64.b64encode(b":").decode(),
        "Digest x",
        "",
    ):
        for _ in range(10):
            target.ask("GET", "/v1/status", headers={"Authorization": value}, expect=refused)


def crafted(target: Target) -> None:
    """An item of the collection names a file that is not what was added."""
    answer = target.ask("GET", "/v1/items/crafted/files/text/0", expect={404})
    target.attack.wrong += answer is not None and "xyzzy" in answer.text
    answer = target.ask("GET", "/v1/search?text=xyzzy&hybrid=true", expect={200})
    target.attack.wrong += answer is not None and "the passphrase" in answer.text


ATTACKS: tuple[Callable[[Target], None], ...] = (
    conditions, other_sites, odd_bodies, odd_addresses, broken_requests, bombs, idle, gone, uploads, keys, crafted,
)  # fmt: skip


def schemathesis_run(target: Target) -> None:
    """Right and wrong requests made from the API's own document."""
    import schemathesis
    from hypothesis import HealthCheck, given, seed, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis.core.result import Ok
    from schemathesis.generation import GenerationMode

    document = json.loads((Path(__file__).parents[1] / "docs/openapi.json").read_text(encoding="utf-8"))
    for operation in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(operation, Ok)
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @seed(SEED)
            @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.ok().as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                import requests

                try:
                    answer = case.call(base_url=target.url, headers=target.headers, timeout=PATIENCE)
                except requests.Timeout:
                    target.count(None)
                except (
                    requests.RequestException,
                    ValueError,
                ):  # the connection was closed, or it cannot be sent at all
                    target.count(0)
                else:
                    target.count(answer.status_code)

            with suppress(Unsatisfiable):  # nothing can be wrong in a request without parameters
                ask()


# ---------------------------------------------------------------------------------------------------------- the server


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        collection, model = made(Path(folder))
        key = chiasm.make_key(Path(folder) / "keys")
        rows: list[list[object]] = []
        for how, extra in (("open", []), ("with a key", [str(Path(folder) / "keys")])):
            with served([str(collection), str(model), *extra]) as (url, process):
                target = Target(url, process, {"Authorization": f"Bearer {key}"} if extra else {})
                for attack in (schemathesis_run, *ATTACKS):
                    target.attack = one = Attack()
                    attack(target)
                    target.health()
                    name = attack.__name__.removesuffix("_run").replace("_", " ")
                    say(f"{how}, {name}: {one}")
                    rows.append([f"{name}, {how}", one.requests, one.crashes, one.hangs, one.errors, one.wrong,
                                 f"{one.health:.2f}"])  # fmt: skip
                rows.append([f"told to stop at work, {how}", *stopped(target), ""])
    total = [sum(int(str(row[column])) for row in rows) for column in range(1, 6)]
    columns = (
        "attack",
        "requests",
        "crashes",
        "hangs",
        "answers of 500",
        "other wrong answers",
        "slowest health check, s",
    )
    body = record.table(columns, [*rows, ["all", *total, ""]])
    record.write(
        "robustness_requests",
        "Robustness: requests",
        str(SEED),
        body,
        command="python -m benchmarks.robustness requests",
    )


def stopped(target: Target) -> list[object]:
    """Tell the server to stop while it is at work; count a hang where it does not end at its limit."""
    rng = np.random.default_rng(SEED)
    busy = [("file", (f"{number}.png", picture(1500, 1500, seed=int(rng.integers(99))))) for number in range(30)]
    threads = [
        threading.Thread(target=target.ask, args=("POST", "/v1/search"), kwargs={"files": busy}) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    target.process.send_signal(signal.SIGTERM)
    begin = time.perf_counter()
    try:
        target.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return [8, 0, 1, 0, 0]
    finally:
        for thread in threads:
            thread.join()
    say(f"stopped after {time.perf_counter() - begin:.1f} s, exit code {target.process.returncode}")
    return [8, 0, 0, 0, 0]


def made(folder: Path) -> tuple[Path, Path]:
    """A collection of pictures with captions and labels, an item that was tampered with, and a model."""
    media = folder / "media"
    media.mkdir()
    for number in range(24):
        (media / f"{number}.png").write_bytes(picture(64, 64, seed=number))
    rows = [
        {"id": str(number), "image": f"{number}.png", "text": f"a picture {number}", "label": f"{number % 3}"}
        for number in range(24)
    ]
    (media / "list.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    own, secret = folder / "crafted.txt", folder / "secret.txt"
    own.write_text("a red kite", encoding="utf-8")
    secret.write_text("the passphrase is xyzzy", encoding="utf-8")
    chiasm.add([media / "list.jsonl", own], to=folder / "collection")
    chiasm.fit(folder / "collection", label="label", out=folder / "model", alike=2.0)
    for table, column, value in (("items", "text", f"make_array('{secret}')"), ("files", "path", f"'{secret}'")):
        key = "id" if table == "items" else "item"
        lance.dataset(str(folder / f"collection/{table}.lance")).update({column: value}, where=f"{key} = 'crafted'")
    return folder / "collection", folder / "model"


@contextmanager
def served(arguments: list[str]) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with (
        tempfile.NamedTemporaryFile(suffix=".jsonl") as log,
        subprocess.Popen([sys.executable, "-c", SERVER, *arguments], stderr=log) as process,
    ):
        try:
            url = wait_for(lambda: url_in(Path(log.name)))
            with Client(url, retries=0) as client:
                wait_for(client.is_ready)
            yield url, process
        finally:
            process.kill()


def picture(width: int, height: int, kind: str = "PNG", *, seed: int = SEED) -> bytes:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    PillowImage.fromarray(small).resize((width, height), PillowImage.Resampling.NEAREST).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that says it has many pixels, of a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    packed = zlib.compress(bytes(2**22), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def head(target: Target) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
