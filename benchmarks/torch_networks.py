"""The offline text network as a PyTorch module: what tests and benchmarks compare the ONNX graph of `chiasm` with."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional


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
