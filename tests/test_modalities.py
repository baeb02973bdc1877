"""Features: every modality of the same length, shared vectors half as long, names and other modalities in their place."""

from __future__ import annotations

import numpy as np
import pytest

from chiasm.errors import ChiasmError
from chiasm.recognition.modalities import Features, ModalityArrays, as_arrays, subsets

RNG = np.random.default_rng(0)
OWN, SHARED, TEXT = RNG.normal(size=(6, 5)) + 3, RNG.normal(size=(6, 4)) - 1, RNG.normal(size=(6, 4)) + 2
HAS = np.array([True, True, False, True, True, False])
ARRAYS = ModalityArrays({"image": OWN}, {"text": HAS}, {"image": SHARED, "text": np.where(HAS[:, None], TEXT, np.nan)})
EVERY = np.arange(6)


def centred(rows: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.array([(row - mean) / np.linalg.norm(row - mean) for row in rows])


def test_features_are_centred_parts_side_by_side() -> None:
    features = Features.of(ARRAYS)
    rows = np.array([4, 0])
    own = centred(OWN[rows], OWN.mean(axis=0))
    shared = centred(SHARED[rows], SHARED.mean(axis=0))
    text = centred(TEXT[rows], TEXT[HAS].mean(axis=0))
    # Image: own 1, shared 1/2; text: shared alone, 1. A modality's own embedding counts 1.
    alone = features.rows(ARRAYS, ("image",), rows)
    np.testing.assert_allclose(alone, np.hstack([own, 0.5 * shared]) / np.sqrt(1.25), rtol=1e-6)
    np.testing.assert_allclose(features.rows(ARRAYS, ("text",), rows), text, rtol=1e-6)
    both = features.rows(ARRAYS, ("image", "text"), rows)
    np.testing.assert_allclose(both, np.hstack([alone, text]) / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1, rtol=1e-6)
    assert [features.width(part) for part in (("image",), ("text",), ("image", "text"))] == [9, 4, 13]


def test_names_stand_where_shared_vectors_do() -> None:
    features = Features.of(ARRAYS)
    names = RNG.normal(size=(3, 4))
    image = 0.5 / np.sqrt(1.25) * centred(names, SHARED.mean(axis=0))
    text = centred(names, TEXT[HAS].mean(axis=0))
    anchors = features.anchors(names, ("image", "text"))
    np.testing.assert_allclose(anchors, np.hstack([np.zeros((3, 5)), image, text]) / [[np.sqrt(2)]], rtol=1e-6)
    # The product of a name with a row is the sum of the products of the shared parts alone.
    rows = features.rows(ARRAYS, ("image", "text"), EVERY[HAS])
    np.testing.assert_allclose(rows @ anchors.T, rows[:, 5:] @ anchors[:, 5:].T, rtol=1e-6)


def test_another_modality_stands_where_shared_vectors_do() -> None:
    features = Features.of(ARRAYS)
    rows = np.array([0, 3])
    text = centred(TEXT[rows], TEXT[HAS].mean(axis=0))
    np.testing.assert_allclose(
        features.across(ARRAYS, "text", rows, "image"),
        np.hstack([np.zeros((2, 5)), 0.5 * text]) / np.sqrt(1.25),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        features.across(ARRAYS, "image", rows, "text"), centred(SHARED[rows], SHARED.mean(axis=0)), rtol=1e-6
    )


def test_a_row_at_the_mean_is_zero_and_not_nan() -> None:
    same = ModalityArrays({"image": np.ones((3, 2))})
    assert Features.of(same).rows(same, ("image",), np.arange(3)).tolist() == [[0, 0]] * 3


def test_modalities_that_nobody_has_are_left_out() -> None:
    arrays = ModalityArrays({"image": OWN, "audio": OWN}, {"audio": np.zeros(6, dtype=bool)})
    features = Features.of(arrays)
    assert arrays.modalities == ("image", "audio")
    assert features.modalities == ("image",)
    assert Features.of(ARRAYS).only(("text",)).modalities == ("text",)


def test_items_are_found_by_what_they_have() -> None:
    assert ARRAYS.having(("image", "text")).tolist() == [0, 1, 3, 4]
    found = {part: rows.tolist() for part, rows in ARRAYS.by_subset(("image", "text"))}
    assert found == {("image",): [2, 5], ("image", "text"): [0, 1, 3, 4]}
    assert list(ARRAYS.take(np.arange(0)).by_subset(("image",))) == []
    assert list(subsets(("image", "text", "audio")))[-4:] == [
        ("image", "text"), ("image", "audio"), ("text", "audio"), ("image", "text", "audio"),
    ]  # fmt: skip


def test_some_items_and_some_modalities() -> None:
    part = ARRAYS.take(np.array([2, 0])).only(("image",))
    assert len(part) == 2
    assert part.modalities == ("image",)
    np.testing.assert_array_equal(part.vectors["image"], OWN[[2, 0]])
    np.testing.assert_array_equal(part.shared["image"], SHARED[[2, 0]])
    with pytest.raises(ChiasmError, match="must be given by modality"):
        ARRAYS.only(("video",))


def test_items_are_joined_where_one_side_lacks_a_modality() -> None:
    other = ModalityArrays({"audio": np.ones((2, 3))}, shared={"text": TEXT[:2]})
    joined = ARRAYS.joined(other)
    assert len(joined) == 8
    assert joined.modalities == ("image", "text", "audio")
    assert joined.present["image"].tolist() == [True] * 6 + [False] * 2
    assert joined.present["text"].tolist() == [*HAS.tolist(), True, True]
    assert joined.present["audio"].tolist() == [False] * 6 + [True] * 2
    np.testing.assert_array_equal(joined.shared["text"][6:], TEXT[:2])
    with pytest.raises(ChiasmError, match=r"image: embeddings are of widths \[2, 5\]: use one encoder"):
        ARRAYS.joined(ModalityArrays({"image": np.ones((2, 2))}))


def test_shared_vectors_of_several_widths_are_refused() -> None:
    with pytest.raises(
        ChiasmError, match=r"vectors in a shared space must be of one width; got {'image': 4, 'text': 5}"
    ):
        ModalityArrays(shared={"image": SHARED, "text": OWN})
    with pytest.raises(ChiasmError, match="text: 1 of 6 embeddings hold NaN"):
        ModalityArrays(shared={"text": np.where(np.arange(6)[:, None] == 3, np.inf, TEXT)})


def test_a_mapping_is_items_that_have_everything() -> None:
    arrays = as_arrays({"image": OWN})
    assert arrays.present["image"].all()
    assert as_arrays(arrays) is arrays
