"""Linear heads over sets of modalities: which sets get one, how an item is predicted by them, and how they are saved.

This is what predictors of numbers and of labels (`chiasm.recognition.predictor`) share, and what the recogniser of classes
does in the same way (`chiasm.recognition.fitting`). How a head is fitted is left to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.modalities import (
    Arrays,
    Features,
    ModalityArrays,
    Subset,
    as_arrays,
    refuse_empty_items,
    subsets,
)
from chiasm.recognition.storage import Tensors, read_model, write_model
from chiasm.types import Modality

VERSION = 2
"""Of what predictors save."""

_ENOUGH = 0.9  # of the items of each of its modalities: what a joint head needs, as the recogniser's

_Model = TypeVar("_Model")
_Saved = TypeVar("_Saved", bound="SubsetPredictor")


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Feature rows of one set of modalities -> one output a number or label.

    Attributes:
        coef: outputs = rows @ coef.T + intercept.
        intercept: see above.
        weight: of each output where several heads predict together; 0 for a label that the head knows nothing of.
        strength: of the penalty that was chosen; NaN where nothing was fitted.
        items: learned from.
    """

    coef: Float[np.ndarray, "outputs dim"]
    intercept: Float[np.ndarray, " outputs"]
    weight: Float64[np.ndarray, " outputs"]
    strength: float
    items: int


@dataclass(frozen=True, eq=False)
class LinearHeads:
    """The heads of all sets of modalities that have one, and how items are predicted by them."""

    features: Features
    heads: Mapping[Subset, LinearHead]

    def route(self, subset: Subset) -> tuple[Subset, ...]:
        """The heads that predict items with just these modalities: the largest within them."""
        within = [part for part in self.heads if set(part) <= set(subset)]
        return tuple(part for part in within if not any(set(part) < set(other) for other in within))

    def outputs(
        self, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, "rows outputs"]:
        """Of items that have these modalities."""
        parts = {}
        for part in self.route(subset):
            head = self.heads[part]
            features = self.features.rows(arrays, part, rows)
            parts[part] = (features @ head.coef.T + head.intercept).astype(np.float64)
        return self.joined(parts)

    def joined(
        self, parts: Mapping[Subset, Float64[np.ndarray, "rows outputs"]]
    ) -> Float64[np.ndarray, "rows outputs"]:
        """The weighted mean of the outputs of heads; the plain one where all weights are 0."""
        weights = np.array([self.heads[part].weight for part in parts])
        weights[:, ~weights.any(axis=0)] = 1.0
        weights /= weights.sum(axis=0)
        total: Float64[np.ndarray, "rows outputs"] = np.zeros(next(iter(parts.values())).shape)
        for weight, part in zip(weights, parts.values(), strict=True):
            total += np.where(weight > 0, weight * part, 0.0)
        return total

    def held_out(
        self, arrays: ModalityArrays, subset: Subset, by_head: Mapping[Subset, Float64[np.ndarray, "items outputs"]]
    ) -> Float64[np.ndarray, "items outputs"]:
        """Outputs of the training items that have a set of modalities, by heads that did not see them; else NaN."""
        rows = arrays.having(subset)
        first = next(iter(by_head.values()))
        out = np.full(first.shape, np.nan)
        out[rows] = self.joined({part: by_head[part][rows] for part in self.route(subset)})
        return out


