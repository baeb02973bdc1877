"""Search among a million vectors on one machine: how fast, how exact, how much memory, and while the gallery changes.

The vectors are generated: ten thousand centres in a hundred groups, rows around them that vary mostly in 24 directions
of their group, and noise in all 384. Queries are drawn the same way. Every method runs in a process of its own, so that
its peak memory is its own; all are given the same number of threads. Time is of one query at a time, in process.

`ROWS` in the environment sets another size, `METHODS` names the methods to run (commas between). FAISS and USearch are
compared where they are installed (`pip install faiss-cpu usearch`).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from benchmarks import record
from benchmarks.corpora import say

MILLION = 1_000_000
ROWS = int(os.environ.get("ROWS", MILLION))
DIM = 384
SEED = 0
QUERIES = 200
WARM = 20
K = 10
CHANGES = max(100, ROWS // 100)  # rows added, and rows deleted, while searching
THREADS = os.environ.get("OPENBLAS_NUM_THREADS", "1")

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

    def draw(self, out: Matrix) -> Matrix:
        """Fill with unit vectors."""
        for start in range(0, len(out), 20_000):
            part = out[start : start + 20_000]
            centre = self.rng.integers(0, len(self.centres), len(part))
            part[:] = self.centres[centre]
            along = 0.9 * self.rng.standard_normal((len(part), 24), dtype=np.float32)
            for group in np.unique(self.group[centre]):
                mine = self.group[centre] == group
                part[mine] += along[mine] @ self.bases[group]
            part += 0.3 * self.rng.standard_normal(part.shape, dtype=np.float32)
            part /= np.linalg.norm(part, axis=1, keepdims=True)
        return out


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Source(SEED)
        vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (ROWS, DIM))
        source.draw(vectors)
        vectors.flush()
        np.save(folder / "queries.npy", source.draw(np.empty((QUERIES, DIM), np.float32)))
        np.save(folder / "added.npy", source.draw(np.empty((CHANGES, DIM), np.float32)))
        del vectors
        say(f"{ROWS} vectors are written")
        rows = [
            [found.pop("method"), *(found.get(column, "") for column in COLUMNS)]
            for method in CHOSEN
            if (found := in_own_process(method, folder))
        ]
        meanwhile = in_own_process("changing", folder) if "approximate" in CHOSEN else None
    about = (
        f"{ROWS:,} x {DIM} float32 vectors ({ROWS * DIM * 4 / 1e9:.2f} GB), {QUERIES} queries, k = {K}, {THREADS} thread(s) "
        "of BLAS and of each library. Peak memory is of the whole process, with the vectors that a method is built from."
    )
    body = [
        about,
        "",
        record.table(("method", *COLUMNS.values()), rows),
    ]
    if meanwhile is not None:
        body += ["", f"Added to and deleted from while a thread searches: {meanwhile['text']}"]
    name, title, command = "index", "Search at scale on one machine", "python -m benchmarks.index"
    if ROWS != MILLION:
        name, title, command = f"index-{ROWS}", f"{title}: {ROWS:,} vectors", f"ROWS={ROWS} {command}"
    record.write(name, title, f"{SEED}", "\n".join(body), command=command)


COLUMNS = {
    "build": "build s",
    "memory": "peak GB",
    "p50": "p50 ms",
    "p95": "p95 ms",
    "ratio": "p50 / NumPy scan beside it",
    "recall": "recall@10",
    "note": "",
}


def in_own_process(method: str, folder: Path) -> dict[str, object]:
    """What a method gives, measured in a fresh interpreter; nothing where its library is not installed."""
    library = method.partition("-")[0]
    if library in {"faiss", "usearch"} and importlib.util.find_spec(library) is None:
        say(f"{library} is not installed: {method} is left out")
        return {}
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": THREADS, "OMP_NUM_THREADS": THREADS}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.index", "--method", method, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    say(str(found))
    return found


def measure(method: str, folder: Path) -> dict[str, object]:
    """Build, then ask one query at a time. The exact answer and the scan's time are found beside it."""
    vectors = np.load(folder / "vectors.npy")
    queries = np.load(folder / "queries.npy")
    if method == "changing":
        return changing(vectors, queries, folder)
    began = time.perf_counter()
    name, ask, note = METHODS[method](vectors, folder)
    build = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    def scan(query: Float[np.ndarray, " dim"]) -> Int[np.ndarray, " k"]:
        return bare(vectors, query)

    for query in queries[:WARM]:
        ask(query)
    times, scans, found = [], [], []
    for number, query in enumerate(queries):
        began = time.perf_counter()
        found.append(ask(query))
        times.append(time.perf_counter() - began)
        if number % 4 == 0:  # in turn, so that both see the same machine
            began = time.perf_counter()
            scan(query)
            scans.append(time.perf_counter() - began)
    answers = folder / "truth.npy"
    if not answers.exists():
        np.save(answers, np.array([scan(query) for query in queries]))
    truth = np.load(answers)
    p50 = float(np.percentile(times, 50))
    return {
        "method": name,
        "build": build,
        "memory": memory,
        "p50": p50 * 1e3,
        "p95": float(np.percentile(times, 95)) * 1e3,
        "ratio": p50 / float(np.percentile(scans, 50)),
        "recall": float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)])),
        "note": note,
    }


