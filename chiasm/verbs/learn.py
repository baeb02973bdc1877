"""The loop: a model is fitted again with what people said, compared with the old one, and takes its place if not worse.

What is learned from: the items that the old model learned from, with the labels that the collection has for them now, and
the items that people labelled; of both, what people say counts more than what the collection says. What was chosen when
the model was fitted (rung, fusion, weight of the source) stays; strengths are chosen anew.

What is compared, and never an item by a model that saw it or a copy of it:

- Where the collection has at least 30 labelled items that neither side learns from, the old model itself and the new one
  are asked about these.
- Else in folds: both sides are fitted, the old one from what the old model learned from and with the labels that it had,
  the new one with what people said, and each item is judged by parts of theirs that were fitted without its fold. That
  compares the two ways of learning, not the two models themselves. Strengths are chosen on the same folds, which flatters
  both sides alike.

The truth is what people said, on both sides. The new model is taken if no column is worse by more than one standard error
of the paired difference, nor by more than two points; so a tie is taken, since the new one knows more.

Feedback is `chiasm.store.feedback`, replacing a model on disk `chiasm.verbs.model`, whether embeddings still are as they were
`chiasm.verbs.drift`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from chiasm import encoders
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, LabelError
from chiasm.evaluation.intervals import paired_difference
from chiasm.evaluation.metrics import classification_metrics
from chiasm.evaluation.predictions import Predictions
from chiasm.recognition import Recognizer, SourceItems
from chiasm.recognition.targets import Kind, Target, parse_target
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.store.feedback import UNKNOWN, FeedbackTable
from chiasm.types import Scalar
from chiasm.verbs.dataset import Labelled, class_names, fingerprints_of, labelled_items
from chiasm.verbs.fit import source_items
from chiasm.verbs.measure import brier, class_target, details_of, held_out, hits, joined, pick, predictions
from chiasm.verbs.model import Model, load_model, reference_of, revert_model, save_model
from chiasm.verbs.spaces import start_of

FEWEST_HELD_OUT = 30
FEWEST_OF_A_CLASS = 3
MARGIN = 0.02  # of the score; of a number, of the old error

Unseen: TypeAlias = Literal["auto", "compare", "learn"]
Values: TypeAlias = dict[str, list[Any]]
"""Of each column, one value an item; None where it has none."""
_Rows: TypeAlias = Int[np.ndarray, " rows"]
_SCORES: Mapping[Kind, str] = {
    "classes": "accuracy", "labels": "share of labels right", "number": "minus absolute error",
}  # fmt: skip


# --------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class ColumnComparison:
    """One column, old against new on the same items. Items that are copies of one another count as one."""

    column: str
    score: str  # "accuracy", "share of labels right" or "minus absolute error": more is better
    old: float
    new: float
    difference: float  # new - old
    standard_error: float
    interval: tuple[float, float]  # 95 %
    p_value: float
    allowed: float  # by so much the new one may be worse
    old_metrics: dict[str, float]  # of classes also macro-F1 and Brier score
    new_metrics: dict[str, float]

    @property
    def is_worse(self) -> bool:
        """By more than is allowed."""
        return self.difference < -self.allowed


@dataclass(frozen=True)
class LearnReport:
    """What a model learned from what people said, and whether it took the old one's place."""

    model: str
    label: str
    corrections: int  # items with a label of people's that were learned from
    overruled: int  # of these, items whose label in the collection is another one
    left_out: int  # items that people say are of no known class
    waiting: dict[str, int]  # class that is too new -> examples that are missing
    classes_added: tuple[str, ...]
    classes_gone: tuple[str, ...]  # all their items were corrected away
    items: int  # learned from
    compared: str  # on what, in words
    how: Literal["held-out", "folds", "nothing"]
    judged: int  # items
    columns: tuple[ColumnComparison, ...]
    switched: bool
    why: str
    version: str  # of the model that is there now
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


# ----------------------------------------------------------------------------------------------------------- learn


