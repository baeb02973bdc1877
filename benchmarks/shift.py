"""A recogniser for a target without labels: emoji of another vendor, and stamps for emoji; and targets where that could hurt.

Pictures alone, as `chiasm fit --target` hands them to the recogniser, with the linear probe. Of two vendors each has the emoji
that the other has not; categories of at least 15. Emoji to stamps: four fifths of either, the emoji labelled with stamp
categories. Accuracy is that of the target's items, of classes that the source has. Harmful targets: only three classes; one
class and three sevenths as many others; a class that the source lacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from benchmarks import record
from benchmarks.corpora import Pairs, classes, embedded_names, modality_arrays, offline_space, pairs, say, take
from benchmarks.source import large, relabelled
from chiasm.evaluation.intervals import paired_difference
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.recognition.adaptation import Shares

PAIRS = (("google", "apple"), ("apple", "twitter"), ("google", "stamps"))
SEEDS, HARMFUL_SEEDS = range(5), range(3)
Harm = Literal["three classes", "one dominant class", "an unknown class"]
HARMS: tuple[Harm, ...] = ("three classes", "one dominant class", "an unknown class")
FEWEST = 20  # items of a class that may be the dominant or the unknown one
SPACE = offline_space()


def main() -> None:
    body = [
        record.table(
            ("source to target", "source alone", "with the target", "gain", "95 % interval", "worst", "chosen", "oracle"),
            [gain(*pair) for pair in PAIRS],
        ),
        "",
        "Oracle: the best of source alone and of rows moved with the source's shares and with the predicted ones, by the target's",
        "labels.",
        "",
        f"Targets where adapting could hurt ({len(HARMFUL_SEEDS)} seeds): gains of what was chosen, and of what was not allowed.",
        "",
        record.table(
            ("source to target", "the target has", "source alone", "chosen", "gain", "worst", "shares: same", "shares: other"),
            [harm(*pair, kind) for pair in PAIRS for kind in HARMS],
        ),
    ]  # fmt: skip
    record.write("shift", "A target without labels", "0 to 4; harmful targets 0 to 2", "\n".join(body))


# ---------------------------------------------------------------------------------------------------------------- cases


def case(source: str, target: str, seed: int, kind: Harm | None = None) -> tuple[Pairs, Pairs]:
    rng = np.random.default_rng([seed, 14])
    if target == "stamps":
        ours, theirs = (
            some(part, 0.8, rng) for part in (relabelled(pairs(f"emoji-{source}")), classes(pairs("stamps")))
        )
    else:
        ours, theirs = large(pairs(f"emoji-{source}")), large(pairs(f"emoji-{target}"))
        every = np.union1d(ours.ids, theirs.ids)
        half = rng.permutation(every)[: len(every) // 2]
        ours, theirs = take(ours, np.isin(ours.ids, half)), take(theirs, ~np.isin(theirs.ids, half))
    names = np.unique(ours.categories)
    theirs = take(theirs, np.isin(theirs.categories, names))
    frequent = [name for name in names if np.sum(theirs.categories == name) >= FEWEST]
    if kind == "three classes":
        theirs = take(theirs, np.isin(theirs.categories, rng.choice(names, 3, replace=False)))
    elif kind == "one dominant class":
        is_big = theirs.categories == rng.choice(frequent)
        others = rng.permutation(np.flatnonzero(~is_big))[: int(is_big.sum() * 3 / 7)]
        theirs = take(theirs, np.sort(np.concatenate([np.flatnonzero(is_big), others])))
    elif kind == "an unknown class":
        ours = take(ours, ours.categories != rng.choice(frequent))
    return ours, theirs


def some(data: Pairs, share: float, rng: np.random.Generator) -> Pairs:
    return take(data, np.sort(rng.permutation(len(data.ids))[: int(share * len(data.ids))]))


def images(data: Pairs) -> ModalityArrays:
    return modality_arrays(data, SPACE).only(("image",))


def fitted(source: Pairs, target: Pairs | None, *, shares: Shares = "auto") -> Recognizer:
    return Recognizer(adapter="linear", unknown=None, shares=shares).fit(
        images(source),
        source.categories,
        names=embedded_names(source, SPACE),
        domain=None if target is None else images(target),
    )


def accuracy(model: Recognizer, target: Pairs) -> float:
    known = take(target, np.isin(target.categories, model.classes_))
    return float(np.mean(model.predict(images(known)) == known.categories))


def way(model: Recognizer) -> str:
    assert model.details_.adaptation is not None
    return model.details_.adaptation.way


# --------------------------------------------------------------------------------------------------------------- tables


def gain(source: str, target: str) -> list[object]:
    alone, chosen, ways, best = [], [], [], []
    for seed in SEEDS:
        ours, theirs = case(source, target, seed)
        alone.append(accuracy(fitted(ours, None), theirs))
        model = fitted(ours, theirs)
        chosen.append(accuracy(model, theirs))
        ways.append(way(model))
        best.append(max(alone[-1], *told(ours, theirs)))
        say(f"{source} to {target}, {seed}: {alone[-1]:.3f} {chosen[-1]:.3f} {ways[-1]}, oracle {best[-1]:.3f}")
    difference = paired_difference(np.array(chosen), np.array(alone))
    interval = f"{difference.interval.low:+.3f} to {difference.interval.high:+.3f}"
    worst = float(np.min(np.subtract(chosen, alone)))
    means = [float(np.mean(values)) for values in (alone, chosen)]
    return [f"{source} to {target}", *means, f"{difference.mean:+.3f}", interval, f"{worst:+.3f}", counted(ways), float(np.mean(best))]  # fmt: skip


def told(ours: Pairs, theirs: Pairs) -> tuple[float, float]:
    same, other = (accuracy(fitted(ours, theirs, shares=shares), theirs) for shares in ("same", "other"))
    return same, other


def harm(source: str, target: str, kind: Harm) -> list[object]:
    alone, chosen, ways, answers = [], [], [], []
    for seed in HARMFUL_SEEDS:
        ours, theirs = case(source, target, seed, kind)
        alone.append(accuracy(fitted(ours, None), theirs))
        model = fitted(ours, theirs)
        chosen.append(accuracy(model, theirs))
        ways.append(way(model))
        answers.append(told(ours, theirs))
        say(f"{source} to {target}, {kind}, {seed}: {alone[-1]:.3f} {chosen[-1]:.3f} {ways[-1]}, told {answers[-1]}")
    gains = np.subtract(chosen, alone)
    same, other = (np.array(answers) - np.array(alone)[:, None]).mean(axis=0)
    return [
        f"{source} to {target}", kind, float(np.mean(alone)), counted(ways), f"{gains.mean():+.3f}", f"{gains.min():+.3f}",
        f"{same:+.3f}", f"{other:+.3f}",
    ]  # fmt: skip


def counted(words: Sequence[str]) -> str:
    return ", ".join(f"{word} {words.count(word)}x" for word in sorted(set(words)))


if __name__ == "__main__":
    main()
