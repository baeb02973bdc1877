"""Splits are disjoint, whole in groups, fair to classes, and the same for the same seed; what is alike is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chiasm.errors import LabelError
from chiasm.splits import (
    Split,
    crossing,
    few_shot_split,
    group_folds,
    grouped_stratified_folds,
    held_out_class_split,
    holdout_split,
    label_codes,
    merge_groups,
    near_duplicate_groups,
)

LABELS = st.lists(st.sampled_from("abcd"), min_size=6, max_size=60)
SEEDS = st.integers(0, 2**32 - 1)
Y = np.repeat(["a", "b", "c"], 30)
G = np.random.default_rng(0).integers(45, size=90)


def grouped(labels: list[str], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(max(2, len(labels) // 3), size=len(labels))


def assert_sides(split: Split, items: int) -> None:
    assert np.array_equal(np.unique(split.train), split.train)
    assert np.array_equal(np.unique(split.test), split.test)
    assert not np.intersect1d(split.train, split.test).size
    assert np.union1d(split.train, split.test).tolist() == list(range(items))


def assert_groups_whole(split: Split, groups: np.ndarray) -> None:
    assert not np.intersect1d(groups[split.train], groups[split.test]).size


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS)
def test_few_shots_take_so_many_of_every_class_and_leave_the_rest(labels: list[str], seed: int) -> None:
    y = np.array(labels)
    shots = int(np.unique(y, return_counts=True)[1].min())
    split = few_shot_split(y, shots, seed=seed)
    assert_sides(split, len(y))
    assert np.unique(y[split.train], return_counts=True)[1].tolist() == [shots] * len(set(labels))


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS)
def test_few_shots_leave_out_what_shares_a_group_with_a_shot(labels: list[str], seed: int) -> None:
    y, groups = np.array(labels), grouped(labels, seed)
    split = few_shot_split(y, 1, seed=seed, groups=groups)
    assert_groups_whole(split, groups)
    out = np.setdiff1d(np.arange(len(y)), np.union1d(split.train, split.test))
    assert np.isin(groups[out], groups[split.train]).all()
    assert len(split.train) == len(set(labels))


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS, folds=st.integers(2, 6))
def test_folds_cover_and_keep_the_shares_of_classes(labels: list[str], seed: int, folds: int) -> None:
    y = np.array(labels)
    splits = grouped_stratified_folds(y, folds, seed=seed)
    for split in splits:
        assert_sides(split, len(y))
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(y)))
    sizes = [len(split.test) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        counts = [int((y[split.test] == label).sum()) for split in splits]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS)
def test_folds_never_divide_a_group(labels: list[str], seed: int) -> None:
    y, groups = np.array(labels), grouped(labels, seed)
    folds = min(3, len(np.unique(groups)))
    assume(folds > 1)
    splits = grouped_stratified_folds(y, folds, seed=seed, groups=groups)
    for split in splits:
        assert_sides(split, len(y))
        assert_groups_whole(split, groups)
        assert len(split.test)
    assert sorted(np.concatenate([split.test for split in splits])) == list(range(len(y)))


def test_groups_of_one_class_are_dealt_fairly_too() -> None:
    y = np.repeat(["a", "b", "c"], 40)
    groups = np.arange(120) // 2  # pairs within a class
    for split in grouped_stratified_folds(y, 5, seed=3, groups=groups):
        assert np.unique(y[split.test], return_counts=True)[1].tolist() == [8, 8, 8]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=4, max_size=30), seed=SEEDS)
def test_group_folds_are_balanced_to_the_largest_group(sizes: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    splits = group_folds(groups, 4, seed=seed)
    tests = [len(split.test) for split in splits]
    assert max(tests) - min(tests) <= max(sizes)
    for split in splits:
        assert_groups_whole(split, groups)


@pytest.mark.parametrize("seed", range(5))
def test_a_large_group_is_dealt_before_the_small_ones(seed: int) -> None:
    groups = np.repeat(np.arange(11), [10] + [1] * 10)
    assert [len(split.test) for split in group_folds(groups, 2, seed=seed)] == [10, 10]


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS, share=st.floats(0.15, 0.85))
def test_holdout_takes_its_share_of_every_class(labels: list[str], seed: int, share: float) -> None:
    y = np.array([*labels, "e"])  # a class of one item stays in training
    assume(np.unique(y, return_counts=True)[1].max() > 3)
    split = holdout_split(share, y=y, seed=seed)
    assert_sides(split, len(y))
    for label, count in zip(*np.unique(y, return_counts=True), strict=True):
        taken = int((y[split.test] == label).sum())
        assert abs(taken - share * count) <= 1
        assert taken < count


@settings(deadline=None)
@given(seed=SEEDS, share=st.floats(0.1, 0.9))
def test_holdout_of_groups_comes_close_to_its_share(seed: int, share: float) -> None:
    groups = np.random.default_rng(seed).integers(40, size=200)
    split = holdout_split(share, groups=groups, seed=seed)
    assert_sides(split, 200)
    assert_groups_whole(split, groups)
    assert abs(len(split.test) - share * 200) <= np.bincount(groups).max()


def test_holdout_by_labels_and_groups_keeps_both() -> None:
    y = np.tile(np.repeat(["a", "b"], [30, 10]), 5)
    groups = np.arange(200) // 5
    split = holdout_split(0.25, y=y, groups=groups, seed=0)
    assert_groups_whole(split, groups)
    assert abs(np.mean(y[split.test] == "b") - 0.25) < 0.1
    assert abs(len(split.test) - 50) <= 5


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: few_shot_split(["bird"] * 12 + ["frog"] * 2, 3), "frog has 2"),
        (lambda: few_shot_split(["a", "b"], 0), "at least 1; got 0"),
        (lambda: group_folds(["x", "x", "y"], 3), "2 groups cannot be dealt"),
        (lambda: group_folds(["x", "y"], 1), "at least 2 folds"),
        (lambda: grouped_stratified_folds(["a", "a", "b"], 5), "3 items cannot be dealt"),
        (lambda: grouped_stratified_folds(["a", "a", "b"], 2, groups=[1, 2]), "3 rows but 2 groups"),
        (lambda: holdout_split(0.2), "needs y, groups or both"),
        (lambda: holdout_split(1.5, y=["a", "b"]), "between 0 and 1"),
        (lambda: holdout_split(0.1, y=["a", "b", "c"]), "nothing to test"),
        (lambda: held_out_class_split(["a", "a"], 0.5), "at least 2 classes"),
        (lambda: held_out_class_split(["a", "b"], 1), "between 0 and 1"),
        (lambda: held_out_class_split(["a", None], 0.5), "1 of 2 labels are missing"),
        (lambda: label_codes(["a", 1]), "mix numbers and text"),
        (lambda: label_codes([["a", "b"]]), "one value a row"),
        (merge_groups, "one or more groupings"),
        (lambda: merge_groups([1, 2], [1, 2, 3]), "2 rows but 3 groups"),
        (lambda: merge_groups([1, 2], ["x", None]), "1 of 2 groups are missing"),
    ],
)
def test_what_cannot_be_split_is_refused(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(LabelError, match=message):
        ask()


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: few_shot_split(Y, 5, seed=seed),
        lambda seed: grouped_stratified_folds(Y, 4, seed=seed)[0],
        lambda seed: grouped_stratified_folds(Y, 4, seed=seed, groups=G)[0],
        lambda seed: group_folds(G, 4, seed=seed)[0],
        lambda seed: holdout_split(0.3, y=Y, seed=seed),
        lambda seed: holdout_split(0.3, groups=G, seed=seed),
        lambda seed: held_out_class_split(G, 0.5, seed=seed).split,
    ],
)
def test_the_seed_decides(draw) -> None:  # type: ignore[no-untyped-def]
    assert np.array_equal(draw(1).test, draw(1).test)
    assert not np.array_equal(draw(1).test, draw(2).test)


@pytest.mark.parametrize(
    ("labels", "number", "row"),
    [
        (["a", None, "b", None], 2, 1),
        (["a", "b", float("nan")], 1, 2),
        (np.array([np.nan, 1.0, np.nan]), 2, 0),
        (np.array(["2020", "NaT"], dtype="datetime64[D]"), 1, 1),
    ],
)
def test_missing_labels_are_refused_with_their_number(labels, number: int, row: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=rf"{number} of {len(labels)} labels are missing .*first at row {row}"):
        few_shot_split(labels, 1)


def test_a_value_that_refuses_to_be_compared_counts_as_missing() -> None:
    class NotAvailable:
        def __ne__(self, other: object) -> bool:
            raise TypeError("boolean value of NA is ambiguous")

        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(LabelError, match="1 of 2 labels are missing"):
        label_codes(["a", NotAvailable()])


def test_codes_find_their_labels_again() -> None:
    values = np.array(["b", "a", "b"], dtype=object)
    classes, codes = label_codes(values)
    assert classes.tolist() == ["a", "b"]
    assert classes[codes].tolist() == values.tolist()
    assert label_codes([True, False])[0].dtype == np.bool_


@settings(deadline=None)
@given(labels=LABELS, seed=SEEDS, share=st.floats(0.01, 0.99))
def test_held_out_classes_keep_all_their_rows_apart(labels: list[str], seed: int, share: float) -> None:
    assume(len(set(labels)) > 1)
    y = np.array(labels)
    held = held_out_class_split(y, share, seed=seed)
    assert_sides(held.split, len(y))
    assert sorted({*y[held.split.train]}) == list(held.seen)
    assert sorted({*y[held.split.test]}) == list(held.unseen)
    assert sorted([*held.seen, *held.unseen]) == sorted(set(labels))
    assert len(held.unseen) == min(max(round(share * len(set(labels))), 1), len(set(labels)) - 1)
    shuffled = np.random.default_rng(seed).permutation(y)
    assert held_out_class_split(shuffled, share, seed=seed).unseen == held.unseen


def test_every_class_is_held_out_sometimes() -> None:
    assert {held_out_class_split(Y, 0.3, seed=seed).unseen for seed in range(30)} == {("a",), ("b",), ("c",)}


def components(edges: np.ndarray) -> list[int]:
    """Groups numbered as they first occur, by walking from row to row."""
    group = [-1] * len(edges)
    for start in range(len(edges)):
        if group[start] < 0:
            number, waiting = max(group) + 1, [start]
            while waiting:
                row = waiting.pop()
                if group[row] < 0:
                    group[row] = number
                    waiting.extend(np.flatnonzero(edges[row]).tolist())
    return group


@settings(deadline=None, max_examples=60)
@given(
    seed=SEEDS,
    rows=st.integers(0, 40),
    block=st.sampled_from([1, 7, 16, 1024]),
    threshold=st.sampled_from([0.8, 0.95, 1.0]),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    known=st.booleans(),
)
def test_near_duplicates_agree_with_walking_the_whole_matrix(
    seed: int, rows: int, block: int, threshold: float, dtype: type, known: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Directions 5 degrees apart, so that no cosine comes near to a threshold but at 0 degrees, and chains form.
    angle = np.deg2rad(5 * rng.integers(72, size=rows))
    vectors: np.ndarray = (np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.1, 9, (rows, 1))).astype(
        dtype
    )
    vectors[rng.random(rows) < 0.1] = 0
    groups = rng.integers(max(rows, 1), size=rows) if known else None
    lengths = np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros((rows, 2)), where=lengths > 0)
    slack = 1e-6 if threshold == 1 else 0.0
    if threshold == 1:  # rows of one direction differ by rounding alone, and float16 rounds too much for a cosine of 1
        assume(dtype != np.float16)
    edges = directions @ directions.T >= threshold - slack
    if groups is not None:
        edges |= groups[:, None] == groups[None]
    found = near_duplicate_groups(vectors, threshold=threshold, groups=groups, block=block)
    assert found.tolist() == components(edges)


@pytest.mark.parametrize(
    ("dtype", "length"),
    [(np.float16, 1), (np.float32, 1), (np.float32, 1e-30), (np.float32, 1e30), (np.float64, 1), (np.float64, 1e-200)],
)
def test_copies_are_found_at_a_threshold_of_1_whatever_their_length(dtype: type, length: float) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 384))
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(50), 2))
    copies = (vectors[order] * length).astype(dtype)
    found = near_duplicate_groups(copies, threshold=1, block=32)
    assert found.tolist() == merge_groups(order).tolist()
    assert found.max() == 49


def test_planted_near_duplicates_are_found_and_neighbours_are_not() -> None:
    rng = np.random.default_rng(2)
    first = rng.normal(size=(100, 64)).astype(np.float32)
    second = first[:30] + 0.1 * rng.normal(size=(30, 64)).astype(np.float32)
    found = near_duplicate_groups(np.concatenate([first, second]), block=50)
    assert found.tolist() == [*range(100), *range(30)]


def test_rows_without_a_direction_stand_alone_unless_a_group_says_otherwise() -> None:
    vectors = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    assert near_duplicate_groups(vectors).tolist() == [0, 1, 2, 1]
    assert near_duplicate_groups(vectors, groups=["x", "y", "x", "z"]).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.zeros(3), {}, r"the embeddings must be a matrix .* shape \(3,\)"),
        (np.array([["a"]]), {}, "the embeddings must be a matrix of numbers"),
        (np.array([[1.0], [np.nan]]), {"block": 1}, "NaN or infinite values, first row 1"),
        (np.ones((2, 2)), {"threshold": 1.5}, r"above 0 and at most 1; got 1\.5"),
        (np.ones((2, 2)), {"threshold": 0}, "above 0 and at most 1; got 0"),
        (np.ones((2, 2)), {"threshold": float("nan")}, "above 0 and at most 1; got nan"),
        (np.ones((2, 2)), {"block": 0}, "block must be at least 1; got 0"),
        (np.ones((2, 2)), {"groups": ["x"]}, "2 rows but 1 groups"),
    ],
)
def test_vectors_that_cannot_be_compared_are_refused(vectors, options, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LabelError, match=message):
        near_duplicate_groups(vectors, **options)


@settings(deadline=None)
@given(seed=SEEDS, rows=st.integers(1, 30), groupings=st.integers(1, 3))
def test_merged_groups_are_those_of_a_walk(seed: int, rows: int, groupings: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [rng.integers(1 + rows, size=rows) for _ in range(groupings)]
    together = np.any([one[:, None] == one[None] for one in groups], axis=0)
    assert merge_groups(*groups).tolist() == components(together)


def test_groups_of_any_kind_are_merged() -> None:
    assert merge_groups(["x", "y", "z", "x"], [7, 8, 7, 9]).tolist() == [0, 1, 0, 0]
    assert merge_groups([]).tolist() == []


def test_test_rows_with_a_mate_in_train_are_counted() -> None:
    groups = ["x", "x", "y", "z", "z", "z", "w"]
    # Of the test rows, row 1 has row 0 in train, rows 4 and 5 have row 3; row 6 has none. Row 2 is on neither side.
    assert crossing(groups, Split(np.array([0, 3]), np.array([1, 4, 5, 6]))) == 3
    assert crossing(groups, Split(np.array([0, 1]), np.array([3, 4, 5]))) == 0
    assert crossing([], Split(np.array([], dtype=int), np.array([], dtype=int))) == 0
    with pytest.raises(LabelError, match="rows 0 to 7, but there are 7 groups"):
        crossing(groups, Split(np.array([0]), np.array([7])))


def test_splits_that_respect_near_duplicates_are_not_crossed_and_others_are() -> None:
    rng = np.random.default_rng(3)
    once = rng.normal(size=(40, 16))
    groups = near_duplicate_groups(np.concatenate([once, once]))
    y = np.tile(np.arange(40) % 2, 2)
    assert crossing(groups, holdout_split(0.5, y=y, seed=0)) > 10
    assert crossing(groups, holdout_split(0.5, y=y, groups=groups, seed=0)) == 0
