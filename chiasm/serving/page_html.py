"""What the page shows, as HTML: results, predictions, the comparison after learning, the state of a collection.

Pure functions from what the engine answers to text. Everything that comes from a file, a table or a person goes through
`escape`; nothing here is trusted to be plain. Where buttons lead is in `page.js`: each says what it does in `data-act`,
with what in `data-id`, and to which listener in `data-box`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from chiasm.types import Modality

_KINDS: Mapping[Modality, str] = {"image": "picture", "text": "text", "audio": "sound", "video": "video"}
WORDS_SHOWN = 280  # characters of a text that a card shows
REASONS_SHOWN = 200  # rows of the table of outcomes

_ICONS = {  # paths of 16 x 16
    "up": "M5 7.2 8.2 1.5c.9 0 1.6.7 1.6 1.6L9.4 6h3.9c.8 0 1.4.8 1.2 1.6l-1.3 5.2c-.1.5-.6.9-1.2.9H5zM1.5 7h2v6.7h-2z",
    "down": "M11 8.8 7.8 14.5c-.9 0-1.6-.7-1.6-1.6L6.6 10H2.7c-.8 0-1.4-.8-1.2-1.6l1.3-5.2c.1-.5.6-.9 1.2-.9h7zM14.5 9h-2"
    "V2.3h2z",
    "like": "M6.5 2a4.5 4.5 0 1 0 2.7 8.1l3.6 3.6 1-1-3.6-3.6A4.5 4.5 0 0 0 6.5 2zm0 1.4a3.1 3.1 0 1 1 0 6.2 3.1 3.1 0 0 1 0-6.2"
    "zM5.9 4.7v1.2H4.7v1.2h1.2v1.2h1.2V7.1h1.2V5.9H7.1V4.7z",
    "off": "M4 3 3 4l4 4-4 4 1 1 4-4 4 4 1-1-4-4 4-4-1-1-4 4z",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What stands above and below the hits of one answer.

    Attributes:
        title: what was looked for, in words.
        liked: ids with a thumb up; with `disliked` the ratings that shaped this ranking.
        disliked: ids with a thumb down.
        first: the place of the first hit, from 0.
        more: whether a next page may have hits.
        rates: whether thumbs make sense: there is a query that they can change.
        note: how the thumbs were kept, or what went wrong.
    """

    title: str
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    first: int = 0
    more: bool = False
    rates: bool = True
    note: str = ""


# ------------------------------------------------------------------------------------------------------------- small


def problem(text: str) -> str:
    """What was wrong, and what to do."""
    return f'<p class="cx-problem" role="alert">{escape(text)}</p>'


def note(text: str) -> str:
    """Something to know that is no fault."""
    return f'<p class="cx-note" role="status">{escape(text)}</p>'


def percent(share: float) -> str:
    """A probability as people write it; never 100 % where it is not certain."""
    if share < 0.01:
        return "< 1 %"
    return f"{min(math.floor(share * 100 + 0.5), 100 if share >= 1 else 99)} %"


def clock(seconds: float) -> str:
    """A time in a recording, minutes and seconds."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{whole // 60}:{whole % 60:02}"


def fragment(start: float | None, end: float | None) -> str:
    """The part of a recording that a player is to begin at (W3C Media Fragments, temporal dimension)."""
    if start is None:
        return ""
    return f"#t={start:.2f}" + ("" if end is None else f",{end:.2f}")


def _icon(name: str) -> str:
    return f'<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d="{_ICONS[name]}"/></svg>'


def _button(act: str, name: str, *, box: str, item: str = "", text: str = "", pressed: bool | None = None) -> str:
    """A button. `name` is what a screen reader says; without `text` an icon stands on it."""
    shown = escape(text) if text else _icon(act)
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    kind = "cx-button" if text else "cx-icon"
    return (
        f'<button type="button" class="{kind}" data-box="{box}" data-act="{act}" data-id="{escape(item)}"'
        f' aria-label="{escape(name)}" title="{escape(name)}"{state}>{shown}</button>'
    )


def _cut(text: str, most: int = WORDS_SHOWN) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """A table of HTML cells; columns of numbers are set to the right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=cx-number' if place in numbers else ''}>{cell}</{tag}>" for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="cx-scroll"><table class="cx-table"><thead><tr>{cells("th", head)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


