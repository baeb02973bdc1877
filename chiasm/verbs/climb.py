"""The climb from a frozen network to the same network trained further on labels: in folds, measured beside each other.

Every item is embedded by the network of the fold that held it out, and one kind of recogniser is fitted on the frozen embeddings
and on these. Which encoder or model comes of it is left to `chiasm.verbs.finetune` and `chiasm.verbs.fit`; how a network learns,
to `chiasm.finetuning`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm import media
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part, is_tuned, read_about
from chiasm.errors import LabelError
from chiasm.files import digest_text, read_record, strict_json, write_whole
from chiasm.finetuning.comparison import Comparison, compare
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.results import TunedPart
from chiasm.recognition import ModalityArrays, Recognizer, SourceItems
from chiasm.recognition.columns import Outputs
from chiasm.recognition.joint import held_out_of
from chiasm.recognition.targets import Target, strata
from chiasm.space import Space
from chiasm.splits import Split, grouped_stratified_folds
from chiasm.store.collection import Collection
from chiasm.store.reembed import items_of
from chiasm.types import Item, Media, Modality, Source, Text
from chiasm.verbs.dataset import Embedded, Labelled, embedded_items, labelled_source, modality_arrays
from chiasm.work import steps

if TYPE_CHECKING:
    import torch

    from chiasm.finetuning.items import Examples
    from chiasm.finetuning.pairs import TunedPair
    from chiasm.finetuning.towers import Tower
    from chiasm.finetuning.trainer import Tuned
    from chiasm.finetuning.views import Views

Result = TypeVar("Result", "Tuned", "TunedPair")
"""A trained network, or two of them."""

TRIED = 16  # items that time and memory are estimated by


@dataclass(frozen=True, eq=False)
class LabelledSource:
    """The items of other domains, of classes that the target has and of contents that it does not have.

    Attributes:
        sides: the collections, and the items of each.
        codes: of all items, as the target numbers its classes.
    """

    sides: tuple[tuple[Collection, Labelled], ...]
    codes: Int[np.ndarray, " items"]

    @cached_property
    def arrays(self) -> ModalityArrays:
        """The embeddings of all items."""
        return reduce(ModalityArrays.joined, (data.arrays for _, data in self.sides))

    @cached_property
    def groups(self) -> Int[np.ndarray, " items"]:
        """The group of each item; those of two collections are never of one."""
        named = [f"{side} {group}" for side, (_, data) in enumerate(self.sides) for group in data.groups.tolist()]
        return np.asarray(np.unique(named, return_inverse=True)[1])


def read_sources(
    sources: Sequence[str | Path], label: str, space: Space, target_data: Labelled, target: Target, device: Device
) -> LabelledSource | None:
    """Read the labelled items of other collections; None of none.

    Raises:
        LabelError: one has no item of a class of the target that the target itself does not have.
        ChiasmError: one is embedded otherwise.
    """
    known = {str(name): code for code, name in enumerate(target.names)}
    taken = set(target_data.contents)
    sides = []
    for source in sources:
        opened, data = labelled_source(source, label, target_data.fingerprints, space, device)
        rows = np.array(
            [
                row
                for row, (name, content) in enumerate(zip(data.labels, data.contents, strict=True))
                if str(name) in known and content not in taken
            ],
            dtype=np.int64,
        )
        if not len(rows):
            raise LabelError(
                f"the source {source} has no item of the classes {', '.join(list(known)[:5])} that the target does not have itself"
            )
        sides.append((opened, data.take(rows)))
    if not sides:
        return None
    return LabelledSource(tuple(sides), np.array([known[str(name)] for _, data in sides for name in data.labels]))


@dataclass(frozen=True)
class Estimate:
    """How long a climb takes at most, and what it needs.

    Attributes:
        seconds_before: until the first network learns.
        seconds_an_epoch: of all folds together.
        memory: bytes.
        disk: bytes.
    """

    seconds_before: float
    seconds_an_epoch: float
    memory: float
    disk: float

    def seconds(self, epochs: int) -> float:
        """Return how long so many epochs take."""
        return self.seconds_before + epochs * self.seconds_an_epoch

    def epochs_in(self, seconds: float) -> int:
        """Return how many epochs that is the time for."""
        return int((seconds - self.seconds_before) / self.seconds_an_epoch)


@dataclass(frozen=True, eq=False)
class Climbed:
    """A climb that was made.

    Attributes:
        report: what was measured.
        part: the network as a part of an encoder; None: it is not kept.
        data: the items, embedded by the networks that did not see them.
        rows: of these among the items of the climb; those whose only file could not be opened are missing.
    """

    report: TunedPart
    part: Part | None
    data: Labelled
    rows: Int[np.ndarray, " items"]


@dataclass(frozen=True, eq=False)
class Climb:
    """The comparison of one frozen network with the same one trained further.

    Attributes:
        collection: where the items are.
        networks: its encoders.
        space: that the items' shared vectors are in.
        data: the items, also with other modalities, which the recogniser takes into account.
        targets: the columns that are learned; items may lack values of several.
        modality: whose network is trained.
        recipe: how.
        folds: so many; at least 2.
        make: makes the recogniser that both are judged by.
        folder: for what a run that is stopped goes on with.
        device: where the network is trained.
        names: embedded names of classes or labels, for the recogniser of one column.
        whole: what is kept is trained once more, on all items; else it is the mean of the networks of the folds.
        keep: also if it is not better.
        source: labelled items of other domains to learn from as well, of one column of classes.
        say: called with each line for people.
    """

    collection: Collection
    networks: Sequence[Encoder]
    space: Space
    data: Labelled
    targets: Sequence[Target]
    modality: Modality
    recipe: Recipe
    folds: int
    make: Callable[[], Recognizer]
    folder: Path
    device: Device
    names: Mapping[str, Float[np.ndarray, " dim"]] = field(default_factory=dict)
    whole: bool = False
    keep: bool = False
    source: LabelledSource | None = None
    say: Callable[[str], None] = lambda _: None

    @property
    def encoder(self) -> Encoder:
        """The frozen network."""
        return first_of(self.networks)[self.modality]

    @cached_property
    def tower(self) -> Tower:
        """The network in training.

        Raises:
            EncoderError: it cannot be trained.
        """
        from chiasm.finetuning.towers import tower_of

        if self.recipe.method == "full":
            whole = tower_of(self.encoder, self.modality, None)
            return tower_of(self.encoder, self.modality, whole.blocks)
        return tower_of(self.encoder, self.modality, self.recipe.blocks)

    @cached_property
    def openers(self) -> list[Callable[[], Media]]:
        """Functions that open the media of the items, then of the source's."""
        sides: list[tuple[Collection, Sequence[str]]] = [
            (self.collection, [self.data.ids[row] for row in self._having])
        ]
        if self.source is not None:
            sides += [(collection, data.ids) for collection, data in self.source.sides]
        openers: list[Callable[[], Media]] = []
        for collection, ids in sides:
            items = items_of(collection)
            openers += [partial(open_medium, items[item], self.modality, self.encoder) for item in ids]
        return openers

    @property
    def _having(self) -> Int[np.ndarray, " rows"]:
        return np.flatnonzero(self.data.arrays.present[self.modality])

    def estimate(self) -> Estimate:
        """Return time and memory, by a few items that are put through everything once."""
        from chiasm.finetuning.trainer import estimate

        folder = self.folder.with_name(f"{self.folder.name}-tried-{os.getpid()}")
        cost = estimate(self.tower, self.openers[:TRIED], self.recipe, folder)
        views = len(self.openers) * (1 + self.recipe.views)
        labelled = len(self._having) * (self.folds if self.whole else self.folds - 1)
        if self.source is not None:
            labelled += len(self.source.codes) * (self.folds + self.whole)
        return Estimate(
            views * cost.seconds_a_view, labelled * cost.seconds_an_item, cost.memory, views * cost.bytes_a_view
        )

    def run(self) -> Climbed:
        """Train in folds, and judge the embeddings before and after."""
        from chiasm.finetuning import processes
        from chiasm.finetuning.items import Examples
        from chiasm.finetuning.trainer import embed
        from chiasm.finetuning.views import store_views

        begin = time.monotonic()
        with processes.first_alone():
            self._begin()
        with processes.first_alone():
            views = store_views(
                self.tower,
                self.openers,
                self.folder / "views",
                views=1 + self.recipe.views,
                seed=self.recipe.seed,
                augment=self.recipe.augment,
            )
        having = self._having
        sizes = [len(having), 0 if self.source is None else len(self.source.codes)]
        first, second = np.searchsorted(views.items, np.cumsum(sizes))
        own, of_source = having[views.items[:first]], views.items[first:second] - len(having)
        data, kept = self._opened(own)
        targets = [target.take(kept) for target in self.targets]
        rows = np.searchsorted(kept, own)
        source = None if self.source is None else self.source.arrays.take(of_source)
        source_codes = np.empty(0, dtype=np.int64) if self.source is None else self.source.codes[of_source]
        groups = data.groups[rows]
        if self.source is not None:
            groups = np.append(groups, self.source.groups[of_source] + groups.max() + 1)
        examples = Examples(
            tuple(_with_classes(target.take(rows), source_codes) for target in targets),
            np.unique(groups, return_inverse=True)[1],
            np.arange(second) >= first,
        )
        frozen = embed(self.tower, views, np.arange(second))
        embeddings = np.empty_like(frozen)
        tuned: list[Tuned] = []
        splits = self._splits([target.take(rows) for target in targets], data.groups[rows])
        for number, split in enumerate(steps(splits, "folds")):
            # Of the source, which all networks have seen, the first one's embeddings stand for all.
            measured = split.test if number else np.append(split.test, np.arange(first, second))
            tuned.append(self._train(f"fold-{number}", views, examples, split.train, frozen, measured))
            embeddings[measured] = tuned[-1].embeddings
        after = replace(data, arrays=with_embeddings(data.arrays, self.modality, rows, embeddings[:first], self.space))
        source_after = (
            None
            if source is None
            else with_embeddings(source, self.modality, np.arange(len(source)), embeddings[first:second], self.space)
        )
        frozen_judge = self._judge(data.arrays, targets, data.groups, source, source_codes)
        judge = self._judge(after.arrays, targets, data.groups, source_after, source_codes)
        before, held_out = (
            [held_out_of(target, one.columns_[target.column]) for target in targets] for one in (frozen_judge, judge)
        )
        compared = compare(targets, before, held_out)
        of_mean: Comparison | None = None
        weights: Mapping[str, torch.Tensor] | None = None
        if not self.whole:
            # Networks that went far apart have no mean that does what they do; items that it has seen are enough to tell.
            weights = mean_weights([one.weights for one in tuned])
            self.tower.set_weights(weights)
            seen = with_embeddings(
                data.arrays, self.modality, rows, embed(self.tower, views, np.arange(first)), self.space
            )
            of_mean = compare(targets, before, [_outputs(judge, target, seen) for target in targets])
        report = self._report(compared, of_mean, tuned, items=len(own), source_items=len(of_source))
        report = replace(report, left_out=len(self.openers) - len(views.items), seconds=time.monotonic() - begin)
        if not report.is_kept and not self.keep:
            return Climbed(report, None, after, kept)
        if weights is None:
            weights = self._train("all", views, examples, np.arange(first), frozen, np.arange(1)).weights
        return Climbed(report, self._part(weights, report), after, kept)

    def _opened(self, own: Int[np.ndarray, " own"]) -> tuple[Labelled, Int[np.ndarray, " kept"]]:
        """Return the items without the media that could not be opened, and which these are."""
        arrays = self.data.arrays
        is_open = np.zeros(len(arrays), dtype=bool)
        is_open[own] = True
        present: dict[Modality, Bool[np.ndarray, " items"]] = {**arrays.present, self.modality: is_open}
        kept = np.flatnonzero(np.any([*present.values()], axis=0))
        return replace(self.data, arrays=ModalityArrays(arrays.vectors, present, arrays.shared)).take(kept), kept

    def _begin(self) -> None:
        values: list[Any] = [
            self.data.ids,
            self.data.contents,
            *((target.column, target.kind, target.values.tolist()) for target in self.targets),
            self.data.groups.tolist(),
        ]
        if self.source is not None:
            values += [*((data.ids, data.contents) for _, data in self.source.sides), self.source.codes.tolist()]
        begin_work(self.folder, [self.encoder.fingerprint, asdict(self.recipe), self.folds, *values], self.say)

    def _splits(self, targets: Sequence[Target], groups: Int[np.ndarray, " items"]) -> tuple[Split, ...]:
        """Return the folds, each of which has something to learn of every column."""
        if self.folds < 2:
            raise LabelError(f"folds are 2 or more; got {self.folds}")
        number = min(self.folds, len(np.unique(groups)))
        splits = (
            grouped_stratified_folds(strata(targets), number, seed=self.recipe.seed, groups=groups)
            if number > 1
            else ()
        )
        for target in targets:
            if not splits or not all(target.take(split.train).teaches for split in splits):
                what = {"classes": "fewer than two classes", "labels": "no label that differs", "number": "one number"}
                raise LabelError(
                    f"no fold can be held out: without it, {what[target.kind]} of {target.column!r} is left to learn from. "
                    "Often most items are near-duplicates of one another, which are kept on one side: label others, or say "
                    "from which cosine on items count as near-duplicates (alike; above 1: never)"
                )
        return splits

    def _judge(
        self,
        arrays: ModalityArrays,
        targets: Sequence[Target],
        groups: Int[np.ndarray, " items"],
        source: ModalityArrays | None,
        source_codes: Int[np.ndarray, " source"],
    ) -> Recognizer:
        """Return a recogniser of all columns, with what its heads give for the items that they did not see."""
        return self.make().fit(
            arrays,
            list(targets),
            groups,
            names=self.names or None,
            source=None if source is None else SourceItems(source, targets[0].names[source_codes]),
        )

    def _train(
        self,
        name: str,
        views: Views,
        examples: Examples,
        rows: Int[np.ndarray, " rows"],
        frozen: Float[np.ndarray, "items dim"],
        measured: Int[np.ndarray, " measured"],
    ) -> Tuned:
        """Train on some of the items and on what stands beside them, unless that was done before."""
        from chiasm.finetuning.trainer import Tuned, train

        def learn(checkpoints: Path) -> Tuned:
            return train(
                self.tower,
                views,
                examples,
                np.append(rows, np.flatnonzero(examples.source)),
                self.recipe,
                checkpoints,
                frozen=frozen,
                measured=measured,
                device=self.device,
                say=self.say,
            )

        return train_once(self.folder / name, Tuned.load, learn)

    def _report(
        self,
        compared: Comparison,
        of_mean: Comparison | None,
        tuned: Sequence[Tuned],
        *,
        items: int,
        source_items: int,
    ) -> TunedPart:
        gain, error = compared.better_by, compared.standard_error
        is_sound = of_mean is None or all(one.tuned.loss <= one.frozen.loss for one in of_mean.columns)
        numbers = _words_of(compared)
        words = f"{self.modality}: {'better' if compared.is_better else 'not better'} than frozen features ({numbers})"
        if not is_sound:
            assert of_mean is not None
            told = ", ".join(one.words for one in of_mean.columns)
            words += (
                f"; not kept, since the mean of the networks of the {len(tuned)} folds does not do what they do ({told} of "
                "items that it has seen): they went too far apart, take a lower rate, fewer epochs or more folds"
            )
        return TunedPart(
            modality=self.modality,
            encoder=self.encoder.name,
            trained=f"{self.recipe.method}, the last {self.tower.blocks - self.tower.frozen} of {self.tower.blocks} blocks",
            items=items,
            source_items=source_items,
            left_out=0,
            folds=len(tuned),
            columns=compared.columns,
            better_by=gain,
            standard_error=error,
            is_better=compared.is_better,
            is_kept=is_sound and compared.is_better,
            words=words,
            seconds=0.0,
            items_per_second=float(np.mean([one.items_per_second for one in tuned])),
            batch_size=tuned[-1].batch_size,
            history=tuple(tuple(one.history) for one in tuned),
        )

    def _part(self, weights: Mapping[str, torch.Tensor], report: TunedPart) -> Part:
        """Return the network with these weights as a part of an encoder."""
        base, _ = base_of(self.collection.encoder)
        hashes = embedded_items(self.collection, self.data.ids, {self.modality: self.encoder.fingerprint}).hashes[
            self.modality
        ]
        about = {
            "base": base,
            "fingerprint_of_base": self.encoder.fingerprint,
            "licence": self.encoder.models()[0].licence,
            "labels": {target.column: target.names.tolist() for target in self.targets},
            "learned_from": sorted({*hashes} - {""}),
            "recipe": asdict(self.recipe),
            "result": replace(report, history=()).as_dict(),
        }

        def save(folder: Path) -> None:
            self.tower.set_weights(weights)
            self.tower.save(folder)

        return Part(self.tower.kind, save, self.tower.options, about)


