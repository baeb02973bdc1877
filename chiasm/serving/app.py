"""Build the application from its parts: the routes, and the request and response of each.

The work is left to `engine`, admission to `guard`, the names of fields to `schemas`, the page for people to `page`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi import Query as FromQuery
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from chiasm import __version__
from chiasm.errors import ChiasmError
from chiasm.serving import browsing, choosing, encrypted, manage_schemas, managing, page, reason_schemas, schemas
from chiasm.serving.bodies import Given, read_json, read_upload, things, visit_of
from chiasm.serving.browsing import item_of
from chiasm.serving.classify import Classifier
from chiasm.serving.engine import Engine, Opened, Searcher
from chiasm.serving.guard import Guard
from chiasm.serving.keys import KeyRing
from chiasm.serving.map import Mapper
from chiasm.serving.observe import logger
from chiasm.serving.parts import (
    NDJSON,
    PAGE,
    ItemId,
    Parts,
    Shared,
    json_answer,
    json_body,
    lacks,
    lines,
    parts_for,
    parts_of,
    streams,
    wants_lines,
    with_model,
)
from chiasm.serving.problems import MEDIA_TYPE, Problem, of_error
from chiasm.serving.settings import Settings
from chiasm.serving.shelf import Shelf, Shelved
from chiasm.serving.teaching import StoreLabels, StoreRatings, Teaching
from chiasm.verbs.query import Query, SearchOptions


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
    shared = Shared.of(settings)
    parts = parts_for(shared, searcher, classifier=classifier, teaching=teaching, mapper=mapper)
    return create_shelf_app(shared, Shelf.of(parts), keys=keys)


def create_shelf_app(shared: Shared, shelf: Shelf, *, keys: KeyRing | None = None) -> FastAPI:
    """Return the API over several collections as an ASGI application, see `create_app`.

    Args:
        shared: what they share.
        shelf: the collections.
        keys: who may come in. None: everybody.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        warm = asyncio.create_task(_warm_up(shelf))
        warm.add_done_callback(_say_ready)
        yield
        warm.cancel()
        await asyncio.get_running_loop().run_in_executor(None, shelf.close)
        if shared.jobs is not None:
            await asyncio.to_thread(shared.jobs.close)
        if shared.queries is not None:
            shared.queries.close()

    app = _described(life)
    app.state.shared, app.state.shelf = shared, shelf
    app.add_middleware(Shelved, shelf=shelf)
    app.add_middleware(Guard, settings=shared.settings, keys=keys, metrics=shared.metrics)
    return app


async def _warm_up(shelf: Shelf) -> None:
    for parts in shelf.opened:
        await parts.engine.warm_up()


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
    schemas.UploadRequest,
    schemas.ListChange,
    schemas.ExportRequest,
    schemas.Chosen,
    schemas.Removal,
    manage_schemas.CollectionRequest,
    manage_schemas.ModelRequest,
    manage_schemas.JobRequest,
    encrypted.EncryptedQuestion,
    schemas.ProblemDetails,
)


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
        docs_url=None,  # its page loads scripts from elsewhere; `chiasm.serving.reference` is ours
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
    app.include_router(browsing.router, responses=PROBLEMS)
    app.include_router(choosing.router, responses=PROBLEMS)
    app.include_router(encrypted.router, responses=PROBLEMS)
    app.include_router(managing.router, responses=PROBLEMS)
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
    parts: Parts | None = request.scope["state"].get("parts")  # none of what is of no collection in particular
    if parts is not None:
        problem.detail = parts.engine.without_paths(problem.detail)
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


async def _opened(
    request: Request, whole: type[BaseModel], name: str, words: type[schemas.Plain], options: type[BaseModel]
) -> tuple[list[Opened], dict[str, Any]]:
    """Read the body of a request and open its files; see `things`. Return them with the options."""
    parts = parts_of(request)
    async with things(request, whole, name, words=words, options=options, settings=parts.settings) as (given, values):
        return await parts.engine.open(given, visit_of(request)), values


@router.get("/v1/search", responses=streams("hit", schemas.SearchAnswer), tags=["search"])
async def search_words(request: Request, query: Annotated[schemas.SearchWords, FromQuery()]) -> Response:
    """Search with words or by items."""
    if query.text is None and not query.like and not query.uploads:
        raise Problem(422, "invalid", "text: words to look for are needed, or in like an item to go by")
    words = schemas.Asked(**{name: getattr(query, name) for name in schemas.Asked.model_fields})
    options = {name: getattr(query, name) for name in schemas.SearchOptions.model_fields}
    opened = await parts_of(request).engine.open([Given(words)], visit_of(request))
    return await _search(request, opened, options)


@router.post(
    "/v1/search",
    responses=streams("hit", schemas.SearchAnswer),
    openapi_extra=_body(schemas.SearchRequest, schemas.Asked, schemas.SearchOptions),
    tags=["search"],
)
async def search(request: Request) -> Response:
    """Search with words, images, sounds, videos, or several of them together; several queries at a time.

    With `Accept: application/x-ndjson` the hits of one query come as lines, as many as are asked for.
    """
    opened, options = await _opened(request, schemas.SearchRequest, "queries", schemas.Asked, schemas.SearchOptions)
    return await _search(request, opened, options)


