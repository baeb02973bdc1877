"""Labels and splits: labels and groups as codes, folds, few-shot and hold-out splits, near-duplicates.

Every split is drawn with a seed, stratified by class, and never divides a group (the same caption, patient or
recording, embeddings that are nearly the same). Rows are named by position. NumPy alone: whatever learns or measures
can use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import LabelError
from chiasm.files import one_form
from chiasm.vectors import Unchecked, check_matrix

Labels: TypeAlias = Shaped[np.ndarray, " _"] | Sequence[Any] | Unchecked
"""One label or group a row: an array, a list or a column of a table. Text, numbers or booleans."""


@dataclass(frozen=True, eq=False)
class Shots:
    """Labelled rows that train in every fold and are scored in none.

    Embedded names of classes, labelled items of another modality in a joint space (cross-modal few-shot, Lin et al.
    2023), or a source domain beside the target.

    Raises:
        LabelError: not one label and one weight a row, NaN or infinite values, or a weight below 0.

    Example:
        >>> names = Shots(np.eye(2), ["cat", "dog"])
        >>> len(names + names), names.weight.tolist()
        (4, [1.0, 1.0])
    """

    X: Float[np.ndarray, "rows dim"] | Unchecked
    y: Labels
    weight: Float[np.ndarray, " rows"] | Unchecked = None
    """Of each row, where a row of the target has 1; by default 1."""

    def __post_init__(self) -> None:
        X, y = check_matrix(self.X, "the extra shots"), np.asarray(self.y)
        weight = np.ones(len(y)) if self.weight is None else np.asarray(self.weight, dtype=np.float64)
        if y.shape != (len(X),) or weight.shape != (len(X),):
            raise LabelError(
                f"extra shots need one label and one weight a row; got {X.shape}, {y.shape} and {weight.shape}"
            )
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise LabelError("weights of extra shots must be finite and not below 0")
        for name, value in (("X", X), ("y", y), ("weight", weight)):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.y)

    def __add__(self, other: Shots) -> Shots:
        return Shots(
            np.vstack([self.X, other.X]),
            np.concatenate([self.y, other.y]),
            np.concatenate([self.weight, other.weight]),
        )

    def take(self, rows: Int[np.ndarray, " some"]) -> Shots:
        """Return some of the rows."""
        return Shots(self.X[rows], np.asarray(self.y)[rows], self.weight[rows])


_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,18}))(?:\.0+)?")


def class_name(value: Any) -> str:
    """Return the name of the class that a cell stands for, the same however tables write it.

    Whole numbers have no fraction, booleans are small, text has no blanks around it and composed accents. A text that is
    such a number or boolean is the same class as that. "007" is a code and stays one.

    Example:
        >>> [class_name(value) for value in (1, 1.0, "1.0", np.int64(1), True, "TRUE", 0.5, "007", " red ")]
        ['1', '1', '1', '1', 'true', 'true', '0.5', '007', 'red']
    """
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, bool):
        return str(plain).lower()
    if isinstance(plain, float) and plain.is_integer():
        return str(int(plain))
    text = one_form(str(plain)).strip()
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text


def label_codes(
    values: Labels, *, what: str = "labels"
) -> tuple[Shaped[np.ndarray, " classes"], Int[np.ndarray, " items"]]:
    """Turn labels or groups into their sorted distinct values and, for each row, the number of its value.

    Args:
        values: one value a row.
        what: their name in messages.

    Raises:
        LabelError: not one-dimensional, a value is missing (None, NaN), or kinds that cannot be ordered are mixed.
    """
    # A list goes through objects: numpy alone would turn the NaN in ["a", nan] into the text "nan".
    column = np.array(values, dtype=object) if isinstance(values, list | tuple) else np.asarray(values)
    if column.ndim != 1:
        raise LabelError(f"{what} must be one value a row; got an array of shape {column.shape}")
    missing = _missing(column)
    if missing.any():
        rows = np.flatnonzero(missing)
        raise LabelError(
            f"{len(rows)} of {len(column)} {what} are missing (None or NaN), first at row {rows[0]}: "
            "leave these rows out or label them"
        )
    if column.dtype == object:
        kinds = sorted({_kind(value) for value in column})
        if len(kinds) > 1:
            raise LabelError(f"{what} mix {' and '.join(kinds)}: make them all of one kind")
        column = np.array(column.tolist())
    classes, codes = np.unique(column, return_inverse=True)
    return classes, codes


def refuse_one_class(classes: Shaped[np.ndarray, " classes"], rows: int) -> None:
    """Refuse labels that leave nothing to tell apart.

    Raises:
        LabelError: there is one class only.
    """
    if len(classes) < 2:
        raise LabelError(f"y holds 1 class only ({classes[0]!s}, {rows} rows): at least 2 classes are needed")


def refuse_continuous(classes: Shaped[np.ndarray, " classes"]) -> None:
    """Refuse numbers that are measured, not counted.

    Raises:
        LabelError: one of them has a fractional part.
    """
    if classes.dtype.kind == "f" and (classes % 1).any():
        raise LabelError(
            f"Unknown label type: continuous numbers such as {classes[(classes % 1) > 0][0]}; "
            "labels must be text, whole numbers or booleans"
        )


def group_codes(groups: Labels, rows: int) -> Int[np.ndarray, " rows"]:
    """Return the number of each row's group.

    Raises:
        LabelError: as `label_codes`, or there is not one group a row.
    """
    codes = label_codes(groups, what="groups")[1]
    if len(codes) != rows:
        raise LabelError(f"there are {rows} rows but {len(codes)} groups: give one group a row")
    return codes


def deal(
    codes: Int[np.ndarray, " rows"], folds: int, *, seed: int, groups: Int[np.ndarray, " rows"] | None = None
) -> Int[np.ndarray, " rows"]:
    """Return the fold of each row, so that every fold has its share of every class and no group is divided.

    Without groups, the numbers of a class in any two folds differ by at most one, and so do the folds' sizes. With
    groups, the largest groups are dealt first, each to the fold that is shortest of its classes; no fold stays empty.

    Args:
        codes: the class of each row, by number.
        folds: how many.
        seed: of the draw.
        groups: the group of each row, by number, every number up to the largest in use.

    Raises:
        LabelError: `folds` is below 2 or above the number of groups (without groups: of rows).
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        _check_folds(folds, len(codes), "items")
        # Dealing class after class round and round keeps both the classes' and the folds' sizes within one.
        order = rng.permutation(len(codes))
        order = order[np.argsort(codes[order], kind="stable")]
        fold = np.empty(len(codes), dtype=np.int64)
        fold[order] = np.arange(len(codes)) % folds
        return fold
    counts = count(groups, codes)
    _check_folds(folds, len(counts), "groups")
    of_rows: Int[np.ndarray, " rows"] = _deal_groups(counts, folds, rng)[groups]
    return of_rows


