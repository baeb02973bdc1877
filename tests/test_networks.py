"""The network learns what modalities say together, from any an item has, for all columns, and predicts by NumPy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.linear import LinearFit, fit_classes, fit_labels, fit_numbers
from chiasm.recognition.modalities import Features, ModalityArrays
from chiasm.recognition.networks import (
    Network,
    NetworkFusion,
    NetworkInputs,
    NetworkOptions,
    NetworkSource,
    fit_network,
)
from chiasm.recognition.targets import Target
from chiasm.training import Training
from chiasm.vectors import unit_rows

FAST = NetworkOptions(width=16, hidden=32, training=Training(epochs=40, learning_rate=1e-2))
FUSIONS = pytest.mark.parametrize("fusion", get_args(NetworkFusion))
BOTH = {"image": 16, "text": 12}


def centres(number: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, dim))


def inputs_of(**rows: np.ndarray) -> NetworkInputs:
    return NetworkInputs(
        {name: unit_rows(vectors.astype(np.float32)) for name, vectors in rows.items()},
        {name: np.ones(len(vectors), dtype=bool) for name, vectors in rows.items()},
    )


def planted(rows: int, *, seed: int = 0, noise: float = 1.0) -> tuple[NetworkInputs, np.ndarray]:
    """Both modalities tell the class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=rows)
    parts = {name: centres(3, dim, dim)[y] + noise * rng.normal(size=(rows, dim)) for name, dim in BOTH.items()}
    return inputs_of(**parts), y


