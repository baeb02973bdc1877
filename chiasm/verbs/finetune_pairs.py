"""`finetune --pairs`: train two networks further on items that have both modalities, where that is better."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm import encoders
from chiasm.alignment.alignment import MIN_PAIRS
from chiasm.alignment.closed_form import KernelAlignment
from chiasm.alignment.pairs import PairArrays, Pairs
from chiasm.encoders.base import Encoder, fingerprints_of, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part
from chiasm.errors import LabelError, SpaceError
from chiasm.evaluation.intervals import paired_difference
from chiasm.evaluation.ranking import pair_retrieval
from chiasm.files import one_form
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.results import TunedPairs
from chiasm.space import Space
from chiasm.splits import Split, group_folds, merge_groups, near_duplicate_groups
from chiasm.store.collection import Collection
from chiasm.store.reembed import items_of
from chiasm.types import Media, Modality
from chiasm.vectors import unit_rows
from chiasm.verbs.climb import TRIED, begin_work, mean_weights, open_medium, train_once
from chiasm.verbs.dataset import MOST_FOR_DUPLICATES, pairs_of, refuse_other_encoders
from chiasm.work import steps

if TYPE_CHECKING:
    from chiasm.finetuning.pairs import PairExamples, PairNetwork, Side, TunedPair
    from chiasm.finetuning.towers import Tower
    from chiasm.finetuning.views import Views

_HITS = "hit@10"


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs of one collection or several, those of the target first.

    Attributes:
        sets: the collections, and the pairs of each.
        groups: pairs of one group are never on both sides of a split.
    """

    sets: tuple[tuple[Collection, Pairs], ...]
    groups: Int[np.ndarray, " pairs"]

    @property
    def target(self) -> Pairs:
        """The pairs that are measured on."""
        return self.sets[0][1]

    @cached_property
    def source(self) -> Bool[np.ndarray, " pairs"]:
        """Which pairs are of another domain."""
        sizes = [len(pairs.items) for _, pairs in self.sets]
        return np.arange(sum(sizes)) >= sizes[0]

    def hashes(self, side: Side) -> list[str]:
        """Return the content of each pair on one side."""
        return [one for _, pairs in self.sets for one in getattr(pairs, f"{side}_hashes")]


def read_pairs(
    collection: Collection,
    space: Space,
    pairs: tuple[Modality, Modality],
    sources: Sequence[str | Path],
    *,
    where: str | None,
    group: str | None,
    alike: float,
    device: Device,
) -> PairSet:
    """Read the pairs of a collection and of others that are embedded alike.

    Args:
        collection: the target.
        space: that nothing was learned in.
        pairs: the modalities.
        sources: other collections; pairs whose picture or sound the target has as well are left out.
        where: only items of the target that meet this condition.
        group: column whose values keep pairs of the target on one side of every split.
        alike: cosine of the side that is moved from which two pairs count as near-duplicates; above 1 none do.
        device: of the encoders.

    Raises:
        NoPairsError: no item of a collection has both modalities.
        SpaceError: too few pairs, or modalities that the space does not have.
        LabelError: there is no such column.
        ChiasmError: a source is embedded by other encoders.
    """
    data = pairs_of(collection, space, pairs, where=where)
    if len(data.items) < 2 * MIN_PAIRS:
        raise SpaceError(
            f"fine-tuning needs at least {2 * MIN_PAIRS} pairs, of which some are held out; got {len(data.items)} of "
            f"{data.moved} and {data.anchor}. Add pairs, or learn a map alone: chiasm align {collection.path}"
        )
    sets = [(collection, data)]
    wanted = {modality: space.fingerprints[modality] for modality in pairs}
    for source in sources:
        opened = Collection.open(source)
        networks = encoders.resolve(opened.encoder, device=device)
        refuse_other_encoders(f"the source {source}", fingerprints_of(networks), "target", wanted)
        theirs = pairs_of(opened, space, pairs)
        new = np.flatnonzero(~np.isin(theirs.moved_hashes, data.moved_hashes))
        if not len(new):
            raise LabelError(f"the source {source} has no pair whose {data.moved} the target does not have itself")
        sets.append((opened, theirs.take(new)))
    items = [f"{number} {item}" for number, (_, one) in enumerate(sets) for item in one.items]
    groups = merge_groups(
        [one for _, own in sets for one in own.moved_hashes],
        [one for _, own in sets for one in own.anchor_hashes],
        items,
    )
    own = np.arange(len(data.items))
    if alike <= 1 and len(own) <= MOST_FOR_DUPLICATES:
        near = np.arange(len(groups)) + len(groups)
        near[own] = near_duplicate_groups(data.embeddings, threshold=alike)
        groups = merge_groups(groups, near)
    if group is not None:
        group = one_form(group)
        if group not in collection.columns():
            raise LabelError(
                f"{collection.path} has no column {group!r}. Its columns: {', '.join(collection.columns())}"
            )
        values = {str(row["id"]): row[group] for row in collection.items()}
        named = [f"value {values[item]}" if values[item] is not None else f"item {item}" for item in data.items]
        groups = merge_groups(groups, [*named, *(f"other {one}" for one in range(len(groups) - len(own)))])
    return PairSet(tuple(sets), groups)


