"""Search among many vectors through the searcher, as users do: how fast, how exact, how much memory.

A collection of a million items, one file each, a third of them pictures, texts and sounds, is written through the store's
own tables, without media. The vectors are generated: centres in a hundred groups, rows around them that vary mostly in 24
directions of their group, and noise in all 384. Queries are drawn the same way. Texts are words drawn by Zipf's law. Every
step runs in a process of its own, so that its peak memory is its own. The reference for recall is the same searcher with an
exact scan in the place of Lance's index. Time is of one query at a time, in process, with the query's vector at hand.

`ROWS` in the environment sets another size.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from benchmarks import record
from benchmarks.corpora import say
from chiasm import encoders
from chiasm.space import Space
from chiasm.store.collection import FILES, ITEMS, Collection, Vectors
from chiasm.store.index import ExactIndex
from chiasm.store.words import FullText
from chiasm.types import Modality, Text
from chiasm.verbs.query import Query, SearchOptions
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import SavedSpace, open_table, save_space

MILLION = 1_000_000
ROWS = int(os.environ.get("ROWS", MILLION))
DIM = 384
SEED = 0
QUERIES = 60
WARM = 10
K = 10
DELETED = 10_000
STEP = 50_000
KINDS: tuple[Modality, ...] = ("image", "text", "audio")
THREADS = os.environ.get("OPENBLAS_NUM_THREADS", "1")
ENCODER = "generated"

SEARCHES = {
    "no filter": SearchOptions(k=K),
    "modality (a third)": SearchOptions(k=K, modality="text"),
    "where price < 500 (half)": SearchOptions(k=K, where="price < 500"),
    "where price < 20 (1 in 50)": SearchOptions(k=K, where="price < 20"),
    "where price = 17 (1 in 1,000)": SearchOptions(k=K, where="price = 17"),
    "hybrid": SearchOptions(k=K, hybrid=True),
}
AFTER = f"no filter, after {DELETED:,} deletions"

Matrix = Float[np.ndarray, "rows dim"]


class Source:
    """Draws vectors, any number at a time."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        centres, groups = max(20, ROWS // 100), 100
        self.group = rng.integers(0, groups, centres)
        middle = rng.standard_normal((groups, DIM), dtype=np.float32)
        self.centres = middle[self.group] + 0.8 * rng.standard_normal((centres, DIM), dtype=np.float32)
        self.bases = rng.standard_normal((groups, 24, DIM), dtype=np.float32) / np.float32(24**0.5)
        self.rng = rng

    def draw(self, rows: int) -> Matrix:
        """Return unit vectors."""
        centre = self.rng.integers(0, len(self.centres), rows)
        vectors = self.centres[centre]
        along = 0.9 * self.rng.standard_normal((rows, 24), dtype=np.float32)
        for group in np.unique(self.group[centre]):
            mine = self.group[centre] == group
            vectors[mine] += along[mine] @ self.bases[group]
        vectors += 0.3 * self.rng.standard_normal(vectors.shape, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def sentence(self, words: int) -> str:
        """Return words, the n-th of them drawn about 1/n as often as the first."""
        return " ".join(f"word{number}" for number in np.minimum(self.rng.zipf(1.3, words), 20_000))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        built = in_own_process("build", folder)
        say(str(built))
        before = in_own_process("search", folder)
        exact = in_own_process("exact", folder)
        changed = in_own_process("delete", folder)
        after = in_own_process("search", folder)
        exact_after = in_own_process("exact", folder)
    rows = [row_of(name, before["searches"][name], exact["searches"][name]) for name in SEARCHES]
    rows.append(row_of(AFTER, after["searches"]["no filter"], exact_after["searches"]["no filter"]))
    body = (
        f"{ROWS:,} items with one vector of {DIM} dimensions each ({ROWS * DIM * 4 / 1e9:.2f} GB), {QUERIES} queries, "
        f"k = {K}, {THREADS} thread(s) of BLAS; load of the machine meanwhile {os.getloadavg()[2]:.1f}.\n\n"
        f"Written in {built['write']:.0f} s; placed and indexed in {built['index']:.0f} s (peak {built['memory']:.1f} GB), words "
        f"in {built['words']:.0f} s. The searcher opens and reads the index in {before['open']:.2f} s and has used {before['memory']:.2f} GB after "
        f"all searches (exact scan: {exact['memory']:.2f} GB). {DELETED:,} items are deleted in {changed['delete']:.1f} s, and "
        f"the searcher takes that over in {changed['refresh']:.1f} s.\n\n"
        + record.table(("search", "p50 ms", "p95 ms", "recall@10", "exact p50 ms"), rows)
    )
    title, command = "Search at scale on one machine", "python -m benchmarks.index"
    if ROWS == MILLION:
        record.write("index", title, f"{SEED}", body, command=command)
    else:
        record.write(f"index-{ROWS}", f"{title}: {ROWS:,} vectors", f"{SEED}", body, command=f"ROWS={ROWS} {command}")


def row_of(name: str, search: dict[str, Any], exact: dict[str, Any]) -> list[object]:
    recall = [
        len(set(hits) & set(right)) / len(right) for hits, right in zip(search["hits"], exact["hits"], strict=True)
    ]
    p50, p95 = (float(np.percentile(search["times"], share)) * 1e3 for share in (50, 95))
    return [name, p50, p95, float(np.mean(recall)), float(np.percentile(exact["times"], 50)) * 1e3]


def in_own_process(step: str, folder: Path) -> dict[str, Any]:
    """Return what a step gives in a fresh interpreter."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}
    command = [sys.executable, "-m", "benchmarks.index", "--step", step, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    say(f"{step}: { ({key: value for key, value in result.items() if key != 'searches'}) }")
    return result


def memory() -> float:
    """Peak of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def build(folder: Path) -> dict[str, Any]:
    """Write a collection, place its vectors in a space, index them and the words."""
    source, path = Source(SEED), folder / "collection"
    collection = Collection.create(path, encoder=ENCODER)
    began = time.perf_counter()
    for start in range(0, ROWS, STEP):
        add(collection, source, np.arange(start, min(start + STEP, ROWS)))
    queries = source.draw(QUERIES + WARM)
    np.save(folder / "queries.npy", queries)
    (folder / "words.json").write_text(json.dumps([source.sentence(3) for _ in queries]))
    tensors = {"centre": np.zeros(DIM, np.float32)}
    fingerprints = dict.fromkeys(KINDS, ENCODER)
    space = Space("generated", DIM, fingerprints, dict.fromkeys(KINDS, "identity"), tensors, created="2026-01-01")
    save_space(path / "spaces" / space.name, SavedSpace(space))
    written = time.perf_counter()
    open_table(collection, space)
    indexed, peak = time.perf_counter(), memory()
    FullText(collection).update()
    return {
        "write": written - began,
        "index": indexed - written,
        "memory": peak,
        "words": time.perf_counter() - indexed,
    }


def add(collection: Collection, source: Source, numbers: Int[np.ndarray, " rows"]) -> None:
    """Write items of some numbers, with a file and a vector each."""
    ids = [f"item-{number:07d}" for number in numbers.tolist()]
    kinds = [KINDS[number % len(KINDS)] for number in numbers.tolist()]
    values = [source.sentence(8) if kind == "text" else f"/files/{name}" for name, kind in zip(ids, kinds, strict=True)]
    count, slots = len(ids), tuple(f"{kind}/0" for kind in kinds)
    lists = {
        name: pa.array(
            [[value] if kind == name else None for kind, value in zip(kinds, values, strict=True)],
            ITEMS.field(name).type,
        )
        for name in ("image", "text", "audio", "video")
    }
    columns = {"id": ids, "_source": ["generated"] * count, **lists, "price": source.rng.integers(0, 1000, count)}
    files = {
        "item": ids,
        "slot": slots,
        "modality": kinds,
        "path": [None if kind == "text" else value for kind, value in zip(kinds, values, strict=True)],
        "size": [None] * count,
        "mtime_ns": [None] * count,
        "hash": ids,
        "encoder": [ENCODER] * count,
        "outcome": ["ok"] * count,
        "reason": [None] * count,
    }
    none, nan = (None,) * count, np.full(count, np.nan)
    vectors = Vectors(tuple(ids), slots, tuple(kinds), tuple(ids), none, source.draw(count), none, nan, nan)
    with collection.tables.writing():
        collection.tables.append(f"embeddings-{ENCODER}", vectors.as_table())
        collection.tables.append(collection.generation.files, pa.table(files, schema=FILES))
        collection.tables.append("items", pa.table(columns))


def search(folder: Path, *, exact: bool) -> dict[str, Any]:
    """Open the collection and ask one query at a time."""
    began = time.perf_counter()
    searcher = Searcher(folder / "collection", warm=True)  # as the server opens it
    opened = time.perf_counter() - began
    if exact:
        searcher._state = replace(searcher._state, index=ExactIndex(searcher._state.table))
    vectors = np.load(folder / "queries.npy")
    words = json.loads((folder / "words.json").read_text())
    queries = [Query((Text(text),), vectors=vector[None]) for text, vector in zip(words, vectors, strict=True)]
    searches = {}
    for name, options in SEARCHES.items():
        for query in queries[QUERIES:]:
            searcher.search(query, options)
        times, hits = [], []
        for query in queries[:QUERIES]:
            began = time.perf_counter()
            result = searcher.search(query, options)
            times.append(time.perf_counter() - began)
            hits.append([hit.id for hit in result.hits])
        searches[name] = {"times": times, "hits": hits}
    return {"open": opened, "memory": memory(), "searches": searches}


def delete(folder: Path) -> dict[str, Any]:
    """Delete items while a searcher is open, and let it see that."""
    searcher = Searcher(folder / "collection")
    gone = np.random.default_rng(SEED).choice(ROWS, DELETED, replace=False)
    began = time.perf_counter()
    Collection.open(folder / "collection").remove(f"item-{number:07d}" for number in gone.tolist())
    deleted = time.perf_counter()
    assert searcher.refresh()
    refreshed = time.perf_counter()
    FullText(searcher.collection).update()
    return {"delete": deleted - began, "refresh": refreshed - deleted}


def run(step: str, folder: Path) -> dict[str, Any]:
    encoders.resolve = lambda *_, **__: []  # type: ignore[assignment]  # queries come with their vectors
    if step == "build":
        return build(folder)
    return delete(folder) if step == "delete" else search(folder, exact=step == "exact")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        sys.stdout.write(json.dumps(run(sys.argv[2], Path(sys.argv[3]))) + "\n")
    else:
        main()
