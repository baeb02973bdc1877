"""Encoder folders: the networks of a base, some of them trained further by `chiasm finetune` or cut by `chiasm compress`.

    FOLDER/encoder.json     the format, the base, and of every part how to open it and where it comes from
    FOLDER/image/           a part: weights in safetensors, or a model as its library saves it

Opening one needs no more than its base: the offline networks run without PyTorch. How parts are trained is left to
`chiasm.finetuning`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from chiasm import __version__
from chiasm.encoders.base import Encoder
from chiasm.encoders.runtime import Device
from chiasm.errors import EncoderError
from chiasm.files import whole_folder, write_whole
from chiasm.hub import CARD
from chiasm.saved import DAMAGE, check_fields, read_object, write_object
from chiasm.types import MODALITIES, Modality

ABOUT = "encoder.json"
WEIGHTS = "weights.safetensors"
FORMAT, FORMAT_VERSION = "chiasm-encoder", 1
Kind: TypeAlias = Literal["efficientnet-lite0", "bert", "library"]


@dataclass(frozen=True, eq=False)
class Part:
    """One network that is not the one of the base.

    Attributes:
        kind: how it is opened.
        save: writes it into an empty folder.
        options: of the encoder.
        about: where it comes from and how good it is, for people and programs.
    """

    kind: Kind
    save: Callable[[Path], object]
    options: Mapping[str, Any]
    about: Mapping[str, Any]


def is_tuned(name: str) -> bool:
    """Return whether a name is that of an encoder folder."""
    return bool(name) and (Path(name).expanduser() / ABOUT).is_file()


def write_tuned(folder: Path, base: str, parts: Mapping[Modality, Part]) -> None:
    """Write an encoder folder whole or not at all.

    Args:
        folder: that does not exist yet.
        base: name of the encoder that the parts were trained from, and that the other modalities are of.
        parts: by modality.

    Raises:
        EncoderError: the folder exists, or the disk cannot be written to.
    """
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "by": __version__,
        "base": base,
        "parts": {
            modality: {"kind": part.kind, "options": dict(part.options), "about": dict(part.about)}
            for modality, part in parts.items()
        },
    }
    try:
        with whole_folder(folder) as draft:
            for modality, part in parts.items():
                (draft / modality).mkdir()
                part.save(draft / modality)
                if licence := part.about.get("licence"):
                    write_whole(draft / modality / CARD, f"---\nlicense: {licence}\n---\n")
            write_object(draft / ABOUT, about)
    except OSError as error:
        raise EncoderError(f"the encoder {folder} cannot be written: {error.strerror or error}") from error


def read_about(folder: Path) -> dict[str, Any]:
    """Return what an encoder folder says about itself.

    Raises:
        EncoderError: it is of another version of the format, or damaged.
    """
    try:
        about = read_object(folder / ABOUT)
        version = (about.get("format"), about.get("format_version"))
        if version == (FORMAT, FORMAT_VERSION):
            check_fields(about, base=str, parts=dict)
            for modality, part in about["parts"].items():
                check_fields(part, kind=str, options=dict, about=dict)
                if modality not in MODALITIES:
                    raise ValueError(f"there is no modality {modality!r:.80}")
    except DAMAGE as error:
        raise EncoderError(f"the encoder {folder} is damaged ({error}). Train it again: chiasm finetune") from error
    if version != (FORMAT, FORMAT_VERSION):
        raise EncoderError(
            f"{folder} is {version[0]!r:.80} version {version[1]!r:.80}; this chiasm reads {FORMAT} version "
            f"{FORMAT_VERSION}. Train it again: chiasm finetune"
        )
    return about


def tuned_parts(folder: Path, device: Device, *, int8: bool = False) -> tuple[str, dict[Modality, Encoder]]:
    """Return the name of the base of an encoder folder, and its parts as encoders.

    Args:
        folder: of the encoder.
        device: see `chiasm.encoders.runtime.Network`.
        int8: whether the parts run in 8-bit integers.

    Raises:
        EncoderError: the folder is damaged, or of another version.
    """
    about = read_about(folder)
    if is_tuned(about["base"]):
        raise EncoderError(
            f"the encoder {folder} is damaged (its base is one like it). Train it again: chiasm finetune"
        )
    encoders: dict[Modality, Encoder] = {}
    for modality, part in about["parts"].items():
        encoders[modality] = open_part(folder / modality, part["kind"], part["options"], device, int8=int8)
        encoders[modality].learned_from = frozenset(part["about"].get("learned_from", ()))
    return about["base"], encoders


def open_part(folder: Path, kind: str, options: Mapping[str, Any], device: Device, *, int8: bool = False) -> Encoder:
    """Return the encoder of one part.

    Args:
        folder: of the part.
        kind: see `Part`.
        options: see there.
        device: see `chiasm.encoders.runtime.Network`.
        int8: whether it runs in 8-bit integers.

    Raises:
        EncoderError: there is no such kind, or the folder is damaged.
    """
    if kind == "efficientnet-lite0":
        from chiasm.encoders.offline import ImageEncoder, class_names

        return ImageEncoder(folder / WEIGHTS, class_names(), int8=int8, device=device)
    if kind == "bert":
        from chiasm.encoders.offline import TextEncoder

        return TextEncoder(folder, name="BERT, trained further", int8=int8, device=device)
    if kind == "library":
        from chiasm.encoders.huggingface import HuggingFaceEncoder

        chosen = {key: options[key] for key in ("dim", "prompt") if key in options}
        return HuggingFaceEncoder(str(folder), device=device, int8=int8, **chosen)
    raise EncoderError(
        f"the encoder {folder.parent} is damaged (there is no kind {kind!r:.80}). Train it again: chiasm finetune"
    )
