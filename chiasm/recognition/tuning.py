"""Search for hyperparameters: which arguments of `Recognizer` do best on held-out items of the same folds.

This module knows the space of arguments worth trying, how a trial is measured, pruned and kept on disk, and how far the
best score can be believed. What an argument does is left to `chiasm.recognition.recognizer`; drawing trials and judging
which parameters matter is Optuna's, which is an extra and loaded by `tune`.

The space is conditional: a trial has only the parameters that its adapter and fusion use. Every trial is measured on the
same folds, so two trials differ by their parameters alone. What is measured is kept as sums by fold and class, from which
the score of any set of folds follows; a study is judged from its file alone.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Float, Float64, Int, Shaped

from chiasm._optional import require
from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.fitting import LEARNED, FusionName, SourceItems
from chiasm.recognition.heads import RUNGS, RungName
from chiasm.recognition.ladder import RungOptions, Task, deal_folds, why_not
from chiasm.recognition.modalities import Arrays, ModalityArrays, as_arrays
from chiasm.recognition.recognizer import Recognizer
from chiasm.splits import Labels, Shots, deal, group_codes, label_codes
from chiasm.vectors import Unchecked

FORMAT, VERSION = "chiasm-tuning", 1
"""Of a study's file. The version changes with the space: trials of another space are not comparable."""

EVALUATOR = "PED-ANOVA"
"""What says how much each parameter matters. (Watanabe et al. 2023, with the treatment of conditional parameters that
Optuna gives it; it needs no further package, and of Optuna's evaluators is the one that looks at parameters which only
some trials have.)"""

SamplerName: TypeAlias = Literal["tpe", "random", "grid"]
ObjectiveName: TypeAlias = Literal["brier", "f1_macro"]
TrialState: TypeAlias = Literal["complete", "pruned", "failed"]
Value: TypeAlias = str | float | int | None

