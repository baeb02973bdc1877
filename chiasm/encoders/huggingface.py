"""Models of the Hugging Face hub: which files a model is, what its networks take and give, and how texts become tokens.

Four kinds are known: joint models of images and texts (CLIP, SigLIP and others with `get_image_features` and
`get_text_features`), joint models of sounds and texts (CLAP), sentence-transformers folders, and plain transformers text
models, whose embedding is the mean over the tokens. A hub id is a local folder as soon as it is downloaded, so both go the same way. Code that comes with a
model is never run. How networks are run is left to `runtime`.
"""

from __future__ import annotations

import inspect
import json
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Float

from chiasm._optional import require
from chiasm.encoders import passages
from chiasm.encoders.base import Embeddings, Encoder, Moments, Prepared, View, resample
from chiasm.encoders.cache import file_digest, fingerprint
from chiasm.encoders.runtime import Arrays, Blueprint, Device, Network, pad
from chiasm.errors import EncoderError
from chiasm.hub import DESCRIPTIONS, PICKLED, SAFE, model_folder
from chiasm.types import Audio, Image, Media, Modality, Text

MAX_TOKENS = 8192  # of a passage, also where the model itself knows no limit: attention grows with the square

_VERSION = "1"  # of everything here that changes embeddings
_HOP = 0.5  # of a window of sound, from one to the next
_EXAMPLES = "'offline', a local folder with a config.json, or an id such as 'openai/clip-vit-base-patch32'"
_MODULES = ("Transformer", "Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")  # of sentence-transformers
_FIXED_LENGTH = ("siglip", "siglip2")  # trained on texts padded to one length, with attention to the padding

_Build = Callable[[], torch.nn.Module]


@dataclass(frozen=True)
class _TextRules:
    """The preparation of a text for the network."""

    prompt: str  # put before each text
    lower: bool
    limit: int  # tokens
    fixed: bool  # whether every text is padded to `limit`
    inputs: tuple[str, ...]  # of the network


@dataclass(frozen=True)
class _Windows:
    """A prepared sound: windows as long as the model takes, each half over the next, the last at the end."""

    features: np.ndarray  # of each window, as the network takes it
    starts: Float[np.ndarray, " windows"]  # seconds
    ends: Float[np.ndarray, " windows"]


@dataclass(frozen=True)
class _Sentence:
    """The description in a sentence-transformers folder."""

    transformer: Path  # folder of the first module
    parts: tuple[Path, ...]  # folders of the others
    modules: tuple[str, ...]  # their classes
    prompt: str
    settings: Mapping[str, Any]  # of the first module


