"""The verb `fit`: train a recogniser on the labelled items of a collection, measure it, and save it as a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Int, Int64

from chiasm import encoders
from chiasm.cores import limit_threads
from chiasm.encoders.base import Encoder, fingerprints_of, first_of
from chiasm.encoders.licence import models_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, LabelError, SpaceError
from chiasm.evaluation.predictions import Predictions
from chiasm.evaluation.record import Record
from chiasm.finetuning.results import TunedPart
from chiasm.privacy import DELTA, ITEM, Promise
from chiasm.recognition import ModalityArrays, Recognizer, RungOptions, SourceItems
from chiasm.recognition.adaptation import Shares
from chiasm.recognition.columns import FusionName
from chiasm.recognition.heads import RungName
from chiasm.recognition.protocols import Items
from chiasm.recognition.targets import Kind, Target
from chiasm.recognition.tuning import SamplerName
from chiasm.recognition.unlabelled import SemiName
from chiasm.space import Space
from chiasm.splits import few_shot_split, holdout_split
from chiasm.store.collection import Collection
from chiasm.types import Modality
from chiasm.verbs.dataset import (
    Labelled,
    Sources,
    class_names,
    each_source,
    embedded_items,
    label_columns,
    labelled_items,
    labelled_source,
    target_items,
    taught_by,
)
from chiasm.verbs.last_rung import LastRung, climb_last
from chiasm.verbs.measure import (
    FOLDS,
    Names,
    cross_validated,
    details_of,
    duplicates,
    held_out,
    left_out_of,
    measure_columns,
    predictions,
    strange_names,
    targets_of,
)
from chiasm.verbs.model import HeldOut, Model, check_report, reference_of, save_model
from chiasm.verbs.protocols import ProtocolName, run_protocols
from chiasm.verbs.ranking import owner_number
from chiasm.verbs.spaces import SavedSpace, space_of, start_of

if TYPE_CHECKING:
    from chiasm.recognition.tuning import Tuning

HELD_OUT = 0.2  # share of the items, whole groups, that several columns are measured on


@dataclass(frozen=True)
class FitReport(Record):
    """A fitted recogniser and how well it does on items it did not see."""

    model: str
    label: str
    classes: tuple[str, ...]
    modalities: tuple[Modality, ...]
    items: int  # trained on
    unlabelled: int  # items without a value in the label column, left out
    measured: str  # on what the metrics were measured, in words
    metrics: dict[str, Any]
    chosen: dict[str, Any]
    """Choices made on held-out items, see `chiasm.recognition.columns.Details`; of several columns, by name."""
    unknown_classes: dict[str, str]  # classes of a source that the target lacks, left out: how many items, in words
    duplicates: str  # how many items are alike, and what a random split would have done with them, in words
    target: str = ""  # the collection without labels that it is to be good at, see `chosen["adaptation"]`
    finetuned: tuple[str, ...] = ()  # what came of training the encoder further, a line a network
    encoder: str = ""  # that was written beside the model, since it was better
    also: dict[str, Any] = field(default_factory=dict)  # by the names asked for with `also`, and `tuning`
    privacy: dict[str, Any] = field(default_factory=dict)  # what was promised to the items, see `chiasm.verbs.private`


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of `fit`, which documents them; paths and callbacks apart."""

    task: Kind | Literal["auto"] = "auto"
    modalities: Sequence[Modality] | None = None
    shots: int | None = None
    where: str | None = None
    group: str | None = None
    alike: float = 0.97
    adapter: RungName | Literal["auto"] = "auto"
    fusion: FusionName | Literal["auto"] = "auto"
    names: bool = True
    source: Sources = None
    space: str | None = None
    alpha: float | Literal["auto"] = "auto"
    target: str | Path | None = None
    shares: Shares = "auto"
    semi: SemiName | None = None
    class_weight: Literal["balanced"] | None = None
    tune: int = 0
    sampler: SamplerName = "tpe"
    nested: bool = False
    finetune: float | None = None
    also: Sequence[ProtocolName] = ()
    log_dir: str | Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.also) - set(get_args(ProtocolName)))
        if unknown:
            raise ChiasmError(f"also takes {', '.join(get_args(ProtocolName))}; got {unknown[0]!r}")
        if self.shots is not None and self.nested:
            raise ChiasmError("nested measures by folds, shots on the items that were not drawn: take one of them")
        if self.target is None and self.shares != "auto":
            raise ChiasmError("shares are those of a target's classes, and there is none. Name it, or leave them out")
        apart = (
            "shots",
            "adapter",
            "fusion",
            "source",
            "alpha",
            "semi",
            "class_weight",
            "tune",
            "nested",
            "also",
            "log_dir",
        )
        others = [name for name in apart if getattr(self, name) != getattr(FitOptions, name)]
        if self.target is not None and others:
            raise ChiasmError(
                f"{', '.join(others)}: not together with a target, which the collection is the source of and which has no labels "
                "to choose or measure by. Leave it out; a target with some labels is fitted itself: chiasm fit TARGET --source"
            )
        if self.finetune is not None and not self.finetune > 0:
            raise ChiasmError(
                f"finetune is the minutes that training the encoder may take, above 0; got {self.finetune!r}"
            )
        frozen = ("shots", "adapter", "source", "space", "target", "semi", "tune", "nested", "also")
        others = [name for name in frozen if getattr(self, name) != getattr(FitOptions, name)]
        if self.finetune is not None and others:
            raise ChiasmError(
                f"{', '.join(others)}: not together with finetune, the last rung of the ladder that fit climbs on all items. Leave "
                "it out, or train the encoder first: chiasm finetune, chiasm reembed"
            )

    def check(self, targets: Sequence[Target]) -> None:
        """Refuse what is for one column of classes only.

        Raises:
            ChiasmError: says which options these are.
        """
        if len(targets) == 1 and targets[0].kind == "classes":
            return
        everywhere = {"task", "modalities", "where", "group", "alike", "space", "finetune", "seed"}
        given = [name for name, value in vars(self).items() if value != getattr(FitOptions, name)]
        if len(targets) == 1 and targets[0].kind == "labels":
            everywhere.add("names")
        refused = [name for name in given if name not in everywhere]
        if refused:
            what = "several columns" if len(targets) > 1 else f"{targets[0].column!r}, a column of {targets[0].kind}"
            raise ChiasmError(f"{', '.join(refused)}: only for one column of classes, not for {what}. Leave it out")


