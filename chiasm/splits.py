"""Splits: which items are learned from and which are measured on, drawn with a seed, and what must not be divided.

Rows are named by position; what is split is left to the caller. Items of one group (the same caption, patient or
recording, embeddings that are nearly the same) are never on both sides. How labels become numbers and are dealt into
folds is `chiasm.labels`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.errors import LabelError
from chiasm.labels import Labels, Unchecked, count, deal, group_codes, label_codes


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the two sides, each ascending and without repeats."""

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]


def few_shot_split(y: Labels, shots: int, *, seed: int = 0, groups: Labels | None = None) -> Split:
    """Draw `shots` items of every class to learn from; the rest is to measure on.

    With `groups`, items that share a group with a drawn item are on neither side, so that no group is on both.

    Raises:
        LabelError: `shots` is below 1, or a class has fewer items than that.
    """
    classes, codes = label_codes(y)
    if shots < 1:
        raise LabelError(f"shots must be at least 1; got {shots}")
    sizes = np.bincount(codes, minlength=len(classes))
    if len(classes) and sizes.min() < shots:
        short = ", ".join(f"{classes[k]!s} has {sizes[k]}" for k in np.flatnonzero(sizes < shots))
        raise LabelError(
            f"{shots} shots a class were asked for, but {short}: "
            f"ask for at most {sizes.min()}, or leave these classes out"
        )
    order = np.random.default_rng(seed).permutation(len(codes))
    drawn = np.zeros(len(codes), dtype=bool)
    for k in range(len(classes)):
        drawn[order[codes[order] == k][:shots]] = True
    taken = drawn
    if groups is not None:
        group = group_codes(groups, len(codes))
        taken = np.isin(group, group[drawn])
    return Split(np.flatnonzero(drawn), np.flatnonzero(~taken))


