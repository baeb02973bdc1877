"""Pretrained, frozen networks: media to embeddings. `resolve` is the one table from names to encoders."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from chiasm._optional import require
from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Moments, View
from chiasm.encoders.licence import Licence, PretrainedModel, licence_of_folder, require_permissive
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import is_tuned, tuned_parts
from chiasm.errors import EncoderError
from chiasm.hub import model_folder
from chiasm.types import MODALITIES, Modality

__all__ = ["ClassHead", "Embeddings", "Encoder", "Moments", "View", "resolve", "uses_int8"]

_TIMM = "timm:"


@dataclass
class _Part:
    """One encoder of a name, with the modalities that it was named for and its options."""

    name: str
    modalities: list[Modality] = field(default_factory=list)  # empty: all that it takes
    options: dict[str, str] = field(default_factory=dict)


def resolve(
    name: str,
    *,
    licence: Licence | None = None,
    device: Device = "auto",
    tuned: Mapping[Modality, Encoder] = MappingProxyType({}),
) -> tuple[Encoder, ...]:
    """Return the encoders that a name stands for; at most one a modality is meant to be used, the first.

    Args:
        name: `"offline"`; the hub id of a sentence-transformers or transformers model, or a folder with one, also of those
            that `chiasm finetune` and `compress` write; `"timm:NAME"`.
            Options follow behind commas: `"offline,language=de"`, `"offline,int8"`, `"google/embeddinggemma-2,dim=256"`
            (see `offline_encoders` and `HuggingFaceEncoder`). Several encoders stand side by side, each behind the
            modality that it is for: `"image=timm:resnet50,text=BAAI/bge-small-en-v1.5"`.
        licence: `"permissive"` refuses models whose licence is not known to allow any use (`chiasm.encoders.licence`), those
            of the hub before they are downloaded.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        tuned: encoders that take the place of those of the same modality.

    Raises:
        EncoderError: there is no such encoder, or no such option, or a licence is refused.
        MissingExtraError: the packages it needs are not installed.
    """
    if licence not in (None, *get_args(Licence)):
        raise EncoderError(f"licence takes {', '.join(get_args(Licence))}; got {licence!r}")
    parts = _parse(name)
    if licence == "permissive":  # by their cards, before the weights of any are downloaded
        require_permissive([_of_card(part) for part in parts if not _is_own(part.name)])
    text = tuned.get("text")  # maybe of another part; the words of speech are embedded by it
    encoders: list[Encoder] = []
    for part in sorted(parts, key=lambda part: "text" not in part.modalities):
        own = _encoders_of(part, tuned.get("image"), text, licence, device)
        takes = {modality for encoder in own for modality in encoder.modalities}
        for modality in part.modalities:
            if modality not in takes:
                raise EncoderError(
                    f"{name!r} names {part.name} for {modality}, and it takes {' and '.join(sorted(takes))}"
                )
        for encoder in own:
            kept = encoder.modalities & set(part.modalities) if part.modalities else encoder.modalities
            by = next((one for modality, one in tuned.items() if modality in kept), encoder)
            if kept:
                encoders.append(by.only(kept))
        text = next((encoder for encoder in encoders if "text" in encoder.modalities), None)
    if licence == "permissive":
        require_permissive([model for encoder in encoders for model in encoder.models()])
    return _with_videos(encoders)


def uses_int8(name: str) -> bool:
    """Return whether any of the encoders that a name stands for is in int8."""
    return any("int8" in part.options for part in _parse(name))


def _parse(name: str) -> list[_Part]:
    """Return the encoders that a name lists."""
    if name and Path(name).expanduser().is_dir():  # whose name may hold any letter
        return [_Part(name)]
    parts: list[_Part] = []
    for piece in name.split(","):
        key, equals, value = (text.strip() for text in piece.partition("="))
        if equals and key in MODALITIES:
            parts.append(_Part(value, [key]))
        elif not parts:
            parts.append(_Part(piece.strip()))
        elif key in parts[-1].options or not key or (equals and not value):
            raise EncoderError(
                f"{name!r} cannot be understood at {piece!r}: options are NAME,OPTION=VALUE,OPTION=VALUE"
            )
        else:
            parts[-1].options[key] = value
    merged: dict[tuple[str, ...], _Part] = {}
    for part in parts:
        key_of_part = (part.name, *(f"{key}={value}" for key, value in sorted(part.options.items())))
        merged.setdefault(key_of_part, _Part(part.name, [], part.options)).modalities.extend(part.modalities)
    named = [modality for part in parts for modality in part.modalities]
    if any(not part.name for part in parts):
        raise EncoderError(f"an encoder has no name in {name!r}. Give offline, a folder with a model, or a hub id")
    if len(set(named)) < len(named) or (named and len(named) < len(parts)):
        raise EncoderError(
            f"{name!r} cannot be understood: several encoders stand side by side, each behind another modality, e.g. "
            "image=timm:resnet50,text=BAAI/bge-small-en-v1.5"
        )
    return list(merged.values())


def _encoders_of(
    part: _Part, image: Encoder | None, text: Encoder | None, licence: Licence | None, device: Device
) -> tuple[Encoder, ...]:
    """Return the encoders of one part, those of the offline encoder with others of images and texts where there are any."""
    if part.name.startswith("offline:"):
        raise EncoderError(
            f"{part.name!r} cannot be understood: options stand behind a comma, e.g. offline,language=de"
        )
    if is_tuned(part.name):
        if part.options.keys() - {"int8"}:
            raise EncoderError(f"{part.name} is an encoder that was trained further, and takes no option but int8")
        return _read_tuned(Path(part.name).expanduser(), licence, device, int8="int8" in part.options)
    offline, others = ("int8", "language", "translate"), ("dim", "dtype", "int8", "prompt", "revision")
    known = offline if part.name == "offline" else others
    flags = ("int8", "translate")
    for key, value in part.options.items():
        if key not in known or (key in flags) != (not value):
            examples = "offline,language=de and offline,translate" if part.name == "offline" else f"{part.name},dim=256"
            raise EncoderError(
                f"{part.name} has no option {key + ('=' + value if value else '')!r}. Its options are "
                f"{', '.join(known)}, e.g. {examples}"
            )
    if part.name == "offline":
        from chiasm.encoders.offline import offline_encoders

        return offline_encoders(
            language=part.options.get("language"),
            translate="translate" in part.options,
            image=image,
            text=text,
            int8="int8" in part.options,
            device=device,
        )
    name = _hub_name(part.name)
    from chiasm.encoders.huggingface import HuggingFaceEncoder

    options: dict[str, Any] = {**part.options, "int8": "int8" in part.options}
    if "dim" in options:
        if not options["dim"].isdigit():
            raise EncoderError(
                f"dim is the number of values of a vector, e.g. {part.name},dim=256; got dim={options['dim']}"
            )
        options["dim"] = int(options["dim"])
    return (HuggingFaceEncoder(name, device=device, **options),)


def _is_own(name: str) -> bool:
    """Return whether a name is that of no model of others."""
    return name.partition(":")[0] == "offline" or is_tuned(name)


def _hub_name(name: str) -> str:
    """Return the folder or hub id of a model; packages that are missing are said before it is downloaded."""
    if importlib.util.find_spec("sentence_transformers") is None:
        require("sentence_transformers", "huggingface", f"run {name}")
    return _timm_model(name[len(_TIMM) :]) if name.startswith(_TIMM) else name


def _of_card(part: _Part) -> PretrainedModel:
    """Return what the card of a model says, of which no more is downloaded."""
    from chiasm.encoders.huggingface import EXAMPLES

    name, revision = _hub_name(part.name), part.options.get("revision")
    card = model_folder(name, revision=revision, examples=EXAMPLES, card_only=True)
    return PretrainedModel(part.name, "", *licence_of_folder(card))


def _read_tuned(folder: Path, licence: Licence | None, device: Device, *, int8: bool) -> tuple[Encoder, ...]:
    """Return the encoders of a folder that `chiasm finetune` or `compress` wrote: those of its base, some in their place."""
    base, encoders = tuned_parts(folder, device, int8=int8)
    return resolve(f"{base},int8" if int8 else base, licence=licence, device=device, tuned=encoders)


def _timm_model(name: str) -> str:
    """Return the hub id of timm's weights of a model; a folder or an id as it is."""
    timm = require("timm", "timm", f"find timm:{name}")
    if "/" in name or Path(name).is_dir():
        return name
    settings = timm.models.get_pretrained_cfg(name) if timm.is_model(name) else None
    if settings is None or not settings.hf_hub_id:
        close = ", ".join(timm.list_models(f"*{name.split('.', maxsplit=1)[0]}*", pretrained=True)[:5])
        raise EncoderError(
            f"timm has no model {name!r} with weights. "
            + (f"It has: {close}" if close else "See timm.list_models(pretrained=True)")
        )
    return str(settings.hf_hub_id)


def _with_videos(encoders: Sequence[Encoder]) -> tuple[Encoder, ...]:
    """Add an encoder of videos where there is one of images: videos are seen by it, and heard by that of sounds."""
    from chiasm.encoders.video import VideoEncoder

    image, sound, video = (
        next((encoder for encoder in encoders if modality in encoder.modalities), None)
        for modality in ("image", "audio", "video")
    )
    if image is None or isinstance(video, VideoEncoder):
        return tuple(encoders)
    if video is None:
        return (*encoders, VideoEncoder(image, sound))
    if video.vector_space != image.vector_space:
        return tuple(encoders)
    others = [encoder.only(encoder.modalities - {"video"}) for encoder in encoders]
    return (*(encoder for encoder in others if encoder.modalities), VideoEncoder(image, sound, whole=video))
