"""The linear probe: frozen embeddings -> labels by multinomial logistic regression.

This module knows one thing: how to fit multinomial logistic regression and choose its regularisation by
cross-validation in a fraction of the time of one refit per value and fold. Several modalities, missing ones and saving
are left to `chiasm.recognition.recognizer`; where embeddings come from, to whoever calls.

How it is solved, and why so (counted in passes over the data; a pass is the two matrix products of one gradient or of
one product with the Hessian):

1. The rows are centred. Where they are at most half as many as the columns they are rotated into the eigenvectors of
   their Gram matrix, which reduces the columns to the rank, exactly: the L2 solution lies in the span of the rows.
2. All folds are solved together, their weights stacked, so that each pass is one pair of products for all of them. The
   optimiser is the truncated Newton method (conjugate gradients on the Hessian, Nocedal & Wright 2006, section 7.1);
   each fold has its own step lengths and leaves the stack when it is done. L-BFGS with the same preconditioner took as
   long to the precision of cross-validation, left ten times the error at weak strengths, and took two to six times as
   long to full precision. Accelerated descent on Böhning's majoriser took two to twenty times the passes.
3. The preconditioner takes the curvature of a class to be the same in all rows (as the majoriser of Böhning 1992, Ann.
   Inst. Statist. Math. 44:197, does with the largest possible one). The Hessian is then X'X times that plus the
   strength, and the leading eigenvectors of X'X, found once, invert it well enough for every fold, strength and step:
   all of them, found from a sample of the rows, where the data are large (a sixth fewer passes than with 64, at 20,000 x
   640), else 64. An exact average over pairs of classes, or rows weighted by their uncertainty, took no pass less.
4. The strengths are followed from the strongest to the weakest, each starting from the line through the last two
   solutions, linear in log(strength), or where the strengths are far apart from the last. On frozen image and text
   embeddings the line took 3 to 9 passes a problem, where solving all strengths side by side from zero took 10 to 30 to
   the same error of the scores. The last fit, of all rows, starts from the mean of the folds, moved along that line by
   the logarithm of how many more the rows are.
5. On large data the logits of all rows are kept from one product to the next, as far as memory goes. A Newton step then
   costs half a pass beyond the products that found it, and another strength starts with no pass where the last ended.
   Threads share the rows by blocks, so that exponentials and sums run in parallel as the products do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped
from numpy.typing import DTypeLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import ThreadpoolController

from chiasm.errors import LabelError
from chiasm.splits import Labels, Shots, deal, group_codes, label_codes, refuse_continuous, refuse_one_class
from chiasm.vectors import Unchecked

Rows: TypeAlias = Int[np.ndarray, " _"] | Iterable[int]
_Result = TypeVar("_Result")

_STRONGEST, _WEAKEST, _PER_DECADE = 2, -6, 2  # the default strengths, as powers of ten relative to the rows' variance
_UNTUNED = 1e-3  # relative strength where nothing can be held out; macro-F1 at 1 shot is flat around it
_PATIENCE = 3  # strengths in a row that must be worse than the best before the default path stops

_PATH_TOLERANCE = 3e-4  # leaves an error in the scores of a third of their standard error at most, mostly far less
_LEADING = 64  # directions whose curvature is known; 256 took as many passes, 32 a tenth more, none up to three times
_ROWS_A_DIRECTION = (
    8  # rows from which all directions are found; with 4 a twentieth more passes, with all rows none less
)
_MAX_ITERATIONS = 100
_MAX_INNER = 200
_MAX_HALVINGS = 25
_BLOCK = 2**18  # logits computed at once: they stay in the processor's cache
_SMALL = 2**24  # bytes of logits below which memory is no concern
_FAR = 5  # ratio of strengths over which a line through solutions leads nowhere better than the last solution
_WORTH_KEEPING = 2**28  # multiplications a pass from which kept logits save more time than keeping them takes
_WORTH_THREADS = 2**31  # multiplications a pass from which more than one thread is worth that risk


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Multinomial logistic regression with an L2 penalty, its strength chosen by fast cross-validation.

    Minimises `sum_i w_i * log_loss_i + strength / 2 * ||coef||^2`, the intercept not penalised: the objective of
    scikit-learn's `LogisticRegression(C=1 / strength)`, for two classes as for many, and the same solution.

    The strength is the one with the least Brier score (the squared distance between predicted and true class
    probabilities, a proper score) on held-out items. Measured on 16 sets of few and of many shots (image and text
    embeddings of two collections, planted mixtures with and without label noise), against the best strength in
    hindsight: Brier score lost 0.007 (few) and 0.011 (many) of macro-F1, log loss 0.008 and 0.013, accuracy with ties
    to the stronger 0.022 and 0.011, and the one-standard-error rule on log loss 0.013 and 0.019, so there is no such
    rule here. Log loss lets a few confident mistakes decide; accuracy is full of ties at few shots.

    Args:
        strengths: what to choose from, each above 0. One value is used as it is. By default the path goes down from
            100 times the mean squared distance of the rows from their mean (there, little more than the class shares is
            left) in half decades to 1e-6 of it, and stops after three strengths in a row that are worse than the best
            by more than a standard error.
        cv: number of folds, or the folds themselves as pairs of row numbers (train, test). Folds keep the shares of the
            classes and, with `fit(groups=...)`, never divide a group.
        class_weight: `"balanced"` gives every class the same total weight; a mapping gives weights by class, 1 where it
            has none.
        random_state: seed of the folds.

    Attributes:
        classes_: the classes, sorted.
        coef_: shape (classes, dim), or (1, dim) for two classes, as scikit-learn has it.
        intercept_: shape (classes,), or (1,) for two.
        strength_: the chosen strength.
        strengths_: those tried, strongest first.
        cv_scores_: minus the Brier score by fold and strength; 0 is perfect. No folds: shape (0, strengths).
        at_end_: whether the chosen strength is the first or last of several tried: a better one may lie outside.
        n_iter_: iterations of the last fit, of all items at the chosen strength.
        n_features_in_: columns of X.

    A class is never absent from the training side of a fold: items whose fold would hold out all of their class (a
    class with one item, or with all its items in one group) stay in training there and are not scored. Where that
    leaves nothing to hold out, the strength is 1e-3 times the mean squared distance of the rows from their mean, or the
    nearest of `strengths`.

    Computation is in the dtype of X, float32 or float64; sums are in float64. The solution is found when the squared
    Newton decrement, about twice the distance of the objective to its minimum, is below 1e-8 (float32) or 1e-18
    (float64) of the objective, or rounding hides the rest; the relative error of the weights is about the square root
    of that. For the choice alone it is 3e-4, measured to leave an error in the scores of a third of their standard error
    at most. The rows are copied once, in their own dtype; the logits that are kept beside it take at most one and a
    quarter times as much on large data, more only where there are over half as many classes as columns.
    """

    classes_: Shaped[np.ndarray, " classes"]
    coef_: Float[np.ndarray, "classes dim"]
    intercept_: Float[np.ndarray, " classes"]
    strength_: float
    strengths_: Float64[np.ndarray, " strengths"]
    cv_scores_: Float64[np.ndarray, "folds strengths"]
    at_end_: bool
    n_iter_: int
    n_features_in_: int

    def __init__(
        self,
        *,
        strengths: Iterable[float] | Unchecked | None = None,
        cv: int | Iterable[tuple[Rows, Rows]] | Unchecked = 5,
        class_weight: Mapping[Any, float] | Literal["balanced"] | Unchecked | None = None,
        random_state: int | Unchecked = 0,
    ) -> None:
        self.strengths = strengths
        self.cv = cv
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(
        self,
        X: Float[np.ndarray, "rows dim"] | Unchecked,
        y: Labels,
        sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None = None,
        groups: Labels | None = None,
        extra: Shots | None = None,
    ) -> LinearProbe:
        """Choose the strength and fit all rows with it.

        Args:
            X: embeddings, one a row.
            y: one label a row.
            sample_weight: weight of each row; 2 is the same as the row twice, 0 as no row.
            groups: rows of one group are never on both sides of a fold.
            extra: labelled rows that every fold learns from and none is scored on. With them a class of one item can
                be held out, so that there is cross-validation at one shot.

        Raises:
            LabelError: labels are missing or continuous, there is one class only, or extra rows are of another width.
            ValueError: X holds NaN or infinite values, or the arguments do not fit together.
        """
        if np.asarray(y).ndim == 1:
            label_codes(y)  # refuses missing labels with their number, before scikit-learn words it without
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
        refuse_nonfinite(X)
        weight = row_weights(sample_weight, len(X))
        own = len(X)
        if extra is not None:
            if extra.X.shape[1] != X.shape[1]:
                raise LabelError(f"extra shots are {extra.X.shape[1]} wide, X is {X.shape[1]}: embed them alike")
            X = np.vstack([X, extra.X.astype(X.dtype)])
            y = np.concatenate([np.asarray(y), extra.y])
            weight = np.concatenate([weight, extra.weight])
        used = np.flatnonzero(weight)
        self.classes_, codes = label_codes(np.asarray(y)[used])
        refuse_one_class(self.classes_, len(used))
        refuse_continuous(self.classes_)
        weight = weight[used] * self._class_weights(codes, weight[used])[codes]
        group = None
        if groups is not None:
            group = np.unique(group_codes(groups, own)[used[used < own]], return_inverse=True)[1]
        trained, held = self._folds(codes, used, own, group)
        work = len(used) * min(X.shape) * len(self.classes_) * max(1, len(held))
        with _working(work) as workers:
            self._solve(X, used, codes, weight, trained, held, workers)
        return self

    def _solve(
        self,
        X: Float[np.ndarray, "rows dim"],
        used: Int[np.ndarray, " used"],
        codes: Int[np.ndarray, " used"],
        weight: Float64[np.ndarray, " used"],
        trained: Bool[np.ndarray, "folds used"],
        held: Bool[np.ndarray, "folds used"],
        workers: _Workers,
    ) -> None:
        # Rows of one fold side by side: whole blocks can then be left out of the products of that fold.
        order = np.lexsort(held) if len(held) else np.arange(len(used))
        coordinates = _coordinates(X, used[order], len(self.classes_) * max(1, len(held)), workers)
        rows, leading = coordinates.rows, coordinates.leading
        codes, weight, trained, held = codes[order], weight[order], trained[:, order], held[:, order]
        whole = _Problem(rows, leading, codes, weight[None].astype(rows.dtype), len(self.classes_), workers)
        problem = _Problem(rows, leading, codes, (weight * trained).astype(rows.dtype), len(self.classes_), workers)
        start = self._choose_strength(problem, whole, weight * held)
        solution = _minimise(
            whole,
            self.strength_,
            whole.first_guess() if start is None else start,
            1e-8 if rows.dtype == np.float32 else 1e-18,
        )
        self.n_iter_ = int(solution.iterations[0])
        if self.n_iter_ == _MAX_ITERATIONS:
            warnings.warn(
                f"the solution at strength {self.strength_:.3g} is not exact after {_MAX_ITERATIONS} iterations: "
                "the strength is very small for this data",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.coef_, self.intercept_ = coordinates.restore(solution.weights[:, 0])
        if len(self.classes_) == 2:
            self.coef_, self.intercept_ = np.diff(self.coef_, axis=0), np.diff(self.intercept_)

    def decision_function(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows ..."]:
        """Logits, shape (rows, classes); for two classes the logit of the second, shape (rows,).

        Raises:
            ValueError: X is not as wide as in `fit`, or holds NaN or infinite values.
        """
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32], ensure_all_finite=False)
        refuse_nonfinite(X)
        logits: Float[np.ndarray, "rows classes"] = X @ self.coef_.T + self.intercept_
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Float[np.ndarray, "rows classes"]:
        """Class probabilities, in the order of `classes_`.

        Raises:
            ValueError: as `decision_function`.
        """
        logits = self.decision_function(X)
        if logits.ndim == 1:
            logits = np.stack([np.zeros_like(logits), logits], axis=1)
        return softmax(logits)

    def predict(self, X: Float[np.ndarray, "rows dim"] | Unchecked) -> Shaped[np.ndarray, " rows"]:
        """The most probable class of each row.

        Raises:
            ValueError: as `decision_function`.
        """
        logits = self.decision_function(X)
        best = (logits > 0).astype(np.intp) if logits.ndim == 1 else logits.argmax(axis=1)
        labels: Shaped[np.ndarray, " rows"] = self.classes_[best]
        return labels

    def _class_weights(
        self, codes: Int[np.ndarray, " rows"], weight: Float64[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, " classes"]:
        number = len(self.classes_)
        if self.class_weight is None:
            return np.ones(number)
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                raise ValueError(f"class_weight must be None, 'balanced' or a mapping; got {self.class_weight!r}")
            totals: Float64[np.ndarray, " classes"] = np.bincount(codes, weights=weight, minlength=number)
            balanced: Float64[np.ndarray, " classes"] = totals.sum() / (number * totals)
            return balanced
        weights = np.array([float(self.class_weight.get(label, 1.0)) for label in self.classes_.tolist()])
        if not (weights > 0).all():
            raise ValueError(f"class_weight must be above 0 for every class; got {dict(self.class_weight)}")
        return weights

    def _folds(
        self,
        codes: Int[np.ndarray, " used"],
        used: Int[np.ndarray, " used"],
        own: int,
        group: Int[np.ndarray, " _"] | None,
    ) -> tuple[Bool[np.ndarray, "folds used"], Bool[np.ndarray, "folds used"]]:
        """Which of the used rows each fold trains on and which it holds out, for the folds that hold out any.

        Rows from number `own` on are extra: every fold trains on them and none holds them out.
        """
        mine = int((used < own).sum())  # extra rows stand behind
        always = np.arange(len(used)) >= mine
        if not isinstance(self.cv, int | np.integer):
            pairs = [
                (np.isin(used, np.asarray(train)) | always, np.isin(used, np.asarray(test))) for train, test in self.cv
            ]
            trained = np.array([train for train, _ in pairs], dtype=bool).reshape(-1, len(used))
            held = np.array([test for _, test in pairs], dtype=bool).reshape(-1, len(used))
        else:
            if self.cv < 2:
                raise ValueError(f"cv must be at least 2 folds; got {self.cv}")
            folds = min(int(self.cv), mine if group is None else int(group.max(initial=-1)) + 1)
            # One group cannot be divided: it is one fold, whose training side is empty, and goes back there below.
            fold_of = np.full(len(used), -1)
            fold_of[:mine] = deal(codes[:mine], folds, seed=self.random_state, groups=group) if folds > 1 else 0
            held = fold_of == np.arange(max(folds, 1))[:, None]
            trained = ~held
        group = np.arange(mine) if group is None else group
        for fold in range(len(held)):
            lost = np.setdiff1d(codes, codes[trained[fold]])
            kept = held[fold].copy()
            kept[:mine] &= np.isin(group, group[np.isin(codes[:mine], lost)])
            kept[mine:] = False
            trained[fold] |= kept
            held[fold] &= ~kept
        scored = held.any(axis=1)
        return trained[scored], held[scored]

    def _choose_strength(
        self,
        problem: _Problem,
        whole: _Problem,
        held: Float64[np.ndarray, "folds rows"],
    ) -> Float[np.ndarray, "classes 1 columns"] | None:
        """Set the attributes that tell what was chosen from what; return a start for the last fit, of the whole."""
        variance = whole.variance()
        if self.strengths is None:
            decades = np.linspace(_STRONGEST, _WEAKEST, (_STRONGEST - _WEAKEST) * _PER_DECADE + 1)
            strengths = variance * 10.0**decades
        else:
            strengths = np.unique(np.asarray(list(self.strengths), dtype=np.float64))[::-1]
            if not len(strengths) or not (np.isfinite(strengths) & (strengths > 0)).all():
                raise ValueError(f"strengths must be one or more finite values above 0; got {self.strengths!r}")
        if not len(held) or len(strengths) == 1:
            nearest = np.abs(np.log(strengths / (_UNTUNED * variance))).argmin()
            self.strengths_ = strengths[nearest : nearest + 1] if self.strengths is None else strengths
            self.cv_scores_ = np.empty((0, len(self.strengths_)))
            self.strength_ = float(strengths[nearest])
            self.at_end_ = False
            return None

        path: list[_PathPoint] = []
        best = 0
        for point in _follow(problem, strengths, held):
            path.append(point)
            if point.score > path[best].score:
                best = len(path) - 1
            recent = path[-_PATIENCE:]
            if self.strengths is None and all(later.is_worse_than(path[best]) for later in recent):
                break
        self.strengths_ = strengths[: len(path)]
        self.cv_scores_ = np.stack([point.fold_scores for point in path], axis=1)
        self.strength_ = float(strengths[best])
        self.at_end_ = best in (0, len(path) - 1)
        near = path[best].mean_weights
        if best:
            # A part of the rows at one strength is like all of them at a strength higher by as much as they are more.
            more = np.log(whole.totals[0] / problem.totals.mean())
            near = near + near.dtype.type(more / np.log(strengths[best - 1] / strengths[best])) * (
                near - path[best - 1].mean_weights
            )
        return near


def fit_folds(
    X: Float[np.ndarray, "rows dim"],
    y: Shaped[np.ndarray, " rows"],
    trained: Bool[np.ndarray, "folds rows"],
    *,
    strength: float,
    class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
    extra: Shots | None = None,
) -> list[LinearProbe]:
    """A probe for each of some selections of the rows, all of one strength and solved together.

    Each is what `LinearProbe(strengths=[strength]).fit` gives on its rows, to the precision stated there. (Ten folds of 516
    rows of 2,048 columns in 11 classes: 0.5 s, one after the other 1.9 s.)

    Args:
        X: embeddings, finite.
        y: one label a row.
        trained: which rows each probe learns from; with the extra ones, every probe has rows of every class.
        strength: of the penalty, above 0.
        class_weight: see `LinearProbe`.
        extra: rows that every probe learns from.
    """
    every = X if extra is None else np.vstack([X, extra.X.astype(X.dtype)])
    classes, codes = label_codes(y if extra is None else np.concatenate([y, extra.y]))
    more = np.ones((len(trained), 0)) if extra is None else np.tile(extra.weight, (len(trained), 1))
    weights = np.hstack([trained, more]).astype(np.float64)
    used = np.flatnonzero(weights.any(axis=0))
    codes, weights = codes[used], weights[:, used]
    probes = []
    for number, weight in enumerate(weights):
        probe = LinearProbe(strengths=[strength], class_weight=class_weight)
        probe.classes_, probe.n_features_in_ = classes, every.shape[1]
        weights[number] = weight * probe._class_weights(codes, weight)[codes]
        probes.append(probe)
    work = len(used) * min(every.shape) * len(classes) * len(trained)
    with _working(work) as workers:
        coordinates = _coordinates(every, used, len(classes) * len(trained), workers)
        rows, leading = coordinates.rows, coordinates.leading
        tolerance = 1e-8 if rows.dtype == np.float32 else 1e-18
        # All start from the solution of their mean, which is near all of theirs.
        together = weights.mean(axis=0, keepdims=True).astype(rows.dtype)
        mean = _Problem(rows, leading, codes, together, len(classes), workers)
        near = _minimise(mean, strength, mean.first_guess(), _PATH_TOLERANCE).weights
        problem = _Problem(rows, leading, codes, weights.astype(rows.dtype), len(classes), workers)
        solution = _minimise(problem, strength, np.repeat(near, len(weights), axis=1), tolerance)
    for number, probe in enumerate(probes):
        probe.strength_, probe.strengths_ = strength, np.array([strength])
        probe.cv_scores_, probe.at_end_ = np.empty((0, 1)), False
        probe.n_iter_ = int(solution.iterations[number])
        probe.coef_, probe.intercept_ = coordinates.restore(solution.weights[:, number])
        if len(classes) == 2:
            probe.coef_, probe.intercept_ = np.diff(probe.coef_, axis=0), np.diff(probe.intercept_)
    return probes


def softmax(logits: Float[np.ndarray, "rows classes"]) -> Float[np.ndarray, "rows classes"]:
    """Probabilities from logits, row by row, without overflow."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Float[np.ndarray, "rows classes"] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


@dataclass(frozen=True)
class _Workers:
    """Threads that share blocks of rows between them. Each computes its products alone, in one thread."""

    pool: ThreadPoolExecutor | None  # none: the calling thread does it all
    number: int

    def share(self, work: Callable[[list[slice]], _Result], blocks: Iterable[slice]) -> list[_Result]:
        """What `work` gives for each worker's blocks. Who gets which is fixed, so that sums are always the same."""
        every = list(blocks)
        if self.pool is None:
            return [work(every)]
        return list(self.pool.map(work, [every[first :: self.number] for first in range(self.number)]))


@contextmanager
def _working(work: int) -> Iterator[_Workers]:
    """Workers for passes of so many multiplications: as many as the BLAS has threads, or one where that is not worth it.

    The BLAS itself gets one thread. Threads that wait for each other at every small product gain little on idle
    processors, and on busy ones cost ten times what the product does; and between its products the others would idle.
    """
    number = max((library.num_threads for library in _blas().lib_controllers), default=1)
    with _blas().limit(limits=1):
        if work < _WORTH_THREADS or number == 1:
            yield _Workers(None, 1)
        else:
            with ThreadPoolExecutor(number) as pool:
                yield _Workers(pool, number)


def _slices(rows: int, step: int) -> Iterator[slice]:
    for first in range(0, rows, step):
        yield slice(first, first + step)


@dataclass(frozen=True)
class _Coordinates:
    """The rows in coordinates in which the problem is small and its curvature known, and the way back."""

    rows: Float[np.ndarray, "rows columns"]  # the last column is ones: its weight is the intercept
    leading: Float[np.ndarray, "columns directions"]  # orthonormal; the directions of most variance, then the intercept
    mean: Float64[np.ndarray, " dim"]
    back: Float[np.ndarray, "dim rank"] | None  # embedding = mean + back @ coordinates; None: coordinates are columns

    def restore(
        self, weights: Float[np.ndarray, "classes columns"]
    ) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"]]:
        """Coefficients and intercepts for embeddings from weights on coordinates and their constant."""
        coef = weights[:, :-1] if self.back is None else weights[:, :-1] @ self.back.T
        return coef.copy(), (weights[:, -1] - coef @ self.mean).astype(coef.dtype)


def _coordinates(
    X: Float[np.ndarray, "all dim"], rows: Int[np.ndarray, " rows"], outputs: int, workers: _Workers
) -> _Coordinates:
    """Centre the given rows of X, and where they are few, reduce them to the space that they span.

    The few are rotated into the eigenvectors of their Gram matrix; directions in which they do not vary are left away.

    Args:
        X: embeddings.
        rows: those that are used.
        outputs: how many numbers a pass computes of each row: with many, more directions are worth knowing.
        workers: see there.
    """
    dim = X.shape[1]
    mean = X.mean(axis=0, dtype=np.float64) if len(rows) == len(X) else X[rows].mean(axis=0, dtype=np.float64)
    if 2 * len(rows) <= dim:
        centred = X[rows].astype(np.float64)
        centred -= mean
        values, vectors = np.linalg.eigh(centred @ centred.T)
        varies = np.flatnonzero(values > values[-1] * len(rows) * np.finfo(np.float64).eps)[::-1]  # largest first
        root = np.sqrt(values[varies])
        back = (centred.T @ (vectors[:, varies] / root)).astype(X.dtype)
        coordinates = np.ones((len(rows), len(varies) + 1), dtype=X.dtype)
        coordinates[:, :-1] = vectors[:, varies] * root
        return _Coordinates(coordinates, _with_intercept(np.eye(len(varies))[:, :_LEADING], X.dtype), mean, back)
    shift = mean.astype(X.dtype)  # what is taken from the rows, to the last bit, must come back in the intercept
    coordinates = np.ones((len(rows), dim + 1), dtype=X.dtype)

    def centre(blocks: list[slice]) -> None:
        for block in blocks:
            np.subtract(X[rows[block]], shift, out=coordinates[block, :-1])

    workers.share(centre, _slices(len(rows), 1024))
    if _worth_all_directions(len(rows), dim, outputs):
        leading = _all_directions(coordinates[:, :-1], workers)
    else:
        leading = _leading_directions(coordinates[:, :-1])
    return _Coordinates(coordinates, _with_intercept(leading, X.dtype), shift.astype(np.float64), None)


def _worth_all_directions(rows: int, dim: int, outputs: int) -> bool:
    """Whether to know them is worth a decomposition in the cube of the columns, and a product in their square a pass."""
    return dim > _LEADING and rows >= _ROWS_A_DIRECTION * dim and rows * outputs >= 4 * dim**2


def _all_directions(rows: Float[np.ndarray, "rows dim"], workers: _Workers) -> Float[np.ndarray, "dim dim"]:
    """All principal directions, of as many rows as tell them well enough."""
    dim = rows.shape[1]
    some = rows[:: max(1, len(rows) // (_ROWS_A_DIRECTION * dim))]

    def squares(blocks: list[slice]) -> Float[np.ndarray, "dim dim"]:
        total = np.zeros((dim, dim), dtype=rows.dtype)
        for block in blocks:
            piece = np.ascontiguousarray(some[block])
            total += piece.T @ piece
        return total

    gram = sum(workers.share(squares, _slices(len(some), 1024)))
    directions: Float[np.ndarray, "dim dim"] = np.linalg.eigh(gram)[1][:, ::-1]
    return np.ascontiguousarray(directions)


def _leading_directions(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "dim directions"]:
    """Nearly the directions of most variance, by subspace iteration (Halko, Martinsson & Tropp 2011, SIAM Review 53)."""
    dim = rows.shape[1]
    guess = np.eye(dim) if dim <= _LEADING else np.random.default_rng(0).normal(size=(dim, _LEADING + 10))
    basis = np.linalg.qr(guess)[0].astype(rows.dtype)
    for _ in range(1 if dim <= _LEADING else 3):
        image = np.zeros((dim, basis.shape[1]))
        inner = np.zeros((basis.shape[1], basis.shape[1]))
        for first in range(0, len(rows), 1024):
            block = rows[first : first + 1024]
            projected = block @ basis
            image += block.T @ projected
            inner += projected.T @ projected
        vectors = np.linalg.eigh(inner)[1][:, ::-1]
        leading: Float[np.ndarray, "dim directions"] = basis @ vectors[:, :_LEADING].astype(rows.dtype)
        basis = np.linalg.qr(image)[0].astype(rows.dtype)
    return leading


def _with_intercept(
    leading: Float[np.ndarray, "rank directions"], dtype: DTypeLike
) -> Float[np.ndarray, "columns more"]:
    """The directions, and one more for the last column."""
    rank, number = leading.shape
    extended = np.zeros((rank + 1, number + 1), dtype=dtype)
    extended[:-1, :-1] = leading
    extended[-1, -1] = 1
    return extended


@dataclass(frozen=True)
class _Problem:
    """Penalised logistic regression of the same rows with several sets of weights, one a fold."""

    rows: Float[np.ndarray, "rows columns"]  # the last column is ones: its weight is the intercept
    leading: Float[np.ndarray, "columns directions"]
    codes: Int[np.ndarray, " rows"]
    weights: Float[np.ndarray, "folds rows"]
    classes: int
    workers: _Workers

    @cached_property
    def totals(self) -> Float64[np.ndarray, " folds"]:
        """The sum of each fold's weights."""
        totals: Float64[np.ndarray, " folds"] = self.weights.sum(axis=1, dtype=np.float64)
        return totals

    @cached_property
    def shares(self) -> Float64[np.ndarray, "classes folds"]:
        """The part of each fold's weight that each class has, never quite 0."""
        counts = np.stack([self.weights[:, self.codes == k].sum(axis=1, dtype=np.float64) for k in range(self.classes)])
        shares: Float64[np.ndarray, "classes folds"] = np.maximum(counts / self.totals, 1e-10)
        return shares

    @cached_property
    def energy(self) -> tuple[Float64[np.ndarray, "folds directions"], Float64[np.ndarray, " folds"]]:
        """Weighted sum of squares of the rows along each leading direction, and the mean along each of the others."""
        along = np.zeros((len(self.weights), self.leading.shape[1]))
        every = np.zeros(len(self.weights))
        complete = self.leading.shape[1] > _LEADING + 1
        some = slice(None, None, max(1, len(self.rows) // (_ROWS_A_DIRECTION * self.rows.shape[1])) if complete else 1)
        sample, weights = self.rows[some], self.weights[:, some]
        for block in _slices(len(sample), 1024):
            along += weights[:, block] @ np.square(sample[block] @ self.leading)
            every += weights[:, block] @ np.vecdot(sample[block], sample[block])
        share = (self.totals / weights.sum(axis=1, dtype=np.float64))[:, None]
        along, every = along * share, every * share[:, 0]
        others = max(1, self.rows.shape[1] - along.shape[1])
        return along, np.maximum(every - along.sum(axis=1), 0) / others

    def variance(self) -> float:
        """The weighted mean squared distance of the rows from their mean, in the first fold; 1 where it is 0."""
        mean = self.weights[0] @ self.rows / self.totals[0]
        squares = self.weights[0] @ np.vecdot(self.rows, self.rows)
        return float(squares / self.totals[0] - mean @ mean) or 1.0

    def penalty(self, strength: float) -> Float[np.ndarray, " columns"]:
        """The weight of each squared coordinate. Two classes have two opposite vectors here, one in the definition."""
        penalty = np.full(self.rows.shape[1], 2 * strength if self.classes == 2 else strength, dtype=self.rows.dtype)
        penalty[-1] = 0
        return penalty

    def first_guess(self) -> Float[np.ndarray, "classes folds columns"]:
        """No weights, and the intercepts that give the class shares: the solution at infinite strength."""
        guess = np.zeros((self.classes, len(self.weights), self.rows.shape[1]), dtype=self.rows.dtype)
        guess[:, :, -1] = np.log(self.shares) - np.log(self.shares).mean(axis=0)
        return guess

    @property
    def room(self) -> int:
        """Of how many problems the logits take less memory than a quarter of the rows, or little in any case."""
        of_one_problem = self.classes * self.rows[:, 0].nbytes
        return int(max(_SMALL, self.rows.nbytes // 4) // of_one_problem)

    def keeps_logits(self, problems: int) -> bool:
        """Whether logits are kept to save products: where there is room, and the products are not small themselves."""
        return problems <= self.room and self.rows.size * self.classes * problems >= _WORTH_KEEPING

    def stacks(self) -> Iterator[Int[np.ndarray, " problems"]]:
        """Folds to solve side by side: all that there is room for, and one in any case."""
        together = max(1, self.room)
        for first in range(0, len(self.weights), together):
            yield np.arange(first, min(first + together, len(self.weights)))

    def at(
        self,
        W: Float[np.ndarray, "classes problems columns"],
        fold: Int[np.ndarray, " problems"],
        penalty: Float[np.ndarray, " columns"],
        logits: Callable[[slice, Int[np.ndarray, " trained"]], Float[np.ndarray, "classes trained block"]]
        | None = None,
    ) -> _Point:
        """The penalised loss of each problem, its gradient and the probabilities: one pass.

        Args:
            W: weights of each problem.
            fold: of each problem.
            penalty: as `penalty()` gives it.
            logits: those that W gives, of a block of rows and some problems, but for a number a row; that is half a pass.
        """
        classes, problems, width = W.shape
        value = 0.5 * _dot(W * penalty, W)
        gradient = W * penalty
        logs = np.zeros((classes, problems, len(self.rows)), dtype=W.dtype)

        def of_blocks(blocks: list[slice]) -> tuple[Float64[np.ndarray, " problems"], Float[np.ndarray, "..."]]:
            loss, slope = np.zeros(problems), np.zeros_like(W)
            for block in blocks:
                trained, weights, rows = self._trained(block, fold)
                if not len(trained):
                    continue
                own = (self.codes[block], slice(None), np.arange(len(rows)))
                # Classes come first in memory, rows last, so that sums over classes run along whole vectors.
                if logits is None:
                    log = (W[:, trained].reshape(-1, width) @ rows.T).reshape(classes, -1, len(rows))
                else:
                    log = logits(block, trained)
                log -= log.max(axis=0)
                chances = np.exp(log)
                total = chances.sum(axis=0)
                log -= np.log(total)
                logs[:, trained, block] = log
                loss[trained] -= np.vecdot(weights, log[own].T)
                chances *= weights / total
                residual = chances
                residual[own] -= weights.T
                slope[:, trained] += (residual.reshape(-1, len(rows)) @ rows).reshape(classes, -1, width)
            return loss, slope

        for loss, slope in self.workers.share(of_blocks, self._blocks(problems)):
            value += loss
            gradient += slope
        return _Point(W, value, gradient, logs, penalty)

    def curvature_along(
        self,
        direction: Float[np.ndarray, "classes problems columns"],
        logs: Float[np.ndarray, "classes all rows"],
        which: Int[np.ndarray, " problems"],
        fold: Int[np.ndarray, " problems"],
        penalty: Float[np.ndarray, " columns"],
        changes: Float[np.ndarray, "classes all rows"] | None = None,
    ) -> Float[np.ndarray, "classes problems columns"]:
        """The Hessian of each problem times a direction: one pass.

        Args:
            direction: one of each problem.
            logs: log-probabilities of all problems of a point; `which` of them are meant.
            which: see above.
            fold: of each problem.
            penalty: as `penalty()` gives it.
            changes: where to write what the direction adds to the logits.
        """
        classes, problems, width = direction.shape

        def of_blocks(blocks: list[slice]) -> Float[np.ndarray, "classes problems columns"]:
            curved = np.zeros_like(direction)
            for block in blocks:
                trained, weights, rows = self._trained(block, fold)
                if not len(trained):
                    continue
                chances = np.exp(logs[:, which[trained], block])
                change = (direction[:, trained].reshape(-1, width) @ rows.T).reshape(classes, -1, len(rows))
                if changes is not None:
                    changes[:, which[trained], block] = change
                change -= (chances * change).sum(axis=0)
                change *= chances
                change *= weights
                curved[:, trained] += (change.reshape(-1, len(rows)) @ rows).reshape(classes, -1, width)
            return curved

        product: Float[np.ndarray, "classes problems columns"] = direction * penalty
        for curved in self.workers.share(of_blocks, self._blocks(problems)):
            product += curved
        return product

    def add(
        self,
        sums: Float[np.ndarray, "classes all rows"],
        terms: Float[np.ndarray, "classes all rows"],
        factor: Float64[np.ndarray, " problems"],
        which: Int[np.ndarray, " problems"],
        fold: Int[np.ndarray, " problems"],
    ) -> None:
        """Add the terms of some problems, each times its factor, where their folds train."""

        def of_blocks(blocks: list[slice]) -> None:
            for block in blocks:
                trained = self._trained(block, fold)[0]
                more = terms[:, which[trained], block]
                more *= _spread(factor[trained], more)
                sums[:, which[trained], block] += more

        self.workers.share(of_blocks, self._blocks(len(fold)))

    def preconditioner(
        self, point: _Point, fold: Int[np.ndarray, " problems"], penalty: Float[np.ndarray, " columns"]
    ) -> _Preconditioner:
        """The curvature of the penalised loss, were the curvature of each class the same in all rows."""
        chance = np.zeros(point.logs.shape[:2])

        def of_blocks(blocks: list[slice]) -> Float64[np.ndarray, "classes problems"]:
            total = np.zeros_like(chance)
            for block in blocks:
                p = np.exp(point.logs[:, :, block])
                total += np.vecdot(p * (1 - p), self.weights[fold, block])
            return total

        for total in self.workers.share(of_blocks, self._blocks(len(fold))):
            chance += total
        chance /= self.totals[fold]
        along, others = self.energy
        # Every leading direction but the intercept, the last, is penalised as the first column is.
        leading = chance[:, :, None] * along[fold] + np.append(np.full(along.shape[1] - 1, penalty[0]), 0)
        rest = (chance * others[fold] + penalty[0])[:, :, None]
        floor = np.finfo(penalty.dtype).eps * np.maximum(leading.max(axis=(0, 2)), rest.max(axis=(0, 2)))[:, None]
        rest = np.maximum(rest, floor)
        correction = 1 / np.maximum(leading, floor) - 1 / rest
        return _Preconditioner(self.leading, (1 / rest).astype(penalty.dtype), correction.astype(penalty.dtype))

    def _blocks(self, problems: int) -> Iterator[slice]:
        """Rows in pieces whose logits stay in the processor's cache."""
        step = int(np.clip(_BLOCK // (self.classes * problems), 128, 1024))
        return _slices(len(self.rows), step)

    def _trained(
        self, block: slice, fold: Int[np.ndarray, " problems"]
    ) -> tuple[Int[np.ndarray, " trained"], Float[np.ndarray, "trained block"], Float[np.ndarray, "block columns"]]:
        """The problems whose fold trains on any row of the block, with their weights of its rows, and the rows."""
        trained = np.flatnonzero(self.weights[fold, block].any(axis=1))
        return trained, self.weights[fold[trained], block], self.rows[block]


@dataclass(frozen=True)
class _PathPoint:
    """What one strength gave on the held-out rows (as pairs of fold and row), and its mean weights over folds."""

    scores: Float64[np.ndarray, " held"]
    held_weights: Float64[np.ndarray, " held"]
    fold_scores: Float64[np.ndarray, " folds"]
    mean_weights: Float[np.ndarray, "classes 1 columns"]

    @property
    def score(self) -> float:
        return float(np.average(self.scores, weights=self.held_weights))

    def is_worse_than(self, best: _PathPoint) -> bool:
        """Worse by more than one standard error of the difference, row by row, weights taken as numbers of rows."""
        lead = best.scores - self.scores
        mean = np.average(lead, weights=self.held_weights)
        variance = np.average((lead - mean) ** 2, weights=self.held_weights)
        return bool(mean > np.sqrt(variance / self.held_weights.sum()))


def _follow(
    problem: _Problem, strengths: Float64[np.ndarray, " strengths"], held: Float64[np.ndarray, "folds rows"]
) -> Iterator[_PathPoint]:
    """Solve all folds at one strength after the other, strongest first, and score each on its held-out rows."""
    scored, rows = np.nonzero(held)
    held_weights = held[scored, rows]
    before: _Solution | None = None
    last: _Solution | None = None
    for i, strength in enumerate(strengths):
        start: Float[np.ndarray, "classes folds columns"] | _Point = problem.first_guess()
        if last is not None:
            start = last.weights if last.point is None else last.point
        if last is not None and before is not None and (last.point is None or strengths[i - 1] < _FAR * strength):
            ahead = np.log(strength / strengths[i - 1]) / np.log(strengths[i - 1] / strengths[i - 2])
            start = _line_through(problem, before, last, ahead)
        before, last = last, _minimise(problem, strength, start, _PATH_TOLERANCE)
        scores = _held_out_scores(problem, last.weights, scored, rows)
        fold_scores = np.bincount(scored, scores * held_weights) / np.bincount(scored, held_weights)
        yield _PathPoint(scores, held_weights, fold_scores, last.weights.mean(axis=1, keepdims=True))


def _held_out_scores(
    problem: _Problem,
    weights: Float[np.ndarray, "classes folds columns"],
    fold: Int[np.ndarray, " held"],
    row: Int[np.ndarray, " held"],
) -> Float64[np.ndarray, " held"]:
    """Minus the Brier score of rows, each by the weights of the fold that goes with it."""
    scores = np.empty(len(row))

    def of_blocks(blocks: list[slice]) -> None:
        for block in blocks:
            for k in np.unique(fold[block]):
                pairs = block.start + np.flatnonzero(fold[block] == k)
                error = softmax(problem.rows[row[pairs]] @ weights[:, k].T)
                error[np.arange(len(pairs)), problem.codes[row[pairs]]] -= 1
                scores[pairs] = -np.square(error).sum(axis=1, dtype=np.float64)

    problem.workers.share(of_blocks, _slices(len(row), 1024))
    return scores


def _line_through(
    problem: _Problem, before: _Solution, last: _Solution, ahead: float
) -> Float[np.ndarray, "classes folds columns"] | _Point:
    """Where the line through two solutions of all folds leads; half a pass if their logits were kept, none if not."""
    change = last.weights - before.weights
    if before.point is None or last.point is None:
        through: Float[np.ndarray, "classes folds columns"] = last.weights + last.weights.dtype.type(ahead) * change
        return through
    folds = np.arange(len(problem.weights))
    step = _Step(change, last.point.logs - before.point.logs)
    return step.taken(problem, folds, last.point, np.full(len(folds), ahead))


@dataclass(frozen=True)
class _Point:
    """Where some problems stand: weights, objective, gradient and the log-probabilities of all rows."""

    weights: Float[np.ndarray, "classes problems columns"]
    value: Float64[np.ndarray, " problems"]
    gradient: Float[np.ndarray, "classes problems columns"]
    logs: Float[np.ndarray, "classes problems rows"]
    penalty: Float[np.ndarray, " columns"]

    def under(self, penalty: Float[np.ndarray, " columns"]) -> _Point:
        """The same weights with another penalty: that takes no pass."""
        more = self.weights * (penalty - self.penalty)
        value = self.value + 0.5 * _dot(more, self.weights)
        return _Point(self.weights, value, self.gradient + more, self.logs, penalty)

    def of(self, problems: Int[np.ndarray, " some"]) -> _Point:
        """Some of the problems; the point itself where that is all of them."""
        if len(problems) == len(self.value):
            return self
        return _Point(
            self.weights[:, problems],
            self.value[problems],
            self.gradient[:, problems],
            self.logs[:, problems],
            self.penalty,
        )

    @classmethod
    def side_by_side(cls, parts: list[tuple[Int[np.ndarray, " problems"], _Point]]) -> _Point:
        """One point from several, each given with the numbers of its problems."""
        if len(parts) == 1:
            return parts[0][1]
        order = np.argsort(np.concatenate([problems for problems, _ in parts]))
        points = [point for _, point in parts]
        return cls(
            np.concatenate([point.weights for point in points], axis=1)[:, order],
            np.concatenate([point.value for point in points])[order],
            np.concatenate([point.gradient for point in points], axis=1)[:, order],
            np.concatenate([point.logs for point in points], axis=1)[:, order],
            points[0].penalty,
        )


@dataclass(frozen=True)
class _Step:
    """A change of the weights, and of the logits where there is room to keep that."""

    weights: Float[np.ndarray, "classes problems columns"]
    logits: Float[np.ndarray, "classes problems rows"] | None

    def taken(
        self,
        problem: _Problem,
        fold: Int[np.ndarray, " problems"],
        point: _Point,
        part: Float64[np.ndarray, " problems"],
    ) -> _Point:
        """Where a part of the step leads, each problem's own."""
        W = point.weights + _spread(part, point.weights) * self.weights
        change = self.logits
        if change is None:
            return problem.at(W, fold, point.penalty)

        def logits(block: slice, trained: Int[np.ndarray, " trained"]) -> Float[np.ndarray, "classes trained block"]:
            moved: Float[np.ndarray, "classes trained block"] = change[:, trained, block]
            moved *= _spread(part[trained], moved)
            moved += point.logs[:, trained, block]
            return moved

        return problem.at(W, fold, point.penalty, logits)


@dataclass(frozen=True)
class _Preconditioner:
    """An inverse Hessian that is known along some directions and the same along all others."""

    leading: Float[np.ndarray, "columns directions"]
    rest: Float[np.ndarray, "classes problems 1"]
    correction: Float[np.ndarray, "classes problems directions"]

    def of(self, problems: Int[np.ndarray, " some"]) -> _Preconditioner:
        return _Preconditioner(self.leading, self.rest[:, problems], self.correction[:, problems])

    def times(
        self, vector: Float[np.ndarray, "classes problems columns"]
    ) -> Float[np.ndarray, "classes problems columns"]:
        """The product, without its mean over classes: the same added to all classes changes no probability."""
        # As plain matrices: of a stack of matrices with a row a problem the products took ten times as long.
        along = (vector.reshape(-1, vector.shape[-1]) @ self.leading).reshape(self.correction.shape)
        along *= self.correction
        product: Float[np.ndarray, "classes problems columns"] = vector * self.rest
        product += (along.reshape(-1, along.shape[-1]) @ self.leading.T).reshape(vector.shape)
        product -= product.mean(axis=0)
        return product


@dataclass(frozen=True)
class _Solution:
    weights: Float[np.ndarray, "classes folds columns"]
    iterations: Int[np.ndarray, " folds"]
    point: _Point | None  # of all folds, if logits are kept


def _minimise(
    problem: _Problem,
    strength: float,
    start: Float[np.ndarray, "classes folds columns"] | _Point,
    tolerance: float,
) -> _Solution:
    """Solve every fold's problem at one strength by truncated Newton steps, stacked.

    A problem is solved when its squared Newton decrement, measured with the preconditioner, is at most `tolerance`
    times its objective, or when rounding is larger than what is left to gain.

    Args:
        problem: rows and the weights of the folds.
        strength: of the penalty.
        start: first weights, or where another strength left all folds.
        tolerance: see above.
    """
    solved = (start.weights if isinstance(start, _Point) else start).copy()
    iterations = np.full(len(problem.weights), _MAX_ITERATIONS)
    penalty = problem.penalty(strength)
    keep = problem.keeps_logits(len(problem.weights))
    parts: list[tuple[Int[np.ndarray, " problems"], _Point]] = []
    for stack in problem.stacks():
        fold = stack
        point = start.under(penalty) if isinstance(start, _Point) else problem.at(start[:, fold], fold, penalty)
        before = np.full(len(fold), np.inf)
        level = np.zeros(len(fold), dtype=bool)
        for iteration in range(_MAX_ITERATIONS):
            preconditioner = problem.preconditioner(point, fold, penalty)
            decrement = _dot(point.gradient, preconditioner.times(point.gradient))
            finished = (decrement <= tolerance * point.value) | (level & (decrement > 0.5 * before))
            if finished.any():
                solved[:, fold[finished]] = point.weights[:, finished]
                iterations[fold[finished]] = iteration
                if keep:
                    parts.append((fold[finished], point.of(np.flatnonzero(finished))))
                left = np.flatnonzero(~finished)
                if not len(left):
                    break
                fold, point, preconditioner, decrement = (
                    fold[left],
                    point.of(left),
                    preconditioner.of(left),
                    decrement[left],
                )
            step = _newton_step(problem, fold, point, penalty, preconditioner, tolerance)
            point, level = _search(problem, fold, point, step)
            del step  # its logits need not be there together with those of the next
            before = decrement
        else:
            solved[:, fold] = point.weights
            parts.append((fold, point))
    return _Solution(solved, iterations, _Point.side_by_side(parts) if keep else None)


def _newton_step(
    problem: _Problem,
    fold: Int[np.ndarray, " problems"],
    point: _Point,
    penalty: Float[np.ndarray, " columns"],
    preconditioner: _Preconditioner,
    tolerance: float,
) -> _Step:
    """Solve Hessian x step = -gradient by conjugate gradients, the more exactly the nearer the minimum is."""
    step = np.zeros_like(point.weights)
    logits = changes = None
    if problem.keeps_logits(len(fold)):
        logits, changes = np.zeros_like(point.logs), np.empty_like(point.logs)
    residual = -point.gradient
    direction = preconditioner.times(residual)
    size = _dot(residual, direction)
    enough = np.maximum(np.clip(size / point.value, 1e-6, 0.1) * size, 0.3 * tolerance * point.value)
    pending = np.arange(len(fold))
    for _ in range(_MAX_INNER):
        along = direction[:, pending]
        curved = problem.curvature_along(along, point.logs, pending, fold[pending], penalty, changes)
        # Rounding can take all curvature from a direction that matters to no row.
        curvature = np.maximum(_dot(along, curved), np.finfo(along.dtype).eps * size[pending])
        length = size[pending] / curvature
        step[:, pending] += _spread(length, along) * along
        if logits is not None and changes is not None:
            problem.add(logits, changes, length, pending, fold[pending])
        residual[:, pending] -= _spread(length, along) * curved
        scaled = preconditioner.of(pending).times(residual[:, pending])
        left = _dot(residual[:, pending], scaled)
        direction[:, pending] = scaled + _spread(left / size[pending], along) * along
        size[pending] = left
        pending = pending[left > enough[pending]]
        if not len(pending):
            break
    return _Step(step, logits)


def _search(
    problem: _Problem,
    fold: Int[np.ndarray, " problems"],
    point: _Point,
    step: _Step,
) -> tuple[_Point, Bool[np.ndarray, " problems"]]:
    """Take the whole step where that will do, else half of it and so on, each problem its own part.

    A step will do if it lowers the objective enough (Armijo), or, where the change is within rounding, if the slope has
    flattened (the approximate Wolfe condition of Hager & Zhang 2005, SIAM J. Optim. 16:170).

    Returns:
        The new point, and where it is level with the old one within rounding.
    """
    descent = -_dot(point.gradient, step.weights)
    # The log loss of a row is a difference of logits, with an error that does not shrink with the loss.
    rounding = 8 * np.finfo(point.weights.dtype).eps * (point.value + problem.totals[fold])
    part = np.ones(len(fold))
    for _ in range(_MAX_HALVINGS):
        ahead = step.taken(problem, fold, point, part)
        flat = _dot(ahead.gradient, step.weights) <= 0.8 * descent
        level = ahead.value <= point.value + rounding
        will_do = (ahead.value <= point.value - 1e-4 * part * descent) | (level & flat)
        if will_do.all():
            break
        part[~will_do] *= 0.5
    else:
        part[~will_do] = 0
        ahead = step.taken(problem, fold, point, part)
    return ahead, ahead.value >= point.value - rounding


def _dot(
    a: Float[np.ndarray, "classes problems columns"], b: Float[np.ndarray, "classes problems columns"]
) -> Float64[np.ndarray, " problems"]:
    """Inner product of each problem."""
    products: Float64[np.ndarray, " problems"] = np.vecdot(a, b).sum(axis=0, dtype=np.float64)
    return products


def _spread(
    factor: Float64[np.ndarray, " problems"], like: Float[np.ndarray, "classes problems columns"]
) -> Float[np.ndarray, "1 problems 1"]:
    """One factor a problem, shaped and typed to multiply an array of all problems."""
    spread: Float[np.ndarray, "1 problems 1"] = factor.astype(like.dtype)[None, :, None]
    return spread


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def row_weights(
    sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None, rows: int
) -> Float64[np.ndarray, " rows"]:
    """Weights as an array, 1 for each row where none are given.

    Raises:
        ValueError: not one finite number a row, one is below 0, or all are 0.
    """
    if sample_weight is None:
        return np.ones(rows)
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight must be {rows} numbers, one a row; got shape {weight.shape}")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("sample_weight must be finite and not below 0")
    if not weight.any():
        raise ValueError("sample_weight holds nothing but zeros: no row is left to learn from")
    return weight


def refuse_nonfinite(X: Float[np.ndarray, "rows dim"]) -> None:
    """Raise if a row holds NaN or infinity. The sums of rows find candidates without a mask as large as X."""
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~np.isfinite(X.sum(axis=1)))
    bad = suspects[~np.isfinite(X[suspects]).all(axis=1)]
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(X)} rows of X hold NaN or infinite values, first row {bad[0]}: leave them out"
        )
