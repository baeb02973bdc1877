"""Contrastive alignment: ridge's map, turned so that pairs find each other among the others of a batch.

Ridge brings every pair near. What is asked in a search is that a pair is nearer than all others, in both directions.
With as many features as there are pairs, a map that is trained for this finds every training pair at once and learns
nothing. So what is trained is a square matrix in the anchor's space, on ridge's left-out predictions z (stacking:
Wolpert 1992, Neural Networks 5), which are as wrong as on new pairs:

    z (I + R) + c,   blended with the start,   R = 0 and c = 0 to begin with, which is ridge itself.

Behind ridge's weight W and bias b this is the linear map W (I + R), b (I + R) + c. This module knows the loss and what
is chosen on folds of whole groups: the number of epochs (0 keeps ridge), temperature and the blend. Ridge, its
left-out predictions and the square matrix are all learned without the fold: predictions of the others that have seen the
fold's anchors give them away, and the score is too high. The source's weight alpha and ridge's strength are ridge's exact
choice. The training loop is `chiasm.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
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


class InfoNceAlignment(Alignment):
    """Ridge, turned so that every item finds its partner among a batch by a softmax, in both directions (`info_nce`).

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        temperatures: what cosines are divided by in the loss, to choose from, above 0.
        blends: shares of the learned map to choose from, in [0, 1].
        epochs: passes over the target pairs, at most.
        batch_size: pairs that are told apart at once.
        learning_rate: of AdamW, with warm-up and a cosine schedule.
        weight_decay: of AdamW; it pulls the map back to ridge's.
        seed: of the batches, and of the draw from a large source.

    Raises:
        SpaceError: an option outside of its range.
    """

    method = "infonce"

    def __init__(
        self,
        *,
        alpha: float | str = "auto",
        temperatures: Sequence[float] = TEMPERATURES,
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
        if batch_size < 2:
            raise SpaceError(f"batch_size must be at least 2, to tell pairs apart; got {batch_size}")
        self.temperatures = tuple(float(value) for value in temperatures)
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
        choices = [self._at_temperature(task, base, temperature) for temperature in self.temperatures]
        return max(choices, key=lambda choice: choice.score)  # of equal scores the first

    def _at_temperature(self, task: Task, base: AlignmentChoice, temperature: float) -> AlignmentChoice:
        """Return the best number of epochs and blend at a temperature."""
        blend = max(base.blend, LEAST_BLEND)
        settings = {"temperature": temperature, "trained_blend": blend}
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
        with seeded(self.training.seed):
            network = _Turn(target.targets["anchors"].shape[1], settings["trained_blend"], settings["temperature"])
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


class _Turn(nn.Module):
    """The square map behind ridge's, and the loss that it is trained by."""

    def __init__(self, dim: int, blend: float, temperature: float) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.zeros(dim, dim))
        self.shift = nn.Parameter(torch.zeros(dim))
        self.blend, self.temperature = blend, temperature

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        turned = inputs["mapped"] + inputs["mapped"] @ self.turn + self.shift
        placed = functional.normalize((1 - self.blend) * inputs["start"] + self.blend * turned)
        return {"turned": turned, "placed": placed}

    def loss(self, outputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:  # noqa: ARG002  all rows count alike
        logits = outputs["placed"] @ targets["anchors"].T / self.temperature
        return info_nce(logits, targets["groups"])


# ------------------------------------------------------------------------------------------------------------- loss


def info_nce(logits: Float[Tensor, "pairs pairs"], groups: Int[Tensor, " pairs"]) -> Float[Tensor, ""]:
    """Return the symmetric InfoNCE loss: the mean over both directions of -log(e^p / (e^p + sum of e^n)).

    van den Oord, Li & Vinyals 2018 (arXiv:1807.03748, equation 4), as in CLIP; n are the negatives.

    Args:
        logits: cosine of item i and anchor j, over the temperature. The diagonal is the pairs.
        groups: two pairs of one group are no negatives of each other.
    """
    same = groups[:, None] == groups[None, :]
    others = logits.masked_fill(same.fill_diagonal_(False), -torch.inf)
    return ((torch.logsumexp(others, 0) + torch.logsumexp(others, 1)) / 2 - logits.diagonal()).mean()


# -------------------------------------------------------------------------------------------------------------- stacking


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
