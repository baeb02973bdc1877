"""A model kept ready to be asked: opened media in, predictions out, with no collection between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from chiasm.encoders.base import Encoder
from chiasm.errors import SpaceError
from chiasm.space import Space
from chiasm.types import Media, Modality
from chiasm.verbs import fit as learning
from chiasm.verbs.dataset import Embedded, fingerprints_of, modality_arrays
from chiasm.verbs.model import Model


@dataclass(frozen=True)
class Recognised:
    """What a model says of one item, see `chiasm.verbs.predict.Prediction`."""

    modalities: tuple[Modality, ...]
    said: Mapping[str, Any]


class Classifier:
    """A model with the encoders that it was fitted on.

    Args:
        model: see `chiasm.verbs.model.load_model`.
        encoders: that embed what it is asked about.
        start: the space of these encoders in which nothing was learned, as the model saw it.

    Raises:
        ChiasmError: the model was fitted on other encoders.
    """

    def __init__(self, model: Model, encoders: Sequence[Encoder], start: Space) -> None:
        model.check(fingerprints_of(encoders))
        self.label = model.label
        self._model = model
        self._start = start
        self._encoder = {m: next(e for e in encoders if m in e.modalities) for m in model.fingerprints}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What it takes."""
        return tuple(self._encoder)

    def predict(self, items: Sequence[Sequence[Media]], *, level: float, false_alarm_rate: float) -> list[Recognised]:
        """Recognise items, each given by the media that it has; of several of one modality the mean counts.

        Args:
            items: the media of each.
            level: how often the set of labels is to hold the true one.
            false_alarm_rate: the share of items of known labels that may be called unknown.

        Raises:
            SpaceError: the model takes nothing of an item, or its encoder finds nothing in it.
        """
        arrays: dict[Modality, Float[np.ndarray, "items dim"]] = {}
        present: dict[Modality, Bool[np.ndarray, " items"]] = {}
        for modality, encoder in self._encoder.items():
            flat = [(row, medium) for row, media in enumerate(items) for medium in media if medium.modality == modality]
            if not flat:
                continue
            vectors = encoder.encode([medium for _, medium in flat]).vectors
            has = vectors.any(axis=1)
            owners = np.array([row for row, _ in flat], dtype=int)[has]
            counts = np.bincount(owners, minlength=len(items))
            total = np.zeros((len(items), vectors.shape[1]), np.float32)
            np.add.at(total, owners, vectors[has])
            arrays[modality] = total / np.maximum(counts, 1)[:, None].astype(np.float32)
            present[modality] = counts > 0
        used = [modality for modality in arrays if present[modality].any()]
        usable = np.any([present[modality] for modality in used], axis=0) if used else np.zeros(len(items), dtype=bool)
        if not usable.all():
            raise SpaceError(
                f"the model takes {', '.join(self._encoder)}; it finds none of these in item {int(np.argmin(usable))}"
            )
        found = modality_arrays(Embedded(arrays, present, {}), self._start, used)
        said = learning.say(self._model.predictor, found, level=level, false_alarm_rate=false_alarm_rate)
        return [Recognised(tuple(m for m in used if present[m][row]), one) for row, one in enumerate(said)]
