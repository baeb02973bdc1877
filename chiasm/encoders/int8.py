"""Networks in 8-bit integers: a graph of ONNX to a smaller and faster one with nearly the same answers.

Which kind a network needs follows from where its weights are.

- In convolutions: what flows between layers has fixed ranges, taken from examples (Jacob et al. 2018, arXiv:1712.05877), by
  ONNX Runtime's own quantiser.
- In matrices: every row that is multiplied by one, e.g. of a token, is scaled by its own largest value (Yao et al. 2022,
  arXiv:2206.01861). ONNX Runtime's quantiser has one scale a batch, so that a vector would depend on its neighbours; its
  vectors are further from those of float32 as well, and no faster.

Either way each output channel of a weight has its own scale. How much the answers differ is measured by `runtime`; examples
are in `examples`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int8

if TYPE_CHECKING:
    import onnx

    from chiasm.encoders.networks import Builder

VERSION = "1"  # of everything here and in `examples` that changes a graph

_MICROSOFT = "com.microsoft"  # the domain of ONNX Runtime's own operators
_ZERO = np.array(128, np.uint8)  # stands for 0 in what flows: unsigned times signed is what CPUs are fastest at


def quantise(network: Path, target: Path, examples: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Write a network of float32 in int8.

    Args:
        network: an ONNX file, simplified.
        target: the new file.
        examples: inputs like those of users, a batch each.
    """
    import onnx

    model = onnx.load(network)
    if _convolves(model):
        _quantise_convolutions(model, target, examples)
    else:
        _quantise_matrices(model)
        onnx.save(model, target)


def _convolves(model: onnx.ModelProto) -> bool:
    """Return whether more of a network's weights are in convolutions than in matrices."""
    sizes = {constant.name: int(np.prod(constant.dims)) for constant in model.graph.initializer}
    weights = {"Conv": 0, "MatMul": 0, "Gemm": 0}
    for node in model.graph.node:
        if node.op_type in weights:
            weights[node.op_type] += sizes.get(node.input[1], 0)
    return weights["Conv"] > weights["MatMul"] + weights["Gemm"]


def _quantise_convolutions(model: onnx.ModelProto, target: Path, examples: Sequence[Mapping[str, np.ndarray]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out the examples."""

        left = iter(examples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else dict(batch)

    add_pre_process_metadata(model)  # it is simplified already
    # Ranges are the extremes. Percentiles take four times as long and bring EfficientNet no closer to float32.
    quantize_static(
        model, target, Reader(), per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8
    )


def _quantise_matrices(model: onnx.ModelProto) -> None:
    """Replace the products with constant matrices, and the tables of vectors, by such in int8."""
    import onnx

    from chiasm.encoders.networks import Builder

    graph = model.graph
    tables = {
        constant.name: onnx.numpy_helper.to_array(constant)
        for constant in graph.initializer
        if constant.data_type == onnx.TensorProto.FLOAT and len(constant.dims) == 2
    }
    build = Builder("int8_")
    rows: dict[str, tuple[str, str, str]] = {}  # what several matrices are multiplied by is scaled once
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in tables:
            weights, name = tables[node.input[1]], node.input[0]
            if name not in rows:
                rows[name] = _scaled(build, name, weights.shape[0])
            _multiply(build, rows[name], weights, node.output[0])
        elif node.op_type == "Gather" and node.input[0] in tables and not any(one.i for one in node.attribute):
            values, scales = _int8(tables[node.input[0]].T)
            vectors = build("Cast", build("Gather", values.T, node.input[1]), to=onnx.TensorProto.FLOAT)
            build("Mul", vectors, build("Gather", scales[:, None], node.input[1]), output=node.output[0])
        else:
            build.nodes.append(node)
    used = {name for node in build.nodes for name in node.input}
    constants = [*(one for one in graph.initializer if one.name in used), *build.constants]
    for field, content in ((graph.node, build.nodes), (graph.initializer, constants)):
        kept = list(content)
        del field[:]
        field.extend(kept)
    if all(one.domain != _MICROSOFT for one in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))


def _scaled(build: Builder, name: str, size: int) -> tuple[str, str, str]:
    """Add the rows of a tensor in int8; return their names, that of their scales and that of the shape before."""
    flat = build("Reshape", name, np.array([-1, size]))
    largest = build("ReduceMax", build("Abs", flat), np.array([1]), keepdims=0)
    scales = build("Div", build("Max", largest, np.array(1e-9, np.float32)), np.array(127, np.float32))
    zeros = build("Expand", _ZERO, build("Shape", scales))
    return build("QuantizeLinear", flat, scales, zeros, axis=0), scales, build("Shape", name, end=-1)


def _multiply(
    build: Builder, rows: tuple[str, str, str], weights: Float[np.ndarray, "rows columns"], output: str
) -> None:
    """Add the product of rows in int8 with a matrix."""
    values, scales, shape = rows
    columns, column_scales = _int8(weights)
    one = np.array(1, np.float32)
    product = build("MatMulIntegerToFloat", values, columns, one, column_scales, _ZERO, domain=_MICROSOFT)
    product = build("Mul", product, build("Unsqueeze", scales, np.array([1])))
    build("Reshape", product, build("Concat", shape, np.array([weights.shape[1]]), axis=0), output=output)


def _int8(
    weights: Float[np.ndarray, "rows columns"],
) -> tuple[Int8[np.ndarray, "rows columns"], Float[np.ndarray, " columns"]]:
    """Return a matrix in int8 and the scale of each column."""
    scales = np.maximum(np.abs(weights).max(axis=0) / 127, 1e-12).astype(np.float32)
    return np.round(weights / scales).astype(np.int8), scales
