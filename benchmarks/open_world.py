"""Can the probabilities, the sets and the alarms be believed? And what is lost when classes are added later?

Stamp categories without `symbols`, classes of at least 10 items, image and caption, two thirds for training (10 seeds),
and 5 shots a class. Coverage is of sets that may be empty, as the promise is made, and of those that never are, as
`predict` gives them. Unknown items are those of a class that was left out, each in turn.
"""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from benchmarks import record
from benchmarks.corpora import Pairs, classes, embedded_names, modality_arrays, offline_space, pairs, say
from chiasm.evaluation.metrics import probability_metrics
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.modalities import Subset
from chiasm.splits import Split, few_shot_split, holdout_split

SEEDS = range(10)
RATES = (0.05, 0.10)
ADDED = 5


def main() -> None:
    data = classes(pairs("stamps"))
    space = offline_space()
    arrays, names = modality_arrays(data, space), embedded_names(data, space)
    protocols = {
        "two thirds": [holdout_split(1 / 3, y=data.categories, seed=seed) for seed in SEEDS],
        "5 shots": [few_shot_split(data.categories, 5, seed=seed) for seed in SEEDS],
    }
    rows = [believed(name, data, arrays, names, splits) for name, splits in protocols.items()]
    body = [
        record.table(
            (
                "training", "accuracy", "ECE uncalibrated", "ECE", "90 % sets that may be empty: coverage",
                "never empty: coverage", "classes a set",
                *(f"false alarms at {rate:.0%}" for rate in RATES), "unknown found at 5 %", "at 10 %",
            ),
            rows,
        ),
        "",
        grown(data, arrays, protocols["two thirds"]),
    ]  # fmt: skip
    record.write("open_world", "Open world", "0 to 9", "\n".join(body))


def believed(
    name: str, data: Pairs, arrays: ModalityArrays, names: dict[str, np.ndarray], splits: list[Split]
) -> list[object]:
    values = []
    labels = np.unique(data.categories)
    for seed, split in enumerate(splits):
        train, test, truth = arrays.take(split.train), arrays.take(split.test), data.categories[split.test]
        model = Recognizer(adapter="linear", fusion="concat").fit(train, data.categories[split.train], names=names)
        said = model.recognise(test)
        both: Subset = ("image", "text")
        log = model.only_column_.outputs(test, both, np.arange(len(test)))
        raw = probability_metrics(truth, np.exp(log), labels.tolist()).ece
        calibrated = probability_metrics(truth, said.probabilities, labels.tolist()).ece
        place = (np.arange(len(truth)), np.searchsorted(labels, truth))
        may_be_empty = model.only_column_.sets[both].sets(said.probabilities, level=0.9, allow_empty=True)
        alarms = [model.recognise(test, false_alarm_rate=rate).unknown.mean() for rate in RATES]
        # One class in turn is unknown: a model without it looks at its items.
        stranger = labels[seed % len(labels)]
        kept = split.train[data.categories[split.train] != stranger]
        without = Recognizer(adapter="linear", fusion="concat").fit(
            arrays.take(kept), data.categories[kept], names={k: v for k, v in names.items() if k != stranger}
        )
        strange = arrays.take(split.test[truth == stranger])
        found = [without.recognise(strange, false_alarm_rate=rate).unknown.mean() for rate in RATES]
        values.append(
            [
                np.mean(said.values == truth), raw, calibrated, may_be_empty[place].mean(), said.sets[place].mean(),
                said.sets.sum(axis=1).mean(), *alarms, *found,
            ]
        )  # fmt: skip
        say(f"{name}: " + " ".join(f"{value:.3f}" for value in values[-1]))
    return [name, *(float(value) for value in np.mean(values, axis=0))]


def grown(data: Pairs, arrays: ModalityArrays, splits: list[Split]) -> str:
    """Five classes added to the other six, against a recogniser that learned all of them at once."""
    lost, new = [], []
    labels = np.unique(data.categories)
    for seed, split in enumerate(splits):
        later = np.random.default_rng(seed).permutation(labels)[:ADDED]
        train, test = split.train, split.test
        is_later = np.isin(data.categories[train], later)
        old, added = train[~is_later], train[is_later]

        def fit(rows: np.ndarray) -> Recognizer:
            model = Recognizer(adapter="linear", fusion="concat", unknown=None)
            return model.fit(arrays.take(rows), data.categories[rows])

        grown_model = fit(old).add_class(arrays.take(added), data.categories[added])
        retrained = fit(train)
        truth = data.categories[test]
        was_old = ~np.isin(truth, later)
        scores = [model.predict(arrays.take(test)) == truth for model in (grown_model, retrained)]
        lost.append(scores[1][was_old].mean() - scores[0][was_old].mean())
        new.append(scores[1][~was_old].mean() - scores[0][~was_old].mean())
    return (
        f"{ADDED} classes added to the other {len(labels) - ADDED} by `add_class`, two thirds for training: accuracy on old "
        f"classes {100 * np.mean(lost):.1f} points below retraining on everything (standard error "
        f"{100 * np.std(lost, ddof=1) / np.sqrt(len(lost)):.1f}), on the new ones {100 * np.mean(new):.1f} points below."
    )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        main()
