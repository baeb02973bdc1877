"""Learning from more than the labelled target rows: unlabelled rows, and a source domain beside the target.

This module knows what rows without target labels can still teach a classifier of the target, and when not to listen:

- unlabelled rows of the target: `self_train` (the classifier's own confident predictions) and `spread_labels` (the
  neighbour graph);
- a source without labels: `Whitening` and `ContrastiveFeatures`;
- a source with other labels than the target: `WithinClassWhitening`;
- `choose_alpha`: whether a source is used at all, by held-out scores of the target.

`Whitening` and `WithinClassWhitening` learn from `ClassStatistics` alone. These add up, so a source can be streamed,
and shared without its rows.

Arrays in, arrays out. A source with the same labels as the target enters the loss itself, with weight alpha: that is
left to the classifiers, maps between two embedding spaces to `chiasm.alignment.alignment`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from chiasm.errors import LabelError, SpaceError
from chiasm.splits import Labels, label_codes
from chiasm.vectors import Unchecked, unit_rows

FORMAT = "chiasm-class-statistics"
FORMAT_VERSION = 1

_SIMILARITIES = 2**23  # computed at once in a neighbour search: 32 MB in float32, however many rows there are
_ROWS = 4096  # turned to float64 at once
_SHRINKAGE = 0.3  # toward the identity: between what planted nuisance wants (little) and real embeddings (much)
_SPREAD_ERROR = 1e-10  # of the spreading, relative to a label: rows far from all labels hold about 1e-5 of one


# ------------------------------------------------------------------------------------------------------ self-training


@runtime_checkable
class Classifier(Protocol):
    """What self-training needs of a classifier: the codes it knows, and their probabilities in that order."""

    @property
    def classes_(self) -> Any:
        """The codes, in the order of the probabilities."""

    def predict_proba(self, X: Any, /) -> Any:
        """Class probabilities, one row a row."""


C = TypeVar("C", bound=Classifier)


@dataclass(frozen=True)
class SelfTrainingRound:
    """What one round of self-training did."""

    share: float  # of the rows of a predicted class (without balance: of all) that could be taken
    taken: int  # rows that were given a pseudo-label
    taken_by_class: tuple[int, ...]
    changed: int  # rows whose pseudo-label, or lack of one, differs from the round before
    confidence: float  # mean over the rows taken


@dataclass(frozen=True, eq=False)
class SelfTraining(Generic[C]):
    """The classifier of the last round, and what it learned from."""

    classifier: C
    pseudo_labels: Int[np.ndarray, " unlabelled"]  # the code that the classifier learned from, or -1
    weights: Float64[np.ndarray, " unlabelled"]  # the row's weight in that fit: the confidence, or 0
    rounds: tuple[SelfTrainingRound, ...]  # those that changed something


def self_train(
    make: Callable[[Float[np.ndarray, "_all dim"], Int[np.ndarray, " _all"], Float64[np.ndarray, " _all"]], C],
    X: Float[np.ndarray, "rows dim"] | Unchecked,
    y_codes: Int[np.ndarray, " rows"] | Unchecked,
    X_unlabelled: Float[np.ndarray, "unlabelled dim"] | Unchecked,
    *,
    rounds: int = 5,
    confidence: float = 0.0,
    balance: bool = True,
    first_share: float = 0.2,
    last_share: float = 0.8,
    classes: int | None = None,
) -> SelfTraining[C]:
    """Fit, label the unlabelled rows of which the classifier is most confident, fit with them, and so on.

    Class-balanced self-training after Zou et al. 2018 (ECCV, "Unsupervised domain adaptation for semantic segmentation
    via class-balanced self-training"): of the rows predicted to be of a class, the same share is taken for every class,
    the most confident first, so that easy and frequent classes do not crowd out the others. The share grows evenly from
    round to round. Every round labels all rows anew, so that an early mistake can be taken back. The given labels are
    never changed and keep weight 1; a pseudo-labelled row has its confidence as weight.

    It moves the classifier's borders into the gaps between clusters: where the rows lie in clusters it gains most with
    the fewest labels. Where classes are of other shapes a linear classifier confirms its own mistakes; `spread_labels`
    follows shapes.

    Here a row's pseudo-label is always its most probable class. (The paper divides each probability by its class's
    threshold first, and then also gives rows a class that the classifier does not predict.)

    Args:
        make: fits a new classifier to rows, codes and row weights, and returns it, e.g.
            `lambda X, y, w: LinearProbe(strengths=[1.0]).fit(X, y, sample_weight=w)`.
        X: the labelled rows.
        y_codes: the class of each by number, from 0; every class has a row.
        X_unlabelled: the other rows.
        rounds: how often the unlabelled rows are labelled at most, at least 1. A round that would change no
            pseudo-label fits nothing and is not among the result's rounds.
        confidence: probability of the most probable class, below which a row is never taken, in [0, 1]. The default
            leaves the choice to the share; the probabilities of a strongly regularised classifier are all small.
        balance: whether the share is of each predicted class by itself or of all rows in one ranking.
        first_share: the share of the first round, above 0.
        last_share: the share of the last round, at most 1 and not below `first_share`.
        classes: how many classes there are, to be told if one has no labelled row. Default: as the codes say.

    Raises:
        LabelError: the codes are not whole numbers from 0, fewer than 2 classes, or a class without a labelled row.
        ValueError: arrays that do not fit together or hold NaN, an option outside of its range, or a classifier that
            does not know all classes.
    """
    X, X_unlabelled = _matrix(X, "X"), _matrix(X_unlabelled, "X_unlabelled")
    if X_unlabelled.shape[1] != X.shape[1]:
        raise ValueError(
            f"labelled rows have {X.shape[1]} columns and unlabelled rows {X_unlabelled.shape[1]}: "
            "both must come from the same encoder"
        )
    codes, number = _codes(y_codes, len(X), classes, lowest=0)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds}")
    if not 0 <= confidence <= 1:
        raise ValueError(f"confidence is a probability from 0 to 1; got {confidence}")
    if not 0 < first_share <= last_share <= 1:
        raise ValueError(
            f"shares must have 0 < first_share <= last_share <= 1; got first_share={first_share}, "
            f"last_share={last_share}"
        )

    classifier = make(X, codes, np.ones(len(X)))
    probabilities = _predicted(classifier, X_unlabelled, number)
    pseudo, weights = np.full(len(X_unlabelled), -1, dtype=np.int64), np.zeros(len(X_unlabelled))
    history: list[SelfTrainingRound] = []
    for share in np.linspace(first_share, last_share, rounds):
        new = _most_confident(probabilities, float(share), confidence, balance)
        changed = int((new != pseudo).sum())
        if not changed:
            continue  # a larger share can still bring rows; with the same share the next rounds end here too
        pseudo, taken = new, new >= 0
        weights = np.where(taken, probabilities.max(axis=1), 0.0)
        history.append(
            SelfTrainingRound(
                float(share),
                int(taken.sum()),
                tuple(np.bincount(new[taken], minlength=number).tolist()),
                changed,
                float(weights[taken].mean()) if taken.any() else 0.0,
            )
        )
        classifier = make(
            np.concatenate([X, X_unlabelled[taken]]),
            np.concatenate([codes, pseudo[taken]]),
            np.concatenate([np.ones(len(X)), weights[taken]]),
        )
        probabilities = _predicted(classifier, X_unlabelled, number)
    return SelfTraining(classifier, pseudo, weights, tuple(history))


def _most_confident(
    probabilities: Float64[np.ndarray, "rows classes"], share: float, confidence: float, balance: bool
) -> Int[np.ndarray, " rows"]:
    """The most probable class of the rows taken, -1 for the others."""
    predicted, certainty = probabilities.argmax(axis=1), probabilities.max(axis=1)
    kind = predicted if balance else np.zeros_like(predicted)
    order = np.lexsort((-certainty, kind))  # class after class, the most confident first
    sizes = np.bincount(kind)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    # Rounding must not turn 0.3 * 10 into four rows.
    taken = order[place < np.ceil(share * sizes - 1e-9)[kind[order]]]
    taken = taken[certainty[taken] >= confidence]
    pseudo = np.full(len(predicted), -1, dtype=np.int64)
    pseudo[taken] = predicted[taken]
    return pseudo


def _predicted(
    classifier: Classifier, X: Float[np.ndarray, "rows dim"], number: int
) -> Float64[np.ndarray, "rows classes"]:
    known = np.asarray(classifier.classes_)
    if not np.array_equal(known, np.arange(number)):
        raise ValueError(
            f"make() returned a classifier of the classes {known.tolist()}; it must know exactly the codes it is "
            f"given, 0 to {number - 1}"
        )
    probabilities = np.asarray(classifier.predict_proba(X), dtype=np.float64)
    if probabilities.shape != (len(X), number) or not np.isfinite(probabilities).all():
        raise ValueError(
            f"predict_proba must return finite numbers of shape {(len(X), number)}; got shape {probabilities.shape}"
        )
    return probabilities


# ---------------------------------------------------------------------------------------------------- label spreading


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Rows with several weighted labels, for any classifier that takes row weights.

    `classifier.fit(X[soft.rows], soft.codes, sample_weight=soft.weights)` minimises the cross-entropy to the soft
    labels: a row stands there once for each class that it may be of.
    """

    rows: Int[np.ndarray, " labels"]
    codes: Int[np.ndarray, " labels"]
    weights: Float64[np.ndarray, " labels"]