def crossed(rows: int, *, seed: int = 0) -> tuple[NetworkInputs, np.ndarray]:
    """Each modality alone tells nothing: the class is whether their bits differ."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(2, size=(2, rows))
    parts = {
        name: centres(2, dim, dim)[bit] + 0.3 * rng.normal(size=(rows, dim))
        for (name, dim), bit in zip(BOTH.items(), bits, strict=True)
    }
    return inputs_of(**parts), bits[0] ^ bits[1]


def column(y: np.ndarray, *, name: str = "class", classes: int = 3) -> Target:
    return Target(name, "classes", y, y >= 0, np.array([f"c{k}" for k in range(classes)]))


def number(values: np.ndarray, name: str = "price") -> Target:
    return Target(name, "number", values, ~np.isnan(values), np.array([]))


def only(inputs: NetworkInputs, **present: np.ndarray) -> NetworkInputs:
    """Some of the modalities, for items where the mask is true."""
    return NetworkInputs({name: inputs.vectors[name] for name in present}, present)


def accuracy(network: Network, inputs: NetworkInputs, y: np.ndarray) -> float:
    return float((network.logits(inputs)["class"].argmax(axis=1) == y).mean())


def linear_accuracy(X: NetworkInputs, y: np.ndarray, fresh: NetworkInputs, truth: np.ndarray) -> tuple[float, float]:
    """Of the linear probe on all rows side by side, and the strength that it chose."""
    rows = [np.hstack(list(inputs.vectors.values())) / np.sqrt(2) for inputs in (X, fresh)]
    fit = fit_classes(rows[0], y, fold_of=np.arange(len(y)) % 5)
    return float(((rows[1] @ fit.coef.T + fit.intercept).argmax(axis=1) == truth).mean()), fit.strength


def test_a_planted_interaction_is_learned_where_the_linear_probe_cannot() -> None:
    X, y = crossed(300)
    fresh, truth = crossed(300, seed=1)
    assert linear_accuracy(X, y, fresh, truth)[0] < 0.65
    for fusion in get_args(NetworkFusion):
        options = replace(FAST, fusion=fusion, training=replace(FAST.training, epochs=60))
        network = fit_network(X, [column(y, classes=2)], options, start={"class": 1.0})
        assert accuracy(network, fresh, truth) > 0.95, fusion


@FUSIONS
def test_a_missing_modality_costs_its_own_information_only(fusion: Any) -> None:
    X, y = planted(240)
    fresh, truth = planted(300, seed=1)
    options = replace(FAST, fusion=fusion)
    network = fit_network(X, [column(y)], options)
    assert accuracy(network, fresh, truth) > 0.93
    every, half = np.ones(300, dtype=bool), np.arange(300) < 150
    for name, other in (("image", "text"), ("text", "image")):
        alone = fit_network(only(X, **{name: np.ones(240, dtype=bool)}), [column(y)], options)
        one = only(fresh, **{name: every})
        assert accuracy(network, one, truth) > accuracy(alone, one, truth) - 0.06
        broken = {**fresh.vectors, other: np.where(half[:, None], np.nan, fresh.vectors[other]).astype(np.float32)}
        mixed = network.log_probabilities(NetworkInputs(broken, {name: every, other: ~half}))
        np.testing.assert_allclose(mixed[half], network.log_probabilities(one)[half], atol=1e-5)
        np.testing.assert_allclose(mixed[~half], network.log_probabilities(fresh)[~half], atol=1e-5)


@FUSIONS
def test_items_may_never_have_two_modalities_together(fusion: Any) -> None:
    X, y = planted(200, noise=0.5)
    first = np.arange(200) < 100
    network = fit_network(
        NetworkInputs(X.vectors, {"image": first, "text": ~first}), [column(y)], replace(FAST, fusion=fusion)
    )
    fresh, truth = planted(200, seed=1, noise=0.5)
    for name in BOTH:
        assert accuracy(network, only(fresh, **{name: np.ones(200, dtype=bool)}), truth) > 0.9


# ------------------------------------------------------------------------------------------------------------- formulas


def slow_logits(network: Network, rows: list[np.ndarray | None]) -> np.ndarray:
    """The formulas at the top of the module, for one item; None is a missing modality."""
    p = {name: array.astype(np.float64) for name, array in network.parameters.items()}

    def sigmoid(x: np.ndarray) -> np.ndarray:
        result: np.ndarray = 1 / (1 + np.exp(-x))
        return result

    def normed(x: np.ndarray) -> np.ndarray:
        result: np.ndarray = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return result

    tokens = [
        p[f"missing_{m}"] if row is None else p[f"encode_{m}"] @ row + p[f"encode_bias_{m}"]
        for m, row in enumerate(rows)
    ]
    together = np.concatenate(tokens)
    if network.fusion == "concat":
        fused = together
    elif network.fusion == "mean":
        fused = np.mean([z for z, row in zip(tokens, rows, strict=True) if row is not None], axis=0)
    elif network.fusion == "gated":
        gates = [sigmoid(p[f"gate_{m}"] @ together + p[f"gate_bias_{m}"]) for m in range(len(rows))]
        fused = np.sum([gate * np.tanh(z) for gate, z in zip(gates, tokens, strict=True)], axis=0)
    else:
        sequence = np.stack([normed(z) for z in (p["token"], *tokens)])
        query, key, value = p["query"] @ sequence[0], sequence @ p["key"].T, sequence @ p["value"].T
        heads = []
        for h in range(2):
            part = slice(4 * h, 4 * h + 4)
            scores = np.exp(key[:, part] @ query[part] / 2)
            heads.append(scores / scores.sum() @ value[:, part])
        fused = normed(p["token"] + p["join"] @ np.concatenate(heads))
    hidden = np.maximum(p["hidden"] @ fused + p["hidden_bias"], 0)
    every = np.concatenate([np.zeros(p[f"encode_{m}"].shape[1]) if row is None else row for m, row in enumerate(rows)])
    logits: np.ndarray = p["out"] @ hidden + p["skip"] @ every + p["bias"]
    return logits


@FUSIONS
def test_each_fusion_is_its_formula(fusion: Any) -> None:
    X, y = planted(40)
    network = fit_network(X, [column(y)], replace(FAST, fusion=fusion, width=8, heads=2))
    logits = network.logits(X)["class"]
    without = network.logits(only(X, text=np.ones(40, dtype=bool)))["class"]
    for i in range(5):
        image, text = X.vectors["image"][i], X.vectors["text"][i]
        np.testing.assert_allclose(logits[i], slow_logits(network, [image, text]), atol=1e-4)
        np.testing.assert_allclose(without[i], slow_logits(network, [None, text]), atol=1e-4)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(network.log_probabilities(X)), probabilities)


def test_the_start_is_the_linear_solution() -> None:
    """With nothing learned, the network is the linear solution on rows side by side, each modality of the same length."""
    X, y = planted(60)
    stop = replace(FAST, training=replace(FAST.training, epochs=1, learning_rate=1e-12))
    tags, price = np.eye(3)[y] + np.eye(3)[(y + 1) % 3] > 0, 1000.0 + 250.0 * y
    tags[:, 1] = True  # a label that all have
    targets = [
        column(y),
        Target("tags", "labels", tags, np.ones(60, dtype=bool), np.array(["a", "b", "c"])),
        number(price),
    ]
    logits = fit_network(X, targets, stop, start={"class": 0.3, "tags": 0.2, "price": 0.1}).logits(X)
    rows, never = np.hstack(list(X.vectors.values())) / np.sqrt(2), np.full(60, -1)

    def outputs(fit: LinearFit) -> np.ndarray:
        solution: np.ndarray = rows @ fit.coef.T + fit.intercept
        return solution

    expected = outputs(fit_classes(rows, y, fold_of=never, strengths=[0.3]))
    np.testing.assert_allclose(logits["class"], expected, atol=1e-3)
    expected = outputs(fit_labels(rows, tags[:, [0, 2]], fold_of=never, strengths=[0.2]))
    np.testing.assert_allclose(logits["tags"][:, [0, 2]], expected, atol=1e-3)
    assert (logits["tags"][:, 1] > 2).all()
    np.testing.assert_allclose(
        logits["price"], outputs(fit_numbers(rows, price, fold_of=never, strengths=[0.1])), atol=0.5
    )


def test_the_start_counts_the_source() -> None:
    X, y = planted(60)
    more, labels = planted(40, seed=2)
    stop = replace(FAST, training=replace(FAST.training, epochs=1, learning_rate=1e-12))
    source = NetworkSource(more, [column(labels)])
    network = fit_network(X, [column(y)], stop, start={"class": 0.3}, source=source, alpha=0.25)
    rows, theirs = (np.hstack(list(inputs.vectors.values())) / np.sqrt(2) for inputs in (X, more))
    weight = np.repeat([1.0, 0.5], [60, 40])  # 20 against 60: a quarter of the loss
    fit = fit_classes(
        np.vstack([rows, theirs]), np.append(y, labels), fold_of=np.full(100, -1), weight=weight, strengths=[0.3]
    )
    np.testing.assert_allclose(network.logits(X)["class"], rows @ fit.coef.T + fit.intercept, atol=1e-3)


def test_where_the_classes_are_linear_the_network_does_no_harm() -> None:
    X, y = planted(120, noise=2.0)
    fresh, truth = planted(500, seed=1, noise=2.0)
    score, strength = linear_accuracy(X, y, fresh, truth)
    network = fit_network(X, [column(y)], FAST, start={"class": strength})
    assert accuracy(network, fresh, truth) > score - 0.03


# -------------------------------------------------------------------------------------------------------------- columns


def test_columns_of_every_kind_share_the_network() -> None:
    X, y = planted(300)
    fresh, truth = planted(200, seed=1)
    tags = np.eye(3)[y] + np.eye(3)[(y + 1) % 3] > 0
    targets = [
        column(np.where(np.arange(300) % 3 == 0, -1, y)),
        Target("tags", "labels", tags, np.arange(300) % 4 > 0, np.array(["a", "b", "c"])),
        number(np.where(np.arange(300) % 5 == 0, np.nan, 1000.0 + 250.0 * y)),
    ]
    predictions = fit_network(X, targets, replace(FAST, training=replace(FAST.training, epochs=60))).logits(fresh)
    assert list(predictions) == ["class", "tags", "price"]
    assert (predictions["class"].argmax(axis=1) == truth).mean() > 0.9
    assert ((predictions["tags"] > 0) == (np.eye(3)[truth] + np.eye(3)[(truth + 1) % 3] > 0)).mean() > 0.9
    assert np.abs(predictions["price"][:, 0] - 1000 - 250 * truth).mean() < 80


def test_values_of_missing_labels_and_modalities_change_nothing() -> None:
    X, y = planted(60)
    lost = np.arange(60) % 3 == 0
    predictions = []
    for filler in (0.0, 7.0):
        tags = np.where(lost[:, None], filler > 0, np.eye(3)[y] > 0)
        text = np.where(lost[:, None], filler, X.vectors["text"]).astype(np.float32)
        given = NetworkInputs({**X.vectors, "text": text}, {**X.present, "text": ~lost})
        targets = [
            Target("tags", "labels", tags, ~lost, np.array(["a", "b", "c"])),
            number(np.where(lost, np.nan, y)),
        ]
        predictions.append(fit_network(given, targets, FAST).logits(X))
    for name, values in predictions[0].items():
        np.testing.assert_array_equal(values, predictions[1][name])


# ------------------------------------------------------------------------------------------------------------- a source


def test_a_source_of_weight_0_is_no_source_and_a_source_helps() -> None:
    X, y = planted(9, noise=2.0)
    more, labels = planted(300, seed=2, noise=2.0)
    fresh, truth = planted(300, seed=1, noise=2.0)
    source = NetworkSource(more, [column(labels)])
    alone = fit_network(X, [column(y)], FAST)
    unused = fit_network(X, [column(y)], FAST, source=source, alpha=0.0)
    beside = fit_network(X, [column(y)], FAST, source=source, alpha=0.7)
    np.testing.assert_array_equal(alone.log_probabilities(fresh), unused.log_probabilities(fresh))
    assert accuracy(beside, fresh, truth) > accuracy(alone, fresh, truth) + 0.1


def test_a_source_may_lack_modalities_and_columns() -> None:
    X, y = planted(60)
    more, labels = planted(80, seed=2)
    texts = only(more, text=np.ones(80, dtype=bool))
    source = NetworkSource(texts, [column(labels)])
    network = fit_network(X, [column(y), number(y * 2.0)], FAST, source=source, alpha=0.5)
    assert accuracy(network, texts, labels) > 0.85


def test_balance_weights_and_groups_take_part() -> None:
    X, y = planted(90, noise=1.5)
    y = np.where(np.arange(90) < 16, y, 0)
    fresh, truth = planted(300, seed=1, noise=1.5)
    recall = {}
    for balance in (None, "weights", "oversample"):
        training = Training(epochs=30, learning_rate=5e-3, class_balance=balance, mixup=0.2)
        network = fit_network(
            X, [column(y)], replace(FAST, training=training), groups=np.arange(90) // 2, weights=np.ones(90)
        )
        recall[balance] = (network.logits(fresh)["class"].argmax(axis=1) == truth)[truth > 0].mean()
    assert recall["weights"] > recall[None]
    assert recall["oversample"] > recall[None]


def test_same_seed_same_network() -> None:
    X, y = planted(40)
    first, again, other = (
        fit_network(X, [column(y)], replace(FAST, training=replace(FAST.training, seed=seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.log_probabilities(X), again.log_probabilities(X))
    assert not np.array_equal(first.log_probabilities(X), other.log_probabilities(X))


# ------------------------------------------------------------------------------------------------------ saving, refusing


@FUSIONS
def test_what_is_restored_predicts_the_same(fusion: Any) -> None:
    X, y = planted(40)
    network = fit_network(X, [column(y), number(y * 10.0)], replace(FAST, fusion=fusion))
    arrays, description = network.as_arrays()
    again = Network.from_arrays(arrays, json.loads(json.dumps(description)))
    for name, values in network.logits(X).items():
        np.testing.assert_array_equal(values, again.logits(X)[name])
    assert again.modalities == ("image", "text")
    assert again.epochs == network.epochs
    with pytest.raises(ChiasmError, match="damaged"):
        Network.from_arrays({**arrays, "out": arrays["out"][:, 1:]}, description)
    with pytest.raises(ChiasmError, match="not finite"):
        Network.from_arrays({**arrays, "bias": arrays["bias"] * np.nan}, description)
    with pytest.raises(ChiasmError, match="older chiasm"):
        Network.from_arrays(arrays, {**description, "version": 0})


def test_importing_it_imports_no_torch() -> None:
    probe = "import sys; from chiasm.recognition.networks import Network; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)


def test_inputs_are_made_of_modality_arrays() -> None:
    rng = np.random.default_rng(0)
    has_text = np.array([True, False, True, True])
    arrays = ModalityArrays({"image": rng.normal(size=(4, 5)), "text": rng.normal(size=(4, 3))}, {"text": has_text})
    features = Features.of(arrays)
    inputs = NetworkInputs.of(arrays, features, np.array([1, 2]))
    np.testing.assert_allclose(inputs.vectors["text"][1], features.rows(arrays, ("text",), np.array([2]))[0], rtol=1e-6)
    assert inputs.present["text"].tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "term"),
    [
        ({"fusion": "sum"}, "one of concat, mean, gated, attention"),
        ({"width": 0}, "width must be at least 1"),
        ({"fusion": "attention", "width": 10}, "multiple of heads"),
        ({"modality_dropout": 1.0}, "modality_dropout"),
    ],
)
def test_options_out_of_their_range_are_refused(options: dict[str, Any], term: str) -> None:
    with pytest.raises(ValueError, match=term):
        NetworkOptions(**options)


def test_items_that_cannot_be_learned_from_are_refused() -> None:
    X, y = planted(20)
    ok, none = [column(y)], np.zeros(20, dtype=bool)
    wide = inputs_of(image=np.ones((20, 5)))
    for error, term, arguments in (
        (LabelError, "at least one target", {"targets": []}),
        (LabelError, "name of its own", {"targets": [*ok, *ok]}),
        (LabelError, "3 values", {"targets": [column(y[:3])]}),
        (LabelError, "nothing to learn", {"targets": [column(np.full(20, -1))]}),
        (LabelError, "nothing to learn", {"targets": [column(np.zeros(20, dtype=int))]}),
        (ValueError, "weights", {"weights": np.ones(3)}),
        (ValueError, "no source", {"alpha": 0.5}),
        (ValueError, "below 1", {"alpha": 1.0}),
        (ChiasmError, "width 16", {"source": NetworkSource(wide, ok), "alpha": 0.5}),
        (LabelError, "other", {"source": NetworkSource(X, [column(y, name="other")]), "alpha": 0.5}),
        (LabelError, "3 values", {"source": NetworkSource(X, [column(y[:3])]), "alpha": 0.5}),
    ):
        given: dict[str, Any] = {"targets": ok, "options": FAST, **arguments}
        with pytest.raises(error, match=term):
            fit_network(X, **given)
    with pytest.raises(ChiasmError, match="20 items have none of"):
        NetworkInputs(X.vectors, {"image": none, "text": none})
    with pytest.raises(ChiasmError, match="a mask"):
        NetworkInputs(X.vectors, {"image": ~none})
    network = fit_network(X, ok, replace(FAST, training=replace(FAST.training, epochs=1)))
    with pytest.raises(ChiasmError, match="trained on: image, text"):
        network.logits(inputs_of(audio=np.ones((2, 3))))
    with pytest.raises(ChiasmError, match="width 16, as in training; got 5"):
        network.logits(wide)
