"""New classes for a linear classifier whose old ones stay as they are.

This module knows how to fit the rows of new classes beside frozen rows, and which items of the old classes to keep for
that: of any classifier with one row of weights a class (`extend_linear`), and of a fitted column (`add_classes`). scipy
is imported by `extend_linear`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.recognition.columns import Exemplars, Fitted
from chiasm.recognition.heads import Head
from chiasm.recognition.modalities import ModalityArrays, Subset

_MAX_ITERATIONS = 2_000


def choose_exemplars(
    X: Float[np.ndarray, "items dim"],
    codes: Int[np.ndarray, " items"],
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
    """
    rows = X.astype(np.float64)
    rng = np.random.default_rng(seed)
    members = (rng.permutation(np.flatnonzero(codes == k)) for k in np.unique(codes))
    return np.concatenate([_herd(rows, of_class, per_class) for of_class in members])


def extend_linear(
    coef: Float[np.ndarray, "old dim"],
    intercept: Float[np.ndarray, " old"],
    *,
    exemplars: Float[np.ndarray, "exemplars dim"],
    exemplar_codes: Int[np.ndarray, " exemplars"],
    new_X: Float[np.ndarray, "new dim"],
    new_codes: Int[np.ndarray, " new"],
    strength: float,
    old_counts: Int[np.ndarray, " old"],
) -> tuple[Float[np.ndarray, "classes dim"], Float[np.ndarray, " classes"]]:
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
        coef: one row a class, also for two classes.
        intercept: one number a class.
        exemplars: stored items of the old classes; see `choose_exemplars`.
        exemplar_codes: their classes, by row of `coef`; some of each.
        new_X: items of the new classes.
        new_codes: their classes, going on from the old ones: the first new class is number `len(coef)`; some of each.
        strength: of the L2 penalty, best the one that the old rows were fitted with.
        old_counts: how many items of each old class the old rows were fitted to.

    Returns:
        Rows and intercepts of old and new classes, the old ones bit by bit as they were.
    """
    from scipy.optimize import minimize

    old, dim = coef.shape
    weights, added_codes = coef.astype(np.float64), new_codes - old
    kept_counts = np.bincount(exemplar_codes, minlength=old)
    X = np.vstack([exemplars, new_X]).astype(np.float64)
    centre = X.mean(axis=0)
    item_weights = np.concatenate([(old_counts / kept_counts)[exemplar_codes], np.ones(len(new_X))])
    old_logits = X @ weights.T + intercept
    X -= centre  # the intercept takes it up; without it the two would be hard to tell apart
    # The penalised solution lies in the span of the items, which has few dimensions where they are few.
    basis = np.linalg.qr(X.T)[0] if len(X) < dim else np.eye(dim)
    X = X @ basis
    new, width = int(added_codes.max()) + 1, X.shape[1]
    codes = np.concatenate([exemplar_codes, new_codes])

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
    solution = minimize(
        loss, start.ravel(), jac=True, method="L-BFGS-B",
        options={"maxiter": _MAX_ITERATIONS, "maxfun": 2 * _MAX_ITERATIONS, "ftol": 1e-13, "gtol": 1e-7 * item_weights.sum()},
    )  # fmt: skip
    rows = solution.x.reshape(new, width + 1)
    new_coef = rows[:, :width] @ basis.T
    return (
        np.vstack([coef, new_coef.astype(coef.dtype)]),
        np.append(intercept, (rows[:, width] - new_coef @ centre).astype(intercept.dtype)),
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


def add_classes(
    old: Fitted,
    arrays: ModalityArrays,
    known: Subset,
    new: Shaped[np.ndarray, " new"],
    codes: Int[np.ndarray, " items"],
) -> Fitted:
    """Return a column that knows more classes; its old rows are what they were.

    Args:
        old: the column.
        arrays: embeddings of items of the new classes.
        known: modalities among them that the column knows.
        new: the new classes, sorted.
        codes: the new class of each item.

    Raises:
        LabelError: heads are not linear, or the one modality that the column goes by lacks examples.
    """
    if not all(head.is_linear for head in old.heads.values()) or old.network is not None or old.stack is not None:
        raise LabelError(
            f"classes can be added to linear heads only, not to {old.details.rung} with {old.fusion} fusion: fit again with "
            "all classes"
        )
    if old.fusion == "single" and old.best is not None:
        shown = np.unique(codes[arrays.having((old.best,))]) if old.best in known else np.arange(0)
        if len(shown) < len(new):
            raise LabelError(f"the recogniser goes by {old.best} alone: give examples of every new class that have it")
    assert old.exemplars is not None and old.counts is not None  # of classes there always are
    number = len(old.names)
    every = np.concatenate([old.names, new])
    order = np.argsort(every, kind="stable")
    place = np.empty(len(every), dtype=np.int64)
    place[order] = np.arange(len(every))
    heads: dict[Subset, Head] = {}
    for part, head in old.heads.items():
        rows = arrays.having(part) if set(part) <= set(known) else np.arange(0)
        if len(rows):
            heads[part] = _extended_head(old, part, old.features.rows(arrays, part, rows), codes[rows], place)
        else:
            heads[part] = replace(head, known=place[head.known])
    for part in [part for part in heads if len(part) > 1]:
        others = [heads[one].known for one in heads if set(one) < set(part)]
        if not np.isin(np.concatenate(others), heads[part].known).all():
            del heads[part]
    counts = np.zeros(len(every), dtype=np.int64)
    counts[place[:number]] = old.counts
    counts[place[number:]] = np.bincount(codes)
    return replace(
        old,
        names=every[order],
        heads=heads,
        calibrations={},
        sets={},
        detectors={},
        exemplars=Exemplars(
            old.exemplars.arrays.joined(arrays.only(old.features.modalities)),
            np.concatenate([place[old.exemplars.codes], place[number + codes]]),
        ),
        counts=counts,
        held_out=None,
    )


def _extended_head(
    old: Fitted,
    part: Subset,
    rows: Float[np.ndarray, "rows dim"],
    codes: Int[np.ndarray, " rows"],
    place: Int[np.ndarray, " every"],
) -> Head:
    """Return a head with rows for the new classes; `place` is the position of old, then new classes among all."""
    assert old.exemplars is not None and old.counts is not None
    head, exemplars = old.heads[part], old.exemplars
    kept = exemplars.arrays.having(part)
    kept = kept[np.isin(exemplars.codes[kept], head.known)]
    # Classes known by their name alone have no examples to tell the new ones from.
    seen, exemplar_codes = np.unique(exemplars.codes[kept], return_inverse=True)
    facing = np.searchsorted(head.known, seen)
    added, dense = np.unique(codes, return_inverse=True)
    coef, intercept = extend_linear(
        head.tensors["coef"][facing],
        head.tensors["intercept"][facing],
        exemplars=old.features.rows(exemplars.arrays, part, kept),
        exemplar_codes=exemplar_codes,
        new_X=rows,
        new_codes=dense + len(seen),
        strength=head.numbers.get("strength", 1.0),
        old_counts=np.maximum(old.counts[seen], 1),
    )
    joint = np.concatenate([place[head.known], place[len(old.names) + added]])
    sorting = np.argsort(joint)
    tensors = {
        "coef": np.vstack([head.tensors["coef"], coef[len(seen) :]])[sorting],
        "intercept": np.append(head.tensors["intercept"], intercept[len(seen) :])[sorting],
    }
    return Head(head.rung, joint[sorting], tensors, head.numbers, head.items + len(rows))
