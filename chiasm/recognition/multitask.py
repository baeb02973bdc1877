"""Several columns at once: one shared network, or one linear predictor a column, whichever does better on held-out items.

This module knows how to compare the two and to keep, for every column, the better one. The network is
`chiasm.recognition.fusion.FusionNetwork` with a target a column (uncertainty weighting, missing values allowed); the linear
ones are `chiasm.recognition.recognizer` for classes and `chiasm.recognition.predictor` for labels and numbers. What a
column of raw values asks for is left to `chiasm.recognition.tasks`. torch is loaded where a network is fitted or used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import Calibration, ConformalScores, fit_calibration
from chiasm.recognition.ladder import paired
from chiasm.recognition.linear_heads import VERSION, floats, known_modalities
from chiasm.recognition.modalities import Arrays, Features, ModalityArrays, as_arrays, refuse_empty_items
from chiasm.recognition.predictor import (
    LabelsPredictor,
    NumberPredictor,
    choose_thresholds,
    labels_score,
    number_score,
)
from chiasm.recognition.recognizer import KINDS, Recognizer, describe, restore
from chiasm.recognition.storage import Tensors, read_model, write_model
from chiasm.recognition.tasks import Targets, TaskName
from chiasm.splits import Labels, deal, group_codes
from chiasm.vectors import Unchecked

if TYPE_CHECKING:
    from chiasm.training import Training

FORMAT = "chiasm-multi-task-predictor"

Trunk: TypeAlias = Literal["auto", "always", "never"]
Alone: TypeAlias = Recognizer | NumberPredictor | LabelsPredictor

_FEWEST_HELD_OUT = 20  # to calibrate on
_METRICS: dict[TaskName, str] = {"classes": "f1_macro", "labels": "f1_macro", "number": "r2"}


@dataclass(frozen=True)
class ColumnReport:
    """How one column was predicted alone and together, on the same held-out training items."""

    column: str
    task: TaskName
    metric: str
    """What `alone` and `together` are: `f1_macro`, or `r2` for a number."""
    alone: float | None
    """Of a linear predictor of this column; None where nothing could be held out."""
    together: float | None
    """Of the shared network; None where it was not fitted."""
    gain: float | None
    """By how much the network's loss is lower: Brier score, or squared error in variances of the column."""
    standard_error: float | None
    """Of the gain."""
    taken: Literal["alone", "together"]
    why: str


@dataclass(frozen=True)
class MultiTaskDetails:
    """What was compared and chosen, for reports."""

    columns: tuple[ColumnReport, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class ColumnPrediction:
    """What is said of one column of some items.

    Attributes:
        task: what the column is.
        values: the class of each item, booleans by label, or numbers.
        probabilities: of each class or label, in the order of the column's names; None of a number.
        lower: end of the interval that holds a number as often as asked; None of classes and labels.
        upper: the other end.
    """

    task: TaskName
    values: Shaped[np.ndarray, "items ..."]
    probabilities: Float64[np.ndarray, "items names"] | None = None
    lower: Float64[np.ndarray, " items"] | None = None
    upper: Float64[np.ndarray, " items"] | None = None


@dataclass(frozen=True, eq=False)
class _Column:
    """All that predicting a column needs; without a predictor of its own it is the network's."""

    column: str
    task: TaskName
    names: Shaped[np.ndarray, " names"]
    alone: Alone | None
    calibration: Calibration | None = None
    thresholds: Float64[np.ndarray, " labels"] | None = None
    residuals: ConformalScores | None = None


@dataclass(frozen=True, eq=False)
class _Fitted:
    features: Features
    columns: tuple[_Column, ...]
    network: tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]] | None
    details: MultiTaskDetails


