"""Results as one self-contained HTML file: no script, no font, no picture from anywhere else.

`Page` knows how things look; what is shown is decided by its callers (`demo`, `api.evaluate`). Every text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from chiasm.errors import ChiasmError

THUMBNAIL = 112  # pixels

_STYLE = """
:root { --ink: #1c2530; --soft: #5b6875; --line: #dfe4e9; --paper: #ffffff; --card: #f6f8fa; --mark: #0b7285;
  --mark2: #b9c4cd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa7b3; --line: #333d47; --paper: #14191f;
  --card: #1c232b; --mark: #3bc9db; --mark2: #52606d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.2rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; } th { color: var(--soft); font-weight: 600; font-size: .88rem; }
.scroll { overflow-x: auto; }
.query { margin: 1.3rem 0 .5rem; font-weight: 600; display: flex; gap: .7rem; align-items: center; }
.cards { display: flex; flex-wrap: wrap; gap: .7rem; }
.card { width: 8.4rem; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .5rem;
  font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; }
.card img, .query img { display: block; width: 100%; height: 6.4rem; object-fit: contain; background: #fff;
  border-radius: .3rem; } .query img { width: 4.2rem; height: 4.2rem; border: 1px solid var(--line); }
.card b { display: block; margin-top: .4rem; font-weight: 600; } .card span { color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1rem;
  overflow-x: auto; font-size: .86rem; }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif; } svg .soft { fill: var(--soft); }
svg .before { fill: var(--mark2); } svg .after { fill: var(--mark); } audio { height: 2rem; }
.matrix td { min-width: 2.1rem; text-align: center; border: 1px solid var(--line); padding: .25rem .4rem; }
"""


@dataclass(frozen=True)
class Card:
    """One thing in a row of things: a picture where there is one, a title and a line below."""

    picture: Path | None
    title: str
    below: str


class Page:
    """Builds the file from top to bottom."""

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="soft">{html.escape(lead)}</p>']

    def section(self, title: str, *paragraphs: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{html.escape(title)}</h2>")
        for text in paragraphs:
            self.paragraph(text)

    def paragraph(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def code(self, text: str) -> None:
        """Lines to copy into a shell."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table; numbers stand right, floats with three digits."""
        head = "".join(
            f'<th class="number">{html.escape(name)}</th>'
            if rows and isinstance(rows[0][number], int | float)
            else f"<th>{html.escape(name)}</th>"
            for number, name in enumerate(columns)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        self._parts.append(f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>')

    def cards(
        self, query: str, cards: Sequence[Card], *, picture: Path | None = None, sound: Path | None = None
    ) -> None:
        """A query and what it found."""
        shown = f'<img src="{_thumbnail(picture)}" alt="">' if picture is not None else ""
        player = ""
        if sound is not None:
            data = base64.b64encode(sound.read_bytes()).decode()
            player = f'<audio controls src="data:audio/{sound.suffix[1:].lower()};base64,{data}"></audio>'
        self._parts.append(f'<div class="query">{shown}<span>{html.escape(query)}</span>{player}</div>')
        boxes = []
        for card in cards:
            image = (
                ""
                if card.picture is None
                else f'<img src="{_thumbnail(card.picture)}" alt="{html.escape(card.title)}">'
            )
            boxes.append(
                f'<div class="card">{image}<b>{html.escape(card.title)}</b><span>{html.escape(card.below)}</span></div>'
            )
        self._parts.append(f'<div class="cards">{"".join(boxes)}</div>')

    def bars(self, rows: Sequence[tuple[str, Mapping[str, float]]]) -> None:
        """Groups of horizontal bars for values from 0 to 1; the last bar of a group is the one that matters."""
        left, width, height = 190, 420, 20
        y, parts = 6, []
        for name, values in rows:
            parts.append(f'<text x="0" y="{y + 15}">{html.escape(name)}</text>')
            for number, (key, value) in enumerate(values.items()):
                style = "after" if number == len(values) - 1 else "before"
                length = max(1.0, width * min(max(value, 0.0), 1.0))
                parts.append(
                    f'<rect class="{style}" x="{left}" y="{y}" width="{length:.1f}" height="{height - 4}" rx="2"/>'
                )
                parts.append(f'<text x="{left + length + 8:.1f}" y="{y + 13}">{value:.2f}</text>')
                parts.append(f'<text class="soft" x="{left + length + 44:.1f}" y="{y + 13}">{html.escape(key)}</text>')
                y += height
            y += 8
        total = left + width + 150
        self._parts.append(
            f'<div class="scroll"><svg role="img" viewBox="0 0 {total} {y}" width="{total}" height="{y}">{"".join(parts)}'
            "</svg></div>"
        )

    def confusion(self, labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
        """A confusion matrix: a row a true class, a column a predicted one, darker for more of the row."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in labels)
        rows = []
        for name, counts in zip(labels, matrix, strict=True):
            total = max(1, sum(counts))
            cells = "".join(
                f'<td style="background: color-mix(in srgb, var(--mark) {round(70 * count / total)}%, transparent)">'
                f"{count or ''}</td>"
                for count in counts
            )
            rows.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
        self._parts.append(
            f'<div class="scroll"><table class="matrix"><tr><th>true \\ predicted</th>{head}</tr>{"".join(rows)}</table></div>'
        )

    def save(self, path: str | Path) -> None:
        """Write the file.

        Raises:
            ChiasmError: it cannot be written.
        """
        text = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(self._title)}</title><style>{_STYLE}</style></head>\n"
            f"<body><main>\n{chr(10).join(self._parts)}\n</main></body></html>\n"
        )
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ChiasmError(f"the report {path} cannot be written: {error}") from error


def show_classification(page: Page, metrics: Mapping[str, Any]) -> None:
    """Overall metrics, the confusion matrix and a table of classes, as `ClassificationMetrics.as_dict` gives them."""
    overall = [(name.replace("_", " "), value) for name, value in metrics.items() if isinstance(value, float)]
    page.table(("metric", "value"), overall)
    page.confusion([str(name) for name in metrics["labels"]], metrics["confusion"])


def show_retrieval(page: Page, directions: Mapping[str, Mapping[str, float]]) -> None:
    """Retrieval metrics, a row a direction."""
    names = list(next(iter(directions.values())))
    rows = [
        (direction.replace("_", " "), *(values[name] for name in names)) for direction, values in directions.items()
    ]
    page.table(("direction", *names), rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def _thumbnail(path: Path) -> str:
    with Image.open(path) as opened:
        opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
        image = ImageOps.exif_transpose(opened).convert("RGBA")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
