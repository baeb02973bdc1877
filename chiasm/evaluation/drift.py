"""Drift: whether incoming embeddings still look like those that were trained on, and by how much they differ.

Two questions, since neither answer is enough. Whether: the maximum mean discrepancy with a permutation test, which sees
any difference between two distributions and, with many rows, also one too small to matter. How much: the population
stability index over quantile bins of the principal directions (where rows moved) and of the distance to the reference's
mean (what no longer lies where the reference does). A warning needs both. Directions alone would miss rows that are
spread in a way the reference is not; distances alone, rows that moved within it, as when one class becomes more frequent.

Where embeddings come from, and which rows are kept as a reference, is left to `chiasm.verbs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from chiasm.errors import LabelError
from chiasm.evaluation.record import Record
from chiasm.vectors import check_matrix

Status: TypeAlias = Literal["none", "slight", "moderate", "strong"]

MODERATE, STRONG = 0.1, 0.25  # PSI: the thresholds in use since Lewis 1994, "An Introduction to Credit Scoring"
FEWEST = 20  # rows per side
MOST_TESTED = 500  # rows per side: the test holds a matrix of all pairs
LEVEL = 0.01  # of the test
PERMUTATIONS = 499
DIRECTIONS = 5
_BINS = (3, 10)
_ROWS_A_BIN = 20


@dataclass(frozen=True)
class Drift(Record):
    """How incoming embeddings differ from a reference.

    Attributes:
        status: `"none"`: the test does not tell them apart. Otherwise by the largest PSI: `"slight"` below 0.1,
            `"moderate"` below 0.25, or `"strong"`.
        mmd2: the unbiased estimate of the squared maximum mean discrepancy; about 0, also below, without drift.
        p_value: how often a random split of all rows gives an estimate at least as large.
        bandwidth: of the kernel.
        psi: the largest of `parts`.
        parts: PSI of each principal direction, of falling variance, and of the distance to the reference's mean.
        reference: number of reference rows compared.
        incoming: number of incoming rows compared.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> drift(rng.normal(size=(200, 8)), rng.normal(1.5, 1, size=(200, 8))).status
        'strong'
    """

    status: Status
    mmd2: float
    p_value: float
    bandwidth: float
    psi: float
    parts: dict[str, float]
    reference: int
    incoming: int

    def warning(self, modality: str) -> str | None:
        """Return what to tell people and what they can do, or None if there is nothing to do.

        Args:
            modality: of the embeddings, such as `"image"`.
        """
        if self.status in ("none", "slight"):
            return None
        most = max(self.parts, key=lambda name: self.parts[name])
        where = "in their distance to its mean" if most == "distance" else f"along principal {most}"
        return (
            f"The incoming {modality} embeddings differ {'strongly' if self.status == 'strong' else 'moderately'} from those "
            f"that the model was trained on (PSI {self.psi:.2f} {where}, where {MODERATE} is moderate and {STRONG} strong; "
            f"p = {self.p_value:.3f} by MMD; {self.incoming} items against {self.reference}). Its probabilities may no "
            "longer hold. Look at the newest items, correct the labels of some of them, and learn again"
        )


def drift(
    reference: Float[np.ndarray, "rows dim"],
    incoming: Float[np.ndarray, "others dim"],
    *,
    level: float = LEVEL,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Compare incoming embeddings with a reference.

    Of more than `MOST_TESTED` rows per side, that many are drawn. Rows are taken for independent: of copies, or of many
    parts of one recording, give one.

    Args:
        reference: embeddings that were trained on, or a sample of them.
        incoming: embeddings of the same encoder.
        level: of the test: the largest rate of false alarms.
        permutations: random splits of all rows.
        seed: of the draws.

    Raises:
        LabelError: fewer than `FEWEST` rows on a side, widths that differ, values that are not finite, or a level and
            number of permutations that could never raise an alarm.
    """
    if not 0 < level < 1:
        raise LabelError(f"level must lie between 0 and 1; got {level}")
    needed = math.ceil(1 / level) - 1
    if permutations < max(1, needed):
        raise LabelError(f"a level of {level} needs at least {needed} permutations; got {permutations}")
    first = check_matrix(reference, "the reference embeddings").astype(np.float64)
    second = check_matrix(incoming, "the incoming embeddings", columns=first.shape[1]).astype(np.float64)
    if min(len(first), len(second)) < FEWEST:
        raise LabelError(f"at least {FEWEST} embeddings per side are needed; got {len(first)} and {len(second)}")
    rng = np.random.default_rng(seed)
    first, second = (
        rows if len(rows) <= MOST_TESTED else rows[np.sort(rng.choice(len(rows), MOST_TESTED, replace=False))]
        for rows in (first, second)
    )
    width = bandwidth(first, second)
    value, p_value = _permutation_test(first, second, width, permutations, rng)
    parts = _stability(first, second)
    largest = max(parts.values())
    status: Status = "strong" if largest >= STRONG else "moderate" if largest >= MODERATE else "slight"
    return Drift(status if p_value <= level else "none", value, p_value, width, largest, parts, len(first), len(second))


