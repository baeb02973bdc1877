"""Networks in float16: half the size, and what GPUs and other runtimes take; ONNX Runtime's own converter does it."""

from __future__ import annotations

import numpy as np
import onnx

from chiasm.errors import EncoderError
from chiasm.predict_script import SIDE

_LEAST = 0.999  # cosine of vectors in both precisions


def in_half(graph: bytes) -> bytes:
    """Return the graph of an encoder with weights and values in float16; its inputs and outputs stay.

    Raises:
        EncoderError: its vectors become others, such as where values exceed what float16 holds.
    """
    import onnxruntime
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True)
    half: bytes = model.SerializeToString()
    feeds = _examples([one.name for one in model.graph.input])
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    whole, other = (
        onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for content in (graph, half)
    )
    cosines = (whole * other).sum(axis=1) / np.linalg.norm(whole, axis=1) / np.linalg.norm(other, axis=1)
    if not cosines.min() >= _LEAST:  # nor NaN
        raise EncoderError(
            f"in float16 its vectors are others (cosine {cosines.min():.4f}, {_LEAST} is asked for): export it without fp16"
        )
    return half


def _examples(inputs: list[str]) -> dict[str, np.ndarray]:
    """Return inputs of an encoder of pictures or of texts: noise from coarse to fine, or some tokens."""
    rng = np.random.default_rng(0)
    if inputs == ["pixels"]:
        sides = (1, 7, 32, SIDE)
        squares = [np.kron(rng.integers(0, 256, (n, n, 3)), np.ones((SIDE // n, SIDE // n, 1))) for n in sides]
        return {"pixels": np.stack(squares).astype(np.uint8)}
    tokens = rng.integers(1000, 2000, (4, 32))
    return {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
