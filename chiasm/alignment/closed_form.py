"""Alignments in closed form: ridge, kernel ridge, orthogonal Procrustes and regularised CCA.

Ridge minimises

    alpha / n_s * sum_source |W'x + b - y|^2 + (1 - alpha) / n_t * sum_target |W'x + b - y|^2 + lambda * |W|^2

Everything that the source contributes is in its `PairStatistics`. The strength lambda, the source weight alpha and the
blend of the map with the start are chosen together by leave-one-group-out predictions of the target pairs, which are exact
and need no refit (`left_out`). Kernel ridge is ridge in the features of a Gaussian kernel; CCA takes alpha and lambda from
ridge's choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm._optional import require
from chiasm.alignment.alignment import (
    BLENDS,
    Alignment,
    AlignmentChoice,
    Candidate,
    GaussianKernel,
    LearnedMap,
    Lesson,
    Settings,
    Task,
    choose,
)
from chiasm.alignment.pairs import Moments, PairArrays, PairStatistics, Source, mix
from chiasm.errors import SpaceError

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
KERNEL_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
WIDTHS = (1.0, 0.5)
CENTRES = 1000  # kernel values of an item: its place costs as many comparisons, its learning their square
ANCHOR_STRENGTHS = (0.3, 1.0, 3.0, 10.0)
COMPONENTS = (64, 128, 0)
METHODS = ("kernel", "ridge", "procrustes", "cca", "infonce")
"""Every method by name. InfoNCE imports torch."""

_SINGLE_PRECISION = 0.1  # strength from which float32 predicts left-out pairs to 3e-7; below it errors grow
_NULL_KERNEL = 1e-7  # of the largest eigenvalue of the kernel matrix: below it a direction is rounding
_NULL_COVARIANCE = 1e-10  # of the largest eigenvalue: below it features and anchors do not vary together

LinearMap: TypeAlias = tuple[Float64[np.ndarray, "x y"], Float64[np.ndarray, " y"]]
"""Weight and bias."""


def make_alignment(method: str, *, alpha: float | str = "auto", seed: int = 0) -> Alignment:
    """Return an unfitted alignment by name.

    Args:
        method: one of `METHODS`.
        alpha: weight of the source in [0, 1], or `"auto"`.
        seed: of whatever the method draws.

    Raises:
        SpaceError: there is no such method, or alpha is outside of its range.
    """
    if method not in METHODS:
        raise SpaceError(f"there is no alignment method {method!r}. Use {', '.join(METHODS)}")
    if method == "infonce":
        require("torch", "train", "align by infonce")
        from chiasm.alignment.contrastive import InfoNceAlignment

        return InfoNceAlignment(alpha=alpha, seed=seed)
    methods = (KernelAlignment, RidgeAlignment, ProcrustesAlignment, CcaAlignment)
    return next(one for one in methods if one.method == method)(alpha=alpha, seed=seed)


# -------------------------------------------------------------------------------------------------------------- ridge


@dataclass(frozen=True, kw_only=True)
class RidgeAlignment(Alignment):
    """Ridge regression of the anchor vectors; the closed form of the module's objective.

    Attributes:
        strengths: values of lambda to choose from, above 0, relative to the mean eigenvalue of the covariance of x.

    Example:
        >>> X = np.random.default_rng(0).standard_normal((40, 3))
        >>> Y = X[:, [1, 2, 0]] / np.linalg.norm(X, axis=1, keepdims=True)
        >>> fit = RidgeAlignment().fit(PairArrays(X, Y, start=X / np.linalg.norm(X, axis=1, keepdims=True)))
        >>> fit.choice.blend > 0, bool((np.sum(fit.transform(X, X) * Y, axis=1) > 0.9).all())
        (True, True)
    """

    method = "ridge"
    strengths: Sequence[float] = STRENGTHS

    def candidates(self, task: Task) -> Iterator[Candidate]:
        """Yield exact predictions at every alpha and strength."""
        for alpha, strength, predictions in left_out(task.pairs, task.rows, task.source, task.alphas, self.strengths):
            yield Settings(alpha=alpha, strength=strength), predictions

    def learn(self, lesson: Lesson, settings: Settings) -> LearnedMap:
        """Return the map that minimises the objective."""
        return LearnedMap(*ridge_map(lesson, settings), 1.0)

    def predict_left_out(self, task: Task, settings: Settings) -> Float[np.ndarray, "pairs y"]:
        """Return exact leave-one-group-out predictions."""
        return ridge_left_out(task, settings)


def ridge_choice(task: Task) -> AlignmentChoice:
    """Return alpha, strength and blend of ridge, on which CCA and InfoNCE build."""
    return choose("ridge", task, RidgeAlignment().candidates(task), BLENDS)


def ridge_map(lesson: Lesson, settings: Settings) -> LinearMap:
    """Return weight and bias that minimise the objective at lambda = strength * scale."""

    def compute() -> LinearMap:
        return ridge_of(mix(lesson.pairs, lesson.source, settings.alpha), settings.strength)

    return lesson.once(("ridge map", settings.alpha, settings.strength), compute)


def ridge_of(moments: Moments, strength: float) -> LinearMap:
    """Return weight and bias of ridge regression from means and covariances alone, at lambda = strength * scale."""
    weight = np.linalg.solve(moments.penalise(strength), moments.xy)
    return weight, moments.mean_y - moments.mean_x @ weight


def ridge_left_out(lesson: Lesson, settings: Settings) -> Float[np.ndarray, "pairs y"]:
    """Return ridge's prediction of every pair without its group."""

    def compute() -> Float[np.ndarray, "pairs y"]:
        every = np.arange(lesson.pairs.count)
        at = (settings.alpha,), (settings.strength,)
        ((_, _, predictions),) = left_out(lesson.pairs, every, lesson.source, *at)
        return predictions

    return lesson.once(("ridge left out", settings.alpha, settings.strength), compute)


