"""Targets: the raw values of a column -> classes, several labels an item, or a number.

This module knows how people write targets in tables, and says what is wrong with a column before anything is learned
from it. Where columns come from is left to `chiasm.verbs`; what is learned, to `chiasm.recognition.recognizer`.

The rules, in their order, over the values that are not missing (None, NaN and empty or blank text are):

1. Any list or tuple of texts makes the column `"labels"`, also as the text of a JSON array. So does text with ";" or "|", if at least half of all labels
   that the texts split into are labels that occur in more than one value: "red;round". An empty list, or separators with
   nothing between them, is an item that has none of the labels; it is not missing.
2. Numbers, or texts that all are numbers, of which one has a fractional part or that have more than 20 distinct values,
   make it `"number"`. Text with a leading zero ("007") is a code and no number; booleans are none either.
3. Everything else is `"classes"`.

Two kinds of column are refused, since they name items: one with more than 20 values that are all different (unless they
are numbers of rule 2), and more than 20 whole numbers that count without a gap. Whoever knows better says the task.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Int, Shaped

from chiasm.errors import LabelError
from chiasm.files import one_form
from chiasm.splits import class_name
from chiasm.vectors import Unchecked

Kind: TypeAlias = Literal["classes", "labels", "number"]

MOST_CLASSES_OF_NUMBERS = 20
"""Distinct whole numbers up to which a column is of classes, and distinct values up to which none is taken for names of
items."""

_SEPARATOR = re.compile(r"[;|]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_CODE = re.compile(r"[+-]?0\d")


@dataclass(frozen=True, eq=False)
class Target:
    """A column as something to learn.

    Example:
        >>> target = parse_target(["red;round", "red", None, "round"], column="look")
        >>> target.kind, target.names.tolist(), target.values[0].tolist(), int(target.known.sum())
        ('labels', ['red', 'round'], [True, True], 3)

    Attributes:
        column: its name.
        kind: what it asks for.
        values: `classes`: numbers of `names`, -1 where missing. `labels`: booleans, a column for each of `names`, False
            where missing. `number`: floats, NaN where missing.
        known: which items are not missing.
        names: the classes (text, numbers or booleans) or labels (text), sorted; none of a `number`.
    """

    column: str
    kind: Kind
    values: Shaped[np.ndarray, "items ..."]
    known: Bool[np.ndarray, " items"]
    names: Shaped[np.ndarray, " names"]

    def __len__(self) -> int:
        return len(self.known)

    def take(self, rows: Int[np.ndarray, " rows"]) -> Target:
        """Return the same column of some items."""
        return Target(self.column, self.kind, self.values[rows], self.known[rows], self.names)

    @property
    def teaches(self) -> bool:
        """Return whether the known values differ."""
        known = self.values[self.known]
        return bool(len(known)) and bool((known != known[0]).any())

    @property
    def y(self) -> Shaped[np.ndarray, "known ..."]:
        """Return the known values: classes, booleans by label, or numbers."""
        known = self.values[self.known]
        y: Shaped[np.ndarray, "known ..."] = self.names[known] if self.kind == "classes" else known
        return y


def strata(targets: Sequence[Target]) -> Int[np.ndarray, " items"]:
    """Return the classes that folds share out: those of the first column of classes, missing values as one more.

    Example:
        >>> number = parse_target([1.5, 2.5, 3.5], column="size")
        >>> strata([number, parse_target(["red", None, "blue"], column="look")]).tolist()
        [2, 0, 1]
    """
    codes = next((target.values for target in targets if target.kind == "classes"), None)
    return np.zeros(len(targets[0]), dtype=np.int64) if codes is None else np.unique(codes, return_inverse=True)[1]


def alike_name(name: str, names: Iterable[str]) -> str | None:
    """Return the name that somebody may have meant by one that is not among them; None where none is near."""
    every = [*names]
    folded = {one.casefold(): one for one in every}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def infer_kind(values: Iterable[Any] | Unchecked, *, column: str) -> Kind:
    """Return what a column asks for, by the rules at the top of the module.

    Args:
        values: one an item: None, text, numbers, booleans, or lists or tuples of texts.
        column: its name, for messages.

    Raises:
        LabelError: all values are missing, some are of another type, or they name items.
    """
    known = [value for value in _plain(values, column) if not _is_missing(value)]
    _refuse_none(known, column)
    if any(isinstance(value, tuple) for value in known):
        return "labels"
    if _splits(known):
        return "labels"
    numbers = _numbers(known)
    distinct = len(set(known))
    if numbers is not None:
        if any(number != math.floor(number) for number in numbers):
            return "number"
        if len(set(numbers)) > MOST_CLASSES_OF_NUMBERS:
            if len(set(numbers)) == len(numbers) == max(numbers) - min(numbers) + 1:
                raise LabelError(
                    f"column {column!r} counts from {min(numbers):g} to {max(numbers):g} without a gap: it numbers the items "
                    "and cannot be predicted. Name another column, or say task='number' if this is a quantity"
                )
            return "number"
    if distinct == len(known) > MOST_CLASSES_OF_NUMBERS:
        raise LabelError(
            f"column {column!r} has {len(known)} values that are all different, such as {known[0]!r}: it names items, not "
            "classes. Name another column, or say task='classes' if each is a class with one example"
        )
    return "classes"


def parse_target(
    values: Iterable[Any] | Unchecked,
    *,
    column: str,
    task: Kind | Literal["auto"] = "auto",
    labels: Sequence[Any] | None = None,
) -> Target:
    """Return a column as something to learn.

    Args:
        values: as in `infer_kind`.
        column: its name, for messages.
        task: what it asks for; `"auto"` looks at the values.
        labels: all classes or labels that may occur, whether they do or not, such as those of a fitted model. By default
            those that occur, which must be enough to learn from.

    Raises:
        LabelError: as `infer_kind`; there is no such task; a value does not fit the task or is none of `labels`; or
            nothing can be learned: one class or one number only, or no label that some items have and others lack.
    """
    plain = _plain(values, column)
    if task not in ("auto", *get_args(Kind)):
        raise LabelError(f"there is no task {task!r}: say 'auto', {', '.join(map(repr, get_args(Kind)))}")
    known = np.array([not _is_missing(value) for value in plain], dtype=bool)
    _refuse_none([value for value, has in zip(plain, known, strict=True) if has], column)
    kind: Kind = infer_kind(plain, column=column) if task == "auto" else task
    if kind == "number":
        if labels is not None:
            raise LabelError(f"column {column!r} is of numbers, which have no labels: leave `labels` out")
        return _as_numbers(plain, known, column)
    if kind == "labels":
        return _as_labels(plain, known, column, labels)
    return _as_classes(plain, known, column, labels)


def _plain(values: Iterable[Any] | Unchecked, column: str) -> list[Any]:
    """Return Python's own types: text without blanks around it, tuples of such texts, numbers, booleans, None."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise LabelError(f"column {column!r} must be one value an item; got {values!r:.80}")
    plain = []
    for row, cell in enumerate(values):
        value = _list_in(cell.item() if isinstance(cell, np.generic) else cell)
        if isinstance(value, list | tuple | set | frozenset | np.ndarray):
            parts = sorted(value) if isinstance(value, set | frozenset) else list(value)
            wrong = [part for part in parts if not isinstance(part, str)]
            if wrong:
                raise LabelError(
                    f"column {column!r}, row {row}: the list {value!r:.80} holds {wrong[0]!r}: labels of an item must be "
                    "text"
                )
            value = tuple(dict.fromkeys(class_name(part) for part in parts if part.strip()))
        elif isinstance(value, str):
            value = one_form(value).strip()
        elif value is not None and not isinstance(value, bool | int | float):
            raise LabelError(
                f"column {column!r}, row {row}: {value!r:.80} is a {type(value).__name__}; what is to be predicted must be "
                "text, a number, a boolean or a list of texts"
            )
        plain.append(value)
    return plain


