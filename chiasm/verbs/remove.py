"""The verb `remove`: items out of a collection, and out of every file that was made of them where they are to be forgotten.

Rows that are removed stay in files of earlier versions until these are cleaned up, so all tables are written anew. What is
to be forgotten is written down first (`forgetting.json`) and that file deleted last: a run that was killed is completed by
the next one, whichever items that names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chiasm.encoders.cache import cache_folder
from chiasm.errors import CollectionError
from chiasm.evaluation.record import Record
from chiasm.files import read_record, strict_json, write_whole
from chiasm.store.collection import ITEMS, Collection
from chiasm.store.gallery import purge_tables
from chiasm.types import Modality
from chiasm.verbs.add import keep_words
from chiasm.verbs.dataset import embedded_items
from chiasm.verbs.model import MODELS, forget_items, load_model
from chiasm.verbs.spaces import drop_spaces_of, folder_of, load_space, saved_spaces

PENDING = "forgetting.json"  # in the folder of a collection: what a run has begun to forget


@dataclass(frozen=True)
class RemoveReport(Record):
    """The items that are gone, and of those that are to be forgotten, all that had learned from them."""

    items: tuple[str, ...]  # ids
    ratings: int = 0  # feedback on these items
    spaces: tuple[str, ...] = ()  # that learned from them, or may have, and are deleted: align again
    models: dict[str, int] = field(default_factory=dict)
    """By folder, the number of these items that a model learned from. It keeps none of them, but its weights do: fit again."""
    untouched: str = ""  # what cannot be known from here, in words


def remove(
    collection: str | Path, *, where: str, forget: bool = False, model: Sequence[str | Path] = ()
) -> RemoveReport:
    """Delete items, their outcomes and their vectors; or every trace of them that chiasm keeps.

    The user's own files stay. A search at the same moment sees the items as before or not at all.

    Args:
        collection: the collection.
        where: condition on the columns of the items, e.g. `"id = 'animals/bird'"`.
        forget: whether to delete them also from earlier versions of tables, indexes, feedback, caches, models, learned spaces,
            and copies that a server or `add` keeps in the collection. May be killed at any point and run again. Otherwise they
            stay in earlier versions for an hour or more, feedback waits for an item of the same id, and models keep examples.
        model: of `forget`, folders of models that may have learned from them, beside those in the collection's own folder.

    Raises:
        CollectionError: a file cannot be written; or nothing is there to forget.
        ChiasmError: there is no such model; nothing is deleted then.
    """
    opened = Collection.open(collection)
    if forget:
        return _forget(opened, where, model)
    ids = opened.ids(where=where)
    opened.remove(ids)
    keep_words(opened)
    return RemoveReport(tuple(ids))


def _forget(opened: Collection, where: str, models: Sequence[str | Path]) -> RemoveReport:
    folders = [*map(Path, models), *(path.parent for path in sorted((opened.path / MODELS).glob("*/model.json")))]
    loaded = [load_model(folder) for folder in folders]  # before anything is deleted
    pending = read_record(opened.path / PENDING)
    ids = opened.ids(where=where)
    if not ids and not pending:
        raise CollectionError(
            f"no item of {opened.path.name} meets {where!r:.200}: nothing was forgotten. Ids: chiasm search --json"
        )
    files = opened.files(ids=ids) if ids else []
    plan: dict[str, list[str]] = {
        "ids": ids,
        "hashes": [str(row["hash"]) for row in files if row["hash"]],
        "uploads": _own_copies(opened, [row["path"] for row in files if row["path"]]),
        "sources": _own_copies(opened, _sources(opened, ids)),
        "contents": [content for model in loaded for content in _contents(opened, ids, model.fingerprints)],
    }
    plan = {name: sorted({*values, *pending.get(name, ())}) for name, values in plan.items()}
    write_whole(opened.path / PENDING, strict_json(plan))
    report = _carry_out(opened, plan, folders)
    (opened.path / PENDING).unlink()
    return report


def _carry_out(opened: Collection, plan: dict[str, list[str]], folders: Sequence[Path]) -> RemoveReport:
    """Take the items out of everything; each step does nothing where it was done before."""
    from chiasm.store.feedback import FeedbackTable
    from chiasm.store.words import FullText

    ids, contents = frozenset(plan["ids"]), frozenset(plan["contents"])
    learned = {str(folder): forget_items(folder, ids, contents) for folder in folders}
    opened.remove(ids)
    spaces = drop_spaces_of(opened, plan["ids"], plan["hashes"])
    ratings = FeedbackTable(opened).delete_items(plan["ids"])
    opened.drop_replaced(unused_for=0)
    opened.purge()
    purge_tables(opened, [load_space(folder_of(opened, name)).space.digest for name in saved_spaces(opened)])
    if (words := FullText.open(opened)) is not None:
        words.purge()
    left = opened.files()
    for digest in {*plan["hashes"]} - {row["hash"] for row in left}:
        for preview in (cache_folder() / "previews" / digest[:2]).glob(f"{digest}-*"):
            preview.unlink(missing_ok=True)
    _drop_copies(
        opened,
        {*plan["uploads"]} - {*_own_copies(opened, [row["path"] for row in left if row["path"]])},
        plan["sources"],
    )
    for folder, count in learned.items():
        if count and Path(folder).parent == opened.path / MODELS:  # of its report: it shows items
            (opened.path / "reports" / f"{Path(folder).name}.html").unlink(missing_ok=True)
    opened.drop_roots()
    return RemoveReport(
        tuple(plan["ids"]),
        ratings,
        spaces,
        {folder: count for folder, count in learned.items() if count},
        "Reports, exports, bundles, statistics and models in other places that were made with these items may still hold or "
        "have learned from them: make them again. So may an encoder that was fine-tuned on them",
    )


def _sources(opened: Collection, ids: Sequence[str]) -> list[str]:
    rows = opened.tables.rows("items", ITEMS, ["id", "_source"])
    return list(
        dict.fromkeys(rows.filter(pc.is_in(rows["id"], value_set=pa.array(ids, pa.string())))["_source"].to_pylist())
    )


def _own_copies(opened: Collection, paths: Iterable[str]) -> list[str]:
    """Return those of some paths that are copies which the collection keeps, relative to their folder.

    The collection may have moved since they were written down.
    """
    room, copies = opened.uploads, []
    for path in map(Path, paths):
        if path.is_relative_to(room):
            copies.append(str(path.relative_to(room)))
        elif room.name in path.parts and not path.exists():
            copies.append(str(Path(*path.parts[len(path.parts) - path.parts[::-1].index(room.name) :])))
    return copies


def _drop_copies(opened: Collection, files: Set[str], sources: Iterable[str]) -> None:
    """Delete copies that the collection keeps of files, and what tables beside them say of them."""
    for name in files:
        (opened.uploads / name).unlink(missing_ok=True)
    for name in sources:
        path = opened.uploads / name
        if path.is_file():  # data that were in memory; who adds them again brings their table along
            path.unlink()
        elif (listing := path / "metadata.jsonl").is_file():  # of a shard
            kept = []
            for line in listing.read_text(encoding="utf-8").splitlines(keepends=True):
                row = json.loads(line)
                own = {str(Path(name, one)) for one in row.get("file_names", [row.get("file_name", "")])}
                if own.isdisjoint(files):
                    kept.append(line)
            write_whole(listing, "".join(kept))


def _contents(opened: Collection, ids: Sequence[str], fingerprints: Mapping[Modality, str]) -> tuple[str, ...]:
    found = embedded_items(opened, ids, fingerprints)
    return found.contents([*fingerprints], np.flatnonzero(np.any([*found.present.values()], axis=0)))
