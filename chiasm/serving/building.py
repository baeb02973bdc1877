"""Build the parts that serve one collection on disk: its searcher, the model that recognises, and what people may do with it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from chiasm.encoders.base import first_of
from chiasm.encoders.licence import models_of
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, CollectionError, LabelError, ManifestError
from chiasm.files import digest_text, is_unicode, one_form, temporary_of
from chiasm.serving.classify import Classifier
from chiasm.serving.keys import KeyRing
from chiasm.serving.map import Mapper
from chiasm.serving.observe import logger, where_from
from chiasm.serving.parts import Parts, Shared, parts_for
from chiasm.serving.problems import Problem, disk_full, of_error
from chiasm.serving.schemas import FeedbackEntry, LabelEntry
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import Teaching
from chiasm.store.add import add_manifests
from chiasm.store.collection import Collection
from chiasm.store.feedback import FeedbackTable, Label, Thumb
from chiasm.store.manifest import read_manifests
from chiasm.store.tables import one_of
from chiasm.verbs.drift import DriftReport, collection_drift
from chiasm.verbs.learn import LearnReport, learn_again
from chiasm.verbs.model import MODELS, load_model
from chiasm.verbs.remove import RemoveReport, remove
from chiasm.verbs.review import Review, review_items
from chiasm.verbs.search import Searcher
from chiasm.verbs.spaces import start_of

MOST_COLLECTIONS = 200  # that are made on the page


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Describe a server process; pickled for the workers."""

    collections: tuple[Path, ...]
    folder: Path | None = None  # of more collections, and of those that are made
    encoder: str = "offline"  # of those that are made
    model: Path | None = None
    space: str | None = None
    device: Device
    keys: KeyRing | None
    edit: bool = False
    workers: int = 1
    settings: Settings

    def known(self) -> dict[str, Path]:
        """Return the folders of the collections by name: those that were named, then those in the folder."""
        inside = () if self.folder is None else sorted(self.folder.iterdir())
        more = {path.name: path for path in inside if path.name[0] != "." and _has_collection(path)}
        named = {path.name: path for path in self.collections}
        return {
            one_form(name): path for name, path in (named | {k: v for k, v in more.items() if k not in named}).items()
        }

    def create(self, name: str) -> None:
        """Make an empty collection in the folder.

        Raises:
            Problem: 404, there is no folder for it; 409, there is something of this name, or there are too many.
        """
        if self.folder is None or not self.edit:
            raise Problem(
                404,
                "not-served",
                "this server makes no collections. Start it so: chiasm serve --collections FOLDER --edit",
            )
        known = self.known()
        if name in known or os.path.lexists(self.folder / name):
            raise Problem(409, "collection", f"there is something called {name!r} already. Choose another name")
        if len(known) >= MOST_COLLECTIONS:
            raise Problem(409, "collection", f"there are {len(known)} collections; on the page no more are made")
        try:
            Collection.create(self.folder / name, encoder=self.encoder)
        except CollectionError as error:
            problem = of_error(error)
            problem.detail = problem.detail.replace(str(self.folder / name), name)
            raise problem from error

    def base_of(self, name: str) -> str:
        """Return what the addresses of a collection's files begin with; nothing where there is only one collection."""
        return "" if self.folder is None and len(self.collections) == 1 else f"/c/{quote(name, safe='')}"


def _has_collection(path: Path) -> bool:
    """Return whether a folder holds a collection that can have an address: its name is text, and it can be looked into."""
    try:
        return is_unicode(path.name) and (path / "chiasm.json").is_file()
    except OSError:  # of somebody else
        return False


def build_parts(plan: Plan, name: str, folder: Path, shared: Shared) -> Parts:
    """Return the parts of one collection.

    Args:
        plan: of the server.
        name: of the collection.
        folder: it lies in.
        shared: with the other collections.

    Raises:
        ChiasmError: the collection, or the model that the server was started with, cannot be used.
    """
    searcher = Searcher(folder, space=plan.space, device=plan.device, warm=True)
    served = _Served(plan, searcher)
    parts = parts_for(shared, searcher, teaching=served.teaching, mapper=Mapper(searcher), base=plan.base_of(name))
    served.parts = parts
    parts.name, parts.models = name, served
    served.use_first()
    return parts


