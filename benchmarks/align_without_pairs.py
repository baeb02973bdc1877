"""Alignment for a collection without pairs: learned on emoji for stamps, and on half of the stamps for the other half.

Text and image of the target are placed by a map that was learned on the source alone, and compared by the preparation that the
source's pairs chose, as `chiasm align TARGET --source SOURCE` does; against the pairs of the target itself, each placed by a
map that was learned from all its other groups. hit@10 in galleries of a fifth (whole captions); any item of the same caption
counts. Halves are of whole captions, and the captions of the target half are not looked at.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from benchmarks import record
from benchmarks.align import DIRECTIONS, Hits, emoji, hits, stamps
from benchmarks.align import hit_rate as rate
from benchmarks.corpora import say
from chiasm.alignment.closed_form import make_alignment
from chiasm.alignment.pairs import PairArrays
from chiasm.retrieval.scores import HeldOut, PairScores
from chiasm.splits import group_folds, holdout_split

SEEDS = range(5)
FOLDS = 5


def main() -> None:
    target = stamps()
    rows = [row("emoji to stamps", emoji(), target)]
    for seed in SEEDS:
        half = holdout_split(0.5, groups=target.codes, seed=seed)
        rows.append(row(f"half of the stamps to the other, {seed}", target.take(half.train), target.take(half.test)))
    columns = ["case", "pairs of the source", "of the target"]
    for direction in DIRECTIONS:
        columns += [f"{direction}: start", "without pairs", "gain, standard error", "own pairs", "share of these"]
    record.write(
        "align_without_pairs",
        "Alignment without pairs of the target",
        "folds 0; halves 0 to 4",
        record.table(columns, rows),
    )


def row(name: str, source: PairArrays, target: PairArrays) -> list[object]:
    learned = make_alignment("kernel").fit(source)
    own = make_alignment("kernel").fit(target)
    placed = learned.transform(target.X, target.start)
    folds = [fold.test for fold in group_folds(target.codes, FOLDS, seed=0)]
    start = np.array([hits(target.take(fold), target.start[fold]) for fold in folds])
    without = np.array(corrected(placed, target, folds, source, learned.cross_fitted))
    best = np.array(corrected(own.cross_fitted, target, folds, target, own.cross_fitted))
    result: list[object] = [name, source.count, target.count]
    for side in range(2):
        gains = without[:, side] - start[:, side]
        error = gains.std(ddof=1) / np.sqrt(len(folds))
        means = [float(part[:, side].mean()) for part in (start, without, best)]
        result += [means[0], means[1], f"{gains.mean():+.3f}, {error:.3f}", means[2], f"{means[1] / means[2]:.2f}"]
    say(f"{result}")
    return result


def corrected(
    placed: Float[np.ndarray, "n dim"],
    target: PairArrays,
    folds: list[np.ndarray],
    taught: PairArrays,
    crossed: Float[np.ndarray, "m dim"],
) -> list[Hits]:
    """Hits in each fold, vectors compared as was best on the pairs of `taught`.

    Captions that ask are known from these pairs alone, pictures that ask from the target.
    """
    found = []
    sides = [(taught.Y, crossed, taught.Y, target.Y, placed), (crossed, taught.Y, placed, placed, target.Y)]
    fitted = []
    for asked, searched, bank, _, gallery in sides:
        pairs = HeldOut(asked, taught.codes, searched, taught.codes)
        preparation = PairScores.fit(searched, asked, pairs=pairs).choice.preparation
        fitted.append(PairScores.fit(gallery, bank, preparation=preparation))
    for fold in folds:
        both = []
        for one, (*_, queries, gallery) in zip(fitted, sides, strict=True):
            scores = one.prepared.queries(queries[fold]) @ one.prepared.rows(gallery[fold]).T
            both.append(rate(scores, target.take(fold)))
        found.append((both[0], both[1]))
    return found


if __name__ == "__main__":
    main()
