"""Tiny random models on disk, against transformers and sentence-transformers called directly on the same inputs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tiny_models import MAKERS, VISION

from chiasm.encoders import resolve
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.types import Audio, Image, Media, Text, Video

TEXTS = [
    "a cat",
    "the big red dog",
    "photo of a cat on the mat",
    "unheard words of the dog",
    "dog",
    "a " * 5 + "cat",
]
CLIP, SIGLIP, SIGLIP2, CLAP = "clip", "siglip", "siglip2", "clap"
BERT, LLAMA, SENTENCE = "bert", "llama", "sentence"
JOINT = (CLIP, SIGLIP, SIGLIP2)
ALL = (*JOINT, BERT, LLAMA, SENTENCE)

Copy = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    kinds = (*ALL, CLAP)
    for kind in kinds:
        MAKERS[kind](root / kind)
    return {kind: root / kind for kind in kinds}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Copy:
    """A copy of a model's folder, to be changed."""

    return lambda kind: Path(shutil.copytree(folders[kind], tmp_path / kind))


def pictures() -> list[Image]:
    generator = np.random.default_rng(0)
    sizes = [(40, 50), (32, 32), (90, 45), (33, 64), (48, 48)]
    return [Image(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def text_vectors(kind: str, folder: Path, texts: Sequence[str] = TEXTS) -> Float[np.ndarray, "texts dim"]:
    """What the library itself gives, one text at a time."""
    if kind == SENTENCE:
        model = SentenceTransformer(str(folder), device="cpu")
        vectors: np.ndarray = model.encode_document(list(texts), show_progress_bar=False)
        return vectors
    network = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        fixed = kind in (SIGLIP, SIGLIP2)
        padding: Any = "max_length" if fixed else False
        inputs = tokenizer([text], truncation=True, padding=padding, max_length=16, return_tensors="pt")
        named = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            if kind in (BERT, LLAMA):
                rows.append(network(**named).last_hidden_state[0].mean(0))
            elif fixed:
                rows.append(network.get_text_features(input_ids=named["input_ids"]).pooler_output[0])
            else:
                rows.append(network.get_text_features(**named).pooler_output[0])
    return torch.stack(rows).numpy()


def image_vectors(folder: Path, images: list[Image]) -> Float[np.ndarray, "images dim"]:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    loader: Any = transformers.AutoImageProcessor
    processor = loader.from_pretrained(folder)
    rows = []
    for image in images:
        inputs = processor(images=image.pixels, input_data_format="channels_last", return_tensors="pt")
        with torch.inference_mode():
            rows.append(model.get_image_features(**inputs).pooler_output[0])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", ALL)
def test_texts_are_embedded_as_by_the_library(kind: str, folders: dict[str, Path]) -> None:
    expected = text_vectors(kind, folders[kind])
    assert np.abs(expected[0] - expected[1]).max() > 0.05  # the models do tell texts apart
    encoder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    result = encoder.encode([Text(text) for text in TEXTS])
    assert result.vectors.dtype == np.float32
    assert result.vectors.shape == (len(TEXTS), encoder.dim)
    assert result.texts == (None,) * len(TEXTS)
    np.testing.assert_allclose(result.vectors, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", (*ALL, CLAP))
def test_long_texts_have_passages_of_as_many_tokens_as_the_model_takes(kind: str, folders: dict[str, Path]) -> None:
    text = "the cat on the mat. " * 5 + "\n\n" + "a " * 20 + "big dog"
    encoder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    found = encoder.encode_prepared("text", ["dog", text])
    assert found.moments is not None
    words = [one or "" for one in found.moments.texts]
    assert [text[int(a) : int(b)] for a, b in zip(found.moments.starts, found.moments.ends, strict=True)] == words
    assert "".join("".join(words).split()) == "".join(text.split()), "nothing is left out"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    longest = 12 - len(["the"]) if kind == SENTENCE else 16
    lengths = [len(ids) for ids in tokenizer(words)["input_ids"]]
    assert longest / 2 < np.mean(lengths) <= max(lengths) <= longest
    if kind != CLAP:
        expected = text_vectors(kind, folders[kind], ["dog", *words])
        np.testing.assert_allclose(found.vectors[0], expected[0], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(found.moments.vectors, expected[1:], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(encoder.encode([Text(text)]).vectors[0], found.vectors[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [CLIP, SIGLIP])
def test_pictures_are_embedded_as_by_the_library(kind: str, folders: dict[str, Path]) -> None:
    expected = image_vectors(folders[kind], pictures())
    assert np.abs(expected[0] - expected[1]).max() > 0.05
    encoder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    result = encoder.encode(pictures()).vectors
    assert result.shape == (5, encoder.dim)
    np.testing.assert_allclose(result, expected, atol=1e-4, rtol=1e-4)


def test_a_half_that_cannot_be_exported_is_run_by_pytorch_with_a_warning(folders: dict[str, Path]) -> None:
    encoder = HuggingFaceEncoder(str(folders[SIGLIP2]), device="cpu")
    with pytest.warns(RuntimeWarning, match="siglip2-image is run by PyTorch"):
        result = encoder.encode(pictures()).vectors
    np.testing.assert_allclose(result, image_vectors(folders[SIGLIP2], pictures()), atol=1e-4, rtol=1e-4)


def test_a_folder_may_ask_for_lower_case_where_its_tokenizer_does_not(copy: Copy) -> None:
    folder = copy(SENTENCE)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": None}))
    settings = json.loads((folder / "sentence_bert_config.json").read_text())
    (folder / "sentence_bert_config.json").write_text(json.dumps({**settings, "do_lower_case": True}))
    encoder = HuggingFaceEncoder(str(folder), device="cpu")
    upper = encoder.encode([Text(text.upper()) for text in TEXTS]).vectors
    np.testing.assert_allclose(upper, encoder.encode([Text(text) for text in TEXTS]).vectors, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "modalities", "dim", "image_size"),
    [
        (CLIP, {"image", "text"}, 8, 32),
        (SIGLIP, {"image", "text"}, 16, 32),
        (SIGLIP2, {"image", "text"}, 16, None),
        (BERT, {"text"}, 16, None),
        (SENTENCE, {"text"}, 6, None),
    ],
)
def test_attributes_are_what_the_library_says(
    kind: str, modalities: set[str], dim: int, image_size: int | None, folders: dict[str, Path]
) -> None:
    encoder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    assert encoder.name == str(folders[kind])
    assert encoder.modalities == modalities
    assert encoder.dim == dim
    assert encoder.view.image_size == image_size
    assert encoder.batch_size > 0


def test_damaged_weights_are_refused_where_the_model_is_named(copy: Copy) -> None:
    folder = copy(BERT)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="cannot be loaded by sentence-transformers"):
        HuggingFaceEncoder(str(folder), device="cpu")


@pytest.mark.parametrize("kind", [CLIP, SIGLIP, BERT, LLAMA, SENTENCE])
def test_company_and_order_in_a_batch_change_nothing(kind: str, folders: dict[str, Path]) -> None:
    encoder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    media: list[Media] = [Text(text) for text in TEXTS]
    if kind in JOINT:
        media += pictures()
    together = encoder.encode(media).vectors
    alone = np.concatenate([encoder.encode([medium]).vectors for medium in media])
    np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-4)
    order = np.random.default_rng(1).permutation(len(media))
    np.testing.assert_allclose(encoder.encode([media[row] for row in order]).vectors, together[order], atol=1e-5)


def test_a_joint_model_takes_the_frames_of_videos_too(folders: dict[str, Path]) -> None:
    model, film = resolve(str(folders[CLIP]), device="cpu")
    assert film.modalities == {"video"}
    assert (film.dim, film.vector_space) == (model.dim, model.vector_space)
    frames = np.random.default_rng(2).integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    video = Video(frames[1:2], np.zeros(1, np.float32), 1.0)
    np.testing.assert_allclose(film.encode([video]).vectors, model.encode([Image(frames[1])]).vectors, atol=1e-5)
    assert [encoder.modalities for encoder in resolve(str(folders[BERT]), device="cpu")] == [{"text"}]


def hum(seconds: float, hertz: float) -> Audio:
    samples = np.sin(2 * np.pi * hertz * np.arange(round(seconds * 16_000)) / 16_000).astype(np.float32)
    return Audio(samples / 2, 16_000)


def audio_vectors(folder: Path, sounds: list[Audio]) -> Float[np.ndarray, "sounds dim"]:
    """What transformers itself gives for sounds of one window."""
    extractor: Any = transformers.ClapFeatureExtractor.from_pretrained(folder)
    model: Any = transformers.ClapModel.from_pretrained(folder)
    model.eval()
    given = extractor([sound.waveform for sound in sounds], sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        output = model.get_audio_features(
            given["input_features"].float(), torch.zeros(len(sounds), 1, dtype=torch.bool)
        )
    result = output if isinstance(output, torch.Tensor) else output.pooler_output
    return np.asarray(result)


def test_sounds_are_embedded_as_transformers_does(folders: dict[str, Path]) -> None:
    encoder = HuggingFaceEncoder(str(folders[CLAP]), device="cpu")
    assert encoder.modalities == {"audio", "text"}
    assert (encoder.dim, encoder.view.rate) == (8, 16_000)
    sounds = [hum(1, 300), hum(1, 2000), hum(0.4, 900)]
    expected = audio_vectors(folders[CLAP], sounds)
    assert np.ptp(expected, axis=0).max() > 1e-3
    result = encoder.encode_prepared("audio", [encoder.prepare(sound) for sound in sounds])
    np.testing.assert_allclose(result.vectors, expected, atol=1e-4, rtol=1e-3)
    assert result.moments is not None
    assert len(result.moments) == 0
    double = Audio(np.repeat(sounds[0].waveform, 2), 32_000)
    np.testing.assert_allclose(encoder.encode([double]).vectors, expected[:1], atol=2e-2)
    assert encoder.encode([Text("a hum")]).vectors.shape == (1, 8)


@pytest.mark.parametrize(
    ("seconds", "starts"), [(1.02, [0, 0.02]), (1.5, [0, 0.5]), (2.0, [0, 0.5, 1]), (2.2, [0, 0.5, 1, 1.2])]
)
def test_long_sounds_have_windows(seconds: float, starts: list[float], folders: dict[str, Path]) -> None:
    encoder = HuggingFaceEncoder(str(folders[CLAP]), device="cpu")
    sound = Audio(np.concatenate([hum(1, 300).waveform, hum(seconds - 1, 2000).waveform]), 16_000)
    result = encoder.encode_prepared("audio", [encoder.prepare(one) for one in (hum(0.6, 500), sound)])
    moments = result.moments
    assert moments is not None
    assert set(moments.owners.tolist()) == {1}
    np.testing.assert_allclose(moments.starts, starts)
    np.testing.assert_allclose(moments.ends, np.array(starts) + 1)
    parts = [Audio(sound.waveform[round(s * 16_000) : round(s * 16_000) + 16_000], 16_000) for s in starts]
    np.testing.assert_allclose(moments.vectors, audio_vectors(folders[CLAP], parts), atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(result.vectors[1], moments.vectors.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("kind", [CLIP, CLAP, BERT])
def test_an_empty_batch_gives_no_rows(kind: str, folders: dict[str, Path]) -> None:
    encoder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    for modality in encoder.modalities:
        result = encoder.encode_prepared(modality, [])
        assert result.vectors.shape == (0, encoder.dim)
        assert result.vectors.dtype == np.float32
        assert result.texts == ()


@pytest.mark.race
def test_pictures_can_be_prepared_by_several_threads(folders: dict[str, Path]) -> None:
    encoder = HuggingFaceEncoder(str(folders[CLIP]), device="cpu")
    images = pictures() * 8
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(encoder.prepare, images))
    for image, result in zip(images, prepared, strict=True):
        np.testing.assert_array_equal(result["pixel_values"], encoder.prepare(image)["pixel_values"])


def test_a_modality_that_the_model_lacks_is_refused(folders: dict[str, Path]) -> None:
    joint, text = (HuggingFaceEncoder(str(folders[kind]), device="cpu") for kind in (CLIP, BERT))
    with pytest.raises(EncoderError, match=r"takes image and text, not audio"):
        joint.prepare(Audio(np.ones(10, np.float32), 16000))
    with pytest.raises(EncoderError, match=r"takes text, not image\. Use one that takes image"):
        text.prepare(pictures()[0])
    with pytest.raises(EncoderError, match="takes text, not image"):
        text.encode_prepared("image", [])


@pytest.mark.parametrize("kind", [CLIP, BERT, SENTENCE])
def test_the_fingerprint_is_of_the_content(kind: str, folders: dict[str, Path], copy: Copy) -> None:
    folder = copy(kind)
    original = HuggingFaceEncoder(str(folders[kind]), device="cpu").fingerprint
    assert HuggingFaceEncoder(str(folder), device="cpu").fingerprint == original  # wherever it lies
    (folder / "README.md").write_text("Another description.")
    assert HuggingFaceEncoder(str(folder), device="cpu").fingerprint == original

    weights = sorted(folder.rglob("*.safetensors"))[0]
    tensors = load_file(weights)
    name = min(tensors)
    tensors[name] = tensors[name] + 1
    save_file(tensors, weights, metadata={"format": "pt"})
    changed = HuggingFaceEncoder(str(folder), device="cpu").fingerprint
    assert changed != original

    tokenizer = folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"cat"', '"cow"'))
    assert HuggingFaceEncoder(str(folder), device="cpu").fingerprint not in (original, changed)


def test_fingerprints_of_different_models_differ(folders: dict[str, Path]) -> None:
    assert len({HuggingFaceEncoder(str(folders[kind]), device="cpu").fingerprint for kind in ALL}) == len(ALL)


@pytest.mark.parametrize("kind", [CLIP, SENTENCE])
def test_a_hub_id_is_its_snapshot_folder(kind: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[tuple[str, str | None, list[str]]] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        requests.append((name, revision, allow_patterns))
        return str(folders[kind])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    by_id = HuggingFaceEncoder("somebody/tiny", revision="v1", device="cpu")
    by_folder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    assert by_id.name == "somebody/tiny"
    assert by_id.fingerprint == by_folder.fingerprint
    media = [Text(text) for text in TEXTS]
    np.testing.assert_allclose(by_id.encode(media).vectors, by_folder.encode(media).vectors, atol=1e-6)
    wanted = ["*.json", "*.txt", "*.model", "*.jinja", "README.md", "LICEN[CS]E*", "*.safetensors"]
    assert requests == [("somebody/tiny", "v1", wanted)]


@pytest.mark.parametrize(
    ("kind", "part", "pattern"),
    [(BERT, ".", "*pytorch_model*.bin"), (SENTENCE, "2_Dense", "*_Dense/pytorch_model*.bin")],
)
def test_pickled_weights_are_fetched_only_where_there_are_no_others(
    kind: str, part: str, pattern: str, folders: dict[str, Path], copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(kind)
    tensors = load_file(folder / part / "model.safetensors")
    (folder / part / "model.safetensors").unlink()
    patterns: list[str] = []

    def snapshot(name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        patterns.append(allow_patterns[-1])
        if allow_patterns[-1] == pattern:
            torch.save(tensors, folder / part / "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    encoder = HuggingFaceEncoder("somebody/old", device="cpu")
    vectors = encoder.encode([Text(text) for text in TEXTS]).vectors
    assert patterns == ["*.safetensors", pattern]
    np.testing.assert_allclose(vectors, text_vectors(kind, folders[kind]), atol=1e-4, rtol=1e-4)


def test_a_clip_model_may_be_the_only_module_of_a_sentence_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[CLIP], tmp_path / "0_CLIPModel")
    module = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
    (tmp_path / "modules.json").write_text(json.dumps([module]))
    encoder = HuggingFaceEncoder(str(tmp_path), device="cpu")
    assert encoder.modalities == {"image", "text"}
    np.testing.assert_allclose(
        encoder.encode(pictures()).vectors, image_vectors(folders[CLIP], pictures()), atol=1e-4, rtol=1e-4
    )


class Trap:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_pickled_code_is_not_run(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(BERT)
    (folder / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    torch.save({"trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="Weights only load failed"):
        HuggingFaceEncoder(str(folder), device="cpu")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("error", "term"),
    [
        (RepositoryNotFoundError.__new__(RepositoryNotFoundError), "no model of this id"),
        (LocalEntryNotFoundError("no connection"), "LocalEntryNotFoundError: no connection"),
        (ConnectionError("refused"), "download the model elsewhere"),
    ],
)
def test_an_id_that_cannot_be_fetched(error: Exception, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(EncoderError, match=term):
        HuggingFaceEncoder("somebody/nothing")


# ------------------------------------------------------------------------------------------- folders that are refused


def write(name: str, content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(content)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def other_config(config: Any) -> Callable[[Path], object]:
    write_config: Callable[[Path], object] = config.save_pretrained
    return write_config


def first_module(**change: str | None) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        modules = json.loads((folder / "modules.json").read_text())
        modules[0].update(change)
        (folder / "modules.json").write_text(json.dumps(modules))

    return apply


OWN_CODE = '{"model_type": "crystal-ball", "auto_map": {"AutoModel": "modeling_ball.BallModel"}}'


@pytest.mark.parametrize(
    ("kind", "change", "term"),
    [
        (BERT, remove("config.json"), r"no config\.json"),
        (BERT, remove("model.safetensors"), r"no file named model\.safetensors"),
        (BERT, write("config.json", '{"model_type": "bert", '), "cannot be read"),
        (BERT, write("config.json", '{"model_type": "crystal-ball"}'), "crystal-ball"),
        (BERT, write("tokenizer.json", "{"), "cannot be loaded by sentence-transformers"),
        (CLIP, write("preprocessor_config.json", "{"), "not a valid JSON file"),
        (CLAP, remove("preprocessor_config.json"), "Can't load feature extractor"),
        (BERT, other_config(transformers.ViTConfig(**VISION)), "weights of .* lack .* tensors"),
        (SENTENCE, first_module(type="os.path.Transformer"), "Code of a model is never run"),
        (SENTENCE, first_module(type="modeling_own.Transformer"), "trust_remote_code"),
        (BERT, write("config.json", OWN_CODE), "trust_remote_code"),
        (SENTENCE, first_module(type="sentence_transformers.models.StaticEmbedding"), "cannot be loaded"),
        (SENTENCE, first_module(path="../elsewhere"), "outside of the model's own"),
        (SENTENCE, first_module(path=None, type=None), "made of the modules None"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(
    kind: str, change: Callable[[Path], object], term: str, copy: Copy
) -> None:
    folder = copy(kind)
    change(folder)
    with pytest.raises(EncoderError, match=term):
        HuggingFaceEncoder(str(folder))


def test_a_path_or_a_choice_that_does_not_exist(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="there is no folder"):
        HuggingFaceEncoder(str(tmp_path / "nothing here"))
    with pytest.raises(EncoderError, match="one of auto, cpu, cuda; got 'tpu'"):
        HuggingFaceEncoder(str(folders[BERT]), device="tpu")  # type: ignore[arg-type]


def test_a_model_without_sentence_transformers(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(SENTENCE)
    (folder / "other.json").write_text("{}")  # never described on this machine
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[huggingface\]'"):
        HuggingFaceEncoder(str(folder))


def test_weights_that_are_not_all_there_are_not_made_up(copy: Copy) -> None:
    folder = copy(BERT)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".layer.1.attention" in name]:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lack 10 tensors"):
        HuggingFaceEncoder(str(folder), device="cpu")
