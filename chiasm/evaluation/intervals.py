"""Intervals: how far a number can be trusted.

Percentile bootstrap over items or whole groups, Wilson's interval of a share, and the paired comparison of two models
with a sign-flip permutation test. The numbers themselves come from `chiasm.evaluation.metrics` and
`chiasm.evaluation.ranking`. Every draw comes from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from chiasm.errors import LabelError
from chiasm.evaluation.record import Record
from chiasm.splits import Labels, group_codes
from chiasm.vectors import Unchecked

_CELLS = 2**20  # random numbers held at once
_EXACT_PAIRS = 12  # up to 4,096 ways to flip signs


@dataclass(frozen=True)
class Interval(Record):
    """An estimate and the range around it.

    Example:
        >>> interval = mean_interval([0.6, 0.7, 0.8, 0.7], draws=200)
        >>> interval.estimate, interval.low < 0.7 < interval.high
        (0.7, True)
    """

    estimate: float
    low: float
    high: float
    level: float  # e.g. 0.95: the range holds the middle 95 % of the draws
    draws: int  # resamples behind the range; 0 if it is in closed form


def bootstrap_interval(
    statistic: Callable[[Int[np.ndarray, " drawn"]], float],
    rows: int,
    *,
    groups: Labels | None = None,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of any statistic of items drawn with replacement (Efron 1979).

    For the mean of one value per item (accuracy is one), `mean_interval` gives the same much faster.

    Args:
        statistic: from row numbers, with repeats, to a number. NaN or infinity means undefined for these rows (the AUC
            of one class): such draws are dropped, and `Interval.draws` counts the rest.
        rows: number of items.
        groups: one per item; whole groups are drawn, so that items that are alike do not narrow the interval.
        level: share of the draws inside the interval, between 0 and 1.
        draws: number of resamples.
        seed: of the draws.

    Raises:
        LabelError: fewer than 2 items or groups, groups that do not fit, options out of range, or a statistic that is
            undefined for all rows or for every resample.
    """
    _check_options(level, draws)
    codes = np.arange(rows) if groups is None else group_codes(groups, rows)
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1]) if rows else []
    _check_enough(len(members), "items" if groups is None else "groups")
    estimate = float(statistic(np.arange(rows)))
    if not math.isfinite(estimate):
        raise LabelError(f"the statistic of all {rows} items is {estimate}: an interval needs one that is defined")
    rng = np.random.default_rng(seed)
    values = np.empty(draws)
    for draw in range(draws):
        drawn = rng.integers(len(members), size=len(members))
        values[draw] = statistic(drawn if groups is None else np.concatenate([members[g] for g in drawn]))
    return _percentiles(estimate, values, level)


def bootstrap_error(
    statistic: Callable[[Int[np.ndarray, " drawn"]], float], rows: int, *, draws: int = 500, seed: int = 0
) -> float:
    """Return the standard error of any statistic: its deviation over items drawn with replacement (Efron 1979).

    Args:
        statistic: from row numbers, with repeats, to a number.
        rows: number of items.
        draws: number of resamples.
        seed: of the draws.

    Example:
        >>> values = np.array([0.0, 1.0] * 50)
        >>> 0.04 < bootstrap_error(lambda rows: values[rows].mean(), 100) < 0.06
        True
    """
    rng = np.random.default_rng(seed)
    return float(np.std([statistic(rng.integers(rows, size=rows)) for _ in range(draws)]))


