"""Contrastive alignment: the losses against explicit loops, the stacking against refits, the choice, bad input."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from chiasm.alignment import contrastive
from chiasm.alignment.alignment import (
    Alignment,
    Lesson,
    PairArrays,
    RidgeAlignment,
    Task,
    ridge_choice,
)
from chiasm.alignment.contrastive import InfoNceAlignment, info_nce
from chiasm.errors import SpaceError
from chiasm.vectors import unit_rows

QUICK: Any = {"temperatures": [0.1], "epochs": 8}


def pairs(count: int, x: int = 12, y: int = 6, *, seed: int = 0, noise: float = 0.2, common: float = 0.0) -> PairArrays:
    """Anchors that a linear map gives; `common` moves a nuisance that all features and no anchor share."""
    rng, maps = np.random.default_rng(seed), np.random.default_rng(9)
    groups = np.arange(count) // 2
    X = unit_rows(rng.standard_normal((count, x)) + 0.3)
    Y = unit_rows(X @ maps.standard_normal((x, y)) / np.sqrt(x) + common + noise * rng.standard_normal((count, y)))
    start = unit_rows(Y + 0.8 * rng.standard_normal((count, y)))
    X, Y, start = (part.astype(np.float32) for part in (X, Y, start))
    order = rng.permutation(count)
    return PairArrays(X[order], Y[order], start[order], groups[order])


def fit(alignment: Alignment, data: PairArrays, source: PairArrays | None = None) -> Alignment:
    return alignment.fit(data.X, data.Y, start=data.start, groups=data.groups, source=source)


# ------------------------------------------------------------------------------------------------------------- losses


def random_logits(number: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(number, number, generator=generator, dtype=torch.float64), torch.tensor(
        [0, 1, 2, 2, 3, 4, 2]
    )


def test_info_nce_item_by_item() -> None:
    logits, groups = random_logits()
    total = 0.0
    for table in (logits, logits.T):
        for i in range(7):
            near = [float(table[i, j]) for j in range(7) if groups[j] != groups[i]]
            against = sum(math.exp(s) for s in near)
            own = math.exp(float(table[i, i]))
            total -= math.log(own / (own + against))
    assert float(info_nce(logits, groups)) == pytest.approx(total / 14, rel=1e-9)


def test_info_nce_alone_is_the_cross_entropy_of_clip() -> None:
    logits = random_logits()[0]
    own = torch.arange(7)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert float(info_nce(logits, own)) == pytest.approx(float(expected), rel=1e-12)


def test_gradients_are_those_of_differences() -> None:
    logits, groups = random_logits()
    assert torch.autograd.gradcheck(lambda table: info_nce(table, groups), (logits.requires_grad_(),))


def test_pairs_of_one_group_are_no_negatives() -> None:
    logits, groups = random_logits()
    changed = logits.clone()
    changed[2, 3] = changed[6, 2] = 50.0
    assert float(info_nce(changed, groups)) == float(info_nce(logits, groups))
    assert float(info_nce(changed, torch.arange(7))) > float(info_nce(logits, torch.arange(7))) + 1


def test_a_batch_of_one_group_has_no_negatives() -> None:
    logits, same = random_logits()[0].requires_grad_(), torch.zeros(7, dtype=torch.int64)
    value = info_nce(logits, same)
    assert torch.isfinite(value)
    (gradient,) = torch.autograd.grad(value, logits)
    assert torch.isfinite(gradient).all()


# ----------------------------------------------------------------------------------------------------------- the method


def ridge_without(task: Task, rows: np.ndarray) -> np.ndarray:
    """What ridge says of some rows at its own choice, learned from the others."""
    choice, rest = ridge_choice(task), task.pairs.take(np.setdiff1d(np.arange(len(task.pairs.X)), rows))
    weight, bias = rest.statistics.moments.mixed(task.other, choice.alpha).ridge(choice.strength)
    predicted: np.ndarray = task.pairs.X[rows] @ weight + bias
    return predicted


@pytest.mark.parametrize("with_source", [False, True])
def test_never_worse_than_ridge_and_the_start_on_left_out_pairs(with_source: bool) -> None:
    data, source = pairs(60, noise=0.6), pairs(100, seed=1) if with_source else None
    ridge, found = fit(RidgeAlignment(), data, source), fit(InfoNceAlignment(**QUICK), data, source)
    choice, task = found.choice_, Task(data, source, "auto")
    by_ridge = task.scores(task.assembled([ridge_without(task, rows) for rows, _ in task.folds]), found.blends)
    assert choice.score >= max(by_ridge)
    assert choice.score >= choice.start_score == ridge.choice_.start_score
    assert (choice.alpha, choice.strength) == (ridge.choice_.alpha, ridge.choice_.strength)
    assert choice.method == InfoNceAlignment.method
    assert found.map_.weight.dtype == found.map_.bias.dtype == np.float32
    np.testing.assert_allclose(
        found.transform(data.X, data.start),
        unit_rows((1 - choice.blend) * data.start + choice.blend * (data.X @ found.map_.weight + found.map_.bias)),
        atol=1e-6,
    )


def warped(count: int, seed: int) -> PairArrays:
    """Pairs told apart by three faint dimensions, under three loud ones that features know nothing of.

    Ridge predicts the mean of the loud ones and the faint ones at their scale; to find a pair among others, the faint
    ones have to be made louder, which costs squared error.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, 8))
    quiet = X[:, :3] @ np.diag([1.0, 0.3, 0.1])
    Y = unit_rows(np.hstack([quiet, 0.5 * rng.standard_normal((count, 3)), np.full((count, 1), 2.0)]))
    start = np.tile(unit_rows(Y.mean(axis=0, keepdims=True)), (count, 1))
    return PairArrays(*(part.astype(np.float32) for part in (X, Y, start)))


