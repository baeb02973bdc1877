"""Serve the page for people: static files over the REST API, and the newest report of the collection.

All that the page shows it asks of the API, under the same keys and limits as any program.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from chiasm.files import digest_text
from chiasm.serving.problems import Problem
from chiasm.serving.reference import reference_page

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: nothing from elsewhere, and no script or style but its own files."""

_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


def is_page(path: str) -> bool:
    """Return whether a path belongs to the page itself, not to the API."""
    return path in {"/", "/docs", "/favicon.ico", "/report"} or path.startswith("/static/")


@cache
def _assets() -> dict[str, tuple[str, str]]:
    """Return the text and the digest of each static file by name."""
    texts = {file.name: file.read_text(encoding="utf-8") for file in (files("chiasm.serving") / "static").iterdir()}
    return {name: (text, digest_text(text)) for name, text in texts.items()}


def _asset(name: str, request: Request) -> Response:
    if name not in _assets():
        raise Problem(404, "request", "the page has no such part")
    text, digest = _assets()[name]
    headers = {"ETag": f'"{digest}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(text, headers=headers, media_type=_TYPES[Path(name).suffix])


@router.get("/")
async def index(request: Request) -> Response:
    """Return the page."""
    return _asset("index.html", request)


@router.get("/docs")
async def reference(request: Request) -> Response:
    """Return the reference of the API; nothing of it comes from elsewhere."""
    return Response(reference_page(request.app.openapi()), media_type="text/html")


@router.get("/favicon.ico")
async def icon(request: Request) -> Response:
    """Return the page's icon."""
    return _asset("icon.svg", request)


@router.get("/static/{name}")
async def static(name: str, request: Request) -> Response:
    """Return a part of the page."""
    return _asset(name, request)


@router.api_route("/report", methods=["GET", "HEAD"])
async def report(request: Request) -> Response:
    """Return the newest report of the collection, to be shown in a frame of its own, without scripts."""
    newest = newest_report(request.scope["state"]["parts"].engine.folder)
    if newest is None:
        raise Problem(
            404, "file", "there is no report; chiasm evaluate COLLECTION --report COLLECTION/reports/NAME.html"
        )
    headers = {
        "Content-Security-Policy": _REPORT_POLICY,
        "X-Frame-Options": "SAMEORIGIN",
        "Cache-Control": "private, no-cache",
    }
    return FileResponse(newest, media_type="text/html; charset=utf-8", headers=headers)


def newest_report(folder: Path) -> Path | None:
    """Return the report that was written last into a collection's folder `reports`; None if there is none."""
    reports = [
        (path.stat().st_mtime_ns, path)
        for path in (folder / "reports").glob("*.html")
        if path.is_file() and not path.is_symlink()
    ]
    return max(reports)[1] if reports else None
