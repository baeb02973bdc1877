"""What all benchmarks share: where results go and what they say about how they came about."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def machine() -> str:
    """Processor, cores and versions, in one line."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = names[0] if names else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores, Python {platform.python_version()}, {platform.system()}"


def commit() -> str:
    """The commit that was measured, marked where the tree had changes."""
    here = Path(__file__).parent
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
    )
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", "chiasm"], cwd=here.parent, capture_output=True, text=True, check=True
    )
    return revision.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def timed(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> tuple[float, float]:
    """Run a command in a folder; return its seconds by the wall clock and of the processor. What it prints is no result."""
    begin, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=sys.stderr)
    seconds, after = time.perf_counter() - begin, os.times()
    return seconds, sum(after[2:4]) - sum(before[2:4])  # of children, user and system


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; floats with three digits."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row) + " |" for row in rows]
    return "\n".join(lines)


def write(name: str, title: str, seeds: str, body: str, *, command: str | None = None) -> None:
    """Print a section; with `--write` on the command line also put it into RESULTS.md, in the place of the last one.

    Args:
        name: of the section.
        title: its heading.
        seeds: that the numbers are of.
        body: Markdown.
        command: what to run for it, without `--write`. Default: the module of that name.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--write", action="store_true", help="replace this benchmark's section in RESULTS.md")
    wanted = parser.parse_args().write
    header = (
        f"Command: `{command or f'python -m benchmarks.{name}'} --write`; commit {commit()}; {datetime.now(UTC):%Y-%m-%d}; "
        f"seeds: {seeds}; {machine()}"
    )
    section = f"<!-- {name} -->\n## {title}\n\n{header}\n\n{body}\n<!-- /{name} -->\n"
    sys.stdout.write(section)
    if wanted:
        text = RESULTS.read_text(encoding="utf-8")
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->\n"
        if begin in text:
            text = text[: text.index(begin)] + section + text[text.index(end) + len(end) :]
        else:
            text = text.rstrip("\n") + "\n\n" + section
        RESULTS.write_text(text, encoding="utf-8")
