"""Alignment methods on the Tux Paint stamps, each with and without emoji as source: what is found, and how long it takes.

Five folds by caption: the same caption is never on both sides. All pairs of the training folds are learned from, the
test fold is the gallery. hit@10 counts any item of the same caption.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks import record
from benchmarks.corpora import offline_space, pairs, pictures, say
from benchmarks.transfer import FOLDS, VENDORS, hits
from chiasm.evaluation.splits import group_folds
from chiasm.transfer.alignment import PairArrays
from chiasm.transfer.alignment_choice import METHODS, make_alignment


def main() -> None:
    space = offline_space()
    emoji = [pairs(f"emoji-{vendor}") for vendor in VENDORS]
    image, text = (np.concatenate([getattr(part, name) for part in emoji]) for name in ("image", "text"))
    start = space.start("image", image)
    captions = np.concatenate([part.captions for part in emoji])
    source = PairArrays(space.features("image", image, start), space.start("text", text), start, captions)
    stamps = pictures(pairs("stamps"))
    begin = space.start("image", stamps.image)
    target = PairArrays(
        space.features("image", stamps.image, begin), space.start("text", stamps.text), begin, stamps.captions
    )
    folds = group_folds(target.codes, FOLDS, seed=0)

    bridge = np.mean([hits(target.Y[f.test], target.start[f.test], target.codes[f.test]) for f in folds], axis=0)
    rows: list[list[object]] = [["bridge, no pairs", "", *map(float, bridge), "", ""]]
    for method in (*METHODS, "auto"):
        for shown, given in (("", None), ("emoji", source)):
            found, seconds, chosen = [], [], []
            for fold in folds:
                train, test = target.take(fold.train), target.take(fold.test)
                began = time.perf_counter()
                model = make_alignment(method).fit(
                    train.X, train.Y, start=train.start, groups=train.groups, source=given
                )
                seconds.append(time.perf_counter() - began)
                found.append(hits(test.Y, model.transform(test.X, test.start), test.codes))
                chosen.append(model.choice_.method)
            both = np.array(found)
            error = float(both.mean(axis=1).std(ddof=1) / np.sqrt(FOLDS))
            name = f"auto ({', '.join(sorted(set(chosen)))})" if method == "auto" else method
            rows.append([name, shown, *map(float, both.mean(axis=0)), error, f"{np.median(seconds):.1f}"])
            say(f"{rows[-1]}")
    body = [
        f"{len(target.X)} captioned stamps without symbols, {len(source.X)} emoji pairs ({', '.join(VENDORS)}) as source. Seconds: median of a fit, all choices within.",
        "",
        record.table(
            ("method", "source", "text-to-image hit@10", "image-to-text hit@10", "standard error", "seconds"), rows
        ),
    ]
    record.write("align", "Alignment methods", "folds 0", "\n".join(body))


if __name__ == "__main__":
    main()
