"""The verbs: one function each, the same as the commands of the command line.

Here the two halves meet: files, encoders and collections on one side, arrays on the other. Every function takes paths
and keyword options and returns a frozen result with `as_dict()` for JSON.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm import encoders, learning, media
from chiasm.arrays import (
    Labelled,
    Pairs,
    class_names,
    embedded_items,
    fingerprints_of,
    labelled_items,
    modality_arrays,
    pairs_of,
)
from chiasm.collection import AddReport, Collection, Progress, Vectors
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, CollectionError, LabelError, SpaceError
from chiasm.evaluation.splits import few_shot_split, holdout_split
from chiasm.learning import FOLDS, ProtocolName
from chiasm.manifest import read_manifest
from chiasm.models import load_model
from chiasm.recognition import Recognizer, SourceItems
from chiasm.recognition.fitting import FusionName, LearnedFeatures, SemiName
from chiasm.recognition.heads import RungName
from chiasm.recognition.tasks import Targets, TaskName
from chiasm.recognition.tuning import SamplerName
from chiasm.retrieval.index import ExactIndex, Hit
from chiasm.space import LearnedMap, Space, saved_spaces, start_space
from chiasm.types import MODALITIES, FileOutcome, Media, Modality, Outcome, Text

if TYPE_CHECKING:
    from chiasm.report import Page

START = "start"
HELD_OUT = 0.2  # share of the pairs, whole groups, that `align` measures itself on

OnProgress = Callable[[Progress], None]


# --------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Status:
    """What a collection holds."""

    path: str
    encoder: str
    items: int
    outcomes: dict[str, int]  # files by outcome
    embeddings: dict[str, int]  # vectors by modality
    columns: tuple[str, ...]
    spaces: tuple[str, ...]  # oldest first; the last is the one that search uses

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class SearchResult:
    """The hits of one query, best first, and the space they were found in."""

    space: str
    hits: tuple[Hit, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: metadata columns stand beside the fields of a hit."""
        rows = []
        for hit in self.hits:
            fields = {"id": hit.id, "path": hit.path, "modality": hit.modality, "score": hit.score, "text": hit.text}
            rows.append({**hit.metadata, **fields})
        return {"space": self.space, "hits": rows}


@dataclass(frozen=True)
class AlignReport:
    """What alignment changed, on pairs that it did not learn from."""

    space: str
    pairs: int  # pairs learned from in the end
    held_out: int  # pairs of the measurement; whole groups (e.g. the same caption) are held out
    before: dict[str, dict[str, float]]  # {"text_to_image": {"hit@1": .., "hit@10": ..}, "image_to_text": {..}}
    after: dict[str, dict[str, float]]
    alpha: float  # weight of the source in the end
    strength: float
    blend: float  # share of the learned map; 0: the start was better, and stays
    source_pairs: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FitReport:
    """A fitted recogniser and how well it does on items it did not see."""

    model: str
    label: str
    classes: tuple[str, ...]
    modalities: tuple[Modality, ...]
    items: int  # trained on
    unlabelled: int  # items without a value in the label column, left out
    measured: str  # on what the metrics were measured, in words
    metrics: dict[str, Any]
    chosen: dict[str, Any]  # what was tried and chosen on held-out items, see `chiasm.recognition.fitting.Details`
    duplicates: str  # how many items are alike, and what a random split would have done with them, in words
    also: dict[str, Any] = field(default_factory=dict)  # by the names asked for with `also`, and `tuning`

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """What a recogniser says of one item."""

    id: str
    path: str | None  # of the item's first file
    label: str | None  # None: nothing of the item could be used
    probability: float | None
    probabilities: dict[str, float]
    modalities: tuple[Modality, ...]  # what the prediction is made from
    set: tuple[str, ...] = ()  # classes that hold the true one as often as was asked
    unknown: bool = False  # like nothing that the model knows, at the false-alarm rate that was asked
    columns: dict[str, Any] = field(default_factory=dict)  # of a model of numbers, several labels or several columns


