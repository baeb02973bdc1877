"""Numbers and labels are predicted from whatever an item has, with thresholds and intervals from held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from modality_parts import only, without
from sklearn.linear_model import Ridge

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions
from chiasm.recognition.regressions import choose_thresholds, label_f1, r2
from chiasm.recognition.targets import Target
from chiasm.types import Modality

DIMS: dict[Modality, int] = {"image": 30, "text": 12}
LABELS = ["blue", "flat", "red", "round"]
RNG = np.random.default_rng(0)
DIRECTIONS = {name: RNG.normal(size=(5, dim)) for name, dim in DIMS.items()}


def planted(items: int, seed: int, noise: float = 1.0) -> tuple[ModalityArrays, np.ndarray, np.ndarray]:
    """Items with a number and four labels; each modality tells of all of these, with its own scale and noise."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(items, 5))
    vectors = {
        name: (10.0**k * (hidden @ DIRECTIONS[name] + noise * (3 - k) * rng.normal(size=(items, dim)) + 2)).astype(
            np.float32
        )
        for k, (name, dim) in enumerate(DIMS.items())
    }
    return ModalityArrays(vectors), 40 + 5 * hidden[:, 4], hidden[:, :4] > np.array([-0.5, 0, 0.5, 1])


def number(y: np.ndarray) -> Target:
    return Target("size", "number", y, np.ones(len(y), dtype=bool), np.empty(0, dtype=np.str_))


def labels(Y: np.ndarray, names: Sequence[str] = LABELS) -> Target:
    return Target("look", "labels", Y, np.ones(len(Y), dtype=bool), np.array(names))


FRESH, NUMBERS, TRUTH = planted(600, seed=99)


def target_of(kind: str, y: np.ndarray, Y: np.ndarray) -> Target:
    return number(y) if kind == "number" else labels(Y)


def score(kind: str, predicted: np.ndarray) -> float:
    return r2(NUMBERS, predicted) if kind == "number" else label_f1(TRUTH, predicted)


# --------------------------------------------------------------------------------------------------------- both kinds


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_both_modalities_tell_better_than_either(kind: str) -> None:
    X, y, Y = planted(150, seed=1)
    recognizer = Recognizer().fit(X, target_of(kind, y, Y))
    both, *singles = (
        score(kind, recognizer.predict(part)) for part in (FRESH, only(FRESH, "image"), only(FRESH, "text"))
    )
    assert both > max(singles) + 0.02
    assert min(singles) > 0.2
    assert list(recognizer.details_.subsets) == ["image", "text", "image+text"]
    assert recognizer.details_.subsets["image+text"] == pytest.approx(both, abs=0.12)
    assert recognizer.details_.metric == ("r2" if kind == "number" else "f1_macro")


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_a_missing_modality_gives_the_heads_of_the_rest(kind: str) -> None:
    X, y, Y = planted(80, seed=4)
    recognizer = Recognizer().fit(without(X, {"text": np.arange(6)}), target_of(kind, y, Y))
    mixed = without(FRESH, {"text": np.arange(100), "image": np.arange(100, 200)})
    said = recognizer.recognise(mixed)
    for rows, names in ((slice(100), ("image",)), (slice(100, 200), ("text",)), (slice(200, 600), ("image", "text"))):
        alone = recognizer.recognise(only(FRESH, *names))
        for field in ("values", "probabilities", "lower", "upper"):
            np.testing.assert_allclose(getattr(said, field)[rows], getattr(alone, field)[rows], rtol=1e-5)


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_copies_are_never_on_both_sides(kind: str) -> None:
    X, y, Y = planted(30, seed=6, noise=3)
    twice, groups = X.joined(X), np.tile(np.arange(30), 2)
    target = target_of(kind, np.tile(y, 2), np.vstack([Y, Y]))
    careless, honest = (Recognizer().fit(twice, target, of).details_.subsets["image+text"] for of in (None, groups))
    assert careless > honest + 0.1


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_what_is_for_classes_is_refused(kind: str) -> None:
    X, y, Y = planted(20, seed=7)
    target = target_of(kind, y, Y)
    for options in ({"adapter": "prototypes"}, {"semi": "spreading"}, {"class_weight": "balanced"}):
        with pytest.raises(ChiasmError, match="only for one column of classes"):
            Recognizer(**options).fit(X, target)  # type: ignore[arg-type]
    recognizer = Recognizer().fit(only(X, "image"), target)
    with pytest.raises(LabelError, match=r"lack any of the modalities fitted on \(image\)"):
        recognizer.predict(only(X, "text"))
    with pytest.raises(LabelError, match="score is of classes"):
        recognizer.score(X, ["a"] * 20)
    with pytest.raises(LabelError, match="one column of classes"):
        recognizer.add_class(X, ["a"] * 20)


# ------------------------------------------------------------------------------------------------------------ numbers


