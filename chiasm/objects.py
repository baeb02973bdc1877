"""Collections and models as objects, for notebooks and programs: `chiasm.open`, `chiasm.load`.

Thin on purpose. Every method calls the verb of its name with the same options, and what comes back can be looped over,
turned into a DataFrame, and shown with pictures. Nothing can be done here that the verbs cannot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from html import escape
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload
from weakref import finalize

import numpy as np
from jaxtyping import Float

from chiasm._optional import require
from chiasm.encoders.runtime import Device
from chiasm.errors import ChiasmError, MediaError
from chiasm.hub import model_folder, push_folder
from chiasm.report.page import thumbnail
from chiasm.store.add import AddReport
from chiasm.store.collection import Collection, Generation
from chiasm.store.frames import are_paths, write_frame
from chiasm.store.sources import Data
from chiasm.types import FileOutcome
from chiasm.verbs.add import add
from chiasm.verbs.align import AlignReport, align
from chiasm.verbs.evaluate import Evaluation, evaluate
from chiasm.verbs.explain import ExplainReport, explain
from chiasm.verbs.export import ExportReport, export
from chiasm.verbs.fit import fit
from chiasm.verbs.model import Model, load_model, model_version, save_model
from chiasm.verbs.predict import Prediction, PredictReport, predict
from chiasm.verbs.query import Hit, SearchResult
from chiasm.verbs.remove import RemoveReport, remove
from chiasm.verbs.search import Searcher, search
from chiasm.verbs.status import Status, status

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 24  # results with their pictures in a notebook
_Row = TypeVar("_Row", Hit, Prediction)


def open(path: str | Path, *, device: Device = "auto") -> OpenCollection:  # noqa: A001  # `chiasm.open`, as `PIL.Image.open`
    """Open a collection, or name a new one, which the first `add` makes.

    Args:
        path: of the collection.
        device: `"auto"`, `"cpu"` or `"cuda"`, for all that is done with it.

    Raises:
        CollectionError: the folder holds something else, or is of another version.

    Example:
        >>> import tempfile
        >>> c = open(Path(tempfile.mkdtemp()) / "birds")
        >>> _ = c.add({"id": ["owl", "boat"], "text": ["a bird of the night", "a ship with sails"]})
        >>> c.search("an animal that flies", k=1).ids
        ['owl']
    """
    return OpenCollection(path, device=device)


def load(path: str | Path) -> SavedModel:
    """Open a model that `fit`, `save` or `push_to_hub` wrote into a folder.

    Raises:
        ChiasmError: there is none, or it is of another version.
    """
    return SavedModel(path)


# ---------------------------------------------------------------------------------------------------------- collection


class OpenCollection:
    """A collection with its verbs as methods; options are those of the functions of the same name.

    Args:
        path: of the collection.
        device: see `open`.
    """

    def __init__(self, path: str | Path, *, device: Device = "auto") -> None:
        self.path = Path(path).expanduser().absolute()
        self._device: Device = device
        self._searchers: dict[str | None, Searcher] = {}
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            Generation.read(self.path, asked=path)

    def __repr__(self) -> str:
        about = f"{len(self)} items, {', '.join(self.columns) or 'no columns'}" if self._exists else "new"
        return f"<collection {self.path}: {about}>"

    def __len__(self) -> int:
        return Collection.open(self.path).count() if self._exists else 0

    @property
    def _exists(self) -> bool:
        return (self.path / "chiasm.json").exists()

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return Collection.open(self.path).columns() if self._exists else []

    def add(self, data: Data, **options: Any) -> AddReport:
        """Store and embed paths or data in memory, see `chiasm.add`."""
        return add(data, to=self.path, device=self._device, **options)

    def search(self, text: str | None = None, *, space: str | None = None, **options: Any) -> Hits:
        """Search by words, files and items, see `chiasm.search`. The second search is quicker than the first."""
        searcher = self._searchers.get(space)
        if searcher is None:
            searcher = self._searchers[space] = Searcher(self.path, space=space, device=self._device)
        else:
            searcher.refresh()
        return Hits(search(searcher, text, **options), searcher)

    def align(self, **options: Any) -> AlignReport:
        """Learn from items that have two modalities, see `chiasm.align`."""
        return align(self.path, device=self._device, **options)

    def fit(self, label: str | Sequence[str], *, out: str | Path | None = None, **options: Any) -> SavedModel:
        """Train a recogniser on a column and return it, see `chiasm.fit`.

        Args:
            label: the column, or several.
            out: folder to keep it in. Default: a temporary one, which goes with the model unless that is saved.
            options: of `chiasm.fit`.
        """
        folder = Path(mkdtemp(prefix="chiasm-")) / "model" if out is None else Path(out)
        try:
            fit(self.path, label=label, out=folder, device=self._device, **options)
            model = SavedModel(folder)
        except BaseException:
            if out is None:
                rmtree(folder.parent, ignore_errors=True)
            raise
        if out is None:
            finalize(model, rmtree, folder.parent, ignore_errors=True)
        return model

    def evaluate(self, **options: Any) -> Evaluation:
        """Measure search by pairs, questions or moments, see `chiasm.evaluate`."""
        return evaluate(self.path, device=self._device, **options)

    def export(self, out: str | Path, **options: Any) -> ExportReport:
        """Write the items in the format of another tool, see `chiasm.export`."""
        return export(self.path, out=out, **options)

    def remove(self, *, where: str, **options: Any) -> RemoveReport:
        """Delete items with their vectors, see `chiasm.remove`."""
        return remove(self.path, where=where, **options)

    def status(self) -> Status:
        """Return what it holds, see `chiasm.status`."""
        return status(self.path)

    def to_pandas(self, *, where: str | None = None) -> pd.DataFrame:
        """Return the items, a row an item, with lists of paths (of texts: the texts) by modality.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        return _frame(Collection.open(self.path).items(where=where))


