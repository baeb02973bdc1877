"""Choose held-out pairs and items: those that a space or a model did not learn from, or was learned without in a fold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.alignment.pairs import Pairs
from chiasm.errors import ChiasmError, SpaceError
from chiasm.evaluation.pairs import PairMetrics, pair_metrics
from chiasm.evaluation.predictions import Predictions
from chiasm.verbs.dataset import Labelled
from chiasm.verbs.measure import joined, predictions, targets_for, without_each
from chiasm.verbs.model import Model
from chiasm.verbs.spaces import SavedSpace

On: TypeAlias = Literal["auto", "folds", "training"]
"""The items to measure on: `"auto"`: what was not learned from, else as `"folds"`: all that was learned from, each by maps or heads
that were learned without it. `"training"`: everything, by what has learned from it."""


@dataclass(frozen=True, eq=False)
class FairPairs:
    """Pairs to measure a space on."""

    rows: Int[np.ndarray, " some"]
    placed: Float[np.ndarray, "some dim"]  # unit vectors of the moved modality
    words: str
    seen: int = 0  # pairs that the map has learned from, above 0 the numbers are optimistic
    taught: bool = False  # whether the space as it is has learned from them, though they are placed as if it had not

    def measure(self, data: Pairs, *, seed: int = 0) -> tuple[PairMetrics, PairMetrics]:
        """Search by each modality for the other in the start and in the space."""
        before = measure_pairs(data, data.start[self.rows], self.rows, seed=seed)
        return before, measure_pairs(data, self.placed, self.rows, seed=seed)


def fair_pairs(data: Pairs, saved: SavedSpace, on: On = "auto") -> FairPairs:
    """Choose the pairs that a space is measured on, and place them.

    Args:
        data: pairs.
        saved: the space.
        on: see `On`.

    Raises:
        SpaceError: all pairs were learned from, and it is not known how the space would do without them.
    """
    count, what = len(data.items), f"pairs of {data.moved} and {data.anchor}"
    every = np.arange(count)
    known = saved.left_out.get(data.moved)

    def placed(rows: Int[np.ndarray, " some"]) -> Float[np.ndarray, "some dim"]:
        return saved.space.place(data.moved, data.embeddings[rows])

    if known is None:
        return FairPairs(every, placed(every), f"{count} {what}")
    learned = np.array([content in known.rows or content in known.others for content in data.moved_hashes], dtype=bool)
    if on == "training" or not learned.any():
        words = f"{count} {what}"
        if learned.any():
            words = f"training items: of {words}, the space has learned from {int(learned.sum())}; these numbers are optimistic"
        return FairPairs(every, placed(every), words, int(learned.sum()))
    new = np.flatnonzero(~learned)
    if on == "auto" and len(new):
        words = f"{len(new)} {what} that the space was not trained on ({int(learned.sum())} others left out)"
        return FairPairs(new, placed(new), words)
    rows = np.array([row for row, content in enumerate(data.moved_hashes) if content in known.rows], dtype=np.int64)
    if not len(rows):
        raise SpaceError(
            f"the space has learned from all {int(learned.sum())} {what}, as a source, and how it would do without them is not "
            "known. Measure on others, or all the same with --on training"
        )
    vectors = known.vectors[[known.rows[data.moved_hashes[row]] for row in rows]]
    words = f"{len(rows)} {what}, each placed by a map that was learned without it (folds of align)"
    return FairPairs(rows, vectors, words, taught=True)


def measure_pairs(
    data: Pairs, mapped: Float[np.ndarray, "some dim"], rows: Int[np.ndarray, " some"], *, seed: int = 0
) -> PairMetrics:
    """Search by each modality of some pairs for the other; equal content is relevant, too.

    Args:
        data: the pairs.
        mapped: unit vectors of the moved modality of these.
        rows: which of them.
        seed: of resampling.
    """
    alike = (np.array(data.anchor_hashes)[rows], np.array(data.moved_hashes)[rows])
    names = (data.anchor, data.moved)
    return pair_metrics(data.anchors[rows], mapped, names=names, alike=alike, groups=data.groups[rows], seed=seed)


@dataclass(frozen=True, eq=False)
class FairItems:
    """Items to measure models on."""

    data: Labelled  # all of them
    rows: Int[np.ndarray, " some"]
    words: str
    seen: int
    by_all: bool  # whether also what has learned from an item predicts it

    def predict(self, model: Model) -> dict[str, Predictions]:
        """Return predictions by column; of items that a model has learned from, by heads that have not.

        The only column of a model is measured by the only one of the items, whatever its name.
        """
        recognizer, data = model.recognizer, self.data.take(self.rows)
        columns = list(recognizer.columns_)
        truth = dict(zip(columns, data.values, strict=True)) if len(columns) == 1 == len(data.values) else None
        targets = targets_for(recognizer, data, truth)
        seen = _seen(model, data) & (not self.by_all)
        parts: dict[str, list[Predictions]] = {}
        if not seen.all():
            for column, part in predictions(recognizer, data, targets, np.flatnonzero(~seen)).items():
                parts.setdefault(column, []).append(part)
        learned = np.flatnonzero(seen)
        for target in targets if len(learned) else ():
            own = data.take(learned)
            outputs = model.left_out.outputs[target.column][[model.left_out.rows[content] for content in own.contents]]
            without = without_each(recognizer, own, target.take(learned), outputs)
            if without is not None:
                parts.setdefault(target.column, []).append(without)
        return {column: joined(of) for column, of in parts.items()}


def fair_items(model: Model, data: Labelled, others: Sequence[Model] = (), on: On = "auto") -> FairItems:
    """Choose the items that models are measured on.

    Args:
        model: that is measured.
        data: items.
        others: models that it is compared with on the same items.
        on: see `On`.

    Raises:
        ChiasmError: all items were learned from, and it is not known how a model would do without them.
    """
    models = (model, *others)
    for one in models:
        one.require_record("it cannot be told which items are new to it")
    masks = np.array([_seen(one, data) for one in models])
    seen, who = masks.any(axis=0), "it was" if len(models) == 1 else "they were"
    if on == "training" or not seen.any():
        words = f"{len(data.ids)} items"
        if seen.any():
            words = f"training items: of {words}, {who.split(maxsplit=1)[0]} learned from {int(seen.sum())}; these numbers are optimistic"
        return FairItems(data, np.arange(len(data.ids)), words, int(seen.sum()), by_all=True)
    new = np.flatnonzero(~seen)
    if on == "auto" and len(new):
        words = f"{len(new)} items that {who} not trained on ({int(seen.sum())} others left out)"
        return FairItems(data, new, words, 0, by_all=False)
    known = [
        ~mask | np.array([content in one.left_out.rows for content in data.contents])
        for one, mask in zip(models, masks, strict=True)
    ]
    rows = np.flatnonzero(np.all(known, axis=0) & seen)
    if not len(rows):
        raise ChiasmError(
            f"all {int(seen.sum())} items were learned from, and how the model would do without them is not known. Measure on "
            "others, or all the same with --on training"
        )
    words = f"{len(rows)} items, each by heads that did not see it (folds of fit)"
    return FairItems(data, rows, words, 0, by_all=False)


def _seen(model: Model, data: Labelled) -> Bool[np.ndarray, " items"]:
    """Return which items a model has learned from: those of the same content, whatever their ids."""
    return model.left_out.knows(data.contents)
