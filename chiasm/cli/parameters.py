"""The parameters that commands have in common, and how paths, modalities and numbers are parsed: refused in one line where wrong."""

from __future__ import annotations

import gc
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from chiasm.types import MODALITIES, Modality

CollectionPath = Annotated[Path, typer.Argument(metavar="COLLECTION", help="Folder of the collection.")]
ModelPath = Annotated[Path, typer.Argument(help="Folder of the model.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where networks run.")]
Licence = Annotated[
    Literal["permissive"] | None,
    typer.Option(
        help="Refuse encoders with a model of any other licence, or of none that is known, before it is downloaded."
    ),
]
Where = Annotated[
    str | None, typer.Option(metavar="CONDITION", help="Condition on the columns, e.g. \"label = 'bird'\".")
]
Space = Annotated[
    str | None, typer.Option(help="Name of the space, or the path of another collection's. Default: the newest.")
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10**10,
        envvar="CHIASM_MAX_PIXELS",
        help="Width times height above which an image is too large. Default: 250 million.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of random splits.")]
Pairs = Annotated[str, typer.Option(metavar="A,B", help="Two modalities, e.g. image,text.")]


class Command(TyperCommand):
    """A command whose paths follow one rule: `~` is the home folder, as in `--out=~/m`, and no path is empty."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with Arrow imported before and garbage collected from now on."""
        import_arrow()
        gc.enable()
        return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and put paths in order."""
        raw = self.make_parser(ctx).parse_args(args=list(args))[0]
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            paths = value if isinstance(value, list | tuple) else [value]
            if not any(isinstance(path, Path) for path in paths):
                continue
            if "" in (raw.get(name), *(raw.get(name) or ())):
                raise typer.BadParameter(f"the path for {name} is empty; . is the current folder", ctx=ctx)
            home = [Path(os.path.expanduser(path)) for path in paths]  # noqa: PTH111  ~nobody is a file of this name
            ctx.params[name] = home if paths is value else home[0]
        return rest


class _WithoutPandas:
    """Hides pandas from those who import it because it is there."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("hidden from Arrow", name=name)


def import_arrow() -> None:
    """Import Arrow into this process of ours without pandas, which takes a third of a second and which no command uses.

    Arrow looks for pandas once, for its first value. What asks for data frames later still gets them.
    """
    sys.meta_path.insert(0, _WithoutPandas)
    try:
        import pyarrow.dataset  # noqa: F401
    finally:
        sys.meta_path.remove(_WithoutPandas)


class App(typer.Typer):
    """All commands are of this class."""

    def command(self, *args: Any, **settings: Any) -> Callable[..., Any]:
        """Return what makes a function a command."""
        return super().command(*args, **{"cls": Command, **settings})


def modality_of(name: str) -> Modality:
    """Return the modality of a name."""
    for modality in MODALITIES:
        if name.strip() == modality:
            return modality
    raise typer.BadParameter(f"{name!r} is not a modality: choose from {', '.join(MODALITIES)}")


def pair_of(text: str) -> tuple[Modality, Modality]:
    """Return the two modalities of a text such as image,text."""
    parts = pairs_of(text)
    if len(parts) != 2:
        raise typer.BadParameter(f"pairs are two modalities with a comma between, e.g. image,text; got {text!r}")
    return parts[0], parts[1]


def pairs_of(text: str) -> list[Modality]:
    """Return the two modalities or more of a text such as image,text,audio."""
    parts = text.split(",")
    if len(parts) < 2:
        raise typer.BadParameter(f"pairs are two modalities or more with commas between, e.g. image,text; got {text!r}")
    return [modality_of(part.strip()) for part in parts]


def number_or_auto(text: str, option: str) -> float | Literal["auto"]:
    """Return a number from 0 to 1, or "auto"."""
    if text == "auto":
        return "auto"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise typer.BadParameter(f"{option} takes 'auto' or a number from 0 to 1; got {text!r}")
    return number
