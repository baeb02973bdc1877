"""The verb `evaluate`: measure search in a collection, or a recogniser on the labels of a collection.

Which items are fair to measure on is decided here: those that were not trained on, if there are any. Questions with
known answers are `chiasm.verbs.questions`, the metrics `chiasm.evaluation`, what a report shows `chiasm.report`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from chiasm import encoders
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError
from chiasm.evaluation.pairs import PairMetrics, pair_metrics
from chiasm.evaluation.predictions import Predictions
from chiasm.evaluation.record import Record
from chiasm.recognition import Recognizer
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.compare import compare_models
from chiasm.verbs.dataset import Labelled, fingerprints_of, labelled_items, pairs_of
from chiasm.verbs.measure import measure_columns, predictions, targets_for
from chiasm.verbs.model import check_report, load_model
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import space_of, start_of

if TYPE_CHECKING:
    from chiasm.report.page import Page
    from chiasm.report.search import Medium


@dataclass(frozen=True)
class Evaluation(Record):
    """Metrics of a space or of a recogniser on a collection."""

    what: str  # the space or model, in words
    measured: str  # on what, in words
    metrics: dict[str, Any]
    seen: int  # items among those measured that were trained on: above 0 the numbers are optimistic


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

    Items that the space or model was trained on are left out if others remain, and counted in `seen` if not.

    Args:
        target: the collection (with `pairs`), or the model (with `collection` and `label`).
        collection: for a model: where the labelled items are.
        pairs: two modalities; each is searched for by the other. Items of equal content are relevant alike. Default: image
            and text, unless only `moments` are asked for. For an aligned space, the space before alignment is measured on
            the same pairs.
        space: name of the space. Default: the newest.
        off_topic: a text file of questions, one per line, that nothing in the collection answers. Measures how many of them
            `search` with `min_probability="auto"` answers all the same, and how many of the texts of `pairs` it answers.
        moments: a CSV table with the columns query (words, or a file relative to the table), item (id), start and end
            (seconds; of a text characters). Measures whether a search of sounds and videos, or of texts, finds these parts.
        label: for a model: the column that holds the truth. Default: the one it was fitted on.
        where: only items that meet this condition.
        against: for a model: another model, compared on the same items with paired differences.
        report: write the result as one .html, .md or .json file, too.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        ManifestError: a file of questions or moments is missing or wrong.
        SpaceError: no item has such pairs, or the space has no probabilities for `off_topic`.
        ChiasmError: options of collections and of models together, or a report that cannot be written.
    """
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


# --------------------------------------------------------------------------------------------------------------- spaces


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
    from chiasm.report.search import show_pairs
    from chiasm.verbs.questions import ask_moments, ask_off_topic, read_moments, read_questions

    opened = Collection.open(path)
    # Faults of a file are reported before anything is embedded.
    questions = None if off_topic is None else read_questions(off_topic)
    known = None if moments is None else read_moments(moments, opened)
    searcher = None if questions is None and known is None else Searcher(path, space=name, device=device)
    networks = encoders.resolve(opened.encoder, device=device) if searcher is None else searcher.networks
    space = space_of(opened, networks, name) if searcher is None else searcher.space
    metrics: dict[str, Any] = {}
    measured: list[str] = []
    sections: list[Callable[[Page], None]] = []
    seen = 0
    if pairs is not None:
        data = pairs_of(opened, space, pairs, where=where)
        rows, seen, others = _fair(data.items, set(space.learned_from))
        after = measure_pairs(data, space.place(data.moved, data.embeddings[rows]), rows)
        before = measure_pairs(data, data.start[rows], rows) if data.moved in space.maps else None
        metrics |= _pair_numbers(after, before)
        measured.append(f"{len(rows)} pairs of {data.moved} and {data.anchor}")
        if others:
            measured[-1] += f" that the space was not trained on ({others} others left out)"
        shown = _media_of(opened, data, rows) if report is not None or questions is not None else ([], [])
        sections.append(lambda page: show_pairs(page, after, shown, before=before))
        if questions is not None and searcher is not None:
            texts = [medium.text or medium.name for medium in shown[0]]
            asked = ask_off_topic(searcher, questions, data, rows, texts, where=where)
            metrics["nothing_found"] = asked.as_dict()
            measured.append(f"{len(questions)} questions without an answer")
            sections.append(asked.show)
    if known is not None and searcher is not None:
        timed = ask_moments(searcher, known, where=where)
        metrics["moments"] = timed.as_dict()
        measured.append(f"{len(timed.metrics.queries)} queries for moments of {timed.items} files")
        sections.append(timed.show)
    result = Evaluation(f"space {space.name!r} of {opened.path.name}", "; ".join(measured), metrics, seen)
    if report is not None:
        _save_report(result, sections, report)
    return result


