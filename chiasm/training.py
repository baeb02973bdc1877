"""The training loop for small networks on arrays: a source beside the target, early stopping, balance of classes, logs.

This module knows optimisation, and the losses that networks share. The network itself is the caller's. Everything runs on
the CPU, the same for the same seed, and leaves the caller's random state and number of threads as they were. PyTorch is
imported when something is trained, so that the options can be had without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm import work
from chiasm._optional import require
from chiasm.errors import ChiasmError
from chiasm.splits import deal

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors: TypeAlias = "Mapping[str, Tensor]"
"""Tensors by name, each with one row an item."""

Loss: TypeAlias = "Callable[[Tensors, Tensors, Tensor], Tensor]"
"""(outputs of the network, targets, weights of the rows) -> one number."""

ClassBalance: TypeAlias = Literal["weights", "oversample", "undersample"]

_WARMUP = 0.05  # share of the epochs in which the learning rate rises from 0
_FOLDS = 5  # of which early stopping measures on one
_WORTH_THREADS = 2**31  # multiplications a step from which more than one thread gains more than it costs
_BLOCK = 4096  # rows that go through the network at once when nothing is learned


@dataclass(frozen=True, kw_only=True)
class Training:
    """Options of the training loop: AdamW (Loshchilov & Hutter 2019) with warm-up and a cosine schedule.

    Attributes:
        epochs: at most; the schedule spans this number even if training stops earlier.
        batch_size: rows a step.
        learning_rate: its highest value, after the warm-up.
        weight_decay: of weight matrices, decoupled from the loss: an L2 penalty.
        l1: of weight matrices: every step moves each entry towards 0 by learning rate times this and not beyond, the
            proximal step of an L1 penalty. Weights become exactly 0.
        patience: epochs without a lower validation loss after which training stops.
        mixup: both parameters of the Beta distribution that mixes pairs of rows (Zhang et al. 2018); 0: no mixing.
        class_balance: give all classes the same influence: by row weights, or by drawing as many rows of every class as
            the largest (with repeats) or the smallest has.
        seed: of all draws.
        log_dir: folder for TensorBoard's event files.

    Raises:
        ValueError: a value is out of its range; the message names it.

    Example:
        >>> Training(epochs=20, mixup=0.2).learning_rate
        0.003
    """

    epochs: int = 100
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    l1: float = 0.0
    patience: int = 15
    mixup: float = 0.0
    class_balance: ClassBalance | None = None
    seed: int = 0
    log_dir: str | Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be a whole number of at least {least}; got {getattr(self, name)!r}")
        for name in ("weight_decay", "l1", "mixup"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be finite and not below 0; got {getattr(self, name)!r}")
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate must be finite and above 0; got {self.learning_rate!r}")
        if self.class_balance not in (None, "weights", "oversample", "undersample"):
            raise ValueError(
                f"class_balance must be None, 'weights', 'oversample' or 'undersample'; got {self.class_balance!r}"
            )


@dataclass(frozen=True, eq=False)
class Rows:
    """Training data of a network: arrays with one row an item, by name.

    Attributes:
        inputs: of the network; floats, since mixup mixes them.
        targets: of the loss, beside the outputs.
        weights: of the rows in the loss; None: all 1.
        codes: class number of each row, -1 where it has none, for `Training.class_balance`.

    Raises:
        ValueError: the arrays do not have the same number of rows, or there are none.
    """

    inputs: Mapping[str, Shaped[np.ndarray, "rows ..."]]
    targets: Mapping[str, Shaped[np.ndarray, "rows ..."]]
    weights: Float[np.ndarray, " rows"] | None = None
    codes: Int[np.ndarray, " rows"] | None = None

    def __post_init__(self) -> None:
        arrays = {**self.inputs, **self.targets, "weights": self.weights, "codes": self.codes}
        lengths = {name: len(array) for name, array in arrays.items() if array is not None}
        if not self.inputs or len(set(lengths.values())) != 1 or not len(self):
            raise ValueError(f"inputs, targets, weights and codes must have one and the same row each; got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: Bool[np.ndarray, " _"]) -> Rows:
        """Return some of the rows."""
        return Rows(
            {name: array[rows] for name, array in self.inputs.items()},
            {name: array[rows] for name, array in self.targets.items()},
            None if self.weights is None else self.weights[rows],
            None if self.codes is None else self.codes[rows],
        )

    def row_weights(self, *, balanced: bool) -> Float64[np.ndarray, " rows"]:
        """Return the weights of the rows; balanced: with the same total for every class."""
        weights = np.ones(len(self)) if self.weights is None else self.weights.astype(np.float64)
        if not balanced or self.codes is None:
            return weights
        labelled = self.codes >= 0
        codes = self.codes[labelled]
        totals = np.bincount(codes, weights=weights[labelled])
        weights[labelled] *= totals.sum() / np.count_nonzero(totals) / np.maximum(totals, 1e-300)[codes]
        return weights


@dataclass(frozen=True, eq=False)
class TrainingLog:
    """The course of a training.

    Attributes:
        train_losses: by epoch: the weighted sum of source and target, without penalties, as it was while learning.
        validation_losses: before the first epoch and after each; empty where nothing was held out.
        best_epoch: epochs that the returned network has learned for; 0 if no epoch improved on its start.
    """

    train_losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    best_epoch: int


def fit_network(
    network: nn.Module,
    loss: Loss,
    target: Rows,
    *,
    training: Training,
    source: Rows | None = None,
    alpha: float = 0.0,
    validation: Rows | None = None,
    stop_after: int | None = None,
    watch: Callable[[Tensors], None] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainingLog:
    """Train a network in place; it is in evaluation mode afterwards.

    With a source, every step takes one batch of it beside one batch of the target and follows the gradient of
    `alpha * source loss + (1 - alpha) * target loss`. An epoch is one pass over the target. With alpha = 0 the source
    is ignored.

    Args:
        network: takes the inputs by name, returns outputs by name. Build it within `seeded`.
        loss: of a batch; may use the module's own parameters.
        target: rows of the domain that counts.
        training: the options.
        source: rows of another domain.
        alpha: weight of the source, from 0 to 1.
        validation: rows of the target domain that are not in `target`. The parameters with the lowest loss on them are
            kept, those of the start included, and training stops after `training.patience` epochs without a lower one.
        stop_after: stop after this many of `training.epochs`, for a refit with the number that early stopping chose.
        watch: called with the outputs for the validation rows after each epoch.
        on_epoch: called with the number of each epoch, from 0, and its validation loss. An exception that it raises ends
            the training and reaches the caller.

    Raises:
        ValueError: alpha is out of range or has no source, or classes are to be balanced and rows have none.
        ChiasmError: the loss is no longer finite.
        MissingExtraError: there is a `log_dir` and TensorBoard is not installed.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the weight of the source, from 0 to 1; got {alpha!r}")
    if alpha > 0 and source is None:
        raise ValueError(f"alpha is {alpha}, but there is no source: give source rows, or alpha=0")
    parameters = sum(p.numel() for p in network.parameters())
    train_losses, validation_losses = list[float](), list[float]()
    with (
        _writer(training.log_dir) as write,
        seeded(training.seed),
        _one_thread(3 * min(len(target), training.batch_size) * parameters),
    ):
        steps = _Steps(network, loss, training, alpha)
        main = _Batches(target, training, stream=1)
        beside = _Batches(source, training, stream=2) if source is not None and alpha > 0 else None
        best, best_epoch = copy.deepcopy(network.state_dict()), 0
        if validation is not None:
            validation_losses.append(_validated(network, loss, validation, training)[0])
        epochs = training.epochs if stop_after is None else min(stop_after, training.epochs)
        for epoch in work.steps(range(epochs), "epochs"):
            train_losses.append(_finite(steps.epoch(epoch, main, beside), epoch, "training"))
            scalars = {"loss/train": train_losses[-1], "learning_rate": steps.rate}
            if validation is None:
                best_epoch = epoch + 1
                write(scalars, epoch)
                continue
            value, outputs = _validated(network, loss, validation, training)
            validation_losses.append(_finite(value, epoch, "validation"))
            write(scalars | {"loss/validation": value}, epoch)
            if watch is not None:
                watch(outputs)
            if value < validation_losses[best_epoch]:
                best, best_epoch = copy.deepcopy(network.state_dict()), epoch + 1
            if on_epoch is not None:
                on_epoch(epoch, value)
            if epoch + 1 - best_epoch >= training.patience:
                break
        if validation is not None:
            network.load_state_dict(best)
        network.eval()
    return TrainingLog(tuple(train_losses), tuple(validation_losses), best_epoch)


