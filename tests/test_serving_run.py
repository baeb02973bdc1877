"""A collection on disk behind the API: `build` puts the real searcher and a fitted model together; no weights."""

from __future__ import annotations

import asyncio
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import lance
import numpy as np
import pytest
from fake_encoder import FakeEncoder
from fake_searcher import png
from test_serving import b64, refused
from waiting import LIMIT

import chiasm
from chiasm import encoders
from chiasm.errors import ChiasmError
from chiasm.serving.building import Plan
from chiasm.serving.run import build
from chiasm.serving.settings import Settings

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"))])
        yield


def table(folder: Path, numbers: range) -> Path:
    """Pictures of three colours, each a little brighter than the last, with a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in numbers:
        name = [*COLOURS][number % 3]
        rgb = tuple(min(255, value + number) for value in COLOURS[name])
        (folder / f"{number}.png").write_bytes(png((rgb[0], rgb[1], rgb[2])))
        rows.append({"id": f"{number:02}", "image": f"{number}.png", "text": f"{name} paint", "colour": name})
    path = folder / f"{numbers.start}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A collection and a model of its colours."""
    root = tmp_path_factory.mktemp("made")
    chiasm.add([table(root / "media", range(30))], to=root / "collection")
    chiasm.fit(root / "collection", label="colour", out=root / "model", alike=2.0)
    return root / "collection", root / "model"


def plan(collection: Path, model: Path | None = None) -> Plan:
    return Plan(
        collections=(collection,),
        model=model,
        space=None,
        device="cpu",
        keys=None,
        settings=Settings(rate=None, refresh_seconds=0.01),
    )


def ask(made: Plan, work: Any) -> None:
    async def inside() -> None:
        app = build(made)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            try:
                await work(client)
            finally:
                app.state.shelf.close()

    asyncio.run(inside())


