"""Licence and size of models, as their makers state them, and which licences are permissive.

A model's card says its licence (the head of `README.md`), else the configuration of timm or a licence file beside the weights;
a package that ships weights, its metadata or its licence file. Nothing here is legal advice: it is what was written there.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from chiasm.errors import EncoderError
from chiasm.hub import CARD, LICENCES
from chiasm.types import MODALITIES, Modality

if TYPE_CHECKING:
    from chiasm.encoders.base import Encoder

Licence: TypeAlias = Literal["permissive"]

PERMISSIVE = (
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "ISC", "MIT", "Unlicense", "Zlib",
)  # fmt: skip
"""SPDX identifiers of licences that allow any use, at most with attribution."""

_OTHER_NAMES = {
    "Apache": "Apache-2.0",
    "BSD": "BSD",
    "CC0": "CC0-1.0",
}  # as classifiers of packages and the hub have them
_FILLERS = frozenset({"the", "license", "licence", "version", "v", "software", "new", "revised", "simplified", "0"})
_LONGEST = 80  # characters of what is no known licence


@dataclass(frozen=True)
class PretrainedModel:
    """A network that an encoder runs.

    Attributes:
        name: hub id, folder or name.
        fingerprint: of the encoder that runs it.
        licence: SPDX identifier where it is a permissive one, else as its makers write it; empty: unknown.
        licence_from: where that is said.
        parameters: their number; None: unknown.
        size: bytes of its files; None: unknown.
        modalities: that it is used for, where that is known.
    """

    name: str
    fingerprint: str
    licence: str = ""
    licence_from: str = ""
    parameters: int | None = None
    size: int | None = None
    modalities: tuple[Modality, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PretrainedModel:
        """Return what `dataclasses.asdict` made a mapping of.

        Raises:
            KeyError: a field is missing.
            TypeError: one is of another type.
            ValueError: a number or a modality is none.
        """
        parameters, size = (None if fields[name] is None else int(fields[name]) for name in ("parameters", "size"))
        name, fingerprint, licence, place = (
            str(fields[one]) for one in ("name", "fingerprint", "licence", "licence_from")
        )
        used = tuple(MODALITIES[MODALITIES.index(one)] for one in fields["modalities"])
        return cls(name, fingerprint, licence, place, parameters, size, used)


def models_of(encoders: Mapping[Modality, Encoder]) -> tuple[PretrainedModel, ...]:
    """Return the models that encoders run, each once, with the modalities that it is used for."""
    uses: dict[PretrainedModel, list[Modality]] = {}
    for modality in MODALITIES:
        for model in encoders[modality].models() if modality in encoders else ():
            uses.setdefault(model, []).append(modality)
    return tuple(replace(model, modalities=tuple(used)) for model, used in uses.items())


def require_permissive(models: Sequence[PretrainedModel]) -> None:
    """Refuse models whose licence is not known to be permissive.

    Raises:
        EncoderError: says which licence a model has, or that none is known, and what to do.
    """
    for model in models:
        if not model.licence:
            raise EncoderError(
                f"--licence permissive: no licence is known of {model.name}: its files name none (license: in {CARD}, or a "
                f"licence file). Look for it where the model comes from. If it suits you, leave the option out, or write "
                f"it into the head of the {CARD} in the model's folder"
            )
        if not is_permissive(model.licence):
            raise EncoderError(
                f"--licence permissive: {model.name} has the licence {model.licence!r} ({model.licence_from}), and the option "
                f"takes {', '.join(PERMISSIVE)}. Take another model, or leave the option out if its terms suit you"
            )


def is_permissive(licence: str) -> bool:
    """Return whether a licence allows any use: one of `PERMISSIVE`, in any common spelling, or an expression of such.

    Example:
        >>> is_permissive("Apache License, Version 2.0"), is_permissive("MIT OR GPL-3.0"), is_permissive("cc-by-nc-4.0")
        (True, True, False)
    """
    choices = [re.split(r"\s+AND\s+", choice, flags=re.I) for choice in re.split(r"\s+OR\s+", licence, flags=re.I)]
    known = [all(_words(part) in _KNOWN for part in choice) for choice in choices]
    return all(known) if "(" in licence else any(known)  # what brackets join is not looked into


def _words(licence: str) -> frozenset[str]:
    """Return the words by which a licence is told, in any order."""
    return frozenset(re.findall(r"0bsd|cc0|[a-z]+|\d+", licence.lower())) - _FILLERS


_KNOWN = {_words(name): identifier for name, identifier in {**{one: one for one in PERMISSIVE}, **_OTHER_NAMES}.items()}


def _named(licence: object) -> str:
    """Return a licence by its identifier where that is known."""
    text = " ".join(str(licence or "").split())
    return "" if text.lower() in {"unknown", "none"} else _KNOWN.get(_words(text), text[:_LONGEST])


# ----------------------------------------------------------------------------------------------------- where it is said


def licence_of_folder(folder: Path) -> tuple[str, str]:
    """Return the licence that a model's folder says, and the file that says it; two empty texts where none does."""
    licence = _of_card(folder / CARD) or _of_timm(folder / "config.json")
    if licence:
        return licence
    return next((one for file in sorted(folder.glob(LICENCES)) if (one := _of_text(file))), ("", ""))


