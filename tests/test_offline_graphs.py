"""The ONNX graphs of the offline networks give what PyTorch gives, and are made from their weights without it."""

from __future__ import annotations

import io
import pickle
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.torch_networks import load_sentence_bert
from chiasm.encoders.offline import ImageEncoder, TextEncoder, class_names, image_weights, text_folder
from chiasm.encoders.runtime import Device
from chiasm.encoders.tensors import read_tensors
from chiasm.errors import EncoderError
from chiasm.finetuning.networks import load_efficientnet
from chiasm.types import Image, Text


def saved(tensors: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def largest_difference(values: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(values - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("rows", [1, 5])
def test_pictures_are_what_pytorch_gives(rows: int) -> None:
    encoder = ImageEncoder(image_weights(), class_names(), device="cpu")
    generator = np.random.default_rng(rows)
    pixels = [generator.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8) for _ in range(rows)]
    with torch.inference_mode():
        expected = load_efficientnet(read_tensors(image_weights().read_bytes()))(
            torch.from_numpy(np.concatenate(pixels))
        ).numpy()
    assert largest_difference(encoder.encode_prepared("image", pixels).vectors, expected) < 1e-4


def test_texts_are_what_pytorch_gives() -> None:
    encoder = TextEncoder(text_folder(), device="cpu")
    texts = ["a red car", "Ω", "", "word " * 250, "two lines\nof text"]
    network = load_sentence_bert(text_folder())
    with torch.inference_mode():
        expected = [
            network(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))[0].numpy()
            for ids in encoder._tokens(texts)
        ]
    assert largest_difference(encoder.encode([Text(text) for text in texts]).vectors, np.stack(expected)) < 1e-4


def test_the_weights_are_what_pytorch_reads() -> None:
    tensors = read_tensors(image_weights().read_bytes())
    expected = torch.load(image_weights(), map_location="cpu", weights_only=True)
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], expected[name].numpy()) for name in expected)


