"""A result in one sentence, three numbers against chance, and what to do next: for reports and terminals.

It reads metrics in the types of JSON, as verbs return them. Chance is what costs nothing: always the most frequent class, or
a ranking at random.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from chiasm.evaluation.intervals import Interval
from chiasm.evaluation.predictions import DRAWS


@dataclass(frozen=True)
class Figure:
    """One number, and what chance would make of it."""

    name: str
    value: float | Interval
    chance: float

    @property
    def estimate(self) -> float:
        """The number without its interval."""
        return self.value.estimate if isinstance(self.value, Interval) else self.value

    @property
    def ends(self) -> tuple[float, float] | None:
        """The ends of its interval, if it has one."""
        return (self.value.low, self.value.high) if isinstance(self.value, Interval) else None


@dataclass(frozen=True)
class Summary:
    """The first screen of a report, and the first lines on a terminal.

    Attributes:
        sentence: what matters.
        figures: three numbers at the most.
        advice: what to do next, as a sentence; empty if there is nothing to say.
    """

    sentence: str
    figures: tuple[Figure, ...] = ()
    advice: str = ""


def recognition_summary(metrics: Mapping[str, Any], *, unseen: bool = True) -> Summary:
    """Summarise how well a recogniser does.

    Args:
        metrics: what `chiasm.evaluation.predictions.measure` returns; of several columns those of each under `columns`.
        unseen: whether the items were not learned from.

    Example:
        >>> from chiasm.evaluation.metrics import classification_metrics
        >>> metrics = classification_metrics(["cat", "cat", "dog", "fox"], ["cat", "dog", "dog", "fox"]).as_dict()
        >>> recognition_summary({**metrics, "items": 4}).sentence
        'Right for 75 of 100 unseen items; guessing would be 50. Most often mixed up: cat and dog.'
    """
    items = "unseen items" if unseen else "items that it has learned from"
    if "columns" in metrics:
        parts = {name: recognition_summary(one, unseen=unseen) for name, one in metrics["columns"].items()}
        return Summary(" ".join(f"{name}: {one.sentence}" for name, one in parts.items()))
    if "confusion" in metrics:
        return _of_classes(metrics, items)
    if "f1_micro" in metrics:
        sentence = (
            f"Of 100 labels of {items} it finds {_hundred(metrics['recall_micro'])}, and {_hundred(metrics['precision_micro'])} "
            "of 100 that it names are right."
        )
        frequent = float(np.mean(metrics["support"])) / max(1, metrics["items"])
        return Summary(sentence, (_figure(metrics, "f1_micro", frequent),))
    explained = "" if metrics["r2"] is None else (
        f"; {_hundred(max(0.0, metrics['r2']))} % of their differences are explained, guessing the mean would explain none"
    )  # fmt: skip
    figures = () if metrics["r2"] is None else (_figure(metrics, "r2", 0.0),)
    return Summary(f"Off by {metrics['mae']:.3g} on average for {items}{explained}.", figures)


def _of_classes(metrics: Mapping[str, Any], items: str) -> Summary:
    names, support = [str(name) for name in metrics["labels"]], np.asarray(metrics["support"])
    present = int((support > 0).sum())
    frequent = float(support.max() / support.sum())
    right = f"Right for {_hundred(metrics['accuracy'])} of 100 {items}; guessing would be {_hundred(frequent)}."
    pair = _most_confused(np.asarray(metrics["confusion"]))
    mixed = "" if pair is None else f" Most often mixed up: {names[pair[0]]} and {names[pair[1]]}."
    figures = (
        _figure(metrics, "accuracy", frequent),
        _figure(metrics, "balanced_accuracy", 1 / present),
        _figure(metrics, "f1_macro", 2 * frequent / (1 + frequent) / present),
    )
    return Summary(right + mixed, figures, _weakest(metrics, names, support))


def _most_confused(confusion: Float[np.ndarray, "classes classes"]) -> tuple[int, int] | None:
    """Return the two classes that are taken for each other most often; None if none are."""
    both = np.triu(confusion + confusion.T, 1)
    if not both.any():
        return None
    first, second = np.unravel_index(int(both.argmax()), both.shape)
    return int(first), int(second)


def _weakest(metrics: Mapping[str, Any], names: Sequence[str], support: Float[np.ndarray, " classes"]) -> str:
    """Say of which class more labels would help first."""
    recall = np.where(support > 0, np.asarray(metrics["recall"], dtype=np.float64), np.inf)
    weakest = int(recall.argmin())
    if recall[weakest] >= 1:
        return ""
    found = round(float(recall[weakest]) * int(support[weakest]))
    return (
        f"The weakest class is {names[weakest]}: {found} of {int(support[weakest])} are recognised. Label more of it "
        "(chiasm labels), and learn again (chiasm learn)."
    )


def search_summary(metrics: Mapping[str, Any]) -> Summary:
    """Summarise how well two modalities find each other.

    Args:
        metrics: by direction, as `chiasm.evaluation.pairs.PairMetrics.as_dict` has them; others beside them.

    Example:
        >>> search_summary({"text_to_image": {"hit@1": 0.3, "hit@10": 0.6, "mrr": 0.4, "queries": 100}}).sentence
        'Text finds its image among the first 10 for 60 of 100 queries; guessing would be 10.'
    """
    directions = {name: part for name, part in metrics.items() if isinstance(part, Mapping) and "hit@10" in part}
    if not directions:
        return Summary("")
    parts: list[str] = []
    figures: list[Figure] = []
    for name, part in directions.items():
        asked, _, searched = name.partition("_to_")
        before = metrics.get("before", {}).get(name, {}).get("hit@10")
        was = "" if before is None else f" ({_hundred(before)} before alignment)"
        begin, end = (
            (f"{asked} its {searched} for", "")
            if parts
            else (f"{asked.capitalize()} finds its {searched} among the first 10 for", " of 100 queries")
        )
        parts.append(f"{begin} {_hundred(part['hit@10'])}{end}{was}")
        figures.append(_figure(part, "hit@10", min(1.0, 10 / part["queries"]), f"hit@10, {asked} to {searched}"))
    first, part = next(iter(directions.items()))
    figures.append(_figure(part, "hit@1", 1 / part["queries"], f"hit@1, {first.replace('_', ' ')}"))
    advice = (
        "More items that have both, like those that the worst queries look for, teach it most: chiasm add, and chiasm align."
        if "before" in metrics
        else "Nothing was learned from such pairs yet: chiasm align learns from them."
    )
    guess = _hundred(min(1.0, 10 / part["queries"]))
    return Summary(f"{', '.join(parts)}; guessing would be {guess}.", tuple(figures), advice)


def _figure(metrics: Mapping[str, Any], name: str, chance: float, words: str = "") -> Figure:
    ends = metrics.get("intervals", {}).get(name)
    value = float(metrics[name])
    return Figure(
        words
        or name.replace("_", " ").replace("f1 macro", "macro-F1").replace("f1 micro", "micro-F1").replace("r2", "R²"),
        value if ends is None else Interval(value, ends[0], ends[1], 0.95, DRAWS),
        chance,
    )


def _hundred(share: float) -> int:
    """Return how many of a hundred; never all or none where it is not so."""
    return int(np.clip(round(100 * share), share > 0, 99 if share < 1 else 100))
