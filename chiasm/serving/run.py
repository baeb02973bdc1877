"""Run the server: addresses, keys, logs, worker processes, and how they stop.

Every worker process opens the collection for reading and has encoders, queue and counters of its own; what they share is
the socket. Slow clients are dealt with here, below HTTP, where connections can be cut.
"""

from __future__ import annotations

import asyncio
import faulthandler
import ipaddress
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import Multiprocess

from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.serving.app import create_shelf_app
from chiasm.serving.building import Plan, build_parts
from chiasm.serving.jobs import Jobs
from chiasm.serving.keys import KeyRing
from chiasm.serving.observe import log_lines, logger
from chiasm.serving.parts import Shared
from chiasm.serving.settings import Settings
from chiasm.serving.shelf import Shelf
from chiasm.store.collection import Collection
from chiasm.verbs.model import load_model

PORT = 8265
_WORKER = ExitStack()  # of a worker process, until it ends
_LONGEST_HEAD = 16 * 1024
_OPEN_SECONDS = 120  # until a browser is not opened any more
_WORKER_SECONDS = 120  # a worker that loads its libraries may not answer its parent for a while


def serve(
    collection: str | Path | Sequence[str | Path] = (),
    *,
    collections: str | Path | None = None,
    model: str | Path | None = None,
    space: str | None = None,
    host: str = "127.0.0.1",
    port: int = PORT,
    api_key_file: str | Path | None = None,
    host_names: Sequence[str] = (),
    workers: int = 1,
    rate: float | None = None,
    roots: Sequence[str | Path] = (),
    query_log: str | Path | None = None,
    max_pixels: int | None = None,
    edit: bool = False,
    open_page: bool = False,
    device: Device = "auto",
) -> None:
    """Serve a page for people and a REST API for programs until stopped (Ctrl-C, SIGTERM); running requests finish.

    Args:
        collection: the collection to search, or several, each of which has its own address, `/c/NAME/`. `add` may go on
            meanwhile: new items appear without a restart.
        collections: a folder of collections, all of which are served, also those that come into it later.
        model: a folder that `fit` wrote, to recognise with; of a server of one collection. Default: the newest that was made
            on the page, in the folder `models` of the collection.
        space: name of the space to search, of a server of one collection. Default: the newest.
        host: address to listen on. Any but a loopback address needs `api_key_file`.
        port: 0 takes a free one; the log names it.
        api_key_file: hashes of the accepted keys, see `make_key`.
        host_names: names under which the server is reached, besides its addresses, this machine's name and localhost.
        workers: number of processes, which share the collection.
        rate: requests a second of one key. Default: 50 where keys are needed, otherwise no limit.
        roots: folders whose files are given away, whatever the collection says. Default: those that `add` was given, or that
            hold the tables and files which it was given.
        query_log: a file to log the texts of queries in. Default: they are not kept.
        max_pixels: width times height above which an image that is sent is too large. Default: 40 million.
        edit: whether whoever may come in may add files, remove items, align, and fit models; and, in the folder
            `collections`, make collections.
        open_page: whether to open the page in this machine's browser, when it is there.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the address is open to others and no keys are given, the port is taken, or the collection, model or
            key file cannot be used.
    """
    if workers < 1:
        raise ChiasmError(f"workers has to be at least 1; got {workers}")
    keys = None if api_key_file is None else KeyRing.read(api_key_file)
    local = is_loopback(host)
    if not local and keys is None:
        raise ChiasmError(
            f"{host} lets other machines in, and no API key is asked for. Make one: chiasm make-key FILE, "
            "and serve with --api-key-file FILE; or stay on 127.0.0.1"
        )
    named = (collection,) if isinstance(collection, str | Path) else tuple(collection)
    paths = tuple(Path(one).absolute() for one in named)
    if not paths and collections is None:
        raise ChiasmError("there is nothing to serve: name a collection, or with --collections a folder of them")
    if len({path.name for path in paths}) < len(set(paths)):
        raise ChiasmError("two collections have one name, and it is their address. Serve them apart, or rename one")
    if (model is not None or space is not None) and (len(paths) != 1 or collections is not None):
        raise ChiasmError(
            "--model and --space are of one collection; serve it alone, or put its models into its folder models"
        )
    if collections is not None and (Path(collections) / "chiasm.json").exists():
        raise ChiasmError(f"{collections} is a collection itself. Serve it: chiasm serve {collections}")
    base = Settings()
    plan = Plan(
        collections=paths,
        folder=None if collections is None else _folder(collections, "holds collections"),
        workers=workers,
        model=None if model is None else Path(model).absolute(),
        space=space,
        device=device,
        keys=keys,
        edit=edit,
        settings=replace(
            base,
            host_names=(*base.host_names, *host_names, *(() if local else (socket.gethostname(), socket.getfqdn()))),
            rate=rate if rate is not None or keys is None else base.rate,
            roots=tuple(_folder(root, "has files that may be given away") for root in roots),
            query_log=None if query_log is None else Path(query_log).absolute(),
            uploads=base.uploads if max_pixels is None else replace(base.uploads, max_pixels=max_pixels),
        ),
    )
    for path in plan.collections:
        Collection.open(path)  # what is wrong is said here, not by every worker
    if plan.model is not None:
        load_model(plan.model)
    with log_lines(), listen(host, port) as listening:
        _run(plan, listening, workers=workers, local=local, open_page=open_page)


def _folder(path: str | Path, what: str) -> Path:
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ChiasmError(f"{path} is no folder. Name one that {what}")
    return folder


