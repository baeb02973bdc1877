"""The verb `learn`: train a model again with corrected labels, compare it with the old one, and replace that if better.

The new model learns from the items that the old one was trained on, with the labels that the collection has for them now,
and from the items that people labelled; what people say counts more than what the collection says. Rung, fusion and weight
of the source stay as they were chosen when the model was fitted; strengths are chosen anew.

Old and new are never judged by an item that they, or a copy of it, were trained on:

- Where the collection has at least 30 labelled items that neither side learns from, both models predict these.
- Otherwise in folds: both sides are fitted, the old one on its items with the labels that it had, the new one with what
  people said, and each item is judged by heads that were fitted without its fold. That compares the two ways of learning,
  not the two models themselves. Strengths are chosen on the same folds, which is optimistic for both sides alike.

The truth is what people said, on both sides. The new model is taken if a column is better by more than one standard error of
the paired difference, and no column is worse by more than one, nor by more than two points. Noise is no reason to switch: the
corrections wait, and count with those to come. If people gave classes that the old model cannot name, or took the last item
of one away, it is enough that no column is worse: items that neither side learned from may hold none of these classes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Int

from chiasm import encoders
from chiasm.encoders.base import Encoder, fingerprints_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.evaluation.predictions import Predictions
from chiasm.evaluation.record import Record
from chiasm.recognition import Recognizer, SourceItems
from chiasm.recognition.targets import Target, parse_target
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.verbs.compare import ColumnComparison, compare_column
from chiasm.verbs.corrections import Corrections, Plan, Unseen, Values, class_set, corrections_of, make_plan
from chiasm.verbs.dataset import Labelled, Sources, class_names, each_source, labelled_items
from chiasm.verbs.fit import source_items
from chiasm.verbs.measure import (
    class_target,
    details_of,
    held_out,
    in_common,
    joined,
    left_out_of,
    predictions,
    read_target,
)
from chiasm.verbs.model import Model, load_model, reference_of, revert_model, save_model
from chiasm.verbs.spaces import revert_space, start_of

_Rows: TypeAlias = Int[np.ndarray, " rows"]


@dataclass(frozen=True)
class LearnReport(Record):
    """Corrections that a model learned from, and whether it replaced the old one."""

    model: str
    label: str
    corrections: int  # items with a corrected label that were trained on
    overruled: int  # of these, items whose label in the collection is another one
    left_out: int  # items that people say are of no known class
    waiting: dict[str, int]  # class that is too new -> number of examples missing
    classes_added: tuple[str, ...]
    classes_gone: tuple[str, ...]  # all their items were corrected away
    items: int  # trained on
    compared: str  # on what, in words
    how: Literal["held-out", "folds", "nothing"]
    judged: int  # items
    columns: tuple[ColumnComparison, ...]
    switched: bool
    why: str
    version: str  # of the model that is there now
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LearnOptions:
    """The options of `learn`, which documents them."""

    unseen: Unseen = "auto"
    names: bool = True
    group: str | None = None
    alike: float = 0.97
    switch: bool = True

    def __post_init__(self) -> None:
        if self.unseen not in get_args(Unseen):
            raise ChiasmError(f"unseen must be one of {', '.join(get_args(Unseen))}; got {self.unseen!r}")


def learn(
    model: str | Path,
    collection: str | Path,
    *,
    unseen: Unseen = "auto",
    names: bool = True,
    source: Sources = None,
    group: str | None = None,
    alike: float = 0.97,
    switch: bool = True,
    device: Device = "auto",
) -> LearnReport:
    """Train a model again with the labels that people gave (`labels`), and replace the old one if the new one is better.

    Both are judged on the same items, which they were not trained on. The old one is kept (`revert`). Does nothing if the
    model has already learned all corrections; labels that changed in the collection itself are learned with the next
    correction, or at once by `fit`.

    Args:
        model: a folder that `fit` wrote.
        collection: where the labelled items and people's verdicts are.
        unseen: use of labelled items that the model has not seen and nobody corrected: `"compare"` old and new by them,
            `"learn"` from them, or `"auto"`: compare where there are at least 30.
        names: as in `fit`.
        source: the other domain, or several, of a model that was fitted so.
        group: as in `fit`.
        alike: as in `fit`.
        switch: whether to replace the old model; otherwise only report the comparison.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: there is no model, it is of another encoder, or was replaced meanwhile; it was fitted with a source
            and there is none.
        LabelError: the remaining labels cannot be learned from, or there are too few items to compare on.
    """
    options = LearnOptions(unseen=unseen, names=names, group=group, alike=alike, switch=switch)
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    space = start_of(opened, networks)
    other: SourceItems | None = None
    contents: tuple[str, ...] = ()
    if each_source(source):
        saved = load_model(Path(model))
        other, contents = source_items(source, saved.label, saved.fingerprints, saved.space or space, device)
    return learn_again(model, opened, networks, space, options, source=other, contents=contents)


def revert(target: str | Path, *, space: str | None = None) -> str:
    """Bring back the model that `learn` or `fit` replaced, or the space that `align` did, and return its version.

    A second time undoes the first.

    Args:
        target: the model, or the collection.
        space: of a collection, the name of its space. Default: the newest.

    Raises:
        ChiasmError: none was replaced.
    """
    if (Path(target).expanduser() / "chiasm.json").exists():
        return revert_space(Collection.open(target), space)
    if space is not None:
        raise ChiasmError(f"{target} is not a collection, and has no space {space!r}. Leave it out to revert a model")
    return revert_model(Path(target))


def learn_again(
    folder: str | Path,
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    options: LearnOptions | None = None,
    *,
    source: SourceItems | None = None,
    contents: Sequence[str] = (),
) -> LearnReport:
    """Do what `learn` does, with an opened collection.

    Args:
        folder: the model.
        collection: with its labels and feedback.
        networks: its encoders.
        space: its start space, see `chiasm.verbs.spaces.start_of`.
        options: see `learn`.
        source: the other domains, of a model that was fitted so.
        contents: of the items of the source.
    """
    begin = time.monotonic()
    options = options or LearnOptions()
    saved = load_model(Path(folder))
    saved.require_record("it does not learn on: fit it again, which spends epsilon once more")
    saved.check(fingerprints_of(networks))
    space = saved.space or space
    corrections = corrections_of(collection, list(saved.recognizer.columns_))
    data = labelled_items(
        collection, networks, space, list(corrections), modalities=tuple(saved.fingerprints), group=options.group,
        alike=options.alike, corrections=corrections,
    )  # fmt: skip
    plan = make_plan(saved, data, corrections, collection, options.unseen)
    report = LearnReport(
        model=str(folder), label=saved.label, corrections=int((plan.corrected & plan.new).sum()), overruled=plan.overruled,
        left_out=plan.left_out, waiting=plan.waiting, classes_added=(), classes_gone=(), items=int(plan.new.sum()),
        compared="nothing", how="nothing", judged=0, columns=(), switched=False, version=saved.version, seconds=0.0,
        why="the model has already learned all corrections",
    )  # fmt: skip
    if plan.is_news:
        refit = _Refit(saved.recognizer, data, plan, source)
        if options.names and refit.is_named:
            refit.names = dict(class_names(refit.targets[0].names.tolist(), space, networks, data.arrays))
        new = refit.fit(np.flatnonzero(plan.new), plan.truth)
        report = _compare(replace(report, switched=options.switch), saved.recognizer, new, refit)
        if report.switched:
            successor = _successor(saved, new, data, plan, corrections, report, contents)
            report = replace(report, version=save_model(Path(folder), successor, expected=saved.version))
    return replace(report, seconds=time.monotonic() - begin)


class _Refit:
    """Fits a recogniser again with the choices that were made for it, and has it predict items that it has not seen."""

    def __init__(self, old: Recognizer, data: Labelled, plan: Plan, source: SourceItems | None) -> None:
        self.data, self.plan = data, plan
        self._kinds = {name: column.kind for name, column in old.columns_.items()}
        self._choices = old.get_params()
        self._source, self._unlabelled = None, None
        self.names: dict[str, Any] = {}
        self._is_classes = list(self._kinds.values()) == ["classes"]
        if self._is_classes:
            details = old.details_
            self._choices |= {"adapter": details.rung, "fusion": details.fusion}
            self._unlabelled = data.unlabelled
            if details.alpha > 0:
                if source is None:
                    raise ChiasmError(
                        "the model was fitted with a source, another collection that it learned from: name it again, or fit "
                        "a model without one"
                    )
                self._choices["alpha"], self._source = details.alpha, source
        self.targets = [self._target(column, old) for column in self._kinds]

    @property
    def is_named(self) -> bool:
        """Whether the names of classes can count as examples."""
        return len(self.targets) == 1 and self.targets[0].kind != "number"

    def fit(self, rows: _Rows, values: Values, *, unknown: bool = True) -> Recognizer:
        """Fit on some items; `unknown`: whether to learn to tell unknown items apart, too."""
        targets = []
        for column, kind in self._kinds.items():
            cells = [values[column][row] for row in rows]
            targets.append(read_target(cells, column=column, kind=kind))
        known = set(targets[0].names.tolist())
        return Recognizer(**(self._choices | ({} if unknown else {"unknown": None}))).fit(
            self.data.arrays.take(rows),
            targets,
            self.data.groups[rows],
            names={name: vector for name, vector in self.names.items() if name in known} or None,
            source=self._source,
            unlabelled=self._unlabelled,
        )

    def predict(self, recognizer: Recognizer, rows: _Rows) -> dict[str, Predictions]:
        """Return predictions of items that a recogniser has not seen."""
        return predictions(recognizer, self.data, self.targets, rows)

    def in_folds(self, rows: _Rows, values: Values, fitted: Recognizer | None) -> dict[str, Predictions]:
        """Return predictions of the items that the new model learns from, each by heads that were fitted without it.

        Args:
            rows: to fit on.
            values: their labels.
            fitted: a recogniser that was fitted on just these, if there is one.
        """
        recognizer = fitted or self.fit(rows, values, unknown=False)
        data = self.data.take(rows)
        # Items that this side does not learn from were not seen by any of it, but copies of them may have been.
        others = np.flatnonzero(self.plan.new & ~np.isin(self.data.groups, self.data.groups[rows]))
        unseen = self.predict(recognizer, others) if len(others) else {}
        parts = {}
        for target in self.targets:
            learned = np.array([values[target.column][row] is not None for row in rows], dtype=bool)
            own = held_out(recognizer, data, target.take(rows), learned=learned)
            parts[target.column] = joined([own, *([unseen[target.column]] if target.column in unseen else [])])
        return parts

    def _target(self, column: str, old: Recognizer) -> Target:
        """Return the truth of a column, with all names that either side may predict."""
        kind, truth = self._kinds[column], self.plan.truth[column]
        if kind == "number":
            return parse_target(truth, column=column, task=kind)
        both = [*truth, *self.plan.before[column]]
        if kind == "classes":
            target = class_target(both, column=column)
        else:
            known = parse_target(both, column=column, task=kind).names
            every = sorted({*known.tolist(), *old.columns_[column].names.tolist()})
            target = parse_target(both, column=column, task=kind, labels=every)
        return target.take(np.arange(len(truth)))


def _compare(report: LearnReport, old: Recognizer, new: Recognizer, refit: _Refit) -> LearnReport:
    """Return the report with the comparison of old and new; `switched` stays only if the new one is taken."""
    plan, data = refit.plan, refit.data
    by_held_out = bool(plan.held_out.any())
    if by_held_out:
        rows = np.flatnonzero(plan.held_out)
        before, after = refit.predict(old, rows), refit.predict(new, rows)
    else:
        rows = np.flatnonzero(plan.new)
        before = refit.in_folds(np.flatnonzero(plan.old), plan.before, None)
        after = refit.in_folds(rows, plan.truth, new)
    shown = {data.ids[row] for row in rows}
    columns = []
    items: set[str] = set()
    for column, theirs in before.items():
        old_side, new_side = in_common(theirs, after[column], shown)
        columns.append(compare_column(column, old_side, new_side))
        items |= set(new_side.ids)
    if by_held_out:
        compared = f"{len(items)} labelled items that neither model was trained on"
    else:
        compared = (
            f"{len(items)} items in folds, each judged by heads fitted without it: on one side with the labels of the old "
            "model, on the other with the corrections"
        )
    worse = [column for column in columns if column.is_worse]
    now, known = class_set(new), class_set(old)
    is_taken = not worse and (now != known or any(column.is_better for column in columns))
    return replace(
        report,
        classes_added=tuple(sorted(now - known)),
        classes_gone=tuple(sorted(known - now)),
        compared=compared,
        how="held-out" if by_held_out else "folds",
        judged=len(items),
        columns=tuple(columns),
        switched=report.switched and is_taken,
        why="; ".join(column.verdict() for column in worse or columns),
    )


def _successor(
    saved: Model,
    new: Recognizer,
    data: Labelled,
    plan: Plan,
    corrections: Corrections,
    report: LearnReport,
    contents: Sequence[str],
) -> Model:
    """Return the model that replaces the old one."""
    rows = np.flatnonzero(plan.new)
    seen = frozenset(data.ids[row] for row in rows)
    known = {
        column: np.array([values[row] is not None for row in rows], dtype=bool) for column, values in plan.truth.items()
    }
    metrics = {column.column: column.new_metrics for column in report.columns}
    about = {
        "items": len(rows),
        "classes": sorted(class_set(new)),
        "measured": report.compared,
        "metrics": next(iter(metrics.values())) if len(metrics) == 1 else {"columns": metrics},
        "chosen": details_of(new),
        "corrections": {
            column: {item: label for item, label in labels.items() if item in seen}
            for column, labels in corrections.items()
        },
        "learned": {name: value for name, value in report.as_dict().items() if name not in ("version", "seconds")},
    }
    return replace(
        saved,
        recognizer=new,
        trained_on=seen,
        report=dict(saved.report) | about,
        reference=reference_of(data.arrays.take(rows)),
        left_out=left_out_of(new, data.take(rows), known, contents),
    )
