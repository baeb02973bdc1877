"""The ladder climbs only on a win of more than one standard error, and says why it did or did not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.errors import LabelError
from chiasm.recognition import ladder
from chiasm.recognition.heads import RUNGS, RungName
from chiasm.recognition.ladder import (
    RungOptions,
    RungReport,
    Task,
    brier_scores,
    climb,
    deal_folds,
    fit_rung,
    paired,
    predict_folds,
    predict_rung,
    tempered_brier,
    why_not,
)
from chiasm.splits import Shots
from chiasm.training import Training

OPTIONS = RungOptions(training=Training(epochs=10, fixed_epochs=10, device="cpu"), hidden=(16,), bottleneck=4)
QUICK_RUNGS: tuple[RungName, ...] = ("zero-shot", "prototypes", "tip-adapter", "linear")


def unit(rows: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def clusters(per_class: int, *, classes: int = 4, noise: float = 1.0, names: bool = False, seed: int = 0) -> Task:
    """Round clusters: the mean of a class is all there is to learn."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 12))
    codes = rng.permutation(np.repeat(np.arange(classes), per_class))
    rows = unit(centres[codes] + noise * rng.normal(size=(len(codes), 12)))
    return Task(rows, codes, anchors=Shots(unit(centres), np.arange(classes)) if names else None)


