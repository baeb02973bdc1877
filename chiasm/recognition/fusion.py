"""Fusion: the embeddings of an item's modalities -> one embedding and one or several predictions.

This module knows how modalities are put together by a learned network, whichever of them an item has, and how several
targets share it. How it is trained is `chiasm.training`; the losses, too. Arrays in,
arrays out: fusing the predictions of separate models, and whether a fusion earns its place, is left to others.

With x_m the embedding of modality m, centred by the mean of the training items and scaled to the length sqrt(dim), and
p_m = 1 where the item has the modality and 0 where not, every kind starts from one token a modality of the same width:

    z_m = p_m * (E_m x_m + b_m) + (1 - p_m) * missing_m

with a learned `missing_m`. The fused embedding h is then, by kind,

- `concat`: [z_1, ..., z_M] side by side. Linear in the embeddings: it adds what modalities say, and no more.
- `gated`: sum_m sigmoid(G_m [z_1, ..., z_M] + g_m) * tanh(z_m), the gated multimodal unit (Arevalo et al. 2017,
  arXiv:1702.01992, section 3.1, the form for any number of modalities; the gates look at tokens, not embeddings).
- `attention`: a learned class token and the z_m go through one pre-norm transformer layer (Vaswani et al. 2017); h is
  the class token after it, normalised.
- `low_rank`: sum_r prod_m (F_mr z_m + f_mr), low-rank multimodal fusion (Liu et al. 2018, ACL, equation 6; f_mr stands
  for the 1 that is appended to each modality there). The f_mr start at 1, so that h starts near the sum of what the
  modalities say.

Each target has one linear layer on h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Shaped
from torch import Tensor, nn

from chiasm.errors import ChiasmError, LabelError
from chiasm.splits import Labels, group_codes
from chiasm.training import (
    Loss,
    Rows,
    Tensors,
    Training,
    TrainingLog,
    _outputs,
    class_losses,
    fit_and_refit,
    held_out_rows,
    label_losses,
    number_losses,
    seeded,
    uncertainty_weighted,
    weighted_mean,
)
from chiasm.vectors import Unchecked, unit_rows

FORMAT, VERSION = "chiasm-fusion", 1

Vectors: TypeAlias = Mapping[str, Float[np.ndarray, "items _"]] | Unchecked
"""Embeddings by modality, a row for every item; the rows of items without it are not looked at."""

Present: TypeAlias = Mapping[str, Bool[np.ndarray, " items"]] | Unchecked
"""Which items have the modality; a modality without a mask is one that all items have."""

Kind: TypeAlias = Literal["concat", "gated", "attention", "low_rank"]
TargetKind: TypeAlias = Literal["classes", "labels", "number"]

_KINDS: tuple[Kind, ...] = ("concat", "gated", "attention", "low_rank")


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """What a fusion network looks like and how its modalities are kept in balance.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    kind: Kind = "gated"
    width: int = 64
    """Of each modality's token, and of the fused embedding (of `concat`: times the number of modalities)."""
    rank: int = 4
    """Of `low_rank`."""
    heads: int = 4
    """Of `attention`; divides the width."""
    dropout: float = 0.2
    """Of the fused embedding and within the transformer layer, while learning."""
    modality_dropout: float = 0.2
    """Probability that a modality of an item is taken for missing while learning; never all of them."""
    auxiliary: float | Mapping[str, float] = 0.0
    """Weight of the loss of a head on each modality's own token, for all modalities or by modality (0 for those that
    are not named). Such heads are not used to predict."""

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"kind must be one of {', '.join(_KINDS)}; got {self.kind!r}")
        for name in ("width", "rank", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)!r}")
        if self.kind == "attention" and self.width % self.heads:
            raise ValueError(f"the width must be a multiple of the heads; got width={self.width}, heads={self.heads}")
        for name in ("dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1; got {getattr(self, name)!r}")
        weights = self.auxiliary.values() if isinstance(self.auxiliary, Mapping) else [self.auxiliary]
        if not all(0 <= weight < np.inf for weight in weights):
            raise ValueError(f"auxiliary must be finite and not below 0; got {self.auxiliary!r}")

    def auxiliary_weight(self, modality: str) -> float:
        """Weight of the loss of the modality's own head."""
        if isinstance(self.auxiliary, Mapping):
            return float(self.auxiliary.get(modality, 0.0))
        return float(self.auxiliary)