def bandwidth(first: Float64[np.ndarray, "rows dim"], second: Float64[np.ndarray, "others dim"]) -> float:
    """Return the median distance between two rows of either side: the heuristic of Gretton et al. 2012, section 8."""
    from scipy.spatial.distance import pdist

    median = float(np.median(pdist(np.concatenate([first, second]))))
    return median if median > 0 else 1.0  # most rows are equal: then any width tells the others apart


def population_stability(
    reference: Float[np.ndarray, " rows"], incoming: Float[np.ndarray, " others"], *, bins: int = 10
) -> float:
    """Return the population stability index of one number per row: sum over bins of (q - p) ln(q / p), less chance.

    The bins are quantiles of the reference, the outer two open; p and q are the shares of reference and incoming rows,
    with half a row added to each bin, so that an empty one is not infinite. Two samples of one distribution have
    (bins - 1) (1/n + 1/m) on average (Yurdakul 2018, "Statistical Properties of Population Stability Index"), which
    with few rows is more than any threshold; it is subtracted, down to 0.

    Args:
        reference: numbers, at least one.
        incoming: numbers, at least one.
        bins: how many; fewer if the reference has many equal numbers.

    Raises:
        LabelError: an empty side, values that are not finite, or fewer than 2 bins.

    Example:
        >>> population_stability(np.arange(100.0), np.arange(100.0))
        0.0
    """
    if bins < 2 or not len(reference) or not len(incoming):
        raise LabelError(f"PSI needs 2 bins and a row on either side; got {bins}, {len(reference)} and {len(incoming)}")
    if not np.isfinite(reference).all() or not np.isfinite(incoming).all():
        raise LabelError("PSI needs numbers that are finite")
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))

    def shares(values: Float[np.ndarray, " rows"]) -> Float64[np.ndarray, " bins"]:
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) + 0.5
        fractions: Float64[np.ndarray, " bins"] = counts / counts.sum()
        return fractions

    p, q = shares(reference), shares(incoming)
    expected = len(edges) * (1 / len(reference) + 1 / len(incoming))
    return max(0.0, float(((q - p) * np.log(q / p)).sum()) - expected)


def _stability(
    reference: Float64[np.ndarray, "rows dim"], incoming: Float64[np.ndarray, "others dim"]
) -> dict[str, float]:
    """Return the PSI of each principal direction and of the distance to the reference's mean.

    The directions are those of all rows together. Those of the reference alone would fit its own noise: its rows would
    be spread more along them than others of the same distribution are, and that alone would look like drift. For the
    same reason a reference row is compared with the mean of the others.
    """
    from sklearn.decomposition import PCA

    n = len(reference)
    bins = int(np.clip(min(n, len(incoming)) // _ROWS_A_BIN, *_BINS))
    every = np.concatenate([reference, incoming])
    along = PCA(min(DIRECTIONS, every.shape[1]), svd_solver="full").fit_transform(every)
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
    """Return the unbiased squared MMD with a Gaussian kernel, and its p-value.

    Gretton et al. 2012, "A Kernel Two-Sample Test" (JMLR 13), equation 3. The estimate counts as one of the draws, so
    that the p-value is never 0 (Phipson & Smyth 2010). All splits are one product with the kernel matrix;
    `scipy.stats.permutation_test` would compute it anew for each.
    """
    from sklearn.metrics.pairwise import rbf_kernel

    n, m = len(first), len(second)
    kernel = rbf_kernel(np.concatenate([first, second]), gamma=1 / (2 * width**2))
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
    # A split that equals the observed one may differ from it by rounding.
    as_large = estimates[1:] >= estimates[0] - 1e-12
    return float(estimates[0]), float((1 + as_large.sum()) / (1 + permutations))
