"""Labels and groups: one value a row, made into numbers, and rows dealt into folds by them.

This module knows when labels are missing or mixed, and how to divide rows so that every fold has its share of every
class and no group is divided. It is plain numpy, so that whatever learns or measures can use it. Who learns from which
fold is left to them; the splits to measure on are `chiasm.splits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from chiasm.errors import LabelError

Unchecked: TypeAlias = Any
"""Beside a type in a signature: the function itself looks at what came, and says what is wrong with it."""

Labels: TypeAlias = Shaped[np.ndarray, " _"] | Sequence[Any] | Unchecked
"""One label or group a row: an array, a list or a column of a table. Text, numbers or booleans."""


@dataclass(frozen=True, eq=False)
class Shots:
    """Labelled rows that are learned from in every fold and scored in none.

    Embedded names of classes, labelled items of another modality in a joint space (cross-modal few-shot, Lin et al.
    2023), or a source domain beside the target.

    Raises:
        LabelError: not one label and one weight a row, NaN or infinite values, or a weight below 0.
    """

    X: Float[np.ndarray, "rows dim"] | Unchecked
    y: Labels
    weight: Float[np.ndarray, " rows"] | Unchecked = None
    """Of each row beside 1 for a row of the target; by default 1."""

    def __post_init__(self) -> None:
        X, y = np.asarray(self.X), np.asarray(self.y)
        weight = np.ones(len(y)) if self.weight is None else np.asarray(self.weight, dtype=np.float64)
        if X.ndim != 2 or y.shape != (len(X),) or weight.shape != (len(X),):
            raise LabelError(
                f"extra shots need a matrix, one label and one weight a row; got {X.shape}, {y.shape} and {weight.shape}"
            )
        if not np.isfinite(X).all():
            raise LabelError("extra shots hold NaN or infinite values: leave those rows out")
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
        """Some of the rows."""
        return Shots(self.X[rows], np.asarray(self.y)[rows], self.weight[rows])


def label_codes(
    values: Labels, *, what: str = "labels"
) -> tuple[Shaped[np.ndarray, " classes"], Int[np.ndarray, " items"]]:
    """Turn labels or groups into their sorted distinct values and, for each row, the number of its value.

    Args:
        values: one value a row.
        what: what they are, for the message, e.g. `"labels"`.

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
    """The number of each row's group.

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
    """Deal rows into folds so that every fold has its share of every class and no group is divided.

    Without groups, the numbers of a class in any two folds differ by at most one, and so do the folds' sizes. With
    groups, the largest groups are dealt first, each to the fold that is shortest of its classes; no fold stays empty.

    Args:
        codes: the class of each row, by number.
        folds: how many.
        seed: of the draw.
        groups: the group of each row, by number, every number up to the largest in use.

    Returns:
        The fold of each row.

    Raises:
        LabelError: `folds` is below 2 or above the number of groups (without groups: of rows).
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        _check_folds(folds, len(codes), "items")
        # Dealing class after class round and round keeps both the classes' and the folds' sizes within one.
        order = rng.permutation(len(codes))
        order = order[np.argsort(codes[order], kind="stable")]
        dealt = np.empty(len(codes), dtype=np.int64)
        dealt[order] = np.arange(len(codes)) % folds
        return dealt
    counts = count(groups, codes)
    _check_folds(folds, len(counts), "groups")
    fold: Int[np.ndarray, " rows"] = _deal_groups(counts, folds, rng)[groups]
    return fold


def count(group: Int[np.ndarray, " items"], codes: Int[np.ndarray, " items"]) -> Float64[np.ndarray, "groups classes"]:
    """How many rows of each class each group has."""
    counts = np.zeros((group.max(initial=-1) + 1, codes.max(initial=-1) + 1))
    np.add.at(counts, (group, codes), 1)
    return counts


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