def count(group: Int[np.ndarray, " items"], codes: Int[np.ndarray, " items"]) -> Float64[np.ndarray, "groups classes"]:
    """Return how many rows of each class each group has."""
    counts = np.zeros((group.max(initial=-1) + 1, codes.max(initial=-1) + 1))
    np.add.at(counts, (group, codes), 1)
    return counts


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of the two sides, each ascending and without repeats.

    Example:
        >>> split = holdout_split(0.5, groups=["a", "a", "b", "b"])
        >>> sorted([split.train.tolist(), split.test.tolist()])
        [[0, 1], [2, 3]]
    """

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]


def few_shot_split(y: Labels, shots: int, *, seed: int = 0, groups: Labels | None = None) -> Split:
    """Draw `shots` items of every class to train on; the rest is to test on.

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
    train = np.zeros(len(codes), dtype=bool)
    for k in range(len(classes)):
        train[order[codes[order] == k][:shots]] = True
    test = ~train
    if groups is not None:
        group = group_codes(groups, len(codes))
        test = ~np.isin(group, group[train])
    return Split(np.flatnonzero(train), np.flatnonzero(test))


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
    """Classes to train on and classes to hold out, and the rows of each."""

    seen: tuple[Any, ...]
    unseen: tuple[Any, ...]
    split: Split  # train: all rows of seen classes, test: all rows of unseen ones


def held_out_class_split(y: Labels, share: float, *, seed: int = 0) -> HeldOutClasses:
    """Hold out about `share` of the classes: at least one of them, and never all.

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

    Two rows belong together if their cosine is at least `threshold`, to within the rounding of an inner product, so that
    equal rows do at a threshold of 1. A row of zeros has no direction and stands alone. All pairs are compared, `block` x
    `block` at a time: the time grows with the square of the rows, the memory does not.

    Args:
        vectors: an embedding a row, of any length.
        threshold: above 0, at most 1. What counts as nearly the same depends on the encoder.
        groups: known groups; rows that share one are together too.
        block: how many rows are compared with how many at once.

    Returns:
        The number of each row's group, counted from 0 in the order in which groups first occur.

    Raises:
        LabelError: not a matrix of finite numbers, `threshold` or `block` out of range, or groups that do not fit.
    """
    X = check_matrix(vectors, "the embeddings")
    if not 0 < threshold <= 1:
        raise LabelError(f"threshold must be a cosine above 0 and at most 1; got {threshold}")
    if block < 1:
        raise LabelError(f"block must be at least 1; got {block}")
    parts = [slice(first, min(first + block, len(X))) for first in range(0, len(X), block)]
    together = np.arange(len(X)) if groups is None else group_codes(groups, len(X))
    eps = float(np.finfo(np.result_type(X.dtype, np.float32)).eps)
    least = threshold - 2 * eps * X.shape[1] ** 0.5
    for i, rows in enumerate(parts):
        directions = _directions(X[rows])
        for columns in parts[i:]:
            others = directions if columns is rows else _directions(X[columns])
            a, b = np.nonzero(directions @ others.T >= least)
            together = _join(together, together[rows][a], together[columns][b])
    return _in_order(together)


