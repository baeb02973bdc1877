"""Image-text alignment on the Tux Paint stamps, with and without emoji as source, by number of target pairs.

Five folds by caption: the same caption is never on both sides. Of the four training folds a random part is used. The
test fold is the gallery. hit@10 counts any item of the same caption.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from benchmarks import record
from benchmarks.corpora import offline_space, pairs, pictures, say
from chiasm.alignment.alignment import ALPHAS
from chiasm.alignment.closed_form import RidgeAlignment
from chiasm.alignment.pairs import PairArrays, PairStatistics
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.splits import group_folds

SIZES = {25: 4, 100: 4, 400: 1, 10_000: 1}  # target pairs at the most -> random draws a fold
VENDORS = ("google", "twitter")
FOLDS = 5


def main() -> None:
    space = offline_space()
    source = None
    for vendor in VENDORS:
        data = pairs(f"emoji-{vendor}")
        start = space.start("image", data.image)
        part = PairStatistics.from_pairs(space.features("image", data.image, start), space.start("text", data.text))
        source = part if source is None else source + part
    assert source is not None

    everything = pairs("stamps")
    stamps = pictures(everything)
    start = space.start("image", stamps.image)
    X, Y = space.features("image", stamps.image, start), space.start("text", stamps.text)
    groups = np.unique(stamps.captions, return_inverse=True)[1]

    body = [
        f"{len(X)} captioned stamps without symbols ({len(everything.image)} with), {source.count} emoji pairs ({', '.join(VENDORS)}) as source.",
        "",
    ]
    all_t2i, all_i2t = hits(Y, start, groups)
    body += [
        f"No pairs at all (bridge), gallery of all {len(X)}: text-to-image hit@10 {all_t2i:.3f}, image-to-text {all_i2t:.3f}.",
        "",
    ]

    methods: list[tuple[str, float | str, PairStatistics | None]] = [
        ("target only", 0.0, None),
        ("auto", "auto", source),
    ]
    methods += [(f"alpha {alpha}", alpha, source) for alpha in ALPHAS]
    rows: list[list[object]] = []
    bridge = np.mean(
        [hits(Y[f.test], start[f.test], groups[f.test]) for f in group_folds(groups, FOLDS, seed=0)], axis=0
    )
    rows.append([0, "bridge", "", *map(float, bridge), ""])
    for size, draws in SIZES.items():
        results: dict[str, list[tuple[float, float]]] = {}
        alphas: list[float] = []
        pairs_used = 0
        for number, fold in enumerate(group_folds(groups, FOLDS, seed=0)):
            for draw in range(draws):
                train = np.random.default_rng([number, draw]).permutation(fold.train)[:size]
                pairs_used = len(train)
                for name, alpha, given in methods:
                    known = PairArrays(X[train], Y[train], start[train], groups[train])
                    model = RidgeAlignment(alpha=alpha).fit(known, given)
                    placed = model.transform(X[fold.test], start[fold.test])
                    results.setdefault(name, []).append(hits(Y[fold.test], placed, groups[fold.test]))
                    if name == "auto":
                        alphas.append(model.choice.alpha)
        fixed = {name: np.mean(found, axis=0) for name, found in results.items() if name.startswith("alpha")}
        best = max(fixed, key=lambda name: fixed[name][0])
        for name, shown in (
            ("target only", "target only"),
            ("auto", "with emoji, alpha auto"),
            (best, f"with emoji, best fixed {best}"),
        ):
            found = np.array(results[name])
            error = found[:, 0].std(ddof=1) / np.sqrt(len(found))
            chosen = ", ".join(f"{a:g}" for a in sorted(set(alphas))) if name == "auto" else ""
            rows.append([pairs_used, shown, chosen, *map(float, found.mean(axis=0)), float(error)])
        say(f"{size}: { ({name: np.round(np.mean(found, axis=0), 3).tolist() for name, found in results.items()}) }")
    body.append(
        record.table(
            (
                "target pairs",
                "method",
                "alpha chosen",
                "text-to-image hit@10",
                "image-to-text hit@10",
                "standard error",
            ),
            rows,
        )
    )
    record.write("transfer", "Alignment with a source domain", "folds 0; draws (fold, draw)", "\n".join(body))


def hits(
    anchors: Float[np.ndarray, "n dim"], placed: Float[np.ndarray, "n dim"], groups: np.ndarray
) -> tuple[float, float]:
    relevant = groups[:, None] == groups[None, :]
    scores = anchors @ placed.T
    return tuple(retrieval_metrics(s, relevant).as_dict()["hit@10"] for s in (scores, scores.T))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