def _run(plan: Plan, listening: socket.socket, *, workers: int, local: bool, open_page: bool) -> None:
    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    url = f"http://{shown}:{address[1]}"
    logger.info("listening", extra={"fields": {"url": url, "workers": workers}})
    if open_page:
        threading.Thread(target=_open_page, args=(address[:2],), name="browser", daemon=True).start()
    if not local:
        logger.warning("keys and contents go over the network unencrypted; put a proxy with TLS in front")
    if workers == 1:
        app = build(plan)
        try:
            uvicorn.Server(Config(app, plan.settings)).run([listening])
        finally:
            if all(parts.engine.ended for parts in app.state.shelf.opened):
                faulthandler.cancel_dump_traceback_later()
    else:
        config = Config(partial(_build_or_exit, plan), plan.settings, factory=True, workers=workers)
        Multiprocess(config, sockets=[listening]).run()


def _open_page(address: tuple[str, int]) -> None:
    """Open the page in a browser as soon as somebody answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])  # noqa: S104  any address is one of ours
    for _ in range(_OPEN_SECONDS * 10):
        with suppress(OSError), socket.create_connection((host, address[1]), timeout=1):
            break
        time.sleep(0.1)
    else:
        return
    webbrowser.open(f"http://[{host}]:{address[1]}" if ":" in host else f"http://{host}:{address[1]}")


def build(plan: Plan) -> FastAPI:
    """Return the application of one process."""
    runs_jobs = plan.edit and plan.workers == 1  # of several processes each would know its own jobs only
    shared = Shared.of(plan.settings, Jobs(plan.settings.job_seconds) if runs_jobs else None)
    create = plan.create if plan.edit and plan.folder is not None else None
    shelf = Shelf(
        plan.known,
        lambda name, folder: build_parts(plan, name, folder, shared),
        most=plan.settings.max_open,
        create=create,
    )
    shelf.open_first(or_next=not plan.collections)  # nobody named those of a folder
    return create_shelf_app(shared, shelf, keys=plan.keys)


def _build_or_exit(plan: Plan) -> FastAPI:
    """Like `build`, in a worker: an error at start-up would repeat, so the parent is told to stop."""
    _WORKER.enter_context(log_lines())
    try:
        return build(plan)
    except ChiasmError as error:
        logger.error("cannot serve", extra={"fields": {"reason": str(error)}})
        sys.exit(STARTUP_FAILURE)


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        ChiasmError: the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            "127.0.0.1" if host == "localhost" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ChiasmError(f"cannot listen on {host}:{port}: {error}. Name an address of this machine") from error
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.set_inheritable(True)
    except OSError as error:
        listening.close()
        raise ChiasmError(f"cannot listen on {host}:{port}: {error.strerror or error}. Try another --port") from error
    return listening


class Config(uvicorn.Config):
    """Configure uvicorn: limits on request heads, connections and time, and no trust in proxy headers.

    Args:
        app: the application, or with `factory` what makes it.
        settings: bounds.
        factory: whether `app` makes one.
        workers: processes.
    """

    def __init__(self, app: Any, settings: Settings, *, factory: bool = False, workers: int = 1) -> None:
        self.end_seconds = settings.stop_seconds + 2 * settings.close_seconds
        self.max_connections = settings.max_connections
        self.head_seconds = settings.head_seconds
        self.write_seconds = settings.write_seconds
        super().__init__(
            app,
            factory=factory,
            workers=workers,
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=settings.stop_seconds,
            timeout_worker_healthcheck=_WORKER_SECONDS,
            h11_max_incomplete_event_size=_LONGEST_HEAD,
        )

    def load(self) -> None:
        """Load the application; from then on a signal to stop also sets the clock for the end of the process."""
        super().load()
        if threading.current_thread() is threading.main_thread():
            for number in HANDLED_SIGNALS:
                signal.signal(number, partial(_stop_in_time, signal.getsignal(number), self.end_seconds))


def _stop_in_time(stop: Any, seconds: float, number: int, frame: Any) -> None:
    """Have the process end after some seconds, whatever its threads do: this clock needs none of Python's locks."""
    faulthandler.dump_traceback_later(seconds, exit=True, file=os.open(os.devnull, os.O_WRONLY))
    stop(number, frame)


class Connection(H11Protocol):
    """Cut a connection whose client neither sends a request nor reads the answer in time.

    uvicorn itself waits without end for the first request, for the rest of a head, and for a full buffer to be read. Where it
    would refuse requests because there are too many connections, those that have been idle the longest are dropped instead.
    """

    config: Config
    _since = 0.0  # when it became idle
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first request head."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._await_head()
        if len(self.connections) > self.config.max_connections:
            idle = [one for one in self.connections if isinstance(one, Connection) and one._idle]
            min(idle, key=lambda one: one._since)._cut()

    def data_received(self, data: bytes) -> None:
        """Receive bytes; a head that has begun must end in time."""
        if self._idle and self._head is None:
            self._await_head()
        super().data_received(data)
        if not self._idle:
            self._stop_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_head()
        self._stop_write()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Start the clock for a client that does not read."""
        super().pause_writing()
        self._write = self._write or self.loop.call_later(self.config.write_seconds, self._cut)

    def resume_writing(self) -> None:
        """Stop that clock: the client has read."""
        self._stop_write()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Begin to count the time without a request."""
        self._since = self.loop.time()
        super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, dropping what its client has not read."""
        if self.transport.get_write_buffer_size():
            self._cut()
        else:
            super().timeout_keep_alive_handler()

    @property
    def _idle(self) -> bool:
        """Return whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head = self.loop.call_later(self.config.head_seconds, self._late)

    def _late(self) -> None:
        self._head = None
        if self._idle:
            self._cut()

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_write(self) -> None:
        if self._write is not None:
            self._write.cancel()
            self._write = None

    def _cut(self) -> None:
        self.connections.discard(self)  # at once: what comes before its end is told must not cut it again
        self.transport.abort()
