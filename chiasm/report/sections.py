"""Sections of a report on recognition: what is shown of predictions, of what was chosen, and of protocols.

Which metrics and charts belong to which kind of target is decided here. Where predictions come from is left to
`chiasm.verbs`, how things look to `chiasm.report.page` and `chiasm.report.plots`, the metrics to `chiasm.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from chiasm.evaluation.intervals import Interval, wilson_interval
from chiasm.evaluation.metrics import ReliabilityBin, one_against_rest, precision_recall_curves, roc_curves, shapley
from chiasm.evaluation.predictions import DRAWS, Predictions
from chiasm.finetuning.results import TunedPairs, TunedPart
from chiasm.media import words_of
from chiasm.recognition.adaptation import Adaptation
from chiasm.recognition.columns import Details
from chiasm.recognition.joint import ColumnReport
from chiasm.recognition.protocols import Comparison, HeldOutClassScores, Incremental, Leak, LearningCurve
from chiasm.recognition.tuning import EVALUATOR, Tuning
from chiasm.report.page import Example, Page, Place
from chiasm.report.plots import MAX_CLASSES, Bar, Series, bar_chart, heatmap, line_chart, reliability_diagram, scatter
from chiasm.report.summary import recognition_summary
from chiasm.types import Modality

_WORST = 12  # mistakes shown
_MOST_CURVES = 12  # classes drawn
_MOST_CONFUSIONS = 30  # listed of a matrix that is too large to draw


# --------------------------------------------------------------------------------------------------------- predictions


def show_columns(
    page: Page,
    predictions: Mapping[str, Predictions],
    metrics: Mapping[str, Any],
    together: Sequence[ColumnReport] = (),
    *,
    unseen: bool = True,
    places: Callable[[str, Example], tuple[Place, ...]] | None = None,
) -> None:
    """Add what matters, the worst mistakes, and folded sections on every column, with `metrics` as `chiasm.verbs.measure.measure_columns` gives them.

    With reports of several columns, also whether fitting them together paid. What was learned from is not `unseen`.
    `places` gives what the places of a picture say for what was predicted in a column.
    """
    page.summary(recognition_summary(metrics, unseen=unseen))
    for column, one in predictions.items():
        page.section("Worst mistakes" if len(predictions) == 1 else f"Worst mistakes: {column}")
        show_mistakes(page, one, None if places is None else partial(places, column))
    page.fold()
    for column, one in predictions.items():
        page.section("All numbers" if len(predictions) == 1 else f"All numbers: {column}")
        show(page, one, metrics if len(predictions) == 1 else metrics["columns"][column])
    if together:
        page.section(
            "Together or alone",
            "Loss of each column on held-out items, by heads of this column alone and by one network for all of them.",
        )
        page.table(
            ("column", "alone", "together", "gain", "standard error", "taken", "why"),
            [(r.column, r.alone, r.together, r.gain, r.standard_error, r.taken, r.why) for r in together],
        )


def show(page: Page, predictions: Predictions, metrics: Mapping[str, Any]) -> None:
    """Add sections on one target: its metrics and charts.

    Args:
        page: where to.
        predictions: of items that were not trained on.
        metrics: what `chiasm.evaluation.predictions.measure` returns for them.
    """
    _show_metrics(page, metrics, items=len(predictions))
    match predictions.kind:
        case "classes":
            _show_confusion(page, metrics)
            _show_by_class(page, metrics, "class")
            _show_probabilities(page, predictions, metrics)
        case "labels":
            _show_by_class(page, metrics, "label")
            assert predictions.probabilities is not None  # of labels there always are
            _show_curves(page, predictions.true, predictions.probabilities, predictions.classes)
        case "number":
            true, predicted = predictions.true, predictions.predicted
            page.chart(scatter("Predicted against true", true, predicted, x_label="true", y_label="predicted"))


def show_mistakes(
    page: Page, predictions: Predictions, places: Callable[[Example], tuple[Place, ...]] | None = None
) -> None:
    """Add the worst mistakes of one target, with pictures and words, and what in the pictures spoke for them."""
    examples = _worst(predictions)
    if places is not None:
        examples = [replace(one, places=places(one)) for one in examples]
    if examples:
        why = " Over the pictures: orange spoke for what was predicted, blue against it."
        page.paragraph(f"Where the model was most confident and wrong.{why * any(one.places for one in examples)}")
        page.media(examples)
    else:
        page.paragraph("There is none: every item was recognised.")


def show_classification(page: Page, metrics: Mapping[str, Any]) -> None:
    """Add overall metrics of classes, the confusion matrix and what sets keep, without predictions of single items."""
    _show_metrics(page, metrics)
    _show_confusion(page, metrics)
    _show_sets(page, metrics, int(metrics["items"]))


def _show_metrics(page: Page, metrics: Mapping[str, Any], *, items: int | None = None) -> None:
    intervals = metrics.get("intervals", {})
    rows: list[tuple[str, object]] = []
    for name, value in metrics.items():
        if isinstance(value, float) and name in intervals:
            low, high = intervals[name]
            rows.append((name.replace("_", " "), Interval(value, low, high, 0.95, DRAWS)))
        elif isinstance(value, float) or (name == "auc_macro" and value is None):
            rows.append((name.replace("_", " "), value))
    page.table(("metric", "value"), rows)
    if items is not None and intervals:
        page.paragraph(
            f"In brackets: 95 % bootstrap intervals over {items} items, copies and near-duplicates kept together."
        )


def _show_confusion(page: Page, metrics: Mapping[str, Any]) -> None:
    """Add a row per true class and a column per predicted one, or the most frequent confusions of too many classes."""
    labels, matrix = [str(name) for name in metrics["labels"]], metrics["confusion"]
    if len(labels) <= MAX_CLASSES:
        names = {"rows": labels, "columns": labels}
        page.chart(heatmap("Confusion matrix", matrix, **names, y_label="true", x_label="predicted", by_row=True))
        return
    counts = np.array(matrix)
    np.fill_diagonal(counts, 0)
    true, predicted = np.nonzero(counts)
    order = np.argsort(-counts[true, predicted], kind="stable")[:_MOST_CONFUSIONS]
    page.paragraph(
        f"The confusion matrix of {len(labels):,} classes is too large to draw. Its {len(order)} most frequent confusions "
        f"of {len(true):,}:"
    )
    page.table(
        ("true", "predicted", "items"),
        [(labels[i], labels[j], int(counts[i, j])) for i, j in zip(true[order], predicted[order], strict=True)],
    )


def _show_by_class(page: Page, metrics: Mapping[str, Any], kind: str) -> None:
    parts = (metrics[name] for name in ("labels", "precision", "recall", "f1", "support"))
    page.table((kind, "precision", "recall", "F1", "items"), list(zip(*parts, strict=True)))


def _show_probabilities(page: Page, predictions: Predictions, metrics: Mapping[str, Any]) -> None:
    if predictions.probabilities is None or "reliability" not in metrics:
        return
    page.section(
        "Can the probabilities be trusted?",
        f"Expected calibration error {metrics['ece']:.3f}: of predictions with probability p, about p should be right.",
    )
    page.chart(reliability_diagram("Reliability", [ReliabilityBin(**part) for part in metrics["reliability"]]))
    known = predictions.known()
    _show_sets(page, metrics, int(known.sum()))
    truth = one_against_rest(predictions.true[known], list(predictions.classes))
    _show_curves(page, truth, predictions.probabilities[known], predictions.classes)


def _show_sets(page: Page, metrics: Mapping[str, Any], items: int) -> None:
    """Add how often sets of classes hold the true one, and why that may be less than promised.

    Over draws of n training items the share of one model's sets that hold the true class has the distribution
    Beta(k, n + 1 - k), k = ceil(level * (n + 1)), which is wide for small n (Vovk 2012, "Conditional validity of inductive
    conformal predictors").
    """
    if "coverage" not in metrics:
        return
    page.paragraph(
        f"Sets of classes meant to hold the true one for {metrics['level']:.0%} of the items hold it for "
        f"{metrics['coverage']:.1%} (mean over classes {metrics['coverage_balanced']:.1%}), with {metrics['set_size']:.2f} "
        "classes on average."
    )
    if wilson_interval(round(metrics["coverage"] * items), items).high < metrics["level"]:
        page.paragraph(
            "That is less than promised. The promise is kept on average over many draws of the training items; one model may "
            "miss it by chance, by up to 8 percentage points with 50 training items and by 2 with 1,000. It does not hold where "
            "the new items are of another kind, or the classes have other shares than among the training items."
        )


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
    truth, probabilities = truth[:, order], probabilities[:, order]
    for title, curves, labels, diagonal in (
        ("ROC (area under the curve)", roc_curves, ("false positive rate", "true positive rate"), True),
        ("Precision and recall (average precision)", precision_recall_curves, ("recall", "precision"), False),
    ):
        series = [Series(f"{c.label} ({c.area:.2f})", c.x, c.y) for c in curves(truth, probabilities, names)]
        page.chart(
            line_chart(
                title,
                series,
                x_label=labels[0],
                y_label=labels[1],
                diagonal=diagonal,
                x_range=(0, 1),
                y_range=(0, 1),
            )
        )


def _worst(predictions: Predictions) -> list[Example]:
    true, predicted = predictions.true, predictions.predicted
    confidence = np.full(len(predictions), np.nan)
    if predictions.kind == "number":
        order = np.argsort(-np.abs(true - predicted), kind="stable")
        texts = [[f"{value:.4g}" for value in side] for side in (true, predicted)]
    elif predictions.kind == "labels":
        assert predictions.probabilities is not None  # of labels there always are
        confidence = np.abs(predictions.probabilities - true).max(axis=1)
        order = _surest(np.flatnonzero((true != predicted).any(axis=1)), confidence)
        texts = [[_list(predictions.classes, row) for row in side] for side in (true, predicted)]
    else:
        if predictions.probabilities is not None:
            confidence = predictions.probabilities.max(axis=1)
        order = _surest(np.flatnonzero(true != predicted), confidence)
        texts = [[str(value) for value in side] for side in (true, predicted)]
    return [
        Example(
            name=predictions.ids[i],
            true=texts[0][i],
            predicted=texts[1][i],
            probability=None if np.isnan(confidence[i]) else float(confidence[i]),
            picture=_file(predictions.media[i], "image") or _file(predictions.media[i], "video"),
            text=words_of(predictions.media[i]["text"]) if "text" in predictions.media[i] else None,
            sound=_file(predictions.media[i], "audio"),
        )
        for i in order[:_WORST].tolist()
    ]


def _surest(rows: Int[np.ndarray, " rows"], confidence: Float[np.ndarray, " items"]) -> Int[np.ndarray, " rows"]:
    return rows[np.argsort(-confidence[rows], kind="stable")]


def _list(classes: Sequence[str], row: Bool[np.ndarray, " classes"]) -> str:
    return "; ".join(name for name, has in zip(classes, row, strict=True) if has) or "(none)"


def _file(media: Mapping[Modality, str], modality: Modality) -> Path | None:
    return Path(media[modality]) if modality in media else None


# ------------------------------------------------------------------------------------------------------------- choices


def show_choices(page: Page, details: Details) -> None:
    """Add sections on what the recogniser tried and chose: rungs, modalities, fusions, source."""
    title = "The ladder of adapters"
    if any(report.tried for report in details.rungs):
        page.section(
            title,
            f"Taken: {details.rung}. A higher rung is taken only if its Brier score on held-out items is better than that "
            "of the rung before by more than one standard error.",
        )
        page.table(
            ("adapter", "taken", "macro-F1", "Brier score", "better by", "standard error", "seconds", "why"),
            [
                (r.rung, r.taken, r.f1_macro, r.brier, r.better_by, r.standard_error, round(r.seconds, 2), r.why)
                for r in details.rungs
            ],
        )
    elif details.rungs:
        why = next(report.why for report in details.rungs if report.taken)
        page.section(title, f"Taken: {details.rung}, {why}.")
    if len(details.subsets) > 1:
        _show_modalities(page, details)
    for words in (details.source, details.semi):
        if words:
            page.paragraph(words)
    if details.adaptation is not None:
        _show_adaptation(page, details.adaptation)
    if details.across:
        page.paragraph(f"The heads of {', '.join(details.across)} are also trained on the other modalities' vectors.")


def _show_adaptation(page: Page, adaptation: Adaptation) -> None:
    page.section("Adaptation to the target", adaptation.sentence)
    page.table(
        ("chosen from the target's data", "value"),
        [
            ("items", adaptation.items),
            ("way", adaptation.way),
            *(
                (f"shares of classes, {name}: difference from the source", value)
                for name, value in adaptation.differences.items()
            ),
        ],
    )
    if adaptation.shares:
        page.table(
            ("class", "share in the source", "predicted in the target"),
            [(name, *pair) for name, pair in adaptation.shares.items()],
        )


def _show_modalities(page: Page, details: Details) -> None:
    page.section("What each modality contributes", f"Fusion: {details.fusion}.")
    if details.fusion_gain is not None:
        gain, error = details.fusion_gain
        page.paragraph(
            f"Compared with {details.best_modality} alone, the best single modality, the fusion improves the Brier score by "
            f"{gain:.3f} (standard error {error:.3f})."
        )
    metric = "R²" if details.metric == "r2" else "Macro-F1"
    for title, values in (
        (f"{metric} of each set of modalities", details.subsets),
        ("Macro-F1 of each fusion", details.fusions),
        (f"Shapley value of each modality in {metric if metric == 'R²' else 'macro-F1'}", contributions(details)),
    ):
        if values:
            page.chart(bar_chart(title, [Bar(name, value) for name, value in values.items()]))


def contributions(details: Details) -> dict[str, float]:
    """Return the Shapley value of each modality in macro-F1 on held-out items; empty without a score of every subset."""
    scores = {frozenset(name.split("+")): score for name, score in details.subsets.items()}
    names = sorted({name for part in scores for name in part})
    if len(names) < 2 or len(scores) < 2 ** len(names) - 1 or not all(np.isfinite(score) for score in scores.values()):
        return {}
    return shapley(scores)


def show_last_rung(page: Page, words: Sequence[str], tried: Mapping[Modality, TunedPart]) -> None:
    """Add what came of training the encoder further, the last rung of the ladder of `fit`."""
    page.section(
        "The last rung: the encoder trained further", " ".join(f"{line[:1].upper()}{line[1:]}." for line in words)
    )
    bars = [
        Bar(f"{modality}, {row[0]}, {row[1]}" if len(part.columns) > 1 else f"{modality}, {row[1]}", row[2])
        for modality, part in tried.items()
        for row in part.rows
        if row[2] is not None
    ]
    if bars:
        page.chart(bar_chart("Macro-F1 on held-out items before and after", bars))
    for part in tried.values():
        show_tuned(page, part)


def show_tuned(page: Page, part: TunedPart) -> None:
    """Add the comparison of one network trained further with the frozen one, and the curves of its training."""
    page.section(f"{part.modality.capitalize()}: {part.encoder}", f"{part.words}.")
    page.table(("column", "features", "macro-F1", "accuracy", "R²", "loss"), part.rows)
    page.paragraph(
        "The loss is the Brier score, of numbers the squared error in variances of the column; 0 is perfect."
    )
    page.paragraph(
        f"Trained: {part.trained}. {part.items} items, {part.source_items} of a source, {part.folds} folds, {part.seconds:.0f} s, {part.items_per_second:.0f} items a "
        f"second while learning, {part.batch_size} at a time."
    )
    _show_history(page, part.history, "cross-entropy" if [one.kind for one in part.columns] == ["classes"] else "loss")


def show_tuned_pairs(page: Page, result: TunedPairs) -> None:
    """Add the comparison of two networks trained further on pairs with the frozen ones, and the curves of their training."""
    page.section(" and ".join(result.encoders), f"{result.words}.")
    page.table(
        ("direction", "frozen and aligned, hit@10", "fine-tuned and aligned"),
        [(name.replace("_", " "), result.frozen[name], result.tuned[name]) for name in result.frozen],
    )
    page.paragraph(
        f"Trained: {result.trained}. {result.pairs} pairs, {result.source_pairs} of sources, {result.folds}, {result.seconds:.0f} s, "
        f"{result.pairs_per_second:.0f} pairs a second while learning, {result.at_once} at a time."
    )
    _show_history(page, result.history, "contrastive loss")


def _show_history(page: Page, history: Sequence[Sequence[Mapping[str, float]]], name_of_loss: str) -> None:
    """Draw what was logged by epoch, of each fold a line: the losses, and the accuracy of what stopping goes by."""
    accuracies = sorted({key for entries in history for entry in entries for key in entry if "accuracy" in key})
    charts = {
        ("Loss", name_of_loss): {"loss": "learned from", "eval_loss": "held out"},
        ("Accuracy", "accuracy"): {key: key.removeprefix("eval_").replace("_", " ") for key in accuracies},
    }
    for (title, label), keys in charts.items():
        series = []
        for key, name in keys.items():
            for number, entries in enumerate(history, start=1):
                points = [(entry["epoch"], entry[key]) for entry in entries if key in entry]
                if points:
                    series.append(Series(f"{name}, fold {number}", [x for x, _ in points], [y for _, y in points]))
        if series:
            page.chart(line_chart(title, series, x_label="epoch", y_label=label))


def show_tuning(page: Page, tuning: Tuning) -> None:
    """Add the search for hyperparameters: the best, what that is worth, and every trial."""
    page.section("Search for hyperparameters", tuning.warning)
    parts = {"on the folds it was chosen by": tuning.on_own_folds, "nested": tuning.nested}
    page.table(
        ("measured", "Brier score", "standard error", "default", "gain", "its standard error"),
        [(name, p.score, p.standard_error, p.default, p.gain, p.gain_error) for name, p in parts.items()],
    )
    page.table(("parameter", "best"), list(tuning.parameters.items()))
    if tuning.importance:
        ranked = sorted(tuning.importance.items(), key=lambda pair: -pair[1])
        page.chart(
            bar_chart(f"Importance of each parameter ({EVALUATOR})", [Bar(name, value) for name, value in ranked])
        )
    page.section("Trials", collapsed=True)
    page.table(
        ("trial", "state", "Brier score", "seconds", "parameters"),
        [
            (
                trial.number,
                f"{trial.state}: {trial.reason}" if trial.reason else trial.state,
                float(np.mean(trial.scores)) if trial.scores else None,
                round(trial.seconds, 2),
                ", ".join(f"{name} = {value}" for name, value in trial.parameters.items()),
            )
            for trial in tuning.trials
        ],
    )


# ----------------------------------------------------------------------------------------------------------- protocols


def show_protocol(page: Page, result: LearningCurve | HeldOutClassScores | Incremental | Leak | Comparison) -> None:
    """Add the section of one protocol."""
    match result:
        case LearningCurve():
            _show_learning_curve(page, result)
        case HeldOutClassScores():
            page.section(
                "Classes known by name only",
                "Some classes are left out of the labels; only their names are given. Mean accuracy over classes.",
            )
            page.table(
                ("classes", "accuracy"),
                [
                    ("seen", result.seen),
                    ("unseen, among all", result.unseen),
                    ("harmonic mean", result.harmonic_mean),
                    ("unseen, among themselves", result.among_unseen),
                ],
            )
        case Incremental():
            _show_incremental(page, result)
        case Leak():
            page.paragraph(
                f"Items that share a group with one on the other side of a random split: {result.crossing} of "
                f"{result.items}. Macro-F1 with whole groups held out {result.grouped.estimate:.3f}, with a random split "
                f"{result.random.estimate:.3f} ({result.flattery:+.3f})."
            )
        case Comparison():
            _show_comparison(page, result)


def _show_learning_curve(page: Page, result: LearningCurve) -> None:
    """Add scores by labelled items per class, with intervals over seeds."""
    page.section("How scores grow with labels", f"Means over {len(result.seeds)} draws, with 95 % intervals.")
    shots = [point.shots for point in result.points]
    series = []
    for name, intervals in (
        ("macro-F1", [point.f1_macro for point in result.points]),
        ("accuracy", [point.accuracy for point in result.points]),
    ):
        ends = ([one.estimate for one in intervals], [one.low for one in intervals], [one.high for one in intervals])
        series.append(Series(name, shots, *ends))
    if shots:
        page.chart(
            line_chart("Learning curve", series, x_label="labelled items per class", y_label="score", log_x=True)
        )
    for number, why in result.left_out.items():
        page.paragraph(f"{number} shots left out: {why}.")


def _show_incremental(page: Page, result: Incremental) -> None:
    """Add how classes that come step by step are recognised, and how well all at once."""
    page.section(
        "Classes added later",
        f"After the last step, accuracy on all earlier classes is {result.old_classes_lost:+.3f} lower than after training on "
        f"everything at once; mean forgetting {result.metrics.forgetting:.3f}."
        if result.metrics.forgetting is not None
        else "One step only.",
    )
    names = [f"step {number + 1}" for number in range(len(result.steps))]
    for title, matrix in (
        ("Accuracy after each step", result.accuracy),
        ("The same, trained from scratch", result.retrained),
    ):
        page.chart(heatmap(title, matrix, rows=names, columns=names, y_label="after", x_label="classes of"))
    classes = [", ".join(map(str, step)) for step in result.steps]
    page.table(("step", "classes"), list(zip(names, classes, strict=True)))


def _show_comparison(page: Page, result: Comparison) -> None:
    """Add ways to balance, on the same folds, and their difference to the first of them."""
    first = next(iter(result.f1_macro.values()))
    page.section("Balance of classes and modalities", f"On the same {len(first)} folds; differences to the first.")
    rows: list[tuple[object, ...]] = []
    for name, scores in result.f1_macro.items():
        difference = result.differences.get(name)
        mean, error = (None, None) if difference is None else (difference.mean, difference.standard_error)
        rows.append((name, float(np.mean(scores)), mean, error, result.seconds[name]))
    page.table(("way", "macro-F1", "difference", "standard error", "seconds a fold"), rows)