class MultiTaskPredictor:
    """Predict several columns of an item from the embeddings of whatever modalities it has.

    On the same held-out items, every column is predicted by a linear predictor that knows this column alone and by one
    network that learns all of them together. The network is taken for a column only if its loss there is lower by more
    than one standard error of the paired difference. If it is taken for none, it is not kept, and predicting needs numpy
    alone. One column is not compared: there is nothing to share.

    Args:
        trunk: `"auto"` as above; `"always"` or `"never"` to say it.
        folds: of the comparison.
        network: arguments of `chiasm.recognition.fusion.Fusion`.
        training: of the network; its seed is `random_state`. It is not saved.
        random_state: seed of folds and networks.

    Attributes:
        details_: what each column scored alone and together.
    """

    fitted_: _Fitted

    def __init__(
        self,
        *,
        trunk: Trunk = "auto",
        folds: int = 3,
        network: Mapping[str, Any] | None = None,
        training: Training | None = None,
        random_state: int = 0,
    ) -> None:
        self.trunk = trunk
        self.folds = folds
        self.network = network
        self.training = training
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  scikit-learn's signature
        """The arguments of the constructor by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> MultiTaskPredictor:
        """Set arguments of the constructor by name.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"MultiTaskPredictor has no parameter {name!r}; it has {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    @property
    def details_(self) -> MultiTaskDetails:
        """What each column scored alone and together on held-out items of the training set."""
        return self._get().details

    @property
    def columns_(self) -> dict[str, TaskName]:
        """The columns and what they are."""
        return {column.column: column.task for column in self._get().columns}

    @property
    def names_(self) -> dict[str, Shaped[np.ndarray, " names"]]:
        """The classes or labels of each column; none of a number."""
        return {column.column: column.names for column in self._get().columns}

    def fit(self, X: Arrays, y: Sequence[Targets] | Unchecked, groups: Labels | None = None) -> MultiTaskPredictor:
        """Learn from items, each with at least one modality and any of the columns.

        Args:
            X: their embeddings.
            y: the columns, see `chiasm.recognition.tasks.parse_targets`. Items may lack any of them.
            groups: items of one group are never on both sides of a fold.

        Raises:
            LabelError: there are no columns, two have one name, or one has not one value an item or nothing to learn;
                or items without any modality.
            ChiasmError: the embeddings are not usable, or `trunk` or `folds` are out of their range.
        """
        if self.trunk not in get_args(Trunk):
            raise ChiasmError(f"trunk must be one of {', '.join(get_args(Trunk))}; got {self.trunk!r}")
        if self.folds < 2:
            raise ChiasmError(f"at least 2 folds are needed; got {self.folds}")
        arrays = as_arrays(X)
        columns = _checked(y, len(arrays))
        refuse_empty_items(arrays, arrays.modalities)
        group = None if groups is None else group_codes(groups, len(arrays))
        features = Features.of(arrays)
        alone = [self._alone(arrays, column, group, np.arange(len(arrays))) for column in columns]
        with_network = self.trunk == "always" or (self.trunk == "auto" and len(columns) > 1)
        fold_of = self._fold_of(columns, group, len(arrays))
        outputs = [_Outputs.empty(column) for column in columns]
        for number in range(int(fold_of.max(initial=-1)) + 1):
            self._hold_out(arrays, columns, group, fold_of, number, outputs, with_network=with_network)
        reports, kept = [], []
        for column, linear, out in zip(columns, alone, outputs, strict=True):
            report = self._report(column, out, fold_of, with_network=with_network)
            reports.append(report)
            if report.taken == "alone":
                kept.append(_Column(column.column, column.task, column.names, linear))
            else:
                kept.append(_together(column, out.together, group, self.random_state))
        network = None
        if any(column.alone is None for column in kept):
            network = self._network(arrays, features, columns, group, np.arange(len(arrays))).as_arrays()
        self.fitted_ = _Fitted(features, tuple(kept), network, MultiTaskDetails(tuple(reports)))
        return self

    def predict(self, X: Arrays, *, level: float = 0.9) -> dict[str, ColumnPrediction]:
        """What is said of each column.

        Args:
            X: embeddings.
            level: how often the interval of a number is to hold it.

        Raises:
            LabelError: items have none of the modalities that a column was fitted on; says which column.
            ChiasmError: embeddings are of another width than in `fit`, or not usable; or a level that is not between 0
                and 1.
        """
        fitted = self._get()
        if not 0 < level < 1:
            raise ChiasmError(f"the level must be between 0 and 1, such as 0.9; got {level}")
        arrays = known_modalities(as_arrays(X), fitted.features)[0]
        together: dict[str, Float[np.ndarray, "items ..."]] = {}
        if fitted.network is not None:
            from chiasm.recognition.fusion import FusionNetwork

            network = FusionNetwork.from_arrays(*fitted.network)
            together = network.predict(*_inputs(arrays, fitted.features, np.arange(len(arrays))))
        predictions = {}
        for column in fitted.columns:
            if column.alone is None:
                predictions[column.column] = _from_network(column, together[column.column], level)
                continue
            try:
                said = _from_linear(column.task, column.alone, arrays, level)
            except LabelError as error:
                raise LabelError(f"column {column.column!r}: {error}") from error
            if isinstance(column.alone, Recognizer) and said.probabilities is not None:
                # A class of the column that no training item was of is never predicted.
                every = np.zeros((len(arrays), len(column.names)))
                every[:, np.searchsorted(column.names, column.alone.classes_)] = said.probabilities
                said = replace(said, probabilities=every)
            predictions[column.column] = said
        return predictions

    def save(self, folder: str | Path) -> None:
        """Write the predictor as a folder of JSON and safetensors, whole or not at all.

        A model that was saved there before is replaced.

        Raises:
            ChiasmError: the folder exists and is something else.
        """
        fitted = self._get()
        tensors: Tensors = {}
        described = []
        for number, column in enumerate(fitted.columns):
            entry: dict[str, Any] = {
                "column": column.column,
                "task": column.task,
                "names": {"kind": KINDS[column.names.dtype.kind], "values": column.names.tolist()},
                "alone": None,
                "calibration": None,
                "residuals": None,
            }
            if column.alone is not None:
                model = column.alone
                entry["alone"], arrays = describe(model) if isinstance(model, Recognizer) else model.described()
                tensors |= {f"column.{number}.{name}": array for name, array in arrays.items()}
            if column.calibration is not None:
                entry["calibration"] = column.calibration.as_fields()
            if column.thresholds is not None:
                tensors[f"thresholds.{number}"] = column.thresholds
            if column.residuals is not None:
                entry["residuals"] = column.residuals.count
                tensors[f"residuals.{number}"] = column.residuals.kept
            described.append(entry)
        features = fitted.features
        for kind, means in (("own", features.own), ("shared", features.shared)):
            tensors |= {f"mean.{kind}.{name}": mean for name, mean in means.items()}
        network = None
        if fitted.network is not None:
            tensors |= {f"network.{name}": array for name, array in fitted.network[0].items()}
            network = fitted.network[1]
        parameters = {name: value for name, value in self.get_params().items() if name != "training"}
        parameters["network"] = dict(self.network) if self.network else None
        description = {
            "format": FORMAT,
            "version": VERSION,
            "parameters": parameters,
            "own": {name: len(mean) for name, mean in features.own.items()},
            "shared": {name: len(mean) for name, mean in features.shared.items()},
            "columns": described,
            "network": network,
            "details": fitted.details.as_dict(),
        }
        write_model(Path(folder), description, {name: np.ascontiguousarray(value) for name, value in tensors.items()})

    @classmethod
    def load(cls, folder: str | Path) -> MultiTaskPredictor:
        """Read a predictor that `save` wrote. Runs no code from the folder. Its `training` is the default.

        Raises:
            ChiasmError: there is none, it is of another kind or version, or it is damaged.
        """
        return read_model(Path(folder), FORMAT, VERSION, _restored_model)

    # ------------------------------------------------------------------------------------------------------- fitting

    def _get(self) -> _Fitted:
        if not hasattr(self, "fitted_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this MultiTaskPredictor is not fitted yet: call fit, or load a saved one")
        return self.fitted_

    def _fold_of(
        self, columns: Sequence[Targets], group: Int[np.ndarray, " items"] | None, items: int
    ) -> Int[np.ndarray, " items"]:
        """Folds that each have their share of the classes of the first column of classes."""
        number = items if group is None else len(np.unique(group))
        if number < 2:
            return np.full(items, -1)
        classes = next((column.values + 1 for column in columns if column.task == "classes"), np.zeros(items, np.int64))
        return deal(
            np.unique(classes, return_inverse=True)[1], min(self.folds, number), seed=self.random_state, groups=group
        )

    def _alone(
        self,
        arrays: ModalityArrays,
        column: Targets,
        group: Int[np.ndarray, " items"] | None,
        rows: Int[np.ndarray, " rows"],
    ) -> Alone:
        """The linear predictor of one column, from some items."""
        rows = rows[column.known[rows]]
        given, own, y = arrays.take(rows), None if group is None else group[rows], column.take(rows).y
        try:
            if column.task == "number":
                return NumberPredictor().fit(given, y, own)
            if column.task == "labels":
                predictor = LabelsPredictor(random_state=self.random_state)
                return predictor.fit(given, y, own, labels=column.names.tolist())
            return Recognizer(adapter="linear", unknown=None, random_state=self.random_state).fit(given, y, own)
        except LabelError as error:
            raise LabelError(f"column {column.column!r}: {error}") from error

    def _network(
        self,
        arrays: ModalityArrays,
        features: Features,
        columns: Sequence[Targets],
        group: Int[np.ndarray, " items"] | None,
        rows: Int[np.ndarray, " rows"],
    ) -> Any:
        """A network of all columns, from some items."""
        from chiasm.recognition.fusion import Fusion, FusionNetwork, Target
        from chiasm.training import Training

        targets = []
        for column in columns:
            values = column.values[rows]
            if column.task == "classes":
                targets.append(Target(column.column, "classes", values, size=len(column.names)))
            elif column.task == "labels":
                targets.append(Target(column.column, "labels", values, column.known[rows]))
            else:
                targets.append(Target(column.column, "number", values))
        training = replace(self.training or Training(), seed=self.random_state)
        network = FusionNetwork(Fusion(**(self.network or {})), training)
        own = None if group is None else np.unique(group[rows], return_inverse=True)[1]
        return network.fit(*_inputs(arrays, features, rows), targets, groups=own)

    def _hold_out(
        self,
        arrays: ModalityArrays,
        columns: Sequence[Targets],
        group: Int[np.ndarray, " items"] | None,
        fold_of: Int[np.ndarray, " items"],
        number: int,
        outputs: Sequence[_Outputs],
        *,
        with_network: bool,
    ) -> None:
        """Put what both say of one fold into `outputs`; NaN stays where the fold's other items teach nothing."""
        train, held = np.flatnonzero(fold_of != number), np.flatnonzero(fold_of == number)
        learnable = [
            (column, out) for column, out in zip(columns, outputs, strict=True) if _teaches(column.take(train))
        ]
        for column, out in learnable:
            try:
                model = self._alone(arrays, column, group, train)
            except LabelError:  # no modality of these items tells two values apart: nothing to compare in this fold
                continue
            known = model.fitted_.features.modalities if isinstance(model, Recognizer) else model.modalities_
            rows = held[column.known[held] & np.any([arrays.present[name][held] for name in known], axis=0)]
            if len(rows):
                said = _from_linear(column.task, model, arrays.take(rows), 0.9)
                out.put(out.alone, rows, said, model)
        if with_network and learnable:
            features = Features.of(arrays.take(train))
            network = self._network(arrays, features, [column for column, _ in learnable], group, train)
            rows = held[np.any([arrays.present[name][held] for name in features.modalities], axis=0)]
            if len(rows):
                together = network.predict(*_inputs(arrays, features, rows))
                for column, out in learnable:
                    known_rows = column.known[rows]
                    out.together[rows[known_rows]] = together[column.column][known_rows].reshape(
                        int(known_rows.sum()), -1
                    )

    def _report(
        self, column: Targets, out: _Outputs, fold_of: Int[np.ndarray, " items"], *, with_network: bool
    ) -> ColumnReport:
        losses = [_losses(column, values) for values in (out.alone, out.together)]
        together = _cross_fitted_labels(column, out.together, fold_of) if column.task == "labels" else None
        scores = [
            _score(column, out.alone, out.alone_labels),
            _score(column, out.together, together),
        ]
        gain, error = paired(*losses)
        compared = bool(np.isfinite(error))
        wins = compared and gain > error
        if self.trunk != "auto":
            taken, why = ("together" if self.trunk == "always" else "alone"), "chosen by the caller"
        elif not with_network:
            taken, why = "alone", "one column has nothing to share"
        elif not compared:
            taken, why = "alone", "no items can be held out to compare on"
        else:
            taken = "together" if wins else "alone"
            why = f"the network is {'better' if wins else 'not better'} by more than one standard error"
        return ColumnReport(
            column.column,
            column.task,
            _METRICS[column.task],
            scores[0],
            scores[1],
            gain if compared else None,
            error if compared else None,
            cast("Literal['alone', 'together']", taken),
            why,
        )


