"""Five labels a class in the target, beside a source and the target's other items without labels; cases as of `benchmarks.shift`.

Accuracy is that of the target's other items, which are also those that are learned from without labels.
"""

from __future__ import annotations

import numpy as np

from benchmarks import record
from benchmarks.corpora import embedded_names, say, take
from benchmarks.shift import PAIRS, SEEDS, SPACE, accuracy, case, counted, fitted, images
from chiasm.recognition import Recognizer, SourceItems
from chiasm.splits import few_shot_split

SHOTS = 5


def main() -> None:
    columns = (
        "source to target", "labels alone", "source alone", "source, unlabelled target", "labels, source, unlabelled target",
        "worst against the best of them", "the source is used",
    )  # fmt: skip
    body = record.table(columns, [compare(*pair) for pair in PAIRS])
    record.write(
        "shift_labels", f"{SHOTS} labels a class in the target, a source, and the rest unlabelled", "0 to 4", body
    )


def compare(source: str, target: str) -> list[object]:
    scores: list[tuple[float, ...]] = []
    ways = []
    for seed in SEEDS:
        ours, theirs = case(source, target, seed)
        names = [name for name in np.unique(theirs.categories) if np.sum(theirs.categories == name) > SHOTS]
        theirs = take(theirs, np.isin(theirs.categories, names))
        ours = take(ours, np.isin(ours.categories, names))
        split = few_shot_split(theirs.categories, SHOTS, seed=seed)
        train, test = take(theirs, split.train), take(theirs, split.test)
        embedded = embedded_names(theirs, SPACE)
        labels, both = (
            Recognizer(adapter="linear", unknown=None, random_state=seed).fit(
                images(train), train.categories, names=embedded, source=other, unlabelled=images(test)
            )
            for other in (None, SourceItems(images(ours), ours.categories))
        )
        ways.append("moved" if "moved" in both.details_.source else "as it is" if both.details_.alpha else "refused")
        scores.append(tuple(accuracy(m, test) for m in (labels, fitted(ours, None), fitted(ours, theirs), both)))
        say(f"{source} to {target}, {SHOTS} labels, {seed}: {np.round(scores[-1], 3)} {ways[-1]}")
    worst = min(row[-1] - max(row[:-1]) for row in scores)
    return [f"{source} to {target}", *map(float, np.mean(scores, axis=0)), f"{worst:+.3f}", counted(ways)]


if __name__ == "__main__":
    main()
