"""The verb `finetune`: train the networks of an encoder further on labels or pairs, and keep them where that is better."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from chiasm import encoders
from chiasm._optional import require
from chiasm.cores import limit_threads
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part, write_tuned
from chiasm.errors import EncoderError, LabelError
from chiasm.evaluation.record import Record
from chiasm.finetuning.recipe import OF_PAIRS, Recipe, RecipeOptions
from chiasm.finetuning.results import TunedPairs, TunedPart
from chiasm.recognition import Recognizer
from chiasm.recognition.targets import Target
from chiasm.space import Space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.climb import Climb, base_of, read_sources
from chiasm.verbs.dataset import (
    Sources,
    cell_value,
    class_names,
    each_source,
    label_columns,
    labelled_items,
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
    label: str  # several columns with commas between
    classes: tuple[str, ...]  # of one column
    parts: tuple[TunedPart, ...]
    pairs: TunedPairs | None = None  # of `--pairs`, which has neither a label nor parts
    recipe: dict[str, Any] = field(default_factory=dict)


@limit_threads()
def finetune(
    collection: str | Path,
    *,
    label: str | Sequence[str] | None = None,
    pairs: tuple[Modality, Modality] | None = None,
    out: str | Path,
    modalities: Sequence[Modality] | None = None,
    source: Sources = None,
    folds: int = 3,
    where: str | None = None,
    group: str | None = None,
    alike: float = 0.97,
    keep: bool = False,
    report: str | Path | None = None,
    device: Device = "auto",
    on_message: Callable[[str], None] = lambda _: None,
    **options: Unpack[RecipeOptions],
) -> FinetuneReport:
    """Train the networks of a collection's encoder further on its labels or pairs, and write those that are better.

    Each network is trained in several folds. The same recogniser is fitted on frozen embeddings and on those of each item by
    the network of the fold that held it out. The network is kept if the Brier score is better by more than a standard error of
    the paired difference and macro-F1 is not lower; of several columns, if the mean of their losses is, and none is worse by
    more. What is written has then been trained on all items. A run that was stopped goes on where it was when the same is asked
    again.

    Args:
        collection: where the labelled items are.
        label: the column to learn, of classes, of several labels an item or of numbers, or several columns, also as one text with
            commas between: one network learns all of them, and items that lack some values count in the others.
        pairs: instead of a label, two modalities that items have both of: each is to be found by the other. Measured by hit@10
            of held-out pairs both ways, beside the frozen embeddings, as `align` brings them together.
        out: folder to write, which does not exist yet; it is an encoder that every verb takes.
        modalities: whose networks are trained, each on its own. Default: pictures and texts, where the items have them; of pairs
            both.
        source: a collection of another domain, or several, embedded alike, with the same column of classes or such pairs; items
            of classes that this one has are learned from as well, and nothing is measured on them. Each counts by its size.
        folds: so many; at least 2.
        where: only items that meet this condition.
        group: column whose values keep items on one side of every split.
        alike: cosine from which two pictures or sounds count as near-duplicates; above 1 none do.
        keep: write the encoder even if it is not better.
        report: also write a report as one .html, .md or .json file.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_message: called with each line for people.
        options: how it is trained: `chiasm.finetuning.recipe.Recipe` says what each of them means.

    Raises:
        LabelError: no such column, there is nothing to learn in it, the source has none of the classes, or there is a
            source and anything but one column of classes.
        SpaceError: too few items have both modalities of the pairs.
        EncoderError: the encoder cannot be trained, or the folder exists.
        ChiasmError: an option is out of its range, the loss is no longer finite, or memory is too small.
        MissingExtraError: PyTorch and its libraries are not installed.
        TypeError: there is no option of such a name.
    """
    check_report(report)
    chosen: RecipeOptions = options if pairs is None else {**OF_PAIRS, **options}
    recipe = Recipe(**chosen)
    sources = each_source(source)
    _check_request(label, pairs, modalities, recipe, sources)
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
    request = _Request(opened, networks, space, recipe, folder, sources, folds, where, group, alike, keep, device, say)
    if pairs is not None:
        result = request.learn_pairs(pairs, modalities)
    else:
        assert label is not None
        result = request.learn_labels(label_columns(opened, label), modalities)
    if report is not None and processes.is_first():
        _write_report(report, result)
    return result


def _check_request(
    label: str | Sequence[str] | None,
    pairs: tuple[Modality, Modality] | None,
    modalities: Sequence[Modality] | None,
    recipe: Recipe,
    sources: Sequence[str | Path],
) -> None:
    """Refuse what does not go together, before anything is opened."""
    if (label is None) == (pairs is None):
        raise LabelError(
            "fine-tuning learns a label or pairs, one of the two. Name a column (label) or two modalities (pairs)"
        )
    if pairs is not None:
        _check_options_of_pairs(pairs, modalities, recipe)
    if not sources and recipe.strategy == "alternating":
        raise LabelError(
            "alternating is in turn between a source and a target, and there is no source. Name one (source)"
        )


@dataclass(frozen=True, eq=False)
class _Request:
    """A request for either kind of fine-tuning; see `finetune`."""

    collection: Collection
    networks: Sequence[Encoder]
    space: Space
    recipe: Recipe
    folder: Path
    sources: Sequence[str | Path]
    folds: int
    where: str | None
    group: str | None
    alike: float
    keep: bool
    device: Device
    say: Callable[[str], None]

    @property
    def work(self) -> Path:
        """The folder for what a run that is stopped goes on with."""
        return self.folder.with_name(f"{self.folder.name}.training")

    def learn_pairs(self, pairs: tuple[Modality, Modality], modalities: Sequence[Modality] | None) -> FinetuneReport:
        """Train two networks on pairs."""
        limits: dict[str, Any] = {"where": self.where, "group": self.group, "alike": self.alike}
        data = read_pairs(self.collection, self.space, pairs, self.sources, **limits, device=self.device)
        climb = PairClimb(
            self.networks,
            base_of(self.collection.encoder)[0],
            self.space,
            data,
            modalities or pairs,
            self.recipe,
            self.folds,
            self.keep,
            self.work / "pairs",
            self.device,
            self.say,
        )
        result, parts = climb.run()
        self.say(result.words)
        return replace(self._finish(parts if result.is_better or self.keep else {}), pairs=result)

    def learn_labels(self, columns: Sequence[str], modalities: Sequence[Modality] | None) -> FinetuneReport:
        """Train the network of each modality on one column or several."""
        # All of what is wrong with the data is said before anything is trained.
        climbs = [
            self._climb(columns, modality)
            for modality in _modalities(self.collection, self.networks, modalities, columns)
        ]
        reports, parts = [], dict[Modality, Part]()
        for climb in climbs:
            self.say(_cost(climb))
            climbed = climb.run()
            reports.append(climbed.report)
            if climbed.part is not None:
                parts[climb.modality] = climbed.part
            self.say(climbed.report.words + _outcome(climbed.report, self.keep))
        names = tuple(str(name) for name in climbs[-1].targets[0].names) if len(columns) == 1 else ()
        return replace(self._finish(parts), label=",".join(columns), classes=names, parts=tuple(reports))

    def _climb(self, columns: Sequence[str], modality: Modality) -> Climb:
        data = labelled_items(
            self.collection,
            self.networks,
            self.space,
            columns,
            modalities=[modality],
            where=self.where,
            group=self.group,
            alike=self.alike,
        )
        for column, values in data.values.items():
            if all(value is None for value in values):
                raise LabelError(
                    f"no item with an embedding of {modality} has a value in {column!r}. Leave the column out, or name the "
                    "modalities of the items that have one (modalities)"
                )
        targets = targets_of(data, "auto")
        _check_options_of_columns(targets, self.recipe, self.sources)
        only = targets[0]
        is_named = len(targets) == 1 and only.kind != "number"
        return Climb(
            self.collection,
            self.networks,
            self.space,
            data,
            targets,
            modality,
            self.recipe,
            self.folds,
            lambda: Recognizer(unknown=None, random_state=self.recipe.seed),
            self.work / modality,
            self.device,
            names=class_names(only.names.tolist(), self.space, self.networks, data.arrays) if is_named else {},
            whole=True,
            keep=self.keep,
            source=read_sources(self.sources, only.column, self.space, data, only, self.device),
            say=self.say,
        )

    def _finish(self, parts: Mapping[Modality, Part]) -> FinetuneReport:
        """Write the parts of an encoder, if there are any, and remove what the run has left."""
        from chiasm.finetuning import processes

        processes.wait()
        with processes.first_alone():
            if parts and processes.is_first():
                owner, (base, others) = first_of(self.networks), base_of(self.collection.encoder)
                # A model that is written as a whole holds what was trained of it before.
                new = {owner[modality].fingerprint for modality in parts}
                kept = {modality: part for modality, part in others.items() if owner[modality].fingerprint not in new}
                write_tuned(self.folder, base, {**kept, **parts})
            shutil.rmtree(self.work, ignore_errors=True)
        encoder = str(self.folder) if parts else ""
        return FinetuneReport(encoder, self.collection.encoder, "", (), (), recipe=asdict(self.recipe))


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
    pairs: tuple[Modality, Modality], modalities: Sequence[Modality] | None, recipe: Recipe
) -> None:
    """Refuse options that say how labels are learned, and networks of other modalities."""
    others = sorted(set(modalities or ()) - set(pairs))
    if others:
        raise LabelError(f"pairs of {' and '.join(pairs)} train the networks of these, not of {', '.join(others)}")
    usual = Recipe()
    of_labels = (
        "strategy",
        "head_rate",
        "label_smoothing",
        "focal",
        "class_weight",
        "mixup",
        "cutmix",
        "dropout",
        "sampling",
    )
    named = [name for name in of_labels if getattr(recipe, name) != getattr(usual, name)]
    if named:
        raise LabelError(f"{' and '.join(named)} go with a label; pairs have no classes. Leave them out")


def _check_options_of_columns(targets: Sequence[Target], recipe: Recipe, sources: Sequence[str | Path]) -> None:
    """Refuse options that are for one column of classes, or for any."""
    kinds = [one.kind for one in targets]
    if sources and kinds != ["classes"]:
        what = "several columns" if len(kinds) > 1 else f"{targets[0].column!r}, a column of {kinds[0]}"
        raise LabelError(f"source: only for one column of classes, not for {what}. Leave it out")
    usual = Recipe()
    told = [
        name
        for name in ("label_smoothing", "focal", "class_weight", "sampling")
        if getattr(recipe, name) != getattr(usual, name)
    ]
    if told and "classes" not in kinds:
        raise LabelError(f"{' and '.join(told)}: only where a column of classes is learned. Leave it out")


def _modalities(
    collection: Collection, networks: Sequence[Encoder], asked: Sequence[Modality] | None, columns: Sequence[str]
) -> list[Modality]:
    """Return the modalities whose networks are trained: those asked for, else pictures and texts of labelled items."""
    owner = first_of(networks)
    labelled = [row for row in collection.items() if any(cell_value(row.get(name)) is not None for name in columns)]
    present = {modality for row in labelled for modality in MODALITIES if row[modality]}
    usual: list[Modality] = [modality for modality in _USUAL if modality in owner and modality in present]
    chosen = usual if asked is None else list(dict.fromkeys(asked))
    for modality in chosen:
        if modality not in owner:
            raise LabelError(f"the encoder {collection.encoder!r} has {', '.join(owner)}, not {modality}")
    if not chosen and labelled:
        raise LabelError(
            f"no item with a value in {' or '.join(map(repr, columns))} has a picture or a text. Name the modality to train on (modalities)"
        )
    if not chosen:
        return [next(iter(owner))]  # what is wrong with the column is said by whoever reads it
    if len({owner[modality].fingerprint for modality in chosen}) < len(chosen):
        if asked is not None:
            raise EncoderError(f"{owner[chosen[0]].name} is one network for {' and '.join(chosen)}: name one of them")
        return chosen[:1]
    return chosen


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
