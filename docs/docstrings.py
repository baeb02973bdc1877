"""How docstrings are read for the site: `Example:` holds a session with Python, as doctest runs it."""

from __future__ import annotations

from typing import Any

from griffe import Docstring, Extension, Object


class Examples(Extension):
    """Calls the section by the name under which sessions are shown as such."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section of one docstring."""
        if isinstance(obj.docstring, Docstring):
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
