"""One contract for every encoder, and what is particular to the offline ones."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from chiasm.encoders import Encoder, offline, resolve
from chiasm.encoders.cache import file_digest, make_once
from chiasm.encoders.offline import (
    ImageEncoder,
    TextEncoder,
    class_names,
    image_weights,
    join_model,
    text_folder,
    whisper_folder,
)
from chiasm.encoders.runtime import Network
from chiasm.encoders.sound import SoundEncoder
from chiasm.encoders.speech import SpeechEncoder, _Transcript
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.types import Audio, Image, Media, Text, Video


def picture(seed: int, height: int = 80, width: int = 120) -> Image:
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    grown = PillowImage.fromarray(small).resize((width, height), PillowImage.Resampling.BICUBIC)
    return Image(np.asarray(grown, dtype=np.uint8))


def noise(seed: int, seconds: float = 0.5) -> Audio:
    samples = np.random.default_rng(seed).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
    return Audio(samples, 16_000)


INPUTS: dict[str, Sequence[Media]] = {
    "image": [picture(0), picture(1, 300, 40), picture(2), picture(3, 50, 400), picture(4)],
    "text": [Text("a red car"), Text("word " * 400), Text("Ω"), Text("two lines\nof text"), Text("a red car!")],
    "audio": [noise(0), noise(1)],
    "video": [
        Video(np.stack([picture(seed).pixels for seed in seeds]), np.arange(len(seeds), dtype=np.float32), len(seeds))
        for seeds in ((0, 1, 2), (3,))
    ],
}


@pytest.fixture(scope="module")
def encoders() -> dict[str, Encoder]:
    return {
        modality: encoder for encoder in resolve("offline", device="cpu") for modality in sorted(encoder.modalities)
    }


@pytest.mark.parametrize("modality", ["image", "text", "audio", "video"])
class TestContract:
    def test_a_finite_row_an_input(self, encoders: dict[str, Encoder], modality: str) -> None:
        result = encoders[modality].encode(INPUTS[modality])
        assert result.vectors.shape == (len(INPUTS[modality]), encoders[modality].dim)
        assert result.vectors.dtype == np.float32
        assert np.isfinite(result.vectors).all()
        assert len(result.texts) == len(INPUTS[modality])

    def test_a_row_does_not_depend_on_its_neighbours(self, encoders: dict[str, Encoder], modality: str) -> None:
        together = encoders[modality].encode(INPUTS[modality]).vectors
        alone = np.vstack([encoders[modality].encode([medium]).vectors for medium in INPUTS[modality]])
        scale = max(float(np.abs(together).max()), 1e-6)
        assert np.abs(together - alone).max() <= 2e-4 * scale
        backwards = encoders[modality].encode(INPUTS[modality][::-1]).vectors[::-1]
        assert np.abs(together - backwards).max() <= 2e-4 * scale

    def test_nothing_gives_no_rows(self, encoders: dict[str, Encoder], modality: str) -> None:
        result = encoders[modality].encode_prepared(modality, [])  # type: ignore[arg-type]
        assert result.vectors.shape == (0, encoders[modality].dim)
        assert result.texts == ()

    def test_another_modality_is_refused_by_name(self, encoders: dict[str, Encoder], modality: str) -> None:
        other = Text("words") if modality != "text" else noise(0)
        with pytest.raises(EncoderError, match=rf"takes .*{modality}.*, not {other.modality}"):
            encoders[modality].prepare(other)

    def test_fingerprint_is_stable(self, encoders: dict[str, Encoder], modality: str) -> None:
        again = next(e for e in resolve("offline", device="cpu") if modality in e.modalities)
        assert again.fingerprint == encoders[modality].fingerprint
        assert len({encoder.fingerprint for encoder in encoders.values()}) == 4


def test_fingerprints_are_the_same_in_another_process(encoders: dict[str, Encoder]) -> None:
    code = "import json; from chiasm.encoders import resolve; print(json.dumps([e.fingerprint for e in resolve('offline')]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == {encoder.fingerprint for encoder in encoders.values()}


def test_fingerprint_changes_with_the_preprocessing(
    monkeypatch: pytest.MonkeyPatch, encoders: dict[str, Encoder]
) -> None:
    monkeypatch.setattr(offline, "_VERSION", "other")
    assert ImageEncoder(image_weights(), class_names()).fingerprint != encoders["image"].fingerprint


def test_class_head_reads_the_embeddings(encoders: dict[str, Encoder]) -> None:
    """The head on our features gives what the whole network gives, and the names stand in ImageNet's order."""
    import torch

    from chiasm.encoders.tensors import read_tensors
    from chiasm.finetuning.networks import load_efficientnet

    encoder = encoders["image"]
    head = encoder.class_head()
    assert head is not None
    assert (head.names[0], head.names[1], head.names[999]) == ("tench", "goldfish", "toilet paper")
    network = load_efficientnet(read_tensors(image_weights().read_bytes())).eval()
    prepared = encoder.prepare(picture(0))
    with torch.inference_mode():
        expected = network._fc(network(torch.from_numpy(prepared))).numpy()
    logits = encoder.encode([picture(0)]).vectors @ head.weight + head.bias
    assert np.abs(logits - expected).max() < 1e-3


