"""Collections and models as objects: `chiasm.open`, `chiasm.load`, and what goes to a hub and comes back."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants
from PIL import Image

import chiasm
from chiasm.errors import ChiasmError, CollectionError, EncoderError, SpaceError

COLOURS = {"red": (220, 20, 20), "green": (20, 180, 20), "blue": (20, 20, 220), "yellow": (230, 220, 20)}


def painted(name: str, seed: int) -> np.ndarray:
    """Return a picture of one colour with some noise."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(COLOURS[name], 12, (24, 24, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures() -> pd.DataFrame:
    """Pictures of four colours, eight each, half of them with a caption."""
    rows: list[dict[str, Any]] = []
    for number in range(8):
        for name in COLOURS:
            caption = f"a plain picture in {name}" if number % 2 else None
            rows.append(
                {
                    "id": f"{name}/{number}",
                    "image": Image.fromarray(painted(name, number)),
                    "text": caption,
                    "label": name,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory, pictures: pd.DataFrame) -> chiasm.OpenCollection:
    opened = chiasm.open(tmp_path_factory.mktemp("objects") / "colours")
    assert len(opened) == 0
    report = opened.add(pictures)
    assert (report.items, report.counts["ok"] + report.counts.get("duplicate", 0)) == (32, 48)
    return opened


@pytest.fixture(scope="module")
def model(collection: chiasm.OpenCollection) -> chiasm.SavedModel:
    return collection.fit("label", adapter="linear", modalities=["image"])


def test_a_collection_is_added_to_once(collection: chiasm.OpenCollection, pictures: pd.DataFrame) -> None:
    report = collection.add(pictures)
    assert (report.items, report.encoded, report.gone) == (32, 0, ())
    assert (len(collection), collection.columns) == (32, ["label"])
    assert "32 items" in repr(collection)
    assert collection.status().items == 32
    assert collection.to_pandas(where="label = 'red'")["label"].unique().tolist() == ["red"]


def test_hits_are_a_sequence(collection: chiasm.OpenCollection) -> None:
    hits = collection.search(like="red/0", k=5, modality="image")
    assert len(hits) == 5
    assert [hit.id for hit in hits] == hits.ids == list(hits.to_pandas()["id"])
    assert hits[0].metadata["label"] == "red"
    assert [hit.id for hit in hits[1:3]] == hits.ids[1:3]
    assert hits.ids == [hit.id for hit in chiasm.search(collection.path, like="red/0", k=5, modality="image").hits]
    assert hits.vectors.shape == (5, hits.vectors.shape[1])
    assert np.allclose(np.linalg.norm(hits.vectors, axis=1), 1, atol=1e-5)
    assert collection.search("blue", where="label = 'none'").vectors.shape[0] == 0


def test_a_picture_in_memory_is_searched_with(collection: chiasm.OpenCollection, tmp_path: Path) -> None:
    pixels = painted("red", 100)
    Image.fromarray(pixels).save(tmp_path / "red.png")
    by_file = collection.search(image=tmp_path / "red.png", modality="image").ids
    assert collection.search(image=pixels, modality="image").ids == by_file
    assert collection.search(image=[Image.fromarray(pixels)], modality="image").ids == by_file
    assert collection.search("a picture", minus_image=pixels).ids
    with pytest.raises(SpaceError, match="uint8"):
        collection.search(image=pixels.astype(float))


def test_a_search_sees_what_was_added_since(tmp_path: Path) -> None:
    opened = chiasm.open(tmp_path / "c")
    opened.add({"id": ["a"], "text": ["a ship"]})
    assert opened.search("boat").ids == ["a"]
    opened.add({"id": ["b"], "text": ["a boat"]})
    assert opened.search("boat").ids == ["b", "a"]
    assert opened.remove(where="id = 'b'").items == ("b",)
    assert opened.search("boat").ids == ["a"]


def test_hits_are_shown_with_small_pictures_and_nothing_of_their_words_is_markup(tmp_path: Path) -> None:
    opened = chiasm.open(tmp_path / "c")
    name = "<script>alert(1)</script>\"'"
    large = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    opened.add({"id": [name, "words"], "image": [large, None], "text": [None, "<b>bold</b>"], "score": [1, 2]})
    shown = opened.search("anything")._repr_html_()
    assert "<script" not in shown
    assert "<b>bold" not in shown
    assert "data:image/jpeg;base64," in shown
    assert len(shown) < 60_000
    assert list(opened.search("x").to_pandas()["metadata.score"]) != []
    assert "nothing found" in opened.search("x", where="score > 5")._repr_html_()


def test_a_picture_that_is_gone_is_said_in_its_place(tmp_path: Path) -> None:
    Image.new("RGB", (30, 30), "red").save(tmp_path / "a.png")
    opened = chiasm.open(tmp_path / "c")
    opened.add(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    assert "does not exist" in opened.search("red")._repr_html_()


def test_a_model_predicts_what_it_is_given(model: chiasm.SavedModel, tmp_path: Path) -> None:
    Image.fromarray(painted("blue", 100)).save(tmp_path / "new.png")
    new = painted("green", 100)
    assert model.predict([tmp_path / "new.png"]).labels == ["blue"]
    predictions = model.predict([new, new.astype(float)])
    assert predictions.labels == ["green"]
    assert predictions.outcomes
    frame = predictions.to_pandas()
    assert frame["p(green)"][0] == pytest.approx(frame["probability"][0])
    assert "data:image/jpeg" in predictions._repr_html_()
    assert "green" in repr(predictions)
    assert model.label == "label"
    assert model.report["metrics"]["accuracy"] > 0.8


def test_a_model_is_saved_and_loaded(
    model: chiasm.SavedModel, collection: chiasm.OpenCollection, tmp_path: Path
) -> None:
    saved = model.save(tmp_path / "kept")
    again = chiasm.load(tmp_path / "kept")
    new = [painted("red", 100)]
    assert again.predict(new)[0].probabilities == model.predict(new)[0].probabilities
    assert saved.path == again.path
    assert again.evaluate(collection, label="label").as_dict()
    with pytest.raises(ChiasmError, match="is not a model"):
        chiasm.load(tmp_path)


def test_a_model_without_a_folder_goes_with_its_object(collection: chiasm.OpenCollection) -> None:
    fitted = collection.fit("label", adapter="prototypes", modalities=["image"], names=False)
    path = fitted.path
    assert path.exists()
    del fitted
    assert not path.exists()


def test_what_is_no_collection_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CollectionError, match="is not a collection"):
        chiasm.open(tmp_path)
    with pytest.raises(CollectionError, match="is not a collection"):
        chiasm.open(tmp_path / "new").search("x")


def test_a_searcher_has_a_space_of_its_own(collection: chiasm.OpenCollection) -> None:
    searcher = chiasm.Searcher(collection.path)
    assert chiasm.search(searcher, "red", k=1).hits
    with pytest.raises(SpaceError, match="of its own"):
        chiasm.search(searcher, "red", space="start")


# -------------------------------------------------------------------------------------------------------------- the hub


def test_the_card_says_what_the_model_is(model: chiasm.SavedModel) -> None:
    card = model.card
    assert card.startswith("---\nlibrary_name: ")
    assert all(name in card for name in COLOURS)
    assert "accuracy" in card
    assert "SavedModel.from_pretrained" in card
    assert [path.read_text(encoding="utf-8") for path in model.path.rglob("README.md")] == [card]


class Hub(BaseHTTPRequestHandler):
    """Takes a commit as the Hugging Face hub does, and keeps the files."""

    files: ClassVar[dict[str, bytes]] = {}
    deleted: ClassVar[list[str]] = []
    refuses: ClassVar[bool] = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refuses:
            self.answer({"error": "you may not"}, 403)
        elif self.path.endswith("/repos/create"):
            self.answer({"url": f"http://{self.headers['Host']}/somebody/colours", "name": "somebody/colours"})
        elif self.path.endswith("/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "deletedFile":
                    self.deleted.append(line["value"]["path"])
            url = f"http://{self.headers['Host']}/somebody/colours/commit/1"
            self.answer({"commitUrl": url, "commitOid": "1", "success": True})
        else:
            self.answer({}, 404)

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            self.answer([{"type": "file", "path": "old.txt", "oid": "1", "size": 1}])
        else:
            self.answer({"id": "somebody/colours", "sha": "1", "siblings": [{"rfilename": "old.txt"}], "tags": []})

    def answer(self, document: Any, status: int = 200) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name in the library
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    Hub.files.clear()
    Hub.deleted.clear()
    Hub.refuses = False
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield Hub
        server.shutdown()


def test_a_model_goes_to_a_hub_and_comes_back(
    model: chiasm.SavedModel, hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model.push_to_hub("somebody/colours", token="hf_x").endswith("/somebody/colours/commit/1")
    assert hub.files["README.md"].decode() == model.card
    assert "old.txt" in hub.deleted
    assert not any(name.endswith(".lock") for name in hub.files)
    snapshot = tmp_path / "hub/models--somebody--colours/snapshots/1"
    for name, content in hub.files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).write_bytes(content)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = chiasm.SavedModel.from_pretrained("somebody/colours")
    new = [painted("red", 100)]
    assert again.predict(new)[0].probabilities == model.predict(new)[0].probabilities


def test_a_hub_that_refuses_is_said(model: chiasm.SavedModel, hub: type[Hub]) -> None:
    hub.refuses = True
    with pytest.raises(ChiasmError, match="was not pushed"):
        model.push_to_hub("somebody/colours", token="hf_x")
    with pytest.raises(EncoderError, match="no folder"):
        chiasm.SavedModel.from_pretrained("no such/name/at all")
