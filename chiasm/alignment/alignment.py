"""What every alignment is, and the first of them: a map from one modality's features to the anchor space.

An alignment learns from pairs (features x of the modality that is moved, anchor vectors y) a map x W + b, of x itself or of
its nearness to known items. Its result is the map blended with the start, the place that the space gives without pairs (`LearnedMap`). The anchor stays
where it is, so stored vectors of it stay valid and several modalities can be aligned to it one after another. Every
method is an `Alignment`: same arguments, same criterion, same choice of the blend on left-out groups. It says how it
chooses (on a `Task`) and how it learns a map once that is settled (from a `Lesson`: all pairs, or those of four folds in
five). The others are in `kernel_alignment`, `linear_alignment` and `contrastive`, what chooses between them in `alignment_choice`.

Ridge minimises, in closed form,

    alpha / n_s * sum_source |W'x + b - y|^2 + (1 - alpha) / n_t * sum_target |W'x + b - y|^2 + lambda * |W|^2

Everything that the source contributes is in its `PairStatistics` (counts, sums, Gram and cross matrices). They add up,
so a source can be used, and shared, without its data. The strength lambda, the source weight alpha and the share of the
learned map in the result (the rest is the start, e.g. the bridge) are chosen together by leave-one-group-out
predictions of the target pairs. These are exact and need no refit; `left_out` says how.

Arrays in, arrays out: which media and encoders they come from is left to `chiasm.space`. Plain numpy, since a search in
the command line imports this module and SciPy would add 0.2 s to its start.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import comb
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Float, Int, Shaped

from chiasm.errors import SpaceError
from chiasm.splits import deal
from chiasm.vectors import unit_rows

Found = TypeVar("Found")

FORMAT = "chiasm-pair-statistics"
FORMAT_VERSION = 2

ALPHAS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
BLENDS = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)
MIN_PAIRS = 10
FOLDS = 5  # of whole groups, for what has no exact left-out predictions
SINGLE_PRECISION = 0.1  # strength from which float32 predicts left-out pairs to 3e-7; below it errors grow
CHOICE_HITS, CHOICE_CANDIDATES = 10, 30
_KERNEL_ROWS = 8192  # whose kernel values are held at a time
MAX_VALIDATION = 2000  # pairs that are ranked against each other when choosing: more cost n^2 and change nothing


def blended(
    start: Float[np.ndarray, "n y"], mapped: Float[np.ndarray, "n y"], share: float
) -> Float[np.ndarray, "n y"]:
    """A share of mapped vectors, the rest from the start; rows scaled to unit length."""
    return unit_rows((1 - share) * start + share * mapped)


@dataclass(frozen=True, eq=False)
class PairStatistics:
    """All that ridge, Procrustes and CCA need of a set of pairs: additive, and without the pairs themselves."""

    count: int
    sum_x: Float[np.ndarray, " x"]
    sum_y: Float[np.ndarray, " y"]
    xx: Float[np.ndarray, "x x"]
    xy: Float[np.ndarray, "x y"]
    yy: Float[np.ndarray, "y y"]

    @classmethod
    def from_pairs(cls, X: Float[np.ndarray, "pairs x"], Y: Float[np.ndarray, "pairs y"]) -> PairStatistics:
        """Statistics of pairs, row by row; accumulated in float64, block by block.

        Raises:
            SpaceError: no pairs, not as many features as anchors, or values that are not finite.
        """
        _check_pairs(X, Y)
        xx = np.zeros((X.shape[1], X.shape[1]))
        xy = np.zeros((X.shape[1], Y.shape[1]))
        yy = np.zeros((Y.shape[1], Y.shape[1]))
        for start in range(0, len(X), 4096):
            x, y = (part[start : start + 4096].astype(np.float64) for part in (X, Y))
            xx += x.T @ x
            xy += x.T @ y
            yy += y.T @ y
        return cls(len(X), X.sum(axis=0, dtype=np.float64), Y.sum(axis=0, dtype=np.float64), xx, xy, yy)

    def __add__(self, other: PairStatistics) -> PairStatistics:
        return self._combined(other, 1)

    def __sub__(self, part: PairStatistics) -> PairStatistics:
        """Statistics of the pairs that are not in a part of them."""
        return self._combined(part, -1)

    def _combined(self, other: PairStatistics, sign: int) -> PairStatistics:
        if self.xy.shape != other.xy.shape:
            raise SpaceError(
                f"statistics of {self.xy.shape[0]} x {self.xy.shape[1]} features cannot be added to statistics of "
                f"{other.xy.shape[0]} x {other.xy.shape[1]}: both must come from the same encoders"
            )
        return PairStatistics(
            self.count + sign * other.count,
            self.sum_x + sign * other.sum_x,
            self.sum_y + sign * other.sum_y,
            self.xx + sign * other.xx,
            self.xy + sign * other.xy,
            self.yy + sign * other.yy,
        )

    @cached_property
    def moments(self) -> Moments:
        """Means and covariances; kept, so that several fits with one source share its eigenvectors."""
        mean_x, mean_y = self.sum_x / self.count, self.sum_y / self.count
        moments = Moments(
            mean_x,
            mean_y,
            self.xx / self.count - np.outer(mean_x, mean_x),
            self.xy / self.count - np.outer(mean_x, mean_y),
            self.yy / self.count - np.outer(mean_y, mean_y),
        )
        if moments.scale <= 1e-7 * np.trace(self.xx) / self.xx.size:
            raise SpaceError("the pairs are degenerate: the features of all of them are equal")
        return moments

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write one safetensors file; of the symmetric Gram matrices only the upper triangle.

        The matrices are rounded to float32, so `load` gives them back to 6e-8 of each value; counts and sums are exact.

        Args:
            path: the file, by habit ending in `.safetensors`. It appears whole or not at all.
            metadata: what the statistics belong to (fingerprints of the features); `load` returns it.

        Raises:
            SpaceError: the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        tensors = {
            "sum_x": self.sum_x,
            "sum_y": self.sum_y,
            "xx_upper": self.xx[np.triu_indices(len(self.sum_x))].astype(np.float32),
            "xy": self.xy.astype(np.float32),
            "yy_upper": self.yy[np.triu_indices(len(self.sum_y))].astype(np.float32),
        }
        header = {"format": FORMAT, "format_version": str(FORMAT_VERSION), "count": str(self.count)}
        try:
            save_file(tensors, str(path), metadata={**header, "metadata": json.dumps(dict(metadata), sort_keys=True)})
        except (SafetensorError, OSError) as error:
            raise SpaceError(f"the pair statistics cannot be written to {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> tuple[PairStatistics, dict[str, str]]:
        """Read what `save` wrote: the statistics and their metadata.

        Raises:
            SpaceError: not a file of pair statistics, of another version, or damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="numpy") as file:
                header = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise SpaceError(f"{path} is not a file of pair statistics (written by chiasm statistics)")
                if header.get("format_version") != str(FORMAT_VERSION):
                    raise SpaceError(
                        f"{path} has format version {header.get('format_version')}; this chiasm reads {FORMAT_VERSION}. "
                        "Write it again with chiasm statistics"
                    )
                names = ("sum_x", "sum_y", "xx_upper", "xy", "yy_upper")
                sum_x, sum_y, xx_upper, xy, yy_upper = tensors = tuple(file.get_tensor(name) for name in names)
            count, metadata = int(header["count"]), dict(json.loads(header["metadata"]))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise SpaceError(f"{path} cannot be read as pair statistics: {error}") from error
        x, y = sum_x.size, sum_y.size
        shapes = [tensor.shape for tensor in tensors]
        if count < 1 or shapes != [(x,), (y,), (x * (x + 1) // 2,), (x, y), (y * (y + 1) // 2,)]:
            raise SpaceError(f"{path} is damaged: {count} pairs with matrices of shapes {shapes}. Write it again")
        if not all(np.isfinite(tensor).all() for tensor in tensors):
            raise SpaceError(f"{path} is damaged: it holds values that are not finite numbers. Write it again")
        return cls(
            count, sum_x, sum_y, _symmetric(xx_upper, x), xy.astype(np.float64), _symmetric(yy_upper, y)
        ), metadata


def _symmetric(upper: Float[np.ndarray, " numbers"], dim: int) -> Float[np.ndarray, "dim dim"]:
    matrix = np.zeros((dim, dim))
    rows, columns = np.triu_indices(dim)
    matrix[rows, columns] = upper
    matrix[columns, rows] = upper
    return matrix


@dataclass(frozen=True, eq=False)
class PairArrays:
    """Pairs of one moved modality with its anchor: a target, or a source whose pairs themselves are at hand.

    Attributes:
        X: features of the moved modality.
        Y: their anchor vectors, unit length.
        start: where the space puts the same X before learning, unit length.
        groups: pairs of one group (e.g. the same caption) are left out together and are no negatives of each other.
            None: every pair alone.
    """

    X: Float[np.ndarray, "pairs x"]
    Y: Float[np.ndarray, "pairs y"]
    start: Float[np.ndarray, "pairs y"]
    groups: Shaped[np.ndarray, " pairs"] | None = None

    def __post_init__(self) -> None:
        _check_pairs(self.X, self.Y)
        if self.start.shape != self.Y.shape or not np.isfinite(self.start).all():
            raise SpaceError(
                f"the start must be finite and of the shape of the anchors, {self.Y.shape}; got {self.start.shape} with "
                f"{int((~np.isfinite(self.start)).sum())} values that are not finite numbers"
            )
        if self.groups is not None and self.groups.shape != (len(self.X),):
            raise SpaceError(
                f"groups must be one value for each of the {len(self.X)} pairs; got shape {self.groups.shape}"
            )

    @cached_property
    def statistics(self) -> PairStatistics:
        """What most methods need of these pairs; computed once."""
        return PairStatistics.from_pairs(self.X, self.Y)

    @cached_property
    def codes(self) -> Int[np.ndarray, " pairs"]:
        """The group of each pair by number."""
        if self.groups is None:
            return np.arange(len(self.X))
        return np.asarray(np.unique(self.groups, return_inverse=True)[1])

    def take(self, rows: Shaped[np.ndarray, " _rows"]) -> PairArrays:
        """The same for some rows (numbers or a mask)."""
        groups = None if self.groups is None else self.groups[rows]
        return PairArrays(self.X[rows], self.Y[rows], self.start[rows], groups)


Source: TypeAlias = PairStatistics | PairArrays


@dataclass(frozen=True, eq=False)
class Moments:
    """Means and covariances of pairs, or of a weighted mixture of two sets of pairs."""

    mean_x: Float[np.ndarray, " x"]
    mean_y: Float[np.ndarray, " y"]
    xx: Float[np.ndarray, "x x"]
    xy: Float[np.ndarray, "x y"]
    yy: Float[np.ndarray, "y y"]

    @property
    def scale(self) -> float:
        """Mean eigenvalue of the covariance of x: the unit of the strengths."""
        return float(np.trace(self.xx)) / len(self.xx)

    @cached_property
    def spectrum(self) -> tuple[Float[np.ndarray, " x"], Float[np.ndarray, "x x"], Float[np.ndarray, "x y"]]:
        """Eigenvalues and eigenvectors of the covariance of x, and that of x and y in the basis of these vectors."""
        values, basis = np.linalg.eigh(self.xx)
        return np.maximum(values, 0), basis, basis.T @ self.xy  # rounding can make the smallest slightly negative

    def mixed(self, other: Moments | None, alpha: float) -> Moments:
        """Moments of a mixture in which the other pairs have weight alpha and these 1 - alpha."""
        if other is None or alpha == 0:
            return self
        between = alpha * (1 - alpha)
        apart_x, apart_y = self.mean_x - other.mean_x, self.mean_y - other.mean_y
        return Moments(
            (1 - alpha) * self.mean_x + alpha * other.mean_x,
            (1 - alpha) * self.mean_y + alpha * other.mean_y,
            (1 - alpha) * self.xx + alpha * other.xx + between * np.outer(apart_x, apart_x),
            (1 - alpha) * self.xy + alpha * other.xy + between * np.outer(apart_x, apart_y),
            (1 - alpha) * self.yy + alpha * other.yy + between * np.outer(apart_y, apart_y),
        )

    def mixed_scale(self, other: Moments | None, alpha: float) -> float:
        """Scale of such a mixture, without making its matrices."""
        if other is None or alpha == 0:
            return self.scale
        apart = self.mean_x - other.mean_x
        return (1 - alpha) * self.scale + alpha * other.scale + alpha * (1 - alpha) * float(apart @ apart) / len(apart)

    def ridge(self, strength: float) -> LinearMap:
        """Weight and bias of the map that minimises the objective at lambda = strength * scale."""
        weight = np.linalg.solve(self.penalised(strength), self.xy)
        return weight, self.mean_y - self.mean_x @ weight

    def penalised(self, strength: float) -> Float[np.ndarray, "x x"]:
        """Covariance of x, with lambda = strength * scale added to its diagonal."""
        matrix = self.xx.copy()
        matrix.flat[:: len(matrix) + 1] += strength * self.scale
        return matrix


# ---------------------------------------------------------------------------------------------- what every method shares


@dataclass(frozen=True, kw_only=True)
class AlignmentChoice:
    """What was chosen on left-out pairs, and how it compares with the start on the same pairs."""

    method: str
    alpha: float  # weight of the source, 0 without one
    strength: float  # of the regularisation of x, relative to the mean eigenvalue of the mixed covariance; 0: none
    blend: float  # share of the learned map in the result; 0 keeps the start
    score: float  # of the choice, on left-out pairs: chance of a hit@10 among 30, mean of both directions
    start_score: float  # of the start alone, on the same pairs
    best_by_alpha: dict[float, float]  # best score at every alpha that was tried
    settings: dict[str, float] = field(default_factory=dict)  # what else the method chose, by name


LinearMap: TypeAlias = tuple[Float[np.ndarray, "x y"], Float[np.ndarray, " y"]]
"""Weight and bias."""


@dataclass(frozen=True, eq=False)
class GaussianKernel:
    """x -> exp(-|x - c|^2 / width) for every centre c."""

    centres: Float[np.ndarray, "centres x"]
    width: float

    def __call__(self, X: Float[np.ndarray, "n x"]) -> Float[np.ndarray, "n centres"]:
        """Kernel values, from 0 to 1."""
        squared = X @ self.centres.T
        squared *= -2
        squared += np.einsum("nd,nd->n", X, X)[:, None]
        squared += np.einsum("nd,nd->n", self.centres, self.centres)
        return np.asarray(np.exp(-np.maximum(squared, 0) / np.float32(self.width)))

    def times(self, weight: Float[np.ndarray, "centres y"], X: Float[np.ndarray, "n x"]) -> Float[np.ndarray, "n y"]:
        """Kernel values times a matrix, block by block: a million rows have a thousand million values."""
        found = np.empty((len(X), weight.shape[1]), X.dtype)
        for first in range(0, len(X), _KERNEL_ROWS):
            part = slice(first, first + _KERNEL_ROWS)
            found[part] = self(X[part]) @ weight
        return found


@dataclass(frozen=True, eq=False)
class LearnedMap:
    """What an alignment gives: `(1 - blend) * start + blend * (f(x) weight + bias)`, scaled to unit length.

    Attributes:
        weight: of the features f(x).
        bias: intercept.
        blend: share of the learned map in the result; the rest is the start.
        kernel: gives the features; None: they are x itself.
    """

    weight: Float[np.ndarray, "features y"]
    bias: Float[np.ndarray, " y"]
    blend: float
    kernel: GaussianKernel | None = None

    def place(self, X: Float[np.ndarray, "n x"], start: Float[np.ndarray, "n y"]) -> Float[np.ndarray, "n y"]:
        """Unit vectors of features whose start, the place that the space gives without learning, is known."""
        mapped = X @ self.weight if self.kernel is None else self.kernel.times(self.weight, X)
        return blended(start, mapped + self.bias, self.blend)


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to learn, and what it says of the validation pairs when their groups are left out."""

    alpha: float
    strength: float
    predicted: Float[np.ndarray, "shown y"]
    settings: dict[str, float] = field(default_factory=dict)


class Lesson:
    """What one map is learned from; what several methods need of it is found out once.

    Attributes:
        pairs: of the target.
        target: their moments.
        source: as it was given.
        other: moments of the source.
    """

    def __init__(self, pairs: PairArrays, target: Moments, source: Source | None, other: Moments | None) -> None:
        self.pairs, self.target, self.source, self.other = pairs, target, source, other
        self._found: dict[Hashable, Any] = {}

    def once(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What `find` gives: called by the first that asks by this key, kept for the others."""
        if key not in self._found:
            self._found[key] = find()
        found: Found = self._found[key]
        return found

    def ridge(self, alpha: float, strength: float) -> LinearMap:
        """Ridge's map; other methods build on it."""
        return self.once(("ridge", alpha, strength), lambda: self.target.mixed(self.other, alpha).ridge(strength))

    def left_out(self, alpha: float, strength: float) -> Float[np.ndarray, "pairs y"]:
        """Ridge's prediction of every pair without its group."""
        pairs = self.pairs

        def find() -> Float[np.ndarray, "pairs y"]:
            every = np.arange(len(pairs.X))
            ((_, _, found),) = left_out(
                pairs.X, pairs.Y, pairs.codes, every, self.target, self.other, (alpha,), (strength,)
            )
            return found

        return self.once(("left out", alpha, strength), find)


class Task(Lesson):
    """Checked pairs of one fit, and how well methods do on those that they did not learn from.

    Attributes:
        alphas: source weights to choose from.
        shown: rows that are ranked against each other when choosing.
        start_score: of the start alone.
    """

    def __init__(self, pairs: PairArrays, source: Source | None, alpha: float | str) -> None:
        X, Y = pairs.X, pairs.Y
        if len(X) < MIN_PAIRS:
            raise SpaceError(
                f"alignment needs at least {MIN_PAIRS} pairs; got {len(X)}. Add pairs or use the space as it is"
            )
        if pairs.codes.max() == 0:
            raise SpaceError("all pairs are of one group (e.g. the same caption): nothing is left to validate on")
        if source is None and alpha not in {"auto", 0}:
            raise SpaceError(f"alpha={alpha} is the weight of a source, and there is none. Give one, or no alpha")
        statistics = source.statistics if isinstance(source, PairArrays) else source
        if statistics is not None and statistics.xy.shape != (X.shape[1], Y.shape[1]):
            raise SpaceError(
                f"the source has {statistics.xy.shape[0]} x {statistics.xy.shape[1]} features and the target "
                f"{X.shape[1]} x {Y.shape[1]}: both must come from the same encoders"
            )
        other = None if statistics is None else statistics.moments
        super().__init__(pairs, pairs.statistics.moments, source, other)
        self.alphas = (0.0,) if self.other is None else ALPHAS if alpha == "auto" else (float(alpha),)
        self.shown = _validation_rows(pairs.codes)
        self._scorer = _Scorer(Y[self.shown], pairs.start[self.shown], pairs.codes[self.shown])
        self.start_score = self.scores(pairs.start[self.shown], (0.0,))[0]

    def scores(self, predicted: Float[np.ndarray, "shown y"], blends: Sequence[float]) -> list[float]:
        """The criterion, for shares of a prediction of the shown pairs (the rest is the start).

        To nine digits: what differs by rounding alone is equal.
        """
        return [round(score, 9) for score in self._scorer.scores(predicted, blends)]

    def chances(self, placed: Float[np.ndarray, "shown y"]) -> Float[np.ndarray, " shown"]:
        """The criterion by pair, for what is placed already: its mean is the score."""
        similarity = self.pairs.Y[self.shown] @ placed.T
        both: Float[np.ndarray, " shown"] = self._scorer.chances(similarity) + self._scorer.chances(similarity.T)
        return both / 2

    def choose(self, method: str, candidates: Iterable[Candidate], blends: Sequence[float]) -> AlignmentChoice:
        """The best candidate and blend; of equal scores the first wins: less source, less of the learned map."""
        best: tuple[Candidate, float] | None = None
        best_score = -1.0
        by_alpha: dict[float, float] = {}
        for candidate in candidates:
            for blend, score in zip(blends, self.scores(candidate.predicted, blends), strict=True):
                by_alpha[candidate.alpha] = max(by_alpha.get(candidate.alpha, -1.0), score)
                if score > best_score:
                    best, best_score = (candidate, blend), score
        assert best is not None
        chosen, blend = best
        return AlignmentChoice(
            method=method,
            alpha=chosen.alpha,
            strength=chosen.strength,
            blend=blend,
            score=best_score,
            start_score=self.start_score,
            best_by_alpha=by_alpha,
            settings=chosen.settings,
        )

    @cached_property
    def folds(self) -> list[tuple[Int[np.ndarray, " fold"], Lesson]]:
        """Rows of each fold of whole groups, and what is learned from without them."""
        codes, pairs = self.pairs.codes, self.pairs
        dealt = deal(np.zeros_like(codes), min(FOLDS, int(codes.max()) + 1), seed=0, groups=codes)
        found = []
        for fold in range(int(dealt.max()) + 1):
            left = dealt == fold
            part = PairStatistics.from_pairs(pairs.X[left], pairs.Y[left])
            rest = Lesson(pairs.take(~left), (pairs.statistics - part).moments, self.source, self.other)
            found.append((np.flatnonzero(left), rest))
        return found

    def assembled(self, parts: Sequence[Float[np.ndarray, "_fold y"]]) -> Float[np.ndarray, "shown y"]:
        """Predictions of the folds, in the order of `folds`, as one of the shown pairs."""
        predicted = np.empty(self.pairs.Y.shape, np.float32)
        for (rows, _), part in zip(self.folds, parts, strict=True):
            predicted[rows] = part
        shown: Float[np.ndarray, "shown y"] = predicted[self.shown]
        return shown


class Alignment(ABC):
    """Learned map from features of one modality to the anchor space, blended with a start.

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        blends: shares of the learned map to choose from, in [0, 1]. With 0 among them the result is never worse than
            the start on the left-out pairs.

    Attributes:
        method: what the method is called.
        map_: `LearnedMap`, in float32.
        choice_: `AlignmentChoice`, what was chosen and how it scored.

    Raises:
        SpaceError: an option outside of its range.
    """

    method: ClassVar[str]
    map_: LearnedMap
    choice_: AlignmentChoice

    def __init__(self, *, alpha: float | str = "auto", blends: Sequence[float] = BLENDS) -> None:
        if alpha != "auto" and not (isinstance(alpha, int | float) and 0 <= alpha <= 1):
            raise SpaceError(f"alpha must be 'auto' or a number from 0 to 1; got {alpha!r}")
        if not blends or not all(0 <= blend <= 1 for blend in blends):
            raise SpaceError(f"blends must be one or more numbers from 0 to 1; got {blends!r}")
        self.alpha = alpha
        self.blends = tuple(float(blend) for blend in blends)

    def fit(
        self,
        X: Float[np.ndarray, "pairs x"],
        Y: Float[np.ndarray, "pairs y"],
        *,
        start: Float[np.ndarray, "pairs y"],
        groups: Shaped[np.ndarray, " pairs"] | None = None,
        source: Source | None = None,
    ) -> Alignment:
        """Choose what there is to choose on left-out groups of the target pairs, then learn from all of them.

        Args:
            X: features of the target pairs.
            Y: their anchor vectors, unit length.
            start: where the space puts the same X before learning, unit length.
            groups: pairs of one group are left out together (e.g. the same caption). Default: every pair alone.
            source: other pairs in the same features, or statistics of them.

        Raises:
            SpaceError: fewer than 10 pairs, one group only, equal features, values that are not finite, shapes that do
                not fit, a source weight without a source, or statistics where the method needs the pairs of the source.
        """
        task = Task(PairArrays(X, Y, start, groups), source, self.alpha)
        self.choice_ = self._choose(task)
        learned = self._learn(task, self.choice_)
        self.map_ = replace(learned, weight=learned.weight.astype(np.float32), bias=learned.bias.astype(np.float32))
        return self

    def cross_fitted(
        self,
        X: Float[np.ndarray, "pairs x"],
        Y: Float[np.ndarray, "pairs y"],
        *,
        start: Float[np.ndarray, "pairs y"],
        groups: Shaped[np.ndarray, " pairs"] | None = None,
        source: Source | None = None,
    ) -> Float[np.ndarray, "pairs y"]:
        """Unit vectors of the pairs that it was fitted to, each by a map that did not learn from its group.

        What was chosen in `fit` stays chosen. A map is learned anew for each of five folds; ridge needs none, see
        `left_out`.

        Args:
            X: as in `fit`, and so are all others.
            Y: see there.
            start: see there.
            groups: see there.
            source: see there.
        """
        if not self.choice_.blend:
            return start.copy()
        weight = "auto" if source is None else self.choice_.alpha
        return self._cross_fit(Task(PairArrays(X, Y, start, groups), source, weight), self.choice_)

    def _cross_fit(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        """See `cross_fitted`."""
        return self._placed_by_folds(task, choice)

    def _placed_by_folds(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        """Unit vectors of a task's pairs, each fold's by a map learned from the other folds; nothing is chosen anew."""
        pairs = task.pairs
        placed = np.empty_like(pairs.start)
        for rows, rest in task.folds:
            placed[rows] = self._learn(rest, choice).place(pairs.X[rows], pairs.start[rows])
        return placed

    @abstractmethod
    def _choose(self, task: Task) -> AlignmentChoice:
        """What the method leaves open, by how it does on left-out groups."""

    @abstractmethod
    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        """The map, with everything chosen."""

    def transform(self, X: Float[np.ndarray, "n x"], start: Float[np.ndarray, "n y"]) -> Float[np.ndarray, "n y"]:
        """Anchor vectors of new features, unit length, blended with where the space puts them before learning."""
        return self.map_.place(X, start)


class RidgeAlignment(Alignment):
    """Ridge regression of the anchor vectors; the closed form of the module's objective.

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        strengths: values of lambda to choose from, above 0, relative to the mean eigenvalue of the covariance of x.
        blends: shares of the learned map to choose from, in [0, 1].

    Raises:
        SpaceError: an option outside of its range.
    """

    method = "ridge"

    def __init__(
        self,
        *,
        alpha: float | str = "auto",
        strengths: Sequence[float] = STRENGTHS,
        blends: Sequence[float] = BLENDS,
    ) -> None:
        super().__init__(alpha=alpha, blends=blends)
        if not strengths or not all(0 < strength < np.inf for strength in strengths):
            raise SpaceError(f"strengths must be one or more numbers above 0; got {strengths!r}")
        self.strengths = tuple(float(strength) for strength in strengths)

    def _choose(self, task: Task) -> AlignmentChoice:
        return ridge_choice(task, self.strengths, self.blends)

    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        return LearnedMap(*lesson.ridge(choice.alpha, choice.strength), choice.blend)

    def _cross_fit(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        """Without a fold: exact leave-one-group-out predictions."""
        predicted = task.left_out(choice.alpha, choice.strength)
        return blended(task.pairs.start, predicted, choice.blend)


def ridge_choice(
    task: Task, strengths: Sequence[float] = STRENGTHS, blends: Sequence[float] = BLENDS
) -> AlignmentChoice:
    """Alpha, strength and blend of ridge by exact leave-one-group-out predictions; other methods build on it."""
    pairs = task.pairs

    def find() -> AlignmentChoice:
        candidates = (
            Candidate(alpha, strength, predicted)
            for alpha, strength, predicted in left_out(
                pairs.X, pairs.Y, pairs.codes, task.shown, task.target, task.other, task.alphas, strengths
            )
        )
        return task.choose("ridge", candidates, blends)

    return task.once(("ridge choice", tuple(strengths), tuple(blends)), find)


# ------------------------------------------------------------------------------------------------ left-out predictions


def left_out(
    X: Float[np.ndarray, "pairs x"],
    Y: Float[np.ndarray, "pairs y"],
    groups: Int[np.ndarray, " pairs"],
    shown: Int[np.ndarray, " shown"],
    target: Moments,
    source: Moments | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> Iterator[tuple[float, float, Float[np.ndarray, "shown y"]]]:
    """Predict the shown pairs by the models fitted without their groups, for every alpha and strength.

    Let Phi be the features with an intercept, w the weight of a target pair, A the normal equations of the whole fit
    with their penalty, e its residuals and M = I - w Phi A^-1 Phi'. Without the pairs v of a group, these are predicted
    as  y_v - M_vv^-1 e_v  (Cook & Weisberg 1982, ch. 2; for ridge Golub, Heath & Wahba 1979). M and e are found on the
    smaller side, features or pairs; for several strengths in a basis of eigenvectors, where each costs a few products.
    """
    find = _from_pairs_side if len(X) < X.shape[1] else _from_features_side
    rows = np.flatnonzero(np.isin(groups, groups[shown]))  # a group is left out whole, also where a part of it is shown
    stacks = _stacks(groups[rows])
    where = np.searchsorted(rows, shown)
    predicted = np.empty((len(rows), Y.shape[1]), Y.dtype)
    for alpha, strength, blocks, residual in find(X, Y, rows, stacks, target, source, alphas, strengths):
        for members, block in zip(stacks, blocks, strict=True):
            predicted[members] = Y[rows[members]] - np.linalg.solve(block, residual[members])
        yield alpha, strength, predicted[where]


_Found: TypeAlias = Iterator[
    tuple[float, float, list[Float[np.ndarray, "_groups _size _size"]], Float[np.ndarray, "rows y"]]
]
"""Alpha, strength, the blocks M_vv (stacked as the groups are) and the residuals e."""


def _from_features_side(
    X: Float[np.ndarray, "pairs x"],
    Y: Float[np.ndarray, "pairs y"],
    rows: Int[np.ndarray, " rows"],
    stacks: Sequence[Int[np.ndarray, "_groups _size"]],
    target: Moments,
    source: Moments | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> _Found:
    """At least as many pairs as features: A itself; in the eigenvectors of the mixture's covariance if they pay."""
    for alpha in alphas:
        weight = (1 - alpha) / len(X)
        mixture = target.mixed(source, alpha)
        turned, cross = X[rows] - mixture.mean_x, mixture.xy
        if len(strengths) > 1:
            values, basis, cross = mixture.spectrum
            turned = turned @ basis
        for strength in strengths:
            if len(strengths) > 1:
                scaled = turned / (values + strength * mixture.scale)
            else:
                scaled = np.linalg.solve(mixture.penalised(strength), turned.T).T
            blocks = [np.eye(v.shape[1]) - weight * (1 + turned[v] @ scaled[v].swapaxes(1, 2)) for v in stacks]
            yield alpha, strength, blocks, Y[rows] - mixture.mean_y - scaled @ cross


def _from_pairs_side(
    X: Float[np.ndarray, "pairs x"],
    Y: Float[np.ndarray, "pairs y"],
    rows: Int[np.ndarray, " rows"],
    stacks: Sequence[Int[np.ndarray, "_groups _size"]],
    target: Moments,
    source: Moments | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> _Found:
    """Fewer pairs than features: M = (I + w K)^-1 and e = M (y - f), as in regression by a Gaussian process.

    The source is the prior (Rasmussen & Williams 2006, sec. 2.7): f is what it predicts by itself under the same
    penalty, K the kernel of the features' covariance that it leaves open. The eigenvectors of its covariance serve all
    alphas. The intercept has a prior of precision alpha, flat at 0; it enters as an update of rank one.
    """
    plain = X - target.mean_x, np.zeros(X.shape[1]), np.zeros_like(target.xy), target.mean_y
    if source is not None and max(alphas) > 0:
        values, basis, cross = source.spectrum
        informed = (X - source.mean_x) @ basis, values, cross, source.mean_y
    for alpha in alphas:
        weight = (1 - alpha) / len(X)
        scale = target.mixed_scale(source, alpha)
        turned, values, cross, mean_y = informed if alpha > 0 else plain
        for strength in strengths:
            # The condition of I + w K grows with features / strength.
            kind = np.float32 if strength >= SINGLE_PRECISION else np.float64
            root = np.sqrt(alpha * values + strength * scale)
            half = (turned / root).astype(kind)
            prior = half @ (alpha * cross / root[:, None]).astype(kind) + mean_y.astype(kind)
            M = np.linalg.inv(np.eye(len(X), dtype=kind) + kind(weight) * (half @ half.T))
            ones = M.sum(axis=1)
            M -= kind(weight / (alpha + weight * float(ones.sum()))) * np.outer(ones, ones)
            blocks = [M[rows[v][:, :, None], rows[v][:, None, :]] for v in stacks]
            yield alpha, strength, blocks, M[rows] @ (Y - prior)


def _stacks(groups: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, "_groups _size"]]:
    """Rows of each group, those of one size stacked, so that they are solved together."""
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(first, append=len(order))
    return [order[first[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]


def _validation_rows(groups: Int[np.ndarray, " pairs"]) -> Int[np.ndarray, " shown"]:
    if len(groups) <= MAX_VALIDATION:
        return np.arange(len(groups))
    return np.sort(np.random.default_rng(0).choice(len(groups), MAX_VALIDATION, replace=False))


# -------------------------------------------------------------------------------------------------------------- score


class _Scorer:
    """Scores blends of the start with left-out predictions; what does not change between them is computed once."""

    def __init__(
        self,
        anchors: Float[np.ndarray, "shown y"],
        start: Float[np.ndarray, "shown y"],
        groups: Int[np.ndarray, " shown"],
    ) -> None:
        self.anchors, self.start = anchors, start
        self.similarity = anchors @ start.T
        self.left, self.right = np.nonzero(groups[:, None] == groups[None, :])  # pairs of one group, row by row
        self.first = np.searchsorted(self.left, np.arange(len(groups)))
        ahead = np.arange(2 * len(groups) - 1) / 2 / (len(groups) - 1)  # share of the others, in half steps
        others = CHOICE_CANDIDATES - 1
        fewer = [comb(others, k) * ahead**k * (1 - ahead) ** (others - k) for k in range(CHOICE_HITS)]
        self.by_rank = np.sum(fewer, axis=0)

    def scores(self, mapped: Float[np.ndarray, "shown y"], blends: Sequence[float]) -> list[float]:
        """Score of each share of the mapped vectors, the rest being the start."""
        similarity = self.anchors @ mapped.T
        scores = []
        for blend in blends:
            lengths = np.linalg.norm((1 - blend) * self.start + blend * mapped, axis=1)
            blended = (1 - blend) * self.similarity + blend * similarity
            blended /= np.where(lengths > 0, lengths, 1)
            scores.append(float(np.mean(self.chances(blended) + self.chances(blended.T)) / 2))
        return scores

    def chances(self, similarity: Float[np.ndarray, "shown shown"]) -> Float[np.ndarray, " shown"]:
        """Chance of each row that a pair of the same group is among the first 10 of 30 random candidates.

        From its rank among all: every other candidate is ahead with p = (rank - 1) / (n - 1), so the chance is
        binomial; a tie counts half. Hit@10 itself is coarse with few pairs; the reciprocal rank looks at the very first
        places only, where a start that knows the exact word cannot be beaten, and keeps the start although the learned
        map finds far more (benchmarks/LOG.md).
        """
        same = similarity[self.left, self.right]
        best = np.maximum.reduceat(same, self.first)
        tied_in_group = np.add.reduceat(same == best[self.left], self.first, dtype=np.int64)
        at_least, above = (similarity >= best[:, None]).sum(axis=1), (similarity > best[:, None]).sum(axis=1)
        chances: Float[np.ndarray, " shown"] = self.by_rank[at_least + above - tied_in_group]
        return chances


def _check_pairs(X: Float[np.ndarray, "pairs x"], Y: Float[np.ndarray, "pairs y"]) -> None:
    if X.ndim != 2 or Y.ndim != 2 or len(X) != len(Y) or not len(X):
        raise SpaceError(f"pairs need two matrices with a row a pair; got features {X.shape} and anchors {Y.shape}")
    bad = int((~np.isfinite(X).all(axis=1) | ~np.isfinite(Y).all(axis=1)).sum())
    if bad:
        raise SpaceError(f"{bad} of {len(X)} pairs have values that are not finite numbers")
