"""Pretrained, frozen networks: media to embeddings. `resolve` is the one table from names to encoders."""

from __future__ import annotations

from collections.abc import Sequence

from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Moments, View
from chiasm.encoders.runtime import Device
from chiasm.errors import EncoderError

__all__ = ["ClassHead", "Embeddings", "Encoder", "Moments", "View", "resolve"]


def resolve(name: str, *, device: Device = "auto") -> tuple[Encoder, ...]:
    """Return the encoders that a name stands for; at most one a modality is meant to be used, the first.

    Args:
        name: `"offline"`, the hub id of a sentence-transformers or transformers model, or a folder with one. `"offline"`
            takes options behind a colon, with commas between them: `"offline:language=de"` says what is spoken,
            `"offline:translate"` has speech written down in English.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        EncoderError: there is no such encoder, or no such option.
        MissingExtraError: the packages it needs are not installed.
    """
    kind, colon, rest = name.partition(":")
    if kind == "offline":
        from chiasm.encoders.offline import offline_encoders

        language, translate = _speech_options(name, rest.split(",") if colon else [])
        return offline_encoders(language=language, translate=translate, device=device)
    from chiasm.encoders.huggingface import HuggingFaceEncoder
    from chiasm.encoders.video import VideoEncoder

    model = HuggingFaceEncoder(name, device=device)
    return (model, VideoEncoder(model)) if "image" in model.modalities else (model,)


def _speech_options(name: str, options: Sequence[str]) -> tuple[str | None, bool]:
    """Return the language that is spoken, None to find it out, and whether to translate."""
    values = {key.strip(): value.strip() for key, _, value in (option.partition("=") for option in options)}
    language = values.pop("language", None)
    translate = values.pop("translate", None)
    if values or len(options) > (language is not None) + (translate is not None) or language == "" or translate:
        raise EncoderError(
            f"{name!r} cannot be understood. The options of 'offline' are language=CODE, e.g. offline:language=de, and "
            "translate; both: offline:language=de,translate"
        )
    return language, translate is not None
