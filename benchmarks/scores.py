"""Scores that compare across modalities, on the stamps: hubness correction, a mixed gallery, and "nothing found".

Five folds by caption. In each the maps (ridge, emoji as source) and the scores are learned from the training folds, the
latter from vectors placed without their own group. The held-out fold asks, and it is the gallery, as in
`benchmarks.transfer`; the whole collection is a second, larger gallery. Short names ("frog") look for the images and
texts of their caption. Captions look for images, their own text being left out. Off-topic queries are in
`offtopic.txt`; nothing is fitted on them. Speech has no part here, since the spoken descriptions are not embedded: as a
further modality it goes into `gallery_of`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from benchmarks import record
from benchmarks.corpora import offline_space, pairs, pictures, say
from chiasm import encoders
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.evaluation.splits import group_folds
from chiasm.retrieval.relevance import calibration_error
from chiasm.retrieval.scores import HeldOut, Judgement, PairScores, ScoreModel
from chiasm.transfer.alignment import PairStatistics, RidgeAlignment
from chiasm.types import Modality, Text

SEED = 0
FOLDS = 5
VENDORS = ("google", "twitter")
SHOWN = 10


def short(caption: str) -> str:
    """The thing's name as one would type it: the first clause, in small letters, without its article."""
    clause = re.split(r"[.!?,;:(—]", caption, maxsplit=1)[0].strip().lower()
    return re.sub(r"^(a|an|the|some)\s+", "", clause) or caption


def main() -> None:
    space, networks = offline_space(), encoders.resolve("offline")
    parts = []
    for vendor in VENDORS:
        data = pairs(f"emoji-{vendor}")
        begin = space.start("image", data.image)
        parts.append(
            PairStatistics.from_pairs(space.features("image", data.image, begin), space.start("text", data.text))
        )
    source = parts[0] + parts[1]
    stamps = pictures(pairs("stamps"))
    start = space.start("image", stamps.image)
    X, Y = space.features("image", stamps.image, start), space.start("text", stamps.text)
    groups = np.unique(stamps.captions, return_inverse=True)[1].ravel()
    names = space.embed([Text(short(caption)) for caption in stamps.captions], networks)
    off = [line for line in Path(__file__).with_name("offtopic.txt").read_text(encoding="utf-8").splitlines() if line]
    strangers = space.embed([Text(line) for line in off], networks)

    hub_rows: list[list[object]] = []
    mixed: dict[str, list[np.ndarray]] = {}
    answers: dict[str, list[bool]] = {}
    learned: list[list[object]] = []
    for number, fold in enumerate(group_folds(groups, FOLDS, seed=SEED)):
        train, test = fold.train, fold.test
        model = RidgeAlignment().fit(X[train], Y[train], start=start[train], groups=groups[train], source=source)
        placed = model.transform(X, start)
        crossed = placed.copy()  # of training rows: by a map that did not see their group
        choice = model.choice_
        for inner in group_folds(groups[train], FOLDS, seed=SEED):
            fit, left = train[inner.train], train[inner.test]
            part = RidgeAlignment(alpha=choice.alpha, strengths=(choice.strength,), blends=(choice.blend,))
            part.fit(X[fit], Y[fit], start=start[fit], groups=groups[fit], source=source)
            crossed[left] = part.transform(X[left], start[left])

        relevant = groups[test][:, None] == groups[test][None]
        for direction, asked, searched in (("text-to-image", Y, crossed), ("image-to-text", crossed, Y)):
            pair = PairScores.fit(
                searched[train],
                asked[train],
                gallery_owners=groups[train],
                bank_owners=groups[train],
                pairs=HeldOut(asked[train], groups[train], searched[train], groups[train]),
            )
            corrected = pair.prepare_queries(asked[test]) @ pair.prepare_rows(searched[test], groups[test]).T
            before, after = (
                retrieval_metrics(s, relevant).as_dict()["hit@10"] for s in (asked[test] @ searched[test].T, corrected)
            )
            how = pair.chosen.preparation
            what = f"{'centred, ' if how.centred else ''}{how.correction.method} {how.correction.strength:g}"
            hub_rows.append([direction, number, what, before, after])

        scores = ScoreModel(
            {
                ("text", "image"): PairScores.fit(
                    placed,
                    Y,
                    gallery_owners=groups,
                    bank_owners=groups,
                    pairs=HeldOut(Y[train], groups[train], crossed[train], groups[train]),
                ),
                ("text", "text"): PairScores.fit(
                    Y,
                    Y,
                    gallery_owners=groups,
                    bank_owners=groups,
                    pairs=HeldOut(names[train], groups[train], Y[train], groups[train]),
                ),
            }
        )
        for (_, searched_kind), pair in scores.pairs.items():
            assert pair.relevance is not None
            rates = pair.relevance.rates(pair.relevance.threshold())
            learned.append([searched_kind, number, pair.relevance.calibration_error, *rates.values()])
        for where, members in (("fold", test), ("collection", np.arange(len(Y)))):
            asked_all(where, members, test, scores, placed, Y, names, strangers, groups, mixed, answers)
        say(f"fold {number}: {hub_rows[-2:]} {learned[-2:]}")

    body = [
        "Hubness correction and centring, chosen on left-out groups of the training folds; hit@10.",
        "",
        record.table(("direction", "fold", "chosen", "plain cosine", "chosen scores"), hub_rows),
        "",
    ]
    for direction in ("text-to-image", "image-to-text"):
        found = np.array([[row[3], row[4]] for row in hub_rows if row[0] == direction], dtype=float)
        body += [f"{direction}: {found[:, 0].mean():.3f} plain, {found[:, 1].mean():.3f} with chosen scores."]
    rows: list[list[object]] = []
    for name, found_counts in mixed.items():
        image, text, all_image, all_text = np.sum(found_counts, axis=0)
        share, due = image / (image + text), all_image / (all_image + all_text)
        rows.append(
            [name, float(share), float(due), float(share / due), float(image / all_image), float(text / all_text)]
        )
    body += [
        "",
        "Mixed gallery, short names as queries: images among the relevant of the first 10.",
        "",
        record.table(
            ("gallery, order", "share of images", "their share", "ratio", "images found", "texts found"), rows
        ),
        "",
        f'"Nothing found": share of queries that get an answer ({len(off)} off-topic ones a fold), with 95 % intervals.',
        "",
    ]
    told: list[list[object]] = []
    for name, values in answers.items():
        low, high = interval(int(np.sum(values)), len(values))
        told.append([name, float(np.mean(values)), f"{low:.3f} to {high:.3f}", len(values)])
    body += [
        record.table(("gallery, queries", "answered", "interval", "queries"), told),
        "",
        "What the fit itself reports from left-out groups of the training folds, threshold at 95 % kept.",
        "",
        record.table(("searched", "fold", "ECE", "answered", "item absent", "kind absent"), learned),
    ]
    record.write("scores", "Scores that compare across modalities", f"folds {SEED}", "\n".join(body))


