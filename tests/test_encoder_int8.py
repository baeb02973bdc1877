"""Networks in 8-bit integers: close to float32, smaller, the same in any company, and refused where they cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from test_encoders import INPUTS, noise, picture
from tiny_models import saved_model

import chiasm
from chiasm.encoders import Encoder, examples, int8, resolve
from chiasm.encoders.cache import cache_folder
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.encoders.networks import Builder
from chiasm.encoders.runtime import Blueprint, Graph, Network
from chiasm.errors import EncoderError
from chiasm.types import Media, Modality, Text
from chiasm.vectors import unit_rows


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return partial(saved_model, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def offline() -> tuple[dict[Modality, Encoder], dict[Modality, Encoder]]:
    """The offline encoders in float32 and in int8, by modality."""
    whole, small = (
        {modality: encoder for encoder in resolve(name, device="cpu") for modality in encoder.modalities}
        for name in ("offline", "offline,int8")
    )
    return whole, small


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    result: np.ndarray = (unit_rows(first) * unit_rows(second)).sum(axis=1)
    return result


def check(whole: Encoder, small: Encoder, media: Sequence[Media], least: float) -> None:
    vectors = small.encode(media).vectors
    assert cosines(vectors, whole.encode(media).vectors).min() > least
    alone = np.concatenate([small.encode([medium]).vectors for medium in media])
    np.testing.assert_allclose(vectors, alone, atol=1e-5 * np.abs(alone).max())
    np.testing.assert_allclose(small.encode(media[::-1]).vectors[::-1], alone, atol=1e-5 * np.abs(alone).max())
    assert (small.dim, small.modalities, small.name) == (whole.dim, whole.modalities, whole.name)
    assert small.fingerprint != whole.fingerprint


@pytest.mark.parametrize(("modality", "least"), [("image", 0.95), ("text", 0.98)])
def test_the_offline_networks_are_close_and_the_same_in_any_company(modality: str, least: float, offline: Any) -> None:
    whole, small = offline
    check(whole[modality], small[modality], INPUTS[modality], least)
    assert least < small[modality].int8_cosines()[modality] < 1
    assert whole[modality].int8_cosines() == {}


def test_the_offline_networks_are_a_quarter_of_the_size(offline: Any) -> None:
    for encoder in offline[0]["image"], offline[0]["text"], offline[1]["image"], offline[1]["text"]:
        encoder.encode([INPUTS[min(encoder.modalities)][0]])
    sizes: dict[bool, int] = {}
    for file in cache_folder().glob("networks/*/network.*"):
        if file.parent.name.startswith(("efficientnet-lite0", "all-MiniLM")):
            small = "-int8-" in file.parent.name
            sizes[small] = sizes.get(small, 0) + file.stat().st_size
    assert sizes[False] / sizes[True] > 3.7


def test_videos_and_speech_follow_the_networks_that_they_go_through(offline: Any) -> None:
    whole, small = offline
    assert small["video"].vector_space == small["image"].fingerprint
    assert small["audio"].vector_space == small["text"].fingerprint
    assert len({encoder.fingerprint for encoder in (*whole.values(), *small.values())}) == 8
    both = resolve("image=offline,int8,text=offline", device="cpu")
    assert [one.fingerprint for one in both[:2]] == [whole["text"].fingerprint, small["image"].fingerprint]


def test_status_shows_how_close_int8_is(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a red car")
    chiasm.add([tmp_path / "note.txt"], to=tmp_path / "small", encoder="offline,int8")
    chiasm.add([tmp_path / "note.txt"], to=tmp_path / "whole")
    assert 0.98 < chiasm.status(tmp_path / "small").int8["text"] < 1
    assert chiasm.status(tmp_path / "whole").int8 == {}
    (hit,) = chiasm.search(tmp_path / "small", "a red car").hits
    assert hit.score > 0.9999, "the same text, embedded alone and in an `add`"


MODELS: dict[str, Sequence[Media]] = {
    "bert": [Text("a cat"), Text("the big red dog on the mat"), Text("dog")],
    "sentence": [Text("a cat"), Text("the big red dog on the mat"), Text("dog")],
    "llama": [Text("a cat"), Text("the big red dog on the mat"), Text("dog")],
    "clip": [picture(0), Text("a cat"), picture(1, 300, 40), Text("the big red dog on the mat")],
    "vit": [picture(0), picture(1, 300, 40), picture(2, 64, 64)],
    "convnext": [picture(0), picture(1, 300, 40), picture(2, 64, 64)],
    "resnet": [picture(0), picture(1, 300, 40), picture(2, 64, 64)],
    "ast": [noise(0), noise(1, 0.25)],
    "whisper": [noise(0), noise(1, 0.25)],
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_that_onnx_runtime_runs(kind: str, folder_of: Any) -> None:
    whole = HuggingFaceEncoder(str(folder_of(kind)), device="cpu")
    small, *_ = resolve(f"{folder_of(kind)},int8", device="cpu")
    assert small.int8_cosines() == {}, "before the first use"
    check(whole, small, MODELS[kind], 0.9)
    measured = small.int8_cosines()
    assert measured.keys() == whole.modalities
    assert all(0.95 <= cosine <= 1 for cosine in measured.values())
    assert (small.encode(MODELS[kind]).vectors != whole.encode(MODELS[kind]).vectors).any()


@pytest.mark.parametrize("kind", ["router", "wav2vec2"])
def test_what_pytorch_runs_is_refused(kind: str, folder_of: Any) -> None:
    with pytest.raises(EncoderError, match=r"cannot be run in int8: there is no ONNX graph of it.* Leave int8 out"):
        resolve(f"{folder_of(kind)},int8", device="cpu")


def test_a_part_that_pytorch_runs_is_named(folder_of: Any) -> None:
    with pytest.warns(RuntimeWarning, match="is not in int8 for audio and image and video"):
        resolve(f"{folder_of('omni')},int8", device="cpu")


def test_int8_goes_with_other_options(folder_of: Any) -> None:
    folder = Path(shutil.copytree(folder_of("bert"), folder_of("bert").with_name("matryoshka")))
    (folder / "README.md").write_text("Trained with MatryoshkaLoss.")
    whole, short = resolve(f"{folder},int8")[0], resolve(f"{folder},int8,dim=8")[0]
    assert (short.dim, short.fingerprint == whole.fingerprint) == (8, False)
    np.testing.assert_allclose(
        short.encode([Text("a cat")]).vectors, unit_rows(whole.encode([Text("a cat")]).vectors[:, :8]), atol=1e-5
    )
    with pytest.raises(EncoderError, match="int8 and dtype=bfloat16 are two choices of the same"):
        resolve(f"{folder},int8,dtype=bfloat16")


@pytest.mark.parametrize("name", ["offline", "bert"])
def test_int8_is_for_cpus(name: str, folder_of: Any) -> None:
    name = name if name == "offline" else str(folder_of(name))
    with pytest.raises(EncoderError, match="int8 is for CPUs"):
        resolve(f"{name},int8", device="cuda")


# ------------------------------------------------------------------------------------------------------------- graphs


def product(weights: np.ndarray) -> onnx.ModelProto:
    """A graph of one product with a matrix."""
    build = Builder()
    return build.model(build("MatMul", "x", weights), weights.shape[1], {"x": (onnx.TensorProto.FLOAT, ("batch", 8))})


def test_each_row_and_each_column_has_a_scale_of_its_own(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(8, 5)).astype(np.float32) * np.array([1, 10, 0.1, 100, 1], np.float32)
    weights[:, 4] = 0
    rows = generator.normal(size=(3, 8)).astype(np.float32) * np.array([[1], [1000], [0]], np.float32)
    onnx.save(product(weights), tmp_path / "float.onnx")
    int8.quantise(tmp_path / "float.onnx", tmp_path / "int8.onnx", [])
    session = onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), providers=["CPUExecutionProvider"])
    expected = np.zeros((3, 5))
    for i, row in enumerate(rows):
        for j, column in enumerate(weights.T):
            a, b = np.abs(row).max() / 127, np.abs(column).max() / 127
            if a and b:
                expected[i, j] = (np.round(row / a) * a) @ (np.round(column / b) * b)
    result = session.run(None, {"x": rows})[0]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
    close = np.abs(result - rows @ weights) / np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-9)
    assert (close < 0.02 * np.linalg.norm(weights, axis=0) + 1e-9).all()


def outlier() -> onnx.ModelProto:
    """One number of each row is so large that the others, which the answer is of, are nothing beside it."""
    build = Builder()
    row = build("Add", "x", np.array([1e6, *[0] * 7], np.float32))
    weights = np.eye(8, dtype=np.float32)[:, 1:]
    return build.model(build("MatMul", row, weights), 7, {"x": (onnx.TensorProto.FLOAT, ("batch", 8))})


def some(held: bool) -> list[dict[str, np.ndarray]]:
    return [{"x": np.random.default_rng(int(held)).normal(size=(4, 8)).astype(np.float32)}]


def test_vectors_that_are_far_from_those_of_float32_are_refused_every_time(cache: Path) -> None:
    graph = Graph("outlier", "2" * 32, outlier, 7)
    network = Network(graph, device="cpu", examples=some)
    for _ in range(2):
        with pytest.raises(
            EncoderError, match=r"outlier cannot be run in int8: its vectors have a mean cosine of 0\.000"
        ):
            network.run(some(False))
    assert network.cosine() == 0
    assert Network(graph, device="cpu").run(some(False))[0].shape == (4, 7)


def test_a_network_that_cannot_be_exported_is_refused() -> None:
    class Restless(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    def sample(rows: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": generator.random((rows, 8), dtype=np.float32)}

    blueprint = Blueprint("restless8", "3" * 32, Restless, {"x": ("batch",)}, sample, dim=8)
    network = Network(blueprint, device="cpu", examples=some)
    with pytest.raises(EncoderError, match="restless8 cannot be run in int8: it has no ONNX graph, its export differs"):
        network.run(some(False))
    assert network.cosine() is None


def test_examples_are_the_same_every_time_and_those_held_are_others() -> None:
    for one, again in zip(examples.shapes(), examples.shapes(), strict=True):
        np.testing.assert_array_equal(one, again)
    for one, again in zip(examples.photographs(), examples.photographs(), strict=True):
        np.testing.assert_array_equal(one, again)
    first, second = (examples.sounds(16_000, 1600, seed=seed) for seed in (0, 1))
    assert first[0].shape == (1600,)
    assert np.abs(first[0] - second[0]).max() > 0.01
    np.testing.assert_array_equal(first[0], examples.sounds(16_000, 1600, seed=0)[0])