def test_it_finds_more_than_ridge_where_squared_error_looks_elsewhere() -> None:
    data, new = warped(150, 0), warped(200, 1)
    ridge, found = fit(RidgeAlignment(), data), fit(InfoNceAlignment(learning_rate=3e-2, **QUICK), data)
    assert found.choice_.settings["epochs"] > 0
    assert found.choice_.score > ridge.choice_.score + 0.01
    task = Task(new, None, "auto")
    on_new = [task.chances(model.transform(new.X, new.start)).mean() for model in (ridge, found)]
    assert on_new[1] > on_new[0] + 0.01


def test_without_a_gain_it_is_ridge() -> None:
    data = pairs(60, noise=0.0)
    ridge, found = (
        fit(RidgeAlignment(), data),
        fit(InfoNceAlignment(learning_rate=1.0, **QUICK), data),
    )  # a rate that destroys
    assert found.choice_.settings["epochs"] == 0
    np.testing.assert_array_equal(found.map_.weight, ridge.map_.weight)
    assert found.choice_.blend == ridge.choice_.blend


@pytest.mark.parametrize("with_source", [False, True])
def test_the_score_is_that_of_maps_learned_without_the_fold(with_source: bool) -> None:
    data, source = warped(60, 0), warped(40, 1) if with_source else None
    given: Any = {"alpha": 0.3 if with_source else "auto", "learning_rate": 3e-2, **QUICK}
    found = fit(InfoNceAlignment(**given), data, source)
    assert found.choice_.settings["epochs"] > 0
    task = Task(data, source, given["alpha"])
    predicted = []
    for rows, _ in task.folds:
        rest = data.take(np.setdiff1d(np.arange(60), rows))
        lesson = Lesson(rest, rest.statistics.moments, source, None if source is None else source.statistics.moments)
        learned = found._learn(lesson, found.choice_)
        predicted.append(data.X[rows] @ learned.weight + learned.bias)
    (score,) = task.scores(task.assembled(predicted), (found.choice_.blend,))
    assert found.choice_.score == pytest.approx(score, abs=1e-6)


def test_pairs_of_a_fold_change_nothing_in_what_is_predicted_of_it() -> None:
    data = warped(60, 0)
    task = Task(data, None, "auto")
    rows = task.folds[0][0]
    turned = data.Y.copy()
    turned[rows] = turned[rows[::-1]]
    fixed = ridge_choice(task)
    settings = {"temperature": 0.1, "trained_blend": 1.0}
    curves = [
        InfoNceAlignment(**{**QUICK, "epochs": 3})._left_out_by_epoch(of, fixed, settings)
        for of in (task, Task(dataclasses.replace(data, Y=turned), None, "auto"))
    ]
    others = np.setdiff1d(np.arange(60), rows)
    assert len(curves[0]) == 4
    for before, after in zip(*curves, strict=True):
        np.testing.assert_allclose(before[rows], after[rows], atol=1e-5)
        assert np.abs(before[others] - after[others]).max() > 1e-3


