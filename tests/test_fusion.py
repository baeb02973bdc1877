"""Fusion networks learn from any modalities an item has, keep them in balance, share targets, and come back from arrays."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest
import torch

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.fusion import Fusion, FusionNetwork, Kind, SourceItems, Target, _Network
from chiasm.training import Training

FAST = Training(epochs=40, fixed_epochs=20, learning_rate=1e-2)
KINDS = pytest.mark.parametrize("kind", get_args(Kind))
Vectors = dict[str, np.ndarray]


def centres(number: int, dim: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, dim))


def planted(
    rows: int, *, seed: int = 0, classes: int = 3, noise: tuple[float, float] = (1.0, 1.0)
) -> tuple[Vectors, np.ndarray]:
    """Both modalities tell the class."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=rows)
    image = centres(classes, 16, 1)[y] + noise[0] * rng.normal(size=(rows, 16))
    text = centres(classes, 12, 2)[y] + noise[1] * rng.normal(size=(rows, 12))
    return {"image": image, "text": text + 0.5}, y


def crossed(rows: int, *, seed: int = 0) -> tuple[Vectors, np.ndarray]:
    """Each modality alone tells nothing: the class is whether their bits differ."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(2, size=(2, rows))
    image = centres(2, 16, 1)[a] + 0.3 * rng.normal(size=(rows, 16))
    return {"image": image, "text": centres(2, 12, 2)[b] + 0.3 * rng.normal(size=(rows, 12))}, a ^ b


def classes(y: np.ndarray) -> list[Target]:
    return [Target("class", "classes", y)]


def right(network: FusionNetwork, vectors: Vectors, y: np.ndarray, present: Any = None) -> float:
    return float((network.predict(vectors, present or {})["class"].argmax(axis=1) == y).mean())


def predicted(network: FusionNetwork, vectors: Vectors) -> np.ndarray:
    return np.hstack([p.reshape(len(p), -1) for p in network.predict(vectors, {}).values()])


@KINDS
def test_every_kind_learns_and_a_missing_modality_costs_its_own_information_only(kind: Any) -> None:
    X, y = planted(240)
    fresh, truth = planted(300, seed=1)
    network = FusionNetwork(Fusion(kind=kind, width=16), FAST).fit(X, {}, classes(y))
    assert right(network, fresh, truth) > 0.93
    half = np.arange(300) < 150
    for name in X:
        alone = FusionNetwork(Fusion(kind=kind, width=16), FAST).fit({name: X[name]}, {}, classes(y))
        ceiling = right(alone, {name: fresh[name]}, truth)
        assert right(network, {name: fresh[name]}, truth) > ceiling - 0.06
        other = next(n for n in X if n != name)
        mixed = network.predict({**fresh, other: np.where(half[:, None], np.nan, fresh[other])}, {other: ~half})
        np.testing.assert_allclose(
            mixed["class"][half], network.predict({name: fresh[name]}, {})["class"][half], atol=1e-5
        )
        np.testing.assert_allclose(mixed["class"][~half], network.predict(fresh, {})["class"][~half], atol=1e-5)


@KINDS
def test_interactions_of_modalities_need_more_than_concatenation(kind: Any) -> None:
    X, y = crossed(200)
    fresh, truth = crossed(300, seed=1)
    network = FusionNetwork(Fusion(kind=kind, width=16), Training(epochs=60, learning_rate=1e-2)).fit(X, {}, classes(y))
    if kind == "concat":
        assert right(network, fresh, truth) < 0.65
    else:
        assert right(network, fresh, truth) > 0.95


def slow_embedding(kind: str, arrays: dict[str, np.ndarray], rows: list[np.ndarray | None]) -> np.ndarray:
    """The formulas at the top of the module, for one item; None is a missing modality."""

    def get(name: str) -> np.ndarray:
        return arrays[f"network.{name}"].astype(np.float64)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        scaled = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        normed: np.ndarray = scaled * get(f"{name}.weight") + get(f"{name}.bias")
        return normed

    tokens = []
    for m, row in enumerate(rows):
        if row is None:
            tokens.append(get(f"missing.{m}"))
            continue
        centred = row - arrays[f"mean.{m}"]
        x = centred / np.linalg.norm(centred) * np.sqrt(len(centred))
        tokens.append(get(f"encoders.{m}.weight") @ x + get(f"encoders.{m}.bias"))
    if kind == "concat":
        return np.concatenate(tokens)
    if kind == "gated":
        together = np.concatenate(tokens)
        gated: np.ndarray = np.sum(
            [
                np.tanh(z) / (1 + np.exp(-(get(f"gates.{m}.weight") @ together + get(f"gates.{m}.bias"))))
                for m, z in enumerate(tokens)
            ],
            axis=0,
        )
        return gated
    if kind == "low_rank":
        factors = [get(f"factors.{m}.weight") @ z + get(f"factors.{m}.bias") for m, z in enumerate(tokens)]
        product: np.ndarray = np.prod(factors, axis=0).reshape(4, 8).sum(axis=0)
        return product
    sequence = np.stack([get("token"), *tokens])
    normed = norm(sequence, "layer.norm1")
    q, k, v = np.split(
        normed @ get("layer.self_attn.in_proj_weight").T + get("layer.self_attn.in_proj_bias"), 3, axis=1
    )
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        scores = np.exp(q[:, part] @ k[:, part].T / 2)
        heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
    attended = np.hstack(heads) @ get("layer.self_attn.out_proj.weight").T + get("layer.self_attn.out_proj.bias")
    sequence = sequence + attended
    hidden = np.maximum(norm(sequence, "layer.norm2") @ get("layer.linear1.weight").T + get("layer.linear1.bias"), 0)
    sequence = sequence + hidden @ get("layer.linear2.weight").T + get("layer.linear2.bias")
    return norm(sequence[0], "norm")


@KINDS
def test_each_kind_is_its_formula(kind: Any) -> None:
    X, y = planted(40)
    network = FusionNetwork(Fusion(kind=kind, width=8, heads=2), FAST).fit(X, {}, classes(y))
    arrays, _ = network.as_arrays()
    embedded = network.embed(X, {})
    without = network.embed({"text": X["text"]}, {})
    probabilities = network.predict(X, {})["class"]
    for i in range(5):
        slow = slow_embedding(kind, arrays, [X["image"][i], X["text"][i]])
        np.testing.assert_allclose(embedded[i], slow, atol=1e-4)
        np.testing.assert_allclose(without[i], slow_embedding(kind, arrays, [None, X["text"][i]]), atol=1e-4)
        logits = arrays["network.outputs.0.weight"] @ slow + arrays["network.outputs.0.bias"]
        np.testing.assert_allclose(probabilities[i], np.exp(logits) / np.exp(logits).sum(), atol=1e-4)


@KINDS
def test_what_is_read_from_arrays_predicts_the_same(kind: Any) -> None:
    X, y = planted(40)
    fusion = Fusion(kind=kind, width=8, auxiliary={"text": 0.5})
    targets = [*classes(y), Target("size", "number", y * 10.0), Target("tags", "labels", np.eye(3)[y] > 0)]
    network = FusionNetwork(fusion, FAST).fit(X, {}, targets)
    arrays, description = network.as_arrays()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    again = FusionNetwork.from_arrays(arrays, json.loads(json.dumps(description)))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(predicted(network, X), predicted(again, X))
    assert again.fusion == fusion
    assert again.modalities == ("image", "text")
    with pytest.raises(ChiasmError, match="a network that was read from arrays has no log"):
        _ = again.log


def test_targets_of_every_kind_share_a_trunk() -> None:
    X, y = planted(300)
    fresh, truth = planted(200, seed=1)
    targets = [
        *classes(np.where(np.arange(300) % 3 == 0, -1, y)),
        Target("tags", "labels", np.eye(3)[y] + np.eye(3)[(y + 1) % 3] > 0, known=np.arange(300) % 4 > 0),
        Target("price", "number", np.where(np.arange(300) % 5 == 0, np.nan, 1000.0 + 250.0 * y)),
    ]
    network = FusionNetwork(Fusion(width=16), Training(epochs=60, learning_rate=1e-2)).fit(X, {}, targets)
    predictions = network.predict(fresh, {})
    assert set(predictions) == {"class", "tags", "price"}
    assert (predictions["class"].argmax(axis=1) == truth).mean() > 0.9
    np.testing.assert_allclose(predictions["class"].sum(axis=1), 1)
    assert ((predictions["tags"] > 0.5) == (np.eye(3)[truth] + np.eye(3)[(truth + 1) % 3] > 0)).mean() > 0.9
    assert np.abs(predictions["price"] - 1000 - 250 * truth).mean() < 80
    assert network.embed(fresh, {}).shape == (200, 16)


def test_values_of_missing_labels_and_modalities_change_nothing() -> None:
    X, y = planted(60)
    rng = np.random.default_rng(0)
    lost = np.arange(60) % 3 == 0
    results = []
    for filler in (0.0, 7.0):
        tags = np.where(lost[:, None], filler > 0, np.eye(3)[y] > 0)
        text = np.where(lost[:, None], filler * rng.normal(size=(60, 12)), X["text"])
        network = FusionNetwork(Fusion(width=8), FAST).fit(
            {"image": X["image"], "text": text},
            {"text": ~lost},
            [Target("tags", "labels", tags, known=~lost), Target("n", "number", np.where(lost, np.nan, y))],
        )
        results.append(predicted(network, X))
    assert np.array_equal(results[0], results[1])


def test_a_source_of_weight_0_is_no_source_and_a_source_helps() -> None:
    X, y = planted(6, noise=(2.0, 2.0))
    more, labels = planted(300, seed=2, noise=(2.0, 2.0))
    fresh, truth = planted(300, seed=1, noise=(2.0, 2.0))
    source = SourceItems(more, {}, classes(labels))
    size = [Target("class", "classes", y, size=3)]
    alone = FusionNetwork(Fusion(width=8), FAST).fit(X, {}, size)
    unused = FusionNetwork(Fusion(width=8), FAST).fit(X, {}, size, source=source, alpha=0.0)
    beside = FusionNetwork(Fusion(width=8), FAST).fit(X, {}, size, source=source, alpha=0.7)
    assert np.array_equal(predicted(alone, fresh), predicted(unused, fresh))
    assert right(beside, fresh, truth) > right(alone, fresh, truth) + 0.1


def test_a_source_may_lack_modalities_and_targets() -> None:
    X, y = planted(60)
    more, labels = planted(80, seed=2)
    source = SourceItems({"text": more["text"]}, {}, classes(labels))
    targets = [*classes(y), Target("n", "number", y * 2.0)]
    network = FusionNetwork(Fusion(width=8), FAST).fit(X, {}, targets, source=source, alpha=0.5)
    assert right(network, {"text": more["text"]}, labels) > 0.85


def unequal(rows: int, seed: int) -> tuple[Vectors, np.ndarray]:
    """One modality tells the class at once, the other with some noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(6, size=rows)
    strong = centres(6, 16, 1)[y] + 0.1 * rng.normal(size=(rows, 16))
    return {"strong": strong, "weak": centres(6, 32, 2)[y] + 1.5 * rng.normal(size=(rows, 32))}, y


