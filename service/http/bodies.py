"""Bodies of requests, read in one pass from bytes to checked fields, and answers in JSON."""

import asyncio
from functools import cache
from typing import TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.errors import ClientGone, Invalid, TooLarge, TooSlow, UnsupportedEncoding
from service.http.problems import validation_error

BODY_SECONDS = 10.0
"""Time within which a whole body must arrive."""

LARGE_BYTES = 64 << 10
"""Size of a body from which on its unknown fields are counted before it is checked."""
MAX_UNKNOWN = 5000

B = TypeVar("B", bound=BaseModel)


async def read_body(request: Request, kind: type[B], limit: int) -> B:
    """Reads and checks a body of at most `limit` bytes.

    Raises a ServiceError that says what is wrong.
    """
    _check_head(request, limit)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await _read(request, limit)
    except ClientDisconnect:
        raise ClientGone("the body ended too early: send all of it") from None
    except TimeoutError:
        raise TooSlow(f"the body did not arrive within {BODY_SECONDS:g} s") from None
    if len(body) > LARGE_BYTES and body.count(b":") > MAX_UNKNOWN:
        _check_unknown(body, kind)
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise validation_error(error) from None


async def _read(request: Request, limit: int) -> bytearray:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return body


def _check_unknown(body: bytearray, kind: type[BaseModel]) -> None:
    """Raises Invalid if a body has very many fields that no body of its kind has.

    Pydantic would find each of them, and hold up all other requests for more than a second.
    """
    try:
        values = [from_json(body)]
    except ValueError:  # pydantic says in which line
        return
    known, unknown = _field_names(kind), 0
    for value in values:  # which grows
        if isinstance(value, dict):
            unknown += len(value.keys() - known)
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(one for one in value if isinstance(one, dict | list))
        if unknown > MAX_UNKNOWN:
            raise Invalid(f"more than {MAX_UNKNOWN} unknown fields: /docs describes the body")


@cache
def _field_names(kind: type[BaseModel]) -> frozenset[str]:
    """Returns the names of the fields of a kind of body and of all objects in it."""
    schema = kind.model_json_schema()
    objects = [schema, *schema.get("$defs", {}).values()]
    return frozenset[str]().union(*(one.get("properties", {}) for one in objects))


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body has more than {limit} bytes: send less at once")


def json_response(
    body: bytes, headers: dict[str, str] | None = None, status: int = 200
) -> Response:
    """Returns an answer whose body is JSON already."""
    return Response(body, status, headers, media_type="application/json")


def _check_head(request: Request, limit: int) -> None:
    """Raises UnsupportedEncoding for a compressed body, TooLarge for one that says its size."""
    for name, value in request.scope["headers"]:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedEncoding("the body has a Content-Encoding: send it uncompressed")
        if name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            raise UnsupportedEncoding("the body has a Transfer-Encoding other than chunked")
        if name == b"content-length" and int(value) > limit:
            raise _too_large(limit)
