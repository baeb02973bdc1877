"""Items as they are drawn for training: with targets and weights, in another view and another order in every epoch.

All of it goes by the seed, the epoch and the item alone, so that it is the same in any number of processes and after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from chiasm.encoders.runtime import Arrays
from chiasm.finetuning.processes import count
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.tasks import Rows
from chiasm.finetuning.views import Views
from chiasm.recognition.targets import Target
from chiasm.training import held_out_rows

BLOCK = 64  # items that go through the network at once when nothing is learned


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled items, a row each, in the order of their stored views.

    Attributes:
        targets: the columns that are learned; items may lack values of several.
        groups: items of one group are never on both sides of a split.
        source: which are of another domain, from which is learned and on which nothing is measured.
    """

    targets: Sequence[Target]
    groups: Int[np.ndarray, " items"]
    source: Bool[np.ndarray, " items"]


class Drawn(Dataset[dict[str, Any]]):
    """Items that are drawn anew in every epoch.

    Attributes:
        source: which are of another domain.
        recipe: how they are learned from.
        epoch: that they are drawn for.
        collate: makes a batch of them.
    """

    source: Bool[np.ndarray, " rows"]
    recipe: Recipe
    epoch: int = 0
    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]]

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def strata(self) -> Int[np.ndarray, " rows"]:
        """The classes that they are drawn equally often of, where that is asked."""
        return np.zeros(len(self), dtype=np.int64)


class Items(Drawn):
    """Stored items with their columns: in training another view in every epoch.

    Items are mixed with others of their domain.
    """

    def __init__(
        self,
        views: Views,
        rows: Int[np.ndarray, " rows"],
        columns: Rows,
        source: Bool[np.ndarray, " rows"],
        recipe: Recipe,
        *,
        learned: bool,
    ) -> None:
        self.views, self.rows, self.columns, self.source = views, rows, columns, source
        self.recipe, self.learned, self.collate = recipe, learned, collate

    @cached_property
    def strata(self) -> Int[np.ndarray, " rows"]:
        """Their classes, of the first column of these."""
        return self.columns.strata

    def __getitem__(self, place: int) -> dict[str, Any]:
        target, weight, source = self.columns.targets[place], self.columns.weights[place], self.source[place]
        if not self.learned:
            arrays = self.views.get(self.rows[place], 0)
            return {"arrays": arrays, "targets": target, "weights": weight, "source": source}
        # By item and epoch alone, so that it is the same in any number of processes and after a kill.
        rng = np.random.default_rng([self.recipe.seed, self.epoch, int(self.rows[place])])
        arrays = self._draw(place, rng)
        if self.recipe.mixup or self.recipe.cutmix:
            other = int(rng.choice(np.flatnonzero(self.source == source)))
            arrays, share = mix(arrays, self._draw(other, rng), self.recipe, rng)
            target, weight = self.columns.mixed(place, other, float(share))
        return {"arrays": arrays, "targets": target, "weights": weight, "source": source}

    def _draw(self, place: int, rng: np.random.Generator) -> Arrays:
        return draw_view(self.views, int(self.rows[place]), rng)


def draw_view(views: Views, item: int, rng: np.random.Generator) -> Arrays:
    """Return one of the changed copies of an item; the item as it is where there are none."""
    return views.get(item, int(rng.integers(min(1, views.views - 1), views.views)))


def mix(one: Arrays, other: Arrays, recipe: Recipe, rng: np.random.Generator) -> tuple[Arrays, np.float32]:
    """Return two media as one, and the share of the first in it.

    Both are added (MixUp, Zhang et al. 2018), or a rectangle of the second is put into the first (CutMix, Yun et al. 2019,
    arXiv:1905.04899), also of what the frozen part of a network gives for pictures, since these maps lie like the pictures. Media
    whose arrays are of whole numbers or of different shapes stay as they are, as do those without a map where a rectangle is drawn.
    """
    whole = np.float32(1)
    if any(array.dtype.kind != "f" or array.shape != other[name].shape for name, array in one.items()):
        return one, whole
    cuts = recipe.cutmix > 0 and (not recipe.mixup or rng.random() < 0.5)
    parameter = recipe.cutmix if cuts else recipe.mixup
    share = np.float32(rng.beta(parameter, parameter))
    if not cuts:
        return {name: share * array + (1 - share) * other[name] for name, array in one.items()}, share
    if any(array.ndim != 3 for array in one.values()):
        return one, whole
    middle, half = rng.random(2), np.sqrt(1 - share) / 2
    begin, end = np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)
    arrays = {}
    for name, array in one.items():
        (top, left), (bottom, right) = (np.round(edge * array.shape[1:]).astype(int) for edge in (begin, end))
        arrays[name] = array.copy()
        arrays[name][:, top:bottom, left:right] = other[name][:, top:bottom, left:right]
        share = np.float32(1 - (bottom - top) * (right - left) / array[0].size)
    return arrays, share


