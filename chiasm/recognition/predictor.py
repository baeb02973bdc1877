"""Numbers and several labels an item from the embeddings of whatever modalities an item has, by linear heads.

These are what `chiasm.recognition.recognizer` is for classes, with the same arrays and the same way with missing
modalities: for every set of modalities that training items have there is a head, fitted on all items that have at least
these, unless its items are fewer than 0.9 of those of one of its modalities; an item with such a set is predicted by the
largest sets within it that have heads, together. The mathematics is in `chiasm.recognition.linear`; what a column of raw
values asks for, in `chiasm.recognition.tasks`; several columns at once, in `chiasm.recognition.multitask`. All of it is numpy, to fit as to predict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import ConformalScores
from chiasm.recognition.linear import LinearFit, fit_labels, fit_numbers
from chiasm.recognition.linear_heads import LinearHead, LinearHeads, SubsetPredictor, deserving, floats
from chiasm.recognition.modalities import Arrays, ModalityArrays, Subset, as_arrays, refuse_empty_items, subsets
from chiasm.recognition.storage import Tensors
from chiasm.splits import Labels, deal, group_codes
from chiasm.vectors import Unchecked, sigmoid

_FEWEST_HELD_OUT = 20  # for intervals and thresholds of a set that has no head of its own
_FEWEST_FOR_THRESHOLD = 10  # positive items of a label for one of its own
_FEWEST_TO_CHOOSE = 3  # positive items of the median label to choose by their F1
_ALWAYS_LEARNED = -1


# ------------------------------------------------------------------------------------------------------------ numbers


@dataclass(frozen=True)
class NumberScore:
    """How well numbers of held-out training items are predicted."""

    items: int
    mse: float
    mae: float
    r2: float


@dataclass(frozen=True)
class NumberDetails:
    """What was chosen on held-out items of the training set, for reports."""

    subsets: dict[str, NumberScore]
    """Of items by each set of modalities, named such as "image+text", as they will be predicted."""
    strengths: dict[str, float]
    """Chosen by each head."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class NumberPrediction:
    """Numbers with intervals; infinite where too few items were held out to promise the level."""

    values: Float64[np.ndarray, " items"]
    lower: Float64[np.ndarray, " items"]
    upper: Float64[np.ndarray, " items"]