@dataclass(frozen=True, eq=False)
class Target:
    """What is to be predicted of each item; items may lack it.

    Raises:
        LabelError: values are not of the kind, or do not fit their mask or size.
    """

    name: str
    kind: TargetKind
    values: Shaped[np.ndarray, "items ..."] | Unchecked
    """`classes`: whole numbers from 0, -1 where missing. `labels`: booleans, one column a label. `number`: floats, NaN
    where missing; in their own unit, they are standardised inside."""
    known: Bool[np.ndarray, " items"] | Unchecked | None = None
    """Of `labels`: which rows are not missing. None: all."""
    size: int | None = None
    """Of `classes`: how many there are, if not all occur."""

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if self.kind not in ("classes", "labels", "number"):
            raise LabelError(f"{self.name}: the kind must be 'classes', 'labels' or 'number'; got {self.kind!r}")
        expected = {"classes": ("iu", 1), "labels": ("b", 2), "number": ("iuf", 1)}[self.kind]
        if values.dtype.kind not in expected[0] or values.ndim != expected[1]:
            wanted = {
                "classes": "one whole number a row",
                "labels": "a matrix of booleans",
                "number": "one number a row",
            }[self.kind]
            raise LabelError(f"{self.name}: values must be {wanted}; got {values.dtype} of shape {values.shape}")
        if self.known is not None and self.kind != "labels":
            raise LabelError(f"{self.name}: only 'labels' take a mask; mark missing classes by -1 and numbers by NaN")
        if self.size is not None and self.kind != "classes":
            raise LabelError(f"{self.name}: only 'classes' take a size")
        if self.kind == "labels":
            known = np.ones(len(values), dtype=bool) if self.known is None else np.asarray(self.known)
            if known.shape != (len(values),) or known.dtype != np.bool_:
                raise LabelError(
                    f"{self.name}: the mask must be {len(values)} booleans; got {known.dtype} {known.shape}"
                )
        elif self.kind == "number":
            values = values.astype(np.float64)
            known = ~np.isnan(values)
            if not np.isfinite(values[known]).all():
                raise LabelError(f"{self.name}: numbers must be finite, or NaN where missing")
        else:
            known = values >= 0
            largest = int(values.max(initial=-1))
            size = largest + 1 if self.size is None else self.size
            if values.min(initial=0) < -1 or largest >= size:
                raise LabelError(
                    f"{self.name}: classes must be from 0 to {size - 1}, or -1 where missing; got "
                    f"{values.min(initial=0)} to {largest}"
                )
            object.__setattr__(self, "size", size)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "known", known)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def outputs(self) -> int:
        """How many numbers predict it."""
        if self.kind == "labels":
            return int(self.values.shape[1])
        return 1 if self.kind == "number" else int(self.size or 0)


@dataclass(frozen=True, eq=False)
class SourceItems:
    """Labelled items of another domain, of the same encoders; targets that it lacks are missing there."""

    vectors: Vectors
    present: Present
    targets: Sequence[Target]
    weights: Float[np.ndarray, " items"] | None = None


@dataclass(frozen=True)
class _Head:
    """What of a target is needed to predict it."""

    name: str
    kind: TargetKind
    outputs: int
    mean: float = 0.0  # of the training items' numbers
    deviation: float = 1.0


@dataclass(frozen=True, eq=False)
class _Fitted:
    means: dict[str, Float64[np.ndarray, " _"]]
    heads: tuple[_Head, ...]
    network: _Network
    log: TrainingLog | None = field(default=None)


