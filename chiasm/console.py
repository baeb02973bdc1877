"""Standard output and error: lines, tables, JSON and CSV, and progress; how, is one `Output` for the command that runs."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from chiasm import work
from chiasm.files import finite, write_whole

Form: TypeAlias = Literal["table", "json", "jsonl", "csv"]

_SPACES = "\t\n\r\v\f\x85\u2028\u2029"
# C0, DEL, C1, line and paragraph separators, bidirectional embeddings, overrides and isolates, surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SOON, _OFTEN, _SELDOM = 0.5, 0.2, 10.0  # seconds until progress is shown, and again: on a terminal, elsewhere
_FORMS: Mapping[str, Form] = {".json": "json", ".jsonl": "jsonl", ".csv": "csv"}


class _Line(logging.Formatter):
    """Format a log record as a line that can be printed."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@dataclass
class Output:
    """How a command prints.

    Attributes:
        form: of the result.
        verbose: whether everything is said: all files, all numbers, where an error arose.
        quiet: whether only results and errors are printed, without notes and progress.
        written: the result, where it goes into a file.
    """

    form: Form = "table"
    verbose: bool = False
    quiet: bool = False
    written: io.StringIO | None = None


_now = Output()
_watch: Watch | None = None


def current() -> Output:
    """Return how the running command prints."""
    return _now


@contextmanager
def printing(
    *,
    as_json: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    no_color: bool = False,
    form: Form | None = None,
    out_file: Path | None = None,
    doing: str = "",
) -> Iterator[None]:
    """Print in the block as the options of a command say; a file is written when the block is done.

    Where the work is, is shown meanwhile if it is said what is `doing`, unless only results are wanted.

    Raises:
        ChiasmError: options that contradict each other.
    """
    global _now, _watch
    del no_color  # see `without_colours`
    from typer import BadParameter

    if as_json and form not in {None, "json"}:
        raise BadParameter(f"--json is short for --format json; got --format {form}, too")
    if verbose and quiet:
        raise BadParameter("--verbose and --quiet contradict each other")
    ending = "" if out_file is None else out_file.suffix.lower()
    before, _now = _now, Output(
        "json" if as_json else form or _FORMS.get(ending, "table"), verbose, quiet, None if out_file is None else io.StringIO()
    )  # fmt: skip
    try:
        if quiet or not doing:
            yield
        else:
            with Watch(doing) as _watch, work.watched(_watch.see):
                yield
        if out_file is not None and _now.written is not None:
            write_whole(out_file, _now.written.getvalue())
    finally:
        _now, _watch = before, None


def without_colours(wanted: bool) -> bool:
    """Have nothing in this process print colours: the convention of no-color.org, which Rich keeps."""
    if wanted:
        os.environ["NO_COLOR"] = "1"
    return wanted


def prepare() -> None:
    """Make this process print what a terminal can show: letters that its encoding lacks and warnings, too."""
    import warnings

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("LANCE_LOG", "error")  # its warnings are about what is not an error of ours
    warnings.showwarning = lambda message, *_, **__: note(f"Warning: {message}")
    if logging.lastResort is not None:  # prints what libraries log
        logging.lastResort.setFormatter(_Line())


def printable(text: str) -> str:
    """Return a text in one line, without what moves a cursor or turns the direction of writing.

    Names, captions and labels come from strangers; a terminal obeys their escape sequences.

    Example:
        >>> printable("red\\x1b[2J\\nfox")
        'red�[2J fox'
    """
    return _UNSAFE.sub(lambda found: " " if found[0] in _SPACES else "\N{REPLACEMENT CHARACTER}", text)


def say(text: str, *, err: bool = False) -> None:
    """Print one line; everything that is printed passes here, or through `print_table`, `print_json` or `print_rows`.

    Raises:
        OSError: standard output or error cannot be written to.
    """
    _write(printable(text) + "\n", err=err)


def note(text: str) -> None:
    """Print one line beside the result, on standard error; not if only results are wanted."""
    if not _now.quiet:
        say(text, err=True)


def remark(text: str) -> None:
    """Print one line beside the result: on standard output where people read that; not if only results are wanted."""
    if not _now.quiet:
        say(text, err=_now.form != "table" or _now.written is not None)