def striped(items: int, seed: int = 0) -> Task:
    """Large variation that says nothing beside a small one that tells the class: means mislead, borders do not."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.arange(items) % 3)
    rows = np.hstack([6 * rng.normal(size=(items, 8)), np.eye(3)[codes] + 0.15 * rng.normal(size=(items, 3))])
    return Task(unit(rows), codes)


def climbed(task: Task, rungs: tuple[RungName, ...] = QUICK_RUNGS, folds: int = 5) -> ladder.Climb:
    named = None if task.anchors is None else np.asarray(task.anchors.y)
    fold_of = deal_folds(task.codes, folds, seed=0, groups=task.groups, always_known=named)
    classes = max(int(task.codes.max()), -1 if named is None else int(named.max())) + 1
    return climb(task, classes, OPTIONS, fold_of=fold_of, rungs=rungs)


def report(found: ladder.Climb, rung: RungName) -> RungReport:
    (one,) = (one for one in found.reports if one.rung == rung)
    return one


def test_means_suffice_for_round_clusters() -> None:
    found = climbed(clusters(12))
    assert found.rung == "prototypes"
    assert report(found, "zero-shot").why == "there is no shared space with embedded names of the classes"
    assert report(found, "prototypes").why == "the first that could be fitted"
    assert not report(found, "linear").taken


def test_a_higher_rung_is_taken_where_it_is_needed() -> None:
    found = climbed(striped(90))
    assert found.rung == "linear"
    won = report(found, "linear")
    assert won.taken
    assert won.better_by is not None and won.standard_error is not None
    assert won.better_by > won.standard_error > 0
    assert "better than" in won.why
    assert [one.rung for one in found.reports if one.taken] == ["linear"]


def test_names_alone_are_left_where_they_lie() -> None:
    task = clusters(12, names=True)
    assert task.anchors is not None
    lies = Task(task.rows, task.codes, anchors=Shots(-task.anchors.X, task.anchors.y))
    assert climbed(lies).rung != "zero-shot"
    assert climbed(task, ("zero-shot", "prototypes")).rung == "zero-shot"  # the centres themselves cannot be beaten


def test_every_rung_is_reported_with_score_and_seconds() -> None:
    found = climbed(clusters(10, names=True), RUNGS, folds=2)
    assert [one.rung for one in found.reports] == list(RUNGS)
    for one in found.reports:
        assert one.tried
        assert one.seconds > 0
        assert one.f1_macro is not None and 0 <= one.f1_macro <= 1
        assert one.brier is not None and 0 <= one.brier <= 2
        assert one.why
    assert sum(one.taken for one in found.reports) == 1


def planned(
    monkeypatch: pytest.MonkeyPatch, chances: dict[str, np.ndarray], codes: np.ndarray
) -> list[tuple[str, int]]:
    """Give the rungs predictions that are right with planned probabilities; say what was fitted on how many rows."""
    fits: list[tuple[str, int]] = []

    def predict(rung: RungName, task: Task, rows: np.ndarray, classes: int, options: RungOptions) -> np.ndarray:
        fits.append((rung, len(task.rows)))
        items = rows[:, 0].astype(int)  # the rows tell their number
        p = chances[rung][items][:, None]
        log: np.ndarray = np.log(np.where(np.eye(classes)[codes[items]] > 0, p, (1 - p) / (classes - 1)))
        return log

    monkeypatch.setattr(ladder, "predict_rung", predict)
    return fits


def numbered(items: int) -> Task:
    rows = np.arange(items, dtype=np.float32)[:, None]
    return Task(rows, np.arange(items) % 2)


def test_a_win_of_less_than_a_standard_error_is_no_win(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    before = rng.uniform(0.55, 0.95, size=40)
    noisy = np.clip(before + 0.002 + 0.2 * rng.normal(size=40), 0.05, 0.99)
    better = np.clip(before + 0.04, 0, 0.99)
    for after, rung in ((noisy, "prototypes"), (better, "linear")):
        planned(monkeypatch, {"prototypes": before, "linear": after}, np.arange(40) % 2)
        found = climbed(numbered(40), ("prototypes", "linear"))
        assert found.rung == rung
        one = report(found, "linear")
        assert one.better_by is not None and one.standard_error is not None
        assert one.taken == (one.better_by > one.standard_error)
        if one.taken:  # the other may have been given up before all were held out
            scores = [tempered_brier(np.log(np.stack([1 - p, p], axis=1)), np.ones(40, int)) for p in (before, after)]
            gain = scores[0] - scores[1]
            assert one.better_by == pytest.approx(gain.mean())
            assert one.standard_error == pytest.approx(gain.std(ddof=1) / np.sqrt(40))


def test_a_rung_that_is_behind_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    good, bad = rng.uniform(0.8, 0.95, size=50), rng.uniform(0.3, 0.5, size=50)
    fits = planned(monkeypatch, {"prototypes": good, "linear": bad}, np.arange(50) % 2)
    found = climbed(numbered(50), ("prototypes", "linear"))
    assert [rung for rung, _ in fits] == ["prototypes"] * 5 + ["linear"]
    assert found.rung == "prototypes"
    assert report(found, "linear").why == (
        "given up: behind prototypes by more than a standard error after 1 of 5 folds"
    )
    assert not report(found, "linear").taken
    assert np.isfinite(found.held_out).all()


def test_held_out_rows_are_predicted_without_themselves_and_their_group() -> None:
    """Rows come in copies; labels say nothing. Who sees the copy is right, who does not is lost."""
    rng = np.random.default_rng(2)
    rows = unit(rng.normal(size=(30, 40)))
    codes = rng.integers(0, 2, size=30)
    twice = Task(np.vstack([rows, rows]), np.tile(codes, 2), groups=np.tile(np.arange(30), 2))
    found = climbed(twice, ("tip-adapter",))
    assert np.mean(found.held_out.argmax(axis=1) == twice.codes) < 0.75
    free = climbed(Task(twice.rows, twice.codes), ("tip-adapter",))
    assert np.mean(free.held_out.argmax(axis=1) == twice.codes) > 0.85


def test_where_nothing_can_be_held_out_it_is_the_linear_probe() -> None:
    task = clusters(1)
    found = climbed(task)
    assert found.rung == "linear"
    assert np.isnan(found.held_out).all()
    assert [one.taken for one in found.reports] == [False, False, False, True]
    assert report(found, "linear").why == "no row can be held out to compare the rungs on"
    assert not any(one.tried for one in found.reports)
    assert climbed(task, ("prototypes", "tip-adapter")).rung == "prototypes"


def test_one_row_a_class_is_enough_where_there_are_names() -> None:
    found = climbed(clusters(1, names=True, noise=0.2))
    assert np.isfinite(found.held_out).all()
    assert all(one.tried for one in found.reports)


def test_a_class_known_only_by_its_name() -> None:
    task = clusters(10, names=True)
    part = task.take(np.flatnonzero(task.codes != 3))
    found = climbed(part, RUNGS, folds=2)
    assert found.held_out.shape == (30, 4)
    for rung in QUICK_RUNGS:
        head = fit_rung(rung, part, OPTIONS)
        assert head.classes.tolist() == [0, 1, 2, 3]
        guesses = head.log_probabilities(task.rows[task.codes == 3], 4).argmax(axis=1)
        # To a Tip-Adapter a class without rows is one with an empty cache.
        assert rung == "tip-adapter" or np.mean(guesses == 3) > 0.6, rung
    assert fit_rung("mlp", part, OPTIONS).classes.tolist() == [0, 1, 2]


def test_extra_rows_reach_every_rung() -> None:
    """Few rows far from the centres of their classes, and many extra ones near by."""
    good = clusters(30, noise=0.7)
    few = clusters(6, noise=2.5)
    bad = Task(few.rows, few.codes, extra=Shots(good.rows, good.codes, np.full(120, 5.0)))
    training = Training(epochs=40, fixed_epochs=40, learning_rate=1e-2, device="cpu")
    options = RungOptions(training=training, hidden=(16,), bottleneck=4)
    for rung in RUNGS[1:]:
        accuracies = []
        for task in (Task(bad.rows, bad.codes), bad):
            found = fit_rung(rung, task, options).log_probabilities(good.rows, 4).argmax(axis=1)
            accuracies.append(np.mean(found == good.codes))
        assert accuracies[1] > max(accuracies[0] + 0.05, 0.9), rung


def test_class_weights_reach_the_probe_and_the_networks() -> None:
    rng = np.random.default_rng(4)
    rows = unit(rng.normal(size=(60, 5)))
    codes = (np.arange(60) < 12).astype(int)
    for rung in ("linear", "mlp", "residual"):
        shares = []
        for weight in (None, {1: 8.0}):
            options = RungOptions(class_weight=weight, strengths=(1.0,), training=OPTIONS.training, hidden=(4,))
            logs = fit_rung(rung, Task(rows, codes), options).log_probabilities(rows, 2)
            shares.append(np.exp(logs[:, 1]).mean())
        assert shares[1] > shares[0] + (0.1 if rung == "linear" else 0.02), rung


@pytest.mark.parametrize(
    ("rung", "task", "message"),
    [
        ("zero-shot", clusters(5), "there is no shared space with embedded names of the classes"),
        (
            "zero-shot",
            Task(clusters(5).rows, clusters(5).codes, anchors=Shots(np.ones((2, 12)), [0, 1])),
            "2 classes have no embedded name",
        ),
        ("mlp", clusters(4), "16 rows are fewer than the 20 that early stopping needs"),
        ("residual", Task(clusters(6).rows, np.zeros(24, int)), "all rows are of one class"),
        (
            "tip-adapter",
            Task(np.ones((5001, 1), np.float32), np.arange(5001) % 2),
            "it keeps every row, at most 5000, and there are 5001",
        ),
    ],
)
def test_what_a_rung_cannot_be_fitted_on(rung: RungName, task: Task, message: str) -> None:
    assert message in why_not(rung, task)
    with pytest.raises(LabelError, match=f"the adapter '{rung}' cannot be used: .*{message}"):
        fit_rung(rung, task, OPTIONS)
    assert np.isnan(predict_rung(rung, task, task.rows[:2], 4, OPTIONS)).all()


def test_no_rung_at_all_is_an_error() -> None:
    with pytest.raises(LabelError, match=r"zero-shot: there is no shared space.*; mlp: 16 rows are fewer than the 20"):
        climbed(clusters(4), ("zero-shot", "mlp"))


def test_the_last_row_of_a_class_stays_in_training() -> None:
    codes = np.array([0, 0, 0, 1, 1, 1, 2])
    fold_of = deal_folds(codes, 3, seed=0, groups=None)
    assert fold_of[6] == -1
    assert (fold_of[:6] >= 0).all()
    assert (deal_folds(codes, 3, seed=0, groups=None, always_known=np.array([2, 9])) >= 0).all()
    groups = np.array([0, 0, 0, 1, 2, 3, 4])  # class 0 is one group
    assert (deal_folds(codes, 3, seed=0, groups=groups) == -1).tolist() == [True, True, True, False, False, False, True]
    assert deal_folds(codes, 3, seed=0, groups=np.zeros(7, int)).tolist() == [-1] * 7


def test_brier_scores_are_squared_distances_from_the_truth() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.0, 0.9]])
    with np.errstate(divide="ignore"):
        logs = np.log(p)
    np.testing.assert_allclose(brier_scores(logs, np.array([0, 1])), [0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 1 + 0.9**2])


def test_the_tempered_score_forgives_what_one_temperature_mends() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(200, 3)) * 2
    true = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in logits])
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    sharp = 10 ** np.linspace(-1, 1, 21)[14] * logits  # overconfident by a temperature of the grid
    sharp -= np.log(np.exp(sharp).sum(axis=1, keepdims=True))
    assert brier_scores(sharp, true).mean() > brier_scores(logs, true).mean() + 0.02
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


def test_the_same_seed_climbs_the_same_way() -> None:
    found: list[Any] = [climbed(clusters(8), RUNGS[1:], folds=2) for _ in range(2)]
    np.testing.assert_array_equal(found[0].held_out, found[1].held_out)
    assert [(r.rung, r.brier, r.why) for r in found[0].reports] == [(r.rung, r.brier, r.why) for r in found[1].reports]


@pytest.mark.parametrize("names", [False, True])
@pytest.mark.parametrize("strengths", [(0.1,), None])
def test_each_row_is_predicted_without_its_fold(names: bool, strengths: tuple[float, ...] | None) -> None:
    task = clusters(6, names=names)
    fold_of = deal_folds(task.codes, 3, seed=1, groups=None)
    fold_of[5] = -1
    options = RungOptions(strengths=strengths)
    out = predict_folds("linear", task, fold_of, 5, options)
    assert np.isnan(out[5]).all()
    for fold in range(3):
        held = fold_of == fold
        by_hand = predict_rung("linear", task.take(np.flatnonzero(~held)), task.rows[held], 5, options)
        np.testing.assert_allclose(np.exp(out[held]), np.exp(by_hand), atol=1e-4)
    assert np.isneginf(out[fold_of >= 0, 4]).all()


def test_a_fold_that_takes_a_whole_class_is_predicted_without_it() -> None:
    task = clusters(4)
    fold_of = np.where(task.codes == 2, 0, 1)
    out = predict_folds("linear", task, fold_of, 4, RungOptions(strengths=(0.1,)))
    assert np.isneginf(out[fold_of == 0, 2]).all()
    assert np.isnan(out[fold_of == 1]).all()  # without them one class is left
    assert np.isnan(predict_folds("linear", task, np.full(16, -1), 4, RungOptions(strengths=(0.1,)))).all()
