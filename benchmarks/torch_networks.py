"""The offline networks as PyTorch modules: what tests and benchmarks compare the ONNX graphs of `chiasm` with."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

# Repeats, kernel, stride of the first block, expansion, output channels (Tan & Le 2019, table 1).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: RGB pixels of 224 x 224 to pooled features.

    EfficientNet-B0 (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6 in the place of
    swish. Submodules are named as in the weights that are published as `efficientnet-lite0-*.pth`. These were
    converted from TensorFlow and need its "same" padding: with the symmetric padding that is usual in PyTorch they
    load just as well and recognise clearly less.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, kernel=3, stride=2), _norm(32)
        blocks: list[_Block] = []
        channels = 32
        for repeats, kernel, stride, expansion, width in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Block(channels, width, kernel, stride if repeat == 0 else 1, expansion))
                channels = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(channels, 1280), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, pixels: UInt8[Tensor, "batch 224 224 3"]) -> Float[Tensor, "batch 1280"]:
        """Return pooled features. Pixels come as bytes, four times fewer to move, and are normalised here."""
        x = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    @property
    def head(self) -> tuple[Float[Tensor, "1280 1000"], Float[Tensor, "1000"]]:
        """Weight and bias of the classifier on the pooled features."""
        return self._fc.weight.detach().T.contiguous(), self._fc.bias.detach()


class _Block(nn.Module):
    """Inverted residual: expand, convolve each channel, project; added to its input where the shape stays."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expands = expansion > 1
        self.adds = stride == 1 and channels == width
        if self.expands:
            self._expand_conv, self._bn0 = _Conv(channels, hidden), _norm(hidden)
        self._depthwise_conv, self._bn1 = (
            _Conv(hidden, hidden, kernel=kernel, stride=stride, groups=hidden),
            _norm(hidden),
        )
        self._project_conv, self._bn2 = _Conv(hidden, width), _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        z: Tensor = self._bn2(self._project_conv(y))
        return x + z if self.adds else z


class _Conv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding for inputs of even height and width: the odd pixel goes last."""

    def __init__(self, channels: int, width: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.symmetric = before == after
        super().__init__(channels, width, kernel, stride, before if self.symmetric else 0, groups=groups, bias=False)
        self.sides = (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        # The zero is written out, since only then does ONNX Runtime make the padding a part of the convolution.
        return super().forward(x if self.symmetric else functional.pad(x, self.sides, value=0.0))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


@dataclass(frozen=True)
class BertShape:
    """The numbers of a BERT encoder, named as in its `config.json`."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float


_BERT_FILE_NAMES = {  # what the submodules of SentenceBert are called in the files of transformers
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "layers": "encoder.layer",
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mix": "attention.output.dense",
    "mix_norm": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "narrow_norm": "output.LayerNorm",
}


class SentenceBert(nn.Module):
    """A BERT encoder, the mean of its last states over the tokens that are not padding, scaled to length 1.

    BERT is Devlin et al. 2019 (arXiv:1810.04805), its use for sentences Reimers & Gurevych 2019 (arXiv:1908.10084).
    """

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.positions = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.segments = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))

    def forward(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch dim"]:
        """Return sentence embeddings of length 1. The mask is 1 for a token and 0 for padding."""
        positions = self.positions.weight[: input_ids.shape[1]]
        states = self.norm(self.words(input_ids) + positions + self.segments.weight[0])
        mask = attention_mask.to(states.dtype)
        bias = ((1 - mask) * torch.finfo(states.dtype).min)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, bias)
        # In float32 also where autocast runs the layers in half precision.
        states, mask = states.float(), mask.float()
        return functional.normalize((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=1)


class _Layer(nn.Module):
    """Attention and a two-layer perceptron, each added to its input and normalised after it."""

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        hidden, inner = shape.hidden_size, shape.intermediate_size
        self.heads, self.width = shape.num_attention_heads, hidden // shape.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.mix, self.mix_norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden, eps=shape.layer_norm_eps)
        self.widen, self.narrow = nn.Linear(hidden, inner), nn.Linear(inner, hidden)
        self.narrow_norm = nn.LayerNorm(hidden, eps=shape.layer_norm_eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        query, key, value = self._by_head(self.query(x)), self._by_head(self.key(x)), self._by_head(self.value(x))
        weights = (query @ key.transpose(-1, -2) * self.width**-0.5 + bias).softmax(dim=-1)
        x = self.mix_norm(x + self.mix((weights @ value).transpose(1, 2).flatten(2)))
        y: Tensor = self.narrow_norm(x + self.narrow(functional.gelu(self.widen(x))))
        return y

    def _by_head(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        return x.view(batch, tokens, self.heads, self.width).transpose(1, 2)


def load_efficientnet(weights: Path) -> EfficientNetLite0:
    """Return the image network with the published weights."""
    network = EfficientNetLite0()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    # Channels last: PyTorch's other path for depthwise convolutions on a CPU is up to 30 times slower.
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def load_sentence_bert(folder: Path) -> SentenceBert:
    """Return the text network of a folder as transformers writes it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    network = SentenceBert(BertShape(**{field.name: config[field.name] for field in fields(BertShape)}))
    tensors = load_file(folder / "model.safetensors")
    # Files of older versions also hold a pooler and position numbers, which nothing here uses.
    network.load_state_dict({name: tensors[_name_in_file(name)] for name in network.state_dict()})
    return network.eval()


def _name_in_file(name: str) -> str:
    return ".".join(_BERT_FILE_NAMES.get(part, part) for part in name.split("."))
