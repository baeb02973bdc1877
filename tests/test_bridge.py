"""ConSE restated by hand, row by row, class by class."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Float

from chiasm.alignment import bridge
from chiasm.alignment.bridge import conse

Matrix = Float[np.ndarray, "rows columns"]


def classifier(
    rows: int, *, dim: int = 6, classes: int = 9, anchor: int = 4, seed: int = 0
) -> tuple[Matrix, Matrix, Float[np.ndarray, " classes"], Matrix]:
    """Features, weight, bias and names of unit length."""
    rng = np.random.default_rng(seed)
    vectors, weight, names = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((rows, dim), (dim, classes), (classes, anchor))
    )
    bias = rng.standard_normal(classes).astype(np.float32)
    return vectors, weight, bias, names / np.linalg.norm(names, axis=1, keepdims=True)


def slow_conse(
    vectors: Matrix, weight: Matrix, bias: Float[np.ndarray, " classes"], names: Matrix, top: int, temperature: float
) -> Matrix:
    """Equation 3 of the paper: the T most probable classes, each name by its probability."""
    result = np.zeros((len(vectors), names.shape[1]))
    for row, vector in enumerate(vectors.astype(np.float64)):
        logits = [float(vector @ weight[:, c] + bias[c]) / temperature for c in range(len(bias))]
        probabilities = [math.exp(z) / sum(math.exp(other) for other in logits) for z in logits]
        ranked = sorted(range(len(bias)), key=lambda c: -probabilities[c])[:top]
        total = sum(probabilities[c] for c in ranked)
        for c in ranked:
            result[row] += probabilities[c] / total * names[c]
        result[row] /= np.linalg.norm(result[row])
    return result


@pytest.mark.parametrize("top", [1, 3, 9, 50])  # 50: more than there are classes takes all
@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.5, 20.0])
def test_conse_restated_by_hand(top: int, temperature: float) -> None:
    vectors, weight, bias, names = classifier(7)
    placed = conse(vectors, weight=weight, bias=bias, names=names, top=top, temperature=temperature)
    np.testing.assert_allclose(placed, slow_conse(vectors, weight, bias, names, top, temperature), atol=1e-5)
    assert placed.dtype == np.float32


def test_defaults_are_twenty_classes_at_one_and_a_half() -> None:
    vectors, weight, bias, names = classifier(5, classes=40)
    expected = slow_conse(vectors, weight, bias, names, 20, 1.5)
    np.testing.assert_allclose(conse(vectors, weight=weight, bias=bias, names=names), expected, atol=1e-5)


def test_a_sure_classifier_puts_an_image_on_the_name_of_its_class() -> None:
    _, _, bias, names = classifier(1)
    sure = 200 * np.eye(9, dtype=np.float32)  # exp(200) is beyond float32
    np.testing.assert_allclose(
        conse(sure, weight=np.eye(9, dtype=np.float32), bias=bias, names=names), names, atol=1e-6
    )


def test_a_higher_temperature_is_nearer_to_the_mean_of_the_names() -> None:
    vectors, weight, bias, names = classifier(20, classes=5)
    mean = names.mean(axis=0) / np.linalg.norm(names.mean(axis=0))
    nearness = [
        float((conse(vectors, weight=weight, bias=bias, names=names, temperature=t) @ mean).mean())
        for t in (0.5, 2.0, 50.0)
    ]
    assert nearness == sorted(nearness)
    assert nearness[-1] == pytest.approx(1, abs=0.01)


def test_classes_that_tie_with_the_last_take_part() -> None:
    names = np.eye(4, dtype=np.float32)
    bias = np.array([2, 1, 1, 0], np.float32)
    placed = conse(np.zeros((1, 3), np.float32), weight=np.zeros((3, 4), np.float32), bias=bias, names=names, top=2)[0]
    assert placed[1] == placed[2] > 0
    assert placed[3] == 0
    assert placed[1] / placed[0] == pytest.approx(math.exp(-1 / 1.5), rel=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 1023, 1024, 1025, 2049])
def test_chunks_do_not_show(rows: int) -> None:
    vectors, weight, bias, names = classifier(rows, seed=rows)
    placed = conse(vectors, weight=weight, bias=bias, names=names, top=3)
    assert placed.shape == (rows, 4)
    for edge in {0, 1022, 1023, 1024, 1025, 2047, 2048} & set(range(rows)):
        alone = conse(vectors[edge : edge + 1], weight=weight, bias=bias, names=names, top=3)
        np.testing.assert_allclose(placed[edge], alone[0], atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0.1, 10), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_every_vector_has_unit_length_and_its_place_does_not_depend_on_the_others(
    seed: int, top: int, temperature: float, chunk: int
) -> None:
    vectors, weight, bias, names = classifier(8, seed=seed)
    options = {"weight": weight, "bias": bias, "names": names}
    placed = conse(vectors, **options, top=top, temperature=temperature)
    np.testing.assert_allclose(np.linalg.norm(placed, axis=1), 1, rtol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bridge, "CHUNK", chunk)
        np.testing.assert_allclose(conse(vectors, **options, top=top, temperature=temperature), placed, atol=1e-5)
    order = np.random.default_rng(seed).permutation(8)
    shuffled = conse(vectors[order], **options, top=top, temperature=temperature)
    np.testing.assert_allclose(shuffled, placed[order], atol=1e-5)


@pytest.mark.parametrize(("top", "temperature"), [(0, 1.0), (-3, 1.0), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_options_are_checked(top: int, temperature: float) -> None:
    vectors, weight, bias, names = classifier(2)
    with pytest.raises(ValueError, match=f"got {top} and {temperature}"):
        conse(vectors, weight=weight, bias=bias, names=names, top=top, temperature=temperature)
