"""Training two networks on pairs, so that each medium is found by its partner among others.

Where the vectors of the two cannot be compared, ridge's map from one to the other stands behind the networks, as `align`
learns it: of every pair one that was learned without its group, since a map that has seen a pair finds it whatever the
networks do (as in `chiasm.alignment.contrastive`). The maps stay as they are while the networks learn; `align` learns
them anew from what the networks have become. The loss is symmetric InfoNCE, pairs of one group being no negatives of each
other; of a model that was trained by the sigmoid loss (SigLIP), that. Where memory is too small for a batch, parts of it go
through the networks at a time and once more on the way back (Gao et al. 2021, arXiv:2101.06983), which changes no number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sentence_transformers.util import all_gather_with_grad
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from chiasm.alignment.alignment import MIN_PAIRS
from chiasm.alignment.closed_form import RidgeAlignment
from chiasm.alignment.contrastive import info_nce
from chiasm.alignment.pairs import PairArrays
from chiasm.encoders.runtime import Device
from chiasm.finetuning.items import Drawn, draw_view, held_out, stack
from chiasm.finetuning.processes import count
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.tasks import domain_weights
from chiasm.finetuning.towers import LibraryTower, Tower
from chiasm.finetuning.trainer import Learner, embed, fit, items_per_second
from chiasm.finetuning.views import Views
from chiasm.saved import read_described, write_arrays

Side: TypeAlias = Literal["moved", "anchor"]
SIDES: tuple[Side, Side] = ("moved", "anchor")

_TEMPERATURE = 0.05  # of cosines, where the model says none
_WEIGHT = "weight/"


@dataclass(frozen=True, eq=False)
class PairExamples:
    """Pairs of media, a row each.

    Attributes:
        items: of each side, the place of its medium among the stored views.
        groups: pairs of one group are never on both sides of a split, and no negatives of each other.
        source: which are of another domain, from which is learned and on which nothing is measured.
    """

    items: Mapping[Side, Int[np.ndarray, " pairs"]]
    groups: Int[np.ndarray, " pairs"]
    source: Bool[np.ndarray, " pairs"]


@dataclass(frozen=True, eq=False)
class Heads:
    """Maps from the unit vectors of the moved side to those of the anchor, one for each fold and a last one for the others.

    Attributes:
        weight: of the maps.
        bias: of the maps.
        fold: the map of each pair.
    """

    weight: Float[np.ndarray, "maps x y"]
    bias: Float[np.ndarray, "maps y"]
    fold: Int[np.ndarray, " pairs"]


def learn_heads(pairs: PairArrays, held: Bool[np.ndarray, " pairs"]) -> Heads:
    """Return ridge's maps, of every pair one that did not learn from its group nor from the pairs that are held out.

    Args:
        pairs: unit vectors of the moved side and of the anchor.
        held: pairs that no map learns from.

    Raises:
        SpaceError: see `Alignment.fit`.
    """
    alignment = RidgeAlignment(blends=(1.0,))
    learned = alignment.fit(pairs.take(~held))
    maps = [learned.map]
    fold = np.full(pairs.count, len(learned.task.folds))
    for number, (rows, rest) in enumerate(learned.task.folds):
        maps.insert(number, alignment.learn(rest, learned.choice))
        fold[np.flatnonzero(~held)[rows]] = number
    return Heads(
        np.stack([one.weight for one in maps]).astype(np.float32),
        np.stack([one.bias for one in maps]).astype(np.float32),
        fold,
    )


class PairNetwork(Learner):
    """Two networks whose vectors are compared, those of the first by a map where they cannot be compared as they are."""

    contrasts: ClassVar[bool] = True

    def __init__(
        self,
        towers: Mapping[Side, Tower],
        heads: Heads | None,
        centre: np.ndarray | None,
        recipe: Recipe,
        learning: Sequence[Side] = SIDES,
    ) -> None:
        """Put two networks together.

        Args:
            towers: the networks; of one model both hold it.
            heads: maps; None: the vectors are of one space.
            centre: is subtracted from the unit vectors of the anchor.
            recipe: how they learn.
            learning: the sides whose network does.
        """
        super().__init__(recipe)
        self.towers, self.learning = nn.ModuleDict({side: towers[side] for side in SIDES}), learning
        self.maps = None if heads is None else [torch.from_numpy(one) for one in (heads.weight, heads.bias)]
        self.centre = None if centre is None else torch.from_numpy(np.asarray(centre, np.float32))
        self.scale, self.shift = (1 / _TEMPERATURE, None) if heads is not None else _scale_of(towers["anchor"])

    def weights(self) -> dict[str, Tensor]:
        """Return copies of all parameters, without low-rank changes."""
        return {name: parameter.detach().clone() for name, parameter in self.towers.named_parameters()}

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take parameters over."""
        self.towers.load_state_dict(dict(weights), strict=False)

    def tower(self, side: Side) -> Tower:
        """Return the network of a side."""
        tower = self.towers[side]
        assert isinstance(tower, Tower)
        return tower

    def choose(self, samples: Mapping[Side, Mapping[str, Tensor]]) -> None:
        """Let parameters behind the frozen parts be trained; see `Tower.choose`."""
        moved, anchor = (self.tower(side) for side in SIDES)
        one = isinstance(moved, LibraryTower) and isinstance(anchor, LibraryTower) and moved.shares_blocks(anchor)
        chosen: list[nn.Parameter] = []
        self.requires_grad_(False)
        for side in self.learning[: 1 if one else 2]:
            self.tower(side).choose(self.recipe.method, self.recipe.rank, samples[side])
            chosen += [parameter for parameter in self.tower(side).parameters() if parameter.requires_grad]
        for parameter in chosen:  # of one model, choosing for the second side takes back what was chosen for the first
            parameter.requires_grad_(True)

    def merge(self) -> None:
        """Put low-rank changes into the weights that they change."""
        for side in SIDES:
            self.tower(side).merge()

    def save(self, side: Side, folder: Path) -> None:
        """Write the network of a side as its encoder reads it; of one model, all of it."""
        with ExitStack() as whole:
            for tower in self.towers.values():
                if isinstance(tower, LibraryTower):
                    whole.enter_context(tower.whole())
            self.tower(side).save(folder)

    def forward(
        self,
        weights: Float[Tensor, " batch"],
        groups: Int[Tensor, " batch"],
        fold: Int[Tensor, " batch"],
        **arrays: Tensor,
    ) -> dict[str, Tensor]:
        """Return the mean loss of a batch, each pair among the others, and the cosines."""
        moved, anchor = (
            self._embed(side, {name.partition("/")[2]: one for name, one in arrays.items() if name.startswith(side)})
            for side in SIDES
        )
        moved, anchor = functional.normalize(moved), functional.normalize(anchor)
        if self.maps is not None:
            moved = functional.normalize(self._map(moved, fold))
        if self.centre is not None:
            anchor = functional.normalize(anchor - self.centre.to(anchor.device))
        if count() > 1:  # negatives are those of all processes, so that the loss is that of one
            moved, anchor = all_gather_with_grad(moved), all_gather_with_grad(anchor)
            weights, groups = all_gather_with_grad(weights), all_gather_with_grad(groups)
        logits = self.scale * moved @ anchor.T
        loss = (
            info_nce(logits, groups, weights) if self.shift is None else sigmoid(logits + self.shift, groups, weights)
        )
        return {"loss": loss + self.penalty(), "logits": logits}

    def _embed(self, side: Side, arrays: Mapping[str, Tensor]) -> Tensor:
        tower = self.tower(side)
        size = len(next(iter(arrays.values())))
        parts = [
            {name: one[at : at + self.at_once] for name, one in arrays.items()} for at in range(0, size, self.at_once)
        ]
        with torch.set_grad_enabled(torch.is_grad_enabled() and side in self.learning):
            if len(parts) == 1 or not torch.is_grad_enabled():
                return torch.cat([tower(**part) for part in parts])
            # Called by name through a function: checkpoint has options of its own.
            return torch.cat([checkpoint(partial(tower, **part), use_reentrant=False) for part in parts])

    def _map(self, vectors: Tensor, fold: Tensor) -> Tensor:
        assert self.maps is not None
        weight, bias = (one.to(vectors.device) for one in self.maps)
        mapped = vectors.new_empty(len(vectors), bias.shape[1])
        for number in sorted(set(fold.tolist())):
            own = fold == number
            mapped[own] = vectors[own] @ weight[number] + bias[number]
        return mapped


