"""The linear solver: frozen embeddings -> classes, labels or numbers, the strength of the penalty chosen by held-out loss.

`fit_classes` (softmax), `fit_labels` (one sigmoid a label) and `fit_numbers` (squares) minimise `sum_i w_i * loss_i +
strength / 2 * ||coef||^2`, the intercept not penalised, and predict every row from the rows of other folds on the way.
Which modalities, names of classes and saving are left to `chiasm.recognition.recognizer`. Plain NumPy.

How it is solved (a pass is the two matrix products of one gradient, or of one product with the Hessian):

1. The rows are centred and rotated into the eigenvectors of X'X, found from the Gram matrix of the rows where these are
   fewer than the columns. There X'X is diagonal, and so would the Hessian be, were the curvature of a class the same in
   all rows (Boehning 1992, Ann. Inst. Statist. Math. 44:197): a preconditioner that costs no product.
2. Squares need nothing more: every strength and held-out row follows in closed form (`_held_out_errors`).
3. Else all folds are solved together, their weights stacked, so that a pass is one pair of products for all of them, by
   the truncated Newton method (`chiasm.recognition.newton`).
4. The strengths are followed from the strongest to the weakest, each starting from the line through the last two
   solutions, linear in log(strength): 3 to 9 passes a problem, where solving all strengths from zero took 10 to 30. The
   last fit, of all rows, starts from the mean of the folds, moved along that line by the logarithm of how many more the
   rows are (at 100,000 x 1,280 one Newton step of three less).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped
from threadpoolctl import ThreadpoolController

from chiasm.cores import limit_threads
from chiasm.errors import LabelError
from chiasm.recognition.newton import MAX_ITERATIONS, Loss, Problems, Sigmoid, Softmax, Weights, minimise
from chiasm.vectors import Unchecked, brier_scores, sigmoid, softmax

_DECADES = np.linspace(2, -6, 17)  # the default strengths, as powers of ten relative to the rows' variance
_UNTUNED = 1e-3  # relative strength where nothing can be held out; macro-F1 at 1 shot is flat around it
_PATIENCE = 3  # strengths in a row that must be worse than the best before the default path stops
_FEWEST_POSITIVE = 2  # held-out rows with a label below which it has no part in choosing the strength
_NUMBER_STRONGEST, _NUMBER_WEAKEST, _NUMBER_PER_DECADE = 1, -7, 4  # powers of ten of the sum, the mean of squares
_NUMBER_UNTUNED = 1e-2  # of the sum of squares, where nothing can be held out

_PATH_TOLERANCE = 3e-4  # leaves an error in the losses of a third of their standard error at most, mostly far less
_FAR = 5  # ratio of strengths over which a line through solutions leads nowhere better than the last solution
_ROWS_A_COLUMN = 8  # rows from which the eigenvectors are found; with all rows no pass less
_WORTH_THREADS = 2**31  # multiplications a pass from which more than one thread is worth its risk
_BLOCK = 2**22  # numbers of a fold's matrices at several strengths at once: 32 MB


@dataclass(frozen=True, eq=False)
class LinearFit:
    """Fitted weights, and every row predicted without it.

    Attributes:
        coef: outputs = rows @ coef.T + intercept. One row a class (of two, the first is zeros), label or number.
        intercept: not penalised.
        strength: the one taken.
        strengths: those compared, strongest first; the one alone where no row can be held out.
        losses: of each held-out row at each strength, lower is better: the Brier score of classes; of labels the sum of
            the squared errors, each in units of the label's mean one if its frequency alone is known; the squared error
            of a number. NaN where the row is not held out.
        held_out: logits or numbers of each row by the rows of other folds, at the strength taken, logits to the precision
            of the choice where there is one (an error of probabilities of at most about 0.005); NaN where the row is not held out or the label not known.
        iterations: of the last fit.
    """

    coef: Float[np.ndarray, "outputs dim"]
    intercept: Float[np.ndarray, " outputs"]
    strength: float
    strengths: Float64[np.ndarray, " strengths"]
    losses: Float64[np.ndarray, "rows strengths"]
    held_out: Float[np.ndarray, "rows outputs"]
    iterations: int


def fit_classes(
    X: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    *,
    fold_of: Int[np.ndarray, " rows"],
    weight: Float[np.ndarray, " rows"] | None = None,
    strengths: Iterable[float] | None = None,
) -> LinearFit:
    """Fit multinomial logistic regression, the strength chosen by the Brier score of held-out rows.

    Measured on 16 sets of few and of many shots (image and text embeddings of two collections, planted mixtures with and
    without label noise), against the best strength in hindsight: Brier score lost 0.007 (few) and 0.011 (many) of
    macro-F1, log loss 0.008 and 0.013, accuracy with ties to the stronger 0.022 and 0.011, and the one-standard-error
    rule on log loss 0.013 and 0.019, so there is no such rule here. Log loss lets a few confident mistakes decide;
    accuracy is full of ties at few shots.

    Args:
        X: rows, finite.
        codes: their classes, 0, 1 and so on, with a row of each.
        fold_of: the fold that holds a row out, -1 where it is learned from in every fold. A row whose class no row
            outside of its fold has is learned from in every fold, too.
        weight: of each row; 2 is the same as the row twice, 0 as no row.
        strengths: what to choose from, each above 0; by default half decades from 100 times the mean squared distance of
            the rows from their mean (there, little more than the class shares is left) down to 1e-6 of it, until three
            in a row are worse than the best by more than a standard error. Where no row can be held out: 1e-3 of that
            distance, or the nearest of `strengths`.

    Raises:
        LabelError: there is one class only, or a strength is not finite and above 0.
    """
    row_weight = np.ones(len(X)) if weight is None else np.asarray(weight, dtype=np.float64)
    used = np.flatnonzero(row_weight)
    fold_of = stay_in_training(codes[used], fold_of[used])
    order = np.argsort(fold_of, kind="stable")  # rows of one fold side by side
    fold_of, used = fold_of[order], used[order]
    codes, row_weight = codes[used], row_weight[used]
    counts = np.bincount(codes)
    if len(counts) < 2 or not counts.all():
        raise LabelError(f"codes must be 0, 1 and so on, 2 classes at least, each of some rows; got {np.unique(codes)}")
    loss: Loss = Softmax(codes, len(counts)) if len(counts) > 2 else Sigmoid(codes[None] == 1)
    folds = np.unique(fold_of[fold_of >= 0])
    whole = Problems(row_weight[None].astype(X.dtype), np.zeros(1, dtype=np.int64), np.full(1, -1))
    parts = Problems(
        (row_weight * (fold_of != folds[:, None])).astype(X.dtype), np.zeros(len(folds), dtype=np.int64), folds
    )

    def losses(outputs: Float[np.ndarray, "rows outputs"]) -> Float64[np.ndarray, " rows"]:
        return brier_scores(softmax(_with_first(outputs) if len(counts) == 2 else outputs), codes)

    fit = _fit_path(_Task(X, used, fold_of, row_weight, loss, whole, parts, losses), strengths, choose=len(folds) > 0)
    if len(counts) > 2:
        return fit
    return replace(
        fit,
        coef=np.vstack([0 * fit.coef, fit.coef]),
        intercept=np.append(0 * fit.intercept, fit.intercept),
        held_out=_with_first(fit.held_out),
    )


def fit_labels(
    X: Float[np.ndarray, "rows dim"],
    Y: Bool[np.ndarray, "rows labels"],
    *,
    fold_of: Int[np.ndarray, " rows"],
    known: Bool[np.ndarray, "rows labels"] | None = None,
    strengths: Iterable[float] | None = None,
) -> LinearFit:
    """Fit one logistic regression a label over the rows whose label is known, one strength for all of them.

    The strength is the one with the least held-out Brier score, on average over labels, each in units of the score that
    its frequency alone would give, so that rare labels count as much as common ones. Labels that fewer than two of the
    rows that are held out have tell nothing: from the others alone, the strongest penalty looks best.

    Args:
        X: rows, finite.
        Y: their labels.
        fold_of: the fold that holds a row out, -1 where it is learned from in every fold. A row of a fold from which
            some label could not be learned (all other rows have it, or none has) is not scored for that label.
        known: where labels are known; by default everywhere.
        strengths: as in `fit_classes`. Where no label tells, one is taken as if no row could be held out.

    Raises:
        LabelError: a label has no row with it or none without, or a strength is not finite and above 0.
    """
    known = np.ones(Y.shape, dtype=bool) if known is None else known
    for label in range(Y.shape[1]):
        values = Y[known[:, label], label]
        if values.all() or not values.any():
            raise LabelError(f"label {label}: {'all' if len(values) and values.all() else 'no'} rows have it")
    order = np.argsort(fold_of, kind="stable")
    Y, known, fold_of = Y[order], known[order], fold_of[order]
    labels = np.arange(Y.shape[1])
    whole = Problems(known.T, labels, np.full(len(labels), -1))
    parts = _held_out_problems(Y, known, fold_of)
    telling = (Y & known & (fold_of >= 0)[:, None]).sum(axis=0) >= _FEWEST_POSITIVE
    telling &= np.isin(labels, parts.label)
    share = (Y & known).sum(axis=0) / known.sum(axis=0)

    def losses(outputs: Float[np.ndarray, "rows labels"]) -> Float64[np.ndarray, " rows"]:
        scored = known & np.isfinite(outputs) & telling
        count = np.maximum(scored.sum(axis=0), 1)
        squares = np.where(scored, np.square(sigmoid(np.where(scored, outputs, 0)) - Y), 0)
        scale = scored.any(axis=1).sum() / max(1, telling.sum()) / (count * share * (1 - share))
        relative: Float64[np.ndarray, " rows"] = np.where(scored.any(axis=1), squares @ scale, np.nan)
        return relative

    task = _Task(X, order, fold_of, np.ones(len(X)), Sigmoid(Y.T), whole, parts, losses)
    fit = _fit_path(task, strengths, choose=bool(telling.any()))
    held_out = fit.held_out.copy()
    held_out[order] = np.where(known, held_out[order], np.nan)
    return replace(fit, held_out=held_out)


def fit_numbers(
    X: Float[np.ndarray, "rows dim"],
    y: Float[np.ndarray, " rows"],
    *,
    fold_of: Int[np.ndarray, " rows"],
    strengths: Iterable[float] | None = None,
) -> LinearFit:
    """Fit ridge regression, the strength chosen by the squared error of held-out rows, all of it in closed form.

    Args:
        X: rows, finite.
        y: their numbers.
        fold_of: the fold that holds a row out, -1 where it is learned from in every fold; a fold of its own for every
            row costs no more.
        strengths: what to choose from, each above 0; by default four a decade from ten times the rows' sum of squares
            (there, the mean of y is left) down to 1e-7 of their mean square. Where no row can be held out, 1e-2 of the
            sum of squares, or the nearest of `strengths`.

    Raises:
        LabelError: fewer than two rows, or a strength that is not finite and above 0.
    """
    if len(y) < 2:
        raise LabelError(f"regression needs at least 2 items with a number; got {len(y)}")
    coordinates = _Coordinates.of(X.astype(np.float64), np.ones(len(X)), exact=True)
    rows, squares = coordinates.rows[:, :-1], coordinates.energy[:-1] * len(y)
    total = float(squares.sum()) or 1.0
    top, bottom = np.log10(total) + _NUMBER_STRONGEST, np.log10(total / len(y)) + _NUMBER_WEAKEST
    tried = _checked_strengths(strengths, np.logspace(top, bottom, int((top - bottom) * _NUMBER_PER_DECADE) + 2))
    numbers, counts = np.unique(fold_of[fold_of >= 0], return_counts=True)
    fold_of = np.where(np.isin(fold_of, numbers[counts < len(y)]), fold_of, -1)
    if not (fold_of >= 0).any():
        tried = _nearest(tried, _NUMBER_UNTUNED * total)
    mean = float(np.mean(y, dtype=np.float64))
    centred = y.astype(np.float64) - mean
    weights = (rows.T @ centred) / (squares + tried[:, None])
    errors = _held_out_errors(rows, squares, centred, weights, tried, fold_of)
    losses = np.square(errors)
    best = int(losses[fold_of >= 0].mean(axis=0).argmin()) if (fold_of >= 0).any() else 0
    coef, intercept = coordinates.restore(np.append(weights[best], mean)[None])
    return LinearFit(coef, intercept, float(tried[best]), tried, losses, (y - errors[:, best])[:, None], 1)


def _held_out_errors(
    rows: Float64[np.ndarray, "rows rank"],
    squares: Float64[np.ndarray, " rank"],
    centred: Float64[np.ndarray, " rows"],
    weights: Float64[np.ndarray, "strengths rank"],
    strengths: Float64[np.ndarray, " strengths"],
    fold_of: Int[np.ndarray, " rows"],
) -> Float64[np.ndarray, "rows strengths"]:
    """Truth less prediction of rows that were left out, fold by fold; NaN where they are not.

    The rows reproduce themselves by the matrix H = 11'/n + Z diag(1 / (s + l)) Z', with s the sums of squares of the
    orthogonal columns of Z and l the strength. The error of rows g that are held out together is (I - H_gg)^-1 (y - H y)_g
    (Hastie, Tibshirani & Friedman 2009, equation 7.64, for one row; the block form follows in the same way from the
    inverse of a partitioned matrix). It is exact: the intercept, too, is the one of the other rows.
    """
    residual = centred[:, None] - rows @ weights.T
    shrunk = 1 / (squares + strengths[:, None])
    errors: Float64[np.ndarray, "rows strengths"] = np.full_like(residual, np.nan)
    held = np.flatnonzero(fold_of >= 0)
    folds, counts = np.unique(fold_of[held], return_counts=True)
    if (counts == 1).all():
        errors[held] = residual[held] / (1 - 1 / len(rows) - np.square(rows[held]) @ shrunk.T)
        return errors
    for fold in folds:
        members = np.flatnonzero(fold_of == fold)
        part, size = rows[members], len(members)
        step = max(1, _BLOCK // (size * max(size, len(squares))))
        for first in range(0, len(strengths), step):
            block = slice(first, first + step)
            own = np.eye(size) - 1 / len(rows) - (part * shrunk[block, None]) @ part.T
            errors[members, block] = np.linalg.solve(own, residual[members, block].T[:, :, None])[:, :, 0].T
    return errors


# --------------------------------------------------------------------------------------------------- path of strengths


@dataclass(frozen=True, eq=False)
class _Task:
    """The data of a path of strengths; rows are in order of their folds."""

    X: Float[np.ndarray, "all dim"]
    place: Int[np.ndarray, " rows"]  # of the rows in X
    fold_of: Int[np.ndarray, " rows"]
    weight: Float64[np.ndarray, " rows"]  # in the coordinates and the choice
    loss: Loss
    whole: Problems  # to fit at last, one a label
    parts: Problems  # that hold out a fold
    held_out_losses: Callable[[Float[np.ndarray, "rows outputs"]], Float64[np.ndarray, " rows"]]

    @property
    def outputs(self) -> int:
        return self.loss.outputs * len(self.whole)

    def predict_held_out(
        self, rows: Float[np.ndarray, "rows columns"], weights: Weights
    ) -> Float[np.ndarray, "rows outputs"]:
        """Logits of each row by the parts that hold it out; NaN where there is none."""
        logits = np.full((len(rows), self.outputs), np.nan, dtype=rows.dtype)
        for fold in np.unique(self.parts.fold):
            held = slice(*np.searchsorted(self.fold_of, (fold, fold + 1)))
            of = np.flatnonzero(self.parts.fold == fold)
            columns = self.parts.label[of] if len(weights) == 1 else np.arange(self.outputs)
            logits[held, columns] = rows[held] @ weights[:, of].reshape(len(columns), -1).T
        return logits

    def everywhere(self, values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "all columns"]:
        """Values of all rows of X; NaN where these are not used."""
        every = np.full((len(self.X), values.shape[1]), np.nan, dtype=values.dtype)
        every[self.place] = values
        return every


@dataclass(frozen=True, eq=False)
class _Path:
    """Return the held-out losses at each strength, and for the best one the held-out logits and the weights."""

    losses: list[Float64[np.ndarray, " rows"]]
    best: int
    held_out: Float[np.ndarray, "rows outputs"]
    weights: Weights
    change: Weights  # from the strength before


def _fit_path(task: _Task, strengths: Iterable[float] | None, *, choose: bool) -> LinearFit:
    """Follow the strengths on the parts, take the best, and fit the whole with it, starting from the parts.

    Strengths of None are the default ones, until the best is behind. If held-out rows tell nothing, `choose` is false.
    """
    size = len(task.place)
    passes = size * min(size, task.X.shape[1]) * task.loss.outputs * max(len(task.whole), len(task.parts))
    with _threads(passes):
        coordinates = _Coordinates.of(task.X[task.place], task.weight)
        tried = _checked_strengths(strengths, coordinates.variance * 10.0**_DECADES)
        if not choose:
            tried = _nearest(tried, _UNTUNED * coordinates.variance)
        bounds = np.append(np.flatnonzero(np.diff(task.fold_of, prepend=-2)), size)
        solve = partial(minimise, coordinates.rows, coordinates.energy, task.loss, bounds=bounds)
        exact = 1e-8 if task.X.dtype == np.float32 else 1e-18
        path = _follow(task, solve, coordinates.rows, tried, exact, stop=strengths is None)
        strength = float(tried[path.best])
        start, near = _first_guess(task.loss, task.whole, coordinates.rows), path.weights
        if path.best:
            # A part of the rows at one strength is like all of them at a strength higher by as much as they are more.
            more = np.log(task.whole.weights.sum(axis=1).mean() / task.parts.weights.sum(axis=1).mean())
            near = near + near.dtype.type(more / np.log(tried[path.best - 1] / strength)) * path.change
        for number, label in enumerate(task.whole.label):
            same = task.parts.label == label
            if same.any():
                start[:, number] = near[:, same].mean(axis=1)
        solution, iterations = solve(task.whole, start, strength=strength, tolerance=exact)
    if iterations.max() == MAX_ITERATIONS:
        from sklearn.exceptions import ConvergenceWarning

        message = f"the solution at strength {strength:.3g} is not exact after {MAX_ITERATIONS} iterations"
        warnings.warn(f"{message}: the strength is very small for this data", ConvergenceWarning, stacklevel=4)
    coef, intercept = coordinates.restore(solution.transpose(1, 0, 2).reshape(task.outputs, -1))
    losses = np.stack(path.losses, axis=1) if path.losses else np.full((size, 1), np.nan)
    return LinearFit(
        coef,
        intercept,
        strength,
        tried[: losses.shape[1]],
        task.everywhere(losses),
        task.everywhere(path.held_out),
        int(iterations.max()),
    )


def _follow(
    task: _Task,
    solve: Callable[..., tuple[Weights, Int[np.ndarray, " problems"]]],
    rows: Float[np.ndarray, "rows columns"],
    strengths: Float64[np.ndarray, " strengths"],
    exact: float,
    *,
    stop: bool,
) -> _Path:
    """Solve all parts at one strength after the other, strongest first, and score the rows that they hold out.

    `exact` is the tolerance where there is one strength only. With `stop`, the path ends after three strengths in a row
    that are worse than the best by more than a standard error, but not while the strongest is the best: where a large
    variation tells nothing, the first few are all at chance.
    """
    before = last = _first_guess(task.loss, task.parts, rows)
    path = _Path([], 0, np.full((len(rows), task.outputs), np.nan, dtype=rows.dtype), last, 0 * last)
    means: list[float] = []
    for number, strength in enumerate(strengths if len(task.parts) else ()):
        start = last
        if number > 1 and strengths[number - 1] < _FAR * strength:
            ahead = np.log(strength / strengths[number - 1]) / np.log(strengths[number - 1] / strengths[number - 2])
            start = last + last.dtype.type(ahead) * (last - before)
        tolerance = _PATH_TOLERANCE if len(strengths) > 1 else exact
        before, last = last, solve(task.parts, start, strength=float(strength), tolerance=tolerance)[0]
        held_out = task.predict_held_out(rows, last)
        losses = [*path.losses, task.held_out_losses(held_out)]
        means.append(_weighted_mean(losses[-1], task.weight))
        if number == 0 or means[-1] < means[path.best]:
            path = _Path(losses, number, held_out, last, last - before)
        else:
            path = replace(path, losses=losses)
        recent = losses[-_PATIENCE:]
        if stop and path.best and all(_is_worse(later, losses[path.best], task.weight) for later in recent):
            break
    return path


def _first_guess(loss: Loss, problems: Problems, rows: Float[np.ndarray, "rows columns"]) -> Weights:
    """No weights, and the intercepts that give the frequencies: the solution at infinite strength."""
    guess = np.zeros((loss.outputs, len(problems), rows.shape[1]), dtype=rows.dtype)
    guess[:, :, -1] = loss.intercepts(problems)
    return guess


def _held_out_problems(
    Y: Bool[np.ndarray, "rows labels"], known: Bool[np.ndarray, "rows labels"], fold_of: Int[np.ndarray, " rows"]
) -> Problems:
    """Every fold and label that can be learned without the fold's rows and has some to score."""
    label, fold = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for number in np.unique(fold_of[fold_of >= 0]):
        learns = known & (fold_of != number)[:, None]
        able = (Y & learns).any(axis=0) & (~Y & learns).any(axis=0) & (known & ~learns).any(axis=0)
        label.append(np.flatnonzero(able))
        fold.append(np.full(int(able.sum()), number))
    labels, folds = np.concatenate(label), np.concatenate(fold)
    return Problems(known.T[labels] & (fold_of != folds[:, None]), labels, folds)


