"""A recogniser of pictures as one HTML page, which runs its graph by the build of ONNX Runtime for browsers.

That build (MIT, from npm) is fetched once into the cache, and known by the digests of its files. The page holds it beside the
graph, asks no network for anything, and forbids itself to (Content Security Policy).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.encoders.cache import cache_folder
from chiasm.errors import ChiasmError
from chiasm.files import finite, write_whole

RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
_DIGESTS = {  # SHA-256
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
_SECONDS = 600  # of a download


def runtime_folder() -> Path:
    """Return where the files of the runtime are kept."""
    return cache_folder() / "npm" / f"{RUNTIME}-{VERSION}"


def runtime_files() -> dict[str, bytes]:
    """Return the script and the WebAssembly of ONNX Runtime, by name; fetched by npm where they are not in the cache.

    Raises:
        ChiasmError: npm is missing or failed, or a file is another one.
    """
    folder = runtime_folder()
    if not all((folder / name).is_file() for name in _DIGESTS):
        _fetch(folder)
    files = {name: (folder / name).read_bytes() for name in _DIGESTS}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != _DIGESTS[name]:
            raise ChiasmError(
                f"{folder / name} is not that of {RUNTIME} {VERSION}, by its digest: delete the folder, and it is fetched again"
            )
    return files


def _fetch(folder: Path) -> None:
    elsewhere = f"or lay {' and '.join(_DIGESTS)} of its folder dist into {folder}"
    npm = shutil.which("npm")
    if npm is None:
        raise ChiasmError(
            f"a page needs {RUNTIME} {VERSION}, which npm fetches once, and there is no npm: install it, {elsewhere}"
        )
    with tempfile.TemporaryDirectory() as work:
        command = [npm, "pack", "--silent", f"{RUNTIME}@{VERSION}"]
        try:
            done = subprocess.run(  # noqa: S603  # npm, with constants
                command, cwd=work, capture_output=True, text=True, check=False, timeout=_SECONDS
            )
            problem = done.stderr.strip()[-300:] if done.returncode else ""
            with tarfile.open(next(Path(work).glob("*.tgz"))) as archive:
                parts = {name: archive.extractfile(f"package/dist/{name}") for name in _DIGESTS}
                contents = {name: part.read() for name, part in parts.items() if part is not None}
        except (OSError, KeyError, StopIteration, EOFError, tarfile.TarError, subprocess.TimeoutExpired) as error:
            reason = problem if isinstance(error, StopIteration) else f"{type(error).__name__}: {error}"
            raise ChiasmError(
                f"npm did not give {RUNTIME} {VERSION} ({reason}): check the network, {elsewhere}"
            ) from error
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_whole(folder / name, content)


def page_of(graph: bytes, about: Mapping[str, Any], facts: Sequence[str], numbers: Sequence[tuple[str, str]]) -> str:
    """Return a page that recognises the pictures that are dropped on it.

    Args:
        graph: from `pixels` to `values` and `strange`, see `chiasm.shipping.whole`.
        about: `label`, `kind`, `names`, `side` of the pictures that the encoder sees, and what its answers are held against:
            `thresholds` (several labels), `radius` (of sets and intervals) and `alarm` (unknown), None where there is none.
        facts: what people are to know of the model, in sentences.
        numbers: by which it was measured, with their names.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    script, wasm = runtime_files().values()
    packed = {
        name: base64.b64encode(gzip.compress(content, mtime=0)).decode()
        for name, content in (("runtime", script), ("wasm", wasm), ("graph", graph))
    }
    pages = Environment(loader=PackageLoader("chiasm", "shipping"), autoescape=True, undefined=StrictUndefined)
    return pages.get_template("page.html.j2").render(
        about=finite(about), packed=packed, facts=facts, numbers=numbers, runtime=f"ONNX Runtime Web {VERSION}"
    )
