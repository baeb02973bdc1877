"""The contract of an alignment: a map from one modality's features to the anchor space, fitted to pairs.

The anchor stays where it is, so stored vectors of it stay valid and several modalities can be aligned to it one after
another. The result is a blend of the map with the start, where the space puts an item without any pairs. A method
(`closed_form`, `contrastive`) names the settings to choose from on a `Task`, and learns a map from a `Lesson` once they are
settled: all pairs, or those of four folds in five. Arrays in, arrays out; NumPy alone, since a search imports this
module to apply maps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import comb
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float, Int

from chiasm import work
from chiasm.alignment.pairs import PairArrays, Source
from chiasm.errors import SpaceError
from chiasm.splits import deal
from chiasm.vectors import unit_rows

Value = TypeVar("Value")

ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
BLENDS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)
MIN_PAIRS = 10
FOLDS = 5  # of whole groups, for methods without exact left-out predictions
CHOICE_HITS, CHOICE_CANDIDATES = 10, 30
HUB_ROWS = 10  # nearest to a candidate, whose similarity it loses as a hub; `MIN_PAIRS` at most
MAX_VALIDATION = 2000  # pairs ranked against each other when choosing: more cost n^2 and change nothing
_KERNEL_ROWS = 8192  # rows whose kernel values are held at a time


# --------------------------------------------------------------------------------------------------------------- maps


def blend_rows(
    start: Float[np.ndarray, "n y"], mapped: Float[np.ndarray, "n y"], share: float
) -> Float[np.ndarray, "n y"]:
    """Return `(1 - share) * start + share * mapped`, rows scaled to unit length."""
    return unit_rows((1 - share) * start + share * mapped)


@dataclass(frozen=True, eq=False)
class GaussianKernel:
    """x -> exp(-|x - c|^2 / width) for every centre c.

    Example:
        >>> GaussianKernel(np.zeros((1, 2), np.float32), 2.0)(np.ones((1, 2), np.float32)).round(3).tolist()
        [[0.36800000071525574]]
    """

    centres: Float[np.ndarray, "centres x"]
    width: float

    def __call__(self, X: Float[np.ndarray, "n x"]) -> Float[np.ndarray, "n centres"]:
        """Return kernel values, from 0 to 1."""
        squared = X @ self.centres.T
        squared *= -2
        squared += np.einsum("nd,nd->n", X, X)[:, None]
        squared += np.einsum("nd,nd->n", self.centres, self.centres)
        return np.asarray(np.exp(-np.maximum(squared, 0) / np.float32(self.width)))

    def multiply(self, X: Float[np.ndarray, "n x"], weight: Float[np.ndarray, "centres y"]) -> Float[np.ndarray, "n y"]:
        """Return kernel values times a matrix, block by block: a million rows have a thousand million values."""
        product = np.empty((len(X), weight.shape[1]), X.dtype)
        for first in range(0, len(X), _KERNEL_ROWS):
            part = slice(first, first + _KERNEL_ROWS)
            product[part] = self(X[part]) @ weight
        return product


@dataclass(frozen=True, eq=False)
class LearnedMap:
    """The result of an alignment: `(1 - blend) * start + blend * (f(x) weight + bias)`, scaled to unit length.

    Attributes:
        weight: of the features f(x).
        bias: intercept.
        blend: share of the map in the result; the rest is the start.
        kernel: computes the features; None: they are x itself.

    Example:
        >>> turn = LearnedMap(np.array([[0.0, 1.0], [1.0, 0.0]]), np.zeros(2), blend=1.0)
        >>> turn.place(np.array([[2.0, 0.0]]), start=np.array([[1.0, 0.0]])).tolist()
        [[0.0, 1.0]]
    """

    weight: Float[np.ndarray, "features y"]
    bias: Float[np.ndarray, " y"]
    blend: float
    kernel: GaussianKernel | None = None

    def map_rows(self, X: Float[np.ndarray, "n x"]) -> Float[np.ndarray, "n y"]:
        """Return `f(x) weight + bias`, before the blend."""
        mapped = X @ self.weight if self.kernel is None else self.kernel.multiply(X, self.weight)
        return np.asarray(mapped + self.bias)

    def place(self, X: Float[np.ndarray, "n x"], start: Float[np.ndarray, "n y"]) -> Float[np.ndarray, "n y"]:
        """Return unit vectors of features whose start is known."""
        return blend_rows(start, self.map_rows(X), self.blend)


# ------------------------------------------------------------------------------------------- what a method learns from


class Lesson:
    """The data that one map is fitted to; intermediate results that several steps share are computed once.

    Attributes:
        pairs: of the target.
        source: other pairs in the same features, or statistics of them.
    """

    def __init__(self, pairs: PairArrays, source: Source | None) -> None:
        self.pairs, self.source = pairs, source
        self._results: dict[Hashable, Any] = {}

    def once(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """Return the result of `compute`, which is called for the first request of a key only."""
        if key not in self._results:
            self._results[key] = compute()
        result: Value = self._results[key]
        return result


class Task(Lesson):
    """The pairs of one fit, and the criterion that settings are chosen by: left-out pairs find each other.

    Attributes:
        alphas: source weights to choose from.
        rows: the pairs that are ranked against each other when choosing.
        start_score: score of the start alone.

    Raises:
        SpaceError: fewer than 10 pairs, one group only, a source weight without a source, or one of other features.
    """

    def __init__(self, pairs: PairArrays, source: Source | None, alpha: float | str) -> None:
        if pairs.count < MIN_PAIRS:
            raise SpaceError(
                f"alignment needs at least {MIN_PAIRS} pairs; got {pairs.count}. Add pairs or use the space as it is"
            )
        if pairs.codes.max() == 0:
            raise SpaceError("all pairs are of one group (e.g. the same caption): nothing is left to validate on")
        if source is None and alpha not in {"auto", 0}:
            raise SpaceError(f"alpha={alpha} is the weight of a source, and there is none. Give one, or no alpha")
        if source is not None and source.shape != pairs.shape:
            raise SpaceError(
                f"the source has {source.shape[0]} x {source.shape[1]} features and the target "
                f"{pairs.shape[0]} x {pairs.shape[1]}: both must come from the same encoders"
            )
        for part in (pairs, source):
            if part is not None and part.scale == 0:
                raise SpaceError("the pairs are degenerate: the features of all of them are equal")
        super().__init__(pairs, source)
        self.alphas = (0.0,) if source is None else ALPHAS if alpha == "auto" else (float(alpha),)
        self.rows = np.arange(pairs.count)
        if pairs.count > MAX_VALIDATION:
            self.rows = np.sort(np.random.default_rng(0).choice(pairs.count, MAX_VALIDATION, replace=False))
        self._scorer = HitChance(pairs.Y[self.rows], pairs.start[self.rows], pairs.codes[self.rows])
        (self.start_score,) = self.scores(pairs.start[self.rows], (0.0,))

    def scores(self, predictions: Float[np.ndarray, "rows y"], blends: Sequence[float]) -> list[float]:
        """Score shares of predictions of `rows`, the rest being the start.

        To nine digits: settings whose scores differ by rounding alone are equal.
        """
        return [round(score, 9) for score in self._scorer.scores(predictions, blends)]

    @cached_property
    def folds(self) -> list[tuple[Int[np.ndarray, " fold"], Lesson]]:
        """Return the rows of each fold of whole groups, and the data without them."""
        codes = self.pairs.codes
        fold_of = deal(np.zeros_like(codes), min(FOLDS, int(codes.max()) + 1), seed=0, groups=codes)
        return [
            (np.flatnonzero(fold_of == fold), Lesson(self.pairs.take(fold_of != fold), self.source))
            for fold in range(int(fold_of.max()) + 1)
        ]


# ----------------------------------------------------------------------------------------------------------- contract


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that a method leaves open, apart from the blend."""

    alpha: float = 0.0  # weight of the source
    strength: float = (
        0.0  # of the regularisation of x, relative to the mean eigenvalue of the mixed covariance; 0: none
    )
    extra: dict[str, float] = field(default_factory=dict)  # the method's own, by name


