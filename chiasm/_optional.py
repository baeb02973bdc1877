"""The one place that words what happens when an optional dependency is missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from chiasm.errors import MissingExtraError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Args:
        module: dotted module name, e.g. `"faster_whisper"`.
        extra: the extra of chiasm's own package that installs it, e.g. `"speech"`.
        purpose: what it is needed for, as the end of "... is needed to".

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".", maxsplit=1)[0] != error.name.split(".", maxsplit=1)[0]:
            raise  # the module is there and one of its own imports is not: that is not ours to reword
        raise MissingExtraError(
            f"{module} is needed to {purpose} and is not installed. Run: pip install 'chiasm[{extra}]'"
        ) from error


def torch_is_missing() -> str:
    """Return that PyTorch is not installed and how to install it, for what goes on without it; empty where it is there."""
    return "" if importlib.util.find_spec("torch") else "PyTorch is not installed (pip install 'chiasm[train]')"
