"""Routes for what people do with items that they chose: lists, exports, removal; and files that they search with."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi import Query as FromQuery
from starlette.responses import Response, StreamingResponse

from chiasm.serving import schemas
from chiasm.serving.bodies import read_json, read_upload
from chiasm.serving.browsing import ids_of
from chiasm.serving.export import archive, table_of
from chiasm.serving.parts import Parts, json_answer, json_body, lacks, parts_of
from chiasm.serving.previews import make_preview
from chiasm.serving.problems import Problem
from chiasm.verbs.export import csv_bytes, parquet_bytes

router = APIRouter()
_EXPORTS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet", "zip": "application/zip"}


@router.get("/v1/lists", responses={200: {"model": schemas.ListsAnswer}}, tags=["lists"])
async def lists(request: Request) -> Response:
    """Name the lists, with the number of their items."""
    parts = parts_of(request)
    return json_answer({"lists": await parts.engine.read(parts.lists.counts)})


@router.get("/v1/list", responses={200: {"model": schemas.ListAnswer}}, tags=["lists"])
async def one_list(request: Request, query: Annotated[schemas.ListQuery, FromQuery()]) -> Response:
    """Return the ids of a list."""
    parts = parts_of(request)
    return json_answer({"name": query.name, "ids": await parts.engine.read(parts.lists.ids, query.name)})


@router.post(
    "/v1/list",
    responses={200: {"model": schemas.ListSize}},
    openapi_extra=json_body(schemas.ListChange),
    tags=["lists"],
)
async def change_list(request: Request) -> Response:
    """Add items to a list, which is made where there is none, and take others out."""
    parts = parts_of(request)
    body = await read_json(request, schemas.ListChange, parts.settings)
    change = partial(parts.lists.change, body.name, add=body.add, remove=body.remove)
    return json_answer({"name": body.name, "size": await parts.engine.read(change)})


@router.delete("/v1/list", responses={200: {"model": schemas.Removed}}, tags=["lists"])
async def delete_list(request: Request, query: Annotated[schemas.ListQuery, FromQuery()]) -> Response:
    """Delete a list, not its items."""
    parts = parts_of(request)
    return json_answer({"removed": int(await parts.engine.read(parts.lists.delete, query.name))})


@router.post(
    "/v1/export",
    responses={
        200: {
            "description": "The export.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _EXPORTS.values()},
        }
    },
    openapi_extra=json_body(schemas.ExportRequest),
    tags=["items"],
)
async def export(request: Request) -> Response:
    """Return items as a table, CSV or Parquet, or their files as a ZIP archive."""
    parts = parts_of(request)
    body = await read_json(request, schemas.ExportRequest, parts.settings)
    ids = await _chosen(parts, body)
    headers = {"Content-Disposition": f'attachment; filename="items.{body.format}"'}
    if body.format == "zip":
        return StreamingResponse(archive(parts.engine.open_files(ids)), headers=headers, media_type=_EXPORTS["zip"])
    items = await parts.engine.items(ids)
    write = csv_bytes if body.format == "csv" else parquet_bytes
    written = await parts.engine.read(lambda: write(table_of(items)))
    return Response(written, headers=headers, media_type=_EXPORTS[body.format])


async def _chosen(parts: Parts, body: schemas.ExportRequest) -> list[str]:
    if body.ids:
        if body.where is not None or body.within is not None:
            raise Problem(422, "invalid", "ids: stand alone, without conditions")
        return [*body.ids]
    ids = await parts.engine.read(partial(ids_of, parts, where=body.where, within=body.within))
    if len(ids) > schemas.MOST_CHOSEN:
        raise Problem(
            422,
            "invalid",
            f"an export holds at most {schemas.MOST_CHOSEN:,} items; these are {len(ids):,}. Choose fewer, or read all of "
            "them as lines: /v1/items with Accept: application/x-ndjson",
        )
    return ids


@router.post(
    "/v1/remove",
    responses={200: {"model": schemas.Removed}},
    openapi_extra=json_body(schemas.Removal),
    tags=["items"],
)
async def remove(request: Request) -> Response:
    """Remove items from the collection, with their vectors; their files stay."""
    parts = parts_of(request)
    remove, forget = parts.teaching.remove, parts.teaching.forget
    if remove is None or forget is None:
        raise lacks("permission to remove items", "Start it with it: chiasm serve COLLECTION --edit")
    body = await read_json(request, schemas.Removal, parts.settings)
    if not body.forget:
        return json_answer({"removed": await parts.engine.read(remove, body.ids)})
    gone = await parts.engine.read(forget, body.ids)
    models = {Path(folder).name: count for folder, count in gone.models.items()}
    return json_answer({"removed": len(gone.items), "spaces": list(gone.spaces), "models": models})


@router.post(
    "/v1/uploads",
    responses={200: {"model": schemas.Uploaded}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": {"$ref": "#/components/schemas/UploadRequest"}}},
        }
    },
    tags=["search"],
)
async def upload(request: Request) -> Response:
    """Keep a file to search with for a while, so that a search can be named by an address."""
    parts = parts_of(request)
    async with read_upload(request) as form:
        (sent,) = form.files
        name = await parts.engine.read(parts.uploads.add, sent.write, sent.suffix)
    return json_answer({"upload": name})


@router.get(
    "/v1/uploads/{name}",
    responses={200: {"description": "The picture.", "content": {"image/webp": {"schema": {"type": "string"}}}}},
    tags=["search"],
)
async def upload_preview(request: Request, name: str, query: Annotated[schemas.UploadQuery, FromQuery()]) -> Response:
    """Return a picture of a file to search with."""
    parts = parts_of(request)
    make = partial(make_preview, parts.uploads.path(name), query.size, limits=parts.settings.uploads)
    return Response(await parts.engine.read(make), media_type="image/webp")