def test_predictions_and_intervals_are_those_of_refits() -> None:
    X, y, _ = planted(40, seed=2)
    recognizer = Recognizer(options=RungOptions(strengths=(0.1,))).fit(only(X, "image"), number(y))
    mean = X.vectors["image"].mean(axis=0)

    def unit(arrays: ModalityArrays) -> np.ndarray:
        rows = arrays.vectors["image"] - mean
        scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return scaled

    rows = unit(X)
    held = np.array(
        [Ridge(alpha=0.1).fit(np.delete(rows, i, 0), np.delete(y, i)).predict(rows[i : i + 1])[0] for i in range(40)]
    )
    assert recognizer.only_column_.held_out is not None
    np.testing.assert_allclose(recognizer.only_column_.held_out[:, 0], held, rtol=1e-3)
    assert recognizer.details_.subsets["image"] == pytest.approx(r2(y, held), rel=1e-4)
    said = recognizer.recognise(only(FRESH, "image"), level=0.8)
    np.testing.assert_allclose(said.values, Ridge(alpha=0.1).fit(rows, y).predict(unit(FRESH)), rtol=1e-3)
    wide = np.sort(np.abs(held - y))[int(np.ceil(41 * 0.8)) - 1]
    np.testing.assert_allclose(said.upper - said.values, wide, rtol=1e-3)
    np.testing.assert_allclose(said.values - said.lower, wide, rtol=1e-3)
    assert said.probabilities.shape == (600, 0)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_the_number_as_often_as_asked(level: float) -> None:
    held = []
    for seed in range(5):
        X, y, _ = planted(120, seed=10 + seed)
        said = Recognizer().fit(without(X, {"text": np.arange(8)}), number(y)).recognise(FRESH, level=level)
        held.append(np.mean((said.lower <= NUMBERS) & (said.upper >= NUMBERS)))
    assert np.mean(held) == pytest.approx(level, abs=0.05)


def test_too_few_items_promise_nothing() -> None:
    X, y, _ = planted(6, seed=3)
    said = Recognizer().fit(X, number(y)).recognise(FRESH, level=0.9)
    assert np.isinf(said.upper).all()
    assert np.isfinite(said.values).all()


def test_too_few_joint_items_leave_it_to_the_heads_of_the_parts() -> None:
    X, y, _ = planted(120, seed=5)
    recognizer = Recognizer().fit(without(X, {"text": np.arange(50), "image": np.arange(50, 90)}), number(y))
    numbers = recognizer.details_.numbers
    assert list(numbers) == ["image", "text"]
    image, text = (recognizer.predict(only(FRESH, name)) for name in ("image", "text"))
    weights = [numbers[name]["weight"] for name in ("image", "text")]
    np.testing.assert_allclose(
        recognizer.predict(FRESH), (weights[0] * image + weights[1] * text) / sum(weights), rtol=1e-5
    )
    said = recognizer.recognise(FRESH)
    assert np.mean((said.lower <= NUMBERS) & (said.upper >= NUMBERS)) > 0.8


def test_a_number_has_no_probabilities() -> None:
    X, y, _ = planted(20, seed=7)
    with pytest.raises(ChiasmError, match="interval"):
        Recognizer().fit(X, number(y)).predict_proba(X)


# ------------------------------------------------------------------------------------------------------------- labels


def test_labels_go_by_their_thresholds() -> None:
    X, _, Y = planted(150, seed=1)
    recognizer = Recognizer().fit(X, labels(Y))
    chance = recognizer.predict_proba(FRESH)
    assert chance.mean(axis=0) == pytest.approx(TRUTH.mean(axis=0), abs=0.08)
    thresholds = np.array([recognizer.details_.thresholds[name] for name in LABELS])
    np.testing.assert_array_equal(recognizer.predict(FRESH), chance > thresholds)
    assert recognizer.classes_.tolist() == LABELS
    fixed = Recognizer(threshold=0.4).fit(X, labels(Y))
    np.testing.assert_array_equal(fixed.predict(FRESH), fixed.predict_proba(FRESH) > 0.4)


def test_a_label_that_one_modality_never_saw_is_left_to_the_other() -> None:
    X, _, Y = planted(120, seed=5)
    recognizer = Recognizer().fit(without(X, {"text": np.flatnonzero(Y[:, 3])}), labels(Y))
    assert list(recognizer.details_.numbers) == ["image", "text"]  # the joint one would not know "round"
    image, text, both = (
        np.log(p / (1 - p))
        for p in (recognizer.predict_proba(part) for part in (only(FRESH, "image"), only(FRESH, "text"), FRESH))
    )
    np.testing.assert_allclose(both[:, 3], image[:, 3], rtol=1e-5)
    np.testing.assert_allclose(both[:, :3], (image + text)[:, :3] / 2, rtol=1e-4, atol=1e-5)


