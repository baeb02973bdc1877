"""Processor cores: how many this process may use, how many are free, and linear algebra that asks for no more.

The threads of a BLAS wait for each other spinning. Beside other work a thread that finds no core keeps all others
spinning: on two busy cores, `align` took ten times the processor time that it takes with one thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_cores() -> int:
    """Return the number of usable cores that the load leaves free, at least 1.

    The load is the average of the last minute or, where that is more, the number of other threads that run right now.
    """
    return max(1, usable_cores() - round(max(_average_load(), _running_threads() - 1)))


def _average_load() -> float:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # not every system counts its load
        return 0.0


def _running_threads() -> int:
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
    except (OSError, ValueError, IndexError):  # only Linux tells
        return 0


@contextmanager
def limit_threads() -> Iterator[None]:
    """Let BLAS and OpenMP use no more threads than there are free cores; also a decorator.

    Never more than they would use otherwise (`OMP_NUM_THREADS` and the like).

    Example:
        >>> from threadpoolctl import threadpool_info
        >>> with limit_threads():
        ...     max(pool["num_threads"] for pool in threadpool_info()) <= usable_cores()
        True
    """
    import scipy.linalg  # noqa: F401  SciPy has a BLAS of its own, which can be limited once it is loaded
    from threadpoolctl import threadpool_info, threadpool_limits

    free = free_cores()
    with threadpool_limits({pool["prefix"]: min(free, pool["num_threads"]) for pool in threadpool_info()}):
        yield