_PARAMETERS = ("trunk", "folds", "network", "training", "random_state")


@dataclass(frozen=True, eq=False)
class _Outputs:
    """What was said of held-out items of a column: probabilities or numbers, NaN where nothing was."""

    column: Targets
    alone: Float64[np.ndarray, "items outputs"]
    together: Float64[np.ndarray, "items outputs"]
    alone_labels: Bool[np.ndarray, "items outputs"]
    """The labels by the thresholds of the fold; used for `labels` only."""

    @classmethod
    def empty(cls, column: Targets) -> _Outputs:
        shape = (len(column), max(1, len(column.names)))
        return cls(column, np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, dtype=bool))

    def put(
        self,
        out: Float64[np.ndarray, "items outputs"],
        rows: Int[np.ndarray, " rows"],
        said: ColumnPrediction,
        model: Alone,
    ) -> None:
        if isinstance(model, NumberPredictor):
            out[rows, 0] = said.values
            return
        assert said.probabilities is not None
        if isinstance(model, Recognizer):  # a class that is not among the other items has no chance
            out[rows] = 0.0
            out[np.ix_(rows, np.searchsorted(self.column.names, model.classes_))] = said.probabilities
            return
        out[rows], self.alone_labels[rows] = said.probabilities, said.values


def _losses(column: Targets, out: Float64[np.ndarray, "items outputs"]) -> Float64[np.ndarray, " items"]:
    """Of each item, NaN where nothing was said: Brier score, or squared error in variances."""
    if column.task == "number":
        known = column.values[column.known]
        losses: Float64[np.ndarray, " items"] = np.square(out[:, 0] - column.values) / max(float(known.var()), 1e-300)
        return losses
    truth = column.values
    if column.task == "classes":
        truth = column.values[:, None] == np.arange(len(column.names))
    distances: Float64[np.ndarray, " items"] = np.square(out - truth).sum(axis=1)
    return distances


