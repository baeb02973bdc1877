"""Contrastive alignment: ridge's map, turned so that pairs find each other among the others of a batch.

Ridge brings every pair near. What is asked in a search is that a pair is nearer than all others, in both directions.
With as many features as there are pairs, a map that is trained for this finds every training pair at once and learns
nothing. So what is trained is a square matrix in the anchor's space, on ridge's left-out predictions z (stacking:
Wolpert 1992, Neural Networks 5), which are as wrong as on new pairs:

    z (I + R) + c,   blended with the start,   R = 0 and c = 0 to begin with, which is ridge itself.

Behind ridge's weight W and bias b this is the linear map W (I + R), b (I + R) + c. This module knows the losses and what
is chosen on left-out groups: the number of epochs (0 keeps ridge), temperature, hardness and the blend. The source's
weight alpha and ridge's strength are ridge's exact choice. The training loop is `chiasm.transfer.training`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chiasm.errors import SpaceError
from chiasm.transfer.alignment import (
    BLENDS,
    Alignment,
    AlignmentChoice,
    Candidate,
    Learned,
    PairArrays,
    PairStatistics,
    Task,
    left_out,
    ridge_choice,
)
from chiasm.transfer.training import Rows, Tensors, Training, fit_network, seeded

TEMPERATURES = (0.05, 0.1)
HARDNESSES = (0.0, 1.0)
LEAST_BLEND = 0.5  # share of the map while it is trained: at ridge's own choice of 0 it would learn nothing
MAX_SOURCE = 2000  # source pairs that a fit takes, in whole groups: left-out predictions of more cost seconds


@dataclass(frozen=True, eq=False)
class _Stacked:
    """Pairs as the projection sees them: ridge's prediction for each without its group."""

    mapped: Float[np.ndarray, "pairs y"]
    pairs: PairArrays

    def rows(self, chosen: Bool[np.ndarray, " pairs"] | slice = slice(None)) -> Rows:
        return Rows(
            {"mapped": self.mapped[chosen], "start": self.pairs.start[chosen]},
            {"anchors": self.pairs.Y[chosen], "groups": self.pairs.codes[chosen]},
        )