def gallery_of(
    placed: Float[np.ndarray, "n dim"], Y: Float[np.ndarray, "n dim"], members: Int[np.ndarray, " members"]
) -> tuple[Float[np.ndarray, "rows dim"], list[Modality], Int[np.ndarray, " rows"]]:
    """Vectors of all modalities of some items, the modality of each, and the item."""
    parts: dict[Modality, Float[np.ndarray, "n dim"]] = {"image": placed, "text": Y}
    kinds = [kind for kind in parts for _ in members]
    return np.vstack([part[members] for part in parts.values()]), kinds, np.tile(members, len(parts))


def asked_all(
    where: str,
    members: Int[np.ndarray, " members"],
    test: Int[np.ndarray, " test"],
    scores: ScoreModel,
    placed: Float[np.ndarray, "n dim"],
    Y: Float[np.ndarray, "n dim"],
    names: Float[np.ndarray, "n dim"],
    strangers: Float[np.ndarray, "off dim"],
    groups: Int[np.ndarray, " n"],
    mixed: dict[str, list[np.ndarray]],
    answers: dict[str, list[bool]],
) -> None:
    rows, kinds, items = gallery_of(placed, Y, members)
    kind = np.array(kinds)
    sizes = {searched: int((kind == searched).sum()) for _, searched in scores.pairs}
    offsets = np.empty(len(rows), np.float32)
    for (_, searched), pair in scores.pairs.items():
        offsets[kind == searched] = pair.offsets(rows[kind == searched], groups[items[kind == searched]])

    def judge(query: Float[np.ndarray, " dim"], kept: np.ndarray) -> Judgement:
        chosen = [cast("Modality", name) for name in kind[kept]]
        return scores.judge(query, "text", rows[kept], chosen, offsets=offsets[kept], sizes=sizes)

    every = np.ones(len(rows), dtype=bool)
    shown, truth = [], []
    for number in test:
        right = groups[items] == groups[number]
        judged = judge(names[number], every)
        answers.setdefault(f"{where}, short names", []).append(bool(judged.found))
        for name, order in (("calibrated", judged.order), ("cosine", np.argsort(-(rows @ names[number])))):
            first = order[:SHOWN]
            hit = [int((right[first] & (kind[first] == m)).sum()) for m in ("image", "text")]
            mixed.setdefault(f"{where}, {name}", []).append(
                np.array([*hit, *((right & (kind == m)).sum() for m in ("image", "text"))])
            )
        without_text = every & ~(right & (kind == "text"))
        judged = judge(Y[number], without_text)
        answers.setdefault(f"{where}, captions", []).append(bool(judged.found))
        first = judged.order[:SHOWN]
        shown.append(judged.probability[first])
        truth.append(right[without_text][first])
    for query in strangers:
        answers.setdefault(f"{where}, off-topic", []).append(bool(judge(query, every).found))
    say(
        f"{where}: ECE of first {SHOWN} for captions {calibration_error(np.concatenate(shown), np.concatenate(truth)):.3f}"
    )


def interval(hits: int, of: int) -> tuple[float, float]:
    """Wilson's interval of a share, 95 %."""
    z = 1.959964
    middle = (hits + z * z / 2) / (of + z * z)
    half = z / (of + z * z) * np.sqrt(hits * (of - hits) / of + z * z / 4)
    return float(middle - half), float(middle + half)


if __name__ == "__main__":
    main()