def mean_interval(
    values: Float[np.ndarray, " values"] | Unchecked,
    *,
    groups: Labels | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return the percentile interval of a mean: of a score over seeds, or of one value per item.

    With few values percentiles are somewhat narrow: with n of them, about a normal interval whose standard deviation
    is divided by n rather than n - 1.

    Args:
        values: one number per seed or item, e.g. whether its label is right.
        groups: as for `bootstrap_interval`; the mean is still over values.
        level: as there.
        draws: as there.
        seed: as there.

    Raises:
        LabelError: fewer than 2 values or groups, a value that is not finite, groups that do not fit, or options out
            of range.
    """
    _check_options(level, draws)
    numbers = _finite(values, "values")
    codes = np.arange(len(numbers)) if groups is None else group_codes(groups, len(numbers))
    sums, sizes = np.bincount(codes, numbers), np.bincount(codes)
    _check_enough(len(sums), "values" if groups is None else "groups")
    rng = np.random.default_rng(seed)
    means = []
    for number in _batches(draws, len(sums)):
        drawn = rng.integers(len(sums), size=(number, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return _percentiles(float(numbers.mean()), np.concatenate(means), level)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Return the interval of a share in closed form (Wilson 1927, "Probable Inference", JASA 22).

    It stays within 0 and 1 and has a width even if all or none succeed, where the bootstrap has none.

    Raises:
        LabelError: no trials, more successes than trials, or a level that is not between 0 and 1.

    Example:
        >>> wilson_interval(0, 10).high.__round__(3)
        0.278
    """
    from scipy.stats import binomtest

    if trials < 1 or not 0 <= successes <= trials:
        raise LabelError(f"a share needs trials, and successes among them; got {successes} of {trials}")
    _check_options(level, 1)
    ends = binomtest(successes, trials).proportion_ci(level, method="wilson")
    share = successes / trials
    # If all or none succeed, one end is the share itself but for rounding.
    return Interval(share, min(share, float(ends.low)), max(share, float(ends.high)), level, 0)


@dataclass(frozen=True)
class PairedDifference(Record):
    """By how much the first of two models scores above the second on the same folds, seeds or items."""

    mean: float
    standard_error: float
    interval: Interval
    p_value: float  # two-sided: how often random signs give a mean difference at least as large
    exact: bool  # whether all signs were tried
    pairs: int  # independent observations: scores, or groups of them


def paired_difference(
    a: Float[np.ndarray, " pairs"] | Unchecked,
    b: Float[np.ndarray, " pairs"] | Unchecked,
    *,
    groups: Labels | None = None,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """Compare two models pair by pair: `a - b`.

    The p-value is that of the sign-flip permutation test (Fisher 1935): if the models were alike, each difference could
    as well have the other sign. Up to 12 pairs all signs are tried, so that with n pairs it is at least 2 / 2^n. Beyond,
    signs are drawn and those observed count as one of the draws (Phipson & Smyth 2010), so that it is never 0. Pairs are
    assumed to be independent: folds of one cross-validation share most of their training data, which gives a p-value
    that is too small.

    Args:
        a: scores of the first model.
        b: scores of the second, in the same order.
        groups: one per pair; the interval draws and the test flips whole groups: three equal captions are one
            observation, not three.
        level: of the bootstrap interval.
        draws: of the bootstrap, and of the signs where they are drawn.
        seed: of the draws.

    Raises:
        LabelError: different lengths, fewer than 2 pairs or groups, a score that is not finite, or options out of range.

    Example:
        >>> paired_difference([0.8, 0.9, 0.7, 0.9], [0.7, 0.7, 0.6, 0.8]).p_value
        0.125
    """
    _check_options(level, draws)
    first, second = _finite(a, "first scores"), _finite(b, "second scores")
    if len(first) != len(second):
        raise LabelError(f"pairs need equally many scores; got {len(first)} and {len(second)}")
    codes = np.arange(len(first)) if groups is None else group_codes(groups, len(first))
    sums = np.bincount(codes, first - second)
    pairs = len(sums)
    _check_enough(pairs, "pairs" if groups is None else "groups")
    # A flipped sum may differ from the one that it equals by rounding alone.
    observed = abs(sums.sum()) - 8 * np.finfo(np.float64).eps * (np.abs(first) + np.abs(second)).sum()
    exact = pairs <= _EXACT_PAIRS
    signs = _all_signs(pairs) if exact else _random_signs(pairs, draws, np.random.default_rng(seed))
    extreme = tried = 0 if exact else 1
    for positive in signs:
        flipped = np.where(positive, sums, -sums).sum(axis=1)
        extreme += int((np.abs(flipped) >= observed).sum())
        tried += len(positive)
    scaled = sums * (pairs / len(first))  # so that the mean over groups is the mean over pairs
    return PairedDifference(
        mean=float(scaled.mean()),
        standard_error=float(scaled.std(ddof=1) / math.sqrt(pairs)),
        interval=mean_interval(first - second, groups=groups, level=level, draws=draws, seed=seed),
        p_value=extreme / tried,
        exact=exact,
        pairs=pairs,
    )


def _percentiles(estimate: float, values: Float64[np.ndarray, " draws"], level: float) -> Interval:
    defined = values[np.isfinite(values)]
    if not len(defined):
        raise LabelError("the statistic is undefined for every resample: give more items")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), level, len(defined))


def _batches(draws: int, width: int) -> Iterator[int]:
    """Yield how many draws to make at once, so that at most `_CELLS` numbers are held."""
    step = max(1, _CELLS // width)
    for first in range(0, draws, step):
        yield min(step, draws - first)


def _all_signs(pairs: int) -> Iterator[Bool[np.ndarray, "flips pairs"]]:
    yield (np.arange(2**pairs)[:, None] >> np.arange(pairs) & 1).astype(bool)


def _random_signs(pairs: int, draws: int, rng: np.random.Generator) -> Iterator[Bool[np.ndarray, "flips pairs"]]:
    for number in _batches(draws, pairs):
        yield rng.integers(2, size=(number, pairs), dtype=bool)


def _finite(values: Float[np.ndarray, " values"] | Unchecked, name: str) -> Float64[np.ndarray, " values"]:
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.dtype.kind not in "fiub":
        raise LabelError(f"{name} must be a row of numbers; got {numbers.dtype} {numbers.shape}")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise LabelError(f"{len(bad)} of {len(numbers)} {name} are NaN or infinite, first at {bad[0]}")
    return numbers.astype(np.float64)


def _check_options(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise LabelError(f"level must lie between 0 and 1; got {level}")
    if draws < 1:
        raise LabelError(f"draws must be at least 1; got {draws}")


def _check_enough(number: int, name: str) -> None:
    if number < 2:
        raise LabelError(f"at least 2 {name} are needed for an interval; got {number}")
