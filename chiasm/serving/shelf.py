"""Hold the collections of a server: by name, each opened when it is first asked for, and closed when others need the room.

A request names a collection by the beginning of its path, `/c/NAME/...`; without it the first one is meant. `guard` takes that
beginning off, so the routes know one collection only: `Shelved` puts its parts into the state of the request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from chiasm.errors import ChiasmError
from chiasm.serving.observe import logger
from chiasm.serving.page import is_page
from chiasm.serving.parts import Parts
from chiasm.serving.problems import Problem, busy, of_error

_OF_ALL = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/collections"})


@dataclass(eq=False)
class _Open:
    parts: Parts
    users: int = 0  # requests that are being answered
    used: float = field(default_factory=time.monotonic)
    is_closed: bool = False


class Shelf:
    """The collections of a server.

    Args:
        known: names the folders of those that there are, the first first. May block.
        make: opens one and builds its parts. May block.
        most: how many are open at a time.
        create: makes an empty one of a name, and may block; None: nobody may.
    """

    def __init__(
        self,
        known: Callable[[], Mapping[str, Path]],
        make: Callable[[str, Path], Parts],
        *,
        most: int,
        create: Callable[[str], None] | None = None,
    ) -> None:
        self._known = known
        self._make = make
        self._most = most
        self.create = create
        self._first = ""
        self._open: dict[str, _Open] = {}
        self._opening: dict[str, asyncio.Task[_Open]] = {}

    @classmethod
    def of(cls, parts: Parts) -> Shelf:
        """Return a shelf of one collection, which is open."""
        shelf = cls(lambda: {parts.name: parts.engine.folder}, lambda *_: parts, most=1)
        shelf.open_first()
        return shelf

    def open_first(self, *, or_next: bool = False) -> None:
        """Open the first collection now, so that what is wrong with it is said before anybody asks.

        Args:
            or_next: whether one that cannot be opened leaves its place to the next; where none can, there is no first one.

        Raises:
            ChiasmError: it cannot be opened, and no other may take its place.
        """
        for name, folder in self._known().items():
            try:
                self._open[name] = _Open(self._make(name, folder))
            except ChiasmError as error:
                if not or_next:
                    raise
                logger.error("cannot open", exc_info=error, extra={"fields": {"collection": name}})
            else:
                self._first = name
                break

    @property
    def opened(self) -> list[Parts]:
        """The parts of the collections that are open."""
        return [one.parts for one in self._open.values()]

    def open_as(self, name: str) -> Parts | None:
        """Return the parts of a collection if it is open. May be called from any thread."""
        one = self._open.get(name)
        return None if one is None else one.parts

    @property
    def is_ready(self) -> bool:
        """Whether what is open answers without a wait."""
        return all(parts.engine.ready for parts in self.opened)

    def names(self) -> list[str]:
        """Return the names of the collections, first that of the one that is meant where none is named. May block."""
        return sorted(self._known(), key=lambda name: name != self._first)

    @asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[Parts]:
        """Yield the parts of a collection, which stays open meanwhile.

        Args:
            name: of it; "": the first.

        Raises:
            Problem: 404, there is none of this name; 429, too many are open and in use; or why it cannot be opened.
        """
        one = await self._opened(name)
        while one.is_closed:  # for others, before it came to be used
            one = await self._opened(name)
        one.users += 1
        try:
            yield one.parts
        finally:
            one.users -= 1
            one.used = time.monotonic()

    def close(self) -> None:
        """Close all of them. May block."""
        for one in self._open.values():
            one.parts.engine.close()

    async def _opened(self, name: str) -> _Open:
        name = name or self._first
        if name in self._open:
            return self._open[name]
        known = await asyncio.to_thread(self._known)
        name = name or next(iter(known), "")
        if name not in known:
            there = f"There are: {', '.join(known)}" if known else "There is none yet"
            raise Problem(404, "collection", f"there is no collection {name[:100]!r}. {there}")
        if name in self._open:
            return self._open[name]
        if name not in self._opening:
            task = asyncio.create_task(self._open_one(name, known[name]))
            self._opening[name] = task
            task.add_done_callback(partial(self._has_opened, name))
        return await asyncio.shield(self._opening[name])  # a client that goes does not stop it: others may wait for it

    def _has_opened(self, name: str, task: asyncio.Task[_Open]) -> None:
        del self._opening[name]
        if not task.cancelled():
            task.exception()  # is told to those that wait, if any still do

    async def _open_one(self, name: str, folder: Path) -> _Open:
        while len(self._open) + len(self._opening) > self._most:
            idle = [other for other, one in self._open.items() if not one.users]
            if not idle:
                raise busy(f"{len(self._open)} collections are in use, and no more are opened at a time", 5.0)
            oldest = self._open.pop(min(idle, key=lambda other: self._open[other].used))
            oldest.is_closed = True
            await asyncio.to_thread(oldest.parts.engine.close)
        try:
            parts = await asyncio.to_thread(self._make, name, folder)
        except ChiasmError as error:
            logger.error("cannot open", exc_info=error, extra={"fields": {"collection": name}})
            problem = of_error(error)
            problem.detail = problem.detail.replace(str(folder), name)
            raise problem from error
        one = self._open[name] = _Open(parts)
        await parts.engine.warm_up()
        return one


class Shelved:
    """ASGI middleware that gives each request the parts of its collection.

    Args:
        app: what is behind it.
        shelf: the collections.
    """

    def __init__(self, app: ASGIApp, *, shelf: Shelf) -> None:
        self._app = app
        self._shelf = shelf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what is of no collection in particular passes."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in _OF_ALL or (is_page(path) and path != "/report"):
            await self._app(scope, receive, send)
            return
        async with self._shelf.use(scope["state"]["collection"]) as parts:
            scope["state"]["parts"] = parts
            # Else one route would fail on a file that is missing, another would find no items, a third would write where it was.
            if not await asyncio.to_thread(parts.engine.folder.exists):
                raise Problem(
                    503,
                    "collection-gone",
                    f"the collection {parts.name} was moved or deleted while it was open. Put it back, or start the server "
                    "again with the place where it is now",
                )
            await self._app(scope, receive, send)
