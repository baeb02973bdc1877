"""Contrastive alignment: ridge's map, turned so that pairs find each other among the others of a batch.

Ridge brings every pair near. A search needs more: that a pair is nearer than all others, in both directions. With as many
features as there are pairs, a map trained for this finds every training pair at once and learns nothing. So the network is
a square matrix in the anchor's space, trained on ridge's left-out predictions z (stacking: Wolpert 1992, Neural Networks
5), which are as wrong as on new pairs:

    z (I + R) + c,   blended with the start,   R = 0 and c = 0 to begin with, which is ridge itself.

Behind ridge's weight W and bias b this is the linear map W (I + R), b (I + R) + c. The number of epochs (0 keeps ridge),
the temperature and the blend are chosen on folds of whole groups. Ridge, its left-out predictions and the square matrix are
all learned without the fold: predictions of the others that have seen the fold's anchors give them away, and the score is
too high. Source weight and strength are those of ridge's exact choice. The training loop is `chiasm.training`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from chiasm.alignment.alignment import Alignment, Candidate, LearnedMap, Lesson, Settings, Task
from chiasm.alignment.closed_form import left_out, ridge_choice, ridge_left_out, ridge_map
from chiasm.alignment.pairs import PairArrays, PairStatistics
from chiasm.errors import SpaceError
from chiasm.training import Rows, Tensors, Training, fit_network, seeded

TEMPERATURES = (0.1, 0.2)
LEAST_BLEND = 0.5  # share of the map while it is trained: at ridge's own choice of 0 it would learn nothing
MAX_SOURCE = 2000  # source pairs that a fit takes, in whole groups: left-out predictions of more cost seconds


@dataclass(frozen=True, kw_only=True)
class InfoNceAlignment(Alignment):
    """Ridge, turned so that every item finds its partner among a batch by a softmax, in both directions (`info_nce`).

    Attributes:
        temperatures: divisors of cosines in the loss, to choose from, above 0.
        epochs: passes over the target pairs, at most.
        batch_size: pairs that are told apart at once.
        learning_rate: of AdamW, with warm-up and a cosine schedule.
        weight_decay: of AdamW; it pulls the map back to ridge's.

    Example:
        >>> InfoNceAlignment(epochs=5, seed=1).training.epochs
        5
    """

    method = "infonce"
    temperatures: Sequence[float] = TEMPERATURES
    epochs: int = 15
    batch_size: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    @cached_property
    def training(self) -> Training:
        """Return the options of the training loop."""
        return Training(
            epochs=self.epochs,
            patience=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=self.seed,
        )

    def candidates(self, task: Task) -> Iterator[Candidate]:
        """Yield ridge, and the best number of epochs at every temperature.

        The blend of the training picks the number of epochs; then all blends are compared there.
        """
        if isinstance(task.source, PairStatistics):
            raise SpaceError(
                "infonce learns from single pairs, and the source is given as statistics of pairs. Give the "
                "source as a collection, or use ridge, procrustes or cca"
            )
        base = ridge_choice(task)
        blend = max(base.blend, LEAST_BLEND)
        for temperature in self.temperatures:
            extra = {"temperature": temperature, "trained_blend": blend}
            settings = Settings(alpha=base.alpha, strength=base.strength, extra=extra)
            curve = self.left_out_by_epoch(task, settings)
            best = int(np.argmax([task.scores(predictions, (blend,))[0] for predictions in curve]))
            for number in sorted({0, best}):
                yield replace(settings, extra={**extra, "epochs": number}), curve[number]

    def learn(self, lesson: Lesson, settings: Settings) -> LearnedMap:
        """Return ridge's map, turned by as many epochs of training."""
        weight, bias = ridge_map(lesson, settings)
        epochs = int(settings.extra["epochs"])
        if not epochs or _one_group(lesson):
            return LearnedMap(weight, bias, 1.0)
        network = self._train(lesson, settings, stop_after=epochs)
        turn = np.eye(len(bias)) + network.turn.detach().double().numpy()
        shift = network.shift.detach().double().numpy()
        return LearnedMap(weight @ turn, bias @ turn + shift, 1.0)

    def left_out_by_epoch(self, task: Task, settings: Settings) -> list[Float[np.ndarray, "rows y"]]:
        """Return predictions of the task's rows by what is learned from the other folds in 0, 1, ... epochs."""
        curves = [np.empty(task.pairs.Y.shape, np.float32) for _ in range(self.epochs + 1)]
        for rows, rest in task.folds:
            weight, bias = ridge_map(rest, settings)
            mapped = (task.pairs.X[rows] @ weight + bias).astype(np.float32)
            by_epoch = [mapped]

            def record(outputs: Tensors, by_epoch: list[np.ndarray] = by_epoch) -> None:
                by_epoch.append(outputs["turned"].numpy())

            if _one_group(rest):
                by_epoch *= self.epochs + 1
            else:
                self._train(rest, settings, validation=_rows(mapped, task.pairs.take(rows)), watch=record)
            for curve, part in zip(curves, by_epoch, strict=True):
                curve[rows] = part
        return [curve[task.rows] for curve in curves]

    def _train(
        self,
        lesson: Lesson,
        settings: Settings,
        *,
        stop_after: int | None = None,
        validation: Rows | None = None,
        watch: Callable[[Tensors], None] | None = None,
    ) -> _Turn:
        """Return a network that has learned from a lesson at ridge's alpha and strength; see `fit_network`."""
        target = _rows(ridge_left_out(lesson, settings).astype(np.float32), lesson.pairs)
        key = "source rows", settings.alpha, settings.strength
        source = lesson.once(key, lambda: source_rows(lesson, settings, self.seed))
        with seeded(self.seed):
            network = _Turn(lesson.pairs.shape[1], settings.extra["trained_blend"], settings.extra["temperature"])
        fit_network(
            network,
            network.loss,
            target,
            training=self.training,
            source=source,
            alpha=settings.alpha,
            stop_after=stop_after,
            validation=validation,
            watch=watch,
        )
        return network


