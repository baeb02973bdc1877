"""How commands are declared: the parameters they share, what their help shows, and how paths and numbers are parsed.

A command is a function of an `App`, which is one panel of the help. The options on how results are printed are added to
every command here, and taken off before its function is called: see `chiasm.console.Output`.
"""

from __future__ import annotations

import gc
import inspect
import math
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from chiasm import console
from chiasm.cli import complete
from chiasm.finetuning.recipe import OF_PAIRS, recipe_options
from chiasm.types import MODALITIES, Modality

F = TypeVar("F", bound=Callable[..., None])

MOST = 2**31 - 1  # of whatever is counted: more fits into no table of ours

CollectionPath = Annotated[Path, typer.Argument(metavar="COLLECTION", help="Folder of the collection.")]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that fit wrote.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Folders, tables (CSV, JSONL, Parquet), files.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(metavar="NAME", help="Where networks run.")]
Licence = Annotated[
    Literal["permissive"] | None,
    typer.Option(
        metavar="KIND",
        help="Refuse encoders with a model of any other licence, or of none that is known, before it is downloaded.",
    ),
]
Encoder = Annotated[
    str | None,
    typer.Option(metavar="ENCODER", help="offline, a hub id or a model folder. Default: the collection's, or offline."),
]
Where = Annotated[
    str | None, typer.Option(metavar="CONDITION", help="Condition on the columns, e.g. \"label = 'bird'\".")
]
Space = Annotated[
    str | None,
    typer.Option(
        metavar="SPACE",
        help="Name of the space, or the path of another collection's. Default: the newest.",
        autocompletion=complete.spaces,
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=10**10,
        envvar="CHIASM_MAX_PIXELS",
        help="Width times height above which an image is too large. Default: 250 million.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of random splits.")]
Pairs = Annotated[str, typer.Option(metavar="A,B", help="Two modalities, e.g. image,text.")]
Modalities = Annotated[
    str | None, typer.Option(metavar="A,B", help="E.g. image,text. Default: all that the items have.")
]
Group = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Its values keep items on one side of every split.", autocompletion=complete.columns
    ),
]
Alike = Annotated[
    float,
    typer.Option(
        metavar="COSINE", min=0, max=1, help="From which files count as near-duplicates, kept on one side as well."
    ),
]
Names = Annotated[bool, typer.Option("--names/--no-names", help="Count the name of each class as one more example.")]
Balance = Annotated[
    Literal["balanced"] | None, typer.Option(metavar="KIND", help="balanced: every class weighs the same.")
]
Source = Annotated[
    list[Path] | None,
    typer.Option(metavar="COLLECTION", help="Another domain to learn from as well; may be repeated."),
]
Target = Annotated[
    Path | None,
    typer.Option(metavar="COLLECTION", help="Another domain without labels, to be good at; unless it could hurt."),
]
Shares = Annotated[
    Literal["auto", "same", "other"],
    typer.Option(
        metavar="HOW", help="Whether the classes are as frequent in the target; auto: go by what is predicted."
    ),
]
Report = Annotated[Path | None, typer.Option(metavar="F.html", help="Also write a report: .html, .md or .json.")]
Who = Annotated[str, typer.Option(metavar="NAME", help="Whose verdict it is.")]

_PANEL = "Output"


def output_options(
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document, of an error too.", rich_help_panel=_PANEL)
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say all there is to say.", rich_help_panel=_PANEL)
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print results and errors alone.", rich_help_panel=_PANEL)
    ] = False,
    no_color: Annotated[
        bool,
        typer.Option(
            "--no-color",
            help="Print without colours, as with NO_COLOR=1.",
            rich_help_panel=_PANEL,
            is_eager=True,
            callback=console.without_colours,
        ),
    ] = False,
) -> None:
    """Hold the options of every command."""


def row_options(
    *,
    form: Annotated[
        Literal["table", "json", "jsonl", "csv"] | None,
        typer.Option(
            "--format", metavar="KIND", help="Default: by the name of --out, else table.", rich_help_panel=_PANEL
        ),
    ] = None,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the result there, when it is whole.", rich_help_panel=_PANEL),
    ] = None,
) -> None:
    """Hold the options of a command whose result is rows."""


