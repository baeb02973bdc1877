"""The verbs: one function each, the same as the commands of the command line.

Here the two halves meet: files, encoders and collections on one side, arrays on the other. Every function takes paths
and keyword options and returns a frozen result with `as_dict()` for JSON.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm import __version__, encoders, media
from chiasm.arrays import Labelled, Pairs, embedded_items, fingerprints_of, labelled_items, pairs_of
from chiasm.collection import AddReport, Collection, Progress, Vectors, write_whole
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, CollectionError, SpaceError
from chiasm.manifest import read_manifest
from chiasm.recognition import ModalityArrays, Recognizer
from chiasm.retrieval.index import ExactIndex, Hit
from chiasm.space import LearnedMap, Space, start_space
from chiasm.types import MODALITIES, FileOutcome, Media, Modality, Outcome, Text

START = "start"
MODEL_FORMAT = "chiasm-model"
MODEL_VERSION = 1
HELD_OUT = 0.2  # share of the pairs, whole groups, that `align` measures itself on
FOLDS = 5

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
    chosen: dict[str, float]  # regularisation by subset of modalities

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
        tuple(space.name for space in _spaces(opened)),
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
        if row >= 0:
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
    from chiasm.evaluation.splits import holdout_split
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
    modalities: Sequence[Modality] | None = None,
    shots: int | None = None,
    where: str | None = None,
    seed: int = 0,
    device: Device = "auto",
) -> FitReport:
    """Train a recogniser on the labelled items of a collection and save it as a folder.

    Args:
        collection: where the items are.
        label: the column that holds the classes. Items without a value are left out.
        out: the folder to write; a model that is there is replaced.
        modalities: what to learn from. Default: all that the items have. Any subset works when predicting.
        shots: train on so many items a class, drawn at random, and measure on the rest. Default: train on all, and
            measure by five-fold cross-validation.
        where: only items that meet this SQL condition.
        seed: of the draw and of the folds.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        LabelError: no such column, one class only, classes too small for `shots`, a column of unique ids.
    """
    from chiasm.evaluation.metrics import classification_metrics
    from chiasm.evaluation.splits import few_shot_split, grouped_stratified_folds

    opened = Collection.open(collection)
    networks = encoders.resolve(opened.encoder, device=device)
    data = labelled_items(opened, networks, label, modalities, where)
    groups = data.groups
    if shots is not None:
        split = few_shot_split(data.labels, shots, seed=seed, groups=groups)
        train = split.train
        model = Recognizer().fit(data.arrays.take(train), data.labels[train], groups=groups[train])
        guesses = model.predict(data.arrays.take(split.test))
        measured = f"{len(split.test)} other items, after {shots} a class for training"
        metrics = classification_metrics(data.labels[split.test], guesses)
    else:
        train = np.arange(len(data.labels))
        guesses = np.empty_like(data.labels)
        smallest = min(Counter(data.labels.tolist()).values())
        folds = grouped_stratified_folds(data.labels, max(2, min(FOLDS, smallest)), seed=seed, groups=groups)
        for fold in folds:
            part = Recognizer().fit(data.arrays.take(fold.train), data.labels[fold.train], groups=groups[fold.train])
            guesses[fold.test] = part.predict(data.arrays.take(fold.test))
        measured = f"all {len(train)} items, each by a model that did not see it ({len(folds)} folds)"
        metrics = classification_metrics(data.labels, guesses)
        model = Recognizer().fit(data.arrays.take(train), data.labels, groups=groups)
    report = FitReport(
        model=str(Path(out)),
        label=label,
        classes=tuple(str(name) for name in model.classes_),
        modalities=tuple(data.fingerprints),
        items=len(train),
        unlabelled=data.unlabelled,
        measured=measured,
        metrics=metrics.as_dict(),
        chosen=model.strengths(),
    )
    _save_model(Path(out), model, opened, data, [data.ids[row] for row in train], report)
    return report


def predict(
    model: str | Path,
    paths: Sequence[str | Path],
    *,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> PredictReport:
    """Recognise what is in files, folders or tables.

    Args:
        model: a folder that `fit` wrote.
        paths: as for `add`. Items may have any subset of the modalities that the model was fitted on.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file.
    """
    saved = _load_model(Path(model))
    networks = encoders.resolve(saved.encoder, device=device)
    _check_fingerprints(saved, networks)
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
    usable = np.flatnonzero(np.any([*found.present.values()], axis=0))
    probabilities = np.empty((0, 0))
    if len(usable):
        has_any = [modality for modality in found.arrays if found.present[modality].any()]
        arrays = ModalityArrays({m: found.arrays[m] for m in has_any}, {m: found.present[m] for m in has_any})
        probabilities = saved.recognizer.predict_proba(arrays.take(usable))
    by_row = dict(zip(usable.tolist(), probabilities, strict=True))
    predictions = []
    for number, row in enumerate(rows):
        has = tuple(modality for modality in saved.fingerprints if found.present[modality][number])
        path = next((files[0] for modality in MODALITIES if (files := row[modality])), None)
        if number not in by_row:
            predictions.append(Prediction(ids[number], path, None, None, {}, ()))
            continue
        values = {str(name): float(p) for name, p in zip(saved.recognizer.classes_, by_row[number], strict=True)}
        best = max(values, key=lambda name: values[name])
        predictions.append(Prediction(ids[number], path, best, values[best], values, has))
    return PredictReport(tuple(predictions), added.outcomes)


def evaluate(
    target: str | Path,
    collection: str | Path | None = None,
    *,
    pairs: tuple[Modality, Modality] | None = None,
    space: str | None = None,
    label: str | None = None,
    where: str | None = None,
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
        report: write the result as one HTML file, too.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Items that the space or model has learned from are left out where others remain, and counted in `seen` where not.
    """
    if collection is None:
        if label is not None:
            raise ChiasmError(
                "label goes with a model and a collection: chiasm evaluate MODEL COLLECTION --label COLUMN"
            )
        result = _evaluate_space(Path(target), pairs or ("image", "text"), space, where, device)
    else:
        if pairs is not None or space is not None:
            raise ChiasmError(
                "pairs and space go with a collection alone: chiasm evaluate COLLECTION --pairs image,text"
            )
        result = _evaluate_model(Path(target), Path(collection), label, where, device)
    if report is not None:
        from chiasm.report import Page, show_classification, show_retrieval

        page = Page(result.what, f"Measured on {result.measured}.")
        if result.seen:
            page.paragraph(f"Beware: it learned from all {result.seen} of these, so the numbers flatter.")
        (show_retrieval if collection is None else show_classification)(page, result.metrics)
        page.save(report)
    return result


