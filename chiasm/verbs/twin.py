"""The interpretable twin of a model: its answers from how similar items are to words that people name, and what that costs.

Concept scores are those of concept bottleneck models without labels of concepts (Yuksekgonul et al. 2023,
arXiv:2205.15480): cosines with the words' vectors in the space of the collection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from chiasm.encoders.base import Encoder
from chiasm.errors import ChiasmError, SpaceError
from chiasm.evaluation.intervals import Interval, bootstrap_interval
from chiasm.evaluation.metrics import classification_metrics
from chiasm.evaluation.predictions import DRAWS
from chiasm.evaluation.record import Record
from chiasm.recognition.columns import Fitted
from chiasm.recognition.modalities import ModalityArrays
from chiasm.recognition.twin import FOLDS, fit_twin, rules_of
from chiasm.space import Space
from chiasm.splits import class_name, grouped_stratified_folds
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import embedded_items, labelled_items, modality_arrays, shared_block
from chiasm.verbs.fair import fair_items
from chiasm.verbs.model import Model
from chiasm.verbs.spaces import space_of, start_of

MOST_CONCEPTS = 1000


@dataclass(frozen=True)
class TwinReport(Record):
    """A sparse linear model on concepts beside the model that it stands for.

    Attributes:
        concepts: that items were compared with.
        used: how many of them have a weight.
        rules: by class, the weights of the concepts, the largest first; a concept counts in standard deviations.
        f1_macro: of the twin on items that it did not learn from.
        full: of the model on the same items.
        cost: macro-F1 of the model less that of the twin, with a 95 % interval (bootstrap over groups of items).
        measured: on what, in words.
    """

    concepts: tuple[str, ...]
    used: int
    rules: dict[str, dict[str, float]]
    f1_macro: float
    full: float
    cost: Interval
    measured: str

    @property
    def sentence(self) -> str:
        """Return what the twin costs, in words."""
        return (
            f"A sparse linear model on {self.used} of {len(self.concepts)} concepts: macro-F1 {self.f1_macro:.3f}, the model "
            f"{self.full:.3f} on {self.measured}; it costs {self.cost.estimate:.3f} [{self.cost.low:.3f}, {self.cost.high:.3f}]"
        )


def read_concepts(given: Sequence[str] | str | Path) -> tuple[str, ...]:
    """Return the words to compare items with: a list, words with commas between, or a file with one a line.

    Raises:
        ChiasmError: there are none, or more than 1000.
    """
    if isinstance(given, str | Path):
        text = str(given)
        is_file = isinstance(given, Path) or ("," not in text and Path(text).is_file())
        try:
            given = Path(given).read_text(encoding="utf-8").splitlines() if is_file else text.split(",")
        except (OSError, UnicodeDecodeError) as error:
            raise ChiasmError(
                f"the concepts {text} cannot be read: {error}. A file has one a line, in UTF-8"
            ) from error
    concepts = tuple(dict.fromkeys(word.strip() for word in given if word.strip()))
    if not 1 <= len(concepts) <= MOST_CONCEPTS:
        raise ChiasmError(
            f"expected 1 to {MOST_CONCEPTS} concepts, as words with commas between (red,round,animal) or a file with one a "
            f"line; got {len(concepts)}"
        )
    return concepts


def concept_scores(
    arrays: ModalityArrays, vectors: Float64[np.ndarray, "concepts dim"], rows: Int[np.ndarray, " some"]
) -> Float64[np.ndarray, "items concepts"]:
    """Return how similar items are to concepts, in standard deviations of each; the mean over what an item has.

    Args:
        arrays: vectors of the items in the space of the concepts, by modality.
        vectors: unit vectors of the concepts.
        rows: the items whose mean and deviation count.
    """
    total, count = np.zeros((len(arrays), len(vectors))), np.zeros((len(arrays), 1))
    for name, shared in arrays.shared.items():
        has = arrays.present[name]
        known = rows[has[rows]]
        if not len(known):
            continue
        cosines = shared.astype(np.float64) @ vectors.T
        deviation = cosines[known].std(axis=0)
        total[has] += ((cosines - cosines[known].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0))[has]
        count[has] += 1
    return total / np.maximum(count, 1)


def make_twin(
    saved: Model, column: Fitted, collection: Collection, networks: Sequence[Encoder], concepts: Sequence[str]
) -> TwinReport:
    """Fit the twin of a model and measure it beside the model on items that neither has learned from.

    These are the items of the collection that the model has not learned from; where there are none, those that it has learned
    from, each by heads and a twin of folds that did not see it.

    Raises:
        ChiasmError: the column is not of classes, or the model has learned from no item of the collection.
        SpaceError: the space of the collection cannot compare words with a modality of the model.
    """
    if column.kind != "classes":
        raise ChiasmError(
            f"a twin tells classes apart; {column.column!r} is a column of {column.kind}: leave concepts out"
        )
    modalities = [name for name in saved.fingerprints if name in column.features.modalities]
    space = space_of(collection, networks, None).space
    _check_words(space, modalities, collection.path)
    data = labelled_items(
        collection, networks, saved.space or start_of(collection, networks), [column.column], modalities=modalities
    )
    learned = saved.left_out.knows(data.contents)
    if not learned.any():
        raise ChiasmError(
            f"the model has learned from no item of {collection.path.name}, and a twin learns from the same items: name the "
            "collection that it was fitted on"
        )
    fair = fair_items(saved, data)
    full = fair.predict(saved)[column.column]
    row_of = {name: row for row, name in enumerate(data.ids)}
    measured = np.array([row_of[name] for name in full.ids])
    labels = np.array([class_name(value) for value in data.values[column.column]])
    fitted_on = np.flatnonzero(learned)
    found = embedded_items(collection, data.ids, {name: saved.fingerprints[name] for name in modalities})
    block = slice(*shared_block(space))
    vectors = space.embed_names(concepts, networks)[:, block].astype(np.float64)
    scores = concept_scores(modality_arrays(found, space, modalities), vectors, fitted_on)
    twin = fit_twin(scores[fitted_on], labels[fitted_on], data.groups[fitted_on])
    predicted = np.empty(len(labels), dtype=labels.dtype)
    if learned[measured].any():
        own = data.groups[fitted_on]
        folds = min(FOLDS, len(np.unique(own)))
        for split in grouped_stratified_folds(labels[fitted_on], folds, groups=own):
            train, test = fitted_on[split.train], fitted_on[split.test]
            predicted[test] = fit_twin(scores[train], labels[train], data.groups[train]).predict(scores[test])
    else:
        predicted[measured] = twin.predict(scores[measured])
    theirs, ours, truth = full.predicted, predicted[measured], labels[measured]

    def cost(rows: Int[np.ndarray, " drawn"]) -> float:
        both = (classification_metrics(truth[rows], side[rows]).f1_macro for side in (theirs, ours))
        return next(both) - next(both)

    rules = rules_of(twin, concepts)
    return TwinReport(
        tuple(concepts),
        len({word for weights in rules.values() for word in weights}),
        rules,
        classification_metrics(truth, ours).f1_macro,
        classification_metrics(truth, theirs).f1_macro,
        bootstrap_interval(cost, len(measured), groups=data.groups[measured], draws=DRAWS),
        fair.words,
    )


def _check_words(space: Space, modalities: Sequence[Modality], path: Path) -> None:
    """Refuse a space in which a modality cannot be compared with words.

    Raises:
        SpaceError: says which, and how to learn it.
    """
    apart = {name for pair in space.apart() if "text" in pair for name in pair} - {"text"}
    lost = [name for name in modalities if name in apart or name not in space.modalities]
    if "text" not in space.modalities:
        raise SpaceError(
            f"concepts are words, and the encoders of {path} take none: move it to others that do (chiasm reembed)"
        )
    if lost:
        raise SpaceError(
            f"words and {' and '.join(lost)} cannot be compared in the space {space.name!r} of {path}: align them first (chiasm "
            f"align {path} --pairs {lost[0]},text)"
        )
