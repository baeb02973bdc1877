"""Every error that chiasm raises on purpose.

A message says what came, what was expected and what to do. The command line prints it and exits with 1; a program
catches `ChiasmError` or the class it cares about. What this module leaves to others: where errors are turned into
outcomes of files (`collection`) and into exit codes (`cli`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chiasm.types import Outcome


class ChiasmError(Exception):
    """Base of all errors below: the input or the request was wrong, not the program."""


class MediaError(ChiasmError):
    """One file cannot be used. `outcome` is what the collection records, `reason` is for people."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class ManifestError(ChiasmError):
    """A table or folder that lists items is wrong. Names the file and, where it applies, the line and the column.

    Of a single row, `outcome` is what it comes to where the others can be used.
    """

    def __init__(
        self,
        path: str,
        problem: str,
        *,
        line: int | None = None,
        column: str | None = None,
        outcome: Outcome | None = None,
    ) -> None:
        self.place = path
        if line is not None:
            self.place += f", line {line}"
        if column is not None:
            self.place += f", column {column!r}"
        super().__init__(f"{self.place}: {problem}")
        self.path = path
        self.problem = problem
        self.line = line
        self.column = column
        self.outcome = outcome


class EncoderError(ChiasmError):
    """An encoder cannot be found, loaded or exported, or was asked for a modality it does not have."""


class CollectionError(ChiasmError):
    """A collection cannot be opened, is of another version, or lacks what was asked for."""


class SpaceError(ChiasmError):
    """A space cannot be loaded or learned, or lacks the modality of a query."""


class LabelError(ChiasmError, ValueError):
    """Labels or shots do not allow what was asked: one class only, too few examples, an unknown column."""


class MissingExtraError(ChiasmError, ImportError):
    """An optional dependency is not installed; the message holds the pip command."""
