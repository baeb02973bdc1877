"""Several columns at once: each by the shared network or on its own, whichever does better on held-out items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import ModalityArrays
from chiasm.recognition.multitask import MultiTaskPredictor
from chiasm.recognition.tasks import Targets, parse_targets
from chiasm.training import Training

FAST = Training(epochs=30, fixed_epochs=30, learning_rate=1e-2)
SMALL = {"width": 16}


def planted(items: int, seed: int) -> tuple[ModalityArrays, np.ndarray, np.ndarray, list[list[str]]]:
    """Items with a class, a number and labels, told linearly by two modalities."""
    hidden = np.random.default_rng(seed).normal(size=(items, 6))
    rng = np.random.default_rng(1000)
    maps = {"image": rng.normal(size=(6, 24)), "text": rng.normal(size=(6, 10))}
    noise = np.random.default_rng(seed + 1)
    X = ModalityArrays(
        {name: (hidden @ m + noise.normal(size=(items, m.shape[1]))).astype(np.float32) for name, m in maps.items()}
    )
    kinds = np.array(["bird", "fish", "frog"])[hidden[:, :3].argmax(axis=1)]
    labels = [[name for name, has in zip(("old", "red"), row > 0.3, strict=True) if has] for row in hidden[:, 3:5]]
    return X, kinds, 10 * hidden[:, 5], labels


def columns(kinds: np.ndarray, numbers: np.ndarray, labels: list[list[str]], **gaps: np.ndarray) -> list[Targets]:
    given: dict[str, list[Any]] = {"kind": list(kinds), "price": list(numbers), "tags": list(labels)}
    for name, rows in gaps.items():
        for row in rows:
            given[name][row] = None
    return [parse_targets(values, column=name) for name, values in given.items()]


X, KINDS, NUMBERS, TAGS = planted(90, seed=1)
FRESH, FRESH_KINDS, FRESH_NUMBERS, FRESH_TAGS = planted(300, seed=2)
FRESH_Y = parse_targets(FRESH_TAGS, column="tags").values


def quality(model: MultiTaskPredictor, arrays: Any = FRESH) -> tuple[float, float, float]:
    said = model.predict(arrays)
    return (
        float(np.mean(said["kind"].values == FRESH_KINDS)),
        float(np.corrcoef(said["price"].values, FRESH_NUMBERS)[0, 1]),
        float(np.mean(said["tags"].values == FRESH_Y)),
    )


@pytest.fixture(scope="module")
def together() -> MultiTaskPredictor:
    model = MultiTaskPredictor(trunk="always", network=SMALL, training=FAST, folds=2)
    gaps = {"kind": np.arange(10), "price": np.arange(5, 25), "tags": np.arange(20, 40)}
    return model.fit(X, columns(KINDS, NUMBERS, TAGS, **gaps))


@pytest.fixture(scope="module")
def alone() -> MultiTaskPredictor:
    return MultiTaskPredictor(trunk="never").fit(X, columns(KINDS, NUMBERS, TAGS))


def test_linear_predictors_are_taken_where_the_truth_is_linear() -> None:
    model = MultiTaskPredictor(network=SMALL, training=FAST, folds=2).fit(X, columns(KINDS, NUMBERS, TAGS))
    reports = {report.column: report for report in model.details_.columns}
    assert {name: report.task for name, report in reports.items()} == model.columns_
    assert model.columns_ == {"kind": "classes", "price": "number", "tags": "labels"}
    price = reports["price"]
    assert price.metric == "r2"
    assert price.alone is not None and price.together is not None and price.gain is not None
    assert price.alone > price.together
    assert price.gain < 0
    assert price.taken == "alone"
    assert price.why == "the network is not better by more than one standard error"
    assert all(value > 0.7 for value in quality(model))


def test_the_network_is_taken_where_it_is_better() -> None:
    """The number is a product that no linear predictor can tell, the class its sign."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(500, 4)).astype(np.float32)
    product = rows[:, 0] * rows[:, 1]
    targets = [
        parse_targets(product, column="product"),
        parse_targets(["plus" if value > 0 else "minus" for value in product], column="sign"),
    ]
    model = MultiTaskPredictor(
        training=Training(epochs=60, fixed_epochs=60, learning_rate=1e-2),
        network={"kind": "gated", "dropout": 0.0},
        folds=2,
    ).fit({"image": rows}, targets)
    reports = {report.column: report for report in model.details_.columns}
    assert reports["sign"].taken == "together"
    sign = reports["sign"]
    assert sign.together is not None and sign.alone is not None and sign.gain is not None
    assert sign.together > sign.alone + 0.2
    assert sign.gain > (sign.standard_error or np.inf)
    fresh = rng.normal(size=(300, 4)).astype(np.float32)
    said = model.predict({"image": fresh})["sign"]
    assert np.mean((said.values == "plus") == (fresh[:, 0] * fresh[:, 1] > 0)) > 0.75
    assert said.probabilities is not None
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1)