# ------------------------------------------------------------------------------------------------ spaces, galleries


def _spaces(collection: Collection) -> list[Space]:
    """Saved spaces, oldest first."""
    folders = [path.parent for path in (collection.path / "spaces").glob("*/space.json")]
    return sorted((Space.load(folder) for folder in folders), key=lambda space: space.created)


def _start(collection: Collection, networks: Sequence[Encoder]) -> Space:
    """The space that nothing was learned in; made once, and again when the encoders have changed."""
    folder = collection.path / "spaces" / START
    if (folder / "space.json").exists():
        saved = Space.load(folder)
        if dict(saved.fingerprints) == fingerprints_of(networks):
            return saved
    space = start_space(networks, name=START)
    others = [known.created for known in _spaces(collection) if known.name != START]
    if others:  # made anew, but not to be taken for newer than what was learned
        space = replace(space, created=min(others)[:-1])
    space.save(folder)
    return space


def _space(collection: Collection, networks: Sequence[Encoder], name: str | None) -> Space:
    if name is None:
        saved = _spaces(collection)
        if saved and saved[-1].name != START:
            return saved[-1]
        return _start(collection, networks)
    if name == START:
        return _start(collection, networks)
    folder = collection.path / "spaces" / name
    names = [space.name for space in _spaces(collection)]
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


@dataclass(frozen=True)
class _Model:
    """A saved recogniser with what it was fitted on."""

    recognizer: Recognizer
    encoder: str
    label: str
    fingerprints: dict[Modality, str]
    trained_on: frozenset[str]  # ids of items


def _save_model(
    folder: Path, model: Recognizer, collection: Collection, data: Labelled, ids: Sequence[str], report: FitReport
) -> None:
    if folder.exists() and not (folder / "model.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ChiasmError(f"{folder} exists and is not a model. Name an empty or a new folder with --out")
    header = {
        "format": MODEL_FORMAT,
        "format_version": MODEL_VERSION,
        "by": __version__,
        "encoder": collection.encoder,
        "label": report.label,
        "fingerprints": data.fingerprints,
        "trained_on": sorted(ids),
        "report": report.as_dict(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model.save(folder / "recognizer")
        write_whole(folder / "model.json", json.dumps(header, indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ChiasmError(f"the model {folder} cannot be written: {error}") from error


def _load_model(folder: Path) -> _Model:
    try:
        header = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChiasmError(
            f"{folder} is not a model ({error}). Make one: chiasm fit COLLECTION --label COLUMN --out {folder}"
        ) from error
    if header.get("format") != MODEL_FORMAT or header.get("format_version") != MODEL_VERSION:
        raise ChiasmError(
            f"{folder} is {header.get('format')} version {header.get('format_version')}; this chiasm reads {MODEL_FORMAT} "
            f"version {MODEL_VERSION}. Fit it again"
        )
    return _Model(
        Recognizer.load(folder / "recognizer"),
        header["encoder"],
        header["label"],
        header["fingerprints"],
        frozenset(header["trained_on"]),
    )


def _evaluate_model(path: Path, where_items: Path, label: str | None, where: str | None, device: Device) -> Evaluation:
    from chiasm.evaluation.metrics import classification_metrics

    saved = _load_model(path)
    opened = Collection.open(where_items)
    networks = encoders.resolve(opened.encoder, device=device)
    _check_fingerprints(saved, networks)
    data = labelled_items(opened, networks, label or saved.label, list(saved.fingerprints), where)
    unseen = np.array([row for row, item in enumerate(data.ids) if item not in saved.trained_on], dtype=int)
    rows = unseen if len(unseen) else np.arange(len(data.ids))
    metrics = classification_metrics(data.labels[rows], saved.recognizer.predict(data.arrays.take(rows)))
    measured = f"{len(rows)} items of {opened.path.name}"
    if len(unseen) and len(unseen) < len(data.ids):
        measured += f" that it was not trained on ({len(data.ids) - len(unseen)} others left out)"
    return Evaluation(f"model {path.name}", measured, metrics.as_dict(), 0 if len(unseen) else len(rows))


def _check_fingerprints(saved: _Model, networks: Sequence[Encoder]) -> None:
    now = fingerprints_of(networks)
    for modality, fingerprint in saved.fingerprints.items():
        if now.get(modality) != fingerprint:
            raise ChiasmError(
                f"the model was fitted on {modality} embeddings of another encoder ({fingerprint}, here "
                f"{now.get(modality, 'none')}). Fit it again with this collection's encoder {saved.encoder!r}"
            )
