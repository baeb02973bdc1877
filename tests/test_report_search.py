"""Sections on search show what was measured, with the queries behind it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import Reader, blocks

from chiasm.errors import ChiasmError
from chiasm.evaluation.intervals import wilson_interval
from chiasm.evaluation.moments import Span, moment_metrics
from chiasm.evaluation.pairs import PairMetrics, pair_metrics
from chiasm.evaluation.relevance import abstention, relevance_metrics
from chiasm.report.page import Page
from chiasm.report.search import Medium, show_abstention, show_moments, show_pairs, show_relevance

GROUPS = [f"g{i // 2}" for i in range(30)]
CAPTIONS = [Medium(f"item {i}", text=f"caption {i}") for i in range(30)]


def measured(noise: float = 0.6, groups: list[str] | None = None) -> PairMetrics:
    """Thirty pairs of text and image; the text of number 0 lies opposite to its image."""
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(30, 16))
    images = texts + noise * rng.normal(size=texts.shape)
    if noise:
        images[0] = -texts[0]
    texts, images = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (texts, images))
    return pair_metrics(texts, images, names=("text", "image"), groups=groups)


def media(**parts: Any) -> tuple[list[Medium], list[Medium]]:
    return CAPTIONS, [Medium(f"item {i}", text=f"picture {i}", **parts) for i in range(30)]


def shown(metrics: PairMetrics, before: PairMetrics | None = None, **parts: Any) -> Page:
    page = Page("t", "l")
    show_pairs(page, metrics, media(**parts), before=before)
    return page


def chart(page: Page, title: str) -> list[list[Any]]:
    (rows,) = (
        block["numbers"]["rows"] for block in blocks(page) if block["type"] == "plot" and block["title"] == title
    )
    return list(rows)


def paragraphs(page: Page) -> list[str]:
    return [block["text"] for block in blocks(page) if block["type"] == "paragraph"]


def test_search_by_pairs_is_shown_with_intervals_curves_and_geometry() -> None:
    metrics = measured()
    page = shown(metrics)
    tables = Reader(page.html()).tables
    rows = {row[0]: row[1:] for row in tables[0]}
    hit = metrics.retrieval.intervals["image_to_text"]["hit@5"]
    assert rows["metric"] == ["text to image", "image to text"]
    assert rows["hit@5"][1] == f"{hit.estimate:.3f} [{hit.low:.3f}, {hit.high:.3f}]"
    assert rows["queries"] == ["30", "30"]
    both = next(table for table in tables if table[0][:2] == ["query", "finds"])
    alone = metrics.retrieval.metrics["text_to_image"].means["recall@10"]
    among = metrics.retrieval.by_modality()["text"]["image"]
    assert both[1] == ["text", "image", "30", f"{alone:.3f}", f"{among.recall:.3f}", "1.000", "1.000", "1.000"]
    space = {row[0]: row[1] for row in next(table for table in tables if table[0][0] == "measure")}
    assert space["modality gap"] == f"{metrics.geometry.gap.distance:.3f}"
    assert space["largest hub, text"] == f"{metrics.geometry.hubness['image_to_text'].largest:.3f}"
    curve = {(row[0], row[1]): row[2] for row in chart(page, "Queries answered among the first k")}
    assert curve["text to image", 5] == pytest.approx(metrics.retrieval.metrics["text_to_image"].means["hit@5"])
    chart(page, "Scores of two random items")


def test_what_fits_scores_above_what_does_not_and_is_not_counted_with_it() -> None:
    rows = chart(shown(measured(noise=0.0)), "Scores")
    assert [sum(row[column] for row in rows if row[1] > 0.99) for column in (2, 3)] == [30, 0]
    assert 15_000 < sum(row[3] for row in rows) < 20_000  # one in thirty of those drawn fits


def test_the_worst_query_is_shown_with_its_results_and_the_right_answer(tmp_path: Path) -> None:
    metrics = measured()
    page = shown(metrics, picture=tmp_path / "gone.png")
    every = blocks(page)
    start = next(i for i, block in enumerate(every) if block.get("title") == "Worst queries: text to image")
    worst = next(block for block in every[start:] if block["type"] == "cards")
    assert worst["query"] == "caption 0 (first right answer at rank 30 of 30)"
    scores = metrics.vectors[1] @ metrics.vectors[0][0]
    *others, right = worst["cards"]
    assert [card["title"] for card in others] == [f"picture {i}" for i in np.argsort(-scores)[:5]]
    assert others[0]["below"] == f"1: {scores.max():.3f}"
    assert not any(card["right"] for card in others)
    assert (right["title"], right["below"], right["right"]) == ("picture 0", f"30: {scores[0]:.3f}, fits", True)
    assert right["picture"] == str(tmp_path / "gone.png")
    assert '<div class="card right">' in page.html()


def test_a_right_answer_among_the_best_is_shown_once_and_equal_content_too() -> None:
    page = shown(measured(noise=0.0))
    queries = [block for block in blocks(page) if block["type"] == "cards"]
    assert len(queries) == 8  # four of each direction; none of them is bad
    assert all([card["right"] for card in query["cards"]] == [True, *[False] * 4] for query in queries)
    assert sum(text.startswith("There is none") for text in paragraphs(page)) == 2
    page = Page("t", "l")
    show_pairs(page, measured(), (CAPTIONS, [Medium(f"item {i}", text=f"picture {i % 3}") for i in range(30)]))
    query = next(block for block in blocks(page) if block["type"] == "cards")
    titles = [card["title"] for card in query["cards"] if not card["right"]]
    assert len(titles) == len(set(titles)) <= 3


def test_before_and_after_with_paired_differences() -> None:
    before, after = measured(2.0, GROUPS), measured(0.3, GROUPS)
    page = shown(after, before)
    tables = Reader(page.html()).tables
    rows = {row[0]: row[1:] for row in next(t for t in tables if t[0][0] == "text to image" and "p" in t[0])}
    difference = after.retrieval.differences(before.retrieval)["text_to_image"]["hit@1"]
    assert rows["hit@1"] == [
        f"{before.retrieval.metrics['text_to_image'].means['hit@1']:.3f}",
        f"{after.retrieval.metrics['text_to_image'].means['hit@1']:.3f}",
        f"{difference.mean:.3f} [{difference.interval.low:.3f}, {difference.interval.high:.3f}]",
        f"{difference.p_value:.3f}",
    ]
    assert rows["median rank"][3] == ""
    space = {row[0]: row[1:3] for row in next(t for t in tables if t[0][:2] == ["measure", "before"])}
    assert space["alignment"] == [f"{before.geometry.alignment:.3f}", f"{after.geometry.alignment:.3f}"]
    assert "Before and after" in page.markdown()


def test_pairs_of_one_group_are_shown_without_intervals() -> None:
    page = shown(measured(0.3, ["one"] * 30), measured(2.0, ["one"] * 30))
    assert paragraphs(page).count("All pairs are of one group, so there are no intervals.") == 2
    assert not any("bootstrap" in text for text in paragraphs(page))


def test_media_must_be_of_the_pairs_that_were_measured() -> None:
    with pytest.raises(ChiasmError, match="side of image has 29 media"):
        show_pairs(Page("t", "l"), measured(), (CAPTIONS, CAPTIONS[:-1]))


def test_nothing_found_is_shown_with_its_threshold_and_what_went_wrong() -> None:
    good, off = [0.9, 0.8, 0.7, -math.inf], [0.1, 0.8]
    page = Page("t", "l")
    metrics = abstention(good, off, threshold=0.75)
    lost = [("a dog", 0.7), ("a cat", -math.inf)]
    show_abstention(page, metrics, good, off, how="Asked twice.", false=[("rain?", 0.8, "bird 7")], lost=lost)
    tables = Reader(page.html()).tables
    assert tables[0][1] == ["that have an answer", "0.500 [0.150, 0.850]", "4"]
    assert tables[-2][1] == ["rain?", "0.800", "bird 7"]
    assert tables[-1][1:] == [["a dog", "0.700"], ["a cat", ""]]
    assert sum(row[2] for row in chart(page, "Best probability of a query")) == 3
    assert {"Asked twice.", "Not drawn: 1 without any result."} <= set(paragraphs(page))


def test_probabilities_of_relevance_are_drawn() -> None:
    metrics = relevance_metrics([0.1, 0.2, 0.9], [False, True, True])
    page = Page("t", "l")
    show_relevance(page, metrics)
    assert f"ECE {metrics.ece:.3f}, 3 items" in page.html()
    rows = [row[1:] for row in chart(page, "The same in bins of equal count")]
    assert [row[:2] for row in rows] == [[0.1, 0], [0.2, 1], [0.9, 1]]
    assert rows[0][2:] == pytest.approx([0, wilson_interval(0, 1).high])


def test_moments_are_shown_with_intervals_and_the_least_overlap() -> None:
    truth = {"a": [Span("f", 0, 10)], "b": [Span("f", 20, 30)]}
    metrics = moment_metrics({"a": [Span("f", 0, 8)]}, truth, ks=(1,), thresholds=(0.5,))
    page = Page("t", "l")
    show_moments(page, metrics, metrics.intervals(), truth=truth, first={"a": Span("f", 0, 8), "b": None})
    tables = Reader(page.html()).tables
    assert tables[0][1:] == [["r@1 iou@0.5", "0.500 [0.000, 1.000]"], ["mean iou", "0.400 [0.000, 0.800]"]]
    assert tables[1][1:] == [
        ["b", "f 20.0 to 30.0", "nothing", "0.000"],
        ["a", "f 0.0 to 10.0", "f 0.0 to 8.0", "0.800"],
    ]
    page = Page("t", "l")
    show_moments(page, metrics, {}, truth=truth, first={"a": None, "b": None})
    assert "All queries share their files, so there are no intervals." in paragraphs(page)