# ------------------------------------------------------------------------------------------------------- kernel ridge


@dataclass(frozen=True, kw_only=True)
class KernelAlignment(Alignment):
    """Ridge regression in the features of a Gaussian kernel, so that the map may bend.

    The features are values of the kernel between an item and centres (items of the target, then of the source), turned so
    that their inner product is the kernel itself on the centres, and its best approximation elsewhere (Nystroem's method:
    Williams & Seeger 2001, NIPS 13). With all items as centres it is kernel ridge regression (Saunders, Gammerman & Vovk
    1998, ICML).

    Attributes:
        widths: of the kernel, to choose from, above 0: the squared distance at which it has fallen to 1/e, in units of
            the mean squared distance of two target items.
        strengths: values of lambda to choose from, above 0, relative to the mean eigenvalue of the features' covariance.
        centres: how many items the kernel compares with, at most. Those of the target come first, whatever their
            anchors; more than fit are drawn.
    """

    method = "kernel"
    widths: Sequence[float] = WIDTHS
    strengths: Sequence[float] = KERNEL_STRENGTHS
    centres: int = CENTRES

    def candidates(self, task: Task) -> Iterator[Candidate]:
        """Yield exact predictions at every width, alpha and strength."""
        for width in self.widths:
            bent = self._bend(task, width).lesson
            for alpha, strength, predictions in left_out(
                bent.pairs, task.rows, bent.source, task.alphas, self.strengths
            ):
                yield Settings(alpha=alpha, strength=strength, extra={"width": width}), predictions

    def learn(self, lesson: Lesson, settings: Settings) -> LearnedMap:
        """Return ridge's map of the kernel features."""
        bent = self._bend(lesson, settings.extra["width"])
        weight, bias = ridge_map(bent.lesson, settings)
        return LearnedMap(bent.root @ weight, bias, 1.0, bent.kernel)

    def predict_left_out(self, task: Task, settings: Settings) -> Float[np.ndarray, "pairs y"]:
        """Return exact leave-one-group-out predictions; the centres are items without their anchors."""
        return ridge_left_out(self._bend(task, settings.extra["width"]).lesson, settings)

    def _bend(self, lesson: Lesson, width: float) -> _Bent:
        return lesson.once(("kernel", width), lambda: _bent(lesson, width, self.centres, self.seed))


@dataclass(frozen=True, eq=False)
class _Bent:
    """Return a lesson in kernel features: kernel values times the root of the inverse Gram matrix."""

    kernel: GaussianKernel
    root: Float64[np.ndarray, "centres features"]
    lesson: Lesson


