"""Scores that compare across modalities, on the stamps: hubness correction, a mixed gallery, and "nothing found".

Five folds by caption. In each the maps (kernel, emoji as source: what `align` does) and the scores are learned from the
training folds, the latter from vectors placed without their own group. The held-out fold asks, and it is the gallery, as
in `benchmarks.transfer`; the whole collection is a second, larger gallery. Short names ("frog") look for the images, texts
and spoken descriptions of their caption; only some stamps have one of these. Captions look for images, their own text
and speech being left out. Off-topic queries are in `offtopic.txt`; nothing is fitted on them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float, Int

from benchmarks import record
from benchmarks.align import emoji
from benchmarks.corpora import offline_space, pairs, pictures, say, spoken_stamps
from chiasm import encoders
from chiasm.alignment.closed_form import KernelAlignment
from chiasm.alignment.pairs import PairArrays
from chiasm.evaluation.ranking import retrieval_metrics
from chiasm.retrieval.relevance import calibration_error
from chiasm.retrieval.scores import HeldOut, Judgement, PairScores, ScoreModel
from chiasm.splits import group_folds
from chiasm.types import Modality, Text

SEED = 0
FOLDS = 5
SHOWN = 10
KINDS: tuple[Modality, ...] = ("image", "text", "audio")


def short(caption: str) -> str:
    """The thing's name as one would type it: the first clause, in small letters, without its article."""
    clause = re.split(r"[.!?,;:(—]", caption, maxsplit=1)[0].strip().lower()
    return re.sub(r"^(a|an|the|some)\s+", "", clause) or caption


def main() -> None:
    space, networks = offline_space(), encoders.resolve("offline")
    source = emoji()
    stamps = pictures(pairs("stamps"))
    start = space.start("image", stamps.image)
    X, Y = space.features("image", stamps.image, start), space.start("text", stamps.text)
    groups = np.unique(stamps.captions, return_inverse=True)[1].ravel()
    spoken = spoken_stamps()
    words = next(network for network in networks if "text" in network.modalities).dim
    said = np.array([row for row, name in enumerate(stamps.ids) if name in spoken and spoken[name][:words].any()])
    S = space.start("audio", np.stack([spoken[stamps.ids[row]] for row in said]))
    names = space.embed([Text(short(caption)) for caption in stamps.captions], networks)
    off = [line for line in Path(__file__).with_name("offtopic.txt").read_text(encoding="utf-8").splitlines() if line]
    strangers = space.embed([Text(line) for line in off], networks)

    hub_rows: list[list[object]] = []
    mixed: dict[str, list[np.ndarray]] = {}
    answers: dict[str, list[bool]] = {}
    learned: list[list[object]] = []
    for number, fold in enumerate(group_folds(groups, FOLDS, seed=SEED)):
        train, test = fold.train, fold.test
        known = PairArrays(X[train], Y[train], start[train], groups[train])
        model = KernelAlignment().fit(known, source)
        placed = model.transform(X, start)
        crossed = placed.copy()  # of training rows: by a map that did not see their group
        crossed[train] = model.cross_fitted

        relevant = groups[test][:, None] == groups[test][None]
        for direction, asked, searched in (("text-to-image", Y, crossed), ("image-to-text", crossed, Y)):
            pair = PairScores.fit(
                searched[train],
                asked[train],
                gallery_owners=groups[train],
                bank_owners=groups[train],
                pairs=HeldOut(asked[train], groups[train], searched[train], groups[train]),
            )
            corrected = pair.prepared.queries(asked[test]) @ pair.prepared.rows(searched[test], groups[test]).T
            before, after = (
                retrieval_metrics(s, relevant).as_dict()["hit@10"] for s in (asked[test] @ searched[test].T, corrected)
            )
            how = pair.choice.preparation
            what = f"{'centred, ' if how.centred else ''}hubs {how.hub_strength:g}"
            hub_rows.append([direction, number, what, before, after])

        mine = np.isin(said, train)
        gallery = {"image": (placed, groups), "text": (Y, groups), "audio": (S, groups[said])}
        asked_of = {
            "image": HeldOut(Y[train], groups[train], crossed[train], groups[train]),
            "text": HeldOut(names[train], groups[train], Y[train], groups[train]),
            "audio": HeldOut(names[train], groups[train], S[mine], groups[said[mine]]),
        }
        scores = ScoreModel(
            {
                ("text", kind): PairScores.fit(
                    gallery[kind][0],
                    Y,
                    gallery_owners=gallery[kind][1],
                    bank_owners=groups,
                    pairs=asked_of[kind],
                )
                for kind in KINDS
            }
        )
        for (_, searched_kind), pair in scores.pairs.items():
            assert pair.relevance is not None
            rates = pair.relevance.rates(pair.relevance.threshold())
            learned.append([searched_kind, number, pair.relevance.calibration_error, *rates.values()])
        everything = np.arange(len(Y))
        for where, members in (("fold", test), ("collection", everything)):
            inside = np.isin(said, members)
            parts: dict[Modality, tuple[np.ndarray, np.ndarray]] = {
                "image": (placed[members], members),
                "text": (Y[members], members),
                "audio": (S[inside], said[inside]),
            }
            asked_all(where, parts, test, scores, Y, names, strangers, groups, mixed, answers)
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
        found, all_of = np.sum(found_counts, axis=0)
        for place, kind in enumerate(KINDS):
            share, due = found[place] / found.sum(), all_of[place] / all_of.sum()
            rows.append(
                [name, kind, *map(float, (share, due, share / due, found[place] / all_of[place])), int(all_of[place])]
            )
    body += [
        "",
        "Mixed gallery, short names as queries: share of each modality among what is relevant in the first 10, its share of all",
        "that is relevant, and the part of it that is found.",
        "",
        record.table(("gallery, order", "modality", "share", "due", "ratio", "found", "relevant"), rows),
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
        "What the fit itself reports from left-out groups of the training folds, threshold at 97.5 % kept.",
        "",
        record.table(("searched", "fold", "ECE", "answered", "item absent", "kind absent"), learned),
    ]
    record.write("scores", "Scores that compare across modalities", f"folds {SEED}", "\n".join(body))


