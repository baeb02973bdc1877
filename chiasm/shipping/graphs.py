"""Recognisers and spaces as ONNX graphs: what happens between embeddings and answers, for one set of modalities each.

Which heads answer, and how, is known once the set is: so a graph has no branches. It is written by expressions on
`Tensor`s; those of the network are the ones that it is trained by (`Network.run`). How pictures and texts become
embeddings is left to the encoders' own graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float, Shaped

from chiasm.alignment.bridge import TEMPERATURE, TOP
from chiasm.encoders.networks import Builder
from chiasm.recognition.columns import Fitted, route
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import Features, Subset
from chiasm.recognition.networks import Network
from chiasm.recognition.unknown import Mahalanobis, UnknownDetector
from chiasm.space import START_SHARE, Space
from chiasm.types import Modality

_WORTH_INT8 = 2**16  # numbers of a matrix
_DOUBLE = onnx.TensorProto.DOUBLE


class Tensor:
    """A value of a graph in the making: what is done with it becomes a node.

    It is calculated beside for one row, too, so that shapes are known. The first axis is of rows, as many as there will be.
    """

    __array_ufunc__ = None  # NumPy's arrays leave the operators to this class

    def __init__(self, graph: GraphOf, name: str, sample: Shaped[np.ndarray, "1 ..."]) -> None:
        self.graph, self.name, self.sample = graph, name, sample

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes; 0 for that of the rows, as `Reshape` has it."""
        return (0, *self.sample.shape[1:])

    def node(self, operator: str, sample: Any, *others: Any, first: bool = False, **attributes: Any) -> Tensor:
        """Add a node on this tensor and others; `first`: these come before it."""
        names = [one.name if isinstance(one, Tensor) else self._constant(one) for one in others]
        inputs = [*names, self.name] if first else [self.name, *names]
        return Tensor(
            self.graph, self.graph.build(operator, *inputs, **attributes), np.asarray(sample, self.sample.dtype)
        )

    def _constant(self, value: Any) -> np.ndarray:
        array = np.asarray(value)
        return array.astype(self.sample.dtype) if array.dtype.kind == "f" or not array.ndim else array

    def __add__(self, other: Any) -> Tensor:
        return self.node("Add", self.sample + _sample(other), other)

    def __radd__(self, other: Any) -> Tensor:
        return self.__add__(other)

    def __sub__(self, other: Any) -> Tensor:
        return self.node("Sub", self.sample - _sample(other), other)

    def __rsub__(self, other: Any) -> Tensor:
        return self.node("Sub", _sample(other) - self.sample, other, first=True)

    def __mul__(self, other: Any) -> Tensor:
        return self.node("Mul", self.sample * _sample(other), other)

    def __rmul__(self, other: Any) -> Tensor:
        return self.__mul__(other)

    def __truediv__(self, other: Any) -> Tensor:
        return self.node("Div", self.sample / _sample(other), other)

    def __pow__(self, exponent: float) -> Tensor:
        return self * self if exponent == 2 else self.node("Pow", self.sample**exponent, exponent)

    def __matmul__(self, matrix: np.ndarray) -> Tensor:
        sample = self.sample @ matrix
        if self.sample.dtype == np.float64 and matrix.size >= _WORTH_INT8:  # kept in half the size
            wide = self.graph.build("Cast", matrix.astype(np.float32), to=_DOUBLE)
            return self.node("MatMul", sample, Tensor(self.graph, wide, matrix))
        if not self.graph.int8 or matrix.size < _WORTH_INT8:
            return self.node("MatMul", sample, matrix)
        scales = np.maximum(np.abs(matrix).max(axis=0) / 127, 1e-12).astype(np.float32)
        small = self.graph.build("Cast", np.round(matrix / scales).astype(np.int8), to=onnx.TensorProto.FLOAT)
        return self.node("MatMul", sample, Tensor(self.graph, small, matrix)).__mul__(scales)

    def __getitem__(self, key: tuple[Any, ...]) -> Tensor:
        _, columns = key
        sample = self.sample[:, columns]
        if columns is None:
            return self.node("Unsqueeze", sample, np.array([1]))
        if not isinstance(columns, slice):
            return self.node("Gather", sample, np.asarray(columns), axis=1)
        first, last, _ = columns.indices(self.sample.shape[1])
        return self.node("Slice", sample, np.array([first]), np.array([last]), np.array([1]))

    def clip(self, min: float) -> Tensor:  # noqa: A002  # NumPy's name
        """Return what is not below a number."""
        return self.node("Max", self.sample.clip(min=min), float(min))

    def reshape(self, *shape: int) -> Tensor:
        """Return the same values in another shape, with the rows as they are."""
        return self.node("Reshape", self.sample.reshape(1, *shape[1:]), np.array(shape))

    def sum(self, axis: int, keepdims: bool = False) -> Tensor:
        """Return sums along an axis."""
        return self._reduced("ReduceSum", self.sample.sum(axis=axis, keepdims=keepdims), axis, keepdims)

    def mean(self, axis: int, keepdims: bool = False) -> Tensor:
        """Return means along an axis."""
        return self._reduced("ReduceMean", self.sample.mean(axis=axis, keepdims=keepdims), axis, keepdims)

    def max(self, axis: int, keepdims: bool = False) -> Tensor:
        """Return the greatest values along an axis."""
        return self._reduced("ReduceMax", self.sample.max(axis=axis, keepdims=keepdims), axis, keepdims)

    def _reduced(self, operator: str, sample: Any, axis: int, keepdims: bool) -> Tensor:
        return self.node(operator, sample, np.array([axis]), keepdims=int(keepdims))

    def exp(self) -> Tensor:
        """Return exponentials."""
        return self.node("Exp", np.exp(self.sample))

    def log(self) -> Tensor:
        """Return logarithms."""
        return self.node("Log", np.log(self.sample))

    def sqrt(self) -> Tensor:
        """Return square roots."""
        return self.node("Sqrt", np.sqrt(self.sample))

    def double(self) -> Tensor:
        """Return the same in float64, where differences of large numbers matter."""
        wide = self.graph.build("Cast", self.name, to=_DOUBLE)
        return Tensor(self.graph, wide, self.sample.astype(np.float64))