@limit_threads()
def fit(
    collection: str | Path,
    *,
    label: str | Sequence[str],
    out: str | Path,
    task: Kind | Literal["auto"] = "auto",
    modalities: Sequence[Modality] | None = None,
    shots: int | None = None,
    where: str | None = None,
    group: str | None = None,
    alike: float = 0.97,
    adapter: RungName | Literal["auto"] = "auto",
    fusion: FusionName | Literal["auto"] = "auto",
    names: bool = True,
    source: Sources = None,
    space: str | None = None,
    alpha: float | Literal["auto"] = "auto",
    target: str | Path | None = None,
    shares: Shares = "auto",
    semi: SemiName | None = None,
    class_weight: Literal["balanced"] | None = None,
    tune: int = 0,
    sampler: SamplerName = "tpe",
    nested: bool = False,
    finetune: float | None = None,
    also: Sequence[ProtocolName] = (),
    log_dir: str | Path | None = None,
    report: str | Path | None = None,
    on_trial: Callable[[Any], None] | None = None,
    seed: int = 0,
    epsilon: float | None = None,
    delta: float = DELTA,
    unit: str = ITEM,
    device: Device = "auto",
) -> FitReport:
    """Train a recogniser on the labelled items of a collection and save it as a folder.

    Args:
        collection: where the items are; or a file that `statistics` wrote with a label. Where this or a source is a file, the
            model is a ridge head on the sums of all of them, each item counting the same: exactly that of all items together.
        label: the column to predict, or several, also as one text with commas between. Items without a value are left out; of several
            columns, items need one.
        out: the folder to write; a model that is there is replaced, and kept (`revert`).
        task: what the column holds: `"classes"`, `"labels"` (several an item, with ";" or "|" between) or `"number"`.
            `"auto"` looks at the values. Only one column of classes has the choices from `shots` on (but `group`, `alike` and `finetune`):
            numbers and labels are predicted by ridge and logistic regression, several columns also by one network that
            learns them together, each column by what is better on held-out items.
        modalities: what to learn from. Default: all that the items have. Any subset works when predicting.
        shots: train on so many items a class, drawn at random, and measure on the rest. Default: train on all, and
            measure each item by heads that did not see it (five folds).
        where: only items that meet this condition.
        group: column whose values keep items on one side of every split, such as the recording or patient they are of.
        alike: cosine of the embeddings of two pictures, sounds or videos from which they count as near-duplicates and are
            kept on one side of every split, too; above 1 none do.
        adapter: the rung of the ladder, or `"auto"`, see `chiasm.recognition.Recognizer`.
        fusion: how modalities are joined, or `"auto"`, see there.
        names: whether the names of the classes, embedded in the collection's space, count as one more shot each.
        source: a collection of another domain, or several, embedded alike, with the same column; their items of classes that the target
            has are learned from as well.
        space: path of a space that another collection learned (its folder, or that collection, whose newest it is then), or
            the name of one: names of classes and modalities meet in it, and the model takes it along. Default: the start, in
            which nothing was learned. One that learned from contents of these items is refused: the model would be measured
            on what it knows.
        alpha: weight of the source, or `"auto"`.
        target: a collection of another domain, embedded alike, that the recogniser is to be good at. Its labels, if it has
            any, are not looked at: the items of the collection are moved among those of the target, unless that could hurt
            (`chiasm.recognition.adaptation`). Nothing can be measured there without labels, so the numbers are of the
            collection.
        shares: whether the classes are as frequent in the target: `"same"`, `"other"`, or `"auto"`, which leaves it alone
            where they seem not to be.
        semi: how items without a label are used.
        class_weight: `"balanced"` gives every class the same total weight.
        tune: so many trials of a search for hyperparameters (Optuna); what is not `"auto"` above stays as it is. The study
            is kept beside the model as MODEL.study and gone on with when the same is asked again.
        sampler: of the search: `"tpe"` or `"random"`.
        nested: measure by fitting everything anew in each of five outer folds. Without it, what was chosen (rung, fusion)
            was chosen on the items that it is measured on, which is slightly optimistic and takes a fifth of the time.
        finetune: minutes that the last rung of the ladder may take, as estimated before: the networks of pictures and texts are
            trained further on the labels (`chiasm.finetune`), one after the other, and kept where held-out items are recognised
            better by more than a standard error. Then the encoder is written beside the model as MODEL.encoder, and the
            model takes what it embeds.
        also: extra experiments: `"learning-curve"` (1, 2, 5, 10 and 20 shots), `"held-out-classes"` (classes
            known by their name only), `"incremental"` (classes added later), `"random-split"` (what a split that puts
            copies on both sides would have shown), `"balance"` (weights and sampling of classes, and a gated fusion).
            Each fits many recognisers.
        log_dir: folder for TensorBoard's logs of the networks.
        report: also write a report as one .html, .md or .json file.
        on_trial: called with every trial of the search.
        seed: of the draw and of the folds.
        epsilon: differential privacy: whether an item was among those that are learned from changes the odds of any model by at most
            exp(epsilon). Only `where`, `modalities`, `delta` and `unit` go with it: see docs/privacy.md.
        delta: probability with which that may not hold.
        unit: column whose values say which items belong together, such as a patient; the promise is to each of these then.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: no such column, one class only, classes too small for `shots`, a column of unique ids.
        SpaceError: there is no such space, it is of other encoders, or it learned from these items.
        ChiasmError: the source or target is embedded otherwise, the target is the collection itself or has nothing to adapt
            to, a choice that there is not, or choices that do not go together.
    """
    check_report(report)
    if epsilon is None and (delta, unit) != (DELTA, ITEM):
        raise ChiasmError("delta and unit go with epsilon, the promise of differential privacy: name it, too")
    options = FitOptions(
        task=task, modalities=modalities, shots=shots, where=where, group=group, alike=alike, adapter=adapter,
        fusion=fusion, names=names, source=source, space=space, alpha=alpha, target=target, shares=shares, semi=semi,
        class_weight=class_weight, tune=tune, sampler=sampler, nested=nested, finetune=finetune, also=also, log_dir=log_dir,
        seed=seed,
    )  # fmt: skip
    if epsilon is not None:
        return _fit_privately(collection, label, out, Promise(epsilon, delta, unit), options, report, device)
    if any(Path(one).is_file() for one in (collection, *each_source(source))):
        if report is not None:
            raise ChiasmError(
                "a report shows items, and files of statistics hold none. Leave it out: chiasm evaluate --report"
            )
        return _fit_pooled(collection, label, out, options, device)
    run = _read(collection, label, options, device)
    last = None
    if finetune is not None:
        last = climb_last(
            run.collection, run.networks, run.space, run.data, run.targets,
            names=run.names, make=run.make(None), minutes=finetune, out=Path(out), seed=seed, device=device,
        )  # fmt: skip
        run = replace(run, data=last.data, targets=list(last.targets))
    train = run.training_rows()
    tuning = run.search(train, study=Path(f"{out}.study"), on_trial=on_trial) if tune else None
    recognizer, measured_on, measured = run.fit_and_measure(train, tuning)
    measured += taught_by(run.collection, run.networks, run.data.ids)
    if last is not None and last.encoder:
        measured += ". Each is embedded by a network that was trained further without it"
    also_found = run_protocols(also, run.make(tuning), run.items(np.arange(len(run.data.ids))), seed) if also else {}
    result = FitReport(
        model=str(Path(out)),
        label=run.label,
        classes=tuple(str(name) for name in run.targets[0].names) if len(run.targets) == 1 else (),
        modalities=tuple(run.data.fingerprints),
        items=len(train),
        unlabelled=0 if run.data.unlabelled is None else len(run.data.unlabelled),
        measured=measured,
        metrics=measure_columns(measured_on),
        chosen=details_of(recognizer),
        unknown_classes={} if run.source is None else strange_names(run.source.labels, run.targets[0].names.tolist()),
        duplicates=duplicates(run.data, run.targets[0], seed),
        target="" if target is None else str(target),
        finetuned=() if last is None else last.words,
        encoder="" if last is None else last.encoder,
        also={name: value.as_dict() for name, value in also_found.items()}
        | ({} if tuning is None else {"tuning": tuning.as_dict()}),
    )
    save_model(Path(out), run.model(recognizer, train, result, last))
    if report is not None:
        about = {"encoder": result.encoder or run.collection.encoder, "seed": str(seed)}
        tried = {} if last is None else last.tried
        _write_report(report, result, recognizer, measured_on, tuning, also_found, about, tried)
    return result