def with_embeddings(
    arrays: ModalityArrays,
    modality: Modality,
    rows: Int[np.ndarray, " rows"],
    embeddings: Float[np.ndarray, "rows dim"],
    space: Space,
) -> ModalityArrays:
    """Return arrays with other embeddings of one modality, whose vectors in a space stand beside them anew."""
    every = np.zeros((len(arrays), embeddings.shape[1]), np.float32)
    every[rows] = embeddings
    own = modality_arrays(Embedded({modality: every}, {modality: arrays.present[modality]}, {}), space, [modality])
    return ModalityArrays(
        {**{other: array for other, array in arrays.vectors.items() if other != modality}, **own.vectors},
        arrays.present,
        {**{other: array for other, array in arrays.shared.items() if other != modality}, **own.shared},
    )


def begin_work(folder: Path, request: Sequence[Any], say: Callable[[str], None]) -> None:
    """Go on with what a run that was stopped left of the same work; remove what is of another one.

    Args:
        folder: of the work.
        request: all that makes the work what it is.
        say: called if it goes on.
    """
    from chiasm.finetuning.processes import is_first

    if not is_first():
        return
    key = {"key": digest_text(str(list(request)))}
    if folder.exists() and read_record(folder / "request.json") != key:
        shutil.rmtree(folder)
    if folder.exists():
        say(f"Going on where the last run stopped, in {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "request.json", strict_json(key))


def train_once(checkpoints: Path, load: Callable[[Path], Result | None], train: Callable[[Path], Result]) -> Result:
    """Return what was trained and saved before; else train, and save it in place of its checkpoints.

    Args:
        checkpoints: folder of the training; beside it the result is saved, under its name.
        load: reads a result; None: there is none.
        train: goes on from the checkpoints, in every process.
    """
    from chiasm.finetuning import processes

    path = checkpoints.with_name(f"{checkpoints.name}.safetensors")
    done = load(path)
    if done is not None:
        return done
    result = train(checkpoints)
    processes.wait()
    if processes.is_first():
        result.save(path)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return result


def base_of(name: str) -> tuple[str, dict[Modality, Part]]:
    """Return the base of an encoder, and the parts of it that were trained further before."""
    if not is_tuned(name):
        return name, {}
    about = read_about(Path(name).expanduser())
    parts: dict[Modality, Part] = {
        modality: Part(
            part["kind"],
            partial(shutil.copytree, Path(name).expanduser() / modality, dirs_exist_ok=True),
            part["options"],
            part["about"],
        )
        for modality, part in about["parts"].items()
    }
    return about["base"], parts


def open_medium(item: Item, modality: Modality, encoder: Encoder, number: int = 0) -> Media:
    """Open a medium of an item, the first of its modality by default, as its encoder sees it."""
    source: Source = [one for one in item.sources if one.modality == modality][number]
    if source.text is not None:
        return Text(source.text)
    assert source.path is not None
    return media.load(source.path, listed_as=modality, image_size=encoder.view.image_size, rate=encoder.view.rate)


def _with_classes(target: Target, codes: Int[np.ndarray, " more"]) -> Target:
    """Return a column with more items, of a source, whose classes are known."""
    if not len(codes):
        return target
    known = np.append(target.known, np.ones(len(codes), dtype=bool))
    return replace(target, values=np.append(target.values, codes), known=known)


def _outputs(judge: Recognizer, target: Target, arrays: ModalityArrays) -> Outputs:
    """Return what a recogniser gives for items that it may have seen, as `held_out_of` does for those that it has not."""
    column, known = judge.columns_[target.column], np.flatnonzero(target.known)
    outputs = column.every_output(arrays.take(known), column.features.modalities)
    return held_out_of(target, replace(column, held_out=outputs))


def _words_of(compared: Comparison) -> str:
    """Return what was measured."""
    gain, error = compared.better_by, compared.standard_error
    if len(compared.columns) == 1:
        loss = "squared error, in variances," if compared.columns[0].kind == "number" else "Brier score"
        return f"{compared.columns[0].words}, {loss} better by {gain:.3f} with a standard error of {error:.3f}"
    told = [f"{one.column!r} {one.words}" for one in compared.columns]
    worse = f", but {' and '.join(map(repr, compared.worse))} worse by more than a standard error" * bool(
        compared.worse
    )
    return (
        f"{', '.join(told)}; the mean loss of the columns, each in units of what guessing would lose, better by {gain:.3f} with "
        f"a standard error of {error:.3f}{worse}"
    )


def mean_weights(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of several networks' parameters (Wortsman et al. 2022, arXiv:2203.05482)."""
    return {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}  # type: ignore[misc]
