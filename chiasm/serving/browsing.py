"""Routes that show what is in a collection: items in order, their files and previews, counts, the map."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi import Query as FromQuery
from starlette.responses import Response

from chiasm.serving import schemas
from chiasm.serving.engine import Engine
from chiasm.serving.files import file_answer
from chiasm.serving.parts import PAGE, ItemId, Parts, json_answer, lacks, lines, parts_of, streams, wants_lines
from chiasm.serving.previews import preview_answer
from chiasm.serving.problems import Problem
from chiasm.types import Modality

router = APIRouter()


@router.get("/v1/items", responses=streams("item", schemas.ItemsAnswer), tags=["items"])
async def items(request: Request, query: Annotated[schemas.ItemsQuery, FromQuery()]) -> Response:
    """List items, by default in the order of their ids. With `Accept: application/x-ndjson`: all of them, a line each."""
    parts = parts_of(request)
    engine = parts.engine
    if query.ids:
        if query.model_fields_set != {"ids"}:
            raise Problem(422, "invalid", "ids: stand alone, without conditions, order or pages")
        shown = await engine.items(query.ids)
        return json_answer({"items": shown, "total": len(shown), "next": None})
    every = await engine.read(partial(ids_of, parts, where=query.where, sort=query.sort, within=query.within))
    page = partial(parts.catalogue.page, is_by_id=query.sort in (None, "id"))
    after = _id_of(query.after)
    if wants_lines(request):
        chosen = await engine.read(page, every, after, len(every))
        return lines(_more_items(engine, chosen[PAGE:]), await engine.items(chosen[:PAGE]), request)
    chosen = await engine.read(page, every, after, query.limit + 1)
    following = _cursor_of(chosen[query.limit - 1]) if len(chosen) > query.limit else None
    return json_answer({"items": await engine.items(chosen[: query.limit]), "total": len(every), "next": following})


def ids_of(parts: Parts, *, where: str | None, sort: str | None = None, within: str | None) -> list[str]:
    """Return the ids of items in order, by conditions and within a list. May block.

    Raises:
        ChiasmError: there is no such column or list, or `where` is no condition.
    """
    chosen = None if within is None else parts.lists.ids(within)
    return parts.catalogue.ids(where=where, sort=sort, within=chosen)


async def _more_items(engine: Engine, ids: Sequence[str]) -> AsyncIterator[Mapping[str, Any]]:
    for start in range(0, len(ids), PAGE):
        for one in await engine.items(ids[start : start + PAGE]):
            yield one


@router.get("/v1/ids", responses={200: {"model": schemas.IdsAnswer}}, tags=["items"])
async def ids(request: Request, query: Annotated[schemas.IdsQuery, FromQuery()]) -> Response:
    """Name items in order, up to 100,000 of them, without what they hold."""
    parts = parts_of(request)
    every = await parts.engine.read(partial(ids_of, parts, **query.model_dump()))
    return json_answer({"ids": every[: schemas.MOST_IDS], "total": len(every)})


@router.get("/v1/facets", responses={200: {"model": schemas.FacetsAnswer}}, tags=["items"])
async def facets(request: Request, query: Annotated[schemas.FacetsQuery, FromQuery()]) -> Response:
    """Count items by modality and by the values of their columns."""
    parts = parts_of(request)

    def count() -> dict[str, Any]:
        chosen = None if query.within is None else parts.lists.ids(query.within)
        return parts.catalogue.facets(where=query.where, columns=query.column, within=chosen)

    return json_answer(await parts.engine.read(count))


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
    request: Request,
    item: ItemId,
    modality: Modality,
    number: Annotated[int, Path(ge=0, le=10**6)],
    query: Annotated[schemas.FileQuery, FromQuery()],
) -> Response:
    """Return a file of an item, or with `size` a picture of it, by its position among the item's files of that modality."""
    parts = parts_of(request)
    own = await parts.engine.file_of(item, modality, number)
    if query.size is None:
        return await parts.engine.read(file_answer, own, modality, request)
    return await parts.engine.read(preview_answer, own, query.size, query.v, request, parts.settings)


@router.get("/v1/items/{item:path}/moments", responses={200: {"model": schemas.MomentsAnswer}}, tags=["items"])
async def item_moments(request: Request, item: ItemId) -> Response:
    """Return the moments of an item's recordings and the passages of its texts, with what is said in them."""
    await item_of(request, item)
    return json_answer({"moments": await parts_of(request).engine.moments(item)})


@router.get("/v1/items/{item:path}", responses={200: {"model": schemas.Item}}, tags=["items"])
async def item(request: Request, item: ItemId) -> Response:
    """Return one item."""
    return json_answer(await item_of(request, item))


async def item_of(request: Request, item: str) -> dict[str, Any]:
    """Return one item, see `schemas.Item`.

    Raises:
        Problem: 404, there is none of this id.
    """
    row = await parts_of(request).engine.item(item)
    if row is None:
        raise Problem(404, "item", "there is no item of this id; /v1/items lists those that there are")
    return row


@router.get("/v1/map", responses={200: {"model": schemas.MapAnswer}}, tags=["items"])
async def map_items(request: Request, query: Annotated[schemas.MapQuery, FromQuery()]) -> Response:
    """Project the embeddings of one modality to the plane."""
    parts = parts_of(request)
    if parts.mapper is None:
        raise lacks("map", "Serve a collection with chiasm serve")
    return json_answer(await parts.engine.read(parts.mapper.draw, query.modality, query.column, query.layout))


@router.get("/v1/outcomes", responses={200: {"model": schemas.OutcomesAnswer}}, tags=["items"])
async def outcomes(request: Request) -> Response:
    """List the files that could not be used, with reasons."""
    return json_answer(await parts_of(request).engine.outcomes(schemas.MOST_OUTCOMES))


def _cursor_of(item: str) -> str:
    return base64.urlsafe_b64encode(item.encode()).decode().rstrip("=")


def _id_of(cursor: str | None) -> str | None:
    if cursor is None:
        return None
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Problem(422, "invalid", "after: has to be what `next` of the last page said") from error