class Order(Sampler[int]):
    """The order of the items in an epoch: shuffled, and filled up to whole batches, the source before the target if in turn.

    It is the same in any number of processes, and after a kill.
    """

    def __init__(self, items: Drawn, batch: int) -> None:
        self.items, self.step = items, batch
        in_turn = items.recipe.strategy == "alternating"
        parts = (items.source, ~items.source) if in_turn else (np.ones(len(items), dtype=bool),)
        self.parts = [np.flatnonzero(part) for part in parts if part.any()]

    def set_epoch(self, epoch: int) -> None:
        """Take the order and the views of an epoch."""
        self.items.epoch = epoch

    def __len__(self) -> int:
        return sum(map(self._length, self.parts))

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.items.recipe.seed, self.items.epoch])
        for part in self.parts:
            drawn = rng.permutation(part)
            if self.items.recipe.sampling:
                strata, size = self.items.strata[drawn], self._each(part)
                classes = [np.resize(drawn[strata == one], size) for one in np.unique(strata)]
                drawn = rng.permutation(np.concatenate(classes))
            yield from np.resize(drawn, self._length(part)).tolist()

    def _each(self, part: Int[np.ndarray, " rows"]) -> int:
        """Return how many items of each class are drawn."""
        sizes = np.unique(self.items.strata[part], return_counts=True)[1]
        return int(sizes.max() if self.items.recipe.sampling == "over" else sizes.min())

    def _length(self, part: Int[np.ndarray, " rows"]) -> int:
        drawn = len(part)
        if self.items.recipe.sampling:
            drawn = self._each(part) * len(np.unique(self.items.strata[part]))
        return -(-drawn // self.step) * self.step


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return items as one batch: arrays padded with zeros at their end to the longest, then stacked."""
    batch = stack([item["arrays"] for item in items])
    batch["targets"] = torch.from_numpy(np.stack([item["targets"] for item in items]))
    batch["weights"] = torch.from_numpy(np.stack([item["weights"] for item in items]))
    batch["source"] = torch.tensor([bool(item["source"]) for item in items])
    return batch


def stack(items: Sequence[Arrays]) -> dict[str, Tensor]:
    """Return arrays of several items as one batch, padded with zeros at their end."""
    batch = {}
    for name, first in items[0].items():
        length = max(len(item[name]) if first.ndim else 0 for item in items)
        padded = [
            item[name]
            if not first.ndim or len(item[name]) == length
            else np.pad(item[name], [(0, length - len(item[name])), *[(0, 0)] * (first.ndim - 1)])
            for item in items
        ]
        batch[name] = torch.from_numpy(np.stack(padded))
    return batch


def held_out(
    codes: Int[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"], source: Bool[np.ndarray, " rows"], recipe: Recipe
) -> Bool[np.ndarray, " rows"]:
    """Return which rows of the target early stopping goes by; none where there are too few, or without it."""
    held = np.zeros(len(codes), dtype=bool)
    if recipe.patience and not source.all():
        own = (np.unique(array[~source], return_inverse=True)[1] for array in (codes, groups))
        codes, groups = own
        found = held_out_rows(codes, seed=recipe.seed, groups=groups)
        held[~source] = False if found is None else found
    return held


def filled(items: Items) -> Items:
    """Return items to measure on; for several processes with some again at weight 0, so that each has as many."""
    length = len(items)
    if count() == 1:
        return items
    step = min(BLOCK, -(-length // count())) * count()
    whole = -(-length // step) * step
    places = np.arange(whole) % length
    columns = items.columns.take(places)
    columns.weights[:length] *= whole / length
    columns.weights[length:] = 0
    return Items(
        items.views,
        items.rows[places],
        columns,
        items.source[places],
        items.recipe,
        learned=False,
    )
