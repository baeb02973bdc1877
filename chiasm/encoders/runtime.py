"""How a network is run: an ONNX graph by ONNX Runtime, a PyTorch module by ONNX Runtime on a CPU and PyTorch on a GPU.

On a CPU a PyTorch module is exported once to ONNX, checked against PyTorch on random inputs and kept in the cache. From
then on PyTorch is not even imported, which matters to a command line. What is an ONNX graph from the start (`Graph`)
never needs it. Either kind may be quantised to int8 (`chiasm.encoders.int8`), for CPUs. Small batches run side by side, one core each:
their activations stay in a core's cache and no core waits for another, which is up to twice as fast on two cores as
sharing each large batch between them. So `Network.run` takes many small batches at once. On a GPU it is one large batch
after the other, and autocast for a PyTorch module.

What goes into a network and what its output means is left to the encoders.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Int

from chiasm._optional import require, torch_is_missing
from chiasm.cores import usable_cores
from chiasm.encoders import int8
from chiasm.encoders.cache import fingerprint, make_once, notes_of
from chiasm.errors import EncoderError
from chiasm.vectors import unit_rows

if TYPE_CHECKING:
    import onnx
    import torch

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)
Arrays: TypeAlias = Mapping[str, np.ndarray]
Examples: TypeAlias = Callable[[bool], Sequence[Arrays]]
"""Gives inputs like those of users, a batch each: to quantise a network by, or, if true, others to measure it by."""

TOLERANCE = 1e-4
"""Largest difference between ONNX Runtime and PyTorch, as a share of the largest absolute value of PyTorch's output.