class _Contrastive(Alignment):
    """What InfoNCE and SigLIP share.

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        temperatures: what cosines are divided by in the loss, to choose from, above 0.
        hardnesses: how much more the negatives that are near count, to choose from; 0: all alike.
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

    def _learn(self, task: Task) -> Learned:
        if isinstance(task.source, PairStatistics):
            raise SpaceError(
                f"{self.method} learns from single pairs, and the source is given as statistics of pairs. Give the "
                "source as a collection, or use ridge, procrustes or cca"
            )
        base = ridge_choice(task)
        target = _Stacked(_left_out_all(task, base), task.pairs)
        source = _stacked_source(task, base, self.training.seed)
        blend = max(base.blend, LEAST_BLEND)
        best: AlignmentChoice | None = None
        for temperature, hardness in product(self.temperatures, self.hardnesses):
            curve = self._left_out_by_epoch(task, target, source, base.alpha, blend, temperature, hardness)
            # The blend of the training finds the epoch; then all blends are compared there, and at epoch 0.
            epoch = int(np.argmax([task.scores(predicted, (blend,))[0] for predicted in curve]))
            candidates = [
                Candidate(
                    base.alpha,
                    base.strength,
                    curve[number],
                    {"temperature": temperature, "hardness": hardness, "epochs": number},
                )
                for number in sorted({0, epoch})
            ]
            choice = task.choose(self.method, candidates, self.blends)
            if best is None or choice.score > best.score + 1e-9:
                best = choice
        assert best is not None
        weight, bias = task.target.mixed(task.other, base.alpha).ridge(base.strength)
        if not best.settings["epochs"]:
            return Learned(weight, bias, best)
        network = self._network(target, blend, best.settings["temperature"], best.settings["hardness"])
        fit_network(
            network,
            network.loss,
            target.rows(),
            training=self.training,
            source=None if source is None else source.rows(),
            alpha=base.alpha,
            stop_after=int(best.settings["epochs"]),
        )
        turn = np.eye(len(bias)) + network.turn.detach().double().numpy()
        return Learned(weight @ turn, bias @ turn + network.shift.detach().double().numpy(), best)

    def _left_out_by_epoch(
        self,
        task: Task,
        target: _Stacked,
        source: _Stacked | None,
        alpha: float,
        blend: float,
        temperature: float,
        hardness: float,
    ) -> list[Float[np.ndarray, "shown y"]]:
        """Predictions of the shown pairs by projections that were trained on the other folds, after 0, 1, ... epochs."""
        curves: list[list[Float[np.ndarray, "_fold y"]]] = []
        for rows, _ in task.folds:
            held = np.zeros(len(task.pairs.X), dtype=bool)
            held[rows] = True
            network = self._network(target, blend, temperature, hardness, ~held)
            curve = [target.mapped[rows]]

            def keep(
                outputs: Tensors, _: Tensors, curve: list[Float[np.ndarray, "_fold y"]] = curve
            ) -> dict[str, float]:
                curve.append(outputs["turned"].numpy())
                return {}

            fit_network(
                network,
                network.loss,
                target.rows(~held),
                training=self.training,
                source=None if source is None else source.rows(),
                alpha=alpha,
                validation=target.rows(held),
                metrics=keep,
            )
            curves.append(curve)
        return [task.assembled(parts) for parts in zip(*curves, strict=True)]

    def _network(
        self,
        target: _Stacked,
        blend: float,
        temperature: float,
        hardness: float,
        chosen: Bool[np.ndarray, " pairs"] | slice = slice(None),
    ) -> _Turn:
        with seeded(self.training.seed):
            network = _Turn(target.mapped.shape[1], self.loss, blend, temperature, hardness)
        if self.loss == "siglip":
            rows = target.rows(chosen)
            first = np.random.default_rng(self.training.seed).permutation(len(rows))[: self.training.batch_size]
            part = rows.take(first)
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
    own = torch.eye(len(groups), dtype=torch.bool, device=logits.device)
    negative = groups[:, None] != groups[None, :]

    def one_way(scores: Tensor) -> Tensor:
        weighted = scores + _log_weights(scores, negative, hardness)
        kept = torch.where(negative, weighted, torch.where(own, scores, torch.full_like(scores, -torch.inf)))
        return (torch.logsumexp(kept, dim=1) - scores.diagonal()).mean()

    return (one_way(logits) + one_way(logits.T)) / 2


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
    weights = (
        torch.exp(_log_weights(logits, negative, hardness)) + torch.exp(_log_weights(logits.T, negative, hardness)).T
    ) / 2
    against = torch.where(negative, weights * functional.softplus(logits), torch.zeros_like(logits))
    return (functional.softplus(-logits.diagonal()).sum() + against.sum()) / len(groups)


def _log_weights(
    scores: Float[Tensor, "pairs pairs"], negative: Bool[Tensor, "pairs pairs"], hardness: float
) -> Float[Tensor, "pairs pairs"]:
    """Logarithm of how often a negative counts in its row; a constant to the gradient."""
    if not hardness:
        return torch.zeros_like(scores)
    # Cosines over a temperature are large: the hardness is in units of the row's spread, whatever the temperature.
    with torch.no_grad():
        number = negative.sum(dim=1, keepdim=True).clamp(min=1).to(scores.dtype)
        mean = torch.where(negative, scores, 0).sum(dim=1, keepdim=True) / number
        spread = (torch.where(negative, scores - mean, 0) ** 2).sum(dim=1, keepdim=True).div(number).sqrt()
        sharpened = hardness * (scores - mean) / spread.clamp(min=1e-6)
        total = torch.logsumexp(torch.where(negative, sharpened, -torch.inf), dim=1, keepdim=True)
        return torch.where(negative, sharpened - total + number.log(), 0)


def prior_offset(logits: Float[Tensor, "pairs pairs"]) -> float:
    """The offset at which as many pairs are expected as there are: sum of sigmoid(logits + offset) = number of rows.

    The loss starts there in the paper, too, by a constant that suits its batches (-10).
    """
    low, high = -float(logits.max()) - 50, -float(logits.min()) + 50
    for _ in range(60):  # halved from at most some thousands to 1e-14
        middle = (low + high) / 2
        if float(torch.sigmoid(logits.double() + middle).sum()) > len(logits):
            high = middle
        else:
            low = middle
    return (low + high) / 2


# -------------------------------------------------------------------------------------------------------------- stacking


def _left_out_all(task: Task, base: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
    """Ridge's prediction of every target pair without its group."""
    pairs = task.pairs
    everything = np.arange(len(pairs.X))
    ((_, _, found),) = left_out(
        pairs.X, pairs.Y, pairs.codes, everything, task.target, task.other, (base.alpha,), (base.strength,)
    )
    return found.astype(np.float32)


def _stacked_source(task: Task, base: AlignmentChoice, seed: int) -> _Stacked | None:
    """The same of the source's pairs, or of whole groups of them drawn at random."""
    if not isinstance(task.source, PairArrays) or not base.alpha:
        return None
    source = task.source
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
        task.target,
        (1 - base.alpha,),
        (base.strength,),
    )
    return _Stacked(found.astype(np.float32), source.take(shown))
