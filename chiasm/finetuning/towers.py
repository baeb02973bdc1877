"""Networks in training: an encoder as a PyTorch module whose first blocks are frozen, and run once for every input.

What the frozen blocks give for an input (`stored`) is computed once and kept by `chiasm.finetuning.views`; `forward` is the
rest of the network. What is trained in it is chosen by `choose`, how, by `chiasm.finetuning.trainer`.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from chiasm._optional import require
from chiasm.encoders import library
from chiasm.encoders.base import Encoder, resample
from chiasm.encoders.huggingface import HuggingFaceEncoder
from chiasm.encoders.networks import BLOCKS
from chiasm.encoders.offline import ImageEncoder, TextEncoder
from chiasm.encoders.runtime import Arrays
from chiasm.encoders.tuned import WEIGHTS, Kind
from chiasm.errors import EncoderError
from chiasm.files import strict_json, write_whole
from chiasm.finetuning.networks import load_efficientnet
from chiasm.finetuning.recipe import Method
from chiasm.predict_script import MAX_TOKENS
from chiasm.saved import write_arrays
from chiasm.types import Audio, Image, Media, Modality, Text

_STATES = "states"
_TOGETHER = 32  # inputs that the frozen blocks are run on at a time
EVERY = -1  # block is trained


class Tower(nn.Module, ABC):
    """One network with its frozen part. It stays in evaluation mode: its normalisation is the pretrained one.

    Attributes:
        kind: how the encoder that it becomes is opened.
        blocks: that the network has.
        frozen: the first of them that are not trained.
        options: of the encoder.
    """

    kind: Kind
    blocks: int
    frozen: int
    options: Mapping[str, Any]

    @abstractmethod
    def stored(self, media: Sequence[Media]) -> list[Arrays]:
        """Return what the frozen part gives for media, of each on its own."""

    @abstractmethod
    def forward(self, **arrays: Tensor) -> Float[Tensor, "batch dim"]:
        """Return embeddings of stored arrays, stacked."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the network as its encoder reads it."""

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002  always
        """Stay in evaluation mode."""
        return super().train(False)

    def choose(self, method: Method, rank: int, sample: Mapping[str, Tensor]) -> list[str]:
        """Let parameters behind the frozen part be trained, and return their names.

        Args:
            method: "lora", low-rank changes of linear layers and convolutions of 1 x 1 (Hu et al. 2021); "norms", biases and
                normalisations (Ben Zaken et al. 2022); "blocks" and "full", everything.
            rank: of the low-rank changes.
            sample: stored arrays, by which what lies behind the frozen part is found.

        Raises:
            EncoderError: nothing of this kind is behind the frozen part.
        """
        self.requires_grad_(True)
        self(**sample).sum().backward()
        behind = {name for name, parameter in self.named_parameters() if parameter.grad is not None}
        self.zero_grad(set_to_none=True)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in behind and (method != "norms" or parameter.ndim == 1))
        if method == "lora":
            targets = [
                name for name, layer in self.named_modules() if f"{name}.weight" in behind and _takes_lora(layer)
            ]
            if targets:
                peft = require("peft", "train", "train low-rank changes")
                config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
                self._lora = [
                    peft.LoraModel(self, config, "default")
                ]  # in a list: it holds this module, not the reverse
            else:
                self.requires_grad_(False)
        chosen = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        if not chosen:
            raise EncoderError(
                f"there is nothing to train by the method {method!r} behind {self.frozen} of {self.blocks} blocks"
            )
        return chosen

    def merge(self) -> None:
        """Put low-rank changes into the weights that they change."""
        for lora in self.__dict__.pop("_lora", ()):
            lora.merge_and_unload()
        self.requires_grad_(False)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of all parameters, without low-rank changes."""
        return {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take parameters over."""
        self.load_state_dict(dict(weights), strict=False)


