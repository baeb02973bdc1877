"""Importing chiasm does nothing: no output, no heavy library, no time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "sentence_transformers", "sklearn", "lance", "onnxruntime", "av", "PIL", "soundfile"}
HEAVY |= {"soxr", "faster_whisper", "scipy"}
PROBE = """
import sys, json
before = set(sys.modules)
import {module}
print(json.dumps([name.split(".")[0] for name in set(sys.modules) - before]))
"""


def probe(module: str) -> set[str]:
    """Import in a fresh interpreter; anything printed beside the result fails the parse."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module", ["chiasm", "chiasm.types", "chiasm.errors", "chiasm.cli", "chiasm.evaluation", "chiasm.media"]
)
def test_import_is_light_and_silent(module: str) -> None:
    assert not HEAVY & probe(module)


def test_searching_does_not_import_torch() -> None:
    imported = probe("chiasm.verbs.search")
    assert not {"torch", "transformers", "sentence_transformers", "sklearn"} & imported


def test_searching_imports_nothing_that_it_does_not_need() -> None:
    rooms = {"chiasm.recognition", "chiasm.evaluation.metrics", "chiasm.store.ingest", "chiasm.store.folders"}
    rooms |= {"chiasm.encoders.examples", "PIL.ImageDraw"}
    code = f"import sys, chiasm.verbs.search, chiasm.encoders.offline; print(sorted({rooms!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_command_does_not_import_pandas_and_leaves_it_to_others(tmp_path: Path) -> None:
    code = f"""
import sys
from importlib.util import find_spec
from chiasm.cli import run
assert run(["status", {str(tmp_path / "none")!r}]) == 1
assert "pyarrow" in sys.modules and "pandas" not in sys.modules
assert find_spec("pandas") is not None
import pyarrow
print(list(pyarrow.table({{"number": [1]}}).to_pandas().columns))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['number']\n"