_FEWEST_FOR_IMPORTANCE = 10  # complete trials; of fewer, the best tenth is one trial
_FEWEST_FOR_PRUNING = 5  # complete trials that the median is taken of
_DRAWS_BY_TPE, _DRAWS = 2, 6  # of a trial, until its parameters are new; in a small space there may be no new ones
_EPOCHS_TO_LEARN = 25  # after which a network must be better than guessing on its held-out rows; with few labels an
# epoch is one step, and after ten of them networks that do well in the end were not
_STUDY = "chiasm"
_LARGEST_STUDY = 2**28  # bytes
_STATES: dict[TrialState, str] = {"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}  # Optuna's names


# --------------------------------------------------------------------------------------------------------- the results


@dataclass(frozen=True)
class Measured:
    """The chosen parameters and the default ones on the same items.

    Errors are of the jackknife that leaves out one fold after the other.
    """

    score: float
    standard_error: float
    default: float
    gain: float  # above 0: the chosen ones are better
    gain_error: float  # its standard error

    @property
    def wins(self) -> bool:
        """Whether the gain is more than one standard error."""
        return self.gain > self.gain_error


@dataclass(frozen=True)
class TrialReport:
    """One trial."""

    number: int  # from 0, in the order in which they finished
    parameters: Mapping[str, Value]
    state: TrialState
    score: float | None  # on the folds it was measured on; None if it failed
    folds: int  # it was measured on
    seconds: float
    reason: str = ""  # why it failed or was pruned


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a search found.

    Attributes:
        objective: `"brier"`, lower is better, or `"f1_macro"`, higher is better.
        best: keyword arguments for `Recognizer`.
        parameters: the same in the words of the space, for reports.
        number: of the best trial.
        on_own_folds: the best trial on the folds that it was chosen by.
        nested: on every fold, the trial that is best on the others: a score that the choice did not see. The search
            itself saw all folds, so a little flattery is left.
        outer: on the items that were kept out of the search altogether; None where none were.
        trials: all that finished.
        importance: share of each parameter in what makes a trial one of the best, by `EVALUATOR`; they sum to 1. Empty
            where there are fewer than 10 complete trials.
        interrupted: whether Ctrl-C ended the search.
        warning: how to read the scores, for people.
    """

    objective: ObjectiveName
    best: Mapping[str, Any]
    parameters: Mapping[str, Value]
    number: int
    on_own_folds: Measured
    nested: Measured
    outer: Measured | None
    trials: tuple[TrialReport, ...]
    importance: Mapping[str, float]
    interrupted: bool
    warning: str

    def as_dict(self) -> dict[str, Any]:
        """All but `best`, which `parameters` say in the types of JSON."""
        return {
            "objective": self.objective,
            "parameters": dict(self.parameters),
            "number": self.number,
            "on_own_folds": asdict(self.on_own_folds),
            "nested": asdict(self.nested),
            "outer": None if self.outer is None else asdict(self.outer),
            "trials": [{**asdict(trial), "parameters": dict(trial.parameters)} for trial in self.trials],
            "importance": dict(self.importance),
            "importance_by": EVALUATOR,
            "interrupted": self.interrupted,
            "warning": self.warning,
        }


# ----------------------------------------------------------------------------------------------------------- the space


@dataclass(frozen=True)
class _Range:
    """Values a parameter can have: `choices`, or all numbers from `low` to `high`."""

    default: Value
    grid: tuple[Value, ...]
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False


def _choices(default: Value, *others: Value) -> _Range:
    every = (default, *others)
    return _Range(default, every, every)


_RANGES: dict[str, _Range] = {
    "class_weight": _choices(None, "balanced"),
    # The probe's own path of strengths, or one strength for all heads.
    "strength_from": _choices("path", "fixed"),
    "strength": _Range(0.3, (0.03, 0.3, 3.0), low=1e-3, high=1e2, log=True),
    "alpha_from": _choices("auto", "fixed"),
    "alpha": _Range(0.5, (0.2, 0.5, 0.8), low=0.0, high=0.95),
    "hidden": _Range(128, (32, 128), low=16, high=512, log=True, whole=True),
    "mlp_dropout": _Range(0.3, (0.1, 0.3), low=0.0, high=0.7),
    "bottleneck": _Range(64, (16, 64), low=8, high=256, log=True, whole=True),
    "ratio": _Range(0.2, (0.2, 0.6), low=0.05, high=0.95),
    "width": _Range(64, (32, 64), (64, 16, 32, 128)),  # multiples of the heads of attention
    "rank": _Range(4, (4, 8), low=1, high=16, log=True, whole=True),
    "fusion_dropout": _Range(0.2, (0.2, 0.5), low=0.0, high=0.7),
    "modality_dropout": _Range(0.2, (0.0, 0.2), low=0.0, high=0.6),
    "learning_rate": _Range(3e-3, (1e-3, 3e-3, 1e-2), low=3e-4, high=3e-2, log=True),
    "weight_decay": _Range(1e-2, (1e-2, 1e-1), low=1e-5, high=1.0, log=True),
    "l1": _Range(0.0, (0.0, 1e-3), (0.0, 1e-5, 1e-4, 1e-3, 1e-2)),
    "mixup": _Range(0.0, (0.0, 0.4), (0.0, 0.1, 0.2, 0.4, 1.0)),
}
_OF_TRAINING = ("learning_rate", "weight_decay", "l1", "mixup")
_WITHOUT_CLASS_WEIGHT = {"zero-shot", "prototypes", "tip-adapter"}

_Choose: TypeAlias = Callable[[str, _Range], Value]


@dataclass(frozen=True)
class _Space:
    """What there is to choose from with some data; the first of each is the default."""

    adapters: tuple[str, ...]
    fusions: tuple[str, ...]
    source: bool

    def configuration(self, choose: _Choose) -> dict[str, Value]:
        """Choose the parameters that the ones chosen before make use of."""
        chosen: dict[str, Value] = {}

        def take(*names: str) -> None:
            for name in names:
                chosen[name] = choose(name, _RANGES[name])

        def one_of(name: str, given: tuple[str, ...]) -> Value:
            chosen[name] = choose(name, _choices(*given)) if len(given) > 1 else given[0]
            return chosen[name]

        if one_of("fusion", self.fusions) in LEARNED:
            # A learned fusion predicts by its own network: no adapter has a say.
            take("class_weight", "width", "fusion_dropout", "modality_dropout", *_OF_TRAINING)
            if chosen["fusion"] == "low_rank":
                take("rank")
        else:
            adapter = one_of("adapter", self.adapters)
            if adapter not in _WITHOUT_CLASS_WEIGHT:
                take("class_weight")
            if adapter == "linear":
                take("strength_from")
                if chosen["strength_from"] == "fixed":
                    take("strength")
            elif adapter == "mlp":
                take("hidden", "mlp_dropout", *_OF_TRAINING)
            elif adapter == "residual":
                take("bottleneck", "ratio", *_OF_TRAINING)
        if self.source:
            take("alpha_from")
            if chosen["alpha_from"] == "fixed":
                take("alpha")
        return chosen

    def default(self, **fixed: Value) -> dict[str, Value]:
        """What `Recognizer` does when nothing is said, as far as the space has it."""
        return self.configuration(lambda name, values: fixed.get(name, values.default))

    def defaults(self) -> tuple[dict[str, Value], ...]:
        """The trials that a search begins with: the default, and the plain linear probe on all modalities."""
        plain = {
            name: wanted
            for name, wanted, given in (("adapter", "linear", self.adapters), ("fusion", "concat", self.fusions))
            if wanted in given
        }
        found = [self.default()]
        if self.default(**plain) not in found:
            found.append(self.default(**plain))
        return tuple(found)

    def grid(self, *, seed: int) -> list[dict[str, Value]]:
        """All combinations of the parameters' grid values: those nearest to the default first, the rest by draw.

        With fewer trials than combinations, what is left out are the changes of many parameters at once.
        """
        found: list[tuple[int, dict[str, Value]]] = []
        path: list[int] | None = []
        while path is not None:
            walk = _Walk(path)
            chosen = self.configuration(walk)
            found.append((walk.changes, chosen))
            path = walk.next_path()
        order = np.random.default_rng(seed).permutation(len(found))
        return [found[i][1] for i in sorted(order.tolist(), key=lambda i: found[i][0])]


class _Walk:
    """Chooses grid values: those that a path numbers, and the first of every parameter beyond its end."""

    def __init__(self, path: list[int]) -> None:
        self.path, self.sizes, self.changes = list(path), list[int](), 0

    def __call__(self, _: str, values: _Range) -> Value:
        step = len(self.sizes)
        if step == len(self.path):
            self.path.append(0)
        self.sizes.append(len(values.grid))
        value = values.grid[self.path[step]]
        self.changes += value != values.default
        return value

    def next_path(self) -> list[int] | None:
        """The last parameter that has another value takes it, and those after it begin again; None after the last."""
        path = list(self.path)
        while path and path[-1] + 1 == self.sizes[len(path) - 1]:
            path.pop()
        if not path:
            return None
        path[-1] += 1
        return path


def _arguments(
    chosen: Mapping[str, Value], *, seed: int, on_epoch: Callable[[int, float], None] | None = None
) -> dict[str, Any]:
    """Parameters as arguments of `Recognizer`."""
    given: dict[str, Any] = {
        "adapter": chosen.get("adapter", "linear"),
        "fusion": chosen["fusion"],
        "class_weight": chosen.get("class_weight"),
        "random_state": seed,
    }
    if "alpha_from" in chosen:
        given["alpha"] = chosen.get("alpha", "auto")
    options: dict[str, Any] = {}
    if "strength" in chosen:
        options["strengths"] = (chosen["strength"],)
    if "hidden" in chosen:
        options |= {"hidden": (chosen["hidden"],), "dropout": chosen["mlp_dropout"]}
    options |= {name: chosen[name] for name in ("bottleneck", "ratio") if name in chosen}
    if "learning_rate" in chosen:
        from chiasm.training import Training

        training: dict[str, Any] = {name: chosen[name] for name in _OF_TRAINING}
        if chosen["fusion"] in LEARNED and chosen["class_weight"] == "balanced":
            training["class_balance"] = "weights"
        options["training"] = Training(**training)
    if on_epoch is not None:
        options["on_epoch"] = on_epoch
    if options:
        given["options"] = RungOptions(**options)
    if chosen["fusion"] in LEARNED:
        given["network"] = {
            "width": chosen["width"],
            "dropout": chosen["fusion_dropout"],
            "modality_dropout": chosen["modality_dropout"],
            **({"rank": chosen["rank"]} if "rank" in chosen else {}),
        }
    return given


# ------------------------------------------------------------------------------------------------------------- the data


@dataclass(frozen=True, eq=False)
class _Data:
    """Checked items."""

    arrays: ModalityArrays
    classes: Shaped[np.ndarray, " classes"]
    codes: Int[np.ndarray, " items"]
    groups: Int[np.ndarray, " items"] | None
    names: Mapping[Any, Float[np.ndarray, " dim"]] | None
    source: SourceItems | None

    def take(self, rows: Int[np.ndarray, " rows"]) -> _Data:
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, arrays=self.arrays.take(rows), codes=self.codes[rows], groups=groups)

    @property
    def named(self) -> Int[np.ndarray, " named"]:
        """Numbers of the classes that are known by their name."""
        return np.flatnonzero(np.isin(self.classes, np.array(list(self.names)))) if self.names else np.arange(0)

    def deal(self, folds: int, *, seed: int) -> Int[np.ndarray, " items"]:
        """The fold of each item, -1 where it is never held out; no fold is empty."""
        dealt = deal_folds(self.codes, folds, seed=seed, groups=self.groups, always_known=self.named)
        return np.where(dealt < 0, -1, np.searchsorted(np.unique(dealt[dealt >= 0]), dealt))

    def counts(self, fold_of: Int[np.ndarray, " items"]) -> Float64[np.ndarray, "folds classes"]:
        """How many items of each class each fold has."""
        counts = np.zeros((fold_of.max() + 1, len(self.classes)))
        held = fold_of >= 0
        np.add.at(counts, (fold_of[held], self.codes[held]), 1)
        return counts

    def recognizer(self, arguments: Mapping[str, Any], rows: Int[np.ndarray, " rows"]) -> Recognizer:
        part = self.take(rows)
        return Recognizer(**{**arguments, "unknown": None}).fit(
            part.arrays, self.classes[part.codes], part.groups, names=self.names, source=self.source
        )

    def tally(self, recognizer: Recognizer, rows: Int[np.ndarray, " rows"]) -> Float64[np.ndarray, "3 classes"]:
        """By class: squared errors of the probabilities, items that are right, items that were taken for it."""
        truth, number = self.codes[rows], len(self.classes)
        given = recognizer.predict_proba(self.arrays.take(rows))
        # A class that is known by its name only has no items: what it is given is an error like any other.
        every = np.union1d(self.classes, recognizer.classes_)
        p = np.zeros((len(rows), len(every)))
        p[:, np.searchsorted(every, recognizer.classes_)] = given
        true = np.searchsorted(every, self.classes)[truth]
        guess = p.argmax(axis=1)
        p[np.arange(len(rows)), true] -= 1
        place = np.full(len(every), -1)
        place[np.searchsorted(every, self.classes)] = np.arange(number)
        known = place[guess] >= 0
        return np.stack(
            [
                np.bincount(truth, np.square(p).sum(axis=1), minlength=number),
                np.bincount(truth[guess == true], minlength=number),
                np.bincount(place[guess[known]], minlength=number),
            ]
        )

    def fingerprint(self) -> str:
        """Of all that a score depends on, but for folds and parameters."""
        digest = hashlib.sha256()

        def add(what: str, array: Shaped[np.ndarray, "..."] | None) -> None:
            described = "none" if array is None else f"{array.dtype.str} {array.shape}"
            digest.update(f"{what} {described}\n".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())

        def add_arrays(what: str, arrays: ModalityArrays) -> None:
            for name in arrays.modalities:
                mask = arrays.present[name]
                add(f"{what} {name} mask", mask)
                # Rows of items without the modality are not looked at, and may hold anything.
                for kind, part in (("own", arrays.vectors), ("shared", arrays.shared)):
                    add(f"{what} {name} {kind}", part[name][mask] if name in part else None)

        add_arrays("target", self.arrays)
        digest.update(repr(self.classes.tolist()).encode())
        add("codes", self.codes)
        add("groups", self.groups)
        for label, vector in (self.names or {}).items():
            add(f"name {label!s}", np.asarray(vector))
        if self.source is not None:
            add_arrays("source", self.source.arrays)
            digest.update(repr(np.asarray(self.source.labels).tolist()).encode())
        return digest.hexdigest()


def _checked_data(
    X: Arrays,
    y: Labels,
    groups: Labels | None,
    names: Mapping[Any, Float[np.ndarray, " dim"]] | None,
    source: SourceItems | None,
) -> _Data:
    arrays = as_arrays(X)
    classes, codes = label_codes(y)
    if len(codes) != len(arrays):
        raise LabelError(f"there are {len(arrays)} items but {len(codes)} labels: give one label an item")
    if len(classes) < 2:
        raise LabelError(f"all {len(codes)} labels are the same: at least 2 classes are needed")
    group = None if groups is None else group_codes(groups, len(codes))
    return _Data(arrays, classes, codes, group, names or None, source)


def _space_for(
    data: _Data,
    fold_of: Int[np.ndarray, " items"],
    adapters: Sequence[RungName | Literal["auto"]] | None,
    fusions: Sequence[FusionName | Literal["auto"]] | None,
) -> _Space:
    """What was asked for, or all that the smallest training part allows."""
    every = ("auto", *get_args(FusionName))
    several = len(data.arrays.modalities) > 1
    possible = ["auto", *(rung for rung in RUNGS if _fits(rung, data, fold_of))]
    for what, asked, known in (("adapters", adapters, ("auto", *RUNGS)), ("fusions", fusions, every)):
        wrong = [name for name in asked or () if name not in known]
        if wrong or (asked is not None and not asked):
            raise ChiasmError(f"{what} must be some of {', '.join(known)}; got {wrong or 'none'}")
    return _Space(
        tuple(possible if adapters is None else dict.fromkeys(adapters)),
        tuple((every if fusions is None else dict.fromkeys(fusions)) if several else ("auto",)),
        data.source is not None,
    )


def _fits(rung: RungName, data: _Data, fold_of: Int[np.ndarray, " items"]) -> bool:
    """Whether a rung can be fitted on every modality of every training part."""
    named = data.named
    for name in data.arrays.modalities:
        anchors = Shots(np.zeros((len(named), 1)), named) if len(named) and name in data.arrays.shared else None
        for fold in range(fold_of.max() + 1):
            rows = np.flatnonzero((fold_of != fold) & data.arrays.present[name])
            if len(rows) and why_not(rung, Task(np.empty((len(rows), 1)), data.codes[rows], anchors=anchors)):
                return False
    return True


# --------------------------------------------------------------------------------------------------------------- scores


def _score(
    objective: ObjectiveName,
    tally: Float64[np.ndarray, "folds 3 classes"],
    counts: Float64[np.ndarray, "folds classes"],
    used: Shaped[np.ndarray, " used"] | slice = slice(None),
) -> float:
    """The mean over classes, of those that occur in the folds used (a mask or numbers): all classes count the same."""
    errors, right, taken = tally[used].sum(axis=0)
    support = counts[used].sum(axis=0)
    occurs = support > 0
    if objective == "brier":
        return float(np.mean(errors[occurs] / support[occurs]))
    return float(np.mean(2 * right[occurs] / (support + taken)[occurs]))


def _measured(
    objective: ObjectiveName,
    chosen: Float64[np.ndarray, "folds 3 classes"],
    default: Float64[np.ndarray, "folds 3 classes"],
    counts: Float64[np.ndarray, "folds classes"],
) -> Measured:
    sign = -1 if objective == "brier" else 1
    filled = np.flatnonzero(counts.sum(axis=1))
    pairs = np.array(
        [
            [_score(objective, tally, counts, np.setdiff1d(filled, left)) for tally in (chosen, default)]
            for left in ([], *([fold] for fold in filled))
        ]
    )
    differences = sign * (pairs[:, 0] - pairs[:, 1])

    def error(values: Float64[np.ndarray, " values"]) -> float:
        return float(math.sqrt((len(filled) - 1) / len(filled) * np.square(values - values.mean()).sum()))

    return Measured(
        score=float(pairs[0, 0]),
        standard_error=error(pairs[1:, 0]),
        default=float(pairs[0, 1]),
        gain=float(differences[0]),
        gain_error=error(differences[1:]),
    )


@dataclass(frozen=True, eq=False)
class _Finished:
    """A trial as it stands in the study."""

    report: TrialReport
    tally: Float64[np.ndarray, "folds 3 classes"] = field(repr=False)


def _best(
    objective: ObjectiveName,
    complete: Sequence[_Finished],
    counts: Float64[np.ndarray, "folds classes"],
    used: Shaped[np.ndarray, " used"] | slice = slice(None),
) -> _Finished:
    """The best trial on some folds; of equals, the first, which makes it the default where nothing is better."""
    sign = 1 if objective == "brier" else -1
    return min(complete, key=lambda one: sign * _score(objective, one.tally, counts, used))


def _nested(
    objective: ObjectiveName, complete: Sequence[_Finished], counts: Float64[np.ndarray, "folds classes"]
) -> Measured:
    """Choose on all folds but one, measure on that one, for every fold."""
    chosen = np.empty_like(complete[0].tally)
    for fold in range(len(counts)):
        others = np.arange(len(counts)) != fold
        chosen[fold] = _best(objective, complete, counts, others).tally[fold]
    return _measured(objective, chosen, complete[0].tally, counts)


# ------------------------------------------------------------------------------------------------------------ the search


class _StopTrialError(Exception):
    """Ends a trial: it is hopeless, for a reason in words, or time is over, for none."""


def tune(
    X: Arrays,
    y: Labels,
    *,
    trials: int,
    groups: Labels | None = None,
    names: Mapping[Any, Float[np.ndarray, " dim"]] | None = None,
    source: SourceItems | None = None,
    sampler: SamplerName = "tpe",
    objective: ObjectiveName = "brier",
    adapters: Sequence[RungName | Literal["auto"]] | None = None,
    fusions: Sequence[FusionName | Literal["auto"]] | None = None,
    study: str | Path | None = None,
    folds: int = 5,
    outer: Int[np.ndarray, " outer"] | Sequence[int] | Unchecked | None = None,
    seed: int = 0,
    seconds: float | None = None,
    on_trial: Callable[[TrialReport], None] | None = None,
    log: bool = False,
) -> Tuning:
    """Search the arguments of `Recognizer` that do best on held-out items.

    The first trials are the defaults, so that on its own folds the result is never worse than they. A trial is pruned
    where it is behind the median of the others after a fold, and where a network that it was asked for is no better than
    guessing after 25 epochs; the defaults are not pruned. Where no new parameters are found, a trial takes the score of an
    earlier one.

    The same arguments give the same trials, also when a search was interrupted and is resumed, as long as `seconds` cuts
    nothing off. Ctrl-C ends the search and keeps what is finished; before the default is finished, it goes to the caller.

    Args:
        X: embeddings, as `Recognizer.fit` takes them.
        y: one label an item.
        trials: how many are to be finished, with those of a resumed study. A grid may have fewer.
        groups: items of one group are never on both sides of a fold.
        names: embedded names of classes.
        source: labelled items of another domain. Only with one is its weight searched.
        sampler: `"tpe"` (tree-structured Parzen estimators, Bergstra et al. 2011), `"random"`, or `"grid"`, which goes
            through a fixed grid from the default outwards.
        objective: `"brier"`, the class-balanced Brier score, or `"f1_macro"`, both of all held-out items together.
        adapters: rungs to search among, the first the default; by default `"auto"` and all that the items allow.
        fusions: fusions to search among, the first the default; by default all. Not looked at with one modality.
        study: a file to keep trials in; an existing one is gone on with. Lines of JSON.
        folds: that trials are measured on, at most.
        outer: rows to keep out of the search, on which the choice is measured once at the end.
        seed: of folds, trials and recognisers.
        seconds: begin no trial after these; one that is under way then is given up at its next fold or epoch.
        on_trial: called with every trial that this call finishes.
        log: leave Optuna's own logging as it is set, instead of silencing it meanwhile.

    Raises:
        LabelError: labels, groups or outer rows do not fit, or no item can be held out.
        ChiasmError: an option is out of range, the study is of other data, of another space or not a study, or another
            run has it open. The default trial's error, if it cannot be fitted.
        MissingExtraError: Optuna is not installed.
    """
    for what, given, known in (("sampler", sampler, SamplerName), ("objective", objective, ObjectiveName)):
        if given not in get_args(known):
            raise ChiasmError(f"{what} must be one of {', '.join(get_args(known))}; got {given!r}")
    if trials < 1:
        raise ChiasmError(f"trials must be at least 1; got {trials}")
    if seconds is not None and not seconds > 0:
        raise ChiasmError(f"seconds must be above 0; got {seconds}")
    every = _checked_data(X, y, groups, names, source)
    kept = _outer_rows(outer, every)
    rest = np.setdiff1d(np.arange(len(every.codes)), kept)
    data = every if not len(kept) else _checked_data(
        every.arrays.take(rest), every.classes[every.codes[rest]],
        None if every.groups is None else every.groups[rest], names, source,
    )  # fmt: skip
    fold_of = data.deal(folds, seed=seed)
    if fold_of.max() < 1:
        raise LabelError(
            "trials cannot be compared: fewer than 2 folds have items that can be held out. Label at least 2 items of "
            "every class (in several groups)"
        )
    optuna = require("optuna", "tune", "search for hyperparameters")
    search = _Search(optuna, data, fold_of, _space_for(data, fold_of, adapters, fusions), objective, sampler, seed)
    with _verbosity(optuna, log), _opened(optuna, None if study is None else Path(study), search.signature()) as found:
        interrupted = search.run(found, trials, seconds, on_trial)
        finished = search.finished(found)
        importance = search.importance(found)
    complete = [one for one in finished if one.report.state == "complete"]
    best = _best(objective, complete, search.counts)
    on_outer = None
    if len(kept) and not interrupted:
        on_outer = _on_outer(every, kept, rest, best, complete[0], objective, folds, seed)
    own = _measured(objective, best.tally, complete[0].tally, search.counts)
    nested = _nested(objective, complete, search.counts)
    return Tuning(
        objective=objective,
        best=_arguments(best.report.parameters, seed=seed),
        parameters=best.report.parameters,
        number=best.report.number,
        on_own_folds=own,
        nested=nested,
        outer=on_outer,
        trials=tuple(one.report for one in finished),
        importance=importance,
        interrupted=interrupted,
        warning=_warning(objective, len(complete), own, nested, on_outer),
    )


class _Search:
    """One call of `tune`: the data, and how a trial is drawn and measured."""

    def __init__(
        self,
        optuna: Any,
        data: _Data,
        fold_of: Int[np.ndarray, " items"],
        space: _Space,
        objective: ObjectiveName,
        sampler: SamplerName,
        seed: int,
    ) -> None:
        self.optuna, self.data, self.fold_of, self.space = optuna, data, fold_of, space
        self.objective, self.sampler, self.seed = objective, sampler, seed
        self.counts = data.counts(fold_of)
        self.defaults = space.defaults()
        self.pruner = optuna.pruners.MedianPruner(n_startup_trials=_FEWEST_FOR_PRUNING)
        self.grid = [one for one in space.grid(seed=seed) if one not in self.defaults] if sampler == "grid" else []

    def signature(self) -> dict[str, Any]:
        """What trials must agree in to be compared, in the types of JSON."""
        folds = hashlib.sha256(self.fold_of.astype(np.int64).tobytes()).hexdigest()
        return {
            "format": FORMAT,
            "version": VERSION,
            "objective": self.objective,
            "data": self.data.fingerprint(),
            "folds": {"of": folds, "seed": self.seed},
            "space": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.space).items()},
        }

    def run(
        self,
        study: Any,
        trials: int,
        seconds: float | None,
        on_trial: Callable[[TrialReport], None] | None,
    ) -> bool:
        """Finish trials until there are as many; say whether Ctrl-C came first."""
        deadline = math.inf if seconds is None else time.monotonic() + seconds
        study.pruner = self.pruner
        while True:
            finished = self.finished(study)
            number = len(finished)
            fixed = self._fixed(number)
            exhausted = self.sampler == "grid" and fixed is None
            if number >= trials or exhausted or (number and time.monotonic() >= deadline):
                return False
            try:
                trial, parameters = self._draw(study, fixed, finished)
                if self._try(study, trial, parameters, finished, deadline if number else math.inf):
                    return False
                if on_trial is not None:
                    on_trial(self.finished(study)[-1].report)
            except KeyboardInterrupt:
                if not any(one.report.state == "complete" for one in self.finished(study)):
                    raise
                return True

    def _draw(
        self, study: Any, fixed: Mapping[str, Value] | None, finished: Sequence[_Finished]
    ) -> tuple[Any, dict[str, Value]]:
        """The next trial and its parameters; none that were tried before, if others can be found."""
        samplers, states = self.optuna.samplers, self.optuna.trial.TrialState
        tried = [one.report.parameters for one in finished]
        attempt = 0
        while True:
            # A sampler of its own for every draw, seeded by its number: a resumed search draws as one in one piece.
            draw = int(np.random.SeedSequence([self.seed, len(finished), attempt]).generate_state(1)[0])
            by_tpe = self.sampler == "tpe" and attempt < _DRAWS_BY_TPE
            study.sampler = samplers.TPESampler(seed=draw) if by_tpe else samplers.RandomSampler(seed=draw)
            if fixed is not None and not study.get_trials(deepcopy=False, states=(states.WAITING,)):
                study.enqueue_trial(dict(fixed))
            trial = study.ask()

            def suggest(name: str, values: _Range, trial: Any = trial) -> Value:
                return _suggest(trial, name, values)

            parameters = self.space.configuration(suggest)
            attempt += 1
            if fixed is not None or parameters not in tried or attempt == _DRAWS:
                return trial, parameters
            study.tell(trial, state=states.FAIL)

    def _fixed(self, number: int) -> dict[str, Value] | None:
        """The parameters of a trial that are not drawn."""
        planned = (*self.defaults, *self.grid)
        return planned[number] if number < len(planned) else None

    def _try(
        self, study: Any, trial: Any, parameters: dict[str, Value], finished: Sequence[_Finished], deadline: float
    ) -> bool:
        """Measure a trial and tell the study; True where time was over before it was finished."""
        begin = time.perf_counter()
        tally: list[Float64[np.ndarray, "3 classes"]] = []
        state: TrialState = "complete"
        reason = ""
        may_prune = len(finished) >= len(self.defaults)
        earlier = next((one for one in finished if one.report.parameters == parameters), None)
        if earlier is not None:
            tally, state, reason = list(earlier.tally), earlier.report.state, earlier.report.reason
            for fold in range(len(tally)):
                trial.report(self._so_far(tally[: fold + 1]), fold)
        else:
            try:
                for fold in range(len(self.counts)):
                    if time.monotonic() >= deadline:
                        raise _StopTrialError
                    tally.append(self._fold(parameters, fold, deadline, may_prune=may_prune))
                    trial.report(self._so_far(tally), fold)
                    if may_prune and fold + 1 < len(self.counts) and trial.should_prune():
                        state = "pruned"
                        reason = f"behind the median of the other trials after {fold + 1} of {len(self.counts)} folds"
                        break
            except _StopTrialError as stop:
                if not stop.args:
                    return True
                state, reason = "pruned", str(stop)
            except (ChiasmError, ValueError) as error:
                if not finished:
                    raise
                state, reason = "failed", f"{type(error).__name__}: {error}"
        for name, value in (
            ("parameters", parameters),
            ("tally", [fold.tolist() for fold in tally]),
            ("reason", reason),
            ("seconds", time.perf_counter() - begin),
            # Said here as well, so that a trial that a killed or interrupted run left is never taken for a finished one.
            ("state", state),
        ):
            trial.set_user_attr(name, value)
        score = self._so_far(tally) if state == "complete" else None
        study.tell(trial, score, state=self.optuna.trial.TrialState[_STATES[state]])
        return False

    def _so_far(self, tally: Sequence[Float64[np.ndarray, "3 classes"]]) -> float:
        return _score(self.objective, np.array(tally), self.counts[: len(tally)])

    def _fold(
        self, parameters: Mapping[str, Value], fold: int, deadline: float, *, may_prune: bool
    ) -> Float64[np.ndarray, "3 classes"]:
        """Fit without a fold and measure on it."""
        asked_for_network = parameters.get("adapter") in {"residual", "mlp"}
        guessing = math.log(len(self.data.classes))
        lowest = math.inf

        def on_epoch(epoch: int, loss: float) -> None:
            nonlocal lowest
            if time.monotonic() >= deadline:
                raise _StopTrialError
            lowest = loss if epoch == 0 else min(lowest, loss)
            if asked_for_network and may_prune and epoch + 1 == _EPOCHS_TO_LEARN and lowest >= guessing:
                raise _StopTrialError(f"its network is no better than guessing after {_EPOCHS_TO_LEARN} epochs")

        arguments = _arguments(parameters, seed=self.seed, on_epoch=on_epoch)
        train, test = np.flatnonzero(self.fold_of != fold), np.flatnonzero(self.fold_of == fold)
        return self.data.tally(self.data.recognizer(arguments, train), test)

    def finished(self, study: Any) -> list[_Finished]:
        """Trials of the study that were measured to their end, in the order of their beginning."""
        found: list[_Finished] = []
        for trial in study.get_trials(deepcopy=False):
            state = trial.user_attrs.get("state")
            if state is None or trial.state.name != _STATES[state]:
                continue
            tally = np.array(trial.user_attrs["tally"], dtype=np.float64).reshape(-1, 3, len(self.data.classes))
            report = TrialReport(
                number=len(found),
                parameters=dict(trial.user_attrs["parameters"]),
                state=state,
                score=self._so_far(list(tally)) if len(tally) and state != "failed" else None,
                folds=len(tally),
                seconds=trial.user_attrs["seconds"],
                reason=trial.user_attrs["reason"],
            )
            found.append(_Finished(report, tally))
        return found

    def importance(self, study: Any) -> dict[str, float]:
        importance = self.optuna.importance
        complete = len(study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.COMPLETE,)))
        if complete < _FEWEST_FOR_IMPORTANCE:
            return {}
        # The best tenth, but five trials where there are fewer than 50: a density cannot be had from one or two.
        evaluator = importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / complete))
        with warnings.catch_warnings():
            # It warns of parameters that few trials have, in a search as short as ours nearly all of the conditional ones.
            warnings.filterwarnings("ignore", category=UserWarning, message="Some regimes for parameter")
            warnings.filterwarnings("ignore", category=UserWarning, message="Target and region quantiles")
            found = importance.get_param_importances(study, evaluator=evaluator)
        return {name: float(share) for name, share in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))}


def _suggest(trial: Any, name: str, values: _Range) -> Value:
    suggested: Value
    if values.choices:
        suggested = trial.suggest_categorical(name, values.choices)
    elif values.whole:
        suggested = trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
    else:
        suggested = trial.suggest_float(name, values.low, values.high, log=values.log)
    return suggested


def _outer_rows(outer: Any, data: _Data) -> Int[np.ndarray, " outer"]:
    if outer is None:
        return np.arange(0)
    rows, items = np.asarray(outer), len(data.codes)
    if rows.ndim != 1 or rows.dtype.kind not in "iu" or not len(rows):
        raise LabelError(f"outer must be row numbers; got {rows.dtype} {rows.shape}")
    if rows.min() < 0 or rows.max() >= items or len(np.unique(rows)) != len(rows):
        raise LabelError(f"outer must name rows from 0 to {items - 1}, each once; got {rows.min()} to {rows.max()}")
    inside = np.ones(items, dtype=bool)
    inside[rows] = False
    unknown = np.setdiff1d(data.codes[rows], np.concatenate([data.codes[inside], data.named]))
    if len(unknown):
        raise LabelError(
            f"all items of {data.classes[unknown[0]]!s} are outer: leave some of every class to the search"
        )
    if data.groups is not None:
        crossing = np.isin(data.groups[rows], data.groups[inside]).sum()
        if crossing:
            raise LabelError(f"{crossing} outer items share a group with others: keep whole groups out")
    if len(rows) < 2 or (data.groups is not None and len(np.unique(data.groups[rows])) < 2):
        raise LabelError("outer needs at least 2 items, of 2 groups: one says nothing of how sure the score is")
    return np.sort(rows)


def _on_outer(
    data: _Data,
    kept: Int[np.ndarray, " outer"],
    rest: Int[np.ndarray, " rest"],
    best: _Finished,
    default: _Finished,
    objective: ObjectiveName,
    folds: int,
    seed: int,
) -> Measured:
    """Fit both on all other items, and measure on blocks of the outer ones, for the jackknife."""
    groups = None if data.groups is None else np.unique(data.groups[kept], return_inverse=True)[1]
    blocks = min(folds, len(kept) if groups is None else groups.max() + 1)
    block_of = np.full(len(data.codes), -1)
    block_of[kept] = deal(data.codes[kept], blocks, seed=seed, groups=groups)
    tallies = []
    for one in (best, default):
        fitted = data.recognizer(_arguments(one.report.parameters, seed=seed), rest)
        tallies.append(np.stack([data.tally(fitted, np.flatnonzero(block_of == block)) for block in range(blocks)]))
    return _measured(objective, tallies[0], tallies[1], data.counts(block_of))


def _warning(objective: ObjectiveName, complete: int, own: Measured, nested: Measured, outer: Measured | None) -> str:
    what = "Brier score" if objective == "brier" else "macro-F1"
    text = (
        f"{what} {own.score:.3f} is the best of {complete} complete trials on the folds that it was chosen by, so it "
        f"flatters. Chosen on the other folds only, it is {nested.score:.3f}, with the default {nested.default:.3f}"
    )
    if outer is not None:
        text += f"; on items kept out of the search, {outer.score:.3f}, with the default {outer.default:.3f}"
    honest = nested if outer is None else outer
    if not honest.wins:
        text += ". That is no gain of more than one standard error: the default is as good a choice"
    if outer is None:
        text += ". For a score that the search did not see at all, keep outer items out of it"
    return text + "."


# -------------------------------------------------------------------------------------------------------------- on disk


@contextmanager
def _verbosity(optuna: Any, log: bool) -> Iterator[None]:
    """Silence Optuna meanwhile."""
    before = optuna.logging.get_verbosity()
    if not log:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _opened(optuna: Any, path: Path | None, signature: Mapping[str, Any]) -> Iterator[Any]:
    """A study in memory, or the one in a file, which nobody else has open meanwhile.

    The file is Optuna's journal: a line of JSON an operation. (Optuna pickles snapshots of journals, but only for
    back ends that keep snapshots, which the file's does not.)
    """
    direction = "minimize" if signature["objective"] == "brier" else "maximize"
    if path is None:
        yield optuna.create_study(direction=direction)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_name(path.name + ".running"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ChiasmError(f"{path} is in use by another run: wait for it, or give another file") from error
    try:
        # What holds Optuna's own lock is dead, or it would hold ours.
        journal_lock = path.with_name(path.name + ".lock")
        journal_lock.unlink(missing_ok=True)
        _mend(path)
        journal = optuna.storages.journal
        try:
            backend = journal.JournalFileBackend(str(path), lock_obj=journal.JournalFileOpenLock(str(path)))
            storage = optuna.storages.JournalStorage(backend)
            held = [one.study_name for one in storage.get_all_studies()]
            if held == [_STUDY]:
                study = optuna.load_study(storage=storage, study_name=_STUDY)
            elif not held:
                study = optuna.create_study(storage=storage, study_name=_STUDY, direction=direction)
            else:
                raise ChiasmError(f"{path} holds studies that are not of chiasm's: give another file")
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
            raise ChiasmError(
                f"{path} is damaged ({type(error).__name__}: {error}): remove it, or give another file"
            ) from error
        _check_signature(path, study, signature)
        states = optuna.trial.TrialState
        for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            study.tell(trial.number, state=states.FAIL)  # of a run that was killed, interrupted or out of time
        yield study
    finally:
        lock.release()


def _mend(path: Path) -> None:
    """Refuse what is no journal, and cut off a last line that a killed run did not finish."""
    if not path.exists():
        return
    if not path.is_file():
        raise ChiasmError(f"{path} is not a file: give a file to keep the study in")
    if path.stat().st_size > _LARGEST_STUDY:
        raise ChiasmError(f"{path} is larger than {_LARGEST_STUDY} bytes: it is not a study of chiasm's")
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    for number, (start, stop) in enumerate(pairwise(_line_ends(content[:end])), 1):
        try:
            entry = json.loads(content[start:stop])
        except ValueError as error:
            raise ChiasmError(f"{path} is not a study: line {number} is not JSON. Give another file") from error
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise ChiasmError(f"{path} is not a study: line {number} is not of Optuna's journal. Give another file")
    if content and not end:
        raise ChiasmError(f"{path} is not a study: it holds no line. Give another file")
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)


def _line_ends(content: bytes) -> Iterable[int]:
    yield 0
    end = content.find(b"\n")
    while end >= 0:
        yield end + 1
        end = content.find(b"\n", end + 1)


def _check_signature(path: Path, study: Any, signature: Mapping[str, Any]) -> None:
    found = study.user_attrs.get("signature")
    if found is None and not study.get_trials(deepcopy=False):
        study.set_user_attr("signature", dict(signature))
        return
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ChiasmError(f"{path} is a study, but not of chiasm's: give another file")
    for key, problem in (
        ("version", "was made with another version of the space of parameters"),
        ("objective", f"optimises another objective than {signature['objective']}"),
        ("data", "is of other items, labels, groups, names or source"),
        ("folds", "has other folds: their number or the seed differ"),
        ("space", "searches other adapters or fusions"),
    ):
        if found.get(key) != signature[key]:
            raise ChiasmError(
                f"{path} {problem}, so its trials cannot be compared with new ones: give another file, or the arguments "
                "it was begun with"
            )


__all__ = ["EVALUATOR", "Measured", "TrialReport", "Tuning", "tune"]
