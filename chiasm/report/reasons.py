"""Sections of a report on what predictions rest on; how they are found is left to `chiasm.verbs.explain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from chiasm.media import words_of
from chiasm.recognition.reasons import ClassReasons, Explanation, Faithfulness, MediumReasons
from chiasm.report.page import Card, Mark, Page, Place, decimal
from chiasm.report.plots import Bar, Series, bar_chart, line_chart
from chiasm.types import Modality

_METHODS = {
    "exact": "exact: the places and the rest sum to what the classifier says",
    "occlusion": "found by hiding one part after the other",
}
_LEAST = 0.005  # weight that is named
_MOST_WORDS = 6  # of the strongest words and places, in a sentence


def show_explanation(page: Page, explanation: Explanation, *, unit: str) -> None:
    """Add what one prediction rests on.

    Args:
        page: where to.
        explanation: of the item.
        unit: that its weights are in.
    """
    certainty = "" if explanation.probability is None else f" ({decimal(explanation.probability)})"
    page.section(f"{explanation.id}: {explanation.answer}{certainty}")
    if explanation.modalities:
        bars = [Bar(name, share) for name, share in explanation.modalities.items()]
        if explanation.prior is not None:
            bars.append(Bar("before anything is known", explanation.prior))
        page.chart(bar_chart("What each modality adds", bars, x_label=f"{unit}, {explanation.evidence:+.2f} in all"))
    for medium in explanation.media:
        _show_medium(page, medium, unit)
    for title, sign in (("Learned from, and for it", 1), ("Learned from, and against it", -1)):
        cards = [
            Card(
                next((Path(one.media[kind]) for kind in ("image", "video") if kind in one.media), None),
                f"{one.label} {one.weight:+.2f}",
                words_of(one.media["text"]) or one.id if "text" in one.media else one.id,
            )
            for one in explanation.examples
            if one.weight * sign > 0
        ]
        if cards:
            page.cards(title, cards)


def _show_medium(page: Page, medium: MediumReasons, unit: str) -> None:
    if medium.method is None:
        page.paragraph(f"{medium.modality.capitalize()}: not explained, {medium.note}.")
        return
    page.paragraph(f"{medium.modality.capitalize()}, {_METHODS[medium.method]} ({unit}). {summary_of(medium)}")
    path = None if medium.path is None else Path(medium.path)
    if medium.modality == "image" and path is not None:
        page.heat(path, [Place(one.box, one.weight) for one in medium.reasons if one.box is not None])
    elif medium.modality == "text":
        marks = [Mark(int(one.start or 0), int(one.end or 0), one.weight) for one in medium.reasons]
        page.marked(medium.text or "", marks)
    else:
        bars = [Bar(one.piece, one.weight) for one in medium.reasons]
        page.chart(bar_chart(f"What each part of the {medium.modality} adds", bars, x_label=unit))


def show_class(page: Page, reasons: ClassReasons, *, unit: str) -> None:
    """Add what one answer rests on over many items; `unit` is that of its weights."""
    page.section(f"{reasons.answer}: {reasons.items} items")
    if reasons.uses:
        what = "part of the features" if reasons.method == "exact" else "modality"
        bars = [Bar(name, weight) for name, weight in reasons.uses.items()]
        page.chart(bar_chart(f"By how much more each {what} says for it than in other items", bars, x_label=unit))
    if reasons.words:
        bars = [Bar(one.word, one.weight) for one in reasons.words]
        page.chart(bar_chart("Words, on average over the texts of its surest items", bars, x_label=unit))
    pictures: dict[str, list[Place]] = {}
    sounds = []
    for one in reasons.pieces:
        if one.reason.box is None:
            sounds.append(Bar(f"{one.id}, {one.reason.piece}", one.reason.weight))
        else:
            pictures.setdefault(one.path, []).append(Place(one.reason.box, one.reason.weight))
    for path, places in pictures.items():
        page.heat(Path(path), places)
    if sounds:
        page.chart(bar_chart("The strongest parts of sounds", sounds, x_label=unit))


def summary_of(medium: MediumReasons) -> str:
    """Return the strongest parts of a medium, and the change that would change the answer, in words."""
    names = medium.by_name
    speak_for = [f"{name} {weight:+.2f}" for name, weight in names.items() if weight >= _LEAST][:_MOST_WORDS]
    against = [f"{name} {weight:+.2f}" for name, weight in reversed(names.items()) if weight <= -_LEAST][:_MOST_WORDS]
    words = [f"For: {', '.join(speak_for)}."] * bool(speak_for) + [f"Against: {', '.join(against)}."] * bool(against)
    if medium.change is not None:
        gone = ", ".join(dict.fromkeys(medium.change.pieces))
        count = len(medium.change.pieces)
        where = f"{count} places ({gone})" if medium.modality == "image" else gone
        words.append(f"Without {where} the answer would be: {medium.change.answer}.")
    if words and medium.rest is not None:
        words.append(f"In no place: {medium.rest:+.2f} (names of classes, other modalities, how common the answer is).")
    return " ".join(words) or "Nothing in it changes the answer."


def show_faithfulness(page: Page, faithfulness: Mapping[Modality, Faithfulness], measured: str) -> None:
    """Add how far reasons can be believed: what hiding them does against hiding random parts."""
    if not faithfulness:
        return
    page.section(
        "How far this can be believed",
        f"Mean probability of the answer (or the number) when parts of a medium are hidden, on {measured}, each medium alone. "
        "Reasons are worth something if hiding the strongest lowers it by more than hiding random ones (deletion), and "
        "keeping the strongest keeps more of it than keeping random ones (insertion).",
    )
    for name, one in faithfulness.items():
        curves = one.curves
        orders = (("weakest first", curves.weakest), ("random", curves.random), ("strongest first", curves.strongest))
        page.chart(
            line_chart(
                f"{name.capitalize()}, {one.method}: what is left of the answer",
                [Series(order, np.array(curves.shares), np.array(levels)) for order, levels in orders],
                x_label="share of the pieces that is hidden",
                y_label="answer",
            )
        )
    page.table(
        (
            "medium", "method", "items", "hidden", "nothing hidden", "strongest hidden", "random hidden", "weakest hidden",
            "random - strongest", "standard error", "deletion area", "standard error", "insertion area", "standard error",
        ),
        [
            (
                name, one.method, one.items, f"{one.share:.0%}", one.whole, one.strongest, one.random, one.weakest, one.gap,
                one.standard_error, one.curves.deletion, one.curves.deletion_error, one.curves.insertion,
                one.curves.insertion_error,
            )
            for name, one in faithfulness.items()
        ],
    )  # fmt: skip
