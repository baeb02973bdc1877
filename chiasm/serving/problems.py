"""Turn errors into HTTP answers: problem details for people and programs (RFC 9457).

An error of chiasm (`chiasm.errors`) is the request's fault and says what to do; anything else is the server's, and says
no more than the id under which the log has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.responses import Response

from chiasm.errors import ChiasmError, EncoderError, MediaError, MissingExtraError
from chiasm.types import Outcome

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS = 20
_OF_OUTCOME = {Outcome.TOO_LARGE: 413, Outcome.UNSUPPORTED: 415}


class Problem(Exception):  # noqa: N818  # the word of RFC 9457, and no error of ours
    """Refuse a request with a reason.

    Args:
        status: HTTP status.
        kind: what programs tell it by; the last part of `type`.
        detail: what came, what was expected, what to do.
        headers: to be sent with it, e.g. Retry-After.
        errors: where in the body it was wrong, and what.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = list(errors)

    def as_dict(self, request_id: str) -> dict[str, Any]:
        """Return the members of the answer."""
        return {
            "type": f"urn:chiasm:problem:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
            **({"errors": self.errors} if self.errors else {}),
        }

    def response(self, request_id: str) -> Response:
        """Return the answer."""
        return Response(
            to_json(self.as_dict(request_id)), status_code=self.status, media_type=MEDIA_TYPE, headers=self.headers
        )


def busy(what: str, seconds: float) -> Problem:
    """Return 429: try again in so many seconds."""
    wait = max(1, round(seconds + 0.5))
    return Problem(429, "busy", f"{what}. Try again in {wait} s", headers={"Retry-After": str(wait)})


def disk_full(what: str) -> Problem:
    """Return 507: nothing can be stored."""
    return Problem(507, "disk-full", f"{what}. What was stored is safe. Free space on the server, and send it again")


def unexpected(request_id: str) -> Problem:
    """Return 500, without any detail of what happened inside."""
    return Problem(500, "internal", f"the server failed. Its log has the reason under the request id {request_id}")


def of_error(error: ChiasmError) -> Problem:
    """Return the problem for one of our own errors."""
    if isinstance(error, (EncoderError, MissingExtraError)):
        return Problem(
            503, "encoder", "an encoder or a library that this needs cannot run on the server. Its log has the reason"
        )
    status = _OF_OUTCOME.get(error.outcome, 422) if isinstance(error, MediaError) else 422
    name = type(error).__name__.removesuffix("Error").lower() or "request"
    return Problem(status, "request" if name == "chiasm" else name, str(error))


def of_validation(error: ValidationError) -> Problem:
    """Return the problem for input that does not fit the schema, without repeating the input: it may be long, or private."""
    found = [
        {"at": ".".join(str(part) for part in one["loc"]) or "body", "problem": one["msg"]}
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    more = f" (and {len(found) - 1} more, see errors)" if len(found) > 1 else ""
    first = found[0]
    return Problem(422, "invalid", f"{first['at']}: {first['problem']}{more}", errors=found[:_MOST_ERRORS])