# ----------------------------------------------------------------------------------------------------------- results


def _of(item: Mapping[str, Any] | None, modality: Modality) -> list[Mapping[str, Any]]:
    return [] if item is None else [medium for medium in item["media"] if medium["modality"] == modality]


def caption_of(hit: Mapping[str, Any], item: Mapping[str, Any] | None) -> str:
    """What to write under a hit: what was found in it, else the first text of its item, else its id."""
    if hit.get("text"):
        return str(hit["text"])
    texts = [str(medium["text"]) for medium in _of(item, "text") if medium["text"]]
    return texts[0] if texts else str(hit["id"])


def _media(hit: Mapping[str, Any], item: Mapping[str, Any] | None, caption: str) -> str:
    """A picture, a player or the text itself; a picture of the item stands above what has none of its own."""
    kind, url = hit["modality"], hit["url"]
    pictures = [medium["url"] for medium in _of(item, "image") if medium["url"]]
    name = escape(_cut(caption, 120))
    parts = []
    if kind == "image" and url:
        parts.append(f'<img src="{escape(url)}" alt="{name}" loading="lazy" decoding="async">')
    elif kind == "video" and url:
        where = escape(url + fragment(hit["start"], hit["end"]))
        parts.append(f'<video src="{where}" controls preload="metadata" playsinline aria-label="{name}"></video>')
    else:
        if pictures:
            parts.append(f'<img src="{escape(pictures[0])}" alt="{name}" loading="lazy" decoding="async">')
        elif kind == "text":
            parts.append(f'<blockquote class="cx-words">{escape(_cut(caption))}</blockquote>')
        if kind == "audio" and url:
            where = escape(url + fragment(hit["start"], hit["end"]))
            parts.append(f'<audio src="{where}" controls preload="metadata" aria-label="{name}"></audio>')
    return f'<div class="cx-media cx-{kind}">{"".join(parts)}</div>'


def _moments(hit: Mapping[str, Any]) -> str:
    if hit["modality"] not in ("audio", "video") or hit["start"] is None:
        return ""
    spans = hit["moments"] or [{"start": hit["start"], "end": hit["end"], "text": None}]
    buttons = [
        f'<button type="button" class="cx-jump" data-start="{span["start"]:.2f}"'
        f' aria-label="Play from {clock(span["start"])}" title="{escape(span["text"] or "")}">▶ {clock(span["start"])}</button>'
        for span in spans[:4]
    ]
    return f'<div class="cx-moments">{"".join(buttons)}</div>'


def _worth(hit: Mapping[str, Any]) -> str:
    if hit.get("probability") is not None:
        share = max(0.0, min(1.0, hit["probability"]))
        return (
            f'<span class="cx-worth" title="probability of being relevant"><span class="cx-bar">'
            f'<i style="width:{share * 100:.0f}%"></i></span>{percent(share)}</span>'
        )
    if hit.get("score") is not None:
        return f'<span class="cx-worth" title="cosine; no probability is known here">cosine {hit["score"]:.2f}</span>'
    return ""


def _details(metadata: Mapping[str, Any], item: str) -> str:
    rows = [("id", item), *((name, value) for name, value in metadata.items() if value is not None)]
    body = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(_cut(str(value)))}</dd>" for name, value in rows)
    return f'<details class="cx-details"><summary>Details</summary><dl>{body}</dl></details>'


