"""Say what stands for an item where many are shown: a caption, and a picture of which there are previews."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm import media
from chiasm.errors import MediaError
from chiasm.media import Limits
from chiasm.serving.files import OwnFile, url_of
from chiasm.serving.previews import VERSION
from chiasm.serving.problems import Problem
from chiasm.types import Modality, Text

_LONGEST = 200  # characters
_LARGEST = 2**20  # bytes of a text file that is read for its beginning
_NAMES = ("caption", "title", "name", "description")  # columns whose words stand for an item that has no text
_PICTURES: tuple[Modality, ...] = ("image", "video")
_REMEMBERED = 20_000  # captions

Added = Mapping[tuple[str, str], tuple[Path, str]]
"""Files by item and slot: where they are, and the digest of what was added."""


class Cards:
    """Captions and previews of items. The words of text files are remembered by their digests."""

    def __init__(self, base: str = "") -> None:
        self._base = base
        self._words: dict[str, str] = {}

    def of(self, row: Mapping[str, Any], added: Added, roots: Sequence[Path]) -> dict[str, str | None]:
        """Return the caption of an item and where its preview is, see `schemas.Item`.

        Args:
            row: of the item.
            added: its files.
            roots: folders whose files may be given away.
        """
        return {"caption": self._caption(row, added, roots), "preview": _preview(row, added, self._base)}

    def _caption(self, row: Mapping[str, Any], added: Added, roots: Sequence[Path]) -> str:
        item = str(row["id"])
        for number, text in enumerate(row.get("text") or ()):
            if not Path(text).is_absolute():
                words = _first_words(text)
            elif (item, f"text/{number}") in added:
                words = self._of_file(*added[item, f"text/{number}"], roots)
            else:
                continue
            if words:
                return words
        named = next((row[name] for name in _NAMES if isinstance(row.get(name), str) and row[name].strip()), None)
        return _first_words(named) if named else item.rpartition("/")[2].replace("_", " ")

    def _of_file(self, path: Path, digest: str, roots: Sequence[Path]) -> str:
        if digest not in self._words:
            words = ""
            try:
                own = OwnFile.open(path, digest, roots)
            except Problem:  # gone, or not to be given away: then its words are not, either
                return ""
            with own.file:
                try:
                    medium = media.load(f"/dev/fd/{own.file.fileno()}", limits=Limits(max_bytes=_LARGEST))
                    words = _first_words(medium.text) if isinstance(medium, Text) else ""
                except MediaError:
                    pass
            if len(self._words) >= _REMEMBERED:
                self._words.clear()
            self._words[digest] = words
        return self._words[digest]


def _first_words(text: str) -> str:
    words = " ".join(text[: 4 * _LONGEST].split())
    return words if len(words) <= _LONGEST else words[:_LONGEST].rpartition(" ")[0] + " …"


def _preview(row: Mapping[str, Any], added: Added, base: str) -> str | None:
    item = str(row["id"])
    for modality in _PICTURES:
        for number in range(len(row.get(modality) or ())):
            file = added.get((item, f"{modality}/{number}"))
            if file is not None:
                return f"{base}{url_of(item, modality, number)}?v={file[1][:VERSION]}"
    return None
