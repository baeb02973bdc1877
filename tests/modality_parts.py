"""Arrays of some modalities with items that lack one, for the tests of recognition."""

from __future__ import annotations

import numpy as np

from chiasm.recognition.modalities import ModalityArrays
from chiasm.types import Modality


def without(arrays: ModalityArrays, missing: dict[Modality, np.ndarray]) -> ModalityArrays:
    """Take modalities from some items and put nonsense in their rows."""
    vectors, present = dict(arrays.vectors), dict(arrays.present)
    for name, rows in missing.items():
        vectors[name] = vectors[name].copy()
        vectors[name][rows] = np.nan
        present[name] = present[name].copy()
        present[name][rows] = False
    return ModalityArrays(vectors, present)


def only(arrays: ModalityArrays, *names: Modality) -> dict[Modality, np.ndarray]:
    return {name: arrays.vectors[name] for name in names}
