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

from chiasm.alignment.alignment import (
    BLENDS,
    Alignment,
    AlignmentChoice,
    Candidate,
    GaussianKernel,
    LearnedMap,
    Lesson,
    Task,
    choose,
)
from chiasm.alignment.pairs import PairArrays, PairStatistics, Source
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


def make_alignment(
    method: str, *, alpha: float | str = "auto", blends: Sequence[float] = BLENDS, seed: int = 0
) -> Alignment:
    """Return an unfitted alignment by name.

    Args:
        method: one of `METHODS`.
        alpha: weight of the source in [0, 1], or `"auto"`.
        blends: shares of the learned map to choose from.
        seed: of what is drawn at random.

    Raises:
        SpaceError: there is no such method, or an option outside of its range.
    """
    match method:
        case "kernel":
            return KernelAlignment(alpha=alpha, blends=blends, seed=seed)
        case "ridge":
            return RidgeAlignment(alpha=alpha, blends=blends)
        case "procrustes":
            return ProcrustesAlignment(alpha=alpha, blends=blends)
        case "cca":
            return CcaAlignment(alpha=alpha, blends=blends)
        case "infonce":
            from chiasm.alignment.contrastive import InfoNceAlignment

            return InfoNceAlignment(alpha=alpha, blends=blends, seed=seed)
    raise SpaceError(f"there is no alignment method {method!r}. Use {', '.join(METHODS)}")


# -------------------------------------------------------------------------------------------------------------- ridge