Float32 rounding in another order gives about 1e-6 here; a wrongly exported operator gives 1e-2 and more.
"""

LEAST_COSINE = 0.95
"""Mean cosine of the vectors in int8 to those in float32 below which int8 is refused."""

_OPSET = 18
_CUDA = "CUDAExecutionProvider"
_ROWS = (2, 64)  # pictures or windows of sound in a batch: where each core has its own, and on a GPU
_TOKENS = (256, 16_384)  # tokens in a batch, with padding, likewise


class _NotExportable(Exception):  # noqa: N818  it is no error where PyTorch can take over
    """Why a network cannot be run by ONNX Runtime."""


@dataclass(frozen=True)
class Graph:
    """An ONNX graph before it is loaded.

    Attributes:
        name: for messages and for people who look into the cache.
        key: hex digest of all that determines the output: weights, architecture, pre- and postprocessing inside.
        build: makes the graph, with one output, a row an input. Called once, then the graph is in the cache.
        dim: numbers of the output an input.
    """

    name: str
    key: str
    build: Callable[[], onnx.ModelProto]
    dim: int


@dataclass(frozen=True)
class Blueprint:
    """A PyTorch module before it is loaded: enough to name it, to build it and to try it.

    Attributes:
        name: for messages and for people who look into the cache.
        key: hex digest of all that determines the output: weights, architecture, pre- and postprocessing inside.
        build: makes the module, in float32 on the CPU. It takes its inputs as positional arguments in the order of
            `axes` and returns one tensor, a row an input. Called only for an export or where PyTorch runs the network.
        axes: names of the inputs and of those of their axes, from the first on, whose size may change from call to
            call. The first is the batch.
        sample: random inputs for a batch of the given size, for the export and its check. Sizes of further axes should
            differ from call to call.
        dim: numbers of the output an input.
    """

    name: str
    key: str
    build: Callable[[], torch.nn.Module]
    axes: Mapping[str, tuple[str, ...]]
    sample: Callable[[int, np.random.Generator], Arrays]
    dim: int


class Network:
    """A network that can be run. Making one is cheap: it is loaded by the first `run`, from any thread."""

    def __init__(
        self, blueprint: Blueprint | Graph, *, device: Device = "auto", examples: Examples | None = None
    ) -> None:
        """Choose how to run.

        Args:
            blueprint: of the network.
            device: `"auto"` is the GPU if there is one that PyTorch (for a `Graph` ONNX Runtime) can use, else the CPU.
                There ONNX Runtime runs it, or PyTorch (with a warning) where it cannot be exported or the export does
                not give the same answers.
            examples: for a network in int8, which runs on the CPU; None: it is in float32.

        Raises:
            EncoderError: there is no such device, or int8 was asked for on a GPU.
        """
        self.blueprint = blueprint
        self.device = check_device(device)
        self._examples = examples
        if examples is not None and device == "cuda":
            raise EncoderError(
                f"int8 is for CPUs, and {blueprint.name} was to run in it on device='cuda'. Use device='cpu' or 'auto', or "
                "leave int8 out: on a GPU networks run in half precision"
            )
        self._runner: _OnnxRuntime | _PyTorch | None = None
        self._loading = Lock()

    def run(self, batches: Sequence[Arrays]) -> list[Float[np.ndarray, "batch dim"]]:
        """Return the outputs (float32) of several batches, in order. Safe to call from several threads.

        Raises:
            EncoderError: the network cannot be loaded on this device, or its output has another shape than it says.
        """
        outputs = self._loaded().run(batches)
        for output in outputs:
            if output.ndim != 2 or output.shape[1] != self.blueprint.dim:
                raise EncoderError(
                    f"{self.blueprint.name} gave an output of shape {output.shape}, and its configuration says "
                    f"{self.blueprint.dim} numbers an input. A model of this kind is not supported"
                )
        return outputs

    def run_rows(self, inputs: Arrays) -> Float[np.ndarray, "rows dim"]:
        """Return the outputs of inputs of one size, in batches that fit how the network runs."""
        size = self._size(_ROWS)
        count = len(next(iter(inputs.values())))
        batches = [{name: rows[at : at + size] for name, rows in inputs.items()} for at in range(0, count, size)]
        return np.concatenate(self.run(batches))

    def run_tokens(
        self, lengths: Sequence[int], padded: Callable[[Sequence[int]], Arrays]
    ) -> Float[np.ndarray, "texts dim"]:
        """Return the outputs of texts, those of like length in one batch, so that little is padding.

        Args:
            lengths: tokens of each text.
            padded: gives the inputs of some texts, by number, padded to the longest of them.
        """
        groups = groups_of_like_length(lengths, self._size(_TOKENS))
        vectors = np.empty((len(lengths), self.blueprint.dim), np.float32)
        for group, output in zip(groups, self.run([padded(group) for group in groups]), strict=True):
            vectors[group] = output
        return vectors

    def graph(self) -> bytes:
        """Return its ONNX graph, in int8 where it runs in that, with the weights inside.

        Raises:
            EncoderError: it has none, or cannot be quantised.
        """
        import onnx

        assert isinstance(self.blueprint, Graph)
        examples = self._examples
        path = _written(self.blueprint) if examples is None else _quantised(self.blueprint, examples)
        content: bytes = onnx.load(path).SerializeToString()
        return content

    def cosine(self) -> float | None:
        """Return the mean cosine between the vectors in int8 and in float32, measured when the former was made.

        None: it is not in int8, or it has not been made on this machine yet.
        """
        notes = None if self._examples is None else notes_of(*_int8_place(self.blueprint))
        return None if notes is None else float(notes["cosine"])

    def _size(self, sizes: tuple[int, int]) -> int:
        small, large = sizes
        return small if self._loaded().side_by_side else large

    def _loaded(self) -> _OnnxRuntime | _PyTorch:
        with self._loading:
            if self._runner is None:
                self._runner = self._load()
            return self._runner

    def _load(self) -> _OnnxRuntime | _PyTorch:
        if self._examples is not None:
            return _OnnxRuntime(_quantised(self.blueprint, self._examples), "cpu")
        if isinstance(self.blueprint, Graph):
            return _OnnxRuntime(_written(self.blueprint), self.device)
        if self.device == "cuda" or (self.device == "auto" and has_gpu()):
            return _PyTorch(self.blueprint, "cuda")
        try:
            return _OnnxRuntime(_exported(self.blueprint), "cpu")
        except _NotExportable as reason:
            warnings.warn(
                f"{self.blueprint.name} is run by PyTorch, slower on a CPU than ONNX Runtime: {reason}",
                RuntimeWarning,
                stacklevel=4,
            )
            return _PyTorch(self.blueprint, "cpu")


class _PyTorch:
    """The module itself, in half precision on a GPU."""

    side_by_side = False

    def __init__(self, blueprint: Blueprint, device: str) -> None:
        require("torch", "huggingface", f"run {blueprint.name}")
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise EncoderError(
                "device='cuda' was asked for, and PyTorch sees no CUDA GPU. Use device='cpu' or 'auto', or install a "
                "PyTorch that is built for the GPU's driver"
            )
        self.device = device
        self.module = blueprint.build().eval().to(device)
        self.inputs = tuple(blueprint.axes)

    def run(self, batches: Sequence[Arrays]) -> list[Float[np.ndarray, "batch dim"]]:
        import torch

        outputs: list[torch.Tensor] = []
        with torch.inference_mode(), half_precision(self.device):
            for batch in batches:
                tensors = [self._moved(torch.from_numpy(batch[name])) for name in self.inputs]
                outputs.append(self.module(*tensors).float())
        return [output.cpu().numpy() for output in outputs]  # after the loop: a GPU is not waited for in between

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor on the device. From pinned memory it is copied to a GPU while that calculates."""
        return tensor.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else tensor


