"""The alignment methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from chiasm.alignment.alignment import BLENDS, Alignment, RidgeAlignment
from chiasm.errors import SpaceError


def _ridge(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001  nothing is drawn
    return RidgeAlignment(alpha=alpha, blends=blends)


def _kernel(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.alignment.kernel import KernelAlignment

    return KernelAlignment(alpha=alpha, blends=blends, seed=seed)


def _procrustes(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001
    from chiasm.alignment.linear_alignment import ProcrustesAlignment

    return ProcrustesAlignment(alpha=alpha, blends=blends)


def _cca(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:  # noqa: ARG001
    from chiasm.alignment.linear_alignment import CcaAlignment

    return CcaAlignment(alpha=alpha, blends=blends)


def _infonce(alpha: float | str, blends: Sequence[float], seed: int) -> Alignment:
    from chiasm.alignment.contrastive import InfoNceAlignment

    return InfoNceAlignment(alpha=alpha, blends=blends, seed=seed)


_MAKERS: Mapping[str, Callable[[float | str, Sequence[float], int], Alignment]] = MappingProxyType(
    {
        "ridge": _ridge,
        "kernel": _kernel,
        "procrustes": _procrustes,
        "cca": _cca,
        "infonce": _infonce,
    }
)
METHODS: tuple[str, ...] = tuple(_MAKERS)
"""Every method by name. InfoNCE imports torch."""


def make_alignment(
    method: str, *, alpha: float | str = "auto", blends: Sequence[float] = BLENDS, seed: int = 0
) -> Alignment:
    """Return an unfitted alignment by name.

    Args:
        method: one of `METHODS`.
        alpha: weight of the source in [0, 1], or `"auto"`.
        blends: shares of the learned map to choose from.
        seed: of what is drawn at random.

    Raises:
        SpaceError: there is no such method, or an option outside of its range.
    """
    if method not in _MAKERS:
        raise SpaceError(f"there is no alignment method {method!r}. Use {', '.join(METHODS)}")
    return _MAKERS[method](alpha, blends, seed)
