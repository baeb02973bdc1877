"""Differential privacy by Gaussian noise: what a promise allows, what several releases come to, and a ledger of a collection's.

A release with noise of standard deviation `sensitivity / mu` is (epsilon, delta)-private for every pair that
Balle and Wang (2018, arXiv:1805.06530, Theorem 8) give for `mu`; several compose to the root of the sum of their squares (Dong,
Roth and Su 2019, arXiv:1905.02383, Corollary 2), whatever each was computed from. That is exact, so no accountant is needed.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.errors import ChiasmError
from chiasm.saved import check_fields, read_object, write_object

DELTA = 1e-5
ITEM = "item"
LEDGER = "privacy.json"
"""The file in a collection that says what was released of it."""

_LARGEST_EPSILON = 100.0
_WIDEST = 1e4  # of mu and of epsilon


@dataclass(frozen=True)
class Promise:
    """A promise to each unit: whether it was among the data changes the odds of any result by at most exp(epsilon).

    Attributes:
        epsilon: above 0, at most 100, beyond which it says nothing.
        delta: the probability with which the promise may not hold, between 0 and 1.
        unit: `"item"`, or the column whose values say which items belong together, such as a patient.

    Raises:
        ChiasmError: the numbers are out of range.
    """

    epsilon: float
    delta: float = DELTA
    unit: str = ITEM

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= _LARGEST_EPSILON:
            raise ChiasmError(
                f"epsilon is above 0 and at most {_LARGEST_EPSILON:g}, such as 1, 3 or 8; got {self.epsilon!r}"
            )
        if not 0 < self.delta < 1:
            raise ChiasmError(f"delta lies between 0 and 1 and below one over the number of units; got {self.delta!r}")

    def check(self, units: int) -> None:
        """Refuse a delta that would allow to give units away.

        Raises:
            ChiasmError: it would.
        """
        if self.delta >= 1 / units:
            raise ChiasmError(
                f"with {units} units a delta of {self.delta:g} would allow to give one of them away: take one well below {1 / units:.1g}"
            )

    @property
    def mu(self) -> float:
        """The largest `mu` that keeps the promise.

        Example:
            >>> round(Promise(1.0).mu, 3), round(Promise(8.0).mu, 3)
            (0.268, 1.666)
        """
        return _boundary(lambda mu: delta_of(mu, self.epsilon) <= self.delta, _WIDEST)[0]


def delta_of(mu: float, epsilon: float) -> float:
    """Return the delta that goes with an epsilon (Balle and Wang 2018, Theorem 8).

    Args:
        mu: sensitivity over the standard deviation of the noise.
        epsilon: at least 0.
    """
    from scipy.special import log_ndtr, ndtr

    if mu == 0:
        return 0.0
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def epsilon_of(mu: float, delta: float) -> float:
    """Return the least epsilon that goes with a delta, for releases that come to `mu`.

    Example:
        >>> round(epsilon_of(Promise(3.0).mu, 1e-5), 6)
        3.0
    """
    return _boundary(lambda epsilon: delta_of(mu, epsilon) > delta, _WIDEST)[1]


def _boundary(holds: Callable[[float], bool], most: float) -> tuple[float, float]:
    """Return the last number up to which a condition holds from 0 on, and the first where it does not, 1e-9 of it apart."""
    low, high = 0.0, most
    while high - low > 1e-9 * max(1.0, low):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, high


def noise() -> np.random.Generator:
    """Return a source of noise that nobody can repeat: its seed is of the operating system, and is not kept."""
    return np.random.Generator(np.random.PCG64DXSM(secrets.randbits(256)))


# -------------------------------------------------------------------------------------------------------------- ledger


def spend(folder: Path, promise: Promise, what: str) -> None:
    """Write a release into the ledger of a collection, before it is made: what fails afterwards is counted all the same.

    Args:
        folder: of the collection, whose lock is held.
        promise: that it keeps.
        what: is released, in words.

    Raises:
        ChiasmError: the ledger is damaged.
    """
    entry = {"what": what, **asdict(promise), "when": datetime.now(UTC).isoformat(timespec="seconds")}
    write_object(folder / LEDGER, {"releases": [*_entries(folder), entry]})


def spent(folder: Path) -> tuple[str, ...]:
    """Return what was released of a collection by units, in sentences; empty where nothing was.

    Raises:
        ChiasmError: the ledger is damaged.
    """
    by_unit: dict[str, list[Promise]] = {}
    for entry in _entries(folder):
        promise = Promise(entry["epsilon"], entry["delta"], entry["unit"])
        by_unit.setdefault(promise.unit, []).append(promise)
    lines = []
    for unit, promises in by_unit.items():
        delta = max(one.delta for one in promises)
        total = epsilon_of(math.hypot(*(one.mu for one in promises)), delta)
        count = "1 private release" if len(promises) == 1 else f"{len(promises)} private releases"
        lines.append(f"{count} of it: epsilon {total:.2f} at delta {delta:g} in all, by {unit}")
    return tuple(lines)


def _entries(folder: Path) -> list[dict[str, Any]]:
    path = folder / LEDGER
    if not path.exists():
        return []
    try:
        entries = read_object(path).get("releases")
        if not isinstance(entries, list):
            raise ValueError("there are no releases")
        for entry in entries:
            check_fields(entry, what=str, epsilon=(int, float), delta=(int, float), unit=str)
    except (OSError, ValueError, AttributeError) as error:
        raise ChiasmError(
            f"{path}, the ledger of what was released privately, is damaged ({error}): restore it. Without it nobody knows what is "
            "left to spend"
        ) from error
    return entries
