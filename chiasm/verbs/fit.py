"""Fitting and measuring on a collection's arrays: what `chiasm.api.fit` and `evaluate` do once files are arrays.

Which split a predictor is measured on, and how what it says becomes `Predicted`, is known here. Files and folders are
left to `chiasm.api`, what the numbers mean to `chiasm.report.sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm.errors import LabelError
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, SourceItems
from chiasm.recognition.multitask import ColumnPrediction, MultiTaskPredictor
from chiasm.recognition.tasks import Targets, TaskName, parse_targets
from chiasm.report.sections import Predicted, measure
from chiasm.splits import crossing, group_folds, grouped_stratified_folds
from chiasm.verbs.dataset import Labelled

ProtocolName: TypeAlias = Literal["learning-curve", "held-out-classes", "incremental", "random-split", "balance"]

FOLDS = 5


def logged(options: RungOptions, log_dir: str | Path) -> RungOptions:
    """The same, with TensorBoard's logs of the networks in a folder."""
    from chiasm.training import Training

    return replace(options, training=replace(options.training or Training(), log_dir=log_dir))


def targets_of(data: Labelled, task: TaskName | Literal["auto"]) -> list[Targets]:
    """The label columns as something to learn.

    Raises:
        LabelError: a column does not fit the task, or there is nothing to learn in it.
    """
    return [parse_targets(values, column=column, task=task) for column, values in data.values.items()]


def predict_columns(
    predictor: MultiTaskPredictor, data: Labelled, targets: Sequence[Targets], rows: Int[np.ndarray, " rows"]
) -> dict[str, Predicted]:
    """What a predictor of several columns says of items that it did not learn from; of each column, those with a value."""
    said = predictor.predict(data.arrays.take(rows))
    found = {}
    for target in targets:
        known = np.flatnonzero(target.known[rows])
        if len(known):
            names = predictor.names_.get(target.column, target.names)
            found[target.column] = _column(
                said[target.column], target.take(rows[known]), data, rows[known], known, names
            )
    return found


def measure_columns(found: Mapping[str, Predicted]) -> dict[str, Any]:
    """The metrics of each column; of a single one, just these."""
    metrics = {column: measure(predicted) for column, predicted in found.items()}
    return next(iter(metrics.values())) if len(metrics) == 1 else {"columns": metrics}


def cross_validated_columns(
    make: Callable[[], MultiTaskPredictor], data: Labelled, targets: Sequence[Targets], seed: int
) -> dict[str, Predicted]:
    """Every item by a predictor that was fitted without it."""
    parts: dict[str, list[Predicted]] = {}
    for fold in group_folds(data.groups, min(FOLDS, len(np.unique(data.groups))), seed=seed):
        predictor = make().fit(
            data.arrays.take(fold.train),
            [target.take(fold.train) for target in targets],
            groups=data.groups[fold.train],
        )
        for column, predicted in predict_columns(predictor, data, targets, fold.test).items():
            parts.setdefault(column, []).append(predicted)
    return {column: _joined(found) for column, found in parts.items()}


def columns_of(predictor: Recognizer | MultiTaskPredictor, label: str) -> list[str]:
    """The label columns that a predictor is measured by."""
    if isinstance(predictor, Recognizer):
        return [label]
    return list(predictor.columns_)


def predicted(
    predictor: Recognizer | MultiTaskPredictor, data: Labelled, rows: Int[np.ndarray, " rows"]
) -> dict[str, Predicted]:
    """What a fitted predictor says of items, by column.

    Raises:
        LabelError: values do not fit the columns that it was fitted on.
    """
    if isinstance(predictor, Recognizer):
        (column,) = data.values
        return {column: recognised(predictor, data, data.labels, rows)}
    targets = [
        parse_targets(
            values, column=column, task=predictor.columns_[column],
            labels=None if predictor.columns_[column] == "number" else predictor.names_[column].tolist(),
        )
        for column, values in data.values.items()
    ]  # fmt: skip
    return predict_columns(predictor, data, targets, rows)