def _with_output(function: Callable[..., None], rows: bool, doing: str) -> Callable[..., None]:
    """Return a function that takes the options of output beside its own, and prints by them."""
    own = inspect.signature(function, eval_str=True).parameters
    shared = {
        name: parameter
        for options in ([row_options] if rows else []) + [output_options]
        for name, parameter in inspect.signature(options, eval_str=True).parameters.items()
    }

    @wraps(function)
    def run(**values: Any) -> None:
        with console.printing(**{name: values.pop(name) for name in shared}, doing=doing):
            function(**values)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own.values(), *shared.values())
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def takes_recipe(function: F) -> F:
    """Give a command that takes `**options` those of the recipe of fine-tuning, but for what it declares itself."""
    *own, _ = inspect.signature(function, eval_str=True).parameters.values()
    options = []
    for name, one in recipe_options().items():
        if name in {parameter.name for parameter in own}:
            continue
        metavar = "NAME" if one.choices else "N" if one.kind is int else "NUMBER"
        about = typer.Option(
            metavar=metavar, min=one.says.least, max=one.says.most, help=one.says.text, rich_help_panel="Recipe"
        )
        depends = name in OF_PAIRS  # its default is said by its text
        options.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if depends else one.default,
                annotation=Annotated[one.kind | None if depends or one.optional else one.kind, about],
            )
        )
    function.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return function


class App(typer.Typer):
    """The commands of one panel of the help."""

    def __init__(self, panel: str) -> None:
        super().__init__()
        self._panel = panel

    def verb(self, *examples: str, then: str, doing: str = "", rows: bool = False) -> Callable[[F], F]:
        """Return what makes a function the command of its name.

        Args:
            examples: lines for a shell that its help ends with.
            then: what to do afterwards, as one line.
            doing: what it does, where that may take more than two seconds: shown with where the work is.
            rows: whether its result can be printed as JSONL and CSV, too.
        """
        lines = "\n".join(f"    {example}" for example in examples)
        epilog = f"Examples:\n\n{lines}\n\nNext: {then}"

        def register(function: F) -> F:
            self.command(cls=Command, rich_help_panel=self._panel, epilog=epilog)(_with_output(function, rows, doing))
            return function

        return register


class _ForPeople:
    """Help that says in words what arguments and flags are; Typer shows the types of Python beside their names."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with that of --help."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if isinstance(parameter, TyperArgument) or parameter.is_flag or parameter.name.endswith("_completion"):
                parameter.display_type_rich = lambda ctx: ""  # noqa: ARG005
        return parameters


class Commands(_ForPeople, TyperGroup):
    """All commands."""


class Command(_ForPeople, TyperCommand):
    """A command whose paths follow one rule: `~` is the home folder, as in `--out=~/m`, and no path is empty."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        parameters: list[Any] = self.params
        for parameter in parameters:
            if parameter.type_descriptor.is_choice and len(parameter.type_descriptor.choices) > 1:
                parameter.help += f" One of {', '.join(parameter.type_descriptor.choices)}."

    def invoke(self, ctx: Any) -> Any:
        """Run the command, with Arrow imported before and garbage collected from now on."""
        import_arrow()
        gc.enable()
        return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, and put counts and paths in order."""
        if ctx.resilient_parsing:  # for completion, of a line that is not whole yet
            return super().parse_args(ctx, args)
        raw = self.make_parser(ctx).parse_args(args=list(args))[0]
        rest = super().parse_args(ctx, args)
        parameters: list[Any] = self.params
        for parameter in parameters:
            value = ctx.params.get(parameter.name)
            if isinstance(value, int) and value > MOST and getattr(parameter, "max", None) is None:
                raise typer.BadParameter(f"{value} is more than {MOST:,}", ctx=ctx, param=parameter)
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


def modalities_of(text: str | None) -> list[Modality] | None:
    """Return the modalities of a text such as image,text; None of None."""
    return None if text is None else [modality_of(part) for part in text.split(",")]
