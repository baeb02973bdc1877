"""Project a collection's embeddings to the plane, for the map on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import placed_vectors

Layout: TypeAlias = Literal["overview", "neighbours"]

MOST_POINTS: dict[Layout, int] = {"overview": 20_000, "neighbours": 2000}  # t-SNE takes a minute for many more
_CAPTION = 80  # characters


@dataclass(frozen=True)
class Point:
    """One item on the map; coordinates lie in [-1, 1]."""

    id: str
    x: float
    y: float
    caption: str
    value: Any  # of the column that colours; None if there is none


def project(
    vectors: Float[np.ndarray, "points dim"], layout: Layout, *, seed: int = 0
) -> Float[np.ndarray, "points 2"]:
    """Project vectors to the plane.

    Args:
        vectors: one row a point.
        layout: `"overview"` takes the first two principal components; `"neighbours"` keeps neighbours together (t-SNE,
            van der Maaten and Hinton 2008), and distances between groups mean nothing.
        seed: of t-SNE.

    Returns:
        Coordinates in [-1, 1].

    Example:
        >>> project(np.eye(4, dtype=np.float32), "overview").shape
        (4, 2)
    """
    if len(vectors) < 3:
        plane = np.stack([np.arange(len(vectors)), np.zeros(len(vectors))], axis=1)
    else:
        centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :50]
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
        components = centred @ (axes * np.sign(largest))  # a sign rule, so that the map is the same every time
        plane = np.pad(components[:, :2], ((0, 0), (0, max(0, 2 - components.shape[1]))))
        if layout == "neighbours" and len(vectors) >= 10:
            from sklearn.manifold import TSNE

            perplexity = min(30.0, (len(vectors) - 1) / 3)
            plane = TSNE(perplexity=perplexity, init="pca", random_state=seed, max_iter=500).fit_transform(components)
    low, high = plane.min(axis=0, initial=0), plane.max(axis=0, initial=0)
    scaled: Float[np.ndarray, "points 2"] = 2 * (plane - low) / np.where(high > low, high - low, 1) - 1
    return scaled.astype(np.float32)


class Mapper:
    """Make maps of what a searcher searches, and keep the last few projections.

    Args:
        searcher: its collection and space.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._planes: dict[tuple[Any, ...], tuple[list[str], Float[np.ndarray, "points 2"], int]] = {}

    def points(self, modality: Modality, column: str | None, layout: Layout) -> tuple[list[Point], int]:
        """Return the points of a map, and the number of items; of too many, some are drawn at random.

        Args:
            modality: whose embeddings; of several files of an item the mean counts.
            column: whose values colour the points.
            layout: see `project`.

        Raises:
            CollectionError: there is no such column.
        """
        collection, space = self._searcher.collection, self._searcher.space
        key = (collection.version, space.digest, modality, layout)
        if key not in self._planes:
            made = self._project(collection, modality, layout)
            self._planes = {**dict(list(self._planes.items())[-7:]), key: made}
        names, plane, total = self._planes[key]
        rows = {str(row["id"]): row for row in collection.items(ids=names)} if names else {}
        points = []
        for name, (x, y) in zip(names, plane.tolist(), strict=True):
            row = rows.get(name, {})
            value = row.get(column) if column else None
            points.append(Point(name, x, y, _caption(name, row.get("text") or ()), value))
        return points, total

    def _project(
        self, collection: Collection, modality: Modality, layout: Layout
    ) -> tuple[list[str], Float[np.ndarray, "points 2"], int]:
        placed = placed_vectors(collection, self._searcher.space)
        rows = np.flatnonzero((placed.modalities == modality) & np.isnan(placed.starts))
        names, owners = np.unique(placed.items[rows], return_inverse=True)
        drawn = np.sort(np.random.default_rng(0).permutation(len(names))[: MOST_POINTS[layout]])
        means = np.zeros((len(names), placed.vectors.shape[1]))
        np.add.at(means, owners, placed.vectors[rows])
        means /= np.maximum(np.bincount(owners, minlength=len(names)), 1)[:, None]
        return names[drawn].tolist(), project(means[drawn].astype(np.float32), layout), len(names)


def _caption(name: str, texts: Sequence[str]) -> str:
    inline = next((text for text in texts if not Path(text).is_absolute()), None)
    return (inline or name)[:_CAPTION]