def _weighted_mean(losses: Float64[np.ndarray, " rows"], weight: Float64[np.ndarray, " rows"]) -> float:
    held = np.isfinite(losses)
    return float(np.average(losses[held], weights=weight[held])) if held.any() else float("nan")


def _is_worse(
    losses: Float64[np.ndarray, " rows"], best: Float64[np.ndarray, " rows"], weight: Float64[np.ndarray, " rows"]
) -> bool:
    """Worse by more than one standard error of the difference, row by row, weights taken as numbers of rows."""
    held = np.isfinite(losses)
    excess, weight = (losses - best)[held], weight[held]
    mean = np.average(excess, weights=weight)
    variance = np.average((excess - mean) ** 2, weights=weight)
    return bool(mean > np.sqrt(variance / weight.sum()))


def _checked_strengths(
    strengths: Iterable[float] | None, default: Float64[np.ndarray, " strengths"]
) -> Float64[np.ndarray, " strengths"]:
    """Strongest first."""
    if strengths is None:
        return default
    tried: Float64[np.ndarray, " strengths"] = np.unique(np.asarray(list(strengths), dtype=np.float64))[::-1]
    if not len(tried) or not (np.isfinite(tried) & (tried > 0)).all():
        raise LabelError(f"strengths must be one or more finite values above 0; got {strengths!r}")
    return tried


