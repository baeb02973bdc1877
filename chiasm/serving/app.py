"""Build the application from its parts: the routes, and the request and response of each.

The work is left to `engine`, admission to `guard`, the names of fields to `schemas`, the page for people to `page`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, TypeAlias
from urllib.parse import unquote

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi import Query as FromQuery
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import AfterValidator, BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from chiasm import __version__
from chiasm.errors import ChiasmError
from chiasm.files import one_form
from chiasm.serving import page, schemas
from chiasm.serving.bodies import Given, read_json, read_upload, things, visit_of
from chiasm.serving.classify import Classifier
from chiasm.serving.engine import Engine, Opened, Searcher
from chiasm.serving.files import file_answer
from chiasm.serving.guard import Guard
from chiasm.serving.keys import KeyRing
from chiasm.serving.map import Mapper
from chiasm.serving.observe import Metrics, QueryLog, logger
from chiasm.serving.problems import MEDIA_TYPE, Problem, of_error
from chiasm.serving.settings import Settings
from chiasm.serving.teaching import StoreLabels, StoreRatings, Teaching
from chiasm.types import Modality
from chiasm.verbs.query import Query, SearchOptions

NDJSON = "application/x-ndjson"
_PAGE = 500  # rows that a stream asks for at a time


@dataclass(frozen=True)
class Parts:
    """The parts that the routes use; in the application's state as `parts`."""

    engine: Engine
    settings: Settings
    metrics: Metrics
    teaching: Teaching
    mapper: Mapper | None
    queries: QueryLog | None


def create_app(
    settings: Settings,
    searcher: Searcher,
    *,
    classifier: Classifier | None = None,
    keys: KeyRing | None = None,
    teaching: Teaching = Teaching(),  # noqa: B008  # frozen
    mapper: Mapper | None = None,
) -> FastAPI:
    """Return the API over a searcher as an ASGI application; `healthz` answers at once, `readyz` after the warm-up.

    Args:
        settings: bounds.
        searcher: what is searched in.
        classifier: the model that recognises.
        keys: who may come in. None: everybody.
        teaching: the parts of the feedback loop that are offered.
        mapper: draws the map.
    """
    metrics = Metrics()
    engine = Engine(searcher, classifier, settings=settings, metrics=metrics)
    queries = None if settings.query_log is None else QueryLog(settings.query_log)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        warm = asyncio.create_task(engine.warm_up())
        warm.add_done_callback(_say_ready)
        yield
        warm.cancel()
        await asyncio.get_running_loop().run_in_executor(None, engine.close)
        if queries is not None:
            queries.close()

    app = _described(life)
    app.state.parts = Parts(engine, settings, metrics, teaching, mapper, queries)
    app.add_middleware(Guard, settings=settings, keys=keys, metrics=metrics)
    return app


def openapi_text() -> str:
    """Return the OpenAPI document of the API, as committed in the documentation."""
    return json.dumps(_described(None).openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _say_ready(task: Any) -> None:
    if task.cancelled():
        return
    if task.exception() is None:
        logger.info("ready")
    else:
        logger.error("warm-up failed", exc_info=task.exception())


# ------------------------------------------------------------------------------------------------------- description


def _content(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


_PROBLEM = {MEDIA_TYPE: _content("ProblemDetails")}
_RETRY = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "The request was refused; `detail` says what to do.", "content": _PROBLEM},
    429: {"description": "Too much at a time, or too often.", "content": _PROBLEM, "headers": _RETRY},
    "5XX": {"description": "The server failed or is not ready.", "content": _PROBLEM},
}
REQUESTS: tuple[type[BaseModel], ...] = (
    schemas.SearchRequest,
    schemas.PredictRequest,
    schemas.EmbedRequest,
    schemas.FeedbackRequest,
    schemas.LabelsRequest,
    schemas.AddRequest,
    schemas.ProblemDetails,
)