def test_modulation_raises_the_weak_modality() -> None:
    X, y = unequal(300, 5)
    fresh, truth = unequal(600, 6)
    weak = {}
    for strength in (0.0, 1.0):
        fusion = Fusion(kind="low_rank", width=16, modality_dropout=0, dropout=0, modulation=strength)
        network = FusionNetwork(fusion, Training(epochs=30, learning_rate=1e-2, patience=30)).fit(X, {}, classes(y))
        weak[strength] = right(network, {"weak": fresh["weak"]}, truth)
        assert right(network, fresh, truth) > 0.97
    assert weak[1.0] > weak[0.0] + 0.1


def test_an_auxiliary_head_raises_its_modality() -> None:
    X, y = unequal(300, 5)
    fresh, truth = unequal(600, 6)
    weak = {}
    for weight in (0.0, 1.0):
        fusion = Fusion(kind="low_rank", width=16, modality_dropout=0, dropout=0, auxiliary={"weak": weight})
        network = FusionNetwork(fusion, Training(epochs=30, learning_rate=1e-2, patience=30)).fit(X, {}, classes(y))
        weak[weight] = right(network, {"weak": fresh["weak"]}, truth)
        assert any("auxiliary" in name for name in network.as_arrays()[0]) == (weight > 0)
    assert weak[1.0] > weak[0.0]


