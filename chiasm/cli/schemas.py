"""JSON Schemas of what commands print with --json, made from the results themselves: docs/schemas.json (`make docs`).

A hit is the one of REST, with the path of its file in place of an address.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from chiasm._optional import require


@dataclass(frozen=True)
class Problem:
    """Why a command failed."""

    code: int  # with which it exits, see docs/shell.md
    kind: str  # the class of the error
    message: str  # what came, what was expected, what to do


@dataclass(frozen=True)
class Failure:
    """The document of a command that failed."""

    error: Problem


def schemas() -> dict[str, Any]:
    """Return one document: under `commands` the schema of each command's result, the rest under `$defs`.

    Raises:
        MissingExtraError: pydantic is not installed.
    """
    from chiasm.store.add import AddReport
    from chiasm.store.reembed import ReembedReport
    from chiasm.verbs.align import AlignReport
    from chiasm.verbs.compress import CompressReport
    from chiasm.verbs.drift import DriftReport
    from chiasm.verbs.estimate import Estimate
    from chiasm.verbs.evaluate import Evaluation
    from chiasm.verbs.explain import ExplainReport
    from chiasm.verbs.export import ExportReport
    from chiasm.verbs.finetune import FinetuneReport
    from chiasm.verbs.fit import FitReport
    from chiasm.verbs.learn import LearnReport
    from chiasm.verbs.predict import PredictReport
    from chiasm.verbs.query import SearchResult
    from chiasm.verbs.status import Status

    adapter = require("pydantic", "serve", "JSON Schemas").TypeAdapter
    results = {
        "add": AddReport, "add --estimate": Estimate, "align": AlignReport, "compress": CompressReport, "drift": DriftReport, "evaluate": Evaluation,
        "explain": ExplainReport, "export": ExportReport, "finetune": FinetuneReport, "fit": FitReport, "learn": LearnReport, "predict": PredictReport,
        "reembed": ReembedReport, "search": SearchResult, "status": Status, "(any that failed)": Failure,
    }  # fmt: skip
    made, shared = adapter.json_schemas([(name, "serialization", adapter(kind)) for name, kind in results.items()])
    commands = {name: made[name, "serialization"] for name in results}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "commands": commands, **shared}


def text() -> str:
    """Return the document as docs/schemas.json has it."""
    return json.dumps(schemas(), indent=1, ensure_ascii=False) + "\n"
