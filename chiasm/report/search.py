"""Sections of a report on search: what is shown of pairs, of "nothing found", of probabilities and of moments.

The numbers come from `chiasm.evaluation`; how things look is left to `chiasm.report.page` and `chiasm.report.plots`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from chiasm.errors import ChiasmError
from chiasm.evaluation.geometry import PairGeometry
from chiasm.evaluation.intervals import Interval, wilson_interval
from chiasm.evaluation.moments import MomentMetrics, Span
from chiasm.evaluation.pairs import PairMetrics
from chiasm.evaluation.ranking import PairRetrieval, RetrievalMetrics
from chiasm.evaluation.relevance import Abstention, RelevanceMetrics
from chiasm.report.page import Card, Cell, Page, clip, decimal
from chiasm.report.plots import Numbers, Series, histogram, line_chart, reliability_diagram
from chiasm.report.summary import search_summary

_EXAMPLES = 4  # queries of each direction that are drawn
_WORST = 6  # queries of each direction with the last ranks
_HITS = 5  # shown of a query
_ROWS = 12  # of a table of queries that went wrong
_DEPTHS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)  # of the ranking, that a curve is drawn at
_SAMPLE = 20_000  # pairs that a distribution of scores is drawn from

_FAVOUR = (
    "Here the gallery holds both modalities, without the query itself. Share: of all that is relevant to the queries, the "
    "part of this modality; of what is retrieved, its part of the relevant ones among the first 10. Favour: the second by "
    "the first, 1 if the gallery favours no modality. What has the query's own content, such as an equal text, is relevant "
    "and found at once."
)


@dataclass(frozen=True)
class Medium:
    """One medium of an item, as a report shows it."""

    name: str  # of the item
    picture: Path | None = None  # an image, or a video, of which one frame is shown
    text: str | None = None  # the text itself, or the transcript of a sound
    sound: Path | None = None

    @property
    def content(self) -> tuple[Path | None, str | None, Path | None]:
        """Its media; those of equal content are shown once."""
        return self.picture, self.text, self.sound

    @property
    def title(self) -> str:
        """Its text, else the name of the item."""
        return clip(self.text) if self.text else self.name


@dataclass(frozen=True, eq=False)
class _Side:
    """One modality of pairs."""

    vectors: Float[np.ndarray, "pairs dim"]
    media: Sequence[Medium]


# --------------------------------------------------------------------------------------------------------------- pairs


def show_pairs(
    page: Page,
    metrics: PairMetrics,
    media: tuple[Sequence[Medium], Sequence[Medium]],
    *,
    before: PairMetrics | None = None,
    seed: int = 0,
) -> None:
    """Add sections on how well each of two modalities finds the other.

    Args:
        page: where to.
        metrics: of the pairs in the space.
        media: what to show of each pair, by modality in the order of `metrics.retrieval.names`.
        before: the same pairs in the space before alignment.
        seed: of the pairs that examples and scores are drawn from.

    Raises:
        ChiasmError: a side has more or fewer media than there are pairs.
        LabelError: `before` is not of the same pairs.
    """
    retrieval = metrics.retrieval
    sides = {}
    for name, vectors, shown in zip(retrieval.names, metrics.vectors, media, strict=True):
        if len(shown) != retrieval.pairs:
            raise ChiasmError(f"{retrieval.pairs} pairs were measured; the side of {name} has {len(shown)} media")
        sides[name] = _Side(vectors, shown)
    numbers = metrics.as_dict() | ({} if before is None else {"before": before.as_dict()})
    page.summary(search_summary(numbers))
    _show_worst(page, retrieval, sides)
    page.fold()
    _show_retrieval(page, retrieval)
    _show_mixed(page, retrieval)
    _show_scores(page, retrieval, sides, seed)
    page.section("How the two lie in the space")
    page.table(("measure", "value", "meaning"), _geometry_rows(metrics.geometry))
    _show_random_scores(page, sides, seed)
    if before is not None:
        _show_before_and_after(page, before, metrics)
    _show_examples(page, retrieval, sides, seed)


def _show_retrieval(page: Page, retrieval: PairRetrieval) -> None:
    page.section(
        "How well each finds the other",
        f"Each of {retrieval.pairs:,} pairs is searched for from both sides, among all of them. Whatever has the same content "
        "as the right answer is right, too. Ties count against the ranking.",
    )
    directions = {name: {**one.as_dict(), **retrieval.intervals[name]} for name, one in retrieval.metrics.items()}
    names = next(iter(directions.values()))
    page.table(
        ("metric", *map(_words, directions)),
        [(_words(name), *(values[name] for values in directions.values())) for name in names],
    )
    groups = len(np.unique(retrieval.groups))
    page.paragraph(
        f"In brackets: 95 % bootstrap intervals over {groups:,} groups of queries that share their content."
        if groups > 1
        else "All pairs are of one group, so there are no intervals."
    )
    page.paragraph(
        "hit@k: share of queries with a right answer among the first k. recall@k: share of a query's right answers among "
        "them. mrr: mean of 1 / rank of the first right answer. map: mean average precision. ndcg: discounted gain of "
        "the whole ranking, or of its first k, against the best order."
    )
    _show_curve(page, retrieval.metrics)


def _show_curve(page: Page, curves: Mapping[str, RetrievalMetrics]) -> None:
    series = []
    for name, metrics in curves.items():
        depths = np.array([k for k in _DEPTHS if k < metrics.ranks.max()] or [1])
        hits = np.searchsorted(np.sort(metrics.ranks), depths, side="right") / metrics.queries
        series.append(Series(_words(name), depths, hits))
    page.chart(
        line_chart(
            "Queries answered among the first k", series, x_label="k", y_label="hit@k", log_x=True, y_range=(0, 1)
        )
    )


def _show_mixed(page: Page, retrieval: PairRetrieval) -> None:
    page.section("In a gallery of both", _FAVOUR)
    rows: list[tuple[Cell, ...]] = []
    for query, targets in retrieval.by_modality().items():
        for target, part in targets.items():
            alone = retrieval.metrics.get(f"{query}_to_{target}")
            recall = None if alone is None else alone.means.get("recall@10")
            shares = (part.share_relevant, part.share_retrieved, part.favour)
            rows.append((query, target, part.queries, recall, part.recall, *shares))
    columns = ("query", "finds", "queries", "recall@10 alone", "among both", "share", "of what is retrieved", "favour")
    page.table(columns, rows)


def _show_scores(page: Page, retrieval: PairRetrieval, sides: Mapping[str, _Side], seed: int) -> None:
    """Add the scores of pairs that fit and of pairs that do not; a sample of many."""
    page.section(
        "Scores of what fits and of what does not",
        "Cosine of one with the other. The less the two overlap, the better one threshold can say that nothing fits.",
    )
    first, second = (sides[name].vectors for name in retrieval.names)
    metrics = retrieval.metrics["_to_".join(retrieval.names)]
    rng = np.random.default_rng(seed)
    some = rng.permutation(len(metrics.query))[:_SAMPLE]
    left, right = (rng.integers(retrieval.pairs, size=_SAMPLE) for _ in range(2))
    fits = np.isin(left * retrieval.pairs + right, metrics.query * retrieval.pairs + metrics.item)
    groups = {
        "fits": _cosines(first, metrics.query[some], second, metrics.item[some]),
        "does not": _cosines(first, left[~fits], second, right[~fits]),
    }
    page.chart(histogram("Scores", groups, x_label="cosine"))


def _show_random_scores(page: Page, sides: Mapping[str, _Side], seed: int) -> None:
    """Add scores by modality alone, whatever the content: what makes one modality hide the other in a gallery of both."""
    (a, first), (b, second) = ((name, side.vectors) for name, side in sides.items())
    rng = np.random.default_rng(seed)
    left, right = (rng.integers(len(first), size=_SAMPLE) for _ in range(2))
    left, right = left[left != right], right[left != right]
    groups = {
        f"{a} and {b}": _cosines(first, left, second, right),
        f"{a} and {a}": _cosines(first, left, first, right),
        f"{b} and {b}": _cosines(second, left, second, right),
    }
    page.chart(histogram("Scores of two random items", groups, x_label="cosine"))


def _cosines(
    a: Float[np.ndarray, "rows dim"],
    left: Int[np.ndarray, " n"],
    b: Float[np.ndarray, "rows dim"],
    right: Int[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    products: Float[np.ndarray, " n"] = np.einsum("ij,ij->i", a[left], b[right])
    return products


def _geometry_rows(geometry: PairGeometry) -> list[tuple[str, float, str]]:
    a, b = geometry.names
    rows = [
        (
            "modality gap",
            geometry.gap.distance,
            f"Distance between the centres of {a} and {b}, 0 to 2. If it is large, a gallery of both shows a query its own kind.",
        ),
        (
            "separability",
            geometry.gap.separability,
            f"Share of {a} and {b} that one threshold tells apart: 0.5 is guessing, 1 means that they do not mix.",
        ),
        ("alignment", geometry.alignment, "Mean squared distance of the two sides of a pair, 0 to 4; lower is nearer."),
    ]
    rows += [
        (f"uniformity of {name}", value, "How evenly the sphere is filled: 0 all alike, about -4 at best.")
        for name, value in geometry.uniformity.items()
    ]
    for direction, one in geometry.hubness.items():
        query, target = direction.split("_to_")
        rows += [
            (
                f"hubness of {target}",
                one.skewness,
                f"Skewness of how often each is among the {one.k} nearest of a query ({query}): above 1, a few are near to many.",
            ),
            (f"never found, {target}", one.never, f"Share that is among the {one.k} nearest of no query."),
            (f"largest hub, {target}", one.largest, f"Share of queries with the same one among their {one.k} nearest."),
        ]
    return rows


def _show_before_and_after(page: Page, before: PairMetrics, after: PairMetrics) -> None:
    old, new = before.retrieval, after.retrieval
    page.section(
        "Before and after",
        f"On the same {new.pairs:,} pairs. In brackets: the 95 % interval of the difference, over groups of queries that "
        "share their content; p: how often as large a difference comes with random signs.",
    )
    differences = new.differences(old)
    for direction, metrics in new.metrics.items():
        was, now = old.metrics[direction].as_dict(), metrics.as_dict()
        rows: list[tuple[Cell, ...]] = []
        for name in (*metrics.means, "median_rank"):
            paired = differences.get(direction, {}).get(name)
            change = (now[name] - was[name], None) if paired is None else (paired.interval, paired.p_value)
            rows.append((_words(name), was[name], now[name], *change))
        page.table((_words(direction), "before", "after", "difference", "p"), rows)
    if not differences:
        page.paragraph("All pairs are of one group, so there are no intervals.")
    _show_curve(
        page,
        {
            f"{direction}, {when}": one.metrics[direction]
            for direction in new.metrics
            for when, one in (("after", new), ("before", old))
        },
    )
    page.section("A gallery of both, before and after", _FAVOUR)
    old_by, new_by = old.by_modality(), new.by_modality()
    page.table(
        ("query", "finds", "recall@10 before", "after", "favour before", "after"),
        [
            (query, target, old_by[query][target].recall, part.recall, old_by[query][target].favour, part.favour)
            for query, targets in new_by.items()
            for target, part in targets.items()
        ],
    )
    page.section("How the two lie in the space, before and after")
    pairs = zip(_geometry_rows(before.geometry), _geometry_rows(after.geometry), strict=True)
    page.table(
        ("measure", "before", "after", "meaning"), [(name, was, now, says) for (name, was, says), (_, now, _) in pairs]
    )


def _show_examples(page: Page, retrieval: PairRetrieval, sides: Mapping[str, _Side], seed: int) -> None:
    """Add queries and their results, in both directions, drawn at random."""
    for direction, metrics in retrieval.metrics.items():
        query, target = direction.split("_to_")
        page.section(
            f"Examples: {query} to {target}",
            "Drawn at random. Framed: right answers, with the first of them if none is among the best. Before each score, its "
            "place; what shows the same is shown once.",
        )
        for row in np.random.default_rng(seed).permutation(retrieval.pairs)[:_EXAMPLES].tolist():
            _show_query(page, metrics, sides[query], sides[target], row)


def _show_worst(page: Page, retrieval: PairRetrieval, sides: Mapping[str, _Side]) -> None:
    """Add the queries that went wrong, in both directions."""
    for direction, metrics in retrieval.metrics.items():
        query, target = direction.split("_to_")
        page.section(f"Worst queries: {query} to {target}", "Those whose first right answer comes last.")
        worst = _worst(metrics, sides[query])
        if not worst:
            page.paragraph("There is none: every query has a right answer in the first place.")
        for row in worst:
            _show_query(page, metrics, sides[query], sides[target], row)


def _worst(metrics: RetrievalMetrics, queries: _Side) -> list[int]:
    """Return the queries whose first right answer comes last, each content once."""
    order = np.argsort(-metrics.ranks, kind="stable")
    rows: dict[object, int] = {}
    for row in order[metrics.ranks[order] > 1].tolist():
        rows.setdefault(queries.media[row].content, row)
    return list(rows.values())[:_WORST]


def _show_query(page: Page, metrics: RetrievalMetrics, queries: _Side, gallery: _Side, row: int) -> None:
    """Add one query, its best results, and a right answer if none is among them."""
    scores = gallery.vectors @ queries.vectors[row]
    is_right = np.isin(np.arange(len(scores)), metrics.item[metrics.query == row])
    order = np.lexsort((is_right, -scores))  # of equal scores the wrong ones first, as they are counted
    shown: dict[object, int] = {}  # by content, the place of its first
    for place, item in enumerate(order.tolist()):
        shown.setdefault(gallery.media[item].content, place)
        if len(shown) == _HITS:
            break
    places = list(shown.values())
    if not is_right[order[places]].any():
        places.append(int(is_right[order].argmax()))
    cards = []
    for place in places:
        item = int(order[place])
        medium, fits = gallery.media[item], bool(is_right[item])
        below = f"{place + 1}: {scores[item]:.3f}{', fits' if fits else ''}"
        cards.append(Card(medium.picture, medium.title, below, medium.sound, fits))
    query = queries.media[row]
    title = f"{query.title} (first right answer at rank {metrics.ranks[row]} of {len(scores):,})"
    page.cards(title, cards, picture=query.picture, sound=query.sound)


# -------------------------------------------------------------------------------------------- nothing found, relevance


def show_abstention(
    page: Page,
    metrics: Abstention,
    answerable: Numbers,
    off_topic: Numbers,
    *,
    how: str,
    false: Sequence[tuple[str, float | None, str]] = (),
    lost: Sequence[tuple[str, float]] = (),
) -> None:
    """Add a section on "nothing found" as an answer, from the best probability of every query.

    Args:
        page: where to.
        metrics: of these queries.
        answerable: the best probability of each query that has an answer; -inf for no result, which is not drawn.
        off_topic: the same of queries that have none.
        how: how the queries were asked, in words.
        false: queries without an answer that got a result, its probability and id, the most probable first.
        lost: queries with an answer that got no result, with their best probability.
    """
    page.section(
        "When nothing fits",
        f"A query gets a result if its best probability is at least {decimal(metrics.threshold)}; else the answer is that "
        "nothing was found.",
        how,
    )
    page.table(
        ("queries", "get a result", "number"),
        [
            ("that have an answer", metrics.answered, len(answerable)),
            ("that have none (false hits)", metrics.false_hits, len(off_topic)),
        ],
    )
    page.paragraph(f"In brackets: {100 * metrics.answered.level:g} % intervals (Wilson).")
    best = {"has an answer": np.asarray(answerable, float), "has none": np.asarray(off_topic, float)}
    drawn = {name: values[np.isfinite(values)] for name, values in best.items()}
    page.chart(histogram("Best probability of a query", drawn, x_label="probability", threshold=metrics.threshold))
    without = sum(map(len, best.values())) - sum(map(len, drawn.values()))
    if without:
        page.paragraph(f"Not drawn: {without:,} without any result.")
    if false:
        page.paragraph(f"Queries without an answer that got a result, {_first(false)}:")
        page.table(("query", "probability", "result"), false[:_ROWS])
    if lost:
        page.paragraph(f"Queries with an answer that got no result, {_first(lost)}:")
        page.table(
            ("query", "best probability"), [(query, p if math.isfinite(p) else None) for query, p in lost[:_ROWS]]
        )


def show_relevance(page: Page, metrics: RelevanceMetrics) -> None:
    """Add a section on whether probabilities of relevance can be trusted."""
    page.section(
        "Can the probabilities be trusted?",
        f"Expected calibration error {decimal(metrics.ece)} ({decimal(metrics.calibration_error)} in bins of equal count), "
        f"Brier score {decimal(metrics.brier)}, over {metrics.hits:,} results: of those given a probability p, about p "
        "should be relevant. Confidence: the probability; accuracy: the share that is relevant.",
    )
    page.chart(reliability_diagram("Reliability", metrics.reliability))
    equal = metrics.equal_counts
    shares = [wilson_interval(round(one.accuracy * one.count), one.count) for one in equal]
    most = max(*(one.confidence for one in equal), *(one.accuracy for one in equal))
    series = Series(
        "share that is relevant, 95 % interval",
        [one.confidence for one in equal],
        [one.accuracy for one in equal],
        [one.low for one in shares],
        [one.high for one in shares],
    )
    page.chart(
        line_chart(
            "The same in bins of equal count",
            [series],
            x_label="probability",
            y_label="share that is relevant",
            diagonal=True,
            x_range=(0, most),
            y_range=(0, most),
        )
    )


# ------------------------------------------------------------------------------------------------------------- moments


def show_moments(
    page: Page,
    metrics: MomentMetrics,
    intervals: Mapping[str, Interval],
    *,
    truth: Mapping[str, Sequence[Span]],
    first: Mapping[str, Span | None],
) -> None:
    """Add sections on how well moments are found, with the queries of the least overlap.

    Args:
        page: where to.
        metrics: of the queries.
        intervals: of the metrics, over groups of queries that share a recording; empty if all do.
        truth: by query, the right spans.
        first: by query, the first span of its results; None if there is none.
    """
    page.section(
        "Moments",
        f"{len(metrics.queries):,} queries. r@k iou@m: share of queries of which one of the first k spans overlaps a true one "
        "by at least m (what is in both by what is in either). mean iou: of the first span.",
    )
    means = {name: float(values.mean()) for name, values in metrics.values.items()}
    page.table(("metric", "value"), [(_words(name), intervals.get(name, mean)) for name, mean in means.items()])
    recordings = len({span.file for spans in truth.values() for span in spans})
    page.paragraph(
        f"In brackets: 95 % bootstrap intervals over groups of queries that share one of {recordings:,} files."
        if intervals
        else "All queries share their files, so there are no intervals."
    )
    overlap = dict(zip(metrics.queries, metrics.values["mean_iou"].round(3).tolist(), strict=True))
    worst = sorted((query for query in overlap if overlap[query] < 1), key=lambda query: overlap[query])[:_ROWS]
    if worst:
        page.section("Moments with the least overlap")
        page.table(
            ("query", "right", "first result", "iou"),
            [(query, ", ".join(map(_clock, truth[query])), _clock(first[query]), overlap[query]) for query in worst],
        )


def _clock(span: Span | None) -> str:
    return "nothing" if span is None else f"{span.file} {span.start:.1f} to {span.end:.1f}"


def _first(rows: Sequence[object]) -> str:
    return f"the first {_ROWS} of {len(rows):,}" if len(rows) > _ROWS else f"{len(rows)}"


def _words(name: str) -> str:
    return name.replace("_", " ")
