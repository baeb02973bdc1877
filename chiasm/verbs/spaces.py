"""The spaces of a collection: which there are, the vectors in them, and what their scores are worth.

A space lies in `spaces/NAME` of the collection. Beside it, in the same folder, are the scores that `align` fitted for it
(`scores.json`, `scores.safetensors`). The vectors of all files and moments, placed in the space, are a table that
`chiasm.store.gallery` keeps.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import lance
import numpy as np
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from chiasm.encoders.base import Encoder
from chiasm.errors import SpaceError
from chiasm.files import write_whole
from chiasm.retrieval.index import VECTOR, matrix_of
from chiasm.space import Space, saved_spaces, start_space
from chiasm.store import gallery
from chiasm.store.collection import Collection
from chiasm.verbs.dataset import fingerprints_of

if TYPE_CHECKING:
    from chiasm.retrieval.scores import ScoreModel

START = "start"


def spaces_of(collection: Collection) -> tuple[str, ...]:
    """Return the names of the saved spaces that go with the collection's encoder, oldest first.

    Spaces that were learned with an encoder that was replaced (`Collection.reembed`) stay on disk and are passed over: they
    are of use again when the collection is re-embedded with it.
    """
    folder = collection.path / "spaces"
    generation = collection.generation
    names = saved_spaces(folder)
    if not generation.since:
        return names
    fits = {START}
    for name in names:
        header = json.loads((folder / name / "space.json").read_text(encoding="utf-8"))
        if header["created"] >= generation.since or header["fingerprints"] == dict(generation.fingerprints):
            fits.add(name)
    return tuple(name for name in names if name in fits)


def start_of(collection: Collection, networks: Sequence[Encoder]) -> Space:
    """Return the space that nothing was learned in; made once, and again when the encoders have changed."""
    folder = collection.path / "spaces" / START
    if (folder / "space.json").exists():
        saved = Space.load(folder)
        if dict(saved.fingerprints) == fingerprints_of(networks):
            return saved
    space = start_space(networks, name=START)
    others = [
        Space.load(collection.path / "spaces" / name).created
        for name in saved_spaces(collection.path / "spaces")
        if name != START
    ]
    if others:  # made anew, but not to be taken for newer than what was learned
        space = replace(space, created=min(others)[:-1])
    space.save(folder)
    return space


def space_of(collection: Collection, networks: Sequence[Encoder], name: str | None) -> Space:
    """Return a space by its name; the newest by default.

    Raises:
        SpaceError: there is none of that name, or it was learned with an encoder that was replaced.
    """
    names = spaces_of(collection)
    if name is None:
        name = names[-1] if names else START
    if name == START:
        return start_of(collection, networks)
    if name not in names and name in saved_spaces(collection.path / "spaces"):
        raise SpaceError(
            f"the space {name!r} was learned with another encoder than the collection has now ({collection.encoder!r}), "
            f"which places vectors elsewhere. Align again: chiasm align {collection.path} --name {name}"
        )
    if name not in names:
        raise SpaceError(f"{collection.path} has no space {name!r}. It has: {', '.join(names) or START}")
    return Space.load(collection.path / "spaces" / name)


# ------------------------------------------------------------------------------------------------------------- vectors


def open_table(collection: Collection, space: Space) -> lance.LanceDataset:
    """Open the search table of a space, brought up to date: see `chiasm.store.gallery`."""
    return gallery.synchronise(collection, space.digest, space.fingerprints.values(), dim=space.dim, place=space.place)


def drop_replaced(collection: Collection) -> None:
    """Delete the tables of spaces and encoders that were replaced, some time after."""
    folder = collection.path / "spaces"
    collection.drop_replaced()
    gallery.drop_tables(collection, [Space.load(folder / name).digest for name in spaces_of(collection)])


@dataclass(frozen=True, eq=False)
class PlacedVectors:
    """All vectors of a collection in a space, of whole files and of moments, in memory."""

    items: Shaped[np.ndarray, " rows"]  # ids
    slots: Shaped[np.ndarray, " rows"]  # "image/0": the item's first image
    hashes: Shaped[np.ndarray, " rows"]  # equal for equal content
    modalities: Shaped[np.ndarray, " rows"]  # "audio" for the sound track of a video
    starts: Float[np.ndarray, " rows"]  # of moments in seconds, of texts in characters; NaN: of the whole file
    ends: Float[np.ndarray, " rows"]
    vectors: Float[np.ndarray, "rows dim"]

    def __len__(self) -> int:
        return len(self.items)


def placed_vectors(collection: Collection, space: Space) -> PlacedVectors:
    """Load all vectors of a collection in a space."""
    columns = ["id", "_slot", "_hash", "_modality", "_start", "_end", VECTOR]
    rows = open_table(collection, space).to_table(columns=columns)
    items, slots, hashes, modalities = (np.array(rows[name].to_pylist(), dtype=str) for name in columns[:4])
    starts, ends = (rows[name].to_numpy() for name in ("_start", "_end"))
    return PlacedVectors(items, slots, hashes, modalities, starts, ends, matrix_of(rows[VECTOR]))


# -------------------------------------------------------------------------------------------------------------- scores


def save_scores(folder: Path, model: ScoreModel) -> None:
    """Save a score model in the folder of its space.

    `scores.json` is deleted first and written last: whoever reads meanwhile, or after a crash, finds all or none.
    """
    fields, arrays = model.state()
    (folder / "scores.json").unlink(missing_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(folder / "scores.safetensors"))
    write_whole(folder / "scores.json", json.dumps(fields, indent=2) + "\n")


def load_scores(folder: Path) -> ScoreModel | None:
    """Load the score model of a space; None where there is none, or it was of a space that has been replaced since.

    Raises:
        SpaceError: it is damaged or of another version.
    """
    from chiasm.retrieval.scores import ScoreModel

    path, arrays = folder / "scores.json", folder / "scores.safetensors"
    if not path.exists() or not arrays.exists():  # saving a space clears its folder of arrays that are not its own
        return None
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(fields, dict):
            raise ValueError(f"scores.json holds a {type(fields).__name__}")
        return ScoreModel.from_state(fields, load_file(arrays))
    except (OSError, ValueError, SafetensorError) as error:
        raise SpaceError(f"the scores in {folder} cannot be read: {error}. Align again") from error
