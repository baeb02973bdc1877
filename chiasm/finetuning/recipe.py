"""The recipe of fine-tuning: what is trained, how long and how carefully.

Each option is described here once: the verb `finetune` takes them by name, and the command line makes its flags of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import inf
from numbers import Integral, Real
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, get_args, get_origin, get_type_hints

from chiasm.errors import ChiasmError

Method: TypeAlias = Literal["lora", "blocks", "norms", "full"]
Strategy: TypeAlias = Literal["joint", "alternating"]
Optimizer: TypeAlias = Literal["adamw", "sgd"]
Schedule: TypeAlias = Literal["cosine", "linear", "constant", "step"]
Augment: TypeAlias = Literal["light", "strong"]
Sampling: TypeAlias = Literal["over", "under"]
TRACKERS = ("tensorboard", "wandb", "mlflow")
_RATES: dict[Method, float] = {"lora": 1e-3, "blocks": 5e-4, "norms": 1e-3, "full": 5e-5}


@dataclass(frozen=True)
class Says:
    """The meaning of an option, in words, and the smallest and largest number that it takes."""

    text: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options of the training. What each means is said where it is listed; `chiasm finetune --help` prints that.

    Raises:
        ChiasmError: a value is out of its range; the message names it.

    Example:
        >>> Recipe(method="lora").network_rate
        0.001
        >>> recipe_options()["blocks"].says.text
        'How many last blocks are trained. Default: a third.'
    """

    method: Annotated[
        Method,
        Says(
            "What is trained of the last blocks: low-rank changes (the default for pairs), everything (for labels), or biases and "
            "normalisations; full is the whole network."
        ),
    ] = "blocks"
    blocks: Annotated[int | None, Says("How many last blocks are trained. Default: a third.", 1)] = None
    rank: Annotated[int, Says("Rank of low-rank changes.", 1)] = 8
    epochs: Annotated[int, Says("Passes over the items at most.", 1)] = 8
    batch_size: Annotated[int, Says("Items a step. Default: 32, and 128 pairs, which are told apart.", 1)] = 32
    optimizer: Annotated[
        Optimizer, Says("How steps are taken; sgd has Nesterov's momentum of 0.9, and other rates.")
    ] = "adamw"
    schedule: Annotated[
        Schedule,
        Says("How the rates fall after the warm-up: to 0, not at all, or in steps to a tenth after each third."),
    ] = "cosine"
    rate: Annotated[
        float | None, Says("Highest learning rate of the network. Default: one that suits the method.", 0, 1)
    ] = None
    head_rate: Annotated[float, Says("Highest learning rate of the classifier on top.", 0, 1)] = 1e-2
    weight_decay: Annotated[float, Says("Decay of matrices.", 0, 1)] = 1e-2
    l1: Annotated[
        float, Says("Weight in the loss of the sum of the sizes of trained matrices' entries; 0: none.", 0, 1)
    ] = 0.0
    dropout: Annotated[
        float, Says("Share of the numbers of an embedding that are dropped before the classifier.", 0, 0.9)
    ] = 0.0
    warmup: Annotated[float, Says("Share of the steps in which the rates rise from 0.", 0, 1)] = 0.1
    clip: Annotated[float, Says("Length of the gradient at most; 0: any.", 0, 1e6)] = 1.0
    label_smoothing: Annotated[float, Says("Share of the target that is spread over all classes.", 0, 0.99)] = 0.1
    focal: Annotated[float, Says("Exponent of the focal loss; 0: cross-entropy.", 0, 10)] = 0.0
    class_weight: Annotated[Literal["balanced"] | None, Says("balanced: every class weighs the same.")] = None
    sampling: Annotated[
        Sampling | None,
        Says(
            "How many items of a class an epoch draws: over, of each as many as the largest has; under, as the smallest."
        ),
    ] = None
    mixup: Annotated[
        float, Says("Both parameters of the Beta distribution that mixes pairs of pictures; 0: none.", 0, 10)
    ] = 0.2
    cutmix: Annotated[
        float,
        Says(
            "The same for pictures of which one has a rectangle of the other's feature map; 0: none. Beside mixup each pair is mixed "
            "in one of both ways.",
            0,
            10,
        ),
    ] = 0.0
    views: Annotated[int, Says("Changed copies of every medium, of which each epoch takes one.", 0, 1000)] = 4
    augment: Annotated[
        Augment,
        Says(
            "How much copies are changed. light: a part of a picture, mirrored, turned, in other colours, a few words less, a noisy "
            "sound; strong: RandAugment of pictures, more words less, sounds slower, higher and with gaps (SpecAugment)."
        ),
    ] = "light"
    average: Annotated[float, Says("Share of the trained weights in the average with those of the start.", 0, 1)] = 0.5
    ema: Annotated[
        float,
        Says(
            "Decay, a step, of a moving average of the weights, which is measured and kept in place of the last ones; 0: none.",
            0,
            0.9999,
        ),
    ] = 0.0
    patience: Annotated[
        int,
        Says(
            "Epochs without a lower loss on a fifth of the items, held out for that, after which it stops; 0: nothing is held out.",
            0,
        ),
    ] = 3
    alpha: Annotated[float, Says("Weight of the source: the loss is alpha * source + (1 - alpha) * target.", 0, 1)] = (
        0.5
    )
    strategy: Annotated[
        Strategy,
        Says(
            "Source and target at once, or in turn, epoch by epoch: the source trains the network (the shared one) while its head "
            "(the adaptation network) is kept, then the target the head while the network is kept."
        ),
    ] = "joint"
    seed: Annotated[int, Says("Seed of everything that is drawn.", 0)] = 0
    report_to: Annotated[Sequence[str], Says(f"Trackers that are installed, of {', '.join(TRACKERS)}.")] = ()

    def __post_init__(self) -> None:
        for name, one in recipe_options().items():
            one.check(getattr(self, name))
        object.__setattr__(self, "report_to", tuple(self.report_to))
        if self.optimizer == "sgd" and self.rate is None:
            raise ChiasmError("sgd takes other rates than adamw: name that of the network (rate), such as 0.01")
        if unknown := sorted(set(self.report_to) - set(TRACKERS)):
            raise ChiasmError(f"report_to takes {', '.join(TRACKERS)}; got {unknown[0]!r}")
        if self.augment == "strong" and not self.views:
            raise ChiasmError("augment says how copies are changed, and there are none. Ask for some (views)")
        if self.method == "full" and self.blocks is not None:
            raise ChiasmError("the method full trains all blocks: leave blocks out, or take the method blocks")

    @property
    def network_rate(self) -> float:
        """The highest learning rate of the network."""
        return _RATES[self.method] if self.rate is None else self.rate


