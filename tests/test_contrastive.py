"""InfoNCE alignment: the loss against explicit loops, the stacking against refits, the choice, bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_pairs import pairs, warped

from chiasm.alignment import contrastive
from chiasm.alignment.alignment import Lesson, Settings, Task
from chiasm.alignment.closed_form import RidgeAlignment, ridge_choice, ridge_map
from chiasm.alignment.contrastive import InfoNceAlignment, info_nce, source_rows
from chiasm.alignment.pairs import mix

QUICK: Any = {"temperatures": [0.1], "epochs": 8, "learning_rate": 3e-2}


# ---------------------------------------------------------------------------------------------------------------- loss


def random_logits(number: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(number, number, generator=generator, dtype=torch.float64)
    return logits, torch.tensor([0, 1, 2, 2, 3, 4, 2])


def test_info_nce_item_by_item() -> None:
    logits, groups = random_logits()
    total = 0.0
    for table in (logits, logits.T):
        for i in range(7):
            against = sum(math.exp(float(table[i, j])) for j in range(7) if groups[j] != groups[i])
            own = math.exp(float(table[i, i]))
            total -= math.log(own / (own + against))
    assert float(info_nce(logits, groups)) == pytest.approx(total / 14, rel=1e-9)
    assert torch.autograd.gradcheck(lambda table: info_nce(table, groups), (logits.requires_grad_(),))


def test_without_groups_it_is_the_cross_entropy_of_clip() -> None:
    logits = random_logits()[0]
    own = torch.arange(7)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert float(info_nce(logits, own)) == pytest.approx(float(expected), rel=1e-12)


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


# ---------------------------------------------------------------------------------------------------------- the method


def test_it_is_never_worse_than_ridge_on_left_out_pairs() -> None:
    data, source = pairs(60, noise=0.6), pairs(100, seed=1)
    ridge, fit = RidgeAlignment().fit(data, source), InfoNceAlignment(**QUICK).fit(data, source)
    base, task = ridge.choice, fit.task
    predictions = np.empty_like(data.Y)
    for rows, rest in task.folds:
        weight, bias = ridge_map(rest, base)
        predictions[rows] = data.X[rows] @ weight + bias
    assert fit.choice.score >= max(task.scores(predictions, InfoNceAlignment().blends))
    assert (fit.choice.alpha, fit.choice.strength) == (base.alpha, base.strength)


def test_it_finds_more_than_ridge_where_squared_error_looks_elsewhere() -> None:
    data, new = warped(150), Task(warped(200, 1), None, "auto")
    ridge, fit = RidgeAlignment().fit(data), InfoNceAlignment(**QUICK).fit(data)
    assert fit.choice.extra["epochs"] > 0
    assert fit.choice.score > ridge.choice.score + 0.01
    there, here = (new.scores(one.map.map_rows(new.pairs.X), (one.choice.blend,))[0] for one in (ridge, fit))
    assert here > there + 0.01


def test_without_a_gain_it_is_ridge() -> None:
    data = pairs(60, noise=0.0)
    destroying = {**QUICK, "learning_rate": 1.0}
    ridge, fit = RidgeAlignment().fit(data), InfoNceAlignment(**destroying).fit(data)
    assert fit.choice.extra["epochs"] == 0
    np.testing.assert_array_equal(fit.map.weight, ridge.map.weight)
    assert fit.choice.blend == ridge.choice.blend


def test_with_two_groups_there_is_nothing_to_contrast_and_ridge_stays() -> None:
    two = replace(pairs(30), groups=np.arange(30) % 2)
    ridge, fit = RidgeAlignment().fit(two), InfoNceAlignment(**QUICK).fit(two)
    assert fit.choice.extra["epochs"] == 0
    np.testing.assert_array_equal(fit.map.weight, ridge.map.weight)
    np.testing.assert_allclose(np.linalg.norm(fit.cross_fitted, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("with_source", [False, True])
def test_the_score_is_that_of_maps_learned_without_the_fold(with_source: bool) -> None:
    data, source = warped(60), warped(40, 1) if with_source else None
    model = InfoNceAlignment(alpha=0.3 if with_source else "auto", **QUICK)
    fit = model.fit(data, source)
    assert fit.choice.extra["epochs"] > 0
    predicted = np.empty_like(data.Y)
    for rows, _ in fit.task.folds:
        lesson = Lesson(data.take(np.setdiff1d(np.arange(60), rows)), source)
        predicted[rows] = model.learn(lesson, fit.choice).map_rows(data.X[rows])
    (score,) = fit.task.scores(predicted, (fit.choice.blend,))
    assert fit.choice.score == pytest.approx(score, abs=1e-6)


def test_pairs_of_a_fold_change_nothing_in_what_is_predicted_of_it() -> None:
    data = warped(60)
    task = Task(data, None, "auto")
    rows = task.folds[0][0]
    turned = data.Y.copy()
    turned[rows] = turned[rows[::-1]]
    base, extra = ridge_choice(task), {"temperature": 0.1, "trained_blend": 1.0}
    settings = Settings(alpha=base.alpha, strength=base.strength, extra=extra)
    model = InfoNceAlignment(temperatures=[0.1], epochs=3)
    curves = [model.left_out_by_epoch(of, settings) for of in (task, Task(replace(data, Y=turned), None, "auto"))]
    others = np.setdiff1d(np.arange(60), rows)
    assert len(curves[0]) == 4
    for before, after in zip(*curves, strict=True):
        np.testing.assert_allclose(before[rows], after[rows], atol=1e-5)
        assert np.abs(before[others] - after[others]).max() > 1e-3


def test_the_same_seed_gives_the_same_map() -> None:
    data, source = warped(60), warped(80, 1)
    before = torch.random.get_rng_state()
    fits = [InfoNceAlignment(seed=seed, batch_size=16, **QUICK).fit(data, source) for seed in (3, 3, 4)]
    assert torch.equal(before, torch.random.get_rng_state())
    assert fits[0].choice.extra["epochs"] > 0
    np.testing.assert_array_equal(fits[0].map.weight, fits[1].map.weight)
    assert fits[0].choice == fits[1].choice
    assert not np.array_equal(fits[0].map.weight, fits[2].map.weight)


def test_the_map_is_ridge_turned_by_descent_on_left_out_predictions() -> None:
    """Epochs of one batch restated: AdamW by torch on InfoNCE of predictions by refits, source beside target."""
    data, source = warped(150), warped(60, 1)
    fit = InfoNceAlignment(alpha=0.3, **QUICK).fit(data, source)
    epochs = int(fit.choice.extra["epochs"])
    assert epochs > 0
    base, mixture = ridge_choice(fit.task), mix(data, source, 0.3)
    stacks = []
    for part, other, share in ((data, source.moments, 0.3), (source, data.moments, 0.7)):
        mapped = np.empty(part.Y.shape)
        for row in range(part.count):
            # The pair's weight is taken away, and not given to the others: as if its row had been deleted.
            weights = np.full(part.count, (1 - share) / part.count)
            weights[row] = 0
            X, Y = part.X.astype(float), part.Y.astype(float)
            total = weights.sum() + share
            mean_x = (weights @ X + share * other.mean_x) / total
            mean_y = (weights @ Y + share * other.mean_y) / total
            xx = (X * weights[:, None]).T @ X + share * (other.xx + np.outer(other.mean_x, other.mean_x))
            xy = (X * weights[:, None]).T @ Y + share * (other.xy + np.outer(other.mean_x, other.mean_y))
            xx -= total * np.outer(mean_x, mean_x)
            xy -= total * np.outer(mean_x, mean_y)
            weight = np.linalg.solve(xx + base.strength * mixture.scale * np.eye(8), xy)
            mapped[row] = X[row] @ weight + mean_y - mean_x @ weight
        stacks.append(torch.from_numpy(mapped))
    turn = torch.zeros(7, 7, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.AdamW([{"params": [turn], "weight_decay": 1e-2}, {"params": [shift], "weight_decay": 0.0}])
    blend = max(base.blend, contrastive.LEAST_BLEND)
    for epoch in range(epochs):
        progress = (epoch + 0.5) / 8
        loss = torch.zeros((), dtype=torch.float64)
        for stacked, part, share in ((stacks[0], data, 0.7), (stacks[1], source, 0.3)):
            placed = (1 - blend) * torch.from_numpy(part.start).double() + blend * (stacked + stacked @ turn + shift)
            cosines = torch.nn.functional.normalize(placed) @ torch.from_numpy(part.Y).double().T
            loss = loss + share * info_nce(cosines / 0.1, torch.arange(part.count))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        for group in optimiser.param_groups:
            group["lr"] = 3e-2 * 0.5 * (1 + math.cos(math.pi * (progress - 0.05) / 0.95))
        optimiser.step()
    weight, bias = ridge_map(fit.task, base)
    whole = np.eye(7) + turn.detach().numpy()
    np.testing.assert_allclose(fit.map.weight, weight @ whole, atol=2e-4)
    np.testing.assert_allclose(fit.map.bias, bias @ whole + shift.detach().numpy(), atol=2e-4)


def test_of_a_large_source_whole_groups_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrastive, "MAX_SOURCE", 31)
    rows = source_rows(Task(pairs(30), pairs(100, seed=1), 0.5), Settings(alpha=0.5, strength=1.0), 0)
    assert rows is not None
    assert len(rows) == 30
    assert set(np.unique(rows.targets["groups"], return_counts=True)[1]) == {2}