def grouped_stratified_folds(
    y: Labels, folds: int, *, seed: int = 0, groups: Labels | None = None
) -> tuple[Split, ...]:
    """Deal items into folds so that every fold has its share of every class and no group is divided.

    Without groups, the numbers of a class in any two folds differ by at most one, and so do the folds' sizes. With
    groups, the largest groups are dealt first, each to the fold that is shortest of its classes.

    Returns:
        One split a fold: `test` is the fold, `train` all others. The tests are disjoint and cover all items.

    Raises:
        LabelError: `folds` is below 2 or above the number of groups (without groups: of items).
    """
    codes = label_codes(y)[1]
    fold = deal(codes, folds, seed=seed, groups=None if groups is None else group_codes(groups, len(codes)))
    return tuple(Split(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(folds))


def group_folds(groups: Labels, folds: int, *, seed: int = 0) -> tuple[Split, ...]:
    """Deal whole groups into folds of nearly equal size: the largest group first, each to the smallest fold.

    Returns:
        One split a fold, as `grouped_stratified_folds`.

    Raises:
        LabelError: `folds` is below 2 or above the number of groups.
    """
    return grouped_stratified_folds(np.zeros(len(groups), dtype=np.int64), folds, seed=seed, groups=groups)


def holdout_split(share: float, *, y: Labels | None = None, groups: Labels | None = None, seed: int = 0) -> Split:
    """Hold out about `share` of the items, of every class alike where `y` is given, whole groups where `groups` is.

    Without groups the held-out number of each class is within one of its share, and a class of one item stays in
    `train`. With groups the shares are met as closely as whole groups allow.

    Args:
        share: the part to hold out, between 0 and 1.
        y: labels to stratify by.
        groups: groups to keep whole. At least one of `y` and `groups` is needed.
        seed: of the draw.

    Raises:
        LabelError: neither `y` nor `groups`, a share that is not between 0 and 1, or a side that stays empty.
    """
    if not 0 < share < 1:
        raise LabelError(f"share must lie between 0 and 1; got {share}")
    if y is not None:
        codes = label_codes(y)[1]
    elif groups is not None:
        codes = np.zeros(len(groups), dtype=np.int64)
    else:
        raise LabelError("holdout_split needs y, groups or both, to know the items")
    rng = np.random.default_rng(seed)
    if groups is None:
        held = _hold_out_items(codes, share, rng)
    else:
        held = _hold_out_groups(codes, group_codes(groups, len(codes)), share, rng)
    if held.all() or not held.any():
        side = "train" if held.all() else "test"
        raise LabelError(f"a share of {share} of {len(codes)} items leaves nothing to {side}: give more items")
    return Split(np.flatnonzero(~held), np.flatnonzero(held))


@dataclass(frozen=True, eq=False)
class HeldOutClasses:
    """Classes to learn from and classes to keep for later, and the rows of each."""

    seen: tuple[Any, ...]
    unseen: tuple[Any, ...]
    split: Split  # train: all rows of seen classes, test: all rows of unseen ones


def held_out_class_split(y: Labels, share: float, *, seed: int = 0) -> HeldOutClasses:
    """Draw about `share` of the classes, of which nothing is to be learned: at least one of them, and never all.

    The draw depends on the names of the classes alone, not on the items. To measure on seen classes as well, as
    `chiasm.evaluation.metrics.held_out_class_metrics` does, hold out items of `split.train` with `holdout_split`.

    Args:
        y: the label of each item.
        share: the part of the classes to hold out, between 0 and 1.
        seed: of the draw.

    Raises:
        LabelError: there are fewer than 2 classes, or a share that is not between 0 and 1.
    """
    classes, codes = label_codes(y)
    if not 0 < share < 1:
        raise LabelError(f"share must lie between 0 and 1; got {share}")
    if len(classes) < 2:
        raise LabelError(f"at least 2 classes are needed to hold one out; got {len(classes)}")
    number = int(np.clip(round(share * len(classes)), 1, len(classes) - 1))
    held = np.zeros(len(classes), dtype=bool)
    held[np.random.default_rng(seed).permutation(len(classes))[:number]] = True
    test = held[codes]
    return HeldOutClasses(
        tuple(classes[~held].tolist()),
        tuple(classes[held].tolist()),
        Split(np.flatnonzero(~test), np.flatnonzero(test)),
    )


def near_duplicate_groups(
    vectors: Float[np.ndarray, "rows dim"] | Unchecked,
    *,
    threshold: float = 0.97,
    groups: Labels | None = None,
    block: int = 1024,
) -> Int[np.ndarray, " rows"]:
    """Group rows whose embeddings are nearly the same, directly or through others.

    Two rows are joined if their cosine is at least `threshold`, to within the rounding of an inner product, so that equal
    rows are together at a threshold of 1. A row of zeros has no direction and is joined to none. All pairs are looked at,
    `block` x `block` at a time: the time grows with the square of the rows, the memory does not.

    Args:
        vectors: an embedding a row, of any length.
        threshold: above 0, at most 1. What counts as nearly the same depends on the encoder.
        groups: known groups; rows that share one are together too.
        block: how many rows are compared with how many at once.

    Returns:
        The number of each row's group, counted from 0 in the order in which groups first occur.

    Raises:
        LabelError: not a matrix of floats, NaN or infinite values, `threshold` or `block` out of range, or groups that do
            not fit.
    """
    X = np.asarray(vectors)
    if X.ndim != 2 or X.dtype.kind != "f":
        raise LabelError(f"embeddings must be a matrix of floats, one a row; got {X.dtype} {X.shape}")
    if not 0 < threshold <= 1:
        raise LabelError(f"threshold must be a cosine above 0 and at most 1; got {threshold}")
    if block < 1:
        raise LabelError(f"block must be at least 1; got {block}")
    parts = [slice(first, min(first + block, len(X))) for first in range(0, len(X), block)]
    for part in parts:
        bad = np.flatnonzero(~np.isfinite(X[part]).all(axis=1))
        if len(bad):
            raise LabelError(
                f"the embedding of row {part.start + bad[0]} holds NaN or infinite values: leave out rows without one"
            )
    together = np.arange(len(X)) if groups is None else group_codes(groups, len(X))
    eps = float(np.finfo(np.result_type(X.dtype, np.float32)).eps)
    least = threshold - 2 * eps * X.shape[1] ** 0.5
    for i, rows in enumerate(parts):
        directions = _directions(X[rows])
        for columns in parts[i:]:
            others = directions if columns is rows else _directions(X[columns])
            a, b = np.nonzero(directions @ others.T >= least)
            together = _joined(together, together[rows][a], together[columns][b])
    return _in_order(together)


def merge_groups(*groups: Labels) -> Int[np.ndarray, " rows"]:
    """Put rows together that share a group in any of several groupings, directly or through others.

    Args:
        groups: groupings of the same rows, e.g. by source file, by folder and by near-duplicate embeddings.

    Returns:
        The number of each row's group, counted from 0 in the order in which groups first occur.

    Raises:
        LabelError: no groupings, groups are missing, or groupings differ in length.
    """
    if not groups:
        raise LabelError("give one or more groupings to merge")
    together = label_codes(groups[0], what="groups")[1]
    for other in groups[1:]:
        codes = group_codes(other, len(together))
        first = np.unique(codes, return_index=True)[1]
        together = _joined(together, together, together[first[codes]])
    return _in_order(together)


def crossing(groups: Labels, split: Split) -> int:
    """How many test rows share a group with a row of train: 0 if the split divides no group.

    Raises:
        LabelError: groups are missing, or the split names rows that are not there.
    """
    codes = label_codes(groups, what="groups")[1]
    named = np.concatenate([split.train, split.test])
    if len(named) and (named.min() < 0 or named.max() >= len(codes)):
        raise LabelError(f"the split names rows {named.min()} to {named.max()}, but there are {len(codes)} groups")
    return int(np.isin(codes[split.test], codes[split.train]).sum())


def _directions(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Rows of length 1, and zeros where they are zero; at least float32."""
    rows = vectors.astype(np.result_type(vectors.dtype, np.float32))
    # Scaled first, so that squares neither overflow nor vanish.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    np.divide(rows, largest, out=rows, where=largest > 0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Float[np.ndarray, "rows dim"] = np.divide(rows, length, out=rows, where=length > 0)
    return directions


def _joined(
    together: Int[np.ndarray, " rows"], a: Int[np.ndarray, " pairs"], b: Int[np.ndarray, " pairs"]
) -> Int[np.ndarray, " rows"]:
    """Make one of the groups `a[i]` and `b[i]`, for all i: connected components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    new = a != b
    if not new.any():
        return together
    size = int(together.max()) + 1
    graph = coo_array((np.ones(int(new.sum()), dtype=bool), (a[new], b[new])), shape=(size, size))
    component: Int[np.ndarray, " groups"] = connected_components(graph, directed=False)[1]
    joined: Int[np.ndarray, " rows"] = component[together]
    return joined


def _in_order(group: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """The same groups, numbered from 0 as they first occur."""
    first, codes = np.unique(group, return_index=True, return_inverse=True)[1:]
    number = np.empty(len(first), dtype=np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    ordered: Int[np.ndarray, " rows"] = number[codes]
    return ordered


def _hold_out_items(
    codes: Int[np.ndarray, " items"], share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " items"]:
    """Take the share of every class, rounding so that the total is right as well."""
    order = rng.permutation(len(codes))
    sizes = np.bincount(codes)
    wanted = share * sizes
    take = np.floor(wanted).astype(np.int64)
    missing = round(share * len(codes)) - take.sum()
    # Largest remainders first; equal ones in drawn order, so that no class is favoured by its name.
    by_remainder = rng.permutation(len(sizes))
    by_remainder = by_remainder[np.argsort(-(wanted - take)[by_remainder], kind="stable")]
    take[by_remainder[:missing]] += 1
    take = np.minimum(take, np.maximum(sizes - 1, 0))
    held = np.zeros(len(codes), dtype=bool)
    for k, number in enumerate(take):
        held[order[codes[order] == k][:number]] = True
    return held


def _hold_out_groups(
    codes: Int[np.ndarray, " items"], group: Int[np.ndarray, " items"], share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " items"]:
    """Take groups in drawn order, each if it brings the held-out share of its classes nearer to what is wanted."""
    counts = count(group, codes)
    counts /= counts.sum(axis=0)
    short = np.full(counts.shape[1], share)
    taken = np.zeros(len(counts), dtype=bool)
    for g in rng.permutation(len(counts)):
        if np.sum((short - counts[g]) ** 2) < np.sum(short**2):
            taken[g] = True
            short = short - counts[g]
    held: Bool[np.ndarray, " items"] = taken[group]
    return held