def bare(vectors: Matrix, query: Float[np.ndarray, " dim"]) -> Int[np.ndarray, " k"]:
    """What NumPy alone takes: one product, one partition."""
    scores = vectors @ query
    top = np.argpartition(scores, -K)[-K:]
    ordered: Int[np.ndarray, " k"] = top[np.argsort(-scores[top])]
    return ordered


Ask = Callable[[Float[np.ndarray, " dim"]], Int[np.ndarray, " k"]]


def numpy_scan(vectors: Matrix, _: Path) -> tuple[str, Ask, str]:
    return "NumPy: product and argpartition", lambda query: bare(vectors, query), ""


def exact(vectors: Matrix, _: Path) -> tuple[str, Ask, str]:
    from chiasm.retrieval.index import ExactIndex

    index = ExactIndex(vectors)
    return "chiasm exact, float32", lambda query: index.search(query[None], k=K).rows[0], ""


def exact_half(vectors: Matrix, folder: Path) -> tuple[str, Ask, str]:
    from chiasm.retrieval.index import ExactIndex

    path = folder / "half.npy"
    half = np.lib.format.open_memmap(path, "w+", np.float16, vectors.shape)
    for start in range(0, len(vectors), 20_000):
        half[start : start + 20_000] = vectors[start : start + 20_000]
    half.flush()
    index = ExactIndex(np.load(path, mmap_mode="r"))
    return "chiasm exact, float16 memory map", lambda query: index.search(query[None], k=K).rows[0], "half the file"


def approximate(vectors: Matrix, folder: Path) -> tuple[str, Ask, str]:
    from chiasm.retrieval.gallery import Index

    index = Index(folder / "index", space="benchmark", dim=DIM)
    index.add([str(row) for row in range(len(vectors))], vectors)
    index.build(divided=True)
    lists = index.divided
    assert lists is not None
    (folder / "lists.json").write_text(json.dumps([len(lists.centres), lists.probes]))
    note = f"{len(lists.centres)} lists, {lists.probes} read, recall said {lists.recall:.3f}; with ids, on disk"
    return "chiasm approximate", lambda query: index.search(query[None], k=K).rows[0], note


def faiss_flat(vectors: Matrix, _: Path) -> tuple[str, Ask, str]:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(int(THREADS))
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    return f"FAISS {faiss.__version__} flat", lambda query: index.search(query[None], K)[1][0], ""


def faiss_ivf(vectors: Matrix, folder: Path) -> tuple[str, Ask, str]:
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(int(THREADS))
    count, probes = json.loads((folder / "lists.json").read_text())
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, count, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    index.nprobe = probes
    note = f"{count} lists, {probes} read; in memory"
    return f"FAISS {faiss.__version__} IVF flat", lambda query: index.search(query[None], K)[1][0], note


