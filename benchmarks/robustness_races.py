"""Tests that wait, kill, race or count time, again and again, while other work keeps every core busy.

A process of pytest runs the tests of one file ten times: most of a process's time is imports. What was run stands in a log, a line a
process, and the same command goes on with it until every file has had its rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from benchmarks import record

ROOT = Path(__file__).parents[1]
ROUNDS = 50
TOGETHER = 10  # rounds of a process
CORES = len(os.sched_getaffinity(0))
PYTEST = (sys.executable, "-m", "pytest", "-m", "race", "-q", "-o", "addopts=", "-p", "no:cacheprovider")
LOOP = "import os\nos.nice(10)\nwhile True: pass"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores at work, as long as the block lasts."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def files() -> list[str]:
    """Return the test files that hold such tests."""
    command = [*PYTEST, "--collect-only", "tests"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({line.partition("::")[0] for line in listed.splitlines() if "::" in line})


def run(file: str, rounds: int) -> dict[str, Any]:
    """Run such tests of a file so many times, and return how they ended."""
    with tempfile.TemporaryDirectory(prefix="chiasm-races-") as folder:
        report = Path(folder, "report.xml")
        command = [*PYTEST, "--keep-duplicates", *[file] * rounds, f"--junitxml={report}", f"--basetemp={folder}/tests"]
        printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
        cases = [*ET.parse(report).iter("testcase")] if report.exists() else []  # written by pytest, a line above
    ends = [(case.get("name"), {part.tag for part in case}) for case in cases]
    wrong = [name for name, tags in ends if tags & {"failure", "error"}]
    skipped = sum("skipped" in tags for _, tags in ends)
    end = {
        "file": file,
        "rounds": rounds,
        "passed": len(ends) - len(wrong) - skipped,
        "skipped": skipped,
        "wrong": wrong,
    }
    return {**end, "load": os.getloadavg()[0], **({} if ends and not wrong else {"printed": printed[-20_000:]})}


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir(), "chiasm-races.jsonl"))
    parser.add_argument("--processes", type=int, default=CORES)
    parser.add_argument("--loops", type=int, default=CORES, help="that keep cores busy where nothing else does")
    asked, sys.argv[1:] = parser.parse_known_args()
    log: Path = asked.log
    log.touch()
    runs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    done: Counter[str] = Counter()
    for one in runs:
        done[one["file"]] += one["rounds"]
    every = files()
    lock = Lock()

    def one_more(file: str, rounds: int) -> None:
        end = run(file, rounds)
        with lock, log.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(end) + "\n")
            runs.append(end)

    with busy(asked.loops), ThreadPoolExecutor(asked.processes) as pool:
        starts = range(0, asked.rounds, TOGETHER)
        left = [
            (file, min(TOGETHER, asked.rounds - start)) for start in starts for file in every if done[file] <= start
        ]
        for _ in pool.map(lambda one: one_more(*one), left):
            pass
    rows: list[tuple[Any, ...]] = []
    for file in every:
        own = [one for one in runs if one["file"] == file]
        passed, skipped = (sum(one[name] for one in own) for name in ("passed", "skipped"))
        wrong = sum(len(one["wrong"]) for one in own)
        rounds = sum(one["rounds"] for one in own)
        without = sum(not (one["passed"] or one["wrong"] or one["skipped"]) for one in own)
        rows.append((Path(file).name, rounds, passed + wrong, passed, wrong, without, skipped))
    rows.append(("all", min(row[1] for row in rows), *(sum(row[place] for row in rows) for place in range(2, 7))))
    loads = sorted(one["load"] for one in runs)
    body = record.table(("file", "rounds", "runs of a test", "passed", "failed", "without an end", "skipped"), rows)
    body += f"\n\nProcesses that wanted one of the cores meanwhile (load): {loads[0]:.0f} to {loads[-1]:.0f}, "
    body += f"in the middle {loads[len(loads) // 2]:.0f}.\n"
    names = Counter(f"{Path(one['file']).name}::{name}" for one in runs for name in one["wrong"])
    body += "".join(f"\n- failed: {name}, {count}" for name, count in names.items())
    record.write(
        "robustness_races", "Tests of races on a busy machine", "none", body,
        command="python -m benchmarks.robustness races",
    )  # fmt: skip


if __name__ == "__main__":
    main()
