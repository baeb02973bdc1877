"""Search for hyperparameters: which arguments of `Recognizer` have the lowest Brier score on held-out items.

The space of arguments and how a trial is measured are here; drawing, pruning and keeping trials, and judging which
parameters matter, is Optuna's, which is an extra and loaded by `tune`. The space is conditional: a trial has only the
parameters that its adapter and fusion use. Every trial is measured on the same folds, so two trials differ by their
parameters alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float64, Int, Shaped

from chiasm import work
from chiasm._optional import require, torch_is_missing
from chiasm.errors import ChiasmError, LabelError
from chiasm.evaluation.record import Record
from chiasm.recognition.columns import FusionName
from chiasm.recognition.fitting import LEARNED
from chiasm.recognition.heads import RUNGS, RungName
from chiasm.recognition.ladder import RungOptions
from chiasm.recognition.protocols import Items
from chiasm.recognition.recognizer import Recognizer
from chiasm.splits import Split
from chiasm.vectors import brier_scores

EVALUATOR = "PED-ANOVA"
"""Optuna's measure of how much each parameter matters (Watanabe et al. 2023): of its evaluators the one that looks at
parameters which only some trials have."""

SamplerName: TypeAlias = Literal["tpe", "random"]
Value: TypeAlias = str | float | int | None

_FEWEST_FOR_IMPORTANCE = 10  # complete trials; of fewer, the best tenth is one trial
_FEWEST_FOR_PRUNING = 5  # complete trials that the median is taken of


# --------------------------------------------------------------------------------------------------------- the results


@dataclass(frozen=True)
class Measured(Record):
    """Class-balanced Brier score of the chosen parameters and of the default ones, mean over folds; lower is better."""

    score: float
    standard_error: float
    default: float
    gain: float  # above 0: the chosen ones are better
    gain_error: float  # its standard error

    @classmethod
    def of(cls, chosen: Float64[np.ndarray, " folds"], default: Float64[np.ndarray, " folds"]) -> Measured:
        """Compare by fold."""

        def error(values: Float64[np.ndarray, " folds"]) -> float:
            return float(values.std(ddof=1) / np.sqrt(len(values)))

        gains = default - chosen
        return cls(float(chosen.mean()), error(chosen), float(default.mean()), float(gains.mean()), error(gains))


@dataclass(frozen=True)
class TrialReport(Record):
    """One trial that was measured to its end or pruned."""

    number: int  # from 0, in the order in which they finished
    parameters: Mapping[str, Value]
    state: Literal["complete", "pruned"]
    scores: tuple[float, ...]  # of the folds it was measured on
    seconds: float
    reason: str = ""  # why it was pruned


@dataclass(frozen=True, eq=False)
class Tuning(Record):
    """The best trial of a search, and what it is worth."""

    best: Mapping[str, Any]
    """Arguments of `Recognizer`."""
    parameters: Mapping[str, Value]
    """Its parameters as shown in reports."""
    number: int
    """Number of the best trial."""
    on_own_folds: Measured
    """The best trial on the folds that it was chosen by."""
    nested: Measured
    """On every fold, the trial that is best on the others: a score that the choice did not see. The search itself saw
    all folds, so a little flattery is left."""
    trials: tuple[TrialReport, ...]
    importance: Mapping[str, float]
    """Share of each parameter in what makes a trial one of the best, by `EVALUATOR`; they sum to 1. Empty where there
    are fewer than 10 complete trials."""
    interrupted: bool
    """True if Ctrl-C ended the search."""
    left_out: str = ""
    """Why no network was among the trials; empty where they could be."""

    @property
    def warning(self) -> str:
        """Return a sentence on how to read the scores."""
        complete = sum(trial.state == "complete" for trial in self.trials)
        text = f"Networks were not among the trials: {self.left_out}. " if self.left_out else ""
        text += (
            f"Brier score {self.on_own_folds.score:.3f} is the best of {complete} complete trials on the folds that it was "
            f"chosen by, so it is optimistic. Chosen on the other folds only, it is {self.nested.score:.3f}, with the "
            f"default {self.nested.default:.3f}."
        )
        if self.nested.gain > self.nested.gain_error:
            return text
        return text + " That is no gain of more than one standard error: the default is as good a choice."

    def as_dict(self) -> dict[str, Any]:
        """Return every field by name but `best`, and the warning."""
        fields = super().as_dict()
        del fields["best"]
        return fields | {"importance_by": EVALUATOR, "warning": self.warning}


# ----------------------------------------------------------------------------------------------------------- the space


@dataclass(frozen=True)
class _Range:
    """Values that a parameter can have: `choices`, the default first, or numbers from `low` to `high`."""

    default: Value
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Value, ...] = ()

    def draw(self, trial: Any, name: str) -> Any:
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.default, int):
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def _one_of(*choices: Value) -> _Range:
    return _Range(choices[0], choices=choices)


_RANGES: Mapping[str, _Range] = {
    "class_weight": _one_of(None, "balanced"),
    "strength_from": _one_of("path", "fixed"),  # the probe's own path of strengths, or one strength for all heads
    "strength": _Range(0.3, 1e-3, 1e2, log=True),
    "alpha_from": _one_of("auto", "fixed"),
    "alpha": _Range(0.5, 0.0, 0.95),
    "hidden": _Range(128, 16, 512, log=True),
    "width": _one_of(64, 16, 32, 128),  # multiples of the heads of attention
    "dropout": _Range(0.2, 0.0, 0.7),
    "modality_dropout": _Range(0.2, 0.0, 0.6),
    "learning_rate": _Range(3e-3, 3e-4, 3e-2, log=True),
    "weight_decay": _Range(1e-2, 1e-5, 1.0, log=True),
    "l1": _one_of(0.0, 1e-5, 1e-4, 1e-3, 1e-2),
    "mixup": _one_of(0.0, 0.1, 0.2, 0.4, 1.0),
}


@dataclass(frozen=True)
class _Space:
    """Return the choices for the given items; the first of each is the default."""

    adapters: tuple[RungName | Literal["auto"], ...]
    fusions: tuple[FusionName | Literal["auto"], ...]
    source: bool

    def defaults(self) -> list[dict[str, Value]]:
        """Return the trials that a search begins with: the default, and the plain linear probe on all modalities."""
        plain: dict[str, Value] = {name: values.default for name, values in _RANGES.items()}
        first = plain | {"adapter": self.adapters[0], "fusion": self.fusions[0]}
        second = dict(first)
        if "linear" in self.adapters:
            second["adapter"] = "linear"
        if "concat" in self.fusions:
            second["fusion"] = "concat"
        return [first] if first == second else [first, second]

    def configure(self, trial: Any, *, seed: int) -> dict[str, Any]:
        """Draw the arguments of `Recognizer`, each parameter only where the ones drawn before make use of it."""

        def draw(name: str) -> Any:
            return _RANGES[name].draw(trial, name)

        def network(*shape: str, **more: Any) -> RungOptions:
            from chiasm.recognition.networks import NetworkOptions
            from chiasm.training import Training

            names = ("learning_rate", "weight_decay", "l1", "mixup")
            training = Training(**{name: draw(name) for name in names}, **more)
            return RungOptions(network=NetworkOptions(**{name: draw(name) for name in shape}, training=training))

        fusion = trial.suggest_categorical("fusion", self.fusions)
        arguments: dict[str, Any] = {"fusion": fusion, "random_state": seed}
        if fusion in LEARNED:  # predicts by its own network: no adapter has a say
            arguments["class_weight"] = draw("class_weight")
            balanced = {"class_balance": "weights"} if arguments["class_weight"] == "balanced" else {}
            arguments["options"] = network("width", "dropout", "modality_dropout", **balanced)
        else:
            adapter = arguments["adapter"] = trial.suggest_categorical("adapter", self.adapters)
            if adapter not in {"zero-shot", "prototypes"}:
                arguments["class_weight"] = draw("class_weight")
            if adapter == "linear" and draw("strength_from") == "fixed":
                arguments["options"] = RungOptions(strengths=(draw("strength"),))
            elif adapter == "network":
                arguments["options"] = network("hidden", "dropout")
        if self.source and draw("alpha_from") == "fixed":
            arguments["alpha"] = draw("alpha")
        return arguments


def _space(
    items: Items,
    adapters: Sequence[RungName | Literal["auto"]] | None,
    fusions: Sequence[FusionName | Literal["auto"]] | None,
) -> _Space:
    every_fusion = ("auto", *get_args(FusionName))
    for name, choices, known in (("adapters", adapters, ("auto", *RUNGS)), ("fusions", fusions, every_fusion)):
        if choices is not None and (not choices or set(choices) - set(known)):
            raise ChiasmError(f"{name} must be some of {', '.join(known)}; got {', '.join(choices) or 'none'}")
    torch = not torch_is_missing()  # without it, what needs no network is searched
    if adapters is None:
        needs = {"zero-shot": "names" in items.given, "network": torch}
        adapters = ("auto", *(rung for rung in RUNGS if needs.get(rung, True)))
    if fusions is None:
        fusions = tuple(fusion for fusion in every_fusion if torch or fusion not in LEARNED)
    several = len(items.arrays.modalities) > 1
    return _Space(tuple(adapters), tuple(fusions) if several else ("auto",), "source" in items.given)


# ------------------------------------------------------------------------------------------------------------ the search


def tune(
    items: Items,
    *,
    trials: int,
    make: Callable[..., Any] = Recognizer,
    sampler: SamplerName = "tpe",
    adapters: Sequence[RungName | Literal["auto"]] | None = None,
    fusions: Sequence[FusionName | Literal["auto"]] | None = None,
    study: str | Path | None = None,
    folds: int = 5,
    seed: int = 0,
    on_trial: Callable[[TrialReport], None] | None = None,
) -> Tuning:
    """Search the arguments of `Recognizer` that do best on held-out items.

    The first trials are the defaults, so that on its own folds the result is never worse than they. Later trials are
    pruned where they are behind the median of the others after a fold, and where they cannot be fitted.

    The same arguments give the same trials, also when a search was interrupted or killed and is continued. Ctrl-C ends
    the search and keeps what is finished; before the default is finished, it goes to the caller.

    Args:
        items: to learn from and to measure on. With a source, its weight is searched, too.
        trials: how many are to be finished, with those of a continued study.
        make: makes a recogniser from arguments.
        sampler: `"tpe"` (tree-structured Parzen estimators, Bergstra et al. 2011) or `"random"`.
        adapters: rungs to search among, the first the default; by default `"auto"` and all.
        fusions: fusions to search among, the first the default; by default all. Not used with one modality.
        study: an SQLite file to keep trials in. Where it exists, trials of the same search are continued; those of other
            items, folds, spaces or seeds stay in it beside them.
        folds: that trials are measured on.
        seed: of folds, trials and recognisers.
        on_trial: called with every trial that this call finishes.

    Raises:
        LabelError: there are fewer items or groups than folds, or no class is on both sides of any fold.
        ChiasmError: an option is out of range, or the file is not a study. The default trial's error, if it cannot be
            fitted.
        MissingExtraError: Optuna is not installed.
    """
    if sampler not in get_args(SamplerName):
        raise ChiasmError(f"sampler must be one of {', '.join(get_args(SamplerName))}; got {sampler!r}")
    if trials < 1:
        raise ChiasmError(f"trials must be at least 1; got {trials}")
    splits = items.folds(folds, seed=seed)
    if not any(np.isin(items.labels[split.test], items.labels[split.train]).any() for split in splits):
        raise LabelError(
            "trials cannot be compared: no class has items on both sides of a fold. Label at least 2 items of every class "
            "(in several groups)"
        )
    space = _space(items, adapters, fusions)
    optuna = require("optuna", "tune", "search for hyperparameters")
    name = _digest(items, splits, (space, sampler, folds, seed))
    interrupted = False

    def unfinished() -> Iterator[list[Any]]:
        while len(finished := _finished(opened)) < trials:
            yield finished

    with _quiet(optuna), _opened(optuna, None if study is None else Path(study), name) as opened:
        try:
            for finished in work.steps(unfinished(), "trials", total=trials):
                opened.sampler = _sampler(optuna, sampler, len(finished), space, seed)
                opened.optimize(_objective(items, splits, space, make, finished, seed), n_trials=1)
                if on_trial is not None:
                    on_trial(_report(len(finished), _finished(opened)[-1]))
        except KeyboardInterrupt:
            interrupted = True
            if not any(trial.state.name == "COMPLETE" for trial in _finished(opened)):
                raise
        finished = _finished(opened)
        importance = _importance(optuna, opened)
    complete = [trial for trial in finished if trial.state.name == "COMPLETE"]
    scores = np.array([trial.user_attrs["scores"] for trial in complete])
    best = complete[int(scores.mean(axis=1).argmin())]  # of equals the first: the default where nothing is better
    others = (scores.sum(axis=1, keepdims=True) - scores) / (len(splits) - 1)
    chosen_elsewhere = scores[others.argmin(axis=0), np.arange(len(splits))]
    return Tuning(
        best=space.configure(optuna.trial.FixedTrial(best.params), seed=seed),
        parameters=best.params,
        number=finished.index(best),
        on_own_folds=Measured.of(np.array(best.user_attrs["scores"]), scores[0]),
        nested=Measured.of(chosen_elsewhere, scores[0]),
        trials=tuple(_report(number, trial) for number, trial in enumerate(finished)),
        importance=importance,
        interrupted=interrupted,
        left_out=torch_is_missing() if adapters is None or fusions is None else "",
    )


def _objective(
    items: Items,
    splits: Sequence[Split],
    space: _Space,
    make: Callable[..., Any],
    finished: Sequence[Any],
    seed: int,
) -> Callable[[Any], float]:
    """Return the function that measures the next trial."""
    from optuna import TrialPruned

    def measure(trial: Any) -> float:
        arguments = space.configure(trial, seed=seed)
        # In a small space parameters come again: folds that they were measured on are not measured anew.
        same = [earlier.user_attrs["scores"] for earlier in finished if earlier.params == trial.params]
        known: list[float] = max(same, key=len, default=[])
        scores: list[float] = []
        for fold, split in enumerate(splits):
            try:
                scores.append(known[fold] if fold < len(known) else _score(items, split, make, arguments))
            except (ChiasmError, ValueError) as error:
                if not finished:
                    raise
                trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
                raise TrialPruned from error
            finally:
                trial.set_user_attr("scores", scores)
            trial.report(float(np.mean(scores)), fold)
            if len(finished) >= len(space.defaults()) and fold + 1 < len(splits) and trial.should_prune():
                trial.set_user_attr("reason", f"behind the median after {fold + 1} of {len(splits)} folds")
                raise TrialPruned
        return float(np.mean(scores))

    return measure


def _score(items: Items, split: Split, make: Callable[..., Any], arguments: Mapping[str, Any]) -> float:
    """Return the class-balanced Brier score on one side of a recogniser that learned from the other."""
    model = items.fit(make(**arguments, unknown=None), split.train)
    truth = items.labels[split.test]
    classes = np.union1d(truth, model.classes_)
    probabilities = np.zeros((len(truth), len(classes)))
    probabilities[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(items.arrays.take(split.test))
    codes: Int[np.ndarray, " test"] = np.searchsorted(classes, truth)
    scores = brier_scores(probabilities, codes)
    return float(np.mean([scores[codes == k].mean() for k in np.unique(codes)]))


def _sampler(optuna: Any, name: SamplerName, number: int, space: _Space, seed: int) -> Any:
    """Return the sampler of one trial, seeded by its number: a continued search draws as one in one piece."""
    draw = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    samplers = optuna.samplers
    sampler = samplers.TPESampler(seed=draw) if name == "tpe" else samplers.RandomSampler(seed=draw)
    defaults = space.defaults()
    if number >= len(defaults):
        return sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return samplers.PartialFixedSampler(defaults[number], sampler)


def _finished(study: Any) -> list[Any]:
    """Return the trials that were measured to their end or pruned; others were interrupted, and are measured again."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in {"COMPLETE", "PRUNED"}]


