"""Fitting labels and numbers: one linear head a set of modalities, thresholds and intervals from held-out items.

The mathematics is in `chiasm.recognition.linear`; predicting, saving and checking the input are left to
`chiasm.recognition.columns` and `chiasm.recognition.recognizer`. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.recognition.columns import Details, Fitted, Outputs, averaged, route
from chiasm.recognition.confidence import ConformalScores
from chiasm.recognition.heads import Head
from chiasm.recognition.linear import LinearFit, fit_labels, fit_numbers
from chiasm.recognition.modalities import ModalityArrays, Subset, deserving, subsets
from chiasm.recognition.targets import Target
from chiasm.splits import deal
from chiasm.vectors import sigmoid

_FEWEST_HELD_OUT = 20  # for intervals and thresholds of a set that has no head of its own
_FEWEST_FOR_THRESHOLD = 10  # positive items of a label for one of its own
_FEWEST_TO_CHOOSE = 3  # positive items of the median label to choose by their F1
_ALWAYS_LEARNED = -1

Names = tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]]
"""Embedded names in the shared space, and whose they are."""


# ------------------------------------------------------------------------------------------------------------ numbers


def fit_number_column(
    target: Target,
    arrays: ModalityArrays,
    *,
    groups: Int[np.ndarray, " items"] | None = None,
    strengths: tuple[float, ...] | None = None,
) -> Fitted:
    """Learn a number by ridge regression.

    The strength of each head is chosen by leaving out each item, or each group, in closed form; the predictions of items
    that were left out also give the scores and the intervals: as wide as the errors of held-out items that were predicted
    from the same modalities (the jackknife, conformal for an estimator that one item hardly changes: Barber et al. 2021,
    Annals of Statistics 49:486). Heads that predict together are weighted by the inverse of their held-out mean squared
    error.

    Raises:
        LabelError: no modality with items of two numbers.
    """
    numbers = target.values
    features, parts = deserving(arrays, lambda rows: np.array([len(np.unique(numbers[rows])) > 1]))
    heads, held_out = {}, {}
    fold_of = np.arange(len(numbers)) if groups is None else groups
    for part in parts:
        rows = arrays.having(part)
        fit = fit_numbers(features.rows(arrays, part, rows), numbers[rows], fold_of=fold_of[rows], strengths=strengths)
        squares = np.square(numbers[rows] - fit.held_out[:, 0])
        error = float(np.nanmean(squares)) if np.isfinite(squares).any() else float(numbers[rows].var())
        weight = 1 / max(error, float(np.finfo(np.float64).tiny))
        heads[part] = Head(
            "linear", np.array([0]), _tensors(fit), {"strength": fit.strength, "weight": weight}, len(rows)
        )
        held_out[part] = fit.held_out
    column = Fitted(target.column, "number", target.names, features, heads, _details("number", heads))
    residuals, scores = {}, {}
    for part, outputs in _as_predicted(column, arrays, held_out).items():
        predicted = outputs[:, 0]
        scored = np.isfinite(predicted)
        if scored.sum() >= (2 if part in heads else _FEWEST_HELD_OUT):
            residuals[part] = ConformalScores.of(np.abs(numbers[scored] - predicted[scored]))
            scores["+".join(part)] = r2(numbers[scored], predicted[scored])
    return replace(
        column,
        details=replace(column.details, subsets=scores),
        residuals=residuals,
        held_out=_by_own_modalities(column, arrays, held_out),
    )


def r2(true: Float[np.ndarray, " items"], predicted: Float[np.ndarray, " items"]) -> float:
    """Return the share of the variance that is predicted; 0 where all true numbers are the same."""
    variance = float(true.var())
    return 1 - float(np.square(true - predicted).mean()) / variance if variance else 0.0


# ------------------------------------------------------------------------------------------------------------- labels


def fit_label_column(
    target: Target,
    arrays: ModalityArrays,
    *,
    groups: Int[np.ndarray, " items"] | None = None,
    names: Names | None = None,
    folds: int = 5,
    threshold: float | Literal["f1"] = "f1",
    strengths: tuple[float, ...] | None = None,
    seed: int = 0,
) -> Fitted:
    """Learn which of several labels an item has: one logistic regression a label, all fitted with one strength.

    (Measured on words of captions from pictures, emoji with 38 words and stamps with 14, 150 and 400 items to learn from, 4
    draws: macro-F1 with thresholds chosen as below 0.401, 0.457, 0.540 and 0.628 with one strength for all, 0.349, 0.420,
    0.535 and 0.588 with one a label.)

    Labels that are hardly known: one with one positive item is fitted like the others, but is never held out; one that no
    or every item has is predicted by its frequency alone, unless its name is known. A head takes the names of labels as
    shots, items of whose other labels nothing is known, if held-out items are recognised better with them. (Stamps with
    their category as a label, pictures and captions, 1, 2 and 5 items of each of 11, 4 draws: macro-F1 0.151, 0.566 and
    0.730, with names 0.570, 0.633 and 0.749.)

    Args:
        target: the labels of each item.
        arrays: embeddings of the items.
        groups: items of one group are never on both sides of a fold.
        names: embedded names of labels.
        folds: of the cross-validation.
        threshold: on the probability, for all labels; `"f1"`: see `choose_thresholds`.
        strengths: of the penalty to choose from; by default a path.
        seed: of the folds.

    Raises:
        LabelError: no label that some items of a modality have and others lack.
    """
    Y = target.values
    features, parts = deserving(arrays, lambda rows: _varies(Y[rows]))
    fold_of = _deal(Y, folds, seed, groups)
    heads, held_out = {}, {}
    for part in parts:
        rows = arrays.having(part)
        anchors = None
        if names is not None and any(name in features.shared for name in part):
            anchors = (features.anchors(names[0], part), names[1])
        heads[part], held_out[part] = _label_head(
            features.rows(arrays, part, rows), Y[rows], fold_of[rows], anchors, strengths
        )
    positives = Y.sum(axis=0)
    prior = np.log((positives + 0.5) / (len(Y) - positives + 0.5))
    column = Fitted(target.column, "labels", target.names, features, heads, _details("labels", heads), prior=prior)
    thresholds, scores = {}, {}
    for part, outputs in _as_predicted(column, arrays, held_out).items():
        scored = np.isfinite(outputs).any(axis=1)
        if part not in heads and scored.sum() < _FEWEST_HELD_OUT:
            continue
        chance = sigmoid(outputs)
        thresholds[part] = choose_thresholds(chance, Y) if threshold == "f1" else np.full(Y.shape[1], float(threshold))
        if scored.any():
            known = np.isfinite(chance)
            scores["+".join(part)] = label_f1(Y & known, known & (np.where(known, chance, 0) > thresholds[part]))
    largest = thresholds[max(thresholds, key=len)]
    details = replace(
        column.details,
        subsets=scores,
        thresholds=dict(zip(target.names.tolist(), largest.tolist(), strict=True)),
        notes=_notes(target, heads),
    )
    return replace(
        column, details=details, thresholds=thresholds, held_out=_by_own_modalities(column, arrays, held_out)
    )


def choose_thresholds(
    chance: Float64[np.ndarray, "items labels"], Y: Bool[np.ndarray, "items labels"]
) -> Float64[np.ndarray, " labels"]:
    """Return thresholds on held-out probabilities: each label's best F1 where it has 10 positive items, else the best for all.

    Where the median label has fewer than 3 items that were held out, their probabilities tell nothing of new items', and
    the threshold for all is the mean frequency of a label. (Measured as in `fit_label_column`, macro-F1 with the fixed
    threshold 0.5: 0.328, 0.325, 0.520 and 0.532; a threshold for every label however rare: 0.298, 0.401, 0.529 and 0.616;
    one for all: 0.396, 0.448, 0.536 and 0.622. Micro-F1 was best at 0.5.)

    Args:
        chance: NaN where an item could not be held out.
        Y: the truth.
    """
    scored = np.isfinite(chance)
    positives = (Y & scored).sum(axis=0)
    able = np.flatnonzero(positives)
    if not Y.any() or np.median(positives[Y.any(axis=0)]) < _FEWEST_TO_CHOOSE:
        return np.full(Y.shape[1], float(Y.mean()))
    candidates = np.unique(np.quantile(chance[:, able][scored[:, able]], np.linspace(0.5, 1, 200)[:-1]))
    probabilities, truth = np.where(scored, chance, -1.0)[:, able], (Y & scored)[:, able]
    macro = [label_f1(truth, probabilities > candidate) for candidate in candidates]
    thresholds = np.full(Y.shape[1], candidates[int(np.argmax(macro))])
    for number, label in enumerate(able):
        if truth[:, number].sum() >= _FEWEST_FOR_THRESHOLD:
            thresholds[label] = _best_threshold(probabilities[:, number], truth[:, number])
    return thresholds


def label_f1(Y: Bool[np.ndarray, "items labels"], has: Bool[np.ndarray, "items labels"]) -> float:
    """Return the mean F1 of the labels that some of the items have; 0 where no item has any."""
    there = Y.any(axis=0)
    if not there.any():
        return 0.0
    both = (Y & has).sum(axis=0)
    return float(np.mean((2 * both / np.maximum(Y.sum(axis=0) + has.sum(axis=0), 1))[there]))


def _best_threshold(chance: Float64[np.ndarray, " items"], truth: Bool[np.ndarray, " items"]) -> float:
    """Half way between the last probability that is to be above and the next."""
    order = np.argsort(-chance, kind="stable")
    ranked = chance[order]
    f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(order) + 1) + truth.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = -1  # equal probabilities are not told apart
    last = int(f1.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + max(below, 0.0)) / 2)


def _label_head(
    rows: Float[np.ndarray, "rows dim"],
    Y: Bool[np.ndarray, "rows labels"],
    fold_of: Int[np.ndarray, " rows"],
    anchors: Names | None,
    strengths: tuple[float, ...] | None,
) -> tuple[Head, Outputs]:
    """Fit a head of the learnable labels, with names as shots if that is better; return it with its held-out logits."""
    varies = np.flatnonzero(_varies(Y))
    known, fit, took = varies, None, False
    if len(varies):
        fit = fit_labels(rows, Y[:, varies], fold_of=fold_of, strengths=strengths)
    if anchors is not None:
        able = np.union1d(varies, np.setdiff1d(anchors[1], np.flatnonzero(Y.all(axis=0))))
        used = np.isin(anchors[1], able)
        own = np.eye(len(able), dtype=bool)[np.searchsorted(able, anchors[1][used])]
        with_names = fit_labels(
            np.vstack([rows, anchors[0][used].astype(rows.dtype)]),
            np.vstack([Y[:, able], own]),
            fold_of=np.append(fold_of, np.full(int(used.sum()), _ALWAYS_LEARNED)),
            known=np.vstack([np.ones((len(Y), len(able)), dtype=bool), own]),
            strengths=strengths,
        )
        with_names = replace(with_names, held_out=with_names.held_out[: len(Y)])
        if fit is None or _nearer(with_names.held_out[:, np.isin(able, varies)], fit.held_out, Y[:, varies]):
            known, fit, took = able, with_names, True
    assert fit is not None  # a set has a head only if a label varies among its items
    logits = np.full(Y.shape, np.nan)
    logits[:, known] = fit.held_out
    numbers = {"strength": fit.strength} | ({} if anchors is None else {"names": float(took)})
    return Head("linear", known, _tensors(fit), numbers, len(rows)), logits


def _nearer(ours: Outputs, theirs: Outputs, Y: Bool[np.ndarray, "rows labels"]) -> bool:
    """Return whether the first logits are nearer to the truth where both are known, or if nothing can be compared.

    A label is told by only if some item that has it was held out: on the others alone, the lower logits always win.
    """
    both = np.isfinite(ours) & np.isfinite(theirs)
    both &= (Y & both).any(axis=0)
    gain = np.square(sigmoid(theirs[both]) - Y[both]) - np.square(sigmoid(ours[both]) - Y[both])
    return not len(gain) or float(gain.sum()) > 0


def _notes(target: Target, heads: Mapping[Subset, Head]) -> dict[str, str]:
    """Return a note for each label with hardly any known values."""
    Y = target.values
    named = {label for head in heads.values() if head.numbers.get("names") for label in head.known.tolist()}
    notes = {}
    for number, (label, positives) in enumerate(zip(target.names.tolist(), Y.sum(axis=0).tolist(), strict=True)):
        if positives == 1 and not named:
            notes[label] = "one item has it: it is learned from, but the label cannot be measured"
        elif not positives:
            known = number in named
            notes[label] = f"no item has it: {'known by its name alone' if known else 'it is never predicted'}"
        elif positives == len(Y):
            notes[label] = "every item has it: it is always predicted"
    return notes


def _varies(Y: Bool[np.ndarray, "rows labels"]) -> Bool[np.ndarray, " labels"]:
    positives: Int[np.ndarray, " labels"] = Y.sum(axis=0)
    return (positives > 0) & (positives < len(Y))


def _deal(
    Y: Bool[np.ndarray, "items labels"], folds: int, seed: int, groups: Int[np.ndarray, " items"] | None
) -> Int[np.ndarray, " items"]:
    """Folds that each have their share of every item's rarest label, -1 throughout where nothing can be held out."""
    number = len(Y) if groups is None else len(np.unique(groups))
    if number < 2:
        return np.full(len(Y), _ALWAYS_LEARNED)
    order = np.argsort(Y.sum(axis=0), kind="stable")
    rarest = np.where(Y.any(axis=1), Y[:, order].argmax(axis=1), Y.shape[1])
    return deal(np.unique(rarest, return_inverse=True)[1], min(folds, number), seed=seed, groups=groups)


