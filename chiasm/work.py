"""Work that somebody waits for: it is given up when nobody does any more, may decode only so much, and says how far it is.

Long work asks between its steps (`check`), readers of images say what they decode (`decode`), and long loops go through
`steps`. Outside of `doing` the first two do nothing: a command is stopped by Ctrl-C; nor does the third outside of `watched`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

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


T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """Where long work is."""

    what: str  # is counted, in the plural
    done: int
    total: int | None = None  # None: not known
    failed: int = 0  # of those that are done


_NOW: ContextVar[Work | None] = ContextVar("work", default=None)
_WATCHER: ContextVar[Callable[[Step], None] | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(by: Callable[[Step], None]) -> Iterator[None]:
    """Have every step told that is done in the block.

    Example:
        >>> with watched(print):
        ...     for _ in steps("ab", "letters"):
        ...         pass
        Step(what='letters', done=0, total=2, failed=0)
        Step(what='letters', done=1, total=2, failed=0)
        Step(what='letters', done=2, total=2, failed=0)
    """
    token = _WATCHER.set(by)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def tell(step: Step) -> None:
    """Tell who watches where the work is."""
    watcher = _WATCHER.get()
    if watcher is not None:
        watcher(step)


def steps(things: Iterable[T], what: str, *, total: int | None = None) -> Iterator[T]:
    """Go through things, and tell who watches how far that is. Loops within the loop are not told of.

    Args:
        things: to go through.
        what: they are called, in the plural.
        total: of them. Default: their length, where they have one.
    """
    watcher = _WATCHER.get()
    if watcher is None:
        yield from things
        return
    total = len(things) if isinstance(things, Sized) else total
    token = _WATCHER.set(None)
    try:
        watcher(Step(what, 0, total))
        for done, thing in enumerate(things, start=1):
            yield thing
            watcher(Step(what, done, total))
    finally:
        _WATCHER.reset(token)


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
