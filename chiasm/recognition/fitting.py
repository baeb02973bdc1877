"""How a recogniser is learned: heads for sets of modalities, what stands beside the labels, and how modalities join.

Everything that is chosen here is chosen on held-out items of the same folds: the rung of the ladder, whether a source,
unlabelled items or other modalities help, how modalities are fused, how probabilities are calibrated. What comes out is
`Fitted`, arrays and numbers that predict with numpy alone (the learned fusions apart); predicting, saving and checking
the input are left to `chiasm.recognition.recognizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import Calibration, ConformalSets, calibrate
from chiasm.recognition.extension import choose_exemplars
from chiasm.recognition.heads import RUNGS, Head, RungName
from chiasm.recognition.ladder import (
    RungOptions,
    RungReport,
    Task,
    climb,
    deal_folds,
    fit_rung,
    paired,
    predict_folds,
    predict_rung,
    tempered_brier,
    why_not,
)
from chiasm.recognition.modalities import Features, ModalityArrays, Subset, subsets
from chiasm.recognition.sources import choose_alpha
from chiasm.recognition.unknown import SCORES, ScoreName, UnknownDetector, fit_unknown_detector
from chiasm.recognition.unlabelled import SemiName, guess_labels
from chiasm.splits import Labels, Shots
from chiasm.types import Modality

FusionName: TypeAlias = Literal["single", "mean", "stack", "concat", "gated", "attention", "low_rank"]
LEARNED: tuple[Literal["gated"], Literal["attention"], Literal["low_rank"]] = ("gated", "attention", "low_rank")
"""Fusions that are networks: they are fitted when asked for, since they take seconds where the others take none."""


ALPHAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
ACROSS = 0.2
"""Weight of an item as a shot for another modality. (Measured on stamps at 1, 2 and 5 shots: captions as shots for
pictures 0.472, 0.518, 0.563 without, 0.482, 0.521, 0.568 at weight 1, 0.485, 0.524, 0.580 at 0.3; pictures as shots for
captions hurt at every weight, so whether to is decided on held-out items.)"""
FEWEST_TO_COMPARE = 3
"""Items of the median class below which fusions are not compared: differences on so few held-out items are chance."""
FEWEST_TO_CLIMB = 6
"""Items of the median class below which the linear probe is taken whatever held-out items say of the rungs. (They are as
balanced as the items drawn, the items to come are not, and a standard error on so few keeps the lower rung. Macro-F1 at
2, 3 and 5 shots, always linear against chosen: stamps, image and caption, 0.70, 0.74, 0.77 against 0.63, 0.70, 0.75;
emoji, image and name, 0.67 and 0.69 against 0.59 and 0.66 at 3 and 5.)"""

NETWORKS_FROM = 600
"""Items from which `"auto"` tries networks. (On stamps, 22 to 516 items, they were behind the linear probe at every size
and took ten times as long as all other rungs together.)"""

_ENOUGH = 0.9  # of the items of its scarcest modality: what a joint head needs to be better than its parts together
_MANY = 16  # items of the median class from which other modalities are not tried as shots: it is for few labels
_MOST_EXEMPLARS = 2000  # items kept for adding classes; of more, _EXEMPLARS of each class
_EXEMPLARS = 20
_MOST_FOR_NOVELTY = 5000  # items that detectors of unknown ones are fitted on at most

Log: TypeAlias = Float64[np.ndarray, "items classes"]
"""Log-probabilities; NaN where there are none."""


@dataclass(frozen=True, eq=False)
class SourceItems:
    """Items of another domain, with their labels."""

    arrays: ModalityArrays
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is chosen by the caller; `"auto"` is chosen on held-out items.

    Attributes:
        adapter: the rung of every head.
        fusion: how modalities are joined. `"auto"` takes concat, or mean or stack where it is better by more than a
            standard error; the best single modality instead where that is at least as good on held-out items.
        alpha: weight of the source.
        semi: how unlabelled items are used.
        unknown: score by which items of no known class are told, or None for no such thing.
        folds: of all cross-validations.
        options: of the rungs.
        network: arguments of `chiasm.recognition.fusion.Fusion` for the learned fusions, but for `kind`.
        seed: of all draws.
    """

    adapter: RungName | Literal["auto"] = "auto"
    fusion: FusionName | Literal["auto"] = "auto"
    alpha: float | Literal["auto"] = "auto"
    semi: SemiName | None = None
    unknown: ScoreName | Literal["auto"] | None = "auto"
    folds: int = 5
    options: RungOptions = field(default_factory=RungOptions)
    network: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.adapter not in ("auto", *RUNGS):
            raise ChiasmError(f"there is no adapter {self.adapter!r}: take auto, {', '.join(RUNGS)}")
        if self.fusion not in ("auto", *get_args(FusionName)):
            raise ChiasmError(f"there is no fusion {self.fusion!r}: take auto, {', '.join(get_args(FusionName))}")
        if self.semi not in (None, *get_args(SemiName)):
            raise ChiasmError(
                f"there is no use of unlabelled items {self.semi!r}: take {', '.join(get_args(SemiName))}"
            )
        if self.unknown not in (None, "auto", *SCORES):
            raise ChiasmError(f"there is no score of the unknown {self.unknown!r}: take auto, {', '.join(SCORES)}")
        if self.alpha != "auto" and not (isinstance(self.alpha, int | float) and 0 <= self.alpha < 1):
            raise ChiasmError(f"alpha is the weight of the source, 'auto' or from 0 to below 1; got {self.alpha!r}")