class HuggingFaceEncoder(Encoder):
    """A transformers or sentence-transformers model; vectors as the model gives them.

    A joint model takes images or sounds beside texts, any other only texts. Vectors of a sentence-transformers folder
    equal those of `SentenceTransformer.encode` for texts that it does not cut, those of a joint model `get_image_features`, `get_audio_features` and
    `get_text_features`. A sound that is longer than the model's own window (CLAP: 10 s) has windows of that length as
    moments, each half over the next, and as a whole their mean. A text of more tokens than the model takes has passages
    as moments (`chiasm.encoders.passages`).
    """

    def __init__(self, name_or_folder: str, *, device: Device = "auto") -> None:
        """Find a model, download it if it is not here yet, and read all of its files but the weights.

        Args:
            name_or_folder: hub id, e.g. `"openai/clip-vit-base-patch32"`, or a local folder with a `config.json`.
            device: see `Network`.

        Raises:
            EncoderError: there is no such model, the hub cannot be reached, the model is of a kind that is not known
                here or damaged, or there is no such device.
            MissingExtraError: it is a sentence-transformers folder and that package is not installed.
        """
        self._folder = model_folder(name_or_folder, examples=_EXAMPLES)
        self.name = name_or_folder
        sentence = _read_sentence(self._folder, self.name)
        self._model_folder = sentence.transformer if sentence else self._folder
        self._config = _read_config(self._model_folder, self.name)
        model_class = _model_class(self._config)
        has_images = all(hasattr(model_class, method) for method in ("get_image_features", "get_text_features"))
        has_sounds = self._config.model_type == "clap"
        joint = has_images or has_sounds
        if joint and sentence and sentence.modules != ("Transformer",):
            raise EncoderError(
                f"{self.name} puts {', '.join(sentence.modules[1:])} behind a joint model, which is not "
                f"supported. Use the folder {self._model_folder} itself"
            )
        if not joint:
            _require_text_model(self._config, self.name)

        modalities: set[Modality] = {"text"}
        modalities |= {"image"} if has_images else set()
        modalities |= {"audio"} if has_sounds else set()
        self.modalities: frozenset[Modality] = frozenset(modalities)
        self.batch_size = 64 if joint else 256  # many texts, to find some of the same length among them
        self.dim = _joint_dim(self._config, self.name) if joint else int(self._config.hidden_size)
        if sentence:
            self.dim = _sentence_dim(self.dim, sentence)
        self.fingerprint = _fingerprint(self._folder, {self._model_folder, *(sentence.parts if sentence else ())})
        self._loading = Lock()
        self._loaded_joint: weakref.ref[torch.nn.Module] | None = None

        self._tokenizer = self._read(transformers.AutoTokenizer, "tokenizer")
        text_method = model_class.get_text_features if joint else model_class.forward
        self._rules = _text_rules(self._config, self._tokenizer, inspect.signature(text_method).parameters, sentence)
        build: _Build = self._build_plain
        if joint:
            build = self._tower("get_text_features", self._rules.inputs)
        elif sentence:
            require("sentence_transformers", "huggingface", f"run {self.name}")
            build = self._build_sentence
        axes: dict[str, tuple[str, ...]] = dict.fromkeys(self._rules.inputs, ("batch", "tokens"))
        self._texts = self._network("text", build, axes, self._sample_texts, device)

        self.view = View()
        if has_sounds:
            self._extractor = self._read(transformers.AutoFeatureExtractor, "feature extractor")
            with _explain(f"the feature extractor of {self.name} does not say how long its windows are"):
                self._window = int(self._extractor.nb_max_samples)
            self.view = View(rate=int(self._extractor.sampling_rate))
            self._sounds = self._network(
                "audio", lambda: _AudioTower(self._joint()), {"input_features": ("batch",)}, self._sample_sounds, device
            )
        if has_images:
            self._processor = self._read(transformers.AutoImageProcessor, "image processor", backend="pil")
            parameters = inspect.signature(model_class.get_image_features).parameters
            self._image_inputs = tuple(name for name in self._processor.model_input_names if name in parameters)
            self.view = View(image_size=_image_size(self._processor))
            image_axes = dict.fromkeys(self._image_inputs, ("batch",))
            self._images = self._network(
                "image", self._tower("get_image_features", self._image_inputs), image_axes, self._sample_images, device
            )

    def _read(self, loader: Any, part: str, **options: Any) -> Any:
        """Read a part of the model that has no weights."""
        with _explain(f"the {part} of {self.name} cannot be read"):
            return loader.from_pretrained(self._model_folder, local_files_only=True, trust_remote_code=False, **options)

    def prepare(self, media: Media) -> Prepared:
        """Return the text itself; of a picture the inputs of the network, an array each; of a sound its windows."""
        self._require(media.modality)
        if isinstance(media, Text):
            return media.text
        if isinstance(media, Audio):
            return self._windows(media)
        assert isinstance(media, Image)
        return self._pixels(media.pixels)

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed prepared inputs of one modality, a row each."""
        self._require(modality)
        if not batch:
            return Embeddings(np.empty((0, self.dim), np.float32), ())
        if modality == "audio":
            return self._encode_sounds(batch)
        if modality == "text":
            return passages.embed_texts(batch, limit=self._rules.limit, count=self._lengths, embed=self._embed_texts)
        return Embeddings(self._images.run_rows(self._stacked(batch)), (None,) * len(batch))

    def _embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        tokens = self._tokens(texts)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        return self._texts.run_tokens(lengths, lambda rows: self._padded(tokens, rows))

    def _encode_sounds(self, batch: Sequence[_Windows]) -> Embeddings:
        vectors = self._sounds.run_rows({"input_features": np.concatenate([sound.features for sound in batch])})
        counts = np.array([len(sound.starts) for sound in batch])
        wholes = np.add.reduceat(vectors, np.cumsum(counts) - counts) / counts[:, None].astype(np.float32)
        owners = np.repeat(np.arange(len(batch)), counts)
        several = counts[owners] > 1  # a sound of one window is that moment
        moments = Moments(
            owners[several],
            np.concatenate([sound.starts for sound in batch])[several],
            np.concatenate([sound.ends for sound in batch])[several],
            vectors[several],
            (None,) * int(several.sum()),
        )
        return Embeddings(wholes, (None,) * len(batch), moments=moments)

    def _windows(self, sound: Audio) -> _Windows:
        rate, length = int(self._extractor.sampling_rate), self._window
        waveform = resample(sound, rate)
        last = max(0, len(waveform) - length)
        hop = int(length * _HOP)
        starts = np.array([*range(0, last, hop), last])
        # Some at a time: the extractor works in 64 bits.
        parts = [
            self._mel([waveform[start : start + length] for start in starts[first : first + 16]])
            for first in range(0, len(starts), 16)
        ]
        ends = np.minimum(starts + length, len(waveform))
        return _Windows(np.concatenate(parts), starts / rate, ends / rate)

    def _mel(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        features = self._extractor(
            list(waveforms), sampling_rate=int(self._extractor.sampling_rate), return_tensors="np"
        )
        return np.asarray(features["input_features"], np.float32)

    def _pixels(self, picture: np.ndarray) -> Arrays:
        # The processor keeps no state between calls, so threads may share it.
        processed = self._processor(images=[picture], input_data_format="channels_last", return_tensors="np")
        return {name: np.asarray(processed[name]) for name in self._image_inputs}

    def _stacked(self, pictures: Sequence[Arrays]) -> Arrays:
        return {name: np.concatenate([inputs[name] for inputs in pictures]) for name in self._image_inputs}

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        encoded = self._tokenizer(
            self._prompted(texts), truncation=False, padding=False, return_attention_mask=False, verbose=False
        )
        return [len(ids) for ids in encoded["input_ids"]]

    def _prompted(self, texts: Sequence[str]) -> list[str]:
        prompts = [self._rules.prompt + text for text in texts]
        return [text.lower() for text in prompts] if self._rules.lower else prompts

    def _tokens(self, texts: Sequence[str]) -> Mapping[str, list[list[int]]]:
        rules = self._rules
        encoded = self._tokenizer(
            self._prompted(texts),
            truncation=True,
            max_length=rules.limit,
            padding="max_length" if rules.fixed else False,
            return_attention_mask=True,
            return_token_type_ids="token_type_ids" in rules.inputs,
        )
        return {name: encoded[name] for name in rules.inputs}

    def _padded(self, tokens: Mapping[str, list[list[int]]], rows: Sequence[int]) -> Arrays:
        padding = {
            "input_ids": self._tokenizer.pad_token_id or 0,  # masked, so any token will do where there is none for it
            "attention_mask": 0,
            "token_type_ids": self._tokenizer.pad_token_type_id,
        }
        # Always on the right, whatever the tokenizer would do: all means and positions go by the mask.
        return {name: pad([tokens[name][row] for row in rows], padding[name]) for name in tokens}

    def _sample_texts(self, rows: int, generator: np.random.Generator) -> Arrays:
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        texts = [
            " ".join("".join(generator.choice(letters, size)) for size in generator.integers(1, 8, words))
            for words in generator.integers(1, 12, rows)
        ]
        return self._padded(self._tokens(texts), range(rows))

    def _sample_images(self, rows: int, generator: np.random.Generator) -> Arrays:
        sizes = generator.integers(48, 96, (rows, 2))
        return self._stacked(
            [self._pixels(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in sizes]
        )

    def _sample_sounds(self, rows: int, generator: np.random.Generator) -> Arrays:
        return {"input_features": self._mel([generator.normal(0, 0.1, self._window) for _ in range(rows)])}

    def _network(
        self,
        tower: str,
        build: _Build,
        axes: Mapping[str, tuple[str, ...]],
        sample: Callable[[int, np.random.Generator], Arrays],
        device: Device,
    ) -> Network:
        # The class of the model is the library's, so an export belongs to the library's version.
        key = fingerprint(self.fingerprint, tower, transformers.__version__)
        blueprint = Blueprint(f"{Path(self.name).name}-{tower}", key, build, axes, sample, self.dim)
        return Network(blueprint, device=device)

    def _tower(self, method: str, inputs: Sequence[str]) -> _Build:
        return lambda: _Tower(self._joint(), method, inputs)

    def _build_plain(self) -> torch.nn.Module:
        return _MeanPooled(_load(self._model_folder, self.name, unused=("pooler.",)), self._rules.inputs)

    def _build_sentence(self) -> torch.nn.Module:
        from sentence_transformers import SentenceTransformer

        with _explain(f"the weights of {self.name} cannot be read"):
            model = SentenceTransformer(
                str(self._folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            )
        return _SentenceModel(model, self._rules.inputs)

    def _joint(self) -> torch.nn.Module:
        """Return the whole model, shared by both towers as long as one of them holds it."""
        with self._loading:
            model = self._loaded_joint() if self._loaded_joint else None
            if model is None:
                model = _load(self._model_folder, self.name, unused=())
                self._loaded_joint = weakref.ref(model)
            return model


class _Wrapped(torch.nn.Module):
    """A model of a library, called with its inputs by position."""

    def __init__(self, model: torch.nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, tuple(inputs)

    def named(self, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(zip(self.inputs, tensors, strict=True))


class _Tower(_Wrapped):
    """One half of a joint model."""

    def __init__(self, model: torch.nn.Module, method: str, inputs: Sequence[str]) -> None:
        super().__init__(model, inputs)
        self.method = method

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        output = getattr(self.model, self.method)(**self.named(tensors))
        # Most models of transformers 5 give an object, and a few still the tensor itself.
        features: torch.Tensor = output if isinstance(output, torch.Tensor) else output.pooler_output
        return features


class _AudioTower(torch.nn.Module):
    """The audio half of CLAP, for windows that it takes whole."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.tower = _Tower(model, "get_audio_features", ("input_features", "is_longer"))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        # The extractor calls one window of each batch longer than it is, at random, as in training.
        longer = torch.zeros(features.shape[0], 1, dtype=torch.bool, device=features.device)
        output: torch.Tensor = self.tower(features, longer)
        return output


