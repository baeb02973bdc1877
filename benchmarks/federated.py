"""Several parties, one model: three vendors of emoji, the categories of pictures, by statistics alone and by masked sums.

A quarter of the emoji, the same of every vendor (by the last digit of their code), is held out of all statistics.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import chiasm
from benchmarks import record
from benchmarks.corpora import benchmarks_folder, pairs
from chiasm.verbs.model import load_model
from chiasm.verbs.pooled import label_statistics

VENDORS = ("google", "twitter", "apple")
HELD_OUT = " OR ".join(f"id LIKE '%{digit}'" for digit in "37BF")


def main() -> None:
    collections = [benchmarks_folder() / f"emoji-{vendor}" for vendor in VENDORS]
    for vendor in VENDORS:
        pairs(f"emoji-{vendor}")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), collections)


def write(folder: Path, collections: list[Path]) -> None:
    files = [folder / f"{vendor}.safetensors" for vendor in VENDORS]
    for collection, file in zip(collections, files, strict=True):
        chiasm.statistics(collection, label="category", modalities=["image"], where=f"NOT ({HELD_OUT})", out=file)
    rows: list[list[object]] = []
    for vendor, file in zip(VENDORS, files, strict=True):
        chiasm.fit(file, label="category", out=folder / vendor)
        rows.append([f"{vendor} alone", *accuracies(folder / vendor, collections), ""])
    chiasm.fit(files[0], label="category", source=files[1:], out=folder / "three")
    chiasm.fit(folder_of_sum(folder, files, VENDORS), label="category", out=folder / "masked")
    chiasm.fit(folder_of_sum(folder, files, VENDORS[:2]), label="category", out=folder / "dropped")
    chiasm.fit(files[0], label="category", source=files[1:2], out=folder / "two")
    parts = [label_statistics(one, "category", modalities=["image"], where=f"NOT ({HELD_OUT})") for one in collections]
    items = sum(part.sums.sums.count for part in parts)
    three, masked, dropped, two = (coefficients(folder / name) for name in ("three", "masked", "dropped", "two"))
    pooled = pooled_coefficients(collections)
    rows.append(["files of three", *accuracies(folder / "three", collections), distance(three, pooled)])
    rows.append(["masked sums of three", *accuracies(folder / "masked", collections), distance(masked, pooled)])
    rows.append(["masked, the third dropped out", *accuracies(folder / "dropped", collections), distance(dropped, two)])
    columns = ("model from", *(f"accuracy, {vendor}" for vendor in VENDORS), "largest difference")
    body = record.table(columns, rows) + (
        f"\n\nLargest difference of a weight, relative to the largest weight: from the head of all {items:,} items in one sum; where one "
        f"dropped out, from that of the files of the other two. A file of statistics has {files[0].stat().st_size / 1e6:.1f} MB."
    )
    record.write("federated", "Several parties, one model", "none: nothing is drawn", body)


def pooled_coefficients(collections: list[Path]) -> np.ndarray:
    """The head of all items, summed up at once."""
    from chiasm import encoders
    from chiasm.recognition.modalities import ModalityArrays
    from chiasm.recognition.pooled import LabelStatistics
    from chiasm.store.collection import Collection
    from chiasm.verbs.dataset import labelled_items
    from chiasm.verbs.spaces import start_of

    arrays: ModalityArrays | None = None
    labels: list[np.ndarray] = []
    for collection in collections:
        opened = Collection.open(collection)
        networks = encoders.resolve(opened.encoder)
        data = labelled_items(
            opened,
            networks,
            start_of(opened, networks),
            ["category"],
            modalities=["image"],
            where=f"NOT ({HELD_OUT})",
            alike=2,
        )
        arrays = data.arrays if arrays is None else arrays.joined(data.arrays)
        labels.append(data.labels)
    assert arrays is not None
    head = LabelStatistics.of("category", arrays, np.concatenate(labels)).recognizer().only_column_.heads[("image",)]
    return np.asarray(head.tensors["coef"])


def folder_of_sum(folder: Path, files: list[Path], kept: tuple[str, ...]) -> Path:
    """A round of secure aggregation, in which some parties stay; the file of their sum."""
    work = folder / f"round-{len(kept)}"
    work.mkdir()
    public = {vendor: work / f"{vendor}.json" for vendor in VENDORS}
    for vendor, file in zip(VENDORS, files, strict=True):
        chiasm.federate("keys", [file], key=work / f"{vendor}.key", out=public[vendor])
    sent = []
    for vendor, file in zip(VENDORS, files, strict=True):
        others = [public[other] for other in VENDORS if other != vendor]
        chiasm.federate("mask", [file, *others], key=work / f"{vendor}.key", out=work / f"{vendor}.masked")
        sent += [work / f"{vendor}.masked"] if vendor in kept else []
    for vendor in kept:
        names = [public[other] for other in kept]
        chiasm.federate("reveal", names, key=work / f"{vendor}.key", out=work / f"{vendor}.reveal")
        sent.append(work / f"{vendor}.reveal")
    chiasm.federate("sum", sent, out=work / "sum.safetensors")
    return work / "sum.safetensors"


def coefficients(model: Path) -> np.ndarray:
    return np.asarray(load_model(model).recognizer.only_column_.heads[("image",)].tensors["coef"])


def distance(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}"


def accuracies(model: Path, collections: list[Path]) -> list[float]:
    """Of the held-out emoji of each vendor."""
    return [float(chiasm.evaluate(model, one, where=HELD_OUT).metrics["accuracy"]) for one in collections]


if __name__ == "__main__":
    main()
