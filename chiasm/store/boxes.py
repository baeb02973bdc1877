"""Boxes in pictures, as one column of an item: a JSON text of labels and areas.

What draws or measures them is elsewhere; here they are only kept between an import and an export.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

BOXES = "boxes"
"""The column."""

Area: TypeAlias = tuple[float, float, float, float]
"""Left, top, width and height as shares of the picture, from 0 to 1."""

WHOLE: Area = (0.0, 0.0, 1.0, 1.0)


class Box(NamedTuple):
    """One box."""

    label: str
    area: Area


def write_boxes(boxes: Iterable[Box]) -> str | None:
    """Return the value of the column; None of no boxes.

    Example:
        >>> write_boxes([Box("cat", (0.1, 0.2, 0.5, 0.25))])
        '[["cat", 0.1, 0.2, 0.5, 0.25]]'
    """
    rows = [[box.label, *(round(share, 6) for share in box.area)] for box in boxes]
    return json.dumps(rows, ensure_ascii=False) if rows else None


def read_boxes(value: Any) -> tuple[Box, ...]:
    """Return the boxes in a value of the column; none where it holds something else.

    Example:
        >>> read_boxes('[["cat", 0.1, 0.2, 0.5, 0.25]]')[0].area
        (0.1, 0.2, 0.5, 0.25)
        >>> read_boxes("three of them")
        ()
    """
    if not isinstance(value, str):
        return ()
    try:
        rows = json.loads(value)
        return tuple(Box(str(label), (float(x), float(y), float(w), float(h))) for label, x, y, w, h in rows)
    except (ValueError, TypeError, RecursionError):
        return ()
