"""Heads: fitted adapters as plain arrays, so that a saved recogniser predicts with numpy alone.

How each is fitted is its own module; which one is taken, `chiasm.recognition.ladder`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from chiasm.recognition.adapters import MLPAdapter, ResidualAdapter
    from chiasm.recognition.few_shot import Prototypes, TipAdapter, ZeroShot
    from chiasm.recognition.linear_probe import LinearProbe

RungName: TypeAlias = Literal["zero-shot", "prototypes", "tip-adapter", "linear", "residual", "mlp"]
RUNGS: tuple[RungName, ...] = ("zero-shot", "prototypes", "tip-adapter", "linear", "residual", "mlp")
"""The ladder of adapters, from those that learn least to those that learn most."""


@dataclass(frozen=True, eq=False)
class Head:
    """A classifier of one set of modalities: feature rows in, log-probabilities out."""

    rung: RungName
    classes: Int[np.ndarray, " known"]  # which of the recogniser's classes it tells apart
    tensors: Mapping[str, Float[np.ndarray, "..."]]
    numbers: Mapping[str, float]  # what was chosen by cross-validation or options
    items: int  # learned from

    def logits(self, features: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows known"]:
        """One a class it knows."""
        return _LOGITS[self.rung](self.tensors, self.numbers, features)

    def log_probabilities(
        self, features: Float[np.ndarray, "rows dim"], classes: int
    ) -> Float[np.ndarray, "rows classes"]:
        """Of all classes, minus infinity for those it does not know."""
        logits = self.logits(features).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        every = np.full((len(features), classes), -np.inf)
        every[:, self.classes] = logits
        return every

    @property
    def is_linear(self) -> bool:
        """Whether its logits are `features @ coef.T + intercept`."""
        return _LOGITS[self.rung] is _linear


def head_of(rung: RungName, fitted: Any, classes: Int[np.ndarray, " known"], items: int) -> Head:
    """The arrays of a fitted estimator.

    Args:
        rung: what it is.
        fitted: the estimator, fitted on unit rows.
        classes: which of the recogniser's classes its own are.
        items: learned from.
    """
    tensors, numbers = _TAKEN[rung](fitted)
    return Head(rung, classes, {name: np.ascontiguousarray(value) for name, value in tensors.items()}, numbers, items)


_Tensors: TypeAlias = Mapping[str, Float[np.ndarray, "..."]]
_Numbers: TypeAlias = Mapping[str, float]


def _linear(tensors: _Tensors, _: _Numbers, rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows known"]:
    logits: Float[np.ndarray, "rows known"] = rows @ tensors["coef"].T + tensors["intercept"]
    return logits


def _cache(
    tensors: _Tensors, numbers: _Numbers, rows: Float[np.ndarray, "rows dim"]
) -> Float[np.ndarray, "rows known"]:
    likeness = np.exp(numbers["sharpness"] * (rows @ tensors["keys"].T - 1))
    logits: Float[np.ndarray, "rows known"] = numbers["scale"] * (
        rows @ tensors["anchors"].T + numbers["ratio"] * (likeness @ tensors["values"])
    )
    return logits


def _residual(
    tensors: _Tensors, numbers: _Numbers, rows: Float[np.ndarray, "rows dim"]
) -> Float[np.ndarray, "rows known"]:
    features = _centred(tensors["mean"], rows)
    adapted = np.maximum(features @ tensors["down"].T + tensors["down_bias"], 0) @ tensors["up"].T
    mixed = numbers["ratio"] * adapted + (1 - numbers["ratio"]) * features
    mixed /= np.maximum(np.linalg.norm(mixed, axis=1, keepdims=True), 1e-12)
    logits: Float[np.ndarray, "rows known"] = mixed @ tensors["coef"].T + tensors["intercept"]
    return logits


def _perceptron(tensors: _Tensors, _: _Numbers, rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows known"]:
    values = _centred(tensors["mean"], rows)
    for number in range(sum(name.startswith("weight") for name in tensors)):
        values = (values if number == 0 else np.maximum(values, 0)) @ tensors[f"weight{number}"].T
        values = values + tensors[f"bias{number}"]
    return values


def _centred(mean: Float[np.ndarray, " dim"], rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    centred = rows - mean.astype(rows.dtype)
    unit: Float[np.ndarray, "rows dim"] = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    return unit


_LOGITS: dict[str, Callable[[_Tensors, _Numbers, Float[np.ndarray, "rows dim"]], Float[np.ndarray, "rows known"]]] = {
    "zero-shot": _linear,
    "prototypes": _linear,
    "tip-adapter": _cache,
    "linear": _linear,
    "residual": _residual,
    "mlp": _perceptron,
}

_Taken: TypeAlias = tuple[dict[str, Float[np.ndarray, "..."]], dict[str, float]]


def _take_cosine(fitted: ZeroShot | Prototypes) -> _Taken:
    return {"coef": fitted.coef_, "intercept": np.zeros(len(fitted.coef_), fitted.coef_.dtype)}, {
        "scale": fitted.scale_
    }


def _take_cache(fitted: TipAdapter) -> _Taken:
    return (
        {"keys": fitted.keys_, "values": fitted.values_, "anchors": fitted.anchors_},
        {"scale": fitted.scale_, "sharpness": fitted.sharpness_, "ratio": fitted.ratio_},
    )


def _take_linear(fitted: LinearProbe) -> _Taken:
    coef, intercept = fitted.coef_, fitted.intercept_
    if len(coef) == 1:  # two classes: the logit of the second, that of the first is 0
        coef, intercept = np.vstack([0 * coef, coef]), np.append(0 * intercept, intercept)
    return {"coef": coef, "intercept": intercept}, {"strength": fitted.strength_}


def _take_residual(fitted: ResidualAdapter) -> _Taken:
    tensors = {
        "mean": fitted.mean_,
        "down": fitted.down_[0],
        "down_bias": fitted.down_[1],
        "up": fitted.up_,
        "coef": fitted.coef_,
        "intercept": fitted.intercept_,
    }
    return tensors, {"ratio": float(fitted.ratio), "epochs": float(fitted.epochs_)}


def _take_perceptron(fitted: MLPAdapter) -> _Taken:
    tensors = {"mean": fitted.mean_}
    for number, (weight, bias) in enumerate(fitted.layers_):
        tensors |= {f"weight{number}": weight, f"bias{number}": bias}
    return tensors, {"epochs": float(fitted.epochs_)}


_TAKEN: dict[str, Callable[[Any], _Taken]] = {
    "zero-shot": _take_cosine,
    "prototypes": _take_cosine,
    "tip-adapter": _take_cache,
    "linear": _take_linear,
    "residual": _take_residual,
    "mlp": _take_perceptron,
}
