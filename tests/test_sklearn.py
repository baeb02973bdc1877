"""The estimators by scikit-learn's own checks, and in its pipelines."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

import chiasm.sklearn as skl
from chiasm.errors import ChiasmError, EncoderError, MediaError, SpaceError

ANIMALS = ["a cat", "a dog", "a horse", "a cow", "a sheep", "a goat"]
RIDES = ["a car", "a bus", "a train", "a truck", "a tram", "a taxi"]
WORDS, KINDS = ANIMALS + RIDES, ["animal"] * 6 + ["ride"] * 6


@pytest.mark.parametrize("name", skl.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(skl, name).__doc__


def test_the_aligner_passes_the_checks_that_have_enough_pairs() -> None:
    """Those of the classifiers are in their own tests, and scikit-learn has none for texts."""
    results = check_estimator(skl.Aligner("ridge"), on_skip=None, on_fail=None)
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    assert {name: str(error) for name, error in failed.items() if not isinstance(error, SpaceError)} == {}
    assert sum(one["status"] == "passed" for one in results) > 3 * len(failed)


def test_texts_go_through_a_pipeline_and_a_cross_validation() -> None:
    pipeline = make_pipeline(skl.Embedder("text"), skl.LinearProbe(strengths=[0.1]))
    assert cross_val_score(pipeline, WORDS, KINDS, cv=3).mean() > 0.9
    fitted = pipeline.fit(WORDS, KINDS)
    assert fitted.predict(["a donkey", "a van"]).tolist() == ["animal", "ride"]
    again: Any = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(WORDS), fitted.predict_proba(WORDS))


def test_output_is_a_frame_with_names_where_it_is_asked_for() -> None:
    embedder = skl.Embedder("text").set_output(transform="pandas").fit(WORDS)
    frame = embedder.transform(WORDS[:2])
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns[:2]) == ["embedder0", "embedder1"]
    assert len(embedder.get_feature_names_out()) == frame.shape[1]
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(30, 5)), rng.normal(size=(30, 3))
    aligned = skl.Aligner("ridge").set_output(transform="pandas").fit(X, Y)
    assert list(aligned.transform(X).columns) == ["aligner0", "aligner1", "aligner2"]


def test_pictures_are_embedded_by_their_paths(tmp_path: Path) -> None:
    for name in ("red", "blue"):
        Image.new("RGB", (40, 40), name).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "red.png", tmp_path / "blue.png"]
    embedder = skl.Embedder("image").fit(paths)
    rows = embedder.transform(paths)
    assert rows.shape == (2, embedder.get_feature_names_out().shape[0])
    assert np.array_equal(embedder.transform(paths[::-1]), rows[::-1])
    with pytest.raises(MediaError, match=r"row 1, .*gone\.png"):
        embedder.transform([paths[0], tmp_path / "gone.png"])


def test_what_cannot_be_embedded_is_said() -> None:
    with pytest.raises(EncoderError, match="smell"):
        skl.Embedder("smell").fit([])  # type: ignore[arg-type]
    embedder = skl.Embedder("text").fit([])
    assert embedder.transform([]).shape[0] == 0
    with pytest.raises(ChiasmError, match="row 0"):
        embedder.transform([3])
    with pytest.raises(ChiasmError, match="list of texts"):
        embedder.transform("one text")
    assert clone(skl.Embedder("image", encoder="x")).get_params() == {
        "modality": "image",
        "encoder": "x",
        "device": "auto",
    }


@pytest.mark.parametrize("method", ["kernel", "ridge", "procrustes", "cca"])
def test_pairs_that_are_turned_are_brought_together(method: str) -> None:
    rng = np.random.default_rng(1)
    X = rng.normal(size=(80, 6))
    Y = X @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    Y /= np.linalg.norm(Y, axis=1, keepdims=True)
    aligner = skl.Aligner(method).fit(X[:60], Y[:60])
    Z = aligner.transform(X[60:])
    assert np.allclose(np.linalg.norm(Z, axis=1), 1, atol=1e-5)
    assert ((Z @ Y[60:].T).argmax(axis=1) == np.arange(20)).mean() > 0.9
    with pytest.raises(SpaceError, match="10 pairs"):
        skl.Aligner(method).fit(X[:5], Y[:5])
