"""Contrastive alignment: ridge's map, turned so that pairs find each other among the others of a batch.

Ridge brings every pair near. What is asked in a search is that a pair is nearer than all others, in both directions.
With as many features as there are pairs, a map that is trained for this finds every training pair at once and learns
nothing. So what is trained is a square matrix in the anchor's space, on ridge's left-out predictions z (stacking:
Wolpert 1992, Neural Networks 5), which are as wrong as on new pairs:

    z (I + R) + c,   blended with the start,   R = 0 and c = 0 to begin with, which is ridge itself.

Behind ridge's weight W and bias b this is the linear map W (I + R), b (I + R) + c. This module knows the losses and what
is chosen on folds of whole groups: the number of epochs (0 keeps ridge), temperature, hardness and the blend. Ridge, its
left-out predictions and the square matrix are all learned without the fold: predictions of the others that have seen the
fold's anchors give them away, and the score is too high. The source's weight alpha and ridge's strength are ridge's exact
choice. The training loop is `chiasm.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chiasm.alignment.alignment import (
    BLENDS,
    Alignment,
    AlignmentChoice,
    Candidate,
    LearnedMap,
    Lesson,
    PairArrays,
    PairStatistics,
    Task,
    left_out,
    ridge_choice,
)
from chiasm.errors import SpaceError
from chiasm.training import Rows, Tensors, Training, fit_network, seeded

TEMPERATURES = (0.1, 0.2)
HARDNESSES = (0.0, 1.0)
LEAST_BLEND = 0.5  # share of the map while it is trained: at ridge's own choice of 0 it would learn nothing
MAX_SOURCE = 2000  # source pairs that a fit takes, in whole groups: left-out predictions of more cost seconds


@dataclass(frozen=True, eq=False)
class _Stacked:
    """Pairs as the projection sees them: ridge's prediction for each by a map that did not learn from its group."""

    mapped: Float[np.ndarray, "pairs y"]
    pairs: PairArrays

    @property
    def rows(self) -> Rows:
        """For the training loop."""
        return Rows(
            {"mapped": self.mapped, "start": self.pairs.start}, {"anchors": self.pairs.Y, "groups": self.pairs.codes}
        )


