"""Which alignment: the table of methods, and the choice between them by cross-validation.

Every method chooses its settings (strength, alpha, blend, epochs) once, on all pairs. With these fixed, each learns a map
anew without each fold of whole groups, and the methods are compared on the pairs left out, pair by pair. So the settings
have seen the folds: all scores are slightly optimistic, those of methods that choose from more settings a little more;
that another method has to be better than ridge by a standard error makes up for some of it. How each method chooses and
learns is left to `alignment`, `kernel_alignment`, `linear_alignment` and `contrastive`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float, Int

from chiasm.alignment.alignment import (
    BLENDS,
    MIN_PAIRS,
    Alignment,
    AlignmentChoice,
    LearnedMap,
    Lesson,
    PairStatistics,
    RidgeAlignment,
    Task,
)
from chiasm.errors import SpaceError

AUTO = "auto"


def _ridge(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001  nothing is drawn
    return RidgeAlignment(alpha=alpha, blends=blends)


def _kernel(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.alignment.kernel import KernelAlignment

    return KernelAlignment(alpha=alpha, blends=blends, seed=seed)


def _procrustes(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001
    from chiasm.alignment.linear_alignment import ProcrustesAlignment

    return ProcrustesAlignment(alpha=alpha, blends=blends)


def _cca(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001
    from chiasm.alignment.linear_alignment import CcaAlignment

    return CcaAlignment(alpha=alpha, blends=blends)


def _infonce(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.alignment.contrastive import InfoNceAlignment

    return InfoNceAlignment(alpha=alpha, blends=blends, seed=seed)


def _siglip(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.alignment.contrastive import SiglipAlignment

    return SiglipAlignment(alpha=alpha, blends=blends, seed=seed)


_MAKERS: Mapping[str, Callable[[float | str, Sequence[float], int], Alignment]] = MappingProxyType(
    {
        "ridge": _ridge,
        "kernel": _kernel,
        "procrustes": _procrustes,
        "cca": _cca,
        "infonce": _infonce,
        "siglip": _siglip,
    }
)
METHODS: tuple[str, ...] = tuple(_MAKERS)
"""Every method by name, ridge first: the one that the others have to beat. The contrastive ones import torch."""
_NEED_PAIRS = frozenset({"kernel", "infonce", "siglip"})  # of the source, too: statistics do not do


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
    seconds: float  # of the choice of its settings and the maps on folds; the first pays for what methods share


@dataclass(frozen=True, kw_only=True)
class MethodComparison:
    """All methods on the same folds."""

    chosen: str
    scores: tuple[MethodScore, ...]  # in the order of `METHODS`
    start_score: float  # of the start alone, on the same pairs
    left_out: dict[str, str]  # methods that were not compared, and why


class AutoAlignment(Alignment):
    """The method that does best on left-out folds; ridge unless another is better by more than a standard error.

    The comparison has the settings that each method chose on all pairs, folds included; only the maps know nothing of the
    fold that they are judged by. `MethodComparison.scores` are for the choice, then, and no estimate for new pairs.

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
    _chosen: Alignment

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

    def _choose(self, task: Task) -> AlignmentChoice:
        left_out = self._left_out(task)
        methods = {name: self._made(name) for name in self.methods if name not in left_out}
        if len(methods) == 1:
            self._chosen = methods["ridge"]
            self.comparison_ = MethodComparison(
                chosen="ridge", scores=(), start_score=task.start_score, left_out=left_out
            )
            return self._chosen._choose(task)
        choices, chances, seconds = {}, {}, {}
        for name, method in methods.items():
            began = time.perf_counter()
            choices[name] = method._choose(task)
            chances[name] = task.chances(method._placed_by_folds(task, choices[name])[task.shown])
            seconds[name] = time.perf_counter() - began
        self.comparison_ = _compared(chances, seconds, task, left_out)
        self._chosen = methods[self.comparison_.chosen]
        return choices[self.comparison_.chosen]

    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        return self._chosen._learn(lesson, choice)

    def _cross_fit(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        return self._chosen._cross_fit(task, choice)

    def _made(self, method: str) -> Alignment:
        return make_alignment(method, alpha=self.alpha, blends=self.blends, seed=self.seed)

    def _left_out(self, task: Task) -> dict[str, str]:
        """Methods that cannot be compared, and why."""
        lessons = [rest.pairs.codes for _, rest in task.folds]
        if any(len(codes) < MIN_PAIRS or codes.max() == 0 for codes in lessons):
            return dict.fromkeys(self.methods[1:], "too few pairs or groups to learn from when a fold is left out")
        if not isinstance(task.source, PairStatistics):
            return {}
        reason = "it needs the pairs of the source, and these are statistics"
        return {name: reason for name in self.methods if name in _NEED_PAIRS}


def _compared(
    chances: Mapping[str, Float[np.ndarray, " shown"]],
    seconds: Mapping[str, float],
    task: Task,
    left_out: dict[str, str],
) -> MethodComparison:
    """The methods by how likely each left-out pair is found, ridge among them."""
    groups = task.pairs.codes[task.shown]
    scores = []
    for name, values in chances.items():
        score, error = _mean_and_error(values, groups)
        gain, gain_error = _mean_and_error(values - chances["ridge"], groups)
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
