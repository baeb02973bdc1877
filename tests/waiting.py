"""Wait for a condition instead of for a time, so that a busy machine is slow and not wrong."""

from __future__ import annotations

import time
from collections.abc import Callable

LIMIT = 120.0  # seconds after which a test has failed


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds.

    Raises:
        TimeoutError: it does not hold within `LIMIT` seconds.
    """
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the condition did not come to hold")
        time.sleep(0.005)
