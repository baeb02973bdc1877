"""The small network: embeddings of any subset of the modalities -> one or several columns.

With x_m the feature row of modality m, scaled to length sqrt(dim), and p_m = 1 where the item has the modality, else 0:

    z_m    = p_m (E_m x_m + b_m) + (1 - p_m) missing_m           a token a modality, all of one width
    f      = fusion of z_1, ..., z_M
    h      = relu(H f + c)                                       the hidden layer
    logits = O h + sum_m p_m S_m x_m + o                         O starts at 0, the skip S at the linear solution

so that training starts from the linear probe and learns what modalities say together beyond the sum of what they say
apart. The fusions:

- `concat`: [z_1, ..., z_M] side by side.
- `mean`: of the tokens of the modalities that are there.
- `gated`: sum_m sigmoid(G_m [z_1, ..., z_M] + g_m) * tanh(z_m), the gated multimodal unit (Arevalo et al. 2017,
  arXiv:1702.01992, section 3.1).
- `attention`: a learned class token looks at itself and the z_m by pre-norm multi-head attention (Vaswani et al. 2017);
  f is that token, normalised.

All columns share the network. Their losses are weighted by learned uncertainties, and a missing value has no part in them.
`_outputs` is written once for PyTorch, which trains, and NumPy, which predicts: a saved model predicts without PyTorch.
The loop is `chiasm.training`; whether the network earns its place is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped

from chiasm._optional import require
from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.linear import fit_classes, fit_labels, fit_numbers
from chiasm.recognition.modalities import Features, ModalityArrays
from chiasm.recognition.targets import Kind, Target
from chiasm.training import (
    Loss,
    Rows,
    Tensors,
    Training,
    class_losses,
    fit_and_refit,
    held_out_rows,
    label_losses,
    number_losses,
    uncertainty_weighted,
    weighted_mean,
)
from chiasm.vectors import log_softmax

if TYPE_CHECKING:
    from torch import Tensor, nn

NetworkFusion: TypeAlias = Literal["concat", "mean", "gated", "attention"]

FORMAT, VERSION = "chiasm-network", 1

UNSEEN = 3.0
"""Logits by which a class or label that no row has is improbable at the start, not impossible."""

Parameters: TypeAlias = Mapping[str, Any]
"""By name: tensors while training, arrays when predicting."""


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The shape of the network and how it is trained.

    Attributes:
        fusion: how tokens of modalities become one row, see the top of the module.
        width: of a token; of attention, a multiple of `heads`.
        heads: of attention.
        hidden: units of the hidden layer.
        dropout: share of the fused row and of the hidden units that is set to 0 while learning.
        modality_dropout: probability that a modality of an item is taken for missing while learning; never all of them.
        training: options of the training loop.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Example:
        >>> NetworkOptions(fusion="gated", training=Training(epochs=30)).width
        64
    """

    fusion: NetworkFusion = "concat"
    width: int = 64
    heads: int = 4
    hidden: int = 128
    dropout: float = 0.2
    modality_dropout: float = 0.2
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        if self.fusion not in get_args(NetworkFusion):
            raise ValueError(f"fusion must be one of {', '.join(get_args(NetworkFusion))}; got {self.fusion!r}")
        for name in ("width", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)!r}")
        if self.fusion == "attention" and self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads; got width={self.width}, heads={self.heads}")
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1; got {getattr(self, name)!r}")


@dataclass(frozen=True, eq=False)
class NetworkInputs:
    """Feature rows of unit length by modality, and which items have which modality.

    Attributes:
        vectors: a row for every item; the rows of items without the modality are ignored.
        present: a boolean for every item.

    Raises:
        ChiasmError: modalities have different numbers of items, or an item has no modality.
    """

    vectors: Mapping[str, Float[np.ndarray, "items _"]]
    present: Mapping[str, Bool[np.ndarray, " items"]]

    def __post_init__(self) -> None:
        lengths = {len(array) for part in (self.vectors, self.present) for array in part.values()}
        if not self.vectors or set(self.vectors) != set(self.present) or len(lengths) > 1:
            raise ChiasmError("every modality needs rows and a mask, both with one entry an item")
        bare = np.flatnonzero(~np.any(list(self.present.values()), axis=0))
        if len(bare):
            raise ChiasmError(f"{len(bare)} items have none of {', '.join(self.vectors)}, first item {bare[0]}")

    @classmethod
    def of(cls, arrays: ModalityArrays, features: Features, rows: Int[np.ndarray, " rows"]) -> NetworkInputs:
        """Return the feature rows of some items, one modality each."""
        vectors: dict[str, Float[np.ndarray, "items _"]] = {}
        present: dict[str, Bool[np.ndarray, " items"]] = {}
        for name in features.modalities:
            has = arrays.present[name][rows] if name in arrays.present else np.zeros(len(rows), dtype=bool)
            vectors[name] = np.zeros((len(rows), features.width((name,))), np.float32)
            if has.any():
                vectors[name][has] = features.rows(arrays, (name,), rows[has])
            present[name] = has
        return cls(vectors, present)

    def __len__(self) -> int:
        return len(next(iter(self.vectors.values())))


