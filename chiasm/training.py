"""The training loop: how a small network is fitted to arrays, for every learned adapter and fusion.

This module knows optimisation: batches, schedule, early stopping, balance of classes, mixup, a source beside the target,
logs. What the network computes and what its loss is, it is given. Runs are the same for the same seed on a CPU, and leave
the caller's random state and number of threads as they were.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Shaped
from torch import Tensor, nn

from chiasm._optional import require
from chiasm.errors import ChiasmError
from chiasm.splits import deal

Tensors: TypeAlias = Mapping[str, Tensor]
"""Tensors by name, each with one row an item."""

Loss: TypeAlias = Callable[[Tensors, Tensors, Tensor], Tensor]
"""(outputs of the network, targets, weights of the rows) -> one number."""

ClassBalance: TypeAlias = Literal["weights", "oversample", "undersample"]

_WORTH_THREADS = 2**31  # multiplications a step from which more than one thread gains more than it costs
_BLOCK = 4096  # rows that go through the network at once when nothing is learned


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a network is trained: AdamW (Loshchilov & Hutter 2019) with warm-up and a cosine schedule.

    Raises:
        ValueError: a value is out of its range; the message names it.
    """

    epochs: int = 100
    """At most; the schedule is laid over this number also when training stops before."""
    fixed_epochs: int = 100
    """Epochs where nothing can be held out, so that early stopping has nothing to go by."""
    batch_size: int = 256
    learning_rate: float = 3e-3
    """Its highest value, after the warm-up."""
    weight_decay: float = 1e-2
    """Of weight matrices, decoupled from the loss as in AdamW: the learned form of an L2 penalty."""
    l1: float = 0.0
    """Every step moves the entries of weight matrices towards 0 by learning rate times this, and not beyond it: the
    proximal step of an L1 penalty, decoupled as the weight decay is. Weights become exactly 0."""
    warmup: float = 0.05
    """Share of the epochs in which the learning rate rises from 0."""
    held_out: float = 0.2
    """Share of the rows on which early stopping measures."""
    patience: int = 15
    """Epochs without a lower validation loss after which training stops."""
    mixup: float = 0.0
    """Both parameters of the Beta distribution that mixes pairs of rows (Zhang et al. 2018); 0: no mixing."""
    class_balance: ClassBalance | None = None
    """Classes count the same: by weights of their rows, by drawing rows of small classes again in every epoch, or by
    drawing as many rows of every class as the smallest has, others in every epoch."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    log_dir: str | Path | None = None
    """A folder for TensorBoard's event files."""

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("fixed_epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be a whole number of at least {least}; got {getattr(self, name)!r}")
        for name in ("weight_decay", "l1", "mixup"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be finite and not below 0; got {getattr(self, name)!r}")
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(f"learning_rate must be finite and above 0; got {self.learning_rate!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a share of the epochs, from 0 to below 1; got {self.warmup!r}")
        if not 0 < self.held_out <= 0.5:
            raise ValueError(f"held_out is a share of the rows, above 0 and at most 0.5; got {self.held_out!r}")
        if self.class_balance not in (None, "weights", "oversample", "undersample"):
            raise ValueError(
                f"class_balance must be None, 'weights', 'oversample' or 'undersample'; got {self.class_balance!r}"
            )
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device must be 'auto', 'cpu' or 'cuda'; got {self.device!r}")


@dataclass(frozen=True, eq=False)
class Rows:
    """What a network learns from: arrays with one row an item, by name.

    Raises:
        ValueError: the arrays do not have the same number of rows, or there are none.
    """

    inputs: Mapping[str, Shaped[np.ndarray, "rows ..."]]
    """What the network takes. Mixup mixes all of them, so they are floats."""
    targets: Mapping[str, Shaped[np.ndarray, "rows ..."]]
    """What the loss takes beside the outputs."""
    weights: Float[np.ndarray, " rows"] | None = None
    codes: Int[np.ndarray, " rows"] | None = None
    """The class of each row by number, -1 where it has none: what the balance of classes goes by."""

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in (*self.inputs.items(), *self.targets.items())}
        lengths |= {
            name: len(array) for name, array in (("weights", self.weights), ("codes", self.codes)) if array is not None
        }
        if not self.inputs or len(set(lengths.values())) != 1 or not len(self):
            raise ValueError(f"inputs, targets, weights and codes must have one and the same row each; got {lengths}")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, rows: Int[np.ndarray, " _"] | Bool[np.ndarray, " _"]) -> Rows:
        """The same for some rows."""
        return Rows(
            {name: array[rows] for name, array in self.inputs.items()},
            {name: array[rows] for name, array in self.targets.items()},
            None if self.weights is None else self.weights[rows],
            None if self.codes is None else self.codes[rows],
        )