def _json_body(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": _content(model.__name__)}}}


def _body(model: type[BaseModel], words: type[BaseModel], options: type[BaseModel]) -> dict[str, Any]:
    """Describe a body of either type: JSON, or a multipart form with binary files."""
    file = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "properties": {
            **words.model_json_schema()["properties"],
            "image": file,
            "audio": file,
            "video": file,
            "file": {"type": "array", "items": file, "description": "Each a thing of its own."},
            **options.model_json_schema().get("properties", {}),
        },
    }
    both = {"application/json": _content(model.__name__), "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": both}}


def _described(life: Any) -> FastAPI:
    """Return the routes and their OpenAPI document without an engine behind them."""
    app = FastAPI(
        title="chiasm",
        version=__version__,
        summary="Search and recognise images, texts, sounds and videos.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=life,
        exception_handlers={
            Problem: _on_problem,
            ChiasmError: _on_chiasm_error,
            HTTPException: _on_http_exception,
            RequestValidationError: _on_validation,
        },
    )
    app.include_router(router)
    app.include_router(page.router)

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            _, defined = models_json_schema(
                [(model, "validation") for model in REQUESTS], ref_template="#/components/schemas/{model}"
            )
            components = made.setdefault("components", {})
            components.setdefault("schemas", {}).update(defined["$defs"])
            components["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Needed where keys are."}
            }
            made["security"] = [{}, {"bearer": []}]
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # the way that FastAPI names for it
    return app


# ------------------------------------------------------------------------------------------------------------ errors


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response(visit_of(request).id)


async def _on_chiasm_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ChiasmError)
    problem = of_error(error)
    problem.detail = _parts(request).engine.without_paths(problem.detail)
    if problem.status >= 500:
        logger.error("encoder failed", exc_info=error, extra={"fields": {"id": visit_of(request).id}})
    return problem.response(visit_of(request).id)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "there is no such route; see /openapi.json", 405: "the route does not know this method"}
    detail = details.get(error.status_code, str(error.detail))
    return Problem(error.status_code, "request", detail, headers=error.headers).response(visit_of(request).id)


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [{"at": ".".join(str(part) for part in one["loc"][1:]), "problem": one["msg"]} for one in error.errors()]
    first = found[0]
    return Problem(422, "invalid", f"{first['at']}: {first['problem']}", errors=found).response(visit_of(request).id)


# ------------------------------------------------------------------------------------------------------------ routes

router = APIRouter(responses=PROBLEMS)

ItemId: TypeAlias = Annotated[str, AfterValidator(lambda raw: one_form(unquote(raw)))]
"""An id in a path, which `guard` leaves percent-encoded: it may hold slashes, line ends and the names of routes."""


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _with_model(request: Request) -> Engine:
    """Return the engine of a server that has a model."""
    engine = _parts(request).engine
    if engine.classifier is None:
        raise _lacks("model", "Start it with one: chiasm serve COLLECTION --model MODEL")
    return engine


async def _opened(
    request: Request, whole: type[BaseModel], name: str, words: type[schemas.Plain], options: type[BaseModel]
) -> tuple[list[Opened], dict[str, Any]]:
    """Read the body of a request and open its files; see `things`. Return them with the options."""
    parts = _parts(request)
    async with things(request, whole, name, words=words, options=options, settings=parts.settings) as (given, values):
        return await parts.engine.open(given, visit_of(request)), values


def _json(value: Any) -> Response:
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


def _wants_lines(request: Request) -> bool:
    return NDJSON in request.headers.get("accept", "")


def _lines(rows: AsyncIterator[Mapping[str, Any]], first: Sequence[Mapping[str, Any]], request: Request) -> Response:
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