def sigmoid(
    logits: Float[Tensor, "pairs pairs"], groups: Int[Tensor, " pairs"], weights: Float[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """Return the sigmoid loss of pairs and of all others (Zhai et al. 2023, arXiv:2303.15343, equation 1).

    Args:
        logits: of item i and anchor j. The diagonal is the pairs.
        groups: two pairs of one group are no negatives of each other.
        weights: of each pair.
    """
    others = groups[:, None] != groups[None, :]
    losses = -functional.logsigmoid(logits.diagonal()) - (functional.logsigmoid(-logits) * others).sum(dim=1)
    return (weights * losses).mean()


def _scale_of(tower: Tower) -> tuple[float, float | None]:
    """Return what cosines are multiplied with, and what is added for the sigmoid loss: as the model was trained."""
    if isinstance(tower, LibraryTower):
        network = getattr(tower.model[0], "model", None)
        scale, shift = (getattr(network, name, None) for name in ("logit_scale", "logit_bias"))
        if isinstance(scale, Tensor):
            return float(scale.detach().exp()), float(shift.detach()) if isinstance(shift, Tensor) else None
    return 1 / _TEMPERATURE, None


class _Pairs(Drawn):
    """Stored pairs: in training another view of each side in every epoch."""

    def __init__(
        self,
        views: Mapping[Side, Views],
        examples: PairExamples,
        rows: Int[np.ndarray, " rows"],
        weights: Float[np.ndarray, " rows"],
        fold: Int[np.ndarray, " rows"],
        recipe: Recipe,
        *,
        learned: bool,
    ) -> None:
        self.views, self.examples, self.rows, self.weights, self.fold = views, examples, rows, weights, fold
        self.source, self.recipe, self.learned, self.collate = examples.source[rows], recipe, learned, _collate

    def __getitem__(self, place: int) -> dict[str, Any]:
        row = int(self.rows[place])
        rng = np.random.default_rng([self.recipe.seed, self.epoch, row])
        sides: dict[str, Any] = {}
        for side in SIDES:
            item = int(self.examples.items[side][row])
            views = self.views[side]
            sides[side] = draw_view(views, item, rng) if self.learned else views.get(item, 0)
        group = self.examples.groups[row]
        return {**sides, "weights": self.weights[place], "groups": group, "fold": self.fold[place]}


def _collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    batch = {f"{side}/{name}": one for side in SIDES for name, one in stack([item[side] for item in items]).items()}
    for name in ("weights", "groups", "fold"):
        batch[name] = torch.from_numpy(np.array([item[name] for item in items]))
    return batch


@dataclass(frozen=True, eq=False)
class TunedPair:
    """Two networks that were trained, and averaged with those that they started from.

    Attributes:
        weights: of both.
        embeddings: of all stored media, by side.
        history: what the library logged, by epoch.
        at_once: media that went through a network at a time, in the end.
        pairs_per_second: that were learned from.
    """

    weights: Mapping[str, Tensor]
    embeddings: Mapping[Side, Float[np.ndarray, "media dim"]]
    history: Sequence[Mapping[str, float]]
    at_once: int
    pairs_per_second: float

    def save(self, path: Path) -> None:
        """Write it into one file."""
        about = {"history": self.history, "at_once": self.at_once, "pairs_per_second": self.pairs_per_second}
        arrays = {f"{_WEIGHT}{name}": one.numpy() for name, one in self.weights.items()}
        write_arrays(path, {**arrays, **self.embeddings}, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> TunedPair | None:
        """Return what was written; None where nothing was."""
        if not path.exists():
            return None
        arrays, about = read_described(path)
        weights = {
            name.removeprefix(_WEIGHT): torch.from_numpy(np.array(one))
            for name, one in arrays.items()
            if name.startswith(_WEIGHT)
        }
        return cls(weights, {side: arrays[side] for side in SIDES}, **json.loads(about["about"]))


def train_pairs(
    towers: Mapping[Side, Tower],
    views: Mapping[Side, Views],
    examples: PairExamples,
    rows: Int[np.ndarray, " rows"],
    recipe: Recipe,
    folder: Path,
    *,
    frozen: PairArrays | None,
    centre: Float[np.ndarray, " dim"] | None = None,
    learning: Sequence[Side] = SIDES,
    device: Device = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> TunedPair:
    """Train two networks on some of the pairs, and average them with themselves as they were.

    With patience, a fifth of the target's pairs, whole groups, is held out to stop by. After a kill the training goes on at
    its last epoch.

    Args:
        towers: as they start; they are the same again afterwards.
        views: stored media of each side.
        examples: the pairs.
        rows: the pairs that are learned from.
        recipe: how.
        folder: for checkpoints.
        frozen: all pairs as the networks start, unit vectors of both sides, whose maps stand between them; None: the
            vectors are of one space, and there is no map.
        centre: see `PairNetwork`.
        learning: see there.
        device: where they are trained.
        say: called with what people should know.

    Raises:
        ChiasmError: the loss is no longer finite, or one pair does not fit into memory.
        SpaceError: there are too few pairs to learn maps from.
    """
    source = examples.source[rows]
    held = held_out(np.zeros(len(rows), dtype=np.int64), examples.groups[rows], source, recipe)
    if frozen is not None and (~held).sum() < MIN_PAIRS:
        held[:] = False  # too few would be left to learn maps from
    weights = domain_weights(np.ones(len(rows)), source, held, recipe)
    heads = None if frozen is None else learn_heads(frozen.take(rows), held)
    fold = np.zeros(len(rows), dtype=np.int64) if heads is None else heads.fold
    model = PairNetwork(towers, heads, centre, recipe, learning)
    start = model.weights()
    model.choose({side: stack([views[side].get(0, 0)]) for side in SIDES})

    def pairs(some: Bool[np.ndarray, " rows"], *, learned: bool) -> _Pairs:
        return _Pairs(views, examples, rows[some], weights[some], fold[some], recipe, learned=learned)

    trainer = fit(
        model, pairs(~held, learned=True), pairs(held, learned=False) if held.any() else None, folder, device, say
    )
    model.cpu()
    model.merge()
    share = recipe.average
    tuned = {name: share * weight + (1 - share) * start[name] for name, weight in model.weights().items()}
    model.set_weights(tuned)
    embeddings = {side: embed(model.tower(side), views[side], np.arange(len(views[side].items))) for side in SIDES}
    model.set_weights(start)
    log = trainer.state.log_history
    return TunedPair(tuned, embeddings, tuple(log), model.at_once, items_per_second(log))