def _bent(lesson: Lesson, width: float, centres: int, seed: int) -> _Bent:
    pairs, source = lesson.pairs, lesson.source
    if isinstance(source, PairStatistics):
        raise SpaceError(
            "kernel alignment compares with single items, and the source is given as statistics of pairs. Give the "
            "source as a collection, or use ridge, procrustes or cca"
        )
    rng = np.random.default_rng(seed)
    items = [_draw(pairs.X, centres, rng)]
    if source is not None:
        items.append(_draw(source.X, centres - len(items[0]), rng))
    # The mean squared distance of two items is twice the trace of their covariance.
    apart = 2 * pairs.scale * pairs.X.shape[1]
    kernel = GaussianKernel(np.concatenate(items).astype(np.float32), width * apart)
    values, vectors = np.linalg.eigh(kernel(kernel.centres).astype(np.float64))
    positive = values > _NULL_KERNEL * values[-1]
    root = vectors[:, positive] / np.sqrt(values[positive])

    def bend(part: PairArrays) -> PairArrays:
        return PairArrays(kernel.multiply(part.X, root), part.Y, part.start, part.groups)

    return _Bent(kernel, root, Lesson(bend(pairs), None if source is None else bend(source)))


def _draw(X: Float[np.ndarray, "pairs x"], most: int, rng: np.random.Generator) -> Float[np.ndarray, "_some x"]:
    """Return distinct rows in their order; so many at most, drawn where there are more."""
    distinct = np.sort(np.unique(X, axis=0, return_index=True)[1])
    if len(distinct) > most:
        distinct = np.sort(rng.permutation(distinct)[:most])
    return X[distinct]


# --------------------------------------------------------------------------------------------------------- procrustes


@dataclass(frozen=True, kw_only=True)
class ProcrustesAlignment(Alignment):
    """Fit the rotation (and scale) that brings centred features nearest to their anchors.

    W = s Q with Q'Q = I that maximises trace(Q' Cov(x, y)): the polar factor of the cross-covariance (Schoenemann 1966,
    Psychometrika 31, equation 1.7). With more features than dimensions, Q has orthonormal columns and takes the directions
    that vary most with the anchors; otherwise it is also the least-squares solution. s is the least-squares scale on the
    target pairs, so that a blend weighs the map by its worth there; a source only turns the rotation. Angles and distances
    of the features are preserved, which is all the regularisation.
    """

    method = "procrustes"

    def candidates(self, task: Task) -> Iterator[Candidate]:
        """Yield predictions by folds at every alpha."""
        for alpha in task.alphas:
            settings = Settings(alpha=alpha)
            yield settings, self.predict_left_out(task, settings)[task.rows]

    def learn(self, lesson: Lesson, settings: Settings) -> LearnedMap:
        """Return the scaled rotation."""
        return LearnedMap(*procrustes(lesson, settings.alpha), 1.0)


def procrustes(lesson: Lesson, alpha: float) -> LinearMap:
    """Return weight and bias of the scaled rotation.

    The polar factor C (C'C)^-1/2 of the mixture's cross-covariance C comes from the eigenvectors of the smaller Gram
    matrix. Directions in which features and anchors do not vary together are left out: they would be turned at random.
    """
    target = lesson.pairs.moments
    mean_x, mean_y, cross = target.mean_x, target.mean_y, target.xy
    if lesson.source is not None and alpha > 0:  # as `mix`, without the covariance of x, which is large
        other = lesson.source.moments
        apart = np.outer(mean_x - other.mean_x, mean_y - other.mean_y)
        cross = (1 - alpha) * cross + alpha * other.xy + alpha * (1 - alpha) * apart
        mean_x = (1 - alpha) * mean_x + alpha * other.mean_x
        mean_y = (1 - alpha) * mean_y + alpha * other.mean_y
    if len(cross) < cross.shape[1]:
        turn = _inverse_root(cross @ cross.T) @ cross
    else:
        turn = cross @ _inverse_root(cross.T @ cross)
    spread = float(np.square((lesson.pairs.X - target.mean_x) @ turn).sum()) / lesson.pairs.count
    # A source that turns the target away from its anchors is worth nothing there, not less than nothing.
    scale = max(0.0, float(np.sum(turn * target.xy)) / spread) if spread > 0 else 0.0
    return scale * turn, mean_y - scale * (mean_x @ turn)


