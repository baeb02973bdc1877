"""The parts of a server that its routes use, and what every route answers with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeAlias
from urllib.parse import unquote

from fastapi import Request
from pydantic import AfterValidator, BaseModel
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from chiasm.encoders.cache import cache_folder
from chiasm.errors import ChiasmError
from chiasm.files import one_form
from chiasm.serving.bodies import visit_of
from chiasm.serving.catalogue import Catalogue
from chiasm.serving.classify import Classifier
from chiasm.serving.engine import Engine, Searcher
from chiasm.serving.jobs import Jobs
from chiasm.serving.lists import SavedLists
from chiasm.serving.map import Mapper
from chiasm.serving.observe import Metrics, QueryLog
from chiasm.serving.problems import Problem, of_error
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import Teaching
from chiasm.serving.uploads import Uploads

NDJSON = "application/x-ndjson"
PAGE = 500  # rows that a stream asks for at a time

ItemId: TypeAlias = Annotated[str, AfterValidator(lambda raw: one_form(unquote(raw)))]
"""An id in a path, which `guard` leaves percent-encoded: it may hold slashes, line ends and the names of routes."""


class Models(Protocol):
    """The models of a collection, one of which recognises."""

    @property
    def current(self) -> str | None:
        """The name of the one that recognises."""

    def names(self) -> list[str]:
        """Return the names of those that there are. May block."""

    def use(self, name: str) -> None:
        """Have another one recognise from now on. May block.

        Raises:
            ChiasmError: there is none of this name, or it does not fit the collection.
        """


@dataclass(frozen=True)
class Shared:
    """Parts that all collections of a server share."""

    settings: Settings
    metrics: Metrics
    uploads: Uploads
    queries: QueryLog | None
    jobs: Jobs | None

    @classmethod
    def of(cls, settings: Settings, jobs: Jobs | None = None) -> Shared:
        """Return what goes with some limits."""
        uploads = Uploads(cache_folder() / "uploads", most_bytes=settings.kept_uploads, keep_free=settings.keep_free)
        queries = None if settings.query_log is None else QueryLog(settings.query_log)
        return cls(settings, Metrics(), uploads, queries, jobs)


@dataclass
class Parts:
    """The parts of one collection, which its routes use: in the state of a request as `parts`.

    Attributes:
        name: of the collection.
        engine: searches and recognises.
        shared: with the other collections.
        teaching: the parts of the feedback loop that are offered; others when another model recognises.
        catalogue: the order of its items.
        lists: that people made.
        mapper: draws the map.
        models: that can be chosen.
    """

    name: str
    engine: Engine
    shared: Shared
    teaching: Teaching
    catalogue: Catalogue
    lists: SavedLists
    mapper: Mapper | None = None
    models: Models | None = None

    @property
    def settings(self) -> Settings:
        """The limits of the server."""
        return self.shared.settings

    @property
    def uploads(self) -> Uploads:
        """Files that people search with."""
        return self.shared.uploads


def parts_for(
    shared: Shared,
    searcher: Searcher,
    *,
    classifier: Classifier | None = None,
    teaching: Teaching = Teaching(),  # noqa: B008  # frozen
    mapper: Mapper | None = None,
    base: str = "",
) -> Parts:
    """Return the parts of one collection.

    Args:
        shared: with others.
        searcher: what is searched in.
        classifier: the model that recognises.
        teaching: the parts of the feedback loop that are offered.
        mapper: draws the map.
        base: what the addresses of its files begin with.
    """
    engine = Engine(
        searcher, classifier, settings=shared.settings, metrics=shared.metrics, uploads=shared.uploads, base=base
    )
    catalogue, lists = Catalogue(lambda: searcher.collection), SavedLists(searcher.collection.path)
    return Parts(engine.folder.name, engine, shared, teaching, catalogue, lists, mapper)


def parts_of(request: Request) -> Parts:
    """Return the parts of the collection that a request is for."""
    parts: Parts = request.scope["state"]["parts"]
    return parts


def with_model(request: Request) -> Engine:
    """Return the engine of a server that has a model.

    Raises:
        Problem: 404, it has none.
    """
    engine = parts_of(request).engine
    if engine.classifier is None:
        raise lacks("model", "Start it with one: chiasm serve COLLECTION --model MODEL")
    return engine


def lacks(what: str, advice: str) -> Problem:
    """Return 404: this server was not started with something."""
    return Problem(404, "not-served", f"this server has no {what}. {advice}")


def json_answer(value: Any) -> Response:
    """Return a value as JSON; numbers that are not finite are null."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body of JSON that a route reads itself."""
    content = {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def wants_lines(request: Request) -> bool:
    """Return whether the answer is to come as lines of JSON."""
    return NDJSON in request.headers.get("accept", "")


def streams(name: str, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Describe an answer that comes as one document or as lines."""
    lines = {NDJSON: {"schema": {"type": "string", "description": f"A line of JSON a {name}."}}}
    return {200: {"model": model, "content": lines}}


def lines(rows: AsyncIterator[Mapping[str, Any]], first: Sequence[Mapping[str, Any]], request: Request) -> Response:
    """Stream one JSON line a row. The first rows are passed in, so that a bad request has been refused before the status is sent."""

    async def written() -> AsyncIterator[bytes]:
        yield b"".join(to_json(row, inf_nan_mode="null") + b"\n" for row in first)
        try:
            async for row in rows:
                visit_of(request).until = None  # each part has its own time
                yield to_json(row, inf_nan_mode="null") + b"\n"
        except (ChiasmError, Problem) as error:  # the status is sent; a last line tells that this is not all
            problem = error if isinstance(error, Problem) else of_error(error)
            yield to_json({"problem": problem.as_dict(visit_of(request).id)}) + b"\n"

    return StreamingResponse(written(), media_type=NDJSON)
