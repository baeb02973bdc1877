"""The command line: from the first moment of the process to its exit code."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Entry point: turns errors that teach into one line on standard error and exit code 1."""
    import typer

    from chiasm.cli.commands import app
    from chiasm.errors import ChiasmError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop is a stop: keep what is done, as on Ctrl-C
    try:
        app(standalone_mode=True)
    except ChiasmError as error:
        typer.echo(f"chiasm: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("chiasm: stopped. What was done is kept; run the same command again to go on", err=True)
        sys.exit(1)
