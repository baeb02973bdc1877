"""Answer a spoken question from a table of frequently asked ones, or say that nobody has asked it before.

    python examples/voice_faq.py faq.csv question.wav

The table has the columns `text` (a question as people write it; several rows may have one answer) and `answer`. Speech goes
through its transcript, so it takes the extra `speech` and a Whisper model (docs/encoders.md).
"""
# ruff: noqa: T201

from __future__ import annotations

import sys
from pathlib import Path

import chiasm
from chiasm.verbs.query import Hit, Query, SearchOptions
from chiasm.verbs.search import Searcher

LEAST = 0.35  # cosine of question and question below which nobody has asked it: look at some of yours to set it


def main(faq: str | Path, question: str | Path, collection: str | Path = "faq.chiasm") -> list[Hit]:
    """The answers to the questions that come nearest, best first; none where none is near."""
    chiasm.add([faq], to=collection)
    searcher = Searcher(collection)
    spoken = searcher.open(question)
    found = searcher.search(Query(plus=(spoken,)), SearchOptions(modality="text", k=10))

    answers: dict[str, Hit] = {}
    for hit in found.hits:
        if hit.score >= LEAST:
            answers.setdefault(str(hit.metadata["answer"]), hit)
    if not answers:
        print(f"No answer. The nearest question is {found.hits[0].text!r} ({found.hits[0].score:.2f}).")
    for answer, hit in list(answers.items())[:3]:
        print(f"{hit.score:.2f}  {hit.text}\n      {answer}")
    return list(answers.values())


if __name__ == "__main__":
    main(*sys.argv[1:])