class SubsetPredictor(ABC):
    """What predictors of numbers and of labels share: checking arrays, choosing sets of modalities, saving."""

    _FORMAT: ClassVar[str]
    _PARAMETERS: ClassVar[tuple[str, ...]]
    heads_: LinearHeads

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  scikit-learn's signature
        """The arguments of the constructor by name."""
        return {name: getattr(self, name) for name in self._PARAMETERS}

    def set_params(self: _Saved, **params: Any) -> _Saved:
        """Set arguments of the constructor by name.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in self._PARAMETERS:
                raise ValueError(
                    f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(self._PARAMETERS)}"
                )
            setattr(self, name, value)
        return self

    @property
    def modalities_(self) -> Subset:
        """Those that items are predicted from; an item needs one of them."""
        self._check_fitted()
        return self.heads_.features.modalities

    def save(self, folder: str | Path) -> None:
        """Write the predictor as a folder of JSON and safetensors, whole or not at all.

        A model that was saved there before is replaced.

        Raises:
            ChiasmError: the folder exists and is something else.
        """
        self._check_fitted()
        write_model(Path(folder), *self.described())

    @classmethod
    def load(cls: type[_Saved], folder: str | Path) -> _Saved:
        """Read a predictor that `save` wrote. Runs no code from the folder.

        Raises:
            ChiasmError: there is none, it is of another kind or version, or it is damaged.
        """
        return read_model(Path(folder), cls._FORMAT, VERSION, cls.restored)

    def described(self) -> tuple[dict[str, Any], Tensors]:
        """All that was learned as JSON fields and arrays."""
        heads = self.heads_
        tensors: Tensors = {}
        for kind, means in (("own", heads.features.own), ("shared", heads.features.shared)):
            tensors |= {f"mean.{kind}.{name}": mean for name, mean in means.items()}
        described = []
        for part, head in heads.heads.items():
            name = "+".join(part)
            tensors |= {
                f"head.{name}.coef": head.coef, f"head.{name}.intercept": head.intercept, f"head.{name}.weight": head.weight,
            }  # fmt: skip
            described.append({"modalities": list(part), "strength": _finite(head.strength), "items": head.items})
        fields, arrays = self._described()
        description = {
            "format": self._FORMAT,
            "version": VERSION,
            "parameters": self.get_params(),
            "own": {name: len(mean) for name, mean in heads.features.own.items()},
            "shared": {name: len(mean) for name, mean in heads.features.shared.items()},
            "heads": described,
            **fields,
        }
        return description, {name: np.ascontiguousarray(value) for name, value in {**tensors, **arrays}.items()}

    @classmethod
    def restored(cls: type[_Saved], description: Mapping[str, Any], tensors: Mapping[str, Any]) -> _Saved:
        """The predictor that `described` was of.

        Raises:
            KeyError, TypeError, ValueError, ChiasmError: the parts do not fit together.
        """
        features = Features(
            {name: floats(tensors, f"mean.own.{name}", width) for name, width in description["own"].items()},
            {name: floats(tensors, f"mean.shared.{name}", width) for name, width in description["shared"].items()},
        )
        model = cls(**description["parameters"])
        outputs = model._restore(description, tensors)
        heads: dict[Subset, LinearHead] = {}
        for entry in description["heads"]:
            part: Subset = tuple(entry["modalities"])
            if not part or set(part) - set(features.modalities):
                raise ValueError(f"a head of {part}")
            name = "+".join(part)
            heads[part] = LinearHead(
                floats(tensors, f"head.{name}.coef", outputs, features.width(part)),
                floats(tensors, f"head.{name}.intercept", outputs),
                floats(tensors, f"head.{name}.weight", outputs),
                _number(entry["strength"]),
                int(entry["items"]),
            )
            if heads[part].items < 1:
                raise ValueError(f"a head of {part} that learned from {heads[part].items} items")
        if not heads or {(name,) for name in features.modalities} != {part for part in heads if len(part) == 1}:
            raise ValueError("every modality needs a head of its own")
        model.heads_ = LinearHeads(features, heads)
        return model

    @abstractmethod
    def _described(self) -> tuple[dict[str, Any], Tensors]:
        """What the predictor keeps beside its heads, as JSON fields and arrays."""

    @abstractmethod
    def _restore(self, description: Mapping[str, Any], tensors: Mapping[str, Any]) -> int:
        """Take back what `_described` gave, and return the number of outputs of each head."""

    def _check_fitted(self) -> None:
        if not hasattr(self, "heads_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit, or load a saved one")

    def _checked(self, X: Arrays) -> tuple[ModalityArrays, Subset]:
        """The arrays, and the modalities among them that the predictor knows."""
        self._check_fitted()
        return known_modalities(as_arrays(X), self.heads_.features)

    def _outputs(self, X: Arrays) -> Float64[np.ndarray, "items outputs"]:
        arrays, known = self._checked(X)
        outputs = np.empty((len(arrays), len(next(iter(self.heads_.heads.values())).intercept)))
        for subset, rows in arrays.by_subset(known):
            outputs[rows] = self.heads_.outputs(arrays, subset, rows)
        return outputs


def deserving(
    arrays: ModalityArrays, learnable: Callable[[Int[np.ndarray, " rows"]], Bool[np.ndarray, " outputs"]]
) -> tuple[Features, list[Subset]]:
    """The sets of modalities that get a head, the single ones first, and the features of those.

    Args:
        arrays: of the training items.
        learnable: which outputs can be learned from some of the items. A modality needs one; a larger set needs all that
            its modalities have, and 0.9 of the items of each.

    Raises:
        LabelError: no modality has items to learn from.
    """
    features = Features.of(arrays)
    singles = [(name,) for name in features.modalities if learnable(arrays.having((name,))).any()]
    if not singles:
        raise LabelError(
            "no modality has items that differ in what is to be predicted: label more items that have the same modality"
        )
    features = features.only(tuple(part[0] for part in singles))
    chosen: list[Subset] = []
    for part in subsets(features.modalities):
        rows = arrays.having(part)
        own = learnable(rows)
        parts = [arrays.having((name,)) for name in part]
        if all(len(rows) >= _ENOUGH * len(one) and not (learnable(one) & ~own).any() for one in parts):
            chosen.append(part)
    return features, chosen


def known_modalities(arrays: ModalityArrays, features: Features) -> tuple[ModalityArrays, Subset]:
    """The arrays, and the modalities among them that features can be made of.

    Raises:
        LabelError: items have none of these modalities.
        ChiasmError: embeddings are of another width, or a modality lacks its own or its shared vectors.
    """
    for part, means in ((arrays.vectors, features.own), (arrays.shared, features.shared)):
        for name, array in part.items():
            if name in means and array.shape[1] != len(means[name]):
                raise ChiasmError(
                    f"{name}: expected embeddings of width {len(means[name])}, as in fit; got {array.shape[1]}. "
                    "Use the encoder that the predictor was fitted with"
                )
    known: tuple[Modality, ...] = tuple(name for name in arrays.modalities if name in features.modalities)
    for name in known:
        for what, part, means in (
            ("its own embeddings", arrays.vectors, features.own),
            ("vectors in the shared space", arrays.shared, features.shared),
        ):
            if name in means and name not in part:
                raise ChiasmError(f"{name}: the predictor was fitted with {what}; give them, too")
    refuse_empty_items(arrays, known, fitted=features.modalities)
    return arrays, known


def floats(tensors: Mapping[str, Any], name: str, *shape: int) -> Float[np.ndarray, "..."]:
    """A tensor, proven to be finite floats of a shape.

    Raises:
        KeyError, ValueError: there is none, or it is something else.
    """
    tensor: Float[np.ndarray, "..."] = tensors[name]
    if tensor.shape != shape or tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
        raise ValueError(f"{name} should be finite floats of shape {shape}, got {tensor.dtype} {tensor.shape}")
    return tensor


def _finite(number: float) -> float | None:
    return number if np.isfinite(number) else None


def _number(field: float | None) -> float:
    return float("nan") if field is None else float(field)