def test_a_picture_finds_its_like_and_its_file(made: tuple[Path, Path]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        body = {
            "queries": [{"image": b64(png((37, 47, 227)))}],
            "modality": "image",
            "k": 3,
            "where": "colour = 'blue'",
        }
        (found,) = (await client.post("/v1/search", json=body)).json()["results"]
        best = found["hits"][0]
        assert best["metadata"] == {"colour": "blue"}
        assert best["url"] == f"/v1/items/{best['id']}/files/image/0"
        assert (await client.get(best["url"])).content.startswith(b"\x89PNG")
        assert [hit["metadata"]["colour"] for hit in found["hits"]] == ["blue"] * 3
        like = (await client.get("/v1/search", params={"like": best["id"], "k": 5})).json()["results"][0]["hits"]
        assert best["id"] not in [hit["id"] for hit in like]
        embedded = (await client.post("/v1/embed", json={"items": [{"text": "red paint"}]})).json()["embeddings"]
        assert np.linalg.norm(embedded[0]["vectors"]["text"]) == pytest.approx(1, abs=1e-5)
        ids = [item["id"] for item in (await client.get("/v1/items", params={"limit": 500})).json()["items"]]
        assert ids == sorted(ids)
        status = (await client.get("/v1/status")).json()
        assert (status["name"], status["columns"], status["label"]) == ("collection", ["colour"], None)

    ask(plan(made[0]), work)


def test_a_crafted_collection_gives_no_file_away(tmp_path: Path) -> None:
    own, secret = tmp_path / "media/own.txt", tmp_path / "private/secret.txt"
    for path, text in ((own, "a red kite"), (secret, "the passphrase is xyzzy")):
        path.parent.mkdir()
        path.write_text(text)
    chiasm.add([own.parent], to=tmp_path / "collection")
    status = secret.stat()
    values = {"path": str(secret), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    crafted = lance.dataset(str(tmp_path / "collection/files.lance"))
    crafted.update({name: repr(value) for name, value in values.items()})
    items = lance.dataset(str(tmp_path / "collection/items.lance"))
    items.update({"text": f"make_array('{secret}')"})

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/items")).json()["items"][0]["media"][0]["url"] == "/v1/items/own/files/text/0"
        refused(await client.get("/v1/items/own/files/text/0"), 404, "outside of the folders")
        words: dict[str, str | bool] = {"text": "passphrase xyzzy", "hybrid": True}
        answer = await client.get("/v1/search", params=words)
        assert "the passphrase" not in answer.text
        where = {"where": "contains(id, 'own')"}
        assert str(secret) not in (await client.get("/v1/items", params=where)).text

    ask(plan(tmp_path / "collection"), work)
    chiasm.search(tmp_path / "collection", "xyzzy", hybrid=True)
    documents = lance.dataset(str(tmp_path / "collection/fulltext/documents.lance")).to_table()["text"].to_pylist()
    assert not any("xyzzy" in text for text in documents)


def test_any_id_has_its_address(tmp_path: Path) -> None:
    names = [
        "a\nb",
        "a/b",
        "a%2Fb",
        "a/files/image/0",
        "a/prediction",
        "é",
        "/lead",
        "tail/",
        "q?x#y",
        "100%",
        "a\\b",
        " ",
    ]
    (tmp_path / "odd.jsonl").write_text("\n".join(json.dumps({"id": f"x{name}", "text": "a kite"}) for name in names))
    chiasm.add([tmp_path / "odd.jsonl"], to=tmp_path / "collection")

    async def work(client: httpx.AsyncClient) -> None:
        for name in names:
            address = f"/v1/items/{quote(f'x{name}', safe='')}"
            answer = await client.get(address)
            assert answer.status_code == 200, name
            assert answer.json()["id"] == f"x{name}"
            refused(await client.get(f"{address}/files/image/0"), 404, "there is no such file")
            refused(await client.get(f"{address}/prediction"), 404, "no model")
            assert (await client.get("/v1/search", params={"like": f"x{name}"})).status_code == 200
        assert (await client.get("/v1/items/xa/b")).json()["id"] == "xa/b", "plain slashes do, too"
        assert (await client.get("/v1/items/xe%CC%81")).json()["id"] == "xé", "however its letters are composed"

    ask(plan(tmp_path / "collection"), work)


def test_a_file_that_was_changed_is_served_again_once_it_is_added(tmp_path: Path) -> None:
    note = tmp_path / "media/note.txt"
    note.parent.mkdir()
    note.write_text("old")
    chiasm.add([note.parent], to=tmp_path / "collection")

    async def work(client: httpx.AsyncClient) -> None:
        url = "/v1/items/note/files/text/0"
        assert (await client.get(url)).text == "old"
        note.write_text("new words")
        refused(await client.get(url), 404, "no longer what was added")
        chiasm.add([note.parent], to=tmp_path / "collection")
        async with asyncio.timeout(LIMIT):
            while (answer := await client.get(url)).status_code != 200:
                await client.get("/v1/search", params={"text": "x"})  # looks for what is new
        assert answer.text == "new words"

    ask(plan(tmp_path / "collection"), work)


def test_what_the_real_searcher_refuses_is_told(made: tuple[Path, Path]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async def search(**params: Any) -> httpx.Response:
            return await client.get("/v1/search", params=params)

        refused(await search(text="x", where="colour = = 3"), 422, "cannot be used")
        refused(await search(text="x", where="(" * 900 + "true" + ")" * 900), 422, "cannot be used")
        refused(await search(text="x", modality="audio"), 422, "cannot find by 'audio'")
        refused(await search(text="x", min_probability="0.5"), 422, "has no probabilities")
        refused(await search(text="x", offset=9_999, k=2), 422, "at most 10000")
        refused(await search(like="nobody"), 422, "there is no item 'nobody'")
        refused(await search(text="x", minus="x"), 422, "nothing is left of the query")
        answer = await client.post("/v1/search", files={"audio": b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 28})
        refused(answer, answer.status_code)
        assert answer.status_code in {415, 422}

    ask(plan(made[0]), work)


def test_a_model_says_what_things_are_as_the_command_does(made: tuple[Path, Path], tmp_path: Path) -> None:
    collection, model = made
    for name, rgb in COLOURS.items():
        (tmp_path / f"{name}.png").write_bytes(png(rgb))
    told = {Path(str(one.path)).stem: one for one in chiasm.predict(model, [tmp_path]).predictions}

    async def work(client: httpx.AsyncClient) -> None:
        body = {"items": [{"image": b64(png(rgb))} for rgb in COLOURS.values()]}
        found = (await client.post("/v1/predict", json=body)).json()["predictions"]
        for name, one in zip(COLOURS, found, strict=True):
            assert one["label"] == told[name].label == name
            assert one["probability"] == pytest.approx(told[name].probability, abs=1e-5)
            assert (one["modalities"], tuple(one["set"])) == (["image"], told[name].set)
        both = {"items": [{"image": b64(png(COLOURS["red"])), "text": "red paint"}], "level": 0.5}
        (one,) = (await client.post("/v1/predict", json=both)).json()["predictions"]
        assert (one["label"], one["modalities"]) == ("red", ["image", "text"])
        files = [("file", png(rgb)) for rgb in COLOURS.values()]
        many = (await client.post("/v1/predict", files=files)).json()["predictions"]
        assert [one["label"] for one in many] == [*COLOURS]
        assert (await client.get("/v1/status")).json()["label"] == "colour"
        for level in (0.0, 1.0):
            edge = await client.post("/v1/predict", json=body | {"level": level, "false_alarm_rate": level})
            assert edge.status_code in {200, 422}, edge.text

    ask(plan(collection, model), work)


def test_a_model_says_why(made: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media/words.txt").write_text("red paint")
    (tmp_path / "media/odd.png").write_bytes(png((9, 90, 200)))
    collection = tmp_path / "collection"
    chiasm.add([table(tmp_path / "media/more", range(3)), tmp_path / "media"], to=collection)
    model = tmp_path / "model"
    chiasm.fit(made[0], label="colour", out=model, alike=2.0, adapter="linear", fusion="concat", names=False)
    (told,) = chiasm.explain(model, [tmp_path / "media/words.txt"]).explanations

    async def work(client: httpx.AsyncClient) -> None:
        why = (await client.get("/v1/items/00/explanation")).json()
        assert sum(why["modalities"].values()) + why["prior"] == pytest.approx(why["evidence"], abs=1e-9)
        assert [(one["modality"], one["number"], len(one["reasons"])) for one in why["media"]] == [
            ("image", 0, 49),
            ("text", 0, 2),
        ]
        predicted = (await client.get("/v1/items/00/prediction")).json()
        assert (why["answer"], why["probability"]) == (predicted["label"], pytest.approx(predicted["probability"]))
        other = (await client.get("/v1/items/00/explanation", params={"column": "colour", "answer": "blue"})).json()
        assert (other["answer"], other["probability"]) == (
            "blue",
            pytest.approx(predicted["probabilities"]["blue"], abs=1e-6),
        )
        words = await client.get("/v1/items/words/explanation")  # an item without a picture
        assert str(tmp_path) not in words.text
        (medium,) = words.json()["media"]
        assert medium["text"] == "red paint"
        assert [one["weight"] for one in medium["reasons"]] == pytest.approx(
            [one.weight for one in told.media[0].reasons], abs=1e-5
        )
        assert (why["faithfulness"], why["measured"]) == ({}, None), "it was not measured"
        ids = {one["id"] for one in why["examples"]}
        assert ids
        assert ids <= {"00", "01", "02"}, "what the model has learned from"
        measured = chiasm.explain(model, collection=made[0])
        why = (await client.get("/v1/items/00/explanation")).json()
        assert why["measured"] == measured.measured
        assert {name: one["deletion"] for name, one in why["faithfulness"].items()} == {
            name: one.curves.deletion for name, one in measured.faithfulness.items()
        }
        for medium in why["media"]:
            own = measured.faithfulness.get(medium["modality"])
            assert (medium["method"] is None) == (own is not None and not own.beats_random)
        (kept,) = model.glob("*/faithfulness.json")
        kept.write_text('{"colour": {"measured": 3, "media": {"image": 1}}}')  # damaged
        assert (await client.get("/v1/items/00/explanation")).json()["faithfulness"] == {}
        address = "/v1/items/00/explanation"
        refused(await client.get(address, params={"answer": "mauve"}), 422, "red")
        refused(await client.get(address, params={"column": "size"}), 422, "colour")
        refused(await client.get(address, params={"colour": "red"}), 422, "colour")
        refused(await client.get(address, params={"answer": "x" * 1001}), 422, "answer")
        refused(await client.get("/v1/items/none/explanation"), 404, "no item")
        (tmp_path / "media/odd.png").write_bytes(png((8, 8, 8)))
        refused(await client.get("/v1/items/odd/explanation"), 404, "no longer what was added")

    ask(plan(collection, model), work)

    async def without(client: httpx.AsyncClient) -> None:
        refused(await client.get("/v1/items/00/explanation"), 404, "no model")
        (match,) = (await client.get("/v1/items/00/match", params={"text": "red paint"})).json()["pictures"]
        assert (match["number"], len(match["reasons"])) == (0, 49)
        refused(await client.get("/v1/items/words/match", params={"text": "red"}), 422, "no picture")
        refused(await client.get("/v1/items/00/match"), 422, "text")
        refused(await client.get("/v1/items/00/match", params={"text": " "}), 422, "empty")
        refused(await client.get("/v1/items/none/match", params={"text": "red"}), 404, "no item")
        refused(await client.get("/v1/items/odd/match", params={"text": "red"}), 404, "no longer what was added")

    ask(plan(collection), without)


def test_uploads_leave_some_of_the_disk_free(made: tuple[Path, Path]) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/items", files={"file": png((9, 9, 9))}, data={"label": "red"})
        refused(answer, 507, "bytes are free on the disk")
        refused(await client.post("/v1/items", files={"file": png((9, 9, 9))}), 422, "without --edit")

    tight = plan(*made)
    ask(replace(tight, settings=replace(tight.settings, keep_free=2**60)), work)
    assert not (made[0] / "dropped").exists()


@pytest.mark.race
def test_what_is_added_meanwhile_is_found(made: tuple[Path, Path], tmp_path: Path) -> None:
    chiasm.add([table(tmp_path / "media", range(6))], to=tmp_path / "growing")

    async def work(client: httpx.AsyncClient) -> None:
        async def count() -> int:
            answer = await client.get("/v1/search", params={"text": "red paint", "k": 100})
            return len(answer.json()["results"][0]["hits"])

        assert await count() == 6
        chiasm.add([table(tmp_path / "media", range(6, 10))], to=tmp_path / "growing")
        async with asyncio.timeout(LIMIT):
            while await count() < 10:
                await asyncio.sleep(0.01)

    ask(plan(tmp_path / "growing"), work)


def test_new_items_are_judged_in_the_words_of_the_command(made: tuple[Path, Path], tmp_path: Path) -> None:
    collection, model = tmp_path / "growing", tmp_path / "model"
    shutil.copytree(made[0], collection)
    shutil.copytree(made[1], model)

    async def work(client: httpx.AsyncClient) -> None:
        told = chiasm.drift(model, collection)
        answer = (await client.get("/v1/drift")).json()
        assert answer == {"sentence": told.sentence, "warnings": list(told.warnings)}
        sentences.append(told.sentence)

    sentences: list[str] = []
    ask(plan(collection, model), work)
    chiasm.add([table(tmp_path / "media", range(100, 110))], to=collection)
    ask(plan(collection, model), work)
    assert "no items came" in sentences[0]
    assert "10 new items are too few" in sentences[1]


def test_a_model_of_other_encoders_is_refused(made: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: [FakeEncoder(("image", "text"), version="2")])
    with pytest.raises(ChiasmError, match=r"another (version|encoder)"):
        build(plan(*made))


def test_the_client_and_the_package_load_no_web_library() -> None:
    code = (
        "import sys; import chiasm, chiasm.client; print({'fastapi', 'uvicorn', 'pydantic', 'httpx'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()", done.stdout