def _sample(value: Any) -> Any:
    return value.sample if isinstance(value, Tensor) else value


class GraphOf:
    """A graph of several inputs and outputs, rows of float32.

    Args:
        int8: whether large matrices are kept in 8-bit integers, with a scale a column.
    """

    def __init__(self, *, int8: bool) -> None:
        self.int8 = int8
        self.build = Builder()
        self._inputs: dict[str, Tensor] = {}
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, width: int) -> Tensor:
        """Return an input, the same for the same name."""
        return self._inputs.setdefault(name, Tensor(self, name, np.full((1, width), 0.5, np.float32)))

    def output(self, name: str, value: Tensor) -> None:
        """Make a value an output."""
        self.build("Cast", value.name, output=name, to=onnx.TensorProto.FLOAT)
        shape: tuple[str | int, ...] = ("rows", *value.shape[1:])
        self._outputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))

    def model(self) -> bytes:
        """Return the finished graph."""
        inputs: dict[str, tuple[int, tuple[str | int, ...]]] = {
            name: (onnx.TensorProto.FLOAT, ("rows", *one.shape[1:])) for name, one in self._inputs.items()
        }
        content: bytes = self.build.model_of(self._outputs, inputs).SerializeToString()
        return content


def _concatenated(tensors: Sequence[Tensor], axis: int) -> Tensor:
    sample = np.concatenate([one.sample for one in tensors], axis=axis)
    return tensors[0] if len(tensors) == 1 else tensors[0].node("Concat", sample, *tensors[1:], axis=axis)


_LIBRARY = SimpleNamespace(  # for `Network.run`, in the place of NumPy
    concatenate=_concatenated,
    stack=lambda tensors, axis: _concatenated([one[:, None] for one in tensors], axis),
    tanh=lambda tensor: tensor.node("Tanh", np.tanh(tensor.sample)),
    exp=Tensor.exp,
    amax=Tensor.max,
)


def _unit(rows: Tensor) -> Tensor:
    """Scale rows to length 1; a row of zeros stays."""
    return rows / (rows * rows).sum(axis=1, keepdims=True).clip(min=1e-30).sqrt()


def _log_softmax(rows: Tensor) -> Tensor:
    return rows.node("LogSoftmax", rows.sample, axis=1)


# -------------------------------------------------------------------------------------------------------------- spaces