class _MeanPooled(_Wrapped):
    """Mean over the tokens that are not padding."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        named = self.named(tensors)
        states = self.model(**named).last_hidden_state
        weights = named["attention_mask"][..., None].to(states.dtype)
        mean: torch.Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return mean


class _SentenceModel(_Wrapped):
    """All modules of a sentence-transformers model, one after the other."""

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        embedding: torch.Tensor = self.model(self.named(tensors))["sentence_embedding"]
        return embedding


def _read_sentence(folder: Path, name: str) -> _Sentence | None:
    """Return the parts of a sentence-transformers folder; None where it is none."""
    if not (folder / "modules.json").is_file():
        return None
    modules = _read_json(folder / "modules.json")
    settings = _read_json(folder / "config_sentence_transformers.json", missing={})
    with _explain(f"modules.json of {name} does not describe modules"):
        classes = tuple(str(module["type"]).rsplit(".", maxsplit=1)[-1] for module in modules)
        parts = [folder / str(module["path"]) for module in modules]
        foreign = [
            str(module["type"]) for module in modules if not str(module["type"]).startswith("sentence_transformers.")
        ]
    joint_class = classes == ("CLIPModel",)
    if foreign or not classes or not (joint_class or (classes[0] == "Transformer" and set(classes) <= set(_MODULES))):
        raise EncoderError(
            f"{name} is made of the modules {', '.join(foreign or classes) or 'none'}; supported are a Transformer of "
            f"sentence-transformers and behind it any of {', '.join(_MODULES[1:])}. Code of a model is never run"
        )
    if not all(part.resolve().is_relative_to(folder.resolve()) for part in parts):
        raise EncoderError(f"{name}: modules.json names a folder outside of the model's own. Do not use this model")
    first = _read_json(parts[0] / "sentence_bert_config.json", missing={})
    if "message" in first.get("modality_config", {}):
        raise EncoderError(f"{name} takes chat messages, which is not supported. Use a model that takes plain texts")
    prompt = settings.get("prompts", {}).get(settings.get("default_prompt_name")) or ""
    pools = [_read_json(part / "config.json") for part, kind in zip(parts, classes, strict=True) if kind == "Pooling"]
    if prompt and not all(pool.get("include_prompt", True) for pool in pools):
        raise EncoderError(f"{name} leaves its prompt out of the mean over the tokens, which is not supported")
    return _Sentence(
        transformer=parts[0],
        parts=tuple(parts[1:]),
        modules=("Transformer",) if joint_class else classes,
        prompt=prompt,
        settings=first,
    )


def _read_config(folder: Path, name: str) -> Any:
    if not (folder / "config.json").is_file():
        raise EncoderError(
            f"{name}: there is no config.json in {folder}. A model's folder is what save_pretrained() writes"
        )
    if not any(folder.glob(SAFE)) and not any(folder.glob(PICKLED)):
        raise EncoderError(
            f"{name}: there are no weights in {folder}, neither {SAFE} nor {PICKLED}. Download the model again, whole"
        )
    with _explain(f"config.json of {name} does not describe a model that transformers knows"):
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _model_class(config: Any) -> Any:
    """Return the class that AutoModel would make."""
    classes = transformers.MODEL_MAPPING.get(type(config), None)
    return classes[0] if isinstance(classes, tuple) else classes


def _require_text_model(config: Any, name: str) -> None:
    model_class = _model_class(config)
    if (
        model_class is None
        or "input_ids" not in inspect.signature(model_class.forward).parameters
        or not isinstance(getattr(config, "hidden_size", None), int)
        or getattr(config, "is_encoder_decoder", False)  # needs the beginning of an answer beside the text
        or getattr(config, "sub_configs", None)  # of several modalities, and not of images and texts in one space
    ):
        raise EncoderError(
            f"{name} is a model of type {config.model_type!r}, which has neither text nor image features that are "
            "supported. Use a CLIP-like model, a sentence-transformers model or an encoder of texts such as BERT"
        )


def _joint_dim(config: Any, name: str) -> int:
    text = getattr(config, "text_config", None)
    # CLIP and most others; SigLIP and SigLIP 2; those that give the last layer as it is.
    for owner, attribute in ((config, "projection_dim"), (text, "projection_size"), (text, "hidden_size")):
        size = getattr(owner, attribute, None)
        if isinstance(size, int):
            return size
    raise EncoderError(f"{name}: the configuration of type {config.model_type!r} does not say how long its vectors are")


def _sentence_dim(dim: int, sentence: _Sentence) -> int:
    for kind, part in zip(sentence.modules[1:], sentence.parts, strict=True):
        if kind == "Pooling":
            settings = _read_json(part / "config.json")
            modes = settings.get("pooling_mode")
            if modes is None:  # as it was written before sentence-transformers 5.4
                modes = [key for key, chosen in settings.items() if key.startswith("pooling_mode_") and chosen]
            dim *= 1 if isinstance(modes, str) else max(1, len(modes))
        elif kind == "Dense":
            dim = int(_read_json(part / "config.json")["out_features"])
    return dim


def _text_rules(config: Any, tokenizer: Any, parameters: Mapping[str, Any], sentence: _Sentence | None) -> _TextRules:
    settings: Mapping[str, Any] = sentence.settings if sentence else {}
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limit = min(int(tokenizer.model_max_length), MAX_TOKENS)  # a tokenizer without a limit says 10**30
    if settings.get("max_seq_length"):
        limit = min(int(settings["max_seq_length"]), MAX_TOKENS)
    elif isinstance(positions, int) and positions > 0:
        limit = min(limit, positions)
    fixed = config.model_type in _FIXED_LENGTH
    inputs = ["input_ids"]
    if not fixed:
        inputs += ["attention_mask"]
    if "token_type_ids" in tokenizer.model_input_names and "token_type_ids" in parameters:
        inputs += ["token_type_ids"]
    return _TextRules(
        prompt=sentence.prompt if sentence else "",
        lower=bool(settings.get("do_lower_case", False)),
        limit=int(positions) if fixed and isinstance(positions, int) else limit,
        fixed=fixed,
        inputs=tuple(inputs),
    )


def _image_size(processor: Any) -> int | None:
    """Return the pixels of an image's shorter side after scaling; None where the processor chooses by image."""
    size = getattr(processor, "size", None)
    sides = [size[key] for key in ("shortest_edge", "height", "width") if size and size.get(key)]
    return max(sides) if sides else None


