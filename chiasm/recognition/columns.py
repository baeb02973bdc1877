"""Fitted columns: all that predicting one column needs, whatever it holds, and what is said of items by it.

For every set of modalities that training items have there may be a head. An item with just such a set is predicted by
it, and else by the largest sets within its own that have heads, together. How heads are fitted is left to
`chiasm.recognition.fitting` (classes), `regressions` (labels and numbers) and `joint` (several columns at once); checking
input, to `chiasm.recognition.recognizer`. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from chiasm.recognition.adaptation import Adaptation
from chiasm.recognition.confidence import Calibration, ConformalScores, ConformalSets
from chiasm.recognition.heads import Head, Log, RungName
from chiasm.recognition.ladder import RungReport
from chiasm.recognition.modalities import Features, ModalityArrays, Subset
from chiasm.recognition.targets import Kind
from chiasm.recognition.unknown import UnknownDetector
from chiasm.types import Modality
from chiasm.vectors import log_softmax, sigmoid

if TYPE_CHECKING:
    from chiasm.recognition.networks import Network

FusionName: TypeAlias = Literal["single", "mean", "stack", "concat", "gated", "attention"]
Outputs: TypeAlias = Float64[np.ndarray, "rows outputs"]
_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class Recognition:
    """The predictions of some items in one column.

    Attributes:
        kind: of the column.
        names: its classes or labels; none of a number.
        values: the most probable class of each item, booleans by label, or numbers.
        probabilities: of each of `names`, calibrated.
        sets: of classes, those that hold the true one with the probability asked for: all of them where the recogniser has
            learned from too few items to promise anything.
        unknown: whether an item is like nothing known, at the false-alarm rate asked for; False where nothing can tell.
        strangeness: p-value of being a known class, small is strange; NaN where nothing can tell.
        lower: of numbers, the end of the interval that holds the true one with the probability asked for; NaN of others.
        upper: the other end.
    """

    kind: Kind
    names: Shaped[np.ndarray, " names"]
    values: Shaped[np.ndarray, "items ..."]
    probabilities: Float64[np.ndarray, "items names"]
    sets: Bool[np.ndarray, "items names"]
    unknown: Bool[np.ndarray, " items"]
    strangeness: Float64[np.ndarray, " items"]
    lower: Float64[np.ndarray, " items"]
    upper: Float64[np.ndarray, " items"]


@dataclass(frozen=True, kw_only=True)
class Details:
    """The choices made on held-out items of the training set, with their scores, for reports.

    Attributes:
        kind: of the column.
        metric: of `subsets`.
        subsets: score of each set of modalities on held-out items, by names such as "image+text".
        numbers: what each head chose, such as its strength.
        rungs: how the rungs of the ladder compared.
        rung: the one taken.
        fusion: how modalities are joined.
        best_modality: the single modality that did best, where there are several.
        fusions: macro-F1 of each way to join all modalities.
        fusion_gain: Brier score that the fusion gains on the best single modality, and the standard error of that.
        source: the decision about the source, in words; empty without one.
        alpha: weight of the source.
        semi: the decision about unlabelled items, in words.
        adaptation: the decision about a target domain without labels; None without one.
        across: modalities whose head also learns from the other modalities' vectors.
        thresholds: of each label on its probability, for items with the largest set of modalities.
        notes: what is done, and why, for labels that are hardly known.
    """

    kind: Kind
    metric: Literal["f1_macro", "r2"]
    subsets: dict[str, float]
    numbers: dict[str, dict[str, float]]
    rungs: tuple[RungReport, ...] = ()
    rung: RungName = "linear"
    fusion: FusionName = "concat"
    best_modality: str | None = None
    fusions: dict[str, float] = field(default_factory=dict)
    fusion_gain: tuple[float, float] | None = None
    source: str = ""
    alpha: float = 0.0
    semi: str = ""
    adaptation: Adaptation | None = None
    across: tuple[str, ...] = ()
    thresholds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Details:
        """Return the details that `as_dict` described.

        Raises:
            KeyError, TypeError: a field is missing or there is none such.
        """
        values = dict(fields)
        values["rungs"] = tuple(RungReport(**entry) for entry in values["rungs"])
        values["across"] = tuple(values["across"])
        if values.get("adaptation") is not None:
            values["adaptation"] = Adaptation.from_dict(values["adaptation"])
        if values["fusion_gain"] is not None:
            values["fusion_gain"] = tuple(values["fusion_gain"])
        return cls(**values)


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Some of the items that were learned from, for adding classes later."""

    arrays: ModalityArrays
    codes: Int[np.ndarray, " exemplars"]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Everything that predicting a column needs, by set of modalities; `()` stands for any.

    Attributes:
        column: its name.
        kind: what it holds.
        names: its classes or labels; none of a number.
        features: how embeddings become rows.
        heads: by set of modalities; none where the network predicts.
        details: what was chosen.
        fusion: how modalities are joined.
        main: the largest set of modalities with enough items.
        best: the single modality that did best.
        stack: the head on the single modalities' log-probabilities, of the fusion `"stack"`.
        network: of a learned fusion, or of several columns at once.
        calibrations: of classes.
        sets: of classes.
        detectors: of classes, by the sets that have heads.
        thresholds: of labels, on the probability.
        residuals: of numbers, the sizes of the errors of held-out items.
        prior: of labels, the logits of their frequencies, for those that no head knows.
        exemplars: of classes.
        counts: items learned from, by class.
        held_out: outputs for each item learned from by heads that did not see it, from all the modalities it has, before
            calibration: log-probabilities, logits or numbers. Not kept on disk.
    """

    column: str
    kind: Kind
    names: Shaped[np.ndarray, " names"]
    features: Features
    heads: Mapping[Subset, Head]
    details: Details
    fusion: FusionName = "concat"
    main: Subset = ()
    best: Modality | None = None
    stack: Head | None = None
    network: Network | None = None
    calibrations: Mapping[Subset, Calibration] = field(default_factory=dict)
    sets: Mapping[Subset, ConformalSets] = field(default_factory=dict)
    detectors: Mapping[Subset, UnknownDetector] = field(default_factory=dict)
    thresholds: Mapping[Subset, Float64[np.ndarray, " labels"]] = field(default_factory=dict)
    residuals: Mapping[Subset, ConformalScores] = field(default_factory=dict)
    prior: Float64[np.ndarray, " labels"] | None = None
    exemplars: Exemplars | None = None
    counts: Int[np.ndarray, " classes"] | None = None
    held_out: Outputs | None = None

    def recognise(self, arrays: ModalityArrays, known: Subset, *, level: float, false_alarm_rate: float) -> Recognition:
        """Predict items that each have one of the known modalities at least."""
        outputs = self.every_output(arrays, known)
        return self.recognise_outputs(arrays, known, outputs, level=level, false_alarm_rate=false_alarm_rate)

    def every_output(self, arrays: ModalityArrays, known: Subset) -> Outputs:
        """Return the outputs, before calibration, of items that each have one of the known modalities at least."""
        outputs = np.empty((len(arrays), len(self.names) or 1))
        for subset, rows in arrays.by_subset(known):
            outputs[rows] = self.outputs(arrays, subset, rows)
        return outputs

    def recognise_outputs(
        self,
        arrays: ModalityArrays,
        known: Subset,
        outputs: Outputs,
        *,
        level: float = 0.9,
        false_alarm_rate: float | None = None,
    ) -> Recognition:
        """Return what outputs of items come to: calibrated, with sets, intervals and alarms.

        Args:
            arrays: the items.
            known: the modalities to look at.
            outputs: log-probabilities, logits or numbers, before calibration.
            level: how often a set or interval is to hold the true value.
            false_alarm_rate: of the alarm for unknown items; None sounds none.
        """
        items, names = outputs.shape[0], len(self.names)
        probabilities, sets = np.empty((items, names)), np.ones((items, names), dtype=bool)
        unknown, strangeness = np.zeros(items, dtype=bool), np.full(items, np.nan)
        has, half = np.zeros((items, names), dtype=bool), np.full(items, np.nan)
        for subset, rows in arrays.by_subset(known):
            if self.kind == "number":
                half[rows] = self._half_width(subset, level)
                continue
            probabilities[rows] = self.probabilities(outputs[rows], subset)
            if self.kind == "labels":
                has[rows] = probabilities[rows] > self.threshold(subset)
                continue
            promised = _of(self.sets, subset)
            if promised is not None:
                sets[rows] = promised.sets(probabilities[rows], level=level)
            within = [part for part in self.detectors if set(part) <= set(subset)]
            if within and false_alarm_rate is not None:
                part = max(within, key=len)
                scores = self.detectors[part].scores(self.features.rows(arrays, part, rows))
                unknown[rows] = self.detectors[part].is_unknown(scores, false_alarm_rate=false_alarm_rate)
                strangeness[rows] = self.detectors[part].p_values(scores)
        values: Shaped[np.ndarray, "items ..."] = outputs[:, 0] if self.kind == "number" else has
        if self.kind == "classes":
            values = self.names[probabilities.argmax(axis=1)]
        lower, upper = outputs[:, 0] - half, outputs[:, 0] + half
        return Recognition(self.kind, self.names, values, probabilities, sets, unknown, strangeness, lower, upper)

    def outputs(self, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]) -> Outputs:
        """Return log-probabilities, logits or numbers, before calibration, of items that have just these modalities."""
        if self.network is not None:
            return self._by_network(arrays, subset, rows)
        logs = {}
        for part in route(self.fusion, subset, tuple(self.heads), self.best):
            features = self.features.rows(arrays, part, rows)
            head = self.heads[part]
            if self.kind == "classes":
                logs[part] = head.log_probabilities(features, len(self.names))
            else:
                logs[part] = np.full((len(rows), len(self.names) or 1), np.nan)
                logs[part][:, head.known] = head.outputs(features)
        return self.join(logs)

    def join(self, outputs: Mapping[Subset, Outputs]) -> Outputs:
        """Put the outputs of several heads together."""
        if self.kind != "classes":
            return averaged(outputs, self.heads, self.prior)
        items = {part: self.heads[part].items for part in outputs}
        return join(self.fusion, outputs, items, self.stack, self.main, len(self.names))

    def probabilities(self, outputs: Outputs, subset: Subset) -> Float64[np.ndarray, "rows names"]:
        """Return calibrated probabilities of outputs for items that have just these modalities."""
        if self.kind == "labels":
            chance: Float64[np.ndarray, "rows names"] = sigmoid(outputs)
            return chance
        calibration = _of(self.calibrations, subset)
        return np.exp(outputs) if calibration is None else calibration.apply(outputs)

    def threshold(self, subset: Subset) -> Float64[np.ndarray, " labels"]:
        """Return the thresholds of a set of modalities; where it has none, the mean of those of the heads that predict it."""
        own = _of(self.thresholds, subset)
        if own is not None:
            return own
        parts = route(self.fusion, subset, tuple(self.heads), self.best)
        mean: Float64[np.ndarray, " labels"] = np.mean([self.thresholds[part] for part in parts], axis=0)
        return mean

    def _half_width(self, subset: Subset, level: float) -> float:
        """Half of the interval of a number; where a set has none, the widest of the heads that predict it."""
        own = _of(self.residuals, subset)
        if own is not None:
            return own.quantile(level)
        parts = route(self.fusion, subset, tuple(self.heads), self.best)
        return max(
            (self.residuals[part].quantile(level) if part in self.residuals else np.inf for part in parts),
            default=np.inf,
        )

    def _by_network(self, arrays: ModalityArrays, subset: Subset, rows: Int[np.ndarray, " rows"]) -> Outputs:
        assert self.network is not None
        return network_outputs(self.network, self.column, self.kind, self.features, arrays.only(subset), rows)


def network_outputs(
    network: Network,
    column: str,
    kind: Kind,
    features: Features,
    arrays: ModalityArrays,
    rows: Int[np.ndarray, " rows"],
) -> Outputs:
    """Return log-probabilities, logits or numbers of one column by a network."""
    from chiasm.recognition.networks import NetworkInputs

    inputs = NetworkInputs.of(arrays, features, rows)
    return network.log_probabilities(inputs, column) if kind == "classes" else network.logits(inputs)[column]


def _of(parts: Mapping[Subset, _Value], subset: Subset) -> _Value | None:
    """Return what belongs to a set of modalities, or to any."""
    return parts.get(subset, parts.get(()))


# --------------------------------------------------------------------------------------------- several heads together


def route(fusion: FusionName, subset: Subset, heads: tuple[Subset, ...], best: Modality | None) -> tuple[Subset, ...]:
    """Return the heads that predict items with a set of modalities."""
    within = [part for part in heads if set(part) <= set(subset)]
    if fusion == "single" and best is not None and (best,) in within:
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
    """Put the log-probabilities of several heads of classes together.

    The mean is geometric, of probabilities smoothed by one imaginary item divided among all classes, so that a class
    unknown to one of the heads is not ruled out.
    """
    if len(logs) == 1:
        return next(iter(logs.values()))
    if fusion == "stack" and stack is not None and {name for part in logs for name in part} == set(main):
        return stack.log_probabilities(stacked(logs, items, number), number)
    return log_softmax(np.mean([_smoothed(log, items[part], number) for part, log in logs.items()], axis=0))


def stacked(
    logs: Mapping[Subset, Log], items: Mapping[Subset, int], number: int
) -> Float64[np.ndarray, "rows columns"]:
    """Return the rows of the stacking head: log-probabilities of the single modalities, each without its mean."""
    parts = [_smoothed(log, items[part], number) for part, log in sorted(logs.items())]
    return np.hstack([part - part.mean(axis=1, keepdims=True) for part in parts])


def _smoothed(log: Log, items: int, number: int) -> Log:
    result: Log = np.log((items * np.exp(log) + 1 / number) / (items + 1))
    return result


def averaged(
    outputs: Mapping[Subset, Outputs], heads: Mapping[Subset, Head], prior: Float64[np.ndarray, " outputs"] | None
) -> Outputs:
    """Return the mean of the outputs of heads of labels or numbers, those of a head weighted by its `weight`.

    A label that a head does not know is left to the others; one that none knows is at its prior.
    """
    shape = next(iter(outputs.values())).shape
    total, weights = np.zeros(shape), np.zeros(shape[1])
    for part, values in outputs.items():
        weight = np.zeros(shape[1])
        weight[heads[part].known] = heads[part].numbers.get("weight", 1.0)
        total += np.where(weight > 0, weight * values, 0.0)
        weights += weight
    mean: Outputs = total / np.where(weights > 0, weights, 1.0)
    return mean if prior is None else np.where(weights > 0, mean, prior)