def licence_of_package(name: str) -> tuple[str, str]:
    """Return the licence that an installed package says, and where; two empty texts where it says none."""
    try:
        package = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return "", ""
    said = package.metadata.json
    classes = [str(one).rpartition("::")[2] for one in said.get("classifier", ()) if str(one).startswith("License ::")]
    for licence in (said.get("license_expression"), str(said.get("license", "")).partition("\n")[0], *classes):
        if named := _named(licence):
            return named, f"package {name}"
    files = (Path(str(package.locate_file(one))) for one in package.files or () if one.match(LICENCES))
    found = next((one for file in files if (one := _of_text(file))), None)
    return ("", "") if found is None else (found[0], f"{found[1]} of the package {name}")


def _of_card(card: Path) -> tuple[str, str] | None:
    try:
        head = re.match(r"\s*---\s*\n(.*?)\n---", card.read_text("utf-8-sig", errors="replace"), re.S)
    except OSError:
        return None
    names = ("license", "license_name", "license_link")
    licences, own, links = (_listed(name, head[1]) for name in names) if head else ([], [], [])
    licence = " AND ".join(_named(one) or one for one in licences) if any(map(_named, licences)) else ""
    if licence == "other" and own:
        licence = f"other: {own[0]}"
    return (licence, ", ".join([CARD, *links])) if licence else None


def _listed(name: str, head: str) -> list[str]:
    """Return the value of a field of a card's head, or its values: in brackets, or one a line.

    A base installation has no library for YAML, and more of it is not needed.
    """
    found = re.search(rf"^{name}:[ \t]*(.*(?:\n[ \t]*- .*)*)", head, re.M)
    return [] if found is None else re.findall(r"[^\s\[\],'\"#-][^\[\],'\"\n#]*", re.sub(r"\s#.*", "", found[1]))


def _of_timm(config: Path) -> tuple[str, str] | None:
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))["pretrained_cfg"]
        licence = _named(settings.get("license"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return (licence, "config.json, as timm has it") if licence else None


def _of_text(file: Path) -> tuple[str, str] | None:
    """Read the first lines of a licence: its name, in one line or in two."""
    try:
        lines = [line.strip() for line in file.read_text("utf-8", errors="replace").splitlines() if line.strip()]
    except OSError:
        return None
    heads = [" ".join(lines[:2]).partition(",")[0], *lines[:1]]
    known = next((name for head in heads if is_permissive(name := _named(head))), _named(heads[-1]))
    return (known, file.name) if known else None
