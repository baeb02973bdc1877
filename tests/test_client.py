"""The client against a real server on a free port of this machine."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fake_searcher import WORDS, FakeSearcher, item_row, planted_rows, png
from waiting import LIMIT, wait_until

from chiasm.client import Client, ServerError
from chiasm.serving.app import create_app
from chiasm.serving.keys import KeyRing, make_key
from chiasm.serving.run import Config, listen
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import Teaching

came: list[Any] = []


def take(entries: Any, *, who: str) -> int:
    came.extend((who, entry) for entry in entries)
    return len(entries)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, FakeSearcher]]:
    """URL and key of a server, and its searcher."""
    folder = tmp_path_factory.mktemp("served")
    key = make_key(folder / "keys", name="ann")
    searcher = FakeSearcher([*planted_rows(folder), item_row("odd/ü ?#", text=["odd"])])
    searcher.collection.path = folder
    options = Settings(rate=1000.0, burst=1000.0, max_requests=2)
    app = create_app(options, searcher, keys=KeyRing.read(folder / "keys"), teaching=Teaching(rate=take, label=take))
    server = uvicorn.Server(Config(app, options))
    with listen("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with Client(url) as client:
            wait_until(client.is_ready)
        yield url, key, searcher
        server.should_exit = True
        thread.join()


def test_the_client_says_what_the_server_says(served: tuple[str, str, FakeSearcher], tmp_path: Path) -> None:
    url, key, _ = served
    picture = tmp_path / "blue.png"
    picture.write_bytes(png((20, 20, 220)))
    with Client(url, key=key) as client:
        assert client.search("a red bird", k=1)[0]["id"] == "birds/robin"
        for image in (picture, str(picture), picture.read_bytes()):
            assert client.search(image=image, modality="image", k=1)[0]["id"] == "boat"
        assert len(client.search("x", like=["boat"], minus="y", where=None)) == 7
        assert [one["query"] for one in client.search_many([{"text": "a"}, {"text": "b"}])] == [0, 1]
        vectors = client.embed("a red bird", image=picture)
        assert [float(np.linalg.norm(vector)) for vector in vectors.values()] == pytest.approx([1, 1], abs=1e-6)
        assert [item["id"] for item in client.items()] == [*sorted(WORDS), "odd/ü ?#"]
        assert client.item("odd/ü ?#")["media"][0]["text"] == "odd"
        assert client.file("boat", "image") == png((20, 20, 220))
        assert client.match("boat", "a ship")[0]["reasons"][0]["piece"] == "centre"
        assert client.file("boat", "image", size=160)[8:12] == b"WEBP"
        assert [item["id"] for item in client.items(sort="-id", where="id = 'boat'")] == ["boat"]
        assert client.facets(where="id = 'boat'")["total"] == 1
        assert b"boat" in client.export("csv", ids=["boat"])
        assert (client.change_list("fleet", add=["boat"]), client.lists()) == (1, {"fleet": 1})
        assert [item["id"] for item in client.items(within="fleet")] == ["boat"]
        assert client.status()["items"] == 4
        client.feedback("boat", "up", query="ship")
        client.label("boat", "ship")
        assert [(who, entry.item) for who, entry in came] == [("key ann", "boat")] * 2


def test_what_is_refused_is_raised_with_its_reason(served: tuple[str, str, FakeSearcher], tmp_path: Path) -> None:
    url, key, _ = served
    with Client(url, key=key) as client:
        with pytest.raises(ServerError, match="POST /v1/search: the text of 0 is empty") as raised:
            client.search("  ")
        assert (raised.value.status, raised.value.problem["title"]) == (422, "Unprocessable Entity")
        with pytest.raises(ServerError, match="at least one of image, text, audio, video and like is needed"):
            client.search()
        with pytest.raises(ServerError, match="no model"):
            client.predict("x")
        with pytest.raises(ServerError, match="no model"):
            client.explain("odd/ü ?#", column="kind", answer="boat")
        with pytest.raises(ServerError, match="no item of this id"):
            client.item("none")
        with pytest.raises(ServerError, match=r"the image .*none.png cannot be read: No such file"):
            client.search(image=tmp_path / "none.png")
    with Client(url, key="wrong") as client, pytest.raises(ServerError, match="an API key is needed") as raised:
        client.status()
    assert raised.value.status == 401


@pytest.mark.race
def test_a_busy_server_is_asked_again(served: tuple[str, str, FakeSearcher]) -> None:
    url, key, searcher = served
    searcher.gate.clear()
    found: list[str] = []

    def ask(retries: int) -> None:
        with Client(url, key=key, retries=retries) as client:
            found.append(client.search("a red bird", k=1)[0]["id"])

    threads = [threading.Thread(target=ask, args=(0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: counted(r"^chiasm_requests_running\{.*\} (.*)$", url, key) == [2])
    with (
        Client(url, key=key, retries=0) as impatient,
        pytest.raises(ServerError, match="2 requests are at work") as raised,
    ):
        impatient.status()
    assert raised.value.status == 429
    patient = threading.Thread(target=ask, args=(1000,))
    patient.start()
    wait_until(lambda: sum(counted(r'^chiasm_requests_total\{.*status="429".*\} (.*)$', url, key)) > 1)
    assert not found
    searcher.gate.set()
    for thread in (*threads, patient):
        thread.join()
    assert found == ["birds/robin"] * 3


def counted(pattern: str, url: str, key: str) -> list[float]:
    """Values of the server's metrics."""
    lines = httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {key}"}, timeout=LIMIT).text
    return [float(value) for value in re.findall(pattern, lines, re.MULTILINE)]