@dataclass(frozen=True, kw_only=True)
class AlignmentChoice(Settings):
    """The settings chosen on left-out pairs, and how they compare with the start on the same pairs."""

    method: str
    blend: float  # share of the learned map in the result; 0 keeps the start
    score: float  # on left-out pairs: chance of a hit@10 among 30, mean of both directions
    start_score: float  # of the start alone, on the same pairs
    best_by_alpha: dict[float, float]  # best score at every alpha


Candidate: TypeAlias = tuple[Settings, Float[np.ndarray, "_rows y"]]
"""Settings, and their predictions of the rows that a task ranks, each without its group."""


def choose(method: str, task: Task, candidates: Iterable[Candidate], blends: Sequence[float]) -> AlignmentChoice:
    """Return the best candidate and blend; of equal scores the first wins: less source, less of the learned map."""
    best, best_blend, best_score = Settings(), 0.0, -1.0
    by_alpha: dict[float, float] = {}
    for settings, predictions in work.steps(candidates, "settings"):
        for blend, score in zip(blends, task.scores(predictions, blends), strict=True):
            by_alpha[settings.alpha] = max(by_alpha.get(settings.alpha, -1.0), score)
            if score > best_score:
                best, best_blend, best_score = settings, blend, score
    return AlignmentChoice(
        alpha=best.alpha,
        strength=best.strength,
        extra=best.extra,
        method=method,
        blend=best_blend,
        score=best_score,
        start_score=task.start_score,
        best_by_alpha=by_alpha,
    )