def _score(
    column: Targets, out: Float64[np.ndarray, "items outputs"], labels: Bool[np.ndarray, "items outputs"] | None
) -> float | None:
    from sklearn.metrics import f1_score

    said = np.flatnonzero(np.isfinite(out).any(axis=1) & column.known)
    if not len(said):
        return None
    if column.task == "number":
        return number_score(column.values[said], out[said, 0]).r2
    if column.task == "labels":
        assert labels is not None
        # The truth of an item is set against labels that were chosen already: 0 or 1 on either side of a half.
        return labels_score(column.values[said], labels[said].astype(float), np.full(len(column.names), 0.5)).f1_macro
    return float(f1_score(column.values[said], out[said].argmax(axis=1), average="macro", zero_division=0))


def _cross_fitted_labels(
    column: Targets, out: Float64[np.ndarray, "items labels"], fold_of: Int[np.ndarray, " items"]
) -> Bool[np.ndarray, "items labels"]:
    """Labels by thresholds that were chosen on the other folds."""
    labels = np.zeros(out.shape, dtype=bool)
    for number in range(int(fold_of.max(initial=-1)) + 1):
        held = fold_of == number
        labels[held] = np.nan_to_num(out[held]) > choose_thresholds(out[~held], column.values[~held])
    return labels


