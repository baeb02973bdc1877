"""Encrypted at rest: what searching a sealed collection of stamps costs, by the call and with a searcher that stays."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import benchmarks_folder, pairs
from chiasm.sealed import KEY, opened

QUERIES = ("a bird", "red flowers", "a ship at sea", "a train", "something to eat", "a dinosaur", "winter", "music")
ROUNDS = 5


def main() -> None:
    pairs("stamps")
    plain = benchmarks_folder() / "stamps"
    with tempfile.TemporaryDirectory() as folder:
        sealed, key = Path(folder, "stamps.sealed"), Path(folder, "key")
        begin = time.perf_counter()
        chiasm.encrypt(plain, out=sealed, new_key=key)
        seconds = time.perf_counter() - begin
        os.environ[KEY] = key.read_text()
        once = medians(lambda words: chiasm.search(plain, words), lambda words: chiasm.search(sealed, words))
        with opened(sealed) as memory:
            here, there = chiasm.Searcher(plain), chiasm.Searcher(memory)
            kept = medians(lambda words: chiasm.search(here, words), lambda words: chiasm.search(there, words))
        size = sealed.stat().st_size / 1e6
    rows = [
        [name, f"{1000 * plain:.0f}", f"{1000 * sealed:.0f}", f"{sealed / plain:.2f}"]
        for name, (plain, sealed) in (("a call, opened anew", once), ("a searcher that stays open", kept))
    ]
    columns = ("p50 of a search by words", "plain, ms", "sealed, ms", "ratio")
    body = record.table(columns, rows) + (
        f"\n\n{len(QUERIES) * ROUNDS} searches each, one of each kind in turn. The sealed file has {size:.1f} MB and is written in {seconds:.1f} s. "
        "Both searches are in this process; encoders are loaded before."
    )
    record.write("sealed", "Encrypted at rest", "none: nothing is drawn", body)


def medians(*searches: Callable[[str], object]) -> list[float]:
    """Seconds of each search, after one that is not counted."""
    times: list[list[float]] = [[] for _ in searches]
    for turn in range(ROUNDS + 1):
        for words in QUERIES:
            for search, own in zip(searches, times, strict=True):
                begin = time.perf_counter()
                search(words)
                if turn:
                    own.append(time.perf_counter() - begin)
    return [float(np.median(own)) for own in times]


if __name__ == "__main__":
    main()