class _Results(Sequence[_Row], Generic[_Row]):
    """Rows in their order, as a sequence, a DataFrame, and pictures in a notebook."""

    _rows: tuple[_Row, ...]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> _Row: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[_Row, ...]: ...
    def __getitem__(self, place: int | slice) -> _Row | tuple[_Row, ...]:
        return self._rows[place]

    def __iter__(self) -> Iterator[_Row]:
        return iter(self._rows)

    @property
    def ids(self) -> list[str]:
        """The ids of the items."""
        return [row.id for row in self._rows]


class Hits(_Results[Hit]):
    """The hits of one search, best first.

    Args:
        result: of the search.
        searcher: that made it.

    Attributes:
        result: what `chiasm.search` returns, with what was found and notes.
    """

    def __init__(self, result: SearchResult, searcher: Searcher) -> None:
        self.result = result
        self._rows = result.hits
        self._searcher = searcher

    def __repr__(self) -> str:
        return f"<{len(self)} hits: {', '.join(self.ids[:3])}{', ...' if len(self) > 3 else ''}>"

    @cached_property
    def vectors(self) -> Float[np.ndarray, "hits dim"]:
        """The unit vector of each hit's item in the space that was searched, as it is there now; zeros if it is gone."""
        known = self._searcher.vectors_of(self.ids)
        nothing = np.zeros(self._searcher.space.dim, np.float32)
        return np.stack([known.get(name, nothing) for name in self.ids]) if self.ids else nothing[None][:0]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row a hit; columns of the items that are called as a field of hits get `metadata.` before their name.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        fields = ("id", "modality", "score", "probability", "band", "path", "text", "start", "end")
        rows = []
        for hit in self._rows:
            own = {name: getattr(hit, name) for name in fields}
            rows.append(own | {f"metadata.{name}" if name in own else name: one for name, one in hit.metadata.items()})
        return _frame(rows)

    def _repr_html_(self) -> str:
        cards = []
        for hit in self._rows[:_SHOWN]:
            certainty = f"score {hit.score:.2f}" if hit.probability is None else f"{hit.band} ({hit.probability:.0%})"
            cards.append(_card(hit.path if hit.modality in ("image", "video") else None, hit.id, certainty, hit.text))
        return _page(cards, len(self), "; ".join(self.result.notes) or ("" if cards else "nothing found"))


# --------------------------------------------------------------------------------------------------------------- model


