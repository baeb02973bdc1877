"""Importing chiasm does nothing: no output, no heavy library, no time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "lance",
    "onnxruntime",
    "av",
    "faster_whisper",
    "scipy",
}
PROBE = """
import sys, json, time
before = set(sys.modules)
begin = time.process_time()
import {module}
seconds = time.process_time() - begin
print(json.dumps({{"seconds": seconds, "loaded": sorted({{name.split(".")[0] for name in set(sys.modules) - before}})}}))
"""


def probe(module: str) -> dict[str, object]:
    """Import in a fresh interpreter; anything printed beside the result fails the parse."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(module=module)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("module", ["chiasm", "chiasm.types", "chiasm.errors", "chiasm.cli"])
def test_import_is_light_and_silent(module: str) -> None:
    loaded = probe(module)["loaded"]
    assert isinstance(loaded, list)
    assert not HEAVY & set(loaded)


def test_searching_does_not_import_torch() -> None:
    loaded = probe("chiasm.verbs.search")["loaded"]
    assert isinstance(loaded, list)
    assert not {"torch", "transformers", "sentence_transformers", "sklearn"} & set(loaded)
