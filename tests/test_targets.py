"""What a column asks for is told from its values, and what is wrong with it is told before anything is learned."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.errors import LabelError
from chiasm.recognition.targets import infer_kind, parse_target


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["cat", "dog", "cat", None], "classes"),
        ([True, False, True], "classes"),
        ([1, 2, 3, 1], "classes"),
        (["1", "2", "1", ""], "classes"),
        ([1.0, 2.0, float("nan")], "classes"),
        ([1.5, 2.0], "number"),
        (["0.5", " 12 ", None], "number"),
        (["1e3", "2.5E-1"], "number"),
        ([3 * k for k in range(21)], "number"),
        ([3 * k for k in range(20)], "classes"),
        ([str(3 * k) for k in range(30)], "number"),
        (np.linspace(0, 1, 5), "number"),
        (np.array([2, 2, 3]), "classes"),
        (["007", "012", "007"] * 10, "classes"),
        (["nan", "inf", "1.5"], "classes"),
        ([["red", "round"], ["red"], []], "labels"),
        ([("a",), None], "labels"),
        (["red;round", "red", "square | red"], "labels"),
        (["a thing; unlike", "other things", "a third; one"], "classes"),
        (["red;round", 4, "red"], "classes"),
    ],
)
def test_the_task_is_told_from_the_values(values: Any, task: str) -> None:
    assert infer_kind(values, column="c") == task


def test_lists_in_json_are_labels() -> None:
    target = parse_target(['["a;b", "c"]', "d", '["c"]', None, "[not json]", "[]"], column="c")
    assert target.names.tolist() == ["[not json]", "a;b", "c", "d"]
    assert target.values[0].tolist() == [False, True, True, False]
    assert target.known.tolist() == [True, True, True, False, True, True]


def test_half_of_the_labels_must_recur() -> None:
    assert infer_kind(["a;b", "a;c"], column="c") == "labels"  # a twice, b and c once
    assert infer_kind(["a;b;c", "a;d"], column="c") == "classes"  # two of five


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([None, "", "  ", float("nan")], "column 'c' has no values, all are missing: label some items"),
        ([], "column 'c' has no values"),
        (
            [f"id-{k}" for k in range(21)],
            "column 'c' has 21 values that are all different, such as 'id-0': it names items",
        ),
        (list(range(100, 130)), "counts from 100 to 129 without a gap: it numbers the items"),
        ([dt.date(2020, 1, 1)], "row 0: datetime.date.* is a date; what is to be predicted must be"),
        ([["a", 3]], "row 0: the list .* holds 3: labels of an item must be text"),
        ("abc", "must be one value an item; got 'abc'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(values: Any, text: str) -> None:
    with pytest.raises(LabelError, match=text):
        infer_kind(values, column="c")


def test_one_who_knows_better_says_the_task() -> None:
    assert parse_target(list(range(100, 130)), column="c", task="number").kind == "number"
    assert len(parse_target([f"id-{k}" for k in range(21)], column="c", task="classes").names) == 21
    assert parse_target(["a;b", "c"], column="c", task="classes").names.tolist() == ["a;b", "c"]
    assert parse_target(["1", "2", "1"], column="c", task="number").values.tolist() == [1, 2, 1]
    assert parse_target(["007", "1"], column="c", task="number").values.tolist() == [7, 1]


def test_classes() -> None:
    found = parse_target([" dog ", None, "cat", "dog", ""], column="c")
    assert (found.kind, found.names.tolist(), found.values.tolist()) == ("classes", ["cat", "dog"], [1, -1, 0, 1, -1])
    assert found.known.tolist() == [True, False, True, True, False]
    assert found.y.tolist() == ["dog", "cat", "dog"]
    assert found.take(np.array([2, 1])).y.tolist() == ["cat"]
    assert parse_target([2, 1, 2], column="c").y.tolist() == [2, 1, 2]
    assert parse_target([True, False], column="c").names.dtype == np.bool_


def test_labels() -> None:
    found = parse_target(["red; round", "red|", None, ";", "square"], column="c", task="labels")
    assert found.names.tolist() == ["red", "round", "square"]
    assert found.values.astype(int).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert found.known.tolist() == [True, True, False, True, True]  # none of the labels is not the same as not known
    assert len(found.y) == 4
    listed = parse_target([["round", "red", "red"], {"red"}, None, [], ("square",)], column="c")
    np.testing.assert_array_equal(listed.values, found.values)
    np.testing.assert_array_equal(listed.known, found.known)


def test_numbers() -> None:
    found = parse_target(["1.5", None, "-2e1", 3], column="c", task="number")
    np.testing.assert_array_equal(found.values, [1.5, np.nan, -20, 3])
    assert found.y.tolist() == [1.5, -20, 3]
    assert len(found.names) == 0


def test_a_fixed_set_of_labels() -> None:
    found = parse_target([["b"], ["b"]], column="c", labels=["c", "b", "a"])
    assert found.names.tolist() == ["a", "b", "c"]
    assert parse_target(["b", "b"], column="c", labels=["a", "b"]).values.tolist() == [1, 1]
    with pytest.raises(LabelError, match=r"column 'c', row 1: 'gren' is none of the 2 labels .*did you mean 'green'\?"):
        parse_target([["red"], ["gren"]], column="c", labels=["red", "green"])
    with pytest.raises(LabelError, match="row 0: 'cow' is none of the 2 labels"):
        parse_target(["cow", "cat"], column="c", labels=["cat", "dog"])
    with pytest.raises(LabelError, match="is of numbers, which have no labels"):
        parse_target([1.5, 2.5], column="c", labels=["a"])


@pytest.mark.parametrize(
    ("values", "task", "text"),
    [
        (["1.5", "12 kg"], "number", r"column 'c', row 1: '12 kg' is not a finite number .*or say another task"),
        (["1.5", "1e999"], "number", "'1e999' is not a finite number"),
        ([["a"], 1.5], "number", r"row 0: \('a',\) is not a finite number"),
        ([["a"], ["b"]], "classes", r"row 0: \['a'\] is a list, a class is one value: say task='labels'"),
        ([3, 4, 3], "labels", "row 0: 3 is no list of labels: write them as text such as 'red;round'"),
        (["a", 4], "classes", "mixes text such as 'a' .row 0. and numbers such as 4 .row 1."),
        (["a", "a"], "classes", "all 2 values are a: at least 2 classes are needed"),
        ([2.5, 2.5], "auto", "all 2 values are 2.5: there is nothing to predict"),
        ([["a"], ["a"]], "labels", "2 items have the same labels"),
        ([[], []], "labels", "2 items have no label"),
        ([[f"x{k}"] for k in range(25)], "auto", "each of its 25 labels, such as 'x0', occurs once"),
        ([1], "guess", "there is no task 'guess': say 'auto', 'classes'"),
    ],
)
def test_values_that_do_not_fit_are_named(values: Any, task: Any, text: str) -> None:
    with pytest.raises(LabelError, match=text):
        parse_target(values, column="c", task=task)


@given(st.lists(st.lists(st.sampled_from(["a", "b c", "d-e"])), min_size=1))
def test_text_and_lists_say_the_same(rows: list[list[str]]) -> None:
    fixed = ["a", "b c", "d-e"]
    listed = parse_target(rows, column="c", task="labels", labels=fixed)
    written = parse_target([";".join(row) + ";" for row in rows], column="c", task="labels", labels=fixed)
    np.testing.assert_array_equal(listed.values, written.values)
    np.testing.assert_array_equal(listed.known, written.known)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2))
def test_numbers_survive_being_written(numbers: list[float]) -> None:
    if len(set(numbers)) < 2:
        numbers = [*numbers, 1.0, 2.0]
    found = parse_target([repr(number) for number in numbers], column="c", task="number")
    assert found.values.tolist() == numbers