def _streams(name: str, model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    lines = {NDJSON: {"schema": {"type": "string", "description": f"A line of JSON a {name}."}}}
    return {200: {"model": model, "content": lines}}


@router.get("/v1/search", responses=_streams("hit", schemas.SearchAnswer), tags=["search"])
async def search_words(request: Request, query: Annotated[schemas.SearchWords, FromQuery()]) -> Response:
    """Search with words or by items."""
    if query.text is None and not query.like:
        raise Problem(422, "invalid", "text: words to look for are needed, or in like an item to go by")
    words = schemas.Asked(**{name: getattr(query, name) for name in schemas.Asked.model_fields})
    options = {name: getattr(query, name) for name in schemas.SearchOptions.model_fields}
    opened = await _parts(request).engine.open([Given(words)], visit_of(request))
    return await _search(request, opened, SearchOptions(**options))


@router.post(
    "/v1/search",
    responses=_streams("hit", schemas.SearchAnswer),
    openapi_extra=_body(schemas.SearchRequest, schemas.Asked, schemas.SearchOptions),
    tags=["search"],
)
async def search(request: Request) -> Response:
    """Search with words, images, sounds, videos, or several of them together; several queries at a time.

    With `Accept: application/x-ndjson` the hits of one query come as lines, as many as are asked for.
    """
    opened, options = await _opened(request, schemas.SearchRequest, "queries", schemas.Asked, schemas.SearchOptions)
    return await _search(request, opened, SearchOptions(**options))


async def _search(request: Request, opened: Sequence[Opened], options: SearchOptions) -> Response:
    parts = _parts(request)
    if _wants_lines(request):
        if len(opened) != 1:
            raise Problem(422, "invalid", f"NDJSON gives the hits of one query; got {len(opened)}")
        (query,) = await parts.engine.prepared([opened[0].query])
        first = await parts.engine.page(query, replace(options, k=min(options.k, _PAGE)))
        await _log_queries(request, opened, [first])
        return _lines(_more_hits(parts.engine, query, options, len(first["hits"])), first["hits"], request)
    if options.k > schemas.MOST_HITS:
        raise Problem(
            422,
            "invalid",
            f"k: {options.k} hits come only as a stream. Ask for at most {schemas.MOST_HITS}, or send Accept: {NDJSON}",
        )
    found = await parts.engine.search([one.query for one in opened], options)
    await _log_queries(request, opened, found)
    return _json({"results": [{"query": number, **one} for number, one in enumerate(found)]})


async def _more_hits(
    engine: Engine, query: Query, options: SearchOptions, sent: int
) -> AsyncIterator[Mapping[str, Any]]:
    last = min(options.k, _PAGE)
    while sent < options.k and last == _PAGE:
        page = replace(options, k=min(options.k - sent, _PAGE), offset=options.offset + sent)
        hits = (await engine.page(query, page))["hits"]
        for hit in hits:
            yield hit
        last = len(hits)
        sent += last


async def _log_queries(request: Request, opened: Sequence[Opened], found: Sequence[Mapping[str, Any]]) -> None:
    parts = _parts(request)
    if parts.queries is None:
        return
    rows = []
    for asked, one in zip(opened, found, strict=True):
        rows.append((asked.words.text, [medium.modality for medium in asked.media], len(one["hits"])))
    await parts.engine.read(parts.queries.write, visit_of(request).who, rows)


@router.post(
    "/v1/predict",
    responses={200: {"model": schemas.PredictAnswer}},
    openapi_extra=_body(schemas.PredictRequest, schemas.Plain, schemas.PredictOptions),
    tags=["recognise"],
)
async def predict(request: Request) -> Response:
    """Recognise items with the model that the server was started with."""
    engine = _with_model(request)
    opened, options = await _opened(request, schemas.PredictRequest, "items", schemas.Plain, schemas.PredictOptions)
    predictions = await engine.predict(opened, **options)
    return _json({"predictions": [{"item": number, **one} for number, one in enumerate(predictions)]})


@router.get("/v1/items/{item:path}/prediction", responses={200: {"model": schemas.ItemPrediction}}, tags=["recognise"])
async def item_prediction(
    request: Request, item: ItemId, query: Annotated[schemas.PredictOptions, FromQuery()]
) -> Response:
    """Recognise an item of the collection from its own files."""
    engine = _with_model(request)
    row = await _item(request, item)
    opened = await engine.open_item(row, visit_of(request))
    (prediction,) = await engine.predict([opened], **query.model_dump())
    return _json(prediction)


@router.post(
    "/v1/embed",
    responses={200: {"model": schemas.EmbedAnswer}},
    openapi_extra=_body(schemas.EmbedRequest, schemas.Plain, schemas.NoOptions),
    tags=["search"],
)
async def embed(request: Request) -> Response:
    """Return the vectors of items in the served space."""
    opened, _ = await _opened(request, schemas.EmbedRequest, "items", schemas.Plain, schemas.NoOptions)
    vectors = await _parts(request).engine.embed(opened)
    return _json({"embeddings": [{"item": number, "vectors": one} for number, one in enumerate(vectors)]})


@router.get("/v1/items", responses=_streams("item", schemas.ItemsAnswer), tags=["items"])
async def items(request: Request, query: Annotated[schemas.ItemsQuery, FromQuery()]) -> Response:
    """List items in the order of their ids. With `Accept: application/x-ndjson`: all of them, a line each."""
    engine = _parts(request).engine
    after = _id_of(query.after)
    if _wants_lines(request):
        first = await engine.items(after, _PAGE, query.where)
        return _lines(_more_items(engine, first, query.where), first, request)
    found = await engine.items(after, query.limit + 1, query.where)
    shown = found[: query.limit]
    return _json({"items": shown, "next": _cursor_of(shown[-1]["id"]) if len(found) > query.limit else None})


async def _more_items(
    engine: Engine, page: list[dict[str, Any]], where: str | None
) -> AsyncIterator[Mapping[str, Any]]:
    while len(page) == _PAGE:
        page = await engine.items(page[-1]["id"], _PAGE, where)
        for one in page:
            yield one


@router.get(
    "/v1/items/{item:path}/files/{modality}/{number}",
    responses={
        200: {"description": "The file.", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "Part of it.", "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}},
        304: {"description": "It is as it was."},
    },
    tags=["items"],
)
async def item_file(
    request: Request, item: ItemId, modality: Modality, number: Annotated[int, Path(ge=0, le=10**6)]
) -> Response:
    """Return a file of an item, by its position among the item's files of that modality."""
    engine = _parts(request).engine
    return await engine.read(file_answer, await engine.file_of(item, modality, number), modality, request)


@router.get("/v1/items/{item:path}", responses={200: {"model": schemas.Item}}, tags=["items"])
async def item(request: Request, item: ItemId) -> Response:
    """Return one item."""
    return _json(await _item(request, item))


async def _item(request: Request, item: str) -> dict[str, Any]:
    row = await _parts(request).engine.item(item)
    if row is None:
        raise Problem(404, "item", "there is no item of this id; /v1/items lists those that there are")
    return row


@router.post(
    "/v1/items",
    responses={200: {"model": schemas.Added}},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": _content("AddRequest")}}},
    tags=["teach"],
)
async def add_item(request: Request) -> Response:
    """Add a file with its label to the collection, for the model to learn from."""
    parts = _parts(request)
    if parts.teaching.add is None:
        raise _lacks("place for new files", "Start it with a model: chiasm serve COLLECTION --model MODEL")
    async with read_upload(request) as (upload, name, label):
        item = await parts.engine.add(parts.teaching.add, upload, name=name, label=label, who=visit_of(request).who)
    return _json({"id": item})


@router.get("/v1/map", responses={200: {"model": schemas.MapAnswer}}, tags=["items"])
async def map_items(request: Request, query: Annotated[schemas.MapQuery, FromQuery()]) -> Response:
    """Project the embeddings of one modality to the plane."""
    parts = _parts(request)
    if parts.mapper is None:
        raise _lacks("map", "Serve a collection with chiasm serve")
    points, total = await parts.engine.read(parts.mapper.points, query.modality, query.column, query.layout)
    return _json({"points": [vars(point) for point in points], "total": total})


@router.get("/v1/outcomes", responses={200: {"model": schemas.OutcomesAnswer}}, tags=["items"])
async def outcomes(request: Request) -> Response:
    """List the files that could not be used, with reasons."""
    return _json(await _parts(request).engine.outcomes(schemas.MOST_OUTCOMES))


@router.post(
    "/v1/feedback",
    responses={200: {"model": schemas.Accepted}},
    openapi_extra=_json_body(schemas.FeedbackRequest),
    tags=["teach"],
)
async def feedback(request: Request) -> Response:
    """Rate hits up or down."""
    return await _store(request, _parts(request).teaching.rate, schemas.FeedbackRequest, "feedback")


@router.post(
    "/v1/labels",
    responses={200: {"model": schemas.Accepted}},
    openapi_extra=_json_body(schemas.LabelsRequest),
    tags=["teach"],
)
async def labels(request: Request) -> Response:
    """Correct the labels of items, for the model to learn from."""
    return await _store(request, _parts(request).teaching.label, schemas.LabelsRequest, "labels")


@router.post("/v1/learn", responses={200: {"model": schemas.LearnAnswer}}, tags=["teach"])
async def learn(request: Request) -> Response:
    """Train the model again with the corrected labels; the new model replaces the old one unless it is worse."""
    teach = _parts(request).teaching.learn
    if teach is None:
        raise _lacks("model that learns", "Start it with one: chiasm serve COLLECTION --model MODEL")
    return _json((await asyncio.to_thread(teach)).as_dict())


@router.get("/v1/drift", responses={200: {"model": schemas.DriftAnswer}}, tags=["server"])
async def drift(request: Request) -> Response:
    """Tell how far the items lie from those that the model was trained on."""
    compare = _parts(request).teaching.drift
    if compare is None:
        raise _lacks("model to compare with", "Start it with one: chiasm serve COLLECTION --model MODEL")
    return _json({"warnings": (await _parts(request).engine.read(compare)).warnings})


@router.get("/v1/status", responses={200: {"model": schemas.StatusAnswer}}, tags=["server"])
async def status(request: Request) -> Response:
    """Describe the served collection."""
    parts = _parts(request)
    teaching = parts.teaching
    ratings = {} if teaching.counts is None else await parts.engine.read(teaching.counts)
    offers = {"rates": teaching.rate, "labels": teaching.label, "teaches": teaching.add, "learns": teaching.learn}
    answer = await parts.engine.status()
    return _json({**answer, "ratings": ratings, **{name: part is not None for name, part in offers.items()}})


@router.get("/healthz", responses={200: {"model": schemas.Health}}, tags=["server"])
async def healthz() -> Response:
    """Report that the process is alive."""
    return _json({"status": "ok"})


@router.get(
    "/readyz",
    responses={200: {"model": schemas.Health}, 503: {"model": schemas.Health, "description": "Not yet."}},
    tags=["server"],
)
async def readyz(request: Request) -> Response:
    """Report whether the warm-up is done."""
    if _parts(request).engine.ready:
        return _json({"status": "ok"})
    return Response(to_json({"status": "starting"}), status_code=503, media_type="application/json")


@router.get(
    "/metrics",
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    },
    tags=["server"],
)
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(_parts(request).metrics.text(), media_type="text/plain; version=0.0.4")


async def _store(
    request: Request,
    take: StoreRatings | StoreLabels | None,
    model: type[schemas.FeedbackRequest | schemas.LabelsRequest],
    what: str,
) -> Response:
    """Store the entries of one sender."""
    parts = _parts(request)
    if take is None:
        raise _lacks(f"place for {what}", "It was started to be read from only")
    store: Callable[..., int] = take
    body = await read_json(request, model, parts.settings)
    return _json({"stored": await parts.engine.read(partial(store, body.entries, who=visit_of(request).who))})


def _lacks(what: str, advice: str) -> Problem:
    return Problem(404, "not-served", f"this server has no {what}. {advice}")


def _cursor_of(item: str) -> str:
    return base64.urlsafe_b64encode(item.encode()).decode().rstrip("=")


def _id_of(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "invalid", "after: has to be what `next` of the last page said") from error
