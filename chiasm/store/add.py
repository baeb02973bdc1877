"""Add to a collection: store the items of manifests, embed what is missing, commit in between.

What is embedded already is found by path, size and time of change, or else by content, so that a run opens what changed
and embeds what is new. The order of writes that makes a run safe to kill is described in `store.collection`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chiasm.encoders.base import Encoder, first_of
from chiasm.media import Limits
from chiasm.store.collection import FILES, ITEMS, KEY, SLOT, USABLE, VECTORS, Collection, Vectors
from chiasm.store.ingest import COMMIT_ROWS, File, Parts, Progress, Run, files_of
from chiasm.store.items import store_items
from chiasm.store.manifest import Manifest
from chiasm.store.tables import SEPARATOR, join_columns, one_of
from chiasm.types import FileOutcome, Item, Modality, Outcome


@dataclass(frozen=True)
class AddReport:
    """The result of a run of `add_manifests`."""

    items: int  # in the collection, after the run
    counts: dict[str, int]  # files of this run's manifests by outcome, stored earlier or now
    outcomes: tuple[FileOutcome, ...]  # those that are not ok, with reasons
    encoded: int  # embeddings computed in this run
    unchanged: int  # files that were stored already and were not opened
    moved: int  # items whose files were found under other names, or in other folders that are added
    gone: tuple[str, ...]  # ids of items that the folders and tables of this run do not list any more
    pruned: int  # of these, how many were removed
    seconds: float
    outside: tuple[str, ...] = ()  # folders of files that a server does not give away: none that was named holds them
    notes: tuple[
        str, ...
    ] = ()  # e.g. that sounds have no words, or which modalities can be compared with which, where not all can


def add_manifests(
    collection: Collection,
    manifests: Sequence[Manifest],
    encoders: Sequence[Encoder],
    *,
    prune: bool = False,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    on_progress: Callable[[Progress], None] | None = None,
    commit_rows: int = COMMIT_ROWS,
) -> AddReport:
    """Store the items of manifests and embed whatever is not embedded yet.

    Files whose size and time of change are as stored are not opened; content that is embedded is not embedded again.
    Of files of the same content, the first is `ok` and the others are `duplicate`. Files that could not be read are
    tried again by every run. May be interrupted or killed at any point and run again: all that was committed stays.

    Items that the manifests no longer list are reported, and stay until they are removed. One whose files are missing, while
    a new item has the same contents, has moved: what people said about it follows. A file that lies in several of the folders
    that were ever added is one item, of the widest of them.

    Ids of folders and of tables without an id column belong to their source: if another source has used one, `~`
    and a hash of the source are added to it. Items of tables with an id column replace those of the same id. A column whose
    values are of several types becomes `float`, `timestamp` or `string`.

    Args:
        collection: where to store them.
        manifests: see `chiasm.store.manifest.read_manifest`.
        encoders: at most one a modality is used: the first that has it.
        prune: whether to remove items that the manifests no longer list. Those of a folder that cannot be read stay.
        limits: what is too large to open. With others than the usual ones, files that were too large are tried again.
        on_progress: called after every file.
        commit_rows: files a commit, at most.

    Raises:
        CollectionError: a metadata column cannot be stored; another encoder took over meanwhile; or the disk is full or
            cannot be written to.
        EncoderError: an encoder cannot be used at all.
    """
    begin = time.monotonic()
    stored = store_items(collection, manifests)
    items = stored.items
    run, plan = update(
        collection, items, first_of(encoders), limits=limits, on_progress=on_progress, commit_rows=commit_rows
    )
    pruned = collection.remove(stored.gone) if prune and stored.gone else 0
    if plan.pending or plan.lost or plan.untidy or stored.moved:
        with collection.committing():
            collection.tidy(items)
    for manifest in manifests:
        run.tally(manifest.outcomes)
    counts, outcomes = dict(run.counts), tuple(run.not_ok)
    seconds = time.monotonic() - begin
    moved = len(stored.moved)
    return AddReport(
        collection.count(),
        counts,
        outcomes,
        run.encoded,
        len(plan.unchanged),
        moved,
        stored.gone,
        pruned,
        seconds,
        notes=tuple(f"{count} {'file' if count == 1 else 'files'}: {remark}" for remark, count in run.remarks.items()),
    )


@dataclass(frozen=True)
class Plan:
    """The work that a collection needs for some items."""

    pending: list[File]  # not stored, or changed
    lost: list[str]  # joined keys of the slots that the items do not have any more
    unchanged: list[FileOutcome]  # of files that need not be opened
    owners: dict[str, tuple[str, str]]  # content hash -> the file that is ok; others are its duplicates
    known: dict[str, str]  # content hash -> fingerprint of the encoder whose vector of it is stored
    untidy: bool  # there are vectors that belong to no file


def update(
    collection: Collection,
    items: Mapping[str, Item],
    encoders: Mapping[Modality, Encoder],
    *,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    on_progress: Callable[[Progress], None] | None = None,
    commit_rows: int = COMMIT_ROWS,
    keep_missing: bool = False,
) -> tuple[Run, Plan]:
    """Embed what is missing of items that are stored, and leave vectors that are of no use any more.

    Args:
        collection: where the items are.
        items: by id.
        encoders: by modality.
        limits: as for `add_manifests`.
        on_progress: called after every file.
        commit_rows: files a commit, at most.
        keep_missing: whether files that are missing on disk keep the embeddings that they have.
    """
    with collection.committing():
        collection.claim(tables_of(encoders))
    plan = plan_of(collection, items, encoders, limits=limits, keep_missing=keep_missing)
    if plan.lost:
        with collection.committing():
            collection.tables.delete(collection.generation.files, SLOT, plan.lost)
    run = Run(
        collection.encoder,
        encoders,
        _InTables(collection, encoders),
        limits=limits,
        commit_rows=commit_rows,
        on_progress=on_progress,
        owners=plan.owners,
        known=plan.known,
    )
    run.tally(plan.unchanged)
    if plan.pending:
        run.execute(plan.pending)
    return run, plan


def tables_of(encoders: Mapping[Modality, Encoder]) -> list[str]:
    """Return the names of the tables that encoders write to."""
    own = [encoder.fingerprint for encoder in encoders.values()]
    tracks = [encoder.sound.fingerprint for encoder in encoders.values() if encoder.sound is not None]
    return sorted({f"embeddings-{fingerprint}" for fingerprint in (*own, *tracks)})


# ---------------------------------------------------------------------------------------------------------------- plan


def plan_of(
    collection: Collection,
    items: Mapping[str, Item],
    encoders: Mapping[Modality, Encoder],
    *,
    limits: Limits,
    keep_missing: bool,
) -> Plan:
    """Compare the files of items as they are on disk with what is stored of them; opens none."""
    fingerprints = {modality: encoder.fingerprint for modality, encoder in encoders.items()}
    rows = collection.tables.rows(collection.generation.files, FILES)
    keys = join_columns(rows, KEY)
    embedded = np.zeros(rows.num_rows, bool)
    untidy = False
    contents: dict[str, pa.Table] = {}
    for fingerprint in set(fingerprints.values()):
        parts = collection.tables.rows(f"embeddings-{fingerprint}", VECTORS, [*KEY, "modality", "start"])
        contents[fingerprint] = parts.filter(pc.is_null(parts["start"]))
        stored = join_columns(contents[fingerprint], KEY)
        has = pc.is_in(keys, value_set=stored)
        untidy |= len(stored) > (pc.sum(has).as_py() or 0)
        embedded |= pc.and_(has, pc.fill_null(pc.equal(rows["encoder"], fingerprint), False)).to_numpy()
    recorded = {
        (row["item"], row["slot"]): (row, has) for row, has in zip(rows.to_pylist(), embedded.tolist(), strict=True)
    }

    def holds(file: File, before: Mapping[str, Any], has_vector: bool) -> bool:
        """Return whether the row of a file is still right."""
        if file.text is not None:
            same = before["path"] is None and before["hash"] == file.hash
        else:
            same = (before["path"], before["size"], before["mtime_ns"]) == (file.path, file.size, file.mtime_ns)
            same = same or (keep_missing and file.size is None and before["path"] == file.path and has_vector)
        if not same or (before["outcome"] in USABLE and not has_vector):
            return False
        if before["outcome"] == Outcome.TOO_LARGE and limits != Limits():
            return False
        # What no encoder took, or another one, may be of use to the one that there is now.
        return before["encoder"] is None or before["encoder"] == fingerprints.get(before["modality"], "")

    files: list[tuple[File, Mapping[str, Any] | None]] = []  # with the row that is stored, if that is still right
    for item_id, item in items.items():
        for file in files_of(item_id, item):
            before, has_vector = recorded.pop((file.item, file.slot), (None, False))
            files.append((file, before if before is not None and holds(file, before, has_vector) else None))
    lost = [SEPARATOR.join(key) for key in recorded if key[0] in items]
    right = [row for row, _ in recorded.values() if row["item"] not in items]
    right += [row for _, row in files if row is not None]
    owners = {row["hash"]: (row["item"], row["slot"]) for row in right if row["outcome"] == Outcome.OK}
    pending: list[File] = []
    unchanged: list[FileOutcome] = []
    for file, row in files:
        if row is None or (row["outcome"] == Outcome.DUPLICATE and row["hash"] not in owners):
            pending.append(file)
        else:
            file.end(Outcome(row["outcome"]), row["reason"])
            unchanged.append(file.result)
    known = {
        digest: fingerprint
        for fingerprint, table in (contents.items() if pending else ())
        for digest, modality in zip(*(table[name].to_pylist() for name in ("hash", "modality")), strict=True)
        if fingerprints.get(modality) == fingerprint
    }
    return Plan(pending, lost, unchanged, owners, known, untidy)


# -------------------------------------------------------------------------------------------------------------- tables


class _InTables:
    """Puts the files of a run into the tables of a collection, and finds parts of content there."""

    def __init__(self, collection: Collection, encoders: Mapping[Modality, Encoder]) -> None:
        self._collection = collection
        self._encoders = {encoder.fingerprint: encoder for encoder in encoders.values()}

    def commit(self, files: Sequence[File]) -> None:
        """Write vectors first, then the rows that say they are there."""
        collection = self._collection
        with collection.committing():
            # What another process has removed since the plan stays removed.
            ids = collection.tables.rows("items", ITEMS, ["id"])["id"]
            mine = pa.array([file.item for file in files], pa.string())
            stored = set(ids.filter(pc.is_in(ids, value_set=mine)).to_pylist())
            files = [file for file in files if file.item in stored]
            embedded: dict[str, list[Vectors]] = {}
            # Sound tracks first: where the whole is stored, all of the content is.
            for place in (1, 0):
                for file in files:
                    for fingerprint, rows in file.parts[place : place + 1]:
                        embedded.setdefault(fingerprint, []).append(rows)
            for fingerprint, parts in embedded.items():
                collection.append_vectors(f"embeddings-{fingerprint}", Vectors.concatenate(parts))
            if files:
                outcomes = pa.Table.from_pylist([file.row() for file in files], schema=FILES)
                collection.tables.merge(collection.generation.files, SLOT, outcomes)

    def parts(self, contents: Mapping[str, str]) -> dict[str, Parts]:
        """Return all parts of contents by hash, those with the whole first; asked with hash -> fingerprint."""
        parts: dict[str, Parts] = {}
        for fingerprint, encoder in self._encoders.items():
            own = self._parts_in(fingerprint, [digest for digest, owner in contents.items() if owner == fingerprint])
            sound = encoder.sound
            tracks = self._parts_in(sound.fingerprint, own) if sound and sound is not encoder else {}
            parts |= {digest: rows + tracks.get(digest, ()) for digest, rows in own.items()}
        return parts

    def _parts_in(self, fingerprint: str, hashes: Iterable[str]) -> dict[str, Parts]:
        """Return the rows of contents in one table, by modality, those with the whole first."""
        chosen_hashes = sorted(hashes)
        if not chosen_hashes:
            return {}
        table = f"embeddings-{fingerprint}"
        rows = self._collection.tables.rows(table, VECTORS, condition=one_of("hash", chosen_hashes))
        if not rows.num_rows:
            return {}
        stored = Vectors.of_table(rows)
        # Files of the same content have the same rows, each its own: those of one of them are taken.
        first: dict[str, tuple[str, str]] = {}
        numbers: dict[tuple[str, Modality], list[int]] = {}
        for number, (item, slot, modality, digest) in enumerate(
            zip(stored.items, stored.slots, stored.modalities, stored.hashes, strict=True)
        ):
            if first.setdefault(digest, (item, slot)) == (item, slot):
                numbers.setdefault((digest, modality), []).append(number)
        parts: dict[str, Parts] = {}
        for (digest, _), chosen in numbers.items():
            part = (fingerprint, stored.take(np.array(chosen)))
            others = parts.get(digest, ())
            parts[digest] = (part, *others) if np.isnan(part[1].starts).any() else (*others, part)
        return parts