def say(
    predictor: Recognizer | MultiTaskPredictor, arrays: ModalityArrays, *, level: float, false_alarm_rate: float
) -> list[dict[str, Any]]:
    """What `chiasm.api.Prediction` holds of each item, but for the item itself."""
    if isinstance(predictor, Recognizer):
        names = [str(name) for name in predictor.classes_]
        said = predictor.recognise(arrays, level=level, false_alarm_rate=false_alarm_rate)
        return [
            {
                "label": names[int(row.argmax())],
                "probability": float(row.max()),
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
                "set": tuple(name for name, held in zip(names, inside, strict=True) if held),
                "unknown": bool(unknown),
            }
            for row, inside, unknown in zip(said.probabilities, said.sets, said.unknown, strict=True)
        ]
    columns = predictor.predict(arrays, level=level)
    rows = [{name: _value(predictor, name, one, i) for name, one in columns.items()} for i in range(len(arrays))]
    return [
        {
            "label": "; ".join(str(part["value"]) for part in row.values()) if len(row) == 1 else
            ", ".join(f"{name}: {part['value']}" for name, part in row.items()),
            "columns": row,
        }
        for row in rows
    ]  # fmt: skip


def _value(predictor: MultiTaskPredictor, name: str, column: ColumnPrediction, row: int) -> dict[str, Any]:
    if column.task == "number":
        assert column.lower is not None and column.upper is not None  # of numbers there always are
        low, high = float(column.lower[row]), float(column.upper[row])
        ends = {"low": low if np.isfinite(low) else None, "high": high if np.isfinite(high) else None}
        return {"value": float(column.values[row]), **ends}
    names = [str(label) for label in predictor.names_[name]]
    assert column.probabilities is not None
    probabilities = dict(zip(names, column.probabilities[row].tolist(), strict=True))
    if column.task == "labels":
        held = [label for label, has in zip(names, column.values[row], strict=True) if has]
        return {"value": "; ".join(held), "probabilities": probabilities}
    return {"value": str(column.values[row]), "probabilities": probabilities}


def _column(
    said: ColumnPrediction,
    target: Targets,
    data: Labelled,
    rows: Int[np.ndarray, " rows"],
    among: Int[np.ndarray, " rows"],
    names: Shaped[np.ndarray, " names"],
) -> Predicted:
    """One column of some items; `names` are those that the predictor knows, which may lack some of the target's."""
    true, predicted = target.values, said.values[among]
    probabilities = None if said.probabilities is None else said.probabilities[among]
    if target.task == "classes":
        true, predicted = target.names[true].astype(str), predicted.astype(str)
    elif target.task == "labels":  # a label that the predictor has never seen is never predicted
        place = np.searchsorted(target.names, names)
        assert probabilities is not None
        every = np.zeros(true.shape, dtype=bool), np.zeros(true.shape)
        every[0][:, place], every[1][:, place] = predicted, probabilities
        predicted, probabilities = every
        names = target.names
    return Predicted(
        kind=target.task,
        ids=tuple(data.ids[row] for row in rows),
        media=tuple(data.media[row] for row in rows),
        groups=data.groups[rows],
        classes=tuple(str(name) for name in names),
        true=true,
        predicted=predicted,
        probabilities=probabilities,
        low=None if said.lower is None else said.lower[among],
        high=None if said.upper is None else said.upper[among],
    )


