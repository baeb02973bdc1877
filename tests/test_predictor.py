"""Numbers and labels are predicted from whatever an item has, and a saved predictor is the same one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import ModalityArrays
from chiasm.recognition.predictor import LabelsPredictor, NumberPredictor, choose_thresholds
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


def without(arrays: ModalityArrays, missing: dict[Modality, np.ndarray]) -> ModalityArrays:
    """Take modalities from some items and put nonsense in their rows."""
    vectors, present = dict(arrays.vectors), dict(arrays.present)
    for name, rows in missing.items():
        vectors[name] = vectors[name].copy()
        vectors[name][rows] = np.nan
        present[name] = present[name].copy()
        present[name][rows] = False
    return ModalityArrays(vectors, present)


def only(arrays: ModalityArrays, *names: Modality) -> dict[Modality, np.ndarray]:
    return {name: arrays.vectors[name] for name in names}


def unit(arrays: ModalityArrays, name: Modality, mean: np.ndarray) -> np.ndarray:
    rows = arrays.vectors[name] - mean
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


FRESH, NUMBERS, TRUTH = planted(600, seed=99)


# ------------------------------------------------------------------------------------------------------------ numbers


def test_a_number_is_told_better_by_both_modalities() -> None:
    X, y, _ = planted(150, seed=1)
    predictor = NumberPredictor().fit(X, y)
    both = predictor.score(FRESH, NUMBERS)
    singles = [predictor.score(only(FRESH, name), NUMBERS) for name in ("image", "text")]
    assert both > max(singles) + 0.02
    assert min(singles) > 0.2
    scores = predictor.details_.subsets
    assert list(scores) == ["image", "text", "image+text"]
    assert scores["image+text"].r2 == pytest.approx(both, abs=0.12)
    errors = predictor.predict(FRESH) - NUMBERS
    assert scores["image+text"].mse == pytest.approx(np.mean(errors**2), rel=0.3)
    assert scores["image+text"].mae == pytest.approx(np.mean(np.abs(errors)), rel=0.2)


def test_scores_and_predictions_are_those_of_refits() -> None:
    X, y, _ = planted(40, seed=2)
    predictor = NumberPredictor(strengths=[0.1]).fit(only(X, "image"), y)
    mean = X.vectors["image"].mean(axis=0)
    rows = unit(X, "image", mean)
    held = np.array(
        [Ridge(alpha=0.1).fit(np.delete(rows, i, 0), np.delete(y, i)).predict(rows[i : i + 1])[0] for i in range(40)]
    )
    assert predictor.details_.subsets["image"].mse == pytest.approx(np.square(held - y).mean(), rel=1e-4)
    by_hand = Ridge(alpha=0.1).fit(rows, y).predict(unit(FRESH, "image", mean))
    np.testing.assert_allclose(predictor.predict(only(FRESH, "image")), by_hand, rtol=1e-3)
    half = predictor.predict_interval(only(FRESH, "image"), level=0.8)
    wide = np.sort(np.abs(held - y))[int(np.ceil(41 * 0.8)) - 1]
    np.testing.assert_allclose(half.upper - half.values, wide, rtol=1e-3)
    np.testing.assert_allclose(half.values - half.lower, wide, rtol=1e-3)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_hold_the_number_as_often_as_asked(level: float) -> None:
    held = []
    for seed in range(5):
        X, y, _ = planted(120, seed=10 + seed)
        told = NumberPredictor().fit(without(X, {"text": np.arange(8)}), y).predict_interval(FRESH, level=level)
        held.append(np.mean((told.lower <= NUMBERS) & (told.upper >= NUMBERS)))
    assert np.mean(held) == pytest.approx(level, abs=0.05)


def test_too_few_items_promise_nothing() -> None:
    X, y, _ = planted(6, seed=3)
    told = NumberPredictor().fit(X, y).predict_interval(FRESH, level=0.9)
    assert np.isinf(told.upper).all()
    assert np.isfinite(told.values).all()


def test_a_missing_modality_gives_the_predictor_of_the_rest() -> None:
    X, y, _ = planted(80, seed=4)
    predictor = NumberPredictor().fit(without(X, {"text": np.arange(6)}), y)
    images = NumberPredictor().fit(only(X, "image"), y)
    mixed = without(FRESH, {"text": np.arange(100)})
    said = predictor.predict(mixed)
    np.testing.assert_allclose(said[:100], images.predict(only(FRESH, "image"))[:100], rtol=1e-5)
    np.testing.assert_allclose(said[100:], predictor.predict(FRESH)[100:], rtol=1e-6)
    told = predictor.predict_interval(mixed)
    np.testing.assert_allclose(told.upper[:100], images.predict_interval(only(FRESH, "image")).upper[:100], rtol=1e-5)


def test_too_few_joint_items_leave_it_to_the_heads_of_the_parts() -> None:
    X, y, _ = planted(120, seed=5)
    predictor = NumberPredictor().fit(without(X, {"text": np.arange(50), "image": np.arange(50, 90)}), y)
    assert list(predictor.details_.strengths) == ["image", "text"]
    image, text = (predictor.predict(only(FRESH, name)) for name in ("image", "text"))
    weights = [1 / predictor.details_.subsets[name].mse for name in ("image", "text")]
    by_hand = (weights[0] * image + weights[1] * text) / sum(weights)
    np.testing.assert_allclose(predictor.predict(FRESH), by_hand, rtol=1e-5)
    assert predictor.details_.subsets["image+text"].items == 30
    told = predictor.predict_interval(FRESH)
    assert np.mean((told.lower <= NUMBERS) & (told.upper >= NUMBERS)) > 0.8


def test_groups_are_held_out_together() -> None:
    X, y, _ = planted(30, seed=6)
    twice = X.joined(X)
    doubled, groups = np.concatenate([y, y]), np.tile(np.arange(30), 2)
    careless = NumberPredictor().fit(twice, doubled).details_.subsets["image+text"].r2
    honest = NumberPredictor().fit(twice, doubled, groups).details_.subsets["image+text"].r2
    assert careless > honest + 0.1
    assert honest == pytest.approx(NumberPredictor().fit(X, y).details_.subsets["image+text"].r2, abs=0.15)


@pytest.mark.parametrize(
    ("y", "text"),
    [
        ([1.0, np.nan, 3.0, 4.0], "1 of 4 numbers are missing or infinite, first of item 1"),
        ([1.0, None, 3.0, 4.0], "1 of 4 numbers are missing"),
        (["a", "b", "c", "d"], "y must be one number an item; got .*read a column of text by parse_targets"),
        ([1.0, "b", 3.0, 4.0], "y must be one number an item"),
        ([1.0, 2.0], "there are 4 items but 2 numbers"),
        ([3.0, 3.0, 3.0, 3.0], "all 4 numbers are 3: there is nothing to predict"),
    ],
)
def test_bad_numbers_are_named(y: list[Any], text: str) -> None:
    with pytest.raises(LabelError, match=text):
        NumberPredictor().fit(planted(4, seed=7)[0], y)


def test_bad_requests_of_numbers_are_named() -> None:
    X, y, _ = planted(20, seed=7)
    with pytest.raises(NotFittedError, match="NumberPredictor is not fitted yet"):
        NumberPredictor().predict(X)
    with pytest.raises(LabelError, match="2 of 20 items lack any modality: items 3, 4"):
        NumberPredictor().fit(without(X, {"text": np.array([3, 4]), "image": np.array([3, 4])}), y)
    predictor = NumberPredictor().fit(only(X, "image"), y)
    with pytest.raises(LabelError, match=r"lack any of the modalities fitted on \(image\)"):
        predictor.predict(only(X, "text"))
    with pytest.raises(ChiasmError, match="expected embeddings of width 30, as in fit; got 3"):
        predictor.predict({"image": np.zeros((2, 3), np.float32)})
    with pytest.raises(ChiasmError, match=r"level must be between 0 and 1, such as 0\.9; got 90"):
        predictor.predict_interval(only(X, "image"), level=90)
    with pytest.raises(LabelError, match="no modality has items that differ"):
        NumberPredictor().fit(without(X, {"text": np.arange(10), "image": np.arange(10, 20)}), np.arange(20) // 10)
    with pytest.raises(ValueError, match="has no parameter 'alpha'; it has strengths"):
        predictor.set_params(alpha=3)


# ------------------------------------------------------------------------------------------------------------- labels


def test_labels_are_told_better_by_both_modalities() -> None:
    X, _, Y = planted(150, seed=1)
    predictor = LabelsPredictor().fit(X, Y, labels=LABELS)
    both = predictor.score(FRESH, TRUTH)
    assert both > max(predictor.score(only(FRESH, name), TRUTH) for name in ("image", "text")) + 0.02
    assert predictor.details_.subsets["image+text"].f1_macro == pytest.approx(both, abs=0.1)
    assert predictor.labels_.tolist() == LABELS
    chance = predictor.predict_proba(FRESH)
    assert chance.mean(axis=0) == pytest.approx(TRUTH.mean(axis=0), abs=0.08)
    thresholds = np.array([predictor.details_.thresholds[name] for name in LABELS])
    np.testing.assert_array_equal(predictor.predict(FRESH), chance > thresholds)
    for said, row, own in zip(predictor.predict_labels(FRESH), chance, predictor.predict(FRESH), strict=True):
        assert list(said) == [LABELS[k] for k in np.argsort(-row) if own[k]]


def test_lists_and_booleans_say_the_same() -> None:
    X, _, Y = planted(60, seed=2)
    lists = [[LABELS[k] for k in np.flatnonzero(row)] for row in Y]
    by_list = LabelsPredictor().fit(X, lists)
    shuffled = [2, 0, 3, 1]
    by_matrix = LabelsPredictor().fit(X, Y[:, shuffled], labels=[LABELS[k] for k in shuffled])
    np.testing.assert_allclose(by_list.predict_proba(FRESH), by_matrix.predict_proba(FRESH), rtol=1e-6)
    assert by_list.score(FRESH, [[LABELS[k] for k in np.flatnonzero(row)] for row in TRUTH]) == by_list.score(
        FRESH, TRUTH[:, :]
    )


def test_labels_of_items_without_a_modality() -> None:
    X, _, Y = planted(80, seed=4)
    predictor = LabelsPredictor().fit(without(X, {"text": np.arange(6)}), Y, labels=LABELS)
    mixed = without(FRESH, {"text": np.arange(100), "image": np.arange(100, 200)})
    chance = predictor.predict_proba(mixed)
    for rows, names in (
        (slice(0, 100), ("image",)),
        (slice(100, 200), ("text",)),
        (slice(200, 600), ("image", "text")),
    ):
        np.testing.assert_allclose(chance[rows], predictor.predict_proba(only(FRESH, *names))[rows], rtol=1e-6)
    assert predictor.predict(mixed).shape == (600, 4)


def test_a_label_that_one_modality_never_saw_is_left_to_the_other() -> None:
    X, _, Y = planted(120, seed=5)
    X = without(X, {"text": np.flatnonzero(Y[:, 3])})
    predictor = LabelsPredictor().fit(X, Y, labels=LABELS)
    assert list(predictor.details_.strengths) == ["image", "text"]  # the joint one would not know "round"
    image = predictor.predict_proba(only(FRESH, "image"))
    np.testing.assert_allclose(predictor.predict_proba(FRESH)[:, 3], image[:, 3], rtol=1e-6)
    logits = [np.log(p / (1 - p)) for p in (image, predictor.predict_proba(only(FRESH, "text")))]
    both = predictor.predict_proba(FRESH)[:, :3]
    np.testing.assert_allclose(np.log(both / (1 - both)), (logits[0] + logits[1])[:, :3] / 2, rtol=1e-4, atol=1e-5)


def test_labels_that_are_hardly_known_have_a_stated_fallback() -> None:
    X, _, Y = planted(60, seed=6)
    Y = np.hstack([Y, np.zeros((60, 2), dtype=bool), np.ones((60, 1), dtype=bool)])
    Y[11, 4] = True
    predictor = LabelsPredictor().fit(X, Y, labels=[*LABELS, "sold", "unseen", "whole"])
    assert predictor.details_.fallbacks == {
        "sold": "one item has it: it is learned from, but the label cannot be measured",
        "unseen": "no item has it: it is never predicted",
        "whole": "every item has it: it is always predicted",
    }
    has = predictor.predict(FRESH)
    assert not has[:, 5].any()
    assert has[:, 6].all()
    sold = predictor.predict_proba(X)[:, 4]
    assert sold.argmax() == 11


def test_names_of_labels_are_shots_where_they_help() -> None:
    rng = np.random.default_rng(7)
    names = {name: rng.normal(size=20).astype(np.float32) for name in [*LABELS, "gold"]}
    directions = np.array(list(names.values()))
    Y = rng.random((24, 5)) < 0.3
    Y[:, 4] = False
    Y[np.arange(4) * 2, np.arange(4)] = True
    truth = rng.random((300, 5)) < 0.3
    X, fresh = ((part @ directions + 1.5 * rng.normal(size=(len(part), 20))).astype(np.float32) for part in (Y, truth))
    given = [[[*LABELS, "gold"][k] for k in np.flatnonzero(row)] for row in Y]
    named = LabelsPredictor().fit(ModalityArrays(shared={"image": X}), given, names=names)
    plain = LabelsPredictor().fit(ModalityArrays(shared={"image": X}), given)
    target = ModalityArrays(shared={"image": fresh})
    assert named.details_.names == {"image": True}
    assert plain.details_.names == {}
    assert named.labels_.tolist() == ["blue", "flat", "gold", "red", "round"]
    assert named.details_.fallbacks["gold"] == "no item has it: known by its name alone"
    order = [[*LABELS, "gold"].index(name) for name in named.labels_]
    chance, own = named.predict_proba(target), truth[:, order]
    gold = named.labels_.tolist().index("gold")
    assert chance[own[:, gold], gold].mean() > chance[~own[:, gold], gold].mean()
    without_gold = [k for k in range(5) if k != gold]
    brier = np.square(chance[:, without_gold] - own[:, without_gold]).mean()
    assert brier < np.square(plain.predict_proba(target) - own[:, without_gold]).mean()

    wrong = {name: -10 * vector for name, vector in names.items() if name != "gold"}
    misled = LabelsPredictor().fit(ModalityArrays(shared={"image": X}), given, names=wrong)
    assert misled.details_.names == {"image": False}
    np.testing.assert_allclose(misled.predict_proba(target), plain.predict_proba(target))


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
    assert LabelsPredictor(threshold=0.4).fit(FRESH, TRUTH, labels=LABELS).details_.thresholds["red"] == 0.4


def test_groups_of_labels_are_never_divided() -> None:
    X, _, Y = planted(30, seed=6, noise=3)
    groups = np.tile(np.arange(30), 2)
    careless = LabelsPredictor().fit(X.joined(X), np.vstack([Y, Y]), labels=LABELS)
    honest = LabelsPredictor().fit(X.joined(X), np.vstack([Y, Y]), groups, labels=LABELS)
    both = "image+text"
    assert careless.details_.subsets[both].brier < 0.8 * honest.details_.subsets[both].brier
    alone = LabelsPredictor().fit(X, Y, np.zeros(30), labels=LABELS)  # one group: nothing can be held out
    assert alone.details_.subsets == {}
    assert set(alone.details_.thresholds.values()) == {Y.mean()}


@pytest.mark.parametrize(
    ("y", "labels", "text"),
    [
        ([["a"], "b", [], ["a"]], None, "item 1: labels must be a list of texts, empty if it has none; got 'b'"),
        (
            [["a"], None, [], ["a"]],
            None,
            "item 1: labels must be a list of texts.*Leave items out whose labels are missing",
        ),
        ([["a"], ["b"]], None, "there are 4 items but 2 lists of labels"),
        ([["a"], ["x"], [], []], ["a", "b"], "item 1: 'x' is none of the 2 labels, such as a"),
        ([["a"]] * 4, None, "no modality has items that differ in what is to be predicted"),
        (
            np.ones((4, 2), dtype=bool),
            ["a"],
            r"needs `labels`, a different name for each column; got shape \(4, 2\) and 1",
        ),
        (np.ones((4, 2), dtype=bool), None, "and none"),
    ],
)
def test_bad_labels_are_named(y: Any, labels: list[str] | None, text: str) -> None:
    with pytest.raises(LabelError, match=text):
        LabelsPredictor().fit(planted(4, seed=7)[0], y, labels=labels)


def test_bad_requests_of_labels_are_named() -> None:
    X, _, Y = planted(20, seed=7)
    with pytest.raises(ChiasmError, match=r"threshold must be 'f1' or between 0 and 1, such as 0\.5; got 2"):
        LabelsPredictor(threshold=2).fit(X, Y, labels=LABELS)
    with pytest.raises(ChiasmError, match="at least 2 folds are needed; got 1"):
        LabelsPredictor(folds=1).fit(X, Y, labels=LABELS)
    with pytest.raises(ChiasmError, match="names of labels need a shared space"):
        LabelsPredictor().fit(X, Y, labels=LABELS, names={"red": np.ones(3, np.float32)})
    shared = ModalityArrays(shared={"image": X.vectors["image"]})
    with pytest.raises(ChiasmError, match="names of labels must be finite vectors of width 30"):
        LabelsPredictor().fit(shared, Y, labels=LABELS, names={"red": np.ones(3, np.float32)})
    with pytest.raises(LabelError, match="'gold' has an embedded name and is none of the 4 labels"):
        LabelsPredictor().fit(shared, Y, labels=LABELS, names={"gold": np.ones(30, np.float32)})
    predictor = LabelsPredictor().fit(shared, Y, labels=LABELS)
    with pytest.raises(
        ChiasmError, match="image: the predictor was fitted with vectors in the shared space; give them"
    ):
        predictor.predict(only(X, "image"))


# --------------------------------------------------------------------------------------------------------- both kinds


def fitted(kind: str) -> NumberPredictor | LabelsPredictor:
    X, y, Y = planted(60, seed=8)
    X = without(X, {"text": np.arange(20), "image": np.arange(20, 25)})
    if kind == "number":
        return NumberPredictor(strengths=(0.01, 0.1, 1.0)).fit(X, y)
    return LabelsPredictor(folds=3, random_state=4).fit(X, Y, labels=LABELS)


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_a_saved_predictor_is_the_same_one(kind: str, tmp_path: Path) -> None:
    predictor = fitted(kind)
    predictor.save(tmp_path / "model")
    predictor.save(tmp_path / "model")  # replaces itself
    loaded = type(predictor).load(tmp_path / "model")
    for part in (only(FRESH, "image"), only(FRESH, "text"), only(FRESH, "image", "text")):
        np.testing.assert_array_equal(loaded.predict(part), predictor.predict(part))
        if isinstance(predictor, NumberPredictor) and isinstance(loaded, NumberPredictor):
            np.testing.assert_array_equal(loaded.predict_interval(part).upper, predictor.predict_interval(part).upper)
    assert loaded.details_ == predictor.details_
    assert json.loads(json.dumps(loaded.get_params())) == json.loads(json.dumps(predictor.get_params()))
    assert loaded.modalities_ == ("image", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("kind", ["number", "labels"])
def test_damage_is_told(kind: str, tmp_path: Path) -> None:
    predictor = fitted(kind)
    other = LabelsPredictor if kind == "number" else NumberPredictor
    predictor.save(tmp_path / "model")
    with pytest.raises(ChiasmError, match=f"holds a '{predictor._FORMAT}', expected a '{other._FORMAT}'"):
        other.load(tmp_path / "model")
    description = next((tmp_path / "model").glob("*.json"))
    text = description.read_text(encoding="utf-8")
    for old, new, message in (
        ('"version": 1', '"version": 9', "saved in version 9 of the format; this chiasm reads version 1"),
        ('"heads"', '"hands"', "is damaged .KeyError: 'heads'"),
        ('"own"', '"owned"', "is damaged .KeyError: 'own'"),
        ('"items": ', '"items": -', "is damaged"),
        (text, "[]", "names no format"),
        (text, "{", "is not JSON"),
    ):
        description.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ChiasmError, match=message):
            type(predictor).load(tmp_path / "model")
    description.write_text(text, encoding="utf-8")
    weights = tmp_path / "model" / "weights.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "head.image.coef": np.full_like(tensors["head.image.coef"], np.nan)}, weights)
    with pytest.raises(ChiasmError, match=r"damaged \(ValueError: head\.image\.coef should be finite floats"):
        type(predictor).load(tmp_path / "model")
    with pytest.raises(ChiasmError, match="holds no saved model"):
        type(predictor).load(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(ChiasmError, match="exists and is not a saved model: choose another folder"):
        predictor.save(tmp_path / "mine")


def test_predicting_needs_numpy_alone(tmp_path: Path) -> None:
    fitted("number").save(tmp_path / "number")
    fitted("labels").save(tmp_path / "labels")
    script = f"""
import sys
import numpy as np
from chiasm.recognition.predictor import LabelsPredictor, NumberPredictor
X = {{"image": np.ones((2, 30), np.float32)}}
NumberPredictor.load({str(tmp_path / "number")!r}).predict_interval(X)
LabelsPredictor.load({str(tmp_path / "labels")!r}).predict_labels(X)
assert not {{"torch", "sklearn", "scipy"}} & set(sys.modules), "heavy imports"
"""
    subprocess.run([sys.executable, "-c", script], check=True)
