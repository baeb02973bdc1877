"""The feedback loop of a server, as functions that it is built with: ratings, labels, new files, and learning from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chiasm.serving.schemas import FeedbackEntry, LabelEntry
from chiasm.verbs.drift import DriftReport
from chiasm.verbs.learn import LearnReport
from chiasm.verbs.remove import RemoveReport
from chiasm.verbs.review import Review


class StoreRatings(Protocol):
    """Store ratings and return their number. May block.

    Raises:
        ChiasmError: an entry names an item that does not exist.
    """

    def __call__(self, entries: Sequence[FeedbackEntry], *, who: str) -> int:
        """Store the entries of one sender."""


class StoreLabels(Protocol):
    """Store corrected labels and return their number. May block.

    Raises:
        ChiasmError: an entry names an item or a column that does not exist.
    """

    def __call__(self, entries: Sequence[LabelEntry], *, who: str) -> int:
        """Store the entries of one sender."""


class StoreItem(Protocol):
    """Add the uploaded files of one item to the collection, and return the id of the item. May block.

    Raises:
        ChiasmError: nothing in the files can be embedded.
    """

    def __call__(self, files: Sequence[Path], /, *, label: str | None, folder: str | None, who: str) -> str:
        """Add the files.

        Args:
            files: temporary ones.
            label: a corrected label, for the model to learn from.
            folder: the name of the folder that they were in where they came from: its columns `folder` and `label`, as of
                a folder that is added. Never a path.
            who: sent them.
        """


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """The parts of the feedback loop that a server offers; a missing one is answered with 404 and the reason.

    Attributes:
        rate: stores ratings of hits.
        label: stores corrected labels.
        add: adds items, from uploaded files.
        learn: trains the model again, has the server use it if it replaces the old one, and reports the comparison.
        review: chooses items whose labels are worth a look.
        remove: removes items from the collection and returns how many there were.
        forget: removes items from every file that was made of them, see `chiasm.remove`.
        drift: compares new items with those that the model was trained on.
        counts: stored ratings and labels by kind.
    """

    rate: StoreRatings | None = None
    label: StoreLabels | None = None
    add: StoreItem | None = None
    learn: Callable[[], LearnReport] | None = None
    review: Callable[[int], Review] | None = None
    remove: Callable[[Sequence[str]], int] | None = None
    forget: Callable[[Sequence[str]], RemoveReport] | None = None
    drift: Callable[[], DriftReport] | None = None
    counts: Callable[[], Mapping[str, int]] | None = None
