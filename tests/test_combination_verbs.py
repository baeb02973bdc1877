"""Every verb over encoders of several makers: two of one modality, speech beside other texts, a joint one beside sounds, one of all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from listening import listening
from media_files import Film, sound_bytes, tone
from PIL import Image as PillowImage
from playwright.sync_api import BrowserContext, expect
from sentence_transformers import SentenceTransformer
from test_encoder_families import library_input
from test_encoder_speech import plant_words
from test_page_browser import browser, context, visit  # noqa: F401  fixtures
from test_serving import b64
from test_serving_run import plan
from tiny_models import MAKERS, WORDS
from waiting import LIMIT

import chiasm
from chiasm import media
from chiasm.encoders import resolve
from chiasm.encoders.video import FPS, FRAMES
from chiasm.errors import SpaceError
from chiasm.serving.app import create_app
from chiasm.serving.run import build
from chiasm.serving.settings import Settings
from chiasm.space import start_space
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import class_names, labelled_items
from chiasm.verbs.search import Searcher

KINDS = {"cat": ((220, 30, 30), 300.0), "dog": ((30, 40, 220), 3000.0)}
pytestmark = pytest.mark.filterwarnings("ignore:.*is run by PyTorch, slower on a CPU:RuntimeWarning")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for kind in ("dinov2", "bert", "clip", "wav2vec2"):
        MAKERS[kind](root / kind)
    return root


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Items of two kinds, each a picture, words and a sound; two films of both kinds; a text of several passages."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    for number in range(24):
        kind = [*KINDS][number % 2]
        colour, hertz = KINDS[kind]
        item = folder / kind / str(number)
        item.parent.mkdir(exist_ok=True)
        pixels = np.clip(generator.normal(colour, 25, (40, 40, 3)), 0, 255).astype(np.uint8)
        PillowImage.fromarray(pixels).save(item.with_suffix(".png"))
        item.with_suffix(".txt").write_text(" ".join([kind, *generator.choice(WORDS[4:], 3)]))
        samples = tone(0.5 if kind == "cat" else 0.6, 16_000, hertz)
        samples += generator.normal(0, 0.05, len(samples)).astype(np.float32)
        item.with_suffix(".wav").write_bytes(sound_bytes(samples, 16_000, "WAV"))
    for name, kinds in (("one", ("cat", "dog")), ("two", ("dog", "cat"))):
        film = Film(frames=100, scenes=tuple(KINDS[kind][0] for kind in kinds), audio="aac")
        (folder / f"{name}.mp4").write_bytes(film.written("mp4"))
    (folder / "long.txt").write_text(
        "\n\n".join(["red photo of the big mat on a mat", "the big photo of a mat"] * 2 + ["a dog, a dog, a dog"])
    )
    return folder


def ask_over_rest(collection: Path, model: Path | None, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """Answers of the server to searches and to items that it is to recognise, the status last."""
    answers: list[dict[str, Any]] = []
    with (
        listening(build(plan(collection, model)), force=True) as ((_, port), _),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LIMIT) as client,
    ):
        for body in bodies:
            route = "predict" if "items" in body else "search"
            answers.append(client.post(f"/v1/{route}", json=body).json())
        answers.append(client.get("/v1/status").json())
    return answers


def hits_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = answer["results"][0]["hits"]
    return hits


def learn_and_recognise(collection: Path, files: Path, folder: Path, modalities: Sequence[Modality]) -> Path:
    """`fit`, `evaluate` and `predict` by each of some modalities and by all."""
    model = folder / "model"
    report = chiasm.fit(
        collection, label="label", out=model, modalities=modalities, where="label = 'cat' or label = 'dog'", alike=2.0
    )
    assert set(report.modalities) == set(modalities)
    assert report.metrics["accuracy"] > 0.8
    measured = chiasm.evaluate(model, collection, label="label", on="folds")
    assert measured.metrics["accuracy"] > 0.8
    predicted = chiasm.predict(model, [files]).predictions
    known = [one for one in predicted if one.id.startswith(("cat/", "dog/"))]
    assert len(known) == 24
    assert np.mean([one.label == one.id[:3] for one in known]) > 0.8
    return model


def test_two_encoders_of_one_modality_each(models: Path, files: Path, tmp_path: Path) -> None:
    made, name = tmp_path / "c", f"image={models / 'dinov2'},text={models / 'bert'}"
    report = chiasm.add([files], to=made, encoder=name)
    assert (report.counts["ok"], report.counts["unsupported"]) == (24 + 24 + 2 + 1, 24)
    learned = chiasm.align(made, method="ridge")
    assert learned.aligned["image"].pairs == 24
    assert not chiasm.evaluate(made).notes
    assert chiasm.search(made, "a dog", modality="image", k=3).hits[0].modality == "image"
    assert chiasm.search(made, "a dog", modality="video").hits, "films follow the pictures"
    assert not chiasm.status(made).notes

    seen = chiasm.search(made, image=files / "cat/0.png", modality="video", k=2).hits
    assert {hit.id: round(hit.moments[0].start) for hit in seen} == {"one": 0, "two": 2}
    whole = chiasm.search(made, "a dog", modality="text", where="id = 'long'").hits[0]
    passage = whole.moments[-1]
    said = chiasm.search(made, passage.text, modality="text", where="id = 'long'").hits[0]
    assert said.moments[0].text == passage.text
    assert said.moments[0].score == pytest.approx(1, abs=1e-5)
    table = tmp_path / "moments.csv"
    table.write_text(f'query,item,start,end\n"{passage.text}",long,{passage.start},{passage.end}\n')
    assert chiasm.evaluate(made, moments=table).metrics["moments"]["queries"] == 1

    networks = resolve(name)
    data = labelled_items(Collection.open(made), networks, start_space(networks), ["label"], alike=2.0)
    assert {part: array.shape[1] for part, array in data.arrays.shared.items()} == {"text": 16}
    assert {part: array.shape[1] for part, array in data.arrays.vectors.items()} == {"image": 16}
    assert class_names(["cat"], start_space(networks), networks, data.arrays)["cat"].shape == (16,)
    pictures = chiasm.fit(made, label="label", out=tmp_path / "pictures", modalities=["image"], alike=2.0)
    assert pictures.metrics["accuracy"] > 0.8, "names of classes say nothing about pictures here"
    model = learn_and_recognise(made, files, tmp_path, ("image", "text"))
    picture = b64((files / "dog/1.png").read_bytes())
    both, by_picture, recognised, status = ask_over_rest(
        made,
        model,
        {"queries": [{"text": "cat"}], "k": 30},
        {"queries": [{"image": picture}], "modality": "image"},
        {"items": [{"image": picture}, {"text": "cat a cat"}]},
    )
    assert {hit["modality"] for hit in hits_of(both)} >= {"image"}
    assert hits_of(by_picture)[0]["id"] == "dog/1"
    assert [one["label"] for one in recognised["predictions"]] == ["dog", "cat"]
    assert [one["name"] for one in status["models"]] == ["dinov2", "bert"]
    assert status["encoder"] == "image=dinov2,text=bert"
    assert str(tmp_path) not in str(status)


def test_without_a_map_the_server_and_the_page_say_what_can_be_compared(
    models: Path,
    files: Path,
    tmp_path: Path,
    context: BrowserContext,  # noqa: F811
) -> None:
    made = tmp_path / "c"
    chiasm.add([files], to=made, encoder=f"image={models / 'dinov2'},text={models / 'bert'}")
    free, refused, status = ask_over_rest(
        made, None, {"queries": [{"text": "cat"}]}, {"queries": [{"text": "cat"}], "modality": "image"}
    )
    (note,) = status["notes"]
    assert note.startswith(
        "only these can be compared: image and video with each other, text with text, until chiasm align c "
    )
    assert free["results"][0]["notes"] == [note]
    assert {hit["modality"] for hit in hits_of(free)} == {"text"}
    assert note in refused["detail"]
    with listening(create_app(Settings(rate=None), Searcher(made)), force=True) as ((_, port), _):
        seen = visit(context, f"http://127.0.0.1:{port}")
        seen.search("cat")
        expect(seen.page.locator("#results")).to_contain_text(f"{note[0].upper()}{note[1:]}.")
        seen.tab("Health")
        expect(seen.page.locator("main")).to_contain_text(note)


def test_speech_beside_another_encoder_of_texts(
    models: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_words(monkeypatch, {8000: "a cat", 9600: "a dog"})
    monkeypatch.setattr(
        "faster_whisper.vad.get_speech_timestamps", lambda waveform, _: [{"start": 0, "end": len(waveform)}]
    )
    made, name = tmp_path / "c", f"image={models / 'dinov2'},text={models / 'bert'},audio=offline"
    assert chiasm.add([files], to=made, encoder=name).counts["ok"] == 24 * 3 + 2 + 1
    heard = chiasm.search(made, "a dog", modality="audio", k=3).hits
    assert heard[0].text == "a dog"
    assert heard[0].score == pytest.approx(1, abs=1e-5)
    assert chiasm.search(made, "a dog", modality="video").hits, "films are found by what is said in them"
    with pytest.raises(SpaceError, match=r"image with image|image and video with each other"):
        chiasm.search(made, "a dog", modality="image")
    assert chiasm.evaluate(made, pairs=("audio", "text")).metrics["text_to_audio"]
    chiasm.align(made, pairs=("image", "text", "audio"), method="ridge")
    assert chiasm.search(made, audio=files / "cat/0.wav", modality="image").hits
    learn_and_recognise(made, files, tmp_path, ("image", "text"))


def test_a_joint_encoder_beside_one_of_sounds(models: Path, files: Path, tmp_path: Path) -> None:
    clip, sounds = models / "clip", models / "wav2vec2"
    made, name = tmp_path / "c", f"image={clip},text={clip},audio={sounds}"
    report = chiasm.add([files], to=made, encoder=name)
    assert report.counts["ok"] == 24 * 3 + 2 + 1
    assert "audio with audio, until chiasm align" in report.notes[0]
    found = chiasm.search(made, "a dog", k=50)
    assert "audio" not in {hit.modality for hit in found.hits}
    assert found.notes == report.notes
    assert chiasm.search(made, audio=files / "dog/1.wav").hits[0].id == "dog/1"
    assert chiasm.evaluate(made).metrics["text_to_image"]["hit@10"] > 0
    assert chiasm.evaluate(made, pairs=("audio", "text")).notes, "the numbers are those of chance"
    assert chiasm.align(made, pairs=("image", "audio"), method="ridge", name="heard").aligned.keys() == {"audio"}
    chiasm.align(made, pairs=("audio", "text"), method="ridge")
    assert chiasm.search(made, "a dog", modality="audio").hits
    assert not chiasm.search(made, "a dog", k=50).notes
    model = learn_and_recognise(made, files, tmp_path, ("image", "text", "audio"))
    sound = b64((files / "cat/0.wav").read_bytes())
    answer, _ = ask_over_rest(made, model, {"queries": [{"audio": sound}], "modality": "audio", "k": 1})
    assert hits_of(answer)[0]["id"] == "cat/0"


def test_one_model_of_all_modalities_from_files_to_vectors(files: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip(
            "the processors of EmbeddingGemma 2 need torchvision, which make install puts beside the environment"
        )
    torch.manual_seed(0)
    MAKERS["omni"](tmp_path / "omni")
    chosen = [*sorted(files.glob("cat/*"))[:6], files / "one.mp4"]
    report = chiasm.add(chosen, to=tmp_path / "c", encoder=str(tmp_path / "omni"))
    assert report.counts == {"ok": 7}
    model = SentenceTransformer(str(tmp_path / "omni"), device="cpu")
    collection = Collection.open(tmp_path / "c")
    paths = {(row["item"], row["slot"]): row["path"] for row in collection.files()}
    seen: set[str] = set()
    for encoder in resolve(str(tmp_path / "omni")):
        stored = collection.vectors(encoder.fingerprint)
        for item, slot, modality, vector in zip(
            stored.items, stored.slots, stored.modalities, stored.vectors, strict=True
        ):
            if slot.partition("/")[0] != modality:
                continue  # the sound track of the film
            opened = media.load(paths[item, slot], rate=16_000, frames=FRAMES, fps=FPS)
            (expected,) = model.encode_document([library_input(opened)], show_progress_bar=False)
            np.testing.assert_allclose(vector, expected, atol=1e-5)
            seen.add(modality)
    assert seen == {"text", "image", "audio", "video"}
    assert chiasm.search(tmp_path / "c", "a cat").hits
    assert not chiasm.search(tmp_path / "c", "a cat").notes, "all of one model can be compared"


def test_a_picture_with_words_is_one_query_of_a_model_that_takes_both(files: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("the processors of Qwen3-VL need torchvision, which make install puts beside the environment")
    torch.manual_seed(0)
    MAKERS["qwen"](tmp_path / "qwen")
    made, path = tmp_path / "c", files / "dog/1.png"
    chiasm.add(
        [*sorted(files.glob("*/?.png")), *sorted(files.glob("*/?.txt"))], to=made, encoder=str(tmp_path / "qwen")
    )
    model = SentenceTransformer(str(tmp_path / "qwen"), device="cpu")
    asked = {"image": PillowImage.open(path), "text": "a red cat"}
    (fused,) = model.encode_query([asked], show_progress_bar=False)
    found = chiasm.search(made, "a red cat", image=path, k=40).hits
    collection = Collection.open(made)
    stored = collection.vectors(resolve(str(tmp_path / "qwen"))[0].fingerprint)
    best = {item: float((stored.vectors[[one == item for one in stored.items]] @ fused).max()) for item in stored.items}
    assert {hit.id: hit.score for hit in found} == pytest.approx(best, abs=1e-5)
    query = {"text": "a red cat", "image": b64(path.read_bytes())}
    less_mat = {**query, "minus": "the mat"}
    same, less, _ = ask_over_rest(made, None, {"queries": [query], "k": 40}, {"queries": [less_mat], "k": 40})
    assert {hit["id"]: hit["score"] for hit in hits_of(same)} == pytest.approx(best, abs=1e-5)
    expected = chiasm.search(made, "a red cat", image=path, minus="the mat", k=40).hits
    assert [hit["id"] for hit in hits_of(less)] == [hit.id for hit in expected]
    by_two = chiasm.search(made, image=[path, path], k=40).hits
    assert len(by_two) == len(found), "two pictures are two parts"
