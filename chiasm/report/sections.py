"""What predictions of unseen items are worth: as numbers, and as sections of a report.

This module knows which metrics and drawings belong to which kind of target, and words them. Where predictions come from
is left to `chiasm.verbs`, how things look to `chiasm.report.page`, the metrics themselves to `chiasm.evaluation`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.alignment.pairs import Pairs
from chiasm.evaluation.geometry import PairGeometry, pair_geometry
from chiasm.evaluation.intervals import Interval
from chiasm.evaluation.metrics import (
    one_against_rest,
    precision_recall_curves,
    roc_curves,
    shapley,
)
from chiasm.evaluation.predictions import DRAWS, Predictions
from chiasm.evaluation.ranking import PairRetrieval, pair_retrieval
from chiasm.recognition.fitting import Details
from chiasm.recognition.multitask import MultiTaskDetails
from chiasm.recognition.protocols import Comparison, HeldOutClassScores, Incremental, Leak, LearningCurve
from chiasm.recognition.tuning import EVALUATOR, Tuning
from chiasm.report.page import Example, Medium, Page, PairSide, show_alignment, show_examples, show_search
from chiasm.report.plots import Bar, Series
from chiasm.types import Modality


@dataclass(frozen=True, eq=False)
class Measured:
    """How well two modalities of the same things find each other in a space.

    Attributes:
        found: the metrics.
        geometry: how the two lie.
        vectors: unit vectors of the two, in the order of `found.names`.
    """

    found: PairRetrieval
    geometry: PairGeometry
    vectors: tuple[Float[np.ndarray, "pairs dim"], Float[np.ndarray, "pairs dim"]]

    def as_dict(self) -> dict[str, Any]:
        """Metrics by direction, and the geometry."""
        return {**self.found.as_dict(), "geometry": self.geometry.as_dict()}


def measure_pairs(
    data: Pairs, mapped: Float[np.ndarray, "some dim"], rows: Int[np.ndarray, " some"], *, seed: int = 0
) -> Measured:
    """Search by each modality of some pairs for the other; equal content counts as found.

    Args:
        data: the pairs.
        mapped: unit vectors of the moved modality of these.
        rows: which of them.
        seed: of resampling.
    """
    names = (data.anchor, data.moved)
    alike = (np.array(data.anchor_hashes)[rows], np.array(data.moved_hashes)[rows])
    vectors = (data.anchors[rows], mapped)
    found = pair_retrieval(*vectors, names=names, alike=alike, groups=data.groups[rows], seed=seed)
    return Measured(found, pair_geometry(*vectors, names=names, k=min(10, max(len(rows) - 1, 1))), vectors)


def show_pairs(
    page: Page,
    measured: Measured,
    media: tuple[Sequence[Medium], Sequence[Medium]],
    *,
    before: Measured | None = None,
) -> None:
    """Sections on a search by pairs.

    Args:
        page: where to.
        measured: the pairs in the space.
        media: what to show of them, of each modality in the order of `measured.found.names`.
        before: the same pairs in the space that nothing was learned in.
    """
    sides = (PairSide(measured.vectors[0], media[0]), PairSide(measured.vectors[1], media[1]))
    show_search(page, measured.found, sides, measured.geometry)
    if before is not None:
        show_alignment(
            page, before.found, measured.found, geometry_before=before.geometry, geometry_after=measured.geometry
        )
    show_examples(page, measured.found, sides)


_WORST = 12  # mistakes shown
_MOST_CURVES = 12  # classes drawn


# ------------------------------------------------------------------------------------------------------------- report


def show(page: Page, found: Predictions, metrics: Mapping[str, Any]) -> None:
    """Sections on one target: its metrics, drawings and the worst mistakes."""
    _show_metrics(page, metrics)
    if found.kind == "classes":
        page.confusion([str(name) for name in metrics["labels"]], metrics["confusion"])
        _show_by_class(page, metrics)
        _show_probabilities(page, found, metrics)
    elif found.kind == "labels":
        labels = metrics["labels"]
        columns = ("label", "precision", "recall", "F1", "items")
        page.table(
            columns,
            list(zip(labels, metrics["precision"], metrics["recall"], metrics["f1"], metrics["support"], strict=True)),
        )
        assert found.probabilities is not None  # of labels there always are
        _show_curves(page, found.true, found.probabilities, found.classes)
    else:
        page.scatter("Predicted against true", found.true, found.predicted, x_label="true", y_label="predicted")
    page.section("Worst mistakes", "What the model was surest of and wrong about.")
    examples = _worst(found)
    if examples:
        page.media(examples)
    else:
        page.paragraph("There is none: every item was recognised.")


def show_columns(
    page: Page,
    found: Mapping[str, Predictions],
    metrics: Mapping[str, Any],
    details: MultiTaskDetails | None = None,
) -> None:
    """Sections on every column, with `metrics` as `chiasm.verbs.fit.measure_columns` gives them, and on whether learning
    them together paid."""
    for column, predicted in found.items():
        page.section("How well it recognises" if len(found) == 1 else f"Column {column}")
        show(page, predicted, metrics if len(found) == 1 else metrics["columns"][column])
    if details is not None and len(found) > 1:
        page.section(
            "Together or alone",
            "Loss of each column on held-out items, by a predictor that knows this column alone and by one network that "
            "learns all of them.",
        )
        page.table(
            ("column", "alone", "together", "gain", "standard error", "taken", "why"),
            [(r.column, r.alone, r.together, r.gain, r.standard_error, r.taken, r.why) for r in details.columns],
        )


def _show_metrics(page: Page, metrics: Mapping[str, Any]) -> None:
    rows: list[tuple[str, object]] = []
    for name, value in metrics.items():
        if isinstance(value, float) or (name == "auc_macro" and value is None):
            ends = metrics.get("intervals", {}).get(name)
            shown = value if ends is None or value is None else Interval(value, ends[0], ends[1], 0.95, DRAWS)
            rows.append((name.replace("_", " "), shown))
    page.table(("metric", "value"), rows)
    page.paragraph(
        f"In brackets: 95 % bootstrap intervals over {metrics['items']} items, copies and near-duplicates kept together."
    )


def _show_by_class(page: Page, metrics: Mapping[str, Any]) -> None:
    columns = ("class", "precision", "recall", "F1", "items")
    page.table(
        columns,
        list(
            zip(
                metrics["labels"],
                metrics["precision"],
                metrics["recall"],
                metrics["f1"],
                metrics["support"],
                strict=True,
            )
        ),
    )


def _show_probabilities(page: Page, found: Predictions, metrics: Mapping[str, Any]) -> None:
    if found.probabilities is None or "reliability" not in metrics:
        return
    known = found.known()
    page.section(
        "Can the probabilities be believed?",
        f"Expected calibration error {metrics['ece']:.3f}: of what is said to be right with probability p, about p should "
        "be right.",
    )
    bins = metrics["reliability"]
    page.reliability_diagram(
        "Reliability",
        [part["confidence"] for part in bins],
        [part["accuracy"] for part in bins],
        [part["count"] for part in bins],
        edges=[(part["lower"], part["upper"]) for part in bins],
    )
    if "coverage" in metrics:
        page.paragraph(
            f"Sets of classes meant to hold the true one in {metrics['level']:.0%} of the items hold it in "
            f"{metrics['coverage']:.1%}, with {metrics['set_size']:.2f} classes on average."
        )
    truth = one_against_rest(found.true[known], list(found.classes))
    _show_curves(page, truth, found.probabilities[known], found.classes)


def _show_curves(
    page: Page,
    truth: Bool[np.ndarray, "items classes"],
    probabilities: Float[np.ndarray, "items classes"],
    classes: Sequence[str],
) -> None:
    page.section("Every class against the rest", collapsed=True)
    order = np.argsort(-truth.sum(axis=0), kind="stable")[:_MOST_CURVES]
    names = [classes[number] for number in order]
    if len(order) < len(classes):
        page.paragraph(f"The {len(order)} largest of {len(classes)} classes.")
    receiver = roc_curves(truth[:, order], probabilities[:, order], names)
    page.line_chart(
        "ROC (area under the curve)",
        [Series(f"{c.label} ({c.area:.2f})", c.x, c.y) for c in receiver],
        x_label="false positive rate",
        y_label="true positive rate",
        diagonal=True,
        x_range=(0, 1),
        y_range=(0, 1),
    )
    found = precision_recall_curves(truth[:, order], probabilities[:, order], names)
    page.line_chart(
        "Precision and recall (average precision)",
        [Series(f"{c.label} ({c.area:.2f})", c.x, c.y) for c in found],
        x_label="recall",
        y_label="precision",
        x_range=(0, 1),
        y_range=(0, 1),
    )


def _worst(found: Predictions) -> list[Example]:
    if found.kind == "classes":
        wrong = np.flatnonzero(found.true != found.predicted)
        sure = np.zeros(len(found)) if found.probabilities is None else found.probabilities.max(axis=1)
        order = wrong[np.argsort(-sure[wrong], kind="stable")]
        said = [(str(found.true[i]), str(found.predicted[i]), float(sure[i])) for i in order[:_WORST]]
    elif found.kind == "labels":
        assert found.probabilities is not None  # of labels there always are
        surprise = np.abs(found.probabilities - found.true).max(axis=1)
        wrong = np.flatnonzero((found.true != found.predicted).any(axis=1))
        order = wrong[np.argsort(-surprise[wrong], kind="stable")]
        said = [
            (_joined(found, found.true[i]), _joined(found, found.predicted[i]), float(surprise[i]))
            for i in order[:_WORST]
        ]
    else:
        order = np.argsort(-np.abs(found.true - found.predicted), kind="stable")
        said = [(f"{found.true[i]:.4g}", f"{found.predicted[i]:.4g}", float("nan")) for i in order[:_WORST]]
    return [
        Example(
            name=found.ids[i],
            true=true,
            predicted=predicted,
            probability=None if np.isnan(sureness) else sureness,
            picture=_file(found.media[i], "image") or _file(found.media[i], "video"),
            text=found.media[i].get("text"),
            sound=_file(found.media[i], "audio"),
        )
        for i, (true, predicted, sureness) in zip(order[:_WORST], said, strict=True)
    ]


def _joined(found: Predictions, row: Bool[np.ndarray, " classes"]) -> str:
    return "; ".join(name for name, has in zip(found.classes, row, strict=True) if has) or "(none)"


def _file(media: Mapping[Modality, str], modality: Modality) -> Path | None:
    return Path(media[modality]) if modality in media else None


def show_choices(page: Page, details: Details) -> None:
    """Sections on what the recogniser tried and chose: rungs, modalities, fusions, source."""
    if any(report.tried for report in details.rungs):
        page.section(
            "The ladder of adapters",
            f"Taken: {details.rung}. A higher rung is taken only where its Brier score on held-out items is better than that "
            "of the rung held before by more than one standard error.",
        )
        page.table(
            ("adapter", "taken", "macro-F1", "Brier score", "better by", "standard error", "seconds", "why"),
            [
                (r.rung, r.taken, r.f1_macro, r.brier, r.better_by, r.standard_error, round(r.seconds, 2), r.why)
                for r in details.rungs
            ],
        )
    else:
        why = next(report.why for report in details.rungs if report.taken)
        page.section("The ladder of adapters", f"Taken: {details.rung}, {why}.")
    if len(details.subsets) > 1:
        page.section("What each modality contributes", f"Joined by {details.fusion}.")
        if details.fusion_gain is not None:
            gain, error = details.fusion_gain
            page.paragraph(
                f"Against {details.best_modality} alone, the best single modality, the fusion gains {gain:.3f} of Brier score "
                f"(standard error {error:.3f})."
            )
        page.bar_chart(
            "Macro-F1 of each set of modalities", [Bar(name, value) for name, value in details.subsets.items()]
        )
        if details.fusions:
            page.bar_chart(
                "Macro-F1 of each way to join them", [Bar(name, value) for name, value in details.fusions.items()]
            )
        parts = contributions(details)
        if parts:
            page.bar_chart(
                "Shapley value of each modality in macro-F1", [Bar(name, value) for name, value in parts.items()]
            )
    for words in (details.source, details.semi):
        if words:
            page.paragraph(words)
    if details.across:
        page.paragraph(f"The heads of {', '.join(details.across)} learn from the other modalities' vectors as well.")


def contributions(details: Details) -> dict[str, float]:
    """Shapley value of each modality in macro-F1 on held-out items; empty where not every subset has a score."""
    scores = {frozenset(name.split("+")): score for name, score in details.subsets.items()}
    names = sorted({name for part in scores for name in part})
    if len(names) < 2 or len(scores) < 2 ** len(names) - 1 or not all(np.isfinite(score) for score in scores.values()):
        return {}
    return shapley(scores)


def show_tuning(page: Page, found: Tuning) -> None:
    """The search for hyperparameters: what it found, what that is worth, and every trial."""
    page.section("Search for hyperparameters", found.warning)
    columns = ("measured", "Brier score", "standard error", "default", "gain", "its standard error")
    parts = {"on the folds it was chosen by": found.on_own_folds, "nested": found.nested}
    page.table(
        columns,
        [
            (name, part.score, part.standard_error, part.default, part.gain, part.gain_error)
            for name, part in parts.items()
        ],
    )
    page.table(("parameter", "best"), list(found.parameters.items()))
    if found.importance:
        page.bar_chart(
            f"Importance of each parameter ({EVALUATOR})",
            [Bar(name, value) for name, value in sorted(found.importance.items(), key=lambda pair: -pair[1])],
        )
    page.section("Trials", collapsed=True)
    page.table(
        ("trial", "state", "Brier score", "seconds", "parameters"),
        [
            (
                trial.number,
                trial.state if not trial.reason else f"{trial.state}: {trial.reason}",
                float(np.mean(trial.scores)) if trial.scores else None,
                round(trial.seconds, 2),
                ", ".join(f"{name} = {value}" for name, value in trial.parameters.items()),
            )
            for trial in found.trials
        ],
    )


def show_protocol(page: Page, found: LearningCurve | HeldOutClassScores | Incremental | Leak | Comparison) -> None:
    """The section of one protocol."""
    match found:
        case LearningCurve():
            _show_learning_curve(page, found)
        case HeldOutClassScores():
            _show_held_out_classes(page, found)
        case Incremental():
            _show_incremental(page, found)
        case Leak():
            _show_leak(page, found)
        case Comparison():
            _show_comparison(page, found)


def _show_learning_curve(page: Page, found: LearningCurve) -> None:
    """Scores by labelled items a class, with intervals over seeds."""
    page.section("How scores grow with labels", f"Means over {len(found.seeds)} draws, with 95 % intervals.")
    if found.points:
        shots = [point.shots for point in found.points]
        page.line_chart(
            "Learning curve",
            [
                Series(
                    name,
                    shots,
                    [one.estimate for one in values],
                    [one.low for one in values],
                    [one.high for one in values],
                )
                for name, values in (
                    ("macro-F1", [point.f1_macro for point in found.points]),
                    ("accuracy", [point.accuracy for point in found.points]),
                )
            ],
            x_label="labelled items a class",
            y_label="score",
            log_x=True,
        )
    for number, why in found.left_out.items():
        page.paragraph(f"{number} shots left out: {why}.")


def _show_held_out_classes(page: Page, found: HeldOutClassScores) -> None:
    """How classes are recognised that are known by their name only."""
    page.section(
        "Classes known by name only",
        "Some classes are left out of the labels; their names alone are given. Mean accuracy over classes.",
    )
    page.table(
        ("classes", "accuracy"),
        [
            ("seen", found.seen),
            ("unseen, among all", found.unseen),
            ("harmonic mean", found.harmonic_mean),
            ("unseen, among themselves", found.among_unseen),
        ],
    )


def _show_incremental(page: Page, found: Incremental) -> None:
    """Classes added step by step."""
    page.section(
        "Classes added later",
        f"After the last step, accuracy on all earlier classes is {found.old_classes_lost:+.3f} lower than after learning from "
        f"everything at once; mean forgetting {found.metrics.forgetting:.3f}."
        if found.metrics.forgetting is not None
        else "One step only.",
    )
    names = [f"step {number + 1}" for number in range(len(found.steps))]
    for title, matrix in (
        ("Accuracy after each step", found.accuracy),
        ("The same, learned from scratch", found.retrained),
    ):
        page.heatmap(title, matrix, rows=names, columns=names, y_label="after", x_label="classes of")
    page.table(
        ("step", "classes"), [(name, ", ".join(map(str, step))) for name, step in zip(names, found.steps, strict=True)]
    )


def _show_leak(page: Page, found: Leak) -> None:
    """What a random split would have shown."""
    page.paragraph(
        f"Items that share a group with one on the other side of a random split: {found.crossing} of {found.items}. Macro-F1 "
        f"with whole groups held out {found.grouped.estimate:.3f}, with a random split {found.random.estimate:.3f} "
        f"({found.flattery:+.3f})."
    )


def _show_comparison(page: Page, found: Comparison) -> None:
    """Ways to balance, on the same folds, and their difference to the first of them."""
    first = next(iter(found.f1_macro.values()))
    page.section("Balance of classes and modalities", f"On the same {len(first)} folds; differences to the first.")
    rows: list[tuple[object, ...]] = []
    for name, scores in found.f1_macro.items():
        difference = found.differences.get(name)
        mean, error = (None, None) if difference is None else (difference.mean, difference.standard_error)
        rows.append((name, float(np.mean(scores)), mean, error, found.seconds[name]))
    page.table(("way", "macro-F1", "difference", "standard error", "seconds a fold"), rows)
