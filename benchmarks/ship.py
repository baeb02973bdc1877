"""A recogniser of the stamps as one file: how large it is, what it needs, how soon and how fast it answers, and whether as the
full model does.

A third of the items is held out. What runs the file is an environment of its own, with numpy, onnxruntime, Pillow and
tokenizers as PyPI has them today.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

import chiasm
from benchmarks import record
from benchmarks.corpora import read_rows, say, stamps_table, write_rows
from benchmarks.install import packages_of, sizes_of
from chiasm.demo import SMALLEST_CLASS
from chiasm.evaluation.intervals import bootstrap_error
from chiasm.predict_script import Bundle, Item
from chiasm.splits import grouped_stratified_folds

NEEDS = ("numpy", "onnxruntime", "pillow", "tokenizers")
ROUNDS, STARTS = 3, 7


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        learned, test = fitted(folder)
        files = {form: folder / f"{form}.chiasm" for form in ("fp32", "fp16", "int8")}
        for form, path in files.items():
            chiasm.export(folder / "model", out=path, int8=form == "int8", fp16=form == "fp16")
        table = write_rows(folder / "test.csv", test)
        body = [answers(folder / "model", files, table, [row["category"] for row in test])]
        say("answers compared")
        python, needs = environment(folder / "venv")
        body += ["", speed(files, test), "", start(files, python, test), "", needs]
    body += [
        "",
        f"{learned} items learned from, {len(test)} held out, both with picture and caption; load {os.getloadavg()[0]:.1f}.",
    ]
    record.write("ship", "A recogniser as one file", "0", "\n".join(body))


def fitted(folder: Path) -> tuple[int, list[dict[str, str]]]:
    """Fit a model of two thirds of the stamps in a folder; return how many these are, and the others."""
    rows = [{**row, "audio": ""} for row in read_rows(stamps_table(folder))]
    counts = Counter(row["category"] for row in rows)
    rows = [row for row in rows if counts[row["category"]] >= SMALLEST_CLASS]
    split = grouped_stratified_folds([row["category"] for row in rows], 3, seed=0)[0]
    chiasm.add([write_rows(folder / "train.csv", [rows[row] for row in split.train])], to=folder / "train")
    chiasm.fit(folder / "train", label="category", out=folder / "model")
    say("fitted")
    return len(split.train), [rows[row] for row in split.test]


def answers(model: Path, files: dict[str, Path], table: Path, true: list[str]) -> str:
    """Labels of held-out items beside those of the full model, and macro-F1 beside its standard error."""
    said = {"the full model": labels(model, table)} | {form: labels(path, table) for form, path in files.items()}
    whole, truth = said["the full model"], np.array(true)
    error = bootstrap_error(lambda rows: macro_f1(truth[rows], whole[rows]), len(truth))
    body = []
    for form, own in said.items():
        size = f"{files[form].stat().st_size / 1e6:.1f}" if form in files else ""
        body.append(
            [
                form,
                size,
                f"{(own == whole).mean():.3f}",
                macro_f1(truth, own),
                macro_f1(truth, own) - macro_f1(truth, whole),
            ]
        )
    columns = ("", "size, MB", "labels as the full model's", "macro-F1", "difference")
    asked = f"Standard error of the full model's macro-F1 over items: {error:.3f}. Asked for: 30 MB with int8, 0.99 of the labels (fp32), one standard error (int8)."
    return record.table(columns, body) + f"\n\n{asked}"


def labels(model: Path, table: Path) -> np.ndarray:
    return np.array([one.label for one in chiasm.predict(model, [table]).predictions])


def macro_f1(true: np.ndarray, said: np.ndarray) -> float:
    return float(f1_score(true, said, average="macro", zero_division=0))


def speed(files: dict[str, Path], test: list[dict[str, str]]) -> str:
    """Items a second of the processor, files to answers, in turns."""
    items: list[Item] = [{"image": [Path(row["image"])], "text": [row["text"]]} for row in test]
    bundles = {form: Bundle(path) for form, path in files.items()}
    seconds: dict[str, list[float]] = {form: [] for form in files}
    for bundle in bundles.values():
        bundle.recognise(items[:4], 0.9, 0.05)
    for _ in range(ROUNDS):
        for form, bundle in bundles.items():
            before = time.process_time()
            bundle.recognise(items, 0.9, 0.05)
            seconds[form].append(time.process_time() - before)
    rates = {form: len(items) / float(np.median(own)) for form, own in seconds.items()}
    ratio = float(np.median(np.array(seconds["fp32"]) / np.array(seconds["int8"])))
    return (
        f"Items a second of one core, files to answers, median of {ROUNDS} turns: "
        f"{', '.join(f'{form} {rate:.1f}' for form, rate in rates.items())}; int8 {ratio:.2f} times as many as fp32 (asked for: 2)."
    )


def environment(folder: Path) -> tuple[Path, str]:
    """Return Python of a fresh environment with what the script needs, and a sentence on its size."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *NEEDS], check=True)
    sizes = sizes_of(packages_of(folder))
    without = sizes.total() - sizes["pip"] - sizes["setuptools"]
    largest = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sizes.most_common(5))
    return python, f"The environment: {without / 1e6:.0f} MB without pip (asked for: 250); largest, in MB: {largest}."


def start(files: dict[str, Path], python: Path, test: list[dict[str, str]]) -> str:
    """Seconds from the command to the first answer, of one item with both modalities."""
    with tempfile.TemporaryDirectory() as name:
        item = Path(name) / "item"
        item.with_suffix(".png").write_bytes(Path(test[0]["image"]).read_bytes())
        item.with_suffix(".txt").write_text(test[0]["text"], encoding="utf-8")
        rows = []
        for form, path in files.items():
            taken = []
            for _ in range(STARTS):
                begin, before = time.perf_counter(), os.times()
                done = subprocess.run([str(python), str(path), name], check=True, capture_output=True, text=True)
                seconds, after = time.perf_counter() - begin, os.times()
                taken.append((seconds, sum(after[2:4]) - sum(before[2:4])))
                assert json.loads(done.stdout)["modalities"] == ["image", "text"], done.stdout
            wall, cores = np.median(taken, axis=0)
            rows.append([form, f"{wall:.2f}", f"{min(one for one, _ in taken):.2f}", f"{cores:.2f}"])
    columns = ("`python stamps.chiasm FOLDER`", "median, s", "best, s", "of the processor, s")
    return (
        record.table(columns, rows)
        + f"\n\nIn the fresh environment, {STARTS} starts, the answer included (asked for: 0.7 s)."
    )


if __name__ == "__main__":
    main()