class NumberPredictor(SubsetPredictor):
    """Predict a number of an item from the embeddings of whatever modalities it has, by ridge regression.

    The strength of each head is chosen by leaving out each item, or each group, in closed form; the predictions of items
    that were left out also give the scores in `details_` and the intervals. Heads that predict together are weighted by
    the inverse of their held-out mean squared error.

    Args:
        strengths: of the penalty to choose from; by default a path, see `chiasm.recognition.linear.fit_numbers`.

    Attributes:
        heads_: what was learned.
        residuals_: sizes of the errors of held-out items by set of modalities, for intervals.
        details_: what was chosen, for reports.
    """

    _FORMAT = "chiasm-number-predictor"
    _PARAMETERS = ("strengths",)
    residuals_: dict[Subset, ConformalScores]
    details_: NumberDetails

    def __init__(self, *, strengths: Sequence[float] | None = None) -> None:
        self.strengths = strengths

    def fit(
        self, X: Arrays, y: Float[np.ndarray, " items"] | Unchecked, groups: Labels | None = None
    ) -> NumberPredictor:
        """Learn from items with a number each, and at least one modality.

        Args:
            X: their embeddings.
            y: one finite number an item.
            groups: items of one group are held out together.

        Raises:
            LabelError: numbers are missing, all the same or not one an item; items without any modality; or no modality
                with items of two numbers.
            ChiasmError: the embeddings are not usable, see `ModalityArrays`.
        """
        arrays = as_arrays(X)
        numbers = _checked_numbers(y, len(arrays))
        refuse_empty_items(arrays, arrays.modalities)
        if len(np.unique(numbers)) < 2:
            raise LabelError(f"all {len(numbers)} numbers are {numbers[0]:g}: there is nothing to predict")
        group = None if groups is None else group_codes(groups, len(arrays))
        features, parts = deserving(arrays, lambda rows: np.array([len(np.unique(numbers[rows])) > 1]))
        strengths = None if self.strengths is None else tuple(self.strengths)
        heads, held_out = {}, {}
        for part in parts:
            rows = arrays.having(part)
            fit = fit_numbers(
                features.rows(arrays, part, rows),
                numbers[rows],
                fold_of=np.arange(len(rows)) if group is None else group[rows],
                strengths=strengths,
            )
            errors = np.square(fit.held_out[:, 0] - numbers[rows])
            error = float(np.nanmean(errors)) if np.isfinite(errors).any() else float(numbers[rows].var())
            heads[part] = LinearHead(
                fit.coef.astype(np.float32),
                fit.intercept,
                np.array([1 / max(error, np.finfo(np.float64).tiny)]),
                fit.strength,
                len(rows),
            )
            held_out[part] = _spread(fit.held_out, rows, len(arrays))
        self.heads_ = LinearHeads(features, heads)
        self.residuals_, scores = {}, {}
        for part in subsets(features.modalities):
            if not len(arrays.having(part)):
                continue
            predicted = self.heads_.held_out(arrays, part, held_out)[:, 0]
            scored = np.flatnonzero(np.isfinite(predicted))
            if len(scored) >= (2 if part in heads else _FEWEST_HELD_OUT):
                self.residuals_[part] = ConformalScores.of(np.abs(numbers[scored] - predicted[scored]))
                scores["+".join(part)] = number_score(numbers[scored], predicted[scored])
        strengths_by_head = {"+".join(part): head.strength for part, head in heads.items()}
        self.details_ = NumberDetails(scores, strengths_by_head)
        return self

    def predict(self, X: Arrays) -> Float64[np.ndarray, " items"]:
        """The number of each item.

        Raises:
            LabelError: items have none of the modalities that the predictor was fitted on; says how many and which.
            ChiasmError: embeddings are of another width than in `fit`, or not usable, see `ModalityArrays`.
        """
        values: Float64[np.ndarray, " items"] = self._outputs(X)[:, 0]
        return values

    def predict_interval(self, X: Arrays, *, level: float = 0.9) -> NumberPrediction:
        """Numbers, and around each an interval that holds the true one as often as asked.

        The interval is as wide as the errors of held-out training items that were predicted from the same modalities (the
        jackknife, conformal for an estimator that one item hardly changes: Barber et al. 2021, Annals of Statistics
        49:486). Where too few items had these modalities, it is the widest of the heads that predict together.

        Args:
            X: embeddings.
            level: how often the interval is to hold the number, on average over items.

        Raises:
            LabelError: as `predict`.
            ChiasmError: as `predict`, or a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ChiasmError(f"the level must be between 0 and 1, such as 0.9; got {level}")
        arrays, known = self._checked(X)
        values = self.predict(arrays)
        half = np.empty(len(values))
        for subset, rows in arrays.by_subset(known):
            asked = (subset,) if subset in self.residuals_ else self.heads_.route(subset)
            half[rows] = max(
                self.residuals_[part].quantile(level) if part in self.residuals_ else np.inf for part in asked
            )
        return NumberPrediction(values, values - half, values + half)

    def score(self, X: Arrays, y: Float[np.ndarray, " items"] | Unchecked) -> float:
        """The share of the variance of y that is predicted (R2).

        Raises:
            LabelError: as `predict`, or numbers are missing.
            ChiasmError: as `predict`.
        """
        predicted = self.predict(X)
        return number_score(_checked_numbers(y, len(predicted)), predicted).r2

    def _described(self) -> tuple[dict[str, Any], Tensors]:
        counts = [{"modalities": list(part), "items": scores.count} for part, scores in self.residuals_.items()]
        arrays: Tensors = {f"residuals.{'+'.join(part)}": scores.kept for part, scores in self.residuals_.items()}
        return {"residuals": counts, "details": self.details_.as_dict()}, arrays

    def _restore(self, description: Mapping[str, Any], tensors: Mapping[str, Any]) -> int:
        self.residuals_ = {
            tuple(entry["modalities"]): ConformalScores.from_kept(
                tensors[f"residuals.{'+'.join(entry['modalities'])}"], int(entry["items"])
            )
            for entry in description["residuals"]
        }
        details = description["details"]
        scores = {name: NumberScore(**score) for name, score in details["subsets"].items()}
        self.details_ = NumberDetails(scores, dict(details["strengths"]))
        return 1


def number_score(true: Float[np.ndarray, " items"], predicted: Float[np.ndarray, " items"]) -> NumberScore:
    """Errors of predictions; R2 is 0 where all true numbers are the same."""
    errors = true - predicted
    variance = float(true.var())
    mse = float(np.mean(errors**2))
    return NumberScore(len(true), mse, float(np.abs(errors).mean()), 1 - mse / variance if variance else 0.0)


def _checked_numbers(y: Float[np.ndarray, " items"] | Unchecked, items: int) -> Float64[np.ndarray, " items"]:
    given = np.asarray(y)
    if given.dtype.kind not in "iufO" or given.ndim != 1:
        raise LabelError(
            f"y must be one number an item; got {given.dtype} of shape {given.shape}: read a column of text by parse_targets"
        )
    try:
        numbers = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise LabelError(f"y must be one number an item; {error}: read a column of text by parse_targets") from error
    if len(numbers) != items:
        raise LabelError(f"there are {items} items but {len(numbers)} numbers: give one number an item")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise LabelError(
            f"{len(bad)} of {items} numbers are missing or infinite, first of item {bad[0]}: leave these items out"
        )
    return numbers


# ------------------------------------------------------------------------------------------------------------- labels


@dataclass(frozen=True)
class LabelsScore:
    """How well labels of held-out training items are predicted."""

    items: int
    f1_macro: float
    """Mean of the labels' F1 scores; of labels that some of the items have."""
    f1_micro: float
    """F1 of all pairs of item and label together."""
    brier: float
    """Mean squared distance of the probabilities from the truth."""


