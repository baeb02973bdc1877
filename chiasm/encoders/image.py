"""Pictures to embeddings: preprocessing, batches and the class head of EfficientNet-Lite0.

Where the weights are found is left to `offline`, the layers to `networks`, how they are run to `runtime`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PillowImage

from chiasm.encoders.base import ClassHead, Embeddings, Encoder, Prepared, View
from chiasm.encoders.cache import file_digest, fingerprint, make_once
from chiasm.encoders.runtime import Arrays, Blueprint, Device, Engine, Network
from chiasm.errors import EncoderError
from chiasm.types import Image, Media, Modality

if TYPE_CHECKING:
    import torch

SIDE = 224  # pixels
DIM = 1280
CLASSES = 1000

_VERSION = "1"  # of everything here and in `networks` that changes embeddings
_SMALL, _LARGE = 2, 64  # pictures a run: on one core, and on a GPU


class ImageEncoder(Encoder):
    """Pooled features of EfficientNet-Lite0, 1280 numbers that are not negative.

    The whole picture is seen: it is scaled until its longer side has 224 pixels and laid on a square of the colour of
    its own border. The usual crop of the centre cuts long things off: of the Tux Paint stamps it finds 0.37 among the
    first ten by their captions through the class names, this finds 0.45.
    """

    def __init__(
        self,
        weights: Path,
        class_names: Sequence[str],
        *,
        device: Device = "auto",
        engine: Engine = "auto",
        threads: int | None = None,
    ) -> None:
        """Name the weights; they are read later.

        Args:
            weights: the published `.pth` file: a state dict, read with `weights_only=True`.
            class_names: of the 1000 ImageNet classes, in the order of the network's outputs.
            device: see `Network`.
            engine: see `Network`.
            threads: see `Network`.

        Raises:
            EncoderError: not 1000 names, the file cannot be read, or a choice that `Network` does not have.
        """
        if len(class_names) != CLASSES:
            raise EncoderError(f"EfficientNet-Lite0 has {CLASSES} classes; got {len(class_names)} names")
        self.name = "efficientnet-lite0"
        self.modalities: frozenset[Modality] = frozenset({"image"})
        self.dim = DIM
        self.view = View(image_size=SIDE)
        self.batch_size = _LARGE
        self._weights = weights
        self._class_names = tuple(class_names)
        self._fingerprint = fingerprint(self.name, _VERSION, file_digest(weights))
        self._network = Network(
            Blueprint(self.name, self._fingerprint, self._build, {"pixels": ("batch",)}, _sample),
            device=device,
            engine=engine,
            threads=threads,
        )

    @property
    def fingerprint(self) -> str:
        """Hex digest over the weights and this module's version."""
        return self._fingerprint

    def prepare(self, media: Media) -> Prepared:
        """Return the pixels of a picture, `1 x 224 x 224 x 3` bytes."""
        self._require(media.modality)
        assert isinstance(media, Image)
        return fit(media.pixels)[None]

    def encode_prepared(self, modality: Modality, batch: Sequence[Prepared]) -> Embeddings:
        """Embed prepared pictures, a row each."""
        self._require(modality)
        if not batch:
            return Embeddings(np.empty((0, DIM), np.float32), ())
        rows = self._network.budget(small=_SMALL, large=_LARGE)
        runs = [{"pixels": np.concatenate(batch[start : start + rows])} for start in range(0, len(batch), rows)]
        return Embeddings(np.concatenate(self._network.run(runs)), (None,) * len(batch))

    def class_head(self) -> ClassHead:
        """Return the ImageNet classifier. Kept in the cache as safetensors, so that reading it does not import PyTorch."""
        from safetensors.numpy import load_file

        folder, _ = make_once("heads", self.name, self._fingerprint, self._save_head)
        tensors = load_file(folder / "head.safetensors")
        return ClassHead(tensors["weight"], tensors["bias"], self._class_names)

    def _build(self) -> torch.nn.Module:
        from chiasm.encoders.networks import load_efficientnet

        return load_efficientnet(self._weights)

    def _save_head(self, folder: Path) -> dict[str, str]:
        from safetensors.torch import save_file

        from chiasm.encoders.networks import load_efficientnet

        weight, bias = load_efficientnet(self._weights).head
        save_file({"weight": weight, "bias": bias}, folder / "head.safetensors")
        return {"name": self.name, "fingerprint": self._fingerprint}


def fit(pixels: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "224 224 3"]:
    """Scale a whole picture into the network's square; what it leaves free gets the colour of the picture's border."""
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    # A gap of 3 lets Pillow shrink large pictures by a whole factor first: several times faster, the same to the eye.
    scaled = np.asarray(
        PillowImage.fromarray(pixels).resize(size, PillowImage.Resampling.BICUBIC, reducing_gap=3.0), dtype=np.uint8
    )
    if size == (SIDE, SIDE):
        return scaled
    border = np.concatenate([scaled[0], scaled[-1], scaled[:, 0], scaled[:, -1]])
    square = np.empty((SIDE, SIDE, 3), np.uint8)
    square[:] = np.median(border, axis=0)
    left, top = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    square[top : top + size[1], left : left + size[0]] = scaled
    return square


def _sample(rows: int, generator: np.random.Generator) -> Arrays:
    return {"pixels": generator.integers(0, 256, (rows, SIDE, SIDE, 3), dtype=np.uint8)}
