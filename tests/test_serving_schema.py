"""The API keeps to its own document, whatever is sent: Schemathesis makes requests from it, right and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fake_searcher import FakeSearcher, planted_rows
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.generation import GenerationMode
from starlette.types import Receive, Scope, Send

from chiasm.serving.app import create_app
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import Teaching

DOCUMENT = json.loads((Path(__file__).parents[1] / "docs" / "openapi.json").read_text(encoding="utf-8"))
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SCHEMA.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    def take(entries: Any, *, who: str) -> int:
        return len(entries)

    searcher = FakeSearcher(planted_rows(tmp_path_factory.mktemp("planted")))
    made = create_app(
        Settings(rate=None, batch_wait=0.0, host_names=("localhost", "testserver")),
        searcher,
        teaching=Teaching(rate=take, label=take, add=lambda files, *, label, folder, who: files[0].suffix or "item"),
    )

    async def always_up(scope: Scope, receive: Receive, send: Send) -> None:
        """Schemathesis starts and stops the application with every request; its threads are to live on."""
        if scope["type"] != "lifespan":
            await made(scope, receive, send)
            return
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return

    yield always_up
    made.state.shelf.close()


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@SCHEMA.exclude(path=["/healthz", "/readyz"]).parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented(case: Any, app: Any) -> None:
    case.call_and_validate(app=app, checks=CHECKS)
