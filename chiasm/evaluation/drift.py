"""Drift: whether embeddings that come in are still like those that were learned from, and by how much.

Two questions, since neither answer is enough. Whether: the maximum mean discrepancy with a permutation test, which sees
any difference between two distributions and, with many rows, also one that is too small to matter. How much: the
population stability index over quantile bins of what can be looked at, the principal directions of the rows (where they
moved) and their distance to the mean of the reference (what no longer lies where the reference does). A warning needs
both. Directions alone would miss rows that are spread in a way the reference is not; distances alone, rows that moved
within it, as when one class becomes more frequent.

Where embeddings come from, and which rows are kept as a reference, is left to `chiasm.verbs.learn` and `chiasm.verbs.model`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.errors import LabelError

Status: TypeAlias = Literal["none", "slight", "moderate", "strong"]

MODERATE, STRONG = 0.1, 0.25  # PSI: the thresholds in use since Lewis 1994, "An Introduction to Credit Scoring"
FEWEST = 20  # rows on either side
MOST_TESTED = 500  # rows on either side: the test holds a matrix of all pairs
LEVEL = 0.01  # of the test
PERMUTATIONS = 499
DIRECTIONS = 5
_BINS = (3, 10)
_ROWS_A_BIN = 20
_BLOCK = 1024
_MEDIAN_OF = 1000  # rows whose distances the bandwidth is taken from


@dataclass(frozen=True)
class Drift:
    """How embeddings that came in differ from a reference.

    Attributes:
        status: `"none"`: the test does not tell them apart. Otherwise by the largest PSI: `"slight"` below 0.1,
            `"moderate"` below 0.25, or `"strong"`.
        mmd2: the unbiased estimate of the squared maximum mean discrepancy; about 0, also below, without drift.
        p_value: how often a random division of all rows gives an estimate at least as large.
        bandwidth: of the kernel.
        psi: the largest of `parts`.
        parts: PSI of each principal direction, of falling variance, and of the distance to the reference's mean.
        reference: rows of the reference that were looked at.
        incoming: rows that came in that were looked at.
    """

    status: Status
    mmd2: float
    p_value: float
    bandwidth: float
    psi: float
    parts: dict[str, float]
    reference: int
    incoming: int

    def warning(self, what: str) -> str | None:
        """What to tell people, and what they can do; None where there is nothing to do.

        Args:
            what: of which embeddings, such as `"image"`.
        """
        if self.status in ("none", "slight"):
            return None
        most = max(self.parts, key=lambda name: self.parts[name])
        where = "in their distance to its mean" if most == "distance" else f"along principal {most}"
        return (
            f"The {what} embeddings that come in differ {'strongly' if self.status == 'strong' else 'moderately'} from those "
            f"that the model learned from (PSI {self.psi:.2f} {where}, where {MODERATE} is moderate and {STRONG} strong; "
            f"p = {self.p_value:.3f} by MMD; {self.incoming} items against {self.reference}). Its probabilities may no "
            "longer hold. Look at the newest items, correct the labels of some of them, and learn again"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def drift(
    reference: Float[np.ndarray, "rows dim"],
    incoming: Float[np.ndarray, "others dim"],
    *,
    level: float = LEVEL,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Compare embeddings that came in with a reference.

    Of more than `MOST_TESTED` rows on a side, so many are drawn. Rows are taken for independent: of copies, or of many
    parts of one recording, give one.

    Args:
        reference: embeddings that were learned from, or a sample of them.
        incoming: embeddings of the same encoder.
        level: of the test: so often is there an alarm where there is no drift, at the most.
        permutations: random divisions of all rows.
        seed: of the draws.

    Raises:
        LabelError: fewer than `FEWEST` rows on a side, other widths, values that are not finite, or a level or number of
            permutations by which nothing could be found.
    """
    first, second = _checked(reference, incoming, FEWEST)
    if not 0 < level < 1:
        raise LabelError(f"level must lie between 0 and 1; got {level}")
    needed = math.ceil(1 / level) - 1
    if permutations < max(1, needed):
        raise LabelError(f"a level of {level} needs at least {needed} permutations; got {permutations}")
    rng = np.random.default_rng(seed)
    first, second = (rows[_drawn(len(rows), MOST_TESTED, rng)] for rows in (first, second))
    width = bandwidth(first, second)
    value, p_value = _permutation_test(first, second, width, permutations, rng)
    parts = _stability(first, second)
    largest = max(parts.values())
    status: Status = "strong" if largest >= STRONG else "moderate" if largest >= MODERATE else "slight"
    return Drift(status if p_value <= level else "none", value, p_value, width, largest, parts, len(first), len(second))


