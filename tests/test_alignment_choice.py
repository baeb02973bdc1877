"""The choice between methods, and several modalities at once, on data where the answer is planted."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from chiasm.alignment import alignment
from chiasm.alignment import choice as alignment_choice
from chiasm.alignment.alignment import Alignment, Lesson, PairArrays, RidgeAlignment, Source, Task
from chiasm.alignment.choice import METHODS, AutoAlignment, make_alignment
from chiasm.alignment.linear_alignment import CcaAlignment
from chiasm.errors import SpaceError
from chiasm.vectors import unit_rows

LINEAR = ("ridge", "procrustes", "cca")


def pairs(count: int, x: int = 8, y: int = 6, *, seed: int = 0, noise: float = 0.2, map_seed: int = 9) -> PairArrays:
    rng, maps = np.random.default_rng(seed), np.random.default_rng(map_seed)
    groups = np.arange(count) // 2
    X = unit_rows(rng.standard_normal((count, x)))
    Y = unit_rows(X @ maps.standard_normal((x, y)) + noise * rng.standard_normal((count, y)))
    start = unit_rows(Y + 1.5 * rng.standard_normal((count, y)))
    return PairArrays(X.astype(np.float32), Y.astype(np.float32), start.astype(np.float32), groups)


def warped(count: int) -> PairArrays:
    """Anchors told apart by faint dimensions, under loud ones that features know nothing of: CCA makes them even."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((count, 8))
    faint = X[:, :3] * [1.0, 0.3, 0.1]
    Y = unit_rows(np.hstack([faint, rng.standard_normal((count, 3)), np.full((count, 1), 2.0)]))
    start = np.tile(unit_rows(Y.mean(axis=0, keepdims=True)), (count, 1))
    return PairArrays(*(part.astype(np.float32) for part in (X, Y, start)))


def fit_one(method: str, data: PairArrays, source: Source | None) -> Alignment:
    return make_alignment(method).fit(data.X, data.Y, start=data.start, groups=data.groups, source=source)


def fit(auto: AutoAlignment, data: PairArrays, source: Source | None = None) -> AutoAlignment:
    auto.fit(data.X, data.Y, start=data.start, groups=data.groups, source=source)
    return auto


# --------------------------------------------------------------------------------------------------------------- table


@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_made_by_its_name(method: str) -> None:
    made = make_alignment(method, alpha=0.25, blends=[0.5, 1.0], seed=3)
    assert (made.method, made.alpha, made.blends) == (method, 0.25, (0.5, 1.0))


def test_auto_is_made_by_its_name() -> None:
    made = make_alignment("auto", seed=3)
    assert isinstance(made, AutoAlignment)
    assert made.methods == METHODS == ("ridge", "kernel", "procrustes", "cca", "infonce", "siglip")


def test_an_unknown_method_names_those_that_there_are() -> None:
    message = r"there is no alignment method 'nystrom'. Use auto, ridge, kernel, procrustes, cca, infonce, siglip"
    with pytest.raises(SpaceError, match=message):
        make_alignment("nystrom")
    with pytest.raises(
        SpaceError, match=r"there is no alignment method 'auto' to choose. Use ridge, kernel, procrustes"
    ):
        AutoAlignment(methods=["ridge", "auto"])


def test_linear_methods_are_made_without_torch() -> None:
    code = (
        "import sys; from chiasm.alignment.choice import make_alignment\n"
        "for name in ('ridge', 'procrustes', 'cca', 'auto'): make_alignment(name)\n"
        "assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------------------------------------------------------- auto


def test_the_method_that_fits_the_data_is_chosen() -> None:
    data = warped(60)
    found = fit(AutoAlignment(methods=LINEAR), data)
    by_name = {entry.method: entry for entry in found.comparison_.scores}
    assert tuple(by_name) == LINEAR
    assert found.comparison_.chosen == found.choice_.method == "cca"
    assert by_name["cca"].gain > 2 * by_name["cca"].gain_error > 0 > by_name["procrustes"].gain
    alone = CcaAlignment().fit(data.X, data.Y, start=data.start)
    np.testing.assert_array_equal(found.map_.weight, alone.map_.weight)
    np.testing.assert_array_equal(found.transform(data.X, data.start), alone.transform(data.X, data.start))
    assert found.choice_ == alone.choice_


def test_scores_and_errors_are_those_of_maps_learned_without_a_fold() -> None:
    """Every method's own choice on all pairs, then a fit of the other folds that has nothing left to choose."""
    data, source = pairs(60, noise=1.0), pairs(80, seed=1)
    comparison = fit(AutoAlignment(methods=["cca"]), data, source).comparison_
    task = Task(data, source, "auto")
    ridge, cca = (fit_one(method, data, source).choice_ for method in ("ridge", "cca"))
    fixed = (
        RidgeAlignment(alpha=ridge.alpha, strengths=[ridge.strength], blends=[ridge.blend]),
        CcaAlignment(
            alpha=cca.alpha,
            anchor_strengths=[cca.settings["anchor_strength"]],
            components=[int(cca.settings["components"])],
            blends=[cca.blend],
        ),
    )
    chances = []
    for method in fixed:
        placed = np.empty_like(data.Y)
        for rows, _ in task.folds:
            part = data.take(np.setdiff1d(np.arange(60), rows))
            if isinstance(method, CcaAlignment):  # it takes ridge's strength, which is not chosen anew
                lesson = Lesson(part, part.statistics.moments, source, source.statistics.moments)
                placed[rows] = method._learn(lesson, cca).place(data.X[rows], data.start[rows])
            else:
                method.fit(part.X, part.Y, start=part.start, groups=part.groups, source=source)
                placed[rows] = method.transform(data.X[rows], data.start[rows])
        chances.append(task.chances(placed))
    gains = chances[1] - chances[0]
    for entry, found in zip(comparison.scores, chances, strict=True):
        assert entry.score == pytest.approx(found.mean(), abs=1e-6)
        assert entry.seconds > 0
    by_group = np.array([gains[data.codes == group].sum() - 2 * gains.mean() for group in range(30)])
    assert comparison.scores[1].gain == pytest.approx(gains.mean(), abs=1e-6)
    assert comparison.scores[1].gain_error == pytest.approx(np.sqrt(np.sum(by_group**2) * 30 / 29) / 60, abs=1e-6)
    assert (comparison.scores[0].gain, comparison.scores[0].gain_error) == (0.0, 0.0)
    assert comparison.start_score == pytest.approx(task.chances(data.start).mean(), abs=1e-6)


def test_ridge_stays_where_others_know_nothing_more() -> None:
    """Anchors that a linear map gives without noise are found by least squares; what others gain is within its error."""
    for seed in range(5):
        found = fit(AutoAlignment(methods=LINEAR), pairs(80, seed=seed, noise=0.0))
        assert found.comparison_.chosen == found.choice_.method == "ridge"
        np.testing.assert_array_equal(
            found.map_.weight, fit_one("ridge", pairs(80, seed=seed, noise=0.0), None).map_.weight
        )


def test_what_methods_share_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*given: Any) -> Any:
        calls.append(len(given[-1]))
        return left_out(*given)

    left_out = alignment.left_out
    monkeypatch.setattr(alignment, "left_out", counted)
    fit(AutoAlignment(methods=LINEAR), pairs(60), pairs(80, seed=1))
    assert calls == [len(alignment.STRENGTHS)]


