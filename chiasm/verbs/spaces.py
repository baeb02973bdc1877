"""The spaces of a collection: which there are, the vectors in them, and what their scores are worth.

A space lies in `spaces/NAME` of the collection, see `chiasm.saved.Versions`. A version holds all that `align` learned: the
maps, the scores (`scores.json`, `scores.safetensors`), and the contents that the maps were learned from, each placed by a
map that was not (`left-out.json`, `left-out.safetensors`). The vectors of all files and moments, placed in the space, are a
table that `chiasm.store.gallery` keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import lance
import numpy as np
from jaxtyping import Float, Int64, Shaped

from chiasm.encoders.base import Encoder, fingerprints_of
from chiasm.errors import SpaceError
from chiasm.files import one_form
from chiasm.saved import DAMAGE, Versions, check_fields, read_arrays, read_object, write_arrays, write_object
from chiasm.space import FORMAT_VERSION, Space, start_space
from chiasm.store import gallery
from chiasm.store.collection import Collection
from chiasm.store.tables import VECTOR, matrix_of
from chiasm.types import MODALITIES, Modality
from chiasm.verbs.ranking import owner_number

if TYPE_CHECKING:
    from chiasm.retrieval.scores import ScoreModel

START = "start"
_COLLECTED = "collected.safetensors"


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Contents that the map of a modality was learned from.

    Attributes:
        hashes: of those that are known as they would be if they had not been learned from.
        vectors: of these, each placed by a map that was learned without it.
        others: hashes of the others, such as those of a source.
    """

    hashes: tuple[str, ...]
    vectors: Float[np.ndarray, "contents dim"]
    others: frozenset[str] = frozenset()

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each content."""
        return {content: row for row, content in enumerate(self.hashes)}


@dataclass(frozen=True, eq=False)
class SavedSpace:
    """A space with what else `align` learned.

    Attributes:
        space: the maps.
        scores: what scores are worth; None where nothing is known of that.
        left_out: by modality that has a map.
        version: under which it is stored.
        collected: numbers (`chiasm.verbs.ranking.owner_number`) of the items that the collection had when it was learned;
            None: nobody knows.
    """

    space: Space
    scores: ScoreModel | None = None
    left_out: Mapping[Modality, LeftOut] = field(default_factory=dict)
    version: str = ""
    collected: Int64[np.ndarray, " items"] | None = None

    def learned_from(self, items: Iterable[str], contents: Iterable[str]) -> bool:
        """Return whether it learned from one of some items or contents, or may have."""
        taught = {one for left in self.left_out.values() for one in (*left.hashes, *left.others)}
        if self.collected is None or not taught.isdisjoint(contents):
            return True
        return bool(np.isin([owner_number(item) for item in items], self.collected).any())


def folder_of(collection: Collection, name: str) -> Path:
    """Return where a space of a collection is kept."""
    return collection.path / "spaces" / one_form(name)


def save_space(folder: Path, saved: SavedSpace) -> str:
    """Write a space and return its version; one that is there stays as the version before (`revert`).

    Raises:
        SpaceError: the folder cannot be written.
    """

    def write(draft: Path) -> None:
        saved.space.save(draft)
        if saved.scores is not None:
            fields, arrays = saved.scores.state()
            write_arrays(draft / "scores.safetensors", arrays)
            write_object(draft / "scores.json", fields)
        if saved.left_out:
            write_arrays(draft / "left-out.safetensors", {name: one.vectors for name, one in saved.left_out.items()})
            hashes = {name: [one.hashes, sorted(one.others)] for name, one in saved.left_out.items()}
            write_object(draft / "left-out.json", hashes)
        if saved.collected is not None:
            write_arrays(draft / _COLLECTED, {"items": saved.collected})

    return _versions(folder).write(write)


def load_space(folder: Path) -> SavedSpace:
    """Read the current version of a space, also while it is being replaced.

    Raises:
        SpaceError: there is none, it is damaged, or of another version of the format.
    """

    return _versions(folder).read(_read)


def _read(version: Path) -> SavedSpace:
    path = version / _COLLECTED
    collected = read_arrays(path)["items"] if path.exists() else None
    return SavedSpace(Space.load(version), _read_scores(version), _read_left_out(version), version.name, collected)


def _read_scores(version: Path) -> ScoreModel | None:
    from chiasm.retrieval.scores import ScoreModel

    if not (version / "scores.json").exists():
        return None
    try:
        return ScoreModel.from_state(read_object(version / "scores.json"), read_arrays(version / "scores.safetensors"))
    except DAMAGE as error:
        raise SpaceError(f"the scores in {version.parent} are damaged: {error}. Align again") from error


def _read_left_out(version: Path) -> dict[Modality, LeftOut]:
    if not (version / "left-out.json").exists():
        return {}
    hashes, vectors = read_object(version / "left-out.json"), read_arrays(version / "left-out.safetensors")
    check_fields(hashes, **dict.fromkeys(hashes, list))
    left_out: dict[Modality, LeftOut] = {}
    for name in MODALITIES:
        if name in hashes:
            own, others = ([str(content) for content in part] for part in hashes[name])
            if vectors[name].ndim != 2 or len(vectors[name]) != len(own) or not np.isfinite(vectors[name]).all():
                raise ValueError(f"the {name} contents that were left out and their vectors do not fit")
            left_out[name] = LeftOut(tuple(own), vectors[name], frozenset(others))
    return left_out


def _versions(folder: Path) -> Versions:
    make = "Delete the folder: the start is rebuilt automatically, anything else by chiasm align"
    return Versions(folder, "space.json", "chiasm-saved-space", FORMAT_VERSION, "space", make, SpaceError)


# --------------------------------------------------------------------------------------------------------- which there are


def saved_spaces(collection: Collection) -> tuple[str, ...]:
    """Return the names of the spaces that are saved in a collection: the start, then those learned, oldest first.

    Raises:
        SpaceError: one is damaged or of another format version.
    """
    names = [path.parent.name for path in (collection.path / "spaces").glob("*/space.json")]
    since = {one_form(name): _versions(folder_of(collection, name)).since for name in names}
    return tuple(sorted(since, key=lambda name: (name != START, since[name])))


def spaces_of(collection: Collection) -> tuple[str, ...]:
    """Return the names of the saved spaces that go with the collection's encoder, in the order of `saved_spaces`.

    Spaces that were learned with an encoder that was replaced (`Collection.reembed`) stay on disk and are passed over: they
    are of use again when the collection is re-embedded with it.
    """
    generation = collection.generation
    names = saved_spaces(collection)
    if not generation.since:
        return names

    def fits(name: str) -> bool:
        space = load_space(folder_of(collection, name)).space
        return space.created >= generation.since or dict(space.fingerprints) == dict(generation.fingerprints)

    return tuple(name for name in names if name == START or fits(name))


def newest_of(collection: Collection) -> str:
    """Return the name of the space that is searched where none is named."""
    return next(reversed(spaces_of(collection)), START)


def version_of(collection: Collection, name: str | None) -> tuple[str, str]:
    """Return where a space is read from and its version; cheap enough to ask every few seconds."""
    folder = _taken_from(collection, name) or folder_of(collection, name or newest_of(collection))
    versions = _versions(folder)
    return str(folder), versions.current if versions.exists else ""


def start_of(collection: Collection, networks: Sequence[Encoder]) -> Space:
    """Return the space that nothing was learned in; made once, and again when the encoders have changed."""
    folder = folder_of(collection, START)
    if _versions(folder).exists:
        saved = load_space(folder).space
        if dict(saved.fingerprints) == fingerprints_of(networks):
            return saved
    space = start_space(networks, name=START)
    save_space(folder, SavedSpace(space))
    return space


def space_of(collection: Collection, networks: Sequence[Encoder], name: str | None) -> SavedSpace:
    """Return a space by its name, the newest by default, or one that was learned elsewhere by its path.

    Args:
        collection: that the space is used in.
        networks: its encoders.
        name: of one of its spaces; or the folder of a space, or another collection, whose newest space it is then. Of these
            the scores are left out: what they are worth was learned there, and does not hold here.

    Raises:
        SpaceError: there is none of that name, or it was learned with other encoders.
    """
    folder = _taken_from(collection, name)
    if folder is not None:
        return replace(_fitting(load_space(folder), folder, networks), scores=None)
    names = spaces_of(collection)
    name = newest_of(collection) if name is None else one_form(name)
    if name == START:
        return SavedSpace(start_of(collection, networks))
    if name not in names and name in saved_spaces(collection):
        raise SpaceError(
            f"the space {name!r} was learned with another encoder than the collection has now ({collection.encoder!r}), "
            f"which places vectors elsewhere. Align again: chiasm align {collection.path} --name {name}"
        )
    if name not in names:
        raise SpaceError(
            f"{collection.path} has no space {name!r}. It has: {', '.join(names) or START}. A space of another collection is "
            "named by its path"
        )
    return load_space(folder_of(collection, name))


def revert_space(collection: Collection, name: str | None = None) -> str:
    """Go back to what `align` replaced in a space, the newest by default; return the version.

    Raises:
        SpaceError: nothing was replaced.
    """
    return _versions(folder_of(collection, name or newest_of(collection))).revert()


def drop_spaces_of(collection: Collection, items: Sequence[str], contents: Sequence[str]) -> tuple[str, ...]:
    """Delete all versions of spaces that learned from some items of their collection, or may have. Return their names.

    A space keeps vectors of what it learned from: of the items whose scores it measured, and those that a kernel compares with.

    Raises:
        SpaceError: a space is damaged.
    """
    dropped = []
    for folder in sorted((collection.path / "spaces").glob("*/")):
        versions = _versions(folder)
        if not versions.exists:  # of a run that was killed
            versions.delete()
        elif folder.name != START and any(_read(one).learned_from(items, contents) for one in versions.folders):
            versions.delete()
            dropped.append(one_form(folder.name))
    return tuple(dropped)


def path_of_space(path: str | Path) -> Path | None:
    """Return the folder of a space that a path names: its own, or that of the newest of a collection; else None.

    Raises:
        SpaceError: the collection has learned none.
    """
    folder = Path(path).expanduser()
    if (folder / "chiasm.json").is_file():
        opened = Collection.open(folder)
        name = newest_of(opened)
        if name == START:
            raise SpaceError(
                f"{folder} has learned no space that could be used elsewhere. Align it first: chiasm align {folder}"
            )
        return folder_of(opened, name)
    return folder if (folder / "space.json").is_file() else None


def _taken_from(collection: Collection, name: str | None) -> Path | None:
    """Return the folder of a space that is none of the collection's own."""
    if name is None or (Path(name).name == name and (folder_of(collection, name) / "space.json").exists()):
        return None
    return path_of_space(name)