@dataclass(frozen=True, eq=False)
class PairClimb:
    """The comparison of two frozen networks, aligned, with the same two trained further and aligned."""

    networks: Sequence[Encoder]
    base: str
    space: Space
    pairs: PairSet
    modalities: Sequence[Modality]  # whose networks learn
    recipe: Recipe
    folds: int
    keep: bool
    folder: Path
    device: Device
    say: Callable[[str], None]

    @property
    def sides(self) -> dict[Side, Modality]:
        """The modality of each side."""
        return {"moved": self.pairs.target.moved, "anchor": self.pairs.target.anchor}

    @property
    def learning(self) -> tuple[Side, ...]:
        """The sides whose network learns."""
        return tuple(side for side, modality in self.sides.items() if modality in self.modalities)

    def encoder(self, side: Side) -> Encoder:
        """Return the encoder of a side."""
        return first_of(self.networks)[self.sides[side]]

    @property
    def is_joint(self) -> bool:
        """Whether both sides are of one model, whose vectors are compared as they are."""
        return self.encoder("moved").vector_space == self.encoder("anchor").vector_space

    def run(self) -> tuple[TunedPairs, dict[Modality, Part]]:
        """Train in folds until it is known whether that is better."""
        from chiasm.finetuning import processes
        from chiasm.finetuning.pairs import SIDES, PairNetwork

        begin = time.monotonic()
        # What is wrong with the pairs is said before anything is stored.
        self._splits(self.pairs.groups[~self.pairs.source])
        towers = dict(zip(SIDES, self._towers(), strict=True))
        with processes.first_alone():
            self._begin()
        openers = {side: self._openers(side) for side in SIDES}
        self.say(self._estimate(towers, openers))
        with processes.first_alone():
            views = {side: self._store(towers[side], openers[side], side) for side in SIDES}
        rows, examples = self._examples(views)
        own = np.flatnonzero(~examples.source)
        splits = self._splits(examples.groups[own])
        frozen = self._arrays(rows)
        hits = {name: np.full((2, len(own)), np.nan) for name in ("frozen", "tuned")}
        tuned: list[TunedPair] = []
        for number, split in enumerate(steps(splits, "folds")):
            tuned.append(self._train(towers, views, examples, split, number))
            became = self._arrays(rows, {side: tuned[-1].embeddings[side][examples.items[side]] for side in SIDES})
            for name, arrays in (("frozen", frozen), ("tuned", became)):
                hits[name][:, split.test] = self._hits(arrays, examples, split)
            gain, error = _compare(hits["frozen"], hits["tuned"], examples.groups[own])
            if gain < -error and not self.keep:
                break
        result = self._result(towers, examples, len(rows), hits, gain, error, tuned, len(splits))
        result = replace(result, seconds=time.monotonic() - begin)
        network = PairNetwork(towers, None, None, self.recipe)
        return result, self._parts(network, tuned, result)

    def _towers(self) -> tuple[Tower, Tower]:
        from chiasm.finetuning.towers import EVERY, towers_of

        blocks = EVERY if self.recipe.method == "full" else self.recipe.blocks
        return towers_of(
            (self.encoder("moved"), self.encoder("anchor")), (self.sides["moved"], self.sides["anchor"]), blocks
        )

    def _begin(self) -> None:
        """Go on with what a run that was stopped left of the same work; remove what is of another one."""
        every = self.pairs.sets
        values = [(pairs.items, pairs.moved_hashes, pairs.anchor_hashes) for _, pairs in every]
        begin_work(
            self.folder,
            [
                *(self.encoder(side).fingerprint for side in self.sides),
                asdict(self.recipe),
                self.folds,
                self.learning,
                values,
                self.pairs.groups.tolist(),
            ],
            self.say,
        )

    def _files(self, side: Side) -> tuple[Int[np.ndarray, " files"], Int[np.ndarray, " pairs"]]:
        """Return a pair that has each content of a side, and the content of each pair by number."""
        _, first, files = np.unique(self.pairs.hashes(side), return_index=True, return_inverse=True)
        return first, files

    def _openers(self, side: Side) -> list[Callable[[], Media]]:
        """Return what opens each content of a side once."""
        openers: list[Callable[[], Media]] = []
        for collection, pairs in self.pairs.sets:
            items, slots = items_of(collection), getattr(pairs, f"{side}_slots")
            openers += [
                partial(open_medium, items[item], self.sides[side], self.encoder(side), int(slot.partition("/")[2]))
                for item, slot in zip(pairs.items, slots, strict=True)
            ]
        return [openers[pair] for pair in self._files(side)[0]]

    def _store(self, tower: Tower, openers: Sequence[Callable[[], Media]], side: Side) -> Views:
        from chiasm.finetuning.views import store_views

        folder = self.folder / f"views-{side}"
        recipe = self.recipe
        return store_views(tower, openers, folder, views=1 + recipe.views, seed=recipe.seed, augment=recipe.augment)

    def _examples(self, views: Mapping[Side, Views]) -> tuple[Int[np.ndarray, " rows"], PairExamples]:
        """Return the pairs of which both files could be opened, by their rows and as they are learned from."""
        from chiasm.finetuning.pairs import SIDES, PairExamples

        places: dict[Side, Int[np.ndarray, " pairs"]] = {}
        for side in SIDES:
            first, files = self._files(side)
            place = np.full(len(first), -1)
            place[views[side].items] = np.arange(len(views[side].items))
            places[side] = place[files]
        rows = np.flatnonzero((places["moved"] >= 0) & (places["anchor"] >= 0))
        items = {side: places[side][rows] for side in SIDES}
        groups = np.unique(self.pairs.groups[rows], return_inverse=True)[1]
        return rows, PairExamples(items, groups, self.pairs.source[rows])

    def _splits(self, groups: Int[np.ndarray, " pairs"]) -> tuple[Split, ...]:
        """Return the folds, each of which leaves enough pairs to learn a map from."""
        if self.folds < 2:
            raise LabelError(f"folds are 2 or more; got {self.folds}")
        number = min(self.folds, len(np.unique(groups)))
        splits = group_folds(groups, number, seed=self.recipe.seed) if number > 1 else ()
        if not splits or any(
            len(split.train) < MIN_PAIRS or len(np.unique(groups[split.train])) < 4 for split in splits
        ):
            raise LabelError(
                "no fold can be held out: without it, too few pairs of different content are left to learn from. Often most "
                "have the same caption, or are near-duplicates of one another, which are kept on one side: add others, or say "
                "from which cosine on they count as near-duplicates (alike; above 1: never)"
            )
        return splits

    def _arrays(
        self, rows: Int[np.ndarray, " rows"], embeddings: Mapping[Side, Float[np.ndarray, "rows _"]] | None = None
    ) -> PairArrays:
        """Return pairs as `align` learns from them, of frozen networks or of what these have become."""
        pairs = [one for _, one in self.pairs.sets]
        if embeddings is None:
            features, start, anchors = (
                np.concatenate([getattr(one, name) for one in pairs])[rows] for name in ("features", "start", "anchors")
            )
        else:
            moved, anchor = self.sides["moved"], self.sides["anchor"]
            start = self.space.start(moved, embeddings["moved"])
            features = self.space.features(moved, embeddings["moved"], start)
            anchors = self.space.start(anchor, embeddings["anchor"])
        return PairArrays(features, anchors, start, self.pairs.groups[rows])

    def _hits(self, arrays: PairArrays, examples: PairExamples, split: Split) -> Float[np.ndarray, "2 test"]:
        """Return whether each held-out pair finds its partner among the first 10 of all held out, both ways, as `align` would."""
        own = np.flatnonzero(~examples.source)
        source = arrays.take(examples.source) if examples.source.any() else None
        learned = KernelAlignment(seed=self.recipe.seed).fit(arrays.take(own[split.train]), source)
        test = arrays.take(own[split.test])
        retrieval = pair_retrieval(
            test.Y,
            learned.transform(test.X, test.start),
            names=(self.sides["anchor"], self.sides["moved"]),
            alike=[examples.items[side][own[split.test]] for side in examples.items],
        )
        return np.stack([retrieval.metrics[name].values[_HITS] for name in self._directions()])

    def _directions(self) -> tuple[str, str]:
        moved, anchor = self.sides["moved"], self.sides["anchor"]
        return f"{anchor}_to_{moved}", f"{moved}_to_{anchor}"

    def _train(
        self,
        towers: Mapping[Side, Tower],
        views: Mapping[Side, Views],
        examples: PairExamples,
        split: Split,
        number: int,
    ) -> TunedPair:
        from chiasm.finetuning.pairs import SIDES, TunedPair, train_pairs
        from chiasm.finetuning.trainer import embed

        def learn(checkpoints: Path) -> TunedPair:
            frozen: PairArrays | None = None
            centre: Float[np.ndarray, " dim"] | None = None
            if not self.is_joint:
                if self.space.starts[self.sides["anchor"]] == "words":
                    centre = self.space.tensors["centre"]
                moved, anchor = (unit_rows(embed(towers[side], views[side], examples.items[side])) for side in SIDES)
                anchor = anchor if centre is None else unit_rows(anchor - centre)
                frozen = PairArrays(moved, anchor, anchor, examples.groups)
            rows = np.append(np.flatnonzero(~examples.source)[split.train], np.flatnonzero(examples.source))
            return train_pairs(
                towers,
                views,
                examples,
                rows,
                self.recipe,
                checkpoints,
                frozen=frozen,
                centre=centre,
                learning=self.learning,
                device=self.device,
                say=self.say,
            )

        return train_once(self.folder / f"fold-{number}", TunedPair.load, learn)

    def _estimate(self, towers: Mapping[Side, Tower], openers: Mapping[Side, Sequence[Callable[[], Media]]]) -> str:
        """Say how long it will take and how much memory, by a few media that are put through everything once."""
        from chiasm.finetuning.trainer import estimate

        recipe, count = self.recipe, len(self.pairs.groups)
        epochs = recipe.epochs * (self.folds - 1) * 0.8  # a fifth of what is learned from is held out to stop by
        seconds, size, memory = 0.0, 0.0, 0
        for side, tower in towers.items():
            cost = estimate(tower, openers[side][:TRIED], recipe, self.folder / f"tried-{side}-{os.getpid()}")
            seconds += (
                len(openers[side]) * (1 + recipe.views) * cost.seconds_a_view + count * epochs * cost.seconds_an_item
            )
            size += len(openers[side]) * (1 + recipe.views) * cost.bytes_a_view
            memory = max(memory, cost.memory)
        return (
            f"{' and '.join(self.sides.values())}: {count} pairs, {self._trained(towers)} in {self.folds} folds: at most about "
            f"{max(1, round(seconds / 60))} min, {memory / 2**20:.0f} MB of memory and {size / 2**20:.0f} MB of disk"
        )

    def _trained(self, towers: Mapping[Side, Tower]) -> str:
        learning = [(self.sides[side], towers[side]) for side in self.learning]
        blocks = " and ".join(f"the last {one.blocks - one.frozen} of {one.blocks} ({name})" for name, one in learning)
        return f"{self.recipe.method}, {blocks} blocks"

    def _result(
        self,
        towers: Mapping[Side, Tower],
        examples: PairExamples,
        rows: int,
        hits: Mapping[str, Float[np.ndarray, "2 pairs"]],
        gain: float,
        error: float,
        tuned: Sequence[TunedPair],
        folds: int,
    ) -> TunedPairs:
        frozen, became = (
            dict(zip(self._directions(), np.nanmean(hits[name], axis=1).tolist(), strict=True)) for name in hits
        )
        is_better = gain > error and all(became[name] >= frozen[name] for name in frozen)
        numbers = "; ".join(
            f"{name.replace('_', ' ')} {became[name]:.3f} against {frozen[name]:.3f}" for name in frozen
        )
        measured = f"{len(tuned)} folds" if len(tuned) == folds else f"given up after {len(tuned)} of {folds} folds"
        numbers = f"{_HITS} of held-out pairs: {numbers}; better by {gain:.3f} with a standard error of {error:.3f}; {measured}"
        what = " and ".join(self.sides.values())
        end = "written anyway" if self.keep else "nothing written, --keep writes it anyway"
        return TunedPairs(
            modalities=(self.sides["moved"], self.sides["anchor"]),
            encoders=(self.encoder("moved").name, self.encoder("anchor").name),
            trained=self._trained(towers),
            pairs=int((~examples.source).sum()),
            source_pairs=int(examples.source.sum()),
            left_out=len(self.pairs.groups) - rows,
            folds=f"{len(tuned)} of {folds} folds",
            frozen=frozen,
            tuned=became,
            better_by=gain,
            standard_error=error,
            is_better=is_better,
            words=f"{what}: better than frozen and aligned ({numbers})"
            if is_better
            else f"{what}: not better than frozen and aligned ({numbers}); {end}",
            seconds=0.0,
            pairs_per_second=float(np.mean([one.pairs_per_second for one in tuned])),
            at_once=tuned[-1].at_once,
            history=tuple(tuple(one.history) for one in tuned),
        )

    def _parts(self, network: PairNetwork, tuned: Sequence[TunedPair], result: TunedPairs) -> dict[Modality, Part]:
        """Return the mean of the networks of the folds as parts of an encoder; of one model, as one."""
        from chiasm.finetuning.pairs import SIDES

        mean = mean_weights([one.weights for one in tuned])

        def save(side: Side, folder: Path) -> None:
            network.set_weights(mean)
            network.save(side, folder)

        parts: dict[Modality, Part] = {}
        for side in self.learning[: 1 if self.is_joint else 2]:
            encoder, seen = self.encoder(side), SIDES if self.is_joint else (side,)
            about = {
                "base": self.base,
                "fingerprint_of_base": encoder.fingerprint,
                "licence": encoder.models()[0].licence,
                "pairs": list(self.sides.values()),
                "learned_from": sorted({content for one in seen for content in self.pairs.hashes(one)}),
                "recipe": asdict(self.recipe),
                "result": replace(result, history=()).as_dict(),
            }
            tower = network.tower(side)
            parts[self.sides[side]] = Part(tower.kind, partial(save, side), tower.options, about)
        return parts


def _compare(
    frozen: Float[np.ndarray, "2 pairs"], tuned: Float[np.ndarray, "2 pairs"], groups: Int[np.ndarray, " pairs"]
) -> tuple[float, float]:
    """Return by how much more is found, the mean of both directions, and the standard error over groups."""
    known = np.isfinite(tuned).all(axis=0)
    difference = paired_difference(
        tuned.mean(axis=0)[known], frozen.mean(axis=0)[known], groups=groups[known], draws=100
    )
    return difference.mean, difference.standard_error