def bandwidth(first: Float[np.ndarray, "rows dim"], second: Float[np.ndarray, "others dim"]) -> float:
    """The median distance between two rows, of either side: the heuristic of Gretton et al. 2012, section 8.

    Raises:
        LabelError: other widths, or values that are not finite.
    """
    first, second = _checked(first, second, 1)
    every = np.concatenate([first, second])
    # Every n-th of each side: no draw, so that the heuristic is a function of the rows.
    rows = every[:: -(-len(every) // _MEDIAN_OF)]
    squares = _squared_distances(rows, rows)[np.triu_indices(len(rows), 1)]
    median = float(np.sqrt(np.median(squares))) if len(squares) else 0.0
    return median if median > 0 else 1.0  # most rows are equal: then any width tells the others


def mmd2(
    first: Float[np.ndarray, "rows dim"],
    second: Float[np.ndarray, "others dim"],
    *,
    width: float | None = None,
    block: int = _BLOCK,
) -> float:
    """The unbiased estimate of the squared maximum mean discrepancy, with the kernel exp(-distance^2 / (2 width^2)).

    Gretton et al. 2012, "A Kernel Two-Sample Test" (JMLR 13), equation 3. All pairs of rows are looked at, `block` x
    `block` at a time: the time grows with the square of the rows, the memory does not.

    Args:
        first: rows of one distribution, at least 2.
        second: of the other, at least 2.
        width: of the kernel. Default: see `bandwidth`.
        block: how many rows are compared with how many at once.

    Raises:
        LabelError: fewer than 2 rows on a side, other widths, values that are not finite, or `width` or `block` not above
            0.
    """
    first, second = _checked(first, second, 2)
    if block < 1 or (width is not None and not width > 0):
        raise LabelError(f"width and block must be above 0; got {width} and {block}")
    wide = bandwidth(first, second) if width is None else width

    def total(left: Float64[np.ndarray, "rows dim"], right: Float64[np.ndarray, "others dim"]) -> float:
        return sum(
            float(_kernel(left[i : i + block], right[j : j + block], wide).sum())
            for i in range(0, len(left), block)
            for j in range(0, len(right), block)
        )

    n, m = len(first), len(second)
    # A row's kernel with itself is 1, and not counted.
    within = (total(first, first) - n) / (n * (n - 1)) + (total(second, second) - m) / (m * (m - 1))
    return within - 2 * total(first, second) / (n * m)


def population_stability(
    reference: Float[np.ndarray, " rows"], incoming: Float[np.ndarray, " others"], *, bins: int = 10
) -> float:
    """The population stability index of one number a row: sum over bins of (q - p) ln(q / p), less what chance gives.

    The bins are quantiles of the reference, the outer two without an end; p and q are the shares of the reference and
    of what came in, with half a row added to each bin, so that an empty one is not infinite. Two samples of one
    distribution have (bins - 1) (1/n + 1/m) on the average (Yurdakul 2018, "Statistical Properties of Population
    Stability Index"), which with few rows is more than any threshold; it is taken off, down to 0.

    Args:
        reference: numbers, at least one.
        incoming: numbers, at least one.
        bins: how many; fewer where the reference has many equal numbers.

    Raises:
        LabelError: nothing on a side, values that are not finite, or fewer than 2 bins.
    """
    if bins < 2 or not len(reference) or not len(incoming):
        raise LabelError(f"PSI needs 2 bins and a row on either side; got {bins}, {len(reference)} and {len(incoming)}")
    if not np.isfinite(reference).all() or not np.isfinite(incoming).all():
        raise LabelError("PSI needs numbers that are finite")
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))

    def shares(values: Float[np.ndarray, " rows"]) -> Float64[np.ndarray, " bins"]:
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) + 0.5
        found: Float64[np.ndarray, " bins"] = counts / counts.sum()
        return found

    p, q = shares(reference), shares(incoming)
    expected = len(edges) * (1 / len(reference) + 1 / len(incoming))
    return max(0.0, float(((q - p) * np.log(q / p)).sum()) - expected)