@dataclass(frozen=True, eq=False)
class NetworkSource:
    """Labelled items of another domain; modalities and columns that it lacks are missing there."""

    inputs: NetworkInputs
    targets: Sequence[Target]
    weights: Float[np.ndarray, " items"] | None = None


@dataclass(frozen=True)
class _Column:
    """One column of the network's outputs; numbers are standardised inside."""

    name: str
    kind: Kind
    first: int
    outputs: int
    mean: float = 0.0
    deviation: float = 1.0

    @property
    def place(self) -> slice:
        return slice(self.first, self.first + self.outputs)


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network as plain arrays; it predicts by NumPy alone.

    Attributes:
        fusion: how tokens are fused.
        heads: of attention.
        widths: of the feature rows of each modality.
        columns: what it predicts.
        parameters: by name.
        epochs: that it learned for; 0 if it is its start, the linear solution.

    Example:
        >>> rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
        >>> inputs = NetworkInputs({"image": rows}, {"image": np.ones(40, dtype=bool)})
        >>> known = np.ones(40, dtype=bool)
        >>> side = Target("side", "classes", (rows[:, 0] > 0).astype(int), known, np.array(["left", "right"]))
        >>> options = NetworkOptions(hidden=8, training=Training(epochs=5))
        >>> fit_network(inputs, [side], options).log_probabilities(inputs).shape
        (40, 2)
    """

    fusion: NetworkFusion
    heads: int
    widths: Mapping[str, int]
    columns: tuple[_Column, ...]
    parameters: Mapping[str, Float32[np.ndarray, "..."]]
    epochs: int

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that it was trained on."""
        return tuple(self.widths)

    def logits(self, inputs: NetworkInputs) -> dict[str, Float64[np.ndarray, "items outputs"]]:
        """Return the outputs by column: logits of classes or labels; numbers in their own unit, one column.

        Modalities that the network was not trained on are ignored; those that `inputs` lacks are missing.

        Raises:
            ChiasmError: items have none of its modalities, or feature rows are of another width.
        """
        known = [name for name in self.widths if name in inputs.vectors]
        if not known:
            raise ChiasmError(
                f"give embeddings of a modality that the network was trained on: {', '.join(self.widths)}"
            )
        inputs = NetworkInputs(
            {name: inputs.vectors[name] for name in known}, {name: inputs.present[name] for name in known}
        )
        rows, present = _arrays(inputs, self.widths)
        outputs = self.run(rows, present).astype(np.float64)
        return {
            column.name: outputs[:, column.place] * column.deviation + column.mean
            if column.kind == "number"
            else outputs[:, column.place]
            for column in self.columns
        }

    def run(self, rows: Any, present: Any, xp: Any = np) -> Any:
        """Return all outputs, numbers standardised, by NumPy or by a library that has what it takes of it.

        Args:
            rows: feature rows of all modalities side by side, 0 where one is missing.
            present: 1 where an item has a modality, 0 where not.
            xp: the library.
        """
        return _outputs(self.parameters, rows, present, self.fusion, self.heads, xp)

    def log_probabilities(
        self, inputs: NetworkInputs, column: str | None = None
    ) -> Float64[np.ndarray, "items classes"]:
        """Return the log-probabilities of a column of classes; by default of the first column.

        Raises:
            ChiasmError: as `logits`.
        """
        values: Float64[np.ndarray, "items classes"] = log_softmax(self.logits(inputs)[column or self.columns[0].name])
        return values

    def as_arrays(self) -> tuple[dict[str, Float32[np.ndarray, "..."]], dict[str, Any]]:
        """Return the parameters by name, and a description in the types of JSON."""
        return dict(self.parameters), {
            "format": FORMAT,
            "version": VERSION,
            "fusion": self.fusion,
            "heads": self.heads,
            "widths": dict(self.widths),
            "columns": [asdict(column) for column in self.columns],
            "epochs": self.epochs,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Float[np.ndarray, "..."]], description: Mapping[str, Any]) -> Network:
        """Restore the network that `as_arrays` described.

        Raises:
            ChiasmError: not a network, of another version, or damaged.
        """
        if description.get("format") != FORMAT or description.get("version") != VERSION:
            raise ChiasmError(
                f"this is {description.get('format')!r} of version {description.get('version')!r}; expected {FORMAT!r} "
                f"of version {VERSION}: it was made by an older chiasm, make it anew"
            )
        try:
            network = cls(
                description["fusion"],
                int(description["heads"]),
                {name: int(width) for name, width in description["widths"].items()},
                tuple(_Column(**column) for column in description["columns"]),
                {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()},
                int(description["epochs"]),
            )
            if not all(np.isfinite(array).all() for array in network.parameters.values()):
                raise ValueError("some numbers are not finite")
            outputs = sum(column.outputs for column in network.columns)
            one = NetworkInputs(
                {name: np.zeros((1, width), np.float32) for name, width in network.widths.items()},
                {name: np.ones(1, dtype=bool) for name in network.widths},
            )
            if len(network.parameters["bias"]) != outputs or not network.logits(
                one
            ):  # arrays that do not fit fail here
                raise ValueError(f"{len(network.parameters['bias'])} outputs for {outputs}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ChiasmError(f"the network is damaged ({type(error).__name__}: {error}): save it again") from error
        return network


def fit_network(
    inputs: NetworkInputs,
    targets: Sequence[Target],
    options: NetworkOptions,
    *,
    start: Mapping[str, float] | None = None,
    weights: Float[np.ndarray, " items"] | None = None,
    groups: Int[np.ndarray, " items"] | None = None,
    source: NetworkSource | None = None,
    alpha: float = 0.0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Network:
    """Train the network on all items, for the number of epochs that is best on a held-out part of them.

    The held-out part is stratified by the first column of classes, which `Training.class_balance` goes by as well. The
    linear solution that the skip starts from is fitted without the held-out part, too; where no epoch improves on it, the
    network is the linear solution.

    Args:
        inputs: feature rows.
        targets: what to predict, one or several columns; items may lack values.
        options: shape and training.
        start: strength of the linear solution (of the items and the source) that the skip starts from, by column; for
            other columns it starts at 0.
        weights: of the items in the loss.
        groups: items of one group are never on both sides of the held-out part.
        source: items of another domain.
        alpha: from 0 to below 1: the loss is alpha times that of the source plus (1 - alpha) times that of the items.
        on_epoch: called with the number of each epoch and its held-out loss; an exception that it raises ends the training.

    Raises:
        ChiasmError: the source has rows of another width, or training fails.
        LabelError: there is no target, two have one name, one has no two different values, or the source's do not match.
        ValueError: weights or alpha are out of their range.
        MissingExtraError: PyTorch is not installed, or `training.log_dir` is given and TensorBoard is not.
    """
    require("torch", "train", "train a network")
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha is the weight of the source, from 0 to below 1; got {alpha!r}")
    columns = _columns(targets, len(inputs))
    widths = {name: vectors.shape[1] for name, vectors in inputs.vectors.items()}
    rows = _rows(inputs, targets, columns, widths, weights)
    beside = None if source is None else _source_rows(source, columns, widths)
    codes = np.zeros(len(inputs), np.int64) if rows.codes is None else np.unique(rows.codes, return_inverse=True)[1]
    group = None if groups is None else np.unique(groups, return_inverse=True)[1]

    def build(learned_from: Rows) -> tuple[nn.Module, Loss]:
        skip = _linear_solutions(learned_from, beside if alpha else None, alpha, widths, columns, start or {})
        return _module(widths, columns, options, skip), _loss(columns)

    module, log = fit_and_refit(
        build,
        rows,
        held_out=held_out_rows(codes, seed=options.training.seed, groups=group),
        training=options.training,
        source=beside,
        alpha=alpha,
        on_epoch=on_epoch,
    )
    parameters = {name: tensor.detach().numpy().copy() for name, tensor in module.named_parameters()}
    del parameters["log_variances"]
    parameters["skip"] *= _lengths(widths)  # so that prediction takes rows of unit length
    for i, width in enumerate(widths.values()):
        parameters[f"encode_{i}"] *= np.float32(np.sqrt(width))
    return Network(options.fusion, options.heads, widths, columns, parameters, log.best_epoch)


# ------------------------------------------------------------------------------------------------------ the computation


def _outputs(
    p: Parameters,
    rows: Any,
    present: Any,
    fusion: NetworkFusion,
    heads: int,
    xp: Any,
    drop: Callable[[Any], Any] = lambda rows: rows,
) -> Any:
    """Return all outputs, by the formulas at the top of the module; `xp` is numpy or torch.

    Args:
        p: the parameters.
        rows: of all modalities side by side, 0 where one is missing.
        present: 1 where an item has a modality, 0 where not.
        fusion: how tokens are fused.
        heads: of attention.
        xp: the library.
        drop: dropout, while training.
    """
    tokens, first = [], 0
    for i in range(present.shape[1]):
        has, encode = present[:, i : i + 1], p[f"encode_{i}"]
        part, first = rows[:, first : first + encode.shape[1]], first + encode.shape[1]
        tokens.append(part @ encode.T + has * p[f"encode_bias_{i}"] + (1 - has) * p[f"missing_{i}"])
    fused = drop(_fused(p, tokens, present, fusion, heads, xp))
    hidden = drop((fused @ p["hidden"].T + p["hidden_bias"]).clip(min=0))
    return hidden @ p["out"].T + rows @ p["skip"].T + p["bias"]


def _fused(p: Parameters, tokens: list[Any], present: Any, fusion: NetworkFusion, heads: int, xp: Any) -> Any:
    if fusion == "concat":
        return xp.concatenate(tokens, axis=1)
    if fusion == "mean":
        total = sum(present[:, i : i + 1] * token for i, token in enumerate(tokens))
        return total / present.sum(axis=1, keepdims=True)
    if fusion == "gated":
        together = xp.concatenate(tokens, axis=1)
        gates = [_sigmoid(together @ p[f"gate_{i}"].T + p[f"gate_bias_{i}"], xp) for i in range(len(tokens))]
        return sum(gate * xp.tanh(token) for gate, token in zip(gates, tokens, strict=True))
    first = p["token"] + 0 * tokens[0]
    rows = _standardised(xp.stack([first, *tokens], axis=1))
    items, number, width = rows.shape

    def by_head(name: str) -> Any:
        return (rows @ p[name].T).reshape(items, number, heads, width // heads)

    query, key, value = by_head("query")[:, :1], by_head("key"), by_head("value")
    scores = (query * key).sum(axis=-1, keepdims=True) / (width // heads) ** 0.5
    shares = xp.exp(scores - xp.amax(scores, 1)[:, None])
    looked_at = (shares * value).sum(axis=1) / shares.sum(axis=1)
    return _standardised(first + looked_at.reshape(items, width) @ p["join"].T)


def _sigmoid(values: Any, xp: Any) -> Any:
    return 0.5 * (1 + xp.tanh(values / 2))


def _standardised(rows: Any) -> Any:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    return centred / ((centred**2).mean(axis=-1, keepdims=True) + 1e-5) ** 0.5


# ------------------------------------------------------------------------------------------------------------- training


def _module(
    widths: Mapping[str, int],
    columns: tuple[_Column, ...],
    options: NetworkOptions,
    skip: tuple[Float[np.ndarray, "outputs dim"], Float[np.ndarray, " outputs"]],
) -> nn.Module:
    """Return the network before training; a class within a function, since torch is imported to train only."""
    import torch
    from torch import nn
    from torch.nn import functional

    width, number, outputs = options.width, len(widths), sum(column.outputs for column in columns)
    fused = number * width if options.fusion == "concat" else width

    def drawn(rows: int, inputs: int) -> Tensor:
        weights: Tensor = (2 * torch.rand(rows, inputs) - 1) / inputs**0.5
        return weights

    parameters: dict[str, Tensor] = {}
    for i, dim in enumerate(widths.values()):
        parameters[f"encode_{i}"] = drawn(width, dim)
        parameters[f"encode_bias_{i}"] = torch.zeros(width)
        parameters[f"missing_{i}"] = torch.zeros(width)
        if options.fusion == "gated":
            parameters[f"gate_{i}"] = drawn(width, number * width)
            parameters[f"gate_bias_{i}"] = torch.zeros(width)
    if options.fusion == "attention":
        parameters["token"] = 0.02 * torch.randn(width)
        parameters |= {name: drawn(width, width) for name in ("query", "key", "value", "join")}
    parameters |= {
        "hidden": drawn(options.hidden, fused),
        "hidden_bias": torch.zeros(options.hidden),
        "out": torch.zeros(outputs, options.hidden),
        "skip": torch.from_numpy(skip[0].astype(np.float32)),
        "bias": torch.from_numpy(skip[1].astype(np.float32)),
    }

    owner = torch.from_numpy(np.repeat(np.arange(number), list(widths.values())))  # the modality of each column

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in parameters.items():
                self.register_parameter(name, nn.Parameter(tensor))
            self.log_variances = nn.Parameter(torch.zeros(len(columns)), requires_grad=len(columns) > 1)

        def forward(self, inputs: Tensors) -> dict[str, Tensor]:
            rows, present = inputs["rows"], inputs["present"]
            if self.training and options.modality_dropout:
                draws = torch.rand_like(present)
                best = torch.where(present > 0, draws, -1.0).argmax(dim=1, keepdim=True)
                stay = (draws >= options.modality_dropout).to(present.dtype).scatter(1, best, 1.0)
                rows, present = rows * stay[:, owner], present * stay
            logits: Tensor = _outputs(
                dict(self.named_parameters()),
                rows,
                present,
                options.fusion,
                options.heads,
                torch,
                lambda units: functional.dropout(units, options.dropout, self.training),
            )
            # The variances travel with the outputs, so that the loss sees those of this step.
            return {"logits": logits, "log_variances": self.log_variances.expand(len(logits), -1)}

    return Module()


def _loss(columns: tuple[_Column, ...]) -> Loss:
    """Return the loss of all columns."""

    def loss(outputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:
        import torch

        losses, labelled = [], []
        for i, column in enumerate(columns):
            logits, values, known = outputs["logits"][:, column.place], targets[f"values.{i}"], targets[f"known.{i}"]
            if column.kind == "classes":
                rows = class_losses(logits, values)
            else:
                rows = (label_losses if column.kind == "labels" else number_losses)(logits, values, known)
            losses.append(weighted_mean(rows, weights * known))
            labelled.append((weights * known).sum() > 0)
        total: Tensor = uncertainty_weighted(torch.stack(losses), outputs["log_variances"][0], torch.stack(labelled))
        return total

    return loss


def _linear_solutions(
    rows: Rows,
    source: Rows | None,
    alpha: float,
    widths: Mapping[str, int],
    columns: tuple[_Column, ...],
    strengths: Mapping[str, float],
) -> tuple[Float64[np.ndarray, "outputs dim"], Float64[np.ndarray, " outputs"]]:
    """Return weights and intercepts of all outputs on the network's inputs; 0 for columns without a strength."""
    weight = np.ones(len(rows)) if rows.weights is None else rows.weights
    targets, X = rows.targets, rows.inputs["rows"]
    if source is not None:
        theirs = np.ones(len(source)) if source.weights is None else source.weights
        weight = np.concatenate([weight, theirs * (alpha / (1 - alpha) * weight.sum() / theirs.sum())])
        targets = {name: np.concatenate([values, source.targets[name]]) for name, values in targets.items()}
        X = np.concatenate([X, source.inputs["rows"]])
    coef = np.zeros((sum(column.outputs for column in columns), X.shape[1]))
    intercept = np.zeros(len(coef))
    scale = 1 / (_lengths(widths) * np.float32(np.sqrt(len(widths))))  # to unit length, all modalities together
    X = X * scale
    for i, column in enumerate(columns):
        if column.name not in strengths:
            continue
        known = np.flatnonzero(targets[f"known.{i}"])
        if column.kind != "classes":
            known = known[known < len(rows)]  # the solvers take no weights, which rows of a source need
        values = targets[f"values.{i}"][known]
        never, strength = np.full(len(known), -1), [strengths[column.name]]  # no row is held out
        if column.kind == "classes":
            outputs, codes = np.unique(values, return_inverse=True)
            if len(outputs) < 2:
                continue
            fit = fit_classes(X[known], codes, fold_of=never, weight=weight[known], strengths=strength)
            intercept[column.place] = fit.intercept.min() - UNSEEN
        elif column.kind == "labels":
            outputs = np.flatnonzero(values.any(axis=0) & ~values.all(axis=0))
            intercept[column.place] = np.where(values.any(axis=0), UNSEEN, -UNSEEN)
            if not len(outputs):
                continue
            fit = fit_labels(X[known], values[:, outputs] > 0, fold_of=never, strengths=strength)
        elif len(known) < 2:
            continue
        else:
            outputs, fit = np.zeros(1, np.int64), fit_numbers(X[known], values, fold_of=never, strengths=strength)
        coef[column.first + outputs], intercept[column.first + outputs] = fit.coef * scale, fit.intercept
    return coef, intercept


# ---------------------------------------------------------------------------------------------------------------- rows


def _columns(targets: Sequence[Target], items: int) -> tuple[_Column, ...]:
    names = [target.column for target in targets]
    if not names or len(set(names)) != len(names):
        raise LabelError(f"there must be at least one target, each with a name of its own; got {names or 'none'}")
    columns, first = [], 0
    for target in targets:
        if len(target) != items:
            raise LabelError(f"{target.column}: there are {items} items but {len(target)} values: give one an item")
        known = target.values[target.known]
        if not len(known) or (target.kind != "labels" and (known == known[0]).all()):
            raise LabelError(f"{target.column}: the known values are all the same, or none is known: nothing to learn")
        outputs = max(1, len(target.names))
        column = _Column(target.column, target.kind, first, outputs)
        if target.kind == "number":
            column = replace(column, mean=float(known.mean()), deviation=float(known.std()))
        columns.append(column)
        first += outputs
    return tuple(columns)


def _rows(
    inputs: NetworkInputs,
    targets: Sequence[Target],
    columns: tuple[_Column, ...],
    widths: Mapping[str, int],
    weights: Float[np.ndarray, " items"] | None,
) -> Rows:
    """Return items for the training loop; a column that has no target is missing throughout."""
    if weights is not None and (
        np.shape(weights) != (len(inputs),) or not (np.isfinite(weights) & (weights >= 0)).all() or not np.any(weights)
    ):
        raise ValueError(
            f"weights must be {len(inputs)} finite numbers not below 0, not all 0; got {np.shape(weights)}"
        )
    by_name = {target.column: target for target in targets}
    arrays: dict[str, Shaped[np.ndarray, "items ..."]] = {}
    for i, column in enumerate(columns):
        target = by_name.get(column.name)
        shape = (len(inputs), column.outputs) if column.kind == "labels" else (len(inputs),)
        values = np.full(shape, -1) if column.kind == "classes" else np.zeros(shape, np.float32)
        known = np.zeros(len(inputs), dtype=bool)
        if target is not None:
            known = target.known
            values[known] = target.values[known]
            if column.kind == "number":
                values[known] = (target.values[known] - column.mean) / column.deviation
        arrays[f"values.{i}"], arrays[f"known.{i}"] = values, known
    codes = next((arrays[f"values.{i}"] for i, column in enumerate(columns) if column.kind == "classes"), None)
    rows, present = _arrays(inputs, widths)
    return Rows({"rows": rows * _lengths(widths), "present": present}, arrays, weights, codes)


def _source_rows(source: NetworkSource, columns: tuple[_Column, ...], widths: Mapping[str, int]) -> Rows:
    by_name = {column.name: column for column in columns}
    for target in source.targets:
        column = by_name.get(target.column)
        if column is None or (column.kind, column.outputs) != (target.kind, max(1, len(target.names))):
            raise LabelError(f"{target.column}: the source has this column of {target.kind}, the items do not")
        if len(target) != len(source.inputs):
            raise LabelError(f"{target.column}: the source has {len(source.inputs)} items but {len(target)} values")
    return _rows(source.inputs, source.targets, columns, widths, source.weights)


def _arrays(
    inputs: NetworkInputs, widths: Mapping[str, int]
) -> tuple[Float32[np.ndarray, "items dim"], Float32[np.ndarray, "items modalities"]]:
    """Return the rows of all modalities side by side, 0 where one is missing, and which item has which."""
    parts, present = [], np.zeros((len(inputs), len(widths)), np.float32)
    for i, (name, width) in enumerate(widths.items()):
        part = np.zeros((len(inputs), width), np.float32)
        if name in inputs.vectors:
            rows, has = inputs.vectors[name], inputs.present[name]
            if rows.shape[1] != width:
                raise ChiasmError(
                    f"{name}: expected feature rows of width {width}, as in training; got {rows.shape[1]}"
                )
            part[has], present[:, i] = rows[has], has
        parts.append(part)
    return np.hstack(parts), present


def _lengths(widths: Mapping[str, int]) -> Float32[np.ndarray, " dim"]:
    """Return the length that the rows of each column's modality are scaled to while training: sqrt(dim)."""
    return np.repeat(np.sqrt(np.array(list(widths.values()), np.float32)), list(widths.values()))
