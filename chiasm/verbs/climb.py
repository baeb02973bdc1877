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
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.results import Score, TunedPart
from chiasm.recognition import ModalityArrays, Recognizer, SourceItems
from chiasm.recognition.adaptation import Adaptation
from chiasm.recognition.heads import Log
from chiasm.recognition.ladder import f1_macro, paired, tempered_brier
from chiasm.recognition.targets import Target
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
_LEAST = 1e-12  # probability whose logarithm is taken


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


@dataclass(frozen=True, eq=False)
class Unlabelled:
    """Items of the domain that a network is to be good at, none of their labels known.

    Attributes:
        collection: where they are.
        ids: of those that are learned from; none where that could hurt.
        adaptation: whether it could, and why.
    """

    collection: Collection
    ids: tuple[str, ...]
    adaptation: Adaptation


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
        target: their classes.
        modality: whose network is trained.
        recipe: how.
        folds: so many; at least 2.
        make: makes the recogniser that both are judged by.
        folder: for what a run that is stopped goes on with.
        device: where the network is trained.
        names: embedded names of classes, for the recogniser.
        whole: what is kept is trained once more, on all items; else it is the mean of the networks of the folds.
        keep: also if it is not better.
        source: labelled items of other domains to learn from as well.
        unlabelled: items of the domain that the network is to be good at.
        say: called with each line for people.
    """

    collection: Collection
    networks: Sequence[Encoder]
    space: Space
    data: Labelled
    target: Target
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
    unlabelled: Unlabelled | None = None
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
        """Functions that open the media of the items, then of the source's, then of those without a label."""
        sides: list[tuple[Collection, Sequence[str]]] = [
            (self.collection, [self.data.ids[row] for row in self._having])
        ]
        if self.source is not None:
            sides += [(collection, data.ids) for collection, data in self.source.sides]
        if self.unlabelled is not None:
            sides.append((self.unlabelled.collection, self.unlabelled.ids))
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
        learned = labelled * (2 if self.unlabelled is not None and self.unlabelled.ids else 1)
        return Estimate(
            views * cost.seconds_a_view, learned * cost.seconds_an_item, cost.memory, views * cost.bytes_a_view
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
                self.tower, self.openers, self.folder / "views", views=1 + self.recipe.views, seed=self.recipe.seed
            )
        having = self._having
        sizes = [len(having), 0 if self.source is None else len(self.source.codes)]
        first, second = np.searchsorted(views.items, np.cumsum(sizes))
        own, of_source = having[views.items[:first]], views.items[first:second] - len(having)
        data, kept = self._opened(own)
        rows = np.searchsorted(kept, own)
        codes = self.target.values[kept]
        source = None if self.source is None else self.source.arrays.take(of_source)
        source_codes = np.empty(0, dtype=np.int64) if self.source is None else self.source.codes[of_source]
        groups = data.groups[rows]
        if self.source is not None:
            groups = np.append(groups, self.source.groups[of_source] + groups.max() + 1)
        examples = Examples(
            np.append(codes[rows], source_codes),
            np.unique(groups, return_inverse=True)[1],
            np.arange(second) >= first,
        )
        frozen = embed(self.tower, views, np.arange(second))
        embeddings = np.empty_like(frozen)
        tuned: list[Tuned] = []
        splits = self._splits(codes[rows], data.groups[rows])
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
        _, before = self._judge(data.arrays, codes, data.groups, source, source_codes)
        judge, log = self._judge(after.arrays, codes, data.groups, source_after, source_codes)
        logs = [before, log]
        weights: Mapping[str, torch.Tensor] | None = None
        if not self.whole:
            # Networks that went far apart have no mean that does what they do; items that it has seen are enough to tell.
            weights = mean_weights([one.weights for one in tuned])
            self.tower.set_weights(weights)
            seen = embed(self.tower, views, np.arange(first))
            seen_arrays = with_embeddings(data.arrays, self.modality, rows, seen, self.space)
            logs.append(self._spread(np.log(np.maximum(judge.predict_proba(seen_arrays), _LEAST)), judge))
        report = self._report(logs, codes, tuned, items=len(own), source_items=len(of_source))
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
            self.target.values.tolist(),
            self.data.groups.tolist(),
        ]
        if self.source is not None:
            values += [*((data.ids, data.contents) for _, data in self.source.sides), self.source.codes.tolist()]
        if self.unlabelled is not None:
            values.append(self.unlabelled.ids)
        begin_work(self.folder, [self.encoder.fingerprint, asdict(self.recipe), self.folds, *values], self.say)

    def _splits(self, codes: Int[np.ndarray, " items"], groups: Int[np.ndarray, " items"]) -> tuple[Split, ...]:
        """Return the folds, each of which has two classes at least to learn from."""
        if self.folds < 2:
            raise LabelError(f"folds are 2 or more; got {self.folds}")
        number = min(self.folds, len(np.unique(groups)))
        splits = grouped_stratified_folds(codes, number, seed=self.recipe.seed, groups=groups) if number > 1 else ()
        if any(len(np.unique(codes[split.train])) < 2 for split in splits) or not splits:
            raise LabelError(
                "no fold can be held out: without it, fewer than two classes are left to learn from. Often most items are "
                "near-duplicates of one another, which are kept on one side: label others, or say from which cosine on items "
                "count as near-duplicates (alike; above 1: never)"
            )
        return splits

    def _judge(
        self,
        arrays: ModalityArrays,
        codes: Int[np.ndarray, " items"],
        groups: Int[np.ndarray, " items"],
        source: ModalityArrays | None,
        source_codes: Int[np.ndarray, " source"],
    ) -> tuple[Recognizer, Log]:
        """Return a recogniser, and log-probabilities of each item by its heads that did not see it."""
        names = self.target.names
        recognizer = self.make().fit(
            arrays,
            names[codes],
            groups,
            names=self.names or None,
            source=None if source is None else SourceItems(source, names[source_codes]),
        )
        (fitted,) = recognizer.columns_.values()
        assert fitted.held_out is not None  # of a recogniser that was just fitted there always are
        return recognizer, self._spread(fitted.held_out, recognizer)

    def _spread(self, own: Log, recognizer: Recognizer) -> Log:
        """Return log-probabilities of a recogniser's classes as those of all; NaN where it has none."""
        names = self.target.names
        log = np.full((len(own), len(names)), np.nan)
        scored = np.flatnonzero(np.isfinite(own).any(axis=1))
        log[scored] = -np.inf
        log[np.ix_(scored, np.searchsorted(names, recognizer.classes_))] = own[scored]
        return log

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
                unlabelled=np.arange(len(examples.codes), len(views.items)),
                device=self.device,
                say=self.say,
            )

        return train_once(self.folder / name, Tuned.load, learn)

    def _report(
        self,
        logs: Sequence[Log],
        codes: Int[np.ndarray, " items"],
        tuned: Sequence[Tuned],
        *,
        items: int,
        source_items: int,
    ) -> TunedPart:
        gain, error = paired(*(tempered_brier(log, codes) for log in logs[:2]))
        frozen, better, *mean = (_score(log, codes) for log in logs)
        is_sound = all(one.brier <= frozen.brier for one in mean)
        is_better = gain > error and better.f1_macro >= frozen.f1_macro
        adapts = self.unlabelled is not None and bool(self.unlabelled.ids)
        numbers = (
            f"macro-F1 {better.f1_macro:.2f} against {frozen.f1_macro:.2f}, Brier score better by {gain:.3f} with a standard "
            f"error of {error:.3f}"
        )
        words = f"{self.modality}: {'better' if is_better else 'not better'} than frozen features ({numbers})"
        if adapts:
            words = (
                f"{self.modality}: learned from the target without its labels, so that nothing can be measured there; of the "
                f"labelled items {'no' if gain > -error else 'recognised'} worse than frozen features ({numbers})"
            )
        if not is_sound:
            words += (
                f"; not kept, since the mean of the networks of the {len(tuned)} folds does not do what they do (macro-F1 "
                f"{mean[0].f1_macro:.2f} of items that it has seen): they went too far apart, take a lower rate, fewer epochs or more folds"
            )
        return TunedPart(
            modality=self.modality,
            encoder=self.encoder.name,
            trained=f"{self.recipe.method}, the last {self.tower.blocks - self.tower.frozen} of {self.tower.blocks} blocks",
            items=items,
            source_items=source_items,
            left_out=0,
            folds=len(tuned),
            frozen=frozen,
            tuned=better,
            better_by=gain,
            standard_error=error,
            is_better=is_better,
            is_kept=is_sound and (is_better or (adapts and gain > -error)),
            words=words,
            target="" if adapts or self.unlabelled is None else self.unlabelled.adaptation.sentence,
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
            "label": self.target.column,
            "classes": self.target.names.tolist(),
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


def _score(log: Log, codes: Int[np.ndarray, " items"]) -> Score:
    known = np.isfinite(log).any(axis=1)
    return Score(
        f1_macro(log, codes),
        float((log[known].argmax(axis=1) == codes[known]).mean()),
        float(np.nanmean(tempered_brier(log, codes))),
    )


def mean_weights(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of several networks' parameters (Wortsman et al. 2022, arXiv:2203.05482)."""
    return {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}  # type: ignore[misc]
