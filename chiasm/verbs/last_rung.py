"""The last rung of `fit`: the encoder itself is trained further on the labels, where that wins in the time that it may take.

How one network is trained and judged is `chiasm.verbs.climb`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from chiasm import encoders
from chiasm._optional import require
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.runtime import Device
from chiasm.encoders.tuned import Part, write_tuned
from chiasm.errors import ChiasmError
from chiasm.finetuning.recipe import Recipe
from chiasm.finetuning.results import TunedPart
from chiasm.recognition import Recognizer
from chiasm.recognition.targets import Target
from chiasm.space import Space, start_space
from chiasm.store.collection import Collection
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.climb import Climb, base_of, with_embeddings
from chiasm.verbs.dataset import Labelled

LEARNED: tuple[Modality, ...] = ("image", "text")
"""Modalities whose networks are tried."""

_BESIDE: dict[Modality, Modality] = {"image": "video", "text": "audio"}  # that may be embedded by the same network
_FOLDS = 2
_FEWEST_EPOCHS = 2  # below which nothing is learned that could win


@dataclass(frozen=True, eq=False)
class LastRung:
    """The items as they are embedded after the last rung was tried.

    Attributes:
        data: the items, those of a network that was better embedded by the ones that did not see them.
        targets: their columns.
        tried: what was measured, by modality.
        words: what came of it, a line a network.
        encoder: the folder of the networks that were better; empty where none was.
        networks: the encoders that new items are embedded by.
    """

    data: Labelled
    targets: Sequence[Target]
    tried: Mapping[Modality, TunedPart]
    words: tuple[str, ...]
    encoder: str
    networks: Sequence[Encoder]


def climb_last(
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    data: Labelled,
    targets: Sequence[Target],
    *,
    names: Mapping[str, Float[np.ndarray, " dim"]],
    make: Callable[[], Recognizer],
    minutes: float,
    out: Path,
    seed: int,
    device: Device,
) -> LastRung:
    """Train the networks of the items' modalities further, one after the other, and keep each that wins.

    The recogniser of all modalities is fitted before and after. The next network is compared with what was kept before it.

    Args:
        collection: where the items are.
        networks: its encoders.
        space: of the items' shared vectors.
        data: the items.
        targets: the columns that are learned.
        names: embedded names of classes or labels of one column.
        make: makes the recogniser.
        minutes: that all of it may take, as estimated before. Epochs are left out to keep to it, or networks.
        out: folder of the model, beside which the encoder is written.
        seed: of everything that is drawn.
        device: where networks are trained.

    Raises:
        MissingExtraError: PyTorch and its libraries are not installed.
    """
    for library in ("torch", "transformers", "accelerate", "sentence_transformers", "peft"):
        require(library, "train", "train an encoder")
    from chiasm.finetuning import processes

    processes.join(device)
    work = out.with_name(f"{out.name}.training")
    until = time.monotonic() + 60 * minutes
    tried: dict[Modality, TunedPart] = {}
    parts: dict[Modality, Part] = {}
    words: list[str] = []
    owner = first_of(networks)
    for modality in LEARNED:
        if modality not in data.fingerprints:
            continue
        if any(owner[modality].fingerprint == owner[one].fingerprint for one in tried):
            continue  # one network for both
        if why := _why_not(modality, collection, data):
            words.append(f"{modality}: not tried, {why}")
            continue
        climb = Climb(
            collection,
            networks,
            space,
            data,
            targets,
            modality,
            Recipe(method="blocks", views=2, epochs=6, patience=0, seed=seed),  # half the time of `finetune`
            _FOLDS,
            lambda: make().set_params(unknown=None),
            work / modality,
            device,
            names=names,
        )
        try:
            cost = climb.estimate()
            epochs = min(climb.recipe.epochs, cost.epochs_in(until - time.monotonic()))
            if epochs < _FEWEST_EPOCHS:
                allowed = f"{minutes:g} min are allowed"
                words.append(
                    f"{modality}: not tried, it would take {cost.seconds(_FEWEST_EPOCHS) / 60:.1f} min; {allowed}"
                )
                continue
            if epochs < climb.recipe.epochs:
                climb = replace(climb, recipe=replace(climb.recipe, epochs=epochs))
            climbed = climb.run()
        except ChiasmError as error:  # the recogniser of frozen features is there all the same
            words.append(f"{modality}: not trained, {error}")
            continue
        tried[modality] = climbed.report
        words.append(climbed.report.words)
        if climbed.part is not None:
            parts[modality], data = climbed.part, climbed.data
            targets = [target.take(climbed.rows) for target in targets]
    encoder = ""
    if parts:
        folder = _free(out.with_name(f"{out.name}.encoder"))
        base, others = base_of(collection.encoder)
        write_tuned(folder, base, others | parts)
        encoder = str(folder.resolve())
        networks = encoders.resolve(encoder, device=device)
        data = _as_embedded_by(networks, data, bridged="text" in parts)
    shutil.rmtree(work, ignore_errors=True)
    return LastRung(data, targets, tried, tuple(words), encoder, networks)


def _why_not(modality: Modality, collection: Collection, data: Labelled) -> str:
    """Return in words why the network of a modality is not trained; empty: nothing is against it."""
    if encoders.uses_int8(collection.encoder):
        return "networks in 8-bit integers cannot be trained"
    if _BESIDE[modality] in data.fingerprints:
        return f"its network may embed {_BESIDE[modality]} as well"
    return ""


def _as_embedded_by(networks: Sequence[Encoder], data: Labelled, *, bridged: bool) -> Labelled:
    """Return items that these networks have embedded as theirs.

    Args:
        networks: a part of them new.
        data: the items.
        bridged: whether names of classes are embedded anew; pictures are bridged to texts by them.
    """
    if bridged and "image" in data.arrays.vectors:
        every = np.arange(len(data.ids))
        pictures = with_embeddings(data.arrays, "image", every, data.arrays.vectors["image"], start_space(networks))
        data = replace(data, arrays=pictures)
    known = first_of(networks)
    fingerprints = {one: known[one].fingerprint for one in MODALITIES if one in data.fingerprints}
    return replace(data, fingerprints=fingerprints)


def _free(folder: Path) -> Path:
    """Return a name that no folder has: an encoder is not replaced, since collections are embedded by it."""
    number = 1
    free = folder
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
