"""A source beside the target: emoji of one vendor for those of another, and emoji for stamps, at 5 shots a class.

Vendor to vendor: pictures alone (the names are the same, so they would give the answer away), categories of at least 15.
Emoji to stamps: image and caption; the emoji are labelled by hand with stamp categories, by their subcategory.
The recogniser chooses the weight of the source on held-out target shots, and may refuse it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.metrics import f1_score

from benchmarks import record
from benchmarks.corpora import Pairs, classes, embedded_names, modality_arrays, offline_space, pairs, say, take
from chiasm.evaluation.intervals import paired_difference
from chiasm.recognition import ModalityArrays, Recognizer, SourceItems
from chiasm.recognition.modalities import Subset
from chiasm.splits import few_shot_split

SEEDS = range(10)
SHOTS = 5
AS_STAMPS = {
    "animals": "animal-",
    "food": "food-",
    "plants": "plant-",
    "vehicles": "transport-",
    "town": "place-",
    "clothes": "clothing",
    "household": "household",
    "sports": "sport",
    "seasonal": "event",
    "hobbies": "musical-instrument",
    "space": "sky & weather",
}
"""Stamp category -> how the subcategory of such emoji begins."""


def main() -> None:
    space = offline_space()
    rows: list[list[object]] = []
    for source, target in (("google", "apple"), ("apple", "twitter"), ("twitter", "google")):
        theirs, ours = (large(pairs(f"emoji-{vendor}")) for vendor in (source, target))
        given = SourceItems(modality_arrays(theirs, space).only(("image",)), theirs.categories)
        arrays = modality_arrays(ours, space).only(("image",))
        rows += [compare(f"{source} to {target} emoji, image", ours, arrays, given, embedded_names(ours, space))]
    stamps, emoji = classes(pairs("stamps")), relabelled(pairs("emoji-google"))
    sets: tuple[Subset, ...] = (("image", "text"), ("image",))
    for modalities in sets:
        rows.append(
            compare(
                f"google emoji to stamps, {' + '.join(modalities)}",
                stamps,
                modality_arrays(stamps, space).only(modalities),
                SourceItems(modality_arrays(emoji, space).only(modalities), emoji.categories),
                embedded_names(stamps, space),
            )
        )
    columns = (
        "source to target", "target alone", "with source", "difference", "95 % interval", "worst seed", "source alone",
        "alphas chosen",
    )  # fmt: skip
    body = record.table(columns, rows)
    gains = [float(row[3]) for row in rows]  # type: ignore[arg-type]  # the fourth column is a number
    body += f"\n\nMean of the differences: {np.mean(gains):+.3f}."
    record.write("source", f"Source beside target, {SHOTS} shots", "0 to 9", body)


def compare(
    name: str, target: Pairs, arrays: ModalityArrays, source: SourceItems, names: dict[str, np.ndarray]
) -> list[object]:
    alone, beside, alphas = [], [], []
    only_source = Recognizer(adapter="linear", unknown=None).fit(
        source.arrays,
        source.labels,
        names={label: names[label] for label in np.unique(np.asarray(source.labels)).tolist()},
    )
    for seed in SEEDS:
        split = few_shot_split(target.categories, SHOTS, seed=seed)
        train, test, truth = arrays.take(split.train), arrays.take(split.test), target.categories[split.test]
        scores = []
        for other in (None, source):
            model = Recognizer(unknown=None, random_state=seed).fit(
                train, target.categories[split.train], names=names, source=other
            )
            scores.append(float(f1_score(truth, model.predict(test), average="macro")))
        alone.append(scores[0])
        beside.append(scores[1])
        alphas.append(model.details_.alpha)
        say(f"{name}: {scores[0]:.3f} {scores[1]:.3f} alpha {alphas[-1]}")
    difference = paired_difference(np.array(beside), np.array(alone))
    source_alone = float(f1_score(truth, only_source.predict(test), average="macro"))
    return [
        name,
        float(np.mean(alone)),
        float(np.mean(beside)),
        difference.mean,
        f"{difference.interval.low:.3f} to {difference.interval.high:.3f}",
        float(np.min(np.array(beside) - np.array(alone))),
        source_alone,
        ", ".join(f"{alpha:g} {alphas.count(alpha)}x" for alpha in sorted(set(alphas))),
    ]


def large(data: Pairs) -> Pairs:
    """Categories of at least 15."""
    names, counts = np.unique(data.categories, return_counts=True)
    return take(data, np.isin(data.categories, names[counts >= 15]))


def relabelled(data: Pairs) -> Pairs:
    """Emoji of a stamp category, labelled with it."""
    labels = np.full(len(data.kinds), "", dtype="U20")
    for label, beginning in AS_STAMPS.items():
        labels[np.char.startswith(data.kinds.astype(str), beginning)] = label
    chosen = np.flatnonzero(labels != "")
    found = take(data, chosen)
    return replace(found, categories=labels[chosen])


if __name__ == "__main__":
    main()