def test_text_is_what_sentence_transformers_gives(encoders: dict[str, Encoder]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the peer, about itself
        from sentence_transformers import SentenceTransformer

        peer = SentenceTransformer(str(text_folder()), device="cpu")
        # The library cuts longer texts off; ours have passages.
        texts = [medium.text for medium in INPUTS["text"] if isinstance(medium, Text) and len(medium.text) < 1000]
        expected = peer.encode([*texts, "word " * 254])
    result = encoders["text"].encode([Text(text) for text in (*texts, "word " * 254)]).vectors
    assert (result * expected).sum(axis=1).min() > 0.9999


def test_warm_text_does_not_import_torch(encoders: dict[str, Encoder]) -> None:
    encoders["text"].encode([Text("warm")])
    code = (
        "import sys; from chiasm.encoders import resolve; from chiasm.types import Text; "
        "text = next(e for e in resolve('offline') if 'text' in e.modalities); text.encode([Text('x')]); "
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_speech_is_written_down_and_stands_among_texts(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    """A noise has no words; its part of the vector is zero then, and the words are kept where there are some."""
    sound, width = encoders["audio"], encoders["text"].dim
    assert sound.vector_space == encoders["text"].vector_space
    assert sound.parts[0] == encoders["text"].parts[0]
    result = sound.encode([noise(0, 1.0)])
    assert (result.texts[0] == "") == (not result.vectors[:, :width].any())
    assert result.vectors[:, width:].any()


def test_speech_embeds_what_was_said(encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    speech = encoders["audio"]
    nothing = speech.prepare(Audio(np.zeros(16_000, np.float32), 16_000))
    said = _Transcript((("a red car", 1.0),), "en", 1.0)
    monkeypatch.setattr(SpeechEncoder, "_transcribe", lambda self, sounds: ([[said], []], ("en", None)))
    result = speech.encode_prepared("audio", [nothing, nothing])
    assert result.texts == ("a red car", "")
    width = encoders["text"].dim
    assert np.allclose(result.vectors[0, :width], encoders["text"].encode([Text("a red car")]).vectors[0], atol=1e-5)
    assert not result.vectors[1].any(), "nothing is heard in silence"


@pytest.mark.parametrize("samples", [16_000, 8_000, 300])
def test_nobody_speaks_in_silence(samples: int, encoders: dict[str, Encoder]) -> None:
    prepared = encoders["audio"].prepare(Audio(np.zeros(samples, np.float32), 16_000))
    assert (prepared.speech.windows, prepared.speech.starts) == ((), ())


@pytest.mark.parametrize(
    ("name", "language", "translate"),
    [
        ("offline", None, False),
        ("offline,translate", None, True),
        ("offline,language=de", "de", False),
        ("offline,translate, language=fr", "fr", True),
    ],
)
def test_options_of_the_offline_encoders(name: str, language: str | None, translate: bool) -> None:
    image, _, video, sound = resolve(name)
    speech = SpeechEncoder(
        whisper_folder() or Path(), TextEncoder(text_folder()), language=language, translate=translate
    )
    assert sound.fingerprint == SoundEncoder(image, speech).fingerprint
    assert video.sound is sound


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("offline,", "cannot be understood at ''"),
        ("offline,german", "offline has no option 'german'. Its options are int8, language, translate"),
        ("offline,language", "offline has no option 'language'"),
        ("offline,language=", "cannot be understood at 'language='"),
        ("offline,translate=fr", "offline has no option 'translate=fr'"),
        ("offline,int8=yes", "offline has no option 'int8=yes'"),
        ("offline,translate,translate", "cannot be understood at 'translate'"),
        ("offline,language=de,language=fr", "cannot be understood at 'language=fr'"),
        ("offline,language=de,", "cannot be understood at ''"),
        ("offline:language=de", "options stand behind a comma, e.g. offline,language=de"),
    ],
)
def test_options_that_do_not_exist(name: str, term: str) -> None:
    with pytest.raises(EncoderError) as caught:
        resolve(name)
    assert term in str(caught.value)


def test_choices_on_speech_need_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.encoders.offline.whisper_folder", lambda: None)
    with pytest.raises(EncoderError, match=r"there is no Whisper model here\. Put its folder into CHIASM_WHISPER"):
        resolve("offline,translate")
    image, _, video, sound = resolve("offline")
    assert video.modalities == {"video"}
    assert (video.sound, video.vector_space) == (sound, image.fingerprint)
    assert sound.fingerprint == SoundEncoder(image).fingerprint


def test_parts_of_a_model_are_joined_once(tmp_path: Path) -> None:
    for number, content in ((1, b"ab"), (2, b"cd")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / f"model.bin.part{number}").write_bytes(content)
    (tmp_path / "2" / "config.json").write_text("{}")
    folder = join_model([tmp_path / "1", tmp_path / "2"])
    assert (folder / "model.bin").read_bytes() == b"abcd"
    assert (folder / "config.json").read_text() == "{}"
    assert join_model([tmp_path / "1", tmp_path / "2"]) == folder
    with pytest.raises(EncoderError, match=r"model\.bin\.part2 is missing"):
        join_model([tmp_path / "1", tmp_path / "1"])


def test_a_whisper_folder_without_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHIASM_WHISPER", str(tmp_path))
    with pytest.raises(EncoderError, match=r"CHIASM_WHISPER names .* no model\.bin"):
        whisper_folder()
    with pytest.raises(EncoderError, match=r"it has no model\.bin"):
        SpeechEncoder(tmp_path, TextEncoder(text_folder()))


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install chiasm"):
        resolve("offline")


def test_a_device_that_does_not_exist() -> None:
    with pytest.raises(EncoderError, match="one of auto, cpu, cuda; got 'tpu'"):
        TextEncoder(text_folder(), device="tpu")  # type: ignore[arg-type]


def test_an_export_that_differs_is_not_used(cache: Path) -> None:
    """A network that answers at random cannot be exported faithfully: PyTorch runs it, and a warning says why."""
    import torch

    from chiasm.encoders.runtime import Blueprint

    class Restless(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    def sample(rows: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"x": generator.random((rows, 3), dtype=np.float32)}

    blueprint = Blueprint("restless", "0" * 32, Restless, {"x": ("batch",)}, sample, dim=3)
    network = Network(blueprint, device="cpu")
    with pytest.warns(RuntimeWarning, match="restless is run by PyTorch"):
        assert network.run([{"x": np.zeros((2, 3), np.float32)}])[0].shape == (2, 3)
    other = Network(replace(blueprint, dim=4), device="cpu")
    with pytest.warns(RuntimeWarning), pytest.raises(EncoderError, match=r"shape \(2, 3\)"):
        other.run([{"x": np.zeros((2, 3), np.float32)}])


def test_pytorch_gives_texts_of_any_length_in_their_order() -> None:
    """In batches of like length, as on a GPU; the export of this network is refused, so that PyTorch runs it here."""
    import torch

    from chiasm.encoders.runtime import Blueprint, pad

    class Sums(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            wrong = float(torch.onnx.is_in_onnx_export())
            return torch.stack([ids.sum(1).float() + wrong, (ids > 0).sum(1).float()], dim=1)

    def sample(rows: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"ids": generator.integers(1, 9, (rows, 5))}

    network = Network(Blueprint("sums", "4" * 32, Sums, {"ids": ("batch", "tokens")}, sample, dim=2), device="cpu")
    generator = np.random.default_rng(0)
    texts = [generator.integers(1, 9, int(length)).tolist() for length in generator.integers(1, 2000, 60)]
    shapes: list[tuple[int, int]] = []

    def padded(rows: Sequence[int]) -> dict[str, np.ndarray]:
        ids = pad([texts[row] for row in rows])
        shapes.append(ids.shape)
        return {"ids": ids}

    with pytest.warns(RuntimeWarning, match="sums is run by PyTorch"):
        vectors = network.run_tokens([len(text) for text in texts], padded)
    assert vectors.tolist() == [[sum(text), len(text)] for text in texts]
    assert max(rows for rows, _ in shapes) > 8
    assert sum(rows * tokens for rows, tokens in shapes) < 1.5 * sum(map(len, texts)), "little is padding"


@pytest.mark.parametrize("damage", [b"", b"cut"])
def test_damaged_cache_is_made_again(damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIASM_CACHE", str(tmp_path))
    calls: list[Path] = []

    def make(folder: Path) -> dict[str, str]:
        calls.append(folder)
        (folder / "file").write_bytes(b"content")
        return {"note": "kept"}

    folder, notes = make_once("kind", "name", "0" * 32, make)
    assert make_once("kind", "name", "0" * 32, make) == (folder, notes)
    assert len(calls) == 1
    (folder / "file").write_bytes(damage)
    make_once("kind", "name", "0" * 32, make)
    assert len(calls) == 2
    assert (folder / "file").read_bytes() == b"content"


def test_digest_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = file_digest(path)
    assert file_digest(path) == first
    path.write_bytes(b"other")
    assert file_digest(path) != first
    with pytest.raises(EncoderError, match="cannot be read"):
        file_digest(tmp_path / "missing")
