"""Models of the Hugging Face hub, of every modality that sentence-transformers knows of them, as encoders.

A hub id is a local folder as soon as it is downloaded, so both go the same way. What the library says of a model is left
to `library`, how networks are run to `runtime`: by ONNX Runtime where arrays stack and the export is checked, else the
library runs the model in PyTorch.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Float

from chiasm.encoders import examples, library, passages
from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Moments, Prepared, View, resample
from chiasm.encoders.cache import file_digest, fingerprint
from chiasm.encoders.licence import PretrainedModel, licence_of_folder
from chiasm.encoders.runtime import Arrays, Blueprint, Device, Network, check_device, half_precision, has_gpu, in_int8
from chiasm.errors import EncoderError
from chiasm.hub import DESCRIPTIONS, PICKLED, SAFE, TEMPLATES, model_folder
from chiasm.types import Audio, Image, Media, Modality, Text, Video
from chiasm.vectors import unit_rows

MAX_TOKENS = 8192  # of a passage, also where the model itself knows no limit: attention grows with the square

_VERSION = "2"  # of everything here and in `library` that changes embeddings
_HOP = 0.5  # of a window of sound, from one to the next
_SHORTEST = 0.1  # seconds of sound that every network takes; shorter ones are followed by silence
_TOGETHER = (8, 64)  # inputs that the library runs at a time, on a CPU and on a GPU; it sorts them by length
EXAMPLES = "'offline', a local folder with a config.json, or an id such as 'openai/clip-vit-base-patch32'"
_DOCUMENT = ("document", "passage", "corpus")  # names of the prompt of items, as of `encode_document`


@dataclass(frozen=True)
class _Windows:
    """A prepared sound: windows as long as the model takes, each half over the next, the last at the end."""

    inputs: Sequence[Any]  # of each window
    starts: Float[np.ndarray, " windows"]  # seconds
    ends: Float[np.ndarray, " windows"]


class HuggingFaceEncoder(Encoder):
    """A sentence-transformers, transformers or timm model; vectors as `SentenceTransformer.encode_document` gives them.

    Queries get what `encode_query` does to them: the model's own prompt, and its own half of a router. A plain
    transformers model is pooled as `library.Description` says. A sound that is longer than the model's own window (CLAP:
    10 s, others 30 s) has windows of that length as moments, each half over the next, and as a whole their mean. A text
    of more tokens than the model takes has passages as moments (`chiasm.encoders.passages`).
    """

    def __init__(
        self,
        name_or_folder: str,
        *,
        dim: int | None = None,
        dtype: str = "float32",
        int8: bool = False,
        prompt: str | None = None,
        revision: str | None = None,
        device: Device = "auto",
    ) -> None:
        """Find a model and download it if it is not here yet; the first time on a machine it is loaded, to be described.

        Args:
            name_or_folder: hub id, e.g. `"openai/clip-vit-base-patch32"`, or a local folder with a `config.json`.
            dim: numbers of a vector that are kept, the first; vectors have unit length then. Only for models that say that
                they were trained for it (Matryoshka).
            dtype: of the weights: `"float32"`, `"float16"` or `"bfloat16"`.
            int8: whether what ONNX Runtime runs of it runs in 8-bit integers.
            prompt: name of the model's own prompt for items and queries alike.
            revision: of a hub id: a branch, a tag or a commit.
            device: see `Network`.

        Raises:
            EncoderError: there is no such model, the hub cannot be reached, the library does not know the model or it is
                damaged, an option does not fit it, or there is no such device.
            MissingExtraError: sentence-transformers is not installed.
        """
        self._device = check_device(device)
        if dtype not in library.DTYPES:
            raise EncoderError(f"dtype must be one of {', '.join(library.DTYPES)}; got {dtype!r}")
        if int8 and dtype != "float32":
            raise EncoderError(f"int8 and dtype={dtype} are two choices of the same: leave one of them out")
        self.name = name_or_folder
        self._folder = model_folder(name_or_folder, revision=revision, examples=EXAMPLES)
        self._dtype = dtype
        files = _files(self._folder)
        self._size = sum(file.stat().st_size for file in files.values())
        digests = (text for name, file in files.items() for text in (name, file_digest(file)))
        self._key = fingerprint("huggingface", _VERSION, passages.VERSION, dtype, *digests)
        # The library scales pictures and frames by torchvision where that is installed, else by Pillow, a little otherwise.
        scaled_by = ("torchvision",) if importlib.util.find_spec("torchvision") else ()
        described = fingerprint(self._key, *scaled_by)
        self._said = said = library.describe(self._folder, self.name, described, dtype=dtype)
        self.dim = said.dim if dim is None else _shortened(self._folder, self.name, said.dim, dim)
        self._prompts = self._choose_prompts(prompt)
        self.options = {name: value for name, value in (("dim", dim), ("prompt", prompt)) if value is not None}
        self.modalities: frozenset[Modality] = frozenset(said.inputs)
        options: tuple[str, ...] = () if (dim, prompt) == (None, None) else (str(dim), str(prompt))
        if self.modalities & {"image", "video"}:
            options += scaled_by
        self.fingerprint = fingerprint(self._key, *options) if options else self._key
        if int8:
            self._check_int8(said.inputs)
            self.fingerprint = in_int8(self.fingerprint)
        self.fuses = said.fuses
        self.batch_size = 256 if self.modalities == {"text"} else 64  # many texts, to find some of the same length
        self.view = View(image_size=said.image_size, rate=said.rate, frames=said.frames)
        self._loading = Lock()
        self._model: Any = None
        self._networks = {
            modality: self._network(modality, names, int8, device) for modality, names in said.inputs.items() if names
        }

    def prepare(self, media: Media) -> Prepared:
        """Return the text itself; of a picture or video what the network or the library takes; of a sound its windows."""
        self._require(media.modality)
        if isinstance(media, Text):
            return media.text
        if isinstance(media, Audio):
            return self._windows(media)
        if isinstance(media, Video):
            count = len(media.frames)
            most, fewest = self._said.frames, self._said.fewest_frames
            wanted = most if self._said.exact_frames else max(fewest, min(most, count))
            picked = np.linspace(0, count - 1, wanted).round().astype(int)
            return library.video_input(media.frames[picked], media.duration)
        assert isinstance(media, Image)
        return self._one("image", _picture(media))

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed prepared inputs of one modality, a row each."""
        return self._encode(modality, batch, "document")

    def encode_queries(self, media: Sequence[Media]) -> Embeddings:
        """Embed what is searched with, in order."""
        return self._in_order(media, partial(self._encode, task="query"))

    def encode_fused(self, pairs: Sequence[tuple[Image, Text]]) -> Float[np.ndarray, "pairs dim"]:
        """Embed pictures with words, a row each, with the prompt of queries."""
        if not self.fuses:
            return super().encode_fused(pairs)
        return self._run_library([library.fused_input(_picture(image), text.text) for image, text in pairs], "query", 1)

    def class_head(self) -> ClassHead | None:
        """Return the image classifier of the folder, where it reads these vectors and its classes have names."""
        head = library.class_head(self._folder, self.name, self._said) if self.dim == self._said.dim else None
        return None if head is None else ClassHead(*head, tuple(self._said.classes))

    def models(self) -> tuple[PretrainedModel, ...]:
        """Return the model, with the licence that its card says."""
        said = licence_of_folder(self._folder)
        return (PretrainedModel(self.name, self.fingerprint, *said, self._said.parameters, self._size),)

    def int8_cosines(self) -> dict[Modality, float]:
        """Return how close int8 is to float32."""
        cosines = {modality: network.cosine() for modality, network in self._networks.items()}
        return {modality: cosine for modality, cosine in cosines.items() if cosine is not None}

    # ----------------------------------------------------------------------------------------------------- modalities

    def _encode(self, modality: Modality, batch: Sequence[Prepared], task: str) -> Embeddings:
        self._require(modality)
        if not batch:
            return Embeddings(np.empty((0, self.dim), np.float32), ())
        if modality == "audio":
            return self._encode_sounds(batch, task)
        if modality == "text":
            count, embed = partial(self._lengths, task=task), partial(self._embed_texts, task=task)
            return passages.embed_texts(batch, limit=self._limit(), count=count, embed=embed)
        return Embeddings(self._run(modality, batch, task), (None,) * len(batch))

    def _run(self, modality: Modality, inputs: Sequence[Any], task: str) -> Float[np.ndarray, "inputs dim"]:
        """Return the vectors of inputs as `_one` gives them."""
        if modality in self._networks:
            names = self._said.inputs[modality]
            stacked = {name: np.concatenate([one[name] for one in inputs]) for name in names}
            return self._finished(self._networks[modality].run_rows(stacked))
        return self._run_library(inputs, task, self._together(modality))

    def _together(self, modality: Modality) -> int:
        """Return how many inputs the library may run at a time."""
        on_gpu = self._loaded().device.type == "cuda"
        return _TOGETHER[on_gpu] if modality in self._said.batched else 1

    def _run_library(self, inputs: Sequence[Any], task: str, size: int) -> Float[np.ndarray, "inputs dim"]:
        import torch

        model = self._loaded()
        encode = model.encode_query if task == "query" else model.encode_document
        if model.device.type == "cpu" and self._dtype == "float32":
            warnings.warn(
                f"{self.name} is run by PyTorch, slower on a CPU than ONNX Runtime, where its inputs are not plain arrays that "
                "stack",
                RuntimeWarning,
                stacklevel=2,
            )
        # Weights that are in half precision already stay in the one that was chosen.
        with torch.inference_mode(), half_precision(model.device.type if self._dtype == "float32" else "cpu"):
            vectors = encode(list(inputs), prompt=self._prompts[task], batch_size=size, show_progress_bar=False)
        return self._finished(np.asarray(vectors, np.float32))

    def _finished(self, vectors: Float[np.ndarray, "inputs whole"]) -> Float[np.ndarray, "inputs dim"]:
        return vectors if self.dim == self._said.dim else unit_rows(vectors[:, : self.dim])

    def _one(self, modality: Modality, medium: Any) -> Any:
        """Return an input as `_run` takes it: the arrays of the network, or what the library takes."""
        if modality not in self._networks:
            return medium
        made = library.features(self._loaded(), [medium], None, "document")
        return {name: made[name].numpy() for name in self._said.inputs[modality]}

    # ---------------------------------------------------------------------------------------------------------- texts

    def _embed_texts(self, texts: Sequence[str], task: str) -> Float[np.ndarray, "texts dim"]:
        inputs = [library.text_input(text) for text in texts]
        if "text" not in self._networks:
            return self._run_library(inputs, task, self._together("text"))

        def padded(rows: Sequence[int]) -> Arrays:
            made = library.features(self._loaded(), [inputs[row] for row in rows], self._prompts[task], task)
            return {name: made[name].numpy() for name in self._said.inputs["text"]}

        fixed = getattr(self._loaded()[0], "processing_kwargs", {}).get("text", {}).get("padding") == "max_length"
        lengths = [self._limit()] * len(texts) if fixed else self._lengths(texts, task)
        return self._finished(self._networks["text"].run_tokens(lengths, padded))

    def _limit(self) -> int:
        """Return how many tokens the model takes."""
        longest = self._loaded().max_seq_length
        return MAX_TOKENS if longest is None else int(min(longest, MAX_TOKENS))

    def _lengths(self, texts: Sequence[str], task: str) -> list[int]:
        """Return the tokens of texts with those that the library puts around each: of prompt, template and borders."""
        model = self._loaded()
        tokenizer = model.tokenizer
        plain = _token_counts(tokenizer, ["a", *texts])
        seen = library.features(model, [library.text_input("a")], self._prompts[task], task)
        around = 0
        if "input_ids" in seen and len(seen["input_ids"]) == 1:
            mask = seen.get("attention_mask")  # none where all are padded to one length
            around = 0 if mask is None else int(mask.sum()) - plain[0]
        return [length + around for length in plain[1:]]

    # --------------------------------------------------------------------------------------------------------- sounds

    def _windows(self, sound: Audio) -> _Windows:
        rate, length = self._said.rate or sound.rate, self._said.window
        waveform = resample(sound, rate)
        seconds = len(waveform) / rate
        if len(waveform) < _SHORTEST * rate:
            waveform = np.pad(waveform, (0, round(_SHORTEST * rate) - len(waveform)))
        last = max(0, len(waveform) - length)
        starts = np.array([*range(0, last, int(length * _HOP)), last])
        inputs = [
            self._one("audio", library.audio_input(waveform[start : start + length], rate)) for start in starts.tolist()
        ]
        return _Windows(inputs, starts / rate, np.minimum((starts + length) / rate, seconds))

    def _encode_sounds(self, batch: Sequence[_Windows], task: str) -> Embeddings:
        vectors = self._run("audio", [one for sound in batch for one in sound.inputs], task)
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

    # -------------------------------------------------------------------------------------------------------- loading

    def _loaded(self) -> Any:
        """Return the model of the library, whose processors the networks need, too."""
        with self._loading:
            if self._model is None:
                model = self._load()
                everywhere = set(self._networks) == set(self._said.inputs)
                # Where other runtimes hold the weights, only the processors are of use.
                on_gpu = self._device == "cuda" or (self._device == "auto" and has_gpu())
                self._model = model.to("meta" if everywhere else "cuda" if on_gpu else "cpu")
            return self._model

    def trainable(self) -> tuple[Any, library.Description, str]:
        """Return the library's model, loaded anew in float32, what the library says of it, and the prompt of items."""
        model = library.load(self._folder, self.name, dtype="float32", pooling=self._said.pooling)
        return model, self._said, self._prompts["document"]

    def _load(self) -> Any:
        return library.load(self._folder, self.name, dtype=self._dtype, pooling=self._said.pooling)

    def _check_int8(self, inputs: Mapping[Modality, Sequence[str]]) -> None:
        """Refuse int8 where PyTorch runs the model, say so where it runs a part."""
        left = sorted(modality for modality, names in inputs.items() if not names)
        if len(left) == len(inputs):
            raise EncoderError(
                f"{self.name} cannot be run in int8: there is no ONNX graph of it, since its inputs are not plain arrays "
                "that stack, and PyTorch runs it. Leave int8 out"
            )
        if left:
            warnings.warn(
                f"{self.name} is not in int8 for {' and '.join(left)}: PyTorch runs these, as they are",
                RuntimeWarning,
                stacklevel=3,
            )

    def _network(self, modality: Modality, names: Sequence[str], int8: bool, device: Device) -> Network:
        import importlib.metadata

        # The classes of the model are the libraries', so an export belongs to their versions.
        versions = [importlib.metadata.version(name) for name in ("transformers", "sentence-transformers")]
        axes = dict.fromkeys(names, ("batch", "tokens") if modality == "text" else ("batch",))
        blueprint = Blueprint(
            f"{Path(self.name).name}-{modality}",
            fingerprint(self._key, modality, *versions),
            lambda: library.network(self._load(), modality, names),
            axes,
            partial(self._sample, modality, names),
            self._said.dim,
        )
        return Network(blueprint, device=device, examples=partial(self._examples, modality, names) if int8 else None)

    def _examples(self, modality: Modality, names: Sequence[str], held: bool) -> list[Arrays]:
        if modality == "text":
            inputs = ([library.text_input(text)] for text in examples.TEXTS)
            made = (library.features(self._loaded(), one, self._prompts["document"], "document") for one in inputs)
            return [{name: one[name].numpy() for name in names} for one in made]
        if modality == "image":
            from PIL import Image as PillowImage

            pictures = examples.photographs() if held else examples.shapes()
            return [self._one(modality, PillowImage.fromarray(pixels)) for pixels in pictures]
        rate = self._said.rate or 16_000
        waves = examples.sounds(rate, max(1600, self._said.window), seed=int(held))
        return [self._one(modality, library.audio_input(wave, rate)) for wave in waves]

    def _sample(self, modality: Modality, names: Sequence[str], rows: int, generator: np.random.Generator) -> Arrays:
        inputs = library.samples(modality, rows, self._said, generator)
        if modality == "text":
            made = library.features(self._loaded(), inputs, None, "document")
            return {name: made[name].numpy() for name in names}
        each = [self._one(modality, one) for one in inputs]
        return {name: np.concatenate([one[name] for one in each]) for name in names}

    def _choose_prompts(self, chosen: str | None) -> Mapping[str, str]:
        """Return the prompts of items and of queries."""
        prompts = self._said.prompts
        if chosen is not None:
            if chosen not in prompts:
                has = ", ".join(name for name, text in prompts.items() if text) or "none"
                raise EncoderError(f"{self.name} has no prompt {chosen!r}. Its prompts: {has}")
            return {"document": prompts[chosen], "query": prompts[chosen]}
        document = next((prompts[name] for name in _DOCUMENT if name in prompts), "")
        return {"document": document, "query": prompts.get("query", "")}