def _inverse_root(matrix: Float64[np.ndarray, "dim dim"]) -> Float64[np.ndarray, "dim dim"]:
    """Return the inverse square root of a positive matrix; of a singular one, the pseudo-inverse's."""
    values, vectors = np.linalg.eigh(matrix)
    positive = values > _NULL_COVARIANCE * values[-1]
    root: Float64[np.ndarray, "dim dim"] = (vectors[:, positive] / np.sqrt(values[positive])) @ vectors[:, positive].T
    return root


# ---------------------------------------------------------------------------------------------------------------- CCA


@dataclass(frozen=True, kw_only=True)
class CcaAlignment(Alignment):
    """Canonical correlation analysis whose similarities are those of the canonical space, while the anchor stays.

    With ridges on both covariances, the canonical directions are A = (Cov(x) + lambda I)^-1/2 U and
    B = (Cov(y) + mu I)^-1/2 V, from the singular value decomposition U S V' of
    (Cov(x) + lambda I)^-1/2 Cov(x, y) (Cov(y) + mu I)^-1/2 (Hotelling 1936; with ridges Vinod 1976). In the canonical
    space two items are compared by the inner product of A'x and B'y, shrunk by the canonical correlations S (Gong et
    al. 2014, IJCV 106, section 3, weigh by a power of them, too). It is the inner product of y itself with x A S B', so
    that W = s A S B' on k components gives the same ranking of anchors without moving them; s is the least-squares
    scale. All components and mu going to infinity make it ridge: CCA takes from ridge's prediction what varies much among
    all anchors, which is why it makes fewer hubs.

    alpha and lambda are those that ridge chooses; mu and k are chosen on folds of whole groups.

    Attributes:
        anchor_strengths: values of mu to choose from, above 0, relative to the mean eigenvalue of the covariance of y.
        components: numbers of components to choose from; 0 is all of them, as is more than there are.
    """

    method = "cca"
    anchor_strengths: Sequence[float] = ANCHOR_STRENGTHS
    components: Sequence[int] = COMPONENTS

    def candidates(self, task: Task) -> Iterator[Candidate]:
        """Yield predictions by folds, the simplest first: near to ridge, on all components."""
        base, dim = ridge_choice(task), task.pairs.shape[1]
        numbers = sorted({number if 0 < number < dim else dim for number in self.components}, reverse=True)
        for anchor_strength in sorted(self.anchor_strengths, reverse=True):
            for number in numbers:
                extra = {"anchor_strength": anchor_strength, "components": number}
                settings = Settings(alpha=base.alpha, strength=base.strength, extra=extra)
                yield settings, self.predict_left_out(task, settings)[task.rows]

    def learn(self, lesson: Lesson, settings: Settings) -> LearnedMap:
        """Return x A S B' of the largest correlations, scaled by least squares.

        With ridge's weight R = (Cov(x) + lambda I)^-1 Cov(x, y), A S = R (Cov(y) + mu I)^-1/2 V, and V are the eigenvectors
        of (Cov(y) + mu I)^-1/2 Cov(y, x) R (Cov(y) + mu I)^-1/2 with eigenvalues S^2. So nothing as wide as the features
        has to be decomposed.
        """
        alpha = settings.alpha
        mixture = lesson.once(("mixture", alpha), lambda: mix(lesson.pairs, lesson.source, alpha))
        weight = ridge_map(lesson, settings)[0]
        explained = lesson.once(("explained", alpha, settings.strength), lambda: weight.T @ mixture.xy)
        explained = (explained + explained.T) / 2
        mu = settings.extra["anchor_strength"]
        directions = lesson.once(
            ("directions", alpha, settings.strength, mu), lambda: _canonical(mixture.yy, explained, mu)
        )
        back = directions[:, -int(settings.extra["components"]) :]
        turn = back @ back.T
        # The covariance of ridge's predictions: (Cov(x) + lambda I) R = Cov(x, y) saves the product with Cov(x).
        covariance = explained - settings.strength * mixture.scale * (weight.T @ weight)
        spread = float(np.sum((turn @ covariance) * turn.T))
        turn *= float(np.sum(explained * turn)) / spread if spread > 0 else 1.0
        return LearnedMap(weight @ turn, mixture.mean_y - mixture.mean_x @ weight @ turn, 1.0)


