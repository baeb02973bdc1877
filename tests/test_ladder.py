"""The ladder climbs only on a win of more than one standard error, and says why it did or did not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chiasm.errors import LabelError
from chiasm.recognition import ladder
from chiasm.recognition.heads import RUNGS, Head, RungName
from chiasm.recognition.ladder import (
    Learned,
    RungOptions,
    RungReport,
    Task,
    climb,
    deal_folds,
    fit_head,
    fit_rung,
    hold_out,
    paired,
    tempered_brier,
    why_not,
)
from chiasm.recognition.networks import NetworkOptions
from chiasm.splits import Shots
from chiasm.training import Training
from chiasm.vectors import brier_scores, log_softmax

OPTIONS = RungOptions(network=NetworkOptions(hidden=16, training=Training(epochs=10)))
Climb = tuple[Learned, tuple[RungReport, ...]]


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def task_of(rows: np.ndarray, codes: np.ndarray, *, folds: int = 5, **given: Any) -> Task:
    anchors = given.get("anchors")
    named = None if anchors is None else np.asarray(anchors.y)
    fold_of = deal_folds(codes, folds, seed=0, groups=given.get("groups"), always_known=named)
    return Task(rows, codes, fold_of, **given)


def clusters(per_class: int, *, classes: int = 4, noise: float = 1.0, names: bool = False, folds: int = 5) -> Task:
    """Round clusters: the mean of a class is all there is to learn."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, 12))
    codes = rng.permutation(np.repeat(np.arange(classes), per_class))
    rows = unit(centres[codes] + noise * rng.normal(size=(len(codes), 12)))
    return task_of(rows, codes, folds=folds, anchors=Shots(unit(centres), np.arange(classes)) if names else None)


def striped(items: int) -> Task:
    """Large variation that says nothing beside a small one that tells the class: means mislead, borders do not."""
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(items) % 3)
    rows = np.hstack([2 * rng.normal(size=(items, 8)), np.eye(3)[codes] + 0.15 * rng.normal(size=(items, 3))])
    return task_of(unit(rows), codes)


def climbed(task: Task, networks_from: int = 10_000) -> Climb:
    named = -1 if task.anchors is None else int(np.max(task.anchors.y))
    return climb(task, max(int(task.codes.max()), named) + 1, OPTIONS, networks_from=networks_from)


def report(found: Climb, rung: RungName) -> RungReport:
    (one,) = (one for one in found[1] if one.rung == rung)
    return one


def test_means_suffice_for_round_clusters() -> None:
    found = climbed(clusters(12))
    assert found[0].head.rung == "prototypes"
    assert "no shared space" in report(found, "zero-shot").why
    assert report(found, "prototypes").why == "the first that could be fitted"
    assert not report(found, "linear").taken
    assert "tried from 10000 rows" in report(found, "network").why


def test_a_higher_rung_is_taken_where_it_is_needed() -> None:
    found = climbed(striped(90))
    assert found[0].head.rung == "linear"
    won = report(found, "linear")
    assert won.better_by is not None and won.standard_error is not None
    assert won.better_by > won.standard_error > 0
    assert [one.rung for one in found[1] if one.taken] == ["linear"]


def test_names_alone_are_left_where_they_lie() -> None:
    task = clusters(12, names=True)
    assert task.anchors is not None
    lies = replace(task, anchors=Shots(-task.anchors.X, task.anchors.y))
    assert climbed(lies)[0].head.rung != "zero-shot"
    assert climbed(task)[0].head.rung == "zero-shot"  # the centres themselves cannot be beaten


def test_every_rung_is_reported_with_score_and_seconds() -> None:
    found = climbed(clusters(10, names=True, folds=2), networks_from=0)
    assert [one.rung for one in found[1]] == list(RUNGS)
    for one in found[1]:
        assert one.tried
        assert one.seconds > 0
        assert one.f1_macro is not None and 0 <= one.f1_macro <= 1
        assert one.brier is not None and 0 <= one.brier <= 2
        assert one.why
    assert sum(one.taken for one in found[1]) == 1


def planned(monkeypatch: pytest.MonkeyPatch, chances: dict[str, np.ndarray], codes: np.ndarray) -> Task:
    """Give prototypes and the linear probe held-out predictions that are right with planned probabilities."""

    def fit(rung: RungName, task: Task, classes: int, options: RungOptions) -> Learned:
        p = chances[rung][:, None]
        log = np.log(np.where(np.eye(classes)[codes] > 0, p, (1 - p) / (classes - 1)))
        return Learned(Head(rung, np.arange(classes), {}, {}, len(codes)), log)

    monkeypatch.setattr(ladder, "fit_rung", fit)
    return task_of(np.zeros((len(codes), 1), np.float32), codes)


