"""Networks made smaller: channels taken out of convolutions, layers out of transformers.

What is taken out is what the network misses least on the user's own items. `Cuts` orders that once; each of its levels is then a
smaller network, written as its encoder reads it. Which level is fast enough is left to `chiasm.verbs.compress`, how the smaller
network learns to do what the whole one does to `distillation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from chiasm.encoders.base import Encoder
from chiasm.encoders.networks import BLOCKS, NORM_EPSILON, block_shape
from chiasm.encoders.offline import ImageEncoder
from chiasm.encoders.tuned import WEIGHTS, Kind
from chiasm.errors import EncoderError
from chiasm.finetuning.items import stack
from chiasm.finetuning.networks import load_efficientnet
from chiasm.finetuning.towers import EVERY, LibraryTower, tower_of
from chiasm.saved import write_arrays
from chiasm.types import Media, Modality
from chiasm.vectors import unit_rows

SAMPLE = 256  # media at most by which channels are judged
_TRIED = 32  # media by which layers are judged: each of them goes through the network once a layer
_LEVELS = 32
_WIDTH = 16  # channels that processors multiply at once: fewer are no faster
_PLACES = 64  # of a map that channels are judged by
_TOGETHER = 8  # pictures: large maps of more do not stay in a processor's cache
_RIDGE = 1e-3  # of the mean variance, added to every channel's
_MOVED = 10  # multiplications that reading and writing a number takes as long as
_SIDE = 112  # of the map that the first block takes


class Cuts(ABC):
    """Smaller networks of one network, by level.

    Attributes:
        levels: the number of levels: 1 is nearly the whole network, this one nearly nothing.
        kind: how the encoder of such a network is opened.
        options: of the encoder.
    """

    levels: int
    kind: Kind
    options: Mapping[str, Any]

    @abstractmethod
    def write(self, level: int, folder: Path) -> None:
        """Write the network of a level as its encoder reads it."""


def cuts_of(encoder: Encoder, modality: Modality, media: Sequence[Media]) -> Cuts:
    """Return the smaller networks of an encoder's network.

    Args:
        encoder: whose network it is.
        modality: of the media.
        media: of the user; those that come first are used.

    Raises:
        EncoderError: nothing can be taken out of the network; says why.
    """
    if isinstance(encoder, ImageEncoder):
        return ChannelCuts(encoder, media[:SAMPLE])
    tower = tower_of(encoder, modality, EVERY)
    assert isinstance(tower, LibraryTower)
    return LayerCuts(tower, encoder.name, media[:_TRIED])


# ------------------------------------------------------------------------------------------------------------ channels


@dataclass(frozen=True, eq=False)
class _Block:
    """The channels inside of a block, and what follows from leaving some of them out.

    Attributes:
        prefix: of the names of its weights.
        mean: of each channel before the last convolution.
        covariance: of the channels.
        order: channels, the first to be left out first.
        errors: what the block's output loses without the first so many of them, as a share of its variance.
        cost: of one channel, about proportional to its time.
    """

    prefix: str
    mean: Float[np.ndarray, " channels"]
    covariance: Float[np.ndarray, "channels channels"]
    order: Int[np.ndarray, " removed"]
    errors: Float[np.ndarray, " numbers"]
    cost: float

    def kept(self, price: float) -> int:
        """Return how many channels stay where a unit of time is worth an error."""
        whole = len(self.mean)
        numbers: list[int] = [*range(_WIDTH, whole, _WIDTH), whole]
        worth = [float(self.errors[whole - number]) + price * self.cost * number for number in numbers]
        return numbers[int(np.argmin(worth))]


class ChannelCuts(Cuts):
    """Channels taken out of the blocks of EfficientNet-Lite0.

    Each block widens its input and narrows it again, and only the width between is cut, so that blocks, embeddings and all that
    is built on them fit as before. Within a block the channel goes next without which a refitted last convolution is nearest to
    the output of the whole block (optimal brain surgeon, Hassibi & Stork 1992, for groups of weights as in Kurtic et al. 2023,
    arXiv:2302.04089), and the last convolution is refitted by least squares. Blocks give up channels where an error buys most time.
    """

    levels = _LEVELS - 1
    kind: Kind = "efficientnet-lite0"
    options: Mapping[str, Any] = {}

    def __init__(self, encoder: ImageEncoder, media: Sequence[Media]) -> None:
        self._weights = encoder.weights()
        pixels = np.concatenate([encoder.prepare(one) for one in media])
        self._blocks = _judge_blocks(self._weights, pixels)

    def write(self, level: int, folder: Path) -> None:
        """Write the network whose blocks take about `1 - level / 32` of the time."""
        wanted = 1 - level / _LEVELS
        whole = sum(block.cost * len(block.mean) for block in self._blocks)
        low, high = -40.0, 40.0  # of the logarithm of the price
        while high - low > 1e-3:
            price = np.exp((low + high) / 2)
            left = sum(block.cost * block.kept(price) for block in self._blocks)
            low, high = (low, (low + high) / 2) if left <= wanted * whole else ((low + high) / 2, high)
        weights = dict(self._weights)
        for block in self._blocks:
            weights |= _without(self._weights, block, len(block.mean) - block.kept(np.exp(high)))
        write_arrays(folder / WEIGHTS, {name: np.ascontiguousarray(array) for name, array in weights.items()})


def _judge_blocks(weights: Mapping[str, np.ndarray], pixels: np.ndarray) -> list[_Block]:
    """Return what can be left out of each block but the first, which does not widen its input."""
    network = load_efficientnet(weights)
    moments: dict[int, list[Any]] = {block: [0.0, 0.0, 0, 0.0] for block in range(1, BLOCKS)}
    generator = torch.Generator().manual_seed(0)

    def before_last(block: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maps = inputs[0].flatten(2)
        places = torch.randperm(maps.shape[2], generator=generator)[:_PLACES]
        rows = maps[:, :, places].transpose(1, 2).flatten(0, 1).double()
        own = moments[block]
        own[0], own[1], own[2] = own[0] + rows.sum(dim=0), own[1] + rows.T @ rows, own[2] + len(rows)

    def behind(block: int, _: nn.Module, __: Any, output: Tensor) -> None:
        moments[block][3] += float(output.double().var(dim=(0, 2, 3)).sum()) * len(output) / len(pixels)

    for block in moments:
        module = network.get_submodule(f"_blocks.{block}")
        module.register_forward_hook(partial(behind, block))
        network.get_submodule(f"_blocks.{block}._project_conv").register_forward_pre_hook(partial(before_last, block))
    with torch.inference_mode():
        for at in range(0, len(pixels), _TOGETHER):
            network(torch.from_numpy(pixels[at : at + _TOGETHER]))
    blocks = []
    for block, (total, products, count, variance) in moments.items():
        mean = (total / count).numpy()
        covariance = (products / count).numpy() - np.outer(mean, mean)
        covariance += np.eye(len(mean)) * max(_RIDGE * np.trace(covariance) / len(mean), np.finfo(float).tiny)
        prefix = f"_blocks.{block}."
        scale = weights[f"{prefix}_bn2.weight"] / np.sqrt(weights[f"{prefix}_bn2.running_var"] + NORM_EPSILON)
        last = weights[f"{prefix}_project_conv.weight"][:, :, 0, 0].astype(np.float64)
        order, errors = removal_order(scale[:, None] * last, covariance)
        blocks.append(_Block(prefix, mean, covariance, order, errors / variance, _cost(weights, block)))
    return blocks


def removal_order(
    weights: Float[np.ndarray, "outputs channels"], covariance: Float[np.ndarray, "channels channels"]
) -> tuple[Int[np.ndarray, " removed"], Float[np.ndarray, " numbers"]]:
    """Return the order in which inputs of a linear map are left out, down to 16, and the squared error after each.

    The error is that of the map refitted by least squares to the inputs that are left; the first number is 0, of none left out.

    Args:
        weights: of the map.
        covariance: of its inputs, of full rank.

    Example:
        >>> weights = np.ones((1, 18))
        >>> weights[0, 7] = 0.1
        >>> order, errors = removal_order(weights, np.eye(18))
        >>> int(order[0]), errors.round(2).tolist()
        (7, [0.0, 0.01, 1.01])
    """
    inverse, left = np.linalg.inv(covariance), np.arange(len(covariance))
    order, errors = [], [0.0]
    while len(left) > _WIDTH:
        losses = np.square(weights).sum(axis=0) / np.diag(inverse)
        gone = int(losses.argmin())
        order.append(left[gone])
        errors.append(errors[-1] + float(losses[gone]))
        step, stay = inverse[gone] / inverse[gone, gone], np.arange(len(left)) != gone
        weights = (weights - np.outer(weights[:, gone], step))[:, stay]
        inverse = inverse[stay][:, stay] - np.outer(inverse[stay, gone], step[stay])
        left = left[stay]
    return np.array(order, dtype=np.int64), np.array(errors)


def _cost(weights: Mapping[str, np.ndarray], block: int) -> float:
    """Return about what a channel of a block costs: multiplications, and numbers that are moved."""
    before, after = (_SIDE if number == 0 else block_shape(number)[1] for number in (block, block + 1))
    outputs, _, size, _ = weights[f"_blocks.{block}._depthwise_conv.weight"].shape
    inside = weights[f"_blocks.{block}._expand_conv.weight"].size / outputs
    outside = weights[f"_blocks.{block}._project_conv.weight"].size / outputs
    return float(before**2 * (inside + _MOVED) + after**2 * (4 * size**2 + outside + _MOVED))


def _without(weights: Mapping[str, np.ndarray], block: _Block, number: int) -> dict[str, np.ndarray]:
    """Return the weights of a block without its first channels to go, the last convolution refitted to those that stay."""
    if not number:
        return {}
    gone = block.order[:number]
    kept = np.setdiff1d(np.arange(len(block.mean)), gone)
    rows = ["_expand_conv.weight", "_depthwise_conv.weight"]
    rows += [
        f"{norm}.{part}" for norm in ("_bn0", "_bn1") for part in ("weight", "bias", "running_mean", "running_var")
    ]
    small = {f"{block.prefix}{name}": weights[f"{block.prefix}{name}"][kept] for name in rows}
    last = weights[f"{block.prefix}_project_conv.weight"][:, :, 0, 0].astype(np.float64)
    shares = np.linalg.solve(block.covariance[np.ix_(kept, kept)], block.covariance[np.ix_(kept, gone)])
    refitted = last[:, kept] + last[:, gone] @ shares.T
    moved = last @ block.mean - refitted @ block.mean[kept]
    small[f"{block.prefix}_project_conv.weight"] = refitted[:, :, None, None].astype(np.float32)
    small[f"{block.prefix}_bn2.running_mean"] = weights[f"{block.prefix}_bn2.running_mean"] - moved.astype(np.float32)
    return small


# -------------------------------------------------------------------------------------------------------------- layers


class LayerCuts(Cuts):
    """Layers taken out of a transformer, always the one without which the embeddings move least."""

    def __init__(self, tower: LibraryTower, name: str, media: Sequence[Media]) -> None:
        """Order the layers.

        Args:
            tower: the network, nothing of it frozen.
            name: of the encoder, for messages.
            media: by which layers are judged.

        Raises:
            EncoderError: its layers are not alike, so that the network needs each, or there is but one.
        """
        self._tower, self.kind, self.options = tower, tower.kind, tower.options
        self.levels = tower.blocks - 1
        if not self.levels or not tower.alike:
            raise EncoderError(
                f"nothing can be taken out of {name}: channels are cut from the pictures' network of the encoder 'offline', "
                f"layers from transformers, and the {tower.blocks} blocks of this network "
                "are not alike, so that each needs the one before it. Run it in 8-bit integers instead (NAME,int8)"
            )
        stored = [stack([one]) for one in tower.stored(media)]
        whole = list(range(tower.blocks))
        expected = self._vectors(whole, stored)
        self._gone: list[int] = []
        for _ in range(self.levels):
            left = [layer for layer in whole if layer not in self._gone]
            cosines = {
                layer: float((self._vectors([one for one in left if one != layer], stored) * expected).sum())
                for layer in left
            }
            self._gone.append(max(cosines, key=lambda layer: cosines[layer]))

    def _vectors(self, layers: Sequence[int], stored: Sequence[Mapping[str, Tensor]]) -> Float[np.ndarray, "media dim"]:
        with self._tower.only(layers), torch.inference_mode():
            return unit_rows(np.concatenate([self._tower(**one).numpy() for one in stored]))

    def write(self, level: int, folder: Path) -> None:
        """Write the network without so many layers."""
        gone = self._gone[:level]
        with self._tower.only([layer for layer in range(self._tower.blocks) if layer not in gone]):
            self._tower.save(folder)
