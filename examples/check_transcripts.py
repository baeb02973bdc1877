"""Check short recordings against the texts that they should say: which differ, and which are swapped.

    python examples/check_transcripts.py prompts.csv

The table has the columns `id`, `audio` (the recording) and `text` (what it should say). A recording is transcribed once,
when it is added (the extra `speech`, docs/encoders.md). Words tell whether it differs; the text that is nearest in meaning
tells a recording of something else from one in which a word was misheard.
"""
# ruff: noqa: T201

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import chiasm
from chiasm.types import Text
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.search import Searcher

ALIKE = 0.8  # share of the words that agree, from which a recording is taken for right


@dataclass(frozen=True)
class Doubt:
    """A recording that does not say what it should."""

    agreement: float
    item: str
    text: str
    heard: str  # empty: there is no recording, or there are no words in it
    says: str  # the item whose text is nearest to what was heard


def main(prompts: str | Path, collection: str | Path = "prompts.chiasm") -> list[Doubt]:
    """The doubtful recordings, worst first."""
    chiasm.add([prompts], to=collection)
    searcher = Searcher(collection)
    doubts = []
    for row in searcher.items(limit=100_000, where="text IS NOT NULL"):
        item, text = str(row["id"]), row["text"][0]
        where = "id = '{}'".format(item.replace("'", "''"))
        own = searcher.search(Query(plus=(Text(text),)), SearchOptions(modality="audio", where=where, k=1)).hits
        heard = (own[0].text or "") if own else ""
        agreement = SequenceMatcher(a=re.findall(r"\w+", text.lower()), b=re.findall(r"\w+", heard.lower())).ratio()
        if agreement < ALIKE:
            said = (
                searcher.search(Query(plus=(Text(heard),)), SearchOptions(modality="text", k=1)).hits[0].id
                if heard
                else ""
            )
            doubts.append(Doubt(agreement, item, text, heard, said))
    doubts.sort(key=lambda doubt: doubt.agreement)
    for doubt in doubts:
        print(f"{doubt.agreement:.0%}  {doubt.item}: {doubt.text!r}, heard {doubt.heard!r} (text of {doubt.says})")
    return doubts


if __name__ == "__main__":
    main(*sys.argv[1:])
