"""Search a folder of photos by words, then for more like the best of them that are not all the same.

    python examples/photo_search.py PHOTOS "a red circle"

Photos with a caption (`bird.jpg` beside `bird.txt`) teach the search what your words mean: with ten of them or more it is
aligned to them, and says how probable each hit is. Run it again at any time: only new photos are embedded.
"""
# ruff: noqa: T201

from __future__ import annotations

import sys
from pathlib import Path

import chiasm
from chiasm.errors import SpaceError
from chiasm.verbs.query import SearchResult


def show(title: str, result: SearchResult) -> None:
    """One line a hit."""
    print(f"\n{title}" + ("  (nothing fits well)" if result.found is False else ""))
    for hit in result.hits:
        sure = "" if hit.probability is None else f"  {hit.probability:.0%}"
        print(f"  {hit.score:.2f}{sure}  {hit.path}")


def main(photos: str | Path, words: str, collection: str | Path = "photos.chiasm") -> tuple[SearchResult, SearchResult]:
    """Add what is new, search by words, and go on from the best hit."""
    added = chiasm.add([photos], to=collection)
    print(", ".join(f"{count} {outcome}" for outcome, count in added.counts.items()))
    if added.encoded:
        try:
            learned = chiasm.align(collection, pairs=("image", "text"))
            print(f"learned from {learned.pairs} captions")
        except SpaceError as reason:  # too few captions: the search works without
            print(f"not aligned: {reason}")
    found = chiasm.search(collection, words, modality="image", k=5)
    show(words, found)
    more = chiasm.search(collection, like=found.hits[0].id, modality="image", k=5, diversity=0.3)
    show(f"like {found.hits[0].id}", more)
    return found, more


if __name__ == "__main__":
    main(*sys.argv[1:])