class _Served:
    """The functions behind `Teaching` for one collection, and the models that can be chosen."""

    parts: Parts

    def __init__(self, plan: Plan, searcher: Searcher) -> None:
        self._plan = plan
        self._searcher = searcher
        self._table = FeedbackTable(searcher.collection)
        self._model: Path | None = None
        self._start = start_of(searcher.collection, searcher.networks)
        self.teaching = Teaching(rate=self._rate, label=self._label, counts=self._table.count)
        if plan.edit:
            self.teaching = replace(self.teaching, add=self._add, remove=self._remove, forget=self._forget)

    # ---------------------------------------------------------------------------------------------------------- models

    @property
    def current(self) -> str | None:
        """The name of the model that recognises."""
        return None if self._model is None else one_form(self._model.name)

    def names(self) -> list[str]:
        """Return the names of the models that there are."""
        return [*self._folders()]

    def use(self, name: str) -> None:
        """Have another model recognise from now on."""
        folders = self._folders()
        if name not in folders:
            raise ChiasmError(f"there is no model {name!r:.100}. Models: {', '.join(folders) or 'none'}")
        self._use(folders[name])

    def use_first(self) -> None:
        """Use the model that the server was started with, else the newest of the collection, if there is one."""
        if self._plan.model is not None:
            self._use(self._plan.model)
            return
        made = sorted(self._folders().values(), key=lambda folder: -(folder / "model.json").stat().st_mtime_ns)
        for folder in made[:1]:
            try:
                self._use(folder)
            except ChiasmError as error:  # people made it: that is no reason not to serve
                logger.warning("the newest model cannot be used", extra={"fields": where_from(error)})

    def _folders(self) -> Mapping[str, Path]:
        made = (self._searcher.collection.path / MODELS).glob("*/model.json")
        given = () if self._plan.model is None else (self._plan.model,)
        return {one_form(folder.name): folder for folder in (*sorted(path.parent for path in made), *given)}

    def _use(self, folder: Path) -> None:
        self.parts.engine.classifier = self._classifier(folder)
        self._model = folder
        self.parts.teaching = replace(
            self.teaching, add=self._add, learn=self._learn, drift=self._drift, review=self._review
        )

    def _classifier(self, folder: Path) -> Classifier:
        return Classifier(load_model(folder), self._searcher.networks, self._start, folder, self._searcher.collection)

    # -------------------------------------------------------------------------------------------------------- teaching

    def _rate(self, entries: Sequence[FeedbackEntry], *, who: str) -> int:
        thumbs = [Thumb(entry.item, entry.verdict, entry.query or "") for entry in entries]
        return self._table.add(thumbs, who=who, version=self._searcher.space.digest)

    def _label(self, entries: Sequence[LabelEntry], *, who: str) -> int:
        return self._table.add([Label(one.item, one.column or self._column(), one.label) for one in entries], who=who)

    def _column(self) -> str:
        """Return the column of labels that name none: the one that the model predicts."""
        classifier = self.parts.engine.classifier
        if classifier is None:
            raise LabelError("say the column that the label is of: there is no model here that would tell")
        return classifier.label

    def _add(self, files: Sequence[Path], /, *, label: str | None, folder: str | None, who: str) -> str:
        free = shutil.disk_usage(self._searcher.collection.path).free
        if free < self._plan.settings.keep_free:
            raise disk_full(f"{free:,} bytes are free on the disk of the collection")
        item = take_in(self._searcher, files, folder)
        if label is not None:
            self._table.add([Label(item, self._column(), label)], who=who)
        return item

    def _remove(self, ids: Sequence[str]) -> int:
        removed = self._searcher.collection.remove(map(one_form, ids))
        self._searcher.refresh()
        return removed

    def _forget(self, ids: Sequence[str]) -> RemoveReport:
        models = () if self._plan.model is None else (self._plan.model,)
        where = one_of("id", map(one_form, ids))
        report = remove(self._searcher.collection.path, where=where, forget=True, model=models)
        self._searcher.refresh()
        return report

    def _learn(self) -> LearnReport:
        assert self._model is not None  # else it is not offered
        report = learn_again(self._model, self._searcher.collection, self._searcher.networks, self._start)
        if report.switched:
            self.parts.engine.classifier = self._classifier(self._model)
        return report

    def _drift(self) -> DriftReport:
        assert self._model is not None  # else it is not offered
        return collection_drift(
            load_model(self._model), self._searcher.collection, self._searcher.networks, self._start
        )

    def _review(self, most: int) -> Review:
        assert self._model is not None  # else it is not offered
        model = load_model(self._model)
        return review_items(model, self._searcher.collection, self._searcher.networks, self._start, most=most)


def take_in(searcher: Searcher, files: Sequence[Path], folder: str | None = None) -> str:
    """Add uploaded files to the collection as one item, under names made from their content, and return its id.

    Args:
        searcher: of the collection.
        files: temporary ones; of their names only the ending counts, and only to show what kind of file each is.
        folder: what the columns `folder` and `label` are to be.

    Raises:
        ChiasmError: nothing in them can be embedded.
    """
    collection = searcher.collection
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest())
    stem = digests[0] if len(files) == 1 else digest_text(" ".join(digests))
    kept = [collection.uploads / f"{stem}{path.suffix}" for path in files]  # of one stem: one item
    if len(set(kept)) < len(kept):
        raise ChiasmError("the files of one item are of different kinds, such as .jpg and .txt; send others one by one")
    collection.uploads.mkdir(exist_ok=True)
    for path, place in zip(files, kept, strict=True):
        if not place.exists():
            part = temporary_of(place)
            try:
                shutil.copyfile(path, part)
                part.replace(place)
            finally:
                part.unlink(missing_ok=True)
    try:
        manifests = read_manifests(kept)
    except ManifestError as error:
        raise ChiasmError(f"the file cannot be taken: {error.problem}") from error
    if folder is not None:
        columns = {"folder": folder, "label": folder}
        manifests = [
            replace(
                one,
                items=tuple(replace(item, metadata=dict(columns)) for item in one.items),
                columns=dict.fromkeys(columns, "string"),
            )
            for one in manifests
        ]
    collection.keep_models(models_of(first_of(searcher.networks)))
    report = add_manifests(collection, manifests, searcher.networks)
    searcher.refresh()
    wanted = set(map(str, kept))
    for row in collection.files():
        if row["path"] in wanted and row["item"]:
            return str(row["item"])
    reason = report.outcomes[0].reason if report.outcomes else "nothing in it can be embedded"
    raise ChiasmError(f"the file cannot be taken: {reason}")
