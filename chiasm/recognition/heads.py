"""Heads: fitted classifiers and regressions as plain arrays, so that a saved recogniser predicts with NumPy alone.

How a head is fitted is its own module; which one is taken, `chiasm.recognition.ladder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.vectors import log_softmax

RungName: TypeAlias = Literal["zero-shot", "prototypes", "linear", "network"]
RUNGS: tuple[RungName, ...] = ("zero-shot", "prototypes", "linear", "network")
"""The ladder of adapters, from those that learn least to those that learn most."""

Log: TypeAlias = Float64[np.ndarray, "items classes"]
"""Log-probabilities; NaN where there are none."""


@dataclass(frozen=True, eq=False)
class Head:
    """A predictor of one set of modalities: feature rows in, one output a class, label or number.

    Example:
        >>> coef, intercept = np.eye(2, dtype=np.float32), np.zeros(2, dtype=np.float32)
        >>> head = Head("linear", np.array([0, 2]), {"coef": coef, "intercept": intercept}, {"strength": 1.0}, items=8)
        >>> head.log_probabilities(np.eye(2, dtype=np.float32), 3).argmax(axis=1).tolist()
        [0, 2]

    Attributes:
        rung: how it was fitted.
        known: which of the recogniser's classes, labels or numbers it gives.
        tensors: `coef` and `intercept`; of a network, its arrays.
        numbers: what was chosen on held-out items, such as the strength of the penalty.
        items: learned from.
        network: description of the network's arrays; None for all other rungs.
    """

    rung: RungName
    known: Int[np.ndarray, " known"]
    tensors: Mapping[str, Float[np.ndarray, "..."]]
    numbers: Mapping[str, float]
    items: int
    network: Mapping[str, Any] | None = None

    @property
    def is_linear(self) -> bool:
        """Return whether the outputs are `rows @ coef.T + intercept`."""
        return self.network is None

    def outputs(self, rows: Float[np.ndarray, "rows dim"]) -> Float64[np.ndarray, "rows known"]:
        """Return one output for each of those it knows: logits of classes or labels, or numbers."""
        if self.network is None:
            linear: Float64[np.ndarray, "rows known"] = rows @ self.tensors["coef"].T + self.tensors["intercept"]
            return linear.astype(np.float64)
        from chiasm.recognition.networks import Network, NetworkInputs

        network = Network.from_arrays(dict(self.tensors), dict(self.network))
        present = np.ones(len(rows), dtype=bool)
        return network.log_probabilities(NetworkInputs({BLOCK: rows}, {BLOCK: present}))

    def log_probabilities(self, rows: Float[np.ndarray, "rows dim"], classes: int) -> Log:
        """Return log-probabilities of all classes, minus infinity for those that the head does not know."""
        every = np.full((len(rows), classes), -np.inf)
        every[:, self.known] = log_softmax(self.outputs(rows))
        return every


BLOCK = "rows"
"""The name of the one block of columns that a network rung learns from."""