def _fit_pooled(
    collection: str | Path, label: str | Sequence[str], out: str | Path, options: FitOptions, device: Device
) -> FitReport:
    """Fit on sums of several parties, see `chiasm.verbs.pooled`."""
    from chiasm.verbs.pooled import fit_pooled

    allowed = {"source", "modalities", "where"}
    others = [
        name for name, value in vars(options).items() if name not in allowed and value != getattr(FitOptions, name)
    ]
    names = [label] if isinstance(label, str) else [*label]
    if others or len(names) != 1:
        what = ", ".join(others) or "several columns"
        raise LabelError(
            f"{what}: not with files of statistics, which hold sums of one column and no items. Leave it out"
        )
    parties = [collection, *each_source(options.source)]
    return fit_pooled(parties, names[0], out=out, modalities=options.modalities, where=options.where, device=device)


def _fit_privately(
    collection: str | Path,
    label: str | Sequence[str],
    out: str | Path,
    promise: Promise,
    options: FitOptions,
    report: str | Path | None,
    device: Device,
) -> FitReport:
    """Fit with differential privacy, see `chiasm.verbs.private`; what looks at the items more than once is refused."""
    from chiasm.verbs.private import fit_private_model

    given = {name for name, value in vars(options).items() if value != getattr(FitOptions, name)}
    refused = sorted(given - {"modalities", "where"}) + (["report"] if report is not None else [])
    if refused:
        raise ChiasmError(
            f"{', '.join(refused)}: not together with epsilon, which is spent by every look at the items. Leave it out"
        )
    return fit_private_model(
        collection, label, promise, Path(out), modalities=options.modalities, where=options.where, device=device
    )


