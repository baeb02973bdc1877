"""Pretrained, frozen networks: media to embeddings. `resolve` is the one table from names to encoders."""

from __future__ import annotations

from chiasm.encoders.base import ClassHead, Embeddings, Encoder, View
from chiasm.encoders.runtime import Device

__all__ = ["ClassHead", "Embeddings", "Encoder", "View", "resolve"]


def resolve(name: str, *, device: Device = "auto") -> tuple[Encoder, ...]:
    """The encoders that a name stands for; at most one a modality is meant to be used, the first.

    Args:
        name: `"offline"`, the hub id of a sentence-transformers or transformers model, or a folder with one.
        device: `"auto"`, `"cpu"` or `"cuda"`.

    Raises:
        EncoderError: there is no such encoder.
        MissingExtraError: the packages it needs are not installed.
    """
    if name == "offline":
        from chiasm.encoders.offline import offline_encoders

        return offline_encoders(device=device)
    from chiasm.encoders.huggingface import HuggingFaceEncoder

    return (HuggingFaceEncoder(name, device=device),)