def _takes_lora(layer: nn.Module) -> bool:
    if type(layer) is nn.Conv2d:  # PEFT makes a layer of the same class with other arguments, which subclasses refuse
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def tower_of(encoder: Encoder, modality: Modality, trained: int | None) -> Tower:
    """Return the network of an encoder for training.

    Args:
        encoder: whose network it is.
        modality: of the inputs.
        trained: its last so many blocks are trained; None: a third of them.

    Raises:
        EncoderError: it cannot be trained, or does not have so many blocks.
    """
    if isinstance(encoder, ImageEncoder):
        return PictureTower(encoder, trained)
    if isinstance(encoder, TextEncoder):
        model = library.load(encoder.folder, encoder.name, dtype="float32", pooling=_pooling(encoder.folder))
        return LibraryTower(model, "text", trained, base=encoder.folder, limit=MAX_TOKENS)
    if isinstance(encoder, HuggingFaceEncoder) and modality != "video":
        model, described, prompt = encoder.trainable()
        return LibraryTower(model, modality, trained, described=described, prompt=prompt, options=encoder.options)
    raise EncoderError(
        f"the encoder {encoder.name} cannot be trained on {modality}: only pictures, texts and sounds of models that PyTorch "
        "runs can (the offline encoder of pictures and texts, sentence-transformers, transformers and timm models)"
    )


def towers_of(
    encoders: tuple[Encoder, Encoder], modalities: tuple[Modality, Modality], trained: int | None
) -> tuple[Tower, Tower]:
    """Return the networks of two modalities for training; of one model they share what it shares.

    Args:
        encoders: of each modality.
        modalities: of the inputs.
        trained: see `tower_of`. Where both modalities go through the same blocks none is frozen.

    Raises:
        EncoderError: see `tower_of`.
    """
    if encoders[0].vector_space != encoders[1].vector_space or not isinstance(encoders[0], HuggingFaceEncoder):
        first, second = (tower_of(one, modality, trained) for one, modality in zip(encoders, modalities, strict=True))
        return first, second
    encoder = encoders[0]
    model, described, prompt = encoder.trainable()
    # All blocks are there until it is known whether both go through the same.
    whole = [
        LibraryTower(model, one, EVERY, described=described, prompt=prompt, options=encoder.options)
        for one in modalities
    ]
    if not whole[0].shares_blocks(whole[1]):
        for tower in whole:
            tower.freeze(trained)
    return whole[0], whole[1]


def _pooling(folder: Path) -> str:
    return "" if (folder / "modules.json").is_file() else "mean"


def _frozen(blocks: int, trained: int | None) -> int:
    trained = max(1, round(blocks / 3)) if trained is None else trained
    if trained == EVERY:
        return 0
    if not 0 <= trained <= blocks:
        raise EncoderError(
            f"the network has {blocks} blocks, of which the last {trained} cannot be trained. Take 0 to {blocks}"
        )
    return blocks - trained


class PictureTower(Tower):
    """EfficientNet-Lite0, its frozen blocks run by ONNX Runtime."""

    kind: Kind = "efficientnet-lite0"

    def __init__(self, encoder: ImageEncoder, trained: int | None) -> None:
        super().__init__()
        self.blocks, self.options = BLOCKS, {}
        self.frozen = _frozen(BLOCKS, trained)
        self.network = load_efficientnet(encoder.weights())
        self._encoder = encoder
        self._prefix = encoder.first_blocks(self.frozen) if self.frozen else None

    def stored(self, media: Sequence[Media]) -> list[Arrays]:
        """Run the frozen blocks."""
        pixels = np.concatenate([self._encoder.prepare(one) for one in media])
        if self._prefix is None:
            return [{_STATES: one} for one in pixels]
        network, shape = self._prefix
        # Half precision: half the disk, and an error of one in a thousand that augmentation drowns.
        rows = network.run_rows({"pixels": pixels}).astype(np.float16)
        return [{_STATES: row.reshape(shape)} for row in rows]

    def forward(self, **arrays: Tensor) -> Float[Tensor, "batch dim"]:
        """Run the rest."""
        states = arrays[_STATES]
        if not self.frozen:
            return self.network.finish(self.network.begin(states), 0)
        return self.network.finish(states.float().contiguous(memory_format=torch.channels_last), self.frozen)

    def save(self, folder: Path) -> None:
        """Write the network."""
        state = self.network.state_dict()
        write_arrays(folder / WEIGHTS, {name: tensor.numpy() for name, tensor in state.items()})


