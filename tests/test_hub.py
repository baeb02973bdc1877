"""Models by hub id: a hub that does not answer is asked once, and one that may not be asked, not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from huggingface_hub import constants

from chiasm.encoders import resolve
from chiasm.errors import EncoderError
from chiasm.hub import model_folder
from chiasm.retrieval.rerank import Reranker


class Unavailable(BaseHTTPRequestHandler):
    """Answers nothing but 503, and keeps the paths of models that were asked for."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if self.path.startswith("/api/models") or "/resolve/" in self.path:
            self.asked.append(self.path)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
        """Say nothing."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """The requests to a hub that is down."""
    Unavailable.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Unavailable) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield Unavailable.asked
        server.shutdown()


@pytest.mark.parametrize("load", [resolve, Reranker], ids=["encoder", "reranker"])
def test_a_hub_that_is_down_is_asked_once(load: Callable[[str], object], asked: list[str]) -> None:
    with pytest.raises(EncoderError, match=r"'somebody/tiny' is no local folder, and .* did not give it .*503"):
        load("somebody/tiny")
    assert len(asked) == 1


@pytest.mark.parametrize("load", [resolve, Reranker], ids=["encoder", "reranker"])
def test_offline_mode_is_respected(
    load: Callable[[str], object], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="HF_HUB_OFFLINE"):
        load("somebody/tiny")
    assert asked == []


def test_what_is_in_the_cache_is_used_without_a_connection(asked: list[str], tmp_path: Path) -> None:
    snapshot = tmp_path / "models--somebody--tiny/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (tmp_path / "models--somebody--tiny/refs").mkdir()
    (tmp_path / "models--somebody--tiny/refs/main").write_text("abc")
    assert model_folder("somebody/tiny", examples="") == snapshot
    assert len(asked) == 1


def test_no_name_is_not_the_current_folder() -> None:
    with pytest.raises(EncoderError, match="has no name"):
        resolve("")
