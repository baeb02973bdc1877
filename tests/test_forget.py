"""Forgetting: no file on disk holds anything of an item afterwards, whenever the run is killed and whoever searches meanwhile."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from killing import Killed, killed_at
from painter import foreign, painted, painters, picture, table

import chiasm
from chiasm import encoders
from chiasm.cli import run
from chiasm.encoders.cache import cache_folder
from chiasm.errors import ChiasmError, CollectionError
from chiasm.store import gallery
from chiasm.store.collection import Collection
from chiasm.types import Text
from chiasm.verbs.model import load_model
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import folder_of, load_space, open_table

SECRET = "patient-7351"
WORDS = "zygomatic fracture of Ebenezer"


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "resolve", lambda *_, **__: painters())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pictures with words, one of them secret; what can be learned from them is learned, and all is searched once."""
    root = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "resolve", lambda *_, **__: painters())
        secret = {
            "id": SECRET,
            "image": picture(root / "media" / "x7351.png", (0.31, 0.77, 0.53)),
            "text": WORDS,
            "most": "green",
            "name": "Ebenezer S",
        }
        collection = root / "collection"
        chiasm.add([painted(root / "media", 5), table(root / "media" / "secret.jsonl", [secret])], to=collection)
        chiasm.feedback(collection, [SECRET], verdict="up", query="whose bone")
        chiasm.labels(collection, [SECRET], column="most", label="blue")
        chiasm.align(collection)
        chiasm.search(collection, "zygomatic", hybrid=True)
        chiasm.search(collection, "zygomatic", hybrid=True, space="start")
        for _ in range(2):  # the version before is kept
            chiasm.fit(collection, label="most", out=collection / "models" / "colours")
        chiasm.remove(collection, where="id = '1-0-0'")  # versions and deletions of before
        yield root


@pytest.fixture
def made(base: Path, tmp_path: Path) -> Path:
    """A copy of a test's own."""
    shutil.copytree(base / "collection", tmp_path / "collection")
    return tmp_path / "collection"


def needles(collection: Path) -> dict[str, bytes]:
    """What is looked for on disk: ids, names, texts, the hash of the content, and vectors, as they are and placed."""
    opened = Collection.open(collection)
    (row,) = [row for row in opened.files(ids=[SECRET]) if row["modality"] == "image"]
    vectors = opened.vectors(painters()[0].fingerprint)
    vector = vectors.vectors[vectors.hashes.index(row["hash"])]
    placed = [
        row["_vector"]
        for name in ("start", "aligned")
        for row in open_table(opened, load_space(folder_of(opened, name)).space).to_table().to_pylist()
        if row["id"] == SECRET and row["_modality"] == "image"
    ]
    return {
        "id": SECRET.encode(),
        "file": b"x7351.png",
        "name": b"Ebenezer S",
        "text": b"zygomatic",
        "query": b"whose bone",
        "hash": row["hash"].encode(),
        "vector": vector.tobytes(),
        "at the start": np.array(placed[0], np.float32).tobytes(),
        "aligned": np.array(placed[1], np.float32).tobytes(),
        "half": (vector.astype(np.float64) / np.linalg.norm(vector.astype(np.float64)))
        .astype(np.float16)
        .tobytes()[:6],
    }


def holding(needles: dict[str, bytes], *folders: Path) -> dict[str, list[str]]:
    """The files that hold each needle."""
    contents = {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {
        name: sorted(
            path.name for path, content in contents.items() if needle in content or needle in str(path).encode()
        )
        for name, needle in needles.items()
    }


def preview(collection: Path, digest: str) -> Path:
    path = cache_folder() / "previews" / digest[:2] / f"{digest}-160.webp"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"small picture")
    return path


@pytest.mark.parametrize("indexed", [False, True])
def test_no_file_holds_anything_of_a_forgotten_item(made: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool) -> None:
    if indexed:
        monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
        chiasm.add([table(made.parent / "more.jsonl", [{"id": "more", "text": "red"}])], to=made)
        chiasm.search(made, "red")
    wanted = needles(made)
    small = preview(made, wanted["hash"].decode())
    before = holding(wanted, made)
    assert all(before.values()), before
    others = [item for item in Collection.open(made).ids() if item != SECRET]
    report = chiasm.remove(made, where=f"id = '{SECRET}'", forget=True)
    assert not any(after := holding(wanted, made, cache_folder()).values()), after
    assert not small.exists()
    assert (report.items, report.ratings, report.spaces) == ((SECRET,), 2, ("aligned",))
    assert report.models == {str(made / "models" / "colours"): 1}
    assert Collection.open(made).ids() == others
    assert chiasm.search(made, "red", hybrid=True, k=3).hits
    seen = picture(made.parent / "seen.png", (0.9, 0.1, 0.1))
    assert chiasm.predict(made / "models" / "colours", [seen]).predictions[0].label == "red"


def test_models_and_spaces_that_did_not_learn_from_it_stay_as_they_are(made: Path) -> None:
    later = {"id": "later", "text": "ultramarine", "image": picture(made.parent / "later.png", (0.9, 0.4, 0.2))}
    chiasm.add([table(made.parent / "later.jsonl", [later])], to=made)
    version = load_model(made / "models" / "colours").version
    report = chiasm.remove(made, where="id = 'later'", forget=True)
    assert (report.spaces, report.models) == ((), {})
    assert load_model(made / "models" / "colours").version == version
    assert chiasm.search(made, "red").space == "aligned"


