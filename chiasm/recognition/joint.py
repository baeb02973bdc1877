"""Several columns at once: one network that learns all of them, taken for a column if it beats the linear heads there.

On the same held-out items, every column is predicted by heads that know this column alone and by one network that learns
all of them together. The network is taken for a column only if its loss there is lower by more than one standard error of
the paired difference. If it is taken for none, it is not kept, and predicting needs NumPy alone. The network is
`chiasm.recognition.networks`; the heads, `chiasm.recognition.fitting` and `regressions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float64, Int

from chiasm._optional import torch_is_missing
from chiasm.recognition.columns import Fitted, Outputs, network_outputs
from chiasm.recognition.confidence import ConformalScores, calibrate
from chiasm.recognition.ladder import paired
from chiasm.recognition.modalities import Features, ModalityArrays
from chiasm.recognition.regressions import choose_thresholds
from chiasm.recognition.targets import Kind, Target, strata
from chiasm.splits import deal
from chiasm.vectors import sigmoid

if TYPE_CHECKING:
    from chiasm.recognition.networks import Network, NetworkOptions

FOLDS = 3


@dataclass(frozen=True)
class ColumnReport:
    """How one column was predicted alone and together, on the same held-out training items.

    Attributes:
        column: its name.
        kind: what it holds.
        alone: mean loss of linear heads of this column: Brier score, or squared error in variances of the column; None
            where nothing could be held out.
        together: mean loss of the network.
        gain: by how much the network's loss is lower, on items that both predicted.
        standard_error: of the gain.
        taken: which of the two predicts the column.
        why: in words.
    """

    column: str
    kind: Kind
    alone: float | None
    together: float | None
    gain: float | None
    standard_error: float | None
    taken: Literal["alone", "together"]
    why: str


def share_network(
    fitted: Mapping[str, Fitted],
    targets: Sequence[Target],
    arrays: ModalityArrays,
    *,
    groups: Int[np.ndarray, " items"] | None = None,
    options: NetworkOptions | None = None,
    seed: int = 0,
) -> tuple[dict[str, Fitted], tuple[ColumnReport, ...]]:
    """Replace the heads of every column that one network of all columns predicts better; without PyTorch, of none.

    Args:
        fitted: the columns as they were fitted alone, with what was held out.
        targets: their values; items may lack any of them.
        arrays: embeddings of the items.
        groups: items of one group are never on both sides of a fold.
        options: of the network.
        seed: of folds and network.
    """
    missing = torch_is_missing()
    if missing:
        return dict(fitted), tuple(
            ColumnReport(target.column, target.kind, None, None, None, None, "alone", missing) for target in targets
        )
    features = Features.of(arrays)
    start = {column: _strength(one) for column, one in fitted.items()}
    fold_of = _deal(targets, groups, len(arrays), seed)
    held_out = {target.column: np.full((len(arrays), max(1, len(target.names))), np.nan) for target in targets}
    usable = np.any(list(arrays.present.values()), axis=0)
    for fold in range(int(fold_of.max(initial=-1)) + 1):
        train, held = np.flatnonzero((fold_of != fold) & usable), np.flatnonzero((fold_of == fold) & usable)
        learnable = [target for target in targets if target.take(train).teaches]
        if not learnable or not len(held):
            continue
        network = _fit(arrays, features, learnable, groups, train, options, seed, start)
        for target in learnable:
            outputs = network_outputs(network, target.column, target.kind, features, arrays, held)
            held_out[target.column][held] = np.where(target.known[held][:, None], outputs, np.nan)
    reports = tuple(_compare(target, fitted[target.column], held_out[target.column]) for target in targets)
    together = [report.column for report in reports if report.taken == "together"]
    if not together:
        return dict(fitted), reports
    network = _fit(arrays, features, targets, groups, np.flatnonzero(usable), options, seed, start)
    columns = dict(fitted)
    for target in targets:
        if target.column in together:
            columns[target.column] = _of_network(
                fitted[target.column], target, features, network, held_out[target.column], groups, seed
            )
    return columns, reports


def _fit(
    arrays: ModalityArrays,
    features: Features,
    targets: Sequence[Target],
    groups: Int[np.ndarray, " items"] | None,
    rows: Int[np.ndarray, " rows"],
    options: NetworkOptions | None,
    seed: int,
    start: Mapping[str, float],
) -> Network:
    from chiasm.recognition.networks import NetworkInputs, NetworkOptions, fit_network

    own = options or NetworkOptions()
    own = replace(own, training=replace(own.training, seed=seed))
    group = None if groups is None else np.unique(groups[rows], return_inverse=True)[1]
    inputs = NetworkInputs.of(arrays, features, rows)
    return fit_network(inputs, [target.take(rows) for target in targets], own, start=start, groups=group)


def _strength(column: Fitted) -> float:
    """Return the strength of the head of the largest set of modalities, from which the network's linear part starts."""
    return column.heads[max(column.heads, key=len)].numbers["strength"]


