"""Another encoder takes over a collection: embed everything again beside what counts, then switch at once.

See `store.collection` for the tables, and `Generation` for the switch.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from chiasm.encoders.base import Encoder, first_of
from chiasm.encoders.licence import models_of
from chiasm.errors import CollectionError
from chiasm.files import digest_text
from chiasm.media import Limits
from chiasm.store.add import tables_of, update
from chiasm.store.collection import FILES, ITEMS, SLOT, USABLE, Collection, Generation
from chiasm.store.ingest import COMMIT_ROWS, Progress, Run, file_stat
from chiasm.store.tables import join_columns
from chiasm.types import MODALITIES, FileOutcome, Item, Modality, Outcome, Source

_TEXT_FILES = (".txt", ".md")


@dataclass(frozen=True)
class ReembedReport:
    """The result of a run of `reembed_collection`. Files are those of the whole collection."""

    before: str  # the encoder that was replaced
    encoder: str  # the one that took over
    items: int
    counts: dict[str, int]  # files by outcome
    outcomes: tuple[FileOutcome, ...]  # those that are not ok, with reasons
    encoded: int  # embeddings computed in this run
    reused: int  # files whose embedding was there: of the same encoder, of a run that was cut off, of equal content
    lost: int  # files that had an embedding and have none now
    not_taken: dict[Modality, int]  # files that no network of the encoder takes, by modality
    seconds: float
    spaces: tuple[str, ...] = ()  # learned with the encoder before, and not in use any more
    notes: tuple[str, ...] = ()  # which modalities can be compared with which, where not all can

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON: outcomes as `chiasm add` gives them."""
        outcomes = [{"path": one.path, "outcome": one.outcome.value, "reason": one.reason} for one in self.outcomes]
        return {**asdict(self), "outcomes": outcomes, "spaces": list(self.spaces), "notes": list(self.notes)}


def reembed_collection(
    collection: Collection,
    encoder: str,
    networks: Sequence[Encoder],
    *,
    limits: Limits = Limits(),  # noqa: B008  # frozen
    on_progress: Callable[[Progress], None] | None = None,
    commit_rows: int = COMMIT_ROWS,
) -> ReembedReport:
    """Embed everything that a collection lists with another encoder, which then takes over.

    Until it does, everybody reads, searches and adds with the one before; what is added meanwhile is embedded before
    the switch. May be interrupted or killed at any point and run again. Embeddings of networks that both encoders have
    are taken as they are, also of files that are gone; other files that are gone lose theirs. Open the collection again
    to see the new state. A collection that has the encoder already, for instance since a run that was killed after the
    switch, stays as it is.

    Args:
        collection: that is moved over.
        encoder: name of the new encoder.
        networks: what it stands for; at most one a modality is used: the first that has it.
        limits: as for `chiasm.store.add.add_manifests`.
        on_progress: called after every file that is to be embedded.
        commit_rows: files a commit, at most.

    Raises:
        CollectionError: another encoder took over meanwhile, not one file can be embedded
            by the new one (nothing changes then), or the disk is full or cannot be written to.
        EncoderError: an encoder cannot be used at all; all that was embedded stays.
    """
    begin = time.monotonic()
    path = collection.path
    base = Generation.read(path)
    if base.encoder == encoder:
        return _nothing_to_do(collection)
    before = Collection(path, base.encoder, base)
    tag = digest_text(encoder)[:8]
    generation = Generation(encoder, base.number + 1, f"files-{base.number + 1}-{tag}")
    after = Collection(path, encoder, generation, replaces=base)
    encoders = first_of(networks)
    encoded = 0
    while True:
        seen = before.version
        with after.committing():
            _take_over_rows(before, after, encoders)
        run, _ = update(
            after,
            items_of(before),
            encoders,
            limits=limits,
            on_progress=on_progress,
            commit_rows=commit_rows,
            keep_missing=True,
        )
        encoded += run.encoded
        usable = run.counts[Outcome.OK] + run.counts[Outcome.DUPLICATE]
        with after.committing():
            if before.version != seen:  # something came meanwhile
                continue
            if not usable:
                raise CollectionError(_nothing_embedded(path, base.encoder, encoder, run))
            lost = len(_embedded_slots(before) - _embedded_slots(after))
            for name in (*tables_of(encoders), generation.files):
                after.tables.compact(name)
            _switch(after, encoders)
            break
    rows = after.tables.rows(generation.files, FILES, ["modality", "encoder"])
    untaken = rows.filter(pc.fill_null(pc.equal(rows["encoder"], ""), False))["modality"].to_pylist()
    return ReembedReport(
        before=base.encoder,
        encoder=encoder,
        items=after.count(),
        counts=dict(run.counts),
        outcomes=tuple(run.not_ok),
        encoded=encoded,
        reused=max(0, usable - encoded),
        lost=lost,
        not_taken=dict(Counter(untaken)),
        seconds=time.monotonic() - begin,
    )


