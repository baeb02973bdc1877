"""A real server in a thread, on a free port of this machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI
from waiting import wait_until

from chiasm.serving.run import Config, listen


@contextlib.contextmanager
def listening(app: FastAPI, *, force: bool = False) -> Iterator[tuple[tuple[str, int], uvicorn.Server]]:
    """Yield the address of a server that has started, and the server; stop it at the end.

    Args:
        app: the application, as `create_app` makes it.
        force: whether connections that are open at the end are cut, such as those of a browser.
    """
    server = uvicorn.Server(Config(app, app.state.shared.settings))
    with listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield bound.getsockname(), server
        finally:
            server.should_exit = True
            server.force_exit = force
            thread.join()
