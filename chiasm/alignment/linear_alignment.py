"""Alignments that, like ridge, need means and covariances alone: orthogonal Procrustes and regularised CCA.

Both learn from `Moments`, of the target or of a mixture with a source, so a source can be given as statistics. This
module knows their closed forms and how they come to be maps into a space whose anchor does not move. The choice of the
blend and the criterion are `chiasm.alignment.alignment`'s. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from chiasm.alignment.alignment import (
    BLENDS,
    Alignment,
    AlignmentChoice,
    Candidate,
    LearnedMap,
    Lesson,
    Moments,
    Task,
    ridge_choice,
)
from chiasm.errors import SpaceError

ANCHOR_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
COMPONENTS = (64, 128, 0)

_NULL = (
    1e-10  # of the largest eigenvalue: below it a direction is one in which features and anchors do not vary together
)


class ProcrustesAlignment(Alignment):
    """The rotation (and scale) that brings centred features nearest to their anchors.

    W = s Q with Q'Q = I that maximises trace(Q' Cov(x, y)): the polar factor of the cross-covariance (Schoenemann 1966,
    Psychometrika 31, equation 1.7). Where features and anchors have as many dimensions, or features fewer, it is also
    the least-squares solution; with more features, Q has orthonormal columns and takes the directions that vary most
    with the anchors. s is the least-squares scale on the target pairs, so that a blend weighs the map by what it is worth
    there; a source only turns the rotation. There is no
    strength to choose: angles and distances of the features are kept, which is all the regularisation.
    """

    method = "procrustes"

    def _choose(self, task: Task) -> AlignmentChoice:
        X = task.pairs.X

        def candidates() -> Iterator[Candidate]:
            for alpha in task.alphas:
                maps = [procrustes(rest.pairs.X, rest.target, rest.other, alpha) for _, rest in task.folds]
                parts = [X[rows] @ weight + bias for (rows, _), (weight, bias) in zip(task.folds, maps, strict=True)]
                yield Candidate(alpha, 0.0, task.assembled(parts))

        return task.choose(self.method, candidates(), self.blends)

    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        return LearnedMap(*procrustes(lesson.pairs.X, lesson.target, lesson.other, choice.alpha), choice.blend)


class CcaAlignment(Alignment):
    """Canonical correlation analysis whose similarities are those of the canonical space, while the anchor stays.

    With ridges on both covariances, the canonical directions are A = (Cov(x) + lambda I)^-1/2 U and
    B = (Cov(y) + mu I)^-1/2 V, from the singular value decomposition U S V' of
    (Cov(x) + lambda I)^-1/2 Cov(x, y) (Cov(y) + mu I)^-1/2 (Hotelling 1936; with ridges Vinod 1976). In the canonical
    space two items are compared by the inner product of A'x and B'y, shrunk by the canonical correlations S (Gong et
    al. 2014, IJCV 106, section 3, weigh by a power of them, too). It is the inner product of y itself with x A S B', so
    that W = s A S B' on k components gives the same ranking of anchors without moving them; s is the least-squares
    scale.
    All components and mu going to infinity make it ridge: CCA takes from ridge's prediction what varies much among all
    anchors, which is why it makes fewer hubs.

    alpha and lambda are those that ridge chooses, exactly, by leaving out every group; mu and k are chosen on folds of
    whole groups.

    Args:
        alpha: weight of the source in [0, 1], or `"auto"` to choose it.
        anchor_strengths: values of mu to choose from, above 0, relative to the mean eigenvalue of the covariance of y.
        components: numbers of components to choose from; 0 is all of them, as is more than there are.
        blends: shares of the learned map to choose from, in [0, 1].

    Raises:
        SpaceError: an option outside of its range.
    """

    method = "cca"

    def __init__(
        self,
        *,
        alpha: float | str = "auto",
        anchor_strengths: Sequence[float] = ANCHOR_STRENGTHS,
        components: Sequence[int] = COMPONENTS,
        blends: Sequence[float] = BLENDS,
    ) -> None:
        super().__init__(alpha=alpha, blends=blends)
        if not anchor_strengths or not all(0 < strength < np.inf for strength in anchor_strengths):
            raise SpaceError(f"anchor_strengths must be one or more numbers above 0; got {anchor_strengths!r}")
        if not components or not all(isinstance(number, int) and number >= 0 for number in components):
            raise SpaceError(f"components must be one or more whole numbers, 0 for all of them; got {components!r}")
        self.anchor_strengths = tuple(float(strength) for strength in anchor_strengths)
        self.components = tuple(components)

    def _choose(self, task: Task) -> AlignmentChoice:
        base = ridge_choice(task)
        dim = task.pairs.Y.shape[1]
        numbers = sorted({number if 0 < number < dim else dim for number in self.components}, reverse=True)
        # The simplest first: near to ridge, on all components.
        strengths = sorted(self.anchor_strengths, reverse=True)
        parts: dict[tuple[float, int], list[Float[np.ndarray, "_fold y"]]] = {
            (strength, number): [] for strength in strengths for number in numbers
        }
        for rows, rest in task.folds:
            regressed = Regressed.of(rest, base.alpha, base.strength)
            turned = task.pairs.X[rows] @ regressed.weight
            for strength in strengths:
                for number, (weight, bias) in zip(numbers, regressed.cca(strength, numbers), strict=True):
                    parts[strength, number].append(turned @ weight + bias)
        candidates = (
            Candidate(
                base.alpha,
                base.strength,
                task.assembled(predicted),
                {"anchor_strength": strength, "components": number},
            )
            for (strength, number), predicted in parts.items()
        )
        return task.choose(self.method, candidates, self.blends)

    def _learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:
        regressed = Regressed.of(lesson, choice.alpha, choice.strength)
        settings = choice.settings
        ((weight, bias),) = regressed.cca(settings["anchor_strength"], [int(settings["components"])])
        return LearnedMap(regressed.weight @ weight, bias, choice.blend)


def procrustes(
    X: Float[np.ndarray, "pairs x"], target: Moments, source: Moments | None, alpha: float
) -> tuple[Float64[np.ndarray, "x y"], Float64[np.ndarray, " y"]]:
    """Weight and bias of the scaled rotation.

    The polar factor C (C'C)^-1/2 of the mixture's cross-covariance C is found from the eigenvectors of the smaller Gram
    matrix. Directions in which features and anchors do not vary together are left out: they would be turned at random.

    Args:
        X: features of the target pairs.
        target: their moments.
        source: those of the source.
        alpha: weight of the source.
    """
    mean_x, mean_y, cross = target.mean_x, target.mean_y, target.xy
    if source is not None and alpha > 0:
        apart = np.outer(mean_x - source.mean_x, mean_y - source.mean_y)
        cross = (1 - alpha) * cross + alpha * source.xy + alpha * (1 - alpha) * apart
        mean_x = (1 - alpha) * mean_x + alpha * source.mean_x
        mean_y = (1 - alpha) * mean_y + alpha * source.mean_y
    if len(cross) < cross.shape[1]:
        turn = _inverse_root(cross @ cross.T, null=_NULL) @ cross
    else:
        turn = cross @ _inverse_root(cross.T @ cross, null=_NULL)
    turned = (X - target.mean_x) @ turn
    spread = float(np.square(turned).sum()) / len(X)
    # A source that turns the target away from its anchors is worth nothing there, not less than nothing.
    scale = max(0.0, float(np.sum(turn * target.xy)) / spread) if spread > 0 else 0.0
    return scale * turn, mean_y - scale * (mean_x @ turn)


@dataclass(frozen=True, eq=False)
class Regressed:
    """Ridge's predictions z of the anchors, in the eigenvectors of the anchors' covariance: all that CCA needs.

    With ridge's weight R = (Cov(x) + lambda I)^-1 Cov(x, y), CCA's A S = R (Cov(y) + mu I)^-1/2 V, and V are the
    eigenvectors of (Cov(y) + mu I)^-1/2 Cov(y, x) R (Cov(y) + mu I)^-1/2 with eigenvalues S^2. So nothing as wide as the
    features has to be decomposed, and in these coordinates Cov(y) + mu I is a diagonal for every mu.

    Attributes:
        weight: z = x @ weight, up to a constant.
        mean: of z.
        mean_y: of the anchors, in their own coordinates.
        basis: from the anchors' coordinates to those of z.
        values: variance of the anchors along each of these.
        covariance: of z.
        explained: covariance of z and the anchors in these coordinates; symmetric.
    """

    weight: Float64[np.ndarray, "x y"]
    mean: Float64[np.ndarray, " y"]
    mean_y: Float64[np.ndarray, " y"]
    basis: Float64[np.ndarray, "y y"]
    values: Float64[np.ndarray, " y"]
    covariance: Float64[np.ndarray, "y y"]
    explained: Float64[np.ndarray, "y y"]

    @classmethod
    def of(cls, lesson: Lesson, alpha: float, strength: float) -> Regressed:
        """From ridge's map of a lesson at these settings."""
        mixture = lesson.target.mixed(lesson.other, alpha)
        values, basis = np.linalg.eigh(mixture.yy)
        weight = lesson.ridge(alpha, strength)[0] @ basis
        explained = weight.T @ mixture.xy @ basis
        explained = (explained + explained.T) / 2
        # (Cov(x) + lambda I) R = Cov(x, y), which saves the product with Cov(x).
        covariance = explained - strength * mixture.scale * (weight.T @ weight)
        return cls(weight, mixture.mean_x @ weight, mixture.mean_y, basis, np.maximum(values, 0), covariance, explained)

    def cca(
        self, anchor_strength: float, components: Sequence[int]
    ) -> Iterator[tuple[Float64[np.ndarray, "y y"], Float64[np.ndarray, " y"]]]:
        """Weight and bias from z to the anchors, for each number of components: those of the largest correlations.

        Args:
            anchor_strength: mu, relative to the mean eigenvalue of Cov(y).
            components: at least 1 each; from the dimension of y on all of them.
        """
        roots = 1 / np.sqrt(self.values + anchor_strength * self.values.mean())
        whitening = np.diag(roots)
        if min(components) < len(roots):
            whitening = roots[:, None] * np.linalg.eigh(roots[:, None] * self.explained * roots)[1]
        for number in components:
            back = whitening[:, -number:]
            spread = float(np.sum((back.T @ self.covariance @ back) * (back.T @ back)))
            scale = float(np.sum((self.explained @ back) * back)) / spread if spread > 0 else 1.0
            weight = scale * back @ (self.basis @ back).T
            yield weight, self.mean_y - self.mean @ weight


def _inverse_root(matrix: Float[np.ndarray, "dim dim"], *, null: float) -> Float64[np.ndarray, "dim dim"]:
    """Inverse square root of a positive matrix; of a singular one, the pseudo-inverse's."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > max(null, 1e-14) * values[-1]
    root: Float64[np.ndarray, "dim dim"] = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    return root
