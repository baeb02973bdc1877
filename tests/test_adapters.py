"""The adapters learn from few and from many labels, start where they should, and predict as the network they came from."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from chiasm.errors import LabelError
from chiasm.recognition import adapters
from chiasm.recognition.adapters import MLPAdapter, ResidualAdapter
from chiasm.training import Training

FAST = Training(epochs=30, fixed_epochs=15, learning_rate=1e-2, patience=10)
BOTH = pytest.mark.parametrize("adapter", [ResidualAdapter, MLPAdapter])


def planted(
    classes: int, per_class: int, dim: int, *, noise: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Normal clusters, off centre."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(classes).normal(size=(classes, dim))
    y = np.repeat(np.arange(classes), per_class)
    return centres[y] + noise * rng.normal(size=(len(y), dim)) + 0.7, y


@BOTH
def test_scikit_learns_checks_pass(adapter: Any) -> None:
    expected = {
        "check_sample_weight_equivalence_on_dense_data": (
            "rows are dealt into held-out part and batches one by one, so a row twice is not a row of weight 2"
        )
    }
    training = Training(epochs=15, fixed_epochs=15, learning_rate=2e-2)
    results = check_estimator(adapter(training=training), expected_failed_checks=expected, on_skip=None, on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert not failed
    # What is left are checks of libraries that are not there: pandas, the array API.
    others = {result["check_name"] for result in results if result["status"] not in ("passed", "xfail")}
    assert others <= {
        "check_sample_weights_pandas_series",
        "check_classifier_data_not_an_array",
        "check_array_api_input",
    }


@BOTH
@pytest.mark.parametrize("per_class", [1, 5, 30])
def test_they_learn_at_every_number_of_shots(adapter: Any, per_class: int) -> None:
    X, y = planted(4, per_class, 24)
    fresh, truth = planted(4, 50, 24, seed=1)
    fitted = adapter(training=FAST).fit(X, y)
    assert fitted.score(fresh, truth) > 0.9
    probabilities = fitted.predict_proba(fresh)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert (fitted.predict(fresh) == fitted.classes_[probabilities.argmax(axis=1)]).all()


@BOTH
def test_one_example_a_class_takes_the_stated_epochs(adapter: Any) -> None:
    X, y = planted(5, 1, 12)
    fitted = adapter(training=FAST).fit(X, y)
    assert fitted.epochs_ == 15
    assert fitted.log_.validation_losses == ()


@BOTH
def test_early_stopping_finds_the_epochs_and_all_rows_are_learned_from(adapter: Any) -> None:
    X, y = planted(3, 20, 12, noise=3.0)
    fitted = adapter(training=Training(epochs=60, learning_rate=2e-2, patience=4)).fit(X, y)
    assert fitted.epochs_ == 1 + int(np.argmin(fitted.log_.validation_losses)) < 60
    assert {"accuracy"} == set(fitted.log_.metrics[0])
    outlier = np.vstack([X, np.zeros((6, 12))]), np.append(y, [7] * 6)
    assert 7 in adapter(training=FAST).fit(*outlier).predict(np.zeros((1, 12)))


@BOTH
def test_prediction_is_that_of_the_network(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow restatement: the torch network itself, on features made by hand."""
    kept: list[Any] = []
    keep = adapter._keep

    def spy(self: Any, network: Any) -> None:
        kept.append(network)
        keep(self, network)

    monkeypatch.setattr(adapter, "_keep", spy)
    X, y = planted(4, 10, 24, noise=1.0)
    fitted = adapter(training=FAST).fit(X, y)
    centred = X - X.mean(axis=0)
    features = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    with torch.no_grad():
        slow = kept[0]({"x": torch.tensor(features, dtype=torch.float32)})["logits"].numpy()
    np.testing.assert_allclose(fitted.decision_function(X), slow, atol=1e-4)


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_residual_formula(head: Any) -> None:
    X, y = planted(3, 12, 10, noise=1.0)
    fitted = ResidualAdapter(head=head, ratio=0.3, bottleneck=5, training=FAST).fit(X, y)
    D, d = fitted.down_
    for row, logits in zip(X, fitted.decision_function(X), strict=True):
        x = (row - fitted.mean_) / np.linalg.norm(row - fitted.mean_)
        z = 0.3 * fitted.up_ @ np.maximum(D @ x + d, 0) + 0.7 * x
        np.testing.assert_allclose(logits, fitted.coef_ @ z / np.linalg.norm(z) + fitted.intercept_, atol=1e-4)
    lengths = np.linalg.norm(fitted.coef_, axis=1)
    if head == "cosine":
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-5)
        assert not fitted.intercept_.any()
    else:
        assert fitted.intercept_.any()


def untrained(**options: Any) -> ResidualAdapter:
    """So little training that the start is what predicts."""
    return ResidualAdapter(training=Training(epochs=1, fixed_epochs=1, learning_rate=1e-9), **options)