class Modulation(Protocol):
    """Slows down parts of a network while they learn, step by step."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """Prefixes of the names of the parameters that it may slow down."""
        ...

    def factors(self, inputs: Tensors, targets: Tensors, weights: Tensor) -> Mapping[str, float]:
        """The factor of each block's learning rate in this step, on the target's batch.

        Called when the gradients are known; may change them.
        """
        ...


@dataclass(frozen=True, eq=False)
class TrainingLog:
    """How a training went."""

    train_losses: tuple[float, ...]
    """By epoch: of the weighted sum of source and target, without penalties, as it was while learning."""
    validation_losses: tuple[float, ...]
    """By epoch; empty where nothing was held out."""
    metrics: tuple[Mapping[str, float], ...]
    """By epoch, as the caller measures them: on the validation rows, or the target rows where nothing is held out."""
    learning_rates: tuple[float, ...]
    """By epoch, at its end."""
    best_epoch: int
    """How many epochs the network that was kept has learned for."""
    seconds: float
    parameters: int


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
    metrics: Callable[[Tensors, Tensors], Mapping[str, float]] | None = None,
    modulation: Modulation | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainingLog:
    """Train a network in place; it is on the CPU and in evaluation mode afterwards.

    With a source, every step takes one batch of it beside one batch of the target, and goes down the gradient of
    `alpha * source loss + (1 - alpha) * target loss`. An epoch is one pass over the target. With alpha = 0 the source
    is not looked at.

    Args:
        network: takes the inputs by name, gives outputs by name. Build it within `seeded`.
        loss: of a batch; a module's own parameters may take part in it.
        target: rows of the domain that counts.
        training: the options.
        source: rows of another domain.
        alpha: weight of the source, from 0 to 1.
        validation: rows of the target domain that are not in `target`. The parameters of the epoch with the least loss
            on them are kept, and training stops after `training.patience` epochs without a lower one.
        stop_after: stop after this many of `training.epochs`, for a refit with the number that early stopping found.
        metrics: what else to measure after each epoch, from outputs and targets.
        modulation: see there.
        on_epoch: called with the number of the epoch, from 0, and its validation loss (not called without validation
            rows). What it raises ends the training and goes to the caller.

    Raises:
        ValueError: alpha is out of range or has no source, or classes are to be balanced and rows have none.
        ChiasmError: the loss is not finite any more, or CUDA was asked for and is not there.
        MissingExtraError: there is a `log_dir` and TensorBoard is not installed.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the weight of the source, from 0 to 1; got {alpha!r}")
    if alpha > 0 and source is None:
        raise ValueError(f"alpha is {alpha}, but there is no source: give source rows, or alpha=0")
    began = time.perf_counter()
    device = _device(training.device)
    parameters = sum(p.numel() for p in network.parameters())
    with (
        _writer(training.log_dir) as write,
        seeded(training.seed, training.device),
        _one_thread(3 * min(len(target), training.batch_size) * parameters),
    ):
        network.to(device)
        run = _Run(network, loss, training, device, alpha, modulation)
        main = _Feed(target, training, stream=1)
        beside = _Feed(source, training, stream=2) if source is not None and alpha > 0 else None
        checked = None if validation is None else _balanced_weights(validation, training.class_balance)
        train_losses: list[float] = []
        validation_losses: list[float] = []
        measured: list[Mapping[str, float]] = []
        rates: list[float] = []
        best: dict[str, Tensor] | None = None
        best_epoch = 0
        for epoch in range(training.epochs if stop_after is None else min(stop_after, training.epochs)):
            train_losses.append(run.epoch(epoch, main, beside))
            rates.append(run.rate)
            scalars = {"loss/train": train_losses[-1], "learning_rate": rates[-1]}
            if validation is not None and checked is not None:
                outputs = _outputs(network, validation.inputs, device)
                with torch.no_grad():
                    value = loss(
                        outputs,
                        _tensors(validation.targets, slice(None), device),
                        _tensor(checked, slice(None), device),
                    )
                validation_losses.append(_finite(float(value), epoch, "validation"))
                scalars["loss/validation"] = validation_losses[-1]
            if metrics is not None:
                rows = target if validation is None else validation
                outputs = _outputs(network, rows.inputs, device)
                measured.append(dict(metrics(outputs, _tensors(rows.targets, slice(None), device))))
                scalars |= {f"metrics/{name}": number for name, number in measured[-1].items()}
            write(scalars, epoch)
            if not validation_losses:
                best_epoch = epoch + 1
                continue
            if best is None or validation_losses[-1] < validation_losses[best_epoch - 1]:
                best, best_epoch = copy.deepcopy(network.state_dict()), epoch + 1
            if on_epoch is not None:
                on_epoch(epoch, validation_losses[-1])
            if epoch + 1 - best_epoch >= training.patience:
                break
        if best is not None:
            network.load_state_dict(best)
        network.to("cpu").eval()
    return TrainingLog(
        tuple(train_losses),
        tuple(validation_losses),
        tuple(measured),
        tuple(rates),
        best_epoch,
        time.perf_counter() - began,
        parameters,
    )