def _picture(image: Image) -> Any:
    from PIL import Image as PillowImage

    return PillowImage.fromarray(image.pixels)


def _token_counts(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    if hasattr(tokenizer, "encode_batch"):  # of the package tokenizers, which models without attention have
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]
    encoded = tokenizer(list(texts), truncation=False, padding=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def _files(folder: Path) -> dict[str, Path]:
    """Return all files that embeddings depend on, by their paths inside of the folder, in order."""
    files: dict[str, Path] = {}
    for part in (folder, *(one for one in folder.rglob("*") if one.is_dir())):
        inside = part.relative_to(folder)
        if {"onnx", "openvino"} & set(inside.parts) or any(name.startswith(".") for name in inside.parts):
            continue
        weights = SAFE if any(part.glob(SAFE)) else PICKLED
        for pattern in (*DESCRIPTIONS, TEMPLATES, weights):
            files.update({(inside / file.name).as_posix(): file for file in part.glob(pattern)})
    return dict(sorted(files.items()))


def _shortened(folder: Path, name: str, whole: int, dim: int) -> int:
    """Return the length of shortened vectors, if the model says that it was trained for that.

    Raises:
        EncoderError: it does not, or not for this length.
    """
    card = folder / "README.md"
    said = "matryoshka" in card.read_text("utf-8", errors="replace").lower() if card.is_file() else False
    allowed: set[int] = set()
    for file in (folder / "config.json", folder / "config_sentence_transformers.json"):
        if file.is_file():
            with library.explain(f"{file} cannot be read"):
                settings = library.read_settings(file)
            for key, value in settings.items():
                if key.lower().startswith("matryoshka") and value:
                    said = True
                    allowed |= set(value) if isinstance(value, list) else set()
                said |= key == "truncate_dim" and value is not None
    if not said:
        raise EncoderError(
            f"dim={dim}: {name} does not say that its vectors may be shortened (neither its card nor its configuration "
            f"speaks of Matryoshka). Leave dim out: its vectors have {whole} numbers"
        )
    if not 1 <= dim <= whole or (allowed and dim not in allowed and dim != whole):
        choice = ", ".join(map(str, sorted(allowed))) if allowed else f"1 to {whole}"
        raise EncoderError(f"dim={dim}: the vectors of {name} can have {choice} numbers")
    return dim