def _compare(target: Target, alone: Fitted, together: Outputs) -> ColumnReport:
    assert alone.held_out is not None  # of a column that was just fitted there is
    losses = [losses_of(target, outputs) for outputs in (held_out_of(target, alone), together)]
    means = [float(np.nanmean(loss)) if np.isfinite(loss).any() else None for loss in losses]
    gain, error = paired(*losses)
    if not np.isfinite(error):
        why = "no items can be held out to compare on"
        return ColumnReport(target.column, target.kind, means[0], means[1], None, None, "alone", why)
    wins = gain > error
    why = f"the network is {'better' if wins else 'not better'} by more than one standard error"
    taken: Literal["alone", "together"] = "together" if wins else "alone"
    return ColumnReport(target.column, target.kind, means[0], means[1], gain, error, taken, why)


def held_out_of(target: Target, fitted: Fitted) -> Outputs:
    """Return the held-out outputs of a column, just fitted on its known values, as those of all items and names.

    Items without a value have none (NaN); a class that the column does not know has log-probability minus infinity.
    """
    assert fitted.held_out is not None
    every = np.full((len(target), max(1, len(target.names))), -np.inf if target.kind == "classes" else np.nan)
    places = np.searchsorted(target.names, fitted.names) if target.kind != "number" else np.array([0])
    every[np.ix_(np.flatnonzero(target.known), places)] = fitted.held_out
    every[~target.known] = np.nan
    every[np.flatnonzero(target.known)[~np.isfinite(fitted.held_out).any(axis=1)]] = np.nan
    return every


def losses_of(target: Target, outputs: Outputs) -> Float64[np.ndarray, " items"]:
    """Return the loss of each item, NaN where it has no value or no prediction: Brier score, or squared error in variances."""
    if target.kind == "number":
        spread = max(float(target.values[target.known].var()), float(np.finfo(np.float64).tiny))
        errors: Float64[np.ndarray, " items"] = np.square(outputs[:, 0] - target.values) / spread
        return errors
    truth = target.values if target.kind == "labels" else target.values[:, None] == np.arange(len(target.names))
    chance = sigmoid(outputs) if target.kind == "labels" else np.exp(outputs)
    distances: Float64[np.ndarray, " items"] = np.square(chance - truth).sum(axis=1)
    return np.where(target.known, distances, np.nan)


def _of_network(
    alone: Fitted,
    target: Target,
    features: Features,
    network: Network,
    outputs: Outputs,
    groups: Int[np.ndarray, " items"] | None,
    seed: int,
) -> Fitted:
    """Return a column of the network with calibration and intervals from its held-out outputs."""
    column = Fitted(target.column, target.kind, target.names, features, {}, alone.details, network=network)
    known = np.flatnonzero(target.known)
    column = replace(column, held_out=outputs[known])
    scored = np.flatnonzero(np.isfinite(outputs).any(axis=1) & target.known)
    if target.kind == "labels":
        return replace(column, thresholds={(): choose_thresholds(sigmoid(outputs[known]), target.values[known])})
    if target.kind == "number":
        errors = np.abs(outputs[scored, 0] - target.values[scored])
        return replace(column, residuals={(): ConformalScores.of(errors)} if len(errors) else {})
    pair = calibrate(outputs[known], target.values[known], None if groups is None else groups[known], seed=seed)
    return column if pair is None else replace(column, calibrations={(): pair[0]}, sets={(): pair[1]})


def _deal(
    targets: Sequence[Target], groups: Int[np.ndarray, " items"] | None, items: int, seed: int
) -> Int[np.ndarray, " items"]:
    """Folds that each have their share of the classes of the first column of classes."""
    number = items if groups is None else len(np.unique(groups))
    if number < 2:
        return np.full(items, -1)
    return deal(strata(targets), min(FOLDS, number), seed=seed, groups=groups)