def _canonical(
    yy: Float64[np.ndarray, "y y"], explained: Float64[np.ndarray, "y y"], anchor_strength: float
) -> Float64[np.ndarray, "y y"]:
    """Return (Cov(y) + mu I)^-1/2 V, the directions of the largest correlations last."""
    values, basis = np.linalg.eigh(yy)
    values = np.maximum(values, 0)
    whitening = basis / np.sqrt(values + anchor_strength * values.mean()) @ basis.T
    directions: Float64[np.ndarray, "y y"] = whitening @ np.linalg.eigh(whitening @ explained @ whitening)[1]
    return directions


# ------------------------------------------------------------------------------------------------ left-out predictions

_Prediction: TypeAlias = tuple[float, float, Float[np.ndarray, "_rows y"]]
"""Alpha, strength, and a row a pair."""

_Residuals: TypeAlias = Iterator[
    tuple[float, float, list[Float[np.ndarray, "_groups _size _size"]], Float[np.ndarray, "_rows y"]]
]
"""Alpha, strength, the blocks M_vv (stacked as the groups are) and the residuals e."""


def left_out(
    pairs: PairArrays,
    rows: Int[np.ndarray, " rows"],
    source: Source | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> Iterator[_Prediction]:
    """Yield ridge's predictions of some pairs by fits without their groups, for every alpha and strength.

    Let Phi be the features with an intercept, w the weight of a target pair, A the normal equations of the whole fit
    with their penalty, e its residuals and M = I - w Phi A^-1 Phi'. Without the pairs v of a group, these are predicted
    as  y_v - M_vv^-1 e_v  (Cook & Weisberg 1982, ch. 2; for ridge Golub, Heath & Wahba 1979). M and e are computed on the
    smaller side, features or pairs; for several strengths in a basis of eigenvectors, where each costs a few products.
    """
    side = _from_pairs_side if pairs.count < pairs.shape[0] else _from_features_side
    # A group is left out whole, also where only a part of it is asked for.
    whole = np.flatnonzero(np.isin(pairs.codes, pairs.codes[rows]))
    stacks = _stacks(pairs.codes[whole])
    where = np.searchsorted(whole, rows)
    predictions = np.empty((len(whole), pairs.shape[1]), pairs.Y.dtype)
    for alpha, strength, blocks, residual in side(pairs, whole, stacks, source, alphas, strengths):
        for members, block in zip(stacks, blocks, strict=True):
            # A group of one pair, the common case, needs no solver.
            left = residual[members] / block if block.shape[1] == 1 else np.linalg.solve(block, residual[members])
            predictions[members] = pairs.Y[whole[members]] - left
        yield alpha, strength, predictions[where]


def _from_features_side(
    pairs: PairArrays,
    rows: Int[np.ndarray, " rows"],
    stacks: Sequence[Int[np.ndarray, "_groups _size"]],
    source: Source | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> _Residuals:
    """At least as many pairs as features: A itself; in the eigenvectors of the mixture's covariance if they pay."""
    X, Y = pairs.X, pairs.Y
    for alpha in alphas:
        weight = (1 - alpha) / len(X)
        mixture = mix(pairs, source, alpha)
        turned, cross = X[rows] - mixture.mean_x, mixture.xy
        if len(strengths) > 1:
            values, basis, cross = mixture.spectrum
            turned = turned @ basis
        for strength in strengths:
            if len(strengths) > 1:
                scaled = turned / (values + strength * mixture.scale)
            else:
                scaled = np.linalg.solve(mixture.penalise(strength), turned.T).T
            blocks = [np.eye(v.shape[1]) - weight * (1 + turned[v] @ scaled[v].swapaxes(1, 2)) for v in stacks]
            yield alpha, strength, blocks, Y[rows] - mixture.mean_y - scaled @ cross


def _from_pairs_side(
    pairs: PairArrays,
    rows: Int[np.ndarray, " rows"],
    stacks: Sequence[Int[np.ndarray, "_groups _size"]],
    source: Source | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> _Residuals:
    """Fewer pairs than features: M = (I + w K)^-1 and e = M (y - f), as in regression by a Gaussian process.

    The source is the prior (Rasmussen & Williams 2006, sec. 2.7): f is what it predicts by itself under the same
    penalty, K the kernel of the features' covariance that it leaves open. The eigenvectors of its covariance serve all
    alphas. The intercept has a prior of precision alpha, flat at 0; it enters as an update of rank one.
    """
    X, Y = pairs.X, pairs.Y
    informed = None if source is None or max(alphas) == 0 else _Prior.of(X, source)
    for alpha in alphas:
        weight = (1 - alpha) / len(X)
        if informed is None or alpha == 0:
            prior, scale = _Prior.flat(pairs), pairs.scale
        else:
            apart = float(np.mean((pairs.mean_x - informed.mean_x) ** 2))
            prior, scale = informed, (1 - alpha) * pairs.scale + alpha * informed.scale + alpha * (1 - alpha) * apart
        for strength in strengths:
            # The condition of I + w K grows with features / strength.
            kind: Any = np.float32 if strength >= _SINGLE_PRECISION else np.float64
            kernel, mean = prior.at(alpha, strength * scale, kind)
            M = _inverse(np.eye(len(X), dtype=kind) + kind(weight) * kernel)
            ones = M.sum(axis=1)
            M -= kind(weight / (alpha + weight * float(ones.sum()))) * np.outer(ones, ones)
            blocks = [M[rows[v][:, :, None], rows[v][:, None, :]] for v in stacks]
            yield alpha, strength, blocks, M[rows] @ (Y - mean)


@dataclass(frozen=True, eq=False)
class _Prior:
    """A source as the prior of target rows, in the eigenvectors of its covariance.

    Attributes:
        mean_x: of the source's features.
        mean_y: of its anchors.
        scale: mean eigenvalue of its covariance.
        values: its eigenvalues, but for those that are 0 where the source has fewer pairs than features.
        cross: covariance of features and anchors in the basis of the eigenvectors.
        turned: the target rows, centred by the source, in that basis.
        rest: inner products of what the basis leaves of the rows; None: nothing.
    """

    mean_x: Float64[np.ndarray, " x"]
    mean_y: Float64[np.ndarray, " y"]
    scale: float
    values: Float64[np.ndarray, " rank"]
    cross: Float64[np.ndarray, "rank y"]
    turned: Float64[np.ndarray, "rows rank"]
    rest: Float64[np.ndarray, "rows rows"] | None

    @classmethod
    def of(cls, X: Float[np.ndarray, "rows x"], source: Source) -> _Prior:
        known = source if isinstance(source, PairArrays) else source.moments
        values, basis, cross = known.spectrum
        centred = X - known.mean_x
        turned = centred @ basis
        rest = None if len(values) == X.shape[1] else centred @ centred.T - turned @ turned.T
        return cls(known.mean_x, known.mean_y, known.scale, values, cross, turned, rest)

    @classmethod
    def flat(cls, pairs: PairArrays) -> _Prior:
        """Return the prior without a source: nothing is known but the mean of the anchors."""
        centred = pairs.X - pairs.mean_x
        turned, cross = np.zeros((pairs.count, 0)), np.zeros((0, pairs.shape[1]))
        return cls(pairs.mean_x, pairs.mean_y, 0.0, np.zeros(0), cross, turned, centred @ centred.T)

    def at(
        self, alpha: float, penalty: float, kind: Any
    ) -> tuple[Float[np.ndarray, "rows rows"], Float[np.ndarray, "..."]]:
        """Return the kernel and the mean of the prior at a source weight and a penalty."""
        root = np.sqrt(alpha * self.values + penalty)
        half = (self.turned / root).astype(kind)
        kernel = half @ half.T
        if self.rest is not None:
            kernel += (self.rest / penalty).astype(kind)
        return kernel, half @ (alpha * self.cross / root[:, None]).astype(kind) + self.mean_y.astype(kind)


def _inverse(matrix: Float[np.ndarray, "dim dim"]) -> Float[np.ndarray, "dim dim"]:
    """Return the inverse of a positive matrix from its Cholesky factor: a third of the work of `numpy.linalg.inv`."""
    from scipy.linalg import cholesky
    from scipy.linalg.lapack import dpotri, spotri

    invert = spotri if matrix.dtype == np.float32 else dpotri
    lower = invert(cholesky(matrix, lower=True, check_finite=False), lower=True, overwrite_c=True)[0]
    inverse: Float[np.ndarray, "dim dim"] = np.tril(lower) + np.tril(lower, -1).T
    return inverse


def _stacks(groups: Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, "_groups _size"]]:
    """Return the rows of each group, those of one size stacked, so that they are solved together."""
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    sizes = np.diff(first, append=len(order))
    return [order[first[sizes == size][:, None] + np.arange(size)] for size in np.unique(sizes)]
