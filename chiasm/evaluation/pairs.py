"""Pairs: two modalities of the same things in one space, searched for by each other and looked at as points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from chiasm.evaluation.geometry import PairGeometry, pair_geometry
from chiasm.evaluation.ranking import PairRetrieval, pair_retrieval
from chiasm.splits import Labels
from chiasm.vectors import Unchecked


@dataclass(frozen=True, eq=False)
class PairMetrics:
    """How well two modalities of the same things find each other in a space.

    Attributes:
        retrieval: the metrics of searching by either.
        geometry: how the two lie.
        vectors: unit vectors of the two, in the order of `retrieval.names`.

    Example:
        >>> from chiasm.vectors import unit_rows
        >>> x = unit_rows(np.random.default_rng(0).normal(size=(30, 8)))
        >>> metrics = pair_metrics(x, x, names=("text", "image"))
        >>> metrics.as_dict()["text_to_image"]["hit@1"]
        1.0
    """

    retrieval: PairRetrieval
    geometry: PairGeometry
    vectors: tuple[Float[np.ndarray, "pairs dim"], Float[np.ndarray, "pairs dim"]]

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics by direction, and the geometry."""
        return {**self.retrieval.as_dict(), "geometry": self.geometry.as_dict()}

    def gain(self, before: PairMetrics) -> dict[str, dict[str, Any]]:
        """Return, by direction and metric, the paired difference to another space; empty if all pairs are of one group."""
        return {
            direction: {name: one.as_dict() for name, one in metrics.items()}
            for direction, metrics in self.retrieval.differences(before.retrieval).items()
        }


def pair_metrics(
    first: Float[np.ndarray, "pairs dim"] | Unchecked,
    second: Float[np.ndarray, "pairs dim"] | Unchecked,
    *,
    names: tuple[str, str],
    alike: Sequence[Labels] = (),
    groups: Labels | None = None,
    seed: int = 0,
) -> PairMetrics:
    """Measure two modalities of the same things, row i of both being of one thing.

    Args:
        first: unit vectors of the first.
        second: unit vectors of the second.
        names: of the two, e.g. `("text", "image")`.
        alike: see `pair_retrieval`.
        groups: see there.
        seed: of resampling.

    Raises:
        LabelError: as `pair_retrieval` and `pair_geometry`.
    """
    retrieval = pair_retrieval(first, second, names=names, alike=alike, groups=groups, seed=seed)
    k = min(10, max(len(first) - 1, 1))
    return PairMetrics(retrieval, pair_geometry(first, second, names=names, k=k), (first, second))
