"""The command line: the commands of `start`, `find`, `learn`, `measure` and `manage`, one a verb and of its name.

What they do is the verbs' business, what they print `results`', how they are declared `parameters`', how they end is
`chiasm.cli`'s.
"""

from __future__ import annotations

from typing import Annotated

import typer

from chiasm import __version__, console
from chiasm.cli import find, learn, manage, measure, start
from chiasm.cli.parameters import Commands

app = typer.Typer(
    name="chiasm",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    epilog="Next: chiasm demo, or chiasm add FOLDER --to COLLECTION",
)
for panel in (start, find, learn, measure, manage):
    app.add_typer(panel.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search and recognise images, texts, sounds and videos, with pretrained encoders and a few labels."""
