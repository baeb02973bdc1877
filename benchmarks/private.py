"""A recogniser of emoji with differential privacy: accuracy at each epsilon, and what an attack learns about who was in.

Emoji of Google and Twitter, without categories of fewer than 10; two thirds are learned from, both vendors' pictures of an emoji on one side. The settings
of the mechanism were fixed on emoji of Facebook and on stamps (`chiasm.recognition.private`), which are not in here.

The attack is the likelihood ratio of Carlini et al. 2022 (arXiv:2112.03570): of each item the log-odds of its class by models that
had it and by models that had not; each model in turn is attacked by the others, at the threshold where both are as likely.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

import chiasm
from benchmarks import record
from benchmarks.corpora import emoji_table, read_rows, say, write_rows
from chiasm import encoders
from chiasm.privacy import Promise
from chiasm.recognition import Recognizer
from chiasm.recognition.private import fit_private
from chiasm.recognition.targets import parse_target
from chiasm.store.collection import Collection
from chiasm.verbs.dataset import Labelled, labelled_items
from chiasm.verbs.model import load_model
from chiasm.verbs.spaces import start_of

SEEDS, EPSILONS, ASKED = range(5), (1.0, 3.0, 8.0), (0.58, 0.68, 0.72)
SHADOWS = 24


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = emoji(folder)
        chiasm.add([write_rows(folder / "emoji.csv", rows)], to=folder / "collection")
        say("added")
        opened = Collection.open(folder / "collection")
        networks = encoders.resolve("offline")
        space = start_of(opened, networks)

        def items(where: str) -> Labelled:
            return labelled_items(opened, networks, space, ["category"], modalities=("image",), where=where, alike=2.0)

        body = []
        for epsilon, asked in [*zip(EPSILONS, ASKED, strict=True), (None, None)]:
            scores = []
            for seed in SEEDS:
                chiasm.fit(
                    folder / "collection", label="category", out=folder / f"{epsilon}-{seed}", modalities=["image"],
                    where=f"split{seed} = 'train'", epsilon=epsilon,
                )  # fmt: skip
                test = items(f"split{seed} = 'test'")
                recognizer = load_model(folder / f"{epsilon}-{seed}").recognizer
                scores.append(float((recognizer.predict(test.arrays) == test.labels).mean()))
            body.append([epsilon or "none", np.mean(scores), np.std(scores) / np.sqrt(len(scores) - 1), asked or ""])
            say(f"epsilon {epsilon}: {np.mean(scores):.3f}")
        (spent,) = chiasm.status(folder / "collection").private
        attacked = [[kind or "none", *attack(items("vendor = 'google'"), kind)] for kind in (8.0, None)]
    accuracy = record.table(("epsilon", "accuracy, mean of 5 seeds", "standard error", "asked"), body)
    advantage = record.table(("epsilon", "true less false positives", "standard error over models"), attacked)
    text = (
        f"{len(rows)} emoji of 9 categories, pictures alone, delta 1e-5. The ledger afterwards: {spent}.\n\n{accuracy}\n\nMembership "
        f"inference, {SHADOWS} models of halves of Google's emoji; asked for is less than 0.02 at epsilon 8.\n\n{advantage}"
    )
    record.write("private", "Differential privacy", "splits: 0 to 4; halves: 0; the noise has none", text)


def emoji(folder: Path) -> list[dict[str, str]]:
    """Rows of two vendors, with a column for the split of each seed."""
    rows = [
        {**row, "id": f"{vendor}/{row['id']}", "emoji": row["text"], "vendor": vendor, "text": ""}
        for vendor in ("google", "twitter")
        for row in read_rows(emoji_table(vendor, folder))
    ]
    counts = Counter(row["category"] for row in rows)
    rows = [row for row in rows if counts[row["category"]] >= 20]
    names = sorted({row["emoji"] for row in rows})
    for seed in SEEDS:
        order = np.random.default_rng(seed).permutation(len(names))
        train = {names[one] for one in order[: 2 * len(names) // 3]}
        for row in rows:
            row[f"split{seed}"] = "train" if row["emoji"] in train else "test"
    return rows


def attack(data: Labelled, epsilon: float | None) -> tuple[float, float]:
    """Return the mean advantage over the models, and its standard error."""
    rng = np.random.default_rng(0)
    inside = np.zeros((SHADOWS, len(data.ids)), dtype=bool)
    scores = np.empty((SHADOWS, len(data.ids)))
    target = parse_target(data.labels, column="category")
    for shadow in range(SHADOWS):
        inside[shadow, rng.permutation(len(data.ids))[: len(data.ids) // 2]] = True
        rows = np.flatnonzero(inside[shadow])
        own = target.take(rows)
        if epsilon is None:
            model = Recognizer(adapter="linear").fit(data.arrays.take(rows), own)
        else:
            model = fit_private(data.arrays.take(rows), own, rows, Promise(epsilon))
        chance = np.clip(model.predict_proba(data.arrays)[np.arange(len(data.ids)), target.values], 1e-12, 1 - 1e-12)
        scores[shadow] = np.log(chance) - np.log1p(-chance)
        say(f"attack, epsilon {epsilon}: model {shadow + 1} of {SHADOWS}")
    found = [advantage(scores, inside, shadow) for shadow in range(SHADOWS)]
    return float(np.mean(found)), float(np.std(found) / np.sqrt(SHADOWS - 1))


def advantage(
    scores: Float[np.ndarray, "models items"], inside: Bool[np.ndarray, "models items"], victim: int
) -> float:
    """True less false positives for one model, attacked by the others."""
    others = np.arange(len(scores)) != victim
    known, has = scores[others], inside[others]
    means = [np.nanmean(np.where(which, known, np.nan), axis=0) for which in (has, ~has)]
    spread = np.nanstd(known - np.where(has, means[0], means[1]))  # of all items: few models make no variance for each
    ratio = ((scores[victim] - means[1]) ** 2 - (scores[victim] - means[0]) ** 2) / spread**2
    said = ratio > 0
    return float(said[inside[victim]].mean() - said[~inside[victim]].mean())


if __name__ == "__main__":
    main()
