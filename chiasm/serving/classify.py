"""A model kept ready to be asked: opened media in, predictions and their reasons out, with no collection between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.encoders.base import Encoder, fingerprints_of
from chiasm.errors import SpaceError
from chiasm.recognition.explanations import Examples
from chiasm.recognition.reasons import Explanation
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.store.ingest import embed_media
from chiasm.types import FileOutcome, Media, Modality
from chiasm.verbs.dataset import Labelled, means_by_item, modality_arrays
from chiasm.verbs.explain import known_ids, learned_items
from chiasm.verbs.explainer import Explainer, Part, column_of, number_of
from chiasm.verbs.model import Model, read_faithfulness
from chiasm.verbs.predict import describe_items

MOST_FOR_EXAMPLES = 50_000  # items of a collection, all of whose embeddings are read


@dataclass(frozen=True)
class Recognised:
    """The prediction for one item, see `chiasm.verbs.predict.Prediction`."""

    modalities: tuple[Modality, ...]
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Explained:
    """The explanation of an item.

    Attributes:
        explanation: of its prediction.
        places: of the media explained, among those of the item.
        measured: what `chiasm explain` kept of how faithful such reasons are, see `chiasm.verbs.model.keep_faithfulness`.
    """

    explanation: Explanation
    places: tuple[int, ...]
    measured: Mapping[str, Any]


class Classifier:
    """A model with the encoders that it was fitted on.

    Args:
        model: see `chiasm.verbs.model.load_model`.
        encoders: that embed what it is asked about.
        start: the space of these encoders in which nothing was learned, as the model saw it.
        folder: of the model.
        collection: whose items speak for and against, where the model has learned from them.

    Raises:
        ChiasmError: the model was fitted on other encoders.
    """

    def __init__(
        self, model: Model, encoders: Sequence[Encoder], start: Space, folder: Path, collection: Collection
    ) -> None:
        self._folder = folder
        self._collection = collection
        self._learned: dict[str, tuple[Labelled, Examples] | None] = {}
        model.check(fingerprints_of(encoders))
        self.label = model.label
        self.model = model
        self._networks = encoders
        self._space = model.space or start
        self._encoder = {m: next(e for e in encoders if m in e.modalities) for m in model.fingerprints}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities that it takes."""
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
        vectors, outcomes = embed_media(items, self._encoder)
        means = means_by_item(vectors, [str(row) for row in range(len(items))])
        usable = np.any([*means.present.values()], axis=0) if means.present else np.zeros(len(items), dtype=bool)
        if not usable.all():
            raise self._nothing_in(int(np.argmin(usable)), outcomes)
        found = modality_arrays(means, self._space, [*means.arrays])
        said = describe_items(self.model.recognizer, found, level=level, false_alarm_rate=false_alarm_rate)
        return [
            Recognised(tuple(m for m in means.arrays if means.present[m][row]), one) for row, one in enumerate(said)
        ]

    def explain(self, media: Sequence[Media], *, column: str | None, answer: str | None) -> Explained:
        """Say what the prediction of one item rests on, see `chiasm.verbs.explain`.

        Kinds of reasons that were measured and found no better than random ones are left out. Items that it has learned from
        are read when they are first asked for; of more than 50,000 items in the collection, none are.

        Args:
            media: that it has.
            column: which to explain, of a model that predicts several.
            answer: the class or label to explain. Default: the most probable one.

        Raises:
            ChiasmError: no such column or answer.
            SpaceError: the model takes nothing of the item, or its encoder finds nothing in it.
        """
        fitted = column_of(self.model.recognizer, column)
        explainer = Explainer.of(self.model, self._networks, fitted, number_of(answer, fitted))
        explainer.learned = self._examples(explainer)
        measured = read_faithfulness(self._folder, self.model.version, fitted.column)
        explainer.left_out = frozenset(
            name for name, one in measured.get("media", {}).items() if one["deletion"] <= one["deletion_error"]
        )
        vectors, outcomes = embed_media([media], {name: self._encoder[name] for name in explainer.modalities})
        by_slot = {
            slot: vector
            for own in vectors.values()
            for slot, vector in zip(own.slots, own.vectors, strict=True)
            if vector.any()
        }
        parts: list[Part] = []
        places: list[int] = []
        seen: Counter[Modality] = Counter()
        for place, medium in enumerate(media):
            vector = by_slot.get(f"{medium.modality}/{seen[medium.modality]}")
            seen[medium.modality] += 1
            if vector is not None:
                parts.append(Part(medium.modality, None, medium, vector))
                places.append(place)
        if not parts:
            raise self._nothing_in(0, outcomes)
        return Explained(explainer.explain("", None, parts), tuple(places), measured)

    def _examples(self, explainer: Explainer) -> tuple[Labelled, Examples] | None:
        column = explainer.column.column
        if column not in self._learned:
            self._learned[column] = None
            if self._collection.count() <= MOST_FOR_EXAMPLES:
                known = known_ids(self._collection, self.model)
                self._learned[column] = learned_items(self._collection, self._networks, self.model, explainer, known)
        return self._learned[column]

    def _nothing_in(self, item: int, outcomes: Sequence[FileOutcome]) -> SpaceError:
        reasons = "".join(f"; {outcome.reason}" for outcome in outcomes[:1])
        return SpaceError(f"the model takes {', '.join(self._encoder)}; it finds none of these in item {item}{reasons}")
