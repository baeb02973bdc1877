"""Processor and wall seconds of `align` with a source, on a machine that is idle and on one whose cores are all busy.

400 captioned stamps learn with 800 emoji as source, by the default method. Every run is a process of its own, imports and the
reading of the collections included. The rows without a limit show what `chiasm.cores.limit_threads` saves.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import chiasm
from benchmarks import record
from benchmarks.corpora import benchmarks_folder, emoji_table, say, stamps_table
from chiasm.cores import usable_cores

PAIRS, SOURCE = 400, 800
RUNS = 3
WARM_UP = 60  # seconds of load before a busy run: as long as the average that `free_cores` reads

_RUN = """
import json, sys, time
import chiasm
from chiasm import cores
mine, source, limited = sys.argv[1], sys.argv[2], sys.argv[3] == "limited"
if not limited:
    cores.free_cores = cores.usable_cores
wall, processor = time.perf_counter(), time.process_time()
report = chiasm.align(mine, source=source)
seconds = [time.perf_counter() - wall, time.process_time() - processor]
print(json.dumps([*seconds, report.after["text_to_image"]["hit@10"], report.after["image_to_text"]["hit@10"]]))
"""


def main() -> None:
    folder = benchmarks_folder()
    mine = collection(stamps_table(folder), folder / f"stamps-{PAIRS}", PAIRS)
    source = collection(emoji_table("google", folder), folder / f"emoji-{SOURCE}", SOURCE)
    rows: list[list[object]] = []
    for busy in (False, True):
        with load(usable_cores() if busy else 0):
            for threads in ("limited", "unlimited"):
                runs = [align(mine, source, threads) for _ in range(RUNS)]
                wall, processor, *hits = (median(column) for column in zip(*runs, strict=True))
                machine = "every core busy" if busy else "idle"
                rows.append([machine, threads, f"{wall:.1f}", f"{processor:.1f}", *hits])
                say(f"{rows[-1]}")
    columns = (
        "machine",
        "threads",
        "wall seconds",
        "processor seconds",
        "text-to-image hit@10",
        "image-to-text hit@10",
    )
    body = f"{PAIRS} stamps, {SOURCE} emoji as source, {usable_cores()} cores; median of {RUNS} runs.\n\n"
    record.write("align_cost", "Cost of align", "held-out groups 0", body + record.table(columns, rows))


def collection(manifest: Path, folder: Path, count: int) -> Path:
    """The first captioned items of a manifest as a collection, embedded once."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["text"] and row["category"] != "symbols"][:count]
    part = folder.with_suffix(".csv")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    chiasm.add([part], to=folder)
    return folder


def align(mine: Path, source: Path, threads: str) -> list[float]:
    """Wall seconds, processor seconds and both hit rates of one run."""
    command = [sys.executable, "-c", _RUN, str(mine), str(source), threads]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(value) for value in json.loads(output.splitlines()[-1])]


@contextmanager
def load(processes: int) -> Iterator[None]:
    """That many processes that do nothing but run, for long enough that the load average knows of them."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        time.sleep(WARM_UP if spinning else 0)
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
