"""A cross-encoder on candidates: tiny random models on disk, against sentence-transformers called directly."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from PIL import Image as Pillow
from sentence_transformers import CrossEncoder
from tiny_models import WORDS, save_tokenizer, spread

from chiasm.errors import EncoderError, MissingExtraError, SpaceError
from chiasm.retrieval.rerank import CHARACTERS, Reranker
from chiasm.types import Audio, Image, Media, Text, Video

BERT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 32,
}
QUERY = Text("a cat")
TEXTS = ["dog", "the cat on the mat", "big red dog", "photo of a cat", "mat"]
PIXELS = Image(np.zeros((4, 5, 3), np.uint8))
SOUND = Audio(np.zeros(10, np.float32), 8000)


def save(folder: Path, model: type[Any], **options: Any) -> Path:
    torch.manual_seed(0)
    network = model(transformers.BertConfig(**BERT, **options))
    spread(network).save_pretrained(folder)
    save_tokenizer(folder, length=32, pair="[CLS] $A [SEP] $B:1 [SEP]:1")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), transformers.BertForSequenceClassification, num_labels=1)


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Reranker:
    return Reranker(str(folder), device="cpu")


@pytest.fixture(scope="module")
def scores(folder: Path) -> dict[str, float]:
    """What the model says of each text, asked directly."""
    found = CrossEncoder(str(folder), device="cpu").predict([(QUERY.text, text) for text in TEXTS])
    assert len(set(found.tolist())) == len(TEXTS)
    return dict(zip(TEXTS, found.tolist(), strict=True))


def texts_of(candidates: Sequence[Media | None], order: np.ndarray) -> list[str | None]:
    chosen = [candidates[place] for place in order]
    return [one.text if isinstance(one, Text) else None for one in chosen]


# --------------------------------------------------------------------------------------------------------- texts only


def test_candidates_come_in_the_order_of_the_models_scores(reranker: Reranker, scores: dict[str, float]) -> None:
    candidates = [Text(text) for text in TEXTS]
    reranked = reranker.rerank(QUERY, candidates)
    assert texts_of(candidates, reranked.order) == sorted(TEXTS, key=lambda text: -scores[text])
    np.testing.assert_allclose(reranked.scores, sorted(scores.values(), reverse=True), rtol=1e-5)
    assert reranker.rerank(QUERY, candidates, batch_size=2).order.tolist() == reranked.order.tolist()
    assert reranker.modalities == ("text",)


def test_what_the_model_cannot_read_keeps_its_place(reranker: Reranker, scores: dict[str, float]) -> None:
    candidates = [Text(TEXTS[0]), None, Text(TEXTS[1]), PIXELS, Text(TEXTS[2])]
    reranked = reranker.rerank(QUERY, candidates)
    assert reranked.order[[1, 3]].tolist() == [1, 3]
    assert np.isnan(reranked.scores[[1, 3]]).all()
    ordered = sorted(TEXTS[:3], key=lambda text: -scores[text])
    assert texts_of(candidates, reranked.order[[0, 2, 4]]) == ordered
    np.testing.assert_allclose(reranked.scores[[0, 2, 4]], [scores[text] for text in ordered], rtol=1e-5)


def test_only_the_first_are_read(reranker: Reranker, scores: dict[str, float]) -> None:
    candidates = [Text(text) for text in TEXTS]
    reranked = reranker.rerank(QUERY, candidates, limit=2)
    assert reranked.order[2:].tolist() == [2, 3, 4]
    assert np.isnan(reranked.scores[2:]).all()
    assert not np.isnan(reranked.scores[:2]).any()


def test_equal_candidates_keep_their_order(reranker: Reranker) -> None:
    assert reranker.rerank(QUERY, [Text("dog")] * 4).order.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("candidates", [[], [None, None], [SOUND]])
def test_nothing_to_read_changes_nothing(reranker: Reranker, candidates: list[Media | None]) -> None:
    reranked = reranker.rerank(QUERY, candidates)
    assert reranked.order.tolist() == list(range(len(candidates)))
    assert np.isnan(reranked.scores).all()


def test_a_folder_saved_by_sentence_transformers_is_read_as_well(
    folder: Path, tmp_path: Path, reranker: Reranker
) -> None:
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "saved"))
    candidates = [Text(text) for text in TEXTS]
    saved = Reranker(str(tmp_path / "saved"), device="cpu").rerank(QUERY, candidates)
    np.testing.assert_allclose(saved.scores, reranker.rerank(QUERY, candidates).scores, rtol=1e-5)


# ------------------------------------------------------------------------------------------------- texts and pictures


class Seeing:
    """Stands for a cross-encoder of texts and images: likes what is bright or long, and notes what it was given."""

    num_labels = 1

    def __init__(self, *_: Any, **__: Any) -> None:
        self.asked: list[tuple[Any, Any]] = []

    def __getitem__(self, place: int) -> object:
        return object()

    def supports(self, kind: str) -> bool:
        return kind != "video"

    def predict(self, pairs: list[tuple[Any, Any]], **_: Any) -> np.ndarray:
        self.asked = pairs
        return np.array([len(b) if isinstance(b, str) else float(np.mean(np.asarray(b))) for _, b in pairs])


@pytest.fixture
def seeing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reranker:
    monkeypatch.setattr(sentence_transformers, "CrossEncoder", Seeing)
    return Reranker(str(tmp_path))


def test_pictures_are_handed_over_as_pictures(seeing: Reranker) -> None:
    bright = Image(np.full((4, 5, 3), 200, np.uint8))
    film = Video(np.zeros((2, 4, 5, 3), np.uint8), np.arange(2.0), 2.0)
    reranked = seeing.rerank(bright, [Text("x" * (CHARACTERS + 5)), PIXELS, film, bright])
    assert seeing.modalities == ("image", "text", "audio")
    assert reranked.order.tolist() == [0, 3, 2, 1]
    assert np.isnan(reranked.scores[2])  # the film
    model: Any = seeing._model
    query, candidate = model.asked[1]
    assert isinstance(query, Pillow.Image)
    assert query.size == (5, 4)
    assert isinstance(candidate, Pillow.Image)
    assert len(model.asked[0][1]) == CHARACTERS


def test_sounds_are_handed_over_with_their_rate(seeing: Reranker) -> None:
    model: Any = seeing._model
    model.predict = lambda pairs, **_: model.asked.extend(pairs) or np.zeros(len(pairs))
    seeing.rerank(QUERY, [SOUND])
    assert model.asked[0][1]["sampling_rate"] == 8000
    assert model.asked[0][1]["array"] is SOUND.waveform


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_query_that_the_model_does_not_read(reranker: Reranker) -> None:
    with pytest.raises(
        SpaceError, match=r"reads text and the query is image\. Search without it, or with one that reads"
    ):
        reranker.rerank(PIXELS, [Text("dog")])


def test_limits_are_checked(reranker: Reranker) -> None:
    for options in ({"limit": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="limit and batch_size must be at least 1"):
            reranker.rerank(QUERY, [Text("dog")], **options)


def test_a_model_that_was_not_trained_on_pairs_is_refused(tmp_path: Path) -> None:
    save(tmp_path, transformers.BertModel)
    with pytest.raises(EncoderError, match="is a BertModel, which was not trained to score pairs"):
        Reranker(str(tmp_path))


def test_a_model_of_several_scores_is_refused(tmp_path: Path) -> None:
    save(tmp_path, transformers.BertForSequenceClassification, num_labels=3)
    with pytest.raises(EncoderError, match="gives 3 scores a pair; a reranker gives one"):
        Reranker(str(tmp_path))


def test_it_says_how_long_a_query_is(reranker: Reranker) -> None:
    assert reranker.lengths(Text("a big cat")) == (5, 32)
    assert reranker.lengths(Text("a cat " * 50)) == (102, 32)


@pytest.mark.parametrize("name", ["", "a folder that is not there", "/not/there"])
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(EncoderError, match=r"no folder .* Give a sentence-transformers CrossEncoder"):
        Reranker(name)


def test_code_that_comes_with_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    CrossEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path))
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Module: pass\n")
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "foreign.Module"}]))
    with pytest.raises(EncoderError, match="cannot be loaded as a reranker"):
        Reranker(str(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (np.array([np.nan]), "gave scores that are not finite numbers, one a pair"),
        (np.array([1.0, 2.0]), "gave scores that are not finite numbers, one a pair"),
        (RuntimeError("out of memory"), "failed: RuntimeError: out of memory"),
    ],
)
def test_a_model_that_fails(seeing: Reranker, outcome: np.ndarray | RuntimeError, text: str) -> None:
    def predict(*_: Any, **__: Any) -> np.ndarray:
        if isinstance(outcome, RuntimeError):
            raise outcome
        return outcome

    model: Any = seeing._model
    model.predict = predict
    with pytest.raises(EncoderError, match=text):
        seeing.rerank(QUERY, [Text("dog")])


def test_the_library_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[huggingface\]'"):
        Reranker("any")


def test_the_library_is_not_imported_with_the_module() -> None:
    code = "import sys, chiasm.retrieval.rerank; print({'torch', 'sentence_transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