def place_graph(
    space: Space,
    modality: Modality,
    width: int,
    *,
    columns: tuple[int, int],
    basis: Float[np.ndarray, "dim number"] | None = None,
    int8: bool = False,
) -> bytes:
    """Return the graph of `Space.place` for pictures or texts: input `MODALITY`, output `MODALITY_placed`.

    Args:
        space: with at most one block a modality.
        modality: that is placed.
        width: of its embeddings.
        columns: of the space's vectors that are given.
        basis: directions that these are projected on.
        int8: see `GraphOf`.
    """
    graph = GraphOf(int8=int8)
    vectors = graph.input(modality, width)
    kind, tensors = space.starts[modality], space.tensors
    unit = _unit(vectors)
    own = unit
    if kind == "words":
        own = _unit(unit - tensors["centre"])
    elif kind == "classes":
        logits = (vectors @ tensors["head.weight"] + tensors["head.bias"]) / TEMPERATURE
        chances = (logits - logits.max(axis=1, keepdims=True)).exp()
        top = min(TOP, chances.shape[1])
        highest = graph.build("TopK", chances.name, np.array([top]), axis=1)
        graph.build.nodes[-1].output.append(f"{highest}_places")
        least = Tensor(graph, highest, chances.sample[:, :top])[:, slice(top - 1, top)]
        below = graph.build("Less", chances.name, least.name)
        kept = Tensor(graph, graph.build("Where", below, np.zeros(1, np.float32), chances.name), chances.sample)
        own = _unit(kept @ tensors["names"])
    ((first, last),) = space.blocks.get(modality, ((0, space.dim),))
    placed = _padded(own, first, space.dim - last)
    learned = space.map_of(modality)
    if learned is not None:
        features = _concatenated([unit, own * np.float32(START_SHARE)], 1) if kind == "classes" else own
        if learned.kernel is not None:
            centres = np.asarray(learned.kernel.centres)
            squared = (
                features @ centres.T * -2 + (features * features).sum(axis=1, keepdims=True) + (centres**2).sum(axis=1)
            )
            features = (squared.clip(min=0) * (-1 / learned.kernel.width)).exp()
        mapped = features @ np.asarray(learned.weight) + learned.bias
        placed = _unit(placed * (1 - learned.blend) + mapped * learned.blend)
    here = (vectors * vectors).max(axis=1, keepdims=True)  # a row of zeros, in which nothing was recognised, stays
    wanted = placed[:, slice(*columns)]
    wanted = wanted if basis is None else wanted @ basis
    graph.output(f"{modality}_placed", wanted * here.node("Sign", np.sign(here.sample)))
    return graph.model()


def _padded(rows: Tensor, before: int, after: int) -> Tensor:
    if not before and not after:
        return rows
    sample = np.pad(rows.sample, ((0, 0), (before, after)))
    return rows.node("Pad", sample, np.array([0, before, 0, after]))


# ------------------------------------------------------------------------------------------------------------- answers


def answer_graph(columns: Sequence[Fitted], subset: Subset, *, int8: bool = False) -> bytes:
    """Return the graph of what items with just these modalities are.

    Inputs are embeddings, named as the modality, and vectors in the shared space, named `MODALITY_placed`. Outputs are, for
    the column of each number that goes by one of the modalities: `values.NUMBER`, probabilities or the number itself; and
    `strange.NUMBER`, how unlike anything known an item is.
    """
    graph = GraphOf(int8=int8)
    for number, column in enumerate(columns):
        known = known_of(column, subset)
        if not known:
            continue
        outputs = _outputs(graph, column, known)
        values = outputs
        if column.kind == "labels":
            values = outputs.node("Sigmoid", outputs.sample)
        elif column.kind == "classes":
            calibration = column.calibrations.get(known, column.calibrations.get(()))
            scaled = outputs if calibration is None else outputs / calibration.temperature
            values = scaled.node("Softmax", scaled.sample, axis=1)
        graph.output(f"values.{number}", values)
        part = alarm_of(column, known)
        strange = values[:, slice(0, 1)] * 0.0
        if part is not None:
            strange = _strangeness(column.detectors[part], _rows(graph, column.features, part))
        graph.output(f"strange.{number}", strange.reshape(0))
    return graph.model()


def known_of(column: Fitted, subset: Subset) -> Subset:
    """Return those of some modalities that a column goes by."""
    return tuple(name for name in subset if name in column.features.modalities)


def alarm_of(column: Fitted, known: Subset) -> Subset | None:
    """Return the set of modalities whose detector tells unknown items that have these."""
    within = [part for part in column.detectors if set(part) <= set(known)]
    return max(within, key=len) if within else None


def _rows(graph: GraphOf, features: Features, subset: Subset) -> Tensor:
    """Return feature rows, as `Features.rows`."""
    parts = []
    for name in subset:
        lengths = features.lengths(name, len(subset))
        for means, inputs, length in (
            (features.own, name, lengths[0]),
            (features.shared, f"{name}_placed", lengths[1]),
        ):
            if name in means:
                parts.append(_unit(graph.input(inputs, len(means[name])) - means[name]) * length)
    return _concatenated(parts, 1)


