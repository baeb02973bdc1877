"""The verb `evaluate`: measure search in a collection, or a recogniser on the labels of a collection.

Which items are fair to measure on is `chiasm.verbs.fair`, questions with known answers are `chiasm.verbs.questions`, the
metrics `chiasm.evaluation`, what a report shows `chiasm.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from jaxtyping import Int

from chiasm import encoders, media
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.base import fingerprints_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, MediaError
from chiasm.evaluation.pairs import PairMetrics
from chiasm.evaluation.record import Record
from chiasm.media import words_of
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Image, Modality
from chiasm.verbs.compare import compare_models
from chiasm.verbs.dataset import Labelled, labelled_items, pairs_of, taught_by
from chiasm.verbs.explainer import Explainer, number_of
from chiasm.verbs.fair import On, fair_items, fair_pairs
from chiasm.verbs.measure import in_common, measure_columns, unknown_classes
from chiasm.verbs.model import check_report, load_model
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import space_of, start_of

if TYPE_CHECKING:
    from chiasm.report.page import Example, Page, Place
    from chiasm.report.search import Medium


_SEED = 0  # of all draws
_SAME = 0.01  # by which probabilities of one model may differ by rounding


@dataclass(frozen=True)
class Evaluation(Record):
    """Metrics of a space or of a recogniser on a collection."""

    what: str  # the space or model, in words
    measured: str  # on what, in words
    metrics: dict[str, Any]
    unknown_classes: dict[str, str] = field(default_factory=dict)
    """By class that a model does not know, so that it is always wrong there: how many items, and what may be meant, in words."""
    seen: int = 0  # items measured on that were learned from, by what has learned from them: the numbers are optimistic
    notes: tuple[str, ...] = ()  # which modalities can be compared with which, where those measured cannot


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
    on: On = "auto",
    report: str | Path | None = None,
    device: Device = "auto",
) -> Evaluation:
    """Measure search in a collection by its pairs and by questions, or a recogniser by the labels of a collection.

    Items that the space or model has learned from, told by their content, are left out if others remain. If not, each is
    measured by a map or by heads that were learned without it: `align` and `fit` keep what their folds have said.

    Args:
        target: the collection (with `pairs`), or the model (with `collection` and `label`).
        collection: for a model: where the labelled items are.
        pairs: two modalities; each is searched for by the other. Items of equal content are relevant alike. Default: image
            and text, unless only `moments` are asked for. For an aligned space, the space before alignment is measured on
            the same pairs.
        space: name of the space, or the path of one that another collection learned. Default: the newest.
        off_topic: a text file of questions, one per line, that nothing in the collection answers. Measures how many of them
            `search` with `min_probability="auto"` answers all the same, and how many of the texts of `pairs` it answers.
        moments: a table with the columns query (words, or a file relative to the table), item (id), start and end
            (seconds; of a text characters). Measures whether a search of sounds and videos, or of texts, finds these parts.
        label: for a model: the column that holds the truth. Default: the one it was fitted on.
        where: only items that meet this condition.
        against: for a model: another model, compared on the same items with paired differences.
        on: `"auto"`, as above; `"folds"`: all items that were learned from, each by what was learned without it, and no
            others; `"training"`: all items, also by what has learned from them, which shows how well they are remembered
            and not how well others will be recognised.
        report: write the result as one .html, .md or .json file, too.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ManifestError: a file of questions or moments is missing or wrong.
        SpaceError: no item has such pairs, or the space has no probabilities for `off_topic`.
        ChiasmError: options of collections and of models together, nothing that is fair to measure on, or a report that
            cannot be written.
    """
    check_report(report)
    if on not in get_args(On):
        raise ChiasmError(f"on takes {', '.join(get_args(On))}; got {on!r}")
    if collection is None:
        if label is not None or against is not None:
            raise ChiasmError(
                "label and against go with a model and a collection: chiasm evaluate MODEL COLLECTION --label COLUMN"
            )
        if pairs is None and (moments is None or off_topic is not None):
            pairs = ("image", "text")
        return _evaluate_space(Path(target), pairs, space, off_topic, moments, where, on, report, device)
    if any(given is not None for given in (pairs, space, off_topic, moments)):
        raise ChiasmError(
            "pairs, space, off_topic and moments go with a collection alone: chiasm evaluate COLLECTION --pairs image,text"
        )
    return _evaluate_model(Path(target), Path(collection), label, where, against, on, report, device)


# --------------------------------------------------------------------------------------------------------------- spaces


def _evaluate_space(
    path: Path,
    pairs: tuple[Modality, Modality] | None,
    name: str | None,
    off_topic: str | Path | None,
    moments: str | Path | None,
    where: str | None,
    on: On,
    report: str | Path | None,
    device: Device,
) -> Evaluation:
    from chiasm.report.search import show_pairs
    from chiasm.verbs.questions import ask_moments, ask_off_topic, read_moments, read_questions

    opened = Collection.open(path)
    # Faults of a file are reported before anything is embedded.
    questions = None if off_topic is None else read_questions(off_topic)
    known = None if moments is None else read_moments(moments, opened)
    searcher = None if questions is None and known is None else Searcher(path, space=name, device=device)
    networks = encoders.resolve(opened.encoder, device=device) if searcher is None else searcher.networks
    saved = space_of(opened, networks, name)
    space = saved.space
    metrics: dict[str, Any] = {}
    measured: list[str] = []
    sections: list[Callable[[Page], None]] = []
    seen = 0
    if pairs is not None:
        data = pairs_of(opened, space, pairs, where=where)
        fair = fair_pairs(data, saved, on)
        rows, seen = fair.rows, fair.seen
        start, after = fair.measure(data, seed=_SEED)
        before = None if space.map_of(data.moved) is None else start
        metrics |= _pair_numbers(after, before)
        measured.append(fair.words + taught_by(opened, networks, sorted({data.items[row] for row in rows})))
        shown = _media_of(opened, data, rows) if report is not None or questions is not None else ([], [])
        sections.append(lambda page: show_pairs(page, after, shown, before=before, seed=_SEED))
        if questions is not None and searcher is not None:
            texts = [medium.text or medium.name for medium in shown[0]]
            asked = ask_off_topic(searcher, questions, data, rows, texts, where=where, seed=_SEED)
            metrics["nothing_found"] = asked.as_dict()
            measured.append(f"{len(questions)} questions without an answer")
            if fair.taught or fair.seen:
                measured[-1] += " (those with one have taught the space, so fewer of these are lost than of new ones)"
            sections.append(asked.show)
    if known is not None and searcher is not None:
        timed = ask_moments(searcher, known, where=where)
        metrics["moments"] = timed.as_dict()
        measured.append(f"{len(timed.metrics.queries)} queries for moments of {timed.items} files")
        sections.append(timed.show)
    notes = () if pairs is None else space.notes(opened.path, pairs)
    result = Evaluation(
        f"space {space.name!r} of {opened.path.name}", "; ".join(measured), metrics, seen=seen, notes=notes
    )
    if report is not None:
        _save_report(result, sections, report, {"encoder": opened.encoder, "seed": str(_SEED)})
    return result


def _pair_numbers(after: PairMetrics, before: PairMetrics | None) -> dict[str, Any]:
    """Return the metrics by direction, in a gallery of both by modality, and against the space before alignment."""
    numbers = after.as_dict()
    numbers["by_modality"] = {
        query: {target: part.as_dict() for target, part in targets.items()}
        for query, targets in after.retrieval.by_modality().items()
    }
    if before is not None:
        numbers["before"] = before.retrieval.as_dict()
        numbers["gain"] = after.gain(before)
    return numbers


def _media_of(collection: Collection, data: Pairs, rows: Int[np.ndarray, " some"]) -> tuple[list[Medium], list[Medium]]:
    """Return what a report shows of pairs, of the anchor and of the moved modality."""
    from chiasm.report.search import Medium

    items = {str(row["id"]): row for row in collection.items(ids=sorted({data.items[row] for row in rows}))}

    def shown(item: str, slot: str) -> Medium:
        modality, number = slot.split("/")
        value = items[item][modality][int(number)]
        if modality == "text":
            return Medium(item, text=words_of(value) or Path(value).name)
        if modality == "audio":
            return Medium(item, sound=Path(value))
        return Medium(item, picture=Path(value))

    return (
        [shown(data.items[row], data.anchor_slots[row]) for row in rows],
        [shown(data.items[row], data.moved_slots[row]) for row in rows],
    )


# --------------------------------------------------------------------------------------------------------------- models


def _evaluate_model(
    path: Path,
    where_items: Path,
    label: str | None,
    where: str | None,
    against: str | Path | None,
    on: On,
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
    columns = list(saved.recognizer.columns_)
    if label is not None and len(columns) == 1:
        columns = [label]
    space = saved.space or start_of(opened, networks)
    if other is not None and (other.space or start_of(opened, networks)).digest != space.digest:
        raise ChiasmError(
            f"{against} places items in another space than {path}: the two cannot be asked about the same vectors"
        )
    data = labelled_items(opened, networks, space, columns, modalities=modalities, where=where)
    fair = fair_items(saved, data, [] if other is None else [other], on)
    by_column = fair.predict(saved)
    metrics = measure_columns(by_column)
    measured = f"{fair.words}, of {opened.path.name}"
    seen = fair.seen
    if other is not None:
        theirs = fair.predict(other)
        both = {column: in_common(mine, theirs[column]) for column, mine in by_column.items() if column in theirs}
        by_column, theirs = ({column: pair[side] for column, pair in both.items()} for side in (0, 1))
        metrics["against"] = compare_models(by_column, theirs, str(against))
        metrics["against"]["unknown_classes"] = unknown_classes(other.recognizer, theirs)
    unknown = unknown_classes(saved.recognizer, by_column)
    result = Evaluation(f"model {path.name}", measured, metrics, unknown, seen)

    def against_other(page: Page) -> None:
        page.section(f"Against {Path(str(against)).name}", "On the same items; above 0, this model is better.")
        parts = ("this", "other", "difference", "standard_error", "p_value")
        page.table(
            ("metric", "this", "other", "difference", "standard error", "p"),
            [(name, *(part[key] for key in parts)) for name, part in metrics["against"]["metrics"].items()],
        )

    def places(column: str, example: Example) -> tuple[Place, ...]:
        fitted = saved.recognizer.columns_.get(column) or saved.recognizer.only_column_
        if fitted.kind == "labels":  # several answers at once
            return ()
        answer = number_of(example.predicted if fitted.kind == "classes" else None, fitted)
        return _places(Explainer.of(saved, networks, fitted, answer), data, example)

    if report is not None:
        sections = [lambda page: show_columns(page, by_column, metrics, unseen=not seen, places=places)]
        if other is not None:
            sections.append(against_other)
        if len(columns) == 1:
            details = saved.recognizer.details_
            sections.append(lambda page: show_choices(page, details))
        seed = f"{_SEED}; the model was fitted with {saved.recognizer.random_state}"
        _save_report(result, sections, report, {"encoder": opened.encoder, "seed": seed})
    return result


def _places(explainer: Explainer, data: Labelled, example: Example) -> tuple[Place, ...]:
    """Return what the places of an item's picture say for its prediction, where that is exact, and so next to free."""
    from chiasm.report.page import Place

    item = data.arrays.take(np.array([data.ids.index(example.name)]))
    if example.picture is None or "image" not in explainer.modalities or not item.present["image"][0]:
        return ()
    try:
        picture = media.load(example.picture, image_size=explainer.encoders["image"].view.image_size)
    except MediaError:  # gone or changed since it was added
        return ()
    if not isinstance(picture, Image):
        return ()
    answer = explainer.answer_of(item)
    said = float(explainer.level(item, answer)[0])
    if example.probability is not None and abs(said - example.probability) > _SAME:  # heads that did not see it said so
        return ()
    weighed = explainer.weigh_places(item, picture, (), answer)
    if weighed is None:
        return ()
    return tuple(
        Place(piece.box, weight)
        for piece, weight in zip(weighed.pieces, weighed.weights.tolist(), strict=True)
        if piece.box is not None
    )


# --------------------------------------------------------------------------------------------------------------- shared


def _save_report(
    result: Evaluation, sections: Sequence[Callable[[Page], None]], path: str | Path, about: Mapping[str, str]
) -> None:
    from chiasm.report.page import Page

    page = Page(result.what, f"Measured on {result.measured}.", about)
    for note in result.notes:
        page.paragraph(f"{note[0].upper()}{note[1:]}.")
    for name, words in result.unknown_classes.items():
        page.paragraph(f"The model does not know the class {name!r}: {words}, always wrong.")
    for section in sections:
        section(page)
    page.save(path)
