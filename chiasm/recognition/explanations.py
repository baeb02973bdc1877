"""The grounds of a prediction: modalities, parts of an embedding that is a mean, and items that were learned from.

All is said in one unit, the evidence for an answer: of classes and labels the log-odds of its probability, of numbers the
number. What the parts of a medium are, and how its embedding changes without them, is left to `chiasm.verbs.explain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Shaped

from chiasm.evaluation.metrics import shapley
from chiasm.recognition.columns import Fitted, route
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import ModalityArrays, Subset, subsets
from chiasm.types import MODALITIES, Modality
from chiasm.vectors import sigmoid, softmax

_TINY = float(np.finfo(np.float64).tiny)
_ONE = np.zeros(1, dtype=np.int64)  # the first row


def prior_evidence(column: Fitted, answer: int) -> float:
    """Return the evidence for an answer where nothing is known of an item; NaN of numbers that a network predicts.

    Of classes by how many items of each were learned from, smoothed by one each; of numbers, that of an average item.
    """
    if column.kind == "number":
        return float(column.heads[max(column.heads, key=len)].tensors["intercept"][0]) if column.heads else np.nan
    if column.kind == "labels":
        return 0.0 if column.prior is None else float(column.prior[answer])
    counts = np.ones(len(column.names)) + (0 if column.counts is None else column.counts)
    return float(np.log(counts[answer] / (counts.sum() - counts[answer])))


def evidence(column: Fitted, arrays: ModalityArrays, answer: int) -> Float64[np.ndarray, " items"]:
    """Return how much speaks for an answer: the log-odds of its calibrated probability, or the number.

    Args:
        column: that predicts.
        arrays: the items; those without a modality that the column knows have the evidence of nothing.
        answer: number of the class or label; 0 of a number.
    """
    values = np.full(len(arrays), prior_evidence(column, answer))
    known = tuple(name for name in arrays.modalities if name in column.features.modalities)
    for subset, rows in arrays.by_subset(known) if known else ():
        if not subset:
            continue
        outputs = column.outputs(arrays, subset, rows)
        if column.kind != "classes":
            values[rows] = outputs[:, answer]
            continue
        chance = column.probabilities(outputs, subset)
        others = np.delete(chance, answer, axis=1).sum(axis=1)  # not 1 - chance, which has no digits left near 1
        values[rows] = np.log(np.maximum(chance[:, answer], _TINY)) - np.log(np.maximum(others, _TINY))
    return values


def modality_shares(column: Fitted, item: ModalityArrays, answer: int) -> dict[Modality, float]:
    """Return what each modality of an item adds to the evidence for an answer: its Shapley value (`shapley`).

    The recogniser takes any subset of modalities, so the value of a subset is what it says of the item with just these. The
    shares sum to the evidence less that of nothing.

    Args:
        column: that predicts.
        item: one row.
        answer: see `evidence`.
    """
    known = tuple(name for name in item.modalities if name in column.features.modalities and item.present[name][0])
    nothing = prior_evidence(column, answer)
    if not known or not np.isfinite(nothing):
        return {}
    values = {frozenset[str](): nothing}
    for subset in subsets(known):
        values[frozenset(subset)] = float(evidence(column, item.only(subset), answer)[0])
    shares = shapley(values)
    return {name: shares[name] for name in MODALITIES if name in shares}


@dataclass(frozen=True, eq=False)
class Contributions:
    """Parts that sum to what linear heads say.

    Attributes:
        parts: of each part.
        rest: of all that is not among the parts.
        total: the outputs of the heads for the answer, of classes less the mean of those of its rivals, weighted by their
            probabilities: by this the log-odds change before they are calibrated.
    """

    parts: Float64[np.ndarray, " parts"]
    rest: float
    total: float


def part_contributions(
    column: Fitted, item: ModalityArrays, modality: Modality, parts: Float[np.ndarray, "parts dim"], answer: int
) -> Contributions | None:
    """Return what each of the vectors that sum to an item's embedding adds: class activation mapping, exactly.

    Zhou et al. 2016 (arXiv:1512.04150), section 2, with the centring and scaling of the features. The vector in a space
    that modalities share does not follow from the parts by sums; it is in the rest.

    Args:
        column: that predicts.
        item: one row.
        modality: whose own embedding the parts sum to.
        parts: such as those of places, each divided by their number.
        answer: see `evidence`.

    Returns:
        None where not only linear heads predict the item, or none of the modality's own embedding.
    """
    readers = _readers(column, item, answer) or []
    if modality not in column.features.own or not any(modality in reader.subset for reader in readers):
        return None
    mean = column.features.own[modality].astype(np.float64)
    # The feature columns are a multiple of embedding - mean: this is by how much they are longer.
    length = float(np.linalg.norm(parts.sum(axis=0, dtype=np.float64) - mean))
    gradient, rest = np.zeros(parts.shape[1]), 0.0
    for reader in readers:
        if modality not in reader.subset:
            rest += reader.total
            continue
        own = np.zeros(len(reader.row), dtype=bool)
        own[column.features.blocks(reader.subset)[modality]] = True
        scale = float(np.linalg.norm(reader.row[own])) / length if length else 0.0
        gradient += reader.weights[own] * scale
        rest += reader.intercept + float(reader.row[~own] @ reader.weights[~own])
    total = sum((reader.total for reader in readers), start=0.0)
    return Contributions(parts.astype(np.float64) @ gradient, rest - float(mean @ gradient), total)


def block_contributions(
    column: Fitted, arrays: ModalityArrays, answer: int
) -> dict[str, Float64[np.ndarray, " items"]] | None:
    """Return what each block of the feature columns adds to the output for an answer, by the block's name (`Features.blocks`).

    With the intercept they sum to the output of the linear heads, of classes less the mean of those of the others.

    Args:
        column: that predicts.
        arrays: items; those without a modality that the column knows get 0.
        answer: see `evidence`.

    Returns:
        None where not only linear heads that know the answer predict the items.
    """
    sums: dict[str, Float64[np.ndarray, " items"]] = {}
    for known, rows in arrays.by_subset(column.features.modalities):
        if not known:
            continue
        heads = _linear_heads(column, known, answer)
        if heads is None:
            return None
        for part, head, weight in heads:
            direction = np.zeros(len(head.known))
            if column.kind == "classes":
                direction -= 1 / max(1, len(head.known) - 1)
            direction[head.known == answer] = 1
            coef = weight * direction @ head.tensors["coef"]
            features = column.features.rows(arrays, part, rows).astype(np.float64)
            for name, block in column.features.blocks(part).items():
                sums.setdefault(name, np.zeros(len(arrays)))[rows] += features[:, block] @ coef[block]
    return sums


def mean_contributions(
    column: Fitted, arrays: ModalityArrays, chosen: Bool[np.ndarray, " items"], answer: int
) -> tuple[dict[str, float], Literal["exact", "shapley"]]:
    """Return what sets some items apart from the others: by how much more each block says for an answer, on average.

    Where not only linear heads predict, the Shapley value of each modality's mean evidence stands in for the blocks.

    Args:
        column: that predicts.
        arrays: items that each have a modality that the column knows.
        chosen: some of them, such as those that the answer is given to.
        answer: see `evidence`.
    """
    if not chosen.any() or chosen.all():
        return {}, "exact"
    sums = block_contributions(column, arrays, answer)
    if sums is not None:
        return {name: float(own[chosen].mean() - own[~chosen].mean()) for name, own in sums.items()}, "exact"
    known = tuple(name for name in column.features.modalities if name in arrays.modalities)
    values = {frozenset[str](): 0.0}
    for subset in subsets(known):
        own = evidence(column, arrays.only(subset), answer)
        values[frozenset(subset)] = float(own[chosen].mean() - own[~chosen].mean())
    return shapley(values), "shapley"


@dataclass(frozen=True, eq=False)
class Examples:
    """Items that were learned from.

    Attributes:
        arrays: their embeddings.
        values: of classes their numbers, of labels booleans by label, of numbers the numbers.
        known: which of them have a value.
        weight: of each.
    """

    arrays: ModalityArrays
    values: Shaped[np.ndarray, "items ..."]
    known: Bool[np.ndarray, " items"]
    weight: Float64[np.ndarray, " items"]


def example_contributions(
    column: Fitted, item: ModalityArrays, examples: Examples, answer: int
) -> Contributions | None:
    """Return what each example adds to the evidence, by the representer theorem.

    A linear head that minimises `sum_i w_i loss_i + strength / 2 ||coef||^2` is a sum over its examples: `coef = sum_i w_i (y_i
    - p_i) x_i / strength` (Yeh et al. 2018, arXiv:1811.09720, theorem 3.1). What was learned from besides, such as names of
    classes and items of a source, is in the rest; the intercept is in neither.

    Args:
        column: that predicts.
        item: one row.
        examples: of which it was fitted.
        answer: see `evidence`.

    Returns:
        None where not only linear heads that were fitted so predict the item.
    """
    readers = _readers(column, item, answer)
    if readers is None or any(reader.head.rung != "linear" for reader in readers):
        return None
    parts = np.zeros(len(examples.known))
    for reader in readers:
        head = reader.head
        used = np.flatnonzero(
            np.all([examples.arrays.present[name] for name in reader.subset], axis=0) & examples.known
        )
        rows = column.features.rows(examples.arrays, reader.subset, used)
        outputs = head.outputs(rows)
        if column.kind == "classes":
            residual = (examples.values[used][:, None] == head.known) - softmax(outputs)
        elif column.kind == "labels":
            residual = examples.values[used][:, head.known] - sigmoid(outputs)
        else:
            residual = examples.values[used][:, None] - outputs
        pull = examples.weight[used] * (residual @ reader.direction) / head.numbers["strength"]
        if column.kind == "classes" and len(head.known) == 2:
            pull /= 2  # both residuals of two classes are of one sigmoid, whose coefficients the second class has alone
        parts[used] += pull * (rows.astype(np.float64) @ reader.row)
    total = sum(reader.total - reader.intercept for reader in readers)
    return Contributions(parts, total - float(parts.sum()), total)


@dataclass(frozen=True, eq=False)
class _Reader:
    """A linear head that an item is predicted by, and what it says for an answer against others."""

    subset: Subset
    head: Head
    row: Float64[np.ndarray, " columns"]
    direction: Float64[np.ndarray, " known"]  # weights of the head's outputs

    @property
    def weights(self) -> Float64[np.ndarray, " columns"]:
        """Return what each column of the row counts."""
        weights: Float64[np.ndarray, " columns"] = self.direction @ self.head.tensors["coef"]
        return weights

    @property
    def intercept(self) -> float:
        """Return what it says of a row of zeros."""
        return float(self.direction @ self.head.tensors["intercept"])

    @property
    def total(self) -> float:
        """Return what it says of the row."""
        return float(self.weights @ self.row) + self.intercept


def _readers(column: Fitted, item: ModalityArrays, answer: int) -> list[_Reader] | None:
    """Return the heads that predict an item, weighted as they are joined; None where these are not all of it, or not linear.

    Several heads of classes are taken without the smoothing of their probabilities: with it, what one of them finds next to
    impossible counts less.
    """
    known = tuple(name for name in item.modalities if name in column.features.modalities and item.present[name][0])
    heads = _linear_heads(column, known, answer)
    if heads is None:
        return None
    against = np.zeros(max(1, len(column.names)))
    if column.kind == "classes":
        against = column.outputs(item, known, _ONE)[0]
        against[answer] = -np.inf
        against = -softmax(against)
    against[answer] = 1
    return [
        _Reader(part, head, column.features.rows(item, part, _ONE)[0].astype(np.float64), weight * against[head.known])
        for part, head, weight in heads
    ]


def _linear_heads(column: Fitted, known: Subset, answer: int) -> list[tuple[Subset, Head, float]] | None:
    """Return the heads that predict items of just these modalities, with their weights; see `_readers`."""
    parts = route(column.fusion, known, tuple(column.heads), column.best) if column.network is None and known else ()
    heads = [column.heads[part] for part in parts]
    is_stacked = len(parts) > 1 and column.stack is not None and column.fusion == "stack"
    if not heads or is_stacked or not all(head.is_linear and answer in head.known for head in heads):
        return None
    weights = np.array([1.0 if column.kind == "classes" else head.numbers.get("weight", 1.0) for head in heads])
    return list(zip(parts, heads, (weights / weights.sum()).tolist(), strict=True))
