"""A space: the encoders of a collection and the maps that join their embeddings, saved as one folder.

Every modality has a start: a joint encoder's embedding as it is, words (texts and transcripts) in the text encoder's
space, images through the names of their classes (`alignment.bridge`). What cannot be compared with the others has a block
of the vectors to itself, where they are zero, and only finds its like. Sounds have two: those with words stand among the
texts, the others in a block of their own. A learned map (`alignment.alignment`) may follow.
All vectors of a space have unit length; the score of two is their cosine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from chiasm.alignment.alignment import MIN_PAIRS, GaussianKernel, LearnedMap
from chiasm.alignment.bridge import TEMPERATURE, TOP, conse
from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.cache import fingerprint, make_once
from chiasm.errors import SpaceError
from chiasm.saved import DAMAGE, check_fields, read_arrays, read_object, write_arrays, write_object
from chiasm.types import MODALITIES, Image, Media, Modality, Text
from chiasm.vectors import unit_rows

FORMAT = "chiasm-space"
FORMAT_VERSION = 5
FILES = "maps"
MOST_DIMENSIONS = 2**16

# A class name is embedded bare and in phrases like those people write; the mean of them moves less with the wording.
NAME_TEMPLATES = ("{}", "a {}", "a photo of a {}", "a picture of a {}.")
START_SHARE = 0.5  # weight of the start among the features of a learned map; the encoder's own vector has 1

StartKind: TypeAlias = Literal["identity", "words", "classes"]
Block: TypeAlias = tuple[int, int]
"""First and last column (excluded) of a part of the vectors."""


@dataclass(frozen=True, eq=False)
class Space:
    """The maps of each modality's embeddings into one vector space. Immutable; `with_maps` returns another.

    Attributes:
        name: of the space in its collection.
        dim: width of its vectors.
        fingerprints: modality -> fingerprint of the encoder whose embeddings it takes.
        starts: modality -> how its embeddings come in before any learned map.
        tensors: arrays of the starts: `centre` [dim], `names` [classes, dim], `head.weight`, `head.bias`.
        classes: hex digest over the class names and how they were embedded; empty without them.
        maps: modality -> learned map, where there is one.
        blocks: modality -> where its start is, where not all can be compared; vectors of other modalities are zero there until
            a map leads to them. Of several, one for each part of its embeddings, a vector has the first of which its part is
            not zero.
        created: UTC time in ISO 8601.
        about: numbers on how it was learned, for people and reports.

    Example:
        >>> space = Space("start", 2, {"image": "clip", "text": "clip"}, {"image": "identity", "text": "identity"}, {})
        >>> space.place("text", np.array([[3.0, 4.0]])).round(1).tolist()
        [[0.6, 0.8]]
    """

    name: str
    dim: int
    fingerprints: Mapping[Modality, str]
    starts: Mapping[Modality, StartKind]
    tensors: Mapping[str, Float[np.ndarray, "..."]]
    classes: str = ""
    maps: Mapping[Modality, LearnedMap] = field(default_factory=dict)
    blocks: Mapping[Modality, tuple[Block, ...]] = field(default_factory=dict)
    created: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities that can be searched, and searched with."""
        return tuple(self.fingerprints)

    @cached_property
    def digest(self) -> str:
        """Hex digest over everything that decides where a vector is placed, and nothing else."""
        decides = {
            "dim": self.dim,
            "fingerprints": dict(self.fingerprints),
            "starts": dict(self.starts),
            "blends": {modality: part.blend for modality, part in self.maps.items()},
            "blocks": dict(self.blocks),
            "constants": [START_SHARE, TOP, TEMPERATURE],
        }
        state = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=8)
        for name, tensor in sorted(self._all_tensors().items()):
            state.update(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
        return state.hexdigest()

    def start_key(self, *modalities: Modality) -> str:
        """Return a hex digest that is equal where features and starts of these modalities are the same, up to rounding.

        Statistics of pairs may be added up across spaces of one key. The `digest` would be too strict: another machine
        rounds the embeddings of the class names differently, and another modality may have come or gone.
        """
        kinds = [
            f"{modality} {self.starts[self._require(modality)]} {self.fingerprints[modality]}"
            for modality in modalities
        ]
        return fingerprint(self.classes, str([START_SHARE, TOP, TEMPERATURE]), *kinds)

    def embed_names(self, names: Sequence[str], encoders: Sequence[Encoder]) -> Float[np.ndarray, "names dim"]:
        """Return unit vectors of names of things, each the mean of several phrases that hold it (`NAME_TEMPLATES`).

        Raises:
            SpaceError: the space has no text, or its text encoder is not among `encoders`.
        """
        text = self.encoder("text", encoders)
        return self.start("text", _mean_of_phrases(names, text))

    # -------------------------------------------------------------------------------------- vectors into the space

    def start(self, modality: Modality, vectors: Float[np.ndarray, "n embedding"]) -> Float[np.ndarray, "n dim"]:
        """Return unit vectors of embeddings before any learned map."""
        if modality not in self.blocks:
            return self._own_start(modality, vectors)
        (first, last), *others = self.blocks[modality]
        placed = np.zeros((len(vectors), self.dim), np.float32)
        if not others:
            placed[:, first:last] = self._own_start(modality, vectors)
            return placed
        column = last - first
        here = vectors[:, :column].any(axis=1)
        placed[here, first:last] = self._own_start(modality, vectors[here, :column])
        for first, last in others:
            part = vectors[:, column : column + last - first]
            here = part.any(axis=1) & ~placed.any(axis=1)
            placed[here, first:last] = unit_rows(part[here])
            column += last - first
        return placed

    def alone(self, modality: Modality, placed: Float[np.ndarray, "n dim"]) -> Bool[np.ndarray, " n"]:
        """Return which vectors of the space find only their like, although others of their modality can be compared."""
        others = self.blocks.get(modality, ())[1:]
        if not others:
            return np.zeros(len(placed), bool)
        outside = np.ones(self.dim, bool)
        for block in others:
            outside[slice(*block)] = False
        return np.asarray(placed.any(axis=1) & ~placed[:, outside].any(axis=1))

    def _own_start(self, modality: Modality, vectors: Float[np.ndarray, "n embedding"]) -> Float[np.ndarray, "n width"]:
        kind = self.starts[self._require(modality)]
        if kind == "classes":
            return conse(
                vectors,
                weight=self.tensors["head.weight"],
                bias=self.tensors["head.bias"],
                names=self.tensors["names"],
            )
        unit = unit_rows(vectors)
        return unit_rows(unit - self.tensors["centre"]) if kind == "words" else unit

    def features(
        self, modality: Modality, vectors: Float[np.ndarray, "n embedding"], start: Float[np.ndarray, "n dim"]
    ) -> Float[np.ndarray, "n features"]:
        """Return the input of a learned map. Nothing in it depends on other rows, so statistics of several sources add up."""
        blocks = self.blocks.get(modality, ((0, self.dim),))  # all else is zero
        own = np.hstack([start[:, first:last] for first, last in blocks])
        if self.starts[self._require(modality)] == "classes":
            return np.hstack([unit_rows(vectors), np.float32(START_SHARE) * own])
        return own

    def place(self, modality: Modality, vectors: Float[np.ndarray, "n embedding"]) -> Float[np.ndarray, "n dim"]:
        """Return unit vectors of embeddings in the space: by the learned map where there is one, else the start.

        A row of zeros, in which an encoder recognised nothing, has no place: it stays zero and is near to nothing.
        """
        placed = self.start(modality, vectors)
        learned = self.map_of(modality)
        if learned is not None:
            placed = learned.place(self.features(modality, vectors, placed), placed)
        placed[~vectors.any(axis=1)] = 0
        return placed

    def map_of(self, modality: Modality) -> LearnedMap | None:
        """Return the map that places a modality: its own, or else one that leads what it could be compared with away.

        So videos follow the pictures of their encoder to the texts that these were aligned with, and stay comparable.
        """
        if modality in self.maps or modality not in self.blocks:
            return self.maps.get(modality)
        alike = (self.blocks[modality], self.starts[modality])
        return next(
            (
                part
                for other, part in self.maps.items()
                if (self.blocks[other], self.starts[other]) == alike and self._end(part) not in self.blocks[modality]
            ),
            None,
        )

    def comparable(self, vector: Float[np.ndarray, " dim"]) -> tuple[Modality, ...]:
        """Return the modalities that a vector of the space can be compared with: those that share a block with it."""
        reached = {block for block in self._every_block if vector[slice(*block)].any()}
        return tuple(name for name in self.modalities if not self.blocks or reached & self._reach(name))

    def apart(self) -> tuple[tuple[Modality, Modality], ...]:
        """Return the pairs of modalities that cannot be compared until a map is learned from items that have both."""
        pairs = combinations(self.modalities if self.blocks else (), 2)
        return tuple((one, other) for one, other in pairs if not self._reach(one) & self._reach(other))

    def notes(self, collection: Path, present: Iterable[str]) -> tuple[str, ...]:
        """Return a sentence on which modalities can be compared with which, and what changes it; none where all can be.

        Args:
            collection: whose space it is, for the command.
            present: modalities that it has files of; beside these only text matters, which queries are made of.
        """
        names = [name for name in MODALITIES if name in self.modalities and name in {*present, "text"}]
        every = {frozenset(pair) for pair in self.apart()}
        apart = [pair for pair in combinations(names, 2) if frozenset(pair) in every]
        if not apart:
            return ()
        groups: list[tuple[Modality, ...]] = []  # the largest in which all can be compared
        for group in (group for size in range(len(names), 0, -1) for group in combinations(names, size)):
            if not {*apart} & {*combinations(group, 2)} and not any({*group} <= {*larger} for larger in groups):
                groups.append(group)
        said = [f"{' and '.join(one)} with {'each other' if len(one) > 1 else one[0]}" for one in groups]
        first, second = next((pair for pair in apart if "text" in pair), apart[0])
        until = f"until chiasm align {collection} --pairs {first},{second} has learned from {MIN_PAIRS} items or more that have both"
        return (f"only these can be compared: {', '.join(said)}, {until}",)

    def meets(self, vector: Float[np.ndarray, " dim"]) -> tuple[bool, bool]:
        """Return whether a vector can be compared with vectors that are not `alone`, and with those that are."""
        alone = {block for own in self.blocks.values() for block in own[1:]}
        reached = [block in alone for block in self._every_block if vector[slice(*block)].any()]
        return not all(reached) or not self.blocks, any(reached)

    def _reach(self, modality: Modality) -> set[Block]:
        """Return the blocks that vectors of a modality are not zero in: its own, and the one that a map leads to."""
        learned = self.map_of(modality)
        if learned is None:
            return set(self.blocks[modality])
        return {self._end(learned)} | (set(self.blocks[modality]) if learned.blend < 1 else set())

    def _end(self, learned: LearnedMap) -> Block:
        """Return the block that a map leads to."""
        weight = np.abs(learned.weight)
        return max(self._every_block, key=lambda block: float(weight[:, slice(*block)].sum()))

    @cached_property
    def _every_block(self) -> tuple[Block, ...]:
        return tuple(sorted({block for own in self.blocks.values() for block in own}))

    def embed(self, media: Sequence[Media], encoders: Sequence[Encoder]) -> Float[np.ndarray, "n dim"]:
        """Return unit vectors of opened media (e.g. queries) in the space.

        Raises:
            SpaceError: a modality that the space lacks, another encoder than the space was made with, or a medium in
                which its encoder finds nothing.
        """
        result = np.empty((len(media), self.dim), np.float32)
        rows: dict[Modality, list[int]] = {}
        for row, medium in enumerate(media):
            rows.setdefault(medium.modality, []).append(row)
        for modality, own in rows.items():
            encoder = self.encoder(modality, encoders)
            vectors = encoder.encode_queries([media[row] for row in own]).vectors
            if not vectors.any(axis=1).all():
                raise SpaceError(f"{encoder.name} found nothing in the {modality} that it can embed")
            result[own] = self.place(modality, vectors)
        return result

    def fuses(self, encoders: Sequence[Encoder]) -> bool:
        """Return whether one encoder takes pictures and words, and both as one input."""
        if not {"image", "text"} <= self.fingerprints.keys():
            return False
        return self.fingerprints["image"] == self.fingerprints["text"] and self.encoder("text", encoders).fuses

    def embed_fused(
        self, pairs: Sequence[tuple[Image, Text]], encoders: Sequence[Encoder]
    ) -> Float[np.ndarray, "pairs dim"]:
        """Return unit vectors of pictures with words, each pair as one input of the encoder of both.

        They stand where texts do: maps lead to these, and were not learned for such vectors.
        """
        return self.place("text", self.encoder("text", encoders).encode_fused(pairs))

    def encoder(self, modality: Modality, encoders: Sequence[Encoder]) -> Encoder:
        """Return the encoder of a modality among several, checked against the space.

        Raises:
            SpaceError: the space lacks the modality, there is no encoder of it, or it is another than the space's.
        """
        self._require(modality)
        for encoder in encoders:
            if modality in encoder.modalities:
                if encoder.fingerprint != self.fingerprints[modality]:
                    raise SpaceError(
                        f"the space {self.name!r} was made with another version of the {modality} encoder "
                        f"({self.fingerprints[modality]}, now {encoder.fingerprint}). Run chiasm add again with all "
                        "paths, so that the files are embedded anew"
                    )
                return encoder
        raise SpaceError(f"the space {self.name!r} knows {modality}, but its encoder is not installed here")

    def _require(self, modality: Modality) -> Modality:
        if modality not in self.fingerprints:
            raise SpaceError(
                f"the space {self.name!r} has {', '.join(self.modalities)}, not {modality}. docs/encoders.md names encoders "
                f"that take {modality}: add the files to a new collection with chiasm add --encoder NAME"
            )
        return modality

    # ------------------------------------------------------------------------------------------------ learn and keep

    def with_maps(self, name: str, maps: Mapping[Modality, LearnedMap], *, about: Mapping[str, Any]) -> Space:
        """Return the same space with learned maps, under another name.

        Args:
            name: of the new space, and of its folder.
            maps: modality -> its map. One with a share of 0 takes the modality back to its start.
            about: numbers on how they were learned.

        Raises:
            SpaceError: the name cannot be that of a folder.
        """
        if not name or Path(name).name != name or name.startswith("."):
            raise SpaceError(f"{name!r} cannot name a space: it is the name of its folder, too. Use letters and digits")
        moving = {modality: part for modality, part in {**self.maps, **maps}.items() if part.blend > 0}
        return replace(self, name=name, maps=moving, created=_now(), about=dict(about))

    def _all_tensors(self) -> dict[str, Float[np.ndarray, "..."]]:
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}
        for modality, part in self.maps.items():
            tensors[f"map.{modality}.weight"] = np.ascontiguousarray(part.weight)
            tensors[f"map.{modality}.bias"] = np.ascontiguousarray(part.bias)
            if part.kernel is not None:
                tensors[f"map.{modality}.centres"] = np.ascontiguousarray(part.kernel.centres)
                tensors[f"map.{modality}.width"] = np.array([part.kernel.width])
        return tensors

    def save(self, folder: Path) -> None:
        """Write the space into a folder, as `maps.json` and `maps.safetensors`.

        Raises:
            OSError: the folder cannot be written.
        """
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "created": self.created,
            "dim": self.dim,
            "digest": self.digest,
            "fingerprints": dict(self.fingerprints),
            "starts": dict(self.starts),
            "blocks": dict(self.blocks),
            "classes": self.classes,
            "blends": {modality: part.blend for modality, part in self.maps.items()},
            "about": dict(self.about),
        }
        folder.mkdir(parents=True, exist_ok=True)
        write_arrays(folder / f"{FILES}.safetensors", self._all_tensors())
        write_object(folder / f"{FILES}.json", header)

    def _check(self) -> None:
        """Refuse arrays that do not fit together: the folder may be a stranger's.

        Raises:
            ValueError: says which.
        """
        if not 0 < self.dim <= MOST_DIMENSIONS:
            raise ValueError(f"vectors of {self.dim} numbers")
        expected: dict[str, tuple[int | None, ...]] = {}
        if self.blocks and set(self.blocks) != set(self.starts):
            raise ValueError(f"blocks are of {', '.join(self.blocks)}, not of all modalities")
        for modality, kind in self.starts.items():
            blocks = self.blocks.get(modality, ((0, self.dim),))
            if not blocks:
                raise ValueError(f"{modality} has no block")
            for first, last in blocks:
                if not 0 <= first < last <= self.dim:
                    raise ValueError(f"a block of {modality} goes from {first} to {last} of {self.dim}")
            width = blocks[0][1] - blocks[0][0]
            if kind == "classes":
                expected |= {"names": (None, width), "head.weight": (None, len(self.tensors["names"]))}
                expected["head.bias"] = (len(self.tensors["names"]),)
            elif kind == "words":
                expected["centre"] = (width,)
            elif kind != "identity":
                raise ValueError(f"{modality} starts by {kind!r}")
        for modality, part in self.maps.items():
            self._require(modality)
            features = None if part.kernel is None else len(part.kernel.centres)
            expected |= {f"map.{modality}.weight": (features, self.dim), f"map.{modality}.bias": (self.dim,)}
            if not 0 <= part.blend <= 1 or (part.kernel is not None and not part.kernel.width > 0):
                raise ValueError(f"the map of {modality} has a share of {part.blend}")
        tensors = self._all_tensors()
        for name, shape in expected.items():
            own = tensors[name].shape
            if len(own) != len(shape) or any(b not in (a, None) for a, b in zip(own, shape, strict=True)):
                raise ValueError(f"{name} has shape {own}")
        if any(tensor.dtype.kind != "f" or not np.isfinite(tensor).all() for tensor in tensors.values()):
            raise ValueError("arrays hold values that are not finite numbers")

    @classmethod
    def load(cls, folder: Path) -> Space:
        """Read a space that `save` wrote.

        Raises:
            SpaceError: there is none, it is damaged, or of another format version.
        """
        try:
            header = read_object(folder / f"{FILES}.json")
            version = (header.get("format"), header.get("format_version"))
            if version != (FORMAT, FORMAT_VERSION):
                raise SpaceError(
                    f"it is {version[0]!r} version {version[1]!r}; this chiasm reads {FORMAT} version {FORMAT_VERSION}"
                )
            check_fields(
                header,
                name=str,
                created=str,
                dim=int,
                digest=str,
                fingerprints=dict,
                starts=dict,
                blocks=dict,
                blends=dict,
                about=dict,
                classes=str,
            )
            check_fields(header["starts"], **dict.fromkeys(header["fingerprints"], str))
            check_fields(header["blocks"], **dict.fromkeys(header["blocks"], list))
            check_fields(header["blends"], **dict.fromkeys(header["blends"], (int, float)))
            tensors = read_arrays(folder / f"{FILES}.safetensors")
            space = cls(
                name=header["name"],
                dim=header["dim"],
                fingerprints=header["fingerprints"],
                starts=header["starts"],
                blocks={
                    name: tuple((int(first), int(last)) for first, last in own)
                    for name, own in header["blocks"].items()
                },
                maps={modality: _map_of(modality, blend, tensors) for modality, blend in header["blends"].items()},
                tensors=tensors,
                classes=header["classes"],
                created=header["created"],
                about=header["about"],
            )
            digest = space.digest
            if digest == header["digest"]:
                space._check()
        except DAMAGE as error:
            raise SpaceError(f"{folder} is damaged, or no space ({type(error).__name__}: {error}). {_AGAIN}") from error
        if digest != header["digest"]:
            raise SpaceError(
                f"{folder} is damaged, or of a chiasm that places vectors differently: its digest is {digest} and "
                f"should be {header['digest']}. {_AGAIN}"
            )
        return space


