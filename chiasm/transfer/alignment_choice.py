"""Which alignment: the table of methods, and the choice between them by cross-validation.

The folds are of whole groups, the same for all methods; a method makes all its own choices (strength, alpha, blend)
within the other folds, so that one with more to choose from gains nothing by it. How each method learns is left to
`alignment`, `linear_alignment` and `contrastive`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from chiasm.errors import SpaceError
from chiasm.transfer.alignment import (
    BLENDS,
    MIN_PAIRS,
    Alignment,
    Learned,
    PairStatistics,
    RidgeAlignment,
    Task,
)

AUTO = "auto"


def _ridge(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001  nothing is drawn
    return RidgeAlignment(alpha=alpha, blends=blends)


def _procrustes(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001
    from chiasm.transfer.linear_alignment import ProcrustesAlignment

    return ProcrustesAlignment(alpha=alpha, blends=blends)


def _cca(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001
    from chiasm.transfer.linear_alignment import CcaAlignment

    return CcaAlignment(alpha=alpha, blends=blends)


def _infonce(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.transfer.contrastive import InfoNceAlignment

    return InfoNceAlignment(alpha=alpha, blends=blends, seed=seed)


def _siglip(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.transfer.contrastive import SiglipAlignment

    return SiglipAlignment(alpha=alpha, blends=blends, seed=seed)


_MAKERS: Mapping[str, Callable[[float | str, Sequence[float], int], Alignment]] = MappingProxyType(
    {"ridge": _ridge, "procrustes": _procrustes, "cca": _cca, "infonce": _infonce, "siglip": _siglip}
)
METHODS: tuple[str, ...] = tuple(_MAKERS)
"""Every method by name, ridge first: the one that the others have to beat. The contrastive ones import torch."""
_NEED_PAIRS = frozenset({"infonce", "siglip"})  # of the source, too: statistics do not do


def make_alignment(
    method: str, *, alpha: float | str = "auto", blends: Sequence[float] = BLENDS, seed: int = 0
) -> Alignment:
    """An alignment that has not learned yet, by name.

    Args:
        method: one of `METHODS`, or `"auto"` for `AutoAlignment`.
        alpha: weight of the source in [0, 1], or `"auto"`.
        blends: shares of the learned map to choose from.
        seed: of what is drawn at random.

    Raises:
        SpaceError: there is no such method, or an option outside of its range.
    """
    if method == AUTO:
        return AutoAlignment(alpha=alpha, blends=blends, seed=seed)
    if method not in _MAKERS:
        raise SpaceError(f"there is no alignment method {method!r}. Use {AUTO}, {', '.join(METHODS)}")
    return _MAKERS[method](alpha, blends, seed)


# ------------------------------------------------------------------------------------------------------------ comparison


@dataclass(frozen=True, kw_only=True)
class MethodScore:
    """One method on left-out folds."""

    method: str
    score: float  # chance of a hit@10 among 30, mean of both directions and of all pairs
    standard_error: float  # of the score, over groups
    gain: float  # over ridge, on the same pairs
    gain_error: float  # standard error of the gain, over groups
    seconds: float  # of all fits on folds


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """All methods on the same folds."""

    chosen: str
    scores: tuple[MethodScore, ...]  # in the order of `METHODS`
    start_score: float  # of the start alone, on the same pairs
    left_out: dict[str, str]  # methods that were not compared, and why


class AutoAlignment(Alignment):
    """The method that does best on left-out folds; ridge unless another is better by more than a standard error.

    Args:
        methods: names to choose from; ridge is always among them.
        alpha: weight of the source in [0, 1], or `"auto"` to choose it within each method.
        blends: shares of the learned map to choose from, in [0, 1].
        seed: of what methods draw at random. The folds are always the same.

    Attributes:
        comparison_: `MethodComparison`. `choice_` is that of the chosen method, fitted to all pairs.

    Raises:
        SpaceError: an unknown method, or an option outside of its range.
    """

    method = AUTO
    comparison_: MethodComparison

    def __init__(
        self,
        *,
        methods: Sequence[str] = METHODS,
        alpha: float | str = "auto",
        blends: Sequence[float] = BLENDS,
        seed: int = 0,
    ) -> None:
        super().__init__(alpha=alpha, blends=blends)
        unknown = sorted(set(methods) - set(METHODS))
        if unknown:
            raise SpaceError(f"there is no alignment method {unknown[0]!r} to choose. Use {', '.join(METHODS)}")
        self.methods = tuple(name for name in METHODS if name in {"ridge", *methods})
        self.seed = seed

    def _learn(self, task: Task) -> Learned:
        self.comparison_ = self._compare(task)
        chosen = self._made(self.comparison_.chosen)
        pairs = task.pairs
        chosen.fit(pairs.X, pairs.Y, start=pairs.start, groups=pairs.groups, source=task.source)
        return Learned(chosen.weight_, chosen.bias_, chosen.choice_)

    def _made(self, method: str) -> Alignment:
        return make_alignment(method, alpha=self.alpha, blends=self.blends, seed=self.seed)

    def _compare(self, task: Task) -> MethodComparison:
        left_out = {}
        if isinstance(task.source, PairStatistics):
            left_out = {
                name: "it needs the pairs of the source, and these are statistics"
                for name in self.methods
                if name in _NEED_PAIRS
            }
        everything, codes = np.arange(len(task.pairs.X)), task.pairs.codes
        others = [np.setdiff1d(everything, rows) for rows, _ in task.folds]
        if min(map(len, others)) < MIN_PAIRS or any(len(np.unique(codes[rows])) < 2 for rows in others):
            left_out = dict.fromkeys(self.methods[1:], "too few pairs or groups to learn from when a fold is left out")
        methods = [name for name in self.methods if name not in left_out]
        if len(methods) == 1:
            return MethodComparison(chosen="ridge", scores=(), start_score=task.start_score, left_out=left_out)
        chances, seconds = {}, {}
        for name in methods:
            began = time.perf_counter()
            parts = []
            for (rows, _), rest in zip(task.folds, others, strict=True):
                pairs, new = task.pairs.take(rest), task.pairs.take(rows)
                fitted = self._made(name).fit(
                    pairs.X, pairs.Y, start=pairs.start, groups=pairs.groups, source=task.source
                )
                parts.append(fitted.transform(new.X, new.start))
            chances[name], seconds[name] = task.chances(task.assembled(parts)), time.perf_counter() - began
        groups = codes[task.shown]
        scores = []
        for name in methods:
            score, error = _mean_and_error(chances[name], groups)
            gain, gain_error = _mean_and_error(chances[name] - chances["ridge"], groups)
            scores.append(
                MethodScore(
                    method=name,
                    score=score,
                    standard_error=error,
                    gain=gain,
                    gain_error=gain_error,
                    seconds=seconds[name],
                )
            )
        better = [entry for entry in scores if entry.gain > entry.gain_error]
        chosen = max(better, key=lambda entry: entry.gain).method if better else "ridge"
        return MethodComparison(chosen=chosen, scores=tuple(scores), start_score=task.start_score, left_out=left_out)


def _mean_and_error(values: Float[np.ndarray, " pairs"], groups: Int[np.ndarray, " pairs"]) -> tuple[float, float]:
    """Mean, and its standard error where the values of one group are not independent (cluster-robust)."""
    mean = float(values.mean())
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], weights=values - mean)
    return mean, float(np.sqrt(np.square(sums).sum() * len(sums) / max(1, len(sums) - 1)) / len(values))