def test_modulation_slows_what_is_ahead_by_the_papers_formula() -> None:
    X, y = unequal(120, 5)
    network = FusionNetwork(Fusion(width=8, modulation=0.7), FAST)
    fitted = network.fit(X, {}, classes(y))
    modulation = fitted._learner(fitted._get().means, fitted._get().heads).modulation
    inner = fitted._get().network
    assert modulation is not None
    modulation._network = inner  # type: ignore[attr-defined]
    arrays = fitted.as_arrays()[0]
    inputs, told = {}, []
    for m, name in enumerate(("strong", "weak")):
        centred = X[name] - arrays[f"mean.{m}"]
        x = centred / np.linalg.norm(centred, axis=1, keepdims=True) * np.sqrt(centred.shape[1])
        inputs[f"vector.{m}"], inputs[f"present.{m}"] = torch.tensor(x, dtype=torch.float32), torch.ones(120)
        told.append(fitted.predict({name: X[name]}, {})["class"][np.arange(120), y].mean())
    targets = {"values.class": torch.tensor(y), "known.class": torch.ones(120, dtype=torch.bool)}
    factors = modulation.factors(inputs, targets, torch.ones(120))
    assert told[0] > told[1]
    assert factors["encoders.0."] == pytest.approx(1 - np.tanh(0.7 * told[0] / told[1]), abs=1e-4)
    assert factors["encoders.1."] == 1.0


