"""Fit the score model of a collection's space to the pairs that the collection holds.

Which pairs of modalities have examples, and what stands for a query of each, is known here; the mathematics is in
`chiasm.retrieval.scores`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from chiasm import media, work
from chiasm.alignment.alignment import MIN_PAIRS
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.base import Encoder
from chiasm.errors import SpaceError
from chiasm.retrieval.scores import MAX_QUERIES, HeldOut, PairScores, Preparation, ScoreModel
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Modality, Text
from chiasm.verbs.dataset import pairs_of
from chiasm.verbs.ranking import owner_number
from chiasm.verbs.spaces import PlacedVectors


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Pairs of a modality that was learned to place, each placed by a map that did not learn from its group."""

    data: Pairs
    placed: Float[np.ndarray, "pairs dim"]
    elsewhere: bool = False
    """Whether they are of another collection: they tell how vectors are best compared, not how probable a hit is here."""


def fit_scores(
    collection: Collection,
    space: Space,
    gallery: PlacedVectors,
    networks: Sequence[Encoder],
    *,
    learned: Sequence[CrossFitted] = (),
    seed: int = 0,
) -> ScoreModel:
    """Learn what scores are worth, for every modality of a query and of what is searched.

    Examples of a text that looks for a picture are the captions of pictures, of a text that looks for a text the
    beginnings of texts (`short`), of two modalities otherwise the items that have both. Where there are fewer than 10,
    scores are brought to one scale and hits have no probability.

    Args:
        collection: whose pairs.
        space: whose scores.
        gallery: all vectors of the collection in it.
        networks: its encoders.
        learned: pairs that the space has learned from, placed without their own group. Those of another collection choose the
            preparation of vectors, whose means and hubs are those of this one; its queries stand for those that this one lacks.
        seed: of samples and folds.
    """
    spoken = gallery.modalities
    owners = np.array([owner_number(item) for item in gallery.items], dtype=np.int64)
    rows: dict[Modality, Int[np.ndarray, " rows"]] = {
        name: np.flatnonzero((spoken == name) & gallery.vectors.any(axis=1)) for name in MODALITIES
    }
    rows = {name: chosen[~space.alone(name, gallery.vectors[chosen])] for name, chosen in rows.items()}
    rows = {name: chosen for name, chosen in rows.items() if len(chosen)}
    known = _examples(collection, space, rows, [one for one in learned if not one.elsewhere])
    there = _both_ways((one for one in learned if one.elsewhere), space)
    short_texts = _short_texts(collection, space, gallery, rows, networks, seed) if "text" in rows else None
    if short_texts is not None:
        known["text", "text"] = short_texts
    found: dict[tuple[Modality, Modality], PairScores] = {}
    both = [*product(dict.fromkeys([*rows, *(asked for asked, _ in there)]), rows)]
    for asked, searched in work.steps(both, "pairs of modalities"):
        pairs, other = known.get((asked, searched)), there.get((asked, searched))
        if asked not in space.modalities:
            continue
        preparation: Preparation | Literal["auto"] = "auto"
        if pairs is None and other is not None:
            preparation = PairScores.fit(other.rows, other.queries, pairs=other, seed=seed).choice.preparation
        if asked in rows:
            bank, bank_owners = gallery.vectors[rows[asked]], owners[rows[asked]]
        elif other is not None:
            bank, bank_owners = other.queries, -1 - np.arange(len(other.queries))  # owners that no item has
        else:
            continue
        found[asked, searched] = PairScores.fit(
            gallery.vectors[rows[searched]],
            bank,
            gallery_owners=owners[rows[searched]],
            bank_owners=bank_owners,
            pairs=pairs,
            preparation=preparation,
            seed=seed,
        )
    return ScoreModel(found)


def _both_ways(learned: Iterable[CrossFitted], space: Space) -> dict[tuple[Modality, Modality], HeldOut]:
    """Queries and what they look for, each side of the pairs by the other; without those that find only their like."""
    known = {}
    for one in learned:
        data = one.data
        keep = ~(space.alone(data.moved, one.placed) | space.alone(data.anchor, data.anchors))
        if keep.any():
            moved, anchors, groups = one.placed[keep], data.anchors[keep], data.groups[keep]
            known[data.anchor, data.moved] = HeldOut(anchors, groups, moved, groups)
            known[data.moved, data.anchor] = HeldOut(moved, groups, anchors, groups)
    return known


def _examples(
    collection: Collection,
    space: Space,
    rows: Mapping[Modality, Int[np.ndarray, " rows"]],
    learned: Sequence[CrossFitted],
) -> dict[tuple[Modality, Modality], HeldOut]:
    """Queries and what they look for, of every two modalities that items have both of."""
    known = _both_ways(learned, space)
    names = [name for name in rows if name in space.modalities]
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            if (first, second) in known or space.map_of(first) or space.map_of(second):
                continue  # a map places the pairs that it was learned from too well
            try:
                data = pairs_of(collection, space, (first, second))
            except SpaceError:  # no item has both
                continue
            known |= _both_ways([CrossFitted(data, data.start)], space)
    return known


def _short_texts(
    collection: Collection,
    space: Space,
    gallery: PlacedVectors,
    rows: Mapping[Modality, Int[np.ndarray, " rows"]],
    networks: Sequence[Encoder],
    seed: int,
) -> HeldOut | None:
    """Return short queries as people type them for the texts of a collection, and the texts."""
    chosen = rows["text"]
    _, groups = np.unique(gallery.hashes[chosen], return_inverse=True)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:MAX_QUERIES])
    items = {str(row["id"]): row for row in collection.items(ids=sorted({gallery.items[chosen[row]] for row in drawn}))}
    queries, of = [], []
    for row in drawn.tolist():
        text = _text(items.get(gallery.items[chosen[row]]), gallery.slots[chosen[row]])
        if text is not None and (words := short(text)):
            queries.append(Text(words))
            of.append(groups[row])
    if len(set(of)) < MIN_PAIRS:
        return None
    asked = space.embed(queries, networks)
    return HeldOut(asked, np.array(of), gallery.vectors[chosen], groups)


def short(text: str) -> str:
    """The beginning of a text as one would type it to look for it: the first clause, small, without its article."""
    clause = re.split(r"[.!?,;:(\u2014\n]", text.strip(), maxsplit=1)[0].strip().lower()
    return " ".join(re.sub(r"^(a|an|the|some)\s+", "", clause).split()[:8])


def _text(item: Mapping[str, list[str]] | None, slot: str) -> str | None:
    kind, number = slot.split("/")
    values = [] if item is None else item[kind] or []
    if kind != "text" or int(number) >= len(values):
        return None
    return media.words_of(values[int(number)])