def _nothing_to_do(collection: Collection) -> ReembedReport:
    files = collection.files()
    counts: Counter[str] = Counter(row["outcome"] for row in files)
    return ReembedReport(
        before=collection.encoder,
        encoder=collection.encoder,
        items=collection.count(),
        counts=dict(counts),
        outcomes=tuple(
            FileOutcome(row["path"] or row["item"], Outcome(row["outcome"]), row["reason"])
            for row in files
            if row["outcome"] != Outcome.OK
        ),
        encoded=0,
        reused=counts[Outcome.OK] + counts[Outcome.DUPLICATE],
        lost=0,
        not_taken={},
        seconds=0.0,
    )


def _take_over_rows(before: Collection, after: Collection, encoders: Mapping[Modality, Encoder]) -> None:
    """Copy the rows of files that were embedded, or refused, by a network that is used again, unless they are there."""
    rows = before.tables.rows(before.generation.files, FILES)
    present = pc.is_in(
        join_columns(rows, SLOT), value_set=join_columns(after.tables.rows(after.generation.files, FILES, SLOT), SLOT)
    )
    for modality, encoder in encoders.items():
        same = pc.and_(pc.equal(rows["encoder"], encoder.fingerprint), pc.equal(rows["modality"], modality))
        same = pc.and_not(pc.fill_null(same, False), present)
        if pc.any(same).as_py():
            after.tables.append(after.generation.files, rows.filter(same))


def items_of(collection: Collection) -> dict[str, Item]:
    """Return all items with their sources, as they were added."""
    written = {(row["item"], row["slot"]): (row["path"], row["hash"]) for row in collection.files()}

    def source(item: str, modality: Modality, number: int, value: str) -> Source:
        path, digest = written.get((item, f"{modality}/{number}"), ("", ""))
        inline = modality == "text" and value != path
        if inline and not (path is None and digest == digest_text(value)):  # not seen by an encoder yet
            inline = not _is_text_file(value)
        return Source(modality, text=value) if inline else Source(modality, path=value)

    return {
        str(row["id"]): Item(
            str(row["id"]),
            tuple(
                source(str(row["id"]), modality, number, value)
                for modality in MODALITIES
                for number, value in enumerate(row[modality] or ())
            ),
        )
        for row in collection.tables.rows("items", ITEMS, ["id", *MODALITIES]).to_pylist()
    }


def _is_text_file(value: str) -> bool:
    """Return whether a text that stands for itself or for a file is the path of one, as far as can be told."""
    path = Path(value)
    if "\n" in value or not path.is_absolute():
        return False
    return path.suffix.lower() in _TEXT_FILES or file_stat(value)[0] is not None


def _embedded_slots(collection: Collection) -> set[str]:
    """Return the joined items and slots of the files that have an embedding."""
    rows = collection.tables.rows(collection.generation.files, FILES, [*SLOT, "outcome"])
    usable = rows.filter(pc.is_in(rows["outcome"], value_set=pa.array(USABLE)))
    return set(join_columns(usable, SLOT).to_pylist())


def _switch(collection: Collection, encoders: Mapping[Modality, Encoder]) -> None:
    """Make the tables of this generation those that count, unless they do."""
    generation = collection.generation
    now = Generation.read(collection.path)
    if now.number == generation.number:  # another process did the same, and was faster
        return
    mine = {*tables_of(encoders), generation.files}
    replace(
        generation,
        since=datetime.now(UTC).isoformat(timespec="microseconds"),
        fingerprints={modality: encoder.fingerprint for modality, encoder in encoders.items()},
        models=models_of(encoders),
        replaced=tuple(sorted(set(collection.tables.names("embeddings-", "files")) - mine)),
        roots=now.roots,
    ).write(collection.path)


def _nothing_embedded(path: Path, before: str, encoder: str, run: Run) -> str:
    """Say why no encoder took over."""
    counts = ", ".join(f"{count} {name}" for name, count in sorted(run.counts.items()))
    first = f"; the first: {run.not_ok[0].path}: {run.not_ok[0].reason}" if run.not_ok else ""
    return (
        f"{path} stays with the encoder {before!r}: {encoder!r} could embed none of its files ({counts or 'it has none'}"
        f"{first}). Bring the files back to where they were added from, or take an encoder of their modalities"
    )
