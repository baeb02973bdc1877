"""The parts of a server that its routes use, and what every route answers with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias
from urllib.parse import unquote

from fastapi import Request
from pydantic import AfterValidator, BaseModel
from pydantic_core import to_json
from starlette.responses import Response, StreamingResponse

from chiasm.errors import ChiasmError
from chiasm.files import one_form
from chiasm.serving.bodies import visit_of
from chiasm.serving.catalogue import Catalogue
from chiasm.serving.engine import Engine
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


@dataclass(frozen=True)
class Parts:
    """The parts that the routes use; in the application's state as `parts`."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    teaching: Teaching
    catalogue: Catalogue
    uploads: Uploads
    lists: SavedLists
    mapper: Mapper | None
    queries: QueryLog | None


def parts_of(request: Request) -> Parts:
    """Return the parts of the server that a request came to."""
    parts: Parts = request.app.state.parts
    return parts


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