def merge_groups(*groups: Labels) -> Int[np.ndarray, " rows"]:
    """Join rows that share a group in any of several groupings, directly or through others.

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
        together = _join(together, together, together[first[codes]])
    return _in_order(together)


def crossing(groups: Labels, split: Split) -> int:
    """Return how many test rows share a group with a row of train: 0 if the split divides no group.

    Raises:
        LabelError: groups are missing, or the split names rows that are not there.
    """
    codes = label_codes(groups, what="groups")[1]
    named = np.concatenate([split.train, split.test])
    if len(named) and (named.min() < 0 or named.max() >= len(codes)):
        raise LabelError(f"the split names rows {named.min()} to {named.max()}, but there are {len(codes)} groups")
    return int(np.isin(codes[split.test], codes[split.train]).sum())


def _directions(vectors: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    """Return rows of length 1, and zeros where they are zero; at least float32."""
    rows = vectors.astype(np.result_type(vectors.dtype, np.float32))
    # Scaled first, so that squares neither overflow nor vanish.
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    np.divide(rows, largest, out=rows, where=largest > 0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Float[np.ndarray, "rows dim"] = np.divide(rows, length, out=rows, where=length > 0)
    return directions


def _join(
    together: Int[np.ndarray, " rows"], a: Int[np.ndarray, " pairs"], b: Int[np.ndarray, " pairs"]
) -> Int[np.ndarray, " rows"]:
    """Unite the groups `a[i]` and `b[i]`, for all i: connected components."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    new = a != b
    if not new.any():
        return together
    size = int(together.max()) + 1
    graph = coo_array((np.ones(int(new.sum()), dtype=bool), (a[new], b[new])), shape=(size, size))
    component: Int[np.ndarray, " groups"] = connected_components(graph, directed=False)[1]
    union: Int[np.ndarray, " rows"] = component[together]
    return union


def _in_order(group: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
    """Return the same groups, numbered from 0 as they first occur."""
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
    exact = share * sizes
    take = np.floor(exact).astype(np.int64)
    missing = round(share * len(codes)) - take.sum()
    # Largest remainders first; equal ones in drawn order, so that no class is favoured by its name.
    by_remainder = rng.permutation(len(sizes))
    by_remainder = by_remainder[np.argsort(-(exact - take)[by_remainder], kind="stable")]
    take[by_remainder[:missing]] += 1
    take = np.minimum(take, np.maximum(sizes - 1, 0))
    held = np.zeros(len(codes), dtype=bool)
    for k, number in enumerate(take):
        held[order[codes[order] == k][:number]] = True
    return held


def _hold_out_groups(
    codes: Int[np.ndarray, " items"], group: Int[np.ndarray, " items"], share: float, rng: np.random.Generator
) -> Bool[np.ndarray, " items"]:
    """Take groups in drawn order, each if it brings the held-out share of its classes nearer to the share."""
    counts = count(group, codes)
    counts /= counts.sum(axis=0)
    short = np.full(counts.shape[1], share)
    out = np.zeros(len(counts), dtype=bool)
    for g in rng.permutation(len(counts)):
        if np.sum((short - counts[g]) ** 2) < np.sum(short**2):
            out[g] = True
            short = short - counts[g]
    held: Bool[np.ndarray, " items"] = out[group]
    return held


def _deal_groups(
    counts: Float64[np.ndarray, "groups classes"], folds: int, rng: np.random.Generator
) -> Int[np.ndarray, " groups"]:
    """Deal groups, the largest first, to the fold with the least of the group's classes, then of items."""
    order = rng.permutation(len(counts))
    order = order[np.argsort(-counts.sum(axis=1)[order], kind="stable")]
    total = np.maximum(counts.sum(axis=0), 1)  # a class may have no row here
    held = np.zeros((folds, counts.shape[1]))
    fold = np.empty(len(counts), dtype=np.int64)
    for g in order:
        # The growth of sum((held / total) ** 2), the same for all folds but for this term.
        growth = held @ (counts[g] / total**2)
        best = np.lexsort((held.sum(axis=1), growth))[0]
        fold[g] = best
        held[best] += counts[g]
    return fold


def _check_folds(folds: int, number: int, what: str) -> None:
    if folds < 2:
        raise LabelError(f"at least 2 folds are needed; got {folds}")
    if number < folds:
        raise LabelError(f"{number} {what} cannot be dealt into {folds} folds: ask for at most {number} folds")


def _missing(column: Shaped[np.ndarray, " items"]) -> Bool[np.ndarray, " items"]:
    if column.dtype == object:
        return np.array([_is_missing(value) for value in column], dtype=bool)
    missing: Bool[np.ndarray, " items"] = column != column  # noqa: PLR0124  only NaN and NaT differ from themselves
    return missing


def _is_missing(value: object) -> bool:
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124
    except TypeError:
        return True  # pandas' NA refuses to be a truth value


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "text"
    return "numbers" if isinstance(value, bool | int | float | np.number | np.bool_) else type(value).__name__