class FusionNetwork:
    """A network over the embeddings of an item's modalities, whichever of them it has.

    Fitted like the adapters: the number of epochs is found on a held-out part, stratified by the first target of kind
    `classes`, then all items are learned from. The balance of classes (`Training.class_balance`) goes by the same
    target. With several targets their losses are weighted by learned uncertainties, see
    `chiasm.training.uncertainty_weighted`; missing values have no part in the loss.

    Args:
        fusion: what the network looks like.
        training: how it is trained.
    """

    def __init__(self, fusion: Fusion | None = None, training: Training | None = None) -> None:
        self.fusion = Fusion() if fusion is None else fusion
        self.training = Training() if training is None else training
        self._fitted: _Fitted | None = None

    def fit(
        self,
        vectors: Vectors,
        present: Present,
        targets: Sequence[Target],
        *,
        weights: Float[np.ndarray, " items"] | Unchecked | None = None,
        groups: Labels | None = None,
        source: SourceItems | None = None,
        alpha: float = 0.0,
        on_epoch: Callable[[int, float], None] | None = None,
    ) -> FusionNetwork:
        """Learn from items, each with at least one modality.

        Args:
            vectors: embeddings by modality.
            present: which items have which.
            targets: what to predict, one or several.
            weights: of the items in the loss.
            groups: items of one group are never on both sides of the held-out part.
            source: items of another domain, with some of the modalities and targets.
            alpha: the loss is alpha * that of the source + (1 - alpha) * that of the items. At 0 the source is not used.
            on_epoch: called with the number of each epoch and its held-out loss; what it raises ends the training.

        Raises:
            ChiasmError: embeddings or masks are not usable, or items have no modality.
            LabelError: there is no target, two have one name, one has no known value or one class only, or those of
                the source do not match.
            ValueError: weights or alpha do not fit, or classes are to be balanced and no target is of kind `classes`.
            MissingExtraError: `training.log_dir` is given and TensorBoard is not installed.
        """
        arrays = _checked(vectors, present)
        items = len(next(iter(arrays.values())).mask)
        _refuse_bare(arrays, "modality", tuple(arrays))
        heads = _heads(targets, items)
        weight = _weights(weights, items)
        group = None if groups is None else group_codes(groups, items)
        beside: dict[str, _Modality] | None = None
        if source is not None:
            beside = _checked(source.vectors, source.present)
            _match_source(arrays, beside, heads, source)
        means = {}
        for name, array in arrays.items():
            rows = array.rows[array.mask]
            if not len(rows) and beside is not None and name in beside:
                rows = beside[name].rows[beside[name].mask]
            if not len(rows):
                raise ChiasmError(f"{name}: no item has this modality; leave it out")
            means[name] = rows.mean(axis=0, dtype=np.float64)
        unknown = sorted(set(self.fusion.auxiliary) - set(means)) if isinstance(self.fusion.auxiliary, Mapping) else []
        if unknown:
            raise ChiasmError(f"auxiliary names modalities that the items do not have: {', '.join(unknown)}")

        by = next((target for target in targets if target.kind == "classes"), None)
        codes = None if by is None else by.values.astype(np.int64)
        source_rows = None
        if source is not None and beside is not None:
            count = len(next(iter(beside.values())).mask)
            source_rows = _rows(
                _inputs(beside, means, count), source.targets, heads, count, _weights(source.weights, count), by
            )
        network, log = fit_and_refit(
            lambda _: self._learner(means, heads),
            _rows(_inputs(arrays, means, items), targets, heads, items, weight, by),
            held_out=held_out_rows(
                np.zeros(items, dtype=np.int64) if codes is None else np.unique(codes, return_inverse=True)[1],
                training=self.training,
                groups=group,
            ),
            training=self.training,
            source=source_rows,
            alpha=alpha,
            metrics=_Metrics(heads),
            on_epoch=on_epoch,
        )
        assert isinstance(network, _Network)
        self._fitted = _Fitted(means, heads, network, log)
        return self

    @property
    def log(self) -> TrainingLog:
        """How the number of epochs was chosen.

        Raises:
            ChiasmError: the network was not fitted here, but read from arrays, or not at all.
        """
        log = self._get().log
        if log is None:
            raise ChiasmError("a network that was read from arrays has no log: it belongs to the training")
        return log

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that it was fitted on."""
        return tuple(self._get().means)

    @property
    def variances(self) -> dict[str, float]:
        """The learned variance of each target, by which its loss is divided; 1 where there is one target only."""
        fitted = self._get()
        values = fitted.network.log_variances.detach().exp().tolist()
        return {head.name: float(value) for head, value in zip(fitted.heads, values, strict=True)}

    def predict(self, vectors: Vectors, present: Present) -> dict[str, Float[np.ndarray, "items ..."]]:
        """Predictions by target: class probabilities, label probabilities, or numbers in their own unit.

        Modalities that the network was not fitted on are not looked at; those that it was fitted on and that are not
        given are missing.

        Raises:
            ChiasmError: items have none of its modalities, or embeddings are not usable or of another width.
        """
        fitted = self._get()
        outputs = self._outputs(vectors, present)
        predictions: dict[str, Float[np.ndarray, "items ..."]] = {}
        for head in fitted.heads:
            logits = torch.from_numpy(outputs[f"head.{head.name}"]).double()
            if head.kind == "classes":
                predictions[head.name] = logits.softmax(dim=1).numpy()
            elif head.kind == "labels":
                predictions[head.name] = logits.sigmoid().numpy()
            else:
                predictions[head.name] = logits[:, 0].numpy() * head.deviation + head.mean
        return predictions

    def embed(self, vectors: Vectors, present: Present) -> Float32[np.ndarray, "items width"]:
        """The fused embedding of each item.

        Raises:
            ChiasmError: as `predict`.
        """
        fused: Float32[np.ndarray, "items width"] = self._outputs(vectors, present)["fused"]
        return fused

    def as_arrays(self) -> tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]]:
        """What was learned as arrays by name, and what they mean in the types of JSON."""
        fitted = self._get()
        arrays: dict[str, Float[np.ndarray, "..."]] = {
            f"network.{name}": tensor.detach().numpy().copy() for name, tensor in fitted.network.state_dict().items()
        }
        arrays |= {f"mean.{number}": mean for number, mean in enumerate(fitted.means.values())}
        fusion = {option.name: getattr(self.fusion, option.name) for option in fields(self.fusion)}
        if isinstance(self.fusion.auxiliary, Mapping):
            fusion["auxiliary"] = dict(self.fusion.auxiliary)
        description = {
            "format": FORMAT,
            "version": VERSION,
            "fusion": fusion,
            "modalities": {name: len(mean) for name, mean in fitted.means.items()},
            "heads": [asdict(head) for head in fitted.heads],
        }
        return arrays, description

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, Float[np.ndarray, "..."]], description: Mapping[str, Any]
    ) -> FusionNetwork:
        """The network that `as_arrays` described. It predicts the same; its `training` is the default.

        Raises:
            ChiasmError: arrays and description are not of a fusion network, of another version, or damaged.
        """
        if description.get("format") != FORMAT or description.get("version") != VERSION:
            raise ChiasmError(
                f"this is {description.get('format')!r} of version {description.get('version')!r}; expected {FORMAT!r} "
                f"of version {VERSION}: save it again with this version of chiasm"
            )
        try:
            model = cls(Fusion(**description["fusion"]))
            heads = tuple(_Head(**head) for head in description["heads"])
            means = {
                name: np.asarray(arrays[f"mean.{number}"], dtype=np.float64)
                for number, name in enumerate(description["modalities"])
            }
            if {name: len(mean) for name, mean in means.items()} != dict(description["modalities"]):
                raise ValueError("the means are not as wide as the modalities")
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise ValueError("some numbers are not finite")
            with seeded(0):
                network = _Network(means, heads, model.fusion)
            prefix = "network."
            network.load_state_dict(
                {
                    name.removeprefix(prefix): torch.from_numpy(np.array(array, dtype=np.float32))
                    for name, array in arrays.items()
                    if name.startswith(prefix)
                }
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ChiasmError(
                f"the fusion network is damaged ({type(error).__name__}: {error}): save it again"
            ) from error
        network.eval()
        model._fitted = _Fitted(means, heads, network)
        return model

    def _get(self) -> _Fitted:
        if self._fitted is None:
            raise ChiasmError("this FusionNetwork is not fitted yet: call fit, or read one by from_arrays")
        return self._fitted

    def _learner(
        self, means: Mapping[str, Float64[np.ndarray, " _"]], heads: tuple[_Head, ...]
    ) -> tuple[nn.Module, Loss]:
        network = _Network(means, heads, self.fusion)
        return network, network.loss

    def _outputs(self, vectors: Vectors, present: Present) -> dict[str, Float32[np.ndarray, "items _"]]:
        fitted = self._get()
        arrays = {name: array for name, array in _checked(vectors, present).items() if name in fitted.means}
        for name, array in arrays.items():
            if array.rows.shape[1] != len(fitted.means[name]):
                raise ChiasmError(
                    f"{name}: expected embeddings of width {len(fitted.means[name])}, as in fit; got "
                    f"{array.rows.shape[1]}. Use the encoder that the network was fitted with"
                )
        known = ", ".join(fitted.means)
        if not arrays:
            raise ChiasmError(f"no embeddings of a modality that the network was fitted on: give some of {known}")
        _refuse_bare(arrays, "modality that the network was fitted on", tuple(fitted.means))
        items = len(next(iter(arrays.values())).mask)
        tensors = _outputs(fitted.network, _inputs(arrays, fitted.means, items), torch.device("cpu"))
        return {name: tensor.numpy() for name, tensor in tensors.items()}


class _Network(nn.Module):
    """Tokens, fusion and heads. Modalities go by number inside, since their names may hold any characters."""

    def __init__(self, dims: Mapping[str, Shaped[np.ndarray, " _"]], heads: tuple[_Head, ...], fusion: Fusion) -> None:
        super().__init__()
        width, number = fusion.width, len(dims)
        self.names, self.heads, self.fusion = tuple(dims), heads, fusion
        self.encoders = nn.ModuleList(nn.Linear(len(mean), width) for mean in dims.values())
        self.missing = nn.ParameterList(torch.zeros(width) for _ in dims)
        self.drop = nn.Dropout(fusion.dropout)
        if fusion.kind == "gated":
            self.gates = nn.ModuleList(nn.Linear(number * width, width) for _ in dims)
        elif fusion.kind == "attention":
            self.token = nn.Parameter(0.02 * torch.randn(width))
            self.layer = nn.TransformerEncoderLayer(
                width, fusion.heads, 2 * width, fusion.dropout, batch_first=True, norm_first=True
            )
            self.norm = nn.LayerNorm(width)
        elif fusion.kind == "low_rank":
            self.factors = nn.ModuleList(nn.Linear(width, fusion.rank * width) for _ in dims)
            for factor in self.factors:
                nn.init.ones_(factor.bias)  # type: ignore[arg-type]
        fused = number * width if fusion.kind == "concat" else width
        self.outputs = nn.ModuleList(nn.Linear(fused, head.outputs) for head in heads)
        self.auxiliary = nn.ModuleDict(
            {
                str(i): nn.ModuleList(nn.Linear(width, head.outputs) for head in heads)
                for i, name in enumerate(self.names)
                if fusion.auxiliary_weight(name) > 0
            }
        )
        self.log_variances = nn.Parameter(torch.zeros(len(heads)), requires_grad=len(heads) > 1)

    def forward(self, inputs: Tensors) -> dict[str, Tensor]:
        """Logits of each target, those of each modality's own heads, and the fused embedding."""
        present = torch.stack([inputs[f"present.{i}"] for i in range(len(self.names))], dim=1)
        kept = torch.ones_like(present)
        if self.training and self.fusion.modality_dropout:
            drawn = torch.rand_like(present)
            best = torch.where(present > 0, drawn, -1.0).argmax(dim=1, keepdim=True)
            kept = (drawn >= self.fusion.modality_dropout).to(present.dtype).scatter(1, best, 1.0)
        tokens = [
            self.token_of(i, inputs[f"vector.{i}"] * kept[:, i : i + 1], (present * kept)[:, i : i + 1])
            for i in range(len(self.names))
        ]
        fused = self.fuse(tokens)
        outputs = {"fused": fused}
        for head, layer in zip(self.heads, self.outputs, strict=True):
            outputs[f"head.{head.name}"] = layer(self.drop(fused))
        for i, layers in self.auxiliary.items():
            assert isinstance(layers, nn.ModuleList)
            outputs[f"present.{i}"] = (present * kept)[:, int(i)]
            for head, layer in zip(self.heads, layers, strict=True):
                outputs[f"auxiliary.{i}.{head.name}"] = layer(self.drop(tokens[int(i)]))
        return outputs

    def token_of(self, number: int, vector: Tensor, present: Tensor) -> Tensor:
        """The token of a modality. Vectors are 0 where it is missing, so that a part of it counts for that part."""
        encoder = self.encoders[number]
        assert isinstance(encoder, nn.Linear)
        token: Tensor = vector @ encoder.weight.T + present * encoder.bias + (1 - present) * self.missing[number]
        return token

    def fuse(self, tokens: list[Tensor]) -> Tensor:
        """The fused embedding; the formulas are at the top of the module."""
        if self.fusion.kind == "concat":
            return torch.cat(tokens, dim=1)
        if self.fusion.kind == "gated":
            together = torch.cat(tokens, dim=1)
            gated = [
                torch.sigmoid(gate(together)) * torch.tanh(token)
                for gate, token in zip(self.gates, tokens, strict=True)
            ]
            return torch.stack(gated).sum(dim=0)
        if self.fusion.kind == "attention":
            rows = torch.stack([self.token.expand_as(tokens[0]), *tokens], dim=1)
            token: Tensor = self.norm(self.layer(rows)[:, 0])
            return token
        product = torch.stack([factor(token) for factor, token in zip(self.factors, tokens, strict=True)]).prod(dim=0)
        return product.reshape(-1, self.fusion.rank, self.fusion.width).sum(dim=1)

    def loss(self, outputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:
        """Of all targets, and of the modalities' own heads."""
        total = self._combined(outputs, "head", targets, weights, self.log_variances)
        for i in self.auxiliary:
            # Their losses must not teach the variances, which say how well the fusion knows a target.
            own = self._combined(
                outputs, f"auxiliary.{i}", targets, weights * outputs[f"present.{i}"], self.log_variances.detach()
            )
            total = total + self.fusion.auxiliary_weight(self.names[int(i)]) * own
        return total

    def row_losses(self, head: _Head, logits: Tensor, targets: Tensors) -> tuple[Tensor, Tensor]:
        """The loss of each row, and which rows have the target."""
        values, known = targets[f"values.{head.name}"], targets[f"known.{head.name}"]
        if head.kind == "classes":
            return class_losses(logits, values), known
        if head.kind == "labels":
            return label_losses(logits, values, known), known
        return number_losses(logits, values, known), known

    def _combined(
        self, outputs: Tensors, prefix: str, targets: Tensors, weights: Tensor, log_variances: Tensor
    ) -> Tensor:
        losses, labelled = [], []
        for head in self.heads:
            rows, known = self.row_losses(head, outputs[f"{prefix}.{head.name}"], targets)
            share = weights * known
            losses.append(weighted_mean(rows, share))
            labelled.append(share.sum() > 0)
        return uncertainty_weighted(torch.stack(losses), log_variances, torch.stack(labelled))


@dataclass(frozen=True)
class _Metrics:
    """What is logged beside the loss: accuracy of classes and labels, mean squared error of standardised numbers."""

    heads: tuple[_Head, ...]

    def __call__(self, outputs: Tensors, targets: Tensors) -> dict[str, float]:
        measured = {}
        for head in self.heads:
            logits, values = outputs[f"head.{head.name}"], targets[f"values.{head.name}"]
            known = targets[f"known.{head.name}"]
            if not bool(known.any()):
                continue
            if head.kind == "number":
                measured[f"{head.name}/squared_error"] = float(((logits[:, 0] - values)[known] ** 2).mean())
            else:
                right = logits.argmax(dim=1) == values if head.kind == "classes" else (logits > 0) == (values > 0)
                measured[f"{head.name}/accuracy"] = float(right[known].double().mean())
        return measured


@dataclass(frozen=True, eq=False)
class _Modality:
    rows: Float[np.ndarray, "items dim"]
    mask: Bool[np.ndarray, " items"]


def _checked(vectors: Vectors, present: Present) -> dict[str, _Modality]:
    """Embeddings with a mask each, proven usable."""
    if not vectors:
        raise ChiasmError("there are no embeddings: give them by modality")
    unknown = sorted(set(present) - set(vectors))
    if unknown:
        raise ChiasmError(f"masks are given for {', '.join(unknown)}, which have no embeddings")
    lengths = {name: len(rows) for name, rows in vectors.items()}
    if len(set(lengths.values())) > 1:
        raise ChiasmError(f"modalities must have a row for every item, missing or not; got {lengths} rows")
    checked = {}
    for name, given in vectors.items():
        rows = np.asarray(given)
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise ChiasmError(f"{name}: embeddings must be a matrix of floats; got {rows.dtype} {rows.shape}")
        mask = np.asarray(present.get(name, np.ones(len(rows), dtype=bool)))
        if mask.shape != (len(rows),) or mask.dtype != np.bool_:
            raise ChiasmError(f"{name}: the mask must be {len(rows)} booleans; got {mask.dtype} {mask.shape}")
        bad = np.flatnonzero(mask)[~np.isfinite(rows[mask]).all(axis=1)]
        if len(bad):
            raise ChiasmError(
                f"{name}: {len(bad)} of {int(mask.sum())} embeddings hold NaN or infinite values, first of item "
                f"{bad[0]}: leave them out of the mask"
            )
        checked[name] = _Modality(rows, mask)
    return checked


def _refuse_bare(arrays: Mapping[str, _Modality], what: str, wanted: tuple[str, ...]) -> None:
    bare = np.flatnonzero(~np.any([array.mask for array in arrays.values()], axis=0))
    if len(bare):
        raise ChiasmError(
            f"{len(bare)} items have no {what} ({', '.join(wanted)}), first item {bare[0]}: leave them out"
        )


def _heads(targets: Sequence[Target], items: int) -> tuple[_Head, ...]:
    names = [target.name for target in targets]
    if not names or len(set(names)) != len(names):
        raise LabelError(f"there must be at least one target, each with a name of its own; got {names or 'none'}")
    heads = []
    for target in targets:
        if len(target) != items:
            raise LabelError(f"{target.name}: there are {items} items but {len(target)} values: give one an item")
        if not np.any(target.known):
            raise LabelError(f"{target.name}: all values are missing: label some items, or leave the target out")
        mean, deviation = 0.0, 1.0
        if target.kind == "classes" and len(np.unique(target.values[target.known])) < 2:
            raise LabelError(f"{target.name}: all known values are of one class: at least 2 classes are needed")
        if target.kind == "number":
            known = target.values[target.known]
            mean, deviation = float(known.mean()), float(known.std()) or 1.0
        heads.append(_Head(target.name, target.kind, target.outputs, mean, deviation))
    return tuple(heads)


def _match_source(
    arrays: Mapping[str, _Modality], beside: Mapping[str, _Modality], heads: tuple[_Head, ...], source: SourceItems
) -> None:
    for name, array in beside.items():
        if name not in arrays:
            raise ChiasmError(f"{name}: the source has this modality, the items do not; leave it out")
        if array.rows.shape[1] != arrays[name].rows.shape[1]:
            raise ChiasmError(
                f"{name}: the source's embeddings have width {array.rows.shape[1]}, the items' "
                f"{arrays[name].rows.shape[1]}: use the same encoder for both"
            )
    _refuse_bare(beside, "modality in the source", tuple(beside))
    count = len(next(iter(beside.values())).mask)
    by_name = {head.name: head for head in heads}
    for target in source.targets:
        head = by_name.get(target.name)
        if head is None or head.kind != target.kind or (target.kind == "labels" and target.outputs != head.outputs):
            raise LabelError(f"{target.name}: the source has this target of kind {target.kind!r}, the items do not")
        if target.kind == "classes" and target.values.max(initial=-1) >= head.outputs:
            raise LabelError(
                f"{target.name}: the source has class {target.values.max()}, the items have 0 to {head.outputs - 1}; "
                "give Target(size=...) if there are more"
            )
        if len(target) != count:
            raise LabelError(f"{target.name}: there are {count} source items but {len(target)} values")


def _weights(weights: Float[np.ndarray, " items"] | Unchecked | None, items: int) -> Float64[np.ndarray, " items"]:
    if weights is None:
        return np.ones(items)
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (items,) or not (np.isfinite(checked) & (checked >= 0)).all() or not checked.any():
        raise ValueError(
            f"weights must be {items} numbers, one an item, finite, not below 0 and not all 0; got shape "
            f"{checked.shape}"
        )
    return checked


def _inputs(
    arrays: Mapping[str, _Modality], means: Mapping[str, Float64[np.ndarray, " _"]], items: int
) -> dict[str, Float32[np.ndarray, "items ..."]]:
    """What the network takes: 0 where a modality is missing."""
    inputs: dict[str, Float32[np.ndarray, "items ..."]] = {}
    for i, (name, mean) in enumerate(means.items()):
        features = np.zeros((items, len(mean)), dtype=np.float32)
        mask = np.zeros(items, dtype=bool)
        if name in arrays:
            mask = arrays[name].mask
            rows = arrays[name].rows[mask]
            features[mask] = unit_rows(rows - mean.astype(rows.dtype)) * np.sqrt(len(mean)).astype(np.float32)
        inputs[f"vector.{i}"], inputs[f"present.{i}"] = features, mask.astype(np.float32)
    return inputs


def _rows(
    inputs: Mapping[str, Float32[np.ndarray, "items ..."]],
    targets: Sequence[Target],
    heads: tuple[_Head, ...],
    items: int,
    weights: Float64[np.ndarray, " items"],
    by: Target | None,
) -> Rows:
    """Items for the training loop; a target that is not given is missing throughout."""
    given = {target.name: target for target in targets}
    arrays: dict[str, Shaped[np.ndarray, "items ..."]] = {}
    for head in heads:
        target = given.get(head.name)
        known = np.zeros(items, dtype=bool) if target is None else np.asarray(target.known)
        values: Shaped[np.ndarray, "items ..."]
        if head.kind == "classes":
            values = np.full(items, -1, dtype=np.int64)
        else:
            values = np.zeros((items, head.outputs) if head.kind == "labels" else items, dtype=np.float32)
        if target is not None and head.kind == "number":
            values[known] = (target.values[known] - head.mean) / head.deviation
        elif target is not None:
            values[known] = target.values[known]
        arrays[f"values.{head.name}"], arrays[f"known.{head.name}"] = values, known
    codes: Int[np.ndarray, " items"] | None = None if by is None else arrays[f"values.{by.name}"]
    return Rows(inputs, arrays, weights, codes)