def test_with_two_groups_there_is_nothing_to_contrast_and_ridge_stays() -> None:
    two = dataclasses.replace(pairs(30), groups=np.arange(30) % 2)
    ridge, found = fit(RidgeAlignment(), two), fit(InfoNceAlignment(**QUICK), two)
    assert found.choice_.settings["epochs"] == 0
    np.testing.assert_array_equal(found.map_.weight, ridge.map_.weight)
    placed = found.cross_fitted(two.X, two.Y, start=two.start, groups=two.groups)
    np.testing.assert_allclose(np.linalg.norm(placed, axis=1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_map() -> None:
    data, source = warped(60, 0), warped(80, 1)
    before = torch.random.get_rng_state()
    fits = [
        fit(InfoNceAlignment(seed=seed, learning_rate=3e-2, batch_size=16, **QUICK), data, source) for seed in (3, 3, 4)
    ]
    assert torch.equal(before, torch.random.get_rng_state())
    assert fits[0].choice_.settings["epochs"] > 0
    np.testing.assert_array_equal(fits[0].map_.weight, fits[1].map_.weight)
    assert fits[0].choice_ == fits[1].choice_
    assert not np.array_equal(fits[0].map_.weight, fits[2].map_.weight)


def test_the_map_is_ridge_turned_by_descent_on_left_out_predictions() -> None:
    """Epochs of one batch restated: AdamW by torch on InfoNCE of predictions by refits, source beside target."""
    data, source = warped(150, 0), warped(60, 1)
    model = InfoNceAlignment(alpha=0.3, temperatures=[0.1], epochs=8, batch_size=512, learning_rate=3e-2)
    found = fit(model, data, source)
    epochs = int(found.choice_.settings["epochs"])
    assert epochs > 0
    task = Task(data, source, 0.3)
    base = ridge_choice(task)
    assert task.other is not None
    stacks = []
    for part, other, share in ((data, task.other, 0.3), (source, task.target, 0.7)):
        mapped = np.empty(part.Y.shape)
        for row in range(len(part.X)):
            # The pair's weight is taken away, and not given to the others: as if its row had been deleted.
            weights = np.full(len(part.X), (1 - share) / len(part.X))
            weights[row] = 0
            own = part.X.astype(float), part.Y.astype(float)
            rest = [other.xx + np.outer(other.mean_x, other.mean_x), other.xy + np.outer(other.mean_x, other.mean_y)]
            total = weights.sum() + share
            mean_x = (weights @ own[0] + share * other.mean_x) / total
            mean_y = (weights @ own[1] + share * other.mean_y) / total
            xx = (own[0] * weights[:, None]).T @ own[0] + share * rest[0] - total * np.outer(mean_x, mean_x)
            xy = (own[0] * weights[:, None]).T @ own[1] + share * rest[1] - total * np.outer(mean_x, mean_y)
            penalty = base.strength * task.target.mixed(task.other, 0.3).scale
            weight = np.linalg.solve(xx + penalty * np.eye(8), xy)
            mapped[row] = own[0][row] @ weight + mean_y - mean_x @ weight
        stacks.append(torch.from_numpy(mapped))
    turn = torch.zeros(7, 7, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([{"params": [turn], "weight_decay": 1e-2}, {"params": [shift], "weight_decay": 0.0}])
    blend = max(base.blend, contrastive.LEAST_BLEND)
    for epoch in range(epochs):
        progress = (epoch + 0.5) / 8
        rate = 3e-2 * 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95))
        loss = torch.zeros((), dtype=torch.float64)
        for stacked, part, share in ((stacks[0], data, 0.7), (stacks[1], source, 0.3)):
            placed = (1 - blend) * torch.from_numpy(part.start).double() + blend * (stacked + stacked @ turn + shift)
            cosines = torch.nn.functional.normalize(placed) @ torch.from_numpy(part.Y).double().T
            loss = loss + share * info_nce(cosines / 0.1, torch.arange(len(part.X)))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
    weight, bias = task.target.mixed(task.other, 0.3).ridge(base.strength)
    whole = np.eye(7) + turn.detach().numpy()
    np.testing.assert_allclose(found.map_.weight, weight @ whole, atol=2e-4)
    np.testing.assert_allclose(found.map_.bias, bias @ whole + shift.detach().numpy(), atol=2e-4)


def test_of_a_large_source_whole_groups_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    data, source = pairs(30), pairs(100, seed=1)
    monkeypatch.setattr(contrastive, "MAX_SOURCE", 31)
    task = Task(data, source, 0.5)
    stacked = contrastive._stacked_source(task, 0.5, ridge_choice(task).strength, 0)
    assert stacked is not None
    assert len(stacked.mapped) == 30
    sizes = np.unique(np.asarray(stacked.pairs.groups), return_counts=True)[1]
    assert set(sizes) == {2}


# ------------------------------------------------------------------------------------------------------------ bad input


def test_a_source_of_statistics_alone_is_refused() -> None:
    data, source = pairs(30), pairs(60, seed=1)
    message = (
        rf"{InfoNceAlignment.method} learns from single pairs, and the source is given as statistics .* or use ridge"
    )
    with pytest.raises(SpaceError, match=message):
        InfoNceAlignment().fit(data.X, data.Y, start=data.start, source=source.statistics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatures": []}, r"temperatures must be one or more numbers above 0; got \[\]"),
        ({"temperatures": [0.0]}, r"temperatures must be one or more numbers above 0; got \[0.0\]"),
        ({"batch_size": 1}, "batch_size must be at least 2, to tell pairs apart; got 1"),
        ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and above 0; got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be finite and not below 0; got -1.0"),
        ({"alpha": 2.0}, "alpha must be 'auto' or a number from 0 to 1; got 2.0"),
        ({"blends": [2.0]}, r"blends must be one or more numbers from 0 to 1; got \[2.0\]"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        InfoNceAlignment(**options)  # type: ignore[arg-type]


def test_bad_pairs_are_refused_as_by_ridge() -> None:
    data = pairs(20)
    with pytest.raises(SpaceError, match="alignment needs at least 10 pairs; got 9"):
        fit(InfoNceAlignment(), data.take(np.arange(9)))
    with pytest.raises(SpaceError, match=r"alpha=0.5 is the weight of a source, and there is none"):
        fit(InfoNceAlignment(alpha=0.5), data)