class RecipeOptions(TypedDict, total=False):
    """The fields of `Recipe`, for functions that take them by name."""

    method: Method
    blocks: int | None
    rank: int
    epochs: int
    batch_size: int
    optimizer: Optimizer
    schedule: Schedule
    rate: float | None
    head_rate: float
    weight_decay: float
    l1: float
    dropout: float
    warmup: float
    clip: float
    label_smoothing: float
    focal: float
    class_weight: Literal["balanced"] | None
    sampling: Sampling | None
    mixup: float
    cutmix: float
    views: int
    augment: Augment
    average: float
    ema: float
    patience: int
    alpha: float
    strategy: Strategy
    seed: int
    report_to: Sequence[str]


OF_PAIRS: RecipeOptions = {"method": "lora", "batch_size": 128}
"""Defaults that are others where pairs are learned."""


@dataclass(frozen=True)
class Option:
    """A field of the recipe, for those who fill it in.

    Attributes:
        name: of it.
        kind: type of its values, None left out.
        optional: whether it takes None.
        default: without which it goes.
        says: what it means.
    """

    name: str
    kind: Any
    optional: bool
    default: Any
    says: Says

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes; none where it takes numbers."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    def check(self, value: object) -> None:
        """Refuse what it does not take.

        Raises:
            ChiasmError: it is of another type, or out of range.
        """
        if value is None and self.optional:
            return
        if self.choices and value not in self.choices:
            raise ChiasmError(f"{self.name} takes {', '.join(self.choices)}; got {value!r}")
        if self.kind in (int, float):
            what, number = ("a whole number", Integral) if self.kind is int else ("a number", Real)
            least, most = (-inf if self.says.least is None else self.says.least), self.says.most or inf
            if isinstance(value, bool) or not isinstance(value, number) or not least <= value <= most:  # type: ignore[operator]
                limits = f"of at least {least:g}" if most == inf else f"from {least:g} to {most:g}"
                raise ChiasmError(f"{self.name} must be {what} {limits}; got {value!r}")


@cache
def recipe_options() -> Mapping[str, Option]:
    """Return the options of the recipe by name."""
    hints = get_type_hints(Recipe, include_extras=True)
    options = {}
    for one in fields(Recipe):
        hint, says = get_args(hints[one.name])
        kinds = [kind for kind in get_args(hint) if kind is not NoneType] if NoneType in get_args(hint) else [hint]
        options[one.name] = Option(one.name, kinds[0], kinds[0] is not hint, one.default, says)
    return options