def _list_in(cell: Any) -> Any:
    """Return the list of texts that a text writes as a JSON array, or the cell: tables keep labels so that hold a ";"."""
    if not isinstance(cell, str) or not (cell == "[]" or (cell.startswith('["') and cell.endswith('"]'))):
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    return value if all(isinstance(part, str) for part in value) else cell


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _refuse_none(known: Sequence[Any], column: str) -> None:
    if not known:
        raise LabelError(f"column {column!r} has no values, all are missing: label some items, or name another column")


def split_labels(text: str) -> tuple[str, ...]:
    """Return the labels in a text that divides them by ";" or "|", or is a JSON array of them."""
    parts = _list_in(text)
    every = _SEPARATOR.split(text) if isinstance(parts, str) else parts
    return tuple(dict.fromkeys(class_name(part) for part in every if part.strip()))


def _splits(known: list[Any]) -> bool:
    """Return whether texts hold several labels each."""
    if not all(isinstance(value, str) for value in known) or not any(_SEPARATOR.search(value) for value in known):
        return False
    counts = Counter(label for value in known for label in split_labels(value))
    return 2 * sum(count for count in counts.values() if count > 1) >= counts.total() > 0


def _numbers(known: list[Any]) -> list[float] | None:
    """Return the values as numbers, if all are."""
    numbers = []
    for value in known:
        if isinstance(value, bool | tuple):
            return None
        if isinstance(value, str) and (not _NUMBER.fullmatch(value) or _CODE.match(value)):
            return None
        numbers.append(float(value))
    return numbers if all(map(math.isfinite, numbers)) else None


