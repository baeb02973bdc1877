"""A collection as a picture: embeddings projected to the plane, and the drawing of them as SVG.

Arrays in, coordinates out; then coordinates and values in, text out. What the points are is `page`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float

Layout: TypeAlias = Literal["overview", "neighbours"]

MOST_POINTS = 2000
WIDTH, HEIGHT = 900, 560
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7300", "#56b4e9", "#7f3fbf", "#a8324a", "#4d4d4d")
"""Of groups, largest first; told apart also by the colour-blind (after Okabe and Ito, 2008)."""
REST = "#a3a9b3"
_STEPS = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c2b900")  # viridis, its yellow darkened to be seen on white
_MARGIN = 14


@dataclass(frozen=True)
class Point:
    """One item on the map."""

    id: str
    caption: str
    value: Any  # of the column that colours; None where it has none


def project(
    vectors: Float[np.ndarray, "points dim"], layout: Layout, *, seed: int = 0
) -> Float[np.ndarray, "points 2"]:
    """Coordinates in the plane.

    Args:
        vectors: of the points.
        layout: `"overview"` is the two directions in which they differ most (principal components); `"neighbours"` keeps
            near ones together (t-SNE, van der Maaten and Hinton 2008), and distances between groups mean nothing.
        seed: of t-SNE.
    """
    if len(vectors) < 3:
        return np.stack([np.arange(len(vectors)), np.zeros(len(vectors))], axis=1).astype(np.float32)
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, : min(50, axes.shape[1])]
    axes = axes * np.where(
        axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1, 1
    )  # the same every time
    components = centred @ axes
    if layout == "overview" or len(vectors) < 10:
        plane = components[:, :2] if components.shape[1] > 1 else np.pad(components, ((0, 0), (0, 1)))
        return np.asarray(plane, dtype=np.float32)
    from sklearn.manifold import TSNE

    tsne = TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), init="pca", random_state=seed, max_iter=500)
    found: Float[np.ndarray, "points 2"] = tsne.fit_transform(components).astype(np.float32)
    return found


def groups_of(values: Sequence[Any]) -> tuple[list[tuple[str, str]], list[int]]:
    """Names and colours of groups of values, and the group of each value.

    Numbers of more than nine kinds are grouped by fifths; of other values the eight most frequent are groups of their
    own and the rest is one.
    """
    there = [value for value in values if value is not None and value != ""]
    numeric = bool(there) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
    if numeric and len(set(there)) > len(COLOURS):
        edges = np.unique(np.quantile(np.array(there, dtype=float), [0, 0.2, 0.4, 0.6, 0.8, 1]))
        names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(edges)]
        places = [
            len(names)
            if value in (None, "")
            else int(np.clip(np.searchsorted(edges, value, "right") - 1, 0, len(names) - 1))
            for value in values
        ]
        return [*zip(names, _STEPS, strict=False), ("none", REST)], places
    counts = Counter(str(value) for value in there)
    frequent = [name for name, _ in sorted(counts.items(), key=lambda row: (-row[1], row[0]))]
    own = frequent if len(frequent) <= len(COLOURS) else frequent[: len(COLOURS) - 1]
    place = {name: number for number, name in enumerate(own)}
    rest = "others" if len(own) < len(frequent) else "none"
    groups = [*zip(own, COLOURS, strict=False), (rest, REST)]
    return groups, [len(own) if value in (None, "") else place.get(str(value), len(own)) for value in values]


def drawing(
    points: Sequence[Point], plane: Float[np.ndarray, "points 2"], *, column: str | None, total: int, box: str = "map"
) -> str:
    """The map, with a legend; every point says what it is, and can be clicked or reached with the arrow keys.

    Args:
        points: what to draw.
        plane: where.
        column: by whose values they are coloured; None: all alike.
        total: items that there are; more than points if some were drawn by lot.
        box: listener of clicks.
    """
    if not points:
        return (
            '<p class="cx-nothing" role="status">There is nothing to draw: no item has an embedding of this kind.</p>'
        )
    low, high = plane.min(axis=0), plane.max(axis=0)
    reach = np.where(high > low, high - low, 1)
    at = (plane - low) / reach * (np.array([WIDTH, HEIGHT]) - 2 * _MARGIN) + _MARGIN
    groups, places = (
        groups_of([point.value for point in points]) if column else ([("items", COLOURS[0])], [0] * len(points))
    )
    radius = 5 if len(points) <= 400 else 4 if len(points) <= 1000 else 3
    dots = []
    for point, (x, y), place in zip(points, at.tolist(), places, strict=True):
        value = "" if column is None or point.value is None else f" ({point.value})"
        dots.append(
            f'<circle cx="{x:.1f}" cy="{HEIGHT - y:.1f}" r="{radius}" class="g{place}" data-id="{escape(point.id)}">'
            f"<title>{escape(point.caption[:80])}{escape(value)}</title></circle>"
        )
    counts = Counter(places)
    styles = "".join(f".cx-map .g{place}{{fill:{colour}}}" for place, (_, colour) in enumerate(groups))
    legend = "".join(
        f'<li><i style="background:{colour}"></i>{escape(name[:40])} <small>{counts[place]}</small></li>'
        for place, (name, colour) in enumerate(groups)
        if counts[place]
    )
    less = "" if total <= len(points) else f'<p class="cx-small">{len(points):,} of {total:,} items, drawn by lot</p>'
    title = f"Map of {len(points)} items" + ("" if column is None else f", coloured by {column}")
    return (
        f'<figure class="cx-map"><style>{styles}</style><svg viewBox="0 0 {WIDTH} {HEIGHT}" tabindex="0" role="application"'
        f' aria-label="{escape(title)}. Arrow keys go from point to point, Enter shows the item." data-box="{box}">'
        f'{"".join(dots)}</svg><figcaption><ul class="cx-legend">{legend}</ul>{less}</figcaption></figure>'
    )