async def _search(request: Request, opened: Sequence[Opened], asked: Mapping[str, Any]) -> Response:
    parts = parts_of(request)
    shows_cards = asked["cards"]
    options = SearchOptions(**{name: value for name, value in asked.items() if name != "cards"})
    if wants_lines(request):
        if len(opened) != 1:
            raise Problem(422, "invalid", f"NDJSON gives the hits of one query; got {len(opened)}")
        (query,) = await parts.engine.prepared([opened[0].query])
        first = await parts.engine.page(query, replace(options, k=min(options.k, PAGE)))
        if shows_cards:
            await parts.engine.add_cards([first])
        await _log_queries(request, opened, [first])
        return lines(_more_hits(parts.engine, query, options, len(first["hits"]), shows_cards), first["hits"], request)
    if options.k > schemas.MOST_HITS:
        raise Problem(
            422,
            "invalid",
            f"k: {options.k} hits come only as a stream. Ask for at most {schemas.MOST_HITS}, or send Accept: {NDJSON}",
        )
    found = await parts.engine.search([one.query for one in opened], options)
    if shows_cards:
        await parts.engine.add_cards(found)
    await _log_queries(request, opened, found)
    return json_answer({"results": [{"query": number, **one} for number, one in enumerate(found)]})


async def _more_hits(
    engine: Engine, query: Query, options: SearchOptions, sent: int, shows_cards: bool
) -> AsyncIterator[Mapping[str, Any]]:
    last = min(options.k, PAGE)
    while sent < options.k and last == PAGE:
        page = replace(options, k=min(options.k - sent, PAGE), offset=options.offset + sent)
        found = await engine.page(query, page)
        if shows_cards:
            await engine.add_cards([found])
        hits = found["hits"]
        for hit in hits:
            yield hit
        last = len(hits)
        sent += last


async def _log_queries(request: Request, opened: Sequence[Opened], found: Sequence[Mapping[str, Any]]) -> None:
    parts = parts_of(request)
    queries = parts.shared.queries
    if queries is None:
        return
    rows = []
    for asked, one in zip(opened, found, strict=True):
        rows.append((asked.words.text, [medium.modality for medium in asked.media], len(one["hits"])))
    await parts.engine.read(queries.write, visit_of(request).who, rows)


@router.post(
    "/v1/predict",
    responses={200: {"model": schemas.PredictAnswer}},
    openapi_extra=_body(schemas.PredictRequest, schemas.Plain, schemas.PredictOptions),
    tags=["recognise"],
)
async def predict(request: Request) -> Response:
    """Recognise items with the model that the server was started with."""
    engine = with_model(request)
    opened, options = await _opened(request, schemas.PredictRequest, "items", schemas.Plain, schemas.PredictOptions)
    predictions = await engine.predict(opened, **options)
    return json_answer({"predictions": [{"item": number, **one} for number, one in enumerate(predictions)]})


@router.get("/v1/items/{item:path}/prediction", responses={200: {"model": schemas.ItemPrediction}}, tags=["recognise"])
async def item_prediction(
    request: Request, item: ItemId, query: Annotated[schemas.PredictOptions, FromQuery()]
) -> Response:
    """Recognise an item of the collection from its own files."""
    engine = with_model(request)
    row = await item_of(request, item)
    opened = await engine.open_item(row, visit_of(request))
    (prediction,) = await engine.predict([opened], **query.model_dump())
    return json_answer(prediction)


@router.get(
    "/v1/items/{item:path}/explanation", responses={200: {"model": reason_schemas.ItemExplanation}}, tags=["recognise"]
)
async def item_explanation(
    request: Request, item: ItemId, query: Annotated[reason_schemas.ExplainOptions, FromQuery()]
) -> Response:
    """Say what the prediction of an item of the collection rests on: modalities, places, words, seconds."""
    engine = with_model(request)
    row = await item_of(request, item)
    opened = await engine.open_item(row, visit_of(request))
    return json_answer(await engine.explain(row, opened, **query.model_dump()))


@router.get("/v1/items/{item:path}/match", responses={200: {"model": reason_schemas.MatchAnswer}}, tags=["search"])
async def item_match(
    request: Request, item: ItemId, query: Annotated[reason_schemas.MatchQuery, FromQuery()]
) -> Response:
    """Say what in the pictures of an item matches words: the cosine that goes with each place."""
    row = await item_of(request, item)
    return json_answer({"pictures": await parts_of(request).engine.match(row, query.text, visit_of(request))})


@router.post(
    "/v1/embed",
    responses={200: {"model": schemas.EmbedAnswer}},
    openapi_extra=_body(schemas.EmbedRequest, schemas.Plain, schemas.NoOptions),
    tags=["search"],
)
async def embed(request: Request) -> Response:
    """Return the vectors of items in the served space."""
    opened, _ = await _opened(request, schemas.EmbedRequest, "items", schemas.Plain, schemas.NoOptions)
    vectors = await parts_of(request).engine.embed(opened)
    return json_answer({"embeddings": [{"item": number, "vectors": one} for number, one in enumerate(vectors)]})


