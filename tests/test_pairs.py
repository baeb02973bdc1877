"""Pairs, their sums, and the file that sums are shared in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planted_pairs import pairs, slow_scale, weighted_rows
from safetensors.numpy import save_file

from chiasm.alignment.closed_form import RidgeAlignment
from chiasm.alignment.pairs import PairArrays, Pairs, PairStatistics, mix
from chiasm.errors import SpaceError

NAMES = ("sum_x", "sum_y", "xx", "xy", "yy")


def test_statistics_are_sums_over_pairs_also_across_blocks() -> None:
    data = pairs(4100, 3, 2)
    sums = data.statistics
    X, Y = data.X.astype(np.float64), data.Y.astype(np.float64)
    assert sums.count == 4100
    expected = X.sum(axis=0), Y.sum(axis=0), X.T @ X, sum(map(np.outer, X, Y)), Y.T @ Y
    for name, values in zip(NAMES, expected, strict=True):
        np.testing.assert_allclose(getattr(sums, name), values)


def test_statistics_of_parts_add_up() -> None:
    source, target = pairs(90), pairs(20, seed=1)
    parts = [source.take(np.arange(*rows)).statistics for rows in ((0, 20), (20, 50), (50, 90))]
    total = parts[0] + parts[1] + parts[2]
    assert total.count == 90
    for name in NAMES:
        np.testing.assert_allclose(getattr(total, name), getattr(source.statistics, name), rtol=1e-12)
    fits = [RidgeAlignment().fit(target, sums) for sums in (source.statistics, total)]
    np.testing.assert_allclose(fits[0].map.weight, fits[1].map.weight, atol=1e-6)
    with pytest.raises(SpaceError, match="both must come from the same encoders"):
        total + pairs(20, 11).statistics


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_mixtures_are_those_of_weighted_rows(alpha: float) -> None:
    target, source = pairs(30), pairs(60, seed=1)
    X, Y, weights = weighted_rows(target, source, alpha)
    mixture = mix(target, source, alpha)
    covariance = np.cov(np.hstack([X, Y]).T, aweights=weights, ddof=0)
    np.testing.assert_allclose(mixture.mean_x, weights @ X, atol=1e-9)
    np.testing.assert_allclose(mixture.mean_y, weights @ Y, atol=1e-9)
    np.testing.assert_allclose(mixture.xx, covariance[:12, :12], atol=1e-9)
    np.testing.assert_allclose(mixture.xy, covariance[:12, 12:], atol=1e-9)
    np.testing.assert_allclose(mixture.yy, covariance[12:, 12:], atol=1e-9)
    assert mixture.scale == pytest.approx(slow_scale(target, source, alpha))


def test_the_spectrum_of_few_pairs_is_that_of_their_covariance() -> None:
    few = pairs(20, 30)
    values, basis, cross = few.spectrum
    full, _, _ = few.moments.spectrum
    assert len(values) == 19
    np.testing.assert_allclose(values, full[-19:], rtol=1e-6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(19), atol=1e-9)
    np.testing.assert_allclose((basis * values) @ basis.T, few.moments.xx, atol=1e-9)
    np.testing.assert_allclose(cross, basis.T @ few.moments.xy, atol=1e-9)
    assert few.scale == pytest.approx(few.statistics.scale)


def test_pairs_that_share_a_file_or_an_item_are_of_one_group() -> None:
    features = np.zeros((5, 2))
    items, images, texts = ("a", "b", "c", "d", "d"), ("1", "2", "3", "4", "5"), ("x", "y", "x", "z", "w")
    slots = ("image/0",) * 5
    data = Pairs("image", "text", items, features, features, features, features, images, texts, slots, slots)
    assert data.groups.tolist() == [0, 1, 0, 2, 2]
    assert data.arrays.codes.tolist() == [0, 1, 0, 2, 2]


# ---------------------------------------------------------------------------------------------------------------- file


def test_statistics_come_back_from_a_file_exactly(tmp_path: Path) -> None:
    source, path = pairs(300).statistics, tmp_path / "source.safetensors"
    source.save(path, {"encoder": "abc", "words": "größer"})
    read, metadata = PairStatistics.load(path)
    assert metadata == {"encoder": "abc", "words": "größer"}
    assert read.count == 300
    for name in NAMES:
        np.testing.assert_allclose(getattr(read, name), getattr(source, name), rtol=1e-15)
        assert getattr(read, name).dtype == np.float64
    np.testing.assert_array_equal(read.sum_x, source.sum_x)
    np.testing.assert_array_equal(read.xx, read.xx.T)


def damaged(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], object]) -> Path:
    """A file of statistics of 2 x 1 features in which one thing is wrong."""
    tensors: dict[str, np.ndarray] = {
        "sum_x": np.ones(2),
        "sum_y": np.ones(1),
        "xx_upper": np.ones(3, np.float32),
        "xy": np.ones((2, 1)),
        "yy_upper": np.ones(1),
    }
    header = {"format": "chiasm-pair-statistics", "format_version": "2", "count": "7", "metadata": "{}"}
    change(tensors, header)
    save_file(tensors, path, metadata=header)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: h.update(format="something"), "is not a file of pair statistics"),
        (lambda t, h: h.update(format_version="1"), "has format version 1; this chiasm reads 2"),
        (lambda t, h: h.pop("count"), "is damaged"),
        (lambda t, h: h.update(count="many"), "is damaged"),
        (lambda t, h: h.update(count="0"), "is damaged: 0 pairs"),
        (lambda t, h: h.update(metadata="{"), "is damaged"),
        (lambda t, h: t.pop("xy"), "is damaged"),
        (lambda t, h: t.update(xx_upper=np.ones(4)), r"is damaged: 7 pairs with matrices of shapes .*\(4,\)"),
        (lambda t, h: t.update(yy_upper=np.ones(3)), "is damaged"),
        (lambda t, h: t.update(xy=np.ones((1, 2))), "is damaged"),
        (lambda t, h: t.update(sum_y=np.array([np.nan])), "is damaged: it holds values that are not finite"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray], dict[str, str]], object], message: str
) -> None:
    assert PairStatistics.load(damaged(tmp_path / "fine.safetensors", lambda tensors, header: None))[0].count == 7
    path = damaged(tmp_path / "source.safetensors", change)
    with pytest.raises(SpaceError, match=message) as caught:
        PairStatistics.load(path)
    assert str(path) in str(caught.value)


def test_what_is_no_file_of_statistics_cannot_be_loaded(tmp_path: Path) -> None:
    pairs(50).statistics.save(tmp_path / "whole", {})
    (tmp_path / "text").write_text("no tensors at all")
    (tmp_path / "half").write_bytes((tmp_path / "whole").read_bytes()[:-100])
    for name in ("missing", "text", "half"):
        with pytest.raises(SpaceError, match=f"{name} is damaged, or no file"):
            PairStatistics.load(tmp_path / name)
    with pytest.raises(SpaceError, match=r"cannot be written to .*nowhere"):
        pairs(20).statistics.save(tmp_path / "nowhere" / "file", {})


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, Y, s, g: (X, Y[1:], s, g), r"features \(20, 12\) and anchors \(19, 5\)"),
        (lambda X, Y, s, g: (X[0], Y[0], s, g), r"features \(12,\) and anchors \(5,\)"),
        (lambda X, Y, s, g: (X[:0], Y[:0], s[:0], g[:0]), r"features \(0, 12\)"),
        (lambda X, Y, s, g: (X, Y, s[:, 1:], g), r"of the shape of the anchors, \(20, 5\); got \(20, 4\)"),
        (lambda X, Y, s, g: (X, Y, s, g[1:]), r"for each of the 20 pairs; got shape \(19,\)"),
        (lambda X, Y, s, g: (np.where(np.eye(20, 12), np.nan, X), Y, s, g), "12 of 20 pairs have values that are not"),
        (lambda X, Y, s, g: (X, np.where(np.eye(20, 5), np.inf, Y), s, g), "5 of 20 pairs have values that are not"),
        (lambda X, Y, s, g: (X, Y, np.where(np.eye(20, 5), np.nan, s), g), "the start must be finite .* 5 values"),
    ],
)
def test_pairs_must_fit(change: Callable[..., tuple[np.ndarray, ...]], message: str) -> None:
    data = pairs(20)
    with pytest.raises(SpaceError, match=message):
        PairArrays(*change(data.X, data.Y, data.start, data.groups))


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_features_that_do_not_differ_have_no_scale(value: float) -> None:
    data = pairs(20)
    flat = PairArrays(np.full_like(data.X, value), data.Y, data.start)
    assert flat.scale == flat.statistics.scale == 0