@pytest.mark.parametrize("head", ["cosine", "linear"])
def test_residual_starts_from_the_class_means(head: Any) -> None:
    X, y = planted(4, 8, 20, noise=1.0)
    centred = X - X.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    means = np.stack([unit[y == k].mean(axis=0) for k in range(4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    fitted = untrained(head=head, scale=7.0).fit(X, y)
    np.testing.assert_allclose(fitted.decision_function(X), 7 * unit @ means.T, atol=1e-3)


def test_the_start_knows_nothing_of_held_out_rows() -> None:
    """Labels are noise: means of all rows would make held-out rows look known before any training."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 200)), rng.integers(3, size=60)
    log = untrained().fit(X, y).log_
    assert log.validation_losses[0] > np.log(3) - 0.05
    assert log.train_losses[0] < 0.5


def test_anchors_lead_where_labels_mislead() -> None:
    X, y = planted(4, 2, 20)
    fresh, truth = planted(4, 40, 20, seed=1)
    centres = {k: fresh[truth == k].mean(axis=0) for k in range(4)}
    apart = {k: centre + 50 for k, centre in centres.items()}  # as texts lie apart from images
    wrong = np.roll(y, 2)
    assert untrained().fit(X, wrong).score(fresh, truth) < 0.1
    assert untrained(anchors=centres).fit(X, wrong).score(fresh, truth) > 0.9
    assert untrained(anchors=apart).fit(X, wrong).score(fresh, truth) > 0.9
    some = untrained(anchors={k: centres[k] for k in (0, 1)}).fit(X, wrong)
    assert (some.predict(fresh)[truth == 0] == 0).mean() > 0.5


@BOTH
def test_a_source_helps_and_at_alpha_0_is_not_used(adapter: Any) -> None:
    X, y = planted(6, 1, 16, noise=1.5)
    source, labels = planted(6, 50, 16, noise=1.5, seed=2)
    fresh, truth = planted(6, 60, 16, noise=1.5, seed=1)
    alone = adapter(training=FAST).fit(X, y)
    unused = adapter(training=FAST).fit(X, y, X_source=source, y_source=labels, alpha=0.0)
    beside = adapter(training=FAST).fit(X, y, X_source=source, y_source=labels, alpha=0.5)
    assert np.array_equal(alone.predict_proba(fresh), unused.predict_proba(fresh))
    assert beside.score(fresh, truth) > alone.score(fresh, truth) + 0.05


@BOTH
def test_same_seed_same_predictions_and_another_seed_others(adapter: Any) -> None:
    X, y = planted(3, 10, 12, noise=2.0)
    first, again = (adapter(training=FAST).fit(X, y).predict_proba(X) for _ in range(2))
    assert np.array_equal(first, again)
    other = adapter(training=Training(epochs=30, learning_rate=1e-2, seed=5)).fit(X, y).predict_proba(X)
    assert not np.array_equal(first, other)


@BOTH
def test_groups_are_not_divided(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from chiasm import training

    held: list[Any] = []
    original = training.held_out_rows

    def spy(*arguments: Any, **options: Any) -> Any:
        held.append(original(*arguments, **options))
        return held[-1]

    monkeypatch.setattr(training, "held_out_rows", spy)
    X, y = planted(3, 20, 12)
    groups = np.arange(60) // 4
    adapter(training=FAST).fit(X, y, groups=groups)
    assert held[0].any()
    assert all(len(set(held[0][groups == g])) == 1 for g in range(15))


@BOTH
def test_weights_and_text_labels(adapter: Any) -> None:
    X, y = planted(3, 12, 12)
    names = np.array(["cat", "dog", "eel"])[y]
    wrong = np.where(np.arange(36) % 12 < 6, "eel", names)
    weight = np.where(wrong == names, 1.0, 0.0)
    fitted = adapter(training=FAST).fit(X, wrong, sample_weight=weight)
    assert fitted.classes_.tolist() == ["cat", "dog", "eel"]
    assert fitted.score(X, names) > 0.95
    assert adapter(training=FAST).fit(X, wrong).score(X, names) < fitted.score(X, names)


def test_mlp_learns_what_a_linear_one_cannot() -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(2, size=(400, 2))
    X = 2.0 * corner + 0.2 * rng.normal(size=(400, 2))
    y = corner[:, 0] ^ corner[:, 1]
    training = Training(epochs=60, learning_rate=2e-2)
    assert MLPAdapter(hidden=(16,), training=training).fit(X, y).score(X, y) > 0.95
    assert MLPAdapter(hidden=(16, 8), dropout=0.0, training=training).fit(X, y).score(X, y) > 0.95
    linear = MLPAdapter(hidden=(), training=training).fit(X, y)
    assert linear.score(X, y) < 0.8
    assert len(linear.layers_) == 1


def test_label_smoothing_keeps_probabilities_from_the_ends() -> None:
    X, y = planted(3, 20, 12, noise=0.1)
    sure, smooth = (
        MLPAdapter(label_smoothing=share, training=FAST).fit(X, y).predict_proba(X).max(axis=1).mean()
        for share in (0.0, 0.2)
    )
    assert sure > 0.97
    assert 0.8 < smooth < 0.92


@BOTH
def test_a_fitted_model_is_arrays_and_predicts_without_torch(adapter: Any) -> None:
    X, y = planted(3, 6, 8)
    fitted = adapter(training=FAST).fit(X, y)
    arrays = {name: value for name, value in vars(fitted).items() if name.endswith("_")}
    for name, value in arrays.items():
        leaves = [leaf for part in value for leaf in part] if name == "layers_" else value
        leaves = list(leaves) if isinstance(leaves, tuple | list) else [leaves]
        assert name in ("log_", "epochs_", "n_features_in_") or all(isinstance(leaf, np.ndarray) for leaf in leaves)
    bare = clone(adapter())
    for name, value in arrays.items():
        if name != "log_":
            setattr(bare, name, value)
    assert np.array_equal(bare.predict_proba(X), fitted.predict_proba(X))
    probe = f"import sys; from {adapters.__name__} import {adapter.__name__}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)


@BOTH
def test_what_on_epoch_raises_ends_the_fit(adapter: Any) -> None:
    seen: list[int] = []

    def prune(epoch: int, loss: float) -> None:
        seen.append(epoch)
        if epoch == 2:
            raise InterruptedError("pruned")

    with pytest.raises(InterruptedError, match="pruned"):
        adapter(training=FAST).fit(*planted(3, 10, 8), on_epoch=prune)
    assert seen == [0, 1, 2]


@BOTH
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"] * 6, r"y holds 1 class only \(a, 6 rows\): at least 2 classes are needed"),
        (["a", "b", None, "a", None, "b"], "2 of 6 labels are missing .*first at row 2"),
        (np.array([0, 1, 0.25, 1, 0, 1]), r"Unknown label type: continuous numbers such as 0\.25"),
    ],
)
def test_labels_that_cannot_be_learned_from_are_refused(adapter: Any, labels: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        adapter().fit(np.eye(6), labels)


@BOTH
def test_rows_that_are_not_numbers_and_models_that_are_not_fitted(adapter: Any) -> None:
    X, y = planted(2, 5, 4)
    broken = X.copy()
    broken[3, 1] = broken[7, 0] = np.nan
    with pytest.raises(ValueError, match="2 of 10 rows of X hold NaN or infinite values, first row 3"):
        adapter(training=FAST).fit(broken, y)
    with pytest.raises(NotFittedError):
        adapter().predict(X)
    with pytest.raises(LabelError, match="there are 10 rows but 3 groups"):
        adapter().fit(X, y, groups=[1, 2, 3])


@BOTH
def test_a_source_must_fit(adapter: Any) -> None:
    X, y = planted(2, 5, 4)
    with pytest.raises(ValueError, match="a source needs both X_source and y_source"):
        adapter().fit(X, y, X_source=X, alpha=0.5)
    with pytest.raises(ValueError, match="X_source has 3 columns, X has 4: use the same encoder for both"):
        adapter().fit(X, y, X_source=X[:, :3], y_source=y, alpha=0.5)
    with pytest.raises(LabelError, match=r"source labels \[2, 3\] are not among the 2 classes of y"):
        adapter().fit(X, y, X_source=X, y_source=y + 2, alpha=0.5)
    with pytest.raises(LabelError, match="there are 10 source rows but 4 source labels"):
        adapter().fit(X, y, X_source=X, y_source=y[:4], alpha=0.5)
    with pytest.raises(ValueError, match=r"alpha is 0\.5, but there is no source"):
        adapter().fit(X, y, alpha=0.5)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (ResidualAdapter(head="round"), "head must be 'cosine' or 'linear'; got 'round'"),
        (ResidualAdapter(ratio=2.0), "ratio is the share of the adapted embedding, from 0 to 1"),
        (ResidualAdapter(bottleneck=0), "bottleneck must be at least 1 and scale above 0; got 0"),
        (ResidualAdapter(anchors={0: np.ones(3)}), r"the anchor of 0 must be 4 finite numbers.* got float64 \(3,\)"),
        (MLPAdapter(hidden=(8, 0)), r"hidden layers must have at least 1 unit each; got \(8, 0\)"),
        (MLPAdapter(dropout=1.0), r"dropout must be from 0 to below 1; got 1\.0"),
        (MLPAdapter(label_smoothing=-0.1), "label_smoothing must be from 0 to below 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(adapter: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter.fit(*planted(2, 5, 4))