def card(
    hit: Mapping[str, Any],
    item: Mapping[str, Any] | None,
    *,
    box: str = "search",
    rates: bool = True,
    dim: bool = False,
) -> str:
    """One hit with what can be done with it.

    Args:
        hit: see `chiasm.serving.schemas.Hit`; score None for an item that was not searched for.
        item: its item, see `chiasm.serving.schemas.Item`; None where it is gone.
        box: listener of its buttons.
        rates: whether it has thumbs.
        dim: whether it is shown as hardly relevant.
    """
    name, caption = str(hit["id"]), caption_of(hit, item)
    what = _cut(caption, 60)
    by = f'<span class="cx-kind">by its {_KINDS[hit["modality"]]}</span>' if hit["score"] is not None else ""
    acts = [_button("like", f"More like this: {what}", box=box, item=name)]
    if rates:
        acts.append(_button("up", f"Right, more of this: {what}", box=box, item=name))
        acts.append(_button("down", f"Wrong, less of this: {what}", box=box, item=name))
    has_picture = bool(_of(item, "image")) or hit["modality"] in ("image", "video", "audio")
    words = f'<p class="cx-caption">{escape(_cut(caption))}</p>' if has_picture else ""
    return (
        f'<article class="cx-hit{" cx-dim" if dim else ""}" data-item="{escape(name)}">{_media(hit, item, caption)}'
        f'<div class="cx-body">{words}{_moments(hit)}<div class="cx-row">{_worth(hit)}'
        f'{by}</div><div class="cx-row">'
        f"{_details(hit['metadata'], name)}<span class=cx-acts>{''.join(acts)}</span></div></div></article>"
    )


def hit_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as a hit that nothing was asked for: its first file that can be shown."""
    media = item["media"]
    order: tuple[Modality, ...] = ("video", "audio", "image", "text")
    first = next((medium for kind in order for medium in media if medium["modality"] == kind), None)
    kind = "text" if first is None else first["modality"]
    empty: dict[str, Any] = {"score": None, "probability": None, "start": None, "end": None, "moments": []}
    found = {"text": None, "url": None} if first is None else {"text": first["text"], "url": first["url"]}
    return {"id": item["id"], "modality": kind, "metadata": item["metadata"], **found, **empty}


def results(
    answer: Mapping[str, Any], items: Mapping[str, Mapping[str, Any]], shown: Shown, *, box: str = "search"
) -> str:
    """The hits of one answer as a grid, with what was asked, and what is thought of it.

    Args:
        answer: see `chiasm.serving.schemas.Found`.
        items: of the hits and ratings, by id.
        shown: what stands around them.
        box: listener of the buttons.
    """
    hits = answer["hits"]
    nothing = answer.get("found") is False
    head = [f'<h2 class="cx-title">{escape(_cut(shown.title, 160))}</h2>']
    if shown.liked or shown.disliked:
        chips = [
            f'<span class="cx-chip cx-{kind}">{_icon(kind)}<span>{escape(_cut(_name_of(name, items), 40))}</span>'
            f"{_button('off', f'Take back the thumb on {_name_of(name, items)}', box=box, item=name)}</span>"
            for kind, names in (("up", shown.liked), ("down", shown.disliked))
            for name in names
        ]
        head.append(f'<div class="cx-chips" aria-label="Your thumbs">{"".join(chips)}</div>')
    if shown.note:
        head.append(note(shown.note))
    if not hits:
        empty = "No more hits." if shown.first else "Nothing found. Try other words, or take a filter away."
        head.append(f'<p class="cx-nothing" role="status">{empty}</p>')
    elif nothing:
        threshold = answer.get("threshold")
        reach = "" if threshold is None else f" No hit reaches {percent(threshold)}."
        head.append(
            f'<p class="cx-nothing" role="status"><b>Nothing found.</b>{reach} The nearest items are shown below; they are '
            "probably not what you look for.</p>"
        )
    cards = "".join(card(hit, items.get(str(hit["id"])), box=box, rates=shown.rates, dim=nothing) for hit in hits)
    turn = []
    if shown.first:
        turn.append(_button("previous", "Previous page", box=box, text="← Previous"))
    if shown.more:
        turn.append(_button("next", "Next page", box=box, text="Next →"))
    place = f"<span>{shown.first + 1}–{shown.first + len(hits)}</span>" if hits and (shown.first or shown.more) else ""
    pages = f'<nav class="cx-pages" aria-label="Pages">{place}{"".join(turn)}</nav>' if turn else ""
    return f'<section class="cx-results" aria-live="polite">{"".join(head)}<div class="cx-grid">{cards}</div>{pages}</section>'


def _name_of(item: str, items: Mapping[str, Mapping[str, Any]]) -> str:
    found = items.get(item)
    return item if found is None else caption_of({"id": item}, found)


# ------------------------------------------------------------------------------------------------------- recognition


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What the model says of one thing, and where it can be corrected.

    Attributes:
        id: what a correction names: an item's id, or the place of a dropped file.
        name: the file's name or the item's caption.
        said: see `chiasm.serving.schemas.Prediction`; None where the thing could not be read.
        url: a picture of it; empty where there is none.
        kind: its modality.
        known: the label that it has now; empty where it has none.
        fault: why it could not be read.
        saved: the correction that was kept.
        corrects: whether corrections of it can be kept.
    """

    id: str
    name: str
    said: Mapping[str, Any] | None
    url: str = ""
    kind: Modality = "image"
    known: str = ""
    fault: str = ""
    saved: str = ""
    corrects: bool = True


