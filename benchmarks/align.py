"""Alignment methods on the Tux Paint stamps, with and without emoji as source: what is found, and how long a fit takes.

Five folds by caption: the same caption is never on both sides. Maps, and the scores that `PairScores` chooses, are learned
from the training folds, the scores from vectors placed without their own group. The test fold asks, and it is the
gallery. hit@10 counts any item of the same caption.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from benchmarks import record
from benchmarks.corpora import offline_space, pairs, pictures, say
from benchmarks.transfer import VENDORS
from chiasm.alignment.closed_form import METHODS, make_alignment
from chiasm.alignment.pairs import PairArrays
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.retrieval.scores import HeldOut, PairScores
from chiasm.splits import Split, group_folds

SEED = 0
FOLDS = 5
DIRECTIONS = ("text-to-image", "image-to-text")
Hits = tuple[float, float]  # of `DIRECTIONS`


@dataclass(frozen=True)
class Outcome:
    """One fit, and what is found by it in the fold that it did not see."""

    seconds: float
    plain: Hits
    corrected: Hits


def main() -> None:
    target, source = stamps(), emoji()
    folds = group_folds(target.codes, FOLDS, seed=SEED)
    bridge = np.mean([hits(target.take(fold.test), target.start[fold.test]) for fold in folds], axis=0)
    rows: list[list[object]] = [["bridge, no pairs", "", *map(float, bridge), *[""] * 5]]
    verdicts = []
    for method in METHODS:
        for shown, given in (("none", None), ("emoji", source)):
            outcomes = [measure(method, target, fold, given) for fold in folds]
            plain, corrected = (np.array([getattr(one, kind) for one in outcomes]) for kind in ("plain", "corrected"))
            columns = [column for values in (plain, corrected) for column in (*values.mean(axis=0), error(values))]
            seconds = f"{np.median([outcome.seconds for outcome in outcomes]):.1f}"
            rows.append([method, shown, *map(float, columns), seconds])
            say(f"{rows[-1]}")
            for direction, gains in zip(DIRECTIONS, (corrected - plain).T, strict=True):
                verdict = "below plain" if gains.mean() < 0 else "not below plain"
                verdicts.append([method, shown, direction, float(gains.mean()), error(gains[:, None]), verdict])
    columns_of = [f"{direction}{kind}" for kind in ("", ", chosen scores") for direction in (*DIRECTIONS, "error")]
    body = [
        f"{len(target.X)} captioned stamps without symbols, {len(source.X)} emoji pairs ({', '.join(VENDORS)}) as source.",
        "hit@10 by plain cosine, and by the scores chosen on the training folds. Error: standard error over folds of the",
        "mean of both directions. Seconds: median of a fit, all choices within.",
        "",
        record.table(("method", "source", *columns_of, "seconds"), rows),
        "",
        "Chosen scores (hubness correction, centring) against plain cosine, mean over folds:",
        "",
        record.table(("method", "source", "direction", "difference", "standard error", "chosen scores are"), verdicts),
    ]
    record.write("align", "Alignment methods", f"folds {SEED}", "\n".join(body))


def measure(method: str, target: PairArrays, fold: Split, source: PairArrays | None) -> Outcome:
    train, test, codes = target.take(fold.train), target.take(fold.test), target.codes
    began = time.perf_counter()
    fit = make_alignment(method).fit(train, source)
    seconds = time.perf_counter() - began
    crossed = fit.cross_fitted
    placed = fit.transform(test.X, test.start)
    corrected = []
    learned = codes[fold.train]
    for asked, searched, queries, gallery in ((train.Y, crossed, test.Y, placed), (crossed, train.Y, placed, test.Y)):
        known = HeldOut(asked, learned, searched, learned)
        pair = PairScores.fit(searched, asked, gallery_owners=learned, bank_owners=learned, pairs=known)
        scores = pair.prepared.queries(queries) @ pair.prepared.rows(gallery, codes[fold.test]).T
        corrected.append(hit_rate(scores, test))
    return Outcome(seconds, hits(test, placed), (corrected[0], corrected[1]))


def hits(test: PairArrays, placed: Float[np.ndarray, "n dim"]) -> Hits:
    scores = test.Y @ placed.T
    return hit_rate(scores, test), hit_rate(scores.T, test)


def hit_rate(scores: Float[np.ndarray, "n n"], test: PairArrays) -> float:
    return retrieval_metrics(scores, test.codes[:, None] == test.codes).as_dict()["hit@10"]


def error(values: Float[np.ndarray, "folds directions"]) -> float:
    """Standard error of the mean of both directions, over folds."""
    return float(values.mean(axis=1).std(ddof=1) / np.sqrt(len(values)))


def stamps() -> PairArrays:
    data = pictures(pairs("stamps"))
    return _placed(data.image, data.text, data.captions)


def emoji() -> PairArrays:
    parts = [pairs(f"emoji-{vendor}") for vendor in VENDORS]
    return _placed(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("image", "text", "captions")))


def _placed(image: np.ndarray, text: np.ndarray, captions: np.ndarray) -> PairArrays:
    space = offline_space()
    start = space.start("image", image)
    return PairArrays(space.features("image", image, start), space.start("text", text), start, captions)


if __name__ == "__main__":
    main()