def test_the_first_embedding_needs_no_torch(tmp_path: Path) -> None:
    """With an empty cache, in a process in which these cannot be imported."""
    code = (
        f"import os, sys; os.environ['CHIASM_CACHE'] = {str(tmp_path)!r}\n"
        "sys.modules.update(dict.fromkeys(('torch', 'transformers', 'sentence_transformers')))\n"
        "import numpy as np\n"
        "from chiasm.encoders import resolve\n"
        "from chiasm.types import Image, Text\n"
        "image, text, *_ = resolve('offline')\n"
        "print(image.encode([Image(np.zeros((9, 9, 3), np.uint8))]).vectors.shape, text.encode([Text('x')]).vectors.shape)\n"
        "print(image.class_head().weight.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["(1, 1280) (1, 384)", "(1280, 1000)"]


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    """Before anything is made of their content."""
    path = tmp_path / "weights.pth"
    content = bytearray(image_weights().read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    encoder = ImageEncoder(path, class_names(), device="cpu")
    with pytest.raises(EncoderError, match="published weights of EfficientNet-Lite0"):
        encoder.encode([Image(np.zeros((9, 9, 3), np.uint8))])
    with pytest.raises(EncoderError, match="published weights of EfficientNet-Lite0"):
        encoder.class_head()


@pytest.mark.parametrize("damage", ["missing", "no weights", "other"])
def test_text_weights_that_do_not_fit(damage: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    for name in ("config.json", "tokenizer.json"):
        shutil.copy(text_folder() / name, tmp_path)
    weights = load_file(text_folder() / "model.safetensors")
    name = "encoder.layer.3.output.dense.weight"
    if damage == "missing":
        del weights[name]
    elif damage == "other":
        weights[name] = weights[name][:, :7]
    save_file(weights, tmp_path / "model.safetensors")
    if damage == "no weights":
        (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(EncoderError, match=r"does not hold the weights|cannot run all-MiniLM-L6-v2"):
        TextEncoder(tmp_path, device="cpu").encode([Text("x")])


@pytest.mark.parametrize("what", ["image", "text"])
def test_a_gpu_that_onnx_runtime_cannot_use_is_said_with_the_command(what: str) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime is built for a GPU")
    device: Device = "cuda"
    with pytest.raises(EncoderError, match="pip install onnxruntime-gpu"):
        if what == "image":
            ImageEncoder(image_weights(), class_names(), device=device).encode([Image(np.zeros((9, 9, 3), np.uint8))])
        else:
            TextEncoder(text_folder(), device=device).encode([Text("x")])


# ------------------------------------------------------------------------------------------------ files of torch.save


def test_tensors_are_read_as_they_were_written() -> None:
    whole = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    turned = whole.permute(2, 0, 1)
    tensors = {"whole": whole, "turned": turned, "part": whole[1, 1:], "count": torch.tensor(7), "row": whole[0, :, 1]}
    result = read_tensors(saved(tensors))
    assert result.keys() == tensors.keys()
    assert all(np.array_equal(result[name], tensor.numpy()) for name, tensor in tensors.items())
    assert (str(result["whole"].dtype), str(result["count"].dtype)) == ("float32", "int64")


class Call:
    """Pickled as a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize(
    "call",
    [
        Call(eval, "1"),
        Call(getattr, OrderedDict, "fromkeys"),
        Call(np.zeros, 3),
        Call(torch.load, "file"),
        Call(pickle.loads, b"N."),
    ],
)
def test_a_pickle_that_calls_anything_is_refused(call: Call, tmp_path: Path) -> None:
    for place in range(3):  # each of the pickles in the file
        parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {}]
        parts[place] = call
        content = b"".join(pickle.dumps(part, protocol=2) for part in parts)
        with pytest.raises(EncoderError, match="is no part of a tensor"):
            read_tensors(content)
    with pytest.raises(EncoderError, match="is no part of a tensor"):
        read_tensors(saved({"tensor": torch.zeros(1), "other": call}))


@pytest.mark.parametrize(
    "tensors",
    [
        {"half": torch.zeros(2, dtype=torch.float16)},
        {"bytes": torch.zeros(2, dtype=torch.uint8)},
        {"parameter": torch.nn.Parameter(torch.zeros(2))},
        {"number": 3},
        [torch.zeros(2)],
    ],
)
def test_what_is_not_a_tensor_of_two_types_is_refused(tensors: Any) -> None:
    with pytest.raises(EncoderError, match="not tensors"):
        read_tensors(saved(tensors))


def test_damaged_files_are_refused() -> None:
    content = saved({"a": torch.arange(6, dtype=torch.float32), "b": torch.ones(3)})
    for cut in range(0, len(content), 7):
        with pytest.raises(EncoderError, match="not tensors"):
            read_tensors(content[:cut])


@pytest.mark.parametrize(
    ("shape", "strides", "offset"), [((7,), (1,), 0), ((2, 2), (5, 1), 0), ((1,), (1,), 6), ((2,), (-1,), 3)]
)
def test_a_tensor_never_goes_beyond_its_numbers(shape: Any, strides: Any, offset: int) -> None:
    """Written as `torch.save` writes it, with a view that PyTorch would refuse."""

    class View:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (storage, offset, shape, strides, False, OrderedDict())

    storage = Stored()

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 6, None) if thing is storage else None

    file = io.BytesIO()
    parts: list[Any] = [0x1950A86A20F9469CFC6C, 1001, {}]
    for part in parts:
        pickle.dump(part, file, protocol=2)
    Pickler(file, protocol=2).dump({"x": View()})
    pickle.dump(["0"], file, protocol=2)
    file.write((6).to_bytes(8, "little") + np.zeros(6, np.float32).tobytes())
    with pytest.raises(EncoderError, match="goes beyond its numbers"):
        read_tensors(file.getvalue())


class Stored:
    """Stands for the storage of a tensor."""
