"""The ladder of adapters: fit any rung on feature rows, and climb by nested cross-validation.

Every rung is measured on the same held-out rows; what a rung chooses for itself (strength, sharpness, epochs) it chooses
inside the rows it learns from. A higher rung is taken only if its Brier score is better than that of the rung held so far
by more than one standard error of the paired difference. Which features go in, and what is done with the result, is left
to `chiasm.recognition.recognizer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.recognition.heads import RUNGS, Head, RungName, head_of
from chiasm.splits import Shots, deal
from chiasm.vectors import log_softmax

if TYPE_CHECKING:
    from chiasm.training import Training

_TEMPERATURES = np.logspace(-1, 1, 21)

FEWEST_FOR_NETWORKS = 20
"""Rows below which the ladder ends at the linear probe: a network would have four to learn its stopping from."""


@dataclass(frozen=True, kw_only=True)
class RungOptions:
    """What a rung is fitted with.

    Attributes:
        folds: of the inner cross-validation.
        strengths: of the linear probe; by default a path that it chooses from.
        class_weight: `"balanced"`, weights by class code, or None.
        hidden: widths of the hidden layers of the MLP.
        dropout: of the MLP.
        bottleneck: of the residual adapter.
        ratio: share of the adapted features in the residual adapter.
        training: of the networks; by default that of `chiasm.training`.
        seed: of folds and networks.
        on_epoch: called by the networks after each epoch with its number and held-out loss; may raise to stop.
    """

    folds: int = 5
    strengths: tuple[float, ...] | None = None
    class_weight: Literal["balanced"] | Mapping[int, float] | None = None
    hidden: tuple[int, ...] = (128,)
    dropout: float = 0.3
    bottleneck: int = 64
    ratio: float = 0.2
    training: Training | None = None
    seed: int = 0
    on_epoch: Callable[[int, float], None] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """Feature rows of one set of modalities with their labels, and what stands beside them.

    Attributes:
        rows: of unit length.
        codes: the class of each row, by number.
        groups: rows of one group are never on both sides of a fold.
        anchors: embedded names of classes as feature rows, labelled by code; None where there is no shared space.
        extra: more labelled rows that every fold learns from.
    """

    rows: Float[np.ndarray, "rows dim"]
    codes: Int[np.ndarray, " rows"]
    groups: Int[np.ndarray, " rows"] | None = None
    anchors: Shots | None = None
    extra: Shots | None = None

    def take(self, rows: Int[np.ndarray, " some"]) -> Task:
        """Some of the rows; what stands beside them stays."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, rows=self.rows[rows], codes=self.codes[rows], groups=groups)

    @property
    def beside(self) -> Shots | None:
        """Anchors and extra rows together."""
        if self.anchors is None or self.extra is None:
            return self.anchors if self.extra is None else self.extra
        return self.anchors + self.extra


def fit_rung(rung: RungName, task: Task, options: RungOptions) -> Head:
    """Fit one rung.

    Raises:
        LabelError: the rung cannot be fitted on this; see `why_not`.
    """
    reason = why_not(rung, task)
    if reason:
        raise LabelError(f"the adapter {rung!r} cannot be used: {reason}")
    fitted = _FIT[rung](task, options)
    return head_of(rung, fitted, np.asarray(fitted.classes_, dtype=np.int64), len(task.rows))


def why_not(rung: RungName, task: Task) -> str:
    """Why a rung cannot be fitted on a task, in words; empty where it can."""
    from chiasm.recognition.few_shot import LARGEST_CACHE

    if rung == "zero-shot":
        if task.anchors is None:
            return "there is no shared space with embedded names of the classes"
        unnamed = np.setdiff1d(task.codes, task.anchors.y)
        return f"{len(unnamed)} classes have no embedded name" if len(unnamed) else ""
    beside = 0 if task.extra is None else len(task.extra)
    if rung == "tip-adapter" and len(task.rows) + beside > LARGEST_CACHE:
        return f"it keeps every row, at most {LARGEST_CACHE}, and there are {len(task.rows) + beside}"
    if rung in {"residual", "mlp"} and len(task.rows) < FEWEST_FOR_NETWORKS:
        return f"{len(task.rows)} rows are fewer than the {FEWEST_FOR_NETWORKS} that early stopping needs"
    if rung in {"residual", "mlp"} and len(np.unique(task.codes)) < 2:
        return "all rows are of one class, and a network does not learn a class from its name alone"
    return ""