def test_one_network_learns_all_columns_with_gaps(together: MultiTaskPredictor) -> None:
    assert {report.taken for report in together.details_.columns} == {"together"}
    assert {report.why for report in together.details_.columns} == {"chosen by the caller"}
    assert all(value > 0.6 for value in quality(together))
    said = together.predict(FRESH, level=0.8)
    price = said["price"]
    assert price.lower is not None and price.upper is not None and price.probabilities is None
    covered = np.mean((price.lower <= FRESH_NUMBERS) & (price.upper >= FRESH_NUMBERS))
    assert 0.65 < covered < 0.95
    assert said["tags"].probabilities is not None and said["tags"].probabilities.shape == (300, 2)
    assert together.names_["tags"].tolist() == ["old", "red"]
    assert together.names_["kind"].tolist() == ["bird", "fish", "frog"]


def test_items_lack_modalities(together: MultiTaskPredictor, alone: MultiTaskPredictor) -> None:
    for model in (together, alone):
        whole, images = quality(model), quality(model, {"image": FRESH.vectors["image"]})
        assert all(value > 0.55 for value in images)
        mixed = model.predict(
            ModalityArrays(FRESH.vectors, {"image": np.ones(300, dtype=bool), "text": np.arange(300) < 150})
        )
        said = model.predict({"image": FRESH.vectors["image"]})
        np.testing.assert_allclose(mixed["price"].values[150:], said["price"].values[150:], rtol=1e-4, atol=1e-4)
        assert whole != images


def test_alone_is_what_each_predictor_says_on_its_own(alone: MultiTaskPredictor) -> None:
    from chiasm.recognition.predictor import NumberPredictor

    assert alone.fitted_.network is None
    assert all(report.together is None and report.gain is None for report in alone.details_.columns)
    np.testing.assert_array_equal(
        alone.predict(FRESH)["price"].values, NumberPredictor().fit(X, NUMBERS).predict(FRESH)
    )
    assert all(report.alone is not None and report.alone > 0.6 for report in alone.details_.columns)


def test_one_column_has_nothing_to_share() -> None:
    model = MultiTaskPredictor().fit(X, columns(KINDS, NUMBERS, TAGS)[1:2])
    (report,) = model.details_.columns
    assert (report.taken, report.why) == ("alone", "one column has nothing to share")
    assert report.together is None


def test_one_group_cannot_be_compared_on() -> None:
    targets = columns(KINDS, NUMBERS, TAGS)
    model = MultiTaskPredictor(network=SMALL, training=FAST).fit(X, targets, np.zeros(90))
    assert {report.why for report in model.details_.columns} == {"no items can be held out to compare on"}
    assert all(report.alone is None for report in model.details_.columns)


@pytest.mark.parametrize("which", ["together", "alone"])
def test_a_saved_predictor_is_the_same_one(which: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model: MultiTaskPredictor = request.getfixturevalue(which)
    model.save(tmp_path / "model")
    loaded = MultiTaskPredictor.load(tmp_path / "model")
    before, after = model.predict(FRESH), loaded.predict(FRESH)
    assert list(before) == list(after)
    for name, said in before.items():
        np.testing.assert_array_equal(said.values, after[name].values)
        if said.probabilities is not None and after[name].probabilities is not None:
            np.testing.assert_array_equal(said.probabilities, after[name].probabilities)
        if said.upper is not None and after[name].upper is not None:
            np.testing.assert_array_equal(said.upper, after[name].upper)
    assert loaded.details_ == model.details_
    assert loaded.get_params() == {**model.get_params(), "training": None}
    json.dumps(loaded.details_.as_dict())


def test_damage_is_told(alone: MultiTaskPredictor, tmp_path: Path) -> None:
    alone.save(tmp_path / "model")
    description = next((tmp_path / "model").glob("*.json"))
    text = description.read_text(encoding="utf-8")
    for old, new, message in (
        ('"task": "number"', '"task": "guess"', "damaged .ValueError: there is no task 'guess'"),
        ('"chiasm-multi-task-predictor"', '"other"', "holds a 'other', expected a 'chiasm-multi-task-predictor'"),
        ('"columns"', '"pillars"', "damaged .KeyError"),
    ):
        description.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ChiasmError, match=message):
            MultiTaskPredictor.load(tmp_path / "model")