def _joined(parts: Sequence[Predicted]) -> Predicted:
    """Several parts of one column, one after the other."""

    def stacked(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    return Predicted(
        kind=parts[0].kind,
        ids=tuple(item for part in parts for item in part.ids),
        media=tuple(item for part in parts for item in part.media),
        groups=stacked("groups"),
        classes=parts[0].classes,
        true=stacked("true"),
        predicted=stacked("predicted"),
        probabilities=stacked("probabilities"),
        low=stacked("low"),
        high=stacked("high"),
    )


def recognised(
    model: Recognizer, data: Labelled, labels: Shaped[np.ndarray, " items"], rows: Int[np.ndarray, " rows"]
) -> Predicted:
    """What a recogniser says of items that it did not learn from."""
    said = model.recognise(data.arrays.take(rows))
    return _predicted(data, labels, rows, model, said.labels, said.probabilities, said.sets, said.unknown)


def held_out(model: Recognizer, data: Labelled, labels: Shaped[np.ndarray, " items"]) -> Predicted:
    """What the heads of the folds said of the items that they did not see, calibrated as the recogniser is.

    Items that no fold could hold out (the only one of their class) are left out.
    """
    log = model.fitted_.held_out
    assert log is not None  # of a recogniser that was just fitted there always is
    rows = np.flatnonzero(np.isfinite(log).any(axis=1))
    if not len(rows):
        raise LabelError(
            "no item can be held out to measure on: all items of a class are copies or near-duplicates of one another, or it "
            "has one item. Label others, or say from which cosine on items count as near-duplicates (alike; above 1: never)"
        )
    known = np.where(np.isnan(log), -np.inf, log)
    probabilities = np.empty((len(labels), len(model.classes_)))
    sets = np.ones(probabilities.shape, dtype=bool)
    for subset, part in data.arrays.by_subset(model.fitted_.features.modalities):
        members = part[np.isin(part, rows)]
        calibration = model.fitted_.calibrations.get(subset)
        normal = np.exp(known[members])
        probabilities[members] = normal if calibration is None else calibration.apply(known[members])
        if subset in model.fitted_.sets:
            sets[members] = model.fitted_.sets[subset].sets(probabilities[members])
    guesses = model.classes_[probabilities[rows].argmax(axis=1)]
    return _predicted(data, labels, rows, model, guesses, probabilities[rows], sets[rows], None)


def cross_validated(
    make: Callable[[], Recognizer],
    data: Labelled,
    labels: Shaped[np.ndarray, " items"],
    names: Mapping[str, Float[np.ndarray, " dim"]],
    source: SourceItems | None,
    seed: int,
) -> Predicted:
    """Every item by a recogniser that was fitted without it."""
    from chiasm.recognition.protocols import cross_validate

    found = cross_validate(
        make, data.arrays, labels, folds=FOLDS, groups=data.groups, names=names or None, source=source, seed=seed
    )
    return Predicted(
        kind="classes",
        ids=data.ids,
        media=data.media,
        groups=data.groups,
        classes=tuple(str(name) for name in found.classes),
        true=labels,
        predicted=np.asarray(found.labels, dtype=str),
        probabilities=found.probabilities,
        sets=found.sets,
        unknown=found.unknown,
        level=found.level,
    )


def protocols(
    wanted: Sequence[ProtocolName],
    make: Callable[[], Recognizer],
    data: Labelled,
    labels: Shaped[np.ndarray, " items"],
    names: Mapping[str, Float[np.ndarray, " dim"]],
    source: SourceItems | None,
    seed: int,
) -> dict[str, Any]:
    """Results of `chiasm.recognition.protocols` by name."""
    from chiasm.recognition import protocols

    def run(name: ProtocolName) -> Any:
        groups = data.groups
        if name == "learning-curve":
            return protocols.learning_curve(
                make,
                data.arrays,
                labels,
                seeds=range(seed, seed + 5),
                groups=groups,
                names=names or None,
                source=source,
            )
        if name == "held-out-classes":
            if set(labels.tolist()) - set(names):
                raise LabelError("held-out-classes needs a space with text, and labels that are words")
            return protocols.zero_shot_on_held_out_classes(make, data.arrays, labels, names=names, groups=groups)
        if name == "incremental":
            order = np.random.default_rng(seed).permutation(np.unique(labels)).tolist()
            if len(order) < 3:
                raise LabelError(f"incremental needs at least 3 classes, to add one to two; got {len(order)}")
            first = max(2, len(order) // 2)
            steps = [order[:first], *([one] for one in order[first:])]
            return protocols.incremental(
                lambda: make().set_params(adapter="linear", fusion="concat"),
                data.arrays, labels, steps=steps, groups=groups, seed=seed,
            )  # fmt: skip
        if name == "balance":
            return protocols.compare(
                _balances(make, len(data.arrays.modalities)), data.arrays, labels, folds=3, seeds=(seed,), groups=groups,
                names=names or None, source=source,
            )  # fmt: skip
        return protocols.random_split_leak(
            make, data.arrays, labels, groups, folds=FOLDS, names=names or None, source=source, seed=seed
        )

    return {name: run(name) for name in wanted}


def _predicted(
    data: Labelled,
    labels: Shaped[np.ndarray, " items"],
    rows: Int[np.ndarray, " rows"],
    model: Recognizer,
    guesses: Shaped[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    sets: Bool[np.ndarray, "rows classes"],
    unknown: Bool[np.ndarray, " rows"] | None,
) -> Predicted:
    return Predicted(
        kind="classes",
        ids=tuple(data.ids[row] for row in rows),
        media=tuple(data.media[row] for row in rows),
        groups=data.groups[rows],
        classes=tuple(str(name) for name in model.classes_),
        true=labels[rows],
        predicted=np.asarray(guesses, dtype=str),
        probabilities=probabilities,
        sets=sets if model.fitted_.sets else None,
        unknown=unknown if model.fitted_.detectors else None,
    )


def _balances(make: Callable[[], Recognizer], modalities: int) -> dict[str, Callable[[], Recognizer]]:
    """Ways to balance classes, and modalities where there are several, beside doing nothing."""
    from chiasm.training import Training

    def trained(**options: Any) -> RungOptions:
        return RungOptions(training=Training(**options))

    changes: dict[str, dict[str, Any]] = {
        "as it is": {},
        "class weights": {"class_weight": "balanced"},
        "mlp": {"adapter": "mlp"},
        "mlp, small classes oversampled": {"adapter": "mlp", "options": trained(class_balance="oversample")},
        "mlp, large classes undersampled": {"adapter": "mlp", "options": trained(class_balance="undersample")},
        "mlp, mixup": {"adapter": "mlp", "options": trained(mixup=0.2)},
    }
    if modalities > 1:
        changes |= {
            "gated": {"adapter": "linear", "fusion": "gated"},
            "gated, a loss for each modality": {"adapter": "linear", "fusion": "gated", "network": {"auxiliary": 0.5}},
            "gated, gradients modulated": {"adapter": "linear", "fusion": "gated", "network": {"modulation": 1.0}},
        }

    def changed(change: Mapping[str, Any]) -> Callable[[], Recognizer]:
        return lambda: make().set_params(**change, unknown=None)

    return {name: changed(change) for name, change in changes.items()}


def duplicates(data: Labelled, labels: Shaped[np.ndarray, " items"], seed: int) -> str:
    """How many items are alike, and how many a random split would have put opposite a mate."""
    if not data.alike:
        return "No item is a copy or a near-duplicate of another one."
    splits = grouped_stratified_folds(labels, min(FOLDS, len(labels)), seed=seed)
    opposite = sum(crossing(data.groups, split) for split in splits)
    return (
        f"{data.alike} items are copies or near-duplicates of others and are kept on one side of every split; a random one "
        f"would have put {opposite} items opposite a mate."
    )


def compared(mine: Mapping[str, Predicted], theirs: Mapping[str, Predicted], name: str) -> dict[str, Any]:
    """Two models on the same items: the difference of what each item scores.

    Raises:
        LabelError: they are not both of the same one column of classes.
    """
    if (
        len(mine) != 1
        or mine.keys() != theirs.keys()
        or any(p.kind != "classes" for p in (*mine.values(), *theirs.values()))
    ):
        raise LabelError(
            f"only models of the same column of classes can be compared; got {', '.join(mine)} and {', '.join(theirs)}"
        )
    from chiasm.evaluation.diagnostics import paired_difference

    def scores(found: Predicted) -> dict[str, Float[np.ndarray, " items"]]:
        assert found.probabilities is not None
        truth = found.true[:, None] == np.array(found.classes)[None, :]
        brier = np.square(found.probabilities - truth).sum(axis=1) + (~truth.any(axis=1))
        return {"accuracy": (found.true == found.predicted).astype(float), "minus Brier score": -brier}

    ours, others = scores(next(iter(mine.values()))), scores(next(iter(theirs.values())))
    metrics = {}
    for metric, values in ours.items():
        difference = paired_difference(values, others[metric])
        metrics[metric] = {
            "this": float(values.mean()),
            "other": float(others[metric].mean()),
            "difference": difference.mean,
            "standard_error": difference.standard_error,
            "interval": [difference.interval.low, difference.interval.high],
            "p_value": difference.p_value,
        }
    return {"model": name, "metrics": metrics}