def _together(
    column: Targets, out: Float64[np.ndarray, "items outputs"], group: Int[np.ndarray, " items"] | None, seed: int
) -> _Column:
    """A column of the network's, with what its held-out outputs teach of their worth."""
    said = np.flatnonzero(np.isfinite(out).any(axis=1))
    kept = _Column(column.column, column.task, column.names, None)
    if column.task == "labels":
        return replace(kept, thresholds=choose_thresholds(out, column.values))
    if column.task == "number":
        if not len(said):
            return kept
        return replace(kept, residuals=ConformalScores.of(np.abs(out[said, 0] - column.values[said])))
    codes = column.values[said]
    groups = None if group is None else group[said]
    if len(said) < _FEWEST_HELD_OUT or len(np.unique(codes)) < 2 or (groups is not None and len(np.unique(groups)) < 2):
        return kept
    log = np.log(np.maximum(out[said], 1e-12))
    return replace(kept, calibration=fit_calibration(log, codes, groups=groups, seed=seed))


def _from_network(column: _Column, output: Float[np.ndarray, "items ..."], level: float) -> ColumnPrediction:
    if column.task == "number":
        half = np.inf if column.residuals is None else column.residuals.quantile(level)
        return ColumnPrediction("number", output, None, output - half, output + half)
    if column.task == "labels":
        assert column.thresholds is not None
        return ColumnPrediction("labels", output > column.thresholds, output)
    chance = output
    if column.calibration is not None:
        chance = column.calibration.apply(np.log(np.maximum(output, 1e-12)))
    return ColumnPrediction("classes", column.names[chance.argmax(axis=1)], chance)