def measure_pairs(
    data: Pairs, mapped: Float[np.ndarray, "some dim"], rows: Int[np.ndarray, " some"], *, seed: int = 0
) -> PairMetrics:
    """Search by each modality of some pairs for the other; equal content is relevant, too.

    Args:
        data: the pairs.
        mapped: unit vectors of the moved modality of these.
        rows: which of them.
        seed: of resampling.
    """
    alike = (np.array(data.anchor_hashes)[rows], np.array(data.moved_hashes)[rows])
    names = (data.anchor, data.moved)
    return pair_metrics(data.anchors[rows], mapped, names=names, alike=alike, groups=data.groups[rows], seed=seed)


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
            return Medium(item, text=value if not Path(value).is_absolute() else Path(value).name)
        if modality == "audio":
            return Medium(item, sound=Path(value))
        return Medium(item, picture=Path(value))

    return (
        [shown(data.items[row], data.anchor_slots[row]) for row in rows],
        [shown(data.items[row], data.moved_slots[row]) for row in rows],
    )


# --------------------------------------------------------------------------------------------------------------- models


def _predicted(recognizer: Recognizer, data: Labelled, rows: Int[np.ndarray, " rows"]) -> dict[str, Predictions]:
    """Predictions of some items; the only column of a recogniser is measured by the only one of the items."""
    columns = list(recognizer.columns_)
    truth = dict(zip(columns, data.values, strict=True)) if len(columns) == 1 == len(data.values) else None
    return predictions(recognizer, data, targets_for(recognizer, data, truth), rows)


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
    columns = list(saved.recognizer.columns_)
    if label is not None and len(columns) == 1:
        columns = [label]
    data = labelled_items(opened, networks, start_of(opened, networks), columns, modalities=modalities, where=where)
    trained_on = saved.trained_on | (frozenset() if other is None else other.trained_on)
    rows, seen, others = _fair(data.ids, trained_on)
    by_column = _predicted(saved.recognizer, data, rows)
    metrics = measure_columns(by_column)
    measured = f"{len(rows)} items of {opened.path.name}"
    if others:
        measured += f" that it was not trained on ({others} others left out)"
    if other is not None:
        theirs = _predicted(other.recognizer, data, rows)
        metrics["against"] = compare_models(by_column, theirs, str(against))
    result = Evaluation(f"model {path.name}", measured, metrics, seen)

    def against_other(page: Page) -> None:
        page.section(f"Against {Path(str(against)).name}", "On the same items; above 0, this model is better.")
        parts = ("this", "other", "difference", "standard_error", "p_value")
        page.table(
            ("metric", "this", "other", "difference", "standard error", "p"),
            [(name, *(part[key] for key in parts)) for name, part in metrics["against"]["metrics"].items()],
        )

    if report is not None:
        sections = [lambda page: show_columns(page, by_column, metrics)]
        if other is not None:
            sections.append(against_other)
        if len(columns) == 1:
            details = saved.recognizer.details_
            sections.append(lambda page: show_choices(page, details))
        _save_report(result, sections, report)
    return result


# --------------------------------------------------------------------------------------------------------------- shared


def _fair(ids: Sequence[str], trained_on: Set[str]) -> tuple[Int[np.ndarray, " rows"], int, int]:
    """Return the rows that were not trained on, else all; how many of them were trained on; how many are left out."""
    unseen = np.array([row for row, item in enumerate(ids) if item not in trained_on], dtype=int)
    if len(unseen):
        return unseen, 0, len(ids) - len(unseen)
    return np.arange(len(ids)), len(ids), 0


def _save_report(result: Evaluation, sections: Sequence[Callable[[Page], None]], path: str | Path) -> None:
    from chiasm.report.page import Page

    page = Page(result.what, f"Measured on {result.measured}.")
    if result.seen:
        page.paragraph(
            f"Warning: all {result.seen} evaluation items were also used for training; these metrics are optimistic."
        )
    for section in sections:
        section(page)
    page.save(path)
