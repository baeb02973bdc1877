"""Keep lists of items that people chose, by name, in the folder of the collection."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from chiasm.errors import CollectionError
from chiasm.files import strict_json, write_whole

FILE = "lists.json"
MOST_LISTS = 200
MOST_IDS = 100_000  # of one list


class SavedLists:
    """Named lists of ids, in the order in which they were added. Opening them does nothing; the first list makes the file.

    May be used from several threads and processes at a time. An id stays in a list when its item is removed.

    Args:
        folder: of the collection.

    Example:
        >>> import tempfile
        >>> lists = SavedLists(Path(tempfile.mkdtemp()))
        >>> lists.change("birds", add=["robin", "heron"]), lists.change("birds", remove=["heron"]), lists.ids("birds")
        (2, 1, ['robin'])
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def counts(self) -> dict[str, int]:
        """Return the number of ids of each list, by name."""
        return {name: len(ids) for name, ids in sorted(self._read().items())}

    def ids(self, name: str) -> list[str]:
        """Return the ids of a list.

        Raises:
            CollectionError: there is no such list.
        """
        lists = self._read()
        if name not in lists:
            raise CollectionError(f"there is no list {name!r:.200}. Lists: {', '.join(sorted(lists)) or 'none'}")
        return lists[name]

    def change(self, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> int:
        """Add ids to a list, which is made where there is none, and take others out. Return how many it has.

        Raises:
            CollectionError: there would be too many lists or ids, or the file cannot be written.
        """
        with self._changing() as lists:
            gone = set(remove)
            ids = [one for one in dict.fromkeys([*lists.get(name, ()), *add]) if one not in gone]
            if len(ids) > MOST_IDS:
                raise CollectionError(f"a list holds at most {MOST_IDS:,} items; this one would have {len(ids):,}")
            lists[name] = ids
            if len(lists) > MOST_LISTS:
                raise CollectionError(f"there are at most {MOST_LISTS} lists. Delete one that is not needed any more")
        return len(ids)

    def delete(self, name: str) -> bool:
        """Delete a list, not its items. Return whether there was one.

        Raises:
            CollectionError: the file cannot be written.
        """
        with self._changing() as lists:
            return lists.pop(name, None) is not None

    def _read(self) -> dict[str, list[str]]:
        try:
            lists = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(name): [str(one) for one in ids] for name, ids in lists.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise CollectionError(
                f"{self._path} cannot be read: {error}. Restore it, or delete it with all lists"
            ) from error

    @contextmanager
    def _changing(self) -> Iterator[dict[str, list[str]]]:
        if not self._path.parent.is_dir():  # the lock would make it
            raise CollectionError(f"{self._path.parent} is gone, and its lists with it")
        try:
            with FileLock(self._path.with_name(".lists.lock")):
                lists = self._read()
                yield lists
                write_whole(self._path, strict_json(lists))
        except OSError as error:
            raise CollectionError(f"{self._path} cannot be written: {error.strerror}. What was there stays") from error
