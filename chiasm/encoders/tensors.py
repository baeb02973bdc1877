"""The tensors of a file that `torch.save` wrote before PyTorch 1.6, read without PyTorch.

Such a file is a pickle, and a pickle can call any function. This reader knows the few names that tensors need and
refuses every other one. Where such files are, and which of them are trusted, is left to `offline`.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from chiasm.errors import EncoderError

_HEADS = (0x1950A86A20F9469CFC6C, 1001)  # a magic number and the version of the format
_DTYPES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


class _Storage(NamedTuple):
    """The place of a tensor's numbers, which follow the pickle."""

    dtype: str
    key: str


class _Tensor(NamedTuple):
    """The arguments of PyTorch's `_rebuild_tensor_v2`."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    gradient: bool
    hooks: OrderedDict[str, Any]


class _Reader(pickle.Unpickler):
    """Unpickles mappings, numbers, texts and descriptions of tensors."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return name
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a tensor")

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, *_ = pid
        return _Storage(dtype, key)


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Return the tensors of a state dict by name.

    Args:
        content: of a file, as `torch.save(..., _use_new_zipfile_serialization=False)` writes it.

    Raises:
        EncoderError: the content is something else, or holds anything but tensors of float32 and int64.
    """
    file = io.BytesIO(content)
    try:
        heads = tuple(_Reader(file).load() for _ in _HEADS)
        if heads != _HEADS:
            raise pickle.UnpicklingError("it does not begin as such a file does")
        _Reader(file).load()  # the sizes of types in C, where it was written
        tensors: dict[str, _Tensor] = _Reader(file).load()
        dtypes = {tensor.storage.key: _DTYPES[tensor.storage.dtype] for tensor in tensors.values()}
        storages = {}
        for key in _Reader(file).load():
            size = int.from_bytes(file.read(8), "little") * dtypes[key].itemsize
            storages[key] = np.frombuffer(file.read(size), dtypes[key])
        return {name: _array(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except Exception as error:  # a damaged pickle fails in any way
        raise EncoderError(f"these are not tensors as torch.save wrote them before PyTorch 1.6: {error}") from error


def _array(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    _, offset, shape, strides, *_ = tensor
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset < 0 or min(shape, default=1) < 1 or min(strides, default=0) < 0 or last >= len(storage):
        raise ValueError("a tensor goes beyond its numbers")
    return np.lib.stride_tricks.as_strided(
        storage[offset:], shape, [stride * storage.itemsize for stride in strides], writeable=False
    )
