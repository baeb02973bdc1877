"""What `add --estimate` says of two corpora beside what `add` then takes, in one run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, say, stamps_table

ROUNDS = 3  # of the estimate and the run in turns; the median counts


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpora = {
            "stamps, pictures and captions (a table)": stamps_table(folder),
            "emoji, pictures and names (a table)": emoji_table("google", folder),
        }
        for corpus, source in corpora.items():
            ratios, sizes, last = [], [], None
            for number in range(ROUNDS):
                begin = time.perf_counter()
                cost = chiasm.estimate([source], seed=number)
                took = time.perf_counter() - begin
                target = folder / f"{corpus}{number}"
                begin = time.perf_counter()
                report = chiasm.add([source], to=target)
                seconds = time.perf_counter() - begin
                size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
                ratios.append(cost.seconds / seconds)
                sizes.append(cost.bytes / size)
                last = (cost, report, took, seconds)
                say(
                    f"{corpus}: {cost.seconds:.1f} s (standard error {cost.error:.1f}) estimated, {seconds:.1f} s taken"
                )
            assert last is not None
            cost, report, took, seconds = last
            rows.append(
                [
                    corpus, cost.files, cost.tried, f"{took:.1f}", f"{cost.seconds:.1f}", f"{cost.error:.1f}", f"{seconds:.1f}",
                    ", ".join(f"{ratio:.2f}" for ratio in ratios), f"{sorted(sizes)[ROUNDS // 2]:.2f}",
                ]
            )  # fmt: skip
    headers = (
        "corpus", "files", "tried", "estimating, s", "estimated, s", "standard error", "add, s", "estimated / add, each run",
        "bytes, estimated / on disk",
    )  # fmt: skip
    record.write("estimate", "What adding will cost", "samples: 0, 1, 2", record.table(headers, rows))


if __name__ == "__main__":
    main()