def fit_and_refit(
    build: Callable[[Rows], tuple[nn.Module, Loss]],
    target: Rows,
    *,
    held_out: Bool[np.ndarray, " rows"] | None,
    training: Training,
    source: Rows | None = None,
    alpha: float = 0.0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[nn.Module, TrainingLog]:
    """Find the number of epochs by early stopping, then train on all rows for that number under the same schedule.

    With a `log_dir`, the two trainings write to its folders `held_out` and `all`.

    Args:
        build: makes the network and its loss from the rows that it will learn from; called once a training, so that a
            start taken from rows knows nothing of those held out.
        target: all rows of the domain that counts.
        held_out: those that early stopping measures on. None: one training of all `training.epochs`.
        training: see `fit_network`, as the rest, and the errors.
        source: rows of another domain.
        alpha: weight of the source.
        on_epoch: called in the training with held-out rows.

    Returns:
        The network, and the log of the training that chose the number of epochs.
    """

    def train(
        rows: Rows, folder: str, *, validation: Rows | None = None, stop_after: int | None = None
    ) -> tuple[nn.Module, TrainingLog]:
        log_dir = None if training.log_dir is None else Path(training.log_dir) / folder
        with seeded(training.seed):
            network, loss = build(rows)
        return network, fit_network(
            network,
            loss,
            rows,
            training=replace(training, log_dir=log_dir),
            source=source,
            alpha=alpha,
            validation=validation,
            stop_after=stop_after,
            on_epoch=on_epoch,
        )

    if held_out is None:
        return train(target, "all")
    _, log = train(target.take(~held_out), "held_out", validation=target.take(held_out))
    return train(target, "all", stop_after=log.best_epoch)[0], log


def held_out_rows(
    codes: Int[np.ndarray, " rows"], *, seed: int, groups: Int[np.ndarray, " rows"] | None = None
) -> Bool[np.ndarray, " rows"] | None:
    """Choose the rows that early stopping measures on: about a fifth, stratified, no group divided.

    Rows whose class would be lost to training stay there, with their groups.

    Args:
        codes: class number of each row.
        seed: of the draw.
        groups: group number of each row, every number up to the largest in use.

    Returns:
        A mask; None where what is left is fewer rows than there are classes: too little to choose an epoch by, so
        training takes all its epochs.
    """
    folds = min(_FOLDS, len(codes) if groups is None else int(groups.max()) + 1)
    if folds < 2:
        return None
    held: Bool[np.ndarray, " rows"] = deal(codes, folds, seed=seed, groups=groups) == 0
    group = np.arange(len(codes)) if groups is None else groups
    lost = np.setdiff1d(codes, codes[~held])
    held &= ~np.isin(group, group[held & np.isin(codes, lost)])
    return held if held.sum() >= max(2, len(np.unique(codes))) else None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers inside, and leave the caller's state untouched."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


# -------------------------------------------------------------------------------------------------------------- losses


def class_losses(logits: Float[Tensor, "rows classes"], codes: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Return the cross-entropy of each row; 0 where the code is -1 (missing)."""
    from torch.nn import functional

    return functional.cross_entropy(logits, codes, ignore_index=-1, reduction="none")


def label_losses(
    logits: Float[Tensor, "rows labels"], values: Float[Tensor, "rows labels"], known: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Return the binary cross-entropy of each row, the mean over its labels; 0 where the row is not known."""
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(logits, values, reduction="none").mean(dim=1) * known


def number_losses(
    predictions: Float[Tensor, "rows 1"], values: Float[Tensor, " rows"], known: Bool[Tensor, " rows"]
) -> Float[Tensor, " rows"]:
    """Return half the squared error of each row; 0 where the value is not known."""
    return 0.5 * (predictions[:, 0] - values) ** 2 * known


def weighted_mean(losses: Float[Tensor, " rows"], weights: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    """Return the mean over rows by weight; 0 where all weights are 0."""
    return (losses * weights).sum() / weights.sum().clamp(min=1e-12)


def uncertainty_weighted(
    losses: Float[Tensor, " tasks"], log_variances: Float[Tensor, " tasks"], labelled: Bool[Tensor, " tasks"]
) -> Float[Tensor, ""]:
    """Return the sum of the tasks' losses, each divided by a learned variance (Kendall, Gal & Cipolla 2018, section 3).

    `sum_t exp(-s_t) * loss_t + s_t / 2` with `s_t` the logarithm of the variance of task t. The half of the squared
    error is in `number_losses`, so that a task of numbers gets its exact Gaussian likelihood. Tasks without a labelled
    row are left out, so that their variance is not learned from nothing.
    """
    return (((-log_variances).exp() * losses + 0.5 * log_variances) * labelled).sum()


# --------------------------------------------------------------------------------------------------------------- steps


class _Steps:
    """The optimiser and its schedule, and one epoch of steps."""

    def __init__(self, network: nn.Module, loss: Loss, training: Training, alpha: float) -> None:
        import torch

        self.network, self.loss, self.training, self.alpha = network, loss, training, alpha
        self.rate = 0.0
        self._mixing = np.random.default_rng([training.seed, 0])
        parameters = list(network.parameters())
        self._matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        self._optimiser = torch.optim.AdamW(
            [
                {"params": self._matrices, "weight_decay": training.weight_decay},
                {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
            ],
            lr=training.learning_rate,
        )

    def epoch(self, number: int, target: _Batches, source: _Batches | None) -> float:
        """Go through the target once; return the mean loss of its steps."""
        import torch

        self.network.train()
        batches = target.epoch()
        total = 0.0
        for i, batch in enumerate(batches):
            self.rate = self._rate_at((number + (i + 0.5) / len(batches)) / self.training.epochs)
            loss = self._loss(*target.take(batch))
            if source is not None:
                loss = self.alpha * self._loss(*source.take(source.next())) + (1 - self.alpha) * loss
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            self._step()
            total += float(loss.detach())
        return total / len(batches)

    def _loss(self, inputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:
        """Return the loss of one batch, its rows mixed in pairs if asked for."""
        import torch

        if not self.training.mixup:
            return self.loss(self.network(inputs), targets, weights)
        share = float(self._mixing.beta(self.training.mixup, self.training.mixup))
        partner = torch.from_numpy(self._mixing.permutation(len(weights)))
        outputs = self.network({name: share * rows + (1 - share) * rows[partner] for name, rows in inputs.items()})
        other = {name: rows[partner] for name, rows in targets.items()}
        return share * self.loss(outputs, targets, weights) + (1 - share) * self.loss(outputs, other, weights[partner])

    def _step(self) -> None:
        import torch

        for group in self._optimiser.param_groups:
            group["lr"] = self.rate
        self._optimiser.step()
        if self.training.l1:
            with torch.no_grad():
                for matrix in self._matrices:
                    matrix.copy_(matrix.sign() * (matrix.abs() - self.rate * self.training.l1).clamp(min=0))

    def _rate_at(self, progress: float) -> float:
        """Return the learning rate at a share of all epochs."""
        if progress < _WARMUP:
            return self.training.learning_rate * progress / _WARMUP
        return self.training.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (progress - _WARMUP) / (1 - _WARMUP))))


class _Batches:
    """Batches of rows, in a random order of their own."""

    def __init__(self, rows: Rows, training: Training, *, stream: int) -> None:
        if training.class_balance is not None and rows.codes is None:
            raise ValueError(f"class_balance is {training.class_balance!r}, but the rows have no classes")
        self._rows, self._size, self._balance = rows, training.batch_size, training.class_balance
        self._rng = np.random.default_rng([training.seed, stream])
        self._weights = rows.row_weights(balanced=training.class_balance == "weights")
        self._left: list[Int[np.ndarray, " batch"]] = []

    def epoch(self) -> list[Int[np.ndarray, " batch"]]:
        """Return all rows once (but for over- and undersampling), in batches of nearly the same size."""
        order = self._rng.permutation(self._drawn())
        return np.array_split(order, -(-len(order) // self._size))

    def next(self) -> Int[np.ndarray, " batch"]:
        """Return one batch after the other, epoch after epoch."""
        if not self._left:
            self._left = self.epoch()
        return self._left.pop()

    def take(self, rows: Int[np.ndarray, " batch"]) -> tuple[Tensors, Tensors, Tensor]:
        """Return the inputs, targets and weights of a batch."""
        return _tensors(self._rows.inputs, rows), _tensors(self._rows.targets, rows), _tensor(self._weights[rows])

    def _drawn(self) -> Int[np.ndarray, " drawn"]:
        codes = self._rows.codes
        if codes is None or self._balance not in ("oversample", "undersample"):
            return np.arange(len(self._rows))
        classes, counts = np.unique(codes[codes >= 0], return_counts=True)
        parts = [np.flatnonzero(codes < 0)]
        for code in classes:
            members = self._rng.permutation(np.flatnonzero(codes == code))
            # np.resize goes round and round: every member is drawn as often as any other, or once more.
            parts.append(np.resize(members, counts.max() if self._balance == "oversample" else counts.min()))
        return np.concatenate(parts)


def _validated(network: nn.Module, loss: Loss, rows: Rows, training: Training) -> tuple[float, Tensors]:
    """Return loss and outputs for rows; where classes are balanced in any way, they count the same here, too."""
    import torch

    network.eval()
    weights = rows.row_weights(balanced=training.class_balance is not None)
    with torch.no_grad():
        blocks = [network(_tensors(rows.inputs, slice(i, i + _BLOCK))) for i in range(0, len(rows), _BLOCK)]
        outputs = {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}
        return float(loss(outputs, _tensors(rows.targets, slice(None)), _tensor(weights))), outputs


def _tensors(
    arrays: Mapping[str, Shaped[np.ndarray, "rows ..."]], rows: Int[np.ndarray, " _"] | slice
) -> dict[str, Tensor]:
    return {name: _tensor(array[rows]) for name, array in arrays.items()}


def _tensor(array: Shaped[np.ndarray, "rows ..."]) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else None))


def _finite(value: float, epoch: int, which: str) -> float:
    if not np.isfinite(value):
        raise ChiasmError(
            f"the {which} loss is {value} after epoch {epoch + 1}: the network diverged. Lower the learning rate"
        )
    return value


@contextmanager
def _one_thread(work: int) -> Iterator[None]:
    """Keep torch to one thread where a step is small: threads that wait for each other cost more than they do."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if work >= _WORTH_THREADS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _writer(folder: str | Path | None) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """Yield a function that writes numbers of an epoch for TensorBoard, or does nothing without a folder."""
    if folder is None:
        yield lambda scalars, epoch: None  # noqa: ARG005
        return
    require("tensorboard", "tensorboard", "write training logs")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder)) as events:

        def write(scalars: Mapping[str, float], epoch: int) -> None:
            for name, number in scalars.items():
                events.add_scalar(name, number, epoch)

        yield write