@dataclass(frozen=True)
class LabelsDetails:
    """What was chosen on held-out items of the training set, for reports."""

    subsets: dict[str, LabelsScore]
    """Of items by each set of modalities, named such as "image+text", as they will be predicted."""
    strengths: dict[str, float]
    """Chosen by each head; heads with constant outputs only have none."""
    thresholds: dict[str, float]
    """Of each label on the probability, for items with the largest set of modalities."""
    fallbacks: dict[str, str]
    """What is done, and why, for labels that are hardly known, by label."""
    names: dict[str, bool]
    """Whether each head took the names of labels as shots; empty where none were given."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class LabelsPredictor(SubsetPredictor):
    """Predict which of several labels an item has, from the embeddings of whatever modalities it has.

    One logistic regression a label, all fitted together with one strength. (Measured on words of captions from pictures,
    emoji with 38 words and stamps with 14, 150 and 400 items to learn from, 4 draws: macro-F1 with thresholds chosen as
    below 0.401, 0.457, 0.540 and 0.628 with one strength for all, 0.349, 0.420, 0.535 and 0.588 with one a label.)

    An item has a label where its probability is above a threshold. `"f1"` chooses on held-out items: for a label with at
    least 10 positive items the one of its best F1, for all rarer ones together the one of the best macro-F1. (In the same
    measurement, macro-F1 with the fixed threshold 0.5: 0.328, 0.325, 0.520 and 0.532; a threshold for every label however
    rare: 0.298, 0.401, 0.529 and 0.616; one for all: 0.396, 0.448, 0.536 and 0.622. Micro-F1 was best at 0.5.) Where the median label has fewer than 3 positive items, it is
    the mean frequency of a label. (Stamps with their category as a label, pictures and captions, 1, 2 and 5 items of each
    of 11, 4 draws: macro-F1 0.151, 0.566 and 0.730, with the names of the labels as shots 0.570, 0.633 and 0.749.)

    Labels that are hardly known: one with one positive item is fitted like the others, but is never held out; one that no
    or every item has is predicted by its frequency alone, unless its name is known.

    Args:
        threshold: `"f1"`, or one for all labels.
        folds: of the cross-validation.
        strengths: of the penalty to choose from; by default a path, see `chiasm.recognition.linear.fit_labels`.
        random_state: seed of the folds.

    Attributes:
        labels_: the labels, sorted.
        heads_: what was learned.
        thresholds_: of each label on the probability, by set of modalities.
        details_: what was chosen, for reports.
    """

    _FORMAT = "chiasm-labels-predictor"
    _PARAMETERS = ("threshold", "folds", "strengths", "random_state")
    labels_: Shaped[np.ndarray, " labels"]
    thresholds_: dict[Subset, Float64[np.ndarray, " labels"]]
    details_: LabelsDetails

    def __init__(
        self,
        *,
        threshold: float | Literal["f1"] = "f1",
        folds: int = 5,
        strengths: Sequence[float] | None = None,
        random_state: int = 0,
    ) -> None:
        self.threshold = threshold
        self.folds = folds
        self.strengths = strengths
        self.random_state = random_state

    def fit(
        self,
        X: Arrays,
        y: Bool[np.ndarray, "items labels"] | Sequence[Iterable[str]] | Unchecked,
        groups: Labels | None = None,
        *,
        labels: Sequence[str] | None = None,
        names: Mapping[str, Float[np.ndarray, " dim"]] | None = None,
    ) -> LabelsPredictor:
        """Learn from items with their labels, and at least one modality.

        Args:
            X: their embeddings.
            y: the labels of each item, or a matrix of booleans with a column for each of `labels`.
            groups: items of one group are never on both sides of a fold.
            labels: all labels. By default those in y and `names`.
            names: the embedded names of labels, in the space that `ModalityArrays.shared` is of: one more item each, that
                has the label and of whose other labels nothing is known. A head takes them if held-out items are
                recognised better with them. A label that no item has is then known by its name.

        Raises:
            LabelError: labels are missing, unknown or not a list an item; items without any modality; or no label that
                some items of a modality have and others lack.
            ChiasmError: the embeddings are not usable, see `ModalityArrays`; names without a shared space; or a threshold
                or number of folds out of its range.
        """
        if self.threshold != "f1" and not (isinstance(self.threshold, int | float) and 0 < self.threshold < 1):
            raise ChiasmError(f"threshold must be 'f1' or between 0 and 1, such as 0.5; got {self.threshold!r}")
        if self.folds < 2:
            raise ChiasmError(f"at least 2 folds are needed; got {self.folds}")
        arrays = as_arrays(X)
        self.labels_, Y = _label_matrix(y, labels, names, len(arrays))
        refuse_empty_items(arrays, arrays.modalities)
        group = None if groups is None else group_codes(groups, len(arrays))
        features, parts = deserving(arrays, lambda rows: _varies(Y[rows]))
        fold_of = _deal(Y, self.folds, self.random_state, group)
        named = _named(names, self.labels_, arrays)
        heads, held_out, took = {}, {}, {}
        for part in parts:
            anchors = None
            if named is not None and any(name in features.shared for name in part):
                anchors = (features.anchors(named[0], part), named[1])
            rows = arrays.having(part)
            head, logits, by_name = self._head(features.rows(arrays, part, rows), Y[rows], fold_of[rows], anchors)
            heads[part], held_out[part] = head, _spread(logits, rows, len(arrays))
            if named is not None:
                took["+".join(part)] = by_name
        self.heads_ = LinearHeads(features, heads)
        self.thresholds_, scores = {}, {}
        for part in subsets(features.modalities):
            if not len(arrays.having(part)):
                continue
            logits = self.heads_.held_out(arrays, part, held_out)
            scored = np.isfinite(logits).any(axis=1)
            if part not in heads and scored.sum() < _FEWEST_HELD_OUT:
                continue
            chance = sigmoid(logits)
            self.thresholds_[part] = self._thresholds(chance, Y)
            if scored.any():
                scores["+".join(part)] = labels_score(Y[scored], chance[scored], self.thresholds_[part])
        positives = Y.sum(axis=0)
        largest = max(self.thresholds_, key=len)
        self.details_ = LabelsDetails(
            subsets=scores,
            strengths={"+".join(part): head.strength for part, head in heads.items() if np.isfinite(head.strength)},
            thresholds=dict(zip(self.labels_.tolist(), self.thresholds_[largest].tolist(), strict=True)),
            fallbacks=_fallbacks(self.labels_, positives, len(arrays), any(took.values()), named),
            names=took,
        )
        return self

    def predict_proba(self, X: Arrays) -> Float64[np.ndarray, "items labels"]:
        """The probability of each label, in the order of `labels_`.

        Raises:
            LabelError: items have none of the modalities that the predictor was fitted on; says how many and which.
            ChiasmError: embeddings are of another width than in `fit`, or not usable, see `ModalityArrays`.
        """
        return sigmoid(self._outputs(X))

    def predict(self, X: Arrays) -> Bool[np.ndarray, "items labels"]:
        """Whether each item has each label, in the order of `labels_`.

        Raises:
            LabelError: as `predict_proba`.
            ChiasmError: as `predict_proba`.
        """
        arrays, known = self._checked(X)
        has = np.zeros((len(arrays), len(self.labels_)), dtype=bool)
        for subset, rows in arrays.by_subset(known):
            has[rows] = sigmoid(self.heads_.outputs(arrays, subset, rows)) > self._threshold_of(subset)
        return has

    def predict_labels(self, X: Arrays) -> list[tuple[str, ...]]:
        """The labels of each item, the most probable first.

        Raises:
            LabelError: as `predict_proba`.
            ChiasmError: as `predict_proba`.
        """
        has, chance = self.predict(X), self.predict_proba(X)
        order = np.argsort(-chance, axis=1, kind="stable")
        return [tuple(str(self.labels_[k]) for k in ranked if own[k]) for ranked, own in zip(order, has, strict=True)]

    def score(self, X: Arrays, y: Bool[np.ndarray, "items labels"] | Sequence[Iterable[str]] | Unchecked) -> float:
        """The mean F1 of the labels that some of the items have.

        Raises:
            LabelError: as `predict_proba`, or y holds unknown labels.
            ChiasmError: as `predict_proba`.
        """
        has = self.predict(X)
        Y = _label_matrix(y, self.labels_.tolist(), None, len(has))[1]
        return _f1_macro(Y, has)

    def _head(
        self,
        rows: Float[np.ndarray, "rows dim"],
        Y: Bool[np.ndarray, "rows labels"],
        fold_of: Int[np.ndarray, " rows"],
        anchors: tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None,
    ) -> tuple[LinearHead, Float64[np.ndarray, "rows labels"], bool]:
        """A head, its held-out logits, and whether it took the names of labels."""
        strengths = None if self.strengths is None else tuple(self.strengths)
        varies = np.flatnonzero(_varies(Y))
        probe: LinearFit | None = None
        if len(varies):
            probe = fit_labels(rows, Y[:, varies], fold_of=fold_of, strengths=strengths)
        if anchors is not None:
            able = np.union1d(varies, np.setdiff1d(anchors[1], np.flatnonzero(Y.all(axis=0))))
            kept = np.isin(anchors[1], able)
            place = np.searchsorted(able, anchors[1][kept])
            own = np.eye(len(able), dtype=bool)[place]
            with_names = fit_labels(
                np.vstack([rows, anchors[0][kept].astype(rows.dtype)]),
                np.vstack([Y[:, able], own]),
                fold_of=np.append(fold_of, np.full(int(kept.sum()), _ALWAYS_LEARNED)),
                known=np.vstack([np.ones((len(Y), len(able)), dtype=bool), own]),
                strengths=strengths,
            )
            held = with_names.held_out[: len(Y)]
            if probe is None or _nearer(held[:, np.isin(able, varies)], probe.held_out, Y[:, varies]):
                return *_filled(with_names, able, held, Y), True
        assert probe is not None  # a set has a head only if a label varies among its items
        return *_filled(probe, varies, probe.held_out, Y), False

    def _thresholds(
        self, chance: Float64[np.ndarray, "items labels"], Y: Bool[np.ndarray, "items labels"]
    ) -> Float64[np.ndarray, " labels"]:
        if self.threshold != "f1":
            return np.full(Y.shape[1], float(self.threshold))
        return choose_thresholds(chance, Y)

    def _threshold_of(self, subset: Subset) -> Float64[np.ndarray, " labels"]:
        """Of a set that has none of its own, the mean of those of the heads that predict it."""
        if subset in self.thresholds_:
            return self.thresholds_[subset]
        mean: Float64[np.ndarray, " labels"] = np.mean(
            [self.thresholds_[part] for part in self.heads_.route(subset)], axis=0
        )
        return mean

    def _described(self) -> tuple[dict[str, Any], Tensors]:
        arrays: Tensors = {f"thresholds.{'+'.join(part)}": values for part, values in self.thresholds_.items()}
        fields = {
            "labels": self.labels_.tolist(),
            "thresholds": [list(part) for part in self.thresholds_],
            "details": self.details_.as_dict(),
        }
        return fields, arrays

    def _restore(self, description: Mapping[str, Any], tensors: Mapping[str, Any]) -> int:
        self.labels_ = np.array(description["labels"], dtype=np.str_)
        number = len(self.labels_)
        self.thresholds_ = {
            tuple(part): floats(tensors, f"thresholds.{'+'.join(part)}", number) for part in description["thresholds"]
        }
        details = dict(description["details"])
        details["subsets"] = {name: LabelsScore(**score) for name, score in details["subsets"].items()}
        self.details_ = LabelsDetails(**details)
        return number


def choose_thresholds(
    chance: Float64[np.ndarray, "items labels"], Y: Bool[np.ndarray, "items labels"]
) -> Float64[np.ndarray, " labels"]:
    """Thresholds on held-out probabilities: each label's best F1 where it has 10 positive items, else the best for all.

    Where the median label has fewer than 3 items that were held out, their probabilities tell nothing of new items', and
    the threshold for all is the mean frequency of a label.

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
    macro = [_f1_macro(truth, probabilities > candidate) for candidate in candidates]
    thresholds = np.full(Y.shape[1], candidates[int(np.argmax(macro))])
    for number, label in enumerate(able):
        if truth[:, number].sum() >= _FEWEST_FOR_THRESHOLD:
            thresholds[label] = _best_threshold(probabilities[:, number], truth[:, number])
    return thresholds


