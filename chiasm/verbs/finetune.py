"""The verb `finetune`: train the networks of an encoder further on labelled items, and keep them where that is better."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float, Int

from chiasm import encoders, media
from chiasm._optional import require
from chiasm.cores import limit_threads
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part, is_tuned, read_about, write_tuned
from chiasm.errors import EncoderError, LabelError
from chiasm.evaluation.record import Record
from chiasm.files import digest_text, one_form, read_record, strict_json, write_whole
from chiasm.finetuning.recipe import Method, Recipe, Strategy
from chiasm.finetuning.results import Score, TunedPart
from chiasm.recognition import Recognizer, SourceItems
from chiasm.recognition.ladder import f1_macro, paired, tempered_brier
from chiasm.recognition.protocols import Items, cross_validate
from chiasm.recognition.targets import Target
from chiasm.space import Space
from chiasm.splits import Split, grouped_stratified_folds
from chiasm.store.collection import Collection
from chiasm.store.reembed import items_of
from chiasm.types import MODALITIES, Item, Media, Modality, Source, Text
from chiasm.vectors import log_softmax
from chiasm.verbs.dataset import Labelled, cell_value, class_names, embedded_items, labelled_items, labelled_source
from chiasm.verbs.measure import targets_of
from chiasm.verbs.model import check_report
from chiasm.verbs.spaces import start_of

if TYPE_CHECKING:
    import torch

    from chiasm.finetuning.towers import Tower
    from chiasm.finetuning.trainer import Examples, Tuned
    from chiasm.finetuning.views import Views

_USUAL: tuple[Modality, ...] = ("image", "text")
_TRIED = 16  # items that time and memory are estimated by
_LEAST = 1e-12  # probability whose logarithm is taken


@dataclass(frozen=True)
class FinetuneReport(Record):
    """The result of fine-tuning."""

    encoder: str  # the folder that was written; empty: none was better
    base: str
    label: str
    classes: tuple[str, ...]
    parts: tuple[TunedPart, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


@limit_threads()
def finetune(
    collection: str | Path,
    *,
    label: str,
    out: str | Path,
    modalities: Sequence[Modality] | None = None,
    source: str | Path | None = None,
    alpha: float = 0.5,
    strategy: Strategy = "joint",
    method: Method = "lora",
    blocks: int | None = None,
    rank: int = 8,
    epochs: int = 8,
    batch_size: int = 32,
    rate: float | None = None,
    head_rate: float = 1e-2,
    weight_decay: float = 1e-2,
    warmup: float = 0.1,
    label_smoothing: float = 0.1,
    focal: float = 0.0,
    class_weight: Literal["balanced"] | None = None,
    mixup: float = 0.2,
    views: int = 4,
    average: float = 0.5,
    patience: int = 3,
    folds: int = 3,
    where: str | None = None,
    group: str | None = None,
    alike: float = 0.97,
    keep: bool = False,
    report_to: Sequence[str] = (),
    report: str | Path | None = None,
    seed: int = 0,
    device: Device = "auto",
    on_message: Callable[[str], None] = lambda _: None,
) -> FinetuneReport:
    """Train the networks of a collection's encoder further on its labels, and write those that are better as an encoder.

    Each network is trained in several folds, and measured on the items that its fold holds out, beside the frozen features
    with their best head. It is kept if its Brier score is better by more than a standard error of the paired difference and
    its macro-F1 is not lower. What is written is the mean of the networks of the folds (Wortsman et al. 2022). A run that
    was stopped goes on where it was when the same is asked again.

    Args:
        collection: where the labelled items are.
        label: the column of classes to learn.
        out: folder to write, which does not exist yet; it is an encoder that every verb takes.
        modalities: whose networks are trained, each on its own. Default: pictures and texts, where the items have them.
        source: a collection of another domain, embedded alike, with the same column; its items of classes that the target
            has are learned from as well, and nothing is measured on them.
        alpha: weight of the source: the loss is `alpha * source + (1 - alpha) * target`.
        strategy: `"joint"`, or `"alternating"`: in every epoch first the source's batches train the network (the shared one)
            while its head (the adaptation network) is kept, then the target's train the head while the network is kept.
        method: what is trained of the last blocks: low-rank changes ("lora"), everything ("blocks"), biases and normalisations
            ("norms"); or the whole network ("full").
        blocks: how many last blocks. Default: a third.
        rank: of low-rank changes.
        epochs: passes over the items, at most.
        batch_size: items a step.
        rate: highest learning rate of the network. Default: one that suits the method.
        head_rate: highest learning rate of the classifier on top.
        weight_decay: of matrices.
        warmup: share of the steps in which the learning rates rise from 0; then they fall along a cosine.
        label_smoothing: share of the target that is spread over all classes.
        focal: exponent of the focal loss; 0: cross-entropy.
        class_weight: `"balanced"` gives every class the same total weight.
        mixup: both parameters of the Beta distribution that mixes pairs of pictures; 0: none.
        views: changed copies of every file, of which each epoch takes one.
        average: share of the trained weights in the average with those of the start.
        patience: epochs without a lower loss on held-out items after which training stops.
        folds: so many; at least 2.
        where: only items that meet this condition.
        group: column whose values keep items on one side of every split.
        alike: cosine from which two pictures or sounds count as near-duplicates; above 1 none do.
        keep: write the encoder even if it is not better.
        report_to: trackers that are installed: `"tensorboard"`, `"wandb"`, `"mlflow"`.
        report: also write a report as one .html, .md or .json file.
        seed: of everything that is drawn.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_message: called with each line for people.

    Raises:
        LabelError: no such column, it is not of classes, there is one class only, or the source has none of the classes.
        EncoderError: the encoder cannot be trained, or the folder exists.
        ChiasmError: the loss is no longer finite, or memory is too small.
        MissingExtraError: PyTorch and its libraries are not installed.
    """
    check_report(report)
    recipe = Recipe(
        method=method,
        blocks=blocks,
        rank=rank,
        epochs=epochs,
        batch_size=batch_size,
        rate=rate,
        head_rate=head_rate,
        weight_decay=weight_decay,
        warmup=warmup,
        label_smoothing=label_smoothing,
        focal=focal,
        class_weight=class_weight,
        mixup=mixup,
        views=views,
        average=average,
        patience=patience,
        alpha=alpha,
        strategy=strategy,
        seed=seed,
        report_to=tuple(report_to),
    )
    if source is None and strategy == "alternating":
        raise LabelError(
            "alternating is in turn between a source and a target, and there is no source. Name one (source)"
        )
    folder = Path(out)
    if folder.exists():
        raise EncoderError(
            f"{folder} exists. An encoder is not replaced, since collections are embedded by it: name a new folder"
        )
    for library in ("torch", "transformers", "accelerate", "sentence_transformers", "peft"):
        require(library, "train", "train an encoder")
    from chiasm.finetuning import processes

    processes.join(device)
    say = on_message if processes.is_first() else lambda _: None
    opened = Collection.open(collection)
    if encoders.uses_int8(opened.encoder):
        raise EncoderError(
            f"{opened.encoder!r} is in 8-bit integers, which cannot be trained. Move the collection to the encoder without "
            "int8 first (chiasm reembed)"
        )
    networks = encoders.resolve(opened.encoder, device=device)
    space = start_of(opened, networks)
    work = folder.with_name(f"{folder.name}.training")
    label = one_form(label)
    climbs = []  # all of what is wrong with the data is said before anything is trained
    for modality in _modalities(opened, networks, modalities, label):
        data = labelled_items(
            opened, networks, space, [label], modalities=[modality], where=where, group=group, alike=alike
        )
        target = _classes(data)
        beside = None if source is None else _read_source(source, label, space, data, target, device)
        climbs.append(
            _Climb(
                opened,
                networks,
                space,
                data,
                target,
                beside,
                modality,
                recipe,
                folds,
                keep,
                work / modality,
                device,
                say,
            )
        )
    reports, parts = [], dict[Modality, Part]()
    for climb in climbs:
        result, part = climb.run()
        reports.append(result)
        say(result.words)
        if result.is_better or keep:
            parts[climb.modality] = part
    processes.wait()
    with processes.first_alone():
        if parts and processes.is_first():
            base, others = _base(opened.encoder)
            write_tuned(folder, base, others | parts)
        shutil.rmtree(work, ignore_errors=True)
    finished = FinetuneReport(
        encoder=str(folder) if parts else "",
        base=opened.encoder,
        label=label,
        classes=tuple(str(name) for name in target.names),
        parts=tuple(reports),
        recipe=asdict(recipe),
    )
    if not processes.is_first():
        return finished
    if report is not None:
        _write_report(report, finished)
    return finished


def _modalities(
    collection: Collection, networks: Sequence[Encoder], asked: Sequence[Modality] | None, label: str
) -> list[Modality]:
    """Return the modalities whose networks are trained: those asked for, else pictures and texts of labelled items."""
    owner = first_of(networks)
    labelled = [row for row in collection.items() if cell_value(row.get(label)) is not None]
    present = {modality for row in labelled for modality in MODALITIES if row[modality]}
    usual: list[Modality] = [modality for modality in _USUAL if modality in owner and modality in present]
    chosen = usual if asked is None else list(dict.fromkeys(asked))
    for modality in chosen:
        if modality not in owner:
            raise LabelError(f"the encoder {collection.encoder!r} has {', '.join(owner)}, not {modality}")
    if not chosen and labelled:
        raise LabelError(
            f"no item with a value in {label!r} has a picture or a text. Name the modality to train on (modalities)"
        )
    if not chosen:
        return [next(iter(owner))]  # what is wrong with the column is said by whoever reads it
    if len({owner[modality].fingerprint for modality in chosen}) < len(chosen):
        if asked is not None:
            raise EncoderError(f"{owner[chosen[0]].name} is one network for {' and '.join(chosen)}: name one of them")
        return chosen[:1]
    return chosen


def _classes(data: Labelled) -> Target:
    (target,) = targets_of(data, "auto")
    if target.kind != "classes":
        raise LabelError(
            f"{target.column!r} is a column of {target.kind}, and fine-tuning learns classes. Name a column of classes"
        )
    return target


def _base(name: str) -> tuple[str, dict[Modality, Part]]:
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


@dataclass(frozen=True, eq=False)
class _Source:
    """The items of another domain, of classes that the target has and of contents that it does not have."""

    collection: Collection
    data: Labelled
    codes: Int[np.ndarray, " items"]  # as the target numbers its classes


def _read_source(
    source: str | Path,
    label: str,
    space: Space,
    target_data: Labelled,
    target: Target,
    device: Device,
) -> _Source:
    """Read the labelled items of another collection.

    Raises:
        LabelError: it has no item of a class of the target that the target itself does not have.
        ChiasmError: it is embedded otherwise.
    """
    opened, data = labelled_source(source, label, target_data.fingerprints, space, device)
    known = {str(name): code for code, name in enumerate(target.names)}
    taken = set(target_data.contents)
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
    data = data.take(rows)
    return _Source(opened, data, np.array([known[str(name)] for name in data.labels]))


@dataclass(frozen=True, eq=False)
class _Climb:
    """The comparison of one frozen network with the same one trained further."""

    collection: Collection
    networks: Sequence[Encoder]
    space: Space
    data: Labelled
    target: Target
    source: _Source | None
    modality: Modality
    recipe: Recipe
    folds: int
    keep: bool
    folder: Path
    device: Device
    say: Callable[[str], None]

    def run(self) -> tuple[TunedPart, Part]:
        """Train in folds until it is known whether that is better."""
        from chiasm.finetuning import processes
        from chiasm.finetuning.trainer import embed
        from chiasm.finetuning.views import store_views

        begin = time.monotonic()
        encoder = first_of(self.networks)[self.modality]
        tower = self._tower(encoder)
        with processes.first_alone():
            self._begin(encoder)
        openers = self._openers(encoder)
        self.say(self._estimate(tower, openers))
        with processes.first_alone():
            views = store_views(
                tower, openers, self.folder / "views", views=1 + self.recipe.views, seed=self.recipe.seed
            )
        own = views.items[views.items < len(self.data.ids)]
        data, codes = self.data.take(own), self.target.values[own]
        examples = self._examples(data, codes, views.items[len(own) :] - len(self.data.ids))
        splits = self._splits(codes, data.groups)
        frozen_log = self._frozen(data, codes, len(splits))
        frozen = embed(tower, views)
        tuned_log = np.full(frozen_log.shape, np.nan)
        tuned: list[Tuned] = []
        for number, split in enumerate(splits):
            tuned.append(self._train(tower, views, examples, split, frozen, number))
            tuned_log[split.test] = _spread(tuned[-1], split.test, frozen_log.shape[1])
            gain, error = paired(tempered_brier(frozen_log, codes), tempered_brier(tuned_log, codes))
            if gain < -error and not self.keep:
                break
        frozen_log[np.isnan(tuned_log).all(axis=1)] = np.nan
        scores = [_score(log, codes) for log in (frozen_log, tuned_log)]
        is_better = gain > error and scores[1].f1_macro >= scores[0].f1_macro
        result = TunedPart(
            modality=self.modality,
            encoder=encoder.name,
            trained=f"{self.recipe.method}, the last {tower.blocks - tower.frozen} of {tower.blocks} blocks",
            items=len(codes),
            source_items=int(examples.source.sum()),
            left_out=len(openers) - len(views.items),
            folds=f"{len(tuned)} of {len(splits)} folds",
            frozen=scores[0],
            tuned=scores[1],
            better_by=gain,
            standard_error=error,
            is_better=is_better,
            words=self._words(is_better, scores, gain, error, len(tuned), len(splits)),
            seconds=time.monotonic() - begin,
            items_per_second=float(np.mean([one.items_per_second for one in tuned])),
            batch_size=tuned[-1].batch_size,
            history=tuple(tuple(one.history) for one in tuned),
        )
        return result, self._part(tower, tuned, result, encoder)

    def _tower(self, encoder: Encoder) -> Tower:
        from chiasm.finetuning.towers import tower_of

        if self.recipe.method == "full":
            whole = tower_of(encoder, self.modality, None)
            return tower_of(encoder, self.modality, whole.blocks)
        return tower_of(encoder, self.modality, self.recipe.blocks)

    def _begin(self, encoder: Encoder) -> None:
        """Go on with what a run that was stopped left of the same work; remove what is of another one."""
        from chiasm.finetuning.processes import is_first

        if not is_first():
            return
        values = [self.data.ids, self.data.contents, self.target.values.tolist(), self.data.groups.tolist()]
        if self.source is not None:
            values += [self.source.data.ids, self.source.data.contents, self.source.codes.tolist()]
        request = {"key": digest_text(str([encoder.fingerprint, asdict(self.recipe), self.folds, *values]))}
        if self.folder.exists() and read_record(self.folder / "request.json") != request:
            shutil.rmtree(self.folder)
        if self.folder.exists():
            self.say(f"Going on where the last run stopped, in {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "request.json", strict_json(request))

    def _openers(self, encoder: Encoder) -> list[Callable[[], Media]]:
        """Return what opens the media of the target's items, then of the source's."""
        openers: list[Callable[[], Media]] = []
        sides = [(self.collection, self.data)]
        if self.source is not None:
            sides.append((self.source.collection, self.source.data))
        for collection, data in sides:
            items = items_of(collection)
            openers += [partial(_open, items[item], self.modality, encoder) for item in data.ids]
        return openers

    def _examples(
        self, data: Labelled, codes: Int[np.ndarray, " items"], of_source: Int[np.ndarray, " source"]
    ) -> Examples:
        """Return the classes of the target's items, then of the source's."""
        from chiasm.finetuning.trainer import Examples

        groups, source = data.groups, np.zeros(len(codes), dtype=bool)
        if self.source is not None:
            theirs = self.source.data.groups[of_source] + groups.max() + 1
            codes, groups = np.append(codes, self.source.codes[of_source]), np.append(groups, theirs)
            source = np.append(source, np.ones(len(of_source), dtype=bool))
        return Examples(codes, np.unique(groups, return_inverse=True)[1], source)

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

    def _frozen(
        self, data: Labelled, codes: Int[np.ndarray, " items"], folds: int
    ) -> Float[np.ndarray, "items classes"]:
        """Return log-probabilities of held-out items by the frozen features and their best head."""
        names = class_names(self.target.names.tolist(), self.space, self.networks, data.arrays)
        source = None
        if self.source is not None:
            source = SourceItems(self.source.data.arrays, self.target.names[self.source.codes])
        items = Items.check(data.arrays, self.target.names[codes], data.groups, names=names or None, source=source)
        result = cross_validate(
            lambda: Recognizer(random_state=self.recipe.seed), items, folds=folds, seed=self.recipe.seed
        )
        log = np.full((len(codes), len(self.target.names)), np.log(_LEAST))
        log[:, np.searchsorted(self.target.names, result.classes)] = np.log(np.maximum(result.probabilities, _LEAST))
        return log

    def _train(
        self,
        tower: Tower,
        views: Views,
        examples: Examples,
        split: Split,
        frozen: Float[np.ndarray, "items dim"],
        number: int,
    ) -> Tuned:
        from chiasm.finetuning import processes
        from chiasm.finetuning.trainer import Tuned, train

        path = self.folder / f"fold-{number}.safetensors"
        done = Tuned.load(path)
        if done is not None:
            return done
        checkpoints = self.folder / f"fold-{number}"
        rows = np.append(split.train, np.flatnonzero(examples.source))
        tuned = train(
            tower, views, examples, rows, self.recipe, checkpoints, frozen=frozen, device=self.device, say=self.say
        )
        processes.wait()
        if processes.is_first():
            tuned.save(path)
            shutil.rmtree(checkpoints, ignore_errors=True)
        return tuned

    def _estimate(self, tower: Tower, openers: Sequence[Callable[[], Media]]) -> str:
        """Say how long it will take and how much memory, by a few items that are put through everything once."""
        from chiasm.finetuning.trainer import estimate

        cost = estimate(tower, openers[:_TRIED], self.recipe, self.folder / f"tried-{os.getpid()}")
        epochs = self.recipe.epochs * (self.folds - 1) * 0.8  # a fifth of what is learned from is held out to stop by
        seconds = len(openers) * ((1 + self.recipe.views) * cost.seconds_a_view + epochs * cost.seconds_an_item)
        size = len(openers) * (1 + self.recipe.views) * cost.bytes_a_view
        return (
            f"{self.modality}: {len(openers)} items, {self.recipe.method} on the last {tower.blocks - tower.frozen} of "
            f"{tower.blocks} blocks in {self.folds} folds: at most about {max(1, round(seconds / 60))} min, "
            f"{cost.memory / 2**20:.0f} MB of memory and {size / 2**20:.0f} MB of disk"
        )

    def _words(self, is_better: bool, scores: Sequence[Score], gain: float, error: float, done: int, folds: int) -> str:
        frozen, tuned = scores
        numbers = (
            f"macro-F1 {tuned.f1_macro:.2f} against {frozen.f1_macro:.2f}, Brier score better by {gain:.3f} with a standard "
            f"error of {error:.3f}"
        )
        measured = f"{done} folds" if done == folds else f"given up after {done} of {folds} folds"
        if is_better:
            return f"{self.modality}: better than frozen features ({numbers}; {measured})"
        end = "written anyway" if self.keep else "nothing written, --keep writes it anyway"
        return f"{self.modality}: not better than frozen features ({numbers}; {measured}); {end}"

    def _part(self, tower: Tower, tuned: Sequence[Tuned], result: TunedPart, encoder: Encoder) -> Part:
        """Return the mean of the networks of the folds as a part of an encoder."""
        base, _ = _base(self.collection.encoder)
        hashes = embedded_items(self.collection, self.data.ids, {self.modality: encoder.fingerprint}).hashes[
            self.modality
        ]
        about = {
            "base": base,
            "fingerprint_of_base": encoder.fingerprint,
            "licence": encoder.models()[0].licence,
            "label": self.target.column,
            "classes": self.target.names.tolist(),
            "learned_from": sorted({*hashes} - {""}),
            "recipe": asdict(self.recipe),
            "result": replace(result, history=()).as_dict(),
        }

        def save(folder: Path) -> None:
            tower.set_weights(_mean([one.weights for one in tuned]))
            tower.save(folder)

        return Part(tower.kind, save, tower.options, about)


def _open(item: Item, modality: Modality, encoder: Encoder) -> Media:
    """Open the first medium of an item, as its encoder sees it."""
    source: Source = next(one for one in item.sources if one.modality == modality)
    if source.text is not None:
        return Text(source.text)
    assert source.path is not None
    return media.load(source.path, listed_as=modality, image_size=encoder.view.image_size, rate=encoder.view.rate)


def _spread(tuned: Tuned, rows: Int[np.ndarray, " rows"], classes: int) -> Float[np.ndarray, "rows classes"]:
    """Return the log-probabilities of some rows, a column a class; classes that were not learned from have hardly any."""
    log = np.full((len(rows), classes), np.log(_LEAST))
    log[:, tuned.known] = log_softmax(tuned.logits[rows].astype(np.float64))
    return log


def _score(log: Float[np.ndarray, "items classes"], codes: Int[np.ndarray, " items"]) -> Score:
    known = np.isfinite(log).any(axis=1)
    return Score(
        f1_macro(log, codes),
        float((log[known].argmax(axis=1) == codes[known]).mean()),
        float(np.nanmean(tempered_brier(log, codes))),
    )


def _mean(weights: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: sum(one[name] for one in weights) / len(weights) for name in weights[0]}  # type: ignore[misc]


def _write_report(path: str | Path, result: FinetuneReport) -> None:
    from chiasm.report.page import Page
    from chiasm.report.sections import show_tuned

    page = Page(
        f"Fine-tuning on {result.label}",
        f"Encoder {result.encoder or '(none was better)'}, trained from {result.base}.",
    )
    for part in result.parts:
        show_tuned(page, part)
    page.save(path)
