"""Fitting classes: heads for sets of modalities, what stands beside the labels, and how modalities join.

Everything that is chosen here is chosen on held-out items of the same folds: the rung of the ladder, whether a source,
unlabelled items or other modalities help, how modalities are fused, how probabilities are calibrated. Each choice is a
function of the data, the options and what was chosen before (`State`); none changes what it is given. What comes out is
`chiasm.recognition.columns.Fitted`; predicting, saving and checking the input are left to
`chiasm.recognition.recognizer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError
from chiasm.recognition.adaptation import STRENGTH, Adaptation, Shares, decide, transport
from chiasm.recognition.columns import Details, Exemplars, Fitted, FusionName, join, network_outputs, route, stacked
from chiasm.recognition.confidence import Calibration, ConformalSets, calibrate
from chiasm.recognition.heads import RUNGS, Head, Log, RungName
from chiasm.recognition.ladder import (
    Learned,
    RungOptions,
    RungReport,
    Task,
    climb,
    deal_folds,
    f1_macro,
    fit_head,
    fit_rung,
    hold_out,
    paired,
    tempered_brier,
    untried,
    why_not,
)
from chiasm.recognition.modalities import Features, ModalityArrays, Subset, deserving, subsets
from chiasm.recognition.new_classes import choose_exemplars
from chiasm.recognition.sources import choose_alpha
from chiasm.recognition.targets import Target
from chiasm.recognition.training_set import Data, State
from chiasm.recognition.unknown import ScoreName, UnknownDetector, fit_unknown_detector
from chiasm.recognition.unlabelled import SemiName, guess_labels
from chiasm.types import Modality
from chiasm.vectors import brier_scores

if TYPE_CHECKING:
    from chiasm.recognition.networks import Network

LEARNED: tuple[Literal["gated"], Literal["attention"]] = ("gated", "attention")
"""Fusions that are networks: they are fitted when asked for, since they take seconds where the others take none."""

ALPHAS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
MOST = 0.97
"""Weight of a source that is tried as well where it is moved among the target's items: it is more like them then."""
FEWEST_TO_COMPARE = 3
"""Items of the median class below which fusions are not compared: differences on so few held-out items are chance."""
FEWEST_TO_CLIMB = 6
"""Items of the median class below which the linear probe is taken without a comparison. (Held-out items are as balanced
as the items drawn, the items to come are not, and a standard error on so few keeps the lower rung. Macro-F1 at 2, 3 and 5
shots, always linear against chosen: stamps, image and caption, 0.70, 0.74, 0.77 against 0.63, 0.70, 0.75; emoji, image
and name, 0.67 and 0.69 against 0.59 and 0.66 at 3 and 5.)"""

