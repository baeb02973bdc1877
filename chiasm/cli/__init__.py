"""The command line as a process: signals, errors and exit codes, from its first moment to its last.

Exit codes: 0 done, 1 failed, 2 wrong usage, 70 a bug in chiasm, 130 stopped, 141 nobody reads the output any more.
What commands there are is `chiasm.cli.commands`' business. Nothing is imported before signals are listened to.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import signal
import sys
import traceback
from _thread import interrupt_main
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Timer
from types import FrameType

FAILED, USAGE, BUG, STOPPED, UNREAD = 1, 2, 70, 130, 141
_STOPPED = "Stopped. What was done is kept; run the same command again."
_MOMENT = 0.01  # seconds
_SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


def main() -> None:
    """Run the command of `sys.argv` and exit with its code."""
    gc.disable()  # until the command begins: imports leave no garbage, and looking for it takes a tenth of their time
    stops = Stops()
    stops.listen()
    _open_closed_streams()
    from chiasm import console

    console.prepare()
    stops.code = run(sys.argv[1:], stops)
    _close_broken_streams()
    sys.exit(stops.code)


class Stops:
    """SIGINT (Ctrl-C), SIGTERM and SIGHUP: the first ends a running command in order, any other the process at once.

    A signal that whoever started the process ignores (`nohup`, a job in the background of a script) stays ignored.
    """

    def __init__(self) -> None:
        self.running = False  # whether KeyboardInterrupt meets somebody who answers it
        self.received: int | None = None
        self.code = STOPPED  # of an exit at once

    def listen(self) -> None:
        """Take over the signals of this process."""
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)
        sys.unraisablehook = self._receive_again

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.running and self.received is None:
            self.received = number
            raise KeyboardInterrupt(number)
        # Nothing is at work yet, or somebody asks twice. Imports turn exceptions into errors of their own, and a library
        # may swallow one, so none is raised.
        if self.code == STOPPED:
            message = (_SHOW_CURSOR if os.isatty(2) else "") + _STOPPED + "\n"
            with suppress(OSError):
                os.write(2, message.encode())
        os._exit(self.code)

    def _receive_again(self, lost: sys.UnraisableHookArgs) -> None:
        """Raise a stop once more that came in a callback of the interpreter (a weak reference, `__del__`), where it is lost.

        It is raised a moment later, by another thread: this hook is such a callback, too.
        """
        if self.received is None or not isinstance(lost.exc_value, KeyboardInterrupt):
            sys.__unraisablehook__(lost)
            return
        number, self.received = self.received, None
        again = Timer(_MOMENT, interrupt_main, [number])
        again.daemon = True
        again.start()


def run(arguments: Sequence[str], stops: Stops | None = None) -> int:
    """Run a command in this process and return its exit code; errors are printed, never raised.

    Args:
        arguments: as on the command line, without the program's name.
        stops: the signals of this process, where they are listened to.
    """
    stops = stops or Stops()
    from chiasm import console
    from chiasm.cli.commands import app  # with them come the libraries; a signal ends the process at once until here

    try:
        try:
            stops.running = True
            _check_text(arguments)
            code = int(app(list(arguments), prog_name="chiasm", standalone_mode=False) or 0)
            console.flush()
        except BaseException as error:  # noqa: BLE001  there is nobody above
            stops.running = False
            return _report(error, arguments, stopped=stops.received is not None)
    except KeyboardInterrupt:  # between the two lines above
        return _report(KeyboardInterrupt(), arguments, stopped=True)
    return _report(KeyboardInterrupt(), arguments, stopped=True) if code == STOPPED else code


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse arguments that are no text: they could be neither stored nor printed."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            from typer import BadParameter

            raise BadParameter(
                f"the argument {os.fsencode(argument)!r} is not UTF-8. Rename the file, or name the folder that it is in"
            ) from None


def _report(error: BaseException, arguments: Sequence[str], *, stopped: bool) -> int:
    """Print an error in one line, and as JSON where that was asked for, and return the exit code that it means.

    The arguments are looked at as they came: the error may be that they cannot be parsed.
    """
    from chiasm import console

    code, lines = _explain(error, stopped=stopped)
    message = " ".join(lines).removeprefix("chiasm: ")  # programs, and jobs of the page, know who says it
    document = {"error": {"code": code, "kind": type(error).__name__, "message": message}}
    if {"-v", "--verbose"} & {*arguments}:
        lines = [line for part in traceback.format_exception(error) for line in part.splitlines()] + lines
    with suppress(OSError):  # nobody reads standard error, or standard output
        for line in lines:
            console.say(line, err=True)
        if lines and ("--json" in arguments or re.search(r"--format[= ]jsonl?\b", " ".join(arguments))):
            console.print_json(document)
    return code


def _explain(error: BaseException, *, stopped: bool) -> tuple[int, list[str]]:
    """Return the exit code that an error means, and what is to be said about it."""
    from typer.exceptions import TyperException

    from chiasm.errors import ChiasmError

    if stopped or isinstance(error, KeyboardInterrupt):
        return STOPPED, [_STOPPED]
    if isinstance(error, SystemExit) and isinstance(error.__context__, OSError):
        error = error.__context__  # Typer exits with 1 where nobody reads
    if isinstance(error, SystemExit):
        return FAILED if error.code else 0, []
    if isinstance(error, TyperException):
        shown = io.StringIO()
        error.show(shown)  # type: ignore[attr-defined]
        return error.exit_code, shown.getvalue().splitlines()
    if isinstance(error, ChiasmError):
        return FAILED, [f"chiasm: {error}"]
    if isinstance(error, MemoryError):
        return FAILED, [
            "chiasm: there is not enough memory. What was done is kept; close other programs, or do the work in parts"
        ]
    if isinstance(error, BrokenPipeError):
        return UNREAD, []
    if isinstance(error, OSError):
        return FAILED, [f"chiasm: {_of_system(error)}"]
    return BUG, [f"chiasm: {_of_bug(error)}"]


def _of_system(error: OSError) -> str:
    what = error.strerror or str(error) or type(error).__name__
    place = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    advice = {
        errno.ENOSPC: "Free space and run the same command again",
        errno.EDQUOT: "Free space and run the same command again",
        errno.EFBIG: "Raise the limit on the size of files and run the same command again",
        errno.EACCES: "Fix the permissions, or name another place",
        errno.EPERM: "Fix the permissions, or name another place",
        errno.EROFS: "Name another place",
        errno.ENAMETOOLONG: "Give it a shorter name",
        errno.EMFILE: "Raise the limit on open files (ulimit -n) and run the same command again",
    }.get(error.errno or 0, "--verbose shows where this arose")
    return f"{place}{what}. {advice}"


def _of_bug(error: BaseException) -> str:
    from chiasm import __version__

    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}chiasm{os.sep}" in frame.filename] or frames
    where = f", at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    words = str(error).strip().partition("\n")[0][:300]
    return (
        f"this is a bug in chiasm {__version__}: {type(error).__name__}: {words}{where}. Please report it with what the same "
        f"command prints with --verbose. What was done is kept"
    )


def _open_closed_streams() -> None:
    """Point standard streams that the caller has closed at nothing, before other files take their numbers."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(stream, "w" if number else "r"))


def _close_broken_streams() -> None:
    """Flush standard streams; one that cannot be written to is pointed at nothing, or Python would complain at its end."""
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
