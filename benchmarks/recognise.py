"""Stamp categories from images, captions and both: the recogniser against a tuned scikit-learn LogisticRegression.

Same features and folds for both, no names of classes. What is timed beside the peer is the linear probe with the choice of
its strength, as the peer's C; the recogniser also fits the heads of every subset of the modalities, calibration, conformal
sets and the detector of unknown items. The peer's C is chosen by inner five-fold cross-validation (fewer where a class is
smaller) over nine values, rows scaled to unit length. (Standardised rows, which this benchmark gave it at first, cost the
peer 0.08 of macro-F1 at 5 shots.)
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.utils._testing import ignore_warnings

import chiasm
from benchmarks import record
from benchmarks.corpora import Pairs, classes, pairs, say, stamps_table
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.recognition.modalities import Features
from chiasm.splits import Split, few_shot_split, grouped_stratified_folds
from chiasm.types import Modality
from chiasm.vectors import unit_rows

SEEDS = range(10)
SUBSETS: tuple[tuple[Modality, ...], ...] = (("image",), ("text",), ("image", "text"))
GRID = {"C": np.logspace(-2, 6, 9)}


def main() -> None:
    data = classes(pairs("stamps"))
    body = [f"{len(data.image)} stamps, {len(set(data.categories))} classes.", ""]
    rows: list[list[object]] = []
    for protocol, splits in (("5 shots", list(few_shots(data))), ("3 folds", list(three_folds(data)))):
        for modalities in SUBSETS:
            arrays: dict[Modality, np.ndarray] = {name: getattr(data, name) for name in modalities}
            ours, peers, seconds = [], [], np.zeros(3)
            for split in splits:
                taken = ModalityArrays(arrays).take(split.train)
                features = Features.of(taken).rows(taken, modalities, np.arange(len(taken)))
                begin = time.perf_counter()
                LinearProbe().fit(features, data.categories[split.train])
                seconds[0] += time.perf_counter() - begin
                begin = time.perf_counter()
                model = Recognizer(adapter="linear", fusion="concat").fit(taken, data.categories[split.train])
                seconds[2] += time.perf_counter() - begin
                ours.append(macro_f1(data, split, model.predict({n: a[split.test] for n, a in arrays.items()})))
                stacked = np.hstack([unit_rows(a) for a in arrays.values()])
                begin = time.perf_counter()
                peer = tuned(data.categories[split.train]).fit(stacked[split.train], data.categories[split.train])
                seconds[1] += time.perf_counter() - begin
                peers.append(macro_f1(data, split, peer.predict(stacked[split.test])))
            difference = np.array(ours) - np.array(peers)
            error = difference.std(ddof=1) / np.sqrt(len(difference))
            seconds /= len(splits)
            rows.append(
                [
                    protocol,
                    " + ".join(modalities),
                    float(np.mean(ours)),
                    float(np.mean(peers)),
                    float(difference.mean()),
                    float(error),
                    float(seconds[0]),
                    float(seconds[1]),
                    f"{seconds[1] / seconds[0]:.0f}x",
                    float(seconds[2]),
                ]
            )
            say(str(rows[-1]))
    body.append(
        record.table(
            (
                "protocol",
                "modalities",
                "macro-F1 chiasm",
                "macro-F1 LogisticRegression",
                "difference",
                "standard error of it",
                "fit s LinearProbe",
                "fit s LogisticRegression",
                "faster",
                "fit s Recognizer",
            ),
            rows,
        )
    )
    body += ["", whole_job(set(data.categories))]
    record.write("recognise", "Recognition", "5 shots: 0 to 9; folds: 0", "\n".join(body))


def few_shots(data: Pairs) -> Iterator[Split]:
    for seed in SEEDS:
        yield few_shot_split(data.categories, 5, seed=seed)


def three_folds(data: Pairs) -> Iterator[Split]:
    yield from grouped_stratified_folds(data.categories, 3, seed=0)


def tuned(labels: np.ndarray) -> GridSearchCV:
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    folds = StratifiedKFold(min(5, smallest), shuffle=True, random_state=0)
    return GridSearchCV(LogisticRegression(max_iter=2000), GRID, scoring="f1_macro", cv=folds)


def macro_f1(data: Pairs, split: Split, guesses: np.ndarray) -> float:
    return float(f1_score(data.categories[split.test], guesses, average="macro"))


def whole_job(categories: set[str]) -> str:
    """From files to an evaluated recogniser of these categories, nothing embedded before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = stamps_table(folder, categories=categories)
        begin = time.perf_counter()
        added = chiasm.add([table], to=folder / "collection")
        middle = time.perf_counter()
        report = chiasm.fit(folder / "collection", label="category", out=folder / "model")
        end = time.perf_counter()
    return (
        f"From files to an evaluated recogniser with no embedding stored: {end - begin:.1f} s, of which {middle - begin:.1f} s "
        f"to embed {added.encoded} images and captions and {end - middle:.1f} s to fit {report.items} items by "
        f"cross-validation (macro-F1 {report.metrics['f1_macro']:.3f})."
    )


if __name__ == "__main__":
    with ignore_warnings(category=ConvergenceWarning):
        main()
