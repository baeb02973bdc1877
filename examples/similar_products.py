"""Shop by picture: what is like this, the same in another style, and what of another kind goes with it.

    python examples/similar_products.py products.csv shoe.jpg "in blue" "high heels"

The table lists products: columns `id`, `image`, `text` (the description), `kind`, and any others, such as the price. The
last argument, which may be left out, says what is not wanted.
"""
# ruff: noqa: T201

from __future__ import annotations

import sys
from pathlib import Path

import chiasm
from chiasm.types import Text
from chiasm.verbs.query import Query, SearchOptions, SearchResult
from chiasm.verbs.search import Searcher


def main(
    products: str | Path, picture: str | Path, wish: str, without: str = "", collection: str | Path = "shop.chiasm"
) -> dict[str, SearchResult]:
    """Three questions with one picture, which is embedded once."""
    chiasm.add([products], to=collection)
    searcher = Searcher(collection)
    seen = searcher.open(picture)
    minus = (Text(without),) if without else ()
    vectors = searcher.prepare([seen, Text(wish), *minus])

    similar = searcher.search(Query(plus=(seen,), vectors=vectors[:1]), SearchOptions(modality="image", k=5))
    kind = str(similar.hits[0].metadata["kind"]).replace("'", "''")
    wished = Query(plus=(seen, Text(wish)), minus=minus, vectors=vectors)
    found = {
        "similar": similar,
        "wished": searcher.search(wished, SearchOptions(where=f"kind = '{kind}'", k=5)),
        "goes with it": searcher.search(wished, SearchOptions(where=f"kind <> '{kind}'", k=5, diversity=0.3)),
    }
    for title, result in found.items():
        print(f"\n{title}")
        for hit in result.hits:
            print(f"  {hit.score:.2f}  {hit.metadata['kind']}: {hit.id}")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