def test_a_model_elsewhere_that_learned_from_it_is_named(made: Path, tmp_path: Path) -> None:
    chiasm.fit(made, label="most", out=tmp_path / "model")
    other = tmp_path / "other"
    chiasm.add([foreign(tmp_path / "media", 3)], to=other)
    report = chiasm.remove(made, where=f"id = '{SECRET}'", model=[tmp_path / "model"], forget=True)
    assert report.models[str(tmp_path / "model")] == 1
    model = load_model(tmp_path / "model")
    assert SECRET not in model.trained_on
    assert not model.reference
    with pytest.raises(ChiasmError, match="not a model"):
        chiasm.remove(made, where="id = '0-0-1'", model=[tmp_path / "none"], forget=True)
    assert "0-0-1" in Collection.open(made).ids(), "nothing is deleted before all models are read"


def test_an_item_that_does_not_exist(made: Path) -> None:
    count = Collection.open(made).count()
    with pytest.raises(CollectionError, match="nothing was forgotten"):
        chiasm.remove(made, where="id = 'nobody'", forget=True)
    assert Collection.open(made).count() == count


def test_killed_at_any_step_the_next_run_completes_it(base: Path, tmp_path: Path) -> None:
    made = tmp_path / "collection"
    wanted: dict[str, bytes] = {}

    def prepare() -> None:
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(base / "collection", made)
        wanted.update(needles(made))

    def check() -> None:
        if (made / "forgetting.json").exists():
            chiasm.remove(made, where="id = 'nobody'", forget=True)  # whichever items it names
        elif SECRET in Collection.open(made).ids():
            chiasm.remove(made, where=f"id = '{SECRET}'", forget=True)
        left = holding(wanted, made)
        assert not any(left.values()), left
        assert chiasm.search(made, "red").hits

    prepare()
    with killed_at(None) as counted:
        chiasm.remove(made, where=f"id = '{SECRET}'", forget=True)
    assert counted() > 20
    for step in range(0, counted(), 9):
        prepare()
        with killed_at(step), suppress(Killed):
            chiasm.remove(made, where=f"id = '{SECRET}'", forget=True)
        check()


@pytest.mark.parametrize("indexed", [False, True])
def test_who_searches_meanwhile_sees_all_of_it_or_nothing(
    made: Path, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    if indexed:
        monkeypatch.setattr(gallery, "EXACT_BYTES", 0)
    secrets = [{"id": f"secret-{n}", "text": "zebra", "most": "red"} for n in range(6)]
    manifest = table(made.parent / "secrets.jsonl", secrets)
    searcher = Searcher(made)

    def ask(options: SearchOptions, stop: threading.Event) -> set[int]:
        seen = set()
        while not stop.is_set():
            hits = searcher.search(Query((Text("zebra"),)), options).hits
            seen.add(sum(hit.id.startswith("secret") for hit in hits))
        return seen

    seen: set[int] = set()
    for _ in range(3):
        chiasm.add([manifest], to=made)
        searcher.refresh()
        stop = threading.Event()
        with ThreadPoolExecutor(3) as pool:
            choices = (SearchOptions(), SearchOptions(where="most = 'red'"), SearchOptions(hybrid=True))
            asked = [pool.submit(ask, options, stop) for options in choices]
            try:
                chiasm.remove(made, where="id LIKE 'secret-%'", forget=True)
                searcher.refresh()
            finally:
                stop.set()
            seen.update(*(one.result() for one in asked))
    assert seen <= {0, 6}
    assert 6 in seen


def test_copies_that_the_collection_keeps_go_with_it(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), (17, 200, 99), np.uint8)
    data = {"id": ["a", SECRET], "image": [pixels, pixels // 2], "text": ["red", WORDS]}
    chiasm.add(data, to=tmp_path / "c")
    opened = Collection.open(tmp_path / "c")
    (mine,) = [Path(row["path"]) for row in opened.files(ids=[SECRET]) if row["modality"] == "image"]
    (other,) = [Path(row["path"]) for row in opened.files(ids=["a"]) if row["modality"] == "image"]
    assert mine.parent == opened.uploads
    chiasm.remove(tmp_path / "c", where=f"id = '{SECRET}'", forget=True)
    assert (mine.exists(), other.exists()) == (False, True)
    assert not list(opened.uploads.glob("*.parquet")), "the table of what was in memory holds it, too"
    assert opened.ids() == ["a"]


def test_forgetting_on_the_command_line(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["remove", str(made), "--where", f"id = '{SECRET}'"]
    assert run([*arguments, "--model", "m"]) == 2
    assert "--forget" in capsys.readouterr().err
    assert run([*arguments, "--forget", "--yes"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "chiasm align" in said
    assert "chiasm fit, again" in said
    assert run([*arguments, "--forget", "--yes"]) == 1
    assert "nothing was forgotten" in " ".join(capsys.readouterr().err.split())