def test_a_win_of_less_than_a_standard_error_is_no_win(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.55, 0.95, size=40)
    noisy = np.clip(before + 0.002 + 0.2 * rng.normal(size=40), 0.05, 0.99)
    better = np.clip(before + 0.04, 0, 0.99)
    for after, rung in ((noisy, "prototypes"), (better, "linear")):
        found = climbed(planned(monkeypatch, {"prototypes": before, "linear": after}, np.arange(40) % 2))
        assert found[0].head.rung == rung
        one = report(found, "linear")
        assert one.better_by is not None and one.standard_error is not None
        assert one.taken == (one.better_by > one.standard_error)
        scores = [tempered_brier(np.log(np.stack([1 - p, p], axis=1)), np.ones(40, int)) for p in (before, after)]
        gain = scores[0] - scores[1]
        assert one.better_by == pytest.approx(gain.mean())
        assert one.standard_error == pytest.approx(gain.std(ddof=1) / np.sqrt(40))


def test_a_network_that_is_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    task = clusters(12)
    fitted = []

    def guess(part: Task, _: RungOptions) -> Head:
        fitted.append(len(part.rows))
        tensors = {"coef": np.zeros((4, 12), np.float32), "intercept": np.zeros(4, np.float32)}
        return Head("network", np.arange(4), tensors, {}, 1)

    monkeypatch.setattr(ladder, "_fit_network", guess)
    found = climbed(task, networks_from=0)
    assert report(found, "network").why == "given up: behind by more than a standard error after 1 of 5 folds"
    assert len(fitted) == 1
    assert found[0].head.rung == "prototypes"


def test_held_out_rows_are_predicted_without_themselves_and_their_group() -> None:
    """Rows come in copies; labels say nothing. Who sees the copy is right, who does not is lost."""
    rng = np.random.default_rng(2)
    rows = unit(rng.normal(size=(30, 40)))
    codes = np.tile(rng.integers(0, 2, size=30), 2)
    options = RungOptions(strengths=(1e-4,))
    for groups, low, high in ((np.tile(np.arange(30), 2), 0.0, 0.75), (None, 0.85, 1.0)):
        task = task_of(np.vstack([rows, rows]), codes, groups=groups)
        log = fit_rung("linear", task, 2, options).held_out
        assert low <= np.mean(log.argmax(axis=1) == codes) <= high


def test_where_nothing_can_be_held_out_it_is_the_linear_probe() -> None:
    found = climbed(clusters(1))
    assert found[0].head.rung == "linear"
    assert np.isnan(found[0].held_out).all()
    assert [one.taken for one in found[1]] == [False, False, True, False]
    assert not any(one.tried for one in found[1])


def test_one_row_a_class_is_enough_where_there_are_names() -> None:
    found = climbed(clusters(1, names=True, noise=0.2))
    assert np.isfinite(found[0].held_out).all()


def test_a_class_known_only_by_its_name() -> None:
    task = clusters(10, names=True)
    keep = np.flatnonzero(task.codes != 3)
    part = replace(task, rows=task.rows[keep], codes=task.codes[keep], fold_of=task.fold_of[keep])
    for rung in ("zero-shot", "prototypes", "linear"):
        learned = fit_rung(rung, part, 4, OPTIONS)
        assert learned.held_out.shape == (30, 4)
        assert learned.head.known.tolist() == [0, 1, 2, 3]
        guesses = learned.head.log_probabilities(task.rows[task.codes == 3], 4).argmax(axis=1)
        assert np.mean(guesses == 3) > 0.6, rung
    assert fit_head("network", part, OPTIONS).known.tolist() == [0, 1, 2]


def test_extra_rows_reach_every_rung() -> None:
    """Few rows far from the centres of their classes, and many extra ones near by."""
    good = clusters(30, noise=0.7)
    few = clusters(6, noise=2.5)
    bad = replace(few, extra=Shots(good.rows, good.codes, np.full(120, 5.0)))
    training = Training(epochs=40, learning_rate=1e-2)
    options = RungOptions(network=NetworkOptions(hidden=16, training=training))
    for rung in RUNGS[1:]:
        guesses = [
            fit_rung(rung, task, 4, options).head.log_probabilities(good.rows, 4).argmax(axis=1) for task in (few, bad)
        ]
        accuracies = [np.mean(guess == good.codes) for guess in guesses]
        assert accuracies[1] > max(accuracies[0] + 0.05, 0.9), rung