@dataclass(frozen=True, kw_only=True)
class Alignment(ABC):
    """A method that learns a map from features of one modality to the anchor space: options alone, fitted by `fit`.

    Attributes:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        blends: shares of the learned map to choose from, in [0, 1]. With 0 among them the result is never worse than
            the start on the left-out pairs.
        seed: of whatever the method draws.

    Raises:
        SpaceError: alpha outside of its range.
    """

    method: ClassVar[str]
    alpha: float | str = "auto"
    blends: Sequence[float] = BLENDS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.alpha != "auto" and not (isinstance(self.alpha, int | float) and 0 <= self.alpha <= 1):
            raise SpaceError(f"alpha must be 'auto' or a number from 0 to 1; got {self.alpha!r}")

    def fit(
        self, pairs: PairArrays, source: Source | None = None, *, choice: AlignmentChoice | None = None
    ) -> AlignmentFit:
        """Choose the settings on left-out groups of the target pairs, then learn from all of them.

        Args:
            pairs: of the target.
            source: other pairs in the same features, or statistics of them.
            choice: settings of an earlier fit of the same method, e.g. to a part of the pairs; by default they are chosen.

        Raises:
            SpaceError: fewer than 10 pairs, one group only, equal features, a source weight without a source, a source
                of other features, or statistics where the method needs the pairs of the source.
        """
        task = Task(pairs, source, self.alpha)
        if choice is None:
            choice = choose(self.method, task, self.candidates(task), self.blends)
        learned = self.learn(task, choice)
        weight, bias = learned.weight.astype(np.float32), learned.bias.astype(np.float32)
        return AlignmentFit(self, choice, LearnedMap(weight, bias, choice.blend, learned.kernel), task)

    @abstractmethod
    def candidates(self, task: Task) -> Iterable[Candidate]:
        """Yield the settings to choose from, with predictions of left-out pairs; those to prefer first."""

    @abstractmethod
    def learn(self, lesson: Lesson, settings: Settings) -> LearnedMap:
        """Return the map at these settings."""

    def predict_left_out(self, task: Task, settings: Settings) -> Float[np.ndarray, "pairs y"]:
        """Return what the map predicts of each pair when its group is left out.

        By maps that are learned without each fold of whole groups, unless a method knows better.
        """
        predictions = np.empty_like(task.pairs.start)
        for rows, rest in task.folds:
            predictions[rows] = self.learn(rest, settings).map_rows(task.pairs.X[rows])
        return predictions