# --------------------------------------------------------------------------------------------------------------- both


def _tensors(fit: LinearFit) -> dict[str, Float[np.ndarray, "..."]]:
    return {"coef": fit.coef.astype(np.float32), "intercept": fit.intercept.astype(np.float64)}


def _details(kind: Literal["labels", "number"], heads: Mapping[Subset, Head]) -> Details:
    numbers = {"+".join(part): dict(head.numbers) for part, head in heads.items()}
    return Details(kind=kind, metric="r2" if kind == "number" else "f1_macro", subsets={}, numbers=numbers)


def _as_predicted(column: Fitted, arrays: ModalityArrays, held_out: Mapping[Subset, Outputs]) -> dict[Subset, Outputs]:
    """Outputs of the training items that have a set of modalities, by heads that did not see them; else NaN."""
    nothing = None if column.prior is None else np.full(len(column.prior), np.nan)  # a prior was never held out
    every = {}
    for part in subsets(column.features.modalities):
        rows = arrays.having(part)
        if not len(rows):
            continue
        logs = {}
        for one in route("concat", part, tuple(column.heads), None):
            place = np.searchsorted(arrays.having(one), rows)
            logs[one] = held_out[one][place]
        every[part] = np.full((len(arrays), logs[one].shape[1]), np.nan)
        every[part][rows] = averaged(logs, column.heads, nothing)
    return every


def _by_own_modalities(column: Fitted, arrays: ModalityArrays, held_out: Mapping[Subset, Outputs]) -> Outputs:
    """Held-out outputs of each item from all the modalities it has."""
    every = _as_predicted(column, arrays, held_out)
    out = np.full(next(iter(every.values())).shape, np.nan)
    for part, rows in arrays.by_subset(column.features.modalities):
        if part:
            out[rows] = every[part][rows]
    return out


__all__ = ["choose_thresholds", "fit_label_column", "fit_number_column", "label_f1", "r2"]
