"""The ladder of adapters: fit a rung on feature rows, predict every row without it, and climb.

All rungs are measured on the same held-out rows. A higher rung is taken only if its Brier score is better than that of
the rung held so far by more than one standard error of the paired difference. Which features go in, and what is done with
the result, is left to `chiasm.recognition.fitting`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm import work
from chiasm._optional import torch_is_missing
from chiasm.errors import LabelError
from chiasm.recognition.heads import BLOCK, RUNGS, Head, Log, RungName
from chiasm.recognition.targets import Target
from chiasm.splits import Shots, deal
from chiasm.vectors import brier_scores, log_softmax, softmax

if TYPE_CHECKING:
    from chiasm.recognition.networks import NetworkInputs, NetworkOptions

FEWEST_FOR_NETWORKS = 20
"""Rows below which no network is fitted: it would have four to learn its stopping from."""

NETWORKS_FROM = 600
"""Items from which `"auto"` tries the network. (On stamps, 22 to 516 items, networks were behind the linear probe at every
size and took ten times as long as all other rungs together.)"""

_TEMPERATURES = np.logspace(-1, 1, 21)


@dataclass(frozen=True, kw_only=True)
class RungOptions:
    """Options of the rungs.

    Attributes:
        strengths: of the linear probe's penalty; by default a path that it chooses from.
        class_weight: `"balanced"`, weights by class code, or None.
        network: of the network; by default those of `chiasm.recognition.networks`.
        seed: of folds and networks.
        on_epoch: called by the network after each epoch with its number and held-out loss; may raise to stop.
    """

    strengths: tuple[float, ...] | None = None
    class_weight: Literal["balanced"] | Mapping[int, float] | None = None
    network: NetworkOptions | None = None
    seed: int = 0
    on_epoch: Callable[[int, float], None] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """Feature rows of one set of modalities with their labels, and what stands beside them.

    Attributes:
        rows: of unit length.
        codes: the class of each row, by number.
        fold_of: the fold that holds a row out; -1 where it is always learned from.
        groups: rows of one group are never on both sides of a fold.
        anchors: embedded names of classes as feature rows, labelled by code; None where there is no shared space.
        extra: more labelled rows, which are never scored.
        extra_fold: the fold that holds an extra row out; by default none does.
    """

    rows: Float[np.ndarray, "rows dim"]
    codes: Int[np.ndarray, " rows"]
    fold_of: Int[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"] | None = None
    anchors: Shots | None = None
    extra: Shots | None = None
    extra_fold: Int[np.ndarray, " extra"] | None = None

    @property
    def beside(self) -> tuple[Shots | None, Int[np.ndarray, " beside"]]:
        """Anchors and extra rows together, and the fold that holds each out."""
        parts = [
            (shots, np.full(len(shots), -1) if fold is None else fold)
            for shots, fold in ((self.anchors, None), (self.extra, self.extra_fold))
            if shots is not None
        ]
        if not parts:
            return None, np.empty(0, dtype=np.int64)
        shots = parts[0][0] if len(parts) == 1 else parts[0][0] + parts[1][0]
        return shots, np.concatenate([fold for _, fold in parts])

    @property
    def classes(self) -> int:
        """Return the number of classes that can be learned, including those of anchors and extra rows."""
        shots, _ = self.beside
        return len(np.unique(self.codes if shots is None else np.append(self.codes, shots.y)))

    def without(self, fold: int) -> Task:
        """Return the rows of the other folds, with what stands beside them."""
        rows = np.flatnonzero(self.fold_of != fold)
        task = replace(
            self,
            rows=self.rows[rows],
            codes=self.codes[rows],
            fold_of=np.full(len(rows), -1),
            groups=None if self.groups is None else self.groups[rows],
        )
        if self.extra is not None and self.extra_fold is not None:
            return replace(task, extra=self.extra.take(np.flatnonzero(self.extra_fold != fold)), extra_fold=None)
        return task

    def folds(self) -> Iterator[tuple[int, Int[np.ndarray, " held"]]]:
        """Yield every fold and the rows that it holds out."""
        for fold in np.unique(self.fold_of[self.fold_of >= 0]):
            yield int(fold), np.flatnonzero(self.fold_of == fold)


@dataclass(frozen=True, eq=False)
class Learned:
    """Fit a head; return it with log-probabilities of the rows by heads that did not see them, NaN if not held out."""

    head: Head
    held_out: Log


def fit_rung(rung: RungName, task: Task, classes: int, options: RungOptions) -> Learned:
    """Fit one rung, and predict each row without its fold.

    Args:
        rung: which.
        task: all rows.
        classes: how many the recogniser has.
        options: of the rungs.

    Raises:
        LabelError: the rung cannot be fitted on this; see `why_not`.
    """
    reason = why_not(rung, task)
    if reason:
        raise LabelError(f"the adapter {rung!r} cannot be used: {reason}")
    if rung == "linear":
        return _fit_linear(task, classes, options)
    return Learned(fit_head(rung, task, options), _by_fold(rung, task, classes, options, against=None)[0])


def fit_head(rung: RungName, task: Task, options: RungOptions) -> Head:
    """Fit one rung on all rows of a task, without predicting them."""
    if rung == "linear":
        return _fit_linear(replace(task, fold_of=np.full(len(task.codes), -1), extra_fold=None), 0, options).head
    return {"zero-shot": _fit_zero_shot, "prototypes": _fit_prototypes, "network": _fit_network}[rung](task, options)


def why_not(rung: RungName, task: Task) -> str:
    """Return why a rung cannot be fitted on a task, in words; empty where it can."""
    if rung == "zero-shot":
        if task.anchors is None:
            return "there is no shared space with embedded names of the classes"
        unnamed = np.setdiff1d(task.codes, task.anchors.y)
        return f"{len(unnamed)} classes have no embedded name" if len(unnamed) else ""
    if rung == "network" and len(task.rows) < FEWEST_FOR_NETWORKS:
        return f"{len(task.rows)} rows are fewer than the {FEWEST_FOR_NETWORKS} that early stopping needs"
    if rung == "network" and len(np.unique(task.codes)) < 2:
        return "all rows are of one class, and a network does not learn a class from its name alone"
    return ""


@dataclass(frozen=True)
class RungReport:
    """The held-out score of one rung."""

    rung: RungName
    tried: bool
    taken: bool
    why: str
    """Why it was taken, not taken or not tried, in words."""
    f1_macro: float | None = None
    brier: float | None = None  # mean squared distance of the probabilities from the truth; 0 is perfect
    better_by: float | None = None  # Brier score against the rung held before, above 0: better
    standard_error: float | None = None  # of that difference
    seconds: float = 0.0


def climb(
    task: Task, classes: int, options: RungOptions, *, networks_from: int = NETWORKS_FROM
) -> tuple[Learned, tuple[RungReport, ...]]:
    """Try the rungs from the lowest on, and take a higher one only where it wins by more than a standard error.

    A network that is behind by more than a standard error after some folds is not fitted on the others; its scores are of
    those folds. Where nothing can be held out, the linear probe is taken.

    Args:
        task: what to learn.
        classes: how many the recogniser has.
        options: of the rungs.
        networks_from: rows from which the network is tried.
    """
    reports: list[RungReport] = []
    best: Learned | None = None
    best_scores = np.full(len(task.codes), np.nan)
    for rung in work.steps(RUNGS, "adapters"):
        reason = why_not(rung, task)
        if not reason and rung == "network" and len(task.rows) < networks_from:
            reason = f"it is tried from {networks_from} rows on, or when asked for; there are {len(task.rows)}"
        if not reason and rung == "network":
            reason = torch_is_missing()
        if reason:
            reports.append(RungReport(rung, tried=False, taken=False, why=reason))
            continue
        begin = time.perf_counter()
        learned, folds = None, ""
        if rung == "network":
            log, folds = _by_fold(rung, task, classes, options, against=best_scores)
        else:
            learned = fit_rung(rung, task, classes, options)
            log = learned.held_out
        scores = tempered_brier(log, task.codes)
        if not np.isfinite(scores).any():
            reports.append(RungReport(rung, tried=False, taken=False, why="no row can be held out to measure it on"))
            continue
        gain, error = paired(best_scores, scores)
        wins = best is None or (gain > error and not folds)
        if wins:
            why = "the first that could be fitted" if best is None else ""
            learned = learned or Learned(fit_head(rung, task, options), log)
        else:
            why = f"given up: behind by more than a standard error after {folds}" if folds else ""
        held = None if best is None else best.head.rung
        reports.append(
            RungReport(
                rung,
                tried=True,
                taken=False,
                why=why or f"{'better' if wins else 'not better'} than {held} by more than one standard error",
                f1_macro=f1_macro(log, task.codes),
                brier=float(np.nanmean(scores)),
                better_by=None if best is None else gain,
                standard_error=None if best is None or not np.isfinite(error) else error,
                seconds=time.perf_counter() - begin,
            )
        )
        if wins and learned is not None:
            best, best_scores = learned, scores
    if best is None:
        why = "no row can be held out to compare the rungs on"
        return fit_rung("linear", task, classes, options), untried("linear", task, why)
    return best, tuple(replace(report, taken=report.rung == best.head.rung) for report in reports)


def untried(taken: RungName, task: Task | None, why: str) -> tuple[RungReport, ...]:
    """Return the reports of rungs that were not compared."""
    return tuple(
        RungReport(rung, tried=False, taken=rung == taken, why=(task is not None and why_not(rung, task)) or why)
        for rung in RUNGS
    )


def hold_out(
    task: Task, classes: int, learn: Callable[[Task], Head | None], *, stop: Callable[[Log], bool] = lambda _: False
) -> tuple[Log, int]:
    """Predict each row by what is learned from the other folds.

    Args:
        task: all rows.
        classes: how many the recogniser has.
        learn: fits a head on the rows of the other folds, or says by None that these do not allow it.
        stop: looks at the log-probabilities so far, and says whether to leave the other folds out.

    Returns:
        The log-probabilities, and the number of folds that were used.
    """
    log = np.full((len(task.rows), classes), np.nan)
    used = 0
    for fold, held in task.folds():
        head = learn(task.without(fold))
        if head is not None:
            log[held] = head.log_probabilities(task.rows[held], classes)
        used += 1
        if stop(log):
            break
    return log, used


def _by_fold(
    rung: RungName, task: Task, classes: int, options: RungOptions, *, against: Float64[np.ndarray, " rows"] | None
) -> tuple[Log, str]:
    """Predict each row without its fold; given up where that is behind `against`, and after how many folds, in words."""
    number = sum(1 for _ in task.folds())

    def is_behind(log: Log) -> bool:
        if against is None:
            return False
        gain, error = paired(against, tempered_brier(log, task.codes))
        return gain < -error

    def learn(part: Task) -> Head | None:
        return None if why_not(rung, part) or part.classes < 2 else fit_head(rung, part, options)

    log, used = hold_out(task, classes, learn, stop=is_behind)
    return log, f"{used} of {number} folds" if used < number else ""


# --------------------------------------------------------------------------------------------------------- each rung


def _fit_linear(task: Task, classes: int, options: RungOptions) -> Learned:
    """Fit the head and predict the rows that are held out in one run of the solver."""
    from chiasm.recognition.linear import class_weights, fit_classes

    shots, beside_fold = task.beside
    rows, codes = task.rows, task.codes
    weight, fold_of = np.ones(len(codes)), task.fold_of
    if shots is not None:
        rows = np.vstack([rows, shots.X.astype(rows.dtype)])
        codes = np.concatenate([codes, np.asarray(shots.y)])
        weight = np.concatenate([weight, shots.weight])
        fold_of = np.concatenate([fold_of, beside_fold])
    used = weight > 0
    rows, codes, weight, fold_of = rows[used], codes[used], weight[used], fold_of[used]
    weight = class_weights(codes, weight, options.class_weight)
    known, dense = np.unique(codes, return_inverse=True)
    fit = fit_classes(rows, dense, fold_of=fold_of, weight=weight, strengths=options.strengths)
    tensors = {"coef": np.ascontiguousarray(fit.coef), "intercept": np.ascontiguousarray(fit.intercept)}
    head = Head("linear", known, tensors, {"strength": fit.strength}, len(task.codes))
    log = np.full((len(task.codes), classes), np.nan)
    if classes:
        held = fit.held_out[: len(task.codes)].astype(np.float64)
        scored = np.flatnonzero(np.isfinite(held).any(axis=1) & (task.fold_of >= 0))
        log[scored] = -np.inf
        log[np.ix_(scored, known)] = log_softmax(held[scored])
    return Learned(head, log)


def _fit_zero_shot(task: Task, _: RungOptions) -> Head:
    from chiasm.recognition.few_shot import ZeroShot

    model = ZeroShot().fit(task.rows, task.codes, groups=task.groups, anchors=task.anchors)
    return _cosine_head("zero-shot", model.coef_, model.classes_, model.scale_, len(task.codes))


def _fit_prototypes(task: Task, options: RungOptions) -> Head:
    from chiasm.recognition.few_shot import Prototypes

    model = Prototypes(random_state=options.seed)
    model.fit(task.rows, task.codes, groups=task.groups, extra=task.beside[0])
    return _cosine_head("prototypes", model.coef_, model.classes_, model.scale_, len(task.codes))


def _cosine_head(
    rung: RungName,
    coef: Float[np.ndarray, "classes dim"],
    classes: Int[np.ndarray, " classes"],
    scale: float,
    items: int,
) -> Head:
    tensors = {"coef": coef, "intercept": np.zeros(len(coef), coef.dtype)}
    return Head(rung, np.asarray(classes, dtype=np.int64), tensors, {"scale": float(scale)}, items)


def _fit_network(task: Task, options: RungOptions) -> Head:
    """Fit the network on one block of columns, its skip from the linear probe's strength.

    What stands beside the rows goes in as a source, at the share of the loss that its weights come to: it is never held
    out to stop by.
    """
    from chiasm.recognition.networks import NetworkInputs, NetworkOptions, NetworkSource, fit_network

    own = options.network or NetworkOptions()
    balance = "weights" if options.class_weight == "balanced" else own.training.class_balance
    own = replace(own, training=replace(own.training, seed=options.seed, class_balance=balance))
    known, dense = np.unique(task.codes, return_inverse=True)
    weight = np.ones(len(task.codes))
    if isinstance(options.class_weight, Mapping):
        weight = np.array([options.class_weight.get(code, 1.0) for code in task.codes.tolist()])

    def block(
        rows: Float[np.ndarray, "rows dim"], codes: Int[np.ndarray, " rows"]
    ) -> tuple[NetworkInputs, list[Target]]:
        present = np.ones(len(rows), dtype=bool)
        return NetworkInputs({BLOCK: rows}, {BLOCK: present}), [Target(BLOCK, "classes", codes, present, known)]

    source, alpha = None, 0.0
    shots, _ = task.beside
    used = (
        np.empty(0, dtype=np.int64) if shots is None else np.flatnonzero(np.isin(shots.y, known) & (shots.weight > 0))
    )
    if shots is not None and len(used):
        theirs = shots.take(used)
        source = NetworkSource(
            *block(theirs.X.astype(task.rows.dtype), np.searchsorted(known, theirs.y)), theirs.weight
        )
        alpha = float(theirs.weight.sum() / (theirs.weight.sum() + weight.sum()))
    fold_of = deal_folds(task.codes, 5, seed=options.seed, groups=task.groups)
    probe = _fit_linear(replace(task, fold_of=fold_of, extra_fold=None), 0, options).head
    network = fit_network(
        *block(task.rows, dense),
        own,
        start={BLOCK: probe.numbers["strength"]},
        weights=weight,
        groups=task.groups,
        source=source,
        alpha=alpha,
        on_epoch=options.on_epoch,
    )
    tensors, description = network.as_arrays()
    return Head("network", known, tensors, dict(probe.numbers), len(task.codes), description)


# ------------------------------------------------------------------------------------------------------------- scores


def tempered_brier(log: Log, codes: Int[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
    """Return the Brier score of each row at the one temperature that suits the rows best; NaN where there is none.

    What is over- or underconfident alike can be mended by calibration, and does not count.
    """
    scored = np.isfinite(log).any(axis=1)
    best = np.full(len(codes), np.nan)
    for temperature in _TEMPERATURES if scored.any() else ():
        scores = brier_scores(softmax(log[scored] / temperature), codes[scored])
        if not scores.sum() >= best[scored].sum():  # the first is compared with NaN
            best[scored] = scores
    return best


def f1_macro(log: Log, codes: Int[np.ndarray, " rows"]) -> float:
    """Return the macro-F1 of the rows that were held out; NaN where none was."""
    from sklearn.metrics import f1_score

    scored = np.isfinite(log).any(axis=1)
    if not scored.any():
        return float("nan")
    guesses = np.where(np.isnan(log[scored]), -np.inf, log[scored]).argmax(axis=1)
    return float(f1_score(codes[scored], guesses, average="macro", zero_division=0))


def paired(before: Float64[np.ndarray, " rows"], after: Float64[np.ndarray, " rows"]) -> tuple[float, float]:
    """Return by how much the second scores are lower (better) where both are known, and the standard error of that.

    Example:
        >>> gain, error = paired(np.array([0.4, 0.5, np.nan]), np.array([0.2, 0.3, 0.1]))
        >>> round(gain, 3), round(error, 3)
        (0.2, 0.0)
    """
    both: Bool[np.ndarray, " rows"] = np.isfinite(before) & np.isfinite(after)
    gain = (before - after)[both]
    if len(gain) < 2:
        return 0.0, np.inf
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


def deal_folds(
    codes: Int[np.ndarray, " rows"],
    folds: int,
    *,
    seed: int,
    groups: Int[np.ndarray, " rows"] | None,
    always_known: Int[np.ndarray, " _"] | None = None,
) -> Int[np.ndarray, " rows"]:
    """Return the fold of each row; -1 for rows that must stay in training, since no other row is of their class.

    Args:
        codes: class of each row.
        folds: how many at most.
        seed: of the draw.
        groups: kept whole.
        always_known: classes that anchors or extra rows stand for, whose rows can all be held out.
    """
    number = len(codes) if groups is None else len(np.unique(groups))
    if number < 2:
        return np.full(len(codes), -1)
    group = None if groups is None else np.unique(groups, return_inverse=True)[1]
    fold_of = deal(codes, min(folds, number), seed=seed, groups=group)
    known = np.zeros(codes.max() + 1, dtype=bool)
    if always_known is not None:
        known[always_known[always_known <= codes.max()]] = True
    for fold in range(fold_of.max() + 1):
        held = fold_of == fold
        lost = np.setdiff1d(codes[held], codes[~held])
        stay = held & np.isin(codes, lost[~known[lost]])
        if group is not None:
            stay = held & np.isin(group, group[stay])
        fold_of[stay] = -1
    return fold_of