@dataclass(frozen=True)
class RungReport:
    """How one rung did on held-out rows."""

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


@dataclass(frozen=True, eq=False)
class Climb:
    """The rung to take, how all did, and the held-out log-probabilities of the rung taken."""

    rung: RungName
    reports: tuple[RungReport, ...]
    held_out: Float64[np.ndarray, "rows classes"] = field(repr=False)
    """NaN in rows that could not be held out."""


def climb(
    task: Task,
    classes: int,
    options: RungOptions,
    *,
    fold_of: Int[np.ndarray, " rows"],
    rungs: Sequence[RungName] = RUNGS,
    networks_from: int = 0,
) -> Climb:
    """Try the rungs from the lowest on, and take a higher one only where it wins by more than a standard error.

    A rung that is behind by more than a standard error after some folds is not fitted on the others; its scores are of
    those folds.

    Args:
        task: what to learn.
        classes: how many the recogniser has.
        options: of the rungs.
        fold_of: the fold of each row, -1 where it is never held out.
        rungs: those to try, in this order.
        networks_from: rows from which the networks are tried.

    Raises:
        LabelError: none of the rungs can be fitted.
    """
    from sklearn.metrics import f1_score

    reports: list[RungReport] = []
    held: tuple[RungName, Float64[np.ndarray, "rows classes"], Float64[np.ndarray, " rows"]] | None = None
    for rung in rungs:
        reason = why_not(rung, task)
        if not reason and rung in {"residual", "mlp"} and len(task.rows) < networks_from:
            reason = f"networks are tried from {networks_from} rows on, or when asked for; there are {len(task.rows)}"
        if reason:
            reports.append(RungReport(rung, tried=False, taken=False, why=reason))
            continue
        begin = time.perf_counter()
        out = np.full((len(task.rows), classes), np.nan)
        gave_up, folds = False, ""
        for number in range(fold_of.max(initial=-1) + 1):
            rows = fold_of == number
            if rows.any():
                out[rows] = predict_rung(rung, task.take(np.flatnonzero(~rows)), task.rows[rows], classes, options)
            if held is not None and number < fold_of.max():
                gain, error = paired(held[2], tempered_brier(out, task.codes))
                gave_up = gain < -error
                if gave_up:
                    folds = f"{number + 1} of {fold_of.max() + 1} folds"
                    break
        seconds = time.perf_counter() - begin
        scores = tempered_brier(out, task.codes)
        scored = np.isfinite(scores)
        if not scored.any():  # nothing can be held out: the rungs cannot be compared
            reports.append(RungReport(rung, tried=False, taken=False, why="no row can be held out to measure it on"))
            continue
        f1 = float(f1_score(task.codes[scored], out[scored].argmax(axis=1), average="macro", zero_division=0))
        brier = float(scores[scored].mean())
        if held is None:
            held = (rung, out, scores)
            reports.append(
                RungReport(rung, True, True, "the first that could be fitted", f1, brier, None, None, seconds)
            )
            continue
        gain, error = paired(held[2], scores)
        wins = gain > error and not gave_up
        if gave_up:
            why = f"given up: behind {held[0]} by more than a standard error after {folds}"
        else:
            why = f"{'better' if wins else 'not better'} than {held[0]} by more than one standard error"
        told = error if np.isfinite(error) else None
        reports.append(RungReport(rung, True, wins, why, f1, brier, gain, told, seconds))
        if wins:
            held = (rung, out, scores)
    if held is None:
        return _unmeasured(task, classes, reports, rungs)
    # A rung that was overtaken is not the one taken.
    reports = [replace(report, taken=report.rung == held[0]) for report in reports]
    return Climb(held[0], tuple(reports), held[1])


