"""The recipe of fine-tuning: what is trained, how long and how carefully."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from chiasm.errors import ChiasmError

Method: TypeAlias = Literal["lora", "blocks", "norms", "full"]
Strategy: TypeAlias = Literal["joint", "alternating"]
Optimizer: TypeAlias = Literal["adamw", "sgd"]
Schedule: TypeAlias = Literal["cosine", "linear", "constant", "step"]
TRACKERS = ("tensorboard", "wandb", "mlflow")
_RATES: dict[Method, float] = {"lora": 1e-3, "blocks": 5e-4, "norms": 1e-3, "full": 5e-5}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of the training.

    Attributes:
        method: what is trained, behind the frozen blocks: low-rank changes ("lora"), everything ("blocks"), biases and
            normalisations ("norms"); or the whole network ("full").
        blocks: the last so many blocks are trained. None: a third of them.
        rank: of low-rank changes.
        epochs: at most.
        batch_size: items a step.
        optimizer: "adamw", or "sgd" with Nesterov's momentum of 0.9, which takes other rates.
        schedule: of the learning rates after the warm-up: along a cosine or a line to 0, "constant", or in steps to a tenth after
            each third.
        rate: highest learning rate of the network. None: one that suits the method.
        head_rate: highest learning rate of the head.
        weight_decay: of matrices.
        warmup: share of the steps in which the learning rates rise from 0.
        clip: length of the gradient at most.
        label_smoothing: share of the target that is spread over all classes.
        focal: exponent of the focal loss; 0: cross-entropy.
        class_weight: "balanced" gives every class the same total weight.
        mixup: both parameters of the Beta distribution that mixes pairs of pictures (Zhang et al. 2018); 0: none.
        views: changed copies of every medium, of which each epoch takes one.
        average: share of the trained weights in the average with those of the start.
        patience: epochs without a lower loss on a fifth of the items, held out for that, after which training stops; 0: nothing
            is held out, and all epochs are taken.
        alpha: weight of the source, where there is one: the loss is `alpha * source + (1 - alpha) * target`.
        strategy: of learning from a source and a target: "joint", or "alternating": in every epoch first the source's
            batches train the network while the head is kept, then the target's train the head while the network is kept.
        seed: of everything that is drawn.
        report_to: trackers of the library: "tensorboard", "wandb", "mlflow".

    Raises:
        ChiasmError: a value is out of its range; the message names it.

    Example:
        >>> Recipe(method="blocks").network_rate
        0.0005
    """

    method: Method = "lora"
    blocks: int | None = None
    rank: int = 8
    epochs: int = 8
    batch_size: int = 32
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    rate: float | None = None
    head_rate: float = 1e-2
    weight_decay: float = 1e-2
    warmup: float = 0.1
    clip: float = 1.0
    label_smoothing: float = 0.1
    focal: float = 0.0
    class_weight: Literal["balanced"] | None = None
    mixup: float = 0.2
    views: int = 4
    average: float = 0.5
    patience: int = 3
    alpha: float = 0.5
    strategy: Strategy = "joint"
    seed: int = 0
    report_to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = {"method": Method, "strategy": Strategy, "optimizer": Optimizer, "schedule": Schedule}
        for name, known in names.items():
            if getattr(self, name) not in get_args(known):
                raise ChiasmError(f"{name} takes {', '.join(get_args(known))}; got {getattr(self, name)!r}")
        if self.optimizer == "sgd" and self.rate is None:
            raise ChiasmError("sgd takes other rates than adamw: name that of the network (rate), such as 0.01")
        if unknown := sorted(set(self.report_to) - set(TRACKERS)):
            raise ChiasmError(f"report_to takes {', '.join(TRACKERS)}; got {unknown[0]!r}")
        if self.method == "full" and self.blocks is not None:
            raise ChiasmError("the method full trains all blocks: leave blocks out, or take the method blocks")
        for name, least in (("rank", 1), ("epochs", 1), ("batch_size", 1), ("views", 0), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ChiasmError(f"{name} must be a whole number of at least {least}; got {getattr(self, name)!r}")
        limits = {"rate": 1.0, "head_rate": 1.0, "warmup": 1.0, "average": 1.0, "alpha": 1.0, "label_smoothing": 0.99}
        for name in (*limits, "weight_decay", "clip", "focal", "mixup"):
            value, most = getattr(self, name), limits.get(name, np.inf)
            if value is not None and not 0 <= value <= most:
                raise ChiasmError(f"{name} must be from 0 to {most:g}; got {value!r}")

    @property
    def network_rate(self) -> float:
        """The highest learning rate of the network."""
        return _RATES[self.method] if self.rate is None else self.rate