def _stability(
    reference: Float64[np.ndarray, "rows dim"], incoming: Float64[np.ndarray, "others dim"]
) -> dict[str, float]:
    """PSI of what can be looked at.

    The directions are those of all rows together. Those of the reference alone would fit its own noise: its rows would
    be spread more along them than others of the same distribution are, and that alone would look like drift. For the
    same reason a row of the reference is held against the mean of the others.
    """
    few = min(len(reference), len(incoming))
    bins = int(np.clip(few // _ROWS_A_BIN, *_BINS))
    every = np.concatenate([reference, incoming])
    centred = every - every.mean(axis=0)
    # Through the smaller of the two square matrices of products.
    if centred.shape[1] <= len(centred):
        found = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :DIRECTIONS]
        along = centred @ found
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        along = (vectors * np.sqrt(np.maximum(values, 0)))[:, ::-1][:, :DIRECTIONS]
    n = len(reference)
    parts = {
        f"direction {number + 1}": population_stability(column[:n], column[n:], bins=bins)
        for number, column in enumerate(along.T)
    }
    mean = reference.mean(axis=0)
    inside = np.linalg.norm(reference - mean, axis=1) * n / (n - 1)
    outside = np.linalg.norm(incoming - mean, axis=1)
    return parts | {"distance": population_stability(inside, outside, bins=bins)}


def _permutation_test(
    first: Float64[np.ndarray, "rows dim"],
    second: Float64[np.ndarray, "others dim"],
    width: float,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """The estimate, and its p-value with itself among the draws, so that it is never 0 (Phipson & Smyth 2010)."""
    n, m = len(first), len(second)
    every = np.concatenate([first, second])
    kernel = _kernel(every, every, width)
    np.fill_diagonal(kernel, 0)
    inside = np.zeros((n + m, permutations + 1))
    inside[:n, 0] = 1
    for draw in range(1, permutations + 1):
        inside[rng.permutation(n + m)[:n], draw] = 1
    sums = kernel @ inside
    own = np.einsum("ij,ij->j", inside, sums)
    across = sums.sum(axis=0) - own
    others = kernel.sum() - own - 2 * across
    estimates = own / (n * (n - 1)) + others / (m * (m - 1)) - 2 * across / (n * m)
    # A division that equals the observed one may differ from it by rounding.
    as_large = estimates[1:] >= estimates[0] - 1e-12
    return float(estimates[0]), float((1 + as_large.sum()) / (1 + permutations))


def _kernel(
    left: Float64[np.ndarray, "rows dim"], right: Float64[np.ndarray, "others dim"], width: float
) -> Float64[np.ndarray, "rows others"]:
    kernel: Float64[np.ndarray, "rows others"] = np.exp(_squared_distances(left, right) / (-2 * width**2))
    return kernel


def _squared_distances(
    left: Float64[np.ndarray, "rows dim"], right: Float64[np.ndarray, "others dim"]
) -> Float64[np.ndarray, "rows others"]:
    squares: Float64[np.ndarray, "rows others"] = (
        np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)[None, :] - 2 * left @ right.T
    )
    np.maximum(squares, 0, out=squares)
    return squares


def _drawn(rows: int, most: int, rng: np.random.Generator) -> Int[np.ndarray, " drawn"]:
    return np.arange(rows) if rows <= most else np.sort(rng.choice(rows, most, replace=False))


def _checked(
    first: Float[np.ndarray, "rows dim"], second: Float[np.ndarray, "others dim"], fewest: int
) -> tuple[Float64[np.ndarray, "rows dim"], Float64[np.ndarray, "others dim"]]:
    """Both as float64."""
    sides = (np.asarray(first), np.asarray(second))
    for rows in sides:
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise LabelError(f"embeddings must be a matrix of floats, one a row; got {rows.dtype} {rows.shape}")
        if not np.isfinite(rows).all():
            raise LabelError("embeddings hold NaN or infinite values: leave out rows without one")
    if sides[0].shape[1] != sides[1].shape[1]:
        raise LabelError(
            f"embeddings of one encoder are needed; got widths {sides[0].shape[1]} and {sides[1].shape[1]}"
        )
    if min(map(len, sides)) < fewest:
        raise LabelError(
            f"at least {fewest} embeddings on either side are needed to compare them; got {len(sides[0])} and {len(sides[1])}"
        )
    return sides[0].astype(np.float64), sides[1].astype(np.float64)