class LibraryTower(Tower):
    """A model of sentence-transformers: its frozen blocks are left out of the network and their output is put in.

    The blocks are the largest list of layers that all take part in embedding an input.
    """

    def __init__(
        self,
        model: Any,
        modality: Modality,
        trained: int | None,
        *,
        base: Path | None = None,
        described: library.Description | None = None,
        prompt: str | None = None,
        options: Mapping[str, Any] | None = None,
        limit: int | None = None,
    ) -> None:
        """Take a model over.

        Args:
            model: with its weights.
            modality: of the inputs.
            trained: see `tower_of`.
            base: folder of a BERT model that the offline encoder of texts runs.
            described: of any other model.
            prompt: of items.
            options: of the encoder.
            limit: tokens at most.
        """
        super().__init__()
        if type(model[0]).__name__ == "Router":
            raise EncoderError("a model with one network for queries and another for documents cannot be trained here")
        self.model, self.modality, self.options = model, modality, dict(options or {})
        self.kind = "bert" if base is not None else "library"
        self._base, self._said, self._prompt = base, described, prompt
        if limit is not None:
            model.max_seq_length = limit
        sample = self._features(library.samples(modality, 1, described or library.Description(0, {}))[0])
        self._layers = _blocks_of(self, sample)
        self.blocks = len(self._layers)
        self._states: Tensor | None = None  # of the batch that goes through the network
        self._rest: dict[int, tuple[Any, ...] | None] = {}  # what each frozen block gives beside its states
        self._fixed: dict[str, Tensor] = {}
        self.freeze(trained)

    def freeze(self, trained: int | None) -> None:
        """Leave the frozen blocks of a network that is whole out of it; see `tower_of`."""
        self.frozen = _frozen(self.blocks, trained)
        self._whole = list(self._layers[: self.frozen])
        self._leave_out(True)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Put the frozen blocks back for a while."""
        self._leave_out(False)
        try:
            yield
        finally:
            self._leave_out(True)

    @property
    def alike(self) -> bool:
        """True if its blocks have weights of the same shapes, and its configuration says how many there are."""
        shapes = {str([(name, one.shape) for name, one in layer.named_parameters()]) for layer in self._layers}
        return len(shapes) == 1 and getattr(self._config, "num_hidden_layers", None) == len(self._layers)

    @property
    def _config(self) -> Any:
        """The configuration of the module that its blocks are in; None where it has none."""
        owners = [one for one in self.modules() if any(child is self._layers for child in one.children())]
        return next((one.config for one in owners if hasattr(one, "config")), None)

    @contextmanager
    def only(self, blocks: Sequence[int]) -> Iterator[None]:
        """Have some of its blocks alone for a while, where they are alike and none is frozen; it is saved like that, too."""
        config, whole = self._config, list(self._layers)
        before = config.num_hidden_layers, getattr(config, "layer_types", None), getattr(config, "stage_names", None)
        del self._layers[:]
        self._layers.extend(whole[block] for block in blocks)
        config.num_hidden_layers = len(blocks)
        if before[1]:
            config.layer_types = [before[1][block] for block in blocks]
        if before[2]:  # of a network that may be the first part of another one: it gives what its last layer gives
            features = config.out_features, config.out_indices
            config.stage_names = before[2][: len(blocks) + 1]
            config.set_output_features_output_indices(None, None)
        try:
            yield
        finally:
            del self._layers[:]
            self._layers.extend(whole)
            config.num_hidden_layers = before[0]
            if before[1]:
                config.layer_types = before[1]
            if before[2]:
                config.stage_names = before[2]
                config.set_output_features_output_indices(*features)

    def shares_blocks(self, other: LibraryTower) -> bool:
        """Return whether the inputs of both go through the same blocks."""
        return self._layers is other._layers

    def _leave_out(self, left_out: bool) -> None:
        for number, layer in enumerate(self._whole):
            self._layers[number] = _LeftOut(layer, self, number) if left_out else layer

    def _features(self, inputs: Any) -> dict[str, Tensor]:
        return library.features(self.model, [inputs], self._prompt, "document")

    def _input(self, medium: Media) -> Any:
        if isinstance(medium, Text):
            return library.text_input(medium.text)
        if isinstance(medium, Audio):
            assert self._said is not None
            rate = self._said.rate or medium.rate
            return library.audio_input(resample(medium, rate)[: self._said.window or None], rate)
        assert isinstance(medium, Image)
        from PIL import Image as PillowImage

        return PillowImage.fromarray(medium.pixels)

    def stored(self, media: Sequence[Media]) -> list[Arrays]:
        """Run the frozen blocks."""
        features = [self._features(self._input(one)) for one in media]
        if not self.frozen:
            return [{name: tensor[0].numpy() for name, tensor in one.items()} for one in features]
        by_shape: dict[str, list[int]] = {}
        for number, one in enumerate(features):
            by_shape.setdefault(str([(name, *tensor.shape) for name, tensor in one.items()]), []).append(number)
        arrays: list[Arrays] = [{} for _ in media]
        for numbers in by_shape.values():
            for at in range(0, len(numbers), _TOGETHER):
                some = numbers[at : at + _TOGETHER]
                batch = {name: torch.cat([features[number][name] for number in some]) for name in features[some[0]]}
                states = self._run_frozen(batch)
                for row, number in enumerate(some):
                    # What the first block was made of is not looked at again: of pictures and sounds the shape is enough.
                    kept = {
                        name: tensor for name, tensor in features[number].items() if not self._is_large(name, tensor)
                    }
                    own = {name: tensor[0].numpy() for name, tensor in kept.items()}
                    arrays[number] = {**own, _STATES: states[row].numpy()}
        return arrays

    def _is_large(self, name: str, tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or tensor.ndim < 3:
            return False
        fixed = self._fixed.setdefault(name, torch.zeros_like(tensor))
        return fixed.shape == tensor.shape

    def _run_frozen(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the last frozen block gives."""
        self._leave_out(False)
        outputs: list[Any] = []
        hooks = [
            layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
            for layer in self._whole
        ]
        try:
            with torch.inference_mode():
                self._embed(batch)
        finally:
            for hook in hooks:
                hook.remove()
            self._leave_out(True)
        for number, output in enumerate(outputs):
            self._rest[number] = output[1:] if isinstance(output, tuple) else None
        states: Tensor = outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]
        return states

    def forward(self, **arrays: Tensor) -> Float[Tensor, "batch dim"]:
        """Run the rest."""
        arrays = dict(arrays)
        if self.frozen:
            states = arrays.pop(_STATES)
            self._states = states
            for name, fixed in self._fixed.items():
                if name not in arrays:
                    arrays[name] = fixed.to(states.device).expand(len(states), *fixed.shape[1:])
        return self._embed(arrays)

    def _embed(self, arrays: Mapping[str, Tensor]) -> Tensor:
        run = library.network(self.model, self.modality, tuple(arrays))
        embeddings: Tensor = run(*arrays.values())
        return embeddings[:, : self.options.get("dim")]

    def save(self, folder: Path) -> None:
        """Write the network."""
        with self.whole():
            first = self.model[0]
            if self._base is not None:
                first.model.save_pretrained(folder)
                shutil.copyfile(self._base / "tokenizer.json", folder / "tokenizer.json")
            elif self._said is not None and self._said.pooling == "pooler_output":
                first.model.save_pretrained(folder)
                first.processor.save_pretrained(folder)
            else:
                self.model.save_pretrained(str(folder), create_model_card=False)
        if "dim" in self.options:  # its encoder asks whether vectors may be shortened
            file = next(
                one for one in (folder / "config_sentence_transformers.json", folder / "config.json") if one.is_file()
            )
            settings = library.read_settings(file) | {"matryoshka_dims": [self.options["dim"]]}
            write_whole(file, strict_json(settings))


