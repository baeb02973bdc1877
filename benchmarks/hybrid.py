"""Hybrid search, diversity and relevance feedback on the Tux Paint stamps.

Hybrid: every stamp is an item with its picture; a random half has its caption too, so that the others are media without
words. Queries are the words that stand in at least four captions, shown or hidden; relevant is every stamp whose caption
has the word; so BM25 cannot err on shown captions. Vectors rank an item by its best file. BM25 is the collection's full-text
index over the shown captions. "Words first" orders by BM25 and what it cannot see by vectors. A second set of queries is whole
captions, where BM25 can err: relevant is every stamp of the same category with another caption.

Diversity: the first ten pictures for each category name, by relevance: how many different captions are among them, and
how many are of the category.

Feedback: queries are names of categories, the gallery is a random half of all pictures and captions, five random hits of
the first ten get thumbs by category, and the next ten (rated ones left out) are counted.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks import record
from benchmarks.corpora import classes, embedded_names, offline_space, pairs, say
from chiasm import encoders
from chiasm.retrieval.diversity import diversify
from chiasm.retrieval.hybrid import RankedList, reciprocal_rank_fusion
from chiasm.retrieval.query import rocchio
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.manifest import read_manifest
from chiasm.store.words import FullText
from chiasm.types import Text

SEEDS = range(10)
LEAST = 4  # captions that hold a word
SENTENCES = 120  # captions asked with, a seed
LITTLE = frozenset(
    re.findall(
        r"\w+",
        "a an the of and in on is are to with for it you that this by from or at be as its can means used their was one "
        "two they has have not what your very out up do some made our put",
    )
)


def main() -> None:
    space = offline_space()
    data = classes(pairs("stamps"))
    pictures, captions = space.start("image", data.image), space.start("text", data.text)
    network = next(network for network in encoders.resolve("offline") if "text" in network.modalities)

    def embed(texts: Sequence[str]) -> Float[np.ndarray, "texts dim"]:
        return space.start("text", network.encode([Text(text) for text in texts]).vectors)

    names = embedded_names(data, space)
    body = [f"{len(pictures)} captioned stamps without symbols, in classes of at least ten.", "", "Hybrid search:", ""]
    body += [hybrid(data.captions, pictures, captions, embed), ""]
    body += [sentences(data.captions, data.categories, pictures, captions), "", "Diversity:", ""]
    body += [diversity(data.captions, data.categories, pictures, names), "", "Relevance feedback, precision@10:", ""]
    body += [feedback(np.tile(data.categories, 2), np.vstack([pictures, captions]), names)]
    record.write("hybrid", "Hybrid search, diversity, feedback", f"{SEEDS[0]}-{SEEDS[-1]}", "\n".join(body))


# -------------------------------------------------------------------------------------------------------------- hybrid


def hybrid(
    captions: np.ndarray,
    pictures: Float[np.ndarray, "items dim"],
    texts: Float[np.ndarray, "items dim"],
    embed: Callable[[Sequence[str]], Float[np.ndarray, "texts dim"]],
) -> str:
    held = [words_of(caption) for caption in captions]
    counts = Counter(word for one in held for word in one)
    words = sorted(word for word, count in counts.items() if count >= LEAST and len(word) > 2 and word not in LITTLE)
    relevant = np.array([[word in one for one in held] for word in words])
    queries = embed([f"a {word}" for word in words])
    found: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        shown = np.random.default_rng(seed).random(len(captions)) < 0.5
        lists = full_text(captions, shown, words)
        for number, query in enumerate(queries):
            scores = np.maximum(pictures @ query, np.where(shown, texts @ query, -1))
            order = np.argsort(-scores, kind="stable")
            for way, ranked in ways(RankedList(order, scores[order]), lists[number]).items():
                found.setdefault(way, []).append(measures(ranked, relevant[number], shown))
        say(
            f"hybrid {seed}: { ({way: np.round(np.nanmean(rows, axis=0), 3).tolist() for way, rows in found.items()}) }"
        )
    by_word = {
        way: np.nanmean(np.array(rows).reshape(len(SEEDS), len(words), -1), axis=0) for way, rows in found.items()
    }
    rows = [
        [
            way,
            *map(float, values.mean(axis=0)),
            float(values[:, 0].std(ddof=1) / np.sqrt(len(words))),
            float((values - by_word["vectors"])[:, 0].std(ddof=1) / np.sqrt(len(words))),
        ]
        for way, values in by_word.items()
    ]
    columns = (
        "way",
        "average precision",
        "recall@10",
        "of those with a caption",
        "of those without",
        "standard error of the first",
        "of its gain over vectors",
    )
    return f"{len(words)} words as queries. Recall counts the best that ten places allow as 1.\n\n" + record.table(
        columns, rows
    )


def ways(vectors: RankedList, words: RankedList) -> dict[str, Int[np.ndarray, " rows"]]:
    """Rankings of the same items, best first."""
    assert words.covers is not None
    first = np.zeros(len(words.covers))
    first[words.rows] = words.scores
    without = reciprocal_rank_fusion([vectors, words]).rows
    return {
        "vectors": vectors.rows,
        "BM25": words.rows,
        "reciprocal ranks, as a sum": reciprocal_rank_fusion([vectors, RankedList(words.rows, words.scores)]).rows,
        "reciprocal ranks": without,
        "words first": without[np.argsort(-first[without], kind="stable")],
    }


def sentences(
    captions: np.ndarray,
    categories: np.ndarray,
    pictures: Float[np.ndarray, "items dim"],
    texts: Float[np.ndarray, "items dim"],
) -> str:
    """Ask with captions for other stamps of their category."""
    found: dict[str, list[list[float]]] = {}
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        shown = generator.random(len(captions)) < 0.5
        asked = generator.choice(len(captions), SENTENCES, replace=False)
        lists = full_text(captions, shown, [str(captions[row]) for row in asked])
        for row, words in zip(asked.tolist(), lists, strict=True):
            others = captions != captions[row]
            relevant = (categories == categories[row]) & others
            if not relevant.any():
                continue
            scores = np.maximum(pictures @ texts[row], np.where(shown, texts @ texts[row], -1))
            order = np.argsort(-scores, kind="stable")
            for way, ranked in ways(RankedList(order, scores[order]), words).items():
                found.setdefault(way, []).append(measures(ranked[others[ranked]], relevant, shown)[:2])
    base = np.array(found["vectors"])[:, 0]
    rows = [
        [way, *map(float, np.mean(values, axis=0)), float((np.array(values)[:, 0] - base).std() / np.sqrt(len(base)))]
        for way, values in found.items()
    ]
    columns = ("way", "average precision", "recall@10", "standard error of its gain over vectors")
    return f"{len(base)} captions as queries for other captions' stamps of their category.\n\n" + record.table(
        columns, rows
    )


def words_of(caption: str) -> set[str]:
    """Words without the s of the plural."""
    return {
        word[:-1] if word.endswith("s") and len(word) > 3 else word for word in re.findall("[a-z]+", caption.lower())
    }


def full_text(captions: np.ndarray, shown: Bool[np.ndarray, " items"], words: Sequence[str]) -> list[RankedList]:
    """What the full-text index of a collection with the shown captions finds for each word."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "captions.jsonl"
        lines = [json.dumps({"id": str(row), "text": str(captions[row])}) for row in np.flatnonzero(shown)]
        table.write_text("\n".join(lines), encoding="utf-8")
        collection = Collection.create(Path(folder) / "collection", encoder="none")
        add_manifests(collection, [read_manifest(table)], [])
        index = FullText(collection)
        index.update()
        lists = []
        for word in words:
            hits = index.search(word, k=len(captions))
            rows = np.array([int(item) for item in hits.items], dtype=np.int64)
            lists.append(RankedList(rows, hits.scores, shown))
        return lists