def test_cross_fitted_pairs_are_those_of_the_chosen_method() -> None:
    for data in (warped(60), pairs(60)):
        found = fit(AutoAlignment(methods=LINEAR), data)
        alone = fit_one(found.choice_.method, data, None)
        given: Any = {"start": data.start, "groups": data.groups}
        np.testing.assert_array_equal(
            found.cross_fitted(data.X, data.Y, **given), alone.cross_fitted(data.X, data.Y, **given)
        )


def test_a_gain_within_its_standard_error_keeps_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pairs(40, noise=1.0)
    chosen = {}
    for gain, error in ((0.02, 0.03), (0.04, 0.03)):

        def fixed(
            values: np.ndarray, groups: np.ndarray, gain: float = gain, error: float = error
        ) -> tuple[float, float]:
            return (gain, error) if values.any() and values.mean() < 0.5 else (0.0, 0.0)

        monkeypatch.setattr(alignment_choice, "_mean_and_error", fixed)
        chosen[gain] = fit(AutoAlignment(methods=["cca"]), data).comparison_.chosen
    assert chosen == {0.02: "ridge", 0.04: "cca"}


def test_errors_of_independent_pairs_are_the_usual_ones() -> None:
    values = np.random.default_rng(0).standard_normal(50)
    mean, error = alignment_choice._mean_and_error(values, np.arange(50))
    assert (mean, error) == pytest.approx((values.mean(), values.std(ddof=1) / np.sqrt(50)))
    twice = alignment_choice._mean_and_error(np.repeat(values, 2), np.repeat(np.arange(50), 2))
    assert twice == pytest.approx((mean, error))


def test_methods_that_need_pairs_are_left_out_where_the_source_is_statistics() -> None:
    data, source = pairs(40), pairs(60, seed=1)
    comparison = fit(AutoAlignment(methods=["cca", "infonce"]), data, source.statistics).comparison_
    assert [entry.method for entry in comparison.scores] == ["ridge", "cca"]
    assert comparison.left_out == {"infonce": "it needs the pairs of the source, and these are statistics"}


@pytest.mark.parametrize("data", [pairs(10), pairs(12)], ids=["few pairs", "few pairs a fold"])
def test_few_pairs_keep_ridge_and_say_so(data: PairArrays) -> None:
    found = fit(AutoAlignment(), data)
    assert found.comparison_.chosen == found.choice_.method == "ridge"
    assert found.comparison_.scores == ()
    reason = "too few pairs or groups to learn from when a fold is left out"
    assert found.comparison_.left_out == dict.fromkeys(METHODS[1:], reason)


def test_two_groups_keep_ridge() -> None:
    data = pairs(40)
    found = fit(AutoAlignment(), dataclasses.replace(data, groups=np.arange(40) % 2))
    assert found.comparison_.chosen == "ridge"


def test_the_score_of_methods_that_choose_on_folds_is_that_of_their_choice() -> None:
    three = dataclasses.replace(pairs(30), groups=np.arange(30) % 3)  # three folds, to be quick
    comparison = fit(AutoAlignment(methods=["procrustes", "cca", "siglip"]), three).comparison_
    assert [entry.method for entry in comparison.scores] == ["ridge", "procrustes", "cca", "siglip"]
    for entry in comparison.scores[1:]:
        assert entry.score == pytest.approx(fit_one(entry.method, three, None).choice_.score, abs=1e-6)
