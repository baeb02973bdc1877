"""From a recogniser's output on a collection's items to `chiasm.evaluation.predictions.Predictions`, by column.

Whether items are predicted by a recogniser that did not learn from them, or by the heads of its own folds, is decided
here; files and folders are left to `chiasm.verbs.dataset`, metrics to `chiasm.evaluation`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm import work
from chiasm.errors import LabelError
from chiasm.evaluation.predictions import Predictions, measure
from chiasm.recognition import Recognition, Recognizer, SourceItems
from chiasm.recognition.targets import Kind, Target, alike_name, parse_target
from chiasm.splits import class_name, crossing, group_folds, grouped_stratified_folds
from chiasm.verbs.dataset import Labelled
from chiasm.verbs.model import HeldOut

FOLDS = 5

Names = Mapping[str, Float[np.ndarray, " dim"]]


# ------------------------------------------------------------------------------------------------------------ targets


def class_target(values: Sequence[Any], *, column: str) -> Target:
    """Return a column as classes by their names (`class_name`); values may be missing."""
    known = np.array([value is not None for value in values], dtype=bool)
    names, codes = np.unique([class_name(value) for value in values if value is not None], return_inverse=True)
    every = np.full(len(values), -1)
    every[known] = codes
    return Target(column, "classes", every, known, names)


def targets_of(data: Labelled, task: Kind | Literal["auto"]) -> list[Target]:
    """Return the label columns as something to learn, classes by their names.

    Raises:
        LabelError: a column does not fit the task, or there is nothing to learn in it.
    """
    if len(data.values) == 1:
        ((column, values),) = data.values.items()
        if task == "classes" or parse_target(values, column=column, task=task).kind == "classes":
            return [_checked_classes(class_target(values, column=column))]
    targets = [parse_target(values, column=column, task=task) for column, values in data.values.items()]
    return [_by_name(target, data.values[target.column]) for target in targets]


def read_target(values: Sequence[Any], *, column: str, kind: Kind) -> Target:
    """Return a column of a kind that is known, classes by their names.

    Raises:
        LabelError: as `parse_target`.
    """
    return class_target(values, column=column) if kind == "classes" else parse_target(values, column=column, task=kind)


def _by_name(target: Target, values: Sequence[Any]) -> Target:
    return class_target(values, column=target.column) if target.kind == "classes" else target


def _checked_classes(target: Target) -> Target:
    counts = Counter(target.values.tolist())
    if len(counts) == 1:
        raise LabelError(
            f"all {len(target)} items have one class in {target.column!r}: {target.names[0]}. At least 2 are needed"
        )
    if len(counts) == len(target):
        raise LabelError(
            f"each of the {len(target)} items has its own value in {target.column!r}: that is an id, not a class. Name a "
            "column in which several items share a value"
        )
    return target


def targets_for(recognizer: Recognizer, data: Labelled, columns: Mapping[str, str] | None = None) -> list[Target]:
    """Return the columns of a recogniser as they truly are, for measuring.

    Args:
        recognizer: whose columns they are.
        data: the items.
        columns: the column of the items that holds the truth, by column of the recogniser; by default its own name.

    Raises:
        LabelError: values do not fit the columns, or labels are none of those that the recogniser knows.
    """
    targets = []
    for name, fitted in recognizer.columns_.items():
        values = data.values[(columns or {}).get(name, name)]
        if fitted.kind == "classes":
            targets.append(class_target(values, column=name))
        else:
            labels = None if fitted.kind == "number" else fitted.names.tolist()
            targets.append(parse_target(values, column=name, task=fitted.kind, labels=labels))
    return targets


def unknown_classes(recognizer: Recognizer, columns: Mapping[str, Predictions]) -> dict[str, str]:
    """Return the true classes that a recogniser does not know, see `strange_names`."""
    found: dict[str, str] = {}
    for name, column in columns.items():
        if column.kind == "classes":
            found |= strange_names(column.true.tolist(), map(class_name, recognizer.columns_[name].names))
    return found


def strange_names(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return the names that are none of those known, each with how often it occurs and what may be meant, in words."""
    every = set(known)
    found = {}
    for name, items in sorted(Counter(name for name in names if name not in every).items()):
        close = alike_name(name, every)
        found[name] = f"{items} {'item' if items == 1 else 'items'}" + (f" (is {close!r} meant?)" if close else "")
    return found


# -------------------------------------------------------------------------------------------------------- predictions


