"""Let tests import torchvision beside a torch for CPUs, where its wheel on the package index was built for CUDA.

`make install` puts it, with timm, into a folder of its own, so that nothing but the tests sees it.
Its compiled operators do not load then, and `import torchvision` stops at the first that it looks up. Image processors of
transformers need only its Python code: where the schemas of the operators are defined first, that can be imported. On a
machine where both fit nothing is done.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_libraries: list[Any] = []  # a schema lives as long as its library


class _Finder:
    """Defines the operators as soon as somebody imports torchvision, and not before: torch takes seconds."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
        return None


def allow() -> None:
    """Prepare the import, where it is installed and would fail."""
    folder = Path(sys.prefix) / "test-packages"
    if folder.is_dir():
        sys.path.append(str(folder))
    try:
        versions = [importlib.metadata.version(name) for name in ("torch", "torchvision")]
    except importlib.metadata.PackageNotFoundError:
        return
    if versions[0].endswith("+cpu") and "+" not in versions[1] and "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Finder())