def _fitting(saved: SavedSpace, folder: Path, networks: Sequence[Encoder]) -> SavedSpace:
    """Refuse a space of other encoders."""
    own = fingerprints_of(networks)
    other = [
        f"{modality}: {fingerprint} there, {own[modality]} here"
        for modality, fingerprint in saved.space.fingerprints.items()
        if own.get(modality, fingerprint) != fingerprint
    ]
    if other or not set(own) & set(saved.space.fingerprints):
        raise SpaceError(
            f"the space {folder} was learned with other encoders ({'; '.join(other) or 'of other modalities'}), whose vectors "
            "cannot be compared with those here. Embed one of the collections with the encoder of the other: chiasm reembed"
        )
    return saved


# ------------------------------------------------------------------------------------------------------------- vectors


def open_table(collection: Collection, space: Space) -> lance.LanceDataset:
    """Open the search table of a space, brought up to date: see `chiasm.store.gallery`."""
    return gallery.synchronise(
        collection,
        space.digest,
        space.fingerprints.values(),
        dim=space.dim,
        place=space.place,
        alone=space.alone,
    )


def drop_replaced(collection: Collection) -> None:
    """Delete the tables of spaces and encoders that were replaced, some time after."""
    collection.drop_replaced()
    spaces = [load_space(folder_of(collection, name)).space for name in spaces_of(collection)]
    gallery.drop_tables(collection, [space.digest for space in spaces])


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