class SavedModel:
    """A model in a folder.

    Args:
        folder: that `fit` or `save` wrote.

    Raises:
        ChiasmError: there is none, or it is of another version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder).expanduser().absolute()
        model_version(self.path)

    def __repr__(self) -> str:
        return f"<model of {self.label!r} from {', '.join(self.report.get('modalities', ()))}: {self.path}>"

    @classmethod
    def from_pretrained(cls, name: str, *, revision: str | None = None) -> SavedModel:
        """Open a model by its id on the Hugging Face hub, or its folder.

        Args:
            name: such as `"somebody/birds"`.
            revision: a branch, a tag or a commit.

        Raises:
            ChiasmError: there is none, it cannot be downloaded, or it is no model of chiasm.
            MissingExtraError: huggingface_hub is not installed.
        """
        return cls(model_folder(name, examples='an id such as "somebody/birds", or a folder', revision=revision))

    @property
    def model(self) -> Model:
        """The model itself, as it is in the folder now."""
        return load_model(self.path)

    @property
    def label(self) -> str:
        """The column that it predicts."""
        return self.model.label

    @property
    def report(self) -> Mapping[str, Any]:
        """The findings of `fit`: metrics on items that it did not see, what was chosen and how."""
        return self.model.report

    @property
    def card(self) -> str:
        """The model card, Markdown with a head of YAML."""
        return self.model.card

    def predict(self, data: Data, **options: Any) -> Predictions:
        """Recognise what is in paths or data in memory, see `chiasm.predict`."""
        if are_paths(data):
            return Predictions(predict(self.path, data, **options))
        room = Path(mkdtemp(prefix="chiasm-"))  # as long as the predictions are there, their pictures are, too
        try:
            table, outcomes = write_frame(data, lambda: room)
            report = predict(self.path, table, **options)
            predictions = Predictions(replace(report, outcomes=(*report.outcomes, *outcomes)))
        except BaseException:
            rmtree(room, ignore_errors=True)
            raise
        finalize(predictions, rmtree, room, ignore_errors=True)
        return predictions

    def export(self, out: str | Path, **options: Any) -> ExportReport:
        """Write it as one file that runs without chiasm, see `chiasm.export`."""
        return export(self.path, out=out, **options)

    def explain(
        self, data: Data = (), *, collection: str | Path | OpenCollection | None = None, **options: Any
    ) -> ExplainReport:
        """Say what predictions rest on, see `chiasm.explain`."""
        path = collection.path if isinstance(collection, OpenCollection) else collection
        return explain(self.path, data, collection=path, **options)

    def evaluate(self, collection: str | Path | OpenCollection, **options: Any) -> Evaluation:
        """Measure it on the labelled items of a collection, see `chiasm.evaluate`."""
        path = collection.path if isinstance(collection, OpenCollection) else collection
        return evaluate(self.path, path, **options)

    def save(self, folder: str | Path) -> SavedModel:
        """Write it into another folder, and return it there. A model that is there is kept as the one before.

        Raises:
            ChiasmError: the folder holds something else, or cannot be written.
        """
        save_model(Path(folder).expanduser(), self.model)
        return SavedModel(folder)

    def push_to_hub(
        self, name: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None
    ) -> str:
        """Upload it with its card to the Hugging Face hub, and return the address of the commit.

        The model holds embeddings of some of the items that it learned from (drift is told by them), and ids of all: whoever
        can read the repository has them.

        Args:
            name: such as `"somebody/birds"`; made where there is none.
            private: whether a new repository is private. Default: as the account says.
            token: that may write. Default: that of `hf auth login`.
            revision: the branch. Default: the main one.

        Raises:
            ChiasmError: the hub refused it; or the encoder is a folder on this machine, which nobody else has.
            MissingExtraError: huggingface_hub is not installed.
        """
        model = self.model
        if Path(model.encoder.partition(",")[0]).expanduser().is_dir():
            raise ChiasmError(
                f"the model needs the encoder {model.encoder!r}, a folder of this machine. Push that first, move the collection "
                "over to it by its id (reembed), and fit again"
            )
        with TemporaryDirectory() as room:
            folder = Path(room) / "model"
            save_model(folder, model)  # of all versions this one alone
            (folder / "README.md").write_text(model.card, encoding="utf-8")
            return push_folder(folder, name, private=private, token=token, revision=revision)


class Predictions(_Results[Prediction]):
    """Predictions in the order of the input.

    Args:
        report: of the verb.

    Attributes:
        outcomes: of files that could not be used, with the reason.
    """

    def __init__(self, report: PredictReport) -> None:
        self._rows = report.predictions
        self.outcomes: tuple[FileOutcome, ...] = report.outcomes

    def __repr__(self) -> str:
        return f"<{len(self)} predictions: {', '.join(map(str, self.labels[:3]))}{', ...' if len(self) > 3 else ''}>"

    @property
    def labels(self) -> list[str | None]:
        """The most probable class of each item, or its values in words; None where nothing of it could be used."""
        return [row.label for row in self._rows]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row an item, with the probability of each class as a column `p(CLASS)`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        rows = []
        for row in self._rows:
            own = {name: getattr(row, name) for name in ("id", "path", "label", "probability", "set", "unknown")}
            values = {name: part.get("value") for name, part in row.columns.items()}
            rows.append(own | values | {f"p({name})": share for name, share in row.probabilities.items()})
        return _frame(rows)

    def _repr_html_(self) -> str:
        cards = []
        for row in self._rows[:_SHOWN]:
            certainty = "" if row.probability is None else f" ({row.probability:.0%})"
            path = row.path if "image" in row.modalities or "video" in row.modalities else None
            cards.append(_card(path, row.id, f"{row.label or 'cannot be used'}{certainty}", None))
        return _page(cards, len(self), "")


# -------------------------------------------------------------------------------------------------------- how they look


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    frame: pd.DataFrame = require("pandas", "pandas", "make a DataFrame").DataFrame(list(rows))
    return frame


def _card(path: str | None, title: str, below: str, text: str | None) -> str:
    """Return one result as HTML: a small picture that is part of it, or words, and two lines."""
    shown = escape((text or "")[:200])
    if path is not None:
        try:
            shown = f'<img src="{thumbnail(Path(path))}" alt="{escape(title, quote=True)}" style="max-width:100%">'
        except MediaError as error:
            shown = escape(error.reason)
    return (
        '<figure style="width:160px;margin:0;overflow-wrap:anywhere;font-size:12px">'
        f"{shown}<figcaption><b>{escape(title)}</b><br>{escape(below)}</figcaption></figure>"
    )


def _page(cards: Sequence[str], total: int, note: str) -> str:
    more = f"{total - len(cards)} more" if total > len(cards) else ""
    words = "".join(f"<p>{escape(line)}</p>" for line in (note, more) if line)
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;align-items:end">{"".join(cards)}</div>{words}'