def _nearest(tried: Float64[np.ndarray, " strengths"], strength: float) -> Float64[np.ndarray, " one"]:
    """Return the strength that is nearest on a log scale."""
    number = int(np.abs(np.log(tried / strength)).argmin())
    return tried[number : number + 1]


def _with_first(outputs: Float[np.ndarray, "rows one"]) -> Float[np.ndarray, "rows two"]:
    """Logits of two classes from that of the second."""
    return np.hstack([0 * outputs, outputs])


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _threads(work: int) -> AbstractContextManager[Any]:
    """Threads of the BLAS for passes of so many multiplications.

    Those that wait for each other at every small product gain little on idle processors, and on busy ones cost ten times
    what the product does.
    """
    return limit_threads() if work >= _WORTH_THREADS else _blas().limit(limits=1)


# --------------------------------------------------------------------------------------------------------- coordinates


@dataclass(frozen=True, eq=False)
class _Coordinates:
    """Centred rows in columns that are orthogonal, or nearly so, and the way back."""

    rows: Float[np.ndarray, "rows columns"]  # the last column is ones: its weight is the intercept
    energy: Float64[np.ndarray, " columns"]  # weighted mean square of each column
    variance: float  # weighted mean squared distance of the rows from their weighted mean; 1 where it is 0
    mean: Float64[np.ndarray, " dim"]
    back: Float[np.ndarray, "dim rank"]  # row = mean + back @ coordinates

    @classmethod
    def of(
        cls, X: Float[np.ndarray, "rows dim"], weight: Float64[np.ndarray, " rows"], *, exact: bool = False
    ) -> _Coordinates:
        """Rotate rows into the eigenvectors of the smaller Gram matrix. X is used up.

        Of more rows than columns, eight times as many rows as columns tell the eigenvectors well enough, unless they
        are to be exact. Of fewer, directions in which the rows do not vary are left away.
        """
        size, dim = X.shape
        mean = X.mean(axis=0, dtype=np.float64)
        if size <= dim:
            centred = X.astype(np.float64) - mean
            values, vectors = np.linalg.eigh(centred @ centred.T)
            varies = np.flatnonzero(values > values[-1] * size * np.finfo(np.float64).eps)[::-1]  # largest first
            root = np.sqrt(values[varies])
            back = (centred.T @ (vectors[:, varies] / root)).astype(X.dtype)
            rows = np.ones((size, len(varies) + 1), dtype=X.dtype)
            rows[:, :-1] = vectors[:, varies] * root
        else:
            mean = mean.astype(X.dtype).astype(
                np.float64
            )  # what is taken from the rows must come back, to the last bit
            X -= mean.astype(X.dtype)
            sample = X if exact else X[:: max(1, size // (_ROWS_A_COLUMN * dim))]
            back = np.ascontiguousarray(np.linalg.eigh(sample.T @ sample)[1][:, ::-1])
            rows = np.ones((size, dim + 1), dtype=X.dtype)
            np.matmul(X, back, out=rows[:, :-1])
        energy = np.einsum("i,ij,ij->j", weight, rows, rows) / weight.sum()
        centre = np.einsum("i,ij->j", weight, rows[:, :-1]) / weight.sum()
        return cls(rows, energy, float(energy[:-1].sum() - centre @ centre) or 1.0, mean, back)

    def restore(
        self, weights: Float[np.ndarray, "outputs columns"]
    ) -> tuple[Float[np.ndarray, "outputs dim"], Float[np.ndarray, " outputs"]]:
        """Coefficients and intercepts of the rows of X from weights on coordinates and their constant."""
        coef = weights[:, :-1] @ self.back.T
        return coef, (weights[:, -1] - coef @ self.mean).astype(coef.dtype)


# ------------------------------------------------------------------------------------------------- weights and folds


def stay_in_training(
    codes: Int[np.ndarray, " rows"], fold_of: Int[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"] | None = None
) -> Int[np.ndarray, " rows"]:
    """Return folds without rows whose class no row outside of their fold has, nor the rest of their groups: -1 there."""
    lowest, highest = np.full(codes.max(initial=-1) + 1, np.iinfo(np.int64).max), np.full(codes.max(initial=-1) + 1, -2)
    np.minimum.at(lowest, codes, fold_of)
    np.maximum.at(highest, codes, fold_of)
    stay = (lowest == highest)[codes]
    if groups is not None:
        stay = np.isin(groups, groups[stay & (fold_of >= 0)])
    return np.where(stay, -1, fold_of)


def row_weights(
    sample_weight: Shaped[np.ndarray, " rows"] | Unchecked | None, rows: int
) -> Float64[np.ndarray, " rows"]:
    """Return weights as an array of their own, 1 for each row by default.

    Raises:
        ValueError: not one finite number a row, one is below 0, or all are 0.
    """
    if sample_weight is None:
        return np.ones(rows)
    weight = np.array(sample_weight, dtype=np.float64)
    if weight.shape != (rows,):
        raise ValueError(f"sample_weight must be {rows} numbers, one a row; got shape {weight.shape}")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("sample_weight must be finite and not below 0")
    if not weight.any():
        raise ValueError("sample_weight holds nothing but zeros: no row is left to learn from")
    return weight


def class_weights(
    codes: Int[np.ndarray, " rows"],
    weight: Float64[np.ndarray, " rows"],
    class_weight: Mapping[Any, float] | Literal["balanced"] | Unchecked | None,
    classes: Sequence[Any] | None = None,
) -> Float64[np.ndarray, " rows"]:
    """Return the weight of each row times that of its class.

    Args:
        codes: of the rows, each class with some weight.
        weight: of the rows.
        class_weight: `"balanced"` gives every class the same total weight; a mapping gives weights by class, 1 where it
            has none.
        classes: the classes by code; by default the codes themselves.

    Raises:
        ValueError: it is something else, or a weight is not above 0.
    """
    if class_weight is None:
        return weight
    number = int(codes.max()) + 1
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise ValueError(f"class_weight must be None, 'balanced' or a mapping; got {class_weight!r}")
        totals = np.bincount(codes, weights=weight, minlength=number)
        factor = totals.sum() / (number * totals)
    else:
        factor = np.array([float(class_weight.get(name, 1.0)) for name in classes or range(number)])
        if not (factor > 0).all():
            raise ValueError(f"class_weight must be above 0 for every class; got {dict(class_weight)}")
    product: Float64[np.ndarray, " rows"] = weight * factor[codes]
    return product
