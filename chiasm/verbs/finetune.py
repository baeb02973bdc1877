"""The verb `finetune`: train the networks of an encoder further on labels or pairs, and keep them where that is better."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from chiasm import encoders
from chiasm._optional import require
from chiasm.cores import limit_threads
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part, write_tuned
from chiasm.errors import EncoderError, LabelError
from chiasm.evaluation.record import Record
from chiasm.files import one_form
from chiasm.finetuning.recipe import Method, Optimizer, Recipe, Schedule, Strategy
from chiasm.finetuning.results import TunedPairs, TunedPart
from chiasm.recognition import Recognizer
from chiasm.recognition.adaptation import Shares
from chiasm.recognition.targets import Target
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.climb import Climb, Unlabelled, base_of, read_sources
from chiasm.verbs.dataset import (
    Labelled,
    Sources,
    cell_value,
    class_names,
    each_source,
    embedded_items,
    labelled_items,
    target_items,
)
from chiasm.verbs.finetune_pairs import PairClimb, read_pairs
from chiasm.verbs.measure import targets_of
from chiasm.verbs.model import check_report
from chiasm.verbs.spaces import start_of

_USUAL: tuple[Modality, ...] = ("image", "text")


@dataclass(frozen=True)
class FinetuneReport(Record):
    """The result of fine-tuning."""

    encoder: str  # the folder that was written; empty: none was better
    base: str
    label: str
    classes: tuple[str, ...]
    parts: tuple[TunedPart, ...]
    pairs: TunedPairs | None = None  # of `--pairs`, which has neither a label nor parts
    recipe: dict[str, Any] = field(default_factory=dict)


@limit_threads()
def finetune(
    collection: str | Path,
    *,
    label: str | None = None,
    pairs: tuple[Modality, Modality] | None = None,
    out: str | Path,
    modalities: Sequence[Modality] | None = None,
    source: Sources = None,
    alpha: float = 0.5,
    strategy: Strategy = "joint",
    target: str | Path | None = None,
    shares: Shares = "auto",
    method: Method | None = None,
    blocks: int | None = None,
    rank: int = 8,
    epochs: int = 8,
    batch_size: int | None = None,
    optimizer: Optimizer = "adamw",
    schedule: Schedule = "cosine",
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
    """Train the networks of a collection's encoder further on its labels or pairs, and write those that are better.

    Each network is trained in several folds. The same recogniser is fitted on frozen embeddings and on those of each item by
    the network of the fold that held it out. The network is kept if the Brier score is better by more than a standard error of
    the paired difference and macro-F1 is not lower; with a target, which has no labels to measure by, if the Brier score on the
    labelled items is not worse by more than that. What is written has then been trained on all items. A run that was stopped goes
    on where it was when the same is asked again.

    Args:
        collection: where the labelled items are.
        label: the column of classes to learn.
        pairs: instead of a label, two modalities that items have both of: each is to be found by the other. Measured by hit@10
            of held-out pairs both ways, beside the frozen embeddings, as `align` brings them together.
        out: folder to write, which does not exist yet; it is an encoder that every verb takes.
        modalities: whose networks are trained, each on its own. Default: pictures and texts, where the items have them; of pairs
            both.
        source: a collection of another domain, or several, embedded alike, with the same column or such pairs; items of classes
            that the target has are learned from as well, and nothing is measured on them. Each counts by its size.
        alpha: weight of the source: the loss is `alpha * source + (1 - alpha) * target`.
        strategy: `"joint"`, or `"alternating"`: in every epoch first the source's batches train the network (the shared one)
            while its head (the adaptation network) is kept, then the target's train the head while the network is kept.
        target: a collection of another domain, embedded alike, that the network is to be good at. Its labels, if it has any, are
            not looked at: of as many of its items as are labelled here, classes are to be confused less (Jin et al. 2020),
            unless that could hurt (`chiasm.recognition.adaptation`). Not together with a source.
        shares: whether the classes are as frequent in the target, see `fit`.
        method: what is trained of the last blocks: low-rank changes ("lora"), everything ("blocks"), biases and normalisations
            ("norms"); or the whole network ("full"). Default: everything from labels, low-rank changes from pairs.
        blocks: how many last blocks. Default: a third.
        rank: of low-rank changes.
        epochs: passes over the items, at most.
        batch_size: items a step. Default: 32, and 128 pairs, which are told apart.
        optimizer: `"adamw"`, or `"sgd"` with Nesterov's momentum of 0.9, which takes other rates.
        schedule: of the learning rates after the warm-up: `"cosine"` or `"linear"` to 0, `"constant"`, or `"step"`, to a tenth
            after each third.
        rate: highest learning rate of the network. Default: one that suits the method.
        head_rate: highest learning rate of the classifier on top.
        weight_decay: of matrices.
        warmup: share of the steps in which the learning rates rise from 0.
        label_smoothing: share of the target that is spread over all classes.
        focal: exponent of the focal loss; 0: cross-entropy.
        class_weight: `"balanced"` gives every class the same total weight.
        mixup: both parameters of the Beta distribution that mixes pairs of pictures; 0: none.
        views: changed copies of every file, of which each epoch takes one.
        average: share of the trained weights in the average with those of the start.
        patience: epochs without a lower loss on a fifth of the items, held out for that, after which training stops; 0: never.
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
        LabelError: no such column, it is not of classes, there is one class only, the source has none of the classes, or there is
            a source beside a target.
        SpaceError: too few items have both modalities of the pairs.
        EncoderError: the encoder cannot be trained, or the folder exists.
        ChiasmError: the loss is no longer finite, or memory is too small.
        MissingExtraError: PyTorch and its libraries are not installed.
    """
    check_report(report)
    recipe = Recipe(
        method=method or ("lora" if pairs else "blocks"),
        blocks=blocks,
        rank=rank,
        epochs=epochs,
        batch_size=(32 if pairs is None else 128) if batch_size is None else batch_size,
        optimizer=optimizer,
        schedule=schedule,
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
    sources = each_source(source)
    if (label is None) == (pairs is None):
        raise LabelError(
            "fine-tuning learns a label or pairs, one of the two. Name a column (label) or two modalities (pairs)"
        )
    if pairs is not None:
        _check_options_of_pairs(pairs, modalities, recipe, target)
    if not sources and strategy == "alternating":
        raise LabelError(
            "alternating is in turn between a source and a target, and there is no source. Name one (source)"
        )
    if target is not None and sources:
        raise LabelError(
            "with a target, which has no labels, the collection itself is the source: leave the source out, or finetune the "
            "target with its own labels and a source"
        )
    if target is None and shares != "auto":
        raise LabelError("shares are those of a target's classes, and there is none. Name it, or leave them out")
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
    if pairs is not None:
        data_of_pairs = read_pairs(opened, space, pairs, sources, where=where, group=group, alike=alike, device=device)
        base = base_of(opened.encoder)[0]
        pair_climb = PairClimb(
            networks, base, space, data_of_pairs, modalities or pairs, recipe, folds, keep, work / "pairs", device, say
        )
        of_pairs, tuned = pair_climb.run()
        say(of_pairs.words)
        finished = _finish(opened, networks, folder, work, tuned if of_pairs.is_better or keep else {}, recipe)
        finished = replace(finished, pairs=of_pairs)
        if report is not None and processes.is_first():
            _write_report(report, finished)
        return finished
    assert label is not None
    label = one_form(label)
    climbs = []  # all of what is wrong with the data is said before anything is trained
    for modality in _modalities(opened, networks, modalities, label):
        data = labelled_items(
            opened, networks, space, [label], modalities=[modality], where=where, group=group, alike=alike
        )
        classes = _classes(data)
        climbs.append(
            Climb(
                opened,
                networks,
                space,
                data,
                classes,
                modality,
                recipe,
                folds,
                lambda: Recognizer(unknown=None, random_state=seed),
                work / modality,
                device,
                names=class_names(classes.names.tolist(), space, networks, data.arrays),
                whole=True,
                keep=keep,
                source=read_sources(sources, label, space, data, classes, device),
                unlabelled=None
                if target is None
                else _unlabelled(target, opened, networks, space, data, classes, shares, modality, seed, device),
                say=say,
            )
        )
    reports, parts = [], dict[Modality, Part]()
    for climb in climbs:
        if climb.unlabelled is not None and not climb.unlabelled.ids:
            say(climb.unlabelled.adaptation.sentence)
        say(_cost(climb))
        climbed = climb.run()
        result = climbed.report
        reports.append(result)
        if climbed.part is not None:
            parts[climb.modality] = climbed.part
        say(result.words + _outcome(result, keep))
    finished = _finish(opened, networks, folder, work, parts, recipe)
    finished = replace(finished, label=label, classes=tuple(str(name) for name in classes.names), parts=tuple(reports))
    if report is not None and processes.is_first():
        _write_report(report, finished)
    return finished


def _finish(
    collection: Collection,
    networks: Sequence[Encoder],
    folder: Path,
    work: Path,
    parts: Mapping[Modality, Part],
    recipe: Recipe,
) -> FinetuneReport:
    """Write the parts of an encoder, if there are any, and remove what the run has left."""
    from chiasm.finetuning import processes

    processes.wait()
    with processes.first_alone():
        if parts and processes.is_first():
            owner, (base, others) = first_of(networks), base_of(collection.encoder)
            # A model that is written as a whole holds what was trained of it before.
            new = {owner[modality].fingerprint for modality in parts}
            kept = {modality: part for modality, part in others.items() if owner[modality].fingerprint not in new}
            write_tuned(folder, base, {**kept, **parts})
        shutil.rmtree(work, ignore_errors=True)
    return FinetuneReport(str(folder) if parts else "", collection.encoder, "", (), (), recipe=asdict(recipe))


def _cost(climb: Climb) -> str:
    """Return in words how long a climb will take, and how much memory."""
    cost, recipe, tower = climb.estimate(), climb.recipe, climb.tower
    return (
        f"{climb.modality}: {len(climb.openers)} items, {recipe.method} on the last {tower.blocks - tower.frozen} of "
        f"{tower.blocks} blocks in {climb.folds} folds: at most about {max(1, round(cost.seconds(recipe.epochs) / 60))} min, "
        f"{cost.memory / 2**20:.0f} MB of memory and {cost.disk / 2**20:.0f} MB of disk"
    )


def _outcome(result: TunedPart, keep: bool) -> str:
    if result.is_kept:
        return "; written"
    return "; written anyway" if keep else "; nothing written, --keep writes it anyway"


def _check_options_of_pairs(
    pairs: tuple[Modality, Modality], modalities: Sequence[Modality] | None, recipe: Recipe, target: str | Path | None
) -> None:
    """Refuse options that say how labels are learned, and networks of other modalities."""
    others = sorted(set(modalities or ()) - set(pairs))
    if others:
        raise LabelError(f"pairs of {' and '.join(pairs)} train the networks of these, not of {', '.join(others)}")
    usual = Recipe()
    of_labels = ("strategy", "head_rate", "label_smoothing", "focal", "class_weight", "mixup")
    named = [name for name in of_labels if getattr(recipe, name) != getattr(usual, name)]
    named += [] if target is None else ["target"]
    if named:
        raise LabelError(f"{' and '.join(named)} go with a label; pairs have no classes. Leave them out")


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


def _unlabelled(
    domain: str | Path,
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    data: Labelled,
    target: Target,
    shares: Shares,
    modality: Modality,
    seed: int,
    device: Device,
) -> Unlabelled:
    """Return the items of the target to learn from without labels: at most as many as are labelled; none if it could hurt.

    Files that are among the labelled ones are left out, since these are measured on.

    Raises:
        ChiasmError: it is the collection itself, embedded otherwise, or has no items with the modality.
    """
    other, ids, arrays = target_items(domain, collection, networks, space, [modality], device)
    judge = Recognizer(adapter="linear", unknown=None, shares=shares, random_state=seed)
    adaptation = judge.fit(data.arrays, target.names[target.values], data.groups, domain=arrays).details_.adaptation
    assert adaptation is not None  # with a domain there is one
    fingerprint = {modality: data.fingerprints[modality]}
    taken = {*embedded_items(collection, data.ids, fingerprint).hashes[modality]}
    theirs = embedded_items(other, ids, fingerprint).hashes[modality]
    free = [item for item, content in zip(ids, theirs, strict=True) if content not in taken]
    drawn = np.random.default_rng(seed).permutation(len(free))[: len(data.ids)]
    chosen = () if adaptation.way == "none" else tuple(free[number] for number in np.sort(drawn))
    return Unlabelled(other, chosen, adaptation)


def _write_report(path: str | Path, result: FinetuneReport) -> None:
    from chiasm.report.page import Page
    from chiasm.report.sections import show_tuned, show_tuned_pairs

    on = result.label if result.pairs is None else f"pairs of {' and '.join(result.pairs.modalities)}"
    page = Page(
        f"Fine-tuning on {on}",
        f"Encoder {result.encoder or '(none was better)'}, trained from {result.base}.",
    )
    for part in result.parts:
        show_tuned(page, part)
    if result.pairs is not None:
        show_tuned_pairs(page, result.pairs)
    page.save(path)