def _report(number: int, trial: Any) -> TrialReport:
    return TrialReport(
        number=number,
        parameters=dict(trial.params),
        state="complete" if trial.state.name == "COMPLETE" else "pruned",
        scores=tuple(trial.user_attrs["scores"]),
        seconds=trial.duration.total_seconds(),
        reason=trial.user_attrs.get("reason", ""),
    )


def _importance(optuna: Any, study: Any) -> dict[str, float]:
    complete = sum(trial.state.name == "COMPLETE" for trial in _finished(study))
    if complete < _FEWEST_FOR_IMPORTANCE:
        return {}
    # The best tenth, but five trials where there are fewer than 50: a density cannot be had from one or two.
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / complete))
    with warnings.catch_warnings():
        # It warns of parameters that few trials have, in a search as short as ours nearly all of the conditional ones.
        warnings.filterwarnings("ignore", category=UserWarning, message="Some regimes for parameter")
        warnings.filterwarnings("ignore", category=UserWarning, message="Target and region quantiles")
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))}


# -------------------------------------------------------------------------------------------------------------- on disk


def _digest(items: Items, splits: Sequence[Split], choices: object) -> str:
    """Return the name of a study: trials of one name can be compared."""
    digest = hashlib.blake2b(digest_size=16)

    def add(name: str, array: Shaped[np.ndarray, "..."]) -> None:
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())

    source = items.given.get("source")
    for arrays in (items.arrays, *(() if source is None else (source.arrays,))):
        for name in arrays.modalities:
            mask = arrays.present[name]
            add(f"{name} present", mask)
            for kind, part in (("own", arrays.vectors), ("shared", arrays.shared)):
                if name in part:
                    add(f"{name} {kind}", part[name][mask])  # rows of items without the modality may hold anything
    for label, vector in items.given.get("names", {}).items():
        add(f"name {label!s}", np.asarray(vector))
    for split in splits:
        add("test", split.test)
    source_labels = None if source is None else np.asarray(source.labels).tolist()
    digest.update(repr((items.labels.tolist(), source_labels, choices)).encode())
    return digest.hexdigest()


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Silence Optuna meanwhile."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _opened(optuna: Any, path: Path | None, name: str) -> Iterator[Any]:
    """Open the study of a name, in memory or in a file."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_FEWEST_FOR_PRUNING)
    if path is None:
        yield optuna.create_study(pruner=pruner)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        raise ChiasmError(f"{path} is not a study ({error}): remove it, or choose another file") from error
    storage = optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(path)})
    try:
        yield optuna.create_study(storage=storage, study_name=name, load_if_exists=True, pruner=pruner)
    finally:
        storage.remove_session()
        storage.engine.dispose()
