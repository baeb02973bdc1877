"""Alignments that, like ridge, need means and covariances alone: orthogonal Procrustes and regularised CCA.

Both learn from `Moments`, of the target or of a mixture with a source, so a source can be given as statistics. This
module knows their closed forms and how they come to be maps into a space whose anchor does not move. The choice of the
blend and the criterion are `chiasm.transfer.alignment`'s. Plain numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from jaxtyping import Float, Float64

from chiasm.errors import SpaceError
from chiasm.transfer.alignment import BLENDS, Alignment, Candidate, Learned, Moments, Task, ridge_choice

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

    def _learn(self, task: Task) -> Learned:
        X = task.pairs.X

        def candidates() -> Iterator[Candidate]:
            for alpha in task.alphas:
                parts = []
                for rows, others in task.folds:
                    weight, bias = procrustes(np.delete(X, rows, axis=0), others, task.other, alpha)
                    parts.append(X[rows] @ weight + bias)
                yield Candidate(alpha, 0.0, task.assembled(parts))

        choice = task.choose(self.method, candidates(), self.blends)
        return Learned(*procrustes(X, task.target, task.other, choice.alpha), choice)


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

    def _learn(self, task: Task) -> Learned:
        base = ridge_choice(task)
        dim = task.pairs.Y.shape[1]
        numbers = sorted({number if 0 < number < dim else dim for number in self.components}, reverse=True)
        # The simplest first: near to ridge, on all components.
        grid = list(product(sorted(self.anchor_strengths, reverse=True), numbers))
        parts: dict[tuple[float, int], list[Float[np.ndarray, "_fold y"]]] = {setting: [] for setting in grid}
        for rows, others in task.folds:
            ridge, moments = _after_ridge(others.mixed(task.other, base.alpha), base.strength)
            regressed = task.pairs.X[rows] @ ridge
            for strength, number in grid:
                weight, bias = cca_after_ridge(moments, strength, number)
                parts[strength, number].append(regressed @ weight + bias)
        candidates = (
            Candidate(
                base.alpha,
                base.strength,
                task.assembled(parts[strength, number]),
                {"anchor_strength": strength, "components": number},
            )
            for strength, number in grid
        )
        choice = task.choose(self.method, candidates, self.blends)
        ridge, moments = _after_ridge(task.target.mixed(task.other, base.alpha), base.strength)
        weight, bias = cca_after_ridge(moments, choice.settings["anchor_strength"], int(choice.settings["components"]))
        return Learned(ridge @ weight, bias, choice)


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


def _after_ridge(moments: Moments, strength: float) -> tuple[Float64[np.ndarray, "x y"], Moments]:
    """The weight R of ridge, and the moments of the features x R and their anchors."""
    ridge = moments.ridge(strength)[0]
    return ridge, Moments(
        moments.mean_x @ ridge, moments.mean_y, ridge.T @ (moments.xx @ ridge), ridge.T @ moments.xy, moments.yy
    )


def cca_after_ridge(
    moments: Moments, anchor_strength: float, components: int
) -> tuple[Float64[np.ndarray, "y y"], Float64[np.ndarray, " y"]]:
    """What follows ridge's weight R to make it CCA's, and the intercept.

    With R = (Cov(x) + lambda I)^-1 Cov(x, y), A S = R (Cov(y) + mu I)^-1/2 V, and V are the eigenvectors of
    (Cov(y) + mu I)^-1/2 Cov(y, x) R (Cov(y) + mu I)^-1/2 with eigenvalues S^2: nothing as wide as the features has to
    be decomposed.

    Args:
        moments: of the features x R and their anchors.
        anchor_strength: mu, relative to the mean eigenvalue of Cov(y).
        components: how many, those of the largest correlations.
    """
    mean = float(np.trace(moments.yy)) / len(moments.yy)
    whitening = _inverse_root(moments.yy + anchor_strength * mean * np.eye(len(moments.yy)), null=0.0)
    if components < len(moments.yy):
        explained = whitening @ moments.xy @ whitening
        back = whitening @ np.linalg.eigh((explained + explained.T) / 2)[1][:, -components:]
    else:
        back = whitening
    weight = back @ back.T
    spread = float(np.sum((moments.xx @ weight) * weight))
    if spread > 0:
        weight *= float(np.sum(weight * moments.xy)) / spread
    return weight, moments.mean_y - moments.mean_x @ weight


def _inverse_root(matrix: Float[np.ndarray, "dim dim"], *, null: float) -> Float64[np.ndarray, "dim dim"]:
    """Inverse square root of a positive matrix; of a singular one, the pseudo-inverse's."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > max(null, 1e-14) * values[-1]
    root: Float64[np.ndarray, "dim dim"] = (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T
    return root
