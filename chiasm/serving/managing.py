"""Routes for what people do with whole collections: make them, have them learn beside the server, choose a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from chiasm.serving import manage_schemas
from chiasm.serving.bodies import read_json
from chiasm.serving.jobs import Job, Jobs
from chiasm.serving.parts import Parts, json_answer, json_body, lacks, parts_of
from chiasm.serving.problems import Problem
from chiasm.serving.shelf import Shelf
from chiasm.verbs.model import MODELS

router = APIRouter(tags=["manage"])


@router.get("/v1/collections", responses={200: {"model": manage_schemas.CollectionsAnswer}})
async def collections(request: Request) -> Response:
    """Name the collections of the server. Every route is there for each of them, behind its address."""
    shelf = request.app.state.shelf
    names = await asyncio.to_thread(shelf.names)
    return json_answer({"collections": list(map(_entry, names)), "makes": shelf.create is not None})


@router.post(
    "/v1/collections",
    responses={200: {"model": manage_schemas.CollectionEntry}},
    openapi_extra=json_body(manage_schemas.CollectionRequest),
)
async def make_collection(request: Request) -> Response:
    """Make an empty collection."""
    shelf = request.app.state.shelf
    if shelf.create is None:
        raise lacks("folder for new collections", "Start it with one: chiasm serve --collections FOLDER --edit")
    body = await read_json(request, manage_schemas.CollectionRequest, request.app.state.shared.settings)
    await asyncio.to_thread(shelf.create, body.name)
    return json_answer(_entry(body.name))


def _entry(name: str) -> dict[str, str]:
    return {"name": name, "address": f"/c/{quote(name, safe='')}"}


@router.get("/v1/models", responses={200: {"model": manage_schemas.ModelsAnswer}})
async def models(request: Request) -> Response:
    """Name the models of the collection."""
    return json_answer(await _models(parts_of(request)))


@router.post(
    "/v1/models",
    responses={200: {"model": manage_schemas.ModelsAnswer}},
    openapi_extra=json_body(manage_schemas.ModelRequest),
)
async def use_model(request: Request) -> Response:
    """Have another model of the collection recognise from now on."""
    parts = parts_of(request)
    _jobs_of(parts)
    assert parts.models is not None  # where jobs are run there always are
    body = await read_json(request, manage_schemas.ModelRequest, parts.settings)
    await parts.engine.read(parts.models.use, body.name)
    return json_answer(await _models(parts))


async def _models(parts: Parts) -> dict[str, Any]:
    if parts.models is None:
        return {"models": [], "current": None}
    return {"models": await parts.engine.read(parts.models.names), "current": parts.models.current}


@router.get("/v1/jobs", responses={200: {"model": manage_schemas.JobsAnswer}})
async def jobs(request: Request) -> Response:
    """List what was run since the server was started, of all collections, the newest first."""
    return json_answer({"jobs": [job.as_dict() for job in _jobs_of(parts_of(request)).all()]})


@router.post(
    "/v1/jobs", responses={200: {"model": manage_schemas.JobAnswer}}, openapi_extra=json_body(manage_schemas.JobRequest)
)
async def start_job(request: Request) -> Response:
    """Start `align` or `fit` on the collection, beside the server; one at a time. Its state is asked for by its id."""
    parts = parts_of(request)
    runner = _jobs_of(parts)
    body = await read_json(request, manage_schemas.JobRequest, parts.settings)
    if (body.kind == "fit") != (body.label is not None) or (body.kind == "align" and body.model is not None):
        raise Problem(422, "invalid", "label: fit needs the column to learn, and align takes neither label nor model")
    folder = parts.engine.folder
    job = Job(body.kind, parts.name, None)
    arguments = [body.kind, str(folder)]
    if body.label is not None:
        columns = (await parts.engine.status())["columns"]
        if body.label not in columns or "," in body.label:
            raise Problem(
                422, "label", f"there is no column {body.label!r} to learn. Columns: {', '.join(columns) or 'none'}"
            )
        job.model = body.model or _name_of(body.label)
        for name in (MODELS, "reports"):
            await asyncio.to_thread((folder / name).mkdir, exist_ok=True)
        report = folder / "reports" / f"{job.model}.html"
        arguments += [f"--label={body.label}", f"--out={folder / MODELS / job.model}", f"--report={report}"]
    runner.start(job, arguments, sum_up=_summary_of(job, request.app.state.shelf), plain=parts.engine.without_paths)
    return json_answer(job.as_dict())


@router.get("/v1/jobs/{job}", responses={200: {"model": manage_schemas.JobAnswer}})
async def one_job(request: Request, job: str) -> Response:
    """Say how far a job is, and what came of it."""
    return json_answer(_jobs_of(parts_of(request)).get(job).as_dict())


@router.delete("/v1/jobs/{job}", responses={200: {"model": manage_schemas.JobAnswer}})
async def cancel_job(request: Request, job: str) -> Response:
    """Stop a job. What was there before stays."""
    return json_answer(_jobs_of(parts_of(request)).cancel(job).as_dict())


def _jobs_of(parts: Parts) -> Jobs:
    if parts.shared.jobs is None:
        raise lacks("permission to learn", "Start it with it, in one process: chiasm serve COLLECTION --edit")
    return parts.shared.jobs


def _name_of(column: str) -> str:
    """Return a name of a folder that is like that of a column."""
    return "".join(letter if letter.isalnum() else "-" for letter in column).strip("-")[:64] or "model"


def _summary_of(job: Job, shelf: Shelf) -> Callable[[Mapping[str, Any]], dict[str, str | None]]:
    """Return what makes of the JSON of a job what is told of it; a model that recognises and was fitted anew is read again.

    The collection may have been closed, or opened again, since the job began.
    """
    from chiasm.report.summary import recognition_summary, search_summary

    def sum_up(document: Mapping[str, Any]) -> dict[str, str | None]:
        if job.model is not None:
            parts = shelf.open_as(job.collection)
            if parts is not None and parts.models is not None and parts.models.current == job.model:
                parts.models.use(job.model)
            return {"sentence": recognition_summary(document["metrics"]).sentence, "before": None}
        return {
            name: search_summary(document[of]).sentence for name, of in (("sentence", "after"), ("before", "before"))
        }

    return sum_up
