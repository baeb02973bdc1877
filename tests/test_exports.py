"""What a package says it offers is there, and everything public says what it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import typer

import chiasm
from chiasm.finetuning.recipe import RecipeOptions

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(chiasm.__path__, "chiasm.")
    if not module.name.rpartition(".")[2].startswith("_")
)


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_knows(name: str) -> None:
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", MODULES)
def test_all_names_exist_and_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", ()):
        value = getattr(module, exported)
        assert not (inspect.isclass(value) or inspect.isfunction(value)) or value.__doc__, f"{name}.{exported}"


@pytest.mark.parametrize("name", ["chiasm.media", "chiasm.encoders", "chiasm.recognition"])
def test_packages_name_their_exports(name: str) -> None:
    assert importlib.import_module(name).__all__


def commands() -> dict[str, set[str]]:
    """The names of the commands, as of functions, and of their parameters beside those that all have."""
    from chiasm.cli import parameters
    from chiasm.cli.commands import app

    shared = {
        name
        for options in (parameters.output_options, parameters.row_options)
        for name in inspect.signature(options).parameters
    }
    group: Any = typer.main.get_command(app)
    return {
        name.replace("-", "_"): {parameter.name for parameter in command.params} - shared
        for name, command in group.commands.items()
    }


def test_every_verb_is_a_command() -> None:
    opening = {"open", "load"}  # for programs: the command line opens what it needs itself
    verbs = {name for name in chiasm.__all__ if inspect.isfunction(getattr(chiasm, name))} - opening - {"estimate"}
    assert commands().keys() == verbs | {"demo"}


def test_options_of_a_verb_are_keyword_only_and_on_the_command_line() -> None:
    for name, flags in commands().items():
        if name != "demo":
            options = set(inspect.signature(getattr(chiasm, name)).parameters)
            if "options" in options:  # which are those of the recipe
                options = options - {"options"} | set(RecipeOptions.__annotations__)
            elsewhere = {"on_progress", "on_trial", "on_message", "api_key"}  # which is in the environment
            assert options - elsewhere == flags - {"strict", "dry_run", "yes", "estimate"}, name


def test_an_estimate_takes_what_add_takes() -> None:
    options = set(inspect.signature(chiasm.add).parameters) - {"prune", "on_progress"}
    assert set(inspect.signature(chiasm.estimate).parameters) == options | {"sample", "seed"}


def test_the_package_shows_its_public_names_and_nothing_else() -> None:
    assert dir(chiasm) == sorted(chiasm.__all__)
    with pytest.raises(AttributeError, match="serch"):
        chiasm.serch  # noqa: B018