def test_bad_input_is_named(alone: MultiTaskPredictor) -> None:
    kind, price, _ = columns(KINDS, NUMBERS, TAGS)
    with pytest.raises(NotFittedError, match="MultiTaskPredictor is not fitted yet"):
        MultiTaskPredictor().predict(X)
    with pytest.raises(LabelError, match="give the columns to predict as parse_targets returns them; got none"):
        MultiTaskPredictor().fit(X, [])
    with pytest.raises(LabelError, match="as parse_targets returns them"):
        MultiTaskPredictor().fit(X, [KINDS])
    with pytest.raises(LabelError, match="column 'kind' is given twice"):
        MultiTaskPredictor().fit(X, [kind, kind])
    with pytest.raises(LabelError, match="column 'price': there are 90 items but 3 values"):
        MultiTaskPredictor().fit(X, [kind, price.take(np.arange(3))])
    constant = Targets("price", "number", np.ones(90), np.ones(90, dtype=bool), np.empty(0, dtype=np.str_))
    with pytest.raises(LabelError, match="column 'price': all known values are the same, or none is known"):
        MultiTaskPredictor().fit(X, [kind, constant])
    with pytest.raises(ChiasmError, match="trunk must be one of auto, always, never; got 'maybe'"):
        MultiTaskPredictor(trunk="maybe").fit(X, [kind])  # type: ignore[arg-type]
    with pytest.raises(ChiasmError, match="at least 2 folds are needed; got 1"):
        MultiTaskPredictor(folds=1).fit(X, [kind])
    with pytest.raises(ChiasmError, match="level must be between 0 and 1"):
        alone.predict(X, level=1.0)
    with pytest.raises(ValueError, match="MultiTaskPredictor has no parameter 'alpha'"):
        alone.set_params(alpha=1)
    gone = ModalityArrays(X.vectors, {"image": np.arange(90) != 4, "text": np.arange(90) != 4})
    with pytest.raises(LabelError, match="1 of 90 items lack any modality: items 4"):
        MultiTaskPredictor().fit(gone, [kind])
    half = ModalityArrays(X.vectors, {"image": np.arange(90) < 50, "text": np.arange(90) >= 40})
    gaps = columns(KINDS, NUMBERS, TAGS, price=np.arange(45, 90))
    sparse = MultiTaskPredictor(trunk="never").fit(half.take(np.arange(90)), gaps)
    assert sparse.predict({"image": FRESH.vectors["image"]})["price"].values.shape == (300,)
    images = MultiTaskPredictor(trunk="never").fit(half, columns(KINDS, NUMBERS, TAGS, price=np.arange(40, 90)))
    with pytest.raises(
        LabelError, match=r"column 'price': 300 of 300 items lack any of the modalities fitted on \(image\)"
    ):
        images.predict({"text": FRESH.vectors["text"]})


def test_a_class_that_no_training_item_is_of_has_a_column_of_its_own() -> None:
    rows = np.flatnonzero(KINDS != "fish")
    given = [target.take(rows) for target in columns(KINDS, NUMBERS, TAGS)]
    predictor = MultiTaskPredictor(trunk="never").fit(X.take(rows), given)
    said = predictor.predict(FRESH)["kind"]
    assert predictor.names_["kind"].tolist() == ["bird", "fish", "frog"]
    assert said.probabilities is not None
    assert said.probabilities.shape == (len(FRESH), 3)
    assert not said.probabilities[:, 1].any()
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(said.values, predictor.names_["kind"][said.probabilities.argmax(axis=1)])
