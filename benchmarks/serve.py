"""The server on the captioned stamps: searches over HTTP beside the same searches in process, waiting times, endurance.

The server runs in a process of its own, on the same cores as its clients. Searches in process and over HTTP take turns,
and the best round of each counts, since the machine may be shared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.corpora import benchmarks_folder, pairs, say
from chiasm.client import Client, ServerError
from chiasm.demo import stamps_root
from chiasm.types import Text
from chiasm.verbs.query import Query
from chiasm.verbs.search import Searcher

CLIENTS = 16
ROUNDS = 3
HALF_LOAD_SECONDS = 30.0
SERVER = "import sys; from chiasm.serving.run import serve; serve(sys.argv[1], port=0, model=sys.argv[2] or None, roots=sys.argv[3:])"


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--minutes", type=float, default=10.0, help="of mixed load")
    asked, rest = parser.parse_known_args()
    sys.argv[1:] = rest  # the others are the record's
    texts = pairs("stamps").captions.tolist()
    folder = benchmarks_folder() / "stamps"
    searcher = Searcher(folder)
    in_process(searcher, texts[:CLIENTS])
    with served(folder, roots=[str(stamps_root(say))]) as (url, process, seconds):
        rates: dict[str, list[float]] = {"in process, batches of 16": [], "over HTTP, 16 clients": []}
        over_http(url, texts[:200])
        for _ in range(ROUNDS):
            rates["in process, batches of 16"].append(in_process(searcher, texts))
            rates["over HTTP, 16 clients"].append(over_http(url, texts))
            say(str({name: round(rate[-1], 1) for name, rate in rates.items()}))
        best = {name: max(values) for name, values in rates.items()}
        bare, http = best.values()
        waits = half_load(url, texts, http / 2)
        p50, p95 = np.percentile(waits, [50, 95])
        counts, growth, peak = mixed(url, texts, searcher, process.pid, asked.minutes * 60)
    errors = sum(number for name, number in counts.items() if name not in {"ok", "429"})
    rows: list[list[object]] = [
        ["text searches a second, in process, batches of 16", f"{bare:.0f}", ""],
        ["text searches a second, over HTTP, 16 clients", f"{http:.0f}", ""],
        ["over HTTP / in process", f"{http / bare:.2f}", "0.7 or more"],
        ["p50 at half load, ms", f"{p50 * 1000:.1f}", ""],
        ["p95 at half load, ms", f"{p95 * 1000:.1f}", ""],
        ["p95 / p50 at half load", f"{p95 / p50:.2f}", "under 5"],
        [f"mixed load at saturation, {asked.minutes:g} minutes: answers", counts["ok"], ""],
        ["answers 429", counts["429"], ""],
        ["other errors", errors, "0"],
        ["growth of memory after warm-up", f"{growth:+.1%} (peak {peak:.0f} MB)", "under 5 %"],
        ["start to ready, s", f"{seconds:.1f}", "under 5"],
    ]
    if errors:
        say(f"errors: {dict(counts)}")
    record.write("serve", "Serving", "arrivals and mix: 0", record.table(("what", "measured", "asked"), rows))


@contextmanager
def served(
    folder: Path, *, model: Path | None = None, roots: Sequence[str] = (), setup: str = ""
) -> Iterator[tuple[str, subprocess.Popen[bytes], float]]:
    """A server in a process of its own: its URL, the process and the seconds from its start until it was ready.

    Args:
        folder: the collection.
        model: to recognise with.
        roots: folders whose files are given away, where these are not those that the collection records.
        setup: statements that the process runs first.
    """
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as log:
        begin = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", setup + SERVER, str(folder), str(model or ""), *roots], stderr=log
        ) as process:
            try:
                url = wait_for(lambda: url_in(Path(log.name)))
                with Client(url, retries=0) as client:
                    wait_for(client.is_ready)
                yield url, process, time.perf_counter() - begin
            finally:
                process.terminate()


def url_in(log: Path) -> str:
    """Where the server listens, once its log says so."""
    for line in log.read_text(encoding="utf-8").splitlines():
        if '"listening"' in line:
            return str(json.loads(line)["url"])
    return ""


def wait_for(ask: Callable[[], Any], *, most: float = 60.0) -> Any:
    end = time.monotonic() + most
    while not (found := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"the server was not ready within {most:g} s")
        time.sleep(0.02)
    return found


def in_process(searcher: Searcher, texts: Sequence[str]) -> float:
    """Searches a second, embedded in batches of as many as there are clients."""
    begin = time.perf_counter()
    for start in range(0, len(texts), CLIENTS):
        media = [Text(text) for text in texts[start : start + CLIENTS]]
        for medium, vector in zip(media, searcher.prepare(media), strict=True):
            searcher.search(Query((medium,), vectors=vector[None]))
    return len(texts) / (time.perf_counter() - begin)


def over_http(url: str, texts: Sequence[str]) -> float:
    """Searches a second of clients that each ask as soon as they are answered."""

    def ask(number: int) -> None:
        with Client(url, retries=0) as client:
            for text in texts[number::CLIENTS]:
                client.search(text)

    begin = time.perf_counter()
    together([partial(ask, number) for number in range(CLIENTS)])
    return len(texts) / (time.perf_counter() - begin)


def half_load(url: str, texts: Sequence[str], rate: float) -> list[float]:
    """Seconds from when each search was due, at random times of a given rate, until it was answered."""
    rng = np.random.default_rng(0)
    due = np.cumsum(rng.exponential(1 / rate, size=int(rate * HALF_LOAD_SECONDS)))
    waits: list[float] = []
    begin = time.perf_counter() + 0.1
    places = iter(range(len(due)))
    lock = threading.Lock()

    def ask() -> None:
        with Client(url, retries=0) as client:
            while True:
                with lock:
                    place = next(places, None)
                if place is None:
                    return
                time.sleep(max(0.0, begin + due[place] - time.perf_counter()))
                client.search(texts[place % len(texts)])
                waits.append(time.perf_counter() - begin - due[place])

    together([ask] * (2 * CLIENTS))
    return waits


def mixed(
    url: str, texts: Sequence[str], searcher: Searcher, pid: int, seconds: float
) -> tuple[Counter[str], float, float]:
    """Everything at once, as fast as it goes: answers by what became of them, growth of memory and its peak in MB.

    Memory is the server's resident set: the mean of the last tenth of the time against that of the second tenth, by
    which everything has been used.
    """
    rows = [row for row in searcher.collection.items()[:200] if row["image"]]
    files = [Path(row["image"][0]).read_bytes() for row in rows]
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    begin = time.monotonic()

    def ask(number: int) -> None:
        rng = np.random.default_rng([0, number])
        with Client(url, retries=0) as client:
            while time.monotonic() - begin < seconds:
                kind, place = rng.random(), int(rng.integers(len(rows)))
                try:
                    result = one(client, kind, place)
                except ServerError as error:
                    result = str(error.status)
                with lock:
                    counts[result] += 1
                if result == "429":
                    time.sleep(0.05)

    def one(client: Client, kind: float, place: int) -> str:
        if kind < 0.6:
            client.search(texts[place], k=20)
        elif kind < 0.75:
            client.search(image=files[place])
        elif kind < 0.8:
            client.embed(texts[place], image=files[place])
        elif kind < 0.85:
            client.search(like=[str(rows[place]["id"])])
        elif kind < 0.95:
            client.file(str(rows[place]["id"]), "image")
        elif kind < 0.97:
            client.item(str(rows[place]["id"]))
        elif kind < 0.98:
            client.status()
        else:
            try:
                client.search(image=b"\x89PNG\r\n\x1a\n no picture")
            except ServerError as error:
                return "ok" if error.status == 422 else str(error.status)
            return "a broken picture was taken"
        return "ok"

    sizes: list[tuple[float, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(min(1.0, seconds / 100)):
            sizes.append(((time.monotonic() - begin) / seconds, resident(pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    together([partial(ask, number) for number in range(6 * CLIENTS)])
    done.set()
    watcher.join()
    early = np.mean([size for at, size in sizes if 0.1 <= at < 0.2])
    late = np.mean([size for at, size in sizes if 0.9 <= at < 1.0])
    return counts, float(late / early - 1), max(size for _, size in sizes)


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"the server {pid} is gone")


def together(tasks: Sequence[Callable[[], None]]) -> None:
    """Run in threads; the first error of any of them is raised."""
    errors: list[BaseException] = []

    def run(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001  # raised again below, in the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


if __name__ == "__main__":
    main()