@dataclass(frozen=True, eq=False)
class LabelSpread:
    """Class probabilities of all rows, and what is needed to tell those of new rows."""

    probabilities: Float64[np.ndarray, "rows classes"]  # equal for all classes where no label reaches a row
    reached: Bool[np.ndarray, " rows"]  # whether a path of neighbours leads to a labelled row
    codes: Int[np.ndarray, " rows"]  # as given
    unit_rows: Float[np.ndarray, "rows dim"]  # of length 1: new rows are compared with them
    neighbours: int
    power: float

    def predict_proba(self, X: Float[np.ndarray, "new dim"] | Unchecked) -> Float64[np.ndarray, "new classes"]:
        """Class probabilities of rows that were not there: the mean of their neighbours', weighted as in the graph.

        That is what minimises the graph's energy with all other rows held fixed (Delalleau, Bengio & Le Roux 2005,
        AISTATS). A row that is similar to none gets the same probability for all classes.

        Raises:
            ValueError: X is not as wide as the rows were, or holds NaN or infinite values.
        """
        X = _matrix(X, "X")
        if X.shape[1] != self.unit_rows.shape[1]:
            raise ValueError(f"X has {X.shape[1]} columns; labels were spread over rows of {self.unit_rows.shape[1]}")
        result = np.full((len(X), self.probabilities.shape[1]), 1 / self.probabilities.shape[1])
        unit = unit_rows(X)
        for block, near, similarity in _nearest(unit, self.unit_rows, self.neighbours, themselves=False):
            weight = similarity**self.power
            total = weight.sum(axis=1)
            known = np.flatnonzero(total > 0)
            mean = np.einsum("rn,rnc->rc", weight[known], self.probabilities[near[known]])
            result[block.start + known] = mean / total[known, None]
        return result

    def soft_labels(self, *, least: float = 0.05, weight: float = 1.0) -> SoftLabels:
        """The given labels with weight 1, and the spread ones as soft labels of the rows that were reached.

        Args:
            least: probabilities below it are left out, in [0, 0.5]; the others of the row, or the largest if there are
                none, are scaled to sum to 1.
            weight: of an unlabelled row, all its labels together, above 0.

        Raises:
            ValueError: an option outside of its range.
        """
        if not 0 <= least <= 0.5:
            raise ValueError(f"least must be from 0 to 0.5; got {least}")
        if not 0 < weight < np.inf:
            raise ValueError(f"weight must be above 0 and finite; got {weight}")
        given = np.flatnonzero(self.codes >= 0)
        spread = np.flatnonzero((self.codes < 0) & self.reached)
        kept = self.probabilities[spread]
        kept[(kept < least) & (kept < kept.max(axis=1, keepdims=True))] = 0
        kept *= weight / kept.sum(axis=1, keepdims=True)
        row, code = np.nonzero(kept)
        return SoftLabels(
            np.concatenate([given, spread[row]]),
            np.concatenate([self.codes[given], code]),
            np.concatenate([np.ones(len(given)), kept[row, code]]),
        )