@dataclass(frozen=True, eq=False)
class Learner:
    """A network that has not learned yet, and what it needs to."""

    network: nn.Module
    loss: Loss
    modulation: Modulation | None = None


def fit_and_refit(
    build: Callable[[Rows], Learner],
    target: Rows,
    *,
    held_out: Bool[np.ndarray, " rows"] | None,
    training: Training,
    source: Rows | None = None,
    alpha: float = 0.0,
    metrics: Callable[[Tensors, Tensors], Mapping[str, float]] | None = None,
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[nn.Module, TrainingLog]:
    """Find the number of epochs by early stopping, then train on all rows for that number under the same schedule.

    With a `log_dir`, the two trainings write to its folders `held_out` and `all`.

    Args:
        build: makes the network from the rows that it will learn from; called once a training, so that a start taken
            from rows knows nothing of those held out.
        target: all rows of the domain that counts.
        held_out: those that early stopping measures on. None: one training of `training.fixed_epochs`, or
            `training.epochs` if that is fewer.
        training: see `fit_network`, as the rest.
        source: rows of another domain.
        alpha: weight of the source.
        metrics: what else to measure after each epoch.
        on_epoch: called in the training with held-out rows.

    Returns:
        The network, and the log of the training that chose the number of epochs; its seconds are of both.

    Raises:
        ValueError: as `fit_network`.
        ChiasmError: as `fit_network`.
        MissingExtraError: as `fit_network`.
    """

    def train(rows: Rows, options: Training, name: str, **rest: Any) -> tuple[nn.Module, TrainingLog]:
        if options.log_dir is not None:
            options = replace(options, log_dir=Path(options.log_dir) / name)
        with seeded(options.seed, options.device):
            learner = build(rows)
        log = fit_network(
            learner.network,
            learner.loss,
            rows,
            training=options,
            source=source,
            alpha=alpha,
            modulation=learner.modulation,
            **rest,
        )
        return learner.network, log

    if held_out is None:
        fixed = replace(training, epochs=min(training.fixed_epochs, training.epochs))
        return train(target, fixed, "all", metrics=metrics)
    validation = target.take(held_out)
    _, chosen = train(
        target.take(~held_out), training, "held_out", validation=validation, metrics=metrics, on_epoch=on_epoch
    )
    # On the rows that are learned from, metrics cost a pass an epoch and say little: for the logs only.
    logged = None if training.log_dir is None else metrics
    network, refit = train(target, training, "all", stop_after=chosen.best_epoch, metrics=logged)
    return network, replace(chosen, seconds=chosen.seconds + refit.seconds)


def held_out_rows(
    codes: Int[np.ndarray, " rows"], *, training: Training, groups: Int[np.ndarray, " rows"] | None = None
) -> Bool[np.ndarray, " rows"] | None:
    """Which rows early stopping measures on: a stratified part of about the asked share, no group divided.

    Rows whose class would be lost to training stay there, with their groups. None where what is left is fewer rows than
    there are classes: too little to choose an epoch by, so training takes `Training.fixed_epochs`.

    Args:
        codes: the class of each row by number.
        training: share and seed.
        groups: the group of each row by number, every number up to the largest in use.
    """
    units = len(codes) if groups is None else int(groups.max()) + 1
    folds = min(round(1 / training.held_out), units)
    if folds < 2:
        return None
    held: Bool[np.ndarray, " rows"] = deal(codes, folds, seed=training.seed, groups=groups) == 0
    group = np.arange(len(codes)) if groups is None else groups
    lost = np.setdiff1d(codes, codes[~held])
    held &= ~np.isin(group, group[held & np.isin(codes, lost)])
    return held if held.sum() >= max(2, len(np.unique(codes))) else None


@contextmanager
def seeded(seed: int, device: Literal["auto", "cpu", "cuda"] = "cpu") -> Iterator[None]:
    """Random numbers of torch from a seed inside, the caller's state untouched outside."""
    cuda = _device(device).type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield


def network_outputs(
    network: nn.Module, inputs: Mapping[str, Shaped[np.ndarray, "rows ..."]]
) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
    """What a trained network gives for rows, in evaluation mode and block by block, on the CPU."""
    with _one_thread(min(_BLOCK, len(next(iter(inputs.values())))) * sum(p.numel() for p in network.parameters())):
        outputs = _outputs(network, inputs, torch.device("cpu"))
    return {name: tensor.numpy() for name, tensor in outputs.items()}


class _Run:
    """The optimiser and its schedule, and one epoch of steps."""

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        training: Training,
        device: torch.device,
        alpha: float,
        modulation: Modulation | None,
    ) -> None:
        self.network, self.loss, self.training, self.device = network, loss, training, device
        self.alpha, self.modulation = alpha, modulation
        self.rate = 0.0
        self._mixing = np.random.default_rng([training.seed, 0])
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            block = next((b for b in modulation.blocks if name.startswith(b)), "") if modulation is not None else ""
            groups.setdefault((block, parameter.ndim >= 2), []).append(parameter)
        self._optimiser = torch.optim.AdamW(
            [
                {"params": members, "block": block, "weight_decay": training.weight_decay if matrices else 0.0}
                for (block, matrices), members in groups.items()
            ],
            lr=training.learning_rate,
        )

    def epoch(self, number: int, target: _Feed, source: _Feed | None) -> float:
        """Go through the target once; return the mean loss of its steps."""
        self.network.train()
        batches = target.epoch()
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(batches):
            self.rate = self._rate_at((number + (i + 0.5) / len(batches)) / self.training.epochs)
            inputs, targets, weights = target.batch(batch, self.device)
            loss = self._loss(inputs, targets, weights)
            if source is not None:
                loss = self.alpha * self._loss(*source.batch(source.next(), self.device)) + (1 - self.alpha) * loss
            self._optimiser.zero_grad()
            torch.autograd.backward(loss)
            self._step({} if self.modulation is None else self.modulation.factors(inputs, targets, weights))
            total += loss.detach()
        return _finite(float(total) / len(batches), number, "training")

    def _loss(self, inputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:
        """Of one batch, its rows mixed in pairs if asked."""
        if not self.training.mixup:
            return self.loss(self.network(inputs), targets, weights)
        share = float(self._mixing.beta(self.training.mixup, self.training.mixup))
        partner = torch.from_numpy(self._mixing.permutation(len(weights))).to(self.device)
        mixed = {name: share * tensor + (1 - share) * tensor[partner] for name, tensor in inputs.items()}
        outputs = self.network(mixed)
        other = {name: tensor[partner] for name, tensor in targets.items()}
        return share * self.loss(outputs, targets, weights) + (1 - share) * self.loss(outputs, other, weights[partner])

    def _step(self, factors: Mapping[str, float]) -> None:
        # A factor on the gradient would be divided out again by AdamW; on the learning rate it does what it does to
        # the gradient in plain descent.
        for group in self._optimiser.param_groups:
            group["lr"] = self.rate * factors.get(group["block"], 1.0)
        self._optimiser.step()
        if self.training.l1:
            with torch.no_grad():
                for group in self._optimiser.param_groups:
                    for parameter in group["params"]:
                        if parameter.ndim >= 2:
                            shrunk = (parameter.abs() - group["lr"] * self.training.l1).clamp(min=0)
                            parameter.copy_(parameter.sign() * shrunk)

    def _rate_at(self, progress: float) -> float:
        """The learning rate, from the share of all epochs that is done."""
        warmup = self.training.warmup
        if progress < warmup:
            return self.training.learning_rate * progress / warmup
        return self.training.learning_rate * 0.5 * (1 + float(np.cos(np.pi * (progress - warmup) / (1 - warmup))))


class _Feed:
    """Batches of rows, in a random order of their own."""

    def __init__(self, rows: Rows, training: Training, *, stream: int) -> None:
        self._rows, self._size, self._balance = rows, training.batch_size, training.class_balance
        self._rng = np.random.default_rng([training.seed, stream])
        self._weights = _balanced_weights(rows, "weights" if training.class_balance == "weights" else None)
        if training.class_balance is not None and rows.codes is None:
            raise ValueError(f"class_balance is {training.class_balance!r}, but the rows have no classes")
        self._left: list[Int[np.ndarray, " batch"]] = []

    def epoch(self) -> list[Int[np.ndarray, " batch"]]:
        """All rows once (but for over- and undersampling), in batches of nearly the same size."""
        order = self._rng.permutation(self._drawn())
        return np.array_split(order, -(-len(order) // self._size))

    def next(self) -> Int[np.ndarray, " batch"]:
        """One batch after the other, epoch after epoch."""
        if not self._left:
            self._left = self.epoch()
        return self._left.pop()

    def batch(self, rows: Int[np.ndarray, " batch"], device: torch.device) -> tuple[Tensors, Tensors, Tensor]:
        return (
            _tensors(self._rows.inputs, rows, device),
            _tensors(self._rows.targets, rows, device),
            _tensor(self._weights, rows, device),
        )

    def _drawn(self) -> Int[np.ndarray, " drawn"]:
        if self._balance not in ("oversample", "undersample"):
            return np.arange(len(self._rows))
        assert self._rows.codes is not None
        classes, counts = np.unique(self._rows.codes[self._rows.codes >= 0], return_counts=True)
        parts = [np.flatnonzero(self._rows.codes < 0)]
        for code in classes:
            members = self._rng.permutation(np.flatnonzero(self._rows.codes == code))
            # np.resize goes round and round: every member is drawn as often as any other, or once more.
            parts.append(np.resize(members, counts.max() if self._balance == "oversample" else counts.min()))
        return np.concatenate(parts)


def _balanced_weights(rows: Rows, balance: ClassBalance | None) -> Float64[np.ndarray, " rows"]:
    """Weights of rows, with every class given the same total where classes are to count the same."""
    weights = np.ones(len(rows)) if rows.weights is None else rows.weights.astype(np.float64)
    if balance is None or rows.codes is None:
        return weights
    labelled = rows.codes >= 0
    totals = np.bincount(rows.codes[labelled], weights=weights[labelled])
    factors = np.divide(weights[labelled].sum(), totals, out=np.zeros_like(totals), where=totals > 0)
    weights[labelled] *= factors[rows.codes[labelled]] / max(1, np.count_nonzero(totals))
    return weights


def _outputs(
    network: nn.Module, inputs: Mapping[str, Shaped[np.ndarray, "rows ..."]], device: torch.device
) -> dict[str, Tensor]:
    network.eval()
    rows = len(next(iter(inputs.values())))
    with torch.no_grad():
        blocks = [
            network(_tensors(inputs, slice(first, first + _BLOCK), device)) for first in range(0, max(rows, 1), _BLOCK)
        ]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _tensors(
    arrays: Mapping[str, Shaped[np.ndarray, "rows ..."]], rows: Int[np.ndarray, " _"] | slice, device: torch.device
) -> dict[str, Tensor]:
    return {name: _tensor(array, rows, device) for name, array in arrays.items()}


def _tensor(array: Shaped[np.ndarray, "rows ..."], rows: Int[np.ndarray, " _"] | slice, device: torch.device) -> Tensor:
    part = array[rows]
    return torch.from_numpy(np.ascontiguousarray(part, np.float32 if part.dtype.kind == "f" else None)).to(device)


def _finite(value: float, epoch: int, which: str) -> float:
    if not np.isfinite(value):
        raise ChiasmError(
            f"the {which} loss is {value} after epoch {epoch + 1}: the network diverged. Lower the learning rate"
        )
    return value


def _device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ChiasmError("device is 'cuda', but torch finds no CUDA device: use device='auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextmanager
def _one_thread(work: int) -> Iterator[None]:
    """One thread of torch where a step is small: threads that wait for each other then cost more than they do."""
    before = torch.get_num_threads()
    if work >= _WORTH_THREADS or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _writer(folder: str | Path | None) -> Iterator[Callable[[Mapping[str, float], int], None]]:
    """A function that writes numbers of an epoch for TensorBoard, or does nothing without a folder."""
    if folder is None:
        yield _write_nothing
        return
    require("tensorboard", "tensorboard", "write training logs")
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(log_dir=str(folder)) as events:

        def write(scalars: Mapping[str, float], epoch: int) -> None:
            for name, number in scalars.items():
                events.add_scalar(name, number, epoch)

        yield write


def _write_nothing(scalars: Mapping[str, float], epoch: int) -> None:
    """What writes where no logs are asked for."""
