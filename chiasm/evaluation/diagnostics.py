"""Diagnostics: how far a metric can be believed, and what it is made of.

This module knows how sure a number is (intervals by bootstrap, paired differences with a permutation test), what each
modality adds to it (Shapley values), and what was forgotten between tasks. The numbers themselves are
`chiasm.evaluation.metrics` and `chiasm.evaluation.ranking`; what they are computed from, and how they are shown, is left
to the caller. All draws come from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, islice
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.splits import Labels, group_codes
from chiasm.vectors import Unchecked

_CELLS = 2**20  # random numbers held at once
_EXACT_PAIRS = 12  # up to 4,096 ways to flip signs


@dataclass(frozen=True)
class Interval:
    """An estimate and the range that resampling gives it: percentiles of the bootstrap (Efron 1979)."""

    estimate: float
    low: float
    high: float
    level: float  # e.g. 0.95: the range holds the middle 95 % of the draws
    draws: int  # resamples that the range is taken from

    def as_dict(self) -> dict[str, float | int]:
        """All of it, for JSON."""
        return asdict(self)


def bootstrap_interval(
    statistic: Callable[[Int[np.ndarray, " drawn"]], float],
    rows: int,
    *,
    groups: Labels | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """The interval of any statistic of items, which are drawn with replacement.

    For the mean of one value an item (accuracy is one), `mean_interval` gives the same and is much faster.

    Args:
        statistic: from row numbers, with repeats, to a number. NaN or infinity says that it is not defined for these rows (the AUC
            of one class): such draws are left out, and `Interval.draws` says how many were not.
        rows: number of items.
        groups: where given, whole groups are drawn in place of items, so that items that are alike do not make the
            interval narrower than it is.
        level: how much of the draws the interval holds, between 0 and 1.
        draws: how many resamples.
        seed: of the draws.

    Returns:
        The interval; its estimate is the statistic of all rows once.

    Raises:
        LabelError: there are fewer than 2 items or groups, groups do not fit, options are out of range, or the
            statistic is not defined for the rows themselves or for any resample.
    """
    _check_options(level, draws)
    members = [np.array([row]) for row in range(rows)] if groups is None else _members(group_codes(groups, rows))
    _check_enough(len(members), "items" if groups is None else "groups")
    estimate = float(statistic(np.arange(rows)))
    if not math.isfinite(estimate):
        raise LabelError(f"the statistic of all {rows} items is {estimate}: an interval needs one that is defined")
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        values[draw] = statistic(drawn if groups is None else np.concatenate([members[g] for g in drawn]))
    return _interval(estimate, values, level)


def mean_interval(
    values: Float[np.ndarray, " values"] | Unchecked,
    *,
    groups: Labels | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The interval of a mean: of a score over seeds, or of one value an item.

    Percentiles of few values are somewhat narrow: with n of them about as a normal interval with a standard deviation that
    is divided by n in place of n - 1.

    Args:
        values: one number a seed or an item, e.g. whether its label is right.
        groups: as for `bootstrap_interval`; the mean is still over values.
        level: see there.
        draws: see there.
        seed: see there.

    Raises:
        LabelError: there are fewer than 2 values or groups, a value is not finite, groups do not fit, or options are out
            of range.
    """
    _check_options(level, draws)
    numbers = _finite(values, "values")
    group = np.arange(len(numbers)) if groups is None else group_codes(groups, len(numbers))
    sums, sizes = np.bincount(group, numbers), np.bincount(group)
    _check_enough(len(sums), "values" if groups is None else "groups")
    rng = np.random.default_rng(seed)
    means = []
    for number in _batches(draws, len(sums)):
        drawn = rng.integers(len(sums), size=(number, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return _interval(float(numbers.mean()), np.concatenate(means), level)


@dataclass(frozen=True)
class PairedDifference:
    """By how much the first of two models scores above the second on the same folds, seeds or items."""

    mean: float
    standard_error: float
    interval: Interval
    p_value: float  # two-sided: how often random signs give a mean difference at least as large
    exact: bool  # whether all signs were tried
    pairs: int

    def as_dict(self) -> dict[str, Any]:
        """All of it in the types of JSON."""
        return asdict(self)


def paired_difference(
    a: Float[np.ndarray, " pairs"] | Unchecked,
    b: Float[np.ndarray, " pairs"] | Unchecked,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models pair by pair: `a - b`.

    The p-value is that of the sign-flip permutation test (Fisher 1935): if the models were alike, each difference could
    as well have the other sign. Up to 12 pairs all signs are tried, so with n pairs it is at least 2 / 2^n. With more,
    signs are drawn, and those observed count as one of the draws (Phipson & Smyth 2010), so that it is never 0. It
    supposes that pairs are independent: folds of one cross-validation share most of their training data, and give a
    p-value that is too small.

    Args:
        a: the scores of the first model.
        b: the scores of the second, in the same order.
        level: of the bootstrap interval over pairs.
        draws: of the bootstrap, and of the signs where they are drawn.
        seed: of the draws.

    Raises:
        LabelError: the two differ in length, there are fewer than 2 pairs, a score is not finite, or options are out of
            range.
    """
    _check_options(level, draws)
    first, second = _finite(a, "first scores"), _finite(b, "second scores")
    if len(first) != len(second):
        raise LabelError(f"pairs need equally many scores; got {len(first)} and {len(second)}")
    _check_enough(len(first), "pairs")
    difference = first - second
    exact = len(difference) <= _EXACT_PAIRS
    # A flipped sum can differ from the one it equals by rounding alone.
    observed = abs(difference.sum()) - 8 * np.finfo(np.float64).eps * (np.abs(first) + np.abs(second)).sum()
    signs = _all_signs(len(difference)) if exact else _drawn_signs(len(difference), draws, np.random.default_rng(seed))
    extreme = tried = 0 if exact else 1
    for positive in signs:
        sums = np.where(positive, difference, -difference).sum(axis=1)
        extreme += int((np.abs(sums) >= observed).sum())
        tried += len(positive)
    return PairedDifference(
        mean=float(difference.mean()),
        standard_error=float(difference.std(ddof=1) / math.sqrt(len(difference))),
        interval=mean_interval(difference, level=level, draws=draws, seed=seed),
        p_value=extreme / tried,
        exact=exact,
        pairs=len(difference),
    )


def shapley(scores: Mapping[frozenset[str], float]) -> dict[str, float]:
    """What each modality contributes to the score of all: its gain, averaged over the orders in which they can be added.

    The contributions sum to the score of all modalities minus that of none (Shapley 1953, "A value for n-person games").

    Args:
        scores: of every subset of the modalities. That of the empty set, the score without any input, may be left out
            and is then 0.

    Returns:
        The contribution of each modality, in alphabetical order. It may be negative.

    Raises:
        LabelError: there is no modality, a key is no frozenset, a subset is missing, or a score is not finite.
    """
    wrong = [key for key in scores if not isinstance(key, frozenset)]
    if wrong:
        raise LabelError(
            f"subsets must be frozensets of names, such as frozenset({{'image', 'text'}}); got {wrong[0]!r}"
        )
    names = sorted(frozenset().union(*scores))
    if not names:
        raise LabelError("scores of one or more subsets of modalities are needed; got none")
    value = {frozenset[str](): 0.0, **scores}
    subsets = (frozenset(chosen) for size in range(len(names) + 1) for chosen in combinations(names, size))
    missing = list(islice((subset for subset in subsets if subset not in value), 4))
    if missing:
        raise LabelError(
            f"the contributions of {len(names)} modalities need the scores of all {2 ** len(names) - 1} subsets; missing: "
            f"{'; '.join(' + '.join(sorted(subset)) for subset in missing[:3])}{' ...' if len(missing) > 3 else ''}"
        )
    for subset, score in value.items():
        if not math.isfinite(score):
            raise LabelError(f"the score of {' + '.join(sorted(subset)) or 'no modality'} is {score}")
    contributions = {}
    for name in names:
        others = [other for other in names if other != name]
        contributions[name] = math.fsum(
            (value[frozenset({*before, name})] - value[frozenset(before)]) / (len(names) * math.comb(len(others), size))
            for size in range(len(names))
            for before in combinations(others, size)
        )
    return contributions


@dataclass(frozen=True)
class IncrementalMetrics:
    """What a model that learned one task after the other knows at the end."""

    average_accuracy: float  # over all tasks, after the last
    forgetting: float | None  # mean loss since a task's best time, without the last task; None with one task
    backward_transfer: float | None  # mean change since a task was learned, without the last task; None with one task

    def as_dict(self) -> dict[str, float | None]:
        """All of it, for JSON."""
        return asdict(self)


def incremental_metrics(accuracy: Float[np.ndarray, "tasks tasks"] | Unchecked) -> IncrementalMetrics:
    """Measure learning of one task after the other.

    Forgetting is that of Chaudhry et al. 2018, "Riemannian Walk for Incremental Learning" (ECCV), equation 3, with the
    best time looked for from when a task was learned; backward transfer that of Lopez-Paz & Ranzato 2017, "Gradient
    Episodic Memory for Continual Learning" (NeurIPS), equation 3. Neither looks at tasks before they were learned.

    Args:
        accuracy: row i, column j: after learning task i, on task j. Values above the diagonal are not looked at.

    Raises:
        LabelError: not a square matrix of numbers, no tasks, or a value on or below the diagonal is not finite.
    """
    matrix = np.asarray(accuracy)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix) or matrix.dtype.kind not in "fiub":
        raise LabelError(
            f"accuracy must be a square matrix of numbers, a row and a column a task; got {matrix.dtype} {matrix.shape}"
        )
    rows, columns = np.tril_indices(len(matrix))
    bad = np.flatnonzero(~np.isfinite(matrix[rows, columns]))
    if len(bad):
        raise LabelError(f"the accuracy after task {rows[bad[0]]} on task {columns[bad[0]]} is missing or not finite")
    last = matrix[-1].astype(np.float64)
    if len(matrix) == 1:
        return IncrementalMetrics(float(last[0]), None, None)
    best = np.array([matrix[j:-1, j].max() for j in range(len(matrix) - 1)], dtype=np.float64)
    learned = np.diag(matrix)[:-1].astype(np.float64)
    return IncrementalMetrics(float(last.mean()), float((best - last[:-1]).mean()), float((last[:-1] - learned).mean()))


def _interval(estimate: float, values: Float64[np.ndarray, " draws"], level: float) -> Interval:
    defined = values[np.isfinite(values)]
    if not len(defined):
        raise LabelError("the statistic is not defined for any resample: give more items")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, len(defined))


def _members(group: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " members"]]:
    order = np.argsort(group, kind="stable")
    return np.split(order, np.cumsum(np.bincount(group))[:-1])


def _batches(draws: int, width: int) -> Iterator[int]:
    """How many draws to make at once, so that no more than `_CELLS` numbers are held."""
    step = max(1, _CELLS // width)
    for first in range(0, draws, step):
        yield min(step, draws - first)


def _all_signs(pairs: int) -> Iterator[Bool[np.ndarray, "flips pairs"]]:
    yield (np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1).astype(bool)


def _drawn_signs(pairs: int, draws: int, rng: np.random.Generator) -> Iterator[Bool[np.ndarray, "flips pairs"]]:
    for number in _batches(draws, pairs):
        yield rng.integers(2, size=(number, pairs), dtype=bool)


def _finite(values: Float[np.ndarray, " values"] | Unchecked, what: str) -> Float64[np.ndarray, " values"]:
    given = np.asarray(values)
    if given.ndim != 1 or given.dtype.kind not in "fiub":
        raise LabelError(f"{what} must be a row of numbers; got {given.dtype} {given.shape}")
    bad = np.flatnonzero(~np.isfinite(given))
    if len(bad):
        raise LabelError(f"{len(bad)} of {len(given)} {what} are NaN or infinite, first at {bad[0]}")
    return given.astype(np.float64)


def _check_options(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise LabelError(f"level must lie between 0 and 1; got {level}")
    if draws < 1:
        raise LabelError(f"draws must be at least 1; got {draws}")


def _check_enough(number: int, what: str) -> None:
    if number < 2:
        raise LabelError(f"at least 2 {what} are needed to say how sure a number is; got {number}")