class _OnnxRuntime:
    """A graph: one session. On a CPU its runs take one core each and go on side by side."""

    def __init__(self, network: Path, device: Device) -> None:
        self.session = _session(network, gpu=device != "cpu")
        self.side_by_side = _CUDA not in self.session.get_providers()
        if device == "cuda" and self.side_by_side:
            raise EncoderError(
                "device='cuda' was asked for, and this ONNX Runtime uses no GPU. Use device='cpu' or 'auto', or replace "
                "it: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )
        self.threads = usable_cores() if self.side_by_side else 1

    def run(self, batches: Sequence[Arrays]) -> list[Float[np.ndarray, "batch dim"]]:
        if len(batches) < 2 or self.threads == 1:
            return [self._one(batch) for batch in batches]
        with ThreadPoolExecutor(min(self.threads, len(batches)), thread_name_prefix="chiasm-onnx") as pool:
            return list(pool.map(self._one, batches))

    def _one(self, batch: Arrays) -> Float[np.ndarray, "batch dim"]:
        output: Float[np.ndarray, "batch dim"] = self.session.run(None, dict(batch))[0]
        return output


def half_precision(device: str) -> AbstractContextManager[Any]:
    """Return what makes PyTorch calculate in half precision on a GPU; on a CPU it changes nothing."""
    if device != "cuda":
        return nullcontext()
    import torch

    # bf16 has the range of float32; fp16 is for GPUs that would only emulate bf16.
    fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast("cuda", torch.bfloat16 if fast else torch.float16)


def check_device(device: Device) -> Device:
    """Return the device; raise `EncoderError` where there is none of this name."""
    if device not in DEVICES:
        raise EncoderError(f"the device must be one of {', '.join(DEVICES)}; got {device!r}")
    return device


def pad(rows: Sequence[Sequence[int]], value: int = 0) -> Int[np.ndarray, "rows longest"]:
    """Return rows of numbers as one matrix, int64, with the value on the right of those that are shorter."""
    matrix = np.full((len(rows), max(map(len, rows))), value, np.int64)
    for place, numbers in zip(matrix, rows, strict=True):
        place[: len(numbers)] = numbers
    return matrix


def groups_of_like_length(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group rows of like length, longest first, at most `budget` tokens with padding (or one row) a group."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # The first row of a group is its longest, and the others are padded to it.
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU. It is imported, which takes a second, only where the driver knows of one."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return False
    if torch_is_missing():
        return False
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return False
    import torch

    return torch.cuda.is_available()


def _session(network: Path | bytes, *, gpu: bool = False, save_to: Path | None = None) -> Any:
    """Return an ONNX Runtime session on one core, or on the GPU if it may and there is one.

    With `save_to`, also write the simplified graph and its weights. Weights of their own file are mapped into memory,
    not parsed: a 90 MB text model is ready in 0.13 s, not in 0.35 s.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are about what it could not optimise
    if save_to is not None:
        # Only what holds on any machine is saved; the rest is done at each load.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(save_to)
        weights = save_to.with_suffix(".weights").name
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    providers = [_CUDA] if gpu and _CUDA in onnxruntime.get_available_providers() else []
    source = network if isinstance(network, bytes) else str(network)
    return onnxruntime.InferenceSession(source, options, providers=[*providers, "CPUExecutionProvider"])


def _written(graph: Graph) -> Path:
    """Return the file of a graph in the cache, simplified once."""
    version = importlib.metadata.version("onnxruntime")

    def write(folder: Path) -> dict[str, str]:
        try:
            _session(graph.build().SerializeToString(), save_to=folder / "network.onnx")
        except (EncoderError, OSError):
            raise  # a full disk says nothing about the network
        except Exception as error:  # the runtime raises anything
            raise EncoderError(f"ONNX Runtime {version} cannot run {graph.name}: {error}") from error
        return {"name": graph.name, "fingerprint": graph.key, "onnxruntime": version}

    return make_once("networks", graph.name, fingerprint(graph.key, version), write)[0] / "network.onnx"


def in_int8(key: str) -> str:
    """Return the key of a network in int8, by that of the one in float32."""
    return fingerprint(key, "int8", int8.VERSION)


def _int8_place(blueprint: Blueprint | Graph) -> tuple[str, str, str]:
    """Return where in the cache a network in int8 is."""
    version = importlib.metadata.version("onnxruntime")
    return "networks", f"{blueprint.name}-int8", fingerprint(in_int8(blueprint.key), version)


def _quantised(blueprint: Blueprint | Graph, examples: Examples) -> Path:
    """Return the file of a network in int8 in the cache.

    Raises:
        EncoderError: it has no graph to quantise, or its vectors are too far from those of float32.
    """
    refusal = f"{blueprint.name} cannot be run in int8: %s. Leave int8 out"

    def write(folder: Path) -> dict[str, str]:
        try:
            network = _written(blueprint) if isinstance(blueprint, Graph) else _exported(blueprint)
        except _NotExportable as reason:
            raise EncoderError(refusal % f"it has no ONNX graph, {reason}") from reason
        try:
            int8.quantise(network, folder / "network.onnx", examples(False))
            cosines = _cosines(_session(network), _session(folder / "network.onnx"), examples(True))
        except (EncoderError, OSError):
            raise  # a full disk says nothing about the network
        except Exception as error:  # the quantiser and the runtime raise anything
            words = f"quantising it failed ({type(error).__name__}: {str(error).strip()[:300]})"
            raise EncoderError(refusal % words) from error
        notes = {"name": blueprint.name, "fingerprint": blueprint.key, "examples": str(len(cosines))}
        if not cosines.mean() >= LEAST_COSINE:  # not "less": it may be NaN
            (folder / "network.onnx").unlink()
        return {**notes, "cosine": f"{cosines.mean():.6f}", "lowest": f"{cosines.min():.6f}"}

    folder, notes = make_once(*_int8_place(blueprint), write)
    if not float(notes["cosine"]) >= LEAST_COSINE:
        raise EncoderError(
            refusal
            % f"its vectors have a mean cosine of {float(notes['cosine']):.3f} to those of float32, and {LEAST_COSINE} is the least"
        )
    return folder / "network.onnx"


def _cosines(session: Any, other: Any, batches: Sequence[Arrays]) -> Float[np.ndarray, " rows"]:
    """Return the cosine between the answers of two networks to each row."""
    answers = (np.concatenate([one.run(None, dict(batch))[0] for batch in batches]) for one in (session, other))
    first, second = (unit_rows(vectors) for vectors in answers)
    cosines: Float[np.ndarray, " rows"] = (first * second).sum(axis=1)
    return cosines


def _exported(blueprint: Blueprint) -> Path:
    """Return the file of an exported module in the cache."""
    if torch_is_missing():
        require("torch", "huggingface", f"run {blueprint.name}")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "onnxruntime")}
    key = fingerprint(blueprint.key, str(_OPSET), *versions.values())  # an export belongs to those who checked it
    folder, notes = make_once("networks", blueprint.name, key, lambda folder: _export(blueprint, folder, versions))
    if "refused" in notes:
        raise _NotExportable(notes["refused"])
    return folder / "network.onnx"


def _export(blueprint: Blueprint, folder: Path, versions: Mapping[str, str]) -> dict[str, str]:
    """Write `network.onnx` and `network.weights`, or only a note that the check refused them."""
    import torch

    notes = {"name": blueprint.name, "fingerprint": blueprint.key, **versions}
    module = blueprint.build().eval()
    raw = folder / "raw"
    raw.mkdir()
    try:
        example = blueprint.sample(2, np.random.default_rng(0))
        with torch.inference_mode(), _quiet_exporter():
            torch.onnx.export(
                module,
                tuple(torch.from_numpy(example[name]) for name in blueprint.axes),
                str(raw / "network.onnx"),
                input_names=list(blueprint.axes),
                output_names=["embedding"],
                dynamic_axes={
                    **{name: dict(enumerate(axes)) for name, axes in blueprint.axes.items()},
                    "embedding": {0: "batch"},
                },
                opset_version=_OPSET,
                dynamo=False,  # the exporter by tracing needs no further package, and the check below judges it
            )
        _session(raw / "network.onnx", save_to=folder / "network.onnx")
        difference = _difference(blueprint, module, _session(folder / "network.onnx"))
    except OSError:
        raise  # a full disk says nothing about the network
    except Exception as error:
        # Exporter and runtime raise anything. Nothing is kept: the cause may be gone at the next start.
        raise _NotExportable(f"the export failed ({type(error).__name__}: {str(error).strip()[:300]})") from error
    finally:
        shutil.rmtree(raw)
    notes["difference"] = f"{difference:.2e}"
    if not difference <= TOLERANCE:  # not "greater": it may be NaN
        for file in folder.iterdir():
            file.unlink()
        notes["refused"] = f"its export differs from PyTorch by {difference:.1e}, and {TOLERANCE:.0e} is allowed"
    return notes


def _difference(blueprint: Blueprint, module: torch.nn.Module, session: Any) -> float:
    """Return the largest absolute difference over batches of several sizes, as a share of the largest absolute value."""
    import torch

    generator = np.random.default_rng(1)
    worst = 0.0
    for rows in (1, 2, 5):
        batch = blueprint.sample(rows, generator)
        with torch.inference_mode():
            expected = module(*(torch.from_numpy(batch[name]) for name in blueprint.axes)).numpy()
        output = session.run(None, dict(batch))[0]
        if output.shape != expected.shape:
            raise ValueError(f"a batch of {rows} gave the shape {output.shape} and not {expected.shape}")
        worst = max(worst, float(np.abs(output - expected).max() / np.abs(expected).max()))
    return worst


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep back what the exporter says about itself and about what tracing may fix: the check finds what it did fix."""
    from torch.jit._trace import TracerWarning  # torch.jit has it too, but does not say so to type checkers

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are using the legacy TorchScript-based ONNX export")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx\.")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.onnx\.")
        warnings.filterwarnings("ignore", category=TracerWarning)
        yield
