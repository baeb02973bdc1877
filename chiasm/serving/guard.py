"""Check every request before it reaches the application: admission, size limits, security headers, access log.

Request ids, Host and Origin, keys, rates, the number and size of requests at a time, time to send a body, security
headers, log and metrics. What a request asks for is left to `app`. Plain ASGI, so that nothing of a body is held here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import errno
import ipaddress
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import FileIO
from threading import Lock
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chiasm.files import one_form
from chiasm.serving.keys import KeyRing
from chiasm.serving.observe import Metrics, logger
from chiasm.serving.page import POLICY, is_page
from chiasm.serving.problems import Problem, busy, disk_full, unexpected
from chiasm.serving.settings import Settings
from chiasm.work import Work, doing

API_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
OPEN_PATHS = frozenset({"/healthz", "/readyz"})  # asked by supervisors, which have no key
_LIGHT_PATHS = OPEN_PATHS | {"/metrics", "/openapi.json"}  # answered also when everything else is busy
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?")
_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_BUCKETS = 10_000
_LONGEST_TARGET = 64 * 1024  # words of up to 10,000 characters, most of them of one byte
_FULL = {errno.ENOSPC, errno.EDQUOT}
_ITEMS = b"/v1/items/"
_COLLECTION = b"/c/"
_LONGEST_HEADERS = 16 * 1024
_GONE = 499  # the status, in logs and metrics, where the client has gone before its answer


class Held:
    """Count the bytes that running requests hold in bodies and decoded media."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._now = 0

    def take(self, size: int) -> None:
        """Add bytes.

        Raises:
            Problem: 429, there would be too many.
        """
        if self._now + size > self._most:
            raise busy("the files of other requests fill the memory that is set aside for them", 2.0)
        self._now += size

    def give(self, size: int) -> None:
        """Release bytes."""
        self._now -= size