def _unmeasured(task: Task, classes: int, reports: list[RungReport], rungs: Sequence[RungName]) -> Climb:
    """Nothing can be held out: the linear probe, or the highest rung below it that can be fitted."""
    possible = [rung for rung in rungs if not why_not(rung, task)]
    if not possible:
        raise LabelError("; ".join(f"{report.rung}: {report.why}" for report in reports))
    rung = "linear" if "linear" in possible else possible[0]
    why = "no row can be held out to compare the rungs on"
    reports = [RungReport(name, tried=False, taken=name == rung, why=why_not(name, task) or why) for name in rungs]
    return Climb(rung, tuple(reports), np.full((len(task.rows), classes), np.nan))


def predict_rung(
    rung: RungName, task: Task, rows: Float[np.ndarray, "rows dim"], classes: int, options: RungOptions
) -> Float64[np.ndarray, "rows classes"]:
    """Log-probabilities of rows by a rung fitted on a task; NaN where it cannot be fitted on it."""
    known = np.unique(task.codes if task.beside is None else np.concatenate([task.codes, task.beside.y]))
    if len(known) < 2 or why_not(rung, task):
        return np.full((len(rows), classes), np.nan)
    return fit_rung(rung, task, options).log_probabilities(rows, classes)


def predict_folds(
    rung: RungName, task: Task, fold_of: Int[np.ndarray, " rows"], classes: int, options: RungOptions
) -> Float64[np.ndarray, "rows classes"]:
    """Log-probabilities of each row by a rung fitted without its fold; NaN where there is none.

    Args:
        rung: which.
        task: all rows.
        fold_of: the fold of each row, -1 where it is never held out.
        classes: how many the recogniser has.
        options: of the rung. Linear probes of one given strength are solved together.
    """
    out = np.full((len(task.rows), classes), np.nan)
    folds = np.unique(fold_of[fold_of >= 0])
    if not len(folds):
        return out
    trained = fold_of != folds[:, None]
    beside = None if task.beside is None else task.beside.take(np.flatnonzero(task.beside.weight))
    constant = np.arange(0) if beside is None else np.unique(beside.y)
    every = np.union1d(task.codes, constant)
    same = all(len(np.union1d(task.codes[of], constant)) == len(every) for of in trained)
    if rung != "linear" or options.strengths is None or len(options.strengths) != 1 or not same or len(every) < 2:
        for fold, of in zip(folds, trained, strict=True):
            held = fold_of == fold
            out[held] = predict_rung(rung, task.take(np.flatnonzero(of)), task.rows[held], classes, options)
        return out
    from chiasm.recognition.linear import class_weights, fit_classes

    rows, codes, weight = task.rows, task.codes, np.ones(len(task.rows))
    if beside is not None:
        rows = np.vstack([rows, beside.X.astype(rows.dtype)])
        codes, weight = np.concatenate([codes, beside.y]), np.concatenate([weight, beside.weight])
    place = np.searchsorted(every, codes)
    held_out = fit_classes(
        rows,
        place,
        fold_of=np.append(fold_of, np.full(len(rows) - len(fold_of), -1)),
        weight=class_weights(place, weight, options.class_weight, every.tolist()),
        strengths=options.strengths,
    ).held_out[: len(out)]
    out[fold_of >= 0] = -np.inf
    out[:, every] = log_softmax(held_out.astype(np.float64))
    return out


def deal_folds(
    codes: Int[np.ndarray, " rows"],
    folds: int,
    *,
    seed: int,
    groups: Int[np.ndarray, " rows"] | None,
    always_known: Int[np.ndarray, " _"] | None = None,
) -> Int[np.ndarray, " rows"]:
    """The fold of each row; -1 for rows that must stay in training, since no other row is of their class.

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


def brier_scores(
    log_probabilities: Float64[np.ndarray, "rows classes"], codes: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """Squared distance of each row's probabilities from the truth; NaN where there are none."""
    error = np.exp(log_probabilities)
    error[np.arange(len(codes)), codes] -= 1
    scores: Float64[np.ndarray, " rows"] = np.square(error).sum(axis=1)
    return scores


def tempered_brier(
    log_probabilities: Float64[np.ndarray, "rows classes"], codes: Int[np.ndarray, " rows"]
) -> Float64[np.ndarray, " rows"]:
    """`brier_scores` at the one temperature that suits the rows best: what is over- or underconfident alike can be mended.

    Rows without probabilities are NaN.
    """
    scored = np.isfinite(log_probabilities).any(axis=1)
    best = np.full(len(codes), np.nan)
    for temperature in _TEMPERATURES if scored.any() else ():
        logits = log_probabilities[scored] / temperature
        logits -= logits.max(axis=1, keepdims=True)
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        scores = brier_scores(logits, codes[scored])
        if not scores.sum() >= best[scored].sum():  # the first is compared with NaN
            best[scored] = scores
    return best


