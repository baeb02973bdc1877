"""A process that is killed at any step that changes the disk, without a process: from that step on nothing changes it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

STEPS = ((Path, "mkdir"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync"))


class Killed(BaseException):
    """Raised by the step at which a program is killed, and by all after it: what cleans up does not run, either."""


@contextmanager
def killed_at(step: int | None) -> Iterator[Callable[[], int]]:
    """Count the steps that change the disk, and die before one of them.

    Files that are written are not counted, since each is flushed (`os.fsync`) before it gets its name.

    Args:
        step: the number of the step; None: none.

    Yields:
        What returns the number of steps.
    """
    done = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal done
            if step is not None and done >= step:
                raise Killed
            done += 1
            return function(*arguments, **options)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in STEPS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield lambda: done


def at_every_step(work: Callable[[], object], prepare: Callable[[], object], check: Callable[[], object]) -> int:
    """Do some work again and again, killed one step later each time; return the number of steps.

    Args:
        work: that is killed.
        prepare: what comes before it.
        check: what holds after it was killed.
    """
    prepare()
    with killed_at(None) as counted:
        work()
    steps = counted()
    for step in range(steps):
        prepare()
        with killed_at(step), suppress(Killed):
            work()
        check()
    return steps