class Buckets:
    """Keep a token bucket for each key or address; the least recently seen are forgotten.

    Args:
        rate: tokens a second.
        burst: tokens of a full bucket.
        most: buckets that are remembered. One that is forgotten is full again.
        clock: seconds.
    """

    def __init__(
        self, rate: float, burst: float, *, most: int = _BUCKETS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, who: str) -> float:
        """Take a token. Return 0, or the seconds until there is one."""
        now = self._clock()
        tokens, since = self._buckets.pop(who, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[who] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._rate


class Visit(Work):
    """Track one request: its id, its sender, the bytes it holds and its work. Kept in the scope's state as `visit`."""

    def __init__(self, request_id: str, held: Held, pixels: int) -> None:
        super().__init__(lambda: self._left, pixels)
        self.id = request_id
        self.who = ""
        self._held = held
        self._size = 0
        self._left = False
        self.until: float | None = None  # when its answer has to be there, by the clock of the loop
        self._files: list[FileIO] = []
        self._keeping = Lock()

    def hold(self, size: int) -> None:
        """Add bytes that are held until the request is answered.

        Raises:
            Problem: 429, all requests together hold too much.
        """
        self._held.take(size)
        self._size += size

    def keep(self, file: FileIO) -> None:
        """Close a file when the request ends, however it does; at once where it has. From any thread."""
        with self._keeping:
            if not self._left:
                self._files.append(file)
                return
        file.close()

    def leave(self) -> None:
        """Release what the request holds; work that is still done for it is given up."""
        self._held.give(self._size)
        self._size = 0
        with self._keeping:
            self._left = True
        for file in self._files:
            file.close()


class _Client:
    """Hands on what a client sends. Once it has sent all, the request's task is cancelled when it goes away."""

    def __init__(self, receive: Receive) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.is_gone = False
        self.is_answered = False
        self._receive = receive
        self._first: Message | None = None
        self._going: asyncio.Task[Message] | None = None

    async def watch(self, *, has_body: bool) -> None:
        """Begin to watch a client that sends no body, which nobody may ever ask for."""
        if not has_body:
            self._first = await self._next()

    async def receive(self) -> Message:
        """Return the next message: a part of the body, or that the client has gone."""
        if self._first is not None:
            message, self._first = self._first, None
            return message
        return await self._next()

    def leave(self) -> None:
        """Watch no longer."""
        if self._going is not None:
            self._going.cancel()

    async def _next(self) -> Message:
        if self._going is not None:
            return await asyncio.shield(self._going)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._going = asyncio.create_task(self._end())
        return message

    async def _end(self) -> Message:
        message = await self._receive()
        if not self.is_answered:
            self.is_gone = True
            self.task.cancel()
        return message


class Guard:
    """ASGI middleware around the API and the page.

    Args:
        app: what is behind it.
        settings: bounds.
        keys: who may come in; None: everybody, which is for loopback alone.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, keys: KeyRing | None, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._names = {name.lower() for name in settings.host_names}
        self._buckets = None if settings.rate is None else Buckets(settings.rate, settings.burst)
        self._strangers = Buckets(1.0, 20.0)  # wrong keys, by address
        self._held = Held(settings.max_held)
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; pass on lifespan events and refuse WebSockets."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)
        else:  # nothing here speaks WebSocket; refusing it leaves no way around the checks below
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        visit = Visit(_id_of(headers), self._held, self._settings.max_pixels)
        scope.setdefault("state", {})["visit"] = visit
        scope = _with_raw_ids(_of_collection(scope))
        path: str = scope["path"]
        extra = self._headers(visit.id, path)
        started = 0  # the status, once it is sent

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = message["status"]
                own = {name.lower() for name, _ in message.get("headers", ())}
                message = {
                    **message,
                    "headers": [*message.get("headers", ()), *(row for row in extra if row[0] not in own)],
                }
            client.is_answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        counted = False
        client = _Client(receive)
        try:
            try:
                self._admit(scope, headers, visit)
                if path not in _LIGHT_PATHS:
                    if self._running >= self._settings.max_requests:
                        raise busy(f"{self._running} requests are at work", 1.0)
                    self._running += 1
                    self._metrics.running.set(self._running)
                    counted = True
                await client.watch(has_body=not _was_read(headers))
                with doing(visit):
                    await self._app(scope, self._bounded(headers, client.receive, visit), send_with_headers)
            except Problem as problem:
                if started:
                    raise
                if not _was_read(headers):
                    problem.headers.setdefault("Connection", "close")  # the rest of the body is not read
                await problem.response(visit.id)(scope, receive, send_with_headers)
            except asyncio.CancelledError:
                client.task.uncancel()
                if client.is_gone:
                    started = _GONE
                elif not started:
                    stopping = Problem(503, "stopping", "the server is being stopped", headers={"Retry-After": "10"})
                    await stopping.response(visit.id)(scope, receive, send_with_headers)
            except Exception as error:
                if started:
                    raise
                if isinstance(error, OSError) and error.errno in _FULL:  # of the temporary files of a body
                    await disk_full("the server has no space for it").response(visit.id)(
                        scope, receive, send_with_headers
                    )
                    return
                logger.error("request failed", exc_info=True, extra={"fields": {"id": visit.id}})
                await unexpected(visit.id).response(visit.id)(scope, receive, send_with_headers)
        except Exception:  # noqa: BLE001  # the answer has begun: there is nothing to say but to break it off
            logger.error("answer broken off", exc_info=True, extra={"fields": {"id": visit.id}})
            raise _BrokenOffError from None
        finally:
            client.leave()
            visit.leave()
            if counted:
                self._running -= 1
                self._metrics.running.set(self._running)
            self._tell(scope, visit, started, time.perf_counter() - begin)

    # --------------------------------------------------------------------------------------------------- may it come in

    def _admit(self, scope: Scope, headers: Mapping[bytes, bytes], visit: Visit) -> None:
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > _LONGEST_TARGET:
            raise Problem(414, "too-large", f"a path with its parameters has at most {_LONGEST_TARGET:,} bytes")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > _LONGEST_HEADERS:
            raise Problem(431, "too-large", f"headers have at most {_LONGEST_HEADERS:,} bytes together")
        host = _host_of(headers.get(b"host", b""))
        if host is None or sum(name == b"host" for name, _ in scope["headers"]) != 1:
            raise Problem(400, "host", "a request has one Host header, a name or address with or without a port")
        name, port = host
        if not _is_address(name) and name not in self._names:
            raise Problem(
                421,
                "host",
                "this server does not go by the name in the Host header. Use its address, or start it with this name "
                "among its host names",
            )
        if _is_foreign(scope, headers, name, port):
            raise Problem(403, "origin", "pages of other sites may not send requests to this server")
        address = _address_of(scope)
        if scope["path"] in OPEN_PATHS:
            return
        visit.who = f"address {address}"
        if self._keys is not None:
            found = self._keys.name_of(_key_of(headers))
            if found is None:
                wait = self._strangers.wait(address)
                if wait > 0:
                    raise busy("too many requests without a right key came from this address", wait)
                raise Problem(
                    401,
                    "key",
                    "an API key is needed: send Authorization: Bearer KEY. In a browser, give the key as the password",
                    headers={"WWW-Authenticate": 'Bearer realm="chiasm", Basic realm="chiasm", charset="UTF-8"'},
                )
            visit.who = f"key {found}"
        if self._buckets is not None:
            wait = self._buckets.wait(visit.who)
            if wait > 0:
                raise busy(f"more than {self._settings.rate:g} requests a second came from one sender", wait)

    # ------------------------------------------------------------------------------------------------- how much of it

    def _bounded(self, headers: Mapping[bytes, bytes], receive: Receive, visit: Visit) -> Receive:
        """Wrap `receive` so that a body that is too large or too slow is stopped while it arrives."""
        most, deadline = self._settings.max_body, time.monotonic() + self._settings.body_seconds
        told = headers.get(b"content-length", b"")
        if told.isdigit() and int(told[:20]) > most:
            raise _too_large(most)
        encoding = headers.get(b"content-encoding", b"identity").strip().lower()
        if encoding not in (b"", b"identity"):
            raise Problem(415, "encoding", "compressed bodies are not taken. Send it without Content-Encoding")
        seen, ended = 0, False

        async def bounded() -> Message:
            nonlocal seen, ended
            if ended:  # what comes now tells that the client has gone, whenever that is
                return await receive()
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + max(deadline - time.monotonic(), 0)):
                    message = await receive()
            except TimeoutError as error:
                raise Problem(
                    408, "slow", f"the body has not come within {self._settings.body_seconds:g} s",
                    headers={"Connection": "close"},
                ) from error  # fmt: skip
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > most:
                    raise _too_large(most)
                visit.hold(len(message.get("body", b"")))
                ended = not message.get("more_body", False)
            return message

        return bounded

    # ------------------------------------------------------------------------------------------------ what is said of it

    def _headers(self, request_id: str, path: str) -> list[tuple[bytes, bytes]]:
        policy = POLICY if is_page(path) else API_POLICY
        return [
            (b"x-request-id", request_id.encode("ascii")),
            (b"content-security-policy", policy.encode("latin-1")),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
        ]

    def _tell(self, scope: Scope, visit: Visit, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.answered(method, route, status, seconds)
        if logger.isEnabledFor(logging.INFO) and route not in OPEN_PATHS:
            fields: dict[str, Any] = {
                "id": visit.id,
                "method": method,
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "who": visit.who,
            }
            logger.info("request", extra={"fields": fields})


class _BrokenOffError(Exception):
    """Signal that an answer broke off half-way; the server closes the connection. The cause is in the log already."""


def _too_large(most: int) -> Problem:
    return Problem(
        413, "too-large", f"the body has more than {most:,} bytes. Send fewer or smaller files",
        headers={"Connection": "close"},
    )  # fmt: skip


def _was_read(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether no body was announced, so that nothing of one can be left in the connection."""
    return b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0"


def _id_of(headers: Mapping[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"")
    return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def _host_of(value: bytes) -> tuple[str, str | None] | None:
    match = _HOST.fullmatch(value.decode("latin-1"))
    return None if match is None else (match["name"].lower(), match["port"])


def _is_address(name: str) -> bool:
    """Return whether a host is a literal address, which DNS rebinding cannot produce."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _of_collection(scope: Scope) -> Scope:
    """Return the scope with the name of the collection that its path begins with in the state, and the path without it."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    scope["state"]["collection"] = ""
    if not raw.startswith(_COLLECTION):
        return scope
    name, _, rest = raw.partition(b"?")[0].removeprefix(_COLLECTION).partition(b"/")
    scope["state"]["collection"] = one_form(unquote(name.decode("latin-1")))
    rest = b"/" + rest
    return {**scope, "raw_path": rest, "path": unquote(rest.decode("latin-1"))}


def _with_raw_ids(scope: Scope) -> Scope:
    """Return the scope with the path as it was sent where it names an item: decoded, an id with slashes looks like a route."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    if not raw.startswith(_ITEMS):
        return scope
    return {**scope, "path": raw.partition(b"?")[0].decode("latin-1")}


def _is_foreign(scope: Scope, headers: Mapping[bytes, bytes], name: str, port: str | None) -> bool:
    """Return whether a page of another site sends the request. Reading counts, too: an image may start costly work.

    A link from elsewhere may lead to the page itself. Programs and old browsers send neither of the headers.
    """
    origin = headers.get(b"origin")
    if origin is not None and not _same_origin(origin, name, port):
        return True
    if headers.get(b"sec-fetch-site", b"none") in (b"same-origin", b"none"):
        return False
    is_link = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    return not (is_link and scope["method"] in ("GET", "HEAD") and scope["path"] == "/")


def _same_origin(origin: bytes, name: str, port: str | None) -> bool:
    try:
        parts = urlsplit(origin.decode("ascii"))
        given = parts.port
    except (UnicodeDecodeError, ValueError):
        return False
    usual = {"http": 80, "https": 443}
    if parts.scheme not in usual or parts.hostname is None:
        return False
    own = usual[parts.scheme] if port is None else int(port)
    return parts.hostname == name.strip("[]") and (given or usual[parts.scheme]) == own


def _address_of(scope: Scope) -> str:
    """Return the sender's address; for IPv6 its /64, all of which one sender controls."""
    client = scope.get("client")
    if not client:
        return "none"
    try:
        address = ipaddress.ip_address(str(client[0]).partition("%")[0])
    except ValueError:
        return "none"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None and not address.is_loopback:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _key_of(headers: Mapping[bytes, bytes]) -> str:
    """Return the API key of a request, as a bearer token (RFC 6750) or a basic-auth password (RFC 7617); "" without one."""
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")[2]
        except (binascii.Error, UnicodeDecodeError, ValueError):
            return ""
    return ""
