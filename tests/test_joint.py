"""Several columns at once: each by the shared network or on its own, whichever does better on held-out items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, joint
from chiasm.recognition.networks import NetworkOptions
from chiasm.recognition.targets import Target, parse_target
from chiasm.training import Training

FAST = RungOptions(network=NetworkOptions(width=16, hidden=16, training=Training(epochs=20, learning_rate=1e-2)))


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


def columns(kinds: np.ndarray, numbers: np.ndarray, labels: list[list[str]], **gaps: np.ndarray) -> list[Target]:
    given: dict[str, list[Any]] = {"kind": list(kinds), "price": list(numbers), "tags": list(labels)}
    for name, rows in gaps.items():
        for row in rows:
            given[name][row] = None
    return [parse_target(values, column=name) for name, values in given.items()]


X, KINDS, NUMBERS, TAGS = planted(90, seed=1)
FRESH, FRESH_KINDS, FRESH_NUMBERS, FRESH_TAGS = planted(300, seed=2)
FRESH_Y = parse_target(FRESH_TAGS, column="tags").values
GAPS = {"kind": np.arange(10), "price": np.arange(5, 25), "tags": np.arange(20, 40)}


def quality(model: Recognizer, arrays: Any = FRESH) -> tuple[float, float, float]:
    said = model.recognise_all(arrays)
    return (
        float(np.mean(said["kind"].values == FRESH_KINDS)),
        float(np.corrcoef(said["price"].values, FRESH_NUMBERS)[0, 1]),
        float(np.mean(said["tags"].values == FRESH_Y)),
    )


@pytest.fixture(scope="module")
def linear() -> Recognizer:
    return Recognizer(options=FAST).fit(X, columns(KINDS, NUMBERS, TAGS, **GAPS))


@pytest.fixture(scope="module")
def product() -> Recognizer:
    """The number is linear; the class is the sign of a product that no linear head can tell."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(400, 4)).astype(np.float32)
    targets = [
        parse_target(rows[:, 2].tolist(), column="size"),
        parse_target(np.where(rows[:, 0] * rows[:, 1] > 0, "plus", "minus").tolist(), column="sign"),
        parse_target([["up"] if a * b > 0 else [] for a, b in rows[:, :2]], column="tags"),
    ]
    options = RungOptions(network=NetworkOptions(dropout=0.0, training=Training(epochs=60, learning_rate=1e-2)))
    return Recognizer(options=options).fit({"image": rows}, targets)


def test_linear_heads_are_taken_where_the_truth_is_linear(linear: Recognizer) -> None:
    reports = {report.column: report for report in linear.together_}
    assert {name: report.kind for name, report in reports.items()} == {
        "kind": "classes", "price": "number", "tags": "labels",
    }  # fmt: skip
    price = reports["price"]
    assert price.alone is not None and price.together is not None
    assert price.taken == "alone"
    assert price.together == pytest.approx(price.alone, rel=0.3)  # it starts from the linear solution
    assert linear.columns_["price"].network is None
    assert all(value > 0.6 for value in quality(linear))
    assert all(value > 0.5 for value in quality(linear, {"image": FRESH.vectors["image"]}))


def test_a_column_alone_is_what_it_is_on_its_own(linear: Recognizer) -> None:
    target = columns(KINDS, NUMBERS, TAGS, **GAPS)[1]
    rows = np.flatnonzero(target.known)
    alone = Recognizer().fit(X.take(rows), target.take(rows))
    np.testing.assert_array_equal(linear.predict(FRESH, column="price"), alone.predict(FRESH))


def test_the_network_is_taken_where_it_is_better(product: Recognizer) -> None:
    reports = {report.column: report for report in product.together_}
    assert [reports[name].taken for name in ("size", "sign", "tags")] == ["alone", "together", "together"]
    sign = reports["sign"]
    assert sign.gain is not None and sign.standard_error is not None
    assert sign.gain > sign.standard_error
    assert product.columns_["sign"].network is product.columns_["tags"].network is not None
    fresh = np.random.default_rng(4).normal(size=(300, 4)).astype(np.float32)
    truth = fresh[:, 0] * fresh[:, 1] > 0
    said = product.recognise_all({"image": fresh})
    assert np.mean((said["sign"].values == "plus") == truth) > 0.75
    assert np.mean(said["tags"].values[:, 0] == truth) > 0.7
    np.testing.assert_allclose(said["sign"].probabilities.sum(axis=1), 1)


