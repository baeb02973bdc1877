"""The verbs: one function each, the same as the commands of the command line.

Here the two halves meet: files, encoders and collections on one side, arrays on the other. Every function takes paths
and keyword options and returns a frozen result with `as_dict()` for JSON.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float, Int

from chiasm import encoders
from chiasm._optional import require
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, CollectionError, LabelError, SpaceError
from chiasm.recognition import Recognizer, SourceItems
from chiasm.recognition.fitting import FusionName, LearnedFeatures, SemiName
from chiasm.recognition.heads import RungName
from chiasm.recognition.tasks import Targets, TaskName
from chiasm.recognition.tuning import SamplerName
from chiasm.space import Space, start_space
from chiasm.splits import few_shot_split, holdout_split
from chiasm.store.collection import AddReport, Collection, Progress, ReembedReport
from chiasm.store.manifest import read_manifest
from chiasm.types import MODALITIES, FileOutcome, Media, Modality, Text
from chiasm.verbs import fit as learning
from chiasm.verbs.dataset import (
    Labelled,
    class_names,
    embedded_items,
    fingerprints_of,
    labelled_items,
    modality_arrays,
    pairs_of,
)
from chiasm.verbs.fit import FOLDS, ProtocolName
from chiasm.verbs.model import load_model
from chiasm.verbs.search import (
    START,
    Order,
    Query,
    Searcher,
    SearchResult,
    Status,
    drop_replaced,
    gallery_of,
    keep_indexes,
    save_scores,
    save_weight,
    space_of,
    spaces_of,
    start_of,
    status_of,
)

if TYPE_CHECKING:
    from chiasm.alignment.alignment import LearnedMap, Source
    from chiasm.report.page import Medium, Page
    from chiasm.report.sections import Measured
    from chiasm.retrieval.scores import ScoreModel
    from chiasm.verbs.learn import DriftReport, LearnReport

FEWEST_QUERIES = 10  # different ones, that `weigh` learns from
HELD_OUT = 0.2  # share of the pairs, whole groups, that `align` measures itself on

OnProgress = Callable[[Progress], None]
Files: TypeAlias = str | Path | Sequence[str | Path] | None


# --------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Aligned:
    """How one modality was brought to the anchor."""

    method: str
    pairs: int  # learned from in the end
    held_out: int  # pairs of the measurement; whole groups (e.g. the same caption) are held out
    alpha: float  # weight of the source in the end
    blend: float  # share of the learned map; 0: the start was better, and stays
    source_pairs: int


@dataclass(frozen=True)
class AlignReport:
    """What alignment changed, on pairs that it did not learn from."""

    space: str
    aligned: dict[str, Aligned]  # by the modality that was moved
    before: dict[str, dict[str, Any]]  # {"text_to_image": {"hit@1": .., "intervals": {..}}, ..}
    after: dict[str, dict[str, Any]]
    gain: dict[str, dict[str, Any]]  # by direction and metric, the paired difference with its interval
    geometry: dict[str, dict[str, Any]]  # by modality that was moved: {"before": {..}, "after": {..}}
    scores: dict[str, dict[str, Any]]
    """By "text_to_image": the preparation of vectors that was chosen, and calibration error and rates of the probability
    of relevance where there is one."""

    @property
    def pairs(self) -> int:
        """Pairs that were learned from, of all modalities."""
        return sum(part.pairs for part in self.aligned.values())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "pairs": self.pairs}


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


@dataclass(frozen=True)
class Weighing:
    """How much the words of a query count beside its vectors, by the thumbs on earlier hits, and whether that was kept."""

    space: str
    kept: bool  # else hybrid search goes by reciprocal ranks
    why: str  # in words, with both numbers
    weight: float  # learned, of the words; vectors have the rest
    precision: dict[str, float]
    """Mean average precision of "vectors" and "words" alone, of "ranks" (both by reciprocal ranks) and of "weight" (both by
    a learned weight, on queries that it was not learned from)."""
    gain: float  # of the weight over reciprocal ranks
    standard_error: float  # of the gain
    queries: int  # different ones that were learned from
    silent: int  # queries with thumbs that say nothing about the weight

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
    if report.encoded:  # so that the first search does not have to
        space = space_of(collection, networks, None)
        keep_indexes(collection, space, gallery_of(collection, space))
    _keep_words(collection)
    if collection.generation.since:  # tables of encoders before go some time after
        drop_replaced(collection)
    return report


def status(collection: str | Path) -> Status:
    """What a collection holds."""
    return status_of(Collection.open(collection))


def remove(collection: str | Path, *, where: str) -> int:
    """Delete items, their outcomes and their vectors. Gives how many there were.

    Args:
        collection: the collection.
        where: SQL condition on the columns of the items, e.g. `"id = 'animals/bird'"`.
    """
    opened = Collection.open(collection)
    count = opened.remove(str(row["id"]) for row in opened.items(where=where))
    _keep_words(opened)
    return count


def reembed(
    collection: str | Path, *, encoder: str, device: Device = "auto", on_progress: OnProgress | None = None
) -> ReembedReport:
    """Embed all files of a collection with another encoder, which then takes over at once.

    Until then searches, and what else reads or adds, go on with the encoder before. May be interrupted or killed at any
    point and run again. Embeddings that both encoders have in common are not computed again. Afterwards the start space of
    the new encoder answers; spaces that were learned before have to be learned again (`align`), and models fitted again.

    Args:
        collection: the collection.
        encoder: as in `add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.

    Raises:
        CollectionError: there is no such collection, it has this encoder, not one file can be embedded by the new one (all
            stays as it is then), or it cannot be written.
        EncoderError: there is no such encoder.
        SpaceError: its networks cannot be brought into one space.
    """
    from chiasm.store.words import FullText

    before = Collection.open(collection)
    networks = encoders.resolve(encoder, device=device)
    start_space(networks)  # what cannot be brought into one space is to be refused before it has taken over
    report = before.reembed(encoder, networks, on_progress=on_progress)
    opened = Collection.open(collection)
    left = set(spaces_of(before)) - set(spaces_of(opened)) - {START}
    # From here on it is only about the first search, which would do the same.
    space = space_of(opened, networks, None)
    keep_indexes(opened, space, gallery_of(opened, space))
    if FullText.kept(opened) is not None:
        heard = [space.fingerprints["audio"]] if space.starts.get("audio") == "words" else []
        FullText(opened, heard=heard).update()
    drop_replaced(opened)
    return replace(report, spaces=tuple(name for name in spaces_of(before) if name in left))


def search(
    collection: str | Path,
    text: str | None = None,
    *,
    image: Files = None,
    audio: Files = None,
    video: Files = None,
    minus: str | Sequence[str] | None = None,
    minus_image: Files = None,
    like: str | Sequence[str] | None = None,
    liked: Sequence[str] = (),
    disliked: Sequence[str] = (),
    k: int = 10,
    offset: int = 0,
    modality: Modality | None = None,
    where: str | None = None,
    min_probability: float | Literal["auto"] | None = None,
    metric: Order = "auto",
    hybrid: bool = False,
    rerank: str | None = None,
    diversity: float = 0.0,
    space: str | None = None,
    device: Device = "auto",
) -> SearchResult:
    """The k items nearest to a query: words, files and items of the collection, alone or together.

    Several parts are one query: what is wanted is added up, and what is not is taken out of it. For many searches, keep a
    `chiasm.verbs.search.Searcher`.

    Args:
        collection: the collection.
        text: words to look for.
        image: a file to search with, or several.
        audio: the same.
        video: the same.
        minus: words for what is not wanted, or several of them.
        minus_image: pictures of what is not wanted.
        like: ids of items to find more like.
        liked: ids of hits of an earlier page that were right: the query moves towards them; they are not shown again.
        disliked: ids of hits of an earlier page that were wrong.
        k: hits at the most. A smaller gallery gives fewer.
        offset: hits that are passed over, for the pages after the first.
        modality: find items by their files of this modality only. Default: by any.
        where: SQL condition on the columns of the items.
        min_probability: leave out hits that are less probably relevant, from 0 to 1; `"auto"`: than what 97.5 % of the
            questions that have an answer reach. No hits are left where nothing was found.
        metric: order hits by `"cosine"`, `"dot"`, `"l2"` or `"mahalanobis"` alone. Their score is its value, distances with a
            minus sign, and they have no probability. Default: what the space has learned scores to be worth, and cosine
            where it has not.
        hybrid: go by the words of the query in texts, transcripts and columns, too (BM25), fused by the weight that `weigh`
            has learned for the space, else by reciprocal ranks. Files without words are not behind for lacking them.
        rerank: a sentence-transformers cross-encoder, hub id or folder, that reads the query and the hits' words.
        diversity: from 0 (none) to 1, how much a hit is to differ from those before it.
        space: name of the space to search in. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: the space lacks the query's modality, there is nothing to look for, no hit has a probability, or a
            modality has too few vectors for its Mahalanobis distance.
        CollectionError: `where` is malformed, k or offset are out of range, or the collection has no vectors.
        MediaError: a file of the query cannot be used.
    """
    searcher = Searcher(collection, space=space, device=device)
    files = [*_opened(searcher, "image", image), *_opened(searcher, "audio", audio), *_opened(searcher, "video", video)]
    query = Query(
        plus=(*([] if text is None else [Text(text)]), *files),
        minus=(*(Text(words) for words in _listed(minus)), *_opened(searcher, "image", minus_image)),
        like=tuple(_listed(like)),
        liked=tuple(liked),
        disliked=tuple(disliked),
    )
    return searcher.search(
        query,
        k=k,
        offset=offset,
        modality=modality,
        where=where,
        min_probability=min_probability,
        metric=metric,
        hybrid=hybrid,
        rerank=rerank,
        diversity=diversity,
    )


def align(
    collection: str | Path,
    *,
    pairs: Sequence[Modality] = ("image", "text"),
    method: str | None = None,
    source: str | Path | None = None,
    alpha: float | Literal["auto"] = "auto",
    name: str = "aligned",
    where: str | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> AlignReport:
    """Learn from items that have several modalities, and make the result the newest space of the collection.

    A fifth of the groups is held out to measure before and after; then all pairs are learned from. What scores are worth
    is learned from the same pairs, each placed by a map that did not learn from it: hits then have a probability.

    Args:
        collection: the target.
        pairs: two modalities or more. Text is the anchor where it is among them; the others are moved to it.
        method: `"kernel"`, `"ridge"`, `"procrustes"`, `"cca"`, `"infonce"`, or `"none"` (the start stays, and only
            the meaning of scores is learned). Default: kernel, or ridge where the source is a file of statistics.
        source: a collection with such pairs, or a file written by `statistics`.
        alpha: weight of the source from 0 to 1, or `"auto"`.
        name: what the new space is called; one of that name is replaced.
        where: learn only from items that meet this SQL condition.
        seed: of the held-out groups, and of methods that draw.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        SpaceError: fewer than 10 pairs, a source of other encoders, or there is no such method.
    """
    from chiasm.verbs.scoring import CrossFitted, fit_scores

    if name == START:
        raise SpaceError(f"{START!r} is the name of the space that nothing was learned in; choose another")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    start = start_of(opened, networks)
    sets = [pairs_of(opened, start, one, where=where) for one in _with_anchor(pairs)]
    if source is not None and len(sets) > 1:
        raise SpaceError("a source goes with two modalities. Align one after the other, or leave it out")
    learned = [_align_one(data, start, method, source, alpha, seed, device) for data in sets]
    before: dict[str, dict[str, Any]] = {}
    after: dict[str, dict[str, Any]] = {}
    gain: dict[str, dict[str, Any]] = {}
    geometry: dict[str, dict[str, Any]] = {}
    for one in learned:
        before |= one.before.found.as_dict()
        after |= one.after.found.as_dict()
        geometry[one.data.moved] = {"before": one.before.geometry.as_dict(), "after": one.after.geometry.as_dict()}
        gain |= _gain(one.before, one.after)
    space = start.learned(
        name,
        {one.data.moved: one.map for one in learned if one.map is not None},
        learned_from=sorted({item for one in learned for item in one.data.items}),
        about={},
    )
    gallery = gallery_of(opened, space)
    scores = fit_scores(
        opened, space, gallery, networks, learned=[CrossFitted(one.data, one.crossed) for one in learned], seed=seed
    )
    report = AlignReport(
        space=name,
        aligned={one.data.moved: one.report for one in learned},
        before=before,
        after=after,
        gain=gain,
        geometry=geometry,
        scores=_told(scores),
    )
    space = replace(space, about=report.as_dict())
    opened.require_current()
    space.save(opened.path / "spaces" / name)
    save_scores(opened.path / "spaces" / name, scores)
    keep_indexes(opened, space, gallery)
    drop_replaced(opened)
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
    from chiasm.alignment.alignment import PairStatistics

    opened = Collection.open(collection)
    start = start_of(opened, encoders.resolve(opened.encoder, device=device))
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
    from chiasm.recognition.ladder import RungOptions
    from chiasm.report.sections import measure
    from chiasm.verbs.model import Model, check_report, classes_of, reference_of, save_model

    check_report(report)
    unknown = sorted(set(also) - set(get_args(ProtocolName)))
    if unknown:
        raise ChiasmError(f"also takes {', '.join(get_args(ProtocolName))}; got {unknown[0]!r}")
    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    space = start_of(opened, networks)
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
    other = (
        None if source is None else _source_items(source, label, data.fingerprints, space, features is not None, device)
    )
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
    kept = reference_of(data.arrays.take(train), seed=seed)
    save_model(
        Path(out), Model(model, opened.encoder, label, dict(data.fingerprints), seen, result.as_dict(), reference=kept)
    )
    if report is not None:
        from chiasm.report.page import Page
        from chiasm.report.sections import show, show_choices, show_protocol, show_tuning

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
    from chiasm.recognition.multitask import MultiTaskPredictor
    from chiasm.verbs.model import Model, reference_of, save_model

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
    model = Model(
        predictor, opened.encoder, label, dict(data.fingerprints), frozenset(data.ids), result.as_dict(),
        reference=reference_of(data.arrays, seed=seed),
    )  # fmt: skip
    save_model(out, model)
    if report is not None:
        from chiasm.report.page import Page
        from chiasm.report.sections import show_columns

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
            arrays = modality_arrays(found, start_of(collection, networks), has_any, usable)
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
    off_topic: str | Path | None = None,
    moments: str | Path | None = None,
    label: str | None = None,
    where: str | None = None,
    against: str | Path | None = None,
    report: str | Path | None = None,
    device: Device = "auto",
) -> Evaluation:
    """Measure search in a collection by its pairs and by questions, or a recogniser by the labels of a collection.

    Args:
        target: the collection (with `pairs`), or the model (with `collection` and `label`).
        collection: for a model: where the labelled items are.
        pairs: two modalities; each is searched for by the other. Items of equal content count as found alike. Default: image
            and text, unless only `moments` are asked for. Where the space has learned a map, the space that nothing was
            learned in is measured on the same pairs.
        space: name of the space. Default: the newest.
        off_topic: a text file of questions, one a line, that nothing in the collection answers. Measures how many of them
            `search` with `min_probability="auto"` answers all the same, and how many of the texts of `pairs` it answers.
        moments: a CSV table with the columns query (words, or a file relative to the table), item (id), start and end
            (seconds). Measures whether a search of sounds and videos finds these parts of them.
        label: for a model: the column that holds the truth. Default: the one it was fitted on.
        where: only items that meet this SQL condition.
        against: for a model: another model, compared on the same items with paired differences.
        report: write the result as one .html, .md or .json file, too.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Items that the space or model has learned from are left out where others remain, and counted in `seen` where not.

    Raises:
        ManifestError: a file of questions or moments is missing or wrong.
        SpaceError: no item has such pairs, or the space has no probabilities for `off_topic`.
        ChiasmError: options of collections and of models together, or a report that cannot be written.
    """
    from chiasm.verbs.model import check_report

    check_report(report)
    if collection is None:
        if label is not None or against is not None:
            raise ChiasmError(
                "label and against go with a model and a collection: chiasm evaluate MODEL COLLECTION --label COLUMN"
            )
        if pairs is None and (moments is None or off_topic is not None):
            pairs = ("image", "text")
        return _evaluate_space(Path(target), pairs, space, off_topic, moments, where, report, device)
    if any(given is not None for given in (pairs, space, off_topic, moments)):
        raise ChiasmError(
            "pairs, space, off_topic and moments go with a collection alone: chiasm evaluate COLLECTION --pairs image,text"
        )
    return _evaluate_model(Path(target), Path(collection), label, where, against, report, device)


def feedback(
    collection: str | Path,
    items: Sequence[str],
    *,
    verdict: Literal["up", "down"],
    query: str = "",
    who: str = "me",
) -> dict[str, Any]:
    """Keep thumbs on hits of a query. Gives how many verdicts there are now.

    Args:
        collection: the collection.
        items: ids of hits.
        verdict: whether they were right.
        query: the words that were searched with.
        who: whose verdict it is; of one person the latest counts.

    Raises:
        ChiasmError: an item is not in the collection, or a text is too long.
    """
    from chiasm.store.feedback import FeedbackTable, Thumb

    table = FeedbackTable(Collection.open(collection))
    table.add([Thumb(item, verdict, query) for item in items], who=who)
    return table.count()


def weigh(collection: str | Path, *, space: str | None = None, device: Device = "auto") -> Weighing:
    """Learn from thumbs (`feedback`) how much words count beside vectors in hybrid search, and keep it if that is better.

    Every query in words with a thumb up and a thumb down is searched with again. The learned weight is kept with the space,
    and `search(hybrid=True)` goes by it, if it beats reciprocal ranks by more than one standard error of the paired
    difference on queries that it was not learned from. Else a weight that was kept before is removed.

    Args:
        collection: the collection.
        space: name of the space. Default: the newest.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: fewer than 10 different queries to learn from.
        SpaceError: there is no such space, it lacks text, or the weight cannot be written.
        CollectionError: the collection has no vectors.
    """
    from chiasm.retrieval.hybrid import compare_fusions
    from chiasm.store.feedback import FeedbackTable
    from chiasm.verbs.learn import judged

    searcher = Searcher(collection, space=space, device=device)
    searcher.space.encoder("text", searcher.networks)  # asked for here, not once a query
    given = FeedbackTable(searcher.collection).judged()
    found = judged(given, searcher.rankings, searcher.names)
    if found.different < FEWEST_QUERIES:
        raise LabelError(
            f"to learn how much words count takes at least {FEWEST_QUERIES} different queries with both a thumb up and a thumb "
            f"down among what is found; there are {found.different}, and {found.silent} more that say nothing. Give "
            f'more: chiasm feedback {collection} ID --verdict up --query "...", and the same with --verdict down'
        )
    compared = compare_fusions(found.queries, groups=found.groups)
    by = compared.precision
    precision = {"vectors": by["first"], "words": by["second"], "ranks": by["ranks"], "weight": by["weight"]}
    why = (
        f"on left-out queries a learned weight has an average precision of {by['weight']:.3f} and reciprocal ranks "
        f"{by['ranks']:.3f}: a gain of {compared.gain:+.3f}, {'' if compared.is_better else 'not '}more than its standard "
        f"error of {compared.standard_error:.3f}"
    )
    result = Weighing(
        searcher.space.name, compared.is_better, why, compared.weight, precision, compared.gain, compared.standard_error,
        compared.groups, found.silent,
    )  # fmt: skip
    about = {name: value for name, value in result.as_dict().items() if name not in ("space", "kept", "weight")}
    folder = searcher.collection.path / "spaces" / searcher.space.name
    save_weight(folder, searcher.space, result.weight if result.kept else None, about=about)
    return result


def labels(collection: str | Path, items: Sequence[str], *, column: str, label: str, who: str = "me") -> dict[str, Any]:
    """Keep what items truly are, for `learn`. Gives how many verdicts there are now.

    Args:
        collection: the collection; its own labels stay as they are.
        items: their ids.
        column: the label column.
        label: the right value; `"unknown"` for none of the classes.
        who: whose verdict it is; where people disagree, the majority counts.

    Raises:
        ChiasmError: an item is not in the collection, or a text is too long.
    """
    from chiasm.store.feedback import FeedbackTable, Label

    table = FeedbackTable(Collection.open(collection))
    table.add([Label(item, column, label) for item in items], who=who)
    return table.count()


def learn(
    model: str | Path,
    collection: str | Path,
    *,
    unseen: Literal["auto", "compare", "learn"] = "auto",
    names: bool = True,
    source: str | Path | None = None,
    group: str | None = None,
    alike: float = 0.97,
    switch: bool = True,
    seed: int = 0,
    device: Device = "auto",
) -> LearnReport:
    """Fit a model again with the labels that people gave (`labels`), and take the new one if it is not worse.

    Both are judged on the same items that they did not learn from. The old one is kept as MODEL.previous (`revert`).

    Args:
        model: a folder that `fit` wrote.
        collection: where the labelled items and people's verdicts are.
        unseen: what to do with labelled items that the model has not seen: `"compare"` old and new with them, `"learn"` from
            them, or `"auto"`: compare where there are at least 30.
        names: as in `fit`.
        source: the other domain, of a model that was fitted with one.
        group: as in `fit`.
        alike: as in `fit`.
        switch: whether to take the new model; else only say how it compares.
        seed: of folds.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: there is no model, it is of another encoder, or was replaced meanwhile.
        LabelError: what is left to learn from does not allow it.
    """
    from chiasm.verbs import learn as loop

    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    space = start_of(opened, networks)
    saved = load_model(Path(model))
    other = None
    if source is not None:
        other = _source_items(source, saved.label, saved.fingerprints, space, False, device)
    return loop.learn(
        model,
        opened,
        networks,
        space,
        unseen=unseen,
        names=names,
        source=other,
        group=group,
        alike=alike,
        switch=switch,
        seed=seed,
    )


def revert(model: str | Path) -> str:
    """Bring back the model that `learn` replaced. Gives its version.

    Raises:
        ChiasmError: none was replaced.
    """
    from chiasm.verbs.model import revert_model

    return revert_model(Path(model))


def drift(
    model: str | Path, collection: str | Path, *, where: str | None = None, device: Device = "auto"
) -> DriftReport:
    """How far the items of a collection lie from those that a model learned from.

    Args:
        model: a folder that `fit` wrote.
        collection: the items that come in.
        where: only items that meet this SQL condition, such as those that were added last.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the model keeps no embeddings to compare with, or is of another encoder.
    """
    from chiasm.verbs import learn as loop

    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    return loop.collection_drift(load_model(Path(model)), opened, networks, start_of(opened, networks), where=where)


def serve(
    collection: str | Path,
    *,
    model: str | Path | None = None,
    space: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8265,
    api_key_file: str | Path | None = None,
    host_names: Sequence[str] = (),
    workers: int = 1,
    rate: float | None = None,
    query_log: str | Path | None = None,
    device: Device = "auto",
) -> None:
    """Serve a page for people and a REST API for programs, until stopped (Ctrl-C); running requests are finished.

    Args:
        collection: what is searched in. `add` may go on meanwhile: new items appear without a restart.
        model: a folder that `fit` wrote, to recognise with.
        space: name of the space to search in. Default: the newest.
        host: address to listen on. Any but this machine's own needs `api_key_file`.
        port: 0 takes a free one; the log says which.
        api_key_file: hashes of the keys that are let in, see `make_key`.
        host_names: names under which the server is reached, beside its addresses, this machine's name and localhost.
        workers: processes, which share the collection.
        rate: requests a second of one key. Default: 50 where keys are needed, else no limit.
        query_log: a file to keep the texts of queries in. Default: they are kept nowhere.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ChiasmError: the address is open to others and no keys are given, the port is taken, or the collection, model or key
            file cannot be used.
    """
    require("fastapi", "serve", "serve a collection")
    from chiasm.serving.run import serve as run

    run(
        collection,
        model=model,
        space=space,
        host=host,
        port=port,
        api_key_file=api_key_file,
        host_names=host_names,
        workers=workers,
        rate=rate,
        query_log=query_log,
        device=device,
    )


def make_key(file: str | Path, *, name: str = "default") -> str:
    """Make an API key for `serve`. It is given once; the file keeps its hash.

    Args:
        file: with the hashes of keys; made where there is none.
        name: of the key, for the log.

    Raises:
        ChiasmError: the file cannot be written, or has a key of that name.
    """
    require("fastapi", "serve", "serve a collection")
    from chiasm.serving.keys import make_key as make

    return make(file, name=name)


# ------------------------------------------------------------------------------------------------------------- queries


def _keep_words(collection: Collection) -> None:
    """Bring the full text up to date, where there is one: the words of removed items go, those of new ones come."""
    from chiasm.store.words import FullText

    words = FullText.kept(collection)
    if words is not None:
        words.update()


def _listed(given: str | Path | Sequence[str | Path] | None) -> list[Any]:
    if given is None:
        return []
    return [given] if isinstance(given, str | Path) else list(given)


def _opened(searcher: Searcher, modality: Modality, given: Files) -> list[Media]:
    """Files of a query, which have to be of the modality that they were given as."""
    found = []
    for path in _listed(given):
        medium = searcher.open(path)
        if medium.modality != modality:
            raise SpaceError(f"{path} was given as {modality} and its content is {medium.modality}")
        found.append(medium)
    return found


# ------------------------------------------------------------------------------------------------------------- pairs


def _media_of(collection: Collection, data: Pairs, rows: Int[np.ndarray, " some"]) -> tuple[list[Medium], list[Medium]]:
    """What a report shows of pairs, of the anchor and of the moved modality."""
    from chiasm.report.page import Medium

    items = {str(row["id"]): row for row in collection.items(ids=sorted({data.items[row] for row in rows}))}

    def shown(item: str, slot: str) -> Medium:
        kind, number = slot.split("/")
        value = items[item][kind][int(number)]
        if kind == "text":
            return Medium(item, text=value if not Path(value).is_absolute() else Path(value).name)
        if kind == "audio":
            return Medium(item, sound=Path(value))
        return Medium(item, picture=Path(value))

    return (
        [shown(data.items[row], data.anchor_slots[row]) for row in rows],
        [shown(data.items[row], data.moved_slots[row]) for row in rows],
    )


@dataclass(frozen=True, eq=False)
class _Learned:
    """One modality brought to the anchor."""

    data: Pairs
    map: LearnedMap | None  # None: the start stays
    before: Measured
    after: Measured
    crossed: Float[np.ndarray, "pairs dim"]  # every pair by a map that did not learn from its group
    report: Aligned


def _align_one(
    data: Pairs,
    start: Space,
    method: str | None,
    source: str | Path | None,
    alpha: float | Literal["auto"],
    seed: int,
    device: Device,
) -> _Learned:
    from chiasm.alignment.alignment import MIN_PAIRS, PairStatistics
    from chiasm.alignment.choice import make_alignment
    from chiasm.report.sections import measure_pairs

    if len(data.items) < MIN_PAIRS:
        raise SpaceError(
            f"alignment needs at least {MIN_PAIRS} pairs; got {len(data.items)} of {data.moved} and {data.anchor}. Add "
            "pairs or use the space as it is"
        )
    split = holdout_split(HELD_OUT, groups=data.groups, seed=seed)
    before = measure_pairs(data, data.start[split.test], split.test, seed=seed)
    if method == "none":
        if source is not None:
            raise SpaceError(
                "the method 'none' learns no map, so there is nothing to learn from a source. Leave it out"
            )
        report = Aligned("none", len(data.items), len(split.test), 0.0, 0.0, 0)
        return _Learned(data, None, before, before, data.start, report)
    theirs = None if source is None else _source_of(source, start, data.moved, data.anchor, device)
    if method is None:
        method = "ridge" if isinstance(theirs, PairStatistics) else "kernel"
    tried = make_alignment(method, alpha=alpha, seed=seed).fit(**data.take(split.train), source=theirs)
    after = measure_pairs(
        data, tried.transform(data.features[split.test], data.start[split.test]), split.test, seed=seed
    )
    final = make_alignment(method, alpha=alpha, seed=seed).fit(**data.take(np.arange(len(data.items))), source=theirs)
    choice = final.choice_
    crossed = final.cross_fitted(**data.take(np.arange(len(data.items))), source=theirs)
    report = Aligned(method, len(data.items), len(split.test), choice.alpha, choice.blend, _count(theirs))
    return _Learned(data, final.map_, before, after, crossed, report)


def _with_anchor(pairs: Sequence[Modality]) -> list[tuple[Modality, Modality]]:
    """The pairs to learn from: two modalities, or each of several with text."""
    if len(pairs) == 2:
        return [(pairs[0], pairs[1])]
    if len(pairs) < 2 or len(set(pairs)) < len(pairs) or "text" not in pairs:
        raise SpaceError(
            f"pairs are two different modalities, or several with text, which the others are brought to; got {', '.join(pairs)}"
        )
    return [(modality, "text") for modality in pairs if modality != "text"]


def _told(model: ScoreModel) -> dict[str, dict[str, Any]]:
    """What was learned about scores, for reports."""
    told = {}
    for (asked, searched), pair in model.pairs.items():
        one: dict[str, Any] = {"preparation": asdict(pair.chosen.preparation)}
        if pair.relevance is not None:
            one |= {"calibration_error": pair.relevance.calibration_error, "queries": pair.relevance.queries}
            one |= {"answered": pair.relevance.rates(pair.relevance.threshold())}
        told[f"{asked}_to_{searched}"] = one
    return told


def _belongs_to(space: Space, moved: Modality, anchor: Modality) -> dict[str, str]:
    """What statistics of pairs must agree on to be added up: encoders and start of both modalities."""
    return {
        "moved": moved,
        "anchor": anchor,
        "moved_encoder": space.fingerprints[moved],
        "anchor_encoder": space.fingerprints[anchor],
        "start": space.start_key(moved, anchor),
    }


def _source_of(source: str | Path, space: Space, moved: Modality, anchor: Modality, device: Device) -> Source:
    """The pairs of a collection, or the statistics in a file, if they are embedded as the target is."""
    from chiasm.alignment.alignment import PairArrays, PairStatistics

    mine = _belongs_to(space, moved, anchor)
    found: Source
    if Path(source).is_dir():
        opened = Collection.open(source)
        start = start_of(opened, encoders.resolve(opened.encoder, device=device))
        data = pairs_of(opened, start, (moved, anchor))
        theirs, found = (
            _belongs_to(start, moved, anchor),
            PairArrays(data.features, data.anchors, data.start, data.groups),
        )
    else:
        found, theirs = PairStatistics.load(source)
    if theirs != mine:
        differing = ", ".join(
            f"{key}: {theirs.get(key)} there, {mine[key]} here" for key in mine if theirs.get(key) != mine[key]
        )
        raise SpaceError(f"the source {source} was embedded otherwise than the target ({differing})")
    return found


def _count(source: Source | None) -> int:
    from chiasm.alignment.alignment import PairStatistics

    if source is None:
        return 0
    return source.count if isinstance(source, PairStatistics) else len(source.X)


def _evaluate_space(
    path: Path,
    pairs: tuple[Modality, Modality] | None,
    name: str | None,
    off_topic: str | Path | None,
    moments: str | Path | None,
    where: str | None,
    report: str | Path | None,
    device: Device,
) -> Evaluation:
    from chiasm.report.sections import show_pairs
    from chiasm.verbs.evaluate import (
        ask_moments,
        ask_off_topic,
        read_moments,
        read_questions,
        show_asked_moments,
        show_off_topic,
    )

    opened = Collection.open(path)
    questions = None if off_topic is None else read_questions(off_topic)  # what is wrong with a file is said at once
    known = None if moments is None else read_moments(moments, opened)
    searcher = None if questions is None and known is None else Searcher(path, space=name, device=device)
    networks = encoders.resolve(opened.encoder, device=device) if searcher is None else searcher.networks
    space = space_of(opened, networks, name) if searcher is None else searcher.space
    metrics: dict[str, Any] = {}
    on = []
    told: list[Callable[[Page], None]] = []
    seen = 0
    if pairs is not None:
        found = _paired(opened, space, pairs, where)
        metrics |= found.as_dict()
        seen = found.seen
        on.append(found.measured)
        needed = report is not None or questions is not None
        shown = _media_of(opened, found.data, found.rows) if needed else ([], [])
        told.append(lambda page: show_pairs(page, found.after, shown, before=found.before))
        if questions is not None and searcher is not None:
            texts = [medium.text or medium.name for medium in shown[0]]
            asked = ask_off_topic(searcher, questions, found.data, found.rows, texts, where=where)
            metrics["nothing_found"] = asked.as_dict()
            on.append(f"{len(questions)} questions without an answer")
            told.append(lambda page: show_off_topic(page, asked))
    if known is not None and searcher is not None:
        timed = ask_moments(searcher, known, where=where)
        metrics["moments"] = timed.as_dict()
        on.append(f"{len(timed.metrics.queries)} queries for moments of {timed.items} recordings")
        told.append(lambda page: show_asked_moments(page, timed))
    result = Evaluation(f"space {space.name!r} of {opened.path.name}", "; ".join(on), metrics, seen)
    if report is not None:
        page = _page(result)
        for tell in told:
            tell(page)
        page.save(report)
    return result


@dataclass(frozen=True, eq=False)
class _Paired:
    """Pairs of a collection, measured in a space, and in the one that nothing was learned in where that is another."""

    data: Pairs
    rows: Int[np.ndarray, " some"]
    measured: str
    seen: int
    after: Measured
    before: Measured | None

    def as_dict(self) -> dict[str, Any]:
        """Metrics by direction, in a gallery of both by modality, and against the start."""
        told = self.after.as_dict()
        told["by_modality"] = {
            asked: {searched: part.as_dict() for searched, part in found.items()}
            for asked, found in self.after.found.by_modality().items()
        }
        if self.before is not None:
            told["before"] = self.before.found.as_dict()
            told["gain"] = _gain(self.before, self.after)
        return told


def _paired(opened: Collection, space: Space, pairs: tuple[Modality, Modality], where: str | None) -> _Paired:
    from chiasm.report.sections import measure_pairs

    data = pairs_of(opened, space, pairs, where=where)
    learned = set(space.learned_from)
    unseen = np.array([row for row, item in enumerate(data.items) if item not in learned], dtype=int)
    rows = unseen if len(unseen) else np.arange(len(data.items))
    after = measure_pairs(data, space.place(data.moved, data.embeddings[rows]), rows)
    before = measure_pairs(data, data.start[rows], rows) if data.moved in space.maps else None
    measured = f"{len(rows)} pairs of {data.moved} and {data.anchor}"
    if learned and len(unseen):
        measured += f" that the space was not learned from ({len(data.items) - len(unseen)} others left out)"
    return _Paired(data, rows, measured, 0 if len(unseen) else len(rows), after, before)


def _gain(before: Measured, after: Measured) -> dict[str, dict[str, Any]]:
    """By direction and metric, the paired difference; empty where all pairs are of one group."""
    if len(np.unique(before.found.groups)) < 2:
        return {}
    differences = after.found.differences(before.found)
    return {d: {metric: part.as_dict() for metric, part in metrics.items()} for d, metrics in differences.items()}


# -------------------------------------------------------------------------------------------------------- recognition


def _source_items(
    source: str | Path,
    label: str,
    fingerprints: Mapping[Modality, str],
    space: Space,
    with_unlabelled: bool,
    device: Device,
) -> SourceItems:
    """Items of another collection, embedded by the same encoders: those with a label, or all if that is enough."""
    opened = Collection.open(source)
    networks = encoders.resolve(opened.encoder, device=device)
    theirs = fingerprints_of(networks)
    for modality, fingerprint in fingerprints.items():
        if theirs.get(modality) != fingerprint:
            raise ChiasmError(
                f"the source {source} has {modality} embeddings of another encoder ({theirs.get(modality, 'none')}, the "
                f"target {fingerprint}). Add its files with the target's encoder"
            )
    if with_unlabelled and label not in opened.columns():
        ids = [str(row["id"]) for row in opened.items()]
        found = embedded_items(opened, ids, fingerprints)
        usable = np.flatnonzero(np.any([*found.present.values()], axis=0))
        return SourceItems(modality_arrays(found, space, tuple(fingerprints), usable))
    labelled = labelled_items(opened, networks, space, [label], modalities=tuple(fingerprints))
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
    from chiasm.report.sections import show_choices, show_columns

    saved = load_model(path)
    other = None if against is None else load_model(Path(against))
    opened = Collection.open(where_items)
    networks = encoders.resolve(opened.encoder, device=device)
    for model in (saved, other):
        if model is not None:
            model.check(fingerprints_of(networks))
    modalities = [modality for modality in MODALITIES if modality in saved.fingerprints]
    columns = learning.columns_of(saved.predictor, label or saved.label)
    data = labelled_items(opened, networks, start_of(opened, networks), columns, modalities=modalities, where=where)
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
    from chiasm.report.page import Page

    page = Page(result.what, f"Measured on {result.measured}.")
    if result.seen:
        page.paragraph(f"Beware: it learned from all {result.seen} of these, so the numbers flatter.")
    return page