def paired(before: Float64[np.ndarray, " rows"], after: Float64[np.ndarray, " rows"]) -> tuple[float, float]:
    """By how much the second is lower, so better, on average over rows that both have, and the standard error of that."""
    both: Bool[np.ndarray, " rows"] = np.isfinite(before) & np.isfinite(after)
    gain = (before - after)[both]
    if len(gain) < 2:
        return 0.0, np.inf
    return float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain)))


def _fit_zero_shot(task: Task, _: RungOptions) -> Any:
    from chiasm.recognition.few_shot import ZeroShot

    return ZeroShot().fit(task.rows, task.codes, groups=task.groups, anchors=task.anchors)


def _fit_prototypes(task: Task, options: RungOptions) -> Any:
    from chiasm.recognition.few_shot import Prototypes

    model = Prototypes(folds=options.folds, random_state=options.seed)
    return model.fit(task.rows, task.codes, groups=task.groups, extra=task.beside)


def _fit_tip_adapter(task: Task, options: RungOptions) -> Any:
    from chiasm.recognition.few_shot import TipAdapter

    model = TipAdapter(folds=options.folds, random_state=options.seed)
    return model.fit(task.rows, task.codes, groups=task.groups, anchors=task.anchors, extra=task.extra)


def _fit_linear(task: Task, options: RungOptions) -> Any:
    from chiasm.recognition.linear_probe import LinearProbe

    model = LinearProbe(
        strengths=options.strengths, cv=options.folds, class_weight=options.class_weight, random_state=options.seed
    )
    return model.fit(task.rows, task.codes, groups=task.groups, extra=task.beside)


def _fit_residual(task: Task, options: RungOptions) -> Any:
    from chiasm.recognition.adapters import ResidualAdapter

    anchors = (
        None if task.anchors is None else dict(zip(np.asarray(task.anchors.y).tolist(), task.anchors.X, strict=True))
    )
    model = ResidualAdapter(
        anchors=anchors, bottleneck=options.bottleneck, ratio=options.ratio, training=_training(options)
    )
    return _fit_network(model, task, options, with_anchors=False)


def _fit_mlp(task: Task, options: RungOptions) -> Any:
    from chiasm.recognition.adapters import MLPAdapter

    model = MLPAdapter(hidden=options.hidden, dropout=options.dropout, training=_training(options))
    return _fit_network(model, task, options, with_anchors=True)


def _fit_network(model: Any, task: Task, options: RungOptions, *, with_anchors: bool) -> Any:
    """Extra rows go in as a source, at the share of the loss that their weights come to: they are never held out."""
    weight = np.ones(len(task.rows))
    if isinstance(options.class_weight, Mapping):
        weight = np.array([options.class_weight.get(code, 1.0) for code in task.codes.tolist()])
    beside = task.beside if with_anchors else task.extra
    given: dict[str, Any] = {}
    if beside is not None:
        known = np.isin(beside.y, task.codes) & (beside.weight > 0)
        if known.any():
            total = float(beside.weight[known].sum())
            given = {
                "X_source": beside.X[known].astype(task.rows.dtype),
                "y_source": np.asarray(beside.y)[known],
                "alpha": total / (total + weight.sum()),
            }
    return model.fit(
        task.rows, task.codes, sample_weight=weight, groups=task.groups, on_epoch=options.on_epoch, **given
    )


def _training(options: RungOptions) -> Training:
    from chiasm.training import Training

    training = options.training or Training()
    balance = "weights" if options.class_weight == "balanced" else training.class_balance
    return replace(training, seed=options.seed, class_balance=balance)


_FIT: dict[RungName, Callable[[Task, RungOptions], Any]] = {
    "zero-shot": _fit_zero_shot,
    "prototypes": _fit_prototypes,
    "tip-adapter": _fit_tip_adapter,
    "linear": _fit_linear,
    "residual": _fit_residual,
    "mlp": _fit_mlp,
}
