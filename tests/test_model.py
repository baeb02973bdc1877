"""Models on disk: versions and one file that names the current one; killed at any step, a model is the old or the new."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killing import at_every_step
from waiting import wait_until

from chiasm.errors import ChiasmError
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.verbs.model import FORMAT_VERSION, Model, load_model, model_version, reference_of, revert_model, save_model

MOST_STEPS_OF_A_FILE = 3


def made(items: int, label: str = "kind") -> Model:
    rows = np.random.default_rng(items).normal(size=(items, 4)).astype(np.float32)
    arrays = ModalityArrays({"text": rows})
    recognizer = Recognizer(adapter="linear", unknown=None).fit(arrays, ["a", "b"] * (items // 2))
    seen = frozenset(f"{number:03}" for number in range(items))
    return Model(
        recognizer, "fake", label, {"text": "x"}, seen, {"items": items}, reference_of(arrays),
        collected=np.arange(items + 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def one() -> Model:
    return made(10, "one")


@pytest.fixture(scope="module")
def other() -> Model:
    return made(20, "other")


def test_what_is_saved_comes_back(one: Model, tmp_path: Path) -> None:
    version = save_model(tmp_path / "deep" / "model", one)
    back = load_model(tmp_path / "deep" / "model")
    assert (back.version, back.label, back.trained_on, back.report) == (version, "one", one.trained_on, one.report)
    np.testing.assert_array_equal(back.reference["text"], one.reference["text"])
    np.testing.assert_array_equal(back.collected, one.collected)
    X = {"text": np.eye(4, dtype=np.float32)}
    np.testing.assert_array_equal(back.recognizer.predict_proba(X), one.recognizer.predict_proba(X))
    assert save_model(tmp_path / "empty", replace(one, reference={}))
    assert load_model(tmp_path / "empty").reference == {}


def test_back_and_forth(one: Model, other: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    first = save_model(folder, one)
    with pytest.raises(ChiasmError, match="no earlier model"):
        revert_model(folder)
    second = save_model(folder, other, expected=first)
    assert [load_model(folder).label, model_version(folder)] == ["other", second]
    assert revert_model(folder) == first == model_version(folder)
    assert load_model(folder).label == "one"
    assert revert_model(folder) == second
    with pytest.raises(ChiasmError, match="replaced by somebody else"):
        save_model(folder, one, expected=first)
    third = save_model(folder, one)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {second, third}


def test_killed_at_any_step_a_model_is_the_old_or_the_new(one: Model, other: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    before = ""

    def prepare() -> None:
        nonlocal before
        save_model(folder, one)
        before = save_model(folder, one)

    def check() -> None:
        is_old = model_version(folder) == before
        assert load_model(folder).label == ("one" if is_old else "other")
        assert len(load_model(folder).trained_on) == (10 if is_old else 20)
        save_model(folder, other)
        assert load_model(folder).label == "other"
        assert sum(path.is_dir() for path in folder.iterdir()) == 2, "nothing is left of what was killed"
        assert not list(folder.rglob("*.tmp"))

    assert at_every_step(lambda: save_model(folder, other), prepare, check) > MOST_STEPS_OF_A_FILE


def test_killed_at_any_step_a_first_model_is_there_or_not(one: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def check() -> None:
        if not (folder / "model.json").exists():
            with pytest.raises(ChiasmError, match="chiasm fit COLLECTION"):
                load_model(folder)
            save_model(folder, one)
        assert load_model(folder).label == "one"
        with pytest.raises(ChiasmError, match="no earlier model"):
            revert_model(folder)

    at_every_step(lambda: save_model(folder, one), lambda: shutil.rmtree(folder, ignore_errors=True), check)


def test_killed_at_any_step_a_revert_is_done_or_not(one: Model, other: Model, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(folder, one)
    save_model(folder, other)

    def check() -> None:
        assert load_model(folder).label in ("one", "other")
        assert {load_model(folder).label, (revert_model(folder), load_model(folder).label)[1]} == {"one", "other"}

    at_every_step(lambda: revert_model(folder), lambda: None, check)


def test_a_disk_that_is_full_leaves_the_old_model(
    one: Model, other: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    first = save_model(folder, one)

    def full(*_: object) -> None:
        raise OSError("the disk is full")

    for place, name in ((os, "fsync"), (Path, "rename"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(ChiasmError, match="the disk is full"):
                save_model(folder, other)
        assert model_version(folder) == first
        assert {path.name for path in folder.iterdir()} == {"model.json", ".lock", first}, "nothing is left"
        assert load_model(folder).label == "one"


@pytest.mark.race
def test_readers_never_see_parts_of_two_models(one: Model, other: Model, tmp_path: Path) -> None:
    folder, done = tmp_path / "model", threading.Event()
    save_model(folder, one)
    sizes = {"one": 10, "other": 20}
    seen: list[tuple[str, int, int]] = []

    def read() -> None:
        while not done.is_set():
            model = load_model(folder)
            seen.append((model.label, len(model.trained_on), model.report["items"]))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        save_model(folder, (other, one)[number % 2])
    wait_until(lambda: bool(seen) or not reader.is_alive())
    done.set()
    reader.join()
    assert seen
    assert {(label, sizes[label], sizes[label]) for label, _, _ in seen} == set(seen)


def test_what_is_no_model_is_left_alone(one: Model, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(ChiasmError, match="is not a model"):
        save_model(tmp_path, one)
    for call in (load_model, model_version, revert_model):
        with pytest.raises(ChiasmError, match="chiasm fit COLLECTION"):
            call(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("model.json", "{", "damaged"),
        (
            "model.json",
            json.dumps({"format": "chiasm-model", "format_version": 3}),
            f"reads chiasm-model version {FORMAT_VERSION}",
        ),
        (
            "model.json",
            json.dumps({"format": "chiasm-model", "format_version": FORMAT_VERSION, "current": "../x"}),
            "names no version",
        ),
        ("*/about.json", "{}", "damaged"),
        ("*/about.json", "{", "damaged"),
        ("*/reference.safetensors", "nonsense", "damaged"),
        ("*/recognizer/recognizer.json", "{", "JSON"),
    ],
)
def test_damage_is_named(one: Model, tmp_path: Path, name: str, content: str, match: str) -> None:
    save_model(tmp_path / "model", one)
    (path,) = (tmp_path / "model").glob(name)
    path.write_text(content)
    with pytest.raises(ChiasmError, match=match):
        load_model(tmp_path / "model")


def test_a_sample_of_what_it_learned_from_is_kept() -> None:
    rows = np.random.default_rng(0).normal(size=(700, 4))
    sample = reference_of(ModalityArrays({"text": rows}))["text"]
    assert (sample.shape, str(sample.dtype)) == ((500, 4), "float16")
    np.testing.assert_allclose(np.linalg.norm(sample.astype(float), axis=1), 1, atol=1e-3)