def _read(collection: str | Path, label: str | Sequence[str], options: FitOptions, device: Device) -> _Run:
    """Read what `fit` learns from."""
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    saved = None if options.space is None else space_of(opened, networks, options.space)
    space = start_of(opened, networks) if saved is None else saved.space
    columns = label_columns(opened, label)
    modalities = options.modalities
    domain = (
        None if options.target is None else target_items(options.target, opened, networks, space, modalities, device)[2]
    )
    data = labelled_items(
        opened,
        networks,
        space,
        columns,
        modalities=modalities if domain is None else domain.modalities,
        where=options.where,
        group=options.group,
        alike=options.alike,
    )
    if saved is not None:
        _refuse_taught(opened, saved, data)
    targets = targets_of(data, options.task)
    options.check(targets)
    source: SourceItems | None = None
    contents: tuple[str, ...] = ()
    if each_source(options.source):
        source, contents = source_items(options.source, columns[0], data.fingerprints, space, device)
    is_named = options.names and len(targets) == 1 and targets[0].kind != "number"
    names = class_names(targets[0].names.tolist(), space, networks, data.arrays) if is_named else {}
    collected = _collected(opened, networks, tuple(data.fingerprints))
    return _Run(
        opened,
        networks,
        space,
        saved is not None,
        ",".join(columns),
        options,
        data,
        targets,
        names,
        source,
        contents,
        domain,
        collected,
    )