def learn_again(
    folder: str | Path,
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    *,
    unseen: Unseen = "auto",
    names: bool = True,
    source: SourceItems | None = None,
    group: str | None = None,
    alike: float = 0.97,
    least: int = FEWEST_OF_A_CLASS,
    switch: bool = True,
) -> LearnReport:
    """Fit a model again with what people said; compare; take the new one if it is not worse, see the top of the module.

    Nothing is done where people said nothing that the model has not learned. Labels that changed in the collection itself
    are learned with the next thing that people say; to learn from them at once, fit.

    Args:
        folder: the model.
        collection: with its labels and feedback.
        networks: its encoders.
        space: in which nothing was learned, see `chiasm.verbs.spaces.start_of`.
        unseen: what to do with labelled items that the model has not seen and nobody corrected: `"compare"` with them,
            `"learn"` from them too, or `"auto"`: compare where there are at least 30 of them, else learn.
        names: whether the names of classes count as examples, as in `fit`.
        source: the other domain, of a model that was fitted with one.
        group: column whose values keep items on one side, as in `fit`.
        alike: cosine from which items count as copies, as in `fit`.
        least: examples, not counting copies, that a class must have to be added.
        switch: whether to take the new model if it is not worse; else only say how it compares.

    Raises:
        ChiasmError: there is no model, it is of another encoder, or was replaced meanwhile; it was fitted with a source
            and there is none.
        LabelError: what is left to learn from does not allow it, or there are too few items to compare on.
    """
    begin = time.monotonic()
    if unseen not in get_args(Unseen):
        raise ChiasmError(f"unseen must be one of {', '.join(get_args(Unseen))}; got {unseen!r}")
    saved = load_model(Path(folder))
    saved.check(fingerprints_of(networks))
    corrections = _corrections(collection, list(saved.recognizer.columns_))
    data = labelled_items(
        _Overlaid(collection, corrections), networks, space, list(corrections), modalities=tuple(saved.fingerprints), group=group, alike=alike
    )  # fmt: skip
    plan = _plan(saved, data, corrections, _stored(collection, data, list(corrections)), unseen=unseen, least=least)
    start = LearnReport(
        model=str(folder), label=saved.label, corrections=int((plan.corrected & plan.new).sum()), overruled=plan.overruled,
        left_out=plan.left_out, waiting=plan.waiting, classes_added=(), classes_gone=(), items=int(plan.new.sum()),
        compared="nothing", how="nothing", judged=0, columns=(), switched=False, why="", version=saved.version, seconds=0.0,
    )  # fmt: skip
    if not plan.is_news:
        why = "people said nothing that the model has not learned already"
        return replace(start, why=why, seconds=time.monotonic() - begin)
    again = _Again(saved.recognizer, data, plan, networks, space, names=names, source=source)
    new = again.fit(np.flatnonzero(plan.new), plan.truth)
    columns, how, judged, compared = _compare(saved.recognizer, new, again, data, plan)
    worse = [column for column in columns if column.is_worse]
    known, before = _names(new), _names(saved.recognizer)
    report = replace(
        start,
        classes_added=tuple(sorted(known - before)),
        classes_gone=tuple(sorted(before - known)),
        compared=compared,
        how=how,
        judged=judged,
        columns=columns,
        switched=switch and not worse,
        why="; ".join(map(_why, worse or columns)),
    )
    if report.switched:
        successor = _successor(saved, new, data, plan, corrections, report)
        report = replace(report, version=save_model(Path(folder), successor, expected=saved.version))
    return replace(report, seconds=time.monotonic() - begin)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Who learns from which items, with which labels. The masks are over the items of a `Labelled`."""

    truth: Values
    before: Values  # labels that the old model had
    old: Bool[np.ndarray, " items"]  # the old model learned from
    new: Bool[np.ndarray, " items"]  # the new one is to learn from
    held_out: Bool[np.ndarray, " items"]  # to compare on; none: by folds
    corrected: Bool[np.ndarray, " items"]
    overruled: int
    left_out: int
    waiting: dict[str, int]

    @property
    def is_news(self) -> bool:
        """Whether the new model would learn from anything that the old one did not."""
        rows = np.flatnonzero(self.new).tolist()
        same = all(self.truth[column][row] == self.before[column][row] for column in self.truth for row in rows)
        return not (same and bool((self.new == self.old).all()))


class _Overlaid(Collection):
    """A collection read as if its table held what people said, but for items of no known class."""

    def __init__(self, collection: Collection, corrections: Mapping[str, Mapping[str, Scalar]]) -> None:
        super().__init__(collection.path, collection.encoder, collection.generation)
        self._corrections = corrections

    def items(self, *, where: str | None = None, ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """As those of the collection; `where` is about the labels that are stored."""
        rows = super().items(where=where, ids=ids)
        for row in rows:
            for column, labels in self._corrections.items():
                if labels.get(row["id"]) is not None:
                    row[column] = labels[row["id"]]
        return rows


def _corrections(collection: Collection, columns: Sequence[str]) -> dict[str, dict[str, Scalar]]:
    """What people said of each column, by item, as values such as the column has; None: of no known class."""
    table = FeedbackTable(collection)
    rows = collection.items()
    corrections: dict[str, dict[str, Scalar]] = {}
    for column in columns:
        values = {row[column] for row in rows if row.get(column) is not None}
        kind = next((type(value) for value in values if isinstance(value, bool | int | float)), str)
        has_unknown = UNKNOWN in values  # then it is a class as others are
        corrections[column] = {
            item: None if agreed.verdict == UNKNOWN and not has_unknown else _value(agreed.verdict, kind)
            for item, agreed in table.labels(column).items()
        }
    return corrections


def _value(text: str, kind: type) -> Scalar:
    """A label as a value such as its column has; as text where it is none."""
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            number = float(text)
        except ValueError:
            return text
        return int(number) if kind is int and number.is_integer() else number
    return text


def _stored(collection: Collection, data: Labelled, columns: Sequence[str]) -> Values:
    """The labels that the collection has itself, in the order of the items."""
    rows = {str(row["id"]): row for row in collection.items()}

    def cell(item: str, column: str) -> Any:
        value = rows[item].get(column)
        return None if value is None or str(value).strip() == "" else value

    return {column: [cell(item, column) for item in data.ids] for column in columns}


def _plan(
    saved: Model,
    data: Labelled,
    corrections: Mapping[str, Mapping[str, Scalar]],
    stored: Values,
    *,
    unseen: Unseen,
    least: int,
) -> _Plan:
    earlier = saved.report.get("corrections", {})
    every: Values = {}
    before: Values = {}
    for column, labels in corrections.items():
        every[column] = [labels.get(item, value) for item, value in zip(data.ids, stored[column], strict=True)]
        had = earlier.get(column, {})
        before[column] = [had.get(item, value) for item, value in zip(data.ids, stored[column], strict=True)]
    trained = np.array([item in saved.trained_on for item in data.ids])
    corrected = np.array([any(item in labels for labels in corrections.values()) for item in data.ids])
    old = trained & _any_value(before)
    others = ~trained & ~corrected
    tries = {"compare": trained | corrected, "learn": np.ones_like(trained)}

    def settled(way: Literal["compare", "learn"]) -> tuple[Values, dict[str, int], Bool[np.ndarray, " items"]]:
        """The labels without those of classes that are too new, these classes, and the items to learn from."""
        kept, waiting = _held_back(every, tries[way], saved.recognizer, data.groups, least)
        return kept, waiting, tries[way] & _any_value(kept)

    truth, waiting, new = settled("compare")
    apart = others & _any_value(truth) & ~np.isin(data.groups, data.groups[old | new])
    for column, values in truth.items():
        if len(truth) == 1 and saved.recognizer.columns_[column].kind == "classes":
            # Of a class that neither knows, both are always wrong.
            known = _names(saved.recognizer) | {str(values[row]) for row in np.flatnonzero(new)}
            apart &= np.array([str(value) in known for value in values])
    enough = len(np.unique(data.groups[apart]))
    if unseen == "compare" and enough < 2:
        raise LabelError(
            f"there are {enough} labelled items, not counting copies of others, that the model has not seen: too "
            "few to compare on. Leave unseen='compare' out to compare by folds"
        )
    compare = unseen == "compare" or (unseen == "auto" and enough >= FEWEST_HELD_OUT)
    if not compare:
        truth, waiting, new = settled("learn")
    overruled = sum(
        any(corrected[row] and stored[column][row] not in (None, truth[column][row]) for column in truth)
        for row in np.flatnonzero(new)
    )
    left_out = sum(value is None for labels in corrections.values() for value in labels.values())
    return _Plan(
        truth, before, old, new, apart if compare else np.zeros_like(apart), corrected, overruled, left_out, waiting
    )


def _any_value(values: Values) -> Bool[np.ndarray, " items"]:
    return np.array([any(value is not None for value in row) for row in zip(*values.values(), strict=True)], dtype=bool)


def _held_back(
    values: Values,
    learned_from: Bool[np.ndarray, " items"],
    recognizer: Recognizer,
    groups: Int[np.ndarray, " items"],
    least: int,
) -> tuple[Values, dict[str, int]]:
    """The labels without those of classes that are too new, and these classes with how many examples are missing."""
    kept: Values = {}
    waiting: dict[str, int] = {}
    for column, labels in values.items():
        known = _names(recognizer, column)
        examples: dict[str, set[int]] = {}
        if recognizer.columns_[column].kind == "classes":
            for row in np.flatnonzero(learned_from):
                if labels[row] is not None and str(labels[row]) not in known:
                    examples.setdefault(str(labels[row]), set()).add(int(groups[row]))
        few = {name: least - len(of) for name, of in examples.items() if len(of) < least}
        kept[column] = [
            None if learned and str(label) in few else label
            for label, learned in zip(labels, learned_from.tolist(), strict=True)
        ]
        waiting |= few
    return kept, waiting


def _names(recognizer: Recognizer, column: str | None = None) -> set[str]:
    """The classes and labels that a recogniser knows, of one column or of all."""
    columns = recognizer.columns_.items()
    return {str(name) for of, fitted in columns if column in (None, of) for name in fitted.names}


# ------------------------------------------------------------------------------------------------------------- fitting


class _Again:
    """A recogniser is fitted again, with what was chosen for it, and asked about items that it has not seen.

    The truth is what people said.
    """

    def __init__(
        self,
        old: Recognizer,
        data: Labelled,
        plan: _Plan,
        networks: Sequence[Encoder],
        space: Space,
        *,
        names: bool,
        source: SourceItems | None,
    ) -> None:
        self._choices, self._kinds = old.get_params(), {name: one.kind for name, one in old.columns_.items()}
        self._data, self._plan, self._source, self._names = data, plan, None, dict[str, Any]()
        self._unlabelled = None
        if self._kinds and list(self._kinds.values()) == ["classes"]:
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
        self._asked = [self._target(column, old) for column in self._kinds]
        if names and len(self._kinds) == 1 and self._asked[0].kind != "number":
            self._names = dict(class_names(self._asked[0].names.tolist(), space, networks))

    def fit(self, rows: _Rows, values: Values, *, unknown: bool = True) -> Recognizer:
        """Learn from some items; `unknown`: whether unknown things are to be told apart, too."""
        targets = [self._learned(column, values[column], rows) for column in self._kinds]
        known = set(targets[0].names.tolist())
        return Recognizer(**(self._choices | ({} if unknown else {"unknown": None}))).fit(
            self._data.arrays.take(rows),
            targets,
            self._data.groups[rows],
            names={name: vector for name, vector in self._names.items() if name in known} or None,
            source=self._source,
            unlabelled=self._unlabelled,
        )

    def ask(self, recognizer: Recognizer, rows: _Rows) -> dict[str, Predictions]:
        """Return what a recogniser predicts of items that it has not seen."""
        return predictions(recognizer, self._data, self._asked, rows)

    def in_folds(self, rows: _Rows, values: Values, fitted: Recognizer | None) -> dict[str, Predictions]:
        """Return what is predicted of the items that the new model learns from, each by what was fitted without it.

        Args:
            rows: to learn from.
            values: their labels.
            fitted: a recogniser that was fitted on just these, if there is one.
        """
        recognizer = fitted or self.fit(rows, values, unknown=False)
        data = _some(self._data, rows)
        # Items that this side does not learn from were not seen by any of it, but copies of them may have been.
        others = np.flatnonzero(self._plan.new & ~np.isin(self._data.groups, self._data.groups[rows]))
        asked = self.ask(recognizer, others) if len(others) else {}
        parts = {}
        for target in self._asked:
            learned = np.array([values[target.column][row] is not None for row in rows], dtype=bool)
            own = held_out(recognizer, data, target.take(rows), learned=learned)
            parts[target.column] = joined([own, *([asked[target.column]] if target.column in asked else [])])
        return parts

    def _learned(self, column: str, values: Sequence[Any], rows: _Rows) -> Target:
        """A column of some items, to learn from."""
        cells = [values[row] for row in rows]
        if self._kinds[column] == "classes" and len(self._kinds) == 1:
            return class_target(cells, column=column)
        return parse_target(cells, column=column, task=self._kinds[column])

    def _target(self, column: str, old: Recognizer) -> Target:
        """What is true, with all names that either side may say."""
        kind, truth = self._kinds[column], self._plan.truth[column]
        if kind == "number":
            return parse_target(truth, column=column, task=kind)
        both = [*truth, *self._plan.before[column]]
        if kind == "classes":
            target = class_target(both, column=column)
        else:
            known = parse_target(both, column=column, task=kind).names
            every = sorted({*known.tolist(), *old.columns_[column].names.tolist()})
            target = parse_target(both, column=column, task=kind, labels=every)
        return target.take(np.arange(len(truth)))


def _some(data: Labelled, rows: _Rows) -> Labelled:
    """Some of the items."""

    def pick(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[row] for row in rows)

    return replace(
        data,
        ids=pick(data.ids),
        arrays=data.arrays.take(rows),
        values={column: pick(values) for column, values in data.values.items()},
        groups=data.groups[rows],
        media=pick(data.media),
    )


# ------------------------------------------------------------------------------------------------------------- compare


def _compare(
    old: Recognizer, new: Recognizer, again: _Again, data: Labelled, plan: _Plan
) -> tuple[tuple[ColumnComparison, ...], Literal["held-out", "folds"], int, str]:
    """Old against new; how, on how many items, and that in words."""
    if plan.held_out.any():
        rows = np.flatnonzero(plan.held_out)
        before, after = again.ask(old, rows), again.ask(new, rows)
    else:
        rows = np.flatnonzero(plan.new)
        before = again.in_folds(np.flatnonzero(plan.old), plan.before, None)
        after = again.in_folds(rows, plan.truth, new)
    judged = np.array([data.ids[row] for row in rows])
    columns, items = [], set()
    for column, theirs in before.items():
        ours = after[column]
        both = np.intersect1d(np.intersect1d(np.array(theirs.ids), np.array(ours.ids)), judged)
        columns.append(_compared(column, _of_items(theirs, both), _of_items(ours, both)))
        items |= set(both.tolist())
    if plan.held_out.any():
        return tuple(columns), "held-out", len(items), f"{len(items)} labelled items that neither model learned from"
    words = (
        f"{len(items)} items in folds, each judged by what was fitted without it: on the one side as the old model was, on the "
        "other with what people said"
    )
    return tuple(columns), "folds", len(items), words


def _of_items(column: Predictions, ids: Shaped[np.ndarray, " some"]) -> Predictions:
    """The predictions of some of the items, in the order of `ids`."""
    own = np.array(column.ids)
    order = np.argsort(own)
    return pick(column, order[np.searchsorted(own, ids, sorter=order)])


def _compared(column: str, old: Predictions, new: Predictions) -> ColumnComparison:
    """The same items of one column, in the same order."""
    a, b = (_by_group(_scores(side), side.groups) for side in (new, old))
    difference = paired_difference(a, b)
    scale = abs(float(b.mean())) if new.kind == "number" else 1.0
    return ColumnComparison(
        column=column,
        score=_SCORES[new.kind],
        old=float(b.mean()),
        new=float(a.mean()),
        difference=difference.mean,
        standard_error=difference.standard_error,
        interval=(difference.interval.low, difference.interval.high),
        p_value=difference.p_value,
        allowed=min(difference.standard_error, MARGIN * scale),
        old_metrics=_metrics(old),
        new_metrics=_metrics(new),
    )


def _scores(column: Predictions) -> Float64[np.ndarray, " items"]:
    """The score of each item, more is better."""
    if column.kind == "number":
        errors: Float64[np.ndarray, " items"] = -np.abs(column.true - column.predicted).astype(np.float64)
        return errors
    if column.kind == "labels":
        return np.asarray((column.true == column.predicted).mean(axis=1), dtype=np.float64)
    return hits(column)


def _by_group(
    scores: Float64[np.ndarray, " items"], groups: Int[np.ndarray, " items"]
) -> Float64[np.ndarray, " groups"]:
    """The mean score of each group."""
    codes = np.unique(groups, return_inverse=True)[1]
    return np.bincount(codes, scores) / np.bincount(codes)


def _metrics(column: Predictions) -> dict[str, float]:
    metrics = {_SCORES[column.kind]: float(_scores(column).mean())}
    if column.kind == "classes":
        f1 = classification_metrics(column.true, column.predicted).f1_macro
        metrics |= {"f1_macro": f1, "brier": float(brier(column).mean())}
    return metrics


def _why(column: ColumnComparison) -> str:
    verdict = (
        f"worse by more than the {column.allowed:.3g} that are allowed (one standard error, at most {MARGIN:.0%})"
        if column.is_worse
        else "not worse"
    )
    return (
        f"{column.column}: {column.score} {column.new:.3g} against {column.old:.3g}, difference {column.difference:+.3g} "
        f"(standard error {column.standard_error:.2g}): {verdict}"
    )


def _successor(
    saved: Model,
    new: Recognizer,
    data: Labelled,
    plan: _Plan,
    corrections: Mapping[str, Mapping[str, Scalar]],
    report: LearnReport,
) -> Model:
    rows = np.flatnonzero(plan.new)
    seen = frozenset(data.ids[row] for row in rows)
    metrics = {column.column: column.new_metrics for column in report.columns}
    about = {
        "items": len(rows),
        "classes": sorted(_names(new)),
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
    )


def learn(
    model: str | Path,
    collection: str | Path,
    *,
    unseen: Literal["auto", "compare", "learn"] = "auto",
    names: bool = True,
    source: str | Path | None = None,
    group: str | None = None,
    alike: float = 0.97,
    switch: bool = True,
    device: Device = "auto",
) -> LearnReport:
    """Fit a model again with the labels that people gave (`labels`), and take the new one if it is not worse.

    Both are judged on the same items that they did not learn from. The old one is kept (`revert`).

    Args:
        model: a folder that `fit` wrote.
        collection: where the labelled items and people's verdicts are.
        unseen: what to do with labelled items that the model has not seen: `"compare"` old and new with them, `"learn"` from
            them, or `"auto"`: compare where there are at least 30.
        names: as in `fit`.
        source: the other domain, of a model that was fitted with one.
        group: as in `fit`.
        alike: as in `fit`.
        switch: whether to take the new model; else only say how it compares.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: there is no model, it is of another encoder, or was replaced meanwhile.
        LabelError: what is left to learn from does not allow it.
    """
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    space = start_of(opened, networks)
    saved = load_model(Path(model))
    other = None
    if source is not None:
        other = source_items(source, saved.label, saved.fingerprints, space, device)
    return learn_again(
        model,
        opened,
        networks,
        space,
        unseen=unseen,
        names=names,
        source=other,
        group=group,
        alike=alike,
        switch=switch,
    )


def revert(model: str | Path) -> str:
    """Bring back the model that `learn` or `fit` replaced. Gives its version.

    Raises:
        ChiasmError: none was replaced.
    """
    return revert_model(Path(model))