def recognised(found: Sequence[Recognition], *, label: str, classes: Sequence[str]) -> str:
    """Predictions as cards, each with a field to correct it.

    Args:
        found: what was recognised.
        label: the column that is predicted.
        classes: known labels, offered while a correction is typed.
    """
    options = "".join(f'<option value="{escape(name)}"></option>' for name in (*classes, "unknown"))
    cards = "".join(_recognition(one) for one in found)
    return (
        f'<section class="cx-results" aria-live="polite"><h2 class="cx-title">{escape(label)}</h2>'
        f'<datalist id="cx-classes">{options}</datalist><div class="cx-grid cx-wide">{cards}</div></section>'
    )


def _recognition(one: Recognition) -> str:
    picture = ""
    if one.url and one.kind == "image":
        picture = f'<img src="{escape(one.url)}" alt="{escape(_cut(one.name, 120))}" loading="lazy">'
    elif one.url and one.kind in ("audio", "video"):
        picture = f'<{one.kind} src="{escape(one.url)}" controls preload="metadata"></{one.kind}>'
    body = [f'<p class="cx-caption">{escape(_cut(one.name, 120))}</p>']
    if one.said is None:
        body.append(problem(one.fault))
    else:
        body.append(_said(one.said))
        if one.known:
            body.append(f'<p class="cx-small">now: <b>{escape(one.known)}</b></p>')
        if one.saved:
            body.append(f'<p class="cx-saved" role="status">Saved as <b>{escape(one.saved)}</b></p>')
        elif one.corrects:
            guess = one.said.get("label") or ""
            body.append(
                f'<form class="cx-correct" data-box="classify" data-act="label" data-id="{escape(one.id)}">'
                f'<input name="label" list="cx-classes" value="{escape(str(guess))}" autocomplete="off"'
                f' aria-label="True label of {escape(_cut(one.name, 60))}">'
                '<button type="submit" class="cx-button">Save</button></form>'
            )
    return (
        f'<article class="cx-hit" data-item="{escape(one.id)}"><div class="cx-media cx-{one.kind}">{picture}</div>'
        f'<div class="cx-body">{"".join(body)}</div></article>'
    )


def _said(said: Mapping[str, Any]) -> str:
    parts = []
    if said.get("unknown"):
        parts.append('<p class="cx-label cx-unknown">unknown <small>like nothing that the model knows</small></p>')
    elif said.get("label") is not None:
        sure = "" if said.get("probability") is None else f" <small>{percent(said['probability'])}</small>"
        parts.append(f'<p class="cx-label">{escape(str(said["label"]))}{sure}</p>')
    likely = sorted(said.get("probabilities", {}).items(), key=lambda row: -row[1])[:4]
    if likely:
        bars = "".join(
            f"<li><span>{escape(name)}</span><span class=cx-bar><i style=width:{share * 100:.0f}%></i></span>"
            f"<span class=cx-number>{percent(share)}</span></li>"
            for name, share in likely
        )
        parts.append(f'<ul class="cx-bars">{bars}</ul>')
    if said.get("set"):
        names = "".join(f'<span class="cx-tag">{escape(str(name))}</span>' for name in said["set"][:12])
        parts.append(f'<p class="cx-small" title="holds the true label nine times in ten">one of {names}</p>')
    for column, value in said.get("columns", {}).items():
        parts.append(f'<p class="cx-small">{escape(str(column))}: <b>{escape(_cut(str(value), 120))}</b></p>')
    return "".join(parts)


