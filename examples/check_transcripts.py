"""Check short recordings against the texts that they should say: which differ, and which are swapped.

    python examples/check_transcripts.py prompts.csv

The table has the columns `id`, `audio` (a recording) and `text` (what it should say). Needs the extra `speech`.
"""
# ruff: noqa: T201

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import chiasm
from chiasm.types import Text
from chiasm.verbs.query import Query, SearchOptions

ALIKE = 0.8  # share of the words that agree, from which a recording is taken for right


@dataclass(frozen=True)
class Doubt:
    """A recording that does not say what it should."""

    agreement: float
    item: str
    text: str
    heard: str  # empty: no recording, or no words in it
    says: str  # the item whose text is nearest to what was heard


def main(prompts: str | Path, collection: str | Path = "prompts.chiasm") -> list[Doubt]:
    """Return the doubtful recordings, worst first."""
    chiasm.add([prompts], to=collection)
    searcher = chiasm.Searcher(collection)

    def nearest(text: str, **options: Any) -> tuple[str, str]:
        hits = searcher.search(Query((Text(text),)), SearchOptions(k=1, **options)).hits
        return (hits[0].id, hits[0].text or "") if hits else ("", "")

    texts = {str(row["id"]): row["text"][0] for row in searcher.collection.items(where="text IS NOT NULL")}
    doubts = []
    for item, text in texts.items():
        heard = nearest(text, modality="audio", where="id = '{}'".format(item.replace("'", "''")))[1]
        agreement = SequenceMatcher(a=re.findall(r"\w+", text.lower()), b=re.findall(r"\w+", heard.lower())).ratio()
        if agreement < ALIKE:
            doubts.append(Doubt(agreement, item, text, heard, nearest(heard, modality="text")[0] if heard else ""))
    doubts.sort(key=lambda doubt: doubt.agreement)
    for doubt in doubts:
        print(f"{doubt.agreement:.0%}  {doubt.item}: {doubt.text!r}, heard {doubt.heard!r} (text of {doubt.says})")
    return doubts


if __name__ == "__main__":
    main(*sys.argv[1:])
