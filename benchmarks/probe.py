"""The linear probe on 100,000 x 1,280 embeddings of 100 classes, its regularisation chosen by cross-validation.

The peer is scikit-learn's LogisticRegressionCV (lbfgs, its default precision and 100 iterations at most) on the same
rows, folds and grid, in the same run. The rows are planted: class means among correlated noise whose spectrum falls as
that of image embeddings does, in float32. Accuracy is on 20,000 other rows.

Memory is the peak of the process while fitting beyond what it held before, in multiples of the matrix.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV

from benchmarks import record
from benchmarks.corpora import say
from chiasm.recognition.linear_probe import LinearProbe
from chiasm.splits import deal

ROWS, DIM, CLASSES, HELD = 100_000, 1_280, 100, 20_000
FOLDS = 3
STRENGTHS = (1000.0, 100.0, 10.0, 1.0)


def main() -> None:
    if sys.argv[1:2] in (["chiasm"], ["peer"]):
        sys.stdout.write(" ".join(map(str, one(sys.argv[1]))))
        return
    results = {}
    for who in ("chiasm", "peer"):  # each in a process of its own, so that the peak of memory is its own
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.probe", who], capture_output=True, text=True, check=True
        )
        results[who] = [float(value) for value in done.stdout.split()]
        say(f"{who}: {results[who]}")
    rows = [[name, *results[who]] for who, name in (("chiasm", "chiasm LinearProbe"), ("peer", "LogisticRegressionCV"))]
    body = record.table(("what", "seconds", "accuracy", "strength chosen", "memory / matrix"), rows)
    ours, peer = results["chiasm"], results["peer"]
    body += (
        f"\n\n{ROWS:,} x {DIM:,} float32, {CLASSES} classes, {FOLDS} folds, strengths {STRENGTHS} (C = 1 / strength): "
        f"{peer[0] / ours[0]:.1f} times faster, accuracy {ours[1] - peer[1]:+.4f}."
    )
    record.write("probe", "Linear probe at scale", "0", body)


def one(who: str) -> list[float]:
    X, y = planted(ROWS, seed=0)
    held, truth = planted(HELD, seed=1)
    fold = deal(y, FOLDS, seed=0)
    cv = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(FOLDS)]
    before = peak()
    begin = time.perf_counter()
    if who == "chiasm":
        ours = LinearProbe(strengths=STRENGTHS, cv=cv).fit(X, y)
        seconds, accuracy, strength = time.perf_counter() - begin, ours.score(held, truth), ours.strength_
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", FutureWarning)
            peer = LogisticRegressionCV(Cs=[1 / s for s in STRENGTHS], cv=cv, solver="lbfgs").fit(X, y)
        seconds, accuracy = time.perf_counter() - begin, peer.score(held, truth)
        strength = 1 / float(np.ravel(peer.C_)[0])
    return [seconds, float(accuracy), float(strength), (peak() - before) / X.nbytes]


def planted(rows: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same classes for every seed, other rows."""
    world = np.random.default_rng(1234)
    spectrum = (1 + np.arange(DIM)) ** -0.5
    means = world.normal(size=(CLASSES, DIM)).astype(np.float32) * (0.15 * spectrum).astype(np.float32)
    mix = (world.normal(size=(DIM, DIM)) / np.sqrt(DIM)).astype(np.float32)
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=rows)
    X = np.empty((rows, DIM), np.float32)
    for first in range(0, rows, 4096):
        part = y[first : first + 4096]
        noise = rng.normal(size=(len(part), DIM)).astype(np.float32) * spectrum.astype(np.float32)
        X[first : first + 4096] = (means[part] + noise) @ mix
    return X, y


def peak() -> float:
    """Bytes that the process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