def learned(report: Mapping[str, Any]) -> str:
    """Old against new, and which of them is used now.

    Args:
        report: see `chiasm.verbs.learn.LearnReport.as_dict`.
    """
    switched = report["switched"]
    verdict = "The new model is in use." if switched else "The old model stays."
    parts = [
        f'<p class="cx-verdict{"" if switched else " cx-stays"}" role="status"><b>{verdict}</b> {escape(str(report["why"]))}</p>'
    ]
    if report["columns"]:
        rows = [
            (
                f"{escape(str(one['column']))} <small>{escape(str(one['score']))}</small>",
                f"{one['old']:.3f}",
                f"{one['new']:.3f}",
                f"{one['difference']:+.3f}",
                f"{one['interval'][0]:+.3f} to {one['interval'][1]:+.3f}",
            )
            for one in report["columns"]
        ]
        parts.append(_table(("", "old", "new", "difference", "95 % interval"), rows, numbers=(1, 2, 3, 4)))
    facts = [
        f"{report['corrections']} corrections",
        f"{report['items']} items learned from",
        f"compared on {report['compared']} ({report['judged']} items)" if report["columns"] else "",
        f"{report['seconds']:.1f} s",
    ]
    for name, missing in list(report["waiting"].items())[:5]:
        facts.append(f"{name}: {missing} more examples needed")
    parts.append(f'<p class="cx-small">{escape(" · ".join(fact for fact in facts if fact))}</p>')
    return f'<section class="cx-results">{"".join(parts)}</section>'


# ------------------------------------------------------------------------------------------------------------ status


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the status tab knows.

    Attributes:
        status: see `chiasm.serving.schemas.StatusAnswer`.
        files: rows of files that are not ok: path's last part, outcome and reason.
        index: what is searched in of each modality, in words.
        feedback: rows by kind; empty where none is kept.
        warnings: of drift.
    """

    status: Mapping[str, Any]
    files: Sequence[tuple[str, str, str]] = ()
    index: Mapping[str, str] | None = None
    feedback: Mapping[str, int] | None = None
    warnings: Sequence[str] = ()


def status(facts: Facts) -> str:
    """The state of a collection."""
    said = facts.status
    bad = {name: count for name, count in said["outcomes"].items() if name not in ("ok", "duplicate")}
    tiles = [
        ("items", f"{said['items']:,}"),
        *((f"{name} files", f"{count:,}") for name, count in said["embeddings"].items()),
        ("files with a problem", f"{sum(bad.values()):,}"),
    ]
    shown = "".join(
        f'<div class="cx-tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for name, value in tiles
    )
    parts = [problem(text) for text in facts.warnings]
    parts.append(f'<div class="cx-tiles">{shown}</div>')
    rows = [
        ("chiasm", escape(said["version"])),
        ("encoder", escape(said["encoder"])),
        ("searched with", escape(", ".join(said["modalities"]))),
        ("spaces", _spaces(said["spaces"])),
        ("columns", escape(", ".join(said["columns"]) or "none")),
        ("model", f"predicts {escape(said['label'])}" if said["label"] else "none"),
        *((f"index, {escape(name)}", escape(words)) for name, words in (facts.index or {}).items()),
    ]
    if facts.feedback is not None:
        counts = ", ".join(f"{count} {name}" for name, count in facts.feedback.items())
        rows.append(("feedback", escape(counts)))
    parts.append(
        '<dl class="cx-facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"
    )
    counted = " · ".join(f"{count:,} {name}" for name, count in said["outcomes"].items())
    parts.append(f'<h2 class="cx-title">Files</h2><p class="cx-small">{escape(counted)}</p>')
    if facts.files:
        table = [(escape(path), escape(outcome), escape(_cut(reason))) for path, outcome, reason in facts.files]
        parts.append(_table(("file", "outcome", "reason"), table[:REASONS_SHOWN]))
        if len(facts.files) > REASONS_SHOWN:
            parts.append(f'<p class="cx-small">and {len(facts.files) - REASONS_SHOWN:,} more</p>')
    return f'<section class="cx-results">{"".join(parts)}</section>'


def _spaces(names: Sequence[str]) -> str:
    if not names:
        return "start"
    return (
        escape(", ".join(names[:-1])) + (", " if len(names) > 1 else "") + f"<b>{escape(names[-1])}</b> (searched in)"
    )
