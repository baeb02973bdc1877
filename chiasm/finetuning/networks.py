"""EfficientNet-Lite0 as a PyTorch module, for training; `chiasm.encoders.networks` has the same network as an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from chiasm.encoders.networks import BLOCKS, NORM_EPSILON, STAGES


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: RGB pixels of 224 x 224 to pooled features.

    EfficientNet-B0 (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6 in the place of
    swish. Submodules are named as in the weights that are published as `efficientnet-lite0-*.pth`. These were
    converted from TensorFlow and need its "same" padding: with the symmetric padding that is usual in PyTorch they
    load just as well and recognise clearly less.

    Args:
        hidden: channels inside of each block, which are fewer where some were cut.
    """

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Padded(3, 32, kernel=3, stride=2), _norm(32)
        blocks: list[_Block] = []
        channels = 32
        for repeats, kernel, stride, expansion, width in STAGES:
            for repeat in range(repeats):
                inside = hidden[len(blocks)]
                blocks.append(_Block(channels, inside, width, kernel, stride if repeat == 0 else 1, expansion > 1))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _pointwise(channels, 1280), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pixels: UInt8[Tensor, "batch 224 224 3"]) -> Float[Tensor, "batch 1280"]:
        """Return pooled features. Pixels come as bytes, four times fewer to move, and are normalised here."""
        return self.finish(self.begin(pixels), 0)

    def begin(self, pixels: UInt8[Tensor, "batch 224 224 3"]) -> Float[Tensor, "batch 32 112 112"]:
        """Return what the first block takes."""
        x = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        y: Tensor = functional.relu6(self._bn0(self._conv_stem(x)))
        return y

    def finish(self, x: Float[Tensor, "batch channels height width"], first: int) -> Float[Tensor, "batch 1280"]:
        """Return pooled features of what the block of a number takes; `BLOCKS` is the number of the last convolution."""
        for block in self._blocks[first:BLOCKS]:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    @property
    def head(self) -> tuple[Float[Tensor, "1280 1000"], Float[Tensor, "1000"]]:
        """Weight and bias of the classifier on the pooled features."""
        return self._fc.weight.detach().T.contiguous(), self._fc.bias.detach()


class _Block(nn.Module):
    """Inverted residual: expand, convolve each channel, project; added to its input where the shape stays."""

    def __init__(self, channels: int, hidden: int, width: int, kernel: int, stride: int, expands: bool) -> None:
        super().__init__()
        self.expands = expands
        self.adds = stride == 1 and channels == width
        if self.expands:
            self._expand_conv, self._bn0 = _pointwise(channels, hidden), _norm(hidden)
        self._depthwise_conv, self._bn1 = (
            _Padded(hidden, hidden, kernel=kernel, stride=stride, groups=hidden),
            _norm(hidden),
        )
        self._project_conv, self._bn2 = _pointwise(hidden, width), _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        z: Tensor = self._bn2(self._project_conv(y))
        return x + z if self.adds else z


class _Padded(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for inputs of even height and width: the odd pixel goes last."""

    def __init__(self, channels: int, width: int, *, kernel: int, stride: int, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.symmetric = before == after
        super().__init__(channels, width, kernel, stride, before if self.symmetric else 0, groups=groups, bias=False)
        self.sides = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        # The zero is written out, since only then does ONNX Runtime make the padding a part of the convolution.
        return super().forward(x if self.symmetric else functional.pad(x, self.sides, value=0.0))


def _pointwise(channels: int, width: int) -> nn.Conv2d:
    """A convolution of 1 x 1: of PyTorch's own class, since PEFT makes low-rank copies of no other."""
    return nn.Conv2d(channels, width, 1, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON)


def load_efficientnet(weights: Mapping[str, np.ndarray]) -> EfficientNetLite0:
    """Return the network with weights that are named as the published ones; of these it has its widths."""
    network = EfficientNetLite0([len(weights[f"_blocks.{block}._depthwise_conv.weight"]) for block in range(BLOCKS)])
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})
    # Channels last: PyTorch's other path for depthwise convolutions on a CPU is up to 30 times slower.
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