def test_modulation_noise_changes_what_is_learned() -> None:
    X, y = unequal(60, 5)
    plain, noisy = (
        predicted(FusionNetwork(Fusion(width=8, modulation=0.5, modulation_noise=n), FAST).fit(X, {}, classes(y)), X)
        for n in (False, True)
    )
    assert not np.array_equal(plain, noisy)


def test_uncertainty_follows_the_noise_of_each_target() -> None:
    X, y = planted(300, noise=(0.3, 0.3))
    rng = np.random.default_rng(0)
    targets = [Target("clear", "number", y.astype(float)), Target("noise", "number", rng.normal(size=300))]
    training = Training(epochs=80, learning_rate=2e-2, patience=80)
    network = FusionNetwork(Fusion(width=8), training).fit(X, {}, targets)
    assert network.variances["clear"] < 0.5 * network.variances["noise"]
    alone = FusionNetwork(Fusion(width=8), FAST).fit(X, {}, targets[:1])
    assert alone.variances == {"clear": 1.0}


def test_modality_dropout_never_takes_all_of_an_item() -> None:
    means = {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(2)}
    network = _Network(means, (), Fusion(modality_dropout=0.9, auxiliary=1.0, width=4, dropout=0))
    present = np.random.default_rng(0).integers(2, size=(2000, 3))
    present[:, 1] |= ~present.any(axis=1)
    inputs = {f"vector.{m}": torch.ones(2000, 2) for m in range(3)}
    inputs |= {f"present.{m}": torch.tensor(present[:, m], dtype=torch.float32) for m in range(3)}
    outputs = network.train()(inputs)
    kept = np.stack([outputs[f"present.{m}"].numpy() for m in range(3)], axis=1)
    assert (kept <= present).all()
    assert kept.any(axis=1).all()
    assert kept.sum(axis=1).mean() < 1.3
    full = network.eval()(inputs)
    assert all((full[f"present.{m}"].numpy() == present[:, m]).all() for m in range(3))


@KINDS
def test_items_may_never_have_two_modalities_together(kind: Any) -> None:
    X, y = planted(200, noise=(0.5, 0.5))
    first = np.arange(200) < 100
    network = FusionNetwork(Fusion(kind=kind, width=8), FAST).fit(X, {"image": first, "text": ~first}, classes(y))
    fresh, truth = planted(200, seed=1, noise=(0.5, 0.5))
    assert right(network, {"image": fresh["image"]}, truth) > 0.9
    assert right(network, {"text": fresh["text"]}, truth) > 0.9