def measures(
    rows: Int[np.ndarray, " rows"], relevant: Bool[np.ndarray, " items"], shown: Bool[np.ndarray, " items"]
) -> list[float]:
    hits = relevant[rows]
    places = np.flatnonzero(hits) + 1
    precision = float((np.arange(1, len(places) + 1) / places).sum() / relevant.sum())
    first = rows[:10][hits[:10]]

    def recall(kind: Bool[np.ndarray, " items"]) -> float:
        number = int((relevant & kind).sum())
        return float(kind[first].sum() / min(10, number)) if number else np.nan  # of none there is no share

    return [precision, recall(np.ones_like(shown)), recall(shown), recall(~shown)]


# ----------------------------------------------------------------------------------------------------------- diversity


def diversity(
    captions: np.ndarray,
    categories: np.ndarray,
    pictures: Float[np.ndarray, "items dim"],
    names: dict[str, Float[np.ndarray, " dim"]],
) -> str:
    rows: list[list[object]] = []
    for share in (1.0, 0.9, 0.7, 0.5, 0.3):
        different, right, alike = [], [], []
        for name, query in names.items():
            scores = pictures @ query
            order = np.argsort(-scores, kind="stable")[:100]
            chosen = order[diversify(pictures[order], scores[order], k=10, relevance=share)]
            different.append(len(set(captions[chosen].tolist())))
            right.append(float((categories[chosen] == name).mean()))
            between = pictures[chosen] @ pictures[chosen].T
            alike.append(float(between[np.triu_indices(10, 1)].mean()))
        rows.append([f"{share:g}", float(np.mean(different)), float(np.mean(alike)), float(np.mean(right))])
    return record.table(("relevance", "different captions of 10", "mean cosine between hits", "precision@10"), rows)


# ------------------------------------------------------------------------------------------------------------ feedback


def feedback(
    categories: np.ndarray, gallery: Float[np.ndarray, "rows dim"], names: dict[str, Float[np.ndarray, " dim"]]
) -> str:
    ways: dict[str, Callable[..., Float[np.ndarray, " dim"]]] = {
        "before": lambda query, *_: query,
        "rocchio": rocchio,
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for seed in SEEDS:
        generator = np.random.default_rng(seed)
        part = generator.random(len(gallery)) < 0.5
        vectors, kinds = gallery[part], categories[part]
        for name, query in names.items():
            page = np.argsort(-(vectors @ query), kind="stable")[:10]
            rated = generator.choice(page, 5, replace=False)
            good = kinds[rated] == name
            for way, improve in ways.items():
                scores = vectors @ improve(query, vectors[rated[good]], vectors[rated[~good]])
                scores[rated] = -np.inf
                following = np.argsort(-scores, kind="stable")[:10]
                found[way].append(float((kinds[following] == name).mean()))
    before = np.array(found["before"])
    rows = []
    for way, values in found.items():
        gain = np.array(values) - before
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        rows.append([way, float(np.mean(values)), float(gain.mean()), float(error), float((gain < 0).mean())])
    return record.table(("way", "next ten", "gain", "standard error", "queries that got worse"), rows)


if __name__ == "__main__":
    main()