def spread_labels(
    X: Float[np.ndarray, "rows dim"] | Unchecked,
    codes: Int[np.ndarray, " rows"] | Unchecked,
    *,
    neighbours: int = 10,
    alpha: float = 0.9,
    power: float = 3.0,
    class_mass: Float[np.ndarray, " classes"] | Literal["labelled"] | Unchecked | None = "labelled",
    classes: int | None = None,
) -> LabelSpread:
    """Spread the given labels along the graph of nearest neighbours.

    Solves `F = alpha S F + (1 - alpha) Y` (Zhou et al. 2004, NIPS, "Learning with local and global consistency") with
    `S = D^-1/2 W D^-1/2`. W joins every row with its nearest neighbours by cosine, symmetrically, with weight
    `max(cosine, 0) ** power`, as Iscen et al. 2019 (CVPR, "Label propagation for deep semi-supervised learning") do.
    Rows of F are scaled to sum to 1, and those without a label to the class masses (Zhu, Ghahramani & Lafferty 2003,
    ICML, section 4), so that a class with more or better placed labels does not take all the rest.

    The neighbour search is exact, block by block; it takes rows^2 * dim products. The equation is solved by Chebyshev's
    semi-iteration (Golub & Varga 1961, Numer. Math. 3:147), about sqrt(1 - alpha) times the steps of repeated
    spreading.

    Args:
        X: all rows, labelled or not.
        codes: the class of each by number from 0, or -1; every class has a row.
        neighbours: of each row, at least 1; at most all others are used.
        alpha: how much a row listens to its neighbours rather than to its given label, in (0, 1).
        power: of the cosine, above 0; the higher, the more the nearest count.
        class_mass: shares of the classes among the unlabelled rows: as among the labelled ones, an array with a number
            above 0 for every class, or None not to scale. Say what you know: with the same number of shots for every
            class, `"labelled"` means equal shares.
        classes: how many classes there are, to be told if one has no labelled row. Default: as the codes say.

    Raises:
        LabelError: no row is labelled, codes that are not whole numbers from -1, fewer than 2 classes, or a class
            without a labelled row.
        ValueError: arrays that do not fit together or hold NaN, or an option outside of its range.
    """
    X = _matrix(X, "X")
    codes, number = _codes(codes, len(X), classes, lowest=-1)
    if neighbours < 1:
        raise ValueError(f"neighbours must be at least 1; got {neighbours}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be above 0 and below 1; got {alpha}")
    if not 0 < power < np.inf:
        raise ValueError(f"power must be above 0 and finite; got {power}")
    labelled = codes >= 0
    mass = _masses(class_mass, codes[labelled], number)
    unit = unit_rows(X)
    graph = _neighbour_graph(unit, neighbours, power)

    given = np.zeros((len(X), number))
    given[labelled, codes[labelled]] = 1
    component = connected_components(graph, directed=False)[1]
    reached = np.isin(component, component[labelled])
    probabilities = np.full_like(given, 1 / number)
    probabilities[reached] = _row_shares(_spread(graph, given, alpha)[reached])
    scaled = reached & ~labelled
    if mass is not None and scaled.any():
        masses = probabilities[scaled].sum(axis=0)
        # A class that reaches no unlabelled row has no mass to scale.
        probabilities[scaled] = _row_shares(
            probabilities[scaled] * np.divide(mass, masses, out=np.ones(number), where=masses > 0)
        )
    return LabelSpread(probabilities, reached, codes, unit, neighbours, power)


def _neighbour_graph(unit: Float[np.ndarray, "rows dim"], neighbours: int, power: float) -> csr_array[Any, Any]:
    """Symmetric weights between nearest neighbours, divided by the square roots of both degrees."""
    rows = len(unit)
    pieces = list(_nearest(unit, unit, min(neighbours, rows - 1), themselves=True))
    near = np.concatenate([piece[1] for piece in pieces])
    weight = np.concatenate([piece[2] for piece in pieces]) ** power
    start = np.arange(0, near.size + 1, near.shape[1]) if near.size else np.zeros(rows + 1, dtype=np.int64)
    graph = csr_array((weight.ravel(), near.ravel(), start), shape=(rows, rows))
    graph = csr_array(graph.maximum(graph.T))
    graph.eliminate_zeros()  # what is joined with weight 0 is not joined
    degree = np.asarray(graph.sum(axis=1))
    root = diags_array(1 / np.sqrt(np.where(degree > 0, degree, 1)))
    return csr_array(root @ graph @ root)


def _spread(
    graph: csr_array[Any, Any], given: Float64[np.ndarray, "rows classes"], alpha: float
) -> Float64[np.ndarray, "rows classes"]:
    """The solution of F = alpha * graph F + given, by Chebyshev's semi-iteration.

    The eigenvalues of alpha * graph are in [-alpha, alpha], so that the number of steps is known beforehand.
    """
    rate = alpha / (1 + np.sqrt(1 - alpha**2))
    before, solution = np.zeros_like(given), given
    step = 2 / (2 - alpha**2)
    for _ in range(int(np.ceil(np.log(_SPREAD_ERROR / 2) / np.log(rate)))):
        before, solution = solution, step * (alpha * (graph @ solution) + given - before) + before
        step = 4 / (4 - alpha**2 * step)
    # The series of products of non-negative numbers has no negative element but by the error that is left.
    clipped: Float64[np.ndarray, "rows classes"] = np.maximum(solution, 0)
    return clipped


def _row_shares(values: Float64[np.ndarray, "rows classes"]) -> Float64[np.ndarray, "rows classes"]:
    """Rows scaled to sum to 1; a row of zeros, too far from all labels to tell, becomes equal shares."""
    total = values.sum(axis=1, keepdims=True)
    shares: Float64[np.ndarray, "rows classes"] = np.divide(
        values, total, out=np.full_like(values, 1 / values.shape[1]), where=total > 0
    )
    return shares


def _masses(class_mass: object, codes: Int[np.ndarray, " labelled"], number: int) -> Float64[np.ndarray, " c"] | None:
    if class_mass is None:
        return None
    if isinstance(class_mass, str):
        if class_mass != "labelled":
            raise ValueError(f"class_mass must be 'labelled', one number a class, or None; got {class_mass!r}")
        labelled: Float64[np.ndarray, " c"] = np.bincount(codes, minlength=number) / len(codes)
        return labelled
    mass = np.asarray(class_mass, dtype=np.float64)
    if mass.shape != (number,) or not (np.isfinite(mass) & (mass > 0)).all():
        raise ValueError(f"class_mass must be {number} finite numbers above 0, one a class; got {class_mass!r}")
    shares: Float64[np.ndarray, " c"] = mass / mass.sum()
    return shares


