"""A small network learns to embed the user's own items as the whole one does; no labels are needed.

The target of each view is what the whole network makes of that very view (Beyer et al. 2022, arXiv:2106.05237), stored beside the
view, so that the whole network runs once a view. The loss is the squared distance as a share of the target's squared length, which
for vectors of length 1 is twice one minus the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Arrays, Device
from chiasm.finetuning.items import Drawn, stack
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.towers import Tower
from chiasm.finetuning.trainer import Learner, fit
from chiasm.finetuning.views import Views, store_views
from chiasm.types import Media

_TARGET = "target"


class _Pupil(Tower):
    """A small network whose stored media have what the whole one makes of them beside."""

    def __init__(self, tower: Tower, teacher: Encoder) -> None:
        super().__init__()
        self.tower = tower
        self.__dict__["_teacher"] = teacher

    def stored(self, media: Sequence[Media]) -> list[Arrays]:
        """Return the arrays of each medium, and its target."""
        targets = self.__dict__["_teacher"].encode(media).vectors
        return [{**arrays, _TARGET: row} for arrays, row in zip(self.tower.stored(media), targets, strict=True)]

    def forward(self, **arrays: Tensor) -> Float[Tensor, "batch dim"]:
        """Embed by the small network."""
        vectors: Tensor = self.tower(**{name: one for name, one in arrays.items() if name != _TARGET})
        return vectors

    def save(self, folder: Path) -> None:
        """Write the small network."""
        self.tower.save(folder)


class _Lessons(Drawn):
    """Views of items, of each item another one in every epoch, also the item as it is."""

    def __init__(self, views: Views, recipe: Recipe) -> None:
        self.views, self.recipe, self.collate = views, recipe, stack
        self.source = np.zeros(len(views.items), dtype=bool)

    def __getitem__(self, place: int) -> Any:
        rng = np.random.default_rng([self.recipe.seed, self.epoch, place])
        return self.views.get(place, int(rng.integers(self.views.views)))


class _Distiller(Learner):
    """A network that learns to give the targets."""

    def __init__(self, pupil: _Pupil, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.pupil = pupil

    def forward(self, **arrays: Tensor) -> dict[str, Tensor]:
        """Return the loss of a batch, and its vectors."""
        target, vectors = arrays[_TARGET], self.pupil(**arrays)
        distance = (vectors - target).square().sum(dim=1) / target.square().sum(dim=1).clamp_min(1e-12)
        return {"loss": distance.mean() + self.penalty(), "logits": vectors}


def distil(
    tower: Tower,
    teacher: Encoder,
    openers: Sequence[Callable[[], Media]],
    recipe: Recipe,
    folder: Path,
    *,
    device: Device = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Sequence[Mapping[str, float]]:
    """Train a small network to embed media as a whole one does; return what was logged, by epoch.

    After a kill it goes on at its last epoch.

    Args:
        tower: the small network, which is trained in place.
        teacher: the whole one.
        openers: open the media. Those that raise `MediaError` are left out.
        recipe: how; nothing is held out.
        folder: for views and checkpoints.
        device: where it is trained.
        say: called with what people should know.

    Raises:
        ChiasmError: the loss is no longer finite, or one item does not fit into memory.
    """
    pupil = _Pupil(tower, teacher)
    views = store_views(
        pupil, openers, folder / "views", views=1 + recipe.views, seed=recipe.seed, augment=recipe.augment
    )
    pupil.choose(recipe.method, recipe.rank, stack([views.get(0, 0)]))
    model = _Distiller(pupil, recipe)
    trainer = fit(model, _Lessons(views, recipe), None, folder / "checkpoints", device, say)
    model.cpu()
    tower.requires_grad_(False)
    return tuple(trainer.state.log_history)
