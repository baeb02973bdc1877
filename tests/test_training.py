"""The training loop: what it minimises, when it stops, what it keeps, what it leaves alone and what it writes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from chiasm.errors import ChiasmError, MissingExtraError
from chiasm.training import (
    Rows,
    Training,
    TrainingLog,
    class_losses,
    fit_and_refit,
    fit_network,
    held_out_rows,
    label_losses,
    number_losses,
    seeded,
    uncertainty_weighted,
    weighted_mean,
)


class Line(nn.Module):
    """Logits linear in x, from zero."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.linear(inputs["x"])}


class Noisy(nn.Module):
    """A network whose training draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.layers(inputs["x"])}


def cross_entropy(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor) -> Tensor:
    return weighted_mean(class_losses(outputs["logits"], targets["y"]), weights)


def planted(rows: int, *, noise: float = 0.5, seed: int = 0, shift: float = 0.0) -> Rows:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, 6))
    y = rng.integers(3, size=rows)
    X = centres[y] + noise * rng.normal(size=(rows, 6)) + shift
    return Rows({"x": X}, {"y": y}, codes=y)


def logits_of(network: nn.Module, rows: Rows) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = network({"x": torch.tensor(rows.inputs["x"], dtype=torch.float32)})["logits"].numpy()
    return logits


def weights_of(network: nn.Module) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])


def trained(target: Rows, training: Training, **options: Any) -> tuple[np.ndarray, TrainingLog]:
    with seeded(training.seed):
        network = Noisy()
    log = fit_network(network, cross_entropy, target, training=training, **options)
    return weights_of(network), log


def test_it_learns_and_says_how() -> None:
    network = Line(6, 3)
    rows = planted(200)
    log = fit_network(network, cross_entropy, rows, training=Training(epochs=30, learning_rate=0.05))
    logits = logits_of(network, rows)
    assert (logits.argmax(axis=1) == rows.targets["y"]).mean() > 0.9
    assert log.train_losses[0] > log.train_losses[-1]
    assert log.best_epoch == len(log.train_losses) == 30
    assert log.validation_losses == ()
    assert not network.training


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_the_weighted_sum(alpha: float) -> None:
    """One step from zero with plain sums: the sign of every first step of Adam is that of the gradient."""
    target, source = planted(40), planted(50, seed=1, shift=3.0)
    network = Line(6, 3)
    training = Training(epochs=1, weight_decay=0, learning_rate=1e-3)
    log = fit_network(network, cross_entropy, target, source=source, alpha=alpha, training=training)

    def gradient(rows: Rows) -> np.ndarray:
        X, y = rows.inputs["x"], rows.targets["y"]
        residual = np.full((len(y), 3), 1 / 3) - np.eye(3)[y]
        mean: np.ndarray = residual.T @ X / len(y)
        return mean

    expected = alpha * gradient(source) + (1 - alpha) * gradient(target)
    clear = np.abs(expected) > 1e-6
    moved = network.linear.weight.detach().numpy()
    assert (np.sign(moved[clear]) == -np.sign(expected[clear])).all()
    assert log.train_losses[0] == pytest.approx(np.log(3), abs=1e-5)


def test_a_source_of_weight_0_is_no_source() -> None:
    target, source = planted(60), planted(500, seed=1)
    training = Training(epochs=4, batch_size=16, mixup=0.4)
    alone, beside = trained(target, training), trained(target, training, source=source, alpha=0.0)
    assert np.array_equal(alone[0], beside[0])
    assert alone[1].train_losses == beside[1].train_losses
    assert not np.array_equal(alone[0], trained(target, training, source=source, alpha=0.1)[0])


def test_source_and_target_both_pull() -> None:
    """The source has the classes in other places: the more it weighs, the better it is known."""
    target, source = planted(60), planted(60, seed=1)
    turned = Rows(source.inputs, {"y": (source.targets["y"] + 1) % 3})
    right = []
    for alpha in (0.1, 0.9):
        network = Line(6, 3)
        fit_network(
            network, cross_entropy, target, source=turned, alpha=alpha, training=Training(epochs=60, learning_rate=0.1)
        )
        predicted = logits_of(network, target).argmax(axis=1)
        right.append((predicted == target.targets["y"]).mean())
    assert right[0] > 0.9
    assert right[1] < 0.1


def test_same_seed_same_network_and_the_callers_state_is_left_alone() -> None:
    rows = planted(50)
    training = Training(epochs=3, batch_size=16, mixup=1.0, class_balance="oversample")
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = trained(rows, training)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(8)
    assert np.array_equal(first, trained(rows, training)[0])
    assert not np.array_equal(first, trained(rows, Training(epochs=3, batch_size=16, seed=1))[0])


def test_threads_come_back_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def stop(epoch: int, loss: float) -> None:
        assert torch.get_num_threads() == 1
        raise InterruptedError("pruned")

    try:
        with pytest.raises(InterruptedError, match="pruned"):
            trained(planted(30), Training(epochs=5), validation=planted(20, seed=1), on_epoch=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_best_epoch_is_kept_and_training_stops_after_the_patience() -> None:
    target, validation = planted(12, noise=2.0), planted(200, noise=2.0, seed=1)
    network = Line(6, 3)
    training = Training(epochs=200, learning_rate=0.05, patience=5, weight_decay=0)
    seen: list[tuple[int, float]] = []
    options: dict[str, Any] = {"validation": validation, "training": training}
    options["on_epoch"] = lambda epoch, loss: seen.append((epoch, loss))
    log = fit_network(network, cross_entropy, target, **options)
    assert len(log.train_losses) < 200
    assert log.best_epoch == int(np.argmin(log.validation_losses))
    assert len(log.train_losses) == log.best_epoch + 5
    assert seen == list(enumerate(log.validation_losses[1:]))
    logits = torch.from_numpy(logits_of(network, validation))
    kept = torch.nn.functional.cross_entropy(logits, torch.from_numpy(validation.targets["y"]))
    assert float(kept) == pytest.approx(min(log.validation_losses), abs=1e-5)


def test_a_start_that_no_epoch_improves_on_is_kept() -> None:
    rows = planted(60)
    wrong = Rows(rows.inputs, {"y": (rows.targets["y"] + 1) % 3})
    network = Line(6, 3)
    log = fit_network(
        network, cross_entropy, rows, validation=wrong, training=Training(epochs=50, patience=4, learning_rate=0.05)
    )
    assert (log.best_epoch, len(log.train_losses)) == (0, 4)
    assert not weights_of(network).any()


def test_a_refit_follows_the_same_schedule_for_the_found_epochs() -> None:
    rows = planted(60, noise=2.0)
    held = np.arange(60) < 20
    training = Training(epochs=100, learning_rate=0.05, patience=3)
    network, log = fit_and_refit(lambda rows: (Line(6, 3), cross_entropy), rows, held_out=held, training=training)
    again = Line(6, 3)
    refit = fit_network(again, cross_entropy, rows, training=training, stop_after=log.best_epoch)
    assert np.array_equal(weights_of(network), weights_of(again))
    assert refit.best_epoch == log.best_epoch < 100


def test_without_a_held_out_part_all_epochs_are_taken() -> None:
    log = fit_and_refit(
        lambda rows: (Line(6, 3), cross_entropy), planted(9), held_out=None, training=Training(epochs=7)
    )[1]
    assert log.best_epoch == len(log.train_losses) == 7


def events_of(folder: Path) -> dict[str, list[float]]:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_learning_rate_rises_then_follows_a_cosine(tmp_path: Path) -> None:
    training = Training(epochs=40, learning_rate=0.2, batch_size=1000, log_dir=tmp_path)
    fit_network(Line(6, 3), cross_entropy, planted(20), training=training)
    t = (np.arange(40) + 0.5) / 40
    expected = np.where(t < 0.05, 0.2 * t / 0.05, 0.1 * (1 + np.cos(np.pi * (t - 0.05) / 0.95)))
    np.testing.assert_allclose(events_of(tmp_path)["learning_rate"], expected, rtol=1e-5)


def test_penalties_shrink_matrices_and_l1_makes_zeros() -> None:
    rows = planted(60)
    sizes = {}
    for name, decay, l1 in (("none", 0.0, 0.0), ("l2", 5.0, 0.0), ("l1", 0.0, 1.0)):
        network = Line(6, 3)
        training = Training(epochs=60, learning_rate=0.02, weight_decay=decay, l1=l1)
        fit_network(network, cross_entropy, rows, training=training)
        weight = network.linear.weight.detach().numpy()
        sizes[name] = np.abs(weight).sum(), (weight == 0).mean()
        assert np.abs(network.linear.bias.detach().numpy()).max() > 0
    assert sizes["l2"][0] < 0.7 * sizes["none"][0]
    assert sizes["l1"][0] < 0.7 * sizes["none"][0]
    assert sizes["none"][1] == sizes["l2"][1] == 0
    assert sizes["l1"][1] > 0.2


def test_mixup_mixes_inputs_and_losses() -> None:
    """Every batch that the network sees while learning lies between pairs of rows, by one share a batch."""
    seen: list[np.ndarray] = []
    losses: list[np.ndarray] = []

    class Spy(Line):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            seen.append(inputs["x"].numpy().copy())
            return super().forward(inputs)

    def spied(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        losses.append(targets["y"].numpy().copy())
        return cross_entropy(outputs, targets, weights)

    X = np.eye(6)
    y = np.arange(6) % 3
    fit_network(Spy(6, 3), spied, Rows({"x": X}, {"y": y}), training=Training(epochs=3, mixup=1.0))
    for mixed, own, other in zip(seen, losses[::2], losses[1::2], strict=True):
        np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)
        pairs = [np.flatnonzero(row > 1e-6) for row in mixed]
        assert {len(pair) for pair in pairs} <= {1, 2}
        assert any(len(pair) == 2 for pair in pairs)
        for pair, a, b in zip(pairs, own, other, strict=True):
            assert {int(a), int(b)} == {int(i) % 3 for i in pair} or len(pair) == 1


def skewed(counts: tuple[int, ...]) -> Rows:
    y = np.repeat(np.arange(len(counts)), counts)
    return Rows({"x": np.arange(len(y), dtype=float)[:, None]}, {"y": y}, codes=y)


@pytest.mark.parametrize("balance", ["oversample", "undersample", "weights"])
def test_classes_count_the_same(balance: Any) -> None:
    drawn: list[np.ndarray] = []
    given: list[np.ndarray] = []

    class Spy(Line):
        def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            drawn.append(inputs["x"].numpy()[:, 0].astype(int))
            return super().forward(inputs)

    def spied(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        given.append(np.bincount(targets["y"].numpy(), weights=weights.numpy()))
        return 0 * cross_entropy(outputs, targets, weights)

    rows = skewed((20, 5, 2))
    fit_network(Spy(1, 3), spied, rows, training=Training(epochs=8, class_balance=balance))
    expected = {"oversample": 20.0, "undersample": 2.0, "weights": 9.0}[balance]
    for totals in given:
        np.testing.assert_allclose(totals, expected, rtol=1e-5)
    if balance == "oversample":
        assert all(set(batch) == set(range(27)) for batch in drawn)
    if balance == "undersample":
        assert len(set(np.concatenate(drawn))) > 6  # others in every epoch


def test_rows_without_a_class_are_drawn_as_they_are() -> None:
    totals: list[int] = []

    def count(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        totals.append(len(weights))
        return 0 * outputs["logits"].sum()

    codes = np.array([0, 0, 0, 1, -1, -1])
    rows = Rows({"x": np.ones((6, 1))}, {"y": codes}, codes=codes)
    fit_network(Line(1, 2), count, rows, training=Training(epochs=1, class_balance="oversample"))
    assert totals == [3 + 3 + 2]


def test_held_out_rows_are_stratified_and_groups_stay_whole() -> None:
    codes = np.repeat(np.arange(4), 10)
    held = held_out_rows(codes, seed=0)
    assert held is not None
    assert np.bincount(codes[held]).tolist() == [2, 2, 2, 2]
    groups = np.arange(40) // 2
    held = held_out_rows(codes, seed=0, groups=groups)
    assert held is not None
    assert (held[::2] == held[1::2]).all()


def test_a_class_with_one_row_stays_in_training_and_too_few_rows_hold_nothing_out() -> None:
    codes = np.append(np.repeat([0, 1], 20), 2)
    for seed in range(10):
        held = held_out_rows(codes, seed=seed)
        assert held is not None
        assert not held[-1]
    assert held_out_rows(np.arange(8), seed=0) is None
    assert held_out_rows(np.repeat(np.arange(8), 2), seed=0) is None
    assert held_out_rows(codes, seed=0, groups=np.zeros(41, dtype=int)) is None


def test_tensorboard_gets_every_epoch(tmp_path: Path) -> None:
    _, log = fit_and_refit(
        lambda rows: (Line(6, 3), cross_entropy),
        planted(60),
        held_out=np.arange(60) < 15,
        training=Training(epochs=4, log_dir=tmp_path),
    )
    events = events_of(tmp_path / "held_out")
    assert set(events) == {"loss/train", "loss/validation", "learning_rate"}
    np.testing.assert_allclose(events["loss/train"], log.train_losses, rtol=1e-6)
    np.testing.assert_allclose(events["loss/validation"], log.validation_losses[1:], rtol=1e-6)
    assert set(events_of(tmp_path / "all")) == {"loss/train", "learning_rate"}


def test_the_outputs_of_every_epoch_can_be_watched() -> None:
    validation, outputs = planted(20, seed=1), []
    network = Line(6, 3)
    training = Training(epochs=3, patience=3, learning_rate=0.05)
    options: dict[str, Any] = {"validation": validation, "training": training}
    options["watch"] = lambda tensors: outputs.append(tensors["logits"].numpy())
    log = fit_network(network, cross_entropy, planted(60), **options)
    assert len(outputs) == log.best_epoch == 3
    np.testing.assert_allclose(outputs[-1], logits_of(network, validation), rtol=1e-6)


def test_without_tensorboard_the_message_holds_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"tensorboard is needed to write training logs.*chiasm\[tensorboard\]"):
        trained(planted(20), Training(epochs=1, log_dir=tmp_path))


def test_a_network_that_diverges_is_an_error() -> None:
    def broken(outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        return cross_entropy(outputs, targets, weights) * float("inf")

    with pytest.raises(ChiasmError, match="diverged"):
        fit_network(Line(6, 3), broken, planted(20), training=Training(epochs=2))


def fit_line(**options: Any) -> TrainingLog:
    return fit_network(Line(6, 3), cross_entropy, Rows(planted(20).inputs, planted(20).targets), **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_line(training=Training(), alpha=0.5), "no source"),
        (lambda: fit_line(training=Training(), source=planted(9), alpha=1.5), "from 0 to 1"),
        (lambda: fit_line(training=Training(class_balance="weights")), "have no classes"),
        (lambda: Training(epochs=0), "epochs"),
        (lambda: Training(seed=-1), "seed"),
        (lambda: Training(learning_rate=0.0), "learning_rate"),
        (lambda: Training(l1=-1.0), "l1"),
        (lambda: Training(class_balance="even"), "class_balance"),  # type: ignore[arg-type]
        (lambda: Rows({"x": np.ones((3, 2))}, {"y": np.ones(2)}), "'x': 3, 'y': 2"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_losses_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    logits, codes = rng.normal(size=(5, 3)), np.array([0, 2, -1, 1, 1])
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = np.where(codes >= 0, -(np.eye(3)[codes] * log).sum(axis=1), 0)
    np.testing.assert_allclose(class_losses(torch.tensor(logits), torch.tensor(codes)), expected)

    values, known = rng.integers(2, size=(5, 3)).astype(float), np.array([True, True, False, True, False])
    p = 1 / (1 + np.exp(-logits))
    slow = -(values * np.log(p) + (1 - values) * np.log(1 - p)).mean(axis=1) * known
    fast = label_losses(torch.tensor(logits), torch.tensor(values), torch.tensor(known))
    np.testing.assert_allclose(fast, slow)
    fast = number_losses(torch.tensor(logits[:, :1]), torch.tensor(values[:, 0]), torch.tensor(known))
    np.testing.assert_allclose(fast, 0.5 * (logits[:, 0] - values[:, 0]) ** 2 * known)

    losses, s = np.array([0.3, 2.0, 5.0]), np.array([-1.0, 0.5, 3.0])
    total = uncertainty_weighted(torch.tensor(losses), torch.tensor(s), torch.tensor([True, True, False]))
    assert float(total) == pytest.approx(np.exp(1) * 0.3 - 0.5 + np.exp(-0.5) * 2 + 0.25)
    assert float(weighted_mean(torch.ones(2), torch.zeros(2))) == 0