def predictions(
    recognizer: Recognizer, data: Labelled, targets: Sequence[Target], rows: Int[np.ndarray, " rows"]
) -> dict[str, Predictions]:
    """Return what a recogniser predicts of items that it did not learn from; of each column, of those with a value."""
    columns = recognizer.recognise_all(data.arrays.take(rows))
    result = {}
    for target in targets:
        known = np.flatnonzero(target.known[rows])
        if len(known):
            promises = recognizer.columns_[target.column]
            result[target.column] = _as_predictions(
                take(columns[target.column], known),
                target.take(rows[known]),
                data,
                rows[known],
                has_sets=bool(promises.sets),
                has_alarm=bool(promises.detectors),
            )
    return result


def held_out(
    recognizer: Recognizer, data: Labelled, target: Target, *, learned: Bool[np.ndarray, " items"] | None = None
) -> Predictions:
    """Return what the heads of the folds predict of the items that they did not see, as `without_each` gives it.

    Items that no fold could hold out (the only one of their class) are left out.

    Args:
        recognizer: just fitted on these items.
        data: the items.
        target: one of its columns, as it truly is.
        learned: the items that had a value of the column when it was learned; by default those that have one now.

    Raises:
        LabelError: nothing could be held out.
    """
    outputs = held_out_outputs(recognizer, target.column, target.known if learned is None else learned)
    scored = without_each(recognizer, data, target, outputs)
    if scored is None:
        raise LabelError(
            "no item can be held out to measure on: all items of a class are copies or near-duplicates of one another, or it "
            "has one item. Label others, or say from which cosine on items count as near-duplicates (alike; above 1: never)"
        )
    return scored


def held_out_outputs(
    recognizer: Recognizer, column: str, learned: Bool[np.ndarray, " items"]
) -> Float[np.ndarray, "items outputs"]:
    """Return the outputs of the heads of the folds for the items that they did not see; NaN where there are none.

    Args:
        recognizer: just fitted on these items.
        column: one of its columns.
        learned: the items that had a value of it when it was learned.
    """
    own = recognizer.columns_[column].held_out
    assert own is not None  # of a recogniser that was just fitted there always are
    outputs = np.full((len(learned), own.shape[1]), np.nan)
    outputs[learned] = own
    return outputs


def left_out_of(
    recognizer: Recognizer,
    data: Labelled,
    known: Mapping[str, Bool[np.ndarray, " items"]],
    others: Sequence[str] = (),
) -> HeldOut:
    """Return what a model keeps of a recogniser that was just fitted, so that it can be measured on these items.

    Args:
        recognizer: fitted on just these items.
        data: the items.
        known: by column, the items that had a value of it.
        others: contents of items of a source.
    """
    outputs = {name: held_out_outputs(recognizer, name, mask).astype(np.float32) for name, mask in known.items()}
    return HeldOut(data.contents, outputs, frozenset(others))


def without_each(
    recognizer: Recognizer, data: Labelled, target: Target, outputs: Float[np.ndarray, "items outputs"]
) -> Predictions | None:
    """Return what is predicted of items by heads that did not see them, calibrated as the recogniser is.

    Items that no fold could hold out (the only one of their class) are left out; None if no others remain.

    Args:
        recognizer: that was fitted on these items.
        data: the items.
        target: one of its columns, as it truly is.
        outputs: of the heads of the folds.
    """
    column = recognizer.columns_[target.column]
    rows = np.flatnonzero(np.isfinite(outputs).any(axis=1) & target.known)
    if not len(rows):
        return None
    recognition = column.recognise_outputs(data.arrays.take(rows), column.features.modalities, outputs[rows])
    return _as_predictions(recognition, target.take(rows), data, rows, has_sets=bool(column.sets), has_alarm=False)


def cross_validated(
    make: Callable[[], Recognizer],
    data: Labelled,
    targets: Sequence[Target],
    seed: int,
    *,
    names: Names | None = None,
    source: SourceItems | None = None,
) -> dict[str, Predictions]:
    """Return what is predicted of every item by a recogniser that was fitted without it.

    Args:
        make: makes a recogniser that is not fitted.
        data: the items.
        targets: their columns.
        seed: of the folds.
        names: embedded names of classes or labels.
        source: items of another domain.
    """
    folds = min(FOLDS, len(np.unique(data.groups)))
    if len(targets) == 1 and targets[0].kind == "classes":
        splits = grouped_stratified_folds(targets[0].values, folds, seed=seed, groups=data.groups)
    else:
        splits = group_folds(data.groups, folds, seed=seed)
    parts: dict[str, list[Predictions]] = {}
    for split in work.steps(splits, "folds"):
        training = [target.take(split.train) for target in targets]
        recognizer = make().fit(
            data.arrays.take(split.train), training, data.groups[split.train], names=names or None, source=source,
            unlabelled=data.unlabelled if len(targets) == 1 and targets[0].kind == "classes" else None,
        )  # fmt: skip
        for column, part in predictions(recognizer, data, targets, split.test).items():
            parts.setdefault(column, []).append(part)
    return {column: joined(of) for column, of in parts.items()}