@dataclass(frozen=True, kw_only=True)
class RidgeAlignment(Alignment):
    """Ridge regression of the anchor vectors; the closed form of the module's objective.

    Attributes:
        strengths: values of lambda to choose from, above 0, relative to the mean eigenvalue of the covariance of x.

    Raises:
        SpaceError: an option outside of its range.

    Example:
        >>> X = np.random.default_rng(0).standard_normal((40, 3))
        >>> Y = X[:, [1, 2, 0]] / np.linalg.norm(X, axis=1, keepdims=True)
        >>> fit = RidgeAlignment().fit(PairArrays(X, Y, start=X / np.linalg.norm(X, axis=1, keepdims=True)))
        >>> fit.choice.blend > 0, bool((np.sum(fit.transform(X, X) * Y, axis=1) > 0.9).all())
        (True, True)
    """

    method = "ridge"
    strengths: Sequence[float] = STRENGTHS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(strengths=self.strengths)

    def choose(self, task: Task) -> AlignmentChoice:  # noqa: D102  as in the contract
        return ridge_choice(task, self.strengths, self.blends)

    def learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:  # noqa: D102
        return LearnedMap(*ridge_map(lesson, choice.alpha, choice.strength), choice.blend)

    def predict_left_out(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        """Exact leave-one-group-out predictions."""
        return ridge_left_out(task, choice.alpha, choice.strength)


def ridge_choice(
    task: Task, strengths: Sequence[float] = STRENGTHS, blends: Sequence[float] = BLENDS
) -> AlignmentChoice:
    """Return alpha, strength and blend of ridge by exact leave-one-group-out predictions; other methods build on it."""

    def compute() -> AlignmentChoice:
        predictions = left_out(task.pairs, task.shown, task.source, task.alphas, strengths)
        return choose("ridge", task, (Candidate(*one) for one in predictions), blends)

    return task.once(("ridge choice", tuple(strengths), tuple(blends)), compute)


def ridge_map(lesson: Lesson, alpha: float, strength: float) -> LinearMap:
    """Return the map that minimises the objective at lambda = strength * scale."""

    def compute() -> LinearMap:
        mixture = lesson.target.mix(lesson.other, alpha)
        weight = np.linalg.solve(mixture.penalise(strength), mixture.xy)
        return weight, mixture.mean_y - mixture.mean_x @ weight

    return lesson.once(("ridge map", alpha, strength), compute)


def ridge_left_out(lesson: Lesson, alpha: float, strength: float) -> Float[np.ndarray, "pairs y"]:
    """Return ridge's prediction of every pair without its group."""

    def compute() -> Float[np.ndarray, "pairs y"]:
        every = np.arange(len(lesson.pairs.X))
        ((_, _, predicted),) = left_out(lesson.pairs, every, lesson.source, (alpha,), (strength,))
        return predicted

    return lesson.once(("ridge left out", alpha, strength), compute)


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
        seed: of the draw.

    Raises:
        SpaceError: an option outside of its range.
    """

    method = "kernel"
    widths: Sequence[float] = WIDTHS
    strengths: Sequence[float] = KERNEL_STRENGTHS
    centres: int = CENTRES
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(widths=self.widths, strengths=self.strengths)
        if self.centres < 2:
            raise SpaceError(f"centres must be at least 2; got {self.centres}")

    def choose(self, task: Task) -> AlignmentChoice:  # noqa: D102  as in the contract
        def candidates() -> Iterator[Candidate]:
            for width in self.widths:
                bent = self._bend(task, width).lesson
                predictions = left_out(bent.pairs, task.shown, bent.source, task.alphas, self.strengths)
                yield from (Candidate(*one, {"width": width}) for one in predictions)

        return choose(self.method, task, candidates(), self.blends)

    def learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:  # noqa: D102
        bent = self._bend(lesson, choice.settings["width"])
        weight, bias = ridge_map(bent.lesson, choice.alpha, choice.strength)
        return LearnedMap(bent.root @ weight, bias, choice.blend, bent.kernel)

    def predict_left_out(self, task: Task, choice: AlignmentChoice) -> Float[np.ndarray, "pairs y"]:
        """Exact leave-one-group-out predictions. The centres are items without their anchors."""
        return ridge_left_out(self._bend(task, choice.settings["width"]).lesson, choice.alpha, choice.strength)

    def _bend(self, lesson: Lesson, width: float) -> _Bent:
        return lesson.once(("kernel", width), lambda: _bent(lesson, width, self.centres, self.seed))


@dataclass(frozen=True, eq=False)
class _Bent:
    """A lesson in kernel features: values of the kernel, times the root."""

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
    """The rotation (and scale) that brings centred features nearest to their anchors.

    W = s Q with Q'Q = I that maximises trace(Q' Cov(x, y)): the polar factor of the cross-covariance (Schoenemann 1966,
    Psychometrika 31, equation 1.7). With more features than dimensions, Q has orthonormal columns and takes the directions
    that vary most with the anchors; otherwise it is also the least-squares solution. s is the least-squares scale on the
    target pairs, so that a blend weighs the map by its worth there; a source only turns the rotation. Angles and distances
    of the features are preserved, which is all the regularisation.
    """

    method = "procrustes"

    def choose(self, task: Task) -> AlignmentChoice:  # noqa: D102  as in the contract
        X = task.pairs.X

        def candidates() -> Iterator[Candidate]:
            for alpha in task.alphas:
                maps = [procrustes(rest, alpha) for _, rest in task.folds]
                parts = [X[rows] @ weight + bias for (rows, _), (weight, bias) in zip(task.folds, maps, strict=True)]
                yield Candidate(alpha, 0.0, task.assemble(parts))

        return choose(self.method, task, candidates(), self.blends)

    def learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:  # noqa: D102
        return LearnedMap(*procrustes(lesson, choice.alpha), choice.blend)


def procrustes(lesson: Lesson, alpha: float) -> LinearMap:
    """Return weight and bias of the scaled rotation.

    The polar factor C (C'C)^-1/2 of the mixture's cross-covariance C comes from the eigenvectors of the smaller Gram
    matrix. Directions in which features and anchors do not vary together are left out: they would be turned at random.
    """
    X, target, other = lesson.pairs.X, lesson.target, lesson.other
    mean_x, mean_y, cross = target.mean_x, target.mean_y, target.xy
    if other is not None and alpha > 0:
        apart = np.outer(mean_x - other.mean_x, mean_y - other.mean_y)
        cross = (1 - alpha) * cross + alpha * other.xy + alpha * (1 - alpha) * apart
        mean_x = (1 - alpha) * mean_x + alpha * other.mean_x
        mean_y = (1 - alpha) * mean_y + alpha * other.mean_y
    if len(cross) < cross.shape[1]:
        turn = _inverse_root(cross @ cross.T) @ cross
    else:
        turn = cross @ _inverse_root(cross.T @ cross)
    spread = float(np.square((X - target.mean_x) @ turn).sum()) / len(X)
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

    Raises:
        SpaceError: an option outside of its range.
    """

    method = "cca"
    anchor_strengths: Sequence[float] = ANCHOR_STRENGTHS
    components: Sequence[int] = COMPONENTS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(anchor_strengths=self.anchor_strengths)
        if not self.components or not all(number >= 0 for number in self.components):
            raise SpaceError(
                f"components must be one or more whole numbers, 0 for all of them; got {self.components!r}"
            )

    def choose(self, task: Task) -> AlignmentChoice:  # noqa: D102  as in the contract
        base = ridge_choice(task)
        dim = task.pairs.Y.shape[1]
        numbers = sorted({number if 0 < number < dim else dim for number in self.components}, reverse=True)
        # The simplest first: near to ridge, on all components.
        strengths = sorted(self.anchor_strengths, reverse=True)
        parts: dict[tuple[float, int], list[Float[np.ndarray, "_fold y"]]] = {
            (strength, number): [] for strength in strengths for number in numbers
        }
        for rows, rest in task.folds:
            regression = _Regression.of(rest, base.alpha, base.strength)
            turned = task.pairs.X[rows] @ regression.weight
            for strength in strengths:
                for number, (weight, bias) in zip(numbers, regression.cca(strength, numbers), strict=True):
                    parts[strength, number].append(turned @ weight + bias)
        candidates = (
            Candidate(
                base.alpha, base.strength, task.assemble(part), {"anchor_strength": strength, "components": number}
            )
            for (strength, number), part in parts.items()
        )
        return choose(self.method, task, candidates, self.blends)

    def learn(self, lesson: Lesson, choice: AlignmentChoice) -> LearnedMap:  # noqa: D102
        regression = _Regression.of(lesson, choice.alpha, choice.strength)
        settings = choice.settings
        ((weight, bias),) = regression.cca(settings["anchor_strength"], [int(settings["components"])])
        return LearnedMap(regression.weight @ weight, bias, choice.blend)


@dataclass(frozen=True, eq=False)
class _Regression:
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
    def of(cls, lesson: Lesson, alpha: float, strength: float) -> _Regression:
        mixture = lesson.target.mix(lesson.other, alpha)
        values, basis = np.linalg.eigh(mixture.yy)
        weight = ridge_map(lesson, alpha, strength)[0] @ basis
        explained = weight.T @ mixture.xy @ basis
        explained = (explained + explained.T) / 2
        # (Cov(x) + lambda I) R = Cov(x, y), which saves the product with Cov(x).
        covariance = explained - strength * mixture.scale * (weight.T @ weight)
        return cls(weight, mixture.mean_x @ weight, mixture.mean_y, basis, np.maximum(values, 0), covariance, explained)

    def cca(self, anchor_strength: float, components: Sequence[int]) -> Iterator[LinearMap]:
        """Yield weight and bias from z to the anchors, for each number of components: those of the largest correlations.

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


# ------------------------------------------------------------------------------------------------ left-out predictions

_Prediction: TypeAlias = tuple[float, float, Float[np.ndarray, "_rows y"]]
"""Alpha, strength, and a row a pair."""

_Residuals: TypeAlias = Iterator[
    tuple[float, float, list[Float[np.ndarray, "_groups _size _size"]], Float[np.ndarray, "_rows y"]]
]
"""Alpha, strength, the blocks M_vv (stacked as the groups are) and the residuals e."""


def left_out(
    pairs: PairArrays,
    shown: Int[np.ndarray, " shown"],
    source: Source | None,
    alphas: Sequence[float],
    strengths: Sequence[float],
) -> Iterator[_Prediction]:
    """Predict the shown pairs by ridge fitted without their groups, for every alpha and strength.

    Let Phi be the features with an intercept, w the weight of a target pair, A the normal equations of the whole fit
    with their penalty, e its residuals and M = I - w Phi A^-1 Phi'. Without the pairs v of a group, these are predicted
    as  y_v - M_vv^-1 e_v  (Cook & Weisberg 1982, ch. 2; for ridge Golub, Heath & Wahba 1979). M and e are computed on the
    smaller side, features or pairs; for several strengths in a basis of eigenvectors, where each costs a few products.
    """
    side = _from_pairs_side if len(pairs.X) < pairs.X.shape[1] else _from_features_side
    # A group is left out whole, also where a part of it is shown.
    rows = np.flatnonzero(np.isin(pairs.codes, pairs.codes[shown]))
    stacks = _stacks(pairs.codes[rows])
    where = np.searchsorted(rows, shown)
    predicted = np.empty((len(rows), pairs.Y.shape[1]), pairs.Y.dtype)
    for alpha, strength, blocks, residual in side(pairs, rows, stacks, source, alphas, strengths):
        for members, block in zip(stacks, blocks, strict=True):
            # A group of one pair, the common case, needs no solver.
            left = residual[members] / block if block.shape[1] == 1 else np.linalg.solve(block, residual[members])
            predicted[members] = pairs.Y[rows[members]] - left
        yield alpha, strength, predicted[where]


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
        mixture = pairs.moments.mix(None if source is None else source.moments, alpha)
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
    mean_x, mean_y = (part.mean(axis=0, dtype=np.float64) for part in (X, Y))
    informed = None if source is None or max(alphas) == 0 else _Prior.of(X, source)
    for alpha in alphas:
        weight = (1 - alpha) / len(X)
        if informed is None or alpha == 0:
            prior, scale = _Prior.flat(X - mean_x, mean_y), pairs.scale
        else:
            apart = float(np.mean((mean_x - informed.mean_x) ** 2))
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
        values, basis, cross = source.spectrum
        centred = X - source.mean_x
        turned = centred @ basis
        rest = None if len(values) == X.shape[1] else centred @ centred.T - turned @ turned.T
        return cls(source.mean_x, source.mean_y, source.scale, values, cross, turned, rest)

    @classmethod
    def flat(cls, centred: Float64[np.ndarray, "rows x"], mean_y: Float64[np.ndarray, " y"]) -> _Prior:
        """The prior without a source: nothing is known but the mean of the anchors."""
        none = np.zeros(0)
        turned, cross = np.zeros((len(centred), 0)), np.zeros((0, len(mean_y)))
        return cls(np.zeros(centred.shape[1]), mean_y, 0.0, none, cross, turned, centred @ centred.T)

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


def check_positive(**options: Sequence[float]) -> None:
    """Refuse an option that is not one or more finite numbers above 0.

    Raises:
        SpaceError: the message names the option.
    """
    for name, values in options.items():
        if not values or not all(0 < value < np.inf for value in values):
            raise SpaceError(f"{name} must be one or more numbers above 0; got {values!r}")
