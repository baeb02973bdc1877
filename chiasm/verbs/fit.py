"""Fitting and measuring on a collection's arrays: what `chiasm.fit` and `evaluate` do once files are arrays.

Which split a predictor is measured on, and how what it says becomes `Predictions`, is known here. Files and folders are
left to `chiasm.verbs.dataset`, what the numbers mean to `chiasm.report.sections`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm import encoders
from chiasm.cores import limit_threads
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, LabelError
from chiasm.evaluation.predictions import Predictions, measure
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, SourceItems
from chiasm.recognition.fitting import FusionName, SemiName
from chiasm.recognition.heads import RungName
from chiasm.recognition.multitask import ColumnPrediction, MultiTaskPredictor
from chiasm.recognition.protocols import Items
from chiasm.recognition.tasks import Targets, TaskName, parse_targets
from chiasm.recognition.tuning import SamplerName
from chiasm.space import Space
from chiasm.splits import crossing, few_shot_split, group_folds, grouped_stratified_folds, holdout_split
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import (
    Labelled,
    class_names,
    fingerprints_of,
    labelled_items,
)
from chiasm.verbs.search import (
    start_of,
)

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
) -> dict[str, Predictions]:
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


def measure_columns(found: Mapping[str, Predictions]) -> dict[str, Any]:
    """The metrics of each column; of a single one, just these."""
    metrics = {column: measure(predicted) for column, predicted in found.items()}
    return next(iter(metrics.values())) if len(metrics) == 1 else {"columns": metrics}


def cross_validated_columns(
    make: Callable[[], MultiTaskPredictor], data: Labelled, targets: Sequence[Targets], seed: int
) -> dict[str, Predictions]:
    """Every item by a predictor that was fitted without it."""
    parts: dict[str, list[Predictions]] = {}
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
) -> dict[str, Predictions]:
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
    """What `chiasm.verbs.predict.Prediction` holds of each item, but for the item itself."""
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
) -> Predictions:
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
    return Predictions(
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


def _joined(parts: Sequence[Predictions]) -> Predictions:
    """Several parts of one column, one after the other."""

    def stacked(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    return Predictions(
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
) -> Predictions:
    """What a recogniser says of items that it did not learn from."""
    said = model.recognise(data.arrays.take(rows))
    return _predicted(data, labels, rows, model, said.labels, said.probabilities, said.sets, said.unknown)


def held_out(model: Recognizer, data: Labelled, labels: Shaped[np.ndarray, " items"]) -> Predictions:
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
    make: Callable[[], Recognizer], data: Labelled, labels: Shaped[np.ndarray, " items"], items: Items, seed: int
) -> Predictions:
    """Return every item as recognised by a recogniser that was fitted without it."""
    from chiasm.recognition.protocols import cross_validate

    found = cross_validate(make, items, folds=FOLDS, seed=seed)
    return Predictions(
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


def protocols(names: Sequence[ProtocolName], make: Callable[[], Recognizer], items: Items, seed: int) -> dict[str, Any]:
    """Return results of `chiasm.recognition.protocols` by name."""
    from chiasm.recognition import protocols

    def run(name: ProtocolName) -> Any:
        if name == "learning-curve":
            return protocols.learning_curve(make, items, seeds=range(seed, seed + 5))
        if name == "held-out-classes":
            if set(items.labels.tolist()) - set(items.given.get("names", ())):
                raise LabelError("held-out-classes needs a space with text, and labels that are words")
            return protocols.held_out_classes(make, items)
        if name == "incremental":
            order = np.random.default_rng(seed).permutation(np.unique(items.labels)).tolist()
            if len(order) < 3:
                raise LabelError(f"incremental needs at least 3 classes, to add one to two; got {len(order)}")
            first = max(2, len(order) // 2)
            steps = [order[:first], *([one] for one in order[first:])]
            linear = {"adapter": "linear", "fusion": "concat"}
            return protocols.incremental(lambda: make().set_params(**linear), items, steps=steps, seed=seed)
        if name == "balance":
            return protocols.compare(_balances(make, len(items.arrays.modalities)), items, folds=3, seed=seed)
        return protocols.random_split_leak(make, items, folds=FOLDS, seed=seed)

    return {name: run(name) for name in names}


def _predicted(
    data: Labelled,
    labels: Shaped[np.ndarray, " items"],
    rows: Int[np.ndarray, " rows"],
    model: Recognizer,
    guesses: Shaped[np.ndarray, " rows"],
    probabilities: Float[np.ndarray, "rows classes"],
    sets: Bool[np.ndarray, "rows classes"],
    unknown: Bool[np.ndarray, " rows"] | None,
) -> Predictions:
    return Predictions(
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


def compared(mine: Mapping[str, Predictions], theirs: Mapping[str, Predictions], name: str) -> dict[str, Any]:
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
    from chiasm.evaluation.intervals import paired_difference

    def scores(found: Predictions) -> dict[str, Float[np.ndarray, " items"]]:
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


HELD_OUT = 0.2  # share of the items, whole groups, that several columns are measured on


@dataclass(frozen=True)
class FitReport:
    """A fitted recogniser and how well it does on items it did not see."""

    model: str
    label: str
    classes: tuple[str, ...]
    modalities: tuple[Modality, ...]
    items: int  # trained on
    unlabelled: int  # items without a value in the label column, left out
    measured: str  # on what the metrics were measured, in words
    metrics: dict[str, Any]
    chosen: dict[str, Any]  # what was tried and chosen on held-out items, see `chiasm.recognition.fitting.Details`
    duplicates: str  # how many items are alike, and what a random split would have done with them, in words
    also: dict[str, Any] = field(default_factory=dict)  # by the names asked for with `also`, and `tuning`

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@limit_threads()
def fit(
    collection: str | Path,
    *,
    label: str,
    out: str | Path,
    task: TaskName | Literal["auto"] = "auto",
    modalities: Sequence[Modality] | None = None,
    shots: int | None = None,
    where: str | None = None,
    group: str | None = None,
    alike: float = 0.97,
    adapter: RungName | Literal["auto"] = "auto",
    fusion: FusionName | Literal["auto"] = "auto",
    names: bool = True,
    source: str | Path | None = None,
    alpha: float | Literal["auto"] = "auto",
    semi: SemiName | None = None,
    class_weight: Literal["balanced"] | None = None,
    tune: int = 0,
    sampler: SamplerName = "tpe",
    nested: bool = False,
    also: Sequence[ProtocolName] = (),
    log_dir: str | Path | None = None,
    report: str | Path | None = None,
    on_trial: Callable[[Any], None] | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> FitReport:
    """Train a recogniser on the labelled items of a collection and save it as a folder.

    Args:
        collection: where the items are.
        label: the column to predict, or several with commas between. Items without a value are left out; of several
            columns, items need one.
        out: the folder to write; a model that is there is replaced, and kept (`revert`).
        task: what the column holds: `"classes"`, `"labels"` (several an item, with ";" or "|" between) or `"number"`.
            `"auto"` looks at the values. Only one column of classes has the choices from `shots` on (but `group`):
            numbers and labels are predicted by ridge and logistic regression, several columns also by one network that
            learns them together, each column by what is better on held-out items.
        modalities: what to learn from. Default: all that the items have. Any subset works when predicting.
        shots: train on so many items a class, drawn at random, and measure on the rest. Default: train on all, and
            measure each item by heads that did not see it (five folds).
        where: only items that meet this SQL condition.
        group: column whose values keep items on one side of every split, such as the recording or patient they are of.
        alike: cosine of the embeddings of two pictures, sounds or videos from which they count as near-duplicates and are
            kept on one side of every split, too; above 1 none do.
        adapter: the rung of the ladder, or `"auto"`, see `chiasm.recognition.Recognizer`.
        fusion: how modalities are joined, or `"auto"`, see there.
        names: whether the names of the classes, embedded in the collection's space, count as one more shot each.
        source: a collection of another domain, embedded alike, with the same column; its items of classes that the target
            has are learned from as well.
        alpha: weight of the source, or `"auto"`.
        semi: how items without a label are used.
        class_weight: `"balanced"` gives every class the same total weight.
        tune: so many trials of a search for hyperparameters (Optuna); what is not `"auto"` above stays as it is. The study
            is kept beside the model as MODEL.study and gone on with when the same is asked again.
        sampler: of the search: `"tpe"` or `"random"`.
        nested: measure by fitting everything anew in each of five outer folds. Without it, what was chosen (rung, fusion)
            was chosen on the items that it is measured on, which flatters a little and takes a fifth of the time.
        also: what to find out besides: `"learning-curve"` (1, 2, 5, 10 and 20 shots), `"held-out-classes"` (classes
            known by their name only), `"incremental"` (classes added later), `"random-split"` (what a split that puts
            copies on both sides would have shown), `"balance"` (weights and sampling of classes, losses and gradients of
            modalities). Each fits many recognisers.
        log_dir: folder for TensorBoard's logs of the networks.
        report: write all that was found out as one .html, .md or .json file.
        on_trial: called with every trial of the search.
        seed: of the draw and of the folds.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: no such column, one class only, classes too small for `shots`, a column of unique ids.
        ChiasmError: the source is embedded otherwise, or a choice that there is not.
    """
    from chiasm.recognition.ladder import RungOptions
    from chiasm.verbs.model import Model, check_report, classes_of, reference_of, save_model

    check_report(report)
    unknown = sorted(set(also) - set(get_args(ProtocolName)))
    if unknown:
        raise ChiasmError(f"also takes {', '.join(get_args(ProtocolName))}; got {unknown[0]!r}")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    space = start_of(opened, networks)
    columns = [label] if label in opened.columns() else [part.strip() for part in label.split(",")]
    data = labelled_items(
        opened, networks, space, columns, modalities=modalities, where=where, group=group, alike=alike
    )
    targets = targets_of(data, task) if len(columns) > 1 or task != "classes" else []
    if len(columns) > 1 or (targets and targets[0].task != "classes"):
        refused = {
            "shots": shots, "adapter": adapter != "auto", "fusion": fusion != "auto", "source": source, "semi": semi,
            "class_weight": class_weight, "tune": tune, "also": also, "nested": nested, "log_dir": log_dir,
            "alpha": alpha != "auto", "names": not names, "sampler": sampler != "tpe",
        }  # fmt: skip
        given = [name for name, value in refused.items() if value]
        if given:
            what = "several columns" if len(columns) > 1 else f"{label!r}, a column of {targets[0].task}"
            raise ChiasmError(f"{', '.join(given)}: only for one column of classes, not for {what}. Leave it out")
        return _fit_columns(opened, data, targets, label, Path(out), report, seed)
    labels = classes_of(data, label)
    embedded = class_names(sorted(set(labels.tolist())), space, networks) if names else {}
    options = RungOptions() if log_dir is None else logged(RungOptions(), log_dir)
    other = None if source is None else _source_items(source, label, data.fingerprints, space, device)
    if shots is not None and nested:
        raise ChiasmError("nested measures by folds, shots on the items that were not drawn: take one of them")
    if shots is not None:
        split = few_shot_split(labels, shots, seed=seed, groups=data.groups)
        if not len(split.test):
            raise LabelError(f"{shots} shots a class leave no item to measure on: ask for fewer")
        train = split.train
    else:
        train = np.arange(len(labels))
    arguments: dict[str, Any] = {
        "adapter": adapter, "fusion": fusion, "alpha": alpha, "semi": semi,
        "class_weight": class_weight, "options": options, "random_state": seed,
    }  # fmt: skip
    items = Items.check(data.arrays, labels, data.groups, names=embedded or None, source=other)
    tuning = None
    if tune:
        from chiasm.recognition.tuning import tune as search_parameters

        tuning = search_parameters(
            items.take(train),
            trials=tune,
            sampler=sampler,
            adapters=None if adapter == "auto" else [adapter],
            fusions=None if fusion == "auto" else [fusion],
            study=Path(f"{out}.study"),
            seed=seed,
            on_trial=on_trial,
        )
        searched = dict(tuning.best)
        if log_dir is not None:
            searched["options"] = logged(searched.get("options", options), log_dir)
        said = {"alpha": alpha != "auto", "class_weight": class_weight is not None}
        arguments |= {name: value for name, value in searched.items() if not said.get(name)}

    def make() -> Recognizer:
        return Recognizer(**arguments)

    model = make().fit(
        data.arrays.take(train),
        labels[train],
        groups=data.groups[train],
        names=embedded,
        source=other,
        unlabelled=data.unlabelled,
    )
    if shots is not None:
        found = recognised(model, data, labels, split.test)
        measured = f"{len(split.test)} other items, after {shots} a class for training"
    elif nested:
        found = cross_validated(make, data, labels, items, seed)
        measured = f"all {len(labels)} items, each by a recogniser fitted without it ({FOLDS} outer folds)"
    else:
        found = held_out(model, data, labels)
        measured = (
            f"{len(found)} of {len(labels)} items, each by heads that did not see it ({FOLDS} folds; rung and fusion were "
            "chosen on the same folds)"
        )
    metrics = measure(found)
    besides = protocols(also, make, items, seed)
    result = FitReport(
        model=str(Path(out)),
        label=label,
        classes=tuple(str(name) for name in model.classes_),
        modalities=tuple(data.fingerprints),
        items=len(train),
        unlabelled=0 if data.unlabelled is None else len(data.unlabelled),
        measured=measured,
        metrics=metrics,
        chosen=model.details_.as_dict(),
        duplicates=duplicates(data, labels, seed),
        also={name: value.as_dict() for name, value in besides.items()}
        | ({} if tuning is None else {"tuning": tuning.as_dict()}),
    )
    seen = frozenset(data.ids[row] for row in train)
    kept = reference_of(data.arrays.take(train), seed=seed)
    save_model(
        Path(out), Model(model, opened.encoder, label, dict(data.fingerprints), seen, result.as_dict(), reference=kept)
    )
    if report is not None:
        from chiasm.report.page import Page
        from chiasm.report.sections import show, show_choices, show_protocol, show_tuning

        page = Page(f"{label}: {len(result.classes)} classes", f"Model {Path(out).name}. Measured on {measured}.")
        page.section("How well it recognises")
        show(page, found, metrics)
        show_choices(page, model.details_)
        if tuning is not None:
            show_tuning(page, tuning)
        page.section("Splits", result.duplicates)
        for value in besides.values():
            show_protocol(page, value)
        page.save(report)
    return result


def _fit_columns(
    opened: Collection,
    data: Labelled,
    targets: Sequence[Targets],
    label: str,
    out: Path,
    report: str | Path | None,
    seed: int,
) -> FitReport:
    """Numbers, several labels an item, or several columns."""
    from chiasm.recognition.multitask import MultiTaskPredictor
    from chiasm.verbs.model import Model, reference_of, save_model

    def make() -> MultiTaskPredictor:
        return MultiTaskPredictor(random_state=seed)

    if len(targets) == 1:
        found = cross_validated_columns(make, data, targets, seed)
        measured = f"all {len(data.ids)} items, each by a predictor fitted without it ({FOLDS} folds)"
    else:
        split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
        part = [target.take(split.train) for target in targets]
        trained = make().fit(data.arrays.take(split.train), part, groups=data.groups[split.train])
        found = predict_columns(trained, data, targets, split.test)
        measured = f"{len(split.test)} items that were held out; the model has then learned from all"
    predictor = make().fit(data.arrays, targets, groups=data.groups)
    metrics = measure_columns(found)
    result = FitReport(
        model=str(out),
        label=label,
        classes=tuple(str(name) for name in targets[0].names) if len(targets) == 1 else (),
        modalities=tuple(data.fingerprints),
        items=len(data.ids),
        unlabelled=0 if data.unlabelled is None else len(data.unlabelled),
        measured=measured,
        metrics=metrics,
        chosen=predictor.details_.as_dict(),
        duplicates=f"{data.alike} items are copies or near-duplicates of others and are kept on one side of every split.",
    )
    model = Model(
        predictor, opened.encoder, label, dict(data.fingerprints), frozenset(data.ids), result.as_dict(),
        reference=reference_of(data.arrays, seed=seed),
    )  # fmt: skip
    save_model(out, model)
    if report is not None:
        from chiasm.report.page import Page
        from chiasm.report.sections import show_columns

        page = Page(
            f"{label}: {', '.join(target.task for target in targets)}", f"Model {out.name}. Measured on {measured}."
        )
        show_columns(page, found, metrics, predictor.details_)
        page.save(report)
    return result


def _source_items(
    source: str | Path,
    label: str,
    fingerprints: Mapping[Modality, str],
    space: Space,
    device: Device,
) -> SourceItems:
    """Return the labelled items of another collection, embedded by the same encoders."""
    opened = Collection.open(source)
    networks = encoders.resolve(opened.encoder, device=device)
    theirs = fingerprints_of(networks)
    for modality, fingerprint in fingerprints.items():
        if theirs.get(modality) != fingerprint:
            raise ChiasmError(
                f"the source {source} has {modality} embeddings of another encoder ({theirs.get(modality, 'none')}, the "
                f"target {fingerprint}). Add its files with the target's encoder"
            )
    labelled = labelled_items(opened, networks, space, [label], modalities=tuple(fingerprints))
    return SourceItems(labelled.arrays, labelled.labels)
