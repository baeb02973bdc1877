"""A search from the command line in a process of its own, beside a bare process that imports the libraries it runs on.

The processes take turns. They find compiled modules, as an installed package does, whatever the environment says about
writing them. Processor seconds are shown beside the wall clock, since the machine may be shared.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import say, stamps_table

ROUNDS = 20
BARE = "import onnxruntime, lance"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chiasm.add([stamps_table(folder)], to=folder / "stamps")
        commands = {
            '`chiasm search COLLECTION "a red bird"`': ["-m", "chiasm.cli", "search", "stamps", "a red bird"],
            f'`python -c "{BARE}"`': ["-c", BARE],
            "`chiasm --version`": ["-m", "chiasm.cli", "--version"],
        }
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        rounds = [
            [record.timed([sys.executable, *command], environment, folder) for command in commands.values()]
            for _ in range(1 + ROUNDS)  # the first compiles
        ]
    seconds = np.array(rounds[1:])  # round, command, wall clock and processor
    best, middle = seconds.min(axis=0), np.median(seconds, axis=0)
    rows = [
        [words, *(f"{value:.2f}" for value in (*best[number], *middle[number])), f"{best[number, 1] / best[1, 1]:.2f}"]
        for number, words in enumerate(commands)
    ]
    say(f"{rows}")
    columns = ("process", "s, best", "of the processor", "s, median", "of the processor", "processor: this / bare")
    words = (
        f"Best and median of {ROUNDS} rounds; asked for: a search in under 0.8 s. Load of the machine meanwhile: "
        f"{os.getloadavg()[0]:.1f}. The bare process imports pandas, as Arrow does where it is installed."
    )
    record.write("cold", "Cold start", "none", f"{words}\n\n{record.table(columns, rows)}")


if __name__ == "__main__":
    main()