@dataclass(frozen=True)
class Details:
    """What was tried and chosen on held-out items of the training set, for reports."""

    rungs: tuple[RungReport, ...]
    rung: RungName
    fusion: FusionName
    best_modality: str | None
    """The single modality that did best, where there are several."""
    subsets: dict[str, float]
    """Macro-F1 of each set of modalities on held-out items, by names such as "image+text"."""
    fusions: dict[str, float]
    """Macro-F1 of each way to join all modalities."""
    fusion_gain: tuple[float, float] | None
    """Brier score that the fusion gains on the best single modality, and the standard error of that."""
    source: str
    """What was decided about the source, in words; empty without one."""
    alpha: float
    semi: str
    across: tuple[str, ...]
    """Modalities whose head also learns from the other modalities' vectors."""
    numbers: dict[str, dict[str, float]]
    """What each head chose, such as its strength."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Fitted:
    """All that predicting needs."""

    classes: Shaped[np.ndarray, " classes"]
    features: Features
    heads: Mapping[Subset, Head]
    fusion: FusionName
    main: Subset
    """The largest set of modalities with enough items."""
    best: Modality
    stack: Head | None
    network: tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]] | None
    """Arrays and description of a learned fusion."""
    calibrations: Mapping[Subset, Calibration]
    sets: Mapping[Subset, ConformalSets]
    detectors: Mapping[Subset, UnknownDetector]
    exemplars: ModalityArrays
    exemplar_codes: Int[np.ndarray, " exemplars"]
    counts: Int[np.ndarray, " classes"]
    details: Details
    held_out: Log | None = None
    """Of the items learned from, each by heads that did not see it and from all the modalities it has, before
    calibration; not kept on disk."""

    def log_probabilities(self, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]) -> Log:
        """Of items that have just these modalities, before calibration."""
        if self.network is not None:
            return self._by_network(arrays, subset, rows)
        number = len(self.classes)
        logs = {
            part: self.heads[part].log_probabilities(self.features.rows(arrays, part, rows), number)
            for part in self._route(subset)
        }
        return join(self.fusion, logs, {part: self.heads[part].items for part in logs}, self.stack, self.main, number)

    def _route(self, subset: Subset) -> tuple[Subset, ...]:
        """The heads that are asked."""
        return route(self.fusion, subset, tuple(self.heads), self.best)

    def _by_network(self, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]) -> Log:
        from chiasm.recognition.fusion import FusionNetwork

        assert self.network is not None
        network = FusionNetwork.from_arrays(*self.network)
        return network_log(network, self.features, arrays, subset, rows)


def route(fusion: FusionName, subset: Subset, heads: tuple[Subset, ...], best: Modality) -> tuple[Subset, ...]:
    """The heads that recognise items with a set of modalities."""
    within = [part for part in heads if set(part) <= set(subset)]
    if fusion == "single" and (best,) in within:
        return ((best,),)
    if fusion != "concat":
        return tuple(part for part in within if len(part) == 1)
    return tuple(part for part in within if not any(set(part) < set(other) for other in within))


def join(
    fusion: FusionName,
    logs: Mapping[Subset, Log],
    items: Mapping[Subset, int],
    stack: Head | None,
    main: Subset,
    number: int,
) -> Log:
    """Put the log-probabilities of several heads together.

    The mean is geometric, of probabilities smoothed by one imaginary item divided among all classes, so that a class
    unknown to one of the heads is not ruled out.
    """
    if len(logs) == 1:
        return next(iter(logs.values()))
    if fusion == "stack" and stack is not None and {name for part in logs for name in part} == set(main):
        return stack.log_probabilities(stacked(logs, items, number), number)
    total = np.mean([smoothed(log, items[part], number) for part, log in logs.items()], axis=0)
    total -= total.max(axis=1, keepdims=True)
    normal: Log = total - np.log(np.exp(total).sum(axis=1, keepdims=True))
    return normal


def smoothed(log: Log, items: int, number: int) -> Log:
    """With one imaginary item divided among all classes: nothing is impossible."""
    result: Log = np.log((items * np.exp(log) + 1 / number) / (items + 1))
    return result


def stacked(
    logs: Mapping[Subset, Log], items: Mapping[Subset, int], number: int
) -> Float64[np.ndarray, "rows columns"]:
    """What the stacking head learns from: log-probabilities of the single modalities, each without its mean."""
    parts = [smoothed(log, items[part], number) for part, log in sorted(logs.items())]
    return np.hstack([part - part.mean(axis=1, keepdims=True) for part in parts])


def network_log(
    network: Any, features: Features, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]
) -> Log:
    """Log-probabilities by a learned fusion of items that have a set of modalities."""
    vectors = {}
    present = {}
    for name in network.modalities:
        has = name in subset
        width = features.width((name,))
        vectors[name] = features.rows(arrays, (name,), rows) if has else np.zeros((len(rows), width), np.float32)
        present[name] = np.full(len(rows), has)
    probabilities = network.predict(vectors, present)["label"].astype(np.float64)
    log: Log = np.log(np.maximum(probabilities, 1e-12))
    return log


# ------------------------------------------------------------------------------------------------------------ fitting


def fit(
    arrays: ModalityArrays,
    classes: Shaped[np.ndarray, " classes"],
    codes: Int[np.ndarray, " items"],
    *,
    choices: Choices,
    groups: Int[np.ndarray, " items"] | None = None,
    names: tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None = None,
    source: tuple[ModalityArrays, Int[np.ndarray, " source"]] | None = None,
    unlabelled: ModalityArrays | None = None,
) -> Fitted:
    """Learn from labelled items.

    Args:
        arrays: their embeddings.
        classes: all classes, sorted; some may be known by their name only.
        codes: the class of each item.
        choices: what is fixed and what is to be chosen.
        groups: items of one group are never on both sides of a fold.
        names: embedded names of classes in the shared space, and whose they are.
        source: items of another domain and their classes.
        unlabelled: more items of this domain.

    Raises:
        LabelError: no modality has items of two classes, or the chosen adapter cannot be fitted.
    """
    return _Fitting(arrays, classes, codes, choices, groups, names, source, unlabelled).run()


class _Fitting:
    """One run of `fit`: the data, and the steps in their order."""

    def __init__(
        self,
        arrays: ModalityArrays,
        classes: Shaped[np.ndarray, " classes"],
        codes: Int[np.ndarray, " items"],
        choices: Choices,
        groups: Int[np.ndarray, " items"] | None,
        names: tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None,
        source: tuple[ModalityArrays, Int[np.ndarray, " source"]] | None,
        unlabelled: ModalityArrays | None,
    ) -> None:
        self.arrays, self.classes, self.codes, self.choices = arrays, classes, codes, choices
        self.options = replace(choices.options, folds=choices.folds, seed=choices.seed)
        self.groups, self.names, self.unlabelled = groups, names, unlabelled
        self.number = len(classes)
        self.features = Features.of(arrays)
        self.source, self.source_features = source, None if source is None else Features.of(source[0])
        named = None if names is None else names[1]
        self.fold_of = deal_folds(codes, choices.folds, seed=choices.seed, groups=groups, always_known=named)
        counts = np.bincount(codes)
        self.per_class = float(np.median(counts[counts > 0]))
        self.too_few = self.per_class < FEWEST_TO_COMPARE
        self.rung: RungName = "linear"
        self.alpha = 0.0
        self.across: dict[Modality, float] = {}
        self.pseudo: SemiName | None = None
        self._rows_of: dict[Subset, tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "rows dim"]]] = {}
        self._learned: dict[tuple[Any, ...], tuple[Head, Log]] = {}

    def run(self) -> Fitted:
        singles: list[Subset] = [
            (name,) for name in self.features.modalities if len(np.unique(self._codes((name,)))) > 1
        ]
        if not singles:
            raise LabelError(
                "no modality has items of two classes: label items of another class that have the same one"
            )
        self.features = self.features.only(tuple(part[0] for part in singles))
        fitted_subsets = [part for part in subsets(self.features.modalities) if self._deserves_head(part, singles)]
        main = fitted_subsets[-1]
        source_words = self._choose_alpha(main)
        reports, main_held_out = self._choose_rung(main)
        self._choose_across(singles)
        semi_words = self._choose_semi(main)
        learned = {part: self._learn(part) for part in fitted_subsets}
        heads = {part: head for part, (head, _) in learned.items()}
        held_out = {part: log for part, (_, log) in learned.items()}
        if self.pseudo is None and main_held_out is not None and len(main) > 1:
            held_out[main] = main_held_out
        fused = self._fuse(main, heads, held_out)
        if fused.name != "concat":
            heads = {part: head for part, head in heads.items() if len(part) == 1}
        asked_for = dict.fromkeys(fitted_subsets)
        asked_for |= dict.fromkeys(part for part, _ in self.arrays.by_subset(self.features.modalities) if part)
        finals = {part: self._final(part, fused, heads, held_out, main) for part in asked_for}
        scores = {"+".join(part): self._f1(log) for part, log in finals.items() if _any_held_out(log)}
        calibrations, sets = self._calibrate(finals)
        detectors = self._detectors(heads) if fused.network is None else {}
        exemplars = self._exemplars(main, singles)
        details = Details(
            rungs=reports,
            rung=self.rung,
            fusion=fused.name,
            best_modality=fused.best if len(singles) > 1 else None,
            subsets=scores,
            fusions=dict(fused.scores),
            fusion_gain=fused.gain,
            source=source_words,
            alpha=self.alpha,
            semi=semi_words,
            across=tuple(self.across),
            numbers={"+".join(part): dict(head.numbers) for part, head in heads.items()},
        )
        return Fitted(
            self.classes, self.features, heads, fused.name, main, fused.best, fused.stack, fused.network,
            calibrations, sets, detectors,
            self.arrays.take(exemplars).only(self.features.modalities), self.codes[exemplars],
            np.bincount(self.codes, minlength=self.number), details, self._by_own_modalities(finals),
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- tasks

    def _rows(self, subset: Subset) -> Int[np.ndarray, " rows"]:
        """The items that have all of a set of modalities."""
        return self._with_features(subset)[0]

    def _with_features(self, subset: Subset) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "rows dim"]]:
        if subset not in self._rows_of:
            rows = self.arrays.having(subset)
            self._rows_of[subset] = rows, self.features.rows(self.arrays, subset, rows)
        return self._rows_of[subset]

    def _codes(self, subset: Subset) -> Int[np.ndarray, " rows"]:
        codes: Int[np.ndarray, " rows"] = self.codes[self._rows(subset)]
        return codes

    def _deserves_head(self, subset: Subset, singles: list[Subset]) -> bool:
        """Whether the items that have a set of modalities teach more than the heads of its single modalities know."""
        if len(subset) == 1:
            return subset in singles
        codes = self._codes(subset)
        parts = [self._codes((name,)) for name in subset]
        return all(np.isin(part, codes).all() and len(codes) >= _ENOUGH * len(part) for part in parts)

    def _task(self, subset: Subset, items: Int[np.ndarray, " items"] | None = None) -> Task:
        """What a head learns from: all items that have a set of modalities, or those among some."""
        rows, features = self._with_features(subset)
        if items is not None:
            kept = np.isin(rows, items)
            rows, features = rows[kept], features[kept]
        task = Task(
            features,
            self.codes[rows],
            None if self.groups is None else self.groups[rows],
            self._anchors(subset),
            _added(self._from_source(subset, self.alpha), self._from_others(subset, items)),
        )
        return (
            task if self.pseudo is None else replace(task, extra=_added(task.extra, self._pseudo_labels(task, subset)))
        )

    def _anchors(self, subset: Subset) -> Shots | None:
        """Names of classes as feature rows; none where the set has no vectors in the shared space."""
        if self.names is None or not any(name in self.features.shared for name in subset):
            return None
        return Shots(self.features.anchors(self.names[0], subset), self.names[1])

    def _from_source(self, subset: Subset, alpha: float) -> Shots | None:
        """Rows of the source, each domain centred by its own mean, weighted so that alpha is their share of the loss."""
        if self.source is None or self.source_features is None or not alpha:
            return None
        arrays, codes = self.source
        if not set(subset) <= set(self.source_features.modalities):
            return None
        rows = arrays.having(subset)
        if not len(rows):
            return None
        features = self.source_features.rows(arrays, subset, rows)
        weight = alpha / (1 - alpha) * len(self._rows(subset)) / len(rows)
        return Shots(features, codes[rows], np.full(len(rows), weight))

    def _from_others(self, subset: Subset, items: Int[np.ndarray, " items"] | None) -> Shots | None:
        """Items in other modalities as shots of this one (cross-modal few-shot, Lin et al. 2023).

        An item that is held out is held out in all its modalities: its caption would tell the class of its picture.
        """
        if len(subset) > 1 or not self.across.get(subset[0]):
            return None
        (wanted,) = subset
        found = None
        for other in self.features.shared:
            rows = self._rows((other,))
            if items is not None:
                rows = rows[np.isin(rows, items)]
            if other != wanted and len(rows):
                X = self.features.across(self.arrays, other, rows, wanted)
                found = _added(found, Shots(X, self.codes[rows], np.full(len(rows), self.across[wanted])))
        return found

    # ----------------------------------------------------------------------------------------------------- choosing

    def _choose_rung(self, main: Subset) -> tuple[tuple[RungReport, ...], Log | None]:
        task = self._task(main)
        if self.choices.adapter != "auto":
            self.rung = self.choices.adapter
            reason = "chosen by the caller"
            return tuple(RungReport(name, False, name == self.rung, reason) for name in RUNGS), None
        found = climb(
            task, self.number, self.options, fold_of=self.fold_of[self._rows(main)], networks_from=NETWORKS_FROM
        )
        if self.per_class < FEWEST_TO_CLIMB and self.rung in {report.rung for report in found.reports}:
            why = f"taken with fewer than {FEWEST_TO_CLIMB} items of the median class, where a comparison says little"
            reports = [replace(report, taken=False) for report in found.reports]
            place = next(i for i, report in enumerate(reports) if report.rung == self.rung)
            reports[place] = replace(reports[place], taken=True, why=why)
            return tuple(reports), None
        self.rung = found.rung
        return found.reports, self._spread(found.held_out, main)

    def _choose_alpha(self, main: Subset) -> str:
        """Choose the weight of the source by the linear probe's held-out Brier score."""
        if self.source is None:
            return ""
        if self._from_source(main, 0.5) is None:
            return f"The source has no items with {'+'.join(main)}, so it is not used."
        if self.choices.alpha != "auto":
            self.alpha = float(self.choices.alpha)
            return f"The source is used with weight {self.alpha:g}, as asked."
        from chiasm.recognition.linear_probe import LinearProbe

        task, fold_of = self._task(main), self.fold_of[self._rows(main)]
        folds = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(fold_of.max() + 1)]
        if len(folds) < 2:
            return "No item can be held out to choose the weight of the source on, so it is not used."
        scores = {}
        for alpha in ALPHAS:
            extra = self._from_source(main, alpha)
            probe = LinearProbe(cv=folds, class_weight=self.options.class_weight).fit(
                task.rows, task.codes, extra=_added(task.anchors, extra)
            )
            if len(probe.cv_scores_) < 2:
                return "Too few items can be held out to choose the weight of the source on, so it is not used."
            best = int(np.flatnonzero(probe.strengths_ == probe.strength_)[0])
            scores[alpha] = probe.cv_scores_[:, best]
        if len({len(found) for found in scores.values()}) > 1:
            return "Folds differ with and without the source, so it is not used."
        choice = choose_alpha(scores)
        self.alpha = choice.alpha
        return choice.sentence

    def _choose_across(self, singles: list[Subset]) -> None:
        """Other modalities as shots, for every modality where held-out items of its own are recognised better with."""
        if len(self.features.shared) < 2 or self.rung in {"zero-shot", "residual", "mlp"}:
            return
        if np.median(np.bincount(self.codes)[np.unique(self.codes)]) > _MANY:
            return
        for part in singles:
            (name,) = part
            if name not in self.features.shared:
                continue
            before = self._brier(self._learn(part)[1])
            self.across[name] = ACROSS
            gain, _ = paired(before, self._brier(self._learn(part)[1]))
            if not gain > 0:
                del self.across[name]

    def _choose_semi(self, main: Subset) -> str:
        """Unlabelled items, if held-out ones are recognised better with pseudo-labels made without them."""
        if self.choices.semi is None:
            return ""
        if self.unlabelled is None or not len(_having(self.unlabelled, main)):
            return f"There are no unlabelled items with {'+'.join(main)}."
        before = self._brier(self._learn(main)[1])
        self.pseudo = self.choices.semi
        gain, error = paired(before, self._brier(self._learn(main)[1]))
        what = f"{self.choices.semi} with {len(_having(self.unlabelled, main))} unlabelled items"
        told = f"Brier score of held-out items {gain:+.3f} better, standard error {error:.3f}"
        if gain > error:
            return f"{what} is used: {told}."
        self.pseudo = None
        return f"{what} is refused: {told}."

    def _pseudo_labels(self, task: Task, subset: Subset) -> Shots | None:
        """Unlabelled items with labels guessed from a task's items."""
        assert self.unlabelled is not None
        assert self.pseudo is not None
        rows = _having(self.unlabelled, subset)
        if not len(rows):
            return None
        labelled, codes = task.rows, task.codes
        if task.anchors is not None:
            labelled = np.vstack([labelled, task.anchors.X.astype(labelled.dtype)])
            codes = np.concatenate([codes, np.asarray(task.anchors.y)])
        return guess_labels(self.pseudo, labelled, codes, self.features.rows(self.unlabelled, subset, rows))

    # ------------------------------------------------------------------------------------------- heads, held-out items

    def _learn(self, subset: Subset) -> tuple[Head, Log]:
        """The head of a set of modalities, and the log-probabilities of each item by one that did not see it.

        Where other modalities' vectors are shots, the strength is the one chosen without them: in the choice they would
        tell of the items that are held out.
        """
        across = self.across.get(subset[0]) if len(subset) == 1 else None
        state = (subset, self.alpha, self.pseudo, across)
        if state not in self._learned:
            task, options = self._task(subset), self.options
            # A set of modalities that the rung found best cannot be fitted on gets the linear probe.
            rung = "linear" if self.choices.adapter == "auto" and why_not(self.rung, task) else self.rung
            if rung == "linear" and across:
                del self.across[subset[0]]
                options = replace(options, strengths=(self._learn(subset)[0].numbers["strength"],))
                self.across[subset[0]] = across
            head = fit_rung(rung, task, options)
            self._learned[state] = head, self._held_out(subset, head)
        return self._learned[state]

    def _held_out(self, subset: Subset, head: Head) -> Log:
        """Log-probabilities of each item by a head that did not see it, with the strength that all items chose."""
        rows, features = self._with_features(subset)
        options = self.options
        if head.rung == "linear":
            options = replace(options, strengths=(head.numbers["strength"],))
        fold_of = self.fold_of[rows]
        if self.pseudo is None and not (len(subset) == 1 and self.across.get(subset[0])):
            return self._spread(predict_folds(head.rung, self._task(subset), fold_of, self.number, options), subset)
        # What stands beside the labels was made from them, too, and is made anew without those held out.
        out = np.full((len(rows), self.number), np.nan)
        for number in range(self.fold_of.max() + 1):
            held = fold_of == number
            if held.any():
                task = self._task(subset, np.flatnonzero(self.fold_of != number))
                out[held] = predict_rung(head.rung, task, features[held], self.number, options)
        return self._spread(out, subset)

    def _spread(self, log: Log, subset: Subset) -> Log:
        """From rows of a task to rows of all items."""
        every = np.full((len(self.codes), self.number), np.nan)
        every[self._rows(subset)] = log
        return every

    def _brier(self, log: Log) -> Float64[np.ndarray, " items"]:
        return tempered_brier(log, self.codes)

    def _f1(self, log: Log) -> float:
        from sklearn.metrics import f1_score

        scored = np.isfinite(log).any(axis=1)
        if not scored.any():
            return float("nan")
        guesses = np.where(np.isnan(log[scored]), -np.inf, log[scored]).argmax(axis=1)
        return float(f1_score(self.codes[scored], guesses, average="macro", zero_division=0))

    # ------------------------------------------------------------------------------------------------------- fusion

    def _fuse(self, main: Subset, heads: Mapping[Subset, Head], held_out: Mapping[Subset, Log]) -> _Fused:
        """Choose how modalities are joined: the way that does best on held-out items, if it beats the best of them."""
        singles: dict[Subset, Log] = {part: log for part, log in held_out.items() if len(part) == 1}
        means = {
            part: float(np.nanmean(self._brier(log))) if _any_held_out(log) else np.inf for part, log in singles.items()
        }
        (best,) = min(means, key=lambda part: means[part])
        asked = self.choices.fusion
        if len(singles) == 1:
            return _Fused("concat", best)
        items: dict[Subset, int] = {part: heads[part].items for part in singles}
        every = {part: log for part, log in singles.items() if set(part) <= set(main)} if len(main) > 1 else singles
        both = np.all([np.isfinite(log).any(axis=1) for log in every.values()], axis=0)
        joined: dict[FusionName, Log] = {"single": singles[(best,)]}
        stack: Head | None = None
        if both.any():
            part_logs: dict[Subset, Log] = {part: log[both] for part, log in every.items()}
            joined["mean"] = self._expand(join("mean", part_logs, items, None, main, self.number), both)
            if len(main) > 1:
                stack, log = self._stack(part_logs, items, both)
                joined["stack"] = self._expand(log, both)
        if main in held_out and len(main) > 1:
            joined["concat"] = held_out[main]
        network, by_network = None, dict[Subset, Log]()
        if asked in LEARNED:
            network, by_network = self._fusion_network(asked)
            joined[asked] = by_network[main]
        scores: dict[str, float] = {name: self._f1(log) for name, log in joined.items() if _any_held_out(log)}
        fusion: FusionName = asked if asked != "auto" else self._best_fusion(joined)
        gain = None
        if fusion in joined and fusion != "single":
            found = paired(self._brier(joined["single"]), self._brier(joined[fusion]))
            gain = found if np.isfinite(found[1]) else None
            if asked == "auto" and not self.too_few and found[0] <= 0:
                fusion = "single"
        return _Fused(fusion, best, stack if fusion == "stack" else None, network, scores, gain, joined, by_network)

    def _best_fusion(self, joined: Mapping[FusionName, Log]) -> FusionName:
        """Side by side, unless another way is better by more than a standard error and there are items to tell by.

        (On stamps at 2 and 5 shots, always the best one lost 0.05 and 0.02 of macro-F1 against always side by side.)
        """
        usual: FusionName = "concat" if "concat" in joined or "mean" not in joined else "mean"
        if self.too_few or usual not in joined:
            return usual
        chosen, least = usual, 0.0
        for name in ("mean", "stack"):
            if name in joined and name != usual:
                gain, error = paired(self._brier(joined[usual]), self._brier(joined[name]))
                if gain > max(error, least):
                    chosen, least = name, gain
        return chosen

    def _expand(self, log: Log, rows: Shaped[np.ndarray, " items"]) -> Log:
        every = np.full((len(self.codes), self.number), np.nan)
        every[rows] = log
        return every

    def _stack(
        self, logs: Mapping[Subset, Log], items: Mapping[Subset, int], both: Shaped[np.ndarray, " items"]
    ) -> tuple[Head | None, Log]:
        """A linear probe on the held-out log-probabilities of the modalities, and its own held-out ones."""
        rows = stacked(logs, items, self.number)
        task = Task(rows, self.codes[both], None if self.groups is None else self.groups[both])
        if len(np.unique(task.codes)) < 2:
            return None, np.full((len(rows), self.number), np.nan)
        head = fit_rung("linear", task, self.options)
        options = replace(self.options, strengths=(head.numbers["strength"],))
        return head, predict_folds("linear", task, self.fold_of[both], self.number, options)

    def _fusion_network(self, kind: FusionName) -> tuple[Any, dict[Subset, Log]]:
        """A fusion network of all items, and the held-out log-probabilities by sets of modalities."""
        logs = {part: np.full((len(self.codes), self.number), np.nan) for part in subsets(self.features.modalities)}
        bare = ~np.any([self.arrays.present[name] for name in self.features.modalities], axis=0)
        for number in range(self.fold_of.max() + 1):
            train = np.flatnonzero((self.fold_of != number) & ~bare)
            if len(np.unique(self.codes[train])) < 2 or not (self.fold_of == number).any():
                continue
            network = self._network(kind, train)
            for part, log in logs.items():
                rows = self._rows(part)
                held = rows[self.fold_of[rows] == number]
                if len(held):
                    log[held] = network_log(network, self.features, self.arrays, part, held)
        return self._network(kind, np.flatnonzero(~bare)).as_arrays(), logs

    def _network(self, kind: FusionName, rows: Int[np.ndarray, " rows"]) -> Any:
        from chiasm.recognition import fusion
        from chiasm.recognition.fusion import Fusion, FusionNetwork, Target
        from chiasm.training import Training

        def inputs(
            arrays: ModalityArrays, features: Features, rows: Int[np.ndarray, " rows"]
        ) -> tuple[dict[str, Any], dict[str, Any]]:
            vectors: dict[str, Any] = {}
            present: dict[str, Any] = {}
            for name in self.features.modalities:
                has = arrays.present[name][rows] if name in arrays.modalities else np.zeros(len(rows), dtype=bool)
                vectors[name] = np.zeros((len(rows), self.features.width((name,))), np.float32)
                if has.any():
                    vectors[name][has] = features.rows(arrays, (name,), rows[has])
                present[name] = has
            return vectors, present

        training = replace(self.options.training or Training(), seed=self.choices.seed)
        network = FusionNetwork(Fusion(kind=kind, **self.choices.network), training)  # type: ignore[arg-type]  # one of LEARNED
        vectors, present = inputs(self.arrays, self.features, rows)
        source = None
        if self.source is not None and self.source_features is not None and self.alpha:
            theirs, codes = self.source
            given = inputs(theirs, self.source_features, np.arange(len(codes)))
            known = np.flatnonzero(np.any(list(given[1].values()), axis=0))
            given = inputs(theirs, self.source_features, known)
            source = fusion.SourceItems(*given, [Target("label", "classes", codes[known], size=self.number)])
        target = Target("label", "classes", self.codes[rows], size=self.number)
        groups = None if self.groups is None else self.groups[rows]
        return network.fit(
            vectors,
            present,
            [target],
            groups=groups,
            source=source,
            alpha=self.alpha,
            on_epoch=self.options.on_epoch,
        )

    def _final(
        self,
        part: Subset,
        fused: _Fused,
        heads: Mapping[Subset, Head],
        held_out: Mapping[Subset, Log],
        main: Subset,
    ) -> Log:
        """Held-out log-probabilities of items as they will be predicted from a set of modalities."""
        if fused.network is not None:
            return fused.by_network[part]
        if part == main and len(main) > 1 and fused.name in fused.joined:
            return fused.joined[fused.name]
        asked = route(fused.name, part, tuple(heads), fused.best)
        if len(asked) == 1:
            return held_out[asked[0]]
        both = np.all([np.isfinite(held_out[one]).any(axis=1) for one in asked], axis=0)
        out = np.full((len(self.codes), self.number), np.nan)
        if both.any():
            logs = {one: held_out[one][both] for one in asked}
            items = {one: heads[one].items for one in asked}
            out[both] = join(fused.name, logs, items, fused.stack, main, self.number)
        return out

    def _by_own_modalities(self, finals: Mapping[Subset, Log]) -> Log:
        """The held-out log-probabilities of each item from all the modalities it has; NaN where there are none."""
        log = np.full((len(self.codes), self.number), np.nan)
        for part, rows in self.arrays.by_subset(self.features.modalities):
            if part in finals:
                log[rows] = finals[part][rows]
        return log

    # ---------------------------------------------------------------------------------------------------- open world

    def _calibrate(self, finals: Mapping[Subset, Log]) -> tuple[dict[Subset, Calibration], dict[Subset, ConformalSets]]:
        found = {part: calibrate(log, self.codes, self.groups, seed=self.choices.seed) for part, log in finals.items()}
        usable = {part: pair for part, pair in found.items() if pair is not None}
        return {part: pair[0] for part, pair in usable.items()}, {part: pair[1] for part, pair in usable.items()}

    def _detectors(self, heads: Mapping[Subset, Head]) -> dict[Subset, UnknownDetector]:
        """Return a detector on the features of every set of modalities that has a head.

        The score is chosen on the largest set, and the same for the others.
        """
        score = self.choices.unknown
        detectors: dict[Subset, UnknownDetector] = {}
        if score is None:
            return detectors
        for part in sorted(heads, key=lambda part: -len(part)):
            items = self._rows(part)
            if len(items) > _MOST_FOR_NOVELTY:
                draws = np.random.default_rng(self.choices.seed)
                items = np.sort(draws.choice(items, _MOST_FOR_NOVELTY, replace=False))

            task = self._task(part, items)
            detector = fit_unknown_detector(
                task.rows, task.codes, score=score, groups=task.groups, seed=self.choices.seed
            )
            if detector is not None:
                detectors[part] = detector
                score = detector.name
        return detectors

    def _exemplars(self, main: Subset, singles: list[Subset]) -> Int[np.ndarray, " exemplars"]:
        """Items to keep for adding classes, of every class that a head knows."""
        if len(self.codes) <= _MOST_EXEMPLARS:
            return np.arange(len(self.codes))
        chosen = []
        for part in [main, *(one for one in singles if not set(one) <= set(main))]:
            rows, features = self._with_features(part)
            chosen.append(
                rows[choose_exemplars(features, self.codes[rows], per_class=_EXEMPLARS, seed=self.choices.seed)]
            )
        return np.unique(np.concatenate(chosen))


@dataclass(frozen=True, eq=False)
class _Fused:
    """How modalities are joined, and how every way to do so did."""

    name: FusionName
    best: Modality
    stack: Head | None = None
    network: tuple[dict[str, Float[np.ndarray, "..."]], dict[str, Any]] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    gain: tuple[float, float] | None = None
    joined: Mapping[FusionName, Log] = field(default_factory=dict)
    by_network: Mapping[Subset, Log] = field(default_factory=dict)


def _added(one: Shots | None, other: Shots | None) -> Shots | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


def _any_held_out(log: Log) -> bool:
    return bool(np.isfinite(log).any())


def _having(arrays: ModalityArrays, subset: Subset) -> Int[np.ndarray, " rows"]:
    """The items that have all of some modalities, also where there are no embeddings of one of them at all."""
    return arrays.having(subset) if set(subset) <= set(arrays.modalities) else np.arange(0)


__all__ = ["ALPHAS", "Choices", "Details", "Fitted", "FusionName", "SemiName", "SourceItems", "fit"]