def _collected(
    collection: Collection, networks: Sequence[Encoder], modalities: Sequence[Modality]
) -> Int64[np.ndarray, " items"]:
    """Return the numbers of the contents that a collection has, labelled or not; see `Model.collected`."""
    fingerprints = fingerprints_of(networks)
    has = embedded_items(collection, collection.ids(), {modality: fingerprints[modality] for modality in modalities})
    rows = np.flatnonzero(np.any([*has.present.values()], axis=0))
    return np.array([owner_number(content) for content in has.contents(modalities, rows)], dtype=np.int64)


def _refuse_taught(collection: Collection, saved: SavedSpace, data: Labelled) -> None:
    """Refuse a space that was learned from contents of some of the items.

    Raises:
        SpaceError: it was.
    """
    hashes = embedded_items(collection, data.ids, data.fingerprints).hashes
    taught = {item for one in saved.left_out.values() for item in (*one.hashes, *one.others)}
    count = sum(not taught.isdisjoint(of_item) for of_item in zip(*hashes.values(), strict=True))
    if count:
        raise SpaceError(
            f"{count} of the {len(data.ids)} items have contents that the space {saved.space.name!r} was learned from, so a "
            "model would be measured on what it knows. Leave them out (where), or take another space"
        )


@dataclass(frozen=True, eq=False)
class _Run:
    """The data that `fit` learns from, and its steps."""

    collection: Collection
    networks: Sequence[Encoder]
    space: Space
    is_learned: bool  # the space, which the model takes along then
    label: str
    options: FitOptions
    data: Labelled
    targets: list[Target]
    names: Names
    source: SourceItems | None
    source_contents: tuple[str, ...]
    domain: ModalityArrays | None
    collected: Int64[np.ndarray, " contents"]  # before anything was learned, see `Model.collected`

    def training_rows(self) -> Int[np.ndarray, " rows"]:
        """Return all items, or `shots` of each class."""
        if self.options.shots is None:
            return np.arange(len(self.data.ids))
        return self._drawn()[0]

    def _drawn(self) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
        shots = self.options.shots
        assert shots is not None
        split = few_shot_split(self.targets[0].y, shots, seed=self.options.seed, groups=self.data.groups)
        if not len(split.test):
            raise LabelError(f"{shots} shots a class leave no item to measure on: ask for fewer")
        return split.train, split.test

    def search(self, rows: Int[np.ndarray, " rows"], *, study: Path, on_trial: Callable[[Any], None] | None) -> Tuning:
        """Search for hyperparameters on the items that are trained on."""
        from chiasm.recognition.tuning import tune

        options = self.options
        return tune(
            self.items(rows),
            trials=options.tune,
            sampler=options.sampler,
            adapters=None if options.adapter == "auto" else [options.adapter],
            fusions=None if options.fusion == "auto" else [options.fusion],
            study=study,
            seed=options.seed,
            on_trial=on_trial,
        )

    def items(self, rows: Int[np.ndarray, " rows"]) -> Items:
        """Return some of the items of one column of classes."""
        labels, groups = self.targets[0].take(rows).y, self.data.groups[rows]
        return Items.check(self.data.arrays.take(rows), labels, groups, names=self.names or None, source=self.source)

    def make(self, tuning: Tuning | None) -> Callable[[], Recognizer]:
        """Return what makes a recogniser: as asked, and where nothing was asked as the search found best."""
        options = self.options
        if len(self.targets) > 1 or self.targets[0].kind != "classes":
            return lambda: Recognizer(random_state=options.seed)
        arguments: dict[str, Any] = {
            "adapter": options.adapter, "fusion": options.fusion, "alpha": options.alpha, "semi": options.semi,
            "class_weight": options.class_weight, "shares": options.shares, "random_state": options.seed,
        }  # fmt: skip
        asked = {"alpha": options.alpha != "auto", "class_weight": options.class_weight is not None}
        if tuning is not None:
            arguments |= {name: value for name, value in tuning.best.items() if not asked.get(name)}
        if options.log_dir is not None:
            arguments["options"] = logged(arguments.get("options") or RungOptions(), options.log_dir)
        return lambda: Recognizer(**arguments)

    def fit(self, make: Callable[[], Recognizer], rows: Int[np.ndarray, " rows"]) -> Recognizer:
        """Fit a recogniser on some of the items."""
        is_classes = len(self.targets) == 1 and self.targets[0].kind == "classes"
        return make().fit(
            self.data.arrays.take(rows),
            [target.take(rows) for target in self.targets],
            self.data.groups[rows],
            names=self.names or None,
            source=self.source,
            unlabelled=self.data.unlabelled if is_classes and self.domain is None else None,
            domain=self.domain,
        )

    def model(
        self, recognizer: Recognizer, train: Int[np.ndarray, " rows"], result: FitReport, last: LastRung | None
    ) -> Model:
        """Return the recogniser with all that is saved beside it."""
        data, domain = self.data, self.domain
        if domain is not None:
            adaptation = recognizer.details_.adaptation
            domain = None if adaptation is None or adaptation.way == "none" else domain
        if domain is None:
            items, arrays = frozenset(data.ids[row] for row in train), data.arrays.take(train)
            known = {target.column: target.known[train] for target in self.targets}
            left_out = left_out_of(recognizer, data.take(train), known, self.source_contents)
        else:
            items, arrays = frozenset(), domain
            left_out = HeldOut(others=frozenset(data.contents))
        models = self.collection.generation.models
        if last is not None and last.encoder:
            models = models_of(first_of(last.networks))
        return Model(
            recognizer,
            result.encoder or self.collection.encoder,
            self.label,
            dict(data.fingerprints),
            items,
            result.as_dict(),
            reference_of(arrays, seed=self.options.seed),
            left_out,
            tuple(one for one in models if set(one.modalities) & set(data.fingerprints)),
            self.space if self.is_learned else None,
            collected=self.collected,
        )

    def fit_and_measure(
        self, train: Int[np.ndarray, " rows"], tuning: Tuning | None
    ) -> tuple[Recognizer, dict[str, Predictions], str]:
        """Fit on the training items; also return predictions of items that were not learned from, and which, in words."""
        make, data, options = self.make(tuning), self.data, self.options
        target = self.targets[0]
        if len(self.targets) > 1:
            split = holdout_split(HELD_OUT, groups=data.groups, seed=options.seed)
            columns = predictions(self.fit(make, split.train), data, self.targets, split.test)
            words = f"{len(split.test)} items that were held out; the model has then learned from all"
            return self.fit(make, train), columns, words
        recognizer = self.fit(make, train)
        if options.shots is not None:
            test = self._drawn()[1]
            words = f"{len(test)} other items, after {options.shots} a class for training"
            return recognizer, predictions(recognizer, data, self.targets, test), words
        if options.nested or target.kind != "classes":
            columns = cross_validated(make, data, self.targets, options.seed, names=self.names, source=self.source)
            words = f"all {len(train)} items, each by a recogniser fitted without it ({FOLDS} outer folds)"
            return recognizer, columns, words
        column = held_out(recognizer, data, target)
        words = (
            f"{len(column)} of {len(train)} items, each by heads that did not see it ({FOLDS} folds; rung and fusion were "
            "chosen on the same folds)"
        )
        if options.target is not None:
            words += f". They are of the source: there are no labels of {Path(options.target).name} to measure by"
        return recognizer, {target.column: column}, words


