"""Batch the work of many requests: what arrives within a few milliseconds is processed together.

One thread does all of it, so that what is not made for several threads (an encoder) is called from one, and the event
loop stays free to answer.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from chiasm.serving.problems import busy
from chiasm.work import GivenUpError, Work, doing

T = TypeVar("T")
R = TypeVar("R")


@dataclass(eq=False, slots=True)
class _Waiting(Generic[T, R]):
    lane: str
    work: T
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[R]


class Batcher(Generic[T, R]):
    """A queue with one thread behind it.

    Args:
        run: does a batch of one lane: gives a result, or the error that it ended in, for each piece of work in order.
            What it raises is the end of each of them.
        most: pieces of work a batch.
        wait: seconds that the first of a batch waits for others.
        capacity: pieces of work that may wait.
        name: of the thread.
    """

    def __init__(
        self,
        run: Callable[[str, Sequence[T]], Sequence[R | Exception]],
        *,
        most: int,
        wait: float,
        capacity: int,
        name: str,
    ) -> None:
        self._run = run
        self._most = most
        self._wait = wait
        self._capacity = capacity
        self._name = name
        self._waiting: deque[_Waiting[T, R]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, lane: str, work: Sequence[T]) -> list[asyncio.Future[R]]:
        """Queue work from the event loop; all of it, or none.

        Args:
            lane: only work of one lane comes into a batch; the lane whose work has waited longest is next.
            work: pieces of work.

        Raises:
            Problem: 429, the queue is full.
        """
        loop = asyncio.get_running_loop()
        with self._changed:
            if len(self._waiting) + len(work) > self._capacity:
                raise busy("too much waits to be embedded", 1.0)
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            pieces = [_Waiting(lane, one, loop, loop.create_future()) for one in work]
            self._waiting.extend(pieces)
            self._changed.notify()
        return [piece.result for piece in pieces]

    def close(self, seconds: float) -> bool:
        """Finish what waits and end the thread. Return whether it has ended within so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def _loop(self) -> None:
        while batch := self._next():
            results: Sequence[R | Exception]
            try:
                with doing(Work(partial(_all_gone, batch))):
                    results = self._run(batch[0].lane, [one.work for one in batch])
            except GivenUpError:
                continue
            except Exception as error:  # noqa: BLE001  # whatever a network raises is the end of its requests alone
                results = [error] * len(batch)
            by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[R], R | Exception]]] = {}
            for one, result in zip(batch, results, strict=True):
                by_loop.setdefault(one.loop, []).append((one.result, result))
            for loop, ends in by_loop.items():
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_deliver, ends)

    def _next(self) -> list[_Waiting[T, R]]:
        """Return the next batch; empty when the queue is closed and nothing is left."""
        with self._changed:
            while True:
                while not self._waiting:
                    if self._closed:
                        return []
                    self._changed.wait()
                if self._wait > 0 and len(self._waiting) < self._most and not self._closed:
                    end = time.monotonic() + self._wait
                    while len(self._waiting) < self._most and (left := end - time.monotonic()) > 0:
                        self._changed.wait(left)
                batch: list[_Waiting[T, R]] = []
                rest: deque[_Waiting[T, R]] = deque()
                while self._waiting:
                    one = self._waiting.popleft()
                    if one.result.cancelled():  # its request has given up
                        continue
                    if len(batch) < self._most and (not batch or one.lane == batch[0].lane):
                        batch.append(one)
                    else:
                        rest.append(one)
                self._waiting = rest
                if batch:
                    return batch


def _all_gone(batch: Sequence[_Waiting[Any, Any]]) -> bool:
    return all(one.result.cancelled() for one in batch)


def _deliver(ends: Sequence[tuple[asyncio.Future[R], R | Exception]]) -> None:
    for future, end in ends:
        if future.done():
            continue
        if isinstance(end, Exception):
            future.set_exception(end)
        else:
            future.set_result(end)
