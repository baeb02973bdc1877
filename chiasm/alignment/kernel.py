"""Kernel alignment: ridge on the nearness of an item to known ones, so that the map may bend.

Ridge draws one straight map through all pairs. Here the features are values of a Gaussian kernel between an item and
centres (items of the target, then of the source), turned so that their inner product is the kernel itself on the centres,
and its best approximation elsewhere (Nystroem's method: Williams & Seeger 2001, NIPS 13). On them `alignment`'s ridge does
everything: source weights, exact leave-one-group-out predictions, the choice of alpha, strength and blend. With all items
as centres it is kernel ridge regression (Saunders, Gammerman & Vovk 1998, ICML). Plain numpy, since a search in the command
line applies such maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from chiasm.alignment.alignment import (
    BLENDS,
    Alignment,
    AlignmentChoice,
    Candidate,
    GaussianKernel,
    LearnedMap,
    Lesson,
    Moments,
    PairArrays,
    PairStatistics,
    Source,
    Task,
    blended,
    left_out,
)
from chiasm.errors import SpaceError

WIDTHS = (1.0, 0.5)
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
CENTRES = 1000  # kernel values of an item: its place costs as many comparisons, its learning their square

_NULL = 1e-7  # of the largest eigenvalue of the kernel matrix: below it a direction is rounding


@dataclass(frozen=True, eq=False)
class _Bent:
    """A lesson in kernel features: values of the kernel, times the root."""

    kernel: GaussianKernel
    root: Float[np.ndarray, "centres features"]
    lesson: Lesson


class KernelAlignment(Alignment):
    """Ridge regression in the features of a Gaussian kernel.

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        widths: of the kernel, to choose from, above 0: the squared distance at which it has fallen to 1/e, in units of the
            mean squared distance of two target items.
        strengths: values of lambda to choose from, above 0, relative to the mean eigenvalue of the features' covariance.
        blends: shares of the learned map to choose from, in [0, 1].
        centres: how many items the kernel compares with, at most. Those of the target come first, and none that is chosen
            by its anchor; more than fit are drawn.
        seed: of the draw.

    Raises:
        SpaceError: an option outside of its range.
    """

    method = "kernel"

    def __init__(
        self,
        *,
        alpha: float | str = "auto",
        widths: Sequence[float] = WIDTHS,
        strengths: Sequence[float] = STRENGTHS,
        blends: Sequence[float] = BLENDS,
        centres: int = CENTRES,
        seed: int = 0,
    ) -> None:
        super().__init__(alpha=alpha, blends=blends)
        for name, values in (("widths", widths), ("strengths", strengths)):
            if not values or not all(0 < value < np.inf for value in values):
                raise SpaceError(f"{name} must be one or more numbers above 0; got {values!r}")
        if centres < 2:
            raise SpaceError(f"centres must be at least 2; got {centres}")
        self.widths = tuple(float(width) for width in widths)
        self.strengths = tuple(float(strength) for strength in strengths)
        self.centres, self.seed = centres, seed

    def _choose(self, task: Task) -> AlignmentChoice:
        pairs = task.pairs

        def candidates() -> Iterator[Candidate]:
            for width in self.widths:
                bent = self._bent(task, width).lesson
                for alpha, strength, predicted in left_out(
                    bent.pairs.X,
                    pairs.Y,
                    pairs.codes,
                    task.shown,
                    bent.target,
                    bent.other,
                    task.alphas,
                    self.strengths,
                ):
                    yield Candidate(alpha, strength, predicted, {"width": width})

        return task.choose(self.method, candidates(), self.blends)

    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        bent = self._bent(lesson, choice.settings["width"])
        weight, bias = bent.lesson.ridge(choice.alpha, choice.strength)
        return LearnedMap(bent.root @ weight, bias, choice.blend, bent.kernel)

    def _cross_fit(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        """Without a fold: exact leave-one-group-out predictions. The centres are items without their anchors."""
        bent = self._bent(task, choice.settings["width"])
        predicted = bent.lesson.left_out(choice.alpha, choice.strength)
        return blended(task.pairs.start, predicted, choice.blend)

    def _bent(self, lesson: Lesson, width: float) -> _Bent:
        """The same lesson in the features of a kernel."""
        return lesson.once(("kernel", width, self.centres, self.seed), lambda: self._make(lesson, width))

    def _make(self, lesson: Lesson, width: float) -> _Bent:
        pairs, source = lesson.pairs, lesson.source
        if isinstance(source, PairStatistics):
            raise SpaceError(
                "kernel alignment compares with single items, and the source is given as statistics of pairs. Give the "
                "source as a collection, or use ridge, procrustes or cca"
            )
        rng = np.random.default_rng(self.seed)
        chosen = [_some(pairs.X, self.centres, rng)]
        if source is not None:
            chosen.append(_some(source.X, self.centres - len(chosen[0]), rng))
        # The mean squared distance of two items is twice the trace of their covariance.
        apart = 2 * lesson.target.scale * pairs.X.shape[1]
        kernel = GaussianKernel(np.concatenate(chosen).astype(np.float32), width * apart)
        values, vectors = np.linalg.eigh(kernel(kernel.centres).astype(np.float64))
        kept = values > _NULL * values[-1]
        root = vectors[:, kept] / np.sqrt(values[kept])

        def bend(given: PairArrays) -> PairArrays:
            return PairArrays(kernel.times(root, given.X), given.Y, given.start, given.groups)

        bent_pairs = bend(pairs)
        bent_source: Source | None = None if source is None else bend(source)
        other: Moments | None = bent_source.statistics.moments if isinstance(bent_source, PairArrays) else None
        return _Bent(kernel, root, Lesson(bent_pairs, bent_pairs.statistics.moments, bent_source, other))


def _some(X: Float[np.ndarray, "pairs x"], most: int, rng: np.random.Generator) -> Float[np.ndarray, "_some x"]:
    """Different rows, in the order in which they come; so many at most, drawn where there are more."""
    distinct = np.sort(np.unique(X, axis=0, return_index=True)[1])
    if len(distinct) > most:
        distinct = np.sort(rng.permutation(distinct)[:most])
    return X[distinct]
