"""Project a collection's embeddings to the plane, for the map on the page."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, UInt8

from chiasm.errors import CollectionError
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import placed_vectors

Layout: TypeAlias = Literal["overview", "neighbours"]

MOST_POINTS: dict[Layout, int] = {"overview": 200_000, "neighbours": 2000}  # t-SNE takes a minute for many more
MOST_GROUPS = 9  # that are told apart by their colours
_SAMPLE = 20_000  # rows that the axes are found from
_BLOCK = 1000  # rows whose products are added up in single precision


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
        some = vectors[:: max(1, len(vectors) // _SAMPLE)]  # enough for two axes, or fifty
        mean = some.mean(axis=0)
        scatter = np.zeros((vectors.shape[1], vectors.shape[1]))
        for start in range(0, len(some), _BLOCK):
            centred = some[start : start + _BLOCK] - mean
            scatter += centred.T @ centred
        axes = np.linalg.eigh(scatter)[1][:, ::-1][:, : 50 if layout == "neighbours" else 2]
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
        axes = (axes * np.sign(largest)).astype(np.float32)  # a sign rule, so that the map is the same every time
        components = vectors @ axes - mean @ axes
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

    def draw(self, modality: Modality, column: str | None, layout: Layout) -> dict[str, Any]:
        """Return the points of a map, see `schemas.MapAnswer`; of too many, some are drawn at random.

        Args:
            modality: whose embeddings; of several files of an item the mean counts.
            column: whose values group the points.
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
        groups, numbers = _groups(collection, names, column) if column else ([], np.zeros(0, np.uint8))
        return {
            "ids": names,
            "xy": _base64(np.rint((plane + 1) * 32767.5).astype("<u2")),
            "names": groups,
            "groups": _base64(numbers),
            "total": total,
        }

    def _project(
        self, collection: Collection, modality: Modality, layout: Layout
    ) -> tuple[list[str], Float[np.ndarray, "points 2"], int]:
        placed = placed_vectors(collection, self._searcher.space)
        rows = np.flatnonzero((placed.modalities == modality) & np.isnan(placed.starts))
        names, first, owners = np.unique(placed.items[rows], return_index=True, return_inverse=True)
        drawn = np.sort(np.random.default_rng(0).permutation(len(names))[: MOST_POINTS[layout]])
        if len(names) == len(rows):
            vectors = placed.vectors[rows[first[drawn]]]
        else:
            order = np.argsort(owners, kind="stable")
            begins = np.searchsorted(owners[order], np.arange(len(names)))
            means = np.add.reduceat(placed.vectors[rows[order]], begins, axis=0)
            vectors = means[drawn] / np.bincount(owners)[drawn, None].astype(np.float32)
        return names[drawn].tolist(), project(vectors, layout), len(names)


def _groups(collection: Collection, names: list[str], column: str) -> tuple[list[str], UInt8[np.ndarray, " points"]]:
    """Return names of groups of a column's values, and the group of each item; the last group is for the rest.

    The most frequent values have groups of their own, the others share one; numbers are grouped by fifths.
    """
    if column not in collection.columns():
        raise CollectionError(
            f"there is no column {column!r:.200}. Columns: {', '.join(collection.columns()) or 'none'}"
        )
    table = collection.table(["id", column])
    values = table[column].take(pc.index_in(pa.array(names, pa.string()), value_set=table["id"]))
    different = pc.count_distinct(values).as_py()
    if (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)) and different > MOST_GROUPS:
        numbers = values.to_numpy().astype(np.float64)
        edges = np.unique(np.nanquantile(numbers, [0.2, 0.4, 0.6, 0.8]))
        shown = [f"{edge:g}" for edge in edges]
        between = [f"{low} to {high}" for low, high in pairwise(shown)]
        codes = np.where(np.isnan(numbers), len(edges) + 1, np.searchsorted(edges, numbers, side="right"))
        return [f"below {shown[0]}", *between, f"from {shown[-1]}", "none"], codes.astype(np.uint8)
    texts = values.cast(pa.string())
    counted = pc.value_counts(texts.drop_null())
    rows = sorted(
        zip(counted.field(1).to_pylist(), counted.field(0).to_pylist(), strict=True), key=lambda row: (-row[0], row[1])
    )
    own = [name for _, name in rows[: MOST_GROUPS if different <= MOST_GROUPS else MOST_GROUPS - 1]]
    codes = pc.fill_null(pc.index_in(texts, value_set=pa.array(own, pa.string())), len(own)).to_numpy()
    return [*own, "others" if len(own) < len(rows) else "none"], codes.astype(np.uint8)


def _base64(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode("ascii")
