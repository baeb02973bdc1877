"""One contract for models of every family: tiny random ones on disk, against the library's own call."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from jaxtyping import Float
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from test_encoders import noise, picture
from tiny_models import CLASSES, PROMPTS, saved_model

from chiasm.encoders import resolve
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.errors import EncoderError
from chiasm.types import Audio, Image, Media, Modality, Text, Video

Vectors = Float[np.ndarray, "inputs dim"]

pytestmark = pytest.mark.filterwarnings("ignore:.*is run by PyTorch, slower on a CPU:RuntimeWarning")

TAKES: dict[str, set[str]] = {
    "clip": {"image", "text"}, "siglip": {"image", "text"}, "siglip2": {"image", "text"}, "clap": {"audio", "text"},
    "bert": {"text"}, "llama": {"text"}, "sentence": {"text"}, "router": {"text"}, "dinov2": {"image"}, "vit": {"image"},
    "convnext": {"image"}, "resnet": {"image"}, "wav2vec2": {"audio"}, "hubert": {"audio"}, "ast": {"audio"},
    "whisper": {"audio"}, "videomae": {"video"}, "timm": {"image"}, "omni": {"audio", "image", "text", "video"}, "qwen": {"image", "text", "video"},
}  # fmt: skip


def film(seed: int, frames: int) -> Video:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (frames, 60, 80, 3), dtype=np.uint8)
    return Video(pixels, np.arange(frames, dtype=np.float32), float(frames))


MEDIA: dict[str, Sequence[Media]] = {
    "text": [Text("a cat"), Text("the big red dog on the mat"), Text("https://example.com/cat.png"), Text("Ω")],
    "image": [picture(0), picture(1, 300, 40), picture(2, 64, 64)],
    "audio": [noise(0), noise(1, 0.25), noise(2, 0.6), Audio(np.full(20, 0.1, np.float32), 16_000)],
    "video": [film(0, 4), film(1, 7), film(2, 1)],
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return partial(saved_model, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def encoder_of(folder_of: Callable[[str], Path]) -> Callable[[str], HuggingFaceEncoder]:
    made: dict[str, HuggingFaceEncoder] = {}

    def make(kind: str) -> HuggingFaceEncoder:
        if kind not in made:
            made[kind] = HuggingFaceEncoder(str(folder_of(kind)), device="cpu")
        return made[kind]

    return make


def library_input(medium: Media) -> Any:
    if isinstance(medium, Text):
        return {"text": medium.text}
    if isinstance(medium, Image):
        return PillowImage.fromarray(medium.pixels)
    if isinstance(medium, Audio):
        return {"array": medium.waveform, "sampling_rate": medium.rate}
    count = len(medium.frames)
    metadata = {
        "total_num_frames": count,
        "fps": count / medium.duration,
        "duration": medium.duration,
        "frames_indices": list(range(count)),
    }
    return {"array": medium.frames.transpose(0, 3, 1, 2), "video_metadata": metadata}


def library_vectors(kind: str, folder: Path, media: Sequence[Media]) -> Vectors:
    """What the library gives for each medium by itself."""
    if kind in {"siglip", "siglip2"} and isinstance(media[0], Text):
        return siglip_texts(folder, [medium.text for medium in media if isinstance(medium, Text)])
    if kind in POOLED:
        return np.stack([POOLED[kind](folder, medium) for medium in media])
    model = SentenceTransformer(str(folder), device="cpu")
    rows = [model.encode_document([library_input(medium)], show_progress_bar=False)[0] for medium in media]
    return np.stack(rows)


def siglip_texts(folder: Path, texts: Sequence[str]) -> Vectors:
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(list(texts), padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.inference_mode():
        return np.asarray(model.get_text_features(input_ids=inputs["input_ids"]).pooler_output)


def pooled(choose: Callable[[Any], torch.Tensor]) -> Callable[[Path, Media], np.ndarray]:
    """What transformers itself gives for a picture or a sound."""

    def embed(folder: Path, medium: Media) -> np.ndarray:
        loader: Any = (
            transformers.AutoImageProcessor if isinstance(medium, Image) else transformers.AutoFeatureExtractor
        )
        processor = loader.from_pretrained(folder)
        given = PillowImage.fromarray(medium.pixels) if isinstance(medium, Image) else getattr(medium, "waveform", None)
        options: dict[str, Any] = {} if isinstance(medium, Image) else {"sampling_rate": 16_000}
        inputs = processor(given, return_tensors="pt", **options)
        model: Any = transformers.AutoModel.from_pretrained(folder).eval()
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        with torch.inference_mode():
            return np.asarray(choose(model(**inputs))[0])

    return embed


POOLED: dict[str, Callable[[Path, Media], np.ndarray]] = {
    "dinov2": pooled(lambda output: output.pooler_output),
    "convnext": pooled(lambda output: output.pooler_output),
    "resnet": pooled(lambda output: output.pooler_output.flatten(1)),
    "timm": pooled(lambda output: output.pooler_output),
    "vit": pooled(lambda output: output.last_hidden_state[:, 0]),
    "ast": pooled(lambda output: output.pooler_output),
    "whisper": pooled(lambda output: output.last_hidden_state.mean(1)),
    "wav2vec2": pooled(lambda output: output.last_hidden_state.mean(1)),
    "hubert": pooled(lambda output: output.last_hidden_state.mean(1)),
}


def cases() -> list[tuple[str, Modality]]:
    return [(kind, modality) for kind, modalities in TAKES.items() for modality in sorted(modalities)]  # type: ignore[misc]


def media_of(kind: str, modality: str) -> Sequence[Media]:
    """Media that the library takes by itself, too."""
    media = MEDIA[modality]
    if modality == "audio":
        return media[:-1]  # it fails on the shortest
    takes = {"videomae": {4}, "qwen": {4, 7}}.get(kind)
    return [one for one in media if not isinstance(one, Video) or takes is None or len(one.frames) in takes]


@pytest.mark.parametrize(("kind", "modality"), cases())
class TestContract:
    def test_vectors_are_those_of_the_library(
        self, kind: str, modality: Modality, folder_of: Any, encoder_of: Any
    ) -> None:
        media = media_of(kind, modality)
        expected = library_vectors(kind, folder_of(kind), media)
        result = encoder_of(kind).encode(media)
        assert result.vectors.dtype == np.float32
        assert result.vectors.shape == (len(media), encoder_of(kind).dim)
        if len(media) > 1:
            assert np.ptp(expected, axis=0).max() > 1e-3, "the model tells them apart"
        np.testing.assert_allclose(result.vectors, expected, atol=1e-5, rtol=1e-5)

    def test_company_and_order_change_nothing(self, kind: str, modality: Modality, encoder_of: Any) -> None:
        encoder, media = encoder_of(kind), MEDIA[modality]
        together = encoder.encode(media).vectors
        assert np.isfinite(together).all()
        alone = np.concatenate([encoder.encode([medium]).vectors for medium in media])
        np.testing.assert_allclose(together, alone, atol=1e-5, rtol=1e-4)
        np.testing.assert_allclose(encoder.encode(media[::-1]).vectors[::-1], alone, atol=1e-5, rtol=1e-4)
        queries = encoder.encode_queries(media[::-1]).vectors[::-1]
        assert queries.shape == alone.shape

    def test_nothing_gives_no_rows(self, kind: str, modality: Modality, encoder_of: Any) -> None:
        assert encoder_of(kind).encode_prepared(modality, []).vectors.shape == (0, encoder_of(kind).dim)


@pytest.mark.parametrize("kind", TAKES)
def test_a_model_takes_what_the_library_says_and_nothing_else(kind: str, folder_of: Any, encoder_of: Any) -> None:
    encoder = encoder_of(kind)
    assert encoder.modalities == TAKES[kind]
    again = HuggingFaceEncoder(str(folder_of(kind)), device="cpu")
    assert again.fingerprint == encoder.fingerprint
    for modality, media in MEDIA.items():
        if modality not in TAKES[kind]:
            with pytest.raises(EncoderError, match=rf"takes .*, not {modality}"):
                encoder.prepare(media[0])


@pytest.mark.parametrize("kind", TAKES)
def test_the_fingerprint_follows_the_weights(kind: str, folder_of: Any, encoder_of: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of(kind), tmp_path / kind))
    weights = sorted(folder.rglob("model.safetensors"))[-1]
    tensors = load_file(weights)
    name = min(name for name in tensors if name.endswith("weight"))
    save_file({**tensors, name: tensors[name] + 1}, weights, metadata={"format": "pt"})
    assert HuggingFaceEncoder(str(folder), device="cpu").fingerprint != encoder_of(kind).fingerprint


def test_queries_and_items_have_prompts_of_their_own(folder_of: Any) -> None:
    folder = folder_of("sentence")
    model = SentenceTransformer(str(folder), device="cpu")
    encoder = HuggingFaceEncoder(str(folder), device="cpu")
    query, item = encoder.encode_queries([Text("a cat")]).vectors, encoder.encode([Text("a cat")]).vectors
    np.testing.assert_allclose(query, model.encode_query(["a cat"]), atol=1e-5)
    np.testing.assert_allclose(item, model.encode_document(["a cat"]), atol=1e-5)
    assert np.abs(query - item).max() > 1e-3
    other = HuggingFaceEncoder(str(folder), prompt="other", device="cpu")
    for vectors in (other.encode([Text("a cat")]).vectors, other.encode_queries([Text("a cat")]).vectors):
        np.testing.assert_allclose(vectors, model.encode([PROMPTS["other"] + "a cat"]), atol=1e-5)
    assert other.fingerprint != encoder.fingerprint
    with pytest.raises(EncoderError, match=r"has no prompt 'wrong'\. Its prompts: query, document, other"):
        HuggingFaceEncoder(str(folder), prompt="wrong", device="cpu")


def test_a_router_sends_queries_another_way(folder_of: Any, encoder_of: Any) -> None:
    model = SentenceTransformer(str(folder_of("router")), device="cpu")
    with pytest.warns(RuntimeWarning, match="router is run by PyTorch, slower on a CPU"):
        query = encoder_of("router").encode_queries([Text("a cat")]).vectors
    np.testing.assert_allclose(query, model.encode_query(["a cat"]), atol=1e-5)
    assert np.abs(query - encoder_of("router").encode([Text("a cat")]).vectors).max() > 1e-3


@pytest.mark.parametrize(
    ("file", "content"),
    [("config.json", {"matryoshka_dimensions": [4, 8]}), ("config_sentence_transformers.json", {"truncate_dim": 8})],
)
def test_vectors_are_shortened_where_the_model_says_so(
    file: str, content: dict[str, Any], folder_of: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of("bert"), tmp_path / "bert"))
    with pytest.raises(EncoderError, match=r"does not say that its vectors may be shortened"):
        HuggingFaceEncoder(str(folder), dim=8, device="cpu")
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **content}))
    whole, short = HuggingFaceEncoder(str(folder), device="cpu"), HuggingFaceEncoder(str(folder), dim=8, device="cpu")
    vectors = whole.encode(MEDIA["text"]).vectors[:, :8]
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(short.encode(MEDIA["text"]).vectors, expected, atol=1e-5)
    assert (short.dim, short.fingerprint == whole.fingerprint) == (8, False)
    wrong = 5 if "matryoshka_dimensions" in content else 17
    with pytest.raises(EncoderError, match=rf"dim={wrong}: the vectors of .* can have"):
        HuggingFaceEncoder(str(folder), dim=wrong, device="cpu")


def test_weights_in_half_precision_are_run_by_the_library(folder_of: Any) -> None:
    whole = HuggingFaceEncoder(str(folder_of("bert")), device="cpu")
    half = HuggingFaceEncoder(str(folder_of("bert")), dtype="bfloat16", device="cpu")
    assert half.fingerprint != whole.fingerprint
    media = MEDIA["text"]
    difference = np.abs(half.encode(media).vectors - whole.encode(media).vectors).max()
    assert 0 < difference < 0.1
    with pytest.raises(EncoderError, match="dtype must be one of float32, float16, bfloat16"):
        HuggingFaceEncoder(str(folder_of("bert")), dtype="int3", device="cpu")


def test_text_that_looks_like_an_address_is_text(encoder_of: Any, tmp_path: Path) -> None:
    """The library would fetch it, or read the file."""
    path = tmp_path / "secret.png"
    PillowImage.new("RGB", (64, 64), "red").save(path)
    encoder = encoder_of("clip")
    words, seen = encoder.encode([Text(str(path))]).vectors, encoder.encode([picture(0)]).vectors
    path.unlink()
    np.testing.assert_allclose(encoder.encode([Text(str(path))]).vectors, words, atol=1e-6)
    assert np.abs(words - seen).max() > 1e-3


def test_the_classifier_of_a_folder_reads_the_vectors(folder_of: Any, encoder_of: Any) -> None:
    for kind in ("vit", "resnet"):
        head = encoder_of(kind).class_head()
        assert head.names == tuple(CLASSES.values())
        model: Any = transformers.AutoModelForImageClassification.from_pretrained(folder_of(kind)).eval()
        loader: Any = transformers.AutoImageProcessor
        processor = loader.from_pretrained(folder_of(kind))
        given = MEDIA["image"][0]
        assert isinstance(given, Image)
        with torch.inference_mode():
            expected = model(**processor(PillowImage.fromarray(given.pixels), return_tensors="pt")).logits.numpy()
        logits = encoder_of(kind).encode([given]).vectors @ head.weight + head.bias
        np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=1e-3)
    assert encoder_of("dinov2").class_head() is None


# ------------------------------------------------------------------------------------------------------------- names


def test_options_stand_behind_commas(folder_of: Any) -> None:
    folder = folder_of("sentence")
    (encoder,) = resolve(f"{folder},prompt=other", device="cpu")
    assert encoder.fingerprint == HuggingFaceEncoder(str(folder), prompt="other", device="cpu").fingerprint


@pytest.mark.parametrize(
    ("options", "term"),
    [
        ("size=3", "has no option 'size=3'. Its options are dim, dtype, int8, prompt, revision"),
        ("translate", "has no option 'translate'"),
        ("dim", "has no option 'dim'"),
        ("dim=", "cannot be understood at 'dim='"),
        ("dim=big", "got dim=big"),
        ("prompt=query,prompt=other", "cannot be understood at 'prompt=other'"),
        ("revision=main", "is a local folder, which has no revision 'main'"),
        ("", "cannot be understood at ''"),
    ],
)
def test_options_that_do_not_exist(options: str, term: str, folder_of: Any) -> None:
    with pytest.raises(EncoderError) as caught:
        resolve(f"{folder_of('bert')},{options}", device="cpu")
    assert term in str(caught.value)


def test_a_folder_may_have_commas_in_its_name(folder_of: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folder_of("bert"), tmp_path / "a,dim=3"))
    assert resolve(str(folder), device="cpu")[0].dim == 16


def test_one_encoder_a_modality(folder_of: Any) -> None:
    clip, bert, clap = (folder_of(kind) for kind in ("clip", "bert", "clap"))
    encoders = resolve(f"image={clip},text={bert},audio={clap}", device="cpu")
    owner = {modality: encoder for encoder in encoders for modality in encoder.modalities}
    assert {modality: Path(owner[modality].name).name for modality in ("image", "text", "audio")} == {
        "image": "clip", "text": "bert", "audio": "clap"
    }  # fmt: skip
    assert len(encoders) == 4
    assert (owner["video"].vector_space, owner["video"].sound) == (owner["image"].fingerprint, owner["audio"])
    joint = resolve(f"image={clip},text={clip}", device="cpu")
    assert [encoder.modalities for encoder in joint] == [{"image", "text"}, {"video"}]


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("image={bert}", "for image, and it takes text"),
        ("image={clip},image={clip}", "each behind another modality"),
        ("{bert},image={clip}", "each behind another modality"),
        ("image=", "has no name"),
        ("", "has no name"),
    ],
)
def test_combinations_that_cannot_be(name: str, term: str, folder_of: Any) -> None:
    with pytest.raises(EncoderError, match=term):
        resolve(name.format(bert=folder_of("bert"), clip=folder_of("clip")), device="cpu")


def test_models_of_timm_have_names_of_their_own(
    folder_of: Any, encoder_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_of("timm")
    model, _ = resolve(f"timm:{folder}", device="cpu")
    assert model.fingerprint == encoder_of("timm").fingerprint
    requests: list[str] = []

    def snapshot(name: str, **_: Any) -> str:
        requests.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert resolve("timm:test_resnet", device="cpu")[0].fingerprint == model.fingerprint
    assert requests == ["timm/test_resnet.r160_in1k"]
    with pytest.raises(EncoderError, match="timm has no model 'test_resnot' with weights"):
        resolve("timm:test_resnot", device="cpu")


def test_a_model_of_all_modalities_sees_videos_whole_and_hears_them(folder_of: Any, encoder_of: Any) -> None:
    model, videos = resolve(str(folder_of("omni")), device="cpu")
    assert model.modalities == {"audio", "image", "text"}
    assert videos.modalities == {"video"}
    frames = np.concatenate([film(0, 1).frames.repeat(4, axis=0), film(1, 1).frames.repeat(4, axis=0)])
    sound = noise(0, 1.0)
    video = Video(frames, np.arange(8, dtype=np.float32) * 6.25, 50.0, sound)  # two moments: at most 30 s each
    result = videos.encode_prepared("video", [videos.prepare(video)])
    np.testing.assert_allclose(result.vectors, encoder_of("omni").encode([video]).vectors, atol=1e-5)
    assert result.moments is not None
    assert len(result.moments) == 2
    seen = model.encode([Image(frames[0])]).vectors
    np.testing.assert_allclose(result.moments.vectors[:1], seen, atol=1e-5)
    assert result.track is not None
    np.testing.assert_allclose(result.track.vectors, model.encode([sound]).vectors, atol=1e-5)


SCALED = """
import sys
import numpy as np
from chiasm.encoders import resolve
from chiasm.types import Image

pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
(clip, _), (bert,) = (resolve(folder, device="cpu") for folder in sys.argv[1:])
print("torchvision" in sys.modules, clip.fingerprint, bert.fingerprint, *clip.encode([Image(pixels)]).vectors[0])
"""


def test_pictures_that_another_library_scales_have_another_fingerprint(folder_of: Any, encoder_of: Any) -> None:
    """A process of its own has no torchvision: `make install` puts it where only these tests see it."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed, so only Pillow scales pictures")
    command = [sys.executable, "-c", SCALED, str(folder_of("clip")), str(folder_of("bert"))]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (printed[0], printed[2]) == ("False", encoder_of("bert").fingerprint)
    assert printed[1] != encoder_of("clip").fingerprint
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    here = encoder_of("clip").encode([Image(pixels)]).vectors[0]
    assert np.abs(here - np.array(printed[3:], float)).max() > 1e-5, "otherwise one fingerprint would do"


def test_a_picture_with_words_is_one_input_where_the_library_says_so(folder_of: Any, encoder_of: Any) -> None:
    encoder, model = encoder_of("qwen"), SentenceTransformer(str(folder_of("qwen")), device="cpu")
    assert model.supports(("image", "text"))
    pairs = [(picture(0), Text("a cat")), (picture(1, 300, 40), Text("the big red dog")), (picture(0), Text("a dog"))]
    expected = [
        model.encode_query([{"image": library_input(one), "text": words.text}], show_progress_bar=False)[0]
        for one, words in pairs
    ]
    fused = encoder.encode_fused(pairs)
    np.testing.assert_allclose(fused, np.stack(expected), atol=1e-5)
    assert np.abs(fused[0] - fused[2]).max() > 1e-3, "words matter"
    assert np.abs(fused[0] - encoder.encode_queries([Text("a cat")]).vectors[0]).max() > 1e-3, "and pictures"
    for kind in ("clip", "omni"):
        assert not SentenceTransformer(str(folder_of(kind)), device="cpu").supports(("image", "text"))
        with pytest.raises(EncoderError, match="no picture with words"):
            encoder_of(kind).encode_fused(pairs)