@dataclass(frozen=True, eq=False)
class AlignmentFit:
    """A fitted alignment.

    Attributes:
        alignment: the method and its options.
        choice: the settings chosen, and how they scored.
        map: the learned map, in float32.
        task: the pairs that it was fitted to.
    """

    alignment: Alignment
    choice: AlignmentChoice
    map: LearnedMap
    task: Task = field(repr=False)

    def transform(self, X: Float[np.ndarray, "n x"], start: Float[np.ndarray, "n y"]) -> Float[np.ndarray, "n y"]:
        """Return anchor vectors of new features, unit length."""
        return self.map.place(X, start)

    @cached_property
    def cross_fitted(self) -> Float[np.ndarray, "pairs y"]:
        """Unit vectors of the pairs that it was fitted to, each by a map that did not learn from its group.

        The settings stay those chosen on all pairs.
        """
        start = self.task.pairs.start
        if not self.choice.blend:
            return start.copy()
        return blend_rows(start, self.alignment.predict_left_out(self.task, self.choice), self.choice.blend)


# -------------------------------------------------------------------------------------------------------------- score


class HitChance:
    """Scores blends of the start with left-out predictions; what all blends share is computed once."""

    def __init__(
        self,
        anchors: Float[np.ndarray, "rows y"],
        start: Float[np.ndarray, "rows y"],
        groups: Int[np.ndarray, " rows"],
    ) -> None:
        self.anchors, self.start = anchors, start
        self.similarity = anchors @ start.T
        self.is_blind = not self.similarity.any()  # the start relates nothing of one modality to the other
        self.left, self.right = np.nonzero(groups[:, None] == groups[None, :])  # pairs of one group, row by row
        self.first = np.searchsorted(self.left, np.arange(len(groups)))
        ahead = np.arange(2 * len(groups) - 1) / 2 / (len(groups) - 1)  # share of the others, in half steps
        others = CHOICE_CANDIDATES - 1
        fewer = [comb(others, k) * ahead**k * (1 - ahead) ** (others - k) for k in range(CHOICE_HITS)]
        self.by_rank = np.sum(fewer, axis=0)

    def scores(self, mapped: Float[np.ndarray, "rows y"], blends: Sequence[float]) -> list[float]:
        """Return the score of each share of the mapped vectors, the rest being the start."""
        similarity = self.anchors @ mapped.T
        scores = []
        for blend in blends:
            lengths = np.linalg.norm((1 - blend) * self.start + blend * mapped, axis=1)
            mixture = (1 - blend) * self.similarity + blend * similarity
            mixture /= np.where(lengths > 0, lengths, 1)
            scores.append((self.chance(mixture) + self.chance(mixture.T)) / 2)
        return scores

    def chance(self, similarity: Float[np.ndarray, "rows rows"]) -> float:
        """Return the mean chance of a hit by similarity; where the start is blind, the better of that and with hubs held back.

        Held back, a candidate loses the mean similarity of the ten rows that are nearest to it (twice the correction of
        CSLS: Conneau et al. 2018, ICLR, equation 3), as a search does later. Without it a map with few hubs would win over
        one that is more exact. A blend with a start that relates both modalities makes few hubs anyway (benchmarks/LOG.md).
        """
        ways = [similarity]
        if self.is_blind:
            # Ten times the difference: sums keep ties of equal columns that means would round apart.
            ways.append(HUB_ROWS * similarity - np.partition(similarity, -HUB_ROWS, axis=0)[-HUB_ROWS:].sum(axis=0))
        return max(float(self.chances(way).mean()) for way in ways)

    def chances(self, similarity: Float[np.ndarray, "rows rows"]) -> Float[np.ndarray, " rows"]:
        """Return the chance of each row that a pair of its group is among the first 10 of 30 random candidates.

        From its rank among all: every other candidate is ahead with p = (rank - 1) / (n - 1), so the chance is
        binomial; a tie counts half. Hit@10 itself is coarse with few pairs; the reciprocal rank looks at the very first
        places only, where a start that knows the exact word cannot be beaten, and keeps the start although the learned
        map finds far more (benchmarks/LOG.md).
        """
        same = similarity[self.left, self.right]
        best = np.maximum.reduceat(same, self.first)
        tied_in_group = np.add.reduceat(same == best[self.left], self.first, dtype=np.int64)
        at_least, above = (
            np.count_nonzero(f(similarity, best[:, None]), axis=1) for f in (np.greater_equal, np.greater)
        )
        chances: Float[np.ndarray, " rows"] = self.by_rank[at_least + above - tied_in_group]
        return chances
