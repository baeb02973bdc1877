"""The server: the verbs of `chiasm` over HTTP, with a page mounted beside them.

`chiasm.serving.run.serve` starts processes, `chiasm.serving.app.create_app` makes the application of its parts. This
package imports nothing by itself: the web libraries are loaded with the module that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chiasm._optional import require
from chiasm.encoders.runtime import Device


def serve(
    collection: str | Path,
    *,
    model: str | Path | None = None,
    space: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8265,
    api_key_file: str | Path | None = None,
    host_names: Sequence[str] = (),
    workers: int = 1,
    rate: float | None = None,
    query_log: str | Path | None = None,
    device: Device = "auto",
) -> None:
    """Serve a page for people and a REST API for programs, until stopped (Ctrl-C); running requests are finished.

    Args:
        collection: what is searched in. `add` may go on meanwhile: new items appear without a restart.
        model: a folder that `fit` wrote, to recognise with.
        space: name of the space to search in. Default: the newest.
        host: address to listen on. Any but this machine's own needs `api_key_file`.
        port: 0 takes a free one; the log says which.
        api_key_file: hashes of the keys that are let in, see `make_key`.
        host_names: names under which the server is reached, beside its addresses, this machine's name and localhost.
        workers: processes, which share the collection.
        rate: requests a second of one key. Default: 50 where keys are needed, else no limit.
        query_log: a file to keep the texts of queries in. Default: they are kept nowhere.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the address is open to others and no keys are given, the port is taken, or the collection, model or key
            file cannot be used.
    """
    require("fastapi", "serve", "serve a collection")
    from chiasm.serving.run import serve as run

    run(
        collection,
        model=model,
        space=space,
        host=host,
        port=port,
        api_key_file=api_key_file,
        host_names=host_names,
        workers=workers,
        rate=rate,
        query_log=query_log,
        device=device,
    )


def make_key(file: str | Path, *, name: str = "default") -> str:
    """Make an API key for `serve`. It is given once; the file keeps its hash.

    Args:
        file: with the hashes of keys; made where there is none.
        name: of the key, for the log.

    Raises:
        ChiasmError: the file cannot be written, or has a key of that name.
    """
    require("fastapi", "serve", "serve a collection")
    from chiasm.serving.keys import make_key as make

    return make(file, name=name)
