"""Training one network on labelled items: the losses, and the loop of `transformers.Trainer`.

The head starts as the linear probe on frozen features (Kumar et al. 2022, arXiv:2202.10054). Afterwards the trained weights
are averaged with those of the start (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). Which items are learned from, and
whether the result is better than frozen features, is left to `chiasm.verbs.climb`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Sampler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from chiasm._optional import require
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.files import read_record
from chiasm.finetuning.items import BLOCK, Drawn, Examples, Items, Order, filled, held_out, stack
from chiasm.finetuning.processes import count, is_first, on_cpu
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.tasks import Task, start_tasks
from chiasm.finetuning.towers import Tower
from chiasm.finetuning.views import Views, store_views
from chiasm.recognition.targets import strata
from chiasm.saved import read_described, write_arrays
from chiasm.training import uncertainty_weighted
from chiasm.types import Media

_WEIGHT = "weight/"


class Learner(nn.Module):
    """Networks with their loss, as the loop takes them.

    Attributes:
        recipe: how they learn.
        at_once: items that go through a network at a time.
        contrasts: whether the items of a batch are compared with each other: then a batch is one loss, however little of it
            goes through a network at a time.
        head: parameters that have the learning rate of the head.
        averaged: moving average of what is learned; None: there is none.
    """

    contrasts: ClassVar[bool] = False
    at_once: int = 1
    head: Sequence[nn.Parameter] = ()
    averaged: AveragedModel | None

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.averaged = None
        self.recipe = recipe
        self._keys_to_ignore_on_save: list[str] | None = None  # asked for by the library

    def learned(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are learned, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Return what is learned, and its average, which is all that a checkpoint has to hold."""
        state = {name: parameter.detach().contiguous() for name, parameter in self.learned().items()}
        if self.averaged is not None:
            state |= {f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        return state

    def begin_average(self) -> None:
        """Begin to average what is learned, if the recipe says so."""
        if self.recipe.ema:
            own = nn.ParameterList(self.learned().values())
            decay = get_ema_multi_avg_fn(self.recipe.ema)  # type: ignore[no-untyped-call]
            self.averaged = AveragedModel(own, multi_avg_fn=decay).requires_grad_(False)

    @contextmanager
    def as_averaged(self) -> Iterator[None]:
        """Have the averaged parameters for a while; those that are learned where nothing is averaged."""
        last = {} if self.averaged is None else {name: one.detach().clone() for name, one in self.learned().items()}
        self.take_average()
        try:
            yield
        finally:
            self.load_state_dict(last, strict=False)

    def take_average(self) -> None:
        """Take over the averaged parameters, if there are any."""
        if self.averaged is not None and self.averaged.n_averaged > 0:
            self.load_state_dict(
                dict(zip(self.learned(), self.averaged.module.parameters(), strict=True)), strict=False
            )

    def penalty(self) -> Tensor | float:
        """Return the L1 norm of the matrices that are learned, as it counts in the loss; 0 while measuring."""
        if not self.recipe.l1 or not self.training:
            return 0.0
        matrices = [parameter for parameter in self.learned().values() if parameter.ndim > 1]
        return self.recipe.l1 * torch.stack([matrix.abs().sum() for matrix in matrices]).sum()


class Classifier(Learner):
    """A network with a linear layer on its embeddings, of unit length and centred, that learns one column or several."""

    def __init__(
        self, tower: Tower, tasks: Sequence[Task], mean: Tensor, weight: Tensor, bias: Tensor, recipe: Recipe
    ) -> None:
        super().__init__(recipe)
        self.tower, self.tasks = tower, tasks
        self.mean: Tensor
        self.register_buffer("mean", mean)
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.head = [self.weight, self.bias]
        if len(tasks) > 1:
            self.log_variances = nn.Parameter(torch.zeros(len(tasks)))
            self.head.append(self.log_variances)

    def forward(
        self,
        targets: Float[Tensor, "batch outputs"],
        weights: Float[Tensor, "batch tasks"],
        source: Bool[Tensor, " batch"],
        **arrays: Tensor,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch and its scores; see `chiasm.finetuning.tasks.Rows`."""
        embeddings = self.tower(**arrays)
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.recipe.strategy == "alternating" and self.training:
            if source.all():
                weight, bias = weight.detach(), bias.detach()
            else:
                embeddings = embeddings.detach()
        centred = functional.normalize(embeddings, dim=1) - self.mean
        scores = functional.linear(functional.dropout(centred, self.recipe.dropout, self.training), weight, bias)
        every = [task.losses(scores[:, task.place], targets[:, task.place], self.recipe) for task in self.tasks]
        losses = (weights * torch.stack(every, dim=1)).mean(dim=0)
        loss = losses[0]
        if len(self.tasks) > 1:
            # The weights are 1 on average over all batches, so a batch without a value of a column counts as one without loss.
            loss = uncertainty_weighted(losses, self.log_variances, torch.ones_like(losses, dtype=torch.bool))
        return {"loss": loss + self.penalty(), "logits": scores}

    def measure(self, prediction: transformers.EvalPrediction) -> dict[str, float]:
        """Return the accuracy in each column of classes, numbered if there are several columns."""
        scores: Any = prediction.predictions
        labels: Any = prediction.label_ids
        targets, weights = labels
        accuracy = {}
        for number, task in enumerate(self.tasks, start=1):
            known = weights[:, number - 1] > 0
            if task.kind == "classes" and known.any():
                right = scores[known, task.place].argmax(axis=1) == targets[known, task.place].argmax(axis=1)
                accuracy["accuracy" if len(self.tasks) == 1 else f"accuracy_{number}"] = float(right.mean())
        return accuracy


class _Trainer(transformers.Trainer):
    """The library's loop with a learning rate of the head's own; a loss that is no number ends it."""

    def create_optimizer(self, model: Any = None) -> Any:  # noqa: ARG002
        """Return the optimiser: decay of matrices alone, and the head at its own rate."""
        assert isinstance(self.model, Learner)
        recipe = self.model.recipe
        if self.optimizer is None:
            head = {id(parameter) for parameter in self.model.head}
            groups = []
            for is_head, rate in ((True, recipe.head_rate), (False, recipe.network_rate)):
                for is_matrix, decay in ((True, recipe.weight_decay), (False, 0.0)):
                    parameters = [
                        parameter
                        for parameter in self.model.parameters()
                        if parameter.requires_grad
                        and (id(parameter) in head) is is_head
                        and (parameter.ndim > 1) is is_matrix
                    ]
                    if parameters:
                        groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
            is_adam = recipe.optimizer == "adamw"
            self.optimizer = (
                torch.optim.AdamW(groups) if is_adam else torch.optim.SGD(groups, momentum=0.9, nesterov=True)
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of the rates; the one in steps is not among the library's."""
        assert isinstance(self.model, Learner)
        if self.model.recipe.schedule == "step" and self.lr_scheduler is None:
            warm = max(1, self.args.get_warmup_steps(num_training_steps))
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                chosen,
                lambda step: min(1.0, step / warm) * 0.1 ** (3 * step // num_training_steps),
            )
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        items = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(items, Drawn)
        return Order(items, self.args.train_batch_size * self.args.gradient_accumulation_steps * count())

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the averaged network, where there is one."""
        assert isinstance(self.model, Learner)
        with self.model.as_averaged():
            return super().evaluate(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Learn from one batch, and refuse a loss that is no number."""
        loss: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            last = _last_checkpoint(Path(str(self.args.output_dir)))
            raise ChiasmError(
                f"the loss is no longer a finite number at step {self.state.global_step + 1} of {self.state.max_steps}. "
                f"{'The last good checkpoint is in ' + last if last else 'There is no checkpoint yet'}. Take a lower learning "
                "rate (--rate), or look for items with strange values"
            )
        return loss


class _Averaging(transformers.TrainerCallback):
    """Averages what is learned after every step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:  # noqa: ARG002  the library's
        """Count the step in."""
        model = others["model"]
        model.averaged.update_parameters(nn.ParameterList(model.learned().values()))


@dataclass(frozen=True, eq=False)
class Tuned:
    """A network that was trained, and averaged with the one that it started from.

    Attributes:
        weights: of the tower.
        embeddings: by it, of the items that were asked for.
        history: what the library logged, by epoch.
        batch_size: items at a time on one device, in the end.
        items_per_second: that were learned from.
    """

    weights: Mapping[str, Tensor]
    embeddings: Float[np.ndarray, "rows dim"]
    history: Sequence[Mapping[str, float]]
    batch_size: int
    items_per_second: float

    def save(self, path: Path) -> None:
        """Write it into one file."""
        arrays = {f"{_WEIGHT}{name}": tensor.numpy() for name, tensor in self.weights.items()}
        about = {"history": self.history, "batch_size": self.batch_size, "items_per_second": self.items_per_second}
        arrays["embeddings"] = self.embeddings
        write_arrays(path, arrays, {"about": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> Tuned | None:
        """Return what was written; None where nothing was."""
        if not path.exists():
            return None
        arrays, about = read_described(path)
        weights = {
            name.removeprefix(_WEIGHT): torch.from_numpy(np.array(array))
            for name, array in arrays.items()
            if name.startswith(_WEIGHT)
        }
        return cls(weights, np.array(arrays["embeddings"]), **json.loads(about["about"]))


def embed(tower: Tower, views: Views, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows dim"]:
    """Return the embeddings of some items' media as they are."""
    device = next(tower.parameters()).device
    parts = []
    with torch.inference_mode():
        for at in range(0, len(rows), BLOCK):
            arrays = [views.get(int(item), 0) for item in rows[at : at + BLOCK]]
            parts.append(
                tower(**{name: tensor.to(device) for name, tensor in stack(arrays).items()}).float().cpu().numpy()
            )
    return np.concatenate(parts)


def train(
    tower: Tower,
    views: Views,
    examples: Examples,
    rows: Int[np.ndarray, " rows"],
    recipe: Recipe,
    folder: Path,
    *,
    frozen: Float[np.ndarray, "items dim"],
    measured: Int[np.ndarray, " measured"],
    device: Device = "auto",
    say: Callable[[str], None] = lambda _: None,
) -> Tuned:
    """Train a network on some of the items, and average it with itself as it was.

    With patience, a fifth of those of the target, whole groups, is held out to stop by. After a kill the training goes on at
    its last epoch.

    Args:
        tower: as it starts; it is the same again afterwards.
        views: stored items.
        examples: their columns.
        rows: the items that are learned from.
        recipe: how.
        folder: for checkpoints.
        frozen: embeddings of the labelled items by the network as it starts.
        measured: the items whose embeddings are returned.
        device: where it is trained.
        say: called with what people should know.

    Raises:
        ChiasmError: the loss is no longer finite, or one item does not fit into memory.
    """
    columns = [target.take(rows) for target in examples.targets]
    source, groups = examples.source[rows], examples.groups[rows]
    held = held_out(strata(columns), groups, source, recipe)
    start = tower.weights()
    learned, head = start_tasks(columns, groups, source, held, frozen[rows], recipe)
    tower.choose(recipe.method, recipe.rank, stack([views.get(int(rows[0]), 0)]))
    mean, weight, bias = (torch.from_numpy(one) for one in (head.mean, head.weight, head.bias))
    model = Classifier(tower, learned.tasks, mean, weight, bias, recipe)

    def items(some: Bool[np.ndarray, " rows"], *, learning: bool) -> Items:
        return Items(views, rows[some], learned.take(np.flatnonzero(some)), source[some], recipe, learned=learning)

    evaluated = filled(items(held, learning=False)) if held.any() else None
    trainer = fit(model, items(~held, learning=True), evaluated, folder, device, say)
    model.cpu()
    tower.merge()
    share = recipe.average
    tuned = {name: share * weight + (1 - share) * start[name] for name, weight in tower.weights().items()}
    tower.set_weights(tuned)
    embeddings = embed(tower, views, measured)
    tower.set_weights(start)
    log = trainer.state.log_history
    return Tuned(tuned, embeddings, tuple(log), model.at_once, items_per_second(log))


def items_per_second(log: Sequence[Mapping[str, float]]) -> float:
    """Return how many items were learned from in a second."""
    name = "train_samples_per_second"
    return float(next((entry[name] for entry in reversed(log) if name in entry), 0.0))


def fit(
    model: Learner,
    learned: Drawn,
    evaluated: Drawn | None,
    folder: Path,
    device: Device,
    say: Callable[[str], None],
) -> transformers.Trainer:
    """Train, with half as many items at a time wherever memory is too small for them.

    Args:
        model: what learns.
        learned: from these.
        evaluated: early stopping goes by their loss; None: it trains to the end.
        folder: for checkpoints; training goes on at the last that is there.
        device: where it is trained.
        say: called with what people should know.

    Raises:
        ChiasmError: the loss is no longer finite, or one item does not fit into memory.
    """
    batch, steps = max(1, model.recipe.batch_size // count()), 1
    model.begin_average()
    start = {name: one.clone() for name, one in model.state_dict().items()}
    while True:
        model.load_state_dict(start, strict=False)  # memory may have become too small after some steps
        model.at_once = batch
        trainer = _trainer(model, learned, evaluated, folder, device, batch, steps)
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or should_reduce_batch_size(error)):
                raise
            if batch == 1:
                raise ChiasmError(
                    "there is not enough memory to train on one item at a time. Train fewer blocks (--blocks), or only norms "
                    "(--method norms)"
                ) from error
            batch, steps = batch // 2, steps * 2
            say(f"Memory is too small: {batch} items at a time, {steps} times a step")
            continue
        model.take_average()
        return trainer


def _last_checkpoint(folder: Path) -> str | None:
    """Return the folder of the newest checkpoint that is whole; None where there is none.

    The library writes its state last, so a checkpoint without it was being written at a kill.
    """
    whole = [
        file.parent for file in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}") if read_record(file)
    ]
    return str(max(whole, key=lambda one: int(one.name.rpartition("-")[2]))) if whole else None


def _trainer(
    model: Learner,
    learned: Drawn,
    evaluated: Drawn | None,
    folder: Path,
    device: Device,
    batch: int,
    steps: int,
) -> transformers.Trainer:
    recipe, stops = model.recipe, evaluated is not None
    if model.contrasts:
        batch, steps = batch * steps, 1
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=BLOCK if evaluated is None else min(BLOCK, len(evaluated) // count()),
        gradient_accumulation_steps=steps,
        lr_scheduler_type={"constant": "constant_with_warmup", "step": "linear"}.get(recipe.schedule, recipe.schedule),
        warmup_steps=recipe.warmup,
        max_grad_norm=recipe.clip,
        seed=recipe.seed,
        eval_strategy="epoch" if stops else "no",
        save_strategy="epoch",
        logging_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=stops,
        metric_for_best_model="eval_loss" if stops else None,
        greater_is_better=False if stops else None,
        label_names=["targets", "weights"] if isinstance(model, Classifier) else ["weights"],
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=recipe.strategy == "alternating",
        prediction_loss_only=not isinstance(model, Classifier),
        report_to=[name for name in recipe.report_to if name != "tensorboard"] or "none",
        use_cpu=on_cpu(device),
        bf16=not on_cpu(device) and torch.cuda.is_bf16_supported(),
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )
    callbacks: list[Any] = []
    if stops:
        callbacks.append(transformers.EarlyStoppingCallback(early_stopping_patience=recipe.patience))
    if model.averaged is not None:
        callbacks.append(_Averaging())
    if "tensorboard" in recipe.report_to and is_first():
        callbacks.append(_tensorboard(folder))
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=learned,
        eval_dataset=evaluated,
        data_collator=learned.collate,
        compute_metrics=model.measure if isinstance(model, Classifier) else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _tensorboard(folder: Path) -> Any:
    """Return TensorBoard's callback. Its logs stay: of ENCODER.training/image/fold-0 they are in ENCODER.logs/image/fold-0."""
    require("tensorboard", "tensorboard", "write training logs")
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations.integration_utils import TensorBoardCallback

    part = folder.parent
    work = part.parent
    logs = work.with_name(f"{work.name.removesuffix('.training')}.logs") / part.name / folder.name
    return TensorBoardCallback(SummaryWriter(str(logs)))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class Cost:
    """Time and memory that a training takes, estimated on a few items."""

    seconds_a_view: float
    seconds_an_item: float  # of one epoch
    bytes_a_view: float
    memory: int  # bytes of the process while it learns


def estimate(tower: Tower, openers: Sequence[Callable[[], Media]], recipe: Recipe, folder: Path) -> Cost:
    """Put a few items through everything once.

    Args:
        tower: as it starts; it is the same again afterwards.
        openers: of a few media.
        recipe: of the training.
        folder: for their views, which is removed.
    """
    start = tower.weights()
    store_views(tower, openers[:1], folder / "first", views=1, seed=0)  # networks are loaded
    begin = time.perf_counter()
    views = store_views(tower, openers, folder / "some", views=2, seed=0)
    a_view = (time.perf_counter() - begin) / max(1, 2 * len(views.items))
    if not len(views.items):
        raise ChiasmError(
            "not one of the first items can be opened. Bring the files back to where they were added from"
        )
    batch = stack([views.get(item % len(views.items), 0) for item in range(recipe.batch_size)])
    tower.choose(recipe.method, recipe.rank, stack([views.get(0, 0)]))
    seconds = []
    for _ in range(2):  # the first is slower
        begin = time.perf_counter()
        output = tower(**batch).square().sum()
        memory = psutil.Process().memory_info().rss  # with all that the backward pass needs
        output.backward()
        tower.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
    tower.merge()
    tower.set_weights(start)
    shutil.rmtree(folder)
    return Cost(a_view, min(seconds) / recipe.batch_size, views.bytes / (2 * len(views.items)), memory)
