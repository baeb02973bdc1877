"""The sentence, the numbers against chance and the advice that a result begins with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chiasm.evaluation.intervals import Interval
from chiasm.evaluation.pairs import pair_metrics
from chiasm.evaluation.predictions import Predictions, measure
from chiasm.report.page import Page
from chiasm.report.sections import show_classification
from chiasm.report.summary import recognition_summary, search_summary
from chiasm.vectors import unit_rows


def of(kind: Any, true: Any, predicted: Any, classes: tuple[str, ...] = ()) -> dict[str, Any]:
    true, predicted = np.array(true), np.array(predicted)
    return measure(
        Predictions(
            kind=kind,
            ids=tuple(map(str, range(len(true)))),
            media=tuple({} for _ in true),
            groups=np.arange(len(true)),
            classes=classes,
            true=true,
            predicted=predicted,
            probabilities=np.where(predicted, 0.9, 0.1) if kind == "labels" else None,
        )
    )


def test_classes_against_the_most_frequent_one() -> None:
    true = ["cat"] * 10 + ["dog"] * 6 + ["fox"] * 4
    predicted = ["cat"] * 10 + ["dog"] * 4 + ["fox"] * 2 + ["fox"] * 3 + ["dog"]
    summary = recognition_summary(of("classes", true, predicted))
    assert summary.sentence == (
        "Right for 85 of 100 unseen items; guessing would be 50. Most often mixed up: dog and fox."
    )
    always = of("classes", true, ["cat"] * 20)
    for figure in summary.figures:
        assert isinstance(figure.value, Interval)
        assert figure.value.low <= figure.estimate <= figure.value.high
        assert figure.chance == pytest.approx(always[figure.name.replace("macro-F1", "f1_macro").replace(" ", "_")])
    assert [figure.name for figure in summary.figures] == ["accuracy", "balanced accuracy", "macro-F1"]
    assert "The weakest class is dog: 4 of 6" in summary.advice


@pytest.mark.parametrize(("coverage", "is_less"), [(0.83, True), (0.89, False), (0.95, False)])
def test_sets_that_hold_the_true_class_less_often_than_promised_are_explained(coverage: float, is_less: bool) -> None:
    metrics = of("classes", ["a", "b"] * 200, ["a", "b"] * 200)
    metrics |= {"coverage": coverage, "coverage_balanced": coverage, "set_size": 1.1, "level": 0.9}
    page = Page("demo", "")
    show_classification(page, metrics)
    assert f"hold it for {coverage:.1%}" in page.markdown()
    assert ("by chance" in page.markdown()) == is_less


def test_what_was_learned_from_is_not_called_unseen() -> None:
    metrics = of("classes", ["a", "b"], ["a", "b"])
    summary = recognition_summary(metrics, unseen=False)
    assert summary.sentence == "Right for 100 of 100 items that it has learned from; guessing would be 50."
    assert summary.advice == ""


@pytest.mark.parametrize(("wrong", "said"), [(0, 100), (1, 99), (999, 1), (1000, 0)])
def test_a_share_is_never_rounded_to_all_or_none(wrong: int, said: int) -> None:
    metrics = of("classes", ["a"] * 1000, ["b"] * wrong + ["a"] * (1000 - wrong))
    assert recognition_summary(metrics).sentence.startswith(f"Right for {said} of 100 ")


def test_several_labels_numbers_and_columns() -> None:
    has = [[True, False], [True, True], [False, True], [True, False]]
    labels = of("labels", has, [[True, False], [True, False], [False, True], [True, True]], ("red", "round"))
    assert "Of 100 labels of unseen items it finds 80, and 80 of 100" in recognition_summary(labels).sentence
    numbers = of("number", [1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 2.5, 3.5])
    assert recognition_summary(numbers).sentence.startswith("Off by 0.5 on average for unseen items; 80 % of their")
    same = of("number", [1.0, 1.0], [1.5, 0.5])
    assert recognition_summary(same).sentence == "Off by 0.5 on average for unseen items."
    both = recognition_summary({"columns": {"colour": labels, "size": numbers}}).sentence
    assert both.startswith("colour: Of 100")
    assert "size: Off by" in both


def test_search_against_a_ranking_at_random() -> None:
    rng = np.random.default_rng(0)
    left = unit_rows(rng.normal(size=(200, 16)))
    right = unit_rows(left + 0.3 * rng.normal(size=left.shape))
    other = unit_rows(rng.normal(size=left.shape))
    metrics, chance = (pair_metrics(left, side, names=("text", "image")).as_dict() for side in (right, other))
    summary = search_summary({**metrics, "before": chance})
    assert "Text finds its image among the first 10 for" in summary.sentence
    assert "guessing would be 5." in summary.sentence
    assert summary.sentence.count("before alignment") == 2
    for figure in search_summary(chance).figures:
        assert isinstance(figure.value, Interval)
        assert figure.value.low <= figure.chance <= figure.value.high, "random vectors do as well as guessing"
    assert "chiasm align" in search_summary(metrics).advice
    assert search_summary({"nothing_found": {}}).sentence == ""