class _Turn(nn.Module):
    """The square map behind ridge's, and its loss."""

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
        return info_nce(outputs["placed"] @ targets["anchors"].T / self.temperature, targets["groups"])


def info_nce(
    logits: Float[Tensor, "pairs pairs"], groups: Int[Tensor, " pairs"], weights: Float[Tensor, " pairs"] | None = None
) -> Float[Tensor, ""]:
    """Return the symmetric InfoNCE loss: the mean over both directions of -log(e^p / (e^p + sum of e^n)).

    van den Oord, Li & Vinyals 2018 (arXiv:1807.03748, equation 4), as in CLIP; n are the negatives.

    Args:
        logits: cosine of item i and anchor j, over the temperature. The diagonal is the pairs.
        groups: two pairs of one group are no negatives of each other.
        weights: of each pair in the mean. Default: 1.
    """
    same = groups[:, None] == groups[None, :]
    others = logits.masked_fill(same.fill_diagonal_(False), -torch.inf)
    losses = (torch.logsumexp(others, 0) + torch.logsumexp(others, 1)) / 2 - logits.diagonal()
    return losses.mean() if weights is None else (weights * losses).mean()


def source_rows(lesson: Lesson, settings: Settings, seed: int) -> Rows | None:
    """Return the source's pairs, or whole groups of them drawn at random, as the network sees them."""
    source = lesson.source
    if not isinstance(source, PairArrays) or not settings.alpha:
        return None
    order = np.random.default_rng(seed).permutation(int(source.codes.max()) + 1)
    sizes = np.bincount(source.codes)[order]
    taken = order[: max(1, int(np.searchsorted(np.cumsum(sizes), MAX_SOURCE, side="right")))]
    shown = np.flatnonzero(np.isin(source.codes, taken))
    # To the mixture, source and target change places and alpha turns round.
    ((_, _, predictions),) = left_out(source, shown, lesson.pairs, (1 - settings.alpha,), (settings.strength,))
    return _rows(predictions.astype(np.float32), source.take(shown))


def _rows(mapped: Float[np.ndarray, "pairs y"], pairs: PairArrays) -> Rows:
    """Return pairs as the network sees them: ridge's prediction for each, by a map that did not learn from its group."""
    return Rows({"mapped": mapped, "start": pairs.start}, {"anchors": pairs.Y, "groups": pairs.codes})


def _one_group(lesson: Lesson) -> bool:
    """Return whether no pair is another's negative, so that there is nothing to learn by contrast."""
    return bool(lesson.pairs.codes.max() == 0)