class _LeftOut(nn.Module):
    """Stands where a frozen block was: passes its input on or, in the place of the last, gives what is stored."""

    def __init__(self, layer: nn.Module, tower: LibraryTower, number: int) -> None:
        super().__init__()
        # Not submodules: they are not trained, moved or saved.
        self.__dict__["_layer"], self.__dict__["_tower"], self._number = layer, tower, number

    def __getattr__(self, name: str) -> Any:  # of the block, which some networks look at
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"], name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Give what the block would give, as far as what follows looks at it."""
        tower: LibraryTower = self.__dict__["_tower"]
        states = inputs[0] if inputs else named["hidden_states"]
        if self._number == tower.frozen - 1:
            states = tower._states
        rest = tower._rest.get(self._number)
        return states if rest is None else (states, *(states if isinstance(one, Tensor) else one for one in rest))


def _blocks_of(tower: LibraryTower, sample: Mapping[str, Tensor]) -> nn.ModuleList:
    """Return the largest list of layers that all take part in embedding a sample."""
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(module)]
    run: set[int] = set()
    hooks = [
        layer.register_forward_hook(lambda module, _inputs, _output: run.add(id(module)))
        for one in lists
        for layer in one
    ]
    try:
        with torch.inference_mode():
            tower._embed(sample)
    finally:
        for hook in hooks:
            hook.remove()
    used = [one for one in lists if all(id(layer) in run for layer in one)]
    if not used:
        raise EncoderError("the model has no list of layers: it cannot be trained block by block")
    several = [one for one in used if len(one) > 1]  # one layer is taken for a list only where there is nothing else
    return max(several or used, key=lambda one: sum(parameter.numel() for parameter in one.parameters()))