def _as_numbers(plain: list[Any], known: Bool[np.ndarray, " items"], column: str) -> Target:
    numbers = np.full(len(plain), np.nan)
    for row in np.flatnonzero(known):
        value = plain[row]
        is_number = isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
        number = float(value) if is_number else math.nan
        if not math.isfinite(number):
            raise LabelError(
                f"column {column!r}, row {row}: {value!r:.80} is not a finite number (write 1234.5, without units): mend or "
                "empty such cells, or say another task"
            )
        numbers[row] = number
    if len(np.unique(numbers[known])) < 2:
        raise LabelError(
            f"column {column!r}: all {int(known.sum())} values are {numbers[known][0]:g}: there is nothing to predict"
        )
    return Target(column, "number", numbers, known, np.empty(0, dtype=np.str_))


def _as_labels(
    plain: list[Any], known: Bool[np.ndarray, " items"], column: str, names_known: Sequence[Any] | None
) -> Target:
    rows: list[tuple[str, ...]] = []
    for row, value in enumerate(plain):
        if not known[row]:
            rows.append(())
        elif isinstance(value, str):
            rows.append(split_labels(value))
        elif isinstance(value, tuple):
            rows.append(value)
        else:
            raise LabelError(
                f"column {column!r}, row {row}: {value!r:.80} is no list of labels: write them as text such as 'red;round', "
                "or say another task"
            )
    counts = Counter(label for labels in rows for label in labels)
    names = np.array(
        sorted(counts) if names_known is None else sorted({class_name(name) for name in names_known}), dtype=np.str_
    )
    place = {str(name): number for number, name in enumerate(names)}
    values = np.zeros((len(rows), len(names)), dtype=bool)
    for row, labels in enumerate(rows):
        for label in labels:
            if label not in place:
                raise _unknown(label, list(place), column, row)
            values[row, place[label]] = True
    if names_known is not None:
        return Target(column, "labels", values, known, names)
    rows_known = values[known]
    if not (rows_known.any(axis=0) & ~rows_known.all(axis=0)).any():
        raise LabelError(
            f"column {column!r}: {int(known.sum())} items {'have the same labels' if rows_known.any() else 'have no label'}: "
            "at least one label is needed that some items have and others lack"
        )
    if max(counts.values()) == 1 and len(counts) > MOST_CLASSES_OF_NUMBERS:
        raise LabelError(
            f"column {column!r}: each of its {len(counts)} labels, such as {next(iter(counts))!r}, occurs once: nothing can "
            "be learned from that. Name another column, or labels that several items have"
        )
    return Target(column, "labels", values, known, names)


def _as_classes(
    plain: list[Any], known: Bool[np.ndarray, " items"], column: str, names_known: Sequence[Any] | None
) -> Target:
    texts = [row for row in np.flatnonzero(known) if isinstance(plain[row], str)]
    lists = [row for row in np.flatnonzero(known) if isinstance(plain[row], tuple)]
    if lists:
        raise LabelError(
            f"column {column!r}, row {lists[0]}: {list(plain[lists[0]])!r:.80} is a list, a class is one value: say "
            "task='labels'"
        )
    if texts and len(texts) < known.sum():
        other = next(row for row in np.flatnonzero(known) if not isinstance(plain[row], str))
        raise LabelError(
            f"column {column!r} mixes text such as {plain[texts[0]]!r:.80} (row {texts[0]}) and numbers such as "
            f"{plain[other]!r} (row {other}): make them all text or all numbers"
        )
    present = np.array([plain[row] for row in np.flatnonzero(known)])
    names = np.unique(present if names_known is None else np.array(list(names_known)))
    place = {name: number for number, name in enumerate(names.tolist())}
    codes = np.full(len(plain), -1, dtype=np.int64)
    for row in np.flatnonzero(known):
        if plain[row] not in place:
            raise _unknown(plain[row], list(place), column, int(row))
        codes[row] = place[plain[row]]
    if names_known is None and len(names) < 2:
        raise LabelError(
            f"column {column!r}: all {len(present)} values are {present[0]!s}: at least 2 classes are needed"
        )
    return Target(column, "classes", codes, known, names)


def _unknown(label: Any, names: list[Any], column: str, row: int) -> LabelError:
    close = alike_name(str(label), [str(name) for name in names])
    meant = f"did you mean {close!r}? " if close else ""
    listed = ", ".join(str(name) for name in names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return LabelError(
        f"column {column!r}, row {row}: {label!r} is none of the {len(names)} labels ({listed}); {meant}"
        "Mend the cell or add the label"
    )
