"""What a package says it offers is there, and everything public says what it is."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest

import chiasm

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


def test_every_verb_is_a_command() -> None:
    from chiasm.cli.commands import app

    verbs = {name for name in chiasm.__all__ if inspect.isfunction(getattr(chiasm, name))}
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert commands == verbs | {"demo"}


def test_options_of_a_verb_are_keyword_only_and_on_the_command_line() -> None:
    from chiasm.cli.commands import app

    for command in app.registered_commands:
        assert command.callback is not None
        name = command.callback.__name__
        if name == "demo":
            continue
        options = set(inspect.signature(getattr(chiasm, name)).parameters) - {"on_progress", "on_trial", "on_message"}
        flags = set(inspect.signature(command.callback).parameters) - {"as_json", "strict"}
        assert options == flags, name


def test_the_package_shows_its_public_names_and_nothing_else() -> None:
    assert dir(chiasm) == sorted(chiasm.__all__)
    with pytest.raises(AttributeError, match="serch"):
        chiasm.serch  # noqa: B018