def _nearest(
    queries: Float[np.ndarray, "queries dim"], rows: Float[np.ndarray, "rows dim"], number: int, *, themselves: bool
) -> Iterator[tuple[slice, Int[np.ndarray, "block near"], Float64[np.ndarray, "block near"]]]:
    """The nearest rows of every query by inner product, those products not below 0, block by block.

    Args:
        queries: unit vectors.
        rows: unit vectors.
        number: of neighbours; all rows if there are fewer.
        themselves: whether the queries are the rows, and no row may be its own neighbour.
    """
    number = min(number, len(rows) - themselves)
    step = max(1, _SIMILARITIES // len(rows))
    for first in range(0, len(queries), step):
        block = slice(first, min(first + step, len(queries)))
        similarity = queries[block] @ rows.T
        within = np.arange(block.stop - block.start)
        if themselves:
            similarity[within, first + within] = -np.inf
        if number == 0:
            near = np.empty((len(within), 0), dtype=np.int64)
        else:
            # A view would keep the order of all rows in memory for as long as the neighbours are needed.
            near = np.argpartition(similarity, len(rows) - number, axis=1)[:, len(rows) - number :].copy()
        yield block, near, np.maximum(similarity[within[:, None], near], 0).astype(np.float64)


# --------------------------------------------------------------------------------------------------------- statistics


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """All that whitening needs of labelled or unlabelled rows: additive, and without the rows themselves.

    Kept centred (Chan, Golub & LeVeque 1979), so that rows far from the origin lose no digits. What is shared with it
    are means and sums over rows; mind that the mean of a class with one row is that row.
    """

    classes: Shaped[np.ndarray, " classes"]  # sorted
    counts: Int[np.ndarray, " classes"]
    means: Float64[np.ndarray, "classes dim"]
    within: Float64[np.ndarray, "dim dim"]  # sum over rows of the outer square of row - mean of its class

    @classmethod
    def from_rows(cls, X: Float[np.ndarray, "rows dim"] | Unchecked, y: Labels | None = None) -> ClassStatistics:
        """Statistics of rows, in float64, block by block; without labels all rows are of one class, 0.

        Raises:
            LabelError: labels are missing, or there is not one a row.
            ValueError: no rows, or values that are not finite.
        """
        X = _matrix(X, "X")
        classes, codes = (np.zeros(1, np.int64), np.zeros(len(X), np.int64)) if y is None else label_codes(y)
        if len(codes) != len(X):
            raise LabelError(f"there are {len(X)} rows but {len(codes)} labels: give one label a row")
        counts = np.bincount(codes, minlength=len(classes))
        blocks = [slice(first, first + _ROWS) for first in range(0, len(X), _ROWS)]
        # Shifted by one row, so that sums of rows far from the origin are exact too.
        shift = X[0].astype(np.float64)
        sums = np.zeros((len(classes), X.shape[1]))
        for block in blocks:
            size = len(codes[block])
            member = csr_array((np.ones(size), (codes[block], np.arange(size))), shape=(len(classes), size))
            sums += member @ (X[block] - shift)
        means = shift + sums / counts[:, None]
        within = np.zeros((X.shape[1], X.shape[1]))
        for block in blocks:
            centred = X[block] - means[codes[block]]
            within += centred.T @ centred
        return cls(classes, counts, means, within)

    def __add__(self, other: ClassStatistics) -> ClassStatistics:
        if self.means.shape[1] != other.means.shape[1]:
            raise ValueError(
                f"statistics of {self.means.shape[1]} columns cannot be added to statistics of "
                f"{other.means.shape[1]}: both must come from the same encoder"
            )
        classes = label_codes(self.classes.tolist() + other.classes.tolist(), what="classes of the statistics")[0]
        left, right = np.searchsorted(classes, self.classes), np.searchsorted(classes, other.classes)
        mine, others = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
        mine[left], others[right] = self.counts, other.counts
        counts = mine + others
        means = np.zeros((len(classes), self.means.shape[1]))
        means[left] = self.means
        apart = np.zeros_like(means)
        apart[right] = other.means
        apart -= means
        means += (others / counts)[:, None] * apart
        apart *= np.sqrt(mine * others / counts)[:, None]
        return ClassStatistics(classes, counts, means, self.within + other.within + apart.T @ apart)

    def merged(self) -> ClassStatistics:
        """The same rows as one class, 0: what varies between the classes varies within it."""
        mean = self.counts / self.counts.sum() @ self.means
        apart = (self.means - mean) * np.sqrt(self.counts)[:, None]
        total = self.within + apart.T @ apart
        return ClassStatistics(np.zeros(1, np.int64), self.counts.sum(keepdims=True), mean[None], total)

    @property
    def degrees(self) -> int:
        """Rows less classes: the degrees of freedom of the covariance within classes."""
        return int(self.counts.sum()) - len(self.counts)

    @cached_property
    def spectrum(self) -> tuple[Float64[np.ndarray, " dim"], Float64[np.ndarray, "dim dim"]]:
        """Eigenvalues, largest first, and eigenvectors (columns) of the unbiased covariance within classes."""
        values, vectors = np.linalg.eigh(self.within / self.degrees)
        return np.maximum(values[::-1], 0), vectors[:, ::-1]  # rounding can make the smallest slightly negative

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write one safetensors file; of the symmetric matrix only the upper triangle.

        The matrix is rounded to float32, so `load` gives it back to 6e-8 of each value; counts and means are exact.

        Args:
            path: the file, by habit ending in `.safetensors`.
            metadata: what the statistics belong to (fingerprint of the encoder); `load` returns it.

        Raises:
            LabelError: the classes are not text, whole numbers or booleans, which is what the file can hold.
            SpaceError: the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        if self.classes.dtype.kind not in "Uiub":
            raise LabelError(
                f"classes of type {self.classes.dtype} cannot be saved: make them text, whole numbers or booleans"
            )
        tensors = {
            "counts": self.counts.astype(np.int64),
            "means": self.means,
            "within_upper": self.within[np.triu_indices(len(self.within))].astype(np.float32),
        }
        header = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "classes": json.dumps(self.classes.tolist())}
        try:
            save_file(tensors, str(path), metadata={**header, "metadata": json.dumps(dict(metadata), sort_keys=True)})
        except (SafetensorError, OSError) as error:
            raise SpaceError(f"the class statistics cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> tuple[ClassStatistics, dict[str, str]]:
        """Read what `save` wrote: the statistics and their metadata.

        Raises:
            SpaceError: not a file of class statistics, of another version, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise SpaceError(f"{path} is not a file of class statistics (written by ClassStatistics.save)")
                if header.get("format_version") != str(FORMAT_VERSION):
                    raise SpaceError(
                        f"{path} has format version {header.get('format_version')}; this chiasm reads "
                        f"{FORMAT_VERSION}. Write it again with this version"
                    )
                counts, means, upper = (file.get_tensor(name) for name in ("counts", "means", "within_upper"))
            classes, metadata = np.array(json.loads(header["classes"])), dict(json.loads(header["metadata"]))
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise SpaceError(f"{path} cannot be read as class statistics: {error}") from error
        dim = means.shape[-1]
        shapes = [tensor.shape for tensor in (classes, counts, means, upper)]
        if shapes != [(len(counts),), (len(counts),), (len(counts), dim), (dim * (dim + 1) // 2,)] or not (
            (counts > 0).all() and np.isfinite(means).all() and np.isfinite(upper).all()
        ):
            raise SpaceError(f"{path} is damaged: shapes {shapes}, or values that cannot be. Write it again")
        within = np.zeros((dim, dim))
        rows, columns = np.triu_indices(dim)
        within[rows, columns] = upper
        within[columns, rows] = upper
        return cls(classes, counts, means, within), metadata


# ---------------------------------------------------------------------------------------------------------- whitening


@dataclass(frozen=True, eq=False)
class _WhiteningMap:
    """The affine map that statistics and options give; found when it is needed, so that streaming costs sums only."""

    statistics: ClassStatistics
    shrinkage: float | str
    components: int | float | None

    @cached_property
    def mean(self) -> Float64[np.ndarray, " dim"]:
        counts = self.statistics.counts
        mean: Float64[np.ndarray, " dim"] = counts / counts.sum() @ self.statistics.means
        return mean

    @cached_property
    def shrunk_by(self) -> float:
        """The shrinkage; `"auto"` is that of Chen et al. 2010, eq. 23, which needs no more than the covariance."""
        if not isinstance(self.shrinkage, str):
            return float(self.shrinkage)
        values = self.statistics.spectrum[0]
        dim, rows = len(values), self.statistics.degrees + 1
        mean_square, square_mean = float(values @ values) / dim**2, float(values.mean()) ** 2
        apart = (rows + 1) * (mean_square - square_mean / dim)
        return 1.0 if apart <= 0 else min(1.0, (mean_square + square_mean) / apart)

    @cached_property
    def kept(self) -> Float64[np.ndarray, " components"]:
        """Standard deviations, with shrinkage, along the directions that are kept."""
        values = self.statistics.spectrum[0]
        shrunk = (1 - self.shrunk_by) * values + self.shrunk_by * values.mean()
        rank = int((shrunk > shrunk[0] * len(values) * np.finfo(np.float64).eps).sum())
        number = rank
        if isinstance(self.components, int | np.integer):
            number = int(self.components)
        elif self.components is not None:
            explained = np.cumsum(values) / values.sum()
            number = int(np.searchsorted(explained, self.components - 1e-12)) + 1
        kept: Float64[np.ndarray, " components"] = np.sqrt(shrunk[: min(number, rank)])
        return kept

    @cached_property
    def weight(self) -> Float64[np.ndarray, "dim components"]:
        """Embedding - mean to whitened directions, the one of most variance first."""
        weight: Float64[np.ndarray, "dim components"] = self.statistics.spectrum[1][:, : len(self.kept)] / self.kept
        return weight

    @cached_property
    def symmetric(self) -> Float64[np.ndarray, "dim dim"]:
        """The same, turned back to the columns it came from."""
        turned: Float64[np.ndarray, "dim dim"] = self.weight @ self.statistics.spectrum[1][:, : len(self.kept)].T
        return turned

    def check(self) -> None:
        if isinstance(self.shrinkage, str):
            if self.shrinkage != "auto":
                raise ValueError(f"shrinkage must be 'auto' or a number from 0 to 1; got {self.shrinkage!r}")
        elif not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage must be 'auto' or a number from 0 to 1; got {self.shrinkage!r}")
        if isinstance(self.components, int | np.integer):
            if self.components < 1:
                raise ValueError(f"components must be at least 1; got {self.components}")
            columns = self.statistics.means.shape[1]
            if self.components > columns:
                raise ValueError(
                    f"components is {self.components}, but X has {columns} columns: ask for at most as many"
                )
        elif self.components is not None and not 0 < self.components <= 1:
            raise ValueError(
                "components must be a whole number, a share of the variance above 0 and at most 1, or None; "
                f"got {self.components!r}"
            )


class _FromStatistics(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """What both whitenings share: everything but which statistics are taken of rows and how the map is turned."""

    statistics_: ClassStatistics
    n_features_in_: int
    shrinkage: float | str

    def _learn(self, statistics: ClassStatistics, components: int | float | None) -> None:
        learned = _WhiteningMap(statistics, self.shrinkage, components)
        learned.check()
        self.statistics_ = statistics
        self._map = learned

    def _learned(self) -> _WhiteningMap:
        check_is_fitted(self, "statistics_")
        _refuse_nothing_to_whiten(self.statistics_)  # too few rows of `partial_fit` so far
        return self._map

    @property
    def mean_(self) -> Float64[np.ndarray, " dim"]:
        """The mean of the rows."""
        return self._learned().mean

    @property
    def weight_(self) -> Float64[np.ndarray, "dim components"]:
        """The linear part of the map."""
        return self._learned().weight

    @property
    def shrinkage_(self) -> float:
        """How far the covariance was moved toward the identity, from 0 to 1."""
        return self._learned().shrunk_by

    def transform(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows components"]:
        """`(X - mean_) @ weight_`, in float32 where X is.

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self, "statistics_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        whitened: Float[np.ndarray, "rows components"] = (X - self.mean_.astype(X.dtype)) @ self.weight_.astype(X.dtype)
        return whitened

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Whitening(_FromStatistics):
    """Principal components scaled to variance 1, learned without labels, e.g. on a large source.

    The covariance is shrunk toward the identity, `(1 - s) cov + s * mean variance * I`, so that directions in which the
    rows hardly vary, or too few rows were seen, are not blown up.

    Args:
        components: how many directions are kept: a whole number, a share of the variance in (0, 1], or None for all.
            Directions of no variance are left out where there is no shrinkage.
        shrinkage: s in [0, 1], or `"auto"` for the oracle approximating shrinkage of Chen et al. 2010 (IEEE Trans.
            Signal Process. 58:5016), which becomes small as rows are many. It estimates the covariance well, which is
            another aim than features that transfer: on 1,900 image embeddings more shrinkage transferred better. Choose it
            by held-out scores of the target.

    Attributes:
        statistics_: `ClassStatistics` of all rows so far, with one class.
        mean_: shape (dim,).
        weight_: shape (dim, components), the direction of most variance first.
        shrinkage_: s.
        n_features_in_: columns of X.

    Fitting needs dim^2 numbers beside the rows. `partial_fit` only adds to them; what they give is found when asked for.
    """

    def __init__(
        self,
        *,
        components: int | float | Unchecked | None = None,
        shrinkage: float | Literal["auto"] | Unchecked = _SHRINKAGE,
    ) -> None:
        self.components = components
        self.shrinkage = shrinkage

    def fit(self, X: Float[np.ndarray, "rows dim"] | Unchecked, y: object = None) -> Whitening:  # noqa: ARG002  pipelines
        """Learn from these rows alone.

        Raises:
            ValueError: fewer than 2 rows, rows that are all equal, NaN, or an option outside of its range.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        statistics = ClassStatistics.from_rows(X)
        _refuse_nothing_to_whiten(statistics)
        self._learn(statistics, self.components)
        return self

    def partial_fit(self, X: Float[np.ndarray, "rows dim"] | Unchecked, y: object = None) -> Whitening:  # noqa: ARG002
        """Learn from these rows too; the result is that of `fit` on all rows so far.

        Raises:
            ValueError: another width than before, NaN, or an option outside of its range.
        """
        first = not hasattr(self, "statistics_")
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=first)
        new = ClassStatistics.from_rows(X)
        self._learn(new if first else self.statistics_ + new, self.components)
        return self

    def fit_statistics(self, statistics: ClassStatistics) -> Whitening:
        """Learn from statistics instead of rows; their classes are merged into one.

        Raises:
            ValueError: as `fit`.
        """
        merged = statistics.merged()
        _refuse_nothing_to_whiten(merged)
        self._learn(merged, self.components)
        self.n_features_in_ = merged.means.shape[1]
        return self


class WithinClassWhitening(_FromStatistics):
    """Scale down what varies inside classes, learned on a source whose labels need not be the target's.

    Multiplies with the inverse square root of the covariance within the source's classes (within-class covariance
    normalisation: Hatch, Kajarekar & Stolcke 2006, Interspeech; the first half of linear discriminant analysis), shrunk
    toward the identity. Directions in which items of one class differ (pose, style, wording) then count less, which
    helps wherever distances or penalties treat all directions alike. The columns stay those of X, not rotated.

    Args:
        shrinkage: of the covariance, `(1 - s) cov + s * mean variance * I`: s in [0, 1], or `"auto"` for the oracle
            approximating shrinkage of Chen et al. 2010 (IEEE Trans. Signal Process. 58:5016). With 0, directions that
            do not vary within classes are lost, and with them what may separate the classes best. Little is best where
            a few loud directions vary within classes, much on embeddings where none does: choose it by held-out scores.

    Attributes:
        statistics_: `ClassStatistics` of all rows so far.
        mean_: shape (dim,), of all rows.
        weight_: shape (dim, dim), symmetric.
        shrinkage_: s.
        n_features_in_: columns of X.

    Classes with one row are counted and say nothing about what varies within.
    """

    def __init__(self, *, shrinkage: float | Literal["auto"] | Unchecked = _SHRINKAGE) -> None:
        self.shrinkage = shrinkage

    @property
    def weight_(self) -> Float64[np.ndarray, "dim dim"]:
        """The linear part of the map."""
        return self._learned().symmetric

    def fit(self, X: Float[np.ndarray, "rows dim"] | Unchecked, y: Labels) -> WithinClassWhitening:
        """Learn from these rows alone.

        Raises:
            LabelError: labels are missing, or no class has 2 rows.
            ValueError: rows that are equal within every class, NaN, or an option outside of its range.
        """
        statistics = self._counted(X, y, first=True)
        _refuse_nothing_to_whiten(statistics)
        self._learn(statistics, None)
        return self

    def partial_fit(self, X: Float[np.ndarray, "rows dim"] | Unchecked, y: Labels) -> WithinClassWhitening:
        """Learn from these rows too; the result is that of `fit` on all rows so far.

        Raises:
            LabelError: labels are missing, or of another kind than before.
            ValueError: another width than before, NaN, or an option outside of its range.
        """
        first = not hasattr(self, "statistics_")
        new = self._counted(X, y, first=first)
        self._learn(new if first else self.statistics_ + new, None)
        return self

    def fit_statistics(self, statistics: ClassStatistics) -> WithinClassWhitening:
        """Learn from statistics instead of rows, e.g. those of a source that cannot be had itself.

        Raises:
            LabelError: as `fit`.
            ValueError: as `fit`.
        """
        _refuse_nothing_to_whiten(statistics)
        self._learn(statistics, None)
        self.n_features_in_ = statistics.means.shape[1]
        return self

    def _counted(self, X: Float[np.ndarray, "rows dim"] | Unchecked, y: Labels, *, first: bool) -> ClassStatistics:
        if y is not None and np.asarray(y).ndim == 1:
            label_codes(y)  # refuses missing labels with their number, before scikit-learn words it without
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], reset=first)
        return ClassStatistics.from_rows(X, y)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags


def _refuse_nothing_to_whiten(statistics: ClassStatistics) -> None:
    if statistics.degrees < 1:
        if len(statistics.counts) == 1:
            raise ValueError("whitening needs at least 2 rows; got 1 sample")
        raise LabelError(
            f"each of the {len(statistics.counts)} classes has 1 sample: nothing says what varies within a class. "
            "Give at least one class with 2 rows"
        )
    scale = np.trace(statistics.within) / int(statistics.counts.sum())
    size = float(np.square(statistics.means).sum(axis=1).max())
    if scale <= (4 * np.finfo(np.float64).eps) ** 2 * size:
        of = "rows" if len(statistics.counts) == 1 else "rows of every class"
        raise ValueError(f"all {of} are equal: there is no variation to whiten")


# ------------------------------------------------------------------------------------------------ contrastive features


class ContrastiveFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """A small projection learned without labels: what two views of one item share is kept, what tells items apart spread.

    Trained with the symmetric InfoNCE loss (van den Oord et al. 2018, arXiv:1807.03748) on the cosines of a batch: the
    two views of a row are to find each other among all others. Without pairs both views are the row itself with some
    of its columns dropped and noise added (as SimCSE does with dropout: Gao, Yao & Chen 2021, EMNLP). With pairs, they
    are the row and its partner, e.g. the same item in another modality of a joint space, or drawn by another vendor;
    what differs between partners is then unlearned.

    Trains with PyTorch on the CPU; `transform` is plain numpy.

    Args:
        dim: columns of the result.
        hidden: units of a hidden layer (ReLU), or None for a linear map.
        temperature: of the loss, above 0.
        dropout: share of the columns that a view loses (they are set to the mean), in [0, 1).
        noise: standard deviation of the noise of a view, not below 0, relative to that of an average column.
        epochs: passes over the rows.
        batch: rows that are told apart at once, at least 2.
        learning_rate: of AdamW, decaying to 0 along a cosine.
        weight_decay: of AdamW.
        random_state: seed of the start, of the batches and of the views.

    Attributes:
        mean_: shape (features,), of the rows of both sides.
        scale_: standard deviation of an average column.
        layers_: weight and bias of each layer, applied to `(X - mean_) / scale_`.
        losses_: mean loss of each epoch, in nats; log(batch) is what chance gives.
        n_features_in_: columns of X.
    """

    mean_: Float64[np.ndarray, " features"]
    scale_: float
    layers_: tuple[tuple[Float[np.ndarray, "_in _out"], Float[np.ndarray, " _out"]], ...]
    losses_: Float64[np.ndarray, " epochs"]
    n_features_in_: int

    def __init__(
        self,
        *,
        dim: int | Unchecked = 128,
        hidden: int | Unchecked | None = None,
        temperature: float | Unchecked = 0.1,
        dropout: float | Unchecked = 0.2,
        noise: float | Unchecked = 0.2,
        epochs: int | Unchecked = 20,
        batch: int | Unchecked = 256,
        learning_rate: float | Unchecked = 1e-3,
        weight_decay: float | Unchecked = 1e-4,
        random_state: int | Unchecked = 0,
    ) -> None:
        self.dim = dim
        self.hidden = hidden
        self.temperature = temperature
        self.dropout = dropout
        self.noise = noise
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def fit(
        self,
        X: Float[np.ndarray, "rows features"] | Unchecked,
        y: object = None,  # noqa: ARG002  pipelines pass one
        *,
        partners: Float[np.ndarray, "rows features"] | Unchecked | None = None,
    ) -> ContrastiveFeatures:
        """Train the projection.

        Args:
            X: one embedding a row.
            y: not used; there for scikit-learn's pipelines.
            partners: the other view of each row, from the same embedding space. Default: each row is its own partner.

        Raises:
            ValueError: fewer than 2 rows, equal rows, NaN, partners that do not fit, or an option outside of its range.
        """
        self._check_options()
        X = validate_data(self, X, dtype=[np.float64, np.float32])
        if len(X) < 2:
            raise ValueError("contrastive features need at least 2 rows to tell apart; got 1 sample")
        sides = [X]
        if partners is not None:
            partners = _matrix(partners, "partners")
            if partners.shape != X.shape:
                raise ValueError(
                    f"partners must have the shape of X, {X.shape}; got {partners.shape}. One projection serves both "
                    "sides: bring them into one space first (chiasm.alignment.alignment)"
                )
            sides.append(partners)
        self.mean_ = np.mean([side.mean(axis=0, dtype=np.float64) for side in sides], axis=0)
        variance = np.mean([np.square(side - self.mean_).mean() for side in sides])
        if variance <= (4 * np.finfo(X.dtype).eps) ** 2 * float(np.square(self.mean_).mean()) or variance == 0:
            raise ValueError("all rows are equal: there is nothing to tell apart")
        self.scale_ = float(np.sqrt(variance))
        self.layers_, self.losses_ = self._train([self._scaled(side.astype(np.float32)) for side in sides])
        return self

    def _train(
        self, sides: list[Float[np.ndarray, "rows features"]]
    ) -> tuple[tuple[tuple[Float[np.ndarray, "_in _out"], Float[np.ndarray, " _out"]], ...], Float64[np.ndarray, " e"]]:
        import torch
        from torch.nn.functional import cross_entropy, normalize

        # Own generators: the program's random numbers are not ours to touch.
        generator = torch.Generator().manual_seed(int(self.random_state))
        draws = np.random.default_rng(self.random_state)
        views = [torch.from_numpy(side) for side in sides]
        rows, features = sides[0].shape
        sizes = [features, int(self.dim)] if self.hidden is None else [features, int(self.hidden), int(self.dim)]
        layers = [
            (torch.from_numpy(_random_directions(a, b, draws)).requires_grad_(), torch.zeros(b, requires_grad=True))
            for a, b in pairwise(sizes)
        ]
        optimizer = torch.optim.AdamW(
            [tensor for layer in layers for tensor in layer],
            lr=float(self.learning_rate),
            weight_decay=float(self.weight_decay),
        )
        # The last batch would be a lone row where the division leaves one: batches are as equal as can be.
        batches = -(-rows // int(self.batch))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=int(self.epochs) * batches)

        def projected(view: torch.Tensor) -> torch.Tensor:
            kept = torch.rand(view.shape, generator=generator) >= self.dropout
            view = (view + self.noise * torch.randn(view.shape, generator=generator)) * kept / (1 - self.dropout)
            for number, (weight, bias) in enumerate(layers):
                view = (view.relu() if number else view) @ weight + bias
            return normalize(view)

        losses = np.zeros(int(self.epochs))
        for epoch in range(len(losses)):
            for members in np.array_split(draws.permutation(rows), min(batches, rows // 2)):
                index = torch.from_numpy(members)
                cosines = projected(views[0][index]) @ projected(views[-1][index]).T / self.temperature
                own = torch.arange(len(members))
                loss = (cross_entropy(cosines, own) + cross_entropy(cosines.T, own)) / 2
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                losses[epoch] += loss.item() * len(members) / rows
        return tuple((weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers), losses

    def transform(self, X: Float[np.ndarray, "rows features"] | Unchecked) -> Float[np.ndarray, "rows dim"]:
        """Features of unit length.

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        features = self._scaled(X)
        for number, (weight, bias) in enumerate(self.layers_):
            features = (np.maximum(features, 0) if number else features) @ weight.astype(X.dtype) + bias.astype(X.dtype)
        return unit_rows(features)

    def _scaled(self, X: Float[np.ndarray, "rows features"]) -> Float[np.ndarray, "rows features"]:
        scaled: Float[np.ndarray, "rows features"] = (X - self.mean_.astype(X.dtype)) / X.dtype.type(self.scale_)
        return scaled

    def _check_options(self) -> None:
        for name, least in (("dim", 1), ("epochs", 1), ("batch", 2), ("hidden", 1)):
            value = getattr(self, name)
            if not (name == "hidden" and value is None) and not (
                isinstance(value, int | np.integer) and value >= least
            ):
                raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be above 0 and finite; got {getattr(self, name)!r}")
        for name in ("noise", "weight_decay"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be finite and not below 0; got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and below 1; got {self.dropout!r}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _random_directions(inputs: int, outputs: int, draws: np.random.Generator) -> Float[np.ndarray, "inputs outputs"]:
    """Orthonormal columns (rows where the outputs are more), which keep distances nearly."""
    drawn = draws.normal(size=(max(inputs, outputs), min(inputs, outputs)))
    basis = np.linalg.qr(drawn)[0].astype(np.float32)
    return np.ascontiguousarray(basis if inputs >= outputs else basis.T)


# -------------------------------------------------------------------------------------------------- source or no source


@dataclass(frozen=True)
class AlphaChoice:
    """Which weight the source gets, and why."""

    chosen: float
    refused: bool  # a source was tried and is not used
    scores: dict[float, float]  # mean held-out score of the target at every alpha
    gains: dict[float, float]  # mean difference to alpha 0, fold by fold
    standard_errors: dict[float, float]  # of these differences
    sentence: str  # for the report


def choose_alpha(scores_by_alpha: Mapping[float, Float[np.ndarray, " folds"] | Unchecked]) -> AlphaChoice:
    """Choose the weight of the source; refuse the source unless it is seen to help.

    Of the weights that beat the target alone by more than one standard error of the paired difference over the folds,
    the one with the best mean score; of equal ones the smallest. If there is none, 0.

    Args:
        scores_by_alpha: for every weight in [0, 1], 0 among them, the held-out scores of the target, higher is better,
            on the same folds in the same order.

    Raises:
        ValueError: 0 is missing, a weight is outside of [0, 1], there are fewer than 2 folds, their numbers differ, or
            a score is not a finite number.
    """
    scores = {float(alpha): np.asarray(scores_by_alpha[alpha], dtype=np.float64) for alpha in sorted(scores_by_alpha)}
    if 0.0 not in scores:
        raise ValueError(f"scores of alpha 0 (target only) are needed to compare with; got alphas {list(scores)}")
    for alpha, of_folds in scores.items():
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is a weight from 0 to 1; got {alpha}")
        if of_folds.shape != scores[0.0].shape or of_folds.ndim != 1 or len(of_folds) < 2:
            raise ValueError(
                "every alpha needs one score a fold, of the same 2 or more folds; got shape "
                f"{scores[0.0].shape} for alpha 0 and {of_folds.shape} for alpha {alpha}"
            )
        if not np.isfinite(of_folds).all():
            raise ValueError(f"scores must be finite numbers; alpha {alpha} has {of_folds.tolist()}")
    folds = len(scores[0.0])
    differences = {alpha: of_folds - scores[0.0] for alpha, of_folds in scores.items()}
    means = {alpha: float(of_folds.mean()) for alpha, of_folds in scores.items()}
    gains = {alpha: float(difference.mean()) for alpha, difference in differences.items()}
    errors = {alpha: float(d.std(ddof=1) / np.sqrt(folds)) for alpha, d in differences.items()}
    winners = [alpha for alpha in scores if gains[alpha] > errors[alpha]]
    chosen = max(winners, key=means.__getitem__, default=0.0)
    others = [alpha for alpha in scores if alpha > 0]
    refused = bool(others) and chosen == 0
    shown = chosen if chosen else max(others, key=means.__getitem__, default=0.0)
    against = (
        f"held-out score {means[shown]:.3f} against {means[0.0]:.3f} with the target alone "
        f"({gains[shown]:+.3f}, standard error {errors[shown]:.3f}, {folds} folds)"
    )
    if chosen:
        sentence = f"The source is used with weight {chosen:g}: {against}."
    elif not refused:
        sentence = f"No source was tried: held-out score {means[0.0]:.3f} with the target alone ({folds} folds)."
    elif gains[shown] <= 0:
        sentence = f"The source is refused, it would hurt: at its best weight, {shown:g}, {against}."
    else:
        sentence = f"The source is refused, its gain could be chance: at its best weight, {shown:g}, {against}."
    return AlphaChoice(chosen, refused, means, gains, errors, sentence)


# -------------------------------------------------------------------------------------------------------- input checks


def _matrix(X: object, what: str) -> Float[np.ndarray, "rows dim"]:
    """Rows of finite numbers in float32 or float64.

    Raises:
        ValueError: anything else.
    """
    rows = np.asarray(X)
    if rows.ndim != 2 or not rows.size or rows.dtype.kind not in "fiub":
        raise ValueError(
            f"{what} must be a matrix of numbers with a row an embedding; got shape {rows.shape} of {rows.dtype}"
        )
    if rows.dtype not in (np.float32, np.float64):
        rows = rows.astype(np.float64 if rows.dtype.kind != "f" else np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(rows)} rows of {what} hold NaN or infinite values, first row {bad[0]}: leave them out"
        )
    return rows


