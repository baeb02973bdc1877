"""A searcher in memory with planted answers: texts are found by the words that they share, pictures by their colour."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from fake_encoder import embed
from media_files import image_bytes
from PIL import Image as PillowImage
from waiting import LIMIT

from chiasm import media
from chiasm.errors import CollectionError, SpaceError
from chiasm.files import digest_file
from chiasm.media import Limits
from chiasm.recognition.reasons import Reason
from chiasm.types import MODALITIES, Image, Media, Modality, Text
from chiasm.verbs.matching import Match
from chiasm.verbs.query import Hit, Part, Query, SearchOptions, SearchResult, Span
from chiasm.verbs.status import Status


@dataclass(frozen=True)
class NumberedHit(Hit):
    """A hit that knows its file's place among the item's files of its modality."""

    number: int = 0


def png(rgb: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """A picture of one colour."""
    return image_bytes(PillowImage.new("RGB", size, rgb), "PNG")


WORDS = {"birds/robin": "a red bird", "birds/heron": "a grey wading fowl", "boat": "sails on water"}
COLOURS = {"birds/robin": (220, 20, 20), "birds/heron": (120, 120, 120), "boat": (20, 20, 220)}


def planted_rows(folder: Path) -> list[dict[str, Any]]:
    """Three items, each a picture of one colour and a caption."""
    found = []
    for name, words in WORDS.items():
        path = folder / "media" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(COLOURS[name]))
        found.append(item_row(name, image=[str(path)], text=[words], colour=str(COLOURS[name])))
    return found


def item_row(name: str, **values: Any) -> dict[str, Any]:
    """A row of an item as `Collection.items` gives it."""
    return {"id": name, "image": [], "text": [], "audio": [], "video": []} | values


class FakeSearcher:
    """Rows as `Collection.items` gives them. Counts what it is asked to do.

    Args:
        rows: the items.

    The text `nothing` cannot be embedded, and `boom` breaks. While `gate` is not set, batches wait.
    """

    modalities: tuple[Modality, ...] = ("image", "text", "audio")

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = {str(row["id"]): row for row in rows}
        paths = [path for row in rows for name in ("image", "text", "audio", "video") for path in row.get(name) or ()]
        self.digests = {path: digest_file(path) for path in paths if Path(path).is_absolute() and Path(path).is_file()}
        room = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, room)
        place = Path(room) / "secret" / "place" / "stamps"
        place.mkdir(parents=True)
        roots = tuple({Path(path).parent.resolve() for path in self.digests})
        self.collection = SimpleNamespace(
            path=place, files=list, roots=roots, uploads=place / "dropped", version=(1,), columns=self.columns,
            table=self.table,
        )  # fmt: skip
        self.batches: list[int] = []
        self.asked_with: list[tuple[Query, SearchOptions]] = []
        self.threads: set[str] = set()
        self.refreshed = 0
        self.asked = 0  # batches that were begun
        self.gate = threading.Event()
        self.gate.set()

    def open(self, path: Path, *, limits: Limits) -> Media:
        return media.load(path, image_size=8, rate=8000, limits=limits)

    def parts(self, query: Query, /) -> Sequence[Part]:
        return (*query.plus, *query.minus)

    def prepare(self, given: Sequence[Part], /) -> np.ndarray:
        self.asked += 1
        assert self.gate.wait(LIMIT)
        self.batches.append(len(given))
        self.threads.add(threading.current_thread().name)
        texts = [medium.text for medium in given if isinstance(medium, Text)]
        if "boom" in texts:
            raise RuntimeError("a secret of the inside: /etc/shadow")
        if "nothing" in texts:
            raise SpaceError("fake found nothing in the text that it can embed")
        rows = np.stack([embed(part) for part in given if not isinstance(part, tuple)])
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit

    def match(self, words: Text, picture: Image, /) -> Match:
        """Any words match the whole of any picture."""
        return Match(0.5, (Reason("centre", 0.5, None, None, (0.0, 0.0, 1.0, 1.0)),))

    def search(self, query: Query, /, options: SearchOptions) -> SearchResult:
        self.asked_with.append((query, options))
        where, modality = options.where, options.modality
        if where is not None and not where.startswith("id = '"):
            raise CollectionError("the condition is malformed. Write for instance: id = 'bird'")
        if where == "id = 'path'":
            raise CollectionError(f"{self.collection.path} has no embedded files")
        vectors = query.vectors if query.vectors is not None else np.ones((1, 12), np.float32) / np.sqrt(12)
        hits = []
        for name, row in self.rows.items():
            if where is not None and where != f"id = '{name}'":
                continue
            for kind in ("image", "text"):
                if modality in (None, kind) and row[kind]:
                    value = row[kind][0]
                    inline = kind == "text" and not Path(value).is_absolute()
                    medium = Text(value) if inline else media.load(value, image_size=8)
                    vector = embed(medium)
                    score = float((vectors @ (vector / np.linalg.norm(vector))).mean())
                    extra = {key: row[key] for key in row if key not in {"id", "image", "text", "audio", "video"}}
                    hits.append(
                        NumberedHit(
                            name,
                            medium.modality,
                            score,
                            None if inline else value,
                            value if inline else None,
                            moments=(Span(0.0, 1.5, score, "said"),),
                            metadata=extra,
                        )
                    )
        hits.sort(key=lambda hit: -hit.score)
        return SearchResult("fake", tuple(hits[options.offset : options.offset + options.k]))

    def refresh(self) -> bool:
        self.refreshed += 1
        return False

    def columns(self) -> list[str]:
        return sorted({name for row in self.rows.values() for name in row} - {"id", *MODALITIES})

    def table(self, columns: Sequence[str], *, where: str | None) -> pa.Table:
        if where is not None and not where.startswith("id = '"):
            raise CollectionError("the condition is malformed. Write for instance: id = 'bird'")
        rows = [row for name, row in self.rows.items() if where in (None, f"id = '{name}'")]
        kinds: dict[str, pa.DataType] = {name: pa.list_(pa.string()) for name in MODALITIES}
        return pa.table({name: pa.array([row.get(name) for row in rows], kinds.get(name)) for name in columns})

    def items(self, *, ids: Sequence[str]) -> list[dict[str, Any]]:
        return [self.rows[name] for name in ids if name in self.rows]

    def moments_of(self, name: str, /) -> list[dict[str, Any]]:
        return [{"slot": "image/0", "start": 0.0, "end": 1.5, "text": "said"}] if name in self.rows else []

    def files_of(self, ids: Sequence[str], /) -> dict[tuple[str, str], tuple[Path, str]]:
        found = {}
        for row in self.items(ids=ids):
            for modality in MODALITIES:
                for number, file in enumerate(row.get(modality) or ()):
                    if Path(file).is_absolute():
                        found[str(row["id"]), f"{modality}/{number}"] = (Path(file), self.digests.get(file, ""))
        return found

    def status(self) -> Status:
        return Status(
            str(self.collection.path),
            "fake",
            len(self.rows),
            {"ok": len(self.rows)},
            {"image": len(self.rows)},
            ("colour",),
            ("start",),
            (str(self.collection.path.parent),),
        )