@router.post(
    "/v1/items",
    responses={200: {"model": schemas.Added}},
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": _content("AddRequest")}}},
    tags=["teach"],
)
async def add_item(request: Request) -> Response:
    """Add an item to the collection; with a label for the model to learn from, or without one."""
    parts = parts_of(request)
    if parts.teaching.add is None:
        raise lacks("place for new files", "Start it with a model or with --edit: chiasm serve COLLECTION --edit")
    async with read_upload(request, most=schemas.MOST_FILES, words=("label", "folder")) as form:
        if parts.teaching.remove is None and (form.label is None or form.folder is not None):
            raise Problem(
                422,
                "invalid",
                "label: is needed, and folder is not taken, since this server was started without --edit",
            )
        item = await parts.engine.add(parts.teaching.add, form, who=visit_of(request).who)
    return json_answer({"id": item})


@router.post(
    "/v1/feedback",
    responses={200: {"model": schemas.Accepted}},
    openapi_extra=json_body(schemas.FeedbackRequest),
    tags=["teach"],
)
async def feedback(request: Request) -> Response:
    """Rate hits up or down."""
    return await _store(request, parts_of(request).teaching.rate, schemas.FeedbackRequest, "feedback")


@router.post(
    "/v1/labels",
    responses={200: {"model": schemas.Accepted}},
    openapi_extra=json_body(schemas.LabelsRequest),
    tags=["teach"],
)
async def labels(request: Request) -> Response:
    """Correct the labels of items, for the model to learn from."""
    return await _store(request, parts_of(request).teaching.label, schemas.LabelsRequest, "labels")


@router.get("/v1/review", responses={200: {"model": schemas.ReviewAnswer}}, tags=["teach"])
async def review(request: Request, query: Annotated[schemas.ReviewQuery, FromQuery()]) -> Response:
    """Choose items whose labels are worth a look: likely mistakes first, then what the model is unsure of, then a spread."""
    parts = parts_of(request)
    if parts.teaching.review is None:
        raise lacks("model to judge labels", "Start it with one: chiasm serve COLLECTION --model MODEL")
    return json_answer((await parts.engine.read(parts.teaching.review, query.limit)).as_dict())


@router.post("/v1/learn", responses={200: {"model": schemas.LearnAnswer}}, tags=["teach"])
async def learn(request: Request) -> Response:
    """Train the model again with the corrected labels; the new model replaces the old one if it is better."""
    teach = parts_of(request).teaching.learn
    if teach is None:
        raise lacks("model that learns", "Start it with one: chiasm serve COLLECTION --model MODEL")
    return json_answer((await asyncio.to_thread(teach)).as_dict())


@router.get("/v1/drift", responses={200: {"model": schemas.DriftAnswer}}, tags=["server"])
async def drift(request: Request) -> Response:
    """Tell how far the items that came after the model was fitted lie from those that it was trained on."""
    compare = parts_of(request).teaching.drift
    if compare is None:
        raise lacks("model to compare with", "Start it with one: chiasm serve COLLECTION --model MODEL")
    report = await parts_of(request).engine.read(compare)
    return json_answer({"sentence": report.sentence, "warnings": report.warnings})


@router.get("/v1/status", responses={200: {"model": schemas.StatusAnswer}}, tags=["server"])
async def status(request: Request) -> Response:
    """Describe the served collection."""
    parts = parts_of(request)
    teaching = parts.teaching
    ratings = {} if teaching.counts is None else await parts.engine.read(teaching.counts)
    offers = {
        "rates": teaching.rate,
        "labels": teaching.label,
        "teaches": teaching.add if teaching.learn else None,
        "learns": teaching.learn,
        "edits": teaching.remove,
    }
    answer = await parts.engine.status()
    return json_answer({**answer, "ratings": ratings, **{name: part is not None for name, part in offers.items()}})


@router.get("/healthz", responses={200: {"model": schemas.Health}}, tags=["server"])
async def healthz() -> Response:
    """Report that the process is alive."""
    return json_answer({"status": "ok"})


@router.get(
    "/readyz",
    responses={200: {"model": schemas.Health}, 503: {"model": schemas.Health, "description": "Not yet."}},
    tags=["server"],
)
async def readyz(request: Request) -> Response:
    """Report whether the warm-up is done."""
    if request.app.state.shelf.is_ready:
        return json_answer({"status": "ok"})
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
    return Response(request.app.state.shared.metrics.text(), media_type="text/plain; version=0.0.4")


async def _store(
    request: Request,
    take: StoreRatings | StoreLabels | None,
    model: type[schemas.FeedbackRequest | schemas.LabelsRequest],
    what: str,
) -> Response:
    """Store the entries of one sender."""
    parts = parts_of(request)
    if take is None:
        raise lacks(f"place for {what}", "It was started to be read from only")
    store: Callable[..., int] = take
    body = await read_json(request, model, parts.settings)
    return json_answer({"stored": await parts.engine.read(partial(store, body.entries, who=visit_of(request).who))})