@dataclass(frozen=True)
class PredictReport:
    """Predictions in the order of the input, and what happened to files that could not be used."""

    predictions: tuple[Prediction, ...]
    outcomes: tuple[FileOutcome, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a space or of a recogniser on a collection."""

    what: str  # the space or model, in words
    measured: str  # on what, in words
    metrics: dict[str, Any]
    seen: int  # items among those measured that were learned from: above 0 the numbers flatter

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


# ------------------------------------------------------------------------------------------------------------ verbs


def add(
    paths: Sequence[str | Path],
    *,
    to: str | Path,
    encoder: str | None = None,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> AddReport:
    """Store and embed what folders, tables and files list.

    Args:
        paths: folders, manifests (CSV, JSONL, Parquet) or single media files.
        to: the collection; made where there is none.
        encoder: `"offline"`, a hub id or a model folder. Default: the collection's, or `"offline"`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.

    Raises:
        ManifestError: a path does not exist or a table is wrong; nothing is stored then.
        CollectionError: the collection is of another version or encoder, or cannot be written.
    """
    if not paths:
        raise CollectionError("nothing to add: name at least one folder, table or file")
    manifests = [read_manifest(path) for path in paths]
    if (Path(to) / "chiasm.json").exists():
        collection = Collection.create(to, encoder=encoder or Collection.open(to).encoder)
        networks = encoders.resolve(collection.encoder, device=device)
    else:  # the encoders first: a name that is none leaves no folder behind
        networks = encoders.resolve(encoder or "offline", device=device)
        collection = Collection.create(to, encoder=encoder or "offline")
    report = collection.add(manifests, networks, on_progress=on_progress)
    if report.encoded:
        _gallery(collection, _space(collection, networks, None))  # so that the first search does not have to
    return report


def status(collection: str | Path) -> Status:
    """What a collection holds."""
    opened = Collection.open(collection)
    counts: Counter[str] = Counter()
    for file in opened.files():
        if file["outcome"] in {Outcome.OK, Outcome.DUPLICATE}:
            counts[file["modality"]] += 1
    return Status(
        str(opened.path),
        opened.encoder,
        opened.count(),
        opened.outcomes(),
        dict(counts),
        tuple(opened.columns()),
        saved_spaces(opened.path / "spaces"),
    )


def remove(collection: str | Path, *, where: str) -> int:
    """Delete items, their outcomes and their vectors. Gives how many there were.

    Args:
        collection: the collection.
        where: SQL condition on the columns of the items, e.g. `"id = 'animals/bird'"`.
    """
    opened = Collection.open(collection)
    return opened.remove(str(row["id"]) for row in opened.items(where=where))


def search(
    collection: str | Path,
    text: str | None = None,
    *,
    image: str | Path | None = None,
    audio: str | Path | None = None,
    video: str | Path | None = None,
    k: int = 10,
    modality: Modality | None = None,
    where: str | None = None,
    space: str | None = None,
    device: Device = "auto",
) -> SearchResult:
    """The k items nearest to a query of any modality.

    Args:
        collection: the collection.
        text: a query in words. Exactly one of text, image, audio and video is given.
        image: a file to search with.
        audio: a file to search with.
        video: a file to search with.
        k: hits at the most. A smaller gallery gives fewer.
        modality: find items by their files of this modality only. Default: by any.
        where: SQL condition on the columns of the items.
        space: name of the space to search in. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: the space lacks the query's modality, or there is nothing in the query.
        CollectionError: `where` is malformed, or the collection has no vectors.
        MediaError: the query's file cannot be used.
    """
    if k < 1:
        raise CollectionError(f"k must be at least 1; got {k}")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    chosen = _space(opened, networks, space)
    query = chosen.embed(
        [_query(chosen, networks, {"text": text, "image": image, "audio": audio, "video": video})], networks
    )
    if modality is not None and modality not in chosen.modalities:
        raise SpaceError(f"the space {chosen.name!r} has {', '.join(chosen.modalities)}; cannot find by {modality!r}")
    gallery = _gallery(opened, chosen)
    if not len(gallery):
        raise CollectionError(f"{opened.path} has no embedded files. Add some: chiasm add PATH --to {collection}")
    rows = {str(row["id"]): row for row in opened.items(where=where)}
    among: Bool[np.ndarray, " rows"] | None = None
    if where is not None:
        among = np.array([item in rows for item in gallery.items], dtype=bool)
    if modality is not None:
        right = np.array([found == modality for found in gallery.modalities], dtype=bool)
        among = right if among is None else among & right
    ranking = ExactIndex(gallery.vectors, gallery.items).search(query, k=k, among=among)
    hits = []
    for row, score in zip(ranking.rows[0], ranking.scores[0], strict=True):
        if row >= 0 and gallery.items[row] in rows:  # else removed between the two reads
            hits.append(_hit(gallery, int(row), float(score), rows[gallery.items[row]]))
    return SearchResult(chosen.name, tuple(hits))


def align(
    collection: str | Path,
    *,
    pairs: tuple[Modality, Modality] = ("image", "text"),
    source: str | Path | None = None,
    alpha: float | Literal["auto"] = "auto",
    name: str = "aligned",
    where: str | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> AlignReport:
    """Learn from items that have both modalities, and make the result the newest space of the collection.

    Ridge in closed form; regularisation, source weight and the share of the learned map are chosen on left-out groups.
    A fifth of the groups is held out to measure before and after; then all pairs are learned from.

    Args:
        collection: the target.
        pairs: the two modalities. Text is the anchor where it is one of them; the other one is moved.
        source: a collection with such pairs, or a file written by `statistics`.
        alpha: weight of the source from 0 to 1, or `"auto"`.
        name: what the new space is called; one of that name is replaced.
        where: learn only from items that meet this SQL condition.
        seed: of the held-out groups.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: fewer than 10 pairs, or a source of other encoders.
    """
    from chiasm.transfer.alignment import RidgeAlignment

    if name == START:
        raise SpaceError(f"{START!r} is the name of the space that nothing was learned in; choose another")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    start = _start(opened, networks)
    data = pairs_of(opened, start, pairs, where=where)
    statistics_ = None if source is None else _source_statistics(source, start, data.moved, data.anchor, device)

    split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
    learned = RidgeAlignment(alpha=alpha).fit(**data.take(split.train), source=statistics_)
    held = split.test
    before = _both_directions(data, data.start[held], held)
    after = _both_directions(data, learned.transform(data.features[held], data.start[held]), held)
    final = RidgeAlignment(alpha=alpha).fit(**data.take(np.arange(len(data.items))), source=statistics_)
    choice = final.choice_
    report = AlignReport(
        space=name,
        pairs=len(data.items),
        held_out=len(held),
        before=before,
        after=after,
        alpha=choice.alpha,
        strength=choice.strength,
        blend=choice.blend,
        source_pairs=0 if statistics_ is None else statistics_.count,
    )
    space = start.learned(
        name,
        {data.moved: LearnedMap(final.weight_, final.bias_, choice.blend)},
        learned_from=sorted(set(data.items)),
        about=report.as_dict(),
    )
    space.save(opened.path / "spaces" / name)
    _gallery(opened, space)
    return report


def statistics(
    collection: str | Path,
    *,
    out: str | Path,
    pairs: tuple[Modality, Modality] = ("image", "text"),
    where: str | None = None,
    device: Device = "auto",
) -> int:
    """Write what `align` needs of this collection as a source: sums and matrices, not the pairs. Gives their number.

    Args:
        collection: the source.
        out: the file to write, by habit ending in `.safetensors`.
        pairs: the two modalities.
        where: only items that meet this SQL condition.
        device: `"auto"`, `"cpu"` or `"cuda"`.
    """
    from chiasm.transfer.alignment import PairStatistics

    opened = Collection.open(collection)
    start = _start(opened, encoders.resolve(opened.encoder, device=device))
    data = pairs_of(opened, start, pairs, where=where)
    found = PairStatistics.from_pairs(data.features, data.anchors)
    found.save(out, _belongs_to(start, data.moved, data.anchor))
    return found.count


def fit(
    collection: str | Path,
    *,
    label: str,
    out: str | Path,
    task: TaskName | Literal["auto"] = "auto",
    modalities: Sequence[Modality] | None = None,
    shots: int | None = None,
    where: str | None = None,
    group: str | None = None,
    alike: float = 0.97,
    adapter: RungName | Literal["auto"] = "auto",
    fusion: FusionName | Literal["auto"] = "auto",
    names: bool = True,
    source: str | Path | None = None,
    alpha: float | Literal["auto"] = "auto",
    semi: SemiName | None = None,
    features: LearnedFeatures | None = None,
    class_weight: Literal["balanced"] | None = None,
    tune: int = 0,
    sampler: SamplerName = "tpe",
    nested: bool = False,
    also: Sequence[ProtocolName] = (),
    log_dir: str | Path | None = None,
    report: str | Path | None = None,
    on_trial: Callable[[Any], None] | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> FitReport:
    """Train a recogniser on the labelled items of a collection and save it as a folder.

    Args:
        collection: where the items are.
        label: the column to predict, or several with commas between. Items without a value are left out; of several
            columns, items need one.
        out: the folder to write; a model that is there is replaced.
        task: what the column holds: `"classes"`, `"labels"` (several an item, with ";" or "|" between) or `"number"`.
            `"auto"` looks at the values. Only one column of classes has the choices from `shots` on (but `group`):
            numbers and labels are predicted by ridge and logistic regression, several columns also by one network that
            learns them together, each column by what is better on held-out items.
        modalities: what to learn from. Default: all that the items have. Any subset works when predicting.
        shots: train on so many items a class, drawn at random, and measure on the rest. Default: train on all, and
            measure each item by heads that did not see it (five folds).
        where: only items that meet this SQL condition.
        group: column whose values keep items on one side of every split, such as the recording or patient they are of.
        alike: cosine of the embeddings of two pictures, sounds or videos from which they count as near-duplicates and are
            kept on one side of every split, too; above 1 none do.
        adapter: the rung of the ladder, or `"auto"`, see `chiasm.recognition.Recognizer`.
        fusion: how modalities are joined, or `"auto"`, see there.
        names: whether the names of the classes, embedded in the collection's space, count as one more shot each.
        source: a collection of another domain, embedded alike, with the same column; its items of classes that the target
            has are learned from as well.
        alpha: weight of the source, or `"auto"`.
        semi: how items without a label are used.
        features: features to learn on all items of the source, which may then have no labels, or on items without a label:
            `"whitening"`, `"within-class"` or `"contrastive"`. Refused where held-out items are not recognised better.
        class_weight: `"balanced"` gives every class the same total weight.
        tune: so many trials of a search for hyperparameters (Optuna); what is not `"auto"` above stays as it is. The study
            is kept beside the model as MODEL.study and gone on with when the same is asked again.
        sampler: of the search: `"tpe"`, `"random"` or `"grid"`.
        nested: measure by fitting everything anew in each of five outer folds. Without it, what was chosen (rung, fusion)
            was chosen on the items that it is measured on, which flatters a little and takes a fifth of the time.
        also: what to find out besides: `"learning-curve"` (1, 2, 5, 10 and 20 shots), `"held-out-classes"` (classes
            known by their name only), `"incremental"` (classes added later), `"random-split"` (what a split that puts
            copies on both sides would have shown), `"balance"` (weights and sampling of classes, losses and gradients of
            modalities). Each fits many recognisers.
        log_dir: folder for TensorBoard's logs of the networks.
        report: write all that was found out as one .html, .md or .json file.
        on_trial: called with every trial of the search.
        seed: of the draw and of the folds.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: no such column, one class only, classes too small for `shots`, a column of unique ids.
        ChiasmError: the source is embedded otherwise, or a choice that there is not.
    """
    from chiasm.assessment import measure
    from chiasm.models import Model, check_report, classes_of, save_model
    from chiasm.recognition.ladder import RungOptions

    check_report(report)
    unknown = sorted(set(also) - set(get_args(ProtocolName)))
    if unknown:
        raise ChiasmError(f"also takes {', '.join(get_args(ProtocolName))}; got {unknown[0]!r}")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    space = _start(opened, networks)
    columns = [label] if label in opened.columns() else [part.strip() for part in label.split(",")]
    data = labelled_items(
        opened, networks, space, columns, modalities=modalities, where=where, group=group, alike=alike
    )
    targets = learning.targets_of(data, task) if len(columns) > 1 or task != "classes" else []
    if len(columns) > 1 or (targets and targets[0].task != "classes"):
        refused = {
            "shots": shots, "adapter": adapter != "auto", "fusion": fusion != "auto", "source": source, "semi": semi,
            "features": features, "class_weight": class_weight, "tune": tune, "also": also, "nested": nested, "log_dir": log_dir,
            "alpha": alpha != "auto", "names": not names, "sampler": sampler != "tpe",
        }  # fmt: skip
        given = [name for name, value in refused.items() if value]
        if given:
            what = "several columns" if len(columns) > 1 else f"{label!r}, a column of {targets[0].task}"
            raise ChiasmError(f"{', '.join(given)}: only for one column of classes, not for {what}. Leave it out")
        return _fit_columns(opened, data, targets, label, Path(out), report, seed)
    labels = classes_of(data, label)
    embedded = class_names(sorted(set(labels.tolist())), space, networks) if names else {}
    options = RungOptions() if log_dir is None else learning.logged(RungOptions(), log_dir)
    other = None if source is None else _source_items(source, label, data, space, features is not None, device)
    if shots is not None and nested:
        raise ChiasmError("nested measures by folds, shots on the items that were not drawn: take one of them")
    if shots is not None:
        split = few_shot_split(labels, shots, seed=seed, groups=data.groups)
        if not len(split.test):
            raise LabelError(f"{shots} shots a class leave no item to measure on: ask for fewer")
        train = split.train
    else:
        train = np.arange(len(labels))
    arguments: dict[str, Any] = {
        "adapter": adapter, "fusion": fusion, "alpha": alpha, "semi": semi, "features": features,
        "class_weight": class_weight, "options": options, "random_state": seed,
    }  # fmt: skip
    tuning = None
    if tune:
        from chiasm.recognition.tuning import tune as search_parameters

        tuning = search_parameters(
            data.arrays.take(train),
            labels[train],
            trials=tune,
            groups=data.groups[train],
            names=embedded or None,
            source=other,
            sampler=sampler,
            adapters=None if adapter == "auto" else [adapter],
            fusions=None if fusion == "auto" else [fusion],
            study=Path(f"{out}.study"),
            seed=seed,
            on_trial=on_trial,
        )
        searched = dict(tuning.best)
        if log_dir is not None:
            searched["options"] = learning.logged(searched.get("options", options), log_dir)
        said = {"alpha": alpha != "auto", "class_weight": class_weight is not None}
        arguments |= {name: value for name, value in searched.items() if not said.get(name)}

    def make() -> Recognizer:
        return Recognizer(**arguments)

    model = make().fit(
        data.arrays.take(train),
        labels[train],
        groups=data.groups[train],
        names=embedded,
        source=other,
        unlabelled=data.unlabelled,
    )
    if shots is not None:
        found = learning.recognised(model, data, labels, split.test)
        measured = f"{len(split.test)} other items, after {shots} a class for training"
    elif nested:
        found = learning.cross_validated(make, data, labels, embedded, other, seed)
        measured = f"all {len(labels)} items, each by a recogniser fitted without it ({FOLDS} outer folds)"
    else:
        found = learning.held_out(model, data, labels)
        measured = (
            f"{len(found)} of {len(labels)} items, each by heads that did not see it ({FOLDS} folds; rung and fusion were "
            "chosen on the same folds)"
        )
    metrics = measure(found)
    besides = learning.protocols(also, make, data, labels, embedded, other, seed)
    result = FitReport(
        model=str(Path(out)),
        label=label,
        classes=tuple(str(name) for name in model.classes_),
        modalities=tuple(data.fingerprints),
        items=len(train),
        unlabelled=0 if data.unlabelled is None else len(data.unlabelled),
        measured=measured,
        metrics=metrics,
        chosen=model.details_.as_dict(),
        duplicates=learning.duplicates(data, labels, seed),
        also={name: value.as_dict() for name, value in besides.items()}
        | ({} if tuning is None else {"tuning": tuning.as_dict()}),
    )
    seen = frozenset(data.ids[row] for row in train)
    save_model(Path(out), Model(model, opened.encoder, label, dict(data.fingerprints), seen, result.as_dict()))
    if report is not None:
        from chiasm.assessment import show, show_choices, show_protocol, show_tuning
        from chiasm.report import Page

        page = Page(f"{label}: {len(result.classes)} classes", f"Model {Path(out).name}. Measured on {measured}.")
        page.section("How well it recognises")
        show(page, found, metrics)
        show_choices(page, model.details_)
        if tuning is not None:
            show_tuning(page, tuning)
        page.section("Splits", result.duplicates)
        for value in besides.values():
            show_protocol(page, value)
        page.save(report)
    return result


def _fit_columns(
    opened: Collection,
    data: Labelled,
    targets: Sequence[Targets],
    label: str,
    out: Path,
    report: str | Path | None,
    seed: int,
) -> FitReport:
    """Numbers, several labels an item, or several columns."""
    from chiasm.models import Model, save_model
    from chiasm.recognition.multitask import MultiTaskPredictor

    def make() -> MultiTaskPredictor:
        return MultiTaskPredictor(random_state=seed)

    if len(targets) == 1:
        found = learning.cross_validated_columns(make, data, targets, seed)
        measured = f"all {len(data.ids)} items, each by a predictor fitted without it ({FOLDS} folds)"
    else:
        split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
        part = [target.take(split.train) for target in targets]
        trained = make().fit(data.arrays.take(split.train), part, groups=data.groups[split.train])
        found = learning.predict_columns(trained, data, targets, split.test)
        measured = f"{len(split.test)} items that were held out; the model has then learned from all"
    predictor = make().fit(data.arrays, targets, groups=data.groups)
    metrics = learning.measure_columns(found)
    result = FitReport(
        model=str(out),
        label=label,
        classes=tuple(str(name) for name in targets[0].names) if len(targets) == 1 else (),
        modalities=tuple(data.fingerprints),
        items=len(data.ids),
        unlabelled=0 if data.unlabelled is None else len(data.unlabelled),
        measured=measured,
        metrics=metrics,
        chosen=predictor.details_.as_dict(),
        duplicates=f"{data.alike} items are copies or near-duplicates of others and are kept on one side of every split.",
    )
    model = Model(predictor, opened.encoder, label, dict(data.fingerprints), frozenset(data.ids), result.as_dict())
    save_model(out, model)
    if report is not None:
        from chiasm.assessment import show_columns
        from chiasm.report import Page

        page = Page(
            f"{label}: {', '.join(target.task for target in targets)}", f"Model {out.name}. Measured on {measured}."
        )
        show_columns(page, found, metrics, predictor.details_)
        page.save(report)
    return result


def predict(
    model: str | Path,
    paths: Sequence[str | Path],
    *,
    level: float = 0.9,
    false_alarm_rate: float = 0.05,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> PredictReport:
    """Recognise what is in files, folders or tables.

    Args:
        model: a folder that `fit` wrote.
        paths: as for `add`. Items may have any subset of the modalities that the model was fitted on.
        level: how often each item's set of classes is to hold the true one.
        false_alarm_rate: the share of items of known classes that may be called unknown.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.
    """
    saved = load_model(Path(model))
    networks = encoders.resolve(saved.encoder, device=device)
    saved.check(fingerprints_of(networks))
    manifests = [read_manifest(path) for path in paths]
    if not manifests:
        raise ChiasmError("nothing to predict: name at least one folder, table or file")
    with tempfile.TemporaryDirectory(prefix="chiasm-predict-") as folder:
        # A collection gives readers, batches and outcomes; it is thrown away.
        collection = Collection.create(Path(folder) / "collection", encoder=saved.encoder)
        added = collection.add(manifests, networks, on_progress=on_progress)
        rows = collection.items()
        ids = [str(row["id"]) for row in rows]
        found = embedded_items(collection, ids, saved.fingerprints)
        has_any = [modality for modality in found.arrays if found.present[modality].any()]
        usable = np.flatnonzero(np.any([*found.present.values()], axis=0))
        if len(usable):
            arrays = modality_arrays(found, _start(collection, networks), has_any, usable)
            said = learning.say(saved.predictor, arrays, level=level, false_alarm_rate=false_alarm_rate)
    number_of = {row: number for number, row in enumerate(usable.tolist())}
    predictions = []
    for row, item in enumerate(rows):
        has = tuple(modality for modality in saved.fingerprints if found.present[modality][row])
        path = next((files[0] for modality in MODALITIES if (files := item[modality])), None)
        empty = Prediction(ids[row], path, None, None, {}, ())
        if row in number_of:
            predictions.append(replace(empty, modalities=has, **said[number_of[row]]))
        else:
            predictions.append(empty)
    return PredictReport(tuple(predictions), added.outcomes)


def evaluate(
    target: str | Path,
    collection: str | Path | None = None,
    *,
    pairs: tuple[Modality, Modality] | None = None,
    space: str | None = None,
    label: str | None = None,
    where: str | None = None,
    against: str | Path | None = None,
    report: str | Path | None = None,
    device: Device = "auto",
) -> Evaluation:
    """Measure a space of a collection by its pairs, or a recogniser by the labels of a collection.

    Args:
        target: the collection (with `pairs`), or the model (with `collection` and `label`).
        collection: for a model: where the labelled items are.
        pairs: two modalities; each is searched for by the other. Items of equal content count as found alike.
        space: name of the space. Default: the newest.
        label: for a model: the column that holds the truth. Default: the one it was fitted on.
        where: only items that meet this SQL condition.
        against: for a model: another model, compared on the same items with paired differences.
        report: write the result as one .html, .md or .json file, too.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Items that the space or model has learned from are left out where others remain, and counted in `seen` where not.
    """
    from chiasm.models import check_report

    check_report(report)
    if collection is None:
        if label is not None or against is not None:
            raise ChiasmError(
                "label and against go with a model and a collection: chiasm evaluate MODEL COLLECTION --label COLUMN"
            )
        result = _evaluate_space(Path(target), pairs or ("image", "text"), space, where, device)
    else:
        if pairs is not None or space is not None:
            raise ChiasmError(
                "pairs and space go with a collection alone: chiasm evaluate COLLECTION --pairs image,text"
            )
        return _evaluate_model(Path(target), Path(collection), label, where, against, report, device)
    if report is not None:
        from chiasm.report import show_retrieval

        page = _page(result)
        show_retrieval(page, result.metrics)
        page.save(report)
    return result


# ------------------------------------------------------------------------------------------------ spaces, galleries


def _start(collection: Collection, networks: Sequence[Encoder]) -> Space:
    """The space that nothing was learned in; made once, and again when the encoders have changed."""
    folder = collection.path / "spaces" / START
    if (folder / "space.json").exists():
        saved = Space.load(folder)
        if dict(saved.fingerprints) == fingerprints_of(networks):
            return saved
    space = start_space(networks, name=START)
    others = [
        Space.load(collection.path / "spaces" / name).created
        for name in saved_spaces(collection.path / "spaces")
        if name != START
    ]
    if others:  # made anew, but not to be taken for newer than what was learned
        space = replace(space, created=min(others)[:-1])
    space.save(folder)
    return space


def _space(collection: Collection, networks: Sequence[Encoder], name: str | None) -> Space:
    names = saved_spaces(collection.path / "spaces")
    if name is None:
        name = names[-1] if names else START
    if name == START:
        return _start(collection, networks)
    folder = collection.path / "spaces" / name
    if name not in names:
        raise SpaceError(f"{collection.path} has no space {name!r}. It has: {', '.join(names) or START}")
    return Space.load(folder)


def _gallery(collection: Collection, space: Space) -> Vectors:
    """All vectors of the collection in a space; kept on disk, so that only new ones are computed."""

    def place(rows: Vectors) -> Float[np.ndarray, "rows dim"]:
        placed = np.empty((len(rows), space.dim), np.float32)
        for modality in set(rows.modalities):
            chosen = np.array([found == modality for found in rows.modalities])
            placed[chosen] = space.place(modality, rows.vectors[chosen])
        return placed

    return collection.mapped(space.digest, sorted(set(space.fingerprints.values())), place)


def _query(space: Space, networks: Sequence[Encoder], given: Mapping[Modality, str | Path | None]) -> Media:
    queries = [(modality, value) for modality, value in given.items() if value is not None]
    if len(queries) != 1:
        named = ", ".join(modality for modality, _ in queries) or "nothing"
        raise SpaceError(f"a search needs exactly one query: a text, an image, a sound or a video; got {named}")
    modality, value = queries[0]
    if modality == "text":
        if not str(value).strip():
            raise SpaceError("the query is empty. Say in words what to look for")
        return Text(str(value))
    encoder = space.encoder(modality, networks)
    view = encoder.view
    medium = media.load(value, image_size=view.image_size, rate=view.rate, frames=view.frames)
    if medium.modality != modality:
        raise SpaceError(f"{value} was given as {modality} and its content is {medium.modality}")
    return medium


def _hit(gallery: Vectors, row: int, score: float, item: Mapping[str, Any]) -> Hit:
    kind, number = gallery.slots[row].split("/")
    value = item[kind][int(number)]
    inline = kind == "text" and not Path(value).is_absolute()
    metadata = {name: item[name] for name in item if name not in {"id", *MODALITIES}}
    return Hit(
        id=gallery.items[row],
        modality=gallery.modalities[row],
        score=score,
        path=None if inline else value,
        text=value if inline else gallery.texts[row],
        metadata=metadata,
    )


# ------------------------------------------------------------------------------------------------------------- pairs


def _both_directions(
    data: Pairs, mapped: Float[np.ndarray, "held dim"], held: Int[np.ndarray, " held"]
) -> dict[str, dict[str, float]]:
    """Retrieval metrics of the anchor by the moved modality and the other way; equal content counts as found."""
    from chiasm.evaluation.ranking import retrieval_metrics

    captions, moved = np.array(data.anchor_hashes)[held], np.array(data.moved_hashes)[held]
    relevant = (captions[:, None] == captions[None, :]) | (moved[:, None] == moved[None, :])
    scores = data.anchors[held] @ mapped.T
    return {
        f"{data.anchor}_to_{data.moved}": retrieval_metrics(scores, relevant).as_dict(),
        f"{data.moved}_to_{data.anchor}": retrieval_metrics(scores.T, relevant).as_dict(),
    }


def _belongs_to(space: Space, moved: Modality, anchor: Modality) -> dict[str, str]:
    """What statistics of pairs must agree on to be added up: encoders and start of both modalities."""
    return {
        "moved": moved,
        "anchor": anchor,
        "moved_encoder": space.fingerprints[moved],
        "anchor_encoder": space.fingerprints[anchor],
        "start": space.start_key(moved, anchor),
    }


def _source_statistics(source: str | Path, space: Space, moved: Modality, anchor: Modality, device: Device) -> Any:
    from chiasm.transfer.alignment import PairStatistics

    mine = _belongs_to(space, moved, anchor)
    if Path(source).is_dir():
        opened = Collection.open(source)
        start = _start(opened, encoders.resolve(opened.encoder, device=device))
        data = pairs_of(opened, start, (moved, anchor))
        theirs, found = _belongs_to(start, moved, anchor), PairStatistics.from_pairs(data.features, data.anchors)
    else:
        found, theirs = PairStatistics.load(source)
    if theirs != mine:
        differing = ", ".join(
            f"{key}: {theirs.get(key)} there, {mine[key]} here" for key in mine if theirs.get(key) != mine[key]
        )
        raise SpaceError(f"the source {source} was embedded otherwise than the target ({differing})")
    return found


def _evaluate_space(
    path: Path, pairs: tuple[Modality, Modality], name: str | None, where: str | None, device: Device
) -> Evaluation:
    opened = Collection.open(path)
    space = _space(opened, encoders.resolve(opened.encoder, device=device), name)
    data = pairs_of(opened, space, pairs, where=where)
    learned = set(space.learned_from)
    unseen = np.array([row for row, item in enumerate(data.items) if item not in learned], dtype=int)
    rows = unseen if len(unseen) else np.arange(len(data.items))
    metrics = _both_directions(data, space.place(data.moved, data.embeddings[rows]), rows)
    measured = f"{len(rows)} pairs of {data.moved} and {data.anchor}"
    if learned and len(unseen):
        measured += f" that the space was not learned from ({len(data.items) - len(unseen)} others left out)"
    return Evaluation(f"space {space.name!r} of {opened.path.name}", measured, metrics, 0 if len(unseen) else len(rows))


# -------------------------------------------------------------------------------------------------------- recognition


def _source_items(
    source: str | Path, label: str, data: Labelled, space: Space, with_unlabelled: bool, device: Device
) -> SourceItems:
    """Items of another collection, embedded by the same encoders: those with a label, or all if that is enough."""
    opened = Collection.open(source)
    networks = encoders.resolve(opened.encoder, device=device)
    theirs = fingerprints_of(networks)
    for modality, fingerprint in data.fingerprints.items():
        if theirs.get(modality) != fingerprint:
            raise ChiasmError(
                f"the source {source} has {modality} embeddings of another encoder ({theirs.get(modality, 'none')}, the "
                f"target {fingerprint}). Add its files with the target's encoder"
            )
    if with_unlabelled and label not in opened.columns():
        ids = [str(row["id"]) for row in opened.items()]
        found = embedded_items(opened, ids, data.fingerprints)
        usable = np.flatnonzero(np.any([*found.present.values()], axis=0))
        return SourceItems(modality_arrays(found, space, tuple(data.fingerprints), usable))
    labelled = labelled_items(opened, networks, space, [label], modalities=tuple(data.fingerprints))
    return SourceItems(labelled.arrays, labelled.labels)


def _evaluate_model(
    path: Path,
    where_items: Path,
    label: str | None,
    where: str | None,
    against: str | Path | None,
    report: str | Path | None,
    device: Device,
) -> Evaluation:
    from chiasm.assessment import show_choices, show_columns

    saved = load_model(path)
    other = None if against is None else load_model(Path(against))
    opened = Collection.open(where_items)
    networks = encoders.resolve(opened.encoder, device=device)
    for model in (saved, other):
        if model is not None:
            model.check(fingerprints_of(networks))
    modalities = [modality for modality in MODALITIES if modality in saved.fingerprints]
    columns = learning.columns_of(saved.predictor, label or saved.label)
    data = labelled_items(opened, networks, _start(opened, networks), columns, modalities=modalities, where=where)
    learned = saved.trained_on | (frozenset() if other is None else other.trained_on)
    unseen = np.array([row for row, item in enumerate(data.ids) if item not in learned], dtype=int)
    rows = unseen if len(unseen) else np.arange(len(data.ids))
    found = learning.predicted(saved.predictor, data, rows)
    metrics = learning.measure_columns(found)
    measured = f"{len(rows)} items of {opened.path.name}"
    if len(unseen) and len(unseen) < len(data.ids):
        measured += f" that it was not trained on ({len(data.ids) - len(unseen)} others left out)"
    if other is not None:
        metrics["against"] = learning.compared(found, learning.predicted(other.predictor, data, rows), str(against))
    result = Evaluation(f"model {path.name}", measured, metrics, 0 if len(unseen) else len(rows))
    if report is not None:
        page = _page(result)
        show_columns(page, found, metrics)
        if other is not None:
            page.section(f"Against {Path(str(against)).name}", "On the same items; above 0, this model is better.")
            page.table(
                ("metric", "this", "other", "difference", "standard error", "p"),
                [
                    (name, *(part[key] for key in ("this", "other", "difference", "standard_error", "p_value")))
                    for name, part in metrics["against"]["metrics"].items()
                ],
            )
        if isinstance(saved.predictor, Recognizer):
            show_choices(page, saved.predictor.details_)
        page.save(report)
    return result


def _page(result: Evaluation) -> Page:
    from chiasm.report import Page

    page = Page(result.what, f"Measured on {result.measured}.")
    if result.seen:
        page.paragraph(f"Beware: it learned from all {result.seen} of these, so the numbers flatter.")
    return page
