"""Recognisers and spaces as ONNX graphs: the same answers as by NumPy, for every set of modalities and kind of column."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from chiasm import predict_script
from chiasm.alignment.alignment import GaussianKernel, LearnedMap
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.ladder import RungOptions
from chiasm.recognition.modalities import subsets
from chiasm.recognition.networks import NetworkOptions
from chiasm.recognition.targets import Target, parse_target
from chiasm.shipping.graphs import answer_graph, known_of, place_graph
from chiasm.shipping.whole import fitted_pixels
from chiasm.space import Space
from chiasm.training import Training
from chiasm.vectors import unit_rows

ITEMS = 90
SMALL = RungOptions(network=NetworkOptions(width=8, hidden=8, training=Training(epochs=3)))
ALONE: dict[str, np.ndarray] = {}


def planted(*, missing: bool) -> tuple[ModalityArrays, np.ndarray]:
    """Pictures with vectors of their own and shared ones, texts with shared ones; all tell the class."""
    rng = np.random.default_rng(0)
    codes = np.arange(ITEMS) % 3
    own, shared = ({name: rng.normal(size=(3, 6))[codes] for name in ("image", "text")} for _ in range(2))
    noise = {name: rng.normal(size=(ITEMS, 6)) for name in ("image", "text")}
    present = {name: np.ones(ITEMS, dtype=bool) for name in ("image", "text")}
    if missing:
        present["image"][::2], present["text"][1::2] = False, False
        present["image"][:8] = present["text"][:8] = True
    vectors = {"image": (own["image"] + noise["image"]).astype(np.float32)}
    both = {name: unit_rows(shared[name] + noise[name]).astype(np.float32) for name in shared}
    return ModalityArrays(vectors, present, both), codes


def answers(
    recognizer: Recognizer, arrays: ModalityArrays, subset: tuple[Any, ...], *, int8: bool = False
) -> dict[str, np.ndarray]:
    """The outputs of the graph of a set for all items."""
    session = onnxruntime.InferenceSession(answer_graph([*recognizer.columns_.values()], subset, int8=int8))
    feeds = {**arrays.vectors, **{f"{name}_placed": rows for name, rows in arrays.shared.items()}}
    wanted = [one.name for one in session.get_inputs()]
    outputs = session.run(None, {name: feeds[name] for name in wanted})
    return dict(zip([one.name for one in session.get_outputs()], outputs, strict=True))


def check(recognizer: Recognizer, arrays: ModalityArrays) -> None:
    """Every column says the same of items with any set of modalities, to the precision of float32."""
    everything = ModalityArrays(arrays.vectors, {}, arrays.shared)
    for subset in subsets(arrays.modalities):
        said = answers(recognizer, everything, subset)
        for number, (name, column) in enumerate(recognizer.columns_.items()):
            known = known_of(column, subset)
            if not known:
                assert f"values.{number}" not in said
                continue
            expected = recognizer.recognise(everything.only(subset), column=name)
            values = said[f"values.{number}"]
            if expected.kind == "number":
                np.testing.assert_allclose(values[:, 0], expected.values, rtol=1e-4, atol=1e-4)
                continue
            np.testing.assert_allclose(values, expected.probabilities, atol=1e-4)
            within = [part for part in column.detectors if set(part) <= set(known)]
            if within:
                part = max(within, key=len)
                rows = column.features.rows(everything, part, np.arange(ITEMS))
                np.testing.assert_allclose(
                    said[f"strange.{number}"], column.detectors[part].scores(rows), rtol=1e-3, atol=1e-3
                )


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("fusion", ["concat", "mean", "stack", "single"])
def test_classes_by_linear_heads(fusion: Any, missing: bool) -> None:
    arrays, codes = planted(missing=missing)
    recognizer = Recognizer(adapter="linear", fusion=fusion, unknown="mahalanobis" if missing else "knn")
    check(recognizer.fit(arrays, np.array(["a", "b", "c"])[codes]), arrays)


def test_a_class_that_one_modality_does_not_know() -> None:
    arrays, codes = planted(missing=True)
    arrays.present["text"][codes == 2] = False
    arrays.present["image"][codes == 2] = True
    recognizer = Recognizer(adapter="linear", fusion="concat", unknown=None)
    check(recognizer.fit(arrays, np.array(["a", "b", "c"])[codes]), arrays)


@pytest.mark.parametrize("fusion", ["gated", "attention"])
def test_classes_by_networks_that_fuse(fusion: Any) -> None:
    arrays, codes = planted(missing=False)
    recognizer = Recognizer(adapter="linear", fusion=fusion, unknown=None, options=SMALL)
    check(recognizer.fit(arrays, codes), arrays)


def test_classes_by_the_network_rung() -> None:
    arrays, codes = planted(missing=False)
    recognizer = Recognizer(adapter="network", fusion="concat", unknown=None, options=SMALL)
    check(recognizer.fit(arrays, codes), arrays)


def columns(codes: np.ndarray) -> list[Target]:
    labels = [("red;round", "round", "red;big")[code] for code in codes]
    numbers = [float(code * 2 + (row % 7) / 7) for row, code in enumerate(codes)]
    return [
        parse_target([f"kind {code}" for code in codes], column="kind"),
        parse_target(labels, column="looks", task="labels"),
        parse_target(numbers, column="size"),
    ]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("which", [1, 2])
def test_labels_and_numbers(which: int, missing: bool) -> None:
    arrays, codes = planted(missing=missing)
    check(Recognizer().fit(arrays, columns(codes)[which]), arrays)


def test_several_columns_at_once() -> None:
    arrays, codes = planted(missing=False)
    check(Recognizer(options=SMALL).fit(arrays, columns(codes)), arrays)


def test_large_matrices_in_int8() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(70, 1000))
    codes = np.arange(140) % 70
    arrays = ModalityArrays({"image": (centres[codes] + rng.normal(size=(140, 1000))).astype(np.float32)})
    recognizer = Recognizer(adapter="linear", unknown="knn").fit(arrays, codes)
    small, large = (answer_graph([recognizer.only_column_], ("image",), int8=int8) for int8 in (True, False))
    assert len(small) < 0.3 * len(large)
    said, exact = (answers(recognizer, arrays, ("image",), int8=int8)["values.0"] for int8 in (True, False))
    assert (said.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.98


# --------------------------------------------------------------------------------------------------------------- spaces

SPACE = Space(
    "start", 8, {"image": "i", "text": "t"}, {"image": "classes", "text": "words"},
    {
        "centre": np.full(5, 0.1, np.float32),
        "names": unit_rows(np.random.default_rng(1).normal(size=(30, 5))).astype(np.float32),
        "head.weight": np.random.default_rng(2).normal(size=(7, 30)).astype(np.float32),
        "head.bias": np.random.default_rng(3).normal(size=30).astype(np.float32),
    },
    blocks={"image": ((1, 6),), "text": ((1, 6),)},
)  # fmt: skip


def learned(features: int, *, kernel: bool) -> LearnedMap:
    rng = np.random.default_rng(4)
    centres = GaussianKernel(rng.normal(size=(9, features)).astype(np.float32), 2.0) if kernel else None
    weight = rng.normal(size=(9 if kernel else features, 8)).astype(np.float32)
    return LearnedMap(weight, rng.normal(size=8).astype(np.float32), 0.7, centres)


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("by", ["start", "linear", "kernel"])
def test_places_in_a_space(modality: Any, by: str) -> None:
    width = {"image": 7, "text": 5}[modality]
    features = 12 if modality == "image" else 5
    space = (
        SPACE
        if by == "start"
        else SPACE.with_maps("learned", {modality: learned(features, kernel=by == "kernel")}, about={})
    )
    vectors = np.random.default_rng(5).normal(size=(6, width)).astype(np.float32)
    vectors[2] = 0
    session = onnxruntime.InferenceSession(place_graph(space, modality, width, columns=(0, 7)))
    (placed,) = session.run([f"{modality}_placed"], {modality: vectors})
    np.testing.assert_allclose(placed, space.place(modality, vectors)[:, :7], atol=1e-5)


# ------------------------------------------------------------------------------------------------------- whole graphs


@pytest.mark.parametrize("size", [(120, 80), (90, 224), (400, 300), (224, 224), (3, 500), (700, 701)])
def test_a_picture_is_prepared_inside_a_graph(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 255, (6, 5, 3)).astype(np.uint8)
    picture = Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)
    session = onnxruntime.InferenceSession(fitted_pixels().SerializeToString())
    (square,) = session.run(None, {"pixels": np.asarray(picture)})
    difference = np.abs(square[0].astype(int) - predict_script.fit(picture))
    assert difference.mean() < 1
    assert difference.max() < 12
