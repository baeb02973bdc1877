"""Completion in the shell of what is in a collection: columns, spaces and ids of the one that the line names.

Nothing is said of what goes wrong: the line is not whole yet.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from chiasm.errors import ChiasmError

if TYPE_CHECKING:
    from chiasm.store.collection import Collection

_MOST = 100  # ids


def columns(ctx: typer.Context) -> list[str]:
    """Return the names of columns."""
    return _of(ctx, lambda collection: list(collection.columns()))


def spaces(ctx: typer.Context) -> list[str]:
    """Return the names of spaces."""
    from chiasm.verbs.spaces import spaces_of

    return _of(ctx, lambda collection: list(spaces_of(collection)))


def ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the first ids that begin as the line ends."""
    beginning = incomplete.replace("'", "''")
    return _of(ctx, lambda collection: collection.ids(where=f"starts_with(id, '{beginning}')")[:_MOST])


def _of(ctx: typer.Context, names: Callable[[Collection], list[str]]) -> list[str]:
    from chiasm.store.collection import Collection

    # Where an option lacks its value, as it does while that is completed, arguments are left as they came.
    for folder in (ctx.params.get("collection"), ctx.params.get("target"), *ctx.args):
        if folder is not None:
            with suppress(ChiasmError, OSError):
                return names(Collection.open(Path(folder).expanduser()))
    return []
