"""Imports go one way, down the path of the data, and there is no cycle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import chiasm

ROOT = Path(chiasm.__file__).parent
LAYERS = (
    {"__init__", "types"},
    {"errors"},
    {"_optional"},
    {"cores", "files", "hub", "predict_script", "vectors", "work"},
    {"client", "saved", "sealed", "splits"},
    {"masks", "privacy", "training"},
    {"media"},
    {"encoders"},
    {"store"},
    {"evaluation"},
    {"alignment"},
    {"recognition"},
    {"finetuning"},
    {"retrieval"},
    {"space"},
    {"shipping"},
    {"report"},
    {"verbs"},
    {"objects", "sklearn"},
    {"serving"},
    {"demo", "console"},
    {"cli"},
    {"__main__"},
)
ORDER = {name: number for number, layer in enumerate(LAYERS) for name in layer}
ARRAYS_ONLY = {"alignment", "recognition", "retrieval", "evaluation"}
FILES_AND_STORES = {"media", "encoders", "store", "space"}
MODULES = sorted(set(ROOT.rglob("*.py")) - {ROOT / "__init__.py"})  # the facade names everything and imports nothing


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Layers that a module imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "chiasm" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "chiasm":
                module = parts[1] if len(parts) > 1 else "__init__"
                found.add("__init__" if module.startswith("__") else module)
    return found


def test_every_module_has_a_layer() -> None:
    assert {layer_of(path) for path in MODULES} | {"__init__"} == set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_the_path(path: Path) -> None:
    own = layer_of(path)
    for other in imports_of(path) - {own}:
        assert ORDER[other] < ORDER[own], f"{own} imports {other}, which comes after it on the path"


@pytest.mark.parametrize(
    "path", [p for p in MODULES if layer_of(p) in ARRAYS_ONLY], ids=lambda p: str(p.relative_to(ROOT))
)
def test_mathematics_takes_arrays_only(path: Path) -> None:
    assert not imports_of(path) & FILES_AND_STORES


def test_the_check_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text(
        "def f():\n    from chiasm.cli import main\n    from chiasm import demo\n    import chiasm.space\n"
    )
    assert imports_of(module) == {"cli", "demo", "space"}
