"""Record: a frozen dataclass of results that turns itself into the types of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Record:
    """Base class of dataclasses that hold results.

    Example:
        >>> @dataclass(frozen=True)
        ... class Score(Record):
        ...     name: str
        ...     by_fold: np.ndarray
        >>> Score("accuracy", np.array([0.5, 1.0])).as_dict()
        {'name': 'accuracy', 'by_fold': [0.5, 1.0]}
    """

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name: arrays and tuples as lists, records as dicts."""
        return {part.name: _plain(getattr(self, part.name)) for part in fields(self)}


def _plain(value: Any) -> Any:
    match value:
        case Record():
            return value.as_dict()
        case np.ndarray() | np.generic():
            return value.tolist()
        case Mapping():
            return {key: _plain(one) for key, one in value.items()}
        case tuple() | list():
            return [_plain(one) for one in value]
        case _:
            return value
