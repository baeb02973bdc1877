"""Splits: which items are learned from and which are measured on, drawn with a seed.

Rows are named by position; what is split is left to the caller. Items of one group (the same caption, patient or
recording) are never on both sides. How labels become numbers and are dealt into folds is `chiasm.transfer.labels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from chiasm.errors import LabelError
from chiasm.transfer.labels import Labels, count, deal, group_codes, label_codes


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
