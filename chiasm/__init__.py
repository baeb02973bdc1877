"""chiasm: search and recognise images, texts, sounds and videos with pretrained encoders and a few labels.

The verbs are functions (`chiasm.add`, `chiasm.search`, `chiasm.fit`, ...), the same as the commands of the command line.
Names are imported when they are used: `import chiasm` itself loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from chiasm.errors import ChiasmError as ChiasmError
    from chiasm.objects import OpenCollection as OpenCollection
    from chiasm.objects import SavedModel as SavedModel
    from chiasm.objects import load as load
    from chiasm.objects import open as open  # noqa: A004  # as `io.open` and `PIL.Image.open`
    from chiasm.recognition import Recognizer as Recognizer
    from chiasm.serving.keys import make_key as make_key
    from chiasm.serving.run import serve as serve
    from chiasm.store.collection import Collection as Collection
    from chiasm.verbs.add import add as add
    from chiasm.verbs.add import reembed as reembed
    from chiasm.verbs.align import align as align
    from chiasm.verbs.align import statistics as statistics
    from chiasm.verbs.compress import compress as compress
    from chiasm.verbs.drift import drift as drift
    from chiasm.verbs.estimate import estimate as estimate
    from chiasm.verbs.evaluate import evaluate as evaluate
    from chiasm.verbs.explain import explain as explain
    from chiasm.verbs.export import export as export
    from chiasm.verbs.federate import federate as federate
    from chiasm.verbs.feedback import feedback as feedback
    from chiasm.verbs.feedback import labels as labels
    from chiasm.verbs.finetune import finetune as finetune
    from chiasm.verbs.fit import fit as fit
    from chiasm.verbs.learn import learn as learn
    from chiasm.verbs.learn import revert as revert
    from chiasm.verbs.predict import predict as predict
    from chiasm.verbs.query import Query as Query
    from chiasm.verbs.query import SearchOptions as SearchOptions
    from chiasm.verbs.remove import remove as remove
    from chiasm.verbs.seal import decrypt as decrypt
    from chiasm.verbs.seal import encrypt as encrypt
    from chiasm.verbs.search import Searcher as Searcher
    from chiasm.verbs.search import search as search
    from chiasm.verbs.status import status as status

_MODULES = {
    "ChiasmError": "errors",
    "Collection": "store.collection",
    "OpenCollection": "objects",
    "Query": "verbs.query",
    "Recognizer": "recognition",
    "SavedModel": "objects",
    "SearchOptions": "verbs.query",
    "Searcher": "verbs.search",
    "add": "verbs.add",
    "align": "verbs.align",
    "compress": "verbs.compress",
    "decrypt": "verbs.seal",
    "drift": "verbs.drift",
    "encrypt": "verbs.seal",
    "estimate": "verbs.estimate",
    "evaluate": "verbs.evaluate",
    "explain": "verbs.explain",
    "export": "verbs.export",
    "federate": "verbs.federate",
    "feedback": "verbs.feedback",
    "finetune": "verbs.finetune",
    "fit": "verbs.fit",
    "labels": "verbs.feedback",
    "learn": "verbs.learn",
    "load": "objects",
    "make_key": "serving.keys",
    "open": "objects",
    "predict": "verbs.predict",
    "reembed": "verbs.add",
    "remove": "verbs.remove",
    "revert": "verbs.learn",
    "search": "verbs.search",
    "serve": "serving.run",
    "statistics": "verbs.align",
    "status": "verbs.status",
}

__all__ = [*_MODULES]  # noqa: PLE0604  one table


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'chiasm' has no attribute {name!r}; it has {', '.join(_MODULES)}")
    return getattr(import_module(f"chiasm.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*_MODULES]