def some(names: Sequence[str]) -> str:
    """Return the first five names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def megabytes(size: int) -> str:
    """Return a number of bytes in MB.

    Example:
        >>> megabytes(1_234_567)
        '1.2 MB'
    """
    return f"{size / 1e6:,.1f} MB"


def flush() -> None:
    """Flush standard output.

    Raises:
        OSError: it cannot be written to.
    """
    _write("")


def _write(text: str, *, err: bool = False) -> None:
    if _now.written is not None and not err:
        _now.written.write(text)
        return
    stream = sys.stderr if err else sys.stdout
    try:
        with nullcontext() if _watch is None else _watch.out_of_the_way():
            stream.write(text)
            stream.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard error" if err else "standard output") from error


def show(
    document: Mapping[str, Any], print_text: Callable[[], None], *, rows: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Print a result in the form that was asked for.

    Args:
        document: all of it.
        print_text: prints it for people.
        rows: its rows, for JSONL and CSV.
    """
    match _now.form:
        case "json":
            print_json(document)
        case "jsonl" | "csv":
            print_rows(rows, _now.form)
        case _:
            print_text()


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document: strict (numbers that are none are null), and without raw control characters."""
    _write(_json(document, indent=2) + "\n")


def _json(document: Any, indent: int | None = None) -> str:
    ascii_only = (sys.stdout.encoding or "ascii").lower().replace("-", "") not in {"utf8", "utf16", "utf32"}
    text = json.dumps(finite(document), ensure_ascii=ascii_only, allow_nan=False, indent=indent, default=str)
    return "\n".join(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))


def print_rows(rows: Sequence[Mapping[str, Any]], form: Literal["jsonl", "csv"]) -> None:
    """Print rows as JSONL, or as CSV with a column `a.b` for the value of `b` in `a`, and lists as JSON."""
    if form == "jsonl":
        _write("".join(_json(row) + "\n" for row in rows))
        return
    flat = [dict(_flat(finite(row))) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    _write(text.getvalue())


def _flat(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in row.items():
        name = before + printable(key)
        match value:
            case Mapping():
                yield from _flat(value, f"{name}.")
            case list() | tuple():
                yield name, _json(value)
            case str():
                yield name, "\n".join(map(printable, value.split("\n")))
            case _:
                yield name, value


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings, to be printed."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add_row(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)


def new_table(*columns: str) -> Table:
    """Return an empty table; numbers stand to the right."""
    return Table(columns)


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal, or without a limit into a file or a pipe."""
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False, show_header=any(table.columns))
    for name in table.columns:
        right = name in {"score", "probability"}
        grid.add_column(Text(printable(name)), overflow="fold", justify="right" if right else "left")
    for row in table.rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))  # as it is: rich takes a string for markup
    # A file or a pipe has no width of its own; lines are not cut there.
    terminal = sys.stdout.isatty() and _now.written is None
    drawn = io.StringIO()
    Console(file=drawn, force_terminal=terminal, width=None if terminal else 200, soft_wrap=not terminal).print(grid)
    _write(drawn.getvalue())


# ------------------------------------------------------------------------------------------------------------ progress


class Watch:
    """Shows what a command does and where it is: a bar on a terminal, a line now and then elsewhere.

    One thread draws, so that there is something to see while a library loads.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._step = self._shown = work.Step("", 0)
        self._begin = time.monotonic()
        self._bar: Any = None
        self._over = threading.Event()
        self._drawing = threading.Lock()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)

    def __enter__(self) -> Watch:
        if not sys.stderr.isatty():
            with suppress(OSError):  # nobody reads standard error
                say(self._doing, err=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def see(self, step: work.Step) -> None:
        """Take note of a step."""
        if step.what != self._step.what or step.done < self._step.done:
            self._begin = time.monotonic()
        self._step = step

    @contextmanager
    def out_of_the_way(self) -> Iterator[None]:
        """Show nothing in the block, in which something else is printed, nor afterwards until there is news."""
        with self._drawing:
            self._close()
            self._shown = self._step
            yield

    def _draw(self) -> None:
        terminal = sys.stderr.isatty()
        wait = _SOON
        while not self._over.wait(wait):
            with self._drawing, suppress(OSError):  # nobody reads standard error
                if terminal:
                    self._update()
                elif self._step is not self._shown:
                    self._shown = self._step
                    sys.stderr.write(self._line() + "\n")
                    sys.stderr.flush()
            wait = _OFTEN if terminal else _SELDOM
        self._close()

    def _line(self) -> str:
        """Return where the work is as a line."""
        step, seconds = self._step, time.monotonic() - self._begin
        if not step.what:
            return self._doing
        done = f"{step.done:,} of {step.total:,}" if step.total else f"{step.done:,}"
        parts = [f"{self._doing}: {done} {step.what}"]
        if step.done and seconds > 0:
            parts.append(_rate(step.done / seconds))
            if step.total:
                parts.append(f"{duration(seconds / step.done * (step.total - step.done))} left")
        return ", ".join([*parts, *([f"{step.failed} not usable"] if step.failed else [])])

    def _update(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if self._bar is None and self._step is self._shown and self._step.what:
            return
        if self._bar is None:
            columns = BarColumn(), TextColumn("{task.description}")
            self._bar = Progress(
                *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._bar.add_task("")
            self._bar.start()
        self._bar.update(
            self._bar.task_ids[0], completed=self._step.done, total=self._step.total, description=self._line()
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _rate(a_second: float) -> str:
    return f"{a_second:,.0f} a second" if a_second >= 10 else f"{a_second:.2g} a second"


def duration(seconds: float) -> str:
    """Return a time in words.

    Example:
        >>> duration(42.3), duration(600), duration(10_000)
        ('42 s', '10 min', '2.8 hours')
    """
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def clock(seconds: float) -> str:
    """Return minutes and seconds, as players show them.

    Example:
        >>> clock(75.2)
        '1:15.2'
    """
    return f"{int(seconds // 60)}:{seconds % 60:04.1f}"
