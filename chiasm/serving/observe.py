"""Observe a server: Prometheus metrics, log lines, and the opt-in query log.

Nothing that a user wrote stands in numbers or lines: requests are counted and logged under their route's pattern, and
of an unforeseen error its class and where it arose, without its message.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from chiasm.errors import ChiasmError
from chiasm.files import finite

logger = logging.getLogger("chiasm.serving")

MOST_STRAY = 20  # lines a second
_LONGEST_STRAY = 2000  # characters of one
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Metrics of one application in their own registry; each worker process reports its own (`worker`)."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._worker = str(os.getpid())
        names = ("worker", "method", "route", "status")
        self._requests = Counter("chiasm_requests", "Requests answered", names, registry=self._registry)
        self._seconds = Histogram(
            "chiasm_request_seconds", "Time to answer", ("worker", "route"), buckets=_SECONDS, registry=self._registry
        )
        running = Gauge("chiasm_requests_running", "Requests at work", ("worker",), registry=self._registry)
        self.running = running.labels(self._worker)
        waiting = Gauge("chiasm_media_waiting", "Media that wait for an encoder", ("worker",), registry=self._registry)
        self.waiting = waiting.labels(self._worker)
        sizes = Histogram(
            "chiasm_batch_size", "Media embedded together", ("worker", "modality"),
            buckets=(1, 2, 4, 8, 16, 32, 64), registry=self._registry,
        )  # fmt: skip
        self._sizes = sizes

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(self._worker, method, route, str(status)).inc()
        self._seconds.labels(self._worker, route).observe(seconds)

    def batch(self, lane: str, size: int) -> None:
        """Count one batch."""
        self._sizes.labels(self._worker, lane).observe(size)

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """Format a log record as one line of JSON. Fields are passed as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        row: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info is not None and record.exc_info[1] is not None:
            row |= where_from(record.exc_info[1])
        return json.dumps(finite(row), ensure_ascii=True, allow_nan=False, default=str)


class PlainLines(logging.Formatter):
    """Format a log record as a line for a person at a terminal: time, what, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without what a terminal would obey."""
        fields: dict[str, Any] = dict(getattr(record, "fields", {}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            fields |= where_from(record.exc_info[1])
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        text = "  ".join([f"{level}{record.getMessage()}", *(f"{name} {value}" for name, value in fields.items())])
        text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
        return f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S}  {text}"


@contextmanager
def log_lines() -> Iterator[None]:
    """Have all that the process writes to standard error come there as its log: JSON, or plain lines on a terminal.

    That is its log, warnings, and what nobody passes through a log: lines of libraries in C (libtiff) and tracebacks of
    threads. Of those at most `MOST_STRAY` a second are kept. So no line of the log can be forged by what is printed.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    plain = os.isatty(saved)
    handler = logging.StreamHandler(
        os.fdopen(saved, "w", encoding="utf-8" if plain else "ascii", errors="replace", closefd=False)
    )
    handler.setFormatter(PlainLines() if plain else JsonLines())
    levels = {"": logging.WARNING, "chiasm": logging.INFO, "uvicorn": logging.WARNING}
    loggers = {logging.getLogger(name): level for name, level in levels.items()}
    before = [(one, one.handlers[:], one.level, one.propagate) for one in loggers]
    for one, level in loggers.items():
        one.handlers[:] = [handler]
        one.setLevel(level)
        one.propagate = False
    logging.captureWarnings(capture=True)
    strays = threading.Thread(target=_log_strays, args=(reading, handler), name="strays", daemon=True)
    strays.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)  # which ends the pipe, unless a child process holds it
        strays.join(1.0)
        logging.captureWarnings(capture=False)
        for one, handlers, level, propagate in before:
            one.handlers[:], one.propagate = handlers, propagate
            one.setLevel(level)
        handler.flush()
        os.close(saved)


def _log_strays(reading: int, handler: logging.Handler) -> None:
    """Log what comes through a pipe, line by line, until its other end is closed."""
    second, kept, lost = 0, 0, 0
    with os.fdopen(reading, encoding="utf-8", errors="replace", newline="\n") as lines:
        while line := lines.readline(_LONGEST_STRAY):
            now = int(time.monotonic())
            if now != second:
                second, kept = now, 0
            if kept >= MOST_STRAY:
                lost += 1
                continue
            kept += 1
            record = logging.LogRecord("stderr", logging.WARNING, "", 0, line.rstrip("\n"), None, None)
            record.fields, lost = {"lost": lost} if lost else {}, 0
            handler.handle(record)


def where_from(error: BaseException) -> dict[str, Any]:
    """Return the class of an error and its call sites, without the message, which may repeat what a user sent."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "error": type(error).__name__,
        "at": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-12:]],
    }


@dataclass(frozen=True)
class LoggedQuery:
    """One row of the query log."""

    number: int
    time: str  # UTC, ISO 8601
    who: str
    text: str | None
    modalities: tuple[str, ...]
    hits: int


class QueryLog:
    """Log the texts of queries in an SQLite file, only on request, and deletable. Thread-safe.

    Raises:
        ChiasmError: the file is no such log, or cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        try:
            self._path.touch(mode=0o600)
            self._file = sqlite3.connect(self._path, timeout=10, check_same_thread=False, isolation_level=None)
            self._file.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not only unlinked
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS queries (number INTEGER PRIMARY KEY, time TEXT NOT NULL, "
                "who TEXT NOT NULL, text TEXT, modalities TEXT NOT NULL, hits INTEGER NOT NULL)"
            )
        except (sqlite3.Error, OSError) as error:
            raise ChiasmError(f"the query log {path} cannot be opened: {error}") from error

    def write(self, who: str, queries: Sequence[tuple[str | None, Sequence[str], int]]) -> None:
        """Add queries: text, modalities and number of hits of each."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        rows = [(now, who, text, " ".join(modalities), hits) for text, modalities, hits in queries]
        with self._lock:
            self._run(
                lambda: self._file.executemany(
                    "INSERT INTO queries (time, who, text, modalities, hits) VALUES (?, ?, ?, ?, ?)", rows
                )
            )

    def read(self, *, most: int = 1000) -> list[LoggedQuery]:
        """Return the latest queries, newest first."""
        with self._lock, closing(self._file.cursor()) as cursor:
            cursor.execute(
                "SELECT number, time, who, text, modalities, hits FROM queries ORDER BY number DESC LIMIT ?", (most,)
            )
            return [
                LoggedQuery(number, time, who, text, tuple(modalities.split()), hits)
                for number, time, who, text, modalities, hits in cursor
            ]

    def delete(self, *, who: str | None = None, before: datetime | None = None) -> int:
        """Delete all queries, or those that meet every condition, and return their number.

        Args:
            who: of this key or address only.
            before: only older ones; a time with its zone.
        """
        conditions: Mapping[str, str | None] = {
            "who = ?": who,
            "time < ?": None if before is None else before.astimezone(UTC).isoformat(timespec="seconds"),
        }
        used = {condition: value for condition, value in conditions.items() if value is not None}
        where = " AND ".join(used) or "1"
        with self._lock:
            return self._run(
                lambda: self._file.execute(f"DELETE FROM queries WHERE {where}", tuple(used.values()))  # noqa: S608
            ).rowcount

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._file.close()

    def _run(self, statement: Any) -> sqlite3.Cursor:
        try:
            result: sqlite3.Cursor = statement()
        except sqlite3.Error as error:
            raise ChiasmError(f"the query log {self._path} cannot be written: {error}") from error
        return result