def asked_all(
    where: str,
    parts: Mapping[Modality, tuple[Float[np.ndarray, "n dim"], Int[np.ndarray, " n"]]],
    test: Int[np.ndarray, " test"],
    scores: ScoreModel,
    Y: Float[np.ndarray, "n dim"],
    names: Float[np.ndarray, "n dim"],
    strangers: Float[np.ndarray, "off dim"],
    groups: Int[np.ndarray, " n"],
    mixed: dict[str, list[np.ndarray]],
    answers: dict[str, list[bool]],
) -> None:
    """Ask a gallery whose `parts` are vectors and items of each modality."""
    rows, items = (np.concatenate([part[place] for part in parts.values()]) for place in (0, 1))
    kind = np.array([name for name, (vectors, _) in parts.items() for _ in vectors])
    sizes = {name: len(vectors) for name, (vectors, _) in parts.items()}
    offsets = np.empty(len(rows), np.float32)
    for (_, searched), pair in scores.pairs.items():
        offsets[kind == searched] = pair.offsets(rows[kind == searched], groups[items[kind == searched]])

    def judge(query: Float[np.ndarray, " dim"], kept: np.ndarray) -> Judgement:
        chosen = [cast("Modality", name) for name in kind[kept]]
        return scores.judge(
            query, "text", rows[kept], chosen, offsets=offsets[kept], sizes=sizes, items=len(set(items.tolist()))
        )

    every = np.ones(len(rows), dtype=bool)
    shown, truth = [], []
    for number in test:
        right = groups[items] == groups[number]
        judged = judge(names[number], every)
        answers.setdefault(f"{where}, short names", []).append(bool(judged.found))
        for name, order in (("calibrated", judged.order), ("cosine", np.argsort(-(rows @ names[number])))):
            first = order[:SHOWN]
            counts = [[(right[part] & (kind[part] == one)).sum() for one in KINDS] for part in (first, slice(None))]
            mixed.setdefault(f"{where}, {name}", []).append(np.array(counts))
        without_text = every & ~(right & (kind != "image"))
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
