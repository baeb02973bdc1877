"""The training set of classes: items of the target, and the names, items of a source and moved rows beside them.

`Data` gives the rows of a set of modalities as a `Task` of the ladder, with what a `State` of choices puts beside them. What is
chosen, and how, is left to `chiasm.recognition.fitting`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from chiasm.recognition.heads import Log, RungName
from chiasm.recognition.ladder import Task
from chiasm.recognition.modalities import Features, ModalityArrays, Subset
from chiasm.recognition.targets import Target
from chiasm.recognition.unlabelled import SemiName
from chiasm.splits import Labels, Shots
from chiasm.types import Modality

ACROSS = 0.2
"""Weight of an item as a shot for another modality. (Measured on stamps at 1, 2 and 5 shots: captions as shots for
pictures 0.472, 0.518, 0.563 without, 0.482, 0.521, 0.568 at weight 1, 0.485, 0.524, 0.580 at 0.3; pictures as shots for
captions hurt at every weight, so whether to is decided on held-out items.)"""


@dataclass(frozen=True, eq=False)
class SourceItems:
    """Labelled items of another domain.

    Example:
        >>> source = SourceItems(ModalityArrays({"text": np.eye(2)}), ["bird", "fish"])
        >>> len(source.arrays)
        2
    """

    arrays: ModalityArrays
    labels: Labels


@dataclass(frozen=True)
class State:
    """The choices made so far."""

    rung: RungName = "linear"
    alpha: float = 0.0
    across: tuple[Modality, ...] = ()
    """Modalities whose head also learns from the other modalities' vectors."""
    semi: SemiName | None = None
    moved: bool = False
    """Whether the items' rows, moved among those of the target, are learned from as well."""
    source_moved: bool = False
    """Whether the source's rows, moved among the items' and the unlabelled ones, are learned from as well."""


@dataclass(frozen=True, eq=False)
class Data:
    """The training data.

    Attributes:
        target: the classes; every value known.
        arrays: embeddings of the items.
        features: how they become rows.
        fold_of: the fold of each item, -1 where it is always learned from.
        groups: items of one group are never on both sides of a fold.
        names: embedded names of classes in the shared space, and whose they are.
        source: items of another domain and their classes.
        source_features: how the source's embeddings become rows: each domain is centred by its own mean.
        unlabelled: more items of this domain.
        moved: by set of modalities, the rows of its items where they were moved to.
        source_moved: by set of modalities, the rows of the source's items where they were moved to.
    """

    target: Target
    arrays: ModalityArrays
    features: Features
    fold_of: Int[np.ndarray, " items"]
    groups: Int[np.ndarray, " items"] | None = None
    names: tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None = None
    source: tuple[ModalityArrays, Int[np.ndarray, " source"]] | None = None
    source_features: Features | None = None
    unlabelled: ModalityArrays | None = None
    moved: Mapping[Subset, Float[np.ndarray, "rows _"]] = field(default_factory=dict)
    source_moved: Mapping[Subset, Float[np.ndarray, "rows _"]] = field(default_factory=dict)

    @property
    def codes(self) -> Int[np.ndarray, " items"]:
        """The class of each item, by number."""
        return self.target.values

    @property
    def classes(self) -> int:
        """Return the number of classes, including those known by name only."""
        return len(self.target.names)

    @property
    def per_class(self) -> float:
        """Items of the median class."""
        counts = np.bincount(self.codes)
        return float(np.median(counts[counts > 0]))

    def task(self, part: Subset, state: State) -> Task:
        """Return what a head learns from: all items that have a set of modalities, and what stands beside them."""
        rows = self.arrays.having(part)
        anchors = None
        if self.names is not None and any(name in self.features.shared for name in part):
            anchors = Shots(self.features.anchors(self.names[0], part), self.names[1])
        source = self.source_shots(part, state.alpha, moved=state.source_moved)
        others, fold = self._other_modalities(part[0]) if part in {(name,) for name in state.across} else (None, None)
        extra, extra_fold = others or source, fold
        if state.moved and part in self.moved:
            extra, extra_fold = Shots(self.moved[part], self.codes[rows]), self.fold_of[rows]
        if others is not None and source is not None and fold is not None:
            extra, extra_fold = source + others, np.concatenate([np.full(len(source), -1), fold])
        groups = None if self.groups is None else self.groups[rows]
        features = self.features.rows(self.arrays, part, rows)
        return Task(features, self.codes[rows], self.fold_of[rows], groups, anchors, extra, extra_fold)

    def source_shots(self, part: Subset, alpha: float, *, moved: bool = False) -> Shots | None:
        """Return rows of the source, weighted so that alpha is their share of the loss; None where it has none."""
        if self.source is None or self.source_features is None or not alpha:
            return None
        arrays, codes = self.source
        if not set(part) <= set(self.source_features.modalities):
            return None
        rows = arrays.having(part)
        if not len(rows):
            return None
        features = self.source_features.rows(arrays, part, rows)
        labels = codes[rows]
        if moved and part in self.source_moved:
            features, labels = np.vstack([features, self.source_moved[part]]), np.tile(labels, 2)
        weight = alpha / (1 - alpha) * len(self.arrays.having(part)) / len(labels)
        return Shots(features, labels, np.full(len(labels), weight))

    def _other_modalities(self, name: Modality) -> tuple[Shots | None, Int[np.ndarray, " extra"] | None]:
        """Items in other modalities as shots of this one (cross-modal few-shot, Lin et al. 2023), and their folds.

        An item that is held out is held out in all its modalities: its caption would tell the class of its picture.
        """
        shots: Shots | None = None
        folds = [np.empty(0, dtype=np.int64)]
        for other in self.features.shared:
            rows = self.arrays.having((other,))
            if other != name and len(rows):
                X = self.features.across(self.arrays, other, rows, name)
                more = Shots(X, self.codes[rows], np.full(len(rows), ACROSS))
                shots = more if shots is None else shots + more
                folds.append(self.fold_of[rows])
        return shots, None if shots is None else np.concatenate(folds)

    def unlabelled_rows(self, part: Subset) -> Float[np.ndarray, "rows dim"]:
        """Return feature rows of the unlabelled items that have a set of modalities."""
        items = self.unlabelled
        if items is None or not set(part) <= set(items.modalities):
            return np.empty((0, self.features.width(part)), np.float32)
        return self.features.rows(items, part, items.having(part))

    def spread(self, log: Log, part: Subset) -> Log:
        """Return log-probabilities of a task's rows as those of all items, NaN elsewhere."""
        every = np.full((len(self.codes), self.classes), np.nan)
        every[self.arrays.having(part)] = log
        return every