def _outputs(graph: GraphOf, column: Fitted, known: Subset) -> Tensor:
    """Return log-probabilities, logits or numbers before calibration, as `Fitted.outputs`."""
    if column.network is not None:
        rows: dict[str, Tensor] = {name: _rows(graph, column.features, (name,)) for name in known}
        return _by_network(column.network, rows, column.column)
    parts = route(column.fusion, known, tuple(column.heads), column.best)
    outputs = {part: _by_head(column.heads[part], _rows(graph, column.features, part)) for part in parts}
    number = len(column.names) or 1
    if column.kind != "classes":
        return _averaged(column, outputs, number)
    logs = {part: _spread(_log_softmax(own), column.heads[part].known, number) for part, own in outputs.items()}
    if len(logs) == 1:
        return next(iter(logs.values()))
    smoothed = {
        part: ((log.exp() * column.heads[part].items + 1 / number) / (column.heads[part].items + 1)).log()
        for part, log in sorted(logs.items())
    }
    if (
        column.fusion == "stack"
        and column.stack is not None
        and {name for part in logs for name in part} == set(column.main)
    ):
        stacked = _concatenated([one - one.mean(axis=1, keepdims=True) for one in smoothed.values()], 1)
        return _spread(_log_softmax(_by_head(column.stack, stacked)), column.stack.known, number)
    total: Tensor = sum(smoothed.values())  # type: ignore[assignment]  # of one at least
    return _log_softmax(total / len(smoothed))


def _by_head(head: Head, rows: Tensor) -> Tensor:
    if head.network is None:
        return rows @ np.asarray(head.tensors["coef"]).T + head.tensors["intercept"]
    network = Network.from_arrays(dict(head.tensors), dict(head.network))
    return _by_network(network, dict.fromkeys(network.widths, rows), network.columns[0].name)


def _by_network(network: Network, rows: Mapping[str, Tensor], column: str) -> Tensor:
    """Return the outputs of one column by a network, log-probabilities of classes."""
    zeros = next(iter(rows.values()))[:, slice(0, 1)] * 0.0
    every = [
        rows[name] if name in rows else zeros @ np.zeros((1, width), np.float32)
        for name, width in network.widths.items()
    ]
    present = np.array([[name in rows for name in network.widths]], np.float32)
    outputs = network.run(_concatenated(every, 1), present, _LIBRARY)
    own = next(one for one in network.columns if one.name == column)
    part: Tensor = outputs[:, own.place]
    if own.kind == "classes":
        return _log_softmax(part)
    return part * own.deviation + own.mean if own.kind == "number" else part


def _spread(log: Tensor, known: Shaped[np.ndarray, " known"], number: int) -> Tensor:
    """Return log-probabilities of all classes, minus infinity for those that a head does not know."""
    if len(known) == number:
        return log
    place = np.full(number, len(known))
    place[known] = np.arange(len(known))
    nothing = log[:, slice(0, 1)] * 0.0 + -np.inf
    return _concatenated([log, nothing], 1)[:, place]


def _averaged(column: Fitted, outputs: Mapping[Subset, Tensor], number: int) -> Tensor:
    """Return the weighted mean of the outputs of heads, as `chiasm.recognition.columns.averaged`."""
    shares = np.zeros((len(outputs), number))
    for place, part in enumerate(outputs):
        shares[place, column.heads[part].known] = column.heads[part].numbers.get("weight", 1.0)
    total = shares.sum(axis=0)
    rest = np.zeros(number) if column.prior is None else np.where(total > 0, 0.0, column.prior)
    terms = []
    for share, (part, own) in zip(shares / np.where(total > 0, total, 1.0), outputs.items(), strict=True):
        spread = np.zeros((own.shape[1], number), np.float32)
        spread[np.arange(own.shape[1]), column.heads[part].known] = 1
        terms.append(own @ spread * share)
    mean: Tensor = sum(terms)
    return mean + rest


def _strangeness(detector: UnknownDetector, rows: Tensor) -> Tensor:
    """Return the score of an unknown detector, one column."""
    score = detector.score
    if not isinstance(score, Mahalanobis):
        nearest = (_unit(rows) @ score.items.T.astype(np.float32)).max(axis=1, keepdims=True)
        return (nearest * -2 + 2).clip(min=0).sqrt()
    centred = rows.double() - score.centre
    weights = score.precision - score.rest
    along, along_means = centred @ score.axes.T, score.means @ score.axes.T
    inside = _distances(along, along_means, weights)
    everywhere = _distances(centred, score.means, np.full(centred.shape[1], score.rest))
    return ((inside + everywhere).clip(min=0) * -1).max(axis=1, keepdims=True) * -1


def _distances(rows: Tensor, means: np.ndarray, weights: np.ndarray) -> Tensor:
    distances: Tensor = (rows * rows) @ weights[:, None] - (rows * weights) @ means.T * 2 + (means**2) @ weights
    return distances
