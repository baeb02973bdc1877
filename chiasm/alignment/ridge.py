"""Ridge regression in the eigenvectors of the Gram matrix: every strength, and every row held out, from one of them.

This module knows one decomposition of the rows and what becomes cheap in it. `chiasm.recognition.label_probe` uses the same
coordinates. Which rows, which strengths and what is promised of the predictions is left to whoever calls. Plain numpy.

With Z the centred rows in their eigenvectors (its columns are orthogonal, s_j the sum of squares of column j) and yc the
centred numbers, the weights at strength l are (Z' yc)_j / (s_j + l), and the rows reproduce themselves by the matrix
H = 11'/n + Z diag(1 / (s + l)) Z'. The error of rows g that were held out together is (I - H_gg)^-1 (y - H y)_g (Hastie,
Tibshirani & Friedman 2009, equation 7.64, for one row; the block form follows in the same way from the inverse of a
partitioned matrix). It is exact: the intercept, too, is the one of the other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from chiasm.errors import LabelError

_STRONGEST, _WEAKEST, _PER_DECADE = 1, -7, 4  # powers of ten; the strongest times the rows' total sum of squares
_BLOCK = 2**22  # numbers of a group's matrices at several strengths at once: 32 MB
_UNTUNED = 1e-2  # of the mean square of the rows times their number, where nothing can be held out


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Rows in coordinates whose columns are orthogonal, and the way back.

    Attributes:
        mean: of the rows; coordinates are of what is left of them.
        back: row = mean + back @ coordinates.
        rows: the coordinates. Directions in which the rows do not vary are left away.
        energy: the sum of squares of each column, largest first.
    """

    mean: Float64[np.ndarray, " dim"]
    back: Float64[np.ndarray, "dim rank"]
    rows: Float64[np.ndarray, "rows rank"]
    energy: Float64[np.ndarray, " rank"]

    @classmethod
    def of(cls, X: Float[np.ndarray, "rows dim"]) -> Spectrum:
        """From the eigenvectors of the Gram matrix of rows or of columns, whichever is smaller."""
        mean = X.mean(axis=0, dtype=np.float64)
        centred = X.astype(np.float64)
        centred -= mean
        rows, dim = centred.shape
        if rows <= dim:
            values, vectors = np.linalg.eigh(centred @ centred.T)
        else:
            values, vectors = np.linalg.eigh(centred.T @ centred)
        varies = np.flatnonzero(values > values[-1] * max(rows, dim) * np.finfo(np.float64).eps)[::-1]
        energy, vectors = values[varies], vectors[:, varies]
        if rows <= dim:
            return cls(mean, centred.T @ (vectors / np.sqrt(energy)), vectors * np.sqrt(energy), energy)
        return cls(mean, vectors, centred @ vectors, energy)

    def restore(
        self, weights: Float[np.ndarray, "outputs rank"], intercepts: Float[np.ndarray, " outputs"]
    ) -> tuple[Float64[np.ndarray, "outputs dim"], Float64[np.ndarray, " outputs"]]:
        """Coefficients and intercepts for rows from those for coordinates."""
        coef = weights @ self.back.T
        return coef, intercepts - coef @ self.mean


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression.

    Attributes:
        coef: prediction = rows @ coef + intercept.
        intercept: not penalised.
        strength: the one taken.
        strengths: those compared, strongest first; the one alone where no row can be held out.
        errors: mean squared error of held-out rows at each of them; NaN where no row can be held out.
        held_out: prediction of each row by the others, at the strength taken; NaN where it cannot be held out.
    """

    coef: Float64[np.ndarray, " dim"]
    intercept: float
    strength: float
    strengths: Float64[np.ndarray, " strengths"]
    errors: Float64[np.ndarray, " strengths"]
    held_out: Float64[np.ndarray, " rows"]


def fit_ridge(
    X: Float[np.ndarray, "rows dim"],
    y: Float[np.ndarray, " rows"],
    *,
    groups: Int[np.ndarray, " rows"] | None = None,
    strengths: tuple[float, ...] | None = None,
) -> Ridge:
    """Minimise `||y - X w - b||^2 + strength ||w||^2` at the strength with the least error on held-out rows.

    Args:
        X: rows.
        y: their numbers.
        groups: the number of each row's group; rows of one are held out together. None: each row alone.
        strengths: what to choose from, each above 0; by default four a decade from ten times the rows' sum of squares
            (there, the mean of y is left) down to 1e-7 of their mean square.

    Raises:
        LabelError: fewer than two rows, or a strength that is not finite and above 0.
    """
    if len(y) < 2:
        raise LabelError(f"regression needs at least 2 items with a number; got {len(y)}")
    spectrum = Spectrum.of(X)
    total = float(spectrum.energy.sum()) or 1.0
    if strengths is None:
        top, bottom = np.log10(total) + _STRONGEST, np.log10(total / len(y)) + _WEAKEST
        tried = np.logspace(top, bottom, int(np.ceil((top - bottom) * _PER_DECADE)) + 1)
    else:
        tried = np.unique(np.asarray(strengths, dtype=np.float64))[::-1]
        if not len(tried) or not (np.isfinite(tried) & (tried > 0)).all():
            raise LabelError(f"strengths must be one or more finite values above 0; got {strengths!r}")
    mean = float(np.mean(y, dtype=np.float64))
    centred = y.astype(np.float64) - mean
    along = spectrum.rows.T @ centred
    weights = along / (spectrum.energy + tried[:, None])
    if groups is not None and len(np.unique(groups)) < 2:
        best = int(np.abs(np.log(tried / (_UNTUNED * total))).argmin())
        held = np.full(len(y), np.nan)
        tried, errors, weights, best = tried[best : best + 1], np.array([np.nan]), weights[best : best + 1], 0
    else:
        misses = _held_out_errors(spectrum, centred, weights, tried, groups)
        errors = np.square(misses).mean(axis=0)
        best = int(errors.argmin())
        held = y - misses[:, best]
    coef, intercept = spectrum.restore(weights[best : best + 1], np.array([mean]))
    return Ridge(coef[0], float(intercept[0]), float(tried[best]), tried, errors, held)


def _held_out_errors(
    spectrum: Spectrum,
    centred: Float64[np.ndarray, " rows"],
    weights: Float64[np.ndarray, "strengths rank"],
    strengths: Float64[np.ndarray, " strengths"],
    groups: Int[np.ndarray, " rows"] | None,
) -> Float64[np.ndarray, "rows strengths"]:
    """Truth less prediction of rows that were left out, by the formula at the top of the module."""
    rows = spectrum.rows
    residual = centred[:, None] - rows @ weights.T
    kept = 1 / (spectrum.energy + strengths[:, None])
    if groups is None:
        errors: Float64[np.ndarray, "rows strengths"] = residual / (1 - 1 / len(rows) - np.square(rows) @ kept.T)
        return errors
    errors = np.empty_like(residual)
    for members in np.split(
        np.argsort(groups, kind="stable"), np.cumsum(np.unique(groups, return_counts=True)[1])[:-1]
    ):
        part, size = rows[members], len(members)
        step = max(1, _BLOCK // (size * max(size, len(spectrum.energy))))
        for first in range(0, len(strengths), step):
            block = slice(first, first + step)
            own = np.eye(size) - 1 / len(rows) - (part * kept[block, None]) @ part.T
            errors[members, block] = np.linalg.solve(own, residual[members, block].T[:, :, None])[:, :, 0].T
    return errors
