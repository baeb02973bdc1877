"""New classes for a linear classifier whose old ones stay as they are.

This module knows how to fit the rows of new classes beside frozen rows, and which items of the old classes to keep for
that. The classifier itself is `chiasm.recognition.linear_probe`'s or any other with one row of weights a class. scipy is
imported by `extend_linear`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import ChiasmError, LabelError
from chiasm.recognition.confidence import check_codes
from chiasm.vectors import Unchecked

_MAX_ITERATIONS = 2_000


@dataclass(frozen=True, eq=False)
class LinearExtension:
    """A linear classifier of old and new classes: the old rows bit by bit as they were, then the new ones."""

    coef: Float[np.ndarray, "classes dim"]
    intercept: Float[np.ndarray, " classes"]
    log_loss: float
    """Mean over the weighted items that the new rows were fitted to, in nats."""


def choose_exemplars(
    X: Float[np.ndarray, "items dim"] | Unchecked,
    codes: Int[np.ndarray, " items"] | Unchecked,
    *,
    per_class: int,
    seed: int = 0,
) -> Int[np.ndarray, " exemplars"]:
    """Choose the items of each class whose mean is nearest to that of the class, by herding.

    One item after the other is taken, the one that brings the mean of those taken so far nearest to the class mean
    (Welling 2009; iCaRL, Rebuffi et al. 2017, algorithm 4). So the first items of a class are a good choice of fewer.

    Args:
        X: features, as the classifier is given them.
        codes: class numbers; numbers may be left out.
        per_class: how many items of each class; of smaller classes, all.
        seed: of the choice between equally good items.

    Returns:
        Row numbers, class after class, within a class in the order in which they were taken.

    Raises:
        ChiasmError: X is not a matrix of finite floats, or `per_class` is below 1.
        LabelError: there are no items, or codes do not fit them.
    """
    rows = _checked_rows(X, "X")
    if per_class < 1:
        raise ChiasmError(f"per_class must be at least 1; got {per_class}")
    true = check_codes(codes, len(rows))
    if not len(rows):
        raise LabelError("there are no items to choose exemplars from")
    rng = np.random.default_rng(seed)
    return np.concatenate([_herd(rows, rng.permutation(np.flatnonzero(true == k)), per_class) for k in np.unique(true)])


def extend_linear(
    coef: Float[np.ndarray, "old dim"] | Unchecked,
    intercept: Float[np.ndarray, " old"] | Unchecked,
    *,
    exemplars: Float[np.ndarray, "exemplars dim"] | Unchecked,
    exemplar_codes: Int[np.ndarray, " exemplars"] | Unchecked,
    new_X: Float[np.ndarray, "new dim"] | Unchecked,
    new_codes: Int[np.ndarray, " new"] | Unchecked,
    strength: float,
    old_counts: Int[np.ndarray, " old"] | Unchecked | None = None,
) -> LinearExtension:
    """Add classes to a softmax classifier, its old rows frozen.

    Minimises `sum_i w_i * log_loss_i + strength / 2 * ||new rows of coef||^2` over the new rows and intercepts, the
    objective of `LinearProbe`, where the old classes' logits are what they were. It is convex. Since the old rows stay,
    old classes among themselves are told apart exactly as before; an old item can be lost to a new class only.

    Exemplars are fewer than the items that they stand for. Each is weighted so that its class weighs as much as it did
    in the training of the old rows, which corrects the new intercepts for the imbalance.

    Keep as many exemplars as there is room for. (Measured on 516 embedded pictures with captions, 5 classes added to 6,
    against retraining on everything: with all items as exemplars old classes lost 0.5 points of accuracy, with 20 a
    class 2.7, with 10 a class 4.2; drawn at random instead of herded, 1.9 and 5.2.)

    Args:
        coef: one row a class, also for two classes. (Of scikit-learn's single row for two, the first class is zeros.)
        intercept: one number a class.
        exemplars: stored items of the old classes; see `choose_exemplars`.
        exemplar_codes: their classes, by row of `coef`.
        new_X: items of the new classes.
        new_codes: their classes, going on from the old ones: the first new class is number `len(coef)`.
        strength: of the L2 penalty, best the one that the old rows were fitted with.
        old_counts: how many items of each old class the old rows were fitted to. Without it every old class weighs as
            much as the mean new one.

    Raises:
        ChiasmError: arrays do not fit together or hold NaN or infinite values, or `strength` is not above 0.
        LabelError: an old class has no exemplar, a new one no item, codes are of other classes, or there are no two old
            classes.
    """
    from scipy.optimize import minimize

    old_coef, old_intercept = np.asarray(coef), np.asarray(intercept)
    weights = _checked_rows(old_coef, "coef")
    old, dim = weights.shape
    if old < 2:
        raise LabelError(
            f"coef has {old} rows: give one a class, at least 2. For a classifier with one row for two classes, put a row "
            "of zeros (and an intercept of 0) before it"
        )
    if old_intercept.shape != (old,) or old_intercept.dtype.kind != "f" or not np.isfinite(old_intercept).all():
        raise ChiasmError(f"intercept must be {old} finite floats; got {old_intercept.dtype} {old_intercept.shape}")
    if not 0 < strength < math.inf:
        raise ChiasmError(f"strength must be finite and above 0; got {strength}")
    kept, added = _checked_rows(exemplars, "exemplars", dim), _checked_rows(new_X, "new_X", dim)
    kept_codes = check_codes(exemplar_codes, len(kept), old, name="exemplar_codes")
    added_codes = check_codes(new_codes, len(added), name="new_codes") - old
    if not len(added):
        raise LabelError("there are no items of a new class: give at least one")
    if added_codes.min() < 0 or len(np.unique(added_codes)) != added_codes.max() + 1:
        raise LabelError(
            f"new_codes must go on from the {old} old classes, {old}, {old + 1} and so on, with an item of each; got "
            f"{np.unique(added_codes + old)[:10].tolist()}"
        )
    kept_counts, added_counts = np.bincount(kept_codes, minlength=old), np.bincount(added_codes)
    if not kept_counts.all():
        raise LabelError(f"old class {int(kept_counts.argmin())} has no exemplar: keep at least one of every old class")
    totals = _old_totals(old_counts, old, float(added_counts.mean()))

    X = np.vstack([kept, added])
    centre = X.mean(axis=0)
    item_weights = np.concatenate([(totals / kept_counts)[kept_codes], np.ones(len(added))])
    old_logits = X @ weights.T + old_intercept
    X -= centre  # the intercept takes it up; without it the two would be hard to tell apart
    # The penalised solution lies in the span of the items, which has few dimensions where they are few.
    basis = np.linalg.qr(X.T)[0] if len(X) < dim else np.eye(dim)
    X = X @ basis
    new, width = len(added_counts), X.shape[1]
    codes = np.concatenate([kept_codes, added_codes + old])

    def loss(flat: Float64[np.ndarray, " parameters"]) -> tuple[float, Float64[np.ndarray, " parameters"]]:
        rows = flat.reshape(new, width + 1)
        logits = np.hstack([old_logits, X @ rows[:, :width].T + rows[:, width]])
        logits -= logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits).sum(axis=1))
        own = logits[np.arange(len(codes)), codes]
        residual = np.exp(logits[:, old:] - total[:, None])
        of_new = codes >= old
        residual[of_new, codes[of_new] - old] -= 1
        residual *= item_weights[:, None]
        gradient = np.hstack([residual.T @ X + strength * rows[:, :width], residual.sum(axis=0)[:, None]])
        penalty = strength / 2 * np.square(rows[:, :width]).sum()
        return float(item_weights @ (total - own) + penalty), gradient.ravel()

    start = _first_guess(X, codes, float(np.linalg.norm(weights, axis=1).mean()), old_logits)
    found = minimize(
        loss, start.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": _MAX_ITERATIONS, "maxfun": 2 * _MAX_ITERATIONS, "ftol": 1e-13, "gtol": 1e-7 * item_weights.sum()},
    )  # fmt: skip
    rows = found.x.reshape(new, width + 1)
    penalty = strength / 2 * float(np.square(rows[:, :width]).sum())
    new_coef = rows[:, :width] @ basis.T
    return LinearExtension(
        coef=np.vstack([old_coef, new_coef.astype(old_coef.dtype)]),
        intercept=np.append(old_intercept, (rows[:, width] - new_coef @ centre).astype(old_intercept.dtype)),
        log_loss=(float(found.fun) - penalty) / float(item_weights.sum()),
    )


def _herd(
    X: Float64[np.ndarray, "items dim"], of_class: Int[np.ndarray, " members"], number: int
) -> Int[np.ndarray, " chosen"]:
    members = X[of_class]
    members = members - members.mean(axis=0)
    lengths = np.square(members).sum(axis=1)
    total = np.zeros(members.shape[1])
    left = np.ones(len(members), dtype=bool)
    chosen: list[int] = []
    for _ in range(min(number, len(members))):
        # The distance of (total + member) from the mean, 0 here; the number of members divides all alike.
        distances = np.where(left, lengths + 2 * members @ total, np.inf)
        best = int(distances.argmin())
        chosen.append(best)
        left[best] = False
        total += members[best]
    return of_class[chosen]


def _first_guess(
    X: Float64[np.ndarray, "items dim"],
    codes: Int[np.ndarray, " items"],
    length: float,
    old_logits: Float64[np.ndarray, "items old"],
) -> Float64[np.ndarray, "new columns"]:
    """Towards the mean of the new class, as long as old rows are, and level with the old classes at the centre."""
    rows = []
    for k in range(old_logits.shape[1], codes.max() + 1):
        mean = X[codes == k].mean(axis=0)
        size = np.linalg.norm(mean)
        rows.append(np.append(mean * (length / size if size > 0 else 0), old_logits.mean()))
    return np.stack(rows)


def _old_totals(
    old_counts: Int[np.ndarray, " old"] | Unchecked | None, old: int, default: float
) -> Float64[np.ndarray, " old"]:
    """What each old class weighs."""
    if old_counts is None:
        return np.full(old, default)
    counts = np.asarray(old_counts)
    if counts.shape != (old,) or counts.dtype.kind not in "iu" or (counts < 1).any():
        raise LabelError(f"old_counts must be {old} whole numbers of at least 1, one a class; got {old_counts}")
    return counts.astype(np.float64)


def _checked_rows(
    values: Shaped[np.ndarray, "..."] | Unchecked, what: str, dim: int | None = None
) -> Float64[np.ndarray, "rows dim"]:
    """A float64 copy."""
    checked = np.asarray(values)
    if checked.ndim != 2 or checked.dtype.kind != "f" or (dim is not None and checked.shape[1] != dim):
        width = "" if dim is None else f" of width {dim}, as coef"
        raise ChiasmError(f"{what} must be a matrix of floats{width}; got {checked.dtype} {checked.shape}")
    bad = np.flatnonzero(~np.isfinite(checked).all(axis=1))
    if len(bad):
        raise ChiasmError(
            f"{len(bad)} of {len(checked)} rows of {what} hold NaN or infinite values, first row {bad[0]}"
        )
    return checked.astype(np.float64)
