"""Few labels: every rung of the ladder at 1, 2, 5 and 10 shots, the recogniser that chooses, and a tuned peer.

Stamp categories without `symbols`, classes of at least 10 items, image and caption. The names of the classes count as
one more shot. The peer is scikit-learn's LogisticRegression on the same embeddings side by side, each scaled to unit length,
C by inner five-fold cross-validation (fewer where a class is smaller; C = 100 at one shot, where there is none).
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from benchmarks import record
from benchmarks.corpora import Pairs, classes, embedded_names, modality_arrays, offline_space, pairs, say
from benchmarks.recognise import tuned
from chiasm.evaluation.intervals import paired_difference
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions
from chiasm.recognition.heads import RUNGS
from chiasm.recognition.ladder import Task, deal_folds, fit_rung, why_not
from chiasm.recognition.modalities import Features, Subset
from chiasm.splits import Shots, Split, few_shot_split, grouped_stratified_folds
from chiasm.vectors import unit_rows

SEEDS = range(10)
BOTH: Subset = ("image", "text")


def main() -> None:
    data = classes(pairs("stamps"))
    space = offline_space()
    arrays, names = modality_arrays(data, space), embedded_names(data, space)
    body = [f"{len(data.image)} stamps, {len(names)} classes, image and caption, macro-F1 on the rest.", ""]
    rows: list[list[object]] = []
    for shots in (1, 2, 5, 10):
        splits = [few_shot_split(data.categories, shots, seed=seed) for seed in SEEDS]
        rows.append(protocol(f"{shots} shots", data, arrays, names, splits))
    rows.append(protocol("3 folds", data, arrays, names, list(grouped_stratified_folds(data.categories, 3, seed=0))))
    columns = (
        "protocol", *RUNGS, "auto", "LogisticRegression", "linear - LogisticRegression", "95 % interval",
        "auto - LogisticRegression", "95 % interval", "auto: image alone", "auto: caption alone", "s a fit (auto)", "auto took",
    )  # fmt: skip
    body += [record.table(columns, rows), "", missing(data, arrays, names)]
    record.write("few_shot", "Few labels", "5 shots and others: 0 to 9; folds: 0", "\n".join(body))


def protocol(
    name: str, data: Pairs, arrays: ModalityArrays, names: dict[str, np.ndarray], splits: list[Split]
) -> list[object]:
    labels, known = np.unique(data.categories), data.categories
    codes = np.searchsorted(labels, known)
    scores: dict[str, list[float]] = {}
    seconds, took = [], []
    stacked = np.hstack([unit_rows(data.image), unit_rows(data.text)])
    for split in splits:
        train, test = split.train, split.test
        features = Features.of(arrays.take(train))
        rows = features.rows(arrays, BOTH, np.arange(len(codes)))
        anchors = Shots(features.anchors(np.stack([names[label] for label in labels]), BOTH), np.arange(len(labels)))
        fold_of = deal_folds(codes[train], 5, seed=0, groups=None, always_known=np.arange(len(labels)))
        task = Task(rows[train], codes[train], fold_of, anchors=anchors)
        for rung in RUNGS:
            if not why_not(rung, task):
                head = fit_rung(rung, task, len(labels), RungOptions()).head
                guesses = head.log_probabilities(rows[test], len(labels)).argmax(axis=1)
                scores.setdefault(rung, []).append(macro_f1(codes[test], guesses))
        begin = time.perf_counter()
        model = Recognizer().fit(arrays.take(train), known[train], names=names)
        seconds.append(time.perf_counter() - begin)
        took.append(f"{model.details_.rung}/{model.details_.fusion}")
        scores.setdefault("auto", []).append(macro_f1(known[test], model.predict(arrays.take(test))))
        for modality in BOTH:
            single: Subset = (modality,)
            alone = arrays.only(single)
            one = Recognizer(unknown=None).fit(alone.take(train), known[train], names=names)
            scores.setdefault(modality, []).append(macro_f1(known[test], one.predict(alone.take(test))))
        smallest = int(np.unique(known[train], return_counts=True)[1].min())
        peer = tuned(known[train]) if smallest > 1 else LogisticRegression(C=100, max_iter=2000)
        scores.setdefault("peer", []).append(
            macro_f1(known[test], peer.fit(stacked[train], known[train]).predict(stacked[test]))
        )
        say(f"{name}: " + ", ".join(f"{key} {values[-1]:.3f}" for key, values in scores.items()))
    mean = {key: float(np.mean(values)) for key, values in scores.items()}
    row: list[object] = [name, *(mean.get(rung, "-") for rung in RUNGS), mean["auto"], mean["peer"]]
    for key in ("linear", "auto"):
        difference = paired_difference(np.array(scores[key]), np.array(scores["peer"]))
        row += [difference.mean, f"{difference.interval.low:.3f} to {difference.interval.high:.3f}"]
    counts = {one: took.count(one) for one in sorted(set(took))}
    row += [mean["image"], mean["text"], float(np.mean(seconds)), ", ".join(f"{one} {n}x" for one, n in counts.items())]
    return row


def missing(data: Pairs, arrays: ModalityArrays, names: dict[str, np.ndarray]) -> str:
    """The caption missing in half of the test items, against the mix of the two matching models."""
    differences = []
    for seed in SEEDS:
        split = few_shot_split(data.categories, 5, seed=seed)
        train, test = split.train, split.test
        known = data.categories
        lost = np.random.default_rng(seed).permutation(len(test)) < len(test) // 2
        taken = arrays.take(test)
        holes = ModalityArrays(taken.vectors, {**taken.present, "text": ~lost}, taken.shared)
        model = Recognizer(unknown=None).fit(arrays.take(train), known[train], names=names)
        ours = macro_f1(known[test], model.predict(holes))
        image = Recognizer(unknown=None).fit(arrays.only(("image",)).take(train), known[train], names=names)
        mixed = np.where(lost, image.predict(taken.only(("image",))), model.predict(taken))
        differences.append(ours - macro_f1(known[test], mixed))
    return (
        "Caption missing in half of the test items, 5 shots: macro-F1 less that of the mix of the two matching models "
        f"{np.mean(differences):+.3f} (smallest {min(differences):+.3f}, largest {max(differences):+.3f}, 10 seeds)."
    )


def macro_f1(truth: np.ndarray, guesses: np.ndarray) -> float:
    return float(f1_score(truth, guesses, average="macro"))


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        main()