def test_other_options_of_training_take_part() -> None:
    X, y = planted(90)
    y = np.where(np.arange(90) < 10, y, 0)
    fresh, truth = planted(300, seed=1)
    recall = {}
    for balance in (None, "weights", "oversample"):
        training = Training(epochs=30, learning_rate=5e-3, class_balance=balance, mixup=0.2)
        network = FusionNetwork(Fusion(width=8), training).fit(
            X, {}, classes(y), groups=np.arange(90) // 2, weights=np.ones(90)
        )
        recall[balance] = (network.predict(fresh, {})["class"].argmax(axis=1) == truth)[truth > 0].mean()
    assert recall["weights"] > recall[None]
    assert recall["oversample"] > recall[None]


def test_same_seed_same_predictions() -> None:
    X, y = planted(40)
    first, again = (predicted(FusionNetwork(Fusion(width=8), FAST).fit(X, {}, classes(y)), X) for _ in range(2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("c", "class", [0]), "the kind must be 'classes', 'labels' or 'number'; got 'class'"),
        (("c", "classes", [0.5]), r"c: values must be one whole number a row; got float64 of shape \(1,\)"),
        (("c", "classes", [0, -2]), "c: classes must be from 0 to 0, or -1 where missing; got -2 to 0"),
        (("c", "classes", [0, 5], None, 3), "c: classes must be from 0 to 2, or -1 where missing; got 0 to 5"),
        (("c", "labels", [True]), r"c: values must be a matrix of booleans; got bool of shape \(1,\)"),
        (("c", "labels", [[True]], [1]), r"c: the mask must be 1 booleans; got int64 \(1,\)"),
        (("c", "number", [np.inf]), "c: numbers must be finite, or NaN where missing"),
        (("c", "number", [1.0], [True]), "c: only 'labels' take a mask"),
        (("c", "number", [1.0], None, 3), "c: only 'classes' take a size"),
    ],
)
def test_targets_that_make_no_sense_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        Target(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sum"}, "kind must be one of concat, gated, attention, low_rank; got 'sum'"),
        ({"width": 0}, "width must be at least 1; got 0"),
        ({"kind": "attention", "width": 10}, "the width must be a multiple of the heads; got width=10, heads=4"),
        ({"modality_dropout": 1.0}, r"modality_dropout must be from 0 to below 1; got 1\.0"),
        ({"auxiliary": {"a": -1.0}}, "auxiliary and modulation must be finite and not below 0"),
        ({"modulation_noise": True}, "modulation_noise is a part of modulation"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fusion(**options)


def test_items_that_cannot_be_learned_from_are_refused() -> None:
    X, y = planted(20)
    ok = classes(y)

    def fit(vectors: Any = X, present: Any = None, targets: Any = ok, **options: Any) -> None:
        FusionNetwork(Fusion(width=4), FAST).fit(vectors, present or {}, targets, **options)

    none = np.zeros(20, dtype=bool)
    broken = {**X, "text": np.full((20, 12), np.nan)}
    for error, message, options in (
        (ChiasmError, "there are no embeddings: give them by modality", {"vectors": {}}),
        (ChiasmError, r"a row for every item, missing or not; got \{'a': 2, 'b': 3\} rows", {"vectors": {"a": np.eye(2), "b": np.eye(3)}}),
        (ChiasmError, "a: embeddings must be a matrix of floats; got int64", {"vectors": {"a": np.eye(20).astype(int)}}),
        (ChiasmError, "masks are given for audio, which have no embeddings", {"present": {"audio": none}}),
        (ChiasmError, r"text: the mask must be 20 booleans; got float64 \(20,\)", {"present": {"text": np.ones(20)}}),
        (ChiasmError, "text: 20 of 20 embeddings hold NaN or infinite values, first of item 0", {"vectors": broken}),
        (ChiasmError, r"20 items have no modality \(image, text\), first item 0", {"present": {"image": none, "text": none}}),
        (ChiasmError, "text: no item has this modality; leave it out", {"present": {"text": none}}),
        (LabelError, "there must be at least one target, each with a name of its own; got none", {"targets": []}),
        (LabelError, "each with a name of its own; got .'class', 'class'.", {"targets": [*ok, *ok]}),
        (LabelError, "class: there are 20 items but 3 values", {"targets": classes(y[:3])}),
        (LabelError, "class: all values are missing", {"targets": classes(np.full(20, -1))}),
        (LabelError, "class: all known values are of one class", {"targets": classes(np.zeros(20, dtype=int))}),
        (LabelError, "there are 20 rows but 3 groups", {"groups": [1, 2, 3]}),
        (ValueError, "weights must be 20 numbers, one an item", {"weights": np.ones(3)}),
        (ValueError, r"alpha is 0\.5, but there is no source", {"alpha": 0.5}),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            fit(**options)
    with pytest.raises(ChiasmError, match="auxiliary names modalities that the items do not have: sound"):
        FusionNetwork(Fusion(auxiliary={"sound": 1.0})).fit(X, {}, ok)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (SourceItems({"audio": np.eye(4)}, {}, []), ChiasmError, "audio: the source has this modality, the items do"),
        (SourceItems({"text": np.eye(4)}, {}, []), ChiasmError, "text: the source's embeddings have width 4, the"),
        (
            SourceItems({"text": np.ones((2, 12))}, {}, [Target("size", "number", [1.0, 2.0])]),
            LabelError,
            "size: the source has this target of kind 'number', the items do not",
        ),
        (
            SourceItems({"text": np.ones((2, 12))}, {}, classes(np.array([0, 8]))),
            LabelError,
            "class: the source has class 8, the items have 0 to 2",
        ),
        (
            SourceItems({"text": np.ones((2, 12))}, {}, classes(np.array([0]))),
            LabelError,
            "class: there are 2 source items but 1 values",
        ),
    ],
)
def test_a_source_must_fit(source: SourceItems, error: type[Exception], message: str) -> None:
    X, y = planted(30)
    with pytest.raises(error, match=message):
        FusionNetwork(Fusion(width=4), FAST).fit(X, {}, classes(y), source=source, alpha=0.5)


def test_what_cannot_be_predicted_is_refused() -> None:
    X, y = planted(20)
    with pytest.raises(ChiasmError, match="this FusionNetwork is not fitted yet"):
        FusionNetwork().predict(X, {})
    network = FusionNetwork(Fusion(width=4), FAST).fit(X, {}, classes(y))
    with pytest.raises(ChiasmError, match="text: expected embeddings of width 12, as in fit; got 3"):
        network.predict({"text": np.ones((2, 3))}, {})
    with pytest.raises(
        ChiasmError, match="no embeddings of a modality that the network was fitted on: give some of im"
    ):
        network.predict({"audio": np.ones((2, 3))}, {})
    with pytest.raises(ChiasmError, match=r"1 items have no modality that the network was fitted on \(image, text\)"):
        network.predict({"text": X["text"]}, {"text": np.arange(20) != 4})
    extra = network.predict({**X, "audio": np.ones((20, 3))}, {})
    assert np.array_equal(extra["class"], network.predict(X, {})["class"])


def test_damaged_arrays_are_refused() -> None:
    X, y = planted(20)
    arrays, description = FusionNetwork(Fusion(width=4), FAST).fit(X, {}, classes(y)).as_arrays()
    with pytest.raises(ChiasmError, match="'chiasm-fusion' of version 9; expected 'chiasm-fusion' of version 1"):
        FusionNetwork.from_arrays(arrays, {**description, "version": 9})
    for name, broken in {
        "mean.0": np.ones(3),
        "network.encoders.0.weight": np.ones((2, 2)),
        "network.missing.0": np.full(4, np.nan),
    }.items():
        with pytest.raises(ChiasmError, match="the fusion network is damaged"):
            FusionNetwork.from_arrays({**arrays, name: broken}, description)
    with pytest.raises(ChiasmError, match=r"the fusion network is damaged \(KeyError"):
        FusionNetwork.from_arrays(arrays, {k: v for k, v in description.items() if k != "heads"})