class _Contrastive(Alignment):
    """What InfoNCE and SigLIP share.

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        temperatures: what cosines are divided by in the loss, to choose from, above 0.
        hardnesses: how much more the negatives that are near count, to choose from; 0: all alike. The first is the one at
            which temperatures are compared.
        blends: shares of the learned map to choose from, in [0, 1].
        epochs: passes over the target pairs, at most.
        batch_size: pairs that are told apart at once.
        learning_rate: of AdamW, with warm-up and a cosine schedule.
        weight_decay: of AdamW; it pulls the map back to ridge's.
        seed: of the batches, and of the draw from a large source.

    Raises:
        SpaceError: an option outside of its range.
    """

    loss: ClassVar[str]

    def __init__(
        self,
        *,
        alpha: float | str = "auto",
        temperatures: Sequence[float] = TEMPERATURES,
        hardnesses: Sequence[float] = HARDNESSES,
        blends: Sequence[float] = BLENDS,
        epochs: int = 15,
        batch_size: int = 512,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__(alpha=alpha, blends=blends)
        if not temperatures or not all(0 < value < np.inf for value in temperatures):
            raise SpaceError(f"temperatures must be one or more numbers above 0; got {temperatures!r}")
        if not hardnesses or not all(0 <= value < np.inf for value in hardnesses):
            raise SpaceError(f"hardnesses must be one or more numbers, 0 or above; got {hardnesses!r}")
        if batch_size < 2:
            raise SpaceError(f"batch_size must be at least 2, to tell pairs apart; got {batch_size}")
        self.temperatures = tuple(float(value) for value in temperatures)
        self.hardnesses = tuple(float(value) for value in hardnesses)
        try:
            self.training = Training(
                epochs=epochs,
                patience=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                weight_decay=weight_decay,
                seed=seed,
                device="cpu",
            )
        except ValueError as error:
            raise SpaceError(str(error)) from error

    def _choose(self, task: Task) -> AlignmentChoice:
        if isinstance(task.source, PairStatistics):
            raise SpaceError(
                f"{self.method} learns from single pairs, and the source is given as statistics of pairs. Give the "
                "source as a collection, or use ridge, procrustes or cca"
            )
        base = ridge_choice(task)
        # The temperature is chosen at the first hardness, then the hardness at that temperature.
        tried = [self._tried(task, base, temperature, self.hardnesses[0]) for temperature in self.temperatures]
        temperature = _best(tried).settings["temperature"]
        tried += [self._tried(task, base, temperature, hardness) for hardness in self.hardnesses[1:]]
        return _best(tried)

    def _tried(self, task: Task, base: AlignmentChoice, temperature: float, hardness: float) -> AlignmentChoice:
        """The best number of epochs, and blend, at a temperature and a hardness."""
        blend = max(base.blend, LEAST_BLEND)
        settings = {"temperature": temperature, "hardness": hardness, "trained_blend": blend}
        curve = self._left_out_by_epoch(task, base, settings)
        # The blend of the training finds the epoch; then all blends are compared there, and at epoch 0.
        epoch = int(np.argmax([task.scores(predicted, (blend,))[0] for predicted in curve]))
        candidates = [
            Candidate(base.alpha, base.strength, curve[number], {**settings, "epochs": number})
            for number in sorted({0, epoch})
        ]
        return task.choose(self.method, candidates, self.blends)

    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        weight, bias = lesson.ridge(choice.alpha, choice.strength)
        epochs = int(choice.settings["epochs"])
        if not epochs or _one_group(lesson):
            return LearnedMap(weight, bias, choice.blend)
        network = self._trained(lesson, choice, choice.settings, stop_after=epochs)
        turn = np.eye(len(bias)) + network.turn.detach().double().numpy()
        shift = network.shift.detach().double().numpy()
        return LearnedMap(weight @ turn, bias @ turn + shift, choice.blend)

    def _left_out_by_epoch(
        self, task: Task, base: AlignmentChoice, settings: Mapping[str, float]
    ) -> list[Float[np.ndarray, "shown y"]]:
        """Predictions of the shown pairs by what is learned from the other folds in 0, 1, ... epochs."""
        curves: list[list[Float[np.ndarray, "_fold y"]]] = []
        for rows, rest in task.folds:
            weight, bias = rest.ridge(base.alpha, base.strength)
            new = _Stacked((task.pairs.X[rows] @ weight + bias).astype(np.float32), task.pairs.take(rows))
            curve = [new.mapped]

            def keep(
                outputs: Tensors, _: Tensors, curve: list[Float[np.ndarray, "_fold y"]] = curve
            ) -> dict[str, float]:
                curve.append(outputs["turned"].numpy())
                return {}

            if _one_group(rest):
                curve *= self.training.epochs + 1
            else:
                self._trained(rest, base, settings, validation=new.rows, metrics=keep)
            curves.append(curve)
        return [task.assembled(parts) for parts in zip(*curves, strict=True)]

    def _trained(
        self,
        lesson: Lesson,
        choice: AlignmentChoice,
        settings: Mapping[str, float],
        *,
        stop_after: int | None = None,
        validation: Rows | None = None,
        metrics: Callable[[Tensors, Tensors], Mapping[str, float]] | None = None,
    ) -> _Turn:
        """A projection that has learned from a lesson at ridge's alpha and strength; see `fit_network`."""
        alpha, strength = choice.alpha, choice.strength
        target = _Stacked(lesson.left_out(alpha, strength).astype(np.float32), lesson.pairs).rows
        source = lesson.once(
            ("stacked source", alpha, strength, self.training.seed),
            lambda: _stacked_source(lesson, alpha, strength, self.training.seed),
        )
        network = self._network(target, settings["trained_blend"], settings["temperature"], settings["hardness"])
        fit_network(
            network,
            network.loss,
            target,
            training=self.training,
            source=None if source is None else source.rows,
            alpha=alpha,
            stop_after=stop_after,
            validation=validation,
            metrics=metrics,
        )
        return network

    def _network(self, target: Rows, blend: float, temperature: float, hardness: float) -> _Turn:
        with seeded(self.training.seed):
            network = _Turn(target.targets["anchors"].shape[1], self.loss, blend, temperature, hardness)
        if self.loss == "siglip":
            first = np.random.default_rng(self.training.seed).permutation(len(target))[: self.training.batch_size]
            part = target.take(first)
            with torch.no_grad():
                placed = network({name: torch.from_numpy(array) for name, array in part.inputs.items()})["placed"]
                cosines = placed @ torch.from_numpy(part.targets["anchors"]).T
                network.offset.fill_(prior_offset(cosines / temperature))
        return network


class InfoNceAlignment(_Contrastive):
    """Every item finds its partner among the batch by a softmax, in both directions (`info_nce`)."""

    method = "infonce"
    loss = "infonce"


class SiglipAlignment(_Contrastive):
    """Every two items are told to be a pair or not by a sigmoid, each for itself (`siglip`)."""

    method = "siglip"
    loss = "siglip"


class _Turn(nn.Module):
    """The square map behind ridge's, and the loss that it is trained by."""

    def __init__(self, dim: int, loss: str, blend: float, temperature: float, hardness: float) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.zeros(dim, dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.offset = nn.Parameter(torch.zeros(()), requires_grad=loss == "siglip")
        self.kind, self.blend, self.temperature, self.hardness = loss, blend, temperature, hardness

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        turned = inputs["mapped"] + inputs["mapped"] @ self.turn + self.shift
        placed = functional.normalize((1 - self.blend) * inputs["start"] + self.blend * turned)
        return {"turned": turned, "placed": placed}

    def loss(self, outputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:  # noqa: ARG002  all rows count alike
        logits = outputs["placed"] @ targets["anchors"].T / self.temperature
        if self.kind == "siglip":
            return siglip(logits + self.offset, targets["groups"], hardness=self.hardness)
        return info_nce(logits, targets["groups"], hardness=self.hardness)


# ------------------------------------------------------------------------------------------------------------- losses


def info_nce(
    logits: Float[Tensor, "pairs pairs"], groups: Int[Tensor, " pairs"], *, hardness: float = 0.0
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: the mean over both directions of -log(e^p / (e^p + sum of e^n over the negatives)).

    van den Oord, Li & Vinyals 2018 (arXiv:1807.03748, equation 4), as in CLIP. With a hardness h, a negative counts
    (number of negatives) * softmax(h n) times, so that near ones count more (Robinson et al. 2021, ICLR, "Contrastive
    learning with hard negative samples", equation 3 without the correction for false negatives: groups say which
    these are).

    Args:
        logits: cosine of item i and anchor j, over the temperature. The diagonal is the pairs.
        groups: two pairs of one group are no negatives of each other.
        hardness: how much more near negatives count.
    """
    negative = groups[:, None] != groups[None, :]

    def one_way(dim: int) -> Tensor:
        weights = _log_weights(logits, negative, hardness, dim).fill_diagonal_(0)
        return torch.logsumexp(logits + weights, dim=dim)

    return ((one_way(0) + one_way(1)) / 2 - logits.diagonal()).mean()


def siglip(
    logits: Float[Tensor, "pairs pairs"], groups: Int[Tensor, " pairs"], *, hardness: float = 0.0
) -> Float[Tensor, ""]:
    """Pairwise sigmoid loss: the sum of -log sigmoid(p) and -log sigmoid(-n), over the number of pairs.

    Zhai et al. 2023 (ICCV, "Sigmoid loss for language image pre-training", section 3.2). With a hardness, negatives of
    an item are weighted as in `info_nce`, half from its row and half from its column.

    Args:
        logits: cosine of item i and anchor j over the temperature, plus an offset. The diagonal is the pairs.
        groups: two pairs of one group are no negatives of each other.
        hardness: how much more near negatives count.
    """
    negative = groups[:, None] != groups[None, :]
    weights = sum(torch.exp(_log_weights(logits, negative, hardness, dim)) for dim in (0, 1)) / 2
    against = (weights * functional.softplus(logits)).sum()
    return (functional.softplus(-logits.diagonal()).sum() + against) / len(groups)


def _log_weights(
    scores: Float[Tensor, "pairs pairs"], negative: Bool[Tensor, "pairs pairs"], hardness: float, dim: int
) -> Float[Tensor, "pairs pairs"]:
    """Logarithm of how often a negative counts in its row (dim 1) or column (0), -inf for the others; a constant."""
    with torch.no_grad():
        if not hardness:
            return torch.where(negative, torch.zeros_like(scores), -torch.inf)
        # Cosines over a temperature are large: the hardness is in units of the row's spread, whatever the temperature.
        number = negative.sum(dim=dim, keepdim=True).clamp(min=1).to(scores.dtype)
        mean = torch.where(negative, scores, 0).sum(dim=dim, keepdim=True) / number
        apart = scores - mean
        spread = (torch.where(negative, apart, 0) ** 2).sum(dim=dim, keepdim=True).div(number).sqrt()
        sharpened = torch.where(negative, apart * (hardness / spread.clamp(min=1e-6)), -torch.inf)
        total = torch.logsumexp(sharpened, dim=dim, keepdim=True).clamp(
            min=-1e30
        )  # finite where there are no negatives
        return sharpened - (total - number.log())


def prior_offset(logits: Float[Tensor, "pairs pairs"]) -> float:
    """The offset at which as many pairs are expected as there are: sum of sigmoid(logits + offset) = number of rows.

    The loss starts there in the paper, too, by a constant that suits its batches (-10).
    """
    low, high = -float(logits.max()) - 50, -float(logits.min()) + 50
    logits = logits.double()
    for _ in range(40):  # halved from at most some thousands to 1e-9
        middle = (low + high) / 2
        if float(torch.sigmoid(logits + middle).sum()) > len(logits):
            high = middle
        else:
            low = middle
    return (low + high) / 2


# -------------------------------------------------------------------------------------------------------------- stacking


def _best(tried: Sequence[AlignmentChoice]) -> AlignmentChoice:
    """The highest score; of equal ones the first."""
    return max(tried, key=lambda choice: choice.score)


def _one_group(lesson: Lesson) -> bool:
    """Whether no pair is another's negative, so that there is nothing to learn by contrast and ridge stays."""
    return bool(lesson.pairs.codes.max() == 0)


def _stacked_source(lesson: Lesson, alpha: float, strength: float, seed: int) -> _Stacked | None:
    """The source's pairs, or whole groups of them drawn at random."""
    if not isinstance(lesson.source, PairArrays) or not alpha:
        return None
    source = lesson.source
    order = np.random.default_rng(seed).permutation(int(source.codes.max()) + 1)
    sizes = np.bincount(source.codes)[order]
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes), MAX_SOURCE, side="right")))]
    shown = np.flatnonzero(np.isin(source.codes, taken))
    # To the mixture, source and target change places and alpha turns round.
    ((_, _, found),) = left_out(
        source.X,
        source.Y,
        source.codes,
        shown,
        source.statistics.moments,
        lesson.target,
        (1 - alpha,),
        (strength,),
    )
    return _Stacked(found.astype(np.float32), source.take(shown))
