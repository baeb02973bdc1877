"""Run long commands beside a server, one at a time: `align` and `fit`, as people start them on the page.

A job is the command line in a process of its own, so the server goes on answering, and a job can be stopped like any command.
Nothing of a request is a path: what is read and written is decided by whoever starts a job here.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Literal, TypeAlias

from chiasm.serving.observe import logger
from chiasm.serving.problems import Problem

State: TypeAlias = Literal["running", "done", "failed", "cancelled"]
Kind: TypeAlias = Literal["align", "fit"]

_COMMAND = (sys.executable, "-m", "chiasm")
_REMEMBERED = 50  # jobs that are over
_LONGEST_LINE = 500
_LARGEST_RESULT = 16 * 2**20
_PATIENCE = 10.0  # seconds from a request to stop to the end
_NICE = 5  # the server comes first


@dataclass(eq=False)
class Job:
    """One command, and how far it is."""

    kind: Kind
    collection: str
    model: str | None  # name of what `fit` makes
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "running"
    progress: str = ""
    result: Mapping[str, Any] | None = None
    error: str | None = None
    begun: float = field(default_factory=time.monotonic)
    seconds: float | None = None  # that it took
    stopped: tuple[State, str] | None = None  # why it is to end before its time: the state that it ends in, and words
    process: subprocess.Popen[str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is told of it, see `manage_schemas.JobAnswer`."""
        return {
            "id": self.id,
            "kind": self.kind,
            "collection": self.collection,
            "model": self.model,
            "state": self.state,
            "progress": self.progress,
            "seconds": time.monotonic() - self.begun if self.seconds is None else self.seconds,
            "result": self.result,
            "error": self.error,
        }


class Jobs:
    """The jobs of a server. May be used from several threads at a time.

    Args:
        most_seconds: after which a job is stopped.
        command: that the arguments of a job are given to.
    """

    def __init__(self, most_seconds: float, command: Sequence[str] = _COMMAND) -> None:
        self._most_seconds = most_seconds
        self._command = tuple(command)
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None  # of the job that runs

    def start(
        self,
        job: Job,
        arguments: Sequence[str],
        *,
        sum_up: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        plain: Callable[[str], str],
    ) -> Job:
        """Start a command.

        Args:
            job: what it is for.
            arguments: of the command line.
            sum_up: makes of its JSON what people are told.
            plain: takes the paths of the server out of what it says.

        Raises:
            Problem: 409, another one runs.
        """
        with self._lock:
            now = next((one for one in self._jobs.values() if one.state == "running"), None)
            if now is not None:
                raise Problem(
                    409,
                    "job",
                    f"{now.kind} of {now.collection} is running. Wait for its end, or cancel it: one at a time",
                )
            while len(self._jobs) >= _REMEMBERED:
                del self._jobs[next(iter(self._jobs))]
            self._jobs[job.id] = job
            thread = threading.Thread(target=self._run, args=(job, arguments, sum_up, plain), name="job", daemon=True)
            self._thread = thread
        thread.start()
        return job

    def all(self) -> list[Job]:
        """Return the jobs, the newest first."""
        with self._lock:
            return [*self._jobs.values()][::-1]

    def get(self, name: str) -> Job:
        """Return a job.

        Raises:
            Problem: 404, there is none of this id.
        """
        with self._lock:
            if name not in self._jobs:
                raise Problem(404, "job", "there is no such job; those before the last restart are forgotten")
            return self._jobs[name]

    def cancel(self, name: str) -> Job:
        """Stop a job; one that is over stays as it is."""
        job = self.get(name)
        self._stop(job, "cancelled", "")
        return job

    def close(self) -> None:
        """Stop what runs, and wait for its end."""
        for job in self.all():
            self._stop(job, "cancelled", "the server was stopped")
        if self._thread is not None:
            self._thread.join(_PATIENCE + 1)

    def _run(
        self,
        job: Job,
        arguments: Sequence[str],
        sum_up: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        plain: Callable[[str], str],
    ) -> None:
        state: State = "failed"
        error = "the command did not start. The log of the server has the reason"
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
                code = self._process(job, arguments, out, plain)
                out.seek(0)
                document = _document(out.read(_LARGEST_RESULT))
            if job.stopped is not None:
                state, error = job.stopped
            elif code == 0:
                job.result = sum_up(document)
                state, error = "done", ""
            else:
                said = document.get("error")
                error = plain(str(said["message"])) if isinstance(said, dict) else job.progress or f"exit code {code}"
        except Exception:  # noqa: BLE001  # a thread has nobody else to tell
            logger.error("job failed", exc_info=True, extra={"fields": {"kind": job.kind}})
        job.seconds = time.monotonic() - job.begun
        job.error = error or None
        job.state = state  # last: whoever sees it sees the rest
        logger.info("job", extra={"fields": {"kind": job.kind, "state": state, "seconds": round(job.seconds, 1)}})

    def _process(self, job: Job, arguments: Sequence[str], out: IO[str], plain: Callable[[str], str]) -> int:
        """Run the command to its end, and return its exit code."""
        process = subprocess.Popen(  # noqa: S603  # our own command; names are checked, and options are whole words
            [*self._command, *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for the server, which then stops the job
        )
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _NICE)

        with self._lock:
            job.process = process
            if job.stopped is not None:  # before it began
                _end(process)
        late = threading.Timer(
            self._most_seconds,
            self._stop,
            (job, "failed", f"it took more than {self._most_seconds / 60:.0f} minutes and was stopped"),
        )
        late.daemon = True
        late.start()
        with process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    if line.strip():
                        job.progress = plain(line.strip())[:_LONGEST_LINE]
                return process.wait()
            finally:
                late.cancel()
                if process.poll() is None:
                    process.kill()

    def _stop(self, job: Job, state: State, reason: str) -> None:
        with self._lock:
            if job.state == "running" and job.stopped is None:
                job.stopped = (state, reason)
                if job.process is not None:
                    _end(job.process)


def _end(process: subprocess.Popen[str]) -> None:
    """Ask a process to end, and make it in a while."""
    process.terminate()
    killing = threading.Timer(_PATIENCE, process.kill)
    killing.daemon = True
    killing.start()


def _document(text: str) -> dict[str, Any]:
    """Return the last document of what a command printed."""
    with suppress(ValueError):
        document = json.loads(text)
        return document if isinstance(document, dict) else {}
    return {}
