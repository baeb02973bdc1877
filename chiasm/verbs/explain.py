"""The verb `explain`: what the predictions of a model rest on, and how far that can be believed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from chiasm import encoders, work
from chiasm.encoders.base import Encoder, fingerprints_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, LabelError, MediaError
from chiasm.evaluation.record import Record
from chiasm.files import is_within
from chiasm.media.limits import Limits, limits_of
from chiasm.recognition.columns import Fitted
from chiasm.recognition.explanations import Examples
from chiasm.recognition.linear import class_weights
from chiasm.recognition.reasons import ClassReasons, Explanation, Faithfulness
from chiasm.splits import class_name
from chiasm.store.collection import Collection
from chiasm.store.ingest import EmbeddedFiles, embed_manifests
from chiasm.store.sources import Data, manifests_of, shown_as
from chiasm.types import FileOutcome, Item, Modality
from chiasm.verbs.add import OnProgress
from chiasm.verbs.class_reasons import reasons_of_classes, reasons_without_items
from chiasm.verbs.dataset import Labelled, embedded_items, labelled_items
from chiasm.verbs.explainer import (
    FEWEST_PIECES,
    HIDDEN,
    Explainer,
    Part,
    Vector,
    column_of,
    measure_faithfulness,
    number_of,
    source_of,
)
from chiasm.verbs.measure import read_target
from chiasm.verbs.model import Model, check_report, keep_faithfulness, load_model
from chiasm.verbs.spaces import start_of
from chiasm.verbs.twin import TwinReport, make_twin, read_concepts

MOST_SHOWN = 100  # items of a report
FEWEST = 10  # items that the model has not learned from, below which faithfulness is measured on any


@dataclass(frozen=True)
class ExplainReport(Record):
    """Explanations of predictions, in the order of the input, or of the model as a whole.

    Attributes:
        explanations: of the items.
        classes: what each answer rests on, where no items are named.
        twin: a model of few words that stands for this one, where concepts are named.
        faithfulness: of the reasons that are found in a medium, by its modality; empty where it was not measured.
        measured: on what faithfulness was measured, in words.
        notes: what is left out, and why.
        outcomes: of files that could not be used.
    """

    explanations: tuple[Explanation, ...]
    classes: tuple[ClassReasons, ...]
    twin: TwinReport | None
    faithfulness: dict[Modality, Faithfulness]
    measured: str
    notes: tuple[str, ...]
    outcomes: tuple[FileOutcome, ...]


def explain(
    model: str | Path,
    paths: Data = (),
    *,
    collection: str | Path | None = None,
    column: str | None = None,
    answer: str | None = None,
    concepts: Sequence[str] | str | Path | None = None,
    sample: int = 40,
    every: bool = False,
    report: str | Path | None = None,
    max_pixels: int | None = None,
    device: Device = "auto",
    on_progress: OnProgress | None = None,
) -> ExplainReport:
    """Say what the predictions of a model rest on: modalities, places, words, seconds, and items that it learned from.

    Without paths, what each of its answers rests on: how much each modality counts, by the items that the model keeps, or by
    all items of a collection, of which the words, places and seconds are named that speak most for the answer.

    How faithful reasons are, measured for the most probable answers, is kept with the model, so that servers can show it.

    Args:
        model: a folder that `fit` wrote.
        paths: as for `predict`; none: the model as a whole is explained.
        collection: that the model was fitted on, or another one: gives the items that speak for and against, and those that
            faithfulness is measured on. Without it neither is there, since a model keeps no media.
        column: which to explain, of a model that predicts several.
        answer: the class or label to explain. Default: the most probable one of each item.
        concepts: words such as "red", "round", "animal" (a list, with commas between, or a file with one a line): also fit a
            sparse linear model on how similar items are to these, and say what it costs. Needs a collection, and no paths.
        sample: items a modality that faithfulness is measured on; 0 leaves that out.
        every: also show kinds of reasons that were found no better than random ones.
        report: also write a page there, `.html`, `.md` or `.json`.
        max_pixels: as for `add`.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        on_progress: called after every file that is read.

    Raises:
        ChiasmError: no such column or answer; the collection is of another encoder.
    """
    check_report(report)
    is_bare = isinstance(paths, Sequence) and not len(paths)
    if collection is None and every:
        raise ChiasmError(
            "all reasons are shown where none is measured: leave every (--all) out, or name the collection"
        )
    if sample < 0:
        raise ChiasmError(f"sample is the number of items to measure on, 0 for none; got {sample}")
    if concepts is not None and (collection is None or not is_bare):
        raise ChiasmError("concepts describe a model as a whole, by items of a collection: name that, and no files")
    words = () if concepts is None else read_concepts(concepts)
    saved = load_model(Path(model))
    fitted = column_of(saved.recognizer, column)
    number = number_of(answer, fitted)
    networks = encoders.resolve(saved.encoder, device=device)
    saved.check(fingerprints_of(networks))
    limits = limits_of(max_pixels)
    explainer = Explainer.of(saved, networks, fitted, number)
    notes: list[str] = []
    faithfulness: dict[Modality, Faithfulness] = {}
    measured = ""
    classes: tuple[ClassReasons, ...] = ()
    twin: TwinReport | None = None
    if collection is None and is_bare:
        classes = reasons_without_items(explainer)
        notes.append(
            "what is counted are the items that the model keeps for adding classes"
            if classes
            else "the model keeps no items to count by: name the collection"
        )
        notes.append("words and places that speak for an answer are found in a collection: name it")
    elif collection is None:
        notes.append("how faithful this is was not measured, and examples are left out: name the collection for both")
    else:
        saved.require_record("there are no examples and no items to measure by: leave the collection out")
        opened = Collection.open(collection)
        theirs = encoders.resolve(opened.encoder, device=device)
        saved.check(fingerprints_of(theirs))
        twin = make_twin(saved, fitted, opened, theirs, words) if words else None
        known = known_ids(opened, saved)
        explainer.learned = learned_items(opened, theirs, saved, explainer, known)
        if explainer.learned is None:
            notes.append(f"{opened.path.name} has none of the items that the model has learned from: no examples")
        if sample:
            items, measured = _sampled(opened, known, explainer, sample, limits)
            faithfulness = measure_faithfulness(explainer, items)
            if answer is None and faithfulness and not _keep(Path(model), saved, fitted.column, faithfulness, measured):
                notes.append("how faithful this is was not kept with the model, whose folder cannot be written to")
            if not every:
                explainer.left_out = frozenset(m for m, one in faithfulness.items() if not one.beats_random)
        if is_bare:
            classes = tuple(reasons_of_classes(explainer, opened, limits))
            absent = {*explainer.answers} - {one.answer for one in classes}
            if absent:
                notes.append(f"no item of {opened.path.name} gets the answer {' or '.join(sorted(absent))}")
        notes += [
            f"what speaks in {modality} is not shown: hiding it changed no more than hiding random parts (--all shows it)"
            for modality in explainer.left_out
        ]
    explanations: list[Explanation] = []
    outcomes: tuple[FileOutcome, ...] = ()
    with TemporaryDirectory() as room:  # for media that are in no file
        if not is_bare:
            files = embed_manifests(
                manifests_of(paths, lambda: Path(room)), networks, name=saved.encoder, limits=limits,
                on_progress=on_progress,
            )  # fmt: skip
            outcomes = files.outcomes
            explanations = _explanations(files, explainer, limits, room)
            lost = len(files.items) - len(explanations)
            if lost:
                notes.append(f"{lost} of {len(files.items)} items have nothing that the model knows")
        result = ExplainReport(tuple(explanations), classes, twin, faithfulness, measured, tuple(notes), outcomes)
        if report is not None:
            _save_report(result, fitted, Path(model).name, saved.encoder, report)
        return replace(result, explanations=tuple(_without_room(one, room) for one in explanations))


def _explanations(files: EmbeddedFiles, explainer: Explainer, limits: Limits, room: str) -> list[Explanation]:
    """Explain the items of files; those of which the model knows nothing are left out."""
    explanations: list[Explanation] = []
    vectors: dict[str, list[tuple[Modality, str, Vector]]] = {}
    for modality, own in files.vectors.items():
        for item_id, slot, vector in zip(own.items, own.slots, own.vectors, strict=True):
            vectors.setdefault(item_id, []).append((modality, slot, vector))
    for done, (item_id, item) in enumerate(files.items.items()):
        work.tell(work.Step("explanations", done, len(files.items)))
        parts = _opened(item, vectors.get(item_id, ()), explainer, limits)
        if parts:
            explanations.append(explainer.explain(item_id, shown_as(item, room), parts))
    return explanations


def _keep(folder: Path, saved: Model, column: str, faithfulness: Mapping[Modality, Faithfulness], words: str) -> bool:
    """Keep what was measured with the model, for servers; return whether it could be written."""
    try:
        keep_faithfulness(folder, saved.version, column, faithfulness, words)
    except OSError:
        return False
    return True


def _save_report(result: ExplainReport, column: Fitted, name: str, encoder: str, path: str | Path) -> None:
    from chiasm.report.page import Page
    from chiasm.report.reasons import show_class, show_explanation, show_faithfulness

    count = len(result.explanations)
    lead = f"What {count} prediction{'' if count == 1 else 's'} of {column.column} rest{'s' if count == 1 else ''} on."
    if not count:
        lead = f"What the answers to {column.column} rest on."
    page = Page(f"Why: {name}", lead, {"encoder": encoder})
    for note in result.notes:
        page.paragraph(f"{note[0].upper()}{note[1:]}.")
    unit = "the number" if column.kind == "number" else "log-odds"
    for explanation in result.explanations[:MOST_SHOWN]:
        show_explanation(page, explanation, unit=unit)
    for one in result.classes[:MOST_SHOWN]:
        show_class(page, one, unit=unit)
    if result.twin is not None:
        page.section(
            "In a few words",
            f"{result.twin.sentence}. A weight is of one standard deviation of the similarity to the concept.",
        )
        page.table(
            ("answer", "concept", "weight"),
            [(name, *one) for name, rule in result.twin.rules.items() for one in rule.items()],
        )
    if count > MOST_SHOWN:
        page.paragraph(f"{count - MOST_SHOWN} more: the result as JSON has all of them.")
    show_faithfulness(page, result.faithfulness, result.measured)
    page.save(path)


def _without_room(explanation: Explanation, room: str) -> Explanation:
    """Return an explanation without paths of media that were in memory."""
    media = (
        replace(one, path=None) if one.path is not None and is_within(one.path, [room]) else one
        for one in explanation.media
    )
    return replace(explanation, media=tuple(media))


def _opened(
    item: Item, vectors: Sequence[tuple[Modality, str, Vector]], explainer: Explainer, limits: Limits
) -> tuple[Part, ...]:
    """Return the media of an item that the model knows, opened again; `vectors` are those of its slots."""
    parts = []
    for modality, slot, vector in vectors:
        listed_as, _, place = slot.partition("/")
        source = [source for source in item.sources if source.modality == listed_as][int(place)]
        if modality not in explainer.modalities:
            continue
        try:
            medium = explainer.open(source, modality, limits)
        except MediaError:  # gone or changed since it was embedded
            continue
        if medium.modality == modality:
            parts.append(Part(modality, source.path, medium, vector))
    return tuple(parts)


def known_ids(opened: Collection, saved: Model) -> frozenset[str]:
    """Return the items of a collection whose content a model has learned from: another collection may have the same ids."""
    ids = opened.ids()
    contents = embedded_items(opened, ids, saved.fingerprints).contents(tuple(saved.fingerprints), np.arange(len(ids)))
    return frozenset(ids[row] for row in np.flatnonzero(saved.left_out.knows(contents)))


def learned_items(
    opened: Collection, networks: Sequence[Encoder], saved: Model, explainer: Explainer, seen: frozenset[str]
) -> tuple[Labelled, Examples] | None:
    """Return the items of a collection that a model has learned from, by the labels there; None where there are none."""
    column, own = explainer.column, seen & saved.trained_on
    try:
        space = saved.space or start_of(opened, networks)
        data = labelled_items(opened, networks, space, [column.column], modalities=explainer.modalities, alike=2)
        data = data.take(np.array([row for row, name in enumerate(data.ids) if name in own], dtype=int))
        target = read_target(data.values[column.column], column=column.column, kind=column.kind)
    except LabelError:
        return None
    names = [class_name(name) for name in column.names]
    places = np.array([names.index(name) if name in names else -1 for name in map(class_name, target.names)], dtype=int)
    values, has, weight = target.values, target.known, np.ones(len(target))
    if column.kind == "classes":
        values = np.where(has, places[values], -1)
        has = values >= 0
        present, codes = np.unique(values[has], return_inverse=True)
        weights = saved.recognizer.class_weight
        weight[has] = class_weights(codes, weight[has], weights, column.names[present].tolist())
    elif column.kind == "labels":
        values = np.zeros((len(target), len(names)), dtype=bool)
        values[:, places[places >= 0]] = target.values[:, places >= 0]
    return (data, Examples(data.arrays, values, has, weight)) if has.any() else None


def _sampled(
    collection: Collection, known_ids: frozenset[str], explainer: Explainer, sample: int, limits: Limits
) -> tuple[list[Part], str]:
    """Return media of items of a collection to measure on, and what these are, in words."""
    rows = collection.items()
    unseen = [row for row in rows if row["id"] not in known_ids]
    seen = len(unseen) < FEWEST
    chosen = rows if seen else unseen
    order = np.random.default_rng(0).permutation(len(chosen))
    parts: list[Part] = []
    for modality in HIDDEN:
        taken = 0
        for number in order:
            files = chosen[number][modality]
            if taken == sample or modality not in explainer.modalities:
                break
            if not files:
                continue
            try:
                part = explainer.embed(source_of(files[0], modality), limits, fewest=FEWEST_PIECES)
            except MediaError:  # gone or changed since it was added
                continue
            if part is not None:
                parts.append(part)
                taken += 1
    which = "items that the model has learned from" if seen else "items that the model has not learned from"
    return parts, f"{which}, of {collection.path.name}"
