"""Pairs of files of the same item as arrays: what every alignment learns from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from chiasm.types import Modality


@dataclass(frozen=True)
class Pairs:
    """Pairs of files of the same item, as arrays in a start space."""

    moved: Modality  # the modality that a map is learned for
    anchor: Modality
    items: tuple[str, ...]
    features: Float[np.ndarray, "pairs features"]
    start: Float[np.ndarray, "pairs dim"]
    anchors: Float[np.ndarray, "pairs dim"]
    embeddings: Float[np.ndarray, "pairs embedding"]  # of the moved modality, as the encoder gave them
    moved_hashes: tuple[str, ...]
    anchor_hashes: tuple[str, ...]
    moved_slots: tuple[str, ...]  # "image/0": the item's first image
    anchor_slots: tuple[str, ...]

    @cached_property
    def groups(self) -> Int[np.ndarray, " pairs"]:
        """Pairs that share an image or a caption are of one group: neither may stand on both sides of a split."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        # In the order in which they come: the order of a set is another one in every process, and so would splits be.
        names = dict.fromkeys((*self.moved_hashes, *self.anchor_hashes, *self.items))
        nodes = {name: number for number, name in enumerate(names)}
        left = [nodes[name] for part in (self.moved_hashes, self.anchor_hashes) for name in part]
        right = [nodes[name] for name in self.items] * 2
        graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(nodes), len(nodes)))
        return np.asarray(connected_components(graph, directed=False)[1])[[nodes[name] for name in self.items]]

    def take(self, rows: Int[np.ndarray, " rows"]) -> dict[str, Any]:
        """Arguments of an alignment's `fit` for some of the pairs."""
        groups = self.groups[rows]
        return {"X": self.features[rows], "Y": self.anchors[rows], "start": self.start[rows], "groups": groups}
