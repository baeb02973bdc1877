"""Sections of a report on the forms that a model or vectors can leave in: what each costs, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chiasm.report.page import Page
from chiasm.report.plots import Series, line_chart


def show_forms(
    page: Page, names: Sequence[str], costs: Mapping[str, Sequence[float]], scores: Sequence[float], error: float
) -> None:
    """Add a table, and a curve for each kind of cost.

    Args:
        page: where to.
        names: of the forms, the full one first.
        costs: of each form, by their names with the unit.
        scores: macro-F1 of each.
        error: standard error of the first.
    """
    page.section("What each form costs")
    rows = [
        [name, *own, score, scores[0] - score] for name, *own, score in zip(names, *costs.values(), scores, strict=True)
    ]
    page.table(["form", *costs, "macro-F1", "loss"], rows)
    for what, own in costs.items():
        order = sorted(range(len(names)), key=lambda place: (own[place], -scores[place]))
        best = [max(scores[place] for place in order[: number + 1]) for number in range(len(order))]
        curve = Series("best up to there", [own[place] for place in order], best)
        least = Series("one standard error below", [min(own), max(own)], [scores[0] - error] * 2)
        points = [Series(name, [cost], [score]) for name, cost, score in zip(names, own, scores, strict=True)]
        page.chart(line_chart(f"macro-F1 by {what}", [*points, curve, least], x_label=what, y_label="macro-F1"))


def show_dimensions(
    page: Page, dimensions: Sequence[int], recalls: Sequence[float], hits: Sequence[float] | None
) -> None:
    """Add what a search still finds with fewer numbers a vector, as a table and a curve.

    Args:
        page: where to.
        dimensions: numbers a vector, in 8 bits each, with 4 bytes for the scale.
        recalls: share of the 10 nearest, by whole vectors, that are among the 10 nearest.
        hits: hit@10 of another file of the item; None where no item has files of two modalities.
    """
    page.section("What a search still finds")
    scores = {"recall@10": recalls} | ({} if hits is None else {"hit@10": hits})
    sizes = [number + 4 for number in dimensions]
    page.table(["dimensions", "bytes a vector", *scores], [*zip(dimensions, sizes, *scores.values(), strict=True)])
    curves = [Series(name, sizes, own) for name, own in scores.items()]
    page.chart(line_chart("What is found by bytes a vector", curves, x_label="bytes a vector", y_label="share"))