def logged(options: RungOptions, log_dir: str | Path) -> RungOptions:
    """Return the same options, with TensorBoard's logs of the networks in a folder."""
    from chiasm.recognition.networks import NetworkOptions

    network = options.network or NetworkOptions()
    return replace(options, network=replace(network, training=replace(network.training, log_dir=log_dir)))


def _write_report(
    path: str | Path,
    result: FitReport,
    recognizer: Recognizer,
    measured_on: Mapping[str, Predictions],
    tuning: Tuning | None,
    also_found: Mapping[str, Any],
    about: Mapping[str, str],
    tried: Mapping[Modality, TunedPart],
) -> None:
    from chiasm.report.page import Page
    from chiasm.report.sections import show_choices, show_columns, show_last_rung, show_protocol, show_tuning

    kinds = [column.kind for column in recognizer.columns_.values()]
    what = f"{len(result.classes)} classes" if kinds == ["classes"] else ", ".join(kinds)
    lead = f"Model {Path(result.model).name}. Measured on {result.measured}."
    page = Page(f"{result.label}: {what}", lead, about)
    show_columns(page, measured_on, result.metrics, recognizer.together_)
    if len(kinds) == 1:
        show_choices(page, recognizer.details_)
    if result.finetuned:
        show_last_rung(page, result.finetuned, tried)
    if tuning is not None:
        show_tuning(page, tuning)
    page.section("Splits", result.duplicates)
    for value in also_found.values():
        show_protocol(page, value)
    page.save(path)


def source_items(
    sources: Sources,
    label: str,
    fingerprints: Mapping[Modality, str],
    space: Space,
    device: Device,
) -> tuple[SourceItems, tuple[str, ...]]:
    """Return the labelled items of other collections, embedded by the same encoders, and their contents."""
    every = [labelled_source(one, label, fingerprints, space, device)[1] for one in each_source(sources)]
    arrays = reduce(ModalityArrays.joined, (one.arrays for one in every))
    labels = np.concatenate([one.labels for one in every])
    return SourceItems(arrays, labels), tuple(content for one in every for content in one.contents)
