"""The networks of the offline encoders as ONNX graphs, written from published weights without PyTorch.

Each takes weights and returns the whole graph, preprocessing of arrays and pooling inside. Where weights are is left to
`offline`, how graphs are run to `runtime`. The tests compare both with PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

_OPSET, _IR = 20, 9  # the first opset with Gelu

# Repeats, kernel, stride of the first block, expansion, output channels (Tan & Le 2019, table 1).
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
BLOCKS = sum(repeats for repeats, *_ in STAGES)
NORM_EPSILON = 1e-3  # of EfficientNet


class Builder:
    """A graph in the making, nodes in the order of their calculation.

    Args:
        prefix: of all names, where nodes come into a graph that is there.
    """

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def __call__(self, operator: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any) -> str:
        """Add a node, with the arrays among its inputs as constants; return the name of its output."""
        names = [name if isinstance(name, str) else self._constant(name) for name in inputs]
        output = output or f"{self._prefix}{operator}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def model(self, output: str, dim: int, inputs: Mapping[str, tuple[int, tuple[str | int, ...]]]) -> onnx.ModelProto:
        """Return the model. Inputs have an element type and a shape, where names stand for sizes that vary."""
        described = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ("batch", dim))
        return self.model_of([described], inputs)

    def model_of(
        self, outputs: Sequence[onnx.ValueInfoProto], inputs: Mapping[str, tuple[int, tuple[str | int, ...]]]
    ) -> onnx.ModelProto:
        """Return the model of several outputs, see `model`."""
        describe = onnx.helper.make_tensor_value_info
        described = [describe(name, kind, shape) for name, (kind, shape) in inputs.items()]
        graph = onnx.helper.make_graph(self.nodes, "network", described, outputs, self.constants)
        return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR)

    def _constant(self, array: np.ndarray) -> str:
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def efficientnet_lite0(
    weights: Mapping[str, np.ndarray],
    *,
    blocks: int | None = None,
    stages: Sequence[tuple[int, ...]] = STAGES,
    side: int = 224,
    pooled: bool = True,
) -> onnx.ModelProto:
    """Return EfficientNet-Lite0: `pixels`, batch x 224 x 224 x 3 bytes, to 1280 pooled features.

    EfficientNet-B0 (Tan & Le 2019, arXiv:1905.11946) without squeeze-and-excitation and with ReLU6 in the place of
    swish. The weights were converted from TensorFlow and need its "same" padding: with the symmetric padding that is
    usual in PyTorch they recognise clearly less.

    Args:
        weights: named as in the published `efficientnet-lite0-*.pth`.
        blocks: stop behind the first so many, at least 1, and give the output of the last of them as one row.
        stages: of another network of the series.
        side: pixels of the input, a multiple of 32.
        pooled: give the mean over the places of the last map; else all of the map as one row, channel by channel.

    Raises:
        KeyError: a weight is missing.
    """
    graph = Builder()
    pixels = graph("Cast", graph("Transpose", "pixels", perm=(0, 3, 1, 2)), to=onnx.TensorProto.FLOAT)
    x = graph("Div", graph("Sub", pixels, _floats(127)), _floats(128))
    x = _convolve(graph, x, weights, "_conv_stem", "_bn0", stride=2)
    number, channels = 0, 32
    inputs = {"pixels": (onnx.TensorProto.UINT8, ("batch", side, side, 3))}
    for repeats, _, first_stride, expansion, width in stages:
        for repeat in range(repeats):
            block, stride = f"_blocks.{number}.", first_stride if repeat == 0 else 1
            y = x if expansion == 1 else _convolve(graph, x, weights, f"{block}_expand_conv", f"{block}_bn0")
            y = _convolve(graph, y, weights, f"{block}_depthwise_conv", f"{block}_bn1", stride=stride)
            y = _convolve(graph, y, weights, f"{block}_project_conv", f"{block}_bn2", bounded=False)
            x = graph("Add", x, y) if stride == 1 and channels == width else y
            number, channels = number + 1, width
            if number == blocks:
                return graph.model(graph("Flatten", x), int(np.prod(block_shape(number))), inputs)
    x = _convolve(graph, x, weights, "_conv_head", "_bn1")
    if not pooled:
        return graph.model(graph("Flatten", x), 1280 * (side // 32) ** 2, inputs)
    features = graph("Flatten", graph("GlobalAveragePool", x))
    return graph.model(features, 1280, inputs)


def block_shape(blocks: int) -> tuple[int, int, int]:
    """Return channels, height and width behind so many blocks of EfficientNet-Lite0.

    Example:
        >>> block_shape(11)
        (112, 14, 14)
    """
    strides = [stride if repeat == 0 else 1 for repeats, _, stride, _, _ in STAGES for repeat in range(repeats)]
    widths = [width for repeats, *_, width in STAGES for _ in range(repeats)]
    side = 112 // int(np.prod(strides[:blocks]))
    return widths[blocks - 1], side, side


def _convolve(
    graph: Builder,
    x: str,
    weights: Mapping[str, np.ndarray],
    name: str,
    norm: str,
    *,
    stride: int = 1,
    bounded: bool = True,
) -> str:
    """Add a convolution with its normalisation multiplied in and, if it is bounded, ReLU6."""
    kernels = weights[f"{name}.weight"]
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + NORM_EPSILON)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    outputs, inputs, size, _ = kernels.shape
    before, after = (
        (size - stride) // 2,
        (size - stride + 1) // 2,
    )  # TensorFlow's for even sides: the odd pixel goes last
    y = graph(
        "Conv",
        x,
        kernels * scale[:, None, None, None],
        bias,
        strides=(stride, stride),
        pads=(before, before, after, after),
        group=outputs if inputs == 1 else 1,
    )
    return graph("Clip", y, _floats(0), _floats(6)) if bounded else y


def sentence_bert(weights: Mapping[str, np.ndarray], *, layers: int, heads: int, epsilon: float) -> onnx.ModelProto:
    """Return a BERT encoder: `input_ids` and `attention_mask` to the mean of its last states, scaled to length 1.

    BERT is Devlin et al. 2019 (arXiv:1810.04805), its use for sentences Reimers & Gurevych 2019 (arXiv:1908.10084). The
    mean is over tokens, where the mask is 1; padding has 0.

    Args:
        weights: named as in the files of transformers.
        layers: their number.
        heads: of attention, in each layer.
        epsilon: of the layer normalisations.

    Raises:
        KeyError: a weight is missing.
    """
    graph = Builder()

    def normalise(x: str, name: str) -> str:
        scale, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return graph("LayerNormalization", x, scale, bias, epsilon=epsilon)

    def linear(x: str, name: str) -> str:
        return graph("Add", graph("MatMul", x, weights[f"{name}.weight"].T), weights[f"{name}.bias"])

    words = weights["embeddings.word_embeddings.weight"]
    hidden = words.shape[1]
    # Every text is one segment, the first.
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    tokens = graph("Shape", "input_ids", start=1, end=2)
    x = graph("Add", graph("Gather", words, "input_ids"), graph("Slice", positions, _integers(0), tokens))
    x = normalise(x, "embeddings.LayerNorm")
    mask = graph("Cast", "attention_mask", to=onnx.TensorProto.FLOAT)
    absent = graph("Mul", graph("Sub", _floats(1), mask), _floats(float(np.finfo(np.float32).min)))
    absent = graph("Unsqueeze", absent, _integers(1, 2))
    by_head = np.array([0, 0, heads, hidden // heads])  # zeros keep the sizes of the batch and the tokens
    for number in range(layers):
        layer = f"encoder.layer.{number}."
        attention = f"{layer}attention."
        parts = (linear(x, f"{attention}self.{part}") for part in ("query", "key", "value"))
        query, key, value = (graph("Reshape", part, by_head) for part in parts)
        query = graph("Transpose", query, perm=(0, 2, 1, 3))
        key = graph("Transpose", key, perm=(0, 2, 3, 1))
        value = graph("Transpose", value, perm=(0, 2, 1, 3))
        scores = graph("Mul", graph("MatMul", query, key), _floats((hidden // heads) ** -0.5))
        shares = graph("Softmax", graph("Add", scores, absent), axis=-1)
        mixed = graph("Transpose", graph("MatMul", shares, value), perm=(0, 2, 1, 3))
        mixed = linear(graph("Reshape", mixed, np.array([0, 0, hidden])), f"{attention}output.dense")
        x = normalise(graph("Add", x, mixed), f"{attention}output.LayerNorm")
        y = linear(graph("Gelu", linear(x, f"{layer}intermediate.dense")), f"{layer}output.dense")
        x = normalise(graph("Add", x, y), f"{layer}output.LayerNorm")
    # The sum and the mean have the same direction.
    total = graph("Squeeze", graph("MatMul", graph("Unsqueeze", mask, _integers(1)), x), _integers(1))
    shape = (onnx.TensorProto.INT64, ("batch", "tokens"))
    return graph.model(
        graph("LpNormalization", total, axis=1, p=2), hidden, {"input_ids": shape, "attention_mask": shape}
    )


def _floats(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def _integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)
