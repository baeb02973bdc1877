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
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from chiasm.encoders import resolve
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.types import Audio, Image, Media, Text, Video

WORDS = ["[PAD]", "[CLS]", "[UNK]", "[SEP]", "a", "cat", "dog", "red", "big", "photo", "of", "the", "on", "mat"]
TEXTS = [
    "a cat",
    "the big red dog",
    "photo of a cat on the mat",
    "unheard words of the dog",
    "dog",
    "a " * 5 + "cat",
]
LAYERS: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT: dict[str, Any] = {**LAYERS, "vocab_size": len(WORDS), "max_position_embeddings": 16}
VISION: dict[str, Any] = {**LAYERS, "image_size": 32, "patch_size": 8}
CLIP, SIGLIP, SIGLIP2, CLAP = "clip", "siglip", "siglip2", "clap"
BERT, LLAMA, SENTENCE = "bert", "llama", "sentence"
JOINT = (CLIP, SIGLIP, SIGLIP2)
ALL = (*JOINT, BERT, LLAMA, SENTENCE)

Copy = Callable[[str], Path]


def save_tokenizer(folder: Path, padding_side: str = "right") -> None:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 3)]
    )
    transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=16,
        padding_side=padding_side,
    ).save_pretrained(folder)


def spread(model: Any) -> Any:
    """Weights large enough that inputs matter: at their usual start all embeddings are nearly the same."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return model


def save_clip(folder: Path) -> None:
    text = {**TEXT, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    spread(transformers.CLIPModel(config)).save_pretrained(folder)
    crop: Any = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)


def save_siglip(folder: Path) -> None:
    config = transformers.SiglipConfig(text_config=TEXT, vision_config=VISION)
    spread(transformers.SiglipModel(config)).save_pretrained(folder)
    transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_siglip2(folder: Path) -> None:
    vision = {**LAYERS, "patch_size": 8, "num_patches": 16}
    config = transformers.Siglip2Config(text_config=TEXT, vision_config=vision)
    spread(transformers.Siglip2Model(config)).save_pretrained(folder)
    transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)


def save_clap(folder: Path) -> None:
    """Windows of a second at 16 kHz."""
    sizes = {"window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 2, "patch_stride": 2, "freq_ratio": 2}
    layers = {"hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [2, 2], "num_attention_heads": [2, 2]}
    text = {**TEXT, "max_position_embeddings": 40, "pad_token_id": 0}
    config = transformers.ClapConfig(text_config=text, audio_config=sizes | layers, projection_dim=8)
    torch.manual_seed(1)
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        max_length_s=1,
        hop_length=320,
        frequency_max=8000,
        truncation="rand_trunc",
    ).save_pretrained(folder)


def save_bert(folder: Path) -> None:
    spread(transformers.BertModel(transformers.BertConfig(**TEXT))).save_pretrained(folder)


def save_llama(folder: Path) -> None:
    """Each token sees only those before it, and its tokenizer would pad on the left."""
    config = transformers.LlamaConfig(**TEXT, bos_token_id=1, eos_token_id=3, pad_token_id=0)
    spread(transformers.LlamaModel(config)).save_pretrained(folder)


def save_sentence(folder: Path) -> None:
    plain = folder.with_name("sentence-plain")
    save_bert(plain)
    save_tokenizer(plain)
    first = Transformer(str(plain), max_seq_length=12, do_lower_case=True)
    modules = [first, Pooling(16, pooling_mode=("cls", "mean")), Dense(32, 6), Normalize()]
    prompts = {"document": "photo of "}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="document").save(
        str(folder)
    )


MAKERS = {
    CLIP: save_clip, SIGLIP: save_siglip, SIGLIP2: save_siglip2, CLAP: save_clap,
    BERT: save_bert, LLAMA: save_llama, SENTENCE: save_sentence,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    for kind, make in MAKERS.items():
        make(root / kind)
        if kind != SENTENCE:
            save_tokenizer(root / kind, padding_side="left" if kind == LLAMA else "right")
    return {kind: root / kind for kind in MAKERS}


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
        vectors: np.ndarray = SentenceTransformer(str(folder), device="cpu").encode(
            list(texts), show_progress_bar=False
        )
        return vectors
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for text in texts:
        fixed = kind in (SIGLIP, SIGLIP2)
        padding: Any = "max_length" if fixed else False
        inputs = tokenizer([text], truncation=True, padding=padding, max_length=16, return_tensors="pt")
        named = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            if kind in (BERT, LLAMA):
                rows.append(model(**named).last_hidden_state[0].mean(0))
            elif fixed:
                rows.append(model.get_text_features(input_ids=named["input_ids"]).pooler_output[0])
            else:
                rows.append(model.get_text_features(**named).pooler_output[0])
    return torch.stack(rows).numpy()


def image_vectors(folder: Path, images: list[Image]) -> Float[np.ndarray, "images dim"]:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    loader: Any = transformers.AutoImageProcessor
    processor = loader.from_pretrained(folder, backend="pil")
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
    longest = 12 - len(["photo", "of"]) if kind == SENTENCE else 16
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
def test_attributes_are_known_without_weights(
    kind: str, modalities: set[str], dim: int, image_size: int | None, copy: Copy
) -> None:
    folder = copy(kind)
    for weights in folder.rglob("*.safetensors"):
        weights.write_bytes(b"no weights")
    encoder = HuggingFaceEncoder(str(folder), device="cpu")
    assert encoder.name == str(folder)
    assert encoder.modalities == modalities
    assert encoder.dim == dim
    assert encoder.view.image_size == image_size
    assert encoder.batch_size > 0
    with pytest.raises(EncoderError, match=r"the weights of .* cannot be read"):
        encoder.encode([Text("a cat")])


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
    requests: list[tuple[str, list[str]]] = []

    def snapshot(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        requests.append((name, allow_patterns))
        return str(folders[kind])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    by_id = HuggingFaceEncoder("somebody/tiny", device="cpu")
    by_folder = HuggingFaceEncoder(str(folders[kind]), device="cpu")
    assert by_id.name == "somebody/tiny"
    assert by_id.fingerprint == by_folder.fingerprint
    media = [Text(text) for text in TEXTS]
    np.testing.assert_allclose(by_id.encode(media).vectors, by_folder.encode(media).vectors, atol=1e-6)
    assert requests == [("somebody/tiny", ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"])]


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

    def snapshot(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
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
    module = {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
    first = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([first, module]))
    with pytest.raises(EncoderError, match=r"puts Normalize behind a joint model.*0_CLIPModel itself"):
        HuggingFaceEncoder(str(tmp_path))


class Trap:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def test_pickled_code_is_not_run(copy: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(BERT)
    (folder / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    torch.save({"trap": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(EncoderError, match=r"the weights of .* cannot be read"):
        HuggingFaceEncoder(str(folder), device="cpu").encode([Text("a cat")])
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


@pytest.mark.parametrize(
    ("kind", "change", "term"),
    [
        (BERT, remove("config.json"), r"no config\.json"),
        (BERT, remove("model.safetensors"), "no weights in"),
        (BERT, write("config.json", '{"model_type": "bert", '), "does not describe a model"),
        (BERT, write("config.json", '{"model_type": "crystal-ball"}'), "crystal-ball"),
        (BERT, write("tokenizer.json", "{"), "the tokenizer of .* cannot be read"),
        (CLIP, write("preprocessor_config.json", "{"), "the image processor of .* cannot be read"),
        (CLAP, remove("preprocessor_config.json"), "the feature extractor of .* cannot be read"),
        (BERT, other_config(transformers.ViTConfig(**VISION)), "type 'vit', which has neither"),
        (BERT, other_config(transformers.T5Config()), "type 't5', which has neither"),  # needs a decoder's input too
        (BERT, other_config(transformers.Wav2Vec2Config()), "neither text nor image features"),  # of sounds alone
        (SENTENCE, first_module(type="os.path.Transformer"), "Code of a model is never run"),
        (SENTENCE, first_module(type="sentence_transformers.models.StaticEmbedding"), "StaticEmbedding"),
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


def test_a_sentence_folder_without_sentence_transformers(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'chiasm\[huggingface\]'"):
        HuggingFaceEncoder(str(folders[SENTENCE]))
    assert HuggingFaceEncoder(str(folders[BERT])).dim == 16


def test_weights_that_are_not_all_there_are_not_made_up(copy: Copy) -> None:
    folder = copy(BERT)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if ".layer.1.attention" in name]:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="lack 10 tensors"):
        HuggingFaceEncoder(str(folder), device="cpu").encode([Text("a cat")])