def usearch_hnsw(vectors: Matrix, _: Path) -> tuple[str, Ask, str]:
    usearch = importlib.import_module("usearch")
    index = importlib.import_module("usearch.index").Index(ndim=DIM, metric="ip", dtype="f32")
    index.add(np.arange(len(vectors)), vectors, threads=int(THREADS))
    return (
        f"USearch {usearch.__version__} HNSW",
        lambda query: index.search(query, K, threads=int(THREADS)).keys.astype(np.int64),
        "defaults; in memory",
    )


METHODS = {
    "numpy": numpy_scan,
    "exact": exact,
    "exact-half": exact_half,
    "approximate": approximate,
    "faiss-flat": faiss_flat,
    "faiss-ivf": faiss_ivf,
    "usearch-hnsw": usearch_hnsw,
}
CHOSEN = os.environ["METHODS"].split(",") if "METHODS" in os.environ else [*METHODS]  # faiss-ivf needs approximate


def changing(vectors: Matrix, queries: Matrix, folder: Path) -> dict[str, object]:
    """Add rows and delete as many while a thread searches; then every row that was added or deleted is looked up."""
    from chiasm.retrieval.gallery import Index

    added = np.load(folder / "added.npy")
    began = time.perf_counter()
    index = Index.load(folder / "index", space="benchmark", dim=DIM)
    load = time.perf_counter() - began
    del vectors
    gone: set[str] = set()
    times: list[float] = []
    wrong = 0
    stop = threading.Event()

    def search() -> None:
        nonlocal wrong
        number = 0
        while not stop.is_set():
            before = frozenset(gone)
            began = time.perf_counter()
            found = index.search(queries[number % len(queries)][None], k=K)
            times.append(time.perf_counter() - began)
            wrong += sum(name in before for name in index.ids_of(found.rows[0])) + int((found.rows < 0).sum())
            number += 1

    thread = threading.Thread(target=search)
    thread.start()
    began = time.perf_counter()
    step = CHANGES // 20
    chosen = np.random.default_rng(SEED).choice(ROWS, CHANGES, replace=False)
    for start in range(0, CHANGES, step):
        index.add([f"new {row}" for row in range(start, min(start + step, CHANGES))], added[start : start + step])
        names = [str(row) for row in chosen[start : start + step]]
        index.delete(names)
        gone.update(names)
    changes = time.perf_counter() - began
    began = time.perf_counter()
    index.save()
    saving = time.perf_counter() - began
    stop.set()
    thread.join()

    again = Index.load(folder / "index", space="benchmark", dim=DIM)
    there = [
        again.ids_of(again.search(vector[None], k=1).rows[0])[0] == f"new {row}"
        for row, vector in enumerate(added[:1000])
    ]
    left = int((again.rows([str(row) for row in chosen]) >= 0).sum())
    after = []
    for query in queries:
        began = time.perf_counter()
        again.search(query[None], k=K)
        after.append(time.perf_counter() - began)
    return {
        "text": f"{CHANGES:,} rows added and {CHANGES:,} deleted in 20 steps each took {changes:.1f} s, saving {saving:.1f} s; "
        f"{len(times):,} searches meanwhile, p50 {np.percentile(times, 50) * 1e3:.1f} ms, p95 "
        f"{np.percentile(times, 95) * 1e3:.1f} ms, {wrong} with a deleted row or too few hits. Loaded again (the first "
        f"load took {load * 1e3:.0f} ms): {np.mean(there):.3f} of 1,000 added rows find themselves first, {left} deleted "
        f"rows are left, {len(again):,} rows in all, p50 {np.percentile(after, 50) * 1e3:.1f} ms."
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--method"]:
        sys.stdout.write(json.dumps(measure(sys.argv[2], Path(sys.argv[3]))) + "\n")
    else:
        main()
