"""Splits are disjoint, whole in groups, fair to classes, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chiasm.errors import LabelError
from chiasm.evaluation.splits import Split, few_shot_split, group_folds, grouped_stratified_folds, holdout_split
from chiasm.transfer.labels import label_codes

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


@pytest.mark.parametrize("shots", [3, 10])
def test_more_shots_than_a_class_has_names_class_and_size(shots: int) -> None:
    with pytest.raises(LabelError, match=rf"{shots} shots a class were asked for, but frog has 2: ask for at most 2"):
        few_shot_split(["bird"] * 12 + ["frog"] * 2, shots)


def test_no_shots_are_refused() -> None:
    with pytest.raises(LabelError, match="shots must be at least 1; got 0"):
        few_shot_split(["a", "b"], 0)


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


def test_too_many_folds_name_the_number_of_groups() -> None:
    with pytest.raises(LabelError, match="2 groups cannot be dealt into 3 folds: ask for at most 2"):
        group_folds(["x", "x", "y"], 3)
    with pytest.raises(LabelError, match="3 items cannot be dealt into 5 folds"):
        grouped_stratified_folds(["a", "a", "b"], 5)
    with pytest.raises(LabelError, match="at least 2 folds are needed; got 1"):
        group_folds(["x", "y"], 1)


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


def test_holdout_asks_for_something_to_go_by_and_for_a_share() -> None:
    with pytest.raises(LabelError, match="needs y, groups or both"):
        holdout_split(0.2)
    with pytest.raises(LabelError, match=r"share must lie between 0 and 1; got 1\.5"):
        holdout_split(1.5, y=["a", "b"])
    with pytest.raises(LabelError, match="leaves nothing to test"):
        holdout_split(0.1, y=["a", "b", "c"])


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: few_shot_split(Y, 5, seed=seed),
        lambda seed: grouped_stratified_folds(Y, 4, seed=seed)[0],
        lambda seed: grouped_stratified_folds(Y, 4, seed=seed, groups=G)[0],
        lambda seed: group_folds(G, 4, seed=seed)[0],
        lambda seed: holdout_split(0.3, y=Y, seed=seed),
        lambda seed: holdout_split(0.3, groups=G, seed=seed),
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


def test_mixed_kinds_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(LabelError, match="labels mix numbers and text"):
        label_codes(["a", 1])
    with pytest.raises(LabelError, match=r"one value a row; got an array of shape \(1, 2\)"):
        label_codes([["a", "b"]])
    with pytest.raises(LabelError, match="there are 3 rows but 2 groups"):
        grouped_stratified_folds(["a", "a", "b"], 2, groups=[1, 2])


def test_codes_find_their_labels_again() -> None:
    values = np.array(["b", "a", "b"], dtype=object)
    classes, codes = label_codes(values)
    assert classes.tolist() == ["a", "b"]
    assert classes[codes].tolist() == values.tolist()
    assert label_codes([True, False])[0].dtype == np.bool_
