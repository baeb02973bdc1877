"""The base install has no PyTorch: what goes on without it, and what says which extra it needs."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from chiasm.alignment.closed_form import make_alignment
from chiasm.encoders import resolve
from chiasm.encoders.runtime import Blueprint, Network
from chiasm.errors import MissingExtraError
from chiasm.recognition.ladder import RungOptions, Task, climb
from chiasm.recognition.recognizer import Recognizer
from chiasm.recognition.targets import parse_target

MISSING = ("torch", "transformers", "sentence_transformers", "tensorboard", "optuna")
JOB = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {missing!r} else super().find_spec(name, path, target)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
import chiasm
added = chiasm.add(["photos"], to="mine")
assert (added.items, dict(added.counts)) == (24, {{"ok": 48}}), added
assert chiasm.search("mine", "a red picture", k=3).hits
chiasm.align("mine", pairs=("image", "text"))
chiasm.fit("mine", label="label", out="model")
chiasm.predict("model", ["photos/red/0.png"])
chiasm.evaluate("mine", pairs=("image", "text"))
chiasm.evaluate("model", "mine", label="label")
print("done")
"""


class Hiding(PathFinder):
    """Finds every package but these."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return None if fullname.split(".", maxsplit=1)[0] in MISSING else super().find_spec(fullname, path, target)


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [Hiding if finder is PathFinder else finder for finder in sys.meta_path])
    for name in MISSING:
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_whole_job_on_images_and_texts(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label, colour in (("red", (220, 30, 30)), ("green", (30, 200, 40))):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = (np.array(colour) + generator.normal(0, 25, (64, 64, 3))).clip(0, 255).astype(np.uint8)
            PillowImage.fromarray(pixels).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"a {label} picture, number {number}")
    code = JOB.format(missing=MISSING)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "done\n", done.stderr


def test_the_ladder_says_why_it_has_no_network(without_torch: None) -> None:
    generator = np.random.default_rng(0)
    codes = np.arange(60) % 2
    rows = generator.normal(size=(60, 4)) + codes[:, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    learned, reports = climb(Task(rows, codes, np.arange(60) % 5), 2, RungOptions(), networks_from=0)
    assert learned.head.rung != "network"
    (network,) = (report for report in reports if report.rung == "network")
    assert not network.tried
    assert "pip install 'chiasm[train]'" in network.why


def test_several_columns_are_learned_alone_and_say_why(without_torch: None) -> None:
    generator = np.random.default_rng(0)
    X = {"image": generator.normal(size=(40, 4))}
    kinds = parse_target(["a", "b"] * 20, column="kind")
    prices = parse_target(generator.normal(size=40).tolist(), column="price")
    recognizer = Recognizer().fit(X, [kinds, prices])
    assert {report.taken for report in recognizer.together_} == {"alone"}
    assert all("pip install 'chiasm[train]'" in report.why for report in recognizer.together_)


def test_what_needs_torch_says_the_extra(without_torch: None) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[train\]'"):
        make_alignment("infonce")
    X, y = {"image": np.eye(40)}, np.array(["a", "b"] * 20)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[train\]'"):
        Recognizer(adapter="network").fit(X, y)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[huggingface\]'"):
        resolve("someone/some-model")
    blueprint = Blueprint("some-model", "0" * 32, lambda: None, {"x": ("batch",)}, lambda *_: {}, 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[huggingface\]'"):
        Network(blueprint, device="cpu").run([{"x": np.zeros((1, 3), np.float32)}])