def take(recognition: Recognition, rows: Int[np.ndarray, " rows"]) -> Recognition:
    """Return the recognition of some of its items."""
    fields = ("values", "probabilities", "sets", "unknown", "strangeness", "lower", "upper")
    return replace(recognition, **{field: getattr(recognition, field)[rows] for field in fields})


def pick(column: Predictions, rows: Int[np.ndarray, " rows"]) -> Predictions:
    """Return the predictions of some items."""
    some: dict[str, Any] = {
        field: None if (values := getattr(column, field)) is None else values[rows] for field in _ARRAYS
    }
    ids, media = (tuple(values[row] for row in rows) for values in (column.ids, column.media))
    return replace(column, ids=ids, media=media, **some)


def in_common(one: Predictions, other: Predictions, among: Set[str] | None = None) -> tuple[Predictions, Predictions]:
    """Return two sides' predictions of the items that both have, in one order; only those of some items, if any are named."""
    ids = np.intersect1d(np.array(one.ids), np.array(other.ids))
    if among is not None:
        ids = np.array([item for item in ids.tolist() if item in among], dtype=ids.dtype)

    def of_items(side: Predictions) -> Predictions:
        own = np.array(side.ids)
        order = np.argsort(own)
        return pick(side, order[np.searchsorted(own, ids, sorter=order)])

    return of_items(one), of_items(other)


_ARRAYS = ("groups", "true", "predicted", "probabilities", "sets", "unknown", "low", "high")


def joined(parts: Sequence[Predictions]) -> Predictions:
    """Return several parts of one column, one after the other."""

    def stacked(field: str) -> Any:
        values = [getattr(part, field) for part in parts]
        return None if any(value is None for value in values) else np.concatenate(values)

    return replace(
        parts[0],
        ids=tuple(item for part in parts for item in part.ids),
        media=tuple(item for part in parts for item in part.media),
        **{field: stacked(field) for field in _ARRAYS},
    )


def _as_predictions(
    recognition: Recognition,
    target: Target,
    data: Labelled,
    rows: Int[np.ndarray, " rows"],
    *,
    has_sets: bool,
    has_alarm: bool,
) -> Predictions:
    """One column of some items, all with a value. A label that the recogniser has never seen is never predicted."""
    true, predicted, names = target.values, recognition.values, recognition.names
    probabilities: Shaped[np.ndarray, "items names"] | None = recognition.probabilities
    sets = recognition.sets if has_sets else None
    if target.kind == "number":
        probabilities = None
    elif target.kind == "classes":
        true, predicted = target.names[true].astype(str), predicted.astype(str)
    else:
        place = np.searchsorted(target.names, names)
        every = np.zeros(true.shape, dtype=bool), np.zeros(true.shape)
        every[0][:, place], every[1][:, place] = predicted, recognition.probabilities
        predicted, probabilities = every
        names = target.names
    return Predictions(
        kind=target.kind,
        ids=tuple(data.ids[row] for row in rows),
        media=tuple(data.media[row] for row in rows),
        groups=data.groups[rows],
        classes=tuple(str(name) for name in names),
        true=true,
        predicted=predicted,
        probabilities=probabilities,
        sets=sets,
        unknown=recognition.unknown if has_alarm else None,
        low=recognition.lower if target.kind == "number" else None,
        high=recognition.upper if target.kind == "number" else None,
    )


# ------------------------------------------------------------------------------------------------------------ numbers


def measure_columns(columns: Mapping[str, Predictions]) -> dict[str, Any]:
    """Return the metrics of each column; of a single one, just these."""
    metrics = {column: measure(predictions) for column, predictions in columns.items()}
    return next(iter(metrics.values())) if len(metrics) == 1 else {"columns": metrics}


def details_of(recognizer: Recognizer) -> dict[str, Any]:
    """Return what a recogniser tried and chose, for JSON: of one column its details, else those of each by its name."""
    if len(recognizer.columns_) == 1:
        return recognizer.details_.as_dict()
    return {
        "columns": {name: column.details.as_dict() for name, column in recognizer.columns_.items()},
        "together": [vars(report) for report in recognizer.together_],
    }


def duplicates(data: Labelled, target: Target, seed: int) -> str:
    """Say how many items are alike, and how many a random split would have put opposite a mate."""
    if not data.alike:
        return "No item is a copy or a near-duplicate of another one."
    alike = f"{data.alike} items are copies or near-duplicates of others and are kept on one side of every split"
    if target.kind != "classes":
        return f"{alike}."
    splits = grouped_stratified_folds(target.values, min(FOLDS, len(target)), seed=seed)
    opposite = sum(crossing(data.groups, split) for split in splits)
    return f"{alike}; a random one would have put {opposite} items opposite a mate."