_MANY = 16  # items of the median class from which other modalities are not tried as shots: it is for few labels
_MOST_EXEMPLARS = 2000  # items kept for adding classes; of more, _EXEMPLARS of each class
_EXEMPLARS = 20
_MOST_FOR_NOVELTY = 5000  # items that detectors of unknown ones are fitted on at most


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the caller; `"auto"` is chosen on held-out items.

    Attributes:
        adapter: the rung of every head.
        fusion: how modalities are joined. `"auto"` takes concat, or mean or stack where it is better by more than a
            standard error; the best single modality instead where that is at least as good on held-out items.
        alpha: weight of the source.
        semi: how unlabelled items are used.
        unknown: score by which items of no known class are told, or None for no such thing.
        shares: whether the classes of a target without labels are as frequent as those of the items.
        rungs: options of the rungs.
    """

    adapter: RungName | Literal["auto"] = "auto"
    fusion: FusionName | Literal["auto"] = "auto"
    alpha: float | Literal["auto"] = "auto"
    semi: SemiName | None = None
    unknown: ScoreName | Literal["auto"] | None = "auto"
    shares: Shares = "auto"
    rungs: RungOptions = field(default_factory=RungOptions)

    def __post_init__(self) -> None:
        for what, value, names in (
            ("adapter", self.adapter, ("auto", *RUNGS)),
            ("fusion", self.fusion, ("auto", *get_args(FusionName))),
            ("use of unlabelled items", self.semi, (None, *get_args(SemiName))),
            ("score of the unknown", self.unknown, (None, "auto", *get_args(ScoreName))),
            ("knowledge of shares", self.shares, get_args(Shares)),
        ):
            if value not in names:
                raise ChiasmError(f"there is no {what} {value!r}: take {', '.join(name for name in names if name)}")
        if self.alpha != "auto" and not (isinstance(self.alpha, int | float) and 0 <= self.alpha < 1):
            raise ChiasmError(f"alpha is the weight of the source, 'auto' or from 0 to below 1; got {self.alpha!r}")


def fit_classes(
    target: Target,
    arrays: ModalityArrays,
    options: Options,
    *,
    folds: int = 5,
    groups: Int[np.ndarray, " items"] | None = None,
    names: tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None = None,
    source: tuple[ModalityArrays, Int[np.ndarray, " source"]] | None = None,
    unlabelled: ModalityArrays | None = None,
    domain: ModalityArrays | None = None,
) -> Fitted:
    """Learn classes from labelled items.

    Args:
        target: the class of each item; some classes may be known by their name only.
        arrays: embeddings of the items.
        options: what is fixed and what is to be chosen.
        folds: of all cross-validations.
        groups: items of one group are never on both sides of a fold.
        names: embedded names of classes in the shared space, and whose they are.
        source: items of another domain and their classes.
        unlabelled: more items of this domain.
        domain: items without labels of another domain that is to be recognised; `source` and `unlabelled` are None then.

    Raises:
        LabelError: no modality has items of two classes, or the chosen adapter cannot be fitted.
    """
    codes = target.values
    number = len(target.names)
    fold_of = deal_folds(
        codes, folds, seed=options.rungs.seed, groups=groups, always_known=None if names is None else names[1]
    )
    features, parts = deserving(arrays, lambda rows: np.bincount(codes[rows], minlength=number) > 0, fewest=2)
    theirs = None if source is None else Features.of(source[0])
    data = Data(target, arrays, features, fold_of, groups, names, source, theirs, unlabelled)
    main = parts[-1]

    data, options, moving, adaptation = choose_target(data, options, domain, parts)
    data = move_source(data, parts, options.rungs.seed)
    state, source_words = choose_source(data, options, moving, main)
    state, reports, climbed = choose_rung(data, options, state, main)
    learned = {
        part: climbed if climbed is not None and part == main else learn(data, options, state, part) for part in parts
    }
    state, learned = choose_across(data, options, state, learned)
    state, learned, semi_words = choose_semi(data, options, state, learned, main)
    fusion = choose_fusion(data, options, state, learned, main)

    heads = {part: one.head for part, one in learned.items() if fusion.name == "concat" or len(part) == 1}
    asked_for = dict.fromkeys([*parts, *(part for part, _ in arrays.by_subset(features.modalities) if part)])
    finals = {part: final_log(data, fusion, learned, heads, part, main) for part in asked_for}
    calibrations, sets = promises(data, options, finals)
    details = Details(
        kind="classes",
        metric="f1_macro",
        subsets={"+".join(part): f1_macro(log, codes) for part, log in finals.items() if np.isfinite(log).any()},
        numbers={"+".join(part): dict(head.numbers) for part, head in heads.items()},
        rungs=reports,
        rung=state.rung,
        fusion=fusion.name,
        best_modality=fusion.best if len(features.modalities) > 1 else None,
        fusions=dict(fusion.scores),
        fusion_gain=fusion.gain,
        source=source_words,
        alpha=state.alpha,
        semi=semi_words,
        adaptation=adaptation,
        across=state.across,
    )
    return Fitted(
        target.column,
        "classes",
        target.names,
        data.features,
        heads,
        details,
        fusion.name,
        main,
        fusion.best,
        fusion.stack,
        fusion.network,
        calibrations,
        sets,
        {} if fusion.network is not None else detectors(data, options, heads),
        exemplars=choose_kept(data, options, main),
        counts=np.bincount(codes, minlength=number),
        held_out=by_own_modalities(data, finals),
    )


def learn(data: Data, options: Options, state: State, part: Subset, *, strength: float | None = None) -> Learned:
    """Fit the head of a set of modalities, and predict each of its items by one that did not see it.

    Where other modalities' vectors are shots, the strength is the one chosen without them; with moved rows it is fixed.
    Where unlabelled items have guessed labels, these were made from the labels, too, and are made anew without those
    held out.

    Args:
        data: what is learned from.
        options: what is fixed.
        state: what was chosen.
        part: the set of modalities. One that the rung found best cannot be fitted on gets the linear probe.
        strength: of the linear probe; by default chosen.
    """
    task = data.task(part, state)
    rung = "linear" if options.adapter == "auto" and why_not(state.rung, task) else state.rung
    if rung == "linear" and strength is None and task.extra_fold is not None:
        without = replace(state, across=())
        strength = STRENGTH if state.moved else learn(data, options, without, part).head.numbers["strength"]
    if rung == "linear" and state.source_moved:
        strength = STRENGTH
    rungs = options.rungs if strength is None else replace(options.rungs, strengths=(strength,))
    if state.semi is None:
        return fit_rung(rung, task, data.classes, rungs)
    head = fit_rung(rung, _with_guesses(data, task, part, state.semi), data.classes, rungs).head
    if rung == "linear":
        rungs = replace(rungs, strengths=(head.numbers["strength"],))

    def refit(others: Task) -> Head | None:
        assert state.semi is not None
        able = others.classes > 1 and not why_not(rung, others)
        return fit_head(rung, _with_guesses(data, others, part, state.semi), rungs) if able else None

    return Learned(head, hold_out(task, data.classes, refit)[0])


def _with_guesses(data: Data, task: Task, part: Subset, semi: SemiName) -> Task:
    """Return the task with unlabelled items added, their labels guessed from its own."""
    rows, codes = task.rows, task.codes
    if task.anchors is not None:
        rows = np.vstack([rows, task.anchors.X.astype(rows.dtype)])
        codes = np.concatenate([codes, np.asarray(task.anchors.y)])
    unlabelled = data.unlabelled_rows(part)
    guesses = guess_labels(semi, rows, codes, unlabelled) if len(unlabelled) else None
    if guesses is None:
        return task
    if task.extra is None:
        return replace(task, extra=guesses, extra_fold=None)
    fold = np.full(len(task.extra), -1) if task.extra_fold is None else task.extra_fold
    return replace(task, extra=task.extra + guesses, extra_fold=np.append(fold, np.full(len(guesses), -1)))


# ------------------------------------------------------------------------------------------------------------- choices


def choose_target(
    data: Data, options: Options, domain: ModalityArrays | None, parts: Sequence[Subset]
) -> tuple[Data, Options, State, Adaptation | None]:
    """Decide whether to move the items among those of a domain without labels, and move them.

    Where the classes are as frequent there, the items are also shifted to its mean, so that both are centred by their own.

    Args:
        data: the items, all of them the source.
        options: what is fixed.
        domain: the other items.
        parts: sets of modalities that get a head, the largest last.

    Returns:
        The items, shifted and with their moved rows, the options, whether to learn from the moved rows, and the decision.
    """
    if domain is None:
        return data, options, State(), None
    able = [part for part in parts if set(part) <= set(domain.modalities) and len(domain.having(part))]
    if not able:
        lacking = f"The target is not adapted to: it has no items with {' or '.join(data.features.modalities)}."
        return data, options, State(), Adaptation(way="none", items=0, sentence=lacking)
    main = able[-1]
    rows = domain.having(main)
    probe = learn(data, replace(options, adapter="linear"), State(), main).head
    there = data.features.with_means_of(Features.of(domain))
    plain, centred = (
        np.exp(probe.log_probabilities(features.rows(domain, main, rows), data.classes))
        for features in (data.features, there)
    )
    decision = decide(plain, centred, data.codes[data.arrays.having(main)], data.target.names, shares=options.shares)
    if decision.adaptation.way == "none":
        return data, options, State(), decision.adaptation
    if decision.weight is None:
        data = replace(data, arrays=data.features.shifted(data.arrays, there), features=there)
    else:
        weight = dict(enumerate(decision.weight.tolist()))
        options = replace(options, rungs=replace(options.rungs, class_weight=weight))
    moved = {}
    for part in able:
        mine = data.arrays.having(part)
        moved[part] = transport(
            data.features.rows(data.arrays, part, mine),
            data.features.rows(domain, part, domain.having(part)),
            mass=None if decision.weight is None else decision.weight[data.codes[mine]],
            seed=options.rungs.seed,
        )
    return replace(data, moved=moved), options, State(moved=True), decision.adaptation


def choose_source(data: Data, options: Options, state: State, main: Subset) -> tuple[State, str]:
    """Choose the weight of the source, and whether its moved rows are taken, by the linear probe's held-out Brier score.

    Also say why.
    """
    if data.source is None:
        return state, ""
    if data.source_shots(main, 0.5) is None:
        return state, f"The source has no items with {'+'.join(main)}, so it is not used."
    if options.alpha != "auto":
        alpha = float(options.alpha)
        return replace(state, alpha=alpha), f"The source is used with weight {alpha:g}, as asked."
    choices, errors = {}, {}
    having = data.arrays.having(main)
    codes, fold_of = data.codes[having], data.fold_of[having]
    for moved in (False, True) if main in data.source_moved else (False,):
        logs = {}
        for alpha in (*ALPHAS, MOST) if moved else ALPHAS:
            trial = replace(state, alpha=alpha, source_moved=moved and alpha > 0)
            logs[alpha] = learn(data, replace(options, adapter="linear"), trial, main).held_out
        losses = {alpha: brier_scores(np.exp(log), codes) for alpha, log in logs.items()}
        scored = np.all([np.isfinite(loss) for loss in losses.values()], axis=0)
        folds = np.unique(fold_of[scored])
        if len(folds) < 2:
            return state, "Too few items can be held out to choose the weight of the source on, so it is not used."
        choices[moved] = choose_alpha(
            {
                alpha: np.array([-loss[scored & (fold_of == fold)].mean() for fold in folds])
                for alpha, loss in losses.items()
            }
        )
        # Moved rows are learned with a stronger penalty, so their probabilities are flatter: calibration makes them alike.
        errors[moved] = float(np.nanmean(tempered_brier(logs[choices[moved].alpha], codes)))
    moved = min((way for way in choices if choices[way].alpha), key=lambda way: errors[way], default=False)
    words = choices[moved].sentence
    if moved:
        words += " Its items are moved among those of the target, labelled or not: better than as they are."
    return replace(state, alpha=choices[moved].alpha, source_moved=moved), words


def move_source(data: Data, parts: Sequence[Subset], seed: int) -> Data:
    """Move the source's rows among the items', labelled or not; nothing without unlabelled items, or without POT."""
    if data.source is None or data.source_features is None or find_spec("ot") is None:
        return data
    arrays, _ = data.source
    moved = {}
    for part in parts:
        unlabelled = data.unlabelled_rows(part)
        if len(unlabelled) and set(part) <= set(data.source_features.modalities) and len(arrays.having(part)):
            own = data.features.rows(data.arrays, part, data.arrays.having(part))
            theirs = data.source_features.rows(arrays, part, arrays.having(part))
            moved[part] = transport(theirs, np.vstack([own, unlabelled]), seed=seed)
    return replace(data, source_moved=moved)


def choose_rung(
    data: Data, options: Options, state: State, main: Subset
) -> tuple[State, tuple[RungReport, ...], Learned | None]:
    """Choose the rung on the largest set of modalities; also return what was learned there, if anything was."""
    if options.adapter != "auto":
        return replace(state, rung=options.adapter), untried(options.adapter, None, "chosen by the caller"), None
    task = data.task(main, state)
    if state.moved:
        why = "the probe is what the target is adapted to with"
        return state, untried("linear", None, why), None
    if data.per_class < FEWEST_TO_CLIMB:
        why = f"with fewer than {FEWEST_TO_CLIMB} items of the median class a comparison says little"
        return state, untried("linear", task, why), None
    learned, reports = climb(task, data.classes, options.rungs)
    return replace(state, rung=learned.head.rung), reports, learned


def choose_across(
    data: Data, options: Options, state: State, learned: Mapping[Subset, Learned]
) -> tuple[State, dict[Subset, Learned]]:
    """Take other modalities as shots for every modality whose held-out items are recognised better with them."""
    taken = dict(learned)
    if (
        len(data.features.shared) < 2
        or state.rung not in {"prototypes", "linear"}
        or data.per_class > _MANY
        or state.moved
    ):
        return state, taken
    for part, before in learned.items():
        if len(part) > 1 or part[0] not in data.features.shared:
            continue
        trial = replace(state, across=(*state.across, part[0]))
        after = learn(data, options, trial, part, strength=before.head.numbers.get("strength"))
        codes = data.codes[data.arrays.having(part)]
        gain, _ = paired(tempered_brier(before.held_out, codes), tempered_brier(after.held_out, codes))
        if gain > 0:
            state, taken[part] = trial, after
    return state, taken


def choose_semi(
    data: Data, options: Options, state: State, learned: Mapping[Subset, Learned], main: Subset
) -> tuple[State, dict[Subset, Learned], str]:
    """Use unlabelled items if held-out ones are recognised better with labels guessed without them, and say why."""
    if options.semi is None:
        return state, dict(learned), ""
    count = len(data.unlabelled_rows(main))
    if not count:
        return state, dict(learned), f"There are no unlabelled items with {'+'.join(main)}."
    trial = replace(state, semi=options.semi)
    after = learn(data, options, trial, main)
    codes = data.codes[data.arrays.having(main)]
    gain, error = paired(tempered_brier(learned[main].held_out, codes), tempered_brier(after.held_out, codes))
    decision = "is used" if gain > error else "is refused"
    words = (
        f"{options.semi} with {count} unlabelled items {decision}: Brier score of held-out items {gain:+.3f} better, "
        f"standard error {error:.3f}."
    )
    if not gain > error:
        return state, dict(learned), words
    again = {part: after if part == main else learn(data, options, trial, part) for part in learned}
    return trial, again, words


@dataclass(frozen=True, eq=False)
class Fusion:
    """The chosen fusion, and the held-out scores of every fusion.

    Attributes:
        name: the way taken.
        best: the single modality that does best.
        stack: the head on the single modalities' log-probabilities, where that is taken.
        network: where that is taken.
        scores: macro-F1 of every way on held-out items.
        gain: Brier score gained on the best single modality, and its standard error.
        logs: held-out log-probabilities of all items by each way.
        network_logs: those of the network, by set of modalities.
    """

    name: FusionName
    best: Modality
    stack: Head | None = None
    network: Network | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    gain: tuple[float, float] | None = None
    logs: Mapping[FusionName, Log] = field(default_factory=dict)
    network_logs: Mapping[Subset, Log] = field(default_factory=dict)


def choose_fusion(
    data: Data, options: Options, state: State, learned: Mapping[Subset, Learned], main: Subset
) -> Fusion:
    """Choose how modalities are joined: the way that does best on held-out items, if it beats the best of them."""
    singles: dict[Subset, Log] = {
        part: data.spread(one.held_out, part) for part, one in learned.items() if len(part) == 1
    }
    means = {part: _mean_brier(log, data.codes) for part, log in singles.items()}
    (best,) = min(means, key=lambda part: means[part])
    if len(singles) == 1:
        return Fusion("concat", best)
    items: dict[Subset, int] = {part: learned[part].head.items for part in singles}
    inside: dict[Subset, Log] = (
        {part: log for part, log in singles.items() if set(part) <= set(main)} if len(main) > 1 else singles
    )
    both = np.all([np.isfinite(log).any(axis=1) for log in inside.values()], axis=0)
    logs: dict[FusionName, Log] = {"single": singles[(best,)]}
    stack: Head | None = None
    if both.any():
        rows: dict[Subset, Log] = {part: log[both] for part, log in inside.items()}
        logs["mean"] = _expanded(join("mean", rows, items, None, main, data.classes), both)
        if len(main) > 1:
            stack, log = _fit_stack(data, options, stacked(rows, items, data.classes), both)
            logs["stack"] = _expanded(log, both)
    if len(main) > 1:
        logs["concat"] = data.spread(learned[main].held_out, main)
    network, network_logs = None, dict[Subset, Log]()
    if options.fusion in LEARNED:
        network, network_logs = _fit_fusion_network(
            data, options, state, options.fusion, learned[main].head.numbers.get("strength")
        )
        logs[options.fusion] = network_logs[main]
    name: FusionName = options.fusion if options.fusion != "auto" else _best_fusion(data, logs)
    gain = None
    if name in logs and name != "single":
        difference = paired(tempered_brier(logs["single"], data.codes), tempered_brier(logs[name], data.codes))
        gain = difference if np.isfinite(difference[1]) else None
        if options.fusion == "auto" and data.per_class >= FEWEST_TO_COMPARE and difference[0] <= 0:
            name = "single"
    scores: dict[str, float] = {way: f1_macro(log, data.codes) for way, log in logs.items() if np.isfinite(log).any()}
    return Fusion(name, best, stack if name == "stack" else None, network, scores, gain, logs, network_logs)


def _best_fusion(data: Data, logs: Mapping[FusionName, Log]) -> FusionName:
    """Side by side, unless another way is better by more than a standard error and there are items to tell by.

    (On stamps at 2 and 5 shots, always the best one lost 0.05 and 0.02 of macro-F1 against always side by side.)
    """
    usual: FusionName = "concat" if "concat" in logs or "mean" not in logs else "mean"
    if data.per_class < FEWEST_TO_COMPARE or usual not in logs:
        return usual
    before = tempered_brier(logs[usual], data.codes)
    chosen, most = usual, 0.0
    others: tuple[FusionName, ...] = ("mean", "stack")
    for name in others:
        if name in logs and name != usual:
            gain, error = paired(before, tempered_brier(logs[name], data.codes))
            if gain > max(error, most):
                chosen, most = name, gain
    return chosen


def _mean_brier(log: Log, codes: Int[np.ndarray, " items"]) -> float:
    return float(np.nanmean(tempered_brier(log, codes))) if np.isfinite(log).any() else np.inf


def _expanded(log: Log, rows: Shaped[np.ndarray, " items"]) -> Log:
    every = np.full((len(rows), log.shape[1]), np.nan)
    every[rows] = log
    return every


def _fit_stack(
    data: Data, options: Options, rows: Float64[np.ndarray, "rows columns"], both: Shaped[np.ndarray, " items"]
) -> tuple[Head | None, Log]:
    """Fit a linear probe on the held-out log-probabilities of the modalities; return it with its own held-out ones."""
    groups = None if data.groups is None else data.groups[both]
    task = Task(rows, data.codes[both], data.fold_of[both], groups)
    if len(np.unique(task.codes)) < 2:
        return None, np.full((len(rows), data.classes), np.nan)
    learned = fit_rung("linear", task, data.classes, options.rungs)
    return learned.head, learned.held_out


def _fit_fusion_network(
    data: Data, options: Options, state: State, kind: Literal["gated", "attention"], strength: float | None
) -> tuple[Network, dict[Subset, Log]]:
    """Fit a fusion network on all items; return it with held-out log-probabilities by set of modalities."""
    from chiasm.recognition.networks import NetworkInputs, NetworkOptions, NetworkSource, fit_network

    own = replace(options.rungs.network or NetworkOptions(), fusion=kind)
    own = replace(own, training=replace(own.training, seed=options.rungs.seed))
    source = None
    if data.source is not None and data.source_features is not None and state.alpha:
        theirs, codes = data.source
        known = np.flatnonzero(np.any([theirs.present[name] for name in data.source_features.modalities], axis=0))
        label = replace(data.target, values=codes[known], known=np.ones(len(known), dtype=bool))
        source = NetworkSource(NetworkInputs.of(theirs, data.source_features, known), [label])

    def fit(rows: Int[np.ndarray, " rows"]) -> Network:
        return fit_network(
            NetworkInputs.of(data.arrays, data.features, rows),
            [data.target.take(rows)],
            own,
            start=None if strength is None else {data.target.column: strength},
            groups=None if data.groups is None else np.unique(data.groups[rows], return_inverse=True)[1],
            source=source,
            alpha=state.alpha,
            on_epoch=options.rungs.on_epoch,
        )

    usable = np.any([data.arrays.present[name] for name in data.features.modalities], axis=0)
    logs = {part: np.full((len(data.codes), data.classes), np.nan) for part in subsets(data.features.modalities)}
    for fold in range(data.fold_of.max(initial=-1) + 1):
        train = np.flatnonzero((data.fold_of != fold) & usable)
        if len(np.unique(data.codes[train])) < 2 or not (data.fold_of == fold).any():
            continue
        network = fit(train)
        for part, log in logs.items():
            rows = data.arrays.having(part)
            held = rows[data.fold_of[rows] == fold]
            if len(held):
                log[held] = network_outputs(
                    network, data.target.column, "classes", data.features, data.arrays.only(part), held
                )
    return fit(np.flatnonzero(usable)), logs


# ---------------------------------------------------------------------------------------- what is held out, and promised


def final_log(
    data: Data,
    fusion: Fusion,
    learned: Mapping[Subset, Learned],
    heads: Mapping[Subset, Head],
    part: Subset,
    main: Subset,
) -> Log:
    """Return held-out log-probabilities of all items as they will be predicted from a set of modalities."""
    if fusion.network is not None:
        return fusion.network_logs[part]
    if part == main and len(main) > 1 and fusion.name in fusion.logs:
        return fusion.logs[fusion.name]
    logs = {one: data.spread(learned[one].held_out, one) for one in route(fusion.name, part, tuple(heads), fusion.best)}
    if len(logs) == 1:
        return next(iter(logs.values()))
    both = np.all([np.isfinite(log).any(axis=1) for log in logs.values()], axis=0)
    out = np.full((len(data.codes), data.classes), np.nan)
    if both.any():
        items = {one: heads[one].items for one in logs}
        rows = {one: log[both] for one, log in logs.items()}
        out[both] = join(fusion.name, rows, items, fusion.stack, main, data.classes)
    return out


def by_own_modalities(data: Data, finals: Mapping[Subset, Log]) -> Log:
    """Return the held-out log-probabilities of each item from all the modalities it has; NaN where there are none."""
    log = np.full((len(data.codes), data.classes), np.nan)
    for part, rows in data.arrays.by_subset(data.features.modalities):
        if part in finals:
            log[rows] = finals[part][rows]
    return log


def promises(
    data: Data, options: Options, finals: Mapping[Subset, Log]
) -> tuple[dict[Subset, Calibration], dict[Subset, ConformalSets]]:
    """Return calibrations and conformal sets for the sets of modalities with enough held-out items."""
    pairs = {
        part: pair
        for part, log in finals.items()
        if (pair := calibrate(log, data.codes, data.groups, seed=options.rungs.seed)) is not None
    }
    return {part: pair[0] for part, pair in pairs.items()}, {part: pair[1] for part, pair in pairs.items()}


def detectors(data: Data, options: Options, heads: Mapping[Subset, Head]) -> dict[Subset, UnknownDetector]:
    """Return, for every set of modalities that has a head, a detector of items of no known class.

    The score is chosen on the largest set, and the same for the others.
    """
    if options.unknown is None:
        return {}
    score: ScoreName | Literal["auto"] = options.unknown
    fitted: dict[Subset, UnknownDetector] = {}
    for part in sorted(heads, key=len, reverse=True):
        rows = data.arrays.having(part)
        if len(rows) > _MOST_FOR_NOVELTY:
            rows = np.sort(np.random.default_rng(options.rungs.seed).choice(rows, _MOST_FOR_NOVELTY, replace=False))
        detector = fit_unknown_detector(
            data.features.rows(data.arrays, part, rows),
            data.codes[rows],
            score=score,
            groups=None if data.groups is None else data.groups[rows],
            seed=options.rungs.seed,
        )
        if detector is not None:
            fitted[part] = detector
            score = detector.name
    return fitted


def choose_kept(data: Data, options: Options, main: Subset) -> Exemplars:
    """Choose items to keep for adding classes, of every class that a head knows."""
    rows = np.arange(len(data.codes))
    if len(rows) > _MOST_EXEMPLARS:
        parts = [main, *((name,) for name in data.features.modalities if name not in main)]
        chosen = []
        for part in parts:
            own = data.arrays.having(part)
            features = data.features.rows(data.arrays, part, own)
            picked = choose_exemplars(features, data.codes[own], per_class=_EXEMPLARS, seed=options.rungs.seed)
            chosen.append(own[picked])
        rows = np.unique(np.concatenate(chosen))
    return Exemplars(data.arrays.take(rows).only(data.features.modalities), data.codes[rows])
