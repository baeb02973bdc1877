"""Importing chiasm does nothing: no output, no heavy library, no time."""

from __future__ import annotations

import json
import subprocess
import sys

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
    assert not {"torch", "transformers", "sentence_transformers", "sklearn"} & probe("chiasm.verbs.search")