def test_extra_rows_of_a_fold_are_held_out_with_it() -> None:
    """Rows say nothing; each comes again as an extra row, which would give its label away."""
    rng = np.random.default_rng(3)
    rows, codes = unit(rng.normal(size=(40, 50))), rng.permutation(np.arange(40) % 2)
    task = task_of(rows, codes)
    cases: tuple[tuple[RungName, float], ...] = (("prototypes", 0.6), ("linear", 0.9))
    for rung, least in cases:
        seen = []
        for fold in (task.fold_of, None):
            both = replace(task, extra=Shots(rows, codes), extra_fold=fold)
            log = fit_rung(rung, both, 2, RungOptions(strengths=(1e-4,))).held_out
            seen.append(np.mean(log.argmax(axis=1) == codes))
        assert seen[1] > max(seen[0] + 0.1, least), rung


def test_class_weights_reach_the_probe_and_the_network() -> None:
    rng = np.random.default_rng(4)
    task = task_of(unit(rng.normal(size=(60, 5))), (np.arange(60) < 12).astype(int))
    for rung in ("linear", "network"):
        shares = []
        for weight in (None, {1: 8.0}):
            options = replace(OPTIONS, class_weight=weight, strengths=(1.0,))
            head = fit_head(rung, task, options)
            shares.append(np.exp(head.log_probabilities(task.rows, 2)[:, 1]).mean())
        assert shares[1] > shares[0] + 0.02, rung


@pytest.mark.parametrize(
    ("rung", "task", "message"),
    [
        ("zero-shot", clusters(5), "no shared space"),
        ("zero-shot", replace(clusters(5), anchors=Shots(np.ones((2, 12)), [0, 1])), "2 classes have no embedded name"),
        ("network", clusters(4), "16 rows are fewer than the 20"),
        ("network", replace(clusters(6), codes=np.zeros(24, int)), "all rows are of one class"),
    ],
)
def test_what_a_rung_cannot_be_fitted_on(rung: RungName, task: Task, message: str) -> None:
    assert message in why_not(rung, task)
    with pytest.raises(LabelError, match=f"the adapter '{rung}' cannot be used: .*{message}"):
        fit_rung(rung, task, 4, OPTIONS)


def test_the_last_row_of_a_class_stays_in_training() -> None:
    codes = np.array([0, 0, 0, 1, 1, 1, 2])
    fold_of = deal_folds(codes, 3, seed=0, groups=None)
    assert fold_of[6] == -1
    assert (fold_of[:6] >= 0).all()
    assert (deal_folds(codes, 3, seed=0, groups=None, always_known=np.array([2, 9])) >= 0).all()
    groups = np.array([0, 0, 0, 1, 2, 3, 4])  # class 0 is one group
    assert (deal_folds(codes, 3, seed=0, groups=groups) == -1).tolist() == [True, True, True, False, False, False, True]
    assert deal_folds(codes, 3, seed=0, groups=np.zeros(7, int)).tolist() == [-1] * 7


@pytest.mark.parametrize("names", [False, True])
def test_each_row_is_predicted_without_its_fold(names: bool) -> None:
    task = clusters(6, names=names, folds=3)
    options = RungOptions(strengths=(0.1,))
    together = fit_rung("linear", task, 5, options).held_out
    one_by_one, folds = hold_out(task, 5, lambda part: fit_head("linear", part, options))
    assert folds == 3
    np.testing.assert_allclose(np.exp(together), np.exp(one_by_one), atol=1e-3)
    assert np.isneginf(together[:, 4]).all()


def test_the_tempered_score_forgives_what_one_temperature_mends() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(200, 3)) * 2
    true = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    logs = log_softmax(logits)
    sharp = log_softmax(10 ** np.linspace(-1, 1, 21)[14] * logits)  # overconfident by a temperature of the grid
    assert brier_scores(np.exp(sharp), true).mean() > brier_scores(np.exp(logs), true).mean() + 0.02
    assert tempered_brier(sharp, true).mean() == pytest.approx(tempered_brier(logs, true).mean(), abs=0.005)
    some = logs.copy()
    some[::2] = np.nan
    np.testing.assert_array_equal(np.isnan(tempered_brier(some, true)), np.arange(200) % 2 == 0)
    assert np.isnan(tempered_brier(np.full((4, 3), np.nan), np.zeros(4, int))).all()


def test_paired_differences() -> None:
    before, after = np.array([1.0, 2, 3, np.nan, 5]), np.array([0.5, 2, 1, 1, np.nan])
    gain, error = paired(before, after)
    assert gain == pytest.approx(np.mean([0.5, 0, 2]))
    assert error == pytest.approx(np.std([0.5, 0, 2], ddof=1) / np.sqrt(3))
    assert paired(before[:1], after[:1]) == (0.0, np.inf)
