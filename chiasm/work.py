"""Work that somebody waits for: it is given up when nobody does any more, and may decode only so much.

Long work asks between its steps (`check`), and readers of images say what they decode (`decode`). Outside of `doing` neither
does anything: a command is stopped by Ctrl-C.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from chiasm.errors import MediaError
from chiasm.types import Outcome


class GivenUpError(BaseException):
    """Nobody waits for the result. Not an `Exception`, so that no handler of broken files takes it for one."""


@dataclass(eq=False)
class Work:
    """One piece of work.

    Attributes:
        is_over: whether nobody waits for it any more.
        pixels: that it may still decode; None: any number.
    """

    is_over: Callable[[], bool]
    pixels: int | None = None


_NOW: ContextVar[Work | None] = ContextVar("work", default=None)


@contextmanager
def doing(work: Work) -> Iterator[None]:
    """Do a piece of work in the block, and in what the block calls in copies of its context.

    Example:
        >>> with doing(Work(is_over=lambda: True)):
        ...     try:
        ...         check()
        ...     except GivenUpError:
        ...         print("nobody waits")
        nobody waits
    """
    token = _NOW.set(work)
    try:
        yield
    finally:
        _NOW.reset(token)


def current() -> Work | None:
    """Return the piece of work that is being done; None outside of `doing`."""
    return _NOW.get()


def check() -> None:
    """Go on only while somebody waits for the result.

    Raises:
        GivenUpError: nobody does.
    """
    work = _NOW.get()
    if work is not None and work.is_over():
        raise GivenUpError


def decode(pixels: int) -> None:
    """Take so many pixels off the budget of the work.

    Raises:
        MediaError: `TOO_LARGE`, there are not so many left.
        GivenUpError: as `check`.
    """
    check()
    work = _NOW.get()
    if work is None or work.pixels is None:
        return
    if pixels > work.pixels:
        raise MediaError(
            Outcome.TOO_LARGE,
            f"the images of one request are too many to decode: this one of {pixels:,} pixels is more than the "
            f"{work.pixels:,} that are left. Send fewer at a time, or smaller ones",
        )
    work.pixels -= pixels