def _from_linear(task: TaskName, model: Alone, arrays: ModalityArrays, level: float) -> ColumnPrediction:
    if isinstance(model, NumberPredictor):
        told = model.predict_interval(arrays, level=level)
        return ColumnPrediction(task, told.values, None, told.lower, told.upper)
    chance = model.predict_proba(arrays)
    if isinstance(model, Recognizer):
        return ColumnPrediction(task, model.classes_[chance.argmax(axis=1)], chance)
    return ColumnPrediction(task, model.predict(arrays), chance)


def _inputs(
    arrays: ModalityArrays, features: Features, rows: Int[np.ndarray, " rows"]
) -> tuple[dict[str, Float[np.ndarray, "rows _"]], dict[str, Bool[np.ndarray, " rows"]]]:
    """What the network takes: the feature rows of each modality, and which items have it."""
    vectors: dict[str, Float[np.ndarray, "rows _"]] = {}
    present: dict[str, Bool[np.ndarray, " rows"]] = {}
    for name in features.modalities:
        vectors[name] = np.zeros((len(rows), features.width((name,))), np.float32)
        present[name] = np.zeros(len(rows), dtype=bool)
        if name in arrays.present:
            present[name] = arrays.present[name][rows]
            vectors[name][present[name]] = features.rows(arrays, (name,), rows[present[name]])
    return vectors, present


def _teaches(column: Targets) -> bool:
    """Whether known values differ."""
    known = column.values[column.known]
    if not len(known):
        return False
    return bool((known != known[0]).any())


def _checked(y: Sequence[Targets] | Unchecked, items: int) -> list[Targets]:
    columns = list(y)
    wrong = [type(column).__name__ for column in columns if not isinstance(column, Targets)]
    if wrong or not columns:
        raise LabelError(
            f"give the columns to predict as parse_targets returns them; got {wrong[0] if wrong else 'none'}"
        )
    names = [column.column for column in columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise LabelError(f"column {repeated[0]!r} is given twice")
    for column in columns:
        if len(column) != items:
            raise LabelError(f"column {column.column!r}: there are {items} items but {len(column)} values")
        if not _teaches(column):
            raise LabelError(
                f"column {column.column!r}: all known values are the same, or none is known: nothing to learn"
            )
    return columns


def _restored_model(description: Mapping[str, Any], tensors: Mapping[str, Any]) -> MultiTaskPredictor:
    """The predictor that `save` described.

    Raises:
        KeyError, TypeError, ValueError, ChiasmError: the parts do not fit together.
    """

    def under(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}

    features = Features(
        {name: floats(tensors, f"mean.own.{name}", width) for name, width in description["own"].items()},
        {name: floats(tensors, f"mean.shared.{name}", width) for name, width in description["shared"].items()},
    )
    columns = []
    for number, entry in enumerate(description["columns"]):
        if entry["task"] not in get_args(TaskName):
            raise ValueError(f"there is no task {entry['task']!r}")
        kind = {"text": np.str_, "int": np.int64, "float": np.float64, "bool": np.bool_}[entry["names"]["kind"]]
        names: Shaped[np.ndarray, " names"] = np.array(entry["names"]["values"], dtype=kind)
        alone: Alone | None = None
        calibration = residuals = thresholds = None
        if entry["alone"] is not None:
            arrays = under(f"column.{number}.")
            alone = _restored_alone(entry["task"], entry["alone"], arrays)
        elif entry["task"] == "labels":
            thresholds = floats(tensors, f"thresholds.{number}", len(names))
        if entry["calibration"] is not None:
            calibration = Calibration.from_fields(entry["calibration"])
        if entry["residuals"] is not None:
            residuals = ConformalScores.from_kept(tensors[f"residuals.{number}"], int(entry["residuals"]))
        columns.append(_Column(entry["column"], entry["task"], names, alone, calibration, thresholds, residuals))
    network = None
    if description["network"] is not None:
        network = (under("network."), description["network"])
    elif any(column.alone is None for column in columns):
        raise ValueError("columns of the network, but no network")
    details = MultiTaskDetails(tuple(ColumnReport(**entry) for entry in description["details"]["columns"]))
    model = MultiTaskPredictor(**description["parameters"])
    model.fitted_ = _Fitted(features, tuple(columns), network, details)
    return model


def _restored_alone(task: TaskName, description: dict[str, Any], tensors: dict[str, Any]) -> Alone:
    if task == "number":
        return NumberPredictor.restored(description, tensors)
    if task == "labels":
        return LabelsPredictor.restored(description, tensors)
    return restore(description, tensors)
