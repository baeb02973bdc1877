"""One ONNX graph from pixels or tokens to answers, for runtimes in other languages, where a picture is prepared inside as well.

The parts are those of a bundle (`chiasm.verbs.bundles`); this puts them together. The picture is prepared as
`chiasm.predict_script.fit` does it, up to the filter of the runtime: mean differences are below one of 255 steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import compose

from chiasm.encoders.networks import Builder
from chiasm.predict_script import SIDE

_FLOAT, _INT64, _UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.UINT8


def whole_graph(
    parts: Mapping[str, bytes], *, modality: str, outputs: Mapping[str, str], about: Mapping[str, str]
) -> bytes:
    """Return one graph of the parts of a bundle.

    Its inputs are `pixels`, height x width x 3 bytes of one picture of any size; or `input_ids` and `attention_mask`.

    Args:
        parts: of the bundle, by name: `encode/`, `place/` where the answer needs it, and `answer/`.
        modality: `"image"` or `"text"`.
        outputs: of the answer that are kept -> their new names.
        about: kept as metadata of the graph.
    """
    model = compose.add_prefix(
        onnx.load_from_string(parts[f"encode/{modality}.onnx"]), "encode_", rename_inputs=modality == "image"
    )
    embedding = model.graph.output[0].name
    if modality == "image":
        model = _merged(fitted_pixels(), model, {"square": "encode_pixels"}, [embedding])
    known = {modality: embedding}
    for name in ("place", "answer"):
        if f"{name}/{modality}.onnx" in parts:
            other = onnx.load_from_string(parts[f"{name}/{modality}.onnx"])
            needs = {known[one.name]: f"{name}_{one.name}" for one in other.graph.input}
            gives = {one.name: f"{name}_{one.name}" for one in other.graph.output}
            kept = [embedding, *gives.values()] if name == "place" else [gives[one] for one in outputs]
            model = _merged(model, compose.add_prefix(other, f"{name}_"), needs, kept)
            known |= gives
    for one in model.graph.output:
        new = outputs[one.name.removeprefix("answer_")]
        model.graph.node.append(onnx.helper.make_node("Identity", [one.name], [new]))
        one.name = new
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _merged(
    first: onnx.ModelProto, second: onnx.ModelProto, joints: Mapping[str, str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return a graph of two, the outputs of the first led to inputs of the second."""
    versions: dict[str, int] = {}
    for one in (*first.opset_import, *second.opset_import):
        versions[one.domain] = max(versions.get(one.domain, 0), one.version)
    version = max(first.ir_version, second.ir_version)
    for model in (first, second):  # those of the parts are compatible, and the joint graph has one
        del model.opset_import[:]
        model.opset_import.extend(onnx.helper.make_opsetid(domain, number) for domain, number in versions.items())
        model.ir_version = version
    return compose.merge_models(first, second, io_map=[*joints.items()], outputs=[*outputs])


def fitted_pixels(side: int = SIDE) -> onnx.ModelProto:
    """Return the graph of `chiasm.predict_script.fit`: `pixels`, height x width x 3 bytes, to `square`, 1 x side x side x 3."""
    build = Builder("fit_")
    size = build("Cast", build("Shape", "pixels", start=0, end=2), to=_FLOAT)
    scale = build("Div", np.array([side], np.float32), build("ReduceMax", size))
    scaled = build("Max", build("Round", build("Mul", size, scale)), np.array([1], np.float32))
    scaled = build("Cast", scaled, to=_INT64)
    rows = build("Unsqueeze", build("Transpose", build("Cast", "pixels", to=_FLOAT), perm=(2, 0, 1)), np.array([0]))
    sizes = build("Concat", np.array([1, 3]), scaled, axis=0)
    picture = build(
        "Resize", rows, "", "", sizes, mode="cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1
    )  # Pillow's
    picture = build("Clip", build("Round", picture), np.array(0, np.float32), np.array(255, np.float32))
    places = [(axis, np.array([place])) for axis in (2, 3) for place in (0, -1)]
    edges = [build("Reshape", build("Gather", picture, one, axis=axis), np.array([1, 3, -1])) for axis, one in places]
    border = build("Concat", *edges, axis=2)
    half = build("Add", build("Div", build("Shape", border, start=2), np.array([2])), np.array([1]))
    highest = build("TopK", border, half, axis=2)
    build.nodes[-1].output.append(f"{highest}_places")
    middle = build("Slice", highest, np.array([-2]), np.array([2**31]), np.array([2]))  # of an even number
    colour = build("Unsqueeze", build("Floor", build("ReduceMean", middle, np.array([2]))), np.array([3]))
    free = build("Sub", np.array([side, side]), scaled)
    before = build("Div", free, np.array([2]))
    none = np.array([0, 0])
    pads = build("Concat", none, before, none, build("Sub", free, before), axis=0)
    square = build("Add", build("Pad", build("Sub", picture, colour), pads), colour)
    square = build("Cast", build("Transpose", square, perm=(0, 2, 3, 1)), to=_UINT8)
    build("Reshape", square, np.array([1, side, side, 3]), output="square")
    described = onnx.helper.make_tensor_value_info("square", _UINT8, (1, side, side, 3))
    return build.model_of([described], {"pixels": (_UINT8, ("height", "width", 3))})
