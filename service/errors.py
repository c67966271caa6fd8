"""What can go wrong with a request, and what the client is told.

    ServiceError              500
    ├── BadRequest            400  not JSON, not UTF-8, no body
    ├── ClientGone            400  left before body or answer was complete; metrics and log see it
    ├── TooSlow               408  the body did not come in time
    ├── TooLarge              413  more bytes than the limit
    ├── Invalid               422  JSON, but not what the operation takes
    ├── QueueFull             429  more recalls wait than the limit; Retry-After
    ├── NotReady              503  starting, or draining; Retry-After
    ├── StoreFailed           503  an event could not be stored; Retry-After
    └── DeadlinePassed        504  the recall waited too long

Every error is one shape, a problem document (RFC 9457). It never repeats the input.
"""

from http import HTTPStatus
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

PROBLEM_TYPE = "application/problem+json"
SHOWN = 10  # things wrong with a body that are told one by one
COUNTED = 1000  # above that many, a body is not worth the time to tell them apart


class ServiceError(Exception):
    """An error that has an answer of its own."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    retry_after: int | None = None
    """Seconds after which another try makes sense."""

    def __init__(self, detail: str, problems: list["FieldProblem"] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = problems or []


class BadRequest(ServiceError):
    """The body is not what any operation could read."""

    status = HTTPStatus.BAD_REQUEST


class ClientGone(ServiceError):
    """The client left before its body, or the answer, was complete."""

    status = HTTPStatus.BAD_REQUEST


class TooSlow(ServiceError):
    """The body did not come in time."""

    status = HTTPStatus.REQUEST_TIMEOUT


class TooLarge(ServiceError):
    """The body has more bytes than the limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class Invalid(ServiceError):
    """The body is JSON, but not what the operation takes."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY


class QueueFull(ServiceError):
    """Too many recalls wait already."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    retry_after = 1


class NotReady(ServiceError):
    """The service is starting or draining, or lacks its store."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 1


class StoreFailed(ServiceError):
    """An event could not be stored; nothing was acknowledged."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after = 1


class DeadlinePassed(ServiceError):
    """The recall waited longer than the deadline."""

    status = HTTPStatus.GATEWAY_TIMEOUT


class FieldProblem(BaseModel):
    """One thing that is wrong with the body."""

    where: str = Field(description="path of the field", examples=["k", "events.0.item_id"])
    problem: str = Field(description="what is wrong with it")


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field("about:blank", description="kind of problem")
    title: str = Field(description="the status in words")
    status: int
    detail: str = Field(description="what went wrong, and what to do")
    request_id: str
    errors: list[FieldProblem] = Field([], description="field by field, for 422")


def problem_response(
    status: int,
    detail: str,
    request_id: str,
    problems: list[FieldProblem] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """A problem document as a response."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=request_id,
        errors=problems or [],
    )
    content = problem.model_dump(exclude=None if problems else {"errors"})
    return JSONResponse(content, status, headers=headers, media_type=PROBLEM_TYPE)


def service_error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """The answer to a `ServiceError`."""
    headers = {"retry-after": str(error.retry_after)} if error.retry_after else None
    return problem_response(error.status, error.detail, request_id, error.problems, headers)


def invalid(error: ValidationError) -> ServiceError:
    """What pydantic found wrong, as an error of ours, without the input."""
    if error.error_count() > COUNTED:
        return Invalid(f"{error.error_count()} things to correct: /docs describes the body")
    found = error.errors(include_url=False, include_context=False, include_input=False)
    for problem in found:
        if problem["type"] == "json_invalid":
            return BadRequest(f"the body is not JSON: {problem['msg']}")
    problems = [FieldProblem(where=_path(p["loc"]), problem=p["msg"]) for p in found[:SHOWN]]
    detail = f"{len(found)} thing(s) to correct: " + "; ".join(
        f"{p.where}: {p.problem}" for p in problems[:3]
    )
    return Invalid(detail, problems)


def _path(location: tuple[int | str, ...]) -> str:
    """Where in the body. The name of an unknown field is the client's own: only its beginning."""
    return ".".join(str(step)[:40] for step in location) or "body"


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors of an operation, for the OpenAPI document."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