def _fingerprint(folder: Path, parts: set[Path]) -> str:
    """Over the content of all files that embeddings depend on, not over where they are."""
    digests: dict[str, str] = {}
    for part in {folder, *parts}:
        weights = SAFE if any(part.glob(SAFE)) else PICKLED
        for pattern in (*DESCRIPTIONS, weights):
            digests.update({file.relative_to(folder).as_posix(): file_digest(file) for file in part.glob(pattern)})
    return fingerprint(
        "huggingface", _VERSION, passages.VERSION, *(text for entry in sorted(digests.items()) for text in entry)
    )


def _load(folder: Path, name: str, *, unused: tuple[str, ...]) -> torch.nn.Module:
    """Load a transformers model in float32; all weights must be there but those that begin like one of `unused`."""
    with _explain(f"the weights of {name} cannot be read"):
        model, info = transformers.AutoModel.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    # transformers fills what is missing with random numbers, and says so only in its log.
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(unused))
    if missing:
        raise EncoderError(
            f"the weights of {name} lack {len(missing)} tensors, e.g. {missing[0]}. The files belong to another model "
            "or are not complete: download it again"
        )
    loaded: torch.nn.Module = model
    return loaded


def _read_json(path: Path, *, missing: Any = None) -> Any:
    if missing is not None and not path.is_file():
        return missing
    with _explain(f"{path} cannot be read"):
        return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def _explain(problem: str) -> Iterator[None]:
    """Turn what libraries raise on damaged files, which may be anything, into our error."""
    try:
        yield
    except Exception as error:
        raise EncoderError(f"{problem} ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"