def test_labels_that_are_hardly_known_have_a_stated_fallback() -> None:
    X, _, Y = planted(60, seed=6)
    Y = np.hstack([Y, np.zeros((60, 2), dtype=bool), np.ones((60, 1), dtype=bool)])
    Y[11, 4] = True
    recognizer = Recognizer().fit(X, labels(Y, [*LABELS, "sold", "unseen", "whole"]))
    assert {name: note.split(":")[0] for name, note in recognizer.details_.notes.items()} == {
        "sold": "one item has it",
        "unseen": "no item has it",
        "whole": "every item has it",
    }
    has = recognizer.predict(FRESH)
    assert not has[:, 5].any()
    assert has[:, 6].all()
    assert recognizer.predict_proba(X)[:, 4].argmax() == 11


def test_names_of_labels_are_shots_where_they_help() -> None:
    rng = np.random.default_rng(7)
    names = {name: rng.normal(size=20).astype(np.float32) for name in [*LABELS, "gold"]}
    directions = np.array(list(names.values()))
    Y = rng.random((24, 5)) < 0.3
    Y[:, 4] = False
    Y[np.arange(4) * 2, np.arange(4)] = True
    truth = rng.random((300, 5)) < 0.3
    X, fresh = (
        ModalityArrays(
            shared={"image": (part @ directions + 1.5 * rng.normal(size=(len(part), 20))).astype(np.float32)}
        )
        for part in (Y, truth)
    )
    named = Recognizer().fit(X, labels(Y[:, :4]), names=names)
    plain = Recognizer().fit(X, labels(Y[:, :4]))
    assert named.details_.numbers["image"]["names"] == 1
    assert named.classes_.tolist() == ["blue", "flat", "gold", "red", "round"]
    assert "known by its name" in named.details_.notes["gold"]
    chance, gold = named.predict_proba(fresh), truth[:, 4]
    assert chance[gold, 2].mean() > chance[~gold, 2].mean()
    ours = np.square(np.delete(chance, 2, axis=1) - truth[:, :4]).mean()
    assert ours < np.square(plain.predict_proba(fresh) - truth[:, :4]).mean()
    wrong = {name: -10 * vector for name, vector in names.items() if name != "gold"}
    misled = Recognizer().fit(X, labels(Y[:, :4]), names=wrong)
    assert misled.details_.numbers["image"]["names"] == 0
    np.testing.assert_allclose(misled.predict_proba(fresh), plain.predict_proba(fresh))


def test_thresholds_are_each_labels_best_or_one_for_the_rare() -> None:
    rng = np.random.default_rng(8)
    Y = rng.random((200, 3)) < np.array([0.3, 0.1, 0.03])
    Y[:5, 2] = True
    chance = np.clip(0.15 * Y + 0.1 + 0.08 * rng.normal(size=Y.shape), 0.001, 0.999)
    Y[:, 2] &= np.cumsum(Y[:, 2]) < 10  # nine positive items

    def f1(label: int, threshold: float) -> float:
        has = chance[:, label] > threshold
        return float(2 * (has & Y[:, label]).sum() / (has.sum() + Y[:, label].sum()))

    thresholds = choose_thresholds(chance, Y)
    for label in (0, 1):
        best = max(f1(label, threshold) for threshold in [0.0, *chance[:, label]])
        assert f1(label, thresholds[label]) == pytest.approx(best)
    common = np.unique(np.quantile(chance, np.linspace(0.5, 1, 200)[:-1]))
    macro = [np.mean([f1(label, threshold) for label in range(3)]) for threshold in common]
    assert thresholds[2] == common[int(np.argmax(macro))]
    few = np.zeros((12, 2), dtype=bool)
    few[[0, 1, 5], [0, 0, 1]] = True  # the median label has too few: the mean frequency
    assert choose_thresholds(rng.random((12, 2)), few).tolist() == [3 / 24, 3 / 24]
    assert choose_thresholds(np.full((200, 3), np.nan), Y).tolist() == [Y.mean()] * 3


def test_where_nothing_can_be_held_out_the_threshold_is_the_frequency() -> None:
    X, _, Y = planted(30, seed=6)
    alone = Recognizer().fit(X, labels(Y), np.zeros(30))
    assert alone.details_.subsets == {}
    assert set(alone.details_.thresholds.values()) == {Y.mean()}


@pytest.mark.parametrize(
    ("options", "given", "match"),
    [
        ({"threshold": 2}, {}, "threshold"),
        ({"folds": 1}, {}, "at least 2 folds"),
        ({}, {"names": {"red": np.ones(3)}}, "finite vectors of width 30"),
    ],
)
def test_bad_requests_of_labels_are_named(options: Any, given: Any, match: str) -> None:
    X, _, Y = planted(20, seed=7)
    with pytest.raises(ChiasmError, match=match):
        Recognizer(**options).fit(ModalityArrays(shared={"image": X.vectors["image"]}), labels(Y), **given)