def _best_threshold(chance: Float64[np.ndarray, " items"], truth: Bool[np.ndarray, " items"]) -> float:
    """Half way between the last probability that is to be above and the next."""
    order = np.argsort(-chance, kind="stable")
    ranked = chance[order]
    f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(order) + 1) + truth.sum())
    f1[:-1][ranked[1:] == ranked[:-1]] = -1  # equal probabilities are not told apart
    last = int(f1.argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return float((ranked[last] + max(below, 0.0)) / 2)


def labels_score(
    Y: Bool[np.ndarray, "items labels"],
    chance: Float64[np.ndarray, "items labels"],
    thresholds: Float64[np.ndarray, " labels"],
) -> LabelsScore:
    """Scores of probabilities; pairs of item and label without one are left out."""
    scored = np.isfinite(chance)
    truth, has = Y & scored, scored & (np.where(scored, chance, 0.0) > thresholds)
    total = int(truth.sum() + has.sum())
    micro = 2 * int((truth & has).sum()) / total if total else 0.0
    return LabelsScore(len(Y), _f1_macro(truth, has), micro, float(np.square(chance - Y)[scored].mean()))


def _f1_macro(Y: Bool[np.ndarray, "items labels"], has: Bool[np.ndarray, "items labels"]) -> float:
    there = Y.any(axis=0)
    if not there.any():
        return 0.0
    both = (Y & has).sum(axis=0)
    return float(np.mean((2 * both / np.maximum(Y.sum(axis=0) + has.sum(axis=0), 1))[there]))


def _nearer(
    ours: Float64[np.ndarray, "rows labels"],
    theirs: Float64[np.ndarray, "rows labels"],
    Y: Bool[np.ndarray, "rows labels"],
) -> bool:
    """Whether the first logits are nearer to the truth, where both are known; also if there is nothing to tell by.

    A label is told by only if some item that has it was held out: on the others alone, the lower logits always win.
    """
    both = np.isfinite(ours) & np.isfinite(theirs)
    both &= (Y & both).any(axis=0)
    gain = np.square(sigmoid(theirs[both]) - Y[both]) - np.square(sigmoid(ours[both]) - Y[both])
    return not len(gain) or float(gain.sum()) > 0


def _filled(
    probe: LinearFit,
    able: Int[np.ndarray, " able"],
    held_out: Float64[np.ndarray, "rows able"],
    Y: Bool[np.ndarray, "rows labels"],
) -> tuple[LinearHead, Float64[np.ndarray, "rows labels"]]:
    """A head for all labels; those that could not be fitted are predicted by their smoothed frequency."""
    rows, labels = Y.shape
    coef = np.zeros((labels, probe.coef.shape[1]), dtype=np.float32)
    positives = Y.sum(axis=0)
    intercept = np.log((positives + 0.5) / (rows - positives + 0.5)).astype(np.float32)
    weight, logits = np.zeros(labels), np.full(Y.shape, np.nan)
    coef[able], intercept[able], weight[able], logits[:, able] = probe.coef, probe.intercept, 1.0, held_out
    return LinearHead(coef, intercept, weight, probe.strength, rows), logits


def _fallbacks(
    labels: Shaped[np.ndarray, " labels"],
    positives: Int[np.ndarray, " labels"],
    items: int,
    by_name: bool,
    named: tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None,
) -> dict[str, str]:
    known = set() if named is None or not by_name else set(named[1].tolist())
    told = {}
    for number, label in enumerate(labels.tolist()):
        if positives[number] == 1 and number not in known:
            told[label] = "one item has it: it is learned from, but the label cannot be measured"
        elif not positives[number]:
            told[label] = "no item has it: " + (
                "known by its name alone" if number in known else "it is never predicted"
            )
        elif positives[number] == items:
            told[label] = "every item has it: it is always predicted"
    return told


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


def _label_matrix(
    y: Bool[np.ndarray, "items labels"] | Sequence[Iterable[str]] | Unchecked,
    labels: Sequence[str] | None,
    names: Mapping[str, Any] | None,
    items: int,
) -> tuple[Shaped[np.ndarray, " labels"], Bool[np.ndarray, "items labels"]]:
    """All labels, sorted, and which items have which."""
    if isinstance(y, np.ndarray) and y.dtype == np.bool_:
        if labels is None or y.ndim != 2 or y.shape[1] != len(labels) or len(set(labels)) != len(labels):
            raise LabelError(
                f"a matrix of booleans needs `labels`, a different name for each column; got shape {y.shape} and "
                f"{'none' if labels is None else len(labels)}"
            )
        rows: list[list[str]] = [[str(name) for name, has in zip(labels, row, strict=True) if has] for row in y]
    else:
        rows = []
        for number, given in enumerate(y):
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise LabelError(
                    f"item {number}: labels must be a list of texts, empty if it has none; got {given!r:.80}. Leave items "
                    "out whose labels are missing; read a column of text by parse_targets"
                )
            rows.append([str(label) for label in given])
    if len(rows) != items:
        raise LabelError(f"there are {items} items but {len(rows)} lists of labels: give one an item")
    named = [str(name) for name in names or ()]
    if labels is None:
        every = np.array(sorted({label for row in rows for label in row} | set(named)), dtype=np.str_)
    else:
        every = np.array(sorted({str(label) for label in labels}), dtype=np.str_)
    place = {str(label): number for number, label in enumerate(every)}
    unknown = sorted(set(named) - set(place))
    if unknown:
        raise LabelError(f"{unknown[0]!r} has an embedded name and is none of the {len(place)} labels: leave it out")
    Y = np.zeros((items, len(every)), dtype=bool)
    for number, row in enumerate(rows):
        for label in row:
            if label not in place:
                raise LabelError(
                    f"item {number}: {label!r} is none of the {len(place)} labels, such as {every[0]!s}: mend it, or add it "
                    "to the labels"
                )
            Y[number, place[label]] = True
    return every, Y


def _named(
    names: Mapping[str, Float[np.ndarray, " dim"]] | None, labels: Shaped[np.ndarray, " labels"], arrays: ModalityArrays
) -> tuple[Float[np.ndarray, "named dim"], Int[np.ndarray, " named"]] | None:
    """Embedded names as a matrix, and the label of each by number."""
    if not names:
        return None
    if not arrays.shared:
        raise ChiasmError("names of labels need a shared space: give the items' vectors in it as `shared`")
    width = next(iter(arrays.shared.values())).shape[1]
    vectors = [np.asarray(vector, dtype=np.float32) for vector in names.values()]
    if any(vector.shape != (width,) or not np.isfinite(vector).all() for vector in vectors):
        raise ChiasmError(f"names of labels must be finite vectors of width {width}, as the shared space has")
    return np.array(vectors), np.searchsorted(labels, np.array(list(names), dtype=np.str_))


def _spread(
    outputs: Float64[np.ndarray, "rows outputs"], rows: Int[np.ndarray, " rows"], items: int
) -> Float64[np.ndarray, "items outputs"]:
    """From rows of a set of modalities to rows of all items, NaN elsewhere."""
    every = np.full((items, outputs.shape[1]), np.nan)
    every[rows] = outputs
    return every