@pytest.mark.parametrize("which", ["linear", "product"])
def test_saved_and_loaded_is_the_same(which: str, tmp_path: Any, request: pytest.FixtureRequest) -> None:
    model: Recognizer = request.getfixturevalue(which)
    model.save(tmp_path / "model")
    loaded = Recognizer.load(tmp_path / "model")
    arrays = FRESH if which == "linear" else {"image": FRESH.vectors["image"][:, :4]}
    before, after = model.recognise_all(arrays, level=0.8), loaded.recognise_all(arrays, level=0.8)
    assert list(before) == list(after)
    for column, said in before.items():
        for name, values in vars(said).items():
            np.testing.assert_array_equal(getattr(after[column], name), values, err_msg=name)
    assert loaded.together_ == model.together_


def test_a_number_of_the_network_has_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    always = joint._compare

    def together(*args: Any) -> joint.ColumnReport:
        report = always(*args)
        return joint.ColumnReport(**{**vars(report), "taken": "together"})

    monkeypatch.setattr(joint, "_compare", together)
    model = Recognizer(options=FAST).fit(X, columns(KINDS, NUMBERS, TAGS, **GAPS))
    said = model.recognise(FRESH, level=0.8, column="price")
    assert 0.6 < np.mean((said.lower <= FRESH_NUMBERS) & (said.upper >= FRESH_NUMBERS)) < 0.97
    assert all(value > 0.5 for value in quality(model))
    assert all(value > 0.3 for value in quality(model, {"image": FRESH.vectors["image"]}))


def test_losses_are_brier_scores_and_squared_errors_in_variances() -> None:
    kind, price, tags = columns(KINDS, NUMBERS, TAGS, **GAPS)
    chance = np.full((90, 3), 1 / 3)
    np.testing.assert_allclose(joint.losses_of(kind, np.log(chance))[10:], 2 / 3)
    assert np.isnan(joint.losses_of(kind, np.log(chance))[:10]).all()
    mean = np.full((90, 1), price.values[price.known].mean())
    assert np.nanmean(joint.losses_of(price, mean)) == pytest.approx(1)
    np.testing.assert_allclose(joint.losses_of(tags, np.zeros((90, 2)))[40:], 0.5)


def test_one_group_cannot_be_compared_on() -> None:
    model = Recognizer(options=FAST).fit(X, columns(KINDS, NUMBERS, TAGS), np.zeros(90))
    assert {report.taken for report in model.together_} == {"alone"}
    assert all(report.gain is None for report in model.together_)


def test_bad_input_is_named(linear: Recognizer) -> None:
    kind, price, _ = columns(KINDS, NUMBERS, TAGS)
    for y, match in (
        ([kind, KINDS], "as parse_target returns them"),
        ([kind, kind], "given twice"),
        ([kind, price.take(np.arange(3))], "90 items but 3 values"),
        ([kind, Target("x", "number", np.ones(90), np.ones(90, dtype=bool), np.empty(0, "U1"))], "nothing to learn"),
    ):
        with pytest.raises(LabelError, match=match):
            Recognizer().fit(X, y)
    with pytest.raises(ChiasmError, match="only for one column of classes, not for several columns"):
        Recognizer(fusion="mean").fit(X, [kind, price])
    with pytest.raises(ChiasmError, match="there is no column None: name one of kind, price, tags"):
        linear.predict(FRESH)
    with pytest.raises(AttributeError, match="several columns"):
        linear.only_column_.names  # noqa: B018
    half = ModalityArrays(X.vectors, {"image": np.arange(90) < 50, "text": np.arange(90) >= 40})
    images = Recognizer(options=FAST).fit(half, columns(KINDS, NUMBERS, TAGS, price=np.arange(40, 90)))
    if images.columns_["price"].network is None:
        with pytest.raises(LabelError, match="column 'price': 300 of 300 items lack any of the modalities"):
            images.predict({"text": FRESH.vectors["text"]}, column="price")
