"""From a collection to arrays: pairs of files of one item, and labelled items.

The last place that knows files and items; what comes out can be learned from and measured without either.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from chiasm import encoders
from chiasm.alignment.pairs import Pairs
from chiasm.encoders.base import Encoder, fingerprints_of, first_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, LabelError, SpaceError
from chiasm.files import digest_text, one_form
from chiasm.recognition import ModalityArrays
from chiasm.space import Space
from chiasm.splits import class_name, merge_groups, near_duplicate_groups
from chiasm.store.collection import Collection, Vectors
from chiasm.types import MODALITIES, Modality, Scalar

MOST_FOR_DUPLICATES = 20_000  # items: the search for near-duplicates takes the square of their number


class NoPairsError(SpaceError):
    """No item of a collection has both of two modalities."""


def sides_of(space: Space, pairs: tuple[Modality, Modality]) -> tuple[Modality, Modality]:
    """Return the modality that a map is learned for, and the anchor that it is brought to.

    Text is the anchor where it is one of the two, else speech where that goes by words, else what texts can be compared with
    where only one of the two can, else the second.

    Raises:
        SpaceError: not two modalities of the space.
    """
    first, second = pairs
    for modality in pairs:
        if modality not in MODALITIES:
            raise SpaceError(f"{modality!r} is not a modality. Pairs are two of {', '.join(MODALITIES)}")
        if modality not in space.modalities:
            raise SpaceError(f"the space {space.name!r} has {', '.join(space.modalities)}, not {modality}")
    if first == second:
        raise SpaceError(f"pairs are of two different modalities; got {first} twice")
    near_text = [name for name in pairs if space.blocks.get(name, ())[:1] == space.blocks.get("text")]
    anchor = "text" if "text" in pairs else near_text[0] if len(near_text) == 1 else second
    if "text" not in pairs and "audio" in pairs and space.starts["audio"] == "words":
        anchor = "audio"
    return (first if anchor == second else second), anchor


def pairs_of(
    collection: Collection, space: Space, pairs: tuple[Modality, Modality], *, where: str | None = None
) -> Pairs:
    """Return pairs of files of items that have both modalities; several files of one give every combination.

    Raises:
        SpaceError: not two modalities of the space.
        NoPairsError: no item has both.
    """
    moved, anchor = sides_of(space, pairs)
    found = {modality: collection.vectors(space.fingerprints[modality]) for modality in pairs}
    wanted = None if where is None else {str(row["id"]) for row in collection.items(where=where)}
    rows: dict[Modality, dict[str, list[int]]] = {modality: {} for modality in pairs}
    for modality in pairs:
        for number, (item, kind) in enumerate(zip(found[modality].items, found[modality].modalities, strict=True)):
            if kind == modality and (wanted is None or item in wanted):
                rows[modality].setdefault(item, []).append(number)
    both = [(a, b, item) for item in rows[moved] for a in rows[moved][item] for b in rows[anchor].get(item, ())]
    if not both:
        raise NoPairsError(
            f"no item has both {pairs[0]} and {pairs[1]}. Items come together by a manifest that lists both, or in a folder "
            "by equal file names (bird.png, bird.txt)"
        )
    left, right = np.array([a for a, _, _ in both]), np.array([b for _, b, _ in both])
    embeddings = found[moved].vectors[left]
    start = space.start(moved, embeddings)
    return Pairs(
        moved,
        anchor,
        tuple(item for _, _, item in both),
        space.features(moved, embeddings, start),
        start,
        space.start(anchor, found[anchor].vectors[right]),
        embeddings,
        tuple(found[moved].hashes[row] for row in left),
        tuple(found[anchor].hashes[row] for row in right),
        tuple(found[moved].slots[row] for row in left),
        tuple(found[anchor].slots[row] for row in right),
    )


@dataclass(frozen=True)
class Labelled:
    """Labelled items of a collection as arrays."""

    ids: tuple[str, ...]
    contents: tuple[str, ...]  # of each item, a digest of its files; equal ones are the same to a recogniser
    arrays: ModalityArrays
    values: dict[str, tuple[Any, ...]]  # of the label columns, None where an item has none
    groups: Int[np.ndarray, " items"]  # items that must not stand on both sides of a split, see `labelled_items`
    alike: int  # items that are copies or near-duplicates of others
    unlabelled: ModalityArrays | None  # items with an embedding but without any value, None where there are none
    unlabelled_ids: tuple[str, ...]
    fingerprints: dict[Modality, str]
    media: tuple[dict[Modality, str], ...]  # of each item, its first file or inline text by modality

    @property
    def labels(self) -> Shaped[np.ndarray, " items"]:
        """The values of the only label column, as names of classes."""
        (values,) = self.values.values()
        return np.array([class_name(value) for value in values])

    def take(self, rows: Int[np.ndarray, " rows"]) -> Labelled:
        """Return some of the items."""

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows)

        return replace(
            self,
            ids=pick(self.ids),
            contents=pick(self.contents),
            arrays=self.arrays.take(rows),
            values={column: pick(values) for column, values in self.values.items()},
            groups=self.groups[rows],
            media=pick(self.media),
        )


@dataclass(frozen=True)
class Embedded:
    """Embeddings of items by modality; of several files of one modality the mean."""

    arrays: dict[Modality, Float[np.ndarray, "items dim"]]
    present: dict[Modality, Bool[np.ndarray, " items"]]
    hashes: dict[Modality, list[str]]  # of an item's first file; "" where it has none

    def contents(self, modalities: Sequence[Modality], rows: Int[np.ndarray, " rows"]) -> tuple[str, ...]:
        """Return a digest of the files of some modalities for each of some items.

        What an item lacks does not count: whether others have it must not change how the item is known again.
        """
        return tuple(
            digest_text(str([own for modality in modalities if (own := self.hashes[modality][row])])) for row in rows
        )


def embedded_items(collection: Collection, ids: Sequence[str], fingerprints: Mapping[Modality, str]) -> Embedded:
    """Return embeddings of some items of a collection, in their order; see `means_by_item`."""
    return means_by_item({modality: collection.vectors(one) for modality, one in fingerprints.items()}, ids)


def means_by_item(vectors: Mapping[Modality, Vectors], ids: Sequence[str]) -> Embedded:
    """Return the mean embedding of each item by modality; rows of items that lack a modality are zero.

    Args:
        vectors: of whole files, by modality; those of other modalities or items among them are left out.
        ids: of the items, in the order of the rows.
    """
    rows = {item: number for number, item in enumerate(ids)}
    means = Embedded({}, {}, {})
    for modality, own in vectors.items():
        use = [
            number
            for number, (item, kind) in enumerate(zip(own.items, own.modalities, strict=True))
            if kind == modality and item in rows
        ]
        owners = np.array([rows[own.items[number]] for number in use], dtype=int)
        counts = np.bincount(owners, minlength=len(ids))
        total = np.zeros((len(ids), own.vectors.shape[1]), np.float32)
        np.add.at(total, owners, own.vectors[use])
        first = [""] * len(ids)
        for number in reversed(use):
            first[rows[own.items[number]]] = own.hashes[number]
        means.arrays[modality] = total / np.maximum(counts, 1)[:, None].astype(np.float32)
        means.present[modality] = counts > 0
        means.hashes[modality] = first
    return means


def modality_arrays(
    found: Embedded, space: Space, modalities: Sequence[Modality], rows: Int[np.ndarray, " rows"] | None = None
) -> ModalityArrays:
    """Return embeddings of items, with their vectors in a space beside them or, where that says all that they do, instead.

    What cannot be compared with texts in the space, and so not with names of classes, has its embeddings alone.

    Args:
        found: the embeddings.
        space: that gives the shared vectors: a start, or one that was learned from other contents than these.
        modalities: which of them.
        rows: which items. Default: all.
    """
    vectors: dict[Modality, Float[np.ndarray, "items _"]] = {}
    present: dict[Modality, Bool[np.ndarray, " items"]] = {}
    shared: dict[Modality, Float[np.ndarray, "items dim"]] = {}
    block = shared_block(space)
    for modality in modalities:
        own = found.arrays[modality] if rows is None else found.arrays[modality][rows]
        has = found.present[modality] if rows is None else found.present[modality][rows]
        present[modality] = has
        if modality in space.starts:
            placed = np.zeros((len(own), block[1] - block[0]), np.float32)
            if has.any():
                placed[has] = space.place(modality, own[has])[:, slice(*block)]
            if space.blocks.get(modality, (block,))[0] == block or placed.any():
                shared[modality] = placed
        is_own = modality in shared and space.starts[modality] != "classes" and space.map_of(modality) is None
        if not is_own or len(space.blocks.get(modality, ())) > 1:
            vectors[modality] = own
    return ModalityArrays(vectors, present, shared)


def shared_block(space: Space) -> tuple[int, int]:
    """Return the columns of a space in which texts are, else most modalities: those that recognition shares."""
    blocks = {modality: own[0] for modality, own in space.blocks.items()} or {"text": (0, space.dim)}
    return blocks.get("text") or max(blocks.values(), key=[*blocks.values()].count)


def labelled_items(
    collection: Collection,
    networks: Sequence[Encoder],
    space: Space,
    labels: Sequence[str],
    *,
    modalities: Sequence[Modality] | None = None,
    where: str | None = None,
    group: str | None = None,
    alike: float = 0.97,
    corrections: Mapping[str, Mapping[str, Scalar]] | None = None,
) -> Labelled:
    """Return the items that have an embedding and a value in at least one of the label columns.

    Items are of one group if they have the same picture, sound or video (or nothing but the same text), if these are
    near-duplicates by their embeddings (looked for among up to 20,000 items), or if they have the same value in the group
    column.

    Args:
        collection: where they are.
        networks: its encoders.
        space: of the collection, for vectors that modalities share.
        labels: the columns, however their accents are composed. What their values mean is left to the caller.
        modalities: which embeddings to use. Default: all that the items have.
        where: only items that meet this condition.
        group: a column whose values keep items together, such as the recording or patient they are of.
        alike: cosine of two embeddings from which they count as near-duplicates; above 1 none do.
        corrections: by column and item, labels that replace those of the collection; None: keep the collection's.

    Raises:
        LabelError: no such column or modality, or no such items.
    """
    labels = [one_form(name) for name in labels]
    group = None if group is None else one_form(group)
    columns = collection.columns()
    for name in (*labels, *(() if group is None else (group,))):
        if name not in columns:
            raise LabelError(f"{collection.path} has no column {name!r}. Its columns: {', '.join(columns) or 'none'}")
    fingerprints = fingerprints_of(networks)
    for modality in modalities or ():
        if modality not in fingerprints:
            raise LabelError(f"the encoder {collection.encoder!r} has {', '.join(fingerprints)}, not {modality}")
    wanted = {m: f for m, f in fingerprints.items() if modalities is None or m in modalities}
    rows = collection.items(where=where)
    for column, labels_of_items in (corrections or {}).items():
        for row in rows:
            if labels_of_items.get(row["id"]) is not None:
                row[column] = labels_of_items[row["id"]]
    found = embedded_items(collection, [str(row["id"]) for row in rows], wanted)
    usable = np.any([*found.present.values()], axis=0)
    given = {name: [cell_value(row[name]) for row in rows] for name in labels}
    labelled = np.array([any(given[name][i] is not None for name in labels) for i in range(len(rows))], dtype=bool)
    keep = np.flatnonzero(usable & labelled)
    if not len(keep):
        raise LabelError(
            f"no item has both a value in {' or '.join(map(repr, labels))} and an embedding of {' or '.join(wanted)}: {len(rows)} items, "
            f"{int(labelled.sum())} with a value, {int(usable.sum())} with an embedding"
        )
    used = tuple(modality for modality in wanted if found.present[modality][keep].any())
    others = np.flatnonzero(~labelled & np.any([found.present[modality] for modality in used], axis=0))
    groups = _same_content(found.hashes, keep)
    if len(keep) <= MOST_FOR_DUPLICATES and alike <= 1:
        for modality in used:
            if modality != "text":  # equal captions are often the name of the class
                has = np.flatnonzero(found.present[modality][keep])
                near = np.arange(len(keep)) + len(keep)
                near[has] = near_duplicate_groups(found.arrays[modality][keep[has]], threshold=alike)
                groups = merge_groups(groups, near)
    mates = int((np.bincount(groups)[groups] > 1).sum())
    if group is not None:
        values = [rows[row][group] for row in keep]
        groups = merge_groups(
            groups, np.array([f"value {value}" if value is not None else f"item {i}" for i, value in enumerate(values)])
        )
    return Labelled(
        tuple(str(rows[row]["id"]) for row in keep),
        found.contents(used, keep),
        modality_arrays(found, space, used, keep),
        {name: tuple(given[name][row] for row in keep) for name in labels},
        groups,
        mates,
        modality_arrays(found, space, used, others) if len(others) else None,
        tuple(str(rows[row]["id"]) for row in others),
        {modality: wanted[modality] for modality in used},
        tuple({modality: files[0] for modality in MODALITIES if (files := rows[row][modality])} for row in keep),
    )


def label_columns(collection: Collection, label: str | Sequence[str]) -> list[str]:
    """Return the columns that are named, each once: one, several, or several in one text with commas between.

    Raises:
        LabelError: none is named.
    """
    names = [one_form(name) for name in ([label] if isinstance(label, str) else label)]
    if not names:
        raise LabelError("no column is named: say which one is to be learned (label)")
    if len(names) == 1 and names[0] not in collection.columns():
        names = [name.strip() for name in names[0].split(",")]
    return list(dict.fromkeys(names))


Sources: TypeAlias = str | Path | Sequence[str | Path] | None
"""One collection, several or none."""


def each_source(sources: Sources) -> tuple[str | Path, ...]:
    """Return the collections that are named as sources.

    Example:
        >>> each_source("other"), each_source(None)
        (('other',), ())
    """
    if sources is None:
        return ()
    return (sources,) if isinstance(sources, str | Path) else tuple(sources)


def labelled_source(
    source: str | Path, label: str, fingerprints: Mapping[Modality, str], space: Space, device: Device
) -> tuple[Collection, Labelled]:
    """Return another collection and its labelled items.

    Args:
        source: the collection.
        label: the column.
        fingerprints: of the encoders by which it has to be embedded; other modalities are left out.
        space: that gives the shared vectors.
        device: of its encoders.

    Raises:
        ChiasmError: it is embedded by others.
        LabelError: no item has a label.
    """
    opened = Collection.open(source)
    networks = encoders.resolve(opened.encoder, device=device)
    refuse_other_encoders(f"the source {source}", fingerprints_of(networks), "target", fingerprints)
    return opened, labelled_items(opened, networks, space, [label], modalities=tuple(fingerprints))


def target_items(
    target: str | Path,
    source: Collection,
    networks: Sequence[Encoder],
    space: Space,
    modalities: Sequence[Modality] | None,
    device: Device,
) -> tuple[Collection, tuple[str, ...], ModalityArrays]:
    """Return a collection, and its items without labels in the modalities that its source is to be learned in.

    Args:
        target: the collection.
        source: the labelled collection.
        networks: its encoders.
        space: its start space.
        modalities: of the source. Default: all of which the target has items.
        device: of the target's encoders.

    Raises:
        ChiasmError: it is the source itself, embedded otherwise, or has no items with such a modality.
    """
    opened = Collection.open(target)
    if opened.path.resolve() == source.path.resolve():
        raise ChiasmError(f"{target} is the collection itself: a target is another one, of another domain")
    known = fingerprints_of(networks)
    theirs = fingerprints_of(encoders.resolve(opened.encoder, device=device))
    wanted = {modality: known[modality] for modality in modalities or known if modality in known}
    refuse_other_encoders(f"the target {target}", theirs, "source", {m: f for m, f in wanted.items() if m in theirs})
    ids = opened.ids()
    found = embedded_items(opened, ids, {modality: known[modality] for modality in wanted if modality in theirs})
    used = [modality for modality, has in found.present.items() if has.any()]
    lacking = [modality for modality in modalities or () if modality not in used]
    if not used or lacking:
        raise ChiasmError(
            f"the target {target} has no embedding of {' or '.join(lacking or wanted)} among its {len(ids)} items. Add some, or "
            "learn from modalities that it has"
        )
    has_any = np.flatnonzero(np.any([found.present[modality] for modality in used], axis=0))
    return opened, tuple(ids[row] for row in has_any), modality_arrays(found, space, used, has_any)


def refuse_other_encoders(
    what: str, theirs: Mapping[Modality, str], other: str, wanted: Mapping[Modality, str]
) -> None:
    """Refuse embeddings of other encoders than those that are wanted.

    Raises:
        ChiasmError: names the modality and both encoders.
    """
    for modality, fingerprint in wanted.items():
        if theirs.get(modality) != fingerprint:
            raise ChiasmError(
                f"{what} has {modality} embeddings of another encoder ({theirs.get(modality, 'none')}, the {other} "
                f"{fingerprint}). Embed it like the {other} (chiasm reembed)"
            )


def taught_by(collection: Collection, networks: Sequence[Encoder], ids: Sequence[str]) -> str:
    """Return a sentence on how many of some items an encoder was trained further on, told by the content of their files.

    It begins with a full stop, and is empty where there are none.
    """
    tuned = {modality: one for modality, one in first_of(networks).items() if one.learned_from}
    hashes = embedded_items(collection, ids, {modality: one.fingerprint for modality, one in tuned.items()}).hashes
    taught = sum(
        any(hashes[modality][row] in one.learned_from for modality, one in tuned.items()) for row in range(len(ids))
    )
    if not taught:
        return ""
    return (
        f". The encoder itself has learned from {taught} of the {len(ids)} items: these numbers are too high, those of finetune are "
        "not"
    )


def cell_value(value: Any) -> Any:
    """Return the value of a label column, None where it is blank."""
    return None if value is None or str(value).strip() == "" else value


def class_names(
    labels: Sequence[str], space: Space, networks: Sequence[Encoder], arrays: ModalityArrays
) -> dict[str, Float[np.ndarray, " dim"]]:
    """Return the embedded names of classes in the vectors that items share, for those whose label is a word.

    Empty where the space has no text, or no modality of the items can be compared with it.

    `_`, `-` and `/` are read as blanks. Labels without two letters in a row (numbers, codes) are left out.
    """
    if "text" not in space.modalities or not arrays.shared:
        return {}
    words = {label: " ".join(re.sub(r"[_\-/]+", " ", label).lower().split()) for label in labels}
    named = [label for label in labels if re.search(r"[^\W\d_]{2}", words[label])]
    if not named:
        return {}
    vectors = space.embed_names([words[label] for label in named], networks)[:, slice(*shared_block(space))]
    return dict(zip(named, vectors, strict=True))


def _same_content(hashes: Mapping[Modality, list[str]], keep: Int[np.ndarray, " items"]) -> Int[np.ndarray, " items"]:
    """Number items so that those with the same picture, sound or video, or nothing but the same text, are equal.

    Equal captions alone do not bind items together: they are often the name of the class.
    """
    keys = []
    for row in keep:
        media_ = tuple(hashes[modality][row] for modality in hashes if modality != "text")
        keys.append(str(media_) if any(media_) else hashes["text"][row])
    groups: Int[np.ndarray, " items"] = np.unique(keys, return_inverse=True)[1].ravel()
    return groups
