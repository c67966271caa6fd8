"""Errors as problem documents (RFC 9457), the one shape that every error of the API has.

A problem document never repeats the input.
"""

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from service.errors import (
    BadRequest,
    ClientGone,
    DeadlinePassed,
    FieldError,
    HistoryUnusable,
    Invalid,
    NotReady,
    QueueFull,
    ServiceError,
    StoreConflict,
    StoreFailed,
    TooLarge,
    TooSlow,
    UnknownItem,
    UnsupportedEncoding,
    VersionRefused,
)

PROBLEM_TYPE = "application/problem+json"
MAX_LISTED = 10
"""Field errors that one answer lists."""
UNION_MEMBER = re.compile(r"bool|int|float|str|date|datetime|[A-Z]\w*|(literal|list|function-).*")
"""Steps of pydantic's paths that are no fields, but types among which a value may choose."""
MAX_COUNTED = 1000
"""Field errors above which a body is refused without telling them apart, which takes time."""


class ErrorAnswer(NamedTuple):
    """The answer to a kind of error."""

    status: HTTPStatus
    retry_after: int | None = None
    """Seconds after which another try makes sense."""


ANSWERS: dict[type[ServiceError], ErrorAnswer] = {
    ServiceError: ErrorAnswer(HTTPStatus.INTERNAL_SERVER_ERROR),
    BadRequest: ErrorAnswer(HTTPStatus.BAD_REQUEST),
    ClientGone: ErrorAnswer(HTTPStatus.BAD_REQUEST),  # seen by the log and the metrics only
    TooSlow: ErrorAnswer(HTTPStatus.REQUEST_TIMEOUT),
    TooLarge: ErrorAnswer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    UnsupportedEncoding: ErrorAnswer(HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    Invalid: ErrorAnswer(HTTPStatus.UNPROCESSABLE_ENTITY),
    QueueFull: ErrorAnswer(HTTPStatus.TOO_MANY_REQUESTS, retry_after=1),
    NotReady: ErrorAnswer(HTTPStatus.SERVICE_UNAVAILABLE, retry_after=1),
    StoreFailed: ErrorAnswer(HTTPStatus.SERVICE_UNAVAILABLE, retry_after=1),
    UnknownItem: ErrorAnswer(HTTPStatus.NOT_FOUND),
    HistoryUnusable: ErrorAnswer(HTTPStatus.CONFLICT),
    StoreConflict: ErrorAnswer(HTTPStatus.CONFLICT),
    VersionRefused: ErrorAnswer(HTTPStatus.CONFLICT),
    DeadlinePassed: ErrorAnswer(HTTPStatus.GATEWAY_TIMEOUT),
}


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
    errors: list[FieldProblem] = Field([], description="the problems field by field")


def problem_response(
    status: int,
    detail: str,
    request_id: str,
    fields: Sequence[FieldError] = (),
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Returns a response that holds a problem document."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=request_id,
        errors=[FieldProblem(**field._asdict()) for field in fields],
    )
    content = problem.model_dump(exclude=None if fields else {"errors"})
    return JSONResponse(content, status, headers=headers, media_type=PROBLEM_TYPE)


def prepared_problem(status: int, detail: str, retry_after: int) -> Callable[[str, bool], bytes]:
    """Returns a function that writes a whole answer with a problem document.

    It takes the request's id and whether the connection is closed behind it, and costs a
    twentieth of `problem_response`.
    """
    template = problem_response(status, detail, "%b", headers={"retry-after": str(retry_after)})
    begin, end = bytes(template.body).split(b"%b")
    size = len(begin) + len(end)
    phrase = HTTPStatus(status).phrase.encode()
    head = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\nretry-after: %d\r\n" % (
        *(status, phrase, PROBLEM_TYPE.encode(), retry_after),
    )

    def write(request_id: str, close: bool) -> bytes:
        name = request_id.encode()
        return b"%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n%b%b%b" % (
            *(head, b"connection: close\r\n" if close else b"", name),
            *(size + len(name), begin, name, end),
        )

    return write


def service_error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """Returns the answer to a `ServiceError`."""
    status, retry_after = ANSWERS[type(error)]
    headers = {"retry-after": str(retry_after)} if retry_after else None
    return problem_response(status, error.detail, request_id, error.fields, headers)


def validation_error(error: ValidationError) -> ServiceError:
    """Returns pydantic's findings as an error of the service, without the input."""
    if error.error_count() > MAX_COUNTED:
        return Invalid(f"{error.error_count()} problems: /docs describes the body")
    found = error.errors(include_url=False, include_context=False, include_input=False)
    for problem in found:
        if problem["type"] == "json_invalid":
            return BadRequest(f"the body is not JSON: {problem['msg']}")
    words: dict[str, list[str]] = {}
    for problem in found:
        words.setdefault(_path(problem), []).append(problem["msg"])
    fields = [FieldError(where, "; or: ".join(ways)) for where, ways in words.items()]
    first = "; ".join(f"{field.where}: {field.problem}" for field in fields[:3])
    count = "1 problem" if len(fields) == 1 else f"{len(fields)} problems"
    return Invalid(f"{count}: {first}", fields[:MAX_LISTED])


def _path(problem: ErrorDetails) -> str:
    """Returns the path of a field, without the types that a value of several types may have.

    The name of an unknown field is input: only its beginning.
    """
    *above, last = problem["loc"] or ("body",)
    steps = [step for step in above if not UNION_MEMBER.fullmatch(str(step))]
    if problem["type"] == "extra_forbidden" or not UNION_MEMBER.fullmatch(str(last)):
        steps.append(last)
    return ".".join(str(step)[:40] for step in steps)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Returns the errors of an operation for the OpenAPI document."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
