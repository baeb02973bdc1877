"""Adapters: small networks on frozen embeddings that learn labels, as scikit-learn classifiers.

This module knows two networks, how they start and how they predict. How they are trained is
`chiasm.training`. What they learn is plain arrays and prediction is numpy, so that a saved model predicts where
torch is not installed or not worth its start; torch is loaded by `fit` only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Shaped
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from chiasm.errors import LabelError
from chiasm.recognition.linear import row_weights
from chiasm.splits import Labels, group_codes, label_codes, refuse_continuous, refuse_one_class
from chiasm.vectors import Unchecked, check_matrix, softmax, unit_rows

if TYPE_CHECKING:
    from torch import Tensor, nn

    from chiasm.training import Loss, Rows, Tensors, Training, TrainingLog

Layer: TypeAlias = tuple[Float32[np.ndarray, "outputs inputs"], Float32[np.ndarray, " outputs"]]
"""Weights and bias of one linear layer."""


class _Adapter(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn is untyped
    """What both adapters share: checks, training with early stopping, and prediction from logits.

    Embeddings are centred by the mean of the training rows and scaled to unit length, as `Recognizer` does.
    """

    training: Training | Unchecked | None
    classes_: Shaped[np.ndarray, " classes"]
    mean_: Float64[np.ndarray, " dim"]
    log_: TrainingLog
    epochs_: int
    n_features_in_: int

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None = None,
        groups: Labels | None = None,
        X_source: Float[np.ndarray, "more dim"] | Unchecked | None = None,
        y_source: Labels | None = None,
        alpha: float = 0.0,
        on_epoch: Callable[[int, float], None] | None = None,
    ) -> Any:
        """Find the number of epochs on a held-out part, then learn from all rows for that number.

        Where too little can be held out (see `chiasm.training.held_out_rows`), training takes
        `training.fixed_epochs`.

        Args:
            X: embeddings, one a row.
            y: one label a row.
            sample_weight: weight of each row in the loss; rows of weight 0 are left out.
            groups: rows of one group are never on both sides of the held-out part.
            X_source: embeddings of another domain, of the same encoder.
            y_source: their labels, all among those of `y`.
            alpha: the loss is alpha * that of the source + (1 - alpha) * that of `X`. At 0 the source is not used.
            on_epoch: called with the number of each epoch and its held-out loss; what it raises ends the training.

        Raises:
            LabelError: labels are missing or continuous, of one class only, or the source has others.
            ValueError: X holds NaN or infinite values, or the arguments do not fit together.
            MissingExtraError: `training.log_dir` is given and TensorBoard is not installed.
        """
        from chiasm.training import Rows, Training, fit_and_refit, held_out_rows

        if np.asarray(y).ndim == 1:
            label_codes(y)  # refuses missing labels with their number, before scikit-learn words it without
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
        check_matrix(X)
        weight = row_weights(sample_weight, len(X))
        used = np.flatnonzero(weight)
        self.classes_, codes = label_codes(np.asarray(y)[used])
        refuse_one_class(self.classes_, len(used))
        refuse_continuous(self.classes_)
        group = None
        if groups is not None:
            group = np.unique(group_codes(groups, len(X))[used], return_inverse=True)[1]
        training = Training() if self.training is None else self.training
        self.mean_ = X[used].mean(axis=0, dtype=np.float64)
        features = self._features(X[used])
        source = None
        if X_source is not None or y_source is not None:
            source_features, source_codes = self._source(X_source, y_source)
            source = Rows({"x": source_features}, {"y": source_codes}, codes=source_codes)
        self._check_options()
        network, self.log_ = fit_and_refit(
            self._learner,
            Rows({"x": features}, {"y": codes}, weight[used], codes),
            held_out=held_out_rows(codes, training=training, groups=group),
            training=training,
            source=source,
            alpha=alpha,
            metrics=_accuracy,
            on_epoch=on_epoch,
        )
        self.epochs_ = self.log_.best_epoch
        self._keep(network)
        return self

    def decision_function(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows ..."]:
        """Logits, shape (rows, classes); for two classes that of the second over the first, shape (rows,).

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        logits = self._checked_logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows classes"]:
        """Class probabilities, in the order of `classes_`.

        Raises:
            ValueError: as `decision_function`.
        """
        return softmax(self._checked_logits(X))

    def predict(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Shaped[np.ndarray, " rows"]:
        """The most probable class of each row.

        Raises:
            ValueError: as `decision_function`.
        """
        best = self._checked_logits(X).argmax(axis=1)
        labels: Shaped[np.ndarray, " rows"] = self.classes_[best]
        return labels

    @abstractmethod
    def _check_options(self) -> None:
        """Refuse options that make no sense."""

    @abstractmethod
    def _learner(self, rows: Rows) -> tuple[nn.Module, Loss]:
        """The network that has not learned yet, from the rows that it will."""

    @abstractmethod
    def _keep(self, network: nn.Module) -> None:
        """Take what was learned out of the network, as arrays."""

    @abstractmethod
    def _logits(self, features: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows classes"]:
        """What the network gives in evaluation mode, by numpy."""

    def _checked_logits(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float32[np.ndarray, "rows classes"]:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32], ensure_all_finite=False)
        check_matrix(X)
        return self._logits(self._features(X))

    def _features(self, X: Float[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
        features: Float32[np.ndarray, "rows dim"] = unit_rows(X - self.mean_.astype(X.dtype)).astype(np.float32)
        return features

    def _source(
        self, X_source: Float[np.ndarray, "more dim"] | Unchecked | None, y_source: Labels | None
    ) -> tuple[Float32[np.ndarray, "more dim"], Int[np.ndarray, " more"]]:
        if X_source is None or y_source is None:
            raise ValueError("a source needs both X_source and y_source; one of them is missing")
        X_source = check_array(X_source, dtype=[np.float64, np.float32], ensure_all_finite=False, input_name="X_source")
        check_matrix(X_source, "X_source")
        if X_source.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X_source has {X_source.shape[1]} columns, X has {self.n_features_in_}: use the same encoder for both"
            )
        values, codes = label_codes(y_source, what="source labels")
        if len(codes) != len(X_source):
            raise LabelError(f"there are {len(X_source)} source rows but {len(codes)} source labels: give one a row")
        number = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in values.tolist() if label not in number]
        if unknown:
            raise LabelError(
                f"source labels {unknown[:5]} are not among the {len(number)} classes of y: leave their rows out, or "
                "give them names of these classes"
            )
        return self._features(X_source), np.array([number[label] for label in values.tolist()])[codes]


class ResidualAdapter(_Adapter):
    """CLIP-Adapter: a bottleneck mixed with its input, then a head that starts from one vector a class.

    With x the centred embedding on unit length, `z = ratio * U relu(D x + d) + (1 - ratio) * x` and logits
    `scale * cos(z, w_c)` for the cosine head, or `w_c . z / |z| + b_c` for the linear one (Gao et al. 2021,
    arXiv:2110.04544, equations 3 to 5; there a second relu follows U, which centred embeddings, having both signs, do
    not suit). U starts at 0 and w_c at the anchors, so that training starts from the nearest anchor and few labels
    move it little.

    Args:
        anchors: the first vector of each class by label, such as the embedding of its name; a class without one starts
            from the mean of its rows. Where every class has one they are centred by their own mean, since embeddings
            of texts and of images lie apart in many joint spaces; otherwise by that of the rows.
        bottleneck: width of the hidden layer.
        ratio: share of the adapted embedding, from 0 to 1; 0 leaves the head alone to learn.
        head: `"cosine"` or `"linear"`.
        scale: what cosines are multiplied by at the start; learned.
        training: options; by default `Training()`. Where nothing can be held out, `training.fixed_epochs` are taken.

    Attributes:
        classes_: the classes, sorted.
        mean_: mean of the training rows.
        down_: weights (bottleneck, dim) and bias of D.
        up_: U, shape (dim, bottleneck).
        coef_: shape (classes, dim): what z on unit length is multiplied by. The cosine head's scale is in it.
        intercept_: shape (classes,); 0 for the cosine head.
        epochs_: how many the network was trained for.
        log_: of the training that chose this number.
        n_features_in_: columns of X.
    """

    down_: Layer
    up_: Float32[np.ndarray, "dim bottleneck"]
    coef_: Float32[np.ndarray, "classes dim"]
    intercept_: Float32[np.ndarray, " classes"]

    def __init__(
        self,
        *,
        anchors: Mapping[Any, Float[np.ndarray, " dim"]] | Unchecked | None = None,
        bottleneck: int | Unchecked = 64,
        ratio: float | Unchecked = 0.2,
        head: Literal["cosine", "linear"] | Unchecked = "cosine",
        scale: float | Unchecked = 10.0,
        training: Training | Unchecked | None = None,
    ) -> None:
        self.anchors = anchors
        self.bottleneck = bottleneck
        self.ratio = ratio
        self.head = head
        self.scale = scale
        self.training = training

    def _check_options(self) -> None:
        if self.head not in ("cosine", "linear"):
            raise ValueError(f"head must be 'cosine' or 'linear'; got {self.head!r}")
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio is the share of the adapted embedding, from 0 to 1; got {self.ratio!r}")
        if self.bottleneck < 1 or not self.scale > 0:
            raise ValueError(
                f"bottleneck must be at least 1 and scale above 0; got {self.bottleneck!r} and {self.scale!r}"
            )
        for label, row in self._anchors().items():
            if row.shape != (self.n_features_in_,) or row.dtype.kind not in "fiu" or not np.isfinite(row).all():
                raise ValueError(
                    f"the anchor of {label!r} must be {self.n_features_in_} finite numbers, as wide as X; got "
                    f"{row.dtype} {row.shape}"
                )

    def _learner(self, rows: Rows) -> tuple[nn.Module, Loss]:
        assert rows.weights is not None
        start = self._start(rows.inputs["x"], rows.targets["y"], rows.weights)
        return (_residual_network(start, self.bottleneck, self.ratio, self.head, self.scale), _cross_entropy())

    def _anchors(self) -> dict[Any, Shaped[np.ndarray, " _"]]:
        return {} if self.anchors is None else {label: np.asarray(row) for label, row in self.anchors.items()}

    def _start(
        self,
        features: Float32[np.ndarray, "rows dim"],
        codes: Int[np.ndarray, " rows"],
        weight: Float64[np.ndarray, " rows"],
    ) -> Float32[np.ndarray, "classes dim"]:
        """The first vector of each class, on unit length: its anchor, or else the mean of its rows."""
        sums = np.zeros((len(self.classes_), features.shape[1]))
        np.add.at(sums, codes, features * weight[:, None])
        given, labels = self._anchors(), self.classes_.tolist()
        known = [i for i, label in enumerate(labels) if label in given]
        if known:
            anchors = np.stack([given[labels[i]] for i in known]).astype(np.float64)
            sums[known] = anchors - (anchors.mean(axis=0) if len(known) == len(labels) else self.mean_)
        start: Float32[np.ndarray, "classes dim"] = unit_rows(sums).astype(np.float32)
        return start

    def _keep(self, network: nn.Module) -> None:
        arrays = _arrays(network)
        self.down_ = arrays["down.weight"], arrays["down.bias"]
        self.up_ = arrays["up.weight"]
        if self.head == "cosine":
            self.coef_ = np.exp(arrays["log_scale"]) * unit_rows(arrays["head"])
            self.intercept_ = np.zeros(len(self.classes_), dtype=np.float32)
        else:
            self.coef_, self.intercept_ = arrays["head"], arrays["intercept"]

    def _logits(self, features: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows classes"]:
        weights, bias = self.down_
        adapted = np.maximum(features @ weights.T + bias, 0) @ self.up_.T
        mixed = unit_rows(np.float32(self.ratio) * adapted + np.float32(1 - self.ratio) * features)
        logits: Float32[np.ndarray, "rows classes"] = mixed @ self.coef_.T + self.intercept_
        return logits


class MLPAdapter(_Adapter):
    """A multilayer perceptron on centred embeddings of the same length.

    Hidden layers are linear, relu and dropout (Srivastava et al. 2014). Rows are scaled to the length sqrt(dim), so that
    the usual first weights suit them whatever the width. The L2 and L1 penalties, early stopping, schedule, mixup and the
    balance of classes are options of `training`.

    Args:
        hidden: widths of the hidden layers; none make a linear classifier.
        dropout: share of hidden units that are set to 0 while learning.
        training: options; by default `Training()`. Where nothing can be held out, `training.fixed_epochs` are taken.

    Attributes:
        classes_: the classes, sorted.
        mean_: mean of the training rows.
        layers_: weights (outputs, inputs) and bias of each linear layer.
        epochs_: how many the network was trained for.
        log_: of the training that chose this number.
        n_features_in_: columns of X.
    """

    layers_: list[Layer]

    def __init__(
        self,
        *,
        hidden: tuple[int, ...] | Unchecked = (128,),
        dropout: float | Unchecked = 0.3,
        training: Training | Unchecked | None = None,
    ) -> None:
        self.hidden = hidden
        self.dropout = dropout
        self.training = training

    def _check_options(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"hidden layers must have at least 1 unit each; got {self.hidden!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1; got {self.dropout!r}")

    def _learner(self, rows: Rows) -> tuple[nn.Module, Loss]:  # noqa: ARG002  its start is random
        return (
            _perceptron((self.n_features_in_, *self.hidden, len(self.classes_)), self.dropout),
            _cross_entropy(),
        )

    def _keep(self, network: nn.Module) -> None:
        arrays = list(_arrays(network).values())
        self.layers_ = list(zip(arrays[::2], arrays[1::2], strict=True))
        # The length of the rows goes into the first weights, so that prediction takes rows on unit length.
        weights, bias = self.layers_[0]
        self.layers_[0] = weights * np.float32(np.sqrt(self.n_features_in_)), bias

    def _logits(self, features: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows classes"]:
        values = features
        for i, (weights, bias) in enumerate(self.layers_):
            values = (values if i == 0 else np.maximum(values, 0)) @ weights.T + bias
        return values


def _residual_network(
    start: Float32[np.ndarray, "classes dim"], bottleneck: int, ratio: float, head: str, scale: float
) -> nn.Module:
    """The network of `ResidualAdapter`; a class within a function, since torch is loaded by `fit` only."""
    import torch
    from torch import nn
    from torch.nn.functional import normalize, relu

    dim = start.shape[1]

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Linear(dim, bottleneck)
            self.up = nn.Linear(bottleneck, dim, bias=False)
            nn.init.zeros_(self.up.weight)
            self.head = nn.Parameter(torch.from_numpy(start if head == "cosine" else scale * start).clone())
            if head == "cosine":
                self.log_scale = nn.Parameter(torch.tensor(float(np.log(scale))))
            else:
                self.intercept = nn.Parameter(torch.zeros(len(start)))

        def forward(self, inputs: Tensors) -> dict[str, Tensor]:
            x = inputs["x"]
            mixed = normalize(ratio * self.up(relu(self.down(x))) + (1 - ratio) * x)
            if head == "cosine":
                return {"logits": self.log_scale.exp() * mixed @ normalize(self.head).T}
            return {"logits": mixed @ self.head.T + self.intercept}

    return Residual()


def _perceptron(widths: tuple[int, ...], dropout: float) -> nn.Module:
    """The network of `MLPAdapter`; a class within a function, since torch is loaded by `fit` only."""
    from torch import nn

    class Perceptron(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
            for inputs, outputs in pairwise(widths[1:]):
                layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(inputs, outputs)]
            self.layers = nn.Sequential(*layers)

        def forward(self, inputs: Tensors) -> dict[str, Tensor]:
            return {"logits": self.layers(inputs["x"] * widths[0] ** 0.5)}

    return Perceptron()


def _cross_entropy() -> Callable[[Tensors, Tensors, Tensor], Tensor]:
    from chiasm.training import class_losses, weighted_mean

    def loss(outputs: Tensors, targets: Tensors, weights: Tensor) -> Tensor:
        return weighted_mean(class_losses(outputs["logits"], targets["y"]), weights)

    return loss


def _accuracy(outputs: Tensors, targets: Tensors) -> dict[str, float]:
    return {"accuracy": float((outputs["logits"].argmax(dim=1) == targets["y"]).double().mean())}


def _arrays(network: nn.Module) -> dict[str, Float32[np.ndarray, "..."]]:
    return {name: tensor.detach().numpy().copy() for name, tensor in network.state_dict().items()}