def _codes(codes: object, rows: int, classes: int | None, *, lowest: int) -> tuple[Int[np.ndarray, " rows"], int]:
    """Codes as int64, and how many classes there are, each of which has a row."""
    column = np.asarray(codes)
    if column.shape != (rows,):
        raise LabelError(f"there are {rows} rows but codes of shape {column.shape}: give one code a row")
    if column.dtype.kind not in "iu" or column.min() < lowest:
        kinds = "whole numbers from 0" if lowest == 0 else "whole numbers from 0, or -1 for an unlabelled row"
        raise LabelError(f"codes must be {kinds}; got {column.dtype} with {column.min()}: see label_codes")
    column = column.astype(np.int64)
    labelled = column[column >= 0]
    if not len(labelled):
        raise LabelError(f"all {rows} rows are unlabelled: label at least one row of each class")
    number = int(labelled.max()) + 1 if classes is None else classes
    if labelled.max() >= number:
        raise LabelError(f"code {labelled.max()} is not one of {number} classes, 0 to {number - 1}")
    if number < 2:
        raise LabelError("the labelled rows are of 1 class only: at least 2 classes are needed")
    absent = np.flatnonzero(np.bincount(labelled, minlength=number) == 0)
    if len(absent):
        raise LabelError(
            f"{len(absent)} of {number} classes have no labelled row, first class {absent[0]}: label at least one row "
            "of each class, or number the classes that are there from 0"
        )
    return column, number