_AGAIN = "Delete the folder: the start is rebuilt automatically, anything else by chiasm align"


def _map_of(modality: str, blend: float, tensors: dict[str, Float[np.ndarray, "..."]]) -> LearnedMap:
    """Take the map of a modality out of the tensors of a space."""
    own = {name: tensors.pop(f"map.{modality}.{name}") for name in ("weight", "bias")}
    centres, width = (tensors.pop(f"map.{modality}.{name}", None) for name in ("centres", "width"))
    kernel = None if centres is None or width is None else GaussianKernel(centres, float(width[0]))
    return LearnedMap(own["weight"], own["bias"], blend, kernel)


def start_space(encoders: Sequence[Encoder], *, name: str = "start") -> Space:
    """Return the space that needs no paired data.

    What one joint encoder takes can be compared as it is. With a text encoder of its own space and an image classifier,
    everything goes through words: texts and transcripts by their embeddings, images by ConSE over the class names. The
    mean of the class names is subtracted on both sides, since it says nothing about which class it is. What has no such
    bridge gets a block of its own, and is compared with nothing else until `align` has learned from pairs.

    Args:
        encoders: of several that take a modality, the first one has it.
        name: of the space.

    Raises:
        SpaceError: there is no encoder.
    """
    owner = first_of(encoders)
    if not owner:
        raise SpaceError("a space needs at least one encoder; got none")
    fingerprints = {modality: encoder.fingerprint for modality, encoder in owner.items()}
    groups: dict[str, list[Modality]] = {}  # by vector space, that of texts first
    for modality in sorted(owner, key=lambda modality: modality != "text"):
        groups.setdefault(owner[modality].parts[0][0], []).append(modality)
    starts: dict[Modality, StartKind] = dict.fromkeys(owner, "identity")
    tensors: dict[str, Float[np.ndarray, "..."]] = {}
    key = ""
    joined = [*groups.values()]
    if "text" in owner and len(joined) > 1:
        heads = {modalities[0]: owner[modalities[0]].class_head() for modalities in joined[1:]}
        for modality, head in heads.items():
            if head is not None and not tensors:
                text = owner["text"]
                key = fingerprint(text.fingerprint, *NAME_TEMPLATES, *head.names)
                embedded = _embed_names(head.names, text, key)
                centre = embedded.mean(axis=0)
                tensors |= {"head.weight": head.weight, "head.bias": head.bias}
                tensors |= {"centre": centre, "names": unit_rows(embedded - centre)}
                bridged = next(modalities for modalities in joined if modality in modalities)
                starts.update(dict.fromkeys(joined[0], "words"))
                starts.update(dict.fromkeys(bridged, "classes"))
                joined = [joined[0] + bridged, *(one for one in joined[1:] if one is not bridged)]
    blocks: dict[Modality, tuple[Block, ...]] = {}
    dim = 0
    for modalities in joined:
        width = owner[modalities[0]].parts[0][1]
        blocks |= dict.fromkeys(modalities, ((dim, dim + width),))
        dim += width
    alone: dict[str, Block] = {}
    for modality, encoder in owner.items():
        for space, width in encoder.parts[1:]:
            if space not in alone:
                alone[space] = dim, dim + width
                dim += width
            blocks[modality] += (alone[space],)
    in_order: dict[Modality, StartKind] = {modality: starts[modality] for modality in owner}
    several = blocks if len(joined) + len(alone) > 1 else {}
    return Space(name, dim, fingerprints, in_order, tensors, key, blocks=several, created=_now())


def _embed_names(names: Sequence[str], text: Encoder, key: str) -> Float[np.ndarray, "classes dim"]:
    """Return unit vectors of class names. Thousands of phrases take seconds, so they are embedded once per machine."""

    def embed(folder: Path) -> dict[str, str]:
        write_arrays(folder / "names.safetensors", {"names": _mean_of_phrases(names, text)})
        return {"text encoder": text.name, "fingerprint": text.fingerprint}

    folder, _ = make_once("names", text.name, key, embed)
    embedded: Float[np.ndarray, "classes dim"] = read_arrays(folder / "names.safetensors")["names"]
    return embedded


def _mean_of_phrases(names: Sequence[str], text: Encoder) -> Float[np.ndarray, "names dim"]:
    phrases = [Text(template.format(name)) for template in NAME_TEMPLATES for name in names]
    vectors = unit_rows(text.encode(phrases).vectors).reshape(len(NAME_TEMPLATES), len(names), -1)
    return unit_rows(vectors.sum(axis=0))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
